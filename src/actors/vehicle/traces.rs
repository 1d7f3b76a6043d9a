//! Commands that are traced, from their acceptance to the car's word on them: minutes later possibly, so the spans stay open
//! here. In memory only; after a restart such a trace just ends where it was.

use super::VehicleActor;
use crate::domain::CommandId;
use crate::domain::command::{Command, CommandState};
use crate::store::AppendError;
use crate::telemetry::{Attribute, Kind, Open, SpanContext, Telemetry};

/// Of one vehicle at once; a further one is carried out like any other and not followed.
const MAX_TRACED: usize = 32;

#[derive(Default)]
pub(super) struct Traces(Vec<Traced>);

struct Traced {
    id: CommandId,
    whole: Open,
    /// Where it is on its way: to the router, to the car, or with the car.
    leg: Option<(&'static str, Open)>,
}

const TO_ROUTER: &str = "send";
const TO_CAR: &str = "deliver";
const WITH_CAR: &str = "car";

impl Traces {
    fn begin(&mut self, telemetry: &Telemetry, id: CommandId, of: SpanContext) {
        if self.0.len() >= MAX_TRACED || self.0.iter().any(|traced| traced.id == id) {
            return;
        }
        let Some(whole) = telemetry.child(Some(of)) else { return };
        let leg = telemetry.child(Some(whole.context())).map(|open| (TO_ROUTER, open));
        self.0.push(Traced { id, whole, leg });
    }

    /// One leg ends and the next begins; one that is sent again goes on as it is.
    fn next(&mut self, telemetry: &Telemetry, id: CommandId, from: &'static str, to: &'static str) {
        let Some(traced) = self.0.iter_mut().find(|traced| traced.id == id) else { return };
        if traced.leg.as_ref().is_some_and(|(leg, _)| *leg == from)
            && let Some((name, open)) = traced.leg.take()
        {
            telemetry.end(open, Kind::Internal, name, Vec::new(), false);
            traced.leg = telemetry.child(Some(traced.whole.context())).map(|open| (to, open));
        }
    }
}

impl VehicleActor {
    /// The step that a request took, and the append within it.
    pub(super) fn trace_step(&self, append: Option<Open>, step: Option<Open>, outcome: &Result<(), AppendError>) {
        // A repeat gets the answer of before, as it should.
        let failed = matches!(outcome, Err(error) if !matches!(error, AppendError::Duplicate { .. }));
        let telemetry = &self.shared.telemetry;
        if let Some(append) = append {
            telemetry.end(append, Kind::Internal, "append", Vec::new(), failed);
        }
        if let Some(step) = step {
            let vehicle = Attribute::text("cardea.vehicle.id", self.id.to_string());
            telemetry.end(step, Kind::Internal, "vehicle step", vec![vehicle], failed);
        }
    }

    /// Follows the commands that a traced request brought about.
    pub(super) fn trace(&mut self, commands: Vec<CommandId>, of: SpanContext) {
        // One that is over already has nothing more to come, and would never be ended.
        let lives = |id: &CommandId| self.vehicle.command(*id).is_some_and(|command| !command.state.is_final());
        for id in commands.into_iter().filter(lives).collect::<Vec<_>>() {
            self.traces.begin(&self.shared.telemetry, id, of);
        }
    }

    pub(super) fn trace_sent(&mut self, commands: &[CommandId]) {
        // Mostly nothing is traced, and a burst sends many.
        if !self.traces.0.is_empty() {
            commands.iter().for_each(|id| self.traces.next(&self.shared.telemetry, *id, TO_ROUTER, TO_CAR));
        }
    }

    pub(super) fn trace_delivered(&mut self, id: CommandId) {
        self.traces.next(&self.shared.telemetry, id, TO_CAR, WITH_CAR);
    }

    /// It came to its end, whichever.
    pub(super) fn trace_finished(&mut self, id: CommandId) {
        let Some(place) = self.traces.0.iter().position(|traced| traced.id == id) else { return };
        let Some(command) = self.vehicle.command(id) else { return };
        let attributes = self.described(command);
        let failed = command.state != CommandState::Succeeded;
        let telemetry = &self.shared.telemetry;
        let Traced { whole, leg, .. } = self.traces.0.swap_remove(place);
        if let Some((name, open)) = leg {
            telemetry.end(open, Kind::Internal, name, Vec::new(), failed);
        }
        telemetry.end(whole, Kind::Producer, format!("command {}", command.order.name()), attributes, failed);
    }

    fn described(&self, command: &Command) -> Vec<Attribute> {
        vec![
            Attribute::text("cardea.vehicle.id", self.id.to_string()),
            Attribute::text("cardea.command.id", command.command_id.to_string()),
            Attribute::text("cardea.command.state", command.state.name()),
        ]
    }
}
