//! `snipe check --online`: whether what the configuration names is there, and what it says it is.
//!
//! Every radio is opened as `snipe run` would, every modem set up and asked what it is, the broker asked as the
//! gateway would connect. All at once, since a modem that is silent takes its time; told in the order of the
//! configuration, one line each.

use core::time::Duration;
use std::process::ExitCode;

use futures_util::future::join_all;
use radio_adapters::serial::{PortError, ProbeError, Probed, probe};
use radio_adapters::settings::PortSettings;
use radio_adapters::udp::{UdpConfig, UdpLink};

use crate::config::{Radio, RadioKind, Settings};
use crate::links;
use crate::run::{EXIT_NO_PERMISSION, EXIT_UNAVAILABLE};
use crate::which_broker;

/// How long a modem may take: one that has to start again needs seconds, an XBee is looked for at six speeds.
const PATIENCE: Duration = Duration::from_secs(20);

/// What was found.
struct Found {
    /// What was asked: a radio's name, or `broker`.
    what: String,
    verdict: Result<String, Failure>,
    /// What does not work as it should.
    doubts: Vec<String>,
}

/// Why something cannot be used.
struct Failure {
    text: String,
    no_permission: bool,
}

/// Asks everything. Exit code 0, 77 if a permission is missing, 69 if anything else is.
pub(crate) fn check(settings: &Settings) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("snipe: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let found = runtime.block_on(ask(settings));
    // A look-up of a name may still be under way.
    runtime.shutdown_background();
    tell(&found);
    ExitCode::from(code(&found))
}

/// What a missing permission asks for is another thing to do than what anything else does.
fn code(found: &[Found]) -> u8 {
    let failures = || found.iter().filter_map(|found| found.verdict.as_ref().err());
    if failures().any(|failure| failure.no_permission) {
        EXIT_NO_PERMISSION
    } else if failures().next().is_some() {
        EXIT_UNAVAILABLE
    } else {
        0
    }
}

async fn ask(settings: &Settings) -> Vec<Found> {
    let broker = async {
        let verdict = which_broker::ask(&settings.broker).await;
        Found {
            what: "broker".into(),
            verdict: verdict.map_err(failure),
            doubts: Vec::new(),
        }
    };
    let radios = join_all(settings.radios.iter().map(ask_radio));
    let (mut found, broker) = tokio::join!(radios, broker);
    found.push(broker);
    found
}

async fn ask_radio(radio: &Radio) -> Found {
    let mut doubts = Vec::new();
    let verdict = match (&radio.kind, radio.kind.port()) {
        (RadioKind::Udp(udp), _) => ask_udp(udp),
        (kind, Some(port)) => match ask_modem(kind, port).await {
            Ok(probed) => {
                let text = format!("{} {}", port.path.display(), modem(&probed));
                doubts = probed.degraded;
                Ok(text)
            }
            Err(failure) => Err(failure),
        },
        (_, None) => Err(failure("it has no port")),
    };
    Found {
        what: radio.name.clone(),
        verdict,
        doubts,
    }
}

fn ask_udp(udp: &UdpConfig) -> Result<String, Failure> {
    let link = UdpLink::open(udp).map_err(failure)?;
    let addresses: Vec<String> = link
        .local_addrs()
        .iter()
        .map(|address| format!("{address}/udp"))
        .collect();
    Ok(format!("{} can be listened on", addresses.join(" and ")))
}

async fn ask_modem(kind: &RadioKind, port: &PortSettings) -> Result<Probed, Failure> {
    let driver = links::driver(kind).map_err(failure)?;
    let driver = driver.ok_or_else(|| failure("it is on no serial line"))?;
    let probed = probe(port, driver, PATIENCE).await;
    probed.map_err(|error| not_asked(&error, port))
}

fn not_asked(error: &ProbeError, port: &PortSettings) -> Failure {
    Failure {
        no_permission: matches!(error, ProbeError::Port(PortError::Permission { .. })),
        text: match error {
            // These name the port themselves.
            ProbeError::Port(_) => error.to_string(),
            _ => format!("{}: {error}", port.path.display()),
        },
    }
}

fn modem(probed: &Probed) -> String {
    let identity = &probed.identity;
    match identity.firmware.as_str() {
        "" => identity.identity.clone(),
        firmware => format!("{}, firmware {firmware}", identity.identity),
    }
}

fn failure(text: impl ToString) -> Failure {
    Failure {
        text: text.to_string(),
        no_permission: false,
    }
}

fn tell(found: &[Found]) {
    let width = found
        .iter()
        .map(|found| found.what.chars().count())
        .max()
        .unwrap_or_default();
    for Found {
        what,
        verdict,
        doubts,
    } in found
    {
        match verdict {
            Ok(text) => println!("  {what:width$}  ok      {text}"),
            Err(failure) => println!("  {what:width$}  failed  {}", failure.text),
        }
        for doubt in doubts {
            println!("  {what:width$}  note    {doubt}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(verdict: Result<String, Failure>) -> Found {
        Found {
            what: "r".into(),
            verdict,
            doubts: Vec::new(),
        }
    }

    #[test]
    fn a_missing_permission_names_the_group_and_has_a_code_of_its_own() {
        let port = PortSettings {
            path: "/dev/ttyUSB0".into(),
            baud: 9600,
            hardware_flow: false,
            reopen_first: Duration::from_secs(1),
            reopen_max: Duration::from_secs(1),
        };
        let denied = ProbeError::Port(PortError::Permission {
            path: port.path.clone(),
            group: Some("dialout".into()),
        });
        let silent = ProbeError::Silent(PATIENCE);

        let failure = not_asked(&denied, &port);

        assert!(
            failure.text.starts_with("/dev/ttyUSB0: no permission;"),
            "{}",
            failure.text
        );
        assert!(failure.text.contains("usermod -aG dialout"), "{}", failure.text);
        let others = || found(Err(not_asked(&silent, &port)));
        assert_eq!(code(&[others(), found(Err(failure))]), 77);
        assert_eq!(code(&[found(Ok("here".into())), others()]), 69);
        assert_eq!(code(&[found(Ok("here".into()))]), 0);
        assert!(
            not_asked(&silent, &port)
                .text
                .starts_with("/dev/ttyUSB0: the modem did not answer within 20s")
        );
    }
}
