//! Who is connected: one seat per car, with what waits to be written to it.
//!
//! The dispatcher puts commands in, the sweeper and whoever kicks leave a reason, the session takes both out. Nothing
//! here waits; a lock is held for a few instructions only.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use bytes::Bytes;

use super::metrics::Reason;
use crate::certs::{PeerIdentity, Serial};
use crate::domain::VehicleId;

/// The gate's monotonic time in steps of 100 ms.
pub(super) type Tick = u32;
pub(super) const TICK_MS: u64 = 100;

/// One session as everybody but the session itself sees it.
pub(super) struct Seat {
    pub(super) vehicle: VehicleId,
    pub(super) epoch: u64,
    issuer: u32,
    serial: Serial,
    /// Silence allowed, in ticks.
    patience: Tick,
    heard: AtomicU32,
    /// False while the gate itself does not listen: then silence is not the car's.
    is_listening: AtomicBool,
    /// When a write began to wait, + 1; 0 = none waits.
    blocked_since: AtomicU32,
    mailbox: Mutex<Mailbox>,
}

#[derive(Default)]
pub(super) struct Mailbox {
    pub(super) queue: VecDeque<Bytes>,
    /// Why the session must end.
    pub(super) kick: Option<Reason>,
    pub(super) waker: Option<Waker>,
}

impl Seat {
    pub(super) fn new(peer: &PeerIdentity, epoch: u64, patience: Tick, now: Tick) -> Self {
        Self {
            vehicle: peer.vehicle.clone(),
            epoch,
            issuer: peer.issuer,
            serial: peer.serial,
            patience,
            heard: AtomicU32::new(now),
            is_listening: AtomicBool::new(true),
            blocked_since: AtomicU32::new(0),
            mailbox: Mutex::default(),
        }
    }

    pub(super) fn mailbox(&self) -> MutexGuard<'_, Mailbox> {
        self.mailbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a message in; a mailbox that is full ends the session, since the outbox sends everything again.
    pub(super) fn put(&self, payload: Bytes, mailbox_max: usize) {
        let mut mailbox = self.mailbox();
        if mailbox.queue.len() >= mailbox_max {
            mailbox.kick.get_or_insert(Reason::MailboxFull);
        } else {
            mailbox.queue.push_back(payload);
        }
        wake(mailbox);
    }

    /// The first reason stays.
    pub(super) fn kick(&self, reason: Reason) {
        let mut mailbox = self.mailbox();
        mailbox.kick.get_or_insert(reason);
        wake(mailbox);
    }

    pub(super) fn heard(&self, now: Tick) {
        self.heard.store(now, Ordering::Relaxed);
    }

    /// The gate stops or begins again to read from the car; true when that is new.
    pub(super) fn listens(&self, is_listening: bool, now: Tick) -> bool {
        let is_new = self.is_listening.swap(is_listening, Ordering::Relaxed) != is_listening;
        if is_new {
            self.heard(now);
        }
        is_new
    }

    pub(super) fn write_waits(&self, now: Tick) {
        let _ =
            self.blocked_since.compare_exchange(0, now.wrapping_add(1).max(1), Ordering::Relaxed, Ordering::Relaxed);
    }

    pub(super) fn write_moves(&self) {
        self.blocked_since.store(0, Ordering::Relaxed);
    }

    /// Is it time to give the car up?
    fn verdict(&self, now: Tick, write_patience: Tick) -> Option<Reason> {
        let blocked = self.blocked_since.load(Ordering::Relaxed);
        if blocked != 0 && now.wrapping_add(1).wrapping_sub(blocked) > write_patience {
            return Some(Reason::SlowReader);
        }
        let silent = now.wrapping_sub(self.heard.load(Ordering::Relaxed));
        // A session that heard something just after `now` was read is not silent.
        let is_past = silent < Tick::MAX / 2;
        (is_past && silent > self.patience && self.is_listening.load(Ordering::Relaxed)).then_some(Reason::Silent)
    }
}

/// Wakes after the lock is free.
fn wake(mut mailbox: MutexGuard<'_, Mailbox>) {
    let waker = mailbox.waker.take();
    drop(mailbox);
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// The seats of one shard.
#[derive(Default)]
pub(super) struct Seats(Mutex<HashMap<VehicleId, Arc<Seat>>>);

impl Seats {
    fn lock(&self) -> MutexGuard<'_, HashMap<VehicleId, Arc<Seat>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Seats a session. An older one of the same car is kicked and returned; a newer one stays, and the seat is refused.
    /// `has_room` is asked only when nobody is replaced.
    pub(super) fn admit(&self, seat: &Arc<Seat>, has_room: impl FnOnce() -> bool) -> Result<Option<Arc<Seat>>, Reason> {
        let mut seats = self.lock();
        match seats.get(&seat.vehicle) {
            Some(other) if other.epoch > seat.epoch => return Err(Reason::Takeover),
            Some(_) => {}
            None if has_room() => {}
            None => return Err(Reason::SessionsFull),
        }
        let displaced = seats.insert(seat.vehicle.clone(), Arc::clone(seat));
        drop(seats);
        if let Some(older) = &displaced {
            older.kick(Reason::Takeover);
        }
        Ok(displaced)
    }

    /// Frees the seat; false = another session has taken it since.
    pub(super) fn leave(&self, seat: &Arc<Seat>) -> bool {
        let mut seats = self.lock();
        let is_mine = seats.get(&seat.vehicle).is_some_and(|other| Arc::ptr_eq(other, seat));
        if is_mine {
            seats.remove(&seat.vehicle);
        }
        is_mine
    }

    pub(super) fn find(&self, vehicle: &str) -> Option<Arc<Seat>> {
        self.lock().get(vehicle).cloned()
    }

    pub(super) fn kick_all(&self, reason: Reason) {
        // Copied first, so that no session is woken under the lock that it needs to leave.
        let all: Vec<_> = self.lock().values().cloned().collect();
        all.iter().for_each(|seat| seat.kick(reason));
    }

    /// Kicks the sessions whose certificate is now on a CRL; returns how many.
    pub(super) fn kick_listed(&self, is_listed: impl Fn(u32, Serial) -> bool) -> usize {
        let listed: Vec<_> = self.lock().values().filter(|seat| is_listed(seat.issuer, seat.serial)).cloned().collect();
        listed.iter().for_each(|seat| seat.kick(Reason::Revoked));
        listed.len()
    }

    /// Kicks those that are silent or do not read for too long.
    pub(super) fn sweep(&self, now: Tick, write_patience: Tick) {
        let verdicts: Vec<_> = self
            .lock()
            .values()
            .filter_map(|seat| seat.verdict(now, write_patience).map(|reason| (Arc::clone(seat), reason)))
            .collect();
        verdicts.iter().for_each(|(seat, reason)| seat.kick(*reason));
    }
}
