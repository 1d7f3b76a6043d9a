//! `fsync`: what one durable write costs in a folder, to hold other latencies against.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::latencies::Latencies;
use crate::failure::Failure;
use crate::stopwatch::Stopwatch;

#[derive(Debug, Args)]
pub struct FsyncArgs {
    /// In which folder to write; the file is removed at the end
    #[arg(long)]
    dir: PathBuf,
    #[arg(long, default_value_t = 1_000)]
    count: usize,
    /// Bytes of each write
    #[arg(long, default_value_t = 512)]
    bytes: usize,
}

pub async fn run(args: &FsyncArgs) -> Result<Value, Failure> {
    let path = args.dir.join(format!("bench-fsync-{}", std::process::id()));
    let unwritable = |error: std::io::Error| Failure::usage(format!("{}: {error}", path.display()));
    let file = OpenOptions::new().write(true).create_new(true).open(&path).map_err(unwritable)?;
    let (count, bytes) = (args.count, args.bytes);
    let measured = tokio::task::spawn_blocking(move || measure(file, count, bytes)).await;
    std::fs::remove_file(&path)?;
    let latencies = measured.map_err(Failure::failed)??;
    Ok(json!({ "dir": args.dir, "bytes": args.bytes, "latency": latencies.into_json() }))
}

/// Into preallocated space, as a journal does: only the data is to be synced, not the file's length.
fn measure(mut file: File, count: usize, bytes: usize) -> std::io::Result<Latencies> {
    use std::io::{Seek, SeekFrom};

    let zeros = vec![0; bytes];
    for _ in 0..count {
        file.write_all(&zeros)?;
    }
    file.sync_all()?;
    file.seek(SeekFrom::Start(0))?;
    let record = vec![b'x'; bytes];
    let mut latencies = Latencies::default();
    for _ in 0..count {
        file.write_all(&record)?;
        let watch = Stopwatch::start();
        file.sync_data()?;
        latencies.add_ns(watch.elapsed_ns());
    }
    Ok(latencies)
}
