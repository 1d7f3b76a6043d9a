//! The HTTP side of a bench run: who asks, and what must exist first (`register`).

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::fleet::name;
use crate::failure::Failure;
use crate::http_client::{HttpClient, HttpError};
use crate::station::Station;

#[derive(Debug, Clone, Args)]
pub struct HttpArgs {
    /// The gateway's HTTP address, like https://127.0.0.1:8443
    #[arg(long)]
    http: String,
    /// The CA of its certificate
    #[arg(long = "http-ca")]
    http_ca: PathBuf,
    #[arg(long, env = "CARDEA_ADMIN_KEY", hide_env_values = true)]
    admin_key: String,
}

impl HttpArgs {
    pub fn client(&self) -> Result<HttpClient, Failure> {
        Ok(HttpClient::new(&self.http, &self.http_ca, Some(self.admin_key.clone()))?)
    }

    pub fn admin_key(&self) -> &str {
        &self.admin_key
    }

    pub fn base(&self) -> &str {
        &self.http
    }

    pub fn ca(&self) -> &std::path::Path {
        &self.http_ca
    }
}

#[derive(Debug, Args)]
pub struct RegisterArgs {
    #[command(flatten)]
    http: HttpArgs,
    #[arg(long, default_value = "BENCH")]
    prefix: String,
    #[arg(long, default_value_t = 1_000)]
    cars: usize,
    /// A fuel card for each of the first so many, and two stations
    #[arg(long, default_value_t = 0)]
    cards: usize,
    /// A running rental for each car with a card, so that honest purchases pass
    #[arg(long)]
    rentals: bool,
    #[arg(long, default_value_t = 32)]
    parallel: usize,
}

/// The card of a bench car.
pub fn card_ref(prefix: &str, index: usize) -> String {
    format!("ic_{}", name(prefix, index))
}

/// The one the bench cars stand at, and one far away.
pub fn stations() -> [Station; 2] {
    let station = |id: &str, latitude, longitude| Station {
        station_id: format!("bench-{id}"),
        name: format!("Bench {id}"),
        position: cardea::domain::Position { latitude, longitude },
        network_id: format!("net-{id}"),
        terminal_id: "1".into(),
    };
    [station("near", 45.07, 7.68), station("far", 41.90, 12.49)]
}

pub async fn run(args: &RegisterArgs) -> Result<Value, Failure> {
    let http = args.http.client()?;
    if args.cards > 0 {
        for station in stations() {
            made(http.post("/v1/stations", &station.directory_entry()).await?)?;
        }
    }
    let mut under_way: JoinSet<Result<(), HttpError>> = JoinSet::new();
    for index in 0..args.cars {
        if under_way.len() >= args.parallel.max(1)
            && let Some(done) = under_way.join_next().await
        {
            done.map_err(Failure::failed)??;
        }
        let (http, prefix) = (http.clone(), args.prefix.clone());
        let (has_card, has_rental) = (index < args.cards, index < args.cards && args.rentals);
        under_way.spawn(async move { register(&http, &prefix, index, has_card, has_rental).await });
    }
    while let Some(done) = under_way.join_next().await {
        done.map_err(Failure::failed)??;
    }
    Ok(json!({ "cars": args.cars, "cards": args.cards.min(args.cars) }))
}

async fn register(
    http: &HttpClient,
    prefix: &str,
    index: usize,
    has_card: bool,
    has_rental: bool,
) -> Result<(), HttpError> {
    let vehicle_id = name(prefix, index);
    let lending = json!({"profiles": ["cabin", "drive"], "windows": [], "max_minutes": 1440, "approval": "auto"});
    let vehicle = json!({"vehicle_id": vehicle_id, "fuel_type": "petrol", "tank_litres": 50, "lending": lending});
    made(http.post("/v1/vehicles", &vehicle).await?)?;
    if has_card {
        let card = json!({
            "card_id": format!("card-{vehicle_id}"),
            "network_ref": card_ref(prefix, index),
            "vehicle_id": vehicle_id,
            "status": "active",
        });
        made(http.post("/v1/cards", &card).await?)?;
    }
    if has_rental {
        let now = cardea::clock::Clock::start().now();
        let phone = crate::phone::Phone::new(http.clone());
        let vehicle = vehicle_id.parse().map_err(|_| HttpError::NotRented { vehicle_id: vehicle_id.clone() })?;
        let until = now.plus_ms(3_600_000);
        match phone.request(&vehicle, "drive", now, until, Some("bench")).await? {
            crate::phone::Requested::Granted(_) => {}
            crate::phone::Requested::Waiting { .. } | crate::phone::Requested::Refused { .. } => {
                return Err(HttpError::NotRented { vehicle_id });
            }
        }
    }
    Ok(())
}

/// Made now, or there already from an earlier run.
fn made(answer: crate::http_client::Answer) -> Result<(), HttpError> {
    answer.must_be(&[200, 201, 409]).map(drop)
}
