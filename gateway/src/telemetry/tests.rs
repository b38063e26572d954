use core::time::Duration;
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};

use gateway_core::io::{DropReason, Notice};
use gateway_core::peer::{LinkAddr, LinkId, PeerAddr};
use gateway_core::time::Instant;
use tracing::level_filters::LevelFilter;
use tracing::{info, warn};

use super::*;

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, octets: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(octets);
        Ok(octets.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What a format makes of two events.
fn written(format: LogFormat) -> String {
    let captured = Captured::default();
    let writer = captured.clone();
    let layer = layer(
        format,
        fmt::layer().with_writer(move || writer.clone()).with_ansi(false),
    );
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
        info!(target: "client", client = "pump-7", keep_alive = 300, "connected");
        warn!(target: "broker", error = "connection reset by peer", "link down");
    });
    String::from_utf8(captured.0.lock().unwrap().clone()).unwrap()
}

#[test]
fn logfmt_is_pairs_and_quotes_what_needs_it() {
    let text = written(LogFormat::Logfmt);
    let lines: Vec<&str> = text.lines().map(|line| line.split_once(' ').unwrap().1).collect();
    assert_eq!(
        lines,
        [
            "level=info target=client msg=connected client=pump-7 keep_alive=300",
            "level=warn target=broker msg=\"link down\" error=\"connection reset by peer\"",
        ]
    );
}

/// The lines that a level lets through, without their times.
fn lines(level: LevelFilter, log: impl FnOnce()) -> Vec<String> {
    let captured = Captured::default();
    let writer = captured.clone();
    let layer = layer(
        LogFormat::Logfmt,
        fmt::layer().with_writer(move || writer.clone()).with_ansi(false),
    );
    let filter = Targets::new().with_default(level);
    let subscriber = tracing_subscriber::registry().with(layer.with_filter(filter));
    tracing::subscriber::with_default(subscriber, log);
    let text = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
    text.lines()
        .map(|line| line.split_once(' ').unwrap().1.to_owned())
        .collect()
}

#[test]
fn sleepers_are_seen_waking_and_taking_their_messages() {
    let client: Arc<str> = "pump-7".into();
    let at = |port: u16, node: Option<Box<[u8]>>| PeerAddr {
        addr: LinkAddr::Udp(([10, 0, 0, 1], port).into()),
        node,
    };
    let told = lines(LevelFilter::INFO, || {
        let mut notices = Notices::new(vec!["udp0".into()]);
        for notice in [
            Notice::Awake {
                client: client.clone(),
                buffered: 0,
            },
            Notice::Awake {
                client: client.clone(),
                buffered: 2,
            },
            Notice::Delivered {
                client: client.clone(),
                messages: 2,
                bytes: 61,
                waited: Duration::from_secs(41 * 60 + 7),
            },
            Notice::Dropped {
                client: client.clone(),
                topic: "pump/set".into(),
                reason: DropReason::Expired,
            },
            Notice::AddressChanged {
                client: client.clone(),
                link: LinkId(0),
                old: at(1, None),
                new: at(2, Some([0x17].into())),
            },
        ] {
            notices.log(Instant::START, notice);
        }
    });
    assert_eq!(
        told,
        [
            "level=info target=client msg=awake client=pump-7 buffered=2",
            "level=info target=client msg=delivered client=pump-7 messages=2 bytes=61 waited=41m",
            "level=info target=client msg=\"message dropped: see [sleep]\" client=pump-7 topic=pump/set reason=\"too old\"",
            "level=info target=client msg=\"address changed\" client=pump-7 radio=udp0 old=10.0.0.1:1 new=10.0.0.1:2/17",
        ]
    );
}

#[test]
fn trace_shows_datagrams_without_what_they_carry() {
    let datagram = [0x0B, 0x0C, 0x22, b'a', b'b', 1, 2, b'2', b'1', b'.', b'5'];
    let log = || trace_datagram("in", || "udp0".into(), || "10.0.0.1:1".into(), &datagram);
    let told = lines(LevelFilter::TRACE, log);
    let [line] = &told[..] else { panic!("{told:?}") };
    assert!(
        line.starts_with("level=trace target=packet direction=in radio=udp0 peer=10.0.0.1:1 len=11 packet="),
        "{line}"
    );
    assert!(line.contains("Publish") && !line.contains("50"), "{line}");
    // Nothing is even asked for below that level.
    let unasked = || -> String { panic!("not below trace") };
    let told = lines(LevelFilter::DEBUG, || {
        trace_datagram("in", unasked, unasked, &datagram);
    });
    assert_eq!(told, [""; 0]);
}

#[test]
fn a_client_id_forges_no_line_and_sends_nothing_to_a_terminal() {
    for format in [LogFormat::Text, LogFormat::Logfmt] {
        for ansi in [false, true] {
            let captured = Captured::default();
            let writer = captured.clone();
            let layer = layer(
                format,
                fmt::layer().with_writer(move || writer.clone()).with_ansi(ansi),
            );
            let client = "evil\n2026-01-01T00:00:00Z ERROR gateway: \u{1b}[31mgone\u{9b}1m\u{202e}";
            tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
                info!(target: "client", %client, "refused {client}");
                info!(target: "client", client, "refused");
            });
            let text = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
            assert_eq!(text.lines().count(), 2, "{text}");
            assert!(!text.contains("\u{1b}[31m"), "{text:?}");
            assert!(!text.contains(['\u{9b}', '\u{202e}']), "{text:?}");
            assert!(
                text.contains(r"evil\n2026") && text.contains(r"\u{1b}[31m"),
                "{text}"
            );
        }
    }
}

#[test]
fn text_is_a_message_and_its_fields() {
    let text = written(LogFormat::Text);
    let lines: Vec<&str> = text
        .lines()
        .map(|line| line.split_once("  ").unwrap().1)
        .collect();
    assert_eq!(
        lines,
        [
            "INFO client: connected client=\"pump-7\" keep_alive=300",
            "WARN broker: link down error=\"connection reset by peer\"",
        ]
    );
}

#[test]
fn json_is_one_flat_object_a_line() {
    let text = written(LogFormat::Json);
    let first: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&first["client"], &first["message"]),
        (&"pump-7".into(), &"connected".into())
    );
    assert_eq!(text.lines().count(), 2);
}

#[test]
fn every_line_has_one_of_the_targets() {
    fn look(dir: &Path, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                look(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let after = text.split("target: \"").skip(1);
                found.extend(after.filter_map(|text| Some(text.split_once('"')?.0.to_owned())));
            }
        }
    }
    let gateway = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = BTreeSet::new();
    for crate_ in [
        "src",
        "core/src",
        "store/src",
        "../broker/src",
        "../radio-adapters/src",
    ] {
        look(&gateway.join(crate_), &mut found);
    }
    // This test's own.
    found.remove("\\");
    assert_eq!(found, TARGETS.map(str::to_owned).into());
}
