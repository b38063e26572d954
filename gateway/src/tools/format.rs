//! What `snipe sub` prints for a message.

use std::{
    io::{self, Write},
    time::SystemTime,
};

use sn_codec::{PublishQoS, TopicRef};

use super::{describe::qos_number, session::Message};
use crate::printable::{for_terminal, printable};

/// A parsed output format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Format(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Topic,
    Payload,
    PayloadHex,
    Length,
    Qos,
    Retain,
    MsgId,
    TopicId,
    UnixTime,
}

impl Format {
    /// The payload, or topic and payload, and a line feed if wanted.
    pub(crate) fn standard(verbose: bool, newline: bool) -> Format {
        let mut parts = Vec::new();
        if verbose {
            parts.extend([Part::Topic, Part::Text(" ".to_owned())]);
        }
        parts.push(Part::Payload);
        if newline {
            parts.push(Part::Text("\n".to_owned()));
        }
        Format(parts)
    }

    /// Reads a format string; a line feed is added at the end.
    ///
    /// # Errors
    /// A `%` or `\` that is not followed by one of the known letters.
    pub(crate) fn parse(text: &str) -> Result<Format, String> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            let part = match c {
                '%' => match chars.next() {
                    Some('t') => Part::Topic,
                    Some('p') => Part::Payload,
                    Some('x') => Part::PayloadHex,
                    Some('l') => Part::Length,
                    Some('q') => Part::Qos,
                    Some('r') => Part::Retain,
                    Some('m') => Part::MsgId,
                    Some('i') => Part::TopicId,
                    Some('U') => Part::UnixTime,
                    Some('%') => {
                        literal.push('%');
                        continue;
                    }
                    other => return Err(unknown('%', other, "t, p, x, l, q, r, m, i, U and %")),
                },
                '\\' => {
                    literal.push(match chars.next() {
                        Some('n') => '\n',
                        Some('t') => '\t',
                        Some('\\') => '\\',
                        other => return Err(unknown('\\', other, "n, t and \\")),
                    });
                    continue;
                }
                c => {
                    literal.push(c);
                    continue;
                }
            };
            if !literal.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut literal)));
            }
            parts.push(part);
        }
        literal.push('\n');
        parts.push(Part::Text(literal));
        Ok(Format(parts))
    }

    /// Writes one message. The topic is made [`printable`] in any case, so that what reads lines gets one for a message;
    /// the payload only for a `terminal`, for it is what the user asked for.
    ///
    /// # Errors
    /// What the writer says.
    pub(crate) fn write(
        &self,
        out: &mut impl Write,
        message: &Message,
        now: SystemTime,
        terminal: bool,
    ) -> io::Result<()> {
        for part in &self.0 {
            match part {
                Part::Text(text) => out.write_all(text.as_bytes())?,
                Part::Topic => out.write_all(printable(&message.topic).as_bytes())?,
                Part::Payload if terminal => out.write_all(for_terminal(&message.payload).as_bytes())?,
                Part::Payload => out.write_all(&message.payload)?,
                Part::PayloadHex => {
                    for octet in &message.payload {
                        write!(out, "{octet:02x}")?;
                    }
                }
                Part::Length => write!(out, "{}", message.payload.len())?,
                Part::Qos => write!(out, "{}", qos_number(PublishQoS::Level(message.qos)))?,
                Part::Retain => write!(out, "{}", u8::from(message.retain))?,
                Part::MsgId => write!(out, "{}", message.msg_id)?,
                Part::TopicId => match message.topic_ref {
                    TopicRef::Normal(id) => write!(out, "normal {id}")?,
                    TopicRef::Predefined(id) => write!(out, "predefined {id}")?,
                    TopicRef::Short(_) => write!(out, "short {}", printable(&message.topic))?,
                },
                Part::UnixTime => {
                    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                    write!(out, "{}.{:06}", since.as_secs(), since.subsec_micros())?;
                }
            }
        }
        out.flush()
    }
}

fn unknown(escape: char, found: Option<char>, known: &str) -> String {
    match found {
        Some(c) => format!("{escape}{c} is not known: after {escape} come {known}"),
        None => format!("{escape} at the end: after it come {known}"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sn_codec::{MsgId, QoS, TopicId};

    use super::*;

    #[test]
    fn standard_formats_are_mosquittos() {
        assert_eq!(written(&Format::standard(false, true)), "21.5\n");
        assert_eq!(written(&Format::standard(true, true)), "a/b 21.5\n");
        assert_eq!(written(&Format::standard(false, false)), "21.5");
    }

    #[test]
    fn every_part_is_written() {
        let format = Format::parse(r"%t|%p|%x|%l|%q|%r|%m|%i|%U|100%%\t\\").unwrap();
        assert_eq!(
            written(&format),
            "a/b|21.5|32312e35|4|1|1|7|normal 1025|1500000000.250000|100%\t\\\n"
        );
    }

    #[test]
    fn kinds_of_topic_ids_are_told_apart() {
        let format = Format::parse("%i").unwrap();
        let of = |topic, topic_ref| {
            let message = Message {
                topic: String::from(topic),
                topic_ref,
                ..message()
            };
            let mut out = Vec::new();
            format
                .write(&mut out, &message, SystemTime::UNIX_EPOCH, false)
                .unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(of("#17", TopicRef::Predefined(TopicId(17))), "predefined 17\n");
        assert_eq!(
            of("ab", TopicRef::Short(sn_codec::ShortTopic(*b"ab"))),
            "short ab\n"
        );
    }

    #[test]
    fn payload_is_written_as_it_is() {
        let message = Message {
            payload: vec![0, 0xFF, b'\n'],
            ..message()
        };
        let mut out = Vec::new();
        Format::standard(false, false)
            .write(&mut out, &message, SystemTime::UNIX_EPOCH, false)
            .unwrap();
        assert_eq!(out, [0, 0xFF, b'\n']);
    }

    #[test]
    fn topics_are_harmless_and_payloads_are_on_a_terminal() {
        let message = Message {
            topic: "a\n\u{1b}[31m".to_owned(),
            payload: b"1\n\x1b[2J".to_vec(),
            ..message()
        };
        let on = |terminal| {
            let mut out = Vec::new();
            let format = Format::standard(true, true);
            format
                .write(&mut out, &message, SystemTime::UNIX_EPOCH, terminal)
                .unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(on(false), "a\\n\\u{1b}[31m 1\n\u{1b}[2J\n");
        assert_eq!(on(true), "a\\n\\u{1b}[31m 1\n\\u{1b}[2J\n");
    }

    #[test]
    fn unknown_letters_are_refused() {
        assert_eq!(
            Format::parse("%z").unwrap_err(),
            "%z is not known: after % come t, p, x, l, q, r, m, i, U and %"
        );
        assert_eq!(
            Format::parse("\\").unwrap_err(),
            "\\ at the end: after it come n, t and \\"
        );
    }

    fn written(format: &Format) -> String {
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(1_500_000_000_250);
        let mut out = Vec::new();
        format.write(&mut out, &message(), now, false).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn message() -> Message {
        Message {
            topic: "a/b".to_owned(),
            topic_ref: TopicRef::Normal(TopicId(1025)),
            msg_id: MsgId(7),
            qos: QoS::AtLeastOnce,
            retain: true,
            payload: b"21.5".to_vec(),
        }
    }
}
