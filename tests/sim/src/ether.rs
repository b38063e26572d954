//! The air that simulated radios share.
//!
//! A transmission occupies its channel for its time on air. A station gets it only if it listened with the same
//! parameters for the whole of it and did not send meanwhile; of frames that overlap on a channel the one that is 6 dB
//! stronger than all others survives. The air is a value without I/O, as everything here.

use core::fmt;
use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

use gateway_core::time::Instant;
use rand::{RngExt, SeedableRng, rngs::SmallRng};

/// How much stronger a LoRa frame must be than another one to survive it, in dB.
const CAPTURE_DB: i16 = 6;

/// The air, and everyone in it.
#[derive(Debug)]
pub struct Ether {
    config: EtherConfig,
    rng: SmallRng,
    stations: Vec<Station>,
    paths: BTreeMap<(StationId, StationId), Path>,
    /// Transmissions on the air, and those that overlapped with one of them.
    transmissions: Vec<Transmission>,
    next: u64,
    events: VecDeque<(StationId, AirEvent)>,
    /// What happened on the air so far.
    pub totals: AirTotals,
}

/// What an air is like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EtherConfig {
    /// Everything random follows from it.
    pub seed: u64,
    /// How frames arrive between stations of which nothing else was said.
    pub path: Path,
    /// Times on air are divided by this, so that a person watching need not wait for SF12.
    pub speed_up: u32,
}

/// How frames arrive from one station at another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Path {
    /// Signal strength at the receiver, in dBm.
    pub rssi_dbm: i16,
    /// Signal to noise ratio at the receiver, in dB.
    pub snr_db: i8,
    /// The share of frames that do not arrive, 0 to 1.
    pub loss: f64,
}

/// Names a radio: the order in which it joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StationId(pub usize);

/// What a radio is told by its modem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AirRequest {
    /// Listen from now on, or no longer. What is sent later interrupts listening for its time only.
    Listen(Option<Tuning>),
    /// Send; [`AirEvent::Sent`] says when it is done. What is being sent is broken off.
    Send {
        /// How.
        tuning: Tuning,
        /// What.
        payload: Vec<u8>,
    },
    /// Break off what is being sent: nobody gets it, and no [`AirEvent::Sent`] comes.
    Abort,
    /// Ask whether somebody is on the channel; [`AirEvent::Sensed`] answers at once.
    Sense(Tuning),
}

/// What a radio tells its modem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AirEvent {
    /// A frame arrived.
    Frame {
        /// What it holds.
        payload: Vec<u8>,
        /// Its strength, in dBm.
        rssi_dbm: i16,
        /// Its distance from the noise, in dB.
        snr_db: i8,
    },
    /// A frame arrived whose checksum is wrong.
    Damaged {
        /// Its strength, in dBm.
        rssi_dbm: i16,
        /// Its distance from the noise, in dB.
        snr_db: i8,
    },
    /// The frame to send has left the antenna.
    Sent,
    /// Whether somebody is on the channel.
    Sensed {
        /// Somebody is.
        busy: bool,
    },
}

/// What a radio is set to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tuning {
    /// LoRa modulation with explicit header and checksum.
    Lora(LoraTuning),
    /// IEEE 802.15.4 at 2.4 GHz. Who a frame is for stands in its payload.
    Ieee802154 {
        /// 11 to 26.
        channel: u8,
    },
    /// Packets at a plain bit rate, where the modulation is the maker's secret.
    Packet {
        /// Which channel.
        channel: u16,
        /// Its speed.
        bits_per_second: u32,
        /// Octets on the air for each frame besides its payload.
        overhead: u16,
    },
}

/// What a LoRa radio is set to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LoraTuning {
    /// Carrier, in Hz.
    pub frequency_hz: u32,
    /// 5 to 12.
    pub spreading_factor: u8,
    /// In Hz.
    pub bandwidth_hz: u32,
    /// 5 to 8 for 4/5 to 4/8; the header of a frame tells it, so receivers need not agree.
    pub coding_rate: u8,
    /// Symbols of the preamble.
    pub preamble: u16,
    /// The sync word as an SX126x has it: 0x1424 private, 0x3444 public.
    pub sync: u16,
    /// The polarity is inverted, as in downlinks of LoRaWAN.
    pub inverted_iq: bool,
}

/// What happened on the air.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AirTotals {
    /// Frames that were sent to their end.
    pub sent: u64,
    /// Frames that arrived, counted at each receiver.
    pub received: u64,
    /// Frames whose checksum a receiver found wrong.
    pub damaged: u64,
    /// Frames that a path lost.
    pub lost: u64,
}

#[derive(Debug)]
struct Station {
    listening: Option<(Tuning, Instant)>,
    /// When its last transmission began and ended, or will end.
    deaf: Option<(Instant, Instant)>,
}

#[derive(Debug, Clone)]
struct Transmission {
    id: u64,
    from: StationId,
    tuning: Tuning,
    payload: Vec<u8>,
    start: Instant,
    end: Instant,
    /// `Some(false)`: broken off; `None`: still on the air.
    finished: Option<bool>,
}

impl Default for EtherConfig {
    fn default() -> Self {
        EtherConfig {
            seed: 1,
            path: Path::default(),
            speed_up: 1,
        }
    }
}

/// A good path that loses nothing.
impl Default for Path {
    fn default() -> Self {
        Path {
            rssi_dbm: -80,
            snr_db: 9,
            loss: 0.0,
        }
    }
}

impl Ether {
    /// An empty air.
    pub fn new(config: EtherConfig) -> Ether {
        Ether {
            rng: SmallRng::seed_from_u64(config.seed),
            config,
            stations: Vec::new(),
            paths: BTreeMap::new(),
            transmissions: Vec::new(),
            next: 0,
            events: VecDeque::new(),
            totals: AirTotals::default(),
        }
    }

    /// A radio more, which does not listen yet.
    pub fn join(&mut self) -> StationId {
        self.stations.push(Station {
            listening: None,
            deaf: None,
        });
        StationId(self.stations.len() - 1)
    }

    /// How frames arrive from one station at another from now on.
    pub fn set_path(&mut self, from: StationId, to: StationId, path: Path) {
        self.paths.insert((from, to), path);
    }

    /// Time on air of a frame of so many octets, as this air has it.
    pub fn time_on_air(&self, tuning: &Tuning, octets: usize) -> Duration {
        tuning.time_on_air(octets) / self.config.speed_up.max(1)
    }

    /// Carries out what a station asks for.
    pub fn handle_request(&mut self, now: Instant, station: StationId, request: AirRequest) {
        match request {
            AirRequest::Listen(tuning) => self.listen(now, station, tuning),
            AirRequest::Send { tuning, payload } => self.send(now, station, tuning, payload),
            AirRequest::Abort => self.abort(now, station),
            AirRequest::Sense(tuning) => {
                let busy = self.transmissions.iter().any(|other| {
                    other.finished.is_none() && other.from != station && other.tuning.disturbs(&tuning)
                });
                self.events.push_back((station, AirEvent::Sensed { busy }));
            }
        }
    }

    /// When [`Ether::handle_timeout`] is wanted.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.transmissions
            .iter()
            .filter(|t| t.finished.is_none())
            .map(|t| t.end)
            .min()
    }

    /// Ends the transmissions whose time is over.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(index) = self
            .transmissions
            .iter()
            .enumerate()
            .filter(|(_, t)| t.finished.is_none() && t.end <= now)
            .min_by_key(|(_, t)| (t.end, t.id))
            .map(|(index, _)| index)
        {
            self.finish(index);
        }
        self.forget_past();
    }

    /// The next thing that a station must know.
    pub fn poll_event(&mut self) -> Option<(StationId, AirEvent)> {
        self.events.pop_front()
    }

    fn listen(&mut self, now: Instant, station: StationId, tuning: Option<Tuning>) {
        let listening = &mut self.stations[station.0].listening;
        // Setting a radio to what it is set to does not interrupt a reception.
        if listening.map(|(old, _)| old) != tuning {
            *listening = tuning.map(|tuning| (tuning, now));
        }
    }

    fn send(&mut self, now: Instant, from: StationId, tuning: Tuning, payload: Vec<u8>) {
        self.abort(now, from);
        let end = now + self.time_on_air(&tuning, payload.len());
        self.stations[from.0].deaf = Some((now, end));
        self.transmissions.push(Transmission {
            id: self.next,
            from,
            tuning,
            payload,
            start: now,
            end,
            finished: None,
        });
        self.next += 1;
    }

    fn abort(&mut self, now: Instant, from: StationId) {
        for transmission in &mut self.transmissions {
            if transmission.from == from && transmission.finished.is_none() {
                transmission.end = now;
                transmission.finished = Some(false);
                self.stations[from.0].deaf = Some((transmission.start, now));
            }
        }
    }

    fn finish(&mut self, index: usize) {
        self.transmissions[index].finished = Some(true);
        self.totals.sent += 1;
        let frame = self.transmissions[index].clone();
        self.events.push_back((frame.from, AirEvent::Sent));
        for to in (0..self.stations.len()).map(StationId) {
            if to != frame.from && self.stations[to.0].listened_to(&frame) {
                self.arrive(&frame, to);
            }
        }
    }

    fn arrive(&mut self, frame: &Transmission, to: StationId) {
        let path = self.path(frame.from, to);
        if path.loss > 0.0 && self.rng.random_bool(path.loss.min(1.0)) {
            self.totals.lost += 1;
            return;
        }
        let (rssi_dbm, snr_db) = (path.rssi_dbm, path.snr_db);
        let mut captured = true;
        let mut locked_elsewhere = false;
        for other in &self.transmissions {
            if other.id == frame.id
                || other.from == to
                || !other.overlaps(frame)
                || !other.tuning.disturbs(&frame.tuning)
            {
                continue;
            }
            if self.path(other.from, to).rssi_dbm + CAPTURE_DB > rssi_dbm {
                captured = false;
                // A receiver follows the preamble that came first and never learns of a second frame.
                let first = (other.start, other.id) < (frame.start, frame.id);
                locked_elsewhere |= first && other.tuning.is_heard_by(&frame.tuning);
            }
        }
        if captured {
            self.totals.received += 1;
            let payload = frame.payload.clone();
            let event = AirEvent::Frame {
                payload,
                rssi_dbm,
                snr_db,
            };
            self.events.push_back((to, event));
        } else if !locked_elsewhere {
            self.totals.damaged += 1;
            self.events
                .push_back((to, AirEvent::Damaged { rssi_dbm, snr_db }));
        }
    }

    fn path(&self, from: StationId, to: StationId) -> Path {
        self.paths.get(&(from, to)).copied().unwrap_or(self.config.path)
    }

    /// Finished transmissions matter as long as one that overlaps with them is on the air.
    fn forget_past(&mut self) {
        let oldest = self
            .transmissions
            .iter()
            .filter(|t| t.finished.is_none())
            .map(|t| t.start)
            .min();
        self.transmissions
            .retain(|t| t.finished.is_none() || oldest.is_some_and(|oldest| t.end > oldest));
    }
}

impl Station {
    /// It listened to the whole of a frame.
    fn listened_to(&self, frame: &Transmission) -> bool {
        let deaf = |(from, to): (Instant, Instant)| from < frame.end && to > frame.start;
        self.listening
            .is_some_and(|(tuning, since)| tuning.is_heard_by(&frame.tuning) && since <= frame.start)
            && !self.deaf.is_some_and(deaf)
    }
}

impl Transmission {
    fn overlaps(&self, other: &Transmission) -> bool {
        self.start < other.end && other.start < self.end
    }
}

impl Tuning {
    /// Time on air of a frame of so many octets.
    pub fn time_on_air(&self, octets: usize) -> Duration {
        match *self {
            Tuning::Lora(lora) => lora.time_on_air(octets),
            // 32 µs an octet; preamble, delimiter and length take 6.
            Tuning::Ieee802154 { .. } => Duration::from_micros(32 * (6 + octets as u64)),
            Tuning::Packet {
                bits_per_second,
                overhead,
                ..
            } => {
                let bits = 8 * (octets as u64 + u64::from(overhead));
                Duration::from_micros(bits * 1_000_000 / u64::from(bits_per_second.max(1)))
            }
        }
    }

    /// A radio set to this gets frames sent with `other`.
    pub fn is_heard_by(&self, other: &Tuning) -> bool {
        match (self, other) {
            (Tuning::Lora(a), Tuning::Lora(b)) => {
                a.channel() == b.channel() && a.sync == b.sync && a.inverted_iq == b.inverted_iq
            }
            (a, b) => a == b,
        }
    }

    /// Frames sent with this and with `other` destroy each other.
    fn disturbs(&self, other: &Tuning) -> bool {
        match (self, other) {
            (Tuning::Lora(a), Tuning::Lora(b)) => a.channel() == b.channel(),
            (Tuning::Packet { channel: a, .. }, Tuning::Packet { channel: b, .. }) => a == b,
            (a, b) => a == b,
        }
    }
}

impl LoraTuning {
    /// LoRa transmissions meet on the same frequency, spreading factor and bandwidth.
    fn channel(&self) -> (u32, u8, u32) {
        (self.frequency_hz, self.spreading_factor, self.bandwidth_hz)
    }

    /// Semtech's formula (AN1200.13), in quarters of a symbol.
    fn time_on_air(&self, octets: usize) -> Duration {
        let sf = u64::from(self.spreading_factor);
        let chips = 1_u64 << sf;
        let bandwidth = u64::from(self.bandwidth_hz.max(1));
        // SX126x and SX127x switch low data rate optimisation on where a symbol is longer than 16 ms.
        let per_block = if chips * 1_000 > 16 * bandwidth {
            sf - 2
        } else {
            sf
        };
        // 16 bits of checksum and 20 of header, of which the first block carries some.
        let bits = (8 * octets as u64 + 44).saturating_sub(4 * sf);
        let payload_symbols = 8 + bits.div_ceil(4 * per_block) * u64::from(self.coding_rate);
        // SX126x: at SF5 and SF6 the synchronisation takes two symbols more.
        let synchronisation = if sf < 7 { 25 } else { 17 };
        let quarters = 4 * (u64::from(self.preamble) + payload_symbols) + synchronisation;
        Duration::from_micros(quarters * chips * 250_000 / bandwidth)
    }
}

impl fmt::Display for StationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "station {}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SF9: LoraTuning = LoraTuning {
        frequency_hz: 868_100_000,
        spreading_factor: 9,
        bandwidth_hz: 125_000,
        coding_rate: 5,
        preamble: 8,
        sync: 0x1424,
        inverted_iq: false,
    };

    /// At SF9 it takes 246.784 ms.
    const FRAME: [u8; 31] = [7; 31];

    #[test]
    fn time_on_air_is_that_of_two_other_calculators() {
        for (spreading_factor, bandwidth_hz, coding_rate, preamble, octets, micros) in [
            (7, 125_000, 5, 8, 11, 41_216),
            (7, 125_000, 5, 8, 64, 118_016),
            (8, 125_000, 5, 8, 31, 133_632),
            (9, 125_000, 5, 8, 31, 246_784),
            (10, 125_000, 5, 8, 31, 452_608),
            (11, 125_000, 5, 8, 31, 905_216),
            (12, 125_000, 5, 8, 11, 1_155_072),
            (12, 125_000, 5, 8, 31, 1_810_432),
            (12, 125_000, 5, 8, 64, 2_793_472),
            (12, 250_000, 5, 8, 31, 905_216),
            (12, 500_000, 5, 8, 31, 411_648),
            (9, 125_000, 5, 12, 35, 263_168),
            (10, 125_000, 8, 8, 51, 886_784),
            (7, 125_000, 5, 8, 255, 399_616),
            (12, 125_000, 5, 8, 255, 9_019_392),
            (7, 500_000, 5, 8, 31, 17_984),
            (8, 62_500, 5, 8, 31, 267_264),
            (9, 500_000, 6, 8, 20, 51_456),
        ] {
            let tuning = LoraTuning {
                spreading_factor,
                bandwidth_hz,
                coding_rate,
                preamble,
                ..SF9
            };
            let time = Tuning::Lora(tuning).time_on_air(octets).as_micros();
            assert_eq!(
                time, micros,
                "SF{spreading_factor} {bandwidth_hz} Hz, {octets} octets"
            );
        }
    }

    #[test]
    fn frame_arrives_when_its_time_is_over() {
        let mut air = Air::new(2);
        air.listen(0, 1);
        air.send(10, 0);
        assert_eq!(air.until(256), []);
        assert_eq!(air.until(257), [(0, Heard::Sent), (1, Heard::Frame)]);
    }

    #[test]
    fn who_began_to_listen_late_hears_nothing() {
        let mut air = Air::new(2);
        air.send(10, 0);
        air.listen(11, 1);
        assert_eq!(air.until(300), [(0, Heard::Sent)]);
    }

    #[test]
    fn who_listens_elsewhere_hears_nothing() {
        for other in [
            LoraTuning {
                spreading_factor: 10,
                ..SF9
            },
            LoraTuning {
                bandwidth_hz: 250_000,
                ..SF9
            },
            LoraTuning {
                frequency_hz: 868_300_000,
                ..SF9
            },
            LoraTuning { sync: 0x3444, ..SF9 },
            LoraTuning {
                inverted_iq: true,
                ..SF9
            },
        ] {
            let mut air = Air::new(2);
            air.request(0, 1, AirRequest::Listen(Some(Tuning::Lora(other))));
            air.send(10, 0);
            assert_eq!(air.until(300), [(0, Heard::Sent)], "{other:?}");
        }
    }

    #[test]
    fn coding_rate_and_preamble_may_differ() {
        let other = LoraTuning {
            coding_rate: 8,
            preamble: 12,
            ..SF9
        };
        let mut air = Air::new(2);
        air.request(0, 1, AirRequest::Listen(Some(Tuning::Lora(other))));
        air.send(10, 0);
        assert_eq!(air.until(300), [(0, Heard::Sent), (1, Heard::Frame)]);
    }

    #[test]
    fn nobody_hears_while_it_sends() {
        let mut air = Air::new(2);
        air.listen(0, 0);
        air.listen(0, 1);
        air.send(10, 0);
        air.send(200, 1);
        assert_eq!(air.until(500), [(0, Heard::Sent), (1, Heard::Sent)]);
    }

    #[test]
    fn equal_frames_that_overlap_destroy_each_other() {
        let mut air = Air::new(3);
        air.listen(0, 2);
        air.send(10, 0);
        air.send(100, 1);
        // The receiver followed the first one; the second it never notices.
        let heard = air.until(500);
        assert_eq!(heard, [(0, Heard::Sent), (2, Heard::Damaged), (1, Heard::Sent)]);
    }

    #[test]
    fn frame_that_is_6_db_stronger_survives() {
        for (weaker_by, heard) in [
            (6, &[Heard::Damaged, Heard::Frame][..]),
            (5, &[Heard::Damaged][..]),
        ] {
            let mut air = Air::new(3);
            let strong = Path::default();
            let weak = Path {
                rssi_dbm: strong.rssi_dbm - weaker_by,
                ..strong
            };
            air.ether.set_path(StationId(0), StationId(2), weak);
            air.listen(0, 2);
            air.send(10, 0);
            air.send(100, 1);
            let by_receiver = air.until(500).into_iter().filter(|(station, _)| *station == 2);
            let by_receiver: Vec<Heard> = by_receiver.map(|(_, heard)| heard).collect();
            assert_eq!(by_receiver, heard, "weaker by {weaker_by} dB");
        }
    }

    #[test]
    fn frames_one_after_the_other_both_arrive() {
        let mut air = Air::new(3);
        air.listen(0, 2);
        air.send(0, 0);
        air.send(247, 1);
        let heard = air.until(1000);
        assert_eq!(
            heard.iter().filter(|(_, heard)| *heard == Heard::Frame).count(),
            2
        );
    }

    #[test]
    fn what_is_broken_off_reaches_nobody_and_still_disturbs() {
        let mut air = Air::new(3);
        air.listen(0, 2);
        air.send(10, 0);
        air.send(50, 1);
        air.request(100, 0, AirRequest::Abort);
        assert_eq!(air.until(500), [(1, Heard::Sent)]);
        assert_eq!(air.ether.totals.sent, 1);
    }

    #[test]
    fn channel_is_taken_while_somebody_sends() {
        let mut air = Air::new(2);
        air.send(10, 0);
        air.request(20, 1, AirRequest::Sense(Tuning::Lora(SF9)));
        assert_eq!(air.until(20), [(1, Heard::Sensed(true))]);
        air.until(300);
        air.request(300, 1, AirRequest::Sense(Tuning::Lora(SF9)));
        assert_eq!(air.until(300), [(1, Heard::Sensed(false))]);
    }

    #[test]
    fn path_loses_its_share_of_frames() {
        let mut air = Air::new(2);
        let path = Path {
            loss: 0.25,
            ..Path::default()
        };
        air.ether.set_path(StationId(0), StationId(1), path);
        air.listen(0, 1);
        for n in 0..1000 {
            air.send(n * 300, 0);
        }
        air.until(1_000_000);
        let totals = air.ether.totals;
        assert_eq!(totals.received + totals.lost, 1000);
        assert!((200..300).contains(&totals.lost), "{totals:?}");
    }

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Heard {
        Frame,
        Damaged,
        Sent,
        Sensed(bool),
    }

    /// An air whose time is counted in milliseconds.
    struct Air {
        ether: Ether,
        heard: Vec<(usize, Heard)>,
    }

    impl Air {
        fn new(stations: usize) -> Air {
            let mut ether = Ether::new(EtherConfig::default());
            for _ in 0..stations {
                ether.join();
            }
            Air {
                ether,
                heard: Vec::new(),
            }
        }

        fn listen(&mut self, millis: u64, station: usize) {
            self.request(millis, station, AirRequest::Listen(Some(Tuning::Lora(SF9))));
        }

        fn send(&mut self, millis: u64, station: usize) {
            let (tuning, payload) = (Tuning::Lora(SF9), FRAME.to_vec());
            self.request(millis, station, AirRequest::Send { tuning, payload });
        }

        fn request(&mut self, millis: u64, station: usize, request: AirRequest) {
            self.pass(millis);
            let now = Instant::from_micros(millis * 1000);
            self.ether.handle_request(now, StationId(station), request);
        }

        fn until(&mut self, millis: u64) -> Vec<(usize, Heard)> {
            self.pass(millis);
            core::mem::take(&mut self.heard)
        }

        fn pass(&mut self, millis: u64) {
            self.ether.handle_timeout(Instant::from_micros(millis * 1000));
            while let Some((station, event)) = self.ether.poll_event() {
                let heard = match event {
                    AirEvent::Frame { payload, .. } => {
                        assert_eq!(payload, FRAME);
                        Heard::Frame
                    }
                    AirEvent::Damaged { .. } => Heard::Damaged,
                    AirEvent::Sent => Heard::Sent,
                    AirEvent::Sensed { busy } => Heard::Sensed(busy),
                };
                self.heard.push((station.0, heard));
            }
        }
    }
}
