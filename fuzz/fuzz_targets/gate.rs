//! A car's conversation from its CONNECT on, through the session in front of a real router. The body is `cardea::fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| cardea::fuzzing::run("gate", input));
