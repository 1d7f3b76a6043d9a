//! The pages, embedded: the operator's console (`/`, its parts below `/console/`) and the renter's terminal
//! (`/terminal`, its parts below it).
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

const HTML: &str = "text/html; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";
const PNG: &str = "image/png";

macro_rules! file {
    ($path:literal, $name:literal, $kind:expr) => {
        File { path: $path, kind: $kind, content: include_bytes!(concat!("../../console/", $name)) }
    };
}

static FILES: [File; 36] = [
    file!("/", "index.html", HTML),
    file!("/console/console.css", "console.css", STYLE),
    file!("/console/console.js", "console.js", SCRIPT),
    file!("/console/dom.js", "dom.js", SCRIPT),
    file!("/console/drawer.js", "drawer.js", SCRIPT),
    file!("/console/fleet.js", "fleet.js", SCRIPT),
    file!("/console/icon.svg", "icon.svg", SVG),
    file!("/console/inbox.js", "inbox.js", SCRIPT),
    file!("/console/link.js", "link.js", SCRIPT),
    file!("/console/list.js", "list.js", SCRIPT),
    file!("/console/map.js", "map.js", SCRIPT),
    file!("/terminal", "terminal/index.html", HTML),
    file!("/terminal/api.js", "terminal/api.js", SCRIPT),
    file!("/terminal/confirm.js", "terminal/confirm.js", SCRIPT),
    file!("/terminal/de.js", "terminal/de.js", SCRIPT),
    file!("/terminal/en.js", "terminal/en.js", SCRIPT),
    file!("/terminal/find.js", "terminal/find.js", SCRIPT),
    file!("/terminal/holder.js", "terminal/holder.js", SCRIPT),
    file!("/terminal/holdings.js", "terminal/holdings.js", SCRIPT),
    file!("/terminal/home.js", "terminal/home.js", SCRIPT),
    file!("/terminal/icon-192.png", "terminal/icon-192.png", PNG),
    file!("/terminal/icon-512.png", "terminal/icon-512.png", PNG),
    file!("/terminal/icon-maskable-512.png", "terminal/icon-maskable-512.png", PNG),
    file!("/terminal/icons.js", "terminal/icons.js", SCRIPT),
    file!("/terminal/ja.js", "terminal/ja.js", SCRIPT),
    file!("/terminal/kept.js", "terminal/kept.js", SCRIPT),
    file!("/terminal/key.js", "terminal/key.js", SCRIPT),
    file!("/terminal/language.js", "terminal/language.js", SCRIPT),
    file!("/terminal/login.js", "terminal/login.js", SCRIPT),
    file!("/terminal/manifest.webmanifest", "terminal/manifest.webmanifest", "application/manifest+json"),
    file!("/terminal/orders.js", "terminal/orders.js", SCRIPT),
    file!("/terminal/parts.js", "terminal/parts.js", SCRIPT),
    file!("/terminal/request.js", "terminal/request.js", SCRIPT),
    file!("/terminal/terminal.css", "terminal/terminal.css", STYLE),
    file!("/terminal/terminal.js", "terminal/terminal.js", SCRIPT),
    file!("/terminal/worker.js", "terminal/worker.js", SCRIPT),
];

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      manifest-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

/// Keeps the terminal's files for when there is no connection. It lies below the page that it serves, so the header
/// `Service-Worker-Allowed` has to say that it may.
const WORKER: &str = "/terminal/worker.js";
const WORKER_SCOPE: &str = "/terminal";

#[utoipa::path(get, path = "/", tag = "console", responses((status = 200, description = "The console page")))]
pub async fn index(request: HttpRequest) -> Result<HttpResponse, Problem> {
    serve(&request)
}

#[utoipa::path(get, path = "/console/{file}", tag = "console", params(("file" = String, Path)),
    responses((status = 200, description = "A part of the console page")))]
pub async fn part(request: HttpRequest) -> Result<HttpResponse, Problem> {
    serve(&request)
}

#[utoipa::path(get, path = "/terminal", tag = "terminal",
    responses((status = 200, description = "The renter's page")))]
pub async fn terminal(request: HttpRequest) -> Result<HttpResponse, Problem> {
    serve(&request)
}

#[utoipa::path(get, path = "/terminal/{file}", tag = "terminal", params(("file" = String, Path)),
    responses((status = 200, description = "A part of the renter's page")))]
pub async fn terminal_part(request: HttpRequest) -> Result<HttpResponse, Problem> {
    serve(&request)
}

fn serve(request: &HttpRequest) -> Result<HttpResponse, Problem> {
    let file = FILES
        .iter()
        .find(|file| file.path == request.path())
        .ok_or_else(|| Problem::new(Slug::NotFound, "no page has such a part"))?;
    let mut answer = HttpResponse::Ok();
    if file.path == WORKER {
        answer.insert_header(("Service-Worker-Allowed", WORKER_SCOPE));
    }
    Ok(answer
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
    async fn the_pages_and_every_part_they_name_are_served_under_the_policy() {
        let (app, _) = app();
        let service = service!(app);
        for file in &FILES {
            let answer = call_service(&service, TestRequest::get().uri(file.path).to_request()).await;
            assert_eq!(answer.status(), 200, "{}", file.path);
            assert_eq!(answer.headers().get("Content-Type").unwrap(), file.kind);
            assert_eq!(answer.headers().get("Content-Security-Policy").unwrap(), POLICY);
            let scope = answer.headers().get("Service-Worker-Allowed").map(|scope| scope.to_str().unwrap());
            assert_eq!(scope, (file.path == WORKER).then_some(WORKER_SCOPE), "{}", file.path);
            assert_eq!(read_body(answer).await, file.content);
        }
        for path in ["/console/..%2fCargo.toml", "/console/terminal.js", "/terminal/..%2findex.html", "/terminal/"] {
            let missing = call_service(&service, TestRequest::get().uri(path).to_request()).await;
            assert_eq!(missing.status(), 404, "{path}");
        }
    }

    fn text(file: &File) -> &'static str {
        std::str::from_utf8(file.content).unwrap()
    }

    fn of_kind(kind: &'static str) -> impl Iterator<Item = &'static File> {
        FILES.iter().filter(move |file| file.kind == kind)
    }

    fn find(path: &str) -> &'static File {
        FILES.iter().find(|file| file.path == path).unwrap_or_else(|| panic!("{path} is not embedded"))
    }

    #[test]
    fn every_file_that_a_file_asks_for_is_embedded_and_nothing_is_inline() {
        for page in of_kind(HTML) {
            for attribute in ["src=\"", "href=\""] {
                for rest in text(page).split(attribute).skip(1) {
                    let asked = rest.split('"').next().unwrap();
                    if asked != "#" {
                        find(asked);
                    }
                }
            }
            for inline in ["style=", "<style", " onclick"] {
                assert!(!text(page).contains(inline), "{} has {inline}", page.path);
            }
        }
        for file in of_kind(SCRIPT) {
            let folder = file.path.rsplit_once('/').unwrap().0;
            for rest in text(file).split(" from \"").skip(1) {
                let asked = rest.split('"').next().unwrap();
                find(&asked.strip_prefix("./").map_or_else(|| asked.to_owned(), |name| format!("{folder}/{name}")));
            }
            for markup in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
                assert!(!text(file).contains(markup), "{} uses {markup}", file.path);
            }
        }
    }

    #[test]
    fn the_terminal_can_be_installed_and_its_worker_keeps_every_file_of_it() {
        let manifest: serde_json::Value =
            serde_json::from_slice(find("/terminal/manifest.webmanifest").content).unwrap();
        assert_eq!(manifest["start_url"], WORKER_SCOPE);
        assert_eq!(manifest["scope"], WORKER_SCOPE);
        for icon in manifest["icons"].as_array().unwrap() {
            assert_eq!(find(icon["src"].as_str().unwrap()).kind, icon["type"].as_str().unwrap());
        }
        // A page that was visited once opens without a connection; what it lacked then would show only there.
        let quoted = text(find(WORKER)).split('"').skip(1).step_by(2);
        let kept: Vec<&str> = quoted.filter(|part| part.starts_with('/')).collect();
        for path in &kept {
            find(path);
        }
        for file in FILES.iter().filter(|file| file.path.starts_with(WORKER_SCOPE) && file.path != WORKER) {
            assert!(kept.contains(&file.path), "the worker does not keep {}", file.path);
        }
        assert!(kept.contains(&"/console/dom.js") && !kept.iter().any(|path| path.starts_with("/v1")));
    }
}
