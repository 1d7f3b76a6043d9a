//! `POST /v1/console/tickets`: whoever can set neither a header nor a cookie trades a credential for a ticket that
//! opens one WebSocket.

use std::collections::HashMap;
use std::sync::Mutex;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::rate::lock;
use super::{App, Caller, MAX_SECRET_LEN, Standing, new_secret, sha256};
use crate::domain::{Role, Timestamp};
use crate::http::error::{Problem, ProblemBody, Slug};
use crate::http::wire::reply;

/// Single-use tickets for the console's WebSocket.
#[derive(Default)]
pub struct Tickets {
    open: Mutex<HashMap<[u8; 32], Ticket>>,
}

struct Ticket {
    /// What it was issued for: a console ends when that does.
    standing: Standing,
    expires_at: Timestamp,
}

impl Tickets {
    pub const LIFE_MS: i64 = 30_000;
    pub const MAX: usize = 1_024;

    /// A fresh ticket with its end; `None` when too many are open.
    pub fn issue(&self, standing: Standing, now: Timestamp) -> Option<(String, Timestamp)> {
        let secret = new_secret("ct_")?;
        let expires_at = now.plus_ms(Self::LIFE_MS);
        let mut open = lock(&self.open);
        if open.len() >= Self::MAX {
            open.retain(|_, ticket| ticket.expires_at > now);
        }
        if open.len() >= Self::MAX {
            return None;
        }
        open.insert(sha256(secret.as_bytes()), Ticket { standing, expires_at });
        Some((secret, expires_at))
    }

    /// What the ticket stands for; it serves once.
    pub fn redeem(&self, secret: &str, now: Timestamp) -> Option<Standing> {
        if secret.len() > MAX_SECRET_LEN {
            return None;
        }
        let ticket = lock(&self.open).remove(&sha256(secret.as_bytes()))?;
        (ticket.expires_at > now).then_some(ticket.standing)
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
    let Some((ticket, expires_at)) = app.access.tickets.issue(standing, app.clock.now()) else {
        let detail = format!("{} console tickets are open already", Tickets::MAX);
        return Err(Problem::new(Slug::TooManyRequests, detail).retry_after(30));
    };
    Ok(reply(StatusCode::CREATED, &IssuedTicket { ticket, expires_at: expires_at.to_string() }))
}

#[cfg(test)]
mod tests {
    use super::super::{Holder, KeyHash};
    use super::*;

    #[test]
    fn a_ticket_serves_once_and_for_half_a_minute() {
        let tickets = Tickets::default();
        let standing = Standing { holder: Holder::ApiKey(KeyHash([7; 32])), session: Some([8; 32]), until: None };
        let (now, issue) = (Timestamp(5_000), |now: Timestamp| tickets.issue(standing.clone(), now));
        let (first, _) = issue(now).unwrap();
        assert_eq!(tickets.redeem(&first, now), Some(standing.clone()));
        assert_eq!(tickets.redeem(&first, now), None);
        let (late, _) = issue(now).unwrap();
        assert_eq!(tickets.redeem(&late, now.plus_ms(Tickets::LIFE_MS)), None);
        let full = (0..Tickets::MAX + 1).filter(|_| issue(now).is_some()).count();
        assert_eq!(full, Tickets::MAX);
        assert!(issue(now.plus_ms(Tickets::LIFE_MS)).is_some(), "old tickets make room");
    }
}
