//! Which gateway took each vehicle last, as far as the copy here tells.
//!
//! Only the engine decides who may write; this tells whom to ask, and a gateway that it was overtaken.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::Notify;
use uuid::Uuid;

use super::super::frame::Body;
use super::super::replica::Observer;
use super::super::{Order, ReadError, Store, Table};
use crate::domain::VehicleId;

const PAGE: usize = 1_000;
/// How a claim's record begins after its author; nothing else has no event and such a row.
const MARK: &[u8] = br#""events":[],"view":[{"table":"claims","#;
const VEHICLE: &str = "vehicle/";

/// A claim's row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct ClaimRow {
    node: String,
    process: Uuid,
}

/// The newest claim on a vehicle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    pub node: Arc<str>,
    pub process: Uuid,
    /// The claim's record: the epoch. 0 = from before this process.
    pub epoch: u64,
}

#[derive(Debug)]
pub struct Owners {
    node: String,
    process: Uuid,
    known: RwLock<HashMap<VehicleId, Owner>>,
    /// Vehicles of ours that another took, until somebody looks; one entry a vehicle.
    lost: Mutex<HashMap<VehicleId, u64>>,
    news: Notify,
}

impl Owners {
    pub fn new(node: String, process: Uuid) -> Self {
        Self { node, process, known: RwLock::default(), lost: Mutex::default(), news: Notify::new() }
    }

    /// Which process this is.
    pub fn process(&self) -> Uuid {
        self.process
    }

    /// Who took the vehicle last.
    pub fn of(&self, vehicle: &VehicleId) -> Option<Owner> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).get(vehicle).cloned()
    }

    /// Did this very process take it last?
    pub fn is_ours(&self, vehicle: &VehicleId) -> bool {
        self.of(vehicle).is_some_and(|owner| owner.process == self.process)
    }

    /// Vehicles that were ours and that another gateway has taken since the last call, with its epoch.
    pub async fn lost(&self) -> HashMap<VehicleId, u64> {
        loop {
            let lost = std::mem::take(&mut *self.lost_guard());
            if !lost.is_empty() {
                return lost;
            }
            self.news.notified().await;
        }
    }

    fn lost_guard(&self) -> MutexGuard<'_, HashMap<VehicleId, u64>> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn claim(&self, _: &VehicleId) -> Option<Box<RawValue>> {
        serde_json::value::to_raw_value(&ClaimRow { node: self.node.clone(), process: self.process }).ok()
    }

    /// Our own claim went through; its record may not have arrived yet. False = a newer one elsewhere has.
    pub(super) fn taken(&self, vehicle: &VehicleId, epoch: u64) -> bool {
        self.note(vehicle, &ClaimRow { node: self.node.clone(), process: self.process }, epoch);
        self.of(vehicle).is_some_and(|owner| owner.epoch == epoch)
    }

    fn note(&self, vehicle: &VehicleId, row: &ClaimRow, epoch: u64) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let before = known.get(vehicle);
        if before.is_some_and(|before| before.epoch >= epoch) {
            return;
        }
        let was_ours = before.is_some_and(|before| before.process == self.process);
        let node = Arc::from(row.node.as_str());
        known.insert(vehicle.clone(), Owner { node, process: row.process, epoch });
        drop(known);
        if was_ours && row.process != self.process {
            self.lost_guard().insert(vehicle.clone(), epoch);
            self.news.notify_one();
        }
    }

    /// What the view knows from before. Claims that came since are newer and stay.
    pub(super) fn load(&self, store: &dyn Store) -> Result<(), ReadError> {
        let mut after: Option<String> = None;
        loop {
            let page = store.scan(Table::Claims, "", after.as_deref(), PAGE, Order::Ascending)?;
            for (key, row) in page.rows {
                let damaged = || ReadError::Damaged(format!("claim on {key}"));
                let vehicle: VehicleId = key.parse().map_err(|_| damaged())?;
                let row: ClaimRow = serde_json::from_str(row.get()).map_err(|_| damaged())?;
                if self.of(&vehicle).is_none() {
                    self.note(&vehicle, &row, 0);
                }
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }
}

/// Picks the claims out of what is copied.
pub struct Observing(pub Arc<Owners>);

impl Observer for Observing {
    fn copied(&self, number: u64, body: &Body<'_>) {
        let Some(Ok(vehicle)) = body.stream.strip_prefix(VEHICLE).map(str::parse::<VehicleId>) else { return };
        if let Some(row) = claim_row(body.json) {
            self.0.note(&vehicle, &row, number);
        }
    }
}

/// The record's claim, if it is one. Every vehicle's record passes here, and most are large: only the beginning is looked at.
fn claim_row(json: &[u8]) -> Option<ClaimRow> {
    #[derive(Deserialize)]
    struct Claim<'a> {
        #[serde(borrow)]
        view: Vec<Change<'a>>,
    }
    #[derive(Deserialize)]
    struct Change<'a> {
        #[serde(borrow)]
        value: &'a RawValue,
    }
    let beginning = &json[..json.len().min(1_024)];
    if !beginning.windows(MARK.len()).any(|window| window == MARK) {
        return None;
    }
    let claim: Claim<'_> = serde_json::from_slice(json).ok()?;
    serde_json::from_str(claim.view.first()?.value.get()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(node: &str, process: Uuid) -> ClaimRow {
        ClaimRow { node: node.into(), process }
    }

    #[tokio::test]
    async fn a_newer_claim_elsewhere_is_told_once_and_an_older_one_is_not() {
        let (own, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let owners = Owners::new("a".into(), own);
        let vehicle: VehicleId = "V-1".parse().unwrap();
        owners.taken(&vehicle, 10);
        owners.note(&vehicle, &claim("b", other), 9);
        assert!(owners.is_ours(&vehicle), "an older claim that arrives late takes nothing away");
        owners.note(&vehicle, &claim("b", other), 11);
        assert!(!owners.is_ours(&vehicle));
        assert_eq!(owners.lost().await, HashMap::from([(vehicle.clone(), 11)]));
        assert!(owners.lost_guard().is_empty());
        assert!(!owners.taken(&vehicle, 10), "what was overtaken before it was known");
        assert!(owners.taken(&vehicle, 12));
    }

    #[test]
    fn only_claims_are_taken_for_claims() {
        let row = claim("a", Uuid::from_u128(7));
        let text = serde_json::to_string(&row).unwrap();
        let json = format!(
            r#"{{"by":{{"role":"gateway"}},"events":[],"view":[{{"table":"claims","key":"V","value":{text}}}]}}"#
        );
        assert_eq!(claim_row(json.as_bytes()), Some(row));
        let forged = r#"{"by":{"name":"\"events\":[],\"view\":[{\"table\":\"claims\","},"events":[{"a":1}]}"#;
        assert_eq!(claim_row(forged.as_bytes()), None);
    }
}
