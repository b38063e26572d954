//! Drivers on simulated modems, in virtual time: both sides are values, and a line with its pace and its faults is
//! between them.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod bench;
mod line;
mod xbee;
