//! Clients, and what they are told to do.

use core::time::Duration;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use gateway_core::io::Will;
use gateway_core::peer::Route;
use rand::RngExt;
use sn_codec::{PublishQoS, QoS, TopicId};

use super::events::Event;
use super::{Address, ClientIx, ForwarderIx, Station, World, route_to};
use crate::net::{Path, PathConfig};
use crate::sim_client::{Action, ClientConfig, SimClient, TopicForm, Uplink};

/// QoS as a number in scenarios: −1, 0, 1 or 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level(pub PublishQoS);

impl From<QoS> for Level {
    fn from(qos: QoS) -> Level {
        Level(PublishQoS::Level(qos))
    }
}

impl From<PublishQoS> for Level {
    fn from(qos: PublishQoS) -> Level {
        Level(qos)
    }
}

/// A will for scenarios: QoS 1, not retained.
pub fn will(topic: &str, message: &str) -> Will {
    Will {
        topic: Arc::from(topic),
        payload: Bytes::copy_from_slice(message.as_bytes()),
        qos: QoS::AtLeastOnce,
        retain: false,
    }
}

impl World {
    /// Adds a client that is on and does nothing yet.
    pub fn add_client(&mut self, mut config: ClientConfig) -> ClientIx {
        let ix = ClientIx(self.clients.len());
        for entry in &self.config.gateway.predefined {
            let name = entry.topic.replace("{client_id}", &config.id);
            config.predefined.entry(entry.id).or_insert(name);
        }
        self.reference.add_client(ix, &config);
        if let Some(will) = &config.will {
            self.reference.add_will(ix, will.payload.clone());
        }
        let (up, down) = (Path::new(self.config.up), Path::new(self.config.down));
        let client = SimClient::new(config);
        let route = self.new_route();
        self.clients.push(Station {
            client,
            route,
            behind: None,
            up,
            down,
            wakes_at: None,
            submitted: Vec::new(),
            retired: false,
        });
        self.announce(ix.0);
        ix
    }

    /// Adds a client and connects it.
    pub fn add_connected(&mut self, config: ClientConfig) -> ClientIx {
        let ix = self.add_client(config);
        self.connect(ix);
        self.run_until(Duration::from_secs(300), |world| world.client(ix).is_active());
        ix
    }

    /// A client, to look at.
    pub fn client(&self, ix: ClientIx) -> &SimClient {
        &self.clients[ix.0].client
    }

    /// The clients, in the order they were added.
    pub fn clients(&self) -> impl Iterator<Item = (ClientIx, &SimClient)> {
        self.clients
            .iter()
            .enumerate()
            .map(|(ix, station)| (ClientIx(ix), &station.client))
    }

    /// Where a client sends from.
    pub fn route(&self, ix: ClientIx) -> &Route {
        &self.clients[ix.0].route
    }

    /// Makes a client connect.
    pub fn connect(&mut self, ix: ClientIx) {
        self.note(|world| format!("{} is told to connect", world.client(ix).config.id));
        self.clients[ix.0].client.connect(self.now);
        self.after_client(ix.0);
    }

    /// Makes a client publish a small message that exists once in the world, and returns the payload.
    pub fn publish(&mut self, ix: ClientIx, topic: impl Into<TopicForm>, qos: impl Into<Level>) -> Bytes {
        self.publish_as(ix, topic.into(), qos.into().0, false, 0)
    }

    /// As [`World::publish`], retained or not, padded to at least so many octets.
    pub fn publish_as(
        &mut self,
        ix: ClientIx,
        topic: TopicForm,
        qos: PublishQoS,
        retain: bool,
        octets: usize,
    ) -> Bytes {
        let id = self.client(ix).config.id.clone();
        let payload = self.new_payload(&id, octets);
        let name = match &topic {
            TopicForm::Name(name) => name.clone(),
            TopicForm::Predefined(id) => self.predefined_name(ix, *id),
            TopicForm::Short([a, b]) => {
                let swaps = self.client(ix).config.quirks.swaps_topics;
                let octets = if swaps { [*b, *a] } else { [*a, *b] };
                String::from_utf8_lossy(&octets).into_owned()
            }
        };
        let uplink = Uplink {
            topic,
            qos,
            retain,
            payload: payload.clone(),
        };
        let (qos_sent, retain_sent) = self.client(ix).on_the_wire(qos, retain);
        let sent = Uplink {
            qos: qos_sent,
            retain: retain_sent,
            ..uplink.clone()
        };
        self.reference.add_uplink(ix, &sent, name);
        if matches!(qos, PublishQoS::Level(QoS::AtLeastOnce | QoS::ExactlyOnce)) {
            self.clients[ix.0].submitted.push(payload.clone());
        }
        self.act(ix, Action::Publish(uplink));
        payload
    }

    /// Makes a client subscribe.
    pub fn subscribe(&mut self, ix: ClientIx, topic: impl Into<TopicForm>, qos: QoS) {
        self.act(
            ix,
            Action::Subscribe {
                topic: topic.into(),
                qos,
            },
        );
    }

    /// Makes a client unsubscribe.
    pub fn unsubscribe(&mut self, ix: ClientIx, topic: impl Into<TopicForm>) {
        self.act(ix, Action::Unsubscribe { topic: topic.into() });
    }

    /// Makes a client disconnect once it has done what it was told before.
    pub fn disconnect(&mut self, ix: ClientIx) {
        self.act(ix, Action::Disconnect);
    }

    /// Makes a client sleep: that long between two wake-ups, and so many of them (`u32::MAX` for ever).
    pub fn sleep(&mut self, ix: ClientIx, duration: u16, naps: u32) {
        self.act(ix, Action::Sleep { duration, naps });
    }

    /// Makes a client do something. Publish by [`World::publish`], which tells the reference.
    pub fn act(&mut self, ix: ClientIx, action: Action) {
        self.note(|world| format!("{} is told to {action:?}", world.client(ix).config.id));
        if let Action::UpdateWillTopic(Some(Will { payload, .. })) | Action::UpdateWillMessage(payload) =
            &action
        {
            self.reference.add_will(ix, payload.clone());
        }
        self.clients[ix.0].client.act(self.now, action);
        self.after_client(ix.0);
    }

    /// A client loses power.
    pub fn vanish(&mut self, ix: ClientIx) {
        self.note(|world| format!("{} vanishes", world.client(ix).config.id));
        self.clients[ix.0].client.vanish();
        self.clients[ix.0].submitted.clear();
        self.forget_ids(ix);
    }

    /// A client loses power for good.
    pub fn retire(&mut self, ix: ClientIx) {
        self.vanish(ix);
        self.clients[ix.0].retired = true;
    }

    /// A client loses power for a moment and connects again.
    pub fn reboot(&mut self, ix: ClientIx) {
        self.note(|world| format!("{} reboots", world.client(ix).config.id));
        self.clients[ix.0].submitted.clear();
        self.forget_ids(ix);
        self.clients[ix.0].client.reboot(self.now);
        self.after_client(ix.0);
    }

    /// A client gets another program, which wants the other kind of session, and reboots.
    pub fn reflash(&mut self, ix: ClientIx) {
        let config = &mut self.clients[ix.0].client.config;
        config.clean = !config.clean;
        // It may take a CONNACK for the program of before for its own, and a REGACK that follows it too.
        self.reference.confuse_ids(ix);
        self.reboot(ix);
    }

    /// A REGISTER that the network still holds back has a message id that the device uses anew, and REGACK has no name
    /// in it: which id belongs to which name is then left to chance.
    fn forget_ids(&mut self, ix: ClientIx) {
        if self.clients[ix.0].up.config.reorder > 0.0 {
            self.reference.confuse_ids(ix);
        }
    }

    /// A client gets another address and connects from there, its memory intact.
    pub fn roam(&mut self, ix: ClientIx) {
        self.rebind(ix);
        self.clients[ix.0].client.reconnect(self.now);
        self.after_client(ix.0);
    }

    /// A client gets another address of its own, as by network address translation, and does not know.
    pub fn rebind(&mut self, ix: ClientIx) {
        let route = self.new_route();
        self.clients[ix.0].route = route;
        self.clients[ix.0].behind = None;
        self.announce(ix.0);
    }

    /// Where a client's messages come from at the moment.
    pub fn address(&self, ix: ClientIx) -> Address {
        let station = &self.clients[ix.0];
        let node = station.behind.as_ref().map(|(_, node)| &**node);
        Address::new(station.route.addr.clone(), node)
    }

    /// Hands a datagram to the gateway as if it came from there.
    pub fn inject(&mut self, from: &Route, datagram: &[u8]) {
        self.schedule(
            self.now,
            Event::ToGateway {
                from: from.clone(),
                datagram: datagram.to_vec(),
            },
        );
    }

    /// An address that is no client's.
    pub fn stranger(&self, number: u16) -> Route {
        route_to(SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), number)))
    }

    /// How a client's datagrams travel from now on.
    pub fn set_paths(&mut self, ix: ClientIx, up: PathConfig, down: PathConfig) {
        self.clients[ix.0].up.config = up;
        self.clients[ix.0].down.config = down;
    }

    /// As [`World::set_paths`], for all clients.
    pub fn set_all_paths(&mut self, up: PathConfig, down: PathConfig) {
        for ix in 0..self.clients.len() {
            self.set_paths(ClientIx(ix), up, down);
        }
        for forwarder in 0..self.forwarders.len() {
            self.set_forwarder_paths(ForwarderIx(forwarder), up, down);
        }
    }

    pub(super) fn new_route(&mut self) -> Route {
        self.counter += 1;
        route_to(SocketAddr::from((
            Ipv4Addr::new(10, 0, 0, 1),
            1024 + self.counter as u16,
        )))
    }

    pub(super) fn new_payload(&mut self, who: &str, octets: usize) -> Bytes {
        self.counter += 1;
        let mut payload = format!("{who}/{}", self.counter).into_bytes();
        while payload.len() < octets {
            payload.push(b'a' + self.rng.random_range(0..26u8));
        }
        payload.into()
    }

    fn predefined_name(&self, ix: ClientIx, id: TopicId) -> String {
        self.client(ix)
            .config
            .predefined
            .get(&id)
            .cloned()
            .unwrap_or_default()
    }
}
