use super::*;

fn lasting(broker: &mut Broker, id: &str, session_expiry: u32) -> (ClientKey, Vec<Reply>) {
    let client = broker.connect(resume(id, session_expiry));
    let replies = broker.take(client);
    (client, replies)
}

#[test]
fn mqtt_3_2_2_2_and_3_session_present_is_told() {
    let mut broker = Broker::new();
    let (client, replies) = lasting(&mut broker, "c", 60);
    assert_eq!(replies, connack(false));
    broker.disconnect(client);
    let (client, replies) = lasting(&mut broker, "c", 60);
    assert_eq!(replies, connack(true));
    broker.disconnect(client);
    let client = broker.connect(connect("c"));
    assert_eq!(broker.take(client), connack(false));
}

#[test]
fn mqtt_3_1_2_4_clean_start_discards_the_session() {
    let mut broker = Broker::new();
    let (client, _) = lasting(&mut broker, "c", 60);
    broker.subscribe(client, &[("t", AtLeastOnce)]);
    broker.disconnect(client);
    let publisher = broker.client("p");
    broker.publish(publisher, 1, message("t", AtLeastOnce, "old"));
    let client = broker.connect(connect("c"));
    broker.publish(publisher, 2, message("t", AtLeastOnce, "new"));
    assert_eq!(broker.take(client), connack(false));
}

#[test]
fn mqtt_3_1_2_5_session_collects_qos_1_and_2_meanwhile() {
    let mut broker = Broker::new();
    let (client, _) = lasting(&mut broker, "c", 60);
    broker.subscribe(client, &[("t", ExactlyOnce)]);
    broker.close(client);
    let publisher = broker.client("p");
    for (packet_id, qos) in [(0, AtMostOnce), (1, AtLeastOnce), (2, ExactlyOnce)] {
        broker.publish(publisher, packet_id, message("t", qos, &packet_id.to_string()));
    }
    let client = broker.connect(resume("c", 60));
    assert_eq!(broker.take_and_acknowledge(client), ["1", "2"]);
}

#[test]
fn mqtt_3_1_2_23_session_ends_when_its_expiry_has_passed() {
    let mut broker = Broker::new();
    let (client, _) = lasting(&mut broker, "c", 60);
    broker.close(client);
    broker.wait(Duration::from_millis(59_999));
    let (client, replies) = lasting(&mut broker, "c", 60);
    assert_eq!(replies, connack(true));
    broker.close(client);
    broker.wait_secs(60);
    assert_eq!(broker.router.stats().sessions, 0);
    assert_eq!(broker.router.stats().sessions_expired, 1);
    assert_eq!(lasting(&mut broker, "c", 60).1, connack(false));
}

#[test]
fn session_that_never_expires_stays_and_wakes_nobody() {
    let mut broker = Broker::new();
    let (client, _) = lasting(&mut broker, "c", u32::MAX);
    broker.close(client);
    // So long its publishers would wait for it.
    broker.wait_secs(10);
    assert_eq!(broker.router.poll_timeout(), None);
    broker.wait_secs(u64::from(u32::MAX) * 2);
    assert_eq!(lasting(&mut broker, "c", u32::MAX).1, connack(true));
}

#[test]
fn expiry_may_be_changed_with_disconnect() {
    let mut broker = Broker::new();
    let (client, _) = lasting(&mut broker, "c", 60);
    let leave = |session_expiry| Received::Disconnect {
        with_will: false,
        session_expiry,
    };
    broker.say(client, leave(Some(5)));
    broker.wait_secs(5);
    assert_eq!(broker.router.stats().sessions, 0);

    let (client, _) = lasting(&mut broker, "c", 60);
    broker.say(client, leave(Some(0)));
    assert_eq!(broker.router.stats().sessions, 0);
}

#[test]
fn mqtt_3_14_2_2_2_expiry_set_with_disconnect_only_is_a_protocol_error_and_the_will_is_published() {
    let mut broker = Broker::new();
    let watcher = broker.subscriber("w", &[("will", AtMostOnce)]);
    let client = broker.connect(Connect {
        will: will("will", 0),
        ..connect("c")
    });
    broker.take(client);
    broker.say(
        client,
        Received::Disconnect {
            with_will: false,
            session_expiry: Some(60),
        },
    );
    assert_eq!(broker.take(client), disconnected(reason::PROTOCOL_ERROR));
    assert_eq!(broker.payloads(watcher), ["gone"]);
    assert_eq!(broker.router.stats().sessions, 1);
}

#[test]
fn mqtt_3_1_4_3_second_connection_takes_over() {
    let mut broker = Broker::new();
    let (first, _) = lasting(&mut broker, "c", 60);
    broker.subscribe(first, &[("t", AtLeastOnce)]);
    let (second, replies) = lasting(&mut broker, "c", 60);
    assert_eq!(broker.take(first), disconnected(reason::SESSION_TAKEN_OVER));
    assert_eq!(replies, connack(true));
    let publisher = broker.client("p");
    broker.publish(publisher, 1, message("t", AtLeastOnce, "1"));
    broker.say(first, puback(1));
    broker.close(first);
    assert_eq!(broker.payloads(second), ["1"]);
    assert_eq!(broker.take(first), []);
}

#[test]
fn session_that_lasts_as_long_as_its_connection_is_not_taken_over() {
    let mut broker = Broker::new();
    let first = broker.client("c");
    broker.subscribe(first, &[("t", AtLeastOnce)]);
    let (second, replies) = lasting(&mut broker, "c", 60);
    assert_eq!(broker.take(first), disconnected(reason::SESSION_TAKEN_OVER));
    assert_eq!(replies, connack(false));
    let publisher = broker.client("p");
    broker.publish(publisher, 1, message("t", AtLeastOnce, "1"));
    assert_eq!(broker.take(second), []);
}

#[test]
fn mqtt_4_4_0_1_in_flight_comes_again_in_order_with_dup() {
    let mut broker = Broker::new();
    let (client, _) = lasting(&mut broker, "c", 60);
    broker.subscribe(client, &[("t", ExactlyOnce)]);
    let publisher = broker.client("p");
    let qos = [AtLeastOnce, ExactlyOnce, AtLeastOnce, ExactlyOnce];
    for (number, qos) in (1..).zip(qos) {
        broker.publish(publisher, number, message("t", qos, &number.to_string()));
    }
    let first = broker.deliveries(client);
    broker.say(client, puback(first[2].packet_id));
    broker.say(client, pubrec(first[1].packet_id));
    broker.close(client);
    broker.publish(publisher, 5, message("t", AtLeastOnce, "5"));

    let client = broker.connect(resume("c", 60));
    let replies = broker.take(client);
    assert_eq!(replies[0], connack(true)[0]);
    let again = |delivery: &Delivery| {
        Reply::Publish(Delivery {
            dup: true,
            ..delivery.clone()
        })
    };
    assert_eq!(replies[1], again(&first[0]));
    let released = Reply::PubRel {
        packet_id: first[1].packet_id,
        reason: reason::SUCCESS,
    };
    assert_eq!(replies[2], released, "PUBREL stage");
    assert_eq!(replies[3], again(&first[3]));
    let last = delivery(replies[4].clone()).unwrap();
    assert_eq!((payload(&last).as_str(), last.dup), ("5", false));
    assert_eq!(replies.len(), 5);
}

#[test]
fn acknowledged_before_it_came_again_does_not_come_again() {
    let mut broker = Broker::new();
    let (client, _) = lasting(&mut broker, "c", 60);
    broker.subscribe(client, &[("t", AtLeastOnce)]);
    let publisher = broker.client("p");
    for number in 1..=3 {
        broker.publish(publisher, number, message("t", AtLeastOnce, &number.to_string()));
    }
    let first = broker.deliveries(client);
    broker.close(client);
    let client = broker.connect_without_credit(resume("c", 60));
    broker.say(client, puback(first[1].packet_id));
    broker.credit(client, 10);
    assert_eq!(broker.take_and_acknowledge(client), ["1", "3"]);
    assert_eq!(broker.take(client), []);
}

#[test]
fn smaller_receive_maximum_of_a_new_connection_holds_for_what_comes_again() {
    let mut broker = Broker::new();
    let (client, _) = lasting(&mut broker, "c", 60);
    broker.subscribe(client, &[("t", AtLeastOnce)]);
    let publisher = broker.client("p");
    for number in 1..=5 {
        broker.publish(publisher, number, message("t", AtLeastOnce, &number.to_string()));
    }
    broker.close(client);
    let client = broker.connect(Connect {
        receive_maximum: 2,
        ..resume("c", 60)
    });
    let deliveries = broker.deliveries(client);
    assert_eq!(deliveries.iter().map(payload).collect::<Vec<_>>(), ["1", "2"]);
    broker.say(client, puback(deliveries[0].packet_id));
    assert_eq!(broker.payloads(client), ["3"]);
}

#[test]
fn mqtt_3_1_3_6_client_without_an_id_gets_its_own() {
    let mut broker = Broker::new();
    let assigned = |broker: &mut Broker| {
        let client = broker.connect(connect(""));
        match broker.take(client).remove(0) {
            Reply::ConnAck {
                assigned_client_id: Some(id),
                reason: reason::SUCCESS,
                ..
            } => id,
            other => panic!("{other:?}"),
        }
    };
    let first = assigned(&mut broker);
    let second = assigned(&mut broker);
    assert_ne!(first, second);
    let client = broker.connect(connect(&first));
    assert_eq!(broker.take(client), connack(false));
    assert_eq!(broker.router.stats().clients_connected, 2);
}

#[test]
fn sessions_are_limited_and_none_is_given_up_for_another() {
    let mut broker = Broker::with(RouterLimits {
        sessions_max: 2,
        ..LIMITS
    });
    let (kept, _) = lasting(&mut broker, "kept", 60);
    broker.close(kept);
    let other = broker.client("other");
    let third = broker.connect(connect("third"));
    assert_eq!(broker.take(third), refused(reason::QUOTA_EXCEEDED));
    assert_eq!(lasting(&mut broker, "kept", 60).1, connack(true));
    broker.close(other);
    let third = broker.connect(connect("third"));
    assert_eq!(broker.take(third), connack(false));
}

#[test]
fn client_id_of_the_gateway_is_refused() {
    let mut broker = Broker::new();
    let gateway = broker.router.connect_gateway(broker.now, connect("snipe"));
    let client = broker.connect(connect("snipe"));
    assert_eq!(broker.take(client), refused(reason::CLIENT_ID_NOT_VALID));
    assert_eq!(broker.take(gateway), connack(false));
}

#[test]
fn client_id_that_is_no_mqtt_string_is_refused() {
    let mut broker = Broker::new();
    let client = broker.connect(connect("a\0b"));
    assert_eq!(broker.take(client), refused(reason::CLIENT_ID_NOT_VALID));
}

#[test]
fn nothing_is_said_under_a_key_that_has_ended() {
    let mut broker = Broker::new();
    let client = broker.subscriber("c", &[("t", AtLeastOnce)]);
    let publisher = broker.client("p");
    // Both in one batch: the message is said before the connection is known to be gone.
    let publish = Received::Publish {
        packet_id: 1,
        dup: false,
        message: message("t", AtLeastOnce, ""),
    };
    broker.router.received(broker.now, publisher, publish);
    broker.router.closed(broker.now, client);
    broker.drain();
    assert_eq!(broker.take(client), []);

    let next = broker.client("next");
    assert_eq!(next.slot(), client.slot());
    broker.say(client, Received::PubRel { packet_id: 1 });
    broker.credit(client, 5);
    broker.close(client);
    assert_eq!(broker.take(client), []);
    assert_eq!(broker.take(next), []);
    assert_eq!(broker.router.stats().clients_connected, 2);
}

#[test]
fn key_of_a_connection_that_took_over_differs_while_the_last_word_waits() {
    let mut broker = Broker::new();
    let first = broker.client("c");
    let second = broker.router.connect(broker.now, connect("c"));
    assert_ne!(first.slot(), second.slot());
    broker.drain();
    assert_eq!(broker.take(first), disconnected(reason::SESSION_TAKEN_OVER));
}

#[test]
fn shutdown_tells_everybody() {
    let mut broker = Broker::new();
    let watcher = broker.subscriber("w", &[("will", AtMostOnce)]);
    let client = broker.connect(Connect {
        will: will("will", 0),
        ..connect("c")
    });
    broker.take(client);
    broker.router.shutdown();
    broker.drain();
    assert_eq!(broker.take(watcher), disconnected(reason::SERVER_SHUTTING_DOWN));
    assert_eq!(broker.take(client), disconnected(reason::SERVER_SHUTTING_DOWN));
    assert_eq!(broker.router.stats().clients_connected, 0);
}

#[test]
fn packet_ids_begin_anew_and_pass_over_those_in_use() {
    let mut broker = Broker::new();
    let client = broker.subscriber("c", &[("t", AtLeastOnce)]);
    let publisher = broker.client("p");
    let mut next = || {
        broker.publish(publisher, 1, message("t", AtLeastOnce, ""));
        broker.credit(client, 1);
        let packet_id = broker.deliveries(client)[0].packet_id;
        if ![1, 3].contains(&packet_id) {
            broker.say(client, puback(packet_id));
        }
        packet_id
    };
    let first: Vec<u16> = (0..32_767).map(|_| next()).collect();
    assert_eq!(first, (1..=32_767).collect::<Vec<u16>>());
    assert_eq!([next(), next(), next()], [2, 4, 5]);
}
