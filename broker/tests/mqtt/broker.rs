//! The broker under test.

use std::collections::BTreeSet;
use std::env;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use broker::{Embedded, EmbeddedConfig, EmbeddedLimits};
use tokio::runtime;
use tokio::sync::mpsc::channel;
use tokio::sync::oneshot;

use super::client::{Client, Event, PATIENCE};
use super::packet::{Connect, Packet, Publish, Version};

/// Which broker the tests run against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Ours, one for each test.
    Embedded,
    /// mosquitto, one for each test.
    Mosquitto,
    /// Whatever listens there, for one test at a time.
    Elsewhere(String),
}

impl Kind {
    /// From `SNIPE_MQTT_BROKER`: nothing, `mosquitto`, or `HOST:PORT`.
    pub(crate) fn chosen() -> Self {
        match env::var("SNIPE_MQTT_BROKER") {
            Err(_) => Kind::Embedded,
            Ok(name) if name == "mosquitto" => Kind::Mosquitto,
            Ok(address) => Kind::Elsewhere(address),
        }
    }
}

/// A broker, and the MQTT version its clients speak unless told otherwise.
pub(crate) struct Broker {
    pub(crate) address: SocketAddr,
    pub(crate) version: Version,
    _held: Held,
}

/// What keeps the broker alive.
enum Held {
    Embedded { _broker: EmbeddedBroker },
    Mosquitto { _process: Mosquitto },
    Elsewhere { _alone: MutexGuard<'static, ()> },
}

impl Broker {
    pub(crate) fn start(kind: &Kind, version: Version) -> Self {
        match kind {
            Kind::Embedded => Broker::embedded(version, EmbeddedLimits::default()),
            Kind::Mosquitto => {
                let process = Mosquitto::start();
                Broker {
                    address: process.address,
                    version,
                    _held: Held::Mosquitto { _process: process },
                }
            }
            Kind::Elsewhere(address) => {
                static ALONE: Mutex<()> = Mutex::new(());
                let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
                let address = address
                    .to_socket_addrs()
                    .expect("HOST:PORT")
                    .next()
                    .expect("an address");
                let broker = Broker {
                    address,
                    version,
                    _held: Held::Elsewhere { _alone: alone },
                };
                broker.forget_retained();
                broker
            }
        }
    }

    /// Ours, with these limits.
    pub(crate) fn embedded(version: Version, limits: EmbeddedLimits) -> Self {
        let broker = EmbeddedBroker::start(limits);
        Broker {
            address: broker.address,
            version,
            _held: Held::Embedded { _broker: broker },
        }
    }

    /// TCP alone.
    pub(crate) fn open(&self) -> Client {
        Client::open(self.address, self.version)
    }

    /// Connected with a new session that ends with the connection.
    #[track_caller]
    pub(crate) fn client(&self, client_id: &str) -> Client {
        self.connect(Connect::new(client_id))
    }

    /// Connected with a session that outlives the connection, whether it existed or not.
    #[track_caller]
    pub(crate) fn kept(&self, client_id: &str) -> Client {
        self.connect(Connect::kept(self.version, client_id))
    }

    #[track_caller]
    pub(crate) fn connect(&self, connect: Connect) -> Client {
        let mut client = self.open();
        client.connect(&connect);
        client
    }

    /// Publishes from a connection of its own.
    #[track_caller]
    pub(crate) fn publish(&self, publish: Publish) {
        let mut publisher = self.client("publisher");
        assert!(publisher.publish(publish) < 0x80);
        publisher.disconnect();
    }

    /// What is retained under `filter`, as a client that comes now sees it.
    #[track_caller]
    pub(crate) fn retained(&self, filter: &str) -> Vec<(String, String)> {
        let mut client = self.client("looking");
        client.subscribe(filter, 0);
        client.barrier();
        let mut seen = Vec::new();
        while let Event::Packet(Packet::Publish(publish)) = client.event(Duration::ZERO) {
            assert!(publish.retain, "{publish:?}");
            seen.push((publish.topic.clone(), publish.text()));
        }
        client.disconnect();
        seen.sort();
        seen
    }

    fn forget_retained(&self) {
        let mut client = self.client("cleaner");
        client.subscribe("#", 0);
        while let Event::Packet(Packet::Publish(publish)) = client.event(Duration::from_millis(100)) {
            if publish.retain {
                client.publish(Publish::new(&publish.topic, "").retain());
            }
        }
    }
}

/// The broker of this crate, on a thread of its own.
pub(crate) struct EmbeddedBroker {
    pub(crate) address: SocketAddr,
    /// Dropping it ends the thread.
    _stop: oneshot::Sender<()>,
}

impl EmbeddedBroker {
    pub(crate) fn start(limits: EmbeddedLimits) -> Self {
        let bind = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))];
        let embedded = Embedded::open(&EmbeddedConfig { bind, limits }).unwrap();
        let address = embedded.local_addrs()[0];
        let (stop, stopped) = oneshot::channel();
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        thread::spawn(move || {
            runtime.block_on(async {
                let (inputs, _events) = channel(1024);
                let _requests = embedded.spawn(inputs, None, Vec::new());
                let _ = stopped.await;
            });
        });
        EmbeddedBroker { address, _stop: stop }
    }
}

/// A mosquitto of our own.
pub(crate) struct Mosquitto {
    pub(crate) address: SocketAddr,
    process: Child,
    /// Stays open: mosquitto 2.0.11 may end the next connection in the place of one that came and went.
    first: Option<TcpStream>,
    _directory: tempfile::TempDir,
}

impl Mosquitto {
    pub(crate) fn start() -> Self {
        Self::with("")
    }

    /// With more lines for its configuration.
    pub(crate) fn with(settings: &str) -> Self {
        // Another may take the port first.
        (0..10)
            .find_map(|_| Self::try_start(settings))
            .expect("mosquitto did not start")
    }

    fn try_start(settings: &str) -> Option<Self> {
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .unwrap()
            .local_addr()
            .unwrap();
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("mosquitto.conf");
        let text = format!(
            "listener {} 127.0.0.1\nallow_anonymous true\npersistence false\nset_tcp_nodelay true\n\
             max_queued_messages 0\nlog_dest none\nuser root\n{settings}",
            address.port()
        );
        std::fs::write(&file, text).unwrap();
        // Debian keeps it where only root looks.
        let path = format!(
            "{}:/usr/local/sbin:/usr/sbin",
            env::var("PATH").unwrap_or_default()
        );
        let process = Command::new("mosquitto")
            .env("PATH", path)
            .arg("-c")
            .arg(&file)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("these tests need mosquitto");
        let mut broker = Mosquitto {
            address,
            process,
            first: None,
            _directory: directory,
        };
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline && broker.process.try_wait().unwrap().is_none() {
            if let Ok(first) = TcpStream::connect(address) {
                broker.first = Some(first);
                return Some(broker);
            }
            thread::sleep(Duration::from_millis(5));
        }
        None
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
