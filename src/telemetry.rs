//! Traces for an OpenTelemetry collector: what became of one request, from HTTP through the vehicle's actor and the journal
//! to the car's own word. HTTP opens a trace, the fleet carries it on, and whoever ends a span hands it over here.
//!
//! The collector's messages are OpenTelemetry's own (`opentelemetry-proto`); its SDK is left out, since it reads a clock of
//! its own, exports on a thread that has no reactor for our one HTTP client, and tells nobody how much it dropped.
//!
//! Nobody ever waits for it: what does not fit into the queue, or is not taken by the collector, is dropped and counted.
//! Off (no `telemetry.endpoint`) it is one look at a `None`.

mod export;
mod span;

use std::borrow::Cow;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::clock::Clock;
use crate::config;
use crate::https_client;
use crate::metrics::{Count, Metrics, Reading};
use export::Exporter;
pub use span::{Attribute, Kind, SpanContext};
use span::{Span, random};

/// Ended spans that wait for the collector: at 300 bytes each, what a busy gateway makes in some seconds.
const QUEUE: usize = 8_192;
/// How long the end of the gateway waits for the last spans to leave.
const LAST: Duration = Duration::from_secs(2);

tokio::task_local! {
    static CURRENT: SpanContext;
}

/// The way to the collector; cheap to clone.
#[derive(Clone, Default)]
pub struct Telemetry(Option<Arc<Inner>>);

struct Inner {
    queue: mpsc::Sender<Item>,
    clock: Clock,
    /// Of `u64::MAX`: a random number below it is traced.
    sampled_below: u64,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Counters {
    exported: Count,
    queue_full: Count,
    not_taken: Count,
}

/// What goes to the exporter.
enum Item {
    Span(Box<Span>),
    /// Everything before it is to be sent now.
    Flush(oneshot::Sender<()>),
}

/// A span that is under way. Dropped without [`Telemetry::end`] it was never there.
#[derive(Debug)]
pub struct Open {
    context: SpanContext,
    parent: Option<[u8; 8]>,
    began_ns: u64,
}

impl Open {
    pub fn context(&self) -> SpanContext {
        self.context
    }

    /// Runs what belongs to the span: [`current`] gives it there. Not in tasks that are spawned from there.
    pub fn scope<F: Future>(&self, work: F) -> impl Future<Output = F::Output> {
        CURRENT.scope(self.context, work)
    }
}

/// The span that this task works for.
pub fn current() -> Option<SpanContext> {
    CURRENT.try_with(|context| *context).ok()
}

impl Telemetry {
    /// Starts the export on the running system, if the config wants any. The error is for the operator.
    pub fn start(config: &config::Telemetry, clock: Clock) -> Result<Self, String> {
        let Some(endpoint) = &config.endpoint else { return Ok(Self::default()) };
        let client = https_client::build(config.ca.as_deref(), export::TIMEOUT)?;
        let (queue, waiting) = mpsc::channel(QUEUE);
        // The whole range of a u64 is one more than it can hold, so that 1.0 is told apart below.
        let sampled_below = (config.sample_ratio * u64::MAX as f64) as u64;
        let inner = Arc::new(Inner { queue, clock, sampled_below, counters: Counters::default() });
        let exporter = Exporter::new(client, endpoint.clone(), &config.service_name, Arc::clone(&inner));
        tokio::spawn(exporter.run(waiting));
        Ok(Self(Some(inner)))
    }

    /// Opens the span of a request. A caller that sends a `traceparent` decides whether it is traced.
    pub fn request(&self, traceparent: Option<&str>) -> Option<Open> {
        let inner = self.0.as_ref()?;
        let (trace, parent) = match traceparent.and_then(SpanContext::parse) {
            Some((context, is_sampled)) => is_sampled.then_some((context.trace, Some(context.span)))?,
            None => {
                let is_sampled = u64::from_be_bytes(random()?) <= inner.sampled_below && inner.sampled_below > 0;
                (is_sampled.then(random)??, None)
            }
        };
        Some(Open { context: SpanContext { trace, span: random()? }, parent, began_ns: inner.clock.unix_ns() })
    }

    /// Opens a span within another one.
    pub fn child(&self, of: Option<SpanContext>) -> Option<Open> {
        let (inner, of) = (self.0.as_ref()?, of?);
        let context = SpanContext { trace: of.trace, span: random()? };
        Some(Open { context, parent: Some(of.span), began_ns: inner.clock.unix_ns() })
    }

    /// Hands an ended span over; never waits.
    pub fn end(
        &self,
        open: Open,
        kind: Kind,
        name: impl Into<Cow<'static, str>>,
        attributes: Vec<Attribute>,
        failed: bool,
    ) {
        let Some(inner) = &self.0 else { return };
        let Open { context, parent, began_ns } = open;
        let ended_ns = inner.clock.unix_ns();
        let span = Span { context, parent, kind, name: name.into(), began_ns, ended_ns, attributes, failed };
        if inner.queue.try_send(Item::Span(Box::new(span))).is_err() {
            inner.counters.queue_full.inc();
        }
    }

    /// Sends what waits, for the end of the process.
    pub async fn finish(&self) {
        let Some(inner) = &self.0 else { return };
        let (done, is_done) = oneshot::channel();
        let last = async {
            if inner.queue.send(Item::Flush(done)).await.is_ok() {
                // The exporter is gone otherwise, and so is what waited.
                let _ = is_done.await;
            }
        };
        if tokio::time::timeout(LAST, last).await.is_err() {
            tracing::debug!("the last spans were not taken in time");
        }
    }

    /// Shows at `/metrics` what was sent and what was dropped.
    pub fn register(&self, metrics: &Metrics) {
        let Some(inner) = self.0.clone() else { return };
        metrics.register(move || {
            let Counters { exported, queue_full, not_taken } = &inner.counters;
            let dropped = [("queue".to_owned(), queue_full.get()), ("collector".to_owned(), not_taken.get())];
            let waiting = QUEUE - inner.queue.capacity();
            vec![
                Reading::gauge("telemetry_spans_waiting", "Spans that wait for the collector", waiting as f64),
                Reading::counter("telemetry_spans_exported", "Spans that the collector took", exported.get()),
                Reading::counters("telemetry_spans_dropped", "Spans dropped, by what had no room", "why", dropped),
            ]
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn telemetry(sample_ratio: f64) -> Telemetry {
        let config = config::Telemetry {
            // Nobody is there: spans are made all the same, and dropped.
            endpoint: Some("http://127.0.0.1:9/v1/traces".into()),
            sample_ratio,
            ..config::Telemetry::default()
        };
        // Whichever test comes first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Telemetry::start(&config, Clock::start()).expect("it starts")
    }

    const SAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[tokio::test]
    async fn a_caller_decides_and_else_the_ratio() {
        let (all, none) = (telemetry(1.0), telemetry(0.0));
        for telemetry in [&all, &none] {
            let open = telemetry.request(Some(SAMPLED)).expect("the caller wants it");
            assert_eq!(hex::encode(open.context.trace), "4bf92f3577b34da6a3ce929d0e0e4736");
            assert_eq!(open.parent.map(hex::encode).as_deref(), Some("00f067aa0ba902b7"));
            assert!(telemetry.request(Some(&SAMPLED.replace("-01", "-00"))).is_none(), "the caller does not want it");
        }
        assert!(all.request(None).is_some_and(|open| open.parent.is_none()));
        assert!(all.request(Some("nonsense")).is_some());
        assert!(none.request(None).is_none());
        let some = telemetry(0.5);
        let traced = (0..1_000).filter(|_| some.request(None).is_some()).count();
        assert!((350..650).contains(&traced), "{traced} of 1000");
    }

    #[tokio::test]
    async fn off_it_does_nothing() {
        let off = Telemetry::default();
        assert!(off.request(Some(SAMPLED)).is_none());
        assert!(off.child(Some(SpanContext { trace: [1; 16], span: [1; 8] })).is_none());
        off.finish().await;
    }

    #[tokio::test]
    async fn what_has_no_room_is_dropped_and_counted() {
        let telemetry = telemetry(1.0);
        // Nothing runs in between that could make room.
        for _ in 0..QUEUE + 10 {
            let open = telemetry.request(None).expect("sampled");
            telemetry.end(open, Kind::Server, "GET /", Vec::new(), false);
        }
        let counters = &telemetry.0.as_ref().expect("on").counters;
        assert_eq!(counters.queue_full.get(), 10);
        // One that is not there drops the rest, and nobody waits for it.
        telemetry.finish().await;
        assert_eq!((counters.not_taken.get(), counters.exported.get()), (QUEUE as u64, 0));
    }

    #[tokio::test]
    async fn a_span_is_known_within_its_scope_only() {
        let telemetry = telemetry(1.0);
        let open = telemetry.request(None).expect("sampled");
        assert_eq!(open.scope(async { current() }).await, Some(open.context()));
        assert_eq!(current(), None);
    }
}
