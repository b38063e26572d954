//! The embedded broker alone, to try MQTT clients and foreign test suites on it.
//!
//! `cargo run --release -p broker --example embedded -- 127.0.0.1:1884`; it ends with the end of its standard input.

use std::error::Error;
use std::io::{self, Read};

use broker::{Embedded, EmbeddedConfig};
use tokio::sync::mpsc::channel;

fn main() -> Result<(), Box<dyn Error>> {
    let mut config = EmbeddedConfig::default();
    if let Some(address) = std::env::args().nth(1) {
        config.bind = vec![address.parse()?];
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let broker = Embedded::open(&config)?;
        println!("listening on {:?}", broker.local_addrs());
        let (inputs, mut outcomes) = channel(1);
        let requests = broker.spawn(inputs, None, Vec::new());
        let end = tokio::task::spawn_blocking(|| io::stdin().read_to_end(&mut Vec::new()));
        tokio::select! {
            end = end => end??,
            // Nothing was asked, so nothing comes.
            _ = outcomes.recv() => 0,
        };
        requests.close().await;
        Ok(())
    })
}
