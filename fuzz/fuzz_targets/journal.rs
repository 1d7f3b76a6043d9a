//! Segments, head and snapshot of the store. The body is `cardea::fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| cardea::fuzzing::run("journal", input));
