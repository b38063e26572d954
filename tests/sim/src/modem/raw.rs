//! A microcontroller with a radio on a plain serial line: an Arduino with an nRF24, an RFM69 or an SX127x.
//!
//! Its firmware takes frames from the line and sends their content as it is; what it receives it frames for the host.
//! Who a message is for stands in the content: a RadioHead header, forwarder encapsulation, or nothing.

use core::time::Duration;
use std::collections::VecDeque;

use gateway_core::time::Instant;

use super::framing::{Checksum, Deframer, Framing};
use super::{ModemOutput, SimModem};
use crate::agenda::Agenda;
use crate::ether::{AirEvent, AirRequest, Tuning};

/// Frames that the firmware keeps while its radio is busy.
const QUEUE_MAX: usize = 4;

/// How a bridge was programmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawConfig {
    /// The speed of its line.
    pub baud: u32,
    /// How frames are told apart.
    pub framing: Framing,
    /// What follows their content.
    pub checksum: Checksum,
    /// The strength of what it received stands before each frame's content.
    pub rssi_before: bool,
    /// Its radio.
    pub tuning: Tuning,
    /// The most that its radio carries.
    pub payload_max: usize,
    /// How long it starts.
    pub boot: Duration,
}

impl RawConfig {
    /// MQTT-SN's length and nothing else at 9600 baud, over a radio of 250 kbit/s.
    pub fn new(framing: Framing) -> RawConfig {
        RawConfig {
            baud: 9600,
            framing,
            checksum: Checksum::None,
            rssi_before: false,
            tuning: Tuning::Packet {
                channel: 1,
                bits_per_second: 250_000,
                overhead: 8,
            },
            payload_max: 255,
            boot: Duration::from_millis(1_500),
        }
    }
}

/// A simulated bridge.
#[derive(Debug)]
pub struct RawBridge {
    config: RawConfig,
    deframer: Deframer,
    running: bool,
    agenda: Agenda<Event>,
    queue: VecDeque<Vec<u8>>,
    sending: bool,
    busy_until: Instant,
    output: VecDeque<ModemOutput>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Booted,
    /// It sends again.
    GoOn,
}

impl RawBridge {
    /// A bridge without power.
    pub fn new(config: RawConfig) -> RawBridge {
        RawBridge {
            deframer: Deframer::new(config.framing, config.checksum, config.baud),
            running: false,
            agenda: Agenda::default(),
            queue: VecDeque::new(),
            sending: false,
            busy_until: Instant::START,
            output: VecDeque::new(),
            config,
        }
    }

    fn go_on(&mut self, now: Instant) {
        if self.sending || now < self.busy_until {
            return;
        }
        if let Some(payload) = self.queue.pop_front() {
            self.sending = true;
            let tuning = self.config.tuning;
            self.output
                .push_back(ModemOutput::Air(AirRequest::Send { tuning, payload }));
        }
    }

    fn tell(&mut self, payload: &[u8], rssi_dbm: i16) {
        // Two's complement of the dBm, in one octet.
        let rssi = rssi_dbm.clamp(-128, 127) as i8 as u8;
        let content = match self.config.rssi_before {
            true => [&[rssi], payload].concat(),
            false => payload.to_vec(),
        };
        let content = self.config.checksum.append(&content);
        self.output
            .push_back(ModemOutput::Event(self.config.framing.encode(&content)));
    }
}

impl SimModem for RawBridge {
    fn baud(&self) -> u32 {
        self.config.baud
    }

    fn power_on(&mut self, now: Instant) {
        let config = self.config.clone();
        let output = core::mem::take(&mut self.output);
        *self = RawBridge::new(config);
        self.output = output;
        self.agenda.add(now + self.config.boot, Event::Booted);
    }

    fn handle_octets(&mut self, now: Instant, octets: &[u8]) {
        if !self.running {
            return;
        }
        for octet in octets {
            let Some(frame) = self.deframer.push(now, *octet) else {
                continue;
            };
            if frame.len() > self.config.payload_max || self.queue.len() >= QUEUE_MAX {
                let note = format!("{} octets dropped", frame.len());
                self.output.push_back(ModemOutput::Note(note));
            } else {
                self.queue.push_back(frame);
            }
        }
        self.go_on(now);
    }

    fn handle_air(&mut self, now: Instant, event: AirEvent) {
        match event {
            AirEvent::Frame {
                payload, rssi_dbm, ..
            } if self.running => self.tell(&payload, rssi_dbm),
            AirEvent::Frame { .. } | AirEvent::Damaged { .. } | AirEvent::Sensed { .. } => {}
            AirEvent::Sent => {
                self.sending = false;
                self.go_on(now);
            }
        }
    }

    fn set_busy(&mut self, until: Instant) {
        self.busy_until = until;
        self.agenda.add(until, Event::GoOn);
    }

    fn handle_timeout(&mut self, now: Instant) {
        while let Some((at, event)) = self.agenda.pop_due(now) {
            match event {
                Event::Booted => {
                    self.running = true;
                    let tuning = self.config.tuning;
                    self.output
                        .push_back(ModemOutput::Air(AirRequest::Listen(Some(tuning))));
                }
                Event::GoOn => self.go_on(at),
            }
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.agenda.next()
    }

    fn poll_output(&mut self) -> Option<ModemOutput> {
        self.output.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use gateway_core::time::Instant;

    use super::{Checksum, Framing, RawBridge, RawConfig};
    use crate::ether::{AirEvent, AirRequest};
    use crate::modem::{ModemOutput, SimModem};

    fn started(config: RawConfig) -> RawBridge {
        let mut bridge = RawBridge::new(config);
        bridge.power_on(Instant::START);
        bridge.handle_timeout(Instant::START + Duration::from_secs(2));
        while bridge.poll_output().is_some() {}
        bridge
    }

    fn now() -> Instant {
        Instant::START + Duration::from_secs(3)
    }

    #[test]
    fn content_of_a_frame_is_sent_as_it_is() {
        for framing in [
            Framing::LengthPrefix,
            Framing::Slip,
            Framing::Cobs,
            Framing::Hdlc,
            Framing::Kiss,
        ] {
            let mut bridge = started(RawConfig::new(framing));
            bridge.handle_octets(now(), &framing.encode(&[3, 1, 1]));
            let Some(ModemOutput::Air(AirRequest::Send { payload, .. })) = bridge.poll_output() else {
                panic!("{framing:?} sends nothing");
            };
            assert_eq!(payload, [3, 1, 1]);
        }
    }

    #[test]
    fn what_is_received_has_strength_and_checksum_in_its_frame() {
        let mut bridge = started(RawConfig {
            checksum: Checksum::Xmodem,
            rssi_before: true,
            ..RawConfig::new(Framing::Slip)
        });
        bridge.handle_air(
            now(),
            AirEvent::Frame {
                payload: vec![3, 1, 1],
                rssi_dbm: -91,
                snr_db: 4,
            },
        );
        let content = Checksum::Xmodem.append(&[0xA5, 3, 1, 1]);
        assert_eq!(
            bridge.poll_output(),
            Some(ModemOutput::Event(Framing::Slip.encode(&content)))
        );
    }

    #[test]
    fn one_frame_is_on_the_air_at_a_time_and_few_wait() {
        let mut bridge = started(RawConfig::new(Framing::LengthPrefix));
        for _ in 0..10 {
            bridge.handle_octets(now(), &[3, 1, 1]);
        }
        let mut sent = 0;
        loop {
            let air = core::iter::from_fn(|| bridge.poll_output())
                .filter(|output| matches!(output, ModemOutput::Air(AirRequest::Send { .. })))
                .count();
            if air == 0 {
                break;
            }
            assert_eq!(air, 1);
            sent += 1;
            bridge.handle_air(now(), AirEvent::Sent);
        }
        assert_eq!(sent, 5);
    }

    #[test]
    fn nothing_is_heard_while_it_starts() {
        let mut bridge = RawBridge::new(RawConfig::new(Framing::LengthPrefix));
        bridge.power_on(Instant::START);
        bridge.handle_octets(Instant::START + Duration::from_millis(100), &[3, 1, 1]);
        assert_eq!(bridge.poll_output(), None);
    }
}
