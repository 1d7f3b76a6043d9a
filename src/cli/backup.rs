//! `cardea backup` and `cardea restore`: a copy of what the gateway keeps, taken while it runs, and the way back.

use std::path::{Component, Path, PathBuf};

use cardea::clock::Clock;
use cardea::config::{self, Config};
use cardea::store::backup::{self, BackupError, Manifest};
use clap::Args;
use serde_json::json;

use super::new_files::NewFiles;
use super::{ConfigArgs, Failure};

/// The config's name in a backup with keys.
const CONFIG: &str = "fleet/cardea.toml";
/// Where in a backup the config and what it names stand.
const FLEET: &str = "fleet";
const MAX_FOLDER_FILES: usize = 1_000;

#[derive(Debug, Args)]
pub struct Backup {
    #[command(flatten)]
    config: ConfigArgs,
    /// The folder to make; it must be missing or empty
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Also the config and every file it names: certificates, private keys, rules. Who has such a backup has the fleet
    #[arg(long)]
    with_keys: bool,
}

impl Backup {
    pub fn run(&self) -> Result<(), Failure> {
        let config = self.config.load()?;
        let (extras, left_out) = if self.with_keys { self.extras(&config)? } else { Default::default() };
        let manifest = backup::back_up(&config.data.dir, &self.out, &extras, Clock::start().now()).map_err(failure)?;
        let Manifest { journal, records, last_hash, files, .. } = manifest;
        let bytes: u64 = files.iter().map(|file| file.bytes).sum();
        println!(
            "{}",
            json!({"backup": self.out, "journal": journal, "records": records, "last_hash": last_hash,
                "files": files.len(), "bytes": bytes, "with_keys": self.with_keys, "left_out": left_out})
        );
        Ok(())
    }

    /// The config and what it names within its folder, and the paths outside of it, which a new place would not have.
    #[expect(clippy::type_complexity, reason = "used once, here")]
    fn extras(&self, config: &Config) -> Result<(Vec<(PathBuf, PathBuf)>, Vec<PathBuf>), Failure> {
        let folder = self.config.config.parent().unwrap_or(Path::new("")).to_owned();
        let mut extras = vec![(self.config.config.clone(), PathBuf::from(CONFIG))];
        let mut left_out = Vec::new();
        let mut files: Vec<PathBuf> = Vec::new();
        for path in config.files() {
            match path.is_dir() {
                true => files.extend(files_in(&path)?),
                false => files.push(path),
            }
        }
        files.sort();
        files.dedup();
        for file in files {
            match file.strip_prefix(&folder) {
                Ok(within) if within.components().all(|part| matches!(part, Component::Normal(_))) && file.exists() => {
                    let to = Path::new(FLEET).join(within);
                    extras.push((file, to));
                }
                _ => left_out.push(file),
            }
        }
        Ok((extras, left_out))
    }
}

fn files_in(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let entries = std::fs::read_dir(folder)
        .map_err(|error| Failure::failed(&format!("cannot list {}: {error}", folder.display())))?;
    let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).filter(|path| path.is_file());
    Ok(paths.take(MAX_FOLDER_FILES).collect())
}

#[derive(Debug, Args)]
pub struct Restore {
    /// The backup's folder
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
    /// The config of the fleet whose data is put back; the gateway must not be running
    #[arg(long, value_name = "FILE", required_unless_present = "dir", conflicts_with = "dir")]
    config: Option<PathBuf>,
    /// Instead: a new folder for the whole fleet, from a backup that was made with --with-keys
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Move data that is there aside instead of refusing
    #[arg(long, conflicts_with = "dir")]
    replace: bool,
}

impl Restore {
    pub fn run(&self) -> Result<(), Failure> {
        let mut made = NewFiles::default();
        let config_file = match (&self.config, &self.dir) {
            (Some(config), _) => config.clone(),
            (None, Some(dir)) => self.put_fleet(dir, &mut made)?,
            (None, None) => return Err(Failure::bad_input(&"either --config or --dir")),
        };
        let config = config::load(&config_file, &[]).map_err(|error| Failure::bad_input(&error))?;
        let now = Clock::start().now();
        let (manifest, aside) = backup::restore(&self.from, &config.data.dir, self.replace, now).map_err(failure)?;
        made.keep()?;
        let Manifest { made_at, journal, records, last_hash, .. } = manifest;
        println!(
            "{}",
            json!({"config": config_file, "data": config.data.dir, "made_at": made_at, "journal": journal,
                "records": records, "last_hash": last_hash, "moved_aside": aside})
        );
        Ok(())
    }

    /// Makes the fleet's folder with its config and everything that it names.
    fn put_fleet(&self, dir: &Path, made: &mut NewFiles) -> Result<PathBuf, Failure> {
        let manifest = backup::read_manifest(&self.from).map_err(failure)?;
        if !backup::extras(&manifest).any(|file| file.path == Path::new(CONFIG)) {
            let why =
                "has no config and keys: make it with --with-keys, or restore with --config into a fleet that is there";
            return Err(Failure::failed(&format!("{} {why}", self.from.display())));
        }
        if std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(Failure::failed(&format!("{} is not empty; nothing was changed", dir.display())));
        }
        made.dir_all(dir)?;
        for file in backup::extras(&manifest) {
            let Ok(within) = file.path.strip_prefix(FLEET) else { continue };
            let to = dir.join(within);
            if let Some(parent) = to.parent() {
                made.dir_all(parent)?;
            }
            made.made_by(&to, || backup::copy_extra(&self.from, file, &to).map_err(failure))?;
        }
        Ok(dir.join("cardea.toml"))
    }
}

fn failure(error: BackupError) -> Failure {
    Failure::failed(&error)
}
