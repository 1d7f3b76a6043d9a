//! The door for cars: listens, speaks TLS, checks who it is, answers CONNECT, seats the session.
//!
//! No peer can hold up another here: the accept loop waits for nobody, every step has a deadline, and everything that is
//! counted has a limit. Presence (`LinkUp`, `LinkDown`) is told from here and nowhere else.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::BytesMut;
use rumqttd::protocol::v4::V4;
use rumqttd::protocol::{Connect, Error as CodecError, Packet, Protocol};
use rustls::HandshakeKind;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{MissedTickBehavior, timeout};
use tokio_rustls::TlsAcceptor;

use super::bridge::Bridge;
use super::link_log::{LinkChange, LinkLog};
use super::metrics::{MqttMetrics, Reason};
use super::router::Slot;
use super::seats::{Seat, TICK_MS, Tick};
use super::session::{Io, Session};
use super::{Tell, frames};
use crate::actors::vehicle::{FromCar, TellError};
use crate::certs::{self, Certs, PeerIdentity};
use crate::clock::Clock;
use crate::config;
use crate::domain::VehicleId;

/// A CONNECT of ours is under 100 bytes; a will or a password may come along to be refused properly.
const MAX_CONNECT_BYTES: usize = 4 * 1024;
/// Sweeps for silent cars happen every so many ticks.
const SWEEP_TICKS: Tick = 5;
const BACKLOG: u32 = 4_096;
/// Refusals that reach the log in a second: a car that tries again every few seconds is seen, a flood is not.
const TOLD_PER_S: u64 = 20;
/// Tries to tell that a car has left, a second apart at the end.
const LINK_DOWN_TRIES: u32 = 300;

/// What every part of the gate shares.
pub(super) struct Shared {
    pub(super) config: config::Mqtt,
    pub(super) certs: Arc<Certs>,
    pub(super) tell: Tell,
    pub(super) clock: Clock,
    pub(super) metrics: Arc<MqttMetrics>,
    pub(super) links: Arc<LinkLog>,
    pub(super) slots: Vec<Arc<Slot>>,
    /// Filled before anybody can connect, where there is one.
    pub(super) bridge: OnceLock<Arc<Bridge>>,
    epochs: AtomicU64,
    ticks: AtomicU32,
    sockets: Arc<Semaphore>,
    handshakes: Semaphore,
    /// Refusals that were logged in the second `told_in` of the process's life.
    told_in: AtomicU64,
    told: AtomicU64,
}

impl Shared {
    pub(super) fn new(
        config: config::Mqtt,
        certs: Arc<Certs>,
        tell: Tell,
        clock: Clock,
        metrics: Arc<MqttMetrics>,
        slots: Vec<Arc<Slot>>,
    ) -> Self {
        // Epochs rise over restarts too, as long as fewer than 1000 sessions a second began on average.
        let epoch = u64::try_from(clock.now().0).unwrap_or(0) * 1000;
        let links = Arc::new(LinkLog::new(clock.now()));
        let sockets = config.max_sessions.saturating_add(config.max_handshakes).min(Semaphore::MAX_PERMITS);
        Self {
            certs,
            tell,
            clock,
            metrics,
            links,
            slots,
            bridge: OnceLock::new(),
            epochs: AtomicU64::new(epoch),
            ticks: AtomicU32::new(1),
            sockets: Arc::new(Semaphore::new(sockets)),
            told_in: AtomicU64::default(),
            told: AtomicU64::default(),
            handshakes: Semaphore::new(config.max_handshakes.clamp(1, Semaphore::MAX_PERMITS)),
            config,
        }
    }

    /// Says in the log who was not let in and why; a flood of them is counted by the metrics alone.
    fn tell_refusal(&self, peer: SocketAddr, reason: Reason, claimed: Option<&VehicleId>) {
        let second = self.clock.elapsed().as_secs();
        if self.told_in.swap(second, Ordering::Relaxed) != second {
            self.told.store(0, Ordering::Relaxed);
        }
        if self.told.fetch_add(1, Ordering::Relaxed) < TOLD_PER_S {
            let reason = reason.name();
            match claimed {
                Some(vehicle) => tracing::info!(%peer, reason, %vehicle, "a certificate was refused; the name on it"),
                None => tracing::info!(%peer, reason, "not let in"),
            }
        }
    }

    /// Of a time online, later than all before.
    pub(super) fn next_epoch(&self) -> u64 {
        self.epochs.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The place of a vehicle's shard: the same in every life of the gateway with as many shards.
    pub(super) fn slot(&self, vehicle: &VehicleId) -> &Arc<Slot> {
        let index = crc32c::crc32c(vehicle.as_str().as_bytes()) as usize % self.slots.len();
        &self.slots[index]
    }

    pub(super) fn now(&self) -> Tick {
        self.ticks.load(Ordering::Relaxed)
    }

    /// Moves the gate's time on and sweeps; ends with the runtime.
    pub(super) async fn tick(self: Arc<Self>) {
        let mut interval = tokio::time::interval(Duration::from_millis(TICK_MS));
        // After the machine slept no car is silent for that reason.
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let write_patience = Tick::try_from(self.config.write_timeout_ms / TICK_MS).unwrap_or(Tick::MAX / 4).max(1);
        loop {
            interval.tick().await;
            let now = self.ticks.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
            if now.is_multiple_of(SWEEP_TICKS) {
                self.slots.iter().for_each(|slot| slot.seats.sweep(now, write_patience));
            }
        }
    }

    /// Silence allowed: one and a half times what the car promised, and never more than ours.
    fn patience(&self, keep_alive_s: u16) -> Tick {
        let most = self.config.max_keep_alive_s.saturating_mul(1000);
        let allowed_ms = if keep_alive_s == 0 { most } else { most.min(u64::from(keep_alive_s) * 1500) };
        Tick::try_from(allowed_ms / TICK_MS).unwrap_or(Tick::MAX / 4)
    }
}

pub(super) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

pub(super) async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        match listener.accept().await {
            Ok((tcp, peer)) => match Arc::clone(&shared.sockets).try_acquire_owned() {
                Ok(permit) => drop(tokio::spawn(welcome(tcp, peer, Arc::clone(&shared), permit))),
                Err(_) => shared.metrics.count(Reason::SocketsFull),
            },
            Err(error) => {
                shared.metrics.accept_failed.add(1);
                tracing::warn!(%error, "cannot accept");
                // Mostly for lack of descriptors: some must come free first.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn welcome(tcp: TcpStream, peer: SocketAddr, shared: Arc<Shared>, permit: OwnedSemaphorePermit) {
    shared.metrics.handshakes.add(1);
    let met = meet(tcp, peer, &shared).await;
    shared.metrics.handshakes.subtract(1);
    match met {
        // A task of its own, so that the handshake's memory is not the session's.
        Ok(session) => drop(tokio::spawn(attend(session, shared, permit))),
        Err(reason) => {
            shared.metrics.count(reason);
            shared.tell_refusal(peer, reason, None);
        }
    }
}

async fn attend(session: Session, shared: Arc<Shared>, permit: OwnedSemaphorePermit) {
    let mut stay = Stay { seat: Arc::clone(session.seat()), shared, reason: Reason::Gone };
    stay.reason = session.await;
    drop(permit);
}

/// Leaves the seat when the session is over, whatever ended it.
struct Stay {
    seat: Arc<Seat>,
    shared: Arc<Shared>,
    reason: Reason,
}

impl Drop for Stay {
    fn drop(&mut self) {
        leave(&self.seat, self.reason, &self.shared);
    }
}

async fn meet(tcp: TcpStream, from: SocketAddr, shared: &Arc<Shared>) -> Result<Session, Reason> {
    let io = shake_hands(tcp, from, shared).await?;
    let peer = identify(&io).ok_or(Reason::BadIdentity)?;
    let address = from.ip().to_canonical();
    admit(io, &peer, address, shared).await
}

/// From the certificate to the session.
async fn admit(mut io: Box<Io>, peer: &PeerIdentity, address: IpAddr, shared: &Arc<Shared>) -> Result<Session, Reason> {
    if io.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed) {
        shared.metrics.resumed.add(1);
    }
    let connect_timeout = Duration::from_millis(shared.config.connect_timeout_ms);
    let mut bytes = BytesMut::new();
    let connected = timeout(connect_timeout, read_connect(&mut io, &mut bytes)).await;
    let seated = match connected {
        Err(_) => Err(Reason::ConnectTimeout),
        Ok(Ok(connect)) => seat(&connect, peer, address, shared),
        Ok(Err(reason)) => Err(reason),
    };
    // Before it is answered, so that whoever has the answer finds it in the log.
    let change = match &seated {
        Ok(seat) => LinkChange::Connected { epoch: seat.epoch, address: Some(address) },
        Err(reason) => LinkChange::Refused { address, reason: *reason },
    };
    shared.links.note(&peer.vehicle, shared.clock.now(), change);
    let code = match &seated {
        Ok(_) => 0,
        Err(reason) => connack_code(*reason).ok_or(*reason)?,
    };
    let is_answered = answer(&mut io, code, shared).await;
    let seat = seated?;
    if !is_answered {
        leave(&seat, Reason::Gone, shared);
        return Err(Reason::Gone);
    }
    shared.metrics.connects.add(1);
    let shard = shared.slot(&seat.vehicle).shard();
    Ok(Session::new(io, seat, shard, Arc::clone(shared), &bytes))
}

async fn shake_hands(tcp: TcpStream, from: SocketAddr, shared: &Shared) -> Result<Box<Io>, Reason> {
    let patience = Duration::from_millis(shared.config.tls_timeout_ms);
    // One that says nothing takes no place among the handshakes. (`readable` may answer without anything to read.)
    match timeout(patience, tcp.peek(&mut [0])).await {
        Ok(Ok(1..)) => {}
        Ok(Ok(0) | Err(_)) => return Err(Reason::TlsFailed),
        Err(_) => return Err(Reason::TlsTimeout),
    }
    // The wait for a place is the gate's fault, not the car's; it is bounded by the deadlines of those before it.
    let _place = shared.handshakes.acquire().await.map_err(|_| Reason::Shutdown)?;
    let _ = tcp.set_nodelay(true);
    let handshake = timeout(patience, TlsAcceptor::from(shared.certs.gate()).accept(tcp));
    match certs::claimed_by(handshake).await {
        (Ok(Ok(io)), _) => Ok(Box::new(io)),
        (Ok(Err(error)), claimed) => {
            let reason = tls_reason(&error);
            if let Some(vehicle) = claimed {
                let address = from.ip().to_canonical();
                shared.links.note_unproved(&vehicle, shared.clock.now(), address, reason);
                shared.tell_refusal(from, reason, Some(&vehicle));
            }
            Err(reason)
        }
        (Err(_), _) => Err(Reason::TlsTimeout),
    }
}

/// Why a handshake ended, as far as rustls says.
fn tls_reason(error: &io::Error) -> Reason {
    use rustls::{AlertDescription, CertificateError, Error};
    let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
        return Reason::TlsFailed;
    };
    match error {
        Error::NoCertificatesPresented => Reason::NoCertificate,
        Error::InvalidCertificate(why) => match why {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Reason::CertificateExpired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                Reason::CertificateNotYetValid
            }
            CertificateError::Revoked => Reason::Revoked,
            CertificateError::UnknownIssuer => Reason::UnknownCa,
            _ => Reason::BadCertificate,
        },
        Error::AlertReceived(
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnsupportedCertificate,
        ) => Reason::GatewayNotTrusted,
        _ => Reason::TlsFailed,
    }
}

fn identify(io: &Io) -> Option<PeerIdentity> {
    let certificate = io.get_ref().1.peer_certificates()?.first()?;
    PeerIdentity::of(certificate).ok()
}

/// Reads the first packet; what comes after it stays in `bytes`.
pub(super) async fn read_connect(io: &mut (impl AsyncRead + Unpin), bytes: &mut BytesMut) -> Result<Connect, Reason> {
    loop {
        if bytes.first().is_some_and(|first| *first != 0x10) {
            return Err(Reason::NotConnect);
        }
        if let Some((remaining, header)) = bytes.get(1..).map_or(Ok(None), frames::remaining_length)? {
            if remaining > MAX_CONNECT_BYTES {
                return Err(Reason::TooLong);
            }
            if bytes.len() > header + remaining {
                return decode_connect(bytes, header);
            }
        }
        match io.read_buf(bytes).await {
            Ok(1..) => {}
            Ok(0) | Err(_) => return Err(Reason::Gone),
        }
    }
}

fn decode_connect(bytes: &mut BytesMut, header: usize) -> Result<Connect, Reason> {
    // Behind the fixed header: the name (2 + 4 bytes) and the level. Its lowest bit is reserved.
    let is_flagged = bytes.get(1 + header + 7).is_some_and(|flags| flags & 1 != 0);
    match V4.read_mut(bytes, MAX_CONNECT_BYTES) {
        Ok(Packet::Connect(..)) if is_flagged => Err(Reason::Malformed),
        Ok(Packet::Connect(_, _, Some(_), ..)) => Err(Reason::Will),
        Ok(Packet::Connect(connect, ..)) => Ok(connect),
        Ok(_) => Err(Reason::NotConnect),
        Err(CodecError::InvalidProtocol | CodecError::InvalidProtocolLevel(_)) => Err(Reason::ProtocolVersion),
        Err(_) => Err(Reason::Malformed),
    }
}

/// What MQTT says to a refused CONNECT; `None` = nothing, the connection just ends.
fn connack_code(reason: Reason) -> Option<u8> {
    match reason {
        Reason::ProtocolVersion => Some(1),
        Reason::ForeignClientId => Some(2),
        Reason::SessionsFull | Reason::FleetFull | Reason::ShardDown | Reason::Takeover => Some(3),
        Reason::Will | Reason::Revoked => Some(5),
        _ => None,
    }
}

/// Sends the CONNACK; there is never a session present. A refused peer is also told that TLS ends.
async fn answer(io: &mut Io, code: u8, shared: &Shared) -> bool {
    let write = async {
        io.write_all(&[0x20, 2, 0, code]).await?;
        io.flush().await?;
        if code == 0 { Ok(()) } else { io.shutdown().await }
    };
    matches!(timeout(Duration::from_millis(shared.config.write_timeout_ms), write).await, Ok(Ok(())))
}

/// Gives the car its seat and tells that it is here.
pub(super) fn seat(
    connect: &Connect,
    peer: &PeerIdentity,
    address: IpAddr,
    shared: &Arc<Shared>,
) -> Result<Arc<Seat>, Reason> {
    if connect.client_id != peer.vehicle.as_str() {
        return Err(Reason::ForeignClientId);
    }
    let is_trusted = || shared.certs.check(peer, shared.clock.now()).is_ok();
    // Before it can displace anybody.
    if !is_trusted() {
        return Err(Reason::Revoked);
    }
    let slot = shared.slot(&peer.vehicle);
    if slot.shard().is_lost() {
        return Err(Reason::ShardDown);
    }
    // Held until the fleet knows: in between the bridge could tell of a later epoch.
    let turn = shared.bridge.get().and_then(|bridge| bridge.turn(&peer.vehicle));
    let epoch = shared.next_epoch();
    let seat = Arc::new(Seat::new(peer, epoch, shared.patience(connect.keep_alive), shared.now()));
    let sessions = &shared.metrics.sessions;
    let has_room = || {
        // Shards look at it side by side, so it may be passed by one for each.
        let has_room = sessions.get() < shared.config.max_sessions as u64;
        if has_room {
            sessions.add(1);
        }
        has_room
    };
    // Seated before it is told: what the actor sends in answer must find it. And once more whether it is trusted: who
    // revokes kicks after that, and must find it too.
    let displaced = slot.seats.admit(&seat, has_room)?;
    let up = FromCar::LinkUp { epoch, address: Some(address) };
    let refusal = match is_trusted() {
        true if (shared.tell)(&peer.vehicle, up).is_ok() => {
            turn.into_iter().for_each(|turn| turn.displace(&peer.vehicle, shared));
            return Ok(seat);
        }
        true => Reason::FleetFull,
        false => Reason::Revoked,
    };
    if slot.seats.leave(&seat) {
        sessions.subtract(1);
    }
    if let Some(older) = displaced {
        tell_link_down(&older, shared);
    }
    Err(refusal)
}

/// Ends a session for everybody else. One that was taken over leaves in silence: the car is still here.
pub(super) fn leave(seat: &Arc<Seat>, reason: Reason, shared: &Arc<Shared>) {
    shared.metrics.count(reason);
    let (at, epoch) = (shared.clock.now(), seat.epoch);
    shared.links.note(&seat.vehicle, at, LinkChange::Disconnected { epoch, reason });
    tracing::debug!(vehicle = %seat.vehicle, epoch = seat.epoch, reason = reason.name(), "session over");
    if shared.slot(&seat.vehicle).seats.leave(seat) {
        shared.metrics.sessions.subtract(1);
        tell_link_down(seat, shared);
    }
}

/// Must arrive, or the car would look online for ever: told again until there is room, or the car is back.
fn tell_link_down(seat: &Arc<Seat>, shared: &Arc<Shared>) {
    let down = |seat: &Seat, shared: &Shared| (shared.tell)(&seat.vehicle, FromCar::LinkDown { epoch: seat.epoch });
    if down(seat, shared).is_ok() {
        return;
    }
    // None at the very end of the gate: then nobody listens any more either.
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    let (seat, shared) = (Arc::clone(seat), Arc::clone(shared));
    runtime.spawn(async move {
        let mut wait = Duration::from_millis(20);
        for _ in 0..LINK_DOWN_TRIES {
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(Duration::from_secs(1));
            // A newer session was told with a higher epoch, which says it all.
            if shared.slot(&seat.vehicle).seats.find(seat.vehicle.as_str()).is_some() {
                return;
            }
            shared.metrics.link_downs_retried.add(1);
            match down(&seat, &shared) {
                Ok(()) => return,
                Err(TellError::Full | TellError::Unavailable) => {}
            }
        }
        tracing::error!(vehicle = %seat.vehicle, epoch = seat.epoch, "nobody took that the car has left");
    });
}
