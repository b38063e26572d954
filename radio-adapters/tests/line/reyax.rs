//! RYLR998 and RYLR896.

use core::time::Duration;

use gateway_core::io::{Destination, LinkEvent};
use radio_adapters::driver::{DropReason, Report};
use radio_adapters::settings::{LoraDriver, LoraSettings};

use crate::bench::{Bench, RYLR998, peer, radio, sent, settings, unsent};

fn ready() -> Bench {
    Bench::ready(&settings(LoraDriver::Rylr998), RYLR998)
}

/// CONNECT of `sensor-1`, in base64.
const CONNECT: &str = "DgQEAQA8c2Vuc29yLTE";

#[test]
fn modem_is_set_up_and_its_settings_read_back() {
    let bench = ready();
    let identity = "RYLR998".into();
    let firmware = "RYLR998_REYAX_V1.2.2".into();
    assert_eq!(bench.reports, [Report::Ready { identity, firmware }]);
}

#[test]
fn setting_that_is_not_what_was_set_is_refused() {
    let mut bench = Bench::open(&settings(LoraDriver::Rylr998));
    bench.expect_write("\r\n");
    bench.talk(&RYLR998[..10]);
    bench.talk(&[("AT+BAND?", "+BAND=915000000")]);
    let text = r#"the modem answered "AT+BAND?" with "+BAND=915000000""#;
    assert_eq!(bench.reports, [Report::Refused(text.into())]);
}

#[test]
fn leftover_octets_at_power_up_spoil_one_question() {
    let mut bench = Bench::open(&settings(LoraDriver::Rylr998));
    bench.expect_write("\r\n");
    bench.talk(&[("AT", "+ERR=1")]);
    bench.expect_write("\r\n");
    bench.talk(RYLR998);
    bench.expect_up();
}

#[test]
fn datagram_goes_as_base64_and_is_sent_when_its_airtime_is_over() {
    let mut bench = ready();
    let started = bench.now;
    bench.transmit(1, &peer(radio(&[0, 5])), &[3, 5, 0]);
    bench.talk(&[("AT+SEND=5,4,AwUA", "+OK")]);
    bench.expect_link(sent(1));
    // Four characters and eight octets of its own, preamble 12.
    let profile = bench.profile.clone().unwrap();
    let line = Duration::from_micros(18 * 10_000_000 / 115_200);
    let busy = line + profile.airtime.of(3) + Duration::from_millis(50);
    assert_eq!(bench.now.since(started), busy);
    bench.expect_link(LinkEvent::Credit(1));
}

#[test]
fn profile_counts_what_the_modem_adds() {
    let profile = ready().profile.unwrap();
    // As the guide has it: 27 octets are 36 characters, 304.1 ms at SF9.
    assert_eq!(profile.airtime.of(27).as_micros() / 100, 3041);
    assert_eq!((profile.mtu, profile.broadcast_mtu), (180, 180));
}

#[test]
fn answer_at_the_end_of_the_transmission_is_waited_for() {
    let mut bench = ready();
    bench.transmit(1, &peer(radio(&[0, 5])), &[3, 5, 0]);
    bench.expect("AT+SEND=5,4,AwUA");
    let airtime = bench.profile.clone().unwrap().airtime.of(3);
    bench.wait(airtime + Duration::from_millis(200));
    bench.expect_nothing();
    bench.line("+OK");
    bench.expect_link(sent(1));
}

#[test]
fn address_zero_is_everyone() {
    let mut bench = ready();
    bench.transmit(1, &Destination::Broadcast, &[3, 5, 0]);
    bench.expect("AT+SEND=0,4,AwUA");
}

#[test]
fn address_of_another_kind_is_no_destination() {
    let mut bench = ready();
    bench.transmit(1, &peer(radio(&[5])), &[3, 5, 0]);
    bench.expect_link(unsent(1));
    bench.expect_link(LinkEvent::Credit(1));
}

#[test]
fn reception_brings_its_sender() {
    let mut bench = ready();
    // Padding is not asked for, and not minded.
    for data in [CONNECT.to_string(), format!("{CONNECT}=")] {
        bench.line(&format!("+RCV=1027,{},{data},-99,-4", data.len()));
        let (from, facts, datagram) = bench.expect_received();
        assert_eq!(from, radio(&[4, 3]));
        assert_eq!((facts.rssi_dbm, facts.snr_db), (Some(-99), Some(-4)));
        assert_eq!(datagram[6..], *b"sensor-1");
    }
}

#[test]
fn reception_is_cut_by_its_length_wherever_it_is_chunked() {
    let foreign = "+RCV=7,4,a\r\nb,-47,12\r\n+RCV=7,9,a,b,-1,2,,-47,12\r\n";
    let stream = format!("{foreign}+RCV=5,4,AwEB,-1,2\r\n");
    for size in 1..stream.len() {
        let mut bench = ready();
        for octets in stream.as_bytes().chunks(size) {
            bench.send(octets);
        }
        assert_eq!(bench.expect_received().2, [3, 1, 1]);
        bench.expect_nothing();
        assert_eq!(
            bench.reports[1..],
            [const { Report::Dropped(DropReason::Escape) }; 2],
            "{size}"
        );
    }
}

#[test]
fn reception_that_lost_octets_does_not_take_the_next_lines_along() {
    let mut bench = ready();
    bench.line("+RCV=5,100,AwEB");
    bench.wait(Duration::from_secs(1));
    bench.line("+RCV=5,4,AwEB,-1,2");
    assert_eq!(bench.expect_received().2, [3, 1, 1]);
    bench.line("+RCV=5,6,AwEB,-1,2");
    bench.line("+RCV=5,4,AwEB,-1,2");
    assert_eq!(bench.expect_received().2, [3, 1, 1]);
}

#[test]
fn garbage_before_a_reception_is_not_part_of_it() {
    let mut bench = ready();
    bench.send(b"\0\xFF+R+RCV=5,4,AwEB,-1,2\r\n");
    assert_eq!(bench.expect_received().2, [3, 1, 1]);
}

#[test]
fn damaged_packet_answers_no_command() {
    for error in ["+ERR=12", "+ERR=19"] {
        let mut bench = ready();
        bench.transmit(1, &peer(radio(&[0, 5])), &[3, 5, 0]);
        bench.expect("AT+SEND=5,4,AwUA");
        bench.line(error);
        bench.expect_nothing();
        bench.line("+OK");
        bench.expect_link(sent(1));
        assert_eq!(bench.reports[1..], [Report::Dropped(DropReason::Air)]);
    }
}

#[test]
fn transmission_that_is_not_completed_is_waited_for() {
    let mut bench = ready();
    bench.transmit(1, &peer(radio(&[0, 5])), &[3, 5, 0]);
    bench.talk(&[("AT+SEND=5,4,AwUA", "+ERR=17"), ("AT+SEND=5,4,AwUA", "+ERR=17")]);
    bench.talk(&[("AT+SEND=5,4,AwUA", "+OK")]);
    bench.expect_link(sent(1));
}

#[test]
fn refused_datagram_is_unsent() {
    let mut bench = ready();
    bench.transmit(1, &peer(radio(&[0, 5])), &[0; 180]);
    let command = format!("AT+SEND=5,240,{}", "A".repeat(240));
    bench.talk(&[(&command, "+ERR=13")]);
    bench.expect_link(unsent(1));
    bench.expect_link(LinkEvent::Credit(1));
}

#[test]
fn frequency_lost_in_a_restart_is_set_again() {
    let mut bench = ready();
    bench.talk(&[("AT+BAND?", "+BAND=915000000")]);
    bench.expect_link(LinkEvent::Down);
    bench.talk(&RYLR998[1..]);
    bench.expect_up();
    bench.line("+READY");
    bench.expect_link(LinkEvent::Down);
    bench.expect_write("\r\n");
    bench.talk(RYLR998);
    bench.expect_up();
}

#[test]
fn preamble_is_the_modems_own_outside_of_network_18() {
    let mut settings = settings(LoraDriver::Rylr998);
    settings.network_id = 5;
    settings.modulation.preamble = 8;
    let settings = LoraSettings { ..settings };
    let mut bench = Bench::open(&settings);
    bench.expect_write("\r\n");
    bench.talk(&RYLR998[..4]);
    bench.talk(&[("AT+NETWORKID=5", "+OK"), ("AT+BAND=868100000", "+OK")]);
    bench.expect("AT+PARAMETER=9,7,1,12");
}
