//! What people read about a radio, and not more often than they want to.

use core::time::Duration;
use std::collections::HashMap;

use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use super::port::PortError;
use crate::driver::{Recovery, Report};
use crate::stats::Identity;

/// The same event of a radio is told at most so often.
const EVERY: Duration = Duration::from_secs(60);

/// The log of one radio.
#[derive(Debug)]
pub(super) struct Log {
    radio: String,
    port: String,
    told: HashMap<&'static str, Told>,
    /// Since when the radio is down, if it was up before.
    down: Option<Instant>,
    /// What last kept the port from being opened.
    cause: Option<&'static str>,
}

#[derive(Debug)]
struct Told {
    at: Instant,
    suppressed: u64,
}

impl Log {
    pub(super) fn new(radio: String, port: String) -> Log {
        Log {
            radio,
            port,
            told: HashMap::new(),
            down: None,
            cause: None,
        }
    }

    /// The port does not open. Told once, until it is for another reason.
    pub(super) fn not_opened(&mut self, error: &PortError, reopen_in: Duration) {
        let radio = &self.radio;
        if self.cause == Some(error.cause()) {
            debug!(target: "radio", %radio, %error, ?reopen_in, "port not opened");
        } else {
            self.cause = Some(error.cause());
            warn!(target: "radio", %radio, %error, ?reopen_in, "port not opened");
        }
    }

    pub(super) fn opened(&mut self) {
        self.cause = None;
        debug!(target: "radio", radio = %self.radio, port = %self.port, "port opened");
    }

    pub(super) fn gone(&mut self, error: &std::io::Error, reopen_in: Duration) {
        self.down.get_or_insert_with(Instant::now);
        if let Some(suppressed) = self.due("port gone") {
            error!(target: "radio", radio = %self.radio, port = %self.port, %error, ?reopen_in, suppressed, "port gone");
        }
    }

    pub(super) fn hung(&mut self, reopen_in: Duration) {
        self.down.get_or_insert_with(Instant::now);
        if let Some(suppressed) = self.due("modem hung") {
            warn!(
                target: "radio", radio = %self.radio, port = %self.port, ?reopen_in, suppressed,
                "modem hung: it answers nothing; check its power and wiring, and `baud`"
            );
        }
    }

    pub(super) fn down(&mut self) {
        self.down.get_or_insert_with(Instant::now);
    }

    pub(super) fn up(&mut self, identity: Option<&Identity>) {
        let radio = &self.radio;
        // In quotes: both may have spaces. What is on a plain line has no firmware.
        let modem = identity.map(|modem| modem.identity.as_str());
        let firmware = identity
            .map(|modem| modem.firmware.as_str())
            .filter(|text| !text.is_empty());
        match self.down.take().map(|since| since.elapsed()) {
            None => info!(target: "radio", %radio, port = %self.port, modem, firmware, "radio up"),
            Some(outage) => {
                let outage = Duration::from_millis(outage.as_millis() as u64);
                info!(target: "radio", %radio, port = %self.port, modem, firmware, ?outage, "radio back");
            }
        }
    }

    pub(super) fn report(&mut self, report: &Report) {
        let radio = &self.radio;
        match report {
            Report::Ready { identity, firmware } => {
                debug!(target: "radio", %radio, %identity, %firmware, "modem set up");
            }
            Report::Degraded(reason) => {
                if let Some(suppressed) = self.due("degraded") {
                    warn!(target: "radio", radio = %self.radio, %reason, suppressed, "modem degraded");
                }
            }
            Report::Refused(reason) => {
                if let Some(suppressed) = self.due("refused") {
                    warn!(target: "radio", radio = %self.radio, %reason, suppressed, "modem refused its settings");
                }
            }
            Report::Rebooted => {
                if let Some(suppressed) = self.due("rebooted") {
                    warn!(
                        target: "radio", radio = %self.radio, suppressed,
                        "modem rebooted, and is set up again; if it happens often, check its power supply"
                    );
                }
            }
            Report::Recovering(Recovery::Reset) => {
                if let Some(suppressed) = self.due("reset") {
                    warn!(
                        target: "radio", radio = %self.radio, suppressed,
                        "modem does not answer and is reset; if it happens often, check its power supply and wiring"
                    );
                }
            }
            Report::Recovering(recovery) => {
                debug!(target: "radio", %radio, recovery = recovery.name(), "modem does not answer");
            }
            Report::Dropped(reason) => {
                debug!(target: "radio", %radio, reason = reason.name(), "dropped");
            }
            Report::NotHeard => debug!(target: "radio", %radio, "not confirmed by the peer's radio"),
        }
    }

    /// Whether an event is to be told now, and how often it was not since it last was.
    fn due(&mut self, event: &'static str) -> Option<u64> {
        let now = Instant::now();
        match self.told.get_mut(event) {
            Some(told) if now - told.at < EVERY => {
                told.suppressed += 1;
                None
            }
            told => {
                let suppressed = told.map_or(0, |told| told.suppressed);
                self.told.insert(
                    event,
                    Told {
                        at: now,
                        suppressed: 0,
                    },
                );
                Some(suppressed)
            }
        }
    }
}
