//! Bodies for [`crate::fuzzing`]: a car's whole conversation with the gate, and each payload by itself.
//!
//! The session is the product's own, on a stream in memory, in front of a real router. TLS is left out: rustls's business.

use std::net::{IpAddr, Ipv4Addr};
use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::{future::Future, io};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frames;
use super::gate::{self, Shared};
use super::metrics::{MqttMetrics, Reason};
use super::payload::{self, PayloadError};
use super::router::{Parts, Slot};
use super::session::Session;
use crate::certs::{Certs, PeerIdentity, Serial};
use crate::clock::Clock;
use crate::config;
use crate::domain::Timestamp;
use crate::pki::Ca;

/// The vehicle that the seeds speak for.
const VEHICLE: &str = "FUZZ-1";

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// What a car sends, given out in pieces, and what it is answered.
struct Memory {
    bytes: Vec<u8>,
    at: usize,
    piece: usize,
    written: Vec<u8>,
}

impl AsyncRead for Memory {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let end = self.bytes.len().min(self.at + self.piece.min(buffer.remaining()));
        buffer.put_slice(&self.bytes[self.at..end]);
        self.at = end;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Memory {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.written.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

struct Gate {
    runtime: tokio::runtime::Runtime,
    shared: Arc<Shared>,
    peer: PeerIdentity,
}

impl Gate {
    /// One for all inputs, as in life.
    fn the() -> &'static Self {
        static GATE: OnceLock<Gate> = OnceLock::new();
        GATE.get_or_init(|| Self::open().unwrap_or_else(|error| panic!("no gate to throw at: {error}")))
    }

    fn open() -> Result<Self, Box<dyn std::error::Error>> {
        let clock = Clock::start();
        let config =
            config::Mqtt { rate_per_s: 10_000_000, rate_burst: 10_000_000, shards: 1, ..config::Mqtt::default() };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let metrics = Arc::new(MqttMetrics::default());
        let tell: super::Tell = Arc::new(|_, _| Ok(()));
        let parts = Arc::new(Parts { config: config.clone(), tell: Arc::clone(&tell), metrics: Arc::clone(&metrics) });
        let inside = runtime.enter();
        let slot = Slot::start(0, parts)?;
        drop(inside);
        let now = clock.now();
        let shared = Arc::new(Shared::new(config, Arc::new(certs(&clock)?), tell, clock, metrics, vec![slot]));
        let peer = PeerIdentity {
            vehicle: VEHICLE.parse()?,
            serial: Serial::from_bytes(&[1])?,
            issuer: 1,
            not_before: Timestamp(0),
            not_after: now.plus_ms(1_000_000_000_000),
        };
        Ok(Self { runtime, shared, peer })
    }
}

/// Certificates of a fleet that is gone as soon as they are read.
fn certs(clock: &Clock) -> Result<Certs, Box<dyn std::error::Error>> {
    let folder = std::env::temp_dir().join(format!("cardea-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let ca = Ca::create(clock.now())?;
    let server = Ca::load(&ca.cert_pem, &ca.key_pem)?.issue_server(&["localhost".to_owned()], clock.now())?;
    let paths = config::Certs {
        ca: folder.join("ca.pem"),
        server: folder.join("server.pem"),
        server_key: folder.join("server.key.pem"),
        ca_key: None,
        crl: None,
        ..config::Certs::default()
    };
    std::fs::write(&paths.ca, &ca.cert_pem)?;
    std::fs::write(&paths.server, &server.cert_pem)?;
    std::fs::write(&paths.server_key, &server.key_pem)?;
    let certs = Certs::load(&paths)?;
    std::fs::remove_dir_all(&folder)?;
    Ok(certs)
}

/// The first byte says in what pieces the rest arrives, and with its highest bit that the CONNECT was there already.
pub fn gate(input: &[u8]) {
    let Some((first, rest)) = input.split_first() else { return };
    let gate = Gate::the();
    let _inside = gate.runtime.enter();
    let piece = 1 + usize::from(first & 0x7f) * 16;
    let mut io = Memory { bytes: rest.to_vec(), at: 0, piece, written: Vec::new() };
    let mut unread = BytesMut::new();
    let connect = if first & 0x80 == 0 {
        match now(gate::read_connect(&mut io, &mut unread)) {
            Some(Ok(connect)) => connect,
            Some(Err(_)) => return,
            None => panic!("a stream that is never waited for made the gate wait"),
        }
    } else {
        rumqttd::protocol::Connect { keep_alive: 60, client_id: VEHICLE.to_owned(), clean_session: true }
    };
    let Ok(seat) = gate::seat(&connect, &gate.peer, HERE, &gate.shared) else { return };
    let shard = gate.shared.slot(&seat.vehicle).shard();
    let mut session =
        Session::new(Box::new(io), Arc::clone(&seat), Arc::clone(&shard), Arc::clone(&gate.shared), &unread);
    let reason = loop {
        match Pin::new(&mut session).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(reason) => break reason,
            // The router is behind, as it may be: it is let on.
            Poll::Pending => std::thread::yield_now(),
        }
        assert!(!shard.is_lost(), "what a car sent brought the router down");
    };
    assert!(!shard.is_lost() && reason != Reason::ShardLost, "what a car sent brought the router down");
    gate::leave(&seat, reason, &gate.shared);
}

fn now<F: Future>(future: F) -> Option<F::Output> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

/// The first byte says which: telemetry, event or ack at the gateway, a command at the car. What reads is written and read
/// back the same, and what does not read names a field.
pub fn payload(input: &[u8]) {
    let Some((which, bytes)) = input.split_first() else { return };
    match which % 4 {
        0 => same(bytes, payload::decode_report, payload::encode_report),
        1 => same(bytes, payload::decode_fact, payload::encode_fact),
        2 => same(bytes, payload::decode_ack, payload::encode_ack),
        _ => same(bytes, payload::decode_to_car, payload::encode_to_car),
    }
    let _ = payload::command_id_of(bytes);
    let _ = frames::next(bytes, payload::MAX_BYTES);
}

fn same<T: PartialEq + std::fmt::Debug>(
    bytes: &[u8],
    read: impl Fn(&[u8]) -> Result<T, PayloadError>,
    write: impl Fn(&T) -> Vec<u8>,
) {
    match read(bytes) {
        Ok(value) => {
            let written = write(&value);
            match read(&written) {
                Ok(again) => assert_eq!(again, value, "it reads back as another"),
                // What is written spells out what was short, which may be too long.
                Err(error) => assert!(written.len() > payload::MAX_BYTES, "it does not read back: {error}"),
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
