//! A raw MQTT client, the broker it talks to, and the tests that both versions of MQTT share.
//!
//! `SNIPE_MQTT_BROKER=mosquitto` runs the tests against a mosquitto, `SNIPE_MQTT_BROKER=HOST:PORT` against whatever
//! listens there.

#![allow(dead_code, unused_imports, reason = "no test program uses all of it")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

pub(crate) mod broker;
pub(crate) mod client;
pub(crate) mod common;
pub(crate) mod packet;
#[macro_use]
pub(crate) mod runner;

pub(crate) use broker::{Broker, Kind, Mosquitto};
pub(crate) use client::{
    Client, Event, NO_LOCAL, PATIENCE, RETAIN_AS_PUBLISHED, RETAINED_IF_NEW, RETAINED_NEVER,
};
pub(crate) use packet::{Ack, Connect, Packet, Prop, Publish, Version, frame, text};
pub(crate) use runner::{Specification, Test, last_of, run};
