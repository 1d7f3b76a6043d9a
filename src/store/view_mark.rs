//! What was noted about the view's files when they were last used, and whether that still holds.
//!
//! sled does not make its files durable, and a file cut in half opens without an error. So a view that was closed in
//! order must have the same bytes, and one that was not is believed only if the machine has not restarted since:
//! then the kernel still had every byte written to it.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

const FILE: &str = "view.mark";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Hex id of the journal it was made from.
    journal: String,
    /// The machine's run during which it was last written.
    boot: Option<String>,
    /// Set when it was closed in order.
    sum: Option<Sum>,
}

/// Over all files of the view, names included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Sum {
    bytes: u64,
    crc32c: u32,
}

impl Mark {
    pub fn in_use(journal: [u8; 16]) -> Self {
        Self { journal: hex::encode(journal), boot: boot(), sum: None }
    }

    pub fn clean(journal: [u8; 16], view: &Path) -> io::Result<Self> {
        Ok(Self { sum: Some(sum(view)?), ..Self::in_use(journal) })
    }
}

pub fn write(dir: &Path, mark: &Mark) -> io::Result<()> {
    let fresh = dir.join(format!("{FILE}.tmp"));
    std::fs::write(&fresh, serde_json::to_vec(mark)?)?;
    std::fs::rename(fresh, dir.join(FILE))
}

/// May the view's files be opened? Says why not.
pub fn check(dir: &Path, view: &Path, journal: [u8; 16]) -> Result<(), String> {
    let bytes = std::fs::read(dir.join(FILE)).map_err(|_| "it was never marked")?;
    let mark: Mark = serde_json::from_slice(&bytes).map_err(|_| "its mark is damaged")?;
    if mark.journal != hex::encode(journal) {
        return Err("it was made from another journal".to_owned());
    }
    match mark.sum {
        Some(noted) => match sum(view) {
            Ok(now) if now == noted => Ok(()),
            Ok(_) => Err("its files are not as they were when it was closed".to_owned()),
            Err(error) => Err(format!("its files cannot be read: {error}")),
        },
        None if mark.boot.is_some() && mark.boot == boot() => Ok(()),
        None => Err("the machine went down while it was in use".to_owned()),
    }
}

/// The kernel's name for this run of the machine.
fn boot() -> Option<String> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().map(|id| id.trim().to_owned())
}

fn sum(view: &Path) -> io::Result<Sum> {
    let mut files = Vec::new();
    collect(view, &mut files)?;
    files.sort();
    let mut sum = Sum { bytes: 0, crc32c: 0 };
    let mut chunk = vec![0; 1024 * 1024];
    for path in files {
        let name = path.strip_prefix(view).unwrap_or(&path).as_os_str().as_encoded_bytes().to_vec();
        sum.crc32c = crc32c::crc32c_append(sum.crc32c, &name);
        let mut file = File::open(&path)?;
        loop {
            let got = file.read(&mut chunk)?;
            if got == 0 {
                break;
            }
            sum.bytes += got as u64;
            sum.crc32c = crc32c::crc32c_append(sum.crc32c, &chunk[..got]);
        }
    }
    Ok(sum)
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), files)?;
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}
