//! How a line of the log is written.

use tracing::Event;
use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::printable::{PrintableWriter, must_be_escaped};

/// One field of a line of text. Its value may come from the network, and must not become a line of its own.
pub(super) fn text_field(
    out: &mut Writer<'_>,
    field: &Field,
    value: &dyn std::fmt::Debug,
) -> std::fmt::Result {
    use std::fmt::Write as _;
    match field.name() {
        "message" => {}
        name if out.has_ansi_escapes() => write!(out, "\x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m")?,
        name => write!(out, "{name}=")?,
    }
    PrintableWriter(out).write_fmt(format_args!("{value:?}"))
}

/// One line of `key=value` pairs for each event.
pub(super) struct Logfmt;

impl<S, N> FormatEvent<S, N> for Logfmt
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        cx: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> std::fmt::Result {
        out.write_str("time=")?;
        SystemTime.format_time(&mut out)?;
        let level = event.metadata().level().as_str().to_ascii_lowercase();
        write!(out, " level={level} target={}", event.metadata().target())?;
        cx.format_fields(out.by_ref(), event)?;
        writeln!(out)
    }
}

/// Fields as ` key=value`; values with spaces, quotes or equals signs are quoted.
pub(super) struct LogfmtFields;

impl<'writer> FormatFields<'writer> for LogfmtFields {
    fn format_fields<R: RecordFields>(&self, mut out: Writer<'writer>, fields: R) -> std::fmt::Result {
        let mut visitor = LogfmtVisitor {
            out: &mut out,
            result: Ok(()),
        };
        fields.record(&mut visitor);
        visitor.result
    }
}

struct LogfmtVisitor<'a, 'writer> {
    out: &'a mut Writer<'writer>,
    result: std::fmt::Result,
}

impl LogfmtVisitor<'_, '_> {
    fn pair(&mut self, field: &Field, value: &str) {
        let key = if field.name() == "message" {
            "msg"
        } else {
            field.name()
        };
        let quoted = |c: char| c == '"' || c == '=' || c.is_whitespace() || must_be_escaped(c);
        let plain = !value.is_empty() && !value.contains(quoted);
        let written = if plain {
            write!(self.out, " {key}={value}")
        } else {
            write!(self.out, " {key}={value:?}")
        };
        self.result = self.result.and(written);
    }
}

impl Visit for LogfmtVisitor<'_, '_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.pair(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.pair(field, &format!("{value:?}"));
    }
}
