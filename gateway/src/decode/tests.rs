//! Each message type, and each way to be malformed, in the words that people see.

use super::*;

/// What `snipe decode` prints for a datagram.
fn explain(hex: &str) -> String {
    Explanation::of(&parse_hex(hex).unwrap()).to_string()
}

#[test]
fn example_of_the_manual() {
    assert_eq!(
        explain("0b0c226162010232312e35"),
        "\
0b        length 11
0c        PUBLISH
22        flags  dup=0 qos=1 retain=0 will=0 clean=0 topic-type=10 (short name)
6162      topic \"ab\"
0102      msg id 258
32312e35  payload \"21.5\"
"
    );
}

#[test]
fn advertise() {
    insta::assert_snapshot!(explain("0500010384"), @r##"
    05        length 5
    00        ADVERTISE
    01        gateway id 1
    0384      duration 900 s to the next ADVERTISE
    "##);
}

#[test]
fn searchgw() {
    insta::assert_snapshot!(explain("030100"), @r##"
    03        length 3
    01        SEARCHGW
    00        radius 0 (the whole network)
    "##);
    insta::assert_snapshot!(explain("030103"), @r##"
    03        length 3
    01        SEARCHGW
    03        radius 3
    "##);
}

#[test]
fn gwinfo() {
    insta::assert_snapshot!(explain("030201"), @r##"
    03        length 3
    02        GWINFO
    01        gateway id 1
    "##);
    insta::assert_snapshot!(explain("070201c0a8010a"), @r##"
    07        length 7
    02        GWINFO
    01        gateway id 1
    c0a8010a  gateway address (network dependent)
    "##);
}

#[test]
fn connect() {
    insta::assert_snapshot!(explain("0e040401003c73656e736f722d31"), @r##"
    0e                length 14
    04                CONNECT
    04                flags  dup=0 qos=0 retain=0 will=0 clean=1 topic-type=00
    01                protocol id 1
    003c              keep-alive 60 s
    73656e736f722d31  client id "sensor-1"
    "##);
    insta::assert_snapshot!(explain("0904040100006b6130"), @r##"
    09        length 9
    04        CONNECT
    04        flags  dup=0 qos=0 retain=0 will=0 clean=1 topic-type=00
    01        protocol id 1
    0000      keep-alive 0 (off)
    6b6130    client id "ka0"
    "##);
    insta::assert_snapshot!(explain("06040401003c"), @r##"
    06        length 6
    04        CONNECT
    04        flags  dup=0 qos=0 retain=0 will=0 clean=1 topic-type=00
    01        protocol id 1
    003c      keep-alive 60 s
              client id empty
    "##);
}

#[test]
fn connack() {
    insta::assert_snapshot!(explain("030500"), @r##"
    03        length 3
    05        CONNACK
    00        return code 0: accepted
    "##);
    insta::assert_snapshot!(explain("030501"), @r##"
    03        length 3
    05        CONNACK
    01        rejected: congestion, try again later (return code 1)
    "##);
}

#[test]
fn willtopicreq() {
    insta::assert_snapshot!(explain("0206"), @r##"
    02        length 2
    06        WILLTOPICREQ
    "##);
}

#[test]
fn willtopic() {
    insta::assert_snapshot!(explain("0c07306c6173742f77696c6c"), @r##"
    0c                  length 12
    07                  WILLTOPIC
    30                  flags  dup=0 qos=1 retain=1 will=0 clean=0 topic-type=00
    6c6173742f77696c6c  will topic "last/will"
    "##);
    insta::assert_snapshot!(explain("0207"), @r##"
    02        length 2
    07        WILLTOPIC
              no will: deletes topic and message
    "##);
    insta::assert_snapshot!(explain("030720"), @r##"
    03        length 3
    07        WILLTOPIC
    20        flags  dup=0 qos=1 retain=0 will=0 clean=0 topic-type=00
              will topic empty: no will
    "##);
}

#[test]
fn willmsgreq() {
    insta::assert_snapshot!(explain("0208"), @r##"
    02        length 2
    08        WILLMSGREQ
    "##);
}

#[test]
fn willmsg() {
    insta::assert_snapshot!(explain("0609676f6e65"), @r##"
    06        length 6
    09        WILLMSG
    676f6e65  will message "gone"
    "##);
    insta::assert_snapshot!(explain("0209"), @r##"
    02        length 2
    09        WILLMSG
              will message empty
    "##);
}

#[test]
fn register() {
    insta::assert_snapshot!(explain("150a000000027261756d2f6bc3bc6368652fc2b043"), @r##"
    15                              length 21
    0a                              REGISTER
    0000                            topic id 0 (none)
    0002                            msg id 2
    7261756d2f6bc3bc6368652fc2b043  topic name "raum/küche/°C"
    "##);
}

#[test]
fn regack() {
    insta::assert_snapshot!(explain("070b0005000100"), @r##"
    07        length 7
    0b        REGACK
    0005      topic id 5
    0001      msg id 1
    00        return code 0: accepted
    "##);
    insta::assert_snapshot!(explain("070b0000000903"), @r##"
    07        length 7
    0b        REGACK
    0000      topic id 0 (none)
    0009      msg id 9
    03        rejected: not supported (return code 3)
    "##);
}

#[test]
fn publish() {
    insta::assert_snapshot!(explain("080cd00005000878"), @r##"
    08        length 8
    0c        PUBLISH
    d0        flags  dup=1 qos=2 retain=1 will=0 clean=0 topic-type=00 (normal id)
    0005      topic id 5
    0008      msg id 8
    78        payload "x"
    "##);
    insta::assert_snapshot!(explain("080c210011000979"), @r##"
    08        length 8
    0c        PUBLISH
    21        flags  dup=0 qos=1 retain=0 will=0 clean=0 topic-type=01 (predefined id)
    0011      predefined topic id 17
    0009      msg id 9
    79        payload "y"
    "##);
    insta::assert_snapshot!(explain("080c627474000076"), @r##"
    08        length 8
    0c        PUBLISH
    62        flags  dup=0 qos=-1 retain=0 will=0 clean=0 topic-type=10 (short name)
    7474      topic "tt"
    0000      msg id 0
    76        payload "v"
    "##);
    insta::assert_snapshot!(explain("070c300005000a"), @r##"
    07        length 7
    0c        PUBLISH
    30        flags  dup=0 qos=1 retain=1 will=0 clean=0 topic-type=00 (normal id)
    0005      topic id 5
    000a      msg id 10
              payload empty
    "##);
    insta::assert_snapshot!(explain("0b0c00000500000001fffe"), @r##"
    0b        length 11
    0c        PUBLISH
    00        flags  dup=0 qos=0 retain=0 will=0 clean=0 topic-type=00 (normal id)
    0005      topic id 5
    0000      msg id 0
    0001fffe  payload of 4 octets, not text
    "##);
    insta::assert_snapshot!(explain("080c000005000361"), @r##"
    08        length 8
    0c        PUBLISH
    00        flags  dup=0 qos=0 retain=0 will=0 clean=0 topic-type=00 (normal id)
    0005      topic id 5
    0003      msg id 3 (ignored: QoS 0 and -1 have none)
    61        payload "a"
    "##);
}

#[test]
fn puback() {
    insta::assert_snapshot!(explain("070d0005000002"), @r##"
    07        length 7
    0d        PUBACK
    0005      topic id 5
    0000      msg id 0
    02        rejected: invalid topic id (return code 2)
    "##);
}

#[test]
fn pubcomp() {
    insta::assert_snapshot!(explain("040e0008"), @r##"
    04        length 4
    0e        PUBCOMP
    0008      msg id 8
    "##);
}

#[test]
fn pubrec() {
    insta::assert_snapshot!(explain("040f0008"), @r##"
    04        length 4
    0f        PUBREC
    0008      msg id 8
    "##);
}

#[test]
fn pubrel() {
    insta::assert_snapshot!(explain("04100008"), @r##"
    04        length 4
    10        PUBREL
    0008      msg id 8
    "##);
}

#[test]
fn subscribe() {
    insta::assert_snapshot!(explain("101240000c726f6f6d2f2b2f74656d70"), @r##"
    10                      length 16
    12                      SUBSCRIBE
    40                      flags  dup=0 qos=2 retain=0 will=0 clean=0 topic-type=00 (topic name)
    000c                    msg id 12
    726f6f6d2f2b2f74656d70  topic filter "room/+/temp"
    "##);
    insta::assert_snapshot!(explain("071202000d6162"), @r##"
    07        length 7
    12        SUBSCRIBE
    02        flags  dup=0 qos=0 retain=0 will=0 clean=0 topic-type=10 (short name)
    000d      msg id 13
    6162      topic "ab"
    "##);
    insta::assert_snapshot!(explain("071221000e0011"), @r##"
    07        length 7
    12        SUBSCRIBE
    21        flags  dup=0 qos=1 retain=0 will=0 clean=0 topic-type=01 (predefined id)
    000e      msg id 14
    0011      predefined topic id 17
    "##);
}

#[test]
fn suback() {
    insta::assert_snapshot!(explain("0813400000000c00"), @r##"
    08        length 8
    13        SUBACK
    40        flags  dup=0 qos=2 retain=0 will=0 clean=0 topic-type=00
    0000      topic id 0 (none)
    000c      msg id 12
    00        return code 0: accepted
    "##);
}

#[test]
fn unsubscribe() {
    insta::assert_snapshot!(explain("101400000f726f6f6d2f322f74656d70"), @r##"
    10                      length 16
    14                      UNSUBSCRIBE
    00                      flags  dup=0 qos=0 retain=0 will=0 clean=0 topic-type=00 (topic name)
    000f                    msg id 15
    726f6f6d2f322f74656d70  topic filter "room/2/temp"
    "##);
    insta::assert_snapshot!(explain("07140200106162"), @r##"
    07        length 7
    14        UNSUBSCRIBE
    02        flags  dup=0 qos=0 retain=0 will=0 clean=0 topic-type=10 (short name)
    0010      msg id 16
    6162      topic "ab"
    "##);
    insta::assert_snapshot!(explain("07140100110011"), @r##"
    07        length 7
    14        UNSUBSCRIBE
    01        flags  dup=0 qos=0 retain=0 will=0 clean=0 topic-type=01 (predefined id)
    0011      msg id 17
    0011      predefined topic id 17
    "##);
}

#[test]
fn unsuback() {
    insta::assert_snapshot!(explain("0415000f"), @r##"
    04        length 4
    15        UNSUBACK
    000f      msg id 15
    "##);
}

#[test]
fn pingreq() {
    insta::assert_snapshot!(explain("0216"), @r##"
    02        length 2
    16        PINGREQ
    "##);
    insta::assert_snapshot!(explain("0a1673656e736f722d31"), @r##"
    0a                length 10
    16                PINGREQ
    73656e736f722d31  client id "sensor-1" (wakes up and asks for its messages)
    "##);
}

#[test]
fn pingresp() {
    insta::assert_snapshot!(explain("0217"), @r##"
    02        length 2
    17        PINGRESP
    "##);
}

#[test]
fn disconnect() {
    insta::assert_snapshot!(explain("0218"), @r##"
    02        length 2
    18        DISCONNECT
    "##);
    insta::assert_snapshot!(explain("04180e10"), @r##"
    04        length 4
    18        DISCONNECT
    0e10      duration 3600 s (goes to sleep)
    "##);
    insta::assert_snapshot!(explain("04180000"), @r##"
    04        length 4
    18        DISCONNECT
    0000      duration 0 (no sleep)
    "##);
    insta::assert_snapshot!(explain("0618000a3c73"), @r##"
    06        length 6
    18        DISCONNECT
    000a      duration 10 s (goes to sleep)
    3c73      2 stray octets, ignored
    "##);
}

#[test]
fn willtopicupd() {
    insta::assert_snapshot!(explain("0c1a406c6173742f77696c6c"), @r##"
    0c                  length 12
    1a                  WILLTOPICUPD
    40                  flags  dup=0 qos=2 retain=0 will=0 clean=0 topic-type=00
    6c6173742f77696c6c  will topic "last/will"
    "##);
    insta::assert_snapshot!(explain("021a"), @r##"
    02        length 2
    1a        WILLTOPICUPD
              no will: deletes topic and message
    "##);
}

#[test]
fn willtopicresp() {
    insta::assert_snapshot!(explain("031b00"), @r##"
    03        length 3
    1b        WILLTOPICRESP
    00        return code 0: accepted
    "##);
}

#[test]
fn willmsgupd() {
    insta::assert_snapshot!(explain("051c627965"), @r##"
    05        length 5
    1c        WILLMSGUPD
    627965    will message "bye"
    "##);
}

#[test]
fn willmsgresp() {
    insta::assert_snapshot!(explain("031d03"), @r##"
    03        length 3
    1d        WILLMSGRESP
    03        rejected: not supported (return code 3)
    "##);
}

#[test]
fn encapsulation() {
    insta::assert_snapshot!(explain("0bfe000013a20040522baa0a040401003c7a622d37"), @r##"
    0b                length 11 (of the encapsulation)
    fe                ENCAPSULATED  a forwarder sends this for a wireless node
    00                control  radius=0
    0013a20040522baa  wireless node id
    0a                length 10
    04                CONNECT
    04                flags  dup=0 qos=0 retain=0 will=0 clean=1 topic-type=00
    01                protocol id 1
    003c              keep-alive 60 s
    7a622d37          client id "zb-7"
    "##);
    insta::assert_snapshot!(explain("05fe020007030500"), @r##"
    05        length 5 (of the encapsulation)
    fe        ENCAPSULATED  a forwarder sends this for a wireless node
    02        control  radius=2
    0007      wireless node id
    03        length 3
    05        CONNACK
    00        return code 0: accepted
    "##);
}

#[test]
fn three_octet_length_of_a_short_message() {
    insta::assert_snapshot!(explain("01000417"), @r##"
    010004    length 4 (three-octet form)
    17        PINGRESP
    "##);
}

#[test]
fn flags_without_meaning_in_the_message() {
    insta::assert_snapshot!(explain("0904f701003c666c67"), @r##"
    09        length 9
    04        CONNECT
    f7        flags  dup=1 qos=-1 retain=1 will=0 clean=1 topic-type=11  (ignored here: dup, qos, retain, topic-type)
    01        protocol id 1
    003c      keep-alive 60 s
    666c67    client id "flg"
    "##);
}

#[test]
fn reserved_message_type() {
    insta::assert_snapshot!(explain("0203"), @r##"
    02        length 2
    03        reserved message type 0x03

    error at octet 1: the message type is reserved (reserved_type)
    a gateway drops it without an answer and counts it
    "##);
}

#[test]
fn header_only() {
    insta::assert_snapshot!(explain("02"), @r##"
    02        length 2, found 1
              type missing

    error at octet 1: the datagram ends within the header (truncated_header)
    a gateway drops it without an answer and counts it
    "##);
    insta::assert_snapshot!(explain("010004"), @r##"
    010004    length 4 (three-octet form), found 3
              type missing

    error at octet 3: the datagram ends within the header (truncated_header)
    a gateway drops it without an answer and counts it
    "##);
}

#[test]
fn length_that_differs_from_the_datagram() {
    insta::assert_snapshot!(explain("140c200005000761"), @r##"
    14        length 20, found 8
    0c        PUBLISH
    20        flags  dup=0 qos=1 retain=0 will=0 clean=0 topic-type=00 (normal id)
    0005      topic id 5
    0007      msg id 7
    61        payload "a"

    error at octet 0: the length field differs from the datagram's length (length_mismatch)
    a gateway drops it without an answer and counts it
    "##);
    insta::assert_snapshot!(explain("0216ff"), @r##"
    02        length 2, found 3
    16        PINGREQ
    ff        1 octet beyond the length

    error at octet 0: the length field differs from the datagram's length (length_mismatch)
    a gateway drops it without an answer and counts it
    "##);
    insta::assert_snapshot!(explain("01000216"), @r##"
    010002    length 2 (three-octet form), found 4
    16        PINGREQ

    error at octet 0: the length field is smaller than its own header (length_too_small)
    a gateway drops it without an answer and counts it
    "##);
}

#[test]
fn fields_that_are_cut_off_or_missing() {
    insta::assert_snapshot!(explain("050a000000"), @r##"
    05        length 5
    0a        REGISTER
    0000      topic id 0 (none)
    00        msg id cut off

    error at octet 5: the message is too short for its type (body_too_short)
    a gateway drops it without an answer and counts it
    "##);
    insta::assert_snapshot!(explain("0210"), @r##"
    02        length 2
    10        PUBREL
              msg id missing

    error at octet 2: the message is too short for its type (body_too_short)
    a gateway drops it without an answer and counts it
    "##);
}

#[test]
fn octets_too_many() {
    insta::assert_snapshot!(explain("050f000800"), @r##"
    05        length 5
    0f        PUBREC
    0008      msg id 8
    00        1 octet too many

    error at octet 4: the message is too long for its type (body_too_long)
    a gateway drops it without an answer and counts it
    "##);
    insta::assert_snapshot!(explain("081201000e001100"), @r##"
    08        length 8
    12        SUBSCRIBE
    01        flags  dup=0 qos=0 retain=0 will=0 clean=0 topic-type=01 (predefined id)
    000e      msg id 14
    0011      predefined topic id 17
    00        1 octet too many

    error at octet 7: the message is too long for its type (body_too_long)
    a gateway drops it without an answer and counts it
    "##);
}

#[test]
fn refusal_with_its_answer() {
    insta::assert_snapshot!(explain("080c20ffff000461"), @r##"
    08        length 8
    0c        PUBLISH
    20        flags  dup=0 qos=1 retain=0 will=0 clean=0 topic-type=00 (normal id)
    ffff      topic id 65535 (reserved)
    0004      msg id 4
    61        payload "a"

    error at octet 3: topic ids 0x0000 and 0xFFFF are reserved (invalid_topic_id)
    a gateway answers 070dffff000402: PUBACK (m4, topic id 65535, invalid topic id (return code 2))
    "##);
    insta::assert_snapshot!(explain("090a0000000561fffe"), @r##"
    09        length 9
    0a        REGISTER
    0000      topic id 0 (none)
    0005      msg id 5
    61fffe    topic name "a\xff\xfe" (not UTF-8)

    error at octet 7: the text is not UTF-8 or contains characters that MQTT does not carry (invalid_utf8)
    a gateway answers 070b0000000503: REGACK (m5, topic id 0, not supported (return code 3))
    "##);
    insta::assert_snapshot!(explain("071203000d6162"), @r##"
    07        length 7
    12        SUBSCRIBE
    03        flags  dup=0 qos=0 retain=0 will=0 clean=0 topic-type=11 (reserved)
    000d      msg id 13
    6162      topic of a reserved type

    error at octet 2: topic id type 0b11 is reserved (reserved_topic_id_type)
    a gateway answers 0813000000000d03: SUBACK (q0, m13, topic id 0, not supported (return code 3))
    "##);
    insta::assert_snapshot!(explain("08040402003c7632"), @r##"
    08        length 8
    04        CONNECT
    04        flags  dup=0 qos=0 retain=0 will=0 clean=1 topic-type=00
    02        protocol id 2 (MQTT-SN 1.2 has 1)
    003c      keep-alive 60 s
    7632      client id "v2"

    error at octet 3: the protocol id is not 0x01 (unsupported_protocol_id)
    a gateway answers 030503: CONNACK (not supported (return code 3))
    "##);
    insta::assert_snapshot!(explain("051400000f"), @r##"
    05        length 5
    14        UNSUBSCRIBE
    00        flags  dup=0 qos=0 retain=0 will=0 clean=0 topic-type=00 (topic name)
    000f      msg id 15
              topic filter empty

    error at octet 5: the topic name is empty (empty_topic)
    a gateway answers 0415000f: UNSUBACK (m15)
    "##);
}

#[test]
fn malformed_encapsulation() {
    insta::assert_snapshot!(explain("03fe000216"), @r##"
    03        length 3 (of the encapsulation)
    fe        ENCAPSULATED  a forwarder sends this for a wireless node
    00        control  radius=0
              wireless node id empty
    02        length 2
    16        PINGREQ

    error at octet 3: the wireless node id is empty (empty_node_id)
    a gateway drops it without an answer and counts it
    "##);
    insta::assert_snapshot!(explain("05fe000007"), @r##"
    05        length 5 (of the encapsulation)
    fe        ENCAPSULATED  a forwarder sends this for a wireless node
    00        control  radius=0
    0007      wireless node id
              length missing

    error at octet 5: the datagram ends within the header (truncated_header)
    a gateway drops it without an answer and counts it
    "##);
    insta::assert_snapshot!(explain("05fe00000705fe0000080216"), @r##"
    05        length 5 (of the encapsulation)
    fe        ENCAPSULATED  a forwarder sends this for a wireless node
    00        control  radius=0
    0007      wireless node id
    05        length 5, found 7
    fe        ENCAPSULATED
    000008    3 octets not read
    0216      2 octets beyond the length

    error at octet 5: an encapsulation inside an encapsulation (nested_encapsulation)
    a gateway drops it without an answer and counts it
    "##);
    insta::assert_snapshot!(explain("05fe000007080c2000"), @r##"
    05        length 5 (of the encapsulation)
    fe        ENCAPSULATED  a forwarder sends this for a wireless node
    00        control  radius=0
    0007      wireless node id
    08        length 8, found 4
    0c        PUBLISH
    20        flags  dup=0 qos=1 retain=0 will=0 clean=0 topic-type=00 (normal id)
    00        topic id cut off

    error at octet 5: the length field differs from the datagram's length (length_mismatch)
    a gateway drops it without an answer and counts it
    "##);
}

#[test]
fn long_fields_are_wrapped() {
    insta::assert_snapshot!(explain(&format!("1b0c000005{}{}", "0000", "61".repeat(20))), @r##"
    1b                                length 27
    0c                                PUBLISH
    00                                flags  dup=0 qos=0 retain=0 will=0 clean=0 topic-type=00 (normal id)
    0005                              topic id 5
    0000                              msg id 0
    61616161616161616161616161616161  payload "aaaaaaaaaaaaaaaaaaaa"
    61616161
    "##);
}

#[test]
fn answer_to_an_encapsulated_message_is_encapsulated() {
    insta::assert_snapshot!(explain("05fe000007 060a00000001"), @r##"
    05        length 5 (of the encapsulation)
    fe        ENCAPSULATED  a forwarder sends this for a wireless node
    00        control  radius=0
    0007      wireless node id
    06        length 6
    0a        REGISTER
    0000      topic id 0 (none)
    0001      msg id 1
              topic name empty

    error at octet 11: the topic name is empty (empty_topic)
    a gateway answers 05fe000007070b0000000103: REGACK (m1, topic id 0, not supported (return code 3))
    "##);
}

#[test]
fn empty_datagram() {
    assert_eq!(
        explain(""),
        "          length missing\n\n\
         error at octet 0: the datagram ends within the header (truncated_header)\n\
         a gateway drops it without an answer and counts it\n"
    );
}

/// All vectors, whole and cut at every length: every octet is shown once and in its place, and the verdict on
/// the whole ones is the expected one.
#[test]
fn every_octet_of_every_vector_is_shown_in_order() {
    let vectors: serde_json::Value =
        serde_json::from_str(include_str!("../../../sn-codec/tests/vectors-1.2.json")).unwrap();
    let vectors = vectors.as_array().unwrap();
    assert!(vectors.len() >= 151);
    for vector in vectors {
        let datagram = parse_hex(vector["hex"].as_str().unwrap()).unwrap();
        for len in 0..=datagram.len() {
            let explanation = Explanation::of(&datagram[..len]);
            let shown: Vec<u8> = explanation
                .rows
                .iter()
                .flat_map(|row| row.octets)
                .copied()
                .collect();
            assert_eq!(shown, datagram[..len], "{} cut to {len}", vector["name"]);
        }
        // A datagram on the command line has no direction, so that one refusal does not apply.
        let accepted = vector["accept"] == true || vector["error"] == "wrong_direction";
        assert_eq!(
            Explanation::of(&datagram).verdict.is_ok(),
            accepted,
            "{}",
            vector["name"]
        );
    }
}

#[test]
fn hex_is_read_in_the_usual_notations() {
    for text in [
        "0216",
        "02 16",
        "02:16",
        "0x02 0x16",
        "0X0216",
        " 02\t16\n",
        "0x0216",
    ] {
        assert_eq!(parse_hex(text), Ok(vec![0x02, 0x16]), "{text:?}");
    }
    assert_eq!(parse_hex("fF"), Ok(vec![0xFF]));
    assert_eq!(parse_hex(""), Ok(vec![]));
}

#[test]
fn what_is_not_hex_is_refused() {
    assert_eq!(
        parse_hex("02 1g"),
        Err("'g' in \"1g\" is not a hex digit".to_owned())
    );
    assert_eq!(
        parse_hex("5:fe"),
        Err("\"5\" has an odd number of hex digits, and an octet has two".to_owned())
    );
}
