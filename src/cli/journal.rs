//! `cardea journal`: checks the whole hash chain, or writes its records as NDJSON; reads only, needs no server.

use std::path::{Path, PathBuf};

use cardea::checkpoints::{self, Witnesses};
use cardea::config::Config;
use clap::Subcommand;
use serde::Serialize;

use super::{ConfigArgs, Failure};

#[derive(Debug, Subcommand)]
pub enum Journal {
    /// Check every record of the journal against the hash chain
    Verify {
        #[command(flatten)]
        config: ConfigArgs,
        /// Signed checkpoints to compare it with; without it those that the config names, if there are any
        #[arg(long, value_name = "FILE")]
        checkpoints: Option<PathBuf>,
    },
    /// Write every record to standard output, one JSON object a line
    Export {
        #[command(flatten)]
        config: ConfigArgs,
    },
}

impl Journal {
    pub fn run(&self) -> Result<(), Failure> {
        match self {
            Self::Verify { config, checkpoints } => verify(&config.load()?, checkpoints.as_deref()),
            Self::Export { config } => {
                let out = std::io::stdout().lock();
                cardea::store::export(&config.load()?.data.dir, std::io::BufWriter::new(out))
                    .map_err(|error| Failure::failed(&error))?;
                Ok(())
            }
        }
    }
}

/// What a verification prints.
#[derive(Serialize)]
struct Found {
    #[serde(flatten)]
    journal: cardea::store::Verified,
    /// Signed checkpoints that it agrees with; absent where there are none to compare with.
    #[serde(skip_serializing_if = "Option::is_none")]
    checkpoints: Option<usize>,
}

fn verify(config: &Config, named: Option<&Path>) -> Result<(), Failure> {
    // A file that is missing is a fault, also the config's own, which the gateway makes a second after its first start:
    // who could take it away must not be served by that.
    let own = config.audit.checkpoints.as_deref();
    let failed = |error: &dyn std::fmt::Display| Failure::failed(&error.to_string());
    // Without checkpoints the keys are not needed, and an auditor may not have them.
    let witnesses = match named.or(own) {
        None => None,
        Some(file) => {
            let keyset = cardea::keyset(config).map_err(|error| failed(&error))?;
            Some(Witnesses::read(file, &keyset).map_err(|error| failed(&error))?)
        }
    };
    let (journal, checkpoints) =
        checkpoints::verify(&config.data.dir, witnesses, &mut |_| {}).map_err(|error| failed(&error))?;
    let line = serde_json::to_string(&Found { journal, checkpoints }).map_err(|error| Failure::failed(&error))?;
    println!("{line}");
    Ok(())
}
