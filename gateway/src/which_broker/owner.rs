//! Who listens on a TCP port of this machine, as far as Linux shows it in `/proc`.
//!
//! `/proc/net/tcp` and `tcp6` name the listening sockets with their inodes and users; the links in `/proc/*/fd` tell
//! which process has such an inode open. Those of other users' processes can be read by root only; then the user is
//! all that can be told.

use core::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

/// State of a listening socket in `/proc/net/tcp`.
const LISTEN: &str = "0A";

/// Who has a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Owner {
    /// A process whose descriptors this one may look at.
    Process { name: String, pid: u32 },
    /// Some process of this user.
    User(String),
    /// Nobody that the system would tell of.
    Unknown,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Owner::Process { name, pid } => write!(f, "{name} (pid {pid})"),
            Owner::User(name) => write!(f, "a process of user {name}"),
            Owner::Unknown => f.write_str("another process"),
        }
    }
}

/// Who keeps this process from listening on `address`.
pub(super) fn of(address: SocketAddr) -> Owner {
    let tables =
        ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| fs::read_to_string(table).unwrap_or_default());
    let Some(socket) = tables
        .iter()
        .flat_map(|table| listening(table))
        .find(|socket| collides(socket.address, address))
    else {
        return Owner::Unknown;
    };
    if let Some(process) = process_with(Path::new("/proc"), socket.inode) {
        return process;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    user_named(&users, socket.user).map_or(Owner::Unknown, Owner::User)
}

/// A listening socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Socket {
    address: SocketAddr,
    user: u32,
    inode: u64,
}

/// The listening sockets of a table like `/proc/net/tcp`.
fn listening(table: &str) -> impl Iterator<Item = Socket> {
    table.lines().filter_map(|line| {
        // sl, local and remote address, state, queues, timer, retransmissions, user, timeout, inode.
        let mut columns = line.split_ascii_whitespace();
        let address = columns.nth(1)?;
        let state = columns.nth(1)?;
        let user = columns.nth(3)?.parse().ok()?;
        let inode = columns.nth(1)?.parse().ok()?;
        let address = socket_address(address).filter(|_| state == LISTEN)?;
        Some(Socket { address, user, inode })
    })
}

/// `0100007F:075B`: words of 32 bits as they lie in memory, and the port.
fn socket_address(text: &str) -> Option<SocketAddr> {
    let (words, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        let digits = words.get(at * 8..at * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    let address: IpAddr = match words.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let mut octets = [0; 16];
            for (at, four) in octets.chunks_exact_mut(4).enumerate() {
                four.copy_from_slice(&word(at)?);
            }
            Ipv6Addr::from(octets).to_canonical()
        }
        _ => return None,
    };
    Some((address, port).into())
}

/// Whether a socket that listens on `there` keeps another from listening on `here`.
fn collides(there: SocketAddr, here: SocketAddr) -> bool {
    // A socket on [::] takes IPv4 as well, unless it was told not to, which the table does not show.
    let everywhere = match there.ip() {
        IpAddr::V4(ip) => ip.is_unspecified() && here.is_ipv4(),
        IpAddr::V6(ip) => ip.is_unspecified(),
    };
    let everywhere_here = here.ip().is_unspecified() && here.is_ipv4() == there.is_ipv4();
    there.port() == here.port() && (everywhere || everywhere_here || there.ip() == here.ip())
}

/// The process below `proc` that has the socket with this inode open.
fn process_with(proc: &Path, inode: u64) -> Option<Owner> {
    let wanted = format!("socket:[{inode}]");
    for entry in fs::read_dir(proc).ok()?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // Not ours to look into, or gone meanwhile.
        let Ok(descriptors) = fs::read_dir(entry.path().join("fd")) else {
            continue;
        };
        let has_it = |descriptor: fs::DirEntry| {
            fs::read_link(descriptor.path()).is_ok_and(|target| target.as_os_str() == wanted.as_str())
        };
        if descriptors.flatten().any(has_it) {
            let name = fs::read_to_string(entry.path().join("comm")).ok()?;
            // A process chooses its name; what it prints must stay one line.
            let name = name.trim_end().chars().filter(|c| !c.is_control()).collect();
            return Some(Owner::Process { name, pid });
        }
    }
    None
}

/// The name of a user in a table like `/etc/passwd`.
fn user_named(users: &str, id: u32) -> Option<String> {
    users.lines().find_map(|line| {
        let mut columns = line.split(':');
        let name = columns.next()?;
        let found = columns.nth(1)?.parse::<u32>().ok()?;
        (found == id).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// From a little-endian machine with mosquitto on all addresses, a connection to it, and a web server on ::1.
    #[cfg(target_endian = "little")]
    const TCP: &str = "  \
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:075B 00000000:0000 0A 00000000:00000000 00:00000000 00000000   108        0 18231 1 0000000000000000 100 0 0 10 0
   1: 0100007F:075B 0100007F:D3F2 01 00000000:00000000 00:00000000 00000000   108        0 20110 1 0000000000000000 20 4 30 10 -1
";
    #[cfg(target_endian = "little")]
    const TCP6: &str = "  \
  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 30555 1 0000000000000000 100 0 0 10 0
   1: 0000000000000000FFFF00000100007F:075C 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 30556 1 0000000000000000 100 0 0 10 0
";

    #[test]
    #[cfg(target_endian = "little")]
    fn only_listening_sockets_are_read() {
        let socket = |address: &str, user, inode| Socket {
            address: address.parse().unwrap(),
            user,
            inode,
        };
        assert_eq!(
            listening(TCP).collect::<Vec<_>>(),
            [socket("0.0.0.0:1883", 108, 18_231)]
        );
        assert_eq!(
            listening(TCP6).collect::<Vec<_>>(),
            [
                socket("[::1]:8080", 1000, 30_555),
                socket("127.0.0.1:1884", 0, 30_556)
            ]
        );
    }

    #[test]
    fn what_is_no_table_has_no_sockets() {
        for text in [
            "",
            "x",
            "0: zz:075B 0 0A 0 0 0 0 0 1",
            "0: 0100007F:075B 0 0A 0 0 0 x 0 1",
        ] {
            assert_eq!(listening(text).count(), 0, "{text}");
        }
        assert_eq!(socket_address("é0100007:075B"), None);
    }

    #[test]
    fn a_socket_everywhere_is_in_the_way_of_each_address() {
        let collide = |there: &str, here: &str| collides(there.parse().unwrap(), here.parse().unwrap());
        for (there, here) in [
            ("127.0.0.1:1883", "127.0.0.1:1883"),
            ("0.0.0.0:1883", "127.0.0.1:1883"),
            ("[::]:1883", "127.0.0.1:1883"),
            ("192.168.1.5:1883", "0.0.0.0:1883"),
        ] {
            assert!(collide(there, here), "{there} {here}");
        }
        for (there, here) in [
            ("127.0.0.1:1884", "127.0.0.1:1883"),
            ("192.168.1.5:1883", "127.0.0.1:1883"),
            ("[::1]:1883", "127.0.0.1:1883"),
            ("0.0.0.0:1883", "[::1]:1883"),
        ] {
            assert!(!collide(there, here), "{there} {here}");
        }
    }

    #[test]
    fn this_process_is_found_by_the_port_it_listens_on() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let Owner::Process { name, pid } = of(listener.local_addr().unwrap()) else {
            panic!("not found")
        };
        assert_eq!(pid, std::process::id());
        assert!(!name.is_empty());
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        assert_eq!(of(([127, 0, 0, 1], port).into()), Owner::Unknown);
    }

    #[test]
    fn users_have_names() {
        let users =
            "root:x:0:0:root:/root:/bin/bash\nmosquitto:x:108:114::/var/lib/mosquitto:/usr/sbin/nologin\n";
        assert_eq!(user_named(users, 108).as_deref(), Some("mosquitto"));
        assert_eq!(user_named(users, 1), None);
    }

    #[test]
    fn owners_are_named_as_well_as_they_are_known() {
        let process = Owner::Process {
            name: "mosquitto".into(),
            pid: 612,
        };
        assert_eq!(process.to_string(), "mosquitto (pid 612)");
        assert_eq!(
            Owner::User("mosquitto".into()).to_string(),
            "a process of user mosquitto"
        );
        assert_eq!(Owner::Unknown.to_string(), "another process");
    }
}
