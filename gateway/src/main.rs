//! The MQTT-SN gateway and its tools: reads the command line and hands over.

#![forbid(unsafe_code)]

mod airtime_log;
mod cli;
mod config;
mod control;
mod decode;
mod durable;
mod gather;
mod links;
mod online;
mod printable;
mod run;
#[cfg(feature = "sim")]
mod sim;
mod spool;
mod telemetry;
mod tools;
mod topics;
mod which_broker;

use std::process::ExitCode;

use cli::{Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::of_process();
    match cli.command.unwrap_or(Command::Run(cli.run)) {
        Command::Run(source) => run::run(&source),
        Command::Check(args) => args.run(),
        Command::Config(args) => args.run(),
        Command::Topics(args) => topics::run(&args),
        Command::Spool(args) => spool::run(&args),
        Command::Decode(args) => decode::run(&args),
        Command::Pub(args) => tools::run_pub(&args),
        Command::Sub(args) => tools::run_sub(&args),
        Command::Ping(args) => tools::run_ping(&args),
        #[cfg(feature = "sim")]
        Command::Sim(args) => sim::run(&args),
    }
}
