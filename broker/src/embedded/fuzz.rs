//! What the fuzz target `mqtt_session` runs, and the replay of its corpus.
//!
//! Two clients send whatever the input says, through connections, task and router as they are, over pipes. Meanwhile a
//! third behaves; it has to be served as if it were alone. Debug assertions are on.

use core::mem;
use core::time::Duration;
use std::net::{Ipv4Addr, SocketAddr};

use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, duplex, split};
use tokio::runtime;
use tokio::sync::mpsc::{UnboundedSender, channel, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::channel::FromConnection;
use super::connection::{Connection, Ending};
use super::router::{Router, RouterLimits};
use super::task::Task;

/// Small, so that inputs reach the limits.
const LIMITS: RouterLimits = RouterLimits {
    queue_messages: 4,
    queue_bytes: 1024,
    retained_max: 4,
    subscriptions_max: 8,
    sessions_max: 6,
};

const PACKET_BYTES: u32 = 1024;

/// Far longer than one input takes.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs one input: pieces, each after an octet that says how long it is and, with its highest bit, which of the two
/// clients sends it. With length 0 that client goes and comes again.
///
/// # Panics
///
/// If anything does that should not, or the client that behaves is not served.
pub fn mqtt_session(input: &[u8]) {
    let runtime = runtime::Builder::new_current_thread().enable_time().build();
    let run = async { timeout(PATIENCE, session(input)).await };
    runtime
        .expect("a runtime without I/O needs nothing")
        .block_on(run)
        .expect("the client that behaves is served");
}

async fn session(mut input: &[u8]) {
    let (broker, from_connections) = unbounded_channel();
    let (requests, from_gateway) = unbounded_channel();
    let (inputs, _) = channel(1);
    let router = Router::new(LIMITS, 1);
    let task = tokio::spawn(Task::new(router, from_connections, from_gateway, inputs, None).run(None));

    let mut good = Client::connect(&broker);
    good.send(GOOD_CONNECT);
    good.send(GOOD_SUBSCRIBE);
    while good.packet().await[0] != 0x90 {}

    let mut bad = [Client::connect(&broker), Client::connect(&broker)];
    bad[0].listen();
    while let Some((&head, rest)) = input.split_first() {
        let who = usize::from(head >> 7);
        let (piece, rest) = rest.split_at(rest.len().min(usize::from(head & 0x7F)));
        input = rest;
        if piece.is_empty() {
            mem::replace(&mut bad[who], Client::connect(&broker))
                .leave()
                .await;
            if who == 0 {
                bad[0].listen();
            }
        } else {
            bad[who].send(piece);
            tokio::task::yield_now().await;
        }
    }

    good.gets_its_message().await;
    for client in bad {
        client.leave().await;
    }
    good.is_served().await;
    good.leave().await;

    drop(requests);
    task.await.expect("the task ends in good order");
}

/// Clean start, and an id that the broker chooses: nobody takes it over.
const GOOD_CONNECT: &[u8] = b"\x10\x0d\0\x04MQTT\x05\x02\0\0\0\0\0";
const GOOD_SUBSCRIBE: &[u8] = b"\x82\x0a\0\x01\0\0\x04good\x01";
const GOOD_PUBLISH: &[u8] = b"\x32\x15\0\x04good\0\x01\0still served";

/// The client's end of a connection.
struct Client {
    reader: ReadHalf<DuplexStream>,
    writer: WriteHalf<DuplexStream>,
    connection: JoinHandle<Ending>,
}

impl Client {
    fn connect(broker: &UnboundedSender<FromConnection>) -> Self {
        let (stream, ours) = duplex(4096);
        let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let connection = Connection::new(stream, peer, PACKET_BYTES, None, broker.clone());
        let (reader, writer) = split(ours);
        Client {
            reader,
            writer,
            connection: tokio::spawn(connection.run()),
        }
    }

    /// Reads and forgets, without end. A client that does not is one that does not read.
    fn listen(&mut self) {
        let (unused, _) = duplex(1);
        let mut reader = mem::replace(&mut self.reader, split(unused).0);
        tokio::spawn(async move {
            let mut octets = [0; 512];
            while reader.read(&mut octets).await.is_ok_and(|octets| octets > 0) {}
        });
    }

    /// As much as the connection takes now.
    fn send(&mut self, octets: &[u8]) {
        let _ = self.writer.write_all(octets).now_or_never();
    }

    /// The next packet; a PUBLISH is acknowledged.
    async fn packet(&mut self) -> Vec<u8> {
        let mut packet = vec![0; 2];
        self.reader
            .read_exact(&mut packet)
            .await
            .expect("it is still connected");
        let mut len = usize::from(packet[1] & 0x7F);
        if packet[1] & 0x80 != 0 {
            // Two octets of length are enough for the packets taken here.
            len |= usize::from(self.reader.read_u8().await.expect("it is still connected")) << 7;
        }
        packet.resize(2 + len, 0);
        self.reader
            .read_exact(&mut packet[2..])
            .await
            .expect("it is still connected");
        if packet[0] & 0xF6 == 0x32 {
            let id = 4 + usize::from(packet[3]);
            let ack = [0x40, 2, packet[id], packet[id + 1]];
            self.send(&ack);
        }
        packet
    }

    /// With QoS 0, since a subscriber that does not acknowledge may hold up the acknowledgement of a publisher for a
    /// while, but nobody's messages.
    async fn gets_its_message(&mut self) {
        let mut arrived = false;
        while !arrived {
            self.send(b"\x30\x13\0\x04good\0still served");
            self.send(GOOD_SUBSCRIBE);
            // It stands behind the message, which the others' may have left no room for.
            loop {
                let packet = self.packet().await;
                arrived |= packet.ends_with(b"still served");
                if packet[0] == 0x90 {
                    break;
                }
            }
        }
    }

    /// Publishes, and waits for acknowledgement and message.
    async fn is_served(&mut self) {
        loop {
            self.send(GOOD_PUBLISH);
            let (mut acknowledged, mut arrived) = (None, false);
            while acknowledged.is_none() || (acknowledged == Some(true) && !arrived) {
                let packet = self.packet().await;
                match packet[0] {
                    0x40 => acknowledged = Some(packet.len() == 4),
                    _ => arrived |= packet.ends_with(b"still served"),
                }
            }
            // Refused: the others had filled its queue, which it emptied since.
            if acknowledged == Some(true) {
                return;
            }
        }
    }

    async fn leave(mut self) {
        // One that listens does so until the connection is closed.
        self.writer.shutdown().await.expect("a pipe can be closed");
        drop((self.reader, self.writer));
        let ending = self.connection.await.expect("a connection does not panic");
        assert!(!matches!(ending, Ending::Panic), "{ending}");
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::Index;

    /// Sessions, what mqtt-protocol-core's `Connection` fails at, and two of its limits.
    fn corpus() -> Vec<Vec<u8>> {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus/mqtt_session");
        let mut seeds: Vec<_> = fs::read_dir(corpus)
            .unwrap()
            .map(|entry| fs::read(entry.unwrap().path()).unwrap())
            .collect();
        seeds.sort(); // A failing case names its seed by its place.
        assert!(seeds.len() >= 10, "{}", seeds.len());
        seeds
    }

    #[test]
    fn the_corpus_holds_what_the_fuzz_target_checks() {
        for seed in corpus() {
            super::mqtt_session(&seed);
        }
    }

    /// The fuzz target in small, for every test run: it knows nothing of coverage but goes on where a CONNECT is right.
    #[test]
    fn changed_octets_of_the_corpus_hurt_nobody_else() {
        let seeds = corpus();
        let change = (any::<Index>(), any::<u8>(), 0..4_u8);
        let changes = (any::<Index>(), vec(change, 1..8));
        let config = ProptestConfig::with_cases(5000);
        proptest!(config, |((seed, changes) in changes)| {
            let mut octets = seed.get(&seeds).clone();
            for (at, value, kind) in changes {
                if octets.is_empty() {
                    break;
                }
                let at = at.index(octets.len());
                match kind {
                    0 => octets[at] = value,
                    1 => octets[at] ^= 1 << (value % 8),
                    2 => octets.insert(at, value),
                    _ => {
                        octets.remove(at);
                    }
                }
            }
            super::mqtt_session(&octets);
        });
    }
}
