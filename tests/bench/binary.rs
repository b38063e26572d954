//! What the whole gateway costs: CPU per message over loopback beside a floor, start-up time, memory, size.
//!
//! `cargo build --release && cargo bench -p system-tests --bench binary`. The gateway is a process of its own and its
//! CPU is what the kernel accounts to its threads, so the load generator and the broker beside it do not count. The
//! broker is a stand-in that acknowledges and drops: a real one would be the limit. The floor is the least that can pass
//! a PUBLISH on and its acknowledgement back: a loop of four blocking calls, on the same machine in the same run. Quote
//! ratios, not microseconds: loopback on a busy machine varies by a factor of two.
//!
//! With the embedded broker an MQTT client subscribes to everything with QoS 1, so that each message is also delivered
//! and acknowledged over TCP; that is part of the figure. `SNIPE_BEFORE` names another binary to compare the size with.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use sn_codec::{Connect, MsgId, Packet, Publish, PublishQoS, QoS, ShortTopic, TopicRef};
use system_tests::{allow_many_sockets, free_port};

const CLIENTS: usize = 50;
const RATE: u32 = 5000;
const SECONDS: u64 = 3;
const ROUNDS: usize = 3;
const CONNECTIONS: usize = 1000;

fn main() -> Result<()> {
    if std::env::args().any(|arg| arg == "--test") {
        return Ok(()); // `cargo test --benches` only wants to know that it builds.
    }
    allow_many_sockets();
    let snipe = snipe()?;
    let size = std::fs::metadata(&snipe)?.len() as f64 / 1e6;
    print!("binary    {size:.2} MB");
    if let Some(before) = std::env::var_os("SNIPE_BEFORE") {
        print!(
            ", {:+.2} MB",
            size - std::fs::metadata(before)?.len() as f64 / 1e6
        );
    }
    println!();
    let stand_in = StandIn::start()?;
    let off = Gateway::start(&snipe, Broker::StandIn(&stand_in), "0s")?;
    let own = Gateway::start(&snipe, Broker::Embedded, "1ms")?;
    println!("start     ready in {:.1} ms", off.ready.as_secs_f64() * 1e3);
    println!(
        "memory    {:.1} MB resident when idle, {:.1} MB with the embedded broker",
        megabytes(off.child.id())?,
        megabytes(own.child.id())?
    );
    let idle: Vec<MqttClient> = (0..CONNECTIONS)
        .map(|at| MqttClient::connect(own.mqtt_port, &format!("idle-{at}")))
        .collect::<Result<_>>()?;
    println!(
        "          {:.1} MB with {CONNECTIONS} MQTT connections",
        megabytes(own.child.id())?
    );
    drop(idle);
    let on = Gateway::start(&snipe, Broker::StandIn(&stand_in), "1ms")?;
    let floor = Floor::start(stand_in.port)?;
    let subscriber = MqttClient::connect(own.mqtt_port, "bench-subscriber")?;
    let delivered = subscriber.subscribe_to_all()?;
    println!("\nCPU µs per message, {CLIENTS} clients, payload 64 octets, median of {ROUNDS} rounds in turn");
    println!(
        "{:<34}{:>8}{:>16}{:>16}{:>16}",
        "", "floor", "gathering off", "gathering on", "embedded, on"
    );
    for (name, qos, load) in [
        ("QoS 1, 5,000/s", QoS::AtLeastOnce, Load::Rate),
        ("QoS 0, 5,000/s", QoS::AtMostOnce, Load::Rate),
        ("QoS 1, one in flight each", QoS::AtLeastOnce, Load::Closed),
    ] {
        let mut figures = [const { Vec::new() }; 4];
        let before = delivered.load(Ordering::Relaxed);
        for _ in 0..ROUNDS {
            figures[0].push(floor.measure(qos, load)?);
            figures[1].push(off.measure(qos, load)?);
            figures[2].push(on.measure(qos, load)?);
            figures[3].push(own.measure(qos, load)?);
        }
        let [floor, off, on, own] = figures.map(median);
        println!(
            "{name:<34}{floor:>8.1}{off:>9.1} ({:.2}x){on:>9.1} ({:.2}x){own:>9.1} ({:.2}x)",
            off / floor,
            on / floor,
            own / floor
        );
        if delivered.load(Ordering::Relaxed) == before {
            bail!("the subscriber of the embedded broker got nothing");
        }
    }
    Ok(())
}

/// The release binary.
fn snipe() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("SNIPE_BIN") {
        return Ok(path.into());
    }
    // target/release/deps/binary-…
    let own = std::env::current_exe()?;
    let path = own
        .parent()
        .and_then(Path::parent)
        .context("find the target directory")?
        .join("snipe");
    if !path.exists() {
        bail!(
            "{} is missing: run `cargo build --release` first, or name it in SNIPE_BIN",
            path.display()
        );
    }
    Ok(path)
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// CPU time of all threads of a process so far.
fn cpu(pid: u32, thread: Option<u64>) -> Result<Duration> {
    let mut nanos = 0;
    for entry in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let entry = entry?;
        if thread.is_none_or(|thread| entry.file_name().to_str() == Some(&thread.to_string())) {
            let stat = std::fs::read_to_string(entry.path().join("schedstat"))?;
            nanos += stat.split(' ').next().unwrap_or_default().parse::<u64>()?;
        }
    }
    Ok(Duration::from_nanos(nanos))
}

/// Resident memory of a process.
fn megabytes(pid: u32) -> Result<f64> {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm"))?;
    let pages: usize = statm.split(' ').nth(1).context("read statm")?.parse()?;
    Ok(pages as f64 * 4096.0 / 1e6)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Load {
    /// Messages at a fixed rate, whatever becomes of them.
    Rate,
    /// Each client sends when its last message was acknowledged.
    Closed,
}

/// What a gateway publishes to.
enum Broker<'a> {
    StandIn(&'a StandIn),
    Embedded,
}

/// A gateway process.
struct Gateway {
    child: Child,
    port: u16,
    /// Where it or its broker speaks MQTT.
    mqtt_port: u16,
    ready: Duration,
    _state: tempfile::TempDir,
}

impl Gateway {
    fn start(snipe: &Path, broker: Broker<'_>, gather: &str) -> Result<Gateway> {
        use std::io::BufRead as _;
        let state = tempfile::tempdir()?;
        let (mqtt_port, broker) = match broker {
            Broker::StandIn(stand_in) => (stand_in.port, format!("mqtt://127.0.0.1:{}", stand_in.port)),
            Broker::Embedded => (free_port(), "embedded".to_owned()),
        };
        let port = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let start = Instant::now();
        let mut child = Command::new(snipe)
            .args(["run", "--broker", &broker])
            .args([
                "--set",
                &format!("broker.embedded.bind=[\"127.0.0.1:{mqtt_port}\"]"),
            ])
            .args(["--set", "broker.protocol=3", "--set", "log.level=warn"])
            .args(["--set", &format!("gateway.gather={gather}")])
            .args(["--set", &format!("gateway.state_dir={}", state.path().display())])
            .args(["--set", &format!("broker.client_id=bench-{port}")])
            .args(["--set", &format!("radio.udp0.bind=[\"127.0.0.1:{port}\"]")])
            .args(["--set", "radio.udp0.multicast=[]"])
            .stdout(Stdio::piped())
            .spawn()?;
        let mut lines = std::io::BufReader::new(child.stdout.take().context("read its output")?).lines();
        let ready = lines.any(|line| line.is_ok_and(|line| line.starts_with("ready")));
        if !ready {
            bail!("the gateway did not start");
        }
        Ok(Gateway {
            child,
            port,
            mqtt_port,
            ready: start.elapsed(),
            _state: state,
        })
    }

    fn measure(&self, qos: QoS, load: Load) -> Result<f64> {
        let pid = self.child.id();
        measure(self.port, qos, load, || cpu(pid, None))
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The floor: receive, pass on, wait for the acknowledgement, answer.
struct Floor {
    port: u16,
    thread: u64,
}

impl Floor {
    fn start(broker: u16) -> Result<Floor> {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = udp.local_addr()?.port();
        let mut tcp = TcpStream::connect((Ipv4Addr::LOCALHOST, broker))?;
        tcp.set_nodelay(true)?;
        tcp.write_all(b"\x10\x11\0\x04MQTT\x04\x02\0\0\0\x05floor")?;
        tcp.read_exact(&mut [0; 4])?;
        let (sender, receiver) = std::sync::mpsc::channel();
        thread::spawn(move || {
            let own = std::fs::read_link("/proc/thread-self").unwrap_or_default();
            let _ = sender.send(own.file_name().and_then(|name| name.to_str()?.parse().ok()));
            let _ = relay(&udp, &mut tcp);
        });
        Ok(Floor {
            port,
            thread: receiver.recv()?.context("find the thread of the floor")?,
        })
    }

    fn measure(&self, qos: QoS, load: Load) -> Result<f64> {
        measure(self.port, qos, load, || {
            cpu(std::process::id(), Some(self.thread))
        })
    }
}

fn relay(udp: &UdpSocket, tcp: &mut TcpStream) -> Result<()> {
    let (mut datagram, mut out, mut answer) = ([0; 2048], Vec::new(), [0; 4]);
    loop {
        let (len, from) = udp.recv_from(&mut datagram)?;
        out.clear();
        match Packet::decode(&datagram[..len]) {
            Ok(Packet::Connect(_)) => {
                udp.send_to(&[3, 5, 0], from)?;
            }
            Ok(Packet::Publish(Publish {
                qos,
                msg_id,
                data,
                topic: TopicRef::Short(topic),
                ..
            })) => {
                let acknowledged = qos == PublishQoS::Level(QoS::AtLeastOnce);
                out.extend([if acknowledged { 0x32 } else { 0x30 }]);
                out.push((4 + data.len() + 2 * usize::from(acknowledged)) as u8);
                out.extend([0, 2, topic.0[0], topic.0[1]]);
                if acknowledged {
                    out.extend(msg_id.0.to_be_bytes());
                }
                out.extend(data);
                tcp.write_all(&out)?;
                if acknowledged {
                    tcp.read_exact(&mut answer)?;
                    udp.send_to(&[7, 0x0D, topic.0[0], topic.0[1], answer[2], answer[3], 0], from)?;
                }
            }
            _ => {}
        }
    }
}

/// Runs the load and returns CPU µs per message.
fn measure(port: u16, qos: QoS, load: Load, cpu: impl Fn() -> Result<Duration>) -> Result<f64> {
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let clients: Vec<UdpSocket> = (0..CLIENTS).map(|at| connect(to, at)).collect::<Result<_>>()?;
    let done = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let before = cpu()?;
    let sent = match load {
        Load::Rate => {
            let readers = if qos == QoS::AtLeastOnce {
                clients.as_slice()
            } else {
                &[]
            };
            thread::scope(|scope| {
                for client in readers {
                    let (done, stop) = (done.clone(), stop.clone());
                    scope.spawn(move || {
                        while !stop.load(Ordering::Relaxed) {
                            done.fetch_add(u64::from(client.recv(&mut [0; 64]).is_ok()), Ordering::Relaxed);
                        }
                    });
                }
                let sent = at_rate(&clients, qos);
                stop.store(true, Ordering::Relaxed);
                sent
            })?
        }
        Load::Closed => {
            let end = Instant::now() + Duration::from_secs(SECONDS);
            thread::scope(|scope| {
                for client in &clients {
                    let done = &done;
                    scope.spawn(move || {
                        for msg_id in 1.. {
                            if Instant::now() >= end || publish(client, qos, msg_id).is_err() {
                                break;
                            }
                            done.fetch_add(u64::from(client.recv(&mut [0; 64]).is_ok()), Ordering::Relaxed);
                        }
                    });
                }
            });
            done.load(Ordering::Relaxed)
        }
    };
    let used = cpu()? - before;
    // QoS 1 counts what was acknowledged: a loop that is overrun passes on less than was sent.
    let passed = if qos == QoS::AtLeastOnce {
        done.load(Ordering::Relaxed)
    } else {
        sent
    };
    if passed * 2 < sent {
        bail!("only {passed} of {sent} messages were acknowledged");
    }
    for client in &clients {
        client.send(&[2, 0x18])?;
    }
    Ok(used.as_secs_f64() * 1e6 / passed as f64)
}

fn connect(to: SocketAddr, at: usize) -> Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    let mut datagram = Vec::new();
    let client_id = format!("bench-{at}");
    Packet::Connect(Connect {
        will: false,
        clean_session: true,
        duration: 600,
        client_id: &client_id,
    })
    .encode(&mut datagram);
    for _ in 0..5 {
        socket.send(&datagram)?;
        if socket.recv(&mut [0; 64]).is_ok() {
            return Ok(socket);
        }
    }
    bail!("no CONNACK from {to}");
}

/// One message each 1/RATE s, from one client after the other.
fn at_rate(clients: &[UdpSocket], qos: QoS) -> Result<u64> {
    let total = RATE * SECONDS as u32;
    let start = Instant::now();
    for at in 0..total {
        let due = start + Duration::from_secs(1) * at / RATE;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        publish(
            &clients[at as usize % clients.len()],
            qos,
            (at % 0xFFFF) as u16 + 1,
        )?;
    }
    thread::sleep(Duration::from_millis(100)); // What is under way belongs to the figure.
    Ok(u64::from(total))
}

fn publish(client: &UdpSocket, qos: QoS, msg_id: u16) -> Result<()> {
    let mut datagram = Vec::with_capacity(80);
    Packet::Publish(Publish {
        dup: false,
        qos: PublishQoS::Level(qos),
        retain: false,
        topic: TopicRef::Short(ShortTopic(*b"bn")),
        msg_id: MsgId(if qos == QoS::AtMostOnce { 0 } else { msg_id }),
        data: &[b'x'; 64],
    })
    .encode(&mut datagram);
    client.send(&datagram)?;
    Ok(())
}

/// A client of the embedded broker (MQTT 3.1.1).
struct MqttClient {
    stream: TcpStream,
}

impl MqttClient {
    fn connect(port: u16, id: &str) -> Result<MqttClient> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_nodelay(true)?;
        // Clean session, no keep-alive.
        let mut connect = b"\x10\x00\0\x04MQTT\x04\x02\0\0\0".to_vec();
        connect.push(id.len() as u8);
        connect.extend(id.as_bytes());
        connect[1] = (connect.len() - 2) as u8;
        stream.write_all(&connect)?;
        let mut connack = [0; 4];
        stream.read_exact(&mut connack)?;
        if connack != *b"\x20\x02\0\0" {
            bail!("{id} was refused: {connack:02x?}");
        }
        Ok(MqttClient { stream })
    }

    /// Subscribes to `#` with QoS 1 and acknowledges what comes; returns how many came so far.
    fn subscribe_to_all(mut self) -> Result<Arc<AtomicU64>> {
        self.stream.write_all(b"\x82\x06\0\x01\0\x01#\x01")?;
        self.stream.read_exact(&mut [0; 5])?;
        let delivered = Arc::new(AtomicU64::new(0));
        let count = delivered.clone();
        thread::spawn(move || acknowledge(self.stream, &count));
        Ok(delivered)
    }
}

fn acknowledge(mut stream: TcpStream, count: &AtomicU64) -> Result<()> {
    let (mut read, mut waiting, mut out) = (vec![0; 65536], Vec::new(), Vec::new());
    loop {
        let len = stream.read(&mut read)?;
        if len == 0 {
            return Ok(());
        }
        waiting.extend_from_slice(&read[..len]);
        let mut at = 0;
        while let Some((packet, end)) = split(&waiting[at..]) {
            count.fetch_add(u64::from(waiting[at] >> 4 == 3), Ordering::Relaxed);
            // PUBACK for PUBLISH QoS 1, as the stand-in says it.
            answer(waiting[at], packet, &mut out);
            at += end;
        }
        waiting.drain(..at);
        stream.write_all(&out)?;
        out.clear();
    }
}

/// A broker that accepts and acknowledges everything and delivers nothing (MQTT 3.1.1).
struct StandIn {
    port: u16,
}

impl StandIn {
    fn start() -> Result<StandIn> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || serve(stream));
            }
        });
        Ok(StandIn { port })
    }
}

fn serve(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let (mut read, mut waiting, mut out) = (vec![0; 65536], Vec::new(), Vec::new());
    loop {
        let len = stream.read(&mut read)?;
        if len == 0 {
            return Ok(());
        }
        waiting.extend_from_slice(&read[..len]);
        let mut at = 0;
        while let Some((packet, end)) = split(&waiting[at..]) {
            answer(waiting[at], packet, &mut out);
            at += end;
        }
        waiting.drain(..at);
        stream.write_all(&out)?;
        out.clear();
    }
}

/// The body of the first packet, and where the packet ends.
fn split(octets: &[u8]) -> Option<(&[u8], usize)> {
    let (mut len, mut header) = (0, 1);
    loop {
        let octet = *octets.get(header)?;
        len |= usize::from(octet & 0x7F) << (7 * (header - 1));
        header += 1;
        if octet & 0x80 == 0 {
            break;
        }
    }
    Some((octets.get(header..header + len)?, header + len))
}

fn answer(first: u8, body: &[u8], out: &mut Vec<u8>) {
    match first >> 4 {
        1 => out.extend(b"\x20\x02\0\0"),
        3 if first & 0x06 == 0x02 => {
            let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
            out.extend([0x40, 2, body[2 + topic], body[3 + topic]]);
        }
        12 => out.extend(b"\xD0\0"),
        _ => {}
    }
}
