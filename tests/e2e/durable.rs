//! What survives: the gateway is killed, stopped and started again, and nobody who was promised something notices.

mod commands;
mod from_the_first_moment;

use std::{fs, net::Ipv4Addr, path::Path, process::Command};

use sn_codec::{Packet, PublishQoS, QoS, ReturnCode, TopicFilter, TopicRef};
use system_tests::{
    Broker, BrokerKind, Capture, Client, Gateway, Message, PATIENCE, Process, Setup, free_port, poll_until,
    snipe, with_each_broker,
};

with_each_broker![
    a_sleeper_and_its_command_survive_a_crash,
    what_a_sleeper_acknowledged_a_while_before_a_crash_does_not_come_again,
    a_stop_in_good_order_is_no_news_to_clients,
    a_client_publishes_over_a_restart_under_the_topic_ids_it_had,
];

const AT_LEAST_ONCE: PublishQoS = PublishQoS::Level(QoS::AtLeastOnce);
const EXACTLY_ONCE: PublishQoS = PublishQoS::Level(QoS::ExactlyOnce);

/// For a gateway whose broker is not there.
const AWAY: [&str; 2] = ["--broker", "mqtt://127.0.0.1:9"];

/// A subscription that waits at the broker while nobody runs, not even the broker.
const OBSERVER: &str = "observer";

/// For [`with_state_on`]: a disk without room for a segment, which is 4 MiB.
const FULL: &str = "mount -t tmpfs -o size=6m none \"$0\" && head -c 5m /dev/zero > \"$0\"/ballast";

#[test]
fn what_was_acknowledged_while_the_broker_was_away_survives_a_crash() {
    for protocol in [3, 5] {
        let mut broker = Broker::mosquitto();
        broker.keep_subscription(OBSERVER, "demo/#");
        broker.stop();
        let gateway = Setup::beside(&broker)
            .toml(&format!("broker.protocol = {protocol}"))
            .start();
        let client = gateway.connected_client("sensor-1");
        let topic = TopicRef::Normal(client.register("demo/spooled"));
        for number in 0..20 {
            client.publish_acknowledged(topic, format!("{number}").as_bytes());
        }
        let once = client.publish(topic, EXACTLY_ONCE, b"once");
        client.expect(Packet::Pubrec(once));

        let gateway = gateway.kill().start();
        // The client did not notice: its exchange goes on where it was.
        client.send(Packet::Pubrel(once));
        client.expect(Packet::Pubcomp(once));
        client.publish_acknowledged(topic, b"after");
        broker.start();
        gateway.wait_for_broker();

        let mut observer = broker.subscribe_as(OBSERVER, "demo/#", &["-c", "-q", "2"]);
        let payloads: Vec<_> = observer
            .receive_many(22)
            .into_iter()
            .map(|message| String::from_utf8(message.payload).expect("text"))
            .collect();
        let in_order = |wanted: &dyn Fn(&str) -> bool| -> Vec<&str> {
            payloads
                .iter()
                .map(String::as_str)
                .filter(|text| wanted(text))
                .collect()
        };
        let mut expected: Vec<String> = (0..20).map(|number| number.to_string()).collect();
        expected.push("after".to_owned());
        assert_eq!(in_order(&|text| text != "once"), expected);
        assert_eq!(in_order(&|text| text == "once"), ["once"]);
        observer.expect_silence();
        gateway.stop();
    }
}

fn a_sleeper_and_its_command_survive_a_crash(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker).start();
    let sleeper = gateway.connected_client("sleeper");
    let topic = TopicRef::Normal(sleeper.subscribe(TopicFilter::Name("cmd/set"), QoS::AtLeastOnce));
    sleeper.sleep(60);
    for (number, qos) in [1, 2].into_iter().enumerate() {
        // mosquitto_pub returns when the broker has it; that the gateway has it shows in its buffer.
        broker.publish("cmd/set", &number.to_string(), qos);
    }
    gateway.wait_for_buffered(2);
    wait_until_durable(&gateway);

    let gateway = gateway.kill().start();
    assert_eq!(gateway.metric("snipe_clients_asleep"), 1);
    sleeper.wake();

    let (_, first) = sleeper.receive_publish();
    let Packet::Publish(publish) = first.packet() else {
        panic!("checked by receive_publish");
    };
    // No REGISTER: it knows the id.
    assert_eq!((publish.topic, publish.data), (topic, &b"0"[..]));
    sleeper.acknowledge(&first);
    assert_eq!(sleeper.receive_until_pingresp(), [b"1"]);
    gateway.wait_for_buffered(0);
    gateway.stop();
}

fn what_a_sleeper_acknowledged_a_while_before_a_crash_does_not_come_again(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker).start();
    let sleeper = gateway.connected_client("sleeper");
    sleeper.subscribe(TopicFilter::Name("cmd/set"), QoS::AtLeastOnce);
    sleeper.sleep(60);
    broker.publish("cmd/set", "open the valve", 1);
    gateway.wait_for_buffered(1);
    wait_until_durable(&gateway);
    let commits = || gateway.metric("snipe_store_syncs_total");
    let before = commits();
    sleeper.wake();
    assert_eq!(sleeper.receive_until_pingresp(), [b"open the valve"]);
    // Nobody else needs the disk, and yet it is written.
    poll_until("the acknowledgement on disk", 3 * PATIENCE, || {
        (commits() > before).then_some(())
    });

    let gateway = gateway.kill().start();
    sleeper.wake();
    sleeper.expect(Packet::Pingresp);
    gateway.stop();
}

fn a_stop_in_good_order_is_no_news_to_clients(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker).start();
    let client = gateway.connected_client("display");
    let topic = TopicRef::Normal(client.subscribe(TopicFilter::Name("cmd/show"), QoS::AtLeastOnce));

    let setup = gateway.pause();
    client.expect_silence();
    let gateway = setup.start();

    client.ping();
    broker.publish("cmd/show", "1", 1);
    let (_, shown) = client.receive_publish();
    let Packet::Publish(publish) = shown.packet() else {
        panic!("checked by receive_publish");
    };
    assert_eq!((publish.topic, publish.data), (topic, &b"1"[..]));
    client.acknowledge(&shown);
    gateway.stop();
}

fn a_client_publishes_over_a_restart_under_the_topic_ids_it_had(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker).start();
    let client = gateway.connected_client("sensor-1");
    let topic = TopicRef::Normal(client.register("demo/a"));
    client.publish_acknowledged(topic, b"before");

    let gateway = gateway.kill().start();
    let mut observer = broker.subscribe("demo/#");
    client.publish_acknowledged(topic, b"after");

    loop {
        let message = observer.receive();
        assert_eq!(message.topic, "demo/a");
        // QoS 1: what was under way at the crash may come again.
        if message.payload != b"before" {
            assert_eq!(message, Message::new("demo/a", "after", 1));
            break;
        }
    }
    gateway.stop();
}

#[test]
fn nothing_survives_with_ephemeral() {
    let broker = Broker::mosquitto();
    let gateway = Setup::beside(&broker).args(&["--ephemeral"]).start();
    let client = gateway.connected_client("sensor-1");
    let topic = TopicRef::Normal(client.register("demo/a"));
    client.publish_acknowledged(topic, b"before");
    let setup = gateway.kill();
    assert!(!setup.state_dir().join("store").exists());

    let gateway = setup.start();

    let msg_id = client.publish(topic, AT_LEAST_ONCE, b"after");
    let answer = client.receive();
    // A stranger, who had better connect again.
    assert!(!matches!(answer.packet(), Packet::Puback(puback)
        if puback.msg_id == msg_id && puback.return_code == ReturnCode::Accepted));
    gateway.stop();
}

#[test]
fn a_second_gateway_on_the_same_state_is_refused_and_the_first_goes_on() {
    let broker = Broker::stopped();
    let gateway = Setup::beside(&broker).start();
    let state = gateway.control_socket().with_file_name("");
    // Its socket is where a service has it, so that only the store is in the way.
    let runtime = tempfile::tempdir().expect("a directory");
    let mut second = snipe();
    second.env("RUNTIME_DIRECTORY", runtime.path());
    second.args(["run", "--broker", "mqtt://127.0.0.1:9"]);
    second.args([
        "--set",
        "radio.udp0.bind=[\"127.0.0.1:0\"]",
        "--set",
        "radio.udp0.multicast=[]",
    ]);
    second.args(["--set", &format!("gateway.state_dir={}", state.display())]);

    let finished = Process::spawn("a second gateway", second).finish(PATIENCE);

    assert_eq!(finished.code(), Some(73), "{finished:?}");
    assert!(
        finished
            .stderr
            .contains("another gateway runs with the state directory"),
        "{finished:?}"
    );
    gateway.connected_client("sensor-1").ping();
    gateway.stop();
}

/// A gateway without a broker whose state directory is what `mount` makes of it, in a namespace of its own. `$0` is the
/// directory.
fn with_state_on(state: &Path, mount: &str, port: u16, more: &[&str]) -> Process {
    let mut gateway = snipe();
    let bind = format!("radio.udp0.bind=[\"127.0.0.1:{port}\"]");
    gateway.arg("run");
    gateway.args(["--set", &bind, "--set", "radio.udp0.multicast=[]"]);
    gateway.args(["--set", &format!("gateway.state_dir={}", state.display())]);
    gateway.args(more);
    let mut wrapped = Command::new("unshare");
    wrapped.args(["--mount", "--map-root-user", "sh", "-c"]);
    wrapped.arg(format!("{mount} && exec \"$@\""));
    wrapped
        .arg(state)
        .arg(gateway.get_program())
        .args(gateway.get_args());
    Process::spawn("a gateway with a disk of its own", wrapped)
}

/// There is room on a disk that was [`FULL`].
#[track_caller]
fn make_room(gateway: &Process, state: &Path) {
    // The process's own view of the file system.
    let ballast = format!("/proc/{}/root{}/ballast", gateway.id(), state.display());
    fs::remove_file(ballast).expect("the ballast is there");
}

#[test]
fn a_state_directory_that_cannot_be_written_ends_it_and_ephemeral_runs() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::create_dir_all(dir.path().join("store")).expect("a directory");
    let run = |more: &[&str]| {
        let read_only = "mount --bind \"$0\" \"$0\" && mount -o remount,ro,bind \"$0\"";
        with_state_on(dir.path(), read_only, free_port(), &[&AWAY, more].concat())
    };

    let finished = run(&[]).finish(PATIENCE);
    assert_eq!(finished.code(), Some(73), "{finished:?}");
    for word in ["state_dir", "--ephemeral"] {
        assert!(finished.stderr.contains(word), "{finished:?}");
    }

    run(&["--ephemeral"]).wait_for_line("the gateway to be ready", 0, PATIENCE, |line| {
        line.starts_with("ready")
    });
}

#[test]
fn while_the_disk_is_full_nothing_is_promised_and_when_there_is_room_all_goes_on() {
    nothing_is_promised_on_a_full_disk(&AWAY);
}

#[test]
fn while_the_disk_is_full_the_broker_inside_promises_nothing_either() {
    let bind = format!("broker.embedded.bind=[\"127.0.0.1:{}\"]", free_port());
    nothing_is_promised_on_a_full_disk(&["--broker", "embedded", "--set", &bind]);
}

fn nothing_is_promised_on_a_full_disk(broker: &[&str]) {
    let dir = tempfile::tempdir().expect("a directory");
    let port = free_port();
    let gateway = with_state_on(dir.path(), FULL, port, broker);
    gateway.wait_for_line("the gateway to be ready", 0, PATIENCE, |line| {
        line.starts_with("ready")
    });
    let client = Client::new(
        "sensor-1",
        (Ipv4Addr::LOCALHOST, port).into(),
        &Capture::default(),
    );
    client.connect();
    let topic = TopicRef::Normal(client.register("demo/full"));
    let told = |what: &'static str| {
        gateway.wait_for_line(what, 0, PATIENCE, |line| line.contains(what));
    };

    told("the disk does not take what is written");
    for qos in [AT_LEAST_ONCE, EXACTLY_ONCE] {
        let refused = client.publish(topic, qos, b"now or never");
        client.expect_puback(topic, refused, ReturnCode::Congestion);
    }

    make_room(&gateway, dir.path());
    told("the disk works again");
    client.publish_acknowledged(topic, b"safe");
    let errors = gateway
        .lines()
        .into_iter()
        .filter(|line| line.text.contains("ERROR"));
    assert_eq!(
        errors.map(|line| line.text).collect::<Vec<_>>(),
        Vec::<String>::new()
    );
}

/// Waits until everything that the gateway took before is on disk: REGACK comes when its session is, and what was
/// written before it.
#[track_caller]
fn wait_until_durable(gateway: &Gateway) {
    gateway.connected_client("witness").register("witness/topic");
}
