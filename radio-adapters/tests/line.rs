//! Modems driven by lines of text, each by the transcripts of its manual.

#[path = "line/bench.rs"]
#[allow(dead_code)] // Each test binary uses its part of it.
mod bench;
#[path = "line/rak3172.rs"]
mod rak3172;
#[path = "line/rak4270.rs"]
mod rak4270;
#[path = "line/random.rs"]
mod random;
#[path = "line/recovery.rs"]
mod recovery;
#[path = "line/reyax.rs"]
mod reyax;
#[path = "line/rn2xx3.rs"]
mod rn2xx3;
#[path = "line/settings.rs"]
mod settings;
