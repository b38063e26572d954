//! MQTT-SN over a serial line as it is, or with a transparent radio at its other end.
//!
//! What a frame is made of, from the inside: datagram, link header, signal strength, checksum, framing. A plain wire
//! reports a datagram as sent when the line has carried it. A radio behind the line
//! ([`air_rate`](RawSettings::air_rate), Ebyte modems) never says when it is done: it is given the time that it needs
//! at the very most, and takes nothing else meanwhile.

mod echo;

use core::time::Duration;
use std::collections::VecDeque;

use gateway_core::airtime::Airtime;
use gateway_core::io::{Destination, LinkEvent, LinkProfile, RadioFacts, TxTicket};
use gateway_core::time::Instant;

use self::echo::Echo;
use crate::acks::{self, AckAirtime};
use crate::driver::{Driver, DriverOutput, DropReason, Report};
use crate::framing::{Deframer, checksum, encode};
use crate::header::{Content, Header};
use crate::settings::{Crc, Framing, Metadata, RawSettings};

/// Silence that ends a message in [`Framing::LengthPrefix`]: USB adapters deliver in pieces of up to 16 ms.
const GAP: Duration = Duration::from_millis(20);
const GAP_OCTETS: usize = 5;

/// Ebyte does not say how the air rate comes about: an octet is taken for one and a half, and as much as 16 octets are
/// added for preamble and header.
const AIR_BITS: u8 = 12;
const AIR_OVERHEAD: usize = 16;

/// Acknowledgements that may wait; nodes send one frame at a time.
const MAX_ACKS: usize = 8;

/// Messages of nodes may be larger than what is sent to them.
const MIN_LARGEST: usize = 300;

/// A forwarder's wrapper: at most 255 octets.
const ENCAPSULATION: usize = 255;

/// MQTT-SN over a serial line.
#[derive(Debug)]
pub struct RawSerial {
    settings: RawSettings,
    state: State,
    deframer: Deframer,
    header: Header,
    echo: Echo,
    /// A frame whose signal strength comes after it.
    unrated: Option<Vec<u8>>,
    /// When the last octet came.
    heard: Instant,
    /// Acknowledgements to write before anything else.
    acks: VecDeque<Vec<u8>>,
    ack_airtime: AckAirtime,
    /// A datagram to write when the line is free.
    waiting: Option<(TxTicket, Vec<u8>)>,
    sending: Option<Sending>,
    /// Nothing is written before: others have to turn round.
    free: Instant,
    outputs: VecDeque<DriverOutput>,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Closed,
    /// Whoever is on the other side starts: what it says until then is no frame.
    Settling(Instant),
    Up,
}

/// A frame on its way.
#[derive(Debug)]
struct Sending {
    /// Acknowledgements have none.
    ticket: Option<TxTicket>,
    done: Instant,
}

impl RawSerial {
    /// A driver for a port that is not open yet.
    pub fn new(settings: RawSettings) -> RawSerial {
        RawSerial {
            state: State::Closed,
            deframer: deframer(&settings),
            header: Header::new(settings.header),
            echo: Echo::default(),
            unrated: None,
            heard: Instant::START,
            acks: VecDeque::new(),
            ack_airtime: AckAirtime::new(settings.header, settings.duty_cycle_ppm),
            waiting: None,
            sending: None,
            free: Instant::START,
            outputs: VecDeque::new(),
            settings,
        }
    }

    /// What a link with these settings can do.
    pub fn profile(settings: &RawSettings) -> LinkProfile {
        let overhead = Header::new(settings.header).overhead() + framing_overhead(settings);
        let airtime = match settings.air_rate {
            None => Airtime::ByteRate {
                bits_per_second: settings.port.baud.max(1),
                bits_per_octet: 10,
                overhead: (overhead + settings.fixed_prefix.len()) as u16,
            },
            // The prefix stays in the modem.
            Some(bits_per_second) => Airtime::ByteRate {
                bits_per_second: bits_per_second.max(1),
                bits_per_octet: match settings.framing {
                    Framing::LengthPrefix | Framing::Cobs => AIR_BITS,
                    // Every octet may have to be escaped.
                    Framing::Slip | Framing::Kiss | Framing::Hdlc => 2 * AIR_BITS,
                },
                overhead: (overhead + AIR_OVERHEAD) as u16,
            },
        };
        LinkProfile {
            mtu: settings.mtu,
            broadcast_mtu: settings.mtu,
            confirms_tx: true,
            credit: 1,
            airtime,
            duty_cycle: acks::duty_cycle(settings.header, settings.duty_cycle_ppm),
        }
    }

    fn come_up(&mut self) {
        self.state = State::Up;
        let identity = match self.settings.framing {
            Framing::LengthPrefix => "serial line, length-prefix",
            Framing::Slip => "serial line, slip",
            Framing::Cobs => "serial line, cobs",
            Framing::Hdlc => "serial line, hdlc",
            Framing::Kiss => "serial line, kiss",
        };
        self.outputs.push_back(DriverOutput::Report(Report::Ready {
            identity: identity.to_owned(),
            firmware: String::new(),
        }));
        self.link(LinkEvent::Up(Self::profile(&self.settings)));
    }

    fn take(&mut self, now: Instant, octets: &[u8]) {
        let mut frames = Vec::new();
        match self.settings.metadata {
            Metadata::None | Metadata::RssiBefore => self.deframe(octets, &mut frames),
            Metadata::RssiAfter => {
                for &octet in octets {
                    if let Some(frame) = self.unrated.take() {
                        self.take_frame(now, &frame, rssi(octet));
                        continue;
                    }
                    self.deframe(&[octet], &mut frames);
                    self.unrated = frames.pop();
                }
            }
        }
        for frame in frames {
            self.take_frame(now, &frame, None);
        }
    }

    fn deframe(&mut self, octets: &[u8], frames: &mut Vec<Vec<u8>>) {
        let outputs = &mut self.outputs;
        self.deframer.push(octets, &mut |frame| match frame {
            Ok(frame) => frames.push(frame.to_vec()),
            Err(reason) => outputs.push_back(DriverOutput::Report(Report::Dropped(reason))),
        });
    }

    /// Takes a frame apart, from the outside.
    fn take_frame(&mut self, now: Instant, frame: &[u8], rssi_after: Option<i16>) {
        let content = match checksum::strip(crc(&self.settings), frame) {
            Ok(content) => content,
            Err(reason) => return self.dropped(reason),
        };
        let (rssi_dbm, content) = match (self.settings.metadata, content) {
            (Metadata::RssiBefore, [octet, rest @ ..]) => (rssi(*octet), rest),
            _ => (rssi_after, content),
        };
        let unwrapped = self.header.unwrap(now, content);
        if let Some(ack) = unwrapped.ack {
            self.acknowledge(now, &ack);
        }
        match unwrapped.content {
            Content::Datagram { from, datagram } if !datagram.is_empty() => {
                let facts = RadioFacts {
                    rssi_dbm,
                    ..RadioFacts::default()
                };
                self.outputs.push_back(DriverOutput::Received {
                    from,
                    facts,
                    datagram: datagram.to_vec(),
                });
            }
            Content::Datagram { .. } => self.dropped(DropReason::Length),
            Content::Acknowledged { .. } => {}
            Content::Dropped(reason) => self.dropped(reason),
        }
    }

    /// Acknowledges a frame on the level of the link header.
    fn acknowledge(&mut self, now: Instant, ack: &[u8]) {
        let octets = self.line_octets(ack);
        let on_the_air = self.on_the_air(octets.len()).unwrap_or_default();
        if self.acks.len() >= MAX_ACKS {
            self.dropped(DropReason::Refused);
        } else if self.ack_airtime.take(now, on_the_air) {
            self.acks.push_back(octets);
        } else {
            self.dropped(DropReason::DutyCycle);
        }
    }

    /// A link frame as the line carries it.
    fn line_octets(&self, frame: &[u8]) -> Vec<u8> {
        let mut content = frame.to_vec();
        checksum::append(crc(&self.settings), &mut content);
        let mut octets = self.settings.fixed_prefix.clone();
        octets.extend(encode(self.settings.framing, &content));
        octets
    }

    /// Ends what is sent, and begins with the next.
    fn send_next(&mut self, now: Instant) {
        if let Some(sending) = self.sending.take_if(|sending| sending.done <= now)
            && let Some(ticket) = sending.ticket
        {
            self.link(LinkEvent::Sent(ticket));
            self.link(LinkEvent::Credit(1));
            if self.header.acknowledged() {
                // The node's radio answers at once, on the channel that we would use.
                let ack = self.line_octets(&[0; Header::ACK_LEN]);
                self.free = sending.done + self.settings.turnaround + self.duration(&ack);
            }
        }
        if self.sending.is_some() || now < self.free {
            return;
        }
        let (ticket, octets) = match self.acks.pop_front() {
            Some(ack) => (None, ack),
            None => match self.waiting.take() {
                Some((ticket, octets)) => (Some(ticket), octets),
                None => return,
            },
        };
        let done = now + self.duration(&octets);
        self.sending = Some(Sending { ticket, done });
        if self.settings.echo {
            self.echo.expect(&octets, done + GAP + GAP);
        }
        self.outputs.push_back(DriverOutput::Write(octets));
    }

    /// How long the line, and the radio behind it, take for these octets.
    fn duration(&self, octets: &[u8]) -> Duration {
        self.on_the_line(octets.len()) + self.on_the_air(octets.len()).unwrap_or_default()
    }

    /// How long a radio behind the line takes at the most for what the line carries in so many octets.
    fn on_the_air(&self, octets: usize) -> Option<Duration> {
        let air = Airtime::ByteRate {
            bits_per_second: self.settings.air_rate?.max(1),
            bits_per_octet: AIR_BITS,
            overhead: AIR_OVERHEAD as u16,
        };
        Some(air.of(octets.saturating_sub(self.settings.fixed_prefix.len())))
    }

    fn on_the_line(&self, octets: usize) -> Duration {
        Duration::from_micros(octets as u64 * 10_000_000 / u64::from(self.settings.port.baud.max(1)))
    }

    /// When so many octets arrive at the earliest if the line was silent for a gap before them.
    fn after_gap(&self, octets: usize) -> Instant {
        self.heard + GAP.max(self.on_the_line(GAP_OCTETS)) + self.on_the_line(octets)
    }

    /// The line was silent.
    fn fall_silent(&mut self, now: Instant) {
        if let Some(frame) = self.unrated.take() {
            self.take_frame(now, &frame, None);
        }
        if let Some(reason) = self.deframer.gap() {
            self.dropped(reason);
        }
    }

    fn waits_for_silence(&self) -> bool {
        self.unrated.is_some() || self.deframer.wants_gap()
    }

    fn link(&mut self, event: LinkEvent) {
        self.outputs.push_back(DriverOutput::Link(event));
    }

    fn dropped(&mut self, reason: DropReason) {
        self.outputs
            .push_back(DriverOutput::Report(Report::Dropped(reason)));
    }

    /// A datagram that is not sent, though there was credit for it.
    fn refuse(&mut self, ticket: TxTicket, reason: DropReason) {
        self.dropped(reason);
        self.link(LinkEvent::Unsent(ticket));
        self.link(LinkEvent::Credit(1));
    }
}

impl Driver for RawSerial {
    fn opened(&mut self, now: Instant) {
        self.deframer = deframer(&self.settings);
        self.heard = now;
        self.free = now;
        if self.settings.settle.is_zero() {
            self.come_up();
        } else {
            self.state = State::Settling(now + self.settings.settle);
        }
    }

    fn closed(&mut self, _now: Instant) {
        if let Some((ticket, _)) = self.waiting.take() {
            self.link(LinkEvent::Unsent(ticket));
        }
        if let Some(Sending {
            ticket: Some(ticket), ..
        }) = self.sending.take()
        {
            // A modem that has the frame may send it: its airtime counts.
            self.link(match self.settings.air_rate {
                Some(_) => LinkEvent::Sent(ticket),
                None => LinkEvent::Unsent(ticket),
            });
        }
        if self.state == State::Up {
            self.link(LinkEvent::Down);
        }
        self.state = State::Closed;
        self.acks.clear();
        self.unrated = None;
        self.echo = Echo::default();
    }

    fn received(&mut self, now: Instant, octets: &[u8]) {
        if self.state != State::Up || octets.is_empty() {
            return;
        }
        // Whoever reads the line may be late: it was silent only if it was before the first of these octets.
        if self.waits_for_silence() && self.after_gap(octets.len()) <= now {
            self.fall_silent(now);
        }
        self.heard = now;
        let octets = self.echo.remove(octets);
        if !octets.is_empty() {
            self.free = self.free.max(now + self.settings.turnaround);
            self.take(now, &octets);
        }
        self.send_next(now);
    }

    fn transmit(&mut self, now: Instant, to: &Destination, datagram: &[u8], ticket: TxTicket) {
        if self.state != State::Up || self.waiting.is_some() {
            self.link(LinkEvent::Unsent(ticket));
            return;
        }
        if datagram.len() > self.settings.mtu {
            return self.refuse(ticket, DropReason::TooLong);
        }
        let Some(frame) = self.header.wrap(to, datagram) else {
            return self.refuse(ticket, DropReason::Refused);
        };
        self.waiting = Some((ticket, self.line_octets(&frame)));
        self.send_next(now);
    }

    fn handle_timeout(&mut self, now: Instant) {
        if let State::Settling(until) = self.state
            && until <= now
        {
            self.come_up();
        }
        if self.state != State::Up {
            return;
        }
        if let Some(octets) = self.echo.give_up(now) {
            self.take(now, &octets);
        }
        if self.waits_for_silence() && self.after_gap(1) <= now {
            self.fall_silent(now);
        }
        self.send_next(now);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        if let State::Settling(until) = self.state {
            return Some(until);
        }
        let silence = self.waits_for_silence().then(|| self.after_gap(1));
        let line = match &self.sending {
            Some(sending) => Some(sending.done),
            None if self.waiting.is_some() || !self.acks.is_empty() => Some(self.free),
            None => None,
        };
        [silence, line, self.echo.deadline()].into_iter().flatten().min()
    }

    fn poll_output(&mut self) -> Option<DriverOutput> {
        self.outputs.pop_front()
    }
}

fn deframer(settings: &RawSettings) -> Deframer {
    let rssi = usize::from(settings.metadata == Metadata::RssiBefore);
    let before = rssi + Header::new(settings.header).overhead();
    let largest = settings.mtu.max(MIN_LARGEST) + ENCAPSULATION;
    Deframer::new(settings.framing, before + largest + 2, before)
}

/// HDLC has its own checksum, and nothing but the message's own length says where one would stand after it.
fn crc(settings: &RawSettings) -> Crc {
    match settings.framing {
        Framing::LengthPrefix | Framing::Hdlc => Crc::None,
        Framing::Slip | Framing::Cobs | Framing::Kiss => settings.crc,
    }
}

/// Octets around a frame that needs no escapes.
fn framing_overhead(settings: &RawSettings) -> usize {
    let checksum = match crc(settings) {
        Crc::None => 0,
        Crc::X25 | Crc::Xmodem => 2,
    };
    checksum
        + match settings.framing {
            Framing::LengthPrefix => 0,
            Framing::Slip => 2,
            // Two delimiters, and a code for each 254 octets begun.
            Framing::Cobs => 3 + settings.mtu / 254,
            Framing::Hdlc => 4,
            Framing::Kiss => 3,
        }
}

/// Ebyte manuals, current revisions: 256 less than the octet is dBm.
fn rssi(octet: u8) -> Option<i16> {
    (octet != 0).then(|| i16::from(octet) - 256)
}
