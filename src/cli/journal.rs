//! `cardea journal`: checks the whole hash chain, or writes its records as NDJSON; reads only, needs no server.

use clap::Subcommand;

use super::{ConfigArgs, Failure};

#[derive(Debug, Subcommand)]
pub enum Journal {
    /// Check every record of the journal against the hash chain
    Verify {
        #[command(flatten)]
        config: ConfigArgs,
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
            Self::Verify { config } => {
                let found = cardea::store::verify(&config.load()?.data.dir).map_err(|error| Failure::failed(&error))?;
                let line = serde_json::to_string(&found).map_err(|error| Failure::failed(&error))?;
                println!("{line}");
                Ok(())
            }
            Self::Export { config } => {
                let out = std::io::stdout().lock();
                cardea::store::export(&config.load()?.data.dir, std::io::BufWriter::new(out))
                    .map_err(|error| Failure::failed(&error))?;
                Ok(())
            }
        }
    }
}
