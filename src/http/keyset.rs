//! `/v1/keyset`: the public keys that virtual keys are signed with. No authentication: cars and phones fetch it.

use actix_web::{HttpRequest, HttpResponse, web};

use super::App;
use super::error::{Problem, Slug};
use super::wire::accept;

const COSE: &str = "application/cose-key-set";

#[utoipa::path(get, path = "/v1/keyset", tag = "keys",
    responses((status = 200, description = "RFC 7517, or RFC 9052 by `Accept: application/cose-key-set`",
        content((Value = "application/jwk-set+json"), (Vec<u8> = "application/cose-key-set")))))]
pub async fn get(app: web::Data<App>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let keyset = &app.keyset;
    let accept = accept(&request);
    let mut answer = HttpResponse::Ok();
    answer.insert_header(("Cache-Control", "public, max-age=300"));
    answer.insert_header(("Vary", "Accept"));
    if accept.contains(COSE) {
        return Ok(answer.content_type(COSE).body(keyset.to_cose_key_set()));
    }
    if ["*/*", "application/*", "application/json", "application/jwk-set+json"].iter().any(|kind| accept.contains(kind))
    {
        return Ok(answer.content_type("application/jwk-set+json").body(keyset.to_jwks().to_string()));
    }
    Err(Problem::new(Slug::NotAcceptable, "application/jwk-set+json or application/cose-key-set"))
}
