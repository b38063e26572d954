//! Datagrams that are wrong in every way the test vectors know.

use std::{collections::BTreeMap, fs};

use serde_json::Value;
use sn_codec::{Connack, Connect, Packet, Pingreq, QoS, ReturnCode, TopicFilter, TopicRef};
use system_tests::{
    Broker, BrokerKind, Client, Gateway, Message, PATIENCE, Setup, poll_until, repository, with_each_broker,
};

with_each_broker![malformed_datagrams_are_counted_by_reason_and_change_nothing_for_anyone,];

/// A datagram that the gateway must refuse.
struct Bad {
    name: String,
    octets: Vec<u8>,
    /// The stable name of what is wrong with it.
    reason: String,
    /// It parses, so it is answered with a return code; all others are dropped in silence.
    answered: bool,
}

fn malformed_datagrams_are_counted_by_reason_and_change_nothing_for_anyone(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker).start();
    let mut observer = broker.subscribe("up/#");
    let witness = gateway.connected_client("witness");
    let topic = TopicRef::Normal(witness.register("up/witness"));
    let shown = TopicRef::Normal(witness.subscribe(TopicFilter::Name("down/witness"), QoS::AtLeastOnce));
    let vectors = rejected_vectors();
    assert!(vectors.len() > 60, "only {} rejected vectors", vectors.len());
    let before = malformed(&gateway);

    let offender = gateway.connected_client("offender");
    for (n, bad) in vectors.iter().enumerate() {
        if needs_handshake(bad) {
            refused_within_handshake(&gateway, bad);
            continue;
        }
        // From a client in mid-session, whose session it does not touch: what comes before the answer to the next
        // ping is the answer to the bad datagram.
        offender.send_bytes(&bad.octets);
        offender.send(Packet::Pingreq(Pingreq { client_id: None }));
        let mut answers = vec![];
        loop {
            let datagram = offender.receive();
            if datagram.packet() == Packet::Pingresp {
                break;
            }
            answers.push(datagram);
        }
        assert_eq!(
            answers.len(),
            usize::from(bad.answered),
            "{}: {answers:?}",
            bad.name
        );
        assert!(answers.iter().all(is_refusal), "{}: {answers:?}", bad.name);

        // From nobody in particular.
        if !bad.answered {
            let stranger = gateway.client("stranger");
            stranger.send_bytes(&bad.octets);
        }

        witness.publish_acknowledged(topic, n.to_string().as_bytes());
        observer.expect(Message::new("up/witness", n.to_string(), 1));
    }

    let mut expected = before;
    for bad in &vectors {
        let times = if bad.answered || needs_handshake(bad) {
            1
        } else {
            2
        };
        *expected.entry(bad.reason.clone()).or_default() += times;
    }
    poll_until("every malformed datagram to be counted", PATIENCE, || {
        (malformed(&gateway) == expected).then_some(())
    });

    broker.publish("down/witness", "still here", 1);
    let (_, datagram) = witness.receive_publish();
    let Packet::Publish(publish) = datagram.packet() else {
        unreachable!("receive_publish returns nothing else")
    };
    assert_eq!((publish.topic, publish.data), (shown, b"still here".as_slice()));
    witness.acknowledge(&datagram);
    witness.expect_silence();
    gateway.stop();
    observer.expect_nothing_more();
}

/// The counters of malformed datagrams, by reason, those that are not zero.
fn malformed(gateway: &Gateway) -> BTreeMap<String, u64> {
    let metrics = gateway.metrics().into_iter();
    let of_interest = metrics.filter(|(name, value)| name.contains("malformed_total") && *value > 0);
    of_interest
        .map(|(name, value)| {
            let reason = name.split('"').nth(1).expect("a reason label").to_owned();
            (reason, value)
        })
        .collect()
}

/// A bad will is answered where a will is expected (reading A24).
fn needs_handshake(bad: &Bad) -> bool {
    bad.answered && bad.name.starts_with("bad_willtopic_")
}

#[track_caller]
fn refused_within_handshake(gateway: &Gateway, bad: &Bad) {
    let client: Client = gateway.client("bad-will");
    client.send(Packet::Connect(Connect {
        will: true,
        clean_session: true,
        duration: 60,
        client_id: "bad-will",
    }));
    client.expect(Packet::WillTopicReq);
    client.send_bytes(&bad.octets);
    client.expect(Packet::Connack(Connack {
        return_code: ReturnCode::NotSupported,
    }));
}

fn is_refusal(datagram: &system_tests::Datagram) -> bool {
    let accepted = ReturnCode::Accepted;
    match datagram.packet() {
        Packet::Connack(connack) => connack.return_code != accepted,
        Packet::Regack(regack) => regack.return_code != accepted,
        Packet::Puback(puback) => puback.return_code != accepted,
        Packet::Suback(suback) => suback.return_code != accepted,
        // UNSUBACK has no return code: the client only needs to stop asking.
        Packet::Unsuback(_) => true,
        _ => false,
    }
}

fn rejected_vectors() -> Vec<Bad> {
    let file = repository().join("sn-codec/tests/vectors-1.2.json");
    let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let vectors: Vec<Value> = serde_json::from_str(&text).expect("the vectors are JSON");
    let rejected = vectors
        .iter()
        .filter(|vector| vector["accept"] == Value::Bool(false));
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    rejected
        .map(|vector| Bad {
            name: text(&vector["name"]),
            octets: octets(&text(&vector["hex"])),
            reason: text(&vector["error"]),
            answered: !text(&vector["action"]).starts_with("drop silently"),
        })
        .collect()
}

fn octets(hex: &str) -> Vec<u8> {
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal"))
        .collect()
}
