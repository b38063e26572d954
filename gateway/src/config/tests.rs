use crate::config::settings::Radio;
use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use broker::{EmbeddedConfig, EmbeddedLimits, Protocol, RemoteConfig, Transport};
use gateway_core::config::{
    AddressChange, Durability, ForwarderRule, GatewayConfig, PeerMatch, QosMinusOneRule, SearchReply,
    SleepQos0, SleepRules, StatusConfig, StatusRadio, UnknownSender, WhenDown, WhenFull,
};
use gateway_core::peer::LinkId;
use proptest::prelude::*;
use sn_codec::{QoS, TopicId};
use tempfile::TempDir;
use tracing::level_filters::LevelFilter;

use super::*;

mod radios;
mod spool;

#[test]
fn status_topic_has_the_gateways_name_and_can_be_switched_off() {
    let dir = Dir::new();
    let file = dir.write(
        "snipe.toml",
        "[gateway]\nname = \"barn\"\n[mqtt_status]\ntopic = \"{gateway}/status\"\nclients_max = 5\n",
    );
    let status = |set: &[&str]| dir.load_with(&[&file], set).unwrap().settings.gateway.status;
    let on = status(&[]).unwrap();
    assert_eq!((&*on.topic, on.clients), ("barn/status", 5));
    assert_eq!(status(&["mqtt_status.enabled=false"]), None);
}

#[test]
fn start_names_what_was_given_beside_the_files() {
    let mut dir = Dir::new();
    let origin = |dir: &Dir, set: &[&str]| dir.load_with(&[], set).unwrap().origin;
    assert_eq!(origin(&dir, &["gateway.id=7"]), "built-in defaults + --set");
    dir.environment("SNIPE__GATEWAY__ID", "7");
    assert_eq!(origin(&dir, &[]), "built-in defaults + SNIPE__… variables");
}

#[test]
fn nothing_configured_is_the_core_s_own_default() {
    let loaded = Dir::new().load(&[]).unwrap();

    let mut expected = GatewayConfig::default();
    expected.upstream.client_id = "snipe-1".into();
    // The core alone keeps nothing; the gateway does.
    expected.upstream.when_down = WhenDown::Spool;
    expected.durability = Some(Durability {
        links: vec!["udp0".into()],
        spool_messages: 100_000,
        ..Durability::default()
    });
    expected.status = Some(StatusConfig {
        topic: "snipe/1".into(),
        interval: Duration::from_secs(30),
        clients: 1000,
        radios: vec![StatusRadio {
            name: "udp0".into(),
            kind: "udp".into(),
        }],
        version: env!("CARGO_PKG_VERSION").into(),
    });
    assert_eq!(loaded.settings.gateway, expected);
    assert_eq!(loaded.settings.name, "1");
    assert_eq!(loaded.settings.gather, Duration::from_millis(1));
    assert_eq!(loaded.origin, "built-in defaults");
    assert_eq!(loaded.warnings, []);
    let [
        Radio {
            name,
            kind: RadioKind::Udp(udp),
            required: false,
            retry: None,
        },
    ] = &loaded.settings.radios[..]
    else {
        panic!("{:?}", loaded.settings.radios);
    };
    assert_eq!(name, "udp0");
    assert_eq!(
        udp.bind,
        ["0.0.0.0:1883".parse().unwrap(), "[::]:1883".parse().unwrap()]
    );
    assert_eq!(udp.multicast, ["225.1.1.1:1883".parse().unwrap()]);
    assert_eq!((udp.mtu, udp.interface.as_deref()), (1400, None));
    let Broker::Unnamed { embedded, taken } = &loaded.settings.broker else {
        panic!("{:?}", loaded.settings.broker)
    };
    assert_eq!(*embedded, EmbeddedConfig::default());
    assert_eq!(
        (taken.host.as_str(), taken.port, taken.in_flight),
        ("127.0.0.1", 1883, 20)
    );
}

#[test]
fn printed_default_loads_to_the_same_without_a_warning() {
    let dir = Dir::new();
    let built_in = dir.load(&[]).unwrap();

    let printed = dir
        .load(&[&dir.write("snipe.toml", &render::default_file())])
        .unwrap();

    assert_eq!(printed.settings, built_in.settings);
    assert_eq!(printed.warnings, []);
}

#[test]
fn printed_default_is_the_committed_file() {
    assert_eq!(
        fs::read_to_string(configs().join("snipe.toml")).unwrap(),
        render::default_file()
    );
}

/// What is behind a `#` in the printed default must be right too.
#[test]
fn printed_examples_are_valid() {
    let dir = Dir::new();
    dir.write("broker-password", "x");
    let text = render::default_file().replace("/etc/snipe/broker-password", "broker-password");
    let active: String = text
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) if rest.starts_with("[[") || rest.contains(" = ") => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect();

    // One broker or the other is used.
    let active = active.replace("anonymous = true", "# anonymous = true");

    let loaded = dir.load(&[&dir.write("all.toml", &active)]).unwrap();

    assert_eq!(loaded.warnings, []);
    assert_eq!(loaded.settings.gateway.clients.len(), 1);
    assert_eq!(loaded.settings.gateway.predefined.len(), 1);
}

#[test]
fn every_key_in_use_is_explained() {
    fn look(path: &str, shape: &schema::Shape) {
        let fields = shape
            .fields
            .iter()
            .chain(shape.variants.iter().flat_map(|variant| variant.fields));
        for field in fields.filter(|field| field.used) {
            let inline = ["timers.retry", "broker.reconnect", "radio.retry", "radio.reopen"].contains(&path);
            assert!(inline || !field.doc.is_empty(), "{path}.{}", field.name);
            match field.kind {
                schema::Kind::Table(inner) | schema::Kind::Tables(inner) if path.is_empty() => {
                    look(field.name, inner);
                }
                schema::Kind::Table(inner) => look(&format!("{path}.{}", field.name), inner),
                _ => {}
            }
        }
    }
    look("", &schema::ROOT);
}

#[test]
fn examples_load_without_a_warning() {
    let mut seen = 0;
    for entry in fs::read_dir(configs().join("examples")).unwrap() {
        let loaded = Dir::new().load(&[&entry.unwrap().path()]).unwrap();
        assert_eq!(loaded.warnings, [], "{}", loaded.origin);
        seen += 1;
    }
    assert!(seen >= 5);
}

#[test]
fn example_of_predefined_topics_says_what_it_means() {
    let loaded = Dir::new()
        .load(&[&configs().join("examples/predefined-topics.toml")])
        .unwrap();

    let gateway = loaded.settings.gateway;
    assert_eq!(gateway.predefined.len(), 4);
    assert_eq!(gateway.predefined[0].id, TopicId(1));
    assert_eq!(gateway.predefined[0].topic, "greenhouse/{client_id}/temperature");
    assert_eq!(gateway.clients[0].pattern, "pump-*");
    assert_eq!(gateway.clients[0].predefined[1].id, TopicId(10));
    assert_eq!(gateway.clients[1].max_qos, Some(QoS::AtLeastOnce));
    assert_eq!(gateway.upstream.client_id, "snipe-greenhouse");
}

#[test]
fn file_with_every_section_loads_with_warnings_only() {
    let loaded = Dir::new().load(&[&testdata().join("full.toml")]).unwrap();

    let summaries: Vec<String> = loaded.warnings.iter().map(Warning::summary).collect();
    insta::assert_snapshot!(without_path(&summaries.join("\n"), &testdata()));
    let Broker::External(remote) = &loaded.settings.broker else {
        panic!("{:?}", loaded.settings.broker)
    };
    assert_eq!(remote.password.as_deref(), Some("not a secret"));
}

/// The file of every section holds every key of the schema, so that its test covers them all.
#[test]
fn file_with_every_section_has_every_key() {
    fn look(path: &str, shape: &schema::Shape, tables: &[&Table], missing: &mut Vec<String>) {
        let fields = shape.fields.iter().map(|field| (None, field));
        let special = shape.variants.iter().flat_map(|variant| {
            variant
                .fields
                .iter()
                .map(move |field| (Some(variant.kind), field))
        });
        for (kind, field) in fields.chain(special) {
            let path = format!("{path}.{}", field.name);
            let nodes: Vec<&tree::Node> = tables
                .iter()
                .filter(|table| kind.is_none() || table.text("kind") == kind)
                .filter_map(|table| table.fields.get(field.name))
                .filter(|node| !node.place.is_default())
                .collect();
            if nodes.is_empty() {
                missing.push(format!("{path} {}", kind.unwrap_or_default()));
            }
            if let schema::Kind::Table(inner) | schema::Kind::Tables(inner) = field.kind {
                let inside: Vec<&Table> = nodes
                    .iter()
                    .flat_map(|node| match &node.value {
                        tree::Value::Table(table) => std::slice::from_ref(table),
                        tree::Value::Tables(tables) => tables,
                        _ => &[],
                    })
                    .collect();
                look(&path, inner, &inside, missing);
            }
        }
    }
    let args = SourceArgs {
        config: vec![testdata().join("full.toml")],
        ..SourceArgs::default()
    };
    let tree = load_tree(&args, &Dir::new().around).unwrap();

    let mut missing = Vec::new();
    look("", &schema::ROOT, &[&tree.root], &mut missing);

    assert_eq!(missing, Vec::<String>::new());
}

#[test]
fn values_arrive_in_the_settings() {
    let dir = Dir::new();
    dir.write("secret", "s3cret\r\n");
    let file = dir.write(
        "snipe.toml",
        r#"
        [gateway]
        id = 9
        advertise_interval = "0s"
        gather = "0s"
        state_dir = "~/snipe"
        [[radio]]
        name = "a"
        kind = "udp"
        bind = ["127.0.0.1:0"]
        multicast = []
        interface = "lo"
        mtu = 300
        required = true
        [broker]
        url = "mqtt://[::1]"
        protocol = 3
        connections = 4
        username = "u"
        password_file = "secret"
        keep_alive = "0s"
        in_flight = 7
        connect_timeout = "250ms"
        reconnect = { jitter = 0 }
        topic_prefix = "p/"
        when_down = "refuse"
        [timers]
        retry.first = "1s"
        retry.count = 5
        keep_alive_tolerance = 2
        session_expiry = "1d 12h"
        will_handshake = "5s"
        [limits]
        clients = 10
        client_id_bytes = 0x17
        queue_bytes = "1MB"
        per_source_sessions = 3
        [security]
        unknown_sender = "ignore"
        [sleep]
        max_sleep = "12h"
        max_messages = 7
        max_bytes = "1 KiB"
        total_bytes = "1 MiB"
        max_age = "1h"
        when_full = "drop-oldest"
        qos0 = "drop"
        [log]
        level = "debug"
        format = "json"
        targets = { "radio.a" = "trace" }
        file = "snipe.log"
        "#,
    );

    let settings = dir.load(&[&file]).unwrap().settings;

    let expected = Broker::External(RemoteConfig {
        host: "::1".into(),
        port: 1883,
        transport: Transport::Tcp,
        protocol: Protocol::V3,
        username: Some("u".into()),
        password: Some("s3cret".into()),
        keep_alive: Duration::ZERO,
        in_flight: 7,
        connect_timeout: Duration::from_millis(250),
        reconnect: broker::Reconnect {
            first: Duration::from_secs(1),
            max: Duration::from_secs(120),
            jitter: 0.0,
        },
    });
    assert_eq!(settings.broker, expected);
    assert_eq!(settings.state_dir, Path::new("/home/ann/snipe"));
    assert_eq!(settings.gather, Duration::ZERO);
    let gateway = settings.gateway;
    assert_eq!((gateway.gateway_id, gateway.advertise_interval), (9, None));
    assert_eq!(gateway.upstream.client_id, "snipe-9");
    assert_eq!(
        (gateway.upstream.connections, gateway.upstream.when_down),
        (4, WhenDown::Refuse)
    );
    assert_eq!(gateway.upstream.topic_prefix, "p/");
    assert_eq!(
        (gateway.timers.retry_first, gateway.timers.retry_count),
        (Duration::from_secs(1), 5)
    );
    assert_eq!(gateway.timers.retry_max, Duration::from_secs(60));
    assert_eq!(gateway.timers.keep_alive_tolerance_percent, 200);
    assert_eq!(gateway.timers.session_expiry, Duration::from_secs(36 * 3600));
    assert_eq!(gateway.timers.will_handshake, Duration::from_secs(5));
    assert_eq!((gateway.limits.clients, gateway.limits.client_id_bytes), (10, 23));
    assert_eq!(
        (gateway.limits.queue_bytes, gateway.limits.queue_messages),
        (1_000_000, 10_000)
    );
    let sleep = SleepRules {
        max_messages: 7,
        max_bytes: 1024,
        max_age: Duration::from_secs(3600),
        when_full: WhenFull::DropOldest,
        qos0: SleepQos0::Drop,
        max_sleep: Duration::from_secs(12 * 3600),
    };
    assert_eq!(gateway.sleep, sleep);
    assert_eq!(gateway.unknown_sender, UnknownSender::Ignore);
    assert_eq!(gateway.limits.per_source_sessions, 3);
    assert_eq!(gateway.limits.buffer_bytes, 1 << 20);
    assert!(settings.radios[0].required);
    assert_eq!(settings.log.targets, [("radio.a".to_owned(), LevelFilter::TRACE)]);
    assert_eq!(
        (settings.log.level, settings.log.format),
        (LevelFilter::DEBUG, LogFormat::Json)
    );
    assert_eq!(settings.log.file.as_deref(), Some(Path::new("snipe.log")));
}

#[test]
fn rules_of_clients_take_what_they_leave_out_from_the_section() {
    let dir = Dir::new();
    let file = dir.write(
        "snipe.toml",
        "[sleep]\nmax_messages = 7\nwhen_full = \"drop-newest\"\n[security]\naddress_change = \"guarded\"\n\
         [[client]]\nmatch = \"a\"\nsleep = { max_messages = 8, qos0 = \"latest-per-topic\" }\naddress_change = \"strict\"\n\
         [[client]]\nmatch = \"b\"\n",
    );

    let gateway = dir.load(&[&file]).unwrap().settings.gateway;

    assert_eq!(gateway.address_change, AddressChange::Guarded);
    assert_eq!(
        (gateway.sleep.max_messages, gateway.sleep.when_full),
        (7, WhenFull::DropNewest)
    );
    let own = SleepRules {
        max_messages: 8,
        qos0: SleepQos0::LatestPerTopic,
        ..gateway.sleep.clone()
    };
    assert_eq!(gateway.clients[0].sleep, Some(own));
    assert_eq!(gateway.clients[0].address_change, Some(AddressChange::Strict));
    assert_eq!(
        (&gateway.clients[1].sleep, gateway.clients[1].address_change),
        (&None, None)
    );
}

#[test]
fn rules_for_peers_know_radios_by_their_place() {
    let dir = Dir::new();
    let file = dir.write(
        "snipe.toml",
        "gateway.search_reply = \"both\"\nsecurity.search_reply_interval = \"5s\"\n\
         [[radio]]\nname = \"lora\"\nkind = \"dtls\"\n\
         [[radio]]\nname = \"a\"\nkind = \"udp\"\nbind = [\"127.0.0.1:1\"]\n\
         [[radio]]\nname = \"b\"\nkind = \"udp\"\nbind = [\"127.0.0.1:2\"]\n\
         [[forwarder]]\nname = \"roof\"\nradio = \"b\"\nsource = \"10.20.0.7\"\nmax_nodes = 9\npackets_per_second = 8\n\
         [[forwarder]]\nname = \"mast\"\nradio = \"lora\"\n[[forwarder]]\nname = \"rest\"\nsource = \"fd00::/8\"\n\
         [[qos_minus_one]]\nradio = \"a\"\nclient_id = \"x\"\ntopics = [\"a/+\", \"b\"]\n[[qos_minus_one]]\n",
    );

    let gateway = dir.load(&[&file]).unwrap().settings.gateway;

    assert_eq!(gateway.search_reply, SearchReply::UnicastAndBroadcast);
    assert_eq!(gateway.search_reply_interval, Duration::from_secs(5));
    let peers = |link: Option<u16>, source: Option<&str>| PeerMatch {
        link: link.map(LinkId),
        source: source.map(|source| source.parse().unwrap()),
    };
    let forwarder = |name: &str, peers, max_nodes, packets_per_second| ForwarderRule {
        name: name.into(),
        peers,
        max_nodes,
        packets_per_second,
    };
    assert_eq!(
        gateway.forwarders,
        [
            forwarder("roof", peers(Some(1), Some("10.20.0.7/32")), 9, 8),
            // A radio that this version does not drive is none of those it does.
            forwarder("mast", peers(Some(u16::MAX), None), 200, 1000),
            forwarder("rest", peers(None, Some("fd00::/8")), 200, 1000),
        ]
    );
    let minus_one = |peers, client_id: &str, topics: &[&str]| QosMinusOneRule {
        peers,
        client_id: client_id.into(),
        topics: topics.iter().map(ToString::to_string).collect(),
    };
    assert_eq!(
        gateway.qos_minus_one,
        [
            minus_one(peers(Some(0), None), "x", &["a/+", "b"]),
            minus_one(peers(None, None), "anon-{address}", &["#"]),
        ]
    );
}

#[test]
fn later_files_override_keys_and_named_entries() {
    let dir = Dir::new();
    let first = dir.write(
        "a.toml",
        "gateway.id = 1\ngateway.name = \"a\"\n[[radio]]\nname = \"x\"\nkind = \"udp\"\nmtu = 500\n\
         [[predefined]]\nid = 1\ntopic = \"one\"\n[[predefined]]\nid = 2\ntopic = \"two\"\n\
         [[client]]\nmatch = \"p*\"\nmax_qos = 1\npredefined = [{ id = 1, topic = \"p\" }]\n",
    );
    let second = dir.write(
        "b.toml",
        "gateway.id = 2\n[[radio]]\nname = \"x\"\nbind = [\"127.0.0.1:7\"]\n[[predefined]]\nid = 2\ntopic = \"zwei\"\n\
         [[client]]\nmatch = \"p*\"\npredefined = [{ id = 2, topic = \"q\" }]\n",
    );

    let settings = dir.load(&[&first, &second]).unwrap().settings;

    assert_eq!((settings.gateway.gateway_id, settings.name.as_str()), (2, "a"));
    let [
        Radio {
            kind: RadioKind::Udp(udp),
            ..
        },
    ] = &settings.radios[..]
    else {
        panic!()
    };
    assert_eq!((udp.mtu, udp.bind[0].port()), (500, 7));
    let topics: Vec<&str> = settings
        .gateway
        .predefined
        .iter()
        .map(|entry| entry.topic.as_str())
        .collect();
    assert_eq!(topics, ["one", "zwei"]);
    assert_eq!(settings.gateway.clients.len(), 1);
    assert_eq!(settings.gateway.clients[0].predefined.len(), 2);
    assert_eq!(settings.gateway.clients[0].max_qos, Some(QoS::AtLeastOnce));
}

#[test]
fn layers_override_in_order() {
    let mut dir = Dir::new();
    dir.write("conf.d/20.toml", "gateway.id = 20\n[log]\nlevel = \"error\"\n");
    dir.write("conf.d/10.toml", "gateway.id = 10\n");
    dir.write("conf.d/ignored.toml.bak", "gateway.id = 11\n");
    let default_file = dir.write("etc.toml", "[gateway]\nid = 2\nname = \"file\"\n");
    dir.around.default_file = default_file.clone();

    assert_eq!(dir.load(&[]).unwrap().settings.gateway.gateway_id, 20);
    let origin = dir.load(&[]).unwrap().origin;
    assert_eq!(
        without_path(&origin, dir.path()),
        "etc.toml, conf.d/10.toml, conf.d/20.toml"
    );

    dir.environment("SNIPE__GATEWAY__ID", "30");
    assert_eq!(dir.load(&[]).unwrap().settings.gateway.gateway_id, 30);

    let args = SourceArgs {
        set: vec!["gateway.id=40".into(), "gateway.id=41".into()],
        ..SourceArgs::default()
    };
    let settings = load_tree(&args, &dir.around).unwrap().loaded.settings;
    assert_eq!(
        (settings.gateway.gateway_id, settings.name.as_str()),
        (41, "file")
    );
    assert_eq!(settings.log.level, LevelFilter::ERROR);
}

#[test]
fn overrides_reach_named_entries() {
    let mut dir = Dir::new();
    dir.environment("SNIPE__RADIO__UDP0__MTU", "512");
    dir.environment("SNIPE__PREDEFINED__7__TOPIC", "seven");
    let set = [
        "radio.udp0.bind=127.0.0.1:1884",
        "radio.udp1.kind=udp",
        "radio.udp1.bind=[\"127.0.0.1:1885\"]",
        "client.\"pump-*\".max_qos=1",
        "client.\"pump-*\".predefined.10.topic=pump/set",
        "broker.username=42",
        "gateway.name=true",
        "gateway.advertise_interval=20m",
        "log.targets.\"radio.udp0\"=debug",
    ];
    let args = SourceArgs {
        set: set.map(str::to_owned).to_vec(),
        ..SourceArgs::default()
    };

    let settings = load_tree(&args, &dir.around).unwrap().loaded.settings;

    let radios: Vec<_> = settings
        .radios
        .iter()
        .map(|radio| match &radio.kind {
            RadioKind::Udp(udp) => (radio.name.as_str(), udp.bind[0].port(), udp.mtu),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(radios, [("udp0", 1884, 512), ("udp1", 1885, 1400)]);
    assert_eq!(settings.gateway.predefined[0].id, TopicId(7));
    assert_eq!(settings.gateway.clients[0].pattern, "pump-*");
    assert_eq!(settings.gateway.clients[0].predefined[0].topic, "pump/set");
    assert_eq!(settings.name, "true");
    assert_eq!(
        settings.gateway.advertise_interval,
        Some(Duration::from_secs(1200))
    );
    assert_eq!(
        settings.log.targets,
        [("radio.udp0".to_owned(), LevelFilter::DEBUG)]
    );
    let Broker::Unnamed { taken, .. } = settings.broker else {
        panic!("{:?}", settings.broker)
    };
    assert_eq!(taken.username.as_deref(), Some("42"));
}

/// The environment has neither lower case nor hyphens.
#[test]
fn environment_finds_entries_by_a_simplified_name() {
    let mut dir = Dir::new();
    let file = dir.write("a.toml", "[[radio]]\nname = \"East-Wing\"\nkind = \"udp\"\n");
    dir.environment("SNIPE__RADIO__EAST_WING__MTU", "512");

    let settings = dir.load(&[&file]).unwrap().settings;

    let [
        Radio {
            name,
            kind: RadioKind::Udp(udp),
            ..
        },
    ] = &settings.radios[..]
    else {
        panic!()
    };
    assert_eq!((name.as_str(), udp.mtu), ("East-Wing", 512));
}

#[test]
fn broker_option_decides() {
    let dir = Dir::new();
    let file = dir.write("a.toml", "[broker]\nkind = \"embedded\"\nin_flight = 3\n");
    let with = |broker: &str| {
        let args = SourceArgs {
            config: vec![file.clone()],
            broker: Some(broker.into()),
            ..SourceArgs::default()
        };
        load_tree(&args, &dir.around).unwrap().loaded.settings.broker
    };

    assert_eq!(with("embedded"), Broker::Embedded(EmbeddedConfig::default()));
    let Broker::External(remote) = with("mqtt://ann:pw@h:1") else {
        panic!()
    };
    assert_eq!((remote.host.as_str(), remote.port, remote.in_flight), ("h", 1, 3));
    assert_eq!(
        (remote.username.as_deref(), remote.password.as_deref()),
        (Some("ann"), Some("pw"))
    );
}

#[test]
fn keys_of_the_embedded_broker_arrive_in_the_settings() {
    let dir = Dir::new();
    let file = dir.write(
        "a.toml",
        "[broker.embedded]\nbind = [\"127.0.0.1:1884\", \"[::1]:1884\"]\nconnections_max = 1\nsessions_max = 2\n\
         subscriptions_max = 3\nretained_max = 4\npacket_bytes = 500\nqueue_messages = 6\nqueue_bytes = \"7 KiB\"\n",
    );

    let settings = dir.load(&[&file]).unwrap().settings;

    let expected = EmbeddedConfig {
        bind: vec!["127.0.0.1:1884".parse().unwrap(), "[::1]:1884".parse().unwrap()],
        limits: EmbeddedLimits {
            connections_max: 1,
            sessions_max: 2,
            subscriptions_max: 3,
            retained_max: 4,
            packet_bytes: 500,
            queue_messages: 6,
            queue_bytes: 7 << 10,
        },
    };
    // Who gives it an address means it: another broker there will not do.
    assert_eq!(settings.broker, Broker::Embedded(expected));
}

#[test]
fn bounds_alone_do_not_ask_for_the_embedded_broker() {
    let dir = Dir::new();
    let file = dir.write("a.toml", "[broker.embedded]\nretained_max = 5\n");

    let Broker::Unnamed { embedded, .. } = dir.load(&[&file]).unwrap().settings.broker else {
        panic!()
    };

    assert_eq!(embedded.limits.retained_max, 5);
}

/// What counts is that it was given, not what it is.
#[test]
fn an_address_asks_for_the_embedded_broker_even_if_it_is_the_default() {
    let dir = Dir::new();
    let asked = Broker::Embedded(EmbeddedConfig::default());

    let file = dir.write("a.toml", "[broker.embedded]\nbind = [\"127.0.0.1:1883\"]\n");
    assert_eq!(dir.load(&[&file]).unwrap().settings.broker, asked);
    let args = SourceArgs {
        set: vec!["broker.embedded.bind=[\"127.0.0.1:1883\"]".into()],
        ..SourceArgs::default()
    };
    assert_eq!(
        load_tree(&args, &dir.around).unwrap().loaded.settings.broker,
        asked
    );
}

/// The effective values are a file that says the same, so what nobody gave stands behind a `#`.
#[test]
fn shown_values_ask_for_the_embedded_broker_only_if_asked() {
    let dir = Dir::new();
    let own = "[broker.embedded]\nbind = [\"127.0.0.1:1883\"]\n";
    for text in ["", own] {
        let args = SourceArgs {
            config: vec![dir.write("a.toml", text)],
            ..SourceArgs::default()
        };
        let tree = load_tree(&args, &dir.around).unwrap();

        let shown = dir.write("b.toml", &render::effective(&tree.root, None));

        let broker = dir.load(&[&shown]).unwrap().settings.broker;
        assert_eq!(broker, tree.loaded.settings.broker);
    }
}

#[test]
fn what_an_external_broker_leaves_unused_is_warned_about() {
    let dir = Dir::new();
    let warnings = |text: &str, broker: Option<&str>| -> Vec<String> {
        let args = SourceArgs {
            config: vec![dir.write("a.toml", text)],
            broker: broker.map(str::to_owned),
            ..SourceArgs::default()
        };
        let warnings = load_tree(&args, &dir.around).unwrap().loaded.warnings;
        warnings.iter().map(Warning::to_string).collect()
    };
    let own = "[broker.embedded]\nbind = [\"127.0.0.1:1884\"]\n";

    let said = warnings(&format!("[broker]\nurl = \"mqtt://h\"\n{own}"), None);
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("[broker.embedded] is not used"), "{said:?}");
    // Values that the printed default has anyway, and a file that an option overrides.
    let printed = render::default_file().replace("# url = ", "url = ");
    assert_eq!(warnings(&printed, None), <[String; 0]>::default());
    assert_eq!(warnings(own, Some("mqtt://h")), <[String; 0]>::default());

    dir.write("word", "secret");
    let said = warnings(
        "[broker]\nurl = \"mqtt://u:p@h\"\nusername = \"ann\"\npassword_file = \"word\"\n",
        None,
    )
    .join("\n");
    assert!(
        said.contains("the user name in broker.url is not used: broker.username is"),
        "{said}"
    );
    assert!(
        said.contains("the password in broker.url is not used: broker.password_file is"),
        "{said}"
    );
    assert!(!said.contains("u:p@"), "{said}");
}

#[test]
fn a_slip_in_the_broker_option_is_corrected() {
    let dir = Dir::new();
    let errors = |broker: &str| {
        let args = SourceArgs {
            broker: Some(broker.into()),
            ..SourceArgs::default()
        };
        load_tree(&args, &dir.around).unwrap_err().to_string()
    };

    for slip in ["embeded", "Embedded"] {
        assert!(
            errors(slip).contains("did you mean `--broker embedded`?"),
            "{}",
            errors(slip)
        );
    }
    assert!(!errors("localhost:1883").contains("did you mean"));
    let file = dir.write("a.toml", "[broker]\nurl = \"embedded\"\n");
    let said = dir.load(&[&file]).unwrap_err().to_string();
    assert!(said.contains("did you mean kind = \"embedded\"?"), "{said}");
}

#[test]
fn an_embedded_broker_for_the_network_has_to_be_meant() {
    let dir = Dir::new();
    let bind = "[broker.embedded]\nbind = [\"192.168.1.5:1883\"]\n";

    let meant = dir.load(&[&dir.write("a.toml", &format!("{bind}anonymous = true\n"))]);
    assert_eq!(meant.unwrap().warnings, []);
    // Another broker is used, so nothing is opened.
    let external = format!("{bind}[broker]\nurl = \"mqtt://h\"\n");
    assert!(dir.load(&[&dir.write("b.toml", &external)]).is_ok());
    assert!(dir.load(&[&dir.write("c.toml", bind)]).is_err());
}

#[test]
fn state_goes_where_the_platform_keeps_state() {
    let state_dir = |variables: &[(&str, &str)]| {
        let mut dir = Dir::new();
        variables
            .iter()
            .for_each(|(name, value)| dir.environment(name, value));
        dir.load(&[]).unwrap().settings.state_dir
    };

    assert_eq!(state_dir(&[]), Path::new("/home/ann/.local/state/snipe"));
    assert_eq!(state_dir(&[("XDG_STATE_HOME", "/x")]), Path::new("/x/snipe"));
    assert_eq!(
        state_dir(&[("XDG_STATE_HOME", "relative")]),
        Path::new("/home/ann/.local/state/snipe")
    );
    let service = [
        ("STATE_DIRECTORY", "/var/lib/snipe:/var/lib/more"),
        ("XDG_STATE_HOME", "/x"),
    ];
    assert_eq!(state_dir(&service), Path::new("/var/lib/snipe"));
}

#[test]
fn effective_values_load_to_the_same() {
    let dir = Dir::new();
    let shown = |file: &Path| {
        let args = SourceArgs {
            config: vec![file.to_owned()],
            ..SourceArgs::default()
        };
        let tree = load_tree(&args, &dir.around).unwrap();
        (render::effective(&tree.root, None), tree.loaded.settings)
    };
    dir.write("broker-password", "not a secret\n");
    for file in [
        testdata().join("full.toml"),
        configs().join("examples/predefined-topics.toml"),
    ] {
        let (text, settings) = shown(&file);
        let (again, same) = shown(&dir.write("shown.toml", &text));
        assert_eq!(text, again);
        assert_eq!(settings, same);
    }
}

#[test]
fn origins_tell_file_variable_option_and_what_they_hide() {
    let mut dir = Dir::new();
    dir.write("pw", "secret");
    let file = dir.write(
        "snipe.toml",
        "[broker]\nurl = \"mqtt://ann:secret@a\"\npassword_file = \"pw\"\nkeep_alive = \"90s\"\n\
         [[client]]\nmatch = \"pump-*\"\nmax_qos = 1\n",
    );
    dir.environment("SNIPE__BROKER__URL", "mqtt://ann:secret@b");
    let args = SourceArgs {
        config: vec![file],
        set: vec!["broker.protocol=3".into()],
        ..SourceArgs::default()
    };

    let tree = load_tree(&args, &dir.around).unwrap();
    let broker = without_path(&render::origins(&tree.root, Some("broker"), true), dir.path());
    let client = without_path(&render::origins(&tree.root, Some("client"), true), dir.path());

    assert!(!broker.contains("secret") && !render::effective(&tree.root, None).contains("secret"));
    insta::assert_snapshot!(format!("{broker}\n{client}"));
}

#[test]
fn mistakes_are_shown_with_their_lines() {
    for (name, text) in BAD {
        let dir = Dir::new();
        let errors = dir
            .load(&[&dir.write("snipe.toml", text)])
            .expect_err(name)
            .to_string();
        insta::assert_snapshot!(*name, without_path(&errors, dir.path()));
    }
}

#[test]
fn doubts_are_shown_with_their_lines() {
    let dir = Dir::new();
    let file = dir.write(
        "snipe.toml",
        "[gateway]\nadvertise_interval = \"10m\"\n[broker]\nkind = \"embedded\"\nurl = \"mqtt://h\"\n\
         when_down = \"spool\"\nprofile = \"emqx\"\n[[client]]\nmatch = \"*\"\n[[client]]\nmatch = \"pump\"\n\
         [log]\nformat = \"journald\"\n[web]\nread_only = true\nhistory = \"1h\"\n[[radio]]\nname = \"l\"\nkind = \"dtls\"\n\
         [[radio]]\nname = \"u\"\nkind = \"udp\"\nbind = [\"127.0.0.1:1883\"]\nmulticast = [\"225.1.1.1:1883\", \"[ff03::1]:1883\"]\n",
    );

    let warnings: Vec<String> = dir
        .load(&[&file])
        .unwrap()
        .warnings
        .iter()
        .map(Warning::to_string)
        .collect();

    insta::assert_snapshot!(without_path(&warnings.join("\n\n"), dir.path()));
}

#[test]
fn targets_that_no_line_has_are_shown_with_what_is_meant() {
    let dir = Dir::new();
    let file = dir.write(
        "snipe.toml",
        "[log]\ntargets = { \"cleint\" = \"debug\", \"radio.u\" = \"trace\", \"x\" = \"warn\", \"broker\" = \"info\", \"cli\" = \"info\" }\n",
    );
    let warnings = dir.load(&[&file]).unwrap().warnings;
    let warnings: Vec<String> = warnings.iter().map(Warning::to_string).collect();
    insta::assert_snapshot!(without_path(&warnings.join("\n\n"), dir.path()));
}

#[test]
fn doubts_about_peers_and_sleep_are_shown_with_their_lines() {
    let dir = Dir::new();
    let file = dir.write(
        "snipe.toml",
        "[gateway]\nsearch_reply = \"both\"\n\
         [[radio]]\nname = \"u\"\nkind = \"udp\"\nmulticast = []\n\
         [[forwarder]]\nname = \"house\"\nradio = \"u\"\nsource = \"10.20.0.7/16\"\n\
         [[forwarder]]\nname = \"roof\"\nradio = \"u\"\nsource = \"10.20.0.8\"\n\
         [[forwarder]]\nname = \"other\"\nsource = \"10.20.0.8\"\n\
         [[qos_minus_one]]\n[[qos_minus_one]]\nradio = \"u\"\n\
         [sleep]\ntotal_bytes = \"32 KiB\"\n[[client]]\nmatch = \"a\"\nsleep = { max_bytes = \"33 KiB\" }\n",
    );

    let warnings: Vec<String> = dir
        .load(&[&file])
        .unwrap()
        .warnings
        .iter()
        .map(Warning::to_string)
        .collect();

    insta::assert_snapshot!(without_path(&warnings.join("\n\n"), dir.path()));
}

#[test]
fn mistakes_in_overrides_name_their_source() {
    let mut dir = Dir::new();
    dir.environment("SNIPE__GATEWAY__ID", "x");
    dir.environment("SNIPE__RADIO__UPD0__MTU", "400");
    dir.environment("SNIPE__COLOUR", "red");
    dir.environment("SNIPE__LIMITS", "none");
    dir.environment("SNIPE__LIMITS__CLIENTS", "5");
    let set = [
        "gateway.id",
        "radio.udp0.bind=[1",
        "radio.udp0.mtu=1",
        "radio=5",
        "predefined.seven.topic=a",
        "log.level=loud",
    ];
    let args = SourceArgs {
        config: vec![dir.path().join("missing.toml")],
        set: set.map(str::to_owned).to_vec(),
        broker: Some("localhost".into()),
        ephemeral: false,
    };

    let errors = load_tree(&args, &dir.around).unwrap_err().to_string();

    insta::assert_snapshot!(without_path(&errors, dir.path()));
}

#[test]
fn excerpts_hide_passwords() {
    let dir = Dir::new();
    let file = dir.write("a.toml", "[broker]\nurl = \"mqtts://ann:secret@h\"\n");

    let errors = dir.load(&[&file]).unwrap_err().to_string();

    assert!(errors.contains("url = \"mqtts://ann:******@h\""), "{errors}");
}

#[test]
fn files_that_are_no_text_are_refused() {
    let dir = Dir::new();
    fs::write(dir.path().join("binary.toml"), b"a = 1\nb = \"\xff\"\n").unwrap();

    let binary = dir
        .load(&[&dir.path().join("binary.toml")])
        .unwrap_err()
        .to_string();
    let directory = dir.load(&[dir.path()]).unwrap_err().to_string();

    assert!(binary.contains("line 2 is not UTF-8"), "{binary}");
    assert!(directory.contains("error[unreadable]"), "{directory}");
}

proptest! {
    #[test]
    fn any_text_is_answered(text in ".{0,200}") {
        let dir = Dir::new();
        let _ = dir.load(&[&dir.write("any.toml", &text)]).map_err(|errors| errors.to_string());
    }

    /// Lines from the words that configurations are made of come further than arbitrary text.
    #[test]
    fn any_mixture_of_known_words_is_answered(lines in prop::collection::vec(any_line(), 0..12)) {
        let dir = Dir::new();
        let file = dir.write("any.toml", &lines.join("\n"));
        match dir.load(&[&file]) {
            Ok(loaded) => loaded.warnings.iter().for_each(|warning| assert!(!warning.to_string().is_empty())),
            Err(errors) => assert!(errors.to_string().contains("any.toml: ")),
        }
    }

    #[test]
    fn any_override_is_answered(settings in prop::collection::vec("[a-z0-9.\"'=\\[{ é]{0,30}", 0..4), value in ".{0,20}") {
        let mut dir = Dir::new();
        dir.environment("SNIPE__RADIO__UDP0__BIND", &value);
        dir.environment("SNIPE____X", &value);
        let args = SourceArgs { set: settings, broker: Some(value), ..SourceArgs::default() };
        let _ = load_tree(&args, &dir.around).map_err(|errors| errors.to_string());
    }
}

fn any_line() -> impl Strategy<Value = String> {
    let header = prop::sample::select(vec![
        "[gateway]",
        "[[radio]]",
        "[broker]",
        "[[predefined]]",
        "[[client]]",
        "[timers]",
        "[limits]",
        "[sleep]",
        "[security]",
        "[[forwarder]]",
        "[[qos_minus_one]]",
        "[log]",
        "[web]",
    ]);
    let key = prop::sample::select(vec![
        "id",
        "name",
        "kind",
        "bind",
        "multicast",
        "mtu",
        "url",
        "topic",
        "match",
        "predefined",
        "retry",
        "targets",
        "level",
        "gather",
        "queue_bytes",
        "retry.first",
        "\"\"",
        "é",
        "radio",
        "client",
        "source",
        "topics",
        "max_bytes",
        "sleep",
        "sync",
        "version",
    ]);
    let value = prop::sample::select(vec![
        "1",
        "-1",
        "65536",
        "99999999999999999999",
        "1e400",
        "nan",
        "true",
        "\"\"",
        "\"udp\"",
        "\"lora\"",
        "\"a+é#\"",
        "\"{client_id}{\"",
        "\"1s\"",
        "\"9 KiB\"",
        "[]",
        "[[]]",
        "{}",
        "[{ id = 1, topic = \"a\" }, { id = 1 }]",
        "[\"0.0.0.0:1883\", \"0.0.0.0:1883\"]",
        "1979-05-27",
        "\"mqtt://h\"",
        "\"10.0.0.9/8\"",
        "\"udp0\"",
        "\"\"\"\na\n\"\"\"",
        "{ first = \"9h\" }",
    ]);
    prop_oneof![
        1 => header.prop_map(str::to_owned),
        3 => (key, value).prop_map(|(key, value)| format!("{key} = {value}")),
    ]
}

/// A configuration for each rule.
const BAD: &[(&str, &str)] = &[
    ("syntax", "[gateway]\nid = \n"),
    ("syntax_at_the_end", "gateway = ["),
    ("duplicate_key", "[gateway]\nid = 1\nid = 2\n"),
    ("version", "version = 2\n"),
    ("unknown_section", "[gatway]\nid = 1\n"),
    (
        "unknown_keys",
        "[gateway]\nidd = 1\nin_flight = 4\nzzz = 0\n[timers]\nretry = { frist = \"1s\" }\n",
    ),
    (
        "key_of_another_kind",
        "[[radio]]\nname = \"l\"\nkind = \"xbee\"\nport = \"p\"\nmulticast = []\n[[radio]]\nname = \"u\"\nkind = \"udp\"\nbaud = 9600\n",
    ),
    (
        "wrong_types",
        "gateway = 5\n[[radio]]\nname = 1\nkind = \"udp\"\nbind = \"0.0.0.0:1883\"\nmtu = \"big\"\nrequired = 1\n\
         [broker]\nkeep_alive = 60\n[timers]\nkeep_alive_tolerance = \"1.5\"\nretry = \"10s\"\n[limits]\nqueue_bytes = 1024\n\
         [log]\nlevel = 3\ntargets = []\n[web]\nread_only = \"yes\"\n",
    ),
    ("table_instead_of_array", "[predefined]\nid = 1\ntopic = \"a\"\n"),
    ("no_tables_in_array", "predefined = [1]\n"),
    (
        "out_of_range",
        "[gateway]\nid = 0\nadvertise_interval = \"19h\"\ngather = \"2s\"\n[broker]\nconnections = 65\nin_flight = 99999999999999999999\n\
         reconnect = { jitter = 1.5 }\n[timers]\nkeep_alive_tolerance = nan\n[limits]\nmemory = \"1 KiB\"\nclient_id_bytes = 22\n\
         queue_messages = 0\nqueue_bytes = \"0 B\"\n",
    ),
    (
        "invalid_words",
        "[broker]\nkind = \"extern\"\nprotocol = 4\nwhen_down = \"spol\"\n[[radio]]\nname = \"r\"\nkind = \"upd\"\nmtu = 3\n",
    ),
    (
        "words_cut_short",
        "[security]\naddress_change = \"guard\"\n[sleep]\nwhen_full = \"drop\"\n[log]\nformat = \"jsonl\"\nlevel = \"in\"\n",
    ),
    (
        "units",
        "[gateway]\ngather = \"1.5ms\"\n[timers]\nsession_expiry = \"30\"\n[limits]\nqueue_bytes = \"8 mb\"\n",
    ),
    (
        "addresses",
        "[[radio]]\nname = \"r\"\nkind = \"udp\"\nbind = [\"localhost:1883\", \"0.0.0.0\", \"225.1.1.1:1883\"]\n\
         multicast = [\"10.0.0.1:1883\", \"[fe80::1]:1883\"]\ninterface = \"\"\n",
    ),
    (
        "no_address",
        "[[radio]]\nname = \"r\"\nkind = \"udp\"\nbind = []\n",
    ),
    (
        "two_radios_on_one_address",
        "[[radio]]\nname = \"a\"\nkind = \"udp\"\nbind = [\"0.0.0.0:1883\", \"127.0.0.1:0\", \"127.0.0.1:0\"]\n\
         [[radio]]\nname = \"b\"\nkind = \"udp\"\nbind = [\"0.0.0.0:1883\", \"10.0.0.1:1883\", \"[::]:1883\"]\n",
    ),
    (
        "duplicate_radio_name",
        "[[radio]]\nname = \"a\"\nkind = \"udp\"\n[[radio]]\nname = \"a\"\nkind = \"udp\"\n",
    ),
    (
        "missing_keys",
        "[[radio]]\nname = \"a\"\n[[radio]]\nkind = \"udp\"\n[[predefined]]\nid = 1\n[[client]]\nmax_qos = 1\n",
    ),
    (
        "predefined_topics",
        "[[predefined]]\nid = 0\ntopic = \"a\"\n[[predefined]]\nid = 65535\ntopic = \"\"\n[[predefined]]\nid = 65536\ntopic = \"b\"\n\
         [[predefined]]\nid = 7\ntopic = \"plant/+/temp\"\n[[predefined]]\nid = 7\ntopic = \"c\"\n[[predefined]]\nid = 8\ntopic = \"a\\u0000b\"\n\
         [[predefined]]\nid = 9\ntopic = \"{radio}/{client_id}/{clientid}\"\n",
    ),
    (
        "predefined_topics_of_clients",
        "[[predefined]]\nid = 1\ntopic = \"fine\"\n[[client]]\nmatch = \"pump-*\"\nmax_qos = 3\n\
         predefined = [\n  { id = 1, topic = \"fine too\" },\n  { id = 2, topic = \"#\" },\n  { id = 1, topic = \"b\" },\n]\n",
    ),
    (
        "client_rules",
        "[[client]]\nmatch = \"\"\n[[client]]\nmatch = \"a\"\n[[client]]\nmatch = \"a\"\n",
    ),
    (
        "topic_too_long",
        "[[radio]]\nname = \"r\"\nkind = \"udp\"\nmtu = 24\n[[predefined]]\nid = 1\ntopic = \"a/topic/that/is/too/long\"\n\
         [[predefined]]\nid = 2\ntopic = \"{client_id}/fits/well\"\n",
    ),
    (
        "gateway_name",
        "[gateway]\nname = \"green/house\"\n[[radio]]\nname = \"\"\nkind = \"udp\"\n",
    ),
    ("stands_by_for_itself", "[gateway]\nid = 2\nstand_by_for = 2\n"),
    (
        "stands_by_without_advertise",
        "[gateway]\nstand_by_for = 2\nadvertise_interval = \"0s\"\n",
    ),
    (
        "parts_of_seconds",
        "[gateway]\nadvertise_interval = \"16m 1ms\"\n[broker]\nkeep_alive = \"500ms\"\ntopic_prefix = \"{gateway}/\"\n",
    ),
    (
        "forwarders",
        "[[forwarder]]\nradio = \"udp0\"\n[[forwarder]]\nname = \"a/b\"\nradio = \"upd0\"\nsource = \"10.0.0.1:1883\"\n\
         [[forwarder]]\nname = \"c\"\nsource = 10\nmax_nodes = -1\n[[forwarder]]\nname = \"c\"\nradio = \"roof\"\n",
    ),
    (
        "qos_minus_one",
        "[[qos_minus_one]]\nsource = \"10.0.0.0/33\"\nclient_id = \"anon/{client_id}\"\ntopics = [\"a/#/b\", \"\", \"ok/+\"]\n\
         [[qos_minus_one]]\ntopics = \"a\"\n",
    ),
    (
        "sleep",
        "[sleep]\nmax_age = \"0s\"\nwhen_full = \"drop\"\nqos0 = \"all\"\n[security]\naddress_change = \"closed\"\n\
         [[client]]\nmatch = \"a\"\nsleep = { total_bytes = \"1h\", max_messages = \"ten\" }\n[limits]\nbuffer_bytes = \"8 MiB\"\n",
    ),
    (
        "spool",
        "[spool]\nmax_messages = 0\nmax_bytes = \"0 B\"\nmax_age = \"0s\"\nwhen_full = \"drop\"\nsync = \"always\"\nqos0 = 1\n\
         daily_write_budget = 5\n",
    ),
    ("status_empty", "[mqtt_status]\ntopic = \"\"\n"),
    (
        "status_wildcard",
        "[mqtt_status]\ntopic = \"snipe/+/{gateway}\"\ninterval = \"0s\"\nclients_max = 1_000_000\n",
    ),
    ("status_slash", "[mqtt_status]\ntopic = \"snipe/{gateway}/\"\n"),
    (
        "status_of_the_broker",
        "[mqtt_status]\ntopic = \"$SYS/{client_id}\"\n",
    ),
    ("transparent", "[gateway]\nmode = \"transparent\"\n"),
    (
        "embedded_beyond_loopback",
        "[broker.embedded]\nbind = [\"127.0.0.1:1883\", \"0.0.0.0:1884\", \"[::]:1884\"]\n",
    ),
    ("embedded_with_logins", "[broker.embedded]\nanonymous = false\n"),
    (
        "embedded_addresses",
        "[broker]\nkind = \"embedded\"\nembedded.anonymous = true\nembedded.bind = [\"0.0.0.0:1883\", \"127.0.0.1:1883\", \"225.1.1.1:1883\"]\n",
    ),
    ("embedded_key_elsewhere", "[broker]\nretained_max = 5\n"),
    ("embedded_without_address", "[broker.embedded]\nbind = []\n"),
    (
        "embedded_bounds",
        "[broker.embedded]\nconnections_max = 0\npacket_bytes = 2_000_000\nqueue_messages = \"many\"\n",
    ),
    ("broker_without_url", "[broker]\nkind = \"external\"\n"),
    ("broker_url", "[broker]\nurl = \"127.0.0.1:1883\"\n"),
    ("broker_scheme", "[broker]\nurl = \"mqtts://mqtt.example.org\"\n"),
    (
        "broker_names",
        "[broker]\nclient_id = \"\"\nusername = \"a\\u0000\"\ntopic_prefix = \"a/#/\"\n",
    ),
    (
        "prefix_of_the_broker",
        "[broker]\ntopic_prefix = \"$SYS/sensors/\"\n",
    ),
    (
        "password_file",
        "[broker]\npassword_file = \"no-such-file\"\nusername = \"ann\"\n",
    ),
    (
        "password_without_user",
        "[broker]\nprotocol = 3\npassword_file = \"snipe.toml\"\n",
    ),
    (
        "retry_order",
        "[timers]\nretry = { first = \"2m\" }\n[broker]\nreconnect = { first = \"3s\", max = \"2s\" }\n",
    ),
    (
        "retry_order_against_the_default",
        "[timers]\nretry.max = \"1s\"\n",
    ),
    (
        "letters_of_every_width",
        "[gateway]\nname = \"Gewächshaus 🌱\"\n\"größe\" = \"日本\"\n",
    ),
];

/// A directory of configuration files, and a process that sees nothing else.
struct Dir {
    directory: TempDir,
    around: Surroundings,
}

impl Dir {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let around = Surroundings {
            variables: Vec::new(),
            default_file: directory.path().join("no-default.toml"),
            home: Some("/home/ann".into()),
        };
        Dir { directory, around }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    fn environment(&mut self, name: &str, value: &str) {
        self.around
            .variables
            .push((OsString::from(name), OsString::from(value)));
    }

    fn load(&self, files: &[&Path]) -> Result<Loaded, ConfigErrors> {
        self.load_with(files, &[])
    }

    /// The same with `--set` options.
    fn load_with(&self, files: &[&Path], set: &[&str]) -> Result<Loaded, ConfigErrors> {
        let config = files.iter().map(|file| file.to_path_buf()).collect();
        load_tree(
            &SourceArgs {
                config,
                set: set.iter().map(|set| (*set).to_owned()).collect(),
                ..SourceArgs::default()
            },
            &self.around,
        )
        .map(|tree| tree.loaded)
    }
}

fn configs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs")
}

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config/testdata")
}

fn without_path(text: &str, directory: &Path) -> String {
    text.replace(&format!("{}/", directory.display()), "")
}
