//! What the gateway tells of itself, in virtual time.

#![allow(clippy::unwrap_used)]

mod common;

use core::time::Duration;

use common::{Bench, CONN, publish, subscribe};
use gateway_core::config::{Durability, GatewayConfig, SpoolFull, StatusConfig, StatusRadio, WhenDown};
use gateway_core::io::{
    BrokerEvent, BrokerRequest, ConnId, ConnectOptions, LinkEvent, LinkProfile, Notice, Refusal, StoreEvent,
    Token,
};
use sn_codec::{Connect, Disconnect, MsgId, Packet, QoS, ShortTopic, TopicRef};

/// Behind the one that the clients share.
const STATUS: ConnId = ConnId(1);
const SECOND: Duration = Duration::from_secs(1);
const INTERVAL: Duration = Duration::from_secs(30);

fn config() -> GatewayConfig {
    let radios = ["udp0", "lora 0"].map(|name| StatusRadio {
        name: name.into(),
        kind: "udp".into(),
    });
    GatewayConfig {
        status: Some(StatusConfig {
            topic: "snipe/barn".into(),
            interval: INTERVAL,
            clients: 1000,
            radios: radios.into(),
            version: "1.2.3".into(),
        }),
        ..GatewayConfig::default()
    }
}

fn with_clients_at_most(clients: usize) -> GatewayConfig {
    let mut config = config();
    config.status.as_mut().unwrap().clients = clients;
    config
}

/// A status message: topic, and payload as JSON; `None` is an empty one.
type Told = (String, Option<serde_json::Value>);

trait Broker {
    fn status_up(&mut self);
    fn told(&mut self) -> Vec<Told>;
    fn told_of(&mut self, topic: &str) -> serde_json::Value;
}

impl Broker for Bench {
    /// The broker takes the connection that the gateway opened.
    fn status_up(&mut self) {
        let conn = self.gateway.status_connection().unwrap();
        self.broker(BrokerEvent::Up {
            conn,
            session_present: false,
            window: 20,
            forgets: false,
        });
        self.broker(BrokerEvent::Credit { conn, requests: 1000 });
    }

    /// Status messages since the last look; the broker takes all requests.
    fn told(&mut self) -> Vec<Told> {
        let status = self.gateway.status_connection().unwrap();
        let mut told = Vec::new();
        for request in std::mem::take(&mut self.requests) {
            let token = match request {
                BrokerRequest::Publish {
                    conn,
                    token,
                    topic,
                    qos,
                    retain,
                    payload,
                    ..
                } if conn == status => {
                    assert!(retain, "{topic}");
                    assert_eq!(token.is_some(), qos == QoS::AtLeastOnce, "{topic}");
                    let payload = (!payload.is_empty()).then(|| serde_json::from_slice(&payload).unwrap());
                    told.push((topic.to_string(), payload));
                    token
                }
                BrokerRequest::Publish { token, .. } => token,
                BrokerRequest::Subscribe { token, .. } | BrokerRequest::Unsubscribe { token, .. } => {
                    Some(token)
                }
                _ => None,
            };
            if let Some(token) = token {
                self.broker(BrokerEvent::Settled {
                    token,
                    result: Ok(None),
                });
            }
        }
        told
    }

    /// The one message of a topic since the last look.
    #[track_caller]
    fn told_of(&mut self, topic: &str) -> serde_json::Value {
        let told = self.told();
        let mut of: Vec<_> = told.iter().filter(|(of, _)| of == topic).collect();
        assert_eq!(of.len(), 1, "{topic} in {told:?}");
        of.pop().unwrap().1.clone().unwrap()
    }
}

/// Everything is up, and everything was told.
fn quiet(config: GatewayConfig) -> Bench {
    let mut bench = Bench::up(config);
    bench.gateway.handle_clock(bench.now, 1_763_712_842_000);
    bench.status_up();
    bench.pass(SECOND);
    bench.told();
    bench.pass(INTERVAL + SECOND);
    bench.told();
    bench
}

/// QoS 1, to `ab`.
fn short_publish(msg_id: u16) -> Packet<'static> {
    publish(
        TopicRef::Short(ShortTopic(*b"ab")),
        QoS::AtLeastOnce,
        msg_id,
        b"x",
    )
}

fn topics(told: &[Told]) -> Vec<&str> {
    told.iter().map(|(topic, _)| &**topic).collect()
}

#[test]
fn connection_of_its_own_is_opened_once_that_of_the_clients_works_and_has_the_will() {
    let mut bench = Bench::new(config());
    assert_eq!(bench.requests, []);

    bench.broker_up(false);

    let [BrokerRequest::Open { conn, options }] = &bench.requests[..] else {
        panic!("{:?}", bench.requests);
    };
    let ConnectOptions {
        client_id,
        will,
        optional,
        ..
    } = options;
    assert_eq!((*conn, &**client_id, *optional), (STATUS, "snipe-status", true));
    let will = will.as_ref().unwrap();
    assert_eq!(
        (&*will.topic, will.qos, will.retain),
        ("snipe/barn/state", QoS::AtLeastOnce, true)
    );
    assert_eq!(&will.payload[..], br#"{"state":"offline"}"#);
    // Once.
    bench.broker_down();
    bench.broker_up(true);
    assert_eq!(bench.requests.len(), 1);
}

#[test]
fn without_it_nothing_is_opened_and_nothing_told() {
    let mut bench = Bench::up(GatewayConfig::default());
    bench.connect(1, "a");
    bench.pass(Duration::from_secs(40));
    assert_eq!(bench.requests, []);
    assert_eq!(bench.gateway.status_connection(), None);
}

#[test]
fn gateway_broker_spool_and_radios_are_told_when_the_connection_is_up() {
    let mut bench = Bench::up(config());
    bench.gateway.handle_clock(bench.now, 1_763_712_842_000);
    bench.status_up();
    bench.pass(SECOND);

    let told = bench.told();

    assert_eq!(
        topics(&told),
        [
            "snipe/barn/state",
            "snipe/barn/broker",
            "snipe/barn/spool",
            "snipe/barn/radios/udp0",
            "snipe/barn/radios/lora 0",
        ]
    );
    let of = |at: usize| told[at].1.clone().unwrap();
    assert_eq!(of(0)["state"], "online");
    assert_eq!(
        (&of(0)["version"], &of(0)["started"]),
        (&"1.2.3".into(), &1_763_712_842_u64.into())
    );
    assert_eq!(of(0)["clients"]["total"], 0);
    assert_eq!(
        (&of(1)["state"], &of(1)["connections"]),
        (&"up".into(), &1.into())
    );
    assert_eq!(of(2)["disk"], "none");
    assert_eq!((&of(3)["state"], &of(4)["state"]), (&"up".into(), &"down".into()));
}

#[test]
fn clients_state_is_told_within_a_second_and_only_when_it_changes() {
    let mut bench = quiet(config());
    bench.connect(1, "pump-7");
    bench.pass(SECOND);
    let active = bench.told_of("snipe/barn/clients/pump-7");
    assert_eq!(
        (
            &active["state"],
            &active["radio"],
            &active["keep_alive"],
            &active["address"]
        ),
        (&"active".into(), &"udp0".into(), &60.into(), &"10.0.0.1:1".into())
    );

    // That it was heard is not worth a message before the interval is over.
    bench.pingreq(1, None);
    bench.pass(SECOND);
    assert_eq!(topics(&bench.told()), Vec::<&str>::new());

    bench.take(1);
    bench.sleep(1, 3600);
    bench.pass(SECOND);
    let asleep = bench.told_of("snipe/barn/clients/pump-7");
    assert_eq!(
        (&asleep["state"], &asleep["sleep"]),
        (&"asleep".into(), &3600.into())
    );
}

#[test]
fn what_comes_and_goes_within_half_a_second_is_one_message() {
    let mut bench = quiet(config());
    bench.connect(1, "a");
    for _ in 0..10 {
        bench.sleep(1, 600);
        bench.pingreq(1, Some("a"));
        bench.take(1);
        bench.pass(Duration::from_millis(10));
    }
    bench.pass(SECOND);
    assert_eq!(bench.told_of("snipe/barn/clients/a")["state"], "asleep");
}

#[test]
fn after_the_interval_what_differs_is_told_and_nothing_else() {
    let mut bench = quiet(config());
    bench.connect(1, "a");
    bench.connect(2, "b");
    bench.pass(INTERVAL);
    bench.told();

    bench.pingreq(2, None);
    bench.pass(INTERVAL);

    let told = bench.told();
    assert_eq!(topics(&told), ["snipe/barn/clients/b"]);
    bench.pass(INTERVAL / 2);
    assert_eq!(bench.told(), []);
}

#[test]
fn client_that_is_gone_for_good_leaves_no_topic() {
    let mut bench = quiet(config());
    bench.connect(1, "a/b");
    bench.pass(SECOND);
    assert_eq!(bench.told_of("snipe/barn/clients/a%2Fb")["client"], "a/b");

    // CleanSession was set: nothing is kept of it.
    bench.packet(1, Packet::Disconnect(Disconnect { duration: None }));
    bench.pass(SECOND);
    let told = bench.told();
    assert!(
        told.contains(&("snipe/barn/clients/a%2Fb".into(), None)),
        "{told:?}"
    );
}

#[test]
fn radio_and_disk_that_fail_are_told_at_once() {
    let mut bench = Bench::up(GatewayConfig {
        durability: Some(Durability::default()),
        ..config()
    });
    bench.status_up();
    bench.pass(SECOND);
    assert_eq!(bench.told_of("snipe/barn/spool")["disk"], "works");

    bench.link(LinkEvent::Down);
    bench.gateway.handle_store(bench.now, StoreEvent::Failed);
    bench.pass(SECOND);
    let told = bench.told();
    assert_eq!(topics(&told), ["snipe/barn/spool", "snipe/barn/radios/udp0"]);
    let payload = |at: usize| told[at].1.clone().unwrap();
    assert_eq!(
        (&payload(0)["disk"], &payload(1)["state"]),
        (&"fails".into(), &"down".into())
    );

    bench.link(LinkEvent::Up(LinkProfile::default()));
    bench.pass(SECOND);
    assert_eq!(bench.told_of("snipe/barn/radios/udp0")["state"], "up");
}

#[test]
fn to_the_broker_inside_it_goes_with_qos_0_and_leaves_nothing_open() {
    let mut bench = Bench::up(config());
    bench.broker(BrokerEvent::Up {
        conn: STATUS,
        session_present: false,
        window: 1024,
        forgets: true,
    });
    bench.broker(BrokerEvent::Credit {
        conn: STATUS,
        requests: 1000,
    });
    for client in 1..=100_u16 {
        bench.connect(client, &format!("c{client}"));
    }
    bench.pass(Duration::from_secs(12));

    let tokens = bench.requests.iter().filter_map(|request| match request {
        BrokerRequest::Publish { token, qos, .. } => Some((*token, *qos)),
        BrokerRequest::Subscribe { token, .. } => Some((Some(*token), QoS::AtMostOnce)),
        _ => None,
    });
    let tokens: Vec<_> = tokens.collect();
    assert!(tokens.len() >= 105, "{}", tokens.len());
    assert!(
        tokens.iter().all(|of| *of == (None, QoS::AtMostOnce)),
        "{tokens:?}"
    );
}

#[test]
fn everything_is_told_anew_when_the_broker_is_back_and_no_faster_than_it_may() {
    let mut bench = quiet(config());
    for client in 1..=500_u16 {
        bench.connect(client, &format!("c{client}"));
    }
    bench.take(0);
    while !bench.told().is_empty() || bench.gateway.poll_timeout().unwrap() < bench.now + SECOND {
        bench.pass(SECOND);
    }
    bench.broker(BrokerEvent::Down {
        conn: STATUS,
        reason: "test".into(),
    });
    bench.pass(SECOND);
    assert_eq!(bench.told(), []);

    let start = bench.now;
    bench.status_up();

    let mut all = Vec::new();
    for _ in 0..60 {
        bench.pass(Duration::from_millis(100));
        let told = bench.told();
        // Both ends of the step may have a look of ten messages.
        assert!(told.len() <= 20, "{} at once", told.len());
        all.extend(told);
        let so_far = bench.now.since(start).as_millis() as usize;
        assert!(all.len() <= so_far / 10 + 10, "{} within {so_far} ms", all.len());
    }
    let clients = topics(&all)
        .iter()
        .filter(|topic| topic.contains("/clients/c"))
        .count();
    assert_eq!(clients, 500);
}

#[test]
fn no_more_messages_are_unsettled_than_sixteen() {
    let mut bench = quiet(config());
    for client in 1..=100_u16 {
        bench.connect(client, &format!("c{client}"));
    }
    bench.pass(INTERVAL);
    let tokens: Vec<Token> = bench
        .requests
        .iter()
        .filter_map(|request| match request {
            BrokerRequest::Publish {
                conn: STATUS, token, ..
            } => *token,
            _ => None,
        })
        .collect();
    assert_eq!(tokens.len(), 16);

    // Nothing turns while it waits.
    assert!(bench.gateway.poll_timeout().is_none_or(|at| at > bench.now));
    bench.broker(BrokerEvent::Settled {
        token: tokens[0],
        result: Ok(None),
    });
    bench.pass(SECOND);
    let after = bench
        .requests
        .iter()
        .filter(|request| matches!(request, BrokerRequest::Publish { .. }))
        .count();
    assert_eq!(after, 17);
}

#[test]
fn no_more_clients_have_topics_than_may() {
    let mut bench = quiet(with_clients_at_most(3));
    for client in 1..=10_u16 {
        bench.connect(client, &format!("c{client}"));
    }
    bench.pass(INTERVAL + SECOND);
    let told = bench.told();
    let of_clients = topics(&told)
        .iter()
        .filter(|topic| topic.contains("/clients/"))
        .count();
    assert_eq!(of_clients, 3, "{told:?}");
    let (_, state) = told.iter().rfind(|(topic, _)| topic.ends_with("/state")).unwrap();
    let clients = &state.as_ref().unwrap()["clients"];
    assert_eq!((&clients["total"], &clients["shown"]), (&10.into(), &3.into()));
}

#[test]
fn clients_messages_that_wait_go_first() {
    let mut bench = quiet(config());
    bench.connect(1, "a");
    bench.pass(SECOND);
    bench.told();
    // As many as the broker takes unsettled, and more.
    for msg_id in 1..=16 {
        bench.packet(1, short_publish(msg_id));
    }
    for port in 2..=5 {
        bench.connect(port, &format!("b{port}"));
        for msg_id in 1..=4 {
            bench.packet(port, short_publish(msg_id));
        }
    }
    bench.pass(Duration::from_secs(5));
    let waiting: Vec<BrokerRequest> = bench.requests.clone();
    let is_about_clients = |request: &&BrokerRequest| matches!(request, BrokerRequest::Publish { topic, .. } if topic.contains("/clients/"));
    assert_eq!(waiting.iter().filter(is_about_clients).count(), 0);

    bench.told();
    bench.pass(SECOND);
    assert_eq!(bench.requests.iter().filter(is_about_clients).count(), 4);
}

#[test]
fn broker_that_refuses_is_asked_no_more_and_that_is_told_once() {
    let mut bench = Bench::up(config());
    bench.status_up();
    bench.pass(SECOND);
    let token = bench.requests.iter().find_map(|request| match request {
        BrokerRequest::Publish {
            conn: STATUS, token, ..
        } => *token,
        _ => None,
    });
    bench.requests.clear();

    // It ends the connection at once, and the port connects again before it hears of our Close.
    let refusal = BrokerEvent::Settled {
        token: token.unwrap(),
        result: Err(Refusal(0x87)),
    };
    bench.gateway.handle_broker(bench.now, refusal);
    let down = BrokerEvent::Down {
        conn: STATUS,
        reason: "test".into(),
    };
    bench.gateway.handle_broker(bench.now, down);
    bench.status_up();
    bench.pass(SECOND);

    let refused = Notice::StatusRefused {
        topic: "snipe/barn/state".into(),
        refusal: Refusal(0x87),
    };
    assert_eq!(bench.notices, [refused]);
    assert_eq!(bench.requests, [BrokerRequest::Close { conn: STATUS }]);
    bench.requests.clear();
    bench.connect(1, "a");
    bench.broker_down();
    bench.broker_up(true);
    bench.pass(INTERVAL * 3);
    assert_eq!(bench.requests, []);
}

#[test]
fn quota_is_no_refusal() {
    let mut bench = Bench::up(config());
    bench.status_up();
    bench.pass(SECOND);
    let tokens: Vec<Token> = bench
        .requests
        .iter()
        .filter_map(|request| match request {
            BrokerRequest::Publish { token, .. } => *token,
            _ => None,
        })
        .collect();
    for token in tokens {
        bench.broker(BrokerEvent::Settled {
            token,
            result: Err(Refusal::QUOTA_EXCEEDED),
        });
    }
    bench.requests.clear();
    bench.connect(1, "a");
    bench.pass(SECOND);
    assert_eq!(bench.told_of("snipe/barn/clients/a")["state"], "active");
}

#[test]
fn orderly_stop_says_offline_and_closes() {
    let mut bench = quiet(config());
    bench.requests.clear();

    bench.gateway.handle_shutdown(bench.now);
    bench.drain();

    let of_status: Vec<&BrokerRequest> = bench
        .requests
        .iter()
        .filter(|request| match request {
            BrokerRequest::Publish { conn, .. } | BrokerRequest::Close { conn } => *conn == STATUS,
            _ => false,
        })
        .collect();
    let [
        BrokerRequest::Publish {
            topic,
            payload,
            retain: true,
            ..
        },
        BrokerRequest::Close { .. },
    ] = of_status[..]
    else {
        panic!("{of_status:?}");
    };
    assert_eq!(
        (&**topic, &payload[..]),
        ("snipe/barn/state", &br#"{"state":"offline"}"#[..])
    );
    assert_eq!(bench.gateway.status_connection(), Some(STATUS));
    bench.pass(INTERVAL);
}

#[test]
fn topics_that_an_earlier_life_left_for_clients_nobody_knows_are_cleared() {
    let mut bench = Bench::up(config());
    bench.connect(1, "here");
    bench.status_up();
    bench.pass(SECOND);
    let asked = bench.requests.iter().any(|request| {
        matches!(request, BrokerRequest::Subscribe { conn: STATUS, filter, qos: QoS::AtMostOnce, .. } if &**filter == "snipe/barn/clients/+")
    });
    assert!(asked, "{:?}", bench.requests);
    bench.told();

    for (topic, retain, payload) in [
        ("snipe/barn/clients/here", true, "{}"),
        ("snipe/barn/clients/a%2Fb", true, "{}"),
        // What is published now is no message of an earlier life.
        ("snipe/barn/clients/live", false, "{}"),
        ("snipe/barn/clients/nobody%", true, "{}"),
        ("else/where", true, "{}"),
    ] {
        bench.broker(BrokerEvent::Message {
            conn: STATUS,
            delivery: None,
            filters: Box::default(),
            topic: topic.into(),
            qos: QoS::AtMostOnce,
            retain,
            payload: payload.into(),
        });
    }
    bench.pass(SECOND);
    assert_eq!(bench.told(), [("snipe/barn/clients/a%2Fb".to_owned(), None)]);

    bench.pass(INTERVAL);
    let given_back = bench.requests.iter().any(|request| {
        matches!(request, BrokerRequest::Unsubscribe { conn: STATUS, filter, .. } if &**filter == "snipe/barn/clients/+")
    });
    assert!(given_back, "{:?}", bench.requests);
}

#[test]
fn who_subscribes_to_everything_is_not_sent_status_and_who_asks_for_it_is() {
    let mut bench = quiet(config());
    for (port, filter) in [
        (1, "#"),
        (2, "+/barn/state"),
        (3, "snipe/+/state"),
        (4, "snipe/#"),
    ] {
        bench.connect(port, &format!("c{port}"));
        bench.packet(port, subscribe(MsgId(1), filter, QoS::AtMostOnce));
    }
    bench.told();
    (1..=4).for_each(|port| drop(bench.take(port)));
    let message = |bench: &mut Bench, topic: &str| {
        bench.broker(BrokerEvent::Message {
            conn: CONN,
            delivery: None,
            filters: Box::default(),
            topic: topic.into(),
            qos: QoS::AtMostOnce,
            retain: false,
            payload: "x".into(),
        });
        (1..=4).map(|port| bench.take(port).len()).collect::<Vec<_>>()
    };

    assert_eq!(message(&mut bench, "snipe/barn/state"), [0, 0, 1, 1]);
    assert_eq!(
        message(&mut bench, "snipe/barnyard/state"),
        [1, 0, 0, 0],
        "that of another; those busy wait"
    );
}

#[test]
fn a_spool_that_stays_full_tells_what_it_drops_once_in_ten_seconds() {
    let mut bench = Bench::new(GatewayConfig {
        upstream: gateway_core::config::UpstreamConfig {
            when_down: WhenDown::Spool,
            ..Default::default()
        },
        durability: Some(Durability {
            spool_messages: 1,
            when_full: SpoolFull::DropOldest,
            ..Durability::default()
        }),
        ..GatewayConfig::default()
    });
    bench.connect_with(
        1,
        Connect {
            will: false,
            clean_session: false,
            duration: 600,
            client_id: "a",
        },
    );
    let dropped = |bench: &mut Bench| -> Vec<u64> {
        let notices = bench.notices.drain(..);
        let dropped = notices.filter_map(|notice| match notice {
            Notice::SpoolDropped { messages, .. } => Some(messages),
            _ => None,
        });
        dropped.collect()
    };
    let publish = |bench: &mut Bench, msg_ids: core::ops::Range<u16>| {
        for msg_id in msg_ids {
            bench.packet(1, short_publish(msg_id));
            bench.commit();
        }
    };
    publish(&mut bench, 1..7);
    assert_eq!(dropped(&mut bench), [1], "the first at once");
    bench.pass(Duration::from_secs(9));
    assert_eq!(dropped(&mut bench), [0; 0]);
    bench.pass(Duration::from_secs(1));
    assert_eq!(dropped(&mut bench), [4], "the others together");
    bench.pass(Duration::from_secs(60));
    assert_eq!(dropped(&mut bench), [0; 0]);

    publish(&mut bench, 7..10);
    assert_eq!(dropped(&mut bench), [1]);
    bench.gateway.handle_shutdown(bench.now);
    bench.drain();
    assert_eq!(dropped(&mut bench), [2], "what is left, at the end");
}

#[test]
fn spooled_messages_that_are_lost_are_told_with_their_number() {
    let mut bench = Bench::new(GatewayConfig {
        upstream: gateway_core::config::UpstreamConfig {
            when_down: WhenDown::Spool,
            ..Default::default()
        },
        durability: Some(Durability {
            spool_age: Duration::from_secs(60),
            ..Durability::default()
        }),
        ..GatewayConfig::default()
    });
    let keeps = Connect {
        will: false,
        clean_session: false,
        duration: 600,
        client_id: "a",
    };
    bench.connect_with(1, keeps);
    for msg_id in 1..=3 {
        bench.packet(1, short_publish(msg_id));
    }
    bench.commit();
    bench.notices.clear();
    bench.pass(Duration::from_secs(61));
    let dropped = Notice::SpoolDropped {
        reason: gateway_core::SpoolDrop::Age,
        messages: 3,
        topic: "ab".into(),
    };
    assert_eq!(bench.notices, [dropped]);

    bench.packet(1, short_publish(9));
    bench.commit();
    bench.broker_up(false);
    let token = bench.requests.iter().find_map(|request| match request {
        BrokerRequest::Publish { token, .. } => *token,
        _ => None,
    });
    bench.notices.clear();
    bench.broker(BrokerEvent::Settled {
        token: token.unwrap(),
        result: Err(Refusal(0x87)),
    });
    let refused = Notice::UnheardRefused {
        client: Some("a".into()),
        topic: "ab".into(),
        refusal: Refusal(0x87),
    };
    assert_eq!(bench.notices, [refused]);
    assert_eq!(bench.gateway.metrics().spool_dropped, [0, 3, 0, 1]);
}
