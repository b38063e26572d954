//! What a datagram costs: echoes everything on one thread and prints the CPU time per datagram every two seconds.
//!
//! `cargo run --release -p radio-adapters --example echo -- 127.0.0.1:1884`, then send to it.

use std::fs;
use std::sync::atomic::Ordering;
use std::time::Duration;

use gateway_core::io::{Destination, Input, TxBatch, TxDatagram, TxTicket};
use gateway_core::peer::LinkId;
use radio_adapters::udp::{UdpConfig, UdpLink};
use tokio::sync::mpsc;

/// What Linux counts CPU time in (`getconf CLK_TCK`), everywhere.
const TICKS_PER_SECOND: u64 = 100;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let bind = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:1884".to_owned())
        .parse()?;
    let config = UdpConfig {
        bind: vec![bind],
        multicast: Vec::new(),
        interface: None,
        mtu: 1400,
    };
    let link = UdpLink::open(&config)?;
    let stats = link.stats();
    let (inputs, mut core) = mpsc::channel(64);
    let sender = link.spawn(LinkId(0), inputs);
    tokio::spawn(async move {
        let (mut seen, mut spent) = (0, cpu_ticks());
        loop {
            tokio::time::sleep(Duration::from_secs(2)).await;
            let (received, ticks) = (stats.received.load(Ordering::Relaxed), cpu_ticks());
            let datagrams = received - seen;
            if let Some(micros) = ((ticks - spent) * 1_000_000 / TICKS_PER_SECOND).checked_div(datagrams) {
                println!("{datagrams} datagrams in 2 s, {micros} us of CPU each");
            }
            (seen, spent) = (received, ticks);
        }
    });
    while let Some(input) = core.recv().await {
        let Input::Datagrams(_, batch) = input else {
            continue;
        };
        let datagrams = batch.datagrams.into_iter();
        let echo = TxBatch {
            bytes: batch.bytes,
            datagrams: datagrams
                .map(|datagram| TxDatagram {
                    to: Destination::Peer(datagram.from),
                    len: datagram.len,
                    ticket: TxTicket(0),
                })
                .collect(),
        };
        sender.send(echo)?;
    }
    Ok(())
}

/// CPU time of this process: user and system, fields 14 and 15 of `/proc/self/stat`.
fn cpu_ticks() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    after_name
        .split_ascii_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum()
}
