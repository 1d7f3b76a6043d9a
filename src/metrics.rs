//! Numbers for `/metrics`: one prometheus registry, fed at scrape time by whoever counts.
//!
//! Modules count with plain atomics ([`Count`], [`Level`]) and hand a closure to [`Metrics::register`]; so none of
//! them needs to know Prometheus. Nothing is computed between scrapes.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

/// A number that only rises.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    pub fn inc(&self) {
        self.add(1);
    }

    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that rises and falls.
#[derive(Debug, Default)]
pub struct Level(AtomicI64);

impl Level {
    pub fn add(&self, change: i64) {
        self.0.fetch_add(change, Ordering::Relaxed);
    }

    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How long something takes, in fixed steps from 0.1 ms to 30 s.
#[derive(Debug, Default)]
pub struct Timing {
    steps: [AtomicU64; Self::STEPS_S.len()],
    beyond: AtomicU64,
    sum_us: AtomicU64,
}

impl Timing {
    const STEPS_S: [f64; 17] =
        [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

    pub fn record(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let step = Self::STEPS_S.iter().position(|step| seconds <= *step);
        step.map_or(&self.beyond, |step| &self.steps[step]).fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn value(&self) -> Value {
        let counts = self.steps.iter().chain([&self.beyond]).map(|count| count.load(Ordering::Relaxed));
        let steps = Self::STEPS_S.into_iter().chain([f64::INFINITY]);
        Value::Histogram { sum: self.sum_us.load(Ordering::Relaxed) as f64 / 1e6, buckets: steps.zip(counts).collect() }
    }
}

/// Signs of life of threads that come and go: each that beats is there, under its name, with what it counted.
#[derive(Debug, Default, Clone)]
pub struct Pulses(Arc<Mutex<Vec<Beating>>>);

type Beating = (&'static str, Weak<Count>);

/// A part of the gateway with a count that rises as long as it turns.
pub type Turns = (String, u64);

impl Pulses {
    /// How often a thread with nothing to do shows that it could.
    const BEAT: Duration = Duration::from_millis(200);

    /// Beats until it is dropped, which a thread's end does: to be spawned on the thread that shall be seen.
    pub fn beat(&self, name: &'static str) -> impl Future<Output = ()> + Send + 'static {
        let count = Arc::<Count>::default();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(_, count)| count.strong_count() > 0);
        all.push((name, Arc::downgrade(&count)));
        async move {
            let mut due = tokio::time::interval(Self::BEAT);
            due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                due.tick().await;
                count.inc();
            }
        }
    }

    /// Of those that are there: `name-0`, `name-1`, …
    pub fn turns(&self) -> Vec<Turns> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut turns, mut numbers) = (Vec::new(), HashMap::<&str, usize>::new());
        for (name, count) in all.iter() {
            let Some(count) = count.upgrade() else { continue };
            let number = numbers.entry(name).or_default();
            turns.push((format!("{name}-{number}"), count.get()));
            *number += 1;
        }
        turns
    }
}

/// One number at scrape time. Counters are named without `_total`; labels are `(name, value)`.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Counter(u64),
    Gauge(f64),
    /// Upper bound and count of each bucket, the last with `f64::INFINITY`; not cumulative.
    Histogram {
        sum: f64,
        buckets: Vec<(f64, u64)>,
    },
}

/// One metric family's readings: `cardea_<name>` with one reading for each set of labels.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    pub name: &'static str,
    pub help: &'static str,
    pub values: Vec<(Vec<(&'static str, String)>, Value)>,
}

impl Reading {
    pub fn counter(name: &'static str, help: &'static str, value: u64) -> Self {
        Self { name, help, values: vec![(Vec::new(), Value::Counter(value))] }
    }

    pub fn gauge(name: &'static str, help: &'static str, value: f64) -> Self {
        Self { name, help, values: vec![(Vec::new(), Value::Gauge(value))] }
    }

    pub fn timing(name: &'static str, help: &'static str, timing: &Timing) -> Self {
        Self { name, help, values: vec![(Vec::new(), timing.value())] }
    }

    /// One counter for each value of one label.
    pub fn counters(
        name: &'static str,
        help: &'static str,
        label: &'static str,
        values: impl IntoIterator<Item = (String, u64)>,
    ) -> Self {
        let values = values.into_iter().map(|(key, value)| (vec![(label, key)], Value::Counter(value))).collect();
        Self { name, help, values }
    }
}

type Source = Box<dyn Fn() -> Vec<Reading> + Send + Sync>;

/// The registry; cheap to clone.
#[derive(Clone, Default)]
pub struct Metrics(Arc<Sources>);

#[derive(Default)]
struct Sources(Mutex<Vec<Source>>);

impl Metrics {
    pub fn new() -> Self {
        Self::default()
    }

    /// `source` is called at each scrape; it must not block.
    pub fn register(&self, source: impl Fn() -> Vec<Reading> + Send + Sync + 'static) {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(source));
    }

    /// Everything registered, as it is now.
    pub fn read(&self) -> Vec<Reading> {
        let sources = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        sources.iter().flat_map(|source| source()).collect()
    }

    /// The OpenMetrics text of everything registered.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut registry = Registry::with_prefix("cardea");
        registry.register_collector(Box::new(Scrape(self.0.clone())));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry)?;
        Ok(text)
    }
}

struct Scrape(Arc<Sources>);

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scrape")
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let sources = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        for reading in sources.iter().flat_map(|source| source()) {
            encode_reading(&mut encoder, &reading)?;
        }
        Ok(())
    }
}

fn encode_reading(encoder: &mut DescriptorEncoder<'_>, reading: &Reading) -> Result<(), fmt::Error> {
    let Some((_, first)) = reading.values.first() else { return Ok(()) };
    let kind = match first {
        Value::Counter(_) => MetricType::Counter,
        Value::Gauge(_) => MetricType::Gauge,
        Value::Histogram { .. } => MetricType::Histogram,
    };
    let mut family = encoder.encode_descriptor(reading.name, reading.help, None, kind)?;
    for (labels, value) in &reading.values {
        if labels.is_empty() {
            // An empty family would write `{}`, which older scrapers do not read.
            encode_value(&mut family, value)?;
        } else {
            let labels: Vec<(&str, &str)> = labels.iter().map(|(name, value)| (*name, value.as_str())).collect();
            encode_value(&mut family.encode_family(&labels)?, value)?;
        }
    }
    Ok(())
}

fn encode_value(encoder: &mut MetricEncoder<'_>, value: &Value) -> Result<(), fmt::Error> {
    match value {
        Value::Counter(count) => encoder.encode_counter::<NoLabelSet, _, u64>(count, None),
        Value::Gauge(level) => encoder.encode_gauge(level),
        Value::Histogram { sum, buckets } => {
            let count = buckets.iter().map(|(_, count)| count).sum();
            encoder.encode_histogram::<NoLabelSet>(*sum, count, buckets, None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_shows_each_reading_with_its_labels() {
        let metrics = Metrics::new();
        metrics.register(|| {
            vec![
                Reading::counters("http_requests", "Requests", "status", [("200".into(), 3), ("404".into(), 1)]),
                Reading::gauge("queue_len", "Waiting", 7.0),
            ]
        });
        let text = metrics.encode().unwrap();
        assert!(text.contains("cardea_http_requests_total{status=\"200\"} 3"), "{text}");
        assert!(text.contains("cardea_http_requests_total{status=\"404\"} 1"), "{text}");
        assert!(text.contains("cardea_queue_len 7.0"), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn a_timing_is_a_cumulative_histogram() {
        let metrics = Metrics::new();
        let timing = Arc::new(Timing::default());
        for ms in [1, 1, 40, 60_000] {
            timing.record(Duration::from_millis(ms));
        }
        metrics.register(move || vec![Reading::timing("answer_seconds", "Answers", &timing)]);
        let text = metrics.encode().unwrap();
        assert!(text.contains("cardea_answer_seconds_bucket{le=\"0.001\"} 2"), "{text}");
        assert!(text.contains("cardea_answer_seconds_bucket{le=\"0.05\"} 3"), "{text}");
        assert!(text.contains("cardea_answer_seconds_bucket{le=\"+Inf\"} 4"), "{text}");
        assert!(text.contains("cardea_answer_seconds_count 4"), "{text}");
        let sum = text.lines().find_map(|line| line.strip_prefix("cardea_answer_seconds_sum "));
        let sum: f64 = sum.and_then(|sum| sum.parse().ok()).expect("a sum");
        assert!((sum - 60.042).abs() < 1e-9, "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_thread_that_ended_is_no_longer_there() {
        let pulses = Pulses::default();
        let first = tokio::spawn(pulses.beat("http"));
        tokio::spawn(pulses.beat("http"));
        tokio::time::sleep(Pulses::BEAT * 3).await; // virtual time
        let turns = pulses.turns();
        assert_eq!(turns.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["http-0", "http-1"]);
        assert!(turns.iter().all(|(_, count)| *count >= 3), "{turns:?}");
        first.abort();
        assert!(first.await.is_err());
        assert_eq!(pulses.turns().len(), 1);
    }

    #[test]
    fn what_is_labelled_by_a_caller_cannot_break_the_text() {
        let metrics = Metrics::new();
        metrics.register(|| vec![Reading::counters("x", "X", "name", [("a\"b\nc\\".into(), 1)])]);
        assert!(metrics.encode().unwrap().contains(r#"name="a\"b\nc\\""#));
    }
}
