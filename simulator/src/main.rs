//! `cardea-simulator`: arguments, logging, and the exit code.

use std::process::ExitCode;

use cardea_simulator::{bench, drive, est, failure::Failure, identity, replay, scenario, try_out};
use clap::{Parser, Subcommand};
use tokio::runtime::{Builder, Runtime};
use tracing_subscriber::EnvFilter;

/// Cars, phones and fuel stations for Cardea, over real MQTT/TLS and HTTPS
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Many cars that make trips until interrupted
    Drive(drive::DriveArgs),
    /// Get a car's first certificate with a one-time token (EST)
    Enroll(est::EnrollArgs),
    /// A recorded drive as real input
    Replay(replay::ReplayArgs),
    /// A renter asks for a car and uses the key
    Phone(try_out::PhoneArgs),
    /// A card is read at a fuel station
    Station(try_out::StationArgs),
    /// A seeded story with renters, purchases and a fraud
    Scenario(scenario::ScenarioArgs),
    /// Load, measured
    Bench(bench::BenchArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    identity::install_crypto();
    let started = match &cli.command {
        Command::Bench(args) if args.is_one_thread_enough() => Builder::new_current_thread().enable_all().build(),
        _ => Runtime::new(),
    };
    let runtime = match started {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: starting the runtime: {error}");
            return ExitCode::from(1);
        }
    };
    match runtime.block_on(run(cli.command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            failure.exit_code()
        }
    }
}

async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Drive(args) => drive::run(args).await,
        Command::Enroll(args) => est::run(args).await,
        Command::Replay(args) => replay::run(args).await,
        Command::Phone(args) => try_out::run_phone(args).await,
        Command::Station(args) => try_out::run_station(args).await,
        Command::Scenario(args) => scenario::run(args).await,
        Command::Bench(args) => bench::run(args).await,
    }
}
