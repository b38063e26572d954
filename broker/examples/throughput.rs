//! CPU time of the port for each QoS 1 publish and its acknowledgement, on one current-thread runtime.
//!
//! ```text
//! cargo run --release -p broker --example throughput -- 127.0.0.1 1883 [5|3] [MESSAGES] [IN_FLIGHT] [RATE]
//! ```
//! Without a rate each acknowledgement makes room for the next publish; with one, publishes are sent in turns of 1 ms.

#![allow(clippy::unwrap_used, reason = "a measurement may panic")]

use std::time::{Duration, Instant};

use broker::{Protocol, Reconnect, RemoteConfig, Transport};
use bytes::Bytes;
use gateway_core::io::{BrokerEvent, BrokerRequest, ConnId, ConnectOptions, Input, Token};
use sn_codec::QoS;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

const CONN: ConnId = ConnId(0);

#[tokio::main(flavor = "current_thread")]
async fn main() {
    // A task of its own, as the gateway's core is: tokio polls the reactor once more for each turn of the main future.
    tokio::spawn(measure()).await.unwrap();
}

async fn measure() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: u64| arguments.get(at).map_or(default, |text| text.parse().unwrap());
    let host = arguments.first().map_or("127.0.0.1", |host| host.as_str());
    let protocol = if number(2, 5) == 3 {
        Protocol::V3
    } else {
        Protocol::V5
    };
    let messages = number(3, 200_000);
    let in_flight = number(4, 100);
    let rate = number(5, 0);

    let (sender, mut inputs) = mpsc::channel(64);
    let config = RemoteConfig {
        host: host.into(),
        port: u16::try_from(number(1, 1883)).unwrap(),
        transport: Transport::Tcp,
        protocol,
        username: None,
        password: None,
        keep_alive: Duration::from_secs(60),
        in_flight: u16::try_from(in_flight).unwrap(),
        connect_timeout: Duration::from_secs(5),
        reconnect: Reconnect {
            first: Duration::from_secs(1),
            max: Duration::from_secs(5),
            jitter: 0.0,
        },
    };
    let mut requests = broker::spawn(config, sender, None);
    let options = ConnectOptions {
        client_id: "throughput".into(),
        clean_start: true,
        will: None,
        ..ConnectOptions::default()
    };
    requests.send(vec![BrokerRequest::Open { conn: CONN, options }]);

    let payload = Bytes::from(vec![b'x'; 100]);
    let topic: std::sync::Arc<str> = "bench/throughput/topic".into();
    let (mut sent, mut settled, mut window, mut batches) = (0, 0, 0, 0);
    let mut allowed = if rate == 0 { messages } else { 0 };
    let mut turn = tokio::time::interval(Duration::from_millis(1));
    turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut begin = (Instant::now(), cpu_time());
    while settled < messages {
        let mut batch = Vec::new();
        while sent < messages.min(allowed) && sent - settled < window {
            batch.push(BrokerRequest::Publish {
                conn: CONN,
                token: Some(Token(sent)),
                topic: topic.clone(),
                qos: QoS::AtLeastOnce,
                retain: false,
                payload: payload.clone(),
                stored: None,
            });
            sent += 1;
        }
        if !batch.is_empty() {
            requests.send(batch);
        }
        let input = tokio::select! {
            input = inputs.recv() => input.expect("port ended"),
            _ = turn.tick(), if rate > 0 && window > 0 => {
                allowed = begin.0.elapsed().as_micros() as u64 * rate / 1_000_000;
                continue;
            }
        };
        let Input::Broker(events) = input else {
            unreachable!()
        };
        batches += 1;
        for event in events {
            match event {
                BrokerEvent::Up { window: limit, .. } => {
                    window = limit.into();
                    begin = (Instant::now(), cpu_time());
                }
                BrokerEvent::Settled { result, .. } => {
                    assert_eq!(result, Ok(None));
                    settled += 1;
                }
                BrokerEvent::Credit { .. } => {}
                event => panic!("{event:?}"),
            }
        }
    }
    let wall = begin.0.elapsed().as_secs_f64();
    let cpu = cpu_time() - begin.1;
    println!(
        "{messages} messages, window {window}: {:.0}/s, {:.2} us CPU each, {:.1} to a batch",
        messages as f64 / wall,
        cpu.as_secs_f64() * 1e6 / messages as f64,
        messages as f64 / f64::from(batches),
    );
    requests.close().await;
}

/// User and system time of this process so far, from Linux's clock ticks of 10 ms.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    // proc_pid_stat(5): the name in parentheses may hold spaces; utime and stime are fields 14 and 15.
    let fields: Vec<&str> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}
