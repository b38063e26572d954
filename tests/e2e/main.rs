//! The whole gateway from outside: the real binary, real sockets, a real mosquitto or the broker inside.

mod configuration;
mod connections;
mod discovery;
mod durable;
mod forwarders;
mod malformed;
mod network;
mod outage;
mod own_broker;
mod poison;
mod publish;
mod radios;
mod sleepers;
mod spool;
mod status;
mod stop;
mod storm;
mod subscribe;
mod swarm;
mod tools;
mod wills;
mod wire;
