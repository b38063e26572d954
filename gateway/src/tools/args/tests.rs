//! Command lines and what they mean.

use clap::Parser;

use super::*;
use crate::cli::{Cli, Command};

#[test]
fn pub_flags_are_mosquittos() {
    let args = publish("-h gw -p 1884 -i me -t a/b -m 21.5 -q 2 -r -k 30 -c -d -W 2.5");
    assert_eq!((args.link.host.as_str(), args.link.port), ("gw", 1884));
    assert_eq!(args.topic(), Ok(Topic::Name("a/b".to_owned())));
    assert_eq!(args.source(), Source::Text(b"21.5".to_vec()));
    assert_eq!(args.qos, PublishQoS::Level(QoS::ExactlyOnce));
    assert!(args.retain && args.link.debug);
    assert_eq!(args.link.wait, Some(Duration::from_millis(2500)));
    let options = args.session.options(&args.link, "pub");
    assert_eq!(
        (options.client_id.as_str(), options.keep_alive, options.clean),
        ("me", 30, false)
    );
}

#[test]
fn defaults_are_a_local_gateway_and_a_clean_session() {
    let args = publish("-t a/b -m x");
    assert_eq!((args.link.host.as_str(), args.link.port), ("127.0.0.1", 1883));
    assert_eq!(args.qos, PublishQoS::Level(QoS::AtMostOnce));
    assert_eq!(args.link.wait, None);
    let options = args.session.options(&args.link, "pub");
    assert!(options.clean && options.will.is_none());
    assert_eq!(
        (options.keep_alive, options.retry, options.retries),
        (60, Duration::from_secs(10), 3)
    );
}

#[test]
fn made_up_client_ids_differ_and_fit_the_specification() {
    let args = publish("-t a/b -m x");
    let (one, two) = (args.link.client_id("pub"), args.link.client_id("pub"));
    assert_ne!(one, two);
    assert!(one.starts_with("snipe-pub-") && one.len() <= 23, "{one}");
}

#[test]
fn two_octet_name_is_a_short_topic_unless_registered() {
    let short = Topic::Short(ShortTopic(*b"ab"));
    assert_eq!(publish("-t ab -m x").topic(), Ok(short.clone()));
    assert_eq!(publish("--short ab -m x").topic(), Ok(short));
    assert_eq!(
        publish("-t ab --register -m x").topic(),
        Ok(Topic::Name("ab".to_owned()))
    );
    // One character, two octets.
    assert_eq!(
        publish("-t ü -m x").topic(),
        Ok(Topic::Short(ShortTopic([0xC3, 0xBC])))
    );
}

#[test]
fn predefined_ids_leave_out_the_reserved_ones() {
    assert_eq!(
        publish("--topic-id 17 -m x").topic(),
        Ok(Topic::Predefined(TopicId(17)))
    );
    for id in ["0", "65535", "65536", "x"] {
        refused(&format!("pub --topic-id {id} -m x"));
    }
}

#[test]
fn qos_minus_one_takes_ids_and_short_names_only() {
    let args = publish("-t ab -m x -q -1");
    assert_eq!(args.qos, PublishQoS::MinusOne);
    assert!(args.topic().is_ok());
    assert!(publish("--topic-id 17 -m x -q -1").topic().is_ok());
    assert_eq!(
        publish("-t a/b -m x -q -1").topic(),
        Err(
            "QoS -1 has no session to register \"a/b\" in: use --topic-id or a name of two octets".to_owned()
        )
    );
    assert!(publish("-t ab --register -m x -q -1").topic().is_err());
}

#[test]
fn payload_has_exactly_one_source() {
    assert_eq!(publish("-t a/b -n").source(), Source::Text(Vec::new()));
    assert_eq!(publish("-t a/b -f file").source(), Source::File("file".into()));
    assert_eq!(publish("-t a/b -l").source(), Source::Lines);
    assert_eq!(publish("-t a/b -s").source(), Source::Stdin);
    // A negative number is a payload, not a flag.
    assert_eq!(publish("-t a/b -m -3.5").source(), Source::Text(b"-3.5".to_vec()));
    refused("pub -t a/b");
    refused("pub -t a/b -m x -n");
    refused("pub -t a/b -l -s");
    refused("pub -t a/b -l --repeat 2");
}

#[test]
fn topic_is_named_exactly_once_for_pub() {
    refused("pub -m x");
    refused("pub -t a/b --short ab -m x");
    refused("pub -t a/b -t c/d -m x");
    refused("pub -t a/+ -m x");
    refused("pub -t # -m x");
    refused("pub --short abc -m x");
    refused("pub --short a# -m x");
}

#[test]
fn will_needs_a_topic() {
    let args = publish("-t a/b -m x --will-topic w/t --will-payload gone --will-qos 1 --will-retain");
    let will = args.session.options(&args.link, "pub").will;
    assert_eq!(
        will,
        Some(Will {
            topic: "w/t".to_owned(),
            payload: b"gone".to_vec(),
            qos: QoS::AtLeastOnce,
            retain: true
        })
    );
    refused("pub -t a/b -m x --will-payload gone");
    refused("pub -t a/b -m x --will-retain");
    refused("pub -t a/b -m x --will-topic w/+");
}

#[test]
fn kept_session_needs_a_client_id() {
    refused("sub -t a/b -c");
    assert!(
        !subscribe("-t a/b -c -i me")
            .session
            .options(&subscribe("-t a -i me").link, "sub")
            .clean
    );
}

#[test]
fn sub_takes_topics_of_every_form() {
    let args = subscribe("-t a/# -t b/c --topic-id 17 --short xy -t cd");
    assert_eq!(
        args.topics(),
        [
            Topic::Name("a/#".to_owned()),
            Topic::Name("b/c".to_owned()),
            Topic::Short(ShortTopic(*b"cd")),
            Topic::Predefined(TopicId(17)),
            Topic::Short(ShortTopic(*b"xy")),
        ]
    );
    refused("sub");
    refused("sub -t a/#/b");
    refused("sub -t a+");
}

#[test]
fn two_octet_filter_is_not_a_short_topic() {
    for filter in ["/#", "+/", "/+"] {
        assert_eq!(
            subscribe(&format!("-t {filter}")).topics(),
            [Topic::Name(filter.to_owned())]
        );
    }
}

#[test]
fn sub_flags_are_mosquittos() {
    let args = subscribe("-t a/b -q 2 -C 3 -W 5 -v -R -N");
    assert_eq!(args.qos, QoS::ExactlyOnce);
    assert_eq!(
        (args.count, args.link.wait),
        (Some(3), Some(Duration::from_secs(5)))
    );
    assert!(args.no_retained);
    assert_eq!(args.output_format(), Format::standard(true, false));
    refused("sub -t a/b -C 0");
    refused("sub -t a/b -q -1");
    refused("sub -t a/b -q 3");
    refused("sub -t a/b -F %z");
    refused("sub -t a/b -F %p -v");
}

#[test]
fn waits_are_seconds() {
    assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
    for text in ["-1", "x", "inf", "NaN", "1e30", ""] {
        assert!(seconds(text).is_err(), "{text:?}");
    }
}

#[test]
fn ping_repeats_nothing() {
    let Some(Command::Ping(args)) = command("ping -c 3 --timeout 0.5") else {
        panic!("not ping")
    };
    assert_eq!(args.count, Some(3));
    let options = args.options();
    assert_eq!((options.retry, options.retries), (Duration::from_millis(500), 0));
    refused("ping -C 0");
    refused("ping -p 0");
}

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("snipe").chain(line.split(' ')))
}

fn command(line: &str) -> Option<Command> {
    parse(line).unwrap_or_else(|error| panic!("{error}")).command
}

fn publish(flags: &str) -> PubArgs {
    match command(&format!("pub {flags}")) {
        Some(Command::Pub(args)) => args,
        other => panic!("{other:?} is not pub"),
    }
}

fn subscribe(flags: &str) -> SubArgs {
    match command(&format!("sub {flags}")) {
        Some(Command::Sub(args)) => args,
        other => panic!("{other:?} is not sub"),
    }
}

#[track_caller]
fn refused(line: &str) {
    match parse(line) {
        Ok(cli) => panic!("{line}: taken as {cli:?}"),
        Err(error) => assert_eq!(error.exit_code(), 2, "{line}"),
    }
}
