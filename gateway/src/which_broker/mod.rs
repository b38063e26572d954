//! Which broker the gateway uses: the one inside, the one that was named, or the one that has the port already.

mod owner;
mod probe;

use core::time::Duration;
use std::io::ErrorKind;
use std::net::SocketAddr;

use broker::{Embedded, EmbeddedConfig, OpenError, Protocol, RemoteConfig};

use tokio::net::TcpStream;
use tokio::time::timeout;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

use crate::config::Broker;
use probe::Answer;

/// How long what has the port may take to answer a CONNECT. An idle broker takes milliseconds, a small machine that has
/// just started may take seconds.
const PATIENCE: Duration = Duration::from_secs(4);

/// The broker to use.
pub(crate) struct Chosen {
    /// Where the core's requests go.
    pub(crate) broker: Opened,
    /// What the start says about it.
    pub(crate) description: String,
}

/// A broker that is ready to be used.
pub(crate) enum Opened {
    /// The one inside, which listens.
    Embedded(Embedded),
    /// Another, which need not be there yet.
    External(RemoteConfig),
}

/// Opens the configured broker.
///
/// # Errors
/// Why the gateway cannot start, and what to do, for a person.
pub(crate) async fn open(configured: Broker) -> Result<Chosen, String> {
    match configured {
        Broker::External(remote) => Ok(Chosen {
            description: format!("external {}", described(&remote)),
            broker: Opened::External(remote),
        }),
        Broker::Embedded(config) => match Embedded::open(&config) {
            Ok(embedded) => Ok(listening(embedded, &config)),
            Err(error) => Err(cannot_listen(&error, &config.bind)),
        },
        Broker::Unnamed { embedded, taken } => match Embedded::open(&embedded) {
            Ok(opened) => Ok(listening(opened, &embedded)),
            Err(error) if error.error.kind() == ErrorKind::AddrInUse => {
                use_what_listens(error.address, taken, &embedded.bind).await
            }
            Err(error) => Err(cannot_listen(&error, &embedded.bind)),
        },
    }
}

/// Whether the configured broker is there and lets us in, for a person; nothing of it is used.
///
/// # Errors
/// What is wrong, and what to do.
pub(crate) async fn ask(configured: &Broker) -> Result<String, String> {
    let Broker::External(remote) = configured else {
        let chosen = open(configured.clone()).await?;
        return Ok(chosen.description.replacen("listening on", "can listen on", 1));
    };
    let name = described(remote);
    let addresses = tokio::net::lookup_host((remote.host.as_str(), remote.port));
    let addresses: Vec<SocketAddr> = match timeout(PATIENCE, addresses).await {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(error)) => {
            return Err(format!(
                "{name}: no address for the name {:?}: {error}; see `url` in [broker]",
                remote.host
            ));
        }
        Err(_) => return Err(format!("{name}: the name server does not answer")),
    };
    let mut last = format!("{name}: the name {:?} has no address", remote.host);
    for address in addresses {
        if let Err(error) = reach(address).await {
            last =
                format!("{name}: {address}: {error}; does the broker run there, and listen beyond loopback?");
            continue;
        }
        match probe::ask(address, remote, PATIENCE).await {
            Answer::Broker(protocol) if protocol == remote.protocol => {
                return Ok(format!("{name} lets us in"));
            }
            Answer::Broker(_) => {
                return Err(format!(
                    "{name}: it speaks MQTT 3.1.1 only: protocol = 3 in [broker]"
                ));
            }
            Answer::NotAllowed(code) => {
                let why = refusal(code, remote.username.as_deref());
                return Err(format!(
                    "{name}: it does not let us in: {why}; see username and password_file in [broker]"
                ));
            }
            Answer::NotMqtt => last = format!("{name}: what listens at {address} does not answer MQTT"),
        }
    }
    Err(last)
}

/// Whether anything listens there.
async fn reach(address: SocketAddr) -> std::io::Result<()> {
    match timeout(PATIENCE, TcpStream::connect(address)).await {
        Ok(connected) => connected.map(drop),
        Err(_) => Err(ErrorKind::TimedOut.into()),
    }
}

fn listening(embedded: Embedded, config: &EmbeddedConfig) -> Chosen {
    allow_descriptors(config.limits.connections_max);
    let addresses: Vec<String> = embedded.local_addrs().iter().map(ToString::to_string).collect();
    let mut description = format!("embedded listening on {}", addresses.join(" and "));
    if config.bind.iter().any(|address| !address.ip().is_loopback()) {
        description += " (no login: open to whoever reaches it)";
    }
    Chosen {
        description,
        broker: Opened::Embedded(embedded),
    }
}

/// Descriptors that are not MQTT connections: radios, control socket, log and the runtime's own; with room to spare.
const OTHER_DESCRIPTORS: u64 = 128;

/// A process may usually open 1,024 descriptors by itself, and more if it asks.
fn allow_descriptors(connections: usize) {
    let wanted = connections as u64 + OTHER_DESCRIPTORS;
    let limits = getrlimit(Resource::Nofile);
    if limits.current.is_none_or(|current| current >= wanted) {
        return;
    }
    let current = Some(limits.maximum.map_or(wanted, |maximum| maximum.min(wanted)));
    let raised = setrlimit(Resource::Nofile, Rlimit { current, ..limits });
    if raised.is_err() || current < Some(wanted) {
        warn!(
            target: "broker",
            connections_max = connections, descriptors = getrlimit(Resource::Nofile).current,
            "fewer MQTT clients than broker.embedded.connections_max can connect: raise the limit of open files (LimitNOFILE, ulimit -n)"
        );
    }
}

/// Nobody named a broker, and one may be there already: the usual case where mosquitto is installed.
async fn use_what_listens(
    address: SocketAddr,
    remote: RemoteConfig,
    bind: &[SocketAddr],
) -> Result<Chosen, String> {
    let (port, owner) = (address.port(), owner::of(address));
    match probe::ask(address, &remote, PATIENCE).await {
        Answer::Broker(protocol) => {
            let remote = RemoteConfig { protocol, ..remote };
            Ok(Chosen {
                description: format!(
                    "port {port} is in use by {owner}: using it as external broker {}",
                    described(&remote)
                ),
                broker: Opened::External(remote),
            })
        }
        Answer::NotAllowed(code) => Err(format!(
            "TCP port {port} is in use by {owner}, an MQTT broker that does not let us in: {}\n  \
             give the gateway a user of that broker: --broker mqtt://USER:PASSWORD@{address}, or username and \
             password_file in [broker]\n  \
             or name another broker: --broker mqtt://HOST:1883\n  \
             or use the gateway's own on another port: {}",
            refusal(code, remote.username.as_deref()),
            elsewhere(bind, port),
        )),
        Answer::NotMqtt => Err(format!(
            "TCP port {port} is in use by {owner}, which does not answer MQTT\n  \
             stop it, or let the gateway's broker listen on another port: {}\n  \
             or name a broker: --broker mqtt://HOST:1883",
            elsewhere(bind, port),
        )),
    }
}

/// The one inside was asked for, so nothing else will do.
fn cannot_listen(error: &OpenError, bind: &[SocketAddr]) -> String {
    let address = error.address;
    let title = format!("the embedded broker cannot listen on {address}");
    match error.error.kind() {
        ErrorKind::AddrInUse => {
            let owner = owner::of(address);
            let host = match address {
                _ if address.ip().is_unspecified() => SocketAddr::from(([127, 0, 0, 1], address.port())),
                _ => address,
            };
            format!(
                "{title}: the port is in use by {owner}\n  \
                 stop it, or, if it is an MQTT broker, use it: --broker mqtt://{host}\n  \
                 or listen on another port: {}",
                elsewhere(bind, address.port())
            )
        }
        ErrorKind::AddrNotAvailable => {
            format!(
                "{title}: this machine does not have that address\n  see the key bind in [broker.embedded]"
            )
        }
        ErrorKind::PermissionDenied => format!(
            "{title}: ports below 1024 are for root\n  use another: {}",
            listen_on(bind, address.port(), 1883)
        ),
        _ => format!("{error}\n  see the key bind in [broker.embedded]"),
    }
}

/// The options that move the broker inside from `port` to the next one.
fn elsewhere(bind: &[SocketAddr], port: u16) -> String {
    listen_on(bind, port, port.checked_add(1).unwrap_or(1883))
}

/// The options for all addresses of `bind`, those at port `from` moved to `to` or the first port after it that is none
/// of theirs. They are right as they stand, whatever else was given.
fn listen_on(bind: &[SocketAddr], from: u16, to: u16) -> String {
    let own = |port: &u16| bind.iter().any(|address| address.port() == *port);
    let to = (to..=u16::MAX).find(|port| !own(port)).unwrap_or(to);
    let addresses: Vec<String> = bind
        .iter()
        .map(|address| match address.port() {
            port if port == from => format!("\"{}\"", SocketAddr::new(address.ip(), to)),
            _ => format!("\"{address}\""),
        })
        .collect();
    let mut options = format!(
        "--broker embedded --set 'broker.embedded.bind=[{}]'",
        addresses.join(", ")
    );
    if bind.iter().any(|address| !address.ip().is_loopback()) {
        options += " --set broker.embedded.anonymous=true";
    }
    options
}

/// Its URL and version.
fn described(remote: &RemoteConfig) -> String {
    let protocol = match remote.protocol {
        Protocol::V5 => "MQTT 5",
        Protocol::V3 => "MQTT 3.1.1",
    };
    let (host, port) = (&remote.host, remote.port);
    if host.contains(':') {
        format!("mqtt://[{host}]:{port} ({protocol})")
    } else {
        format!("mqtt://{host}:{port} ({protocol})")
    }
}

/// Why a broker lets nobody of ours in.
fn refusal(code: u8, username: Option<&str>) -> String {
    match (code, username) {
        (0x04 | 0x05 | 0x86 | 0x87, None) => "it wants a user name and a password".to_owned(),
        (0x04 | 0x05 | 0x86 | 0x87, Some(username)) => {
            format!("it does not take the user {username:?}, or not with this password")
        }
        _ => format!("its answer is 0x{code:02X}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    fn cannot(bind: &[&str], kind: ErrorKind) -> String {
        let bind: Vec<SocketAddr> = bind.iter().map(|address| address.parse().unwrap()).collect();
        let error = OpenError {
            address: bind[0],
            error: io::Error::from(kind),
        };
        cannot_listen(&error, &bind)
    }

    #[test]
    fn each_reason_not_to_listen_comes_with_what_to_do() {
        // Nobody has this address, so nobody is named.
        assert_eq!(
            cannot(
                &["192.0.2.1:1883", "[::]:1883", "127.0.0.1:1884"],
                ErrorKind::AddrInUse
            ),
            "the embedded broker cannot listen on 192.0.2.1:1883: the port is in use by another process\n  \
             stop it, or, if it is an MQTT broker, use it: --broker mqtt://192.0.2.1:1883\n  \
             or listen on another port: --broker embedded \
             --set 'broker.embedded.bind=[\"192.0.2.1:1885\", \"[::]:1885\", \"127.0.0.1:1884\"]' \
             --set broker.embedded.anonymous=true"
        );
        assert!(cannot(&["[::]:1"], ErrorKind::AddrInUse).contains("--broker mqtt://127.0.0.1:1\n"));
        assert!(
            cannot(&["192.0.2.1:1883"], ErrorKind::AddrNotAvailable).contains("does not have that address")
        );
        let privileged = cannot(&["127.0.0.1:80"], ErrorKind::PermissionDenied);
        assert!(privileged.ends_with("bind=[\"127.0.0.1:1883\"]'"), "{privileged}");
        assert!(cannot(&["127.0.0.1:65535"], ErrorKind::AddrInUse).contains("[\"127.0.0.1:1883\"]"));
        assert!(
            cannot(&["127.0.0.1:1883"], ErrorKind::OutOfMemory).contains("cannot listen on 127.0.0.1:1883")
        );
    }

    #[test]
    fn a_refusal_says_whether_a_login_is_missing_or_wrong() {
        assert_eq!(refusal(0x05, None), "it wants a user name and a password");
        assert_eq!(
            refusal(0x87, Some("ann")),
            "it does not take the user \"ann\", or not with this password"
        );
        assert_eq!(refusal(0x8A, None), "its answer is 0x8A");
    }
}
