//! The MQTT-SN gateway as a sans-IO state machine.
//!
//! [`Gateway`] holds every decision of the protocol and nothing else: no socket, no clock, no task. Whoever drives it
//! follows one rhythm:
//!
//! 1. hand in what happened, in order, each with the current [`time::Instant`]: [`Gateway::handle_link`],
//!    [`Gateway::handle_datagram`], [`Gateway::handle_broker`], [`Gateway::handle_store`], [`Gateway::handle_timeout`];
//! 2. drain [`Gateway::poll_output`] to `None` and carry out what it says;
//! 3. sleep until the next input or [`Gateway::poll_timeout`], whichever comes first.
//!
//! Time never goes back. A late or needless `handle_timeout` does no harm. No input can make the gateway fail: bad
//! input is answered, counted or dropped. The same seed and the same inputs give the same outputs.
//!
//! Outputs never wait for each other: a link or a broker connection is only given what it granted credit for, and what
//! finds no room is kept within a bound, merged, refused or dropped by rule, and counted in [`Metrics`].

#![forbid(unsafe_code)]

pub mod admin;
pub mod airtime;
pub mod budget;
mod client;
mod clients;
pub mod config;
mod context;
mod discovery;
mod durable;
mod forwarder;
mod gateway;
pub mod io;
mod limiter;
pub mod link_metrics;
mod links;
mod metrics;
mod overlap;
pub mod peer;
mod registry;
mod schedule;
mod sources;
mod status;
mod subscribers;
mod subscriptions;
pub mod time;
mod timers;
mod transmit;
mod upstream;

pub use durable::restore::Restored;
pub use gateway::Gateway;
pub use metrics::{Metrics, SpoolDrop};
