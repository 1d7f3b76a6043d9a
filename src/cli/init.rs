//! `cardea init`: a fleet from nothing, all of it or none of it.
//!
//! The files are made in DIR with the config last: a folder with `cardea.toml` is complete. Anything that fails takes
//! back what was made. The admin's API key is printed once and kept only as its hash, in the config.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use cardea::clock::Clock;
use cardea::config;
use cardea::pki::{self, Ca, PkiError};
use clap::Args;
use serde::Serialize;

use super::Failure;
use super::config::REFERENCE;
use super::new_files::NewFiles;

const HASH_KEY: &str = "bootstrap_admin_sha256 = \"\"";
const DATA_KEY: &str = "dir = \"data\"";
const MAX_HOSTS: usize = 64;

#[derive(Debug, Args)]
pub struct Init {
    /// The folder to make; it must be missing or empty
    #[arg(long)]
    dir: PathBuf,
    /// A further name or address of the gateway, for its certificate (always in it: localhost, 127.0.0.1, ::1)
    #[arg(long = "host", value_name = "HOST")]
    hosts: Vec<String>,
    /// Where the gateway shall keep its data, made at its first start; left out: `data` beside the config
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// What is printed, once.
#[derive(Serialize)]
struct Made<'a> {
    config: &'a Path,
    admin_key: &'a str,
    ca: &'a Path,
}

impl Init {
    pub fn run(&self) -> Result<(), Failure> {
        let hosts = self.checked_hosts()?;
        let dir = self.dir.to_str().ok_or_else(|| Failure::bad_input(&"--dir is not UTF-8"))?;
        if dir.is_empty() {
            return Err(Failure::bad_input(&"--dir is empty; expected a folder to make"));
        }
        let data = match &self.data {
            None => None,
            Some(data) => Some(data.to_str().ok_or_else(|| Failure::bad_input(&"--data is not UTF-8"))?),
        };
        refuse_unless_empty(&self.dir)?;
        let mut files = NewFiles::default();
        let admin_key = self.make(&mut files, &hosts, data)?;
        let (config, ca) = (self.dir.join("cardea.toml"), self.dir.join("certs/ca.pem"));
        let made = serde_json::to_string(&Made { config: &config, admin_key: &admin_key, ca: &ca })
            .map_err(|error| Failure::failed(&error))?;
        // A fleet whose admin key nobody saw is of no use: not printed, not kept.
        let mut out = io::stdout().lock();
        writeln!(out, "{made}")
            .and_then(|()| out.flush())
            .map_err(|error| Failure::failed(&format!("cannot print the admin key: {error}")))?;
        files.keep()
    }

    fn checked_hosts(&self) -> Result<Vec<String>, Failure> {
        if self.hosts.len() > MAX_HOSTS {
            return Err(Failure::bad_input(&format!("{} --host; expected at most {MAX_HOSTS}", self.hosts.len())));
        }
        let mut hosts = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
        for host in &self.hosts {
            pki::check_host(host).map_err(|error| Failure::bad_input(&format!("--host: {error}")))?;
            if !hosts.contains(host) {
                hosts.push(host.clone());
            }
        }
        Ok(hosts)
    }

    /// Makes every file and returns the admin's API key.
    fn make(&self, files: &mut NewFiles, hosts: &[String], data: Option<&str>) -> Result<String, Failure> {
        let failed = |error: PkiError| Failure::failed(&error);
        let now = Clock::start().now();
        let ca = Ca::create(now).map_err(failed)?;
        let server = Ca::load(&ca.cert_pem, &ca.key_pem).and_then(|ca| ca.issue_server(hosts, now)).map_err(failed)?;
        let signing_key = pki::new_signing_key().and_then(|key| pki::signing_key_pem(&key)).map_err(failed)?;
        let admin_key = pki::new_api_key().map_err(failed)?;

        let certs = self.dir.join("certs");
        files.dir_all(&self.dir)?;
        files.dir(&certs)?;
        files.private(&certs.join("ca.key.pem"), &ca.key_pem)?;
        files.public(&certs.join("ca.pem"), &ca.cert_pem)?;
        files.private(&certs.join("server.key.pem"), &server.key_pem)?;
        files.public(&certs.join("server.pem"), &server.cert_pem)?;
        files.private(&certs.join("signing.key.pem"), &signing_key)?;
        // Private as well: webhook secrets will be written into it.
        files.private(&self.dir.join("cardea.toml"), &config_text(&pki::api_key_sha256(&admin_key), data))?;
        config::load(&self.dir.join("cardea.toml"), &[]).map_err(|error| Failure::failed(&error))?;
        Ok(admin_key)
    }
}

fn config_text(admin_sha256: &str, data: Option<&str>) -> String {
    let text = REFERENCE.replacen(HASH_KEY, &format!("bootstrap_admin_sha256 = \"{admin_sha256}\""), 1);
    match data {
        None => text,
        // Quoted as TOML wants it, whatever is in the name.
        Some(data) => text.replacen(DATA_KEY, &format!("dir = {}", toml::Value::from(data)), 1),
    }
}

fn refuse_unless_empty(dir: &Path) -> Result<(), Failure> {
    match fs::read_dir(dir) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(Failure::failed(&format!("{} is not empty; nothing was changed", dir.display()))),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Failure::failed(&format!("{} cannot be used: {error}", dir.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_of_the_admin_key_lands_in_the_config() {
        let hash = pki::api_key_sha256("ck_x");
        let config = config::parse(&config_text(&hash, None), Path::new("c.toml"), &[]).expect("valid");
        assert_eq!(config.http.bootstrap_admin_sha256, Some(hash));
    }

    #[test]
    fn the_data_folder_is_where_it_was_asked_for() {
        for data in ["/var/lib/cardea/data", "/srv/a \"b\"\\c"] {
            let config =
                config::parse(&config_text("", Some(data)), Path::new("/etc/cardea/c.toml"), &[]).expect("valid");
            assert_eq!(config.data.dir, Path::new(data));
        }
    }
}
