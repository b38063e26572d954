//! Sessions that outlive their connections.

use crate::mqtt::{Broker, Publish};

pub(crate) fn kept_session_goes_on(b: &Broker) {
    let mut client = b.kept("c");
    assert!(!client.session_present);
    client.subscribe("a", 1);
    client.disconnect();
    let mut client = b.kept("c");
    assert!(client.session_present);
    b.publish(Publish::new("a", "x").qos(1, 1));
    client.receive("a", "x");
}

pub(crate) fn messages_for_an_absent_client_are_kept(b: &Broker) {
    let mut client = b.kept("c");
    client.subscribe("a", 2);
    client.disconnect();
    for n in 0..30_u16 {
        b.publish(Publish::new("a", n.to_string()).qos(1 + (n % 2) as u8, 1));
    }
    let mut client = b.kept("c");
    for n in 0..30_u16 {
        let publish = client.receive("a", &n.to_string());
        assert_eq!((publish.qos, publish.dup), (1 + (n % 2) as u8, false));
    }
    client.expect_nothing();
}

pub(crate) fn clean_start_discards_the_session(b: &Broker) {
    let mut client = b.kept("c");
    client.subscribe("a", 1);
    client.disconnect();
    b.publish(Publish::new("a", "lost").qos(1, 1));

    let mut client = b.client("c");
    assert!(!client.session_present);
    b.publish(Publish::new("a", "not subscribed").qos(1, 1));
    client.expect_nothing();
    client.subscribe("b", 1);
    client.disconnect();

    // Nor does the clean session leave anything.
    let mut client = b.kept("c");
    assert!(!client.session_present);
    for topic in ["a", "b"] {
        b.publish(Publish::new(topic, "not subscribed").qos(1, 1));
    }
    client.expect_nothing();
}

pub(crate) fn clean_start_takes_over_and_discards(b: &Broker) {
    let mut first = b.kept("c");
    first.subscribe("a", 1);
    let mut second = b.client("c");
    first.expect_closed();
    assert!(!second.session_present);
    b.publish(Publish::new("a", "x").qos(1, 1));
    second.expect_nothing();
}

pub(crate) fn session_belongs_to_its_client_id(b: &Broker) {
    let mut first = b.kept("first");
    first.subscribe("a", 1);
    first.disconnect();
    let mut second = b.kept("second");
    assert!(!second.session_present);
    b.publish(Publish::new("a", "x").qos(1, 1));
    second.expect_nothing();
    let mut first = b.kept("first");
    assert!(first.session_present);
    first.receive("a", "x");
}

/// Subscriptions, and what is under way in both directions, as long as the connection lasts.
pub(crate) fn session_lasts_as_long_as_the_connection(b: &Broker) {
    let mut client = b.client("c");
    client.subscribe("a", 1);
    client.send(&crate::mqtt::Packet::Publish(Publish::new("b", "x").qos(2, 1)));
    client.pub_rec(1);
    b.publish(Publish::new("a", "1").qos(1, 1));
    let first = client.next_publish();
    assert!(matches!(
        client.event(std::time::Duration::from_millis(1200)),
        crate::mqtt::Event::Silence
    ));
    client.acknowledge(&first);
    assert_eq!(client.release(1), 0);
    b.publish(Publish::new("a", "2").qos(1, 1));
    client.receive("a", "2");
}

/// The message under way comes again.
pub(crate) fn taking_over_resumes_the_session(b: &Broker) {
    let mut first = b.kept("c");
    first.subscribe("a", 1);
    b.publish(Publish::new("a", "x").qos(1, 1));
    first.next_publish();
    let mut second = b.kept("c");
    first.expect_closed();
    assert!(second.session_present);
    assert!(second.receive("a", "x").dup);
    b.publish(Publish::new("a", "y").qos(1, 1));
    second.receive("a", "y");
}
