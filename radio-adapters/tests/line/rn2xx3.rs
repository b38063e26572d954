//! RN2483 and RN2903.

use core::time::Duration;

use gateway_core::io::LinkEvent;
use radio_adapters::driver::{DriverOutput, DropReason, Report};
use radio_adapters::settings::{LoraDriver, LoraSettings};

use crate::bench::{Bench, RN2483, sent, settings, unsent, wire};

fn rn2483() -> LoraSettings {
    settings(LoraDriver::Rn2483)
}

fn ready() -> Bench {
    Bench::ready(&rn2483(), RN2483)
}

/// An RN2483 of before `radio rxstop`: SF9 has 244 symbols a second.
fn ready_with_old_firmware() -> Bench {
    let old = "RN2483 1.0.1 Dec 15 2015 09:38:09";
    let mut bench = Bench::open(&rn2483());
    bench.expect_write("\r\n");
    bench.talk(&[
        ("sys get ver", old),
        ("radio rxstop", "invalid_param"),
        ("sys get ver", old),
    ]);
    bench.talk(&RN2483[3..RN2483.len() - 1]);
    bench.talk(&[("radio rx 244", "ok")]);
    bench.expect_up();
    bench
}

#[test]
fn modem_is_set_up_and_says_what_it_is() {
    let bench = ready();
    let identity = "RN2483".into();
    let firmware = "1.0.5".into();
    assert_eq!(bench.reports, [Report::Ready { identity, firmware }]);
}

#[test]
fn modem_without_lorawan_has_nothing_to_pause() {
    let mut bench = Bench::open(&rn2483());
    bench.expect_write("\r\n");
    bench.talk(&RN2483[..3]);
    bench.talk(&[("mac pause", "invalid_param")]);
    bench.talk(&RN2483[4..]);
    bench.expect_up();
}

#[test]
fn watchdog_that_cannot_be_off_waits_as_long_as_it_can() {
    let mut bench = Bench::open(&rn2483());
    bench.expect_write("\r\n");
    bench.talk(&RN2483[..14]);
    bench.talk(&[
        ("radio set wdt 0", "invalid_param"),
        ("radio set wdt 4294967295", "ok"),
    ]);
    bench.talk(&RN2483[15..]);
    bench.expect_up();
}

#[test]
fn other_model_is_refused_by_name() {
    let mut bench = Bench::open(&rn2483());
    bench.expect_write("\r\n");
    let other = "RN2903 1.0.5 Nov 06 2018 10:45:27";
    bench.talk(&[
        ("sys get ver", other),
        ("radio rxstop", "ok"),
        ("sys get ver", other),
    ]);
    let text = format!(r#"the modem answered "sys get ver" with "{other}""#);
    assert_eq!(bench.reports, [Report::Refused(text)]);
}

#[test]
fn listening_is_begun_anew_after_each_reception() {
    let mut bench = ready();
    for datagram in [&[3, 1, 1][..], &[], &[0xFF; 255]] {
        let digits: String = datagram.iter().map(|octet| format!("{octet:02X}")).collect();
        bench.line(&format!("radio_rx  {digits}"));
        if !datagram.is_empty() {
            assert_eq!(bench.expect_received().2, datagram);
        }
        bench.talk(&[("radio rx 0", "ok")]);
    }
    bench.expect_nothing();
}

#[test]
fn signal_is_asked_for_before_listening_if_wanted() {
    let settings = LoraSettings {
        ask_signal: true,
        ..rn2483()
    };
    let mut bench = Bench::ready(&settings, RN2483);
    bench.line("radio_rx  030101");
    bench.talk(&[("radio get snr", "-7"), ("radio get rssi", "-113")]);
    let (_, facts, datagram) = bench.expect_received();
    assert_eq!((facts.rssi_dbm, facts.snr_db), (Some(-113), Some(-7)));
    assert_eq!(datagram, [3, 1, 1]);
    bench.talk(&[("radio rx 0", "ok")]);
}

#[test]
fn reception_whose_signal_cannot_be_asked_for_is_not_lost() {
    let settings = LoraSettings {
        ask_signal: true,
        ..rn2483()
    };
    let mut bench = Bench::ready(&settings, RN2483);
    bench.line("radio_rx  030101");
    bench.talk(&[("radio get snr", "invalid_param"), ("radio get rssi", "")]);
    let (_, facts, datagram) = bench.expect_received();
    assert_eq!((facts.rssi_dbm, facts.snr_db), (None, None));
    assert_eq!(datagram, [3, 1, 1]);
    bench.talk(&[("radio rx 0", "ok")]);
}

#[test]
fn transmission_stops_listening_and_begins_it_again() {
    let mut bench = ready();
    bench.transmit(1, &wire(), &[3, 5, 0]);
    bench.talk(&[("radio rxstop", "ok"), ("radio tx 030500", "ok|radio_tx_ok")]);
    bench.expect_link(sent(1));
    bench.talk(&[("radio rx 0", "ok")]);
    bench.expect_link(LinkEvent::Credit(1));
}

#[test]
fn packet_at_the_moment_of_stopping_is_received() {
    let mut bench = ready();
    bench.transmit(1, &wire(), &[3, 5, 0]);
    bench.expect("radio rxstop");
    bench.line("radio_rx  030101");
    assert_eq!(bench.expect_received().2, [3, 1, 1]);
    let received = bench.now;
    bench.line("ok");
    bench.expect("radio tx 030500");
    assert_eq!(
        bench.now.since(received),
        Duration::from_millis(20),
        "its sender turns around"
    );
}

#[test]
fn stale_error_answers_nothing() {
    let mut bench = ready();
    bench.transmit(1, &wire(), &[3, 5, 0]);
    bench.talk(&[
        ("radio rxstop", "radio_err|ok"),
        ("radio tx 030500", "radio_err|ok"),
    ]);
    bench.expect_nothing();
    bench.line("radio_tx_ok");
    bench.expect_link(sent(1));
    bench.talk(&[("radio rx 0", "radio_err|ok")]);
    bench.expect_link(LinkEvent::Credit(1));
    bench.expect_nothing();
}

#[test]
fn reception_that_ends_badly_is_begun_anew() {
    let mut bench = ready();
    bench.line("radio_err");
    bench.talk(&[("radio rx 0", "ok")]);
    assert_eq!(bench.reports[1..], [Report::Dropped(DropReason::Air)]);
}

#[test]
fn line_that_cannot_be_read_may_have_been_a_reception() {
    let mut bench = ready();
    bench.line("radio_rx  03010");
    bench.talk(&[("radio rx 0", "ok")]);
    bench.line("radi");
    bench.talk(&[("radio rxstop", "ok"), ("radio rx 0", "ok")]);
}

#[test]
fn busy_modem_is_stopped_and_asked_again() {
    let mut bench = ready();
    bench.transmit(1, &wire(), &[3, 5, 0]);
    bench.talk(&[
        ("radio rxstop", "ok"),
        ("radio tx 030500", "busy"),
        ("radio rxstop", "ok"),
        ("radio rx 0", "ok"),
        ("radio rxstop", "ok"),
        ("radio tx 030500", "ok|radio_tx_ok"),
    ]);
    bench.expect_link(sent(1));
}

#[test]
fn transmission_that_the_modem_gave_up_counts_as_sent() {
    let mut bench = ready();
    bench.transmit(1, &wire(), &[3, 5, 0]);
    bench.talk(&[("radio rxstop", "ok"), ("radio tx 030500", "ok|radio_err")]);
    bench.expect_link(sent(1));
    assert!(matches!(bench.reports[1], Report::Degraded(_)));
    bench.talk(&[("radio rx 0", "ok")]);
}

#[test]
fn old_firmware_sends_between_its_windows() {
    let mut bench = ready_with_old_firmware();
    bench.transmit(1, &wire(), &[3, 5, 0]);
    bench.wait(Duration::from_millis(900));
    bench.expect_nothing();
    bench.line("radio_err");
    bench.talk(&[("radio tx 030500", "ok|radio_tx_ok")]);
    bench.expect_link(sent(1));
    bench.talk(&[("radio rx 244", "ok")]);
    bench.line("radio_err");
    bench.talk(&[("radio rx 244", "ok")]);
    // An empty window is no damaged packet.
    assert!(!bench.reports.contains(&Report::Dropped(DropReason::Air)));
}

#[test]
fn window_of_old_firmware_that_never_ends_is_begun_again() {
    let mut bench = ready_with_old_firmware();
    bench.talk(&[("radio rx 244", "busy"), ("radio rx 244", "ok")]);
}

#[test]
fn pause_is_renewed_daily() {
    let mut bench = ready();
    let day = bench.now + Duration::from_secs(24 * 60 * 60);
    while bench.now + Duration::from_secs(60) < day {
        bench.talk(&[
            ("radio rxstop", "ok"),
            ("radio get sync", "12"),
            ("radio rx 0", "ok"),
        ]);
    }
    bench.talk(&[
        ("radio rxstop", "ok"),
        ("mac pause", "4294967245"),
        ("radio rx 0", "ok"),
    ]);
    assert_eq!(bench.now.since(day).as_secs(), 0);
    bench.expect_nothing();
}

#[test]
fn modem_that_lost_its_settings_unseen_is_set_up_again() {
    let mut bench = ready();
    bench.talk(&[("radio rxstop", "ok"), ("radio get sync", "34")]);
    bench.expect_link(LinkEvent::Down);
    bench.talk(&RN2483[1..]);
    bench.expect_up();
}

#[test]
fn modem_that_starts_by_itself_is_set_up_again() {
    let mut bench = ready();
    bench.transmit(1, &wire(), &[3, 5, 0]);
    bench.expect("radio rxstop");
    bench.line("RN2483 1.0.5 Oct 31 2018 15:06:52");
    // It was not told to send.
    bench.expect_link(unsent(1));
    bench.expect_link(LinkEvent::Down);
    bench.expect_write("\r\n");
    bench.talk(RN2483);
    bench.expect_up();
}

#[test]
fn silent_modem_is_made_to_adopt_our_speed() {
    let mut bench = Bench::open(&rn2483());
    for _ in 0..3 {
        bench.expect_write("\r\n");
        bench.expect("sys get ver");
    }
    assert_eq!(bench.next(), DriverOutput::Break(20));
    bench.expect_write("U");
    bench.talk(RN2483);
    bench.expect_up();
}
