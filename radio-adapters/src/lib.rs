//! The links an MQTT-SN gateway listens on: bytes to datagrams and back.
//!
//! An adapter is a task. It sends [`Input`]s to the core's one channel and takes [`TxBatch`]es from its own.

mod acks;
pub mod driver;
pub mod framing;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
pub mod header;
pub mod line;
pub mod modems;
pub mod raw;
pub mod regions;
pub mod serial;
pub mod settings;
pub mod stats;
pub mod udp;
pub mod xbee;

use gateway_core::io::{Input, TxBatch};
use tokio::sync::mpsc;

/// The core's end of an adapter: batches of datagrams to send.
pub type LinkSender = mpsc::UnboundedSender<TxBatch>;

/// The one channel into the core.
pub type InputSender = mpsc::Sender<Input>;
