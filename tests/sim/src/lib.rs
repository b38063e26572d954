//! A simulated world around the gateway core.
//!
//! A [`World`] holds one gateway, simulated clients ([`sim_client`]), a lossy network between them ([`net`]) and a broker
//! ([`sim_broker`]). Its clock jumps from event to event and everything random comes from one seed, so the same seed gives
//! the same history, octet by octet. Every input and output of the gateway passes the [`reference`](mod@reference), which
//! knows what must hold and names the rule that an output breaks.
//!
//! Write a scenario by calling `World`'s verbs and letting time pass ([`World::run_for`]); end it with
//! [`World::settle`], which heals everything and checks that what was promised came true and that the gateway becomes
//! quiet. Random scenarios are in [`history`].

pub mod admission;
pub mod agenda;
pub mod ether;
pub mod families;
pub mod field;
pub mod history;
pub mod modem;
pub mod net;
pub mod noise;
#[cfg(unix)]
pub mod pty;
pub mod reference;
pub mod saved;
pub mod sensor;
pub mod sim_broker;
pub mod sim_client;
pub mod sim_store;
pub mod site;
pub mod virtual_line;
mod world;

pub use world::{Address, ClientIx, ForwarderIx, LINK, Level, World, WorldConfig, will};
