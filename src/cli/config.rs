//! `cardea config`: the reference of every key, and what a file of one's own comes down to. Reads only, starts nothing.
//!
//! The reference is the file that the program carries and a fleet starts with; a test holds it to the code, key by key with
//! its default, so that it is written once.

use clap::Subcommand;
use toml::{Table, Value};

use super::{ConfigArgs, Failure};

pub const REFERENCE: &str = include_str!("../../config/cardea.toml");

#[derive(Debug, Subcommand)]
pub enum Config {
    /// Print every key with its default, its unit and a sentence, as a file that could be used
    Reference,
    /// Check a config file and print every value that it comes down to; secrets are masked
    Check {
        #[command(flatten)]
        config: ConfigArgs,
    },
}

impl Config {
    pub fn run(&self) -> Result<(), Failure> {
        match self {
            Self::Reference => print!("{REFERENCE}"),
            Self::Check { config } => {
                let mut values = Table::try_from(config.load()?).map_err(|error| Failure::failed(&error))?;
                mask(&mut values);
                print!("{values}");
            }
        }
        Ok(())
    }
}

/// Keys whose values are for nobody's eyes, wherever they stand.
const SECRET: [&str; 4] = ["client_secret", "password", "secrets", "system_password"];
const MASK: &str = "***";

fn mask(table: &mut Table) {
    for (key, value) in table.iter_mut() {
        match value {
            // That there is none is worth seeing.
            Value::String(text) if SECRET.contains(&key.as_str()) && !text.is_empty() => MASK.clone_into(text),
            Value::Array(items) if SECRET.contains(&key.as_str()) => items.fill(Value::from(MASK)),
            Value::Array(items) => items.iter_mut().filter_map(Value::as_table_mut).for_each(mask),
            Value::Table(inner) => mask(inner),
            _ => {}
        }
    }
}
