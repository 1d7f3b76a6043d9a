//! A gate to attack: a throw-away CA, a gate on a free port that records what it tells the fleet, a client that speaks
//! raw bytes over TLS, and a witness: a car that must keep working whatever is done to the gate.
//!
//! Tests see the gate only through [`Gate`], so that the real binary can take its place.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall stop")]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix::{Recipient, System};
use cardea::actors::vehicle::{FromCar, SendToCar, TellError};
use cardea::certs::Certs;
use cardea::clock::Clock;
use cardea::config;
use cardea::domain::command::{Order, ToCar};
use cardea::domain::{CommandId, Timestamp, VehicleId};
use cardea::metrics::Pulses;
use cardea::mqtt::{self, Kicker, MqttMetrics, Reason};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
    date_time_ymd,
};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use uuid::Uuid;

/// The longest anything may take that should happen.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A certificate authority of a test.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

/// What a car has after it was enrolled.
#[derive(Clone)]
pub struct Enrolled {
    pub vehicle: VehicleId,
    pub ca: String,
    pub cert: String,
    pub key: String,
}

impl Ca {
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    pub fn issue(&self, name: &str, serial: u64, usage: ExtendedKeyUsagePurpose) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".into(), "127.0.0.1".into()]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(SerialNumber::from(serial));
        params.extended_key_usages = vec![usage];
        params.not_before = date_time_ymd(2024, 1, 1);
        params.not_after = date_time_ymd(2060, 1, 1);
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    pub fn crl(&self, serials: &[u64]) -> String {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2026, 2, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2026, 2, 1),
            next_update: date_time_ymd(2060, 2, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

/// Says which messages the fleet shall not take, and why.
pub type Refuse = fn(&VehicleId, &FromCar) -> Option<TellError>;

/// What the gate told the fleet, in order.
#[derive(Default)]
pub struct Told {
    log: Mutex<Vec<(VehicleId, FromCar)>>,
    news: Notify,
    refuse: Mutex<Option<Refuse>>,
}

impl Told {
    fn take(&self, vehicle: &VehicleId, message: FromCar) -> Result<(), TellError> {
        let refuse = *self.refuse.lock().unwrap();
        if let Some(error) = refuse.and_then(|refuse| refuse(vehicle, &message)) {
            return Err(error);
        }
        self.log.lock().unwrap().push((vehicle.clone(), message));
        self.news.notify_waiters();
        Ok(())
    }

    pub fn refuse(&self, refuse: Option<Refuse>) {
        *self.refuse.lock().unwrap() = refuse;
    }

    /// Everything told of a vehicle up to now, as `find` sees it.
    pub fn of<T>(&self, vehicle: &VehicleId, find: impl Fn(&FromCar) -> Option<T>) -> Vec<T> {
        let log = self.log.lock().unwrap();
        log.iter().filter(|(name, _)| name == vehicle).filter_map(|(_, message)| find(message)).collect()
    }

    /// Waits until something was told of the vehicle.
    pub async fn until<T>(&self, what: &str, vehicle: &VehicleId, find: impl Fn(&FromCar) -> Option<T>) -> T {
        let found = async {
            loop {
                let news = self.news.notified();
                if let Some(found) = self.of(vehicle, &find).pop() {
                    return found;
                }
                news.await;
            }
        };
        timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("{vehicle}: {what} was not told"))
    }
}

pub struct Gate {
    pub addr: SocketAddr,
    pub told: Arc<Told>,
    pub certs: Arc<Certs>,
    pub kicker: Kicker,
    pub metrics: Arc<MqttMetrics>,
    pub ca: Ca,
    pub paths: config::Certs,
    outbound: Recipient<SendToCar>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
    _dir: tempfile::TempDir,
}

/// A gate with the default limits, changed by `adjust`.
pub fn start_gate(adjust: impl FnOnce(&mut config::Mqtt)) -> Gate {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| -> PathBuf { dir.path().join(name) };
    let ca = Ca::new("fleet");
    let (server, server_key) = ca.issue("localhost", 1, ExtendedKeyUsagePurpose::ServerAuth);
    std::fs::write(at("ca.pem"), &ca.pem).unwrap();
    std::fs::write(at("server.pem"), server).unwrap();
    std::fs::write(at("server.key.pem"), server_key).unwrap();
    std::fs::write(at("crl.pem"), ca.crl(&[])).unwrap();
    let paths = config::Certs {
        ca: at("ca.pem"),
        server: at("server.pem"),
        server_key: at("server.key.pem"),
        crl: Some(at("crl.pem")),
        ..config::Certs::default()
    };
    let mut config = config::Mqtt { listen: SocketAddr::from(([127, 0, 0, 1], 0)), ..config::Mqtt::default() };
    config.ingest_segment_kib = 1024;
    adjust(&mut config);
    let certs = Arc::new(Certs::load(&paths).unwrap());
    let told = Arc::new(Told::default());
    let (ready, started) = std::sync::mpsc::channel();
    let (stop, stopped) = oneshot::channel();
    let (inner_certs, inner_told) = (Arc::clone(&certs), Arc::clone(&told));
    let thread = std::thread::spawn(move || {
        System::new().block_on(async move {
            let tell: mqtt::Tell = Arc::new(move |vehicle, message| inner_told.take(vehicle, message));
            let mut handle = mqtt::start(&config, inner_certs, tell, Clock::start(), &Pulses::default()).unwrap();
            let addr = handle.listen().unwrap();
            ready.send((addr, handle.outbound(), handle.kicker(), handle.metrics())).unwrap();
            let _ = stopped.await;
            handle.shutdown(PATIENCE).await;
        });
    });
    let (addr, outbound, kicker, metrics) = started.recv().unwrap();
    Gate { addr, told, certs, kicker, metrics, ca, paths, outbound, stop: Some(stop), thread: Some(thread), _dir: dir }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Gate {
    /// Ends it in good order.
    pub fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let outcome = thread.join();
            assert!(outcome.is_ok() || std::thread::panicking());
        }
    }

    pub fn enroll(&self, vehicle: &str) -> Enrolled {
        self.enroll_as(vehicle, u64::from(crc(vehicle)))
    }

    pub fn enroll_as(&self, vehicle: &str, serial: u64) -> Enrolled {
        let (cert, key) = self.ca.issue(vehicle, serial, ExtendedKeyUsagePurpose::ClientAuth);
        let vehicle = vehicle.parse().unwrap_or_else(|_| "not-a-vehicle".parse().unwrap());
        Enrolled { vehicle, ca: self.ca.pem.clone(), cert, key }
    }

    /// Sends an order as a vehicle's actor would.
    pub fn send(&self, vehicle: &VehicleId, order: Order) -> CommandId {
        let command_id = CommandId(Uuid::now_v7());
        let message = ToCar::Command { command_id, order, issued_at: Timestamp(0), expires_at: Timestamp(300_000) };
        self.outbound.try_send(SendToCar { vehicle: vehicle.clone(), message }).unwrap();
        command_id
    }

    pub async fn link_up(&self, vehicle: &VehicleId) -> u64 {
        self.told.until("LinkUp", vehicle, epoch_up).await
    }

    pub async fn link_down(&self, vehicle: &VehicleId) -> u64 {
        self.told.until("LinkDown", vehicle, epoch_down).await
    }

    /// Waits until a counter has risen to at least `count`.
    pub async fn counted(&self, reason: Reason, count: u64) {
        let metrics = &self.metrics;
        until(reason.name(), || metrics.counted(reason) >= count).await;
    }
}

fn crc(text: &str) -> u32 {
    crc32c::crc32c(text.as_bytes()) | 2
}

pub fn epoch_up(message: &FromCar) -> Option<u64> {
    match message {
        FromCar::LinkUp { epoch, .. } => Some(*epoch),
        _ => None,
    }
}

pub fn epoch_down(message: &FromCar) -> Option<u64> {
    match message {
        FromCar::LinkDown { epoch } => Some(*epoch),
        _ => None,
    }
}

/// Waits for something that is only to be seen by looking.
pub async fn until(what: &str, is_so: impl Fn() -> bool) {
    let looking = async {
        let mut looks = tokio::time::interval(Duration::from_millis(2));
        while !is_so() {
            looks.tick().await;
        }
    };
    timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("{what} did not come about"));
}

/// TLS as a car does it.
pub fn client_tls(enrolled: &Enrolled) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(enrolled.ca.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = vec![CertificateDer::from_pem_slice(enrolled.cert.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(enrolled.key.as_bytes()).unwrap();
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    Arc::new(config)
}

/// A client that says exactly the bytes it is told to.
pub struct Raw {
    pub io: TlsStream<TcpStream>,
    seen: Vec<u8>,
}

/// One packet from the gate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    pub first: u8,
    pub body: Vec<u8>,
}

impl Raw {
    /// TLS only; a refusal may show only at the first read.
    pub async fn tls(gate: &Gate, enrolled: &Enrolled) -> std::io::Result<Self> {
        Self::tls_with(gate, client_tls(enrolled)).await
    }

    pub async fn tls_with(gate: &Gate, config: Arc<ClientConfig>) -> std::io::Result<Self> {
        Self::dial(gate.addr, config).await
    }

    /// TLS to any address: also to a gate in a process of its own.
    pub async fn dial(addr: SocketAddr, config: Arc<ClientConfig>) -> std::io::Result<Self> {
        let tcp = TcpStream::connect(addr).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from("localhost").unwrap();
        let io = timeout(PATIENCE, TlsConnector::from(config).connect(name, tcp)).await.expect("TLS takes too long")?;
        Ok(Self { io, seen: Vec::new() })
    }

    /// TLS and a plain CONNECT that must be accepted.
    pub async fn connect(gate: &Gate, enrolled: &Enrolled) -> Self {
        let mut raw = Self::tls(gate, enrolled).await.unwrap();
        raw.send(&connect_packet(enrolled.vehicle.as_str(), 60)).await;
        assert_eq!(raw.packet().await, Some(Packet { first: 0x20, body: vec![0, 0] }), "CONNACK");
        raw
    }

    /// A session that has subscribed to its commands at QoS 1.
    pub async fn subscribed(gate: &Gate, enrolled: &Enrolled) -> Self {
        let mut raw = Self::connect(gate, enrolled).await;
        raw.send(&subscribe_packet(1, &[(&format!("v1/{}/command", enrolled.vehicle), 1)])).await;
        assert_eq!(raw.packet().await, Some(Packet { first: 0x90, body: vec![0, 1, 1] }), "SUBACK");
        raw
    }

    /// Errors are left to be seen by the next read.
    pub async fn send(&mut self, bytes: &[u8]) {
        let _ = self.io.write_all(bytes).await;
        let _ = self.io.flush().await;
    }

    /// The next packet; `None` = the gate has ended the connection.
    pub async fn packet(&mut self) -> Option<Packet> {
        timeout(PATIENCE, self.read_packet()).await.expect("neither a packet nor an end came")
    }

    async fn read_packet(&mut self) -> Option<Packet> {
        loop {
            if let Some((body, length)) = whole(&self.seen) {
                let packet = Packet { first: self.seen[0], body: self.seen[body..length].to_vec() };
                self.seen.drain(..length);
                return Some(packet);
            }
            match self.io.read_buf(&mut self.seen).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => return None,
            }
        }
    }

    /// Everything up to the end of the connection.
    pub async fn ended(&mut self) -> Vec<Packet> {
        let mut packets = Vec::new();
        while let Some(packet) = self.packet().await {
            packets.push(packet);
        }
        packets
    }
}

fn whole(bytes: &[u8]) -> Option<(usize, usize)> {
    let (mut length, mut place) = (0, 1);
    loop {
        let byte = *bytes.get(place)?;
        length |= usize::from(byte & 0x7f) << (7 * (place - 1));
        place += 1;
        if byte & 0x80 == 0 {
            break;
        }
    }
    (bytes.len() >= place + length).then_some((place, place + length))
}

pub fn framed(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    let mut length = body.len();
    while length > 0x7f {
        out.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(body);
    out
}

pub fn text(text: &[u8]) -> Vec<u8> {
    let mut out = (text.len() as u16).to_be_bytes().to_vec();
    out.extend_from_slice(text);
    out
}

pub fn connect_packet(client_id: &str, keep_alive_s: u16) -> Vec<u8> {
    connect_with(b"MQTT", 4, 2, keep_alive_s, &text(client_id.as_bytes()))
}

pub fn connect_with(protocol: &[u8], level: u8, flags: u8, keep_alive_s: u16, payload: &[u8]) -> Vec<u8> {
    let mut body = text(protocol);
    body.extend_from_slice(&[level, flags]);
    body.extend_from_slice(&keep_alive_s.to_be_bytes());
    body.extend_from_slice(payload);
    framed(0x10, &body)
}

pub fn subscribe_packet(pkid: u16, filters: &[(&str, u8)]) -> Vec<u8> {
    let mut body = pkid.to_be_bytes().to_vec();
    for (filter, qos) in filters {
        body.extend(text(filter.as_bytes()));
        body.push(*qos);
    }
    framed(0x82, &body)
}

/// QoS 0 without a `pkid`, else QoS 1.
pub fn publish_packet(topic: &[u8], pkid: Option<u16>, payload: &[u8]) -> Vec<u8> {
    let mut body = text(topic);
    body.extend(pkid.map(u16::to_be_bytes).into_iter().flatten());
    body.extend_from_slice(payload);
    framed(if pkid.is_some() { 0x32 } else { 0x30 }, &body)
}

pub fn puback(pkid: u16) -> Packet {
    Packet { first: 0x40, body: pkid.to_be_bytes().to_vec() }
}

pub fn telemetry(seq: u64) -> Vec<u8> {
    format!(r#"{{"seq":{seq},"at":"2026-11-21T22:36:46.000Z","signals":{{"Vehicle.Speed":{seq}}}}}"#).into_bytes()
}

/// A car that minds its own business; its session must not suffer from anything.
pub struct Witness {
    raw: Raw,
    vehicle: VehicleId,
    seq: u64,
}

impl Witness {
    pub async fn new(gate: &Gate) -> Self {
        Self::named(gate, "WITNESS-1").await
    }

    pub async fn named(gate: &Gate, vehicle: &str) -> Self {
        let enrolled = gate.enroll(vehicle);
        let mut witness = Self { raw: Raw::subscribed(gate, &enrolled).await, vehicle: enrolled.vehicle, seq: 0 };
        witness.works(gate).await;
        witness
    }

    /// Its telemetry arrives, and a command reaches it, over the session it has had from the start.
    pub async fn works(&mut self, gate: &Gate) {
        self.seq += 1;
        let (seq, pkid) = (self.seq, self.seq as u16);
        let topic = format!("v1/{}/telemetry", self.vehicle);
        self.raw.send(&publish_packet(topic.as_bytes(), Some(pkid), &telemetry(seq))).await;
        assert_eq!(self.raw.packet().await, Some(puback(pkid)));
        let is_it = |message: &FromCar| match message {
            FromCar::Reports(reports) => reports.iter().any(|report| report.seq == seq).then_some(()),
            _ => None,
        };
        gate.told.until("telemetry", &self.vehicle, is_it).await;
        let sent = gate.send(&self.vehicle, Order::Lock);
        self.takes_command(gate, sent).await;
        assert_eq!(gate.told.of(&self.vehicle, epoch_up).len(), 1, "one session all the time");
    }

    async fn takes_command(&mut self, gate: &Gate, sent: CommandId) {
        let (pkid, got) = command(&self.raw.packet().await.expect("the witness was thrown out"));
        assert_eq!(got, Some(sent));
        self.raw.send(&framed(0x40, &pkid.to_be_bytes())).await;
        let is_it = |message: &FromCar| match message {
            FromCar::Delivered { command_id } => (*command_id == sent).then_some(()),
            _ => None,
        };
        gate.told.until("Delivered", &self.vehicle, is_it).await;
    }
}

/// Packet id and command id of a QoS 1 PUBLISH from the gate.
pub fn command(packet: &Packet) -> (u16, Option<CommandId>) {
    assert_eq!(packet.first, 0x32, "{packet:?}");
    let topic = 2 + usize::from(u16::from_be_bytes([packet.body[0], packet.body[1]]));
    let pkid = u16::from_be_bytes([packet.body[topic], packet.body[topic + 1]]);
    (pkid, mqtt::payload::command_id_of(&packet.body[topic + 2..]))
}
