//! The MQTT-SN gateway as a sans-IO state machine.

pub mod admin;
pub mod config;
pub mod io;
pub mod peer;
pub mod time;
