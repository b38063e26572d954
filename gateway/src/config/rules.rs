//! Rules that tie values together, or that need more words than "out of range".

use core::time::Duration;
use std::net::SocketAddr;

use sn_codec::topic::{MAX_LEVELS, is_carried, is_open_to_clients};

use super::{
    radio_rules,
    report::Report,
    schema::{BROKER_EMBEDDED as EMBEDDED, Kind, ROOT, Shape},
    source::{Origin, Place},
    tree::{Node, Table, Value},
    units::show_size,
    url::{BrokerUrl, Scheme},
    walk::{begins_like, did_you_mean},
};
use crate::telemetry::TARGETS;

/// §7.2: T_ADV should be greater than this.
const ADVERTISE_LEAST: Duration = Duration::from_secs(15 * 60);

/// What stands for the client's id in a predefined topic.
const CLIENT_ID: &str = "{client_id}";

/// Checks the merged configuration.
pub(super) fn check(root: &Table, reports: &mut Vec<Report>) {
    required(&ROOT, root, "", reports);
    gateway(root, reports);
    radios(root, reports);
    radio_rules::check(root, reports);
    broker(root, reports);
    embedded(root, reports);
    mqtt_status(root, reports);
    topics(root, reports);
    clients(root, reports);
    forwarders(root, reports);
    qos_minus_one(root, reports);
    sleep(root, reports);
    log_targets(root, reports);
    waits(root, "timers.retry", reports);
    waits(root, "broker.reconnect", reports);
    if let Some(node) = root
        .node("log.format")
        .filter(|_| root.text("log.format") == Some("journald"))
    {
        reports.push(later(node, "log.format = \"journald\"", "\"auto\" is used"));
    }
}

/// Entries of arrays of tables without a key that they need.
fn required(shape: &Shape, table: &Table, path: &str, reports: &mut Vec<Report>) {
    for field in shape.fields_of(table.text("kind")) {
        let Some(node) = table.fields.get(field.name) else {
            if field.required {
                reports.push(missing(shape, table, path, field.name, field.example));
            }
            continue;
        };
        match (field.kind, &node.value) {
            (Kind::Table(inner), Value::Table(table)) => required(inner, table, field.name, reports),
            (Kind::Tables(inner), Value::Tables(entries)) => {
                let names: Vec<String> = entries
                    .iter()
                    .filter(|entry| !entry.place.source.is_override())
                    .filter_map(|entry| entry.identity(inner.identity.as_ref()?.key))
                    .collect();
                for entry in entries {
                    let before = reports.len();
                    required(inner, entry, field.name, reports);
                    // `--set radio.upd0.mtu=512` makes a new radio that lacks all but its mtu.
                    if entry.place.source.is_override() && reports.len() > before {
                        reports.truncate(before);
                        reports.push(unknown_entry(inner, entry, field.name, &names));
                    }
                }
            }
            _ => {}
        }
    }
}

fn missing(shape: &Shape, table: &Table, path: &str, key: &str, example: Option<&str>) -> Report {
    let name = shape
        .identity
        .as_ref()
        .and_then(|identity| table.identity(identity.key));
    let title = match name {
        Some(name) => format!("[[{path}]] `{name}` has no `{key}`"),
        None => format!("this [[{path}]] has no `{key}`"),
    };
    let report = Report::error("missing-field", title, &table.place, "in this one");
    match example {
        Some(example) => report.help(format!("for example {key} = {example}")),
        None => report,
    }
}

fn unknown_entry(shape: &Shape, entry: &Table, path: &str, names: &[String]) -> Report {
    let name = shape
        .identity
        .as_ref()
        .and_then(|identity| entry.identity(identity.key))
        .unwrap_or_default();
    let title = format!("no [[{path}]] is called `{name}`");
    let report = Report::error("unknown-name", title, &entry.place, "this name");
    match did_you_mean(&name, names.iter().map(String::as_str)) {
        Some(near) => report.help(format!("did you mean `{near}`?")),
        None if names.is_empty() => report,
        None => report.help(format!("there are: {}", names.join(", "))),
    }
}

/// Valid, but for another version.
fn later(node: &Node, what: &str, instead: &str) -> Report {
    let title = format!("{what} is not used by this version yet");
    Report::warning("not-used-yet", title, &node.place, instead)
}

fn not_here(title: impl Into<String>, place: &Place, help: &str) -> Report {
    Report::error("not-in-this-version", title, place, "not yet").help(help)
}

fn gateway(root: &Table, reports: &mut Vec<Report>) {
    if let (Some("transparent"), Some(node)) = (root.text("gateway.mode"), root.node("gateway.mode")) {
        let title = "this version has no transparent mode yet";
        reports.push(not_here(
            title,
            &node.place,
            "mode = \"aggregating\" serves all clients over one broker link",
        ));
    }
    if let (Some(name), Some(node)) = (root.text("gateway.name"), root.node("gateway.name")) {
        word(name, node, "gateway.name", reports);
    }
    whole_seconds(root, "gateway.advertise_interval", reports);
    search_reply(root, reports);
    stand_by(root, reports);
    if let (Some(interval), Some(node)) = (
        root.duration("gateway.advertise_interval"),
        root.node("gateway.advertise_interval"),
    ) && !interval.is_zero()
        && interval <= ADVERTISE_LEAST
    {
        let title = "gateway.advertise_interval should be more than 15 minutes (§7.2)";
        let help = "clients find a gateway sooner by SEARCHGW; \"16m\" is the default, \"0s\" switches ADVERTISE off";
        reports.push(Report::warning("advertise-often", title, &node.place, "loads every radio").help(help));
    }
}

/// A broadcast answer needs a radio that can broadcast.
fn search_reply(root: &Table, reports: &mut Vec<Report>) {
    let (Some("both"), Some(node)) = (
        root.text("gateway.search_reply"),
        root.node("gateway.search_reply"),
    ) else {
        return;
    };
    let groups = |radio: &Table| radio.addresses("multicast").next().is_some();
    if !root.tables("radio").iter().any(groups) {
        let title = "gateway.search_reply = \"both\": no radio has a group to answer to";
        let help = "add multicast = [\"225.1.1.1:1883\"] to a [[radio]]";
        reports.push(Report::warning("no-effect", title, &node.place, "no effect").help(help));
    }
}

/// Standing by is about another gateway, and taking its place is advertising.
fn stand_by(root: &Table, reports: &mut Vec<Report>) {
    let (Some(other), Some(node)) = (
        root.integer("gateway.stand_by_for"),
        root.node("gateway.stand_by_for"),
    ) else {
        return;
    };
    let own = root.integer("gateway.id").unwrap_or(1);
    let quiet = root
        .duration("gateway.advertise_interval")
        .is_some_and(|interval| interval.is_zero());
    let (title, help) = if other == own {
        (
            "gateway.stand_by_for is our own gateway.id",
            "each gateway needs an id of its own; name that of the other",
        )
    } else if quiet {
        (
            "gateway.stand_by_for needs ADVERTISE",
            "take advertise_interval = \"0s\" away: to take another's place is to advertise",
        )
    } else {
        return;
    };
    reports.push(Report::error("invalid-value", title, &node.place, "cannot work").help(help));
}

/// Times that travel in a field of two octets, in seconds.
fn whole_seconds(root: &Table, path: &str, reports: &mut Vec<Report>) {
    let (Some(time), Some(node)) = (root.duration(path), root.node(path)) else {
        return;
    };
    if time.subsec_nanos() != 0 {
        let title = format!("{path} must be whole seconds: it is sent as such");
        let report = Report::error("out-of-range", title, &node.place, "has a part of a second");
        reports.push(report.help("\"0s\" switches it off"));
    }
}

/// A name that goes into client ids and topics.
fn word(text: &str, node: &Node, path: &str, reports: &mut Vec<Report>) {
    if text.is_empty() {
        reports.push(Report::error(
            "empty",
            format!("{path} is empty"),
            &node.place,
            "here",
        ));
    } else if let Some(wrong) = text
        .chars()
        .find(|c| matches!(c, '/' | '+' | '#') || c.is_control())
    {
        let title = format!("{path} cannot contain {wrong:?}");
        reports.push(Report::error(
            "bad-name",
            title,
            &node.place,
            "it becomes part of topics and client ids",
        ));
    }
}

fn radios(root: &Table, reports: &mut Vec<Report>) {
    let mut taken: Vec<(SocketAddr, &Place)> = Vec::new();
    for radio in root.tables("radio") {
        let name = radio.text("name").unwrap_or_default();
        if let (Some(name), Some(node)) = (radio.text("name"), radio.node("name")) {
            word(name, node, "a radio's name", reports);
        }
        // DTLS runs over UDP too, so its addresses count even while this version does not open them.
        if !matches!(radio.text("kind"), Some("udp" | "dtls")) {
            continue;
        }
        if let Some(node) = radio
            .node("bind")
            .filter(|node| matches!(&node.value, Value::List(list) if list.is_empty()))
        {
            let title = format!("radio `{name}` has no address to listen on");
            let help = "for example bind = [\"0.0.0.0:1883\", \"[::]:1883\"]";
            reports.push(Report::error("empty", title, &node.place, "here").help(help));
        }
        for (address, place) in radio.addresses("bind") {
            if address.ip().is_multicast() {
                let title = format!(
                    "{} is a multicast group: nobody can listen there alone",
                    address.ip()
                );
                reports.push(
                    Report::error("bad-address", title, place, "here")
                        .help("groups go into multicast = [...]"),
                );
            } else if let Some((other, first)) = taken.iter().find(|(other, _)| collide(*other, address)) {
                let title = if *other == address {
                    format!("two radios listen on {address}")
                } else {
                    format!("{other} and {address} are the same port on the same interface")
                };
                reports.push(
                    Report::error("duplicate-address", title, place, "again here").also(first, "taken here"),
                );
            } else {
                taken.push((address, place));
            }
        }
        for (group, place) in radio
            .addresses("multicast")
            .filter(|(group, _)| !group.ip().is_multicast())
        {
            let title = format!("{} is not a multicast group", group.ip());
            let help = "groups are 224.0.0.0 to 239.255.255.255, and IPv6 addresses that begin with ff";
            reports.push(Report::error("bad-address", title, place, "here").help(help));
        }
        let lonely = |group: &SocketAddr| {
            !radio
                .addresses("bind")
                .any(|(own, _)| own.is_ipv4() == group.is_ipv4())
        };
        for (group, place) in radio.addresses("multicast").filter(|(group, _)| lonely(group)) {
            if group.ip().is_multicast() && !place.is_default() {
                let (family, every) = if group.is_ipv4() {
                    ("IPv4", "0.0.0.0")
                } else {
                    ("IPv6", "[::]")
                };
                let title = format!(
                    "radio `{name}` cannot answer from the group {group}: it has no {family} address"
                );
                let help = format!("add \"{every}:{}\" to bind", group.port());
                reports.push(Report::warning("no-effect", title, place, "no effect").help(help));
            }
        }
        if let Some(node) = radio
            .node("interface")
            .filter(|_| radio.text("interface") == Some(""))
        {
            let title = format!("the interface of radio `{name}` is empty");
            reports.push(
                Report::error("empty", title, &node.place, "here")
                    .help("leave the key out and the system chooses"),
            );
        }
    }
}

/// Two sockets of one family and port, at least one of them on all interfaces or both on the same; port 0 is any free
/// one. IPv6 sockets of ours take no IPv4.
fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let same_family = a.is_ipv4() == b.is_ipv4();
    let same_interface = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
    same_family && same_interface && a.port() == b.port() && a.port() != 0
}

fn broker(root: &Table, reports: &mut Vec<Report>) {
    let (kind, url) = (root.node("broker.kind"), root.node("broker.url"));
    match (root.text("broker.kind"), kind, url) {
        (Some("external"), Some(kind), None) => {
            let title = "an external broker needs an address";
            let help = "add url = \"mqtt://broker.example:1883\" to [broker]";
            reports.push(Report::error("missing-field", title, &kind.place, "no `url`").help(help));
        }
        (Some("embedded"), Some(kind), Some(url)) if kind.place.source == url.place.source => {
            let title = "broker.url is not used: the broker is embedded";
            reports.push(
                Report::warning("no-effect", title, &url.place, "no effect")
                    .also(&kind.place, "because of this"),
            );
        }
        _ => {}
    }
    if let (Some(text), Some(node)) = (root.text("broker.url"), url) {
        broker_url(text, node, reports);
        logins(text, node, root, reports);
    }
    if let (Some(""), Some(node)) = (root.text("broker.client_id"), root.node("broker.client_id")) {
        let title = "broker.client_id is empty: the session could not be kept over a reconnect";
        reports.push(
            Report::error("empty", title, &node.place, "here")
                .help("leave the key out and it is made from gateway.name"),
        );
    }
    for key in ["broker.client_id", "broker.username"] {
        if let (Some(text), Some(node)) = (root.text(key), root.node(key))
            && text.contains('\0')
        {
            reports.push(Report::error(
                "bad-name",
                format!("{key} cannot contain NUL"),
                &node.place,
                "here",
            ));
        }
    }
    whole_seconds(root, "broker.keep_alive", reports);
    if let (Some(prefix), Some(node)) = (root.text("broker.topic_prefix"), root.node("broker.topic_prefix")) {
        let wrong = prefix
            .chars()
            .find(|c| matches!(c, '+' | '#' | '{' | '}') || !is_carried(*c));
        if let Some(wrong) = wrong {
            let title = format!("broker.topic_prefix cannot contain {wrong:?}");
            reports.push(Report::error(
                "bad-topic",
                title,
                &node.place,
                "every publish begins with this, as it is",
            ));
        }
        if !is_open_to_clients(prefix) {
            let title =
                format!("broker.topic_prefix cannot be {prefix:?}: brokers keep such topics to themselves");
            reports.push(
                Report::error("bad-topic", title, &node.place, "every publish begins with this")
                    .help("for example topic_prefix = \"sensors/\""),
            );
        }
    }
    let named = root.node("broker.username").is_some()
        || root
            .text("broker.url")
            .and_then(|url| BrokerUrl::parse(url).ok())
            .is_some_and(|url| url.username.is_some());
    if let (Some(3), Some(password), false) = (
        root.integer("broker.protocol"),
        root.node("broker.password_file"),
        named,
    ) {
        let title = "MQTT 3.1.1 has no password without a user name";
        reports.push(Report::error(
            "missing-field",
            title,
            &password.place,
            "no `username`",
        ));
    }
}

/// What stands for the gateway's name in the topic of its status.
pub(super) const GATEWAY: &str = "{gateway}";

fn mqtt_status(root: &Table, reports: &mut Vec<Report>) {
    let (Some(topic), Some(node)) = (root.text("mqtt_status.topic"), root.node("mqtt_status.topic")) else {
        return;
    };
    if topic.is_empty() {
        let title = "mqtt_status.topic is empty";
        let help = "mqtt_status.enabled = false switches it off";
        reports.push(Report::error("empty", title, &node.place, "here").help(help));
        return;
    }
    let rest = topic.replace(GATEWAY, "");
    let wrong = rest
        .chars()
        .find(|c| matches!(c, '+' | '#' | '{' | '}') || c.is_control());
    if let Some(wrong) = wrong {
        let title = format!("mqtt_status.topic cannot contain {wrong:?}");
        let label = "every topic of it begins with this";
        let help = "{gateway} is filled in, nothing else";
        reports.push(Report::error("bad-topic", title, &node.place, label).help(help));
    }
    let edge = match topic {
        _ if topic.starts_with('$') => Some("begin with `$`: such topics are the broker's own"),
        _ if topic.starts_with('/') || topic.ends_with('/') => Some("begin or end with a slash"),
        _ if topic.len() > STATUS_TOPIC_MAX => Some("be longer than 1,000 octets"),
        _ => None,
    };
    if let Some(what) = edge {
        let title = format!("mqtt_status.topic cannot {what}");
        let help = "for example topic = \"snipe/{gateway}\"";
        reports.push(Report::error("bad-topic", title, &node.place, "here").help(help));
    }
}

/// A client id of 255 octets, escaped, still fits the 65,535 of a topic, whatever the gateway is called; taste.
const STATUS_TOPIC_MAX: usize = 1000;

/// Less is used up by two segments of the store and some thousand messages: then it is no budget but a brake.
const SENSIBLE_BUDGET: u64 = 16 << 20;

/// What the disk writes for one message alone: the page that holds it.
const SINGLE_MESSAGE: u64 = 4096;

/// What is on disk, unless nothing is.
pub(super) fn spool(root: &Table, ephemeral: bool, reports: &mut Vec<Report>) {
    if ephemeral {
        if let (Some("spool"), Some(node)) = (root.text("broker.when_down"), root.node("broker.when_down"))
            && !node.place.is_default()
        {
            let title = "with --ephemeral nothing is spooled: QoS 1 and 2 wait in memory, unacknowledged";
            let label = "acts as \"queue\"";
            reports.push(Report::warning("ephemeral", title, &node.place, label));
        }
        return;
    }
    if let (Some("never"), Some(node)) = (root.text("spool.sync"), root.node("spool.sync")) {
        let title = "a power cut loses messages that were acknowledged to their senders";
        let help = "sync = \"group\" costs each message 5 ms and is safe";
        let report = Report::warning(
            "breaks-promise",
            title,
            &node.place,
            "written when the system likes",
        );
        reports.push(report.help(help));
    }
    if let (Some(budget @ 1..SENSIBLE_BUDGET), Some(node)) = (
        root.size("spool.daily_write_budget"),
        root.node("spool.daily_write_budget"),
    ) {
        let title = "the daily write budget is soon used up: then acknowledgements take up to a second";
        let label = format!("some {} single messages", budget / SINGLE_MESSAGE);
        let help = "\"64 MiB\" is little for any SD card; \"0 B\" is no limit";
        let report = Report::warning("small-budget", title, &node.place, label);
        reports.push(report.help(help));
    }
}

/// The only library that logs under its own name.
const SOCKETS_TARGET: &str = "quinn_udp";

/// Levels for parts that log nothing: most likely another part is meant.
fn log_targets(root: &Table, reports: &mut Vec<Report>) {
    let Some(Value::Table(targets)) = root.node("log.targets").map(|node| &node.value) else {
        return;
    };
    for (name, node) in &targets.fields {
        // They count by how they begin.
        let known = TARGETS.iter().any(|target| target.starts_with(name.as_str()));
        if known || name.starts_with(SOCKETS_TARGET) {
            continue;
        }
        let title = format!("no line of the log has a target that begins with `{name}`");
        let report = Report::warning("unknown-name", title, &node.place, "has no effect");
        let near = did_you_mean(name, TARGETS).or_else(|| begins_like(name, TARGETS));
        reports.push(match near {
            Some(near) => report.help(format!("did you mean `{near}`?")),
            None => report.help(format!("there are: {}", TARGETS.join(", "))),
        });
    }
}

/// The broker inside the gateway, unless another is used.
fn embedded(root: &Table, reports: &mut Vec<Report>) {
    let external = match root.text("broker.kind") {
        Some(kind) => kind == "external",
        None => root.node("broker.url").is_some(),
    };
    if external {
        not_embedded(root, reports);
        return;
    }
    if let Some(node) = root.node("broker.embedded.bind")
        && matches!(&node.value, Value::List(list) if list.is_empty())
    {
        let title = "the embedded broker has no address to listen on";
        let help = "for example bind = [\"127.0.0.1:1883\"]";
        reports.push(Report::error("empty", title, &node.place, "here").help(help));
    }
    let open_to_all = root.bool("broker.embedded.anonymous");
    if let (Some(false), Some(node)) = (open_to_all, root.node("broker.embedded.anonymous")) {
        let title = "the embedded broker knows no users yet";
        let help = "keep it on loopback (bind = [\"127.0.0.1:1883\"]), or use a broker that has users (url)";
        reports.push(not_here(title, &node.place, help));
    }
    let mut taken: Vec<(SocketAddr, &Place)> = Vec::new();
    let mut reported = false;
    for (address, place) in root.addresses("broker.embedded.bind") {
        if address.ip().is_multicast() {
            let title = format!("{} is a multicast group: TCP has none", address.ip());
            reports.push(Report::error("bad-address", title, place, "here"));
        } else if let Some((other, first)) = taken.iter().find(|(other, _)| collide(*other, address)) {
            let title = format!("{other} and {address} are the same port on the same interface");
            let report = Report::error("duplicate-address", title, place, "again here");
            reports.push(report.also(first, "taken here"));
        } else {
            taken.push((address, place));
        }
        // Once is enough, for the first: whoever answers it has answered for all.
        if open_to_all.is_none() && !address.ip().is_loopback() && !reported {
            let title = format!("{address} opens the broker to the network, and it asks nobody for a login");
            let label = "not only this machine";
            let report = Report::error("anonymous-beyond-loopback", title, place, label);
            let help =
                "if whoever reaches it may publish and subscribe, add anonymous = true to [broker.embedded]";
            reports.push(report.help(help));
            reported = true;
        }
    }
    if let (Some(queue), Some(packet)) = (
        root.size("broker.embedded.queue_bytes"),
        root.integer("broker.embedded.packet_bytes"),
    ) && let (Some(queue_node), Some(packet_node)) = (
        root.node("broker.embedded.queue_bytes"),
        root.node("broker.embedded.packet_bytes"),
    ) && queue.cast_signed() < packet
    {
        let title = "the largest message taken (packet_bytes) does not fit a session's queue (queue_bytes)";
        let place = if queue_node.place.is_default() {
            &packet_node.place
        } else {
            &queue_node.place
        };
        reports.push(Report::error("out-of-order", title, place, "this one"));
    }
}

/// Keys of the broker inside where another one is used. What the printed default says is no doubt, and neither is what
/// an earlier layer says: the later one is there to override it.
fn not_embedded(root: &Table, reports: &mut Vec<Report>) {
    let (Some(because), Some(Value::Table(table))) = (
        root.node("broker.url").or_else(|| root.node("broker.kind")),
        root.node("broker.embedded").map(|node| &node.value),
    ) else {
        return;
    };
    let idle = table.fields.iter().find(|(name, node)| {
        let field = EMBEDDED.field(None, name);
        let said = field.is_some_and(|field| field.used && field.default != Some(node.place.text()));
        said && !node.place.is_default() && node.place.source.rank >= because.place.source.rank
    });
    if let Some((_, node)) = idle {
        let title = "[broker.embedded] is not used: the broker is an external one";
        reports.push(
            Report::warning("no-effect", title, &node.place, "no effect")
                .also(&because.place, "because of this"),
        );
    }
}

/// A login in the URL and one in keys of their own.
fn logins(text: &str, url: &Node, root: &Table, reports: &mut Vec<Report>) {
    let Ok(parsed) = BrokerUrl::parse(text) else {
        return;
    };
    for (what, in_url, key) in [
        ("user name", parsed.username, "broker.username"),
        ("password", parsed.password, "broker.password_file"),
    ] {
        if let (Some(_), Some(node)) = (in_url, root.node(key)) {
            let title = format!("the {what} in broker.url is not used: {key} is");
            reports.push(
                Report::warning("no-effect", title, &url.place, "no effect")
                    .also(&node.place, "used instead"),
            );
        }
    }
}

fn broker_url(text: &str, node: &Node, reports: &mut Vec<Report>) {
    match BrokerUrl::parse(text) {
        Err(wrong) => {
            let title = format!("not the URL of a broker: {wrong}");
            let help = match did_you_mean(&text.to_lowercase(), ["embedded"]) {
                // `--broker` takes it as a word.
                Some(_) if node.place.source.is_override() => "did you mean `--broker embedded`?",
                Some(_) => "did you mean kind = \"embedded\"?",
                None => "for example \"mqtt://broker.example:1883\"",
            };
            reports.push(Report::error("bad-url", title, &node.place, "here").help(help));
        }
        Ok(url) => match url.scheme {
            Scheme::Mqtt => {}
            Scheme::Mqtts | Scheme::Ws | Scheme::Wss | Scheme::Unix => {
                let title = "this version reaches brokers over plain TCP only";
                reports.push(not_here(
                    title,
                    &node.place,
                    "use mqtt://, on a network that you trust",
                ));
            }
        },
    }
}

/// Every predefined topic, for all clients and for some.
fn topics(root: &Table, reports: &mut Vec<Report>) {
    let smallest = root
        .tables("radio")
        .iter()
        .filter(|radio| radio.text("kind") == Some("udp") || radio_rules::on_a_line(radio))
        .filter_map(|radio| Some((radio.integer("mtu")?, radio)))
        .min_by_key(|(mtu, _)| *mtu);
    let of_clients = root
        .tables("client")
        .iter()
        .flat_map(|client| client.tables("predefined"));
    for entry in root.tables("predefined").iter().chain(of_clients) {
        let (Some(topic), Some(node)) = (entry.text("topic"), entry.node("topic")) else {
            continue;
        };
        topic_name(topic, node, reports);
        if let Some((mtu, radio)) = smallest {
            topic_length(topic, node, mtu, radio, reports);
        }
    }
}

fn topic_name(topic: &str, node: &Node, reports: &mut Vec<Report>) {
    if topic.is_empty() {
        reports.push(Report::error(
            "empty",
            "a predefined topic is empty",
            &node.place,
            "here",
        ));
    }
    if topic.contains(['+', '#']) {
        let title = "a predefined topic cannot contain a wildcard";
        reports.push(Report::error(
            "wildcard-in-topic",
            title,
            &node.place,
            "`+` and `#` are only allowed in subscriptions",
        ));
    }
    if let Some(c) = topic.chars().find(|c| !is_carried(*c)) {
        let title = format!("a topic cannot contain {c:?}: brokers close the connection over it");
        reports.push(Report::error("bad-topic", title, &node.place, "here"));
    }
    if topic.split('/').count() > MAX_LEVELS {
        let title = format!("a topic has at most {MAX_LEVELS} levels");
        reports.push(Report::error("bad-topic", title, &node.place, "too many"));
    }
    for placeholder in placeholders(topic).filter(|name| *name != CLIENT_ID) {
        let title = format!("unknown placeholder `{placeholder}`");
        let label = "only `{client_id}` is filled in";
        let report = Report::error("unknown-placeholder", title, &node.place, label);
        reports.push(match placeholder {
            "{radio}" => report.help("`{radio}` is not in this version yet"),
            _ => report,
        });
    }
}

/// The parts of `topic` in braces.
fn placeholders(topic: &str) -> impl Iterator<Item = &str> {
    topic.match_indices('{').filter_map(|(start, _)| {
        let length = topic[start..].find('}')?;
        Some(&topic[start..=start + length])
    })
}

/// A client that subscribes with a wildcard is told the topic's name in a REGISTER, which must fit.
fn topic_length(topic: &str, node: &Node, mtu: i64, radio: &Table, reports: &mut Vec<Report>) {
    // At least one character of each client id.
    let name = topic.replace(CLIENT_ID, "x").len();
    // §5.4.10: type, topic id, message id; the length takes one octet or three.
    let octets = if name + 6 < 256 { name + 6 } else { name + 8 };
    if octets as i64 <= mtu {
        return;
    }
    let radio_name = radio.text("name").unwrap_or_default();
    let title = format!(
        "this topic needs a REGISTER of {octets} octets, but the mtu of radio `{radio_name}` is {mtu}"
    );
    let report = Report::error("topic-too-long", title, &node.place, "too long");
    reports.push(match radio.node("mtu").filter(|node| !node.place.is_default()) {
        Some(mtu) => report.also(&mtu.place, "the limit"),
        None => report,
    });
}

fn clients(root: &Table, reports: &mut Vec<Report>) {
    let mut everyone: Option<&Node> = None;
    for client in root.tables("client") {
        let (Some(pattern), Some(node)) = (client.text("match"), client.node("match")) else {
            continue;
        };
        if pattern.is_empty() {
            let report = Report::error("empty", "an empty pattern matches no client", &node.place, "here");
            reports.push(report.help("\"*\" matches all clients"));
        } else if let Some(first) = everyone {
            let title = format!("the rule for `{pattern}` never applies: the first match wins");
            reports.push(
                Report::warning("unreachable-rule", title, &node.place, "never reached")
                    .also(&first.place, "matches every client"),
            );
        } else if pattern.chars().all(|c| c == '*') {
            everyone = Some(node);
        }
    }
}

/// Who may forward.
fn forwarders(root: &Table, reports: &mut Vec<Report>) {
    for entry in root.tables("forwarder") {
        if let (Some(name), Some(node)) = (entry.text("name"), entry.node("name")) {
            word(name, node, "a forwarder's name", reports);
        }
    }
    peers(root, "forwarder", reports);
}

/// Who may publish without a session.
fn qos_minus_one(root: &Table, reports: &mut Vec<Report>) {
    peers(root, "qos_minus_one", reports);
    for entry in root.tables("qos_minus_one") {
        if let (Some(id), Some(node)) = (entry.text("client_id"), entry.node("client_id")) {
            word(id, node, "the client id of a [[qos_minus_one]]", reports);
            for placeholder in placeholders(id).filter(|name| *name != "{address}") {
                let title = format!("unknown placeholder `{placeholder}`");
                let label = "only `{address}` is filled in";
                reports.push(Report::error("unknown-placeholder", title, &node.place, label));
            }
        }
        for (filter, node) in entry.texts("topics") {
            if !sn_codec::topic::is_valid_filter(filter) {
                let title = format!("`{filter}` is not a topic filter");
                let help = "`+` stands for one whole level, `#` for all the levels at the end";
                reports.push(Report::error("bad-filter", title, &node.place, "here").help(help));
            }
        }
    }
}

/// Rules for peers by radio and address: the first match wins.
fn peers(root: &Table, section: &str, reports: &mut Vec<Report>) {
    let entries = root.tables(section);
    let radios: Vec<&str> = root
        .tables("radio")
        .iter()
        .filter_map(|radio| radio.text("name"))
        .collect();
    for (at, entry) in entries.iter().enumerate() {
        if let (Some(name), Some(node)) = (entry.text("radio"), entry.node("radio"))
            && !radios.contains(&name)
        {
            let report = Report::error(
                "unknown-name",
                format!("no [[radio]] is called `{name}`"),
                &node.place,
                "here",
            );
            reports.push(match did_you_mean(name, radios.iter().copied()) {
                Some(near) => report.help(format!("did you mean `{near}`?")),
                None => report.help(format!("there are: {}", radios.join(", "))),
            });
        }
        if let (Some(network), Some(node)) = (entry.network("source"), entry.node("source"))
            && network.addr() != network.network()
        {
            let title = format!("{network} is all of {}", network.trunc());
            let help = format!(
                "write \"{}\" if that is meant, \"{}\" for the one address",
                network.trunc(),
                network.addr()
            );
            reports.push(Report::warning("wide-network", title, &node.place, "not one address").help(help));
        }
        if let (Some(name), Some(source)) = (entry.text("radio"), entry.node("source"))
            && let Some(radio) = root
                .tables("radio")
                .iter()
                .find(|radio| radio.text("name") == Some(name))
            && radio_rules::on_a_line(radio)
        {
            let title = format!("nobody on radio `{name}` has an IP address");
            let report = Report::error("bad-address", title, &source.place, "matches nobody");
            reports.push(report.help("leave `source` out: it is for radios of the network"));
        }
        let covers = |earlier: &&Table| {
            let radio = earlier
                .text("radio")
                .is_none_or(|radio| entry.text("radio") == Some(radio));
            let source = earlier.node("source").is_none()
                || earlier
                    .network("source")
                    .zip(entry.network("source"))
                    .is_some_and(|(earlier, later)| earlier.contains(&later));
            radio && source
        };
        if let Some(first) = entries[..at].iter().find(covers) {
            let title = format!("this [[{section}]] never applies: the first match wins");
            reports.push(
                Report::warning("unreachable-rule", title, &entry.place, "never reached")
                    .also(&first.place, "matches all that this would"),
            );
        }
    }
}

/// What one client may keep is no more than what all may.
fn sleep(root: &Table, reports: &mut Vec<Report>) {
    let (Some(total), Some(total_node)) = (root.size("sleep.total_bytes"), root.node("sleep.total_bytes"))
    else {
        return;
    };
    let of_clients = root
        .tables("client")
        .iter()
        .map(|client| (client, "sleep.max_bytes"));
    for (table, path) in of_clients.chain([(root, "sleep.max_bytes")]) {
        let (Some(own), Some(node)) = (table.size(path), table.node(path)) else {
            continue;
        };
        if own <= total {
            continue;
        }
        let title = format!("{path} is more than sleep.total_bytes has for all clients together");
        let place = if node.place.is_default() {
            &total_node.place
        } else {
            &node.place
        };
        let report = Report::warning("out-of-order", title, place, "the smaller one holds");
        reports.push(if node.place.is_default() || total_node.place.is_default() {
            report.help(format!(
                "max_bytes is {} and total_bytes {} unless given",
                show_size(own),
                show_size(total)
            ))
        } else {
            report.also(&total_node.place, "for all clients")
        });
    }
}

/// `first` is not longer than `max`.
fn waits(root: &Table, path: &str, reports: &mut Vec<Report>) {
    let (first, max) = (format!("{path}.first"), format!("{path}.max"));
    let (Some(shorter), Some(longer)) = (root.duration(&first), root.duration(&max)) else {
        return;
    };
    let (Some(first_node), Some(max_node)) = (root.node(&first), root.node(&max)) else {
        return;
    };
    if shorter <= longer {
        return;
    }
    let title = format!("{path}.first is longer than {path}.max");
    let report = if first_node.place.is_default() {
        Report::error("out-of-order", title, &max_node.place, "the longest wait")
            .help(format!("first is {} unless given", first_node.place.text()))
    } else if max_node.place.is_default() {
        Report::error("out-of-order", title, &first_node.place, "the first wait")
            .help(format!("max is {} unless given", max_node.place.text()))
    } else {
        Report::error("out-of-order", title, &first_node.place, "the first wait")
            .also(&max_node.place, "the longest wait")
    };
    reports.push(report);
}

/// The directory where relative paths of this place begin; that of the process for the environment and options.
pub(super) fn base_directory(place: &Place) -> std::path::PathBuf {
    match &place.source.origin {
        Origin::File(directory) => directory.clone(),
        Origin::Default | Origin::Environment | Origin::CommandLine => std::path::PathBuf::new(),
    }
}
