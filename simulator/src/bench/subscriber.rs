//! A TLS subscriber to every car's telemetry: the receiving end where the broker has no application of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::fleet::Client;
use super::latencies::Latencies;
use super::report::sent_ns;
use crate::failure::Failure;
use crate::stopwatch::Stopwatch;
use crate::wire::{Packet, Session, WireError, put_puback};

pub struct Subscriber {
    arrived: Arc<AtomicU64>,
    /// While set, each message's way from the publisher is timed.
    measures: Arc<AtomicBool>,
    ends: Arc<Notify>,
    task: JoinHandle<(Latencies, Result<(), WireError>)>,
}

impl Subscriber {
    pub async fn start(client: &Client, filter: &str, qos: u8, watch: Stopwatch) -> Result<Self, Failure> {
        let connected = async {
            let mut session = client.connect().await?;
            session.subscribe(filter, qos).await?;
            Ok::<_, WireError>(session)
        };
        let session = connected.await.map_err(|error| Failure::failed(format!("subscriber: {error}")))?;
        let (arrived, measures) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let ends = Arc::new(Notify::new());
        let task = tokio::spawn(listen(session, arrived.clone(), measures.clone(), ends.clone(), watch));
        Ok(Self { arrived, measures, ends, task })
    }

    pub fn count(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }

    pub fn measure(&self, on: bool) {
        self.measures.store(on, Ordering::Relaxed);
    }

    /// Stops listening; a subscriber that the broker threw out before is an error.
    pub async fn end(self) -> Result<Latencies, Failure> {
        self.ends.notify_one();
        let joined = self.task.await.map_err(Failure::failed)?;
        joined.1.map(|()| joined.0).map_err(|error| Failure::failed(format!("subscriber: {error}")))
    }
}

async fn listen(
    mut session: Session,
    arrived: Arc<AtomicU64>,
    measures: Arc<AtomicBool>,
    ends: Arc<Notify>,
    watch: Stopwatch,
) -> (Latencies, Result<(), WireError>) {
    let mut latencies = Latencies::default();
    loop {
        let packet = tokio::select! {
            packet = session.next() => packet,
            () = ends.notified() => {
                session.close().await;
                return (latencies, Ok(()));
            }
        };
        let mut next = match packet {
            Ok(packet) => Some(packet),
            Err(error) => return (latencies, Err(error)),
        };
        let mut count = 0;
        while let Some(packet) = next {
            if let Packet::Publish { payload, id, .. } = packet {
                count += 1;
                if measures.load(Ordering::Relaxed)
                    && let Some(sent) = sent_ns(&payload)
                {
                    latencies.add_ns(watch.elapsed_ns().saturating_sub(sent));
                }
                if let Some(id) = id {
                    put_puback(&mut session.out, id);
                }
            }
            next = match session.try_next() {
                Ok(next) => next,
                Err(error) => return (latencies, Err(error)),
            };
        }
        arrived.fetch_add(count, Ordering::Relaxed);
        if !session.out.is_empty()
            && let Err(error) = session.flush().await
        {
            return (latencies, Err(error));
        }
    }
}
