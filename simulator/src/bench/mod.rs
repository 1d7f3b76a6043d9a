//! `bench`: a load generator that speaks to the gateway and to any other broker with the same code.
//!
//! Each subcommand measures one thing and prints one JSON object (`--json`) or the same as plain lines. It compares
//! nothing and judges nothing: scripts do.

pub mod card_quality;
mod cards;
mod commands;
mod connect;
mod consoles;
mod fleet;
mod flood;
mod fsync;
mod hold;
mod http;
mod latencies;
mod lines;
mod metrics;
mod paced;
mod reader;
mod report;
mod subscriber;
mod tokens;

use clap::{Args, Subcommand};
use serde_json::Value;

use crate::failure::Failure;

#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    what: What,
    /// One JSON object on stdout instead of lines
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Make vehicles, and cards, stations and rentals, for the runs that need them
    Register(http::RegisterArgs),
    /// Mutual TLS connections per second
    Connect(connect::ConnectArgs),
    /// As much QoS 1 telemetry as goes
    TelemetryFlood(flood::FloodArgs),
    /// Telemetry of many cars at a steady pace
    TelemetryPaced(paced::PacedArgs),
    /// Processor time that consoles cost the gateway
    Consoles(consoles::ConsolesArgs),
    /// Memory of idle cars
    Hold(hold::HoldArgs),
    /// One command to all cars
    BulkCommand(commands::BulkArgs),
    /// Single commands at a steady rate
    CommandLatency(commands::LatencyArgs),
    /// Card decisions at a steady rate
    CardDecisions(cards::CardArgs),
    /// Labelled purchase stories, and how well honest ones and misuse are told apart
    CardQuality(card_quality::QualityArgs),
    /// What a token costs one core
    Tokens(tokens::TokensArgs),
    /// Durable writes in a folder
    Fsync(fsync::FsyncArgs),
}

impl BenchArgs {
    /// A steady rate of single requests needs no more, and what a load generator does not use is there for what it
    /// measures on the same machine.
    pub fn is_one_thread_enough(&self) -> bool {
        matches!(self.what, What::CommandLatency(_) | What::CardDecisions(_) | What::TelemetryPaced(_))
    }
}

pub async fn run(args: BenchArgs) -> Result<(), Failure> {
    let is_json = args.json;
    let result = match &args.what {
        What::Register(args) => http::run(args).await,
        What::Connect(args) => connect::run(args).await,
        What::TelemetryFlood(args) => flood::run(args).await,
        What::TelemetryPaced(args) => paced::run(args).await,
        What::Consoles(args) => consoles::run(args).await,
        What::Hold(args) => hold::run(args).await,
        What::BulkCommand(args) => commands::run_bulk(args).await,
        What::CommandLatency(args) => commands::run_latency(args).await,
        What::CardDecisions(args) => cards::run(args).await,
        What::CardQuality(args) => card_quality::run(args, is_json).await,
        What::Tokens(args) => tokens::run(args),
        What::Fsync(args) => fsync::run(args).await,
    }?;
    if result.is_null() {
        return Ok(());
    }
    if args.json {
        println!("{result}");
    } else {
        print_lines("", &result);
    }
    Ok(())
}

fn print_lines(name: &str, value: &Value) {
    match value {
        Value::Object(fields) => {
            for (field, value) in fields {
                print_lines(&if name.is_empty() { field.clone() } else { format!("{name}.{field}") }, value);
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                print_lines(&format!("{name}.{index}"), value);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => println!("{name}: {value}"),
    }
}
