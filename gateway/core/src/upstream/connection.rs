//! One connection to the broker: whether it works, what may be sent on it, and what waits for that.

use std::collections::VecDeque;

use super::backlog::Backlog;
use super::quarantine::{Breaks, Quarantine};
use super::{SUBSCRIPTIONS, Upstream};
use crate::durable::Journal;
use crate::io::{ConnId, DeliveryId, Token};
use crate::time::Instant;

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) up: bool,
    pub(super) credit: u32,
    pub(super) window: u32,
    /// QoS 1 and 2 publishes sent and unsettled.
    pub(super) in_flight: u32,
    /// It loses what it settled if the process ends.
    pub(super) forgets: bool,
    /// New publishes not sent yet, in order of `seq`.
    pub(super) waiting: VecDeque<usize>,
    /// Spooled publishes not sent yet.
    pub(super) backlog: Backlog,
    /// The next publish is from the backlog, if both have one.
    pub(super) backlog_next: bool,
    /// Subscriptions and unsubscriptions not sent yet.
    pub(super) subscriptions: VecDeque<usize>,
    pub(super) acks: VecDeque<(Ack, DeliveryId)>,
    /// Publishes of a lost session that the port has not reported yet: nothing overtakes them.
    pub(super) unreported: u32,
    /// It is being opened for the first time, by a broker that is there, and until then nothing is said of it.
    pub(super) opening: Option<Instant>,
    pub(super) breaks: Breaks,
    pub(super) quarantine: Option<Box<Quarantine>>,
}

/// How far a delivery is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Ack {
    /// The core has it.
    Taken,
    /// QoS 2: a later life knows that the broker has forgotten it.
    Released,
}

impl Connection {
    pub(super) fn new() -> Self {
        Connection {
            up: false,
            credit: 0,
            window: 0,
            in_flight: 0,
            forgets: false,
            waiting: VecDeque::new(),
            backlog: Backlog::default(),
            backlog_next: false,
            subscriptions: VecDeque::new(),
            acks: VecDeque::new(),
            unreported: 0,
            opening: None,
            breaks: Breaks::default(),
            quarantine: None,
        }
    }

    /// Takes a new publish out of its lane.
    pub(super) fn take_out(&mut self, key: usize) {
        match self.waiting.front() {
            Some(front) if *front == key => drop(self.waiting.pop_front()),
            _ => self.waiting.retain(|waiting| *waiting != key),
        }
    }

    /// What is handed to it leaves soon.
    pub(super) fn is_there(&self) -> bool {
        self.up || self.opening.is_some()
    }

    /// A publish in flight was settled or reported lost.
    pub(super) fn answered(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.unreported = self.unreported.saturating_sub(1);
    }
}

impl Upstream {
    pub(crate) fn is_up(&self, conn: ConnId) -> bool {
        self.connections
            .get(conn.0 as usize)
            .is_some_and(|connection| connection.up)
    }

    /// The broker loses what it settled if the process ends. Whichever connection says so: they are all the same
    /// broker's, and one may not be open yet.
    pub(super) fn forgets(&self) -> bool {
        self.connections.iter().any(|connection| connection.forgets)
    }

    pub(crate) fn any_up(&self) -> bool {
        self.connections.iter().any(|connection| connection.up)
    }

    /// A delivery was taken.
    pub(crate) fn acknowledge(&mut self, conn: ConnId, delivery: DeliveryId) {
        if let Some(connection) = self.connections.get_mut(conn.0 as usize) {
            connection.acks.push_back((Ack::Taken, delivery));
        }
    }

    /// A later life knows that a delivery is released.
    pub(crate) fn complete(&mut self, conn: ConnId, delivery: DeliveryId) {
        if let Some(connection) = self.connections.get_mut(conn.0 as usize) {
            connection.acks.push_back((Ack::Released, delivery));
        }
    }

    /// The broker lost the session, and with it what it waited to be answered.
    pub(crate) fn forget_deliveries(&mut self, conn: ConnId) {
        if let Some(connection) = self.connections.get_mut(conn.0 as usize) {
            connection.acks.clear();
        }
    }

    /// The connection works; without its old session nothing new is sent before the old is reported lost.
    pub(crate) fn on_up(
        &mut self,
        now: Instant,
        conn: ConnId,
        session_present: bool,
        window: u16,
        forgets: bool,
    ) {
        self.watch_up(now, conn);
        let Some(connection) = self.connections.get_mut(conn.0 as usize) else {
            return;
        };
        connection.up = true;
        connection.opening = None;
        connection.credit = 0;
        connection.window = u32::from(window);
        connection.forgets = forgets;
        if !session_present {
            connection.unreported = connection.in_flight;
        }
    }

    /// The connection broke. Returns the request over which the broker closes it, if that is found.
    pub(crate) fn on_down(&mut self, now: Instant, conn: ConnId) -> Option<Token> {
        let found = self.watch_down(now, conn);
        if let Some(connection) = self.connections.get_mut(conn.0 as usize) {
            connection.up = false;
            connection.credit = 0;
            connection.unreported = 0;
            // Acknowledgements stay: a QoS 2 message does not come again over a kept session, so its port waits for
            // ours. Those of QoS 1 name a delivery of the last connection, which ports pass over.
        }
        if conn == SUBSCRIPTIONS {
            self.restoring = 0;
            self.requests
                .iter_mut()
                .for_each(|(_, request)| request.restores = false);
        }
        found
    }

    pub(crate) fn on_credit(&mut self, conn: ConnId, requests: u32) {
        if let Some(connection) = self.connections.get_mut(conn.0 as usize) {
            connection.credit = connection.credit.saturating_add(requests);
        }
    }

    /// When [`Upstream::look_at_opening`] is wanted.
    pub(crate) fn opening_until(&self) -> Option<Instant> {
        self.connections.last()?.opening
    }

    /// The connection for QoS 2 may take too long.
    pub(crate) fn look_at_opening(&mut self, journal: &mut Journal, now: Instant) {
        if self.opening_until().is_some_and(|until| now >= until) {
            self.end_opening(journal, now, ConnId(self.shared));
        }
    }

    /// The connection was waited for, and is away.
    pub(crate) fn end_opening(&mut self, journal: &mut Journal, now: Instant, conn: ConnId) {
        if let Some(connection) = self.connections.get_mut(conn.0 as usize)
            && connection.opening.take().is_some()
        {
            self.spool_unsettled(journal, now, conn);
        }
    }
}
