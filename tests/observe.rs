//! The dashboard and the alerts that come with the gateway speak of what it really shows: every metric and label in them
//! exists in a live `/metrics`, of the kind its function wants. Without this a renamed metric leaves an alert that never
//! fires, and nobody notices.

mod kit;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use kit::{Gateway, has};
use serde_json::Value;

/// What a scrape showed: each family's kind, and the labels of each with their values.
#[derive(Default)]
struct Shown {
    kinds: BTreeMap<String, String>,
    labels: BTreeMap<String, BTreeMap<String, BTreeSet<String>>>,
}

impl Shown {
    fn read(text: &str) -> Self {
        let mut shown = Self::default();
        for line in text.lines() {
            if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
                let before = shown.kinds.insert(name.to_owned(), kind.to_owned());
                assert!(before.is_none(), "{name} is shown twice");
            } else if !line.starts_with('#') {
                let name = line.split(['{', ' ']).next().expect("a name").to_owned();
                let labels = shown.labels.entry(name).or_default();
                for (label, value) in labels_of(line) {
                    labels.entry(label).or_default().insert(value);
                }
            }
        }
        shown
    }

    /// The kind of the family that the sample's name belongs to.
    fn kind(&self, sample: &str) -> Option<&str> {
        let family = |suffix: &str, kind: &str| {
            let name = sample.strip_suffix(suffix)?;
            self.kinds.get(name).filter(|known| *known == kind).map(String::as_str)
        };
        let histogram = ["_bucket", "_count", "_sum"].iter().find_map(|suffix| family(suffix, "histogram"));
        histogram.or_else(|| family("_total", "counter")).or_else(|| family("", "gauge"))
    }
}

/// `name="value"` in braces; no value here holds a quote or a brace.
fn labels_of(text: &str) -> Vec<(String, String)> {
    let Some((_, rest)) = text.split_once('{') else { return Vec::new() };
    let inner = rest.split('}').next().unwrap_or("");
    let pairs = inner.split("\",").filter_map(|pair| pair.split_once('='));
    pairs
        .map(|(name, value)| (name.trim().trim_end_matches('~').into(), value.trim_matches(['~', '"']).into()))
        .collect()
}

/// What is wrong with an expression of PromQL, seen from what the gateway shows. Its grammar is promtool's to judge.
fn faults(expression: &str, shown: &Shown) -> Vec<String> {
    let mut faults = Vec::new();
    let starts = expression.match_indices("cardea_").map(|(start, _)| start);
    let starts: Vec<usize> =
        starts.filter(|start| !expression[..*start].ends_with(|c: char| c.is_alphanumeric() || c == '_')).collect();
    if starts.is_empty() && !expression.starts_with("up{") {
        faults.push("it speaks of nothing that the gateway shows".into());
    }
    let mut known_labels = BTreeSet::from(["instance".to_owned(), "job".to_owned()]);
    for start in starts {
        let rest = &expression[start..];
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let name = &rest[..end];
        let Some(kind) = shown.kind(name) else {
            faults.push(format!("{name} is not shown"));
            continue;
        };
        let is_rated = ["rate(", "increase("].iter().any(|function| expression[..start].ends_with(function));
        if is_rated != (kind != "gauge") {
            faults.push(format!("{name} is a {kind}"));
        }
        if name.ends_with("_bucket") != expression[..start].contains("histogram_quantile(") {
            faults.push(format!("{name}: quantiles are taken of buckets, and of nothing else"));
        }
        let labels = &shown.labels[name];
        known_labels.extend(labels.keys().cloned());
        if rest[end..].starts_with('{') {
            for (label, value) in labels_of(&rest[end..]).iter().filter(|(label, _)| label != "instance") {
                let values = labels.get(label);
                let has_all = value.split('|').all(|one| values.is_some_and(|values| values.contains(one)));
                if !has_all {
                    faults.push(format!("{name} has no {label}={value}"));
                }
            }
        }
    }
    for word in ["by (", "ignoring (", "on ("] {
        for (at, _) in expression.match_indices(word) {
            let listed = expression[at + word.len()..].split(')').next().unwrap_or("");
            let strange = listed.split(',').map(str::trim).filter(|label| !known_labels.contains(*label));
            faults.extend(strange.map(|label| format!("nothing in it has the label {label}")));
        }
    }
    faults
}

fn config(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(file)
}

fn text(file: &str) -> String {
    std::fs::read_to_string(config(file)).expect("the file")
}

/// `(title, expression)` of every panel, with what Grafana fills in.
fn dashboard() -> Vec<(String, String)> {
    let dashboard: Value = serde_json::from_str(&text("grafana/cardea.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let mut all = Vec::new();
    for panel in panels {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().expect("an expression").replace("$__rate_interval", "1m");
            all.push((panel["title"].as_str().expect("a title").to_owned(), expression));
        }
    }
    all
}

/// `(alert, expression)`; the file keeps to what can be read line by line, which promtool and this hold together.
fn alerts() -> Vec<(String, String)> {
    let text = text("prometheus/alerts.yml");
    let mut all: Vec<(String, String)> = Vec::new();
    let mut is_inside = false;
    for line in text.lines() {
        let line = line.trim();
        if let Some(name) = line.strip_prefix("- alert: ") {
            all.push((name.to_owned(), String::new()));
        } else if let Some(expression) = line.strip_prefix("expr: ") {
            is_inside = expression == ">-";
            if !is_inside {
                all.last_mut().expect("an alert").1 = expression.to_owned();
            }
        } else if ["for: ", "labels: ", "annotations:"].iter().any(|key| line.starts_with(key)) {
            is_inside = false;
        } else if is_inside {
            let expression = &mut all.last_mut().expect("an alert").1;
            expression.push_str(line);
            expression.push(' ');
        }
    }
    all
}

#[tokio::test]
async fn the_dashboard_and_the_alerts_speak_of_what_is_shown() {
    let target = r#"notifier.webhooks=[{name="desk",url="http://127.0.0.1:9",secrets=["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]}]"#;
    let gateway = Gateway::start_with(&[target]).await;
    // A first of everything that is counted by what came.
    assert_eq!(gateway.get("/v1/vehicles/NOBODY").await.0, 404);
    let (status, scrape) = gateway.probe("/metrics").await;
    assert_eq!(status, 200);
    let shown = Shown::read(&scrape);
    assert!(gateway.metric("cardea_http_problems_total").await >= 1.0);
    let (alerts, dashboard) = (alerts(), dashboard());
    assert!(alerts.len() >= 20 && dashboard.len() >= 50, "{} alerts, {} expressions", alerts.len(), dashboard.len());
    let found: Vec<String> = [alerts, dashboard]
        .concat()
        .iter()
        .flat_map(|(name, expression)| {
            faults(expression, &shown).into_iter().map(move |fault| format!("{name}: {fault}"))
        })
        .collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn each_fault_is_found() {
    let shown = Shown::read(
        "# TYPE cardea_a counter\ncardea_a_total{state=\"x\"} 1\n# TYPE cardea_g gauge\ncardea_g 1\n\
         # TYPE cardea_h histogram\ncardea_h_bucket{le=\"1\"} 1\ncardea_h_sum 1\ncardea_h_count 1\n",
    );
    for right in [
        "rate(cardea_a_total{state=\"x\"}[5m])",
        "sum by (instance, state) (increase(cardea_a_total[5m])) / cardea_g",
        "histogram_quantile(0.99, sum by (le) (rate(cardea_h_bucket[5m])))",
    ] {
        assert_eq!(faults(right, &shown), Vec::<String>::new(), "{right}");
    }
    for wrong in [
        "rate(cardea_b_total[5m])",
        "cardea_a_total > 1",
        "rate(cardea_g[5m])",
        "cardea_h > 1",
        "rate(cardea_h_bucket[5m])",
        "histogram_quantile(0.99, rate(cardea_a_total[5m]))",
        "rate(cardea_a_total{state=\"y\"}[5m])",
        "rate(cardea_a_total{other=\"x\"}[5m])",
        "sum by (reason) (rate(cardea_a_total[5m]))",
        "vector(1)",
    ] {
        assert!(!faults(wrong, &shown).is_empty(), "{wrong}");
    }
}

fn promtool(arguments: &[&str], file: &Path) {
    let output = Command::new("promtool").args(arguments).arg(file).output().expect("it runs");
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&said));
}

/// `scripts/test` installs Prometheus for it; elsewhere there may be none.
#[test]
fn prometheus_itself_takes_the_expressions_and_the_alerts_fire() {
    if !has("promtool") {
        eprintln!("SKIPPED: there is no promtool here (Debian: apt-get install prometheus)");
        return;
    }
    promtool(&["check", "rules"], &config("prometheus/alerts.yml"));
    promtool(&["test", "rules"], &config("prometheus/alerts_test.yml"));
    // The dashboard's as rules that record, since promtool reads no dashboards.
    let rules = dashboard()
        .into_iter()
        .enumerate()
        .map(|(number, (_, expression))| serde_json::json!({"record": format!("panel:{number}"), "expr": expression}));
    let file = serde_json::json!({"groups": [{"name": "dashboard", "rules": rules.collect::<Vec<_>>()}]});
    let dir = tempfile::tempdir().expect("a temporary folder");
    // JSON is YAML.
    let path = dir.path().join("dashboard.yml");
    std::fs::write(&path, file.to_string()).expect("written");
    promtool(&["check", "rules"], &path);
}
