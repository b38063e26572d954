//! Drivers of modems against simulated modems, in virtual time.

mod line;
