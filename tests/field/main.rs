//! A gateway with LoRa modems among hundreds of nodes: what it may send by law, and who gets it.
//!
//! Days pass in virtual time through the core, the scheduler and the drivers that are sold, with simulated modems on
//! simulated lines. `tests/run.sh field DAYS` runs more of them.

mod costs;
mod days;
mod population;
mod report;
