//! The rules of flow in the module's documentation.

use super::*;

const BOUND: usize = LIMITS.queue_messages;

/// A subscriber to `t` that takes nothing yet, and a publisher.
fn slow_subscriber(connect: Connect) -> (Broker, ClientKey, ClientKey) {
    let mut broker = Broker::new();
    let subscriber = broker.connect_without_credit(connect);
    broker.subscribe(subscriber, &[("t", ExactlyOnce)]);
    broker.take(subscriber);
    let publisher = broker.client("p");
    (broker, subscriber, publisher)
}

/// Publishes QoS 1 messages with these numbers as packet ids and payloads; returns packet ids of those acknowledged,
/// with the reason.
fn publish(broker: &mut Broker, publisher: ClientKey, numbers: core::ops::Range<usize>) -> Vec<(u16, u8)> {
    for number in numbers {
        broker.publish(
            publisher,
            number as u16,
            message("t", AtLeastOnce, &number.to_string()),
        );
    }
    acknowledgements(broker, publisher)
}

fn acknowledgements(broker: &mut Broker, publisher: ClientKey) -> Vec<(u16, u8)> {
    broker
        .take(publisher)
        .into_iter()
        .map(|reply| match reply {
            Reply::PubAck { packet_id, reason } | Reply::PubRec { packet_id, reason } => (packet_id, reason),
            other => panic!("{other:?}"),
        })
        .collect()
}

fn all_acknowledged(numbers: core::ops::Range<usize>) -> Vec<(u16, u8)> {
    numbers.map(|number| (number as u16, reason::SUCCESS)).collect()
}

#[test]
fn connection_is_sent_as_many_messages_as_it_has_credit_for() {
    let (mut broker, subscriber, publisher) = slow_subscriber(connect("s"));
    for number in 0..4 {
        broker.publish(publisher, 0, message("t", AtMostOnce, &number.to_string()));
    }
    assert_eq!(broker.take(subscriber), []);
    broker.credit(subscriber, 3);
    assert_eq!(broker.payloads(subscriber), ["0", "1", "2"]);
    broker.credit(subscriber, 3);
    assert_eq!(broker.payloads(subscriber), ["3"]);
}

#[test]
fn mqtt_3_3_4_9_no_more_unacknowledged_messages_than_the_receive_maximum() {
    let mut broker = Broker::new();
    let subscriber = broker.connect(Connect {
        receive_maximum: 2,
        ..connect("s")
    });
    broker.subscribe(subscriber, &[("t", ExactlyOnce)]);
    let publisher = broker.client("p");
    for number in 1..=4 {
        broker.publish(publisher, number, message("t", ExactlyOnce, &number.to_string()));
    }
    let deliveries = broker.deliveries(subscriber);
    assert_eq!(deliveries.len(), 2);
    let packet_id = deliveries[0].packet_id;
    broker.say(subscriber, pubrec(packet_id));
    assert_eq!(broker.deliveries(subscriber).len(), 0, "PUBREC makes no place");
    broker.say(subscriber, Received::PubComp { packet_id });
    assert_eq!(broker.payloads(subscriber), ["3"]);
}

#[test]
fn qos_0_beyond_the_bound_is_dropped_and_counted() {
    let (mut broker, subscriber, publisher) = slow_subscriber(connect("s"));
    for number in 0..BOUND + 3 {
        broker.publish(publisher, 0, message("t", AtMostOnce, &number.to_string()));
    }
    assert_eq!(broker.router.stats().dropped_qos0, 3);
    broker.credit(subscriber, 100);
    assert_eq!(broker.deliveries(subscriber).len(), BOUND);
}

#[test]
fn octets_are_bounded_too() {
    let (mut broker, subscriber, publisher) = slow_subscriber(connect("s"));
    let large = "x".repeat(LIMITS.queue_bytes * 2 / 5);
    for _ in 0..4 {
        broker.publish(publisher, 0, message("t", AtMostOnce, &large));
    }
    assert_eq!(broker.router.stats().dropped_qos0, 2);
    for packet_id in 1..=3 {
        broker.publish(publisher, packet_id, message("t", AtLeastOnce, &large));
    }
    let quota = (3, reason::QUOTA_EXCEEDED);
    assert_eq!(acknowledgements(&mut broker, publisher), [quota]);
    broker.credit(subscriber, 100);
    assert_eq!(broker.deliveries(subscriber).len(), 4);
}

#[test]
fn message_larger_than_the_bound_passes_when_nothing_else_waits() {
    let (mut broker, subscriber, publisher) = slow_subscriber(connect("s"));
    let large = "x".repeat(LIMITS.queue_bytes * 5);
    broker.publish(publisher, 1, message("t", AtLeastOnce, &large));
    assert_eq!(acknowledgements(&mut broker, publisher), all_acknowledged(1..2));
    broker.credit(subscriber, 1);
    assert_eq!(broker.payloads(subscriber), [large]);
}

#[test]
fn publisher_beyond_the_bound_waits_and_loses_nothing() {
    let (mut broker, subscriber, publisher) = slow_subscriber(connect("s"));
    let settled = publish(&mut broker, publisher, 1..BOUND + 6);
    assert_eq!(settled, all_acknowledged(1..BOUND + 1));

    broker.credit(subscriber, 4);
    let first = broker.take_and_acknowledge(subscriber);
    assert_eq!(first.len(), 4);
    assert_eq!(acknowledgements(&mut broker, publisher), [], "still beyond");
    broker.credit(subscriber, 1);
    broker.take_and_acknowledge(subscriber);
    let rest = all_acknowledged(BOUND + 1..BOUND + 6);
    assert_eq!(acknowledgements(&mut broker, publisher), rest);

    broker.credit(subscriber, 100);
    assert_eq!(broker.take_and_acknowledge(subscriber).len(), BOUND);
    assert_eq!(broker.router.stats().dropped(), 0);
}

#[test]
fn message_is_acknowledged_when_the_last_of_several_sessions_took_it() {
    let (mut broker, one, publisher) = slow_subscriber(connect("1"));
    let two = broker.connect_without_credit(connect("2"));
    broker.subscribe(two, &[("t", AtLeastOnce)]);
    publish(&mut broker, publisher, 1..BOUND + 2);
    broker.credit(one, 100);
    broker.take_and_acknowledge(one);
    assert_eq!(acknowledgements(&mut broker, publisher), []);
    broker.credit(two, 100);
    broker.take_and_acknowledge(two);
    assert_eq!(
        acknowledgements(&mut broker, publisher),
        all_acknowledged(BOUND + 1..BOUND + 2)
    );
}

#[test]
fn nobody_else_waits_for_a_slow_subscriber() {
    let (mut broker, _slow, publisher) = slow_subscriber(connect("slow"));
    let quick = broker.subscriber("quick", &[("t", AtLeastOnce)]);
    publish(&mut broker, publisher, 1..BOUND + 3);
    assert_eq!(broker.take_and_acknowledge(quick).len(), BOUND + 2);
}

#[test]
fn subscriber_at_qos_0_makes_nobody_wait() {
    let mut broker = Broker::new();
    let subscriber = broker.connect_without_credit(connect("s"));
    broker.subscribe(subscriber, &[("t", AtMostOnce)]);
    let publisher = broker.client("p");
    let settled = publish(&mut broker, publisher, 1..3 * BOUND);
    assert_eq!(settled, all_acknowledged(1..3 * BOUND));
}

#[test]
fn publisher_beyond_twice_the_bound_is_refused_and_nobody_gets_the_message() {
    let (mut broker, _slow, publisher) = slow_subscriber(connect("slow"));
    let quick = broker.subscriber("quick", &[("t", AtLeastOnce)]);
    publish(&mut broker, publisher, 1..2 * BOUND + 1);
    broker.take_and_acknowledge(quick);
    let last = 2 * BOUND + 1;
    assert_eq!(
        publish(&mut broker, publisher, last..last + 1),
        [(last as u16, reason::QUOTA_EXCEEDED)]
    );
    let retained = retained("t", ExactlyOnce, "kept?");
    broker.publish(publisher, 99, retained);
    assert_eq!(
        acknowledgements(&mut broker, publisher),
        [(99, reason::QUOTA_EXCEEDED)]
    );
    assert_eq!(broker.take(quick), []);
    assert_eq!(broker.router.stats().retained, 0);
    assert_eq!(broker.router.stats().refused_full, 2);
}

#[test]
fn several_copies_for_one_session_are_taken_or_refused_together() {
    let mut broker = Broker::new();
    let slow = broker.connect_without_credit(connect("slow"));
    broker.subscribe(slow, &[("t", AtLeastOnce), ("$share/g/t", AtLeastOnce)]);
    let publisher = broker.client("p");
    let filler = broker.client("filler");
    broker.subscribe(slow, &[("u", AtLeastOnce)]);
    broker.publish(filler, 1, message("u", AtLeastOnce, ""));
    publish(&mut broker, publisher, 1..BOUND);
    assert_eq!(
        publish(&mut broker, publisher, 50..51),
        [(50, reason::QUOTA_EXCEEDED)],
        "there is place for one of two"
    );
    assert_eq!(broker.router.stats().dropped(), 0);
}

#[test]
fn subscriber_too_slow_for_too_long_is_disconnected_and_publishers_are_answered() {
    let (mut broker, subscriber, publisher) = slow_subscriber(resume("s", 60));
    publish(&mut broker, publisher, 1..BOUND + 3);
    broker.wait(Duration::from_millis(9_999));
    assert_eq!(broker.take(subscriber), []);
    broker.wait(Duration::from_millis(1));
    assert_eq!(broker.take(subscriber), disconnected(reason::QUOTA_EXCEEDED));
    assert_eq!(
        acknowledgements(&mut broker, publisher),
        all_acknowledged(BOUND + 1..BOUND + 3)
    );
    assert_eq!(broker.router.stats().clients_too_slow, 1);
    let subscriber = broker.connect(resume("s", 60));
    assert_eq!(broker.take_and_acknowledge(subscriber).len(), BOUND + 2);
}

#[test]
fn subscriber_that_catches_up_now_and_then_is_not_too_slow() {
    let (mut broker, subscriber, publisher) = slow_subscriber(connect("s"));
    publish(&mut broker, publisher, 1..BOUND + 3);
    for round in 0..10 {
        broker.wait_secs(9);
        broker.credit(subscriber, 2);
        broker.take_and_acknowledge(subscriber);
        let next = 100 + 2 * round;
        publish(&mut broker, publisher, next..next + 2);
    }
    assert_eq!(broker.router.stats().clients_too_slow, 0);
}

#[test]
fn expired_messages_relieve_their_publishers() {
    let (mut broker, subscriber, publisher) = slow_subscriber(connect("s"));
    for packet_id in 1..=BOUND as u16 + 1 {
        let message = Message {
            expiry: Some(5),
            ..message("t", AtLeastOnce, "")
        };
        broker.publish(publisher, packet_id, message);
    }
    acknowledgements(&mut broker, publisher);
    broker.wait_secs(6);
    broker.credit(subscriber, 1);
    assert_eq!(broker.take(subscriber), []);
    assert_eq!(
        acknowledgements(&mut broker, publisher),
        all_acknowledged(BOUND + 1..BOUND + 2)
    );
}

#[test]
fn expired_messages_relieve_their_publishers_when_the_next_message_comes() {
    let (mut broker, _subscriber, publisher) = slow_subscriber(connect("s"));
    for packet_id in 1..=BOUND as u16 + 1 {
        let message = Message {
            expiry: Some(5),
            ..message("t", AtLeastOnce, "")
        };
        broker.publish(publisher, packet_id, message);
    }
    acknowledgements(&mut broker, publisher);
    broker.wait_secs(6);
    let withheld = (BOUND as u16 + 1, reason::SUCCESS);
    let next = (99, reason::SUCCESS);
    assert_eq!(publish(&mut broker, publisher, 99..100), [withheld, next]);
}

#[test]
fn slow_subscriber_that_goes_for_good_answers_its_publishers() {
    let disconnect: fn(&mut Broker, ClientKey) = Broker::disconnect;
    for (expiry, go) in [(60, disconnect), (0, disconnect), (0, Broker::close)] {
        let (mut broker, subscriber, publisher) = slow_subscriber(resume("s", expiry));
        publish(&mut broker, publisher, 1..BOUND + 2);
        go(&mut broker, subscriber);
        assert_eq!(
            acknowledgements(&mut broker, publisher),
            all_acknowledged(BOUND + 1..BOUND + 2)
        );
    }
}

#[test]
fn subscriber_that_lost_its_connection_and_comes_back_in_time_misses_nothing() {
    let (mut broker, subscriber, publisher) = slow_subscriber(resume("s", 60));
    let settled = publish(&mut broker, publisher, 1..BOUND + 2);
    assert_eq!(settled, all_acknowledged(1..BOUND + 1));
    broker.close(subscriber);
    assert_eq!(publish(&mut broker, publisher, BOUND + 2..2 * BOUND + 1), []);
    let last = 2 * BOUND + 1;
    assert_eq!(
        publish(&mut broker, publisher, last..last + 1),
        [(last as u16, reason::QUOTA_EXCEEDED)]
    );
    broker.wait(Duration::from_millis(9_999));
    assert_eq!(acknowledgements(&mut broker, publisher), [], "still awaited");

    let subscriber = broker.connect(resume("s", 60));
    let all: Vec<_> = (1..=2 * BOUND).map(|number| number.to_string()).collect();
    assert_eq!(broker.take_and_acknowledge(subscriber), all);
    let rest = all_acknowledged(BOUND + 1..2 * BOUND + 1);
    assert_eq!(acknowledgements(&mut broker, publisher), rest);
    assert_eq!(broker.router.stats().dropped(), 0);
}

#[test]
fn subscriber_that_lost_its_connection_is_awaited_for_ten_seconds() {
    let (mut broker, subscriber, publisher) = slow_subscriber(resume("s", 60));
    broker.close(subscriber);
    broker.wait_secs(3);
    publish(&mut broker, publisher, 1..BOUND + 3);
    broker.wait(Duration::from_millis(6_999));
    assert_eq!(acknowledgements(&mut broker, publisher), []);
    broker.wait(Duration::from_millis(1));
    let rest = all_acknowledged(BOUND + 1..BOUND + 3);
    assert_eq!(acknowledgements(&mut broker, publisher), rest);
    assert_eq!(broker.router.stats().dropped(), 0);

    let settled = publish(&mut broker, publisher, 50..51);
    assert_eq!(settled, all_acknowledged(50..51));
    assert_eq!(broker.router.stats().dropped_offline, 1);
    let subscriber = broker.connect(resume("s", 60));
    assert_eq!(broker.take_and_acknowledge(subscriber).len(), BOUND + 2);
}

#[test]
fn subscriber_that_comes_and_goes_and_takes_nothing_is_too_slow() {
    let (mut broker, mut subscriber, publisher) = slow_subscriber(resume("s", 60));
    publish(&mut broker, publisher, 1..BOUND + 3);
    for _ in 0..3 {
        broker.wait_secs(2);
        broker.close(subscriber);
        broker.wait_secs(1);
        subscriber = broker.connect_without_credit(resume("s", 60));
    }
    assert_eq!(acknowledgements(&mut broker, publisher), []);
    broker.take(subscriber);
    broker.wait_secs(1);
    assert_eq!(broker.take(subscriber), disconnected(reason::QUOTA_EXCEEDED));
    let rest = all_acknowledged(BOUND + 1..BOUND + 3);
    assert_eq!(acknowledgements(&mut broker, publisher), rest);
}

#[test]
fn publishers_wait_for_a_session_that_is_taken_over() {
    let (mut broker, _earlier, publisher) = slow_subscriber(resume("s", 60));
    publish(&mut broker, publisher, 1..BOUND + 3);
    let subscriber = broker.connect_without_credit(resume("s", 60));
    assert_eq!(acknowledgements(&mut broker, publisher), []);
    broker.take(subscriber);
    broker.credit(subscriber, 100);
    assert_eq!(broker.take_and_acknowledge(subscriber).len(), BOUND + 2);
    let rest = all_acknowledged(BOUND + 1..BOUND + 3);
    assert_eq!(acknowledgements(&mut broker, publisher), rest);
}

#[test]
fn awaited_session_that_ends_answers_its_publishers() {
    let expires: fn(&mut Broker) = |broker| broker.wait_secs(5);
    let begins_anew: fn(&mut Broker) = |broker| {
        broker.connect(connect("s"));
    };
    for end in [expires, begins_anew] {
        let (mut broker, subscriber, publisher) = slow_subscriber(resume("s", 5));
        publish(&mut broker, publisher, 1..BOUND + 3);
        broker.close(subscriber);
        assert_eq!(acknowledgements(&mut broker, publisher), []);
        end(&mut broker);
        let rest = all_acknowledged(BOUND + 1..BOUND + 3);
        assert_eq!(acknowledgements(&mut broker, publisher), rest);
    }
}

#[test]
fn publisher_does_not_wait_for_its_own_session() {
    let mut broker = Broker::new();
    let client = broker.connect_without_credit(connect("c"));
    broker.subscribe(client, &[("t", AtLeastOnce)]);
    broker.take(client);
    let settled = publish(&mut broker, client, 1..2 * BOUND + 1);
    assert_eq!(settled, all_acknowledged(1..2 * BOUND + 1));
    let last = 2 * BOUND + 1;
    assert_eq!(
        publish(&mut broker, client, last..last + 1),
        [(last as u16, reason::QUOTA_EXCEEDED)]
    );
    broker.wait_secs(10);
    assert_eq!(broker.take(client), disconnected(reason::QUOTA_EXCEEDED));
}

#[test]
fn publisher_waits_for_others_as_well_as_itself() {
    let (mut broker, other, publisher) = slow_subscriber(connect("s"));
    broker.subscribe(publisher, &[("t", AtMostOnce)]);
    let settled: Vec<Reply> = (1..=BOUND as u16 + 1)
        .flat_map(|packet_id| broker.publish_answered(publisher, packet_id, message("t", AtLeastOnce, "")))
        .filter(|reply| matches!(reply, Reply::PubAck { .. }))
        .collect();
    assert_eq!(settled.len(), BOUND);
    broker.credit(other, 100);
    broker.take_and_acknowledge(other);
    assert_eq!(broker.take(publisher), acknowledged(BOUND as u16 + 1));
}

#[test]
fn beyond_the_bound_of_a_client_that_disconnected_the_newest_is_dropped() {
    let (mut broker, subscriber, publisher) = slow_subscriber(resume("s", 60));
    broker.disconnect(subscriber);
    let settled = publish(&mut broker, publisher, 1..BOUND + 4);
    assert_eq!(settled, all_acknowledged(1..BOUND + 4));
    assert_eq!(broker.router.stats().dropped_offline, 3);
    let subscriber = broker.connect(resume("s", 60));
    let first: Vec<_> = (1..=BOUND).map(|number| number.to_string()).collect();
    assert_eq!(broker.take_and_acknowledge(subscriber), first);
}

#[test]
fn expired_messages_make_place_in_a_session_without_connection() {
    let (mut broker, subscriber, publisher) = slow_subscriber(resume("s", 60));
    broker.disconnect(subscriber);
    for packet_id in 1..=BOUND as u16 {
        let message = Message {
            expiry: (packet_id % 2 == 0).then_some(5),
            ..message("t", AtLeastOnce, &packet_id.to_string())
        };
        broker.publish(publisher, packet_id, message);
    }
    broker.wait_secs(5);
    publish(&mut broker, publisher, 100..103);
    assert_eq!(broker.router.stats().dropped_offline, 0);
    let subscriber = broker.connect(resume("s", 60));
    assert_eq!(
        broker.take_and_acknowledge(subscriber),
        ["1", "3", "5", "7", "9", "100", "101", "102"]
    );
}

#[test]
fn withheld_qos_2_is_taken_once_although_its_publisher_came_back() {
    let (mut broker, subscriber, publisher) = slow_subscriber(connect("s"));
    broker.disconnect(publisher);
    let publisher = broker.connect(resume("p", 60));
    broker.take(publisher);
    publish(&mut broker, publisher, 1..BOUND + 1);
    let last = message("t", ExactlyOnce, "last");
    broker.publish(publisher, 99, last.clone());
    broker.close(publisher);

    let publisher = broker.connect(resume("p", 60));
    broker.take(publisher);
    let again = Received::Publish {
        packet_id: 99,
        dup: true,
        message: last,
    };
    broker.say(publisher, again.clone());
    assert_eq!(broker.take(publisher), [], "still withheld");
    broker.credit(subscriber, 100);
    let seen = broker.take_and_acknowledge(subscriber);
    assert_eq!(seen.iter().filter(|payload| *payload == "last").count(), 1);
    assert_eq!(acknowledgements(&mut broker, publisher), [(99, reason::SUCCESS)]);
    broker.say(publisher, again);
    assert_eq!(acknowledgements(&mut broker, publisher), [(99, reason::SUCCESS)]);
    assert_eq!(broker.take(subscriber), []);
}

#[test]
fn unfinished_qos_2_exchanges_of_a_publisher_are_bounded() {
    let mut broker = Broker::new();
    let publisher = broker.client("p");
    for packet_id in 1..=1024 {
        broker.publish(publisher, packet_id, message("t", ExactlyOnce, ""));
    }
    broker.take(publisher);
    assert_eq!(
        broker.publish_answered(publisher, 2000, message("t", ExactlyOnce, "")),
        disconnected(reason::RECEIVE_MAXIMUM_EXCEEDED)
    );
}

#[test]
fn qos_0_does_not_outlive_the_connection() {
    let (mut broker, subscriber, publisher) = slow_subscriber(resume("s", 60));
    broker.publish(publisher, 0, message("t", AtMostOnce, "0"));
    broker.publish(publisher, 1, message("t", AtLeastOnce, "1"));
    broker.close(subscriber);
    assert_eq!(broker.router.stats().dropped_disconnected, 1);
    let subscriber = broker.connect(resume("s", 60));
    assert_eq!(broker.payloads(subscriber), ["1"]);
}
