//! A simulated world around the gateway core.
