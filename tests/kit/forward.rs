//! TCP forwarding that a test owns: a balancer before gateways, and a wire between two programs that can be cut.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A gateway that is gone refuses at once; one that is stopped still accepts.
const CONNECT_WITHIN: Duration = Duration::from_millis(500);

/// Takes connections at a port of its own and hands each to the next target that accepts.
pub struct Forward {
    pub address: SocketAddr,
    is_cut: watch::Sender<bool>,
    is_mute: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Forward {
    pub async fn to(targets: Vec<SocketAddr>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (is_cut, is_mute) = (watch::Sender::new(false), watch::Sender::new(false));
        let task = tokio::spawn(accept(listener, Arc::new(targets), [is_cut.subscribe(), is_mute.subscribe()]));
        Self { address, is_cut, is_mute, task }
    }

    /// Nothing passes any more, and nobody is told: what was sent arrives after [`Self::heal`], as after lost packets.
    pub fn cut(&self) {
        self.is_cut.send_replace(true);
    }

    /// The same of what the targets answer; they still hear all.
    pub fn mute(&self) {
        self.is_mute.send_replace(true);
    }

    /// Takes no connection any more, and ends those there are.
    pub fn end(self) {
        self.cut();
    }

    pub fn heal(&self) {
        self.is_cut.send_replace(false);
        self.is_mute.send_replace(false);
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, targets: Arc<Vec<SocketAddr>>, [is_cut, is_mute]: [watch::Receiver<bool>; 2]) {
    let turn = Arc::new(AtomicUsize::new(0));
    while let Ok((client, _)) = listener.accept().await {
        let (targets, turn) = (Arc::clone(&targets), Arc::clone(&turn));
        let (is_cut, is_mute) = (is_cut.clone(), is_mute.clone());
        tokio::spawn(async move {
            let Some(server) = connect(&targets, &turn, is_cut.clone()).await else { return };
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            // The end of one direction ends both: no program here closes one half.
            tokio::select! {
                () = pass(from_client, to_server, [is_cut.clone(), is_cut.clone()]) => {}
                () = pass(from_server, to_client, [is_cut, is_mute]) => {}
            }
        });
    }
}

async fn connect(targets: &[SocketAddr], turn: &AtomicUsize, mut is_cut: watch::Receiver<bool>) -> Option<TcpStream> {
    is_cut.wait_for(|is_cut| !is_cut).await.ok()?;
    for _ in targets {
        let target = targets[turn.fetch_add(1, Ordering::Relaxed) % targets.len()];
        if let Ok(Ok(stream)) = tokio::time::timeout(CONNECT_WITHIN, TcpStream::connect(target)).await {
            return Some(stream);
        }
    }
    None
}

async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut are_cut: [watch::Receiver<bool>; 2],
) {
    let mut chunk = vec![0; 16 * 1024];
    loop {
        let read = from.read(&mut chunk).await;
        // Also an end is heard of only when the wire is whole.
        for is_cut in &mut are_cut {
            if is_cut.wait_for(|is_cut| !is_cut).await.is_err() {
                return;
            }
        }
        match read {
            Ok(read @ 1..) if to.write_all(&chunk[..read]).await.is_ok() => {}
            _ => return,
        }
    }
}
