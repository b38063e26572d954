//! Links on which datagrams cost airtime: what goes first, what waits, and what is not sent.

#![allow(clippy::unwrap_used)]

mod common;

use core::time::Duration;

use common::{Bench, LINK, connack, connect, disconnect, puback, publish, route, seconds, will_topic};
use gateway_core::airtime::{Airtime, Lora, Payload};
use gateway_core::config::{GatewayConfig, LinkSettings, PredefinedTopic, Retry};
use gateway_core::io::{DutyCycle, LinkEvent, LinkProfile, Notice, RadioFacts, TxTicket};
use gateway_core::link_metrics::{Class, LinkMetrics, NotSent};
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom as _;
use sn_codec::{MsgId, Packet, Publish, PublishQoS, QoS, Regack, ReturnCode, TopicId, TopicRef, WillMsg};

/// PINGRESP at SF12, 125 kHz, with the four octets of a link header.
const SF12_SHORT: Duration = Duration::from_micros(991_232);

fn lora(spreading_factor: u8) -> Airtime {
    Airtime::Lora {
        modulation: Lora {
            spreading_factor,
            bandwidth_hz: 125_000,
            coding_rate: 5,
            preamble: 8,
        },
        payload: Payload {
            overhead: 4,
            base64: false,
        },
    }
}

/// A modem that takes one datagram at a time and says when it has left.
fn modem(spreading_factor: u8, duty_cycle_ppm: Option<u32>) -> LinkProfile {
    LinkProfile {
        mtu: 64,
        broadcast_mtu: 64,
        confirms_tx: true,
        credit: 1,
        airtime: lora(spreading_factor),
        duty_cycle: duty_cycle_ppm.map(|ppm| DutyCycle {
            ppm,
            window: seconds(3600),
        }),
    }
}

fn config() -> GatewayConfig {
    GatewayConfig {
        advertise_interval: None,
        predefined: (1..=40)
            .map(|id| PredefinedTopic {
                id: TopicId(id),
                topic: format!("t/{id}"),
            })
            .collect(),
        ..GatewayConfig::default()
    }
}

fn radio(profile: LinkProfile) -> Bench {
    let mut bench = Bench::with_link(config(), profile);
    bench.broker_up(false);
    bench
}

fn metrics(bench: &Bench) -> LinkMetrics {
    bench.gateway.link_metrics(bench.now, LINK).unwrap()
}

/// The datagram at hand leaves the antenna after its time on air, and the modem takes the next.
fn leaves(bench: &mut Bench) {
    let ticket = *bench.tickets.last().unwrap();
    let len = bench.sent.last().unwrap().1.len();
    bench.pass(lora(12).of(len));
    bench.link(LinkEvent::Sent(ticket));
    bench.link(LinkEvent::Credit(1));
}

/// Everything that waits leaves.
fn all_leave(bench: &mut Bench) {
    let mut tickets = 0;
    while bench.tickets.len() > tickets {
        tickets = bench.tickets.len();
        bench.pass(seconds(1));
        leaves_now(bench);
    }
}

fn last_ticket(bench: &Bench) -> TxTicket {
    *bench.tickets.last().unwrap()
}

fn connected(bench: &mut Bench, port: u16, id: &str) {
    bench.packet(port, Packet::Connect(connect(id, true, 3600)));
    leaves(bench);
    bench.expect(port, &[connack(ReturnCode::Accepted)]);
}

/// Connected, and subscribed to one predefined topic.
fn subscriber(bench: &mut Bench, port: u16, id: &str, topic: u16) {
    connected(bench, port, id);
    bench.requests.clear();
    bench.packet(
        port,
        Packet::Subscribe(sn_codec::Subscribe {
            dup: false,
            qos: QoS::ExactlyOnce,
            msg_id: MsgId(9),
            topic: sn_codec::TopicFilter::Predefined(TopicId(topic)),
        }),
    );
    bench.settle();
    leaves(bench);
    bench.take(port);
}

fn message(bench: &mut Bench, topic: u16, qos: QoS, payload: &[u8]) {
    bench.message(&[], &format!("t/{topic}"), qos, false, payload);
}

fn uplink(bench: &mut Bench, port: u16, msg_id: u16) {
    let topic = TopicRef::Predefined(TopicId(1));
    bench.packet(port, publish(topic, QoS::AtLeastOnce, msg_id, b"21.5"));
    bench.settle();
}

fn is_publish(packet: &Packet<'_>) -> bool {
    matches!(packet, Packet::Publish(_))
}

// Tretry.

#[test]
fn answer_is_waited_for_once_the_frame_has_left_the_antenna() {
    let mut bench = radio(modem(7, None));
    subscriber(&mut bench, 1, "a", 1);
    message(&mut bench, 1, QoS::AtLeastOnce, b"x");
    let ticket = last_ticket(&bench);
    bench.pass(seconds(300));
    assert_eq!(bench.heard(1).len(), 1, "the modem still has it");
    bench.link(LinkEvent::Sent(ticket));
    bench.link(LinkEvent::Credit(1));
    bench.pass(Duration::from_millis(9_999));
    assert_eq!(bench.take(1).len(), 0);
    bench.pass(Duration::from_millis(1));
    let again = bench.heard_publish(1);
    assert!(again.dup);
    bench.link(LinkEvent::Sent(last_ticket(&bench)));
    bench.link(LinkEvent::Credit(1));
    bench.pass(Duration::from_millis(19_999));
    assert_eq!(bench.take(1).len(), 0, "twice as long");
    bench.pass(Duration::from_millis(1));
    assert_eq!(bench.take(1).len(), 1);
}

#[test]
fn tretry_is_at_least_three_round_trips_and_what_goes_out_meanwhile() {
    let mut config = config();
    config.timers.retry_first = seconds(1);
    config.timers.retry_max = seconds(4);
    let mut bench = Bench::with_link(config, modem(12, None));
    bench.broker_up(false);
    subscriber(&mut bench, 1, "a", 1);
    connected(&mut bench, 2, "b");
    message(&mut bench, 1, QoS::AtLeastOnce, &[0; 20]);
    // Two answers of 1.2 s are waiting when it leaves.
    uplink(&mut bench, 2, 1);
    uplink(&mut bench, 2, 2);
    let sent_at = bench.now;
    bench.link(LinkEvent::Sent(last_ticket(&bench)));
    let round_trip = lora(12).of(27) + lora(12).of(7);
    let least = 3 * round_trip + 2 * lora(12).of(7);
    bench.link(LinkEvent::Credit(3));
    bench.pass(least - Duration::from_millis(1));
    assert_eq!(bench.take(1).len(), 1, "none but the first");
    bench.pass(round_trip + Duration::from_millis(1));
    assert!(bench.heard_publish(1).dup, "{:?} later", bench.now.since(sent_at));
}

#[test]
fn each_radio_may_have_a_tretry_of_its_own() {
    let mut config = config();
    config.links = vec![LinkSettings {
        retry: Some(Retry {
            first: seconds(40),
            max: seconds(50),
            count: 1,
        }),
    }];
    let mut bench = Bench::up(config);
    bench.connect_with(1, connect("a", true, 3600));
    let (_, filter) = bench.subscribe(1, "ab", QoS::AtLeastOnce);
    bench.message(&[filter], "ab", QoS::AtLeastOnce, false, b"x");
    bench.take(1);
    bench.pass(seconds(39));
    assert_eq!(bench.take(1).len(), 0);
    bench.pass(seconds(1));
    assert_eq!(bench.take(1).len(), 1);
    bench.pass(seconds(3000));
    assert_eq!(bench.take(1).len(), 0, "once is all");
}

#[test]
fn prompt_for_a_will_is_repeated_a_tretry_after_it_left() {
    let mut bench = radio(modem(12, None));
    let mut with_will = connect("a", true, 60);
    with_will.will = true;
    bench.packet(1, Packet::Connect(with_will));
    bench.expect(1, &[Packet::WillTopicReq]);
    bench.pass(seconds(9));
    bench.link(LinkEvent::Sent(last_ticket(&bench)));
    bench.link(LinkEvent::Credit(1));
    bench.pass(Duration::from_millis(9_900));
    assert_eq!(bench.take(1).len(), 0);
    bench.pass(Duration::from_millis(100));
    bench.expect(1, &[Packet::WillTopicReq]);
    leaves_now(&mut bench);
    bench.packet(1, will_topic("w"));
    leaves_now(&mut bench);
    bench.packet(1, Packet::WillMsg(WillMsg { message: b"gone" }));
    bench.expect(1, &[Packet::WillMsgReq, connack(ReturnCode::Accepted)]);
}

fn leaves_now(bench: &mut Bench) {
    bench.link(LinkEvent::Sent(last_ticket(bench)));
    bench.link(LinkEvent::Credit(1));
}

// What never left.

#[test]
fn what_was_not_sent_is_due_again_and_was_not_sent_in_vain() {
    let mut bench = radio(modem(7, None));
    subscriber(&mut bench, 1, "a", 1);
    message(&mut bench, 1, QoS::AtLeastOnce, b"x");
    let before = metrics(&bench).tx_airtime_us;
    for _ in 0..10 {
        bench.link(LinkEvent::Unsent(last_ticket(&bench)));
        bench.link(LinkEvent::Credit(1));
    }
    let sent = bench.heard(1);
    assert_eq!(sent.len(), 11);
    assert!(
        sent.iter().all(|packet| *packet == sent[0]),
        "none has DUP: {sent:?}"
    );
    assert_eq!(metrics(&bench).tx_airtime_us, before);
    assert_eq!(metrics(&bench).unsent_total, 10);
    // All of its retransmissions are left.
    leaves_now(&mut bench);
    for _ in 0..10 {
        bench.pass(seconds(60));
        if !bench.take(1).is_empty() {
            leaves_now(&mut bench);
        }
    }
    assert_eq!(bench.gateway.metrics().retransmissions_total, 3);
}

#[test]
fn what_was_not_sent_goes_before_others_of_its_class() {
    let mut bench = radio(modem(7, None));
    subscriber(&mut bench, 1, "a", 1);
    subscriber(&mut bench, 2, "b", 2);
    message(&mut bench, 1, QoS::AtLeastOnce, b"x");
    message(&mut bench, 2, QoS::AtLeastOnce, b"y");
    bench.link(LinkEvent::Unsent(last_ticket(&bench)));
    bench.link(LinkEvent::Credit(1));
    let to: Vec<u16> = bench.sent.iter().map(|(to, _)| *to).collect();
    assert_eq!(to, [1, 1]);
    leaves_now(&mut bench);
    assert_eq!(bench.sent.last().unwrap().0, 2);
}

#[test]
fn answer_that_was_not_sent_is_owed_again() {
    let mut bench = radio(modem(7, None));
    bench.packet(1, Packet::Connect(connect("a", true, 60)));
    bench.link(LinkEvent::Unsent(last_ticket(&bench)));
    bench.link(LinkEvent::Credit(1));
    let accepted = connack(ReturnCode::Accepted);
    bench.expect(1, &[accepted, accepted]);
}

#[test]
fn a_refusal_makes_room_for_the_answer_to_what_was_taken() {
    let mut bench = radio(modem(7, None));
    connected(&mut bench, 1, "a");
    bench.requests.clear();
    for msg_id in 1..=40 {
        let topic = TopicRef::Predefined(TopicId(1));
        bench.packet(1, publish(topic, QoS::AtLeastOnce, msg_id, b"x"));
    }
    bench.settle();
    // At once: none of them is late.
    (0..17).for_each(|_| leaves_now(&mut bench));
    let answers = bench.heard(1);
    let (accepted, refused): (Vec<u16>, Vec<u16>) = (
        answered(&answers, ReturnCode::Accepted),
        answered(&answers, ReturnCode::Congestion),
    );
    assert_eq!(accepted, Vec::from_iter(1..=16), "each of them is published");
    assert_eq!(refused, [17], "it was on the air already");
    assert_eq!(
        metrics(&bench).dropped[NotSent::QueueFull as usize],
        23,
        "each is counted once"
    );
}

/// The message ids that got a PUBACK with this code.
fn answered(packets: &[Packet<'_>], code: ReturnCode) -> Vec<u16> {
    let ids = packets.iter().filter_map(|packet| match packet {
        Packet::Puback(puback) if puback.return_code == code => Some(puback.msg_id.0),
        _ => None,
    });
    ids.collect()
}

#[test]
fn qos_0_message_that_was_not_sent_is_the_next_again() {
    let mut bench = radio(modem(7, None));
    subscriber(&mut bench, 1, "a", 1);
    message(&mut bench, 1, QoS::AtMostOnce, b"x");
    message(&mut bench, 1, QoS::AtMostOnce, b"y");
    bench.link(LinkEvent::Unsent(last_ticket(&bench)));
    bench.link(LinkEvent::Credit(1));
    all_leave(&mut bench);
    let data: Vec<&[u8]> = bench
        .heard(1)
        .into_iter()
        .map(|packet| match packet {
            Packet::Publish(publish) => publish.data,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(data, [b"x", b"x", b"y"]);
    let metrics = bench.gateway.metrics();
    assert_eq!((metrics.delivered_total, metrics.buffer_messages), (2, 0));
}

#[test]
fn beacon_that_was_not_sent_is_sent_again() {
    let mut config = config();
    config.advertise_interval = Some(seconds(900));
    let mut bench = Bench::with_link(config, modem(7, None));
    bench.broker_up(false);
    bench.link(LinkEvent::Unsent(last_ticket(&bench)));
    bench.link(LinkEvent::Credit(1));
    assert_eq!(bench.take(0).len(), 2);
}

#[test]
fn modem_that_sends_nothing_does_not_keep_the_gateway_busy() {
    let mut bench = radio(modem(7, None));
    bench.packet(1, Packet::Connect(connect("a", true, 60)));
    for _ in 0..1000 {
        bench.link(LinkEvent::Unsent(last_ticket(&bench)));
        bench.link(LinkEvent::Credit(1));
    }
    assert_eq!(bench.take(1).len(), 16, "then it rests");
    bench.pass(seconds(1));
    assert_eq!(bench.take(1).len(), 1);
}

// Classes.

#[test]
fn answers_go_first_then_the_awake_then_exchanges_then_qos_0_then_beacons() {
    let mut config = config();
    config.advertise_interval = Some(seconds(900));
    let mut bench = Bench::with_link(config, modem(12, None));
    bench.broker_up(false);
    leaves(&mut bench); // The first ADVERTISE.
    for (port, id) in [(1, "answered"), (2, "awake"), (3, "exchange"), (4, "qos0")] {
        subscriber(&mut bench, port, id, port);
    }
    let duration = Some(3600);
    bench.packet(2, Packet::Disconnect(sn_codec::Disconnect { duration }));
    leaves(&mut bench);
    message(&mut bench, 2, QoS::AtLeastOnce, b"for the sleeper");
    bench.sent.clear();
    bench.now = bench.now + seconds(900);
    // The modem is busy while everything comes to wait.
    bench.pingreq(1, None);
    bench.gateway.handle_timeout(bench.now);
    message(&mut bench, 4, QoS::AtMostOnce, b"qos 0");
    message(&mut bench, 3, QoS::AtLeastOnce, b"qos 1");
    bench.pingreq(2, Some("awake"));
    uplink(&mut bench, 1, 7);
    assert_eq!(metrics(&bench).queued, [1, 1, 1, 1, 1]);
    all_leave(&mut bench);
    let order: Vec<u16> = bench.sent.iter().map(|(to, _)| *to).collect();
    assert_eq!(order, [1, 1, 2, 3, 4, 0]);
}

#[test]
fn a_client_that_wakes_up_changes_its_line() {
    let mut bench = radio(modem(12, None));
    subscriber(&mut bench, 1, "a", 1);
    subscriber(&mut bench, 2, "b", 2);
    bench.pingreq(1, None); // The modem is busy.
    message(&mut bench, 1, QoS::AtLeastOnce, b"1");
    message(&mut bench, 2, QoS::AtLeastOnce, b"2");
    let duration = Some(3600);
    bench.packet(2, Packet::Disconnect(sn_codec::Disconnect { duration }));
    bench.pingreq(2, Some("b"));
    assert_eq!(metrics(&bench).queued[Class::Awake as usize], 1);
    assert_eq!(metrics(&bench).queued[Class::Exchange as usize], 1);
    bench.sent.clear();
    all_leave(&mut bench);
    let order: Vec<u16> = bench.sent.iter().map(|(to, _)| *to).collect();
    assert_eq!(order[..3], [2, 2, 1], "goodnight, its message, then the other");
}

// The duty cycle.

#[test]
fn data_leaves_to_answers_what_is_beyond_its_share() {
    // 36 s in an hour. A PUBLISH of 27 octets takes 1.81 s, a PUBACK 1.16 s.
    let mut bench = radio(modem(12, Some(10_000)));
    subscriber(&mut bench, 1, "a", 1);
    for _ in 0..40 {
        message(&mut bench, 1, QoS::AtMostOnce, &[0; 20]);
    }
    all_leave(&mut bench);
    let published = bench.heard(1).iter().filter(|packet| is_publish(packet)).count();
    assert_eq!(published, 11, "60 % of 36 s");
    for msg_id in 1..=40 {
        uplink(&mut bench, 1, msg_id);
        all_leave(&mut bench);
    }
    let answers = bench.heard(1);
    assert!(!answers.iter().any(is_publish), "none in between: {answers:?}");
    // CONNACK 0.99 s and SUBACK 1.16 s; 36 - 2.15 - 11 * 1.81 leaves room for 12.
    assert_eq!(answers.len(), 12);
    let metrics = metrics(&bench);
    assert!(
        (9_600..=10_000).contains(&metrics.duty_cycle_used_ppm),
        "{metrics:?}"
    );
    assert_eq!(metrics.duty_cycle_limit_ppm, Some(10_000));
    assert!(
        bench.gateway.poll_timeout().is_some(),
        "it knows when it may go on"
    );
}

#[test]
fn what_waits_for_the_duty_cycle_goes_as_soon_as_there_is_room() {
    let mut bench = radio(modem(12, Some(10_000)));
    subscriber(&mut bench, 1, "a", 1);
    let start = bench.now;
    for _ in 0..20 {
        message(&mut bench, 1, QoS::AtMostOnce, &[0; 20]);
    }
    all_leave(&mut bench);
    let first = bench.take(1).len();
    bench.pass(seconds(3600));
    let mut later = 0;
    while !bench.sent.is_empty() {
        later += bench.take(1).len();
        leaves_now(&mut bench);
        bench.pass(seconds(3));
    }
    assert_eq!(first + later, 20);
    assert!(
        bench.now.since(start) < seconds(3720),
        "{:?}",
        bench.now.since(start)
    );
}

#[test]
fn beacons_use_a_fifth_at_most_and_wait_in_silence() {
    let mut config = config();
    config.advertise_interval = Some(seconds(60));
    let mut bench = Bench::with_link(config, modem(12, Some(10_000)));
    bench.broker_up(false);
    for _ in 0..59 {
        all_leave(&mut bench);
        bench.pass(seconds(58));
    }
    // 7.2 s of 0.99 s each.
    assert_eq!(bench.take(0).len(), 7);
    assert!(
        !bench
            .notices
            .iter()
            .any(|notice| matches!(notice, Notice::DutyCycle { .. }))
    );
}

#[test]
fn notice_of_the_duty_cycle_is_told_once_in_ten_minutes() {
    let mut bench = radio(modem(12, Some(1_000)));
    connected(&mut bench, 1, "a");
    bench.notices.clear();
    for msg_id in 0..60 {
        uplink(&mut bench, 1, msg_id);
        all_leave(&mut bench);
        bench.pass(seconds(10));
    }
    let told: Vec<&Notice> = bench
        .notices
        .iter()
        .filter(|notice| matches!(notice, Notice::DutyCycle { .. }))
        .collect();
    assert!((1..=2).contains(&told.len()), "{told:?}");
    assert!(matches!(
        told[0],
        Notice::DutyCycle {
            link: LINK,
            limit_ppm: 1_000,
            queued: 1,
            ..
        }
    ));
}

#[test]
fn message_that_takes_more_than_a_whole_window_is_given_up() {
    let mut profile = modem(12, Some(500)); // 1.8 s in an hour.
    profile.mtu = 240;
    let mut bench = Bench::with_link(config(), profile);
    bench.broker_up(false);
    connected(&mut bench, 1, "a");
    bench.packet(1, common::subscribe(MsgId(1), "t/1", QoS::AtLeastOnce));
    bench.settle();
    bench.pass(seconds(3600));
    bench.take(1);
    message(&mut bench, 1, QoS::AtLeastOnce, &[0; 100]);
    bench.pass(seconds(3600));
    assert_eq!(bench.take(1).len(), 0);
    assert_eq!(metrics(&bench).dropped[NotSent::DutyCycle as usize], 1);
    let too_large = |notice: &Notice| matches!(notice, Notice::TooLarge { topic, .. } if &**topic == "t/1");
    assert!(bench.notices.iter().any(too_large));
    assert_eq!(bench.gateway.metrics().buffer_messages, 0);
}

#[test]
fn what_never_left_is_given_back_to_the_budget() {
    let mut bench = radio(modem(12, Some(10_000)));
    connected(&mut bench, 1, "a");
    let before = metrics(&bench).duty_cycle_used_ppm;
    uplink(&mut bench, 1, 1);
    assert!(metrics(&bench).duty_cycle_used_ppm > before);
    bench.link(LinkEvent::Unsent(last_ticket(&bench)));
    assert_eq!(metrics(&bench).duty_cycle_used_ppm, before);
}

#[test]
fn overload_is_shared_evenly() {
    // 20 clients, each with ten times what there is room for; one of them shouts ten times as loud.
    let mut bench = radio(modem(12, Some(10_000)));
    for port in 1..=20 {
        connected(&mut bench, port, &format!("c{port}"));
        bench.pass(seconds(150)); // A CONNACK each does not use the budget up.
    }
    bench.sent.clear();
    let mut answered = [0_u32; 100];
    let mut msg_id = 0;
    let mut ports: Vec<u16> = (1..=20).collect();
    let mut rng = SmallRng::seed_from_u64(1);
    for _ in 0..2160 {
        // Half a day in steps of 20 s.
        msg_id += 1;
        // A stranger is told to connect, and does not.
        bench.packet(99, Packet::Pubrel(MsgId(msg_id)));
        ports.shuffle(&mut rng);
        for &port in &ports {
            let loud = if port == 1 { 10 } else { 1 };
            for more in 0..loud {
                uplink(&mut bench, port, msg_id * 16 + more);
            }
        }
        let end = bench.now + seconds(20);
        while bench.now < end {
            if bench.sent.is_empty() {
                bench.pass(seconds(4));
            } else {
                for (to, _) in std::mem::take(&mut bench.sent) {
                    answered[usize::from(to)] += 1;
                }
                bench.pass(seconds(2));
                leaves_now(&mut bench);
            }
        }
    }
    let shares = &answered[1..=20];
    let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
    assert!(*least > 10 && *most <= least * 5 / 4, "{shares:?}");
    // Its answers are shorter than theirs.
    assert!(answered[99] < least * 2, "{} times", answered[99]);
    assert!(metrics(&bench).dropped[NotSent::NotAfter as usize] > 0);
}

// Answers that come too late.

#[test]
fn answer_that_would_come_too_late_is_dropped_and_counted() {
    let mut bench = radio(modem(7, None));
    connected(&mut bench, 1, "a");
    bench.packet(2, Packet::Connect(connect("b", true, 60))); // The modem is busy with its CONNACK.
    uplink(&mut bench, 1, 1);
    bench.pass(seconds(10));
    leaves_now(&mut bench);
    assert_eq!(bench.take(1).len(), 0);
    assert_eq!(metrics(&bench).dropped[NotSent::NotAfter as usize], 1);
    // Its repeat is answered.
    let repeat = Publish {
        dup: true,
        qos: PublishQoS::Level(QoS::AtLeastOnce),
        retain: false,
        topic: TopicRef::Predefined(TopicId(1)),
        msg_id: MsgId(1),
        data: b"21.5",
    };
    bench.packet(1, Packet::Publish(repeat));
    bench.expect(1, &[puback(TopicId(1), 1, ReturnCode::Accepted)]);
}

#[test]
fn answer_that_waits_for_a_client_that_repeats_itself_is_sent_once() {
    let mut bench = radio(modem(7, None));
    connected(&mut bench, 1, "a");
    bench.packet(2, Packet::Connect(connect("b", true, 60))); // The modem is busy with its CONNACK.
    for _ in 0..5 {
        bench.pingreq(1, None);
        bench.pass(seconds(9));
    }
    leaves_now(&mut bench);
    bench.expect(1, &[Packet::Pingresp]);
    leaves_now(&mut bench);
    assert_eq!(bench.take(1).len(), 0);
    assert_eq!(metrics(&bench).dropped, [0; 4]);
}

// What does not fit.

#[test]
fn what_does_not_fit_is_counted_and_told_with_topic_and_size() {
    let mut bench = radio(modem(7, None));
    subscriber(&mut bench, 1, "a", 1);
    bench.notices.clear();
    message(&mut bench, 1, QoS::AtLeastOnce, &[0; 58]);
    assert_eq!(bench.sent, []);
    assert_eq!(metrics(&bench).dropped[NotSent::TooLong as usize], 1);
    assert_eq!(
        bench.notices,
        [Notice::TooLarge {
            client: "a".into(),
            topic: "t/1".into(),
            len: 65
        }]
    );
    message(&mut bench, 1, QoS::AtLeastOnce, &[0; 57]);
    assert_eq!(bench.take(1).len(), 1);
}

#[test]
fn beacon_that_does_not_fit_is_told_once_a_minute() {
    let mut config = config();
    config.advertise_interval = Some(seconds(30));
    let mut profile = modem(7, None);
    profile.broadcast_mtu = 4; // ADVERTISE takes 5.
    let mut bench = Bench::with_link(config, profile);
    bench.broker_up(false);
    bench.pass(seconds(89));
    assert_eq!(bench.sent, []);
    let told: Vec<&Notice> = bench
        .notices
        .iter()
        .filter(|notice| {
            matches!(
                notice,
                Notice::AnswerTooLarge {
                    link: LINK,
                    addr: None,
                    len: 5,
                    ..
                }
            )
        })
        .collect();
    assert_eq!(told.len(), 2);
    assert_eq!(metrics(&bench).dropped[NotSent::TooLong as usize], 3);
}

#[test]
fn answer_that_does_not_fit_is_dropped() {
    let mut profile = modem(7, None);
    profile.mtu = 6; // A REGACK takes 7.
    let mut bench = radio(profile);
    connected(&mut bench, 1, "a");
    bench.packet(
        1,
        Packet::Register(sn_codec::Register {
            topic_id: TopicId::NONE,
            msg_id: MsgId(1),
            topic_name: "t",
        }),
    );
    assert_eq!(bench.sent, []);
    bench.pingreq(1, None);
    bench.expect(1, &[Packet::Pingresp]);
}

// The link goes and comes back.

#[test]
fn nobody_is_lost_while_the_radio_is_down() {
    let mut bench = radio(modem(12, None));
    connected(&mut bench, 1, "awake");
    connected(&mut bench, 2, "asleep");
    let duration = Some(60);
    bench.packet(2, Packet::Disconnect(sn_codec::Disconnect { duration }));
    leaves(&mut bench);
    bench.link(LinkEvent::Down);
    bench.pass(seconds(100_000));
    assert_eq!(bench.gateway.metrics().lost_total, 0);
    bench.link(LinkEvent::Up(modem(12, None)));
    let since = |notice: &Notice| matches!(notice, Notice::LinkUp { after: Some(after), .. } if *after == seconds(100_000));
    assert!(bench.notices.iter().any(since));
    // Asleep for 60 s: 90 s are tolerated, and it is given all of them.
    bench.pass(seconds(85));
    assert_eq!(bench.gateway.metrics().lost_total, 0);
    bench.pass(seconds(10));
    assert_eq!(bench.gateway.metrics().lost_total, 1, "the sleeper");
    // It had used seconds of its 5,400 when the radio went.
    bench.pass(seconds(5_200));
    assert_eq!(bench.gateway.metrics().lost_total, 1);
    bench.pass(seconds(200));
    assert_eq!(bench.gateway.metrics().lost_total, 2);
}

#[test]
fn clients_of_another_radio_are_supervised_as_ever() {
    let mut bench = Bench::up(config());
    bench.connect(1, "a");
    let other = gateway_core::peer::LinkId(1);
    bench
        .gateway
        .handle_link(bench.now, other, LinkEvent::Up(modem(12, None)));
    bench.gateway.handle_link(bench.now, other, LinkEvent::Down);
    bench.pass(seconds(91));
    assert_eq!(bench.gateway.metrics().lost_total, 1);
}

#[test]
fn exchange_goes_on_when_the_radio_is_back_and_no_retry_is_spent() {
    let mut bench = radio(modem(7, None));
    subscriber(&mut bench, 1, "a", 1);
    subscriber(&mut bench, 2, "b", 2);
    message(&mut bench, 1, QoS::AtLeastOnce, b"x");
    leaves_now(&mut bench);
    for _ in 0..50 {
        bench.link(LinkEvent::Down);
        bench.pass(seconds(100));
        bench.link(LinkEvent::Up(modem(7, None)));
        assert_eq!(bench.heard(1).len(), if bench.tickets.len() == 6 { 2 } else { 1 });
        message(&mut bench, 2, QoS::AtMostOnce, b"later");
        leaves_now(&mut bench);
        leaves_now(&mut bench);
        assert_eq!(bench.take(2).len(), 1);
    }
    assert_eq!(bench.gateway.metrics().poison_total, 0);
    let again = {
        bench.pass(seconds(20));
        bench.heard_publish(1)
    };
    bench.puback(1, again);
    assert_eq!(bench.gateway.metrics().buffer_messages, 0);
}

#[test]
fn what_the_modem_had_when_it_went_is_sent_again() {
    let mut bench = radio(modem(7, None));
    subscriber(&mut bench, 1, "a", 1);
    message(&mut bench, 1, QoS::AtMostOnce, b"x");
    assert_eq!(bench.take(1).len(), 1);
    bench.link(LinkEvent::Down);
    bench.link(LinkEvent::Up(modem(7, None)));
    assert_eq!(bench.heard_publish(1).data, b"x");
}

#[test]
fn client_that_moves_while_its_radio_is_down_is_supervised_again() {
    let mut bench = radio(modem(7, None));
    connected(&mut bench, 1, "a");
    bench.link(LinkEvent::Down);
    let other = gateway_core::peer::LinkId(1);
    bench
        .gateway
        .handle_link(bench.now, other, LinkEvent::Up(LinkProfile::default()));
    let mut datagram = Vec::new();
    Packet::Connect(connect("a", true, 60)).encode(&mut datagram);
    bench
        .gateway
        .handle_datagram(bench.now, other, &route(9), RadioFacts::default(), &datagram);
    bench.drain();
    bench.expect(9, &[connack(ReturnCode::Accepted)]);
    bench.pass(seconds(91));
    assert_eq!(bench.gateway.metrics().lost_total, 1);
}

// Facts.

#[test]
fn how_a_datagram_was_received_is_told_and_counted() {
    let mut bench = radio(modem(9, None));
    bench.notices.clear();
    let mut datagram = Vec::new();
    Packet::Connect(connect("a", true, 60)).encode(&mut datagram);
    let facts = RadioFacts {
        rssi_dbm: Some(-97),
        snr_db: Some(-4),
        hops: Some(1),
    };
    bench
        .gateway
        .handle_datagram(bench.now, LINK, &route(1), facts, &datagram);
    bench.drain();
    let told = bench.notices.iter().find_map(|notice| match notice {
        Notice::Connected { facts, .. } => Some(*facts),
        _ => None,
    });
    assert_eq!(told, Some(facts));
    let metrics = metrics(&bench);
    assert_eq!(
        metrics.rx_airtime_us,
        lora(9).of(datagram.len()).as_micros() as u64
    );
    let at = metrics
        .rssi_dbm
        .bounds
        .iter()
        .position(|bound| *bound == -90)
        .unwrap();
    assert_eq!(metrics.rssi_dbm.counts[at], 1);
    assert_eq!((metrics.rssi_dbm.sum, metrics.snr_db.sum), (-97, -4));
    assert_eq!(metrics.tx_airtime_us, lora(9).of(3).as_micros() as u64);
}

#[test]
fn a_link_without_airtime_counts_none() {
    let mut bench = Bench::up(config());
    bench.connect(1, "a");
    let metrics = metrics(&bench);
    assert_eq!((metrics.rx_airtime_us, metrics.tx_airtime_us), (0, 0));
    assert_eq!(
        (metrics.duty_cycle_used_ppm, metrics.duty_cycle_limit_ppm),
        (0, None)
    );
    assert_eq!(metrics.queued, [0; 5]);
    assert!(metrics.up);
    assert_eq!(
        bench
            .gateway
            .link_metrics(bench.now, gateway_core::peer::LinkId(1)),
        None
    );
}

#[test]
fn airtime_of_the_tables_is_what_is_counted() {
    let mut bench = radio(modem(12, None));
    connected(&mut bench, 1, "a");
    let before = metrics(&bench).tx_airtime_us;
    bench.pingreq(1, None);
    assert_eq!(
        metrics(&bench).tx_airtime_us - before,
        SF12_SHORT.as_micros() as u64
    );
}

#[test]
fn register_and_its_publish_are_one_exchange_with_one_client_at_a_time() {
    let mut bench = radio(modem(7, Some(10_000)));
    connected(&mut bench, 1, "a");
    bench.requests.clear();
    bench.packet(1, common::subscribe(MsgId(3), "long/#", QoS::AtLeastOnce));
    bench.settle();
    leaves(&mut bench);
    bench.take(1);
    bench.message(&[], "long/name", QoS::AtLeastOnce, false, b"x");
    let register = bench.heard(1);
    let [Packet::Register(register)] = register[..] else {
        panic!("{register:?}")
    };
    leaves_now(&mut bench);
    bench.packet(
        1,
        Packet::Regack(Regack {
            topic_id: register.topic_id,
            msg_id: register.msg_id,
            return_code: ReturnCode::Accepted,
        }),
    );
    let publish = bench.heard_publish(1);
    leaves_now(&mut bench);
    bench.puback(1, publish);
    bench.packet(1, disconnect());
    assert_eq!(bench.gateway.metrics().delivered_total, 1);
}

// Goodbye.

#[test]
fn who_says_goodbye_at_once_still_learns_that_its_publish_was_refused() {
    let mut bench = radio(modem(7, None));
    connected(&mut bench, 1, "a");
    connected(&mut bench, 2, "b");
    // The modem is busy.
    uplink(&mut bench, 2, 1);
    uplink(&mut bench, 2, 2);
    bench.packet(
        1,
        publish(TopicRef::Predefined(TopicId(99)), QoS::AtMostOnce, 0, b"x"),
    );
    bench.packet(1, disconnect());
    all_leave(&mut bench);
    let refusal = puback(TopicId(99), 0, ReturnCode::InvalidTopicId);
    bench.expect(1, &[refusal, disconnect()]);
}
