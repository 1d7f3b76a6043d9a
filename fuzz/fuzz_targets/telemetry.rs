#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = cardea::mqtt::payload::decode_report(bytes);
});
