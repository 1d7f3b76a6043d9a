//! Cardea: a real-time gateway between a car-sharing fleet and everyone who acts on it.

pub mod actors;
pub mod certs;
pub mod clock;
pub mod config;
pub mod domain;
pub mod http;
pub mod metrics;
pub mod mqtt;
pub mod pki;
pub mod store;
pub mod token;

/// Why the gateway ended otherwise than by a signal.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("this build has no gateway")]
    NotBuilt,
}

/// Runs the gateway until a signal ends it.
pub fn run(_config: config::Config) -> Result<(), RunError> {
    Err(RunError::NotBuilt)
}
