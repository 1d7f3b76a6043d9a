//! Cardea: a real-time gateway between a car-sharing fleet and everyone who acts on it.

pub mod actors;
pub mod certs;
pub mod clock;
pub mod config;
pub mod domain;
pub mod mqtt;
pub mod store;

/// Unit tests share the harness of `tests/`, which knows this crate by its name.
#[cfg(test)]
extern crate self as cardea;
