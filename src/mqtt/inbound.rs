//! From the routers to the actors: decodes what cars published and tells it, grouped by car.
//!
//! Runs on a shard's ingest thread, a batch at a time. Bad payloads are counted and dropped; they never end a session,
//! and nothing here may wait longer than [`PATIENCE`].

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use rumqttd::protocol::Publish;

use super::Tell;
use super::metrics::{MqttMetrics, Reason};
use super::payload::{self, PayloadError};
use super::router::FROM;
use super::topics::{self, Channel};
use crate::actors::vehicle::{FromCar, TellError};
use crate::domain::VehicleId;
use crate::domain::twin::Report;

/// How long what a car sent waits for room in its mailbox, in [`STEP`]s.
const PATIENCE: Duration = Duration::from_millis(100);
const STEP: Duration = Duration::from_millis(5);
/// Vehicles remembered as stuck; beyond it they are all given their patience again.
const MAX_STUCK: usize = 1_024;

pub(super) struct Inbound {
    tell: Tell,
    metrics: Arc<MqttMetrics>,
    /// The batch's reports by car, each with its place in the batch: a report that found no room is read again from
    /// there, which is cheaper than copying every report for the rare case.
    groups: HashMap<VehicleId, Group>,
    /// Cars whose mailbox stayed full: the next message does not wait for them, or one stuck actor would slow down all.
    stuck: HashSet<VehicleId>,
}

#[derive(Default)]
struct Group {
    reports: Vec<Report>,
    places: Vec<usize>,
}

impl Inbound {
    pub(super) fn new(tell: Tell, metrics: Arc<MqttMetrics>) -> Self {
        Self { tell, metrics, groups: HashMap::new(), stuck: HashSet::new() }
    }

    pub(super) fn take(&mut self, batch: &[Publish]) {
        for (place, message) in batch.iter().enumerate() {
            let topic = message.topic.strip_prefix(FROM.as_bytes()).unwrap_or_default();
            // The gate published nothing else.
            let Some((vehicle, channel)) = topics::parse(topic) else { continue };
            match channel {
                Channel::Telemetry => self.report(vehicle, place, &message.payload),
                Channel::Event => self.fact(vehicle, batch, &message.payload),
                Channel::Ack => self.ack(vehicle, batch, &message.payload),
                Channel::Command => {}
            }
        }
        for (vehicle, group) in std::mem::take(&mut self.groups) {
            self.tell_reports(&vehicle, group, batch);
        }
    }

    fn report(&mut self, vehicle: &str, place: usize, payload: &[u8]) {
        let report = match payload::decode_report(payload) {
            Ok(report) => report,
            Err(error) => return self.refuse(vehicle, Reason::BadTelemetry, &error),
        };
        if let Some(group) = self.groups.get_mut(vehicle) {
            group.reports.push(report);
            group.places.push(place);
        } else if let Ok(vehicle) = vehicle.parse() {
            self.groups.insert(vehicle, Group { reports: vec![report], places: vec![place] });
        }
    }

    fn fact(&mut self, vehicle: &str, batch: &[Publish], payload: &[u8]) {
        let fact = match payload::decode_fact(payload) {
            Ok(fact) => fact,
            Err(error) => return self.refuse(vehicle, Reason::BadEvent, &error),
        };
        let is_told = self.tell_in_order(vehicle, batch, || FromCar::Fact(fact.clone()));
        if is_told { &self.metrics.facts } else { &self.metrics.facts_not_taken }.add(1);
    }

    fn ack(&mut self, vehicle: &str, batch: &[Publish], payload: &[u8]) {
        let ack = match payload::decode_ack(payload) {
            Ok(ack) => ack,
            Err(error) => return self.refuse(vehicle, Reason::BadAck, &error),
        };
        let is_told = self.tell_in_order(vehicle, batch, || FromCar::Ack(ack.clone()));
        if is_told { &self.metrics.acks } else { &self.metrics.acks_not_taken }.add(1);
    }

    /// Tells the reports that came before it, then this; false when there was no room.
    fn tell_in_order(&mut self, vehicle: &str, batch: &[Publish], message: impl Fn() -> FromCar) -> bool {
        if let Some((vehicle, group)) = self.groups.remove_entry(vehicle) {
            self.tell_reports(&vehicle, group, batch);
        }
        let Ok(vehicle) = vehicle.parse() else { return false };
        // The car has its PUBACK and will not send an answer again, so that it is worth the same patience as a report.
        self.tell_patiently(&vehicle, message)
    }

    fn tell_reports(&mut self, vehicle: &VehicleId, group: Group, batch: &[Publish]) {
        let Group { reports, places } = group;
        let count = reports.len() as u64;
        let mut first = Some(reports);
        // Each was read before, so it reads again.
        let read = |place: &usize| payload::decode_report(&batch[*place].payload).ok();
        let again = || places.iter().filter_map(read).collect();
        let is_told = self.tell_patiently(vehicle, || FromCar::Reports(first.take().unwrap_or_else(again)));
        if is_told { &self.metrics.reports } else { &self.metrics.reports_dropped }.add(count);
    }

    /// Waits for room in the car's mailbox, once for each time that it is stuck; false when there was none.
    fn tell_patiently(&mut self, vehicle: &VehicleId, mut message: impl FnMut() -> FromCar) -> bool {
        let mut waited = if self.stuck.contains(vehicle) { PATIENCE } else { Duration::ZERO };
        loop {
            match (self.tell)(vehicle, message()) {
                Ok(()) => {
                    self.stuck.remove(vehicle);
                    return true;
                }
                Err(TellError::Full) if waited < PATIENCE => {
                    std::thread::park_timeout(STEP);
                    waited += STEP;
                }
                Err(TellError::Full) => {
                    if self.stuck.len() >= MAX_STUCK {
                        self.stuck.clear();
                    }
                    self.stuck.insert(vehicle.clone());
                    return false;
                }
                Err(TellError::Unavailable) => return false,
            }
        }
    }

    fn refuse(&self, vehicle: &str, reason: Reason, error: &PayloadError) {
        self.metrics.count(reason);
        tracing::debug!(vehicle, reason = reason.name(), %error, "payload refused");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn message(topic: &str, payload: &str) -> Publish {
        Publish::new(format!("from/v1/{topic}"), payload.to_owned(), false)
    }

    fn telemetry(vehicle: &str, seq: u64) -> Publish {
        let payload = format!(r#"{{"seq":{seq},"at":"2026-11-21T22:36:46.000Z","signals":{{}}}}"#);
        message(&format!("{vehicle}/telemetry"), &payload)
    }

    type Told = Arc<Mutex<Vec<(String, String)>>>;

    /// Records what was told; the first `refusals` messages find no room.
    fn inbound(mut refusals: u32) -> (Inbound, Told, Arc<MqttMetrics>) {
        let told = Told::default();
        let (sink, metrics) = (Arc::clone(&told), Arc::new(MqttMetrics::default()));
        let full = Mutex::new(move || {
            let is_full = refusals > 0;
            refusals = refusals.saturating_sub(1);
            is_full
        });
        let tell: Tell = Arc::new(move |vehicle, message| {
            if full.lock().unwrap()() {
                return Err(TellError::Full);
            }
            let what = match message {
                FromCar::Reports(reports) => {
                    format!("reports {:?}", reports.iter().map(|report| report.seq).collect::<Vec<_>>())
                }
                FromCar::Fact(fact) => format!("fact {}", fact.seq),
                FromCar::Ack(_) => "ack".into(),
                other => format!("{other:?}"),
            };
            sink.lock().unwrap().push((vehicle.to_string(), what));
            Ok(())
        });
        (Inbound::new(tell, Arc::clone(&metrics)), told, metrics)
    }

    #[test]
    fn a_cars_reports_are_told_together_and_in_order_with_its_facts() {
        let (mut inbound, told, metrics) = inbound(0);
        let ignition = r#"{"seq":9,"at":"2026-11-21T22:36:46.000Z","type":"ignition","on":true}"#;
        inbound.take(&[
            telemetry("A", 1),
            telemetry("B", 1),
            telemetry("A", 2),
            message("A/event", ignition),
            telemetry("A", 3),
        ]);
        let mut told = told.lock().unwrap().clone();
        let of = |vehicle: &str, told: &[(String, String)]| {
            told.iter().filter(|(name, _)| name == vehicle).map(|(_, what)| what.clone()).collect::<Vec<_>>()
        };
        assert_eq!(of("A", &told), ["reports [1, 2]", "fact 9", "reports [3]"]);
        told.retain(|(name, _)| name == "B");
        assert_eq!(of("B", &told), ["reports [1]"]);
        assert_eq!((metrics.reports.get(), metrics.facts.get()), (4, 1));
    }

    #[test]
    fn reports_wait_for_room_and_none_is_lost_meanwhile() {
        let (mut inbound, told, metrics) = inbound(3);
        inbound.take(&[telemetry("A", 1), telemetry("A", 2)]);
        assert_eq!(told.lock().unwrap()[0].1, "reports [1, 2]");
        assert_eq!(metrics.reports_dropped.get(), 0);
    }

    #[test]
    fn a_stuck_car_is_waited_for_once_only() {
        let (mut inbound, told, metrics) = inbound(22);
        inbound.take(&[telemetry("A", 1)]);
        inbound.take(&[telemetry("A", 2)]);
        assert_eq!(metrics.reports_dropped.get(), 2, "21 tries for the first, one for the second");
        inbound.take(&[telemetry("A", 3)]);
        assert_eq!(told.lock().unwrap()[0].1, "reports [3]");
    }

    #[test]
    fn a_stuck_car_is_not_waited_for_with_each_of_its_answers_either() {
        let (mut inbound, told, metrics) = inbound(22);
        let ack = r#"{"command_id":"0193e5a6-0000-7000-8000-000000000001","at":"2026-11-21T22:36:46.000Z","status":"succeeded"}"#;
        inbound.take(&[message("A/ack", ack), message("A/ack", ack), message("A/ack", ack)]);
        assert_eq!(metrics.acks_not_taken.get(), 2, "21 tries for the first, one for the second");
        assert_eq!(*told.lock().unwrap(), [("A".to_owned(), "ack".to_owned())]);
        assert_eq!(metrics.acks.get(), 1);
    }

    #[test]
    fn bad_payloads_are_counted_by_channel_and_harm_no_other() {
        let (mut inbound, told, metrics) = inbound(0);
        inbound.take(&[
            message("A/telemetry", "{"),
            message("A/event", "[]"),
            message("A/ack", "null"),
            telemetry("A", 1),
        ]);
        assert_eq!(told.lock().unwrap().len(), 1);
        for reason in [Reason::BadTelemetry, Reason::BadEvent, Reason::BadAck] {
            assert_eq!(metrics.counted(reason), 1);
        }
    }
}
