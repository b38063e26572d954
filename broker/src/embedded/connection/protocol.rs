//! What one connection has to know of MQTT: its octets are packets, and what of them the router need not see.
//!
//! Of mqtt-protocol-core this uses the parsers, not the `Connection`. That one does much of what the router does (packet
//! ids, stored packets, receive maximum of the sender), so there would be two of each to keep in step and in memory; and
//! all the panics known of the crate are in it (a CONNECT with Topic Alias Maximum 0, a PUBLISH with packet id 0, at its
//! second copy). What is left is little: framing, one CONNECT, the largest packet, aliases, and how many messages may
//! wait for their acknowledgement.
//!
//! No I/O and no clock: [`Protocol::receive`] takes octets, [`Protocol::send`] makes some.

use core::mem;
use std::collections::VecDeque;
use std::sync::Arc;

use super::decode::{self, Fault, Packet, Version};
use super::encode::{self, Alias, Terms};
use crate::embedded::packet::{Connect, Delivery, Received, Reply, reason};

/// QoS 1 and 2 messages of a client that may wait for their acknowledgement.
pub(crate) const RECEIVE_MAXIMUM: u16 = 64;

/// Topic aliases of each direction. Taste: more than a sensor has topics, few enough to look through.
const ALIASES: u16 = 16;

/// One connection's side of the protocol.
#[derive(Debug)]
pub(crate) struct Protocol {
    state: State,
    /// The longest packet taken.
    packet_bytes: u32,
    /// The longest packet the client takes.
    client_packet_bytes: u32,
    /// Octets that are no complete packet yet, or stand behind a CONNECT that is not answered.
    pending: Vec<u8>,
    /// There may be complete packets among them.
    unread: bool,
    /// Packets for the router.
    inbox: Vec<Received>,
    /// What a 3.1.1 client sent after as many unacknowledged messages as are taken.
    held: VecDeque<Received>,
    /// Packet ids of the client's messages whose acknowledgement is still to be sent.
    unacknowledged: Vec<u16>,
    /// Topics that the client gave aliases, by alias.
    client_aliases: Vec<Option<Arc<str>>>,
    /// Topics that it was given aliases for, by alias.
    aliases: Vec<Arc<str>>,
    aliases_max: u16,
    /// CONNECT asked for no session after the connection, so DISCONNECT cannot (§3.14.2.2.2).
    session_ends: bool,
}

#[derive(Debug)]
enum State {
    /// Nothing but a CONNECT is welcome; with a reason to refuse not even that.
    Opening {
        refuse: Option<u8>,
    },
    /// It was passed on; the answer is due.
    Connecting(Version),
    Open(Version),
    /// Nothing is taken any more.
    Closed,
}

/// Octets that ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// DISCONNECT.
    Client,
    /// What it sent was not right; the reason was sent to it if its version has a way to.
    Fault(u8),
}

/// What became of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    Yes,
    /// It was the last; with this reason.
    Last(u8),
}

/// A CONNECT to be answered.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) connect: Connect,
    /// Seconds; 0 for none.
    pub(crate) keep_alive: u16,
}

impl Protocol {
    /// `refuse`: the reason to refuse every CONNECT for.
    pub(crate) fn new(packet_bytes: u32, refuse: Option<u8>) -> Self {
        Protocol {
            state: State::Opening { refuse },
            packet_bytes,
            client_packet_bytes: u32::MAX,
            pending: Vec::new(),
            unread: false,
            inbox: Vec::new(),
            held: VecDeque::new(),
            unacknowledged: Vec::new(),
            client_aliases: Vec::new(),
            aliases: Vec::new(),
            aliases_max: 0,
            session_ends: false,
        }
    }

    /// Takes octets that came from the client, or none to go on with those that came before. Answers of the connection
    /// itself go to `out`, the rest to [`Protocol::take_inbox`]. Returns the number of packets.
    ///
    /// Call it only when [`Protocol::is_ready`].
    pub(crate) fn receive(
        &mut self,
        octets: &[u8],
        opened: &mut Option<Opened>,
        out: &mut Vec<u8>,
    ) -> Result<usize, End> {
        if let Err(end) = self.admit_held() {
            self.end(end, out);
            return Err(end);
        }
        let mut pending = mem::take(&mut self.pending);
        let octets = if pending.is_empty() {
            octets
        } else {
            pending.extend_from_slice(octets);
            &pending
        };
        let mut at = 0;
        let mut packets = 0;
        loop {
            match self.next(&octets[at..], opened, out) {
                Ok(0) => break,
                Ok(used) => at += used,
                Err(end) => {
                    self.end(end, out);
                    return Err(end);
                }
            }
            packets += 1;
        }
        // Behind a CONNECT is what its client sent without waiting for CONNACK (§3.1.4).
        self.unread = matches!(self.state, State::Connecting(_)) && at < octets.len();
        self.pending = if at == 0 && !pending.is_empty() {
            pending
        } else {
            octets[at..].to_vec()
        };
        Ok(packets)
    }

    /// Whether [`Protocol::receive`] can do something with octets.
    pub(crate) fn is_ready(&self) -> bool {
        match self.state {
            State::Opening { .. } => true,
            State::Open(_) => self.held.front().is_none_or(|first| self.has_room_for(first)),
            State::Connecting(_) | State::Closed => false,
        }
    }

    /// Whether it can do something without more octets.
    pub(crate) fn has_more(&self) -> bool {
        self.is_ready() && (self.unread || !self.held.is_empty())
    }

    /// Whether a packet has begun to arrive.
    pub(crate) fn is_amid_packet(&self) -> bool {
        !self.pending.is_empty()
    }

    /// What is for the router, in order.
    pub(crate) fn take_inbox(&mut self) -> Vec<Received> {
        mem::take(&mut self.inbox)
    }

    /// Writes what the router has to say.
    pub(crate) fn send(&mut self, reply: &Reply, out: &mut Vec<u8>) -> Sent {
        let start = out.len();
        let sent = match (&self.state, reply) {
            (&State::Connecting(version), Reply::ConnAck { .. }) => self.send_connack(version, reply, out),
            (&State::Open(version), reply) => self.send_open(version, reply, out),
            // The router answers CONNECT first, and nothing after an end.
            (State::Opening { .. } | State::Connecting(_) | State::Closed, _) => Sent::Yes,
        };
        if out.len() - start > self.client_packet_bytes as usize {
            // §3.1.2.11.4: there is no packet to say it with either.
            out.truncate(start);
            self.state = State::Closed;
            return Sent::Last(reason::PACKET_TOO_LARGE);
        }
        if let Sent::Last(_) = sent {
            self.state = State::Closed;
        }
        sent
    }

    /// Says why the connection ends, as far as the version can, and takes nothing more.
    pub(crate) fn close(&mut self, reason: u8, out: &mut Vec<u8>) {
        self.refuse(reason, out);
        self.state = State::Closed;
    }

    fn end(&mut self, end: End, out: &mut Vec<u8>) {
        if let End::Fault(reason) = end {
            self.refuse(reason, out);
        }
        self.state = State::Closed;
    }

    fn refuse(&mut self, reason: u8, out: &mut Vec<u8>) {
        match self.state {
            State::Connecting(version) => encode::refused(version, reason, out),
            State::Open(version) => encode::disconnect(version, reason, out),
            // The version is not known.
            State::Opening { .. } | State::Closed => {}
        }
    }

    /// Takes the next packet and returns its length; 0 if it is not complete.
    fn next(&mut self, octets: &[u8], opened: &mut Option<Opened>, out: &mut Vec<u8>) -> Result<usize, End> {
        // What stands behind CONNECT is not looked at before that is answered.
        if let State::Connecting(_) | State::Closed = self.state {
            return Ok(0);
        }
        let Some(header) = decode::header(octets)? else {
            return Ok(0);
        };
        let body = &octets[header.header_len..];
        let len = header.header_len + header.body_len;
        // Before its octets are gathered.
        if len > self.packet_bytes as usize {
            return Err(End::Fault(reason::PACKET_TOO_LARGE));
        }
        match self.state {
            State::Opening { refuse } => {
                // §3.1.0: told apart before all of it is here, so that others do not fill a buffer.
                if header.first != 0x10 {
                    return Err(Fault::PROTOCOL.into());
                }
                let Some(body) = body.get(..header.body_len) else {
                    return Ok(0);
                };
                self.open(header, body, refuse, opened)?;
            }
            State::Open(version) => {
                let Some(body) = body.get(..header.body_len) else {
                    return Ok(0);
                };
                match decode::packet(version, header, body)? {
                    Packet::Router(received) => self.pass_on(version, received)?,
                    Packet::Aliased { alias, publish } => {
                        let publish = self.resolve(alias, publish)?;
                        self.pass_on(version, publish)?;
                    }
                    Packet::PingReq => encode::pingresp(out),
                }
            }
            State::Connecting(_) | State::Closed => return Ok(0),
        }
        Ok(len)
    }

    fn open(
        &mut self,
        header: decode::Header,
        body: &[u8],
        refuse: Option<u8>,
        opened: &mut Option<Opened>,
    ) -> Result<(), End> {
        let version = match decode::version(header, body) {
            Ok(version) => version,
            Err(answer) => {
                if let Some(version) = answer {
                    self.state = State::Connecting(version);
                }
                return Err(End::Fault(UNSUPPORTED_VERSION));
            }
        };
        self.state = State::Connecting(version);
        let opening = decode::connect(version, body)?;
        if let Some(reason) = refuse {
            return Err(End::Fault(reason));
        }
        self.client_packet_bytes = opening.packet_bytes;
        self.aliases_max = opening.aliases.min(ALIASES);
        self.session_ends = opening.connect.session_expiry == 0;
        *opened = Some(Opened {
            connect: opening.connect,
            keep_alive: opening.keep_alive,
        });
        Ok(())
    }

    /// A packet for the router, unless it has to wait.
    fn pass_on(&mut self, version: Version, received: Received) -> Result<(), End> {
        match received {
            // These make room.
            Received::PubAck { .. }
            | Received::PubRec { .. }
            | Received::PubRel { .. }
            | Received::PubComp { .. } => {
                self.inbox.push(received);
                Ok(())
            }
            // 3.1.1 has no receive maximum, so the rest waits here in order, and further octets in the socket.
            _ if version == Version::V3 && (!self.held.is_empty() || !self.has_room_for(&received)) => {
                self.held.push_back(received);
                Ok(())
            }
            // MQTT-3.3.4-9: the client does not keep to what CONNACK said.
            _ if !self.has_room_for(&received) => Err(End::Fault(reason::RECEIVE_MAXIMUM_EXCEEDED)),
            _ => self.admit(received),
        }
    }

    fn admit(&mut self, received: Received) -> Result<(), End> {
        match received {
            Received::Publish {
                packet_id: id @ 1.., ..
            } if !self.unacknowledged.contains(&id) => {
                self.unacknowledged.push(id);
            }
            // §3.14.2.2.2
            Received::Disconnect {
                session_expiry: Some(1..),
                ..
            } if self.session_ends => return Err(Fault::PROTOCOL.into()),
            Received::Disconnect { .. } => {
                self.inbox.push(received);
                return Err(End::Client);
            }
            _ => {}
        }
        self.inbox.push(received);
        Ok(())
    }

    /// What waited goes first.
    fn admit_held(&mut self) -> Result<(), End> {
        while let Some(received) = self.held.pop_front() {
            if !self.has_room_for(&received) {
                self.held.push_front(received);
                return Ok(());
            }
            self.admit(received)?;
        }
        self.held = VecDeque::new();
        Ok(())
    }

    fn has_room_for(&self, received: &Received) -> bool {
        match received {
            Received::Publish { packet_id, .. } => {
                *packet_id == 0
                    || self.unacknowledged.len() < usize::from(RECEIVE_MAXIMUM)
                    || self.unacknowledged.contains(packet_id)
            }
            _ => true,
        }
    }

    /// Puts the topic of an alias in its place (§3.3.2.3.4).
    fn resolve(&mut self, alias: u16, mut publish: Received) -> Result<Received, End> {
        if alias > ALIASES {
            return Err(End::Fault(TOPIC_ALIAS_INVALID));
        }
        let index = usize::from(alias - 1);
        if let Received::Publish { message, .. } = &mut publish {
            if !message.topic.is_empty() {
                if self.client_aliases.len() <= index {
                    self.client_aliases.resize(index + 1, None);
                }
                self.client_aliases[index] = Some(message.topic.clone());
            } else if let Some(Some(topic)) = self.client_aliases.get(index) {
                message.topic = topic.clone();
            } else {
                return Err(Fault::PROTOCOL.into());
            }
        }
        Ok(publish)
    }

    fn send_connack(&mut self, version: Version, connack: &Reply, out: &mut Vec<u8>) -> Sent {
        let Reply::ConnAck {
            session_present,
            reason,
            assigned_client_id,
        } = connack
        else {
            return Sent::Yes;
        };
        if *reason >= 0x80 {
            encode::refused(version, *reason, out);
            return Sent::Last(*reason);
        }
        let terms = Terms {
            receive_maximum: RECEIVE_MAXIMUM,
            packet_bytes: self.packet_bytes,
            aliases: ALIASES,
        };
        encode::accepted(
            version,
            *session_present,
            assigned_client_id.as_deref(),
            terms,
            out,
        );
        self.state = State::Open(version);
        Sent::Yes
    }

    fn send_open(&mut self, version: Version, reply: &Reply, out: &mut Vec<u8>) -> Sent {
        match reply {
            Reply::Publish(delivery) => return self.send_publish(version, delivery, out),
            Reply::PubAck { reason, .. } | Reply::PubRec { reason, .. }
                if version == Version::V3 && *reason >= 0x80 =>
            {
                // MQTT-3.3.5-2: a 3.1.1 client is told nothing else, so the connection ends.
                return Sent::Last(*reason);
            }
            &Reply::PubAck { packet_id, reason } => {
                self.acknowledged(packet_id);
                encode::acknowledgement(version, 0x40, packet_id, reason, out);
            }
            &Reply::PubRec { packet_id, reason } => {
                // In 3.1.1 PUBREC makes room: PUBREL may stand behind messages that wait for it.
                if version == Version::V3 || reason >= 0x80 {
                    self.acknowledged(packet_id);
                }
                encode::acknowledgement(version, 0x50, packet_id, reason, out);
            }
            &Reply::PubRel { packet_id, reason } => {
                encode::acknowledgement(version, 0x62, packet_id, reason, out);
            }
            &Reply::PubComp { packet_id, reason } => {
                self.acknowledged(packet_id);
                encode::acknowledgement(version, 0x70, packet_id, reason, out);
            }
            Reply::SubAck { packet_id, reasons } => encode::suback(version, *packet_id, reasons, out),
            Reply::UnsubAck { packet_id, reasons } => encode::unsuback(version, *packet_id, reasons, out),
            &Reply::Disconnect { reason } => {
                encode::disconnect(version, reason, out);
                return Sent::Last(reason);
            }
            // Once, and it was.
            Reply::ConnAck { .. } => {}
        }
        Sent::Yes
    }

    fn send_publish(&mut self, version: Version, delivery: &Delivery, out: &mut Vec<u8>) -> Sent {
        let topic = &delivery.message.topic;
        let known = self.aliases.iter().position(|known| known == topic);
        let alias = match known {
            Some(index) => Alias::Use(index as u16 + 1),
            None if self.aliases.len() < usize::from(self.aliases_max) => {
                Alias::Set(self.aliases.len() as u16 + 1)
            }
            None => Alias::No,
        };
        if !encode::publish(version, delivery, alias, self.client_packet_bytes, out) {
            // §3.1.2.11.4: for the router it is as if it had been sent and acknowledged.
            self.inbox.push(Received::TooLarge {
                packet_id: delivery.packet_id,
            });
            return Sent::Yes;
        }
        if let Alias::Set(_) = alias {
            self.aliases.push(topic.clone());
        }
        Sent::Yes
    }

    fn acknowledged(&mut self, packet_id: u16) {
        if let Some(index) = self.unacknowledged.iter().position(|&id| id == packet_id) {
            self.unacknowledged.swap_remove(index);
        }
    }
}

const UNSUPPORTED_VERSION: u8 = 0x84;
const TOPIC_ALIAS_INVALID: u8 = 0x94;

impl From<Fault> for End {
    fn from(fault: Fault) -> Self {
        End::Fault(fault.0)
    }
}
