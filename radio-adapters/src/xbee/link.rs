//! The link is up while the modem is there and in a network.

use core::time::Duration;

use gateway_core::io::LinkEvent;
use gateway_core::time::Instant;

use super::at::Ids;
use super::driver::{Phase, Xbee};
use super::frame::At;
use super::status::Event;
use crate::driver::{DriverOutput, Recovery, Report};

/// Between looks at whether the modem is in a network by now.
pub(super) const JOIN_POLL: Duration = Duration::from_secs(10);

/// The same after a transmission failed because it is not.
pub(super) const JOIN_POLL_FIRST: Duration = Duration::from_secs(1);

/// A modem that starts again says so within 1.5 s.
const RESET_TIMEOUT: Duration = Duration::from_secs(5);

/// A modem that cannot be used is looked at again after this.
const REST: Duration = Duration::from_secs(60);

impl Xbee {
    pub(super) fn on_event(&mut self, now: Instant, event: Event) {
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
    pub(super) fn join(&mut self) {
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

    pub(super) fn left(&mut self, now: Instant, poll: Duration) {
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
    pub(super) fn link_down(&mut self) {
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

    pub(super) fn reset(&mut self, now: Instant) {
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
}
