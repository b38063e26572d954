//! Ports nobody else uses, and waiting for what has no event of its own.

use std::{
    net::{TcpListener, UdpSocket},
    process,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Ports are taken from below the range the kernel hands out by itself (32768 and up), so that no client socket
/// lands on a port between its choice here and its use by the process under test.
const FIRST: u32 = 20_000;
const COUNT: u32 = 12_000;

/// A port that is free for UDP and TCP, IPv4 and IPv6, and that this process will not hand out again.
///
/// # Panics
/// If every port of the range is taken.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..COUNT {
        // Test binaries run side by side: each begins somewhere else.
        let offset = process::id()
            .wrapping_mul(97)
            .wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed))
            % COUNT;
        let port = (FIRST + offset) as u16;
        let free = UdpSocket::bind(("0.0.0.0", port)).is_ok()
            && UdpSocket::bind(("::1", port)).is_ok()
            && TcpListener::bind(("0.0.0.0", port)).is_ok();
        if free {
            return port;
        }
    }
    panic!("no free port between {FIRST} and {}", FIRST + COUNT);
}

/// Lets this process open as many sockets as the system allows: the usual 1,024 are too few for a thousand clients.
///
/// # Panics
/// If the system refuses.
pub fn allow_many_sockets() {
    let limits = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limits.maximum,
        maximum: limits.maximum,
    };
    setrlimit(Resource::Nofile, raised).expect("up to the hard limit, no privilege is needed");
}

/// Asks every 20 ms until the answer is `Some`.
///
/// For state that can only be asked for, such as a counter; what announces itself is waited for where it arrives.
///
/// # Panics
/// If `patience` is over, saying `what` did not happen.
#[track_caller]
pub fn poll_until<T>(what: &str, patience: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within {patience:?}: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}
