//! ADVERTISE, SEARCHGW and GWINFO (§6.1).

mod common;

use core::time::Duration;

use common::{Bench, LINK, connack, route, seconds};
use gateway_core::config::{GatewayConfig, SearchReply};
use gateway_core::io::{LinkEvent, LinkProfile, Notice};
use gateway_core::peer::LinkId;
use sn_codec::{Advertise, Connect, GwInfo, Packet, ReturnCode, SearchGw};

const A: u16 = 1;

/// What the bench calls a broadcast.
const EVERYONE: u16 = 0;

fn profile(broadcast: bool) -> LinkProfile {
    LinkProfile {
        broadcast_mtu: if broadcast { 1400 } else { 0 },
        ..LinkProfile::default()
    }
}

/// A gateway with a link that can broadcast, and no broker yet.
fn broadcasting(config: GatewayConfig) -> Bench {
    let mut bench = Bench::new(config);
    link(&mut bench, LinkEvent::Up(profile(true)));
    bench
}

fn link(bench: &mut Bench, event: LinkEvent) {
    bench.gateway.handle_link(bench.now, LINK, event);
    bench.drain();
}

fn advertise() -> Packet<'static> {
    Packet::Advertise(Advertise {
        gw_id: 1,
        duration: 960,
    })
}

fn gw_info() -> Packet<'static> {
    Packet::GwInfo(GwInfo {
        gw_id: 1,
        gw_add: &[],
    })
}

const SEARCH: Packet<'_> = Packet::SearchGw(SearchGw { radius: 0 });

#[test]
fn advertises_once_a_broker_is_there_and_then_at_the_interval() {
    let mut bench = broadcasting(GatewayConfig::default());
    bench.pass(seconds(2000));
    bench.expect(EVERYONE, &[]);
    bench.broker_up(false);
    bench.expect(EVERYONE, &[advertise()]);
    bench.pass(seconds(959));
    bench.expect(EVERYONE, &[]);
    bench.pass(seconds(1));
    bench.expect(EVERYONE, &[advertise()]);
    bench.pass(seconds(9600));
    assert_eq!(bench.take(EVERYONE).len(), 10);
}

#[test]
fn advertises_when_a_link_comes_up_and_not_while_it_is_down() {
    let mut bench = broadcasting(GatewayConfig::default());
    bench.broker_up(false);
    bench.expect(EVERYONE, &[advertise()]);
    link(&mut bench, LinkEvent::Down);
    bench.pass(seconds(5000));
    bench.expect(EVERYONE, &[]);
    link(&mut bench, LinkEvent::Up(profile(true)));
    bench.expect(EVERYONE, &[advertise()]);
}

#[test]
fn advertises_only_where_it_can_broadcast_and_only_if_it_shall() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.pass(seconds(5000));
    bench.expect(EVERYONE, &[]);

    let mut bench = broadcasting(GatewayConfig {
        advertise_interval: None,
        ..GatewayConfig::default()
    });
    bench.broker_up(false);
    bench.pass(seconds(5000));
    bench.expect(EVERYONE, &[]);
    assert_eq!(bench.gateway.poll_timeout(), None);
}

#[test]
fn withdraws_by_silence_while_no_broker_is_there() {
    let mut bench = broadcasting(GatewayConfig::default());
    bench.broker_up(false);
    bench.expect(EVERYONE, &[advertise()]);
    bench.broker_down();
    bench.pass(seconds(5000));
    bench.expect(EVERYONE, &[]);
    bench.broker_up(true);
    bench.expect(EVERYONE, &[advertise()]);
}

#[test]
fn broker_that_comes_and_goes_does_not_load_the_network() {
    let mut bench = broadcasting(GatewayConfig::default());
    for _ in 0..600 {
        bench.broker_up(true);
        bench.pass(Duration::from_millis(500));
        bench.broker_down();
        bench.pass(Duration::from_millis(500));
    }
    let sent = bench.take(EVERYONE).len();
    assert!((1..=10).contains(&sent), "{sent} in ten minutes");
    // A link that flaps neither.
    bench.broker_up(true);
    for _ in 0..600 {
        link(&mut bench, LinkEvent::Down);
        link(&mut bench, LinkEvent::Up(profile(true)));
        bench.pass(seconds(1));
    }
    let sent = bench.take(EVERYONE).len();
    assert!((1..=11).contains(&sent), "{sent} in ten minutes");
}

#[test]
fn search_is_answered_at_once_to_who_asked() {
    let mut bench = broadcasting(GatewayConfig::default());
    // Whether a broker is there or not: a client may as well wait here.
    bench.packet(A, SEARCH);
    bench.expect(A, &[gw_info()]);
    bench.expect(EVERYONE, &[]);
}

#[test]
fn search_of_one_client_is_answered_once_in_an_interval() {
    let mut bench = broadcasting(GatewayConfig {
        search_reply_interval: seconds(5),
        ..GatewayConfig::default()
    });
    // By multicast it may come once for each interface.
    for _ in 0..4 {
        bench.packet(A, SEARCH);
    }
    bench.expect(A, &[gw_info()]);
    bench.pass(seconds(4));
    bench.packet(A, SEARCH);
    bench.expect(A, &[]);
    bench.pass(seconds(1));
    bench.packet(A, SEARCH);
    bench.expect(A, &[gw_info()]);
    assert_eq!(bench.gateway.metrics().rate_limited_total, 4);
}

#[test]
fn searches_of_many_are_answered_within_a_bound() {
    let mut bench = broadcasting(GatewayConfig::default());
    for port in 1..=5000 {
        bench.packet(port, SEARCH);
    }
    assert_eq!(bench.sent.len(), 100);
    // A stranger that has to hear DISCONNECT is not behind them in line.
    bench.sent.clear();
    bench.packet(9999, Packet::Pingreq(sn_codec::Pingreq { client_id: None }));
    bench.expect(9999, &[common::disconnect()]);
}

#[test]
fn everyone_hears_the_answer_if_so_configured() {
    let config = GatewayConfig {
        search_reply: SearchReply::UnicastAndBroadcast,
        advertise_interval: None,
        ..GatewayConfig::default()
    };
    let mut bench = broadcasting(config.clone());
    for port in 1..=3 {
        bench.packet(port, SEARCH);
        bench.expect(port, &[gw_info()]);
    }
    bench.expect(EVERYONE, &[gw_info()]);
    bench.pass(seconds(1));
    bench.packet(A, SEARCH);
    bench.expect(EVERYONE, &[gw_info()]);

    // On a link that cannot broadcast the one who asked is all there is.
    let mut bench = Bench::up(config);
    bench.packet(A, SEARCH);
    bench.expect(A, &[gw_info()]);
    assert!(bench.sent.is_empty());
}

#[test]
fn what_other_gateways_say_is_counted_and_never_answered() {
    let mut bench = broadcasting(GatewayConfig::default());
    for gw_id in [2, 3] {
        bench.packet(A, Packet::Advertise(Advertise { gw_id, duration: 960 }));
        bench.packet(A, Packet::GwInfo(GwInfo { gw_id, gw_add: &[] }));
    }
    // A client that tells another how to reach us, or someone else: no gateway.
    for gw_id in [1, 2] {
        bench.packet(
            A,
            Packet::GwInfo(GwInfo {
                gw_id,
                gw_add: &[10, 0, 0, 1],
            }),
        );
    }
    assert!(bench.sent.is_empty());
    assert!(bench.notices.is_empty());
    let metrics = bench.gateway.metrics();
    assert_eq!(
        (metrics.gateways_heard_total, metrics.same_gateway_id_total),
        (4, 0)
    );
}

#[test]
fn second_gateway_with_our_id_is_told_of_now_and_then() {
    let mut bench = broadcasting(GatewayConfig::default());
    let twin = |bench: &mut Bench| {
        bench.packet(A, advertise());
        bench.packet(A, gw_info());
        bench.notices.drain(..).collect::<Vec<_>>()
    };
    let told = [Notice::SameGatewayId {
        link: LINK,
        addr: route(A).addr,
        gateway_id: 1,
    }];
    assert_eq!(twin(&mut bench), told);
    bench.pass(seconds(599));
    assert_eq!(twin(&mut bench), []);
    bench.pass(seconds(1));
    assert_eq!(twin(&mut bench), told);
    assert_eq!(bench.gateway.metrics().same_gateway_id_total, 6);
    assert!(bench.sent.is_empty());
}

#[test]
fn own_words_heard_by_another_radio_are_no_second_gateway() {
    let mut bench = broadcasting(GatewayConfig::default());
    let other = LinkId(1);
    let hear = |bench: &mut Bench| {
        let mut datagram = Vec::new();
        advertise().encode(&mut datagram);
        bench.hand_in(other, &route(A), &datagram);
        bench.drain();
        bench.gateway.metrics().same_gateway_id_total
    };
    bench
        .gateway
        .handle_link(bench.now, other, LinkEvent::Up(profile(false)));
    bench.broker_up(false);
    bench.expect(EVERYONE, &[advertise()]);
    assert_eq!(hear(&mut bench), 0);
    bench.pass(seconds(3));
    assert_eq!(hear(&mut bench), 1);
}

#[test]
fn client_that_found_the_gateway_connects() {
    let mut bench = broadcasting(GatewayConfig::default());
    bench.broker_up(false);
    bench.sent.clear();
    bench.packet(A, SEARCH);
    bench.expect(A, &[gw_info()]);
    let connect = Connect {
        will: false,
        clean_session: true,
        duration: 60,
        client_id: "found-it",
    };
    bench.packet(A, Packet::Connect(connect));
    bench.expect(A, &[connack(ReturnCode::Accepted)]);
    // An active client may look for others; that changes nothing.
    bench.pass(seconds(2));
    bench.packet(A, SEARCH);
    bench.expect(A, &[gw_info()]);
    assert_eq!(bench.gateway.metrics().clients_active, 1);
}

#[test]
fn client_that_searches_or_tells_others_of_us_is_not_silent() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect_with(A, common::connect("a", true, 60));
    for packet in [
        Packet::SearchGw(SearchGw { radius: 0 }),
        Packet::GwInfo(GwInfo {
            gw_id: 1,
            gw_add: &[10, 0, 0, 1],
        }),
    ] {
        bench.pass(seconds(80));
        bench.packet(A, packet);
    }
    bench.pass(seconds(89));
    assert_eq!(bench.gateway.metrics().clients_active, 1);
    bench.pass(seconds(1));
    assert_eq!(bench.gateway.metrics().clients_active, 0);
}

/// ADVERTISE of the gateway that others stand by for.
fn primary(bench: &mut Bench, duration: u16) {
    bench.packet(A, Packet::Advertise(Advertise { gw_id: 7, duration }));
}

fn standing_by() -> Bench {
    let config = GatewayConfig {
        stand_by_for: Some(7),
        ..GatewayConfig::default()
    };
    let mut bench = broadcasting(config);
    bench.broker_up(false);
    bench
}

fn stand_by_notices(bench: &mut Bench) -> Vec<bool> {
    let missed = |notice| match notice {
        Notice::StandBy {
            link: LINK,
            gateway_id: 7,
            missed,
        } => Some(missed),
        _ => None,
    };
    bench.notices.drain(..).filter_map(missed).collect()
}

#[test]
fn stand_by_gateway_is_silent_while_it_hears_the_other() {
    let mut bench = standing_by();
    for _ in 0..20 {
        bench.pass(seconds(600));
        primary(&mut bench, 600);
        bench.packet(A, SEARCH);
    }
    assert!(bench.sent.is_empty());
    assert_eq!(bench.gateway.metrics().stand_by_searches_total, 20);
    assert_eq!(stand_by_notices(&mut bench), []);
}

#[test]
fn stand_by_gateway_takes_the_place_of_one_it_misses_twice_and_gives_it_back() {
    let mut bench = standing_by();
    primary(&mut bench, 600);
    bench.pass(seconds(1499));
    bench.packet(A, SEARCH);
    assert!(bench.sent.is_empty());
    bench.pass(seconds(1));
    bench.expect(EVERYONE, &[advertise()]);
    assert_eq!(stand_by_notices(&mut bench), [true]);
    bench.packet(A, SEARCH);
    bench.expect(A, &[gw_info()]);
    bench.pass(seconds(960));
    bench.expect(EVERYONE, &[advertise()]);

    primary(&mut bench, 600);
    assert_eq!(stand_by_notices(&mut bench), [false]);
    bench.pass(seconds(1499));
    bench.packet(A, SEARCH);
    assert!(bench.sent.is_empty());
}

#[test]
fn stand_by_gateway_listens_first() {
    let mut bench = standing_by();
    bench.pass(seconds(2399));
    bench.packet(A, SEARCH);
    assert!(bench.sent.is_empty());
    bench.pass(seconds(1));
    bench.expect(EVERYONE, &[advertise()]);
}

#[test]
fn stand_by_gateway_serves_who_connects() {
    let mut bench = standing_by();
    bench.connect_with(A, common::connect("a", true, 60));
    assert_eq!(bench.gateway.metrics().clients_active, 1);
}

#[test]
fn outage_of_a_link_does_not_silence_a_stand_by_gateway_that_took_over() {
    let mut bench = standing_by();
    bench.pass(seconds(2400));
    bench.expect(EVERYONE, &[advertise()]);
    link(&mut bench, LinkEvent::Down);
    bench.pass(seconds(100));
    link(&mut bench, LinkEvent::Up(profile(true)));
    bench.expect(EVERYONE, &[advertise()]);
}

#[test]
fn another_gateway_than_the_one_stood_by_for_changes_nothing() {
    let mut bench = standing_by();
    for _ in 0..3 {
        bench.pass(seconds(799));
        bench.packet(
            A,
            Packet::Advertise(Advertise {
                gw_id: 8,
                duration: 900,
            }),
        );
    }
    assert!(bench.sent.is_empty());
    bench.pass(seconds(3));
    bench.expect(EVERYONE, &[advertise()]);
}
