//! A router of the real program stops dead: its thread is halted as a debugger would. Its cars are thrown out, come
//! back to a new router and work; the cars of the other shard never notice.
//! (What makes a router *die* never passes the gate, so that `mqtt::router` shows it from within.)

mod kit;

use cardea_simulator::car::CarHandle;
use kit::halted::Halted;
use kit::{Gateway, car, until};
use serde_json::json;

const CARS: usize = 8;

async fn obeys(gateway: &Gateway, vehicle: &str) {
    let path = format!("/v1/vehicles/{vehicle}/commands?wait_ms=30000");
    let (status, command) = gateway.post(&path, json!({"type": "locate"})).await;
    assert_eq!((status, command["state"].as_str()), (200, Some("succeeded")), "{vehicle}: {command}");
}

fn sessions(cars: &[(String, CarHandle)]) -> Vec<u64> {
    cars.iter().map(|(_, car)| car.state().link.connections).collect()
}

#[tokio::test]
async fn the_cars_of_a_stalled_router_come_back_to_a_new_one_and_the_others_never_notice() {
    let gateway = Gateway::start().await;
    let mut cars = Vec::new();
    for number in 1..=CARS {
        let name = format!("CAR-{number}");
        let car = car::connect(&gateway, &name).await;
        cars.push((name, car));
    }
    let halted = Halted::thread(gateway.pid(), "router-1");
    until("the stalled router is replaced", async || gateway.metric("cardea_mqtt_shards_replaced_total").await == 1.0)
        .await;
    until("the cars it had are back", async || {
        let mut online = 0;
        for (name, _) in &cars {
            online += usize::from(gateway.is_online(name).await);
        }
        online == CARS && sessions(&cars).contains(&2)
    })
    .await;
    for (name, _) in &cars {
        obeys(&gateway, name).await;
    }
    let sessions = sessions(&cars);
    assert!(sessions.contains(&1), "the other shard's cars were thrown out too: {sessions:?}");
    assert!(sessions.iter().all(|count| *count <= 2), "a car was thrown out twice: {sessions:?}");
    assert!(gateway.log().contains("router has stalled"), "{}", gateway.log());
    drop(halted);
    // Running again, the old router must not disturb the new one.
    for (name, _) in &cars {
        obeys(&gateway, name).await;
    }
    assert_eq!(gateway.metric("cardea_mqtt_shards_replaced_total").await, 1.0);
}
