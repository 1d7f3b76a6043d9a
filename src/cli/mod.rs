//! The commands of the `cardea` program, one file each: what they take, what they print, how they fail.
//!
//! Standard output carries what was asked for (JSON lines), standard error everything else. Exit codes: 0 ok,
//! 1 failed, 2 bad arguments or config. No command leaves half of what it makes.

mod backup;
mod config;
mod doctor;
mod enroll;
mod init;
mod journal;
mod migrate;
mod new_files;

use std::fmt;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub const FAILED: u8 = 1;
const BAD_INPUT: u8 = 2;

/// A real-time vehicle gateway: virtual keys and a fuel-card guard for car-sharing and rental fleets.
#[derive(Debug, Parser)]
#[command(name = "cardea", version, arg_required_else_help = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a folder with everything a fleet needs: CA, certificates, keys, config and an admin API key (shown once)
    Init(init::Init),
    /// Run the gateway
    Serve(Serve),
    /// Make a certificate for a car, offline
    Enroll(enroll::Enroll),
    /// Copy the data (and with --with-keys the whole fleet) to a folder; the gateway may be running
    Backup(backup::Backup),
    /// Put a backup's data back, or make a fleet's folder anew from one
    Restore(backup::Restore),
    /// Look at config, certificates, keys, ports, clock, disk and journal, and say what is wrong and what to do
    Doctor(doctor::Doctor),
    /// Print the reference of the config, or check a file of your own
    #[command(subcommand)]
    Config(config::Config),
    /// Copy this machine's journal into the stream of a new cluster, or what its servers lost; the gateway must not run
    Migrate(migrate::Migrate),
    /// Check or export the journal, offline
    #[command(subcommand)]
    Journal(journal::Journal),
}

#[derive(Debug, Args)]
struct Serve {
    #[command(flatten)]
    config: ConfigArgs,
}

/// Where the config is.
#[derive(Debug, Args)]
struct ConfigArgs {
    /// The config file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Overrides a key of the config, like `--set http.listen=127.0.0.1:0`; relative paths start at the file's folder
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl ConfigArgs {
    fn load(&self) -> Result<cardea::config::Config, Failure> {
        cardea::config::load(&self.config, &self.set).map_err(|error| Failure::bad_input(&error))
    }
}

/// Runs one command to its end.
pub fn run(arguments: Arguments) -> Result<(), Failure> {
    match arguments.command {
        Command::Init(init) => init.run(),
        Command::Serve(serve) => cardea::run(serve.config.load()?).map_err(|error| Failure::failed(&error)),
        Command::Enroll(enroll) => enroll.run(),
        Command::Backup(backup) => backup.run(),
        Command::Restore(restore) => restore.run(),
        Command::Doctor(doctor) => doctor.run(),
        Command::Config(config) => config.run(),
        Command::Migrate(migrate) => migrate.run(),
        Command::Journal(journal) => journal.run(),
    }
}

/// Why a command ended without doing what it was asked; one sentence for whoever typed it.
#[derive(Debug)]
pub struct Failure {
    exit_code: u8,
    message: String,
}

impl Failure {
    /// The world said no: trying again may help.
    fn failed(error: &impl fmt::Display) -> Self {
        Self { exit_code: FAILED, message: error.to_string() }
    }

    /// The arguments or the config are at fault: the same again fails again.
    fn bad_input(error: &impl fmt::Display) -> Self {
        Self { exit_code: BAD_INPUT, message: error.to_string() }
    }

    pub fn exit_code(&self) -> u8 {
        self.exit_code
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
