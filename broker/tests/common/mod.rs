//! What the tests stand on: a real broker, a proxy that can break connections, a stand-in for the core.

use std::collections::{HashSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener};
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use broker::{Journal, Protocol, Reconnect, RemoteConfig, RequestSender, Transport};
use gateway_core::io::{BrokerEvent, BrokerRequest, ConnId, ConnectOptions, Input};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Far longer than anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The connection of most tests.
pub(crate) const CONN: ConnId = ConnId(7);

/// A port on which nobody listens.
pub(crate) fn free_port() -> u16 {
    StdListener::bind((Ipv4Addr::LOCALHOST, 0))
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

pub(crate) fn config(port: u16, protocol: Protocol) -> RemoteConfig {
    RemoteConfig {
        host: "127.0.0.1".into(),
        port,
        transport: Transport::Tcp,
        protocol,
        username: None,
        password: None,
        keep_alive: Duration::from_secs(60),
        in_flight: 20,
        connect_timeout: Duration::from_secs(5),
        reconnect: Reconnect {
            first: Duration::from_millis(10),
            max: Duration::from_millis(40),
            jitter: 0.3,
        },
    }
}

/// mosquitto, on a port of its own.
pub(crate) struct Mosquitto {
    pub(crate) port: u16,
    settings: String,
    directory: tempfile::TempDir,
    process: Child,
    log: Arc<Mutex<Log>>,
}

/// What the tests want to know of what mosquitto did.
#[derive(Debug, Default)]
struct Log {
    /// Packet ids of QoS 2 messages to clients that it had PUBREC for.
    received: HashSet<u16>,
    /// Those that it sent again as PUBLISH all the same, against MQTT 5 §4.3.3: mosquitto 2.0 does that when a
    /// connection breaks before it has repeated all its PUBREL.
    forgotten: HashSet<u16>,
}

impl Log {
    fn read(&mut self, line: &str) {
        let number = |mark: &str, end: char| line.split_once(mark)?.1.split_once(end)?.0.parse().ok();
        if line.contains("Received PUBREC from ") {
            self.received.extend(number("(Mid: ", ')'));
        } else if line.contains("Received PUBCOMP from ") {
            if let Some(packet_id) = number("(Mid: ", ',') {
                self.received.remove(&packet_id);
            }
        } else if line.contains("Sending PUBLISH to ") && line.contains("(d1, q2,") {
            let again = number(", m", ',').filter(|packet_id| self.received.contains(packet_id));
            self.forgotten.extend(again);
        }
    }
}

impl Mosquitto {
    pub(crate) async fn start() -> Self {
        Self::with(free_port(), "allow_anonymous true\n").await
    }

    /// It keeps its state in a file over [`Mosquitto::stop_and_start`].
    pub(crate) async fn persistent() -> Self {
        Self::with(
            free_port(),
            "allow_anonymous true\nmax_inflight_messages 60\npersistence true\n",
        )
        .await
    }

    /// With more lines for its configuration.
    pub(crate) async fn with(port: u16, settings: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let log = Arc::default();
        let process = Self::launch(directory.path(), port, settings, &log).await;
        Mosquitto {
            port,
            settings: settings.into(),
            directory,
            process,
            log,
        }
    }

    /// Kills it and starts it again: sessions are gone.
    pub(crate) async fn restart(&mut self) {
        self.kill().await;
        self.process = Self::launch(self.directory.path(), self.port, &self.settings, &self.log).await;
    }

    /// Ends it in good order and starts it again.
    pub(crate) async fn stop_and_start(&mut self) {
        let process = self.process.id().unwrap().to_string();
        let status = Command::new("kill").arg(process).status().await.unwrap();
        assert!(status.success());
        timeout(PATIENCE, self.process.wait()).await.unwrap().unwrap();
        self.process = Self::launch(self.directory.path(), self.port, &self.settings, &self.log).await;
    }

    pub(crate) async fn kill(&mut self) {
        self.process.kill().await.unwrap();
    }

    /// Packet ids of the QoS 2 messages that it sent again although it had PUBREC for them.
    pub(crate) fn forgotten(&self) -> HashSet<u16> {
        self.log.lock().unwrap().forgotten.clone()
    }

    async fn launch(directory: &Path, port: u16, settings: &str, log: &Arc<Mutex<Log>>) -> Child {
        let file = directory.join("mosquitto.conf");
        let text = format!(
            "listener {port} 127.0.0.1\nmax_queued_messages 0\nset_tcp_nodelay true\n\
             log_dest stderr\nlog_type all\nuser root\npersistence_location {}/\n{settings}",
            directory.display()
        );
        std::fs::write(&file, text).unwrap();
        // Debian keeps it where only root looks.
        let path = format!(
            "{}:/usr/local/sbin:/usr/sbin",
            std::env::var("PATH").unwrap_or_default()
        );
        let mut process = Command::new("mosquitto")
            .env("PATH", path)
            .arg("-c")
            .arg(&file)
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("these tests need mosquitto");
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let running = async {
            let mut seen = String::new();
            while let Some(line) = lines.next_line().await.unwrap() {
                if line.ends_with("running") {
                    return;
                }
                seen += &line;
                seen.push('\n');
            }
            panic!("mosquitto did not start:\n{seen}");
        };
        timeout(PATIENCE, running).await.unwrap();
        // It must not stand still on a full pipe.
        let log = log.clone();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                log.lock().unwrap().read(&line);
            }
        });
        process
    }
}

/// mosquitto_sub: a subscriber with which the code under test has nothing in common.
pub(crate) struct Subscriber {
    lines: Lines<BufReader<ChildStdout>>,
    _process: Child,
}

impl Subscriber {
    /// Subscribed to `filter` with QoS 2 when it returns.
    pub(crate) async fn start(port: u16, filter: &str) -> Self {
        Self::with_version(port, filter, "5").await
    }

    /// The same in MQTT 3.1.1: in version 5, mosquitto_sub 2.0 counts what it may receive at once wrongly under load.
    pub(crate) async fn start_v3(port: u16, filter: &str) -> Self {
        Self::with_version(port, filter, "311").await
    }

    async fn with_version(port: u16, filter: &str, version: &str) -> Self {
        // Line by line: it tells of its subscription only when its buffer is full otherwise.
        let mut process = Command::new("stdbuf")
            .args([
                "-oL",
                "mosquitto_sub",
                "-h",
                "127.0.0.1",
                "-p",
                &port.to_string(),
                "-q",
                "2",
                "-V",
                version,
                "-d",
                "-t",
                filter,
            ])
            .args(["-F", "~%q %r %t %p"])
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("these tests need mosquitto_sub");
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let subscribed = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if line.starts_with("Subscribed") {
                    return;
                }
            }
            panic!("mosquitto_sub did not subscribe");
        };
        timeout(PATIENCE, subscribed).await.unwrap();
        Subscriber {
            lines,
            _process: process,
        }
    }

    /// The next message as `QOS RETAIN TOPIC PAYLOAD`.
    pub(crate) async fn next(&mut self) -> String {
        let message = async {
            loop {
                let line = self
                    .lines
                    .next_line()
                    .await
                    .unwrap()
                    .expect("mosquitto_sub ended");
                if let Some(message) = line.strip_prefix('~') {
                    return message.to_owned();
                }
            }
        };
        timeout(PATIENCE, message).await.expect("no message")
    }

    /// Payloads up to and without `last`, which is published with QoS 2 when all others are: mosquitto_sub shows a QoS 2
    /// message only at its PUBREL.
    pub(crate) async fn payloads_until(&mut self, last: &str) -> Vec<String> {
        let mut payloads = Vec::new();
        loop {
            let message = self.next().await;
            let payload = message.rsplit(' ').next().unwrap();
            if payload == last {
                return payloads;
            }
            payloads.push(payload.to_owned());
        }
    }
}

/// Leaves a session with one subscription at the broker, as a process that died would.
pub(crate) async fn leave_session(port: u16, protocol: Protocol, client_id: &str, filter: &str) {
    let version: &[&str] = match protocol {
        Protocol::V3 => &["-V", "311"],
        Protocol::V5 => &["-V", "5", "-x", "3600"],
    };
    let status = Command::new("mosquitto_sub")
        .args(["-h", "127.0.0.1", "-p", &port.to_string(), "-c", "-E", "-q", "1"])
        .args(["-i", client_id, "-t", filter])
        .args(version)
        .status()
        .await
        .expect("these tests need mosquitto_sub");
    assert!(status.success());
}

/// Publishes one message with mosquitto_pub.
pub(crate) async fn publish(port: u16, arguments: &[&str]) {
    let status = Command::new("mosquitto_pub")
        .args(["-h", "127.0.0.1", "-p", &port.to_string()])
        .args(arguments)
        .status()
        .await
        .expect("these tests need mosquitto_pub");
    assert!(status.success());
}

/// Publishes one message for each line with mosquitto_pub, in the background: it is done when the task ends.
pub(crate) async fn publish_lines(port: u16, arguments: &[&str], lines: String) -> JoinHandle<()> {
    let mut process = Command::new("mosquitto_pub")
        .args(["-h", "127.0.0.1", "-p", &port.to_string()])
        .args(arguments)
        .stdin(Stdio::piped())
        .spawn()
        .expect("these tests need mosquitto_pub");
    let mut stdin = process.stdin.take().unwrap();
    tokio::spawn(async move {
        stdin.write_all(lines.as_bytes()).await.unwrap();
        drop(stdin);
        assert!(process.wait().await.unwrap().success());
    })
}

/// A TCP proxy that can break its connections and hold back what the broker says.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    cut: watch::Sender<u64>,
    admit: watch::Sender<bool>,
    /// Its receivers are the connections.
    open: watch::Sender<()>,
    hold: watch::Sender<bool>,
}

impl Proxy {
    /// To a local port; each piece of data is delayed a little, so that there is something to cut.
    pub(crate) async fn start(to: u16, delay: Duration) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (cut, cut_seen) = watch::channel(0);
        let (admit, admitted) = watch::channel(true);
        let (hold, hold_seen) = watch::channel(false);
        let open = watch::channel(()).0;
        let connections = open.clone();
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                if !*admitted.borrow() {
                    continue;
                }
                let connection = connections.subscribe();
                let mut cut_seen = cut_seen.clone();
                cut_seen.mark_unchanged();
                let hold_seen = hold_seen.clone();
                tokio::spawn(async move {
                    let both = async {
                        let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, to)).await else {
                            return;
                        };
                        client.set_nodelay(true).unwrap();
                        server.set_nodelay(true).unwrap();
                        let (client_read, client_write) = client.into_split();
                        let (server_read, server_write) = server.into_split();
                        let never = watch::channel(false).1;
                        tokio::select! {
                            () = pass(client_read, server_write, delay, never) => {}
                            () = pass(server_read, client_write, delay, hold_seen) => {}
                        }
                    };
                    tokio::select! {
                        () = both => {}
                        _ = cut_seen.changed() => {}
                    }
                    drop(connection);
                });
            }
        });
        Proxy {
            port,
            cut,
            admit,
            open,
            hold,
        }
    }

    /// All connections are broken when it returns.
    pub(crate) async fn cut(&self) {
        self.break_all();
        timeout(PATIENCE, self.open.closed()).await.unwrap();
    }

    /// Breaks all connections.
    pub(crate) fn break_all(&self) {
        self.cut.send_modify(|n| *n += 1);
    }

    /// Hangs up on whoever comes, or not.
    pub(crate) fn admit(&self, admit: bool) {
        self.admit.send_replace(admit);
    }

    /// Keeps back what the broker says from now on, or lets it pass again.
    pub(crate) fn hold(&self, hold: bool) {
        self.hold.send_replace(hold);
    }
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    delay: Duration,
    mut hold: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 4096];
    loop {
        let Ok(n @ 1..) = from.read(&mut buffer).await else {
            return;
        };
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        // A sender that is gone holds nothing back.
        let _ = hold.wait_for(|hold| !hold).await;
        if to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}

/// Stands in for the core.
pub(crate) struct Core {
    pub(crate) requests: RequestSender,
    inputs: mpsc::Receiver<Input>,
    events: VecDeque<BrokerEvent>,
}

impl Core {
    pub(crate) fn new(config: RemoteConfig) -> Self {
        Self::with_journal(config, None)
    }

    pub(crate) fn with_journal(config: RemoteConfig, journal: Option<Journal>) -> Self {
        let (sender, inputs) = mpsc::channel(16);
        Core {
            requests: broker::spawn(config, sender, journal),
            inputs,
            events: VecDeque::new(),
        }
    }

    /// With [`CONN`] open.
    pub(crate) fn open(config: RemoteConfig) -> Self {
        let mut core = Self::new(config);
        core.send(BrokerRequest::Open {
            conn: CONN,
            options: options("port-under-test"),
        });
        core
    }

    /// With [`CONN`] up.
    pub(crate) async fn up(config: RemoteConfig) -> Self {
        let mut core = Self::open(config);
        core.expect_up(false).await;
        core
    }

    pub(crate) fn send(&mut self, request: BrokerRequest) {
        self.requests.send(vec![request]);
    }

    /// The next event.
    pub(crate) async fn next(&mut self) -> BrokerEvent {
        while self.events.is_empty() {
            self.gather().await;
        }
        self.events.pop_front().unwrap()
    }

    /// The next event that is not credit.
    pub(crate) async fn event(&mut self) -> BrokerEvent {
        loop {
            match self.next().await {
                BrokerEvent::Credit { .. } => {}
                event => return event,
            }
        }
    }

    /// The next batch as the port made it.
    pub(crate) async fn batch(&mut self) -> Vec<BrokerEvent> {
        if self.events.is_empty() {
            self.gather().await;
        }
        self.events.drain(..).collect()
    }

    async fn gather(&mut self) {
        match timeout(PATIENCE, self.inputs.recv())
            .await
            .expect("no event")
            .expect("port ended")
        {
            Input::Broker(events) => self.events.extend(events),
            input => panic!("{input:?}"),
        }
    }

    /// The last events before the port ended.
    pub(crate) async fn remaining(mut self) -> Vec<BrokerEvent> {
        drop(self.requests);
        while let Some(Input::Broker(events)) =
            timeout(PATIENCE, self.inputs.recv()).await.expect("port hangs")
        {
            self.events.extend(events);
        }
        self.events.into()
    }

    /// Returns the window.
    pub(crate) async fn expect_up(&mut self, session: bool) -> u16 {
        let window = match self.event().await {
            BrokerEvent::Up {
                conn: CONN,
                session_present,
                window,
                forgets: false,
            } if session_present == session => window,
            event => panic!("{event:?}"),
        };
        assert_eq!(
            self.next().await,
            BrokerEvent::Credit {
                conn: CONN,
                requests: broker::CREDIT
            }
        );
        window
    }

    /// Returns the reason.
    pub(crate) async fn expect_down(&mut self) -> String {
        match self.event().await {
            BrokerEvent::Down { conn: CONN, reason } => reason,
            event => panic!("{event:?}"),
        }
    }
}

pub(crate) fn options(client_id: &str) -> ConnectOptions {
    ConnectOptions {
        client_id: client_id.into(),
        clean_start: true,
        will: None,
        ..ConnectOptions::default()
    }
}

/// A broker that says what the test tells it to, for what mosquitto cannot be made to do. Speaks MQTT 5.
pub(crate) struct FakeBroker {
    listener: TcpListener,
    pub(crate) port: u16,
}

/// One connection to a [`FakeBroker`].
pub(crate) struct FakeConnection(TcpStream);

impl FakeBroker {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let SocketAddr::V4(address) = listener.local_addr().unwrap() else {
            unreachable!()
        };
        FakeBroker {
            listener,
            port: address.port(),
        }
    }

    /// Takes a connection and ends it.
    pub(crate) async fn hang_up(&self) {
        let connection = timeout(PATIENCE, self.listener.accept()).await;
        connection.expect("no connection").unwrap();
    }

    /// Takes a connection and its CONNECT, and answers with this CONNACK, from its flags on. If the CONNECT begins
    /// clean, which only discards the session of before, it is the next that counts.
    pub(crate) async fn accept(&self, connack: &[u8]) -> (FakeConnection, Vec<u8>) {
        let (mut connection, connect) = self.accept_one(connack).await;
        let (is_clean, is_accepted) = (connect[7] & 0x02 != 0, connack[1] == 0);
        if !is_clean || !is_accepted {
            return (connection, connect);
        }
        assert_eq!(connection.read().await.expect("no DISCONNECT").0, 0xE0);
        self.accept_one(connack).await
    }

    /// Takes a connection and its CONNECT, and answers with this CONNACK, from its flags on.
    pub(crate) async fn accept_one(&self, connack: &[u8]) -> (FakeConnection, Vec<u8>) {
        let (stream, _) = timeout(PATIENCE, self.listener.accept())
            .await
            .expect("no connection")
            .unwrap();
        let mut connection = FakeConnection(stream);
        let (first, connect) = connection.read().await.expect("no CONNECT");
        assert_eq!(first, 0x10);
        connection.write(0x20, connack).await;
        (connection, connect)
    }

    /// Checks that nobody connects for a while.
    pub(crate) async fn expect_nobody(&self) {
        let accepted = timeout(Duration::from_millis(500), self.listener.accept()).await;
        assert!(accepted.is_err(), "somebody connected");
    }
}

impl FakeConnection {
    /// The next packet: its first octet, and what follows the remaining length. None at the end.
    pub(crate) async fn read(&mut self) -> Option<(u8, Vec<u8>)> {
        timeout(PATIENCE, async {
            let first = self.0.read_u8().await.ok()?;
            let mut len = 0;
            for shift in [0, 7, 14, 21] {
                let octet = self.0.read_u8().await.ok()?;
                len |= usize::from(octet & 0x7F) << shift;
                if octet & 0x80 == 0 {
                    break;
                }
            }
            let mut body = vec![0; len];
            self.0.read_exact(&mut body).await.ok()?;
            Some((first, body))
        })
        .await
        .expect("no packet")
    }

    /// Octets that one read brings.
    pub(crate) async fn read_some(&mut self) -> usize {
        timeout(PATIENCE, self.0.read(&mut [0; 4096]))
            .await
            .expect("nothing to read")
            .unwrap()
    }

    /// Writes a packet of at most 127 octets.
    pub(crate) async fn write(&mut self, first: u8, body: &[u8]) {
        let mut packet = vec![first, u8::try_from(body.len()).unwrap()];
        assert!(body.len() < 128);
        packet.extend_from_slice(body);
        self.0.write_all(&packet).await.unwrap();
    }
}
