//! Counters of a UDP link.

use std::fs;
use std::os::fd::AsRawFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::socket::Socket;

/// What a UDP link received, sent and lost since it was opened.
#[derive(Debug, Default)]
pub struct UdpStats {
    /// Datagrams received and handed to the core, empty ones included.
    pub received: AtomicU64,
    /// Datagrams the system took for sending; a broadcast counts once for each group and interface.
    pub sent: AtomicU64,
    /// Datagrams the system refused to send (no route, filtered, larger than the interface carries).
    pub send_errors: AtomicU64,
    /// Datagrams dropped because they were longer than the receive buffer.
    pub truncated: AtomicU64,
    /// Receive calls that failed; nothing is lost by them.
    pub receive_errors: AtomicU64,
    /// Datagrams dropped because the network did not take earlier ones in time.
    pub backlog_dropped: AtomicU64,
    /// The listeners' sockets, once they are open.
    inodes: OnceLock<Vec<String>>,
}

impl UdpStats {
    /// The kernel counts for these sockets; the first time this is called counts.
    pub(super) fn count_drops_of<'a>(&self, sockets: impl Iterator<Item = &'a Socket>) {
        self.inodes.get_or_init(|| {
            sockets
                .filter_map(|socket| inode(socket.get_ref().as_raw_fd()))
                .collect()
        });
    }

    /// Datagrams for the listeners that the kernel dropped since they were opened, because the gateway did not fetch
    /// earlier ones in time; `None` where `/proc` does not tell or the link is closed.
    ///
    /// Reads `/proc/net/udp`: for a metrics page, not for every datagram.
    pub fn kernel_dropped(&self) -> Option<u64> {
        let inodes = self.inodes.get()?;
        let tables = [
            fs::read_to_string("/proc/self/net/udp"),
            fs::read_to_string("/proc/self/net/udp6"),
        ];
        let counts: Vec<u64> = tables
            .iter()
            .flatten()
            .flat_map(|table| table.lines())
            .filter_map(|line| drops(line, inodes))
            .collect();
        (!counts.is_empty()).then(|| counts.iter().sum())
    }

    pub(super) fn add(counter: &AtomicU64, n: usize) {
        counter.fetch_add(n as u64, Ordering::Relaxed);
    }
}

/// A socket's name in the kernel's tables, without `unsafe`: `/proc/self/fd/7` links to `socket:[12345]`.
fn inode(fd: i32) -> Option<String> {
    let link = fs::read_link(format!("/proc/self/fd/{fd}")).ok()?;
    Some(
        link.to_str()?
            .strip_prefix("socket:[")?
            .strip_suffix(']')?
            .to_owned(),
    )
}

/// The last column of the line of one of our sockets; the tenth is its inode.
fn drops(line: &str, inodes: &[String]) -> Option<u64> {
    let inode = line.split_ascii_whitespace().nth(9)?;
    if !inodes.iter().any(|ours| ours == inode) {
        return None;
    }
    line.split_ascii_whitespace().next_back()?.parse().ok()
}
