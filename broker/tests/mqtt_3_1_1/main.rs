//! The normative statements of MQTT 3.1.1 that bind a server, one test each, at the real listener.
//!
//! docs/mqtt.md lists those without a test and why; a test compares.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../mqtt/mod.rs"]
#[macro_use]
mod mqtt;

use mqtt::common::wire::raw_connect;
use mqtt::common::{connecting, delivery, publishing, retained, sessions, subscribing, wills, wire};
use mqtt::{Broker, Connect, Packet, Publish, Specification, Test, Version, frame, text};

const SPECIFICATION: Specification = Specification {
    version: Version::V3,
    heading: "### MQTT 3.1.1: not tested",
    sections: &[
        ("1.5.3", 3),
        ("2.2.2", 2),
        ("2.3.1", 7),
        ("3.1.0", 2),
        ("3.1.2", 24),
        ("3.1.3", 11),
        ("3.1.4", 5),
        ("3.2.0", 1),
        ("3.2.2", 6),
        ("3.3.1", 12),
        ("3.3.2", 3),
        ("3.3.4", 1),
        ("3.3.5", 2),
        ("3.6.1", 1),
        ("3.8.1", 1),
        ("3.8.3", 4),
        ("3.8.4", 6),
        ("3.9.3", 2),
        ("3.10.1", 1),
        ("3.10.3", 2),
        ("3.10.4", 6),
        ("3.12.4", 1),
        ("3.14.1", 1),
        ("3.14.4", 3),
        ("4.1.0", 2),
        ("4.3.1", 1),
        ("4.3.2", 2),
        ("4.3.3", 2),
        ("4.4.0", 1),
        ("4.5.0", 2),
        ("4.6.0", 6),
        ("4.7.1", 3),
        ("4.7.2", 1),
        ("4.7.3", 4),
        ("4.8.0", 2),
        ("6.0.0", 4),
        ("7.0.0", 2),
        ("7.1.1", 1),
        ("7.1.2", 1),
    ],
    gaps: &[],
};

const TESTS: &[Test] = tests![
    "1.5.3-1" => wire::ill_formed_utf8_ends_the_connection,
    "1.5.3-2" => wire::null_character_ends_the_connection,
    "1.5.3-3" => wire::byte_order_mark_is_a_character,
    "2.2.2-1 2.2.2-2" => wire::reserved_flags_end_the_connection,
    "2.3.1-1" => wire::packet_id_0_ends_the_connection,
    "2.3.1-4" => delivery::unacknowledged_messages_have_ids_of_their_own,
    "2.3.1-5" => delivery::qos_0_has_neither_id_nor_dup,
    "2.3.1-6" => publishing::answers_carry_the_id_they_answer,
    "2.3.1-7" => subscribing::suback_and_unsuback_carry_the_id_they_answer,
    "3.1.0-1" => connecting::first_packet_is_connect,
    "3.1.0-2" => connecting::second_connect_ends_the_connection,
    "3.1.2-1" => connecting::other_protocol_names_are_refused,
    "3.1.2-2" => other_levels_are_answered_with_1,
    "3.1.2-3" => connecting::reserved_connect_flag_is_refused,
    "3.1.2-4" => sessions::kept_session_goes_on,
    "3.1.2-5" => sessions::messages_for_an_absent_client_are_kept,
    "3.1.2-6" => sessions::clean_start_discards_the_session,
    "3.1.2-7" => retained::retained_messages_outlive_the_session,
    "3.1.2-8" => wills::will_is_published_when_the_connection_breaks,
    "3.1.2-9" => connecting::will_flag_and_will_fields_agree,
    "3.1.2-10" => wills::will_is_published_once,
    "3.1.2-11 3.1.2-13" => connecting::will_qos_without_a_will_is_refused,
    "3.1.2-12" => wills::no_will_flag_no_will,
    "3.1.2-14" => connecting::will_qos_is_0_1_or_2,
    "3.1.2-15" => connecting::will_retain_without_a_will_is_refused,
    "3.1.2-16" => wills::will_without_retain_is_not_retained,
    "3.1.2-17" => wills::will_with_retain_is_retained,
    "3.1.2-18" => connecting::user_name_only_with_its_flag,
    "3.1.2-19" => connecting::user_name_flag_needs_one,
    "3.1.2-20" => connecting::password_only_with_its_flag,
    "3.1.2-21" => connecting::password_flag_needs_one,
    "3.1.2-22" => password_without_a_user_name_is_refused,
    "3.1.2-24" => connecting::silence_beyond_one_and_a_half_keep_alives_ends_the_connection,
    "3.1.3-1" => connecting::connect_fields_come_in_order,
    "3.1.3-2" => sessions::session_belongs_to_its_client_id,
    "3.1.3-3" => client_id_is_present,
    "3.1.3-4" => connecting::client_id_is_utf8,
    "3.1.3-5" => connecting::client_ids_of_23_letters_and_digits_are_allowed,
    "3.1.3-6" => connecting::clients_without_an_id_are_strangers,
    "3.1.3-8 3.1.3-9" => kept_session_without_an_id_is_answered_with_2,
    "3.1.3-10" => connecting::will_topic_is_utf8,
    "3.1.3-11" => connecting::user_name_is_utf8,
    "3.1.4-1 3.2.2-6" => connecting::malformed_connects_are_refused,
    "3.1.4-2" => connecting::same_client_id_takes_over,
    "3.1.4-3" => sessions::clean_start_takes_over_and_discards,
    "3.1.4-4" => a_good_connect_is_answered_with_0,
    "3.1.4-5" => connecting::after_a_refused_connect_nothing_is_processed,
    "3.2.0-1" => connecting::connack_is_the_first_packet,
    "3.2.2-1" => connecting::session_present_is_0_for_a_clean_one,
    "3.2.2-2 3.2.2-3" => connecting::session_present_tells_whether_there_is_one,
    "3.2.2-4 3.2.2-5" => a_refusal_has_no_session_and_ends_the_connection,
    "3.3.1-1" => delivery::unacknowledged_messages_come_again_with_dup_and_their_ids,
    "3.3.1-2" => delivery::qos_0_has_neither_id_nor_dup,
    "3.3.1-3" => delivery::dup_of_the_publisher_is_not_passed_on,
    "3.3.1-4" => publishing::qos_3_ends_the_connection,
    "3.3.1-5" => retained::retained_message_and_its_qos_are_kept,
    "3.3.1-6" => retained::new_subscription_brings_each_matching_topic,
    "3.3.1-7" => retained::qos_0_retained_message_discards_the_one_before,
    "3.3.1-8" => retained::retain_flag_is_set_for_a_new_subscription,
    "3.3.1-9" => retained::retain_flag_is_clear_for_an_established_subscription,
    "3.3.1-10" => retained::empty_retained_message_is_delivered_and_removes,
    "3.3.1-11" => retained::empty_retained_message_is_not_kept,
    "3.3.1-12" => retained::message_without_retain_changes_nothing_kept,
    "3.3.2-1" => publishing::topic_is_the_first_field,
    "3.3.2-2 4.7.1-1" => publishing::wildcards_in_a_topic_end_the_connection,
    "3.3.2-3" => subscribing::a_message_matches_the_subscription_it_comes_for,
    "3.3.4-1" => publishing::each_qos_has_its_answer,
    "3.3.5-1" => subscribing::overlapping_subscriptions_give_the_highest_qos,
    "3.3.5-2" => a_message_not_allowed_is_acknowledged_or_ends_the_connection,
    "3.6.1-1" => wire::pubrel_with_wrong_flags_ends_the_connection,
    "3.8.1-1" => wire::subscribe_with_wrong_flags_ends_the_connection,
    "3.8.3-1" => subscribing::filters_are_utf8,
    "3.8.3-3" => subscribing::subscribe_without_a_filter_ends_the_connection,
    "3.8.3-4" => subscribing::reserved_subscription_options_end_the_connection,
    "3.8.4-1 3.8.4-2" => subscribing::subscribe_is_answered_with_its_id,
    "3.8.4-3" => subscribing::same_filter_replaces_the_subscription,
    "3.8.4-3" => subscribing::subscribing_again_brings_the_retained_message_again,
    "3.8.4-3" => subscribing::replacing_a_subscription_loses_nothing,
    "3.8.4-4" => subscribing::many_filters_are_as_many_subscriptions,
    "3.8.4-5" => subscribing::subscription_shows_the_granted_qos,
    "3.8.4-6" => subscribing::qos_is_the_lower_of_published_and_granted,
    "3.8.4-6" => retained::retained_message_respects_the_granted_qos,
    "3.9.3-1" => subscribing::codes_come_in_the_order_of_the_filters,
    "3.9.3-2" => refused_filters_are_answered_with_0x80_or_not_at_all,
    "3.10.1-1" => wire::unsubscribe_with_wrong_flags_ends_the_connection,
    "3.10.3-1" => subscribing::filters_of_unsubscribe_are_utf8,
    "3.10.3-2" => subscribing::unsubscribe_without_a_filter_ends_the_connection,
    "3.10.4-1" => subscribing::unsubscribe_compares_character_by_character,
    "3.10.4-2" => subscribing::unsubscribe_stops_new_messages,
    "3.10.4-3" => subscribing::unsubscribe_lets_started_deliveries_finish,
    "3.10.4-4" => subscribing::unsubscribe_is_answered_with_its_id,
    "3.10.4-5" => subscribing::unsubscribe_of_nothing_is_answered,
    "3.10.4-6" => subscribing::unsubscribe_of_many_filters_has_one_answer,
    "3.12.4-1" => connecting::pingreq_is_answered,
    "3.14.1-1" => wire::disconnect_with_wrong_flags_ends_the_connection_and_is_none,
    "3.14.4-3" => wills::disconnect_removes_the_will,
    "4.1.0-1 4.1.0-2" => sessions::session_lasts_as_long_as_the_connection,
    "4.3.1-1" => delivery::first_transmission_has_no_dup,
    "4.3.2-1" => delivery::qos_1_message_is_unacknowledged_until_puback,
    "4.3.2-2" => publishing::qos_1_id_is_free_after_puback,
    "4.3.3-1" => delivery::pubrec_is_answered_with_pubrel,
    "4.3.3-1" => delivery::qos_2_message_is_unacknowledged_until_pubrec,
    "4.3.3-1" => delivery::pubrel_comes_again_with_its_id_and_the_message_does_not,
    "4.3.3-2" => publishing::qos_2_copies_before_pubrel_are_not_delivered,
    "4.3.3-2" => publishing::qos_2_copies_on_the_next_connection_are_not_delivered,
    "4.3.3-2" => publishing::qos_2_id_is_free_after_pubcomp,
    "4.3.3-2" => publishing::qos_2_ids_are_told_apart,
    "4.3.3-2" => publishing::pubrel_is_always_answered,
    "4.4.0-1" => delivery::messages_come_again_only_after_reconnecting,
    "4.5.0-1" => delivery::accepted_message_goes_to_every_matching_session,
    "4.6.0-1" => delivery::messages_sent_again_keep_their_order,
    "4.6.0-2 4.6.0-3" => delivery::acknowledgements_keep_the_order_of_messages,
    "4.6.0-4" => delivery::pubrels_keep_the_order_of_pubrecs,
    "4.6.0-5 4.6.0-6" => delivery::messages_keep_their_order,
    "4.7.1-2" => subscribing::multi_level_wildcard_elsewhere_is_rejected,
    "4.7.1-2" => subscribing::multi_level_wildcard_matches_the_parent_and_all_below,
    "4.7.1-3" => subscribing::single_level_wildcard_beside_others_is_rejected,
    "4.7.1-3" => subscribing::single_level_wildcard_matches_one_level,
    "4.7.2-1" => subscribing::wildcards_first_do_not_match_dollar_topics,
    "4.7.3-1" => subscribing::empty_filter_is_rejected,
    "4.7.3-1" => publishing::empty_topic_ends_the_connection,
    "4.7.3-2" => topics_and_filters_have_no_null_character,
    "4.7.3-4" => subscribing::matching_normalises_nothing,
    "4.8.0-1" => wire::what_is_no_packet_of_a_client_ends_the_connection,
    "4.8.0-1" => connecting::violations_end_only_the_connection_they_came_from,
    "" => connecting::keep_alive_is_not_enforced_early,
    "" => connecting::packets_need_not_arrive_whole,
    "" => wills::will_of_a_client_taken_over_is_published,
    "" => wills::will_waits_for_the_end_of_the_connection,
    "" => publishing::payload_may_be_empty_or_anything,
    "" => delivery::ids_of_the_two_directions_are_independent,
    "" => delivery::ids_are_used_again,
    "" => sessions::taking_over_resumes_the_session,
];

/// Tests that mosquitto 2.0.11 does not pass.
const MOSQUITTO_DIFFERS: &[(&str, &str)] = &[
    (
        "mqtt_2_2_2_1_mqtt_2_2_2_2_reserved_flags_end_the_connection",
        "it does not look at the reserved flags of PUBACK, PUBREC, PUBCOMP, PINGREQ",
    ),
    (
        "mqtt_3_1_2_24_silence_beyond_one_and_a_half_keep_alives_ends_the_connection",
        "it looks at keep-alives every five seconds",
    ),
    (
        "mqtt_3_3_5_1_overlapping_subscriptions_give_the_highest_qos",
        "it sends one copy with the QoS of any of them",
    ),
    (
        "mqtt_4_3_3_2_qos_2_copies_before_pubrel_are_not_delivered",
        "it takes the second copy with DUP for a protocol error",
    ),
    (
        "mqtt_4_8_0_1_what_is_no_packet_of_a_client_ends_the_connection",
        "it ignores SUBACK and UNSUBACK of clients",
    ),
];

fn main() {
    mqtt::run(&SPECIFICATION, TESTS, MOSQUITTO_DIFFERS);
}

/// Levels above 5 are a matter of MQTT 5, which has an answer of its own.
fn other_levels_are_answered_with_1(b: &Broker) {
    for level in [0, 1, 2, 3] {
        let mut client = b.open();
        client.send_raw(frame(0x10, &[&text("MQTT"), &[level, 2, 0, 0], &text("c")]));
        assert_eq!(client.expect_refused(), Some(1), "level {level}");
    }
}

fn password_without_a_user_name_is_refused(b: &Broker) {
    let mut client = b.open();
    client.send_raw(raw_connect(b.version, 0x42, &[&text("c"), &text("secret")]));
    assert_eq!(client.expect_refused(), None);
}

fn client_id_is_present(b: &Broker) {
    let mut client = b.open();
    client.send_raw(raw_connect(b.version, 0x02, &[]));
    assert_eq!(client.expect_refused(), None);
}

fn kept_session_without_an_id_is_answered_with_2(b: &Broker) {
    let mut client = b.open();
    client.send(&Packet::Connect(Connect::kept(b.version, "")));
    assert_eq!(client.expect_refused(), Some(2));
}

fn a_good_connect_is_answered_with_0(b: &Broker) {
    for connect in [Connect::new("c"), Connect::kept(b.version, "c"), Connect::new("")] {
        let mut client = b.open();
        client.send(&Packet::Connect(connect));
        client.expect(Packet::ConnAck {
            session_present: false,
            code: 0,
            props: Vec::new(),
        });
    }
}

/// The decoder refuses a CONNACK with a code and a session.
fn a_refusal_has_no_session_and_ends_the_connection(b: &Broker) {
    b.kept("c").disconnect();
    let mut client = b.open();
    client.send_raw(frame(0x10, &[&text("MQTT"), &[3, 0, 0, 0], &text("c")]));
    client.expect(Packet::ConnAck {
        session_present: false,
        code: 1,
        props: Vec::new(),
    });
    client.expect_closed();
    // And the session is not touched by it.
    assert!(b.kept("c").session_present);
}

/// The decoder takes no other code.
fn refused_filters_are_answered_with_0x80_or_not_at_all(b: &Broker) {
    let mut client = b.client("c");
    client.send(&Packet::Subscribe {
        id: 1,
        filters: vec![("a".into(), 1), ("b/#/c".into(), 1), ("$share/g".into(), 1)],
        props: Vec::new(),
    });
    match client.event(mqtt::PATIENCE) {
        mqtt::Event::Packet(Packet::SubAck { codes, .. }) => assert_eq!((codes[0], codes[1]), (1, 0x80)),
        mqtt::Event::Closed => {}
        other => panic!("{other:?}"),
    }
}

fn topics_and_filters_have_no_null_character(b: &Broker) {
    wire::each_ends_the_connection(
        b,
        &[
            Publish::new("a/\0/b", "x").encode(b.version),
            Packet::subscribe(1, "a/\0", 0).encode(b.version),
            Packet::unsubscribe(1, "\0").encode(b.version),
        ],
    );
}

/// The broker's own topics are nobody else's.
fn a_message_not_allowed_is_acknowledged_or_ends_the_connection(b: &Broker) {
    for qos in 1..=2 {
        let mut observer = b.client("observer");
        observer.subscribe("$SYS/broker/made/up", 0);
        let mut client = b.client("c");
        client.send(&Packet::Publish(
            Publish::new("$SYS/broker/made/up", "x").qos(qos, 1),
        ));
        match client.event(mqtt::PATIENCE) {
            mqtt::Event::Packet(Packet::PubAck(_) | Packet::PubRec(_)) | mqtt::Event::Closed => {}
            other => panic!("{other:?}"),
        }
        observer.expect_nothing();
    }
}
