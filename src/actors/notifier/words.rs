//! Names of facts and checks in the languages of e-mails.

use crate::config::Language;

/// What stands before a fact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Label {
    Severity,
    Vehicle,
    Card,
    Rental,
    Opened,
    Now,
    Amount,
    PurchaseTime,
    Place,
    Checks,
    Alert,
    /// Over the gateway's own words.
    Words,
}

pub fn label(language: Language, label: Label) -> &'static str {
    let (en, de, ja) = match label {
        Label::Severity => ("Severity", "Schwere", "重要度"),
        Label::Vehicle => ("Vehicle", "Fahrzeug", "車両"),
        Label::Card => ("Card", "Karte", "カード"),
        Label::Rental => ("Rental", "Miete", "貸出"),
        Label::Opened => ("Opened", "Entstanden", "発生日時"),
        Label::Now => ("Now", "Jetzt", "現在の状態"),
        Label::Amount => ("Amount", "Betrag", "金額"),
        Label::PurchaseTime => ("Purchase", "Kauf", "購入日時"),
        Label::Place => ("Place", "Ort", "場所"),
        Label::Checks => ("What does not fit", "Was nicht passt", "一致しない項目"),
        Label::Alert => ("Alert id", "Kennung", "警告ID"),
        Label::Words => ("As recorded:", "Wie aufgezeichnet (englisch):", "記録された内容(英語):"),
    };
    pick(language, en, de, ja)
}

/// A check in words; one that is not known here by its name.
pub fn check_name(language: Language, check: &str) -> String {
    let (en, de, ja) = match check {
        "card_active" => ("card in use", "Karte aktiv", "カードの状態"),
        "rental_state" => ("rental", "Miete", "貸出状況"),
        "location" => ("place", "Ort", "位置"),
        "telematics_fresh" => ("age of the vehicle's report", "Alter der Fahrzeugmeldung", "車両情報の新しさ"),
        "fuel_level" => ("fuel level", "Füllstand", "燃料残量"),
        "tank_space" => ("room in the tank", "Platz im Tank", "タンクの空き容量"),
        "level_rise" => ("rise of the fuel level", "Anstieg des Füllstands", "燃料の増加量"),
        "product" => ("product", "Produkt", "商品"),
        "odometer" => ("odometer", "Kilometerstand", "走行距離"),
        "driver_prompt" => ("what was keyed in at the pump", "Eingabe an der Zapfsäule", "給油機での入力"),
        "velocity" => ("number of purchases", "Zahl der Käufe", "購入頻度"),
        "duplicate_or_impossible_travel" => {
            ("double purchase or impossible journey", "Doppelkauf oder unmögliche Fahrt", "重複購入または不可能な移動")
        }
        "merchant_category" => ("kind of merchant", "Art des Händlers", "加盟店の種類"),
        "hours" => ("time of day", "Uhrzeit", "時間帯"),
        "ignition_and_motion" => ("vehicle in motion", "Fahrzeug in Bewegung", "走行状態"),
        "amount" => ("amount", "Betrag", "金額"),
        "card_in_car" => ("card in the vehicle", "Karte im Fahrzeug", "カードの車内保管"),
        other => return other.replace('_', " "),
    };
    pick(language, en, de, ja).to_owned()
}

fn pick(language: Language, en: &'static str, de: &'static str, ja: &'static str) -> &'static str {
    match language {
        Language::En => en,
        Language::De => de,
        Language::Ja => ja,
    }
}
