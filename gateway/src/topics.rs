//! `snipe topics`: the topic registry of a running gateway.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use crate::config;
use crate::control::{ControlClient, socket_path};

/// The gateway that was asked for does not run.
const EXIT_NOT_RUNNING: u8 = 4;

/// `snipe topics`.
#[derive(Debug, Args)]
pub(crate) struct TopicsArgs {
    /// Control socket of the gateway
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// One JSON object a line, for programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    source: config::SourceArgs,
}

/// Prints id, kind, client and full name of every topic id.
pub(crate) fn run(args: &TopicsArgs) -> ExitCode {
    let socket = match &args.socket {
        Some(path) => path.clone(),
        None => match config::load(&args.source) {
            Ok(loaded) => find_socket(&loaded.settings),
            Err(errors) => return config::refuse(&errors),
        },
    };
    let mut gateway = match ControlClient::connect(&socket) {
        Ok(gateway) => gateway,
        Err(error) => {
            eprintln!("snipe: no gateway answers at {}: {error}", socket.display());
            eprintln!("  is it running? another state directory? name its socket with --socket PATH");
            return ExitCode::from(EXIT_NOT_RUNNING);
        }
    };
    match print(&mut gateway, args.json) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("snipe: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The socket of the service, or else the one in the state directory.
fn find_socket(settings: &config::Settings) -> PathBuf {
    let service = PathBuf::from("/run/snipe/control.sock");
    let own = socket_path(&settings.state_dir);
    if !own.exists() && service.exists() {
        service
    } else {
        own
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
                let text = |key: &str| row[key].as_str().unwrap_or_default();
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
