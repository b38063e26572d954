//! What depends on time: session expiry, message expiry, will delay.

use std::time::{Duration, Instant};

use crate::mqtt::{Broker, Client, Connect, Event, Packet, Prop, Publish, Version};

/// A little more than the second that most of these take.
const A_SECOND: Duration = Duration::from_millis(1600);

fn expiring(b: &Broker, seconds: u32) -> Client {
    b.connect(Connect {
        clean: false,
        ..Connect::new("c").prop(Prop::SessionExpiry(seconds))
    })
}

/// Lets time pass that nothing may happen in.
#[track_caller]
fn pass(client: &mut Client, time: Duration) {
    match client.event(time) {
        Event::Silence => {}
        other => panic!("nothing was due: {other:?}"),
    }
}

fn observer(b: &Broker) -> Client {
    let mut observer = b.client("observer");
    observer.subscribe("will/#", 2);
    observer
}

pub(crate) fn without_clean_start_a_session_is_made(b: &Broker) {
    let mut client = expiring(b, 60);
    assert!(!client.session_present);
    client.subscribe("a", 1);
    client.publish(Publish::new("a", "x").qos(1, 1));
    client.receive("a", "x");
}

pub(crate) fn session_is_kept_if_its_expiry_is_above_0(b: &Broker) {
    // Absent is 0: the session ends with the connection.
    b.connect(Connect {
        clean: false,
        ..Connect::new("c")
    })
    .disconnect();
    assert!(
        !b.connect(Connect {
            clean: false,
            ..Connect::new("c")
        })
        .session_present
    );
    expiring(b, 0).vanish();
    assert!(!expiring(b, 60).session_present);
    assert!(expiring(b, u32::MAX).session_present);
    assert!(expiring(b, 0).session_present);
}

pub(crate) fn session_ends_when_its_expiry_has_passed(b: &Broker) {
    let mut other = b.client("other");
    let mut client = expiring(b, 1);
    client.subscribe("a", 1);
    // While it is connected, time does not count.
    pass(&mut client, A_SECOND);
    client.vanish();
    let mut client = expiring(b, 1);
    assert!(client.session_present);
    client.publish(Publish::new("a", "x").qos(1, 1));
    client.receive("a", "x");
    client.disconnect();
    pass(&mut other, A_SECOND);
    let mut client = expiring(b, 1);
    assert!(!client.session_present);
    client.publish(Publish::new("a", "x").qos(1, 1));
    client.expect_nothing();
}

pub(crate) fn disconnect_may_change_the_expiry(b: &Broker) {
    let disconnect = |seconds| Packet::Disconnect {
        code: 0,
        props: vec![Prop::SessionExpiry(seconds)],
    };
    expiring(b, 60).disconnect_with(&disconnect(0));
    assert!(!expiring(b, 1).session_present);
    expiring(b, 1).disconnect_with(&disconnect(60));
    pass(&mut b.client("other"), A_SECOND);
    assert!(expiring(b, 60).session_present);
}

pub(crate) fn disconnect_may_not_revive_the_session(b: &Broker) {
    let mut client = b.client("c");
    client.send(&Packet::Disconnect {
        code: 0,
        props: vec![Prop::SessionExpiry(60)],
    });
    client.expect_closed_with(&[0x82]);
    assert!(
        !b.connect(Connect {
            clean: false,
            ..Connect::new("c")
        })
        .session_present
    );
}

pub(crate) fn will_waits_for_its_delay(b: &Broker) {
    let mut observer = observer(b);
    let connect = Connect::new("c")
        .prop(Prop::SessionExpiry(60))
        .will("will/c", "gone")
        .will_qos(1);
    b.connect(connect.will_prop(Prop::WillDelay(1))).vanish();
    let gone = Instant::now();
    let will = observer.receive("will/c", "gone");
    let took = gone.elapsed();
    assert!(took > Duration::from_millis(700), "{took:?}");
    assert!(will.props.is_empty(), "the delay is for the server: {will:?}");
    observer.expect_nothing();
}

pub(crate) fn will_does_not_outwait_the_session(b: &Broker) {
    let mut observer = observer(b);
    let connect = Connect::new("c")
        .prop(Prop::SessionExpiry(1))
        .will("will/c", "gone");
    b.connect(connect.will_prop(Prop::WillDelay(60))).vanish();
    observer.receive("will/c", "gone");
    // A session that ends with its connection has no time at all.
    b.connect(
        Connect::new("c")
            .will("will/c", "at once")
            .will_prop(Prop::WillDelay(60)),
    )
    .vanish();
    observer.receive("will/c", "at once");
}

pub(crate) fn coming_back_in_time_withdraws_the_will(b: &Broker) {
    let mut observer = observer(b);
    let connect = Connect {
        clean: false,
        ..Connect::new("c").prop(Prop::SessionExpiry(60))
    };
    let with_will = connect
        .clone()
        .will("will/c", "gone")
        .will_prop(Prop::WillDelay(1));
    b.connect(with_will).vanish();
    let again = b.connect(connect);
    assert!(again.session_present);
    pass(&mut observer, A_SECOND);
    again.vanish();
    observer.expect_nothing();
}

/// A clean start ends the old session, and with it the will's delay (§3.1.3.2.2).
pub(crate) fn clean_start_ends_the_delay_of_the_will(b: &Broker) {
    let mut observer = observer(b);
    let connect = Connect::new("c")
        .prop(Prop::SessionExpiry(60))
        .will("will/c", "gone");
    b.connect(connect.will_prop(Prop::WillDelay(60))).vanish();
    observer.expect_nothing();
    b.client("c").ping();
    observer.receive("will/c", "gone");
}

pub(crate) fn disconnect_with_will_publishes_it(b: &Broker) {
    let mut observer = observer(b);
    b.connect(Connect::new("c").will("will/c", "wanted"))
        .disconnect_with(&Packet::Disconnect {
            code: 0x04,
            props: Vec::new(),
        });
    observer.receive("will/c", "wanted");
}

pub(crate) fn an_expired_message_is_not_delivered(b: &Broker) {
    let mut client = b.kept("c");
    client.subscribe("a", 1);
    client.disconnect();
    b.publish(Publish::new("a", "short").qos(1, 1).prop(Prop::MessageExpiry(1)));
    b.publish(Publish::new("a", "long").qos(1, 1).prop(Prop::MessageExpiry(60)));
    b.publish(Publish::new("a", "endless").qos(1, 1));
    pass(&mut b.client("other"), A_SECOND);
    let mut client = b.kept("c");
    client.receive("a", "long");
    client.receive("a", "endless");
    client.expect_nothing();
}

pub(crate) fn expiry_is_less_the_time_waited(b: &Broker) {
    let mut client = b.kept("c");
    client.subscribe("a", 1);
    b.publish(
        Publish::new("a", "at once")
            .qos(1, 1)
            .prop(Prop::MessageExpiry(60)),
    );
    assert!(matches!(client.receive("a", "at once").expiry(), Some(59..=60)));
    client.disconnect();
    b.publish(Publish::new("a", "later").qos(1, 1).prop(Prop::MessageExpiry(60)));
    b.publish(
        Publish::new("kept", "retained")
            .qos(1, 1)
            .retain()
            .prop(Prop::MessageExpiry(60)),
    );
    pass(&mut b.client("other"), A_SECOND);
    let mut client = b.kept("c");
    assert!(matches!(client.receive("a", "later").expiry(), Some(57..=59)));
    client.subscribe("kept", 1);
    assert!(matches!(
        client.receive("kept", "retained").expiry(),
        Some(57..=59)
    ));
}

pub(crate) fn retained_messages_expire(b: &Broker) {
    b.publish(
        Publish::new("short", "x")
            .qos(1, 1)
            .retain()
            .prop(Prop::MessageExpiry(1)),
    );
    b.publish(
        Publish::new("long", "x")
            .qos(1, 1)
            .retain()
            .prop(Prop::MessageExpiry(60)),
    );
    assert_eq!(b.retained("#").len(), 2);
    pass(&mut b.client("other"), A_SECOND);
    assert_eq!(b.retained("#"), [("long".into(), "x".into())]);
}

/// Sent once, a QoS 2 message stays until its exchange is over.
pub(crate) fn a_message_once_sent_does_not_expire(b: &Broker) {
    let mut client = b.kept("c");
    client.subscribe("a", 2);
    b.publish(Publish::new("a", "x").qos(2, 1).prop(Prop::MessageExpiry(1)));
    let first = client.next_publish();
    pass(&mut client, A_SECOND);
    client.vanish();
    let mut client = b.kept("c");
    let again = client.next_publish();
    assert_eq!(
        (again.id, again.text(), again.dup),
        (first.id, first.text(), true)
    );
    client.acknowledge(&again);
    client.expect_nothing();
}

pub(crate) fn an_expired_message_is_acknowledged_to_the_end(b: &Broker) {
    let mut client = b.client("c");
    let mut publish = Publish::new("a", "x").qos(2, 5);
    publish.props.push(Prop::MessageExpiry(1));
    client.send(&Packet::Publish(publish));
    client.pub_rec(5);
    pass(&mut client, A_SECOND);
    assert_eq!(client.release(5), 0);
    assert_eq!(client.version, Version::V5);
}
