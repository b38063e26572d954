//! Packet flows, step by step; time is moved by hand.

use sn_codec::{Connack, GwInfo, Suback};

use super::*;
use crate::tools::describe::OneLine;

const RETRY: Duration = Duration::from_secs(10);

#[test]
fn connects_without_will() {
    let mut t = Test::new(options());
    t.request(Request::Connect);
    t.expect_sent(&["CONNECT (\"c\", k60, c1, will 0)"]);
    t.receive(connack(ReturnCode::Accepted));
    t.expect_events(&[Event::Done(Ok(Outcome::Connected))]);
    assert!(t.session.is_connected());
}

#[test]
fn gives_its_will_when_prompted() {
    let mut t = Test::new(Options {
        will: Some(Will {
            topic: "w".to_owned(),
            payload: b"gone".to_vec(),
            qos: QoS::AtLeastOnce,
            retain: true,
        }),
        ..options()
    });
    t.request(Request::Connect);
    t.expect_sent(&["CONNECT (\"c\", k60, c1, will 1)"]);
    t.receive(Packet::WillTopicReq);
    t.expect_sent(&["WILLTOPIC (\"w\")"]);
    t.pass(RETRY);
    t.expect_sent(&["WILLTOPIC (\"w\")"]);
    t.receive(Packet::WillMsgReq);
    t.expect_sent(&["WILLMSG (4 octets)"]);
    t.receive(connack(ReturnCode::Accepted));
    t.expect_events(&[Event::Done(Ok(Outcome::Connected))]);
}

#[test]
fn rejected_connect_is_said_in_words() {
    let mut t = Test::new(options());
    t.request(Request::Connect);
    t.receive(connack(ReturnCode::Congestion));
    let Some(Event::Done(Err(failure))) = t.session.poll_event() else {
        panic!("not rejected")
    };
    assert_eq!(
        failure.to_string(),
        "the gateway rejected CONNECT: congestion, try again later (return code 1)"
    );
    assert!(!t.session.is_connected());
}

#[test]
fn registers_and_publishes_with_qos_1() {
    let mut t = Test::connected();
    t.request(Request::Register {
        name: "a/b".to_owned(),
    });
    t.expect_sent(&["REGISTER (m1, topic id 0, \"a/b\")"]);
    t.receive(Packet::Regack(Regack {
        topic_id: TopicId(1025),
        msg_id: MsgId(1),
        return_code: ReturnCode::Accepted,
    }));
    t.expect_events(&[Event::Done(Ok(Outcome::Registered(TopicId(1025))))]);
    t.request(publish(QoS::AtLeastOnce));
    t.expect_sent(&["PUBLISH (d0, q1, r0, m2, topic id 1025, 4 octets)"]);
    t.expect_events(&[]);
    t.receive(puback(2, ReturnCode::Accepted));
    t.expect_events(&[Event::Done(Ok(Outcome::Published))]);
}

#[test]
fn qos_2_takes_four_steps_and_repeats_the_last() {
    let mut t = Test::connected();
    t.request(publish(QoS::ExactlyOnce));
    t.expect_sent(&["PUBLISH (d0, q2, r0, m1, topic id 1025, 4 octets)"]);
    t.receive(Packet::Pubrec(MsgId(1)));
    t.expect_sent(&["PUBREL (m1)"]);
    t.pass(RETRY);
    t.expect_sent(&["PUBREL (m1)"]);
    t.expect_events(&[]);
    t.receive(Packet::Pubcomp(MsgId(1)));
    t.expect_events(&[Event::Done(Ok(Outcome::Published))]);
}

#[test]
fn pubcomp_without_pubrec_finishes_nothing() {
    let mut t = Test::connected();
    t.request(publish(QoS::ExactlyOnce));
    t.receive(Packet::Pubcomp(MsgId(1)));
    t.receive(puback(1, ReturnCode::Accepted));
    t.expect_events(&[]);
}

#[test]
fn puback_rejects_every_qos() {
    for (qos, msg_id) in [(QoS::AtLeastOnce, 1), (QoS::ExactlyOnce, 1)] {
        let mut t = Test::connected();
        t.request(publish(qos));
        t.receive(puback(msg_id, ReturnCode::InvalidTopicId));
        t.expect_events(&[Event::Done(Err(rejected("PUBLISH", ReturnCode::InvalidTopicId)))]);
    }
    // QoS 0 is finished when it is sent; the rejection comes later.
    let mut t = Test::connected();
    t.request(publish(QoS::AtMostOnce));
    t.expect_events(&[Event::Done(Ok(Outcome::Published))]);
    t.receive(puback(0, ReturnCode::InvalidTopicId));
    t.expect_events(&[Event::Failed(rejected("PUBLISH", ReturnCode::InvalidTopicId))]);
}

#[test]
fn unanswered_publish_is_repeated_with_dup_and_given_up() {
    let mut t = Test::connected();
    t.request(publish(QoS::AtLeastOnce));
    t.expect_sent(&["PUBLISH (d0, q1, r0, m1, topic id 1025, 4 octets)"]);
    for _ in 0..3 {
        t.pass(RETRY - Duration::from_millis(1));
        t.expect_sent(&[]);
        t.pass(Duration::from_millis(1));
        t.expect_sent(&["PUBLISH (d1, q1, r0, m1, topic id 1025, 4 octets)"]);
    }
    t.expect_events(&[]);
    t.pass(RETRY);
    t.expect_sent(&[]);
    t.expect_events(&[Event::Done(Err(Failure::NoAnswer {
        request: "PUBLISH",
        sends: Times(4),
    }))]);
    assert!(!t.session.is_connected());
    assert_eq!(t.session.poll_timeout(), None);
}

#[test]
fn no_answer_is_said_in_words() {
    let words = |n| {
        Failure::NoAnswer {
            request: "CONNECT",
            sends: Times(n),
        }
        .to_string()
    };
    assert_eq!(words(1), "no answer to CONNECT, sent once");
    assert_eq!(words(4), "no answer to CONNECT, sent 4 times");
}

#[test]
fn qos_minus_one_needs_no_connection() {
    let mut t = Test::new(options());
    t.request(Request::Publish {
        topic: TopicRef::Predefined(TopicId(17)),
        qos: PublishQoS::MinusOne,
        retain: true,
        data: vec![1],
    });
    t.expect_sent(&["PUBLISH (d0, q-1, r1, m0, predefined id 17, 1 octets)"]);
    t.expect_events(&[Event::Done(Ok(Outcome::Published))]);
    assert_eq!(t.session.poll_timeout(), None);
}

#[test]
fn topic_name_of_a_delivery_comes_from_suback() {
    let mut t = Test::connected();
    t.subscribe("a/b", TopicId(5));
    t.receive(delivery(QoS::AtMostOnce, TopicRef::Normal(TopicId(5)), 0));
    t.expect_messages(&["a/b"]);
    t.expect_sent(&[]);
}

#[test]
fn topic_name_of_a_wildcard_match_comes_from_register() {
    let mut t = Test::connected();
    t.subscribe("a/+", TopicId::NONE);
    t.receive(Packet::Register(Register {
        topic_id: TopicId(6),
        msg_id: MsgId(900),
        topic_name: "a/c",
    }));
    t.expect_sent(&["REGACK (m900, topic id 6, accepted)"]);
    t.receive(delivery(QoS::AtLeastOnce, TopicRef::Normal(TopicId(6)), 901));
    t.expect_sent(&["PUBACK (m901, topic id 6, accepted)"]);
    t.expect_messages(&["a/c"]);
}

#[test]
fn unknown_topic_id_is_rejected_for_every_qos() {
    let mut t = Test::connected();
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        t.receive(delivery(qos, TopicRef::Normal(TopicId(7)), 3));
        t.expect_sent(&["PUBACK (m3, topic id 7, invalid topic id (return code 2))"]);
    }
    t.expect_messages(&[]);
}

#[test]
fn predefined_and_short_topics_need_no_registration() {
    let mut t = Test::connected();
    t.receive(delivery(QoS::AtMostOnce, TopicRef::Predefined(TopicId(17)), 0));
    t.receive(delivery(QoS::AtMostOnce, TopicRef::Short(ShortTopic(*b"ab")), 0));
    t.expect_messages(&["#17", "ab"]);
    t.expect_sent(&[]);
}

#[test]
fn repeated_qos_2_delivery_is_one_message_until_released() {
    let mut t = Test::connected();
    let short = TopicRef::Short(ShortTopic(*b"ab"));
    t.receive(delivery(QoS::ExactlyOnce, short, 9));
    t.receive(delivery(QoS::ExactlyOnce, short, 9));
    t.expect_sent(&["PUBREC (m9)", "PUBREC (m9)"]);
    t.expect_messages(&["ab"]);
    t.receive(Packet::Pubrel(MsgId(9)));
    t.receive(Packet::Pubrel(MsgId(9)));
    t.expect_sent(&["PUBCOMP (m9)", "PUBCOMP (m9)"]);
    t.receive(delivery(QoS::ExactlyOnce, short, 9));
    t.expect_messages(&["ab"]);
}

#[test]
fn rejected_subscription_is_reported() {
    let mut t = Test::connected();
    t.request(Request::Subscribe {
        topic: Topic::Predefined(TopicId(17)),
        qos: QoS::ExactlyOnce,
    });
    t.expect_sent(&["SUBSCRIBE (d0, q2, m1, predefined id 17)"]);
    t.receive(suback(1, TopicId(17), ReturnCode::InvalidTopicId));
    t.expect_events(&[Event::Done(Err(rejected(
        "SUBSCRIBE",
        ReturnCode::InvalidTopicId,
    )))]);
}

#[test]
fn repeated_subscribe_has_dup() {
    let mut t = Test::connected();
    t.request(Request::Subscribe {
        topic: Topic::Short(ShortTopic(*b"ab")),
        qos: QoS::AtMostOnce,
    });
    t.pass(RETRY);
    t.expect_sent(&["SUBSCRIBE (d0, q0, m1, \"ab\")", "SUBSCRIBE (d1, q0, m1, \"ab\")"]);
}

#[test]
fn answer_with_another_msg_id_is_not_ours() {
    let mut t = Test::connected();
    t.request(publish(QoS::AtLeastOnce));
    t.receive(puback(2, ReturnCode::Accepted));
    t.receive(suback(1, TopicId(5), ReturnCode::Accepted));
    t.expect_events(&[]);
    t.receive(puback(1, ReturnCode::Accepted));
    t.expect_events(&[Event::Done(Ok(Outcome::Published))]);
}

#[test]
fn pings_after_silence_for_the_keep_alive() {
    let mut t = Test::connected();
    t.pass(Duration::from_secs(59));
    t.expect_sent(&[]);
    t.pass(Duration::from_secs(1));
    t.expect_sent(&["PINGREQ"]);
    t.receive(Packet::Pingresp);
    t.expect_events(&[]);
    // Anything sent counts as a sign of life.
    t.pass(Duration::from_secs(30));
    t.receive(delivery(QoS::AtLeastOnce, TopicRef::Short(ShortTopic(*b"ab")), 4));
    t.expect_sent(&["PUBACK (m4, topic id 24930, accepted)"]);
    t.pass(Duration::from_secs(59));
    t.expect_sent(&[]);
    t.pass(Duration::from_secs(1));
    t.expect_sent(&["PINGREQ"]);
}

#[test]
fn unanswered_keep_alive_ends_the_session() {
    let mut t = Test::connected();
    t.pass(Duration::from_secs(60));
    for _ in 0..3 {
        t.pass(RETRY);
    }
    t.expect_sent(&["PINGREQ"; 4]);
    t.expect_events(&[]);
    t.pass(RETRY);
    t.expect_events(&[Event::Failed(Failure::NoAnswer {
        request: "PINGREQ",
        sends: Times(4),
    })]);
    assert!(!t.session.is_connected());
}

#[test]
fn lost_ping_on_request_does_not_end_the_session() {
    let mut t = Test::connected();
    t.session.options.retries = 0;
    t.request(Request::Ping);
    t.expect_sent(&["PINGREQ"]);
    t.pass(RETRY);
    t.expect_events(&[Event::Done(Err(Failure::NoAnswer {
        request: "PINGREQ",
        sends: Times(1),
    }))]);
    assert!(t.session.is_connected());
}

#[test]
fn keep_alive_0_never_pings() {
    let mut t = Test::new(Options {
        keep_alive: 0,
        ..options()
    });
    t.request(Request::Connect);
    t.receive(connack(ReturnCode::Accepted));
    assert_eq!(t.session.poll_timeout(), None);
}

#[test]
fn request_takes_the_place_of_a_keep_alive_ping() {
    let mut t = Test::connected();
    t.pass(Duration::from_secs(60));
    t.request(publish(QoS::AtLeastOnce));
    t.receive(Packet::Pingresp);
    t.expect_events(&[]);
    t.receive(puback(1, ReturnCode::Accepted));
    t.expect_events(&[Event::Done(Ok(Outcome::Published))]);
}

#[test]
fn gateway_may_ping_too() {
    let mut t = Test::connected();
    t.receive(Packet::Pingreq(Pingreq { client_id: None }));
    t.expect_sent(&["PINGRESP"]);
}

#[test]
fn disconnect_is_answered_by_disconnect() {
    let mut t = Test::connected();
    t.request(Request::Disconnect);
    t.expect_sent(&["DISCONNECT"]);
    t.receive(Packet::Disconnect(Disconnect { duration: None }));
    t.expect_events(&[Event::Done(Ok(Outcome::Disconnected))]);
    assert!(!t.session.is_connected());
}

#[test]
fn gateway_may_end_the_session() {
    let goodbye = Packet::Disconnect(Disconnect { duration: None });
    let mut t = Test::connected();
    t.receive(goodbye);
    t.expect_events(&[Event::Failed(Failure::Closed)]);

    let mut t = Test::connected();
    t.request(publish(QoS::AtLeastOnce));
    t.receive(goodbye);
    t.expect_events(&[Event::Done(Err(Failure::Closed))]);
    assert!(!t.session.is_connected());
}

#[test]
fn disconnect_meant_for_an_earlier_session_does_not_disturb_connect() {
    let mut t = Test::new(options());
    t.request(Request::Connect);
    t.receive(Packet::Disconnect(Disconnect { duration: None }));
    t.expect_events(&[]);
    t.receive(connack(ReturnCode::Accepted));
    t.expect_events(&[Event::Done(Ok(Outcome::Connected))]);
}

#[test]
fn nothing_is_delivered_before_connack() {
    let mut t = Test::new(options());
    t.request(Request::Connect);
    t.sent();
    t.receive(delivery(QoS::AtLeastOnce, TopicRef::Short(ShortTopic(*b"ab")), 4));
    t.receive(Packet::Register(Register {
        topic_id: TopicId(6),
        msg_id: MsgId(1),
        topic_name: "a",
    }));
    t.expect_sent(&[]);
    t.expect_messages(&[]);
}

#[test]
fn new_connection_forgets_topic_ids() {
    let mut t = Test::connected();
    t.subscribe("a/b", TopicId(5));
    t.request(Request::Connect);
    t.receive(connack(ReturnCode::Accepted));
    t.sent();
    t.receive(delivery(QoS::AtLeastOnce, TopicRef::Normal(TopicId(5)), 2));
    t.expect_sent(&["PUBACK (m2, topic id 5, invalid topic id (return code 2))"]);
}

#[test]
fn msg_ids_skip_zero() {
    let mut t = Test::connected();
    t.session.last_msg_id = 0xFFFE;
    for expected in [0xFFFF, 1, 2] {
        assert_eq!(t.session.new_msg_id(), MsgId(expected));
    }
}

#[test]
fn search_is_answered_by_the_gateways_id() {
    let mut t = Test::new(options());
    t.session.search();
    t.expect_sent(&["SEARCHGW (radius 0)"]);
    t.receive(Packet::GwInfo(GwInfo {
        gw_id: 3,
        gw_add: &[],
    }));
    t.expect_events(&[Event::Gateway(3)]);
}

#[test]
fn malformed_datagram_is_reported_and_changes_nothing() {
    let mut t = Test::connected();
    t.request(publish(QoS::AtLeastOnce));
    t.sent();
    let error = t
        .session
        .handle_datagram(&[0x06, 0x0D, 0, 5, 0, 1], t.now)
        .unwrap_err();
    assert_eq!(error.kind.name(), "body_too_short");
    t.expect_sent(&[]);
    t.expect_events(&[]);
    t.receive(puback(1, ReturnCode::Accepted));
    t.expect_events(&[Event::Done(Ok(Outcome::Published))]);
}

#[test]
fn abandoned_request_is_not_repeated_or_reported() {
    let mut t = Test::connected();
    t.request(publish(QoS::AtLeastOnce));
    t.sent();
    t.session.abandon();
    t.pass(RETRY);
    t.expect_sent(&[]);
    t.receive(puback(1, ReturnCode::Accepted));
    t.expect_events(&[]);
}

/// A session, the time, and what the gateway would see.
struct Test {
    session: Session,
    now: Instant,
}

impl Test {
    fn new(options: Options) -> Test {
        let now = Instant::now();
        Test {
            session: Session::new(options, now),
            now,
        }
    }

    fn connected() -> Test {
        let mut t = Test::new(options());
        t.request(Request::Connect);
        t.receive(connack(ReturnCode::Accepted));
        t.sent();
        t.expect_events(&[Event::Done(Ok(Outcome::Connected))]);
        t
    }

    fn request(&mut self, request: Request) {
        self.session.request(request, self.now);
    }

    fn subscribe(&mut self, filter: &str, topic_id: TopicId) {
        self.request(Request::Subscribe {
            topic: Topic::Name(filter.to_owned()),
            qos: QoS::ExactlyOnce,
        });
        let msg_id = self.session.last_msg_id;
        self.receive(suback(msg_id, topic_id, ReturnCode::Accepted));
        self.expect_events(&[Event::Done(Ok(Outcome::Subscribed(QoS::ExactlyOnce)))]);
        self.sent();
    }

    fn receive(&mut self, packet: Packet<'_>) {
        let mut datagram = Vec::new();
        packet.encode(&mut datagram);
        self.session.handle_datagram(&datagram, self.now).unwrap();
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.session.handle_timeout(self.now);
    }

    fn sent(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.session.poll_transmit())
            .map(|datagram| OneLine(&Packet::decode(&datagram).unwrap()).to_string())
            .collect()
    }

    #[track_caller]
    fn expect_sent(&mut self, expected: &[&str]) {
        assert_eq!(self.sent(), expected);
    }

    #[track_caller]
    fn expect_events(&mut self, expected: &[Event]) {
        let events: Vec<_> = std::iter::from_fn(|| self.session.poll_event()).collect();
        assert_eq!(events, expected);
    }

    #[track_caller]
    fn expect_messages(&mut self, topics: &[&str]) {
        let messages: Vec<_> = std::iter::from_fn(|| self.session.poll_event())
            .map(|event| match event {
                Event::Message(message) => message.topic,
                other => panic!("{other:?} is not a message"),
            })
            .collect();
        assert_eq!(messages, topics);
    }
}

fn options() -> Options {
    Options {
        client_id: "c".to_owned(),
        keep_alive: 60,
        clean: true,
        will: None,
        retry: RETRY,
        retries: 3,
    }
}

fn publish(qos: QoS) -> Request {
    Request::Publish {
        topic: TopicRef::Normal(TopicId(1025)),
        qos: PublishQoS::Level(qos),
        retain: false,
        data: b"21.5".to_vec(),
    }
}

fn delivery(qos: QoS, topic: TopicRef, msg_id: u16) -> Packet<'static> {
    Packet::Publish(Publish {
        dup: false,
        qos: PublishQoS::Level(qos),
        retain: false,
        topic,
        msg_id: MsgId(msg_id),
        data: b"21.5",
    })
}

fn connack(return_code: ReturnCode) -> Packet<'static> {
    Packet::Connack(Connack { return_code })
}

fn puback(msg_id: u16, return_code: ReturnCode) -> Packet<'static> {
    Packet::Puback(Puback {
        topic_id: TopicId(1025),
        msg_id: MsgId(msg_id),
        return_code,
    })
}

fn suback(msg_id: u16, topic_id: TopicId, return_code: ReturnCode) -> Packet<'static> {
    Packet::Suback(Suback {
        qos: QoS::ExactlyOnce,
        topic_id,
        msg_id: MsgId(msg_id),
        return_code,
    })
}

fn rejected(request: &'static str, code: ReturnCode) -> Failure {
    Failure::Rejected { request, code }
}
