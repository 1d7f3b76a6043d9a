//! Rentals and keys after their begin, over HTTP: proven, made longer, handed on, seen by a city.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signer, SigningKey};
use serde_json::{Value, json};
use uuid::Uuid;

use super::testing::{NOW_MS, app, ask, online, service, slug, time, usage};
use crate::domain::key::{HolderKey, KeyGrant};
use crate::domain::{Function, Functions, KeyId, Role, Timestamp, VehicleId};
use crate::token;

/// The secret half of [`super::testing::jwk`].
fn phone() -> SigningKey {
    SigningKey::from_bytes(&[3; 32])
}

fn path_of(request: &Value, what: &str) -> String {
    match what {
        "key" => format!("/v1/keys/{}", request["key"]["key_id"].as_str().unwrap()),
        _ => format!("/v1/rentals/{}", request["rental_id"].as_str().unwrap()),
    }
}

#[actix_web::test]
async fn a_proof_of_possession_is_checked_where_one_is_given() {
    let (app, _) = app();
    let service = service!(app);
    ask!(service, Role::Operator, POST "/v1/vehicles", json!({"vehicle_id": "WVW-1"}));
    online(&app, "WVW-1");
    let (_, request) = ask!(service, Role::Renter, POST "/v1/usage-requests", usage("cabin"));
    let actions = format!("{}/actions", path_of(&request, "key"));
    let token = token::decode(request["key"]["token"].as_str().unwrap()).unwrap();
    let proof = |nonce: &str, function| {
        let message = token::use_message(&token::sha256(nonce.as_bytes()), &token::sha256(&token), function);
        URL_SAFE_NO_PAD.encode(phone().sign(&message).to_bytes())
    };
    let body = |proof: String| json!({"function": "unlock_doors", "proof": proof});
    let good = body(proof("a1", Function::UnlockDoors));
    assert_eq!(ask!(service, Role::Renter, POST & actions, good.clone(), "a1").0, 202);
    let (status, problem) = ask!(service, Role::Renter, POST & actions, good.clone(), "a2");
    assert_eq!((status, slug(&problem)), (403, "forbidden"), "recorded, and used again under another key");
    let other = body(proof("a3", Function::LockDoors));
    assert_eq!(ask!(service, Role::Renter, POST & actions, other, "a3").0, 403, "made for another function");
    let (status, problem) = ask!(service, Role::Renter, POST & actions, good);
    assert_eq!((status, &problem["field"]), (400, &json!("Idempotency-Key")), "over nothing");
    let (status, problem) = ask!(service, Role::Renter, POST & actions, body("=".into()), "a4");
    assert_eq!((status, &problem["field"]), (400, &json!("proof")));
}

#[actix_web::test]
async fn a_rental_is_made_longer_and_its_holder_fetches_the_longer_token() {
    let (app, _) = app();
    let service = service!(app);
    ask!(service, Role::Operator, POST "/v1/vehicles", json!({"vehicle_id": "WVW-1"}));
    let (_, request) = ask!(service, Role::Renter, POST "/v1/usage-requests", usage("cabin"));
    let (key, rental) = (path_of(&request, "key"), path_of(&request, "rental"));
    let extend = format!("{rental}/extend");
    let longer = json!({"until": time(7_200_000)});
    let (status, body) = ask!(service, Role::Renter, POST & extend, longer.clone(), "x1");
    assert_eq!((status, &body["until"]), (200, &json!(time(7_200_000))), "{body}");
    assert_eq!(ask!(service, Role::Renter, POST & extend, longer, "x1").1, body, "the same answer again");
    let (_, fetched) = ask!(service, Role::Renter, GET & key);
    let text = fetched["token"].as_str().unwrap();
    assert_ne!(fetched["token"], request["key"]["token"]);
    let vehicle: VehicleId = "WVW-1".parse().unwrap();
    let later = Timestamp(NOW_MS + 7_000_000);
    let verified = token::verify_text(text, &app.signer.keyset(), &vehicle, later).unwrap();
    assert_eq!(verified.grant.not_after, Timestamp(NOW_MS + 7_200_000));
    let (status, problem) = ask!(service, Role::Renter, POST & extend, json!({"until": time(60_000)}));
    assert_eq!((status, slug(&problem)), (400, "invalid"));
    assert_eq!(ask!(service, Role::Auditor, POST & extend, json!({"until": time(9_000_000)})).0, 403);
}

#[actix_web::test]
async fn a_delegation_is_verified_shown_and_taken_back_by_its_holder() {
    let (app, _) = app();
    let service = service!(app);
    ask!(service, Role::Operator, POST "/v1/vehicles", json!({"vehicle_id": "WVW-1"}));
    let (_, request) = ask!(service, Role::Renter, POST "/v1/usage-requests", usage("drive"));
    let key = path_of(&request, "key");
    let parent = token::decode(request["key"]["token"].as_str().unwrap()).unwrap();
    let made = |signer: SigningKey| {
        let holder = |key: &SigningKey| HolderKey::Ed25519 { x: key.verifying_key().to_bytes() };
        let grant = KeyGrant {
            key_id: KeyId(Uuid::from_u128(77)),
            holder_key: holder(&SigningKey::from_bytes(&[4; 32])),
            permits: Functions::NONE.with(Function::UnlockDoors),
            not_before: Timestamp(NOW_MS),
            not_after: Timestamp(NOW_MS + 600_000),
            generation: 0,
            geofence: None,
            max_delegation: 0,
            max_speed_kmh: None,
        };
        let delegation = token::Delegation {
            parent: &parent,
            parent_key: &holder(&signer),
            issuer: "anna",
            holder: "bob",
            vehicle: &"WVW-1".parse().unwrap(),
            issued_at: Timestamp(NOW_MS),
            grant: &grant,
        };
        json!({"token": token::delegate(&delegation, |message| signer.sign(message).to_bytes().to_vec())})
    };
    let told = format!("{key}/delegations");
    let (status, problem) = ask!(service, Role::Renter, POST & told, made(SigningKey::from_bytes(&[5; 32])));
    assert_eq!((status, &problem["field"]), (400, &json!("token")), "not by the key's holder: {problem}");
    let (status, body) = ask!(service, Role::Renter, POST & told, made(phone()), "d1");
    assert_eq!((status, &body["holder"], &body["permits"]), (201, &json!("bob"), &json!(["unlock_doors"])), "{body}");
    assert_eq!(body["parent_key_id"], request["key"]["key_id"]);
    let (_, shown) = ask!(service, Role::Operator, GET & key);
    assert_eq!(shown["delegations"][0]["key_id"], body["key_id"]);
    let one = format!("{told}/{}", body["key_id"].as_str().unwrap());
    let (status, body) = ask!(service, Role::Renter, DELETE & one);
    assert_eq!((status, &body["state"]), (200, &json!("revoked")));
    assert_eq!(ask!(service, Role::Renter, DELETE format!("{told}/{}", Uuid::nil())).0, 404);
}

#[actix_web::test]
async fn a_city_reads_where_cars_are_and_nobody_s_name() {
    let (app, _) = app();
    let service = service!(app);
    for id in ["WVW-1", "WVW-2", "WVW-3"] {
        ask!(service, Role::Operator, POST "/v1/vehicles", json!({"vehicle_id": id, "tank_litres": 50.0}));
    }
    online(&app, "WVW-1");
    online(&app, "WVW-2");
    ask!(service, Role::Renter, POST "/v1/usage-requests", usage("cabin"));
    let (status, body) = ask!(service, Role::Auditor, GET "/v1/export/mds/vehicles");
    assert_eq!((status, &body["version"]), (200, &json!("2.0.0")));
    let states: Vec<_> =
        body["vehicles_status"].as_array().unwrap().iter().map(|item| &item["last_event"]["vehicle_state"]).collect();
    assert_eq!(states, ["on_trip", "available", "non_contactable"]);
    assert_eq!(body["vehicles"][0]["device_id"], body["vehicles_status"][0]["device_id"]);
    assert_eq!(
        (&body["vehicles"][0]["vehicle_type"], &body["vehicles"][0]["fuel_capacity"]),
        (&json!("car"), &json!(50))
    );
    assert!(!body.to_string().contains("anna"));
    assert_eq!(ask!(service, Role::Renter, GET "/v1/export/mds/vehicles").0, 403);
}
