//! Forwarders, and clients behind them.

use super::{ClientIx, Forwarder, ForwarderIx, World};
use crate::net::{Path, PathConfig};

impl World {
    /// Adds a forwarder (§5.5) with its own link to the gateway.
    pub fn add_forwarder(&mut self) -> ForwarderIx {
        let route = self.new_route();
        let (up, down) = (Path::new(self.config.up), Path::new(self.config.down));
        self.forwarders.push(Forwarder {
            route,
            up,
            down,
            on: true,
        });
        ForwarderIx(self.forwarders.len() - 1)
    }

    /// A client's messages go through a forwarder from now on; it does not know.
    pub fn move_behind(&mut self, ix: ClientIx, forwarder: ForwarderIx) {
        self.counter += 1;
        // Of several lengths, and another one each time.
        let length = 2 + (self.counter % 7) as usize;
        let node: Box<[u8]> = self.counter.to_be_bytes()[8 - length..].into();
        self.clients[ix.0].behind = Some((forwarder.0, node));
        self.clients[ix.0].route = self.forwarders[forwarder.0].route.clone();
        self.announce(ix.0);
    }

    /// A forwarder is on or off; off, it forwards nothing.
    pub fn switch_forwarder(&mut self, forwarder: ForwarderIx, on: bool) {
        self.note(|_| format!("forwarder {} is on: {on}", forwarder.0));
        self.forwarders[forwarder.0].on = on;
    }

    /// A forwarder restarts and has another address; the node ids behind it stay.
    pub fn restart_forwarder(&mut self, forwarder: ForwarderIx) {
        let route = self.new_route();
        self.note(|_| format!("forwarder {} restarts as {}", forwarder.0, route.addr));
        self.forwarders[forwarder.0].route = route.clone();
        for ix in 0..self.clients.len() {
            if self.clients[ix]
                .behind
                .as_ref()
                .is_some_and(|(behind, _)| *behind == forwarder.0)
            {
                self.clients[ix].route = route.clone();
                self.announce(ix);
            }
        }
    }

    /// How a forwarder's datagrams travel from now on.
    pub fn set_forwarder_paths(&mut self, forwarder: ForwarderIx, up: PathConfig, down: PathConfig) {
        self.forwarders[forwarder.0].up.config = up;
        self.forwarders[forwarder.0].down.config = down;
    }

    /// Makes a client's address known to everybody who must tell it from a stranger's.
    pub(super) fn announce(&mut self, ix: usize) {
        let address = self.address(ClientIx(ix));
        self.note(|world| format!("{} is at {address}", world.clients[ix].client.config.id));
        self.by_addr.insert(address.clone(), ix);
        self.reference.add_address(ClientIx(ix), address);
    }
}
