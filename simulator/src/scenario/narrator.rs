//! Tells a story on stdout, a plain sentence a line, with the time since it began.

use crate::stopwatch::Stopwatch;

#[derive(Debug, Clone, Copy)]
pub struct Narrator {
    began: Stopwatch,
}

impl Narrator {
    pub fn start() -> Self {
        Self { began: Stopwatch::start() }
    }

    pub fn chapter(self, title: &str) {
        println!("\n{title}");
    }

    /// Somebody does or asks something.
    pub fn says(self, sentence: impl AsRef<str>) {
        println!("  {:>6.1} s  {}", self.began.elapsed().as_secs_f64(), sentence.as_ref());
    }

    /// What the gateway or the car answered.
    pub fn answers(self, sentence: impl AsRef<str>) {
        println!("  {:>6.1} s    -> {}", self.began.elapsed().as_secs_f64(), sentence.as_ref());
    }
}
