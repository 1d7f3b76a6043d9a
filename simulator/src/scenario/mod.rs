//! `scenario`: a seeded story that shows the whole gateway at work, told in plain sentences.
//!
//! Every step asks the real gateway and is strict about the answer: where it differs from the contract the story ends
//! with what was expected and what came.

mod chapters;
mod narrator;
mod operator;

use std::path::PathBuf;
use std::time::Duration;

use cardea::domain::{Position, VehicleId};
use clap::Args;

use crate::car::{Car, CarError, CarHandle, CarOptions, MqttAddress};
use crate::dice::Dice;
use crate::drive::from_folders;
use crate::failure::Failure;
use crate::http_client::HttpClient;
use crate::identity::{CarIssuer, Credentials};
use crate::route::offset;
use crate::station::{PaymentNetwork, Station};
use crate::world::Habits;
use narrator::Narrator;
pub use operator::{CommandView, Operator, OperatorError};

/// Nothing in the story takes longer on a machine that works.
const PATIENCE: Duration = Duration::from_secs(30);
/// Turin, where the fleet is at home, and a station too far for any of its cars.
const HOME: Position = Position { latitude: 45.07, longitude: 7.68 };
const ROME: Position = Position { latitude: 41.8986, longitude: 12.4768 };
const TANK_LITRES: f64 = 50.0;
/// The cars the story is about; the others drive.
const LEADING_CARS: usize = 5;

#[derive(Debug, Args)]
pub struct ScenarioArgs {
    /// The gateway's HTTP address, like https://127.0.0.1:8443
    #[arg(long)]
    http: String,
    /// Where it listens for cars, HOST:PORT
    #[arg(long)]
    mqtt: MqttAddress,
    /// The CA of its certificates
    #[arg(long)]
    ca: PathBuf,
    #[arg(long, env = "CARDEA_ADMIN_KEY", hide_env_values = true)]
    admin_key: String,
    /// Folder with one folder per vehicle, as `cardea enroll` writes them
    #[arg(long, conflicts_with = "ca_key", required_unless_present = "ca_key")]
    certs_dir: Option<PathBuf>,
    /// The CA's private key, to make the cars' certificates from
    #[arg(long)]
    ca_key: Option<PathBuf>,
    /// The secret payment events are signed with; without it there are no purchases
    #[arg(long, env = "CARDEA_STRIPE_SECRET", hide_env_values = true)]
    stripe_secret: Option<String>,
    #[arg(long, default_value_t = 25)]
    cars: usize,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Go on driving after the story until interrupted
    #[arg(long)]
    keep_running: bool,
}

impl From<OperatorError> for Failure {
    fn from(error: OperatorError) -> Self {
        Self::failed(error)
    }
}

/// Who and what the story is made of.
struct Stage {
    tell: Narrator,
    operator: Operator,
    network: Option<PaymentNetwork>,
    stations: Vec<Station>,
    cars: Vec<CarHandle>,
    dice: Dice,
}

pub async fn run(args: ScenarioArgs) -> Result<(), Failure> {
    if args.cars < LEADING_CARS {
        return Err(Failure::usage(format!("--cars is at least {LEADING_CARS}")));
    }
    let keep_running = args.keep_running;
    let mut stage = Stage::set(args).await?;
    tokio::select! {
        told = chapters::tell(&mut stage) => told?,
        () = crate::process::interrupted() => return stage.clear().await,
    }
    if keep_running {
        stage.tell.chapter("The fleet drives on. Ctrl-C ends it.");
        tokio::select! {
            gone_wrong = chapters::everyday_life(&mut stage) => gone_wrong?,
            () = crate::process::interrupted() => {}
        }
    }
    stage.clear().await
}

impl Stage {
    async fn set(args: ScenarioArgs) -> Result<Self, Failure> {
        let tell = Narrator::start();
        let http = HttpClient::new(&args.http, &args.ca, Some(args.admin_key.clone()))?;
        let network = match &args.stripe_secret {
            Some(secret) => Some(PaymentNetwork::new(&args.http, &args.ca, secret)?),
            None => None,
        };
        let mut dice = Dice::new(args.seed);
        let identities = identities(&args)?;
        let operator = Operator { http };
        let stations = stations(&mut dice);
        let vehicle_ids: Vec<_> = identities.iter().map(|(vehicle_id, _)| vehicle_id.clone()).collect();
        tell.chapter(&format!("The operator sets up a fleet of {} cars (seed {}).", args.cars, args.seed));
        register(&operator, &vehicle_ids, &stations, tell).await?;
        let cars = start_cars(identities, &args.mqtt, &mut dice)?;
        Ok(Self { tell, operator, network, stations, cars, dice })
    }

    async fn clear(self) -> Result<(), Failure> {
        let goodbyes: Vec<_> = self.cars.into_iter().map(|car| tokio::spawn(car.stop())).collect();
        for goodbye in goodbyes {
            goodbye.await.map_err(Failure::failed)??;
        }
        Ok(())
    }
}

fn identities(args: &ScenarioArgs) -> Result<Vec<(VehicleId, Credentials)>, Failure> {
    let identities = match (&args.certs_dir, &args.ca_key) {
        (Some(certs), _) => from_folders(certs, Some(args.cars))?,
        (None, Some(ca_key)) => {
            let issuer = CarIssuer::load(&args.ca, ca_key, false)?;
            (1..=args.cars)
                .map(|number| {
                    let vehicle_id: VehicleId = format!("CAR-{number:05}").parse()?;
                    let credentials = issuer.issue(&vehicle_id)?;
                    Ok::<_, Failure>((vehicle_id, credentials))
                })
                .collect::<Result<_, _>>()?
        }
        (None, None) => return Err(Failure::usage("either --certs-dir or --ca-key")),
    };
    if identities.len() < args.cars {
        return Err(Failure::usage(format!("--certs-dir has {} cars, {} are asked for", identities.len(), args.cars)));
    }
    Ok(identities)
}

fn stations(dice: &mut Dice) -> Vec<Station> {
    let mut station = |number: usize, name: &str, centre: Position| Station {
        station_id: format!("station-{number}"),
        name: name.into(),
        position: offset(centre, dice.between(-3e3, 3e3), dice.between(-3e3, 3e3)),
        network_id: format!("net-{number:04}"),
        terminal_id: "01".into(),
    };
    vec![
        station(1, "Porta Nuova Fuel", HOME),
        station(2, "Lingotto Fuel", HOME),
        station(3, "Dora Fuel", HOME),
        station(4, "Roma Termini Fuel", ROME),
    ]
}

/// The payment network's name of a car's card.
fn card_of(vehicle_id: &VehicleId) -> String {
    format!("ic_{vehicle_id}")
}

async fn register(
    operator: &Operator,
    vehicle_ids: &[VehicleId],
    stations: &[Station],
    tell: Narrator,
) -> Result<(), Failure> {
    let mut new_vehicles = 0;
    for vehicle_id in vehicle_ids {
        new_vehicles += usize::from(operator.register_vehicle(vehicle_id, TANK_LITRES).await?);
        operator.register_card(vehicle_id, &card_of(vehicle_id)).await?;
    }
    for station in stations {
        operator.register_station(station).await?;
    }
    tell.says(format!(
        "registers {} cars with a fuel card each, and {} fuel stations",
        vehicle_ids.len(),
        stations.len()
    ));
    tell.answers(format!("{new_vehicles} are new, the others were known"));
    Ok(())
}

fn start_cars(
    identities: Vec<(VehicleId, Credentials)>,
    mqtt: &MqttAddress,
    dice: &mut Dice,
) -> Result<Vec<CarHandle>, CarError> {
    identities
        .into_iter()
        .enumerate()
        .map(|(index, (vehicle_id, credentials))| {
            let mut options = CarOptions::new(credentials, mqtt.clone(), vehicle_id);
            options.position = offset(HOME, dice.between(-4e3, 4e3), dice.between(-4e3, 4e3));
            options.seed = dice.next();
            options.tank_litres = TANK_LITRES;
            if index >= LEADING_CARS {
                options.habits = Some(Habits { trip_s: (60.0, 300.0), pause_s: (10.0, 60.0) });
            }
            Car::start(options)
        })
        .collect()
}
