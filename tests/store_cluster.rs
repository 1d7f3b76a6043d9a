//! The cluster's store among several gateways, with servers that die, and servers that are not to be trusted.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

mod kit;
mod store_kit;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cardea::clock::{Clock, Stopwatch};
use cardea::config::Config;
use cardea::domain::{Timestamp, VehicleId};
use cardea::store::cluster::migrate::migrate;
use cardea::store::{
    Append, AppendError, ClusterStore, Epoch, Expected, LocalStore, Observation, OpenError, Store, StorePosition,
    Table, verify,
};
use kit::forward::Forward;
use kit::nats::NatsCluster;
use store_kit::*;
use tokio::runtime::Runtime;

struct Lab {
    runtime: Runtime,
    nats: NatsCluster,
}

impl Lab {
    fn new(servers: usize) -> Option<Self> {
        let runtime = Runtime::new().unwrap();
        let nats = runtime.block_on(NatsCluster::start(servers))?;
        Some(Self { runtime, nats })
    }

    fn config(&self, dir: &Path, node: &str, sets: &[&str]) -> Config {
        let sets = sets.iter().map(|set| (*set).to_owned());
        let sets: Vec<String> =
            self.nats.sets().into_iter().chain([format!("cluster.node={node}")]).chain(sets).collect();
        let config =
            cardea::config::parse("", Path::new("cardea.toml"), &sets).unwrap_or_else(|error| panic!("{error}"));
        Config { data: data(dir), ..config }
    }

    fn open(&self, dir: &Path, node: &str) -> Arc<ClusterStore> {
        self.try_open(dir, node, &[]).unwrap_or_else(|error| panic!("{error}"))
    }

    fn try_open(&self, dir: &Path, node: &str, sets: &[&str]) -> Result<Arc<ClusterStore>, OpenError> {
        ClusterStore::open(&self.config(dir, node, sets), Clock::start())
    }
}

fn claim(store: &dyn Store, vehicle: &VehicleId) -> Result<Epoch, AppendError> {
    Runtime::new().unwrap().block_on(store.claim(vehicle))
}

/// The stream's end, once a read is answered again: while the servers elect a leader it is not.
fn newest(store: &dyn Store, stream: &str, after: u64) -> u64 {
    let since = Stopwatch::start();
    loop {
        match store.read(stream, StorePosition(after), 1_000) {
            Ok(records) => return records.last().map_or(after, |record| record.position.0),
            Err(error) => assert!(since.elapsed() < Duration::from_secs(60), "{error}"),
        }
        pause(Duration::from_millis(50));
    }
}

/// Until the copy at this gateway has the record.
fn until_copied(store: &dyn Store, position: u64) {
    let since = Stopwatch::start();
    while !store.tail(StorePosition(position - 1), 1).is_ok_and(|records| !records.is_empty()) {
        assert!(since.elapsed() < Duration::from_secs(30), "record {position} does not arrive");
        pause(Duration::from_millis(2));
    }
}

#[test]
fn gateways_have_the_same_records_rows_and_hashes() {
    let Some(lab) = Lab::new(3) else { return };
    let (one, two) = (scratch(), scratch());
    let (a, b) = (lab.open(one.path(), "a"), lab.open(two.path(), "b"));
    for n in 0..60 {
        let store = if n % 2 == 0 { &a } else { &b };
        wait(store.append(step(&format!("s/{}", n % 3), n))).unwrap();
    }
    until_copied(&*a, 60);
    until_copied(&*b, 60);
    let records = |store: &dyn Store| {
        let tail = store.tail(StorePosition(0), 100).unwrap();
        tail.into_iter().map(|record| (record.position, record.stream, record.hash)).collect::<Vec<_>>()
    };
    assert_eq!(records(&*a), records(&*b));
    assert_eq!(numbers(&*a, "s/1"), numbers(&*b, "s/1"));
    assert_eq!(b.get(Table::Commands, "00000002").unwrap().unwrap().get(), r#"{"stream":"s/2"}"#);
    a.close();
    b.close();
    // One that comes later reads the whole stream, and its chain is the same.
    let three = scratch();
    let c = lab.open(three.path(), "c");
    assert_eq!(c.tail(StorePosition(0), 100).unwrap().len(), 60);
    c.close();
    let hash = |dir: &Path| verify(dir).unwrap().last_hash;
    assert_eq!(hash(one.path()), hash(two.path()));
    assert_eq!(hash(one.path()), hash(three.path()));
}

#[test]
fn of_two_owners_the_newer_writes_and_the_older_is_refused_and_told() {
    let Some(lab) = Lab::new(3) else { return };
    let (one, two) = (scratch(), scratch());
    let (a, b) = (lab.open(one.path(), "a"), lab.open(two.path(), "b"));
    let vehicle: VehicleId = "V-1".parse().unwrap();
    let under = |epoch: Epoch, last: u64, n| Append {
        fence: Some((vehicle.clone(), epoch)),
        expected: Expected::Last(StorePosition(last)),
        ..step("vehicle/V-1", n)
    };
    let first = claim(&*a, &vehicle).unwrap();
    let kept = wait(a.append(under(first, first.0, 1))).unwrap();
    let second = claim(&*b, &vehicle).unwrap();
    assert_eq!(numbers(&*b, "vehicle/V-1"), [1], "who takes over sees all that was promised");
    // The older one need not have heard of it: the engine refuses.
    let late = wait(a.append(under(first, kept.0, 2)));
    assert!(matches!(late, Err(AppendError::Conflict { .. } | AppendError::Fenced)), "{late:?}");
    assert!(wait(b.append(under(second, second.0, 3))).is_ok());
    let lost = lab.runtime.block_on(async { tokio::time::timeout(kit::PATIENCE, a.owners().lost()).await });
    assert_eq!(lost.unwrap().get(&vehicle), Some(&second.0));
    assert!(b.owners().is_ours(&vehicle) && !a.owners().is_ours(&vehicle));
    assert_eq!(numbers(&*b, "vehicle/V-1"), [1, 3]);
}

#[test]
fn an_idempotency_key_is_answered_once_at_whatever_gateways_it_comes() {
    let Some(lab) = Lab::new(3) else { return };
    let (one, two) = (scratch(), scratch());
    let (a, b) = (lab.open(one.path(), "a"), lab.open(two.path(), "b"));
    for round in 0..30 {
        let key = format!("key-{round}");
        let asked = [a.append(keyed("s/a", 2 * round, &key, "b")), b.append(keyed("s/b", 2 * round + 1, &key, "b"))];
        let outcomes: Vec<_> = lab.runtime.block_on(futures_util::future::join_all(asked));
        let answer = match &outcomes[..] {
            [Ok(_), Err(AppendError::Duplicate { answer })] => (answer, 2 * round),
            [Err(AppendError::Duplicate { answer }), Ok(_)] => (answer, 2 * round + 1),
            odd => panic!("{odd:?}"),
        };
        assert_eq!(answer.0.get(), format!("{{\"a\":{}}}", answer.1));
    }
}

#[test]
fn more_questions_for_tracks_than_a_gateway_answers_at_once_are_refused() {
    let Some(lab) = Lab::new(1) else { return };
    let (one, two) = (scratch(), scratch());
    let open =
        |dir: &Path, node| lab.try_open(dir, node, &["cluster.replicas=1", "cluster.accept_unsafe=true"]).unwrap();
    let (a, b) = (open(one.path(), "a"), open(two.path(), "b"));
    let vehicle: VehicleId = "V-1".parse().unwrap();
    for n in 0..2_000 {
        a.observe(Observation { vehicle: vehicle.clone(), at: Timestamp(now().0 - n), signals: raw("{}") });
    }
    let ask = |store: Arc<ClusterStore>| {
        let (vehicle, now) = (vehicle.clone(), now().0);
        std::thread::spawn(move || store.observations(&vehicle, Timestamp(0), Timestamp(now + 1_000), 2_000))
    };
    let since = Stopwatch::start();
    while ask(Arc::clone(&b)).join().unwrap().unwrap().len() < 2_000 {
        assert!(since.elapsed() < Duration::from_secs(30), "the track does not arrive");
    }
    // A machine that is slow to start threads asks one after the other.
    let (mut answered, mut refused) = (0, Vec::new());
    while refused.is_empty() || answered == 0 {
        assert!(since.elapsed() < Duration::from_secs(60), "{answered} are answered and {} refused", refused.len());
        let many: Vec<_> = (0..200).map(|_| ask(Arc::clone(&b))).collect();
        for asked in many {
            match asked.join().unwrap() {
                Ok(_) => answered += 1,
                Err(error) => refused.push(error.to_string()),
            }
        }
    }
    assert!(refused.iter().all(|error| error.contains("too many tracks")), "{refused:?}");
    assert!(ask(b).join().unwrap().is_ok(), "and answered again afterwards");
}

/// A gateway whose servers hear it and do not answer, until the forward is healed; and one that has none of it. Message ids
/// are forgotten so soon that each repeat comes too late for them, as after a gateway that was halted for minutes.
fn forgetful_and_mute(lab: &Lab, one: &Path, two: &Path) -> (Arc<ClusterStore>, Arc<ClusterStore>, Forward) {
    const ONE_COPY: [&str; 2] = ["cluster.replicas=1", "cluster.accept_unsafe=true"];
    let well = lab.try_open(one, "well", &ONE_COPY).unwrap();
    let forward = lab.runtime.block_on(Forward::to(vec![lab.nats.address(0)]));
    let through = lab.nats.sets_through(&[forward.address.port()]);
    let sets: Vec<&str> = through.iter().map(String::as_str).chain(ONE_COPY).collect();
    let mute = lab.try_open(two, "mute", &sets).unwrap();
    lab.runtime.block_on(async {
        let context = async_nats::jetstream::new(lab.nats.client().await);
        let mut stream = context.get_stream("CARDEA").await.unwrap().cached_info().config.clone();
        stream.duplicate_window = Duration::from_millis(200);
        context.update_stream(stream).await.unwrap();
    });
    forward.mute();
    (well, mute, forward)
}

#[test]
fn what_nobody_answered_for_is_stored_once_also_when_its_message_id_is_forgotten() {
    let Some(lab) = Lab::new(1) else { return };
    let (one, two) = (scratch(), scratch());
    let (well, mute, forward) = forgetful_and_mute(&lab, one.path(), two.path());
    let asked = [mute.append(step("any", 1)), mute.append(keyed("keyed", 2, "key", "b"))];
    // The first attempts are given up after 2 s, and sent again.
    pause(Duration::from_secs(3));
    forward.heal();
    let outcomes = lab.runtime.block_on(futures_util::future::join_all(asked));
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert_eq!((numbers(&*well, "any"), numbers(&*well, "keyed")), (vec![1], vec![2]));
    // Not so much as a record that says nothing.
    assert_eq!(well.tail(StorePosition(0), 10).unwrap().len(), 2);
}

#[test]
fn a_key_that_was_answered_elsewhere_is_refused_also_when_its_message_id_is_forgotten() {
    let Some(lab) = Lab::new(1) else { return };
    let (one, two) = (scratch(), scratch());
    let (well, mute, forward) = forgetful_and_mute(&lab, one.path(), two.path());
    wait(well.append(keyed("s", 1, "key", "b"))).unwrap();
    pause(Duration::from_secs(1));
    let repeat = mute.append(keyed("s", 2, "key", "b"));
    let healing = std::thread::spawn(move || {
        pause(Duration::from_secs(3));
        forward.heal();
        forward
    });
    let repeat = wait(repeat);
    assert!(matches!(&repeat, Err(AppendError::Duplicate { answer }) if answer.get() == r#"{"a":1}"#), "{repeat:?}");
    assert_eq!(numbers(&*well, "s"), [1]);
    drop(healing.join().unwrap());
}

#[test]
fn what_is_promised_while_servers_die_is_kept_once_and_in_order() {
    let Some(mut lab) = Lab::new(3) else { return };
    let (one, two) = (scratch(), scratch());
    let (a, b) = (lab.open(one.path(), "a"), lab.open(two.path(), "b"));
    let stores: [Arc<ClusterStore>; 2] = [a, b];
    let ended = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let writers: Vec<_> = (0..8_u64)
        .map(|writer| {
            let (store, ended) = (Arc::clone(&stores[writer as usize % 2]), Arc::clone(&ended));
            std::thread::spawn(move || {
                let stream = format!("s/{writer}");
                let (mut last, mut promised, mut unknown, mut slowest) = (0, Vec::new(), Vec::new(), Duration::ZERO);
                for n in 0.. {
                    if ended.load(std::sync::atomic::Ordering::Relaxed) {
                        break;
                    }
                    let number = writer * 1_000_000 + n;
                    let since = Stopwatch::start();
                    let expected = Expected::Last(StorePosition(last));
                    match wait(store.append(Append { expected, ..step(&stream, number) })) {
                        Ok(position) => {
                            last = position.0;
                            promised.push(number);
                        }
                        Err(AppendError::Unknown(_)) => {
                            unknown.push(number);
                            last = newest(&*store, &stream, last);
                        }
                        Err(AppendError::Full(_)) => pause(Duration::from_millis(20)),
                        // An attempt that nobody knew of came through after all.
                        Err(AppendError::Conflict { actual }) => last = actual.0,
                        Err(error) => panic!("{error}"),
                    }
                    slowest = slowest.max(since.elapsed());
                }
                (stream, last, promised, unknown, slowest)
            })
        })
        .collect();
    for round in 0..4 {
        pause(Duration::from_millis(700));
        let leader = lab.runtime.block_on(lab.nats.until_led("CARDEA"));
        if round % 2 == 0 {
            lab.nats.kill(leader);
            pause(Duration::from_secs(4));
            lab.runtime.block_on(lab.nats.restart(leader));
        } else {
            lab.nats.stop(leader);
            pause(Duration::from_secs(4));
            lab.nats.resume(leader);
        }
    }
    pause(Duration::from_secs(3));
    ended.store(true, std::sync::atomic::Ordering::Relaxed);
    let mut total = 0;
    for writer in writers {
        let (stream, last, promised, unknown, slowest) = writer.join().unwrap();
        // What the other gateway promised may come seconds later, while servers are away.
        until_copied(&*stores[0], last);
        let kept = numbers(&*stores[0], &stream);
        println!("{stream}: {} promised, {} unknown, slowest {slowest:?}", promised.len(), unknown.len());
        assert!(kept.windows(2).all(|pair| pair[0] < pair[1]), "once and in order: {kept:?}");
        let lost: Vec<_> = promised.iter().filter(|number| !kept.contains(number)).collect();
        assert!(lost.is_empty(), "{stream} lost {lost:?}");
        let strange: Vec<_> =
            kept.iter().filter(|number| !promised.contains(number) && !unknown.contains(number)).collect();
        assert!(strange.is_empty(), "{stream} kept what surely was not stored: {strange:?}");
        total += promised.len();
    }
    assert!(total > 1_000, "only {total} were promised");
}

#[test]
fn servers_that_may_lose_records_are_refused_unless_somebody_accepts_it() {
    let runtime = Runtime::new().unwrap();
    let Some(nats) = runtime.block_on(NatsCluster::start_unsynced(1)) else { return };
    let lab = Lab { runtime, nats };
    let dir = scratch();
    let one_copy = ["cluster.replicas=1", "cluster.accept_unsafe=true"];
    let accepted = lab.try_open(dir.path(), "a", &one_copy).unwrap_or_else(|error| panic!("{error}"));
    wait(accepted.append(step("s", 1))).unwrap();
    accepted.close();
    drop(accepted);
    let refused = lab.try_open(scratch().path(), "b", &[]).map(drop).unwrap_err().to_string();
    assert!(refused.contains("does not sync every write"), "{refused}");
    // And where the servers sync, one copy is still one copy.
    let Some(lab) = Lab::new(1) else { return };
    let dir = scratch();
    lab.try_open(dir.path(), "a", &one_copy).unwrap().close();
    let refused = lab.try_open(scratch().path(), "b", &[]).map(drop).unwrap_err().to_string();
    assert!(refused.contains("2 must be there"), "{refused}");
    let one_server = ["cluster.replicas=1", "cluster.accept_unsafe=true"];
    lab.try_open(scratch().path(), "b", &one_server).unwrap().close();
    let stranger = ["cluster.system_user=cardea".to_owned(), lab.nats.sets()[3].replace("cluster.", "cluster.system_")];
    let stranger = [one_copy[0], &stranger[0], &stranger[1]];
    let refused = lab.try_open(scratch().path(), "c", &[&stranger[..], &one_copy[1..]].concat()).map(drop).unwrap_err();
    assert!(refused.to_string().contains("system account"), "{refused}");
}

#[test]
fn a_copy_of_other_records_is_refused_and_nothing_is_touched() {
    let Some(lab) = Lab::new(1) else { return };
    let unsafe_sets = ["cluster.replicas=1", "cluster.accept_unsafe=true"];
    let open = |dir: &Path| lab.try_open(dir, "a", &unsafe_sets);
    // A single machine's journal.
    let alone = scratch();
    let local = LocalStore::open(&data(alone.path()), Clock::start()).unwrap();
    wait(local.append(step("s", 1))).unwrap();
    drop(local);
    let refused = open(alone.path()).map(drop).unwrap_err().to_string();
    assert!(refused.contains("another journal"), "{refused}");
    assert_eq!(verify(alone.path()).unwrap().records, 1);
    // A copy that has more than the stream has now.
    let dir = scratch();
    let store = open(dir.path()).unwrap();
    wait(store.append(step("s", 1))).unwrap();
    until_copied(&*store, 1);
    store.close();
    drop(store);
    let local = LocalStore::open(&data(dir.path()), Clock::start()).unwrap();
    wait(local.append(step("s", 2))).unwrap();
    local.close();
    drop(local);
    let refused = open(dir.path()).map(drop).unwrap_err().to_string();
    assert!(refused.contains("lost what was promised") && refused.contains("cardea migrate"), "{refused}");
    assert_eq!(verify(dir.path()).unwrap().records, 2);
    // One whose newest record says another thing.
    let again = open(scratch().path()).unwrap();
    wait(again.append(step("s", 7))).unwrap();
    again.close();
    let refused = open(dir.path()).map(drop).unwrap_err().to_string();
    assert!(refused.contains("another than in the copy"), "{refused}");
}

#[test]
fn without_any_server_appends_are_surely_refused_and_reads_go_on() {
    let Some(mut lab) = Lab::new(3) else { return };
    let dir = scratch();
    let store = lab.try_open(dir.path(), "a", &["cluster.append_timeout_ms=1000"]).unwrap();
    wait(store.append(step("s", 1))).unwrap();
    assert_eq!(numbers(&*store, "s"), [1]);
    (0..3).for_each(|server| lab.nats.kill(server));
    let mut refused = Vec::new();
    for n in 2..5 {
        refused.push(wait(store.append(step("s", n))).unwrap_err());
    }
    assert!(matches!(refused[2], AppendError::Full("engine")), "{refused:?}");
    assert_eq!(numbers(&*store, "s"), [1]);
    assert!(matches!(claim(&*store, &"V-1".parse().unwrap()), Err(AppendError::Full(_))));
    for server in 0..3 {
        lab.nats.launch(server);
    }
    lab.runtime.block_on(lab.nats.ready());
    let since = Stopwatch::start();
    while wait(store.append(step("s", 9))).is_err() {
        assert!(since.elapsed() < Duration::from_secs(30), "promises are not taken again");
    }
    let kept = numbers(&*store, "s");
    assert!(kept.starts_with(&[1]) && kept.ends_with(&[9]), "{kept:?}");
    assert!(!kept.contains(&4), "what was surely not stored was not stored");
}

#[test]
fn a_single_machines_journal_moves_into_a_cluster_with_its_chain_and_its_answers() {
    let Some(lab) = Lab::new(3) else { return };
    let alone = scratch();
    let local = LocalStore::open(&data(alone.path()), Clock::start()).unwrap();
    for batch in 0..30 {
        let steps = (0..10).map(|n| big_step(&format!("s/{n}"), batch * 10 + n, 3_000)).collect();
        assert!(append_all(&*local, steps).iter().all(Result::is_ok));
    }
    wait(local.append(keyed("k", 1, "key", "b"))).unwrap();
    local.close();
    drop(local);
    let before = verify(alone.path()).unwrap();
    let config = lab.config(alone.path(), "a", &[]);
    let mut told = 0;
    let done = migrate(&config, &mut |_| told += 1).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((done.records, done.sent, told, &done.last_hash), (301, 301, 301, &before.last_hash));
    let again = migrate(&config, &mut |_| panic!("nothing is left to send")).unwrap();
    assert_eq!((again.sent, &again.last_hash), (0, &before.last_hash));
    // The machine that was alone is the first gateway, and one that comes has the same chain.
    let other = scratch();
    let (a, b) = (lab.open(alone.path(), "a"), lab.open(other.path(), "b"));
    assert_eq!(numbers(&*b, "s/3"), (0..30).map(|batch| batch * 10 + 3).collect::<Vec<u64>>());
    let repeat = wait(b.append(keyed("k", 2, "key", "b")));
    assert!(matches!(repeat, Err(AppendError::Duplicate { .. })), "{repeat:?}");
    assert_eq!(wait(b.append(step("s/3", 9_999))).unwrap().0, 302);
    until_copied(&*a, 302);
    a.close();
    b.close();
    let hash = |dir: &Path| verify(dir).unwrap().last_hash;
    assert_eq!(hash(alone.path()), hash(other.path()));
    assert_eq!(verify(other.path()).unwrap().journal, before.journal);
    // Another machine's journal cannot follow it in.
    let second = scratch();
    let local = LocalStore::open(&data(second.path()), Clock::start()).unwrap();
    wait(local.append(step("s", 1))).unwrap();
    drop(local);
    let refused = migrate(&lab.config(second.path(), "c", &[]), &mut |_| {}).unwrap_err().to_string();
    assert!(refused.contains("one machine only"), "{refused}");
}

#[test]
fn servers_that_lost_everything_are_given_back_what_a_copy_has() {
    let Some(lab) = Lab::new(3) else { return };
    let dir = scratch();
    let store = lab.open(dir.path(), "a");
    for n in 0..50 {
        wait(store.append(step("s", n))).unwrap();
    }
    let vehicle: VehicleId = "V-1".parse().unwrap();
    claim(&*store, &vehicle).unwrap();
    until_copied(&*store, 51);
    store.close();
    drop(store);
    let before = verify(dir.path()).unwrap();
    let Some(anew) = Lab::new(3) else { return };
    let done = migrate(&anew.config(dir.path(), "a", &[]), &mut |_| {}).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((done.sent, &done.last_hash), (51, &before.last_hash));
    let store = anew.open(dir.path(), "a");
    assert_eq!(numbers(&*store, "s").len(), 50);
    assert!(wait(store.append(step("s", 50))).is_ok());
}
