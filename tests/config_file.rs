//! The configuration: what the shipped file promises, what is refused and how it is named, and that no text panics.

use std::collections::BTreeMap;
use std::path::Path;

use cardea::config::{Config, ConfigError, Origin, Problem, load, parse};
use proptest::prelude::*;
use toml::{Table, Value};

const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/cardea.toml");

fn parsed(text: &str, sets: &[&str]) -> Result<Config, ConfigError> {
    let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
    parse(text, Path::new("fleet/cardea.toml"), &sets)
}

fn problem(text: &str, sets: &[&str]) -> Problem {
    let error = parsed(text, sets).expect_err("must be refused");
    assert!(!error.to_string().is_empty());
    error.problems.into_iter().next().expect("an error has a problem")
}

#[track_caller]
fn assert_refused(text: &str, sets: &[&str], origin: &Origin, key: &str, message: &str) {
    let problem = problem(text, sets);
    assert_eq!(problem.key.as_deref(), Some(key), "{problem:?}");
    assert_eq!(&problem.origin, origin, "{problem:?}");
    assert!(problem.message.contains(message), "{problem:?}");
}

/// Every leaf as `a.b.c` with its value.
fn leaves(table: &Table) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    for (key, value) in table {
        match value {
            Value::Table(inner) => all.extend(leaves(inner).into_iter().map(|(rest, v)| (format!("{key}.{rest}"), v))),
            leaf => {
                all.insert(key.clone(), leaf.clone());
            }
        }
    }
    all
}

#[test]
fn shipped_file_lists_every_key_with_its_default_and_nothing_else() {
    let file: Table = std::fs::read_to_string(SHIPPED).expect("the file is shipped").parse().expect("it is TOML");
    let defaults = Table::try_from(Config::default()).expect("defaults are TOML");
    assert_eq!(leaves(&file), leaves(&defaults));
}

#[test]
fn shipped_file_has_a_sentence_above_every_key() {
    let text = std::fs::read_to_string(SHIPPED).expect("the file is shipped");
    let mut above = "";
    for line in text.lines() {
        if line.contains('=') && !line.starts_with('#') {
            assert!(above.starts_with("# ") && above.ends_with('.'), "no sentence above `{line}`");
        }
        above = line;
    }
}

#[test]
fn shipped_file_loads() {
    load(Path::new(SHIPPED), &[]).expect("the shipped file is a valid config");
}

#[test]
fn shipped_example_of_a_cluster_loads_and_is_one() {
    let path = Path::new(SHIPPED).with_file_name("cluster.toml");
    let config = load(&path, &[]).expect("the shipped example is a valid config");
    assert!(config.cluster.is_on() && config.cluster.replicas == 3 && !config.cluster.accept_unsafe);
}

#[test]
fn empty_file_is_the_default_with_paths_from_its_folder() {
    let config = parsed("", &[]).expect("defaults are valid");
    assert_eq!(config.data.dir, Path::new("fleet/data"));
    assert_eq!(config.certs.ca_key.as_deref(), Some(Path::new("fleet/certs/ca.key.pem")));
    assert_eq!(config.certs.crl, None);
    assert_eq!(config.mqtt.shards, 2);
}

#[test]
fn absolute_path_stays_as_it_is() {
    let config = parsed("[data]\ndir = \"/srv/cardea\"\n", &[]).expect("valid");
    assert_eq!(config.data.dir, Path::new("/srv/cardea"));
}

#[test]
fn empty_path_switches_an_optional_file_off() {
    let config = parsed("[certs]\nca_key = \"\"\n", &[]).expect("valid");
    assert_eq!(config.certs.ca_key, None);
}

#[test]
fn unknown_key_is_named_with_its_line_and_what_was_expected() {
    assert_refused("[mqtt]\nshards = 2\nshard = 3\n", &[], &Origin::Line(3), "mqtt.shard", "unknown key `shard`");
    assert!(problem("[mqtt]\nshard = 3\n", &[]).message.contains("`shards`"));
    assert_refused("[mqqt]\nshards = 3\n", &[], &Origin::Line(1), "mqqt", "expected one of `data`");
    assert_refused("\nshards = 3\n", &[], &Origin::Line(2), "shards", "unknown key");
}

#[test]
fn wrong_type_is_named_with_its_line_and_what_was_expected() {
    assert_refused("[mqtt]\n\nshards = \"two\"", &[], &Origin::Line(3), "mqtt.shards", "expected a whole number");
    assert_refused("[mqtt]\nshards = -1", &[], &Origin::Line(2), "mqtt.shards", "expected a whole number");
    assert_refused("[http]\nlisten = \"localhost\"", &[], &Origin::Line(2), "http.listen", "127.0.0.1:8443");
    assert_refused("http.listen = 8443", &[], &Origin::Line(1), "http.listen", "127.0.0.1:8443");
    assert_refused("mqtt = 5", &[], &Origin::Line(1), "mqtt", "expected");
    assert_refused(
        "[keys.profiles.x]\npermits = [\"fly\"]",
        &[],
        &Origin::Line(2),
        "keys.profiles.x.permits[0]",
        "unknown variant `fly`",
    );
    assert_refused("[keys.profiles.x]\nmax_delegation = 1", &[], &Origin::Line(1), "keys.profiles.x", "permits");
}

#[test]
fn text_that_is_not_toml_is_named_with_its_line() {
    let found = problem("[mqtt]\nshards = = 2\n", &[]);
    assert_eq!(found.origin, Origin::Line(2));
    assert!(found.message.starts_with("not TOML"), "{found:?}");
    let shown = parsed("[mqtt]\nshards = = 2\n", &[]).expect_err("refused").to_string();
    assert!(shown.starts_with("fleet/cardea.toml line 2: "), "{shown}");
}

#[test]
fn missing_file_is_an_error_with_its_path() {
    let error = load(Path::new("/nowhere/cardea.toml"), &[]).expect_err("there is no such file");
    assert!(error.to_string().starts_with("/nowhere/cardea.toml: cannot be read"), "{error}");
}

/// Every number in the config is a limit, a size or a time: none may be zero but those named here.
#[test]
fn zero_is_refused_for_every_number() {
    let defaults = Table::try_from(Config::default()).expect("defaults are TOML");
    let may_be_zero =
        ["cabin", "delivery", "drive", "valet", "service"].map(|name| format!("keys.profiles.{name}.max_delegation"));
    let may_be_zero = [may_be_zero.as_slice(), &["card_guard.suspend_after_declines".into()]].concat();
    for (key, value) in leaves(&defaults) {
        if value.is_integer() && !may_be_zero.contains(&key) {
            let error = parsed("", &[&format!("{key}=0")]).expect_err(&key);
            let names_it = |problem: &Problem| problem.key.as_deref() == Some(&key) && problem.origin == Origin::Set;
            assert!(error.problems.iter().any(names_it), "{key}: {error}");
        }
    }
}

#[test]
fn a_number_far_too_large_is_refused_for_every_number() {
    let defaults = Table::try_from(Config::default()).expect("defaults are TOML");
    for (key, value) in leaves(&defaults) {
        if value.is_integer() {
            let error = parsed("", &[&format!("{key}={}", i64::MAX)]).expect_err(&key);
            assert!(
                error.problems.iter().any(|p| p.key.as_deref().is_some_and(|k| key.starts_with(k))),
                "{key}: {error}"
            );
        }
    }
}

#[test]
fn value_out_of_range_is_named_with_its_line_and_value() {
    assert_refused("[mqtt]\nshards = 17", &[], &Origin::Line(2), "mqtt.shards", "17 is out of range; expected 1 to 16");
    assert_refused(
        "[mqtt]\nheartbeat_ms = 1500",
        &[],
        &Origin::File,
        "mqtt.stall_ms",
        "twice mqtt.heartbeat_ms (1500)",
    );
    assert_refused("[data]\ndir = \"\"", &[], &Origin::Line(2), "data.dir", "no path");
    assert_refused("[keys]\nissuer = \"\"", &[], &Origin::Line(2), "keys.issuer", "1 to 64 bytes");
    assert_refused(
        "http.bootstrap_admin_sha256 = \"ck_x\"",
        &[],
        &Origin::Line(1),
        "http.bootstrap_admin_sha256",
        "64",
    );
}

#[test]
fn all_problems_are_named_at_once() {
    let error = parsed("[mqtt]\nshards = 17\n[http]\nworkers = 0\n", &[]).expect_err("refused").to_string();
    assert!(error.contains("line 2: mqtt.shards") && error.contains("line 4: http.workers"), "{error}");
}

#[test]
fn two_listeners_on_one_port_are_refused_unless_it_is_port_0() {
    assert_refused("[http]\nlisten = \"0.0.0.0:8883\"", &[], &Origin::Line(2), "http.listen", "taken by mqtt.listen");
    parsed("", &["http.listen=127.0.0.1:0", "mqtt.listen=127.0.0.1:0", "metrics.listen=127.0.0.1:0"]).expect("valid");
}

#[test]
fn profile_that_prohibits_nothing_is_refused() {
    let all = "[\"unlock_doors\",\"lock_doors\",\"enter_cabin\",\"open_trunk\",\"drive\",\"accessory_power\",\"climate\",\
               \"infotainment\",\"windows\",\"open_glovebox\",\"open_fuel_flap\",\"open_charge_port\",\"locate\"]";
    let text = format!("[keys.profiles.owner]\npermits = {all}\n");
    assert_refused(&text, &[], &Origin::Line(1), "keys.profiles.owner", "prohibits at least one function");
    let text = "[keys.profiles.none]\npermits = []\n";
    assert_refused(text, &[], &Origin::Line(1), "keys.profiles.none", "permits at least one function");
    let text = "[keys.profiles.a]\npermits = [\"drive\"]\nmax_delegation = 2\n";
    assert_refused(text, &[], &Origin::Line(1), "keys.profiles.a", "delegated at most once");
}

#[test]
fn profiles_in_the_file_stand_in_place_of_the_built_in_ones() {
    let config = parsed("[keys.profiles.valet]\npermits = [\"drive\"]\n", &[]).expect("valid");
    let names: Vec<String> = config.keys.profiles().expect("checked").into_iter().map(|profile| profile.name).collect();
    assert_eq!(names, ["valet"]);
    let names: Vec<String> = parsed("", &[]).expect("valid").keys.profiles.into_keys().collect();
    assert_eq!(names, ["cabin", "delivery", "drive", "service", "valet"]);
}

#[test]
fn file_without_a_profile_is_refused() {
    assert_refused("[keys]\nprofiles = {}\n", &[], &Origin::Line(2), "keys.profiles", "0 profiles");
}

#[test]
fn set_overrides_the_file() {
    let config = parsed("[mqtt]\nshards = 3\n", &["mqtt.shards=4"]).expect("valid");
    assert_eq!(config.mqtt.shards, 4);
    let config = parsed("", &["mqtt.shards=4", "mqtt.shards = 5"]).expect("valid");
    assert_eq!(config.mqtt.shards, 5, "the last one counts");
}

#[test]
fn set_takes_toml_or_bare_text() {
    let secrets = |set: &str| parsed("", &[set]).expect("valid").payments.stripe.secrets;
    assert_eq!(secrets("payments.stripe.secrets=whsec_x"), ["whsec_x"]);
    assert_eq!(secrets("payments.stripe.secrets=[\"whsec_a\", \"whsec_b\"]"), ["whsec_a", "whsec_b"]);
    assert_eq!(secrets("payments.stripe.secrets=1234567890"), ["1234567890"]);
    assert_eq!(secrets("payments.stripe.secrets=whsec_a=b="), ["whsec_a=b="]);
    assert!(secrets("payments.stripe.secrets=[]").is_empty());
    let config = parsed("", &["payments.stripe.api_version=2026-10-28", "keys.issuer=42"]).expect("valid");
    assert_eq!((config.payments.stripe.api_version.as_str(), config.keys.issuer.as_str()), ("2026-10-28", "42"));
    let config = parsed("", &["http.listen=[::1]:9000", "data.dir=elsewhere", "data.dir=\"/srv/x\""]).expect("valid");
    assert_eq!((config.http.listen.port(), config.data.dir.as_path()), (9000, Path::new("/srv/x")));
}

#[test]
fn set_reaches_into_a_profile() {
    let config = parsed("", &["keys.profiles.drive.max_delegation=0"]).expect("valid");
    assert_eq!(config.keys.profiles["drive"].max_delegation, 0);
}

#[test]
fn bad_set_is_refused_and_named() {
    assert_refused("", &["mqtt.shard=2"], &Origin::Set, "mqtt.shard", "unknown key");
    assert_refused("", &["nothing=2"], &Origin::Set, "nothing", "unknown key");
    assert_refused("", &["mqtt.shards=two"], &Origin::Set, "mqtt.shards", "expected a whole number");
    assert_refused("", &["mqtt.shards=99"], &Origin::Set, "mqtt.shards", "99 is out of range");
    assert_refused("", &["mqtt.shards.x=1"], &Origin::Set, "mqtt.shards.x", "not a table");
    assert_refused("", &["mqtt..shards=1"], &Origin::Set, "mqtt..shards", "dotted key");
    assert_refused("", &["=1"], &Origin::Set, "", "dotted key");
    let list = ["payments.stripe.secrets=[\"a\",1]", "payments.stripe.secrets=[\"a\""];
    assert_refused("", &list[..1], &Origin::Set, "payments.stripe.secrets[1]", "list of strings");
    assert_refused("", &list[1..], &Origin::Set, "payments.stripe.secrets", "list of strings");
    assert_refused("", &["mqtt=1"], &Origin::Set, "mqtt", "expected");
    let found = problem("", &["mqtt.shards"]);
    assert!(found.message.contains("`mqtt.shards`: expected key=value"), "{found:?}");
    assert_refused("", &["mqtt.shards=1\nmqtt.threads=9"], &Origin::Set, "mqtt.shards", "expected a whole number");
}

#[test]
fn secret_is_shown_neither_by_errors_nor_by_debug() {
    for text in ["payments.stripe.secrets = \"topsecret\"", "payments.stripe.secrets = [\"topsecret\", \"topsecret\"]"]
    {
        let error = parsed(text, &[]).expect_err("refused");
        assert!(!format!("{error} {error:?}").contains("topsecret"), "{error}");
    }
    let error = parsed("", &["payments.stripe.secrets=[\"topsecret\", {}]"]).map(|config| format!("{config:?}"));
    assert!(!format!("{error:?}").contains("topsecret"), "{error:?}");
    let config = parsed("", &["payments.stripe.secrets=topsecret"]).expect("valid");
    assert!(!format!("{config:?}").contains("topsecret"));
    for form in ["own", "lithic", "marqeta"] {
        let error = parsed("", &[&format!("payments.{form}.secrets=[\"topsecret\", 1]")]).expect_err("refused");
        assert!(!format!("{error} {error:?}").contains("topsecret"), "{error}");
        let error = parsed("", &[&format!("payments.{form}.secrets=topsecret")]).expect_err("of the wrong form");
        assert!(!format!("{error} {error:?}").contains("topsecret"), "{error}");
    }
    let whsec = "payments.own.secrets=whsec_dG9wc2VjcmV0dG9wc2VjcmV0";
    let config = parsed("", &[whsec, "payments.marqeta.secrets=user:topsecret"]).expect("valid");
    assert!(!format!("{config:?}").contains("topsecret"), "{config:?}");
    assert!(!format!("{config:?}").contains("dG9w"), "{config:?}");
}

/// Lines that look like a config, so that more of the parser is reached than by noise.
fn config_like() -> impl Strategy<Value = String> {
    let name =
        prop::sample::select(vec!["mqtt", "shards", "keys", "profiles", "listen", "payments", "stripe", "x", "\"\""]);
    let key = prop::collection::vec(name, 1..4).prop_map(|names| names.join("."));
    let value =
        prop_oneof![any::<i64>().prop_map(|n| n.to_string()), "\\PC{0,12}", "\"\\PC{0,8}\"", "\\[[0-9,]{0,6}\\]"];
    let line = prop_oneof![
        (key.clone(), value).prop_map(|(key, value)| format!("{key} = {value}")),
        key.clone().prop_map(|key| format!("[{key}]")),
        key.prop_map(|key| format!("[[{key}]]")),
        "\\PC{0,20}",
    ];
    prop::collection::vec(line, 0..8).prop_map(|lines| lines.join("\n"))
}

proptest! {
    #[test]
    fn no_text_panics(text in prop_oneof!["(?s).{0,200}", config_like()], set in prop_oneof!["(?s).{0,40}", config_like()]) {
        let sets = [set];
        if let Err(error) = parse(&text, Path::new("c.toml"), &sets) {
            prop_assert!(!error.problems.is_empty());
            prop_assert!(!error.to_string().is_empty());
        }
    }
}

#[test]
fn a_bridge_is_by_tls_with_a_ca_and_only_for_listed_cars() {
    let with = |more: &str| format!("[bridge]\nbroker = \"mqtts://b.example.org\"\nca = \"ca.pem\"\n{more}\n");
    let config = parsed(&with("vehicles = [\"WVW-1\", \"TAXI-*\"]"), &[]).expect("valid");
    assert_eq!(config.bridge.address(), Some(("b.example.org".into(), 8883)));
    assert_eq!(config.bridge.ca.as_deref(), Some(Path::new("fleet/ca.pem")));
    assert_refused(&with(""), &[], &Origin::File, "bridge.vehicles", "nobody could come");
    for vehicles in ["*", "", "TAXI*7", "Ä-*"] {
        let text = with(&format!("vehicles = [\"{vehicles}\"]"));
        assert_refused(&text, &[], &Origin::Line(4), "bridge.vehicles", "beginnings of at least one character");
    }
    let text = with("vehicles = [\"A\"]");
    assert_refused(&text, &["bridge.broker=mqtt://b"], &Origin::Set, "bridge.broker", "TLS always");
    assert_refused(&text, &["bridge.broker=mqtts://me:secret@b"], &Origin::Set, "bridge.broker", "without a log-in");
    assert_refused(&text, &["bridge.ca="], &Origin::Set, "bridge.ca", "CA");
    assert_refused(&text, &["bridge.client_cert=x.pem"], &Origin::Set, "bridge.client_cert", "bridge.client_key");
    assert_refused(&text, &["bridge.password=x"], &Origin::Set, "bridge.password", "a password needs bridge.user");
    for prefix in ["fleet", "/fleet/", "+/", "a b/", "$share/g/"] {
        let set = format!("bridge.topic_prefix={prefix}");
        assert_refused(&text, &[&set], &Origin::Set, "bridge.topic_prefix", "a slash behind each");
    }
    let told = parsed("[bridge]\npassword = [\"hush\"]\n", &[]).expect_err("refused").to_string();
    assert!(!told.contains("hush"), "{told}");
    let config = parsed(&text, &["bridge.user=u", "bridge.password=hush"]).expect("valid");
    assert!(!format!("{config:?}").contains("hush"));
}
