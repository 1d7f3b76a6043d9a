//! The pages, embedded: the operator's console (`/`, its parts below `/console/`) and the renter's terminal
//! (`/terminal`, its parts below it).
//!
//! The terminal is plain files; the console is what `npm run build` made in `console/dist`, or a page that says how to
//! make it. The policy forbids everything that does not come from here, inline scripts and styles too, so that a value a
//! car or a person wrote can never become code.

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, web};
use rust_embed::{EmbeddedFile, RustEmbed};

use super::App;
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

/// The console as it was built; empty where nobody built it.
#[derive(RustEmbed)]
#[folder = "console/dist/"]
#[allow_missing = true]
struct Built;

/// The built console's page. It names its parts by the hash of their content.
const INDEX: &str = "index.html";
const UNBUILT: &[u8] = include_bytes!("../../console/unbuilt.html");

static FILES: [File; 28] = [
    file!("/console/dom.js", "dom.js", SCRIPT),
    file!("/console/icon.svg", "icon.svg", SVG),
    file!("/console/unbuilt.css", "unbuilt.css", STYLE),
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

/// `tiles` is where the console's street tiles come from, when they come from elsewhere.
fn policy(tiles: Option<&str>) -> String {
    let also = tiles.map(|origin| format!(" {origin}")).unwrap_or_default();
    format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'{also}; connect-src 'self'{also}; \
         manifest-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}

/// Keeps the terminal's files for when there is no connection. It lies below the page that it serves, so the header
/// `Service-Worker-Allowed` has to say that it may.
const WORKER: &str = "/terminal/worker.js";
const WORKER_SCOPE: &str = "/terminal";

#[utoipa::path(get, path = "/", tag = "console", responses((status = 200, description = "The console page")))]
pub async fn index(app: web::Data<App>) -> HttpResponse {
    let page = Built::get(INDEX).map_or(UNBUILT.into(), |page| page.data);
    // Never kept: a page of another build asks for parts that are not here any more.
    answer(HTML, app.config.map.origin().as_deref())
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .body(page.into_owned())
}

#[utoipa::path(get, path = "/console/{file}", tag = "console", params(("file" = String, Path)),
    responses((status = 200, description = "A part of the console page")))]
pub async fn part(request: HttpRequest) -> Result<HttpResponse, Problem> {
    serve(&request)
}

#[utoipa::path(get, path = "/console/assets/{file}", tag = "console", params(("file" = String, Path)),
    responses((status = 200, description = "A part of the console page, named by the hash of its content")))]
pub async fn asset(request: HttpRequest, app: web::Data<App>) -> Result<HttpResponse, Problem> {
    let path = request.path().strip_prefix("/console/").unwrap_or_default();
    let plain = Built::get(path).filter(|_| kind_of(path) != PACKED).ok_or_else(no_such_part)?;
    let accepts_packed = request
        .headers()
        .get(header::ACCEPT_ENCODING)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.split(',').any(|coding| coding.trim().split(';').next() == Some("gzip")));
    let packed = Built::get(&format!("{path}.gz")).filter(|_| accepts_packed);
    // A worker is bound by the policy that its own script comes with.
    let mut answer = answer(kind_of(path), app.config.map.origin().as_deref());
    if packed.is_some() {
        answer.insert_header((header::CONTENT_ENCODING, "gzip"));
    }
    let EmbeddedFile { data, .. } = packed.unwrap_or(plain);
    Ok(answer
        .insert_header((header::VARY, "Accept-Encoding"))
        .insert_header((header::CACHE_CONTROL, "public, max-age=31536000, immutable"))
        .body(data.into_owned()))
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
    let file = FILES.iter().find(|file| file.path == request.path()).ok_or_else(no_such_part)?;
    let mut answer = answer(file.kind, None);
    if file.path == WORKER {
        answer.insert_header(("Service-Worker-Allowed", WORKER_SCOPE));
    }
    // A new gateway brings a new page: ask each time, it is small.
    Ok(answer.insert_header((header::CACHE_CONTROL, "no-cache")).body(file.content))
}

fn no_such_part() -> Problem {
    Problem::new(Slug::NotFound, "no page has such a part")
}

/// What every answer says, whatever the file.
fn answer(kind: &str, tiles: Option<&str>) -> HttpResponseBuilder {
    let mut answer = HttpResponse::Ok();
    answer
        .content_type(kind)
        .insert_header((header::CONTENT_SECURITY_POLICY, policy(tiles)))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((header::REFERRER_POLICY, "no-referrer"))
        .insert_header(("Cross-Origin-Opener-Policy", "same-origin"))
        .insert_header(("Cross-Origin-Resource-Policy", "same-origin"));
    answer
}

/// The packed copy beside a part; sent in the part's place, never by its own name.
const PACKED: &str = "application/gzip";

fn kind_of(path: &str) -> &'static str {
    match path.rsplit_once('.').map(|(_, ending)| ending) {
        Some("js" | "mjs") => SCRIPT,
        Some("css") => STYLE,
        Some("svg") => SVG,
        Some("png") => PNG,
        Some("json") => "application/json",
        Some("gz") => PACKED,
        _ => "application/octet-stream",
    }
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
            assert_eq!(answer.headers().get("Content-Security-Policy").unwrap(), &policy(None));
            let scope = answer.headers().get("Service-Worker-Allowed").map(|scope| scope.to_str().unwrap());
            assert_eq!(scope, (file.path == WORKER).then_some(WORKER_SCOPE), "{}", file.path);
            assert_eq!(read_body(answer).await, file.content);
        }
        for path in [
            "/console/..%2fCargo.toml",
            "/console/terminal.js",
            "/console/assets/..%2findex.html",
            "/console/assets/nothing.js",
            "/console/index.html",
            "/terminal/..%2findex.html",
            "/terminal/",
        ] {
            let missing = call_service(&service, TestRequest::get().uri(path).to_request()).await;
            assert_eq!(missing.status(), 404, "{path}");
        }
    }

    /// Holds with and without a built console: without one it is the page that says how to build it.
    #[actix_web::test]
    async fn the_console_s_page_is_never_kept_and_its_parts_for_ever() {
        let (app, _) = app();
        let service = service!(app);
        let page = call_service(&service, TestRequest::get().uri("/").to_request()).await;
        assert_eq!(page.status(), 200);
        assert_eq!(page.headers().get("Content-Type").unwrap(), HTML);
        assert_eq!(page.headers().get("Cache-Control").unwrap(), "no-store");
        assert_eq!(page.headers().get("Content-Security-Policy").unwrap(), &policy(None));
        let page = String::from_utf8(read_body(page).await.to_vec()).unwrap();
        assert_eq!(page.contains("npm"), Built::get(INDEX).is_none());
        assert_nothing_inline("/", &page);
        for path in Built::iter().filter(|path| path.starts_with("assets/")) {
            let get = || TestRequest::get().uri(&format!("/console/{path}")).to_request();
            let answer = call_service(&service, get()).await;
            if path.ends_with(".gz") {
                assert_eq!(answer.status(), 404, "{path}");
                continue;
            }
            assert_eq!(answer.status(), 200, "{path}");
            assert!(answer.headers().get("Cache-Control").unwrap().to_str().unwrap().contains("immutable"));
            assert_ne!(answer.headers().get("Content-Type").unwrap(), "application/octet-stream", "{path}");
            assert!(answer.headers().get("Content-Encoding").is_none());
            assert_eq!(read_body(answer).await, Built::get(&path).unwrap().data.as_ref());
            if let Some(packed) = Built::get(&format!("{path}.gz")) {
                let packable = TestRequest::get().insert_header(("Accept-Encoding", "br;q=1, gzip;q=0.8"));
                let request = packable.uri(&format!("/console/{path}")).to_request();
                let answer = call_service(&service, request).await;
                assert_eq!(answer.headers().get("Content-Encoding").unwrap(), "gzip", "{path}");
                assert_eq!(read_body(answer).await, packed.data.as_ref());
            }
        }
        // Every part that the page names is there.
        for rest in page.split("=\"/console/assets/").skip(1) {
            let name = rest.split('"').next().unwrap();
            assert!(Built::get(&format!("assets/{name}")).is_some(), "{name}");
        }
    }

    fn assert_nothing_inline(path: &str, page: &str) {
        for inline in ["style=", "<style", " onclick", "<script>"] {
            assert!(!page.contains(inline), "{path} has {inline}");
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
            assert_nothing_inline(page.path, text(page));
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
