//! `/v1/vehicles/{id}/certificate` and `/v1/certificates/reload`: a car's certificate is signed, or trust in all of them
//! is withdrawn.
//!
//! What was issued and revoked is durable before it is said; the gate is told through [`CertificatePort`], and at start
//! reads [`revocations`].

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::to_raw_value;
use utoipa::ToSchema;

use super::access::Caller;
use super::error::{Problem, Slug};
use super::vehicles::STAFF;
use super::wire::{RawBody, body_hash, idempotency, off_thread, parse_row, path_id, reply, row};
use super::{App, Revocation};
use crate::actors::vehicle::IdempotencyKey;
use crate::domain::{Principal, Role, Timestamp, VehicleId};
use crate::pki::{PkiError, SignedCert};
use crate::store::{Append, AppendError, Expected, Idempotency, Order, ReadError, Store, Table, ViewChange};

/// What is known of one vehicle's certificates; a row of [`Table::Certificates`] by vehicle id.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Issued {
    vehicle_id: VehicleId,
    /// The newest [`Issued::MAX`], oldest first.
    certificates: Vec<IssuedCertificate>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    revoked_until: Option<Timestamp>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct IssuedCertificate {
    /// Hex.
    serial: String,
    issued_at: Timestamp,
    not_after: Timestamp,
}

/// The recorded answer of an idempotency key.
#[derive(Serialize, Deserialize)]
struct Recorded {
    pem: String,
}

impl Issued {
    const MAX: usize = 32;

    /// What the gate has to refuse. A certificate's own time is backdated and whole seconds, so what was issued after
    /// the revocation is told apart by its serial.
    fn revocation(&self) -> Option<Revocation> {
        let issued_until = self.revoked_until?;
        let except = self.certificates.iter().filter(|known| known.issued_at > issued_until);
        let except = except.map(|known| known.serial.clone()).collect();
        Some(Revocation { vehicle: self.vehicle_id.clone(), issued_until, except })
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

/// Reads, changes and stores a vehicle's row. The caller holds `app.certificates.lock`.
async fn change(
    app: &App,
    vehicle: &VehicleId,
    by: Principal,
    event: serde_json::Value,
    idempotency: Option<Idempotency>,
    edit: impl FnOnce(&mut Issued),
) -> Result<Result<Issued, AppendError>, Problem> {
    let known: Option<Issued> = row(app, Table::Certificates, vehicle.to_string()).await?;
    let mut issued =
        known.unwrap_or_else(|| Issued { vehicle_id: vehicle.clone(), certificates: Vec::new(), revoked_until: None });
    edit(&mut issued);
    let surplus = issued.certificates.len().saturating_sub(Issued::MAX);
    issued.certificates.drain(..surplus);
    let broken = |error: serde_json::Error| Problem::internal("certificate row", &error);
    let append = Append {
        stream: format!("certificate/{vehicle}"),
        expected: Expected::Any,
        fence: None,
        at: app.clock.now(),
        by,
        idempotency,
        events: vec![to_raw_value(&event).map_err(broken)?],
        view: vec![ViewChange {
            table: Table::Certificates,
            key: vehicle.to_string(),
            row: to_raw_value(&issued).map_err(broken)?.into(),
        }],
    };
    Ok(app.store.append(append).await.map(|_| issued))
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
    let vehicle: VehicleId = path_id(&request, "id", "vehicle")?;
    if !app.fleet.is_registered(&vehicle) {
        return Err(Problem::not_found("vehicle"));
    }
    let csr = std::str::from_utf8(&body.0)
        .map_err(|_| Problem::new(Slug::Invalid, "the certificate request is not PEM text"))?
        .to_owned();
    let idempotency = idempotency(&request, &caller, "certificates", &body_hash(request.path(), &body.0))?;
    let _one_at_a_time = app.certificates.lock.lock().await;
    let signed = sign(&app, csr, &vehicle).await?;
    let serial = hex::encode(signed.serial);
    let now = app.clock.now();
    let event = json!({"event": "certificate_issued", "serial": serial, "not_after": signed.not_after});
    let idempotency = idempotency.map(|key| recorded(key, &signed.pem)).transpose()?;
    let (serial_known, not_after) = (serial.clone(), signed.not_after);
    let outcome = change(&app, &vehicle, caller.principal, event, idempotency, |issued| {
        // Strictly after a revocation, even within its millisecond.
        let issued_at = issued.revoked_until.map_or(now, |until| now.max(until.plus_ms(1)));
        issued.certificates.push(IssuedCertificate { serial: serial_known, issued_at, not_after });
    });
    let pem = match outcome.await? {
        Ok(issued) => {
            if issued.revoked_until.is_some() {
                (app.certificates.allow)(&vehicle, &serial);
            }
            signed.pem
        }
        Err(AppendError::Duplicate { answer }) => parse_row::<Recorded>(&answer)?.pem,
        Err(error) => return Err(error.into()),
    };
    Ok(HttpResponse::Created().content_type("application/x-pem-file").body(pem))
}

fn recorded(key: IdempotencyKey, pem: &str) -> Result<Idempotency, Problem> {
    let answer = to_raw_value(&Recorded { pem: pem.to_owned() });
    let answer = answer.map_err(|error| Problem::internal("certificate", &error))?;
    Ok(Idempotency { key: key.key, body: key.body, answer })
}

async fn sign(app: &App, csr: String, vehicle: &VehicleId) -> Result<SignedCert, Problem> {
    let Some(ca) = (app.certificates.ca)() else {
        return Err(Problem::new(
            Slug::Conflict,
            "this gateway has no CA key; an outside CA signs the cars' certificates",
        ));
    };
    let (vehicle, days, now) = (vehicle.clone(), app.config.certs.vehicle_days, app.clock.now());
    let signed = off_thread(move || ca.sign_request(&csr, &vehicle, days, now)).await?;
    signed.map_err(|error| match error {
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
    let vehicle: VehicleId = path_id(&request, "id", "vehicle")?;
    if !app.fleet.is_registered(&vehicle) {
        return Err(Problem::not_found("vehicle"));
    }
    let _one_at_a_time = app.certificates.lock.lock().await;
    let now = app.clock.now();
    let event = json!({"event": "certificates_revoked", "issued_until": now});
    let outcome = change(&app, &vehicle, caller.principal, event, None, |issued| issued.revoked_until = Some(now));
    if let Some(revocation) = outcome.await??.revocation() {
        // Durable already: a gate that fails here refuses after its next start, and the log says so now.
        (app.certificates.revoke)(revocation).await.map_err(|error| Problem::internal("revocation", &error))?;
    }
    Ok(reply(StatusCode::OK, &RevokedBody { vehicle_id: vehicle, revoked_until: now }))
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
