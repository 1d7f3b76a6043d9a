//! `/openapi.json`: the OpenAPI 3.1 document, made from the handlers' own annotations. A test compares it with the
//! route table, so that neither can have what the other lacks.

use actix_web::HttpResponse;
use utoipa::OpenApi;

use super::error::ProblemBody;

/// Each subject's handlers are listed here.
#[derive(OpenApi)]
#[openapi(
    info(title = "Cardea", description = "Virtual keys and a fuel-card guard for car-sharing and rental fleets"),
    paths(
        super::sessions::log_in,
        super::sessions::read,
        super::sessions::log_out,
        super::tickets::issue,
        super::console::open,
        super::pages::index,
        super::pages::part,
        get,
        super::alerts::acknowledge,
        super::alerts::get,
        super::alerts::list,
        super::alerts::resolve,
        super::cards::add,
        super::cards::change,
        super::cards::get,
        super::cards::list,
        super::cards::remove,
        super::decisions::get,
        super::decisions::list,
        super::payments::stripe,
        super::stations::add,
        super::stations::change,
        super::stations::get,
        super::stations::import,
        super::stations::list,
        super::stations::remove,
    ),
    components(schemas(ProblemBody))
)]
pub struct Document;

#[utoipa::path(get, path = "/openapi.json", tag = "service", responses((status = 200, description = "This document")))]
pub async fn get() -> HttpResponse {
    HttpResponse::Ok().json(Document::openapi())
}
