//! `phone` and `station`: one renter or one purchase from the command line, with the gateway's answer in plain words.

use std::path::PathBuf;
use std::time::Duration;

use cardea::clock::Clock;
use cardea::domain::{Function, Position, VehicleId};
use clap::Args;

use crate::failure::Failure;
use crate::http_client::HttpClient;
use crate::phone::{Done, Phone, Requested, VirtualKey};
use crate::station::{PaymentNetwork, Purchase, Station};

#[derive(Debug, Args)]
struct Gateway {
    /// The gateway's HTTP address, like https://127.0.0.1:8443
    #[arg(long)]
    http: String,
    /// The CA of its certificate
    #[arg(long)]
    ca: PathBuf,
}

#[derive(Debug, Args)]
pub struct PhoneArgs {
    #[command(flatten)]
    gateway: Gateway,
    /// The renter's API key, or an operator's with --renter
    #[arg(long, env = "CARDEA_API_KEY", hide_env_values = true)]
    api_key: String,
    /// For whom an operator asks
    #[arg(long)]
    renter: Option<String>,
    #[arg(long)]
    vehicle: VehicleId,
    #[arg(long, default_value = "cabin")]
    profile: String,
    #[arg(long, default_value_t = 60)]
    minutes: u32,
    /// What to ask the car for with the key, in turn
    #[arg(long = "use", value_delimiter = ',', default_value = "unlock_doors", value_parser = parse_function)]
    functions: Vec<Function>,
    /// End the rental afterwards
    #[arg(long)]
    end: bool,
    /// How long the car may take for each
    #[arg(long, default_value_t = 20)]
    wait_seconds: u64,
}

#[derive(Debug, Args)]
pub struct StationArgs {
    #[command(flatten)]
    gateway: Gateway,
    /// The secret the payment network signs with
    #[arg(long, env = "CARDEA_STRIPE_SECRET", hide_env_values = true)]
    secret: String,
    /// The payment network's id of the card
    #[arg(long)]
    card: String,
    /// The network's id of the merchant
    #[arg(long)]
    network_id: String,
    #[arg(long)]
    terminal_id: String,
    #[arg(long, default_value = "Fuel station")]
    name: String,
    /// What the pump reserves, in cents
    #[arg(long, default_value_t = 6_000)]
    amount_minor: i64,
}

fn parse_function(text: &str) -> Result<Function, cardea::domain::Malformed> {
    text.parse()
}

pub async fn run_phone(args: PhoneArgs) -> Result<(), Failure> {
    let http = HttpClient::new(&args.gateway.http, &args.gateway.ca, Some(args.api_key.clone()))?;
    let phone = Phone::new(http);
    let now = Clock::start().now();
    let until = now.plus_ms(i64::from(args.minutes) * 60_000);
    let key = match phone.request(&args.vehicle, &args.profile, now, until, args.renter.as_deref()).await? {
        Requested::Granted(key) => key,
        Requested::Waiting { request_id, state } => {
            println!("request {request_id} is {state}");
            return Ok(());
        }
        Requested::Refused { status, problem } => {
            return Err(Failure::failed(format!("refused: {status} {problem}")));
        }
    };
    println!("key {} until {until}", key.key_id);
    println!("permits {}", key.permits.join(", "));
    println!("prohibits {}", key.prohibits.join(", "));
    let used = use_key(&phone, &key, &args).await;
    if args.end {
        println!("rental {} is {}", key.rental_id, phone.end(key.rental_id).await?);
    }
    used
}

async fn use_key(phone: &Phone, key: &VirtualKey, args: &PhoneArgs) -> Result<(), Failure> {
    let within = Duration::from_secs(args.wait_seconds);
    for function in &args.functions {
        match phone.ask(key.key_id, *function, within).await? {
            Done::Command { command_id, state } => {
                println!("{}: {state} (command {command_id})", function.name());
                if state != "succeeded" {
                    return Err(Failure::failed(format!("{} is {state}", function.name())));
                }
            }
            Done::Forbidden => return Err(Failure::failed(format!("{}: the key prohibits it", function.name()))),
        }
    }
    Ok(())
}

pub async fn run_station(args: StationArgs) -> Result<(), Failure> {
    let network = PaymentNetwork::new(&args.gateway.http, &args.gateway.ca, &args.secret)?;
    let station = Station {
        station_id: args.network_id.clone(),
        name: args.name,
        // Networks send no place; the gateway looks it up in its own directory.
        position: Position { latitude: 0.0, longitude: 0.0 },
        network_id: args.network_id,
        terminal_id: args.terminal_id,
    };
    let purchase = Purchase::at(&station, &args.card, args.amount_minor);
    let verdict = network.authorize(&purchase).await?;
    let word = if verdict.approved { "approved" } else { "declined" };
    println!("{} {word} in {:.1} ms", purchase.authorization_id, verdict.took.as_secs_f64() * 1e3);
    if !verdict.metadata.is_null() {
        println!("metadata {}", verdict.metadata);
    }
    Ok(())
}
