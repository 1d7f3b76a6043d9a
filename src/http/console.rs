//! `GET /v1/console`: who may open a console's WebSocket, and how many at once. The session itself is
//! [`console_session`](super::console_session).

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use actix_web::{HttpRequest, HttpResponse, web};
use actix_web_actors::ws::WsResponseBuilder;
use serde::Deserialize;
use tokio::sync::watch;
use utoipa::IntoParams;

use super::App;
use super::access::{Caller, Origin, Standing, authenticate, origin};
use super::console_frames::MAX_IN;
use super::console_session::Session;
use super::error::{Problem, ProblemBody, Slug};
use super::vehicles::READERS;
use super::wire::Query;
use crate::metrics::{Count, Metrics, Reading};

/// The consoles that are open, and what they count.
#[derive(Debug, Default)]
pub struct Consoles {
    open: AtomicUsize,
    /// True once the gateway stops.
    ending: watch::Sender<bool>,
    pub counters: ConsoleCounters,
}

#[derive(Debug, Default)]
pub struct ConsoleCounters {
    /// Consoles that found no seat.
    pub refused: Count,
    pub frames_out: Count,
    pub frames_in: Count,
    /// Frames that were not understood.
    pub malformed: Count,
    pub commands: Count,
    /// Commands refused because too many of the console's own were under way.
    pub commands_refused: Count,
    /// Sessions closed because the console did not answer pings.
    pub silent: Count,
    /// Sessions closed because the console did not read, or sent too much or too much nonsense.
    pub abusive: Count,
    /// Sessions closed because their log-in or API key ended.
    pub ended: Count,
}

/// A console's place among [`Consoles`]; given back when dropped.
#[derive(Debug)]
pub struct Seat(Arc<Consoles>);

impl Consoles {
    fn take_seat(self: &Arc<Self>, most: usize) -> Option<Seat> {
        let taken =
            self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| (open < most).then_some(open + 1));
        taken.is_ok().then(|| Seat(self.clone()))
    }

    /// Tells every console to come back later: a stop would wait for them as for requests that are being answered.
    pub fn end(&self) {
        self.ending.send_replace(true);
    }

    /// Completes when the gateway stops.
    pub fn ended(&self) -> impl Future<Output = ()> + use<> {
        let mut ending = self.ending.subscribe();
        // An error says that whoever could tell is gone, and so is the gateway.
        async move { drop(ending.wait_for(|is_ending| *is_ending).await) }
    }

    pub fn count(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    pub fn register(self: &Arc<Self>, metrics: &Metrics) {
        let consoles = self.clone();
        metrics.register(move || {
            let ConsoleCounters { refused, frames_out, frames_in, malformed, commands, .. } = &consoles.counters;
            let ConsoleCounters { commands_refused, silent, abusive, ended, .. } = &consoles.counters;
            let closed = [("silent", silent), ("abusive", abusive), ("ended", ended)];
            vec![
                Reading::gauge("consoles", "Console sessions open", consoles.count() as f64),
                Reading::counter("consoles_refused", "Consoles beyond http.max_consoles", refused.get()),
                Reading::counter("console_frames_out", "Frames sent to consoles", frames_out.get()),
                Reading::counter("console_frames_in", "Frames taken from consoles", frames_in.get()),
                Reading::counter("console_frames_malformed", "Frames of consoles not understood", malformed.get()),
                Reading::counter("console_commands", "Commands ordered by consoles", commands.get()),
                Reading::counter(
                    "console_commands_refused",
                    "Commands beyond a console's limit",
                    commands_refused.get(),
                ),
                Reading::counters(
                    "console_closed",
                    "Console sessions closed by the gateway",
                    "why",
                    closed.map(|(why, count)| (why.to_owned(), count.get())),
                ),
            ]
        });
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct OpenConsole {
    /// From `POST /v1/console/tickets`; for those who can set neither a header nor a cookie.
    ticket: Option<String>,
}

#[utoipa::path(get, path = "/v1/console", tag = "console", params(OpenConsole), responses(
    (status = 101, description = "The console's WebSocket"),
    (status = 401, body = ProblemBody, content_type = "application/problem+json"),
    (status = 403, body = ProblemBody, content_type = "application/problem+json"),
    (status = 429, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn open(
    request: HttpRequest,
    app: web::Data<App>,
    Query(query): Query<OpenConsole>,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let (caller, standing) = admit(&request, &app, query.ticket.as_deref()).await?;
    caller.require(&READERS)?;
    let Some(seat) = app.consoles.take_seat(app.config.http.max_consoles) else {
        app.consoles.counters.refused.inc();
        let detail = format!("{} consoles are open already", app.config.http.max_consoles);
        return Err(Problem::new(Slug::TooManyRequests, detail).retry_after(30));
    };
    let session = Session::new(app.get_ref().clone(), caller, standing, seat);
    WsResponseBuilder::new(session, &request, payload)
        .frame_size(MAX_IN)
        .start()
        .map_err(|_| Problem::new(Slug::Invalid, "a WebSocket handshake is expected here"))
}

/// By ticket, else as every request. A browser must come from our own page, whatever it shows: its cookie is sent
/// along by foreign pages' WebSockets too.
async fn admit(request: &HttpRequest, app: &App, ticket: Option<&str>) -> Result<(Caller, Standing), Problem> {
    let from = origin(request);
    if from == Origin::Foreign {
        return Err(Problem::forbidden("a console opens from this gateway's own page only"));
    }
    if let Some(ticket) = ticket {
        let unknown = || Problem::new(Slug::Unauthenticated, "the ticket is not known, used already, or too old");
        let redeemed = app.access.tickets.redeem(&app.signer, ticket, app.clock.now()).ok_or_else(unknown)?;
        let standing = redeemed.standing.clone();
        let principal = standing.principal(app).ok_or_else(unknown)?;
        if !redeemed.record(app, &principal).await {
            return Err(unknown());
        }
        return Ok((Caller { role: principal.role, principal }, standing));
    }
    let caller = authenticate(request)?;
    let standing = Standing::of(request)?;
    if standing.is_by_session() && from != Origin::Own {
        return Err(Problem::forbidden("a session opens a console from this gateway's own page only"));
    }
    Ok((caller, standing))
}
