//! Logs, and what the shell counts itself.

use core::sync::atomic::Ordering;
use core::time::Duration;
use std::collections::HashMap;
use std::fs::OpenOptions;
use std::sync::Mutex;

use anyhow::Context as _;
use broker::EmbeddedStats;
use gateway_core::SpoolDrop;
use gateway_core::io::{ForwarderRefusal, NoTopic, Notice};
use gateway_core::link_metrics::{Class, LinkMetrics, NotSent};
use gateway_core::peer::LinkId;
use gateway_core::time::Instant;
use gateway_store::{SyncTimes, Usage};
use radio_adapters::driver::{DropReason, Recovery};
use radio_adapters::stats::RadioStats;
use radio_adapters::udp::UdpStats;
use sn_codec::Packet;
use tracing::field::{Field, Visit};
use tracing::{Event, debug, error, info, trace, warn};
use tracing_subscriber::field::{MakeExt as _, RecordFields};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::{Writer, debug_fn};
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, Registry, fmt};

use crate::config::{LogFormat, LogSettings};
use crate::printable::{PrintableWriter, must_be_escaped};

/// Lines of one kind that are logged in a second; more are counted and said later.
const LINES_PER_SECOND: u32 = 20;

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

/// One field of a line of text. Its value may come from the network, and must not become a line of its own.
fn text_field(out: &mut Writer<'_>, field: &Field, value: &dyn std::fmt::Debug) -> std::fmt::Result {
    use std::fmt::Write as _;
    match field.name() {
        "message" => {}
        name if out.has_ansi_escapes() => write!(out, "\x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m")?,
        name => write!(out, "{name}=")?,
    }
    PrintableWriter(out).write_fmt(format_args!("{value:?}"))
}

/// One line of `key=value` pairs for each event.
struct Logfmt;

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
struct LogfmtFields;

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

/// Turns the core's notices into log lines, with a bound on each kind.
#[derive(Debug)]
pub(crate) struct Notices {
    radios: Vec<String>,
    kinds: [Kind; KINDS],
}

/// Notices left out before this one, if any were.
fn more(suppressed: u64) -> Option<u64> {
    (suppressed > 0).then_some(suppressed)
}

/// Kinds of notices, each with a limit of its own.
const KINDS: usize = 30;

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
            kinds: [Kind::default(); KINDS],
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
            Notice::UnknownTopic { .. } => (8, "unknown topic id"),
            Notice::ForwarderRefused { .. } => (9, "forwarder refused"),
            Notice::PublishMinusOneRefused { .. } => (10, "publish without a session refused"),
            Notice::SameGatewayId { .. } => (11, "same gateway id"),
            Notice::AnswerTooLarge { .. } => (12, "answer too large"),
            Notice::LinkUp { .. } => (13, "link up"),
            Notice::LinkDown { .. } => (14, "link down"),
            Notice::DutyCycle { .. } => (15, "duty cycle"),
            Notice::AirtimeLost { .. } => (16, "airtime lost"),
            Notice::AirtimeNotStored { .. } => (17, "airtime not stored"),
            Notice::Awake { .. } => (18, "awake"),
            Notice::Delivered { .. } => (19, "delivered"),
            Notice::Dropped { .. } => (20, "dropped"),
            Notice::AddressChanged { .. } => (21, "address changed"),
            Notice::StandBy { .. } => (22, "stand by"),
            Notice::UnheardRefused { .. } => (23, "message lost"),
            Notice::SpoolDropped { .. } => (24, "messages dropped"),
            Notice::StatusRefused { .. } => (25, "status refused"),
            Notice::PublishPostponed { .. } => (26, "publish postponed"),
            Notice::OneAtATime { .. } => (27, "one at a time"),
            Notice::NoneToBlame { .. } => (28, "none to blame"),
            Notice::SpoolFull { .. } => (29, "spool full"),
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
                facts,
            } => {
                let radio = self.radio(link);
                let (rssi, snr, hops) = (facts.rssi_dbm, facts.snr_db, facts.hops);
                info!(target: "client", %client, radio, %addr, keep_alive, clean, resumed, buffered, rssi, snr, hops, "connected");
            }
            Notice::Disconnected { client, reason } => {
                info!(target: "client", %client, reason, "disconnected");
            }
            Notice::Asleep { client, duration } => info!(target: "client", %client, duration, "asleep"),
            // Most wake up for nothing.
            Notice::Awake { client, buffered: 0 } => debug!(target: "client", %client, "awake"),
            Notice::Awake { client, buffered } => info!(target: "client", %client, buffered, "awake"),
            Notice::Delivered {
                client,
                messages,
                bytes,
                waited,
            } => {
                let waited = waiting(waited);
                info!(target: "client", %client, messages, bytes, waited, "delivered");
            }
            Notice::Dropped {
                client,
                topic,
                reason,
            } => {
                let reason = reason.name();
                info!(target: "client", %client, %topic, reason, "message dropped: see [sleep]");
            }
            Notice::AddressChanged {
                client,
                link,
                old,
                new,
            } => {
                let radio = self.radio(link);
                info!(target: "client", %client, radio, %old, %new, "address changed");
            }
            Notice::Lost { client, will } => info!(target: "client", %client, will, "lost"),
            Notice::Refused { client, reason } => {
                info!(target: "client", client = ?client, reason, "refused");
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
            Notice::UnheardRefused {
                client,
                topic,
                refusal,
            } => {
                warn!(target: "spool", client = client.as_deref(), %topic, %refusal, "message lost: the broker refused it after its client had its answer; check what the broker allows this gateway");
            }
            Notice::SpoolFull { topic, suppressed } => {
                warn!(target: "spool", %topic, suppressed = more(suppressed), "no room in the spool: sensors get congestion for what they publish; see spool.max_messages and spool.max_bytes");
            }
            Notice::SpoolDropped {
                reason,
                messages,
                topic,
            } => {
                let key = match reason {
                    SpoolDrop::Age => "spool.max_age",
                    SpoolDrop::Full | SpoolDrop::Command | SpoolDrop::Refused => {
                        "spool.max_messages and spool.max_bytes"
                    }
                };
                warn!(target: "spool", reason = reason.name(), messages, last = %topic, "acknowledged messages dropped: see {key}");
            }
            Notice::PublishPostponed { topic, suppressed } => {
                warn!(target: "spool", %topic, suppressed = more(suppressed), "the broker refuses acknowledged messages for now, with \"quota exceeded\": they stay in the spool and are sent again");
            }
            Notice::OneAtATime {
                conn,
                client_id,
                breaks,
                requests,
            } => {
                warn!(target: "broker", conn = conn.0, %client_id, breaks, requests, "the connection broke again and again over what is under way: it goes one at a time now, on a new session, until the one is found that the broker closes it over");
            }
            Notice::NoneToBlame { conn, client_id } => {
                info!(target: "broker", conn = conn.0, %client_id, "requests go together again: the broker closes the connection over none of them");
            }
            Notice::StatusRefused { topic, refusal } => {
                warn!(target: "broker", %topic, %refusal, "status refused: nothing more is told until the gateway is restarted; allow it that topic, or set mqtt_status.enabled = false");
            }
            Notice::UnknownTopic {
                client,
                addr,
                topic_id,
                reason,
            } => {
                let client = client.as_deref().unwrap_or("(QoS -1)");
                let text = no_topic(reason);
                info!(target: "client", client, %addr, topic_id, "publish dropped: {text}");
            }
            Notice::ForwarderRefused {
                forwarder,
                link,
                addr,
                reason,
                suppressed,
            } => {
                let radio = self.radio(link);
                let forwarder = forwarder.as_deref().unwrap_or("(not listed)");
                let text = match reason {
                    ForwarderRefusal::NotListed => "frames of a forwarder dropped: add it to [[forwarder]]",
                    ForwarderRefusal::Rate => {
                        "frames of a forwarder dropped: more than its packets_per_second"
                    }
                    ForwarderRefusal::Nodes => "node of a forwarder refused: more than its max_nodes",
                };
                warn!(target: "guard", forwarder, radio, %addr, reason = reason.name(), suppressed = more(suppressed), "{text}");
            }
            Notice::PublishMinusOneRefused {
                link,
                addr,
                suppressed,
            } => {
                let radio = self.radio(link);
                warn!(target: "guard", radio, %addr, suppressed = more(suppressed), "publish without a session dropped: no [[qos_minus_one]] allows it");
            }
            Notice::SameGatewayId {
                link,
                addr,
                gateway_id,
            } => {
                let radio = self.radio(link);
                warn!(target: "radio", radio, %addr, gateway_id, "another gateway has our id: give each a gateway.id of its own");
            }
            Notice::StandBy {
                link,
                gateway_id,
                missed,
            } => {
                let radio = self.radio(link);
                if missed {
                    warn!(target: "radio", radio, gateway_id, "missed the gateway that this one stands by for: takes its place");
                } else {
                    info!(target: "radio", radio, gateway_id, "the gateway that this one stands by for is back: gives it its place");
                }
            }
            Notice::AnswerTooLarge {
                link,
                addr,
                len,
                suppressed,
            } => {
                let radio = self.radio(link);
                let to = addr.map_or_else(|| "everyone".to_owned(), |addr| addr.to_string());
                warn!(target: "radio", radio, to, len, suppressed = more(suppressed), "not sent: larger than the radio carries, see its key mtu");
            }
            Notice::LinkUp { link, after } => {
                // The serial task says it too, with the modem's name.
                debug!(target: "radio", radio = self.radio(link), after = after.map(tracing::field::debug), "up");
            }
            Notice::LinkDown { link, clients } => {
                warn!(target: "radio", radio = self.radio(link), clients, "down: its clients are kept until it is back");
            }
            Notice::DutyCycle {
                link,
                used_ppm,
                limit_ppm,
                queued,
                oldest,
                wait,
            } => {
                let radio = self.radio(link);
                let (used, limit) = (percent(used_ppm), percent(limit_ppm));
                let [oldest, wait] = [oldest, wait].map(|time| Duration::from_secs(time.as_secs()));
                warn!(
                    target: "radio", radio, used, limit, queued, ?oldest, ?wait,
                    "duty cycle used up: what is to be sent waits, and answers that would come too late are left out"
                );
            }
            Notice::AirtimeLost { link } => {
                let radio = self.radio(link);
                warn!(target: "radio", radio, "what was sent before this start is not known: sends nothing until the window of its duty cycle is over");
            }
            Notice::AirtimeNotStored { link } => {
                let radio = self.radio(link);
                error!(target: "radio", radio, "what it sends cannot be recorded: sends nothing until it can");
            }
            Notice::TooLarge { client, topic, len } => {
                warn!(target: "client", %client, %topic, len, "message dropped: larger than the radio carries, see its key mtu");
            }
        }
    }
}

/// Why a predefined topic id stands for no topic, and what to do about it.
fn no_topic(reason: NoTopic) -> &'static str {
    match reason {
        NoTopic::NotConfigured => "no such predefined topic id, see [[predefined]]",
        NoTopic::NeedsClient => {
            "its topic has {client_id}, or stands in a [[client]], and a publish without a session has no client id; \
             [[qos_minus_one]] can give it one"
        }
        NoTopic::InvalidName => "its topic has {client_id}, and is no valid name with the id of this client",
    }
}

/// A time in its largest unit, as people read it: `41m`.
fn waiting(time: Duration) -> String {
    match time.as_secs() {
        0 => format!("{}ms", time.as_millis()),
        seconds @ 1..120 => format!("{seconds}s"),
        seconds @ 120..7_200 => format!("{}m", seconds / 60),
        seconds @ 7_200..172_800 => format!("{}h", seconds / 3_600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// Logs a datagram, at level `trace`: what it is, without what clients publish. Costs nothing below that level.
pub(crate) fn trace_datagram(
    direction: &str,
    radio: impl FnOnce() -> String,
    peer: impl FnOnce() -> String,
    datagram: &[u8],
) {
    if !tracing::enabled!(target: "packet", tracing::Level::TRACE) {
        return;
    }
    let (radio, peer, len) = (radio(), peer(), datagram.len());
    match sn_codec::decode_message(datagram) {
        Ok((frame, packet)) => {
            let node = frame.map(|frame| hex(frame.wireless_node_id));
            let packet = without_payload(packet);
            trace!(target: "packet", direction, radio, peer, node, len, ?packet);
        }
        Err(error) => trace!(target: "packet", direction, radio, peer, len, %error),
    }
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

fn without_payload(packet: Packet<'_>) -> Packet<'_> {
    match packet {
        Packet::Publish(publish) => Packet::Publish(sn_codec::Publish { data: &[], ..publish }),
        Packet::WillMsg(_) => Packet::WillMsg(sn_codec::WillMsg { message: &[] }),
        Packet::WillMsgUpd(_) => Packet::WillMsgUpd(sn_codec::WillMsg { message: &[] }),
        other => other,
    }
}

/// Parts per million as people read them.
fn percent(ppm: u32) -> String {
    format!("{:.2}%", f64::from(ppm) / 10_000.0)
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

/// What a radio on a serial line counted, with exported names.
pub(crate) fn serial_rows(radio: &str, stats: &RadioStats) -> Vec<(String, u64)> {
    let row = |name: &str, label: &str, value: u64| {
        (format!("snipe_radio_{name}{{radio=\"{radio}\"{label}}}"), value)
    };
    let load = |counter: &core::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let mut rows = vec![
        row("reopens_total", "", load(&stats.reopens)),
        row("reboots_total", "", load(&stats.reboots)),
        row("refusals_total", "", load(&stats.refusals)),
        row("frames_total", ",direction=\"rx\"", load(&stats.received)),
        row("frames_total", ",direction=\"tx\"", load(&stats.sent)),
        row("bytes_total", ",direction=\"rx\"", load(&stats.received_octets)),
        row("bytes_total", ",direction=\"tx\"", load(&stats.sent_octets)),
        row(
            "line_bytes_total",
            ",direction=\"rx\"",
            load(&stats.line_received_octets),
        ),
        row(
            "line_bytes_total",
            ",direction=\"tx\"",
            load(&stats.line_sent_octets),
        ),
        row("not_heard_total", "", load(&stats.not_heard)),
    ];
    rows.extend(DropReason::ALL.map(|reason| {
        let label = format!(",reason=\"{}\"", reason.name());
        row("dropped_total", &label, stats.dropped(reason))
    }));
    rows.extend(Recovery::ALL.map(|way| {
        let label = format!(",way=\"{}\"", way.name());
        row("recoveries_total", &label, stats.recoveries(way))
    }));
    rows
}

/// What the core knows of a link, with exported names.
pub(crate) fn link_rows(radio: &str, kind: &str, metrics: &LinkMetrics) -> Vec<(String, u64)> {
    let row = |name: &str, label: &str, value: u64| {
        (format!("snipe_radio_{name}{{radio=\"{radio}\"{label}}}"), value)
    };
    let mut rows = vec![
        row("up", &format!(",kind=\"{kind}\""), u64::from(metrics.up)),
        row("unsent_total", "", metrics.unsent_total),
    ];
    rows.extend(Class::ALL.map(|class| {
        let label = format!(",class=\"{}\"", class.name());
        row("tx_queue_frames", &label, metrics.queued[class as usize])
    }));
    rows.extend(NotSent::ALL.map(|reason| {
        let label = format!(",reason=\"{}\"", reason.name());
        row("dropped_total", &label, metrics.dropped[reason as usize])
    }));
    rows
}

/// One row for each name: core and adapter count some reasons under the same one.
pub(crate) fn summed(rows: &mut Vec<(String, u64)>) {
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut sums: Vec<(String, u64)> = Vec::with_capacity(rows.len());
    for (name, value) in rows.drain(..) {
        match places.get(&name).and_then(|at| sums.get_mut(*at)) {
            Some((_, sum)) => *sum += value,
            None => {
                places.insert(name.clone(), sums.len());
                sums.push((name, value));
            }
        }
    }
    *rows = sums;
}

/// How strong what a link received was, as histograms of Prometheus: each bucket holds those below it too.
pub(crate) fn signal_rows(radio: &str, metrics: &LinkMetrics) -> Vec<(String, u64)> {
    let mut rows = Vec::new();
    for (name, histogram) in [("rssi_dbm", &metrics.rssi_dbm), ("snr_db", &metrics.snr_db)] {
        let mut below = 0;
        for (at, count) in histogram.counts.iter().enumerate() {
            below += count;
            let bound = histogram
                .bounds
                .get(at)
                .map_or_else(|| "+Inf".to_owned(), i16::to_string);
            let label = format!("{{radio=\"{radio}\",le=\"{bound}\"}}");
            rows.push((format!("snipe_radio_{name}_bucket{label}"), below));
        }
        rows.push((format!("snipe_radio_{name}_count{{radio=\"{radio}\"}}"), below));
    }
    rows
}

/// What a link used of its airtime, and the sums of what it received, with exported names.
pub(crate) fn airtime_rows(radio: &str, metrics: &LinkMetrics) -> Vec<(String, f64)> {
    let row = |name: &str, label: &str, value: f64| {
        (format!("snipe_radio_{name}{{radio=\"{radio}\"{label}}}"), value)
    };
    let seconds = |micros: u64| micros as f64 / 1e6;
    let ratio = |ppm: u32| f64::from(ppm) / 1e6;
    let mut rows = vec![
        row(
            "airtime_seconds_total",
            ",direction=\"rx\"",
            seconds(metrics.rx_airtime_us),
        ),
        row(
            "airtime_seconds_total",
            ",direction=\"tx\"",
            seconds(metrics.tx_airtime_us),
        ),
        row("rssi_dbm_sum", "", metrics.rssi_dbm.sum as f64),
        row("snr_db_sum", "", metrics.snr_db.sum as f64),
    ];
    if let Some(limit) = metrics.duty_cycle_limit_ppm {
        rows.push(row("duty_cycle_ratio", "", ratio(metrics.duty_cycle_used_ppm)));
        rows.push(row("duty_cycle_limit_ratio", "", ratio(limit)));
    }
    rows
}

/// What the store counts, with exported names: what it uses, octets written today, and how many may be.
pub(crate) fn store_rows(usage: &Usage, today: u64, budget: u64) -> Vec<(String, u64)> {
    let row = |name: &str, value: u64| (format!("snipe_{name}"), value);
    vec![
        row("disk_written_bytes_total", usage.written_bytes),
        row("disk_written_today_bytes", today),
        row("disk_write_budget_bytes", budget),
        row("store_file_bytes", usage.file_bytes),
        row("store_values", usage.values),
        row("store_syncs_total", usage.syncs),
        row("store_failures_total", usage.failures),
        row("store_unreadable_total", usage.unreadable),
    ]
}

/// How long syncs took: the buckets of a histogram with their number, and its sum.
pub(crate) fn sync_rows(times: &SyncTimes) -> (Vec<(String, u64)>, (String, f64)) {
    let mut below = 0;
    let mut rows = Vec::with_capacity(times.counts.len() + 1);
    for (at, count) in times.counts.iter().enumerate() {
        below += count;
        let bound = SyncTimes::BOUNDS.get(at);
        let bound = bound.map_or_else(|| "+Inf".to_owned(), |bound| bound.as_secs_f64().to_string());
        rows.push((
            format!("snipe_spool_sync_seconds_bucket{{le=\"{bound}\"}}"),
            below,
        ));
    }
    rows.push(("snipe_spool_sync_seconds_count".to_owned(), below));
    (
        rows,
        ("snipe_spool_sync_seconds_sum".to_owned(), times.sum.as_secs_f64()),
    )
}

/// What the embedded broker counted, with exported names.
pub(crate) fn broker_rows(stats: &EmbeddedStats) -> Vec<(String, u64)> {
    let row = |name: &str, value: u64| (format!("snipe_broker_{name}"), value);
    let dropped = |reason: &str, value: u64| {
        (
            format!("snipe_broker_dropped_total{{reason=\"{reason}\"}}"),
            value,
        )
    };
    vec![
        row("clients", stats.clients_connected as u64),
        row("sessions", stats.sessions as u64),
        row("subscriptions", stats.subscriptions as u64),
        row("retained", stats.retained as u64),
        row("packets_received_total", stats.packets_received),
        row("packets_sent_total", stats.packets_sent),
        row("publish_received_total", stats.publish_received),
        row("publish_sent_total", stats.publish_sent),
        row("bytes_received_total", stats.bytes_received),
        row("refused_full_total", stats.refused_full),
        row("clients_too_slow_total", stats.clients_too_slow),
        row("sessions_expired_total", stats.sessions_expired),
        dropped("qos0", stats.dropped_qos0),
        dropped("full", stats.dropped_full),
        dropped("offline", stats.dropped_offline),
        dropped("disconnected", stats.dropped_disconnected),
        dropped("expired", stats.dropped_expired),
        dropped("too_large", stats.dropped_too_large),
        dropped("retained", stats.dropped_retained),
        dropped("unshared", stats.dropped_unshared),
        row("held_over_total", stats.held_over),
        row("sessions_not_restored_total", stats.sessions_not_restored),
        row("sessions_not_kept_total", stats.sessions_not_kept),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::*;
    use gateway_core::link_metrics::Histogram;
    use std::io::Write;
    use std::sync::Arc;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Write for Captured {
        fn write(&mut self, octets: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(octets);
            Ok(octets.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// What a format makes of two events.
    fn written(format: LogFormat) -> String {
        let captured = Captured::default();
        let writer = captured.clone();
        let layer = layer(
            format,
            fmt::layer().with_writer(move || writer.clone()).with_ansi(false),
        );
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            info!(target: "client", client = "pump-7", keep_alive = 300, "connected");
            warn!(target: "broker", error = "connection reset by peer", "link down");
        });
        String::from_utf8(captured.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn logfmt_is_pairs_and_quotes_what_needs_it() {
        let text = written(LogFormat::Logfmt);
        let lines: Vec<&str> = text.lines().map(|line| line.split_once(' ').unwrap().1).collect();
        assert_eq!(
            lines,
            [
                "level=info target=client msg=connected client=pump-7 keep_alive=300",
                "level=warn target=broker msg=\"link down\" error=\"connection reset by peer\"",
            ]
        );
    }

    /// The lines that a level lets through, without their times.
    fn lines(level: tracing::level_filters::LevelFilter, log: impl FnOnce()) -> Vec<String> {
        let captured = Captured::default();
        let writer = captured.clone();
        let layer = layer(
            LogFormat::Logfmt,
            fmt::layer().with_writer(move || writer.clone()).with_ansi(false),
        );
        let filter = Targets::new().with_default(level);
        let subscriber = tracing_subscriber::registry().with(layer.with_filter(filter));
        tracing::subscriber::with_default(subscriber, log);
        let text = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
        text.lines()
            .map(|line| line.split_once(' ').unwrap().1.to_owned())
            .collect()
    }

    #[test]
    fn sleepers_are_seen_waking_and_taking_their_messages() {
        use gateway_core::io::DropReason;
        use gateway_core::peer::{LinkAddr, PeerAddr};
        use tracing::level_filters::LevelFilter;

        let client: Arc<str> = "pump-7".into();
        let at = |port: u16, node: Option<Box<[u8]>>| PeerAddr {
            addr: LinkAddr::Udp(([10, 0, 0, 1], port).into()),
            node,
        };
        let told = lines(LevelFilter::INFO, || {
            let mut notices = Notices::new(vec!["udp0".into()]);
            for notice in [
                Notice::Awake {
                    client: client.clone(),
                    buffered: 0,
                },
                Notice::Awake {
                    client: client.clone(),
                    buffered: 2,
                },
                Notice::Delivered {
                    client: client.clone(),
                    messages: 2,
                    bytes: 61,
                    waited: Duration::from_secs(41 * 60 + 7),
                },
                Notice::Dropped {
                    client: client.clone(),
                    topic: "pump/set".into(),
                    reason: DropReason::Expired,
                },
                Notice::AddressChanged {
                    client: client.clone(),
                    link: LinkId(0),
                    old: at(1, None),
                    new: at(2, Some([0x17].into())),
                },
            ] {
                notices.log(Instant::START, notice);
            }
        });
        assert_eq!(
            told,
            [
                "level=info target=client msg=awake client=pump-7 buffered=2",
                "level=info target=client msg=delivered client=pump-7 messages=2 bytes=61 waited=41m",
                "level=info target=client msg=\"message dropped: see [sleep]\" client=pump-7 topic=pump/set reason=\"too old\"",
                "level=info target=client msg=\"address changed\" client=pump-7 radio=udp0 old=10.0.0.1:1 new=10.0.0.1:2/17",
            ]
        );
    }

    #[test]
    fn trace_shows_datagrams_without_what_they_carry() {
        use tracing::level_filters::LevelFilter;

        let datagram = [0x0B, 0x0C, 0x22, b'a', b'b', 1, 2, b'2', b'1', b'.', b'5'];
        let log = || trace_datagram("in", || "udp0".into(), || "10.0.0.1:1".into(), &datagram);
        let told = lines(LevelFilter::TRACE, log);
        let [line] = &told[..] else { panic!("{told:?}") };
        assert!(
            line.starts_with(
                "level=trace target=packet direction=in radio=udp0 peer=10.0.0.1:1 len=11 packet="
            ),
            "{line}"
        );
        assert!(line.contains("Publish") && !line.contains("50"), "{line}");
        // Nothing is even asked for below that level.
        let unasked = || -> String { panic!("not below trace") };
        let told = lines(LevelFilter::DEBUG, || {
            trace_datagram("in", unasked, unasked, &datagram);
        });
        assert_eq!(told, [""; 0]);
    }

    #[test]
    fn a_client_id_forges_no_line_and_sends_nothing_to_a_terminal() {
        for format in [LogFormat::Text, LogFormat::Logfmt] {
            for ansi in [false, true] {
                let captured = Captured::default();
                let writer = captured.clone();
                let layer = layer(
                    format,
                    fmt::layer().with_writer(move || writer.clone()).with_ansi(ansi),
                );
                let client = "evil\n2026-01-01T00:00:00Z ERROR gateway: \u{1b}[31mgone\u{9b}1m\u{202e}";
                tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
                    info!(target: "client", %client, "refused {client}");
                    info!(target: "client", client, "refused");
                });
                let text = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
                assert_eq!(text.lines().count(), 2, "{text}");
                assert!(!text.contains("\u{1b}[31m"), "{text:?}");
                assert!(!text.contains(['\u{9b}', '\u{202e}']), "{text:?}");
                assert!(
                    text.contains(r"evil\n2026") && text.contains(r"\u{1b}[31m"),
                    "{text}"
                );
            }
        }
    }

    #[test]
    fn text_is_a_message_and_its_fields() {
        let text = written(LogFormat::Text);
        let lines: Vec<&str> = text
            .lines()
            .map(|line| line.split_once("  ").unwrap().1)
            .collect();
        assert_eq!(
            lines,
            [
                "INFO client: connected client=\"pump-7\" keep_alive=300",
                "WARN broker: link down error=\"connection reset by peer\"",
            ]
        );
    }

    #[test]
    fn json_is_one_flat_object_a_line() {
        let text = written(LogFormat::Json);
        let first: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!(
            (&first["client"], &first["message"]),
            (&"pump-7".into(), &"connected".into())
        );
        assert_eq!(text.lines().count(), 2);
    }

    #[test]
    fn rows_of_one_name_are_one_row() {
        let named = |name: &str, value| (name.to_owned(), value);
        let mut rows = vec![named("a", 1), named("b", 2), named("a", 3)];
        summed(&mut rows);
        assert_eq!(rows, [named("a", 4), named("b", 2)]);
    }

    #[test]
    fn each_bucket_of_a_histogram_holds_those_below() {
        let metrics = LinkMetrics {
            snr_db: Histogram {
                bounds: &[-5, 5],
                counts: vec![1, 2, 4],
                sum: 21,
            },
            ..LinkMetrics::default()
        };
        let rows = signal_rows("r", &metrics);
        let snr: Vec<(&str, u64)> = rows
            .iter()
            .filter(|(name, _)| name.contains("snr"))
            .map(|(name, value)| (name.as_str(), *value))
            .collect();
        assert_eq!(
            snr,
            [
                ("snipe_radio_snr_db_bucket{radio=\"r\",le=\"-5\"}", 1),
                ("snipe_radio_snr_db_bucket{radio=\"r\",le=\"5\"}", 3),
                ("snipe_radio_snr_db_bucket{radio=\"r\",le=\"+Inf\"}", 7),
                ("snipe_radio_snr_db_count{radio=\"r\"}", 7),
            ]
        );
    }

    #[test]
    fn syncs_are_told_as_a_histogram_in_seconds() {
        let mut times = SyncTimes {
            sum: Duration::from_millis(1_007),
            ..SyncTimes::default()
        };
        times.counts[1] = 2;
        times.counts[9] = 1;
        let (rows, sum) = sync_rows(&times);
        let of = |le: &str| {
            let name = format!("snipe_spool_sync_seconds_bucket{{le=\"{le}\"}}");
            rows.iter().find(|(row, _)| *row == name).unwrap().1
        };
        assert_eq!([of("0.001"), of("0.0025"), of("2.5"), of("+Inf")], [0, 2, 2, 3]);
        assert_eq!(
            rows.last().unwrap(),
            &("snipe_spool_sync_seconds_count".to_owned(), 3)
        );
        assert_eq!(sum, ("snipe_spool_sync_seconds_sum".to_owned(), 1.007));
    }

    #[test]
    fn airtime_is_told_in_seconds_and_shares() {
        let metrics = LinkMetrics {
            tx_airtime_us: 1_500_000,
            duty_cycle_used_ppm: 6_200,
            duty_cycle_limit_ppm: Some(10_000),
            ..LinkMetrics::default()
        };
        let rows = airtime_rows("r", &metrics);
        let of = |name: &str| rows.iter().find(|(row, _)| row.starts_with(name)).unwrap().1;
        assert_eq!(
            of("snipe_radio_airtime_seconds_total{radio=\"r\",direction=\"tx\"}"),
            1.5
        );
        assert_eq!(of("snipe_radio_duty_cycle_ratio"), 0.0062);
        assert_eq!(of("snipe_radio_duty_cycle_limit_ratio"), 0.01);
    }

    #[test]
    fn every_line_has_one_of_the_targets() {
        fn look(dir: &Path, found: &mut BTreeSet<String>) {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    look(&path, found);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let text = fs::read_to_string(&path).unwrap();
                    let after = text.split("target: \"").skip(1);
                    found.extend(after.filter_map(|text| Some(text.split_once('"')?.0.to_owned())));
                }
            }
        }
        let gateway = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut found = BTreeSet::new();
        for crate_ in [
            "src",
            "core/src",
            "store/src",
            "../broker/src",
            "../radio-adapters/src",
        ] {
            look(&gateway.join(crate_), &mut found);
        }
        // This test's own.
        found.remove("\\");
        assert_eq!(found, TARGETS.map(str::to_owned).into());
    }

    #[test]
    fn a_flood_of_one_kind_is_cut_short() {
        let mut notices = Notices::new(vec!["udp0".into()]);
        let lost = || Notice::Lost {
            client: "a".into(),
            will: false,
        };
        for _ in 0..100 {
            notices.log(Instant::from_micros(1), lost());
        }
        assert_eq!(notices.kinds[3].suppressed, 80);
        notices.log(Instant::from_micros(1_000_000), lost());
        assert_eq!(notices.kinds[3].suppressed, 0);
    }
}
