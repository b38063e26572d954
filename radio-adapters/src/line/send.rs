//! Datagrams to the antenna: each that is handed over is reported sent or unsent, once.

use core::time::Duration;

use gateway_core::io::{Destination, LinkEvent, TxTicket};
use gateway_core::peer::LinkAddr;
use gateway_core::time::Instant;

use super::answer::Answer;
use super::dialect::{Completion, Step};
use super::engine::{BUSY_FIRST, BUSY_TIMES, Engine, Phase, Role};
use super::recover::Resume;
use crate::driver::{DropReason, Recovery, Report};

/// Acknowledgements of the link header that wait at most: more nodes than these are not heard at once.
const ACKS_WAITING: usize = 4;

/// Octets of the longest acknowledgement, SUBACK.
const ANSWER_LEN: usize = 8;

/// Characters that its line has, about.
const ANSWER_LINE: usize = 64;

/// A modem that was told to send this many times, and never said that it did, is started again.
const UNCONFIRMED_MOST: u8 = 3;

/// Something to send.
#[derive(Debug)]
pub(super) struct Frame {
    /// `None` is an acknowledgement of the link header: nobody waits for it.
    ticket: Option<TxTicket>,
    to: u16,
    octets: Vec<u8>,
    /// Times the modem was busy with something else.
    busy: u32,
}

/// What the modem was told to send.
#[derive(Debug)]
pub(super) struct Active {
    frame: Frame,
    /// When the command has left the line.
    written: Instant,
    airtime: Duration,
    /// The modem took the command.
    accepted: bool,
    /// The modem says that it is sent.
    sent: bool,
}

impl Engine {
    /// Takes a datagram over, or reports it unsent.
    pub(super) fn take(&mut self, to: &Destination, datagram: &[u8], ticket: TxTicket) {
        if !core::mem::take(&mut self.credit) {
            self.link(LinkEvent::Unsent(ticket));
            return;
        }
        match self.frame(to, datagram, ticket) {
            Some(frame) => self.waiting.push_back(frame),
            None => {
                self.credit_owed = true;
                self.link(LinkEvent::Unsent(ticket));
            }
        }
    }

    fn frame(&mut self, to: &Destination, datagram: &[u8], ticket: TxTicket) -> Option<Frame> {
        if datagram.is_empty() {
            self.report(Report::Dropped(DropReason::Length));
            return None;
        }
        if datagram.len() > self.profile.mtu {
            self.report(Report::Dropped(DropReason::TooLong));
            return None;
        }
        let (address, octets) = if self.settings.driver.abilities().addresses {
            (address(to)?, datagram.to_vec())
        } else {
            (0, self.header.wrap(to, datagram)?)
        };
        Some(Frame {
            ticket: Some(ticket),
            to: address,
            octets,
            busy: 0,
        })
    }

    /// Queues an acknowledgement of the link header, before all else.
    pub(super) fn acknowledge(&mut self, now: Instant, octets: &[u8]) {
        let acks = self.waiting.iter().filter(|frame| frame.ticket.is_none()).count();
        if acks < ACKS_WAITING {
            if !self.acks.take(now, self.time_on_air(octets.len())) {
                self.report(Report::Dropped(DropReason::DutyCycle));
                return;
            }
            let frame = Frame {
                ticket: None,
                to: 0,
                octets: octets.to_vec(),
                busy: 0,
            };
            self.waiting.insert(acks, frame);
        }
    }

    /// The modem is ready to send, or was told to.
    pub(super) fn advance_sending(&mut self, now: Instant) -> bool {
        // A reception may have come in between.
        if now < self.hold {
            return false;
        }
        let Some(frame) = self.waiting.pop_front() else {
            self.phase = Phase::Receiving;
            return true;
        };
        let command = self.dialect.send(frame.to, &frame.octets);
        let airtime = self.time_on_air(frame.octets.len());
        let written = now + self.line_time(command.len() + 2);
        self.active = Some(Active {
            frame,
            written,
            airtime,
            accepted: false,
            sent: false,
        });
        self.command(now, Role::Send, Step::must(command));
        // Some modems answer only when they are done.
        if let (Completion::Airtime(_), Some(pending)) = (self.dialect.table().completion, &mut self.pending)
        {
            pending.deadline = pending.deadline + airtime;
        }
        true
    }

    /// Time on air of octets that have their link header already.
    fn time_on_air(&self, octets: usize) -> Duration {
        self.profile
            .airtime
            .of(octets.saturating_sub(self.header.overhead()))
    }

    pub(super) fn on_send_answer(&mut self, now: Instant, answer: &Answer) {
        match answer {
            Answer::Done(_) => self.on_accepted(now),
            Answer::Busy => self.on_send_busy(now),
            Answer::Refused => {
                self.report(Report::Dropped(DropReason::Refused));
                self.settle_active(LinkEvent::Unsent);
                self.phase = Phase::Receiving;
            }
        }
    }

    fn on_accepted(&mut self, now: Instant) {
        let Some(active) = &mut self.active else {
            self.phase = Phase::Receiving;
            return;
        };
        active.accepted = true;
        if active.sent {
            self.finish(now);
            return;
        }
        let until = match self.dialect.table().completion {
            Completion::Line(guard) => now.max(active.written) + active.airtime + guard,
            Completion::Airtime(guard) => (active.written + active.airtime + guard).max(now),
        };
        self.phase = Phase::OnAir { until };
    }

    /// The modem is busy with another transmission or a reception we do not know of. Some listen no more after that.
    fn on_send_busy(&mut self, now: Instant) {
        let Some(Active { mut frame, .. }) = self.active.take() else {
            self.phase = Phase::Receiving;
            return;
        };
        frame.busy += 1;
        self.phase = Phase::Receiving;
        if frame.busy > BUSY_TIMES {
            self.report(Report::Dropped(DropReason::Refused));
            self.settle(frame, LinkEvent::Unsent);
            self.escalate(now);
            return;
        }
        self.hold = self.hold.max(now + BUSY_FIRST * (1 << (frame.busy - 1)));
        self.waiting.push_front(frame);
        self.queue_stop();
    }

    /// The modem says that it is done.
    pub(super) fn on_sent(&mut self, now: Instant) {
        self.unconfirmed = 0;
        if matches!(self.phase, Phase::OnAir { .. }) {
            self.finish(now);
        } else if let Some(active) = &mut self.active {
            // Before it said that it took the command: that is still to come.
            active.sent = true;
        }
    }

    /// The command to send was not answered.
    pub(super) fn on_send_silence(&mut self, now: Instant) {
        let Some(active) = &self.active else {
            self.phase = Phase::Receiving;
            return;
        };
        if active.sent {
            self.finish(now);
            return;
        }
        // It may be on the air all the same: repeated, it could be sent twice, on nobody's account.
        let guard = match self.dialect.table().completion {
            Completion::Line(guard) | Completion::Airtime(guard) => guard,
        };
        let until = (active.written + active.airtime + guard).max(now);
        self.phase = Phase::OnAir { until };
    }

    /// The time in which a transmission must be done is over.
    pub(super) fn on_air_over(&mut self, now: Instant) {
        let accepted = self.active.as_ref().is_some_and(|active| active.accepted);
        let expected = matches!(self.dialect.table().completion, Completion::Airtime(_));
        self.finish(now);
        if accepted && expected {
            self.unconfirmed = 0;
            return;
        }
        self.unconfirmed += 1;
        if self.unconfirmed >= UNCONFIRMED_MOST {
            self.escalate(now);
            return;
        }
        self.report(Report::Recovering(Recovery::Probe));
        if accepted {
            // RAK3172: a transmission that timed out says nothing, and reception is over.
            self.queue_stop();
        } else {
            self.misses = 2;
            self.start_probing(now, Resume::Listen);
        }
    }

    /// A transmission is over; nobody knows better than that it was sent.
    pub(super) fn finish(&mut self, now: Instant) {
        let acknowledgement = self
            .active
            .as_ref()
            .is_some_and(|active| active.frame.ticket.is_none());
        let after = if acknowledgement {
            self.settings.turnaround
        } else {
            // Whoever was spoken to turns around and answers; modems on both sides tell of it over their lines.
            2 * self.settings.turnaround
                + self.profile.airtime.of(ANSWER_LEN)
                + self.line_time(2 * ANSWER_LINE)
        };
        self.hold = now + after;
        self.settle_active(LinkEvent::Sent);
        self.pending = None;
        self.phase = Phase::Receiving;
        if self.dialect.table().deaf_after_send {
            self.listening = false;
            self.window_ends = None;
        }
    }

    /// Whatever was handed over is reported. What the modem was told to send may have been sent.
    pub(super) fn settle_all(&mut self) {
        self.settle_active(LinkEvent::Sent);
        for frame in core::mem::take(&mut self.waiting) {
            self.settle(frame, LinkEvent::Unsent);
        }
    }

    fn settle_active(&mut self, how: fn(TxTicket) -> LinkEvent) {
        if let Some(active) = self.active.take() {
            self.settle(active.frame, how);
        }
    }

    fn settle(&mut self, frame: Frame, how: fn(TxTicket) -> LinkEvent) {
        if let Some(ticket) = frame.ticket {
            self.credit_owed = true;
            self.link(how(ticket));
        }
    }
}

/// An address of the modem's own: 0 is everyone.
fn address(to: &Destination) -> Option<u16> {
    match to {
        Destination::Broadcast => Some(0),
        Destination::Peer(route) => match &route.addr {
            LinkAddr::Radio(octets) => Some(u16::from_be_bytes(octets.as_slice().try_into().ok()?)),
            LinkAddr::Udp(_) | LinkAddr::Wire => None,
        },
    }
}
