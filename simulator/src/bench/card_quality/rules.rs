//! The rules the stories are judged by: the fleet's own file, with classes for what a run of minutes cannot wait for.

use cardea::domain::Timestamp;

/// A zone half an hour from the others and without a summer time, so that its clock can be told without a table.
const EDGE_ZONE: &str = "Asia/Kolkata";
const EDGE_OFFSET_MIN: i64 = 330;
const DAY_MIN: i64 = 1_440;

/// `base` with the classes behind it; the hours of two of them are open or closed at `now`.
pub fn with_classes(base: &str, now: Timestamp) -> String {
    let local_min = (now.as_secs() / 60 + EDGE_OFFSET_MIN).rem_euclid(DAY_MIN);
    let open = window(local_min - 10, local_min + 25);
    let closed = window(local_min + 180, local_min + 240);
    format!(
        "{base}
# Cars with a driver of their own.
[class.pool.rental_state]
mode = \"off\"

# A second stands for a minute.
[class.hurried.rental_state]
grace_min = 0
[class.hurried.telematics_fresh]
max_silence_s = 5

[class.edge]
time_zone = \"{EDGE_ZONE}\"
[class.edge.hours]
windows = [{open}]

[class.closed]
time_zone = \"{EDGE_ZONE}\"
[class.closed.hours]
windows = [{closed}]
"
    )
}

fn window(from_min: i64, until_min: i64) -> String {
    let clock = |min: i64| {
        let min = min.rem_euclid(DAY_MIN);
        format!("{:02}:{:02}", min / 60, min % 60)
    };
    let days = "[\"mon\", \"tue\", \"wed\", \"thu\", \"fri\", \"sat\", \"sun\"]";
    format!("{{ days = {days}, from = \"{}\", until = \"{}\" }}", clock(from_min), clock(until_min))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_run_over_midnight() {
        // 18:25 UTC is 23:55 there.
        let now: Timestamp = "2026-11-22T18:25:00Z".parse().expect("a time");
        let rules = with_classes("", now);
        assert!(rules.contains("from = \"23:45\", until = \"00:20\""), "{rules}");
        assert!(rules.contains("from = \"02:55\", until = \"03:55\""), "{rules}");
    }
}
