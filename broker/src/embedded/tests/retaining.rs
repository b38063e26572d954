use super::*;

fn publish_retained(broker: &mut Broker, messages: &[(&str, &str)]) {
    let publisher = broker.client("publisher of retained");
    for (topic, payload) in messages {
        broker.publish(publisher, 0, retained(topic, AtMostOnce, payload));
    }
    broker.disconnect(publisher);
}

#[test]
fn mqtt_3_3_1_5_last_message_of_each_topic_is_kept() {
    let mut broker = Broker::new();
    publish_retained(&mut broker, &[("a", "1"), ("b", "2"), ("a", "3")]);
    let client = broker.client("c");
    let replies = broker.subscribe_with(client, Some(4), vec![subscription("#", AtMostOnce)]);
    assert!(matches!(replies[0], Reply::SubAck { .. }));
    let deliveries: Vec<_> = replies.into_iter().filter_map(delivery).collect();
    let seen: Vec<_> = deliveries.iter().map(payload).collect();
    assert_eq!(seen, ["3", "2"]);
    assert!(
        deliveries
            .iter()
            .all(|delivery| delivery.retain && *delivery.ids == [4])
    );
}

#[test]
fn mqtt_3_3_1_6_empty_payload_removes_the_retained_message() {
    let mut broker = Broker::new();
    let live = broker.subscriber("live", &[("a", AtMostOnce)]);
    publish_retained(&mut broker, &[("a", "1"), ("a", "")]);
    assert_eq!(broker.payloads(live), ["1", ""]);
    let late = broker.subscriber("late", &[("a", AtMostOnce)]);
    assert_eq!(broker.payloads(late), Vec::<String>::new());
    assert_eq!(broker.router.stats().retained, 0);
}

#[test]
fn mqtt_3_3_1_8_message_without_retain_leaves_the_retained_one() {
    let mut broker = Broker::new();
    publish_retained(&mut broker, &[("a", "kept")]);
    let publisher = broker.client("p");
    broker.publish(publisher, 0, message("a", AtMostOnce, "live"));
    let late = broker.subscriber("late", &[("a", AtMostOnce)]);
    assert_eq!(broker.payloads(late), ["kept"]);
}

#[test]
fn mqtt_3_3_1_9_to_11_retain_handling() {
    let handlings = [
        (RetainHandling::Send, 1, 1),
        (RetainHandling::SendIfNew, 1, 0),
        (RetainHandling::DoNotSend, 0, 0),
    ];
    for (retain_handling, first, second) in handlings {
        let mut broker = Broker::new();
        publish_retained(&mut broker, &[("a", "1")]);
        let client = broker.client("c");
        let wanted = Subscription {
            retain_handling,
            ..subscription("a", AtMostOnce)
        };
        let messages = |replies: Vec<Reply>| replies.into_iter().filter_map(delivery).count();
        let replies = broker.subscribe_with(client, None, vec![wanted.clone()]);
        assert_eq!(messages(replies), first, "{retain_handling:?}");
        let replies = broker.subscribe_with(client, None, vec![wanted]);
        assert_eq!(messages(replies), second, "{retain_handling:?}");
    }
}

#[test]
fn mqtt_3_3_1_12_and_13_retain_as_published() {
    for retain_as_published in [false, true] {
        let mut broker = Broker::new();
        let client = broker.client("c");
        let wanted = Subscription {
            retain_as_published,
            ..subscription("a", AtMostOnce)
        };
        broker.subscribe_with(client, None, vec![wanted]);
        publish_retained(&mut broker, &[("a", "1")]);
        assert_eq!(broker.deliveries(client)[0].retain, retain_as_published);
    }
}

#[test]
fn retained_messages_beyond_the_limit_are_delivered_but_not_kept() {
    let mut broker = Broker::with(RouterLimits {
        retained_max: 1,
        ..LIMITS
    });
    let live = broker.subscriber("live", &[("#", AtMostOnce)]);
    publish_retained(&mut broker, &[("a", "1"), ("b", "2"), ("a", "3")]);
    assert_eq!(broker.payloads(live), ["1", "2", "3"]);
    let late = broker.subscriber("late", &[("#", AtMostOnce)]);
    assert_eq!(broker.payloads(late), ["3"]);
    assert_eq!(broker.router.stats().dropped_retained, 1);
}

#[test]
fn expired_retained_messages_are_not_sent_and_make_place() {
    let mut broker = Broker::with(RouterLimits {
        retained_max: 1,
        ..LIMITS
    });
    let publisher = broker.client("p");
    let expiring = Message {
        expiry: Some(5),
        ..retained("a", AtMostOnce, "1")
    };
    broker.publish(publisher, 0, expiring);
    broker.wait_secs(3);
    let client = broker.subscriber("c", &[("#", AtMostOnce)]);
    assert_eq!(broker.deliveries(client)[0].expiry, Some(2));
    broker.wait_secs(2);
    broker.subscribe(client, &[("#", AtMostOnce)]);
    assert_eq!(broker.topics(client), Vec::<String>::new());
    broker.publish(publisher, 0, retained("b", AtMostOnce, "2"));
    broker.take(client);
    broker.subscribe(client, &[("#", AtMostOnce)]);
    assert_eq!(broker.topics(client), ["b"]);
}

#[test]
fn more_retained_messages_than_the_queue_holds_arrive_all() {
    let mut broker = Broker::new();
    let publisher = broker.client("p");
    for number in 0..LIMITS.retained_max {
        let topic = format!("t/{number:03}");
        broker.publish(publisher, 1, retained(&topic, AtLeastOnce, &number.to_string()));
    }
    for qos in [AtMostOnce, AtLeastOnce] {
        let client = broker.connect_without_credit(connect("c"));
        broker.subscribe(client, &[("t/#", qos)]);
        let mut seen = broker.take_and_acknowledge(client);
        for _ in 0..LIMITS.retained_max {
            broker.credit(client, 1);
            seen.extend(broker.take_and_acknowledge(client));
        }
        let wanted: Vec<_> = (0..LIMITS.retained_max)
            .map(|number| number.to_string())
            .collect();
        assert_eq!(seen, wanted);
    }
    assert_eq!(broker.router.stats().dropped(), 0);
}

#[test]
fn unsubscribing_stops_the_retained_messages_to_come() {
    let mut broker = Broker::new();
    let messages: Vec<_> = (0..50).map(|number| format!("t/{number:02}")).collect();
    let messages: Vec<_> = messages.iter().map(|topic| (topic.as_str(), "x")).collect();
    publish_retained(&mut broker, &messages);
    let client = broker.connect_without_credit(connect("c"));
    broker.subscribe(client, &[("t/#", AtMostOnce)]);
    let filters = vec!["t/#".into()];
    broker.say(
        client,
        Received::Unsubscribe {
            packet_id: 1,
            filters,
        },
    );
    broker.credit(client, 1000);
    // Those in the queue already may still come (§3.10.4).
    assert!(broker.deliveries(client).len() <= LIMITS.queue_messages);
}

#[test]
fn shared_subscriptions_get_no_retained_messages() {
    let mut broker = Broker::new();
    publish_retained(&mut broker, &[("a", "1")]);
    let client = broker.subscriber("c", &[("$share/g/a", AtMostOnce)]);
    assert_eq!(broker.take(client), []);
}

#[test]
fn retained_message_of_a_topic_with_no_wildcards_and_of_a_parent() {
    let mut broker = Broker::new();
    publish_retained(&mut broker, &[("a", "1"), ("a/b", "2"), ("ab", "3"), ("$x", "4")]);
    for (filter, wanted) in [
        ("a", &["a"][..]),
        ("a/#", &["a", "a/b"]),
        ("+", &["a", "ab"]),
        ("#", &["a", "a/b", "ab"]),
        ("a/+", &["a/b"]),
        ("$x", &["$x"]),
    ] {
        let client = broker.subscriber("c", &[(filter, AtMostOnce)]);
        assert_eq!(broker.topics(client), wanted, "{filter}");
    }
}
