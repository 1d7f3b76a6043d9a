//! What the unit tests of every HTTP subject start from: a store in memory, an [`App`] around it, keys of each role.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard};

use actix::Actor;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::access::api_keys::ApiKey;
use super::access::{Access, sha256};
use super::{App, CertificatePort, Counters};
use crate::actors::card_guard::GuardHandle;
use crate::actors::feed::{Feed, Limits};
use crate::actors::follower::Followed;
use crate::actors::vehicle::FromCar;
use crate::clock::Clock;
use crate::config::Config;
use crate::domain::{ApiKeyId, Role, Timestamp, VehicleId};
use crate::metrics::Metrics;
use crate::store::{
    Append, AppendError, Appending, ChangedRow, Changes, Claiming, Epoch, Expected, NewRow, Observation, Order, Page,
    ReadError, Recorded, Store, StoreHealth, StorePosition, Table,
};
use crate::telemetry::Telemetry;
use crate::token::Signer;

/// 2026-11-21T22:00:00Z
pub const NOW_MS: i64 = 1_795_298_400_000;

/// The store's port over maps. It keeps the contract of versions, idempotency and pages; it is not durable.
#[derive(Default)]
pub struct MemoryStore(Mutex<Content>, watch::Sender<StorePosition>);

#[derive(Default, Clone)]
struct Content {
    is_fencing: bool,
    records: Vec<Recorded>,
    changes: Vec<Changes>,
    tables: HashMap<Table, BTreeMap<String, Box<RawValue>>>,
    answers: HashMap<String, (String, Box<RawValue>)>,
    observations: Vec<Observation>,
    epochs: u64,
    refusing: Option<&'static str>,
    is_unreadable: bool,
    conflicting: Option<String>,
}

impl MemoryStore {
    fn content(&self) -> MutexGuard<'_, Content> {
        self.0.lock().unwrap()
    }

    /// What a gateway that starts now would find.
    pub fn copy(&self) -> Self {
        Self(Mutex::new(self.content().clone()), watch::Sender::default())
    }

    /// From now on every append is refused as Full.
    pub fn refuse(&self, why: Option<&'static str>) {
        self.content().refusing = why;
    }

    /// From now on no stream can be read, as while the view is made anew.
    pub fn hide(&self, is_hidden: bool) {
        self.content().is_unreadable = is_hidden;
    }

    /// Another gateway claims each vehicle a moment later.
    pub fn fence_claims(&self) {
        self.content().is_fencing = true;
    }

    /// How many claims there were.
    pub fn claims(&self) -> u64 {
        self.content().epochs
    }

    /// The next append to the stream finds that somebody else wrote it.
    pub fn conflict_once(&self, stream: &str) {
        self.content().conflicting = Some(stream.into());
    }

    /// Every record, every row and every answer as text: what must not be kept is not in it.
    pub fn everything(&self) -> String {
        let content = self.content();
        let records = content.records.iter().flat_map(|record| &record.events).map(|event| event.get());
        let rows = content.tables.values().flat_map(BTreeMap::values).map(|row| row.get());
        let answers = content.answers.iter().flat_map(|(key, (_, answer))| [key.as_str(), answer.get()]);
        records.chain(rows).chain(answers).collect::<Vec<_>>().join("\n")
    }

    /// Takes a row out of the view.
    pub fn remove(&self, table: Table, key: &str) {
        self.content().tables.entry(table).or_default().remove(key);
    }

    /// Puts a row into the view, as if an actor had.
    pub fn put(&self, table: Table, key: &str, value: &serde_json::Value) {
        let value = serde_json::value::to_raw_value(value).unwrap();
        self.content().tables.entry(table).or_default().insert(key.into(), value);
    }
}

impl Content {
    fn append(&mut self, step: Append) -> Result<StorePosition, AppendError> {
        if let Some(why) = self.refusing {
            return Err(AppendError::Full(why));
        }
        crate::store::check_size(&step)?;
        if let Some(given) = &step.idempotency
            && let Some((body, answer)) = self.answers.get(&given.key)
        {
            let is_same = *body == given.body;
            return Err(if is_same {
                AppendError::Duplicate { answer: answer.clone() }
            } else {
                AppendError::KeyReused
            });
        }
        if self.conflicting.as_ref() == Some(&step.stream) {
            self.conflicting = None;
            return Err(AppendError::Conflict { actual: StorePosition(u64::MAX) });
        }
        let newest = self.records.iter().rev().find(|record| record.stream == step.stream);
        let actual = newest.map_or(StorePosition(0), |record| record.position);
        if matches!(step.expected, Expected::Last(expected) if expected != actual) {
            return Err(AppendError::Conflict { actual });
        }
        let position = StorePosition(self.records.len() as u64 + 1);
        if let Some(given) = step.idempotency {
            self.answers.insert(given.key, (given.body, given.answer));
        }
        let mut changed = Vec::new();
        for change in step.view {
            let row = match change.row {
                NewRow::Json(json) => Some(json),
                NewRow::Removed => None,
                NewRow::OfEvent { event, member } => {
                    let event: BTreeMap<String, Box<RawValue>> =
                        serde_json::from_str(step.events[event as usize].get()).expect("an event is an object");
                    Some(event[member].clone())
                }
            };
            let rows = self.tables.entry(change.table).or_default();
            match &row {
                Some(json) => rows.insert(change.key.clone(), json.clone()),
                None => rows.remove(&change.key),
            };
            changed.push(ChangedRow { table: change.table, key: change.key, row });
        }
        self.changes.push(Changes { position, rows: changed });
        let Append { stream, at, by, events, .. } = step;
        let hash = hex::encode(sha256(format!("{position}{stream}").as_bytes()));
        self.records.push(Recorded { position, stream, at, by, events, hash });
        Ok(position)
    }
}

impl Store for MemoryStore {
    fn append(&self, step: Append) -> Appending {
        let outcome = self.content().append(step);
        if let Ok(position) = outcome {
            self.1.send_replace(position);
        }
        Box::pin(std::future::ready(outcome))
    }

    fn read(&self, stream: &str, after: StorePosition, limit: usize) -> Result<Vec<Recorded>, ReadError> {
        let content = self.content();
        if content.is_unreadable {
            return Err(ReadError::Unavailable("hidden by the test".into()));
        }
        let wanted = content.records.iter().filter(|record| record.stream == stream && record.position > after);
        Ok(wanted.take(limit).cloned().collect())
    }

    fn tail(&self, after: StorePosition, limit: usize) -> Result<Vec<Recorded>, ReadError> {
        Ok(self.content().records.iter().filter(|record| record.position > after).take(limit).cloned().collect())
    }

    fn changes(&self, after: StorePosition, limit: usize, of: &[Table]) -> Result<Vec<Changes>, ReadError> {
        let content = self.content();
        let wanted = content.changes.iter().filter(|changes| changes.position > after).take(limit).cloned();
        Ok(wanted
            .map(|mut changes| {
                changes.rows.retain(|row| of.contains(&row.table));
                changes
            })
            .collect())
    }

    fn news(&self) -> watch::Receiver<StorePosition> {
        self.1.subscribe()
    }

    fn newest(&self, stream: &str) -> Result<StorePosition, ReadError> {
        let content = self.content();
        let newest = content.records.iter().rev().find(|record| record.stream == stream);
        Ok(newest.map_or(StorePosition(0), |record| record.position))
    }

    fn get(&self, table: Table, key: &str) -> Result<Option<Box<RawValue>>, ReadError> {
        Ok(self.content().tables.get(&table).and_then(|rows| rows.get(key)).cloned())
    }

    fn scan(
        &self,
        table: Table,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        order: Order,
    ) -> Result<Page, ReadError> {
        let content = self.content();
        let Some(rows) = content.tables.get(&table) else { return Ok(Page::default()) };
        let is_wanted = |key: &str| match (after, order) {
            (None, _) => true,
            (Some(after), Order::Ascending) => key > after,
            (Some(after), Order::Descending) => key < after,
        };
        let range = rows.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
        let mut found: Vec<_> = range
            .filter(|(key, _)| key.starts_with(prefix) && is_wanted(key))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        if order == Order::Descending {
            found.reverse();
        }
        let is_more = found.len() > limit;
        found.truncate(limit);
        let next = if is_more { found.last().map(|(key, _)| key.clone()) } else { None };
        Ok(Page { rows: found, next })
    }

    fn answered(&self, key: &str) -> Result<Option<(String, Box<RawValue>)>, ReadError> {
        Ok(self.content().answers.get(key).cloned())
    }

    fn claim(&self, _: &VehicleId) -> Claiming {
        let mut content = self.content();
        content.epochs += 1;
        let claimed = if content.is_fencing { Err(AppendError::Fenced) } else { Ok(Epoch(content.epochs)) };
        Box::pin(std::future::ready(claimed))
    }

    fn observe(&self, observation: Observation) {
        self.content().observations.push(observation);
    }

    fn observations(
        &self,
        vehicle: &VehicleId,
        from: Timestamp,
        until: Timestamp,
        limit: usize,
    ) -> Result<Vec<Observation>, ReadError> {
        let content = self.content();
        let wanted =
            content.observations.iter().filter(|item| item.vehicle == *vehicle && (from..=until).contains(&item.at));
        Ok(wanted.take(limit).cloned().collect())
    }

    fn health(&self) -> StoreHealth {
        let content = self.content();
        let durable = StorePosition(content.records.len() as u64);
        StoreHealth { refusing: content.refusing, durable, applied: durable, ..StoreHealth::default() }
    }
}

/// The secret of the key that [`app`] knows for a role, as an `Authorization` header; renters are `anna`.
pub fn bearer(role: Role) -> (&'static str, String) {
    ("Authorization", format!("Bearer {}", secret(role)))
}

fn secret(role: Role) -> String {
    format!("ck_test-{role:?}")
}

/// An App over a store in memory, a stopped-looking clock at [`NOW_MS`] and one key for each role.
pub fn app_with(config: Config) -> (App, Arc<MemoryStore>) {
    let store = Arc::new(MemoryStore::default());
    (app_over(config, store.clone(), Followed::default()), store)
}

/// The same, over a store that others have too.
pub fn app_over(config: Config, store: Arc<MemoryStore>, followed: Followed) -> App {
    let mut access = Access::new(&config).unwrap();
    access.followed = followed;
    for (number, role) in [Role::Admin, Role::Operator, Role::Renter, Role::Auditor].into_iter().enumerate() {
        let subject = if role == Role::Renter { "anna".into() } else { format!("{role:?}").to_lowercase() };
        access.api_keys.insert(&ApiKey {
            api_key_id: ApiKeyId(uuid::Uuid::from_u128(number as u128 + 1)),
            name: format!("{role:?}"),
            role,
            subject,
            sha256: hex::encode(sha256(secret(role).as_bytes())),
            created_at: Timestamp(NOW_MS),
            scopes: None,
            expires_at: None,
            last_used_at: None,
        });
    }
    let signer = Arc::new(Signer::from_seed(&[7; 32], "cardea"));
    let mint = signer.clone();
    let fleet = crate::actors::testing::fleet_minting(
        &crate::config::Fleet::default(),
        store.clone(),
        Clock::starting_at(NOW_MS),
        Arc::new(move |grant, vehicle, holder, at| mint.mint(grant, vehicle, holder, at)),
    );
    App {
        store: store.clone(),
        fleet: fleet.0,
        clock: Clock::starting_at(NOW_MS),
        payments: Arc::new(super::payments::PaymentEdge::new(&config.payments)),
        config: Arc::new(config),
        access: Arc::new(access),
        keyset: Arc::new(signer.keyset()),
        signer,
        certificates: CertificatePort {
            ca: Arc::new(|| None),
            revoke: Arc::new(|_| Box::pin(std::future::ready(Ok(())))),
            allow: Arc::new(|_, _| ()),
            bundle: Arc::new(Default::default),
            is_trusted: Arc::new(|_, _| true),
            reload: Arc::new(|| Box::pin(std::future::ready(Ok("nothing".into())))),
            lock: Arc::default(),
        },
        guard: GuardHandle::detached(store.clone(), Clock::starting_at(NOW_MS)),
        rules: Arc::new(crate::actors::testing::rules()),
        feed: Feed::new(Clock::starting_at(NOW_MS), Limits::default()).start(),
        notifier: crate::actors::notifier::NotifierHandle::detached(),
        consoles: Arc::default(),
        links: Arc::new(|_| super::LinkLog { since: Timestamp(NOW_MS), entries: Vec::new() }),
        verification: Arc::default(),
        started_at: Timestamp(NOW_MS),
        metrics: Metrics::new(),
        telemetry: Telemetry::default(),
        counters: Arc::new(Counters::default()),
    }
}

pub fn app() -> (App, Arc<MemoryStore>) {
    app_with(Config::default())
}

/// Starts the whole route table over `$app` for `actix_web::test::call_service`.
macro_rules! service {
    ($app:expr) => {
        actix_web::test::init_service(
            actix_web::App::new().app_data(actix_web::web::Data::new($app.clone())).configure($crate::http::routes),
        )
        .await
    };
}
pub(crate) use service;

/// One request as a role; `(status, body)`.
macro_rules! ask {
    ($service:expr, $role:expr, $method:ident $path:expr) => {
        ask!($service, $role, $method $path, serde_json::Value::Null)
    };
    ($service:expr, $role:expr, $method:ident $path:expr, $body:expr) => {
        ask!($service, $role, $method $path, $body, "")
    };
    ($service:expr, $role:expr, $method:ident $path:expr, $body:expr, $key:expr) => {{
        let mut request = actix_web::test::TestRequest::default()
            .method(actix_web::http::Method::$method).uri($path.as_ref()).insert_header($crate::http::testing::bearer($role));
        let body: serde_json::Value = $body;
        if !body.is_null() {
            request = request.set_json(body);
        }
        if !$key.is_empty() {
            request = request.insert_header(("Idempotency-Key", $key));
        }
        let answer = actix_web::test::call_service(&$service, request.to_request()).await;
        let status = answer.status().as_u16();
        let bytes = actix_web::test::read_body(answer).await;
        (status, serde_json::from_slice::<serde_json::Value>(&bytes).unwrap_or(serde_json::Value::Null))
    }};
}
pub(crate) use ask;

pub fn slug(body: &Value) -> &str {
    body["type"].as_str().and_then(|kind| kind.strip_prefix("urn:cardea:problem:")).unwrap_or("none")
}

pub fn time(ms: i64) -> String {
    Timestamp(NOW_MS + ms).to_string()
}

pub fn jwk() -> Value {
    let key = ed25519_dalek::SigningKey::from_bytes(&[3; 32]).verifying_key();
    let x = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, key.as_bytes());
    json!({"kty": "OKP", "crv": "Ed25519", "x": x})
}

pub fn usage(profile: &str) -> Value {
    json!({"vehicle_id": "WVW-1", "profile": profile, "from": time(0), "until": time(3_600_000), "holder_key": jwk()})
}

pub fn online(app: &App, id: &str) {
    let id: VehicleId = id.parse().unwrap();
    app.fleet.tell(&id, FromCar::LinkUp { epoch: 1, address: None }).unwrap();
}
