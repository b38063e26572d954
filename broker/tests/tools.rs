//! mosquitto_pub, mosquitto_sub and mosquitto_rr with each of their flags that has a meaning here.
//!
//! What mosquitto_sub prints begins with `~` and is QoS, RETAIN, topic, payload, and in some tests properties.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[allow(unused_macros, reason = "of no use here")]
mod mqtt;

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use mqtt::Version::V5;
use mqtt::{Broker, Kind, PATIENCE, Packet, Prop, Publish};

/// QoS, RETAIN, topic, payload.
const FORMAT: &str = "~%q %r %t %p";

/// One run of mosquitto_sub.
struct Case {
    name: &'static str,
    /// Values of -V.
    versions: &'static [&'static str],
    /// Runs of mosquitto_pub before it; what follows `<` is its standard input.
    before: &'static [&'static str],
    subscriber: &'static str,
    /// Runs of mosquitto_pub while it is subscribed.
    then: &'static [&'static str],
    /// Its lines.
    expected: &'static [&'static str],
}

const BOTH: &[&str] = &["311", "5"];
const FIVE: &[&str] = &["5"];

/// With a file for -f at `FILE`.
const CASES: &[Case] = &[
    Case {
        name: "QoS 0 to each",
        versions: BOTH,
        before: &[],
        subscriber: "-t a -q 0 -C 3",
        then: &["-t a -m x -q 0", "-t a -m y -q 1", "-t a -m z -q 2"],
        expected: &["0 0 a x", "0 0 a y", "0 0 a z"],
    },
    Case {
        name: "QoS 1 to each",
        versions: BOTH,
        before: &[],
        subscriber: "-t a -q 1 -C 3",
        then: &["-t a -m x -q 0", "-t a -m y -q 1", "-t a -m z -q 2"],
        expected: &["0 0 a x", "1 0 a y", "1 0 a z"],
    },
    Case {
        name: "QoS 2 to each",
        versions: BOTH,
        before: &[],
        subscriber: "-t a -q 2 -C 3",
        then: &["-t a -m x -q 0", "-t a -m y -q 1", "-t a -m z -q 2"],
        expected: &["0 0 a x", "1 0 a y", "2 0 a z"],
    },
    Case {
        name: "several filters, wildcards",
        versions: BOTH,
        before: &[],
        subscriber: "-t a/+ -t b/# -q 1 -C 4",
        then: &[
            "-t a/b -m 1 -q 1",
            "-t b -m 2 -q 1",
            "-t c -m no -q 1",
            "-t b/c/d -m 3 -q 1",
            "-t a/c -m 4 -q 1",
        ],
        expected: &["1 0 a/b 1", "1 0 b 2", "1 0 b/c/d 3", "1 0 a/c 4"],
    },
    Case {
        name: "-r is there for those who come later",
        versions: BOTH,
        before: &[
            "-t a/1 -m old -r -q 1",
            "-t a/1 -m kept -r -q 1",
            "-t a/2 -m passing -q 1",
        ],
        subscriber: "-t a/# -q 1 -C 2",
        then: &["-t a/3 -m new -r -q 1"],
        expected: &["1 1 a/1 kept", "1 0 a/3 new"],
    },
    Case {
        name: "-r -n removes",
        versions: BOTH,
        before: &["-t a -m kept -r", "-t b -m kept -r", "-t a -r -n"],
        subscriber: "-t # -C 2",
        then: &["-t a -m last"],
        expected: &["0 1 b kept", "0 0 a last"],
    },
    Case {
        name: "-n is an empty message",
        versions: BOTH,
        before: &[],
        subscriber: "-t a -C 1",
        then: &["-t a -n -q 1"],
        expected: &["0 0 a "],
    },
    Case {
        name: "-R leaves retained ones out",
        versions: BOTH,
        before: &["-t a -m kept -r"],
        subscriber: "-t a -R -C 1",
        then: &["-t a -m new"],
        expected: &["0 0 a new"],
    },
    Case {
        name: "--retained-only ends at the first that is not",
        versions: BOTH,
        before: &["-t a -m kept -r", "-t b -m kept -r"],
        subscriber: "-t a -t b --retained-only",
        then: &["-t a -m new"],
        expected: &["0 1 a kept", "0 1 b kept"],
    },
    Case {
        name: "-T leaves topics out",
        versions: BOTH,
        before: &[],
        subscriber: "-t a/# -T a/b -T a/c/# -C 2",
        then: &["-t a/b -m no", "-t a/c/d -m no", "-t a/d -m 1", "-t a -m 2"],
        expected: &["0 0 a/d 1", "0 0 a 2"],
    },
    Case {
        name: "-l sends lines, -s all of it, -f a file",
        versions: BOTH,
        before: &[],
        subscriber: "-t a -q 1 -C 5",
        then: &[
            "-t a -l -q 1 < one\ntwo\nthree\n",
            "-t a -s -q 1 < all of it",
            "-t a -q 1 -f FILE",
        ],
        expected: &[
            "1 0 a one",
            "1 0 a two",
            "1 0 a three",
            "1 0 a all of it",
            "1 0 a out of a file",
        ],
    },
    Case {
        name: "-l with QoS 2",
        versions: BOTH,
        before: &[],
        subscriber: "-t a -q 2 -C 3",
        then: &["-t a -l -q 2 < one\ntwo\nthree\n"],
        expected: &["2 0 a one", "2 0 a two", "2 0 a three"],
    },
    Case {
        name: "--repeat",
        versions: BOTH,
        before: &[],
        subscriber: "-t a -q 1 -C 3",
        then: &["-t a -m again -q 1 --repeat 3 --repeat-delay 0.02"],
        expected: &["1 0 a again", "1 0 a again", "1 0 a again"],
    },
    Case {
        name: "-i, -I, -k, -u, -P, -A, --nodelay",
        versions: BOTH,
        before: &[],
        subscriber: "-t a -I prefix- -k 5 -u user -P secret -A 127.0.0.1 --nodelay -C 2",
        then: &[
            "-t a -m 1 -i publisher -k 5 -u user -P secret -A 127.0.0.1 --nodelay --quiet",
            "-t a -m 2 -I prefix- -k 6",
        ],
        expected: &["0 0 a 1", "0 0 a 2"],
    },
    Case {
        name: "$share",
        versions: BOTH,
        before: &["-t a -m kept -r"],
        subscriber: "-t $share/group/a -q 1 -C 2",
        then: &["-t a -m 1 -q 1", "-t a -m 2 -q 2"],
        expected: &["1 0 a 1", "1 0 a 2"],
    },
    Case {
        name: "long and odd payloads and topics",
        versions: BOTH,
        before: &[],
        subscriber: "-t # -q 1 -C 2",
        then: &["-t /ä//☂/ -q 1 -s < tab\there", "-t a -m {\"t\":21.5} -q 1"],
        expected: &["1 0 /ä//☂/ tab\there", "1 0 a {\"t\":21.5}"],
    },
    Case {
        name: "-D of publish",
        versions: FIVE,
        before: &[],
        subscriber: "-t a -C 2 -F ~%p|%C|%D|%R|%F|%E|%P",
        then: &[
            "-t a -m x -D publish content-type text/plain -D publish correlation-data 42 -D publish response-topic r \
             -D publish payload-format-indicator 1 -D publish message-expiry-interval 600 \
             -D publish user-property k v -D publish user-property j w",
            "-t a -m bare",
        ],
        expected: &["x|text/plain|42|r|1|600|k:v j:w", "bare||||||"],
    },
    Case {
        name: "-D of publish with a topic alias",
        versions: FIVE,
        before: &[],
        subscriber: "-t a -q 1 -C 3",
        then: &["-t a -q 1 -D publish topic-alias 1 -l < 1\n2\n3\n"],
        expected: &["1 0 a 1", "1 0 a 2", "1 0 a 3"],
    },
    Case {
        name: "-D of connect",
        versions: FIVE,
        before: &[],
        subscriber: "-t a -q 1 -C 1 -D connect session-expiry-interval 60 -D connect receive-maximum 2 \
                     -D connect maximum-packet-size 200 -D connect topic-alias-maximum 5 \
                     -D connect request-problem-information 1 -D connect request-response-information 0 \
                     -D connect user-property k v",
        then: &["-t a -m x -q 1 -D connect user-property k v -D disconnect user-property k v"],
        expected: &["1 0 a x"],
    },
    Case {
        name: "-D of subscribe, unsubscribe, disconnect",
        versions: FIVE,
        before: &[],
        subscriber: "-t a -C 1 -F ~%p|%S -D subscribe subscription-identifier 268435455 -D subscribe user-property k v \
                     -D unsubscribe user-property k v -D disconnect session-expiry-interval 0",
        then: &["-t a -m x"],
        expected: &["x|268435455"],
    },
    Case {
        name: "$SYS",
        versions: BOTH,
        before: &[],
        subscriber: "-t $SYS/broker/clients/connected -C 1 -F ~%r",
        then: &[],
        expected: &["1"],
    },
];

#[test]
fn mosquitto_sub_prints_what_mosquitto_pub_sent() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "out of a file").unwrap();
    let file = file.path().to_str().unwrap();
    for case in CASES {
        for version in case.versions {
            let shown = format!("{} (-V {version})", case.name);
            let b = broker();
            for arguments in case.before {
                publish(&b, version, arguments, file);
            }
            let mut subscriber = Subscriber::start(&b, version, case.subscriber);
            for arguments in case.then {
                publish(&b, version, arguments, file);
            }
            assert_eq!(subscriber.finish(), case.expected, "{shown}");
        }
    }
}

#[test]
fn kept_sessions_collect_messages() {
    for version in BOTH {
        let b = broker();
        let kept = [
            "-c -i kept -t a -t b -q 1",
            if *version == "5" { " -x 60" } else { "" },
        ]
        .concat();
        assert!(Subscriber::run(&b, version, &format!("{kept} -E")).success());
        for n in 1..=3 {
            publish(&b, version, &format!("-t a -m {n} -q {}", n.min(2)), "");
        }
        let mut again = Subscriber::start(&b, version, &format!("{kept} -W 1"));
        assert_eq!(again.finish(), ["1 0 a 1", "1 0 a 2", "1 0 a 3"], "-V {version}");

        // -U ends one of its subscriptions.
        let without = [
            "-c -i kept -t b -U a -q 1",
            if *version == "5" { " -x 60" } else { "" },
        ]
        .concat();
        let mut changed = Subscriber::start(&b, version, &format!("{without} -W 1"));
        publish(&b, version, "-t a -m no -q 1", "");
        publish(&b, version, "-t b -m yes -q 1", "");
        assert_eq!(changed.finish(), ["1 0 b yes"], "-V {version}");

        // Without -c it is gone.
        assert!(Subscriber::run(&b, version, "-i kept -t c -E").success());
        publish(&b, version, "-t b -m lost -q 1", "");
        let mut again = Subscriber::start(&b, version, &format!("{kept} -W 1"));
        assert_eq!(again.finish(), [""; 0], "-V {version}");
    }
}

#[test]
fn session_expiry_of_x_passes() {
    let b = broker();
    assert!(Subscriber::run(&b, "5", "-c -i kept -t a -q 1 -x 1 -E").success());
    publish(&b, "5", "-t a -m x -q 1", "");
    let mut waiting = Subscriber::start(&b, "5", "-t nothing -W 2");
    assert_eq!(waiting.finish(), [""; 0]);
    let mut late = Subscriber::start(&b, "5", "-c -i kept -t b -q 1 -x 60 -W 1");
    assert_eq!(late.finish(), [""; 0]);
}

#[test]
fn remove_retained_removes() {
    for version in BOTH {
        let b = broker();
        for topic in ["a/1", "a/2", "b"] {
            publish(&b, version, &format!("-t {topic} -m kept -r -q 1"), "");
        }
        let mut removing = Subscriber::start(&b, version, "-t # -T b --remove-retained -W 1");
        removing.finish();
        assert_eq!(b.retained("#"), [("b".into(), "kept".into())], "-V {version}");
    }
}

#[test]
fn w_ends_with_its_exit_code_and_e_with_success() {
    for version in BOTH {
        let b = broker();
        assert_eq!(Subscriber::run(&b, version, "-t a -W 1").code(), Some(27));
        assert!(Subscriber::run(&b, version, "-t a -E").success());
    }
}

#[test]
fn wills_are_published_when_a_tool_is_killed() {
    for version in BOTH {
        let b = broker();
        let mut observer = b.client("observer");
        observer.subscribe("will/#", 2);
        for (qos, retain) in [(0, false), (1, true), (2, false)] {
            let flag = if retain { "--will-retain" } else { "" };
            let arguments =
                format!("-t a --will-topic will/{qos} --will-payload gone --will-qos {qos} {flag}");
            let mut subscriber = Subscriber::start(&b, version, &arguments);
            subscriber.process.kill().unwrap();
            let will = observer.receive(&format!("will/{qos}"), "gone");
            assert_eq!((will.qos, will.retain), (qos, false), "-V {version}");
        }
        assert_eq!(b.retained("will/#"), [("will/1".into(), "gone".into())]);
        // Without a payload it is empty; who ends in good order leaves none.
        let mut subscriber = Subscriber::start(&b, version, "-t a --will-topic will/empty");
        subscriber.process.kill().unwrap();
        observer.receive("will/empty", "");
        assert!(Subscriber::run(&b, version, "-t a --will-topic will/none --will-payload no -E").success());
        observer.expect_nothing();
    }
}

#[test]
fn will_properties_arrive() {
    let b = broker();
    let mut observer = b.client("observer");
    observer.subscribe("will", 1);
    let arguments = "-t a -x 60 --will-topic will --will-payload gone --will-qos 1 -D will content-type text/plain \
                     -D will correlation-data 42 -D will response-topic r -D will payload-format-indicator 1 \
                     -D will message-expiry-interval 600 -D will user-property k v -D will will-delay-interval 1";
    let mut subscriber = Subscriber::start(&b, "5", arguments);
    subscriber.process.kill().unwrap();
    let gone = Instant::now();
    let will = observer.receive("will", "gone");
    assert!(
        gone.elapsed() > Duration::from_millis(700),
        "{:?}",
        gone.elapsed()
    );
    for prop in [
        Prop::ContentType("text/plain".into()),
        Prop::CorrelationData(b"42".to_vec()),
        Prop::ResponseTopic("r".into()),
        Prop::PayloadFormat(1),
        Prop::User("k".into(), "v".into()),
    ] {
        assert!(will.props.contains(&prop), "{prop:?} in {will:?}");
    }
}

#[test]
fn output_formats_and_urls() {
    for version in BOTH {
        let b = broker();
        publish(&b, version, "-t a/b -m kept -r", "");
        let plain = |arguments: &str| {
            let output = tool(&b, "mosquitto_sub", version, arguments).output().unwrap();
            assert!(output.status.success());
            String::from_utf8(output.stdout).unwrap()
        };
        assert_eq!(plain("-t a/b -C 1 -v"), "a/b kept\n");
        assert_eq!(plain("-t a/b -C 1 -N"), "kept");
        let json = plain("-t a/b -C 1 -F %j");
        assert!(
            json.contains("\"topic\":\"a/b\"") && json.contains("\"retain\":1"),
            "{json}"
        );

        let url = format!("mqtt://user:secret@127.0.0.1:{}/a/b", b.address.port());
        let output = Command::new("mosquitto_sub")
            .args(["-L", &url, "-C", "1", "-V", version])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "kept\n");
    }
}

#[test]
fn mosquitto_rr_gets_its_answer() {
    for version in BOTH {
        let b = broker();
        let mut answering = b.client("answering");
        answering.subscribe("ask", 1);
        let mut asking = tool(
            &b,
            "mosquitto_rr",
            version,
            "-t ask -e answer -m question -q 1 -W 10",
        )
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
        let question = answering.receive("ask", "question");
        if *version == "5" {
            assert!(
                question.props.contains(&Prop::ResponseTopic("answer".into())),
                "{question:?}"
            );
        }
        answering.publish(Publish::new("answer", "42").qos(1, 0));
        let mut answer = String::new();
        asking.stdout.take().unwrap().read_to_string(&mut answer).unwrap();
        assert!(asking.wait().unwrap().success());
        assert_eq!(answer, "42\n");
    }
}

#[test]
fn mqtt_3_1_and_packets_too_large_are_refused() {
    let b = broker();
    if Kind::chosen() == Kind::Embedded {
        assert_ne!(Subscriber::run(&b, "31", "-t a -E").code(), Some(0));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![b'x'; 300_000]).unwrap();
        let path = file.path().to_str().unwrap();
        let status = tool(&b, "mosquitto_pub", "311", &format!("-t a -q 1 -r -f {path}"))
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(!status.success());
        // In MQTT 5 it knows the limit, and does not even try.
        publish(&b, "5", &format!("-t a -q 1 -r -f {path}"), "");
        assert!(b.retained("a").is_empty());
        std::fs::write(file.path(), vec![b'x'; 200_000]).unwrap();
        publish(&b, "311", &format!("-t a -q 1 -r -f {path}"), "");
        assert_eq!(b.retained("a")[0].1.len(), 200_000);
    }
}

/// A thousand messages from one end to the other, with each QoS.
#[test]
fn a_thousand_lines_arrive() {
    for version in BOTH {
        for qos in 0..=2 {
            let b = broker();
            let mut subscriber = Subscriber::start(&b, version, &format!("-t a -q {qos} -C 1000 -F ~%p"));
            let lines: String = (0..1000).map(|n| format!("{n}\n")).collect();
            publish(&b, version, &format!("-t a -q {qos} -l < {lines}"), "");
            let expected: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
            assert_eq!(subscriber.finish(), expected, "-V {version} -q {qos}");
        }
    }
}

fn broker() -> Broker {
    Broker::start(&Kind::chosen(), V5)
}

/// `arguments` as a shell would split them; there is no quoting.
fn tool(b: &Broker, name: &str, version: &str, arguments: &str) -> Command {
    let version = match version {
        "31" => "mqttv31",
        "311" => "mqttv311",
        _ => "mqttv5",
    };
    let mut command = Command::new("stdbuf");
    command
        .args([
            "-oL",
            name,
            "-h",
            "127.0.0.1",
            "-p",
            &b.address.port().to_string(),
            "-V",
            version,
        ])
        .args(arguments.split_whitespace())
        .stdin(Stdio::null());
    command
}

/// mosquitto_pub; what follows `<` in `arguments` is its standard input.
#[track_caller]
fn publish(b: &Broker, version: &str, arguments: &str, file: &str) {
    let (arguments, input) = arguments.split_once("< ").unwrap_or((arguments, ""));
    let mut process = tool(b, "mosquitto_pub", version, &arguments.replace("FILE", file))
        .stdin(Stdio::piped())
        .spawn()
        .expect("these tests need mosquitto_pub");
    process.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let status = process.wait().unwrap();
    assert!(status.success(), "mosquitto_pub {arguments}: {status}");
}

/// mosquitto_sub, subscribed.
struct Subscriber {
    process: Child,
    lines: Receiver<String>,
    /// Begun with `~` before it was known to be subscribed: retained messages, mostly.
    early: Vec<String>,
}

impl Subscriber {
    #[track_caller]
    fn start(b: &Broker, version: &str, arguments: &str) -> Self {
        let format = if arguments.contains(" -F ") {
            Vec::new()
        } else {
            vec!["-F", FORMAT]
        };
        let mut process = tool(b, "mosquitto_sub", version, arguments)
            .arg("-d")
            .args(format)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("these tests need mosquitto_sub");
        let (sender, lines) = channel();
        let output = BufReader::new(process.stdout.take().unwrap());
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut subscriber = Subscriber {
            process,
            lines,
            early: Vec::new(),
        };
        let mut all = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        loop {
            match subscriber
                .lines
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(line) if line.starts_with("Subscribed") => return subscriber,
                Ok(line) => {
                    if let Some(message) = line.strip_prefix('~') {
                        subscriber.early.push(message.into());
                    }
                    all.push(line);
                }
                // A kept session may bring all that was wanted before it.
                Err(RecvTimeoutError::Disconnected) => return subscriber,
                Err(RecvTimeoutError::Timeout) => {
                    panic!("mosquitto_sub {arguments} did not subscribe: {all:#?}")
                }
            }
        }
    }

    /// For those that end at once.
    #[track_caller]
    fn run(b: &Broker, version: &str, arguments: &str) -> ExitStatus {
        tool(b, "mosquitto_sub", version, arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .expect("these tests need mosquitto_sub")
    }

    /// All messages until it ends by itself.
    #[track_caller]
    fn finish(&mut self) -> Vec<String> {
        let mut messages = std::mem::take(&mut self.early);
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self
                .lines
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(line) => messages.extend(line.strip_prefix('~').map(str::to_owned)),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("mosquitto_sub does not end; so far {messages:?}"),
            }
        }
        self.process.wait().unwrap();
        messages
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The raw client agrees with the tools about what a packet is.
#[test]
fn raw_client_and_tools_understand_each_other() {
    let b = broker();
    let mut raw = b.client("raw");
    raw.subscribe("a", 2);
    let mut subscriber = Subscriber::start(&b, "5", "-t b -q 2 -C 1 -F ~%q|%p|%P");
    publish(&b, "5", "-t a -m x -q 2 -D publish user-property k v", "");
    let publish = raw.receive("a", "x");
    assert_eq!(publish.props, [Prop::User("k".into(), "v".into())]);
    raw.publish(
        Publish::new("b", "y")
            .qos(2, 0)
            .prop(Prop::User("j".into(), "w".into())),
    );
    assert_eq!(subscriber.finish(), ["2|y|j:w"]);
    raw.send(&Packet::PingReq);
    raw.expect(Packet::PingResp);
}
