//! What a check looked at, so that a person can follow its verdict and a page can draw it.

use serde::{Deserialize, Serialize};

use crate::domain::card::{Product, StationId};
use crate::domain::{Position, RentalId, Timestamp, VehicleId};

macro_rules! evidence {
    ($($(#[$doc:meta])* $field:ident: $kind:ty,)*) => {
        /// Numbers with their thresholds, places, and ids. Absent = it did not come into it.
        #[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
        #[serde(default)]
        pub struct Evidence {
            $($(#[$doc])* #[serde(skip_serializing_if = "Option::is_none")] pub $field: Option<$kind>,)*
        }
    };
}

evidence! {
    vehicle_id: VehicleId,
    rental_id: RentalId,
    rental_ended_at: Timestamp,
    grace_min: u32,
    station_id: StationId,
    stations_at_position: u32,
    station_position: Position,
    /// The directory learnt the position from purchases.
    is_learnt_position: bool,
    vehicle_position: Position,
    vehicle_seen_at: Timestamp,
    distance_m: f64,
    /// Base + accuracy + reach: what the distance was compared with.
    allowed_m: f64,
    accuracy_m: f64,
    /// Time between the fix and the purchase, whichever came first.
    fix_to_purchase_s: f64,
    max_fix_age_s: u32,
    /// How long the car had been silent when the purchase was made.
    silence_s: f64,
    max_silence_s: u32,
    level_percent: f64,
    level_at: Timestamp,
    full_percent: f64,
    tank_litres: f64,
    free_litres: f64,
    litres: f64,
    /// What the litres were compared with.
    allowed_litres: f64,
    level_after_percent: f64,
    level_after_at: Timestamp,
    rise_litres: f64,
    tolerance_litres: f64,
    captures: u32,
    /// Bought with the same card over the same time, under other authorisations.
    beside_litres: f64,
    /// The litres are what the amount buys at least.
    is_least_litres: bool,
    price_ceiling_minor: i64,
    product: Product,
    fuel_type: String,
    keyed_km: f64,
    vehicle_km: f64,
    allowed_km: f64,
    /// Whether what was keyed in is what the card expects.
    vehicle_number_matches: bool,
    driver_id_matches: bool,
    /// In 24 hours and in 7 days, this purchase included.
    day_count: u32,
    max_day_count: u32,
    week_count: u32,
    max_week_count: u32,
    day_minor: i64,
    max_day_minor: i64,
    week_minor: i64,
    max_week_minor: i64,
    amount_minor: i64,
    max_amount_minor: i64,
    currency: String,
    last_purchase_at: Timestamp,
    last_station_id: StationId,
    last_position: Position,
    category_code: String,
    local_time: String,
    time_zone: String,
    speed_kmh: f64,
    max_speed_kmh: f64,
    speed_to_purchase_s: f64,
    is_ignition_on: bool,
    is_card_present: bool,
}
