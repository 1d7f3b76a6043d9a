//! What e-mails say, in English, German and Japanese.
//!
//! An alert is evidence to look into, not proof: every letter says so, and none names a person. The gateway's own words
//! about the case are English in every language and are quoted as such.

use jiff::tz::TimeZone;

use super::notification::{
    ALERT_ACKNOWLEDGED, ALERT_CONFIRMED, ALERT_ESCALATED, ALERT_OPENED, ALERT_RESOLVED, ALERT_WITHDRAWN, AlertFacts,
    Notification, TEST,
};
use super::words::{Label, check_name, label};
use crate::config::{Language, Level};
use crate::domain::{Money, Timestamp};

#[derive(Debug, Clone, PartialEq)]
pub struct Letter {
    pub subject: String,
    pub text: String,
}

/// How one recipient is written to.
#[derive(Debug, Clone)]
pub struct Writing {
    language: Language,
    zone: TimeZone,
}

impl Writing {
    pub fn new(language: Language, time_zone: &str) -> Self {
        Self { language, zone: TimeZone::get(time_zone).unwrap_or(TimeZone::UTC) }
    }

    pub fn letter(&self, notification: &Notification) -> Letter {
        match &notification.alert {
            Some(alert) => self.alert(notification, alert),
            None => self.test(notification),
        }
    }

    fn test(&self, notification: &Notification) -> Letter {
        let (subject, text) = match self.language {
            Language::En => ("Cardea: test", "This is a test. Nothing has happened."),
            Language::De => ("Cardea: Test", "Dies ist ein Test. Es ist nichts geschehen."),
            Language::Ja => ("Cardea:テスト", "これはテストです。何も起きていません。"),
        };
        let kind = if notification.kind == TEST { "" } else { notification.kind.as_str() };
        Letter { subject: subject.into(), text: format!("{text}\n{kind}\n{}\n", self.time(notification.at)) }
    }

    fn alert(&self, notification: &Notification, alert: &AlertFacts) -> Letter {
        let passage = self.passage(&notification.kind);
        let (title, explained) = self.kind(&alert.kind);
        let subject = match self.language {
            Language::Ja => format!("[Cardea] {passage}:{title}({})", self.concerned(alert)),
            Language::En | Language::De => format!("[Cardea] {passage}: {title} ({})", self.concerned(alert)),
        };
        let colon = if self.language == Language::Ja { ":" } else { ": " };
        let mut lines = vec![format!("{passage}{colon}{title}"), explained, String::new()];
        let mut fact = |label_of: Label, value: Option<String>| {
            if let Some(value) = value {
                lines.push(format!("{}{colon}{value}", label(self.language, label_of)));
            }
        };
        fact(Label::Severity, Some(self.severity(alert.severity).into()));
        fact(Label::Vehicle, alert.vehicle_id.clone());
        fact(Label::Card, alert.card_id.clone());
        fact(Label::Rental, alert.rental_id.clone());
        fact(Label::Opened, Some(self.time(alert.opened_at)));
        if notification.kind != ALERT_OPENED {
            fact(Label::Now, Some(format!("{passage}, {}", self.time(notification.at))));
        }
        if let Some(purchase) = &alert.purchase {
            fact(Label::Amount, Some(amount(self.language, &purchase.amount)));
            fact(Label::PurchaseTime, Some(self.time(purchase.at)));
            fact(Label::Place, purchase.station.clone());
            let failed: Vec<String> = purchase.failed.iter().map(|check| check_name(self.language, check)).collect();
            fact(Label::Checks, (!failed.is_empty()).then(|| failed.join(self.comma())));
        }
        fact(Label::Alert, Some(alert.alert_id.clone()));
        if !alert.text.is_empty() {
            lines.extend([String::new(), label(self.language, Label::Words).into(), alert.text.clone()]);
        }
        lines.extend([String::new(), self.caution().into(), String::new()]);
        Letter { subject: one_line(&subject), text: lines.join("\n") }
    }

    fn concerned(&self, alert: &AlertFacts) -> String {
        match (&alert.vehicle_id, &alert.card_id) {
            (Some(vehicle), _) => vehicle.clone(),
            (None, Some(card)) => card.clone(),
            (None, None) => alert.alert_id.clone(),
        }
    }

    fn comma(&self) -> &'static str {
        if self.language == Language::Ja { "、" } else { ", " }
    }

    /// What became of the alert.
    fn passage(&self, kind: &str) -> &'static str {
        let (en, de, ja) = match kind {
            ALERT_OPENED => ("Alert", "Warnung", "警告"),
            ALERT_CONFIRMED => ("Alert confirmed", "Warnung bestätigt", "警告(確認)"),
            ALERT_ACKNOWLEDGED => ("Alert acknowledged", "Warnung wird bearbeitet", "警告(対応中)"),
            ALERT_ESCALATED => ("Alert not acknowledged", "Warnung noch nicht bearbeitet", "警告(未対応)"),
            ALERT_WITHDRAWN => ("Alert withdrawn", "Warnung zurückgezogen", "警告(取り下げ)"),
            ALERT_RESOLVED => ("Alert resolved", "Warnung erledigt", "警告(解決済み)"),
            _ => ("Alert changed", "Warnung geändert", "警告(変更)"),
        };
        self.pick(en, de, ja)
    }

    /// Title and explanation of an alert's kind; one that is not known here is told by its name.
    fn kind(&self, kind: &str) -> (String, String) {
        let known = match kind {
            "card_declined" => Some((
                self.pick("fuel card declined", "Tankkarte abgelehnt", "給油カードの利用を拒否"),
                self.pick(
                    "A purchase with a fuel card was declined because it does not fit what is known of the vehicle.",
                    "Ein Kauf mit einer Tankkarte wurde abgelehnt, weil er nicht zu dem passt, was über das Fahrzeug bekannt ist.",
                    "車両の状況と一致しないため、給油カードによる購入を拒否しました。",
                ),
            )),
            "card_unverified" => Some((
                self.pick("fuel card could not be checked", "Tankkarte nicht prüfbar", "給油カードを確認できず"),
                self.pick(
                    "A purchase was declined because too little was known to check it. There is no sign of misuse.",
                    "Ein Kauf wurde abgelehnt, weil zu wenig bekannt war, um ihn zu prüfen. Es gibt kein Anzeichen für Missbrauch.",
                    "確認に必要な情報が不足していたため、購入を拒否しました。不正利用の兆候はありません。",
                ),
            )),
            "late_return" => Some((
                self.pick("vehicle not back", "Fahrzeug nicht zurück", "車両が未返却"),
                self.pick(
                    "A rental is over and its vehicle has not come back to rest.",
                    "Eine Miete ist vorbei, und ihr Fahrzeug ist noch nicht zurück.",
                    "貸出時間が終了しましたが、車両がまだ返却されていません。",
                ),
            )),
            "outside_return_area" => Some((
                self.pick("vehicle left elsewhere", "Fahrzeug anderswo abgestellt", "返却区域外に駐車"),
                self.pick(
                    "A rental has ended with its vehicle outside of where it is to be returned.",
                    "Eine Miete endete, und das Fahrzeug steht außerhalb seines Rückgabegebiets.",
                    "貸出が終了しましたが、車両が返却区域の外にあります。",
                ),
            )),
            _ => None,
        };
        match known {
            Some((title, explained)) => (title.into(), explained.into()),
            None => {
                let name = kind.replace('_', " ");
                let explained = self.pick(
                    "The gateway noticed something that somebody should look at.",
                    "Dem Gateway ist etwas aufgefallen, das sich jemand ansehen sollte.",
                    "確認が必要な事象をゲートウェイが検知しました。",
                );
                (name, explained.into())
            }
        }
    }

    fn severity(&self, severity: Level) -> &'static str {
        match severity {
            Level::Info => self.pick("info", "Hinweis", "情報"),
            Level::Warning => self.pick("warning", "Warnung", "警告"),
            Level::Critical => self.pick("critical", "kritisch", "重大"),
        }
    }

    fn caution(&self) -> &'static str {
        self.pick(
            "This is evidence to look into, not proof of misuse. It concerns the vehicle and its card, not a person.",
            "Dies ist ein Hinweis, dem nachzugehen ist, kein Beweis für Missbrauch. Er betrifft das Fahrzeug und seine Karte, keine Person.",
            "これは確認を要する手がかりであり、不正利用の証拠ではありません。対象は車両とカードであり、特定の個人ではありません。",
        )
    }

    fn pick(&self, en: &'static str, de: &'static str, ja: &'static str) -> &'static str {
        match self.language {
            Language::En => en,
            Language::De => de,
            Language::Ja => ja,
        }
    }

    /// `2026-11-22 08:46:02 UTC`, and the fleet's own time behind it where that is another.
    fn time(&self, at: Timestamp) -> String {
        let Ok(time) = jiff::Timestamp::from_millisecond(at.0) else { return at.to_string() };
        let form = match self.language {
            Language::En => "%Y-%m-%d %H:%M:%S",
            Language::De => "%d.%m.%Y %H:%M:%S",
            Language::Ja => "%Y年%m月%d日 %H:%M:%S",
        };
        let utc = time.to_zoned(TimeZone::UTC).strftime(form).to_string();
        if self.zone == TimeZone::UTC {
            return format!("{utc} UTC");
        }
        let local = time.to_zoned(self.zone.clone());
        format!("{utc} UTC ({} {})", local.strftime(form), local.strftime("%Z"))
    }
}

/// `1,234.50 EUR`, as the language groups digits, with the decimals that ISO 4217 gives the currency.
fn amount(language: Language, money: &Money) -> String {
    let currency = money.currency.to_uppercase();
    let decimals: u32 = match currency.as_str() {
        "BIF" | "CLP" | "DJF" | "GNF" | "ISK" | "JPY" | "KMF" | "KRW" | "PYG" | "RWF" | "UGX" | "VND" | "VUV"
        | "XAF" | "XOF" | "XPF" => 0,
        "BHD" | "IQD" | "JOD" | "KWD" | "LYD" | "OMR" | "TND" => 3,
        _ => 2,
    };
    let (group, point) = match language {
        Language::De => ('.', ','),
        Language::En | Language::Ja => (',', '.'),
    };
    let unit = 10_u64.pow(decimals);
    let (whole, rest) = (money.amount_minor.unsigned_abs() / unit, money.amount_minor.unsigned_abs() % unit);
    let digits = whole.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(group);
        }
        grouped.push(digit);
    }
    let sign = if money.amount_minor < 0 { "-" } else { "" };
    match decimals {
        0 => format!("{sign}{grouped} {currency}"),
        width => format!("{sign}{grouped}{point}{rest:0width$} {currency}", width = width as usize),
    }
}

fn one_line(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

#[cfg(test)]
#[path = "templates_tests.rs"]
mod tests;
