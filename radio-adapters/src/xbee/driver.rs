//! The driver: what comes in goes to whom it concerns.

use core::time::Duration;
use std::collections::VecDeque;

use arrayvec::ArrayVec;
use gateway_core::io::{Destination, LinkEvent, RadioFacts, TxTicket};
use gateway_core::peer::LinkAddr;
use gateway_core::time::Instant;

use super::at::{Asked, Ids};
use super::bring_up::{Command, Probe};
use super::frame::{Addr16, Addr64, At, Endpoints, Frame};
use super::framing::{Deframer, Mode, encode};
use super::link::JOIN_POLL;
use super::modem::{Modem, Network};
use super::peers::Peers;
use super::status::{Event, FROM_END_DEVICE};
use super::transmit::target;
use super::window::{Target, Transmission, Window};
use crate::driver::{Driver, DriverOutput, DropReason, Report};
use crate::settings::XbeeSettings;

/// The longest data of a frame of the modems we drive: 256 octets of payload and the header of an explicit packet.
pub(super) const DATA_MAX: usize = 300;

/// Silence within a frame after which it will not go on: far above what USB adapters hold octets back for.
const GAP: Duration = Duration::from_millis(500);

/// Silence after which the modem is asked for a sign of life.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// An XBee.
#[derive(Debug)]
pub(super) struct Xbee {
    pub(super) settings: XbeeSettings,
    pub(super) phase: Phase,
    pub(super) modem: Modem,
    pub(super) network: Network,
    pub(super) deframer: Deframer,
    pub(super) mode: Mode,
    /// The speed the line has now.
    pub(super) baud: u32,
    /// It was in transparent mode when the port was opened, and we changed that.
    pub(super) was_transparent: bool,
    pub(super) peers: Peers,
    pub(super) window: Window,
    pub(super) ids: Ids,
    /// The AT command that waits for its answer.
    pub(super) asked: Option<Asked>,
    /// Whose packet DB will be about.
    pub(super) rssi_of: Option<Addr64>,
    pub(super) outputs: VecDeque<DriverOutput>,
    pub(super) last_octet: Instant,
    pub(super) up: bool,
    pub(super) mtu: usize,
    pub(super) broadcast_mtu: usize,
    /// Transmissions in a row that got no status.
    pub(super) missed: u8,
    /// What people were told last about why it does not work.
    pub(super) complaint: Option<String>,
}

/// What the driver is about.
#[derive(Debug)]
pub(super) enum Phase {
    /// There is no port.
    Closed,
    /// Looking for a modem in API mode.
    Probing(Probe),
    /// Looking for a modem in transparent mode.
    Commanding(Command),
    /// Asking for everything; holds which question is open.
    SettingUp(usize),
    /// Waiting for the modem to be in a network.
    Joining { poll_at: Instant },
    /// The link is up.
    Running,
    /// Told to start again.
    Resetting { until: Instant },
    /// Unusable as it is.
    Resting { until: Instant },
    /// Waiting for the port to be opened again.
    GivenUp,
}

impl Driver for Xbee {
    fn opened(&mut self, now: Instant) {
        self.link_down();
        self.baud = self.settings.port.baud;
        self.was_transparent = false;
        self.last_octet = now;
        self.begin(now);
    }

    fn closed(&mut self, _now: Instant) {
        self.link_down();
        self.phase = Phase::Closed;
    }

    fn received(&mut self, now: Instant, octets: &[u8]) {
        self.last_octet = now;
        match self.phase {
            Phase::Closed | Phase::GivenUp => {}
            Phase::Commanding(_) => self.command_mode_received(now, octets),
            Phase::Probing(_)
            | Phase::SettingUp(_)
            | Phase::Joining { .. }
            | Phase::Running
            | Phase::Resetting { .. }
            | Phase::Resting { .. } => {
                let mut frames = Vec::new();
                self.deframer
                    .feed(octets, |frame| frames.push(frame.map(<[u8]>::to_vec)));
                self.on_frames(now, frames);
            }
        }
        self.pump(now);
    }

    fn transmit(&mut self, now: Instant, to: &Destination, datagram: &[u8], ticket: TxTicket) {
        if !self.window.spend() {
            return self.unsent(ticket);
        }
        let target = match to {
            Destination::Broadcast => Some(Target::Everyone),
            Destination::Peer(route) => target(&route.addr),
        };
        let mtu = match to {
            Destination::Broadcast => self.broadcast_mtu,
            Destination::Peer(_) => self.mtu,
        };
        match target {
            Some(to) if (1..=mtu).contains(&datagram.len()) => self.window.queue(Transmission {
                ticket,
                to,
                datagram: datagram.to_vec(),
                refusals: 0,
                searched: false,
            }),
            Some(_) if !datagram.is_empty() => {
                self.dropped(DropReason::TooLong);
                self.unsent(ticket);
            }
            _ => {
                self.dropped(DropReason::Refused);
                self.unsent(ticket);
            }
        }
        self.pump(now);
    }

    fn handle_timeout(&mut self, now: Instant) {
        if self.deframer.is_partial() && self.last_octet + GAP <= now {
            let mut frames = Vec::new();
            self.deframer.gap(|frame| frames.push(frame.map(<[u8]>::to_vec)));
            self.on_frames(now, frames);
        }
        if self.asked.as_ref().is_some_and(|asked| asked.until <= now) {
            self.unanswered(now);
        }
        match self.phase {
            Phase::Closed | Phase::SettingUp(_) | Phase::GivenUp => {}
            Phase::Probing(_) => self.probe(now),
            Phase::Commanding(_) => self.command(now),
            Phase::Joining { poll_at } => {
                if poll_at <= now && self.asked.is_none() {
                    self.phase = Phase::Joining {
                        poll_at: now + JOIN_POLL,
                    };
                    self.ask(now, At(*b"AI"), &[]);
                }
            }
            Phase::Running => self.expire(now),
            Phase::Resetting { until } => {
                if until <= now {
                    self.reopen();
                }
            }
            Phase::Resting { until } => {
                if until <= now {
                    self.begin(now);
                }
            }
        }
        if matches!(self.phase, Phase::Running | Phase::Joining { .. })
            && self.asked.is_none()
            && self.last_octet + SILENCE_MAX <= now
        {
            self.ask(now, At(*b"VR"), &[]);
        }
        self.pump(now);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let phase = match self.phase {
            Phase::Closed | Phase::GivenUp => return None,
            Phase::Probing(ref probe) => Some(probe.until),
            Phase::Commanding(ref command) => Some(command.until),
            Phase::SettingUp(_) => None,
            Phase::Joining { poll_at } if self.asked.is_none() => Some(poll_at),
            Phase::Joining { .. } => None,
            Phase::Running => self.window.wake(),
            Phase::Resetting { until } => Some(until),
            Phase::Resting { until } => Some(until),
        };
        let asked = self.asked.as_ref().map(|asked| asked.until);
        let gap = self.deframer.is_partial().then(|| self.last_octet + GAP);
        let silence = matches!(self.phase, Phase::Running | Phase::Joining { .. })
            .then(|| self.last_octet + SILENCE_MAX)
            .filter(|_| self.asked.is_none());
        [phase, asked, gap, silence].into_iter().flatten().min()
    }

    fn poll_output(&mut self) -> Option<DriverOutput> {
        self.outputs.pop_front()
    }
}

impl Xbee {
    pub(super) fn new(settings: &XbeeSettings) -> Self {
        Xbee {
            settings: settings.clone(),
            phase: Phase::Closed,
            modem: Modem::default(),
            network: Network::Zigbee,
            deframer: Deframer::new(Mode::Escaped, DATA_MAX),
            mode: Mode::Escaped,
            baud: settings.port.baud,
            was_transparent: false,
            peers: Peers::default(),
            window: Window::new(),
            ids: Ids::default(),
            asked: None,
            rssi_of: None,
            outputs: VecDeque::new(),
            last_octet: Instant::START,
            up: false,
            mtu: 0,
            broadcast_mtu: 0,
            missed: 0,
            complaint: None,
        }
    }

    fn on_frames(&mut self, now: Instant, frames: Vec<Result<Vec<u8>, DropReason>>) {
        for frame in frames {
            // Noise is what a line at another speed looks like.
            let probing = matches!(self.phase, Phase::Probing(_));
            match frame {
                Ok(data) => match Frame::decode(&data) {
                    Some(frame) => {
                        self.probe_heard();
                        self.on_frame(now, frame);
                    }
                    None => self.dropped(DropReason::Noise),
                },
                Err(_) if probing => {}
                Err(reason) => self.dropped(reason),
            }
        }
    }

    fn on_frame(&mut self, now: Instant, frame: Frame<'_>) {
        match frame {
            Frame::AtResponse {
                id,
                command,
                status,
                value,
            } => {
                self.on_at_response(now, id, command, status, value);
            }
            Frame::ModemStatus { status } => self.on_event(now, Event::from_code(status)),
            Frame::TxStatus { id, status } => self.on_status(now, id, Addr16::UNKNOWN, status),
            Frame::TransmitStatus {
                id, dest16, delivery, ..
            } => self.on_status(now, id, dest16, delivery),
            Frame::Receive {
                source64,
                source16,
                options,
                data,
            } => {
                self.on_packet(now, source64, source16, options, data);
            }
            Frame::ReceiveExplicit {
                source64,
                source16,
                endpoints,
                options,
                data,
            } => {
                // With AO other than 0 the traffic of Zigbee itself comes here, too.
                if (endpoints.destination, endpoints.cluster, endpoints.profile)
                    == (
                        Endpoints::DATA.destination,
                        Endpoints::DATA.cluster,
                        Endpoints::DATA.profile,
                    )
                {
                    self.on_packet(now, source64, source16, options, data);
                } else {
                    self.dropped(DropReason::NotForUs);
                }
            }
            Frame::Rx64 {
                source,
                minus_rssi_dbm,
                data,
                ..
            } => {
                self.deliver(long_addr(source), rssi(minus_rssi_dbm), data);
            }
            Frame::Rx16 {
                source,
                minus_rssi_dbm,
                data,
                ..
            } => {
                self.deliver(short_addr(source), rssi(minus_rssi_dbm), data);
            }
            Frame::NodeIdentification { node64, node16, .. } => self.peers.learn(node64, node16),
            Frame::RouteRecord {
                source64,
                source16,
                hops,
                ..
            } => {
                self.peers.learn_route(source64, source16, hops);
            }
            // Another node collects as well; the answer of a node we did not ask; IP packets of other modems.
            Frame::ManyToOne { .. } | Frame::RemoteAtResponse { .. } | Frame::ReceiveIpv4 { .. } => {}
            // What is for modems and comes from one is an echo.
            Frame::Tx64 { .. }
            | Frame::Tx16 { .. }
            | Frame::AtCommand { .. }
            | Frame::AtQueued { .. }
            | Frame::Transmit { .. }
            | Frame::TransmitExplicit { .. }
            | Frame::RemoteAt { .. }
            | Frame::TransmitIpv4 { .. }
            | Frame::CreateSourceRoute { .. } => self.dropped(DropReason::Noise),
        }
    }

    fn on_packet(&mut self, now: Instant, source64: Addr64, source16: Addr16, options: u8, data: &[u8]) {
        if source64 == Addr64::UNKNOWN {
            return self.deliver(short_addr(source16), RadioFacts::default(), data);
        }
        self.peers.learn(source64, source16);
        let peer = self.peers.heard(source64);
        peer.end_device = self.network == Network::Zigbee && options & FROM_END_DEVICE != 0;
        let facts = RadioFacts {
            rssi_dbm: peer.last_hop_rssi_dbm,
            snr_db: None,
            hops: peer.hops,
        };
        self.deliver(long_addr(source64), facts, data);
        if self.settings.last_hop_rssi && self.up && self.asked.is_none() {
            self.rssi_of = Some(source64);
            self.ask(now, At(*b"DB"), &[]);
        }
    }

    fn deliver(&mut self, from: LinkAddr, facts: RadioFacts, datagram: &[u8]) {
        if datagram.is_empty() {
            return self.dropped(DropReason::Length);
        }
        self.outputs.push_back(DriverOutput::Received {
            from,
            facts,
            datagram: datagram.to_vec(),
        });
    }

    pub(super) fn write(&mut self, data: &[u8]) {
        let mut octets = Vec::with_capacity(data.len() + 8);
        encode(self.mode, data, &mut octets);
        self.write_raw(octets);
    }

    pub(super) fn write_raw(&mut self, octets: Vec<u8>) {
        self.outputs.push_back(DriverOutput::Write(octets));
    }

    pub(super) fn set_baud(&mut self, baud: u32) {
        if self.baud != baud {
            self.baud = baud;
            self.outputs.push_back(DriverOutput::SetBaud(baud));
        }
    }

    pub(super) fn report(&mut self, report: Report) {
        self.outputs.push_back(DriverOutput::Report(report));
    }

    pub(super) fn dropped(&mut self, reason: DropReason) {
        self.report(Report::Dropped(reason));
    }

    pub(super) fn link(&mut self, event: LinkEvent) {
        self.outputs.push_back(DriverOutput::Link(event));
    }
}

fn long_addr(addr: Addr64) -> LinkAddr {
    LinkAddr::Radio(ArrayVec::from(addr.0.to_be_bytes()))
}

fn short_addr(addr: Addr16) -> LinkAddr {
    LinkAddr::Radio(addr.0.to_be_bytes().into_iter().collect())
}

pub(super) fn rssi(minus_dbm: u8) -> RadioFacts {
    RadioFacts {
        rssi_dbm: Some(-i16::from(minus_dbm)),
        snr_db: None,
        hops: None,
    }
}
