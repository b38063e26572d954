//! The `snipe` binary, as a gateway and as a tool.

use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tempfile::TempDir;
use toml::{Table, Value};

use crate::{
    broker::{Broker, BrokerKind},
    capture::Capture,
    client::{Client, PATIENCE},
    forwarder::Forwarder,
    net::{free_port, poll_until},
    process::{Finished, Process},
    tshark::check_with_tshark,
};

/// A configuration that is being put together for a gateway.
pub struct Setup {
    /// The gateway counts as started once it is connected to its broker.
    waits_for_broker: bool,
    config: Option<Table>,
    arguments: Vec<String>,
    dir: TempDir,
    port: u16,
}

/// A running gateway.
pub struct Gateway {
    process: Process,
    setup: Setup,
    capture: Capture,
    ready_after: Duration,
}

impl Setup {
    /// One UDP radio on the loopback addresses, and the broker at this URL.
    ///
    /// # Panics
    /// If no temporary directory can be made.
    pub fn new(broker_url: &str) -> Setup {
        Setup::with_broker(&format!("kind = 'external'\nurl = '{broker_url}'"))
    }

    /// The same with a broker of the tests. If it runs, or runs inside the gateway, [`Setup::start`] also waits until the
    /// gateway is connected: what is sent without a broker is another story.
    pub fn beside(broker: &Broker) -> Setup {
        let setup = match broker.kind() {
            BrokerKind::Mosquitto => Setup::new(&broker.url()),
            BrokerKind::Embedded => Setup::with_broker(&format!(
                "kind = 'embedded'\nembedded.bind = ['127.0.0.1:{}']",
                broker.port()
            )),
        };
        Setup {
            waits_for_broker: broker.is_running(),
            ..setup
        }
    }

    /// With these lines in `[broker]`.
    fn with_broker(broker: &str) -> Setup {
        let (port, dir) = (free_port(), TempDir::new().expect("a temporary directory"));
        let state_dir = Value::from(dir.path().join("state").to_string_lossy().into_owned());
        let setup = Setup {
            waits_for_broker: false,
            config: Some(Table::new()),
            arguments: vec![],
            dir,
            port,
        };
        setup.toml(&format!(
            r#"
            [gateway]
            state_dir = {state_dir}
            [[radio]]
            name = "udp0"
            kind = "udp"
            required = true
            bind = ["127.0.0.1:{port}", "[::1]:{port}"]
            multicast = []
            [mqtt_status]
            enabled = false
            [broker]
            client_id = "snipe"
            reconnect = {{ first = "100ms", max = "500ms" }}
            {broker}
            "#,
        ))
    }

    /// No configuration of the test's own: what the binary or a `--config` argument says, with radio and state moved
    /// out of everyone's way by `--set`.
    pub fn without_config() -> Setup {
        let setup = Setup::new("");
        let (port, state) = (setup.port, setup.dir.path().join("state"));
        let bind = format!("radio.udp0.bind=[\"127.0.0.1:{port}\", \"[::1]:{port}\"]");
        let state_dir = format!("gateway.state_dir=\"{}\"", state.display());
        let setup = Setup {
            config: None,
            ..setup
        };
        setup.args(&[
            "--set",
            "mqtt_status.enabled=false",
            "--set",
            &bind,
            "--set",
            "radio.udp0.multicast=[]",
            "--set",
            &state_dir,
        ])
    }

    /// Adds TOML: tables are merged, other values replaced.
    ///
    /// # Panics
    /// If it is no TOML.
    #[track_caller]
    pub fn toml(mut self, text: &str) -> Setup {
        let more: Table = text.parse().unwrap_or_else(|error| panic!("{error}"));
        merge(self.config.as_mut().expect("a configuration of our own"), more);
        self
    }

    /// Adds command-line arguments after `snipe run`.
    pub fn args(mut self, arguments: &[&str]) -> Setup {
        self.arguments.extend(arguments.iter().map(ToString::to_string));
        self
    }

    /// What the gateway tells of itself is as the binary has it: tests see only what clients publish otherwise.
    ///
    /// # Panics
    /// Without a configuration of the test's own.
    #[must_use]
    pub fn with_status(mut self) -> Setup {
        let config = self.config.as_mut().expect("a configuration of our own");
        config.remove("mqtt_status");
        self
    }

    /// The port the gateway will have.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The gateway's state directory.
    pub fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// The gateway counts as started without its broker, whether that is there or not.
    pub fn broker_or_not(self) -> Setup {
        Setup {
            waits_for_broker: false,
            ..self
        }
    }

    /// Takes this port instead.
    #[track_caller]
    pub fn at_port(mut self, port: u16) -> Setup {
        self.port = port;
        self.toml(&format!(
            "[[radio]]\nname = 'udp0'\nkind = 'udp'\nbind = ['127.0.0.1:{port}']\nmulticast = []\nrequired = true"
        ))
    }

    /// Uses this broker whatever the configuration says.
    pub fn option_broker(self, broker: &Broker) -> Setup {
        let options = broker.options();
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        self.args(&options)
    }

    /// Starts the gateway and waits until it says that it is ready.
    #[track_caller]
    pub fn start(self) -> Gateway {
        let started = Instant::now();
        let waits_for_broker = self.waits_for_broker;
        let mut gateway = self.spawn();
        gateway
            .process
            .wait_for_line("the gateway to be ready", 0, PATIENCE, |line| {
                line.starts_with("ready")
            });
        gateway.ready_after = started.elapsed();
        if waits_for_broker {
            gateway.wait_for_broker();
        }
        gateway
    }

    /// Starts the gateway and waits until it ended, as with a bad configuration.
    #[track_caller]
    pub fn start_in_vain(self) -> Finished {
        self.spawn().process.finish(PATIENCE)
    }

    #[track_caller]
    fn spawn(self) -> Gateway {
        let mut command = snipe();
        command.arg("run");
        if let Some(config) = &self.config {
            let file = self.dir.path().join("snipe.toml");
            fs::write(&file, config.to_string()).expect("the directory is ours");
            command.arg("--config").arg(file);
        }
        // Without a configured place, state goes below the home directory.
        command.env("HOME", self.dir.path());
        command.args(&self.arguments);
        let process = Process::spawn("snipe run", command);
        Gateway {
            process,
            setup: self,
            capture: Capture::default(),
            ready_after: Duration::ZERO,
        }
    }
}

impl Gateway {
    /// Its UDP port.
    pub fn port(&self) -> u16 {
        self.setup.port
    }

    /// Its address on 127.0.0.1.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.setup.port).into()
    }

    /// Its address on ::1.
    pub fn address_v6(&self) -> SocketAddr {
        (Ipv6Addr::LOCALHOST, self.setup.port).into()
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// From the start of the process to its "ready".
    pub fn ready_after(&self) -> Duration {
        self.ready_after
    }

    /// Where everything its clients hear is kept.
    pub fn capture(&self) -> &Capture {
        &self.capture
    }

    /// A client of this gateway, not connected.
    pub fn client(&self, id: &str) -> Client {
        Client::new(id, self.address(), &self.capture)
    }

    /// A client of this gateway, connected.
    #[track_caller]
    pub fn connected_client(&self, id: &str) -> Client {
        let client = self.client(id);
        client.connect();
        client
    }

    /// Its control socket.
    pub fn control_socket(&self) -> PathBuf {
        self.setup.state_dir().join("control.sock")
    }

    /// Runs a command that looks into this gateway, such as `topics`.
    #[track_caller]
    pub fn ask(&self, command: &[&str]) -> Finished {
        let socket = self.control_socket();
        let mut arguments = command.to_vec();
        arguments.extend([
            "--socket",
            socket.to_str().expect("the directory has a plain name"),
        ]);
        snipe_finishes(&arguments)
    }

    /// Its counters and gauges, by exported name; those of radios that are no counts are left out.
    ///
    /// # Panics
    /// If the control socket does not answer with them.
    #[track_caller]
    pub fn metrics(&self) -> Vec<(String, u64)> {
        let mut socket = UnixStream::connect(self.control_socket()).expect("the control socket is there");
        socket
            .write_all(b"{\"command\":\"metrics\"}\n")
            .expect("the control socket takes questions");
        let mut line = String::new();
        BufReader::new(socket)
            .read_line(&mut line)
            .expect("the control socket answers");
        let answer: serde_json::Value = serde_json::from_str(&line).expect("an answer is JSON");
        let metrics = answer["metrics"]
            .as_object()
            .unwrap_or_else(|| panic!("no metrics in {line}"));
        metrics
            .iter()
            .filter_map(|(name, value)| Some((name.clone(), value.as_u64()?)))
            .collect()
    }

    /// One of its counters or gauges.
    ///
    /// # Panics
    /// If there is none of that name.
    #[track_caller]
    pub fn metric(&self, name: &str) -> u64 {
        let found = self.metrics().into_iter().find(|(found, _)| found == name);
        found.unwrap_or_else(|| panic!("no metric {name}")).1
    }

    /// Waits until it has answered so many subscriptions, which it does once the broker has.
    #[track_caller]
    pub fn wait_for_subacks(&self, count: u64) {
        // SUBACK.
        let name = "snipe_packets_total{direction=\"tx\",type=\"0x13\"}";
        let answered = || {
            // None before the first.
            let sent = self.metrics().into_iter().find(|(found, _)| found == name);
            sent.filter(|(_, sent)| *sent >= count)
        };
        poll_until("the subscriptions to be answered", PATIENCE, answered);
    }

    /// Waits until so many messages wait for clients.
    #[track_caller]
    pub fn wait_for_buffered(&self, count: u64) {
        let buffered = || (self.metric("snipe_buffer_messages") == count).then_some(());
        poll_until(
            &format!("{count} messages to wait for clients"),
            PATIENCE,
            buffered,
        );
    }

    /// A forwarder of this gateway that sends from this address of the loopback network.
    pub fn forwarder(&self, ip: [u8; 4]) -> Forwarder {
        Forwarder::start(ip, self.address(), &self.capture)
    }

    /// Waits until it is connected to its broker.
    #[track_caller]
    pub fn wait_for_broker(&self) {
        let up = || (self.metric("snipe_broker_up") >= 1).then_some(());
        poll_until("the gateway to be connected to the broker", PATIENCE, up);
    }

    /// Runs a client tool (`pub`, `sub`, `ping`) against this gateway.
    #[track_caller]
    pub fn tool(&self, arguments: &[&str]) -> Finished {
        self.tool_started(arguments).finish(PATIENCE)
    }

    /// Starts a client tool against this gateway.
    #[track_caller]
    pub fn tool_started(&self, arguments: &[&str]) -> Process {
        let (subcommand, rest) = arguments.split_first().expect("which tool?");
        let mut command = snipe();
        command
            .args([subcommand, "-h", "127.0.0.1", "-p", &self.port().to_string()])
            .args(rest);
        Process::spawn(&format!("snipe {}", arguments.join(" ")), command)
    }

    /// Tells it to stop, checks that it does so in good order, and has tshark read what its clients heard.
    #[track_caller]
    pub fn stop(self) {
        self.pause();
    }

    /// Kills it, as a crash would; what it had on disk is there for the next start.
    #[track_caller]
    pub fn kill(mut self) -> Setup {
        self.process.signal(Signal::KILL);
        self.process.wait_for_exit(PATIENCE);
        self.setup
    }

    /// Ends it in good order, to be started again.
    #[track_caller]
    pub fn pause(mut self) -> Setup {
        self.process.signal(Signal::TERM);
        let exit = self.process.wait_for_exit(PATIENCE);
        assert_eq!(exit.code(), Some(0), "SIGTERM is an orderly end");
        check_with_tshark(&self.capture);
        self.setup
    }
}

/// The command `snipe`, as built beside the tests or named by `SNIPE_BIN`.
///
/// # Panics
/// If it is not there.
pub fn snipe() -> Command {
    let binary = env::var_os("SNIPE_BIN").map_or_else(beside_the_tests, PathBuf::from);
    assert!(
        binary.is_file(),
        "the gateway is not built: {} does not exist\nrun tests/run.sh, or cargo build -p snipe first",
        binary.display()
    );
    let mut command = Command::new(binary);
    // The tests say what they want in arguments and files; the environment of whoever runs them says nothing.
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SNIPE_")) {
        command.env_remove(name);
    }
    for name in ["XDG_STATE_HOME", "STATE_DIRECTORY", "RUNTIME_DIRECTORY"] {
        command.env_remove(name);
    }
    command
}

/// Runs `snipe` with these arguments to its end.
#[track_caller]
pub fn snipe_finishes(arguments: &[&str]) -> Finished {
    let mut command = snipe();
    command.args(arguments);
    Process::spawn(&format!("snipe {}", arguments.join(" ")), command).finish(PATIENCE)
}

/// The root of the repository.
///
/// # Panics
/// Never: the tests are compiled from within it.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ is in the root")
        .to_owned()
}

/// Test executables are in `target/<profile>/deps`, binaries one level up.
fn beside_the_tests() -> PathBuf {
    let executable = env::current_exe().expect("the system knows what it runs");
    executable
        .ancestors()
        .nth(2)
        .expect("target/<profile>/deps/test")
        .join("snipe")
}

fn merge(into: &mut Table, more: Table) {
    for (key, value) in more {
        match (into.get_mut(&key), value) {
            (Some(Value::Table(into)), Value::Table(more)) => merge(into, more),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}
