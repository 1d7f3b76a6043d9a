//! Builds the program anew when the console was built anew: rust-embed sees the files that were there, not new ones.

use std::path::Path;

fn main() {
    // A path that is not there would make every build run this again, so the folder above stands in for it.
    let built = if Path::new("console/dist").exists() { "console/dist" } else { "console" };
    println!("cargo::rerun-if-changed={built}");
    println!("cargo::rerun-if-changed=build.rs");
}
