//! RFC 3339 times: a fast path for the one form everybody writes (`2026-11-21T22:36:46.000Z`), jiff for all others.

use std::ops::Range;

use crate::domain::{Malformed, Timestamp};

const DAY_MS: i64 = 86_400_000;
/// Longer ones are refused unread.
const MAX_LEN: usize = 64;

pub(super) fn parse(text: &str) -> Result<Timestamp, Malformed> {
    match fixed_form(text.as_bytes()) {
        Some(time) => Ok(time),
        None if text.len() <= MAX_LEN => text.parse(),
        None => Err(Malformed("a time is RFC 3339, like 2026-11-21T22:36:46.000Z")),
    }
}

/// Reads `YYYY-MM-DDTHH:MM:SS[.mmm]Z`; `None` for everything else, which is then jiff's to judge.
fn fixed_form(text: &[u8]) -> Option<Timestamp> {
    let millis = match text.len() {
        20 => 0,
        24 if text[19] == b'.' => number(text, 20..23)?,
        _ => return None,
    };
    let marks = [text[4], text[7], text[10], text[13], text[16], text[text.len() - 1]];
    if marks != *b"--T::Z" {
        return None;
    }
    let (year, month, day) = (number(text, 0..4)?, number(text, 5..7)?, number(text, 8..10)?);
    let (hour, minute, second) = (number(text, 11..13)?, number(text, 14..16)?, number(text, 17..19)?);
    let is_fit = (1..=12).contains(&month)
        && (1..=days_in(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        // A leap second is jiff's to judge.
        && second < 60;
    if !is_fit {
        return None;
    }
    let seconds = (hour * 60 + minute) * 60 + second;
    Some(Timestamp(days_from_civil(year, month, day) * DAY_MS + seconds * 1000 + millis))
}

fn number(text: &[u8], digits: Range<usize>) -> Option<i64> {
    text[digits].iter().try_fold(0, |number, digit| {
        let value = digit.wrapping_sub(b'0');
        (value <= 9).then(|| number * 10 + i64::from(value))
    })
}

fn days_in(year: i64, month: i64) -> i64 {
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 if is_leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 in the proleptic Gregorian calendar (Howard Hinnant's `days_from_civil`).
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_fast_path_takes_the_contracts_form() {
        assert_eq!(fixed_form(b"1970-01-01T00:00:00.001Z"), Some(Timestamp(1)));
        assert_eq!(fixed_form(b"2026-11-21T22:36:46Z"), "2026-11-21T22:36:46Z".parse().ok());
    }

    #[test]
    fn other_forms_go_the_slow_way_and_nonsense_is_refused() {
        assert_eq!(parse("1970-01-01T01:00:00+01:00"), Ok(Timestamp(0)));
        for text in
            ["", "now", "2026-02-29T00:00:00.000Z", "2026-13-01T00:00:00Z", "2026-01-01T24:00:00Z", "1763764606"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn the_fast_path_agrees_with_jiff(ms in -62_167_219_200_000_i64..=253_402_300_799_999) {
            let text = Timestamp(ms).to_string();
            prop_assert_eq!(fixed_form(text.as_bytes()), Some(Timestamp(ms)), "{}", text);
        }

        #[test]
        fn what_the_fast_path_takes_jiff_takes_too(text in "[0-2][0-9]{3}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-6][0-9]:[0-6][0-9](\\.[0-9]{3})?Z") {
            if let Some(time) = fixed_form(text.as_bytes()) {
                prop_assert_eq!(text.parse(), Ok(time));
            }
        }

        #[test]
        fn parsing_never_panics(text in ".{0,80}") {
            let _ = parse(&text);
        }
    }
}
