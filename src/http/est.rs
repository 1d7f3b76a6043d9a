//! Enrolment over Secure Transport (RFC 7030, RFC 8951): `/.well-known/est/{cacerts,simpleenroll,simplereenroll}`, and
//! the one-time tokens that let a car enrol, `/v1/vehicles/{id}/enrolment-tokens`.
//!
//! A car that has no certificate yet shows its id and a token by HTTP Basic; one that has shows the certificate in the
//! TLS handshake. What is signed, and how it is kept, is `certificates`' business; this file knows the wire: base64 of
//! DER, requests in PKCS#10, answers as certs-only CMS.

use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use cms::content_info::ContentInfo;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
use utoipa::ToSchema;
use x509_cert::Certificate;
use x509_cert::der::{Decode, Encode};

use super::access::{Caller, sha256, to_the_end};
use super::certificates::{self, Enrolment, Issued, Recorded, Signing};
use super::error::{Problem, Slug};
use super::vehicles::STAFF;
use super::wire::{Json, RawBody, body_hash, idempotency, off_thread, parse_row, path_vehicle, reply, row};
use super::{App, address};
use crate::actors::vehicle::IdempotencyKey;
use crate::certs::PeerIdentity;
use crate::domain::{Principal, Role, Timestamp, VehicleId};
use crate::pki;
use crate::store::{AppendError, Table};

/// Shown before a token's 43 characters, so that one is known when it is found somewhere.
const TOKEN_PREFIX: &str = "et_";
const MAX_TOKEN_LEN: usize = 128;
const DEFAULT_TTL_S: u64 = 86_400;
const MAX_TTL_S: u64 = 30 * 86_400;
/// Certificates a car may get by itself within [`ISSUE_WINDOW_MS`].
const MAX_ISSUED: usize = 6;
const ISSUE_WINDOW_MS: i64 = 3_600_000;
const CERTS_ONLY: &str = "application/pkcs7-mime; smime-type=certs-only";

/// The certificates a connection's peer showed in its TLS handshake, its own first; a CA of ours had signed them then.
#[derive(Clone)]
pub struct PeerChain(pub Arc<[CertificateDer<'static>]>);

/// `{"ttl_s":3600}`
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewEnrolmentToken {
    /// Seconds until it is good no more, up to 30 days; a day if absent.
    #[schema(minimum = 1, maximum = 2_592_000)]
    ttl_s: Option<u64>,
}

/// `{"token_id":"…","vehicle_id":"WVW-1","token":"et_…","expires_at":"…"}`
#[derive(Debug, Serialize, ToSchema)]
pub struct EnrolmentTokenBody {
    #[schema(format = "uuid")]
    token_id: String,
    #[schema(value_type = String)]
    vehicle_id: VehicleId,
    /// The password of HTTP Basic, with the vehicle's id as user; good for one certificate.
    token: String,
    #[schema(value_type = String, format = DateTime)]
    expires_at: Timestamp,
}

/// What a repeat of the request is answered; the token itself is derived again.
#[derive(Serialize, Deserialize)]
struct RecordedToken {
    token_id: String,
    expires_at: Timestamp,
}

#[utoipa::path(post, path = "/v1/vehicles/{id}/enrolment-tokens", tag = "vehicles", params(("id" = String, Path)),
    request_body = NewEnrolmentToken, responses((status = 201, body = EnrolmentTokenBody)))]
pub async fn issue_token(
    app: web::Data<App>,
    caller: Caller,
    request: HttpRequest,
    body: Json<NewEnrolmentToken>,
) -> Result<HttpResponse, Problem> {
    caller.require(&STAFF)?;
    let vehicle = path_vehicle(&app, &request)?;
    let ttl_s = body.value.ttl_s.unwrap_or(DEFAULT_TTL_S);
    if !(1..=MAX_TTL_S).contains(&ttl_s) {
        return Err(Problem::invalid("ttl_s", "1 to 2592000"));
    }
    let key = idempotency(&request, &caller, "enrolment-tokens", &body_hash(request.path(), body.hash.as_bytes()))?;
    let now = app.clock.now();
    let fresh = RecordedToken {
        token_id: app.clock.new_id().to_string(),
        expires_at: now.plus_ms(i64::try_from(ttl_s).unwrap_or(i64::MAX).saturating_mul(1000)),
    };
    let app = app.get_ref().clone();
    to_the_end(async move {
        let _one_at_a_time = app.certificates.lock.lock().await;
        let is_repeat = match &key {
            Some(key) => recorded_answer(&app, key.key.clone()).await?.is_some(),
            None => false,
        };
        let known: Option<Issued> = row(&app, Table::Certificates, vehicle.to_string()).await?;
        if !is_repeat && known.is_some_and(|issued| issued.open_enrolments(now) >= Issued::MAX_ENROLMENTS) {
            let detail =
                format!("{} enrolment tokens of this vehicle are open; withdraw them first", Issued::MAX_ENROLMENTS);
            return Err(Problem::new(Slug::Conflict, detail));
        }
        let sha256 = hex::encode(sha256(token(&app, &fresh.token_id).as_bytes()));
        let enrolment = Enrolment { token_id: fresh.token_id.clone(), sha256, expires_at: fresh.expires_at };
        let event =
            json!({"event": "enrolment_token_issued", "token_id": fresh.token_id, "expires_at": fresh.expires_at});
        let idempotency = key.map(|key| certificates::recorded(key, &fresh)).transpose()?;
        let outcome = certificates::change(&app, &vehicle, caller.principal, event, idempotency, |issued| {
            issued.add_enrolment(enrolment.clone(), now);
        });
        let known = match outcome.await? {
            Ok(_) => fresh,
            Err(AppendError::Duplicate { answer }) => parse_row(&answer)?,
            Err(error) => return Err(error.into()),
        };
        let token = token(&app, &known.token_id);
        let body =
            EnrolmentTokenBody { token_id: known.token_id, vehicle_id: vehicle, token, expires_at: known.expires_at };
        Ok(reply(StatusCode::CREATED, &body))
    })
    .await
}

#[utoipa::path(delete, path = "/v1/vehicles/{id}/enrolment-tokens", tag = "vehicles", params(("id" = String, Path)),
    responses((status = 204, description = "None of its tokens is good any more")))]
pub async fn withdraw_tokens(
    app: web::Data<App>,
    caller: Caller,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    caller.require(&STAFF)?;
    let vehicle = path_vehicle(&app, &request)?;
    let app = app.get_ref().clone();
    to_the_end(async move {
        let _one_at_a_time = app.certificates.lock.lock().await;
        let event = json!({"event": "enrolment_tokens_withdrawn"});
        let outcome = certificates::change(&app, &vehicle, caller.principal, event, None, Issued::withdraw_enrolments);
        outcome.await??;
        Ok(HttpResponse::NoContent().finish())
    })
    .await
}

fn token(app: &App, id: &str) -> String {
    format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(app.signer.derive("enrolment-token", id.as_bytes())))
}

#[utoipa::path(get, path = "/.well-known/est/cacerts", tag = "est", responses((status = 200,
    description = "Every CA that cars' certificates may come from, as certs-only CMS (RFC 7030, 4.1): base64 of DER",
    body = String, content_type = "application/pkcs7-mime")))]
pub async fn ca_certificates(app: web::Data<App>) -> Result<HttpResponse, Problem> {
    answer(&(app.certificates.bundle)())
}

#[utoipa::path(post, path = "/.well-known/est/simpleenroll", tag = "est",
    request_body(content = String, content_type = "application/pkcs10",
        description = "Base64 of a DER certificate request; its one common name is the vehicle's id"),
    responses((status = 200, description = "The certificate as certs-only CMS: base64 of DER", body = String,
        content_type = "application/pkcs7-mime")),
    security(("enrolment_token" = [])))]
pub async fn enroll(app: web::Data<App>, request: HttpRequest, body: RawBody) -> Result<HttpResponse, Problem> {
    let (vehicle, token) = basic(&request)?;
    let csr = request_der(&request, &body.0)?;
    let by = Principal { from: address::of(&request), ..Principal::new(Role::Vehicle, vehicle.as_str()) };
    let shown = Shown {
        token: hex::encode(sha256(token.as_bytes())),
        csr: hex::encode(sha256(&csr)),
        vehicle: vehicle.clone(),
    };
    // Before the lock, which strangers shall not hold.
    if let Standing::Answered(pem) = shown.standing(&app).await? {
        return answer_pem(&pem);
    }
    let app = app.get_ref().clone();
    let pem = to_the_end(async move {
        let _one_at_a_time = app.certificates.lock.lock().await;
        let (token_id, known) = match shown.standing(&app).await? {
            Standing::Answered(pem) => return Ok(pem),
            Standing::Good { token_id, known } => (token_id, known),
        };
        limit(Some(&known), app.clock.now())?;
        let event = json!({"event": "certificate_enrolled", "token_id": token_id});
        let signing = Signing { csr: csr.into(), vehicle, by, event };
        let (repeat, csr) = (shown.repeat(), shown.csr.clone());
        let repeat = |pem: &str| {
            let answer = Recorded { pem: pem.to_owned() };
            certificates::recorded(IdempotencyKey { key: repeat, body: csr }, &answer).map(Some)
        };
        certificates::sign_and_keep(&app, signing, repeat, |issued| issued.spend(&shown.token)).await
    });
    answer_pem(&pem.await?)
}

/// What a car shows that has no certificate: hashes (hex) of its token and of its request.
struct Shown {
    vehicle: VehicleId,
    token: String,
    csr: String,
}

/// What a token is worth.
enum Standing {
    Good {
        token_id: String,
        known: Issued,
    },
    /// It was spent for this very request, whose answer got lost perhaps: the certificate of then.
    Answered(String),
}

impl Shown {
    fn repeat(&self) -> String {
        format!("{}/est/{}", self.vehicle, self.token)
    }

    async fn standing(&self, app: &App) -> Result<Standing, Problem> {
        let known: Option<Issued> = row(app, Table::Certificates, self.vehicle.to_string()).await?;
        if let Some(known) = known
            && let Some(token_id) = known.enrolment(&self.token, app.clock.now()).map(|good| good.token_id.clone())
        {
            return Ok(Standing::Good { token_id, known });
        }
        match recorded_answer(app, self.repeat()).await? {
            Some((csr, answer)) if csr == self.csr => Ok(Standing::Answered(parse_row::<Recorded>(&answer)?.pem)),
            _ => {
                app.counters.unauthenticated.inc();
                Err(unauthenticated("the enrolment token is not good, or was used for another request"))
            }
        }
    }
}

#[utoipa::path(post, path = "/.well-known/est/simplereenroll", tag = "est",
    request_body(content = String, content_type = "application/pkcs10",
        description = "Base64 of a DER certificate request for the name in the certificate that TLS was made with"),
    responses((status = 200, description = "The new certificate as certs-only CMS: base64 of DER", body = String,
        content_type = "application/pkcs7-mime")),
    security(("vehicle_certificate" = [])))]
pub async fn reenroll(app: web::Data<App>, request: HttpRequest, body: RawBody) -> Result<HttpResponse, Problem> {
    let shown = request.conn_data::<PeerChain>().cloned();
    let Some((own, chain)) = shown.as_ref().and_then(|PeerChain(chain)| Some((chain.first()?, Arc::clone(chain))))
    else {
        return Err(Problem::new(Slug::Unauthenticated, "show the car's certificate in the TLS handshake"));
    };
    let peer = PeerIdentity::of(own)
        .map_err(|error| Problem::forbidden(format!("the certificate names no vehicle: {error}")))?;
    let csr = request_der(&request, &body.0)?;
    let by = Principal { from: address::of(&request), ..Principal::new(Role::Vehicle, peer.vehicle.as_str()) };
    let app = app.get_ref().clone();
    let pem = to_the_end(async move {
        let _one_at_a_time = app.certificates.lock.lock().await;
        // Under the lock, or a certificate could be had past a revocation that is under way. And anew for each request:
        // a connection may outlive a certificate, and its trust.
        let now = app.clock.now();
        if !(app.certificates.is_trusted)(&chain, now) {
            return Err(Problem::forbidden(
                "the certificate is revoked, out of its time, or of a CA that is trusted no more",
            ));
        }
        let vehicle = peer.vehicle;
        if !app.fleet.is_registered(&vehicle) {
            return Err(Problem::forbidden("no such vehicle is registered"));
        }
        let known: Option<Issued> = row(&app, Table::Certificates, vehicle.to_string()).await?;
        limit(known.as_ref(), now)?;
        let event = json!({"event": "certificate_renewed", "old_serial": peer.serial.to_string()});
        let signing = Signing { csr: csr.into(), vehicle, by, event };
        certificates::sign_and_keep(&app, signing, |_| Ok(None), |_| ()).await
    });
    answer_pem(&pem.await?)
}

/// The vehicle and the token of HTTP Basic.
fn basic(request: &HttpRequest) -> Result<(VehicleId, String), Problem> {
    let shown = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let (scheme, encoded) = shown.and_then(|text| text.split_once(' ')).unwrap_or_default();
    let decoded = STANDARD.decode(encoded.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let pair = decoded.as_deref().and_then(|text| text.split_once(':'));
    match pair.map(|(user, token)| (user.parse::<VehicleId>(), token)) {
        Some((Ok(vehicle), token))
            if scheme.eq_ignore_ascii_case("basic")
                && token.starts_with(TOKEN_PREFIX)
                && token.len() <= MAX_TOKEN_LEN =>
        {
            Ok((vehicle, token.to_owned()))
        }
        _ => Err(unauthenticated("HTTP Basic with the vehicle's id and an enrolment token is expected")),
    }
}

fn unauthenticated(detail: &str) -> Problem {
    Problem { challenge: Some("Basic realm=\"enrolment\""), ..Problem::new(Slug::Unauthenticated, detail) }
}

/// DER out of the body, which RFC 8951 has in base64 with or without line breaks.
fn request_der(request: &HttpRequest, body: &[u8]) -> Result<Vec<u8>, Problem> {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/pkcs10")) {
        return Err(Problem::new(Slug::Invalid, "the content type is not application/pkcs10"));
    }
    let text: Vec<u8> = body.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let der = STANDARD.decode(text).map_err(|_| Problem::new(Slug::Invalid, "the body is not base64 of DER"))?;
    match der.len() {
        1..=pki::MAX_CSR_BYTES => Ok(der),
        _ => Err(Problem::new(Slug::Invalid, "the certificate request is empty or larger than 16 KiB")),
    }
}

/// A car that goes on asking fills the journal and nothing else.
fn limit(known: Option<&Issued>, now: Timestamp) -> Result<(), Problem> {
    let since = now.plus_ms(-ISSUE_WINDOW_MS);
    match known.map_or(0, |issued| issued.issued_since(since)) {
        0..MAX_ISSUED => Ok(()),
        _ => {
            Err(Problem::new(Slug::TooManyRequests, "this car got too many certificates within an hour")
                .retry_after(600))
        }
    }
}

/// Body and answer of the first time, if this key was used before.
async fn recorded_answer(app: &App, key: String) -> Result<Option<(String, Box<RawValue>)>, Problem> {
    let store = app.store.clone();
    Ok(off_thread(move || store.answered(&key)).await??)
}

fn answer_pem(pem: &str) -> Result<HttpResponse, Problem> {
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes());
    answer(&[certificate.map_err(|error| Problem::internal("certificate", &error))?])
}

/// Certs-only CMS: a SignedData that is signed by nobody.
fn answer(certificates: &[CertificateDer<'_>]) -> Result<HttpResponse, Problem> {
    let certificates: Result<Vec<Certificate>, _> = certificates.iter().map(|der| Certificate::from_der(der)).collect();
    let der = certificates
        .and_then(ContentInfo::try_from)
        .and_then(|content| content.to_der())
        .map_err(|error| Problem::internal("CMS", &error))?;
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    Ok(HttpResponse::Ok()
        .content_type(CERTS_ONLY)
        .insert_header(("Content-Transfer-Encoding", "base64"))
        .body(lines.join("\n") + "\n"))
}
