//! The broker that a test runs beside, mosquitto or the one inside the gateway, and mosquitto's command-line clients.

use std::{
    fs,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::{
    client::{PATIENCE, SILENCE},
    net::{free_port, poll_until},
    process::Process,
};

/// Which broker a test runs beside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BrokerKind {
    /// A mosquitto.
    Mosquitto,
    /// The one inside the gateway, which runs as long as the gateway does.
    Embedded,
}

impl BrokerKind {
    /// The MQTT versions that the gateway can speak to it: inside there are none.
    pub fn protocols(self) -> &'static [u8] {
        match self {
            BrokerKind::Mosquitto => &[3, 5],
            BrokerKind::Embedded => &[5],
        }
    }
}

/// Makes two tests of each function: one beside mosquitto and one with the broker inside the gateway.
///
/// A test that is not in the list, and takes no [`BrokerKind`], says why one broker is enough for it.
#[macro_export]
macro_rules! with_each_broker {
    ($($test:ident),+ $(,)?) => {
        mod mosquitto {
            $(#[test]
            fn $test() {
                super::$test($crate::BrokerKind::Mosquitto);
            })+
        }

        mod embedded {
            $(#[test]
            fn $test() {
                super::$test($crate::BrokerKind::Embedded);
            })+
        }
    };
}

/// A broker on a free port of 127.0.0.1.
pub struct Broker {
    port: u16,
    place: Place,
}

/// How the line of mosquitto's log ends that tells that it runs: to be kept.
pub const RUNNING: &str = " running";

/// Where a broker runs.
enum Place {
    /// A mosquitto in a directory of its own, with every packet in its log; not running until started.
    Mosquitto {
        dir: TempDir,
        process: Option<Process>,
        /// Which lines of its log are kept.
        keeps: fn(&str) -> bool,
    },
    /// Inside the gateway that is set up beside it.
    Gateway,
}

/// A `mosquitto_sub` that has its subscription.
pub struct Subscriber {
    process: Process,
    next: usize,
}

/// A message as `mosquitto_sub` saw it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Message {
    /// Topic name.
    pub topic: String,
    /// Payload.
    pub payload: Vec<u8>,
    /// QoS it was delivered with.
    pub qos: u8,
    /// The retain bit as delivered.
    pub retain: bool,
}

impl Message {
    /// A message that is not retained.
    pub fn new(topic: &str, payload: impl AsRef<[u8]>, qos: u8) -> Message {
        Message {
            topic: topic.to_owned(),
            payload: payload.as_ref().to_vec(),
            qos,
            retain: false,
        }
    }
}

impl Broker {
    /// A broker that is there when the gateway is: a running mosquitto, or the one that the gateway brings along.
    #[track_caller]
    pub fn start_new(kind: BrokerKind) -> Broker {
        match kind {
            BrokerKind::Mosquitto => Broker::mosquitto(),
            BrokerKind::Embedded => Broker {
                port: free_port(),
                place: Place::Gateway,
            },
        }
    }

    /// A running mosquitto.
    #[track_caller]
    pub fn mosquitto() -> Broker {
        let mut broker = Broker::stopped();
        broker.start();
        broker
    }

    /// A mosquitto with a port and a directory that does not run yet.
    ///
    /// # Panics
    /// If its configuration cannot be written.
    pub fn stopped() -> Broker {
        let (port, dir) = (free_port(), TempDir::new().expect("a temporary directory"));
        // Sessions survive SIGTERM, not SIGKILL: the first is a restart, the second a loss. `user` keeps a mosquitto
        // that was started by root able to write here.
        let config = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\nuser root\nlog_type all\nlog_dest stderr\n\
             persistence true\npersistence_location {}/\nset_tcp_nodelay true\nmax_queued_messages 0\n",
            dir.path().display()
        );
        fs::write(dir.path().join("mosquitto.conf"), config).expect("the directory is ours");
        Broker {
            port,
            place: Place::Mosquitto {
                dir,
                process: None,
                keeps: |_| true,
            },
        }
    }

    /// Has mosquitto take any number of messages at once from each client. Of its log, lines that `keep` accepts are kept;
    /// [`RUNNING`] is to be one.
    ///
    /// With its usual limit it refuses the publishes of clients that it knows from before a restart: it counts those
    /// that it restored, and does not forget them when they end (2.0.11).
    ///
    /// # Panics
    /// If it is the broker inside the gateway.
    #[must_use]
    pub fn for_many_messages(self, keep: fn(&str) -> bool) -> Broker {
        let mut broker = self.with_line("max_inflight_messages 0");
        if let Place::Mosquitto { keeps, .. } = &mut broker.place {
            *keeps = keep;
        }
        broker
    }

    /// Has mosquitto take this line of configuration too.
    ///
    /// # Panics
    /// If it is the broker inside the gateway.
    #[must_use]
    pub fn with_line(self, line: &str) -> Broker {
        let Place::Mosquitto { dir, .. } = &self.place else {
            panic!("the broker inside the gateway has no configuration of its own")
        };
        let file = dir.path().join("mosquitto.conf");
        let config = fs::read_to_string(&file).expect("it was written by us");
        fs::write(file, format!("{config}{line}\n")).expect("the directory is ours");
        self
    }

    /// Has mosquitto allow nothing but what these lines of an ACL file do.
    ///
    /// # Panics
    /// If it is the broker inside the gateway.
    #[must_use]
    pub fn with_acl(self, lines: &str) -> Broker {
        let Place::Mosquitto { dir, .. } = &self.place else {
            panic!("the broker inside the gateway has no configuration of its own")
        };
        let (file, acl) = (dir.path().join("mosquitto.conf"), dir.path().join("acl"));
        fs::write(&acl, lines).expect("the directory is ours");
        let config = fs::read_to_string(&file).expect("it was written by us");
        fs::write(file, format!("{config}acl_file {}\n", acl.display())).expect("the directory is ours");
        self
    }

    /// Starts it, on the same port as always.
    ///
    /// # Panics
    /// If it is the gateway that starts it.
    #[track_caller]
    pub fn start(&mut self) {
        let Place::Mosquitto { dir, process, keeps } = &mut self.place else {
            panic!("it starts with the gateway")
        };
        let mut command = Command::new(mosquitto_program());
        command.arg("-c").arg(dir.path().join("mosquitto.conf"));
        let started = Process::spawn_keeping("mosquitto", command, *keeps);
        started.wait_for_line("mosquitto to run", 0, PATIENCE, |line| line.ends_with(RUNNING));
        *process = Some(started);
    }

    /// Ends it in good order: its sessions are there again after [`Broker::start`].
    #[track_caller]
    pub fn stop(&mut self) {
        self.end(Signal::TERM);
    }

    /// Kills it: what it did not write is gone.
    #[track_caller]
    pub fn kill(&mut self) {
        self.end(Signal::KILL);
    }

    #[track_caller]
    fn end(&mut self, signal: Signal) {
        let Place::Mosquitto { process, .. } = &mut self.place else {
            panic!("it ends with the gateway")
        };
        let mut process = process.take().expect("it runs");
        process.signal(signal);
        process.wait_for_exit(PATIENCE);
    }

    /// True if it is there when the gateway is.
    pub fn is_running(&self) -> bool {
        match &self.place {
            Place::Mosquitto { process, .. } => process.is_some(),
            Place::Gateway => true,
        }
    }

    /// Which it is.
    pub fn kind(&self) -> BrokerKind {
        match self.place {
            Place::Mosquitto { .. } => BrokerKind::Mosquitto,
            Place::Gateway => BrokerKind::Embedded,
        }
    }

    /// The options that have a gateway without a configuration use it.
    pub fn options(&self) -> Vec<String> {
        match self.kind() {
            BrokerKind::Mosquitto => vec!["--broker".to_owned(), self.url()],
            BrokerKind::Embedded => vec![
                "--broker".to_owned(),
                "embedded".to_owned(),
                "--set".to_owned(),
                format!("broker.embedded.bind=[\"127.0.0.1:{}\"]", self.port),
            ],
        }
    }

    /// Its TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its address as a URL.
    pub fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    /// The running mosquitto, whose lines are its log.
    ///
    /// # Panics
    /// If there is none.
    #[track_caller]
    pub fn log(&self) -> &Process {
        match &self.place {
            Place::Mosquitto { process, .. } => process.as_ref().expect("the broker runs"),
            Place::Gateway => panic!("the broker inside the gateway has no log of its own"),
        }
    }

    /// Waits for a line of mosquitto's log.
    #[track_caller]
    pub fn wait_for_log(&self, what: &str, wanted: impl Fn(&str) -> bool) -> usize {
        self.log().wait_for_line(what, 0, PATIENCE, wanted).0
    }

    /// Subscribes with QoS 2.
    #[track_caller]
    pub fn subscribe(&self, filter: &str) -> Subscriber {
        self.subscribe_with(filter, &["-q", "2"])
    }

    /// Subscribes with options of `mosquitto_sub`.
    #[track_caller]
    pub fn subscribe_with(&self, filter: &str, options: &[&str]) -> Subscriber {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let id = format!("observer-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        self.subscribe_as(&id, filter, options)
    }

    /// Keeps a subscription with QoS 1 that lasts without anyone connected, for [`Broker::subscribe_as`] to take up.
    ///
    /// # Panics
    /// If the broker does not grant it.
    #[track_caller]
    pub fn keep_subscription(&self, id: &str, filter: &str) {
        let mut command = Command::new("mosquitto_sub");
        command.args([
            "-h",
            "127.0.0.1",
            "-p",
            &self.port.to_string(),
            "-i",
            id,
            "-c",
            "-E",
            "-q",
            "1",
            "-t",
            filter,
        ]);
        let exit = Process::spawn("mosquitto_sub", command).wait_for_exit(PATIENCE);
        assert!(exit.success(), "mosquitto_sub: {exit}");
    }

    /// Subscribes under a client id of the test's choice.
    #[track_caller]
    pub fn subscribe_as(&self, id: &str, filter: &str, options: &[&str]) -> Subscriber {
        // Debug output tells of the SUBACK, and leaves a pipe when it is written only if the lines are not gathered.
        let mut command = Command::new("stdbuf");
        command.args(["-oL", "mosquitto_sub", "-d"]);
        // %x: the payload in hexadecimal, so that any octet and line end survives.
        command.args([
            "-h",
            "127.0.0.1",
            "-p",
            &self.port.to_string(),
            "-i",
            id,
            "-t",
            filter,
        ]);
        command.args(["-F", "%q\t%r\t%t\t%x"]).args(options);
        let process = Process::spawn(&format!("mosquitto_sub -t {filter}"), command);
        process.wait_for_line("the observer's SUBACK", 0, PATIENCE, |line| {
            line.starts_with("Subscribed (mid: ")
        });
        Subscriber { process, next: 0 }
    }

    /// Publishes to a topic until the broker says that nobody subscribes to it (MQTT 5 §3.4.2.1).
    #[track_caller]
    pub fn wait_until_nobody_subscribes_to(&self, topic: &str) {
        poll_until("nobody to subscribe any more", PATIENCE, || {
            let mut command = Command::new("mosquitto_pub");
            command.args(["-h", "127.0.0.1", "-p", &self.port.to_string()]);
            command.args(["-V", "5", "-q", "1", "-d", "-t", topic, "-m", "anyone?"]);
            let said = Process::spawn("mosquitto_pub", command).finish(PATIENCE).stdout;
            said.contains("RC:16").then_some(())
        });
    }

    /// Publishes a message.
    #[track_caller]
    pub fn publish(&self, topic: &str, payload: &str, qos: u8) {
        self.publish_with(topic, payload, &["-q", &qos.to_string()]);
    }

    /// Publishes a message with further options of `mosquitto_pub`.
    ///
    /// # Panics
    /// If `mosquitto_pub` fails.
    #[track_caller]
    pub fn publish_with(&self, topic: &str, payload: &str, options: &[&str]) {
        let mut command = Command::new("mosquitto_pub");
        command
            .args([
                "-h",
                "127.0.0.1",
                "-p",
                &self.port.to_string(),
                "-t",
                topic,
                "-m",
                payload,
            ])
            .args(options);
        let exit = Process::spawn("mosquitto_pub", command).wait_for_exit(PATIENCE);
        assert!(exit.success(), "mosquitto_pub: {exit}");
    }
}

/// Debian installs the broker where only root's PATH looks.
pub(crate) fn mosquitto_program() -> &'static str {
    if fs::exists("/usr/sbin/mosquitto").unwrap_or(false) {
        "/usr/sbin/mosquitto"
    } else {
        "mosquitto"
    }
}

impl Subscriber {
    /// The next message.
    ///
    /// # Panics
    /// If none comes.
    #[track_caller]
    pub fn receive(&mut self) -> Message {
        let (at, line) = self
            .process
            .wait_for_line("a message", self.next, PATIENCE, is_message);
        self.next = at + 1;
        parse(&line.text).expect("checked by is_message")
    }

    /// The `mosquitto_sub`.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Waits for a line of its debug output that contains this.
    #[track_caller]
    pub fn wait_for_debug(&self, text: &str) {
        self.process
            .wait_for_line(text, 0, PATIENCE, |line| line.contains(text));
    }

    /// Checks the next message.
    #[track_caller]
    pub fn expect(&mut self, expected: Message) {
        assert_eq!(self.receive(), expected);
    }

    /// As many messages, in the order they came.
    #[track_caller]
    pub fn receive_many(&mut self, count: usize) -> Vec<Message> {
        (0..count).map(|_| self.receive()).collect()
    }

    /// Checks that no message comes for a while.
    #[track_caller]
    pub fn expect_silence(&self) {
        std::thread::sleep(SILENCE);
        self.expect_nothing_more();
    }

    /// Checks that no message came that was not asked for.
    #[track_caller]
    pub fn expect_nothing_more(&self) {
        let more: Vec<_> = self.process.lines().split_off(self.next);
        let more: Vec<_> = more.iter().filter_map(|line| parse(&line.text)).collect();
        assert!(more.is_empty(), "expected no message, got {more:?}");
    }
}

fn is_message(line: &str) -> bool {
    parse(line).is_some()
}

fn parse(line: &str) -> Option<Message> {
    let mut fields = line.split('\t');
    let (qos, retain, topic, payload) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let octets = payload.as_bytes().chunks(2);
    let payload: Option<Vec<u8>> = octets
        .map(|octet| u8::from_str_radix(std::str::from_utf8(octet).ok()?, 16).ok())
        .collect();
    Some(Message {
        topic: topic.to_owned(),
        payload: payload?,
        qos: qos.parse().ok()?,
        retain: retain == "1",
    })
}
