//! Cars, phones and fuel stations that speak Cardea's contract from the outside: over MQTT with a certificate of their
//! own, and over HTTPS. Used by the demonstration, the tests and the bench. It knows the wire and the words of the
//! domain, and never reaches into the gateway.

// The car, from its body outwards.
pub mod command_memory;
pub mod dice;
pub mod fact_queue;
pub mod keyring;
pub mod proof;
pub mod route;
pub mod unit;
pub mod world;

// The car on the network.
pub mod backoff;
pub mod car;
mod car_link;
pub mod est;
pub mod identity;
pub mod local_link;

// People and payment.
pub mod http_client;
pub mod phone;
pub mod station;

// The program.
pub mod bench;
pub mod drive;
pub mod failure;
pub mod process;
pub mod replay;
pub mod scenario;
pub mod stopwatch;
pub mod try_out;

// Recordings.
pub mod trace;
mod wire;
