//! The frames of `/v1/console` as JSON: what a console may say, and a batch of the feed as one frame.
//!
//! One JSON object a frame. What a vehicle or command looks like is the business of its own subject; nothing here
//! decides or waits.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::commands::NewCommand;
use super::console_summary;
use super::error::ProblemBody;
use super::model::{CommandBody, TwinBody};
use crate::actors::feed::{Batch, CommandChanged, Cursor};
use crate::actors::vehicle::Snapshot;
use crate::domain::VehicleId;

/// A console's frame is at most this long; 500 vehicles to subscribe to fit.
pub const MAX_IN: usize = 48 * 1024;

/// Vehicles are added to a frame until it is this long; the rest comes with the next one.
const VEHICLES_BYTES: usize = 512 * 1024;

/// What a console may say, e.g. `{"type":"command","id":7,"vehicle_id":"WVW-1","command":{"type":"lock"}}`.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum FromConsole {
    Ack {
        seq: u64,
    },
    /// `area` is `[south, west, north, east]` in degrees. Without either: everything. `form` says how vehicles come; in
    /// full if absent.
    Subscribe {
        #[serde(default)]
        area: Option<[f64; 4]>,
        #[serde(default)]
        vehicles: Option<Vec<VehicleId>>,
        #[serde(default)]
        form: Form,
        #[serde(default)]
        id: Option<FrameId>,
    },
    /// From now on these come in full, whatever the form, and all others as the form says.
    Detail {
        vehicles: Vec<VehicleId>,
        #[serde(default)]
        id: Option<FrameId>,
    },
    Command {
        id: FrameId,
        vehicle_id: VehicleId,
        command: NewCommand,
    },
    /// `stream` is the snapshot's; without it the number alone says whether it is one of ours.
    Resume {
        after: u64,
        #[serde(default)]
        stream: Option<Uuid>,
        #[serde(default)]
        form: Form,
    },
    /// Asks for a sign of life and the gateway's time: a page does not see the protocol's own pings.
    Ping {
        id: FrameId,
    },
}

/// How much of a vehicle a console wants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    #[default]
    Full,
    /// As [`console_summary`](super::console_summary) writes it.
    Summary,
}

/// What a console wants to see of each vehicle.
#[derive(Debug, Default)]
pub struct Wish {
    pub form: Form,
    /// In full in any case; at most [`Wish::MAX_DETAILED`].
    pub detailed: HashSet<VehicleId>,
}

impl Wish {
    pub const MAX_DETAILED: usize = 50;

    fn write<'a>(&self, snapshot: &'a Snapshot) -> Result<&'a str, serde_json::Error> {
        let is_full = self.form == Form::Full || self.detailed.contains(&snapshot.vehicle.vehicle_id);
        let written = &snapshot.written;
        let cell = if is_full { &written.full } else { &written.summary };
        if let Some(text) = cell.get() {
            return Ok(text);
        }
        let made =
            if is_full { serde_json::to_string(&TwinBody::of(snapshot))? } else { console_summary::write(snapshot)? };
        Ok(cell.get_or_init(|| made.into_boxed_str()))
    }
}

/// What a console calls its request; given back with the reply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum FrameId {
    Number(i64),
    Text(String),
}

impl FrameId {
    const MAX_LEN: usize = 128;

    pub fn is_fit(&self) -> bool {
        match self {
            Self::Number(_) => true,
            Self::Text(text) => text.len() <= Self::MAX_LEN,
        }
    }

    /// The id of a frame that could not be understood as a whole, so that its sender learns which one it was.
    pub fn of_malformed(text: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct OnlyId {
            id: FrameId,
        }
        serde_json::from_str::<OnlyId>(text).ok().map(|frame| frame.id).filter(Self::is_fit)
    }
}

/// Body for [`crate::fuzzing`]: a console's frame read, and what is made of it before anybody is asked.
#[cfg(any(test, feature = "fuzzing"))]
pub fn fuzz(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match super::wire::parse_json::<FromConsole>(text.as_bytes()) {
        Ok(FromConsole::Command { command, .. }) => drop(command.order()),
        Ok(FromConsole::Subscribe { area: Some(corners), .. }) => {
            let is_taken = crate::actors::feed::Area::new(corners).is_some();
            assert!(!is_taken || corners.iter().all(|corner| corner.is_finite()), "an area of no place was taken");
        }
        Ok(_) => {}
        Err(problem) => {
            let reply = Reply::refused(FrameId::of_malformed(text), problem.body());
            assert!(serde_json::to_string(&reply).is_ok_and(|json| json.len() < 2 * bytes.len() + 4_096));
        }
    }
}

/// `{"type":"reply","id":7,"ok":true,"command":{…}}` or `{"type":"reply","id":7,"ok":false,"problem":{…}}`
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename = "reply")]
pub struct Reply {
    pub id: Option<FrameId>,
    pub ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<ProblemBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<CommandBody>,
    /// The gateway's time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
}

impl Reply {
    pub fn done(id: Option<FrameId>) -> Self {
        Self { id, ok: true, problem: None, command: None, at: None }
    }

    pub fn refused(id: Option<FrameId>, problem: ProblemBody) -> Self {
        Self { ok: false, problem: Some(problem), ..Self::done(id) }
    }
}

/// A batch as a frame, the number that acknowledges it, and where to read on: vehicles that found no room come next.
///
/// `is_first_sight`: the console sees these vehicles for the first time, so it is told their open commands too.
pub fn write(batch: &Batch, is_first_sight: bool, wish: &Wish) -> Result<(String, u64, Cursor), serde_json::Error> {
    let mut cursor = batch.cursor;
    let mut vehicles = String::new();
    let mut commands = Vec::new();
    for (index, (_, snapshot)) in batch.vehicles.iter().enumerate() {
        let json = wish.write(snapshot)?;
        if index > 0 && vehicles.len() + json.len() > VEHICLES_BYTES {
            cursor.vehicles = batch.vehicles[index - 1].0;
            break;
        }
        if index > 0 {
            vehicles.push(',');
        }
        vehicles.push_str(json);
        if is_first_sight {
            let Snapshot { vehicle, .. } = &**snapshot;
            for command in vehicle.open_commands() {
                commands.push(serde_json::to_string(&CommandBody::of(&vehicle.vehicle_id, command))?);
            }
        }
    }
    for CommandChanged { vehicle, command } in &batch.commands {
        commands.push(serde_json::to_string(&CommandBody::of(vehicle, command))?);
    }
    let seq = cursor.seq();
    let kind = if batch.is_snapshot { "snapshot" } else { "changes" };
    let mut frame = format!(r#"{{"type":"{kind}","seq":{seq},"#);
    if batch.is_snapshot {
        frame.push_str(&format!(r#""stream":"{}","#, batch.stream));
    }
    if seq < batch.head {
        frame.push_str(r#""more":true,"#);
    }
    if batch.missed_commands {
        frame.push_str(r#""missed_commands":true,"#);
    }
    frame.push_str(r#""vehicles":["#);
    frame.push_str(&vehicles);
    frame.push_str(r#"],"alerts":["#);
    join(&mut frame, batch.alerts.iter().map(|alert| alert.body.get()));
    frame.push_str(r#"],"commands":["#);
    join(&mut frame, commands.iter().map(String::as_str));
    if !batch.is_snapshot {
        frame.push_str(r#"],"decisions":["#);
        join(&mut frame, batch.decisions.iter().map(|made| made.0.get()));
    }
    frame.push_str("]}");
    Ok((frame, seq, cursor))
}

fn join<'a>(frame: &mut String, items: impl Iterator<Item = &'a str>) {
    for (index, item) in items.enumerate() {
        if index > 0 {
            frame.push(',');
        }
        frame.push_str(item);
    }
}
