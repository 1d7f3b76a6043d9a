//! What lies below the cars on the console's map: `/v1/console/map` says what, `/console/map.pmtiles` serves the file.

use actix_files::NamedFile;
use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use utoipa::ToSchema;

use super::App;
use super::access::Caller;
use super::error::{Problem, Slug};
use super::vehicles::READERS;
use super::wire::{off_thread, reply};

const ARCHIVE: &str = "/console/map.pmtiles";

/// `{"kind":"tiles","url":"https://…/{z}/{x}/{y}.png","attribution":"…","max_zoom":19}`, `{"kind":"pmtiles",…}`, or
/// `{"kind":"offline"}`.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum MapBody {
    Offline,
    Tiles { url: String, attribution: String, max_zoom: u8 },
    Pmtiles { url: &'static str, attribution: String, max_zoom: u8 },
}

#[utoipa::path(get, path = "/v1/console/map", tag = "console", responses((status = 200, body = MapBody)))]
pub async fn get(app: web::Data<App>, caller: Caller) -> Result<HttpResponse, Problem> {
    caller.require(&READERS)?;
    let map = &app.config.map;
    let (attribution, max_zoom) = (map.attribution.clone(), map.max_zoom);
    let body = match (&map.tiles, &map.pmtiles) {
        (Some(url), _) => MapBody::Tiles { url: url.clone(), attribution, max_zoom },
        (None, Some(_)) => MapBody::Pmtiles { url: ARCHIVE, attribution, max_zoom },
        (None, None) => MapBody::Offline,
    };
    Ok(reply(StatusCode::OK, &body))
}

/// A map is nobody's secret: no log-in is asked for, so that a browser may keep parts of it.
#[utoipa::path(get, path = "/console/map.pmtiles", tag = "console", responses(
    (status = 200, description = "The PMTiles archive of the configuration"),
    (status = 206, description = "The part of it that `Range` names"),
    (status = 404, description = "There is none, or it cannot be read"),
    (status = 416, description = "It has no such part"),
))]
pub async fn archive(request: HttpRequest, app: web::Data<App>) -> Result<HttpResponse, Problem> {
    let none = || Problem::new(Slug::NotFound, "no PMTiles archive is configured");
    let path = app.config.map.pmtiles.clone().ok_or_else(none)?;
    let file = off_thread(move || NamedFile::open(path)).await?.map_err(|error| {
        tracing::warn!(%error, "map.pmtiles cannot be read");
        Problem::new(Slug::NotFound, "the PMTiles archive cannot be read; the operator's log says why")
    })?;
    let file =
        file.set_content_type("application/vnd.pmtiles".parse().map_err(|error| Problem::internal("map", &error))?);
    let mut answer = file.prefer_utf8(false).disable_content_disposition().into_response(&request);
    answer.headers_mut().insert(header::CACHE_CONTROL, header::HeaderValue::from_static("public, max-age=3600"));
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use actix_web::test::{TestRequest, call_service, read_body};

    use super::super::testing::{app_with, ask, service};
    use super::*;
    use crate::config::Config;
    use crate::domain::Role;

    #[actix_web::test]
    async fn the_archive_is_served_in_parts_and_tiles_widen_the_policy_by_their_host_only() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"0123456789").unwrap();
        let mut config = Config::default();
        config.map.pmtiles = Some(file.path().to_owned());
        let (app, _) = app_with(config);
        let service = service!(app);
        let (_, body) = ask!(service, Role::Operator, GET "/v1/console/map");
        assert_eq!((body["kind"].as_str(), body["url"].as_str()), (Some("pmtiles"), Some(ARCHIVE)));
        let part = TestRequest::get().uri(ARCHIVE).insert_header(("Range", "bytes=2-4")).to_request();
        let answer = call_service(&service, part).await;
        assert_eq!(
            (answer.status().as_u16(), answer.headers().get("Content-Range").unwrap().to_str().unwrap()),
            (206, "bytes 2-4/10")
        );
        assert_eq!(read_body(answer).await, "234");
        let beyond = TestRequest::get().uri(ARCHIVE).insert_header(("Range", "bytes=20-30")).to_request();
        assert_eq!(call_service(&service, beyond).await.status(), 416);

        let mut config = Config::default();
        config.map.tiles = Some("https://tiles.example.org:444/a/{z}/{x}/{y}.png?key=1".into());
        let (app, _) = app_with(config);
        let service = service!(app);
        assert_eq!(ask!(service, Role::Auditor, GET "/v1/console/map").1["kind"], "tiles");
        assert_eq!(ask!(service, Role::Renter, GET "/v1/console/map").0, 403);
        let page = call_service(&service, TestRequest::get().uri("/").to_request()).await;
        let policy = page.headers().get("Content-Security-Policy").unwrap().to_str().unwrap().to_owned();
        assert!(policy.contains("connect-src 'self' https://tiles.example.org:444;"), "{policy}");
        assert!(policy.contains("script-src 'self';"), "{policy}");
        assert_eq!(call_service(&service, TestRequest::get().uri(ARCHIVE).to_request()).await.status(), 404);
    }
}
