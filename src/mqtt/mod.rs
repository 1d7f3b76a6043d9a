//! The edge to the cars: MQTT 3.1.1 over mutual TLS.
//!
//! `topics` and `payload` are what goes over the wire (the simulator uses them too). Everything a car sends is checked
//! here before anybody else sees it; nothing here decides about the business, and nothing here touches the store or HTTP.

pub mod payload;
pub mod topics;
