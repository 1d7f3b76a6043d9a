//! What this process may use, what another one uses, and when somebody asks us to end.

use std::path::PathBuf;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

/// Raises the number of open files to what the system allows; returns it (`None` = no limit).
pub fn raise_file_limit() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        // Then the old limit holds, and connecting too often says so.
        Err(_) => limit.current,
    }
}

/// Completes on SIGINT or SIGTERM.
pub async fn interrupted() {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        // Without handlers the signal ends the process by itself.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// Linux reports processor time in ticks of 1/100 s on every architecture (`USER_HZ`).
const TICKS_PER_S: f64 = 100.0;

/// Another process as `/proc` shows it.
#[derive(Debug, Clone, Copy)]
pub struct Watched(pub u32);

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Usage {
    pub resident_kib: u64,
    pub processor_s: f64,
}

impl Watched {
    pub fn usage(self) -> std::io::Result<Usage> {
        let read = |name: &str| std::fs::read_to_string(PathBuf::from(format!("/proc/{}/{name}", self.0)));
        let unreadable = |what: &str| std::io::Error::new(std::io::ErrorKind::InvalidData, what.to_owned());
        let resident_kib = resident_kib(&read("status")?).ok_or_else(|| unreadable("no VmRSS in /proc/PID/status"))?;
        let processor_s = processor_s(&read("stat")?).ok_or_else(|| unreadable("unreadable /proc/PID/stat"))?;
        Ok(Usage { resident_kib, processor_s })
    }
}

fn resident_kib(status: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix("kB")?.trim().parse().ok()
}

fn processor_s(stat: &str) -> Option<f64> {
    // The name in parentheses may hold anything, spaces and parentheses included.
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace().skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) / TICKS_PER_S)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_usage_can_be_read() {
        let usage = Watched(std::process::id()).usage().unwrap();
        assert!(usage.resident_kib > 100);
    }

    #[test]
    fn a_process_with_an_odd_name_is_read_right() {
        assert_eq!(processor_s("7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0"), Some(2.0));
        assert_eq!(processor_s("7 (a"), None);
    }
}
