//! The MQTT-SN client tools: `snipe pub`, `snipe sub` and `snipe ping`.
//!
//! [`session`] is the protocol without I/O, [`client`] puts it on a UDP socket, and each tool is a short story
//! told with the client.

mod args;
mod client;
pub(crate) mod describe;
mod format;
mod ping;
mod publish;
mod session;
mod subscribe;

use std::process::ExitCode;

pub(crate) use args::{PingArgs, PubArgs, SubArgs};

use crate::cli::usage_error;
use client::ToolError;

/// `snipe pub`.
pub(crate) fn run_pub(args: &PubArgs) -> ExitCode {
    let topic = match args.topic() {
        Ok(topic) => topic,
        Err(message) => return usage_error("pub", &message),
    };
    // Standard input is read before signals are handled, so that Ctrl-C ends a wait for it.
    let result = publish::Messages::read(args.source())
        .and_then(|messages| block_on(publish::publish(args, topic, messages)));
    exit_code(result, args.link.quiet)
}

/// `snipe sub`.
pub(crate) fn run_sub(args: &SubArgs) -> ExitCode {
    exit_code(block_on(subscribe::subscribe(args)), args.link.quiet)
}

/// `snipe ping`.
pub(crate) fn run_ping(args: &PingArgs) -> ExitCode {
    match block_on(ping::ping(args)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => exit_code(Err(error), args.link.quiet),
    }
}

fn block_on<T>(tool: impl Future<Output = Result<T, ToolError>>) -> Result<T, ToolError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ToolError::Start)?;
    runtime.block_on(tool)
}

fn exit_code(result: Result<(), ToolError>, quiet: bool) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !quiet && !error.is_expected() {
                eprintln!("snipe: {error}");
            }
            ExitCode::from(error.exit_code())
        }
    }
}
