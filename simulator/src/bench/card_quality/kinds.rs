//! The kinds of purchase stories, each with its label: honest, or a misuse with the phase in which it can be seen.
//!
//! This table is a promise about the product: the bench prints it, and the test holds the gateway to it.

use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    PlainFill,
    StaffUse,
    WithinGrace,
    UnderCanopy,
    CarOffline,
    AfterTunnel,
    CarClockSkew,
    NetworkClockSkew,
    DoubleSwipe,
    LongTrip,
    TopUp,
    MotorwayStation,
    PlaceholderPosition,
    UnknownStation,
    NoisyTankSensor,
    SensorTopsOut,
    TimeZoneEdge,
    DepotPump,
    MistypedOdometer,
    NumericPump,
    CardJustMoved,
    AdblueWithDiesel,
    LateCapture,
    CaptureFirst,
    RepeatedCapture,
    GivenBack,
    OfflineBatch,
    PaidAtDesk,
    BrokenReceiver,
    TankUnknown,
    SkimmedElsewhere,
    SkimmedCarSilent,
    AfterRental,
    NoRental,
    SuspendedCard,
    JerrycanLarge,
    JerrycanSmall,
    SecondCar,
    SiphonedMuch,
    SiphonedLittle,
    WrongFuel,
    OtherMerchant,
    ShopGoodsAsFuel,
    ShopGoodsUnnamed,
    SplitPurchase,
    ManyPurchases,
    DoubleCapture,
    InflatedAmount,
    InflatedPrice,
    CarMoving,
    ImpossibleTravel,
    OutsideHours,
    TankFull,
    WrongPrompt,
    CardTaken,
}

/// When a misuse shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Before any money moves.
    Authorisation,
    /// When captures and the car's own reports are compared.
    Reconciliation,
    /// Not from what the gateway is told.
    Neither,
}

impl Phase {
    pub fn name(self) -> &'static str {
        match self {
            Self::Authorisation => "authorisation",
            Self::Reconciliation => "reconciliation",
            Self::Neither => "neither",
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Misuse {
    /// The first phase that can show it.
    pub seen: Phase,
    /// The checks that can tell it; one of them is enough.
    pub told_by: &'static [&'static str],
    /// Why not earlier, or not at all.
    pub why: &'static str,
}

#[derive(Debug, Clone, Copy)]
pub struct About {
    pub kind: Kind,
    pub name: &'static str,
    /// How many of these to one of another kind.
    pub weight: usize,
    /// `None` = honest.
    pub misuse: Option<Misuse>,
}

const fn honest(kind: Kind, name: &'static str, weight: usize) -> About {
    About { kind, name, weight, misuse: None }
}

const fn fraud(
    kind: Kind,
    name: &'static str,
    seen: Phase,
    told_by: &'static [&'static str],
    why: &'static str,
) -> About {
    About { kind, name, weight: 1, misuse: Some(Misuse { seen, told_by, why }) }
}

use Phase::{Authorisation, Neither, Reconciliation};

/// In the order of [`Kind`].
pub const KINDS: [About; 55] = [
    honest(Kind::PlainFill, "plain fill in a rental", 4),
    honest(Kind::StaffUse, "staff at work with the car", 1),
    honest(Kind::WithinGrace, "within the grace after a rental", 1),
    honest(Kind::UnderCanopy, "GPS lost under the canopy", 1),
    honest(Kind::CarOffline, "no reception at the station", 1),
    honest(Kind::AfterTunnel, "fix 4 min old, 5 km away", 1),
    honest(Kind::CarClockSkew, "car's clock 30 s off", 1),
    honest(Kind::NetworkClockSkew, "network's clock and late delivery", 1),
    honest(Kind::DoubleSwipe, "terminal asks twice", 1),
    honest(Kind::LongTrip, "second purchase on a long trip", 1),
    honest(Kind::TopUp, "small top-up of a nearly full tank", 1),
    honest(Kind::MotorwayStation, "directory 250 m off", 1),
    honest(Kind::PlaceholderPosition, "station at a placeholder position", 1),
    honest(Kind::UnknownStation, "station not in the directory", 1),
    honest(Kind::NoisyTankSensor, "noisy tank sensor", 1),
    honest(Kind::SensorTopsOut, "sensor that tops out at 91 %", 1),
    honest(Kind::TimeZoneEdge, "just inside the hours, local time", 1),
    honest(Kind::DepotPump, "own pump at the depot", 1),
    honest(Kind::MistypedOdometer, "odometer typed wrong", 1),
    honest(Kind::NumericPump, "numeric-only pump", 1),
    honest(Kind::CardJustMoved, "card just moved to another car", 1),
    honest(Kind::AdblueWithDiesel, "AdBlue bought with diesel", 1),
    honest(Kind::LateCapture, "capture after the car drove on", 1),
    honest(Kind::CaptureFirst, "capture before the question", 1),
    honest(Kind::RepeatedCapture, "one capture sent twice", 1),
    honest(Kind::GivenBack, "nothing filled, hold given back", 1),
    honest(Kind::OfflineBatch, "offline pump, capture only", 1),
    honest(Kind::PaidAtDesk, "paid at the desk after the fill", 1),
    honest(Kind::BrokenReceiver, "GPS stuck somewhere else", 1),
    honest(Kind::TankUnknown, "tank size unknown", 1),
    fraud(Kind::SkimmedElsewhere, "skimmed, used elsewhere", Authorisation, &["location"], ""),
    fraud(
        Kind::SkimmedCarSilent,
        "skimmed while the car is silent",
        Reconciliation,
        &["level_rise", "location"],
        "a silent car is no proof: approved with a cap until it reports again",
    ),
    fraud(Kind::AfterRental, "used after the rental", Authorisation, &["rental_state", "location"], ""),
    fraud(Kind::NoRental, "used without a rental", Authorisation, &["rental_state"], ""),
    fraud(Kind::SuspendedCard, "suspended card", Authorisation, &["card_active"], ""),
    fraud(
        Kind::JerrycanLarge,
        "jerrycan filled too",
        Reconciliation,
        &["level_rise", "tank_space"],
        "a pump tells litres only after the fill",
    ),
    fraud(
        Kind::JerrycanSmall,
        "small can filled too",
        Neither,
        &["level_rise"],
        "within what tank sensors cannot tell (10 % of the tank)",
    ),
    fraud(
        Kind::SecondCar,
        "second car at the pump",
        Reconciliation,
        &["level_rise"],
        "the right car stands at the right pump; only its level tells",
    ),
    fraud(
        Kind::SiphonedMuch,
        "siphoned off after the fill",
        Reconciliation,
        &["fuel_fell"],
        "the purchase is right; the theft comes after it and shows as a falling level at rest",
    ),
    fraud(
        Kind::SiphonedLittle,
        "a little siphoned off",
        Neither,
        &["fuel_fell"],
        "after the purchase, and within the sensor's noise",
    ),
    fraud(
        Kind::WrongFuel,
        "wrong fuel",
        Reconciliation,
        &["product"],
        "the product is not known before the nozzle is chosen",
    ),
    fraud(Kind::OtherMerchant, "not a fuel merchant", Authorisation, &["merchant_category"], ""),
    fraud(
        Kind::ShopGoodsAsFuel,
        "shop goods booked as fuel",
        Reconciliation,
        &["level_rise"],
        "a station sells both under one category",
    ),
    fraud(
        Kind::ShopGoodsUnnamed,
        "shop goods, nothing named",
        Reconciliation,
        &["product", "level_rise"],
        "a capture without litres and product is taken for fuel, and no fuel came",
    ),
    fraud(
        Kind::SplitPurchase,
        "split into three small ones",
        Reconciliation,
        &["velocity", "level_rise"],
        "three a day are within what is usual; all of them together are not borne out by one rise of the level",
    ),
    fraud(Kind::ManyPurchases, "many small ones in a row", Authorisation, &["velocity"], ""),
    fraud(
        Kind::DoubleCapture,
        "captured twice for one fill",
        Reconciliation,
        &["level_rise", "amount", "tank_space"],
        "the second capture comes after the answer",
    ),
    fraud(
        Kind::InflatedAmount,
        "amount above what was allowed",
        Reconciliation,
        &["amount"],
        "the amount is taken after the answer",
    ),
    fraud(
        Kind::InflatedPrice,
        "litres at more than twice their price",
        Reconciliation,
        &["amount"],
        "the litres are known after the fill only",
    ),
    fraud(Kind::CarMoving, "car driving past while the card is read", Authorisation, &["ignition_and_motion"], ""),
    fraud(
        Kind::ImpossibleTravel,
        "two stations 300 km apart in 30 min",
        Authorisation,
        &["duplicate_or_impossible_travel"],
        "",
    ),
    fraud(Kind::OutsideHours, "outside the fleet's hours", Authorisation, &["hours"], ""),
    fraud(Kind::TankFull, "tank full already", Authorisation, &["fuel_level"], ""),
    fraud(Kind::WrongPrompt, "wrong vehicle number keyed in", Authorisation, &["driver_prompt"], ""),
    fraud(Kind::CardTaken, "card taken from its holder", Authorisation, &["card_in_car"], ""),
];

impl Kind {
    pub fn about(self) -> &'static About {
        &KINDS[self as usize]
    }

    /// Whoever uses the card is not who has the car: asked, the renter says that it is not theirs.
    pub fn is_strangers(self) -> bool {
        matches!(
            self,
            Self::SkimmedElsewhere
                | Self::SkimmedCarSilent
                | Self::ImpossibleTravel
                | Self::CardTaken
                | Self::OtherMerchant
        )
    }

    pub fn misuse(self) -> Option<Misuse> {
        self.about().misuse
    }
}

/// `count` kinds: every one at least once when there is room, the others by weight, in a fixed order.
pub fn deal(count: usize) -> Vec<Kind> {
    let once: Vec<Kind> = KINDS.iter().map(|about| about.kind).collect();
    let by_weight: Vec<Kind> = KINDS.iter().flat_map(|about| vec![about.kind; about.weight]).collect();
    once.into_iter().chain(by_weight.into_iter().cycle()).take(count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_kinds() {
        for (index, about) in KINDS.iter().enumerate() {
            assert_eq!(about.kind as usize, index, "{}", about.name);
        }
    }

    #[test]
    fn every_kind_is_dealt_before_one_comes_twice() {
        let dealt: std::collections::HashSet<Kind> = deal(KINDS.len()).into_iter().collect();
        assert_eq!(dealt.len(), KINDS.len());
        assert_eq!(deal(360).len(), 360);
    }
}
