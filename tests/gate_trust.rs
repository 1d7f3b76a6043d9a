//! Certificates while the gate runs: revocation, CRLs, a second CA, a new server certificate, resumption.

mod gate_harness;

use std::sync::Arc;

use cardea::clock::Clock;
use cardea::domain::Timestamp;
use cardea::mqtt::Reason;
use gate_harness::*;
use rcgen::ExtendedKeyUsagePurpose;
use rustls::HandshakeKind;

fn now() -> Timestamp {
    Clock::start().now()
}

/// Does TLS and CONNECT; true = accepted.
async fn is_let_in(gate: &Gate, enrolled: &Enrolled) -> bool {
    let Ok(mut raw) = Raw::tls(gate, enrolled).await else { return false };
    raw.send(&connect_packet(enrolled.vehicle.as_str(), 60)).await;
    raw.packet().await == Some(Packet { first: 0x20, body: vec![0, 0] })
}

#[tokio::test]
async fn a_revoked_vehicle_is_kicked_and_stays_out_until_it_has_a_new_certificate() {
    let gate = start_gate(|_| {});
    let mut witness = Witness::new(&gate).await;
    let old = gate.enroll_as("CAR-1", 11);
    let mut raw = Raw::connect(&gate, &old).await;
    gate.certs.revoke_vehicle(old.vehicle.clone(), now());
    assert!(gate.kicker.kick(&old.vehicle, Reason::Revoked));
    assert!(raw.ended().await.is_empty());
    gate.link_down(&old.vehicle).await;
    assert!(!is_let_in(&gate, &old).await);
    gate.counted(Reason::Revoked, 2).await;
    let new = gate.enroll_as("CAR-1", 12);
    gate.certs.except(&new.vehicle, "0c".parse().unwrap());
    assert!(is_let_in(&gate, &new).await);
    assert!(!is_let_in(&gate, &old).await);
    witness.works(&gate).await;
}

/// rumqttd has no CRLs, and its first listener ever keeps its certificates.
#[tokio::test]
async fn a_crl_takes_effect_by_reload_on_sessions_that_are_up_too() {
    let gate = start_gate(|_| {});
    let mut witness = Witness::new(&gate).await;
    let (listed, other) = (gate.enroll_as("CAR-1", 4711), gate.enroll_as("CAR-2", 4712));
    let mut raw = Raw::connect(&gate, &listed).await;
    let _other = Raw::connect(&gate, &other).await;
    std::fs::write(gate.paths.crl.as_ref().unwrap(), gate.ca.crl(&[4711])).unwrap();
    gate.certs.reload().unwrap();
    assert_eq!(gate.kicker.kick_listed(), 1);
    assert!(raw.ended().await.is_empty());
    assert!(!is_let_in(&gate, &listed).await);
    assert!(gate.kicker.is_connected(&other.vehicle));
    witness.works(&gate).await;
    std::fs::write(gate.paths.crl.as_ref().unwrap(), gate.ca.crl(&[])).unwrap();
    gate.certs.reload().unwrap();
    assert!(is_let_in(&gate, &listed).await);
}

/// rumqttd reads only the first CA of a bundle.
#[tokio::test]
async fn a_revoked_certificate_cannot_throw_out_the_car_that_has_the_new_one() {
    let gate = start_gate(|_| {});
    let (stolen, new) = (gate.enroll_as("CAR-1", 31), gate.enroll_as("CAR-1", 32));
    gate.certs.revoke(cardea::certs::Revocation::Serial("1f".parse().unwrap()));
    let mut raw = Raw::connect(&gate, &new).await;
    assert!(!is_let_in(&gate, &stolen).await);
    raw.send(&[0xc0, 0]).await;
    assert_eq!(raw.packet().await.unwrap().first, 0xd0);
    assert_eq!(gate.told.of(&new.vehicle, epoch_up).len(), 1);
}

#[tokio::test]
async fn a_second_ca_is_trusted_after_a_reload_and_the_first_stays() {
    let gate = start_gate(|_| {});
    let mut witness = Witness::new(&gate).await;
    let second = Ca::new("second");
    let (cert, key) = second.issue("CAR-2", 5, ExtendedKeyUsagePurpose::ClientAuth);
    let of_second = Enrolled { cert, key, ..gate.enroll("CAR-2") };
    assert!(!is_let_in(&gate, &of_second).await);
    std::fs::write(&gate.paths.ca, format!("{}{}", gate.ca.pem, second.pem)).unwrap();
    gate.certs.reload().unwrap();
    assert!(is_let_in(&gate, &of_second).await);
    assert!(is_let_in(&gate, &gate.enroll("CAR-1")).await);
    witness.works(&gate).await;
}

#[tokio::test]
async fn a_bad_reload_is_refused_and_changes_nothing() {
    let gate = start_gate(|_| {});
    let mut witness = Witness::new(&gate).await;
    std::fs::write(&gate.paths.server_key, "no key").unwrap();
    let error = gate.certs.reload().unwrap_err();
    assert_eq!(error.file, gate.paths.server_key);
    assert!(is_let_in(&gate, &gate.enroll("CAR-1")).await);
    witness.works(&gate).await;
}

#[tokio::test]
async fn the_server_certificate_is_replaced_by_reload() {
    let gate = start_gate(|_| {});
    let car = gate.enroll("CAR-1");
    let shown = |raw: &Raw| raw.io.get_ref().1.peer_certificates().unwrap()[0].to_vec();
    let before = shown(&Raw::connect(&gate, &car).await);
    let (cert, key) = gate.ca.issue("localhost", 99, ExtendedKeyUsagePurpose::ServerAuth);
    std::fs::write(&gate.paths.server, cert).unwrap();
    std::fs::write(&gate.paths.server_key, key).unwrap();
    gate.certs.reload().unwrap();
    assert_ne!(shown(&Raw::connect(&gate, &car).await), before);
}

#[tokio::test]
async fn a_resumed_session_is_checked_again_and_a_reload_ends_all_tickets() {
    let gate = start_gate(|_| {});
    let mut witness = Witness::new(&gate).await;
    let car = gate.enroll_as("CAR-1", 21);
    let config = client_tls(&car);
    let connect = |config: Arc<rustls::ClientConfig>| async {
        let mut raw = Raw::tls_with(&gate, config).await.unwrap();
        raw.send(&connect_packet("CAR-1", 60)).await;
        let answer = raw.packet().await;
        (answer, raw.io.get_ref().1.handshake_kind())
    };
    let accepted = Some(Packet { first: 0x20, body: vec![0, 0] });
    assert_eq!(connect(Arc::clone(&config)).await, (accepted.clone(), Some(HandshakeKind::Full)));
    assert_eq!(connect(Arc::clone(&config)).await, (accepted.clone(), Some(HandshakeKind::Resumed)));
    assert_eq!(gate.metrics.resumed.get(), 1);
    gate.certs.reload().unwrap();
    assert_eq!(connect(Arc::clone(&config)).await, (accepted.clone(), Some(HandshakeKind::Full)));
    assert_eq!(connect(Arc::clone(&config)).await, (accepted, Some(HandshakeKind::Resumed)));
    gate.certs.revoke(cardea::certs::Revocation::Serial("15".parse().unwrap()));
    let (answer, kind) = connect(config).await;
    let not_authorised = Some(Packet { first: 0x20, body: vec![0, 5] });
    assert_eq!((answer, kind), (not_authorised, Some(HandshakeKind::Resumed)));
    gate.counted(Reason::Revoked, 1).await;
    witness.works(&gate).await;
}
