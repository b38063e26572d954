//! The embedded broker and MQTT clients that nobody here wrote: those of `tests/interop/mqtt-requirements.txt`.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[allow(unused_macros, reason = "of no use here")]
mod mqtt;

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use mqtt::{Broker, Kind, Version};

#[test]
fn paho_gets_what_3_1_1_promises() {
    run("mqtt_paho.py", "3");
}

#[test]
fn paho_gets_what_5_promises() {
    run("mqtt_paho.py", "5");
}

#[test]
fn gmqtt_gets_what_3_1_1_promises() {
    run("mqtt_gmqtt.py", "3");
}

#[test]
fn gmqtt_gets_what_5_promises() {
    run("mqtt_gmqtt.py", "5");
}

/// Runs a script of `tests/interop` with a broker of its own; far longer than it takes.
fn run(script: &str, version: &str) {
    let broker = Broker::start(&Kind::chosen(), Version::V5);
    let script = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/interop")
        .join(script);
    let mut process = Command::new(python())
        .arg(&script)
        .args([&broker.address.port().to_string(), version])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let started = Instant::now();
    while process.try_wait().unwrap().is_none() {
        if started.elapsed() > Duration::from_secs(60) {
            let _ = process.kill();
            break;
        }
        thread::sleep(Duration::from_millis(20));
    }
    let output = process.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{}: {}\n{errors}",
        script.display(),
        output.status
    );
}

/// Where `tests/run.sh` put them: `target/interop-mqtt`, three levels above this executable's directory.
fn python() -> PathBuf {
    let executable = env::current_exe().unwrap();
    let target = executable.ancestors().nth(3).expect("target/<profile>/deps/test");
    let interop = target.join("interop-mqtt");
    assert!(
        interop.join("installed.txt").is_file(),
        "the foreign MQTT clients are not installed in {}\nrun tests/run.sh setup",
        interop.display()
    );
    interop.join("bin/python")
}
