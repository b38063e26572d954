//! XBee modems.

use core::time::Duration;
use std::sync::{Arc, Mutex, MutexGuard};

use gateway_core::airtime::Airtime;
use gateway_core::io::Destination;
use gateway_core::time::Instant;
use radio_adapters::driver::{DropReason, Recovery, Report};
use radio_adapters::settings::{PortSettings, XbeeSettings};
use snipe_sim::ether::AirEvent;
use snipe_sim::modem::xbee::{AirFrame, Nap, Peer, Radio, Xbee, XbeeConfig};
use snipe_sim::modem::{Fault, ModemOutput, SimModem};

use crate::bench::{self, Bench};

const NODE: u64 = 0x0013_A200_40B0_0001;
const OTHER: u64 = 0x0013_A200_40B0_0002;
const CONNACK: &[u8] = &[3, 5, 0];
const CONNECT: &[u8] = &[14, 4, 4, 1, 0, 60, b's', b'e', b'n', b's', b'o', b'r', b'-', b'1'];

/// A modem that was found where it was said to be is up within this; it starts for up to 1.5 s.
const SOON: Duration = Duration::from_secs(5);

// Cold start.

#[test]
fn finds_modems_in_both_api_modes() {
    for api_mode in [1, 2] {
        let mut site = Site::new(|config| config.api_mode = api_mode);
        let profile = site.bench.come_up(SOON);
        assert_eq!((profile.mtu, profile.broadcast_mtu), (84, 84));
        assert_eq!(profile.airtime, Airtime::Ieee802154 { overhead: 43 });
        assert!(profile.confirms_tx);
        let ready = Report::Ready {
            identity: "0013A20040A10000 gateway".into(),
            firmware: "Zigbee 405F, hardware 2E46".into(),
        };
        assert_eq!(site.bench.reports, [ready]);
        site.exchange();
    }
}

#[test]
fn turns_a_transparent_modem_to_api_mode() {
    for wanted in [1, 2] {
        let mut site = Site::with(
            |config| config.api_mode = 0,
            |settings| settings.api_mode = wanted,
        );
        site.bench.come_up(Duration::from_secs(20));
        let said = format!("{:?}", site.bench.reports);
        assert!(said.contains(&format!("AP = {wanted}")), "{said}");
        site.exchange();
    }
}

#[test]
fn finds_modems_at_other_speeds() {
    for (configured, found, api_mode) in [(9600, 115_200, 2), (115_200, 9600, 1), (38_400, 57_600, 0)] {
        let mut site = Site::with(
            |config| (config.baud, config.api_mode) = (found, api_mode),
            |settings| settings.port.baud = configured,
        );
        site.bench.come_up(Duration::from_secs(60));
        let said = format!("{:?}", site.bench.reports);
        assert!(said.contains(&format!("{found} baud")), "{said}");
        site.exchange();
    }
}

#[test]
fn tells_the_kinds_of_networks_apart() {
    let mut site = Site::new(|config| config.radio = Radio::Ieee802154);
    let profile = site.bench.come_up(SOON);
    assert_eq!(profile.mtu, 100);
    assert!(said_firmware(&site).starts_with("802.15.4"));
    site.exchange();

    let mut site = Site::new(|config| config.radio = Radio::DigiMesh);
    let profile = site.bench.come_up(SOON);
    assert_eq!(profile.mtu, 73);
    assert!(said_firmware(&site).starts_with("DigiMesh"));
    site.exchange();

    let mut site = Site::new(|config| config.encrypted = true);
    let profile = site.bench.come_up(SOON);
    assert_eq!((profile.mtu, profile.broadcast_mtu), (66, 74));
    site.exchange();
}

#[test]
fn waits_for_the_network() {
    let mut site = Site::new(|config| config.association = 0x23);
    site.bench.pass(Duration::from_secs(60));
    assert!(site.bench.profile.is_none());
    let said = format!("{:?}", site.bench.reports);
    assert!(said.contains("closed to new nodes"), "{said}");
    assert_eq!(site.bench.reopened(), 0);

    site.modem().set_association(site.bench.now, 0);
    site.bench.come_up(Duration::from_secs(11));
    site.exchange();

    site.modem().set_association(site.bench.now, 0x21);
    site.bench.until(SOON, |bench| bench.profile.is_none());
    site.modem().set_association(site.bench.now, 0);
    site.bench.come_up(Duration::from_secs(11));
    site.exchange();
}

#[test]
fn comes_up_among_packets_that_arrive_meanwhile() {
    let mut site = Site::new(|config| config.api_mode = 1);
    for _ in 0..100 {
        site.hear(NODE, 0x1234, CONNECT);
        site.bench.pass(Duration::from_millis(37));
    }
    site.bench.come_up(SOON);
    site.exchange();
}

// Exchanges.

#[test]
fn a_peer_is_known_by_its_64_bit_address_and_802154_tells_its_strength() {
    let mut site = Site::new(|config| config.radio = Radio::Ieee802154);
    site.bench.come_up(SOON);
    site.hear(NODE, 0xFFFE, CONNECT);
    site.bench.until(SOON, |bench| !bench.received.is_empty());
    let (from, facts, datagram) = &site.bench.received[0];
    assert_eq!(from.to_string(), "0x0013a20040b00001");
    assert_eq!((facts.rssi_dbm, &datagram[..]), (Some(-70), CONNECT));
}

#[test]
fn a_peer_with_a_16_bit_address_only_is_answered_there() {
    let mut site = Site::new(|config| config.radio = Radio::Ieee802154);
    site.bench.come_up(SOON);
    site.hear(NODE, 0x1234, CONNECT);
    site.bench.until(SOON, |bench| !bench.received.is_empty());
    assert_eq!(site.bench.received[0].0.to_string(), "0x1234");
    let ticket = site.bench.transmit(&bench::peer(&[0x12, 0x34]), CONNACK);
    site.bench.settle(SOON);
    assert!(site.bench.is_sent(ticket));
    assert_eq!(site.delivered(), [(NODE, CONNACK.to_vec())]);
    assert!(!site.bench.reports.contains(&Report::NotHeard));
}

#[test]
fn a_hundred_datagrams_arrive_once_and_in_order() {
    for radio in [Radio::Zigbee, Radio::Ieee802154, Radio::DigiMesh] {
        let mut site = Site::new(|config| config.radio = radio);
        let mtu = site.bench.come_up(SOON).mtu;
        site.add(Peer::new(NODE, 0xFFFE));
        let datagrams: Vec<_> = (0..100_u8).map(|number| vec![number; mtu]).collect();
        for datagram in &datagrams {
            site.bench.until(SOON, |bench| bench.credit > 0);
            site.bench.transmit(&to(NODE), datagram);
        }
        site.bench.settle(SOON);
        let mut arrived: Vec<_> = site
            .delivered()
            .into_iter()
            .map(|(_, datagram)| datagram)
            .collect();
        // The network may turn them round.
        arrived.sort();
        assert_eq!(arrived, datagrams);
        assert_eq!((site.bench.sent.len(), site.bench.unsent.len()), (100, 0));
    }
}

#[test]
fn a_hundred_packets_from_peers_arrive_at_once() {
    let mut site = Site::new(|config| config.baud = 115_200);
    site.bench.come_up(Duration::from_secs(10));
    for number in 0..100_u8 {
        site.hear(NODE + u64::from(number), 0x2000 + u16::from(number), &[2, number]);
    }
    site.bench.until(SOON, |bench| bench.received.len() == 100);
    assert_eq!(
        site.bench
            .reports
            .iter()
            .filter(|report| matches!(report, Report::Dropped(_)))
            .count(),
        0
    );
}

#[test]
fn an_absent_peer_is_told_and_does_not_hold_up_others() {
    let mut site = Site::new(|_| {});
    site.bench.come_up(SOON);
    site.add(Peer::new(NODE, 0x1111));
    let lost = site.bench.transmit(&to(OTHER), CONNACK);
    let found = site.bench.transmit(&to(NODE), CONNACK);
    site.bench
        .until(Duration::from_secs(1), |bench| bench.is_sent(found));
    assert!(!site.bench.is_sent(lost));
    site.bench.settle(Duration::from_secs(6));
    assert!(site.bench.is_sent(lost), "its airtime was used");
    assert_eq!(
        site.bench
            .reports
            .iter()
            .filter(|report| **report == Report::NotHeard)
            .count(),
        1
    );
}

#[test]
fn a_peer_that_joined_again_is_found_under_its_new_address() {
    let mut site = Site::new(|_| {});
    site.bench.come_up(SOON);
    site.hear(NODE, 0x1111, CONNECT);
    site.bench.until(SOON, |bench| !bench.received.is_empty());
    site.modem().network.peer_mut(NODE).unwrap().network = 0x2222;

    site.bench.transmit(&to(NODE), CONNACK);
    site.bench.settle(Duration::from_secs(12));
    assert_eq!(site.delivered(), [(NODE, CONNACK.to_vec())]);
    assert!(!site.bench.reports.contains(&Report::NotHeard));

    // Its new address is known from now on.
    let began = site.bench.now;
    site.bench.transmit(&to(NODE), CONNACK);
    site.bench.settle(SOON);
    assert_eq!(site.delivered().len(), 2);
    assert!(site.bench.now.since(began) < Duration::from_millis(500));
}

#[test]
fn a_peer_that_sleeps_is_waited_for() {
    let nap = Nap {
        period: Duration::from_secs(20),
        awake: Duration::from_millis(100),
    };
    let mut site = Site::new(|_| {});
    site.bench.come_up(SOON);
    site.add(Peer::new(OTHER, 0x1112));
    site.hear_sleeper(NODE, 0x1111, nap, CONNECT);
    site.bench.until(SOON, |bench| !bench.received.is_empty());
    site.bench.pass(Duration::from_secs(1));

    let asleep = site.bench.transmit(&to(NODE), CONNACK);
    // Those who are awake do not wait for it.
    for _ in 0..20 {
        site.bench.until(SOON, |bench| bench.credit > 0);
        site.bench.transmit(&to(OTHER), CONNACK);
    }
    site.bench
        .until(Duration::from_secs(10), |bench| bench.sent.len() == 20);
    assert!(!site.bench.is_sent(asleep));
    site.bench.settle(Duration::from_secs(30));
    assert!(site.delivered().contains(&(NODE, CONNACK.to_vec())));
    assert!(!site.bench.reports.contains(&Report::NotHeard));
}

#[test]
fn broadcasts_keep_to_what_the_network_repeats() {
    let mut site = Site::new(|_| {});
    site.bench.come_up(SOON);
    site.add(Peer::new(NODE, 0x1111));
    for _ in 0..20 {
        site.bench.until(SOON, |bench| bench.credit > 0);
        site.bench.transmit(&Destination::Broadcast, &[5, 0, 1, 3, 132]);
        // They leave room for others.
        site.bench.until(SOON, |bench| bench.credit > 0);
        site.bench.transmit(&to(NODE), CONNACK);
    }
    site.bench.settle(Duration::from_secs(30));
    assert_eq!((site.bench.sent.len(), site.bench.unsent.len()), (40, 0));
    // The status of one comes before it is on the air.
    site.bench.pass(Duration::from_secs(1));
    let broadcasts = site
        .delivered()
        .iter()
        .filter(|(_, datagram)| datagram.len() == 5)
        .count();
    assert_eq!(broadcasts, 20, "the network repeated all");
}

#[test]
fn what_the_modem_cannot_take_is_told() {
    let mut site = Site::new(|_| {});
    site.bench.come_up(SOON);
    site.add(Peer::new(NODE, 0x1111));
    let long = site.bench.transmit(&to(NODE), &[0; 85]);
    let loud = site.bench.transmit(&Destination::Broadcast, &[0; 85]);
    let wrong = site.bench.transmit(&bench::peer(&[1, 2, 3]), CONNACK);
    site.bench.settle(SOON);
    assert_eq!(site.bench.unsent, [long, loud, wrong]);
    let dropped: Vec<_> = site.dropped();
    assert_eq!(
        dropped,
        [DropReason::TooLong, DropReason::TooLong, DropReason::Refused]
    );
    site.bench.until(SOON, |bench| bench.credit == 4);
}

#[test]
fn a_modem_without_buffers_gets_it_again() {
    let mut site = Site::new(|_| {});
    site.bench.come_up(SOON);
    site.add(Peer::new(NODE, 0x1111));
    site.bench.fault(Fault::Busy(Duration::from_secs(1)));
    for number in 0..4 {
        site.bench.transmit(&to(NODE), &[2, number]);
    }
    site.bench.settle(Duration::from_secs(10));
    assert_eq!((site.bench.sent.len(), site.bench.unsent.len()), (4, 0));
    assert_eq!(site.delivered().len(), 4);

    // For ever is too long.
    site.bench.until(SOON, |bench| bench.credit > 0);
    site.bench.fault(Fault::Busy(Duration::from_secs(60)));
    let ticket = site.bench.transmit(&to(NODE), CONNACK);
    site.bench.settle(Duration::from_secs(10));
    assert_eq!(site.bench.unsent, [ticket]);
    site.bench.pass(Duration::from_secs(60));
    site.exchange();
}

// Faults.

#[test]
fn a_modem_that_starts_again_is_set_up_again() {
    for api_mode in [0, 1, 2] {
        let mut site = Site::new(|config| config.api_mode = api_mode);
        site.bench.come_up(Duration::from_secs(20));
        site.exchange();
        site.bench.reports.clear();
        site.bench.fault(Fault::Reboot);
        if api_mode == 0 {
            // It is transparent again, and says nothing. What is sent shows it.
            site.bench.transmit(&to(NODE), CONNACK);
            site.bench.transmit(&to(NODE), CONNACK);
            site.bench.transmit(&to(NODE), CONNACK);
        }
        site.bench
            .until(Duration::from_secs(70), |bench| bench.profile.is_none());
        site.bench.come_up(Duration::from_secs(30));
        if api_mode != 0 {
            assert_eq!(site.bench.reports[0], Report::Rebooted);
        }
        site.exchange();
    }
}

#[test]
fn a_modem_that_starts_again_within_a_frame_loses_that_frame_alone() {
    let mut site = Site::new(|_| {});
    site.bench.come_up(SOON);
    site.add(Peer::new(NODE, 0x1111));
    for _ in 0..20 {
        let ticket = site.bench.transmit(&to(NODE), &[0; 84]);
        // Some way through the 100 ms that the line takes for it.
        site.bench.pass(Duration::from_millis(50));
        site.bench.fault(Fault::Reboot);
        site.bench.settle(SOON);
        assert!(site.bench.unsent.contains(&ticket));
        site.bench.come_up(SOON);
        site.exchange();
    }
}

#[test]
fn a_modem_that_hangs_is_reset_and_then_reopened() {
    let mut site = Site::new(|_| {});
    site.bench.come_up(SOON);
    site.add(Peer::new(NODE, 0x1111));
    site.bench.fault(Fault::Hang);
    for _ in 0..3 {
        site.bench.transmit(&to(NODE), CONNACK);
    }
    site.bench
        .until(Duration::from_secs(60), |bench| bench.reopened() > 1);
    assert!(site.bench.profile.is_none());
    let tried = |what| site.bench.reports.contains(&Report::Recovering(what));
    assert!(tried(Recovery::Reset) && tried(Recovery::Reopen));

    site.bench.fault(Fault::Reboot);
    site.bench.come_up(Duration::from_secs(60));
    site.exchange();
}

#[test]
fn a_modem_that_hangs_while_nothing_is_sent_is_noticed() {
    let mut site = Site::new(|_| {});
    site.bench.come_up(SOON);
    site.bench.pass(Duration::from_secs(3600));
    assert_eq!(site.bench.reopened(), 0, "silence alone is nothing");
    site.bench.fault(Fault::Hang);
    site.bench
        .until(Duration::from_secs(70), |bench| bench.profile.is_none());
    site.bench.pass(Duration::from_secs(1));
    assert_eq!(site.bench.reopened(), 1);
}

#[test]
fn exchanges_go_on_in_noise() {
    for api_mode in [1, 2] {
        let mut site = Site::new(|config| config.api_mode = api_mode);
        site.bench.come_up(SOON);
        site.add(Peer::new(NODE, 0x1111));
        let mut arrived = 0;
        for round in 0..100 {
            site.bench.fault(Fault::Garbage(round));
            site.hear(NODE, 0x1111, CONNECT);
            // A false beginning ends with the silence that follows.
            site.bench.pass(Duration::from_millis(1500));
            arrived += site
                .bench
                .received
                .drain(..)
                .filter(|received| received.2 == CONNECT)
                .count();
        }
        assert!(arrived >= 99, "{arrived}");
        assert!(site.bench.profile.is_some());
        assert_eq!(site.bench.reopened(), 0);
        site.exchange();
    }
}

#[test]
fn frames_come_octet_by_octet_and_twice() {
    let mut site = Site::new(|_| {});
    site.bench.fault(Fault::SplitWrites(true));
    site.bench.come_up(SOON);
    site.exchange();
    site.bench.fault(Fault::DupEvent);
    site.hear(NODE, 0x1111, CONNECT);
    site.bench.until(SOON, |bench| bench.received.len() == 2);
    site.bench.fault(Fault::Slow(Some(300)));
    site.exchange();
}

#[test]
fn an_answer_that_is_lost_is_asked_for_again() {
    let mut repeated = 0;
    for moment in 0..100 {
        let mut site = Site::new(|_| {});
        site.bench.pass(Duration::from_millis(30 * moment));
        if site.bench.profile.is_some() {
            break;
        }
        site.bench.fault(Fault::DropReply);
        site.bench.come_up(Duration::from_secs(10));
        repeated += usize::from(site.bench.reports.contains(&Report::Recovering(Recovery::Repeat)));
        assert_eq!(site.bench.reopened(), 0);
    }
    assert!(repeated > 3, "{repeated}");
}

#[test]
fn a_status_that_is_lost_ends_its_datagram_after_ten_seconds() {
    let mut site = Site::new(|_| {});
    site.bench.come_up(SOON);
    site.add(Peer::new(NODE, 0x1111));
    site.bench.fault(Fault::DropReply);
    let began = site.bench.now;
    let ticket = site.bench.transmit(&to(NODE), CONNACK);
    site.bench.settle(Duration::from_secs(11));
    assert!(site.bench.is_sent(ticket));
    assert!(site.bench.now.since(began) >= Duration::from_secs(10));
    assert_eq!(site.bench.reports.last(), Some(&Report::NotHeard));
    site.exchange();
}

#[test]
fn unplugged_and_back_in_every_state() {
    // Every 50 ms of a cold start from transparent mode at another speed, and of an exchange.
    for moment in 0..400 {
        let mut site = Site::new(|config| (config.baud, config.api_mode) = (19_200, 0));
        site.add(Peer::new(NODE, 0x1111));
        let end = Instant::from_micros(1_000_000 + moment * 50_000);
        while site.bench.now < end {
            site.bench.pass(Duration::from_millis(50));
            if site.bench.credit > 0 {
                site.bench.transmit(&to(NODE), CONNACK);
            }
        }
        site.bench.fault(Fault::Unplug(Duration::from_secs(moment % 5)));
        assert!(site.bench.profile.is_none());
        site.bench.settle(Duration::ZERO);
        site.bench.come_up(Duration::from_secs(60));
        site.exchange();
    }
}

/// A modem on its bench.
struct Site {
    bench: Bench,
    modem: Shared,
}

impl Site {
    fn new(configure: impl FnOnce(&mut XbeeConfig)) -> Site {
        Site::with(configure, |_| {})
    }

    fn with(configure: impl FnOnce(&mut XbeeConfig), set: impl FnOnce(&mut XbeeSettings)) -> Site {
        let mut config = XbeeConfig::new(Radio::Zigbee);
        configure(&mut config);
        let mut settings = XbeeSettings {
            port: PortSettings {
                path: "unused".into(),
                baud: 9600,
                hardware_flow: false,
                reopen_first: Duration::from_millis(500),
                reopen_max: Duration::from_secs(5),
            },
            api_mode: 2,
            mtu: None,
            last_hop_rssi: false,
        };
        set(&mut settings);
        let modem = Shared(Arc::new(Mutex::new(Xbee::new(config))));
        let driver = radio_adapters::xbee::driver(&settings);
        let airtime = Duration::from_millis(3);
        let bench = Bench::new(driver, Box::new(modem.clone()), settings.port.baud, airtime);
        Site { bench, modem }
    }

    fn modem(&self) -> MutexGuard<'_, Xbee> {
        self.modem.0.lock().unwrap()
    }

    fn add(&mut self, peer: Peer) {
        self.modem().network.add(peer);
    }

    /// A node sends to the gateway.
    fn hear(&mut self, from: u64, network: u16, datagram: &[u8]) {
        self.hear_frame(from, network, None, datagram);
    }

    fn hear_sleeper(&mut self, from: u64, network: u16, nap: Nap, datagram: &[u8]) {
        self.hear_frame(from, network, Some(nap), datagram);
    }

    fn hear_frame(&mut self, from: u64, network: u16, sleep: Option<Nap>, datagram: &[u8]) {
        let frame = AirFrame {
            to: 0,
            from,
            network,
            sleep,
            broadcast: false,
            data: datagram.to_vec(),
        };
        self.bench.hear(frame.encode());
    }

    /// What nodes got.
    fn delivered(&self) -> Vec<(u64, Vec<u8>)> {
        let frames = self
            .bench
            .aired
            .iter()
            .filter_map(|(_, payload)| AirFrame::decode(payload));
        frames.map(|frame| (frame.to, frame.data)).collect()
    }

    fn dropped(&self) -> Vec<DropReason> {
        let reports = self.bench.reports.iter();
        reports
            .filter_map(|report| match report {
                Report::Dropped(reason) => Some(*reason),
                _ => None,
            })
            .collect()
    }

    /// A node sends and is answered.
    #[track_caller]
    fn exchange(&mut self) {
        self.bench.received.clear();
        self.bench.aired.clear();
        self.hear(NODE, 0xFFFE, CONNECT);
        self.bench.until(SOON, |bench| !bench.received.is_empty());
        let (from, _, datagram) = self.bench.received.pop().unwrap();
        assert_eq!(
            (from.to_string().as_str(), &datagram[..]),
            ("0x0013a20040b00001", CONNECT)
        );
        self.bench.until(SOON, |bench| bench.credit > 0);
        let ticket = self.bench.transmit(&to(NODE), CONNACK);
        self.bench.settle(Duration::from_secs(15));
        assert!(self.bench.is_sent(ticket));
        assert_eq!(self.delivered(), [(NODE, CONNACK.to_vec())]);
    }
}

fn said_firmware(site: &Site) -> String {
    let reports = site.bench.reports.iter();
    let mut said = reports.filter_map(|report| match report {
        Report::Ready { firmware, .. } => Some(firmware.clone()),
        _ => None,
    });
    said.next().unwrap()
}

fn to(addr: u64) -> Destination {
    bench::peer(&addr.to_be_bytes())
}

/// A modem that the test can reach into.
#[derive(Debug, Clone)]
struct Shared(Arc<Mutex<Xbee>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Xbee> {
        self.0.lock().unwrap()
    }
}

impl SimModem for Shared {
    fn baud(&self) -> u32 {
        self.lock().baud()
    }

    fn power_on(&mut self, now: Instant) {
        self.lock().power_on(now);
    }

    fn handle_octets(&mut self, now: Instant, octets: &[u8]) {
        self.lock().handle_octets(now, octets);
    }

    fn handle_air(&mut self, now: Instant, event: AirEvent) {
        self.lock().handle_air(now, event);
    }

    fn set_busy(&mut self, until: Instant) {
        self.lock().set_busy(until);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.lock().handle_timeout(now);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.lock().poll_timeout()
    }

    fn poll_output(&mut self) -> Option<ModemOutput> {
        self.lock().poll_output()
    }
}
