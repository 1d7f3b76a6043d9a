//! The console page, embedded: `/` and its parts below `/console/`.
//!
//! Plain files without a build step. The policy forbids everything that does not come from here, inline scripts and
//! styles too, so that a value a car or a person wrote can never become code.

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse};

use super::error::{Problem, Slug};

struct File {
    path: &'static str,
    kind: &'static str,
    content: &'static [u8],
}

const SCRIPT: &str = "text/javascript; charset=utf-8";

macro_rules! file {
    ($path:literal, $name:literal, $kind:expr) => {
        File { path: $path, kind: $kind, content: include_bytes!(concat!("../../console/", $name)) }
    };
}

const FILES: [File; 11] = [
    file!("/", "index.html", "text/html; charset=utf-8"),
    file!("/console/console.css", "console.css", "text/css; charset=utf-8"),
    file!("/console/icon.svg", "icon.svg", "image/svg+xml"),
    file!("/console/console.js", "console.js", SCRIPT),
    file!("/console/dom.js", "dom.js", SCRIPT),
    file!("/console/drawer.js", "drawer.js", SCRIPT),
    file!("/console/fleet.js", "fleet.js", SCRIPT),
    file!("/console/inbox.js", "inbox.js", SCRIPT),
    file!("/console/link.js", "link.js", SCRIPT),
    file!("/console/list.js", "list.js", SCRIPT),
    file!("/console/map.js", "map.js", SCRIPT),
];

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

#[utoipa::path(get, path = "/", tag = "console", responses((status = 200, description = "The console page")))]
pub async fn index(request: HttpRequest) -> Result<HttpResponse, Problem> {
    serve(&request)
}

#[utoipa::path(get, path = "/console/{file}", tag = "console", params(("file" = String, Path)),
    responses((status = 200, description = "A part of the console page")))]
pub async fn part(request: HttpRequest) -> Result<HttpResponse, Problem> {
    serve(&request)
}

fn serve(request: &HttpRequest) -> Result<HttpResponse, Problem> {
    let file = FILES
        .iter()
        .find(|file| file.path == request.path())
        .ok_or_else(|| Problem::new(Slug::NotFound, "the console has no such part"))?;
    Ok(HttpResponse::Ok()
        .content_type(file.kind)
        .insert_header((header::CONTENT_SECURITY_POLICY, POLICY))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((header::REFERRER_POLICY, "no-referrer"))
        .insert_header(("Cross-Origin-Opener-Policy", "same-origin"))
        .insert_header(("Cross-Origin-Resource-Policy", "same-origin"))
        // A new gateway brings a new page: ask each time, it is small.
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .body(file.content))
}

#[cfg(test)]
mod tests {
    use actix_web::test::{TestRequest, call_service, read_body};

    use super::super::testing::{app, service};
    use super::*;

    #[actix_web::test]
    async fn the_page_and_every_part_it_names_are_served_under_the_policy() {
        let (app, _) = app();
        let service = service!(app);
        for file in &FILES {
            let answer = call_service(&service, TestRequest::get().uri(file.path).to_request()).await;
            assert_eq!(answer.status(), 200, "{}", file.path);
            assert_eq!(answer.headers().get("Content-Type").unwrap(), file.kind);
            assert_eq!(answer.headers().get("Content-Security-Policy").unwrap(), POLICY);
            assert_eq!(read_body(answer).await, file.content);
        }
        let missing = call_service(&service, TestRequest::get().uri("/console/..%2fCargo.toml").to_request()).await;
        assert_eq!(missing.status(), 404);
    }

    #[test]
    fn every_file_that_a_file_asks_for_is_embedded_and_nothing_is_inline() {
        let page = std::str::from_utf8(FILES[0].content).unwrap();
        for (attribute, _) in [("src=\"", 0), ("href=\"", 0)] {
            for rest in page.split(attribute).skip(1) {
                let path = rest.split('"').next().unwrap();
                assert!(FILES.iter().any(|file| file.path == path), "{path} is not embedded");
            }
        }
        assert!(!page.contains("style=") && !page.contains("<style") && !page.contains(" onclick"));
        for file in FILES.iter().filter(|file| file.kind == SCRIPT) {
            let text = std::str::from_utf8(file.content).unwrap();
            for rest in text.split(" from \"./").skip(1) {
                let path = format!("/console/{}", rest.split('"').next().unwrap());
                assert!(FILES.iter().any(|file| file.path == path), "{path} is not embedded");
            }
            for markup in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
                assert!(!text.contains(markup), "{} uses {markup}", file.path);
            }
        }
    }
}
