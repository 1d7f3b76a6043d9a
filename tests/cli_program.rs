//! The program from outside: what `init` and `enroll` make and print, what they refuse, and the exit codes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use cardea::pki;
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::ring::default_provider;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use serde_json::Value;
use tempfile::TempDir;
use x509_parser::parse_x509_certificate;

fn cardea(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cardea"))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("the program can be started")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn assert_ok(output: &Output) {
    assert!(output.status.success(), "{}: {}", output.status, stderr(output));
}

/// Bad arguments or config: exit code 2, nothing on stdout, and a message that names all of `parts`.
#[track_caller]
fn assert_bad_input(output: &Output, parts: &[&str]) {
    assert_eq!(output.status.code(), Some(2), "{}", stderr(output));
    assert!(output.stdout.is_empty());
    for part in parts {
        assert!(stderr(output).contains(part), "`{part}` is not in: {}", stderr(output));
    }
}

/// A fresh fleet in a folder of its own, with what `init` printed.
fn fleet() -> (TempDir, String, Value) {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let dir = temp.path().join("fleet").to_str().expect("UTF-8").to_owned();
    let output = cardea(&["init", "--dir", &dir, "--host", "gateway.example", "--host", "10.1.2.3"]);
    assert_ok(&output);
    let printed = serde_json::from_slice(&output.stdout).expect("one JSON line");
    (temp, dir, printed)
}

fn mode(path: impl AsRef<Path>) -> u32 {
    fs::metadata(path).expect("exists").permissions().mode() & 0o777
}

fn certificate(path: impl AsRef<Path>) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(path).expect("a PEM certificate")
}

fn roots(ca: &Path) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate(ca)).expect("a CA certificate");
    Arc::new(roots)
}

fn verify_car(ca: &Path, cert: &CertificateDer<'_>) -> Result<(), rustls::Error> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(ca), Arc::new(default_provider()));
    verifier.build().expect("a verifier").verify_client_cert(cert, &[], UnixTime::now()).map(|_| ())
}

fn verify_server(ca: &Path, cert: &CertificateDer<'_>, host: &str) -> Result<(), rustls::Error> {
    let verifier = WebPkiServerVerifier::builder_with_provider(roots(ca), Arc::new(default_provider()));
    let host = ServerName::try_from(host.to_owned()).expect("a host");
    verifier.build().expect("a verifier").verify_server_cert(cert, &[], &host, &[], UnixTime::now()).map(|_| ())
}

fn common_name(cert: &CertificateDer<'_>) -> String {
    let (_, cert) = parse_x509_certificate(cert).expect("X.509");
    cert.subject().iter_common_name().next().expect("a CN").as_str().expect("text").to_owned()
}

#[test]
fn init_prints_one_json_line_with_config_admin_key_and_ca() {
    let (_temp, dir, printed) = fleet();
    assert_eq!(printed["config"], format!("{dir}/cardea.toml"));
    assert_eq!(printed["ca"], format!("{dir}/certs/ca.pem"));
    assert_eq!(printed.as_object().expect("an object").len(), 3);
    let key = printed["admin_key"].as_str().expect("text");
    let secret = key.strip_prefix("ck_").expect("an API key starts with ck_");
    assert_eq!(secret.len(), 43);
    assert!(secret.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
}

#[test]
fn admin_key_is_kept_only_as_its_hash() {
    let (_temp, dir, printed) = fleet();
    let key = printed["admin_key"].as_str().expect("text");
    let config = cardea::config::load(Path::new(&format!("{dir}/cardea.toml")), &[]).expect("valid");
    assert_eq!(config.http.bootstrap_admin_sha256, Some(pki::api_key_sha256(key)));
    for folder in [dir.clone(), format!("{dir}/certs")] {
        for file in fs::read_dir(folder).expect("exists").map(|entry| entry.expect("an entry").path()) {
            if file.is_file() {
                assert!(!fs::read_to_string(&file).expect("text").contains(key), "the key itself is in {file:?}");
            }
        }
    }
}

#[test]
fn private_files_are_for_their_owner_alone() {
    let (_temp, dir, _) = fleet();
    assert_eq!(mode(&dir), 0o700);
    assert_eq!(mode(format!("{dir}/certs")), 0o700);
    for file in ["cardea.toml", "certs/ca.key.pem", "certs/server.key.pem", "certs/signing.key.pem"] {
        assert_eq!(mode(format!("{dir}/{file}")), 0o600, "{file}");
    }
}

#[test]
fn init_makes_another_fleet_each_time() {
    let ((_a, dir_a, printed_a), (_b, dir_b, printed_b)) = (fleet(), fleet());
    assert_ne!(printed_a["admin_key"], printed_b["admin_key"]);
    for file in ["ca.key.pem", "server.key.pem", "signing.key.pem"] {
        let read = |dir: &str| fs::read(format!("{dir}/certs/{file}")).expect("exists");
        assert_ne!(read(&dir_a), read(&dir_b), "{file}");
    }
}

#[test]
fn init_refuses_a_folder_that_is_not_empty_and_leaves_it_as_it_was() {
    let (_temp, dir, _) = fleet();
    let before = fs::read(format!("{dir}/certs/ca.key.pem")).expect("exists");
    let again = cardea(&["init", "--dir", &dir]);
    assert_eq!(again.status.code(), Some(1));
    assert!(stderr(&again).contains(&dir) && stderr(&again).contains("not empty"), "{}", stderr(&again));
    assert!(again.stdout.is_empty());
    assert_eq!(fs::read(format!("{dir}/certs/ca.key.pem")).expect("exists"), before);
}

#[test]
fn init_fills_an_empty_folder_and_makes_missing_ones() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    assert_ok(&cardea(&["init", "--dir", temp.path().to_str().expect("UTF-8")]));
    assert!(temp.path().join("cardea.toml").exists());
    let deep = tempfile::tempdir().expect("a temporary folder");
    assert_ok(&cardea(&["init", "--dir", deep.path().join("a/b/c").to_str().expect("UTF-8")]));
    assert!(deep.path().join("a/b/c/cardea.toml").exists());
}

#[test]
fn init_that_cannot_print_the_key_leaves_nothing() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let dir = temp.path().join("a/fleet");
    let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("Linux has it");
    let output = Command::new(env!("CARGO_BIN_EXE_cardea"))
        .args(["init", "--dir", dir.to_str().expect("UTF-8")])
        .stdout(full)
        .output()
        .expect("the program can be started");
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert_eq!(fs::read_dir(temp.path()).expect("exists").count(), 0, "something was left behind");
}

#[test]
fn init_refuses_what_is_no_host() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let dir = temp.path().join("fleet");
    for host in ["not a host", "", "*.example", "a/b", "[::1]"] {
        let output = cardea(&["init", "--dir", dir.to_str().expect("UTF-8"), "--host", host]);
        assert_bad_input(&output, &["--host", host]);
        assert!(!dir.exists());
    }
    assert_bad_input(&cardea(&["init", "--dir", ""]), &["--dir"]);
    assert_bad_input(&cardea(&["init"]), &["--dir"]);
}

#[test]
fn server_certificate_is_good_for_every_host_asked_for() {
    let (_temp, dir, _) = fleet();
    let (ca, server) = (Path::new(&dir).join("certs/ca.pem"), certificate(format!("{dir}/certs/server.pem")));
    for host in ["localhost", "127.0.0.1", "::1", "gateway.example", "10.1.2.3"] {
        verify_server(&ca, &server, host).expect(host);
    }
    verify_server(&ca, &server, "other.example").expect_err("not asked for");
    verify_car(&ca, &server).expect_err("a server's certificate is not a car's");
}

#[test]
fn enrolled_car_has_a_certificate_of_the_fleets_ca_with_its_own_name() {
    let (_temp, dir, printed) = fleet();
    let (config, out) = (printed["config"].as_str().expect("text"), format!("{dir}/cars/WVW-1"));
    assert_ok(&cardea(&["enroll", "--config", config, "--vehicle", "WVW-1", "--out", &out]));
    let cert = certificate(format!("{out}/cert.pem"));
    verify_car(&Path::new(&out).join("ca.pem"), &cert).expect("the CA in its own folder signed it");
    verify_server(&Path::new(&out).join("ca.pem"), &cert, "localhost").expect_err("a car is not a server");
    assert_eq!(common_name(&cert), "WVW-1");
    assert_eq!(mode(format!("{out}/key.pem")), 0o600);
    let key = PrivateKeyDer::from_pem_file(format!("{out}/key.pem")).expect("a PEM key");
    let signing_key = default_provider().key_provider.load_private_key(key).expect("a usable key");
    let certified = rustls::sign::CertifiedKey::new(vec![cert], signing_key);
    certified.keys_match().expect("the key belongs to the certificate");

    let other = tempfile::tempdir().expect("a temporary folder");
    let other_fleet = other.path().join("fleet");
    assert_ok(&cardea(&["init", "--dir", other_fleet.to_str().expect("UTF-8")]));
    verify_car(&other_fleet.join("certs/ca.pem"), &certified.cert[0]).expect_err("another fleet's CA");
}

#[test]
fn enroll_twice_gives_different_serials_and_never_replaces_a_key() {
    let (_temp, dir, printed) = fleet();
    let config = printed["config"].as_str().expect("text");
    let enroll = |out: &str| cardea(&["enroll", "--config", config, "--vehicle", "car-1", "--out", out]);
    let (first, second) = (format!("{dir}/first"), format!("{dir}/second"));
    assert_ok(&enroll(&first));
    assert_ok(&enroll(&second));
    let serial = |out: &str| {
        let der = certificate(format!("{out}/cert.pem"));
        parse_x509_certificate(&der).expect("X.509").1.raw_serial().to_vec()
    };
    assert_ne!(serial(&first), serial(&second));
    assert_eq!((serial(&first).len(), serial(&first)[0] & 0x80), (16, 0), "16 bytes and positive");

    let key = fs::read(format!("{first}/key.pem")).expect("exists");
    let again = enroll(&first);
    assert_eq!(again.status.code(), Some(1));
    assert!(stderr(&again).contains("key.pem"), "{}", stderr(&again));
    assert_eq!(fs::read(format!("{first}/key.pem")).expect("still there"), key);
}

#[test]
fn enroll_that_fails_half_way_leaves_nothing_of_its_own() {
    let (_temp, dir, printed) = fleet();
    let config = printed["config"].as_str().expect("text");
    let out = format!("{dir}/car");
    fs::create_dir(&out).expect("made");
    fs::write(format!("{out}/ca.pem"), "somebody's").expect("written");
    let output = cardea(&["enroll", "--config", config, "--vehicle", "car-1", "--out", &out]);
    assert_eq!(output.status.code(), Some(1));
    let left: Vec<_> = fs::read_dir(&out).expect("exists").map(|entry| entry.expect("an entry").file_name()).collect();
    assert_eq!(left, ["ca.pem"]);
    assert_eq!(fs::read_to_string(format!("{out}/ca.pem")).expect("still there"), "somebody's");
}

#[test]
fn enroll_refuses_a_bad_vehicle_id() {
    let (_temp, dir, printed) = fleet();
    let config = printed["config"].as_str().expect("text");
    let too_long = "a".repeat(65);
    for id in ["", "a/b", "a b", "+", "#", "é", "../x", &too_long] {
        let out = format!("{dir}/out");
        let argument = format!("--vehicle={id}");
        let output = cardea(&["enroll", "--config", config, &argument, "--out", &out]);
        assert_bad_input(&output, &["--vehicle", "1 to 64"]);
        assert!(!Path::new(&out).exists());
    }
}

#[test]
fn enroll_needs_the_cas_own_key() {
    let (_temp, dir, printed) = fleet();
    let config = printed["config"].as_str().expect("text");
    let out = format!("{dir}/out");
    let enroll = |set: &str| cardea(&["enroll", "--config", config, "--set", set, "--vehicle", "car-1", "--out", &out]);
    assert_bad_input(&enroll("certs.ca_key="), &["certs.ca_key"]);
    let wrong = enroll("certs.ca_key=certs/server.key.pem");
    assert_eq!(wrong.status.code(), Some(1));
    assert!(stderr(&wrong).contains("not the key"), "{}", stderr(&wrong));
    assert_eq!(enroll("certs.ca_key=certs/none.pem").status.code(), Some(1));
    assert!(!Path::new(&out).exists());
}

#[test]
fn bad_config_exits_2_and_names_key_and_line() {
    let (_temp, dir, printed) = fleet();
    let config = printed["config"].as_str().expect("text");
    let bad = format!("{dir}/bad.toml");
    fs::write(&bad, "[mqtt]\n\nshardz = 2\n").expect("written");
    let out = format!("{dir}/out");
    for command in [
        vec!["serve", "--config", &bad],
        vec!["enroll", "--config", &bad, "--vehicle", "car-1", "--out", &out],
        vec!["journal", "verify", "--config", &bad],
        vec!["journal", "export", "--config", &bad],
    ] {
        assert_bad_input(&cardea(&command), &["bad.toml line 3", "mqtt.shardz", "`shards`"]);
    }
    fs::write(&bad, "mqtt.shards = 99\n").expect("written");
    assert_bad_input(&cardea(&["serve", "--config", &bad]), &["line 1", "mqtt.shards", "99", "1 to 16"]);
    assert_bad_input(&cardea(&["serve", "--config", "/nowhere.toml"]), &["/nowhere.toml"]);
    assert_bad_input(&cardea(&["serve", "--config", config, "--set", "mqtt.shardz=1"]), &["--set", "mqtt.shardz"]);
    assert_bad_input(&cardea(&["serve", "--config", config, "--set", "http.listen=here"]), &["--set", "http.listen"]);
    assert_bad_input(&cardea(&["serve", "--config", config, "--set", "nonsense"]), &["--set", "nonsense"]);
}

#[test]
fn bad_arguments_exit_2_and_help_exits_0() {
    for arguments in [vec![], vec!["fly"], vec!["serve"], vec!["serve", "--config"], vec!["journal"], vec!["--nope"]] {
        assert_eq!(cardea(&arguments).status.code(), Some(2), "{arguments:?}");
    }
    for arguments in [["--help"], ["--version"]] {
        assert_ok(&cardea(&arguments));
    }
}

/// One sentence for each key is written once: what is printed is the file that a test holds to the code.
#[test]
fn the_reference_is_the_file_that_a_fleet_starts_with_and_passes_the_check() {
    let printed = cardea(&["config", "reference"]);
    assert_ok(&printed);
    let shipped = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config/cardea.toml")).expect("the file");
    assert_eq!(String::from_utf8_lossy(&printed.stdout), shipped);
    let temp = tempfile::tempdir().expect("a temporary folder");
    let file = temp.path().join("cardea.toml");
    fs::write(&file, &printed.stdout).expect("written");
    assert_ok(&cardea(&["config", "check", "--config", &file.to_string_lossy()]));
}

#[test]
fn a_check_prints_what_is_in_force_and_no_secret() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let file = temp.path().join("cardea.toml");
    let text = r#"
        http.workers = 3
        payments.stripe.secrets = ["whsec_topsecret"]
        payments.own.secrets = ["whsec_dG9wc2VjcmV0LXRvcHNlY3JldC10b3BzZWNyZXQ="]
        payments.marqeta.secrets = ["topsecretuser:topsecretpassword-0123456789"]
        oidc.client_secret = "topsecret"
        [notifier]
        webhooks = [{ name = "desk", url = "https://example.org/x", secrets = ["whsec_dG9wc2VjcmV0LXRvcHNlY3JldC10b3BzZWNyZXQ="] }]
        smtp.host = "mail.example.org"
        smtp.from = "cardea@example.org"
        smtp.user = "cardea"
        smtp.password = "topsecret"
    "#;
    fs::write(&file, text).expect("written");
    let path = file.to_string_lossy();
    let output = cardea(&["config", "check", "--config", &path, "--set", "mqtt.shards=5"]);
    assert_ok(&output);
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let values: toml::Table = printed.parse().expect("TOML");
    assert_eq!(values["http"]["workers"].as_integer(), Some(3));
    assert_eq!(values["mqtt"]["shards"].as_integer(), Some(5), "--set counts");
    assert_eq!(values["mqtt"]["max_sessions"].as_integer(), Some(20_000), "what is left out has its default");
    assert_eq!(values["data"]["dir"].as_str(), temp.path().join("data").to_str(), "where it really is");
    assert_eq!(values["payments"]["stripe"]["secrets"][0].as_str(), Some("***"));
    assert_eq!(values["payments"]["lithic"]["secrets"].as_array().map(Vec::len), Some(0), "that there is none shows");
    assert!(!printed.contains("topsecret") && !printed.contains("dG9wc2Vjcm"), "{printed}");

    fs::write(&file, "[telemetry]\nsample_ratio = 1.5\nendpoint = \"http://example.org/\"\n").expect("written");
    let output = cardea(&["config", "check", "--config", &path]);
    assert_bad_input(&output, &["telemetry.sample_ratio", "0 to 1", "telemetry.endpoint", "https"]);
}
