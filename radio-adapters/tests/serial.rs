//! The serial task on real terminals.

#![allow(clippy::unwrap_used, reason = "the helpers are test code too")]

#[path = "support/pty.rs"]
mod pty;

use core::time::Duration;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use gateway_core::io::{
    Destination, Input, LinkEvent, LinkProfile, RadioFacts, TxBatch, TxDatagram, TxTicket,
};
use gateway_core::peer::{LinkAddr, LinkId, LocalEnd, Route};
use gateway_core::time::Instant;
use radio_adapters::LinkSender;
use radio_adapters::driver::{Driver, DriverOutput, DropReason, Recovery, Report};
use radio_adapters::framing::encode;
use radio_adapters::raw::RawSerial;
use radio_adapters::serial::{PortError, ProbeError, SerialLink, check_port, probe};
use radio_adapters::settings::{Crc, Framing, LinkHeader, Metadata, PortSettings, RawSettings};
use radio_adapters::stats::RadioStats;
use rustix::termios::{ControlModes, InputModes, LocalModes};
use tokio::sync::mpsc;
use tokio::time;

use pty::Socket;

const LINK: LinkId = LinkId(3);
const SEARCHGW: &[u8] = &[3, 1, 1];

#[tokio::test]
async fn datagrams_pass_both_ways_and_are_counted() {
    let socket = Socket::new();
    let pty = socket.plug();
    let mut radio = Radio::spawn(raw(&socket));
    radio.up().await;

    pty.write(&encode(Framing::Cobs, SEARCHGW)).await;
    assert_eq!(radio.datagram().await, SEARCHGW);

    radio.send(1, &[3, 5, 0]);
    let frame = encode(Framing::Cobs, &[3, 5, 0]);
    assert_eq!(pty.read(frame.len()).await, frame);
    assert_eq!(radio.event().await, LinkEvent::Sent(TxTicket(1)));
    assert_eq!(radio.event().await, LinkEvent::Credit(1));

    let stats = &radio.stats;
    assert!(stats.is_up());
    assert_eq!(stats.identity().unwrap().identity, "serial line, cobs");
    let counted = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    assert_eq!(
        (counted(&stats.received), counted(&stats.received_octets)),
        (1, 3)
    );
    assert_eq!((counted(&stats.sent), counted(&stats.sent_octets)), (1, 3));
    assert_eq!(counted(&stats.line_received_octets), 6);
    assert_eq!(counted(&stats.line_sent_octets), frame.len() as u64);
    assert_eq!(counted(&stats.reopens), 0);

    pty.write(&[5, 1, 0]).await;
    pty.write(&encode(Framing::Cobs, SEARCHGW)).await;
    assert_eq!(radio.datagram().await, SEARCHGW);
    assert_eq!(radio.stats.dropped(DropReason::Length), 1);
}

#[tokio::test]
async fn octets_of_every_value_pass_both_ways() {
    let socket = Socket::new();
    let pty = socket.plug();
    let mut radio = Radio::spawn(raw(&socket));
    radio.up().await;
    // Among them XON, XOFF, end of file, interrupt and carriage return.
    let all: Vec<u8> = (0..=255).collect();
    let line = encode(Framing::Cobs, &all);

    pty.write(&line).await;
    assert_eq!(radio.datagram().await, all);
    radio.send(1, &all);
    assert_eq!(pty.read(line.len()).await, line);

    let modes = pty.modes().unwrap();
    assert!(
        !modes
            .input_modes
            .intersects(InputModes::IXON | InputModes::IXOFF | InputModes::ICRNL)
    );
    assert!(
        !modes
            .local_modes
            .intersects(LocalModes::ECHO | LocalModes::ICANON)
    );
    assert!(!modes.control_modes.contains(ControlModes::HUPCL), "DTR stays up");
    assert!(modes.control_modes.contains(ControlModes::CLOCAL));
    assert_eq!(modes.output_speed(), 115_200);
}

#[tokio::test]
async fn a_port_taken_out_is_down_and_works_when_it_is_back() {
    let socket = Socket::new();
    let pty = socket.plug();
    let mut radio = Radio::spawn(raw(&socket));
    radio.up().await;

    socket.unplug(pty);
    assert_eq!(radio.event().await, LinkEvent::Down);
    assert!(!radio.stats.is_up());
    radio.send(1, SEARCHGW);
    assert_eq!(radio.event().await, LinkEvent::Unsent(TxTicket(1)));

    let pty = socket.plug();
    radio.up().await;
    assert_eq!(radio.stats.reopens.load(Ordering::Relaxed), 1);
    pty.write(&encode(Framing::Cobs, SEARCHGW)).await;
    assert_eq!(radio.datagram().await, SEARCHGW);
}

#[tokio::test]
async fn a_port_that_is_not_there_at_first_is_found_when_it_comes() {
    let socket = Socket::new();
    let mut radio = Radio::spawn(raw(&socket));
    radio.send(1, SEARCHGW);
    assert_eq!(radio.event().await, LinkEvent::Unsent(TxTicket(1)));

    let _pty = socket.plug();
    radio.up().await;
    assert_eq!(radio.stats.reopens.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_port_without_its_other_end_costs_no_time() {
    let socket = Socket::new();
    let pty = socket.plug();
    let reads = Arc::new(AtomicUsize::new(0));
    let driver = Counting {
        inner: RawSerial::new(raw(&socket)),
        calls: reads.clone(),
    };
    let mut port = port(&socket);
    port.reopen_first = Duration::from_millis(200);
    port.reopen_max = Duration::from_millis(200);
    let mut radio = Radio::spawn_driver(port, Box::new(driver));
    radio.up().await;

    // The name stays, so the port can be opened and hangs up at once, again and again.
    let before = reads.load(Ordering::Relaxed);
    drop(pty);
    assert_eq!(radio.event().await, LinkEvent::Down);
    let used = cpu_time();
    time::sleep(Duration::from_secs(1)).await;

    let used = cpu_time() - used;
    assert!(
        used < Duration::from_millis(400),
        "{used:?} of processor time in a second"
    );
    let calls = reads.load(Ordering::Relaxed) - before;
    assert!(calls < 50, "{calls} calls of the driver");
}

#[tokio::test]
async fn a_port_that_takes_nothing_is_opened_again() {
    let socket = Socket::new();
    let _pty = socket.plug(); // Nobody reads.
    let driver = Chatty::default();
    let mut radio = Radio::spawn_driver(port(&socket), Box::new(driver));
    radio.up().await;

    fill(&radio);

    while radio.event().await != LinkEvent::Down {}
    radio.up().await;
}

#[tokio::test]
async fn what_waits_for_a_stuck_port_is_bounded() {
    let socket = Socket::new();
    let _pty = socket.plug();
    let mut radio = Radio::spawn_driver(port(&socket), Box::new(Chatty::default()));
    radio.up().await;

    radio.send(1, &[0x55; 200_000]);

    while radio.event().await != LinkEvent::Down {}
}

#[tokio::test]
async fn other_radios_go_on_while_a_port_is_stuck() {
    let (stuck, well) = (Socket::new(), Socket::new());
    let (_stuck_pty, pty) = (stuck.plug(), well.plug());
    let mut blocked = Radio::spawn_driver(port(&stuck), Box::new(Chatty::default()));
    let mut radio = Radio::spawn(raw(&well));
    blocked.up().await;
    radio.up().await;
    fill(&blocked);

    for _ in 0..20 {
        pty.write(&encode(Framing::Cobs, SEARCHGW)).await;
        assert_eq!(radio.datagram().await, SEARCHGW);
    }
}

#[tokio::test]
async fn a_line_that_never_falls_silent_leaves_time_for_sending() {
    let socket = Socket::new();
    let pty = Arc::new(socket.plug());
    let mut radio = Radio::spawn(raw(&socket));
    radio.up().await;
    let babbling = {
        let pty = pty.clone();
        tokio::spawn(async move {
            loop {
                pty.write(&[0x55; 4096]).await;
                tokio::task::yield_now().await;
            }
        })
    };

    radio.send(1, SEARCHGW);

    assert_eq!(radio.event().await, LinkEvent::Sent(TxTicket(1)));
    babbling.abort();
}

#[tokio::test]
async fn a_driver_may_have_the_port_opened_again() {
    let socket = Socket::new();
    let pty = socket.plug();
    let mut radio = Radio::spawn_driver(port(&socket), Box::new(Chatty::default()));
    radio.up().await;

    pty.write(b"R").await;

    assert_eq!(radio.event().await, LinkEvent::Down);
    radio.up().await;
    assert_eq!(radio.stats.recoveries(Recovery::Reopen), 1);
    assert_eq!(radio.stats.reopens.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn speed_changes_after_what_was_written_before() {
    let socket = Socket::new();
    let pty = socket.plug();
    let mut radio = Radio::spawn_driver(port(&socket), Box::new(Chatty::default()));
    radio.up().await;
    assert_eq!(pty.modes().unwrap().output_speed(), 115_200);

    pty.write(b"B").await;

    assert_eq!(pty.read(11).await, b"beforeafter");
    assert_eq!(pty.modes().unwrap().output_speed(), 57_600);
}

#[tokio::test]
async fn the_last_datagrams_are_sent_when_the_gateway_stops() {
    let socket = Socket::new();
    let pty = socket.plug();
    let mut radio = Radio::spawn(raw(&socket));
    radio.up().await;

    radio.send(1, SEARCHGW);
    radio.sender.take();

    let frame = encode(Framing::Cobs, SEARCHGW);
    assert_eq!(pty.read(frame.len()).await, frame);
    let ended = async { while radio.inputs.recv().await.is_some() {} };
    time::timeout(Duration::from_secs(2), ended)
        .await
        .expect("the task ends and drops its inputs");
}

#[tokio::test]
async fn what_keeps_a_port_from_being_opened_is_told_apart() {
    let socket = Socket::new();
    let mut settings = port(&socket);
    let missing = check_port(&settings).await.unwrap_err();
    assert!(matches!(missing, PortError::Missing(_)), "{missing}");

    settings.path = PathBuf::from("/dev/null");
    let no_port = check_port(&settings).await.unwrap_err();
    assert!(matches!(no_port, PortError::NotSerial(_)), "{no_port}");

    settings.path = socket.path();
    let _pty = socket.plug();
    check_port(&settings).await.unwrap();
    let mut radio = Radio::spawn(raw(&socket));
    radio.up().await;
    let busy = check_port(&settings).await.unwrap_err();
    assert!(matches!(busy, PortError::Busy(_)), "{busy}");
    // Asking did not take the port away from whoever has it.
    assert!(radio.inputs.try_recv().is_err());
}

#[tokio::test]
async fn a_probe_says_what_a_modem_is() {
    let socket = Socket::new();
    let _pty = socket.plug();

    let driver = Box::new(RawSerial::new(raw(&socket)));
    let found = probe(&port(&socket), driver, Duration::from_secs(5))
        .await
        .unwrap();

    assert_eq!(found.identity.identity, "serial line, cobs");
    // It leaves the port to others.
    check_port(&port(&socket)).await.unwrap();
}

#[tokio::test]
async fn a_probe_says_why_it_cannot() {
    let socket = Socket::new();
    let missing = probe_asking(&socket).await;
    assert!(
        matches!(missing, ProbeError::Port(PortError::Missing(_))),
        "{missing}"
    );

    let _pty = socket.plug();
    let silent = probe_asking(&socket).await;
    assert!(matches!(silent, ProbeError::Silent(_)), "{silent}");

    let gibberish = probe_answered(b"???").await;
    assert!(
        matches!(gibberish, ProbeError::Gibberish { octets: 3, .. }),
        "{gibberish}"
    );

    let refused = probe_answered(b"N").await;
    assert!(matches!(refused, ProbeError::Refused(_)), "{refused}");
}

async fn probe_asking(socket: &Socket) -> ProbeError {
    let driver = Box::new(Asking::default());
    let result = probe(&port(socket), driver, Duration::from_millis(300)).await;
    result.unwrap_err()
}

async fn probe_answered(answer: &[u8]) -> ProbeError {
    let socket = Socket::new();
    let pty = socket.plug();
    let (error, ()) = tokio::join!(probe_asking(&socket), async {
        pty.read(1).await;
        pty.write(answer).await;
    });
    error
}

/// A running radio, seen from the core.
struct Radio {
    sender: Option<LinkSender>,
    inputs: mpsc::Receiver<Input>,
    stats: Arc<RadioStats>,
}

impl Radio {
    fn spawn(settings: RawSettings) -> Radio {
        Radio::spawn_driver(settings.port.clone(), Box::new(RawSerial::new(settings)))
    }

    fn spawn_driver(port: PortSettings, driver: Box<dyn Driver>) -> Radio {
        let (inputs, receiver) = mpsc::channel(64);
        let name = "serial0".to_owned();
        let (sender, stats) = SerialLink { name, port, driver }.spawn(LINK, inputs);
        Radio {
            sender: Some(sender),
            inputs: receiver,
            stats,
        }
    }

    async fn input(&mut self) -> Input {
        time::timeout(Duration::from_secs(20), self.inputs.recv())
            .await
            .expect("an input comes")
            .expect("the task runs")
    }

    async fn event(&mut self) -> LinkEvent {
        match self.input().await {
            Input::Link(LINK, event) => event,
            other => panic!("{other:?}"),
        }
    }

    async fn up(&mut self) {
        let event = self.event().await;
        assert!(matches!(event, LinkEvent::Up(_)), "{event:?}");
    }

    async fn datagram(&mut self) -> Vec<u8> {
        match self.input().await {
            Input::Datagrams(LINK, batch) => {
                assert_eq!(batch.datagrams.len(), 1);
                assert_eq!(batch.datagrams[0].facts, RadioFacts::default());
                batch.bytes
            }
            other => panic!("{other:?}"),
        }
    }

    fn send(&self, ticket: u32, datagram: &[u8]) {
        let route = Route {
            addr: LinkAddr::Wire,
            local: LocalEnd::default(),
        };
        let batch = TxBatch {
            bytes: datagram.to_vec(),
            datagrams: vec![TxDatagram {
                to: Destination::Peer(route),
                len: datagram.len() as u32,
                ticket: TxTicket(ticket),
            }],
        };
        self.sender.as_ref().unwrap().send(batch).unwrap();
    }
}

/// Sends more than a terminal takes when nobody reads, and less than the task keeps.
fn fill(radio: &Radio) {
    for _ in 0..10 {
        radio.send(1, &[0x55; 6000]);
    }
}

/// Writes what it is given, without limit, and does what the line asks for.
#[derive(Debug, Default)]
struct Chatty {
    outputs: Vec<DriverOutput>,
}

impl Driver for Chatty {
    fn opened(&mut self, _: Instant) {
        self.outputs
            .insert(0, DriverOutput::Link(LinkEvent::Up(LinkProfile::default())));
    }

    // The task tells the core by itself what this one forgets.
    fn closed(&mut self, _: Instant) {}

    fn received(&mut self, _: Instant, octets: &[u8]) {
        for octet in octets {
            match octet {
                b'R' => self.outputs.insert(0, DriverOutput::Reopen),
                b'B' => {
                    self.outputs.insert(0, DriverOutput::Write(b"before".to_vec()));
                    self.outputs.insert(0, DriverOutput::SetBaud(57_600));
                    self.outputs.insert(0, DriverOutput::Break(10));
                    self.outputs.insert(0, DriverOutput::Write(b"after".to_vec()));
                }
                _ => {}
            }
        }
    }

    fn transmit(&mut self, _: Instant, _: &Destination, datagram: &[u8], _: TxTicket) {
        self.outputs.insert(0, DriverOutput::Write(datagram.to_vec()));
    }

    fn handle_timeout(&mut self, _: Instant) {}

    fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    fn poll_output(&mut self) -> Option<DriverOutput> {
        self.outputs.pop()
    }
}

/// Asks its modem, and knows the answer N.
#[derive(Debug, Default)]
struct Asking {
    outputs: Vec<DriverOutput>,
}

impl Driver for Asking {
    fn opened(&mut self, _: Instant) {
        self.outputs.push(DriverOutput::Write(b"?".to_vec()));
    }

    fn closed(&mut self, _: Instant) {}

    fn received(&mut self, _: Instant, octets: &[u8]) {
        if octets == b"N" {
            let refused = Report::Refused("the modem says no".to_owned());
            self.outputs.push(DriverOutput::Report(refused));
        }
    }

    fn transmit(&mut self, _: Instant, _: &Destination, _: &[u8], _: TxTicket) {}

    fn handle_timeout(&mut self, _: Instant) {}

    fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    fn poll_output(&mut self) -> Option<DriverOutput> {
        self.outputs.pop()
    }
}

/// Counts how often it is called.
#[derive(Debug)]
struct Counting {
    inner: RawSerial,
    calls: Arc<AtomicUsize>,
}

impl Counting {
    fn inner(&mut self) -> &mut RawSerial {
        self.calls.fetch_add(1, Ordering::Relaxed);
        &mut self.inner
    }
}

impl Driver for Counting {
    fn opened(&mut self, now: Instant) {
        self.inner().opened(now);
    }

    fn closed(&mut self, now: Instant) {
        self.inner().closed(now);
    }

    fn received(&mut self, now: Instant, octets: &[u8]) {
        self.inner().received(now, octets);
    }

    fn transmit(&mut self, now: Instant, to: &Destination, datagram: &[u8], ticket: TxTicket) {
        self.inner().transmit(now, to, datagram, ticket);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.inner().handle_timeout(now);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.inner.poll_timeout()
    }

    fn poll_output(&mut self) -> Option<DriverOutput> {
        self.inner().poll_output()
    }
}

/// Processor time of this process.
fn cpu_time() -> Duration {
    let times = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(times.tv_sec as u64, times.tv_nsec as u32)
}

fn port(socket: &Socket) -> PortSettings {
    PortSettings {
        path: socket.path(),
        baud: 115_200,
        hardware_flow: false,
        reopen_first: Duration::from_millis(20),
        reopen_max: Duration::from_millis(100),
    }
}

fn raw(socket: &Socket) -> RawSettings {
    RawSettings {
        port: port(socket),
        framing: Framing::Cobs,
        crc: Crc::None,
        header: LinkHeader::None,
        metadata: Metadata::None,
        fixed_prefix: Vec::new(),
        air_rate: None,
        mtu: 1024,
        settle: Duration::ZERO,
        turnaround: Duration::ZERO,
        echo: false,
        duty_cycle_ppm: None,
    }
}
