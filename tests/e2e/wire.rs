//! Every kind of message the gateway sends, read by someone else.

use std::collections::BTreeSet;

use sn_codec::{
    Connack, Connect, MsgType, Packet, Pingreq, Publish, PublishQoS, QoS, Regack, Register, ReturnCode,
    SearchGw, ShortTopic, Subscribe, TopicFilter, TopicId, TopicRef, Unsubscribe, WillMsg, WillTopic,
};
use system_tests::{Broker, BrokerKind, Client, Gateway, Setup, check_with_tshark, with_each_broker};

with_each_broker![tshark_reads_every_kind_of_message_as_we_mean_it,];

fn tshark_reads_every_kind_of_message_as_we_mean_it(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker)
        .toml("[[predefined]]\nid = 1\ntopic = 'plant/status'\n[timers]\nretry = { first = '1s', max = '1s', count = 3 }")
        .start();
    broker.publish_with("kept/1", "retained", &["-r", "-q", "1"]);
    let mut seen = BTreeSet::new();

    connect_with_will(&gateway, &mut seen);
    publish_up(&gateway, &mut seen);
    deliver_down(&gateway, &broker, &mut seen);
    refusals(&gateway, &mut seen);

    use MsgType::{
        Connack, Disconnect, GwInfo, Pingresp, Puback, Pubcomp, Publish, Pubrec, Pubrel, Regack, Register,
        Suback, Unsuback, WillMsgReq, WillMsgResp, WillTopicReq, WillTopicResp,
    };
    let every = [
        GwInfo,
        Connack,
        WillTopicReq,
        WillMsgReq,
        Register,
        Regack,
        Publish,
        Puback,
        Pubcomp,
        Pubrec,
        Pubrel,
        Suback,
        Unsuback,
        Pingresp,
        Disconnect,
        WillTopicResp,
        WillMsgResp,
    ];
    assert_eq!(seen, BTreeSet::from(every));
    assert!(check_with_tshark(gateway.capture()) >= every.len());
    gateway.stop();
}

/// Receives what the gateway sends next and notes its type.
#[track_caller]
fn hears(client: &Client, seen: &mut BTreeSet<MsgType>) -> Vec<u8> {
    let datagram = client.receive();
    seen.insert(datagram.packet().msg_type());
    datagram.0
}

fn connect_with_will(gateway: &Gateway, seen: &mut BTreeSet<MsgType>) {
    let client = gateway.client("with-will");
    client.send(Packet::SearchGw(SearchGw { radius: 0 }));
    hears(&client, seen);
    client.send(Packet::Connect(Connect {
        will: true,
        clean_session: true,
        duration: 60,
        client_id: "with-will",
    }));
    hears(&client, seen);
    client.send(Packet::WillTopic(Some(WillTopic {
        qos: QoS::AtLeastOnce,
        retain: false,
        topic: "state/gone",
    })));
    hears(&client, seen);
    client.send(Packet::WillMsg(WillMsg { message: b"gone" }));
    hears(&client, seen);
    client.send(Packet::WillTopicUpd(Some(WillTopic {
        qos: QoS::AtMostOnce,
        retain: true,
        topic: "state/other",
    })));
    hears(&client, seen);
    client.send(Packet::WillMsgUpd(WillMsg {
        message: b"really gone",
    }));
    hears(&client, seen);
    client.send(Packet::Pingreq(Pingreq { client_id: None }));
    hears(&client, seen);
    client.send(Packet::Disconnect(sn_codec::Disconnect { duration: None }));
    hears(&client, seen);
}

fn publish_up(gateway: &Gateway, seen: &mut BTreeSet<MsgType>) {
    let client = gateway.connected_client("sensor");
    let normal = TopicRef::Normal(client.register("demo/temperature"));
    let msg_id = client.next_msg_id();
    client.send(Packet::Register(Register {
        topic_id: TopicId::NONE,
        msg_id,
        topic_name: "demo/humidity",
    }));
    hears(&client, seen);
    for topic in [
        normal,
        TopicRef::Predefined(TopicId(1)),
        TopicRef::Short(ShortTopic(*b"ab")),
    ] {
        client.publish(topic, PublishQoS::Level(QoS::AtLeastOnce), b"21.5");
        hears(&client, seen);
        let msg_id = client.publish(topic, PublishQoS::Level(QoS::ExactlyOnce), b"21.5");
        hears(&client, seen);
        client.send(Packet::Pubrel(msg_id));
        hears(&client, seen);
    }
}

fn deliver_down(gateway: &Gateway, broker: &Broker, seen: &mut BTreeSet<MsgType>) {
    let client = gateway.connected_client("display");
    let filters = [
        TopicFilter::Name("down/named"),
        TopicFilter::Name("wild/#"),
        TopicFilter::Name("kept/+"),
        TopicFilter::Predefined(TopicId(1)),
        TopicFilter::Short(ShortTopic(*b"cd")),
    ];
    for topic in filters {
        let msg_id = client.next_msg_id();
        client.send(Packet::Subscribe(Subscribe {
            dup: false,
            qos: QoS::ExactlyOnce,
            msg_id,
            topic,
        }));
        hears(&client, seen);
        if topic == TopicFilter::Name("kept/+") {
            let registered = finish_delivery(&client, seen);
            assert!(registered, "a wildcard match is registered first");
        }
    }
    for qos in 0..=2 {
        for topic in ["down/named", "wild/1", "plant/status", "cd"] {
            broker.publish(topic, &"x".repeat(300 * usize::from(qos)), qos);
            finish_delivery(&client, seen);
        }
    }
    // Unanswered once: the repetition carries DUP.
    broker.publish("down/named", "repeated", 1);
    hears(&client, seen);
    finish_delivery(&client, seen);

    let msg_id = client.next_msg_id();
    client.send(Packet::Unsubscribe(Unsubscribe {
        msg_id,
        topic: TopicFilter::Name("down/named"),
    }));
    hears(&client, seen);
}

/// Plays the client's part until the message is delivered; true if it was registered first.
#[track_caller]
fn finish_delivery(client: &Client, seen: &mut BTreeSet<MsgType>) -> bool {
    let mut registered = false;
    loop {
        let octets = hears(client, seen);
        match Packet::decode(&octets).expect("checked by hears") {
            Packet::Register(Register { topic_id, msg_id, .. }) => {
                registered = true;
                client.send(Packet::Regack(Regack {
                    topic_id,
                    msg_id,
                    return_code: ReturnCode::Accepted,
                }));
            }
            Packet::Publish(Publish { qos, msg_id, .. }) => match qos {
                PublishQoS::Level(QoS::ExactlyOnce) => client.send(Packet::Pubrec(msg_id)),
                PublishQoS::Level(QoS::AtLeastOnce) => {
                    client.acknowledge(&system_tests::Datagram(octets));
                    return registered;
                }
                PublishQoS::Level(QoS::AtMostOnce) => return registered,
                PublishQoS::MinusOne => panic!("only clients publish with QoS -1"),
            },
            Packet::Pubrel(msg_id) => {
                client.send(Packet::Pubcomp(msg_id));
                return registered;
            }
            other => panic!("unexpected {other:?}"),
        }
    }
}

fn refusals(gateway: &Gateway, seen: &mut BTreeSet<MsgType>) {
    let client = gateway.connected_client("clumsy");
    client.publish(
        TopicRef::Normal(TopicId(4242)),
        PublishQoS::Level(QoS::AtMostOnce),
        b"?",
    );
    hears(&client, seen);
    let msg_id = client.next_msg_id();
    let topic = TopicFilter::Predefined(TopicId(99));
    client.send(Packet::Subscribe(Subscribe {
        dup: false,
        qos: QoS::AtMostOnce,
        msg_id,
        topic,
    }));
    hears(&client, seen);
    // CONNECT with protocol id 2.
    let stranger = gateway.client("stranger");
    stranger.send_bytes(b"\x08\x04\x04\x02\x00\x3cv2");
    stranger.expect(Packet::Connack(Connack {
        return_code: ReturnCode::NotSupported,
    }));
}
