//! Who does it: one file an actor. An actor takes a message, decides (in `domain`), appends (to the store), applies, sends.
//!
//! Actors know the store's port and each other; they know neither MQTT nor HTTP.

pub mod card_guard;
pub mod feed;
pub mod fleet;
mod fleet_metrics;
pub mod follower;
mod loading;
pub mod notifier;
pub mod peers;
mod rows;
mod schedule;
#[cfg(test)]
pub mod testing;
pub mod vehicle;
