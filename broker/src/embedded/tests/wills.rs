use super::*;

fn with_will(connect: Connect, delay: u32) -> Connect {
    Connect {
        will: will("will", delay),
        ..connect
    }
}

fn watched() -> (Broker, ClientKey) {
    let mut broker = Broker::new();
    let watcher = broker.subscriber("watcher", &[("will", AtMostOnce)]);
    (broker, watcher)
}

#[test]
fn mqtt_3_1_2_8_will_is_published_when_the_connection_is_lost() {
    let (mut broker, watcher) = watched();
    let client = broker.connect(with_will(connect("c"), 0));
    broker.close(client);
    assert_eq!(broker.payloads(watcher), ["gone"]);
}

#[test]
fn mqtt_3_1_2_8_will_is_published_when_the_broker_ends_the_connection() {
    let (mut broker, watcher) = watched();
    let client = broker.connect(with_will(connect("c"), 0));
    broker.publish(client, 1, message("#", AtLeastOnce, ""));
    assert_eq!(broker.payloads(watcher), ["gone"]);
}

#[test]
fn mqtt_3_14_4_3_will_is_discarded_with_a_normal_disconnect() {
    let (mut broker, watcher) = watched();
    let client = broker.connect(with_will(resume("c", 60), 10));
    broker.disconnect(client);
    broker.wait_secs(100);
    assert_eq!(broker.take(watcher), []);
}

#[test]
fn disconnect_with_will_publishes_it() {
    let (mut broker, watcher) = watched();
    let client = broker.connect(with_will(connect("c"), 0));
    broker.say(
        client,
        Received::Disconnect {
            with_will: true,
            session_expiry: None,
        },
    );
    assert_eq!(broker.payloads(watcher), ["gone"]);
}

#[test]
fn will_waits_for_its_delay() {
    let (mut broker, watcher) = watched();
    let client = broker.connect(with_will(resume("c", 60), 10));
    broker.close(client);
    broker.wait(Duration::from_millis(9_999));
    assert_eq!(broker.take(watcher), []);
    broker.wait(Duration::from_millis(1));
    assert_eq!(broker.payloads(watcher), ["gone"]);
    broker.wait_secs(100);
    assert_eq!(broker.take(watcher), []);
}

#[test]
fn mqtt_3_1_3_9_will_is_not_published_if_the_client_is_back_in_time() {
    let (mut broker, watcher) = watched();
    let client = broker.connect(with_will(resume("c", 60), 10));
    broker.close(client);
    broker.wait_secs(9);
    broker.connect(resume("c", 60));
    broker.wait_secs(100);
    assert_eq!(broker.take(watcher), []);
}

#[test]
fn will_is_published_when_the_session_ends_before_its_delay() {
    let (mut broker, watcher) = watched();
    let client = broker.connect(with_will(resume("c", 5), 10));
    broker.close(client);
    broker.wait_secs(5);
    assert_eq!(broker.payloads(watcher), ["gone"]);

    let client = broker.connect(with_will(connect("c"), 10));
    broker.close(client);
    assert_eq!(broker.payloads(watcher), ["gone"]);

    let client = broker.connect(with_will(resume("c", 60), 10));
    broker.close(client);
    broker.connect(connect("c"));
    assert_eq!(broker.payloads(watcher), ["gone"], "clean start");
    broker.wait_secs(100);
    assert_eq!(broker.take(watcher), []);
}

#[test]
fn takeover_publishes_the_will_unless_it_has_a_delay() {
    let (mut broker, watcher) = watched();
    broker.connect(with_will(resume("c", 60), 0));
    broker.connect(with_will(resume("c", 60), 10));
    assert_eq!(broker.payloads(watcher), ["gone"]);
    broker.connect(resume("c", 60));
    broker.wait_secs(100);
    assert_eq!(broker.take(watcher), []);
}

#[test]
fn mqtt_3_1_2_14_retained_will_is_kept() {
    let (mut broker, _) = watched();
    let mut connect = with_will(connect("c"), 0);
    connect.will.as_mut().unwrap().message.retain = true;
    let client = broker.connect(connect);
    broker.close(client);
    let late = broker.subscriber("late", &[("will", AtMostOnce)]);
    assert!(broker.deliveries(late)[0].retain);
}

#[test]
fn will_that_cannot_be_published_refuses_the_connect() {
    let mut broker = Broker::new();
    for (topic, reason) in [
        ("a/#", reason::TOPIC_NAME_INVALID),
        ("", reason::TOPIC_NAME_INVALID),
        ("$SYS/x", reason::NOT_AUTHORIZED),
    ] {
        let client = broker.connect(Connect {
            will: will(topic, 0),
            ..connect("c")
        });
        assert_eq!(broker.take(client), refused(reason));
    }
    assert_eq!(broker.router.stats().sessions, 0);
}

#[test]
fn will_of_a_refused_connect_is_not_published() {
    let mut broker = Broker::with(RouterLimits {
        sessions_max: 1,
        ..LIMITS
    });
    let watcher = broker.subscriber("watcher", &[("will", AtMostOnce)]);
    let client = broker.connect(with_will(connect("c"), 0));
    broker.close(client);
    assert_eq!(broker.take(watcher), []);
}
