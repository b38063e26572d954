//! Radios on serial ports: the real binary on pseudo-terminals with simulated modems, and a real broker.

mod bench;
mod kinds;

use std::time::Duration;

use bytes::Bytes;
use sn_codec::{Packet, PublishQoS, QoS, TopicFilter};
use snipe_sim::{
    modem::Fault,
    sim_client::{Action, Outcome, Presence, TopicForm, Uplink},
};
use system_tests::{Broker, BrokerKind, Gateway, Message, Setup, Subscriber, with_each_broker};

use self::bench::Remote;
use self::kinds::Kind;

/// For each modem: every exchange, and everything that goes wrong with a plug.
macro_rules! each_modem {
    ($($modem:ident: $kind:ident),+ $(,)?) => {
        $(mod $modem {
            use super::*;

            with_each_broker![carries_every_exchange, loses_no_message_when_something_goes_wrong];

            fn carries_every_exchange(broker: BrokerKind) {
                super::carries_every_exchange(Kind::$kind, broker);
            }

            fn loses_no_message_when_something_goes_wrong(broker: BrokerKind) {
                super::loses_no_message_when_something_goes_wrong(Kind::$kind, broker);
            }
        })+
    };
}

each_modem![
    rak3172: Rak3172,
    rak4270: Rak4270,
    rn2483: Rn2483,
    rylr998: Rylr998,
    xbee_zigbee: Zigbee,
    xbee_802_15_4: Ieee802154,
    xbee_digimesh: DigiMesh,
    bridge: Bridge,
    wire: Wire,
    e22: E22,
];

with_each_broker![udp_xbee_lora_and_serial_work_in_one_process];

/// CONNECT, REGISTER, PUBLISH with every QoS both ways, sleep and wake-up, and the search of a second sensor.
fn carries_every_exchange(kind: Kind, broker: BrokerKind) {
    let (bench, broker, gateway, mut up) = started(kind, broker);
    bench.sensor(0, |sensor, now| sensor.connect(now));
    bench.wait(0, "connected", |client| client.is_active());

    for (payload, level) in [("one", QoS::AtLeastOnce), ("two", QoS::ExactlyOnce)] {
        publish(&bench, payload, level);
        up.expect(Message::new("up/a", payload, level as u8));
        wait_for_outcome(&bench, payload);
    }
    // Half-duplex modems are deaf for a while after each answer, and nobody repeats QoS 0.
    let zero = publication("zero", QoS::AtMostOnce);
    bench.sensor_after(Duration::from_secs(1), 0, |sensor, now| sensor.act(now, zero));
    up.expect(Message::new("up/a", "zero", 0));
    subscribe(&bench, 0, "down/a");
    for (qos, payload) in ["nil", "uno", "due"].into_iter().enumerate() {
        broker.publish("down/a", payload, qos as u8);
        wait_for_delivery(&bench, 0, payload);
    }

    let sleep = Action::Sleep {
        duration: 2,
        naps: u32::MAX,
    };
    bench.sensor(0, |sensor, now| sensor.act(now, sleep));
    bench.wait(0, "asleep", |client| client.presence() == Presence::Asleep);
    broker.publish("down/a", "later", 1);
    wait_for_delivery(&bench, 0, "later");

    if kind != Kind::Wire {
        bench.sensor(1, |sensor, now| sensor.search(now, Duration::from_secs(1)));
        bench.wait(1, "found the gateway and connected", |client| client.is_active());
        assert_eq!(bench.sensor(1, |sensor, _| sensor.gateways.clone()), [1]);
    }
    gateway.stop();
}

/// Each fault strikes while a message goes up and another comes down.
fn loses_no_message_when_something_goes_wrong(kind: Kind, broker: BrokerKind) {
    let (bench, broker, gateway, mut up) = started(kind, broker);
    bench.sensor(0, |sensor, now| sensor.connect(now));
    bench.wait(0, "connected", |client| client.is_active());
    subscribe(&bench, 0, "down/a");

    let mut step = |payload: &'static str, strike: &dyn Fn()| {
        publish(&bench, payload, QoS::AtLeastOnce);
        broker.publish("down/a", payload, 1);
        strike();
        wait_for_outcome(&bench, payload);
        wait_for_delivery(&bench, 0, payload);
        // QoS 1: at least once.
        while up.receive().payload != payload.as_bytes() {}
    };
    step("before", &|| {});
    step("unplugged", &|| {
        bench.fault(Fault::Unplug(Duration::from_secs(1)));
    });
    step("rebooted", &|| bench.fault(Fault::Reboot));
    step("hung", &|| {
        bench.fault(Fault::Hang);
        // Somebody looks after it. Whatever the gateway tried meanwhile was in vain.
        bench.fault_after(Duration::from_secs(3), Fault::Reboot);
    });
    step("after", &|| {});
    gateway.stop();
}

fn udp_xbee_lora_and_serial_work_in_one_process(kind: BrokerKind) {
    let radios = [Kind::Zigbee, Kind::Rak3172, Kind::Bridge];
    let benches = radios.map(|kind| Remote::start(kind, 1));
    let broker = Broker::start_new(kind);
    let setup = Setup::beside(&broker);
    let udp = format!(
        "[[radio]]\nname = 'udp0'\nkind = 'udp'\nbind = ['127.0.0.1:{}']\nmulticast = []\n",
        setup.port()
    );
    let modems = radios.iter().zip(&benches).zip(["xbee0", "lora0", "serial0"]);
    let modems = modems.map(|((kind, bench), name)| kind.toml(name, bench.port()));
    let gateway = setup.toml(&(udp + &modems.collect::<String>())).start();

    let by_udp = gateway.connected_client("by-udp");
    by_udp.subscribe(TopicFilter::Name("cmd/all"), QoS::AtLeastOnce);
    for (number, bench) in benches.iter().enumerate() {
        let id = format!("sensor-{number}-of-radio");
        bench.sensor(0, move |sensor, now| {
            sensor.client.config.id = id;
            sensor.connect(now);
        });
        subscribe(bench, 0, "cmd/all");
    }
    broker.publish("cmd/all", "on", 1);

    for bench in &benches {
        wait_for_delivery(bench, 0, "on");
    }
    let (_, publish) = by_udp.receive_publish();
    by_udp.acknowledge(&publish);
    let Packet::Publish(message) = publish.packet() else {
        panic!("{:?} is no message", publish.packet());
    };
    assert_eq!(message.data, b"on");
    gateway.stop();
}

/// A modem with two sensors (on a wire there can be one), a broker, a gateway between them, and who listens to `up/#`.
fn started(kind: Kind, broker: BrokerKind) -> (Remote, Broker, Gateway, Subscriber) {
    let bench = Remote::start(kind, if kind == Kind::Wire { 1 } else { 2 });
    let broker = Broker::start_new(broker);
    let gateway = Setup::beside(&broker)
        .toml(&kind.toml("radio0", bench.port()))
        .start();
    let up = broker.subscribe("up/#");
    (bench, broker, gateway, up)
}

fn publish(bench: &Remote, payload: &'static str, level: QoS) {
    let action = publication(payload, level);
    bench.sensor(0, |sensor, now| sensor.act(now, action));
}

fn publication(payload: &'static str, level: QoS) -> Action {
    Action::Publish(Uplink {
        topic: TopicForm::from("up/a"),
        qos: PublishQoS::Level(level),
        retain: false,
        payload: Bytes::from(payload),
    })
}

#[track_caller]
fn subscribe(bench: &Remote, index: usize, filter: &'static str) {
    let topic = TopicForm::from(filter);
    let action = Action::Subscribe {
        topic: topic.clone(),
        qos: QoS::ExactlyOnce,
    };
    bench.sensor(index, move |sensor, now| sensor.act(now, action));
    bench.wait(index, "subscribed", move |client| {
        client.subscribed.contains_key(&topic)
    });
}

#[track_caller]
fn wait_for_outcome(bench: &Remote, payload: &'static str) {
    bench.wait(0, &format!("{payload} acknowledged"), move |client| {
        client.outcomes.get(payload.as_bytes()) == Some(&Outcome::Acknowledged)
    });
}

#[track_caller]
fn wait_for_delivery(bench: &Remote, index: usize, payload: &'static str) {
    bench.wait(index, &format!("{payload} delivered"), move |client| {
        client
            .delivered
            .iter()
            .any(|delivered| delivered.payload == payload)
    });
}
