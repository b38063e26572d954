//! What happens when, in the order of time.

use std::cmp::Reverse;

use gateway_core::io::{BrokerEvent, LinkEvent, RadioFacts};
use gateway_core::peer::Route;
use gateway_core::time::Instant;
use sn_codec::Encapsulation;

use super::outputs::show;
use super::{Address, ClientIx, LINK, World};
use crate::admission::Verdict;
use crate::reference::{Check, Violation};
use crate::sim_broker::BrokerAction;
use crate::sim_store::StoreAction;

/// Timeouts at one instant beyond which the gateway is taken to spin (it works off 1,024 expiries per call).
const MAX_TIMEOUTS_PER_INSTANT: usize = 200;

#[derive(Debug)]
pub(super) enum Event {
    ToGateway {
        from: Route,
        datagram: Vec<u8>,
    },
    ToClient {
        client: usize,
        addr: Address,
        datagram: Vec<u8>,
    },
    ClientTimer(usize),
    Broker(BrokerAction),
    /// The broker has something to tell.
    BrokerSpeaks,
    Link(LinkEvent),
    Store(StoreAction),
    /// The gateway starts again.
    Start,
    ShutDown,
}

impl Event {
    fn is_datagram(&self) -> bool {
        matches!(self, Event::ToGateway { .. } | Event::ToClient { .. })
    }
}

#[derive(Debug)]
pub(super) struct Scheduled {
    pub(super) at: Instant,
    pub(super) order: u64,
    pub(super) event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

impl World {
    /// Does what comes next, unless it is after `until`: then the clock is set there and the answer is false.
    pub(super) fn step(&mut self, until: Instant) -> Result<bool, Violation> {
        let event_at = self.events.peek().map(|Reverse(scheduled)| scheduled.at);
        let timer_at = match self.found {
            None => self.gateway.poll_timeout().map(|at| at.max(self.now)),
            Some(_) => None,
        };
        let next = match (event_at, timer_at) {
            (None, None) => None,
            (Some(at), None) | (None, Some(at)) => Some(at),
            (Some(event), Some(timer)) => Some(event.min(timer)),
        };
        let Some(next) = next.filter(|at| *at <= until) else {
            self.move_clock(until);
            return Ok(false);
        };
        self.move_clock(next);
        if timer_at.is_some_and(|timer| timer <= next) {
            self.timeouts += 1;
            self.timeouts_now += 1;
            if self.timeouts_now > MAX_TIMEOUTS_PER_INSTANT {
                return Err(Violation::new(
                    "a handled timeout is gone",
                    format!("{:?}", self.gateway.poll_timeout()),
                ));
            }
            self.gateway.handle_timeout(self.now);
        } else {
            let gather_until = (self.now + self.config.batch).min(until);
            while let Some(Reverse(scheduled)) = self.events.peek()
                && scheduled.at <= gather_until
            {
                let Some(Reverse(Scheduled { at, event, .. })) = self.events.pop() else {
                    break;
                };
                self.move_clock(at);
                self.handle_event(event)?;
                if self.config.batch.is_zero() {
                    break;
                }
            }
        }
        self.drain()?;
        Ok(true)
    }

    fn move_clock(&mut self, to: Instant) {
        if to > self.now {
            self.now = to;
            self.timeouts_now = 0;
        }
    }

    fn handle_event(&mut self, event: Event) -> Check {
        let now = self.now;
        self.under_way -= usize::from(event.is_datagram());
        match event {
            Event::ToGateway { .. } | Event::BrokerSpeaks | Event::ShutDown if self.found.is_some() => {}
            Event::ToGateway { from, datagram } => {
                self.note(|_| format!("{} -> gateway {}", from.addr, show(&datagram)));
                // Counting takes time in proportion to the clients.
                let before = self.selective.then(|| self.refusals());
                let facts = RadioFacts::default();
                self.gateway.handle_datagram(now, LINK, &from, facts, &datagram);
                let verdict = before.map_or(Verdict::OPEN, |(refused, moved)| {
                    let after = self.refusals();
                    Verdict {
                        refused: after.0 > refused,
                        moved: after.1 > moved,
                    }
                });
                self.reference.on_datagram(now, &from.addr, &datagram, verdict)?;
            }
            Event::ToClient {
                client,
                addr,
                datagram,
            } => {
                if self.address(ClientIx(client)) == addr {
                    self.note(|_| format!("{addr} got {}", show(&datagram)));
                    self.clients[client].client.handle_datagram(now, &datagram);
                    self.after_client(client);
                }
            }
            Event::ClientTimer(client) => {
                if self.clients[client].wakes_at == Some(now) {
                    self.clients[client].wakes_at = None;
                    self.clients[client].client.handle_timeout(now);
                    self.after_client(client);
                }
            }
            Event::Broker(action) => {
                self.broker.handle_action(now, action, &mut self.rng);
                self.after_broker();
            }
            Event::BrokerSpeaks => {
                while let Some((event, publication)) = self.broker.poll_event() {
                    self.note(|_| format!("broker -> gateway {event:?}"));
                    self.reference.on_broker_event(now, &event, publication);
                    let payload = match &event {
                        BrokerEvent::Message { payload, .. } => Some(payload.clone()),
                        _ => None,
                    };
                    let dropped = self.gateway.metrics().buffer_dropped_total;
                    self.gateway.handle_broker(now, event);
                    if let Some(payload) = payload
                        && self.gateway.metrics().buffer_dropped_total > dropped
                    {
                        self.reference.on_overflow(&payload);
                    }
                }
            }
            Event::Link(event) => {
                if let LinkEvent::Credit(more) = event {
                    self.link_credit += more;
                }
                self.gateway.handle_link(now, LINK, event);
            }
            Event::Store(action) => self.handle_store(action),
            Event::Start => self.start_gateway()?,
            Event::ShutDown => {
                self.reference.shut_down();
                self.gateway.handle_shutdown(now);
            }
        }
        Ok(())
    }

    /// Sends what a client wants sent and notes when it wants to be called.
    pub(super) fn after_client(&mut self, ix: usize) {
        while let Some(mut datagram) = self.clients[ix].client.poll_output() {
            let rng = &mut self.rng;
            let station = &mut self.clients[ix];
            let from = station.route.clone();
            let mut arrivals = station.up.send(self.now, rng);
            if let Some((forwarder, node)) = &station.behind {
                let forwarder = &mut self.forwarders[*forwarder];
                let mut encapsulated = Vec::new();
                let header = Encapsulation {
                    // Meaningless in this direction, so it must make no difference.
                    radius: (datagram.len() % 4) as u8,
                    wireless_node_id: node,
                };
                header.encode(&mut encapsulated);
                encapsulated.append(&mut datagram);
                datagram = encapsulated;
                arrivals = match forwarder.on {
                    true => arrivals
                        .into_iter()
                        .flat_map(|at| forwarder.up.send(at, rng))
                        .collect(),
                    false => Vec::new(),
                };
            }
            if arrivals.is_empty() {
                self.note(|_| format!("{} lost {}", from.addr, show(&datagram)));
            }
            for at in arrivals {
                self.schedule(
                    at,
                    Event::ToGateway {
                        from: from.clone(),
                        datagram: datagram.clone(),
                    },
                );
            }
        }
        if self.clients[ix].client.is_off() {
            self.clients[ix].submitted.clear();
        }
        let wakes_at = self.clients[ix].client.poll_timeout().map(|at| at.max(self.now));
        if wakes_at != self.clients[ix].wakes_at {
            self.clients[ix].wakes_at = wakes_at;
            if let Some(at) = wakes_at {
                self.schedule(at, Event::ClientTimer(ix));
            }
        }
    }

    pub(super) fn after_broker(&mut self) {
        while let Some((at, action)) = self.broker.poll_action() {
            self.schedule(at, Event::Broker(action));
        }
        if self.broker.has_events() {
            self.schedule(self.now, Event::BrokerSpeaks);
        }
        while let Some(write) = self.broker.poll_write() {
            self.note(|_| format!("port -> store {:?}", write.change));
            if let Some(store) = &mut self.store {
                store.submit_port(self.now, write, &mut self.rng);
                self.after_store();
            }
        }
    }

    pub(super) fn schedule(&mut self, at: Instant, event: Event) {
        self.next_event += 1;
        self.under_way += usize::from(event.is_datagram());
        self.events.push(Reverse(Scheduled {
            at,
            order: self.next_event,
            event,
        }));
    }
}
