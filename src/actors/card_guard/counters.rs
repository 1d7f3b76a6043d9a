//! What the guard counts, under its public names.

use crate::domain::card::Outcome;
use crate::metrics::{Count, Reading};

/// What the guard counts; each limit shows when it bites.
#[derive(Debug, Default)]
pub struct GuardCounters {
    pub approved: Count,
    pub approved_capped: Count,
    pub stepped_up: Count,
    pub declined: Count,
    /// Questions answered from the record.
    pub repeats: Count,
    /// Questions refused because too many were in flight.
    pub busy: Count,
    /// Vehicles whose record could not be asked in time.
    pub late_vehicles: Count,
    /// Questions whose answer was not recorded within the deadline.
    pub late: Count,
    /// Questions and edits that could not be recorded.
    pub unrecorded: Count,
    /// Remembered answers that left memory; a repeat is answered from the store.
    pub forgotten: Count,
    pub alerts_opened: Count,
    /// Cards suspended after declines.
    pub cards_suspended: Count,
    /// Cards and stations refused for lack of room.
    pub book_full: Count,
    /// Payment messages with a signature that is malformed, wrong or out of time.
    pub bad_signatures: Count,
    /// Payment messages that are signed well and cannot be understood.
    pub bad_messages: Count,
    /// Payment messages of other types, acknowledged.
    pub other_messages: Count,
    /// Payment messages that came again within the window.
    pub repeated_messages: Count,
    /// Postings (captures, reversals) taken.
    pub postings: Count,
    /// Postings that came again.
    pub repeated_postings: Count,
    /// Postings beyond what one authorisation keeps in its list.
    pub postings_not_kept: Count,
    /// Postings refused because too many were being taken.
    pub postings_busy: Count,
    /// Authorisations that are looked at again only after a restart, for lack of room.
    pub settling_full: Count,
    /// Purchases nobody could be asked about, for lack of room.
    pub step_ups_full: Count,
    /// Judgements that were answered before they were durable.
    pub early: Count,
    /// Judgements that could not be, since this machine's disk did not take them in time either.
    pub early_not_kept: Count,
    /// Such answers that the store did not take at all, and that are only in the log.
    pub early_lost: Count,
    /// Questions answered without a judgement.
    pub fallbacks: Count,
    /// Answers without a judgement that are only in the log, for lack of room.
    pub fallbacks_not_kept: Count,
    /// Answers without a judgement that the judgement, recorded later, contradicts.
    pub contradictions: Count,
}

impl GuardCounters {
    pub(super) fn decided(&self, outcome: Outcome) {
        match outcome {
            Outcome::Approve => self.approved.inc(),
            Outcome::ApproveCapped => self.approved_capped.inc(),
            Outcome::StepUp => self.stepped_up.inc(),
            Outcome::Decline => self.declined.inc(),
        }
    }

    pub(super) fn readings(&self) -> Vec<Reading> {
        let outcomes = [
            (Outcome::Approve, &self.approved),
            (Outcome::ApproveCapped, &self.approved_capped),
            (Outcome::StepUp, &self.stepped_up),
            (Outcome::Decline, &self.declined),
        ];
        let outcomes = outcomes.map(|(outcome, count)| (outcome.name().to_owned(), count.get()));
        let counter = |name, help, count: &Count| Reading::counter(name, help, count.get());
        vec![
            Reading::counters("card_decisions", "Decisions recorded", "outcome", outcomes),
            counter("card_repeats", "Questions answered from the record", &self.repeats),
            counter("card_busy", "Questions refused because too many were in flight", &self.busy),
            counter("card_late_vehicles", "Vehicles not asked in time", &self.late_vehicles),
            counter("card_late", "Answers not recorded within the deadline", &self.late),
            counter("card_unrecorded", "Questions and edits that could not be recorded", &self.unrecorded),
            counter("card_forgotten", "Remembered answers that left memory", &self.forgotten),
            counter("card_alerts_opened", "Alerts opened", &self.alerts_opened),
            counter("cards_suspended", "Cards suspended after declines", &self.cards_suspended),
            counter("card_book_full", "Cards and stations refused for lack of room", &self.book_full),
            counter("payment_bad_signatures", "Payment messages with a bad signature", &self.bad_signatures),
            counter("payment_bad_messages", "Payment messages that cannot be understood", &self.bad_messages),
            counter("payment_other_messages", "Payment messages of other types", &self.other_messages),
            counter("payment_repeated_messages", "Payment messages that came again", &self.repeated_messages),
            counter("card_postings", "Captures, reversals and other postings taken", &self.postings),
            counter("payment_repeated_postings", "Postings that came again", &self.repeated_postings),
            counter("payment_postings_not_kept", "Postings beyond an authorisation's list", &self.postings_not_kept),
            counter("payment_postings_busy", "Postings refused because too many were in flight", &self.postings_busy),
            counter("card_settling_full", "Authorisations not looked at again for lack of room", &self.settling_full),
            counter("card_step_ups_full", "Purchases nobody was asked about for lack of room", &self.step_ups_full),
            counter("card_answered_early", "Judgements answered before they were durable", &self.early),
            counter("card_early_not_kept", "Judgements that no disk took in time", &self.early_not_kept),
            counter("card_early_lost", "Such answers that are only in the log", &self.early_lost),
            counter("card_fallbacks", "Questions answered without a judgement", &self.fallbacks),
            counter("card_fallbacks_not_kept", "Such answers that are only in the log", &self.fallbacks_not_kept),
            counter("card_contradictions", "Such answers that a later judgement contradicts", &self.contradictions),
        ]
    }
}
