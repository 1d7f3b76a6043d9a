//! The edge to people, their programs and the payment network: HTTPS, JSON, problem+json.
//!
//! A handler is: authorise, parse, ask, map. Decisions are the domain's, promises the actors'. This file holds the
//! whole route table and what every handler shares; it never touches MQTT or the store's engine.

mod alerts;
pub mod auth;
mod cards;
pub mod console;
mod console_frames;
mod console_mapping;
mod console_session;
#[cfg(test)]
mod console_tests;
mod decisions;
pub mod error;
pub mod openapi;
mod pages;
mod payments;
pub mod sessions;
mod stations;
#[cfg(test)]
pub mod testing;
mod tickets;
pub mod wire;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use actix::Addr;
use actix_web::http::Method;
use actix_web::{HttpRequest, Responder, Route, guard, web};

use crate::actors::card_guard::GuardHandle;
use crate::actors::feed::Feed;
use crate::actors::fleet::FleetHandle;
use crate::clock::Clock;
use crate::config::Config;
use crate::domain::{Timestamp, VehicleId};
use crate::metrics::{Count, Metrics};
use crate::store::Store;
use crate::token::Signer;

/// What every handler may use; cheap to clone. Handlers take it as `web::Data<App>`.
#[derive(Clone)]
pub struct App {
    pub store: Arc<dyn Store>,
    pub fleet: FleetHandle,
    pub clock: Clock,
    pub config: Arc<Config>,
    pub api_keys: Arc<auth::ApiKeys>,
    pub tickets: Arc<auth::Tickets>,
    pub signer: Arc<Signer>,
    pub certificates: CertificatePort,
    pub guard: GuardHandle,
    pub feed: Addr<Feed>,
    pub sessions: Arc<sessions::Sessions>,
    pub consoles: Arc<console::Consoles>,
    pub metrics: Metrics,
    pub counters: Arc<Counters>,
}

type Done<T> = Pin<Box<dyn Future<Output = Result<T, String>> + Send>>;

/// What lives at the gate to the cars, as closures, because HTTP does not know MQTT. Errors are for the log.
#[derive(Clone)]
pub struct CertificatePort {
    /// Refuses the vehicle's certificates from now on and ends its session.
    pub revoke: Arc<dyn Fn(Revocation) -> Done<()> + Send + Sync>,
    /// Reads certificates, CA bundle and CRL again; answers what was loaded, in a sentence.
    pub reload: Arc<dyn Fn() -> Done<String> + Send + Sync>,
}

/// Certificates that are good no longer. Certificates made offline are not known by serial, so the time counts too.
#[derive(Debug, Clone)]
pub struct Revocation {
    pub vehicle: VehicleId,
    /// Hex serials of the certificates that were issued here.
    pub serials: Vec<String>,
    /// Every certificate whose validity began before this is refused.
    pub issued_before: Timestamp,
}

/// What HTTP counts; shown at `/metrics`.
#[derive(Debug, Default)]
pub struct Counters {
    pub unauthenticated: Count,
    pub rate_limited: Count,
}

/// One path with its methods.
pub struct Entry {
    pub path: &'static str,
    routes: Vec<(Method, Route)>,
}

/// The whole route table. Other subjects add their lines at their place; order does not matter, except that a fixed
/// segment comes before a placeholder.
#[rustfmt::skip]
pub fn table() -> Vec<Entry> {
    vec![
        at("/v1/session").post(sessions::log_in).get(sessions::read).delete(sessions::log_out),
        at("/v1/cards").get(cards::list).post(cards::add),
        at("/v1/cards/{id}").get(cards::get).patch(cards::change).delete(cards::remove),
        at("/v1/stations").get(stations::list).post(stations::add),
        at("/v1/stations/import").post(stations::import),
        at("/v1/stations/{id}").get(stations::get).patch(stations::change).delete(stations::remove),
        at("/v1/decisions").get(decisions::list),
        at("/v1/decisions/{id}").get(decisions::get),
        at("/v1/alerts").get(alerts::list),
        at("/v1/alerts/{id}").get(alerts::get),
        at("/v1/alerts/{id}/acknowledge").post(alerts::acknowledge),
        at("/v1/alerts/{id}/resolve").post(alerts::resolve),
        at("/v1/payments/stripe").post(payments::stripe),
        at("/v1/console/tickets").post(tickets::issue),
        at("/v1/console").get(console::open),
        at("/").get(pages::index),
        at("/console/{file}").get(pages::part),
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
        use utoipa::OpenApi;
        let document = serde_json::to_value(openapi::Document::openapi()).unwrap();
        assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
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
