//! The subjects together over a real fleet and a store in memory: what a caller asks, and what they hear.

use actix_web::test::{TestRequest, call_service, read_body};
use serde_json::{Value, json};

use super::testing::{MemoryStore, NOW_MS, app, ask, bearer, jwk, online, service, slug, time, usage};
use crate::actors::vehicle::FromCar;
use crate::domain::{Role, Timestamp};
use crate::store::Observation;

#[actix_web::test]
async fn a_vehicle_is_registered_read_changed_and_listed() {
    let (app, _) = app();
    let service = service!(app);
    let new = json!({"vehicle_id": "WVW-1", "name": "Blue", "tank_litres": 60.0, "capabilities": ["unlock_doors", "lock_doors"]});
    let (status, twin) = ask!(service, Role::Operator, POST "/v1/vehicles", new.clone());
    assert_eq!(status, 201, "{twin}");
    assert_eq!(twin["link"]["state"], "offline");
    assert_eq!(twin["usage"], json!({"state": "free"}));
    assert_eq!((&twin["drive_enabled"], &twin["pending_commands"]), (&json!(true), &json!(0)));
    let (status, problem) = ask!(service, Role::Operator, POST "/v1/vehicles", new);
    assert_eq!((status, slug(&problem)), (409, "conflict"));
    let (status, twin) = ask!(service, Role::Operator, PATCH "/v1/vehicles/WVW-1", json!({"name": "Red"}));
    assert_eq!((status, &twin["name"], &twin["tank_litres"]), (200, &json!("Red"), &json!(60.0)));
    for id in ["A-1", "B-1"] {
        assert_eq!(ask!(service, Role::Admin, POST "/v1/vehicles", json!({"vehicle_id": id})).0, 201);
    }
    let (_, page) = ask!(service, Role::Auditor, GET "/v1/vehicles?limit=2");
    assert_eq!(page["next"], "B-1");
    let (_, page) = ask!(service, Role::Auditor, GET "/v1/vehicles?limit=2&after=B-1");
    assert_eq!((page["items"].as_array().unwrap().len(), &page["next"]), (1, &Value::Null));
    assert_eq!(ask!(service, Role::Auditor, GET "/v1/vehicles/NONE").0, 404);
    assert_eq!(ask!(service, Role::Auditor, GET "/v1/vehicles/no%20id").0, 404);
    assert_eq!(ask!(service, Role::Renter, GET "/v1/vehicles/WVW-1").0, 403);
    assert_eq!(ask!(service, Role::Auditor, POST "/v1/vehicles", json!({"vehicle_id": "C-1"})).0, 403);
}

#[actix_web::test]
async fn a_mistake_names_its_field() {
    let (app, _) = app();
    let service = service!(app);
    let cases = [
        (json!({"vehicle_id": "WVW-1", "colour": "red"}), "colour"),
        (json!({"name": "x"}), "vehicle_id"),
        (json!({"vehicle_id": "a b"}), "vehicle_id"),
        (json!({"vehicle_id": "A", "capabilities": ["fly"]}), "capabilities[0]"),
        (
            json!({"vehicle_id": "A", "lending": {"windows": [{"days": ["mon"], "from": "08:00", "until": "20:00"}]}}),
            "lending.windows[0].time_zone",
        ),
        (json!({"vehicle_id": "A", "lending": {"profiles": ["yacht"]}}), "lending.profiles"),
        (json!({"vehicle_id": "A", "tank_litres": -1.0}), "tank_litres"),
    ];
    for (body, field) in cases {
        let (status, problem) = ask!(service, Role::Operator, POST "/v1/vehicles", body);
        assert_eq!((status, slug(&problem), &problem["field"]), (400, "invalid", &json!(field)), "{problem}");
    }
    for (query, field) in [("limit=0", "limit"), ("limit=x", "limit"), ("after=%00", "after"), ("x=1", "x")] {
        let (status, problem) = ask!(service, Role::Operator, GET format!("/v1/vehicles?{query}"));
        assert_eq!((status, &problem["field"]), (400, &json!(field)), "{problem}");
    }
}

#[actix_web::test]
async fn bodies_that_are_no_json_or_too_long_are_problems() {
    let (app, _) = app();
    let service = service!(app);
    let send = |kind: &'static str, body: Vec<u8>| {
        let request = TestRequest::post().uri("/v1/vehicles").insert_header(bearer(Role::Admin));
        request.insert_header(("Content-Type", kind)).set_payload(body).to_request()
    };
    let cases = [
        ("text/plain", b"{}".to_vec(), 415),
        ("application/json", b"{".to_vec(), 400),
        ("application/json", b"{\"vehicle_id\":\"A\"} {}".to_vec(), 400),
        ("application/json", b"\xff".to_vec(), 400),
        ("application/json", b"[".repeat(10_000), 400),
        ("application/json", vec![b' '; 300 * 1024], 413),
    ];
    for (kind, body, status) in cases {
        let answer = call_service(&service, send(kind, body)).await;
        assert_eq!(answer.status().as_u16(), status);
        assert_eq!(answer.headers().get("Content-Type").unwrap(), "application/problem+json");
    }
}

#[actix_web::test]
async fn a_command_is_accepted_waits_for_its_car_and_can_be_cancelled() {
    let (app, _) = app();
    let service = service!(app);
    ask!(service, Role::Operator, POST "/v1/vehicles", json!({"vehicle_id": "WVW-1"}));
    let (status, command) = ask!(service, Role::Operator, POST "/v1/vehicles/WVW-1/commands", json!({"type": "lock"}));
    assert_eq!((status, &command["type"], &command["state"]), (202, &json!("lock"), &json!("queued")), "{command}");
    let path = format!("/v1/commands/{}", command["command_id"].as_str().unwrap());
    assert_eq!(ask!(service, Role::Auditor, GET & path).1["state"], "queued");
    assert_eq!(ask!(service, Role::Renter, GET & path).0, 404);
    let (status, cancelled) = ask!(service, Role::Operator, DELETE & path);
    assert_eq!((status, &cancelled["state"]), (200, &json!("cancelled")));
    assert_eq!(ask!(service, Role::Auditor, GET & path).1["state"], "cancelled");
    let (_, list) = ask!(service, Role::Auditor, GET "/v1/commands");
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    for (query, count) in [("vehicle_id=WVW-1", 1), ("vehicle_id=WVW-2", 0)] {
        let (_, own) = ask!(service, Role::Auditor, GET format!("/v1/commands?{query}"));
        assert_eq!(own["items"].as_array().unwrap().len(), count, "{query}");
        assert_eq!(ask!(service, Role::Auditor, GET format!("/v1/rentals?{query}")).0, 200);
    }
    let (status, problem) = ask!(service, Role::Auditor, GET "/v1/commands?vehicle_id=a%20b");
    assert_eq!((status, slug(&problem)), (400, "invalid"), "{problem}");

    let (status, expired) = ask!(service, Role::Operator, POST "/v1/vehicles/WVW-1/commands?wait_ms=30", json!({"type": "locate", "ttl_s": 60}));
    assert_eq!((status, &expired["state"]), (202, &json!("queued")));
    for (body, field) in [
        (json!({"type": "lock", "function": "drive"}), "function"),
        (json!({"type": "enable_function"}), "function"),
        (json!({"type": "fly"}), "type"),
        (json!({"type": "lock", "ttl_s": 0}), "ttl_s"),
    ] {
        let (status, problem) = ask!(service, Role::Operator, POST "/v1/vehicles/WVW-1/commands", body);
        assert_eq!((status, &problem["field"]), (400, &json!(field)), "{problem}");
    }
    let (status, problem) =
        ask!(service, Role::Operator, POST "/v1/vehicles/WVW-1/commands?wait_ms=30001", json!({"type": "lock"}));
    assert_eq!((status, &problem["field"]), (400, &json!("wait_ms")));
    assert_eq!(ask!(service, Role::Operator, POST "/v1/vehicles/NONE/commands", json!({"type": "lock"})).0, 404);
    assert_eq!(ask!(service, Role::Renter, POST "/v1/vehicles/WVW-1/commands", json!({"type": "lock"})).0, 403);
}

#[actix_web::test]
async fn the_same_idempotency_key_gives_the_same_command_or_422() {
    let (app, store) = app();
    let service = service!(app);
    ask!(service, Role::Operator, POST "/v1/vehicles", json!({"vehicle_id": "WVW-1"}));
    let path = "/v1/vehicles/WVW-1/commands";
    let (first, one) = ask!(service, Role::Operator, POST path, json!({"type": "lock"}), "k1");
    let (second, two) = ask!(service, Role::Operator, POST path, json!({"type": "lock"}), "k1");
    assert_eq!((first, &one), (second, &two));
    let (status, problem) = ask!(service, Role::Operator, POST path, json!({"type": "unlock"}), "k1");
    assert_eq!((status, slug(&problem)), (422, "duplicate-key-reuse"));
    // Another caller's key of the same name is another key.
    let (_, other) = ask!(service, Role::Admin, POST path, json!({"type": "lock"}), "k1");
    assert_ne!(one["command_id"], other["command_id"]);
    assert_eq!(ask!(service, Role::Operator, POST path, json!({"type": "lock"}), "k".repeat(256)).0, 400);

    store.refuse(Some("disk full"));
    let (status, problem) = ask!(service, Role::Operator, POST path, json!({"type": "locate"}), "k2");
    assert_eq!((status, slug(&problem)), (503, "storage-unavailable"));
    store.refuse(None);
    assert_eq!(ask!(service, Role::Operator, POST path, json!({"type": "locate"}), "k2").0, 202);
}

#[actix_web::test]
async fn a_bulk_command_answers_for_each_vehicle() {
    let (app, _) = app();
    let service = service!(app);
    for id in ["A", "B"] {
        ask!(service, Role::Operator, POST "/v1/vehicles", json!({"vehicle_id": id}));
    }
    let (status, answer) = ask!(service, Role::Operator, POST "/v1/commands", json!({"vehicle_ids": ["B", "NONE", "A"], "type": "lock"}), "k");
    assert_eq!(status, 202);
    let items = answer["items"].as_array().unwrap();
    let ids: Vec<&str> = items.iter().map(|item| item["vehicle_id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["B", "NONE", "A"], "in the order asked");
    assert_eq!(slug(&items[1]["problem"]), "not-found");
    assert!(items[0]["command_id"].is_string() && items[0].get("problem").is_none());
    let (_, again) = ask!(service, Role::Operator, POST "/v1/commands", json!({"vehicle_ids": ["B", "NONE", "A"], "type": "lock"}), "k");
    assert_eq!(again["items"][0], items[0]);
    let (status, other) =
        ask!(service, Role::Operator, POST "/v1/commands", json!({"vehicle_ids": ["A"], "type": "unlock"}), "k");
    assert_eq!((status, slug(&other)), (422, "duplicate-key-reuse"), "the key belongs to the first body");
    let other = json!({"vehicle_ids": ["NONE"], "type": "lock"});
    let (status, other) = ask!(service, Role::Operator, POST "/v1/commands", other, "k");
    assert_eq!((status, slug(&other)), (422, "duplicate-key-reuse"), "also for vehicles it never named");
    let (_, all) = ask!(service, Role::Operator, POST "/v1/commands", json!({"all": true, "type": "report_state"}));
    assert_eq!(all["items"].as_array().unwrap().len(), 2);
    for body in [
        json!({"type": "lock"}),
        json!({"vehicle_ids": ["A"], "all": true, "type": "lock"}),
        json!({"vehicle_ids": ["A", "A"], "type": "lock"}),
    ] {
        let (status, problem) = ask!(service, Role::Operator, POST "/v1/commands", body);
        assert_eq!((status, &problem["field"]), (400, &json!("vehicle_ids")));
    }
}

#[actix_web::test]
async fn a_renter_gets_a_key_uses_it_and_gives_the_car_back() {
    let (app, _) = app();
    let service = service!(app);
    ask!(service, Role::Operator, POST "/v1/vehicles", json!({"vehicle_id": "WVW-1"}));
    online(&app, "WVW-1");
    let (status, request) = ask!(service, Role::Renter, POST "/v1/usage-requests", usage("cabin"), "r1");
    assert_eq!((status, &request["state"]), (201, &json!("approved")), "{request}");
    let key = &request["key"];
    assert!(key["token"].is_string());
    assert!(key["prohibits"].as_array().unwrap().contains(&json!("drive")), "{key}");
    assert!(key["permits"].as_array().unwrap().contains(&json!("unlock_doors")));
    assert_eq!(ask!(service, Role::Renter, POST "/v1/usage-requests", usage("cabin"), "r1").1, request);
    let (status, problem) = ask!(service, Role::Renter, POST "/v1/usage-requests", usage("cabin"));
    assert_eq!((status, slug(&problem)), (409, "not-available"));

    let key_path = format!("/v1/keys/{}", key["key_id"].as_str().unwrap());
    assert!(ask!(service, Role::Renter, GET & key_path).1["token"].is_string());
    assert!(ask!(service, Role::Operator, GET & key_path).1["token"].is_null(), "to its holder only");
    let actions = format!("{key_path}/actions");
    let (status, command) = ask!(service, Role::Renter, POST & actions, json!({"function": "unlock_doors"}));
    assert_eq!((status, &command["type"]), (202, &json!("unlock")), "{command}");
    let command_path = format!("/v1/commands/{}", command["command_id"].as_str().unwrap());
    assert_eq!(ask!(service, Role::Renter, GET & command_path).0, 200, "their own");
    let (status, problem) = ask!(service, Role::Renter, POST & actions, json!({"function": "drive"}));
    assert_eq!((status, slug(&problem)), (403, "forbidden"));

    let rental_path = format!("/v1/rentals/{}", request["rental_id"].as_str().unwrap());
    let (_, rental) = ask!(service, Role::Renter, GET & rental_path);
    assert_eq!((&rental["state"], &rental["renter"]), (&json!("active"), &json!("anna")));
    assert_eq!(ask!(service, Role::Renter, POST format!("{rental_path}/cancel")).0, 409);
    let (status, rental) = ask!(service, Role::Renter, POST format!("{rental_path}/end"));
    assert_eq!((status, &rental["state"]), (200, &json!("ending")));
    assert_eq!(ask!(service, Role::Renter, GET & key_path).1["state"], "revoked");
    let (status, problem) = ask!(service, Role::Renter, POST & actions, json!({"function": "unlock_doors"}));
    assert_eq!((status, slug(&problem)), (410, "expired"));
}

#[actix_web::test]
async fn what_is_another_renters_does_not_exist() {
    let (app, _) = app();
    let service = service!(app);
    ask!(service, Role::Operator, POST "/v1/vehicles", json!({"vehicle_id": "WVW-1"}));
    let mut for_ben = usage("cabin");
    for_ben["renter"] = json!("ben");
    let (status, problem) = ask!(service, Role::Renter, POST "/v1/usage-requests", for_ben.clone());
    assert_eq!((status, slug(&problem)), (403, "forbidden"));
    let (status, request) = ask!(service, Role::Operator, POST "/v1/usage-requests", for_ben);
    assert_eq!((status, &request["renter"]), (201, &json!("ben")));
    let id = |name: &str| request[name].as_str().unwrap().to_owned();
    for path in [
        format!("/v1/usage-requests/{}", id("request_id")),
        format!("/v1/rentals/{}", id("rental_id")),
        format!("/v1/keys/{}", id("key_id")),
    ] {
        assert_eq!(ask!(service, Role::Renter, GET & path).0, 404, "{path}");
        assert_eq!(ask!(service, Role::Operator, GET & path).0, 200, "{path}");
    }
    let actions = format!("/v1/keys/{}/actions", id("key_id"));
    assert_eq!(ask!(service, Role::Renter, POST & actions, json!({"function": "unlock_doors"})).0, 404);
    assert_eq!(ask!(service, Role::Renter, POST format!("/v1/rentals/{}/end", id("rental_id"))).0, 404);
    for list in ["/v1/usage-requests", "/v1/rentals", "/v1/keys", "/v1/commands"] {
        let (status, page) = ask!(service, Role::Renter, GET list);
        assert_eq!((status, page), (200, json!({"items": [], "next": null})), "{list}");
        assert_eq!(ask!(service, Role::Auditor, GET list).1["items"].as_array().unwrap().len(), 1, "{list}");
    }
}

#[actix_web::test]
async fn an_owner_approves_or_declines() {
    let (app, _) = app();
    let service = service!(app);
    let terms = json!({"vehicle_id": "WVW-1", "lending": {"profiles": ["cabin"], "approval": "owner"}});
    ask!(service, Role::Operator, POST "/v1/vehicles", terms);
    let (status, problem) = ask!(service, Role::Renter, POST "/v1/usage-requests", usage("drive"));
    assert_eq!((status, slug(&problem)), (403, "profile-not-allowed"));
    let (status, request) = ask!(service, Role::Renter, POST "/v1/usage-requests", usage("cabin"));
    assert_eq!((status, &request["state"], request.get("key")), (201, &json!("requested"), None));
    let path = format!("/v1/usage-requests/{}", request["request_id"].as_str().unwrap());
    assert_eq!(ask!(service, Role::Renter, POST format!("{path}/approve")).0, 403);
    let (status, approved) = ask!(service, Role::Operator, POST format!("{path}/approve"));
    assert_eq!((status, &approved["state"]), (200, &json!("approved")));
    assert!(approved["key"]["token"].is_null(), "the holder fetches it");
    let key_path = format!("/v1/keys/{}", approved["key_id"].as_str().unwrap());
    assert!(ask!(service, Role::Renter, GET & key_path).1["token"].is_string());
    assert_eq!(ask!(service, Role::Operator, POST format!("{path}/decline")).0, 409);
    let (status, key) = ask!(service, Role::Operator, DELETE format!("{key_path}?effect=immediate"));
    assert_eq!((status, &key["state"]), (200, &json!("revoked")));
    assert_eq!(ask!(service, Role::Operator, DELETE format!("{key_path}?effect=now")).0, 400);
}

#[actix_web::test]
async fn a_bad_holder_key_is_told_before_anything_happens() {
    let (app, _) = app();
    let service = service!(app);
    ask!(service, Role::Operator, POST "/v1/vehicles", json!({"vehicle_id": "WVW-1"}));
    let mut bad = usage("cabin");
    bad["holder_key"]["x"] = json!("AA");
    let (status, problem) = ask!(service, Role::Renter, POST "/v1/usage-requests", bad.clone());
    assert_eq!((status, &problem["field"]), (400, &json!("holder_key")));
    bad["holder_key"] = jwk();
    bad["holder_key"]["d"] = json!("AA");
    let (status, problem) = ask!(service, Role::Renter, POST "/v1/usage-requests", bad);
    assert_eq!((status, &problem["field"]), (400, &json!("holder_key.d")));
}

#[actix_web::test]
async fn an_api_key_is_shown_once_works_and_can_be_deleted() {
    let (app, store) = app();
    let service = service!(app);
    let new = json!({"name": "Anna's phone", "role": "auditor"});
    assert_eq!(ask!(service, Role::Operator, POST "/v1/api-keys", new.clone()).0, 403);
    let (status, made) = ask!(service, Role::Admin, POST "/v1/api-keys", new.clone(), "a1");
    assert_eq!(status, 201, "{made}");
    assert_eq!(ask!(service, Role::Admin, POST "/v1/api-keys", new, "a1").1, made, "a repeat gets the same answer");
    let secret = made["api_key"].as_str().unwrap().to_owned();
    let with_secret = || {
        let request = TestRequest::get().uri("/v1/vehicles");
        request.insert_header(("Authorization", format!("bearer {secret}"))).to_request()
    };
    assert_eq!(call_service(&service, with_secret()).await.status(), 200);
    let (_, list) = ask!(service, Role::Admin, GET "/v1/api-keys");
    assert!(list["items"][0].get("api_key").is_none());
    let (_, audit) = ask!(service, Role::Auditor, GET "/v1/audit?subject=api-key/");
    assert_eq!(audit["items"].as_array().unwrap().len(), 1);
    assert!(!audit.to_string().contains(&secret));
    // What a restart loads.
    let loaded = super::access::api_keys::ApiKeys::new(super::access::rate::Rate::new(10, 10), None).unwrap();
    assert_eq!(loaded.load(&*store).unwrap(), 1);
    let path = format!("/v1/api-keys/{}", made["api_key_id"].as_str().unwrap());
    assert_eq!(ask!(service, Role::Admin, DELETE & path).0, 204);
    assert_eq!(call_service(&service, with_secret()).await.status(), 401);
    assert_eq!(ask!(service, Role::Admin, DELETE & path).0, 404);
    for (body, field) in [
        (json!({"name": "", "role": "admin"}), "name"),
        (json!({"name": "x", "role": "vehicle"}), "role"),
        (json!({"name": "x", "role": "renter", "subject": "a/b"}), "subject"),
    ] {
        assert_eq!(ask!(service, Role::Admin, POST "/v1/api-keys", body).1["field"], field);
    }
}

#[actix_web::test]
async fn the_audit_trail_is_read_by_subject_and_time() {
    let (app, _) = app();
    let service = service!(app);
    for id in ["A", "B"] {
        ask!(service, Role::Operator, POST "/v1/vehicles", json!({"vehicle_id": id}));
    }
    let items = |page: &Value| page["items"].as_array().unwrap().len();
    let (_, all) = ask!(service, Role::Auditor, GET "/v1/audit");
    assert_eq!(items(&all), 2);
    assert_eq!(all["items"][0]["by"], json!({"role": "operator", "subject": "operator"}));
    assert_eq!(all["items"][0]["hash"].as_str().unwrap().len(), 64);
    assert_eq!(items(&ask!(service, Role::Auditor, GET "/v1/audit?subject=vehicle/B").1), 1);
    let (_, first) = ask!(service, Role::Auditor, GET "/v1/audit?limit=1&subject=vehicle/");
    assert_eq!(items(&first), 1);
    let after = first["next"].as_str().unwrap();
    assert_eq!(items(&ask!(service, Role::Auditor, GET format!("/v1/audit?after={after}")).1), 1);
    assert_eq!(items(&ask!(service, Role::Auditor, GET format!("/v1/audit?until={}", time(-1))).1), 0);
    // Backwards it is the same, page by page.
    let mut backwards = Vec::new();
    let mut after = String::new();
    loop {
        let (_, page) = ask!(service, Role::Auditor, GET format!("/v1/audit?order=newest&limit=1{after}"));
        backwards.extend(page["items"].as_array().unwrap().clone());
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    backwards.reverse();
    assert_eq!(serde_json::Value::from(backwards), all["items"]);
    assert_eq!(items(&ask!(service, Role::Auditor, GET "/v1/audit?order=newest&subject=vehicle/B").1), 1);
    assert_eq!(ask!(service, Role::Auditor, GET "/v1/audit?order=up").1["field"], "order");
    assert_eq!(ask!(service, Role::Operator, GET "/v1/audit").0, 403);
    assert_eq!(ask!(service, Role::Auditor, GET "/v1/audit?after=x").1["field"], "after");
}

fn observe(store: &MemoryStore, at_ms: i64, signals: &Value) {
    use crate::store::Store;
    let signals = serde_json::value::to_raw_value(signals).unwrap();
    store.observe(Observation { vehicle: "WVW-1".parse().unwrap(), at: Timestamp(NOW_MS + at_ms), signals });
}

#[actix_web::test]
async fn a_track_comes_as_json_geojson_and_csv() {
    let (app, store) = app();
    let service = service!(app);
    ask!(service, Role::Operator, POST "/v1/vehicles", json!({"vehicle_id": "WVW-1"}));
    let signal = |value: f64| json!({"value": value, "at": time(0)});
    let (lat, lon) = ("Vehicle.CurrentLocation.Latitude", "Vehicle.CurrentLocation.Longitude");
    observe(&store, -3_000, &json!({lat: signal(45.0), lon: signal(7.0), "Vehicle.Speed": signal(10.0)}));
    observe(&store, -2_000, &json!({lat: signal(45.5)}));
    observe(&store, -1_000, &json!({"Vehicle.Speed": signal(0.0)}));
    let (status, track) = ask!(service, Role::Operator, GET "/v1/vehicles/WVW-1/history");
    assert_eq!((status, track["items"].as_array().unwrap().len(), &track["next"]), (200, 3, &Value::Null));
    let (_, track) = ask!(service, Role::Operator, GET "/v1/vehicles/WVW-1/history?limit=2");
    assert_eq!(track["next"], time(-1_000));
    let (_, geo) = ask!(service, Role::Operator, GET "/v1/vehicles/WVW-1/history?format=geojson");
    let line = &geo["features"][0]["geometry"];
    assert_eq!(line, &json!({"type": "LineString", "coordinates": [[7.0, 45.0], [7.0, 45.5]]}));
    let request = TestRequest::get().uri("/v1/vehicles/WVW-1/history?format=csv").insert_header(bearer(Role::Admin));
    let csv = read_body(call_service(&service, request.to_request()).await).await;
    let csv = String::from_utf8(csv.to_vec()).unwrap();
    assert_eq!(csv.lines().count(), 4);
    assert_eq!(csv.lines().nth(3).unwrap(), format!("{},45.5,7,,0,,", time(-1_000)));
    for query in ["format=xml", "limit=0", "from=yesterday"] {
        assert_eq!(ask!(service, Role::Operator, GET format!("/v1/vehicles/WVW-1/history?{query}")).0, 400);
    }
    assert_eq!(ask!(service, Role::Operator, GET "/v1/vehicles/NONE/history").0, 404);
}

#[actix_web::test]
async fn available_cars_come_nearest_first_and_only_if_they_can_be_had() {
    use crate::domain::twin::{Report, SignalValue, path};
    let (app, _) = app();
    let service = service!(app);
    for (id, latitude) in [("FAR", 46.0), ("NEAR", 45.1), ("TAKEN", 45.0)] {
        ask!(service, Role::Operator, POST "/v1/vehicles", json!({"vehicle_id": id}));
        let signals = [(path::LATITUDE, latitude), (path::LONGITUDE, 7.0)];
        let signals = signals.map(|(path, value)| (path.into(), SignalValue::Number(value))).into();
        let report = Report { boot: 0, seq: 1, at: Timestamp(NOW_MS), signals };
        app.fleet.tell(&id.parse().unwrap(), FromCar::Reports(vec![report])).unwrap();
    }
    let terms = json!({"vehicle_id": "CABIN", "lending": {"profiles": ["cabin"]}});
    ask!(service, Role::Operator, POST "/v1/vehicles", terms);
    let mut taken = usage("cabin");
    taken["vehicle_id"] = json!("TAKEN");
    assert_eq!(ask!(service, Role::Operator, POST "/v1/usage-requests", taken).0, 201);
    let ids = |page: &Value| -> Vec<String> {
        page["items"].as_array().unwrap().iter().map(|item| item["vehicle_id"].as_str().unwrap().into()).collect()
    };
    let (status, page) = ask!(service, Role::Renter, GET "/v1/vehicles/available?near=45.0,7.0");
    assert_eq!((status, ids(&page)), (200, vec!["NEAR".into(), "FAR".into(), "CABIN".into()]));
    assert!((page["items"][0]["distance_m"].as_f64().unwrap() - 11_119.0).abs() < 5.0, "{page}");
    let (_, page) = ask!(service, Role::Renter, GET "/v1/vehicles/available?profile=drive");
    assert_eq!(ids(&page), ["FAR", "NEAR"]);
    let later = format!("/v1/vehicles/available?from={}&until={}", time(7_200_000), time(9_000_000));
    assert_eq!(ids(&ask!(service, Role::Renter, GET later).1).len(), 4);
    for (query, field) in [("near=91,0", "near"), ("profile=yacht", "profile"), ("until=2020-01-01T00:00:00Z", "until")]
    {
        assert_eq!(ask!(service, Role::Renter, GET format!("/v1/vehicles/available?{query}")).1["field"], field);
    }
}

#[actix_web::test]
async fn the_keyset_is_open_to_all_in_both_forms() {
    let (app, _) = app();
    let service = service!(app);
    let get =
        |accept: &'static str| TestRequest::get().uri("/v1/keyset").insert_header(("Accept", accept)).to_request();
    let answer = call_service(&service, get("*/*")).await;
    let jwks = String::from_utf8(read_body(answer).await.to_vec()).unwrap();
    assert_eq!(crate::token::Keyset::from_jwks(&jwks).unwrap(), app.signer.keyset());
    let answer = call_service(&service, get("application/cose-key-set")).await;
    assert_eq!(answer.headers().get("Content-Type").unwrap(), "application/cose-key-set");
    assert_eq!(read_body(answer).await, app.signer.keyset().to_cose_key_set());
    assert_eq!(call_service(&service, get("text/html")).await.status(), 406);
}
