//! `cardea enroll`: a car's certificate and key, made offline with the fleet's CA. A running server accepts them at
//! once; this command neither needs nor disturbs one.

use std::fs;
use std::path::{Path, PathBuf};

use cardea::clock::Clock;
use cardea::domain::VehicleId;
use cardea::pki::Ca;
use clap::Args;

use super::new_files::NewFiles;
use super::{ConfigArgs, Failure};

#[derive(Debug, Args)]
pub struct Enroll {
    #[command(flatten)]
    config: ConfigArgs,
    /// The vehicle's id: a VIN or the fleet's own name for it, 1 to 64 of A-Z a-z 0-9 -
    #[arg(long, value_name = "ID")]
    vehicle: VehicleId,
    /// The folder for ca.pem, cert.pem and key.pem; made if missing, and none of the three is ever replaced
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

impl Enroll {
    pub fn run(&self) -> Result<(), Failure> {
        let config = self.config.load()?;
        let Some(ca_key) = &config.certs.ca_key else {
            return Err(Failure::bad_input(&"certs.ca_key is empty: an outside CA signs this fleet's certificates"));
        };
        let ca_pem = read(&config.certs.ca)?;
        let identity = Ca::load(&ca_pem, &read(ca_key)?)
            .and_then(|ca| ca.issue_vehicle(&self.vehicle, config.certs.vehicle_days, Clock::start().now()))
            .map_err(|error| Failure::failed(&error))?;
        let mut files = NewFiles::default();
        files.dir_all(&self.out)?;
        files.private(&self.out.join("key.pem"), &identity.key_pem)?;
        files.public(&self.out.join("cert.pem"), &identity.cert_pem)?;
        files.public(&self.out.join("ca.pem"), &ca_pem)?;
        files.keep()
    }
}

fn read(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(|error| Failure::failed(&format!("cannot read {}: {error}", path.display())))
}
