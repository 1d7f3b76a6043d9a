//! The edge to people, their programs and the payment network: HTTPS, JSON, problem+json.
//!
//! A handler is: authorise, parse, ask, map. Decisions are the domain's, promises the actors'. This file holds the
//! whole route table and what every handler shares; it never touches MQTT or the store's engine.

pub mod access;
pub mod address;
mod alerts;
mod audit;
mod available;
mod card_rules;
mod cards;
pub mod certificates;
#[cfg(test)]
mod cluster_tests;
mod commands;
pub mod confirmations;
mod connection;
mod console;
mod console_frames;
mod console_hand;
mod console_session;
mod console_summary;
#[cfg(test)]
mod console_tests;
mod decisions;
mod delegations;
mod dispute;
pub mod error;
mod est;
#[cfg(test)]
mod flow_tests;
#[cfg(test)]
mod fuzz_tests;
mod history;
mod keys;
mod keyset;
#[cfg(test)]
mod lending_tests;
mod levels;
mod link_log;
mod map;
mod mds;
pub mod model;
mod notifications;
pub mod openapi;
mod pages;
pub mod payments;
mod rentals;
mod server;
mod stations;
mod system;
#[cfg(test)]
pub mod testing;
mod usage;
mod vehicles;
mod verification;
pub mod wire;

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use actix::Addr;
use actix_web::http::Method;
use actix_web::{HttpRequest, Responder, Route, guard, web};
use rustls_pki_types::CertificateDer;
use serde::Serialize;
use utoipa::ToSchema;

use access::log_in;
pub use server::{Server, serve, serve_metrics};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use {
    console_frames::fuzz as fuzz_console, payments::fuzzing::webhook as fuzz_webhook,
    stations::fuzzing::stations as fuzz_stations,
};

use crate::actors::card_guard::GuardHandle;
use crate::actors::feed::Feed;
use crate::actors::fleet::FleetHandle;
use crate::actors::follower::Follower;
use crate::actors::notifier::NotifierHandle;
use crate::clock::Clock;
use crate::config::Config;
use crate::domain::vehicle::Rules;
use crate::domain::{Timestamp, VehicleId};
use crate::metrics::{Count, Level, Metrics, Reading, Timing};
use crate::pki::Ca;
use crate::store::{ReadError, Store};
use crate::telemetry::Telemetry;
use crate::token::{Keyset, Signer};

/// What every handler may use; cheap to clone. Handlers take it as `web::Data<App>`.
#[derive(Clone)]
pub struct App {
    pub store: Arc<dyn Store>,
    pub fleet: FleetHandle,
    pub clock: Clock,
    pub config: Arc<Config>,
    pub access: Arc<access::Access>,
    pub signer: Arc<Signer>,
    /// What tokens still in use are signed by, the signer's own key first.
    pub keyset: Arc<Keyset>,
    pub certificates: CertificatePort,
    pub guard: GuardHandle,
    /// What the fleet decides by; for questions like "which car could be had".
    pub rules: Arc<Rules>,
    pub feed: Addr<Feed>,
    pub notifier: NotifierHandle,
    pub consoles: Arc<console::Consoles>,
    pub links: LinkPort,
    pub verification: Arc<verification::Verification>,
    pub started_at: Timestamp,
    pub payments: Arc<payments::PaymentEdge>,
    pub metrics: Metrics,
    pub telemetry: Telemetry,
    pub counters: Arc<Counters>,
}

/// What an [`App`] is made of; the rest is HTTP's own.
pub struct Parts {
    pub store: Arc<dyn Store>,
    /// Without anybody yet.
    pub access: access::Access,
    pub fleet: FleetHandle,
    pub clock: Clock,
    pub config: Arc<Config>,
    pub signer: Arc<Signer>,
    /// What tokens still in use are signed by, the signer's own key first.
    pub keyset: Arc<Keyset>,
    pub rules: Arc<Rules>,
    pub certificates: CertificatePort,
    pub guard: GuardHandle,
    pub feed: Addr<Feed>,
    pub notifier: NotifierHandle,
    pub links: LinkPort,
    pub metrics: Metrics,
    pub telemetry: Telemetry,
}

impl App {
    /// Reads who may call and registers what HTTP counts; blocks, so call it at start.
    pub fn new(parts: Parts) -> Result<Self, ReadError> {
        let Parts {
            store,
            access,
            fleet,
            clock,
            config,
            signer,
            keyset,
            rules,
            certificates,
            guard,
            feed,
            notifier,
            links,
            metrics,
            telemetry,
        } = parts;
        let started_at = clock.now();
        access.load(&*store, started_at)?;
        let (consoles, counters) = (Arc::<console::Consoles>::default(), Arc::<Counters>::default());
        consoles.register(&metrics);
        let counted = Arc::clone(&counters);
        metrics.register(move || counted.readings());
        let payments = Arc::new(payments::PaymentEdge::new(&config.payments));
        let edge = Arc::clone(&payments);
        metrics.register(move || edge.counters.readings());
        levels::register(&metrics, Arc::clone(&config), clock.clone(), started_at);
        Ok(Self {
            store,
            fleet,
            clock,
            config,
            access: Arc::new(access),
            signer,
            keyset,
            certificates,
            guard,
            rules,
            feed,
            notifier,
            consoles,
            links,
            verification: Arc::default(),
            started_at,
            payments,
            metrics,
            telemetry,
            counters,
        })
    }
}

impl App {
    /// Keeps what HTTP has in memory as every gateway's records say; blocks, so call it at start.
    pub fn follow(&self, follower: &mut Follower) -> Result<(), ReadError> {
        self.access.follow(follower);
        certificates::follow(self, follower)
    }
}

type IsTrusted = dyn Fn(&[CertificateDer<'static>], Timestamp) -> bool + Send + Sync;
type Allow = dyn Fn(&VehicleId, &str) + Send + Sync;
type Done<T> = Pin<Box<dyn Future<Output = Result<T, String>> + Send>>;

/// What lives at the gate to the cars, as closures, because HTTP does not know MQTT. Errors are for the log.
#[derive(Clone)]
pub struct CertificatePort {
    /// The CA that signs, as it is now; `None` where an outside CA does.
    pub ca: Arc<dyn Fn() -> Option<Arc<Ca>> + Send + Sync>,
    /// Refuses the vehicle's certificates from now on and ends its session.
    pub revoke: Arc<dyn Fn(Revocation) -> Done<()> + Send + Sync>,
    /// Lets a new certificate (by hex serial) of a revoked vehicle in.
    pub allow: Arc<Allow>,
    /// Every CA whose certificates are trusted now.
    pub bundle: Arc<dyn Fn() -> Arc<Vec<CertificateDer<'static>>> + Send + Sync>,
    /// May somebody who showed these certificates, their own first, come in now?
    pub is_trusted: Arc<IsTrusted>,
    /// Reads certificates, CA bundle and CRL again; answers what was loaded, in a sentence.
    pub reload: Arc<dyn Fn() -> Done<String> + Send + Sync>,
    /// Issuing and revoking read a row and write it: one at a time.
    pub lock: Arc<tokio::sync::Mutex<()>>,
}

/// What became of a vehicle's connections, as the gate remembers it; newest first.
pub type LinkPort = Arc<dyn Fn(&VehicleId) -> LinkLog + Send + Sync>;

#[derive(Debug, Clone)]
pub struct LinkLog {
    /// Nothing is known of before.
    pub since: Timestamp,
    pub entries: Vec<LinkEntry>,
}

#[derive(Debug, Clone)]
pub struct LinkEntry {
    pub at: Timestamp,
    pub event: LinkEvent,
    pub epoch: Option<u64>,
    pub address: Option<IpAddr>,
    pub reason: Option<&'static str>,
    /// How many times in a row.
    pub times: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LinkEvent {
    Connected,
    Disconnected,
    /// It showed a good certificate and was not let in.
    Refused,
    /// Somebody showed a certificate with its name that is not trusted (expired, of an unknown CA, ...): the car itself
    /// or anybody else.
    Unproved,
}

/// Trust withdrawn from a vehicle. Certificates made offline are not known by serial, so the time decides.
#[derive(Debug, Clone, PartialEq)]
pub struct Revocation {
    pub vehicle: VehicleId,
    /// Every certificate issued up to then is refused,
    pub issued_until: Timestamp,
    /// but these (hex serials): they were issued after it and are backdated.
    pub except: Vec<String>,
}

/// What HTTP counts; shown at `/metrics`.
#[derive(Debug, Default)]
pub struct Counters {
    pub unauthenticated: Count,
    pub rate_limited: Count,
    /// Answers by class: 1xx, 2xx, 3xx, 4xx, 5xx.
    pub answers: [Count; 5],
    /// Answers that were a problem, in the order of [`error::Slug::ALL`].
    pub problems: [Count; error::Slug::ALL.len()],
    pub in_flight: Level,
    /// From the request's head to the answer's head.
    pub latency: Timing,
}

impl Counters {
    pub fn count(&self, problem: error::Slug) {
        if let Some(count) = self.problems.get(problem as usize) {
            count.inc();
        }
    }

    /// For [`Metrics::register`].
    pub fn readings(&self) -> Vec<Reading> {
        const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
        let answers = CLASSES.iter().zip(&self.answers).map(|(class, count)| ((*class).to_owned(), count.get()));
        let problems = error::Slug::ALL.iter().zip(&self.problems);
        let problems = problems.map(|(slug, count)| (slug.name().to_owned(), count.get()));
        vec![
            Reading::counters("http_answers", "Answers by status class", "class", answers),
            Reading::counters("http_problems", "Answers that were a problem, by its kind", "problem", problems),
            Reading::gauge("http_requests_in_flight", "Requests being answered", self.in_flight.get() as f64),
            Reading::counter("http_unauthenticated", "Requests with an unknown API key", self.unauthenticated.get()),
            Reading::counter(
                "http_rate_limited",
                "Requests over the rate of their API key, user or address",
                self.rate_limited.get(),
            ),
            Reading::timing("http_request_seconds", "Time until an answer's head", &self.latency),
        ]
    }
}

/// One path with its methods.
pub struct Entry {
    pub path: &'static str,
    routes: Vec<(Method, Route)>,
}

/// The whole route table. Other subjects add their lines at their place; a fixed segment comes before a placeholder.
/// The router tries the paths from the top, and a payment network waits for its own.
pub fn table() -> Vec<Entry> {
    [of_machines(), of_the_fleet(), of_the_house()].into_iter().flatten().collect()
}

/// For payment networks and for cars without a certificate.
#[rustfmt::skip]
fn of_machines() -> Vec<Entry> {
    vec![
        at("/v1/payments/stripe").post(payments::stripe),
        at("/v1/payments/authorizations").post(payments::authorizations),
        at("/v1/payments/captures").post(payments::captures),
        at("/v1/payments/reversals").post(payments::reversals),
        at("/v1/payments/marqeta").post(payments::marqeta),
        at("/v1/payments/lithic").post(payments::lithic),
        at("/.well-known/est/cacerts").get(est::ca_certificates),
        at("/.well-known/est/simpleenroll").post(est::enroll),
        at("/.well-known/est/simplereenroll").post(est::reenroll),
    ]
}

/// Vehicles, who uses them, and what is bought for them.
#[rustfmt::skip]
fn of_the_fleet() -> Vec<Entry> {
    vec![
        at("/v1/vehicles").get(vehicles::list).post(vehicles::register),
        at("/v1/vehicles/available").get(available::list),
        at("/v1/vehicles/{id}").get(vehicles::get).patch(vehicles::change),
        at("/v1/vehicles/{id}/history").get(history::get),
        at("/v1/vehicles/{id}/link-log").get(link_log::get),
        at("/v1/vehicles/{id}/certificate").post(certificates::issue).delete(certificates::revoke),
        at("/v1/vehicles/{id}/enrolment-tokens").post(est::issue_token).delete(est::withdraw_tokens),
        at("/v1/vehicles/{id}/commands").post(commands::order),
        at("/v1/commands").get(commands::list).post(commands::order_many),
        at("/v1/commands/{id}").get(commands::get).delete(commands::cancel),
        at("/v1/usage-requests").get(usage::list).post(usage::request),
        at("/v1/usage-requests/{id}").get(usage::get),
        at("/v1/usage-requests/{id}/approve").post(usage::approve),
        at("/v1/usage-requests/{id}/decline").post(usage::decline),
        at("/v1/rentals").get(rentals::list),
        at("/v1/rentals/{id}").get(rentals::get),
        at("/v1/rentals/{id}/end").post(rentals::end),
        at("/v1/rentals/{id}/cancel").post(rentals::cancel),
        at("/v1/rentals/{id}/extend").post(rentals::extend),
        at("/v1/export/mds/vehicles").get(mds::vehicles),
        at("/v1/keys").get(keys::list),
        at("/v1/keys/{id}").get(keys::get).delete(keys::revoke),
        at("/v1/keys/{id}/actions").post(keys::act),
        at("/v1/keys/{id}/delegations").post(delegations::tell),
        at("/v1/keys/{id}/delegations/{delegated}").delete(delegations::revoke),
        at("/v1/cards").get(cards::list).post(cards::add),
        at("/v1/cards/{id}").get(cards::get).patch(cards::change).delete(cards::remove),
        at("/v1/stations").get(stations::list).post(stations::add),
        at("/v1/stations/import").post(stations::import),
        at("/v1/stations/{id}").get(stations::get).patch(stations::change).delete(stations::remove),
        at("/v1/card-rules").get(card_rules::list).post(card_rules::activate),
        at("/v1/card-rules/try").post(card_rules::try_out),
        at("/v1/card-rules/{version}").get(card_rules::get),
        at("/v1/confirmations").get(confirmations::list),
        at("/v1/confirmations/{id}").post(confirmations::answer),
        at("/v1/decisions").get(decisions::list),
        at("/v1/decisions/export").get(dispute::export),
        at("/v1/decisions/{id}").get(decisions::get),
        at("/v1/alerts").get(alerts::list),
        at("/v1/alerts/{id}").get(alerts::get),
        at("/v1/alerts/{id}/acknowledge").post(alerts::acknowledge),
        at("/v1/alerts/{id}/resolve").post(alerts::resolve),
        at("/v1/notifications/targets").get(notifications::targets),
        at("/v1/notifications/test").post(notifications::test),
        at("/v1/notifications/dead").get(notifications::dead),
        at("/v1/notifications/dead/{id}/retry").post(notifications::retry),
    ]
}

/// Who may call, what the gateway says of itself, and its pages.
#[rustfmt::skip]
fn of_the_house() -> Vec<Entry> {
    vec![
        at("/v1/api-keys").get(access::api_keys::list).post(access::api_keys::create),
        at("/v1/api-keys/{id}").delete(access::api_keys::delete),
        at("/v1/users").get(access::users::list).post(access::users::create),
        at("/v1/users/{id}").patch(access::users::change).delete(access::users::delete),
        at("/v1/audit").get(audit::list),
        at("/v1/audit/verification").get(verification::get).post(verification::start),
        at("/v1/system").get(system::get),
        at("/v1/certificates/reload").post(certificates::reload),
        at("/v1/keyset").get(keyset::get),
        at("/v1/session").post(log_in::log_in).get(log_in::read).delete(log_in::log_out),
        at("/v1/sessions").delete(log_in::end_all),
        at("/v1/session/methods").get(log_in::methods),
        at("/v1/session/password").put(log_in::change_password),
        at("/v1/session/oidc").get(access::oidc::start),
        at("/v1/session/oidc/callback").get(access::oidc::finish),
        at("/v1/console/tickets").post(access::tickets::issue),
        at("/v1/console").get(console::open),
        at("/v1/console/map").get(map::get),
        at("/").get(pages::index),
        at("/console/map.pmtiles").get(map::archive),
        at("/console/{file}").get(pages::part),
        at("/console/assets/{file}").get(pages::asset),
        at("/terminal").get(pages::terminal),
        at("/terminal/{file}").get(pages::terminal_part),
        at("/openapi.json").get(openapi::get),
    ]
}

/// Registers the table. The caller adds `web::Data<App>` with `app_data`.
pub fn routes(config: &mut web::ServiceConfig) {
    for entry in table() {
        entry.register(config);
    }
    config.default_service(web::to(error::no_such_route));
}

/// Begins a line of the table.
pub fn at(path: &'static str) -> Entry {
    Entry { path, routes: Vec::new() }
}

macro_rules! method {
    ($($name:ident $method:ident),*) => {$(
        pub fn $name<F, Args>(mut self, handler: F) -> Self
        where
            F: actix_web::Handler<Args>,
            Args: actix_web::FromRequest + 'static,
            F::Output: Responder + 'static,
        {
            self.routes.push((Method::$method, web::$name().to(handler)));
            self
        }
    )*};
}

impl Entry {
    method!(get GET, post POST, put PUT, patch PATCH, delete DELETE);

    pub fn methods(&self) -> Vec<Method> {
        self.routes.iter().map(|(method, _)| method.clone()).collect()
    }

    fn register(self, config: &mut web::ServiceConfig) {
        let allowed = Arc::new(self.methods());
        let mut resource = web::resource(self.path);
        for (_, route) in self.routes {
            resource = resource.route(route);
        }
        let otherwise = move |request: HttpRequest| {
            let answer = error::method_not_allowed(request.method(), &allowed);
            async move { Err::<actix_web::HttpResponse, _>(answer) }
        };
        config.service(resource.default_service(web::route().guard(guard::fn_guard(|_| true)).to(otherwise)));
    }
}

#[cfg(test)]
mod tests {
    use actix_web::test::{TestRequest, call_service, read_body_json};

    use super::error::ProblemBody;
    use super::testing::{app, service};
    use super::*;

    #[actix_web::test]
    async fn an_unknown_path_and_a_wrong_method_are_problems() {
        let (app, _) = app();
        let service = service!(app);
        let answer = call_service(&service, TestRequest::get().uri("/v1/nothing%0d%0a").to_request()).await;
        assert_eq!(answer.status(), 404);
        assert_eq!(answer.headers().get("Content-Type").unwrap(), "application/problem+json");
        assert_eq!(read_body_json::<ProblemBody, _>(answer).await.kind, "urn:cardea:problem:not-found");
        let answer = call_service(&service, TestRequest::put().uri("/openapi.json").to_request()).await;
        assert_eq!(answer.status(), 405);
        assert_eq!(answer.headers().get("Allow").unwrap(), "GET");
        assert_eq!(read_body_json::<ProblemBody, _>(answer).await.kind, "urn:cardea:problem:method-not-allowed");
    }

    #[actix_web::test]
    async fn the_openapi_document_has_exactly_the_routes_of_the_table() {
        let document = openapi::document();
        assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
        let operations =
            || document["paths"].as_object().unwrap().values().flat_map(|item| item.as_object().unwrap().values());
        let names: Vec<&str> = operations().map(|operation| operation["operationId"].as_str().unwrap()).collect();
        let distinct: std::collections::BTreeSet<&str> = names.iter().copied().collect();
        assert_eq!(distinct.len(), names.len(), "{names:?}");
        for response in operations().flat_map(|operation| operation["responses"].as_object().unwrap().values()) {
            assert!(!response["description"].as_str().unwrap_or("").is_empty(), "{response}");
        }
        let mut described: Vec<String> = Vec::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            let methods = item.as_object().unwrap().keys();
            described.extend(methods.map(|method| format!("{} {path}", method.to_uppercase())));
        }
        let mut served: Vec<String> = table()
            .iter()
            .flat_map(|entry| entry.methods().into_iter().map(move |method| format!("{method} {}", entry.path)))
            .collect();
        described.sort();
        served.sort();
        assert_eq!(described, served);
    }
}
