//! `/openapi.json`: the OpenAPI 3.1 document, made from the handlers' own annotations. A test compares it with the
//! route table, so that neither can have what the other lacks.

use std::sync::LazyLock;

use actix_web::HttpResponse;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Response, ResponseBuilder};
use utoipa::{Modify, OpenApi};

use super::error::ProblemBody;
use super::{
    alerts, api_keys, audit, available, cards, certificates, commands, console, decisions, history, keys, keyset,
    model, pages, payments, rentals, sessions, stations, tickets, usage, vehicles,
};

/// Each subject's handlers are listed here.
#[derive(OpenApi)]
#[openapi(
    info(title = "Cardea", description = "Virtual keys and a fuel-card guard for car-sharing and rental fleets"),
    paths(
        vehicles::list, vehicles::register, vehicles::get, vehicles::change, available::list, history::get,
        certificates::issue, certificates::revoke, certificates::reload,
        commands::order, commands::list, commands::order_many, commands::get, commands::cancel,
        usage::list, usage::request, usage::get, usage::approve, usage::decline,
        rentals::list, rentals::get, rentals::end, rentals::cancel,
        keys::list, keys::get, keys::revoke, keys::act,
        api_keys::list, api_keys::create, api_keys::delete,
        alerts::list, alerts::get, alerts::acknowledge, alerts::resolve,
        cards::list, cards::add, cards::get, cards::change, cards::remove,
        stations::list, stations::add, stations::import, stations::get, stations::change, stations::remove,
        decisions::list, decisions::get, payments::stripe,
        audit::list, tickets::issue, keyset::get, get,
        sessions::log_in, sessions::read, sessions::log_out, console::open, pages::index, pages::part,
    ),
    components(schemas(ProblemBody, model::FunctionName)),
    modifiers(&Common)
)]
pub struct Document;

/// Operations that need no API key.
const PUBLIC: [&str; 2] = ["/openapi.json", "/v1/keyset"];
const SCHEME: &str = "api_key";

/// What every operation has: its problems, and who may call. Payment callbacks authenticate by signature, so an
/// operation with a `security` of its own keeps it.
struct Common;

impl Modify for Common {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_with(Default::default);
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("ck_…").build();
        components.add_security_scheme(SCHEME, SecurityScheme::Http(bearer));
        for (path, item) in &mut document.paths.paths {
            let operations = [&mut item.get, &mut item.post, &mut item.put, &mut item.patch, &mut item.delete];
            for operation in operations.into_iter().flatten() {
                complete(operation, path);
            }
        }
    }
}

fn complete(operation: &mut Operation, path: &str) {
    let is_public = PUBLIC.contains(&path);
    if !is_public && operation.security.is_none() {
        operation.security = Some(vec![SecurityRequirement::new(SCHEME, Vec::<String>::new())]);
    }
    let mut problems = vec![("default", "Any other problem")];
    if !is_public {
        problems.extend([
            ("400", "A parameter or field is not valid"),
            ("401", "No valid credentials"),
            ("403", "Not allowed for this caller"),
            ("429", "Too many requests"),
        ]);
    }
    if path.contains('{') {
        problems.push(("404", "No such thing, or not the caller's"));
    }
    for (status, description) in problems {
        let responses = &mut operation.responses.responses;
        responses.entry(status.to_owned()).or_insert_with(|| RefOr::T(problem(description)));
    }
}

fn problem(description: &str) -> Response {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("ProblemBody"))).build();
    ResponseBuilder::new().description(description).content("application/problem+json", content).build()
}

/// Made once; it does not change while running.
static TEXT: LazyLock<String> = LazyLock::new(|| Document::openapi().to_json().unwrap_or_default());

#[utoipa::path(get, path = "/openapi.json", tag = "service",
    responses((status = 200, description = "This document", body = Value)))]
pub async fn get() -> HttpResponse {
    HttpResponse::Ok()
        .content_type("application/json")
        .insert_header(("Cache-Control", "public, max-age=300"))
        .body(TEXT.as_str())
}
