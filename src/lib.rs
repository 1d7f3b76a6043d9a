//! Cardea: a real-time gateway between a car-sharing fleet and everyone who acts on it.

pub mod actors;
pub mod clock;
pub mod config;
pub mod domain;
pub mod http;
pub mod metrics;
pub mod store;
pub mod token;
