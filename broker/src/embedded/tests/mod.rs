//! What a client of the router sees, in virtual time. Names cite the statements of MQTT 5 where one says it.

mod awaiting;
mod exact;
mod flow;
mod gateway;
mod model;
mod open;
mod publishing;
mod retaining;
mod sessions;
mod sharing;
mod storing;
mod subscribing;
mod surviving;
mod sys;
mod wills;

use core::time::Duration;
use std::collections::HashMap;

use bytes::Bytes;
use gateway_core::time::Instant;
use sn_codec::QoS;
use sn_codec::QoS::{AtLeastOnce, AtMostOnce, ExactlyOnce};

use super::packet::{
    ClientKey, Connect, Delivery, Message, Received, Reply, RetainHandling, Subscription, Will, reason,
};
use super::router::{Router, RouterLimits};

const LIMITS: RouterLimits = RouterLimits {
    queue_messages: 10,
    queue_bytes: 10_000,
    retained_max: 100,
    subscriptions_max: 5,
    sessions_max: 20,
};

/// A router and what it said.
struct Broker {
    router: Router,
    now: Instant,
    heard: HashMap<ClientKey, Vec<Reply>>,
}

impl Broker {
    fn new() -> Self {
        Broker::with(LIMITS)
    }

    fn with(limits: RouterLimits) -> Self {
        Broker {
            router: Router::new(limits, 7),
            now: Instant::from_micros(1_000_000),
            heard: HashMap::new(),
        }
    }

    /// Connects with credit for all that will come.
    fn connect(&mut self, connect: Connect) -> ClientKey {
        let client = self.connect_without_credit(connect);
        self.credit(client, 10_000);
        client
    }

    /// Connects; its CONNACK is still to be heard.
    fn connect_without_credit(&mut self, connect: Connect) -> ClientKey {
        let client = self.router.connect(self.now, connect);
        self.drain();
        client
    }

    /// A client with a session that lasts as long as its connection, and its CONNACK taken.
    fn client(&mut self, id: &str) -> ClientKey {
        let client = self.connect(connect(id));
        self.take(client);
        client
    }

    /// One that subscribed to these filters.
    fn subscriber(&mut self, id: &str, filters: &[(&str, QoS)]) -> ClientKey {
        let client = self.client(id);
        self.subscribe(client, filters);
        client
    }

    fn subscribe(&mut self, client: ClientKey, filters: &[(&str, QoS)]) {
        let filters = filters
            .iter()
            .map(|(filter, qos)| subscription(filter, *qos))
            .collect();
        let mut replies = self.subscribe_with(client, None, filters);
        let heard = replies.len();
        replies.retain(|reply| !matches!(reply, Reply::SubAck { .. }));
        assert_eq!(replies.len() + 1, heard, "{replies:?}");
        self.heard.insert(client, replies);
    }

    fn subscribe_with(
        &mut self,
        client: ClientKey,
        id: Option<u32>,
        filters: Vec<Subscription>,
    ) -> Vec<Reply> {
        self.say(
            client,
            Received::Subscribe {
                packet_id: 999,
                id,
                filters,
            },
        );
        self.take(client)
    }

    fn say(&mut self, client: ClientKey, packet: Received) {
        self.router.received(self.now, client, packet);
        self.drain();
    }

    fn publish(&mut self, client: ClientKey, packet_id: u16, message: Message) {
        self.say(
            client,
            Received::Publish {
                packet_id,
                dup: false,
                message,
            },
        );
    }

    /// Publishes and takes the answer.
    fn publish_answered(&mut self, client: ClientKey, packet_id: u16, message: Message) -> Vec<Reply> {
        self.publish(client, packet_id, message);
        self.take(client)
    }

    fn credit(&mut self, client: ClientKey, packets: u32) {
        self.router.credit(self.now, client, packets);
        self.drain();
    }

    fn close(&mut self, client: ClientKey) {
        self.router.closed(self.now, client);
        self.drain();
    }

    fn disconnect(&mut self, client: ClientKey) {
        self.say(
            client,
            Received::Disconnect {
                with_will: false,
                session_expiry: None,
            },
        );
    }

    /// Lets time pass, with all timers in between.
    fn wait(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(due) = self.router.poll_timeout()
            && due <= end
        {
            self.now = self.now.max(due);
            self.router.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
    }

    fn wait_secs(&mut self, seconds: u64) {
        self.wait(Duration::from_secs(seconds));
    }

    fn drain(&mut self) {
        while let Some((client, reply)) = self.router.poll_output() {
            self.heard.entry(client).or_default().push(reply);
        }
    }

    /// What a client heard since the last time.
    fn take(&mut self, client: ClientKey) -> Vec<Reply> {
        self.heard.remove(&client).unwrap_or_default()
    }

    /// The messages among it.
    fn deliveries(&mut self, client: ClientKey) -> Vec<Delivery> {
        self.take(client).into_iter().filter_map(delivery).collect()
    }

    /// Topics of these.
    fn topics(&mut self, client: ClientKey) -> Vec<String> {
        self.deliveries(client)
            .iter()
            .map(|delivery| delivery.message.topic.to_string())
            .collect()
    }

    /// Payloads of these.
    fn payloads(&mut self, client: ClientKey) -> Vec<String> {
        self.deliveries(client).iter().map(payload).collect()
    }

    /// Acknowledges what a client got until nothing comes any more; returns payloads.
    fn take_and_acknowledge(&mut self, client: ClientKey) -> Vec<String> {
        let mut payloads = Vec::new();
        loop {
            let replies = self.take(client);
            if replies.is_empty() {
                return payloads;
            }
            for reply in replies {
                match reply {
                    Reply::Publish(delivery) => {
                        payloads.push(payload(&delivery));
                        match delivery.qos {
                            AtMostOnce => {}
                            AtLeastOnce => self.say(client, puback(delivery.packet_id)),
                            ExactlyOnce => self.say(client, pubrec(delivery.packet_id)),
                        }
                    }
                    Reply::PubRel { packet_id, .. } => self.say(client, Received::PubComp { packet_id }),
                    _ => {}
                }
            }
        }
    }
}

fn delivery(reply: Reply) -> Option<Delivery> {
    match reply {
        Reply::Publish(delivery) => Some(delivery),
        _ => None,
    }
}

fn payload(delivery: &Delivery) -> String {
    String::from_utf8(delivery.message.payload.to_vec()).unwrap()
}

/// Session and connection end together.
fn connect(id: &str) -> Connect {
    Connect {
        client_id: id.into(),
        clean_start: true,
        session_expiry: 0,
        receive_maximum: 65_535,
        will: None,
    }
}

/// The session outlives the connection by that many seconds, and an earlier one is resumed.
fn resume(id: &str, session_expiry: u32) -> Connect {
    Connect {
        clean_start: false,
        session_expiry,
        ..connect(id)
    }
}

fn message(topic: &str, qos: QoS, payload: &str) -> Message {
    Message {
        topic: topic.into(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        qos,
        retain: false,
        expiry: None,
        properties: None,
        receipt: None,
    }
}

fn retained(topic: &str, qos: QoS, payload: &str) -> Message {
    Message {
        retain: true,
        ..message(topic, qos, payload)
    }
}

fn will(topic: &str, delay: u32) -> Option<Will> {
    Some(Will {
        message: message(topic, AtLeastOnce, "gone"),
        delay,
    })
}

fn subscription(filter: &str, qos: QoS) -> Subscription {
    Subscription {
        filter: filter.into(),
        qos,
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::Send,
    }
}

fn puback(packet_id: u16) -> Received {
    Received::PubAck { packet_id }
}

fn pubrec(packet_id: u16) -> Received {
    Received::PubRec {
        packet_id,
        refused: false,
    }
}

fn acknowledged(packet_id: u16) -> Vec<Reply> {
    vec![Reply::PubAck {
        packet_id,
        reason: reason::SUCCESS,
    }]
}

fn disconnected(reason: u8) -> Vec<Reply> {
    vec![Reply::Disconnect { reason }]
}

fn connack(session_present: bool) -> Vec<Reply> {
    vec![Reply::ConnAck {
        session_present,
        reason: reason::SUCCESS,
        assigned_client_id: None,
    }]
}

fn refused(reason: u8) -> Vec<Reply> {
    vec![Reply::ConnAck {
        session_present: false,
        reason,
        assigned_client_id: None,
    }]
}
