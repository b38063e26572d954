//! Asking a modem what it is.

use core::time::Duration;
use std::io;

use gateway_core::time::Instant;
use tokio::time;

use super::line::{Happened, Line};
use super::port::PortError;
use crate::driver::{Driver, DriverOutput, Report};
use crate::settings::PortSettings;
use crate::stats::Identity;

/// What a modem said when it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probed {
    /// What it is.
    pub identity: Identity,
    /// What does not work as it should.
    pub degraded: Vec<String>,
}

/// A modem cannot be asked what it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// The port cannot be opened.
    #[error(transparent)]
    Port(#[from] PortError),
    /// The port went away while the modem was set up.
    #[error("the port went away: {0}")]
    Gone(io::Error),
    /// The modem does not take its configuration: what it refused, and what to change.
    #[error("{0}")]
    Refused(String),
    /// Nothing came in time.
    #[error(
        "the modem did not answer within {}s: check its power, its wiring (are TX and RX crossed?) and `baud`",
        .0.as_secs_f32()
    )]
    Silent(Duration),
    /// Something came in time, but nothing that the driver understands.
    #[error(
        "no answer within {}s, but {octets} octets that are none{}: is `baud` right, and is it this kind of modem?",
        .timeout.as_secs_f32(),
        .text.as_ref().map_or_else(String::new, |text| format!(", among them \"{text}\""))
    )]
    Gibberish {
        /// How long it was waited.
        timeout: Duration,
        /// How many octets came.
        octets: usize,
        /// The first line of text among them.
        text: Option<String>,
    },
}

/// So much of what a modem says is looked at for text.
const HEARD_MAX: usize = 512;

/// A line of at least so many printable characters is no noise: of random octets one in 400 is.
const TEXT_LEAST: usize = 6;

/// More than this of a line says nothing more.
const TEXT_MAX: usize = 40;

/// Opens the port, sets up the modem and says what it is; the port is closed again.
///
/// # Errors
/// The port cannot be opened, the modem refuses its configuration, or does not answer for so long.
///
/// # Panics
/// Outside of a Tokio runtime with I/O and time enabled.
pub async fn probe(
    port: &PortSettings,
    mut driver: Box<dyn Driver>,
    timeout: Duration,
) -> Result<Probed, ProbeError> {
    let mut line = Line::open(port).await?;
    let start = time::Instant::now();
    let now = || Instant::from_micros(start.elapsed().as_micros() as u64);
    let mut found = Found::default();
    let mut octets = 0;
    let mut heard = Vec::new();
    driver.opened(now());
    let result = loop {
        if found.take_outputs(driver.as_mut(), &mut line) {
            break found.into_result();
        }
        line = match line.settle().await {
            Ok(line) => line,
            Err((broken, error)) => {
                line = broken;
                break Err(ProbeError::Gone(error));
            }
        };
        let end = start + timeout;
        let wanted = driver
            .poll_timeout()
            .map(|at| start + Duration::from_micros(at.as_micros()));
        let deadline = [wanted, line.deadline()]
            .into_iter()
            .flatten()
            .fold(end, time::Instant::min);
        match time::timeout_at(deadline, line.next()).await {
            Ok(Happened::Read(len)) => {
                octets += len;
                let read = line.read(len);
                heard.extend(read.iter().take(HEARD_MAX - heard.len()));
                driver.received(now(), read);
            }
            Ok(Happened::Wrote(_)) => {}
            Ok(Happened::Gone(error)) => break Err(ProbeError::Gone(error)),
            Err(_) => {}
        }
        if time::Instant::now() >= end {
            break Err(match octets {
                0 => ProbeError::Silent(timeout),
                octets => ProbeError::Gibberish {
                    timeout,
                    octets,
                    text: first_text(&heard),
                },
            });
        }
        if wanted.is_some_and(|at| at <= time::Instant::now()) {
            driver.handle_timeout(now());
        }
    };
    line.close().await;
    result
}

/// The first line of text.
fn first_text(heard: &[u8]) -> Option<String> {
    let mut lines = heard.split(|octet| b"\r\n".contains(octet));
    let printable = |octet: &u8| octet.is_ascii_graphic() || *octet == b' ';
    let line = lines.find(|line| line.len() >= TEXT_LEAST && line.iter().all(printable))?;
    Some(
        line.iter()
            .take(TEXT_MAX)
            .map(|octet| char::from(*octet))
            .collect(),
    )
}

#[derive(Debug, Default)]
struct Found {
    identity: Option<Identity>,
    degraded: Vec<String>,
    refused: Option<String>,
}

impl Found {
    /// Carries out what the driver wants; true when it knows what there is to know.
    fn take_outputs(&mut self, driver: &mut dyn Driver, line: &mut Line) -> bool {
        while let Some(output) = driver.poll_output() {
            match output {
                DriverOutput::Write(octets) => line.write(octets),
                DriverOutput::SetBaud(baud) => line.set_baud(baud),
                DriverOutput::Break(millis) => line.send_break(Duration::from_millis(millis.into())),
                DriverOutput::Report(Report::Ready { identity, firmware }) => {
                    self.identity = Some(Identity { identity, firmware });
                }
                DriverOutput::Report(Report::Refused(reason)) => self.refused = Some(reason),
                DriverOutput::Report(Report::Degraded(reason)) => self.degraded.push(reason),
                // There is no core, and opening the port again would not make the modem speak.
                DriverOutput::Report(_)
                | DriverOutput::Received { .. }
                | DriverOutput::Link(_)
                | DriverOutput::Reopen => {}
            }
        }
        self.identity.is_some() || self.refused.is_some()
    }

    fn into_result(self) -> Result<Probed, ProbeError> {
        match (self.identity, self.refused) {
            (_, Some(reason)) => Err(ProbeError::Refused(reason)),
            (identity, None) => Ok(Probed {
                identity: identity.unwrap_or_default(),
                degraded: self.degraded,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_modem_says_is_quoted_and_noise_is_not() {
        assert_eq!(
            first_text(b"\xf3\x80\r\nAT_COMMAND_NOT_FOUND\r\n").as_deref(),
            Some("AT_COMMAND_NOT_FOUND")
        );
        assert_eq!(first_text(b"\r\nOK\r\n\xfe\x90ab\x01cdefgh"), None);
        let long = [b'x'; 100];
        assert_eq!(first_text(&long).unwrap().len(), TEXT_MAX);
        let error = ProbeError::Gibberish {
            timeout: Duration::from_secs(20),
            octets: 22,
            text: first_text(b"ERROR: 1 "),
        };
        assert_eq!(
            error.to_string(),
            "no answer within 20s, but 22 octets that are none, among them \"ERROR: 1 \": is `baud` right, and is it this \
             kind of modem?"
        );
    }
}
