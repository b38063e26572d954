//! A link changed, or says what became of a datagram.

use super::Gateway;
use crate::client::Client;
use crate::clients::ClientIx;
use crate::io::{LinkEvent, LinkProfile, Notice};
use crate::peer::LinkId;
use crate::time::Instant;

impl Gateway {
    /// A link changed or grants credit.
    pub fn handle_link(&mut self, now: Instant, link: LinkId, event: LinkEvent) {
        self.cx.links.now = now;
        match event {
            LinkEvent::Up(profile) => self.on_link_up(now, link, profile),
            LinkEvent::Down => self.on_link_down(now, link),
            LinkEvent::Credit(datagrams) => self.cx.links.credit(link, datagrams),
            LinkEvent::Sent(ticket) => self.on_sent(now, link, ticket),
            LinkEvent::Unsent(ticket) => self.on_unsent(now, link, ticket),
            // Peers are known by their addresses alone.
            LinkEvent::PeerIdentified { .. } | LinkEvent::PeerGone { .. } => {}
        }
    }

    /// Clients of the link were not expired while it was down, and are given time to be heard of again. Who had a
    /// message under way comes first.
    fn on_link_up(&mut self, now: Instant, link: LinkId, profile: LinkProfile) {
        let outage = self.cx.links.up(now, link, profile);
        if outage.lost {
            self.cx.notice(Notice::AirtimeLost { link });
        }
        if outage.first {
            self.listen_first(now, link);
        }
        self.start_advertising(now, link);
        if !outage.first && outage.after.is_none() {
            return; // Another profile, and no outage.
        }
        let after = outage.after;
        self.cx.notice(Notice::LinkUp { link, after });
        self.status.changed(now);
        let Some(after) = after else { return };
        // Who lost its address meanwhile was on some link that is down.
        let mut clients = self
            .clients_where(|client| client.cut_off && client.via.as_ref().is_none_or(|via| via.link == link));
        let busy = |ix: &ClientIx| {
            self.clients
                .get(*ix)
                .is_some_and(|client| client.down.has_exchange())
        };
        clients.sort_by_key(|ix| !busy(ix));
        for ix in clients {
            if let Some(client) = self.clients.get_mut(ix) {
                client.on_link_up(&self.cx, now, after);
            }
            self.after(now, ix);
        }
    }

    /// What was owed is lost with the radio, as if it had been sent: clients ask again. Who was awake for its messages
    /// is asleep, with the message under way at the front. No client is expired before the link is back, and nothing
    /// counts as sent in vain.
    fn on_link_down(&mut self, now: Instant, link: LinkId) {
        let Some((replies, under_way)) = self.cx.links.down(now, link) else {
            return;
        };
        for owed in replies {
            if let Some(client) = self.clients.get_mut(owed.client)
                && client.serial == owed.serial
            {
                client.owed = client.owed.saturating_sub(1);
            }
        }
        for what in under_way {
            self.take_back(now, link, None, what);
        }
        let clients = self.clients_where(|client| client.via.as_ref().is_some_and(|via| via.link == link));
        self.cx.notice(Notice::LinkDown {
            link,
            clients: clients.len(),
        });
        self.status.changed(now);
        for ix in clients {
            if let Some(client) = self.clients.get_mut(ix) {
                client.on_link_down();
            }
            self.after(now, ix);
        }
    }

    fn clients_where(&self, is: impl Fn(&Client) -> bool) -> Vec<ClientIx> {
        self.clients
            .iter()
            .filter(|(_, client)| is(client))
            .map(|(ix, _)| ix)
            .collect()
    }
}
