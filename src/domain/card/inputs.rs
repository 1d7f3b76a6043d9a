//! Everything a judgement rests on beside the purchase and the rules. It is recorded with the decision, so that the same
//! purchase can be judged again under other rules.

use serde::{Deserialize, Serialize};

use super::super::{Money, Position, Timestamp};
use super::{AuthorizationId, Card, StationId, StationLookup, VehicleLookup};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Inputs {
    /// `None` = the network's reference is not that of a card of the fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub card: Option<Card>,
    /// Those the purchase may belong to (see [`Card::vehicles`]), the bound one first; empty = the card is unknown or
    /// not bound.
    pub vehicles: Vec<VehicleLookup>,
    pub station: StationLookup,
    pub spending: Spending,
    /// The holder of the running rental said that this purchase is theirs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmed_at: Option<Timestamp>,
}

impl Inputs {
    /// The class of the bound vehicle, as far as its record could be asked: whose rules count.
    pub fn vehicle_class(&self) -> Option<&str> {
        match self.vehicles.first()? {
            VehicleLookup::Known(facts) => facts.class.as_deref(),
            VehicleLookup::NotRegistered(_) | VehicleLookup::Late(_) => None,
        }
    }
}

/// What was bought with the card before this purchase. Declined and reversed tries are not in it, and tries at the same
/// terminal for the same amount within five minutes are one.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Spending {
    /// In the 24 hours before; amounts of the purchase's currency only.
    pub day_count: u32,
    pub day_minor: i64,
    /// In the seven days before.
    pub week_count: u32,
    pub week_minor: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<LastPurchase>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LastPurchase {
    pub authorization_id: AuthorizationId,
    pub at: Timestamp,
    pub amount: Money,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub station_id: Option<StationId>,
    /// As far as the directory can tell one place from another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal_id: Option<String>,
}
