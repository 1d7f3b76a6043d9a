//! `POST /v1/console/tickets`: whoever can set neither a header nor a cookie trades a credential for a ticket that
//! opens one WebSocket.
//!
//! A ticket says by itself what it was issued for, sealed by a key that every gateway of the fleet derives from the
//! signing key: any of them can take it. That it serves once is remembered here, and in a cluster recorded as well.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::to_raw_value;
use utoipa::ToSchema;

use super::rate::lock;
use super::{App, Caller, Standing, random};
use crate::domain::{Principal, Role, Timestamp};
use crate::http::error::{Problem, ProblemBody};
use crate::http::wire::reply;
use crate::store::{Append, AppendError, Expected, Idempotency};
use crate::token::Signer;

const PREFIX: &str = "ct_";
/// A person of an identity provider may have long names.
const MAX_LEN: usize = 4_096;
/// How long whoever opens a console waits for the record that the ticket is used.
const RECORD_WITHIN: Duration = Duration::from_secs(2);

type Number = [u8; NONCE_LEN];

/// Tickets for the console's WebSocket; each serves once.
#[derive(Default)]
pub struct Tickets {
    /// Until the ticket would have ended by itself.
    used: Mutex<HashMap<Number, Timestamp>>,
    /// Nothing but this process takes its tickets: a restart does not forget which of them were used.
    own: Option<[u8; 16]>,
}

#[derive(Serialize, Deserialize)]
struct Ticket {
    /// What it was issued for: a console ends when that does.
    standing: Standing,
    expires_at: Timestamp,
}

/// A ticket that was good and has been used up here.
pub struct Redeemed {
    pub standing: Standing,
    number: Number,
}

impl Tickets {
    pub const LIFE_MS: i64 = 30_000;
    /// Used within that time.
    pub const MAX: usize = 16_384;

    /// Of a gateway that is alone.
    pub fn own() -> Self {
        Self { own: random(), ..Self::default() }
    }

    fn key(&self, signer: &Signer) -> Option<LessSafeKey> {
        let key = signer.derive("console-ticket", &self.own.unwrap_or_default());
        UnboundKey::new(&AES_256_GCM, &key).ok().map(LessSafeKey::new)
    }

    /// A fresh ticket with its end; `None` when the system has no randomness.
    pub fn issue(&self, signer: &Signer, standing: Standing, now: Timestamp) -> Option<(String, Timestamp)> {
        let number: Number = random()?;
        let expires_at = now.plus_ms(Self::LIFE_MS);
        let mut sealed = serde_json::to_vec(&Ticket { standing, expires_at }).ok()?;
        let nonce = Nonce::assume_unique_for_key(number);
        self.key(signer)?.seal_in_place_append_tag(nonce, Aad::empty(), &mut sealed).ok()?;
        let text = URL_SAFE_NO_PAD.encode([number.as_slice(), &sealed].concat());
        Some((format!("{PREFIX}{text}"), expires_at))
    }

    /// What the ticket stands for; it serves once at this gateway.
    pub fn redeem(&self, signer: &Signer, ticket: &str, now: Timestamp) -> Option<Redeemed> {
        let text = ticket.strip_prefix(PREFIX).filter(|_| ticket.len() <= MAX_LEN)?;
        let mut bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (number, sealed) = bytes.split_at_mut_checked(NONCE_LEN)?;
        let number: Number = (&*number).try_into().ok()?;
        let nonce = Nonce::assume_unique_for_key(number);
        let opened = self.key(signer)?.open_in_place(nonce, Aad::empty(), sealed).ok()?;
        let Ticket { standing, expires_at } = serde_json::from_slice(opened).ok()?;
        if expires_at <= now {
            return None;
        }
        let mut used = lock(&self.used);
        if used.len() >= Self::MAX {
            used.retain(|_, until| *until > now);
        }
        // Forgetting one would let it serve twice.
        if used.len() >= Self::MAX || used.insert(number, expires_at).is_some() {
            return None;
        }
        Some(Redeemed { standing, number })
    }
}

impl Redeemed {
    /// Records that the ticket is used, so that no other gateway takes it; false where one did already. While the store
    /// takes nothing a ticket serves once at each gateway: somebody has to look at what is wrong.
    pub async fn record(&self, app: &App, by: &Principal) -> bool {
        if app.access.followed.is_alone() {
            return true;
        }
        let Ok((event, answer)) =
            to_raw_value(&json!({"event": "console_ticket_used"})).and_then(|event| Ok((event, to_raw_value(&())?)))
        else {
            return true;
        };
        let step = Append {
            stream: "console-tickets".into(),
            expected: Expected::Any,
            fence: None,
            at: app.clock.now(),
            by: by.clone(),
            idempotency: Some(Idempotency {
                key: format!("console-ticket/{}", hex::encode(self.number)),
                body: "used".into(),
                answer,
            }),
            events: vec![event],
            view: Vec::new(),
        };
        match tokio::time::timeout(RECORD_WITHIN, app.store.append(step)).await {
            Ok(Err(AppendError::Duplicate { .. } | AppendError::KeyReused)) => false,
            Ok(Ok(_)) => true,
            Ok(Err(error)) => {
                tracing::warn!(%error, "it is not recorded that a console's ticket is used");
                true
            }
            Err(_) => {
                tracing::warn!("it is not recorded yet that a console's ticket is used");
                true
            }
        }
    }
}

/// `{"ticket":"ct_…","expires_at":"2026-11-21T22:36:46.000Z"}`
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct IssuedTicket {
    /// Serves once, within 30 s.
    pub ticket: String,
    #[schema(format = DateTime)]
    pub expires_at: String,
}

#[utoipa::path(post, path = "/v1/console/tickets", tag = "console", responses(
    (status = 201, body = IssuedTicket),
    (status = 403, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn issue(request: HttpRequest, app: web::Data<App>, caller: Caller) -> Result<HttpResponse, Problem> {
    caller.require(&[Role::Admin, Role::Operator, Role::Auditor])?;
    let standing = Standing::of(&request)?;
    let issued = app.access.tickets.issue(&app.signer, standing, app.clock.now());
    let (ticket, expires_at) =
        issued.ok_or_else(|| Problem::internal("console ticket", &"the system has no randomness"))?;
    Ok(reply(StatusCode::CREATED, &IssuedTicket { ticket, expires_at: expires_at.to_string() }))
}

#[cfg(test)]
mod tests {
    use super::super::{Holder, KeyHash};
    use super::*;

    fn standing() -> Standing {
        Standing { holder: Holder::ApiKey(KeyHash([7; 32])), session: Some([8; 32]), until: Some(Timestamp(9)) }
    }

    #[test]
    fn a_ticket_serves_once_and_for_half_a_minute() {
        let (tickets, signer) = (Tickets::own(), Signer::from_seed(&[7; 32], "cardea"));
        let now = Timestamp(5_000);
        let redeem = |ticket: &str, now| tickets.redeem(&signer, ticket, now).map(|redeemed| redeemed.standing);
        let (first, _) = tickets.issue(&signer, standing(), now).unwrap();
        assert_eq!(redeem(&first, now), Some(standing()));
        assert_eq!(redeem(&first, now), None);
        let (late, end) = tickets.issue(&signer, standing(), now).unwrap();
        assert_eq!(redeem(&late, end), None);
        assert_eq!(redeem(&late, end.plus_ms(-1)), Some(standing()));
        lock(&tickets.used).extend((0..Tickets::MAX as u128).map(|number| {
            let mut name = Number::default();
            name.copy_from_slice(&number.to_be_bytes()[4..]);
            (name, end)
        }));
        let (more, _) = tickets.issue(&signer, standing(), end.plus_ms(-1)).unwrap();
        assert_eq!(redeem(&more, end.plus_ms(-1)), None, "what was used is not forgotten for it");
        assert_eq!(redeem(&more, end), Some(standing()), "old ones make room");
    }

    #[test]
    fn a_ticket_is_taken_by_every_gateway_of_the_fleet_and_by_none_if_anybody_made_it_or_changed_it() {
        let signer = Signer::from_seed(&[7; 32], "cardea");
        let [here, there] = [Tickets::default(), Tickets::default()];
        let now = Timestamp(5_000);
        let (ticket, _) = here.issue(&signer, standing(), now).unwrap();
        assert!(there.redeem(&signer, &ticket, now).is_some_and(|redeemed| redeemed.standing == standing()));
        assert!(Tickets::own().redeem(&signer, &ticket, now).is_none(), "one that is alone takes its own only");
        assert!(here.redeem(&Signer::from_seed(&[8; 32], "cardea"), &ticket, now).is_none(), "another fleet's");
        for at in PREFIX.len()..ticket.len() {
            let mut changed = ticket.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            assert!(here.redeem(&signer, &String::from_utf8(changed).unwrap(), now).is_none(), "byte {at}");
        }
        for bad in ["", "ct_", "ct_AAAA", &"ct_A".repeat(2_000)] {
            assert!(here.redeem(&signer, bad, now).is_none());
        }
        assert!(here.redeem(&signer, &ticket, now).is_some());
    }
}
