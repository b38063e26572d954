//! `snipe topics`: the topic registry of a running gateway.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use crate::control::{ControlClient, RunningArgs};
use crate::printable::printable;

/// `snipe topics`.
#[derive(Debug, Args)]
pub(crate) struct TopicsArgs {
    /// One JSON object a line, for programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    gateway: RunningArgs,
}

/// Prints id, kind, client and full name of every topic id.
pub(crate) fn run(args: &TopicsArgs) -> ExitCode {
    let mut gateway = match args.gateway.connect() {
        Ok(gateway) => gateway,
        Err(code) => return code,
    };
    match print(&mut gateway, args.json) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("snipe: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn print(gateway: &mut ControlClient, json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if !json {
        writeln!(out, "{:>5}  {:<10}  {:<20}  topic", "id", "kind", "client")?;
    }
    let mut offset = 0;
    loop {
        let answer = gateway.ask(&json!({ "command": "topics", "offset": offset }))?;
        let rows = answer["topics"].as_array().map(Vec::as_slice).unwrap_or_default();
        for row in rows {
            if json {
                writeln!(out, "{row}")?;
            } else {
                let text = |key: &str| printable(row[key].as_str().unwrap_or_default());
                let id = row["id"].as_u64().unwrap_or_default();
                writeln!(
                    out,
                    "{id:>5}  {:<10}  {:<20}  {}",
                    text("kind"),
                    text("client"),
                    text("topic")
                )?;
            }
        }
        offset += rows.len();
        if rows.is_empty() || answer["more"] != Value::Bool(true) {
            return Ok(());
        }
    }
}
