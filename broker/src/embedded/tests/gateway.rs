//! The gateway as a client of the router: requests and events as the seam has them.

use gateway_core::io::{
    BrokerEvent, BrokerRequest, ConnId, ConnectOptions, DeliveryId, FilterId, Refusal, Token,
};

use super::*;
use crate::embedded::local::Local;
use crate::port::CREDIT;

pub(super) const CONN: ConnId = ConnId(0);

/// A router with the gateway attached.
pub(super) struct Attached {
    pub(super) broker: Broker,
    local: Local,
}

impl Attached {
    fn new() -> Self {
        Attached::with(false)
    }

    fn with(stores: bool) -> Self {
        Attached {
            broker: Broker::new(),
            local: Local::new(stores),
        }
    }

    /// With one connection open, and a store of the gateway.
    pub(super) fn storing() -> Self {
        Attached::after(0)
    }

    /// After a life that stored messages up to this number.
    pub(super) fn after(until: u64) -> Self {
        let mut gateway = Attached::with(true);
        let mut request = open(CONN, "snipe");
        if let BrokerRequest::Open { options, .. } = &mut request {
            options.stored_until = until;
        }
        gateway.request(vec![request]);
        let up = BrokerEvent::Up {
            conn: CONN,
            session_present: false,
            window: 1024,
            forgets: true,
        };
        assert_eq!(gateway.news(), [up]);
        gateway
    }

    /// With one connection open.
    fn open() -> Self {
        let mut gateway = Attached::new();
        gateway.request(vec![open(CONN, "snipe")]);
        gateway.events();
        gateway
    }

    pub(super) fn request(&mut self, requests: Vec<BrokerRequest>) {
        self.local
            .requests(self.broker.now, &mut self.broker.router, requests);
        self.drain();
    }

    pub(super) fn drain(&mut self) {
        let Broker { router, now, heard } = &mut self.broker;
        while let Some((client, reply)) = router.poll_output() {
            if let Some(reply) = self.local.take(*now, router, client, reply) {
                heard.entry(client).or_default().push(reply);
            }
        }
    }

    /// What an MQTT client says. [`Broker::say`] does not know of the gateway.
    pub(super) fn say(&mut self, client: ClientKey, packet: Received) {
        self.broker.router.received(self.broker.now, client, packet);
        self.drain();
    }

    pub(super) fn publish(&mut self, client: ClientKey, packet_id: u16, message: Message) {
        self.say(
            client,
            Received::Publish {
                packet_id,
                dup: false,
                message,
            },
        );
    }

    pub(super) fn wait_secs(&mut self, seconds: u64) {
        self.broker.now = self.broker.now + Duration::from_secs(seconds);
        self.broker.router.handle_timeout(self.broker.now);
        self.drain();
    }

    /// One batch.
    fn poll(&mut self) -> Option<Vec<BrokerEvent>> {
        let events = self.local.poll_events(self.broker.now, &mut self.broker.router);
        self.drain();
        events
    }

    /// All batches there are.
    fn events(&mut self) -> Vec<BrokerEvent> {
        let mut all = Vec::new();
        while let Some(events) = self.poll() {
            all.extend(events);
        }
        all
    }

    /// All but credit.
    pub(super) fn news(&mut self) -> Vec<BrokerEvent> {
        let mut events = self.events();
        events.retain(|event| !matches!(event, BrokerEvent::Credit { .. }));
        events
    }

    /// As the task does it.
    pub(super) fn stop(&mut self) {
        self.local.close(self.broker.now, &mut self.broker.router);
        self.broker.router.shutdown();
        self.drain();
    }

    pub(super) fn messages(&mut self) -> Vec<(Option<DeliveryId>, String)> {
        self.events().into_iter().filter_map(delivered).collect()
    }
}

fn delivered(event: BrokerEvent) -> Option<(Option<DeliveryId>, String)> {
    match event {
        BrokerEvent::Message {
            delivery, payload, ..
        } => Some((delivery, String::from_utf8(payload.to_vec()).unwrap())),
        _ => None,
    }
}

pub(super) fn open(conn: ConnId, client_id: &str) -> BrokerRequest {
    BrokerRequest::Open {
        conn,
        options: ConnectOptions {
            client_id: client_id.into(),
            clean_start: true,
            will: None,
            ..ConnectOptions::default()
        },
    }
}

pub(super) fn publish(token: u64, topic: &str, qos: QoS) -> BrokerRequest {
    BrokerRequest::Publish {
        conn: CONN,
        token: (qos > AtMostOnce).then_some(Token(token)),
        topic: topic.into(),
        qos,
        retain: false,
        payload: Bytes::from(token.to_string()),
        stored: None,
    }
}

pub(super) fn subscribe(token: u64, filter: &str, id: u32, qos: QoS) -> BrokerRequest {
    BrokerRequest::Subscribe {
        conn: CONN,
        token: Token(token),
        filter: filter.into(),
        id: FilterId(id),
        qos,
    }
}

fn unsubscribe(token: u64, filter: &str) -> BrokerRequest {
    BrokerRequest::Unsubscribe {
        conn: CONN,
        token: Token(token),
        filter: filter.into(),
    }
}

pub(super) fn ack(delivery: DeliveryId) -> BrokerRequest {
    BrokerRequest::Ack { conn: CONN, delivery }
}

pub(super) fn settled(token: u64, result: Result<Option<QoS>, u8>) -> BrokerEvent {
    BrokerEvent::Settled {
        token: Token(token),
        result: result.map_err(Refusal),
    }
}

#[test]
fn open_brings_up_and_credit() {
    let mut gateway = Attached::new();
    gateway.request(vec![open(CONN, "snipe")]);
    assert_eq!(
        gateway.events(),
        [
            BrokerEvent::Up {
                conn: CONN,
                session_present: false,
                window: 1024,
                forgets: false
            },
            BrokerEvent::Credit {
                conn: CONN,
                requests: CREDIT
            }
        ]
    );
    gateway.request(vec![open(CONN, "snipe")]);
    assert_eq!(gateway.events(), [], "open already");
}

#[test]
fn publish_reaches_subscribers_and_settles() {
    let mut gateway = Attached::open();
    let subscriber = gateway.broker.subscriber("s", &[("t", ExactlyOnce)]);
    gateway.request(vec![
        publish(0, "t", AtMostOnce),
        publish(1, "t", AtLeastOnce),
        publish(2, "t", ExactlyOnce),
        publish(3, "nobody", AtLeastOnce),
    ]);
    let deliveries = gateway.broker.deliveries(subscriber);
    assert_eq!(
        deliveries.iter().map(|delivery| delivery.qos).collect::<Vec<_>>(),
        [AtMostOnce, AtLeastOnce, ExactlyOnce]
    );
    let mut events = gateway.events();
    let credit = BrokerEvent::Credit {
        conn: CONN,
        requests: 4,
    };
    assert_eq!(events.pop(), Some(credit));
    events.sort_by_key(|event| match event {
        BrokerEvent::Settled { token, .. } => token.0,
        other => panic!("{other:?}"),
    });
    assert_eq!(
        events,
        [settled(1, Ok(None)), settled(2, Ok(None)), settled(3, Ok(None))]
    );
}

#[test]
fn what_mqtt_cannot_carry_is_refused_as_a_broker_would() {
    let mut gateway = Attached::open();
    gateway.request(vec![
        publish(1, "a/+", AtLeastOnce),
        publish(2, "", ExactlyOnce),
        publish(0, "a/#", AtMostOnce),
        publish(3, "$SYS/x", AtLeastOnce),
        publish(4, "$SYS/x", ExactlyOnce),
        subscribe(5, "a/#/b", 1, AtLeastOnce),
        subscribe(6, "$share/g", 1, AtLeastOnce),
        unsubscribe(7, "a\0"),
    ]);
    let mut news = gateway.news();
    news.sort_by_key(|event| match event {
        BrokerEvent::Settled { token, .. } => token.0,
        other => panic!("{other:?}"),
    });
    assert_eq!(
        news,
        [
            settled(1, Err(0x90)),
            settled(2, Err(0x90)),
            settled(3, Err(0x87)),
            settled(4, Err(0x87)),
            settled(5, Err(0x8F)),
            settled(6, Err(0x8F)),
            settled(7, Err(0x8F)),
        ]
    );
}

#[test]
fn each_subscribe_brings_retained_messages_with_its_filter() {
    let mut gateway = Attached::open();
    let publisher = gateway.broker.client("p");
    gateway.publish(publisher, 1, retained("a/b", AtLeastOnce, "kept"));
    gateway.request(vec![subscribe(1, "a/#", 7, ExactlyOnce)]);
    let first = gateway.news();
    assert_eq!(first[0], settled(1, Ok(Some(ExactlyOnce))));
    let BrokerEvent::Message {
        delivery: Some(delivery),
        filters,
        topic,
        qos,
        retain,
        payload,
        ..
    } = &first[1]
    else {
        panic!("{first:?}");
    };
    assert_eq!((&**filters, &**topic), (&[FilterId(7)][..], "a/b"));
    assert_eq!((*qos, *retain, &payload[..]), (AtLeastOnce, true, &b"kept"[..]));
    gateway.request(vec![ack(*delivery), subscribe(2, "a/#", 7, ExactlyOnce)]);
    assert_eq!(gateway.messages().len(), 1);

    gateway.publish(publisher, 2, retained("a/b", AtLeastOnce, "live"));
    let news = gateway.news();
    assert!(
        matches!(&news[..], [BrokerEvent::Message { retain: false, .. }]),
        "{news:?}"
    );
    gateway.request(vec![unsubscribe(3, "a/#"), unsubscribe(4, "a/#")]);
    assert_eq!(gateway.news(), [settled(3, Ok(None)), settled(4, Ok(None))]);
}

#[test]
fn overlapping_filters_bring_one_message_with_both() {
    let mut gateway = Attached::open();
    gateway.request(vec![
        subscribe(1, "a/#", 7, AtMostOnce),
        subscribe(2, "a/b", 8, AtLeastOnce),
        publish(3, "a/b", AtLeastOnce),
    ]);
    let messages: Vec<_> = gateway
        .events()
        .into_iter()
        .filter_map(|event| match event {
            BrokerEvent::Message { filters, qos, .. } => Some((filters, qos)),
            _ => None,
        })
        .collect();
    let [(filters, qos)] = &messages[..] else {
        panic!("{messages:?}");
    };
    let mut filters = filters.to_vec();
    filters.sort_unstable();
    assert_eq!(
        (&filters[..], *qos),
        (&[FilterId(7), FilterId(8)][..], AtLeastOnce)
    );
}

#[test]
fn acknowledged_delivery_makes_place_for_the_next() {
    for qos in [AtLeastOnce, ExactlyOnce] {
        let mut gateway = Attached::open();
        gateway.request(vec![subscribe(1, "t", 7, qos)]);
        let publisher = gateway.broker.client("p");
        let mut seen = Vec::new();
        for round in 0..3_000_u16 {
            gateway.publish(
                publisher,
                round % 100 + 1,
                message("t", AtLeastOnce, &round.to_string()),
            );
            let messages = gateway.messages();
            gateway.request(
                messages
                    .iter()
                    .filter_map(|(delivery, _)| delivery.map(ack))
                    .collect(),
            );
            seen.extend(messages.into_iter().map(|(_, payload)| payload));
        }
        let all: Vec<_> = (0..3_000).map(|round| round.to_string()).collect();
        assert_eq!(seen, all);
    }
}

#[test]
fn gateway_that_does_not_take_events_gets_no_more_messages_than_its_credit() {
    let mut gateway = Attached::open();
    gateway.request(vec![subscribe(1, "t", 7, AtMostOnce)]);
    gateway.events();
    let publisher = gateway.broker.client("p");
    for _ in 0..3 * CREDIT {
        gateway.publish(publisher, 0, message("t", AtMostOnce, ""));
    }
    let first = gateway.poll().unwrap();
    assert_eq!(first.len(), CREDIT as usize);
    // Its queue is ten times that of others.
    assert_eq!(gateway.messages().len(), 10 * LIMITS.queue_messages);
}

#[test]
fn gateway_that_publishes_to_itself_never_waits_for_itself() {
    let mut gateway = Attached::open();
    gateway.request(vec![subscribe(1_000_000, "t", 7, AtLeastOnce)]);
    gateway.events();
    let mut to_acknowledge = Vec::new();
    let (mut settled, mut next) = (0, 0);
    let bound = 10 * LIMITS.queue_messages as u64;
    // Publishes as its window allows, and acknowledges only when nothing else goes on.
    for _ in 0..20 {
        while next - settled < 64 {
            gateway.request(vec![publish(next, "t", AtLeastOnce)]);
            next += 1;
            for event in gateway.events() {
                match event {
                    BrokerEvent::Settled { result, .. } => {
                        assert_eq!(result, Ok(None));
                        settled += 1;
                    }
                    other => to_acknowledge.extend(delivered(other).and_then(|(delivery, _)| delivery)),
                }
            }
            assert!(next <= settled + 64 && settled <= next);
            if to_acknowledge.len() as u64 > bound {
                break;
            }
        }
        for delivery in core::mem::take(&mut to_acknowledge) {
            gateway.request(vec![ack(delivery)]);
        }
        for event in gateway.events() {
            match event {
                BrokerEvent::Settled { .. } => settled += 1,
                other => to_acknowledge.extend(delivered(other).and_then(|(delivery, _)| delivery)),
            }
        }
    }
    assert_eq!(settled, next);
    assert!(next > 5 * bound);
}

#[test]
fn token_of_a_withheld_publish_settles_when_the_slow_one_has_taken_it() {
    let mut gateway = Attached::open();
    let slow = gateway.broker.connect_without_credit(connect("slow"));
    gateway.broker.subscribe(slow, &[("t", AtLeastOnce)]);
    let count = LIMITS.queue_messages as u64 + 1;
    gateway.request((0..count).map(|token| publish(token, "t", AtLeastOnce)).collect());
    assert_eq!(gateway.news().len(), LIMITS.queue_messages);
    gateway.broker.router.credit(gateway.broker.now, slow, 1);
    gateway.drain();
    let packet_id = gateway.broker.deliveries(slow)[0].packet_id;
    gateway.say(slow, puback(packet_id));
    assert_eq!(gateway.news(), [settled(count - 1, Ok(None))]);
}

#[test]
fn publish_beyond_twice_the_bound_is_refused_with_the_reason_that_means_later() {
    let mut gateway = Attached::open();
    let slow = gateway.broker.connect_without_credit(connect("slow"));
    gateway.broker.subscribe(slow, &[("t", AtLeastOnce)]);
    let count = 2 * LIMITS.queue_messages as u64;
    gateway.request((0..count).map(|token| publish(token, "t", AtLeastOnce)).collect());
    gateway.events();
    gateway.request(vec![publish(count, "t", ExactlyOnce)]);
    let quota = BrokerEvent::Settled {
        token: Token(count),
        result: Err(Refusal::QUOTA_EXCEEDED),
    };
    assert_eq!(gateway.news(), [quota]);
}

#[test]
fn close_loses_what_is_unsettled_and_ends_the_session() {
    let mut gateway = Attached::open();
    let slow = gateway.broker.connect_without_credit(connect("slow"));
    gateway.broker.subscribe(slow, &[("t", AtLeastOnce)]);
    let count = LIMITS.queue_messages as u64 + 1;
    let mut requests: Vec<_> = (0..count).map(|token| publish(token, "t", AtLeastOnce)).collect();
    requests.push(BrokerRequest::Close { conn: CONN });
    gateway.request(requests);
    let mut news = gateway.news();
    let lost = BrokerEvent::Lost {
        token: Token(count - 1),
    };
    assert_eq!(news.pop(), Some(lost));
    assert_eq!(news.len(), LIMITS.queue_messages);
    assert_eq!(gateway.broker.router.stats().sessions, 1);
    gateway.request(vec![publish(77, "t", AtLeastOnce)]);
    assert_eq!(gateway.events(), [], "not open");
}

#[test]
fn will_is_published_only_when_the_router_ends_the_connection() {
    let with_will = |conn, topic: &str| BrokerRequest::Open {
        conn,
        options: ConnectOptions {
            client_id: "snipe".into(),
            clean_start: true,
            will: Some(gateway_core::io::Will {
                topic: topic.into(),
                payload: Bytes::from_static(b"gone"),
                qos: AtLeastOnce,
                retain: false,
            }),
            ..ConnectOptions::default()
        },
    };
    let mut gateway = Attached::new();
    let watcher = gateway.broker.subscriber("w", &[("will", AtMostOnce)]);
    gateway.request(vec![with_will(CONN, "will"), BrokerRequest::Close { conn: CONN }]);
    assert_eq!(gateway.broker.take(watcher), []);
    gateway.request(vec![with_will(CONN, "will"), open(ConnId(2), "snipe")]);
    assert_eq!(gateway.broker.payloads(watcher), ["gone"]);
    gateway.events();

    gateway.request(vec![with_will(ConnId(1), "no/+")]);
    let news = gateway.news();
    assert!(
        matches!(&news[..], [BrokerEvent::Down { conn: ConnId(1), .. }]),
        "{news:?}"
    );
}

#[test]
fn connection_ended_as_too_slow_is_opened_again() {
    let mut gateway = Attached::open();
    gateway.request(vec![subscribe(1, "t", 7, AtLeastOnce)]);
    gateway.events();
    // Takes messages and acknowledges none.
    let publisher = gateway.broker.client("p");
    let bound = 10 * LIMITS.queue_messages as u16;
    for packet_id in 1..=bound + 1 {
        gateway.publish(publisher, packet_id, message("t", AtLeastOnce, ""));
    }
    let old = gateway.messages()[0].0.unwrap();
    gateway.wait_secs(1);
    // Another is slow too, but not for so long.
    let slow = gateway.broker.connect_without_credit(connect("slow"));
    gateway.broker.subscribe(slow, &[("u", AtLeastOnce)]);
    let last = LIMITS.queue_messages as u64;
    gateway.request((0..=last).map(|token| publish(token, "u", AtLeastOnce)).collect());
    gateway.events();
    gateway.wait_secs(9);
    let news = gateway.news();
    assert!(
        matches!(
            &news[..],
            [
                BrokerEvent::Down { .. },
                BrokerEvent::Lost { token },
                BrokerEvent::Up {
                    session_present: false,
                    ..
                }
            ] if token.0 == last
        ),
        "{news:?}"
    );
    // Subscribes anew, and an acknowledgement of old is not taken for one of the new.
    gateway.request(vec![ack(old), subscribe(3, "t", 7, AtLeastOnce)]);
    gateway.publish(publisher, 9, message("t", AtLeastOnce, "new"));
    let messages = gateway.messages();
    assert_eq!(messages.len(), 1);
    gateway.request(vec![ack(old)]);
    assert_eq!(gateway.broker.router.held("snipe"), 1);
    gateway.request(vec![ack(messages[0].0.unwrap())]);
    assert_eq!(gateway.broker.router.held("snipe"), 0);
}

#[test]
fn credit_begins_anew_with_each_connection() {
    let mut gateway = Attached::open();
    gateway.request(vec![subscribe(1, "t", 7, AtLeastOnce)]);
    gateway.events();
    let publisher = gateway.broker.client("p");
    for packet_id in 1..=10 * LIMITS.queue_messages as u16 + 1 {
        gateway.publish(publisher, packet_id, message("t", AtLeastOnce, ""));
    }
    // Owed when the connection ends: 3 requests, and as many messages as were not handed over.
    gateway.request(vec![
        publish(0, "u", AtMostOnce),
        publish(0, "u", AtMostOnce),
        publish(0, "u", AtMostOnce),
    ]);
    gateway.wait_secs(10);
    gateway.request(vec![subscribe(2, "t", 7, AtMostOnce)]);
    let messages = gateway.broker.router.stats().publish_sent;
    for _ in 0..2 * CREDIT {
        gateway.publish(publisher, 0, message("t", AtMostOnce, ""));
    }
    let messages = gateway.broker.router.stats().publish_sent - messages;
    let not_handed_over = 10 * LIMITS.queue_messages as u64 + 1;
    assert_eq!(messages, u64::from(CREDIT) - not_handed_over);
    let credit: Vec<u32> = gateway
        .events()
        .into_iter()
        .filter_map(|event| match event {
            BrokerEvent::Credit { requests, .. } => Some(requests),
            _ => None,
        })
        .collect();
    assert_eq!(credit, [CREDIT, 1]);
}

#[test]
fn two_connections_under_one_client_id_do_not_take_over_for_ever() {
    let mut gateway = Attached::open();
    gateway.request(vec![open(ConnId(1), "snipe")]);
    let news = gateway.news();
    assert!(
        matches!(
            &news[..],
            [
                BrokerEvent::Down { conn: CONN, .. },
                BrokerEvent::Up { conn: ConnId(1), .. }
            ] | [
                BrokerEvent::Up { conn: ConnId(1), .. },
                BrokerEvent::Down { conn: CONN, .. }
            ]
        ),
        "{news:?}"
    );
    gateway.request(vec![publish(5, "t", AtLeastOnce)]);
    assert_eq!(gateway.news(), [BrokerEvent::Lost { token: Token(5) }]);
}

#[test]
fn shutdown_closes_the_gateways_connections_without_opening_them_again() {
    let mut gateway = Attached::open();
    gateway.broker.router.shutdown();
    gateway.drain();
    let news = gateway.news();
    assert!(matches!(&news[..], [BrokerEvent::Down { .. }]), "{news:?}");
    assert_eq!(gateway.broker.router.stats().clients_connected, 0);
}

#[test]
fn credit_comes_with_other_events_or_when_half_of_it_is_owed() {
    let mut gateway = Attached::open();
    let half = CREDIT / 2;
    for _ in 1..half {
        gateway.request(vec![publish(0, "t", AtMostOnce)]);
        assert_eq!(gateway.events(), []);
    }
    gateway.request(vec![publish(0, "t", AtMostOnce)]);
    assert_eq!(
        gateway.events(),
        [BrokerEvent::Credit {
            conn: CONN,
            requests: half
        }]
    );
}
