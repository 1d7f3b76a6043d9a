//! Power cuts and full disks on a real file system: an ext4 image on a loop device.
//!
//! A writer process is stopped in the middle of its work and the image is copied as it is: what the file system had not
//! written is gone, as in a power cut. The copy is mounted and opened; nothing acknowledged may be missing.
//! Skipped, with a line that says so, where images cannot be mounted.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

mod store_kit;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use cardea::clock::{Clock, Stopwatch};
use cardea::config::Data;
use cardea::store::{AppendError, LocalStore, Order, Store, StorePosition, Table, verify};
use rustix::process::{Pid, Signal, kill_process};
use store_kit::*;

const ROUNDS: u64 = 20;
/// Set for the child that writes: the directory to write in, and its seed.
const WRITER_DIR: &str = "CARDEA_TEST_WRITER_DIR";
const WRITER_SEED: &str = "CARDEA_TEST_WRITER_SEED";

fn config(dir: &Path) -> Data {
    Data { snapshot_every_records: 300, ..data(dir) }
}

/// A mounted image; unmounted and removed at the end.
struct Mounted {
    dir: PathBuf,
}

impl Mounted {
    fn new(image: &Path, dir: PathBuf) -> Option<Self> {
        std::fs::create_dir_all(&dir).unwrap();
        let mounted = Command::new("mount").arg("-o").arg("loop").arg(image).arg(&dir).stderr(Stdio::null()).status();
        mounted.is_ok_and(|status| status.success()).then_some(Self { dir })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // The kernel may be busy with it for a moment after the last file is closed.
        for _ in 0..100 {
            let unmounted = Command::new("umount").arg(&self.dir).stderr(std::process::Stdio::null()).status();
            if unmounted.is_ok_and(|status| status.success()) {
                return;
            }
            std::thread::park_timeout(std::time::Duration::from_millis(50));
        }
        println!("{} could not be unmounted", self.dir.display());
    }
}

/// A fresh ext4 image of so many MiB; `None`, with a line why, where that is not possible.
fn image(dir: &Path, mib: u64) -> Option<PathBuf> {
    let path = dir.join("fresh.img");
    std::fs::File::create(&path).unwrap().set_len(mib * 1024 * 1024).unwrap();
    let made = Command::new("mkfs.ext4").arg("-q").arg("-F").arg(&path).stderr(Stdio::null()).status();
    if !made.is_ok_and(|status| status.success()) {
        println!("skipped: no mkfs.ext4 here");
        return None;
    }
    if Mounted::new(&path, dir.join("probe")).is_none() {
        println!("skipped: loop devices cannot be mounted here");
        return None;
    }
    Some(path)
}

/// The child: appends until it is stopped, and prints each number when it is acknowledged. Does nothing in a normal run.
#[test]
fn writer_process() {
    let Ok(dir) = std::env::var(WRITER_DIR) else { return };
    let mut seed: u64 = std::env::var(WRITER_SEED).unwrap().parse().unwrap();
    let store = LocalStore::open(&config(Path::new(&dir)), Clock::start()).unwrap();
    let mut n = 0;
    loop {
        let steps: Vec<_> = (0..1 + random(&mut seed) % 40)
            .map(|_| {
                n += 1;
                big_step(&format!("s/{}", n % 7), n, (random(&mut seed) % 3_000) as usize)
            })
            .collect();
        let first = n + 1 - steps.len() as u64;
        for (index, done) in append_all(&*store, steps).into_iter().enumerate() {
            done.unwrap();
            println!("acknowledged {}", first + index as u64);
        }
        std::io::stdout().flush().unwrap();
    }
}

/// The writer and what it has said so far.
struct Writer {
    child: Child,
    lines: Receiver<u64>,
    acknowledged: u64,
}

impl Writer {
    fn start(dir: &Path, seed: u64) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "writer_process", "--nocapture"])
            .env(WRITER_DIR, dir)
            .env(WRITER_SEED, seed.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let (tell, lines) = channel();
        let out = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                let number = line.rsplit_once("acknowledged ").and_then(|(_, number)| number.parse().ok());
                if number.is_some_and(|number| tell.send(number).is_err()) {
                    return;
                }
            }
        });
        Self { child, lines, acknowledged: 0 }
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Lets it work until it has said this number.
    fn until(&mut self, number: u64) {
        while self.acknowledged < number {
            let next = self.lines.recv_timeout(Duration::from_secs(60));
            self.acknowledged = next.expect("the writer says nothing any more");
        }
    }

    /// Stops it where it is; nothing it says was said later than this.
    fn stop(&mut self) {
        kill_process(self.pid(), Signal::STOP).unwrap();
        let stat = format!("/proc/{}/stat", self.child.id());
        let deadline = Stopwatch::start();
        while !std::fs::read_to_string(&stat).unwrap().rsplit_once(") ").unwrap().1.starts_with('T') {
            assert!(deadline.elapsed() < Duration::from_secs(10), "the writer does not stop");
            std::thread::yield_now();
        }
        // What it wrote to the pipe before is still on its way to us.
        while let Ok(next) = self.lines.recv_timeout(Duration::from_millis(50)) {
            self.acknowledged = next;
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // It may be gone already; it must only not stay.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Copies the image; twice the same bytes, so that the file system wrote nothing in between.
fn copy_standing_still(image: &Path, to: &Path) {
    let deadline = Stopwatch::start();
    let mut before = std::fs::read(image).unwrap();
    loop {
        let after = std::fs::read(image).unwrap();
        if before == after {
            return std::fs::write(to, after).unwrap();
        }
        assert!(deadline.elapsed() < Duration::from_secs(30), "the image does not stand still");
        before = after;
    }
}

/// The machine came up again: the mark of the view names another boot.
fn pretend_reboot(dir: &Path) {
    let path = dir.join("view.mark");
    if let Ok(text) = std::fs::read_to_string(&path) {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        std::fs::write(path, text.replace(boot.trim(), "00000000-0000-4000-8000-000000000000")).unwrap();
    }
}

/// Everything acknowledged is there, whole and in order, also in the view.
fn assert_kept(store: &LocalStore, acknowledged: u64) -> u64 {
    let durable = store.health().durable.0;
    assert!(durable >= acknowledged, "{durable} of {acknowledged} acknowledged records are there");
    let mut next = 1;
    while next <= durable {
        for record in store.tail(StorePosition(next - 1), 500).unwrap() {
            let event: serde_json::Value = serde_json::from_str(record.events[0].get()).unwrap();
            assert_eq!((record.position.0, event["n"].as_u64()), (next, Some(next)));
            next += 1;
        }
    }
    for stream in 0..7 {
        let expected: Vec<_> = (1..=durable).filter(|n| n % 7 == stream).collect();
        assert_eq!(numbers(store, &format!("s/{stream}")), expected);
    }
    let (mut rows, mut after) = (0, None);
    loop {
        let page = store.scan(Table::Commands, "", after.as_deref(), 1_000, Order::Ascending).unwrap();
        rows += page.rows.len() as u64;
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(rows, durable);
    durable
}

#[test]
fn nothing_acknowledged_is_lost_in_a_power_cut() {
    let scratch = scratch();
    let Some(fresh) = image(scratch.path(), 64) else { return };
    let first = std::env::var("CARDEA_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1_u64);
    for round in first..first + ROUNDS {
        let (running, cut) = (scratch.path().join("running.img"), scratch.path().join("cut.img"));
        std::fs::copy(&fresh, &running).unwrap();
        let mut seed = round;
        let acknowledged = {
            let mounted = Mounted::new(&running, scratch.path().join("running")).unwrap();
            let mut writer = Writer::start(&mounted.dir.join("data"), round);
            writer.until(1 + random(&mut seed) % 4_000);
            writer.stop();
            copy_standing_still(&running, &cut);
            writer.acknowledged
        };
        let mounted = Mounted::new(&cut, scratch.path().join("cut")).unwrap();
        let dir = mounted.dir.join("data");
        pretend_reboot(&dir);
        let store = LocalStore::open(&config(&dir), Clock::start()).unwrap_or_else(|error| panic!("{round}: {error}"));
        let kept = assert_kept(&store, acknowledged);
        assert!(wait(store.append(big_step(&format!("s/{}", (kept + 1) % 7), kept + 1, 10))).is_ok());
        drop(store);
        let store = LocalStore::open(&config(&dir), Clock::start()).unwrap_or_else(|error| panic!("{round}: {error}"));
        assert_eq!(assert_kept(&store, kept + 1), kept + 1);
        store.close();
        assert_eq!(verify(&dir).unwrap().records, kept + 1);
        println!("seed {round}: {acknowledged} acknowledged, {kept} kept");
    }
}

/// Appends until it is refused for the disk; returns how many went through.
fn fill(store: &LocalStore, from: u64) -> u64 {
    for n in from.. {
        match wait(store.append(big_step(&format!("s/{}", n % 7), n, 2_000))) {
            Ok(_) => {}
            Err(AppendError::Full("disk")) => return n - 1,
            Err(error) => panic!("{error}"),
        }
    }
    unreachable!("the disk is never full")
}

fn full_disk_recovers(min_free_mib: u64) {
    let scratch = scratch();
    let Some(image) = image(scratch.path(), 40) else { return };
    let mounted = Mounted::new(&image, scratch.path().join("small")).unwrap();
    let (dir, filler) = (mounted.dir.join("data"), mounted.dir.join("filler"));
    let config = Data { min_free_mib, ..config(&dir) };
    let store = LocalStore::open(&config, Clock::start()).unwrap();
    assert!(wait(store.append(step("s/1", 1))).is_ok());
    let mut done = 1;
    for round in 0..3 {
        // Leaves a little more than what is kept free.
        let stat = rustix::fs::statvfs(&mounted.dir).unwrap();
        let room = (stat.f_bavail * stat.f_frsize).saturating_sub((min_free_mib + 3) * 1024 * 1024);
        let out = std::fs::File::create(&filler).unwrap();
        rustix::fs::fallocate(&out, rustix::fs::FallocateFlags::empty(), 0, room.max(4096)).unwrap();
        out.sync_all().unwrap();
        drop(out);
        let before = done;
        done = fill(&store, done + 1);
        println!("round {round}: {} appends until the disk was full", done - before);
        let health = store.health();
        assert!(!health.is_poisoned);
        assert_eq!(health.durable.0, done);
        // Reading goes on.
        assert_eq!(store.tail(StorePosition(done - 1), 10).unwrap().len(), 1);
        std::fs::remove_file(&filler).unwrap();
        let deadline = Stopwatch::start();
        while let Err(error) = wait(store.append(big_step(&format!("s/{}", (done + 1) % 7), done + 1, 10))) {
            assert!(matches!(error, AppendError::Full("disk")), "{error}");
            assert!(deadline.elapsed() < Duration::from_secs(10), "the store does not recover");
            std::thread::yield_now();
        }
        done += 1;
        assert_eq!(store.health().refusing, None);
    }
    // The view may have met the full disk too; it comes back by itself.
    let deadline = Stopwatch::start();
    while let Err(error) = store.get(Table::Commands, "00000001") {
        assert!(deadline.elapsed() < Duration::from_secs(60), "{error}");
        std::thread::yield_now();
    }
    assert_eq!(assert_kept(&store, done), done);
    store.close();
    drop(store);
    assert_eq!(verify(&dir).unwrap().records, done);
    let store = LocalStore::open(&config, Clock::start()).unwrap();
    assert_eq!(assert_kept(&store, done), done);
}

fn run(command: &mut Command) -> bool {
    command.stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// A disk whose writes fail only when they are synced: an image with holes, on a tmpfs too small for all of it.
#[test]
fn failed_sync_ends_all_promises_and_keeps_those_given() {
    let scratch = scratch();
    let small = scratch.path().join("small");
    std::fs::create_dir(&small).unwrap();
    if !run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=28m", "tmpfs"]).arg(&small)) {
        println!("skipped: no tmpfs can be mounted here");
        return;
    }
    let small = Mounted { dir: small };
    let Some(image) = image(&small.dir, 64) else { return };
    let mounted = Mounted::new(&image, scratch.path().join("image")).unwrap();
    // One segment for all of it: a new one that cannot be made is refused, and nothing was promised in it.
    let config = Data { segment_mib: 40, ..config(&mounted.dir.join("data")) };
    let store = LocalStore::open(&config, Clock::start()).unwrap();
    let (mut acknowledged, mut n) = (0, 0);
    let failed = loop {
        n += 1;
        match wait(store.append(big_step(&format!("s/{}", n % 7), n, 60_000))) {
            Ok(_) => acknowledged = n,
            Err(error) => break error,
        }
        assert!(n < 2_000, "the disk never fails");
    };
    println!("{acknowledged} acknowledged, then: {failed}");
    assert!(matches!(failed, AppendError::Unknown(_)), "{failed}");
    let health = store.health();
    assert_eq!((health.is_poisoned, health.refusing), (true, Some("poisoned")));
    let later = wait(store.append(step("s/1", n + 1)));
    assert!(matches!(later, Err(AppendError::Full("poisoned"))), "{later:?}");
    store.close();
    drop(store);
    drop(mounted);
    assert!(run(Command::new("mount").args(["-o", "remount,size=200m"]).arg(&small.dir)));
    let mounted = Mounted::new(&image, scratch.path().join("image")).unwrap();
    pretend_reboot(&mounted.dir.join("data"));
    let store = LocalStore::open(&config, Clock::start()).unwrap();
    let durable = store.health().durable.0;
    assert!((acknowledged..=n).contains(&durable), "{durable} of {acknowledged}");
    assert_kept(&store, acknowledged);
    store.close();
}

#[test]
fn low_disk_is_refused_before_anything_tears_and_recovers() {
    full_disk_recovers(4);
}

#[test]
fn full_disk_without_a_reserve_is_survived() {
    full_disk_recovers(0);
}
