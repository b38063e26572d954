//! Radios on serial lines: what their keys come to, and what is said about the impossible.

use gateway_core::config::Retry;
use gateway_core::peer::LinkAddr;
use radio_adapters::settings::{
    Crc, Framing, LinkHeader, LoraDriver, LoraSettings, Metadata, PortSettings, RawSettings, XbeeSettings,
};

use super::*;

#[test]
fn a_lora_radio_needs_driver_port_and_region_only() {
    let radio = radio("kind = \"lora\"\ndriver = \"rak3172\"\nport = \"/dev/ttyUSB0\"\nregion = \"EU868\"\n");

    let RadioKind::Lora(lora) = &radio.kind else {
        panic!("{radio:?}")
    };
    assert_eq!(
        (lora.driver, lora.frequency_hz, lora.tx_power_dbm, lora.sync_word),
        (LoraDriver::Rak3172, 868_100_000, 14, 0x12)
    );
    let modulation = lora.modulation;
    assert_eq!(
        (
            modulation.spreading_factor,
            modulation.bandwidth_hz,
            modulation.coding_rate,
            modulation.preamble
        ),
        (9, 125_000, 5, 8)
    );
    assert_eq!((lora.port.baud, lora.port.hardware_flow), (115_200, false));
    assert_eq!(
        (lora.port.reopen_first, lora.port.reopen_max),
        (Duration::from_secs(1), Duration::from_secs(30))
    );
    assert_eq!((lora.duty_cycle_ppm, lora.mtu), (Some(10_000), Some(235)));
    assert_eq!(
        lora.header,
        LinkHeader::RadioHead {
            address: 0,
            acks: false
        }
    );
    assert_eq!((radio.required, radio.retry), (false, None));
}

#[test]
fn regions_and_modems_decide_what_is_left_out() {
    let of = |driver: &str, region: &str, more: &str| {
        let lora = lora(&format!(
            "driver = \"{driver}\"\nport = \"p\"\nregion = \"{region}\"\n{more}"
        ));
        (
            lora.frequency_hz,
            lora.modulation.bandwidth_hz,
            lora.tx_power_dbm,
            lora.duty_cycle_ppm,
            lora.mtu,
        )
    };
    assert_eq!(
        of("rn2903", "US915", ""),
        (903_000_000, 500_000, 20, None, Some(251))
    );
    // 400 ms at SF9: 66 octets, four of them header.
    assert_eq!(
        of("rn2903", "AS923", ""),
        (923_200_000, 125_000, 13, Some(10_000), Some(62))
    );
    assert_eq!(
        of("rak4270", "EU868", "frequency = 869_525_000\ntx_power_dbm = 20\n"),
        (869_525_000, 125_000, 20, Some(100_000), Some(114))
    );
    assert_eq!(
        of("rak3172", "EU868", "frequency = 869_850_000\ntx_power_dbm = 7\n").3,
        None
    );
    assert_eq!(of("rylr896", "IN865", "").2, 15);
    assert_eq!(
        of("rak3172", "other", "frequency = 470_300_000\nduty_cycle = 1\n").3,
        None
    );
}

#[test]
fn reyax_modems_have_networks_and_addresses() {
    let lora = lora("driver = \"rylr998\"\nport = \"p\"\nregion = \"EU868\"\naddress = 7\n");
    assert_eq!((lora.network_id, lora.address, lora.mtu), (18, 7, Some(180)));
    assert_eq!((lora.modulation.preamble, lora.port.baud), (12, 115_200));
}

#[test]
fn every_key_of_a_lora_radio_arrives() {
    let lora = lora(
        "driver = \"rn2483\"\nport = \"p\"\nbaud = 9600\nhardware_flow = true\nregion = \"EU868\"\n\
         frequency = 868_300_000\nspreading_factor = 11\nbandwidth = 250_000\ncoding_rate = \"4/7\"\n\
         sync_word = 0x34\ntx_power_dbm = 10\nantenna_gain_dbi = 5\nduty_cycle = 0.005\nheader = \"radiohead\"\n\
         header_address = 9\nheader_acks = true\nturnaround = \"100ms\"\nask_signal = false\nmtu = 60\n\
         reopen = { first = \"2s\", max = \"9s\" }\n",
    );

    let expected = LoraSettings {
        driver: LoraDriver::Rn2483,
        port: PortSettings {
            path: "p".into(),
            baud: 9600,
            hardware_flow: true,
            reopen_first: Duration::from_secs(2),
            reopen_max: Duration::from_secs(9),
        },
        header: LinkHeader::RadioHead {
            address: 9,
            acks: true,
        },
        frequency_hz: 868_300_000,
        modulation: gateway_core::airtime::Lora {
            spreading_factor: 11,
            bandwidth_hz: 250_000,
            coding_rate: 7,
            preamble: 8,
        },
        sync_word: 0x34,
        tx_power_dbm: 10,
        network_id: 0,
        address: 0,
        turnaround: Duration::from_millis(100),
        ask_signal: false,
        mtu: Some(60),
        duty_cycle_ppm: Some(5_000),
    };
    assert_eq!(lora, expected);
}

#[test]
fn every_key_of_a_serial_radio_arrives() {
    let kind = radio(
        "kind = \"serial\"\nport = \"p\"\nbaud = 9600\nframing = \"slip\"\ncrc = \"crc16-xmodem\"\n\
         header = \"radiohead\"\nheader_address = 3\nmetadata = \"rssi-after\"\nfixed_prefix = \"ffFF12\"\n\
         air_rate = 2400\nduty_cycle = 0.01\nturnaround = \"50ms\"\necho = true\nsettle = \"0s\"\nmtu = 200\n",
    )
    .kind;

    let expected = RawSettings {
        port: PortSettings {
            path: "p".into(),
            baud: 9600,
            hardware_flow: false,
            reopen_first: Duration::from_secs(1),
            reopen_max: Duration::from_secs(30),
        },
        framing: Framing::Slip,
        crc: Crc::Xmodem,
        header: LinkHeader::RadioHead {
            address: 3,
            acks: false,
        },
        metadata: Metadata::RssiAfter,
        fixed_prefix: vec![0xff, 0xff, 0x12],
        air_rate: Some(2400),
        mtu: 200,
        settle: Duration::ZERO,
        turnaround: Duration::from_millis(50),
        echo: true,
        duty_cycle_ppm: Some(10_000),
    };
    assert_eq!(kind, RadioKind::Serial(expected));
}

#[test]
fn a_wire_is_for_forwarders_unless_said_otherwise() {
    let serial = |more: &str| {
        let RadioKind::Serial(raw) = radio(&format!("kind = \"serial\"\nport = \"p\"\n{more}")).kind else {
            panic!("not serial")
        };
        (raw.framing, raw.header, raw.mtu)
    };
    assert_eq!(serial(""), (Framing::Cobs, LinkHeader::Forwarder, 1024));
    assert_eq!(
        serial("framing = \"length-prefix\"\nencapsulation = \"none\"\n"),
        (Framing::LengthPrefix, LinkHeader::None, 255)
    );
    // 240 octets of a packet, less prefix, framing and header.
    let ebyte = "fixed_prefix = \"ffff12\"\nair_rate = 2400\nduty_cycle = 0.01\ncrc = \"crc16-x25\"\nheader = \"radiohead\"\n";
    assert_eq!(serial(ebyte).2, 229);
}

#[test]
fn every_key_of_an_xbee_arrives() {
    let RadioKind::Xbee(XbeeSettings {
        port, api_mode, mtu, ..
    }) = radio("kind = \"xbee\"\nport = \"p\"\nbaud = 38400\napi_mode = 1\nmtu = 100\n").kind
    else {
        panic!("not an XBee")
    };
    assert_eq!((port.baud, api_mode, mtu), (38_400, 1, Some(100)));
}

#[test]
fn waits_are_those_of_all_radios_or_longer_where_the_air_is_slow() {
    let retry = |more: &str| {
        radio(&format!(
            "kind = \"lora\"\ndriver = \"rak3172\"\nport = \"p\"\nregion = \"EU868\"\n{more}"
        ))
        .retry
    };
    let wait = |first, max, count| {
        Some(Retry {
            first: Duration::from_secs(first),
            max: Duration::from_secs(max),
            count,
        })
    };
    assert_eq!(retry("spreading_factor = 7\n"), None);
    assert_eq!(retry("spreading_factor = 12\n"), wait(20, 60, 3));
    assert_eq!(
        retry("spreading_factor = 12\nretry = { count = 5 }\n"),
        wait(20, 60, 5)
    );
    assert_eq!(
        retry("retry = { first = \"90s\", max = \"2m\" }\n"),
        wait(90, 120, 3)
    );
    let udp = radio("kind = \"udp\"\nretry = { first = \"2s\" }\n").retry;
    assert_eq!(udp, wait(2, 60, 3));
}

#[test]
fn the_core_knows_the_waits_of_each_radio() {
    let dir = Dir::new();
    let file = dir.write(
        "snipe.toml",
        "[[radio]]\nname = \"u\"\nkind = \"udp\"\n\
         [[radio]]\nname = \"l\"\nkind = \"lora\"\ndriver = \"rak3172\"\nport = \"p\"\nregion = \"EU868\"\nspreading_factor = 12\n",
    );

    let gateway = dir.load(&[&file]).unwrap().settings.gateway;

    let of = |link| gateway.retry(LinkId(link)).first;
    assert_eq!((of(0), of(1)), (Duration::from_secs(10), Duration::from_secs(20)));
}

#[test]
fn a_line_without_encapsulation_refuses_forwarders() {
    let dir = Dir::new();
    let file = dir.write(
        "snipe.toml",
        "[[radio]]\nname = \"a\"\nkind = \"serial\"\nport = \"a\"\n\
         [[radio]]\nname = \"b\"\nkind = \"serial\"\nport = \"b\"\nencapsulation = \"none\"\n",
    );

    let rules = dir.load(&[&file]).unwrap().settings.gateway.forwarders;

    let [rule] = &rules[..] else { panic!("{rules:?}") };
    let listed = |link| rule.peers.covers(LinkId(link), &LinkAddr::Wire);
    assert!(rule.peers.is_for_link(LinkId(1)) && !rule.peers.is_for_link(LinkId(0)));
    assert!(!listed(0) && !listed(1));
}

#[test]
fn impossible_radios_are_explained_with_their_lines() {
    for (name, text) in IMPOSSIBLE {
        let dir = Dir::new();
        let errors = dir
            .load(&[&dir.write("snipe.toml", text)])
            .expect_err(name)
            .to_string();
        insta::assert_snapshot!(*name, without_path(&errors, dir.path()));
    }
}

#[test]
fn doubtful_radios_are_warned_about_with_their_lines() {
    for (name, text) in DOUBTFUL {
        let dir = Dir::new();
        let loaded = dir.load(&[&dir.write("snipe.toml", text)]).expect(name);
        let warnings: Vec<String> = loaded.warnings.iter().map(Warning::to_string).collect();
        assert!(!warnings.is_empty(), "{name}");
        insta::assert_snapshot!(*name, without_path(&warnings.join("\n\n"), dir.path()));
    }
}

/// A radio, called `r`, of these keys.
fn radio(text: &str) -> Radio {
    let dir = Dir::new();
    let file = dir.write("snipe.toml", &format!("[[radio]]\nname = \"r\"\n{text}"));
    let loaded = dir.load(&[&file]).unwrap_or_else(|errors| panic!("{errors}"));
    let [radio] = &loaded.settings.radios[..] else {
        panic!("{:?}", loaded.settings.radios)
    };
    radio.clone()
}

fn lora(text: &str) -> LoraSettings {
    match radio(&format!("kind = \"lora\"\n{text}")).kind {
        RadioKind::Lora(lora) => lora,
        other => panic!("{other:?}"),
    }
}

const IMPOSSIBLE: &[(&str, &str)] = &[
    (
        "radio_without_anything",
        "[[radio]]\nname = \"l\"\nkind = \"lora\"\n",
    ),
    (
        "over_the_edge_of_a_band",
        "[[radio]]\nname = \"l\"\nkind = \"lora\"\ndriver = \"rak3172\"\nport = \"p\"\nregion = \"EU868\"\nfrequency = 868_000_000\n",
    ),
    (
        "in_no_band",
        "[[radio]]\nname = \"l\"\nkind = \"lora\"\ndriver = \"rak3172\"\nport = \"p\"\nregion = \"EU868\"\nfrequency = 915_000_000\n",
    ),
    (
        "above_the_law",
        "[[radio]]\nname = \"l\"\nkind = \"lora\"\ndriver = \"rak3172\"\nport = \"p\"\nregion = \"EU868\"\nfrequency = 868_300_000\n\
         duty_cycle = 0.1\n",
    ),
    (
        "too_much_power",
        "[[radio]]\nname = \"l\"\nkind = \"lora\"\ndriver = \"rak3172\"\nport = \"p\"\nregion = \"EU868\"\ntx_power_dbm = 14\n\
         antenna_gain_dbi = 5.15\n",
    ),
    (
        "too_narrow",
        "[[radio]]\nname = \"l\"\nkind = \"lora\"\ndriver = \"rn2903\"\nport = \"p\"\nregion = \"US915\"\nbandwidth = 125_000\n",
    ),
    (
        "listen_before_talk",
        "[[radio]]\nname = \"l\"\nkind = \"lora\"\ndriver = \"rak3172\"\nport = \"p\"\nregion = \"AS923-JP\"\n",
    ),
    (
        "modulation_that_the_modem_refuses",
        "[[radio]]\nname = \"l\"\nkind = \"lora\"\ndriver = \"rylr998\"\nport = \"p\"\nregion = \"EU868\"\nspreading_factor = 12\n\
         bandwidth = 125_000\n",
    ),
    (
        "spreading_factor_5",
        "[[radio]]\nname = \"l\"\nkind = \"lora\"\ndriver = \"rak3172\"\nport = \"p\"\nregion = \"EU868\"\nspreading_factor = 5\n",
    ),
    (
        "no_room_within_the_dwell_time",
        "[[radio]]\nname = \"l\"\nkind = \"lora\"\ndriver = \"rak3172\"\nport = \"p\"\nregion = \"AS923\"\nspreading_factor = 12\n",
    ),
    (
        "retry_shorter_than_the_air_allows",
        "[[radio]]\nname = \"l\"\nkind = \"lora\"\ndriver = \"rak3172\"\nport = \"p\"\nregion = \"EU868\"\nspreading_factor = 12\n\
         retry = { first = \"2s\" }\n",
    ),
    (
        "what_the_modem_cannot_do",
        "[[radio]]\nname = \"l\"\nkind = \"lora\"\ndriver = \"rn2483\"\nport = \"p\"\nbaud = 250_000\nregion = \"US915\"\n\
         tx_power_dbm = 20\n",
    ),
    (
        "mtu_beyond_modem_and_law",
        "[[radio]]\nname = \"l\"\nkind = \"lora\"\ndriver = \"rak4270\"\nport = \"p\"\nregion = \"EU868\"\nmtu = 200\n\
         [[radio]]\nname = \"m\"\nkind = \"lora\"\ndriver = \"rak3172\"\nport = \"q\"\nregion = \"AS923\"\nmtu = 200\n\
         [[radio]]\nname = \"x\"\nkind = \"xbee\"\nport = \"x\"\nmtu = 1400\n",
    ),
    (
        "topic_too_long_for_lora",
        "[[radio]]\nname = \"l\"\nkind = \"lora\"\ndriver = \"rak3172\"\nport = \"p\"\nregion = \"AS923\"\nspreading_factor = 10\n\
         [[predefined]]\nid = 1\ntopic = \"a/topic/of/many/levels\"\n",
    ),
    (
        "reyax_network",
        "[[radio]]\nname = \"l\"\nkind = \"lora\"\ndriver = \"rylr998\"\nport = \"p\"\nregion = \"EU868\"\nnetwork_id = 16\naddress = 0\n",
    ),
    (
        "two_radios_on_one_port",
        "[[radio]]\nname = \"x\"\nkind = \"xbee\"\nport = \"/dev/ttyUSB0\"\n\
         [[radio]]\nname = \"s\"\nkind = \"serial\"\nport = \"/dev/ttyUSB0\"\n",
    ),
    (
        "checksum_where_there_is_one",
        "[[radio]]\nname = \"a\"\nkind = \"serial\"\nport = \"a\"\nframing = \"hdlc\"\ncrc = \"crc16-x25\"\n\
         [[radio]]\nname = \"b\"\nkind = \"serial\"\nport = \"b\"\nframing = \"length-prefix\"\ncrc = \"crc16-xmodem\"\n",
    ),
    (
        "serial_mistakes",
        "[[radio]]\nname = \"a\"\nkind = \"serial\"\nport = \"\"\nfixed_prefix = \"fff\"\n\
         [[radio]]\nname = \"b\"\nkind = \"serial\"\nport = \"b\"\nduty_cycle = 0.01\n\
         [[radio]]\nname = \"k\"\nkind = \"serial\"\nport = \"k\"\nframing = \"kiss\"\nmetadata = \"rssi\"\n\
         [[radio]]\nname = \"x\"\nkind = \"xbee\"\nport = \"x\"\nbaud = 9601\nreopen = { first = \"1m\" }\n",
    ),
    (
        "forwarder_with_an_ip_address_on_a_wire",
        "[[radio]]\nname = \"s\"\nkind = \"serial\"\nport = \"s\"\n\
         [[forwarder]]\nname = \"f\"\nradio = \"s\"\nsource = \"10.0.0.1\"\n",
    ),
    (
        "modem_of_a_later_version",
        "[[radio]]\nname = \"l\"\nkind = \"lora\"\ndriver = \"lora-e5\"\nport = \"p\"\nregion = \"EU868\"\n",
    ),
    (
        "region_of_which_nothing_is_known",
        "[[radio]]\nname = \"l\"\nkind = \"lora\"\ndriver = \"rak3172\"\nport = \"p\"\nregion = \"other\"\n",
    ),
    (
        "setting_that_only_the_driver_knows",
        "[[radio]]\nname = \"l\"\nkind = \"lora\"\ndriver = \"rak4270\"\nport = \"p\"\nregion = \"EU868\"\nsync_word = 0x34\n",
    ),
    (
        "frequency_in_megahertz",
        "[[radio]]\nname = \"l\"\nkind = \"lora\"\ndriver = \"rak3172\"\nport = \"p\"\nregion = \"EU868\"\nfrequency = 868\n",
    ),
    (
        "no_airtime",
        "[[radio]]\nname = \"l\"\nkind = \"lora\"\ndriver = \"rak3172\"\nport = \"p\"\nregion = \"EU868\"\nduty_cycle = 0\n",
    ),
];

const DOUBTFUL: &[(&str, &str)] = &[
    (
        "decimal_sync_word_and_ports_without_a_path",
        "[[radio]]\nname = \"l\"\nkind = \"lora\"\ndriver = \"rak3172\"\nport = \"ttyUSB0\"\nregion = \"EU868\"\nsync_word = 34\n\
         [[radio]]\nname = \"s\"\nkind = \"serial\"\nport = \"COM3\"\n",
    ),
    (
        "radio_behind_a_line_without_turnaround",
        "[[radio]]\nname = \"e\"\nkind = \"serial\"\nport = \"p\"\nair_rate = 2400\nduty_cycle = 0.01\ncrc = \"crc16-x25\"\n\
         header = \"radiohead\"\n",
    ),
    (
        "header_none",
        "[[radio]]\nname = \"l\"\nkind = \"lora\"\ndriver = \"rak3172\"\nport = \"p\"\nregion = \"EU868\"\nheader = \"none\"\n\
         header_acks = true\n",
    ),
    (
        "keys_of_other_modems",
        "[[radio]]\nname = \"l\"\nkind = \"lora\"\ndriver = \"rak3172\"\nport = \"p\"\nregion = \"EU868\"\nnetwork_id = 18\n\
         [[radio]]\nname = \"m\"\nkind = \"lora\"\ndriver = \"rylr896\"\nport = \"q\"\nregion = \"EU868\"\nsync_word = 0x34\n",
    ),
    (
        "retry_shorter_than_sensible",
        "[[radio]]\nname = \"l\"\nkind = \"lora\"\ndriver = \"rak3172\"\nport = \"p\"\nregion = \"EU868\"\nspreading_factor = 12\n\
         retry = { first = \"10s\" }\n",
    ),
    (
        "little_airtime",
        "[[radio]]\nname = \"l\"\nkind = \"lora\"\ndriver = \"rak3172\"\nport = \"p\"\nregion = \"EU868\"\nfrequency = 864_000_000\n\
         spreading_factor = 12\n",
    ),
    (
        "ebyte_modem_half_configured",
        "[[radio]]\nname = \"e\"\nkind = \"serial\"\nport = \"p\"\nair_rate = 2400\n",
    ),
    (
        "kiss",
        "[[radio]]\nname = \"k\"\nkind = \"serial\"\nport = \"k\"\nframing = \"kiss\"\ncrc = \"crc16-x25\"\n",
    ),
];
