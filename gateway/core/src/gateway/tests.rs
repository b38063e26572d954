//! What shows only with links, clients and timers together.

use core::time::Duration;

use bytes::Bytes;
use sn_codec::{Connect, Disconnect, Packet, QoS};

use super::Gateway;
use crate::config::GatewayConfig;
use crate::io::{LinkEvent, LinkProfile, Output, RadioFacts};
use crate::peer::{LinkAddr, LinkId, LocalEnd, Route};
use crate::time::Instant;

const NOW: Instant = Instant::START;

fn gateway(links: u16) -> Gateway {
    let mut gateway = Gateway::new(GatewayConfig::default(), 1, NOW);
    for link in 0..links {
        gateway.handle_link(NOW, LinkId(link), LinkEvent::Up(profile(LinkProfile::UNLIMITED)));
    }
    gateway
}

fn profile(credit: u32) -> LinkProfile {
    LinkProfile {
        credit,
        ..LinkProfile::default()
    }
}

fn hand_in(gateway: &mut Gateway, link: u16, packet: Packet<'_>) {
    let from = Route {
        addr: LinkAddr::Wire,
        local: LocalEnd::default(),
    };
    let mut datagram = Vec::new();
    packet.encode(&mut datagram);
    gateway.handle_datagram(NOW, LinkId(link), &from, RadioFacts::default(), &datagram);
}

fn connect() -> Packet<'static> {
    Packet::Connect(Connect {
        will: false,
        clean_session: false,
        duration: 60,
        client_id: "a",
    })
}

/// What leaves: link and first octets.
fn sent(gateway: &mut Gateway) -> Vec<(u16, Vec<u8>)> {
    let mut sent = Vec::new();
    let mut buf = Vec::new();
    while let Some(output) = gateway.poll_output(NOW, &mut buf) {
        if let Output::Transmit { link, len, .. } = output {
            sent.push((link.0, buf.split_off(buf.len() - len)));
        }
    }
    sent
}

#[test]
fn deadlines_that_are_brought_forward_leave_no_trail() {
    let mut gateway = gateway(1);
    hand_in(&mut gateway, 0, connect());
    for duration in (1..=u16::MAX).rev() {
        let duration = Some(duration);
        hand_in(&mut gateway, 0, Packet::Disconnect(Disconnect { duration }));
        sent(&mut gateway);
    }
    assert!(
        gateway.cx.timers.len() <= 1100,
        "{} deadlines",
        gateway.cx.timers.len()
    );
    assert_eq!(gateway.poll_timeout(), Some(NOW + Duration::from_millis(1500)));
}

#[test]
fn answers_owed_on_a_link_that_the_client_left_do_not_count_for_ever() {
    let mut gateway = gateway(2);
    hand_in(&mut gateway, 0, connect());
    hand_in(
        &mut gateway,
        0,
        Packet::Disconnect(Disconnect { duration: Some(60) }),
    );
    sent(&mut gateway);
    for link in [0, 1].into_iter().cycle().take(100) {
        // No drain in between: the first answer is still owed when the client is on the other link.
        hand_in(
            &mut gateway,
            link,
            Packet::Pingreq(sn_codec::Pingreq { client_id: Some("a") }),
        );
        hand_in(
            &mut gateway,
            1 - link,
            Packet::Pingreq(sn_codec::Pingreq { client_id: Some("a") }),
        );
        assert_eq!(sent(&mut gateway), [(1 - link, vec![0x02, 0x17])]);
    }
}

#[test]
fn message_for_a_client_that_moved_leaves_on_its_new_link_and_its_credit() {
    let mut gateway = gateway(2);
    hand_in(&mut gateway, 0, connect());
    let subscribe = sn_codec::Subscribe {
        dup: false,
        qos: QoS::AtMostOnce,
        msg_id: sn_codec::MsgId(1),
        topic: sn_codec::TopicFilter::Name("ab"),
    };
    hand_in(&mut gateway, 0, Packet::Subscribe(subscribe));
    sent(&mut gateway);
    gateway.on_message(
        NOW,
        &[],
        &"ab".into(),
        QoS::AtMostOnce,
        false,
        Bytes::from_static(b"x"),
        None,
    );
    gateway.handle_link(NOW, LinkId(1), LinkEvent::Down);
    hand_in(&mut gateway, 1, connect());
    assert_eq!(sent(&mut gateway), [], "the link does not work");
    gateway.handle_link(NOW, LinkId(1), LinkEvent::Up(profile(1)));
    assert_eq!(sent(&mut gateway), [(1, vec![0x03, 0x05, 0x00])]);
    gateway.handle_link(NOW, LinkId(1), LinkEvent::Credit(1));
    assert!(matches!(&sent(&mut gateway)[..], [(1, _)]));
}
