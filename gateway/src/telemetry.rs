//! Logs, and what the shell counts itself.

mod logfmt;
mod notices;
mod rows;
#[cfg(test)]
mod tests;

use std::fs::OpenOptions;
use std::sync::Mutex;

use anyhow::Context as _;
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::debug_fn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, Registry, fmt};

use self::logfmt::{Logfmt, LogfmtFields, text_field};
use crate::config::{LogFormat, LogSettings};

pub(crate) use self::notices::{Notices, trace_datagram};
pub(crate) use self::rows::{
    airtime_rows, broker_rows, link_rows, serial_rows, signal_rows, store_rows, summed, sync_rows, udp_rows,
};

/// The targets that log lines have, of all crates.
pub(crate) const TARGETS: [&str; 9] = [
    "broker", "client", "config", "control", "gateway", "guard", "packet", "radio", "spool",
];

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
        LogFormat::Logfmt => layer.event_format(Logfmt).fmt_fields(LogfmtFields).boxed(),
        LogFormat::Auto | LogFormat::Text => layer.fmt_fields(debug_fn(text_field).delimited(" ")).boxed(),
    }
}
