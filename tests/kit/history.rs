//! Judges a history: what clients asked and heard, what the gateways say afterwards, what the journal has, what cars did.
//!
//! Pure: the tests in planted.rs plant each violation and see it found. It knows the wires and nothing of how a gateway works.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use cardea::domain::Timestamp;
use serde_json::Value;

/// What was asked, as far as it can be told from the answer and the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// No two orders to one vehicle have the same `ttl_ms`, so that a command tells which order it comes from.
    Order {
        vehicle: String,
        ttl_ms: i64,
    },
    /// No two requests have the same renter, for the same reason.
    Rent {
        vehicle: String,
        renter: String,
    },
    End {
        rental: String,
    },
    Cancel {
        rental: String,
    },
    Revoke {
        key: String,
    },
    Buy {
        authorization: String,
    },
}

/// What the client heard.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
    Done(Value),
    /// Surely nothing happened, says the gateway.
    Refused(String),
    /// No answer, or one that says that nobody knows.
    Unknown,
}

/// One request and its end. The same again, with the same `name`, is another attempt.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// The idempotency key or the authorization's id.
    pub name: String,
    pub asked: Asked,
    pub node: String,
    pub from_ms: u64,
    pub until_ms: u64,
    pub heard: Heard,
}

/// What one gateway says when all is quiet.
#[derive(Debug, Clone, Default)]
pub struct NodeState {
    pub node: String,
    /// By path; null where it knows nothing.
    pub things: BTreeMap<String, Value>,
}

/// A record of the journal.
#[derive(Debug, Clone, Default)]
pub struct Record {
    pub position: u64,
    pub stream: String,
    /// The claim that this record is: by which gateway's which process.
    pub claim: Option<String>,
    /// Who wrote it, where the record tells.
    pub writer: Option<String>,
    pub events: Vec<Value>,
}

/// How often a car carried out a command.
#[derive(Debug, Clone)]
pub struct Executed {
    pub vehicle: String,
    pub command: String,
    pub times: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// A promise is not there, or is another one.
    Lost,
    /// Two gateways say different things.
    Diverged,
    /// A gateway says that there is no such thing, and another had promised it before.
    Stale,
    /// A car did a command twice.
    DoneTwice,
    /// What the gateways call done was not, or the other way round.
    Untrue,
    /// Somebody wrote a vehicle's record without holding it.
    TwoOwners,
    /// Two rentals have one car at one time.
    Overlap,
    /// The same request was answered differently, or carried out twice.
    UnequalRepeat,
    /// It was refused as surely not done, and was done.
    RefusedYetDone,
}

#[derive(Debug, Clone)]
pub struct Violation {
    pub rule: Rule,
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.rule, self.what)
    }
}

fn violation(rule: Rule, what: impl Into<String>) -> Violation {
    Violation { rule, what: what.into() }
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

/// What a network hears of a decision; what is absent is null in both.
const ANSWER: [&str; 5] = ["decision_id", "outcome", "settlement", "cap_minor", "reasons"];

/// Something that must be so: at this path these members have these values, or one of these states.
#[derive(Debug)]
struct Promise {
    path: String,
    same: Value,
    states: &'static [&'static str],
}

impl Promise {
    fn of(path: String, answer: &Value, members: &[&str]) -> Self {
        let same = members.iter().map(|member| ((*member).to_owned(), answer[*member].clone()));
        Self { path, same: Value::Object(same.collect()), states: &[] }
    }

    fn state(path: String, states: &'static [&'static str]) -> Self {
        Self { path, same: Value::Object(serde_json::Map::new()), states }
    }

    /// What a success promises.
    fn all(asked: &Asked, answer: &Value) -> Vec<Self> {
        match asked {
            Asked::Order { .. } => {
                let path = format!("/v1/commands/{}", text(answer, "command_id"));
                vec![Self::of(path, answer, &["command_id", "vehicle_id", "type", "created_at", "expires_at"])]
            }
            Asked::Rent { vehicle, renter } => {
                let told = serde_json::json!({"vehicle_id": vehicle, "renter": renter,
                    "rental_id": answer["rental_id"], "key_id": answer["key"]["key_id"]});
                let rental = format!("/v1/rentals/{}", text(answer, "rental_id"));
                let key = format!("/v1/keys/{}", text(&answer["key"], "key_id"));
                vec![
                    Self::of(rental, &told, &["vehicle_id", "renter", "rental_id", "key_id"]),
                    Self::of(key, &answer["key"], &["key_id", "permits", "prohibits"]),
                ]
            }
            Asked::End { rental } => vec![Self::state(format!("/v1/rentals/{rental}"), &["ending", "ended"])],
            Asked::Cancel { rental } => vec![Self::state(format!("/v1/rentals/{rental}"), &["cancelled"])],
            Asked::Revoke { key } => vec![Self::state(format!("/v1/keys/{key}"), &["revoked", "expired"])],
            Asked::Buy { .. } => {
                let path = format!("/v1/decisions/{}", text(answer, "decision_id"));
                vec![Self::of(path, answer, &ANSWER)]
            }
        }
    }

    fn broken_by(&self, found: &Value) -> Option<String> {
        if found.is_null() {
            return Some("is gone".into());
        }
        for (member, told) in self.same.as_object().into_iter().flatten() {
            if found[member] != *told {
                return Some(format!("has {member} {}, and {told} was told", found[member]));
            }
        }
        let state = text(found, "state");
        let is_so = self.states.is_empty() || self.states.contains(&state);
        (!is_so).then(|| format!("is {state}, and it was told to be {}", self.states.join(" or ")))
    }
}

fn promises(history: &[Attempt]) -> impl Iterator<Item = (&Attempt, Promise)> {
    history.iter().flat_map(|attempt| {
        let promised = match &attempt.heard {
            Heard::Done(answer) => Promise::all(&attempt.asked, answer),
            Heard::Refused(_) | Heard::Unknown => Vec::new(),
        };
        promised.into_iter().map(move |promise| (attempt, promise))
    })
}

/// Where to look on every gateway.
pub fn paths(history: &[Attempt]) -> BTreeSet<String> {
    promises(history).map(|(_, promise)| promise.path).collect()
}

/// Every rule; none broken = empty.
pub fn check(history: &[Attempt], nodes: &[NodeState], records: &[Record], executed: &[Executed]) -> Vec<Violation> {
    let early = Early::of(records);
    let mut found = lost(history, nodes, &early);
    found.extend(unheard(history, &early));
    found.extend(stale(history));
    found.extend(diverged(nodes));
    found.extend(done_twice(executed));
    found.extend(untrue(nodes, executed));
    found.extend(two_owners(records));
    found.extend(overlaps(records));
    found.extend(unequal_repeats(history, &early));
    found.extend(miscounted(history, records));
    found
}

/// Purchases that a gateway answered while it could not ask the store, as the journal itself tells. Two gateways that do not hear
/// of each other may answer one of them differently; then what was heard and is not the decision is on record beside it.
#[derive(Debug, Default)]
pub struct Early {
    answers: Vec<EarlyAnswer>,
}

#[derive(Debug)]
struct EarlyAnswer {
    authorization: String,
    /// The members of [`ANSWER`].
    told: Value,
    /// Another answer is the decision.
    is_otherwise: bool,
}

fn told(answer: &Value) -> Value {
    ANSWER.iter().map(|member| answer[*member].clone()).collect()
}

impl Early {
    pub fn of(records: &[Record]) -> Self {
        let mut early = Self::default();
        for event in records.iter().flat_map(|record| &record.events) {
            let (decision, kind) = (&event["decision"], text(event, "event"));
            let is_otherwise = kind == "purchase_answered_otherwise";
            let is_decided = kind == "purchase_decided" && !decision["answered_before_durable_at"].is_null();
            if is_otherwise || is_decided || kind == "purchase_answered_early" {
                let authorization = text(&decision["purchase"], "authorization_id").to_owned();
                early.answers.push(EarlyAnswer { authorization, told: told(decision), is_otherwise });
            }
        }
        early
    }

    pub fn len(&self) -> usize {
        self.answers.iter().map(|answer| &answer.authorization).collect::<BTreeSet<_>>().len()
    }

    fn may_differ(&self, asked: &Asked) -> bool {
        let Asked::Buy { authorization } = asked else { return false };
        self.answers.iter().any(|answer| answer.is_otherwise && answer.authorization == *authorization)
    }

    fn tells(&self, answer: &Heard) -> bool {
        let Heard::Done(answer) = answer else { return false };
        let told = told(answer);
        self.answers.iter().any(|answer| answer.is_otherwise && answer.told == told)
    }
}

pub fn lost(history: &[Attempt], nodes: &[NodeState], early: &Early) -> Vec<Violation> {
    let mut found = Vec::new();
    for (attempt, promise) in promises(history) {
        for node in nodes {
            let there = node.things.get(&promise.path).unwrap_or(&Value::Null);
            if !there.is_null() && early.tells(&attempt.heard) {
                continue;
            }
            if let Some(how) = promise.broken_by(there) {
                let what = format!("at {} {} {how}; {} by {}", node.node, promise.path, attempt.name, attempt.node);
                found.push(violation(Rule::Lost, what));
            }
        }
    }
    found
}

/// What is on record as heard before it was on record was heard, or somebody has no answer that could have been it.
pub fn unheard(history: &[Attempt], early: &Early) -> Vec<Violation> {
    let mut found = Vec::new();
    for answer in &early.answers {
        let of_it = |attempt: &&Attempt| matches!(&attempt.asked, Asked::Buy { authorization } if *authorization == answer.authorization);
        let attempts: Vec<&Attempt> = history.iter().filter(of_it).collect();
        let may_be = |attempt: &&Attempt| match &attempt.heard {
            Heard::Done(heard) => told(heard) == answer.told,
            Heard::Unknown => true,
            Heard::Refused(_) => false,
        };
        if !attempts.is_empty() && !attempts.iter().any(may_be) {
            let what = format!("{} is on record as heard, and nobody heard {}", answer.authorization, answer.told);
            found.push(violation(Rule::Untrue, what));
        }
    }
    found
}

/// Whoever ends, cancels or revokes something has been told of it.
pub fn stale(history: &[Attempt]) -> Vec<Violation> {
    let follows = |attempt: &&Attempt| {
        matches!(attempt.asked, Asked::End { .. } | Asked::Cancel { .. } | Asked::Revoke { .. })
            && attempt.heard == Heard::Refused("not-found".into())
    };
    let what = |attempt: &Attempt| format!("{}: {} knows nothing of {:?}", attempt.name, attempt.node, attempt.asked);
    history.iter().filter(follows).map(|attempt| violation(Rule::Stale, what(attempt))).collect()
}

pub fn diverged(nodes: &[NodeState]) -> Vec<Violation> {
    let Some((first, others)) = nodes.split_first() else { return Vec::new() };
    let mut found = Vec::new();
    for other in others {
        for path in first.things.keys().chain(other.things.keys()).collect::<BTreeSet<_>>() {
            let [here, there] = [first, other].map(|node| node.things.get(path).unwrap_or(&Value::Null));
            if here != there {
                let what = format!("{path}: {} has {here}, {} has {there}", first.node, other.node);
                found.push(violation(Rule::Diverged, what));
            }
        }
    }
    found
}

pub fn done_twice(executed: &[Executed]) -> Vec<Violation> {
    let twice = executed.iter().filter(|done| done.times > 1);
    let what = |done: &Executed| format!("{} did {} {} times", done.vehicle, done.command, done.times);
    twice.map(|done| violation(Rule::DoneTwice, what(done))).collect()
}

/// Commands that are called succeeded were done, and those that never left were not.
pub fn untrue(nodes: &[NodeState], executed: &[Executed]) -> Vec<Violation> {
    let mut times: BTreeMap<&str, u32> = BTreeMap::new();
    for done in executed {
        *times.entry(&done.command).or_default() += done.times;
    }
    let mut found = Vec::new();
    for node in nodes {
        for (path, thing) in &node.things {
            let Some(command) = path.strip_prefix("/v1/commands/") else { continue };
            let is_done = times.get(command).is_some_and(|times| *times > 0);
            let is_true = match text(thing, "state") {
                "succeeded" => is_done,
                "superseded" | "cancelled" | "expired" => !is_done,
                _ => true,
            };
            if !is_true {
                let (state, done) = (text(thing, "state"), if is_done { "did it" } else { "did not do it" });
                found.push(violation(
                    Rule::Untrue,
                    format!("at {} {command} is {state}, and the car {done}", node.node),
                ));
            }
        }
    }
    found
}

/// In the journal's order, what is written to a vehicle's stream after a claim is by who claimed. Where there is no claim at
/// all, a gateway is alone.
pub fn two_owners(records: &[Record]) -> Vec<Violation> {
    let mut owners: BTreeMap<&str, &str> = BTreeMap::new();
    let has_claims = records.iter().any(|record| record.claim.is_some());
    let mut found = Vec::new();
    for record in records.iter().filter(|record| record.stream.starts_with("vehicle/") && has_claims) {
        if let Some(claim) = &record.claim {
            owners.insert(&record.stream, claim);
            continue;
        }
        let what = match (owners.get(record.stream.as_str()), &record.writer) {
            (None, _) => format!("{} was written at {} and nobody had claimed it", record.stream, record.position),
            (Some(owner), Some(writer)) if *owner != writer => {
                format!("{} was written at {} by {writer}, and {owner} had claimed it", record.stream, record.position)
            }
            (Some(_), _) => continue,
        };
        found.push(violation(Rule::TwoOwners, what));
    }
    found
}

const CLOSED: [&str; 4] = ["ending", "ended", "cancelled", "no_show"];

/// In the journal's order, no rental is reserved while another of the car has a part of its time.
pub fn overlaps(records: &[Record]) -> Vec<Violation> {
    /// From, until.
    type Window = (Timestamp, Timestamp);
    let mut open: BTreeMap<&str, BTreeMap<String, Window>> = BTreeMap::new();
    let mut found = Vec::new();
    for record in records {
        let open = open.entry(&record.stream).or_default();
        for event in &record.events {
            match text(event, "event") {
                "rental_reserved" => {
                    let rental = &event["rental"];
                    let time = |name: &str| text(rental, name).parse().unwrap_or(Timestamp(0));
                    let (id, from, until) = (text(rental, "rental_id").to_owned(), time("from"), time("until"));
                    for (other, (since, to)) in open.iter().filter(|(other, _)| **other != id) {
                        if from < *to && *since < until {
                            let what = format!("{} at {}: {id} beside {other}", record.stream, record.position);
                            found.push(violation(Rule::Overlap, what));
                        }
                    }
                    open.insert(id, (from, until));
                }
                "rental_moved" if CLOSED.contains(&text(event, "state")) => {
                    open.remove(text(event, "rental_id"));
                }
                _ => {}
            }
        }
    }
    found
}

/// What stays the same in every answer to the same request.
fn lasting(asked: &Asked, answer: &Value) -> Value {
    let members: &[&str] = match asked {
        Asked::Order { .. } => &["command_id", "vehicle_id", "type", "created_at", "expires_at"],
        Asked::Rent { .. } => &["request_id", "rental_id", "key", "state"],
        Asked::End { .. } | Asked::Cancel { .. } => &["rental_id", "vehicle_id", "renter", "key_id"],
        Asked::Revoke { .. } => &["key_id"],
        Asked::Buy { .. } => return answer.clone(),
    };
    Value::Array(members.iter().map(|member| answer[*member].clone()).collect())
}

/// Refusals for the moment, which say nothing about the request.
pub const FOR_NOW: [&str; 4] = ["storage-unavailable", "not-ready", "vehicle-busy", "too-many-requests"];

pub fn unequal_repeats(history: &[Attempt], early: &Early) -> Vec<Violation> {
    let mut first: BTreeMap<&str, (&Attempt, Value)> = BTreeMap::new();
    let mut found = Vec::new();
    for attempt in history.iter().filter(|attempt| !early.may_differ(&attempt.asked)) {
        let told = match (&attempt.heard, first.get(attempt.name.as_str())) {
            (Heard::Done(answer), _) => lasting(&attempt.asked, answer),
            (Heard::Refused(why), Some((before, _)))
                if before.until_ms <= attempt.from_ms && !FOR_NOW.contains(&why.as_str()) =>
            {
                Value::String(why.clone())
            }
            _ => continue,
        };
        match first.get(attempt.name.as_str()) {
            None => {
                first.insert(&attempt.name, (attempt, told));
            }
            Some((before, earlier)) if *earlier != told => {
                let what = format!("{}: {} told {earlier}, {} told {told}", attempt.name, before.node, attempt.node);
                found.push(violation(Rule::UnequalRepeat, what));
            }
            Some(_) => {}
        }
    }
    found
}

/// By what a record's event is recognised as the doing of a request.
fn doing(record: &Record, event: &Value) -> Option<Asked> {
    let vehicle = || record.stream.strip_prefix("vehicle/").map(str::to_owned);
    match text(event, "event") {
        "command_accepted" => {
            let command = &event["command"];
            let time = |name: &str| text(command, name).parse::<Timestamp>().ok();
            let ttl_ms = time("expires_at")?.0 - time("issued_at")?.0;
            Some(Asked::Order { vehicle: vehicle()?, ttl_ms })
        }
        "rental_reserved" => {
            Some(Asked::Rent { vehicle: vehicle()?, renter: text(&event["rental"], "renter").to_owned() })
        }
        "purchase_decided" => {
            let purchase = &event["decision"]["purchase"];
            Some(Asked::Buy { authorization: text(purchase, "authorization_id").to_owned() })
        }
        _ => None,
    }
}

/// Each request is carried out at most once, once if it succeeded, and not at all if all that was heard is refusals.
pub fn miscounted(history: &[Attempt], records: &[Record]) -> Vec<Violation> {
    let mut times: Vec<(Asked, u32)> = Vec::new();
    let mut index: BTreeMap<String, usize> = BTreeMap::new();
    for record in records {
        for asked in record.events.iter().filter_map(|event| doing(record, event)) {
            let place = *index.entry(format!("{asked:?}")).or_insert_with(|| {
                times.push((asked, 0));
                times.len() - 1
            });
            times[place].1 += 1;
        }
    }
    let mut found = Vec::new();
    let mut names: BTreeMap<&str, Vec<&Attempt>> = BTreeMap::new();
    for attempt in history {
        names.entry(&attempt.name).or_default().push(attempt);
    }
    for (name, attempts) in names {
        let asked = &attempts[0].asked;
        let count = index.get(&format!("{asked:?}")).map_or(0, |place| times[*place].1);
        let is_counted = matches!(asked, Asked::Order { .. } | Asked::Rent { .. } | Asked::Buy { .. });
        let is_done = attempts.iter().any(|attempt| matches!(attempt.heard, Heard::Done(_)));
        let is_refused = attempts.iter().all(|attempt| matches!(attempt.heard, Heard::Refused(_)));
        match count {
            2.. => {
                found.push(violation(Rule::UnequalRepeat, format!("{name} was carried out {count} times: {asked:?}")))
            }
            1 if is_refused => {
                let why = attempts.iter().map(|attempt| format!("{} by {}", refusal(attempt), attempt.node));
                let why = why.collect::<Vec<_>>().join(", ");
                found.push(violation(Rule::RefusedYetDone, format!("{name} was refused ({why}) and done: {asked:?}")));
            }
            0 if is_done && is_counted => {
                found.push(violation(
                    Rule::Lost,
                    format!("{name} was told to be done, and no record says so: {asked:?}"),
                ));
            }
            _ => {}
        }
    }
    found
}

fn refusal(attempt: &Attempt) -> &str {
    match &attempt.heard {
        Heard::Refused(why) => why,
        Heard::Done(_) | Heard::Unknown => "",
    }
}

#[cfg(test)]
#[path = "planted.rs"]
mod planted;
