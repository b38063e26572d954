//! `snipe check --online` against simulated modems on pseudo-terminals, and against what is not there.
#![allow(clippy::unwrap_used, reason = "the helpers are test code too")]

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    path::Path,
    process::{Command, Output},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use gateway_core::time::Instant;
use snipe_sim::{
    ether::EtherConfig,
    modem::{
        SimModem,
        rak::{
            Firmware, Rak3172, Rak3172Config,
            rak4270::{Rak4270, Rak4270Config},
        },
        rn::{Rn, RnConfig, RnModel},
        rylr::{Rylr, RylrConfig, RylrModel},
        xbee::{Radio, Xbee, XbeeConfig},
    },
    pty::{Pty, PtyRead},
    site::{Habits, Site, SiteEvent},
};

#[test]
fn modems_say_what_they_are_and_the_broker_lets_us_in() {
    let dir = tempfile::tempdir().unwrap();
    let rak = Plugged::new(
        &dir.path().join("rak"),
        Box::new(Rak3172::new(Rak3172Config::new(Firmware::Rui5))),
    );
    let xbee = Plugged::new(
        &dir.path().join("xbee"),
        Box::new(Xbee::new(XbeeConfig::new(Radio::Zigbee))),
    );
    let broker = mosquitto_like_answer();
    fs::write(
        dir.path().join("snipe.toml"),
        format!(
            "[broker]\nurl = \"mqtt://127.0.0.1:{broker}\"\n\
             [[radio]]\nname = \"lan\"\nkind = \"udp\"\nbind = [\"127.0.0.1:0\"]\nmulticast = []\n\
             [[radio]]\nname = \"lora0\"\nkind = \"lora\"\ndriver = \"rak3172\"\nport = \"{}\"\nregion = \"EU868\"\n\
             [[radio]]\nname = \"xbee0\"\nkind = \"xbee\"\nport = \"{}\"\n",
            rak.path, xbee.path
        ),
    )
    .unwrap();

    let output = check_online(&dir);

    let lines = results(&output);
    assert_eq!(output.status.code(), Some(0), "{lines:?}");
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert!(
        lines[0].starts_with("lan     ok      127.0.0.1:") && lines[0].ends_with("/udp can be listened on"),
        "{lines:?}"
    );
    assert!(
        lines[1].starts_with(&format!("lora0   ok      {} ", rak.path)) && lines[1].contains("firmware"),
        "{lines:?}"
    );
    assert!(
        lines[2].starts_with(&format!("xbee0   ok      {} ", xbee.path)),
        "{lines:?}"
    );
    assert_eq!(
        lines[3],
        format!("broker  ok      mqtt://127.0.0.1:{broker} (MQTT 5) lets us in")
    );
}

#[test]
fn what_is_not_there_is_told_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let used = taken.local_addr().unwrap();
    fs::write(
        dir.path().join("snipe.toml"),
        format!(
            "[broker]\nurl = \"mqtt://{nobody}\"\n\
             [[radio]]\nname = \"lan\"\nkind = \"udp\"\nbind = [\"{used}\"]\nmulticast = []\n\
             [[radio]]\nname = \"gone\"\nkind = \"xbee\"\nport = \"/dev/serial/by-id/nothing\"\n\
             [[radio]]\nname = \"null\"\nkind = \"serial\"\nport = \"/dev/null\"\n"
        ),
    )
    .unwrap();

    let output = check_online(&dir);

    let lines = results(&output);
    assert_eq!(output.status.code(), Some(69), "{lines:?}");
    assert!(lines[0].starts_with("lan     failed  ") && lines[0].contains(&used.to_string()));
    assert!(
        lines[1].starts_with("gone    failed  /dev/serial/by-id/nothing: there is no such port"),
        "{lines:?}"
    );
    assert!(
        lines[2].starts_with("null    failed  /dev/null: not a serial port"),
        "{lines:?}"
    );
    assert!(
        lines[3].starts_with(&format!("broker  failed  mqtt://{nobody} (MQTT 5): {nobody}: ")),
        "{lines:?}"
    );
}

/// What `snipe check` lets pass the modem takes: each example is tried on a modem of its kind.
#[test]
fn every_example_is_taken_by_its_modem() {
    let dir = tempfile::tempdir().unwrap();
    let broker = format!("mqtt://127.0.0.1:{}", mosquitto_like_answer());
    let rn = |model| Box::new(Rn::new(RnConfig::new(model))) as Box<dyn SimModem>;
    let rylr = |model| Box::new(Rylr::new(RylrConfig::new(model))) as Box<dyn SimModem>;
    let xbee = |radio, baud| {
        let mut config = XbeeConfig::new(radio);
        config.baud = baud;
        Box::new(Xbee::new(config)) as Box<dyn SimModem>
    };
    let examples: Vec<(&str, Box<dyn SimModem>)> = vec![
        (
            "lora-rak3172",
            Box::new(Rak3172::new(Rak3172Config::new(Firmware::Rui5))),
        ),
        ("lora-rak4270", Box::new(Rak4270::new(Rak4270Config::default()))),
        ("lora-rn2483", rn(RnModel::Rn2483)),
        ("lora-rn2903", rn(RnModel::Rn2903)),
        ("lora-rylr998", rylr(RylrModel::Rylr998)),
        ("lora-rylr896", rylr(RylrModel::Rylr896)),
        ("xbee-zigbee", xbee(Radio::Zigbee, 38_400)),
        ("xbee-802154", xbee(Radio::Ieee802154, 9_600)),
    ];
    // All at once: some modems take seconds to start.
    let asked: Vec<_> = examples
        .into_iter()
        .map(|(name, modem)| {
            let plugged = Plugged::new(&dir.path().join(name), modem);
            let file = format!("{}/../configs/examples/{name}.toml", env!("CARGO_MANIFEST_DIR"));
            let radio = if name.starts_with("lora") {
                "lora0"
            } else {
                "xbee0"
            };
            let process = Command::new(env!("CARGO_BIN_EXE_snipe"))
                .args(["check", "--online", &file, "--broker", &broker, "--set"])
                .arg(format!("radio.{radio}.port={}", plugged.path))
                .env_clear()
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            (name, plugged, process)
        })
        .collect();

    for (name, _plugged, process) in asked {
        let output = process.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{name}: {text}");
        assert!(!text.contains("  note  "), "{name}: {text}");
    }
}

/// A wrong configuration is not tried out: nothing is transmitted that the law forbids.
#[test]
fn a_wrong_configuration_is_refused_before_anything_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(
        dir.path().join("snipe.toml"),
        "[[radio]]\nname = \"l\"\nkind = \"lora\"\ndriver = \"rak3172\"\nport = \"/dev/null\"\nregion = \"EU868\"\nduty_cycle = 0.5\n",
    )
    .unwrap();

    let output = check_online(&dir);

    assert_eq!(output.status.code(), Some(78));
    assert!(output.stdout.is_empty());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("duty_cycle 0.5 is above the law"), "{errors}");
}

fn check_online(dir: &tempfile::TempDir) -> Output {
    Command::new(env!("CARGO_BIN_EXE_snipe"))
        .args(["check", "--online", "snipe.toml"])
        .current_dir(dir.path())
        .env_clear()
        .output()
        .unwrap()
}

/// The lines about what was asked, without their indentation; what is known beforehand is left out.
fn results(output: &Output) -> Vec<String> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines()
        .filter(|line| line.contains("  ok  ") || line.contains("  failed  "))
        .map(|line| line.trim_start().to_owned())
        .collect()
}

/// A broker that answers one CONNECT of MQTT 5 with "welcome"; its port.
fn mosquitto_like_answer() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut connect = [0; 64];
            // A connection that is only looked at sends nothing.
            if stream.read(&mut connect).is_ok_and(|read| read > 0) {
                stream.write_all(&[0x20, 3, 0, 0, 0]).unwrap();
            }
        }
    });
    port
}

/// A simulated modem behind a pseudo-terminal, until it is dropped.
struct Plugged {
    path: String,
    stop: Arc<AtomicBool>,
    runs: Option<JoinHandle<()>>,
}

impl Plugged {
    fn new(path: &Path, modem: Box<dyn SimModem>) -> Plugged {
        let mut pty = Pty::new(path).unwrap();
        pty.plug().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let runs = thread::spawn(move || run(pty, modem, &stopped));
        Plugged {
            path: path.display().to_string(),
            stop,
            runs: Some(runs),
        }
    }
}

impl Drop for Plugged {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(runs) = self.runs.take() {
            runs.join().unwrap();
        }
    }
}

/// Carries octets between terminal and modem in real time.
fn run(mut pty: Pty, modem: Box<dyn SimModem>, stop: &AtomicBool) {
    let ether = EtherConfig::default();
    let habits = Habits {
        interval: Duration::from_secs(3600),
        qos: sn_codec::PublishQoS::MinusOne,
        sleep: None,
        stagger: Duration::ZERO,
    };
    let start = std::time::Instant::now();
    let now = || Instant::from_micros(start.elapsed().as_micros() as u64);
    let mut site = Site::new(modem, 115_200, ether, habits);
    site.power_on(now());
    let mut buffer = [0; 512];
    while !stop.load(Ordering::Relaxed) {
        if let Some(baud) = pty.baud() {
            site.set_host_baud(baud);
        }
        if let PtyRead::Octets(count) = pty.read(&mut buffer).unwrap() {
            site.handle_octets(now(), &buffer[..count]);
        }
        site.handle_timeout(now());
        while let Some(event) = site.poll_event() {
            if let SiteEvent::ToHost(octets) = event {
                pty.write(&octets);
            }
        }
        pty.wait(Duration::from_millis(2)).unwrap();
    }
}
