//! The control socket: questions to a running gateway, one JSON object a line.
//!
//! ```text
//! → {"command":"topics","offset":0,"limit":1000}
//! ← {"version":1,"topics":[{"id":1,"kind":"predefined","client":"*","topic":"plant/status"}],"more":false}
//! → {"command":"metrics"}
//! ← {"version":1,"metrics":{"snipe_clients":3}}
//! → {"command":"spool","after":0,"limit":100}
//! ← {"version":1,"spool":[{"id":7,"client":"pump-7","topic":"pump/7","qos":1,"retain":false,"age_seconds":40,
//!    "state":"waiting","bytes":4,"payload":"21.5"}],"more":false}
//! → {"command":"spool_drop","id":7}
//! ← {"version":1,"dropped":1}
//! ← {"version":1,"error":"unknown command"}
//! ```

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use gateway_core::admin::{AdminCommand, AdminReply, SpoolRow};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tracing::{debug, warn};

use crate::config;

/// The gateway that was asked for does not run.
const EXIT_NOT_RUNNING: u8 = 4;

/// Version of the answers.
const VERSION: u32 = 1;

/// Longest line taken.
const LINE_MAX: u64 = 4096;

/// Connections served at once.
const CONNECTIONS_MAX: usize = 16;

/// Rows of one answer.
const ROWS: usize = 1000;

/// Rows of one answer about the spool, whose payloads make them long.
const SPOOL_ROWS: usize = 200;

/// How long a client of the socket waits for an answer.
const ANSWER_WAIT: Duration = Duration::from_secs(5);

/// A question for the core, and where its answer goes.
pub(crate) struct Question {
    pub(crate) command: AdminCommand,
    pub(crate) answer: oneshot::Sender<Answer>,
}

/// What the core says, and what the shell adds.
pub(crate) struct Answer {
    pub(crate) reply: AdminReply,
    /// Counters that are no whole numbers: seconds, ratios.
    pub(crate) fractions: Vec<(String, f64)>,
}

/// The socket of a running gateway; the file goes when this is dropped.
pub(crate) struct ControlSocket {
    path: PathBuf,
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // Somebody may have removed it before us.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Where the control socket of a gateway with this state directory is.
pub(crate) fn socket_path(state_dir: &Path) -> PathBuf {
    let runtime = std::env::var_os("RUNTIME_DIRECTORY").map(PathBuf::from);
    runtime
        .unwrap_or_else(|| state_dir.to_owned())
        .join("control.sock")
}

/// Serves questions on the control socket, which only this user and its group may use.
///
/// # Errors
/// The directory cannot be made or written, or another gateway uses it.
pub(crate) fn listen(state_dir: &Path, questions: mpsc::Sender<Question>) -> anyhow::Result<ControlSocket> {
    let path = socket_path(state_dir);
    let dir = path.parent().unwrap_or(state_dir);
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| {
            format!(
                "cannot make the state directory {} (key gateway.state_dir)",
                dir.display()
            )
        })?;
    if BlockingStream::connect(&path).is_ok() {
        anyhow::bail!(
            "another gateway runs with the state directory {}: give this one its own, --set gateway.state_dir=DIR",
            dir.display()
        );
    }
    // Left behind by a gateway that was killed.
    let _ = std::fs::remove_file(&path);
    let listener =
        UnixListener::bind(&path).with_context(|| format!("cannot listen on {}", path.display()))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o660))
        .with_context(|| format!("cannot set the permissions of {}", path.display()))?;
    tokio::spawn(accept(listener, questions));
    Ok(ControlSocket { path })
}

async fn accept(listener: UnixListener, questions: mpsc::Sender<Question>) {
    let places = std::sync::Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let questions = questions.clone();
                tokio::spawn(async move {
                    if let Err(error) = serve(stream, &questions).await {
                        debug!(target: "control", %error, "connection ended");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: try again, but not at full speed.
                warn!(target: "control", %error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// Answers line by line until the other side closes.
async fn serve(stream: UnixStream, questions: &mpsc::Sender<Question>) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut read = tokio::io::BufReader::new(read);
    let mut line = String::new();
    loop {
        line.clear();
        if (&mut read).take(LINE_MAX).read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let mut answer = answer(&line, questions).await.to_string();
        answer.push('\n');
        write.write_all(answer.as_bytes()).await?;
        if !line.ends_with('\n') {
            return Ok(()); // Too long, or cut off: what follows is not the start of a line.
        }
    }
}

#[derive(Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
enum Request {
    Topics {
        #[serde(default)]
        offset: usize,
        #[serde(default = "rows")]
        limit: usize,
    },
    Metrics {},
    Spool {
        #[serde(default)]
        after: u64,
        #[serde(default = "spool_rows")]
        limit: usize,
    },
    /// Without an id: all.
    SpoolDrop {
        id: Option<u64>,
    },
}

fn rows() -> usize {
    ROWS
}

fn spool_rows() -> usize {
    SPOOL_ROWS
}

async fn answer(line: &str, questions: &mpsc::Sender<Question>) -> Value {
    let error = |text: String| json!({ "version": VERSION, "error": text });
    let command = match serde_json::from_str(line) {
        Ok(Request::Topics { offset, limit }) => AdminCommand::Topics { offset, limit },
        Ok(Request::Metrics {}) => AdminCommand::Metrics,
        Ok(Request::Spool { after, limit }) => AdminCommand::Spool {
            after,
            limit: limit.min(SPOOL_ROWS),
        },
        Ok(Request::SpoolDrop { id }) => AdminCommand::SpoolDrop { id },
        Err(problem) => return error(problem.to_string()),
    };
    let (answer, reply) = oneshot::channel();
    if questions.send(Question { command, answer }).await.is_err() {
        return error("the gateway stops".into());
    }
    let Ok(Answer { reply, fractions }) = reply.await else {
        return error("the gateway stops".into());
    };
    match reply {
        AdminReply::Topics { rows, more } => {
            let rows: Vec<Value> = rows
                .iter()
                .map(|row| json!({ "id": row.id, "kind": row.kind, "client": &*row.client, "topic": &*row.topic }))
                .collect();
            json!({ "version": VERSION, "topics": rows, "more": more })
        }
        AdminReply::Spool { rows, more } => {
            let rows: Vec<Value> = rows.iter().map(spool_row).collect();
            json!({ "version": VERSION, "spool": rows, "more": more })
        }
        AdminReply::SpoolDropped(dropped) => json!({ "version": VERSION, "dropped": dropped }),
        AdminReply::Metrics(rows) => {
            let whole = rows.into_iter().map(|(name, value)| (name, Value::from(value)));
            let others = fractions
                .into_iter()
                .map(|(name, value)| (name, Value::from(value)));
            let rows: serde_json::Map<String, Value> = whole.chain(others).collect();
            json!({ "version": VERSION, "metrics": rows })
        }
    }
}

/// A payload that is text is shown as such, any other in hexadecimal digits.
fn spool_row(row: &SpoolRow) -> Value {
    let mut value = json!({
        "id": row.id,
        "client": row.client.as_deref(),
        "topic": &*row.topic,
        "qos": row.qos as u8,
        "retain": row.retain,
        "age_seconds": row.age.as_secs(),
        "state": row.state.name(),
        "bytes": row.payload.len(),
    });
    match core::str::from_utf8(&row.payload) {
        Ok(text) => value["payload"] = text.into(),
        Err(_) => value["payload_hex"] = hex(&row.payload).into(),
    }
    value
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

/// Which running gateway a command is about.
#[derive(Debug, clap::Args)]
pub(crate) struct RunningArgs {
    /// Control socket of the gateway
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    #[command(flatten)]
    source: config::SourceArgs,
}

impl RunningArgs {
    /// Connects to it.
    ///
    /// # Errors
    /// The exit code, after telling why on standard error.
    pub(crate) fn connect(&self) -> Result<ControlClient, ExitCode> {
        let socket = match &self.socket {
            Some(path) => path.clone(),
            None => match config::load(&self.source) {
                Ok(loaded) => find_socket(&loaded.settings.state_dir),
                Err(errors) => return Err(config::refuse(&errors)),
            },
        };
        ControlClient::connect(&socket).map_err(|error| {
            eprintln!("snipe: no gateway answers at {}: {error}", socket.display());
            eprintln!("  is it running? another state directory? name its socket with --socket PATH");
            ExitCode::from(EXIT_NOT_RUNNING)
        })
    }
}

/// The socket of the service, or else the one in the state directory.
fn find_socket(state_dir: &Path) -> PathBuf {
    let service = PathBuf::from("/run/snipe/control.sock");
    let own = socket_path(state_dir);
    if !own.exists() && service.exists() {
        service
    } else {
        own
    }
}

/// A connection to a running gateway.
pub(crate) struct ControlClient {
    stream: BufReader<BlockingStream>,
}

impl ControlClient {
    /// Connects to the gateway behind `path`.
    ///
    /// # Errors
    /// No gateway runs there, or it may not be asked.
    pub(crate) fn connect(path: &Path) -> std::io::Result<ControlClient> {
        let stream = BlockingStream::connect(path)?;
        stream.set_read_timeout(Some(ANSWER_WAIT))?;
        stream.set_write_timeout(Some(ANSWER_WAIT))?;
        Ok(ControlClient {
            stream: BufReader::new(stream),
        })
    }

    /// Asks one question.
    ///
    /// # Errors
    /// The gateway said no, or nothing.
    pub(crate) fn ask(&mut self, question: &Value) -> anyhow::Result<Value> {
        writeln!(self.stream.get_mut(), "{question}").context("ask the gateway")?;
        let mut line = String::new();
        self.stream
            .read_line(&mut line)
            .context("wait for the gateway's answer")?;
        let answer: Value = serde_json::from_str(&line).context("read the gateway's answer")?;
        match answer.get("error").and_then(Value::as_str) {
            Some(error) => anyhow::bail!("{error}"),
            None => Ok(answer),
        }
    }
}
