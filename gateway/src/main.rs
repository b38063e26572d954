//! The MQTT-SN gateway.

fn main() {}
