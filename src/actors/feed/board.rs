//! What the feed knows and how a console reads it: bounded, in one sequence, newest state per vehicle and command,
//! every change of an alert and every decision. The feed's actor owns one; it decides nothing about the business.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use uuid::Uuid;

use super::log::{Compact, Ring, Seq};
use super::{AlertChanged, CommandChanged, DecisionMade};
use crate::actors::vehicle::Snapshot;
use crate::domain::{AlertId, CommandId, Position, VehicleId};

/// How much is kept, and how much one batch may hold.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// As many as the fleet may have.
    pub vehicles: usize,
    /// Commands by their newest state; a bulk command to 10 000 cars fits.
    pub commands: usize,
    pub alerts: usize,
    pub open_alerts: usize,
    pub decisions: usize,
    pub batch_vehicles: usize,
    /// Of commands, alerts and decisions each.
    pub batch_events: usize,
    /// Entries looked at for one batch of a narrow subscription; the rest comes with the next one.
    pub batch_scan: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            vehicles: 200_000,
            commands: 16_384,
            alerts: 4_096,
            open_alerts: 4_096,
            decisions: 4_096,
            batch_vehicles: 500,
            batch_events: 200,
            batch_scan: 20_000,
        }
    }
}

/// Where a console's reading stands in each of the four lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    pub vehicles: Seq,
    pub commands: Seq,
    pub alerts: Seq,
    pub decisions: Seq,
}

impl Cursor {
    pub fn at(seq: Seq) -> Self {
        Self { vehicles: seq, commands: seq, alerts: seq, decisions: seq }
    }

    /// The number a console resumes after: everything up to it was given, some beyond it may have been.
    pub fn seq(self) -> Seq {
        self.vehicles.min(self.commands).min(self.alerts).min(self.decisions)
    }
}

/// Where a console wants to read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    Start,
    /// On, within one session.
    Cursor(Cursor),
    /// After a lost connection; a `stream` that is not ours leads to a snapshot.
    Resume {
        after: Seq,
        stream: Option<Uuid>,
    },
}

/// What a console gets at once.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Forget what you know; else it adds to what you know.
    pub is_snapshot: bool,
    pub stream: Uuid,
    pub vehicles: Vec<(Seq, Arc<Snapshot>)>,
    pub commands: Vec<CommandChanged>,
    /// Of a snapshot: those open; else each change.
    pub alerts: Vec<AlertChanged>,
    pub decisions: Vec<DecisionMade>,
    /// Changes of commands were dropped before this console read them; the vehicles' pending commands and
    /// `GET /v1/commands/{id}` tell what became of them.
    pub missed_commands: bool,
    /// Where to read on after this batch.
    pub cursor: Cursor,
    pub head: Seq,
}

impl Batch {
    pub fn is_empty(&self) -> bool {
        !self.is_snapshot
            && !self.missed_commands
            && self.vehicles.is_empty()
            && self.commands.is_empty()
            && self.alerts.is_empty()
            && self.decisions.is_empty()
    }

    /// More waits already.
    pub fn has_more(&self) -> bool {
        self.cursor.seq() < self.head
    }
}

/// A box of degrees; `west > east` runs over the 180th meridian.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Area {
    pub south: f64,
    pub west: f64,
    pub north: f64,
    pub east: f64,
}

impl Area {
    /// `None` unless it is a box on the globe.
    pub fn new([south, west, north, east]: [f64; 4]) -> Option<Self> {
        let corner = |latitude, longitude| Position { latitude, longitude }.is_valid();
        let is_fit = corner(south, west) && corner(north, east) && south <= north;
        is_fit.then_some(Self { south, west, north, east })
    }

    pub fn contains(self, position: Position) -> bool {
        let Position { latitude, longitude } = position;
        let in_band = (self.south..=self.north).contains(&latitude);
        let in_sector = if self.west <= self.east {
            (self.west..=self.east).contains(&longitude)
        } else {
            longitude >= self.west || longitude <= self.east
        };
        in_band && in_sector
    }
}

/// Which vehicles, and commands to them, a console wants. Alerts and decisions come to every console in full.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Filter {
    pub area: Option<Area>,
    pub vehicles: Option<HashSet<VehicleId>>,
}

impl Filter {
    pub const MAX_VEHICLES: usize = 500;

    fn wants(&self, vehicle: &VehicleId) -> bool {
        self.vehicles.as_ref().is_none_or(|wanted| wanted.contains(vehicle))
    }

    fn covers(&self, snapshot: &Snapshot) -> bool {
        self.area.is_none_or(|area| snapshot.twin.fix().is_some_and(|fix| area.contains(fix.position)))
    }
}

/// What a console subscribed to, and which vehicles it has been shown inside its area: one that leaves is sent once
/// more, so that the console sees it go.
#[derive(Debug, Default)]
pub struct View {
    pub filter: Filter,
    shown: HashSet<VehicleId>,
}

impl View {
    pub fn of(filter: Filter) -> Self {
        Self { filter, shown: HashSet::new() }
    }

    fn takes(&mut self, vehicle: &VehicleId, snapshot: &Snapshot) -> bool {
        if !self.filter.wants(vehicle) {
            return false;
        }
        if self.filter.area.is_none() {
            return true;
        }
        if self.filter.covers(snapshot) {
            self.shown.insert(vehicle.clone());
            return true;
        }
        self.shown.remove(vehicle)
    }
}

#[derive(Debug)]
pub struct Board {
    limits: Limits,
    stream: Uuid,
    head: Seq,
    vehicles: Compact<VehicleId, Arc<Snapshot>>,
    commands: Compact<CommandId, CommandChanged>,
    alerts: Ring<AlertChanged>,
    open_alerts: BTreeMap<AlertId, AlertChanged>,
    decisions: Ring<DecisionMade>,
}

/// How much is held, for the metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    pub vehicles: usize,
    pub commands: usize,
    pub alerts: usize,
    pub open_alerts: usize,
    pub decisions: usize,
    /// Changes dropped for want of room, since the start.
    pub dropped: u64,
}

impl Board {
    /// `start` is above every number an earlier life of the gateway gave out, so that a console that resumes with one
    /// of those is seen to have missed something.
    pub fn new(limits: Limits, stream: Uuid, start: Seq) -> Self {
        Self {
            limits,
            stream,
            head: start,
            vehicles: Compact::new(limits.vehicles, start),
            commands: Compact::new(limits.commands, start),
            alerts: Ring::new(limits.alerts, start),
            open_alerts: BTreeMap::new(),
            decisions: Ring::new(limits.decisions, start),
        }
    }

    /// Returns whether the vehicle is new here.
    pub fn put_vehicle(&mut self, snapshot: Arc<Snapshot>) -> bool {
        self.head += 1;
        self.vehicles.put(self.head, snapshot.vehicle.vehicle_id.clone(), snapshot)
    }

    pub fn vehicle(&self, vehicle: &VehicleId) -> Option<Arc<Snapshot>> {
        self.vehicles.get(vehicle).cloned()
    }

    pub fn put_command(&mut self, change: CommandChanged) {
        self.head += 1;
        self.commands.put(self.head, change.command.command_id, change);
    }

    pub fn put_alert(&mut self, change: AlertChanged) {
        self.head += 1;
        if change.is_open() {
            self.open_alerts.insert(change.alert_id(), change.clone());
            if self.open_alerts.len() > self.limits.open_alerts {
                // Ids are in the order of time: the oldest goes; `GET /v1/alerts` has all.
                self.open_alerts.pop_first();
            }
        } else {
            self.open_alerts.remove(&change.alert_id());
        }
        self.alerts.push(self.head, change);
    }

    pub fn put_decision(&mut self, decision: DecisionMade) {
        self.head += 1;
        self.decisions.push(self.head, decision);
    }

    /// Nobody watches: forgets what will be sent again when somebody does.
    pub fn forget_vehicles(&mut self) {
        self.vehicles.clear(self.head);
        self.commands.clear(self.head);
    }

    pub fn head(&self) -> Seq {
        self.head
    }

    /// Is a command, an alert or a decision among what this reader has not read?
    pub fn has_more_than_vehicles(&self, cursor: Cursor) -> bool {
        self.commands.after(cursor.commands).next().is_some()
            || self.alerts.after(cursor.alerts).next().is_some()
            || self.decisions.after(cursor.decisions).next().is_some()
    }

    pub fn stream(&self) -> Uuid {
        self.stream
    }

    pub fn held(&self) -> Held {
        Held {
            vehicles: self.vehicles.len(),
            commands: self.commands.len(),
            alerts: self.alerts.len(),
            open_alerts: self.open_alerts.len(),
            decisions: self.decisions.len(),
            dropped: self.commands.dropped() + self.alerts.dropped() + self.decisions.dropped(),
        }
    }

    /// What comes next for a console; empty when it has everything.
    pub fn read(&self, from: From, view: &mut View) -> Batch {
        let cursor = match from {
            From::Start => return self.read_from_start(view),
            From::Cursor(cursor) => cursor,
            From::Resume { after, stream } => {
                let is_ours = stream.is_none_or(|stream| stream == self.stream) && after <= self.head;
                if !is_ours || after < self.commands.floor() {
                    return self.read_from_start(view);
                }
                Cursor::at(after)
            }
        };
        // A change of an alert or a decision is gone: start over rather than pass it by in silence.
        if cursor.alerts < self.alerts.floor() || cursor.decisions < self.decisions.floor() {
            return self.read_from_start(view);
        }
        self.read_on(cursor, view)
    }

    fn read_from_start(&self, view: &mut View) -> Batch {
        view.shown.clear();
        // The vehicles from the first; of the rest what happens from now on, and the alerts that are open.
        let cursor = Cursor { vehicles: 0, ..Cursor::at(self.head) };
        let newest = self.open_alerts.values().rev().take(self.limits.batch_events);
        let mut alerts: Vec<_> = newest.cloned().collect();
        alerts.reverse();
        Batch { is_snapshot: true, alerts, ..self.read_on(cursor, view) }
    }

    fn read_on(&self, cursor: Cursor, view: &mut View) -> Batch {
        let Limits { batch_vehicles, batch_events, batch_scan, .. } = self.limits;
        let mut next = Cursor::at(self.head);
        let mut vehicles = Vec::new();
        let changed = self.vehicles.after(cursor.vehicles);
        next.vehicles = take(changed, self.head, batch_vehicles, batch_scan, |(seq, id, snapshot)| {
            let takes = view.takes(id, snapshot);
            if takes {
                vehicles.push((seq, snapshot.clone()));
            }
            (seq, takes)
        });
        let mut commands = Vec::new();
        let changed = self.commands.after(cursor.commands);
        next.commands = take(changed, self.head, batch_events, batch_scan, |(seq, _, change)| {
            let is_covered = || self.vehicles.get(&change.vehicle).is_none_or(|known| view.filter.covers(known));
            let takes = view.filter.wants(&change.vehicle) && is_covered();
            if takes {
                commands.push(change.clone());
            }
            (seq, takes)
        });
        let mut alerts = Vec::new();
        next.alerts = take(self.alerts.after(cursor.alerts), self.head, batch_events, batch_scan, |(seq, change)| {
            alerts.push(change.clone());
            (seq, true)
        });
        let mut decisions = Vec::new();
        let made = self.decisions.after(cursor.decisions);
        next.decisions = take(made, self.head, batch_events, batch_scan, |(seq, decision)| {
            decisions.push(decision.clone());
            (seq, true)
        });
        Batch {
            is_snapshot: false,
            stream: self.stream,
            vehicles,
            commands,
            alerts,
            decisions,
            missed_commands: cursor.commands < self.commands.floor(),
            cursor: next,
            head: self.head,
        }
    }
}

/// Hands entries to `visit` (which tells their number, and whether it took them) until `most` are taken or `scan` are
/// seen; returns the last number seen, or `head` when nothing is left.
fn take<T>(
    entries: impl Iterator<Item = T>,
    head: Seq,
    most: usize,
    scan: usize,
    mut visit: impl FnMut(T) -> (Seq, bool),
) -> Seq {
    let (mut taken, mut last) = (0, head);
    for (seen, entry) in entries.enumerate() {
        if taken == most || seen == scan {
            return last;
        }
        let (seq, takes) = visit(entry);
        last = seq;
        taken += usize::from(takes);
    }
    head
}
