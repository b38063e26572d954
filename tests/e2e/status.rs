//! What the gateway tells of itself: retained messages, with a will.

use sn_codec::QoS;
use system_tests::{
    Broker, BrokerKind, Gateway, Message, PATIENCE, Setup, Subscriber, poll_until, with_each_broker,
};

with_each_broker![
    a_client_that_sleeps_and_one_that_is_gone_for_good_are_told,
    who_comes_late_gets_it_all_as_json,
    an_orderly_stop_says_offline,
    switched_off_it_tells_nothing,
];

/// The default of a gateway without a name.
const STATE: &str = "snipe/1/state";

fn gateway_beside(broker: &Broker) -> Gateway {
    Setup::beside(broker).with_status().start()
}

fn json(message: &Message) -> serde_json::Value {
    let text = String::from_utf8_lossy(&message.payload);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {text}: {error}", message.topic))
}

/// The first message, of those that come, that says so.
#[track_caller]
fn wait_for(observer: &mut Subscriber, topic: &str, key: &str, wanted: &str) -> serde_json::Value {
    loop {
        let message = observer.receive();
        assert_eq!(message.topic, topic);
        let payload = json(&message);
        if payload[key] == wanted {
            return payload;
        }
    }
}

fn a_client_that_sleeps_and_one_that_is_gone_for_good_are_told(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = gateway_beside(&broker);
    let topic = "snipe/1/clients/pump%2F7";
    let mut observer = broker.subscribe(topic);

    let client = gateway.connected_client("pump/7");
    let active = wait_for(&mut observer, topic, "state", "active");
    assert_eq!(
        (&active["client"], &active["radio"]),
        (&"pump/7".into(), &"udp0".into())
    );
    assert!(
        active["seen"].as_u64().is_some_and(|seen| seen > 1_700_000_000),
        "{active}"
    );

    client.sleep(3600);
    let asleep = wait_for(&mut observer, topic, "state", "asleep");
    assert_eq!(asleep["sleep"], 3600);

    // It asks for a clean session when it connects, and then leaves.
    client.connect();
    wait_for(&mut observer, topic, "state", "active");
    client.disconnect();
    let mut last = observer.receive();
    while !last.payload.is_empty() {
        last = observer.receive();
    }
    assert_eq!(last.topic, topic);
    gateway.stop();
}

fn who_comes_late_gets_it_all_as_json(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = gateway_beside(&broker);
    let mut first = broker.subscribe("snipe/1/radios/udp0");
    assert_eq!(json(&first.receive())["state"], "up");

    let mut late = broker.subscribe("snipe/#");
    let mut told = late.receive_many(4);
    told.sort();

    let topics: Vec<&str> = told.iter().map(|message| &*message.topic).collect();
    assert_eq!(
        topics,
        ["snipe/1/broker", "snipe/1/radios/udp0", "snipe/1/spool", STATE]
    );
    let [of_broker, of_radio, of_spool, of_gateway] = [0, 1, 2, 3].map(|at: usize| json(&told[at]));
    assert_eq!(of_broker["state"], "up");
    assert_eq!(
        (&of_radio["kind"], &of_radio["state"]),
        (&"udp".into(), &"up".into())
    );
    assert_eq!(
        (&of_spool["disk"], &of_spool["messages"]),
        (&"works".into(), &0.into())
    );
    assert_eq!(of_gateway["state"], "online");
    assert_eq!(of_gateway["clients"]["total"], 0);
    gateway.stop();
}

fn an_orderly_stop_says_offline(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = gateway_beside(&broker);
    let mut observer = broker.subscribe(STATE);
    wait_for(&mut observer, STATE, "state", "online");

    gateway.stop();

    wait_for(&mut observer, STATE, "state", "offline");
    observer.expect_silence();
}

fn switched_off_it_tells_nothing(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let mut observer_of = None;
    if kind == BrokerKind::Mosquitto {
        observer_of = Some(broker.subscribe("#"));
    }
    let gateway = Setup::beside(&broker)
        .with_status()
        .toml("mqtt_status.enabled = false")
        .start();
    let observer = observer_of.unwrap_or_else(|| broker.subscribe("#"));
    let client = gateway.connected_client("sensor-1");
    client.sleep(60);
    observer.expect_silence();
    gateway.stop();
    observer.expect_nothing_more();
}

/// Beside mosquitto alone: the broker inside goes with the gateway, and its clients see that by themselves.
#[test]
fn a_killed_gateway_is_offline_and_online_when_it_is_back() {
    let broker = Broker::mosquitto();
    let gateway = gateway_beside(&broker);
    let mut observer = broker.subscribe(STATE);
    wait_for(&mut observer, STATE, "state", "online");

    let setup = gateway.kill();
    wait_for(&mut observer, STATE, "state", "offline");

    let gateway = setup.start();
    wait_for(&mut observer, STATE, "state", "online");
    gateway.stop();
}

/// Beside mosquitto alone: the broker inside is never away.
#[test]
fn a_broker_that_forgot_everything_is_told_everything_anew() {
    let mut broker = Broker::mosquitto();
    let gateway = gateway_beside(&broker);
    let client = gateway.connected_client("sensor-1");
    let mut observer = broker.subscribe("snipe/1/clients/+");
    wait_for(&mut observer, "snipe/1/clients/sensor-1", "state", "active");

    broker.kill();
    broker.start();

    let mut observer = broker.subscribe("snipe/#");
    let mut topics = std::collections::BTreeSet::new();
    while topics.len() < 5 {
        topics.insert(observer.receive().topic);
    }
    let expected = ["broker", "clients/sensor-1", "radios/udp0", "spool", "state"];
    assert!(
        topics.iter().map(|topic| &topic["snipe/1/".len()..]).eq(expected),
        "{topics:?}"
    );
    client.ping();
    gateway.stop();
}

/// Beside mosquitto alone: only there a topic outlives the gateway.
#[test]
fn clients_of_an_earlier_life_that_nobody_knows_are_cleared() {
    let broker = Broker::mosquitto();
    broker.publish_with("snipe/1/clients/long%2Fgone", "{}", &["-r", "-q", "1"]);
    let mut observer = broker.subscribe("snipe/1/clients/+");
    assert_eq!(observer.receive().payload, b"{}");

    let gateway = gateway_beside(&broker);

    let cleared = observer.receive();
    assert_eq!(
        (&*cleared.topic, cleared.payload.len()),
        ("snipe/1/clients/long%2Fgone", 0)
    );
    gateway.stop();
}

/// Beside mosquitto alone, which has rules on who may publish what.
#[test]
fn a_broker_that_refuses_it_is_told_nothing_more_and_serves_clients_as_before() {
    let mut broker = Broker::stopped().with_acl("topic readwrite demo/#\ntopic read snipe/#\n");
    broker.start();
    let mut gateway = Setup::beside(&broker).with_status().start();

    let refused = gateway
        .process()
        .wait_for_line("the refusal in the log", 0, PATIENCE, |line| {
            line.contains("status refused")
        });
    assert!(
        refused.1.text.contains("mqtt_status.enabled = false"),
        "{:?}",
        refused.1.text
    );
    let observer = broker.subscribe("snipe/#");

    let client = gateway.connected_client("sensor-1");
    let topic = sn_codec::TopicRef::Normal(client.register("demo/a"));
    client.publish_acknowledged(topic, b"1");
    client.sleep(60);
    observer.expect_silence();
    let lines = gateway.process().lines();
    let told = lines
        .iter()
        .filter(|line| line.text.contains("status refused"))
        .count();
    assert_eq!(told, 1);
    gateway.stop();
}

/// Beside mosquitto alone, since it is about a second radio.
#[test]
fn a_radio_that_is_down_is_told() {
    let broker = Broker::mosquitto();
    let gateway = Setup::beside(&broker)
        .with_status()
        .toml(
            "[[radio]]\nname = 'north field'\nkind = 'serial'\nport = '/dev/there-is-no-such-port'\n\
             baud = 9600",
        )
        .start();
    let topic = "snipe/1/radios/north field";
    let mut observer = broker.subscribe(topic);
    let down = wait_for(&mut observer, topic, "state", "down");
    assert_eq!(down["kind"], "serial");
    gateway.stop();
}

/// Beside mosquitto alone, which shows what a sensor is sent.
#[test]
fn a_sensor_that_subscribes_to_everything_is_not_sent_status() {
    let broker = Broker::mosquitto();
    let gateway = gateway_beside(&broker);
    let mut observer = broker.subscribe(STATE);
    wait_for(&mut observer, STATE, "state", "online");
    let everything = gateway.connected_client("everything");
    everything.subscribe(sn_codec::TopicFilter::Name("#"), QoS::AtMostOnce);
    let asks = gateway.connected_client("asks");
    asks.subscribe(sn_codec::TopicFilter::Name("snipe/1/state"), QoS::AtMostOnce);

    assert_eq!(asks.receive_publish().0, None, "it knows the name");
    let matched = || (gateway.metric("snipe_messages_total") >= 2).then_some(());
    poll_until("messages for everything to arrive", PATIENCE, matched);
    everything.expect_silence();
    gateway.stop();
}
