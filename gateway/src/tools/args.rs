//! The flags of `snipe pub`, `snipe sub` and `snipe ping`: mosquitto's where mosquitto has them.

use std::{
    hash::{BuildHasher, RandomState},
    path::PathBuf,
    time::Duration,
};

use clap::{ArgAction, ArgGroup, Args};
use sn_codec::{PublishQoS, QoS, ShortTopic, TopicId, topic};

use super::{
    format::Format,
    session::{Options, Topic, Will},
};

const PUB_HELP: &str = "\
Topics:
  -t NAME        registers the name and publishes by the id that the gateway
                 gives; a name of two octets is sent as it is, as a short
                 topic, unless --register is given
  --short ab     the same for a name that must have two octets
  --topic-id 17  a predefined id, which the gateway has in its configuration
  With QoS -1 (-q -1) a message is a single datagram, without connection or
  answer: for --topic-id, --short and a -t of two octets only.

Examples:
  snipe pub -t demo/hello -m 21.5
  snipe pub -h 192.168.1.20 -t door/1/state -m open -q 1 -r
  snipe pub --topic-id 17 -m 21.5 -q -1
  vmstat -n 5 | snipe pub -t host/vmstat -l

Exit codes:
  0    published; QoS 1 and 2: and acknowledged
  1    rejected, no answer, or no gateway
  2    wrong usage
  27   the time of -W is over
  130  interrupted";

const SUB_HELP: &str = "\
Topics:
  -t FILTER      a name, or a filter with + and #; a name of two octets is asked
                 for as a short topic, unless --register is given
  --short ab     the same for a name that must have two octets
  --topic-id 17  a predefined id; its name is known to the gateway only, so that
                 its messages show #17
  Each may be repeated, and they may be mixed.

Formats (-F):
  %t topic    %p payload          %x payload in hex   %l octets of the payload
  %q QoS      %r retain, 0 or 1   %m message id       %i topic id and its kind
  %U seconds since 1970           %%   \\n   \\t   \\\\

Examples:
  snipe sub -t 'demo/#' -v
  snipe sub -h 192.168.1.20 -t plant/+/temperature -q 1 -C 1 -W 10
  snipe sub --topic-id 17 -F '%U %i %p'

Payloads are printed as they are, unless it is to a terminal: then control
characters in them stand as \\u{1b}. In topics they always do.

Once subscribed, sub waits for a gateway that goes away, and subscribes again.

Exit codes:
  0    as many messages came as -C wants
  1    rejected, no answer, or no gateway
  2    wrong usage
  27   the time of -W is over
  130  interrupted";

const PING_HELP: &str = "\
Opens a session and measures from PINGREQ to PINGRESP. The gateway's id comes
from its answer to SEARCHGW, if it gives one. PINGRESP has no number: an answer
that comes after --timeout is taken for the answer to the next ping.

Examples:
  snipe ping
  snipe ping -h 192.168.1.20 -C 3

Exit codes:
  0    at least one answer, also if -W or Ctrl-C ended it
  1    no answer, rejected, or no gateway
  2    wrong usage";

/// `snipe pub`.
#[derive(Debug, Args)]
#[command(
    disable_help_flag = true,
    after_help = PUB_HELP,
    group = ArgGroup::new("destination").required(true),
    group = ArgGroup::new("content").required(true)
)]
pub(crate) struct PubArgs {
    /// Topic name
    #[arg(short = 't', long = "topic", value_name = "NAME", group = "destination", value_parser = topic_name)]
    topic: Option<String>,
    /// Predefined topic id, 1 to 65534
    #[arg(long, value_name = "ID", group = "destination", value_parser = topic_id)]
    topic_id: Option<TopicId>,
    /// Topic name of two octets, sent in the place of an id
    #[arg(long, value_name = "NAME", group = "destination", value_parser = short_topic)]
    short: Option<ShortTopic>,
    /// Register a -t of two octets as well
    #[arg(long, requires = "topic")]
    register: bool,

    /// Payload
    #[arg(
        short = 'm',
        long,
        value_name = "TEXT",
        group = "content",
        allow_hyphen_values = true
    )]
    message: Option<String>,
    /// Empty payload (with -r: removes the retained message)
    #[arg(short = 'n', long, group = "content")]
    null_message: bool,
    /// Payload is the content of a file
    #[arg(short = 'f', long, value_name = "FILE", group = "content")]
    file: Option<PathBuf>,
    /// One message for each line of standard input
    #[arg(short = 'l', long, group = "content")]
    stdin_line: bool,
    /// Payload is all of standard input
    #[arg(short = 's', long, group = "content")]
    stdin_file: bool,

    /// -1, 0, 1 or 2
    #[arg(short = 'q', long, default_value = "0", allow_negative_numbers = true, value_parser = publish_qos)]
    pub(crate) qos: PublishQoS,
    /// The broker keeps the message for later subscribers
    #[arg(short = 'r', long)]
    pub(crate) retain: bool,
    /// Publish the message that often
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "stdin_line",
          value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) repeat: u32,
    /// Pause between repetitions
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = seconds)]
    pub(crate) repeat_delay: Duration,

    #[command(flatten)]
    pub(crate) link: LinkArgs,
    #[command(flatten)]
    pub(crate) session: SessionArgs,
}

/// Where the payload comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    Text(Vec<u8>),
    File(PathBuf),
    /// All of standard input, as one message.
    Stdin,
    /// Standard input, a message for each line.
    Lines,
}

impl PubArgs {
    /// The topic to publish to.
    ///
    /// # Errors
    /// A topic that cannot be published to with this QoS.
    pub(crate) fn topic(&self) -> Result<Topic, String> {
        let topic = match (&self.topic, self.topic_id, self.short) {
            (Some(name), _, _) => named(name, self.register),
            (_, Some(id), _) => Topic::Predefined(id),
            (_, _, Some(short)) => Topic::Short(short),
            (None, None, None) => return Err("give a topic with -t, --topic-id or --short".to_owned()),
        };
        match topic {
            Topic::Name(name) if self.qos == PublishQoS::MinusOne => Err(format!(
                "QoS -1 has no session to register {name:?} in: use --topic-id or a name of two octets"
            )),
            topic => Ok(topic),
        }
    }

    /// Where the payload comes from; the group makes sure that there is one.
    pub(crate) fn source(&self) -> Source {
        match (&self.message, &self.file) {
            (Some(text), _) => Source::Text(text.clone().into_bytes()),
            (_, Some(file)) => Source::File(file.clone()),
            _ if self.stdin_line => Source::Lines,
            _ if self.stdin_file => Source::Stdin,
            _ => Source::Text(Vec::new()),
        }
    }
}

/// `snipe sub`.
#[derive(Debug, Args)]
#[command(
    disable_help_flag = true,
    after_help = SUB_HELP,
    group = ArgGroup::new("destination").required(true).multiple(true)
)]
pub(crate) struct SubArgs {
    /// Topic name or filter; may be repeated
    #[arg(short = 't', long = "topic", value_name = "FILTER", group = "destination", value_parser = topic_filter)]
    topics: Vec<String>,
    /// Predefined topic id, 1 to 65534; may be repeated
    #[arg(long = "topic-id", value_name = "ID", group = "destination", value_parser = topic_id)]
    topic_ids: Vec<TopicId>,
    /// Topic name of two octets; may be repeated
    #[arg(long = "short", value_name = "NAME", group = "destination", value_parser = short_topic)]
    shorts: Vec<ShortTopic>,
    /// Ask for a -t of two octets by name as well
    #[arg(long, requires = "topics")]
    register: bool,

    /// The most the gateway may use for a delivery: 0, 1 or 2
    #[arg(short = 'q', long, default_value = "0", value_parser = qos)]
    pub(crate) qos: QoS,
    /// Exit after N messages
    #[arg(short = 'C', value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Print the topic before the payload
    #[arg(short = 'v', long, conflicts_with = "format")]
    pub(crate) verbose: bool,
    /// No line feed after a payload
    #[arg(short = 'N', conflicts_with = "format")]
    pub(crate) no_newline: bool,
    /// Leave out messages that the broker had retained
    #[arg(short = 'R')]
    pub(crate) no_retained: bool,
    /// What to print for a message, with a line feed
    #[arg(short = 'F', value_name = "FORMAT", value_parser = Format::parse)]
    pub(crate) format: Option<Format>,

    #[command(flatten)]
    pub(crate) link: LinkArgs,
    #[command(flatten)]
    pub(crate) session: SessionArgs,
}

impl SubArgs {
    /// What to subscribe to: names, then predefined ids, then short names.
    pub(crate) fn topics(&self) -> Vec<Topic> {
        let names = self.topics.iter().map(|name| named(name, self.register));
        let ids = self.topic_ids.iter().map(|id| Topic::Predefined(*id));
        let shorts = self.shorts.iter().map(|short| Topic::Short(*short));
        names.chain(ids).chain(shorts).collect()
    }

    /// What to print for a message.
    pub(crate) fn output_format(&self) -> Format {
        match &self.format {
            Some(format) => format.clone(),
            None => Format::standard(self.verbose, !self.no_newline),
        }
    }
}

/// `snipe ping`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true, after_help = PING_HELP)]
pub(crate) struct PingArgs {
    /// Stop after N pings; without it, when interrupted
    #[arg(short = 'C', visible_short_alias = 'c', value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) count: Option<u32>,
    /// From one ping to the next
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    pub(crate) interval: Duration,
    /// How long an answer is waited for
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = seconds)]
    pub(crate) timeout: Duration,

    #[command(flatten)]
    pub(crate) link: LinkArgs,
}

impl PingArgs {
    /// The session that pings go through: clean, no will, nothing repeated.
    pub(crate) fn options(&self) -> Options {
        Options {
            client_id: self.link.client_id("ping"),
            keep_alive: self.link.keep_alive,
            clean: true,
            will: None,
            retry: self.timeout,
            retries: 0,
        }
    }
}

/// How to reach the gateway, for every tool.
#[derive(Debug, Args)]
#[command(next_help_heading = "Gateway")]
pub(crate) struct LinkArgs {
    /// Gateway's name or address
    #[arg(short = 'h', long, default_value = "127.0.0.1")]
    pub(crate) host: String,
    /// Its UDP port
    #[arg(short = 'p', long, default_value_t = 1883, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: u16,
    /// Client id; without it one is made up
    #[arg(short = 'i', long)]
    id: Option<String>,
    /// Keep-alive of the session in seconds, 0 for none
    #[arg(short = 'k', long = "keepalive", value_name = "SECONDS", default_value_t = 60)]
    pub(crate) keep_alive: u16,
    /// Stop when this time is over, whatever is still open
    #[arg(short = 'W', value_name = "SECONDS", value_parser = seconds)]
    pub(crate) wait: Option<Duration>,
    /// Print every packet on standard error
    #[arg(short = 'd', long)]
    pub(crate) debug: bool,
    /// Print no errors
    #[arg(long)]
    pub(crate) quiet: bool,
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
}

impl LinkArgs {
    /// The id given, or one that no other client has, such as `snipe-sub-1f2e3d4c`.
    fn client_id(&self, role: &str) -> String {
        match &self.id {
            Some(id) => id.clone(),
            None => {
                let random = RandomState::new().hash_one(std::process::id());
                format!("snipe-{role}-{:08x}", random & 0xffff_ffff)
            }
        }
    }
}

/// The session of `pub` and `sub`.
#[derive(Debug, Args)]
#[command(next_help_heading = "Session")]
pub(crate) struct SessionArgs {
    /// Keep the session: clean session off
    #[arg(short = 'c', long = "disable-clean-session", requires = "id")]
    keep_session: bool,
    /// T_retry: repeat a request that was not answered for so long
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    retry: Duration,
    /// N_retry: how often a request is repeated
    #[arg(long, value_name = "N", default_value_t = 3)]
    retries: u32,
    /// Topic of the message that is published if this client is lost
    #[arg(long, value_name = "NAME", value_parser = topic_name)]
    will_topic: Option<String>,
    /// Its payload
    #[arg(
        long,
        value_name = "TEXT",
        requires = "will_topic",
        allow_hyphen_values = true
    )]
    will_payload: Option<String>,
    /// Its QoS: 0, 1 or 2
    #[arg(long, value_name = "QOS", default_value = "0", requires = "will_topic", value_parser = qos)]
    will_qos: QoS,
    /// It is retained
    #[arg(long, requires = "will_topic")]
    will_retain: bool,
}

impl SessionArgs {
    /// The session as the state machine wants it; `role` goes into a made-up client id.
    pub(crate) fn options(&self, link: &LinkArgs, role: &str) -> Options {
        Options {
            client_id: link.client_id(role),
            keep_alive: link.keep_alive,
            clean: !self.keep_session,
            will: self.will_topic.as_ref().map(|topic| Will {
                topic: topic.clone(),
                payload: self.will_payload.clone().unwrap_or_default().into_bytes(),
                qos: self.will_qos,
                retain: self.will_retain,
            }),
            retry: self.retry,
            retries: self.retries,
        }
    }
}

/// A name of two octets is a short topic, unless it is a filter or `by_name` asks for the name.
fn named(name: &str, by_name: bool) -> Topic {
    match <[u8; 2]>::try_from(name.as_bytes()) {
        Ok(octets) if !by_name && !topic::has_wildcard(name) => Topic::Short(ShortTopic(octets)),
        _ => Topic::Name(name.to_owned()),
    }
}

fn topic_name(text: &str) -> Result<String, String> {
    if topic::has_wildcard(text) {
        return Err("+ and # are wildcards: only subscriptions may contain them".to_owned());
    }
    if !topic::is_valid_name(text) {
        return Err(format!(
            "a topic name has 1 to 65535 octets, no control characters and at most {} levels",
            topic::MAX_LEVELS
        ));
    }
    Ok(text.to_owned())
}

fn topic_filter(text: &str) -> Result<String, String> {
    if !topic::is_valid_filter(text) {
        return Err(format!(
            "in a filter, + stands alone between slashes and # alone at the end; it has no control characters and at \
             most {} levels",
            topic::MAX_LEVELS
        ));
    }
    Ok(text.to_owned())
}

fn short_topic(text: &str) -> Result<ShortTopic, String> {
    let octets = <[u8; 2]>::try_from(text.as_bytes()).map_err(|_| {
        format!(
            "a short topic has exactly two octets, this one has {}",
            text.len()
        )
    })?;
    topic_name(text)?;
    Ok(ShortTopic(octets))
}

fn topic_id(text: &str) -> Result<TopicId, String> {
    let id = text
        .parse()
        .map(TopicId)
        .map_err(|_| "a topic id is a number from 1 to 65534".to_owned())?;
    if id.is_reserved() {
        return Err("0 and 65535 are reserved: a topic id is a number from 1 to 65534".to_owned());
    }
    Ok(id)
}

fn qos(text: &str) -> Result<QoS, String> {
    match text {
        "0" => Ok(QoS::AtMostOnce),
        "1" => Ok(QoS::AtLeastOnce),
        "2" => Ok(QoS::ExactlyOnce),
        "-1" => Err("QoS -1 exists for publishing only (snipe pub): give 0, 1 or 2".to_owned()),
        _ => Err("give 0, 1 or 2".to_owned()),
    }
}

fn publish_qos(text: &str) -> Result<PublishQoS, String> {
    match text {
        "-1" => Ok(PublishQoS::MinusOne),
        _ => qos(text)
            .map(PublishQoS::Level)
            .map_err(|_| "give -1, 0, 1 or 2".to_owned()),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    /// A year: longer waits are mistakes, and sums of times stay far from their limits.
    const MAX: f64 = 31_536_000.0;
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=MAX).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("give seconds, such as 10 or 0.5".to_owned()),
    }
}

#[cfg(test)]
mod tests;
