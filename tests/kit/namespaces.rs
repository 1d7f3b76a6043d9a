//! Network namespaces, so that a server can be cut from all others as by a pulled cable: nothing arrives, nobody is told.
//!
//! A test that wants them runs itself once more inside private namespaces of network, mounts and processes: nothing in there can
//! be reached from outside, and whatever ends the test, nothing of it stays.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

/// Set for the test that runs inside.
const INSIDE: &str = "CARDEA_TEST_IN_NAMESPACES";
/// The test is at a bridge, and three servers by a cable each. Process ids begin anew inside, and libfaketime names what it shares
/// in /dev/shm by them.
const WIRING: &str = r#"
set -e
PATH=$PATH:/usr/sbin:/sbin
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mkdir /run/netns
ip link set lo up
ip link add bridge type bridge
ip address add 10.77.0.254/24 dev bridge
ip link set bridge up
for i in 1 2 3; do
    ip netns add nats-$i
    ip link add nats-$i type veth peer name eth0 netns nats-$i
    ip link set nats-$i master bridge up
    ip -n nats-$i link set lo up
    ip -n nats-$i address add 10.77.0.$i/24 dev eth0
    ip -n nats-$i link set eth0 up
done
exec "$@"
"#;
/// With the rights one has, or as the root of a user namespace, where everybody may make one.
const RIGHTS: [&[&str]; 2] = [&[], &["unshare", "--map-root-user"]];

/// Each server has its place here: 0, 1 or 2.
pub fn host(server: usize) -> String {
    format!("10.77.0.{}", server + 1)
}

pub fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// True when the test of this name has run inside (it panics if it failed there). False inside, and where namespaces are
/// not possible, which it says.
pub fn has_run_inside(test: &str) -> bool {
    if is_inside() {
        return false;
    }
    let mut why = String::new();
    for rights in RIGHTS {
        let tried = enter(rights, &["true"]).output().expect("sh runs");
        if tried.status.success() {
            run(rights, test);
            return true;
        }
        let said = String::from_utf8_lossy(&tried.stdout);
        why = format!("{why}{}{}", if why.is_empty() { "" } else { "; " }, said.trim_end().replace('\n', ", "));
    }
    println!("SKIPPED: network namespaces are not possible here ({why}): servers are not cut from each other");
    false
}

fn run(rights: &[&str], test: &str) {
    let program = std::env::current_exe().expect("a path");
    let mut command = enter(rights, &[program.as_os_str(), test.as_ref(), "--exact".as_ref(), "--nocapture".as_ref()]);
    let mut child = command.env(INSIDE, "1").stdout(Stdio::piped()).spawn().expect("sh runs");
    let mut has_passed = false;
    for line in BufReader::new(child.stdout.take().expect("piped")).split(b'\n') {
        let line = line.expect("it can be read");
        let line = String::from_utf8_lossy(&line);
        has_passed |= line.starts_with("test result: ok. 1 passed");
        // Who counts tests counts this one when it is over here.
        if !line.starts_with("test result: ") && line != "running 1 test" && line != format!("test {test} ... ok") {
            println!("{line}");
        }
    }
    let status = child.wait().expect("it ended");
    assert!(status.success() && has_passed, "{test} ended with {status} in its namespaces");
}

/// The command inside, with one output. It dies with this thread, and what it started with it.
fn enter(rights: &[&str], command: &[impl AsRef<OsStr>]) -> Command {
    let mut entering = Command::new("sh");
    entering.args(["-c", "exec \"$@\" 2>&1", "sh"]).args(rights).args(["setpriv", "--pdeathsig", "KILL"]);
    entering.args(["unshare", "--net", "--mount", "--pid", "--mount-proc", "--kill-child"]);
    entering.args(["sh", "-c", WIRING, "sh"]).args(command).stdin(Stdio::null());
    entering
}

/// A program at a server's end of the cable; its process is the program's own.
pub fn beside(server: usize, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/nats-{}", server + 1)).arg(program);
    command
}

pub fn set_plugged(server: usize, is_plugged: bool) {
    let state = if is_plugged { "up" } else { "down" };
    let set = Command::new("ip").args(["link", "set", &format!("nats-{}", server + 1), state]).status();
    assert!(set.expect("ip runs").success(), "a cable of the test's own");
}
