//! `snipe decode`: explains a datagram field by field.
//!
//! The fields are read here once more, apart from the codec, because a malformed datagram has fields too; whether
//! it is one, where, and what answers it, is the codec's word.

use std::{
    fmt,
    io::{self, BufRead, Write},
    process::ExitCode,
};

use clap::Args;
use sn_codec::{DecodeError, Encapsulation, MsgType, ReturnCode, decode_message};

use crate::{
    cli::usage_error,
    tools::describe::{OneLine, reason},
};

const HELP: &str = "\
Spaces, colons and 0x are ignored, so that hex can be pasted from a log or a
packet capture. With - each line of standard input is a datagram. In errors,
octets are counted from 0.

Examples:
  snipe decode 0b0c226162010232312e35
  snipe decode 05:fe:00:00:07 02:16
  tshark -r in.pcap -d udp.port==1883,mqttsn -T fields -e udp.payload | snipe decode -

Exit codes:
  0    a message that a gateway takes
  1    a gateway refuses it
  2    wrong usage, such as what is not hex";

/// `snipe decode`.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct DecodeArgs {
    /// The datagram in hex, in one or more pieces; - reads standard input
    #[arg(required = true)]
    hex: Vec<String>,
}

/// Explains the datagrams on stdout; fails if one of them is malformed.
pub(crate) fn run(args: &DecodeArgs) -> ExitCode {
    let lines = match read_lines(args) {
        Ok(lines) => lines,
        Err(error) => {
            eprintln!("snipe: cannot read standard input: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut datagrams = Vec::new();
    for line in lines {
        match parse_hex(&line) {
            Ok(datagram) => datagrams.push(datagram),
            Err(message) => return usage_error("decode", &message),
        }
    }
    let mut all_valid = true;
    let mut out = io::stdout().lock();
    for (nth, datagram) in datagrams.iter().enumerate() {
        let explanation = Explanation::of(datagram);
        all_valid &= explanation.verdict.is_ok();
        let gap = if nth > 0 { "\n" } else { "" };
        // Closed by `| head`: enough was read.
        if write!(out, "{gap}{explanation}").is_err() {
            break;
        }
    }
    if all_valid {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// One line of hex for each datagram.
fn read_lines(args: &DecodeArgs) -> io::Result<Vec<String>> {
    if args.hex == ["-"] {
        let lines: Vec<String> = io::stdin().lock().lines().collect::<Result<_, _>>()?;
        Ok(lines.into_iter().filter(|line| !line.trim().is_empty()).collect())
    } else {
        Ok(vec![args.hex.join(" ")])
    }
}

/// Hex in any of the usual notations.
fn parse_hex(text: &str) -> Result<Vec<u8>, String> {
    let mut datagram = Vec::new();
    for piece in text.split(|c: char| c.is_whitespace() || c == ':') {
        let piece = piece
            .strip_prefix("0x")
            .or_else(|| piece.strip_prefix("0X"))
            .unwrap_or(piece);
        let mut digits = Vec::with_capacity(piece.len());
        for c in piece.chars() {
            let digit = c
                .to_digit(16)
                .ok_or_else(|| format!("{c:?} in {piece:?} is not a hex digit"))?;
            digits.push(digit as u8);
        }
        // Not guessed at: `5:fe` may have lost a digit.
        if digits.len() % 2 == 1 {
            return Err(format!(
                "{piece:?} has an odd number of hex digits, and an octet has two"
            ));
        }
        datagram.extend(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]));
    }
    Ok(datagram)
}

/// A datagram, explained.
struct Explanation<'a> {
    rows: Vec<Row<'a>>,
    /// The codec's: an error comes with the node it would be answered to, if a forwarder brought it.
    verdict: Result<(), (DecodeError, Option<Encapsulation<'a>>)>,
}

/// Some octets and what they mean.
struct Row<'a> {
    octets: &'a [u8],
    text: String,
}

impl<'a> Explanation<'a> {
    fn of(datagram: &'a [u8]) -> Explanation<'a> {
        let mut reader = Reader {
            rest: datagram,
            rows: Vec::new(),
        };
        // Nothing more to read is the ordinary end of a truncated message.
        let _ = reader.datagram();
        reader.leftover("not read");
        let verdict = match decode_message(datagram) {
            Ok(_) => Ok(()),
            Err(error) => {
                let encapsulation = Encapsulation::split(datagram).ok().and_then(|(header, _)| header);
                Err((error, encapsulation))
            }
        };
        Explanation {
            rows: reader.rows,
            verdict,
        }
    }
}

/// Octets in one line of the hex column.
const PER_LINE: usize = 16;

impl fmt::Display for Explanation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let longest = self
            .rows
            .iter()
            .map(|row| row.octets.len().min(PER_LINE))
            .max()
            .unwrap_or(0);
        let width = (2 * longest).max(8);
        for row in &self.rows {
            let mut lines = row.octets.chunks(PER_LINE);
            writeln!(
                f,
                "{:width$}  {}",
                hex(lines.next().unwrap_or_default()),
                row.text
            )?;
            for line in lines {
                writeln!(f, "{}", hex(line))?;
            }
        }
        let Err((error, encapsulation)) = &self.verdict else {
            return Ok(());
        };
        if !self.rows.is_empty() {
            writeln!(f)?;
        }
        writeln!(
            f,
            "error at octet {}: {} ({})",
            error.offset,
            error.kind,
            error.kind.name()
        )?;
        match &error.answer {
            None => writeln!(f, "a gateway drops it without an answer and counts it"),
            Some(answer) => {
                let mut datagram = Vec::new();
                if let Some(header) = encapsulation {
                    Encapsulation { radius: 0, ..*header }.encode(&mut datagram);
                }
                answer.encode(&mut datagram);
                writeln!(f, "a gateway answers {}: {}", hex(&datagram), OneLine(answer))
            }
        }
    }
}

/// Reads fields from the front and notes what they mean.
///
/// The methods give `None` where the datagram ends too early; what is there was noted then.
struct Reader<'a> {
    rest: &'a [u8],
    rows: Vec<Row<'a>>,
}

/// Which flags count in a message (§5.3.4); the bits are in the order of the octet.
#[derive(Clone, Copy)]
struct Flags {
    used: u8,
    /// What topic id type 00 stands for, where the type counts.
    normal: Option<&'static str>,
}

const DUP: u8 = 0x80;
const QOS: u8 = 0x60;
const RETAIN: u8 = 0x10;
const WILL: u8 = 0x08;
const CLEAN: u8 = 0x04;
const TOPIC_TYPE: u8 = 0x03;

const FLAGS: [(u8, &str); 6] = [
    (DUP, "dup"),
    (QOS, "qos"),
    (RETAIN, "retain"),
    (WILL, "will"),
    (CLEAN, "clean"),
    (TOPIC_TYPE, "topic-type"),
];

impl<'a> Reader<'a> {
    /// A message, encapsulated or not.
    fn datagram(&mut self) -> Option<()> {
        let whole = self.rest;
        match whole {
            // §5.5: Length counts this header only, and is one octet.
            [length, 0xFE, ..] if *length > 1 => {
                self.take(1, "length", |_| format!("length {length} (of the encapsulation)"))?;
                self.take(1, "type", |_| {
                    "ENCAPSULATED  a forwarder sends this for a wireless node".to_owned()
                })?;
                self.octet("control", |ctrl| format!("control  radius={}", ctrl & 0x03))?;
                let len = usize::from(*length).saturating_sub(3);
                self.take(len, "wireless node id", |id| {
                    if id.is_empty() {
                        "wireless node id empty".to_owned()
                    } else {
                        "wireless node id".to_owned()
                    }
                })?;
                self.message()
            }
            _ => self.message(),
        }
    }

    /// One message with its header (§5.2).
    fn message(&mut self) -> Option<()> {
        let whole = self.rest;
        let (length, form, header) = match whole {
            [0x01, high, low, ..] => (u16::from_be_bytes([*high, *low]), " (three-octet form)", 4),
            [0x01, ..] => {
                self.take(3, "length", |_| String::new())?;
                return None;
            }
            [length, ..] => (u16::from(*length), "", 2),
            [] => {
                self.note("length missing");
                return None;
            }
        };
        let length = usize::from(length);
        // Paho's encoder states 255 in the long form where it sends 257.
        let repaired = header == 4 && length == 255 && whole.len() == 257;
        let remark = if repaired {
            ", taken as 257: Paho clients state 255 here".to_owned()
        } else if length != whole.len() {
            format!(", found {}", whole.len())
        } else {
            String::new()
        };
        self.take(header - 1, "length", |_| format!("length {length}{form}{remark}"))?;
        let code = self.octet("type", |code| match MsgType::from_octet(code) {
            Some(msg_type) => msg_type.name().to_owned(),
            None => format!("reserved message type 0x{code:02x}"),
        })?;
        let msg_type = MsgType::from_octet(code)?;
        // Octets beyond the stated length are no part of the body.
        let end = if repaired { whole.len() } else { length };
        let body_len = end.checked_sub(header)?.min(self.rest.len());
        let (body, beyond) = self.rest.split_at(body_len);
        self.rest = body;
        let read = self.body(msg_type);
        if read.is_some() {
            self.leftover("too many");
        }
        self.leftover("not read");
        self.rest = beyond;
        self.leftover("beyond the length");
        read
    }

    /// The fields of a message (§5.4).
    fn body(&mut self, msg_type: MsgType) -> Option<()> {
        match msg_type {
            MsgType::Advertise => {
                self.octet("gateway id", |id| format!("gateway id {id}"))?;
                self.number("duration", |s| format!("duration {s} s to the next ADVERTISE"))?;
            }
            MsgType::SearchGw => {
                self.octet("radius", |radius| match radius {
                    0 => "radius 0 (the whole network)".to_owned(),
                    hops => format!("radius {hops}"),
                })?;
            }
            MsgType::GwInfo => {
                self.octet("gateway id", |id| format!("gateway id {id}"))?;
                if !self.rest.is_empty() {
                    self.all(|_| "gateway address (network dependent)".to_owned());
                }
            }
            MsgType::Connect => {
                self.flags(Flags {
                    used: WILL | CLEAN,
                    normal: None,
                })?;
                self.octet("protocol id", |id| match id {
                    1 => "protocol id 1".to_owned(),
                    id => format!("protocol id {id} (MQTT-SN 1.2 has 1)"),
                })?;
                self.number("keep-alive", |seconds| match seconds {
                    0 => "keep-alive 0 (off)".to_owned(),
                    s => format!("keep-alive {s} s"),
                })?;
                self.all(|id| format!("client id {}", text(id)));
            }
            MsgType::Connack | MsgType::WillTopicResp | MsgType::WillMsgResp => self.return_code()?,
            MsgType::WillTopicReq | MsgType::WillMsgReq | MsgType::Pingresp => {}
            MsgType::WillTopic | MsgType::WillTopicUpd => {
                if self.rest.is_empty() {
                    self.note("no will: deletes topic and message");
                } else {
                    self.flags(Flags {
                        used: QOS | RETAIN,
                        normal: None,
                    })?;
                    if self.rest.is_empty() {
                        self.note("will topic empty: no will");
                    } else {
                        self.all(|name| format!("will topic {}", text(name)));
                    }
                }
            }
            MsgType::WillMsg | MsgType::WillMsgUpd => {
                self.all(|data| format!("will message {}", payload(data)));
            }
            MsgType::Register => {
                self.topic_id()?;
                self.msg_id()?;
                self.all(|name| format!("topic name {}", text(name)));
            }
            MsgType::Regack | MsgType::Puback => {
                self.topic_id()?;
                self.msg_id()?;
                self.return_code()?;
            }
            MsgType::Publish => {
                let flags = self.flags(Flags {
                    used: DUP | QOS | RETAIN | TOPIC_TYPE,
                    normal: Some("normal id"),
                })?;
                self.topic(flags)?;
                let unused = matches!(flags & QOS, 0x00 | 0x60);
                self.number("msg id", |id| match id {
                    1.. if unused => format!("msg id {id} (ignored: QoS 0 and -1 have none)"),
                    id => format!("msg id {id}"),
                })?;
                self.all(|data| format!("payload {}", payload(data)));
            }
            MsgType::Pubcomp | MsgType::Pubrec | MsgType::Pubrel | MsgType::Unsuback => self.msg_id()?,
            MsgType::Subscribe => {
                let flags = self.flags(Flags {
                    used: DUP | QOS | TOPIC_TYPE,
                    normal: Some("topic name"),
                })?;
                self.msg_id()?;
                self.topic_filter(flags)?;
            }
            MsgType::Suback => {
                self.flags(Flags {
                    used: QOS,
                    normal: None,
                })?;
                self.topic_id()?;
                self.msg_id()?;
                self.return_code()?;
            }
            MsgType::Unsubscribe => {
                let flags = self.flags(Flags {
                    used: TOPIC_TYPE,
                    normal: Some("topic name"),
                })?;
                self.msg_id()?;
                self.topic_filter(flags)?;
            }
            MsgType::Pingreq => {
                if !self.rest.is_empty() {
                    self.all(|id| format!("client id {} (wakes up and asks for its messages)", text(id)));
                }
            }
            MsgType::Disconnect => {
                if !self.rest.is_empty() {
                    self.number("duration", |seconds| match seconds {
                        0 => "duration 0 (no sleep)".to_owned(),
                        s => format!("duration {s} s (goes to sleep)"),
                    })?;
                    // A widely copied Arduino library sends these.
                    if self.rest.len() == 2 {
                        self.all(|_| "2 stray octets, ignored".to_owned());
                    }
                }
            }
            // Nested: not defined, so what follows means nothing.
            MsgType::Encapsulated => return None,
        }
        Some(())
    }

    fn flags(&mut self, flags: Flags) -> Option<u8> {
        self.octet("flags", |octet| {
            let values = FLAGS.map(|(mask, name)| match mask {
                QOS if octet & QOS == QOS => "qos=-1".to_owned(),
                QOS => format!("qos={}", (octet & QOS) >> 5),
                TOPIC_TYPE => format!("topic-type={:02b}", octet & TOPIC_TYPE),
                mask => format!("{name}={}", u8::from(octet & mask != 0)),
            });
            let mut line = format!("flags  {}", values.join(" "));
            if let Some(normal) = flags.normal {
                let kinds = [normal, "predefined id", "short name", "reserved"];
                line += &format!(" ({})", kinds[usize::from(octet & TOPIC_TYPE)]);
            }
            let unused: Vec<_> = FLAGS
                .iter()
                .filter(|(mask, _)| octet & mask & !flags.used != 0)
                .map(|(_, name)| *name)
                .collect();
            if !unused.is_empty() {
                line += &format!("  (ignored here: {})", unused.join(", "));
            }
            line
        })
    }

    /// The two octets that name the topic of a PUBLISH.
    fn topic(&mut self, flags: u8) -> Option<()> {
        match flags & TOPIC_TYPE {
            0x01 => self
                .number("topic id", |id| format!("predefined {}", topic_id(id)))
                .map(|_| ()),
            0x02 => self.take(2, "topic", |name| format!("topic {}", text(name))),
            _ => self.topic_id(),
        }
    }

    /// What a SUBSCRIBE or UNSUBSCRIBE is about; ids and short names have two octets.
    fn topic_filter(&mut self, flags: u8) -> Option<()> {
        match flags & TOPIC_TYPE {
            0x01 => self
                .number("predefined topic id", |id| format!("predefined {}", topic_id(id)))
                .map(|_| ()),
            0x02 => self.take(2, "topic", |name| format!("topic {}", text(name))),
            0x03 => {
                self.all(|_| "topic of a reserved type".to_owned());
                Some(())
            }
            _ => {
                self.all(|name| format!("topic filter {}", text(name)));
                Some(())
            }
        }
    }

    fn topic_id(&mut self) -> Option<()> {
        self.number("topic id", topic_id).map(|_| ())
    }

    fn msg_id(&mut self) -> Option<()> {
        self.number("msg id", |id| format!("msg id {id}")).map(|_| ())
    }

    fn return_code(&mut self) -> Option<()> {
        self.octet("return code", |code| match ReturnCode::from(code) {
            ReturnCode::Accepted => "return code 0: accepted".to_owned(),
            code => format!("rejected: {}", reason(code)),
        })
        .map(|_| ())
    }

    /// A field of one octet.
    fn octet(&mut self, name: &str, explain: impl FnOnce(u8) -> String) -> Option<u8> {
        let value = self.rest.first().copied();
        self.take(1, name, |_| value.map(explain).unwrap_or_default())?;
        value
    }

    /// A field of two octets, big-endian.
    fn number(&mut self, name: &str, explain: impl FnOnce(u16) -> String) -> Option<u16> {
        let value = self.rest.first_chunk().map(|octets| u16::from_be_bytes(*octets));
        self.take(2, name, |_| value.map(explain).unwrap_or_default())?;
        value
    }

    /// Everything that is left in the message.
    fn all(&mut self, explain: impl FnOnce(&[u8]) -> String) {
        let octets = std::mem::take(&mut self.rest);
        self.rows.push(Row {
            octets,
            text: explain(octets),
        });
    }

    /// A field of `len` octets.
    fn take(&mut self, len: usize, name: &str, explain: impl FnOnce(&[u8]) -> String) -> Option<()> {
        let Some((octets, rest)) = self.rest.split_at_checked(len) else {
            let octets = std::mem::take(&mut self.rest);
            let what = if octets.is_empty() { "missing" } else { "cut off" };
            self.rows.push(Row {
                octets,
                text: format!("{name} {what}"),
            });
            return None;
        };
        self.rest = rest;
        self.rows.push(Row {
            octets,
            text: explain(octets),
        });
        Some(())
    }

    /// Octets that no field has use for.
    fn leftover(&mut self, why: &str) {
        if !self.rest.is_empty() {
            self.all(|octets| match octets.len() {
                1 => format!("1 octet {why}"),
                n => format!("{n} octets {why}"),
            });
        }
    }

    /// A row without octets.
    fn note(&mut self, text: &str) {
        self.rows.push(Row {
            octets: &[],
            text: text.to_owned(),
        });
    }
}

fn topic_id(id: u16) -> String {
    match id {
        0 => "topic id 0 (none)".to_owned(),
        0xFFFF => "topic id 65535 (reserved)".to_owned(),
        id => format!("topic id {id}"),
    }
}

/// A string field; what is not UTF-8 is shown with escapes.
fn text(octets: &[u8]) -> String {
    match std::str::from_utf8(octets) {
        Ok("") => "empty".to_owned(),
        Ok(text) => format!("{text:?}"),
        Err(_) => format!("\"{}\" (not UTF-8)", octets.escape_ascii()),
    }
}

/// A payload: text where it looks like text, otherwise its length, since the octets stand beside it.
fn payload(octets: &[u8]) -> String {
    match std::str::from_utf8(octets) {
        Ok("") => "empty".to_owned(),
        Ok(text) if !text.chars().any(|c| c.is_control() && !c.is_ascii_whitespace()) => format!("{text:?}"),
        _ => format!("of {} octets, not text", octets.len()),
    }
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

#[cfg(test)]
mod tests;
