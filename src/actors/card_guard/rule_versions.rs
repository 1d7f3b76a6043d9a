//! Which rules are in force, and which were. A version is what a decision names, so its text never changes.
//!
//! Rules come from the operator's file and over HTTP; whichever was given last is in force, also after a restart. A file
//! that was not touched since does not undo what came over HTTP.

use std::sync::{Arc, PoisonError, RwLock};

use serde::{Deserialize, Serialize};

use super::desk::{Desk, Edited, Row, off_thread, parse, refused};
use super::{GuardError, parse_rules, raw};
use crate::domain::card::RuleBook;
use crate::domain::{Principal, RefusalKind, Timestamp};
use crate::store::{ReadError, Store, Table};

/// A version as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RuleVersion {
    pub version: String,
    /// TOML, as it was given.
    pub text: String,
    pub activated_at: Timestamp,
    pub by: Principal,
    pub origin: RuleOrigin,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleOrigin {
    /// The operator's file, or the rules built in where there is none.
    File,
    Http,
}

/// Rows of versions begin so.
pub const VERSIONS: &str = "version/";
/// The row that names the version in force.
pub(super) const ACTIVE_ROW: &str = "(active)";
/// The row with what the file said when it was last taken.
const FILE_ROW: &str = "(file)";
/// What the version in force is asked for by, so that none is named so.
pub const ACTIVE: &str = "active";

pub(super) const STREAM: &str = "card-rules";

pub fn version_row(version: &str) -> String {
    format!("{VERSIONS}{version}")
}

pub struct ActiveRules {
    book: RwLock<(Arc<RuleBook>, Arc<RuleVersion>)>,
    /// Why the operator's file is not in force, if it is not.
    file_problem: RwLock<Option<String>>,
}

impl ActiveRules {
    pub fn new(book: RuleBook, version: RuleVersion) -> Self {
        Self { book: RwLock::new((Arc::new(book), Arc::new(version))), file_problem: RwLock::new(None) }
    }

    /// What was in force when the gateway ended (blocks); `None` on the first start.
    pub fn stored(store: &dyn Store) -> Result<Option<(RuleBook, RuleVersion)>, ReadError> {
        let damaged = |error: String| ReadError::Damaged(format!("the card rules: {error}"));
        let Some(row) = store.get_here(Table::CardRules, ACTIVE_ROW)? else { return Ok(None) };
        let active: String = serde_json::from_str(row.get()).map_err(|error| damaged(error.to_string()))?;
        // Versions were kept under their bare names before.
        let row = match store.get_here(Table::CardRules, &version_row(&active))? {
            None => store.get_here(Table::CardRules, &active)?,
            found => found,
        };
        let Some(row) = row else { return Ok(None) };
        let version: RuleVersion = serde_json::from_str(row.get()).map_err(|error| damaged(error.to_string()))?;
        match parse_rules(&version.text) {
            Ok(book) => Ok(Some((book.renamed(&version.version), version))),
            // Rules of an older program may name what this one does not know: the file's count then.
            Err(error) => {
                tracing::error!(
                    version = version.version,
                    error,
                    "the stored card rules cannot be read; the file's count"
                );
                Ok(None)
            }
        }
    }

    /// What the file said when it was last taken (blocks).
    pub fn stored_file(store: &dyn Store) -> Result<Option<String>, ReadError> {
        let row = store.get_here(Table::CardRules, FILE_ROW)?;
        Ok(row.and_then(|row| serde_json::from_str(row.get()).ok()))
    }

    pub fn book(&self) -> Arc<RuleBook> {
        self.book.read().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    pub fn version(&self) -> Arc<RuleVersion> {
        self.book.read().unwrap_or_else(PoisonError::into_inner).1.clone()
    }

    pub fn put(&self, book: RuleBook, version: RuleVersion) {
        *self.book.write().unwrap_or_else(PoisonError::into_inner) = (Arc::new(book), Arc::new(version));
    }

    pub fn file_problem(&self) -> Option<String> {
        self.file_problem.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set_file_problem(&self, problem: Option<String>) {
        *self.file_problem.write().unwrap_or_else(PoisonError::into_inner) = problem;
    }
}

/// The rows of a version that comes into force.
fn rows(version: &RuleVersion) -> Result<Vec<Row>, GuardError> {
    let put = |key: &str, json| (Table::CardRules, key.to_owned(), Some(json));
    let mut rows = vec![put(&version_row(&version.version), raw(version)?), put(ACTIVE_ROW, raw(&version.version)?)];
    if version.origin == RuleOrigin::File {
        rows.push(put(FILE_ROW, raw(&version.text)?));
    }
    Ok(rows)
}

/// The journal's content: a variant or field, once released, keeps its name and meaning.
#[derive(Serialize)]
#[serde(rename_all = "snake_case", tag = "event")]
enum RulesEvent<'a> {
    CardRulesActivated { version: &'a str },
}

impl Desk<'_> {
    /// A version's text never changes: the same name with another text gets a mark of that text.
    pub(super) async fn set_rules(&self, text: String, origin: RuleOrigin) -> Result<Edited, GuardError> {
        let book = parse_rules(&text).map_err(|problem| refused(RefusalKind::Invalid, problem))?;
        let named = book.version.clone();
        if named == ACTIVE {
            let detail = format!("version: {ACTIVE} is what the version in force is asked for by");
            return Err(refused(RefusalKind::Invalid, detail));
        }
        let (store, key) = (self.shared.store.clone(), version_row(&named));
        let known = off_thread(move || store.get(Table::CardRules, &key)).await??;
        let known: Option<RuleVersion> = known.map(|row| parse(&row)).transpose()?;
        let version = match known {
            Some(known) if known.text != text => format!("{named}+{}", mark(&text)),
            Some(_) | None => named,
        };
        let book = book.renamed(&version);
        let (activated_at, by) = (self.shared.clock.now(), self.by.clone());
        let active = RuleVersion { version, text, activated_at, by, origin };
        let rows = rows(&active)?;
        let event = RulesEvent::CardRulesActivated { version: &active.version };
        let edited = Edited::Rules(active.clone());
        let at = self.record(STREAM.into(), &event, rows, &edited).await?;
        tracing::info!(version = active.version, "card rules are in force");
        if !self.shared.followed.has(at).await {
            self.shared.rules.put(book, active);
        }
        Ok(edited)
    }
}

/// The first eight hex digits of the text's SHA-256.
fn mark(text: &str) -> String {
    hex::encode(&ring::digest::digest(&ring::digest::SHA256, text.as_bytes()).as_ref()[..4])
}

#[cfg(test)]
mod tests {
    use super::super::BUILT_IN_RULES;
    use super::*;
    use crate::clock::Clock;
    use crate::config::Data;
    use crate::domain::Role;
    use crate::store::{Append, Expected, LocalStore, ViewChange};

    /// A data directory of the program before it gave versions a place of their own.
    #[tokio::test]
    async fn a_version_under_its_bare_name_is_still_in_force() {
        let dir = tempfile::tempdir().unwrap();
        let store = LocalStore::open(&Data { dir: dir.path().to_owned(), ..Data::default() }, Clock::start()).unwrap();
        let by = Principal::new(Role::Admin, "anna");
        for name in ["active", "2026-01"] {
            let (version, text, by, at) = (name.to_owned(), BUILT_IN_RULES.to_owned(), by.clone(), Timestamp(1));
            let kept = RuleVersion { version, text, activated_at: at, by: by.clone(), origin: RuleOrigin::Http };
            let put = |key: &str, row: Box<serde_json::value::RawValue>| ViewChange {
                table: Table::CardRules,
                key: key.into(),
                row: row.into(),
            };
            let view = vec![put(name, raw(&kept).unwrap()), put("(active)", raw(&name).unwrap())];
            let (stream, expected, events) = ("card-rules".into(), Expected::Any, Vec::new());
            let step = Append { stream, expected, fence: None, at, by, idempotency: None, events, view };
            store.append(step).await.unwrap();
            let (book, version) = ActiveRules::stored(&*store).unwrap().expect("there is one");
            assert_eq!((book.version.as_str(), version), (name, kept));
        }
        store.close();
    }
}
