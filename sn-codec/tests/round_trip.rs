//! Properties of every packet and of every string of octets.

#![allow(clippy::unwrap_used)] // The helpers are part of the tests.

use proptest::{collection::vec, option, prelude::*};
use sn_codec::{
    Advertise, Connack, Connect, Disconnect, Encapsulation, GwInfo, MsgId, Packet, Pingreq, Puback, Publish,
    PublishQoS, QoS, Regack, Register, ReturnCode, SearchGw, ShortTopic, Suback, Subscribe, TopicFilter,
    TopicId, TopicRef, Unsubscribe, WillMsg, WillTopic, decode_for_gateway, decode_message, encode_message,
    topic,
};

proptest! {
    #[test]
    fn advertise(gw_id: u8, duration: u16) {
        assert_round_trip(Packet::Advertise(Advertise { gw_id, duration }));
    }

    #[test]
    fn searchgw(radius: u8) {
        assert_round_trip(Packet::SearchGw(SearchGw { radius }));
    }

    #[test]
    fn gwinfo(gw_id: u8, gw_add in data()) {
        assert_round_trip(Packet::GwInfo(GwInfo { gw_id, gw_add: &gw_add }));
    }

    #[test]
    fn connect(will: bool, clean_session: bool, duration: u16, client_id in text(0)) {
        let client_id = &client_id;
        assert_round_trip(Packet::Connect(Connect { will, clean_session, duration, client_id }));
    }

    #[test]
    fn connack(code: u8) {
        assert_round_trip(Packet::Connack(Connack { return_code: ReturnCode::from(code) }));
    }

    #[test]
    fn willtopic_and_willtopicupd(qos in qos(), retain: bool, topic in name()) {
        let will = WillTopic { qos, retain, topic: &topic };
        assert_round_trip(Packet::WillTopic(Some(will)));
        assert_round_trip(Packet::WillTopicUpd(Some(will)));
    }

    #[test]
    fn willmsg_and_willmsgupd(message in data()) {
        assert_round_trip(Packet::WillMsg(WillMsg { message: &message }));
        assert_round_trip(Packet::WillMsgUpd(WillMsg { message: &message }));
    }

    #[test]
    fn register(topic_id: u16, msg_id: u16, name in name()) {
        let (topic_id, msg_id) = (TopicId(topic_id), MsgId(msg_id));
        assert_round_trip(Packet::Register(Register { topic_id, msg_id, topic_name: &name }));
    }

    #[test]
    fn regack_and_puback(topic_id: u16, msg_id: u16, code: u8) {
        let (topic_id, msg_id, return_code) = (TopicId(topic_id), MsgId(msg_id), ReturnCode::from(code));
        assert_round_trip(Packet::Regack(Regack { topic_id, msg_id, return_code }));
        assert_round_trip(Packet::Puback(Puback { topic_id, msg_id, return_code }));
    }

    #[test]
    fn publish(dup: bool, qos in qos(), retain: bool, topic in topic_ref(), msg_id: u16, data in data()) {
        let (qos, msg_id) = (PublishQoS::Level(qos), MsgId(msg_id));
        assert_round_trip(Packet::Publish(Publish { dup, qos, retain, topic, msg_id, data: &data }));
    }

    #[test]
    fn publish_without_a_session(retain: bool, topic in topic_ref(), data in data()) {
        prop_assume!(!matches!(topic, TopicRef::Normal(_)));
        let (qos, msg_id) = (PublishQoS::MinusOne, MsgId(0));
        assert_round_trip(Packet::Publish(Publish { dup: false, qos, retain, topic, msg_id, data: &data }));
    }

    #[test]
    fn pubrec_pubrel_pubcomp_and_unsuback(msg_id: u16) {
        let msg_id = MsgId(msg_id);
        assert_round_trip(Packet::Pubrec(msg_id));
        assert_round_trip(Packet::Pubrel(msg_id));
        assert_round_trip(Packet::Pubcomp(msg_id));
        assert_round_trip(Packet::Unsuback(msg_id));
    }

    #[test]
    fn subscribe_and_unsubscribe_by_name(dup: bool, qos in qos(), msg_id: u16, filter in filter()) {
        let (msg_id, topic) = (MsgId(msg_id), TopicFilter::Name(&filter));
        assert_round_trip(Packet::Subscribe(Subscribe { dup, qos, msg_id, topic }));
        assert_round_trip(Packet::Unsubscribe(Unsubscribe { msg_id, topic }));
    }

    #[test]
    fn subscribe_and_unsubscribe_by_id(dup: bool, qos in qos(), msg_id: u16, id in id(), short in short()) {
        let msg_id = MsgId(msg_id);
        for topic in [TopicFilter::Predefined(id), TopicFilter::Short(short)] {
            assert_round_trip(Packet::Subscribe(Subscribe { dup, qos, msg_id, topic }));
            assert_round_trip(Packet::Unsubscribe(Unsubscribe { msg_id, topic }));
        }
    }

    #[test]
    fn suback(qos in qos(), topic_id: u16, msg_id: u16, code: u8) {
        let (topic_id, msg_id, return_code) = (TopicId(topic_id), MsgId(msg_id), ReturnCode::from(code));
        assert_round_trip(Packet::Suback(Suback { qos, topic_id, msg_id, return_code }));
    }

    #[test]
    fn pingreq(client_id in option::of(text(1))) {
        assert_round_trip(Packet::Pingreq(Pingreq { client_id: client_id.as_deref() }));
    }

    #[test]
    fn disconnect(duration: Option<u16>) {
        assert_round_trip(Packet::Disconnect(Disconnect { duration }));
    }

    #[test]
    fn willtopicresp_and_willmsgresp(code: u8) {
        assert_round_trip(Packet::WillTopicResp(ReturnCode::from(code)));
        assert_round_trip(Packet::WillMsgResp(ReturnCode::from(code)));
    }

    #[test]
    fn encapsulated(radius in 0..4u8, node_id in vec(any::<u8>(), 1..=Encapsulation::MAX_NODE_ID_LEN), data in data()) {
        let header = Encapsulation { radius, wireless_node_id: &node_id };
        let packet = Packet::WillMsg(WillMsg { message: &data });

        let mut encoded = Vec::new();
        encode_message(Some(&header), &packet, &mut encoded);

        prop_assert_eq!(encoded.len(), header.encoded_len() + packet.encoded_len());
        prop_assert_eq!(decode_message(&encoded), Ok((Some(header), packet)));
    }

    #[test]
    fn any_octets_decode_to_something_encodable_or_to_an_error(octets in vec(any::<u8>(), 0..600)) {
        assert_sound(&octets);
    }

    #[test]
    fn any_body_with_a_right_header_does_too(
        msg_type in 0..=0x20u8,
        body in vec(prop_oneof![any::<u8>(), 0..4u8, Just(b'/'), Just(b'#'), Just(b'a')], 0..20),
        node_id in option::of(vec(any::<u8>(), 1..9)),
    ) {
        let mut datagram = Vec::new();
        if let Some(wireless_node_id) = &node_id {
            Encapsulation { radius: 0, wireless_node_id }.encode(&mut datagram);
        }
        datagram.extend([body.len() as u8 + 2, msg_type]);
        datagram.extend(body);

        assert_sound(&datagram);
    }

    #[test]
    fn names_match_themselves_and_their_parents(name in name(), levels in 0..4usize) {
        prop_assert!(topic::is_valid_name(&name));
        prop_assert!(topic::matches(&name, &name));

        let parent: Vec<&str> = name.split('/').take(levels).collect();
        let filter = if levels == 0 { "#".to_owned() } else { format!("{}/#", parent.join("/")) };
        prop_assert!(topic::is_valid_filter(&filter));
        prop_assert!(topic::matches(&filter, &name));
    }

    #[test]
    fn a_plus_stands_for_any_one_level(name in name(), at: prop::sample::Index) {
        let mut levels: Vec<&str> = name.split('/').collect();
        let at = at.index(levels.len());
        levels[at] = "+";
        let filter = levels.join("/");

        prop_assert!(topic::is_valid_filter(&filter));
        prop_assert!(topic::matches(&filter, &name));
        let (longer, deeper) = (format!("{name}/x"), format!("{filter}/x"));
        prop_assert!(!topic::matches(&filter, &longer));
        prop_assert!(!topic::matches(&deeper, &name));
    }

    #[test]
    fn any_text_is_judged_without_a_panic(filter in ".{0,12}", name in ".{0,12}", wild in "[a+#/$]{0,8}") {
        for (filter, name) in [(&filter, &name), (&wild, &name), (&wild, &wild)] {
            let matched = topic::matches(filter, name);
            if !topic::has_wildcard(filter) {
                prop_assert_eq!(matched, filter == name);
            }
            if topic::is_valid_name(name) {
                prop_assert!(topic::is_valid_filter(name));
            }
        }
    }
}

#[test]
fn messages_without_fields() {
    for packet in [
        Packet::WillTopicReq,
        Packet::WillTopic(None),
        Packet::WillMsgReq,
        Packet::Pingresp,
        Packet::WillTopicUpd(None),
    ] {
        assert_round_trip(packet);
    }
}

#[test]
fn every_length_around_the_change_of_form() {
    for len in 240..270 {
        assert_round_trip(Packet::WillMsg(WillMsg {
            message: &vec![0x5A; len],
        }));
    }
}

#[test]
fn the_longest_message_is_encoded_and_one_octet_more_is_not() {
    let octets = vec![0; Packet::MAX_LEN - 3];

    assert_round_trip(Packet::WillMsg(WillMsg {
        message: &octets[..Packet::MAX_LEN - 4],
    }));

    let too_long = Packet::WillMsg(WillMsg { message: &octets });
    let mut encoded = Vec::new();
    too_long.encode(&mut encoded);
    encode_message(
        Some(&Encapsulation {
            radius: 0,
            wireless_node_id: &[1],
        }),
        &too_long,
        &mut encoded,
    );
    assert_eq!(too_long.encoded_len(), Packet::MAX_LEN + 1);
    assert_eq!(encoded, []);
}

#[test]
fn a_node_id_that_cannot_be_sent_is_not_sent() {
    for len in [0, Encapsulation::MAX_NODE_ID_LEN + 1] {
        let header = Encapsulation {
            radius: 0,
            wireless_node_id: &vec![7; len],
        };

        let mut encoded = Vec::new();
        header.encode(&mut encoded);
        encode_message(Some(&header), &Packet::Pingresp, &mut encoded);

        assert_eq!(encoded, [], "{len} octets");
    }
}

/// Encodes and decodes; the message has the shortest form and the length that was foretold.
#[track_caller]
fn assert_round_trip(packet: Packet<'_>) {
    let mut encoded = Vec::new();
    packet.encode(&mut encoded);

    assert_eq!(encoded.len(), packet.encoded_len());
    if encoded.len() <= 255 {
        assert_eq!(encoded[..2], [encoded.len() as u8, packet.msg_type() as u8]);
    } else {
        let [high, low] = (encoded.len() as u16).to_be_bytes();
        assert!(
            encoded.len() >= 258,
            "{} octets fit the short form",
            encoded.len() - 2
        );
        assert_eq!(encoded[..4], [1, high, low, packet.msg_type() as u8]);
    }
    assert_eq!(Packet::decode(&encoded), Ok(packet));
}

/// Whatever the octets are: an error lies within them and its answer can be sent; a packet survives encoding.
#[track_caller]
fn assert_sound(octets: &[u8]) {
    let mut encoded = Vec::new();
    match decode_message(octets) {
        Ok((encapsulation, packet)) => {
            encode_message(encapsulation.as_ref(), &packet, &mut encoded);
            assert!(encoded.len() <= octets.len());
            assert_eq!(decode_message(&encoded), Ok((encapsulation, packet)));
        }
        Err(error) => {
            assert!(error.offset <= octets.len());
            assert_eq!(decode_for_gateway(octets), Err(error));
            if let Some(answer) = error.answer {
                answer.encode(&mut encoded);
                assert_eq!(Packet::decode(&encoded), Ok(answer));
            }
        }
    }
}

fn qos() -> impl Strategy<Value = QoS> {
    prop_oneof![
        Just(QoS::AtMostOnce),
        Just(QoS::AtLeastOnce),
        Just(QoS::ExactlyOnce)
    ]
}

/// An id that can name a topic.
fn id() -> impl Strategy<Value = TopicId> {
    (1..0xFFFFu16).prop_map(TopicId)
}

/// A two-octet name: two characters of one octet or one of two.
fn short() -> impl Strategy<Value = ShortTopic> {
    prop_oneof!["[!-~&&[^+#]]{2}", "[à-ÿ]"].prop_map(|name| ShortTopic(name.as_bytes().try_into().unwrap()))
}

fn topic_ref() -> impl Strategy<Value = TopicRef> {
    prop_oneof![
        id().prop_map(TopicRef::Normal),
        id().prop_map(TopicRef::Predefined),
        short().prop_map(TopicRef::Short)
    ]
}

/// Text of every alphabet, at times long enough for the long form.
fn text(min: usize) -> impl Strategy<Value = String> {
    let chars = move |max| vec(any::<char>().prop_filter("U+0000", |c| *c != '\0'), min..max);
    prop_oneof![4 => chars(30), 1 => chars(300)].prop_map(String::from_iter)
}

/// A topic name; `$` comes first only in names of the broker's own, which no leading wildcard matches.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[a-zäß°€𝄞 ./-]{1,40}",
        1 => "([a-z]{0,9}/){26,30}[a-z]{230}",
    ]
}

/// A topic filter, with and without wildcards.
fn filter() -> impl Strategy<Value = String> {
    let level = || prop_oneof![Just("+".to_owned()), "[a-zäß€$]{0,5}"];
    (vec(level(), 1..5), any::<bool>())
        .prop_map(|(levels, rest)| levels.join("/") + if rest { "/#" } else { "" })
        .prop_filter("empty", |filter| !filter.is_empty())
}

fn data() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![4 => vec(any::<u8>(), 0..64), 1 => vec(any::<u8>(), 240..300)]
}
