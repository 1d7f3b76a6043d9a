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
        let (Self::Verify { config } | Self::Export { config }) = self;
        config.load()?;
        Err(Failure::failed(&"this build has no journal"))
    }
}
