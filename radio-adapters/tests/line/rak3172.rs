//! RAK3172 and its relatives.

use core::time::Duration;

use gateway_core::io::{LinkEvent, RadioFacts};
use gateway_core::peer::LinkAddr;
use radio_adapters::driver::{DropReason, Recovery, Report};
use radio_adapters::settings::{LinkHeader, LoraDriver, LoraSettings};

use crate::bench::{Bench, RAK3172, peer, radio, rak3172_until_listening, sent, settings, unsent, wire};

fn rak3172() -> LoraSettings {
    settings(LoraDriver::Rak3172)
}

fn ready() -> Bench {
    Bench::ready(&rak3172(), RAK3172)
}

#[test]
fn modem_is_set_up_and_says_what_it_is() {
    let bench = ready();
    let identity = "RAK3172".into();
    let firmware = "RUI_4.0.6_RAK3172-E".into();
    assert_eq!(bench.reports, [Report::Ready { identity, firmware }]);
}

#[test]
fn status_may_have_blank_lines_around_it_and_the_command_before_it() {
    let mut bench = Bench::open(&rak3172());
    bench.expect_write("\r\n");
    for (command, answer) in RAK3172 {
        bench.expect(command);
        bench.send(format!("{command}\r\n\n\r"));
        for line in answer.split('|') {
            bench.send(format!("\r\n{line}\r\n"));
        }
    }
    bench.expect_up();
}

#[test]
fn settings_that_are_there_already_are_not_written_again() {
    // As a number of kHz, by older firmware.
    for there in ["868100000:9:0:0:8:14", "868100000:9:125:0:8:14"] {
        let mut bench = Bench::open(&rak3172());
        bench.expect_write("\r\n");
        bench.talk(&RAK3172[..5]);
        bench.talk(&[("AT+P2P=?", &format!("AT+P2P={there}|OK"))]);
        bench.talk(&RAK3172[7..]);
        bench.expect_up();
    }
}

#[test]
fn old_firmware_takes_settings_without_the_seventh_parameter() {
    let mut bench = Bench::open(&rak3172());
    bench.expect_write("\r\n");
    bench.talk(&RAK3172[..6]);
    bench.talk(&[
        ("AT+P2P=868100000:9:125:0:8:14:1", "AT_PARAM_ERROR"),
        ("AT+P2P=868100000:9:125:0:8:14", "OK"),
    ]);
    bench.talk(&RAK3172[7..]);
    bench.expect_up();
}

#[test]
fn modem_in_lorawan_mode_is_switched_and_waited_for() {
    let mut bench = Bench::open(&rak3172());
    bench.expect_write("\r\n");
    bench.talk(&RAK3172[..3]);
    bench.talk(&[("AT+NWM=?", "AT+NWM=1|OK"), ("AT+NWM=0", "OK")]);
    let switched = bench.now;
    bench.wait(Duration::from_secs(1));
    bench.line("RAKwireless RAK3172-E Example");
    bench.line("------------------------------------------------------");
    bench.line("Current Work Mode: LoRa P2P.");
    bench.talk(&RAK3172[4..]);
    bench.expect_up();
    let waited = bench.now.since(switched);
    assert!(
        waited < Duration::from_secs(2),
        "{waited:?}: it said that it started"
    );
    assert!(!bench.reports.contains(&Report::Rebooted));
}

#[test]
fn sync_word_that_cannot_be_set_is_told() {
    let mut bench = Bench::open(&rak3172());
    bench.expect_write("\r\n");
    bench.talk(&RAK3172[..10]);
    bench.talk(&[
        ("AT+SYNCWORD=1424", "AT_COMMAND_NOT_FOUND"),
        ("AT+PRECV=65533", "OK"),
    ]);
    bench.expect_up();
    assert!(matches!(&bench.reports[0], Report::Degraded(text) if text.contains("AT_COMMAND_NOT_FOUND")));
}

#[test]
fn refused_setting_names_command_and_answer_once_and_is_tried_again() {
    let mut bench = Bench::open(&rak3172());
    bench.expect_write("\r\n");
    for _ in 0..3 {
        bench.talk(&RAK3172[..6]);
        bench.talk(&[
            ("AT+P2P=868100000:9:125:0:8:14:1", "AT_PARAM_ERROR"),
            ("AT+P2P=868100000:9:125:0:8:14", "AT_PARAM_ERROR"),
        ]);
        bench.expect_write("\r\n");
    }
    let text = r#"the modem answered "AT+P2P=868100000:9:125:0:8:14" with "AT_PARAM_ERROR""#;
    assert_eq!(bench.reports, [Report::Refused(text.into())]);
    assert!(bench.now.as_micros() > 30_000_000);
}

#[test]
fn datagram_is_sent_when_the_modem_says_so_and_credit_leaves_time_to_answer() {
    let mut bench = ready();
    bench.transmit(7, &wire(), &[3, 5, 0]);
    bench.expect("AT+PSEND=030500");
    bench.line("OK");
    bench.expect_nothing();
    bench.wait(Duration::from_millis(124));
    bench.line("+EVT:TXP2P DONE");
    bench.expect_link(sent(7));
    let done = bench.now;
    bench.expect_link(LinkEvent::Credit(1));
    // Twice the turnaround, SUBACK at SF9 (8 octets), and 128 characters on the line.
    let airtime = bench.profile.as_ref().unwrap().airtime.of(8);
    let line = Duration::from_micros(128 * 10_000_000 / 115_200);
    assert_eq!(bench.now.since(done), Duration::from_millis(40) + airtime + line);
}

#[test]
fn completion_before_the_status_counts() {
    let mut bench = ready();
    bench.transmit(7, &wire(), &[3, 5, 0]);
    bench.expect("AT+PSEND=030500");
    bench.line("+EVT:TXP2P DONE");
    bench.expect_nothing();
    bench.line("OK");
    bench.expect_link(sent(7));
}

#[test]
fn reception_counts_while_a_command_waits() {
    let mut bench = ready();
    bench.transmit(7, &wire(), &[3, 5, 0]);
    bench.expect("AT+PSEND=030500");
    bench.line("+EVT:RXP2P:-61:11:0E04");
    let facts = RadioFacts {
        rssi_dbm: Some(-61),
        snr_db: Some(11),
        hops: None,
    };
    assert_eq!(bench.expect_received(), (LinkAddr::Wire, facts, vec![0x0E, 4]));
    bench.line("OK");
    bench.line("+EVT:TXP2P DONE");
    bench.expect_link(sent(7));
}

#[test]
fn nothing_is_sent_before_the_turnaround_is_over() {
    let mut bench = ready();
    bench.line("+EVT:RXP2P:-61:11:0E04");
    bench.expect_received();
    let received = bench.now;
    bench.transmit(7, &wire(), &[3, 5, 0]);
    bench.expect_nothing();
    bench.expect("AT+PSEND=030500");
    assert_eq!(bench.now.since(received), Duration::from_millis(20));
}

#[test]
fn reception_ends_the_time_for_an_answer() {
    let mut bench = ready();
    bench.transmit(7, &wire(), &[3, 5, 0]);
    bench.expect("AT+PSEND=030500");
    bench.line("OK");
    bench.line("+EVT:TXP2P DONE");
    bench.expect_link(sent(7));
    bench.line("+EVT:RXP2P:-61:11:0E04");
    bench.expect_received();
    let received = bench.now;
    bench.expect_link(LinkEvent::Credit(1));
    assert_eq!(bench.now.since(received), Duration::from_millis(20));
}

#[test]
fn old_firmware_tells_receptions_in_two_lines() {
    let mut bench = ready();
    bench.line("+EVT:RXP2P, RSSI -60, SNR 11");
    bench.expect_nothing();
    bench.line("+EVT:AABBCCDD");
    let (_, facts, datagram) = bench.expect_received();
    assert_eq!((facts.rssi_dbm, facts.snr_db), (Some(-60), Some(11)));
    assert_eq!(datagram, [0xAA, 0xBB, 0xCC, 0xDD]);
}

#[test]
fn firmware_that_cannot_listen_and_send_is_stopped_around_each_transmission() {
    let mut bench = Bench::open(&rak3172());
    bench.expect_write("\r\n");
    bench.talk(rak3172_until_listening());
    bench.talk(&[("AT+PRECV=65533", "AT_PARAM_ERROR"), ("AT+PRECV=65534", "OK")]);
    bench.expect_up();
    bench.transmit(7, &wire(), &[3, 5, 0]);
    bench.talk(&[("AT+PRECV=0", "OK"), ("AT+PSEND=030500", "OK|+EVT:TXP2P DONE")]);
    bench.expect_link(sent(7));
    bench.talk(&[("AT+PRECV=65534", "OK")]);
    bench.expect_link(LinkEvent::Credit(1));
}

#[test]
fn transmission_that_never_ends_counts_as_sent_and_listening_is_begun_again() {
    let mut bench = ready();
    bench.transmit(7, &wire(), &[3, 5, 0]);
    bench.expect("AT+PSEND=030500");
    bench.line("OK");
    let accepted = bench.now;
    bench.expect_link(sent(7));
    let airtime = bench.profile.as_ref().unwrap().airtime.of(3);
    let waited = bench.now.since(accepted);
    assert_eq!(waited, airtime + Duration::from_millis(500));
    bench.talk(&[("AT+PRECV=0", "OK"), ("AT+PRECV=65533", "OK")]);
    bench.expect_link(LinkEvent::Credit(1));
    assert_eq!(bench.reports[1..], [Report::Recovering(Recovery::Probe)]);
}

#[test]
fn busy_modem_is_made_to_listen_and_asked_again() {
    let mut bench = ready();
    bench.transmit(7, &wire(), &[3, 5, 0]);
    // A channel that was in use leaves the radio in standby.
    bench.talk(&[
        ("AT+PSEND=030500", "AT_BUSY_ERROR"),
        ("AT+PRECV=0", "OK"),
        ("AT+PRECV=65533", "OK"),
        ("AT+PSEND=030500", "OK|+EVT:TXP2P DONE"),
    ]);
    bench.expect_link(sent(7));
}

#[test]
fn modem_that_stays_busy_is_reset_and_the_datagram_unsent() {
    let mut bench = ready();
    bench.transmit(7, &wire(), &[3, 5, 0]);
    for _ in 0..5 {
        bench.talk(&[
            ("AT+PSEND=030500", "AT_BUSY_ERROR"),
            ("AT+PRECV=0", "OK"),
            ("AT+PRECV=65533", "OK"),
        ]);
    }
    bench.talk(&[("AT+PSEND=030500", "AT_BUSY_ERROR")]);
    bench.expect_link(unsent(7));
    bench.expect_link(LinkEvent::Down);
    bench.expect_write("\r\nATZ\r\n");
}

#[test]
fn refused_datagram_is_unsent_and_the_link_goes_on() {
    let mut bench = ready();
    bench.transmit(7, &wire(), &[3, 5, 0]);
    bench.talk(&[("AT+PSEND=030500", "AT_PARAM_ERROR")]);
    bench.expect_link(unsent(7));
    bench.expect_link(LinkEvent::Credit(1));
    assert_eq!(bench.reports[1..], [Report::Dropped(DropReason::Refused)]);
}

#[test]
fn listening_already_is_stopped_and_begun_again() {
    let mut bench = Bench::open(&rak3172());
    bench.expect_write("\r\n");
    bench.talk(rak3172_until_listening());
    bench.talk(&[
        ("AT+PRECV=65533", "P2P_RX_ON already|AT_BUSY_ERROR"),
        ("AT+PRECV=0", "OK"),
        ("AT+PRECV=65533", "OK"),
    ]);
    bench.expect_up();
}

#[test]
fn modem_that_is_too_busy_to_listen_is_reset() {
    let mut bench = Bench::open(&rak3172());
    bench.expect_write("\r\n");
    bench.talk(rak3172_until_listening());
    for _ in 0..5 {
        bench.talk(&[("AT+PRECV=65533", "AT_BUSY_ERROR"), ("AT+PRECV=0", "OK")]);
    }
    bench.talk(&[("AT+PRECV=65533", "AT_BUSY_ERROR")]);
    bench.expect_write("\r\nATZ\r\n");
}

#[test]
fn largest_datagram_is_sent_and_a_larger_one_is_not() {
    let mut bench = ready();
    let mtu = bench.profile.as_ref().unwrap().mtu;
    assert_eq!(mtu, 239);
    bench.transmit(1, &wire(), &[0xA5; 240]);
    bench.expect_link(unsent(1));
    bench.expect_link(LinkEvent::Credit(1));
    bench.transmit(2, &wire(), &[0xA5; 239]);
    bench.expect(&format!("AT+PSEND={}", "A5".repeat(239)));
}

#[test]
fn empty_datagrams_go_nowhere() {
    let mut bench = ready();
    bench.line("+EVT:RXP2P:-61:11:");
    bench.transmit(1, &wire(), &[]);
    bench.expect_link(unsent(1));
    assert_eq!(
        bench.reports[1..],
        [const { Report::Dropped(DropReason::Length) }; 2]
    );
}

#[test]
fn damaged_reception_is_counted_and_listening_goes_on() {
    let mut bench = ready();
    bench.line("+EVT:RXP2P RECEIVE ERROR");
    bench.wait(Duration::from_secs(1));
    bench.expect_nothing();
    assert_eq!(bench.reports[1..], [Report::Dropped(DropReason::Air)]);
}

#[test]
fn radiohead_frames_are_acknowledged_before_any_answer() {
    let settings = LoraSettings {
        header: LinkHeader::RadioHead {
            address: 0,
            acks: true,
        },
        duty_cycle_ppm: None,
        ..rak3172()
    };
    let mut bench = Bench::ready(&settings, RAK3172);
    assert_eq!(bench.profile.as_ref().unwrap().mtu, 235);
    bench.line("+EVT:RXP2P:-61:11:00052A00030101");
    let (from, _, datagram) = bench.expect_received();
    assert_eq!((from, datagram), (radio(&[5]), vec![3, 1, 1]));
    bench.transmit(9, &peer(radio(&[5])), &[3, 5, 0]);
    bench.talk(&[("AT+PSEND=05002A8021", "OK|+EVT:TXP2P DONE")]);
    bench.talk(&[("AT+PSEND=05000000030500", "OK|+EVT:TXP2P DONE")]);
    bench.expect_link(sent(9));
}

#[test]
fn acknowledgements_have_a_part_of_the_duty_cycle() {
    let settings = LoraSettings {
        header: LinkHeader::RadioHead {
            address: 0,
            acks: true,
        },
        ..rak3172()
    };
    let mut bench = Bench::ready(&settings, RAK3172);
    assert_eq!(bench.profile.as_ref().unwrap().duty_cycle.unwrap().ppm, 7_500);
    bench.line("+EVT:RXP2P:-61:11:00052A00030101");
    bench.expect_received();
    bench.wait(Duration::from_secs(1));
    bench.expect_nothing();
    assert_eq!(bench.reports[1..], [Report::Dropped(DropReason::DutyCycle)]);
}

#[test]
fn frames_for_others_are_counted() {
    let settings = LoraSettings {
        header: LinkHeader::RadioHead {
            address: 0,
            acks: false,
        },
        ..rak3172()
    };
    let mut bench = Bench::ready(&settings, RAK3172);
    bench.line("+EVT:RXP2P:-61:11:09052A00030101");
    bench.expect_nothing();
    assert_eq!(bench.reports[1..], [Report::Dropped(DropReason::NotForUs)]);
}

#[test]
fn modem_that_forgot_to_listen_is_found_after_a_minute_and_set_up_again() {
    let mut bench = ready();
    let heard = bench.now;
    bench.talk(&[("AT+PRECV=?", "AT+PRECV=P2P_RX_ON|OK")]);
    assert_eq!(bench.now.since(heard).as_secs(), 60);
    bench.talk(&[("AT+PRECV=?", "P2P_RX_OFF|OK")]);
    bench.expect_link(LinkEvent::Down);
    bench.talk(&RAK3172[1..]);
    bench.expect_up();
    assert!(bench.reports.contains(&Report::Rebooted));
}

#[test]
fn modem_that_starts_by_itself_is_set_up_again() {
    let mut bench = ready();
    bench.transmit(7, &wire(), &[3, 5, 0]);
    bench.expect("AT+PSEND=030500");
    bench.line("RAKwireless RAK3172-E Example");
    // It may have been sent.
    bench.expect_link(sent(7));
    bench.expect_link(LinkEvent::Down);
    bench.expect_write("\r\n");
    bench.talk(RAK3172);
    bench.expect_up();
    assert_eq!(bench.reports[1], Report::Rebooted);
}
