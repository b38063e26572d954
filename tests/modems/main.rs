//! Drivers of modems against simulated modems, in virtual time.

mod bench;
mod line;
mod xbee;
