//! Rentals at the real program with the simulator's car: nobody gets a car that somebody has, a longer rental reaches the
//! car, a short lease bounds what the car holds, and a car left elsewhere is told of.

mod kit;

use cardea::domain::{KeyId, Timestamp};
use futures_util::future::join_all;
use kit::{Gateway, PATIENCE, car, until};
use serde_json::{Value, json};

const MINUTE_MS: i64 = 60_000;

fn now() -> Timestamp {
    Timestamp(i64::try_from(kit::unix_now()).expect("small") * 1_000)
}

fn wish(vehicle: &str, renter: &str, minutes: i64) -> Value {
    json!({"vehicle_id": vehicle, "profile": "cabin", "renter": renter, "from": now(),
        "until": now().plus_ms(minutes * MINUTE_MS),
        "holder_key": {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}})
}

async fn register(gateway: &Gateway, vehicle: &str, lending: Value) {
    let (status, body) = gateway.post("/v1/vehicles", json!({"vehicle_id": vehicle, "lending": lending})).await;
    assert_eq!(status, 201, "{body}");
}

fn key_id(request: &Value) -> KeyId {
    request["key"]["key_id"].as_str().and_then(|id| id.parse().ok()).unwrap_or_else(|| panic!("no key: {request}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_ask_at_once_one_gets_the_car() {
    let gateway = Gateway::start().await;
    gateway.register("CAR-1").await;
    let renters: Vec<String> = (0..40).map(|number| format!("renter-{number}")).collect();
    let asked = renters.iter().map(|renter| {
        let wish = wish("CAR-1", renter, 60);
        let gateway = &gateway;
        async move { gateway.post("/v1/usage-requests", wish).await }
    });
    let answers = join_all(asked).await;
    let granted = answers.iter().filter(|(status, _)| *status == 201).count();
    let refused = answers
        .iter()
        .filter(|(status, body)| *status == 409 && body["type"] == "urn:cardea:problem:not-available")
        .count();
    assert_eq!((granted, refused), (1, 39), "{answers:?}");
    let (_, rentals) = gateway.get("/v1/rentals?limit=100").await;
    assert_eq!(rentals["items"].as_array().expect("items").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_longer_rental_reaches_the_car_and_a_lease_bounds_what_it_holds() {
    let gateway = Gateway::start().await;
    register(&gateway, "LONG-1", json!({"profiles": [], "windows": [], "approval": "auto"})).await;
    register(&gateway, "LEASE-1", json!({"profiles": [], "windows": [], "approval": "auto", "lease_minutes": 2})).await;
    let car = car::connect(&gateway, "LONG-1").await;
    let (_, request) = gateway.post("/v1/usage-requests", wish("LONG-1", "ann", 60)).await;
    let key = key_id(&request);
    car.wait_granted(key, PATIENCE).await.expect("the grant");
    let end = now().plus_ms(90 * MINUTE_MS);
    let path = format!("/v1/rentals/{}/extend", request["rental_id"].as_str().expect("a rental"));
    assert_eq!(gateway.post(&path, json!({"until": end})).await.0, 200);
    car.wait_for("with the longer grant", PATIENCE, |state| {
        state.unit.keyring().grant(key).is_some_and(|grant| grant.not_after == end)
    })
    .await
    .expect("the car has heard");

    let leased = car::connect(&gateway, "LEASE-1").await;
    let (_, request) = gateway.post("/v1/usage-requests", wish("LEASE-1", "ann", 60)).await;
    let key = key_id(&request);
    leased.wait_granted(key, PATIENCE).await.expect("the grant");
    let held = leased.state().unit.keyring().grant(key).expect("granted").not_after;
    assert!(held <= now().plus_ms(3 * MINUTE_MS), "two minutes from when it was granted: {held}");
    let (_, shown) = gateway.get(&format!("/v1/keys/{key}")).await;
    assert_eq!(shown["leased_until"], json!(held));
    assert_eq!(shown["not_after"], request["key"]["not_after"], "the key itself is good for the hour");
    // At half the lease the car is told again, by itself.
    leased
        .wait_for("with the renewed grant", std::time::Duration::from_secs(120), |state| {
            state.unit.keyring().grant(key).is_some_and(|grant| grant.not_after > held)
        })
        .await
        .expect("renewed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_car_that_is_left_elsewhere_is_told_of_and_its_renter_cannot_leave_it_there() {
    let gateway = Gateway::start().await;
    let lending = json!({"profiles": [], "windows": [], "approval": "auto",
        "return_area": {"latitude": 1.0, "longitude": 1.0, "radius_m": 500.0}});
    register(&gateway, "AWAY-1", lending).await;
    let car = car::connect(&gateway, "AWAY-1").await;
    let (_, request) = gateway.post("/v1/usage-requests", wish("AWAY-1", "ann", 60)).await;
    car.wait_granted(key_id(&request), PATIENCE).await.expect("the grant");
    until("its position is known", async || {
        gateway.get("/v1/vehicles/AWAY-1").await.1["signals"]["Vehicle.CurrentLocation.Latitude"].is_object()
    })
    .await;
    let (_, made) = gateway.post("/v1/api-keys", json!({"name": "ann", "role": "renter", "subject": "ann"})).await;
    let end = format!("/v1/rentals/{}/end", request["rental_id"].as_str().expect("a rental"));
    let by_renter =
        gateway.client.post(format!("{}{end}", gateway.http)).bearer_auth(made["api_key"].as_str().expect("a key"));
    let (status, refused) = kit::answer(by_renter).await;
    assert_eq!((status, &refused["type"]), (409, &json!("urn:cardea:problem:conflict")), "{refused}");
    assert!(refused["detail"].as_str().expect("text").contains("return area"), "{refused}");
    assert_eq!(gateway.post(&end, json!({})).await.0, 200, "the fleet's own people may");
    until("there is an alert", async || {
        let (_, alerts) = gateway.get("/v1/alerts?state=open").await;
        alerts["items"]
            .as_array()
            .is_some_and(|alerts| alerts.iter().any(|alert| alert["kind"] == "outside_return_area"))
    })
    .await;
    let (_, alerts) = gateway.get("/v1/alerts?state=open").await;
    let alert = &alerts["items"][0];
    assert_eq!((&alert["vehicle_id"], &alert["rental_id"]), (&json!("AWAY-1"), &request["rental_id"]));
    let path = format!("/v1/alerts/{}/resolve", alert["alert_id"].as_str().expect("an id"));
    assert_eq!(gateway.post(&path, json!({})).await.1["state"], "resolved");
}
