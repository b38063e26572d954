//! What happens at a site, one line an event.

use std::{
    io::{self, Write as _},
    path::Path,
    time::Duration,
};

use gateway_core::time::Instant;
use sn_codec::Packet;
use snipe_sim::{
    ether::{LoraTuning, Tuning},
    modem::Fault,
    sim_client::Presence,
    site::{Site, SiteEvent},
};

use super::args::{HeaderName, ModemArgs};
use crate::tools::describe::OneLine;

/// Sensors that are heard and get no answer for so long are set differently; taste: several times what a modem takes to
/// be set up, and what an answer takes at SF12.
const UNANSWERED: Duration = Duration::from_secs(20);

/// Prints events.
#[derive(Debug)]
pub(super) struct Printer {
    verbose: bool,
    title: String,
    /// How the sensors are set.
    sensors: Option<Tuning>,
    /// How they are told apart, where that can be chosen.
    header: Option<HeaderName>,
    /// How the modem listened last, so that nothing is said twice.
    tuned: Option<Tuning>,
    /// Somebody has had the port open.
    host: bool,
    /// That it cannot hear the sensors has been said.
    deaf: bool,
    /// Whether sensors get answers.
    answers: Answers,
}

/// Whether sensors that are heard get answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answers {
    /// Nobody was heard yet.
    Unknown,
    /// None, since somebody was heard for the first time.
    None(Instant),
    /// There was one, or it has been said that there is none.
    Settled,
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
            header: args.header(),
            tuned: None,
            host: false,
            deaf: false,
            answers: Answers::Unknown,
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

    pub(super) fn opened(&mut self, now: Instant, baud: u32) {
        self.host = true;
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
                    self.deaf = false;
                    self.print(now, "modem", &format!("listens at {}", tuned(tuning)));
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
                self.doubt(now);
            }
            SiteEvent::Down {
                sensor,
                datagram,
                len,
                air,
            } => {
                let packet = datagram
                    .as_deref()
                    .and_then(|datagram| Packet::decode(datagram).ok());
                if packet.is_some_and(|packet| !matches!(packet, Packet::Advertise(_))) {
                    self.answers = Answers::Settled;
                }
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

    /// A sensor sends: whether anybody can hear it, and answers.
    fn doubt(&mut self, now: Instant) {
        // As long as nobody has set the modem up, what it listens to means nothing.
        let (Some(modem), Some(sensors), true) = (self.tuned, self.sensors, self.host) else {
            return;
        };
        if !modem.is_heard_by(&sensors) {
            if !core::mem::replace(&mut self.deaf, true) {
                let advice = match options(&modem, &sensors) {
                    Some(options) => format!("; to set them so: {options}"),
                    None => String::new(),
                };
                let sensors = tuned(&sensors);
                self.print(
                    now,
                    "modem",
                    &format!("cannot hear the sensors, which are at {sensors}{advice}"),
                );
            }
            return;
        }
        match self.answers {
            Answers::Unknown => self.answers = Answers::None(now),
            Answers::None(since) if now.since(since) >= UNANSWERED => {
                self.answers = Answers::Settled;
                let header = self
                    .header
                    .and_then(|header| clap::ValueEnum::to_possible_value(&header));
                let header = header.map_or_else(String::new, |header| {
                    format!(
                        "has the configuration the sensors' header, {}, and their framing and checksum? ",
                        header.get_name()
                    )
                });
                let text = format!(
                    "heard sensors for {} s, and none has an answer: {header}Is there airtime left?",
                    UNANSWERED.as_secs()
                );
                self.print(now, "modem", &text);
            }
            Answers::None(_) | Answers::Settled => {}
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
                    "{presence}; {} in {}, {skipped} left out, {} given up",
                    counted(published, "message"),
                    counted(frames, "frame"),
                    counted(gave_up as u64, "request"),
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
            "{:.3} MHz, SF{}, {} kHz, {}",
            f64::from(lora.frequency_hz) / 1e6,
            lora.spreading_factor,
            lora.bandwidth_hz / 1000,
            match network(lora) {
                Network::SyncWord(word) => format!("sync word {word:#04x}"),
                Network::Reyax(id) => format!("network {id}"),
            }
        ),
        Tuning::Ieee802154 { channel } => format!("channel {channel} of 802.15.4"),
        Tuning::Packet {
            channel,
            bits_per_second,
            ..
        } => format!("channel {channel}, {bits_per_second} bit/s"),
    }
}

/// What keeps LoRa radios apart on one channel.
#[derive(Debug, PartialEq, Eq)]
enum Network {
    SyncWord(u8),
    /// REYAX modems derive theirs from the network.
    Reyax(u8),
}

fn network(lora: &LoraTuning) -> Network {
    let [high, low] = lora.sync.to_be_bytes();
    // As an SX126x has a sync word: a 4 after each half.
    if high & 0x0F == 4 && low & 0x0F == 4 {
        Network::SyncWord(high & 0xF0 | low >> 4)
    } else {
        Network::Reyax(low)
    }
}

/// The options that set sensors as a modem listens, where that can be done.
fn options(modem: &Tuning, sensors: &Tuning) -> Option<String> {
    let (Tuning::Lora(modem), Tuning::Lora(sensors)) = (modem, sensors) else {
        return None;
    };
    let mut options = Vec::new();
    if modem.frequency_hz != sensors.frequency_hz {
        options.push(format!("--frequency {}", modem.frequency_hz));
    }
    if modem.spreading_factor != sensors.spreading_factor {
        options.push(format!("--sf {}", modem.spreading_factor));
    }
    if modem.bandwidth_hz != sensors.bandwidth_hz {
        options.push(format!("--bandwidth {}", modem.bandwidth_hz));
    }
    if modem.sync != sensors.sync {
        options.push(match network(modem) {
            Network::SyncWord(word) => format!("--sync-word {word:#04x}"),
            Network::Reyax(id) => format!("--network-id {id}"),
        });
    }
    (!options.is_empty()).then(|| options.join(" "))
}

fn counted(many: u64, what: &str) -> String {
    match many {
        1 => format!("1 {what}"),
        many => format!("{many} {what}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuning(sync: u16) -> LoraTuning {
        LoraTuning {
            frequency_hz: 868_100_000,
            spreading_factor: 9,
            bandwidth_hz: 125_000,
            coding_rate: 5,
            preamble: 8,
            sync,
            inverted_iq: false,
        }
    }

    #[test]
    fn sync_words_are_told_as_they_are_configured() {
        assert!(tuned(&Tuning::Lora(tuning(0x1424))).ends_with("sync word 0x12"));
        assert!(tuned(&Tuning::Lora(tuning(0x3444))).ends_with("sync word 0x34"));
        assert!(tuned(&Tuning::Lora(tuning(0x5012))).ends_with("network 18"));
    }

    #[test]
    fn what_differs_is_told_as_options() {
        let sensors = tuning(0x1424);
        let modem = LoraTuning {
            frequency_hz: 869_525_000,
            spreading_factor: 10,
            bandwidth_hz: 250_000,
            sync: 0x3444,
            ..sensors
        };
        assert_eq!(
            options(&Tuning::Lora(modem), &Tuning::Lora(sensors)).as_deref(),
            Some("--frequency 869525000 --sf 10 --bandwidth 250000 --sync-word 0x34")
        );
        assert_eq!(options(&Tuning::Lora(sensors), &Tuning::Lora(sensors)), None);
    }
}
