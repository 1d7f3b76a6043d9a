//! `consoles`: what operators' consoles cost the gateway while a fleet reports: its processor time without them, and with.
//!
//! Each console is a WebSocket that takes every frame and acknowledges it at once, as the page does. Nothing of a frame
//! is parsed but its number: both sides share this machine.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::{Args, ValueEnum};
use futures_util::{SinkExt, StreamExt};
use hyper::Uri;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{WebSocketStream, client_async};

use super::http::HttpArgs;
use crate::failure::Failure;
use crate::identity;
use crate::process::Watched;
use crate::stopwatch::Stopwatch;

#[derive(Debug, Args)]
pub struct ConsolesArgs {
    #[command(flatten)]
    http: HttpArgs,
    #[arg(long, default_value_t = 100)]
    consoles: usize,
    /// Measured without consoles, and again with them
    #[arg(long, default_value_t = 15)]
    seconds: u64,
    /// How vehicles come: as the page asks for them, or whole
    #[arg(long, value_enum, default_value = "summary")]
    form: Form,
    /// The gateway's process
    #[arg(long)]
    pid: u32,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Form {
    Summary,
    Full,
}

type Socket = WebSocketStream<TlsStream<TcpStream>>;

#[derive(Default)]
struct Taken {
    frames: AtomicU64,
    bytes: AtomicU64,
    /// Consoles that have everything.
    settled: AtomicU64,
}

/// Every console has its first picture by then.
const SETTLE: Duration = Duration::from_secs(60);

pub async fn run(args: &ConsolesArgs) -> Result<Value, Failure> {
    crate::process::raise_file_limit();
    let gateway = Watched(args.pid);
    let without = share(gateway, args.seconds).await?;
    let taken = Arc::new(Taken::default());
    let mut consoles = JoinSet::new();
    let opening = Stopwatch::start();
    for _ in 0..args.consoles {
        let socket = open(&args.http).await?;
        consoles.spawn(take(socket, args.form, taken.clone()));
    }
    while taken.settled.load(Ordering::Relaxed) < args.consoles as u64 {
        if opening.elapsed() > SETTLE {
            return Err(Failure::failed("the consoles did not all get a first picture"));
        }
        if let Some(ended) = consoles.try_join_next() {
            return Err(Failure::failed(format!("a console ended early: {ended:?}")));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let opened_ms = opening.elapsed().as_millis() as u64;
    let memory_before = gateway.usage()?.resident_kib;
    let (frames, bytes) = (taken.frames.load(Ordering::Relaxed), taken.bytes.load(Ordering::Relaxed));
    let with = share(gateway, args.seconds).await?;
    let frames = taken.frames.load(Ordering::Relaxed) - frames;
    let bytes = taken.bytes.load(Ordering::Relaxed) - bytes;
    let mut closed = 0;
    while consoles.try_join_next().is_some() {
        closed += 1;
    }
    consoles.abort_all();
    Ok(json!({
        "consoles": args.consoles,
        "core_share_without": without,
        "core_share_with": with,
        "core_share_of_consoles": with - without,
        "opened_and_settled_ms": opened_ms,
        "frames_per_s": frames as f64 / args.seconds as f64,
        "bytes_per_s": bytes as f64 / args.seconds as f64,
        "bytes_per_frame": bytes as f64 / frames.max(1) as f64,
        "resident_kib": memory_before,
        "still_open": args.consoles - closed,
    }))
}

/// Of one core, over so many seconds.
async fn share(process: Watched, seconds: u64) -> Result<f64, Failure> {
    let (watch, before) = (Stopwatch::start(), process.usage()?);
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    Ok((process.usage()?.processor_s - before.processor_s) / watch.elapsed().as_secs_f64())
}

async fn open(http: &HttpArgs) -> Result<Socket, Failure> {
    let address: Uri = http.base().parse().map_err(Failure::usage)?;
    let host = address.authority().ok_or_else(|| Failure::usage("--http lacks a host"))?.to_string();
    let name = ServerName::try_from(address.host().unwrap_or_default().to_owned()).map_err(Failure::usage)?;
    let roots = identity::load_roots(http.ca()).map_err(Failure::usage)?;
    let tls = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let tcp = TcpStream::connect(&host).await?;
    tcp.set_nodelay(true)?;
    let stream = TlsConnector::from(Arc::new(tls)).connect(name, tcp).await?;
    let mut request = format!("wss://{host}/v1/console").into_client_request().map_err(Failure::failed)?;
    let bearer = format!("Bearer {}", http.admin_key());
    request.headers_mut().insert("Authorization", bearer.parse().map_err(Failure::failed)?);
    let (socket, _) = client_async(request, stream).await.map_err(Failure::failed)?;
    Ok(socket)
}

async fn take(mut socket: Socket, form: Form, taken: Arc<Taken>) -> Result<(), String> {
    let form = match form {
        Form::Summary => "summary",
        Form::Full => "full",
    };
    let said = |error: tokio_tungstenite::tungstenite::Error| error.to_string();
    let subscribe = json!({"type": "subscribe", "form": form}).to_string();
    socket.send(Message::text(subscribe)).await.map_err(said)?;
    let mut is_settled = false;
    loop {
        let Some(message) = socket.next().await else { return Err("closed".into()) };
        let Message::Text(text) = message.map_err(said)? else { continue };
        taken.frames.fetch_add(1, Ordering::Relaxed);
        taken.bytes.fetch_add(text.len() as u64, Ordering::Relaxed);
        let head = text.get(..200.min(text.len())).unwrap_or_default();
        let Some(seq) = number(head, "\"seq\":") else { continue };
        if !is_settled && !head.contains("\"more\":true") {
            is_settled = true;
            taken.settled.fetch_add(1, Ordering::Relaxed);
        }
        socket.send(Message::text(format!(r#"{{"type":"ack","seq":{seq}}}"#))).await.map_err(said)?;
    }
}

fn number(text: &str, name: &str) -> Option<u64> {
    let rest = &text[text.find(name)? + name.len()..];
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}
