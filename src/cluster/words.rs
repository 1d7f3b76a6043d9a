//! Short words that each gateway says to all others: what callers spent, answers that are not on record yet. A word may be
//! lost; whoever says or hears one must be right without it.

use std::sync::Arc;

use futures_util::StreamExt;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::{Cluster, Inner, subscribe};

/// Words that may wait to be said.
const WAITING_MAX: usize = 4_096;

/// Says words on one subject; cheap to clone, never blocks.
#[derive(Clone)]
pub struct Speaker {
    inner: Arc<Inner>,
    out: Sender<Vec<u8>>,
}

impl Speaker {
    pub fn say(&self, word: Vec<u8>) {
        if self.out.try_send(word).is_err() {
            self.inner.counters.words_dropped.inc();
        }
    }
}

impl Cluster {
    /// A subject that every gateway speaks and hears; `take` is called with each word of the others. `None` at the end.
    pub fn speak(&self, subject: &str, take: impl Fn(&[u8]) + Send + Sync + 'static) -> Option<Speaker> {
        let inner = &self.0;
        let runtimes = inner.runtimes();
        let runtime = &runtimes.as_ref()?.rest;
        let (out, waiting) = channel(WAITING_MAX);
        let subject = format!("{}.{subject}", inner.prefix);
        runtime.spawn(say(Arc::clone(inner), format!("{subject}.{}", inner.node), waiting));
        runtime.spawn(hear(Arc::clone(inner), subject, take));
        Some(Speaker { inner: Arc::clone(inner), out })
    }
}

async fn say(inner: Arc<Inner>, subject: String, mut waiting: Receiver<Vec<u8>>) {
    while let Some(word) = waiting.recv().await {
        if !inner.is_connected() || inner.client.publish(subject.clone(), word.into()).await.is_err() {
            inner.counters.words_dropped.inc();
        }
    }
}

async fn hear(inner: Arc<Inner>, subject: String, take: impl Fn(&[u8])) {
    let own = format!("{subject}.{}", inner.node);
    loop {
        let mut words = subscribe(&inner, format!("{subject}.*")).await;
        while let Some(word) = words.next().await {
            if word.subject.as_str() != own {
                take(&word.payload);
            }
        }
    }
}
