//! The servers: HTTPS for callers, plain HTTP for `/metrics`, `/healthz` and `/readyz` on an address of its own.
//!
//! Limits on slow clients, connections and header sizes stand here, with what every answer carries. No subject does.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use actix_http::HttpServiceBuilder;
use actix_http::error::DispatchError;
use actix_service::{IntoServiceFactory, ServiceFactoryExt, fn_service, map_config};
use actix_web::body::MessageBody;
use actix_web::dev::{AppConfig, Extensions, ServerHandle, ServiceRequest, ServiceResponse};
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::{Next, from_fn};
use actix_web::{App as WebApp, HttpResponse, HttpServer, ResponseError, web};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use uuid::Uuid;

use super::App;
use super::address::{self, neighbourhood};
use super::connection::{self, Connection, HEAD_TIMEOUT, KEEP_ALIVE, Phase};
use super::console::Consoles;
use super::error::{Problem, Slug, no_such_route};
use super::est::PeerChain;
use crate::metrics::Pulses;
use crate::telemetry::{Attribute, Kind, Open};

/// A running server.
pub struct Server {
    pub address: SocketAddr,
    handle: ServerHandle,
    /// Tells connections without a request that they may close.
    ending: watch::Sender<bool>,
    consoles: Arc<Consoles>,
}

impl Server {
    /// Accepts nothing more, lets what is being answered finish for up to [`SHUTDOWN_S`], and ends.
    pub async fn stop(&self) {
        self.ending.send_replace(true);
        self.consoles.end();
        self.handle.stop(true).await;
    }
}

const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Within the 10 s that the whole process has.
const SHUTDOWN_S: u64 = 6;
/// TLS handshakes at once in each worker: they are what a flood of connections costs.
const MAX_HANDSHAKES: usize = 128;

/// Starts HTTPS on the running actix system.
pub fn serve(
    app: App,
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    pulses: Pulses,
) -> std::io::Result<Server> {
    let address = listener.local_addr()?;
    let config = Arc::clone(&app.config);
    let consoles = Arc::clone(&app.consoles);
    let data = web::Data::new(app);
    let workers = config.http.workers.max(1);
    let mut tls = (*tls).clone();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let (ending, ends) = watch::channel(false);
    // Put together by hand where `HttpServer` would do, because it does not let us watch a connection's pace.
    let server = actix_server::Server::build()
        .workers(workers)
        .max_concurrent_connections(config.http.max_connections.div_ceil(workers))
        .shutdown_timeout(SHUTDOWN_S)
        .disable_signals()
        .listen("https", listener, move || {
            // Made once in each worker, on its thread.
            actix_web::rt::spawn(pulses.beat("http"));
            let (acceptor, ends) = (acceptor.clone(), ends.clone());
            let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
            let accept = fn_service(move |socket: TcpStream| {
                let accepted = connection::accept(socket, acceptor.clone(), Arc::clone(&handshakes));
                async move { accepted.await.map_err(DispatchError::Io) }
            });
            let app = WebApp::new().app_data(data.clone()).wrap(from_fn(observe)).configure(super::routes);
            let app = app.into_factory().map_err(|error| error.error_response());
            let http = HttpServiceBuilder::default()
                .keep_alive(KEEP_ALIVE)
                .client_request_timeout(HEAD_TIMEOUT)
                .client_disconnect_timeout(DISCONNECT_TIMEOUT)
                .graceful_shutdown_signal(move || {
                    let mut ends = ends.clone();
                    // A server that was dropped ends as well.
                    async move { drop(ends.wait_for(|ends| *ends).await) }
                })
                .on_connect_ext(|connection: &Connection<TlsStream<TcpStream>>, data: &mut Extensions| {
                    data.insert(connection.phase());
                    if let Some(chain) = connection.peer_certificates() {
                        data.insert(PeerChain(chain));
                    }
                })
                .h1(map_config(app, |()| AppConfig::default()));
            accept.and_then(http)
        })?
        .run();
    let handle = server.handle();
    actix_web::rt::spawn(server);
    Ok(Server { address, handle, ending, consoles })
}

/// Starts the operator's own address: plain HTTP, no authentication, loopback unless the operator says otherwise.
pub fn serve_metrics(app: App, listener: TcpListener, pulses: Pulses) -> std::io::Result<Server> {
    let address = listener.local_addr()?;
    let consoles = Arc::clone(&app.consoles);
    let data = web::Data::new(app);
    let server = HttpServer::new(move || {
        actix_web::rt::spawn(pulses.beat("operator"));
        WebApp::new()
            .app_data(data.clone())
            .route("/metrics", web::get().to(metrics))
            .route("/healthz", web::get().to(healthz))
            .route("/readyz", web::get().to(readyz))
            .default_service(web::to(no_such_route))
    })
    .workers(1)
    .max_connections(64)
    .client_request_timeout(HEAD_TIMEOUT)
    .client_disconnect_timeout(DISCONNECT_TIMEOUT)
    .shutdown_timeout(1)
    .disable_signals()
    .listen(listener)?
    .run();
    let handle = server.handle();
    actix_web::rt::spawn(server);
    Ok(Server { address, handle, ending: watch::Sender::new(false), consoles })
}

async fn metrics(app: web::Data<App>) -> Result<HttpResponse, Problem> {
    let text = app.metrics.encode().map_err(|error| Problem::internal("metrics", &error))?;
    Ok(HttpResponse::Ok().content_type("application/openmetrics-text; version=1.0.0; charset=utf-8").body(text))
}

/// The process answers.
async fn healthz() -> HttpResponse {
    HttpResponse::Ok().json(json!({"status": "ok"}))
}

/// The gateway promises and answers queries.
async fn readyz(app: web::Data<App>) -> Result<HttpResponse, Problem> {
    let health = app.store.health();
    let not_ready = |detail: String| Err(Problem::new(Slug::NotReady, detail).retry_after(2));
    if health.is_poisoned {
        return not_ready("a write to the journal failed; the process must be started again".into());
    }
    if let Some(why) = health.refusing {
        return not_ready(format!("promises are refused: {why}"));
    }
    if let Some(problem) = health.view_problem {
        tracing::warn!(%problem, "the view is not available");
        return not_ready("the view is not available".into());
    }
    let (durable, applied) = (health.durable, health.applied);
    Ok(HttpResponse::Ok().json(json!({"status": "ready", "durable": durable, "applied": applied})))
}

/// W3C Trace Context.
static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Names, counts and times each request, and puts on what every answer carries.
async fn observe(
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let Some(app) = request.app_data::<web::Data<App>>().cloned() else {
        return next.call(request).await.map(ServiceResponse::map_into_left_body);
    };
    let id = request_id(&request, || app.clock.new_id());
    // Handlers and error answers read it from here.
    request.headers_mut().insert(REQUEST_ID.clone(), id.clone());
    let (method, path) = (request.method().clone(), request.path().to_owned());
    let from = address::of(request.request());
    let phase = request.request().conn_data::<Arc<Phase>>().cloned();
    if let Some(phase) = &phase {
        phase.begin();
    }
    let started = app.clock.elapsed();
    app.counters.in_flight.add(1);
    let in_flight = InFlight(app.clone());
    let traceparent = request.headers().get(&TRACEPARENT).and_then(|value| value.to_str().ok());
    let traced = app.telemetry.request(traceparent);
    let answer = match (refusal(&app, &request, from), &traced) {
        (Some(problem), _) => {
            app.counters.count(problem.slug);
            Ok(request.into_response(problem.error_response()).map_into_right_body())
        }
        (None, None) => next.call(request).await.map(ServiceResponse::map_into_left_body),
        (None, Some(open)) => open.scope(next.call(request)).await.map(ServiceResponse::map_into_left_body),
    };
    let took = app.clock.elapsed().saturating_sub(started);
    drop(in_flight);
    if let Some(phase) = &phase {
        let is_web_socket = answer.as_ref().is_ok_and(|answer| answer.status() == StatusCode::SWITCHING_PROTOCOLS);
        phase.end(is_web_socket);
    }
    let mut answer = answer?;
    let status = answer.status();
    if let Some(open) = traced {
        trace(&app, open, &method, &answer, &id);
    }
    app.counters.latency.record(took);
    if let Some(count) = app.counters.answers.get(usize::from(status.as_u16() / 100).wrapping_sub(1)) {
        count.inc();
    }
    if let Some(problem) = answer.response().error().and_then(|error| error.as_error::<Problem>()) {
        app.counters.count(problem.slug);
    }
    let took_ms = took.as_millis() as u64;
    if status.is_server_error() {
        tracing::warn!(%method, path, %status, took_ms, id = ?id, ?from, "request failed");
    } else {
        tracing::debug!(%method, path, %status, took_ms, id = ?id, ?from, "request");
    }
    carry(answer.headers_mut(), id);
    Ok(answer)
}

/// What is refused before anybody looks who asks.
fn refusal(app: &App, request: &ServiceRequest, from: Option<IpAddr>) -> Option<Problem> {
    let bytes: usize = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    let most = app.config.http.max_header_bytes;
    if bytes > most {
        return Some(Problem::new(Slug::HeadersTooLarge, format!("the headers may have {most} bytes")));
    }
    // A payment network sends from a few addresses, and its messages have a limit of their own once they are proved.
    let from = from.filter(|_| !request.path().starts_with("/v1/payments/"))?;
    let retry_after_s = app.access.admit_address(neighbourhood(from), app.clock.now()).err()?;
    app.counters.rate_limited.inc();
    Some(Problem::new(Slug::TooManyRequests, "this address asks too often").retry_after(retry_after_s))
}

/// Named by the route, of which there are few, and never by the path.
fn trace(app: &App, open: Open, method: &Method, answer: &ServiceResponse<impl MessageBody>, id: &HeaderValue) {
    let route = answer.request().match_pattern().unwrap_or_else(|| "unknown".into());
    let status = answer.status();
    let attributes = vec![
        Attribute::text("http.request.method", method.to_string()),
        Attribute::text("http.route", route.clone()),
        Attribute::Number("http.response.status_code", i64::from(status.as_u16())),
        Attribute::text("cardea.request.id", id.to_str().unwrap_or_default().to_owned()),
    ];
    app.telemetry.end(open, Kind::Server, format!("{method} {route}"), attributes, status.is_server_error());
}

/// Counts down when the answer is there, or when the client went away before.
struct InFlight(web::Data<App>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.counters.in_flight.add(-1);
    }
}

/// The caller's own id if it is short and plain, else a fresh one.
fn request_id(request: &ServiceRequest, fresh: impl Fn() -> Uuid) -> HeaderValue {
    let is_plain = |value: &&HeaderValue| {
        let bytes = value.as_bytes();
        (1..=64).contains(&bytes.len())
            && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
    };
    let own = request.headers().get(&REQUEST_ID).filter(is_plain).cloned();
    own.unwrap_or_else(|| HeaderValue::from_str(&fresh().to_string()).unwrap_or(HeaderValue::from_static("none")))
}

fn carry(headers: &mut header::HeaderMap, id: HeaderValue) {
    headers.insert(REQUEST_ID.clone(), id);
    let defaults = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::STRICT_TRANSPORT_SECURITY, "max-age=31536000"),
        // Pages say their own.
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    for (name, value) in defaults {
        if !headers.contains_key(&name) {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
}
