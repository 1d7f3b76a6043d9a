//! Counters of the fleet; each limit shows here when it bites.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::domain::Timestamp;
use crate::domain::command::{Command, CommandState};
use crate::metrics::Timing;

#[derive(Debug, Default)]
pub struct FleetMetrics {
    pub resident: AtomicUsize,
    /// Telemetry messages applied to a twin.
    pub reports: AtomicU64,
    pub facts: AtomicU64,
    pub acks: AtomicU64,
    pub stale_items: AtomicU64,
    pub refused_paths: AtomicU64,
    /// A vehicle's mailbox was full.
    pub mailbox_full: AtomicU64,
    /// The observation budget was used up; the gate stops reading.
    pub budget_full: AtomicU64,
    pub outbound_full: AtomicU64,
    pub feed_full: AtomicU64,
    /// No room for another vehicle in memory, or registered.
    pub fleet_full: AtomicU64,
    pub failed_appends: AtomicU64,
    /// Actors that died (a panic, an unknown outcome) and were started again from the store.
    pub restarts: AtomicU64,
    pub failed_starts: AtomicU64,
    finished: [AtomicU64; 7],
    /// From a command's acceptance until the car's own word on it.
    pub answered: Timing,
}

impl FleetMetrics {
    pub const FINAL: [CommandState; 7] = [
        CommandState::Succeeded,
        CommandState::Failed,
        CommandState::Rejected,
        CommandState::Expired,
        CommandState::Cancelled,
        CommandState::Superseded,
        CommandState::Unknown,
    ];

    pub(super) fn finished(&self, command: &Command, now: Timestamp) {
        let state = command.state;
        if matches!(state, CommandState::Succeeded | CommandState::Failed | CommandState::Rejected) {
            let took_ms = now.0.saturating_sub(command.issued_at.0);
            self.answered.record(Duration::from_millis(u64::try_from(took_ms).unwrap_or(0)));
        }
        if let Some(index) = Self::FINAL.iter().position(|known| *known == state) {
            self.finished[index].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Commands that came into a final state, by state.
    pub fn commands_finished(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Self::FINAL.iter().zip(&self.finished).map(|(state, count)| (state.name(), count.load(Ordering::Relaxed)))
    }
}
