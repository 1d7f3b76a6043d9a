//! Several gateways as one, with real cars, consoles and NATS servers: whoever is asked, the car that is there is reached, and
//! a gateway's death takes nothing along.

mod kit;

use std::time::Duration;

use cardea::clock::Stopwatch;
use kit::console::Console;
use kit::forward::Forward;
use kit::halted::Halted;
use kit::nats::NatsCluster;
use kit::{Gateway, PATIENCE, car, until};
use serde_json::json;

const SPEED: &str = "Vehicle.Speed";

/// Gateways `a`, `b` ... of one fleet, whose records are in one NATS cluster.
async fn gateways(nats: &NatsCluster, names: &[&str]) -> Vec<Gateway> {
    let mut gateways: Vec<Gateway> = Vec::new();
    for name in names {
        let sets = [nats.sets(), vec![format!("cluster.node={name}")]].concat();
        let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
        gateways.push(match gateways.first() {
            None => Gateway::start_in(&[], &sets).await,
            Some(first) => first.start_beside(&[], &format!("data-{name}"), &sets).await,
        });
    }
    gateways
}

/// Another one, which reaches the servers through these ports.
async fn beside(first: &Gateway, name: &str, nats: &NatsCluster, through: &[&Forward]) -> Gateway {
    let ports: Vec<u16> = through.iter().map(|forward| forward.address.port()).collect();
    let sets = [nats.sets_through(&ports), vec![format!("cluster.node={name}")]].concat();
    let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
    first.start_beside(&[], &format!("data-{name}"), &sets).await
}

/// A lock command at this gateway, and its state once it is final.
async fn lock(gateway: &Gateway, vehicle: &str) -> (String, String) {
    let (status, command) =
        gateway.post(&format!("/v1/vehicles/{vehicle}/commands?wait_ms=20000"), json!({"type": "lock"})).await;
    assert!(status == 200 || status == 202, "{status} {command}");
    let text = |name: &str| command[name].as_str().unwrap_or_default().to_owned();
    (text("command_id"), text("state"))
}

#[tokio::test(flavor = "multi_thread")]
async fn whichever_gateway_is_asked_the_car_does_it_and_every_console_sees_it() {
    let Some(nats) = NatsCluster::start(3).await else { return };
    let gateways = gateways(&nats, &["a", "b"]).await;
    let [a, b] = &gateways[..] else { unreachable!() };
    a.register("PARKED-1").await;
    until("b knows the vehicle", async || b.get("/v1/vehicles/PARKED-1").await.0 == 200).await;
    let mut console = Console::open(b).await;
    console.hear().await;
    let car = car::connect(a, "LIVE-1").await;
    console.hear_until("the car is online", |console| console.is_online("LIVE-1")).await;
    console.hear_until("its signals", |console| console.vehicles["LIVE-1"]["signals"][SPEED].is_object()).await;
    assert!(console.vehicles.contains_key("PARKED-1"), "a car that no gateway has is shown too");
    assert!(b.is_online("LIVE-1").await);

    let (id, state) = lock(b, "LIVE-1").await;
    assert_eq!(state, "succeeded");
    assert_eq!(car.executions(id.parse().expect("an id")), 1);
    let is_done = |console: &Console| {
        console.commands.get(&id).is_some_and(|states| states.last().map(String::as_str) == Some("succeeded"))
    };
    console.hear_until("the lock succeeded", is_done).await;
    until("both say so", async || {
        a.command_state(&id).await == "succeeded" && b.command_state(&id).await == "succeeded"
    })
    .await;
    assert!(a.metric("cardea_cluster_calls_served_total").await > 0.0, "the request went to the car's gateway");

    let points = async |gateway: &Gateway| {
        let (status, track) = gateway.get("/v1/vehicles/LIVE-1/history").await;
        assert_eq!(status, 200, "{track}");
        track["items"].as_array().map_or(0, Vec::len)
    };
    until("the track is told by the gateway that does not have it", async || points(b).await > 0).await;

    let mut late = Console::open(a).await;
    late.hear_until("a console elsewhere sees the same", |console| console.is_online("LIVE-1")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_connection_has_the_car_and_the_older_gateway_lets_go() {
    let Some(nats) = NatsCluster::start(3).await else { return };
    let gateways = gateways(&nats, &["a", "b"]).await;
    let [a, b] = &gateways[..] else { unreachable!() };
    let first = car::connect(a, "TWIN-1").await;
    // The car comes back through b before a has noticed that its old connection is dead.
    let second = car::start(b, "TWIN-1", |_| {});
    second.wait_connected(PATIENCE).await.expect("the car connects");
    first.cut_link().await.expect("it stays away");
    until("b has it", async || b.metric("cardea_mqtt_sessions").await == 1.0 && b.is_online("TWIN-1").await).await;
    until("a has let go", async || a.metric("cardea_mqtt_sessions").await == 0.0).await;
    let (id, state) = lock(a, "TWIN-1").await;
    assert_eq!(state, "succeeded");
    assert_eq!(second.executions(id.parse().expect("an id")), 1);
    assert_eq!(first.executions(id.parse().expect("an id")), 0, "nothing is sent over the older connection");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateways_death_moves_its_cars_within_seconds_and_loses_nothing() {
    let Some(nats) = NatsCluster::start(3).await else { return };
    let mut gateways = gateways(&nats, &["a", "b", "c"]).await;
    let car = car::connect(&gateways[0], "MOVER-1").await;
    let mut console = Console::open(&gateways[1]).await;
    console.hear_until("the car is online", |console| console.is_online("MOVER-1")).await;
    let (before, state) = lock(&gateways[2], "MOVER-1").await;
    assert_eq!(state, "succeeded");
    // An order whose car is away when the gateway that took it dies.
    let away = car::connect(&gateways[0], "AWAY-1").await;
    away.cut_link().await.expect("it goes");
    until("it is seen to be away", async || !gateways[1].is_online("AWAY-1").await).await;
    let (status, waiting) = gateways[0].post("/v1/vehicles/AWAY-1/commands", json!({"type": "lock", "ttl_s": 4})).await;
    assert_eq!(status, 202, "{waiting}");
    gateways[0].kill();

    console.hear_until("the link is gone", |console| !console.is_online("MOVER-1")).await;
    // Asked while no gateway has the car: it waits, and goes out when the car is back.
    let (status, queued) = gateways[1].post("/v1/vehicles/MOVER-1/commands", json!({"type": "unlock"})).await;
    assert_eq!((status, &queued["state"]), (202, &json!("queued")), "{queued}");
    drop(car);
    let since = Stopwatch::start();
    let moved = car::connect(&gateways[2], "MOVER-1").await;
    assert!(since.elapsed() < Duration::from_secs(5), "served after {:?}", since.elapsed());
    let id = queued["command_id"].as_str().expect("an id").to_owned();
    until("the waiting command is done", async || gateways[1].command_state(&id).await == "succeeded").await;
    assert_eq!(moved.executions(id.parse().expect("an id")), 1);
    console.hear_until("the car is back", |console| console.is_online("MOVER-1")).await;
    assert_eq!(gateways[1].command_state(&before).await, "succeeded");

    // Nobody asks and no car comes: what is due is still done, by one of those that live.
    let expired = waiting["command_id"].as_str().expect("an id").to_owned();
    until("the order of the dead gateway expires", async || gateways[2].command_state(&expired).await == "expired")
        .await;

    // The one that died comes back, and is as good as the others.
    gateways[0].launch().expect("it starts again");
    assert_eq!(gateways[0].command_state(&id).await, "succeeded");
    let (_, state) = lock(&gateways[0], "MOVER-1").await;
    assert_eq!(state, "succeeded");
}

/// Whoever waits for the end of a command hears of it wherever the car comes back, though its gateway died meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_wait_for_a_command_goes_with_the_car() {
    let Some(nats) = NatsCluster::start(3).await else { return };
    let mut gateways = gateways(&nats, &["a", "b", "c"]).await;
    let away = car::connect(&gateways[0], "GOES-2").await;
    away.cut_link().await.expect("it goes");
    until("it is seen to be away", async || !gateways[1].is_online("GOES-2").await).await;
    let dead = gateways.remove(0);
    let [b, c] = &gateways[..] else { unreachable!() };
    let since = Stopwatch::start();
    let waiting = lock(b, "GOES-2");
    let moving = async {
        until("the order is taken", async || b.get("/v1/vehicles/GOES-2").await.1["pending_commands"] == 1).await;
        drop(dead);
        car::connect(c, "GOES-2").await
    };
    let ((id, state), moved) = tokio::join!(waiting, moving);
    assert_eq!(state, "succeeded", "after {:?}", since.elapsed());
    assert_eq!(moved.executions(id.parse().expect("an id")), 1);
    assert!(
        since.elapsed() < Duration::from_secs(15),
        "it waited for its time, not for the end: {:?}",
        since.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_busy_with_consoles_elsewhere_is_not_taken_for_dead() {
    let Some(nats) = NatsCluster::start(3).await else { return };
    let gateways = gateways(&nats, &["a", "b"]).await;
    let [a, b] = &gateways[..] else { unreachable!() };
    let car = car::connect(a, "STAYS-1").await;
    until("they know each other", async || b.metric("cardea_cluster_gateways").await == 2.0).await;
    // As busy as can be: the threads that write for consoles do nothing else for longer than a silence may last.
    let halted = Halted::threads(a.pid(), "cluster");
    assert!(!halted.is_empty());
    let since = Stopwatch::start();
    while since.elapsed() < Duration::from_secs(4) {
        assert_eq!(b.metric("cardea_cluster_gateways").await, 2.0, "after {:?}", since.elapsed());
        assert_eq!(a.metric("cardea_cluster_gateways").await, 2.0, "after {:?}", since.elapsed());
    }
    drop(halted);
    assert_eq!(car.state().link.connections, 1);
    let (_, state) = lock(b, "STAYS-1").await;
    assert_eq!(state, "succeeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_console_sees_what_happened_while_its_gateway_lost_its_connection_for_a_moment() {
    let Some(nats) = NatsCluster::start(3).await else { return };
    let gateways = gateways(&nats, &["a"]).await;
    let a = &gateways[0];
    let server = |i: usize| vec![nats.address(i)];
    let (used, other) = (Forward::to(server(0)).await, Forward::to(server(1)).await);
    other.cut();
    let b = beside(a, "b", &nats, &[&used, &other]).await;
    let car = car::connect(a, "GOES-1").await;
    let mut console = Console::open(&b).await;
    console.hear_until("the car is online", |console| console.is_online("GOES-1")).await;
    // Too short for anybody to be called dead.
    used.end();
    car.cut_link().await.expect("it goes");
    until("a knows", async || !a.is_online("GOES-1").await).await;
    other.heal();
    console.hear_until("the car is gone", |console| !console.is_online("GOES-1")).await;
    assert_eq!(a.metric("cardea_cluster_gateways").await, 2.0);
}
