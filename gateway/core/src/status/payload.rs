//! What stands in a status topic, and what the topic is called.

use core::fmt::{Display, Write as _};
use core::hash::Hasher as _;

use rustc_hash::FxHasher;

use super::Clock;
use crate::client::{Client, State};
use crate::config::StatusConfig;
use crate::io::RadioFacts;
use crate::link_metrics::{LinkMetrics, NotSent};
use crate::metrics::{Metrics, SpoolDrop};
use crate::peer::{LinkId, PeerAddr};
use crate::time::Instant;

/// A payload, and a digest of the part of it that is worth telling at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Payload {
    pub(super) text: String,
    pub(super) telling: u64,
}

impl Payload {
    fn new(object: Object, telling: &str) -> Self {
        Payload {
            text: object.finish(),
            telling: digest(telling.as_bytes()),
        }
    }
}

pub(super) fn digest(octets: &[u8]) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write(octets);
    hasher.finish()
}

/// What the broker publishes when the gateway is gone, and the gateway itself when it stops.
pub(super) const OFFLINE: &str = r#"{"state":"offline"}"#;

/// The gateway is there.
pub(super) fn online(
    config: &StatusConfig,
    id: u8,
    started: Option<u64>,
    shown: usize,
    m: &Metrics,
) -> Payload {
    let clients = Object::new()
        .number("total", m.clients)
        .number("active", m.clients_active)
        .number("asleep", m.clients_asleep)
        .number("awake", m.clients_awake)
        .number("connecting", m.clients_connecting)
        .number("disconnected", m.clients_disconnected)
        .number("lost", m.clients_lost)
        .number("shown", shown);
    let object = Object::new()
        .text("state", "online")
        .number("gateway", id)
        .text("version", &config.version)
        .optional("started", started)
        .object("clients", clients);
    Payload::new(object, "online")
}

/// The connections that carry what clients publish.
pub(super) fn broker(opened: u64, m: &Metrics) -> Payload {
    let state = match m.broker_connections_up {
        0 => "down",
        up if up < opened => "partly up",
        _ => "up",
    };
    let object = Object::new()
        .text("state", state)
        .number("connections", opened)
        .number("up", m.broker_connections_up)
        .number("lost_total", m.broker_down_total)
        .number("in_flight", m.in_flight)
        .number("queue_messages", m.queue_messages)
        .number("queue_bytes", m.queue_bytes)
        .number("filters", m.filters)
        .number("settled_total", m.publish_settled_total)
        .number("refused_total", m.publish_refused_total)
        .number("messages_total", m.messages_total);
    Payload::new(object, state)
}

/// What waits on disk. `disk` is whether it works; `None` is a gateway that keeps nothing.
pub(super) fn spool(disk: Option<bool>, oldest: Option<u64>, m: &Metrics) -> Payload {
    let disk = match disk {
        None => "none",
        Some(true) => "works",
        Some(false) => "fails",
    };
    let dropped = SpoolDrop::ALL.iter().fold(Object::new(), |object, reason| {
        object.number(reason.name(), m.spool_dropped[*reason as usize])
    });
    let object = Object::new()
        .text("disk", disk)
        .number("messages", m.spool_messages)
        .number("bytes", m.spool_bytes)
        .optional("oldest", oldest)
        .number("spooled_total", m.publish_spooled_total)
        .object("dropped_total", dropped);
    Payload::new(object, disk)
}

/// A radio.
pub(super) fn radio(config: &StatusConfig, link: LinkId, m: &LinkMetrics) -> Payload {
    let state = if m.up { "up" } else { "down" };
    let radio = config.radios.get(usize::from(link.0));
    let mut object = Object::new()
        .text("radio", radio.map_or("?", |radio| &radio.name))
        .text("kind", radio.map_or("?", |radio| &radio.kind))
        .text("state", state)
        .number("waiting", m.queued.iter().sum::<u64>());
    let dropped = NotSent::ALL.iter().fold(Object::new(), |object, reason| {
        object.number(reason.name(), m.dropped[*reason as usize])
    });
    object = object.object("dropped_total", dropped);
    if let Some(limit) = m.duty_cycle_limit_ppm {
        object = object
            .number("rx_airtime_seconds", m.rx_airtime_us / 1_000_000)
            .number("tx_airtime_seconds", m.tx_airtime_us / 1_000_000)
            .number("duty_cycle", ratio(m.duty_cycle_used_ppm))
            .number("duty_cycle_limit", ratio(limit));
    }
    Payload::new(object, state)
}

fn ratio(ppm: u32) -> f64 {
    f64::from(ppm) / 1e6
}

/// A client. `None` while its handshake is not over: nothing is known of it yet.
pub(super) fn client(config: &StatusConfig, clock: Option<&Clock>, client: &Client) -> Option<Payload> {
    let (state, time) = match client.state {
        State::Setup(_) => return None,
        State::Active => ("active", Some(("keep_alive", client.keep_alive))),
        State::Asleep { duration } => ("asleep", Some(("sleep", duration))),
        State::Awake(_) => ("awake", None),
        State::Disconnected | State::Gone => ("disconnected", None),
        State::Lost => ("lost", None),
    };
    let mut object = Object::new().text("client", &client.id).text("state", state);
    if let Some((name, seconds)) = time {
        object = object.number(name, seconds);
    }
    if let Some(via) = &client.via {
        let radio = config.radios.get(usize::from(via.link.0));
        object = object
            .text("radio", radio.map_or("?", |radio| &radio.name))
            .text("address", &PeerAddr::from(via).to_string());
    }
    let facts = RadioFacts::from(client.facts);
    let object = object
        .optional("seen", clock.map(|clock| clock.unix_seconds(client.last_seen)))
        .number("buffered", client.down.len())
        .optional("rssi_dbm", facts.rssi_dbm)
        .optional("snr_db", facts.snr_db)
        .optional("hops", facts.hops);
    Some(Payload::new(object, state))
}

/// The levels of a topic that a name becomes: one level whatever is in it. What is neither part of a level nor allowed
/// in a topic stands there as `%` and two hexadecimal digits for each octet.
pub(super) fn level(name: &str) -> String {
    let mut level = String::with_capacity(name.len());
    for c in name.chars() {
        if matches!(c, '/' | '+' | '#' | '%') || !sn_codec::topic::is_carried(c) {
            for octet in c.encode_utf8(&mut [0; 4]).bytes() {
                // Writing to a string does not fail.
                let _ = write!(level, "%{octet:02X}");
            }
        } else {
            level.push(c);
        }
    }
    level
}

/// The name that became this level; `None` if none does.
pub(super) fn name(level: &str) -> Option<String> {
    let mut octets = Vec::with_capacity(level.len());
    let mut rest = level.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            octets.push(*first);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        octets.push(u8::from_str_radix(core::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = after;
    }
    String::from_utf8(octets).ok()
}

/// A JSON object that is being written. Keys are ours and need no escapes.
struct Object(String);

impl Object {
    fn new() -> Self {
        Object(String::from("{"))
    }

    fn key(mut self, key: &str) -> Self {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        self.0.push('"');
        self.0.push_str(key);
        self.0.push_str("\":");
        self
    }

    fn number(self, key: &str, number: impl Display) -> Self {
        let mut object = self.key(key);
        // Writing to a string does not fail.
        let _ = write!(object.0, "{number}");
        object
    }

    fn optional(self, key: &str, number: Option<impl Display>) -> Self {
        match number {
            Some(number) => self.number(key, number),
            None => self,
        }
    }

    fn object(self, key: &str, inner: Object) -> Self {
        let mut object = self.key(key);
        object.0.push_str(&inner.finish());
        object
    }

    /// RFC 8259, section 7.
    fn text(self, key: &str, text: &str) -> Self {
        let mut object = self.key(key);
        object.0.push('"');
        for c in text.chars() {
            match c {
                '"' | '\\' => object.0.extend(['\\', c]),
                '\0'..='\x1F' => {
                    // Writing to a string does not fail.
                    let _ = write!(object.0, "\\u{:04x}", u32::from(c));
                }
                c => object.0.push(c),
            }
        }
        object.0.push('"');
        object
    }

    fn finish(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

impl Clock {
    /// Seconds since 1970.
    pub(super) fn unix_seconds(&self, at: Instant) -> u64 {
        let past = self.at.since(at).as_millis() as u64;
        let ahead = at.since(self.at).as_millis() as u64;
        (self.unix_ms + ahead).saturating_sub(past) / 1000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_one_level_and_comes_back_from_it() {
        for (text, wanted) in [
            ("pump-7", "pump-7"),
            ("a/b", "a%2Fb"),
            ("+", "%2B"),
            ("#", "%23"),
            ("100%", "100%25"),
            ("a\0b", "a%00b"),
            ("käfer", "käfer"),
            ("a\u{FFFE}\u{85}", "a%EF%BF%BE%C2%85"),
            ("%2F", "%252F"),
        ] {
            assert_eq!(level(text), wanted);
            assert_eq!(name(wanted).as_deref(), Some(text));
        }
        for nobodys in ["%", "%4", "%zz", "%ff", "a%"] {
            assert_eq!(name(nobodys), None, "{nobodys}");
        }
    }

    #[test]
    fn text_in_json_is_escaped() {
        let object = Object::new().text("a", "\"\\\n\u{1F}é").number("b", 0.0062);
        assert_eq!(
            object.finish(),
            "{\"a\":\"\\\"\\\\\\u000a\\u001fé\",\"b\":0.0062}"
        );
    }

    #[test]
    fn clock_tells_times_before_and_after_it_was_set() {
        let clock = Clock {
            at: Instant::from_micros(10_000_000),
            unix_ms: 1_700_000_000_500,
        };
        let at = |seconds: u64| clock.unix_seconds(Instant::from_micros(seconds * 1_000_000));
        assert_eq!(
            [at(9), at(10), at(12)],
            [1_699_999_999, 1_700_000_000, 1_700_000_002]
        );
    }
}
