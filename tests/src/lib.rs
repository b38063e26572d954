//! The harness of the system tests: the real `snipe` binary between real sockets, and a real mosquitto or the broker
//! inside the gateway.
//!
//! Everything here runs on free ports and in directories of its own, waits for events instead of sleeping, and
//! ends what it started when it is dropped. What a test needs and does not find (the binary, mosquitto, tshark)
//! fails it with the command that helps; nothing is skipped.
//!
//! A helper that cannot go on panics: its message is what the person who runs the tests reads.

mod broker;
mod capture;
mod client;
mod forwarder;
mod gateway;
mod namespace;
mod net;
mod process;
mod relay;
mod tap;
mod tshark;

pub use broker::{Broker, BrokerKind, Message, RUNNING, Subscriber};
pub use capture::{Capture, Sent};
pub use client::{Client, Datagram, PATIENCE, SILENCE};
pub use forwarder::Forwarder;
pub use gateway::{Gateway, Setup, repository, snipe, snipe_finishes};
pub use namespace::Namespace;
pub use net::{allow_many_sockets, free_port, poll_until};
pub use process::{Finished, Line, Process};
pub use relay::Relay;
pub use rustix::process::Signal;
pub use tap::Tap;
pub use tshark::check_with_tshark;
