//! What the shell counts itself, with the names under which it is exported.

use core::sync::atomic::Ordering;
use std::collections::HashMap;

use broker::EmbeddedStats;
use gateway_core::link_metrics::{Class, LinkMetrics, NotSent};
use gateway_store::{SyncTimes, Usage};
use radio_adapters::driver::{DropReason, Recovery};
use radio_adapters::stats::RadioStats;
use radio_adapters::udp::UdpStats;

/// What a UDP link counted, with exported names.
pub(crate) fn udp_rows(radio: &str, stats: &UdpStats) -> Vec<(String, u64)> {
    let row = |name: &str, reason: &str, value: u64| {
        (format!("snipe_radio_{name}{{radio=\"{radio}\"{reason}}}"), value)
    };
    let load = |counter: &core::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    vec![
        row("frames_total", ",direction=\"rx\"", load(&stats.received)),
        row("frames_total", ",direction=\"tx\"", load(&stats.sent)),
        row(
            "dropped_total",
            ",reason=\"send_error\"",
            load(&stats.send_errors),
        ),
        row("dropped_total", ",reason=\"oversize\"", load(&stats.truncated)),
        row(
            "dropped_total",
            ",reason=\"queue_full\"",
            load(&stats.backlog_dropped),
        ),
        row(
            "dropped_total",
            ",reason=\"kernel\"",
            stats.kernel_dropped().unwrap_or(0),
        ),
    ]
}

/// What a radio on a serial line counted, with exported names.
pub(crate) fn serial_rows(radio: &str, stats: &RadioStats) -> Vec<(String, u64)> {
    let row = |name: &str, label: &str, value: u64| {
        (format!("snipe_radio_{name}{{radio=\"{radio}\"{label}}}"), value)
    };
    let load = |counter: &core::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let mut rows = vec![
        row("reopens_total", "", load(&stats.reopens)),
        row("reboots_total", "", load(&stats.reboots)),
        row("refusals_total", "", load(&stats.refusals)),
        row("frames_total", ",direction=\"rx\"", load(&stats.received)),
        row("frames_total", ",direction=\"tx\"", load(&stats.sent)),
        row("bytes_total", ",direction=\"rx\"", load(&stats.received_octets)),
        row("bytes_total", ",direction=\"tx\"", load(&stats.sent_octets)),
        row(
            "line_bytes_total",
            ",direction=\"rx\"",
            load(&stats.line_received_octets),
        ),
        row(
            "line_bytes_total",
            ",direction=\"tx\"",
            load(&stats.line_sent_octets),
        ),
        row("not_heard_total", "", load(&stats.not_heard)),
    ];
    rows.extend(DropReason::ALL.map(|reason| {
        let label = format!(",reason=\"{}\"", reason.name());
        row("dropped_total", &label, stats.dropped(reason))
    }));
    rows.extend(Recovery::ALL.map(|way| {
        let label = format!(",way=\"{}\"", way.name());
        row("recoveries_total", &label, stats.recoveries(way))
    }));
    rows
}

/// What the core knows of a link, with exported names.
pub(crate) fn link_rows(radio: &str, kind: &str, metrics: &LinkMetrics) -> Vec<(String, u64)> {
    let row = |name: &str, label: &str, value: u64| {
        (format!("snipe_radio_{name}{{radio=\"{radio}\"{label}}}"), value)
    };
    let mut rows = vec![
        row("up", &format!(",kind=\"{kind}\""), u64::from(metrics.up)),
        row("unsent_total", "", metrics.unsent_total),
    ];
    rows.extend(Class::ALL.map(|class| {
        let label = format!(",class=\"{}\"", class.name());
        row("tx_queue_frames", &label, metrics.queued[class as usize])
    }));
    rows.extend(NotSent::ALL.map(|reason| {
        let label = format!(",reason=\"{}\"", reason.name());
        row("dropped_total", &label, metrics.dropped[reason as usize])
    }));
    rows
}

/// One row for each name: core and adapter count some reasons under the same one.
pub(crate) fn summed(rows: &mut Vec<(String, u64)>) {
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut sums: Vec<(String, u64)> = Vec::with_capacity(rows.len());
    for (name, value) in rows.drain(..) {
        match places.get(&name).and_then(|at| sums.get_mut(*at)) {
            Some((_, sum)) => *sum += value,
            None => {
                places.insert(name.clone(), sums.len());
                sums.push((name, value));
            }
        }
    }
    *rows = sums;
}

/// How strong what a link received was, as histograms of Prometheus: each bucket holds those below it too.
pub(crate) fn signal_rows(radio: &str, metrics: &LinkMetrics) -> Vec<(String, u64)> {
    let mut rows = Vec::new();
    for (name, histogram) in [("rssi_dbm", &metrics.rssi_dbm), ("snr_db", &metrics.snr_db)] {
        let mut below = 0;
        for (at, count) in histogram.counts.iter().enumerate() {
            below += count;
            let bound = histogram
                .bounds
                .get(at)
                .map_or_else(|| "+Inf".to_owned(), i16::to_string);
            let label = format!("{{radio=\"{radio}\",le=\"{bound}\"}}");
            rows.push((format!("snipe_radio_{name}_bucket{label}"), below));
        }
        rows.push((format!("snipe_radio_{name}_count{{radio=\"{radio}\"}}"), below));
    }
    rows
}

/// What a link used of its airtime, and the sums of what it received, with exported names.
pub(crate) fn airtime_rows(radio: &str, metrics: &LinkMetrics) -> Vec<(String, f64)> {
    let row = |name: &str, label: &str, value: f64| {
        (format!("snipe_radio_{name}{{radio=\"{radio}\"{label}}}"), value)
    };
    let seconds = |micros: u64| micros as f64 / 1e6;
    let ratio = |ppm: u32| f64::from(ppm) / 1e6;
    let mut rows = vec![
        row(
            "airtime_seconds_total",
            ",direction=\"rx\"",
            seconds(metrics.rx_airtime_us),
        ),
        row(
            "airtime_seconds_total",
            ",direction=\"tx\"",
            seconds(metrics.tx_airtime_us),
        ),
        row("rssi_dbm_sum", "", metrics.rssi_dbm.sum as f64),
        row("snr_db_sum", "", metrics.snr_db.sum as f64),
    ];
    if let Some(limit) = metrics.duty_cycle_limit_ppm {
        rows.push(row("duty_cycle_ratio", "", ratio(metrics.duty_cycle_used_ppm)));
        rows.push(row("duty_cycle_limit_ratio", "", ratio(limit)));
    }
    rows
}

/// What the store counts, with exported names: what it uses, octets written today, and how many may be.
pub(crate) fn store_rows(usage: &Usage, today: u64, budget: u64) -> Vec<(String, u64)> {
    let row = |name: &str, value: u64| (format!("snipe_{name}"), value);
    vec![
        row("disk_written_bytes_total", usage.written_bytes),
        row("disk_written_today_bytes", today),
        row("disk_write_budget_bytes", budget),
        row("store_file_bytes", usage.file_bytes),
        row("store_values", usage.values),
        row("store_syncs_total", usage.syncs),
        row("store_failures_total", usage.failures),
        row("store_unreadable_total", usage.unreadable),
    ]
}

/// How long syncs took: the buckets of a histogram with their number, and its sum.
pub(crate) fn sync_rows(times: &SyncTimes) -> (Vec<(String, u64)>, (String, f64)) {
    let mut below = 0;
    let mut rows = Vec::with_capacity(times.counts.len() + 1);
    for (at, count) in times.counts.iter().enumerate() {
        below += count;
        let bound = SyncTimes::BOUNDS.get(at);
        let bound = bound.map_or_else(|| "+Inf".to_owned(), |bound| bound.as_secs_f64().to_string());
        rows.push((
            format!("snipe_spool_sync_seconds_bucket{{le=\"{bound}\"}}"),
            below,
        ));
    }
    rows.push(("snipe_spool_sync_seconds_count".to_owned(), below));
    (
        rows,
        ("snipe_spool_sync_seconds_sum".to_owned(), times.sum.as_secs_f64()),
    )
}

/// What the embedded broker counted, with exported names.
pub(crate) fn broker_rows(stats: &EmbeddedStats) -> Vec<(String, u64)> {
    let row = |name: &str, value: u64| (format!("snipe_broker_{name}"), value);
    let dropped = |reason: &str, value: u64| {
        (
            format!("snipe_broker_dropped_total{{reason=\"{reason}\"}}"),
            value,
        )
    };
    vec![
        row("clients", stats.clients_connected as u64),
        row("sessions", stats.sessions as u64),
        row("subscriptions", stats.subscriptions as u64),
        row("retained", stats.retained as u64),
        row("packets_received_total", stats.packets_received),
        row("packets_sent_total", stats.packets_sent),
        row("publish_received_total", stats.publish_received),
        row("publish_sent_total", stats.publish_sent),
        row("bytes_received_total", stats.bytes_received),
        row("refused_full_total", stats.refused_full),
        row("clients_too_slow_total", stats.clients_too_slow),
        row("sessions_expired_total", stats.sessions_expired),
        dropped("qos0", stats.dropped_qos0),
        dropped("full", stats.dropped_full),
        dropped("offline", stats.dropped_offline),
        dropped("disconnected", stats.dropped_disconnected),
        dropped("expired", stats.dropped_expired),
        dropped("too_large", stats.dropped_too_large),
        dropped("retained", stats.dropped_retained),
        dropped("unshared", stats.dropped_unshared),
        row("held_over_total", stats.held_over),
        row("sessions_not_restored_total", stats.sessions_not_restored),
        row("sessions_not_kept_total", stats.sessions_not_kept),
    ]
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use gateway_core::link_metrics::Histogram;

    use super::*;

    #[test]
    fn rows_of_one_name_are_one_row() {
        let named = |name: &str, value| (name.to_owned(), value);
        let mut rows = vec![named("a", 1), named("b", 2), named("a", 3)];
        summed(&mut rows);
        assert_eq!(rows, [named("a", 4), named("b", 2)]);
    }

    #[test]
    fn each_bucket_of_a_histogram_holds_those_below() {
        let metrics = LinkMetrics {
            snr_db: Histogram {
                bounds: &[-5, 5],
                counts: vec![1, 2, 4],
                sum: 21,
            },
            ..LinkMetrics::default()
        };
        let rows = signal_rows("r", &metrics);
        let snr: Vec<(&str, u64)> = rows
            .iter()
            .filter(|(name, _)| name.contains("snr"))
            .map(|(name, value)| (name.as_str(), *value))
            .collect();
        assert_eq!(
            snr,
            [
                ("snipe_radio_snr_db_bucket{radio=\"r\",le=\"-5\"}", 1),
                ("snipe_radio_snr_db_bucket{radio=\"r\",le=\"5\"}", 3),
                ("snipe_radio_snr_db_bucket{radio=\"r\",le=\"+Inf\"}", 7),
                ("snipe_radio_snr_db_count{radio=\"r\"}", 7),
            ]
        );
    }

    #[test]
    fn syncs_are_told_as_a_histogram_in_seconds() {
        let mut times = SyncTimes {
            sum: Duration::from_millis(1_007),
            ..SyncTimes::default()
        };
        times.counts[1] = 2;
        times.counts[9] = 1;
        let (rows, sum) = sync_rows(&times);
        let of = |le: &str| {
            let name = format!("snipe_spool_sync_seconds_bucket{{le=\"{le}\"}}");
            rows.iter().find(|(row, _)| *row == name).unwrap().1
        };
        assert_eq!([of("0.001"), of("0.0025"), of("2.5"), of("+Inf")], [0, 2, 2, 3]);
        assert_eq!(
            rows.last().unwrap(),
            &("snipe_spool_sync_seconds_count".to_owned(), 3)
        );
        assert_eq!(sum, ("snipe_spool_sync_seconds_sum".to_owned(), 1.007));
    }

    #[test]
    fn airtime_is_told_in_seconds_and_shares() {
        let metrics = LinkMetrics {
            tx_airtime_us: 1_500_000,
            duty_cycle_used_ppm: 6_200,
            duty_cycle_limit_ppm: Some(10_000),
            ..LinkMetrics::default()
        };
        let rows = airtime_rows("r", &metrics);
        let of = |name: &str| rows.iter().find(|(row, _)| row.starts_with(name)).unwrap().1;
        assert_eq!(
            of("snipe_radio_airtime_seconds_total{radio=\"r\",direction=\"tx\"}"),
            1.5
        );
        assert_eq!(of("snipe_radio_duty_cycle_ratio"), 0.0062);
        assert_eq!(of("snipe_radio_duty_cycle_limit_ratio"), 0.01);
    }
}
