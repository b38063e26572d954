//! Connections over pipes, with the task and the router behind them, on paused time.

use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex};
use tokio::sync::mpsc::{self, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{Connection, Ending};
use crate::embedded::EmbeddedLimits;
use crate::embedded::channel::FromConnection;
use crate::embedded::router::{Router, RouterLimits};
use crate::embedded::task::Task;

const PACKET_BYTES: u32 = 1024;

const CONNECT_V5: &[u8] = b"\x10\x0e\0\x04MQTT\x05\x02\0\0\0\0\x01c";
const CONNACK_V5: &[u8] = b"\x20\x0e\0\0\x0b\x21\0\x40\x22\0\x10\x27\0\0\x04\0";
const CONNECT_V3: &[u8] = b"\x10\x0d\0\x04MQTT\x04\x02\0\0\0\x01c";
const CONNACK_V3: &[u8] = b"\x20\x02\0\0";
const PINGREQ: &[u8] = b"\xc0\0";
const PINGRESP: &[u8] = b"\xd0\0";

#[tokio::test(start_paused = true)]
async fn no_connect_for_ten_seconds_closes() {
    let broker = Broker::start();
    let mut client = broker.accept();
    let start = Instant::now();
    assert_eq!(client.rest().await, b"");
    assert!((10..11).contains(&start.elapsed().as_secs()));
    assert!(matches!(client.ending().await, Ending::NoConnect));
}

#[tokio::test(start_paused = true)]
async fn a_connect_octet_by_octet_has_no_longer() {
    let broker = Broker::start();
    let mut client = broker.accept();
    for octet in CONNECT_V5.iter().take(12) {
        // The last finds the connection closed.
        let _ = client.stream.write_all(&[*octet]).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(matches!(client.ending().await, Ending::NoConnect));
}

#[tokio::test(start_paused = true)]
async fn silence_beyond_one_and_a_half_keep_alives_closes() {
    let broker = Broker::start();
    let mut client = broker
        .connect(b"\x10\x0e\0\x04MQTT\x05\x02\0\x0a\0\0\x01c", CONNACK_V5)
        .await;
    tokio::time::sleep(Duration::from_secs(14)).await;
    client.send(PINGREQ).await;
    client.expect(PINGRESP).await;
    let start = Instant::now();
    assert_eq!(client.rest().await, b"\xe0\x01\x8d");
    assert_eq!(start.elapsed().as_secs(), 15);
    assert!(matches!(client.ending().await, Ending::Silent));
}

#[tokio::test(start_paused = true)]
async fn without_keep_alive_silence_is_fine_and_wakes_nobody() {
    let broker = Broker::start();
    let mut client = broker.connect(CONNECT_V5, CONNACK_V5).await;
    tokio::time::sleep(Duration::from_secs(100_000)).await;
    client.send(PINGREQ).await;
    client.expect(PINGRESP).await;
}

#[tokio::test(start_paused = true)]
async fn a_packet_that_does_not_get_complete_closes() {
    let broker = Broker::start();
    let mut client = broker.connect(CONNECT_V5, CONNACK_V5).await;
    let start = Instant::now();
    client.send(b"\x30\x7f").await;
    for _ in 0..7 {
        tokio::time::sleep(Duration::from_secs(8)).await;
        client.send(b"x").await;
    }
    assert_eq!(client.rest().await, b"\xe0\x01\x80");
    assert_eq!(start.elapsed().as_secs(), 60);
    assert!(matches!(client.ending().await, Ending::SlowPacket));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_is_closed_and_hinders_nobody() {
    let broker = Broker::start();
    let mut deaf = broker.connect(CONNECT_V5, CONNACK_V5).await;
    deaf.send(b"\x82\x07\0\x01\0\0\x01t\0").await;
    deaf.expect(b"\x90\x04\0\x01\0\0").await;
    let mut publisher = broker.connect(&connect_v5("p"), CONNACK_V5).await;
    let message = publish_v5(b"t", &[b'x'; 900]);
    for _ in 0..1000 {
        publisher.send(&message).await;
    }
    publisher.send(PINGREQ).await;
    publisher.expect(PINGRESP).await;
    let start = Instant::now();
    assert!(matches!(deaf.ending().await, Ending::Stalled));
    assert!((30..32).contains(&start.elapsed().as_secs()));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_is_taken_over_at_once() {
    let broker = Broker::start();
    let mut deaf = broker.connect(CONNECT_V5, CONNACK_V5).await;
    deaf.send(b"\x82\x07\0\x01\0\0\x01t\0").await;
    deaf.expect(b"\x90\x04\0\x01\0\0").await;
    let mut publisher = broker.connect(&connect_v5("p"), CONNACK_V5).await;
    publisher.send(&publish_v5(b"t", &[b'x'; 900]).repeat(50)).await;
    publisher.send(PINGREQ).await;
    publisher.expect(PINGRESP).await;

    let start = Instant::now();
    let mut new = broker.connect(CONNECT_V5, CONNACK_V5).await;
    assert_eq!(start.elapsed(), Duration::ZERO);
    deaf.ending().await;
    assert!(start.elapsed() < Duration::from_secs(1));
    new.send(PINGREQ).await;
    new.expect(PINGRESP).await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_costs_one_connection_and_its_will_is_published() {
    struct Panics(DuplexStream);
    impl AsyncRead for Panics {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let read = Pin::new(&mut self.0).poll_read(cx, buf);
            assert!(!buf.filled().starts_with(PINGREQ), "it panics, as it should");
            read
        }
    }
    impl AsyncWrite for Panics {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            octets: &[u8],
        ) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.0).poll_write(cx, octets)
        }
        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }
        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    let broker = Broker::start();
    let mut other = broker.connect(&connect_v5("o"), CONNACK_V5).await;
    other.send(b"\x82\x07\0\x01\0\0\x01w\0").await;
    other.expect(b"\x90\x04\0\x01\0\0").await;
    let (stream, ours) = duplex(4096);
    let mut client = broker.serve(Panics(stream), ours);
    client
        .send(b"\x10\x14\0\x04MQTT\x05\x06\0\0\0\0\x01c\0\0\x01w\0\0")
        .await;
    client.expect(CONNACK_V5).await;
    client.send(PINGREQ).await;
    assert!(client.connection.await.unwrap_err().is_panic());
    other.expect(&publish_v5(b"w", b"")).await;
}

#[tokio::test(start_paused = true)]
async fn what_stands_behind_connect_is_taken_after_connack() {
    let broker = Broker::start();
    let mut client = broker.accept();
    let mut octets = CONNECT_V5.to_vec();
    octets.extend_from_slice(b"\x82\x07\0\x01\0\0\x01t\0");
    octets.extend_from_slice(&publish_v5(b"t", b"hello"));
    client.send(&octets).await;
    client.expect(CONNACK_V5).await;
    client.expect(b"\x90\x04\0\x01\0\0").await;
    client.expect(&publish_v5(b"t", b"hello")).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_behind_connect_ends_the_connection_after_connack() {
    let broker = Broker::start();
    for wrong in [&b"\x30\x80\x08"[..], b"\x30\xff\xff\xff\xff\x01", b"\x10\0"] {
        let mut client = broker.accept();
        client.send(&[CONNECT_V3, wrong].concat()).await;
        assert_eq!(client.rest().await, CONNACK_V3);
        assert!(matches!(client.ending().await, Ending::Reason(_)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_packet_may_come_in_any_pieces() {
    let broker = Broker::start();
    let mut client = broker.accept();
    let mut octets = CONNECT_V5.to_vec();
    octets.extend_from_slice(b"\x82\x07\0\x01\0\0\x01t\0");
    octets.extend_from_slice(&publish_v5(b"t", &[b'y'; 700]));
    for octet in octets {
        client.send(&[octet]).await;
        tokio::task::yield_now().await;
    }
    client.expect(CONNACK_V5).await;
    client.expect(b"\x90\x04\0\x01\0\0").await;
    client.expect(&publish_v5(b"t", &[b'y'; 700])).await;
}

#[tokio::test(start_paused = true)]
async fn connects_that_are_refused_are_answered_in_their_version() {
    let cases: &[(&str, &[u8], &[u8])] = &[
        (
            "version 3 by its name",
            b"\x10\x0f\0\x06MQIsdp\x03\x02\0\0\0\x01c",
            b"\x20\x02\0\x01",
        ),
        (
            "version 3",
            b"\x10\x0d\0\x04MQTT\x03\x02\0\0\0\x01c",
            b"\x20\x02\0\x01",
        ),
        (
            "version 6",
            b"\x10\x0e\0\x04MQTT\x06\x02\0\0\0\0\x01c",
            b"\x20\x03\0\x84\0",
        ),
        (
            "another protocol",
            b"\x10\x0e\0\x04MQTS\x05\x02\0\0\0\0\x01c",
            b"",
        ),
        ("no CONNECT", b"\xc0\0", b""),
        ("HTTP", b"GET / HTTP/1.1\r\n\r\n", b""),
        (
            "reserved flag",
            b"\x10\x0e\0\x04MQTT\x05\x03\0\0\0\0\x01c",
            b"\x20\x03\0\x81\0",
        ),
        (
            "will QoS without will",
            b"\x10\x0e\0\x04MQTT\x05\x0a\0\0\0\0\x01c",
            b"\x20\x03\0\x81\0",
        ),
        (
            "will QoS 3",
            b"\x10\x14\0\x04MQTT\x05\x1e\0\0\0\0\x01c\0\0\x01t\0\0",
            b"\x20\x03\0\x81\0",
        ),
        (
            "octet left over",
            b"\x10\x0f\0\x04MQTT\x05\x02\0\0\0\0\x01cx",
            b"\x20\x03\0\x81\0",
        ),
        (
            "cut short",
            b"\x10\x0d\0\x04MQTT\x05\x02\0\0\0\0\x01",
            b"\x20\x03\0\x81\0",
        ),
        (
            "3.1.1, cut short in the client id",
            b"\x10\x0d\0\x04MQTT\x04\x02\0\0\0\x09sh",
            b"",
        ),
        (
            "3.1.1, no password",
            b"\x10\x10\0\x04MQTT\x04\xc2\0\0\0\x01c\0\x01u",
            b"",
        ),
        (
            "U+0000 in client id",
            b"\x10\x0e\0\x04MQTT\x05\x02\0\0\0\0\x01\0",
            b"\x20\x03\0\x81\0",
        ),
        (
            "receive maximum 0",
            b"\x10\x11\0\x04MQTT\x05\x02\0\0\x03\x21\0\0\0\x01c",
            b"\x20\x03\0\x82\0",
        ),
        (
            "authentication method",
            b"\x10\x12\0\x04MQTT\x05\x02\0\0\x04\x15\0\x01x\0\x01c",
            b"\x20\x03\0\x8c\0",
        ),
        (
            "authentication data alone",
            b"\x10\x12\0\x04MQTT\x05\x02\0\0\x04\x16\0\x01x\0\x01c",
            b"\x20\x03\0\x82\0",
        ),
        (
            "3.1.1, no id, session kept",
            b"\x10\x0c\0\x04MQTT\x04\0\0\0\0\0",
            b"\x20\x02\0\x02",
        ),
        (
            "3.1.1, octet left over",
            b"\x10\x0e\0\x04MQTT\x04\x02\0\0\0\x01cx",
            b"",
        ),
        (
            "3.1.1, password alone",
            b"\x10\x10\0\x04MQTT\x04\x42\0\0\0\x01c\0\x01p",
            b"",
        ),
        ("longer than allowed", b"\x10\xff\x7f\0\x04MQTT", b""),
        ("length of five octets", b"\x10\xff\xff\xff\xff\x01", b""),
    ];
    let broker = Broker::start();
    for (what, connect, answer) in cases {
        let mut client = broker.accept();
        client.send(connect).await;
        assert_eq!(client.rest().await, *answer, "{what}");
        assert!(matches!(client.ending().await, Ending::Reason(_)), "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn connects_that_look_odd_are_accepted() {
    let cases: &[(&str, &[u8], &[u8])] = &[
        (
            "topic alias maximum 0",
            b"\x10\x11\0\x04MQTT\x05\x02\0\0\x03\x22\0\0\0\x01c",
            CONNACK_V5,
        ),
        (
            "password without user name",
            b"\x10\x11\0\x04MQTT\x05\x42\0\0\0\0\x01c\0\x01p",
            CONNACK_V5,
        ),
        (
            "the largest keep-alive",
            b"\x10\x0e\0\x04MQTT\x05\x02\xff\xff\0\0\x01c",
            CONNACK_V5,
        ),
        (
            "3.1.1 with all of it",
            b"\x10\x1c\0\x04MQTT\x04\xee\0\0\0\x01c\0\x01t\0\x02hi\0\x01u\0\x03pwd",
            CONNACK_V3,
        ),
        (
            "request problem information 0",
            b"\x10\x10\0\x04MQTT\x05\x02\0\0\x02\x17\0\0\x01c",
            CONNACK_V5,
        ),
    ];
    let broker = Broker::start();
    for (what, connect, answer) in cases {
        let mut client = broker.accept();
        client.send(connect).await;
        client.expect(answer).await;
        client.send(PINGREQ).await;
        client.expect(PINGRESP).await;
        client.send(b"\xe0\0").await;
        assert!(matches!(client.ending().await, Ending::Disconnect), "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn packets_that_are_wrong_end_an_mqtt_5_connection_with_a_reason() {
    let cases: &[(&str, &[u8], u8)] = &[
        ("second CONNECT", CONNECT_V5, 0x82),
        ("AUTH", b"\xf0\0", 0x82),
        ("CONNACK", b"\x20\x03\0\0\0", 0x81),
        ("PINGREQ with a body", b"\xc0\x01x", 0x81),
        ("PINGREQ with flags", b"\xc1\0", 0x81),
        ("packet longer than allowed", b"\x30\x80\x08", 0x95),
        ("length of five octets", b"\x30\xff\xff\xff\xff\x01", 0x81),
        ("PUBLISH with QoS 3", b"\x36\x06\0\x01t\0\x01\0", 0x81),
        ("PUBLISH with DUP and QoS 0", b"\x38\x04\0\x01t\0", 0x81),
        ("PUBLISH with packet id 0", b"\x32\x06\0\x01t\0\0\0", 0x82),
        ("PUBLISH without properties", b"\x30\x03\0\x01t", 0x81),
        ("PUBLISH without topic or alias", b"\x30\x03\0\0\0", 0x82),
        ("PUBLISH with topic alias 0", b"\x30\x06\0\0\x03\x23\0\0", 0x82),
        (
            "PUBLISH with an unknown topic alias",
            b"\x30\x06\0\0\x03\x23\0\x01",
            0x82,
        ),
        (
            "PUBLISH with a topic alias too high",
            b"\x30\x07\0\x01t\x03\x23\0\x11",
            0x94,
        ),
        (
            "PUBLISH with a subscription id",
            b"\x30\x06\0\x01t\x02\x0b\x01",
            0x82,
        ),
        ("PUBLISH with U+0000", b"\x30\x04\0\x01\0\0", 0x81),
        (
            "PUBLISH with U+0000 in a user property",
            b"\x30\x0b\0\x01t\x07\x26\0\x01\0\0\x01v",
            0x81,
        ),
        (
            "PUBLISH with a wildcard response topic",
            b"\x30\x08\0\x01t\x04\x08\0\x01#",
            0x82,
        ),
        ("PUBLISH not UTF-8", b"\x30\x04\0\x01\xff\0", 0x81),
        (
            "PUBLISH with a length not in its shortest form",
            b"\x30\x05\0\x01t\x80\0",
            0x81,
        ),
        ("PUBACK with packet id 0", b"\x40\x02\0\0", 0x81),
        ("PUBACK with an unknown reason", b"\x40\x03\0\x01\x01", 0x81),
        ("PUBREL with flags 0", b"\x60\x02\0\x01", 0x81),
        ("SUBSCRIBE with flags 0", b"\x80\x07\0\x01\0\0\x01t\0", 0x81),
        ("SUBSCRIBE without filters", b"\x82\x03\0\x01\0", 0x82),
        ("SUBSCRIBE with packet id 0", b"\x82\x07\0\0\0\0\x01t\0", 0x82),
        ("SUBSCRIBE with QoS 3", b"\x82\x07\0\x01\0\0\x01t\x03", 0x81),
        (
            "SUBSCRIBE with retain handling 3",
            b"\x82\x07\0\x01\0\0\x01t\x30",
            0x81,
        ),
        (
            "SUBSCRIBE with reserved options",
            b"\x82\x07\0\x01\0\0\x01t\x40",
            0x81,
        ),
        (
            "SUBSCRIBE with subscription id 0",
            b"\x82\x09\0\x01\x02\x0b\0\0\x01t\0",
            0x82,
        ),
        (
            "SUBSCRIBE with two subscription ids",
            b"\x82\x0b\0\x01\x04\x0b\x01\x0b\x02\0\x01t\0",
            0x82,
        ),
        ("SUBSCRIBE without options", b"\x82\x06\0\x01\0\0\x01t", 0x81),
        ("UNSUBSCRIBE without filters", b"\xa2\x03\0\x01\0", 0x82),
        (
            "DISCONNECT that asks for a session",
            b"\xe0\x07\0\x05\x11\0\0\0\x01",
            0x82,
        ),
        ("reserved type 0", b"\0\0", 0x81),
    ];
    let broker = Broker::start();
    for (what, packet, reason) in cases {
        let mut client = broker.connect(CONNECT_V5, CONNACK_V5).await;
        client.send(packet).await;
        let rest = client.rest().await;
        assert_eq!(rest, [0xE0, 1, *reason], "{what}");
        assert!(
            matches!(client.ending().await, Ending::Reason(found) if found == *reason),
            "{what}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn packets_that_are_wrong_end_a_3_1_1_connection() {
    let cases: &[(&str, &[u8])] = &[
        ("second CONNECT", CONNECT_V3),
        ("AUTH", b"\xf0\0"),
        ("packet longer than allowed", b"\x30\x80\x08"),
        ("PUBLISH with packet id 0", b"\x32\x05\0\x01t\0\0"),
        ("PUBLISH without packet id", b"\x32\x03\0\x01t"),
        ("PUBACK with a reason", b"\x40\x03\0\x01\0"),
        ("SUBSCRIBE with a reserved option", b"\x82\x06\0\x01\0\x01t\x04"),
        ("UNSUBSCRIBE with packet id 0", b"\xa2\x05\0\0\0\x01t"),
        ("DISCONNECT with a body", b"\xe0\x01\0"),
    ];
    let broker = Broker::start();
    for (what, packet) in cases {
        let mut client = broker.connect(CONNECT_V3, CONNACK_V3).await;
        client.send(packet).await;
        assert_eq!(client.rest().await, b"", "{what}");
        assert!(matches!(client.ending().await, Ending::Reason(_)), "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_came_before_a_wrong_packet_counts() {
    let broker = Broker::start();
    let mut subscriber = broker.connect(CONNECT_V5, CONNACK_V5).await;
    subscriber.send(b"\x82\x07\0\x01\0\0\x01t\0").await;
    subscriber.expect(b"\x90\x04\0\x01\0\0").await;
    let mut publisher = broker.connect(&connect_v5("p"), CONNACK_V5).await;
    let mut octets = publish_v5(b"t", b"good");
    octets.extend_from_slice(b"\0\0");
    publisher.send(&octets).await;
    subscriber.expect(&publish_v5(b"t", b"good")).await;
}

#[tokio::test(start_paused = true)]
async fn the_65th_unacknowledged_message_ends_an_mqtt_5_connection() {
    let broker = Broker::start();
    let mut client = broker.connect(CONNECT_V5, CONNACK_V5).await;
    for id in 1..=64 {
        client.send(&[0x34, 6, 0, 1, b't', 0, id, 0]).await;
        client.expect(&[0x50, 3, 0, id, 0x10]).await;
    }
    // Not with QoS 0, and not the same once more.
    client.send(&publish_v5(b"t", b"")).await;
    client.send(&[0x3C, 6, 0, 1, b't', 0, 7, 0]).await;
    client.expect(&[0x50, 2, 0, 7]).await;
    client.send(&[0x34, 6, 0, 1, b't', 0, 65, 0]).await;
    assert_eq!(client.rest().await, b"\xe0\x01\x93");
}

#[tokio::test(start_paused = true)]
async fn a_3_1_1_client_may_send_ahead() {
    let broker = Broker::start();
    let mut client = broker.connect(CONNECT_V3, CONNACK_V3).await;
    let mut octets = Vec::new();
    let mut answers = Vec::new();
    for id in 1..=200 {
        octets.extend_from_slice(&[0x34, 5, 0, 1, b't', 0, id]);
        answers.extend_from_slice(&[0x50, 2, 0, id]);
    }
    client.send(&octets).await;
    client.expect(&answers).await;
}

#[tokio::test(start_paused = true)]
async fn topic_aliases_of_a_client_are_resolved() {
    let broker = Broker::start();
    let mut client = broker.connect(CONNECT_V5, CONNACK_V5).await;
    client.send(b"\x82\x07\0\x01\0\0\x01#\0").await;
    client.expect(b"\x90\x04\0\x01\0\0").await;
    client.send(b"\x30\x08\0\x01a\x03\x23\0\x101").await;
    client.send(b"\x30\x07\0\0\x03\x23\0\x102").await;
    client.send(b"\x30\x08\0\x01b\x03\x23\0\x103").await;
    client.send(b"\x30\x07\0\0\x03\x23\0\x104").await;
    for (topic, payload) in [(b"a", b"1"), (b"a", b"2"), (b"b", b"3"), (b"b", b"4")] {
        client.expect(&publish_v5(topic, payload)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_knows_aliases_gets_them() {
    let broker = Broker::start();
    // It knows one.
    let connect = b"\x10\x11\0\x04MQTT\x05\x02\0\0\x03\x22\0\x01\0\x01c";
    let mut client = broker.connect(connect, CONNACK_V5).await;
    client.send(b"\x82\x07\0\x01\0\0\x01#\0").await;
    client.expect(b"\x90\x04\0\x01\0\0").await;
    for topic in [b"a", b"b", b"a"] {
        client.send(&publish_v5(topic, b"x")).await;
    }
    client.expect(b"\x30\x08\0\x01a\x03\x23\0\x01x").await;
    client.expect(b"\x30\x05\0\x01b\0x").await;
    client.expect(b"\x30\x07\0\0\x03\x23\0\x01x").await;
}

#[tokio::test(start_paused = true)]
async fn a_message_larger_than_the_client_takes_is_left_out() {
    let broker = Broker::start();
    // Twenty octets, receive maximum 1: a message that is left out must give its place back.
    let connect = b"\x10\x16\0\x04MQTT\x05\x02\0\0\x08\x27\0\0\0\x14\x21\0\x01\0\x01c";
    let mut client = broker.connect(connect, CONNACK_V5).await;
    client.send(b"\x82\x07\0\x01\0\0\x01t\x01").await;
    client.expect(b"\x90\x04\0\x01\0\x01").await;
    let mut publisher = broker.connect(&connect_v5("p"), CONNACK_V5).await;
    for payload in [&[b'1'; 100][..], b"2", &[b'3'; 100], b"4"] {
        let mut octets = vec![0x32, payload.len() as u8 + 6, 0, 1, b't', 0, 1, 0];
        octets.extend_from_slice(payload);
        publisher.send(&octets).await;
        publisher.expect(b"\x40\x02\0\x01").await;
    }
    for payload in [b'2', b'4'] {
        let mut publish = [0; 9];
        client.stream.read_exact(&mut publish).await.unwrap();
        let [0x32, 7, 0, 1, b't', high, low, 0, found] = publish else {
            panic!("{publish:x?}");
        };
        assert_eq!(found, payload);
        client.send(&[0x40, 2, high, low]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_goes_before_its_connack_leaves_nothing() {
    let broker = Broker::start();
    for _ in 0..3 {
        let mut client = broker.accept();
        client.send(CONNECT_V5).await;
        drop(client.stream);
        client.connection.await.unwrap();
    }
    // Not taken over from anybody: nobody is there.
    let mut client = broker.connect(CONNECT_V5, CONNACK_V5).await;
    client.send(PINGREQ).await;
    client.expect(PINGRESP).await;
}

#[tokio::test(start_paused = true)]
async fn what_one_wake_up_brings_is_one_write() {
    let broker = Broker::start();
    let writes = Arc::new(AtomicUsize::new(0));
    let (stream, ours) = duplex(64 * 1024);
    let counted = Counted {
        stream,
        writes: writes.clone(),
    };
    let mut client = broker.serve(counted, ours);
    client.send(CONNECT_V5).await;
    client.expect(CONNACK_V5).await;
    client.send(b"\x82\x07\0\x01\0\0\x01t\0").await;
    client.expect(b"\x90\x04\0\x01\0\0").await;
    let mut publisher = broker.connect(&connect_v5("p"), CONNACK_V5).await;
    let before = writes.load(Ordering::Relaxed);
    publisher.send(&publish_v5(b"t", b"x").repeat(50)).await;
    client.expect(&publish_v5(b"t", b"x").repeat(50)).await;
    assert_eq!(writes.load(Ordering::Relaxed) - before, 1);
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_holds_no_buffer() {
    let (broker, _inbox) = unbounded_channel();
    let (stream, mut client) = duplex(64);
    let mut connection = Connection::new(stream, ([127, 0, 0, 1], 1).into(), PACKET_BYTES, None, broker);
    client.write_all(&CONNECT_V5[..5]).await.unwrap();
    let mut timer = core::pin::pin!(tokio::time::sleep(Duration::from_secs(10)));
    core::future::poll_fn(|cx| {
        assert!(connection.poll(cx, timer.as_mut()).is_pending());
        Poll::Ready(())
    })
    .await;
    assert_eq!(connection.out.capacity() + connection.replies.capacity(), 0);
    assert!(connection.protocol.is_amid_packet());
    // Its task's memory, less what the connection keeps of its client.
    let task = size_of_val(&connection.run());
    assert!(task <= 1024, "{task}");
}

/// A task with its router.
struct Broker {
    connections: UnboundedSender<FromConnection>,
    _requests: UnboundedSender<Vec<gateway_core::io::BrokerRequest>>,
}

struct Client {
    stream: DuplexStream,
    connection: JoinHandle<Ending>,
}

impl Broker {
    fn start() -> Self {
        let (connections, from_connections) = unbounded_channel();
        let (requests, from_gateway) = unbounded_channel();
        let (inputs, _) = mpsc::channel(1);
        let router = Router::new(RouterLimits::from(&EmbeddedLimits::default()), 1);
        tokio::spawn(Task::new(router, from_connections, from_gateway, inputs, None).run(None));
        Broker {
            connections,
            _requests: requests,
        }
    }

    fn accept(&self) -> Client {
        let (stream, ours) = duplex(4096);
        self.serve(stream, ours)
    }

    fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &self,
        stream: S,
        ours: DuplexStream,
    ) -> Client {
        let peer = ([127, 0, 0, 1], 1).into();
        let connection = Connection::new(stream, peer, PACKET_BYTES, None, self.connections.clone());
        Client {
            stream: ours,
            connection: tokio::spawn(connection.run()),
        }
    }

    async fn connect(&self, connect: &[u8], connack: &[u8]) -> Client {
        let mut client = self.accept();
        client.send(connect).await;
        client.expect(connack).await;
        client
    }
}

impl Client {
    async fn send(&mut self, octets: &[u8]) {
        self.stream.write_all(octets).await.unwrap();
    }

    async fn expect(&mut self, octets: &[u8]) {
        let mut found = vec![0; octets.len()];
        let read = self.stream.read_exact(&mut found).await;
        assert!(read.is_ok(), "connection ended instead of {octets:x?}");
        assert_eq!(found, octets);
    }

    /// Everything until the connection is closed.
    async fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).await.unwrap();
        rest
    }

    async fn ending(self) -> Ending {
        self.connection.await.unwrap()
    }
}

fn connect_v5(client_id: &str) -> Vec<u8> {
    let mut connect = CONNECT_V5[..CONNECT_V5.len() - 1].to_vec();
    connect.extend_from_slice(client_id.as_bytes());
    assert_eq!(connect.len(), CONNECT_V5.len());
    connect
}

/// With QoS 0.
fn publish_v5(topic: &[u8; 1], payload: &[u8]) -> Vec<u8> {
    let len = payload.len() + 4;
    let mut publish = vec![0x30];
    if len < 128 {
        publish.push(len as u8);
    } else {
        publish.extend_from_slice(&[len as u8 | 0x80, (len >> 7) as u8]);
    }
    publish.extend_from_slice(&[0, 1, topic[0], 0]);
    publish.extend_from_slice(payload);
    publish
}

/// Counts writes.
struct Counted {
    stream: DuplexStream,
    writes: Arc<AtomicUsize>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.stream).poll_write(cx, octets)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
