//! What a configuration may hold: every section, key, type, range, default and one line about each.
//!
//! One table serves three ends: it checks files ([`super::walk`]), it fills in what they leave out
//! ([`super::tree`]), and it prints `snipe config default` ([`super::render`]). They cannot disagree.

use core::time::Duration;

/// A table of the configuration.
#[derive(Debug)]
pub(super) struct Shape {
    /// Keys, in the order in which they are printed.
    pub(super) fields: &'static [Field],
    /// Further keys that depend on the value of the key `kind`.
    pub(super) variants: &'static [Variant],
    /// For arrays of tables: the key that tells their entries apart.
    pub(super) identity: Option<Identity>,
}

/// The further keys of one value of `kind`.
#[derive(Debug)]
pub(super) struct Variant {
    /// The value.
    pub(super) kind: &'static str,
    /// Its keys.
    pub(super) fields: &'static [Field],
    /// Whether this version does anything with it.
    pub(super) used: bool,
    /// One line about it.
    pub(super) doc: &'static str,
}

/// How the entries of an array of tables are told apart.
#[derive(Debug)]
pub(super) struct Identity {
    /// The key.
    pub(super) key: &'static str,
    /// What to call an entry: `radio`, `predefined topic id`.
    pub(super) noun: &'static str,
    /// The code of the error about two that are the same.
    pub(super) code: &'static str,
    /// What to do about two that are the same.
    pub(super) help: &'static str,
}

/// A key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    /// Its name.
    pub(super) name: &'static str,
    /// What it may hold.
    pub(super) kind: Kind,
    /// What it is when nobody says, as TOML; `None` where that is "nothing" or depends on other things.
    pub(super) default: Option<&'static str>,
    /// A value to show, as TOML, where there is no default.
    pub(super) example: Option<&'static str>,
    /// An entry without it is an error.
    pub(super) required: bool,
    /// To give it says more than its value does, so a default is printed behind a `#`.
    pub(super) telling: bool,
    /// Whether this version does anything with it.
    pub(super) used: bool,
    /// One line about it.
    pub(super) doc: &'static str,
}

/// What a key may hold.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// `true` or `false`.
    Bool,
    /// A whole number in a range.
    Integer(i64, i64),
    /// One of a few whole numbers.
    Number(&'static [i64]),
    /// A number in a range.
    Float(f64, f64),
    /// Any string.
    Text,
    /// One of a few words.
    Choice(&'static [&'static str]),
    /// A string like `"10s"`, in a range.
    Duration(Duration, Duration),
    /// A string like `"64 KiB"`, in a range of octets.
    Size(u64, u64),
    /// A string like `"0.0.0.0:1883"`.
    Address,
    /// A string like `"10.20.0.0/16"` or `"10.20.0.7"`.
    Network,
    /// An array.
    List(&'static Kind),
    /// A table with free keys.
    Map(&'static Kind),
    /// A table.
    Table(&'static Shape),
    /// An array of tables.
    Tables(&'static Shape),
}

impl Shape {
    const fn table(fields: &'static [Field]) -> Self {
        Shape {
            fields,
            variants: &[],
            identity: None,
        }
    }

    /// Whether its keys have lines of their own, under a header of its own, and not one line together.
    pub(super) fn is_section(&self) -> bool {
        self.fields.iter().any(|field| !field.doc.is_empty())
    }

    /// The variant with this value of `kind`.
    pub(super) fn variant(&self, kind: &str) -> Option<&'static Variant> {
        self.variants.iter().find(|variant| variant.kind == kind)
    }

    /// All keys of a table of this `kind`; only the common ones where it is not known.
    pub(super) fn fields_of(&self, kind: Option<&str>) -> impl Iterator<Item = &'static Field> + use<> {
        let more = kind
            .and_then(|kind| self.variant(kind))
            .map_or(&[][..], |variant| variant.fields);
        self.fields.iter().chain(more)
    }

    /// The key `name` of a table of this `kind`.
    pub(super) fn field(&self, kind: Option<&str>, name: &str) -> Option<&'static Field> {
        self.fields_of(kind).find(|field| field.name == name)
    }
}

/// The default of a key of radios of a kind, as TOML writes it.
pub(super) fn radio_default(kind: &str, key: &str) -> Option<&'static str> {
    RADIO.field(Some(kind), key)?.default
}

const fn key(name: &'static str, kind: Kind, doc: &'static str) -> Field {
    Field {
        name,
        kind,
        default: None,
        example: None,
        required: false,
        telling: false,
        used: true,
        doc,
    }
}

/// A key that later versions use.
const fn later(name: &'static str, kind: Kind) -> Field {
    Field {
        name,
        kind,
        default: None,
        example: None,
        required: false,
        telling: false,
        used: false,
        doc: "",
    }
}

impl Field {
    const fn default(self, toml: &'static str) -> Self {
        Field {
            default: Some(toml),
            ..self
        }
    }

    const fn example(self, toml: &'static str) -> Self {
        Field {
            example: Some(toml),
            ..self
        }
    }

    const fn telling(self) -> Self {
        Field {
            telling: true,
            ..self
        }
    }

    const fn required(self) -> Self {
        Field {
            required: true,
            ..self
        }
    }
}

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const ZERO: Duration = Duration::ZERO;
/// Two octets of seconds: ADVERTISE and CONNECT carry no more (§5.3.3), nor does MQTT's keep-alive.
const U16_SECONDS: Duration = Duration::from_secs(65_535);
const DAY: Duration = Duration::from_secs(24 * 3600);
const DECADE: Duration = Duration::from_secs(3650 * 24 * 3600);
const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

const ANY_SIZE: Kind = Kind::Size(0, 1024 * GIB);
const ANY_TIME: Kind = Kind::Duration(ZERO, DECADE);
const COUNT: Kind = Kind::Integer(0, u32::MAX as i64);
const TEXTS: Kind = Kind::List(&Kind::Text);
const ADDRESSES: Kind = Kind::List(&Kind::Address);
const QOS: Kind = Kind::Number(&[0, 1, 2]);
const LEVEL: Kind = Kind::Choice(&["off", "error", "warn", "info", "debug", "trace"]);
const SN_VERSIONS: Kind = Kind::List(&Kind::Choice(&["1.2", "2.0"]));
const MODE: Kind = Kind::Choice(&["aggregating", "transparent"]);
const ADDRESS_CHANGE: Kind = Kind::Choice(&["open", "guarded", "strict"]);
const SLEEP_AGE: Kind = Kind::Duration(SECOND, DECADE);
const SLEEP_QOS0: Kind = Kind::Choice(&["keep-all", "latest-per-topic", "drop"]);
const WHEN_FULL: Kind = Kind::Choice(&["refuse", "drop-oldest", "drop-newest"]);

/// The whole file.
pub(super) static ROOT: Shape = Shape::table(&[
    key("version", Kind::Number(&[1]), "of this file's format").default("1"),
    key("gateway", Kind::Table(&GATEWAY), "the gateway itself"),
    key(
        "radio",
        Kind::Tables(&RADIO),
        "radios: as many as you like, all at once",
    ),
    key("broker", Kind::Table(&BROKER), "where the messages go"),
    key(
        "predefined",
        Kind::Tables(&PREDEFINED),
        "topic ids known in advance, for all clients",
    ),
    key(
        "client",
        Kind::Tables(&CLIENT),
        "clients: exact id or pattern, first match wins",
    ),
    key(
        "qos_minus_one",
        Kind::Tables(&QOS_MINUS_ONE),
        "publishers without a session; none given: predefined ids from anyone",
    ),
    key(
        "forwarder",
        Kind::Tables(&FORWARDER),
        "forwarders; none given for a radio: anyone may forward there",
    ),
    key("security", Kind::Table(&SECURITY), "protection"),
    key(
        "sleep",
        Kind::Table(&SLEEP),
        "what is kept for clients that sleep or are away",
    ),
    key(
        "spool",
        Kind::Table(&SPOOL),
        "what waits on disk for the broker, and how the disk is written",
    ),
    key(
        "timers",
        Kind::Table(&TIMERS),
        "waits and retries (T_RETRY, N_RETRY of the specification)",
    ),
    key(
        "limits",
        Kind::Table(&LIMITS),
        "bounds on what clients can make the gateway keep",
    ),
    key("log", Kind::Table(&LOG), "what is logged, and where"),
    later("web", Kind::Table(&WEB)),
    later("metrics", Kind::Table(&METRICS)),
    key(
        "mqtt_status",
        Kind::Table(&MQTT_STATUS),
        "state of gateway, radios and clients as retained messages",
    ),
    later("home_assistant", Kind::Table(&HOME_ASSISTANT)),
    later("trace", Kind::Table(&TRACE)),
]);

static GATEWAY: Shape = Shape::table(&[
    key("id", Kind::Integer(1, 255), "1..255, in ADVERTISE and GWINFO").default("1"),
    key(
        "name",
        Kind::Text,
        "part of the MQTT client id; without one it is the id",
    )
    .example("\"greenhouse\""),
    key("mode", MODE, "one broker link for all clients").default("\"aggregating\""),
    key(
        "advertise_interval",
        Kind::Duration(ZERO, U16_SECONDS),
        "more than 15 min (§7.2); \"0s\": no ADVERTISE",
    )
    .default("\"16m\""),
    key(
        "stand_by_for",
        Kind::Integer(1, 255),
        "id of a gateway: silent in discovery while that one advertises",
    )
    .example("2"),
    key(
        "search_reply",
        Kind::Choice(&["unicast", "both"]),
        "unicast: to who searches | both: to the groups as well",
    )
    .default("\"unicast\""),
    key(
        "gather",
        Kind::Duration(ZERO, SECOND),
        "under load wait this long for more to do at once; \"0s\": never",
    )
    .default("\"1ms\""),
    key(
        "state_dir",
        Kind::Text,
        "$STATE_DIRECTORY as a service, else ~/.local/state/snipe",
    )
    .example("\"/var/lib/snipe\""),
    later("protocol", SN_VERSIONS),
]);

static RADIO: Shape = Shape {
    fields: &[
        key("name", Kind::Text, "in logs, and in --set radio.udp0.mtu=512")
            .required()
            .example("\"udp0\""),
        key(
            "kind",
            Kind::Choice(&["udp", "dtls", "lora", "xbee", "serial", "forwarder-tcp"]),
            "udp | lora | xbee | serial",
        )
        .required()
        .example("\"udp\""),
        key(
            "required",
            Kind::Bool,
            "true: the gateway does not start without this radio",
        )
        .default("false"),
        key(
            "retry",
            Kind::Table(&RADIO_RETRY),
            "in place of keys of timers.retry, for this radio",
        )
        .example("{ first = \"20s\", count = 4 }"),
        later("protocol", SN_VERSIONS),
    ],
    variants: &[
        Variant {
            kind: "udp",
            fields: UDP,
            used: true,
            doc: "MQTT-SN over UDP",
        },
        Variant {
            kind: "dtls",
            fields: DTLS,
            used: false,
            doc: "",
        },
        Variant {
            kind: "lora",
            fields: LORA,
            used: true,
            doc: "a LoRa modem on a serial port",
        },
        Variant {
            kind: "xbee",
            fields: XBEE,
            used: true,
            doc: "an XBee in API mode",
        },
        Variant {
            kind: "serial",
            fields: SERIAL,
            used: true,
            doc: "MQTT-SN over a serial line",
        },
        Variant {
            kind: "forwarder-tcp",
            fields: FORWARDER_TCP,
            used: false,
            doc: "",
        },
    ],
    identity: Some(Identity {
        key: "name",
        noun: "radio",
        code: "duplicate-name",
        help: "give each [[radio]] a name of its own",
    }),
};

/// The largest payload of a UDP datagram over IPv4.
const UDP_PAYLOAD_MAX: i64 = 65_507;
const MTU: Kind = Kind::Integer(16, UDP_PAYLOAD_MAX);

const UDP: &[Field] = &[
    key("bind", ADDRESSES, "where clients reach the gateway").default("[\"0.0.0.0:1883\", \"[::]:1883\"]"),
    key(
        "multicast",
        ADDRESSES,
        "groups for SEARCHGW and ADVERTISE; [] for none",
    )
    .default("[\"225.1.1.1:1883\"]"),
    key(
        "interface",
        Kind::Text,
        "where the groups are joined; else the system chooses",
    )
    .example("\"eth0\""),
    key("mtu", MTU, "the largest datagram sent, in octets").default("1400"),
];

const DTLS: &[Field] = &[
    later("bind", ADDRESSES),
    later("mtu", MTU),
    later("versions", Kind::List(&Kind::Choice(&["1.2"]))),
    later("psk_file", Kind::Text),
    later("certificate", Kind::Text),
    later("private_key", Kind::Text),
    later("client_ca", Kind::Text),
    later("connection_id", Kind::Bool),
    later("handshakes_max", COUNT),
];

const BAUD: Kind = Kind::Integer(300, 12_000_000);
/// A radio's datagrams: room for a PUBLISH and a few octets, up to two octets of length.
const RADIO_MTU: Kind = Kind::Integer(16, 65_535);

const fn port(example: &'static str) -> Field {
    key(
        "port",
        Kind::Text,
        "the serial port; /dev/serial/by-id/… is the same when replugged",
    )
    .required()
    .example(example)
}
const HARDWARE_FLOW: Field = key("hardware_flow", Kind::Bool, "RTS and CTS are wired").default("false");
const REOPEN_KEY: Field = key(
    "reopen",
    Kind::Table(&REOPEN),
    "a port that is gone is tried again; waits double",
);
const TURNAROUND: Field = key(
    "turnaround",
    Kind::Duration(ZERO, SECOND),
    "after a reception, before an answer; 100 ms where nodes are RN2483",
)
.default("\"20ms\"");
const HEADER_ADDRESS: Field = key(
    "header_address",
    Kind::Integer(0, 254),
    "the gateway's own in the RadioHead header",
)
.default("0");
const HEADER_ACKS: Field = key(
    "header_acks",
    Kind::Bool,
    "nodes use RHReliableDatagram: acknowledge each frame",
)
.default("false");
const DUTY_CYCLE: Kind = Kind::Float(0.0, 1.0);

const LORA: &[Field] = &[
    key(
        "driver",
        Kind::Choice(&[
            "rak3172", "rak4270", "rn2483", "rn2903", "rylr998", "rylr896", "lora-e5", "la66", "loralink",
        ]),
        "the modem: rak3172 | rak4270 | rn2483 | rn2903 | rylr998 | rylr896",
    )
    .required()
    .example("\"rak3172\""),
    port("\"/dev/serial/by-id/usb-FTDI_FT232R_A50285BI-if00-port0\""),
    key("baud", BAUD, "else as the modem is delivered").example("115_200"),
    HARDWARE_FLOW,
    key(
        "region",
        Kind::Choice(&radio_adapters::regions::NAMES),
        "whose law holds; decides what follows",
    )
    .required()
    .example("\"EU868\""),
    key(
        "frequency",
        // Too low ones are megahertz: a rule says so.
        Kind::Integer(1, 3_000_000_000),
        "in Hz; else a usual one of the region",
    )
    .example("868_100_000"),
    key(
        "spreading_factor",
        Kind::Integer(5, 12),
        "7..12; each step doubles time on air and adds range",
    )
    .default("9"),
    key(
        "bandwidth",
        Kind::Number(&[125_000, 250_000, 500_000]),
        "in Hz; else the region's",
    )
    .example("125_000"),
    key(
        "coding_rate",
        Kind::Choice(&["4/5", "4/6", "4/7", "4/8"]),
        "4/5 | 4/6 | 4/7 | 4/8",
    )
    .default("\"4/5\""),
    key(
        "sync_word",
        Kind::Integer(0, 255),
        "0x12 private, 0x34 public; not for REYAX modems",
    )
    .default("0x12"),
    key("network_id", Kind::Integer(0, 255), "of REYAX modems").example("18"),
    key(
        "address",
        Kind::Integer(0, 65_535),
        "of REYAX modems: the gateway's own",
    )
    .example("1"),
    key(
        "tx_power_dbm",
        Kind::Integer(-20, 33),
        "else the region's, as far as the modem goes",
    )
    .example("14"),
    key(
        "antenna_gain_dbi",
        Kind::Float(-50.0, 50.0),
        "less the loss of its cable: e.r.p. = power + gain - 2.15",
    )
    .default("2.15"),
    key(
        "duty_cycle",
        DUTY_CYCLE,
        "share of each hour; else all that the law allows",
    )
    .example("0.01"),
    key(
        "header",
        Kind::Choice(&["radiohead", "forwarder", "none"]),
        "how nodes are told apart: radiohead | forwarder | none",
    )
    .default("\"radiohead\""),
    HEADER_ADDRESS,
    HEADER_ACKS,
    TURNAROUND,
    key(
        "ask_signal",
        Kind::Bool,
        "RN modems: ask for RSSI and SNR; deaf for 20 ms meanwhile",
    )
    .default("true"),
    key(
        "mtu",
        RADIO_MTU,
        "the largest datagram; else what modem and law allow",
    )
    .example("200"),
    REOPEN_KEY,
    later("link_key_file", Kind::Text),
];

const XBEE: &[Field] = &[
    port("\"/dev/serial/by-id/usb-FTDI_FT231X_DN01J5VT-if00-port0\""),
    key("baud", BAUD, "others are tried if the modem is silent").default("9600"),
    HARDWARE_FLOW,
    key(
        "api_mode",
        Kind::Number(&[1, 2]),
        "1: as it is | 2: special octets escaped",
    )
    .default("2"),
    key(
        "last_hop_rssi",
        Kind::Bool,
        "Zigbee, DigiMesh: ask for it after each packet",
    )
    .default("false"),
    key("mtu", RADIO_MTU, "the largest datagram; else one packet").example("84"),
    REOPEN_KEY,
];

const SERIAL: &[Field] = &[
    port("\"/dev/ttyAMA0\""),
    key("baud", BAUD, "bits a second").default("115_200"),
    HARDWARE_FLOW,
    key(
        "framing",
        Kind::Choice(&["cobs", "slip", "hdlc", "kiss", "length-prefix"]),
        "cobs | slip | hdlc | kiss | length-prefix (MQTT-SN's own)",
    )
    .default("\"cobs\""),
    key(
        "crc",
        Kind::Choice(&["none", "crc16-x25", "crc16-xmodem"]),
        "none | crc16-x25 | crc16-xmodem; hdlc has its own",
    )
    .default("\"none\""),
    key(
        "header",
        Kind::Choice(&["none", "radiohead"]),
        "none | radiohead: nodes behind a radio are told apart",
    )
    .default("\"none\""),
    HEADER_ADDRESS,
    HEADER_ACKS,
    key(
        "metadata",
        Kind::Choice(&["none", "rssi", "rssi-after"]),
        "an octet of RSSI: rssi: first in each frame | rssi-after: behind it (Ebyte)",
    )
    .default("\"none\""),
    key(
        "encapsulation",
        Kind::Choice(&["auto", "none"]),
        "auto: 0xFE frames are nodes behind the wire | none: dropped",
    )
    .default("\"auto\""),
    key(
        "fixed_prefix",
        Kind::Text,
        "hex, before each frame sent: Ebyte's address and channel",
    )
    .example("\"ffff12\""),
    key(
        "air_rate",
        Kind::Integer(100, 10_000_000),
        "bits a second of a radio behind the line; none: a wire",
    )
    .example("2400"),
    key(
        "duty_cycle",
        DUTY_CYCLE,
        "share of each hour that the radio behind may send",
    )
    .example("0.01"),
    key(
        "turnaround",
        Kind::Duration(ZERO, SECOND),
        "after a reception, before an answer: RS-485, or a radio behind",
    )
    .default("\"0s\""),
    key(
        "echo",
        Kind::Bool,
        "the line gives back what is sent, as RS-485 may",
    )
    .default("false"),
    key(
        "settle",
        Kind::Duration(ZERO, Duration::from_secs(60)),
        "after opening: an Arduino starts again then",
    )
    .default("\"2s\""),
    key(
        "mtu",
        RADIO_MTU,
        "the largest datagram; else 1024, length-prefix 255",
    )
    .example("250"),
    REOPEN_KEY,
    later("link_key_file", Kind::Text),
];

const FORWARDER_TCP: &[Field] = &[later("bind", ADDRESSES), later("mtu", MTU)];

static REOPEN: Shape = Shape::table(&[
    key("first", Kind::Duration(MS, DAY), "").default("\"1s\""),
    key("max", Kind::Duration(MS, DAY), "").default("\"30s\""),
]);

static BROKER: Shape = Shape::table(&[
    key(
        "kind",
        Kind::Choice(&["embedded", "external"]),
        "else embedded, unless a url is given or the port is taken",
    )
    .example("\"external\""),
    key("url", Kind::Text, "an external broker's address").example("\"mqtt://127.0.0.1:1883\""),
    key("protocol", Kind::Number(&[3, 5]), "MQTT 3 (3.1.1) or 5").default("5"),
    key("client_id", Kind::Text, "snipe-<gateway.name> unless given").example("\"snipe-greenhouse\""),
    key(
        "connections",
        Kind::Integer(1, 64),
        "links to the broker; a client always uses the same one",
    )
    .default("1"),
    key("username", Kind::Text, "if the broker wants one").example("\"greenhouse\""),
    key("password_file", Kind::Text, "read at start, without the line end")
        .example("\"/etc/snipe/broker-password\""),
    key(
        "keep_alive",
        Kind::Duration(ZERO, U16_SECONDS),
        "of the link to the broker; \"0s\": none",
    )
    .default("\"60s\""),
    key(
        "in_flight",
        Kind::Integer(1, 65_535),
        "QoS 1 and 2 publishes unsettled at once",
    )
    .default("20"),
    key(
        "connect_timeout",
        Kind::Duration(MS, DAY),
        "for TCP and the broker's answer together",
    )
    .default("\"10s\""),
    key("reconnect", Kind::Table(&RECONNECT), "waits double, ± jitter"),
    key(
        "topic_prefix",
        Kind::Text,
        "put in front of everything clients publish",
    )
    .default("\"\""),
    key(
        "when_down",
        Kind::Choice(&["spool", "queue", "refuse"]),
        "QoS 1 and 2 meanwhile: spool: acknowledged once on disk | queue: waits in memory | refuse: congestion",
    )
    .default("\"spool\""),
    later(
        "profile",
        Kind::Choice(&[
            "generic",
            "mosquitto",
            "emqx",
            "hivemq",
            "vernemq",
            "aws-iot",
            "azure-iot",
        ]),
    ),
    later("grace", ANY_TIME),
    later("tls", Kind::Table(&BROKER_TLS)),
    key(
        "embedded",
        Kind::Table(&BROKER_EMBEDDED),
        "the broker inside the gateway, for MQTT 3.1.1 and 5 over TCP",
    ),
]);

static RECONNECT: Shape = Shape::table(&[
    key("first", Kind::Duration(MS, DAY), "").default("\"1s\""),
    key("max", Kind::Duration(MS, DAY), "").default("\"2m\""),
    key("jitter", Kind::Float(0.0, 1.0), "").default("0.3"),
]);

static BROKER_TLS: Shape = Shape::table(&[
    later("ca", Kind::Text),
    later("certificate", Kind::Text),
    later("private_key", Kind::Text),
    later("server_name", Kind::Text),
    later("alpn", TEXTS),
    later("min_version", Kind::Choice(&["1.2", "1.3"])),
    later("insecure", Kind::Bool),
]);

/// The broker inside.
pub(super) static BROKER_EMBEDDED: Shape = Shape::table(&[
    key(
        "bind",
        ADDRESSES,
        "where MQTT clients reach it; given, it asks for this broker",
    )
    .default("[\"127.0.0.1:1883\"]")
    .telling(),
    key(
        "anonymous",
        Kind::Bool,
        "needed to bind beyond loopback: no login yet",
    )
    .example("true"),
    key(
        "connections_max",
        Kind::Integer(1, 1_000_000),
        "MQTT clients connected at once",
    )
    .default("1000"),
    key(
        "sessions_max",
        Kind::Integer(1, 100_000_000),
        "connected or remembered",
    )
    .default("10_000"),
    key(
        "subscriptions_max",
        Kind::Integer(1, 1_000_000),
        "topic filters of one session",
    )
    .default("1000"),
    key("retained_max", COUNT, "retained messages").default("10_000"),
    key(
        "packet_bytes",
        Kind::Integer(PACKET_LEAST, 268_435_455),
        "the largest packet taken",
    )
    .default("262_144"),
    key(
        "queue_messages",
        Kind::Integer(1, u32::MAX as i64),
        "per session, waiting and in flight",
    )
    .default("1000"),
    key(
        "queue_bytes",
        Kind::Size(PACKET_LEAST as u64, 1024 * GIB),
        "their topics and payloads",
    )
    .default("\"1 MiB\""),
    later("websocket", ADDRESSES),
    later("users_file", Kind::Text),
    later("bridge", Kind::Tables(&BRIDGE)),
]);

/// A CONNECT with a client id, a user name and a password must fit, and a short message with its topic; taste.
const PACKET_LEAST: i64 = 256;

static BRIDGE: Shape = Shape::table(&[later("url", Kind::Text), later("out", TEXTS), later("in", TEXTS)]);

/// Topic ids have two octets; 0 and 65535 are reserved (§5.3.11).
const TOPIC_ID: Kind = Kind::Integer(1, 65_534);

const PREDEFINED_FIELDS: &[Field] = &[
    key("id", TOPIC_ID, "1..65534").required().example("1"),
    key("topic", Kind::Text, "{client_id} is filled in per client")
        .required()
        .example("\"plant/{client_id}/temperature\""),
];

static PREDEFINED: Shape = Shape {
    fields: PREDEFINED_FIELDS,
    variants: &[],
    identity: Some(Identity {
        key: "id",
        noun: "predefined topic id",
        code: "duplicate-topic-id",
        help: "ids are shared by all clients in [[predefined]]; for some clients only use [[client]].predefined",
    }),
};

static CLIENT_PREDEFINED: Shape = Shape {
    fields: PREDEFINED_FIELDS,
    variants: &[],
    identity: Some(Identity {
        key: "id",
        noun: "predefined topic id",
        code: "duplicate-topic-id",
        help: "give each topic of this [[client]] an id of its own",
    }),
};

static CLIENT: Shape = Shape {
    fields: &[
        key("match", Kind::Text, "* stands for any characters, ? for one")
            .required()
            .example("\"pump-*\""),
        key(
            "predefined",
            Kind::Tables(&CLIENT_PREDEFINED),
            "before the global ones",
        )
        .example("[{ id = 10, topic = \"pump/{client_id}/set\" }]"),
        key("max_qos", QOS, "highest QoS granted to their subscriptions").example("1"),
        key("sleep", Kind::Table(&CLIENT_SLEEP), "in place of keys of [sleep]")
            .example("{ max_messages = 32, when_full = \"drop-oldest\" }"),
        key("address_change", ADDRESS_CHANGE, "in place of that of [security]").example("\"guarded\""),
        later("allow_radios", TEXTS),
        later("require", Kind::Choice(&["none", "psk", "certificate", "auth"])),
        later("mode", MODE),
        later("publish", TEXTS),
        later("subscribe", TEXTS),
        later("upstream", Kind::Table(&CLIENT_UPSTREAM)),
        later("will", Kind::Table(&CLIENT_WILL)),
    ],
    variants: &[],
    identity: Some(Identity {
        key: "match",
        noun: "client rule",
        code: "duplicate-match",
        help: "the first match wins, so the second would never apply: make them one [[client]]",
    }),
};

static CLIENT_SLEEP: Shape = Shape::table(&[
    key("max_messages", COUNT, "messages"),
    key("max_bytes", ANY_SIZE, "their topics and payloads"),
    key("max_age", SLEEP_AGE, "older ones are dropped"),
    key("when_full", WHEN_FULL, "refuse | drop-oldest | drop-newest"),
    key("qos0", SLEEP_QOS0, "keep-all | latest-per-topic | drop"),
    key("max_sleep", SLEEP_AGE, "who says longer is lost after this"),
]);

static CLIENT_UPSTREAM: Shape =
    Shape::table(&[later("username", Kind::Text), later("password_file", Kind::Text)]);

static CLIENT_WILL: Shape = Shape::table(&[
    later("topic", Kind::Text),
    later("payload", Kind::Text),
    later("qos", QOS),
    later("retain", Kind::Bool),
]);

static TIMERS: Shape = Shape::table(&[
    key("retry", Kind::Table(&RETRY), "waits double from first to max"),
    key(
        "keep_alive_tolerance",
        Kind::Float(1.0, 100.0),
        "lost after this many keep-alives",
    )
    .default("1.5"),
    key(
        "session_expiry",
        Kind::Duration(SECOND, DECADE),
        "how long a client that is away is remembered",
    )
    .default("\"30d\""),
    key(
        "will_handshake",
        Kind::Duration(MS, DAY),
        "how long a client may take to give its will",
    )
    .default("\"40s\""),
]);

static RETRY: Shape = Shape::table(&[
    key("first", Kind::Duration(MS, DAY), "").default("\"10s\""),
    key("max", Kind::Duration(MS, DAY), "").default("\"60s\""),
    key("count", Kind::Integer(0, 255), "").default("3"),
    later("adaptive", Kind::Bool),
]);

/// What it leaves out is as in `timers.retry`, or longer where the air takes longer.
static RADIO_RETRY: Shape = Shape::table(&[
    key("first", Kind::Duration(MS, DAY), ""),
    key("max", Kind::Duration(MS, DAY), ""),
    key("count", Kind::Integer(0, 255), ""),
    later("adaptive", Kind::Bool),
]);

static LIMITS: Shape = Shape::table(&[
    key(
        "clients",
        Kind::Integer(1, 100_000_000),
        "connected or remembered",
    )
    .default("100_000"),
    key(
        "pending_connects",
        Kind::Integer(1, 100_000_000),
        "clients within a will handshake",
    )
    .default("1024"),
    key("new_sessions_per_second", COUNT, "0: no limit").default("1000"),
    key(
        "topics_per_client",
        Kind::Integer(1, 65_534),
        "registered topic ids",
    )
    .default("1000"),
    key(
        "subscriptions_per_client",
        Kind::Integer(1, 65_535),
        "topic filters at once",
    )
    .default("32"),
    key(
        "client_id_bytes",
        Kind::Integer(23, 65_535),
        "1.2 says 23; longer ones are common",
    )
    .default("128"),
    key(
        "queue_messages",
        Kind::Integer(1, u32::MAX as i64),
        "QoS 1 and 2 publishes that wait for the broker",
    )
    .default("10_000"),
    key(
        "queue_bytes",
        Kind::Size(PACKET_LEAST as u64, 1024 * GIB),
        "their topics and payloads",
    )
    .default("\"16 MiB\""),
    key(
        "per_source_sessions",
        COUNT,
        "clients at one IP address; 0: no limit, for NAT and forwarders share one",
    )
    .default("0"),
    later("packets_per_second", Kind::Table(&PACKETS_PER_SECOND)),
    later("packet_bytes", Kind::Integer(2, 65_535)),
    later("memory", Kind::Size(MIB, 1024 * GIB)),
    later("tap_subscribers", COUNT),
]);

static PACKETS_PER_SECOND: Shape = Shape::table(&[later("per_client", COUNT), later("per_source", COUNT)]);

static LOG: Shape = Shape::table(&[
    key("level", LEVEL, "off | error | warn | info | debug | trace").default("\"info\""),
    key(
        "format",
        Kind::Choice(&["auto", "text", "logfmt", "json", "journald"]),
        "auto | text | logfmt | json; auto: text",
    )
    .default("\"auto\""),
    key(
        "targets",
        Kind::Map(&LEVEL),
        "parts at other levels: { \"broker\" = \"debug\" }",
    )
    .default("{}"),
    key("file", Kind::Text, "\"\": standard error").default("\"\""),
    later("payloads", Kind::Bool),
]);

static QOS_MINUS_ONE: Shape = Shape::table(&[
    key("radio", Kind::Text, "one radio; else all of them").example("\"udp0\""),
    key("source", Kind::Network, "an address or a network; else anyone").example("\"10.20.0.0/16\""),
    key(
        "client_id",
        Kind::Text,
        "whom they count as; {address} is filled in",
    )
    .default("\"anon-{address}\""),
    key(
        "topics",
        TEXTS,
        "filters of what they may publish to; []: nothing",
    )
    .default("[\"#\"]"),
]);

static FORWARDER: Shape = Shape {
    fields: &[
        key("name", Kind::Text, "in logs").required().example("\"roof\""),
        key("radio", Kind::Text, "one radio; else all of them").example("\"udp0\""),
        key("source", Kind::Network, "an address or a network; else any").example("\"10.20.0.7/32\""),
        key("max_nodes", COUNT, "nodes with a session at once; 0: no limit").default("200"),
        key("packets_per_second", COUNT, "frames taken from it; 0: no limit").default("1000"),
    ],
    variants: &[],
    identity: Some(Identity {
        key: "name",
        noun: "forwarder",
        code: "duplicate-name",
        help: "give each [[forwarder]] a name of its own",
    }),
};

static SECURITY: Shape = Shape::table(&[
    key(
        "address_change",
        ADDRESS_CHANGE,
        "open: the new address wins | guarded: if the old one is silent | strict: once the client is lost",
    )
    .default("\"open\""),
    key(
        "search_reply_interval",
        Kind::Duration(ZERO, DAY),
        "between two GWINFOs for one client",
    )
    .default("\"1s\""),
    key(
        "unknown_sender",
        Kind::Choice(&["disconnect", "ignore"]),
        "who has no session: disconnect: is told to connect again | ignore: is not answered",
    )
    .default("\"disconnect\""),
    later("amplification", Kind::Float(0.0, 1e6)),
]);

static SLEEP: Shape = Shape::table(&[
    key("max_messages", COUNT, "messages that wait for one client").default("100"),
    key("max_bytes", ANY_SIZE, "their topics and payloads").default("\"64 KiB\""),
    key("total_bytes", ANY_SIZE, "of all clients together").default("\"8 MiB\""),
    key("max_age", SLEEP_AGE, "older ones are dropped").default("\"7d\""),
    key(
        "when_full",
        WHEN_FULL,
        "after the oldest QoS 0: refuse (here the same as drop-newest) | drop-oldest | drop-newest",
    )
    .default("\"refuse\""),
    key("qos0", SLEEP_QOS0, "keep-all | latest-per-topic | drop").default("\"keep-all\""),
    key("max_sleep", SLEEP_AGE, "who says longer is lost after this").default("\"48h\""),
]);

static SPOOL: Shape = Shape::table(&[
    key(
        "max_messages",
        Kind::Integer(1, u32::MAX as i64),
        "messages that wait on disk",
    )
    .default("100_000"),
    key(
        "max_bytes",
        Kind::Size(1, 1024 * GIB),
        "their topics and payloads",
    )
    .default("\"64 MiB\""),
    key("max_age", SLEEP_AGE, "older ones are dropped").default("\"7d\""),
    key(
        "when_full",
        Kind::Choice(&["refuse", "drop-oldest"]),
        "refuse: the next is answered with congestion | drop-oldest",
    )
    .default("\"refuse\""),
    key(
        "sync",
        Kind::Choice(&["group", "each", "never"]),
        "group: those of 5 ms together | each: at once | never: a power cut loses acknowledged messages",
    )
    .default("\"group\""),
    key("qos0", Kind::Bool, "QoS 0 waits too while the broker is away").default("false"),
    key(
        "daily_write_budget",
        ANY_SIZE,
        "beyond it changes wait up to 1 s for each other; \"0 B\": no limit",
    )
    .default("\"1 GiB\""),
]);

static WEB: Shape = Shape::table(&[
    later("bind", ADDRESSES),
    later("base_path", Kind::Text),
    later("token_file", Kind::Text),
    later("tls", Kind::Table(&WEB_TLS)),
    later("read_only", Kind::Bool),
    later("history", ANY_TIME),
]);

static WEB_TLS: Shape = Shape::table(&[later("certificate", Kind::Text), later("private_key", Kind::Text)]);

static METRICS: Shape = Shape::table(&[
    later("enabled", Kind::Bool),
    later("bind", ADDRESSES),
    later("per_client", Kind::Bool),
    later("per_client_max", COUNT),
]);

static MQTT_STATUS: Shape = Shape::table(&[
    key(
        "enabled",
        Kind::Bool,
        "false: nothing is told, and no connection made for it",
    )
    .default("true"),
    key(
        "topic",
        Kind::Text,
        "{gateway} is its name, or its id: /state (with a will), /broker, /spool, /radios/NAME, /clients/ID",
    )
    .default("\"snipe/{gateway}\""),
    key(
        "interval",
        Kind::Duration(SECOND, DAY),
        "up and down, asleep and awake are told at once, the rest that often, if it changed",
    )
    .default("\"30s\""),
    key(
        "clients_max",
        Kind::Integer(0, 100_000),
        "clients with a topic of their own; a retained message each",
    )
    .default("1000"),
]);

static HOME_ASSISTANT: Shape = Shape::table(&[
    later("enabled", Kind::Bool),
    later("discovery_prefix", Kind::Text),
    later(
        "entities",
        Kind::List(&Kind::Choice(&[
            "connectivity",
            "last_seen",
            "rssi",
            "buffered",
            "battery",
        ])),
    ),
    later("values", Kind::Tables(&HOME_ASSISTANT_VALUE)),
]);

static HOME_ASSISTANT_VALUE: Shape = Shape::table(&[
    later("match", Kind::Text),
    later("device_class", Kind::Text),
    later("unit", Kind::Text),
]);

static TRACE: Shape = Shape::table(&[
    later("ring", ANY_SIZE),
    later("pcap_dir", Kind::Text),
    later("pcap_max", ANY_SIZE),
]);
