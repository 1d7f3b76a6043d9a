//! The renter's word on a purchase that waits for it.

use serde::Serialize;
use serde_json::value::RawValue;

use super::desk::{Desk, Edited, refused};
use super::{GuardError, raw};
use crate::domain::card::{AboutPayment, Alert, AlertKind, StepUp};
use crate::domain::{AlertId, DecisionId, RefusalKind, Timestamp};
use crate::store::Table;

/// The journal's content: a variant or field, once released, keeps its name and meaning.
#[derive(Serialize)]
#[serde(rename_all = "snake_case", tag = "event")]
enum StepUpEvent<'a> {
    StepUpAnswered {
        step_up: &'a RawValue,
    },
    /// The holder of the rental says that it is not theirs.
    AlertOpened {
        alert: &'a RawValue,
    },
}

impl Desk<'_> {
    pub(super) async fn answer_step_up(&self, id: DecisionId, is_confirmed: bool) -> Result<Edited, GuardError> {
        let now = self.shared.clock.now();
        let asked = self.shared.step_ups.get(id);
        let asked = asked.ok_or_else(|| refused(RefusalKind::NotFound, "nobody is asked about this purchase"))?;
        let answered = asked.answered(is_confirmed, now)?;
        if answered == asked {
            return Ok(Edited::StepUp(asked));
        }
        let body = raw(&answered)?;
        let edited = Edited::StepUp(answered.clone());
        let mut rows = vec![(Table::StepUps, id.to_string(), Some(body.clone()))];
        let mut events = vec![raw(&StepUpEvent::StepUpAnswered { step_up: &body })?];
        let alert = (!is_confirmed).then(|| self.disowned(&answered, now));
        let alert_body = alert.as_ref().map(raw).transpose()?;
        if let (Some(alert), Some(body)) = (&alert, &alert_body) {
            events.push(raw(&StepUpEvent::AlertOpened { alert: body })?);
            rows.push((Table::Alerts, alert.alert_id.to_string(), Some(body.clone())));
        }
        let stream = self.card_stream(&answered);
        let at = self.record_all(stream, events, rows, &edited).await?;
        if !self.shared.followed.has(at).await {
            self.shared.step_ups.put(answered, now);
        }
        if let (Some(alert), Some(body)) = (alert, alert_body) {
            self.shared.counters.alerts_opened.inc();
            self.shared.tell_alert(&alert, body);
        }
        Ok(edited)
    }

    /// Somebody tries to buy with the card, and it is not whoever has the car.
    fn disowned(&self, asked: &StepUp, now: Timestamp) -> Alert {
        let card = self.shared.book().card_by_ref(&asked.card_ref);
        let about = AboutPayment {
            vehicle_id: Some(asked.vehicle_id.clone()),
            card_id: card.map(|card| card.card_id.clone()),
            decision_id: Some(asked.decision_id),
        };
        let found = "whoever has the car says that it is not theirs";
        let text = Alert::text_of(&about, &asked.amount, &asked.merchant, asked.station_id.as_ref(), found);
        Alert::for_payment(AlertId(self.shared.clock.new_id()), AlertKind::PurchaseDisowned, about, text, now)
    }
}
