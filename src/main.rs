//! The program: arguments, logging, exit codes. What it does is in `cli` and in the library.

mod cli;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

/// Gives memory back after a burst of cars has left; the system's allocator keeps it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// `RUST_LOG` overrides it. rumqttd tells every connection at info.
const DEFAULT_LOG: &str = "info,rumqttd=warn";

fn main() -> ExitCode {
    // Clap's own exit code for bad arguments is 2, as ours.
    let arguments = cli::Arguments::parse();
    start_logging();
    // The first thing that touches TLS: with no provider, or with two, the first connection would panic.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        tracing::error!("a TLS provider was installed already");
        return ExitCode::from(cli::FAILED);
    }
    match cli::run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // On stderr whatever RUST_LOG says: it is the answer to whoever typed the command.
            eprintln!("cardea: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

fn start_logging() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_LOG));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    // A panic ends one actor, session or router, and is an alarm: it belongs into the same log as everything else.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        let payload = panic.payload_as_str().unwrap_or("no message");
        let thread = std::thread::current().name().unwrap_or("unnamed").to_owned();
        tracing::error!(place, thread, "panic: {payload}");
    }));
}
