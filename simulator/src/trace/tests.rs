use proptest::prelude::*;

use super::*;

const AROUND_THE_BLOCK: &str = include_str!("../../../tests/data/openxc-around-the-block-1hz.jsonl");

fn parse(text: &str) -> Result<Trace, TraceError> {
    Trace::parse(text, Format::Auto, FuelScale::Auto)
}

fn values(trace: &Trace, name: &str) -> Vec<(i64, SignalValue)> {
    trace
        .messages
        .iter()
        .filter_map(|message| match &message.what {
            What::Signals(signals) => signals
                .iter()
                .find(|(known, _)| known.as_str() == name)
                .map(|(_, value)| (message.at_ms, value.clone())),
            What::Fact(_) => None,
        })
        .collect()
}

#[test]
fn the_drive_around_the_block_is_read_with_its_units_and_its_defects() {
    let trace = parse(AROUND_THE_BLOCK).unwrap();
    assert_eq!((trace.format, trace.has_wall_time), (Format::OpenxcState, false));
    assert_eq!(trace.positions().count(), 98);
    let levels = values(&trace, path::FUEL_PERCENT);
    assert!(levels.iter().all(|(_, level)| level.as_number().is_some_and(|level| (75.0..85.0).contains(&level))));
    // The odometer's 0 is the recording's, and goes on as it is.
    assert!(values(&trace, path::ODOMETER_KM).iter().all(|(_, km)| *km == SignalValue::Number(0.0)));
    // The ignition is first heard of in row 13.
    let ignition = values(&trace, path::LOW_VOLTAGE);
    assert_eq!(ignition.len(), 86);
    assert!(ignition[0].0 >= 12_000);
}

#[test]
fn the_two_messages_of_one_fix_become_one_report() {
    let trace = parse(
        r#"{"timestamp":1332794185.030236,"name":"latitude","value":42.293079}
{"timestamp":1332794185.030985,"name":"longitude","value":-83.237427}
{"timestamp":1332794185.039883,"name":"engine_speed","value":686.0}"#,
    )
    .unwrap();
    assert_eq!(trace.messages.len(), 2);
    assert_eq!(trace.messages[0].at_ms, 1_332_794_185_030);
    assert_eq!(trace.messages[0].position(), Some(Position { latitude: 42.293079, longitude: -83.237427 }));
}

#[test]
fn a_recording_of_changes_keeps_the_other_coordinate_and_a_stuck_longitude_stays_stuck() {
    let trace = parse(
        r#"{"seq":10,"name":"latitude","value":42.283482}
{"seq":11,"name":"longitude","value":-130.766571}
{"seq":238,"name":"fuel_level","value":45.2}
{"seq":900,"name":"latitude","value":42.283489}
{"seq":5163,"name":"door_status","value":"passenger","event":false}
{"seq":7673,"name":"door_status","value":"passenger","event":true}"#,
    )
    .unwrap();
    let places: Vec<_> = trace.positions().collect();
    assert_eq!(places[1], Position { latitude: 42.283489, longitude: -130.766571 });
    assert_eq!(values(&trace, path::FUEL_PERCENT), [(1_190, SignalValue::Number(45.2))]);
    let facts: Vec<_> = trace.messages.iter().filter(|message| matches!(message.what, What::Fact(_))).collect();
    assert_eq!(facts, [&Message::fact(38_365, FactKind::Door { name: "passenger".into(), open: true })]);
}

#[test]
fn a_trackers_three_times_stay_apart() {
    let trace = parse(
        r#"{"ts_ms":100000,"received_ms":190000,"event":"position","lat":1.0,"lon":2.0,"pos_ts_ms":16112,"total_distance":266226}
{"ts_ms":110000,"received_ms":120000,"event":"ign_off","lat":1.5,"lon":2.0,"pos_ts_ms":110000}
{"ts_ms":115000,"received_ms":null,"event":"position","lat":1.6,"lon":2.0,"pos_ts_ms":115000}"#,
    )
    .unwrap();
    let order: Vec<_> = trace.messages.iter().map(|message| (message.sent_ms, message.at_ms)).collect();
    // The second row arrived first; the third's arrival is not known.
    assert_eq!(
        order,
        [(120_000, 110_000), (120_000, 110_000), (120_000, 115_000), (190_000, 16_112), (190_000, 100_000)]
    );
    assert_eq!(values(&trace, path::ODOMETER_KM), [(100_000, SignalValue::Number(26_622.6))]);
    assert_eq!(trace.messages[1].what, What::Fact(FactKind::Ignition { on: false }));
}

#[test]
fn nulls_are_left_out() {
    let trace =
        parse(r#"{"time":"2020-03-25T16:31:52Z","lat":53.1,"lon":9.2,"speed_kmh":null,"heading":257.2}"#).unwrap();
    assert_eq!(values(&trace, path::SPEED_KMH), []);
    assert_eq!(trace.messages[0].at_ms, 1_585_153_912_000);
}

#[test]
fn an_error_names_the_line_and_the_field() {
    for (text, message) in [
        ("", "line 1: the recording is empty"),
        ("{\"x\":1}", "line 1: not a form of recording we know"),
        ("[1]", "line 1: not a JSON object"),
        (
            "{\"timestamp\":1,\"name\":\"vehicle_speed\",\"value\":1}\n\n{\"timestamp\":2,\"name\":\"vehicle_speed\",\"value\":\"x\"}",
            "line 3: value: not a number",
        ),
        (
            "{\"timestamp\":1e300,\"name\":\"vehicle_speed\",\"value\":1}",
            "line 1: timestamp: not a time in the years 0 to 9999",
        ),
        ("{\"ts_ms\":1.5}", "line 1: ts_ms: not a whole number"),
        ("{\"time\":\"x\",\"lat\":1,\"lon\":2}", "line 1: time: a time is RFC 3339, like 2026-11-21T22:36:46.000Z"),
        (
            "{\"seq\":1,\"name\":\"ignition_status\",\"value\":\"maybe\"}",
            "line 1: value: \"maybe\" is not a state of the ignition",
        ),
    ] {
        assert_eq!(parse(text).unwrap_err().to_string(), message, "{text}");
    }
    let broken = parse("{\"t\":1}\n{\"t\":").unwrap_err();
    assert_eq!(broken.line, 2);
}

/// Lines that are nearly right reach further into the readers than random bytes do.
fn nearly_a_line() -> impl Strategy<Value = String> {
    let field = prop::sample::select(vec![
        "timestamp",
        "seq",
        "t",
        "ts_ms",
        "received_ms",
        "pos_ts_ms",
        "time",
        "name",
        "value",
        "event",
        "lat",
        "lon",
        "door_open",
        "latitude",
        "fuel_level",
        "ignition_status",
        "speed_kmh",
        "total_distance",
    ]);
    let value = prop::sample::select(vec![
        "1",
        "-1",
        "1.5",
        "1e308",
        "-1e308",
        "9223372036854775807",
        "null",
        "true",
        "\"door_status\"",
        "\"latitude\"",
        "\"longitude\"",
        "\"driver\"",
        "\"run\"",
        "\"2020-03-25T16:31:52Z\"",
        "[]",
        "{}",
        "{\"driver\":true}",
        "\"\"",
    ]);
    prop::collection::vec((field, value), 0..6).prop_map(|fields| {
        let fields: Vec<_> = fields.iter().map(|(field, value)| format!("\"{field}\":{value}")).collect();
        format!("{{{}}}", fields.join(","))
    })
}

proptest! {
    #[test]
    fn arbitrary_text_is_an_error_with_its_line_and_never_a_panic(text in "\\PC{0,200}(\n\\PC{0,80}){0,3}") {
        if let Err(error) = parse(&text) {
            prop_assert!(error.line >= 1 && error.line <= text.lines().count().max(1));
        }
    }

    #[test]
    fn nearly_right_lines_never_panic_and_what_is_read_is_a_cars(
        lines in prop::collection::vec(nearly_a_line(), 1..8),
        format in prop::sample::select(vec![
            Format::Auto, Format::OpenxcTimed, Format::OpenxcUntimed, Format::OpenxcState, Format::Truck, Format::Envirocar,
        ]),
    ) {
        match Trace::parse(&lines.join("\n"), format, FuelScale::Auto) {
            Ok(trace) => for message in trace.messages {
                prop_assert!(cardea::domain::Timestamp::from_millis(message.at_ms).is_ok());
                prop_assert!(cardea::domain::Timestamp::from_millis(message.sent_ms).is_ok());
            },
            Err(error) => prop_assert!((1..=lines.len()).contains(&error.line)),
        }
    }
}
