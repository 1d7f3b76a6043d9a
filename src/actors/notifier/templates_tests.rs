//! Each letter, in each language.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use serde_json::value::RawValue;

use super::super::notification::{Place, PurchaseFacts, derived_id};
use super::*;

fn told(kind: &str, alert_kind: &str) -> Notification {
    let at = Timestamp(1_795_298_400_000);
    Notification {
        id: derived_id(at, &[]),
        kind: kind.into(),
        subject: "vehicle/WVW-1".into(),
        at,
        place: Place { position: 1, index: 0 },
        data: RawValue::from_string("{}".into()).unwrap(),
        alert: Some(AlertFacts {
            alert_id: "0199-1".into(),
            kind: alert_kind.into(),
            severity: Level::Warning,
            is_waiting: true,
            vehicle_id: Some("WVW-1".into()),
            card_id: Some("shell-17".into()),
            rental_id: None,
            decision_id: None,
            opened_at: at,
            text: "Card shell-17 of vehicle WVW-1: a purchase was declined.".into(),
            purchase: Some(PurchaseFacts {
                amount: Money { amount_minor: 123_450, currency: "eur".into() },
                at,
                station: Some("Pump 3".into()),
                failed: vec!["location".into(), "brand_new_check".into()],
            }),
            step: 0,
        }),
    }
}

const LANGUAGES: [Language; 3] = [Language::En, Language::De, Language::Ja];
const KINDS: [&str; 5] = ["card_declined", "card_unverified", "late_return", "outside_return_area", "something_new"];
const PASSAGES: [&str; 6] =
    [ALERT_OPENED, ALERT_CONFIRMED, ALERT_ACKNOWLEDGED, ALERT_ESCALATED, ALERT_WITHDRAWN, ALERT_RESOLVED];

#[test]
fn every_letter_says_what_it_concerns_and_that_it_is_no_proof() {
    let cautions = ["not proof", "kein Beweis", "証拠ではありません"];
    for (language, caution) in LANGUAGES.into_iter().zip(cautions) {
        for kind in KINDS {
            for passage in PASSAGES {
                let letter = Writing::new(language, "UTC").letter(&told(passage, kind));
                assert!(letter.subject.starts_with("[Cardea] ") && letter.subject.contains("WVW-1"), "{letter:?}");
                for part in ["WVW-1", "shell-17", caution, "0199-1"] {
                    assert!(letter.text.contains(part), "{part}: {letter:?}");
                }
            }
        }
    }
}

#[test]
fn letters_differ_by_kind_and_passage() {
    for language in LANGUAGES {
        let writing = Writing::new(language, "UTC");
        let mut subjects: Vec<String> = KINDS
            .iter()
            .flat_map(|kind| PASSAGES.iter().map(|passage| writing.letter(&told(passage, kind)).subject))
            .collect();
        subjects.sort();
        subjects.dedup();
        assert_eq!(subjects.len(), KINDS.len() * PASSAGES.len());
    }
}

#[test]
fn a_german_letter_is_german() {
    let letter = Writing::new(Language::De, "Europe/Berlin").letter(&told(ALERT_OPENED, "card_declined"));
    assert_eq!(letter.subject, "[Cardea] Warnung: Tankkarte abgelehnt (WVW-1)");
    assert!(letter.text.contains("Betrag: 1.234,50 EUR"), "{}", letter.text);
    assert!(letter.text.contains("Entstanden: 21.11.2026 22:00:00 UTC (21.11.2026 23:00:00 CET)"), "{}", letter.text);
    assert!(letter.text.contains("Was nicht passt: Ort, brand new check"), "{}", letter.text);
}

#[test]
fn a_japanese_letter_is_japanese() {
    let letter = Writing::new(Language::Ja, "Asia/Tokyo").letter(&told(ALERT_OPENED, "card_declined"));
    assert_eq!(letter.subject, "[Cardea] 警告:給油カードの利用を拒否(WVW-1)");
    assert!(letter.text.contains("2026年11月21日 22:00:00 UTC (2026年11月22日 07:00:00 JST)"), "{}", letter.text);
    assert!(letter.text.contains("一致しない項目:位置、brand new check"), "{}", letter.text);
}

#[test]
fn an_unknown_kind_is_told_by_its_name() {
    let letter = Writing::new(Language::En, "UTC").letter(&told(ALERT_OPENED, "something_new"));
    assert_eq!(letter.subject, "[Cardea] Alert: something new (WVW-1)");
}

#[test]
fn amounts_are_written_as_the_language_and_the_currency_have_it() {
    let text =
        |language, amount_minor, currency: &str| amount(language, &Money { amount_minor, currency: currency.into() });
    assert_eq!(text(Language::En, 123_456_789, "eur"), "1,234,567.89 EUR");
    assert_eq!(text(Language::De, 123_456_789, "eur"), "1.234.567,89 EUR");
    assert_eq!(text(Language::Ja, 12_000, "jpy"), "12,000 JPY");
    assert_eq!(text(Language::En, -5, "usd"), "-0.05 USD");
    assert_eq!(text(Language::En, i64::MIN, "kwd"), "-9,223,372,036,854,775.808 KWD");
}

#[test]
fn a_subject_is_one_line() {
    let mut told = told(ALERT_OPENED, "odd\r\nBcc: x@example.org");
    told.alert.as_mut().unwrap().vehicle_id = Some("A\r\nB".into());
    let letter = Writing::new(Language::En, "UTC").letter(&told);
    assert!(!letter.subject.contains(['\r', '\n']), "{}", letter.subject);
}
