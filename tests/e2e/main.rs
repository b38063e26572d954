//! The whole gateway from outside: the real binary, real sockets, a real mosquitto.

mod configuration;
mod malformed;
mod network;
mod outage;
mod publish;
mod stop;
mod subscribe;
mod swarm;
mod tools;
mod wills;
mod wire;
