//! What the CA signs, what it refuses to sign, and that no text offered as a request panics.

use ed25519_dalek::{Signer, Verifier};
use proptest::prelude::*;
use rcgen::{CertificateSigningRequest, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};

use super::*;

const NOW: Timestamp = Timestamp(1_795_000_000_000);

fn ca() -> Ca {
    let made = Ca::create(NOW).expect("a CA");
    Ca::load(&made.cert_pem, &made.key_pem).expect("its own pair")
}

fn vehicle(id: &str) -> VehicleId {
    id.parse().expect("a vehicle id")
}

fn request(common_names: &[&str], key: &KeyPair) -> CertificateSigningRequest {
    let mut params = CertificateParams::new(vec!["bank.example".to_owned()]).expect("names");
    params.distinguished_name = DistinguishedName::new();
    for common_name in common_names {
        params.distinguished_name.push(DnType::CommonName, *common_name);
    }
    params.distinguished_name.push(DnType::OrganizationName, "Somebody");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.serialize_request(key).expect("a request")
}

fn request_pem(common_name: &str, key: &KeyPair) -> String {
    request(&[common_name], key).pem().expect("PEM")
}

fn refusal(csr_pem: &str) -> String {
    let Err(error) = ca().sign_request(csr_pem, &vehicle("car-1"), 30, NOW) else { panic!("was signed") };
    error.to_string()
}

#[test]
fn request_is_signed_with_the_cars_key_and_name_and_nothing_else_it_asks_for() {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
    let signed = ca().sign_request(&request_pem("car-1", &key), &vehicle("car-1"), 30, NOW).expect("signed");
    let der = CertificateDer::from_pem_slice(signed.pem.as_bytes()).expect("PEM");
    let (_, cert) = x509_parser::parse_x509_certificate(&der).expect("X.509");
    assert_eq!(cert.subject().to_string(), "CN=car-1");
    assert_eq!(cert.public_key().raw, key.subject_public_key_info());
    assert_eq!(cert.raw_serial(), signed.serial);
    assert!(cert.subject_alternative_name().expect("readable").is_none());
    assert!(!cert.is_ca());
    let usage = cert.extended_key_usage().expect("readable").expect("there").value;
    assert!(usage.client_auth && !usage.server_auth && !usage.any);
    assert_eq!(cert.validity().not_before.timestamp(), NOW.as_secs() - 3600);
    assert_eq!(cert.validity().not_after.timestamp(), NOW.as_secs() + 30 * 86_400);
    assert_eq!(signed.not_after, NOW.plus_ms(30 * DAY_MS));
}

#[test]
fn requests_with_p384_and_ed25519_keys_are_signed() {
    for algorithm in [&PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
        let key = KeyPair::generate_for(algorithm).expect("a key");
        let signed = ca().sign_request(&request_pem("car-1", &key), &vehicle("car-1"), 30, NOW).expect("signed");
        let der = CertificateDer::from_pem_slice(signed.pem.as_bytes()).expect("PEM");
        let (_, cert) = x509_parser::parse_x509_certificate(&der).expect("X.509");
        assert_eq!(cert.public_key().raw, key.subject_public_key_info());
    }
}

/// Made with `openssl req -new -newkey rsa:N -nodes -subj /CN=car-1` (and `-newkey ec -pkeyopt ec_paramgen_curve:secp521r1`).
#[test]
fn rsa_request_is_signed_from_2048_bits_on_and_other_curves_are_refused() {
    let rsa_2048 = include_str!("../tests/data/csr-rsa2048.pem");
    ca().sign_request(rsa_2048, &vehicle("car-1"), 30, NOW).expect("signed");
    assert!(refusal(include_str!("../tests/data/csr-rsa1024.pem")).contains("its key is neither"));
    assert!(refusal(include_str!("../tests/data/csr-p521.pem")).contains("its key is neither"));
}

#[test]
fn request_for_another_name_or_several_is_refused() {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
    assert!(refusal(&request_pem("car-2", &key)).contains("common name is not the vehicle's id"));
    assert!(refusal(&request_pem("CAR-1", &key)).contains("common name is not the vehicle's id"));
    assert!(refusal(&request(&[], &key).pem().expect("PEM")).contains("exactly one common name"));
}

#[test]
fn request_signed_by_another_key_is_refused() {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
    let mut der = request(&["car-1"], &key).der().to_vec();
    let at = der.windows(8).position(|bytes| bytes == b"Somebody").expect("in there");
    der[at] = b'T';
    let text = base64::engine::general_purpose::STANDARD.encode(&der);
    let pem = format!("-----BEGIN CERTIFICATE REQUEST-----\n{text}\n-----END CERTIFICATE REQUEST-----\n");
    assert!(refusal(&pem).contains("its signature does not fit its key"));
}

#[test]
fn what_is_no_request_is_refused() {
    let ca_pem = Ca::create(NOW).expect("a CA").cert_pem;
    for text in ["", "hello", &ca_pem, "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----"] {
        assert!(refusal(text).contains("refused"), "{text}");
    }
    assert!(refusal(&"x".repeat(MAX_CSR_BYTES + 1)).contains("larger than 16 KiB"));
}

#[test]
fn pair_that_does_not_belong_together_is_no_ca() {
    let (a, b) = (Ca::create(NOW).expect("a CA"), Ca::create(NOW).expect("a CA"));
    assert!(matches!(Ca::load(&a.cert_pem, &b.key_pem), Err(PkiError::Ca(_))));
    let car = ca().issue_vehicle(&vehicle("car-1"), 30, NOW).expect("made");
    assert!(matches!(Ca::load(&car.cert_pem, &car.key_pem), Err(PkiError::Ca(_))));
    assert!(matches!(Ca::load("", &a.key_pem), Err(PkiError::Ca(_))));
    assert!(matches!(Ca::load(&a.cert_pem, ""), Err(PkiError::Ca(_))));
}

#[test]
fn first_ca_of_a_bundle_signs() {
    let (first, second) = (Ca::create(NOW).expect("a CA"), Ca::create(NOW).expect("a CA"));
    let bundle = format!("{}{}", first.cert_pem, second.cert_pem);
    Ca::load(&bundle, &first.key_pem).expect("the first one's key");
    assert!(Ca::load(&bundle, &second.key_pem).is_err());
}

#[test]
fn expired_ca_signs_nothing_and_no_certificate_outlives_its_ca() {
    let ca = ca();
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
    let sign = |now| ca.sign_request(&request_pem("car-1", &key), &vehicle("car-1"), 825, now);
    let end = NOW.plus_ms(i64::from(CA_DAYS) * DAY_MS);
    assert!(matches!(sign(end.plus_ms(1000)), Err(PkiError::Ca(_))));
    assert_eq!(sign(end.plus_ms(-DAY_MS)).expect("signed").not_after, end);
}

#[test]
fn signing_key_survives_its_file() {
    let key = new_signing_key().expect("a key");
    let pem = signing_key_pem(&key).expect("PEM");
    assert!(pem.starts_with("-----BEGIN PRIVATE KEY-----\n"));
    let again = parse_signing_key(&pem).expect("its own PEM");
    key.verifying_key().verify(b"x", &again.sign(b"x")).expect("the same key");
    assert!(parse_signing_key("").is_err());
    let ca_key = Ca::create(NOW).expect("a CA").key_pem;
    assert!(parse_signing_key(&ca_key).is_err(), "an ECDSA key is not an Ed25519 one");
}

#[test]
fn api_keys_differ_and_hash_to_hex() {
    let key = new_api_key().expect("a key");
    assert_ne!(key, new_api_key().expect("a key"));
    assert_eq!(key.len(), 3 + 43);
    // printf %s ck_x | sha256sum
    assert_eq!(api_key_sha256("ck_x"), "9e3feed2f68ba61df273f9c0fee14fc9e79bbcdf6d7409ad0c8c81af338f0b78");
}

#[test]
fn new_file_replaces_none() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("key.pem");
    write_private(&path, "first").expect("written");
    let error = write_private(&path, "second").expect_err("refused");
    assert!(matches!(error, PkiError::Io { kind: io::ErrorKind::AlreadyExists, .. }), "{error}");
    assert_eq!(std::fs::read_to_string(&path).expect("there"), "first");
}

proptest! {
    #[test]
    fn no_host_panics(host in prop_oneof!["(?s).{0,80}", "[a-z0-9.:*_-]{0,300}"]) {
        if check_host(&host).is_ok() {
            prop_assert!(ca().issue_server(&[host], NOW).is_ok());
        }
    }

    #[test]
    fn no_request_panics(text in "(?s).{0,200}", at in 0_usize..400, flip in 1_u8..) {
        let car = vehicle("car-1");
        prop_assert!(requested_key(text.as_bytes(), &car).is_err());
        let pem = include_str!("../tests/data/csr-rsa2048.pem");
        let mut der = rustls_pki_types::CertificateSigningRequestDer::from_pem_slice(pem.as_bytes())
            .map_err(|error| TestCaseError::fail(error.to_string()))?
            .to_vec();
        if let Some(byte) = der.get_mut(at) {
            *byte ^= flip;
        }
        let _ = requested_key(&der, &car);
    }
}
