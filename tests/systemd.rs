//! The real program under a systemd played by the test: what it says on the notification socket, that it feeds the
//! watchdog in time, and that it does not while a part of it hangs.

mod kit;

use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use kit::halted::Halted;
use kit::{Gateway, PATIENCE, has, until};
use tempfile::TempDir;

/// As `WatchdogSec=` has it; the program must feed at less than half of it.
const LIMIT: Duration = Duration::from_secs(4);

/// The socket that systemd listens on, with what came in and when.
struct Systemd {
    dir: TempDir,
    heard: Receiver<(Instant, String)>,
}

impl Systemd {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let socket = UnixDatagram::bind(dir.path().join("notify")).expect("a socket");
        let (tell, heard) = channel();
        std::thread::spawn(move || {
            let mut message = [0; 4096];
            while let Ok(length) = socket.recv(&mut message) {
                let text = String::from_utf8_lossy(&message[..length]).into_owned();
                if text.lines().map(str::to_owned).any(|line| tell.send((now(), line)).is_err()) {
                    return;
                }
            }
        });
        Self { dir, heard }
    }

    fn envs(&self) -> [(String, String); 2] {
        let socket = self.dir.path().join("notify").to_string_lossy().into_owned();
        [("NOTIFY_SOCKET".into(), socket), ("WATCHDOG_USEC".into(), LIMIT.as_micros().to_string())]
    }

    async fn gateway(&self) -> Gateway {
        let envs = self.envs();
        let envs: Vec<(&str, &str)> = envs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        Gateway::start_in(&envs, &[]).await
    }

    /// The next line that begins so; `None` when none comes in time. Other lines are passed over.
    fn next(&self, begin: &str, within: Duration) -> Option<(Instant, String)> {
        let until = now() + within;
        loop {
            match self.heard.recv_timeout(until.saturating_duration_since(now())) {
                Ok(heard) if heard.1.starts_with(begin) => return Some(heard),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return None,
            }
        }
    }

    fn forget(&self) {
        while self.heard.try_recv().is_ok() {}
    }
}

#[expect(clippy::disallowed_methods, reason = "the real time between two real messages is what is tested")]
fn now() -> Instant {
    Instant::now()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_tells_systemd_that_it_is_ready_that_it_lives_and_that_it_stops() {
    let systemd = Systemd::start();
    let mut gateway = systemd.gateway().await;
    systemd.next("READY=1", PATIENCE).expect("it says that it is ready");
    let http = gateway.http.strip_prefix("https://").expect("an address").to_owned();
    for listens in [http, gateway.mqtt.to_string()] {
        TcpStream::connect(listens).expect("it listens before it says so");
    }
    let (_, status) = systemd.next("STATUS=", PATIENCE).expect("how it does");
    assert_eq!(status, "STATUS=0 cars connected");
    let mut fed: Vec<Instant> = Vec::new();
    while fed.len() < 5 {
        fed.push(systemd.next("WATCHDOG=1", PATIENCE).expect("it feeds the watchdog").0);
    }
    let longest = fed.windows(2).map(|two| two[1] - two[0]).max().expect("five of them");
    assert!(longest < LIMIT / 2, "fed only after {longest:?}");
    systemd.forget();
    assert!(gateway.stop().success());
    systemd.next("STOPPING=1", Duration::ZERO).expect("it said that it stops");
    assert!(systemd.next("WATCHDOG=1", Duration::ZERO).is_none(), "it stops, and asks for nothing more");
}

/// A thread that hangs is what the watchdog is for; one that goes on again has the gateway fed again.
#[tokio::test(flavor = "current_thread")]
async fn it_does_not_feed_the_watchdog_while_a_part_of_it_hangs() {
    let systemd = Systemd::start();
    let gateway = systemd.gateway().await;
    systemd.next("WATCHDOG=1", PATIENCE).expect("it feeds the watchdog");
    for (thread, nth_last, part) in PARTS {
        let halted = Halted::nth_last(gateway.pid(), thread, nth_last);
        until("the part that hangs is told in the log", async || {
            let log = gateway.log();
            log.lines().any(|line| line.contains("does not turn") && line.contains(part))
        })
        .await;
        systemd.forget();
        assert!(systemd.next("WATCHDOG=1", LIMIT).is_none(), "{thread} hangs and the watchdog is fed");
        drop(halted);
        systemd.next("WATCHDOG=1", PATIENCE).unwrap_or_else(|| panic!("{thread} goes on and the watchdog is not fed"));
    }
    assert_eq!(gateway.probe("/readyz").await.0, 200);
}

/// A thread by its name, as the kernel has it, counted from the one started last, and the part that is then missed. HTTP's
/// workers are actix arbiters without names of their own; the operator's one comes last, after those for callers.
const PARTS: [(&str, usize, &str); 2] = [("store-commit", 0, "committer"), ("actix-rt|system", 1, "http-")];

#[tokio::test]
async fn one_that_cannot_listen_never_says_that_it_is_ready() {
    let systemd = Systemd::start();
    let mut gateway = systemd.gateway().await;
    systemd.next("READY=1", PATIENCE).expect("the first one is ready");
    gateway.stop();
    systemd.forget();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    gateway.set(&format!("mqtt.listen={}", taken.local_addr().expect("its address")));
    let (log, status) = gateway.launch().expect_err("the port is taken");
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(systemd.next("READY=1", Duration::ZERO).is_none(), "it said ready and listened nowhere");
}

/// How exposed systemd calls the unit, in tenths; 20 is what it calls OK.
const EXPOSURE: &str = "20";

/// `scripts/test` installs systemd for it; elsewhere there may be none.
#[test]
fn the_unit_is_sound_and_its_sandbox_tight() {
    if !has("systemd-analyze") {
        eprintln!("SKIPPED: there is no systemd-analyze here (Debian: apt-get install systemd)");
        return;
    }
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/cardea.service");
    let text = std::fs::read_to_string(unit).expect("the unit");
    assert!(text.contains("ExecStart=/usr/bin/cardea serve --config /etc/cardea/cardea.toml\n"), "{text}");
    let dir = tempfile::tempdir().expect("a temporary folder");
    let installed = dir.path().join("cardea.service");
    // Where the program is on this machine.
    std::fs::write(&installed, text.replace("/usr/bin/cardea", env!("CARGO_BIN_EXE_cardea"))).expect("a copy");
    let analyze = |arguments: &[&str]| {
        let output = Command::new("systemd-analyze").args(arguments).arg(&installed).output().expect("it runs");
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    };
    let (is_sound, said) = analyze(&["verify", "--man=no"]);
    // It also tells of units of the machine that it reads on the way.
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("cardea.service")).collect();
    assert!(is_sound && ours.is_empty(), "{said}");
    let (is_tight, said) = analyze(&["security", "--offline=true", "--threshold", EXPOSURE]);
    assert!(is_tight, "{said}");
}
