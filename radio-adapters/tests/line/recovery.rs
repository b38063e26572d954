//! Modems that do not answer, ports that go, lines that carry anything.

use core::time::Duration;

use gateway_core::io::LinkEvent;
use radio_adapters::driver::{DriverOutput, DropReason, Recovery, Report};
use radio_adapters::settings::{LoraDriver, LoraSettings};

use crate::bench::{Bench, RAK3172, RAK4270, RN2483, RYLR998, peer, radio, sent, settings, unsent, wire};

const REPEAT: Report = Report::Recovering(Recovery::Repeat);
const PROBE: Report = Report::Recovering(Recovery::Probe);
const RESET: Report = Report::Recovering(Recovery::Reset);
const REOPEN: Report = Report::Recovering(Recovery::Reopen);

const ALL: [(LoraDriver, &[(&str, &str)]); 4] = [
    (LoraDriver::Rak3172, RAK3172),
    (LoraDriver::Rak4270, RAK4270),
    (LoraDriver::Rn2483, RN2483),
    (LoraDriver::Rylr998, RYLR998),
];

fn rak3172() -> LoraSettings {
    settings(LoraDriver::Rak3172)
}

fn is_write(output: &DriverOutput, octets: &str) -> bool {
    matches!(output, DriverOutput::Write(written) if written == octets.as_bytes())
}

#[test]
fn modem_that_answers_nothing_is_asked_reset_and_its_port_opened_again_for_ever() {
    let mut bench = Bench::open(&rak3172());
    let mut waits = Vec::new();
    for _ in 0..8 {
        let mut resets = 0;
        let opened = bench.now;
        loop {
            match bench.next() {
                DriverOutput::Reopen => break,
                output if is_write(&output, "\r\nATZ\r\n") => resets += 1,
                DriverOutput::Write(_) | DriverOutput::SetBaud(_) => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(resets, 1);
        assert_eq!(core::mem::take(&mut bench.reports), [PROBE, RESET, PROBE, REOPEN]);
        assert_eq!(bench.driver.poll_timeout(), None, "the port's turn");
        waits.push(bench.now.since(opened).as_secs());
        bench.driver.closed(bench.now);
        bench.driver.opened(bench.now);
        bench.drain();
    }
    let extra: Vec<u64> = waits.iter().map(|wait| wait - waits[0]).collect();
    assert_eq!(extra, [0, 5, 10, 20, 40, 60, 60, 60]);
    assert!(waits[0] < 30, "{waits:?}");
    // Then somebody plugs it in properly.
    bench.expect_write("\r\n");
    bench.talk(RAK3172);
    bench.expect_up();
}

#[test]
fn modem_with_another_speed_is_found_and_that_is_told() {
    let mut bench = Bench::open(&rak3172());
    let mut speed = 115_200;
    loop {
        match bench.next() {
            DriverOutput::SetBaud(baud) => speed = baud,
            DriverOutput::Write(written) if written == b"AT\r\n" && speed == 9_600 => break,
            // At the wrong speed it makes no sense of what we write, nor we of what it does.
            DriverOutput::Write(_) => bench.send([0xFF, 0x00, 0x80, 0x0A]),
            other => panic!("{other:?}"),
        }
    }
    bench.line("OK");
    bench.talk(&RAK3172[1..]);
    bench.expect_up();
    let text = "the modem answers at 9600 bit/s; baud = 115200 is configured";
    assert!(bench.reports.contains(&Report::Degraded(text.into())));
}

#[test]
fn one_answer_that_is_lost_is_asked_for_again() {
    for (driver, talk) in ALL {
        for lost in 1..talk.len() {
            if talk[lost].0 == "at+set_config=lora:work_mode:1" {
                continue; // It restarts the modem, and is waited for instead.
            }
            let mut bench = Bench::open(&settings(driver));
            bench.expect_write("\r\n");
            bench.talk(&talk[..lost]);
            bench.expect(talk[lost].0);
            bench.talk(&talk[lost..]);
            bench.expect_up();
            assert_eq!(bench.reports[0], REPEAT);
        }
    }
}

#[test]
fn command_that_is_not_answered_twice_is_followed_by_a_sign_of_life() {
    let mut bench = Bench::open(&rak3172());
    bench.expect_write("\r\n");
    bench.talk(&RAK3172[..2]);
    bench.talk(&[("AT+VER=?", ""), ("AT+VER=?", "")]);
    bench.expect_write("\r\n");
    bench.talk(RAK3172);
    bench.expect_up();
    assert_eq!(bench.reports[..2], [REPEAT, PROBE]);
}

#[test]
fn command_that_is_never_answered_leads_to_a_reset_and_then_to_the_port() {
    let mut bench = Bench::open(&rak3172());
    for reset in [true, false] {
        bench.expect_write("\r\n");
        bench.talk(&RAK3172[..2]);
        bench.talk(&[("AT+VER=?", ""), ("AT+VER=?", "")]);
        bench.expect_write("\r\n");
        bench.talk(&RAK3172[..2]);
        bench.talk(&[("AT+VER=?", "")]);
        if reset {
            bench.expect_write("\r\nATZ\r\n");
        }
    }
    assert_eq!(bench.next(), DriverOutput::Reopen);
    assert_eq!(bench.reports, [REPEAT, PROBE, RESET, REPEAT, PROBE, REOPEN]);
}

#[test]
fn modem_that_hangs_while_it_listens_is_found_and_brought_back() {
    for (driver, talk) in ALL {
        let mut bench = Bench::ready(&settings(driver), talk);
        let started = bench.now;
        loop {
            match bench.next() {
                DriverOutput::Link(LinkEvent::Down) => break,
                DriverOutput::Write(_) | DriverOutput::Break(_) => {}
                other => panic!("{other:?}"),
            }
        }
        let found = bench.now.since(started).as_secs();
        assert!((60..70).contains(&found), "{driver:?}: {found} s");
        assert_eq!(bench.reports[1..], [REPEAT, PROBE, RESET]);
        assert!(matches!(bench.next(), DriverOutput::Write(_)), "its reset");
        bench.expect_write("\r\n");
        bench.talk(talk);
        bench.expect_up();
    }
}

#[test]
fn hang_while_sending_settles_the_datagram_and_ends_with_the_link_down() {
    for (driver, talk) in ALL {
        let mut bench = Bench::ready(&settings(driver), talk);
        let to = match driver {
            LoraDriver::Rylr998 => peer(radio(&[0, 5])),
            _ => wire(),
        };
        bench.transmit(1, &to, &[3, 5, 0]);
        let mut settled = Vec::new();
        loop {
            match bench.next() {
                DriverOutput::Link(LinkEvent::Down) => break,
                DriverOutput::Link(LinkEvent::Credit(1)) => panic!("{driver:?} has no more to give"),
                DriverOutput::Link(event) => settled.push(event),
                DriverOutput::Write(_) | DriverOutput::Break(_) => {}
                other => panic!("{other:?}"),
            }
        }
        // Where listening is stopped first, it was never told to send.
        let stops = matches!(driver, LoraDriver::Rn2483 | LoraDriver::Rak4270);
        assert_eq!(settled, [if stops { unsent(1) } else { sent(1) }], "{driver:?}");
    }
}

#[test]
fn modem_that_never_speaks_of_what_it_sends_is_reset() {
    let mut bench = Bench::ready(&rak3172(), RAK3172);
    for ticket in 1..=3 {
        bench.transmit(ticket, &wire(), &[3, 5, 0]);
        bench.talk(&[("AT+PSEND=030500", "OK")]);
        bench.expect_link(sent(ticket));
        if ticket < 3 {
            bench.talk(&[("AT+PRECV=0", "OK"), ("AT+PRECV=65533", "OK")]);
            bench.expect_link(LinkEvent::Credit(1));
        }
    }
    bench.expect_link(LinkEvent::Down);
    bench.expect_write("\r\nATZ\r\n");
    assert_eq!(bench.reports[1..], [PROBE, PROBE, RESET]);
}

#[test]
fn port_that_goes_at_any_step_of_the_set_up_begins_it_anew() {
    for (driver, talk) in ALL {
        for steps in 0..=talk.len() {
            let mut bench = Bench::open(&settings(driver));
            bench.expect_write("\r\n");
            bench.talk(&talk[..steps]);
            if steps == talk.len() {
                bench.expect_up();
            } else {
                bench.expect(talk[steps].0);
            }
            bench.driver.closed(bench.now);
            bench.drain();
            if steps == talk.len() {
                bench.expect_link(LinkEvent::Down);
            }
            assert_eq!(bench.driver.poll_timeout(), None);
            bench.line("OK");
            bench.expect_nothing();
            bench.driver.opened(bench.now);
            bench.drain();
            bench.expect_write("\r\n");
            bench.talk(talk);
            bench.expect_up();
        }
    }
}

#[test]
fn port_that_goes_while_sending_settles_the_datagram() {
    // After so many answers of the transmission.
    for (answers, settled) in [(0, unsent(1)), (1, sent(1)), (2, sent(1)), (3, sent(1))] {
        let mut bench = Bench::ready(&settings(LoraDriver::Rn2483), RN2483);
        bench.transmit(1, &wire(), &[3, 5, 0]);
        bench.expect("radio rxstop");
        let all = [
            ("ok", Some("radio tx 030500")),
            ("ok", None),
            ("radio_tx_ok", None),
        ];
        let mut events = Vec::new();
        for (answer, command) in &all[..answers] {
            bench.line(answer);
            if let Some(command) = command {
                bench.expect(command);
            }
        }
        bench.driver.closed(bench.now);
        bench.drain();
        while let Some(output) = bench.outputs.pop_front() {
            match output {
                DriverOutput::Link(event) => events.push(event),
                DriverOutput::Write(_) => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(events, [settled, LinkEvent::Down], "{answers}");
    }
}

#[test]
fn garbage_around_lines_does_no_harm() {
    for (driver, talk) in ALL {
        let mut bench = Bench::open(&settings(driver));
        bench.expect_write("\r\n");
        for (command, answer) in talk {
            bench.expect(command);
            bench.send([&[0xFF, 0, 0x80, b'\n'][..], &[b'x'; 5000], b"\n"].concat());
            for line in answer.split('|') {
                bench.send(format!("\0\0\r\n\0{line}\0\r\n"));
            }
        }
        bench.expect_up();
        assert!(bench.reports.contains(&Report::Dropped(DropReason::Overrun)));
        assert!(!bench.reports.contains(&REPEAT));
    }
}

#[test]
fn octets_one_by_one_say_the_same() {
    for (driver, talk) in ALL {
        let mut bench = Bench::open(&settings(driver));
        bench.expect_write("\r\n");
        for (command, answer) in talk {
            bench.expect(command);
            for octet in answer.replace('|', "\r\n").bytes().chain(*b"\r\n") {
                bench.send([octet]);
            }
        }
        bench.expect_up();
    }
}

#[test]
fn reception_during_the_set_up_is_not_taken_for_ours() {
    let mut bench = Bench::open(&rak3172());
    bench.expect_write("\r\n");
    for (command, answer) in RAK3172 {
        bench.expect(command);
        bench.line("+EVT:RXP2P:-61:11:030101");
        for line in answer.split('|') {
            bench.line(line);
        }
    }
    bench.expect_up();
    bench.expect_nothing();
    bench.line("+EVT:RXP2P:-61:11:030101");
    bench.expect_received();
}

#[test]
fn hundred_datagrams_one_after_the_other() {
    let mut bench = Bench::ready(&settings(LoraDriver::Rn2483), RN2483);
    for ticket in 0..100 {
        bench.transmit(ticket, &wire(), &[ticket as u8; 20]);
        let command = format!("radio tx {}", format!("{ticket:02X}").repeat(20));
        bench.talk(&[("radio rxstop", "ok"), (&command, "ok|radio_tx_ok")]);
        bench.expect_link(sent(ticket));
        bench.talk(&[("radio rx 0", "ok")]);
        bench.line("radio_rx  030101");
        bench.expect_received();
        bench.talk(&[("radio rx 0", "ok")]);
        bench.expect_link(LinkEvent::Credit(1));
    }
    bench.expect_nothing();
    assert_eq!(bench.reports.len(), 1);
}

#[test]
fn datagram_without_credit_is_unsent() {
    let mut bench = Bench::open(&rak3172());
    bench.transmit(1, &wire(), &[3, 5, 0]);
    bench
        .outputs
        .retain(|output| matches!(output, DriverOutput::Link(_)));
    bench.expect_link(unsent(1));
    let mut bench = Bench::ready(&rak3172(), RAK3172);
    bench.transmit(1, &wire(), &[3, 5, 0]);
    bench.expect("AT+PSEND=030500");
    bench.transmit(2, &wire(), &[3, 5, 0]);
    bench.expect_link(unsent(2));
    bench.line("OK");
    bench.line("+EVT:TXP2P DONE");
    bench.expect_link(sent(1));
    bench.expect_link(LinkEvent::Credit(1));
    bench.wait(Duration::from_secs(1));
    bench.expect_nothing();
}
