//! `cardea migrate`: a single machine's journal into a new cluster, or into servers that lost a part of it.

use cardea::store::cluster::migrate::migrate;
use clap::Args;
use serde_json::json;

use super::{ConfigArgs, Failure};

/// How often people are told how far it is.
const TELL_EVERY: u64 = 10_000;

#[derive(Debug, Args)]
pub struct Migrate {
    #[command(flatten)]
    config: ConfigArgs,
}

impl Migrate {
    pub fn run(&self) -> Result<(), Failure> {
        let config = self.config.load()?;
        if !config.cluster.is_on() {
            return Err(Failure::bad_input(&"cluster.servers: it is empty, so there is no cluster to migrate to"));
        }
        let done = migrate(&config, &mut |record| {
            if record % TELL_EVERY == 0 {
                eprintln!("{record} records");
            }
        });
        let done = done.map_err(|error| Failure::failed(&error))?;
        println!("{}", json!(done));
        Ok(())
    }
}
