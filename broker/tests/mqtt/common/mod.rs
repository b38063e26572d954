//! Tests of what both versions of MQTT ask for, in much the same words and under different numbers.

pub(crate) mod connecting;
pub(crate) mod delivery;
pub(crate) mod publishing;
pub(crate) mod retained;
pub(crate) mod sessions;
pub(crate) mod subscribing;
pub(crate) mod wills;
pub(crate) mod wire;
