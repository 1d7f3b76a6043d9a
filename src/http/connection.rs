//! One caller's connection, from its TLS handshake on, with an eye on its pace.
//!
//! actix-http times the first request's head only; on a connection that is kept alive the next head may take for ever, and
//! an answer that nobody reads is held for ever as well. This stream ends both. What a request means is not its business;
//! the server's middleware tells it when one begins and ends ([`Phase`]).

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::net::sockopt;
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Request head: from the first byte of a connection, or of a request, to its last header.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection without a request.
pub const KEEP_ALIVE: Duration = Duration::from_secs(75);
const TLS_TIMEOUT: Duration = Duration::from_secs(5);
/// A reader that keeps us waiting must take [`LEAST_READ`] in each such span. Both together are 1 KiB a second, which a
/// phone at the edge of its network does; what it does not take is memory of ours.
const STALL: Duration = Duration::from_secs(30);
const LEAST_READ: usize = 30 * 1024;
/// Bytes on their way to a reader: 2.5 MB a second at 100 ms of distance.
const SEND_BUFFER: usize = 256 * 1024;

/// What the connection is used for at the moment; the middleware writes it, the stream reads it.
#[derive(Debug, Default)]
pub struct Phase(AtomicU8);

const BETWEEN_REQUESTS: u8 = 0;
const ANSWERING: u8 = 1;
const WEB_SOCKET: u8 = 2;

impl Phase {
    /// A whole head is here. Its body has limits of its own, where it is read.
    pub fn begin(&self) {
        self.0.store(ANSWERING, Ordering::Relaxed);
    }

    /// The answer's head is on its way.
    pub fn end(&self, is_web_socket: bool) {
        self.0.store(if is_web_socket { WEB_SOCKET } else { BETWEEN_REQUESTS }, Ordering::Relaxed);
    }

    fn is_between_requests(&self) -> bool {
        self.0.load(Ordering::Relaxed) == BETWEEN_REQUESTS
    }
}

/// Makes a connection out of a socket, within [`TLS_TIMEOUT`] of its first byte, for which it has as long; at most
/// `handshakes` are under way at once.
pub async fn accept(
    socket: TcpStream,
    acceptor: TlsAcceptor,
    handshakes: Arc<Semaphore>,
) -> io::Result<(Connection<TlsStream<TcpStream>>, Option<SocketAddr>)> {
    let peer = socket.peer_addr().ok();
    // Answers are written whole: waiting for more of them would only delay the last segment.
    socket.set_nodelay(true)?;
    // What the kernel holds for a reader that does not read is memory as well, and out of our sight: little of it, and
    // not for long.
    sockopt::set_socket_send_buffer_size(&socket, SEND_BUFFER)?;
    sockopt::set_tcp_user_timeout(&socket, u32::try_from(STALL.as_millis()).unwrap_or(u32::MAX))?;
    // One that says nothing takes no place among the handshakes.
    match timeout(TLS_TIMEOUT, socket.peek(&mut [0])).await {
        Ok(Ok(1..)) => {}
        Ok(Ok(0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(Err(error)) => return Err(error),
        Err(_) => return Err(io::ErrorKind::TimedOut.into()),
    }
    let handshake = async {
        let _place = handshakes.acquire().await.map_err(io::Error::other)?;
        acceptor.accept(socket).await
    };
    let stream = timeout(TLS_TIMEOUT, handshake).await.map_err(|_| io::ErrorKind::TimedOut)??;
    Ok((Connection::new(stream), peer))
}

pub struct Connection<S> {
    stream: S,
    phase: Arc<Phase>,
    /// Until when the next whole head must be here; of no use while a request is answered.
    head: Option<Pin<Box<Sleep>>>,
    /// Some of the next head is here.
    is_head_begun: bool,
    /// While the reader keeps us waiting.
    stall: Option<Stall>,
}

struct Stall {
    end: Pin<Box<Sleep>>,
    taken: usize,
}

impl<S> Connection<S> {
    fn new(stream: S) -> Self {
        Self {
            stream,
            phase: Arc::default(),
            head: Some(Box::pin(sleep(HEAD_TIMEOUT))),
            is_head_begun: false,
            stall: None,
        }
    }

    pub fn phase(&self) -> Arc<Phase> {
        Arc::clone(&self.phase)
    }

    /// After a read of so many bytes; `Err` when the head did not come in time.
    fn watch_head(&mut self, bytes: Option<usize>, cx: &mut Context<'_>) -> io::Result<()> {
        if !self.phase.is_between_requests() {
            (self.head, self.is_head_begun) = (None, false);
            return Ok(());
        }
        if bytes.is_some_and(|bytes| bytes > 0) && !std::mem::replace(&mut self.is_head_begun, true) {
            self.head = Some(Box::pin(sleep(HEAD_TIMEOUT)));
        }
        // What came with the request before may be the beginning of the next one already: a little longer, then.
        let head = self.head.get_or_insert_with(|| Box::pin(sleep(KEEP_ALIVE + HEAD_TIMEOUT)));
        match head.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }

    /// After a write or a flush; `Err` when the reader took too little for too long.
    fn watch_reader<T>(
        &mut self,
        taken: usize,
        outcome: Poll<io::Result<T>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if taken > 0 && self.phase.is_between_requests() {
            // The last answer is still on its way: the next head has not begun to be late.
            self.head = None;
        }
        if let Some(stall) = &mut self.stall {
            stall.taken += taken;
        }
        if outcome.is_ready() {
            return outcome;
        }
        loop {
            let fresh = || Stall { end: Box::pin(sleep(STALL)), taken: 0 };
            let stall = self.stall.get_or_insert_with(fresh);
            match stall.end.as_mut().poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(()) if stall.taken < LEAST_READ => return Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
                Poll::Ready(()) => self.stall = None,
            }
        }
    }
}

impl Connection<TlsStream<TcpStream>> {
    /// What the peer showed in the handshake, its own certificate first; a CA of ours had signed them.
    pub fn peer_certificates(&self) -> Option<Arc<[CertificateDer<'static>]>> {
        let chain = self.stream.get_ref().1.peer_certificates()?;
        Some(chain.iter().map(|certificate| certificate.clone().into_owned()).collect())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut this.stream).poll_read(cx, buffer);
        let bytes = outcome.is_ready().then(|| buffer.filled().len() - before);
        match this.watch_head(bytes, cx) {
            Err(late) if outcome.is_pending() => Poll::Ready(Err(late)),
            Err(_) | Ok(()) => outcome,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_write(cx, bytes);
        let taken = if let Poll::Ready(Ok(taken)) = &outcome { *taken } else { 0 };
        this.watch_reader(taken, outcome, cx)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_flush(cx);
        if outcome.is_ready() {
            this.stall = None;
        }
        this.watch_reader(0, outcome, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_shutdown(cx);
        this.watch_reader(0, outcome, cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::time::advance;

    use super::*;

    /// Reads to the end of the connection, in the background.
    fn reading(mut connection: Connection<tokio::io::DuplexStream>) -> tokio::task::JoinHandle<io::Result<usize>> {
        tokio::spawn(async move { connection.read_to_end(&mut Vec::new()).await })
    }

    async fn pass(duration: Duration) {
        tokio::task::yield_now().await;
        advance(duration).await;
        tokio::task::yield_now().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_trickles_ends_the_connection_also_after_a_request() {
        let (mut caller, ours) = duplex(1_024);
        let connection = Connection::new(ours);
        let phase = connection.phase();
        let read = reading(connection);
        caller.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        pass(Duration::from_millis(1)).await;
        phase.begin();
        caller.write_all(b"a body").await.unwrap();
        pass(Duration::from_secs(300)).await;
        assert!(!read.is_finished(), "a request may take its time");
        phase.end(false);
        caller.write_all(b"G").await.unwrap();
        for _ in 0..9 {
            pass(Duration::from_secs(1)).await;
            caller.write_all(b"x").await.unwrap();
        }
        assert!(!read.is_finished());
        pass(HEAD_TIMEOUT).await;
        assert_eq!(read.await.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn a_web_socket_may_be_silent() {
        let (mut caller, ours) = duplex(1_024);
        let connection = Connection::new(ours);
        let phase = connection.phase();
        phase.begin();
        let read = reading(connection);
        phase.end(true);
        caller.write_all(b"frame").await.unwrap();
        pass(Duration::from_secs(3_600)).await;
        assert!(!read.is_finished());
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_takes_next_to_nothing_ends_the_connection() {
        let answer = vec![0; 1_000_000];
        for (bytes_a_second, is_served) in [(0, false), (100, false), (4_096, true)] {
            let (mut caller, ours) = duplex(64 * 1_024);
            let mut connection = Connection::new(ours);
            connection.phase().begin();
            let sent = answer.clone();
            let write = tokio::spawn(async move { connection.write_all(&sent).await });
            for _ in 0..300 {
                let mut some = vec![0; bytes_a_second];
                if bytes_a_second > 0 && !write.is_finished() {
                    caller.read_exact(&mut some).await.unwrap();
                }
                pass(Duration::from_secs(1)).await;
            }
            let outcome = write.await.unwrap().map_err(|error| error.kind());
            assert_eq!(outcome, if is_served { Ok(()) } else { Err(io::ErrorKind::TimedOut) }, "{bytes_a_second} B/s");
        }
    }
}
