//! What is thrown at the parsers: one body a surface, for any bytes. Used by `fuzz/` (coverage-guided, by hand) and by the
//! tests below (its corpus, and mutations of it, in every run of the suite).
//!
//! Compiled for tests and with the feature `fuzzing` only; nothing of the product calls it. A body panics when a promise
//! of the parser is broken, not only when the parser itself panics.

/// One surface by name, as `fuzz/corpus` calls it.
pub type Target = (&'static str, fn(&[u8]));

pub const TARGETS: [Target; 7] = [
    ("gate", crate::mqtt::fuzzing::gate),
    ("payload", crate::mqtt::fuzzing::payload),
    ("token", crate::token::fuzzing::token),
    ("webhook", crate::http::fuzz_webhook),
    ("console", crate::http::fuzz_console),
    ("stations", crate::http::fuzz_stations),
    ("journal", crate::store::fuzzing::journal),
];

/// Runs one of [`TARGETS`]; a name that is none of them is a mistake in the fuzz target.
pub fn run(name: &str, input: &[u8]) {
    match TARGETS.iter().find(|(known, _)| *known == name) {
        Some((_, body)) => body(input),
        None => panic!("no fuzz target is called {name}"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// splitmix64: the same mutations each time.
    struct Dice(u64);

    impl Dice {
        fn roll(&mut self, sides: usize) -> usize {
            self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut mixed = self.0;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            (mixed ^ (mixed >> 31)) as usize % sides.max(1)
        }

        fn mutate(&mut self, input: &mut Vec<u8>, other: &[u8]) {
            for _ in 0..1 + self.roll(4) {
                let (at, byte) = (self.roll(input.len() + 1), self.roll(256) as u8);
                match self.roll(6) {
                    0 if at < input.len() => input[at] ^= 1 << (byte % 8),
                    1 if at < input.len() => input[at] = [0, 0x7f, 0x80, 0xff, b'"', b'{', b',', b'\n'][self.roll(8)],
                    2 => input.insert(at, byte),
                    3 => input.truncate(at),
                    4 => input.extend_from_slice(&other[self.roll(other.len() + 1)..]),
                    _ => drop(input.drain(at..(at + self.roll(8)).min(input.len()).max(at))),
                }
            }
        }
    }

    fn corpus(name: &str) -> Vec<Vec<u8>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
        let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files.into_iter().map(|path| std::fs::read(path).unwrap()).collect()
    }

    /// A find of the fuzzer is put into the corpus, and so is a regression test.
    #[test]
    fn the_corpus_and_what_is_near_it_breaks_no_parser() {
        const SEED: u64 = 0x00C0_FFEE;
        let mut dice = Dice(SEED);
        for (name, body) in TARGETS {
            let corpus = corpus(name);
            assert!(!corpus.is_empty(), "{name} has a corpus");
            corpus.iter().for_each(|input| body(input));
            for round in 0..3_000 {
                let mut input = corpus[dice.roll(corpus.len())].clone();
                let other = dice.roll(corpus.len());
                dice.mutate(&mut input, &corpus[other]);
                let broken = std::panic::catch_unwind(|| body(&input)).is_err();
                assert!(!broken, "{name}, seed {SEED:#x}, round {round}: {}", hex::encode(&input));
            }
        }
    }
}
