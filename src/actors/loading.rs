//! From the store to an actor: which vehicles exist, and what each starts from. Blocks on the disk.

use std::collections::BTreeSet;

use super::fleet::{LinkKnown, Shared};
use super::rows::{SignalRow, StateRow};
use super::vehicle::{Start, stream};
use crate::domain::VehicleId;
use crate::domain::twin::Twin;
use crate::domain::vehicle::{Event, Vehicle};
use crate::store::{Epoch, Order, ReadError, Store, StorePosition, Table};

/// Records read at once.
const READ_PAGE: usize = 512;

pub(super) fn load_registered(store: &dyn Store, max: usize) -> Result<BTreeSet<VehicleId>, ReadError> {
    let mut registered = BTreeSet::new();
    let mut after: Option<String> = None;
    while registered.len() < max {
        let page = store.scan(Table::Vehicles, "", after.as_deref(), READ_PAGE, Order::Ascending)?;
        for (key, _) in page.rows {
            registered.insert(key.parse().map_err(|_| ReadError::Damaged(format!("vehicle row {key}")))?);
        }
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    Ok(registered)
}

/// Folds what is stored of the vehicle. The right to write it has been taken before, or what is read may be old when it is
/// written; `epoch` is that claim's.
pub(super) fn load(shared: &Shared, id: &VehicleId, epoch: Epoch, link: LinkKnown) -> Result<Start, ReadError> {
    let now = shared.clock.now();
    let mut vehicle = Vehicle::new(id.clone());
    let mut twin = Twin::new(now);
    let mut last = StorePosition(0);
    // The record that carries a folded state is included in it.
    let mut is_included = false;
    if let Some(row) = shared.store.get_here(Table::VehicleStates, id.as_str())? {
        let row: StateRow = serde_json::from_str(row.get()).map_err(|error| ReadError::Damaged(error.to_string()))?;
        (vehicle, last, is_included) = (row.vehicle, row.after, true);
        for (path, SignalRow { value, at }) in row.signals {
            twin.note(&path, value, at);
        }
    }
    loop {
        let records = shared.store.read(&stream(id), last, READ_PAGE)?;
        let is_last_page = records.len() < READ_PAGE;
        for record in records {
            last = record.position;
            if std::mem::take(&mut is_included) {
                continue;
            }
            for event in &record.events {
                let event: Event = serde_json::from_str(event.get())
                    .map_err(|error| ReadError::Damaged(format!("record {}: {error}", record.position)))?;
                vehicle.apply(&event);
            }
        }
        if is_last_page {
            break;
        }
    }
    if link.is_online {
        twin.connected(now, link.epoch);
    }
    Ok(Start { vehicle, twin, last, epoch, address: link.address })
}
