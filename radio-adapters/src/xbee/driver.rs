//! The driver: datagrams to frames and back, and what became of each.

use core::time::Duration;
use std::collections::VecDeque;

use arrayvec::ArrayVec;
use gateway_core::io::{Destination, LinkEvent, RadioFacts, TxTicket};
use gateway_core::peer::LinkAddr;
use gateway_core::time::Instant;

use super::bring_up::{Command, Probe};
use super::frame::{Addr16, Addr64, At, Endpoints, Frame, FrameId};
use super::framing::{Deframer, Mode, encode};
use super::modem::{Modem, Network};
use super::peers::{Peer, Peers};
use super::status::{Delivery, EXTENDED_TIMEOUT, Event, FROM_END_DEVICE};
use super::window::{Flight, Target, Transmission, Window};
use crate::driver::{Driver, DriverOutput, DropReason, Recovery, Report};
use crate::settings::XbeeSettings;

/// The longest data of a frame of the modems we drive: 256 octets of payload and the header of an explicit packet.
pub(super) const DATA_MAX: usize = 300;

/// Silence within a frame after which it will not go on: far above what USB adapters hold octets back for.
const GAP: Duration = Duration::from_millis(500);

/// A transmission takes 4.8 s at worst, three attempts of 1.6 s, and the discovery of an address and a route.
const STATUS_TIMEOUT: Duration = Duration::from_secs(10);

/// Transmissions in a row without a status before the modem is told to start again.
const STATUS_MISSED_MAX: u8 = 3;

/// Times that a transmission is tried on a busy channel or modem.
const REFUSALS_MAX: u8 = 5;

/// An AT command takes some milliseconds.
const AT_TIMEOUT: Duration = Duration::from_secs(2);

/// Silence after which the modem is asked for a sign of life.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// A modem that starts again says so within 1.5 s.
const RESET_TIMEOUT: Duration = Duration::from_secs(5);

/// Between looks at whether the modem is in a network by now.
const JOIN_POLL: Duration = Duration::from_secs(10);

/// The same after a transmission failed because it is not.
const JOIN_POLL_FIRST: Duration = Duration::from_secs(1);

/// A modem that cannot be used is looked at again after this.
const REST: Duration = Duration::from_secs(60);

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
    peers: Peers,
    window: Window,
    ids: Ids,
    /// The AT command that waits for its answer.
    asked: Option<Asked>,
    /// Whose packet DB will be about.
    rssi_of: Option<Addr64>,
    outputs: VecDeque<DriverOutput>,
    last_octet: Instant,
    up: bool,
    mtu: usize,
    broadcast_mtu: usize,
    /// Transmissions in a row that got no status.
    missed: u8,
    /// What people were told last about why it does not work.
    complaint: Option<String>,
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

/// An AT command that waits for its answer.
#[derive(Debug)]
struct Asked {
    id: FrameId,
    command: At,
    value: Vec<u8>,
    repeated: bool,
    until: Instant,
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

    // Receiving.

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

    // Sending.

    /// Gives the modem what it takes, and the core credit for more.
    fn pump(&mut self, now: Instant) {
        if !matches!(self.phase, Phase::Running) {
            return;
        }
        while let Some(transmission) = self.window.next(now) {
            self.send(now, transmission);
        }
        if let Some(credit) = self.window.grant(now) {
            self.link(LinkEvent::Credit(credit));
        }
    }

    fn send(&mut self, now: Instant, transmission: Transmission) {
        let id = self.ids.take();
        let data = transmission.datagram.as_slice();
        let mut remembered = false;
        let mut sleeper = false;
        let mut route = None;
        let frame = match (self.network, transmission.to) {
            (Network::Ieee802154, Target::Everyone) => Frame::Tx16 {
                id,
                dest: Addr16::BROADCAST,
                options: 0,
                data,
            },
            (Network::Ieee802154, Target::Long(dest)) => Frame::Tx64 {
                id,
                dest,
                options: 0,
                data,
            },
            (Network::Ieee802154, Target::Short(dest)) => Frame::Tx16 {
                id,
                dest,
                options: 0,
                data,
            },
            (_, to) => {
                let nobody = Peer::default();
                let (dest64, peer) = match to {
                    Target::Everyone => (Addr64::BROADCAST, &nobody),
                    Target::Long(addr) => (addr, self.peers.get(addr).unwrap_or(&nobody)),
                    Target::Short(_) => (Addr64::UNKNOWN, &nobody),
                };
                let dest16 = match to {
                    Target::Short(addr) => addr,
                    Target::Everyone | Target::Long(_) => peer.short.unwrap_or(Addr16::UNKNOWN),
                };
                remembered = peer.short.is_some();
                sleeper = peer.end_device;
                if remembered && !peer.route.is_empty() && self.modem.is_aggregator(self.network) {
                    route = Some(Frame::CreateSourceRoute {
                        id: FrameId::NONE,
                        dest64,
                        dest16,
                        options: 0,
                        hops: peer.route.clone(),
                    });
                }
                Frame::Transmit {
                    id,
                    dest64,
                    dest16,
                    radius: 0,
                    options: if sleeper { EXTENDED_TIMEOUT } else { 0 },
                    data,
                }
            }
        };
        let frames: ArrayVec<_, 2> = route.iter().chain([&frame]).map(Frame::encode).collect();
        for frame in frames {
            self.write(&frame);
        }
        let patience = if sleeper {
            self.modem.sleeper_timeout(STATUS_TIMEOUT)
        } else {
            STATUS_TIMEOUT
        };
        let line = Duration::from_secs(10 * self.window.octets() as u64) / self.baud.max(1);
        self.window.sent(Flight {
            id,
            transmission,
            remembered,
            sleeper,
            deadline: now + patience + line,
        });
    }

    fn on_status(&mut self, now: Instant, id: FrameId, dest16: Addr16, code: u8) {
        // The status of one that we gave up already.
        let Some(flight) = self.window.landed(id) else {
            return;
        };
        self.ids.give_back(id);
        self.missed = 0;
        let mut transmission = flight.transmission;
        let ticket = transmission.ticket;
        match Delivery::from_code(code) {
            Delivery::Done => {
                if let Target::Long(addr) = transmission.to {
                    self.peers.learn(addr, dest16);
                }
                self.window.succeeded();
                self.sent(ticket);
            }
            Delivery::NotHeard => self.not_heard(ticket),
            Delivery::Lost => {
                self.forget_way(transmission.to);
                self.not_heard(ticket);
            }
            Delivery::NoWay => {
                self.forget_way(transmission.to);
                if flight.remembered && !transmission.searched {
                    // It may have joined again under another address, which the modem can find out.
                    transmission.searched = true;
                    self.window.again(transmission);
                } else {
                    self.not_heard(ticket);
                }
            }
            Delivery::Busy if transmission.refusals < REFUSALS_MAX => {
                transmission.refusals += 1;
                self.window.again_later(now, transmission);
            }
            Delivery::Busy | Delivery::Refused => {
                self.dropped(DropReason::Refused);
                self.unsent(ticket);
            }
            Delivery::TooLong => {
                self.dropped(DropReason::TooLong);
                self.unsent(ticket);
            }
            Delivery::NotJoined => {
                self.unsent(ticket);
                self.left(now, JOIN_POLL_FIRST);
            }
        }
    }

    /// Gives up transmissions whose status did not come.
    fn expire(&mut self, now: Instant) {
        while let Some(flight) = self.window.expired(now) {
            self.ids.give_back(flight.id);
            self.not_heard(flight.transmission.ticket);
            self.missed += 1;
            if self.missed >= STATUS_MISSED_MAX {
                return self.reset(now);
            }
        }
    }

    fn forget_way(&mut self, to: Target) {
        if let Target::Long(addr) = to {
            self.peers.forget_way(addr);
        }
    }

    fn sent(&mut self, ticket: TxTicket) {
        self.link(LinkEvent::Sent(ticket));
    }

    fn unsent(&mut self, ticket: TxTicket) {
        self.link(LinkEvent::Unsent(ticket));
    }

    fn not_heard(&mut self, ticket: TxTicket) {
        self.report(Report::NotHeard);
        self.sent(ticket);
    }

    // The modem and its network.

    fn on_event(&mut self, now: Instant, event: Event) {
        match (event, &mut self.phase) {
            (Event::Rebooted, Phase::SettingUp(_) | Phase::Resetting { .. }) => self.begin(now),
            (Event::Rebooted, Phase::Joining { .. } | Phase::Running) => {
                self.report(Report::Rebooted);
                self.link_down();
                self.begin(now);
            }
            (Event::Joined, Phase::Joining { poll_at }) => *poll_at = now,
            (Event::Left, Phase::Running) => self.left(now, JOIN_POLL),
            (Event::Warning(text), _) => self.report(Report::Degraded(text.to_owned())),
            (Event::Rebooted | Event::Joined | Event::Left | Event::Other, _) => {}
        }
    }

    /// Everything was asked: the link is up as soon as the modem is in a network.
    pub(super) fn set_up(&mut self, now: Instant) {
        self.complaint = None;
        self.report(Report::Ready {
            identity: self.modem.identity(),
            firmware: self.modem.firmware(self.network),
        });
        self.phase = Phase::Joining {
            poll_at: now + JOIN_POLL,
        };
        self.join();
    }

    /// Looks at what AI said.
    fn join(&mut self) {
        if let Some(reason) = self.modem.not_joined() {
            return self.degraded(reason);
        }
        self.phase = Phase::Running;
        self.complaint = None;
        self.missed = 0;
        self.up = true;
        let credit = self.window.open();
        let profile = self.modem.profile(self.network, self.settings.mtu, credit);
        self.mtu = profile.mtu;
        self.broadcast_mtu = profile.broadcast_mtu;
        self.link(LinkEvent::Up(profile));
    }

    fn left(&mut self, now: Instant, poll: Duration) {
        self.link_down();
        self.degraded("it is in no network");
        self.phase = Phase::Joining { poll_at: now + poll };
    }

    fn degraded(&mut self, reason: &str) {
        if self.complaint.as_deref() != Some(reason) {
            self.complaint = Some(reason.to_owned());
            self.report(Report::Degraded(reason.to_owned()));
        }
    }

    /// It cannot be used as it is. Looked at again later.
    pub(super) fn refuse(&mut self, now: Instant, reason: &str) {
        self.complain(reason);
        self.phase = Phase::Resting { until: now + REST };
    }

    pub(super) fn complain(&mut self, reason: &str) {
        if self.complaint.as_deref() != Some(reason) {
            self.complaint = Some(reason.to_owned());
            self.report(Report::Refused(reason.to_owned()));
        }
    }

    /// Nothing is on its way any more; the core is told if it was not.
    fn link_down(&mut self) {
        for ticket in self.window.close() {
            self.unsent(ticket);
        }
        self.asked = None;
        self.rssi_of = None;
        self.ids = Ids::default();
        if self.up {
            self.up = false;
            self.link(LinkEvent::Down);
        }
    }

    fn reset(&mut self, now: Instant) {
        self.report(Report::Recovering(Recovery::Reset));
        self.link_down();
        self.ask(now, At(*b"FR"), &[]);
        self.phase = Phase::Resetting {
            until: now + RESET_TIMEOUT,
        };
    }

    pub(super) fn reopen(&mut self) {
        self.report(Report::Recovering(Recovery::Reopen));
        self.link_down();
        self.phase = Phase::GivenUp;
        self.outputs.push_back(DriverOutput::Reopen);
    }

    // AT commands.

    /// Asks the modem; one question at a time.
    pub(super) fn ask(&mut self, now: Instant, command: At, value: &[u8]) {
        let id = self.ids.take();
        self.asked = Some(Asked {
            id,
            command,
            value: value.to_vec(),
            repeated: false,
            until: now + AT_TIMEOUT,
        });
        self.write(&Frame::AtCommand { id, command, value }.encode());
    }

    fn on_at_response(&mut self, now: Instant, id: FrameId, command: At, status: u8, value: &[u8]) {
        if matches!(self.phase, Phase::Probing(_)) {
            return self.probe_answered(now, command, status, value);
        }
        let Some(asked) = self
            .asked
            .take_if(|asked| asked.id == id && asked.command == command)
        else {
            return;
        };
        self.ids.give_back(asked.id);
        let rssi_of = self.rssi_of.take();
        match self.phase {
            Phase::SettingUp(step) => self.set_up_answered(now, step, status, value),
            Phase::Joining { .. } => {
                if command == At(*b"AI") && status == 0 {
                    self.modem.learn(command, value);
                    self.join();
                }
            }
            Phase::Running => {
                if let (Some(addr), &[minus_rssi_dbm]) = (rssi_of, value)
                    && command == At(*b"DB")
                {
                    self.peers.heard(addr).last_hop_rssi_dbm = rssi(minus_rssi_dbm).rssi_dbm;
                }
            }
            Phase::Closed
            | Phase::Probing(_)
            | Phase::Commanding(_)
            | Phase::Resetting { .. }
            | Phase::Resting { .. }
            | Phase::GivenUp => {}
        }
    }

    /// The answer to the open question did not come: asks once more, then tries another way.
    fn unanswered(&mut self, now: Instant) {
        let Some(asked) = &mut self.asked else {
            return;
        };
        if matches!(self.phase, Phase::Resetting { .. }) {
            // The modem may start again without an answer.
            self.ids.give_back(asked.id);
            self.asked = None;
        } else if matches!(self.phase, Phase::Running | Phase::Joining { .. })
            && self.last_octet + AT_TIMEOUT > now
        {
            // It says other things: the answer was lost.
            self.ids.give_back(asked.id);
            self.asked = None;
        } else if asked.repeated {
            self.reopen();
        } else {
            asked.repeated = true;
            asked.until = now + AT_TIMEOUT;
            let again = Frame::AtCommand {
                id: asked.id,
                command: asked.command,
                value: &asked.value,
            }
            .encode();
            self.report(Report::Recovering(Recovery::Repeat));
            self.write(&again);
        }
    }

    // Outputs.

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

    fn dropped(&mut self, reason: DropReason) {
        self.report(Report::Dropped(reason));
    }

    fn link(&mut self, event: LinkEvent) {
        self.outputs.push_back(DriverOutput::Link(event));
    }
}

fn target(addr: &LinkAddr) -> Option<Target> {
    let LinkAddr::Radio(octets) = addr else {
        return None;
    };
    if let Ok(long) = <[u8; 8]>::try_from(octets.as_slice()) {
        return Some(Target::Long(Addr64(u64::from_be_bytes(long))));
    }
    let short = <[u8; 2]>::try_from(octets.as_slice()).ok()?;
    Some(Target::Short(Addr16(u16::from_be_bytes(short))))
}

fn long_addr(addr: Addr64) -> LinkAddr {
    LinkAddr::Radio(ArrayVec::from(addr.0.to_be_bytes()))
}

fn short_addr(addr: Addr16) -> LinkAddr {
    LinkAddr::Radio(addr.0.to_be_bytes().into_iter().collect())
}

fn rssi(minus_dbm: u8) -> RadioFacts {
    RadioFacts {
        rssi_dbm: Some(-i16::from(minus_dbm)),
        snr_db: None,
        hops: None,
    }
}

/// Frame ids; none is used while something about it may still come.
#[derive(Debug)]
struct Ids {
    last: u8,
    used: [bool; 256],
}

impl Default for Ids {
    fn default() -> Self {
        Ids {
            last: 0,
            used: [false; 256],
        }
    }
}

impl Ids {
    /// The next free one. Fewer than twenty are ever in use, so there is one.
    fn take(&mut self) -> FrameId {
        for _ in 0..=u8::MAX {
            self.last = self.last.wrapping_add(1);
            if self.last != FrameId::NONE.0 && !self.used[usize::from(self.last)] {
                break;
            }
        }
        self.used[usize::from(self.last)] = true;
        FrameId(self.last)
    }

    fn give_back(&mut self, id: FrameId) {
        self.used[usize::from(id.0)] = false;
    }
}
