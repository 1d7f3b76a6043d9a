//! One car's session: reads its packets, checks each against what the car may do, hands them to the router, and writes
//! what waits in its mailbox.
//!
//! A future written by hand, since a fleet of them is the gateway's memory: no timers (the gate sweeps), no buffers while
//! idle. It never reads more than its shard and its rate allow, and publishes nothing unchecked.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::mem::{self, MaybeUninit};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_rustls::server::TlsStream;

use super::frames::{self, Frame};
use super::gate::Shared;
use super::metrics::Reason;
use super::payload;
use super::router::{FROM, Shard};
use super::seats::{Seat, TICK_MS, Tick};
use super::topics::{self, Channel};
use crate::actors::vehicle::FromCar;
use crate::domain::CommandId;

pub(super) type Io = TlsStream<TcpStream>;

/// Messages on their way to a car without its PUBACK.
const WINDOW: usize = 16;
/// Read at once; on the stack, so that an idle session keeps no buffer.
const READ_BYTES: usize = 8 * 1024;
/// Answers may pile up to this before the session stops reading and taking from its mailbox.
const MAX_UNWRITTEN: usize = 64 * 1024;
/// Topic, packet id and the like on top of a payload.
const FRAME_EXTRA: usize = 4 + topics::MAX_LEN;
/// A session that had to pause for so long, with no ease between, is ended: no backlog of a car lasts that long over its
/// rate without it waiting for its PUBACKs.
const FLOOD_MS: u32 = 10_000;

/// On a car's TLS stream, or on whatever else bytes come from.
pub(super) struct Session<I = Io> {
    io: Box<I>,
    seat: Arc<Seat>,
    shard: Arc<Shard>,
    shared: Arc<Shared>,
    /// The first part of a packet whose rest is not here yet.
    partial: Vec<u8>,
    /// What came along with the CONNECT is not taken yet: a car need not wait for its CONNACK.
    has_unread: bool,
    unwritten: Vec<u8>,
    written: usize,
    must_flush: bool,
    in_flight: VecDeque<(u16, Option<CommandId>)>,
    last_pkid: u16,
    /// The QoS of its subscription to its command topic.
    subscribed: Option<u8>,
    telemetry: Bytes,
    rate: Rate,
    pause: Option<Pin<Box<Sleep>>>,
    credit_round: u64,
}

/// A token bucket that may go into debt by one read, which is then paid before the next.
struct Rate {
    tokens: i64,
    at: Tick,
    /// Paused since it last had half its burst.
    paused_ms: u32,
}

impl<I: AsyncRead + AsyncWrite + Unpin> Session<I> {
    /// `rest`: what came after the CONNECT.
    pub(super) fn new(io: Box<I>, seat: Arc<Seat>, shard: Arc<Shard>, shared: Arc<Shared>, rest: &[u8]) -> Self {
        let rate = Rate { tokens: shared.config.rate_burst.max(1).into(), at: shared.now(), paused_ms: 0 };
        let telemetry = from_topic(&seat, Channel::Telemetry);
        Self {
            io,
            seat,
            shard,
            shared,
            partial: rest.to_vec(),
            has_unread: !rest.is_empty(),
            unwritten: Vec::new(),
            written: 0,
            must_flush: false,
            in_flight: VecDeque::new(),
            last_pkid: 0,
            subscribed: None,
            telemetry,
            rate,
            pause: None,
            credit_round: 0,
        }
    }

    pub(super) fn seat(&self) -> &Arc<Seat> {
        &self.seat
    }

    /// Does all that can be done now; ready with the reason when the session is over.
    fn turn(&mut self, context: &mut Context<'_>) -> Poll<Reason> {
        if mem::take(&mut self.has_unread) {
            let rest = mem::take(&mut self.partial);
            if let Err(reason) = self.take(&rest) {
                return Poll::Ready(reason);
            }
        }
        loop {
            if let Some(reason) = self.take_mail(context) {
                return Poll::Ready(reason);
            }
            if self.poll_write(context).is_err() {
                return Poll::Ready(Reason::Gone);
            }
            if self.unwritten.len() > MAX_UNWRITTEN {
                return Poll::Pending;
            }
            if let Some(reason) = ready!(self.poll_allowance(context)) {
                return Poll::Ready(reason);
            }
            if let Err(reason) = ready!(self.poll_read(context)) {
                return Poll::Ready(reason);
            }
        }
    }

    /// Moves what waits for the car to the write buffer as far as the window allows. A full window never hides a kick.
    fn take_mail(&mut self, context: &Context<'_>) -> Option<Reason> {
        let seat = Arc::clone(&self.seat);
        let mut mailbox = seat.mailbox();
        if mailbox.kick.is_some() {
            return mailbox.kick;
        }
        if let Some(qos) = self.subscribed {
            while self.in_flight.len() < WINDOW && self.unwritten.len() <= MAX_UNWRITTEN {
                let Some(payload) = mailbox.queue.pop_front() else { break };
                self.write_message(&payload, qos);
            }
            if mailbox.queue.is_empty() {
                mailbox.queue = VecDeque::new();
            }
        }
        if !mailbox.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            mailbox.waker = Some(context.waker().clone());
        }
        None
    }

    fn write_message(&mut self, payload: &[u8], qos: u8) {
        let pkid = (qos > 0).then(|| self.next_pkid());
        if let Some(pkid) = pkid {
            self.in_flight.push_back((pkid, payload::command_id_of(payload)));
        }
        let topic = Channel::Command.topic(&self.seat.vehicle);
        frames::write_publish(&mut self.unwritten, &topic, payload, pkid);
        self.shared.metrics.commands_written.add(1);
    }

    /// The next packet id that is not in flight; never 0.
    fn next_pkid(&mut self) -> u16 {
        loop {
            self.last_pkid = self.last_pkid.checked_add(1).unwrap_or(1);
            // At most WINDOW of them are taken.
            if !self.in_flight.iter().any(|(pkid, _)| *pkid == self.last_pkid) {
                return self.last_pkid;
            }
        }
    }

    /// Writes what it can. A write that waits is told to the seat, whose sweeper gives up on it in time.
    fn poll_write(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        while self.written < self.unwritten.len() {
            match Pin::new(&mut *self.io).poll_write(context, &self.unwritten[self.written..]) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(count)) => {
                    self.written += count;
                    self.must_flush = true;
                    self.seat.write_moves();
                }
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => {
                    self.seat.write_waits(self.shared.now());
                    return Ok(());
                }
            }
        }
        if self.must_flush {
            // All is with TLS; what it cannot send yet still counts as a write that waits.
            (self.unwritten, self.written) = (Vec::new(), 0);
            match Pin::new(&mut *self.io).poll_flush(context)? {
                Poll::Ready(()) => {
                    self.must_flush = false;
                    self.seat.write_moves();
                }
                Poll::Pending => self.seat.write_waits(self.shared.now()),
            }
        }
        Ok(())
    }

    /// May it read? Ready with a reason when it is over its rate for too long.
    fn poll_allowance(&mut self, context: &mut Context<'_>) -> Poll<Option<Reason>> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(context));
            self.pause = None;
            self.seat.listens(true, self.shared.now());
        }
        if let Some(pause) = self.rate.pause(self.shared.now(), &self.shared.config) {
            if self.rate.paused_ms > FLOOD_MS {
                return Poll::Ready(Some(Reason::Flood));
            }
            self.shared.metrics.throttled.add(1);
            self.seat.listens(false, self.shared.now());
            self.pause = Some(Box::pin(tokio::time::sleep(pause)));
            return self.poll_allowance(context);
        }
        if self.shard.is_lost() {
            return Poll::Ready(Some(Reason::ShardLost));
        }
        if self.shard.up.poll_open(context, &mut self.credit_round) {
            self.seat.listens(true, self.shared.now());
            return Poll::Ready(None);
        }
        if self.seat.listens(false, self.shared.now()) {
            self.shared.metrics.held_back.add(1);
        }
        Poll::Pending
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Reason>> {
        let mut space = [const { MaybeUninit::uninit() }; READ_BYTES];
        let mut buffer = ReadBuf::uninit(&mut space);
        if ready!(Pin::new(&mut *self.io).poll_read(context, &mut buffer)).is_err() || buffer.filled().is_empty() {
            return Poll::Ready(Err(Reason::Gone));
        }
        self.seat.heard(self.shared.now());
        if self.partial.is_empty() {
            return Poll::Ready(self.take(buffer.filled()));
        }
        let mut whole = mem::take(&mut self.partial);
        whole.extend_from_slice(buffer.filled());
        Poll::Ready(self.take(&whole))
    }

    /// Takes all whole packets; the rest stays for the next read. What came before a bad packet still counts.
    fn take(&mut self, bytes: &[u8]) -> Result<(), Reason> {
        let mut messages = SmallVec::<[(Bytes, Bytes); 4]>::new();
        let (mut used, answered) = (0, self.unwritten.len());
        let outcome = loop {
            let limit = self.shared.config.max_payload_bytes + FRAME_EXTRA;
            match frames::next(&bytes[used..], limit) {
                Ok(Some((frame, length))) => {
                    used += length;
                    self.rate.tokens -= 1;
                    if let Err(reason) = self.obey(frame, &mut messages) {
                        break Err(reason);
                    }
                }
                Ok(None) => break Ok(()),
                Err(reason) => break Err(reason),
            }
        };
        if !messages.is_empty() {
            self.shared.metrics.published.add(messages.len() as u64);
            let payload_bytes = messages.iter().map(|(_, payload)| payload.len() as u64).sum();
            self.shared.metrics.published_bytes.add(payload_bytes);
            if self.shard.publish_up(&mut messages.into_iter()).is_err() {
                // No PUBACK for what was not handed over.
                self.unwritten.truncate(answered);
                return Err(Reason::ShardLost);
            }
        }
        outcome?;
        self.partial = bytes[used..].to_vec();
        Ok(())
    }

    /// A PUBACK written here leaves only after [`Session::take`] has handed its message to the router.
    fn obey(&mut self, frame: Frame<'_>, messages: &mut SmallVec<[(Bytes, Bytes); 4]>) -> Result<(), Reason> {
        match frame {
            Frame::Publish(publish) => {
                let topic = self.check(&publish)?;
                messages.push((topic, Bytes::copy_from_slice(publish.payload)));
                if let Some(pkid) = publish.pkid {
                    frames::write_puback(&mut self.unwritten, pkid);
                }
            }
            Frame::PubAck { pkid } => self.delivered(pkid),
            Frame::Subscribe { pkid, filters } => {
                let codes: SmallVec<[u8; 8]> = filters.map(|(filter, qos)| self.subscribe(filter, qos)).collect();
                frames::write_suback(&mut self.unwritten, pkid, &codes);
            }
            Frame::Unsubscribe { pkid, filters } => {
                if frames::plain_filters(filters).any(|filter| self.is_own_command(filter)) {
                    self.subscribed = None;
                }
                frames::write_unsuback(&mut self.unwritten, pkid);
            }
            Frame::PingReq => frames::write_pingresp(&mut self.unwritten),
            Frame::Disconnect => return Err(Reason::Disconnect),
        }
        Ok(())
    }

    /// The router's topic for a message that the car may send.
    fn check(&self, publish: &frames::Publish<'_>) -> Result<Bytes, Reason> {
        let (vehicle, channel) = topics::parse(publish.topic).ok_or(Reason::ForeignTopic)?;
        if vehicle != self.seat.vehicle.as_str() {
            return Err(Reason::ForeignTopic);
        }
        // An empty payload would be a deletion to the router, and is nothing the contract knows.
        if publish.payload.is_empty() {
            return Err(Reason::EmptyPayload);
        }
        if publish.payload.len() > self.shared.config.max_payload_bytes {
            return Err(Reason::TooLong);
        }
        match channel {
            Channel::Telemetry => Ok(self.telemetry.clone()),
            Channel::Event | Channel::Ack => Ok(from_topic(&self.seat, channel)),
            Channel::Command => Err(Reason::ForeignTopic),
        }
    }

    fn is_own_command(&self, filter: &[u8]) -> bool {
        topics::parse(filter) == Some((self.seat.vehicle.as_str(), Channel::Command))
    }

    /// The granted QoS, or 0x80.
    fn subscribe(&mut self, filter: &[u8], qos: u8) -> u8 {
        if !self.is_own_command(filter) {
            self.shared.metrics.count(Reason::ForeignFilter);
            return 0x80;
        }
        let granted = qos.min(1);
        self.subscribed = Some(granted);
        granted
    }

    fn delivered(&mut self, pkid: u16) {
        let Some(place) = self.in_flight.iter().position(|(other, _)| *other == pkid) else { return };
        let Some((_, command_id)) = self.in_flight.remove(place) else { return };
        if self.in_flight.is_empty() {
            self.in_flight = VecDeque::new();
        }
        self.shared.metrics.commands_delivered.add(1);
        if let Some(command_id) = command_id {
            // For show only: the car's own ack is what settles a command.
            let _ = (self.shared.tell)(&self.seat.vehicle, FromCar::Delivered { command_id });
        }
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> Future for Session<I> {
    type Output = Reason;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Reason> {
        let reason = ready!(self.turn(context));
        // The last answers and a close of TLS, if they go without waiting.
        let _ = self.poll_write(context);
        let _ = Pin::new(&mut *self.io).poll_shutdown(context);
        Poll::Ready(reason)
    }
}

impl Rate {
    /// How long to stop reading; `None` = it may read.
    fn pause(&mut self, now: Tick, config: &crate::config::Mqtt) -> Option<Duration> {
        let (rate, burst) = (i64::from(config.rate_per_s.max(1)), i64::from(config.rate_burst.max(1)));
        let ticks = i64::from(now.wrapping_sub(self.at));
        let earned = ticks * rate * TICK_MS as i64 / 1000;
        if earned > 0 {
            self.tokens = (self.tokens + earned).min(burst);
            self.at = now;
        }
        if self.tokens > 0 {
            if self.tokens * 2 > burst {
                self.paused_ms = 0;
            }
            return None;
        }
        let missing_ms = (1 - self.tokens) * 1000 / rate;
        let pause_ms = missing_ms.clamp(TICK_MS as i64, 1_000);
        self.paused_ms = self.paused_ms.saturating_add(pause_ms as u32);
        Some(Duration::from_millis(pause_ms as u64))
    }
}

/// Where the router takes in what the car publishes on a channel.
fn from_topic(seat: &Seat, channel: Channel) -> Bytes {
    Bytes::from(format!("{FROM}{}", channel.topic(&seat.vehicle)))
}
