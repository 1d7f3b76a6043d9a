//! `cardea doctor`: looks at everything a gateway needs before it starts, or beside it while it runs, and says what is
//! wrong and what to do. It changes nothing but a file in the data directory that it takes away again.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

use cardea::actors::card_guard;
use cardea::certs::Certs;
use cardea::clock::{Clock, Stopwatch};
use cardea::config::Config;
use cardea::domain::Timestamp;
use cardea::pki::{self, Ca};
use cardea::{checkpoints, store};
use clap::Args;
use serde::Serialize;

use super::{ConfigArgs, Failure};

const DAY_MS: i64 = 86_400_000;
/// Certificates are told of this long before their end.
const SOON_MS: i64 = 30 * DAY_MS;
/// A clock may be corrected by this much without anybody minding.
const CLOCK_SLACK_MS: i64 = 5_000;
/// A slower disk makes every promise slow.
const SLOW_SYNC: Duration = Duration::from_millis(20);
const SYNCS: usize = 20;
/// Descriptors beside those of cars and callers.
const OTHER_FILES: u64 = 512;
const READY_TIMEOUT: Duration = Duration::from_secs(3);

#[derive(Debug, Args)]
pub struct Doctor {
    #[command(flatten)]
    config: ConfigArgs,
    /// Ask the running gateway whether it is ready, and nothing else
    #[arg(long, conflicts_with = "deep")]
    ready: bool,
    /// Also walk the whole journal, and compare it with its checkpoints
    #[arg(long)]
    deep: bool,
    /// One JSON object a line instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Ok,
    /// It runs, and somebody should look.
    Warn,
    /// It does not run, or not for long.
    Fail,
}

/// What was looked at, and what was found. The sentence says what to do unless it is well.
#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    verdict: Verdict,
    detail: String,
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, check: &'static str, verdict: Verdict, detail: impl Into<String>) {
        self.0.push(Finding { check, verdict, detail: detail.into() });
    }

    fn of(&mut self, check: &'static str, looked: Result<String, String>) {
        match looked {
            Ok(detail) => self.add(check, Verdict::Ok, detail),
            Err(detail) => self.add(check, Verdict::Fail, detail),
        }
    }
}

impl Doctor {
    pub fn run(&self) -> Result<(), Failure> {
        // What is wrong with the config is told as `serve` tells it, with key and line.
        let config = self.config.load()?;
        let mut findings = Findings::default();
        if self.ready {
            findings.of("ready", is_ready(config.metrics.listen));
            return self.tell(&findings);
        }
        let now = Clock::start().now();
        findings.add("config", Verdict::Ok, format!("{} is understood", self.config.config.display()));
        certificates(&mut findings, &config, now);
        keys(&mut findings, &config);
        secrets(&mut findings, &config, &self.config.config);
        rules(&mut findings, &config);
        let is_running = store::is_in_use(&config.data.dir);
        disk(&mut findings, &config);
        journal(&mut findings, &config, now);
        if self.deep {
            findings.of("journal, whole", deep(&config));
        }
        files(&mut findings, &config);
        match is_running {
            true => findings.of("ready", is_ready(config.metrics.listen)),
            false => ports(&mut findings, &config),
        }
        self.tell(&findings)
    }

    fn tell(&self, findings: &Findings) -> Result<(), Failure> {
        let mut text = String::new();
        for finding in &findings.0 {
            let line = match self.json {
                true => serde_json::to_string(finding).map_err(|error| Failure::failed(&error))?,
                false => {
                    let verdict = match finding.verdict {
                        Verdict::Ok => "ok  ",
                        Verdict::Warn => "WARN",
                        Verdict::Fail => "FAIL",
                    };
                    format!("{verdict}  {:<16} {}", finding.check, finding.detail)
                }
            };
            text.push_str(&line);
            text.push('\n');
        }
        let written = std::io::stdout().lock().write_all(text.as_bytes());
        written.map_err(|error| Failure::failed(&format!("cannot print: {error}")))?;
        match findings.0.iter().filter(|finding| finding.verdict == Verdict::Fail).count() {
            0 => Ok(()),
            failed => Err(Failure::failed(&format!("{failed} of {} checks failed", findings.0.len()))),
        }
    }
}

fn certificates(findings: &mut Findings, config: &Config, now: Timestamp) {
    let loaded = Certs::load(&config.certs);
    findings.of(
        "certificates",
        match loaded {
            Ok(_) => Ok("server certificate, its key, the CA bundle and CRL fit together".to_owned()),
            Err(error) => Err(format!("{error}. The gateway does not start with it")),
        },
    );
    for (check, path) in [("certs.server", &config.certs.server), ("certs.ca", &config.certs.ca)] {
        let ends = fs::read_to_string(path).map_err(|error| error.to_string()).and_then(|pem| pki::ends(&pem));
        // One that cannot be read was told above.
        for (name, end) in ends.unwrap_or_default() {
            let (verdict, detail) = match () {
                () if end <= now => (Verdict::Fail, format!("{name} expired at {end}; replace {}", path.display())),
                () if end < now.plus_ms(SOON_MS) => {
                    (Verdict::Warn, format!("{name} expires at {end}; replace {} before, then reload", path.display()))
                }
                () => (Verdict::Ok, format!("{name}, good until {end}")),
            };
            findings.add(check, verdict, detail);
        }
    }
    match &config.certs.ca_key {
        None => findings.add("certs.ca_key", Verdict::Ok, "none: an outside CA signs the cars' certificates"),
        Some(path) => {
            let read = |path: &Path| fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()));
            let fits = read(&config.certs.ca)
                .and_then(|ca| Ok((ca, read(path)?)))
                .and_then(|(ca, key)| Ca::load(&ca, &key).map_err(|error| error.to_string()));
            findings.of(
                "certs.ca_key",
                match fits {
                    Ok(_) => Ok("it signs for the first CA".to_owned()),
                    Err(error) => Err(format!("{error}; cars can get no certificate here until that is mended")),
                },
            );
        }
    }
}

fn keys(findings: &mut Findings, config: &Config) {
    findings.of(
        "keys",
        match cardea::keyset(config) {
            Ok(_) => Ok(format!("the signing key, and {} retired", config.keys.retired_signing_keys.len())),
            Err(error) => Err(error.to_string()),
        },
    );
}

/// Files that hold a secret are for their owner alone.
fn secrets(findings: &mut Findings, config: &Config, config_file: &Path) {
    let ours = [config.certs.ca_key.as_deref(), Some(&config.certs.server_key), config.bridge.client_key.as_deref()];
    let named = [Some(config_file)].into_iter().chain(ours);
    let keys = std::iter::once(&config.keys.signing_key).chain(&config.keys.retired_signing_keys);
    let open: Vec<String> = named
        .flatten()
        .chain(keys.map(std::path::PathBuf::as_path))
        // One that is missing is told by whoever needs it.
        .filter(|path| fs::metadata(path).is_ok_and(|found| found.mode() & 0o077 != 0))
        .map(|path| path.display().to_string())
        .collect();
    match open.is_empty() {
        true => findings.add("secrets", Verdict::Ok, "only their owner can read them"),
        false => {
            findings.add("secrets", Verdict::Warn, format!("others may read {}: chmod 600 them", open.join(", ")));
        }
    }
}

fn rules(findings: &mut Findings, config: &Config) {
    let Some(path) = &config.card_guard.rules else {
        return findings.add("card rules", Verdict::Ok, "the built-in ones");
    };
    let read = fs::read_to_string(path).map_err(|error| error.to_string());
    findings.of(
        "card rules",
        match read.and_then(|text| card_guard::parse_rules(&text).map(|_| ())) {
            Ok(()) => Ok(format!("{} is understood", path.display())),
            Err(error) => Err(format!("{}: {error}", path.display())),
        },
    );
}

fn disk(findings: &mut Findings, config: &Config) {
    let (dir, least) = (&config.data.dir, config.data.min_free_mib);
    if !dir.exists() {
        return findings.add("data", Verdict::Ok, format!("{} will be made at the first start", dir.display()));
    }
    match store::free_bytes(dir).map(|bytes| bytes / (1024 * 1024)) {
        Some(free) if free < least => findings.add(
            "disk",
            Verdict::Fail,
            format!("{free} MiB free, less than data.min_free_mib = {least}: promises are refused until there is more"),
        ),
        // Room for some segments more.
        Some(free) if free < least + 4 * config.data.segment_mib => {
            findings.add("disk", Verdict::Warn, format!("{free} MiB free: make room soon"));
        }
        Some(free) => findings.add("disk", Verdict::Ok, format!("{free} MiB free")),
        None => findings.add("disk", Verdict::Fail, format!("the free space of {} cannot be told", dir.display())),
    }
    match median_sync(dir) {
        Ok(took) if took > SLOW_SYNC => findings.add(
            "disk sync",
            Verdict::Warn,
            format!("{} ms for one (median): every promise waits for one, use a faster disk", took.as_millis()),
        ),
        Ok(took) => findings.add("disk sync", Verdict::Ok, format!("{:.2} ms (median)", took.as_secs_f64() * 1e3)),
        Err(error) => findings.add(
            "disk sync",
            Verdict::Fail,
            format!("{} cannot be written by this user: {error}", dir.display()),
        ),
    }
}

fn median_sync(dir: &Path) -> std::io::Result<Duration> {
    let path = dir.join(format!(".doctor-{}", std::process::id()));
    let measured = fs::File::create_new(&path).and_then(|file| {
        let mut took = Vec::with_capacity(SYNCS);
        for turn in 0..SYNCS as u64 {
            file.write_all_at(&[1; 512], turn * 512)?;
            let watch = Stopwatch::start();
            file.sync_data()?;
            took.push(watch.elapsed());
        }
        took.sort();
        Ok(took[SYNCS / 2])
    });
    let _ = fs::remove_file(&path);
    measured
}

fn journal(findings: &mut Findings, config: &Config, now: Timestamp) {
    match store::newest(&config.data.dir) {
        Ok(None) => findings.add("journal", Verdict::Ok, "none yet"),
        Ok(Some((records, at))) => {
            findings.add("journal", Verdict::Ok, format!("{records} records, the newest of {at}"));
            match at.0 - now.0 {
                ahead if ahead > CLOCK_SLACK_MS => findings.add(
                    "clock",
                    Verdict::Fail,
                    format!("it says {now}, but the newest record is of {at}: keys would open too long. Set the clock"),
                ),
                _ => findings.add("clock", Verdict::Ok, format!("{now}, not before what was recorded")),
            }
        }
        Err(error) => findings.add("journal", Verdict::Fail, error.to_string()),
    }
}

fn deep(config: &Config) -> Result<String, String> {
    if let Ok(None) = store::newest(&config.data.dir) {
        return Ok("none yet".to_owned());
    }
    let file = config.audit.checkpoints.as_deref();
    let keyset = cardea::keyset(config).map_err(|error| error.to_string())?;
    let witnesses = file.map(|file| checkpoints::Witnesses::read(file, &keyset)).transpose();
    let witnesses = witnesses.map_err(|error| error.to_string())?;
    let (found, agreed) =
        checkpoints::verify(&config.data.dir, witnesses, &mut |_| {}).map_err(|error| error.to_string())?;
    let agreed = agreed.map_or(String::new(), |count| format!(", as {count} checkpoints say"));
    Ok(format!("{} records are whole and chained{agreed}", found.records))
}

fn files(findings: &mut Findings, config: &Config) {
    let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let wanted = (config.mqtt.max_sessions + config.http.max_connections) as u64 + OTHER_FILES;
    match most < wanted {
        true => findings.add(
            "open files",
            Verdict::Warn,
            format!("{most} at most, but the config allows {wanted}: raise the limit (LimitNOFILE, ulimit -n)"),
        ),
        false => findings.add("open files", Verdict::Ok, format!("{most} at most, {wanted} wanted")),
    }
}

fn ports(findings: &mut Findings, config: &Config) {
    let listen = [
        ("http.listen", config.http.listen),
        ("mqtt.listen", config.mqtt.listen),
        ("metrics.listen", config.metrics.listen),
    ];
    for (check, address) in listen {
        findings.of(
            check,
            match TcpListener::bind(address) {
                Ok(_) => Ok(format!("{address} is free")),
                Err(error) => Err(format!("{address} cannot be used: {error}")),
            },
        );
    }
}

/// Asks `/readyz`; the whole conversation has [`READY_TIMEOUT`] for each step.
fn is_ready(address: SocketAddr) -> Result<String, String> {
    let ask = || -> std::io::Result<String> {
        let mut line = TcpStream::connect_timeout(&address, READY_TIMEOUT)?;
        line.set_read_timeout(Some(READY_TIMEOUT))?;
        line.set_write_timeout(Some(READY_TIMEOUT))?;
        line.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        line.take(64 * 1024).read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = ask().map_err(|error| format!("{address} does not answer: {error}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    match head.split(' ').nth(1) {
        Some("200") => Ok(format!("the gateway at {address} is ready")),
        _ => Err(format!("the gateway at {address} is not ready: {}", body.trim())),
    }
}
