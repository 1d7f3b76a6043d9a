//! `card-decisions`: signed payment events at a steady rate, honest ones and frauds mixed, and how fast each is judged.

use std::sync::Arc;
use std::time::Duration;

use cardea::clock::Clock;
use clap::Args;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::http::{HttpArgs, card_ref, stations};
use super::latencies::Latencies;
use crate::dice::Dice;
use crate::failure::Failure;
use crate::http_client::{HttpClient, HttpError};
use crate::station::{Purchase, signature};
use crate::stopwatch::Stopwatch;

#[derive(Debug, Args)]
pub struct CardArgs {
    #[command(flatten)]
    http: HttpArgs,
    /// The secret the payment network signs with
    #[arg(long)]
    secret: String,
    #[arg(long, default_value = "BENCH")]
    prefix: String,
    /// Cards in use (see `bench register --cards`)
    #[arg(long, default_value_t = 100)]
    cards: usize,
    /// Events per second
    #[arg(long, default_value_t = 1_000.0)]
    rate: f64,
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Share of events from a station where the car is not, or with a card nobody knows
    #[arg(long, default_value_t = 0.1)]
    fraud_share: f64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

struct Judged {
    took_ns: u64,
    approved: bool,
}

pub async fn run(args: &CardArgs) -> Result<Value, Failure> {
    if !(args.rate > 0.0 && args.rate <= 100_000.0) || args.cards == 0 {
        return Err(Failure::usage("--rate lies between 0 and 100000 per second, --cards is at least 1"));
    }
    // The network has no API key: its signature speaks for it.
    let http = HttpClient::new(args.http.base(), args.http.ca(), None)?;
    let secret: Arc<str> = args.secret.as_str().into();
    let clock = Clock::start();
    let mut dice = Dice::new(args.seed);
    let places = stations();
    let mut requests: JoinSet<Result<Judged, HttpError>> = JoinSet::new();
    let mut moments = tokio::time::interval(Duration::from_secs_f64(1.0 / args.rate));
    let (mut latencies, mut approved, mut failures, mut frauds) = (Latencies::default(), 0u64, Vec::new(), 0u64);
    let total = (args.rate * args.seconds as f64) as usize;
    let watch = Stopwatch::start();
    let mut sent = 0;
    while sent < total || !requests.is_empty() {
        tokio::select! {
            _ = moments.tick(), if sent < total => {
                sent += 1;
                let is_fraud = dice.chance(args.fraud_share);
                frauds += u64::from(is_fraud);
                let card = card_ref(&args.prefix, dice.below(args.cards));
                let purchase = match (is_fraud, dice.chance(0.5)) {
                    (true, true) => Purchase::at(&places[1], &card, 6_000),
                    (true, false) => Purchase::at(&places[0], "ic_unknown", 6_000),
                    (false, _) => Purchase::at(&places[0], &card, 6_000),
                };
                requests.spawn(judge(http.clone(), secret.clone(), purchase, clock.now().as_secs()));
            }
            Some(judged) = requests.join_next() => match judged.map_err(Failure::failed)? {
                Ok(judged) => {
                    latencies.add_ns(judged.took_ns);
                    approved += u64::from(judged.approved);
                }
                Err(error) => failures.push(error.to_string()),
            },
        }
    }
    let seconds = watch.elapsed().as_secs_f64();
    Ok(json!({
        "rate": args.rate,
        "reached_per_s": (latencies.len() as f64 / seconds).round(),
        "decisions": latencies.len(),
        "approved": approved,
        "frauds_sent": frauds,
        "errors": failures.len(),
        "first_error": failures.first(),
        "latency": latencies.into_json(),
    }))
}

async fn judge(http: HttpClient, secret: Arc<str>, purchase: Purchase, unix_s: i64) -> Result<Judged, HttpError> {
    let body = purchase.event(unix_s).to_string().into_bytes();
    let header = signature(&secret, unix_s, &body);
    let watch = Stopwatch::start();
    let answer = http.post_raw("/v1/payments/stripe", &[("Stripe-Signature", &header)], body).await?;
    let took_ns = watch.elapsed_ns();
    let approved = answer.expect(&[200])?.flag("/approved")?;
    Ok(Judged { took_ns, approved })
}
