//! Clients that publish for sensors: answered when the gateway has acknowledged its copy of that very message.

use gateway_core::io::BrokerRequest;

use super::gateway::{Attached, CONN, ack, open, publish, settled, subscribe};
use super::*;

fn attached(filters: &[&str]) -> Attached {
    let mut gateway = Attached::storing();
    for (filter, token) in filters.iter().zip(1..) {
        gateway.request(vec![subscribe(token, filter, 7, ExactlyOnce)]);
    }
    gateway.news();
    gateway
}

fn received(packet_id: u16, reason: u8) -> Vec<Reply> {
    vec![Reply::PubRec { packet_id, reason }]
}

#[test]
fn puback_and_pubrec_wait_for_the_copy_of_that_very_message() {
    let mut gateway = attached(&["t"]);
    let publisher = gateway.broker.client("p");
    gateway.publish(publisher, 1, message("t", AtLeastOnce, "1"));
    gateway.publish(publisher, 2, message("t", ExactlyOnce, "2"));
    gateway.publish(publisher, 3, message("t", AtLeastOnce, "3"));
    let copies: Vec<_> = gateway
        .messages()
        .into_iter()
        .filter_map(|(copy, _)| copy)
        .collect();
    assert_eq!(copies.len(), 3);
    assert_eq!(gateway.broker.take(publisher), []);

    gateway.request(vec![ack(copies[2])]);
    assert_eq!(gateway.broker.take(publisher), acknowledged(3));
    gateway.request(vec![ack(copies[1])]);
    assert_eq!(gateway.broker.take(publisher), received(2, reason::SUCCESS));
    gateway.request(vec![ack(copies[0])]);
    assert_eq!(gateway.broker.take(publisher), acknowledged(1));
    assert!(gateway.broker.router.owes_nothing());
}

#[test]
fn others_and_qos_0_wait_for_nothing() {
    let mut gateway = attached(&["t"]);
    gateway.request(vec![subscribe(9, "u", 8, AtMostOnce)]);
    gateway.news();
    let publisher = gateway.broker.client("p");
    gateway.publish(publisher, 1, message("t", AtLeastOnce, "waits"));
    assert_eq!(gateway.broker.take(publisher), []);

    gateway.publish(publisher, 2, message("u", AtLeastOnce, "granted QoS 0"));
    assert_eq!(gateway.broker.take(publisher), acknowledged(2));
    let subscriber = gateway.broker.subscriber("s", &[("v", AtLeastOnce)]);
    gateway.publish(publisher, 3, message("v", AtLeastOnce, "for a client"));
    assert_eq!(gateway.broker.take(publisher), acknowledged(3));
    assert_eq!(gateway.broker.payloads(subscriber), ["for a client"]);
    // What the gateway publishes for sensors of its own is in its store.
    gateway.request(vec![publish(77, "t", AtLeastOnce)]);
    assert!(gateway.news().contains(&settled(77, Ok(None))));
}

#[test]
fn other_subscribers_get_it_at_once_and_slow_ones_are_waited_for_too() {
    let mut gateway = attached(&["t"]);
    let slow = gateway.broker.subscriber("slow", &[("t", AtLeastOnce)]);
    let publisher = gateway.broker.client("p");
    let over = LIMITS.queue_messages as u16 + 1;
    for packet_id in 1..=over {
        gateway.publish(publisher, packet_id, message("t", AtLeastOnce, ""));
    }
    let first = gateway.broker.deliveries(slow)[0].packet_id;
    let copies = gateway.messages();
    let acks = copies.into_iter().filter_map(|(copy, _)| copy).map(ack);
    gateway.request(acks.collect());
    let answered: Vec<_> = (1..over).flat_map(acknowledged).collect();
    assert_eq!(gateway.broker.take(publisher), answered);
    gateway.say(slow, puback(first));
    assert_eq!(gateway.broker.take(publisher), acknowledged(over));
}

#[test]
fn nobody_is_disconnected_and_nothing_answered_however_long_the_disk_takes() {
    let mut gateway = attached(&["t"]);
    let publisher = gateway.broker.client("p");
    gateway.publish(publisher, 1, message("t", AtLeastOnce, "1"));
    let copy = gateway.messages()[0].0.unwrap();
    gateway.wait_secs(100_000);
    assert_eq!(gateway.broker.take(publisher), []);
    assert_eq!(gateway.news(), []);
    gateway.request(vec![ack(copy)]);
    assert_eq!(gateway.broker.take(publisher), acknowledged(1));
}

#[test]
fn repeated_qos_2_publish_is_one_message_and_answered_on_the_new_connection() {
    let mut gateway = attached(&["t"]);
    let publisher = gateway.broker.connect(resume("p", 100));
    gateway.publish(publisher, 1, message("t", ExactlyOnce, "1"));
    gateway.broker.close(publisher);
    let publisher = gateway.broker.connect(resume("p", 100));
    gateway.broker.take(publisher);
    gateway.publish(publisher, 1, message("t", ExactlyOnce, "1"));
    assert_eq!(gateway.broker.take(publisher), []);
    let messages = gateway.messages();
    assert_eq!(messages.len(), 1);
    gateway.request(vec![ack(messages[0].0.unwrap())]);
    assert_eq!(gateway.broker.take(publisher), received(1, reason::SUCCESS));
    gateway.publish(publisher, 1, message("t", ExactlyOnce, "1"));
    assert_eq!(gateway.broker.take(publisher), received(1, reason::SUCCESS));
    assert_eq!(gateway.messages(), []);
}

#[test]
fn publisher_that_left_is_forgotten_with_the_copy() {
    let mut gateway = attached(&["t"]);
    let publisher = gateway.broker.client("p");
    gateway.publish(publisher, 1, message("t", AtLeastOnce, "1"));
    gateway.broker.close(publisher);
    let copy = gateway.messages()[0].0.unwrap();
    assert!(!gateway.broker.router.owes_nothing());
    gateway.request(vec![ack(copy)]);
    assert!(gateway.broker.router.owes_nothing());
    assert_eq!(gateway.broker.take(publisher), []);
}

#[test]
fn copies_that_end_with_the_gateways_session_are_refused() {
    let mut gateway = attached(&["t"]);
    let publisher = gateway.broker.client("p");
    gateway.publish(publisher, 1, message("t", AtLeastOnce, "1"));
    gateway.publish(publisher, 2, message("t", ExactlyOnce, "2"));
    gateway.request(vec![BrokerRequest::Close { conn: CONN }, open(CONN, "snipe")]);
    let mut refused = vec![Reply::PubAck {
        packet_id: 1,
        reason: reason::QUOTA_EXCEEDED,
    }];
    refused.extend(received(2, reason::QUOTA_EXCEEDED));
    let mut heard = gateway.broker.take(publisher);
    heard.sort_by_key(|reply| matches!(reply, Reply::PubRec { .. }));
    assert_eq!(heard, refused);

    // Under the same packet id it is a new message.
    gateway.request(vec![subscribe(9, "t", 7, ExactlyOnce)]);
    gateway.news();
    gateway.publish(publisher, 2, message("t", ExactlyOnce, "again"));
    assert_eq!(gateway.broker.take(publisher), []);
    let messages = gateway.messages();
    assert_eq!(messages[0].1, "again");
    gateway.request(vec![ack(messages[0].0.unwrap())]);
    assert_eq!(gateway.broker.take(publisher), received(2, reason::SUCCESS));
}

#[test]
fn a_stop_answers_nothing_that_the_gateway_did_not_acknowledge() {
    let mut gateway = attached(&["t"]);
    let publisher = gateway.broker.client("p");
    gateway.publish(publisher, 1, message("t", AtLeastOnce, "1"));
    gateway.stop();
    assert_eq!(
        gateway.broker.take(publisher),
        disconnected(reason::SERVER_SHUTTING_DOWN)
    );
}

#[test]
fn message_of_a_shared_subscription_waits_for_the_sensor_that_it_went_to() {
    let mut gateway = attached(&["$share/g/t"]);
    let other = gateway.broker.subscriber("other", &[("$share/g/t", AtLeastOnce)]);
    let publisher = gateway.broker.client("p");
    gateway.publish(publisher, 1, message("t", AtLeastOnce, "1"));
    gateway.publish(publisher, 2, message("t", AtLeastOnce, "2"));
    let messages = gateway.messages();
    let theirs = gateway.broker.payloads(other);
    assert_eq!((messages.len(), theirs.len()), (1, 1));
    let [theirs, ours] = [&theirs[0], &messages[0].1].map(|number| number.parse().unwrap());
    assert_eq!(gateway.broker.take(publisher), acknowledged(theirs));
    // It goes to the other member, a client, which is as good as any client's message.
    gateway.request(vec![BrokerRequest::Close { conn: CONN }]);
    assert_eq!(gateway.broker.payloads(other), [ours.to_string()]);
    assert_eq!(gateway.broker.take(publisher), acknowledged(ours));
}

#[test]
fn what_a_client_leaves_to_the_gateway_in_another_group_holds_up_nobody() {
    let mut gateway = attached(&["$share/g/t"]);
    let other = gateway.broker.connect_without_credit(connect("other"));
    gateway.broker.take(other);
    gateway.broker.subscribe(other, &[("$share/h/t", AtLeastOnce)]);
    let publisher = gateway.broker.client("p");
    gateway.publish(publisher, 1, message("t", AtLeastOnce, "1"));
    gateway.request(vec![subscribe(9, "$share/h/t", 8, AtLeastOnce)]);
    gateway.broker.router.closed(gateway.broker.now, other);
    gateway.drain();
    let copies: Vec<_> = gateway
        .messages()
        .into_iter()
        .map(|(copy, _)| copy.unwrap())
        .collect();
    assert_eq!(copies.len(), 2);
    assert_eq!(gateway.broker.take(publisher), []);
    gateway.request(vec![ack(copies[0])]);
    assert_eq!(gateway.broker.take(publisher), acknowledged(1));
    gateway.request(vec![ack(copies[1])]);
    assert!(gateway.broker.router.owes_nothing());
}
