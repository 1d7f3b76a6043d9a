//! The webhook receiver and mail server of tests/independent, which are not ours.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

/// What signs, old and new.
pub const SECRETS: [&str; 2] = ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_c2VjcmV0LW9mLWEtcm90YXRpb24tMDE="];
pub const MAIL_PASSWORD: &str = "mail-secret";

/// A receiver of its own, with a certificate of a fleet of its own. Ended when dropped.
pub struct Receiver {
    folder: TempDir,
    certs: TempDir,
    child: Child,
    pub ports: Value,
}

fn python_parts() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target"), PathBuf::from);
    target.join("tools/python")
}

impl Receiver {
    /// `None`, with a word why, where its parts are not installed.
    pub fn start() -> Option<Self> {
        if !python_parts().join("aiosmtpd").exists() || !python_parts().join("standardwebhooks").exists() {
            println!(
                "SKIPPED: Python's aiosmtpd and standardwebhooks are not installed (./scripts/test installs them)"
            );
            return None;
        }
        let (certs, _) = super::init();
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| certs.path().join("fleet/certs").join(name);
        let settings =
            json!({"cert": path("server.pem"), "key": path("server.key.pem"), "secrets": SECRETS, "https": true});
        std::fs::write(folder.path().join("settings.json"), settings.to_string()).expect("written");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/independent/receiver.py");
        let mut child = Command::new("python3")
            .env("PYTHONPATH", python_parts())
            .arg(script)
            .arg(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it runs");
        let mut line = String::new();
        let output = child.stdout.take().expect("piped");
        BufReader::new(output).read_line(&mut line).expect("it says its ports");
        let ports = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
        Some(Self { folder, certs, child, ports })
    }

    pub fn ca(&self) -> String {
        self.certs.path().join("fleet/certs/ca.pem").display().to_string()
    }

    /// How the webhook at `/<path>` (or `mail`) behaves from now on.
    pub fn set_mode(&self, path: &str, mode: &str) {
        // In one step: it may be read at any moment.
        let new = self.folder.path().join(format!("new-{path}"));
        std::fs::write(&new, mode).expect("written");
        std::fs::rename(new, self.folder.path().join(format!("mode-{path}"))).expect("renamed");
    }

    fn lines(&self, name: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
        // The last line may be half written.
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// What came to a webhook, oldest first.
    pub fn webhooks(&self, path: &str) -> Vec<Value> {
        self.lines("webhooks.ndjson").into_iter().filter(|item| item["path"] == path).collect()
    }

    pub fn mails(&self, to: &str) -> Vec<Value> {
        self.lines("mails.ndjson").into_iter().filter(|item| item["to"][0] == to).collect()
    }

    /// A `[[notifier.webhooks]]` at `/<name>`.
    pub fn webhook(&self, name: &str, types: &str) -> String {
        let port = &self.ports["webhooks"];
        let [old, new] = SECRETS;
        format!(
            "{{name = \"{name}\", url = \"https://127.0.0.1:{port}/{name}\", secrets = [\"{old}\", \"{new}\"], \
             types = [\"{types}\"]}}"
        )
    }

    /// What every test's gateway needs to trust it.
    pub fn sets(&self, webhooks: &[String]) -> Vec<String> {
        vec![format!("notifier.ca={}", self.ca()), format!("notifier.webhooks=[{}]", webhooks.join(", "))]
    }

    /// What a gateway needs to send mail by it.
    pub fn mail_sets(&self, tls: &str, emails: &str) -> Vec<String> {
        vec![
            "notifier.smtp.host=127.0.0.1".into(),
            format!("notifier.smtp.port={}", self.ports[tls]),
            format!("notifier.smtp.tls={tls}"),
            "notifier.smtp.user=cardea".into(),
            format!("notifier.smtp.password={MAIL_PASSWORD}"),
            "notifier.smtp.from=Cardea <cardea@fleet.example>".into(),
            format!("notifier.smtp.ca={}", self.ca()),
            format!("notifier.emails=[{emails}]"),
        ]
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
