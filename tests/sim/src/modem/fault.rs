//! What goes wrong with modems and cables.

use core::fmt;
use core::str::FromStr;
use core::time::Duration;

/// Something that goes wrong with a modem or its line.
///
/// As text: `unplug=5s`, `reboot`, `hang`, `garbage=300`, `drop-reply`, `dup-event`, `split=on`, `slow=1200`, `slow=off`,
/// `busy=2s`, `lose-sent`, `bad-frame`, `stale-error`, `race-stop`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Its plug is pulled and put back after so long; it has no power in between.
    Unplug(Duration),
    /// It starts again by itself, as after a dip of its supply.
    Reboot,
    /// It takes octets and does nothing, until it is unplugged or told to reboot.
    Hang,
    /// So many random octets reach the host.
    Garbage(usize),
    /// The next answer to a command does not reach the host.
    DropReply,
    /// The next line that the host did not ask for reaches it twice.
    DupEvent,
    /// Octets reach the host one by one, or as written.
    SplitWrites(bool),
    /// Octets pass at this pace, however fast the line is said to be; `None` ends it.
    Slow(Option<u32>),
    /// It says that it is busy for so long.
    Busy(Duration),
    /// Something that only modems of its kind do.
    Mishap(Mishap),
}

/// What modems do now and then, each kind in its own way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mishap {
    /// The next transmission never ends, as far as the host is told.
    LoseSent,
    /// A frame arrives with a wrong checksum.
    BadFrame,
    /// RN2483: the next answer to a command of the radio comes after an error that is none.
    StaleError,
    /// RN2483: the next frame is told at the moment when the host stops reception.
    RaceStop,
}

/// A text that names no fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FaultError(String);

impl fmt::Display for FaultError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} (one of unplug=5s, reboot, hang, garbage=300, drop-reply, dup-event, split=on|off, slow=1200|off, busy=2s, \
             lose-sent, bad-frame, stale-error, race-stop)",
            self.0
        )
    }
}

impl core::error::Error for FaultError {}

impl FromStr for Fault {
    type Err = FaultError;

    fn from_str(text: &str) -> Result<Fault, FaultError> {
        let text = text.trim();
        let wrong = |what: &str| FaultError(format!("{what} in {text:?}"));
        let (name, value) = match text.split_once(['=', ' ']) {
            Some((name, value)) => (name, Some(value.trim())),
            None => (text, None),
        };
        let needs = |what: &str| wrong(&format!("{name} needs {what}"));
        let time = || value.and_then(duration).ok_or_else(|| needs("a time"));
        let fault = match name {
            "unplug" => Fault::Unplug(time()?),
            "garbage" => {
                let octets = value.and_then(|value| value.parse().ok());
                Fault::Garbage(octets.ok_or_else(|| needs("a number of octets"))?)
            }
            "split" => match value {
                Some("on") => Fault::SplitWrites(true),
                Some("off") => Fault::SplitWrites(false),
                _ => return Err(needs("on or off")),
            },
            "slow" => match value {
                Some("off") => Fault::Slow(None),
                value => {
                    let pace = value
                        .and_then(|value| value.parse().ok())
                        .filter(|pace| *pace > 0);
                    Fault::Slow(Some(pace.ok_or_else(|| needs("a speed or off"))?))
                }
            },
            "busy" => Fault::Busy(time()?),
            _ if value.is_some() => return Err(wrong("no such fault with a value")),
            "reboot" => Fault::Reboot,
            "hang" => Fault::Hang,
            "drop-reply" => Fault::DropReply,
            "dup-event" => Fault::DupEvent,
            "lose-sent" => Fault::Mishap(Mishap::LoseSent),
            "bad-frame" => Fault::Mishap(Mishap::BadFrame),
            "stale-error" => Fault::Mishap(Mishap::StaleError),
            "race-stop" => Fault::Mishap(Mishap::RaceStop),
            _ => return Err(wrong("no such fault")),
        };
        Ok(fault)
    }
}

/// `500ms`, `5s`, `2m`, `1h`; at most 365 days.
fn duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let count: u64 = text[..digits].parse().ok()?;
    let millis = match &text[digits..] {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    let millis = count.checked_mul(millis)?;
    (millis <= 365 * 24 * 3_600_000).then(|| Duration::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read_from_text() {
        for (text, fault) in [
            ("unplug=5s", Fault::Unplug(Duration::from_secs(5))),
            ("unplug 500ms", Fault::Unplug(Duration::from_millis(500))),
            (" reboot ", Fault::Reboot),
            ("hang", Fault::Hang),
            ("garbage=300", Fault::Garbage(300)),
            ("split=on", Fault::SplitWrites(true)),
            ("slow=1200", Fault::Slow(Some(1200))),
            ("slow=off", Fault::Slow(None)),
            ("busy=2m", Fault::Busy(Duration::from_secs(120))),
            ("race-stop", Fault::Mishap(Mishap::RaceStop)),
        ] {
            assert_eq!(text.parse(), Ok(fault), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused_with_what_there_is() {
        for text in [
            "",
            "unplug",
            "unplug=5",
            "unplug=-5s",
            "unplug=99999999999999999999s",
            "unplug=9999999999h",
            "slow=0",
            "garbage=x",
            "split=maybe",
            "reboot=1",
            "explode",
        ] {
            let error = text.parse::<Fault>().expect_err(text).to_string();
            assert!(error.contains("one of unplug=5s"), "{error}");
        }
    }
}
