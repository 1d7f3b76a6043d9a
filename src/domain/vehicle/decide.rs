//! The decisions about one vehicle.
use super::*;

pub(super) fn decide(_vehicle: &Vehicle, _context: &Context<'_>, _request: Request) -> Result<Vec<Event>, Refusal> {
    Ok(Vec::new())
}
