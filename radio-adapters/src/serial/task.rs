//! The task of one radio.

use core::time::Duration;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use gateway_core::io::{Input, LinkEvent, LinkProfile, RxBatch, TxBatch, TxTicket};
use gateway_core::peer::{LinkId, LocalEnd, Route};
use gateway_core::time::Instant;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time;

use super::SerialLink;
use super::line::{Happened, Line};
use super::log::Log;
use crate::InputSender;
use crate::driver::{Driver, DriverOutput, Recovery, Report};
use crate::settings::PortSettings;
use crate::stats::{Identity, RadioStats, add};

/// How long the last datagrams may take when the gateway stops.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Runs one radio until nobody sends to it any more.
pub(super) struct Task {
    port: PortSettings,
    driver: Box<dyn Driver>,
    link: LinkId,
    inputs: InputSender,
    batches: UnboundedReceiver<TxBatch>,
    stats: Arc<RadioStats>,
    log: Log,
    start: time::Instant,
    reopen_in: Duration,
    up: bool,
    /// Datagrams that the driver still takes.
    credit: u32,
    /// Datagrams that the driver has, and their lengths.
    in_flight: VecDeque<(TxTicket, usize)>,
    received: RxBatch,
    /// Nobody takes inputs, or nobody sends: until when the last datagrams may take.
    closing: Option<time::Instant>,
}

/// Why the port is closed.
enum End {
    /// The gateway stops.
    Stopped,
    /// It is gone, or as good as.
    Gone(io::Error),
    /// The driver wants it opened again.
    Reopen,
}

impl Task {
    pub(super) fn new(
        serial: SerialLink,
        link: LinkId,
        inputs: InputSender,
        batches: UnboundedReceiver<TxBatch>,
        stats: Arc<RadioStats>,
    ) -> Task {
        Task {
            log: Log::new(serial.name, serial.port.path.display().to_string()),
            reopen_in: serial.port.reopen_first,
            port: serial.port,
            driver: serial.driver,
            link,
            inputs,
            batches,
            stats,
            start: time::Instant::now(),
            up: false,
            credit: 0,
            in_flight: VecDeque::new(),
            received: RxBatch::default(),
            closing: None,
        }
    }

    pub(super) async fn run(mut self) {
        let mut opened_before = false;
        loop {
            match Line::open(&self.port).await {
                Ok(line) => {
                    self.log.opened();
                    if opened_before {
                        add(&self.stats.reopens, 1);
                    }
                    opened_before = true;
                    match self.drive(line).await {
                        End::Stopped => return,
                        End::Gone(error) => self.log.gone(&error, self.reopen_in),
                        End::Reopen => self.log.hung(self.reopen_in),
                    }
                }
                Err(error) => self.log.not_opened(&error, self.reopen_in),
            }
            if !self.wait().await {
                return;
            }
        }
    }

    /// Waits before the port is opened again; false if that is not needed any more.
    async fn wait(&mut self) -> bool {
        let end = time::Instant::now() + self.reopen_in;
        self.reopen_in = (self.reopen_in * 2).min(self.port.reopen_max);
        loop {
            match time::timeout_at(end, self.batches.recv()).await {
                // Sent off before the core heard that the radio is down.
                Ok(Some(batch)) => {
                    for datagram in &batch.datagrams {
                        self.link_event(LinkEvent::Unsent(datagram.ticket)).await;
                    }
                }
                Ok(None) => return false,
                Err(_) => return !self.inputs.is_closed(),
            }
        }
    }

    /// Drives the radio on an open port until it has to be closed.
    async fn drive(&mut self, mut line: Line) -> End {
        self.driver.opened(self.now());
        let end = loop {
            if self.carry_out(&mut line).await {
                break End::Reopen;
            }
            line = match line.settle().await {
                Ok(line) => line,
                Err((broken, error)) => {
                    line = broken;
                    break End::Gone(error);
                }
            };
            if self.stopped(&line) {
                break End::Stopped;
            }
            // Not only when the line is silent: it may never be.
            if let Ok(batch) = self.batches.try_recv() {
                if self.transmit(&mut line, &batch).await {
                    break End::Reopen;
                }
                continue;
            }
            let wanted = self
                .driver
                .poll_timeout()
                .map(|at| self.start + Duration::from_micros(at.as_micros()));
            let deadline = [wanted, line.deadline(), self.closing]
                .into_iter()
                .flatten()
                .min();
            let happened = tokio::select! {
                // Octets first: a time-out that was waiting for them has not passed then.
                biased;
                happened = line.next() => Some(happened),
                batch = self.batches.recv(), if self.closing.is_none() => {
                    match batch {
                        Some(batch) => {
                            if self.transmit(&mut line, &batch).await {
                                break End::Reopen;
                            }
                        }
                        None => self.closing = Some(time::Instant::now() + LAST_WORDS),
                    }
                    continue;
                }
                () = sleep_until(deadline) => None,
            };
            match happened {
                Some(Happened::Read(len)) => {
                    add(&self.stats.line_received_octets, len);
                    self.driver.received(self.now(), line.read(len));
                    if self.carry_out(&mut line).await {
                        break End::Reopen;
                    }
                }
                Some(Happened::Wrote(len)) => add(&self.stats.line_sent_octets, len),
                Some(Happened::Gone(error)) => break End::Gone(error),
                None => {}
            }
            let now = self.now();
            if self.driver.poll_timeout().is_some_and(|at| at <= now) {
                self.driver.handle_timeout(now);
            }
        };
        self.driver.closed(self.now());
        self.carry_out(&mut line).await;
        line.close().await;
        self.forget().await;
        end
    }

    /// The gateway stops, and what was to be sent is sent, or took too long.
    fn stopped(&self, line: &Line) -> bool {
        let sent = || self.in_flight.is_empty() && line.is_idle();
        self.inputs.is_closed()
            || self
                .closing
                .is_some_and(|end| sent() || time::Instant::now() >= end)
    }

    /// Hands datagrams to the driver; true if it wants the port opened again.
    async fn transmit(&mut self, line: &mut Line, batch: &TxBatch) -> bool {
        for (datagram, octets) in batch.iter() {
            if self.credit == 0 {
                // Sent off before the core heard that the radio was down.
                self.link_event(LinkEvent::Unsent(datagram.ticket)).await;
                continue;
            }
            if self.credit != LinkProfile::UNLIMITED {
                self.credit -= 1;
            }
            self.in_flight.push_back((datagram.ticket, octets.len()));
            self.driver
                .transmit(self.now(), &datagram.to, octets, datagram.ticket);
            if self.carry_out(line).await {
                return true;
            }
        }
        false
    }

    /// Carries out everything that the driver wants; true if it wants the port opened again.
    async fn carry_out(&mut self, line: &mut Line) -> bool {
        let mut reopen = false;
        while let Some(output) = self.driver.poll_output() {
            match output {
                DriverOutput::Write(octets) => line.write(octets),
                DriverOutput::SetBaud(baud) => line.set_baud(baud),
                DriverOutput::Break(millis) => line.send_break(Duration::from_millis(millis.into())),
                DriverOutput::Received {
                    from,
                    facts,
                    datagram,
                } => {
                    add(&self.stats.received, 1);
                    add(&self.stats.received_octets, datagram.len());
                    let from = Route {
                        addr: from,
                        local: LocalEnd::default(),
                    };
                    self.received.push(from, facts, &datagram);
                }
                DriverOutput::Link(event) => {
                    self.hand_over().await;
                    self.link_event(event).await;
                }
                DriverOutput::Reopen => {
                    self.stats.count_recovery(Recovery::Reopen);
                    reopen = true;
                }
                DriverOutput::Report(report) => self.report(report),
            }
        }
        self.hand_over().await;
        reopen
    }

    /// Hands over to the core what was received; while it has no time, the port's own buffer fills.
    async fn hand_over(&mut self) {
        if !self.received.datagrams.is_empty() {
            let batch = core::mem::take(&mut self.received);
            // Nobody listens when the gateway stops.
            let _ = self.inputs.send(Input::Datagrams(self.link, batch)).await;
        }
    }

    async fn link_event(&mut self, event: LinkEvent) {
        match &event {
            LinkEvent::Up(profile) => {
                self.up = true;
                self.credit = profile.credit;
                self.reopen_in = self.port.reopen_first;
                self.log.up(self.stats.identity().as_ref());
            }
            LinkEvent::Down => {
                self.up = false;
                self.credit = 0;
                self.log.down();
            }
            LinkEvent::Credit(datagrams) => self.credit = self.credit.saturating_add(*datagrams),
            LinkEvent::Sent(ticket) => {
                if let Some(len) = self.landed(*ticket) {
                    add(&self.stats.sent, 1);
                    add(&self.stats.sent_octets, len);
                }
            }
            LinkEvent::Unsent(ticket) => {
                self.landed(*ticket);
                add(&self.stats.unsent, 1);
            }
            LinkEvent::PeerIdentified { .. } | LinkEvent::PeerGone { .. } => {}
        }
        self.stats.set_up(self.up);
        let _ = self.inputs.send(Input::Link(self.link, event)).await;
    }

    /// The driver does not have a datagram any more; its length.
    fn landed(&mut self, ticket: TxTicket) -> Option<usize> {
        let at = self.in_flight.iter().position(|(flying, _)| *flying == ticket)?;
        self.in_flight.remove(at).map(|(_, len)| len)
    }

    /// The port is closed: the core knows it, whatever the driver has said.
    async fn forget(&mut self) {
        while let Some((ticket, _)) = self.in_flight.front() {
            self.link_event(LinkEvent::Unsent(*ticket)).await;
        }
        if self.up {
            self.link_event(LinkEvent::Down).await;
        }
    }

    fn report(&mut self, report: Report) {
        self.log.report(&report);
        match report {
            Report::Ready { identity, firmware } => self.stats.set_identity(Identity { identity, firmware }),
            Report::Degraded(_) => {}
            Report::Refused(_) => add(&self.stats.refusals, 1),
            Report::Rebooted => add(&self.stats.reboots, 1),
            // Counted where it is done.
            Report::Recovering(Recovery::Reopen) => {}
            Report::Recovering(recovery) => self.stats.count_recovery(recovery),
            Report::Dropped(reason) => self.stats.count_dropped(reason),
            Report::NotHeard => add(&self.stats.not_heard, 1),
        }
    }

    fn now(&self) -> Instant {
        Instant::from_micros(self.start.elapsed().as_micros() as u64)
    }
}

async fn sleep_until(deadline: Option<time::Instant>) {
    match deadline {
        Some(at) => time::sleep_until(at).await,
        None => core::future::pending().await,
    }
}
