//! QoS 2 messages of the gateway in one life and the next.

use std::collections::BTreeMap;

use gateway_core::io::{BrokerEvent, BrokerRequest, StoreChange, StoreKey, StoredUplink, Token};

use super::gateway::{Attached, publish, settled};
use super::*;
use crate::embedded::exact::ORDINARY_IDS;
use crate::embedded::kept::PATIENCE;

/// A gateway's life after life, with its store. Messages stand under their numbers, which are their tokens too.
struct Lives {
    gateway: Attached,
    store: BTreeMap<StoreKey, Bytes>,
    /// The last number of the lives before.
    until: u64,
}

fn key(number: u64) -> StoreKey {
    StoreKey { kind: 2, id: number }
}

/// The packet id of the message with this number.
fn id_of(number: u64) -> u16 {
    0x8000 + (number % 0x8000) as u16
}

fn pubrel(packet_id: u16) -> Reply {
    Reply::PubRel {
        packet_id,
        reason: reason::SUCCESS,
    }
}

impl Lives {
    fn begin() -> Self {
        Lives::of(BTreeMap::new(), 0)
    }

    fn of(store: BTreeMap<StoreKey, Bytes>, until: u64) -> Self {
        let mut gateway = Attached::after(until);
        let sessions = store
            .iter()
            .filter(|(key, _)| key.kind == StoreKey::BROKER_SESSION);
        let sessions = sessions.map(|(key, value)| (*key, value.clone())).collect();
        let now = gateway.broker.now;
        gateway.broker.router.keep_sessions(now, sessions);
        Lives {
            gateway,
            store,
            until,
        }
    }

    /// Killed: what was not written is gone. The gateway publishes again what it still has.
    fn next(self) -> Self {
        let last = self
            .store
            .keys()
            .filter(|key| key.kind == 2)
            .map(|key| key.id)
            .max();
        let mut lives = Lives::of(self.store, last.unwrap_or(self.until));
        let numbers: Vec<u64> = lives
            .store
            .keys()
            .filter(|key| key.kind == 2)
            .map(|key| key.id)
            .collect();
        for number in numbers {
            lives.submit(number);
        }
        lives.news();
        lives
    }

    /// A subscriber whose session is kept.
    fn subscriber(&mut self, id: &str, filter: &str) -> ClientKey {
        let client = self.gateway.broker.connect(resume(id, 100));
        let filters = vec![subscription(filter, ExactlyOnce)];
        self.gateway.broker.subscribe_with(client, None, filters);
        self.write();
        self.gateway.broker.take(client);
        client
    }

    /// It comes back; what it hears after CONNACK.
    fn back(&mut self, id: &str) -> (ClientKey, Vec<Reply>) {
        let client = self.gateway.broker.connect(resume(id, 100));
        let mut replies = self.gateway.broker.take(client);
        assert_eq!(replies.remove(0), connack(true).remove(0));
        (client, replies)
    }

    fn publish(&mut self, number: u64) {
        self.store.insert(key(number), Bytes::from_static(&[1, 0, 0, 0]));
        self.submit(number);
    }

    fn submit(&mut self, number: u64) {
        let mut request = publish(number, "t", ExactlyOnce);
        if let BrokerRequest::Publish { stored, .. } = &mut request {
            let value = self.store[&key(number)].clone();
            *stored = Some(StoredUplink {
                key: key(number),
                value,
            });
        }
        self.gateway.request(vec![request]);
    }

    fn say(&mut self, client: ClientKey, packet: Received) -> Vec<Reply> {
        self.gateway.say(client, packet);
        self.gateway.broker.take(client)
    }

    fn news(&mut self) -> Vec<BrokerEvent> {
        let news = self.gateway.news();
        for event in &news {
            if let BrokerEvent::Delivered { token } = event {
                self.store.remove(&key(token.0));
            }
        }
        news
    }

    /// Everything there is to write becomes durable. Returns the number of changes.
    fn write(&mut self) -> usize {
        let mut count = 0;
        while let Some((number, changes)) = self.gateway.broker.router.poll_changes() {
            for change in changes {
                count += 1;
                match change {
                    StoreChange::Put(key, value) => self.store.insert(key, value),
                    StoreChange::Delete(key) => self.store.remove(&key),
                };
            }
            self.gateway.broker.router.on_durable(number);
            self.gateway.drain();
        }
        count
    }

    fn delivered(&mut self, client: ClientKey, number: u64, dup: bool) {
        let replies = self.gateway.broker.take(client);
        expect_publish(&replies, number, dup);
    }
}

#[track_caller]
fn expect_publish(replies: &[Reply], number: u64, dup: bool) {
    let [Reply::Publish(delivery)] = replies else {
        panic!("{replies:?}");
    };
    assert_eq!(
        (delivery.packet_id, delivery.dup, payload(delivery)),
        (id_of(number), dup, number.to_string())
    );
}

#[test]
fn what_was_sent_before_a_kill_is_sent_again_under_its_packet_id() {
    let mut lives = Lives::begin();
    let client = lives.subscriber("a", "t");
    lives.publish(7);
    lives.delivered(client, 7, false);
    // PUBREC came, and nothing of that was written.
    assert_eq!(lives.say(client, pubrec(id_of(7))), []);

    let mut lives = lives.next();
    let (client, replies) = lives.back("a");
    expect_publish(&replies, 7, true);
    drop(replies);
    assert_eq!(lives.say(client, pubrec(id_of(7))), []);
    assert_eq!(lives.write(), 1);
    assert_eq!(lives.gateway.broker.take(client), [pubrel(id_of(7))]);
    assert_eq!(lives.news(), [], "not before PUBCOMP");
    let packet_id = id_of(7);
    lives.say(client, Received::PubComp { packet_id });
    assert_eq!(lives.news(), [BrokerEvent::Delivered { token: Token(7) }]);
    assert_eq!(lives.gateway.broker.router.held("a"), 0);
    assert_eq!(lives.store.len(), 1, "the session");
}

#[test]
fn who_has_taken_a_message_is_not_sent_it_again_and_others_are() {
    let mut lives = Lives::begin();
    let has = lives.subscriber("has", "t");
    let left = lives.subscriber("left", "t");
    let lacks = lives.subscriber("lacks", "t");
    lives.publish(1);
    let packet_id = id_of(1);
    for client in [has, left] {
        lives.delivered(client, 1, false);
        assert_eq!(lives.say(client, pubrec(packet_id)), []);
    }
    assert_eq!(lives.write(), 1, "one value for both");
    assert_eq!(lives.gateway.broker.take(has), [pubrel(packet_id)]);
    // What one had taken is over for it, although the subscription is gone.
    lives.say(
        left,
        Received::Unsubscribe {
            packet_id: 1,
            filters: vec!["t".into()],
        },
    );
    lives.delivered(lacks, 1, false);
    lives.write();

    for _ in 0..2 {
        lives = lives.next();
        for id in ["has", "left"] {
            let (client, replies) = lives.back(id);
            assert_eq!(replies, [pubrel(packet_id)]);
            // Again on each connection, until PUBCOMP.
            lives.gateway.broker.close(client);
            assert_eq!(lives.back(id).1, [pubrel(packet_id)]);
        }
        let (_, replies) = lives.back("lacks");
        expect_publish(&replies, 1, true);
        assert_eq!(lives.write(), 0);
    }
    for id in ["has", "left"] {
        let (client, _) = lives.back(id);
        assert_eq!(lives.say(client, Received::PubComp { packet_id }), []);
    }
    let (client, _) = lives.back("lacks");
    lives.say(client, pubrec(packet_id));
    lives.write();
    assert_eq!(lives.news(), []);
    lives.say(client, Received::PubComp { packet_id });
    assert_eq!(lives.news(), [BrokerEvent::Delivered { token: Token(1) }]);
}

#[test]
fn note_of_an_earlier_session_says_nothing_about_the_next() {
    let mut lives = Lives::begin();
    let other = lives.subscriber("other", "t");
    let client = lives.subscriber("a", "t");
    lives.publish(1);
    lives.delivered(client, 1, false);
    lives.delivered(other, 1, false);
    lives.say(client, pubrec(id_of(1)));
    lives.write();
    // It begins anew and is gone from the store: a later session may have its number.
    lives.gateway.broker.client("a");
    lives.write();
    let mut lives = lives.next();
    let client = lives.subscriber("a", "t");
    lives.publish(2);
    lives.delivered(client, 2, false);
}

#[test]
fn pubrel_waits_for_a_disk_that_fails_only_so_long() {
    let mut lives = Lives::begin();
    let client = lives.subscriber("a", "t");
    lives.publish(1);
    lives.delivered(client, 1, false);
    assert_eq!(lives.say(client, pubrec(id_of(1))), []);
    assert_eq!(lives.say(client, pubrec(id_of(1))), [], "again");
    let (first, changes) = lives.gateway.broker.router.poll_changes().unwrap();
    assert_eq!(changes.len(), 1);
    lives.gateway.broker.wait(PATIENCE);
    assert_eq!(lives.gateway.broker.take(client), [pubrel(id_of(1))]);
    lives.gateway.broker.router.on_durable(first);
    lives.gateway.drain();
    assert_eq!(lives.gateway.broker.take(client), []);
    let packet_id = id_of(1);
    assert_eq!(
        lives.say(client, Received::PubComp { packet_id: 99 }),
        [],
        "of nothing"
    );
    lives.say(client, Received::PubComp { packet_id });
    assert_eq!(
        lives.news().pop(),
        Some(BrokerEvent::Delivered { token: Token(1) })
    );
}

#[test]
fn pubcomp_before_pubrel_breaks_the_protocol() {
    let mut lives = Lives::begin();
    let client = lives.subscriber("a", "t");
    lives.publish(1);
    lives.say(client, pubrec(id_of(1)));
    let packet_id = id_of(1);
    let replies = lives.say(client, Received::PubComp { packet_id });
    assert_eq!(replies, disconnected(reason::PROTOCOL_ERROR));
}

#[test]
fn message_is_held_until_it_is_written_who_has_it() {
    let mut lives = Lives::begin();
    let client = lives.subscriber("a", "t");
    lives.publish(1);
    lives.say(client, pubrec(id_of(1)));
    lives.gateway.broker.client("a");
    assert_eq!(
        lives.news(),
        [settled(1, Ok(None))],
        "else it would be written after it was deleted"
    );
    lives.write();
    assert_eq!(lives.news(), [BrokerEvent::Delivered { token: Token(1) }]);
}

/// MQTT-4.6.0-4, MQTT-4.6.0-6
#[test]
fn pubrel_keeps_the_order_of_pubrec() {
    let mut lives = Lives::begin();
    let client = lives.subscriber("a", "t");
    let publisher = lives.gateway.broker.client("p");
    lives.publish(1);
    lives
        .gateway
        .publish(publisher, 1, message("t", ExactlyOnce, "other"));
    let deliveries = lives.gateway.broker.deliveries(client);
    let other = deliveries[1].packet_id;
    assert!(ORDINARY_IDS.contains(&other));
    assert_eq!(lives.say(client, pubrec(id_of(1))), []);
    assert_eq!(lives.say(client, pubrec(other)), []);
    assert_eq!(lives.write(), 1);
    assert_eq!(
        lives.gateway.broker.take(client),
        [pubrel(id_of(1)), pubrel(other)]
    );
    // Nothing to wait for now.
    lives
        .gateway
        .publish(publisher, 2, message("t", ExactlyOnce, "next"));
    let next = lives.gateway.broker.deliveries(client)[0].packet_id;
    assert_eq!(lives.say(client, pubrec(next)), [pubrel(next)]);
}

#[test]
fn packet_id_in_use_is_waited_for() {
    let mut lives = Lives::begin();
    let client = lives.subscriber("a", "t");
    let next = 1 + 0x8000;
    lives.publish(1);
    lives.delivered(client, 1, false);
    lives.publish(next);
    lives.publish(next + 1);
    assert_eq!(lives.gateway.broker.take(client), []);
    lives.say(client, pubrec(id_of(1)));
    lives.write();
    let packet_id = id_of(1);
    let replies = lives.say(client, Received::PubComp { packet_id });
    expect_publish(&replies[1..2], next, false);
    expect_publish(&replies[2..], next + 1, false);
}

#[test]
fn packet_ids_are_cleared_where_a_client_may_hold_what_the_store_has_no_more() {
    let mut lives = Lives::begin();
    let client = lives.subscriber("a", "t");
    lives.publish(5);
    lives.say(client, pubrec(id_of(5)));
    // An operator drops it.
    lives.store.remove(&key(5));
    lives.until = 5;
    let mut lives = lives.next();
    let (client, _) = lives.back("a");
    for (number, cleared) in [(6, true), (5 + 0x8000, true), (6 + 0x8000, false)] {
        lives.publish(number);
        let packet_id = id_of(number);
        if cleared {
            assert_eq!(lives.gateway.broker.take(client), [pubrel(packet_id)]);
            let replies = lives.say(client, Received::PubComp { packet_id });
            expect_publish(&replies, number, false);
        } else {
            lives.delivered(client, number, false);
        }
        lives.say(client, pubrec(packet_id));
        lives.write();
        lives.say(client, Received::PubComp { packet_id });
    }
    // One that begins in this life holds nothing.
    let client = lives.subscriber("b", "t");
    lives.publish(7);
    lives.delivered(client, 7, false);
}

#[test]
fn sessions_that_end_with_their_connection_and_shared_subscriptions_cost_no_write() {
    let mut lives = Lives::begin();
    let clean = lives.gateway.broker.subscriber("clean", &[("t", ExactlyOnce)]);
    let member = lives.subscriber("member", "$share/g/t");
    lives.publish(1);
    for client in [clean, member] {
        let packet_id = lives.gateway.broker.deliveries(client)[0].packet_id;
        assert!(ORDINARY_IDS.contains(&packet_id));
        assert_eq!(lives.say(client, pubrec(packet_id)), [pubrel(packet_id)]);
    }
    assert_eq!(lives.write(), 0);
}
