//! The card desk over HTTP: cards and stations are added, changed, imported and removed.

use actix_web::test::{TestRequest, call_service};
use serde_json::{Value, json};

use super::tests::{ask, authorization, bench, furnish, json_of, signed, with_guard};
use crate::domain::Role;
use crate::http::testing::{bearer, service};

#[actix_web::test]
async fn cards_are_added_changed_listed_and_removed() {
    let bench = bench();
    let service = service!(bench.app);
    let body = json!({"card_id": "c1", "network_ref": "ic_1", "vehicle_id": "WVW-1"});
    let keyed = || {
        TestRequest::post()
            .uri("/v1/cards")
            .insert_header(bearer(Role::Operator))
            .insert_header(("Idempotency-Key", "k1"))
            .set_json(&body)
    };
    let (status, card) = json_of!(&service, keyed());
    assert_eq!((status, &card["status"]), (201, &json!("active")));
    assert_eq!(json_of!(&service, keyed()), (201, card.clone()), "the same key gets the same answer");
    let other = TestRequest::post()
        .uri("/v1/cards")
        .insert_header(bearer(Role::Operator))
        .insert_header(("Idempotency-Key", "k1"))
        .set_json(json!({"network_ref": "ic_9"}));
    assert_eq!(json_of!(&service, other).0, 422);
    for (body, expected) in [
        (json!({"card_id": "c1", "network_ref": "ic_5"}), 409),
        (json!({"card_id": "c2", "network_ref": "ic_1"}), 409),
        (json!({"card_id": "c2"}), 400),
        (json!({"network_ref": "ic_2", "colour": "red"}), 400),
        (json!({"network_ref": "ic_2", "vehicle_id": "no such id"}), 400),
        (json!({"network_ref": "ic_2"}), 201),
    ] {
        let (status, answer) = json_of!(&service, ask(TestRequest::post(), "/v1/cards", Role::Operator, Some(&body)));
        assert_eq!(status, expected, "{body}: {answer}");
    }
    let (_, page) = json_of!(&service, ask(TestRequest::get(), "/v1/cards?limit=1", Role::Auditor, None));
    assert_eq!(page["items"].as_array().unwrap().len(), 1);
    let next = format!("/v1/cards?limit=1&after={}", page["next"].as_str().unwrap());
    let (_, page) = json_of!(&service, ask(TestRequest::get(), &next, Role::Auditor, None));
    assert_eq!((&page["items"][0]["card_id"], &page["next"]), (&json!("c1"), &Value::Null));
    let change = json!({"status": "suspended", "vehicle_id": null});
    let (_, card) = json_of!(&service, ask(TestRequest::patch(), "/v1/cards/c1", Role::Operator, Some(&change)));
    assert_eq!((&card["status"], &card["vehicle_id"]), (&json!("suspended"), &Value::Null));
    let (_, answer) = json_of!(&service, signed(&authorization("iauth_1")));
    assert_eq!(answer["metadata"]["reason"], "card_active");
    for (role, expected) in [(Role::Auditor, 403), (Role::Renter, 403), (Role::Operator, 204), (Role::Operator, 404)] {
        let answer = call_service(&service, ask(TestRequest::delete(), "/v1/cards/c1", role, None).to_request()).await;
        assert_eq!(answer.status(), expected);
    }
    // A restarted guard knows the same cards.
    let restarted = with_guard(bench.app.clone(), bench.store.clone());
    assert_eq!(restarted.app.guard.cards(None, 10).len(), 1);
}

#[actix_web::test]
async fn a_directory_is_imported_line_by_line_and_again_without_change() {
    let bench = bench();
    let service = service!(bench.app);
    furnish!(&service);
    let text = "id,brand,lat,lon\ns1,Agip Eni,45.08,7.68\ns2,Q8,45.2,7.2\ns3,Esso,,\ns4,IP,,7.1\n";
    let uri = "/v1/stations/import?format=csv&columns=station_id:id,name:brand,latitude:lat,longitude:lon";
    let import = || TestRequest::post().uri(uri).insert_header(bearer(Role::Operator)).set_payload(text.to_owned());
    // s1 was added by hand, with its position.
    let answer = |imported, updated| {
        json!({"imported": imported, "updated": updated, "rejected_total": 1, "without_position": 1,
            "shared_positions": 0, "kept_manual": 1, "rejected": [{"line": 5, "reason": "latitude is missing"}]})
    };
    assert_eq!(json_of!(&service, import()), (200, answer(2, 1)));
    assert_eq!(json_of!(&service, import()), (200, answer(0, 3)));
    let (_, station) = json_of!(&service, ask(TestRequest::get(), "/v1/stations/s1", Role::Auditor, None));
    assert_eq!(station["name"], "Agip Eni");
    assert_eq!(station["terminals"][0]["terminal_id"], "77", "an import without terminals keeps them");
    let change = json!({"position": null, "name": "closed"});
    let (status, station) =
        json_of!(&service, ask(TestRequest::patch(), "/v1/stations/s1", Role::Operator, Some(&change)));
    assert_eq!((status, &station["position"]), (200, &Value::Null));
    let no_format = ask(TestRequest::post(), "/v1/stations/import", Role::Operator, None);
    assert_eq!(json_of!(&service, no_format).1["field"], "format");
    let answer =
        call_service(&service, ask(TestRequest::delete(), "/v1/stations/s2", Role::Operator, None).to_request()).await;
    assert_eq!(answer.status(), 204);
    bench.store.refuse(Some("disk full"));
    assert_eq!(json_of!(&service, import()).0, 503);
}
