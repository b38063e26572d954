//! `$SYS/broker/…`: what the broker tells about itself, under the names that mosquitto uses.
//!
//! Nothing is kept or computed unless someone subscribes: a subscription gets the values of that moment as retained
//! messages, and while there is one, changed values are published every [`INTERVAL`]. So an idle broker sleeps.

use core::time::Duration;

use gateway_core::time::Instant;

use super::stats::Stats;

/// Between two publications of changed values: mosquitto's default.
pub(crate) const INTERVAL: Duration = Duration::from_secs(10);

/// All topics and their values now.
pub(crate) fn values(now: Instant, stats: &Stats) -> Vec<(&'static str, String)> {
    let disconnected = stats.sessions - stats.clients_connected.min(stats.sessions);
    let uptime = now.since(Instant::START).as_secs();
    let numbers = [
        ("$SYS/broker/clients/total", stats.sessions as u64),
        ("$SYS/broker/clients/connected", stats.clients_connected as u64),
        ("$SYS/broker/clients/disconnected", disconnected as u64),
        ("$SYS/broker/clients/maximum", stats.clients_maximum as u64),
        ("$SYS/broker/clients/expired", stats.sessions_expired),
        ("$SYS/broker/messages/received", stats.packets_received),
        ("$SYS/broker/messages/sent", stats.packets_sent),
        ("$SYS/broker/publish/messages/received", stats.publish_received),
        ("$SYS/broker/publish/messages/sent", stats.publish_sent),
        ("$SYS/broker/publish/messages/dropped", stats.dropped()),
        ("$SYS/broker/publish/bytes/received", stats.bytes_received),
        ("$SYS/broker/subscriptions/count", stats.subscriptions as u64),
        (
            "$SYS/broker/shared_subscriptions/count",
            stats.shared_subscriptions as u64,
        ),
        ("$SYS/broker/retained messages/count", stats.retained as u64),
    ];
    let version = concat!("snipe version ", env!("CARGO_PKG_VERSION")).to_owned();
    [
        ("$SYS/broker/version", version),
        ("$SYS/broker/uptime", format!("{uptime} seconds")),
    ]
    .into_iter()
    .chain(numbers.map(|(topic, number)| (topic, number.to_string())))
    .collect()
}
