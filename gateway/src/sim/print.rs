//! What happens at a site, one line an event.

use std::{
    io::{self, Write as _},
    path::Path,
    time::Duration,
};

use gateway_core::time::Instant;
use sn_codec::Packet;
use snipe_sim::{
    ether::Tuning,
    modem::Fault,
    sim_client::Presence,
    site::{Site, SiteEvent},
};

use super::args::ModemArgs;
use crate::tools::describe::OneLine;

/// Prints events.
#[derive(Debug)]
pub(super) struct Printer {
    verbose: bool,
    title: String,
    /// How the sensors are set.
    sensors: Option<Tuning>,
    /// How the modem listened last, so that nothing is said twice.
    tuned: Option<Tuning>,
}

impl Printer {
    pub(super) fn new(args: &ModemArgs, sensors: Option<Tuning>) -> Printer {
        let kind = clap::ValueEnum::to_possible_value(&args.kind);
        let kind = kind.map_or_else(String::new, |kind| kind.get_name().to_owned());
        let many = if args.nodes == 1 { "" } else { "s" };
        let scale = match args.time_scale {
            1 => String::new(),
            scale => format!(", time on air divided by {scale}"),
        };
        Printer {
            verbose: args.verbose,
            title: format!("{kind} with {} sensor{many}{scale}", args.nodes),
            sensors,
            tuned: None,
        }
    }

    pub(super) fn ready(&self, path: &Path, terminal: &Path) {
        let (path, terminal) = (path.display(), terminal.display());
        self.print(
            Instant::START,
            "port",
            &format!("{path} is a {} (now {terminal})", self.title),
        );
    }

    pub(super) fn opened(&self, now: Instant, baud: u32) {
        self.print(now, "port", &format!("open at {baud} baud"));
    }

    pub(super) fn closed(&self, now: Instant) {
        self.print(now, "port", "closed");
    }

    pub(super) fn fault(&self, now: Instant, fault: Fault) {
        self.print(now, "fault", &format!("{fault:?}"));
    }

    pub(super) fn complain(&self, message: &str) {
        eprintln!("snipe: {message}");
    }

    /// Octets on the line, towards the modem or from it.
    pub(super) fn line(&self, now: Instant, to_modem: bool, octets: &[u8]) {
        if self.verbose {
            let arrow = if to_modem { ">" } else { "<" };
            self.print(now, "line", &format!("{arrow} {}", octets.escape_ascii()));
        }
    }

    pub(super) fn event(&mut self, now: Instant, event: &SiteEvent) {
        match event {
            SiteEvent::ToHost(octets) => self.line(now, false, octets),
            SiteEvent::Unplugged => self.print(now, "port", "unplugged"),
            SiteEvent::Replugged => self.print(now, "port", "plugged in"),
            SiteEvent::Tuned(Some(tuning)) => {
                if self.tuned.replace(*tuning) != Some(*tuning) {
                    self.print(now, "modem", &format!("listens at {}", tuned(tuning)));
                    if let Some(sensors) = self.sensors.filter(|sensors| !tuning.is_heard_by(sensors)) {
                        let sensors = tuned(&sensors);
                        self.print(
                            now,
                            "modem",
                            &format!("cannot hear the sensors, which are at {sensors}"),
                        );
                    }
                }
            }
            // Between two receptions, or for good: what follows says which.
            SiteEvent::Tuned(None) => {}
            SiteEvent::Up {
                sensor,
                datagram,
                air,
            } => {
                let what = datagram.as_deref().map_or_else(|| "link".to_owned(), message);
                self.print(now, &name(*sensor), &format!("-> {what}  {}", millis(*air)));
            }
            SiteEvent::Down {
                sensor,
                datagram,
                len,
                air,
            } => {
                let what = match datagram {
                    Some(datagram) => message(datagram),
                    None => format!("{len} octets that no sensor understands"),
                };
                let who = sensor.map_or_else(|| "everyone".to_owned(), name);
                self.print(now, &who, &format!("<- {what}  {}", millis(*air)));
            }
            SiteEvent::Damaged { sensor } => {
                let who = sensor.map_or_else(|| "modem".to_owned(), name);
                self.print(now, &who, "heard a damaged frame");
            }
            SiteEvent::Delivered { sensor, message } => {
                let payload = message.payload.escape_ascii();
                self.print(now, &name(*sensor), &format!("got {} = {payload}", message.topic));
            }
            SiteEvent::Behind { sensor } => {
                self.print(
                    now,
                    &name(*sensor),
                    "left a message out: the last one is not through",
                );
            }
            SiteEvent::Note(text) => self.print(now, "modem", text),
        }
    }

    /// What became of everyone.
    pub(super) fn summary(&self, now: Instant, site: &Site) {
        let air = site.air();
        self.print(
            now,
            "air",
            &format!(
                "{} frames sent, {} received, {} damaged, {} swallowed",
                air.sent, air.received, air.damaged, air.lost
            ),
        );
        for report in site.sensors() {
            let presence = match report.presence {
                Presence::Away => "not connected",
                Presence::Active => "connected",
                Presence::Asleep => "asleep",
            };
            let (published, skipped) = (report.published, report.skipped);
            let (frames, gave_up) = (report.frames, report.gave_up);
            self.print(
                now,
                &report.id,
                &format!(
                    "{presence}; {published} messages in {frames} frames, {skipped} left out, {gave_up} requests given up"
                ),
            );
        }
        self.flush();
    }

    pub(super) fn flush(&self) {
        // If nobody reads any more, the modem still works.
        let _ = io::stdout().flush();
    }

    fn print(&self, now: Instant, who: &str, what: &str) {
        let micros = now.as_micros();
        let (seconds, millis) = (micros / 1_000_000, micros / 1000 % 1000);
        // As above.
        let _ = writeln!(io::stdout().lock(), "{seconds:>6}.{millis:03}  {who:<10}  {what}");
    }
}

fn name(sensor: usize) -> String {
    format!("sensor-{}", sensor + 1)
}

fn message(datagram: &[u8]) -> String {
    match Packet::decode(datagram) {
        Ok(packet) => OneLine(&packet).to_string(),
        Err(error) => format!("{} octets that are no MQTT-SN: {error}", datagram.len()),
    }
}

fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

fn tuned(tuning: &Tuning) -> String {
    match tuning {
        Tuning::Lora(lora) => format!(
            "{:.3} MHz, SF{}, {} kHz, sync word {:04x}",
            f64::from(lora.frequency_hz) / 1e6,
            lora.spreading_factor,
            lora.bandwidth_hz / 1000,
            lora.sync
        ),
        Tuning::Ieee802154 { channel } => format!("channel {channel} of 802.15.4"),
        Tuning::Packet {
            channel,
            bits_per_second,
            ..
        } => format!("channel {channel}, {bits_per_second} bit/s"),
    }
}
