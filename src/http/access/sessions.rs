//! The sessions of browsers: a cookie stands for whoever logged in, so that the page need not keep a secret.
//!
//! Each dies with what it stands for. They are kept by the SHA-256 of their cookie, in memory and in the store, so that
//! a restart of the gateway logs nobody out. The cookie is HttpOnly, Secure and SameSite=Strict, and whatever changes
//! something by cookie must come from our own page.

use std::collections::{BTreeSet, HashMap};
use std::sync::Mutex;

use actix_web::HttpRequest;
use actix_web::http::Method;
use serde::{Deserialize, Serialize};
use serde_json::value::to_raw_value;

use super::cookies::{Cookie, Origin, origin};
use super::rate::lock;
use super::{App, Holder, MAX_SECRET_LEN, new_secret, sha256};
use crate::domain::Timestamp;
use crate::http::error::{Problem, Slug};
use crate::store::{ChangedRow, NewRow, Order, ReadError, Store, Table, ViewChange};

/// SHA-256 of a session's cookie.
pub type Name = [u8; 32];

/// Every open session; at most [`Sessions::MAX`].
#[derive(Default)]
pub struct Sessions {
    open: Mutex<HashMap<Name, Session>>,
    /// Over, but the store does not know it yet: told with the next log-in, log-out or change of a user that is stored.
    over: Mutex<BTreeSet<Name>>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Session {
    holder: Holder,
    expires_at: Timestamp,
}

/// A session that was just opened.
pub struct Opened {
    pub secret: String,
    pub expires_at: Timestamp,
    /// What the store has to be told, so that it outlives a restart.
    pub change: ViewChange,
}

impl Sessions {
    pub const LIFE_MS: i64 = 12 * 3_600_000;
    pub const MAX: usize = 65_536;
    /// Of one holder; one more ends the oldest, so that nobody takes everybody's room.
    pub const MAX_PER_HOLDER: usize = 32;
    /// Sessions past their end that are forgotten with each new one.
    const SWEEP: usize = 64;
    const FORGOTTEN_AT_ONCE: usize = 1_000;

    /// Reads those that are still open and whose holder is known; blocks, so call it at start.
    pub fn load(
        &self,
        store: &dyn Store,
        now: Timestamp,
        is_known: impl Fn(&Holder) -> bool,
    ) -> Result<usize, ReadError> {
        let mut after: Option<String> = None;
        loop {
            let page = store.scan(Table::Sessions, "", after.as_deref(), 1_000, Order::Ascending)?;
            for (key, row) in &page.rows {
                let damaged = |problem: &dyn std::fmt::Display| ReadError::Damaged(format!("session {key}: {problem}"));
                let session: Session = serde_json::from_str(row.get()).map_err(|error| damaged(&error))?;
                let mut name = [0; 32];
                hex::decode_to_slice(key, &mut name).map_err(|error| damaged(&error))?;
                let mut open = lock(&self.open);
                if open.len() < Self::MAX && session.expires_at > now && is_known(&session.holder) {
                    open.insert(name, session);
                } else {
                    lock(&self.over).insert(name);
                }
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(lock(&self.open).len()),
            }
        }
    }

    /// What somebody recorded of a session. One that is over here stays so, whatever older record comes.
    pub fn follow(&self, changed: &ChangedRow) -> Result<(), ReadError> {
        let damaged =
            |problem: &dyn std::fmt::Display| ReadError::Damaged(format!("session {}: {problem}", changed.key));
        let mut name = [0; 32];
        hex::decode_to_slice(&changed.key, &mut name).map_err(|error| damaged(&error))?;
        let mut open = lock(&self.open);
        match &changed.row {
            Some(row) => {
                let session = serde_json::from_str(row.get()).map_err(|error| damaged(&error))?;
                if open.len() < 2 * Self::MAX && !lock(&self.over).contains(&name) {
                    open.insert(name, session);
                }
            }
            None => {
                open.remove(&name);
                lock(&self.over).remove(&name);
            }
        }
        Ok(())
    }

    /// `None` when too many are open.
    pub fn open(&self, holder: Holder, now: Timestamp) -> Option<Opened> {
        let secret = new_secret("cs_")?;
        let expires_at = now.plus_ms(Self::LIFE_MS);
        let mut open = lock(&self.open);
        let mut gone: Vec<Name> = Vec::new();
        let (mut count, mut oldest) = (0, None);
        for (name, session) in open.iter() {
            if session.expires_at <= now {
                if gone.len() < Self::SWEEP {
                    gone.push(*name);
                }
            } else if session.holder == holder {
                count += 1;
                if oldest.is_none_or(|(at, _)| session.expires_at < at) {
                    oldest = Some((session.expires_at, *name));
                }
            }
        }
        gone.extend(oldest.filter(|_| count >= Self::MAX_PER_HOLDER).map(|(_, name)| name));
        for name in &gone {
            open.remove(name);
        }
        lock(&self.over).extend(gone);
        if open.len() >= Self::MAX {
            return None;
        }
        let (name, session) = (sha256(secret.as_bytes()), Session { holder, expires_at });
        let row = to_raw_value(&session).ok()?;
        open.insert(name, session);
        let change = ViewChange { table: Table::Sessions, key: hex::encode(name), row: row.into() };
        Some(Opened { secret, expires_at, change })
    }

    /// `None` when it is over.
    pub fn end_of(&self, name: &Name, now: Timestamp) -> Option<Timestamp> {
        lock(&self.open).get(name).map(|session| session.expires_at).filter(|end| *end > now)
    }

    pub fn is_open(&self, name: &Name, now: Timestamp) -> bool {
        self.end_of(name, now).is_some()
    }

    fn find(&self, secret: &str, now: Timestamp) -> Option<(Holder, Name)> {
        if secret.len() > MAX_SECRET_LEN {
            return None;
        }
        let name = sha256(secret.as_bytes());
        let open = lock(&self.open);
        let session = open.get(&name).filter(|session| session.expires_at > now)?;
        Some((session.holder.clone(), name))
    }

    pub fn close(&self, name: &Name) {
        lock(&self.open).remove(name);
        lock(&self.over).insert(*name);
    }

    /// Ends the sessions of those holders, but for `except`; how many.
    pub fn close_all(&self, is_meant: impl Fn(&Holder) -> bool, except: Option<&Name>) -> usize {
        let mut open = lock(&self.open);
        let is_over = |(name, session): &(&Name, &Session)| is_meant(&session.holder) && Some(*name) != except;
        let names: Vec<Name> = open.iter().filter(is_over).map(|(name, _)| *name).collect();
        for name in &names {
            open.remove(name);
        }
        let count = names.len();
        lock(&self.over).extend(names);
        count
    }

    /// What takes sessions that are over out of the store: goes with the next step, and is [`Sessions::forgotten`] once
    /// that is stored.
    pub fn to_forget(&self) -> Vec<ViewChange> {
        let change = |name| ViewChange { table: Table::Sessions, key: hex::encode(name), row: NewRow::Removed };
        lock(&self.over).iter().take(Self::FORGOTTEN_AT_ONCE).map(change).collect()
    }

    /// The store knows of these.
    pub fn forgotten(&self, changes: &[ViewChange]) {
        let mut over = lock(&self.over);
        for change in changes {
            let mut name = [0; 32];
            if change.table == Table::Sessions && hex::decode_to_slice(&change.key, &mut name).is_ok() {
                over.remove(&name);
            }
        }
    }
}

/// Whom a request's cookie stands for. What changes something must say that it comes from our own page.
pub fn of_request(request: &HttpRequest, app: &App, now: Timestamp) -> Result<(Holder, Name), Problem> {
    let unknown = |detail: &str| Problem::new(Slug::Unauthenticated, detail);
    let secret = Cookie::Session
        .of(request)
        .ok_or_else(|| unknown("an Authorization header with a bearer token, or a session, is needed"))?;
    let found = app.access.sessions.find(secret, now).ok_or_else(|| unknown("the session is over; log in again"))?;
    let only_reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if !only_reads && origin(request) != Origin::Own {
        return Err(Problem::forbidden("a session may change something only from this gateway's own pages"));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::super::KeyHash;
    use super::*;
    use crate::http::testing::MemoryStore;

    fn holder(number: u8) -> Holder {
        Holder::ApiKey(KeyHash([number; 32]))
    }

    /// What the store would hold after the sessions were told to it.
    fn tell(store: &MemoryStore, sessions: &Sessions, opened: Option<ViewChange>) {
        let changes: Vec<_> = sessions.to_forget().into_iter().chain(opened).collect();
        sessions.forgotten(&changes);
        for change in changes {
            match change.row {
                NewRow::Json(row) => store.put(change.table, &change.key, &serde_json::from_str(row.get()).unwrap()),
                _ => store.remove(change.table, &change.key),
            }
        }
    }

    #[test]
    fn sessions_end_by_themselves_and_are_bounded() {
        let sessions = Sessions::default();
        let now = Timestamp(0);
        let Opened { secret, expires_at: end, .. } = sessions.open(holder(1), now).expect("room");
        assert_eq!(sessions.find(&secret, end.plus_ms(-1)).map(|(of, _)| of), Some(holder(1)));
        assert_eq!(sessions.find(&secret, end), None);
        let other = |number: usize| Holder::ApiKey(KeyHash(sha256(&number.to_be_bytes())));
        // Many holders, each within its own share.
        let holders = Sessions::MAX.div_ceil(Sessions::MAX_PER_HOLDER);
        for number in 0..Sessions::MAX - 1 {
            let session = Session { holder: other(number % holders), expires_at: end };
            lock(&sessions.open).insert(sha256(&number.to_le_bytes()), session);
        }
        assert!(sessions.open(other(holders), now).is_none(), "full");
        assert!(sessions.open(other(holders), end).is_some(), "old sessions make room");
        assert_eq!(sessions.to_forget().len(), Sessions::SWEEP, "and leave the store, some at a time");
    }

    #[test]
    fn a_holder_who_logs_in_too_often_ends_their_own_oldest_session_and_nobody_elses() {
        let sessions = Sessions::default();
        let other = sessions.open(holder(1), Timestamp(0)).expect("room").secret;
        let first = sessions.open(holder(2), Timestamp(1)).expect("room").secret;
        for at in 2..=Sessions::MAX_PER_HOLDER as i64 {
            sessions.open(holder(2), Timestamp(at)).expect("room");
        }
        assert!(sessions.find(&first, Timestamp(100)).is_some());
        sessions.open(holder(2), Timestamp(100)).expect("room");
        assert_eq!(sessions.to_forget().len(), 1);
        assert!(sessions.find(&first, Timestamp(100)).is_none());
        assert!(sessions.find(&other, Timestamp(100)).is_some());
    }

    #[test]
    fn a_restart_keeps_open_sessions_of_known_holders_only() {
        let (sessions, store) = (Sessions::default(), MemoryStore::default());
        let [kept, dead, old, closed] = [(1, 5), (2, 5), (3, 0), (4, 5)].map(|(number, at)| {
            let opened = sessions.open(holder(number), Timestamp(at)).unwrap();
            tell(&store, &sessions, Some(opened.change));
            (opened.secret, opened.expires_at)
        });
        assert_eq!(sessions.close_all(|of| *of == holder(4), None), 1);
        assert!(!sessions.to_forget().is_empty(), "until the store knows");
        tell(&store, &sessions, None);
        assert!(sessions.to_forget().is_empty());
        let now = old.1;
        let again = Sessions::default();
        let is_known = |of: &Holder| *of != holder(2);
        assert_eq!(again.load(&store, now, is_known).unwrap(), 1);
        assert_eq!(again.find(&kept.0, now).map(|(of, _)| of), Some(holder(1)));
        for gone in [&dead.0, &old.0, &closed.0] {
            assert!(again.find(gone, now).is_none());
        }
        assert_eq!(again.to_forget().len(), 2, "the other two leave the store with the next step");
    }

    #[test]
    fn all_of_a_holder_s_sessions_can_be_ended_but_the_one_in_hand() {
        let sessions = Sessions::default();
        let [mine, other] = [0, 1].map(|_| sessions.open(holder(1), Timestamp(0)).unwrap().secret);
        let foreign = sessions.open(holder(2), Timestamp(0)).unwrap().secret;
        assert_eq!(sessions.close_all(|of| *of == holder(1), Some(&sha256(mine.as_bytes()))), 1);
        let is_open = |secret: &str| sessions.find(secret, Timestamp(1)).is_some();
        assert_eq!([&mine, &other, &foreign].map(|secret| is_open(secret)), [true, false, true]);
    }
}
