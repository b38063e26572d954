//! The MQTT-SN gateway and its tools: reads the command line and hands over.

mod cli;
mod decode;
mod tools;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command.unwrap_or(Command::Run(cli.run)) {
        Command::Decode(args) => decode::run(&args),
        Command::Pub(args) => tools::run_pub(&args),
        Command::Sub(args) => tools::run_sub(&args),
        Command::Ping(args) => tools::run_ping(&args),
        Command::Run(args) => missing("run", &args),
        Command::Check(args) => missing("check", &args),
        Command::Config(args) => missing("config", &args),
        Command::Topics(args) => missing("topics", &args),
    }
}

/// A subcommand that this build does not have.
fn missing(subcommand: &str, _args: &impl std::fmt::Debug) -> ExitCode {
    eprintln!("snipe: this build has no `snipe {subcommand}`");
    ExitCode::FAILURE
}
