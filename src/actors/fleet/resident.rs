//! A vehicle that is in memory: its actor's address, and what only the gate could tell a new one.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use actix::prelude::*;

use crate::actors::vehicle::{FromCar, Letter, VehicleActor};
use crate::store::Epoch;

#[derive(Clone)]
pub(super) struct Resident {
    pub addr: Addr<VehicleActor>,
    /// The claim under which it writes.
    pub epoch: Epoch,
    /// The gate's newest word on the link: a restarted actor must know it, for the gate will not repeat it.
    pub link: Arc<Mutex<LinkKnown>>,
}

#[derive(Debug, Clone, Copy, Default)]
pub(in crate::actors) struct LinkKnown {
    pub epoch: u64,
    pub is_online: bool,
    pub address: Option<IpAddr>,
}

impl Resident {
    pub fn link(&self) -> LinkKnown {
        *self.link_guard()
    }

    fn link_guard(&self) -> MutexGuard<'_, LinkKnown> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn note_link(&self, letter: &Letter) {
        // Most letters say nothing of it, and need not take the lock.
        if matches!(letter, Letter::FromCar(FromCar::LinkUp { .. } | FromCar::LinkDown { .. }, _)) {
            self.link_guard().note(letter);
        }
    }
}

impl LinkKnown {
    pub fn note(&mut self, letter: &Letter) {
        match letter {
            Letter::FromCar(FromCar::LinkUp { epoch, address }, _) => {
                *self = Self { epoch: *epoch, is_online: true, address: *address };
            }
            Letter::FromCar(FromCar::LinkDown { epoch }, _) => self.is_online &= self.epoch != *epoch,
            Letter::FromCar(..)
            | Letter::Ask(..)
            | Letter::Snapshot(_)
            | Letter::Await(..)
            | Letter::Sweep
            | Letter::Publish
            | Letter::Drain(_)
            | Letter::Overtaken
            | Letter::Retire => {}
        }
    }
}
