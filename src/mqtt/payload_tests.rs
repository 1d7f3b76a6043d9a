//! Golden files of the wire (`tests/wire/`), limits, and properties of every parser.

use proptest::prelude::*;
use serde_json::{Value, json};
use uuid::Uuid;

use super::*;
use crate::domain::command::{Ack, AckReason, AckStatus, Fact, FactKind, KeyOutcome, Order, ToCar};
use crate::domain::key::{Geofence, HolderKey, KeyGrant, RevocationEffect};
use crate::domain::twin::{Report, SignalPath, SignalValue, Twin, path};
use crate::domain::{CommandId, Function, Functions, KeyId};

fn golden(prefix: &str) -> Vec<(String, Vec<u8>)> {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/wire");
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file() && path.file_name().unwrap().to_str().unwrap().starts_with(prefix))
        .map(|path| (path.display().to_string(), std::fs::read(&path).unwrap()))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no golden files for {prefix}");
    files
}

fn same_json(name: &str, golden: &[u8], ours: &[u8]) {
    let (golden, ours): (Value, Value) =
        (serde_json::from_slice(golden).unwrap(), serde_json::from_slice(ours).unwrap());
    assert_eq!(golden, ours, "{name}");
}

#[test]
fn golden_files_read_and_write_back_the_same() {
    for (name, bytes) in golden("telemetry") {
        same_json(&name, &bytes, &encode_report(&decode_report(&bytes).unwrap()));
    }
    for (name, bytes) in golden("event") {
        same_json(&name, &bytes, &encode_fact(&decode_fact(&bytes).unwrap()));
    }
    for (name, bytes) in golden("ack") {
        same_json(&name, &bytes, &encode_ack(&decode_ack(&bytes).unwrap()));
    }
    for (name, bytes) in golden("command") {
        same_json(&name, &bytes, &encode_to_car(&decode_to_car(&bytes).unwrap()));
    }
}

#[test]
fn known_paths_need_no_allocation_and_others_are_kept() {
    let report = decode_report(&golden("telemetry")[0].1).unwrap();
    assert_eq!(report.signals[0], (SignalPath::Known(path::LATITUDE), SignalValue::Number(45.07)));
    assert_eq!(report.signals[8], (SignalPath::Other("Vehicle.Own.Thing".into()), SignalValue::Number(-1.5)));
    assert_eq!((report.boot, report.seq), (3, 1042));
}

const AT: &str = "2026-11-21T22:36:46.000Z";

fn telemetry(signals: &Value) -> Vec<u8> {
    json!({"seq": 1, "at": AT, "signals": signals}).to_string().into_bytes()
}

#[test]
fn an_error_names_the_field() {
    let cases: [(&[u8], &str); 12] = [
        (b"", "payload"),
        (b"[]", "payload"),
        (b"{\"seq\":1} x", "at"),
        (b"\xff", "payload"),
        (br#"{"seq":-1,"at":"2026-11-21T22:36:46.000Z","signals":{}}"#, "seq"),
        (br#"{"seq":1.5,"at":"2026-11-21T22:36:46.000Z","signals":{}}"#, "seq"),
        (br#"{"seq":1,"seq":2,"at":"2026-11-21T22:36:46.000Z","signals":{}}"#, "seq"),
        (br#"{"seq":1,"at":"yesterday","signals":{}}"#, "at"),
        (br#"{"seq":1,"at":"2026-11-21T22:36:46.000Z"}"#, "signals"),
        (br#"{"seq":1,"at":"2026-11-21T22:36:46.000Z","signals":7}"#, "signals"),
        (br#"{"seq":1,"at":"2026-11-21T22:36:46.000Z","signals":{"Vehicle.Speed":1e999}}"#, "signals.Vehicle.Speed"),
        (br#"{"seq":1,"at":"2026-11-21T22:36:46.000Z","signals":{"Vehicle.Speed":NaN}}"#, "signals.Vehicle.Speed"),
    ];
    for (bytes, field) in cases {
        let error = decode_report(bytes).unwrap_err();
        assert_eq!(error.field, field, "{error} for {}", String::from_utf8_lossy(bytes));
    }
    for value in [json!(null), json!([1]), json!({"a": 1})] {
        assert_eq!(decode_report(&telemetry(&json!({"A.B": value}))).unwrap_err().field, "signals.A.B");
    }
    let field = |json: Value| decode_fact(json.to_string().as_bytes()).unwrap_err().field;
    assert_eq!(field(json!({"seq": 1, "at": AT, "type": "nap"})), "type");
    assert_eq!(field(json!({"seq": 1, "at": AT, "type": "ignition", "on": "yes"})), "on");
    assert_eq!(
        field(json!({"seq": 1, "at": AT, "type": "refuelled", "level_before_percent": 1})),
        "level_after_percent"
    );
    let field = |json: Value| decode_ack(json.to_string().as_bytes()).unwrap_err().field;
    assert_eq!(field(json!({"at": AT, "status": "failed"})), "command_id");
    assert_eq!(field(json!({"command_id": Uuid::nil(), "at": AT, "status": "done"})), "status");
    let field = |json: Value| decode_to_car(json.to_string().as_bytes()).unwrap_err().field;
    let grant = |holder: &str| json!({"command_id": Uuid::nil(), "type": "grant_key", "key": {"permits": [], "key_id": Uuid::nil(), "holder_key": holder}});
    assert_eq!(field(grant("oA")), "key.holder_key");
    assert_eq!(field(json!({"command_id": Uuid::nil(), "type": "dance"})), "type");
}

#[test]
fn limits_refuse_what_is_over_them_and_take_what_is_on_them() {
    let many = |count: usize| {
        telemetry(&(0..count).map(|n| (format!("P{n}"), json!(n))).collect::<serde_json::Map<_, _>>().into())
    };
    assert_eq!(decode_report(&many(Twin::MAX_SIGNALS)).unwrap().signals.len(), Twin::MAX_SIGNALS);
    assert_eq!(decode_report(&many(Twin::MAX_SIGNALS + 1)).unwrap_err().field, "signals");
    let path = |len: usize| telemetry(&json!({"p".repeat(len): 1}));
    assert!(decode_report(&path(SignalPath::MAX_LEN)).is_ok());
    assert!(decode_report(&path(SignalPath::MAX_LEN + 1)).is_err());
    assert!(decode_report(&path(0)).is_err());
    let text = |len: usize| telemetry(&json!({"P": "t".repeat(len)}));
    assert!(decode_report(&text(SignalValue::MAX_TEXT_LEN)).is_ok());
    assert_eq!(decode_report(&text(SignalValue::MAX_TEXT_LEN + 1)).unwrap_err().field, "signals.P");
    let what = |len: usize| json!({"seq": 1, "at": AT, "type": "tamper", "what": "w".repeat(len)}).to_string();
    assert!(decode_fact(what(MAX_TEXT_LEN).as_bytes()).is_ok());
    assert_eq!(decode_fact(what(MAX_TEXT_LEN + 1).as_bytes()).unwrap_err().field, "what");
    assert_eq!(decode_ack(&vec![b' '; MAX_BYTES + 1]).unwrap_err().what, "larger than 16 KiB");
}

#[test]
fn deep_nesting_in_an_unknown_field_is_skipped_without_recursion() {
    let deep = format!("{}{}", "[".repeat(7_000), "]".repeat(7_000));
    let report = format!(r#"{{"x":{deep},"seq":1,"at":"{AT}","signals":{{}}}}"#);
    assert!(decode_report(report.as_bytes()).is_ok());
    let fact = format!(r#"{{"x":{deep},"seq":1,"at":"{AT}","type":"ignition","on":true}}"#);
    assert!(decode_fact(fact.as_bytes()).is_ok());
    let instead_of_text = format!(r#"{{"seq":1,"at":"{AT}","type":"tamper","what":{deep}}}"#);
    assert_eq!(decode_fact(instead_of_text.as_bytes()).unwrap_err().field, "what");
}

#[test]
fn a_car_newer_than_we_are_is_still_understood() {
    let boot =
        json!({"seq": 1, "at": AT, "type": "boot", "firmware": "9", "capabilities": ["drive", "fly"], "wings": 2});
    let fact = decode_fact(boot.to_string().as_bytes()).unwrap();
    assert!(matches!(fact.kind, FactKind::Boot { capabilities, .. } if capabilities == [Function::Drive]));
    let ack = json!({"command_id": Uuid::nil(), "at": AT, "status": "failed", "reason": "gremlins"});
    let ack = decode_ack(ack.to_string().as_bytes()).unwrap();
    assert_eq!((ack.status, ack.reason), (AckStatus::Failed, None));
}

#[test]
fn an_unknown_permission_refuses_the_grant_and_an_unknown_command_still_has_its_id() {
    let mut grant: Value = serde_json::from_slice(&golden("command_grant_key")[0].1).unwrap();
    grant["key"]["permits"] = json!(["unlock_doors", "fly"]);
    let bytes = grant.to_string().into_bytes();
    assert_eq!(decode_to_car(&bytes).unwrap_err().field, "key.permits");
    assert_eq!(command_id_of(&bytes).unwrap().to_string(), grant["command_id"].as_str().unwrap());
}

fn time() -> impl Strategy<Value = Timestamp> {
    (0_i64..=253_402_300_799_999).prop_map(Timestamp)
}

fn function() -> impl Strategy<Value = Function> {
    proptest::sample::select(&Function::ALL[..])
}

fn uuid() -> impl Strategy<Value = Uuid> {
    any::<u128>().prop_map(Uuid::from_u128)
}

/// Up to 15 digits: what serde_json reads exactly without its slower `float_roundtrip`; more digits may lose the last bit.
fn number() -> impl Strategy<Value = f64> {
    ((-999_999_999_999_999_i64..=999_999_999_999_999), 0..9)
        .prop_map(|(digits, scale)| digits as f64 / 10_f64.powi(scale))
}

fn report() -> impl Strategy<Value = Report> {
    let path = prop_oneof![
        proptest::sample::select(&path::ALL[..]).prop_map(SignalPath::from),
        "[A-Za-z.é\"]{1,40}".prop_map(|name| SignalPath::from(name.as_str()))
    ];
    let value = prop_oneof![
        any::<bool>().prop_map(SignalValue::Bool),
        number().prop_map(SignalValue::Number),
        (-1_000_000_i32..1_000_000).prop_map(|whole| SignalValue::Number(whole.into())),
        ".{0,60}".prop_map(|text| SignalValue::Text(text.into())),
    ];
    (any::<u64>(), any::<u64>(), time(), proptest::collection::vec((path, value), 0..20))
        .prop_map(|(boot, seq, at, signals)| Report { boot, seq, at, signals })
}

fn fact() -> impl Strategy<Value = Fact> {
    let kind = prop_oneof![
        (uuid(), function(), any::<[bool; 2]>(), proptest::option::of(".{0,40}"), proptest::option::of(uuid()))
            .prop_map(|(key, function, [is_permitted, is_asked], reason, delegated)| {
                let outcome = if is_permitted { KeyOutcome::Permitted } else { KeyOutcome::Refused };
                FactKind::KeyUsed {
                    key_id: KeyId(key),
                    function: (is_permitted || is_asked).then_some(function),
                    outcome,
                    delegated_key_id: delegated.map(KeyId),
                    reason,
                }
            }),
        (number(), number()).prop_map(|(level_before_percent, level_after_percent)| FactKind::Refuelled {
            level_before_percent,
            level_after_percent
        }),
        any::<bool>().prop_map(|on| FactKind::Ignition { on }),
        (".{0,40}", any::<bool>()).prop_map(|(name, open)| FactKind::Door { name, open }),
        ".{0,40}".prop_map(|what| FactKind::Tamper { what }),
        any::<bool>().prop_map(|present| FactKind::FuelCard { present }),
        (".{0,20}", proptest::collection::vec(function(), 0..13), proptest::option::of(number()))
            .prop_map(|(firmware, capabilities, tank_litres)| FactKind::Boot { firmware, capabilities, tank_litres }),
    ];
    (any::<u64>(), any::<u64>(), time(), kind).prop_map(|(boot, seq, at, kind)| Fact { boot, seq, at, kind })
}

fn ack() -> impl Strategy<Value = Ack> {
    use AckStatus::{Executing, Failed, PendingSafe, Rejected, Succeeded};
    let status = proptest::sample::select(vec![Executing, PendingSafe, Succeeded, Failed, Rejected]);
    let reason = proptest::option::of(proptest::sample::select(vec![
        AckReason::Unsupported,
        AckReason::IgnitionOn,
        AckReason::Duplicate,
    ]));
    (uuid(), time(), status, reason).prop_map(|(id, at, status, reason)| Ack {
        command_id: CommandId(id),
        at,
        status,
        reason,
    })
}

fn grant() -> impl Strategy<Value = KeyGrant> {
    let holder_key = prop_oneof![
        any::<([u8; 32], [u8; 32])>().prop_map(|(x, y)| HolderKey::P256 { x, y }),
        any::<[u8; 32]>().prop_map(|x| HolderKey::Ed25519 { x }),
    ];
    let geofence =
        proptest::option::of((number(), number(), number()).prop_map(|(latitude, longitude, radius_m)| Geofence {
            latitude,
            longitude,
            radius_m,
        }));
    (uuid(), holder_key, 0..=u64::from(Functions::ALL.bits()), time(), time(), any::<u32>(), geofence, any::<u8>())
        .prop_map(|(id, holder_key, permits, not_before, not_after, generation, geofence, max_delegation)| KeyGrant {
            key_id: KeyId(id),
            holder_key,
            permits: Functions::from_bits(permits).unwrap(),
            not_before,
            not_after,
            generation,
            geofence,
            max_delegation,
            max_speed_kmh: generation.is_multiple_of(2).then_some(generation as u16),
        })
}

fn to_car() -> impl Strategy<Value = ToCar> {
    let order = prop_oneof![
        Just(Order::Lock),
        Just(Order::Unlock),
        Just(Order::Locate),
        Just(Order::ReportState),
        function().prop_map(|function| Order::EnableFunction { function }),
        function().prop_map(|function| Order::DisableFunction { function }),
        grant().prop_map(|key| Order::GrantKey { key }),
        (uuid(), any::<u32>()).prop_map(|(id, generation)| Order::RevokeKey {
            key_id: KeyId(id),
            generation,
            effect: RevocationEffect::Immediate
        }),
    ];
    prop_oneof![
        (any::<u64>(), any::<u64>(), proptest::option::of(time())).prop_map(|(boot, seq, at)| ToCar::EventAck {
            boot,
            seq,
            at
        }),
        (uuid(), order, time(), time()).prop_map(|(id, order, issued_at, expires_at)| ToCar::Command {
            command_id: CommandId(id),
            order,
            issued_at,
            expires_at
        }),
    ]
}

/// A golden payload with some bytes changed: what fuzzing finds first.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let files = golden("").into_iter().map(|(_, bytes)| bytes).collect::<Vec<_>>();
    (proptest::sample::select(files), proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..6))
        .prop_map(|(mut bytes, changes)| {
            for (place, byte) in changes {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            bytes
        })
}

proptest! {
    #[test]
    fn a_report_survives_the_wire(report in report()) {
        prop_assert_eq!(decode_report(&encode_report(&report)), Ok(report));
    }

    #[test]
    fn a_fact_survives_the_wire(fact in fact()) {
        prop_assert_eq!(decode_fact(&encode_fact(&fact)), Ok(fact));
    }

    /// To the last bit, or a replayed journal is not the state that was.
    #[test]
    fn any_number_is_read_back_as_it_was_written(number in proptest::num::f64::NORMAL | proptest::num::f64::SUBNORMAL) {
        let text = serde_json::to_string(&number).unwrap();
        let again: f64 = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(again.to_bits(), number.to_bits(), "{}", text);
    }

    #[test]
    fn an_ack_survives_the_wire(ack in ack()) {
        prop_assert_eq!(decode_ack(&encode_ack(&ack)), Ok(ack));
    }

    #[test]
    fn a_command_survives_the_wire(message in to_car()) {
        prop_assert_eq!(decode_to_car(&encode_to_car(&message)), Ok(message));
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in prop_oneof![proptest::collection::vec(any::<u8>(), 0..200), damaged()]) {
        let _ = decode_report(&bytes);
        let _ = decode_fact(&bytes);
        let _ = decode_ack(&bytes);
        let _ = decode_to_car(&bytes);
        let _ = command_id_of(&bytes);
    }
}
