//! TCP connections: accepted, counted, ended.

use core::future::{pending, poll_fn};
use core::mem;
use core::task::Poll;
use core::time::Duration;
use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tracing::{debug, error, warn};

use super::EmbeddedLimits;
use super::channel::FromConnection;
use super::connection::{Connection, Ending};
use super::packet::reason;

/// Connections beyond the limit that may wait to be told so.
const REFUSED_AT_ONCE: usize = 32;

/// Pause after an error of accept, most likely that there are no more file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long clients are held back at most: whatever keeps the gateway from letting them in keeps them from each other.
const HELD_BACK: Duration = Duration::from_secs(5);

/// How long connections take to say goodbye, as part of the second in which the gateway stops.
const GOODBYE: Duration = Duration::from_millis(700);

/// Runs until [`Listening::stop`].
#[derive(Debug)]
pub(crate) struct Listening {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Listening {
    /// Accepts connections on the current runtime. With a `door`, once something comes through that, or after
    /// [`HELD_BACK`]; until then they wait in the system's queue.
    pub(crate) fn start(
        listeners: Vec<StdTcpListener>,
        limits: &EmbeddedLimits,
        door: Option<oneshot::Receiver<()>>,
        broker: UnboundedSender<FromConnection>,
    ) -> Self {
        let (stop, stopped) = oneshot::channel();
        let listeners = listeners.into_iter().filter_map(|listener| {
            let registered = TcpListener::from_std(listener);
            registered
                .map_err(|error| error!(target: "broker", %error, "cannot wait for connections"))
                .ok()
        });
        let acceptor = Acceptor {
            listeners: listeners.collect(),
            connections_max: limits.connections_max,
            packet_bytes: limits.packet_bytes,
            broker,
            connections: JoinSet::new(),
            full: false,
        };
        Listening {
            stop,
            task: tokio::spawn(acceptor.run(door, stopped)),
        }
    }

    /// No more connections. The handle is through when the last one has ended, or was cut off.
    pub(crate) fn stop(self) -> JoinHandle<()> {
        drop(self.stop);
        self.task
    }
}

struct Acceptor {
    listeners: Vec<TcpListener>,
    connections_max: usize,
    packet_bytes: u32,
    broker: UnboundedSender<FromConnection>,
    connections: JoinSet<Ending>,
    /// The last was one too many, and a warning was logged.
    full: bool,
}

impl Acceptor {
    async fn run(mut self, door: Option<oneshot::Receiver<()>>, mut stopped: oneshot::Receiver<()>) {
        let open = opened(door);
        tokio::pin!(open);
        let mut is_open = false;
        loop {
            tokio::select! {
                () = &mut open, if !is_open => is_open = true,
                accepted = accept(&self.listeners), if is_open => match accepted {
                    Ok((stream, peer)) => self.take(stream, peer),
                    Err(error) => {
                        warn!(target: "broker", %error, "accept failed: raise the limit of open files (ulimit -n)");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(_) = self.connections.join_next() => {}
                _ = &mut stopped => break,
            }
        }
        drop(self.listeners);
        drop(self.broker);
        let goodbye = async { while self.connections.join_next().await.is_some() {} };
        // What is left is aborted with the set.
        let _ = timeout(GOODBYE, goodbye).await;
    }

    fn take(&mut self, stream: TcpStream, peer: SocketAddr) {
        let refuse = match self.connections.len().checked_sub(self.connections_max) {
            None => {
                self.full = false;
                None
            }
            Some(0..REFUSED_AT_ONCE) => {
                if !mem::replace(&mut self.full, true) {
                    warn!(
                        target: "broker", connections_max = self.connections_max,
                        "mqtt connections refused: raise connections_max, or see who holds so many"
                    );
                }
                Some(reason::QUOTA_EXCEEDED)
            }
            Some(_) => {
                debug!(target: "broker", %peer, "connection dropped: far too many");
                return;
            }
        };
        // Acknowledgements are small and somebody waits for them.
        if let Err(error) = stream.set_nodelay(true) {
            debug!(target: "broker", %peer, %error, "connection is gone already");
            return;
        }
        let connection = Connection::new(stream, peer, self.packet_bytes, refuse, self.broker.clone());
        self.connections.spawn(connection.run());
    }
}

/// Returns when clients are let in.
async fn opened(door: Option<oneshot::Receiver<()>>) {
    let Some(door) = door else { return };
    match timeout(HELD_BACK, door).await {
        Ok(Ok(())) => {}
        // Whoever was to open it has gone, and the broker ends.
        Ok(Err(_)) => pending().await,
        Err(_) => warn!(
            target: "broker", after = ?HELD_BACK,
            "mqtt clients are let in before the subscriptions of all sensors are renewed: what they publish may not reach these"
        ),
    }
}

/// The next connection on any of them.
async fn accept(listeners: &[TcpListener]) -> io::Result<(TcpStream, SocketAddr)> {
    poll_fn(|cx| {
        for listener in listeners {
            if let accepted @ Poll::Ready(_) = listener.poll_accept(cx) {
                return accepted;
            }
        }
        Poll::Pending
    })
    .await
}
