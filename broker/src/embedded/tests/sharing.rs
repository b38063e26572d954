use super::*;

const SHARED: &str = "$share/g/t";

fn publish(broker: &mut Broker, publisher: ClientKey, numbers: core::ops::Range<u16>, qos: QoS) {
    for number in numbers {
        broker.publish(publisher, number, message("t", qos, &number.to_string()));
    }
}

/// `members` with sessions that last.
fn group(members: &[&str], qos: QoS) -> (Broker, ClientKey, Vec<ClientKey>) {
    let mut broker = Broker::new();
    let publisher = broker.client("p");
    let members = members
        .iter()
        .map(|id| {
            let member = broker.connect(resume(id, 60));
            broker.take(member);
            broker.subscribe(member, &[(SHARED, qos)]);
            member
        })
        .collect();
    (broker, publisher, members)
}

#[test]
fn each_message_goes_to_one_member_by_turns() {
    let (mut broker, publisher, members) = group(&["1", "2", "3"], AtLeastOnce);
    publish(&mut broker, publisher, 1..7, AtLeastOnce);
    let seen: Vec<_> = members.iter().map(|member| broker.payloads(*member)).collect();
    assert_eq!(seen, [["1", "4"], ["2", "5"], ["3", "6"]]);
}

#[test]
fn turns_go_on_when_a_member_leaves() {
    let (mut broker, publisher, members) = group(&["1", "2", "3"], AtLeastOnce);
    publish(&mut broker, publisher, 1..3, AtLeastOnce);
    broker.take_and_acknowledge(members[0]);
    let filters = vec![SHARED.into()];
    broker.say(
        members[0],
        Received::Unsubscribe {
            packet_id: 1,
            filters,
        },
    );
    publish(&mut broker, publisher, 3..5, AtLeastOnce);
    assert_eq!(broker.payloads(members[1]), ["2", "4"]);
    assert_eq!(broker.payloads(members[2]), ["3"]);
}

#[test]
fn groups_and_ordinary_subscriptions_each_get_the_message() {
    let mut broker = Broker::new();
    let publisher = broker.client("p");
    let client = broker.subscriber(
        "c",
        &[
            ("$share/g/t", AtMostOnce),
            ("$share/h/#", AtMostOnce),
            ("t", AtMostOnce),
        ],
    );
    broker.publish(publisher, 0, message("t", AtMostOnce, "1"));
    assert_eq!(broker.payloads(client), ["1", "1", "1"]);
}

#[test]
fn connected_members_are_preferred() {
    let (mut broker, publisher, members) = group(&["1", "2"], AtLeastOnce);
    broker.close(members[0]);
    publish(&mut broker, publisher, 1..4, AtLeastOnce);
    assert_eq!(broker.payloads(members[1]), ["1", "2", "3"]);
}

#[test]
fn members_without_a_connection_keep_what_nobody_else_can_take() {
    let (mut broker, publisher, members) = group(&["1", "2"], AtLeastOnce);
    broker.close(members[0]);
    broker.close(members[1]);
    publish(&mut broker, publisher, 1..5, AtLeastOnce);
    let one = broker.connect(resume("1", 60));
    let two = broker.connect(resume("2", 60));
    assert_eq!(broker.payloads(one), ["1", "3"]);
    assert_eq!(broker.payloads(two), ["2", "4"]);
}

#[test]
fn member_over_its_bound_is_passed_over() {
    let (mut broker, publisher, members) = group(&["1", "2"], AtLeastOnce);
    let count = LIMITS.queue_messages as u16;
    publish(&mut broker, publisher, 1..2 * count + 1, AtLeastOnce);
    broker.take_and_acknowledge(members[1]);
    broker.take(publisher);
    publish(&mut broker, publisher, 100..100 + count, AtLeastOnce);
    assert_eq!(broker.payloads(members[1]).len(), LIMITS.queue_messages);
    assert_eq!(
        broker.take(publisher).len(),
        LIMITS.queue_messages,
        "nothing withheld"
    );
}

#[test]
fn unacknowledged_qos_1_of_a_member_whose_session_ends_goes_to_another() {
    let (mut broker, publisher, members) = group(&["1", "2"], AtLeastOnce);
    publish(&mut broker, publisher, 1..5, AtLeastOnce);
    let first = broker.deliveries(members[0]);
    broker.take_and_acknowledge(members[1]);
    broker.say(members[0], puback(first[0].packet_id));
    broker.say(
        members[0],
        Received::Disconnect {
            with_will: false,
            session_expiry: Some(0),
        },
    );
    let again = broker.deliveries(members[1]);
    assert_eq!(again.iter().map(payload).collect::<Vec<_>>(), ["3"]);
    assert!(!again[0].dup, "it is new to this one");
}

#[test]
fn mqtt_4_8_2_4_and_5_qos_2_once_sent_stays_with_its_member() {
    let (mut broker, publisher, members) = group(&["1", "2"], ExactlyOnce);
    publish(&mut broker, publisher, 1..3, ExactlyOnce);
    broker.take_and_acknowledge(members[1]);
    broker.take(members[0]);
    broker.close(members[0]);
    let back = broker.connect(resume("1", 60));
    assert_eq!(broker.payloads(back), ["1"]);
    broker.close(back);
    broker.wait_secs(60);
    assert_eq!(broker.payloads(members[1]), Vec::<String>::new());
}

#[test]
fn what_waited_for_a_lost_member_goes_to_a_connected_one() {
    let mut broker = Broker::new();
    let publisher = broker.client("p");
    let slow = broker.connect_without_credit(resume("slow", 60));
    broker.subscribe(slow, &[(SHARED, ExactlyOnce)]);
    publish(&mut broker, publisher, 1..4, ExactlyOnce);
    let other = broker.subscriber("other", &[(SHARED, ExactlyOnce)]);
    broker.close(slow);
    assert_eq!(broker.take_and_acknowledge(other), ["1", "2", "3"]);
    let back = broker.connect(resume("slow", 60));
    assert_eq!(broker.take(back), connack(true));
}

#[test]
fn what_waited_for_a_lost_member_stays_if_nobody_else_is_connected() {
    let mut broker = Broker::new();
    let publisher = broker.client("p");
    let slow = broker.connect_without_credit(resume("slow", 60));
    broker.subscribe(slow, &[(SHARED, AtLeastOnce)]);
    publish(&mut broker, publisher, 1..4, AtLeastOnce);
    broker.close(slow);
    let back = broker.connect(resume("slow", 60));
    assert_eq!(broker.payloads(back), ["1", "2", "3"]);
}

#[test]
fn member_that_lost_its_connection_takes_what_one_that_disconnected_has_no_place_for() {
    let (mut broker, publisher, members) = group(&["1", "2"], AtLeastOnce);
    broker.close(members[0]);
    broker.disconnect(members[1]);
    let count = LIMITS.queue_messages as u16;
    publish(&mut broker, publisher, 1..3 * count + 1, AtLeastOnce);
    assert_eq!(broker.router.stats().dropped(), 0);
    assert_eq!(broker.router.held("1"), 2 * LIMITS.queue_messages);
    assert_eq!(broker.router.held("2"), LIMITS.queue_messages);
}

#[test]
fn mqtt_4_8_2_6_message_that_a_member_refuses_goes_to_nobody_else() {
    let (mut broker, publisher, members) = group(&["1", "2"], ExactlyOnce);
    publish(&mut broker, publisher, 1..2, ExactlyOnce);
    let packet_id = broker.deliveries(members[0])[0].packet_id;
    broker.say(
        members[0],
        Received::PubRec {
            packet_id,
            refused: true,
        },
    );
    assert_eq!(broker.take(members[0]), []);
    assert_eq!(broker.take(members[1]), []);
}

#[test]
fn message_of_a_group_without_members_is_dropped_and_counted() {
    let (mut broker, publisher, members) = group(&["1"], AtLeastOnce);
    publish(&mut broker, publisher, 1..2, AtLeastOnce);
    broker.say(
        members[0],
        Received::Disconnect {
            with_will: false,
            session_expiry: Some(0),
        },
    );
    assert_eq!(broker.router.stats().dropped_unshared, 1);
}

#[test]
fn mqtt_3_8_3_4_shared_with_no_local_is_a_protocol_error() {
    let mut broker = Broker::new();
    let client = broker.client("c");
    let asked = Subscription {
        no_local: true,
        ..subscription(SHARED, AtMostOnce)
    };
    assert_eq!(
        broker.subscribe_with(client, None, vec![subscription("a", AtMostOnce), asked]),
        disconnected(reason::PROTOCOL_ERROR)
    );
}
