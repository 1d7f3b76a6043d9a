//! Telemetry, events, acks, and commands at the car. The body is `cardea::fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| cardea::fuzzing::run("payload", input));
