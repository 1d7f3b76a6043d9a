//! Messages from the broker between their arrival and their PUBACK: MQTT wants PUBACKs in the order of arrival, and ours
//! says that the message was handed over or leads to nothing.
//!
//! Pure, with time as an argument. A fact or an answer whose car has no room waits a moment; the PUBACKs behind it wait
//! with it, so that patience is short, and a car that wore it out gets none until it takes something again.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use rumqttc::Publish;

use crate::domain::VehicleId;
use crate::domain::command::{Ack, Fact};

/// More and nothing is read from the broker. Brokers have fewer than this under way to a client, mostly 20.
const MAX: usize = 256;
const PATIENCE: Duration = Duration::from_secs(1);
/// Cars remembered as stuck; beyond it they are all given their patience again.
const MAX_STUCK: usize = 1_024;

/// What is worth waiting for.
#[derive(Debug, Clone)]
pub(super) enum Lasting {
    Fact(Fact),
    Ack(Ack),
}

#[derive(Default)]
pub(super) struct Window {
    items: VecDeque<Item>,
    waiting: usize,
    stuck: HashSet<VehicleId>,
}

struct Item {
    /// Without topic and payload; `None` = QoS 0.
    publish: Option<Publish>,
    waits: Option<Waits>,
}

struct Waits {
    vehicle: VehicleId,
    message: Lasting,
    until: Duration,
}

impl Window {
    pub(super) fn is_full(&self) -> bool {
        self.items.len() >= MAX
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.waiting > 0
    }

    /// Something of this car waits, so that what comes later must not overtake it.
    pub(super) fn holds(&self, vehicle: &VehicleId) -> bool {
        self.waiting > 0 && self.waits().any(|waits| waits.vehicle == *vehicle)
    }

    fn waits(&self) -> impl Iterator<Item = &Waits> {
        self.items.iter().filter_map(|item| item.waits.as_ref())
    }

    /// A message that is done with.
    pub(super) fn settled(&mut self, publish: &Publish) {
        if let Some(publish) = puback_of(publish) {
            self.items.push_back(Item { publish: Some(publish), waits: None });
        }
    }

    /// A message that found no room; false = its car is stuck, and it is done with.
    pub(super) fn wait(&mut self, publish: &Publish, vehicle: VehicleId, message: Lasting, now: Duration) -> bool {
        if self.stuck.contains(&vehicle) {
            self.settled(publish);
            return false;
        }
        let waits = Waits { vehicle, message, until: now + PATIENCE };
        self.items.push_back(Item { publish: puback_of(publish), waits: Some(waits) });
        self.waiting += 1;
        true
    }

    /// Tries those that wait again, each car's in order. `try_again` answers false when there is no room still; what
    /// waited in vain is returned.
    pub(super) fn retry(
        &mut self,
        now: Duration,
        mut try_again: impl FnMut(&VehicleId, &Lasting) -> bool,
    ) -> Vec<Lasting> {
        let (mut in_vain, mut without_room) = (Vec::new(), HashSet::new());
        for item in &mut self.items {
            let Some(Waits { vehicle, message, until }) = &item.waits else { continue };
            if !without_room.contains(vehicle) && try_again(vehicle, message) {
                self.stuck.remove(vehicle);
            } else {
                without_room.insert(vehicle.clone());
                if now < *until {
                    continue;
                }
                if self.stuck.len() >= MAX_STUCK {
                    self.stuck.clear();
                }
                self.stuck.insert(vehicle.clone());
                in_vain.push(message.clone());
            }
            item.waits = None;
            self.waiting -= 1;
        }
        self.items.retain(|item| item.publish.is_some() || item.waits.is_some());
        in_vain
    }

    /// A message of the car was taken without waiting.
    pub(super) fn flows(&mut self, vehicle: &VehicleId) {
        if !self.stuck.is_empty() {
            self.stuck.remove(vehicle);
        }
    }

    /// The next message to acknowledge.
    pub(super) fn next_puback(&mut self) -> Option<Publish> {
        // What waits at QoS 0 has no PUBACK that could be late.
        let index = self.items.iter().position(|item| item.publish.is_some())?;
        if self.items[index].waits.is_some() {
            return None;
        }
        self.items.remove(index)?.publish
    }

    /// What still waits, for the end of the connection.
    pub(super) fn unfinished(&self) -> impl Iterator<Item = &Lasting> {
        self.waits().map(|waits| &waits.message)
    }
}

/// All that a PUBACK is made from.
fn puback_of(publish: &Publish) -> Option<Publish> {
    let has_answer = publish.qos != rumqttc::QoS::AtMostOnce;
    has_answer.then(|| Publish { pkid: publish.pkid, ..Publish::new("", publish.qos, Vec::new()) })
}

#[cfg(test)]
mod tests {
    use rumqttc::QoS;

    use super::*;
    use crate::domain::Timestamp;
    use crate::domain::command::FactKind;

    const MS: Duration = Duration::from_millis(1);

    fn car(id: &str) -> VehicleId {
        id.parse().expect("an id")
    }

    fn publish(pkid: u16) -> Publish {
        let qos = if pkid == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce };
        Publish { pkid, ..Publish::new("v1/A/event", qos, "{}") }
    }

    fn fact(seq: u64) -> Lasting {
        Lasting::Fact(Fact { boot: 0, seq, at: Timestamp(1), kind: FactKind::Ignition { on: true } })
    }

    fn seq(lasting: &Lasting) -> u64 {
        match lasting {
            Lasting::Fact(fact) => fact.seq,
            Lasting::Ack(_) => 0,
        }
    }

    fn pubacks(window: &mut Window) -> Vec<u16> {
        std::iter::from_fn(|| window.next_puback()).map(|publish| publish.pkid).collect()
    }

    #[test]
    fn nothing_is_acknowledged_before_it_was_handed_over_nor_out_of_order() {
        let mut window = Window::default();
        window.settled(&publish(1));
        assert!(window.wait(&publish(2), car("A"), fact(2), MS));
        window.settled(&publish(3));
        window.settled(&publish(0));
        assert!(window.wait(&publish(0), car("B"), fact(9), MS));
        assert_eq!(pubacks(&mut window), [1]);
        assert!(window.holds(&car("A")) && window.holds(&car("B")) && !window.holds(&car("C")));
        assert!(window.retry(2 * MS, |_, _| false).is_empty());
        assert_eq!(pubacks(&mut window), [0; 0]);
        assert!(window.retry(3 * MS, |_, _| true).is_empty());
        assert_eq!(pubacks(&mut window), [2, 3]);
        assert!(!window.is_waiting() && window.items.is_empty());
    }

    #[test]
    fn a_cars_messages_stay_in_order_and_another_cars_go_on() {
        let mut window = Window::default();
        for (pkid, id) in [(1, "A"), (2, "A"), (3, "B")] {
            assert!(window.wait(&publish(pkid), car(id), fact(pkid.into()), MS));
        }
        let mut tried = Vec::new();
        window.retry(2 * MS, |vehicle, message| {
            tried.push(seq(message));
            *vehicle != car("A")
        });
        assert_eq!(tried, [1, 3], "the second of A waits behind the first");
        assert!(window.holds(&car("A")) && !window.holds(&car("B")));
    }

    #[test]
    fn what_waits_for_too_long_is_given_up_and_its_car_gets_no_patience_until_it_takes_something() {
        let mut window = Window::default();
        assert!(window.wait(&publish(1), car("A"), fact(1), MS));
        let in_vain = window.retry(2 * PATIENCE, |_, _| false);
        assert_eq!(in_vain.iter().map(seq).collect::<Vec<_>>(), [1]);
        assert_eq!(pubacks(&mut window), [1]);
        assert!(!window.wait(&publish(2), car("A"), fact(2), 2 * PATIENCE));
        assert_eq!(pubacks(&mut window), [2]);
        window.flows(&car("A"));
        assert!(window.wait(&publish(3), car("A"), fact(3), 3 * PATIENCE));
    }

    #[test]
    fn a_window_that_is_full_says_so() {
        let mut window = Window::default();
        (1..=MAX as u16).for_each(|pkid| window.settled(&publish(pkid)));
        assert!(window.is_full());
        assert_eq!(window.next_puback().map(|publish| publish.pkid), Some(1));
        assert!(!window.is_full());
    }
}
