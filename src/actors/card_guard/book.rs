//! Every card in memory, found by what the payment network calls it, and the station directory.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::directory::Directory;
use crate::domain::card::{Alert, Card, CardId, Merchant, NetworkRef, StationLookup};
use crate::store::{Order, ReadError, Store, Table};

/// Some 400 bytes each.
pub const MAX_CARDS: usize = 200_000;

#[derive(Default)]
pub struct Book {
    cards: BTreeMap<CardId, Arc<Card>>,
    by_ref: HashMap<NetworkRef, CardId>,
    pub directory: Directory,
}

/// The newest open alerts, oldest first; at most [`MAX_OPEN_ALERTS`] among as many rows again.
pub(super) fn open_alerts(store: &dyn Store) -> Result<Vec<(Alert, Box<RawValue>)>, ReadError> {
    const PAGE: usize = 1_000;
    let (mut open, mut after, mut seen) = (Vec::new(), None::<String>, 0);
    while open.len() < MAX_OPEN_ALERTS && seen < 2 * MAX_OPEN_ALERTS {
        let page = store.scan(Table::Alerts, "", after.as_deref(), PAGE, Order::Descending)?;
        seen += page.rows.len();
        for (id, row) in page.rows {
            let alert: Alert =
                serde_json::from_str(row.get()).map_err(|error| ReadError::Damaged(format!("alert {id}: {error}")))?;
            if alert.is_open() {
                open.push((alert, row));
            }
        }
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    open.truncate(MAX_OPEN_ALERTS);
    open.reverse();
    Ok(open)
}

/// As many as the console's feed keeps.
const MAX_OPEN_ALERTS: usize = 4_096;

impl Book {
    pub fn load(store: &dyn Store) -> Result<Self, ReadError> {
        let mut book = Self { directory: Directory::load(store)?, ..Self::default() };
        for_each_row(store, Table::Cards, |card: Card| book.put_card(card))?;
        Ok(book)
    }

    /// `(cards, stations)`
    pub fn sizes(&self) -> (usize, usize) {
        (self.cards.len(), self.directory.len())
    }

    pub fn card(&self, id: &CardId) -> Option<Arc<Card>> {
        self.cards.get(id).cloned()
    }

    pub fn card_by_ref(&self, network_ref: &NetworkRef) -> Option<Arc<Card>> {
        self.by_ref.get(network_ref).and_then(|id| self.card(id))
    }

    pub fn cards(&self, after: Option<&CardId>, limit: usize) -> Vec<Arc<Card>> {
        self.cards.range((bound(after), Bound::Unbounded)).take(limit).map(|(_, card)| card.clone()).collect()
    }

    pub fn put_card(&mut self, card: Card) {
        self.remove_card(&card.card_id);
        self.by_ref.insert(card.network_ref.clone(), card.card_id.clone());
        self.cards.insert(card.card_id.clone(), Arc::new(card));
    }

    pub fn remove_card(&mut self, id: &CardId) {
        if let Some(card) = self.cards.remove(id)
            // Two gateways may each have given it to another card at the same time: the later record holds.
            && self.by_ref.get(&card.network_ref) == Some(id)
        {
            self.by_ref.remove(&card.network_ref);
        }
    }

    /// The station a purchase was made at.
    pub fn look_up(&self, merchant: &Merchant) -> StationLookup {
        self.directory.look_up(merchant)
    }
}

pub(super) fn bound<T>(after: Option<&T>) -> Bound<&T> {
    after.map_or(Bound::Unbounded, Bound::Excluded)
}

/// Reads a whole table; blocks, so only at start.
pub(super) fn for_each_row<T: DeserializeOwned>(
    store: &dyn Store,
    table: Table,
    mut take: impl FnMut(T),
) -> Result<(), ReadError> {
    let mut after: Option<String> = None;
    loop {
        let page = store.scan(table, "", after.as_deref(), 1_000, Order::Ascending)?;
        for (key, row) in &page.rows {
            let item = serde_json::from_str(row.get())
                .map_err(|error| ReadError::Damaged(format!("{table:?} row {key}: {error}")))?;
            take(item);
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(()),
        }
    }
}
