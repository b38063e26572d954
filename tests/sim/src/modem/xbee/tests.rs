use core::time::Duration;

use gateway_core::time::Instant;

use super::{AirFrame, Nap, Peer, Radio, Xbee, XbeeConfig, frame, peer_address};
use crate::ether::{AirEvent, AirRequest};
use crate::modem::{ModemOutput, SimModem};

/// A module at work, its host and its air.
struct Bench {
    modem: Xbee,
    now: Instant,
    reader: frame::Reader,
    /// Everything that reached the host.
    line: Vec<u8>,
    frames: Vec<(Instant, Vec<u8>)>,
    aired: Vec<(Instant, AirFrame)>,
}

impl Bench {
    fn new(config: XbeeConfig) -> Bench {
        let mut bench = Bench {
            modem: Xbee::new(config),
            now: Instant::START,
            reader: frame::Reader::default(),
            line: Vec::new(),
            frames: Vec::new(),
            aired: Vec::new(),
        };
        bench.modem.power_on(bench.now);
        bench
    }

    /// Zigbee with one peer, past its start.
    fn zigbee(peer: Peer) -> Bench {
        let mut bench = Bench::new(XbeeConfig {
            peers: vec![peer],
            ..XbeeConfig::new(Radio::Zigbee)
        });
        bench.run(3_000);
        bench.frames.clear();
        bench
    }

    fn run(&mut self, millis: u64) {
        let end = self.now + Duration::from_millis(millis);
        self.drain();
        while let Some(at) = self.modem.poll_timeout().filter(|at| *at <= end) {
            self.now = at.max(self.now);
            self.modem.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
    }

    fn drain(&mut self) {
        while let Some(output) = self.modem.poll_output() {
            match output {
                ModemOutput::Reply(octets) | ModemOutput::Event(octets) => {
                    let escaped = self.modem.mode() == 2;
                    for octet in &octets {
                        let frame = self.reader.push(*octet, escaped);
                        self.frames.extend(frame.map(|frame| (self.now, frame)));
                    }
                    self.line.extend(octets);
                }
                // A free channel, and a transmission of no duration.
                ModemOutput::Air(AirRequest::Sense(_)) => {
                    self.modem.handle_air(self.now, AirEvent::Sensed { busy: false });
                }
                ModemOutput::Air(AirRequest::Send { payload, .. }) => {
                    let frame = AirFrame::decode(&payload).expect("what a module sends is a frame");
                    self.aired.push((self.now, frame));
                    self.modem.handle_air(self.now, AirEvent::Sent);
                }
                ModemOutput::Air(AirRequest::Listen(_) | AirRequest::Abort) => {}
                ModemOutput::Vanish(_) | ModemOutput::Note(_) => {}
            }
        }
    }

    /// Writes a frame and waits a second for what it brings; the frames that came.
    fn ask(&mut self, data: &[u8]) -> Vec<Vec<u8>> {
        self.ask_for(1_000, data)
    }

    fn ask_for(&mut self, millis: u64, data: &[u8]) -> Vec<Vec<u8>> {
        self.frames.clear();
        let escaped = self.modem.mode() == 2;
        self.modem.handle_octets(self.now, &frame::encode(data, escaped));
        self.run(millis);
        self.frames.iter().map(|(_, frame)| frame.clone()).collect()
    }

    fn hear(&mut self, from: u64, to: u64, data: &[u8]) {
        let frame = AirFrame {
            to,
            from,
            network: 0x7D84,
            sleep: None,
            broadcast: false,
            data: data.to_vec(),
        };
        let event = AirEvent::Frame {
            payload: frame.encode(),
            rssi_dbm: -40,
            snr_db: 0,
        };
        self.modem.handle_air(self.now, event);
    }
}

/// A transmit request (10) with this id, 64-bit and 16-bit address and options.
fn request(id: u8, to: u64, network: u16, options: u8, data: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x10, id];
    frame.extend(to.to_be_bytes());
    frame.extend(network.to_be_bytes());
    frame.extend([0, options]);
    frame.extend(data);
    frame
}

fn peer() -> Peer {
    Peer::new(peer_address(1), 0x7D84)
}

#[test]
fn start_is_told_and_then_the_network() {
    let mut bench = Bench::new(XbeeConfig::new(Radio::Zigbee));
    bench.run(499);
    assert!(bench.line.is_empty());
    bench.run(2_000);
    let frames: Vec<&[u8]> = bench.frames.iter().map(|(_, frame)| &frame[..]).collect();
    assert_eq!(frames, [[0x8A, 0x00], [0x8A, 0x06]]);
}

#[test]
fn parameters_are_answered_and_unknown_ones_refused() {
    let mut bench = Bench::zigbee(peer());
    assert_eq!(bench.ask(b"\x08\x52SH"), [b"\x88\x52SH\0\x00\x13\xA2\x00"]);
    assert_eq!(bench.ask(b"\x08\x55NP"), [b"\x88\x55NP\0\x00\xFF"]);
    assert_eq!(bench.ask(b"\x08\x54ZZ"), [b"\x88\x54ZZ\x02"]);
    assert_eq!(bench.ask(b"\x08\x01AO\x01"), [b"\x88\x01AO\0"]);
    assert_eq!(bench.ask(b"\x08\x02AO"), [b"\x88\x02AO\0\x01"]);
    assert_eq!(bench.ask(b"\x08\x03AO\x99"), [b"\x88\x03AO\x03"]);
    assert_eq!(bench.ask(b"\x08\x04SH\x01"), [b"\x88\x04SH\x03"]);
    assert_eq!(bench.ask(b"\x08\x05AI"), [b"\x88\x05AI\0\x00"]);
    // Frame id 0: no answer.
    assert!(bench.ask(b"\x08\0SH").is_empty());
}

#[test]
fn queued_parameters_wait_for_ac_and_unsaved_ones_are_lost_by_fr() {
    let mut bench = Bench::zigbee(peer());
    assert_eq!(bench.ask(b"\x09\x01NH\x05"), [b"\x88\x01NH\0"]);
    assert_eq!(bench.ask(b"\x08\x02NH"), [b"\x88\x02NH\0\x1E"]);
    bench.ask(b"\x08\x03AC");
    assert_eq!(bench.ask(b"\x08\x04NH"), [b"\x88\x04NH\0\x05"]);
    let frames = bench.ask_for(3_000, b"\x08\x05FR");
    assert_eq!(frames, [&b"\x88\x05FR\0"[..], b"\x8A\x00", b"\x8A\x06"]);
    assert_eq!(bench.ask(b"\x08\x06NH"), [b"\x88\x06NH\0\x1E"]);
}

#[test]
fn unicast_arrives_and_its_status_has_its_id() {
    let mut bench = Bench::zigbee(peer());
    let frames = bench.ask(&request(0x11, peer_address(1), 0x7D84, 0, b"\x03\x05\x00"));
    assert_eq!(frames, [[0x8B, 0x11, 0x7D, 0x84, 0, 0, 0]]);
    let (_, aired) = &bench.aired[0];
    assert_eq!(
        (aired.to, aired.broadcast, &aired.data[..]),
        (peer_address(1), false, &b"\x03\x05\x00"[..])
    );
    // The network looked the 16-bit address up.
    let frames = bench.ask(&request(0x12, peer_address(1), 0xFFFE, 0, b"x"));
    assert_eq!(frames, [[0x8B, 0x12, 0x7D, 0x84, 0, 0, 1]]);
    assert!(
        bench
            .ask(&request(0, peer_address(1), 0x7D84, 0, b"x"))
            .is_empty()
    );
    assert_eq!(bench.aired.len(), 3);
}

#[test]
fn absent_peers_are_reported_after_the_time_it_takes_to_know() {
    let mut bench = Bench::zigbee(peer());
    let began = bench.now;
    let stranger = bench.ask_for(6_000, &request(1, peer_address(9), 0xFFFE, 0, b"x"));
    assert_eq!(stranger, [[0x8B, 1, 0xFF, 0xFD, 0, 0x24, 3]]);
    // Three attempts of 50 ms for each of 30 hops, and 100.
    assert_eq!(bench.frames[0].0.since(began), Duration::from_millis(4_800));
    bench.modem.network.peer_mut(peer_address(1)).unwrap().network = 0x1111;
    let moved = bench.ask_for(6_000, &request(2, peer_address(1), 0x7D84, 0, b"x"));
    assert_eq!(moved, [[0x8B, 2, 0xFF, 0xFD, 0, 0x25, 2]]);
    bench.modem.network.peer_mut(peer_address(1)).unwrap().present = false;
    let off = bench.ask_for(6_000, &request(3, peer_address(1), 0x1111, 0, b"x"));
    assert_eq!(off, [[0x8B, 3, 0xFF, 0xFD, 2, 0x21, 0]]);
    assert!(bench.aired.is_empty());
}

#[test]
fn sizes_are_limited_as_digi_says() {
    let mut bench = Bench::zigbee(peer());
    let status = |frames: Vec<Vec<u8>>| frames[0][5];
    let big = [0x55; 256];
    assert_eq!(
        status(bench.ask(&request(1, peer_address(1), 0x7D84, 0, &big[..255]))),
        0
    );
    assert_eq!(
        status(bench.ask(&request(2, peer_address(1), 0x7D84, 0, &big))),
        0x74
    );
    assert_eq!(status(bench.ask(&request(3, 0xFFFF, 0xFFFE, 0, &big[..84]))), 0);
    assert_eq!(
        status(bench.ask(&request(4, 0xFFFF, 0xFFFE, 0, &big[..85]))),
        0x74
    );
    bench.ask(b"\x08\x05EE\x01");
    assert_eq!(status(bench.ask(&request(5, 0xFFFF, 0xFFFE, 0, &big[..74]))), 0);
    assert_eq!(
        status(bench.ask(&request(6, 0xFFFF, 0xFFFE, 0, &big[..75]))),
        0x74
    );
}

#[test]
fn network_takes_eight_broadcasts_in_eight_seconds() {
    let mut bench = Bench::zigbee(peer());
    let mut statuses = Vec::new();
    for id in 1..=9 {
        let frames = bench.ask_for(100, &request(id, 0xFFFF, 0xFFFE, 0, b"\x05\0\x01\x03\x84"));
        statuses.push(frames[0][5]);
    }
    assert_eq!(statuses, [0, 0, 0, 0, 0, 0, 0, 0, 0x26]);
    bench.run(8_000);
    assert_eq!(bench.ask(&request(10, 0xFFFF, 0xFFFE, 0, b"x"))[0][5], 0);
    // One copy each for the one peer.
    assert!(bench.aired.iter().all(|(_, frame)| frame.broadcast));
    assert_eq!(bench.aired.len(), 9);
}

#[test]
fn buffers_run_out() {
    let mut bench = Bench::zigbee(peer());
    for id in 1..=9 {
        let wire = frame::encode(&request(id, peer_address(9), 0xFFFE, 0, b"x"), true);
        bench.modem.handle_octets(bench.now, &wire);
    }
    bench.run(1_000);
    let early: Vec<&[u8]> = bench.frames.iter().map(|(_, frame)| &frame[..]).collect();
    assert_eq!(early, [[0x8B, 9, 0xFF, 0xFD, 0, 0x32, 0]]);
    bench.run(6_000);
    assert_eq!(bench.frames.len(), 9);
}

#[test]
fn sleeping_peer_gets_it_when_it_polls_and_the_extended_timeout_waits_for_it() {
    let mut sleeper = peer();
    sleeper.sleep = Some(Nap {
        period: Duration::from_secs(20),
        awake: Duration::from_secs(1),
    });
    let mut bench = Bench::zigbee(sleeper);
    // 1.2 times SP of 20 s.
    let began = bench.now;
    let frames = bench.ask_for(30_000, &request(1, peer_address(1), 0x7D84, 0x40, b"x"));
    assert_eq!(frames, [[0x8B, 1, 0x7D, 0x84, 0, 0, 0x40]]);
    assert_eq!(bench.aired[0].0.as_micros() % 20_000_000, 0);
    assert!(bench.aired[0].0.since(began) > Duration::from_secs(5));
    // Without it the module gives up before the peer polls, and the peer gets it all the same.
    let frames = bench.ask_for(30_000, &request(2, peer_address(1), 0x7D84, 0, b"x"));
    assert_eq!(frames[0][5], 0x21);
    assert_eq!(bench.aired.len(), 2);
}

#[test]
fn what_a_peer_sends_is_told_as_ao_says() {
    let mut bench = Bench::zigbee(peer());
    bench.hear(peer_address(1), 0, b"\x03\x01\x01");
    bench.run(100);
    let head = [&[0x90][..], &peer_address(1).to_be_bytes(), &[0x7D, 0x84]].concat();
    assert_eq!(bench.frames[0].1, [&head[..], b"\x01\x03\x01\x01"].concat());
    bench.hear(peer_address(1), 0xFFFF, b"\x03\x01\x01");
    bench.run(100);
    assert_eq!(bench.frames[1].1, [&head[..], b"\x02\x03\x01\x01"].concat());
    bench.ask(b"\x08\x01AO\x01");
    bench.hear(peer_address(1), 0, b"\x03\x01\x01");
    bench.run(100);
    let explicit = b"\xE8\xE8\x00\x11\xC1\x05\x01\x03\x01\x01";
    assert_eq!(bench.frames[1].1[0], 0x91);
    assert!(bench.frames[1].1.ends_with(explicit));
}

#[test]
fn module_without_a_network_says_so() {
    let mut bench = Bench::new(XbeeConfig {
        association: 0x22,
        coordinator: false,
        ..XbeeConfig::new(Radio::Zigbee)
    });
    bench.run(3_000);
    assert_eq!(bench.ask(b"\x08\x01AI"), [b"\x88\x01AI\0\x22"]);
    let frames = bench.ask(&request(2, peer_address(1), 0xFFFE, 0, b"x"));
    assert_eq!(frames, [[0x8B, 2, 0xFF, 0xFD, 0, 0x22, 0]]);
}

#[test]
fn ieee_802_15_4_has_frames_of_its_own() {
    let mut bench = Bench::new(XbeeConfig {
        peers: vec![
            Peer::new(peer_address(1), 0xFFFF),
            Peer::new(peer_address(2), 0x1234),
        ],
        ..XbeeConfig::new(Radio::Ieee802154)
    });
    bench.run(3_000);
    let to = |peer| [&[0x00, 1][..], &peer_address(peer).to_be_bytes(), b"\0abc"].concat();
    assert_eq!(bench.ask(&to(1)), [[0x89, 1, 0]]);
    assert_eq!(bench.ask(&to(9)), [[0x89, 1, 1]]);
    assert_eq!(bench.ask(b"\x01\x02\x12\x34\0abc"), [[0x89, 2, 0]]);
    assert_eq!(bench.ask(b"\x01\x03\xFF\xFF\0abc"), [[0x89, 3, 0]]);
    let mut reached: Vec<u64> = bench.aired.iter().map(|(_, frame)| frame.to).collect();
    reached.sort_unstable();
    assert_eq!(reached, [1, 1, 2, 2].map(peer_address));
    // This firmware has no such frame, and no AO.
    assert!(
        bench
            .ask(&request(4, peer_address(1), 0xFFFE, 0, b"x"))
            .is_empty()
    );
    assert_eq!(bench.ask(b"\x08\x05AO\0"), [b"\x88\x05AO\x02"]);
    bench.frames.clear();
    let sent = |network| AirFrame {
        to: 0xFFFF,
        from: peer_address(2),
        network,
        sleep: None,
        broadcast: false,
        data: b"\x03\x01\x01".to_vec(),
    };
    for network in [0x1234, 0xFFFF] {
        let payload = sent(network).encode();
        let (rssi_dbm, snr_db) = (-94, 0);
        let event = AirEvent::Frame {
            payload,
            rssi_dbm,
            snr_db,
        };
        bench.modem.handle_air(bench.now, event);
        bench.run(100);
    }
    assert_eq!(bench.frames[0].1, b"\x81\x12\x34\x5E\x02\x03\x01\x01");
    let long = [
        &[0x80][..],
        &peer_address(2).to_be_bytes(),
        b"\x5E\x02\x03\x01\x01",
    ]
    .concat();
    assert_eq!(bench.frames[1].1, long);
}

#[test]
fn transparent_module_is_brought_to_api_mode() {
    let mut bench = Bench::new(XbeeConfig {
        api_mode: 0,
        ..XbeeConfig::new(Radio::Zigbee)
    });
    bench.run(3_000);
    assert!(bench.line.is_empty());
    bench.modem.handle_octets(bench.now, b"+++");
    bench.run(999);
    assert!(bench.line.is_empty());
    bench.run(100);
    assert_eq!(bench.line, b"OK\r");
    bench
        .modem
        .handle_octets(bench.now, b"ATAP2\rATZZ\rATAP\rATSL\rATCN\r");
    bench.run(100);
    assert_eq!(bench.line, b"OK\rOK\rERROR\r0\r40A10000\rOK\r");
    assert_eq!(bench.ask(b"\x08\x01AP"), [b"\x88\x01AP\0\x02"]);
}

#[test]
fn plus_signs_without_silence_are_data() {
    let mut bench = Bench::new(XbeeConfig {
        api_mode: 0,
        peers: vec![peer()],
        ..XbeeConfig::new(Radio::Zigbee)
    });
    bench.run(3_000);
    bench.modem.handle_octets(bench.now, b"\x08\x05DL");
    bench.run(10);
    bench.modem.handle_octets(bench.now, b"+++");
    bench.run(3_000);
    assert!(bench.line.is_empty());
    // Command mode ends by itself after CT, 10 s.
    bench.modem.handle_octets(bench.now, b"+++");
    bench.run(1_500);
    assert_eq!(bench.line, b"OK\r");
    bench.run(11_000);
    bench.modem.handle_octets(bench.now, b"ATAP\r");
    bench.run(100);
    assert_eq!(bench.line, b"OK\r");
}

#[test]
fn reboot_in_the_middle_of_a_transmission_loses_its_status() {
    let mut bench = Bench::zigbee(peer());
    bench.ask_for(1, &request(1, peer_address(9), 0xFFFE, 0, b"x"));
    bench.modem.power_on(bench.now);
    bench.run(10_000);
    let frames: Vec<&[u8]> = bench.frames.iter().map(|(_, frame)| &frame[..]).collect();
    assert_eq!(frames, [[0x8A, 0x00], [0x8A, 0x06]]);
}

#[test]
fn commissioning_button_tells_both_addresses() {
    let mut bench = Bench::zigbee(peer());
    bench.modem.press_button(bench.now, peer_address(1));
    bench.run(100);
    let head = [&[0x95][..], &peer_address(1).to_be_bytes(), &[0x7D, 0x84]].concat();
    assert!(bench.frames[0].1.starts_with(&head));
}

#[test]
fn whatever_the_host_writes_does_no_harm() {
    use rand::{RngExt, SeedableRng, rngs::SmallRng};
    let mut rng = SmallRng::seed_from_u64(7);
    for radio in [Radio::Zigbee, Radio::Ieee802154, Radio::DigiMesh] {
        for api_mode in 0..=2 {
            let mut bench = Bench::new(XbeeConfig {
                api_mode,
                peers: vec![peer()],
                ..XbeeConfig::new(radio)
            });
            bench.run(3_000);
            for _ in 0..300 {
                let length = rng.random_range(0..40);
                let noise: Vec<u8> = (0..length).map(|_| rng.random()).collect();
                if rng.random_bool(0.5) {
                    let framed = frame::encode(&noise, api_mode == 2);
                    bench.modem.handle_octets(bench.now, &framed);
                } else {
                    bench.modem.handle_octets(bench.now, &noise);
                }
                bench.run(rng.random_range(0..50));
                assert!(bench.modem.agenda.len() < 500);
            }
        }
    }
}
