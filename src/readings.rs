//! What each part counts, under the names of `/metrics`. The parts keep plain atomics and know no metric names.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::actors::feed::FeedCounters;
use crate::actors::fleet::FleetHandle;
use crate::cluster::{Cluster, Counters};
use crate::metrics::{Pulses, Reading, Turns, Value};
use crate::mqtt::{BridgeMetrics, Ignored, MqttMetrics, Reason};
use crate::store::Store;
use crate::store::local::LocalStore;
use crate::store::{SYNC_BUCKETS_US, StoreMetrics};

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn gauge(name: &'static str, help: &'static str, value: u64) -> Reading {
    // Exact up to 2^53, which no level here reaches.
    Reading::gauge(name, help, value as f64)
}

/// What turns while the gateway is well, with a count of each part's turns.
pub type Life = Arc<dyn Fn() -> Vec<Turns> + Send + Sync>;

/// Everything that must turn: the committer, the threads of vehicle actors, the routers, and whoever beats in `pulses`.
pub fn life(
    store: &Arc<LocalStore>,
    fleet: &FleetHandle,
    routers: impl Fn() -> Vec<Turns> + Send + Sync + 'static,
    pulses: Pulses,
) -> Life {
    let (store, fleet) = (Arc::clone(store), fleet.clone());
    Arc::new(move || {
        let mut turns = vec![("committer".to_owned(), load(&store.metrics().committer_turns))];
        turns.extend(fleet.sweeps().enumerate().map(|(index, sweeps)| (format!("vehicles-{index}"), sweeps)));
        turns.extend(routers());
        turns.extend(pulses.turns());
        turns
    })
}

/// Of each part, whether it turns.
pub fn turns(life: &Life) -> Vec<Reading> {
    vec![Reading::counters("turns", "Turns of each part, which an idle one takes too", "part", life())]
}

/// The gateways of a cluster among themselves.
pub fn cluster(cluster: &Cluster) -> Vec<Reading> {
    let Counters {
        calls_sent,
        calls_failed,
        calls_served,
        vehicles_lost,
        changes_heard,
        changes_dropped,
        words_dropped,
    } = cluster.counters();
    let counter = Reading::counter;
    vec![
        gauge("cluster_gateways", "Living gateways, this one included", cluster.living() as u64),
        counter("cluster_calls_sent", "Requests for vehicles that another gateway has", calls_sent.get()),
        counter("cluster_calls_failed", "Of them, without an answer", calls_failed.get()),
        counter("cluster_calls_served", "Requests of other gateways for vehicles here", calls_served.get()),
        counter("cluster_vehicles_lost", "Vehicles here that another gateway took", vehicles_lost.get()),
        counter("cluster_changes_heard", "Changes at other gateways for consoles here", changes_heard.get()),
        counter(
            "cluster_words_dropped",
            "Spent rates and early answers that others did not hear of",
            words_dropped.get(),
        ),
        counter("cluster_changes_dropped", "Changes lost on the way between gateways", changes_dropped.get()),
    ]
}

/// The store: promises, the disk, the view, the track.
pub fn store(store: &dyn Store, counted: &StoreMetrics) -> Vec<Reading> {
    let health = store.health();
    let counter = Reading::counter;
    let mut readings = vec![
        gauge("store_queue", "Appends that wait for the committer", health.queue_len as u64),
        gauge("store_durable_position", "Newest durable record", health.durable.0),
        gauge("store_applied_position", "Newest record in the view", health.applied.0),
        gauge("store_refusing", "1 while promises are refused", u64::from(health.refusing.is_some())),
        gauge("store_view_broken", "1 while queries are unavailable", u64::from(health.view_problem.is_some())),
        gauge("store_batch_max", "Records in the largest batch so far", load(&counted.batch_max)),
        counter("store_appends", "Records made durable", load(&counted.appends)),
        counter("store_batches", "Batches written", load(&counted.batches)),
        counter("store_journal_bytes", "Bytes written to the journal", load(&counted.journal_bytes)),
        counter("store_conflicts", "Appends refused: the stream had moved on", load(&counted.conflicts)),
        counter(
            "store_broken_promises",
            "Records that the cluster's engine acknowledged and lost",
            load(&counted.broken_promises),
        ),
        counter("store_fenced", "Appends refused: a newer claim exists", load(&counted.fenced)),
        counter("store_duplicates", "Appends answered from an idempotency key", load(&counted.duplicates)),
        counter("store_view_waits", "Batches that waited for the view in vain", load(&counted.view_waits)),
        counter("store_head_errors", "Head file writes that failed", load(&counted.head_errors)),
        counter("store_answers_forgotten", "Idempotency answers beyond their bound", load(&counted.answers_forgotten)),
        counter("store_streams_forgotten", "Stream positions beyond their bound", load(&counted.streams_forgotten)),
        counter("store_view_rebuilds", "Times the view was made anew", load(&counted.view_rebuilds)),
        counter("store_view_errors", "Times the view failed", load(&counted.view_errors)),
        gauge("store_view_unflushed", "Records in the view and not on its disk", load(&counted.view_unflushed)),
        counter("store_reads_unavailable", "Reads that found no current view", load(&counted.reads_unavailable)),
        counter("store_snapshots", "Snapshots written", load(&counted.snapshots)),
        counter("store_snapshot_errors", "Snapshots that failed", load(&counted.snapshot_errors)),
        counter("track_points", "Track points taken", load(&counted.observed)),
        counter("track_dropped", "Track points dropped: queue or disk full", load(&counted.track_dropped)),
        counter("track_segments_deleted", "Track segments past their retention", load(&counted.track_segments_deleted)),
        counter("track_errors", "Track writes that failed", load(&counted.track_errors)),
    ];
    readings.push(Reading::counters(
        "store_refused",
        "Appends refused, by what was full",
        "full",
        [("queue".into(), load(&counted.queue_refused)), ("disk".into(), load(&counted.disk_refused))],
    ));
    readings.push(Reading::timing("store_append_seconds", "From an append to its being durable", &counted.promised));
    readings.push(syncs(counted));
    readings
}

/// How long fdatasync takes: the floor under every promise.
fn syncs(counted: &StoreMetrics) -> Reading {
    let bounds = SYNC_BUCKETS_US.iter().map(|us| *us as f64 / 1e6).chain([f64::INFINITY]);
    let buckets = bounds.zip(counted.sync_buckets.iter().map(load)).collect();
    let histogram = Value::Histogram { sum: load(&counted.sync_us_total) as f64 / 1e6, buckets };
    Reading { name: "store_sync_seconds", help: "Time of an fdatasync", values: vec![(Vec::new(), histogram)] }
}

/// The vehicles' actors.
pub fn fleet(fleet: &FleetHandle) -> Vec<Reading> {
    let counted = fleet.metrics();
    let counter = Reading::counter;
    vec![
        gauge("vehicles_resident", "Vehicle actors in memory", counted.resident.load(Ordering::Relaxed) as u64),
        gauge("observations_in_flight", "Reports on their way to an actor", fleet.observations_in_flight() as u64),
        gauge("schedule_entries", "Vehicles that are due at some time", fleet.scheduled() as u64),
        counter("reports_applied", "Telemetry messages applied to a twin", load(&counted.reports)),
        counter("facts_taken", "Facts from cars made durable (repeats included)", load(&counted.facts)),
        counter("acks_taken", "Answers of cars to commands", load(&counted.acks)),
        counter("signals_stale", "Reported items older than what was known", load(&counted.stale_items)),
        counter("signals_refused", "Reported paths beyond a twin's bound", load(&counted.refused_paths)),
        counter("mailbox_full", "Messages refused: a vehicle's mailbox was full", load(&counted.mailbox_full)),
        counter("observations_held", "Times the observation budget was used up", load(&counted.budget_full)),
        counter("outbound_full", "Messages to cars that had to wait", load(&counted.outbound_full)),
        counter("feed_full", "Changes the feed had no room for (sent later)", load(&counted.feed_full)),
        counter("fleet_full", "Vehicles or wake-ups beyond their bound", load(&counted.fleet_full)),
        counter("appends_failed", "Steps of vehicles that were not stored", load(&counted.failed_appends)),
        counter("vehicle_restarts", "Vehicle actors started again from the store", load(&counted.restarts)),
        counter("vehicle_starts_failed", "Vehicle actors that could not be started", load(&counted.failed_starts)),
        Reading::timing("command_seconds", "From a command's acceptance to the car's word on it", &counted.answered),
        Reading::counters(
            "commands_finished",
            "Commands by their final state",
            "state",
            counted.commands_finished().map(|(state, count)| (state.to_owned(), count)),
        ),
    ]
}

/// The edge to the cars.
pub fn mqtt(counted: &MqttMetrics) -> Vec<Reading> {
    let counter = Reading::counter;
    vec![
        gauge("mqtt_sessions", "Cars connected", counted.sessions.get()),
        gauge("mqtt_handshakes", "Connections that have no session yet", counted.handshakes.get()),
        counter("mqtt_connects", "Sessions begun", counted.connects.get()),
        counter("mqtt_resumed", "Sessions begun on a TLS ticket", counted.resumed.get()),
        counter("mqtt_published", "Messages taken from cars", counted.published.get()),
        counter("mqtt_published_bytes", "Payload bytes taken from cars", counted.published_bytes.get()),
        counter("mqtt_reports", "Telemetry handed to actors", counted.reports.get()),
        counter("mqtt_facts", "Facts handed to actors", counted.facts.get()),
        counter("mqtt_acks", "Answers handed to actors", counted.acks.get()),
        counter("mqtt_reports_dropped", "Telemetry dropped: no room for 100 ms", counted.reports_dropped.get()),
        counter("mqtt_facts_not_taken", "Facts not handed over (the car repeats)", counted.facts_not_taken.get()),
        counter("mqtt_acks_not_taken", "Answers not handed over (asked again)", counted.acks_not_taken.get()),
        counter("mqtt_throttled", "Times a car over its rate was made to wait", counted.throttled.get()),
        counter("mqtt_held_back", "Times sessions waited for a half-full log", counted.held_back.get()),
        counter("mqtt_commands", "Messages for cars handed to a router", counted.commands.get()),
        counter("mqtt_commands_without_session", "Messages that found no car", counted.commands_without_session.get()),
        counter("mqtt_commands_written", "Messages written to cars", counted.commands_written.get()),
        counter("mqtt_commands_delivered", "Messages acknowledged by cars", counted.commands_delivered.get()),
        counter("mqtt_commands_dropped", "Messages for cars dropped (sent again)", counted.commands_dropped.get()),
        counter("mqtt_log_gaps", "Messages a router's log lost; stays 0", counted.log_gaps.get()),
        counter("mqtt_shards_replaced", "Router shards replaced", counted.shards_replaced.get()),
        counter("mqtt_accept_failed", "Connections the system could not accept", counted.accept_failed.get()),
        counter("mqtt_link_downs_retried", "Link ends that had to wait", counted.link_downs_retried.get()),
        Reading::counters(
            "mqtt_refused",
            "Why connections, packets and sessions were refused or ended",
            "reason",
            Reason::ALL.iter().map(|reason| (reason.name().to_owned(), counted.counted(*reason))),
        ),
    ]
}

/// The bridge to a broker.
pub fn bridge(counted: &BridgeMetrics) -> Vec<Reading> {
    let counter = Reading::counter;
    vec![
        gauge("bridge_connected", "1 while the broker carries the bridge", counted.connected.get()),
        gauge("bridge_vehicles", "Cars online over the bridge", counted.vehicles.get()),
        counter("bridge_connects", "Connections to the broker that came up", counted.connects.get()),
        counter("bridge_losses", "Connections to the broker that were lost", counted.losses.get()),
        counter("bridge_failed_attempts", "Tries to reach the broker in vain", counted.failed_attempts.get()),
        counter("bridge_received", "Messages from the broker", counted.received.get()),
        counter("bridge_received_bytes", "Payload bytes from the broker", counted.received_bytes.get()),
        counter("bridge_reports", "Telemetry handed to actors", counted.reports.get()),
        counter("bridge_facts", "Facts handed to actors", counted.facts.get()),
        counter("bridge_acks", "Answers handed to actors", counted.acks.get()),
        counter("bridge_reports_dropped", "Telemetry dropped: no room", counted.reports_dropped.get()),
        counter("bridge_held_back", "Facts and answers that waited for room", counted.held_back.get()),
        counter("bridge_facts_not_taken", "Facts not handed over (the car repeats)", counted.facts_not_taken.get()),
        counter("bridge_acks_not_taken", "Answers not handed over (asked again)", counted.acks_not_taken.get()),
        counter("bridge_commands", "Messages for cars given to the broker", counted.commands.get()),
        counter("bridge_commands_dropped", "Messages for cars dropped (sent again)", counted.commands_dropped.get()),
        counter("bridge_link_downs_retried", "Ends of a car's link told again", counted.link_downs_retried.get()),
        counter("bridge_restarts", "Times the bridge broke; stays 0", counted.restarts.get()),
        Reading::counters(
            "bridge_ignored",
            "Why messages from the broker led to nothing",
            "reason",
            Ignored::ALL.iter().map(|why| (why.name().to_owned(), counted.ignored(*why))),
        ),
    ]
}

/// The console feed.
pub fn feed(counted: &FeedCounters) -> Vec<Reading> {
    vec![
        gauge("feed_vehicles", "Vehicles the feed holds", counted.vehicles_held.load(Ordering::Relaxed) as u64),
        gauge("feed_events", "Events the feed holds", counted.events_held.load(Ordering::Relaxed) as u64),
        Reading::counter("feed_batches", "Batches given to consoles", load(&counted.batches)),
        Reading::counter("feed_snapshots", "Snapshots given to consoles", load(&counted.snapshots)),
        Reading::counter("feed_gaps", "Consoles that had fallen too far behind", load(&counted.gaps)),
        Reading::counter("feed_dropped", "Events beyond the feed's bound", load(&counted.dropped)),
    ]
}
