//! What of a car's reports becomes points of its track. No clock and no store in it.
//!
//! A car that reports every second gets a point a second, with what changed. One that was away sends an hour of reports
//! at once: those are kept at their own times, since a purchase may have been made in between. Reports older than what
//! is known are history, and go into the track as they are.

use serde_json::value::RawValue;

use crate::actors::rows;
use crate::domain::Timestamp;
use crate::domain::twin::{Report, Twin};

#[derive(Debug, Default)]
pub struct TrackPen {
    /// The newest signal that is written.
    until: Option<Timestamp>,
    /// The first report that is not.
    pending_from: Option<Timestamp>,
    newest: Option<Timestamp>,
}

pub type Point = (Timestamp, Box<RawValue>);

impl TrackPen {
    /// Reports closer together than this become one point.
    const STEP_MS: i64 = 5_000;

    pub fn is_due(&self) -> bool {
        self.pending_from.is_some()
    }

    /// Before the twin takes the report: the point to be written because of it, if any.
    pub fn before(&mut self, report: &Report, twin: &Twin, now: Timestamp) -> Option<Point> {
        // As the twin does with a clock that runs ahead.
        let at = report.at.min(now.plus_ms(Twin::MAX_AHEAD_MS));
        if self.newest.is_some_and(|newest| at < newest) {
            return rows::json(&rows::report_rows(report, at)).map(|signals| (at, signals));
        }
        self.newest = Some(at);
        match self.pending_from {
            Some(from) if at.since_ms(from) >= Self::STEP_MS => {
                let point = self.point(twin);
                self.pending_from = Some(at);
                point
            }
            Some(_) => None,
            None => {
                self.pending_from = Some(at);
                None
            }
        }
    }

    /// What is not written yet.
    pub fn point(&mut self, twin: &Twin) -> Option<Point> {
        self.pending_from.take()?;
        let signals = rows::signal_rows(twin, self.until);
        let newest = signals.values().map(|signal| signal.at).max()?;
        self.until = Some(newest);
        rows::json(&signals).map(|signals| (newest, signals))
    }

    /// Nobody keeps a track of it.
    pub fn forget(&mut self) {
        self.pending_from = None;
    }
}
