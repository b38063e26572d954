//! A request over which the broker closes the connection must not stop the others (reading A84).

#![allow(clippy::unwrap_used)]

mod common;

use core::time::Duration;

use common::*;
use gateway_core::SpoolDrop;
use gateway_core::config::{Durability, GatewayConfig, UpstreamConfig, WhenDown};
use gateway_core::io::{BrokerEvent, BrokerRequest, ConnId, Notice, Refusal, Token};
use sn_codec::{MsgId, Packet, QoS, ReturnCode, Suback, TopicId, TopicRef};

const BAD: u16 = 5001;
const GOOD: u16 = 5002;
const EXACT: ConnId = ConnId(1);

/// A broker that closes the connection over topics with `bad`, and a port that sends again what it has no answer for.
struct Remote {
    conn: ConnId,
    up: bool,
    /// Of the session, in order.
    in_flight: Vec<BrokerRequest>,
    session_present: bool,
    breaks: usize,
    opened: usize,
    arrived: Vec<String>,
    /// It loses the connection whatever is sent.
    breaks_anyway: bool,
    /// A port that is closed says what is lost.
    reports: bool,
}

impl Remote {
    fn new(conn: ConnId) -> Remote {
        Remote {
            conn,
            up: false,
            in_flight: Vec::new(),
            session_present: false,
            breaks: 0,
            opened: 0,
            arrived: Vec::new(),
            breaks_anyway: false,
            reports: true,
        }
    }

    fn connect(&mut self, bench: &mut Bench) {
        self.up = true;
        bench.broker(BrokerEvent::Up {
            conn: self.conn,
            session_present: self.session_present,
            window: 20,
            forgets: false,
        });
        self.session_present = true;
        bench.broker(BrokerEvent::Credit {
            conn: self.conn,
            requests: 1000,
        });
        for request in core::mem::take(&mut self.in_flight) {
            self.take(bench, request);
        }
        if self.breaks_anyway {
            self.cut(bench);
        }
        self.serve(bench);
    }

    fn cut(&mut self, bench: &mut Bench) {
        self.up = false;
        self.breaks += 1;
        bench.broker(BrokerEvent::Down {
            conn: self.conn,
            reason: "closed".into(),
        });
    }

    /// Does what the core asks for, until it asks for nothing.
    fn serve(&mut self, bench: &mut Bench) {
        loop {
            bench.commit();
            let requests = core::mem::take(&mut bench.requests);
            if requests.is_empty() {
                return;
            }
            for request in requests {
                match request {
                    BrokerRequest::Close { conn } if conn == self.conn => {
                        self.session_present = false;
                        for lost in core::mem::take(&mut self.in_flight) {
                            if let (Some((token, _)), true) = (asked(&lost), self.reports) {
                                bench.broker(BrokerEvent::Lost { token });
                            }
                        }
                    }
                    BrokerRequest::Open { conn, options } if conn == self.conn => {
                        // The first is that of the gateway's start.
                        assert!(options.clean_start || self.opened == 0);
                        self.opened += 1;
                    }
                    request => self.take(bench, request),
                }
            }
        }
    }

    fn take(&mut self, bench: &mut Bench, request: BrokerRequest) {
        let Some((token, topic)) = asked(&request) else {
            return;
        };
        let result = Ok(match request {
            BrokerRequest::Subscribe { qos, .. } => Some(qos),
            _ => None,
        });
        if !self.up {
            self.in_flight.push(request);
        } else if topic.contains("bad") {
            self.in_flight.push(request);
            self.cut(bench);
        } else {
            self.arrived.push(topic);
            bench.broker(BrokerEvent::Settled { token, result });
        }
    }

    /// Lets time pass; each second the port connects if it is not.
    fn run(&mut self, bench: &mut Bench, seconds: u64) {
        for _ in 0..seconds {
            if !self.up {
                self.connect(bench);
            }
            bench.pass(Duration::from_secs(1));
            self.serve(bench);
        }
    }
}

fn asked(request: &BrokerRequest) -> Option<(Token, String)> {
    match request {
        BrokerRequest::Publish { token, topic, .. } => Some(((*token)?, topic.to_string())),
        BrokerRequest::Subscribe { token, filter, .. } | BrokerRequest::Unsubscribe { token, filter, .. } => {
            Some((*token, filter.to_string()))
        }
        _ => None,
    }
}

fn config(when_down: WhenDown, durable: bool) -> GatewayConfig {
    GatewayConfig {
        upstream: UpstreamConfig {
            when_down,
            ..UpstreamConfig::default()
        },
        durability: durable.then(Durability::default),
        ..GatewayConfig::default()
    }
}

fn both_connected(bench: &mut Bench, remote: &mut Remote) -> (TopicId, TopicId) {
    bench.connect(BAD, "culprit");
    bench.connect(GOOD, "other");
    let ids = (bench.register(BAD, "t/bad"), bench.register(GOOD, "t/good"));
    remote.connect(bench);
    bench.take(BAD);
    bench.take(GOOD);
    ids
}

/// What is told of its beginnings, and of ends without a culprit.
fn about_quarantine(bench: &Bench) -> Vec<&Notice> {
    let is = |notice: &&Notice| matches!(notice, Notice::OneAtATime { .. } | Notice::NoneToBlame { .. });
    bench.notices.iter().filter(is).collect()
}

fn publish1(id: TopicId, msg_id: u16) -> Packet<'static> {
    publish(TopicRef::Normal(id), QoS::AtLeastOnce, msg_id, b"x")
}

#[test]
fn a_publish_that_the_broker_closes_over_is_refused_and_the_others_arrive() {
    for reports in [true, false] {
        let mut bench = Bench::new(config(WhenDown::Queue, false));
        let mut remote = Remote::new(CONN);
        remote.reports = reports;
        let (bad, good) = both_connected(&mut bench, &mut remote);
        bench.packet(BAD, publish1(bad, 1));
        bench.packet(GOOD, publish1(good, 2));
        remote.serve(&mut bench);
        assert_eq!(remote.arrived, [""; 0], "the first is in the way");
        remote.run(&mut bench, 20);

        bench.expect(BAD, &[puback(bad, 1, ReturnCode::NotSupported)]);
        bench.expect(GOOD, &[puback(good, 2, ReturnCode::Accepted)]);
        assert_eq!(remote.arrived, ["t/good"]);
        let (client, topic) = ("culprit".into(), "t/bad".into());
        let refusal = Refusal::CONNECTION_CLOSED;
        let refused = Notice::PublishRefused {
            client,
            topic,
            refusal,
        };
        assert!(bench.notices.contains(&refused), "{:?}", bench.notices);
        let begun = Notice::OneAtATime {
            conn: CONN,
            client_id: UpstreamConfig::default().client_id.into(),
            breaks: 7,
            requests: 2,
        };
        assert_eq!(about_quarantine(&bench), [&begun]);

        let breaks = remote.breaks;
        for msg_id in 3..30 {
            bench.packet(GOOD, publish1(good, msg_id));
        }
        remote.run(&mut bench, 5);
        assert_eq!(bench.heard(GOOD).len(), 27, "the normal window again");
        assert_eq!(remote.breaks, breaks);
    }
}

#[test]
fn a_spooled_publish_that_the_broker_closes_over_is_dropped_and_told() {
    let mut bench = Bench::new(config(WhenDown::Spool, true));
    let mut remote = Remote::new(CONN);
    let (bad, good) = both_connected(&mut bench, &mut remote);
    bench.packet(BAD, publish1(bad, 1));
    bench.packet(GOOD, publish1(good, 2));
    remote.serve(&mut bench);
    bench.expect(BAD, &[puback(bad, 1, ReturnCode::Accepted)]);
    bench.expect(GOOD, &[puback(good, 2, ReturnCode::Accepted)]);

    // A restart in the midst of it.
    let mut bench = bench.restart(config(WhenDown::Spool, true));
    let mut remote = Remote::new(CONN);
    remote.run(&mut bench, 25);
    assert_eq!(remote.arrived, ["t/good"]);
    let dropped = bench.gateway.metrics().spool_dropped;
    assert_eq!(dropped[SpoolDrop::Refused as usize], 1);
    assert_eq!(bench.gateway.metrics().spool_messages, 0);
    let refused = Notice::UnheardRefused {
        client: Some("culprit".into()),
        topic: "t/bad".into(),
        refusal: Refusal::CONNECTION_CLOSED,
    };
    assert!(bench.notices.contains(&refused), "{:?}", bench.notices);
}

#[test]
fn a_subscription_that_the_broker_closes_over_is_refused_and_the_others_stand() {
    let mut bench = Bench::new(config(WhenDown::Queue, false));
    let mut remote = Remote::new(CONN);
    let (_, good) = both_connected(&mut bench, &mut remote);
    bench.packet(GOOD, subscribe(MsgId(3), "fine/+", QoS::AtLeastOnce));
    remote.serve(&mut bench);
    bench.take(GOOD);
    bench.packet(BAD, subscribe(MsgId(4), "bad/+", QoS::AtLeastOnce));
    remote.serve(&mut bench);
    bench.packet(GOOD, publish1(good, 5));
    remote.run(&mut bench, 30);

    // Accepted when the connection broke, so that it is told to begin anew.
    let accepted = Packet::Suback(Suback {
        qos: QoS::AtLeastOnce,
        topic_id: TopicId::NONE,
        msg_id: MsgId(4),
        return_code: ReturnCode::Accepted,
    });
    bench.expect(BAD, &[accepted, disconnect()]);
    bench.expect(GOOD, &[puback(good, 5, ReturnCode::Accepted)]);
    assert_eq!(remote.arrived.last().unwrap(), "t/good");
    assert!(remote.arrived.iter().filter(|topic| *topic == "fine/+").count() > 1);
    assert!(remote.up);
    assert!(bench.notices.iter().any(|notice| matches!(
        notice,
        Notice::SubscriptionRefused { filter, refusal: Refusal::CONNECTION_CLOSED } if &**filter == "bad/+"
    )));
}

#[test]
fn several_that_the_broker_closes_over_are_found_one_after_the_other() {
    let mut bench = Bench::new(config(WhenDown::Queue, false));
    let mut remote = Remote::new(CONN);
    let (bad, good) = both_connected(&mut bench, &mut remote);
    for msg_id in 1..=5 {
        bench.packet(BAD, publish1(bad, msg_id));
        bench.packet(GOOD, publish1(good, msg_id));
    }
    remote.serve(&mut bench);
    remote.run(&mut bench, 60);
    let refused = bench.heard(BAD);
    assert_eq!(refused.len(), 5);
    let not_supported = |msg_id| puback(bad, msg_id, ReturnCode::NotSupported);
    assert_eq!(refused, (1..=5).map(not_supported).collect::<Vec<_>>());
    assert_eq!(remote.arrived, ["t/good"; 5]);
}

#[test]
fn a_connection_that_breaks_by_itself_costs_nobody_a_message() {
    for seconds in [10, 100] {
        let mut bench = Bench::new(config(WhenDown::Queue, false));
        let mut remote = Remote::new(CONN);
        let (_, good) = both_connected(&mut bench, &mut remote);
        remote.cut(&mut bench);
        bench.packet(GOOD, publish1(good, 2));
        remote.serve(&mut bench);
        remote.breaks_anyway = true;
        remote.in_flight.clear();
        for _ in 0..seconds {
            remote.up = true;
            bench.broker(BrokerEvent::Up {
                conn: CONN,
                session_present: false,
                window: 20,
                forgets: false,
            });
            bench.broker(BrokerEvent::Credit {
                conn: CONN,
                requests: 1000,
            });
            bench.pass(Duration::from_millis(500));
            remote.cut(&mut bench);
            // What was on its way is lost.
            for request in core::mem::take(&mut bench.requests) {
                if let Some((token, _)) = asked(&request) {
                    bench.broker(BrokerEvent::Lost { token });
                }
            }
        }
        remote.breaks_anyway = false;
        remote.session_present = false;
        remote.run(&mut bench, 10);
        bench.expect(GOOD, &[puback(good, 2, ReturnCode::Accepted)]);
        assert_eq!(remote.arrived, ["t/good"]);
        let told = about_quarantine(&bench);
        let end = matches!(told.last(), Some(Notice::NoneToBlame { conn: CONN, .. }));
        assert_eq!(end, seconds == 100, "{told:?}");
    }
}

#[test]
fn an_outage_suspects_nobody() {
    let mut bench = Bench::new(config(WhenDown::Queue, false));
    let mut remote = Remote::new(CONN);
    let (_, good) = both_connected(&mut bench, &mut remote);
    remote.cut(&mut bench);
    bench.packet(GOOD, publish1(good, 2));
    for _ in 0..1000 {
        bench.broker_down();
        bench.pass(Duration::from_secs(1));
    }
    assert_eq!(bench.requests, []);
    remote.run(&mut bench, 1);
    assert_eq!(remote.arrived, ["t/good"]);
    assert_eq!(remote.opened, 0);
}

#[test]
fn a_broker_that_is_silent_is_not_one_that_closes_over_a_request() {
    let mut bench = Bench::new(config(WhenDown::Queue, false));
    let mut remote = Remote::new(CONN);
    let (_, good) = both_connected(&mut bench, &mut remote);
    bench.packet(GOOD, publish1(good, 2));
    for _ in 0..20 {
        bench.pass(Duration::from_secs(30));
        bench.broker_down();
        bench.broker_up(true);
    }
    let closes = |request: &BrokerRequest| matches!(request, BrokerRequest::Close { .. });
    assert!(!bench.requests.iter().any(closes));
    remote.serve(&mut bench);
    assert_eq!(remote.arrived, ["t/good"]);
}

#[test]
fn the_connection_for_qos_2_has_a_quarantine_of_its_own() {
    let mut bench = Bench::new(config(WhenDown::Spool, true));
    let mut main = Remote::new(CONN);
    let (bad, good) = both_connected(&mut bench, &mut main);
    let publish2 = |id, msg_id| publish(TopicRef::Normal(id), QoS::ExactlyOnce, msg_id, b"x");
    bench.packet(BAD, publish2(bad, 1));
    bench.packet(GOOD, publish2(good, 2));
    bench.commit();
    let mut remote = Remote::new(EXACT);
    remote.run(&mut bench, 25);
    assert_eq!(remote.arrived, ["t/good"]);
    assert!(remote.up && remote.opened > 1);
    let dropped = bench.gateway.metrics().spool_dropped;
    assert_eq!(dropped[SpoolDrop::Refused as usize], 1);
    assert_eq!(main.breaks, 0);
}
