//! Notifiers of several gateways over one store: one tells people at a time, goes on where the other was, and misses nothing.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cardea::actors::notifier::{NotifierError, NotifierHandle};
use cardea::clock::Clock;
use cardea::config::{self, Data};
use cardea::domain::{Principal, Timestamp};
use cardea::store::{Append, Expected, LocalStore, Order, Store, Table};
use serde_json::json;
use serde_json::value::to_raw_value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// What came to each path, by the number in the alert's text.
type Heard = Arc<Mutex<Vec<(String, u32)>>>;

async fn receiver() -> (u16, Heard) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, heard) = (listener.local_addr().unwrap().port(), Heard::default());
    let told = Arc::clone(&heard);
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let told = Arc::clone(&told);
            tokio::spawn(async move {
                let mut text = String::new();
                let mut bytes = [0; 4_096];
                while let Ok(count @ 1..) = socket.read(&mut bytes).await {
                    text.push_str(&String::from_utf8_lossy(&bytes[..count]));
                    // The text comes with the body, and its number ends with a sign of its own.
                    let Some((_, rest)) = text.split_once("alert number ") else { continue };
                    let Some((number, _)) = rest.split_once('!') else { continue };
                    let path = text.split_whitespace().nth(1).unwrap().to_owned();
                    told.lock().unwrap().push((path, number.parse().unwrap()));
                    let _ = socket.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").await;
                    return;
                }
            });
        }
    });
    (port, heard)
}

struct Node {
    notifier: NotifierHandle,
    is_mine: Arc<AtomicBool>,
}

impl Node {
    async fn start(store: &Arc<LocalStore>, port: u16, name: &str, is_mine: bool) -> Self {
        let webhook = config::Webhook {
            name: "desk".into(),
            url: format!("http://127.0.0.1:{port}/{name}"),
            secrets: vec!["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".into()],
            types: Vec::new(),
        };
        let config = config::Notifier { webhooks: vec![webhook], ..config::Notifier::default() };
        let is_mine = Arc::new(AtomicBool::new(is_mine));
        let asked = Arc::clone(&is_mine);
        let turn = Arc::new(move || asked.load(Ordering::Relaxed));
        let notifier = NotifierHandle::start(&config, store.clone(), Clock::start(), turn).await.unwrap();
        Self { notifier, is_mine }
    }

    fn set(&self, is_mine: bool) {
        self.is_mine.store(is_mine, Ordering::Relaxed);
    }
}

async fn open_alerts(store: &Arc<LocalStore>, numbers: std::ops::Range<u32>) {
    for number in numbers {
        let alert = json!({"event": "alert_opened", "alert": {
            "alert_id": format!("00000000-0000-0000-0000-{number:012}"), "kind": "card_declined", "severity": "warning",
            "state": "open", "text": format!("alert number {number}!"), "opened_at": Timestamp(1_000)}});
        let step = Append {
            stream: format!("alert/{number}"),
            expected: Expected::Any,
            fence: None,
            at: Timestamp(1_000),
            by: Principal::gateway(),
            idempotency: None,
            events: vec![to_raw_value(&alert).unwrap()],
            view: Vec::new(),
        };
        store.append(step).await.unwrap();
    }
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let mut looks = tokio::time::interval(Duration::from_millis(10));
    for _ in 0..1_500 {
        looks.tick().await;
        if is_so() {
            return;
        }
    }
    panic!("{what} did not come");
}

fn by(heard: &Heard, path: &str) -> BTreeSet<u32> {
    heard.lock().unwrap().iter().filter(|(at, _)| at == path).map(|(_, number)| *number).collect()
}

/// Records up to here were told, as the store knows.
fn cursor(store: &LocalStore) -> u64 {
    let row = store.get(Table::Notifications, "cursor").unwrap();
    let row: Option<serde_json::Value> = row.map(|row| serde_json::from_str(row.get()).unwrap());
    row.map_or(0, |row| row["position"].as_u64().unwrap())
}

fn has_waiting(store: &LocalStore) -> bool {
    !store.scan(Table::Notifications, "waiting/", None, 1, Order::Ascending).unwrap().rows.is_empty()
}

#[actix::test]
async fn one_gateway_tells_people_at_a_time_and_the_next_goes_on_where_it_was() {
    rustls::crypto::ring::default_provider().install_default().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let data = Data { dir: dir.path().to_owned(), min_free_mib: 1, segment_mib: 1, ..Data::default() };
    let store = LocalStore::open(&data, Clock::start()).unwrap();
    let (port, heard) = receiver().await;
    let one = Node::start(&store, port, "one", true).await;
    let other = Node::start(&store, port, "other", false).await;
    // Whoever takes over begins with the cursor and with what was under way when that was kept.
    let kept = async |what: &str| {
        let last = store.health().durable.0;
        until(what, || cursor(&store) >= last && !has_waiting(&store)).await;
    };

    open_alerts(&store, 0..5).await;
    until("the first five", || by(&heard, "/one").len() == 5).await;
    kept("the checkpoint").await;
    let refused = other.notifier.retry(uuid::Uuid::nil()).await;
    assert_eq!(refused, Err(NotifierError::Elsewhere));
    assert!(by(&heard, "/other").is_empty());

    one.set(false);
    other.set(true);
    open_alerts(&store, 5..10).await;
    until("the next five", || by(&heard, "/other").len() == 5).await;
    assert_eq!(by(&heard, "/other"), (5..10).collect(), "what was told is not told again");
    kept("the other's checkpoint").await;
    assert_eq!(by(&heard, "/one"), (0..5).collect());

    // Back, with nothing left of what it knew before.
    other.set(false);
    one.set(true);
    open_alerts(&store, 10..12).await;
    until("two more", || by(&heard, "/one").contains(&11)).await;
    assert_eq!(by(&heard, "/one"), (0..5).chain(10..12).collect());

    // Both believe that it is theirs: twice at worst, never less, and what is kept only moves on.
    other.set(true);
    let mut newest = 0;
    for number in 12..60 {
        open_alerts(&store, number..number + 1).await;
        until("each of them", || by(&heard, "/one").contains(&number) || by(&heard, "/other").contains(&number)).await;
        let now = cursor(&store);
        assert!(now >= newest, "{now} after {newest}");
        newest = now;
    }
    one.set(false);
    open_alerts(&store, 60..65).await;
    until("the last five", || by(&heard, "/other").is_superset(&(60..65).collect())).await;
    kept("the last checkpoint").await;
    let all: BTreeSet<u32> = by(&heard, "/one").union(&by(&heard, "/other")).copied().collect();
    assert_eq!(all, (0..65).collect());
    for node in [one, other] {
        node.notifier.stop().await;
    }
    store.close();
}
