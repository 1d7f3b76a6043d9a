//! The real store behind a door that can jam.

use std::sync::Arc;

use cardea::domain::{Timestamp, VehicleId};
use cardea::store::{
    Append, AppendError, Appending, Changes, Claiming, LocalStore, Observation, Order, Page, ReadError, Recorded,
    Store, StoreHealth, StorePosition, Table,
};
use serde_json::value::RawValue;
use tokio::sync::watch;

/// What happens to an append.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fate {
    Through,
    /// It is stored, and nobody is told.
    Unheard,
    /// It is stored, and the answer waits until the fate changes.
    Held,
    /// It is not stored, and whoever asks hears so when the fate changes.
    Away,
    Refused,
}

pub struct Door {
    pub inner: Arc<LocalStore>,
    fate: watch::Sender<Fate>,
    /// The guard shall not remember decisions, only the store.
    hides_decisions: bool,
}

impl Door {
    pub fn open(dir: &std::path::Path) -> Arc<Self> {
        Self::before(super::open(dir), false)
    }

    pub fn before(inner: Arc<LocalStore>, hides_decisions: bool) -> Arc<Self> {
        Arc::new(Self { inner, fate: watch::channel(Fate::Through).0, hides_decisions })
    }

    pub fn set(&self, fate: Fate) {
        self.fate.send_replace(fate);
    }
}

impl Store for Door {
    fn append(&self, step: Append) -> Appending {
        let mut fate = self.fate.subscribe();
        let now = *fate.borrow();
        if now == Fate::Refused {
            return Box::pin(std::future::ready(Err(AppendError::Full("refused by the test"))));
        }
        if now == Fate::Away {
            return Box::pin(async move {
                let _ = fate.wait_for(|fate| *fate != Fate::Away).await;
                Err(AppendError::Unknown("the engine elected"))
            });
        }
        let appending = self.inner.append(step);
        Box::pin(async move {
            let outcome = appending.await;
            match now {
                Fate::Through | Fate::Refused | Fate::Away => outcome,
                Fate::Unheard => Err(AppendError::Unknown("lost by the test")),
                Fate::Held => {
                    let _ = fate.wait_for(|fate| *fate != Fate::Held).await;
                    outcome
                }
            }
        })
    }

    fn read(&self, stream: &str, after: StorePosition, limit: usize) -> Result<Vec<Recorded>, ReadError> {
        self.inner.read(stream, after, limit)
    }

    fn tail(&self, after: StorePosition, limit: usize) -> Result<Vec<Recorded>, ReadError> {
        self.inner.tail(after, limit)
    }

    fn changes(&self, after: StorePosition, limit: usize, of: &[Table]) -> Result<Vec<Changes>, ReadError> {
        self.inner.changes(after, limit, of)
    }

    fn news(&self) -> watch::Receiver<StorePosition> {
        self.inner.news()
    }

    fn newest(&self, stream: &str) -> Result<StorePosition, ReadError> {
        self.inner.newest(stream)
    }

    fn get(&self, table: Table, key: &str) -> Result<Option<Box<RawValue>>, ReadError> {
        self.inner.get(table, key)
    }

    fn scan(
        &self,
        table: Table,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        order: Order,
    ) -> Result<Page, ReadError> {
        if self.hides_decisions && table == Table::Decisions {
            return Ok(Page::default());
        }
        self.inner.scan(table, prefix, after, limit, order)
    }

    fn answered(&self, key: &str) -> Result<Option<(String, Box<RawValue>)>, ReadError> {
        self.inner.answered(key)
    }

    fn claim(&self, vehicle: &VehicleId) -> Claiming {
        self.inner.claim(vehicle)
    }

    fn observe(&self, observation: Observation) {
        self.inner.observe(observation);
    }

    fn observations(
        &self,
        vehicle: &VehicleId,
        from: Timestamp,
        until: Timestamp,
        limit: usize,
    ) -> Result<Vec<Observation>, ReadError> {
        self.inner.observations(vehicle, from, until, limit)
    }

    fn health(&self) -> StoreHealth {
        self.inner.health()
    }
}
