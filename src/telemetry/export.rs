//! The task that carries ended spans to the collector: OTLP over HTTP, protobuf, one request at a time.
//!
//! A batch that is not taken is dropped and counted, never tried again: what is traced is an observation, and what waits
//! while the collector is away would only be older.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;
use reqwest::Client;
use reqwest::header::CONTENT_TYPE;
use tokio::sync::mpsc;

use super::span::resource_attribute;
use super::{Inner, Item};
use crate::https_client;

/// For one request, from connecting to the answer.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);
/// How long the first span of a batch waits for others.
const GATHER: Duration = Duration::from_millis(500);
const BATCH: usize = 512;

pub(super) struct Exporter {
    client: Client,
    endpoint: String,
    resource: Resource,
    inner: Arc<Inner>,
    /// The last batch was not taken, which stands in the log.
    is_away: bool,
}

impl Exporter {
    pub(super) fn new(client: Client, endpoint: String, service_name: &str, inner: Arc<Inner>) -> Self {
        let attributes = vec![
            resource_attribute("service.name", service_name.to_owned()),
            resource_attribute("service.version", env!("CARGO_PKG_VERSION").to_owned()),
            // Of this life of the process.
            resource_attribute("service.instance.id", inner.clock.new_id().to_string()),
        ];
        let resource = Resource { attributes, ..Resource::default() };
        Self { client, endpoint, resource, inner, is_away: false }
    }

    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Item>) {
        let mut items = Vec::with_capacity(BATCH);
        while queue.recv_many(&mut items, BATCH).await > 0 {
            let is_last = items.iter().any(|item| matches!(item, Item::Flush(_)));
            if !is_last && items.len() < BATCH {
                tokio::time::sleep(GATHER).await;
                while items.len() < BATCH
                    && let Ok(item) = queue.try_recv()
                {
                    items.push(item);
                }
            }
            let (mut spans, mut flushed) = (Vec::with_capacity(items.len()), Vec::new());
            for item in items.drain(..) {
                match item {
                    Item::Span(span) => spans.push(span.write()),
                    Item::Flush(done) => flushed.push(done),
                }
            }
            self.send(spans).await;
            for done in flushed {
                // Whoever asked may have stopped waiting.
                let _ = done.send(());
            }
        }
    }

    async fn send(&mut self, spans: Vec<Span>) {
        if spans.is_empty() {
            return;
        }
        let count = spans.len() as u64;
        let scope = InstrumentationScope { name: "cardea".into(), ..InstrumentationScope::default() };
        let scope_spans = vec![ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() }];
        let resource_spans =
            vec![ResourceSpans { resource: Some(self.resource.clone()), scope_spans, ..ResourceSpans::default() }];
        let body = ExportTraceServiceRequest { resource_spans }.encode_to_vec();
        let request = self.client.post(&self.endpoint).header(CONTENT_TYPE, "application/x-protobuf").body(body);
        let outcome = match request.send().await {
            Ok(answer) if answer.status().is_success() => Ok(()),
            Ok(answer) => Err(format!("it answered {}", answer.status())),
            Err(error) => Err(https_client::shown(&error)),
        };
        match outcome {
            Ok(()) => {
                self.inner.counters.exported.add(count);
                if std::mem::take(&mut self.is_away) {
                    tracing::info!("the collector of traces takes them again");
                }
            }
            Err(error) => {
                self.inner.counters.not_taken.add(count);
                if !std::mem::replace(&mut self.is_away, true) {
                    tracing::warn!(error, "the collector does not take traces; they are dropped until it does");
                }
            }
        }
    }
}
