//! Drivers on simulated modems, in virtual time: both sides are values, and a line with its pace and its faults is
//! between them.

mod bench;
mod line;
mod xbee;
