//! `card-quality`: labelled purchase stories, honest and not, through the running gateway, and how well it tells them
//! apart. Each story is a car of its own with a card of its own; all run at once.
//!
//! A run cannot wait for hours, so pasts are told by the cars' own times, and where the gateway's own clock counts a
//! class of cars has shorter thresholds (see `rules`). Nothing of the gateway is replaced.

mod author;
mod directory;
mod kinds;
mod misuse;
mod network;
mod play;
mod rules;
mod scene;
mod stage;
mod story;
mod table;
mod tally;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cardea::clock::Clock;
use clap::Args;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::car::MqttAddress;
use crate::failure::Failure;
use crate::http_client::HttpClient;
use crate::identity::CarIssuer;
use crate::scenario::Operator;
use crate::stopwatch::Stopwatch;
use directory::Directory;
pub use kinds::{KINDS, Kind, Phase};
pub use network::Form;
use network::Network;
use play::{Played, Record, Theatre};
pub use rules::with_classes;
pub use table::print as print_table;
pub use tally::{Outcome, Report};

#[derive(Debug, Args)]
pub struct QualityArgs {
    /// The gateway's HTTP address, like https://127.0.0.1:8443
    #[arg(long, required_unless_present = "print_rules")]
    http: Option<String>,
    /// The CA of its certificate, and of the cars'
    #[arg(long, required_unless_present = "print_rules")]
    ca: Option<PathBuf>,
    /// The CA's private key, to make the cars' certificates from
    #[arg(long, required_unless_present = "print_rules")]
    ca_key: Option<PathBuf>,
    /// Where it listens for cars, HOST:PORT
    #[arg(long, required_unless_present = "print_rules")]
    mqtt: Option<MqttAddress>,
    #[arg(long, env = "CARDEA_ADMIN_KEY", hide_env_values = true, required_unless_present = "print_rules")]
    admin_key: Option<String>,
    /// The secret the payment network signs with
    #[arg(long, required_unless_present = "print_rules")]
    secret: Option<String>,
    /// own or stripe: how the network writes; Stripe's form here asks and tells nothing after
    #[arg(long, default_value = "own")]
    form: Form,
    #[arg(long, default_value_t = 360)]
    stories: usize,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A CSV file of real stations, latitude and longitude last; without it the places are made up
    #[arg(long, value_name = "FILE")]
    directory: Option<PathBuf>,
    /// Prints this rules file with the classes the stories need, to start the gateway with, and ends
    #[arg(long, value_name = "FILE")]
    print_rules: Option<PathBuf>,
    /// The report as one JSON object into this file
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

/// A set of stories and the gateway they are played at. It must have been started with [`with_classes`].
#[derive(Debug, Clone)]
pub struct Plan {
    pub http: String,
    pub ca: PathBuf,
    pub ca_key: PathBuf,
    pub mqtt: MqttAddress,
    pub admin_key: String,
    pub secret: String,
    pub form: Form,
    pub stories: usize,
    pub seed: u64,
    /// Where the stations are; `None` = made up.
    pub directory: Option<PathBuf>,
}

/// Stories made ready at the same time.
const PARALLEL: usize = 16;
/// Stories begin so long after each other: judgement is asked for here, not load.
const APART: Duration = Duration::from_millis(200);
/// After the last step: comparisons that need no further report are done by then.
const SETTLED_WITHIN: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Looks without a change after which nothing more is waited for.
const STILL_LOOKS: u32 = 5;

/// The result for `--json`; `Null` when the tables were printed.
pub async fn run(args: &QualityArgs, is_json: bool) -> Result<Value, Failure> {
    if let Some(base) = &args.print_rules {
        print!("{}", with_classes(&std::fs::read_to_string(base)?, Clock::start().now()));
        return Ok(Value::Null);
    }
    let missing = || Failure::usage("an address, a CA with its key, an admin key and a secret are needed");
    let plan = Plan {
        http: args.http.clone().ok_or_else(missing)?,
        ca: args.ca.clone().ok_or_else(missing)?,
        ca_key: args.ca_key.clone().ok_or_else(missing)?,
        mqtt: args.mqtt.clone().ok_or_else(missing)?,
        admin_key: args.admin_key.clone().ok_or_else(missing)?,
        secret: args.secret.clone().ok_or_else(missing)?,
        form: args.form,
        stories: args.stories,
        seed: args.seed,
        directory: args.directory.clone(),
    };
    let watch = Stopwatch::start();
    let report = plan.run().await?;
    let mut whole = json!(report);
    whole["took_s"] = json!(watch.elapsed().as_secs_f64().round());
    if let Some(file) = &args.report {
        write(file, &whole)?;
    }
    if is_json {
        return Ok(whole);
    }
    print_table(&report);
    println!("It took {:.0} s.", watch.elapsed().as_secs_f64());
    Ok(Value::Null)
}

fn write(file: &Path, whole: &Value) -> Result<(), Failure> {
    Ok(std::fs::write(file, format!("{whole:#}\n"))?)
}

impl Plan {
    pub async fn run(&self) -> Result<Report, Failure> {
        crate::process::raise_file_limit();
        let http = HttpClient::new(&self.http, &self.ca, Some(self.admin_key.clone()))?;
        let clock = Clock::start();
        // Letters only: digits in a row may look like a card's number.
        let tag: String = clock.new_id().as_bytes()[10..15].iter().map(|byte| char::from(b'a' + byte % 26)).collect();
        let town = match &self.directory {
            Some(file) => Directory::from_file(file, self.seed, &tag)?,
            None => Directory::new(self.seed, &tag),
        };
        stage::register_stations(&http, &town).await?;
        let renter_key = Operator { http: http.clone() }.new_renter_key(stage::RENTER).await?;
        let theatre = Arc::new(Theatre {
            renter: http.with_key(Some(renter_key)),
            network: Network::new(http.clone(), self.form, &self.secret),
            mqtt: self.mqtt.clone(),
            issuer: CarIssuer::load(&self.ca, &self.ca_key, true)?,
            http,
            clock,
            tag,
        });
        let played = self.play(&theatre, &town).await?;
        let record = settle(&theatre.http, &played).await?;
        Ok(Report::of(self.seed, &played, &record))
    }

    async fn play(&self, theatre: &Arc<Theatre>, town: &Directory) -> Result<Vec<Played>, Failure> {
        let stories = kinds::deal(self.stories).into_iter().enumerate();
        let makers = Arc::new(tokio::sync::Semaphore::new(PARALLEL));
        let mut under_way = JoinSet::new();
        for (number, kind) in stories {
            let story = author::write(kind, number, self.seed, town);
            let (theatre, makers) = (theatre.clone(), makers.clone());
            let delay = APART.mul_f64(number as f64);
            under_way.spawn(async move {
                tokio::time::sleep(delay).await;
                let permit = makers.acquire().await.map_err(Failure::failed)?;
                let cast = stage::register(&theatre.http, &story, &theatre.tag, theatre.clock.now()).await?;
                let tls = theatre.identity(&cast)?;
                drop(permit);
                theatre.play(&story, cast, tls).await
            });
        }
        let mut played = Vec::with_capacity(self.stories);
        while let Some(done) = under_way.join_next().await {
            played.push(done.map_err(Failure::failed)??);
        }
        played.sort_by_key(|played| played.story.number);
        Ok(played)
    }
}

/// Reads the record until no comparison is waited for any more, or none changes.
async fn settle(http: &HttpClient, played: &[Played]) -> Result<Record, Failure> {
    let watch = Stopwatch::start();
    let (mut record, mut still) = (Record::read(http, played).await?, 0);
    while record.pending() > 0 && still < STILL_LOOKS && watch.elapsed() < SETTLED_WITHIN {
        tokio::time::sleep(LOOK_EVERY).await;
        let again = Record::read(http, played).await?;
        still = if again.pending() == record.pending() { still + 1 } else { 0 };
        record = again;
    }
    Ok(record)
}
