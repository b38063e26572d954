//! What the gateway puts out: shown to the reference, and carried where it belongs.

use core::hash::Hasher;
use core::time::Duration;

use gateway_core::io::{Destination, LinkEvent, Output, StoreChange, StoreRequest, TxTicket};
use gateway_core::time::Instant;
use sn_codec::{Encapsulation, Packet};

use super::events::Event;
use super::{Address, ClientIx, LINK, World};
use crate::net::between;
use crate::reference::{Check, Violation};
use crate::saved;

/// Outputs of one drain beyond which the gateway is taken to loop.
const MAX_OUTPUTS_PER_DRAIN: usize = 100_000;

pub(super) fn show(datagram: &[u8]) -> String {
    match sn_codec::decode_message(datagram) {
        Ok((_, packet)) => format!("{packet:?}"),
        Err(error) => format!("{datagram:02x?} ({error})"),
    }
}

fn show_destination(to: &Destination) -> String {
    match to {
        Destination::Peer(route) => route.addr.to_string(),
        Destination::Broadcast => "everyone".into(),
    }
}

impl World {
    pub(super) fn drain(&mut self) -> Check {
        if self.found.is_some() {
            return Ok(());
        }
        let mut buf = Vec::new();
        let mut sessions = Vec::new();
        for _ in 0..MAX_OUTPUTS_PER_DRAIN {
            let filled = buf.len();
            let Some(output) = self.gateway.poll_output(self.now, &mut buf) else {
                self.check_bounds()?;
                for value in sessions {
                    self.reference.on_saved(&value);
                }
                return self.reference.check_silence(self.now);
            };
            self.hash.write_u64(self.now.as_micros());
            match output {
                Output::Transmit {
                    link,
                    to,
                    len,
                    ticket,
                } => {
                    if link != LINK || buf.len() != filled + len {
                        let detail = format!("{link:?}, {len} octets said, {} given", buf.len() - filled);
                        return Err(Violation::new("an output says what it is", detail));
                    }
                    let datagram = buf.split_off(filled);
                    self.transmit(&to, &datagram, ticket)?;
                }
                Output::Broker(request) => {
                    self.note(|_| format!("gateway -> broker {request:?}"));
                    self.hash.write(format!("{request:?}").as_bytes());
                    self.reference.on_request(self.now, &request)?;
                    self.broker
                        .handle_request(self.now, request, &mut self.rng)
                        .map_err(|misuse| Violation::new("the seam's rules towards the broker", misuse))?;
                    self.after_broker();
                }
                Output::Store(request) => {
                    self.note(|_| format!("gateway -> store {request:?}"));
                    self.hash.write(format!("{request:?}").as_bytes());
                    let (StoreRequest::Write { changes, ticket }, Some(store)) = (&request, &mut self.store)
                    else {
                        let detail = format!("{request:?}");
                        return Err(Violation::new(
                            "nothing is stored unless it is configured",
                            detail,
                        ));
                    };
                    sessions.extend(changes.iter().filter_map(|change| match change {
                        StoreChange::Put(key, value) if key.kind == saved::kind::SESSION => {
                            Some(value.clone())
                        }
                        _ => None,
                    }));
                    store.submit(self.now, changes.clone(), *ticket, &mut self.rng);
                    ticket
                        .iter()
                        .for_each(|ticket| self.reference.on_written(*ticket));
                    self.after_store();
                }
                Output::Notice(notice) => {
                    self.note(|_| format!("gateway says {notice:?}"));
                    self.hash.write(format!("{notice:?}").as_bytes());
                    self.reference.on_notice(self.now, &notice)?;
                    self.notices.push((self.now, notice));
                }
            }
        }
        Err(Violation::new(
            "outputs end",
            format!("more than {MAX_OUTPUTS_PER_DRAIN} at once"),
        ))
    }

    /// What peers can make grow stays within the limits of the configuration.
    fn check_bounds(&mut self) -> Check {
        // Counting takes time in proportion to the clients.
        if self.clients.len() > 64 && !self.transmits.is_multiple_of(64) {
            return Ok(());
        }
        let (limits, clients) = (&self.config.gateway.limits, self.clients.len());
        let messages_per_client = self.config.gateway.sleep.max_messages;
        let connections =
            u64::from(self.config.gateway.upstream.connections) + u64::from(self.store.is_some());
        let window = u64::from(self.config.broker.window) * connections;
        let metrics = self.gateway.metrics();
        let bounds = [
            // What was in flight when a session was lost comes back into the queue.
            (
                "queue_messages",
                metrics.queue_messages,
                limits.queue_messages as u64 + window,
            ),
            (
                "queue_bytes",
                metrics.queue_bytes,
                limits.queue_bytes as u64 + window * 65_535,
            ),
            ("in_flight", metrics.in_flight, window),
            (
                "buffer_messages",
                metrics.buffer_messages,
                (messages_per_client * clients) as u64,
            ),
            ("buffer_bytes", metrics.buffer_bytes, limits.buffer_bytes as u64),
            ("clients", metrics.clients, limits.clients as u64),
            (
                "filters",
                metrics.filters,
                (limits.subscriptions_per_client * clients) as u64,
            ),
        ];
        match bounds.into_iter().find(|(_, value, bound)| value > bound) {
            None => Ok(()),
            Some((name, value, bound)) => Err(Violation::new(
                "limits hold",
                format!("{name} is {value}, at most {bound}"),
            )),
        }
    }

    fn transmit(&mut self, to: &Destination, datagram: &[u8], _ticket: TxTicket) -> Check {
        self.transmits += 1;
        self.note(|_| format!("gateway -> {} {}", show_destination(to), show(datagram)));
        self.hash.write(format!("{to:?}").as_bytes());
        self.hash.write(datagram);
        if self.config.trace {
            self.sent.push((self.now, to.clone(), datagram.to_vec()));
        }
        if self.config.link_credit.is_some() {
            if self.link_credit == 0 {
                return Err(Violation::new("no datagram without link credit", show(datagram)));
            }
            self.link_credit -= 1;
            let back = between(&mut self.rng, Duration::from_millis(1), Duration::from_millis(10));
            self.schedule(self.now + back, Event::Link(LinkEvent::Credit(1)));
        }
        self.reference.on_transmit(self.now, to, datagram)?;
        let Destination::Peer(route) = to else {
            return Ok(());
        };
        let Ok((encapsulation, message)) = Encapsulation::split(datagram) else {
            return Ok(());
        };
        if let Ok(packet) = Packet::decode(message) {
            *self.sent_counts.entry(packet.msg_type()).or_default() += 1;
        }
        let node = encapsulation.map(|encapsulation| encapsulation.wireless_node_id);
        let addr = Address::new(route.addr.clone(), node);
        // What goes to an address that nobody has any more arrives nowhere.
        let client = self.by_addr.get(&addr).copied();
        let Some(client) = client.filter(|ix| self.address(ClientIx(*ix)) == addr) else {
            return Ok(());
        };
        let rng = &mut self.rng;
        let station = &mut self.clients[client];
        let forwarder = station.behind.as_ref().map(|(ix, _)| *ix);
        let relayed = match forwarder.and_then(|ix| self.forwarders.get_mut(ix)) {
            Some(forwarder) if !forwarder.on => Vec::new(),
            Some(forwarder) => forwarder.down.send(self.now, rng),
            None => vec![self.now],
        };
        let arrivals: Vec<Instant> = relayed
            .into_iter()
            .flat_map(|at| station.down.send(at, rng))
            .collect();
        for at in arrivals {
            self.schedule(
                at,
                Event::ToClient {
                    client,
                    addr: addr.clone(),
                    datagram: message.to_vec(),
                },
            );
        }
        Ok(())
    }
}
