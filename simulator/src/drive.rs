//! `drive`: many cars in one process, each with its own certificate, making trips until told to stop.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cardea::domain::{Position, VehicleId};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use crate::car::{Car, CarHandle, CarOptions, MqttAddress};
use crate::dice::Dice;
use crate::est::Renewal;
use crate::failure::Failure;
use crate::identity::{CarIssuer, Credentials};
use crate::route::offset;
use crate::world::Habits;

#[derive(Debug, Args)]
pub struct DriveArgs {
    /// Where the gateway listens for cars, HOST:PORT
    #[arg(long)]
    pub mqtt: MqttAddress,
    /// Folder with one folder per vehicle, as `cardea enroll` writes them
    #[arg(long, conflicts_with_all = ["ca", "ca_key", "prefix"], required_unless_present = "ca_key")]
    pub certs: Option<PathBuf>,
    /// The CA's certificate, to make the cars' certificates from
    #[arg(long, requires = "ca_key")]
    pub ca: Option<PathBuf>,
    /// The CA's private key
    #[arg(long, requires = "ca")]
    pub ca_key: Option<PathBuf>,
    /// Vehicle ids are PREFIX-00001 and so on
    #[arg(long, default_value = "CAR")]
    pub prefix: String,
    /// How many cars; default: every folder, or 25
    #[arg(long)]
    pub cars: Option<usize>,
    /// Reports per second and car
    #[arg(long, default_value_t = 1.0)]
    pub rate: f64,
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// New connections per second
    #[arg(long, default_value_t = 200.0)]
    pub ramp: f64,
    /// Around which place, LAT,LON
    #[arg(long, default_value = "45.07,7.68", value_parser = parse_place)]
    pub near: Position,
    /// Renew certificates at this gateway, like https://127.0.0.1:8443; with --certs also in their folders
    #[arg(long)]
    pub est: Option<String>,
    /// How many days before its end a certificate is renewed
    #[arg(long, default_value_t = 30, requires = "est")]
    pub renew_before_days: u32,
    /// Stop after so many seconds; default: until interrupted
    #[arg(long = "for", value_name = "SECONDS")]
    pub seconds: Option<u64>,
}

pub fn parse_place(text: &str) -> Result<Position, String> {
    let (latitude, longitude) = text.split_once(',').ok_or("a place is LAT,LON")?;
    let number = |text: &str| text.trim().parse::<f64>().map_err(|_| format!("{text:?} is not a number of degrees"));
    let position = Position { latitude: number(latitude)?, longitude: number(longitude)? };
    if position.is_valid() { Ok(position) } else { Err("not a place on the globe".into()) }
}

/// What the fleet has come to, summed over its cars.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Totals {
    connected: usize,
    messages: u64,
    commands: u64,
    failures: u64,
}

pub async fn run(args: DriveArgs) -> Result<(), Failure> {
    if !(args.rate > 0.0 && args.rate <= 100.0) {
        return Err(Failure::usage("--rate lies between 0 and 100 reports per second"));
    }
    if !(args.ramp > 0.0 && args.ramp <= 100_000.0) {
        return Err(Failure::usage("--ramp lies between 0 and 100000 connections per second"));
    }
    crate::process::raise_file_limit();
    let identities = identities(&args)?;
    let view = View::new(identities.len());
    let mut cars = Vec::with_capacity(identities.len());
    let end = end_of_run(args.seconds);
    tokio::pin!(end);
    let mut ramp = tokio::time::interval(Duration::from_secs_f64(1.0 / args.ramp));
    let mut refresh = tokio::time::interval(view.period());
    refresh.tick().await;
    let mut waiting = identities.into_iter().enumerate();
    let mut next = waiting.next();
    let mut before = Totals::default();
    loop {
        tokio::select! {
            () = &mut end => break,
            _ = ramp.tick(), if next.is_some() => {
                if let Some((index, (vehicle_id, credentials))) = next.take() {
                    cars.push(start(&args, index, vehicle_id, credentials)?);
                }
                next = waiting.next();
            }
            _ = refresh.tick() => {
                let totals = totals(&cars);
                view.show(totals, before);
                before = totals;
            }
        }
    }
    finish(cars, &view).await
}

fn start(
    args: &DriveArgs,
    index: usize,
    vehicle_id: VehicleId,
    credentials: Credentials,
) -> Result<CarHandle, Failure> {
    let mut dice = Dice::fork(args.seed, index as u64);
    let mut options = CarOptions::new(credentials, args.mqtt.clone(), vehicle_id);
    options.position = offset(args.near, dice.between(-4e3, 4e3), dice.between(-4e3, 4e3));
    options.seed = dice.next();
    options.telemetry_interval = Duration::from_secs_f64(1.0 / args.rate);
    options.habits = Some(Habits { trip_s: (120.0, 900.0), pause_s: (30.0, 300.0) });
    options.renewal = args.est.as_ref().map(|http| Renewal {
        http: http.trim_end_matches('/').to_owned(),
        before: Duration::from_secs(u64::from(args.renew_before_days) * 86_400),
        dir: args.certs.as_ref().map(|certs| certs.join(options.vehicle_id.as_str())),
    });
    Ok(Car::start(options)?)
}

async fn end_of_run(seconds: Option<u64>) {
    let over = async {
        match seconds {
            Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = over => {}
        () = crate::process::interrupted() => {}
    }
}

async fn finish(cars: Vec<CarHandle>, view: &View) -> Result<(), Failure> {
    let ever_connected = cars.iter().any(|car| car.state().link.connections > 0);
    let last_error = cars.iter().find_map(|car| car.state().link.last_error.clone());
    view.end(totals(&cars));
    let goodbyes: Vec<_> = cars.into_iter().map(|car| tokio::spawn(car.stop())).collect();
    for goodbye in goodbyes {
        // A car that ended before is as stopped as it can be.
        let _ = goodbye.await;
    }
    if ever_connected {
        return Ok(());
    }
    Err(Failure::failed(format!("no car could connect: {}", last_error.as_deref().unwrap_or("no answer in time"))))
}

fn totals(cars: &[CarHandle]) -> Totals {
    cars.iter().fold(Totals::default(), |sum, car| {
        let state = car.state();
        let counters = state.unit.counters();
        Totals {
            connected: sum.connected + usize::from(state.link.is_connected),
            messages: sum.messages + counters.telemetry + counters.acks,
            commands: sum.commands + counters.received,
            failures: sum.failures + state.link.failures,
        }
    })
}

fn identities(args: &DriveArgs) -> Result<Vec<(VehicleId, Credentials)>, Failure> {
    match (&args.certs, &args.ca, &args.ca_key) {
        (Some(certs), _, _) => from_folders(certs, args.cars),
        (None, Some(ca), Some(ca_key)) => {
            let issuer = CarIssuer::load(ca, ca_key, false)?;
            (1..=args.cars.unwrap_or(25))
                .map(|number| {
                    let name = format!("{}-{number:05}", args.prefix);
                    let vehicle_id: VehicleId =
                        name.parse().map_err(|error| Failure::usage(format!("--prefix: {error}")))?;
                    let credentials = issuer.issue(&vehicle_id)?;
                    Ok((vehicle_id, credentials))
                })
                .collect()
        }
        (None, _, _) => Err(Failure::usage("either --certs, or --ca and --ca-key")),
    }
}

/// The vehicles that have a folder here, by name.
pub fn from_folders(certs: &Path, at_most: Option<usize>) -> Result<Vec<(VehicleId, Credentials)>, Failure> {
    let unreadable = |error: std::io::Error| Failure::usage(format!("--certs {}: {error}", certs.display()));
    let mut folders: Vec<PathBuf> = std::fs::read_dir(certs)
        .map_err(unreadable)?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.join("cert.pem").is_file())
        .collect();
    folders.sort();
    folders.truncate(at_most.unwrap_or(usize::MAX));
    if folders.is_empty() {
        return Err(Failure::usage(format!("--certs {}: no folder with a cert.pem in it", certs.display())));
    }
    folders
        .into_iter()
        .map(|path| {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let vehicle_id = name.parse().map_err(|error| Failure::usage(format!("folder {name:?}: {error}")))?;
            Ok((vehicle_id, Credentials::load(&path)?))
        })
        .collect()
}

/// A bar on a terminal, plain lines elsewhere.
enum View {
    Bar(ProgressBar),
    Lines { cars: usize },
}

impl View {
    fn new(cars: usize) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self::Lines { cars };
        }
        let bar = ProgressBar::new(cars as u64);
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} cars online  {msg}") {
            bar.set_style(style);
        }
        Self::Bar(bar)
    }

    fn period(&self) -> Duration {
        match self {
            Self::Bar(_) => Duration::from_secs(1),
            Self::Lines { .. } => Duration::from_secs(5),
        }
    }

    fn show(&self, now: Totals, before: Totals) {
        let rate = (now.messages - before.messages.min(now.messages)) as f64 / self.period().as_secs_f64();
        let rest = format!("{rate:.0} messages/s, {} commands, {} links lost", now.commands, now.failures);
        match self {
            Self::Bar(bar) => {
                bar.set_position(now.connected as u64);
                bar.set_message(rest);
            }
            Self::Lines { cars } => eprintln!("{}/{cars} cars online, {rest}", now.connected),
        }
    }

    fn end(&self, totals: Totals) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
        eprintln!(
            "ended with {} cars online; {} messages, {} commands, {} links lost",
            totals.connected, totals.messages, totals.commands, totals.failures
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_and_checked() {
        assert_eq!(parse_place("45.07, 7.68"), Ok(Position { latitude: 45.07, longitude: 7.68 }));
        for text in ["", "1", "a,b", "91,0", "0,181", "NaN,0"] {
            assert!(parse_place(text).is_err(), "{text}");
        }
    }
}
