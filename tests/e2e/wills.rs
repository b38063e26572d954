//! Last wills: published for a client that is lost, not for one that says goodbye.

use std::time::Duration;

use sn_codec::{Connack, Connect, Packet, QoS, ReturnCode, WillMsg, WillTopic};
use system_tests::{Broker, BrokerKind, Client, Message, Setup, with_each_broker};

with_each_broker![
    the_will_of_a_lost_client_is_published_and_nobody_elses,
    a_client_that_pings_is_not_lost,
    a_will_can_be_changed_and_deleted,
    an_empty_will_topic_connects_without_a_will,
];

#[track_caller]
fn connect_with_will(client: &Client, keep_alive: u16, qos: QoS, retain: bool) {
    let connect = Connect {
        will: true,
        clean_session: true,
        duration: keep_alive,
        client_id: client.id(),
    };
    client.send(Packet::Connect(connect));
    client.expect(Packet::WillTopicReq);
    client.send(Packet::WillTopic(Some(WillTopic {
        qos,
        retain,
        topic: "state/pump",
    })));
    client.expect(Packet::WillMsgReq);
    client.send(Packet::WillMsg(WillMsg { message: b"gone" }));
    client.expect(Packet::Connack(Connack {
        return_code: ReturnCode::Accepted,
    }));
}

fn the_will_of_a_lost_client_is_published_and_nobody_elses(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker).start();
    let mut observer = broker.subscribe("state/#");
    let (lost, polite) = (gateway.client("lost"), gateway.client("polite"));
    connect_with_will(&polite, 1, QoS::AtLeastOnce, false);
    polite.disconnect();
    connect_with_will(&lost, 1, QoS::AtLeastOnce, true);

    // Keep-alive 1 s, tolerance 1.5: gone after 1.5 s.
    observer.expect(Message::new("state/pump", "gone", 1));
    let mut late = broker.subscribe("state/pump");
    late.expect(Message {
        retain: true,
        ..Message::new("state/pump", "gone", 1)
    });
    observer.expect_silence();
    gateway.stop();
}

fn a_client_that_pings_is_not_lost(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker).start();
    let observer = broker.subscribe("state/#");
    let client = gateway.client("alive");
    connect_with_will(&client, 1, QoS::AtLeastOnce, false);

    for _ in 0..5 {
        assert_eq!(client.receive_within(Duration::from_millis(600)), None);
        client.ping();
    }

    observer.expect_nothing_more();
    client.disconnect();
    gateway.stop();
    observer.expect_nothing_more();
}

fn a_will_can_be_changed_and_deleted(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker).start();
    let mut observer = broker.subscribe("state/#");
    let (changed, deleted) = (gateway.client("changed"), gateway.client("deleted"));
    connect_with_will(&deleted, 1, QoS::AtLeastOnce, false);
    deleted.send(Packet::WillTopicUpd(None));
    deleted.expect(Packet::WillTopicResp(ReturnCode::Accepted));

    connect_with_will(&changed, 1, QoS::AtLeastOnce, false);
    let topic = WillTopic {
        qos: QoS::AtMostOnce,
        retain: false,
        topic: "state/other",
    };
    changed.send(Packet::WillTopicUpd(Some(topic)));
    changed.expect(Packet::WillTopicResp(ReturnCode::Accepted));
    changed.send(Packet::WillMsgUpd(WillMsg {
        message: b"really gone",
    }));
    changed.expect(Packet::WillMsgResp(ReturnCode::Accepted));

    observer.expect(Message::new("state/other", "really gone", 0));
    observer.expect_silence();
    gateway.stop();
}

fn an_empty_will_topic_connects_without_a_will(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker).start();
    let client = gateway.client("no-will");

    client.send(Packet::Connect(Connect {
        will: true,
        clean_session: true,
        duration: 60,
        client_id: "no-will",
    }));
    client.expect(Packet::WillTopicReq);
    client.send(Packet::WillTopic(None));
    client.expect(Packet::Connack(Connack {
        return_code: ReturnCode::Accepted,
    }));
    gateway.stop();
}
