//! Carries a story out: the car over MQTT, the payment network over HTTPS, people over the API, each at its time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use cardea::clock::Clock;
use cardea::domain::Timestamp;
use cardea::domain::twin::path;
use rustls::ClientConfig;
use serde_json::{Map, Value, json};

use super::network::{Answer, Names, Network};
use super::stage::{self, Cast};
use super::story::{Act, Ask, CarReport, Level, Post, Step, Story, VehicleNumber};
use crate::car::MqttAddress;
use crate::failure::Failure;
use crate::http_client::HttpClient;
use crate::identity::CarIssuer;
use crate::wire::{Packet, Session};

/// Longer than a story.
const KEEP_ALIVE_S: u16 = 600;
/// What the gateway has not taken after this is lost.
const TAKEN_WITHIN: Duration = Duration::from_secs(20);

pub struct Theatre {
    pub http: HttpClient,
    /// Speaks for whoever has the cars.
    pub renter: HttpClient,
    pub network: Network,
    pub mqtt: MqttAddress,
    pub issuer: CarIssuer,
    pub clock: Clock,
    /// Keeps the names of one run apart from another's.
    pub tag: String,
}

/// What became of one question.
#[derive(Debug, Clone)]
pub struct Asked {
    pub ask: Ask,
    /// Of the last try.
    pub authorization_id: String,
    pub answer: Answer,
    /// It went on, if at all, only after the renter's word.
    pub was_stepped_up: bool,
}

/// A story as it was played.
#[derive(Debug, Clone)]
pub struct Played {
    pub story: Story,
    pub cast: Cast,
    pub asked: Vec<Asked>,
    /// Captures that were told.
    pub captures: usize,
}

impl Played {
    /// The fallback answered, and nobody judged.
    pub fn is_unjudged(&self) -> bool {
        self.asked.iter().any(|asked| asked.answer.decision_id.is_empty())
    }
}

struct Player<'a> {
    theatre: &'a Theatre,
    story: &'a Story,
    cast: Cast,
    began: Timestamp,
    session: Session,
    seqs: (u64, u64),
    /// By their place among the story's questions.
    asked: Vec<Asked>,
    captures: usize,
}

impl Theatre {
    /// TLS settings of a story's car.
    pub fn identity(&self, cast: &Cast) -> Result<Arc<ClientConfig>, Failure> {
        Ok(self.issuer.issue(&cast.vehicle_id)?.tls_client(false)?)
    }

    pub async fn play(&self, story: &Story, cast: Cast, tls: Arc<ClientConfig>) -> Result<Played, Failure> {
        let lost = |error| Failure::failed(format!("{}: {error}", cast.vehicle_id));
        let session = Session::connect(&self.mqtt, tls, cast.vehicle_id.as_str(), KEEP_ALIVE_S).await.map_err(lost)?;
        let began = self.clock.now();
        let mut player =
            Player { theatre: self, story, cast, began, session, seqs: (0, 0), asked: Vec::new(), captures: 0 };
        for step in &story.steps {
            player.wait_for(step).await;
            player.carry_out(step).await?;
        }
        let Player { cast, asked, captures, session, .. } = player;
        session.close().await;
        Ok(Played { story: story.clone(), cast, asked, captures })
    }
}

impl Player<'_> {
    fn at(&self, at_s: f64) -> Timestamp {
        self.began.plus_ms((at_s * 1000.0) as i64)
    }

    async fn wait_for(&self, step: &Step) {
        let left_ms = self.at(step.due_s).since_ms(self.theatre.clock.now());
        if let Ok(left_ms) = u64::try_from(left_ms) {
            tokio::time::sleep(Duration::from_millis(left_ms)).await;
        }
    }

    async fn carry_out(&mut self, step: &Step) -> Result<(), Failure> {
        let Theatre { http, clock, .. } = self.theatre;
        match &step.act {
            Act::Report(report) => {
                self.seqs.0 += 1;
                let body = json!({"seq": self.seqs.0, "at": self.at(report.at_s), "signals": self.signals(report)});
                self.publish("telemetry", &body).await
            }
            Act::Fact { at_s, fact } => {
                self.seqs.1 += 1;
                let mut body = fact.clone();
                body["seq"] = self.seqs.1.into();
                body["at"] = json!(self.at(*at_s));
                self.publish("event", &body).await
            }
            Act::Ask(ask) => self.ask(ask).await,
            Act::Post(post) => self.post(post).await,
            Act::EndRental => match self.cast.rental_id {
                Some(rental_id) => Ok(stage::end_rental(http, rental_id).await?),
                None => Ok(()),
            },
            Act::MoveCard => stage::move_card(http, self.story, &self.cast, clock.now()).await,
        }
    }

    async fn publish(&mut self, topic: &str, body: &Value) -> Result<(), Failure> {
        let topic = format!("v1/{}/{topic}", self.cast.vehicle_id);
        let id = self.session.publish(&topic, body.to_string().as_bytes());
        let session = &mut self.session;
        let taking = async {
            session.flush().await?;
            while session.next().await? != (Packet::PubAck { id }) {}
            Ok::<_, crate::wire::WireError>(())
        };
        let lost = |why: String| Failure::failed(format!("{topic}: {why}"));
        match tokio::time::timeout(TAKEN_WITHIN, taking).await {
            Ok(taken) => taken.map_err(|error| lost(error.to_string())),
            Err(_) => Err(lost(format!("not taken within {TAKEN_WITHIN:?}"))),
        }
    }

    fn signals(&self, report: &CarReport) -> Map<String, Value> {
        let mut signals = Map::new();
        let mut put = |name: &str, value: Value| signals.insert(name.to_owned(), value);
        if let Some(place) = report.place {
            put(path::LATITUDE, rounded(place.latitude, 1e6).into());
            put(path::LONGITUDE, rounded(place.longitude, 1e6).into());
            put(path::ACCURACY_M, 5.into());
        }
        put(path::SPEED_KMH, rounded(report.speed_kmh, 10.0).into());
        put(path::LOW_VOLTAGE, if report.is_ignition_on { "ON" } else { "OFF" }.into());
        put(path::ODOMETER_KM, report.odometer_km.into());
        if let Some(level) = report.level {
            put(path::FUEL_PERCENT, self.story.car.sensor.read(self.true_level(level), level.noise).into());
        }
        if let Some(is_present) = report.is_card_present {
            put(path::FUEL_CARD_PRESENT, is_present.into());
        }
        signals
    }

    fn true_level(&self, level: Level) -> f64 {
        level.before + level.gained * self.share(level.by)
    }

    /// How much of what was planned the pump gave: nothing without a yes, and no more than was approved.
    fn share(&self, by: usize) -> f64 {
        // Not asked yet: the network stood in for us.
        let Some(Asked { ask, answer, .. }) = self.asked.get(by) else { return 1.0 };
        match (ask.planned_minor, answer.is_yes()) {
            (0, _) => 1.0,
            (_, false) => 0.0,
            (planned, true) => answer.cap_minor.map_or(1.0, |cap| (cap as f64 / planned as f64).min(1.0)),
        }
    }

    fn authorization_id(&self, ask: usize) -> String {
        format!("au-{}-{}", self.cast.vehicle_id, letter(ask))
    }

    fn vehicle_number(&self, ask: &Ask) -> Option<String> {
        let digits = || self.cast.plate.chars().filter(char::is_ascii_digit).collect();
        Some(match ask.prompts.vehicle_number? {
            VehicleNumber::Right => self.cast.plate.clone(),
            VehicleNumber::Digits => digits(),
            VehicleNumber::OfAnother => "BN 771 ZZ".into(),
        })
    }

    async fn ask(&mut self, ask: &Ask) -> Result<(), Failure> {
        let mut authorization_id = self.authorization_id(self.asked.len());
        // Networks date in whole seconds.
        let at = Timestamp(self.at(ask.at_s).0.div_euclid(1000) * 1000);
        let mut answer = self.try_once(ask, at, &authorization_id).await?;
        let was_stepped_up = answer.outcome == "step_up";
        if was_stepped_up && self.is_confirmed(&answer).await? {
            authorization_id.push_str("-again");
            let again = self.theatre.clock.now();
            answer = self.try_once(ask, Timestamp(again.0.div_euclid(1000) * 1000), &authorization_id).await?;
        }
        self.asked.push(Asked { ask: ask.clone(), authorization_id, answer, was_stepped_up });
        Ok(())
    }

    async fn try_once(&self, ask: &Ask, at: Timestamp, authorization_id: &str) -> Result<Answer, Failure> {
        let vehicle_number = self.vehicle_number(ask);
        let names = Names { authorization_id, card_ref: &self.cast.card_ref, vehicle_number };
        Ok(self.theatre.network.ask(self.theatre.clock.now(), at, ask, &names).await?)
    }

    /// The renter is asked in their terminal; nobody is where there is no rental.
    async fn is_confirmed(&self, answer: &Answer) -> Result<bool, Failure> {
        let is_theirs = !self.story.kind.is_strangers();
        let path = format!("/v1/confirmations/{}", answer.decision_id);
        let told = self.theatre.renter.post(&path, &json!({"is_confirmed": is_theirs})).await?;
        Ok(told.must_be(&[200, 404])?.status == 200 && is_theirs)
    }

    async fn post(&mut self, post: &Post) -> Result<(), Failure> {
        let share = post.of.map_or(1.0, |of| self.share(of));
        let was_refused = post.of.and_then(|of| self.asked.get(of)).is_some_and(|asked| !asked.answer.is_yes());
        if !self.theatre.network.tells_captures() || was_refused {
            return Ok(());
        }
        let mut post = post.clone();
        if post.scales {
            post.litres = post.litres.map(|litres| (litres * share * 100.0).floor() / 100.0);
            post.amount_minor = (post.amount_minor as f64 * share).floor() as i64;
        }
        let name =
            |of| self.asked.get(of).map_or_else(|| self.authorization_id(of), |asked| asked.authorization_id.clone());
        let of = post.of.map(name);
        let names = Names { authorization_id: "", card_ref: &self.cast.card_ref, vehicle_number: None };
        let message_id = format!("po-{}-{}", self.cast.vehicle_id, letter(post.number));
        let (now, at) = (self.theatre.clock.now(), self.at(post.at_s));
        self.theatre.network.post(now, at, &post, of.as_deref(), &names, &message_id).await?;
        self.captures += 1;
        Ok(())
    }
}

fn letter(index: usize) -> char {
    char::from(b'a' + (index % 26) as u8)
}

fn rounded(value: f64, parts: f64) -> f64 {
    (value * parts).round() / parts
}

/// What the gateway holds of a run in the end: decisions by id, and alerts by the vehicle they concern.
pub struct Record {
    pub decisions: HashMap<String, Value>,
    pub alerts: HashMap<String, Vec<Value>>,
}

impl Record {
    pub async fn read(http: &HttpClient, played: &[Played]) -> Result<Self, Failure> {
        let (mut decisions, mut alerts) = (HashMap::new(), HashMap::new());
        for played in played {
            for asked in &played.asked {
                let id = &asked.answer.decision_id;
                if id.is_empty() {
                    continue;
                }
                let answer = http.get(&format!("/v1/decisions/{id}")).await?.must_be(&[200])?;
                decisions.insert(id.clone(), answer.body);
            }
            let vehicle = played.cast.vehicle_id.as_str();
            for vehicle in [vehicle.to_owned(), format!("{vehicle}-b")] {
                let path = format!("/v1/alerts?limit=100&vehicle_id={vehicle}");
                let page = http.get(&path).await?.must_be(&[200])?;
                alerts
                    .entry(played.cast.vehicle_id.to_string())
                    .or_insert_with(Vec::new)
                    .extend(page.list("/items")?.to_vec());
            }
        }
        Ok(Self { decisions, alerts })
    }

    /// Purchases whose captures were not compared with the car yet.
    pub fn pending(&self) -> usize {
        let is_pending =
            |decision: &&Value| decision.pointer("/reconciliation/state").is_some_and(|state| state == "pending");
        self.decisions.values().filter(is_pending).count()
    }
}
