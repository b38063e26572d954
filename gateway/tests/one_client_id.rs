//! Two gateways under one MQTT client id: the second is told what to do, once.

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
    let mut first = Gateway::start(&["broker.embedded.bind=127.0.0.1:0"]);
    let said = lines_with(first.process.stdout.take().unwrap(), "embedded listening on")
        .next()
        .unwrap();
    let address = said.split_whitespace().last().unwrap();

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
