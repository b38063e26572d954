//! Whether what listens at an address is an MQTT broker: a CONNECT, and what comes back.
//!
//! The packets are MQTT 5 §3.1 and §3.2, and their like of 3.1.1. A broker that does not know the version says so with
//! CONNACK (3.1.1 §3.1.2.2), or closes the connection without a word; then 3.1.1 is tried.

use core::time::Duration;
use std::io;
use std::net::SocketAddr;

use broker::{Protocol, RemoteConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// What listens there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// A broker that speaks this version.
    Broker(Protocol),
    /// A broker that does not let us in; its return or reason code.
    NotAllowed(u8),
    /// Something that does not answer CONNECT with CONNACK.
    NotMqtt,
}

/// Asks what listens at `address`, as the client that `remote` describes. Each attempt may take as long as `patience`.
pub(super) async fn ask(address: SocketAddr, remote: &RemoteConfig, patience: Duration) -> Answer {
    for protocol in versions(remote.protocol) {
        match timeout(patience, connect(address, remote, *protocol)).await {
            Ok(Ok(Some(code))) => match meaning(*protocol, code) {
                Meaning::OtherVersion => {}
                Meaning::NotAllowed => return Answer::NotAllowed(code),
                Meaning::Broker => return Answer::Broker(*protocol),
            },
            Ok(Ok(None)) | Err(_) => return Answer::NotMqtt,
            // Closed: the version, perhaps.
            Ok(Err(_)) => {}
        }
    }
    Answer::NotMqtt
}

/// The versions to try. Who asks for 3.1.1 has a reason.
fn versions(asked: Protocol) -> &'static [Protocol] {
    match asked {
        Protocol::V5 => &[Protocol::V5, Protocol::V3],
        Protocol::V3 => &[Protocol::V3],
    }
}

/// Sends a CONNECT and returns the code of the CONNACK; `None` if the answer is something else.
async fn connect(address: SocketAddr, remote: &RemoteConfig, protocol: Protocol) -> io::Result<Option<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(&connect_packet(remote, protocol)).await?;
    let mut head = [0; 4];
    stream.read_exact(&mut head).await?;
    // CONNACK: its type, its length, flags of which there is one, the code. With many properties the length takes a
    // second octet.
    let code = match head {
        [0x20, length, 0 | 1, code] if length < 0x80 => code,
        [0x20, _, length, 0 | 1] if length < 0x80 => stream.read_u8().await?,
        _ => return Ok(None),
    };
    if code == 0 {
        // DISCONNECT: it is not to take us for a client that was lost. If that fails it may all the same.
        let _ = stream.write_all(&[0xE0, 0]).await;
    }
    Ok(Some(code))
}

/// A CONNECT with a clean session under a client id that nobody else has.
fn connect_packet(remote: &RemoteConfig, protocol: Protocol) -> Vec<u8> {
    let mut flags = 0x02; // Clean session.
    let mut body = b"\0\x04MQTT".to_vec();
    body.push(match protocol {
        Protocol::V3 => 4,
        Protocol::V5 => 5,
    });
    let at_flags = body.len();
    body.extend([0, 0, 60]);
    if protocol == Protocol::V5 {
        body.push(0); // No properties.
    }
    string(&mut body, &format!("snipe-asks-{}", std::process::id()));
    if let Some(username) = &remote.username {
        flags |= 0x80;
        string(&mut body, username);
    }
    if let Some(password) = &remote.password {
        flags |= 0x40;
        string(&mut body, password);
    }
    body[at_flags] = flags;
    let mut packet = vec![0x10];
    let mut left = body.len();
    loop {
        let more = left > 0x7F;
        packet.push((left & 0x7F) as u8 | if more { 0x80 } else { 0 });
        left >>= 7;
        if !more {
            break;
        }
    }
    packet.extend(body);
    packet
}

/// A string with its length, cut where MQTT ends; a longer password is wrong anyway.
fn string(out: &mut Vec<u8>, text: &str) {
    let octets = &text.as_bytes()[..text.len().min(usize::from(u16::MAX))];
    out.extend((octets.len() as u16).to_be_bytes());
    out.extend(octets);
}

/// What a code of CONNACK says about the broker.
enum Meaning {
    Broker,
    NotAllowed,
    OtherVersion,
}

/// MQTT 3.1.1 §3.2.2.3, MQTT 5 §3.2.2.2. What may pass (the server is busy, the id is not to its taste) is a broker's
/// answer like any other: the gateway connects again until it is let in.
fn meaning(protocol: Protocol, code: u8) -> Meaning {
    match (protocol, code) {
        // 0x01 from one that knows 3.1.1 at most.
        (Protocol::V5, 0x01 | 0x84) | (Protocol::V3, 0x01) => Meaning::OtherVersion,
        // Bad user name or password, not authorised.
        (Protocol::V3 | Protocol::V5, 0x04 | 0x05) => Meaning::NotAllowed,
        // The same; banned; bad authentication method.
        (Protocol::V5, 0x86 | 0x87 | 0x8A | 0x8C) => Meaning::NotAllowed,
        _ => Meaning::Broker,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use broker::{Reconnect, Transport};
    use tokio::net::TcpListener;

    /// Short, for the one that is silent; what answers does so long before.
    const PATIENCE: Duration = Duration::from_millis(500);

    /// What a listener does with each connection, in turn.
    enum Behaviour {
        /// Answers with these octets.
        Says(&'static [u8]),
        Closes,
        Listens,
    }

    /// The answer of something that behaves like this, and the octets of each CONNECT it got.
    async fn asked(remote: &RemoteConfig, behaviours: Vec<Behaviour>) -> (Answer, Vec<Vec<u8>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let served = tokio::spawn(async move {
            let (mut heard, mut open) = (Vec::new(), Vec::new());
            for behaviour in behaviours {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut buf = [0; 512];
                let len = stream.read(&mut buf).await.unwrap();
                heard.push(buf[..len].to_vec());
                match behaviour {
                    Behaviour::Says(octets) => stream.write_all(octets).await.unwrap(),
                    Behaviour::Closes => continue,
                    Behaviour::Listens => {}
                }
                open.push(stream);
            }
            (heard, open)
        });
        let answer = ask(address, remote, PATIENCE).await;
        let (heard, _) = served.await.unwrap();
        (answer, heard)
    }

    fn remote(protocol: Protocol) -> RemoteConfig {
        RemoteConfig {
            host: "127.0.0.1".into(),
            port: 1883,
            transport: Transport::Tcp,
            protocol,
            username: None,
            password: None,
            keep_alive: Duration::ZERO,
            in_flight: 1,
            connect_timeout: PATIENCE,
            reconnect: Reconnect {
                first: PATIENCE,
                max: PATIENCE,
                jitter: 0.0,
            },
        }
    }

    #[tokio::test]
    async fn a_broker_that_knows_mqtt_5_is_asked_once() {
        for connack in [
            &b"\x20\x03\0\0\0"[..],
            b"\x20\x06\0\0\x03\x21\0\x14",
            b"\x20\xC8\x01\0\0",
        ] {
            let (answer, heard) = asked(&remote(Protocol::V5), vec![Behaviour::Says(connack)]).await;
            assert_eq!(answer, Answer::Broker(Protocol::V5), "{connack:02x?}");
            // CONNECT, "MQTT", version 5, clean start, no properties.
            assert_eq!(&heard[0][..1], [0x10]);
            assert_eq!(&heard[0][2..13], b"\0\x04MQTT\x05\x02\0\x3C\0");
        }
    }

    #[tokio::test]
    async fn one_that_knows_3_1_1_only_is_asked_again() {
        for refusal in [
            Behaviour::Says(b"\x20\x02\0\x01"),
            Behaviour::Says(b"\x20\x03\0\x84\0"),
            Behaviour::Closes,
        ] {
            let behaviours = vec![refusal, Behaviour::Says(b"\x20\x02\0\0")];
            let (answer, heard) = asked(&remote(Protocol::V5), behaviours).await;
            assert_eq!(answer, Answer::Broker(Protocol::V3));
            assert_eq!(&heard[1][2..12], b"\0\x04MQTT\x04\x02\0\x3C");
        }
    }

    #[tokio::test]
    async fn who_configured_3_1_1_is_not_made_to_speak_5() {
        let (answer, heard) = asked(&remote(Protocol::V3), vec![Behaviour::Says(b"\x20\x02\0\0")]).await;
        assert_eq!((answer, heard.len()), (Answer::Broker(Protocol::V3), 1));
    }

    #[tokio::test]
    async fn one_that_wants_a_login_says_so() {
        for (connack, code) in [
            (&b"\x20\x02\0\x05"[..], 5),
            (b"\x20\x03\0\x86\0", 0x86),
            (b"\x20\x03\0\x87\0", 0x87),
        ] {
            let (answer, _) = asked(&remote(Protocol::V5), vec![Behaviour::Says(connack)]).await;
            assert_eq!(answer, Answer::NotAllowed(code));
        }
    }

    #[tokio::test]
    async fn the_configured_login_is_tried() {
        let remote = RemoteConfig {
            username: Some("ann".into()),
            password: Some("secret".into()),
            ..remote(Protocol::V5)
        };
        let (answer, heard) = asked(&remote, vec![Behaviour::Says(b"\x20\x03\0\0\0")]).await;
        assert_eq!(answer, Answer::Broker(Protocol::V5));
        assert_eq!(heard[0][9], 0xC2);
        assert!(heard[0].ends_with(b"\0\x03ann\0\x06secret"));
    }

    #[tokio::test]
    async fn a_busy_broker_is_a_broker() {
        let (answer, _) = asked(&remote(Protocol::V5), vec![Behaviour::Says(b"\x20\x03\0\x88\0")]).await;
        assert_eq!(answer, Answer::Broker(Protocol::V5));
    }

    #[tokio::test]
    async fn other_answers_are_not_mqtt() {
        let (answer, _) = asked(
            &remote(Protocol::V5),
            vec![Behaviour::Says(b"HTTP/1.1 400 Bad Request\r\n\r\n")],
        )
        .await;
        assert_eq!(answer, Answer::NotMqtt);
        let (answer, _) = asked(&remote(Protocol::V5), vec![Behaviour::Closes, Behaviour::Closes]).await;
        assert_eq!(answer, Answer::NotMqtt);
    }

    #[tokio::test]
    async fn silence_is_not_waited_out() {
        let (answer, heard) = asked(&remote(Protocol::V5), vec![Behaviour::Listens]).await;
        assert_eq!((answer, heard.len()), (Answer::NotMqtt, 1));
    }
}
