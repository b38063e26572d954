//! What a modem says, whether it was asked or not.

use gateway_core::io::RadioFacts;
use gateway_core::peer::LinkAddr;
use gateway_core::time::Instant;

use super::answer::Answer;
use super::dialect::{BeforeSend, Meaning, Reception};
use super::engine::{Engine, Phase, Role, STARTED};
use super::lines::trimmed;
use super::recover::Resume;
use crate::driver::{DriverOutput, DropReason, Report};
use crate::header::Content;

impl Engine {
    pub(super) fn on_line(&mut self, now: Instant, line: &[u8]) {
        let line = trimmed(line);
        let asked = self.pending.as_ref().map(|pending| pending.step.command.as_str());
        // Some modems repeat each command (`ATE1`).
        if line.is_empty() || asked.is_some_and(|asked| line.eq_ignore_ascii_case(asked.as_bytes())) {
            return;
        }
        let meaning = self.dialect.read(line, asked);
        if meaning != Meaning::Noise {
            self.heard = now;
        }
        match meaning {
            Meaning::Known => {}
            Meaning::Noise => self.on_noise(),
            Meaning::Started => self.on_started(now),
            Meaning::Received(reception) => self.on_received(now, reception),
            Meaning::Damaged => self.report(Report::Dropped(DropReason::Air)),
            Meaning::Foreign => self.report(Report::Dropped(DropReason::Escape)),
            Meaning::Deaf => self.on_deaf(),
            Meaning::Failed => self.on_failed(now),
            Meaning::Sent => self.on_sent(now),
            Meaning::Value(value) => {
                if let Some(pending) = &mut self.pending {
                    pending.value = Some(value);
                }
            }
            Meaning::Done => self.on_answer(now, Answer::Done(None), line),
            Meaning::DoneWith(value) => self.on_answer(now, Answer::Done(Some(value)), line),
            Meaning::Refused => self.on_answer(now, Answer::Refused, line),
            Meaning::Busy => self.on_answer(now, Answer::Busy, line),
        }
    }

    fn on_noise(&mut self) {
        self.report(Report::Dropped(DropReason::Noise));
        // It may have been a reception, after which the modem must be told to listen again.
        if self.phase == Phase::Receiving
            && self.pending.is_none()
            && self.script.is_empty()
            && self.dialect.table().deaf_after_reception
            && self.dialect.table().before_send == BeforeSend::Stop
        {
            self.queue_stop();
        }
    }

    /// The modem started, by itself unless it was told to.
    fn on_started(&mut self, now: Instant) {
        let soon = now + STARTED;
        match self.phase {
            Phase::Closed
            | Phase::Probing {
                then: Resume::SetUp, ..
            } => {}
            Phase::Starting { until } => {
                self.phase = Phase::Starting {
                    until: until.min(soon),
                }
            }
            // A step of the script told it to; a few do not answer before.
            Phase::Configuring { .. } if self.restarts() => {
                self.pending = None;
                self.restarting = true;
                self.pause = Some(self.pause.map_or(soon, |pause| pause.min(soon)));
            }
            // It was silent because it was about to start: what it was set to is gone.
            Phase::Probing {
                then: Resume::Listen, ..
            }
            | Phase::Configuring { .. }
            | Phase::Receiving
            | Phase::Sending
            | Phase::OnAir { .. }
            | Phase::Refused { .. }
            | Phase::Hopeless { .. } => {
                self.report(Report::Rebooted);
                self.go_down(now);
                self.abandon_script();
                self.phase = Phase::Starting { until: soon };
            }
        }
    }

    fn restarts(&self) -> bool {
        match &self.pending {
            Some(pending) => pending.step.restarts.is_some(),
            None => self.restarting,
        }
    }

    /// Reception ended without anything to show for it.
    pub(super) fn on_deaf(&mut self) {
        // One that comes while listening is begun is left over from before.
        if !self
            .pending
            .as_ref()
            .is_some_and(|pending| pending.role == Role::Listen)
        {
            self.listening = false;
            self.window_ends = None;
        }
    }

    fn on_failed(&mut self, now: Instant) {
        match self.phase {
            Phase::OnAir { .. } => {
                self.report(Report::Degraded("the modem gave up a transmission".into()));
                self.finish(now);
            }
            Phase::Receiving if self.listening && self.pending.is_none() => {
                // In a short window it says no more than that nothing came.
                if self.window_ends.is_none() {
                    self.report(Report::Dropped(DropReason::Air));
                }
                self.on_deaf();
            }
            Phase::Closed
            | Phase::Starting { .. }
            | Phase::Probing { .. }
            | Phase::Configuring { .. }
            | Phase::Receiving
            | Phase::Sending
            | Phase::Refused { .. }
            | Phase::Hopeless { .. } => self.on_deaf(),
        }
    }

    fn on_received(&mut self, now: Instant, reception: Reception) {
        if self.dialect.table().deaf_after_reception {
            self.on_deaf();
        }
        if !self.up {
            // Settings of another network may still be in force.
            self.report(Report::Dropped(DropReason::NotForUs));
            return;
        }
        self.release(now);
        self.hold = now + self.settings.turnaround;
        let ask = self.settings.ask_signal && self.phase == Phase::Receiving;
        let table = self.dialect.table();
        if ask && !table.signal.is_empty() && self.pending.is_none() && self.script.is_empty() {
            let steps = table.signal.iter().cloned();
            self.script
                .extend(steps.map(|(signal, step)| (Role::Signal(signal), step)));
            self.held = Some(reception);
        } else {
            self.deliver(now, reception);
        }
    }

    pub(super) fn release(&mut self, now: Instant) {
        if let Some(reception) = self.held.take() {
            self.deliver(now, reception);
        }
    }

    fn deliver(&mut self, now: Instant, reception: Reception) {
        let facts = RadioFacts {
            rssi_dbm: reception.rssi_dbm,
            snr_db: reception.snr_db,
            hops: None,
        };
        if let Some(from) = reception.from {
            let from = LinkAddr::Radio(from.to_be_bytes().into_iter().collect());
            self.deliver_datagram(from, facts, &reception.octets);
            return;
        }
        let frame = self.header.unwrap(now, &reception.octets);
        if let Some(ack) = frame.ack {
            let content = frame.content;
            self.acknowledge(now, &ack);
            self.deliver_content(content, facts);
        } else {
            self.deliver_content(frame.content, facts);
        }
    }

    fn deliver_content(&mut self, content: Content<'_>, facts: RadioFacts) {
        match content {
            Content::Datagram { from, datagram } => self.deliver_datagram(from, facts, datagram),
            // The core does not wait for a node's radio.
            Content::Acknowledged { .. } => {}
            Content::Dropped(reason) => self.report(Report::Dropped(reason)),
        }
    }

    fn deliver_datagram(&mut self, from: LinkAddr, facts: RadioFacts, datagram: &[u8]) {
        if datagram.is_empty() {
            self.report(Report::Dropped(DropReason::Length));
            return;
        }
        self.outputs.push_back(DriverOutput::Received {
            from,
            facts,
            datagram: datagram.to_vec(),
        });
    }
}
