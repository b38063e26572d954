//! The gateway core in a simulated world: named scenarios, then random histories.
//!
//! Invariants are checked after every step by the world itself; a scenario adds what it is about. Histories are chosen
//! by `SNIPE_WORLD_HISTORIES=<how many>`; one is run again, with a trace, by `SNIPE_WORLD_SEED=<seed>`.

mod damage;
mod delivery;
mod families;
mod histories;
mod networks;
mod outage;
mod power_cuts;
mod scenarios;
mod sleepers;
