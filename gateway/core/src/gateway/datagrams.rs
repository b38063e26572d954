//! A datagram arrived: whose it is, and who handles its packet.

use sn_codec::{DecodeError, Encapsulation, ErrorKind, MsgType, Packet, PublishQoS};

use super::Gateway;
use crate::client::{Client, State};
use crate::clients::{ClientIx, Peer};
use crate::config::{AddressChange, UnknownSender};
use crate::io::{Notice, RadioFacts};
use crate::links::Via;
use crate::peer::{LinkId, LocalEnd, Route};
use crate::time::Instant;

impl Gateway {
    /// One datagram arrived.
    ///
    /// The codec decides what can be read (readings A2 to A7, A9, A37), encapsulated or not (reading A82).
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        link: LinkId,
        from: &Route,
        facts: RadioFacts,
        datagram: &[u8],
    ) {
        self.cx.links.now = now;
        self.cx.facts = facts;
        self.cx.links.received(link, facts, datagram.len());
        let (encapsulation, message) = match Encapsulation::split(datagram) {
            Ok(split) => split,
            Err(error) => return self.count_malformed(error.kind),
        };
        let node = encapsulation.map(|encapsulation| encapsulation.wireless_node_id);
        if node.is_some() && !self.admits_forwarder(now, link, &from.addr) {
            return;
        }
        let bound = self.clients.by_peer(Peer {
            link,
            addr: &from.addr,
            node,
        });
        let via = || Via {
            link,
            route: from.clone(),
            node: node.map(Box::from),
        };
        match Packet::decode(message) {
            Ok(packet) => self.on_packet(now, bound, via, from.local, packet),
            Err(error) => self.on_malformed(now, bound, via, message, error),
        }
    }

    fn on_packet(
        &mut self,
        now: Instant,
        bound: Option<ClientIx>,
        via: impl Fn() -> Via,
        local: LocalEnd,
        packet: Packet<'_>,
    ) {
        self.cx.metrics.count_received(packet.msg_type());
        if let (Packet::SearchGw(_) | Packet::Advertise(_) | Packet::GwInfo(_), Some(ix)) = (packet, bound)
            && let Some(client) = self.clients.get_mut(ix)
        {
            client.heard_aside(&self.cx, now);
            self.after(now, ix);
        }
        match packet {
            // §6.2: before its CONNACK a client is sent prompts and nothing else.
            Packet::SearchGw(_) if bound.is_some_and(|ix| self.is_in_setup(ix)) => {
                self.cx.metrics.unexpected_total += 1;
                return;
            }
            Packet::SearchGw(search) => return self.on_search_gw(now, via(), search.radius),
            Packet::Advertise(heard) => {
                let from = via();
                return self.on_advertise(now, from.link, &from.route.addr, heard);
            }
            Packet::GwInfo(heard) if heard.gw_add.is_empty() => {
                let from = via();
                return self.on_other_gateway(now, from.link, &from.route.addr, heard.gw_id);
            }
            Packet::GwInfo(_) => return, // A client that knows a gateway tells one that searches (reading A81).
            Packet::Connect(connect) => return self.on_connect(now, via(), bound, connect),
            Packet::Connack(_)
            | Packet::WillTopicReq
            | Packet::WillMsgReq
            | Packet::Suback(_)
            | Packet::Unsuback(_)
            | Packet::WillTopicResp(_)
            | Packet::WillMsgResp(_) => return self.count_malformed(ErrorKind::WrongDirection),
            _ => {}
        }
        let session = bound.filter(|ix| self.clients.get(*ix).is_some_and(Client::has_session));
        if let Packet::Pingreq(ping) = packet
            && let Some(id) = ping.client_id
        {
            return self.on_pingreq_with_id(now, via, session, id);
        }
        let Some(ix) = session else {
            return self.on_packet_without_session(now, via, packet);
        };
        let Some(client) = self.clients.get_mut(ix) else {
            return;
        };
        if let Some(known) = &mut client.via {
            known.route.local = local; // Answers leave from where the client sends to now.
        }
        client.on_packet(&mut self.cx, now, packet);
        self.after(now, ix);
    }

    /// Binds a client to an address; if it was at another, that is told.
    pub(crate) fn bind(&mut self, ix: ClientIx, via: Via) {
        if let Some(client) = self.clients.get(ix)
            && let Some(old) = &client.via
            && Peer::from(old) != Peer::from(&via)
        {
            self.cx.metrics.takeovers_total += 1;
            let notice = Notice::AddressChanged {
                client: client.id.clone(),
                link: via.link,
                old: old.into(),
                new: (&via).into(),
            };
            self.cx.notice(notice);
        }
        self.clients.bind(ix, via);
    }

    /// Whether a PINGREQ from a new address wakes the client (reading A16).
    fn may_wake_elsewhere(&self, ix: ClientIx) -> bool {
        self.clients.get(ix).is_some_and(|client| {
            client.via.is_none() || self.cx.address_change(client.rule) != AddressChange::Strict
        })
    }

    pub(crate) fn is_in_setup(&self, ix: ClientIx) -> bool {
        let state = self.clients.get(ix).map(|client| &client.state);
        matches!(state, Some(State::Setup(_)))
    }

    /// A packet from a peer that has no session.
    fn on_packet_without_session(&mut self, now: Instant, via: impl Fn() -> Via, packet: Packet<'_>) {
        match packet {
            Packet::Publish(publish) if publish.qos == PublishQoS::MinusOne => {
                self.on_publish_minus_one(now, &via(), publish);
            }
            // Reading A77: else a client that lost our first answer retries and reports an error.
            Packet::Disconnect(_) if self.cx.config.unknown_sender == UnknownSender::Disconnect => {
                self.answer_stranger(via(), crate::client::Reply::Disconnect.into());
            }
            // Late packets of a finished session.
            Packet::Regack(_)
            | Packet::Puback(_)
            | Packet::Pubrec(_)
            | Packet::Pubcomp(_)
            | Packet::Pingresp => self.cx.metrics.unknown_sender_total += 1,
            _ => self.on_stranger(now, via()),
        }
    }

    /// PINGREQ with a client id: a ping, or a client that wakes up, perhaps from a new address (reading A16).
    fn on_pingreq_with_id(
        &mut self,
        now: Instant,
        via: impl Fn() -> Via,
        session: Option<ClientIx>,
        id: &str,
    ) {
        let named = self.clients.by_id(id);
        let sleeps = |ix: &ClientIx| {
            let state = self.clients.get(*ix).map(|client| &client.state);
            matches!(state, Some(State::Asleep { .. } | State::Awake(_)))
        };
        let ix = match (session, named) {
            (Some(own), Some(named)) if own == named => own,
            (_, Some(named))
                if sleeps(&named)
                    && self.may_wake_elsewhere(named)
                    && (session.is_some() || self.no_place(now, Some(named), &via()).is_none()) =>
            {
                self.bind(named, via());
                if let Some(client) = self.clients.get_mut(named) {
                    client.touch_lazily();
                }
                named
            }
            // §6.2: not before its CONNACK.
            (Some(own), _) if self.is_in_setup(own) => {
                self.cx.metrics.unexpected_total += 1;
                return;
            }
            _ => return self.on_stranger(now, via()),
        };
        if let Some(client) = self.clients.get_mut(ix) {
            let client_id = Some(id);
            client.on_packet(
                &mut self.cx,
                now,
                Packet::Pingreq(sn_codec::Pingreq { client_id }),
            );
        }
        self.after(now, ix);
    }

    /// A datagram that cannot be used. Its sender's session stays as it is (reading A1); where the layout is right and
    /// a value wrong, it is answered as its message would be (reading A8).
    fn on_malformed(
        &mut self,
        now: Instant,
        bound: Option<ClientIx>,
        via: impl Fn() -> Via,
        message: &[u8],
        error: DecodeError,
    ) {
        self.count_malformed(error.kind);
        let Some(answer) = error.answer else { return };
        let msg_type = type_octet(message).and_then(MsgType::from_octet);
        if msg_type == Some(MsgType::Connect) {
            self.cx.metrics.connects_refused_total += 1;
            return self.answer_stranger(via(), answer);
        }
        let session = bound.and_then(|ix| self.clients.get_mut(ix));
        let Some(client) = session.filter(|client| client.has_session()) else {
            return self.on_stranger(now, via());
        };
        let ix = client.ix;
        let in_setup = matches!(client.state, State::Setup(_));
        match msg_type {
            // The will cannot be used, so its handshake ends (reading A24).
            Some(MsgType::WillTopic) if in_setup => {
                client.abort_setup(&mut self.cx);
                self.answer_stranger(via(), answer);
            }
            Some(MsgType::WillTopic) => {}
            // §6.2: before its CONNACK a client is sent prompts and nothing else.
            _ if in_setup => {}
            _ => {
                client.heard(&mut self.cx, now);
                self.answer_stranger(via(), answer);
            }
        }
        self.after(now, ix);
    }

    fn count_malformed(&mut self, kind: ErrorKind) {
        self.cx.metrics.malformed[kind as usize] += 1;
    }
}

/// The message type of what could not be decoded (§5.2).
fn type_octet(message: &[u8]) -> Option<u8> {
    match *message {
        [0x01, _, _, octet, ..] => Some(octet),
        [_, octet, ..] => Some(octet),
        _ => None,
    }
}
