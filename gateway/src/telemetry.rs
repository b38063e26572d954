//! Logs, and what the shell counts itself.

use core::sync::atomic::Ordering;
use std::fs::OpenOptions;
use std::sync::Mutex;

use anyhow::Context as _;
use gateway_core::io::Notice;
use gateway_core::peer::LinkId;
use gateway_core::time::Instant;
use radio_adapters::udp::UdpStats;
use tracing::{debug, info, warn};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, Registry, fmt};

use crate::config::{LogFormat, LogSettings};

/// Lines of one kind that are logged in a second; more are counted and said later.
const LINES_PER_SECOND: u32 = 20;

/// Starts logging as configured; to standard error unless a file is named.
pub(crate) fn init(log: &LogSettings) -> anyhow::Result<()> {
    use std::io::IsTerminal as _;
    let mut filter = Targets::new().with_default(log.level);
    for (target, level) in &log.targets {
        filter = filter.with_target(target.clone(), *level);
    }
    let layer = match &log.file {
        Some(path) => {
            let file = OpenOptions::new().create(true).append(true).open(path);
            let file = Mutex::new(file.with_context(|| format!("open {}", path.display()))?);
            layer(log.format, fmt::layer().with_writer(file).with_ansi(false))
        }
        None => {
            let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            layer(
                log.format,
                fmt::layer().with_writer(std::io::stderr).with_ansi(colours),
            )
        }
    };
    tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .init();
    Ok(())
}

type FormatLayer<W> = fmt::Layer<Registry, fmt::format::DefaultFields, fmt::format::Format, W>;

fn layer<W>(format: LogFormat, layer: FormatLayer<W>) -> Box<dyn Layer<Registry> + Send + Sync>
where
    W: for<'a> fmt::MakeWriter<'a> + Send + Sync + 'static,
{
    match format {
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
        LogFormat::Auto | LogFormat::Text | LogFormat::Logfmt => layer.boxed(),
    }
}

/// Turns the core's notices into log lines, with a bound on each kind.
#[derive(Debug)]
pub(crate) struct Notices {
    radios: Vec<String>,
    kinds: [Kind; 8],
}

#[derive(Debug, Default, Clone, Copy)]
struct Kind {
    second: u64,
    lines: u32,
    suppressed: u64,
}

impl Notices {
    /// `radios` are the names of the links, in the order of their ids.
    pub(crate) fn new(radios: Vec<String>) -> Self {
        Notices {
            radios,
            kinds: [Kind::default(); 8],
        }
    }

    /// The name of a link.
    pub(crate) fn radio(&self, link: LinkId) -> &str {
        self.radios.get(usize::from(link.0)).map_or("?", String::as_str)
    }

    /// Logs a notice, unless too many of its kind were logged within the second.
    pub(crate) fn log(&mut self, now: Instant, notice: Notice) {
        let (at, name) = match &notice {
            Notice::Connected { .. } => (0, "connected"),
            Notice::Disconnected { .. } => (1, "disconnected"),
            Notice::Asleep { .. } => (2, "asleep"),
            Notice::Lost { .. } => (3, "lost"),
            Notice::Refused { .. } => (4, "refused"),
            Notice::SubscriptionRefused { .. } => (5, "subscription refused"),
            Notice::PublishRefused { .. } => (6, "publish refused"),
            Notice::TooLarge { .. } => (7, "too large"),
        };
        let kind = &mut self.kinds[at];
        let second = now.as_micros() / 1_000_000;
        if kind.second != second {
            if kind.suppressed > 0 {
                info!(target: "client", kind = name, suppressed = kind.suppressed, "more lines of a kind");
            }
            *kind = Kind {
                second,
                lines: 0,
                suppressed: 0,
            };
        }
        if kind.lines >= LINES_PER_SECOND {
            kind.suppressed += 1;
            return;
        }
        kind.lines += 1;
        self.write(notice);
    }

    fn write(&self, notice: Notice) {
        match notice {
            Notice::Connected {
                client,
                link,
                addr,
                keep_alive,
                clean,
                resumed,
                buffered,
            } => {
                let radio = self.radio(link);
                info!(target: "client", %client, radio, %addr, keep_alive, clean, resumed, buffered, "connected");
            }
            Notice::Disconnected { client, reason } => {
                info!(target: "client", %client, reason, "disconnected")
            }
            Notice::Asleep { client, duration } => info!(target: "client", %client, duration, "asleep"),
            Notice::Lost { client, will } => info!(target: "client", %client, will, "lost"),
            Notice::Refused { client, reason } => {
                info!(target: "client", client = ?client, reason, "refused")
            }
            Notice::SubscriptionRefused { filter, refusal } => {
                warn!(target: "broker", %filter, %refusal, "subscription refused: check what the broker allows this gateway");
            }
            Notice::PublishRefused {
                client,
                topic,
                refusal,
            } => {
                warn!(target: "broker", %client, %topic, %refusal, "publish refused: check what the broker allows this gateway");
            }
            Notice::TooLarge { client, topic, len } => {
                debug!(target: "client", %client, %topic, len, "message larger than the mtu of the radio, dropped");
            }
        }
    }
}

/// What a UDP link counted, with exported names.
pub(crate) fn udp_rows(radio: &str, stats: &UdpStats) -> Vec<(String, u64)> {
    let row = |name: &str, reason: &str, value: u64| {
        (format!("snipe_radio_{name}{{radio=\"{radio}\"{reason}}}"), value)
    };
    let load = |counter: &core::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    vec![
        row("frames_total", ",direction=\"rx\"", load(&stats.received)),
        row("frames_total", ",direction=\"tx\"", load(&stats.sent)),
        row(
            "dropped_total",
            ",reason=\"send_error\"",
            load(&stats.send_errors),
        ),
        row("dropped_total", ",reason=\"oversize\"", load(&stats.truncated)),
        row(
            "dropped_total",
            ",reason=\"queue_full\"",
            load(&stats.backlog_dropped),
        ),
        row(
            "dropped_total",
            ",reason=\"kernel\"",
            stats.kernel_dropped().unwrap_or(0),
        ),
    ]
}
