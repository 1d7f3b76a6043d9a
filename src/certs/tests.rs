//! Reading, reloading, revoking; what the wire makes of it is tested at the gate.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use tempfile::TempDir;

use super::*;

struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

fn ca(name: &str) -> Ca {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let pem = params.self_signed(&key).unwrap().pem();
    Ca { issuer: Issuer::new(params, key), pem }
}

fn leaf(ca: &Ca, name: &str, serial: u64) -> (String, String, CertificateDer<'static>) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["localhost".into()]).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(SerialNumber::from(serial));
    params.not_before = date_time_ymd(2026, 1, 1);
    params.not_after = date_time_ymd(2027, 1, 1);
    let certificate = params.signed_by(&key, &ca.issuer).unwrap();
    (certificate.pem(), key.serialize_pem(), certificate.der().clone())
}

fn crl(ca: &Ca, serial: u64) -> String {
    let revoked = RevokedCertParams {
        serial_number: SerialNumber::from(serial),
        revocation_time: date_time_ymd(2026, 2, 1),
        reason_code: None,
        invalidity_date: None,
    };
    let params = CertificateRevocationListParams {
        this_update: date_time_ymd(2026, 2, 1),
        next_update: date_time_ymd(2030, 2, 1),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: vec![revoked],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(&ca.issuer).unwrap().pem().unwrap()
}

struct Files {
    dir: TempDir,
    paths: config::Certs,
    ca: Ca,
}

fn files() -> Files {
    let dir = tempfile::tempdir().unwrap();
    let ca = ca("fleet");
    let (server, key, _) = leaf(&ca, "localhost", 1);
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("ca.pem"), &ca.pem).unwrap();
    std::fs::write(at("server.pem"), server).unwrap();
    std::fs::write(at("server.key.pem"), key).unwrap();
    let paths = config::Certs {
        ca: at("ca.pem"),
        server: at("server.pem"),
        server_key: at("server.key.pem"),
        ..config::Certs::default()
    };
    Files { dir, paths, ca }
}

const NOW: Timestamp = Timestamp(1_780_000_000_000);

#[test]
fn a_certificate_names_its_vehicle() {
    let ca = ca("fleet");
    let peer = PeerIdentity::of(&leaf(&ca, "WVW-1", 0xbeef).2).unwrap();
    assert_eq!((peer.vehicle.as_str(), peer.serial.to_string().as_str()), ("WVW-1", "beef"));
    assert_eq!(peer.not_before, "2026-01-01T00:00:00Z".parse().unwrap());
    assert!(PeerIdentity::of(&leaf(&ca, "not a vehicle", 1).2).is_err());
    assert!(PeerIdentity::of(&CertificateDer::from(vec![0x30, 0x03, 1, 2, 3])).is_err());
}

#[test]
fn revoking_a_vehicle_spares_the_certificate_it_gets_next() {
    let files = files();
    let certs = Certs::load(&files.paths).unwrap();
    let (old, new) = (leaf(&files.ca, "WVW-1", 2).2, leaf(&files.ca, "WVW-1", 3).2);
    let (old, new) = (PeerIdentity::of(&old).unwrap(), PeerIdentity::of(&new).unwrap());
    assert_eq!(certs.check(&old, NOW), Ok(()));
    certs.revoke_vehicle(old.vehicle.clone(), NOW);
    assert_eq!(certs.check(&old, NOW), Err(Distrust::Revoked));
    assert_eq!(certs.check(&new, NOW), Err(Distrust::Revoked), "backdated");
    certs.except(&new.vehicle, new.serial);
    assert_eq!((certs.check(&old, NOW), certs.check(&new, NOW)), (Err(Distrust::Revoked), Ok(())));
    let other = PeerIdentity::of(&leaf(&files.ca, "WVW-2", 4).2).unwrap();
    assert_eq!(certs.check(&other, NOW), Ok(()));
    certs.revoke(Revocation::Serial("04".parse().unwrap()));
    assert_eq!(certs.check(&other, NOW), Err(Distrust::Revoked));
}

#[test]
fn a_certificate_out_of_its_time_is_not_let_in() {
    let files = files();
    let certs = Certs::load(&files.paths).unwrap();
    let peer = PeerIdentity::of(&leaf(&files.ca, "WVW-1", 2).2).unwrap();
    assert_eq!(certs.check(&peer, peer.not_after.plus_ms(1)), Err(Distrust::NotValidNow));
    assert_eq!(certs.check(&peer, peer.not_before.plus_ms(-1)), Err(Distrust::NotValidNow));
}

#[test]
fn a_chain_of_a_ca_that_left_is_not_trusted_even_where_its_successor_has_its_name() {
    let files = files();
    let certs = Certs::load(&files.paths).unwrap();
    let (old, rekeyed) = (leaf(&files.ca, "WVW-1", 2).2, ca("fleet"));
    assert!(certs.trusts(std::slice::from_ref(&old), NOW));
    assert!(!certs.trusts(&[leaf(&rekeyed, "WVW-1", 3).2], NOW) && !certs.trusts(&[], NOW));
    std::fs::write(&files.paths.ca, &rekeyed.pem).unwrap();
    certs.reload().unwrap();
    assert!(!certs.trusts(&[old], NOW));
    let new = leaf(&rekeyed, "WVW-1", 3).2;
    assert!(certs.trusts(std::slice::from_ref(&new), NOW));
    let peer = PeerIdentity::of(&new).unwrap();
    assert!(!certs.trusts(std::slice::from_ref(&new), peer.not_after.plus_ms(1000)));
    certs.revoke(Revocation::Serial(peer.serial));
    assert!(!certs.trusts(&[new], NOW));
}

#[test]
fn a_reload_takes_a_second_ca_and_a_crl() {
    let mut files = files();
    files.paths.crl = Some(files.dir.path().join("crl.pem"));
    std::fs::write(files.paths.crl.as_ref().unwrap(), crl(&files.ca, 77)).unwrap();
    let certs = Certs::load(&files.paths).unwrap();
    let before = certs.gate();
    let second = ca("second");
    std::fs::write(&files.paths.ca, format!("{}{}", files.ca.pem, second.pem)).unwrap();
    std::fs::write(files.paths.crl.as_ref().unwrap(), crl(&files.ca, 2) + &crl(&second, 9)).unwrap();
    certs.reload().unwrap();
    assert!(!Arc::ptr_eq(&before, &certs.gate()));
    let peer = PeerIdentity::of(&leaf(&files.ca, "WVW-1", 2).2).unwrap();
    assert_eq!(certs.check(&peer, NOW), Err(Distrust::Revoked), "listed by the new CRL");
    let peer = PeerIdentity::of(&leaf(&files.ca, "WVW-1", 77).2).unwrap();
    assert_eq!(certs.check(&peer, NOW), Ok(()), "no longer listed");
    let of_the_other_ca = PeerIdentity::of(&leaf(&second, "WVW-1", 2).2).unwrap();
    assert_eq!(certs.check(&of_the_other_ca, NOW), Ok(()), "the same serial of another CA");
}

#[test]
fn a_bad_file_is_named_and_leaves_the_old_in_force() {
    let mut files = files();
    files.paths.crl = Some(files.dir.path().join("crl.pem"));
    let good_crl = crl(&files.ca, 77);
    std::fs::write(files.paths.crl.as_ref().unwrap(), &good_crl).unwrap();
    let certs = Certs::load(&files.paths).unwrap();
    let before = certs.gate();
    let other_key = KeyPair::generate().unwrap().serialize_pem();
    let half = &files.ca.pem[..files.ca.pem.len() / 2];
    let (ca_file, key_file) = (files.paths.ca.clone(), files.paths.server_key.clone());
    let crl_file = files.paths.crl.clone().unwrap();
    let cases = [
        (&ca_file, String::new(), "holds no PEM certificate"),
        (&ca_file, half.to_owned(), "a PEM section has no END line"),
        (
            &ca_file,
            "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n".into(),
            "a PEM section is not base64",
        ),
        (
            &ca_file,
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".into(),
            "certificate 1 is no CA to us",
        ),
        (&key_file, String::new(), "holds no PEM section of the wanted kind"),
        (&key_file, other_key, "does not fit"),
        (&crl_file, String::new(), "holds no PEM CRL"),
        (&crl_file, "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n".into(), "CRL 1 is damaged"),
    ];
    for (file, content, what) in cases {
        let good = std::fs::read(file).unwrap();
        std::fs::write(file, content).unwrap();
        let error = certs.reload().unwrap_err();
        assert_eq!(&error.file, file);
        assert!(error.what.starts_with(what), "{error}");
        std::fs::write(file, good).unwrap();
    }
    std::fs::remove_file(&ca_file).unwrap();
    assert!(certs.reload().unwrap_err().what.starts_with("cannot be read"));
    assert!(Arc::ptr_eq(&before, &certs.gate()));
}
