//! RAK4270 and RAK811.

use core::time::Duration;

use gateway_core::io::LinkEvent;
use gateway_core::peer::LinkAddr;
use radio_adapters::driver::{DropReason, Report};
use radio_adapters::settings::LoraDriver;

use crate::bench::{Bench, RAK4270, sent, settings, unsent, wire};

fn ready() -> Bench {
    Bench::ready(&settings(LoraDriver::Rak4270), RAK4270)
}

#[test]
fn modem_is_set_up_over_its_restart() {
    let bench = ready();
    let identity = "RAK4270".into();
    let firmware = "V3.2.0.16.LoRaNode".into();
    assert_eq!(bench.reports, [Report::Ready { identity, firmware }]);
}

#[test]
fn restart_before_the_answer_is_an_answer() {
    let mut bench = Bench::open(&settings(LoraDriver::Rak4270));
    bench.expect_write("\r\n");
    bench.talk(&RAK4270[..3]);
    bench.talk(&[("at+set_config=lora:work_mode:1", "Initialization OK")]);
    bench.talk(&RAK4270[4..]);
    bench.expect_up();
}

#[test]
fn each_transmission_switches_there_and_back() {
    let mut bench = ready();
    bench.transmit(1, &wire(), &[3, 5, 0]);
    bench.talk(&[
        ("at+set_config=lorap2p:transfer_mode:2", "OK"),
        ("at+send=lorap2p:030500", "OK"),
    ]);
    let written = bench.now;
    bench.expect_link(sent(1));
    let airtime = bench.profile.as_ref().unwrap().airtime.of(3);
    let waited = bench.now.since(written);
    assert!(
        (airtime..airtime + Duration::from_millis(60)).contains(&waited),
        "{waited:?}"
    );
    bench.talk(&[("at+set_config=lorap2p:transfer_mode:1", "OK")]);
    bench.expect_link(LinkEvent::Credit(1));
}

#[test]
fn answer_at_the_end_of_the_transmission_is_waited_for() {
    let mut bench = ready();
    bench.transmit(1, &wire(), &[3, 5, 0]);
    bench.talk(&[("at+set_config=lorap2p:transfer_mode:2", "OK")]);
    bench.expect("at+send=lorap2p:030500");
    bench.wait(Duration::from_millis(400));
    bench.expect_nothing();
    bench.line("OK");
    bench.expect_link(sent(1));
}

#[test]
fn reception_brings_its_length() {
    let mut bench = ready();
    bench.line("at+recv=-30,7,3:030101");
    let (from, facts, datagram) = bench.expect_received();
    assert_eq!((from, datagram), (LinkAddr::Wire, vec![3, 1, 1]));
    assert_eq!((facts.rssi_dbm, facts.snr_db), (Some(-30), Some(7)));
    bench.line("at+recv=-30,7,4:030101");
    bench.expect_nothing();
    assert_eq!(bench.reports[1..], [Report::Dropped(DropReason::Noise)]);
}

#[test]
fn datagrams_are_no_longer_than_its_line() {
    let mut bench = ready();
    assert_eq!(bench.profile.as_ref().unwrap().mtu, 118);
    bench.transmit(1, &wire(), &[1; 118]);
    bench.talk(&[("at+set_config=lorap2p:transfer_mode:2", "OK")]);
    let command = format!("at+send=lorap2p:{}", "01".repeat(118));
    assert!(command.len() + 2 <= 255);
    bench.talk(&[(&command, "ERROR: 2")]);
    bench.expect_link(unsent(1));
}

#[test]
fn busy_transceiver_is_asked_again() {
    let mut bench = ready();
    bench.transmit(1, &wire(), &[3, 5, 0]);
    bench.talk(&[
        ("at+set_config=lorap2p:transfer_mode:2", "OK"),
        ("at+send=lorap2p:030500", "ERROR: 80"),
        ("at+set_config=lorap2p:transfer_mode:2", "OK"),
        ("at+set_config=lorap2p:transfer_mode:1", "OK"),
        ("at+set_config=lorap2p:transfer_mode:2", "OK"),
        ("at+send=lorap2p:030500", "OK"),
    ]);
    bench.expect_link(sent(1));
}
