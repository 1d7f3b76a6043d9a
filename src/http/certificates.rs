//! `/v1/vehicles/{id}/certificate` and `/v1/certificates/reload`: a car's certificate is signed, or trust in all of them
//! is withdrawn.
//!
//! What was issued and revoked is durable before it is said; the gate is told through [`CertificatePort`], and at start
//! reads [`revocations`].

use std::collections::HashMap;
use std::sync::Mutex;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::to_raw_value;
use subtle::ConstantTimeEq;
use utoipa::ToSchema;

use super::access::rate::lock;
use super::access::{Caller, to_the_end};
use super::error::{Problem, Slug};
use super::vehicles::STAFF;
use super::wire::{RawBody, body_hash, idempotency, off_thread, parse_row, path_vehicle, reply, row};
use super::{App, CertificatePort, Revocation};
use crate::actors::follower::Follower;
use crate::actors::vehicle::IdempotencyKey;
use crate::domain::{Principal, Role, Timestamp, VehicleId};
use crate::pki::{PkiError, SignedCert};
use crate::store::{Append, AppendError, Idempotency, Order, ReadError, Store, Table, ViewChange};

/// What is known of one vehicle's certificates; a row of [`Table::Certificates`] by vehicle id.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Issued {
    vehicle_id: VehicleId,
    /// The newest [`Issued::MAX`], oldest first.
    certificates: Vec<IssuedCertificate>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    revoked_until: Option<Timestamp>,
    /// Tokens that a certificate can be had for; each for one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    enrolments: Vec<Enrolment>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct IssuedCertificate {
    /// Hex.
    serial: String,
    issued_at: Timestamp,
    not_after: Timestamp,
}

/// A one-time token, of which only the hash is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Enrolment {
    pub token_id: String,
    /// Hex.
    pub sha256: String,
    pub expires_at: Timestamp,
}

/// The recorded answer of an idempotency key.
#[derive(Serialize, Deserialize)]
pub(super) struct Recorded {
    pub pem: String,
}

impl Issued {
    const MAX: usize = 32;
    pub const MAX_ENROLMENTS: usize = 8;

    fn none(vehicle: &VehicleId) -> Self {
        let (certificates, enrolments) = Default::default();
        Self { vehicle_id: vehicle.clone(), certificates, revoked_until: None, enrolments }
    }

    /// What the gate has to refuse. A certificate's own time is backdated and whole seconds, so what was issued after
    /// the revocation is told apart by its serial.
    fn revocation(&self) -> Option<Revocation> {
        let issued_until = self.revoked_until?;
        let except = self.certificates.iter().filter(|known| known.issued_at > issued_until);
        let except = except.map(|known| known.serial.clone()).collect();
        Some(Revocation { vehicle: self.vehicle_id.clone(), issued_until, except })
    }

    fn add(&mut self, signed: &SignedCert, now: Timestamp) {
        // Strictly after a revocation, even within its millisecond.
        let issued_at = self.revoked_until.map_or(now, |until| now.max(until.plus_ms(1)));
        let serial = hex::encode(signed.serial);
        self.certificates.push(IssuedCertificate { serial, issued_at, not_after: signed.not_after });
        let surplus = self.certificates.len().saturating_sub(Self::MAX);
        self.certificates.drain(..surplus);
    }

    pub fn issued_since(&self, since: Timestamp) -> usize {
        self.certificates.iter().filter(|known| known.issued_at > since).count()
    }

    pub fn open_enrolments(&self, now: Timestamp) -> usize {
        self.enrolments.iter().filter(|enrolment| now < enrolment.expires_at).count()
    }

    /// The enrolment whose token has this hash (hex), if it is good now.
    pub fn enrolment(&self, sha256: &str, now: Timestamp) -> Option<&Enrolment> {
        let is_this = |enrolment: &&Enrolment| bool::from(enrolment.sha256.as_bytes().ct_eq(sha256.as_bytes()));
        self.enrolments.iter().find(is_this).filter(|enrolment| now < enrolment.expires_at)
    }

    pub fn add_enrolment(&mut self, enrolment: Enrolment, now: Timestamp) {
        self.enrolments.retain(|known| now < known.expires_at);
        self.enrolments.push(enrolment);
    }

    pub fn spend(&mut self, sha256: &str) {
        self.enrolments.retain(|enrolment| enrolment.sha256 != sha256);
    }

    pub fn withdraw_enrolments(&mut self) {
        self.enrolments.clear();
    }
}

/// Everything revoked in earlier lives, for the gate at start; blocks.
pub fn revocations(store: &dyn Store) -> Result<Vec<Revocation>, ReadError> {
    let mut all = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let page = store.scan(Table::Certificates, "", after.as_deref(), 1_000, Order::Ascending)?;
        for (id, value) in &page.rows {
            let issued: Issued = serde_json::from_str(value.get())
                .map_err(|error| ReadError::Damaged(format!("certificates of {id}: {error}")))?;
            all.extend(issued.revocation());
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(all),
        }
    }
}

/// How often a change begins anew because other gateways change the same vehicle's certificates.
const MAX_TRIES: u32 = 8;

/// Reads, changes and stores a vehicle's row. The caller holds `app.certificates.lock`.
pub(super) async fn change(
    app: &App,
    vehicle: &VehicleId,
    by: Principal,
    event: serde_json::Value,
    idempotency: Option<Idempotency>,
    edit: impl Fn(&mut Issued),
) -> Result<Result<Issued, AppendError>, Problem> {
    let broken = |error: serde_json::Error| Problem::internal("certificate row", &error);
    let stream = format!("certificate/{vehicle}");
    let followed = &app.access.followed;
    for _ in 0..MAX_TRIES {
        let expected = followed.expected(&stream).await?;
        let known: Option<Issued> = row(app, Table::Certificates, vehicle.to_string()).await?;
        let mut issued = known.unwrap_or_else(|| Issued::none(vehicle));
        edit(&mut issued);
        let append = Append {
            stream: stream.clone(),
            expected,
            fence: None,
            at: app.clock.now(),
            by: by.clone(),
            idempotency: idempotency.clone(),
            events: vec![to_raw_value(&event).map_err(broken)?],
            view: vec![ViewChange {
                table: Table::Certificates,
                key: vehicle.to_string(),
                row: to_raw_value(&issued).map_err(broken)?.into(),
            }],
        };
        match app.store.append(append).await {
            // Another gateway changed the row: what is so now is changed.
            Err(AppendError::Conflict { actual }) if followed.caught_up(actual).await => {}
            outcome => return Ok(outcome.map(|_| issued)),
        }
    }
    Err(Problem::new(Slug::Conflict, "other gateways change this vehicle's certificates at the same time"))
}

/// Refuses what other gateways revoke, and lets in what they issue after it; reads what is revoked already (blocks). Each
/// revocation ends the vehicle's session once: a row that only adds a certificate to it does not.
pub fn follow(app: &App, follower: &mut Follower) -> Result<(), ReadError> {
    let known = revocations(&*app.store)?.into_iter().map(|revoked| (revoked.vehicle, revoked.issued_until));
    let known: Mutex<HashMap<VehicleId, Timestamp>> = Mutex::new(known.collect());
    let CertificatePort { revoke, allow, .. } = app.certificates.clone();
    follower.add(
        &[Table::Certificates],
        Box::new(move |changed| {
            let Some(row) = &changed.row else { return Ok(()) };
            let issued: Issued = serde_json::from_str(row.get())
                .map_err(|error| ReadError::Damaged(format!("certificates of {}: {error}", changed.key)))?;
            let Some(revocation) = issued.revocation() else { return Ok(()) };
            let until = revocation.issued_until;
            let before = lock(&known).insert(revocation.vehicle.clone(), until);
            if before.is_some_and(|before| before >= until) {
                revocation.except.iter().for_each(|serial| allow(&revocation.vehicle, serial));
                return Ok(());
            }
            let revoking = revoke(revocation);
            tokio::spawn(async move {
                if let Err(error) = revoking.await {
                    tracing::error!(error, "a revocation by another gateway is not in force here");
                }
            });
            Ok(())
        }),
    );
    Ok(())
}

#[utoipa::path(post, path = "/v1/vehicles/{id}/certificate", tag = "vehicles", params(("id" = String, Path)),
    request_body(content = String, content_type = "application/pkcs10",
        description = "A PEM certificate request; its one common name is the vehicle's id"),
    responses((status = 201, description = "The certificate in PEM", body = String,
        content_type = "application/x-pem-file")))]
pub async fn issue(
    app: web::Data<App>,
    caller: Caller,
    request: HttpRequest,
    body: RawBody,
) -> Result<HttpResponse, Problem> {
    caller.require(&STAFF)?;
    let vehicle = path_vehicle(&app, &request)?;
    let csr = std::str::from_utf8(&body.0)
        .map_err(|_| Problem::new(Slug::Invalid, "the certificate request is not PEM text"))?
        .to_owned();
    let idempotency = idempotency(&request, &caller, "certificates", &body_hash(request.path(), &body.0))?;
    let app = app.get_ref().clone();
    to_the_end(async move {
        let _one_at_a_time = app.certificates.lock.lock().await;
        let event = json!({"event": "certificate_issued"});
        let signing = Signing { csr: Csr::Pem(csr), vehicle, by: caller.principal, event };
        let idempotency =
            |pem: &str| idempotency.map(|key| recorded(key, &Recorded { pem: pem.to_owned() })).transpose();
        let pem = sign_and_keep(&app, signing, idempotency, |_| ()).await?;
        Ok(HttpResponse::Created().content_type("application/x-pem-file").body(pem))
    })
    .await
}

/// A certificate request, as it came.
pub(super) enum Csr {
    Pem(String),
    Der(Vec<u8>),
}

impl From<Vec<u8>> for Csr {
    fn from(der: Vec<u8>) -> Self {
        Self::Der(der)
    }
}

/// A certificate to be made.
pub(super) struct Signing {
    pub csr: Csr,
    pub vehicle: VehicleId,
    pub by: Principal,
    /// What the journal says of it; serial and end are added.
    pub event: serde_json::Value,
}

/// Signs, keeps that durably and lets the gate know; answers the certificate's PEM, or that of the first time when the
/// request is a repeat. `edit` changes what else is kept of the vehicle in the same step. The caller holds
/// `app.certificates.lock`.
pub(super) async fn sign_and_keep(
    app: &App,
    signing: Signing,
    idempotency: impl FnOnce(&str) -> Result<Option<Idempotency>, Problem>,
    edit: impl Fn(&mut Issued),
) -> Result<String, Problem> {
    let Signing { csr, vehicle, by, mut event } = signing;
    let signed = sign(app, csr, &vehicle).await?;
    let (serial, now) = (hex::encode(signed.serial), app.clock.now());
    event["serial"] = json!(serial);
    event["not_after"] = json!(signed.not_after);
    let idempotency = idempotency(&signed.pem)?;
    let outcome = change(app, &vehicle, by, event, idempotency, |issued| {
        issued.add(&signed, now);
        edit(issued);
    });
    match outcome.await? {
        Ok(issued) => {
            if issued.revoked_until.is_some() {
                (app.certificates.allow)(&vehicle, &serial);
            }
            Ok(signed.pem)
        }
        Err(AppendError::Duplicate { answer }) => Ok(parse_row::<Recorded>(&answer)?.pem),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn recorded(key: IdempotencyKey, answer: &impl Serialize) -> Result<Idempotency, Problem> {
    let answer = to_raw_value(answer).map_err(|error| Problem::internal("certificate", &error))?;
    Ok(Idempotency { key: key.key, body: key.body, answer })
}

async fn sign(app: &App, csr: Csr, vehicle: &VehicleId) -> Result<SignedCert, Problem> {
    let Some(ca) = (app.certificates.ca)() else {
        return Err(Problem::new(
            Slug::Conflict,
            "this gateway has no CA key; an outside CA signs the cars' certificates",
        ));
    };
    let (vehicle, days, now) = (vehicle.clone(), app.config.certs.vehicle_days, app.clock.now());
    let signed = off_thread(move || match csr {
        Csr::Pem(csr) => ca.sign_request(&csr, &vehicle, days, now),
        Csr::Der(csr) => ca.sign_request_der(&csr, &vehicle, days, now),
    });
    signed.await?.map_err(|error| match error {
        PkiError::Request(why) => Problem::new(Slug::Invalid, format!("the certificate request is refused: {why}")),
        PkiError::Random
        | PkiError::Host(_)
        | PkiError::Ca(_)
        | PkiError::SigningKey
        | PkiError::Rcgen(_)
        | PkiError::Io { .. } => Problem::internal("certificate", &error),
    })
}

/// `{"vehicle_id":"WVW-1","revoked_until":"2026-11-21T22:00:00.000Z"}`
#[derive(Debug, Serialize, ToSchema)]
pub struct RevokedBody {
    #[schema(value_type = String)]
    vehicle_id: VehicleId,
    /// Every certificate issued up to now is refused, those made offline too.
    #[schema(value_type = String, format = DateTime)]
    revoked_until: Timestamp,
}

#[utoipa::path(delete, path = "/v1/vehicles/{id}/certificate", tag = "vehicles", params(("id" = String, Path)),
    responses((status = 200, description = "All its certificates are refused and its session is ended",
        body = RevokedBody)))]
pub async fn revoke(app: web::Data<App>, caller: Caller, request: HttpRequest) -> Result<HttpResponse, Problem> {
    caller.require(&STAFF)?;
    let vehicle = path_vehicle(&app, &request)?;
    let app = app.get_ref().clone();
    // What is durable must be in force as well, also when the caller goes away.
    to_the_end(async move {
        let _one_at_a_time = app.certificates.lock.lock().await;
        let now = app.clock.now();
        let event = json!({"event": "certificates_revoked", "issued_until": now});
        let outcome = change(&app, &vehicle, caller.principal, event, None, |issued| {
            issued.revoked_until = Some(now);
            // Who had the car's old key may have its token as well.
            issued.withdraw_enrolments();
        });
        if let Some(revocation) = outcome.await??.revocation() {
            // Durable already: a gate that fails here refuses after its next start, and the log says so now.
            (app.certificates.revoke)(revocation).await.map_err(|error| Problem::internal("revocation", &error))?;
        }
        Ok(reply(StatusCode::OK, &RevokedBody { vehicle_id: vehicle, revoked_until: now }))
    })
    .await
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ReloadedBody {
    detail: String,
}

#[utoipa::path(post, path = "/v1/certificates/reload", tag = "service",
    responses((status = 200, description = "Certificates, CA bundle and CRL were read again", body = ReloadedBody)))]
pub async fn reload(app: web::Data<App>, caller: Caller) -> Result<HttpResponse, Problem> {
    caller.require(&[Role::Admin])?;
    match (app.certificates.reload)().await {
        Ok(detail) => Ok(reply(StatusCode::OK, &ReloadedBody { detail })),
        Err(error) => {
            tracing::error!(%error, "certificates were not read again");
            Err(Problem::new(Slug::Conflict, "a file cannot be used; what was in force stays, and the log says why"))
        }
    }
}
