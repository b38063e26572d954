//! What the core tells, and datagrams, as lines of the log.

use core::time::Duration;

use gateway_core::SpoolDrop;
use gateway_core::io::{ForwarderRefusal, NoTopic, Notice};
use gateway_core::peer::LinkId;
use gateway_core::time::Instant;
use sn_codec::Packet;
use tracing::{debug, error, info, trace, warn};

/// Lines of one kind that are logged in a second; more are counted and said later.
const LINES_PER_SECOND: u32 = 20;

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

#[cfg(test)]
mod tests {
    use super::*;

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
