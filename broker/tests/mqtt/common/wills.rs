//! Wills (the parts without MQTT 5 properties).

use crate::mqtt::{Broker, Client, Connect, Packet, Publish};

fn observer(b: &Broker) -> Client {
    let mut observer = b.client("observer");
    observer.subscribe("will/#", 2);
    observer
}

pub(crate) fn will_is_published_when_the_connection_breaks(b: &Broker) {
    let mut observer = observer(b);
    for qos in 0..=2 {
        b.connect(Connect::new("c").will("will/c", "gone").will_qos(qos))
            .vanish();
        assert_eq!(observer.receive("will/c", "gone").qos, qos);
    }
    // And when the broker ends it.
    let mut client = b.connect(Connect::new("c").will("will/c", "thrown out"));
    client.send_raw([0x00, 0x00]);
    client.expect_closed();
    observer.receive("will/c", "thrown out");
}

pub(crate) fn will_of_a_client_taken_over_is_published(b: &Broker) {
    let mut observer = observer(b);
    let mut first = b.connect(Connect::new("c").will("will/c", "taken over"));
    let _second = b.client("c");
    first.expect_closed();
    observer.receive("will/c", "taken over");
}

pub(crate) fn disconnect_removes_the_will(b: &Broker) {
    let mut observer = observer(b);
    b.connect(Connect::new("c").will("will/c", "gone")).disconnect();
    observer.expect_nothing();
}

pub(crate) fn will_is_published_once(b: &Broker) {
    let mut observer = observer(b);
    b.connect(Connect {
        ..Connect::kept(b.version, "c").will("will/c", "gone")
    })
    .vanish();
    observer.receive("will/c", "gone");
    // The session goes on, without it.
    b.kept("c").vanish();
    b.client("c").vanish();
    observer.expect_nothing();
}

pub(crate) fn no_will_flag_no_will(b: &Broker) {
    let mut observer = b.client("observer");
    observer.subscribe("#", 0);
    b.client("c").vanish();
    observer.expect_nothing();
}

pub(crate) fn will_without_retain_is_not_retained(b: &Broker) {
    let mut observer = observer(b);
    b.connect(Connect::new("c").will("will/c", "gone")).vanish();
    assert!(!observer.receive("will/c", "gone").retain);
    assert!(b.retained("will/#").is_empty());
}

pub(crate) fn will_with_retain_is_retained(b: &Broker) {
    let mut observer = observer(b);
    b.connect(Connect::new("c").will("will/c", "gone").will_qos(1).will_retain())
        .vanish();
    // To those already subscribed it is a message like any other.
    assert!(!observer.receive("will/c", "gone").retain);
    assert_eq!(b.retained("will/#"), [("will/c".into(), "gone".into())]);
}

/// Not before the connection ends.
pub(crate) fn will_waits_for_the_end_of_the_connection(b: &Broker) {
    let mut observer = observer(b);
    let mut client = b.connect(Connect::new("c").will("will/c", "gone"));
    client.send(&Packet::PingReq);
    client.expect(Packet::PingResp);
    client.publish(Publish::new("other", "x").qos(1, 0));
    observer.expect_nothing();
    client.vanish();
    observer.receive("will/c", "gone");
}
