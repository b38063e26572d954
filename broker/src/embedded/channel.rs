//! What connections and the router's task say to each other.

use tokio::sync::mpsc::UnboundedSender;

use super::packet::{ClientKey, Connect, Received, Reply};

/// PUBLISH that may be on their way to a connection: a few writes' worth, small beside a session's queue.
pub(crate) const CREDIT: u32 = 64;

/// What connections say to the task.
#[derive(Debug)]
pub(crate) enum FromConnection {
    /// A CONNECT; answers go to `mailbox`.
    Connect {
        connect: Connect,
        mailbox: UnboundedSender<Batch>,
    },
    /// One batch. If it has packets, the next waits until a [`Batch`] says that these were worked off.
    Packets {
        client: ClientKey,
        packets: Vec<Received>,
        /// PUBLISH written since the last time.
        credit: u32,
    },
    /// Gone without DISCONNECT.
    Closed { client: ClientKey },
}

/// What the task says to a connection. After the last reply to it the channel ends.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) client: ClientKey,
    pub(crate) replies: Vec<Reply>,
    /// The connection's packets were worked off.
    pub(crate) worked_off: bool,
}
