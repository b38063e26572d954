//! `snipe spool`: what waits on disk for the broker, in a running gateway.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::control::{ControlClient, RunningArgs};
use crate::printable::printable;

const EXAMPLES: &str = "\
Examples:
  snipe spool ls                    what waits, the oldest first
  snipe spool show 17               one message with its payload
  snipe spool export spool.jsonl    all of them, one JSON object a line
  snipe spool drop 17               forget one message
  snipe spool drop --all            forget all that are not on their way

States: waiting: not sent yet · sent: the broker has not answered · held: the
broker inside has it, and keeps it for MQTT clients that are away.

An exported message can be published again:
  jq -rj .payload <<<\"$line\" | snipe pub -s -q 1 -t \"$(jq -r .topic <<<\"$line\")\"
A payload that is not text is in payload_hex instead: jq -rj .payload_hex | xxd -r -p";

/// `snipe spool`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct SpoolArgs {
    #[command(subcommand)]
    command: SpoolCommand,
}

#[derive(Debug, Subcommand)]
enum SpoolCommand {
    /// List the messages, the oldest first
    Ls {
        /// One JSON object a line, for programs
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        gateway: RunningArgs,
    },
    /// Show one message and its payload
    Show {
        /// The number that ls prints
        id: u64,
        /// A JSON object, for programs
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        gateway: RunningArgs,
    },
    /// Write all messages to a file, one JSON object a line
    Export {
        /// A new file, never one that is there, or - for standard output
        file: PathBuf,
        #[command(flatten)]
        gateway: RunningArgs,
    },
    /// Forget messages that the broker does not have yet: they are lost
    #[command(group = clap::ArgGroup::new("which").required(true))]
    Drop {
        /// The number that ls prints
        #[arg(group = "which")]
        id: Option<u64>,
        /// All of them
        #[arg(long, group = "which")]
        all: bool,
        /// A JSON object, for programs
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        gateway: RunningArgs,
    },
}

/// Does what was asked for. Exit code 0, 1 if there is no such message, 4 if no gateway runs.
pub(crate) fn run(args: &SpoolArgs) -> ExitCode {
    let gateway = match &args.command {
        SpoolCommand::Ls { gateway, .. }
        | SpoolCommand::Show { gateway, .. }
        | SpoolCommand::Export { gateway, .. }
        | SpoolCommand::Drop { gateway, .. } => gateway,
    };
    let mut gateway = match gateway.connect() {
        Ok(gateway) => gateway,
        Err(code) => return code,
    };
    let done = match &args.command {
        SpoolCommand::Ls { json, .. } => list(&mut gateway, *json),
        SpoolCommand::Show { id, json, .. } => show(&mut gateway, *id, *json),
        SpoolCommand::Export { file, .. } => export(&mut gateway, file),
        SpoolCommand::Drop { id, json, .. } => drop_messages(&mut gateway, *id, *json),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("snipe: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Hands each message to `each`, page by page: what comes and goes meanwhile may be missed, and nothing comes twice.
fn messages(
    gateway: &mut ControlClient,
    mut each: impl FnMut(&Value) -> anyhow::Result<()>,
) -> anyhow::Result<u64> {
    let (mut after, mut count) = (0, 0);
    loop {
        let answer = gateway.ask(&json!({ "command": "spool", "after": after }))?;
        let rows = answer["spool"].as_array().map(Vec::as_slice).unwrap_or_default();
        for row in rows {
            each(row)?;
            after = row["id"].as_u64().unwrap_or(u64::MAX);
            count += 1;
        }
        if rows.is_empty() || answer["more"] != Value::Bool(true) {
            return Ok(count);
        }
    }
}

fn list(gateway: &mut ControlClient, json: bool) -> anyhow::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    if !json {
        writeln!(
            out,
            "{:>8}  {:<8}  {:>8}  {:<20}  {:>3}  {:>7}  topic",
            "id", "state", "age", "client", "qos", "bytes"
        )?;
    }
    messages(gateway, |row| {
        if json {
            return Ok(writeln!(out, "{row}")?);
        }
        let number = |key: &str| row[key].as_u64().unwrap_or_default();
        let text = |key: &str| printable(row[key].as_str().unwrap_or("-"));
        Ok(writeln!(
            out,
            "{:>8}  {:<8}  {:>8}  {:<20}  {:>3}  {:>7}  {}",
            number("id"),
            text("state"),
            age(number("age_seconds")),
            text("client"),
            number("qos"),
            number("bytes"),
            text("topic")
        )?)
    })?;
    Ok(out.flush()?)
}

fn show(gateway: &mut ControlClient, id: u64, json: bool) -> anyhow::Result<()> {
    let before = id.checked_sub(1).context("messages are numbered from 1")?;
    let answer = gateway.ask(&json!({ "command": "spool", "after": before, "limit": 1 }))?;
    let row = answer["spool"].get(0).filter(|row| row["id"] == json!(id));
    let row = row.with_context(|| format!("no message {id} waits; see snipe spool ls"))?;
    let mut out = io::stdout().lock();
    if json {
        return Ok(writeln!(out, "{row}")?);
    }
    for key in [
        "id",
        "state",
        "client",
        "topic",
        "qos",
        "retain",
        "bytes",
        "payload",
        "payload_hex",
    ] {
        match &row[key] {
            Value::Null => {}
            Value::String(text) => writeln!(out, "{key:<12} {}", printable(text))?,
            other => writeln!(out, "{key:<12} {other}")?,
        }
    }
    writeln!(
        out,
        "{:<12} {}",
        "age",
        age(row["age_seconds"].as_u64().unwrap_or_default())
    )?;
    Ok(())
}

fn export(gateway: &mut ControlClient, path: &Path) -> anyhow::Result<()> {
    if path == Path::new("-") {
        let mut out = BufWriter::new(io::stdout().lock());
        messages(gateway, |row| Ok(writeln!(out, "{row}")?))?;
        return Ok(out.flush()?);
    }
    // Never over another export: what it holds may be nowhere else any more.
    let file = match File::create_new(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => anyhow::bail!(
            "{} is there already, and is never written over\n  \
             give another name, or move it away first",
            path.display()
        ),
        file => file.with_context(|| format!("write {}", path.display()))?,
    };
    let mut out = BufWriter::new(file);
    let count = messages(gateway, |row| Ok(writeln!(out, "{row}")?))?;
    let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_all()
        .with_context(|| format!("write {}", path.display()))?;
    println!("{count} messages in {}", path.display());
    Ok(())
}

fn drop_messages(gateway: &mut ControlClient, id: Option<u64>, json: bool) -> anyhow::Result<()> {
    let answer = gateway.ask(&json!({ "command": "spool_drop", "id": id }))?;
    let dropped = answer["dropped"].as_u64().unwrap_or_default();
    if json {
        println!("{}", json!({ "dropped": dropped }));
    }
    match id {
        Some(id) if dropped == 0 => {
            anyhow::bail!("message {id} does not wait, or is on its way to the broker; see snipe spool ls")
        }
        Some(_) | None if json => {}
        Some(_) | None => println!("dropped {dropped}"),
    }
    Ok(())
}

/// Seconds as people say them, the two largest units.
fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_two_units_at_most() {
        let ages = [0, 59, 61, 3600, 90_000].map(age);
        assert_eq!(ages, ["0s", "59s", "1m1s", "1h0m", "1d1h"]);
    }
}
