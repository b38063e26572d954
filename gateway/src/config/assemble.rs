//! From checked values to what the parts of the gateway take.

use core::time::Duration;
use std::{
    fs::File,
    io::{self, Read},
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
};

use broker::{EmbeddedConfig, EmbeddedLimits, Protocol, Reconnect, RemoteConfig, Transport};
use gateway_core::config::{
    AddressChange, ClientRule, Durability, ForwarderRule, GatewayConfig, Limits, PeerMatch, PredefinedTopic,
    QosMinusOneRule, SearchReply, SleepQos0, SleepRules, SpoolFull, StatusConfig, StatusRadio, Timers,
    UnknownSender, UpstreamConfig, WhenDown, WhenFull,
};
use gateway_core::peer::LinkId;
use gateway_store::Sync;
use ipnet::IpNet;
use sn_codec::{QoS, TopicId};
use tracing::level_filters::LevelFilter;

use super::{
    layers::Surroundings,
    radio_settings::{links, radio},
    report::Report,
    rules::{self, base_directory},
    settings::{Broker, LogFormat, LogSettings, Radio, Settings, StoreSettings},
    source::Place,
    tree::{Table, Value},
    url::BrokerUrl,
};

/// The broker of those who name none, if another has the port already.
const DEFAULT_URL: &str = "mqtt://127.0.0.1:1883";

/// Messages stored within this time share one sync: little beside the sync itself, which takes an SD card as long.
const GROUP: Duration = Duration::from_millis(5);

/// More is no password; taste.
const PASSWORD_BYTES_MAX: u64 = 64 << 10;

/// Builds the settings. Where a value is invalid, and so has been reported, something else stands in its place.
pub(super) fn settings(root: &Table, around: &Surroundings, reports: &mut Vec<Report>) -> Settings {
    let gateway_id = root.integer("gateway.id").map_or(1, to);
    let radios: Vec<Radio> = root
        .tables("radio")
        .iter()
        .filter_map(|entry| radio(root, entry))
        .collect();
    let sleep = sleep(root, "sleep", &SleepRules::default());
    let default = GatewayConfig::default();
    let name = root
        .text("gateway.name")
        .map_or_else(|| gateway_id.to_string(), str::to_owned);
    Settings {
        gateway: GatewayConfig {
            gateway_id,
            advertise_interval: root
                .duration("gateway.advertise_interval")
                .filter(|interval| !interval.is_zero()),
            stand_by_for: root.integer("gateway.stand_by_for").map(to),
            search_reply: match root.text("gateway.search_reply") {
                Some("both") => SearchReply::UnicastAndBroadcast,
                _ => SearchReply::Unicast,
            },
            search_reply_interval: root
                .duration("security.search_reply_interval")
                .unwrap_or(default.search_reply_interval),
            upstream: upstream(root, &name),
            predefined: predefined(root),
            clients: root
                .tables("client")
                .iter()
                .map(|rule| client(rule, &sleep))
                .collect(),
            forwarders: forwarders(root, &radios),
            qos_minus_one: qos_minus_one(root, &radios),
            timers: timers(root),
            links: links(&radios),
            keep_airtime: radios.iter().any(|radio| radio.kind.has_duty_cycle()),
            limits: limits(root),
            address_change: address_change(root, "security.address_change").unwrap_or(default.address_change),
            unknown_sender: match root.text("security.unknown_sender") {
                Some("ignore") => UnknownSender::Ignore,
                _ => default.unknown_sender,
            },
            sleep,
            durability: Some(durability(root, &radios)),
            status: status(root, &name, &radios),
        },
        name,
        state_dir: state_dir(root, around),
        store: Some(store(root)),
        gather: root.duration("gateway.gather").unwrap_or_default(),
        radios,
        broker: broker(root, reports),
        log: log(root),
    }
}

/// A number that the schema holds in the range of its type; the nearest one where a platform's is smaller.
fn to<T: TryFrom<i64> + Bounded>(number: i64) -> T {
    T::try_from(number).unwrap_or(T::MAX)
}

/// The largest value of a type.
trait Bounded {
    const MAX: Self;
}

impl Bounded for u8 {
    const MAX: u8 = u8::MAX;
}

impl Bounded for u16 {
    const MAX: u16 = u16::MAX;
}

impl Bounded for u32 {
    const MAX: u32 = u32::MAX;
}

impl Bounded for usize {
    const MAX: usize = usize::MAX;
}

fn upstream(root: &Table, name: &str) -> UpstreamConfig {
    UpstreamConfig {
        client_id: root
            .text("broker.client_id")
            .map_or_else(|| format!("snipe-{name}"), str::to_owned),
        connections: root.integer("broker.connections").map_or(1, to),
        topic_prefix: root.text("broker.topic_prefix").unwrap_or_default().to_owned(),
        when_down: match root.text("broker.when_down") {
            Some("refuse") => WhenDown::Refuse,
            Some("queue") => WhenDown::Queue,
            _ => WhenDown::Spool,
        },
    }
}

fn status(root: &Table, name: &str, radios: &[Radio]) -> Option<StatusConfig> {
    root.bool("mqtt_status.enabled").filter(|enabled| *enabled)?;
    let entries = root.tables("radio");
    let kind = |name: &str| {
        entries
            .iter()
            .find(|entry| entry.text("name") == Some(name))?
            .text("kind")
    };
    let radio = |radio: &Radio| StatusRadio {
        name: radio.name.clone(),
        kind: kind(&radio.name).unwrap_or_default().to_owned(),
    };
    Some(StatusConfig {
        topic: root.text("mqtt_status.topic")?.replace(rules::GATEWAY, name),
        interval: root.duration("mqtt_status.interval")?,
        clients: root.integer("mqtt_status.clients_max").map_or(0, to),
        radios: radios.iter().map(radio).collect(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

fn durability(root: &Table, radios: &[Radio]) -> Durability {
    let default = Durability::default();
    Durability {
        links: radios.iter().map(|radio| radio.name.clone()).collect(),
        spool_messages: root
            .integer("spool.max_messages")
            .map_or(default.spool_messages, to),
        spool_bytes: root.size("spool.max_bytes").map_or(default.spool_bytes, octets),
        spool_age: root.duration("spool.max_age").unwrap_or(default.spool_age),
        when_full: match root.text("spool.when_full") {
            Some("drop-oldest") => SpoolFull::DropOldest,
            _ => SpoolFull::Refuse,
        },
        qos0: root.bool("spool.qos0").unwrap_or(default.qos0),
    }
}

fn store(root: &Table) -> StoreSettings {
    StoreSettings {
        sync: match root.text("spool.sync") {
            Some("each") => Sync::Each,
            Some("never") => Sync::Never,
            _ => Sync::Group(GROUP),
        },
        day_budget: root.size("spool.daily_write_budget").unwrap_or_default(),
    }
}

fn predefined(table: &Table) -> Vec<PredefinedTopic> {
    let topic = |entry: &Table| {
        let id = TopicId(to(entry.integer("id")?));
        Some(PredefinedTopic {
            id,
            topic: entry.text("topic")?.to_owned(),
        })
    };
    table.tables("predefined").iter().filter_map(topic).collect()
}

fn client(client: &Table, everyone: &SleepRules) -> ClientRule {
    ClientRule {
        pattern: client.text("match").unwrap_or_default().to_owned(),
        predefined: predefined(client),
        max_qos: match client.integer("max_qos") {
            Some(0) => Some(QoS::AtMostOnce),
            Some(1) => Some(QoS::AtLeastOnce),
            Some(_) => Some(QoS::ExactlyOnce),
            None => None,
        },
        sleep: client
            .node("sleep")
            .is_some()
            .then(|| sleep(client, "sleep", everyone)),
        address_change: address_change(client, "address_change"),
    }
}

fn address_change(table: &Table, path: &str) -> Option<AddressChange> {
    match table.text(path)? {
        "guarded" => Some(AddressChange::Guarded),
        "strict" => Some(AddressChange::Strict),
        _ => Some(AddressChange::Open),
    }
}

fn forwarders(root: &Table, radios: &[Radio]) -> Vec<ForwarderRule> {
    let rule = |entry: &Table| {
        Some(ForwarderRule {
            name: entry.text("name")?.to_owned(),
            peers: peers(entry, radios),
            max_nodes: entry.integer("max_nodes").map_or(0, to),
            packets_per_second: entry.integer("packets_per_second").map_or(0, to),
        })
    };
    let listed = root.tables("forwarder").iter().filter_map(rule);
    listed.chain(without_encapsulation(root, radios)).collect()
}

/// Lines on which nobody may forward: a rule that no peer of theirs meets, since none of them has an IP address.
fn without_encapsulation(root: &Table, radios: &[Radio]) -> Vec<ForwarderRule> {
    let closed = |entry: &&Table| entry.text("encapsulation") == Some("none");
    let rule = |entry: &Table| {
        let name = entry.text("name")?;
        let at = radios.iter().position(|radio| radio.name == name)?;
        Some(ForwarderRule {
            name: format!("none on {name}"),
            peers: PeerMatch {
                link: Some(LinkId(u16::try_from(at).ok()?)),
                source: Some(IpNet::from(IpAddr::from(Ipv4Addr::UNSPECIFIED))),
            },
            max_nodes: 0,
            packets_per_second: 0,
        })
    };
    let entries = root.tables("radio").iter();
    entries.filter(closed).filter_map(rule).collect()
}

fn qos_minus_one(root: &Table, radios: &[Radio]) -> Vec<QosMinusOneRule> {
    let rule = |entry: &Table| QosMinusOneRule {
        peers: peers(entry, radios),
        client_id: entry.text("client_id").unwrap_or_default().to_owned(),
        topics: entry
            .texts("topics")
            .map(|(filter, _)| filter.to_owned())
            .collect(),
    };
    root.tables("qos_minus_one").iter().map(rule).collect()
}

/// Whom an entry is for.
fn peers(entry: &Table, radios: &[Radio]) -> PeerMatch {
    let link = entry.text("radio").map(|name| {
        let at = radios.iter().position(|radio| radio.name == name);
        // For nobody, not for everybody, if this version does not drive that radio.
        LinkId(at.and_then(|at| u16::try_from(at).ok()).unwrap_or(u16::MAX))
    });
    PeerMatch {
        link,
        source: entry.network("source"),
    }
}

fn timers(root: &Table) -> Timers {
    let default = Timers::default();
    let duration = |key: &str, or| root.duration(&format!("timers.{key}")).unwrap_or(or);
    let tolerance = root
        .float("timers.keep_alive_tolerance")
        .map(|times| (times * 100.0).round() as i64);
    Timers {
        retry_first: duration("retry.first", default.retry_first),
        retry_max: duration("retry.max", default.retry_max),
        retry_count: root.integer("timers.retry.count").map_or(default.retry_count, to),
        keep_alive_tolerance_percent: tolerance.map_or(default.keep_alive_tolerance_percent, to),
        session_expiry: duration("session_expiry", default.session_expiry),
        will_handshake: duration("will_handshake", default.will_handshake),
        ..default
    }
}

fn limits(root: &Table) -> Limits {
    let default = Limits::default();
    let count = |key: &str, or| root.integer(&format!("limits.{key}")).map_or(or, to::<usize>);
    let size = |key: &str, or| root.size(&format!("limits.{key}")).map_or(or, octets);
    Limits {
        clients: count("clients", default.clients),
        pending_connects: count("pending_connects", default.pending_connects),
        per_source_sessions: root
            .integer("limits.per_source_sessions")
            .map_or(default.per_source_sessions, to),
        new_sessions_per_second: root
            .integer("limits.new_sessions_per_second")
            .map_or(default.new_sessions_per_second, to),
        topics_per_client: count("topics_per_client", default.topics_per_client),
        subscriptions_per_client: count("subscriptions_per_client", default.subscriptions_per_client),
        client_id_bytes: count("client_id_bytes", default.client_id_bytes),
        queue_messages: count("queue_messages", default.queue_messages),
        queue_bytes: size("queue_bytes", default.queue_bytes),
        buffer_bytes: root
            .size("sleep.total_bytes")
            .map_or(default.buffer_bytes, octets),
        ..default
    }
}

/// The table at `path`; what it leaves out is as in `or`.
fn sleep(table: &Table, path: &str, or: &SleepRules) -> SleepRules {
    let at = |key: &str| format!("{path}.{key}");
    SleepRules {
        max_messages: table.integer(&at("max_messages")).map_or(or.max_messages, to),
        max_bytes: table.size(&at("max_bytes")).map_or(or.max_bytes, octets),
        max_age: table.duration(&at("max_age")).unwrap_or(or.max_age),
        when_full: match table.text(&at("when_full")) {
            Some("refuse") => WhenFull::Refuse,
            Some("drop-oldest") => WhenFull::DropOldest,
            Some("drop-newest") => WhenFull::DropNewest,
            _ => or.when_full,
        },
        qos0: match table.text(&at("qos0")) {
            Some("keep-all") => SleepQos0::KeepAll,
            Some("latest-per-topic") => SleepQos0::LatestPerTopic,
            Some("drop") => SleepQos0::Drop,
            _ => or.qos0,
        },
        max_sleep: table.duration(&at("max_sleep")).unwrap_or(or.max_sleep),
    }
}

fn octets(size: u64) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX)
}

fn state_dir(root: &Table, around: &Surroundings) -> PathBuf {
    let home = || around.home.clone().unwrap_or_else(|| "/var/lib".into());
    if let Some(named) = root.text("gateway.state_dir") {
        return match named.strip_prefix("~/") {
            Some(rest) => home().join(rest),
            None => named.into(),
        };
    }
    // systemd separates several by colons; the first is ours.
    if let Some(given) = around.variable("STATE_DIRECTORY") {
        let first = given
            .to_str()
            .and_then(|list| list.split(':').next())
            .map(PathBuf::from);
        return first.unwrap_or_else(|| given.into());
    }
    let state_home = around
        .variable("XDG_STATE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute());
    match state_home {
        Some(directory) => directory.join("snipe"),
        None if around.home.is_none() => home().join("snipe"),
        None => home().join(".local/state/snipe"),
    }
}

fn broker(root: &Table, reports: &mut Vec<Report>) -> Broker {
    let url = root.text("broker.url");
    let embedded = || embedded(root);
    match (root.text("broker.kind"), url) {
        (Some("embedded"), _) => Broker::Embedded(embedded()),
        (Some(_), _) | (None, Some(_)) => Broker::External(remote(root, url.unwrap_or(DEFAULT_URL), reports)),
        // Who says where it listens means it, even if that is where it listens anyway.
        (None, None)
            if root
                .node("broker.embedded.bind")
                .is_some_and(|bind| !bind.place.is_default()) =>
        {
            Broker::Embedded(embedded())
        }
        (None, None) => Broker::Unnamed {
            embedded: embedded(),
            taken: remote(root, DEFAULT_URL, reports),
        },
    }
}

fn embedded(root: &Table) -> EmbeddedConfig {
    let default = EmbeddedLimits::default();
    let count = |key: &str, or| {
        let number = root.integer(&format!("broker.embedded.{key}"));
        number.map_or(or, to::<usize>)
    };
    EmbeddedConfig {
        bind: root
            .addresses("broker.embedded.bind")
            .map(|(address, _)| address)
            .collect(),
        limits: EmbeddedLimits {
            connections_max: count("connections_max", default.connections_max),
            packet_bytes: root
                .integer("broker.embedded.packet_bytes")
                .map_or(default.packet_bytes, to),
            queue_messages: count("queue_messages", default.queue_messages),
            queue_bytes: root
                .size("broker.embedded.queue_bytes")
                .map_or(default.queue_bytes, |octets| {
                    usize::try_from(octets).unwrap_or(usize::MAX)
                }),
            retained_max: count("retained_max", default.retained_max),
            subscriptions_max: count("subscriptions_max", default.subscriptions_max),
            sessions_max: count("sessions_max", default.sessions_max),
        },
    }
}

fn remote(root: &Table, url: &str, reports: &mut Vec<Report>) -> RemoteConfig {
    // One that does not parse has been reported.
    let parsed = BrokerUrl::parse(url).ok();
    let (username, password) = parsed
        .as_ref()
        .map_or((None, None), |url| (url.username.clone(), url.password.clone()));
    let duration = |key: &str| root.duration(&format!("broker.{key}")).unwrap_or_default();
    let file = root
        .text("broker.password_file")
        .zip(root.node("broker.password_file"));
    RemoteConfig {
        host: parsed.as_ref().map(|url| url.host.clone()).unwrap_or_default(),
        port: parsed.as_ref().map_or(0, |url| url.port),
        transport: Transport::Tcp,
        protocol: match root.integer("broker.protocol") {
            Some(3) => Protocol::V3,
            _ => Protocol::V5,
        },
        username: root.text("broker.username").map(str::to_owned).or(username),
        password: file
            .and_then(|(file, node)| password_of(file, &node.place, reports))
            .or(password),
        keep_alive: duration("keep_alive"),
        in_flight: root.integer("broker.in_flight").map_or(1, to),
        connect_timeout: duration("connect_timeout"),
        reconnect: Reconnect {
            first: duration("reconnect.first"),
            max: duration("reconnect.max"),
            jitter: root.float("broker.reconnect.jitter").unwrap_or_default(),
        },
    }
}

/// The password in `file`, without the line end that editors leave.
fn password_of(file: &str, place: &Place, reports: &mut Vec<Report>) -> Option<String> {
    let path = base_directory(place).join(file);
    match read_password(&path) {
        Ok(password) => Some(password),
        Err(error) => {
            let title = format!("cannot read the password: {error}");
            let report = Report::error("password-file", title, place, "this file");
            let denied = error.kind() == io::ErrorKind::PermissionDenied;
            let help = format!("the gateway's user must be able to read {}", path.display());
            reports.push(if denied { report.help(help) } else { report });
            None
        }
    }
}

fn read_password(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?
        .take(PASSWORD_BYTES_MAX + 1)
        .read_to_string(&mut text)?;
    if text.len() as u64 > PASSWORD_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "it is larger than 64 KiB",
        ));
    }
    let line = text.strip_suffix('\n').unwrap_or(&text);
    Ok(line.strip_suffix('\r').unwrap_or(line).to_owned())
}

fn log(root: &Table) -> LogSettings {
    let targets = match root.node("log.targets").map(|node| &node.value) {
        Some(Value::Table(targets)) => targets
            .fields
            .keys()
            .filter_map(|name| {
                let Value::Text(word) = &targets.fields.get(name)?.value else {
                    return None;
                };
                Some((name.clone(), level(word)))
            })
            .collect(),
        _ => Vec::new(),
    };
    LogSettings {
        level: level(root.text("log.level").unwrap_or("info")),
        format: match root.text("log.format") {
            Some("text") => LogFormat::Text,
            Some("logfmt") => LogFormat::Logfmt,
            Some("json") => LogFormat::Json,
            _ => LogFormat::Auto,
        },
        targets,
        file: root
            .text("log.file")
            .filter(|file| !file.is_empty())
            .map(PathBuf::from),
    }
}

fn level(word: &str) -> LevelFilter {
    match word {
        "off" => LevelFilter::OFF,
        "error" => LevelFilter::ERROR,
        "warn" => LevelFilter::WARN,
        "debug" => LevelFilter::DEBUG,
        "trace" => LevelFilter::TRACE,
        _ => LevelFilter::INFO,
    }
}
