//! What the log says of the connections to a broker: the gateway's own, or another.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    io::{BufRead as _, BufReader, Read},
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

/// Killed when dropped, so that a failed test leaves nothing behind.
struct Gateway {
    process: Child,
    _state: TempDir,
}

impl Gateway {
    fn start(settings: &[&str]) -> Self {
        let state = TempDir::new().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_snipe"));
        let quiet = ["radio.udp0.bind=127.0.0.1:0", "radio.udp0.multicast=[]"];
        for setting in quiet.iter().chain(settings) {
            command.args(["--set", setting]);
        }
        let process = command
            .env("STATE_DIRECTORY", state.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Gateway {
            process,
            _state: state,
        }
    }
}

impl Gateway {
    /// One that is a broker for others, and its address.
    fn with_broker() -> (Self, String) {
        let mut gateway = Gateway::start(&["broker.embedded.bind=127.0.0.1:0"]);
        let said = lines_with(gateway.process.stdout.take().unwrap(), "embedded listening on")
            .next()
            .unwrap();
        let address = said.split_whitespace().last().unwrap().to_owned();
        (gateway, address)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The lines with `part` in them; blocks until there is one, and ends with the process.
fn lines_with(from: impl Read, part: &str) -> impl Iterator<Item = String> {
    let lines = BufReader::new(from).lines().map_while(Result::ok);
    lines.filter(move |line| line.contains(part))
}

#[test]
fn the_second_is_told_what_to_do_once() {
    let (_first, address) = Gateway::with_broker();

    for protocol in [5, 3] {
        let mut second = Gateway::start(&[
            &format!("broker.url=mqtt://{address}"),
            &format!("broker.protocol={protocol}"),
            "broker.reconnect.first=10ms",
            "broker.reconnect.max=20ms",
            "log.format=logfmt",
        ]);
        let mut attempts = lines_with(second.process.stderr.take().unwrap(), "link down");

        let told = attempts.next().unwrap();
        for part in [
            "client_id=snipe-1",
            "gateway.id",
            "gateway.name",
            "broker.client_id",
        ] {
            assert!(told.contains(part), "{part} is not in {told}");
        }
        let again = attempts.next().unwrap();
        assert!(!again.contains("hint="), "{again}");
    }
}

#[test]
fn lines_about_a_connection_name_it_and_say_whether_it_spools() {
    let (broker, address) = Gateway::with_broker();
    let mut gateway = Gateway::start(&[
        &format!("broker.url=mqtt://{address}"),
        "gateway.name=barn",
        "log.format=logfmt",
    ]);
    let mut lines = BufReader::new(gateway.process.stderr.take().unwrap())
        .lines()
        .map_while(Result::ok);
    let mut both = |part: &str| {
        let mut shared = None;
        let mut status = None;
        for line in lines.by_ref().filter(|line| line.contains(part)) {
            match line.split(' ').find(|word| word.starts_with("client_id=")) {
                Some("client_id=snipe-barn") => shared = Some(line),
                Some("client_id=snipe-barn-status") => status = Some(line),
                other => panic!("{other:?} in {line}"),
            }
            if shared.is_some() && status.is_some() {
                break;
            }
        }
        (shared.unwrap(), status.unwrap())
    };

    both("msg=\"link up\"");
    drop(broker);
    let (shared, status) = both("msg=\"link down\"");

    assert!(shared.contains(" spooling=true"), "{shared}");
    assert!(!status.contains("spooling="), "{status}");
}
