//! The MQTT-SN gateway.

#[allow(
    dead_code,
    unused_imports,
    reason = "`run` needs what the other commands do not"
)]
mod config;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// MQTT-SN gateway
#[derive(Parser)]
#[command(name = "snipe", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Validate a configuration
    Check(config::CheckArgs),
    /// Show the default or the effective configuration
    Config(config::ConfigArgs),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Check(args) => args.run(),
        Command::Config(args) => args.run(),
    }
}
