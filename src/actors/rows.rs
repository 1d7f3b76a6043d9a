//! What a vehicle's record looks like in the view: the rows that queries read and an actor starts from.
//!
//! Every row is written in the same durable step as the events it reflects.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use crate::domain::card::Alert;
use crate::domain::twin::{Report, SignalPath, SignalValue, Twin};
use crate::domain::vehicle::{Details, Event, Registered, Vehicle};
use crate::domain::{CommandId, KeyId, RentalId, RequestId, Timestamp, VehicleId};
use crate::store::{StorePosition, Table, ViewChange};

/// A row of `Commands`, `Rentals` or `UsageRequests`: the thing with its vehicle.
#[derive(Debug, Serialize, Deserialize)]
pub struct Row<T> {
    pub vehicle_id: VehicleId,
    #[serde(flatten)]
    pub item: T,
}

/// A row of `Keys`: as [`Row`], with the holder's token.
#[derive(Debug, Serialize, Deserialize)]
pub struct KeyRow<T> {
    pub vehicle_id: VehicleId,
    pub token: String,
    #[serde(flatten)]
    pub item: T,
}

/// A row of `Vehicles`: that it exists, and what an operator said of it.
#[derive(Debug, Serialize)]
struct VehicleRow<'a> {
    vehicle_id: &'a VehicleId,
    registered: &'a Option<Registered>,
    details: &'a Details,
}

/// A row of `VehicleStates`: the folded record, so that an actor need not read its whole stream.
#[derive(Debug, Serialize, Deserialize)]
pub struct StateRow {
    /// The stream's last record before the one that carries this row; the row includes that one's events.
    pub after: StorePosition,
    pub vehicle: Vehicle,
    pub signals: BTreeMap<String, SignalRow>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct SignalRow {
    pub value: SignalValue,
    pub at: Timestamp,
}

/// All signals newer than `after`, as journals keep them.
pub fn signal_rows(twin: &Twin, after: Option<Timestamp>) -> BTreeMap<String, SignalRow> {
    twin.signals()
        .filter(|(_, signal)| after.is_none_or(|after| signal.at > after))
        .map(|(path, signal)| (path.as_str().to_owned(), SignalRow { value: signal.value.clone(), at: signal.at }))
        .collect()
}

/// The signals of one report, all of its time.
pub fn report_rows(report: &Report, at: Timestamp) -> BTreeMap<String, SignalRow> {
    let row =
        |(path, value): &(SignalPath, SignalValue)| (path.as_str().to_owned(), SignalRow { value: value.clone(), at });
    report.signals.iter().map(row).collect()
}

/// Which rows a list of events touches.
#[derive(Debug, Default)]
pub struct Touched {
    is_registration: bool,
    commands: BTreeSet<CommandId>,
    requests: BTreeSet<RequestId>,
    rentals: BTreeSet<RentalId>,
    keys: BTreeSet<KeyId>,
    alerts: Vec<Alert>,
}

impl Touched {
    pub fn by<'a>(events: impl IntoIterator<Item = &'a Event>) -> Self {
        let mut touched = Self::default();
        for event in events {
            touched.add(event);
        }
        touched
    }

    fn add(&mut self, event: &Event) {
        match event {
            Event::VehicleRegistered { .. } | Event::VehicleChanged { .. } => self.is_registration = true,
            Event::CommandAccepted { command } => {
                self.commands.insert(command.command_id);
            }
            Event::CommandMoved { command_id, .. } => {
                self.commands.insert(*command_id);
            }
            Event::FactTaken { .. } => {}
            Event::UsageRequested { request } => {
                self.requests.insert(request.request_id);
            }
            Event::UsageDecided { request_id, .. } => {
                self.requests.insert(*request_id);
            }
            Event::RentalReserved { rental } => {
                self.rentals.insert(rental.rental_id);
                self.requests.insert(rental.request_id);
            }
            Event::ReturnDoubted { rental_id, alert } => {
                self.rentals.insert(*rental_id);
                self.alerts.push(alert.clone());
            }
            Event::FuelFell { alert, .. } => self.alerts.push(alert.clone()),
            Event::RentalMoved { rental_id, .. } | Event::RentalUsed { rental_id, .. } => {
                self.rentals.insert(*rental_id);
            }
            Event::RentalExtended { rental_id, key_id, .. } => {
                self.rentals.insert(*rental_id);
                self.keys.insert(*key_id);
            }
            Event::KeyGranted { key } => {
                self.keys.insert(key.grant.key_id);
            }
            Event::KeyDelivered { key_id, .. }
            | Event::KeyRevoked { key_id, .. }
            | Event::KeyLeased { key_id, .. }
            | Event::KeyDelegated { key_id, .. }
            | Event::DelegationRevoked { key_id, .. } => {
                self.keys.insert(*key_id);
            }
        }
    }

    pub fn commands(&self) -> impl Iterator<Item = CommandId> + '_ {
        self.commands.iter().copied()
    }

    /// More than a command's progress changed: consoles want the vehicle anew.
    pub fn is_vehicle(&self) -> bool {
        self.is_registration || !self.rentals.is_empty() || !self.keys.is_empty() || !self.requests.is_empty()
    }

    /// The rows as `vehicle` (after the events) has them.
    pub fn rows(&self, vehicle: &Vehicle, token: impl Fn(&crate::domain::key::Key) -> String) -> Vec<ViewChange> {
        let vehicle_id = &vehicle.vehicle_id;
        let mut rows = Vec::new();
        if self.is_registration {
            let item = VehicleRow { vehicle_id, registered: &vehicle.registered, details: &vehicle.details };
            rows.push(row(Table::Vehicles, vehicle_id.to_string(), &item));
        }
        for command in self.commands.iter().filter_map(|id| vehicle.command(*id)) {
            let item = Row { vehicle_id: vehicle_id.clone(), item: command };
            rows.push(row(Table::Commands, command.command_id.to_string(), &item));
        }
        for request in self.requests.iter().filter_map(|id| vehicle.usage_request(*id)) {
            let item = Row { vehicle_id: vehicle_id.clone(), item: request };
            rows.push(row(Table::UsageRequests, request.request_id.to_string(), &item));
        }
        for rental in self.rentals.iter().filter_map(|id| vehicle.rental(*id)) {
            let item = Row { vehicle_id: vehicle_id.clone(), item: rental };
            rows.push(row(Table::Rentals, rental.rental_id.to_string(), &item));
        }
        for key in self.keys.iter().filter_map(|id| vehicle.key(*id)) {
            let item = KeyRow { vehicle_id: vehicle_id.clone(), token: token(key), item: key };
            rows.push(row(Table::Keys, key.grant.key_id.to_string(), &item));
        }
        let alerts = self.alerts.iter();
        rows.extend(alerts.map(|alert| row(Table::Alerts, alert.alert_id.to_string(), alert)));
        rows.into_iter().flatten().collect()
    }

    /// Opened by these events.
    pub fn alerts(&self) -> &[Alert] {
        &self.alerts
    }
}

/// `None` only if the value does not serialise, which is a bug and is logged as one: the journal still has the events.
pub fn row<T: Serialize>(table: Table, key: String, value: &T) -> Option<ViewChange> {
    json(value).map(|value| ViewChange { table, key, row: value.into() })
}

pub fn json<T: Serialize>(value: &T) -> Option<Box<RawValue>> {
    match to_raw_value(value) {
        Ok(json) => Some(json),
        Err(error) => {
            tracing::error!(%error, "a value of ours does not serialise");
            None
        }
    }
}
