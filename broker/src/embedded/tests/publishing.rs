use super::*;

#[test]
fn message_arrives_at_the_lower_of_both_qos() {
    for published in [AtMostOnce, AtLeastOnce, ExactlyOnce] {
        for granted in [AtMostOnce, AtLeastOnce, ExactlyOnce] {
            let mut broker = Broker::new();
            let subscriber = broker.subscriber("s", &[("t", granted)]);
            let publisher = broker.client("p");
            let packet_id = u16::from(published > AtMostOnce);
            broker.publish(publisher, packet_id, message("t", published, "1"));
            let deliveries = broker.deliveries(subscriber);
            assert_eq!(deliveries.len(), 1);
            assert_eq!(deliveries[0].qos, published.min(granted));
            assert_eq!(deliveries[0].packet_id > 0, deliveries[0].qos > AtMostOnce);
            assert!(!deliveries[0].dup);
        }
    }
}

#[test]
fn mqtt_3_3_5_1_overlapping_filters_bring_one_message_at_the_highest_qos_with_all_identifiers() {
    let mut broker = Broker::new();
    let subscriber = broker.client("s");
    broker.subscribe_with(subscriber, Some(1), vec![subscription("a/#", AtMostOnce)]);
    broker.subscribe_with(subscriber, Some(2), vec![subscription("a/+", AtLeastOnce)]);
    broker.subscribe_with(subscriber, None, vec![subscription("a/b", AtMostOnce)]);
    broker.subscribe_with(subscriber, Some(9), vec![subscription("x", AtMostOnce)]);
    broker.publish(subscriber, 5, message("a/b", ExactlyOnce, "1"));
    let deliveries = broker.deliveries(subscriber);
    assert_eq!(deliveries.len(), 1);
    assert_eq!(deliveries[0].qos, AtLeastOnce);
    let mut ids = deliveries[0].ids.to_vec();
    ids.sort_unstable();
    assert_eq!(ids, [1, 2]);
}

#[test]
fn mqtt_3_8_3_3_no_local_keeps_own_messages_away() {
    let mut broker = Broker::new();
    let client = broker.client("c");
    let no_local = Subscription {
        no_local: true,
        ..subscription("t", AtMostOnce)
    };
    broker.subscribe_with(client, None, vec![no_local]);
    let other = broker.client("o");
    broker.publish(client, 0, message("t", AtMostOnce, "own"));
    broker.publish(other, 0, message("t", AtMostOnce, "other"));
    assert_eq!(broker.payloads(client), ["other"]);
}

#[test]
fn acknowledgement_says_whether_anybody_subscribed() {
    let mut broker = Broker::new();
    broker.subscriber("s", &[("t", AtMostOnce)]);
    let publisher = broker.client("p");
    assert_eq!(
        broker.publish_answered(publisher, 1, message("t", AtLeastOnce, "")),
        acknowledged(1)
    );
    assert_eq!(
        broker.publish_answered(publisher, 2, message("u", AtLeastOnce, "")),
        [Reply::PubAck {
            packet_id: 2,
            reason: reason::NO_MATCHING_SUBSCRIBERS
        }]
    );
    assert_eq!(
        broker.publish_answered(publisher, 3, message("u", ExactlyOnce, "")),
        [Reply::PubRec {
            packet_id: 3,
            reason: reason::NO_MATCHING_SUBSCRIBERS
        }]
    );
    assert_eq!(
        broker.publish_answered(publisher, 0, message("u", AtMostOnce, "")),
        []
    );
}

#[test]
fn mqtt_3_3_2_2_wildcards_in_a_topic_name_end_the_connection() {
    for topic in ["a/+", "#", "", "a\0"] {
        let mut broker = Broker::new();
        let publisher = broker.client("p");
        assert_eq!(
            broker.publish_answered(publisher, 1, message(topic, AtLeastOnce, "")),
            disconnected(reason::TOPIC_NAME_INVALID),
            "{topic:?}"
        );
    }
}

#[test]
fn mqtt_2_2_1_3_packet_id_0_ends_the_connection() {
    let mut broker = Broker::new();
    let publisher = broker.client("p");
    assert_eq!(
        broker.publish_answered(publisher, 0, message("t", AtLeastOnce, "")),
        disconnected(reason::PROTOCOL_ERROR)
    );
}

#[test]
fn mqtt_4_3_3_10_qos_2_is_one_message_until_pubrel() {
    let mut broker = Broker::new();
    let subscriber = broker.subscriber("s", &[("t", ExactlyOnce)]);
    let publisher = broker.client("p");
    let recorded = [Reply::PubRec {
        packet_id: 1,
        reason: reason::SUCCESS,
    }];
    for _ in 0..3 {
        let answer = broker.publish_answered(publisher, 1, message("t", ExactlyOnce, "once"));
        assert_eq!(answer, recorded);
    }
    assert_eq!(broker.payloads(subscriber), ["once"]);
    broker.say(publisher, Received::PubRel { packet_id: 1 });
    assert_eq!(
        broker.take(publisher),
        [Reply::PubComp {
            packet_id: 1,
            reason: reason::SUCCESS
        }]
    );
    broker.publish(publisher, 1, message("t", ExactlyOnce, "another"));
    assert_eq!(broker.payloads(subscriber), ["another"]);
}

#[test]
fn qos_2_packet_ids_outlive_the_connection_with_the_session() {
    let mut broker = Broker::new();
    let subscriber = broker.subscriber("s", &[("t", ExactlyOnce)]);
    let publisher = broker.connect(resume("p", 60));
    broker.publish(publisher, 1, message("t", ExactlyOnce, "once"));
    broker.close(publisher);
    let publisher = broker.connect(resume("p", 60));
    broker.take(publisher);
    let again = Received::Publish {
        packet_id: 1,
        dup: true,
        message: message("t", ExactlyOnce, "once"),
    };
    broker.say(publisher, again);
    assert_eq!(broker.take(publisher).len(), 1);
    assert_eq!(broker.payloads(subscriber), ["once"]);
}

#[test]
fn qos_2_refused_may_use_its_packet_id_again_at_once() {
    let mut broker = Broker::new();
    let subscriber = broker.subscriber("s", &[("t", ExactlyOnce)]);
    let publisher = broker.client("p");
    assert_eq!(
        broker.publish_answered(publisher, 1, message("$SYS/x", ExactlyOnce, "")),
        [Reply::PubRec {
            packet_id: 1,
            reason: reason::NOT_AUTHORIZED
        }]
    );
    broker.publish(publisher, 1, message("t", ExactlyOnce, "1"));
    assert_eq!(broker.payloads(subscriber), ["1"]);
}

#[test]
fn unknown_packet_ids_are_answered_not_found() {
    let mut broker = Broker::new();
    let client = broker.client("c");
    broker.say(client, Received::PubRel { packet_id: 7 });
    broker.say(client, pubrec(8));
    broker.say(client, puback(9));
    broker.say(client, Received::PubComp { packet_id: 10 });
    assert_eq!(
        broker.take(client),
        [
            Reply::PubComp {
                packet_id: 7,
                reason: reason::PACKET_ID_NOT_FOUND
            },
            Reply::PubRel {
                packet_id: 8,
                reason: reason::PACKET_ID_NOT_FOUND
            }
        ]
    );
}

#[test]
fn acknowledgement_of_the_wrong_kind_is_a_protocol_error() {
    let packet_id = 1;
    for (qos, answer) in [
        (ExactlyOnce, puback(packet_id)),
        (AtLeastOnce, pubrec(packet_id)),
        (ExactlyOnce, Received::PubComp { packet_id }),
    ] {
        let mut broker = Broker::new();
        let client = broker.subscriber("c", &[("t", qos)]);
        let publisher = broker.client("p");
        broker.publish(publisher, 1, message("t", qos, ""));
        assert_eq!(broker.deliveries(client)[0].packet_id, packet_id);
        broker.say(client, answer);
        assert_eq!(broker.take(client), disconnected(reason::PROTOCOL_ERROR));
    }
}

#[test]
fn mqtt_4_3_3_refused_pubrec_ends_the_exchange() {
    let mut broker = Broker::new();
    let client = broker.connect(Connect {
        receive_maximum: 1,
        ..connect("c")
    });
    broker.subscribe(client, &[("t", ExactlyOnce)]);
    let publisher = broker.client("p");
    broker.publish(publisher, 1, message("t", ExactlyOnce, "1"));
    broker.publish(publisher, 2, message("t", ExactlyOnce, "2"));
    let packet_id = broker.deliveries(client)[0].packet_id;
    broker.say(
        client,
        Received::PubRec {
            packet_id,
            refused: true,
        },
    );
    assert_eq!(broker.payloads(client), ["2"]);
}

#[test]
fn mqtt_3_3_2_6_expiry_is_counted_down_and_the_expired_are_dropped() {
    let mut broker = Broker::new();
    let client = broker.connect_without_credit(connect("c"));
    broker.subscribe(client, &[("t", AtLeastOnce)]);
    let publisher = broker.client("p");
    for (packet_id, expiry) in [(1, Some(10)), (2, Some(4)), (3, None)] {
        let message = Message {
            expiry,
            ..message("t", AtLeastOnce, &packet_id.to_string())
        };
        broker.publish(publisher, packet_id, message);
    }
    broker.wait(Duration::from_millis(4_200));
    broker.credit(client, 10);
    let deliveries = broker.deliveries(client);
    let seen: Vec<_> = deliveries
        .iter()
        .map(|delivery| (payload(delivery), delivery.expiry))
        .collect();
    assert_eq!(seen, [("1".into(), Some(6)), ("3".into(), None)]);
    assert_eq!(broker.router.stats().dropped_expired, 1);
}

#[test]
fn too_large_message_counts_as_delivered() {
    let mut broker = Broker::new();
    let client = broker.connect(Connect {
        receive_maximum: 1,
        ..connect("c")
    });
    broker.subscribe(client, &[("t", AtLeastOnce)]);
    let publisher = broker.client("p");
    broker.publish(publisher, 1, message("t", AtLeastOnce, "1"));
    broker.publish(publisher, 2, message("t", AtLeastOnce, "2"));
    let packet_id = broker.deliveries(client)[0].packet_id;
    broker.say(client, Received::TooLarge { packet_id });
    assert_eq!(broker.payloads(client), ["2"]);
    assert_eq!(broker.router.stats().dropped_too_large, 1);
}

#[test]
fn properties_and_payload_are_shared_not_copied() {
    let mut broker = Broker::new();
    let one = broker.subscriber("1", &[("t", AtLeastOnce)]);
    let two = broker.subscriber("2", &[("t", AtMostOnce)]);
    let publisher = broker.client("p");
    broker.publish(publisher, 1, message("t", AtLeastOnce, "x"));
    let one = broker.deliveries(one).remove(0);
    let two = broker.deliveries(two).remove(0);
    assert!(std::sync::Arc::ptr_eq(&one.message, &two.message));
}
