use super::*;

fn granted(broker: &mut Broker, client: ClientKey, filters: &[&str]) -> Vec<u8> {
    let filters = filters
        .iter()
        .map(|filter| subscription(filter, AtLeastOnce))
        .collect();
    match broker.subscribe_with(client, None, filters).remove(0) {
        Reply::SubAck { reasons, .. } => reasons,
        other => panic!("{other:?}"),
    }
}

fn unsubscribe(broker: &mut Broker, client: ClientKey, filters: &[&str]) -> Vec<Reply> {
    let filters = filters.iter().map(|filter| String::from(*filter)).collect();
    broker.say(
        client,
        Received::Unsubscribe {
            packet_id: 5,
            filters,
        },
    );
    broker.take(client)
}

#[test]
fn mqtt_3_9_3_1_each_filter_has_its_reason_code_in_order() {
    let mut broker = Broker::new();
    let client = broker.client("c");
    assert_eq!(
        granted(
            &mut broker,
            client,
            &["a", "a/#/b", "+", "$share/g/a", "$share/g", "a+"]
        ),
        [1, 0x8F, 1, 1, 0x8F, 0x8F]
    );
    let replies = broker.subscribe_with(
        client,
        None,
        vec![subscription("a", AtMostOnce), subscription("b", ExactlyOnce)],
    );
    assert_eq!(
        replies,
        [Reply::SubAck {
            packet_id: 999,
            reasons: vec![0, 2]
        }]
    );
}

#[test]
fn subscriptions_of_a_session_are_limited_but_may_be_replaced() {
    let mut broker = Broker::new();
    let client = broker.client("c");
    assert_eq!(
        granted(&mut broker, client, &["1", "2", "3", "4", "5", "6", "1"]),
        [1, 1, 1, 1, 1, reason::QUOTA_EXCEEDED, 1]
    );
    unsubscribe(&mut broker, client, &["2"]);
    assert_eq!(granted(&mut broker, client, &["6"]), [1]);
}

#[test]
fn mqtt_3_8_4_3_same_filter_replaces_the_subscription() {
    let mut broker = Broker::new();
    let client = broker.subscriber("c", &[("t", AtMostOnce)]);
    broker.subscribe_with(client, Some(3), vec![subscription("t", AtLeastOnce)]);
    let publisher = broker.client("p");
    broker.publish(publisher, 1, message("t", AtLeastOnce, ""));
    let deliveries = broker.deliveries(client);
    assert_eq!(deliveries.len(), 1);
    assert_eq!((deliveries[0].qos, &*deliveries[0].ids), (AtLeastOnce, &[3][..]));
}

#[test]
fn mqtt_3_8_3_2_subscribe_without_filters_is_a_protocol_error() {
    let mut broker = Broker::new();
    let client = broker.client("c");
    assert_eq!(
        broker.subscribe_with(client, None, vec![]),
        disconnected(reason::PROTOCOL_ERROR)
    );
}

#[test]
fn mqtt_3_10_3_2_unsubscribe_without_filters_is_a_protocol_error() {
    let mut broker = Broker::new();
    let client = broker.client("c");
    assert_eq!(
        unsubscribe(&mut broker, client, &[]),
        disconnected(reason::PROTOCOL_ERROR)
    );
}

#[test]
fn mqtt_3_11_3_1_unsubscribe_says_what_became_of_each_filter() {
    let mut broker = Broker::new();
    let client = broker.subscriber("c", &[("a/#", AtMostOnce)]);
    assert_eq!(
        unsubscribe(&mut broker, client, &["a/#", "a/#", "a/b", "#a"]),
        [Reply::UnsubAck {
            packet_id: 5,
            reasons: vec![0, 0x11, 0x11, 0x8F]
        }]
    );
    let publisher = broker.client("p");
    broker.publish(publisher, 0, message("a/b", AtMostOnce, ""));
    assert_eq!(broker.take(client), []);
}

#[test]
fn mqtt_4_7_2_1_wildcards_do_not_match_topics_beginning_with_a_dollar_sign() {
    let mut broker = Broker::new();
    let wild = broker.subscriber("w", &[("#", AtMostOnce), ("+/x", AtMostOnce)]);
    let named = broker.subscriber("n", &[("$own/#", AtMostOnce)]);
    let publisher = broker.client("p");
    broker.publish(publisher, 0, message("$own/x", AtMostOnce, ""));
    assert_eq!(broker.topics(wild), Vec::<String>::new());
    assert_eq!(broker.topics(named), ["$own/x"]);
}

#[test]
fn subscriptions_are_counted() {
    let mut broker = Broker::new();
    let client = broker.subscriber("c", &[("a", AtMostOnce), ("$share/g/a", AtMostOnce)]);
    let stats = broker.router.stats();
    assert_eq!((stats.subscriptions, stats.shared_subscriptions), (2, 1));
    broker.close(client);
    let stats = broker.router.stats();
    assert_eq!((stats.subscriptions, stats.shared_subscriptions), (0, 0));
}
