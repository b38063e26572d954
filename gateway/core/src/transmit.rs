//! What goes out: the next datagram of a link, and what becomes of it.

use sn_codec::{Encapsulation, Packet};

use crate::budget::Share;
use crate::clients::ClientIx;
use crate::context::Context;
use crate::gateway::Gateway;
use crate::io::{Destination, Output, TxTicket};
use crate::link_metrics::NotSent;
use crate::links::{Admission, Via, What};
use crate::peer::LinkId;
use crate::schedule::{Fair, Line, Owed, Stray, Turn};
use crate::time::Instant;

/// What came of a turn.
pub(crate) enum Turned {
    Sent(Output),
    /// Nothing was to be sent after all: the next one's turn.
    Nothing,
    /// The duty cycle says no.
    Waits,
}

impl Gateway {
    pub(crate) fn poll_links(&mut self, now: Instant, buf: &mut Vec<u8>) -> Option<Output> {
        let links = self.cx.links.ids().count() as u16;
        // Links take turns: each is asked once, beginning with the one whose turn it is.
        for _ in 0..links {
            let link = LinkId(self.next_link);
            if let Some(output) = self.poll_link(now, link, buf) {
                return Some(output);
            }
            self.next_link = (link.0 + 1) % links;
        }
        None
    }

    /// One datagram of a link: answers, then deliveries, then the beacon. What waits for the duty cycle is not
    /// overtaken by what is less urgent: it would only wait longer.
    fn poll_link(&mut self, now: Instant, id: LinkId, buf: &mut Vec<u8>) -> Option<Output> {
        loop {
            let link = self.cx.links.get_mut(id)?;
            if !link.ready(now) {
                return None;
            }
            let fair = link.fair();
            if fair.is_some() {
                self.drop_late(now, id);
            }
            let link = self.cx.links.get_mut(id)?;
            let turned = match link.lines.next(now, fair) {
                Some(Turn::Stray) => match self.transmit_stray(now, id, buf) {
                    // What may use less of the duty cycle must not keep back what may use more.
                    Turned::Waits => self.transmit_ack(now, id, fair, buf),
                    turned => turned,
                },
                Some(Turn::Reply(at)) => match self.transmit_reply(now, id, at, buf) {
                    Turned::Waits => self.transmit_ack(now, id, fair, buf),
                    turned => turned,
                },
                Some(Turn::Client(line, at)) => self.transmit_delivery(now, id, line, at, buf),
                Some(Turn::Enough) => {
                    link.look_again(now);
                    return None;
                }
                None => return self.transmit_beacon(now, id, buf),
            };
            match turned {
                Turned::Sent(output) => return Some(output),
                // What became of it is told before what follows from it is sent.
                Turned::Nothing if !self.cx.notices.is_empty() => return None,
                Turned::Nothing => {}
                Turned::Waits => {
                    let notice = self.cx.links.get_mut(id)?.blocked(now, id);
                    notice.into_iter().for_each(|notice| self.cx.notice(notice));
                    return None;
                }
            }
        }
    }

    /// Answers whose clients have asked again or given up by now (the link's own Tretry is the best guess of theirs)
    /// would only cost airtime.
    fn drop_late(&mut self, now: Instant, id: LinkId) {
        let patience = self.cx.config.retry(id).first;
        let Some(link) = self.cx.links.get_mut(id) else {
            return;
        };
        let mut late = link.lines.drop_late_strays(now, patience);
        let clients = &mut self.clients;
        link.lines.drop_late_replies(now, patience, |owed| {
            let client = clients.get_mut(owed.client);
            if let Some(client) = client.filter(|client| client.serial == owed.serial) {
                client.owed = client.owed.saturating_sub(1);
                late += 1;
            }
        });
        link.count_dropped(NotSent::NotAfter, late);
    }

    fn transmit_stray(&mut self, now: Instant, id: LinkId, buf: &mut Vec<u8>) -> Turned {
        let Some(link) = self.cx.links.get_mut(id) else {
            return Turned::Waits;
        };
        let Some(stray) = link.lines.pop_stray() else {
            return Turned::Nothing;
        };
        let (len, share) = (stray.len(), Share::Control);
        match self.cx.links.admit(now, id, len, share) {
            Admission::Go => {}
            Admission::Wait => {
                if let Some(link) = self.cx.links.get_mut(id) {
                    link.lines.strays.push_front(stray);
                }
                return Turned::Waits;
            }
            Admission::Refused(reason) => return self.refused(now, id, &stray.via, len, reason),
        }
        let ticket = self.cx.links.spend(now, id, len, share);
        encode(&mut self.cx, &stray.via, stray.radius, &stray.answer, buf);
        let to = Destination::Peer(stray.via.route.clone());
        if let Some(link) = self.cx.links.get_mut(id) {
            let airtime = link.airtime(len);
            link.lines.answered(now, None, airtime);
            if link.confirms() {
                self.cx.links.follow(now, id, ticket, len, What::Stray(stray));
            }
        }
        Turned::Sent(transmit(id, to, len, ticket))
    }

    /// An answer within a session.
    fn transmit_ack(&mut self, now: Instant, id: LinkId, fair: Option<Fair>, buf: &mut Vec<u8>) -> Turned {
        let acks = |owed: &Owed| owed.share() == Share::Ack;
        let link = self.cx.links.get(id);
        match link.and_then(|link| link.lines.next_reply(now, fair, acks)) {
            Some(Turn::Reply(at)) => self.transmit_reply(now, id, at, buf),
            _ => Turned::Waits,
        }
    }

    fn transmit_reply(&mut self, now: Instant, id: LinkId, at: usize, buf: &mut Vec<u8>) -> Turned {
        let Some(link) = self.cx.links.get_mut(id) else {
            return Turned::Waits;
        };
        let Some(owed) = link.lines.replies.get(at).copied() else {
            return Turned::Nothing;
        };
        let client = self
            .clients
            .get_mut(owed.client)
            .filter(|client| client.serial == owed.serial);
        let Some(client) = client else {
            link.lines.replies.remove(at);
            return Turned::Nothing;
        };
        // It moved to another link, or its address went to another client.
        let Some(via) = client.via.as_ref().filter(|via| via.link == id) else {
            client.owed = client.owed.saturating_sub(1);
            link.lines.replies.remove(at);
            return Turned::Nothing;
        };
        let packet = Packet::from(owed.reply);
        let len = packet.encoded_len() + via.overhead();
        let share = owed.share();
        let admission = self.cx.links.admit(now, id, len, share);
        if admission == Admission::Wait {
            return Turned::Waits;
        }
        client.owed = client.owed.saturating_sub(1);
        if let Some(link) = self.cx.links.get_mut(id) {
            link.lines.remove_reply(at);
        }
        if let Admission::Refused(reason) = admission {
            let via = via.clone();
            return self.refused(now, id, &via, len, reason);
        }
        let ticket = self.cx.links.spend(now, id, len, share);
        encode(&mut self.cx, via, 0, &packet, buf);
        let to = Destination::Peer(via.route.clone());
        if let Some(link) = self.cx.links.get_mut(id) {
            if link.costs() {
                let airtime = link.airtime(len);
                link.lines.answered(now, Some(owed.client), airtime);
            }
            if link.confirms() {
                self.cx.links.follow(now, id, ticket, len, What::Reply(owed));
            }
        }
        Turned::Sent(transmit(id, to, len, ticket))
    }

    fn transmit_delivery(
        &mut self,
        now: Instant,
        id: LinkId,
        line: Line,
        at: usize,
        buf: &mut Vec<u8>,
    ) -> Turned {
        let Some(link) = self.cx.links.get_mut(id) else {
            return Turned::Waits;
        };
        let Some(&ix) = link.lines.line_mut(line).get(at) else {
            return Turned::Nothing;
        };
        let step_out = |cx: &mut Context| {
            let link = cx.links.get_mut(id);
            link.and_then(|link| link.lines.line_mut(line).remove(at))
        };
        let Some(client) = self
            .clients
            .get_mut(ix)
            .filter(|client| client.line == Some(line))
        else {
            step_out(&mut self.cx); // Another record in the same place.
            return Turned::Nothing;
        };
        let via = client.via.as_ref().filter(|via| via.link == id).cloned();
        let next = match via {
            Some(via) => client.prepare(&mut self.cx, now).map(|next| (via, next)),
            None => None, // It moved: it takes its place in the line of its link.
        };
        let Some((via, next)) = next else {
            client.line = None;
            step_out(&mut self.cx);
            self.after(now, ix);
            return Turned::Nothing;
        };
        let len = next.len + via.overhead();
        match self.cx.links.admit(now, id, len, next.share) {
            Admission::Go => {}
            Admission::Wait => return Turned::Waits,
            Admission::Refused(_) => {
                client.too_large(&mut self.cx, next.len);
                client.line = None;
                step_out(&mut self.cx);
                self.after(now, ix);
                return Turned::Nothing;
            }
        }
        client.line = None;
        step_out(&mut self.cx);
        let ticket = self.cx.links.spend(now, id, len, next.share);
        let start = buf.len();
        encapsulate(&via, 0, buf);
        let follow = client.send(&mut self.cx, now, ticket, len, buf);
        debug_assert_eq!(buf.len() - start, len);
        if let Some(link) = self.cx.links.get_mut(id) {
            if link.costs() {
                let airtime = link.airtime(len);
                link.lines.served(now, line, ix, airtime);
            }
            if let Some(what) = follow {
                self.cx.links.follow(now, id, ticket, len, what);
            }
        }
        self.after(now, ix);
        Turned::Sent(transmit(id, Destination::Peer(via.route), len, ticket))
    }

    fn refused(&mut self, now: Instant, id: LinkId, via: &Via, len: usize, reason: NotSent) -> Turned {
        if reason == NotSent::TooLong {
            let addr = Some(via.route.addr.clone());
            let link = self.cx.links.get_mut(id);
            let notice = link.and_then(|link| link.too_large(now, id, addr, len));
            notice.into_iter().for_each(|notice| self.cx.notice(notice));
        }
        Turned::Nothing
    }

    /// A datagram left the antenna: only now its answer is waited for.
    pub(crate) fn on_sent(&mut self, now: Instant, id: LinkId, ticket: TxTicket) {
        let Some((what, len)) = self.cx.links.sent(now, id, ticket) else {
            return;
        };
        let Some((ix, serial)) = what.client() else { return };
        let Some(client) = self.clients.get_mut(ix).filter(|client| client.serial == serial) else {
            return;
        };
        match what {
            What::Exchange { .. } => client.on_sent(&mut self.cx, now, ticket, len),
            What::Reply(owed) => client.on_prompt_sent(&mut self.cx, now, owed.reply, len),
            What::Qos0 { .. } | What::Stray(_) | What::Advertise | What::GwInfo => {}
        }
        self.after(now, ix);
    }

    /// A datagram never left: it is to be sent again, before anything else of its class, and nobody was silent.
    pub(crate) fn on_unsent(&mut self, now: Instant, id: LinkId, ticket: TxTicket) {
        let Some((what, airtime)) = self.cx.links.unsent(now, id, ticket) else {
            return;
        };
        let client = what.client().map(|(ix, _)| ix);
        let answer = matches!(what, What::Reply(_));
        self.take_back(now, id, Some(ticket), what);
        let Some(link) = self.cx.links.get_mut(id) else {
            return;
        };
        if let Some(ix) = client
            && link.costs()
        {
            let line = self.clients.get(ix).and_then(|client| client.line);
            match line {
                _ if answer => link.lines.not_answered(now, ix, airtime),
                Some(line) => link.lines.not_served(now, line, ix, airtime),
                None => {}
            }
        }
    }

    /// Puts what was not sent back to where it came from.
    pub(crate) fn take_back(&mut self, now: Instant, id: LinkId, ticket: Option<TxTicket>, what: What) {
        match what {
            What::Exchange { client: ix, serial } => {
                let client = self.clients.get_mut(ix).filter(|client| client.serial == serial);
                if let Some(client) = client {
                    client.on_unsent(ticket);
                    self.put_first(now, ix);
                }
            }
            What::Qos0 {
                client: ix,
                serial,
                item,
            } => {
                let client = self.clients.get_mut(ix).filter(|client| client.serial == serial);
                if let Some(client) = client {
                    client.take_back(&mut self.cx, item);
                    self.put_first(now, ix);
                }
            }
            What::Reply(owed) => {
                let client = self.clients.get_mut(owed.client);
                let client = client.filter(|client| client.serial == owed.serial);
                let link = self.cx.links.get_mut(id).filter(|link| link.is_up());
                if let (Some(client), Some(link)) = (client, link)
                    && client.via.as_ref().is_some_and(|via| via.link == id)
                {
                    client.owed += 1;
                    link.lines.replies.push_front(owed);
                }
            }
            What::Stray(stray) => {
                if let Some(link) = self.cx.links.get_mut(id).filter(|link| link.is_up()) {
                    link.lines.strays.push_front(stray);
                }
            }
            What::Advertise | What::GwInfo => {
                if let Some(link) = self.cx.links.get_mut(id).filter(|link| link.is_up()) {
                    link.beacons.again(matches!(what, What::Advertise));
                }
            }
        }
    }

    /// The client goes to the front of its line.
    fn put_first(&mut self, now: Instant, ix: ClientIx) {
        self.after(now, ix);
        let Some(client) = self.clients.get_mut(ix) else {
            return;
        };
        let (Some(line), Some(via)) = (client.line, &client.via) else {
            return;
        };
        if let Some(link) = self.cx.links.get_mut(via.link) {
            link.lines.leave(line, ix);
            link.lines.line_mut(line).push_front(ix);
        }
    }
}

impl What {
    fn client(&self) -> Option<(ClientIx, u32)> {
        match *self {
            What::Exchange { client, serial } | What::Qos0 { client, serial, .. } => Some((client, serial)),
            What::Reply(Owed { client, serial, .. }) => Some((client, serial)),
            What::Stray(Stray { .. }) | What::Advertise | What::GwInfo => None,
        }
    }
}

fn transmit(link: LinkId, to: Destination, len: usize, ticket: TxTicket) -> Output {
    Output::Transmit {
        link,
        to,
        len,
        ticket,
    }
}

/// Encodes one datagram for a peer.
fn encode(cx: &mut Context, via: &Via, radius: u8, packet: &Packet<'_>, buf: &mut Vec<u8>) {
    encapsulate(via, radius, buf);
    packet.encode(buf);
    cx.metrics.count_sent(packet.msg_type());
}

/// Puts the frame of the forwarder around what follows (§5.5).
fn encapsulate(via: &Via, radius: u8, buf: &mut Vec<u8>) {
    if let Some(node) = &via.node {
        Encapsulation {
            radius,
            wireless_node_id: node,
        }
        .encode(buf);
    }
}
