use super::*;

#[test]
fn subscription_gets_the_values_of_the_moment_as_retained() {
    let mut broker = Broker::new();
    broker.wait_secs(41);
    let client = broker.subscriber("c", &[("$SYS/#", AtLeastOnce)]);
    let deliveries = broker.deliveries(client);
    let value = |topic: &str| {
        let found = deliveries
            .iter()
            .find(|delivery| *delivery.message.topic == *topic);
        payload(found.unwrap_or_else(|| panic!("{topic}")))
    };
    assert!(value("$SYS/broker/version").starts_with("snipe version "));
    assert_eq!(value("$SYS/broker/uptime"), "42 seconds");
    assert_eq!(value("$SYS/broker/clients/connected"), "1");
    assert_eq!(value("$SYS/broker/subscriptions/count"), "1");
    assert_eq!(value("$SYS/broker/retained messages/count"), "0");
    assert!(deliveries.iter().all(|delivery| delivery.retain));
}

#[test]
fn changed_values_come_while_someone_subscribes_and_the_broker_sleeps_otherwise() {
    let mut broker = Broker::new();
    assert_eq!(broker.router.poll_timeout(), None);
    let client = broker.subscriber("c", &[("$SYS/broker/clients/connected", AtLeastOnce)]);
    assert_eq!(broker.payloads(client), ["1"]);
    broker.client("other");
    broker.wait_secs(10);
    assert_eq!(broker.payloads(client), ["2"]);
    broker.wait_secs(100);
    assert_eq!(broker.payloads(client), Vec::<String>::new());
    let filters = vec!["$SYS/broker/clients/connected".into()];
    broker.say(
        client,
        Received::Unsubscribe {
            packet_id: 1,
            filters,
        },
    );
    assert_eq!(broker.router.poll_timeout(), None);
}

#[test]
fn end_of_the_last_subscriber_stops_the_timer() {
    let mut broker = Broker::new();
    let client = broker.subscriber("c", &[("$SYS/#", AtMostOnce)]);
    assert!(broker.router.poll_timeout().is_some());
    broker.close(client);
    assert_eq!(broker.router.poll_timeout(), None);
}

#[test]
fn clients_cannot_publish_there() {
    let mut broker = Broker::new();
    let client = broker.client("c");
    broker.subscribe_with(client, None, vec![subscription("$SYS/x", AtLeastOnce)]);
    assert_eq!(
        broker.publish_answered(client, 1, retained("$SYS/x", AtLeastOnce, "1")),
        [Reply::PubAck {
            packet_id: 1,
            reason: reason::NOT_AUTHORIZED
        }]
    );
    assert_eq!(
        broker.publish_answered(client, 0, message("$SYS/x", AtMostOnce, "1")),
        []
    );
    assert_eq!(
        broker.publish_answered(client, 2, message("$SYSTEM", AtLeastOnce, "1")),
        [Reply::PubAck {
            packet_id: 2,
            reason: reason::NO_MATCHING_SUBSCRIBERS
        }]
    );
    assert_eq!(broker.router.stats().retained, 0);
}
