//! The broker inside the gateway: when it is used, when another is, and what MQTT clients see of it.
//!
//! Who names no broker and no port gets port 1883, which on this machine may be somebody else's: those tests run in a
//! network of their own.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use sn_codec::{Packet, PublishQoS, QoS, TopicFilter, TopicRef};
use system_tests::{
    Broker, BrokerKind, Finished, Message, Namespace, PATIENCE, Process, Setup, Signal, free_port, snipe,
};
use tempfile::TempDir;

/// A machine on which nobody has configured anything.
struct Machine {
    network: Namespace,
    home: TempDir,
}

impl Machine {
    fn new() -> Machine {
        Machine {
            network: Namespace::new(),
            home: TempDir::new().expect("a temporary directory"),
        }
    }

    /// `snipe` with these arguments, in the home directory of whoever uses the machine.
    fn snipe(&self, arguments: &[&str]) -> Process {
        let mut command = snipe();
        command.args(arguments).env("HOME", self.home.path());
        self.network
            .spawn(&format!("snipe {}", arguments.join(" ")), &command)
    }

    /// A gateway, ready.
    #[track_caller]
    fn gateway(&self, arguments: &[&str]) -> Process {
        let gateway = self.snipe(arguments);
        gateway.wait_for_line("the gateway to be ready", 0, PATIENCE, |line| {
            line.starts_with("ready")
        });
        gateway
    }

    /// A program with these arguments.
    fn run(&self, program: &str, arguments: &[&str]) -> Process {
        let mut command = Command::new(program);
        command.args(arguments);
        self.network.spawn(program, &command)
    }

    /// A mosquitto on the usual port with these lines in its configuration.
    #[track_caller]
    fn mosquitto(&self, lines: &str) -> Process {
        let file = self.home.path().join("mosquitto.conf");
        let config = format!("listener 1883 127.0.0.1\nuser root\nlog_dest stderr\nlog_type all\n{lines}\n");
        fs::write(&file, config).expect("the directory is ours");
        let program = ["/usr/sbin/mosquitto", "mosquitto"]
            .into_iter()
            .find(|program| Path::new(program).is_file())
            .unwrap_or("mosquitto");
        let broker = self.run(program, &["-c", file.to_str().expect("a plain path")]);
        broker.wait_for_line("mosquitto to run", 0, PATIENCE, |line| line.ends_with(" running"));
        broker
    }

    /// `mosquitto_sub -t FILTER -v`, subscribed.
    #[track_caller]
    fn subscriber(&self, filter: &str) -> Process {
        let subscriber = self.run("stdbuf", &["-oL", "mosquitto_sub", "-d", "-v", "-t", filter]);
        subscriber.wait_for_line("its SUBACK", 0, PATIENCE, |line| line.starts_with("Subscribed"));
        subscriber
    }
}

/// The README's first minutes, word for word.
#[test]
fn nothing_configured_and_no_broker_anywhere_is_gateway_and_broker() {
    let machine = Machine::new();
    let mut gateway = machine.gateway(&[]);
    let said = gateway.transcript();
    assert!(
        said.contains("broker  embedded listening on 127.0.0.1:1883\n"),
        "{said}"
    );

    let subscriber = machine.subscriber("demo/#");
    let published = machine
        .snipe(&["pub", "-t", "demo/hello", "-m", "21.5"])
        .finish(PATIENCE);
    assert_eq!(published.code(), Some(0), "{published:?}");
    subscriber.wait_for_line("what was published", 0, PATIENCE, |line| {
        line == "demo/hello 21.5"
    });

    let mut sensor = machine.snipe(&["sub", "-t", "demo/cmd", "-C", "1", "-d"]);
    sensor.wait_for_line("its SUBACK", 0, PATIENCE, |line| line.contains("SUBACK"));
    let commanded = machine
        .run("mosquitto_pub", &["-t", "demo/cmd", "-m", "on"])
        .finish(PATIENCE);
    assert_eq!(commanded.code(), Some(0), "{commanded:?}");
    sensor.wait_for_line("the command", 0, PATIENCE, |line| line == "on");
    assert_eq!(sensor.wait_for_exit(PATIENCE).code(), Some(0));

    gateway.signal(Signal::TERM);
    assert_eq!(gateway.wait_for_exit(PATIENCE).code(), Some(0));
}

#[test]
fn a_mosquitto_that_has_the_port_is_used_and_named() {
    let machine = Machine::new();
    let broker = machine.mosquitto("allow_anonymous true");
    let mut gateway = machine.gateway(&[]);

    let said = gateway.transcript();
    let expected = format!(
        "broker  port 1883 is in use by mosquitto (pid {}): using it as external broker mqtt://127.0.0.1:1883 (MQTT 5)\n",
        broker.id()
    );
    assert!(said.contains(&expected), "{said}");
    let subscriber = machine.subscriber("demo/#");
    let published = machine
        .snipe(&["pub", "-t", "demo/hello", "-m", "21.5", "-q", "1"])
        .finish(PATIENCE);
    assert_eq!(published.code(), Some(0), "{published:?}");
    subscriber.wait_for_line("what was published", 0, PATIENCE, |line| {
        line == "demo/hello 21.5"
    });
    broker.wait_for_line("the gateway's publish", 0, PATIENCE, |line| {
        line.contains("Received PUBLISH from snipe-1 ") && line.contains("demo/hello")
    });
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.wait_for_exit(PATIENCE).code(), Some(0));
}

#[test]
fn a_mosquitto_that_wants_a_login_is_named_with_what_to_do() {
    let machine = Machine::new();
    let _broker = machine.mosquitto("allow_anonymous false");

    let refused = machine.snipe(&[]).finish(PATIENCE);

    ends_with_69(
        &refused,
        &[
            "TCP port 1883 is in use by mosquitto (pid ",
            "it wants a user name and a password",
            "--broker mqtt://USER:PASSWORD@127.0.0.1:1883",
            "--broker embedded --set 'broker.embedded.bind=[\"127.0.0.1:1884\"]'",
        ],
    );
}

#[test]
fn what_has_the_port_and_is_no_broker_is_named_with_what_to_do() {
    let machine = Machine::new();
    let serve = "import http.server; s = http.server.HTTPServer(('127.0.0.1', 1883), http.server.BaseHTTPRequestHandler); \
                 print('up', flush=True); s.serve_forever()";
    let web = machine.run("python3", &["-c", serve]);
    web.wait_for_line("a web server", 0, PATIENCE, |line| line == "up");

    let refused = machine.snipe(&[]).finish(PATIENCE);

    ends_with_69(
        &refused,
        &[
            &format!("TCP port 1883 is in use by python3 (pid {})", web.id()),
            "does not answer MQTT",
            "--broker mqtt://HOST:1883",
        ],
    );
}

#[test]
fn asked_for_by_option_it_does_not_make_do_with_another() {
    let machine = Machine::new();
    let broker = machine.mosquitto("allow_anonymous true");

    let refused = machine.snipe(&["--broker", "embedded"]).finish(PATIENCE);

    ends_with_69(
        &refused,
        &[
            "the embedded broker cannot listen on 127.0.0.1:1883",
            &format!("in use by mosquitto (pid {})", broker.id()),
            "--broker mqtt://127.0.0.1:1883",
        ],
    );
}

#[test]
fn asked_for_by_kind_or_by_address_it_does_not_make_do_with_another() {
    let other = Broker::mosquitto();
    let bind = format!("embedded.bind = ['127.0.0.1:{}']", other.port());
    for asked in [format!("kind = 'embedded'\n{bind}"), bind] {
        let file = TempDir::new().expect("a temporary directory");
        let path = file.path().join("snipe.toml");
        fs::write(&path, format!("[broker]\n{asked}\n")).expect("the directory is ours");
        let path = path.to_str().expect("a plain path");

        let refused = Setup::without_config().args(&["--config", path]).start_in_vain();

        ends_with_69(
            &refused,
            &["the embedded broker cannot listen on", &other.port().to_string()],
        );
    }
}

#[track_caller]
fn ends_with_69(refused: &Finished, said: &[&str]) {
    assert_eq!(refused.code(), Some(69), "{refused:?}");
    for part in said {
        assert!(
            refused.stderr.contains(part),
            "no {part:?} in\n{}",
            refused.stderr
        );
    }
    assert!(!refused.stdout.contains("ready"), "{}", refused.stdout);
}

#[test]
fn beyond_loopback_it_has_to_be_meant() {
    let port = free_port();
    let bind = format!("broker.embedded.bind=[\"0.0.0.0:{port}\"]");
    let refused = Setup::without_config().args(&["--set", &bind]).start_in_vain();
    assert_eq!(refused.code(), Some(78), "{refused:?}");
    assert!(refused.stderr.contains("anonymous = true"), "{}", refused.stderr);

    let mut gateway = Setup::without_config()
        .args(&["--set", &bind, "--set", "broker.embedded.anonymous=true"])
        .start();
    let said = gateway.process().transcript();
    assert!(
        said.contains(&format!(
            "embedded listening on 0.0.0.0:{port} (no login: open to whoever reaches it)"
        )),
        "{said}"
    );
    gateway.stop();
}

#[test]
fn mqtt_clients_of_both_versions_and_sensors_reach_each_other() {
    let broker = Broker::start_new(BrokerKind::Embedded);
    let gateway = Setup::beside(&broker).start();
    let mut old = broker.subscribe_with("room/#", &["-q", "2", "-V", "311"]);
    let mut new = broker.subscribe_with("room/#", &["-q", "2", "-V", "5"]);
    let display = gateway.connected_client("display");
    let shown = TopicRef::Normal(display.subscribe(TopicFilter::Name("room/1"), QoS::AtLeastOnce));

    for version in ["311", "5"] {
        broker.publish_with("room/1", version, &["-q", "1", "-V", version]);
        for observer in [&mut old, &mut new] {
            observer.expect(Message::new("room/1", version, 1));
        }
        let datagram = display.receive();
        let Packet::Publish(publish) = datagram.packet() else {
            panic!("expected PUBLISH, got {datagram:?}")
        };
        assert_eq!(
            (publish.topic, publish.qos, publish.data),
            (shown, PublishQoS::Level(QoS::AtLeastOnce), version.as_bytes())
        );
        display.acknowledge(&datagram);
    }
    gateway.stop();
}

#[test]
fn what_was_acknowledged_before_a_stop_reaches_subscribers() {
    let broker = Broker::start_new(BrokerKind::Embedded);
    let mut gateway = Setup::beside(&broker).start();
    let mut observer = broker.subscribe_with("last/words", &["-q", "1", "-V", "5"]);
    let client = gateway.connected_client("sensor-1");
    let topic = TopicRef::Normal(client.register("last/words"));

    for n in 0..50 {
        client.publish_acknowledged(topic, n.to_string().as_bytes());
    }
    gateway.process().signal(Signal::TERM);

    for n in 0..50 {
        observer.expect(Message::new("last/words", n.to_string(), 1));
    }
    // Server shutting down (MQTT 5 §3.14.2.1): clients know that it is not their fault, and may come back.
    observer.wait_for_debug("Received DISCONNECT (139)");
    assert_eq!(gateway.process().wait_for_exit(PATIENCE).code(), Some(0));
}

/// Only the broker inside has clients of its own.
#[test]
fn an_mqtt_client_that_does_not_read_does_not_delay_the_end() {
    let broker = Broker::start_new(BrokerKind::Embedded);
    let mut gateway = Setup::beside(&broker).start();
    let observer = broker.subscribe("demo/#");
    observer.process().signal(Signal::STOP);

    let since = Instant::now();
    gateway.process().signal(Signal::TERM);
    assert_eq!(gateway.process().wait_for_exit(PATIENCE).code(), Some(0));

    let took = since.elapsed();
    assert!(took < Duration::from_secs(1), "it took {took:?}");
    observer.process().signal(Signal::CONT);
}

#[test]
fn what_the_broker_holds_and_passes_on_is_counted() {
    let broker = Broker::start_new(BrokerKind::Embedded);
    let gateway = Setup::beside(&broker).start();
    let mut observer = broker.subscribe("demo/#");
    let before = gateway.metric("snipe_broker_publish_sent_total");

    broker.publish_with("demo/kept", "x", &["-r", "-q", "1"]);
    observer.expect(Message::new("demo/kept", "x", 1));

    // The gateway is a client too.
    assert_eq!(gateway.metric("snipe_broker_clients"), 2);
    assert_eq!(gateway.metric("snipe_broker_subscriptions"), 1);
    assert_eq!(gateway.metric("snipe_broker_retained"), 1);
    assert_eq!(gateway.metric("snipe_broker_publish_sent_total"), before + 1);
    gateway.stop();
}

#[test]
fn as_many_files_may_be_open_as_mqtt_clients_may_connect() {
    let machine = Machine::new();
    let mut command = Command::new("prlimit");
    command.arg("--nofile=100:4096").arg(snipe().get_program());
    command.env("HOME", machine.home.path());
    let gateway = machine.network.spawn("snipe", &command);
    gateway.wait_for_line("the gateway to be ready", 0, PATIENCE, |line| {
        line.starts_with("ready")
    });

    let limits = fs::read_to_string(format!("/proc/{}/limits", gateway.id())).expect("it runs");

    let row = limits.lines().find(|line| line.starts_with("Max open files"));
    let soft = row.and_then(|row| row.split_whitespace().nth(3)?.parse::<u64>().ok());
    // connections_max is 1,000.
    assert!(soft.is_some_and(|soft| soft > 1000), "{limits}");
}

#[test]
fn a_gateway_that_is_killed_leaves_the_port_to_the_next() {
    let broker = Broker::start_new(BrokerKind::Embedded);
    let mut gateway = Setup::beside(&broker).start();
    let _observer = broker.subscribe("demo/#");
    gateway.process().signal(Signal::KILL);
    gateway.process().wait_for_exit(PATIENCE);

    // The connection of the observer is still in the kernel's books.
    let gateway = Setup::beside(&broker).start();
    let mut observer = broker.subscribe("demo/#");
    let published = gateway.tool(&["pub", "-t", "demo/hello", "-m", "again", "-q", "1"]);
    assert_eq!(published.code(), Some(0), "{published:?}");
    observer.expect(Message::new("demo/hello", "again", 1));
    gateway.stop();
}
