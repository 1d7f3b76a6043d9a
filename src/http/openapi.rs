//! `/openapi.json`: the OpenAPI 3.1 document, made from the handlers' own annotations. A test compares it with the
//! route table, so that neither can have what the other lacks. [`limits`] says what may be sent, [`roles`] who may send it.

mod limits;
mod roles;

use std::sync::LazyLock;

use actix_web::HttpResponse;
use serde_json::Value;
use utoipa::openapi::path::{HttpMethod, Operation};
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Response, ResponseBuilder};
use utoipa::{Modify, OpenApi};

use super::access::{api_keys, log_in, oidc, tickets, users};
use super::error::ProblemBody;
use super::{
    alerts, audit, available, card_rules, cards, certificates, commands, confirmations, console, decisions,
    delegations, dispute, est, history, keys, keyset, link_log, map, mds, model, notifications, pages, payments,
    rentals, stations, system, usage, vehicles, verification,
};

/// Each subject's handlers are listed here.
#[derive(OpenApi)]
#[openapi(
    info(title = "Cardea", description = "Virtual keys and a fuel-card guard for car-sharing and rental fleets"),
    paths(
        vehicles::list, vehicles::register, vehicles::get, vehicles::change, available::list, history::get, link_log::get,
        est::issue_token, est::withdraw_tokens, est::ca_certificates, est::enroll, est::reenroll,
        certificates::issue, certificates::revoke, certificates::reload,
        commands::order, commands::list, commands::order_many, commands::get, commands::cancel,
        usage::list, usage::request, usage::get, usage::approve, usage::decline,
        rentals::list, rentals::get, rentals::end, rentals::cancel, rentals::extend,
        keys::list, keys::get, keys::revoke, keys::act, delegations::tell, delegations::revoke, mds::vehicles,
        api_keys::list, api_keys::create, api_keys::delete,
        users::list, users::create, users::change, users::delete,
        alerts::list, alerts::get, alerts::acknowledge, alerts::resolve,
        cards::list, cards::add, cards::get, cards::change, cards::remove,
        stations::list, stations::add, stations::import, stations::get, stations::change, stations::remove,
        card_rules::list, card_rules::get, card_rules::activate, card_rules::try_out,
        confirmations::list, confirmations::answer,
        decisions::list, decisions::get, dispute::export, payments::stripe,
        payments::authorizations, payments::captures, payments::reversals, payments::marqeta, payments::lithic,
        notifications::targets, notifications::test, notifications::dead, notifications::retry,
        audit::list, verification::get, verification::start, system::get, tickets::issue, keyset::get, get,
        log_in::log_in, log_in::read, log_in::log_out, log_in::methods, log_in::change_password, log_in::end_all, oidc::start,
        oidc::finish, console::open, map::get, map::archive, pages::index, pages::part, pages::asset,
        pages::terminal, pages::terminal_part,
    ),
    components(schemas(ProblemBody, model::FunctionName)),
    modifiers(&Common)
)]
pub struct Document;

/// Operations that need neither an API key nor a session: pages, public keys, the log-in itself, and payment callbacks,
/// which authenticate by signature. The console's WebSocket may also come with a ticket.
const PUBLIC: [(&str, Option<HttpMethod>); 20] = [
    ("/.well-known/est/cacerts", None),
    ("/openapi.json", None),
    ("/v1/keyset", None),
    ("/", None),
    ("/console/{file}", None),
    ("/console/map.pmtiles", None),
    ("/console/assets/{file}", None),
    ("/terminal", None),
    ("/terminal/{file}", None),
    ("/v1/console", None),
    ("/v1/payments/stripe", None),
    ("/v1/payments/authorizations", None),
    ("/v1/payments/captures", None),
    ("/v1/payments/reversals", None),
    ("/v1/payments/marqeta", None),
    ("/v1/payments/lithic", None),
    ("/v1/session", Some(HttpMethod::Post)),
    ("/v1/session/methods", None),
    ("/v1/session/oidc", None),
    ("/v1/session/oidc/callback", None),
];
const API_KEY: &str = "api_key";
const SESSION: &str = "session";
const ENROLMENT_TOKEN: &str = "enrolment_token";
const VEHICLE_CERTIFICATE: &str = "vehicle_certificate";

/// What every operation has: its problems, and who may call.
struct Common;

impl Modify for Common {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_with(Default::default);
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("ck_…").build();
        components.add_security_scheme(API_KEY, SecurityScheme::Http(bearer));
        let cookie = ApiKey::Cookie(ApiKeyValue::new("__Host-cardea-session"));
        components.add_security_scheme(SESSION, SecurityScheme::ApiKey(cookie));
        let basic =
            HttpBuilder::new().scheme(HttpAuthScheme::Basic).description(Some("The vehicle's id and its token"));
        components.add_security_scheme(ENROLMENT_TOKEN, SecurityScheme::Http(basic.build()));
        let certificate = SecurityScheme::MutualTls {
            description: Some("The car's certificate".into()),
            deprecated: None,
            extensions: None,
        };
        components.add_security_scheme(VEHICLE_CERTIFICATE, certificate);
        for (path, item) in &mut document.paths.paths {
            let operations = [
                (HttpMethod::Get, &mut item.get),
                (HttpMethod::Post, &mut item.post),
                (HttpMethod::Put, &mut item.put),
                (HttpMethod::Patch, &mut item.patch),
                (HttpMethod::Delete, &mut item.delete),
            ];
            for (method, operation) in operations {
                let of_this = |(known, only): &(&str, Option<HttpMethod>)| {
                    known == path && only.as_ref().is_none_or(|only| *only == method)
                };
                if let Some(operation) = operation {
                    operation.operation_id = Some(operation_id(&method, path));
                    complete(operation, &method, path, PUBLIC.iter().any(of_this));
                }
            }
        }
    }
}

/// Handlers of different subjects have the same names, so operations are named by what is sent:
/// `post_vehicles_id_commands`.
fn operation_id(method: &HttpMethod, path: &str) -> String {
    let verb = match method {
        HttpMethod::Get => "get",
        HttpMethod::Post => "post",
        HttpMethod::Put => "put",
        HttpMethod::Patch => "patch",
        HttpMethod::Delete => "delete",
        HttpMethod::Options | HttpMethod::Head | HttpMethod::Trace => "other",
    };
    let words = path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty() && *word != "v1");
    std::iter::once(verb).chain(words).collect::<Vec<_>>().join("_")
}

/// Every status an operation may have stands in the document: one that does not is a mistake of ours.
fn complete(operation: &mut Operation, method: &HttpMethod, path: &str, is_public: bool) {
    if !is_public && operation.security.is_none() {
        let either = [API_KEY, SESSION].map(|scheme| SecurityRequirement::new(scheme, Vec::<String>::new()));
        operation.security = Some(either.into());
    }
    let mut statuses = vec!["400", "429", "431", "500", "503"];
    if !is_public {
        statuses.extend(["401", "403"]);
    }
    if path.contains('{') {
        statuses.push("404");
    }
    if operation.request_body.is_some() {
        statuses.extend(["408", "413", "415"]);
    }
    if *method != HttpMethod::Get && !is_public {
        // Not in the present state, too late, and an idempotency key that came before with something else.
        statuses.extend(["409", "410", "422"]);
    }
    for (status, response) in &mut operation.responses.responses {
        if let RefOr::T(response) = response
            && response.description.is_empty()
        {
            response.description = usual(status).into();
        }
    }
    for status in statuses {
        let responses = &mut operation.responses.responses;
        responses.entry(status.to_owned()).or_insert_with(|| RefOr::T(problem(usual(status))));
    }
}

/// What a status means where the handler says nothing more; a response without a description is not valid.
fn usual(status: &str) -> &'static str {
    match status {
        "200" => "As it is now",
        "201" => "Made",
        "202" => "Accepted",
        "400" => "A parameter or field is not valid",
        "401" => "No valid credentials",
        "403" => "Not allowed for this caller",
        "404" => "No such thing, or not the caller's",
        "408" => "The body came too slowly",
        "409" => "Not possible in the present state",
        "410" => "Its time is over",
        "413" => "The body is too large",
        "415" => "The body has another content type",
        "422" => "The Idempotency-Key came before with another request",
        "429" => "Too many requests",
        "431" => "The headers are too large",
        "500" => "A fault of the gateway; its log says more",
        "503" => "Nothing can be promised now",
        _ => "See the status",
    }
}

fn problem(description: &str) -> Response {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("ProblemBody"))).build();
    ResponseBuilder::new().description(description).content("application/problem+json", content).build()
}

/// The whole document.
pub fn document() -> Value {
    // What cannot be written would be a document without paths, which the tests would not miss to see.
    let mut document = serde_json::to_value(Document::openapi()).unwrap_or_default();
    limits::add(&mut document);
    roles::add(&mut document);
    document
}

fn operations_mut(document: &mut Value) -> impl Iterator<Item = &mut Value> {
    let paths = document.get_mut("paths").and_then(Value::as_object_mut);
    paths.into_iter().flatten().flat_map(|(_, item)| item.as_object_mut().into_iter().flatten().map(|(_, value)| value))
}

/// Made once; it does not change while running.
static TEXT: LazyLock<String> = LazyLock::new(|| document().to_string());

#[utoipa::path(get, path = "/openapi.json", tag = "service",
    responses((status = 200, description = "This document", body = Value)))]
pub async fn get() -> HttpResponse {
    HttpResponse::Ok()
        .content_type("application/json")
        .insert_header(("Cache-Control", "public, max-age=300"))
        .body(TEXT.as_str())
}
