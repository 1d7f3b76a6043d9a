//! People who log in with a password: all of them in memory, and `/v1/users` to make, list, change and delete them.
//!
//! A password is kept as its Argon2id hash and shown to nobody; the journal's events say that it changed, not to what.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError, RwLock};

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::to_raw_value;
use utoipa::ToSchema;

use super::api_keys::ApiRole;
use super::passwords::{self, Asker};
use super::rate::{Bucket, Rate, lock};
use super::{Access, Admission, App, Caller, Holder, Standing, for_each_use, store, to_the_end};
use crate::actors::vehicle::IdempotencyKey;
use crate::domain::{Principal, Role, Timestamp, UserId};
use crate::http::error::{Problem, Slug};
use crate::http::usage::check_name;
use crate::http::vehicles::ListParams;
use crate::http::wire::{Items, Json, Query, idempotency, list_rows, off_thread, parse_json, path_id, reply};
use crate::store::{
    Append, AppendError, ChangedRow, Expected, Idempotency, NewRow, Order, ReadError, Store, Table, ViewChange,
};

/// A user as the store keeps them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct User {
    pub user_id: UserId,
    /// What they log in with; no two differ in upper and lower case only.
    pub name: String,
    /// Whom they act as; for a renter the renter's name.
    pub subject: String,
    pub role: Role,
    /// PHC string.
    pub password: String,
    #[serde(default)]
    pub disabled: bool,
    pub created_at: Timestamp,
    #[serde(default)]
    pub last_log_in_at: Option<Timestamp>,
}

impl User {
    pub fn principal(&self) -> Principal {
        Principal::new(self.role, self.subject.clone())
    }

    /// The row as it is from now on.
    pub fn row(&self) -> Result<ViewChange, Problem> {
        let row = to_raw_value(self).map_err(|error| Problem::internal("user", &error))?;
        Ok(ViewChange { table: Table::Users, key: self.user_id.to_string(), row: row.into() })
    }
}

/// Every user; at most [`Users::MAX`].
pub struct Users {
    known: RwLock<Known>,
    rate: Rate,
    /// A change reads a user and writes them: one at a time.
    writing: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Known {
    by_id: HashMap<UserId, Entry>,
    /// By the name in lower case.
    by_name: HashMap<String, UserId>,
}

struct Entry {
    user: User,
    bucket: Mutex<Bucket>,
}

impl Users {
    pub const MAX: usize = 10_000;

    pub fn new(rate: Rate) -> Self {
        Self { known: RwLock::default(), rate, writing: tokio::sync::Mutex::default() }
    }

    /// Blocks, so call it at start.
    pub fn load(&self, store: &dyn Store) -> Result<usize, ReadError> {
        let mut after: Option<String> = None;
        loop {
            let page = store.scan(Table::Users, "", after.as_deref(), 1_000, Order::Ascending)?;
            for (id, row) in &page.rows {
                let user = serde_json::from_str(row.get())
                    .map_err(|error| ReadError::Damaged(format!("user {id}: {error}")))?;
                self.put(user);
            }
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        for_each_use(store, OF_USERS, |id, at| self.note_log_in(id, at))?;
        Ok(self.read().by_id.len())
    }

    /// What somebody recorded of users.
    pub fn follow(&self, changed: &ChangedRow) -> Result<(), ReadError> {
        let damaged = |problem: String| ReadError::Damaged(format!("user {}: {problem}", changed.key));
        match (changed.table, &changed.row) {
            (Table::Users, Some(row)) => {
                self.put(serde_json::from_str(row.get()).map_err(|error| damaged(error.to_string()))?);
            }
            (Table::Users, None) => self.remove(changed.key.parse().map_err(|_| damaged("no id".into()))?),
            (_, Some(row)) => {
                let at = serde_json::from_str(row.get()).map_err(|error| damaged(error.to_string()))?;
                self.note_log_in(changed.key.trim_start_matches(OF_USERS), at);
            }
            (_, None) => {}
        }
        Ok(())
    }

    fn note_log_in(&self, id: &str, at: Timestamp) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = id.parse().ok().and_then(|id| known.by_id.get_mut(&id)) {
            entry.user.last_log_in_at = entry.user.last_log_in_at.max(Some(at));
        }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, mut user: User) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        // Two gateways may each have made one of this name at the same time: the first record holds it.
        known.by_name.entry(user.name.to_lowercase()).or_insert(user.user_id);
        let bucket = match known.by_id.remove(&user.user_id) {
            Some(old) => {
                user.last_log_in_at = user.last_log_in_at.max(old.user.last_log_in_at);
                old.bucket
            }
            None => Mutex::new(Bucket::full(self.rate)),
        };
        known.by_id.insert(user.user_id, Entry { user, bucket });
    }

    fn remove(&self, id: UserId) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let Some(entry) = known.by_id.remove(&id) else { return };
        let name = entry.user.name.to_lowercase();
        if known.by_name.get(&name) == Some(&id) {
            known.by_name.remove(&name);
        }
    }

    pub fn get(&self, id: UserId) -> Option<User> {
        self.read().by_id.get(&id).map(|entry| entry.user.clone())
    }

    pub fn find(&self, name: &str) -> Option<User> {
        let known = self.read();
        let id = known.by_name.get(&name.to_lowercase())?;
        known.by_id.get(id).map(|entry| entry.user.clone())
    }

    /// As whom the user acts; `None` = not any more. Takes nothing from their rate.
    pub fn principal(&self, id: UserId) -> Option<Principal> {
        self.read().by_id.get(&id).filter(|entry| !entry.user.disabled).map(|entry| entry.user.principal())
    }

    /// Takes one request from the user's rate.
    pub fn admit(&self, id: UserId, now: Timestamp) -> Admission {
        let known = self.read();
        let Some(entry) = known.by_id.get(&id).filter(|entry| !entry.user.disabled) else { return Admission::Unknown };
        match lock(&entry.bucket).take(self.rate, now) {
            Ok(()) => Admission::Admitted(entry.user.principal()),
            Err(retry_after_s) => Admission::Limited { retry_after_s },
        }
    }

    /// Somebody asked `n` times at another gateway.
    pub fn spend(&self, id: UserId, n: f64, now: Timestamp) {
        if let Some(entry) = self.read().by_id.get(&id) {
            lock(&entry.bucket).spend(self.rate, n, now);
        }
    }

    /// Whoever writes a user's row holds this from the reading to the append: else a log-in could write the password of
    /// before a change over it.
    pub async fn writing(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.writing.lock().await
    }

    /// Notes a log-in; the change is for the store.
    pub fn logged_in(&self, id: UserId, now: Timestamp) -> Option<ViewChange> {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.by_id.get_mut(&id)?.user.last_log_in_at = Some(now);
        // Not into the user's own row: another gateway may be changing it.
        Some(ViewChange { table: Table::LastUses, key: use_key(id), row: to_raw_value(&now).ok()?.into() })
    }
}

/// Rows of [`Table::LastUses`]; the rest of the key is the user's id.
pub const OF_USERS: &str = "user/";

fn use_key(id: UserId) -> String {
    format!("{OF_USERS}{id}")
}

/// `{"name":"olga","role":"operator","password":"…"}`
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewUser {
    name: String,
    role: ApiRole,
    /// Whom they act as, like a renter's name; absent = `name`.
    subject: Option<String>,
    /// 12 to 128 characters.
    #[schema(format = Password)]
    password: String,
}

/// What changes; absent = it stays. `{"role":"auditor"}`
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UserChange {
    role: Option<ApiRole>,
    /// 12 to 128 characters. Ends every session of theirs.
    #[schema(format = Password)]
    password: Option<String>,
    /// True ends every session of theirs.
    disabled: Option<bool>,
}

/// `{"user_id":"…","name":"olga","subject":"olga","role":"operator","disabled":false,"created_at":"…","last_log_in_at":null}`
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct UserBody {
    #[schema(value_type = String, format = "uuid")]
    user_id: UserId,
    name: String,
    subject: String,
    #[schema(value_type = ApiRole)]
    role: Role,
    disabled: bool,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    last_log_in_at: Option<Timestamp>,
}

impl UserBody {
    fn of(user: &User) -> Self {
        let User { user_id, name, subject, role, disabled, created_at, last_log_in_at, .. } = user.clone();
        Self { user_id, name, subject, role, disabled, created_at, last_log_in_at }
    }
}

fn step(by: Principal, id: UserId, at: Timestamp, event: &serde_json::Value) -> Result<Append, Problem> {
    let event = to_raw_value(event).map_err(|error| Problem::internal("user", &error))?;
    Ok(Append {
        stream: stream(id),
        expected: Expected::Any,
        fence: None,
        at,
        by,
        idempotency: None,
        events: vec![event],
        view: Vec::new(),
    })
}

#[utoipa::path(post, path = "/v1/users", tag = "users", request_body = NewUser,
    responses((status = 201, body = UserBody)))]
pub async fn create(
    app: web::Data<App>,
    caller: Caller,
    request: HttpRequest,
    body: Json<NewUser>,
) -> Result<HttpResponse, Problem> {
    caller.require(&[Role::Admin])?;
    let NewUser { name, role, subject, password } = body.value;
    let subject = subject.unwrap_or_else(|| name.clone());
    check_name("name", &name)?;
    check_name("subject", &subject)?;
    passwords::check("password", &password, &name)?;
    // The hash of a body with a password in it could be guessed from; keyed by what only the gateway has it cannot.
    let body_hash = hex::encode(app.signer.derive("user-body", body.hash.as_bytes()));
    let idempotency = idempotency(&request, &caller, "users", &body_hash)?;
    let password = app.access.passwords.hash(password, Asker::Known).await?;
    let (user_id, created_at) = (UserId(app.clock.new_id()), app.clock.now());
    let user =
        User { user_id, name, subject, role: role.into(), password, disabled: false, created_at, last_log_in_at: None };
    let made = to_the_end(make(app.get_ref().clone(), caller.principal, user, idempotency));
    Ok(reply(StatusCode::CREATED, &made.await?))
}

async fn make(app: App, by: Principal, user: User, idempotency: Option<IdempotencyKey>) -> Result<UserBody, Problem> {
    let users = &app.access.users;
    let _writing = users.writing().await;
    // A repeat finds its name taken by itself, and gets its answer all the same.
    let is_repeat = match idempotency.as_ref().map(|key| key.key.clone()) {
        Some(key) => {
            let store = app.store.clone();
            off_thread(move || store.answered(&key)).await??.is_some()
        }
        None => false,
    };
    if !is_repeat {
        check_free(users, &user.name)?;
    }
    let body = UserBody::of(&user);
    let answer = to_raw_value(&body).map_err(|error| Problem::internal("user", &error))?;
    let event = json!({"event": "user_created", "user_id": user.user_id, "name": user.name, "role": user.role,
        "subject": user.subject});
    let mut append = step(by, user.user_id, user.created_at, &event)?;
    append.view.push(user.row()?);
    append.idempotency = idempotency.map(|key| Idempotency { key: key.key, body: key.body, answer });
    match store(&app, append).await {
        Ok(at) => {
            if !app.access.followed.has(at).await {
                users.put(user);
            }
            Ok(body)
        }
        Err(AppendError::Duplicate { answer }) => parse_json(answer.get().as_bytes()),
        Err(error) => Err(error.into()),
    }
}

fn check_free(users: &Users, name: &str) -> Result<(), Problem> {
    if users.find(name).is_some() {
        return Err(Problem::new(Slug::Conflict, "a user has this name already"));
    }
    if users.read().by_id.len() >= Users::MAX {
        return Err(Problem::new(Slug::Conflict, format!("there are {} users already", Users::MAX)));
    }
    Ok(())
}

#[utoipa::path(get, path = "/v1/users", tag = "users", params(ListParams),
    responses((status = 200, description = "Newest first", body = Items<UserBody>)))]
pub async fn list(app: web::Data<App>, caller: Caller, query: Query<ListParams>) -> Result<HttpResponse, Problem> {
    caller.require(&[Role::Admin, Role::Auditor])?;
    let items = list_rows(&app, Table::Users, &query.0, |user: User| {
        let known = app.access.users.get(user.user_id).and_then(|known| known.last_log_in_at);
        Some(UserBody::of(&User { last_log_in_at: user.last_log_in_at.max(known), ..user }))
    });
    Ok(reply(StatusCode::OK, &items.await?))
}

#[utoipa::path(patch, path = "/v1/users/{id}", tag = "users", params(("id" = String, Path)),
    request_body = UserChange, responses((status = 200, body = UserBody)))]
pub async fn change(
    app: web::Data<App>,
    caller: Caller,
    request: HttpRequest,
    body: Json<UserChange>,
) -> Result<HttpResponse, Problem> {
    caller.require(&[Role::Admin])?;
    let id: UserId = path_id(&request, "id", "user")?;
    let UserChange { role, password, disabled } = body.value;
    let role = role.map(Role::from);
    let name = app.access.users.get(id).ok_or_else(|| Problem::not_found("user"))?.name;
    let is_own = Standing::of(&request)?.holder == Holder::User(id);
    if is_own && (disabled == Some(true) || role.is_some_and(|role| role != Role::Admin)) {
        return Err(Problem::new(Slug::Conflict, "somebody else has to take your own rights from you"));
    }
    if is_own && password.is_some() {
        return Err(Problem::new(Slug::Conflict, "your own password changes by PUT /v1/session/password"));
    }
    let password = match password {
        Some(password) => {
            passwords::check("password", &password, &name)?;
            Some(app.access.passwords.hash(password, Asker::Known).await?)
        }
        None => None,
    };
    let event = json!({"event": "user_changed", "user_id": id, "role": role, "disabled": disabled,
        "password": password.is_some()});
    let ends_sessions = password.is_some() || disabled == Some(true);
    let change = move |user: &mut User| {
        user.role = role.unwrap_or(user.role);
        user.disabled = disabled.unwrap_or(user.disabled);
        user.password = password.clone().unwrap_or_else(|| user.password.clone());
        Ok(())
    };
    let kept = if ends_sessions { Kept::None } else { Kept::All };
    let user = update(app.get_ref().clone(), caller.principal, id, event, kept, change).await?;
    Ok(reply(StatusCode::OK, &UserBody::of(&user)))
}

/// Which sessions of a user a change leaves.
pub enum Kept {
    All,
    Only(Option<super::sessions::Name>),
    None,
}

/// Changes a user, durably first, and ends sessions of theirs.
pub async fn update(
    app: App,
    by: Principal,
    id: UserId,
    event: serde_json::Value,
    kept: Kept,
    change: impl Fn(&mut User) -> Result<(), Problem> + 'static,
) -> Result<User, Problem> {
    to_the_end(async move {
        let Access { users, sessions, followed, .. } = &*app.access;
        let _writing = users.writing().await;
        for _ in 0..MAX_TRIES {
            let expected = followed.expected(&stream(id)).await?;
            let mut user = users.get(id).ok_or_else(|| Problem::not_found("user"))?;
            change(&mut user)?;
            let mut append = step(by.clone(), id, app.clock.now(), &event)?;
            append.expected = expected;
            append.view.push(user.row()?);
            // Before the store knows: whatever becomes of the disk, they open nothing now.
            let is_theirs = |holder: &Holder| *holder == Holder::User(id);
            match &kept {
                Kept::All => 0,
                Kept::Only(name) => sessions.close_all(is_theirs, name.as_ref()),
                Kept::None => sessions.close_all(is_theirs, None),
            };
            match store(&app, append).await {
                Ok(at) => {
                    if !followed.has(at).await {
                        users.put(user.clone());
                    }
                    return Ok(user);
                }
                // Another gateway changed the user: what is so now is changed.
                Err(AppendError::Conflict { actual }) if followed.caught_up(actual).await => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Problem::new(Slug::Conflict, "other gateways change this user at the same time"))
    })
    .await
}

/// How often a change begins anew because other gateways change the same user.
const MAX_TRIES: u32 = 8;

fn stream(id: UserId) -> String {
    format!("user/{id}")
}

#[utoipa::path(delete, path = "/v1/users/{id}", tag = "users", params(("id" = String, Path)),
    responses((status = 204, description = "They cannot log in any more, and their sessions are over")))]
pub async fn delete(app: web::Data<App>, caller: Caller, request: HttpRequest) -> Result<HttpResponse, Problem> {
    caller.require(&[Role::Admin])?;
    let id: UserId = path_id(&request, "id", "user")?;
    if Standing::of(&request)?.holder == Holder::User(id) {
        return Err(Problem::new(Slug::Conflict, "somebody else has to delete you"));
    }
    let (app, by) = (app.get_ref().clone(), caller.principal);
    to_the_end(async move {
        let Access { users, sessions, .. } = &*app.access;
        let _writing = users.writing().await;
        let known = users.get(id).ok_or_else(|| Problem::not_found("user"))?;
        let event = json!({"event": "user_deleted", "user_id": id, "name": known.name});
        let mut append = step(by, id, app.clock.now(), &event)?;
        append.view.push(ViewChange { table: Table::Users, key: id.to_string(), row: NewRow::Removed });
        append.view.push(ViewChange { table: Table::LastUses, key: use_key(id), row: NewRow::Removed });
        sessions.close_all(|holder| *holder == Holder::User(id), None);
        let at = store(&app, append).await?;
        if !app.access.followed.has(at).await {
            users.remove(id);
        }
        Ok(())
    })
    .await?;
    Ok(HttpResponse::NoContent().finish())
}
