//! Modems driven by lines of text: each line, said by or to a driver that is set up.

use gateway_core::io::{Destination, LinkEvent, RadioFacts};
use gateway_core::peer::LinkAddr;
use radio_adapters::driver::{DriverOutput, DropReason, Report};
use radio_adapters::settings::LoraDriver;

use crate::Vector;
use crate::bench::{Bench, RAK3172, RAK4270, RN2483, RYLR998, peer, radio, sent, settings, unsent, wire};

pub(crate) fn check_rak3172(vector: &Vector) {
    let mut bench = Bench::ready(&settings(LoraDriver::Rak3172), RAK3172);
    match vector.id.as_str() {
        "rak-psend" => sends(&mut bench, vector, &wire()),
        "rak-rx" | "rak-old-rx" => receives(&mut bench, vector),
        "rak-txdone" => {
            transmit(&mut bench, "AT+PSEND=030500\r\n");
            bench.line("OK");
            bench.send(vector.wire());
            bench.expect_link(sent(1));
        }
        // Listening is over.
        "rak-rxtimeout" => {
            bench.send(vector.wire());
            bench.expect("AT+PRECV=65533");
        }
        "rak-rxerror" => drops(&mut bench, vector, DropReason::Air),
        "rak-busy" => {
            transmit(&mut bench, "AT+PSEND=030500\r\n");
            bench.send(vector.wire());
            bench.talk(&[("AT+PRECV=0", "OK"), ("AT+PRECV=65533", "OK")]);
            bench.expect("AT+PSEND=030500");
        }
        other => panic!("unknown vector {other}"),
    }
}

pub(crate) fn check_rak4270(vector: &Vector) {
    let mut bench = Bench::ready(&settings(LoraDriver::Rak4270), RAK4270);
    receives(&mut bench, vector);
}

pub(crate) fn check_rn2xx3(vector: &Vector) {
    let mut bench = Bench::ready(&settings(LoraDriver::Rn2483), RN2483);
    let stop = [("radio rxstop", "ok")];
    match vector.id.as_str() {
        "rn-tx" => {
            bench.transmit(1, &wire(), &vector.octets("payload"));
            bench.talk(&stop);
            bench.expect_write(vector.text("text"));
        }
        "rn-rx" => receives(&mut bench, vector),
        "rn-rsp-ok" => {
            bench.transmit(1, &wire(), &[3, 5, 0]);
            bench.expect("radio rxstop");
            bench.send(vector.wire());
            bench.expect("radio tx 030500");
        }
        "rn-rsp-busy" => {
            bench.transmit(1, &wire(), &[3, 5, 0]);
            bench.talk(&stop);
            bench.expect("radio tx 030500");
            bench.send(vector.wire());
            bench.expect("radio rxstop");
        }
        "rn-rsp-invalid_param" => {
            bench.transmit(1, &wire(), &[3, 5, 0]);
            bench.talk(&stop);
            bench.expect("radio tx 030500");
            bench.send(vector.wire());
            bench.expect_link(unsent(1));
        }
        "rn-rsp-radio_err" => {
            bench.send(vector.wire());
            bench.expect("radio rx 0");
        }
        "rn-rsp-radio_tx_ok" => {
            bench.transmit(1, &wire(), &[3, 5, 0]);
            bench.talk(&stop);
            bench.talk(&[("radio tx 030500", "ok")]);
            bench.send(vector.wire());
            bench.expect_link(sent(1));
        }
        "rn-rsp-4294967245" => {
            let mut bench = Bench::open(&settings(LoraDriver::Rn2483));
            bench.expect_write("\r\n");
            bench.talk(&RN2483[..3]);
            bench.expect("mac pause");
            bench.send(vector.wire());
            bench.talk(&RN2483[4..]);
            bench.expect_up();
        }
        // Unasked, it tells of a start.
        "rn-rsp-rn2483" => {
            bench.send(vector.wire());
            bench.expect_link(LinkEvent::Down);
            assert_eq!(bench.reports.last(), Some(&Report::Rebooted));
        }
        other => panic!("unknown vector {other}"),
    }
}

pub(crate) fn check_rylr(vector: &Vector) {
    let mut bench = Bench::ready(&settings(LoraDriver::Rylr998), RYLR998);
    match vector.id.as_str() {
        "rylr-send" => {
            let address = vector.number("address") as u16;
            sends(&mut bench, vector, &peer(radio(&address.to_be_bytes())));
        }
        "rylr-send-broadcast" => {
            // `abc` is base64 of these.
            bench.transmit(1, &Destination::Broadcast, &[0x69, 0xB7]);
            bench.expect_write(vector.text("text"));
        }
        // What they hold is no base64; they are cut by their length all the same.
        "rylr-rcv" | "rylr-rcv-commas" | "rylr-rcv-crlf" => drops(&mut bench, vector, DropReason::Escape),
        id if id.starts_with("rylr-err-") => check_rylr_error(&mut bench, vector),
        other => panic!("unknown vector {other}"),
    }
}

fn check_rylr_error(bench: &mut Bench, vector: &Vector) {
    bench.transmit(1, &peer(radio(&[0, 5])), &[3, 5, 0]);
    bench.expect("AT+SEND=5,4,AwUA");
    bench.send(vector.wire());
    match vector.number("code") {
        // Something else was damaged on the air: the answer is still to come.
        12 | 19 => {
            bench.expect_nothing();
            assert_eq!(bench.reports.last(), Some(&Report::Dropped(DropReason::Air)));
        }
        // The last transmission is not over: again.
        17 => bench.expect("AT+SEND=5,4,AwUA"),
        _ => {
            bench.expect_link(unsent(1));
            assert_eq!(bench.reports.last(), Some(&Report::Dropped(DropReason::Refused)));
        }
    }
}

fn transmit(bench: &mut Bench, command: &str) {
    bench.transmit(1, &wire(), &[3, 5, 0]);
    bench.expect_write(command);
}

/// A datagram becomes the line.
fn sends(bench: &mut Bench, vector: &Vector, to: &Destination) {
    bench.transmit(1, to, &vector.octets("payload"));
    let octets = vector.wire();
    assert_eq!(bench.next(), DriverOutput::Write(octets));
}

/// The line becomes a datagram, however it is cut.
fn receives(bench: &mut Bench, vector: &Vector) {
    let facts = RadioFacts {
        rssi_dbm: vector.has("rssi").then(|| vector.number("rssi") as i16),
        snr_db: vector.has("snr").then(|| vector.number("snr") as i8),
        hops: None,
    };
    for octet in vector.wire() {
        bench.expect_nothing();
        bench.send([octet]);
    }
    let received = bench.expect_received();
    assert_eq!(received, (LinkAddr::Wire, facts, vector.octets("payload")));
}

/// The line is understood and of no use; the next one is not touched.
fn drops(bench: &mut Bench, vector: &Vector, reason: DropReason) {
    let before = bench.reports.len();
    bench.send(vector.wire());
    bench.expect_nothing();
    assert_eq!(bench.reports[before..], [Report::Dropped(reason)]);
    let next = match vector.family.as_str() {
        "rylr" => "+RCV=5,4,AwEB,-47,12",
        _ => "+EVT:RXP2P:-47:12:030101",
    };
    bench.line(next);
    assert_eq!(bench.expect_received().2, [3, 1, 1]);
}
