//! REYAX RYLR998 and RYLR498, RYLR896 and RYLR406.
//!
//! They have addresses of their own, and take text only: datagrams go as base64 without padding. What they receive is
//! told with its length, and may hold line ends. Nothing says when something was sent.

use core::time::Duration;

use super::dialect::{BeforeSend, Completion, Cut, Dialect, Meaning, Otherwise, Reception, Step, Table};
use super::text::{base64, from_base64, number, snr};
use crate::settings::{LoraDriver, LoraSettings};

/// Characters that `AT+SEND` takes.
const LONGEST_DATA: usize = 240;

const RECEIVED: &[u8] = b"+RCV=";

#[derive(Debug)]
struct Reyax {
    table: Table,
    /// Settings and their values, as they are set and read back.
    wanted: Vec<(&'static str, String)>,
}

pub(super) fn dialect(settings: &LoraSettings) -> Box<dyn Dialect> {
    let modulation = super::profile::modulation(settings);
    let bandwidth = match modulation.bandwidth_hz {
        500_000 => 9,
        250_000 => 8,
        _ => 7,
    };
    let wanted = vec![
        ("ADDRESS", settings.address.to_string()),
        ("NETWORKID", settings.network_id.to_string()),
        ("BAND", settings.frequency_hz.to_string()),
        (
            "PARAMETER",
            format!(
                "{},{bandwidth},{},{}",
                modulation.spreading_factor,
                modulation.coding_rate.saturating_sub(4),
                modulation.preamble
            ),
        ),
        ("CRFOP", settings.tx_power_dbm.to_string()),
    ];
    let name = match settings.driver {
        LoraDriver::Rylr896 => "RYLR896",
        _ => "RYLR998",
    };
    Box::new(Reyax {
        table: table(name, &wanted),
        wanted,
    })
}

fn table(name: &'static str, wanted: &[(&str, String)]) -> Table {
    let mut setup = vec![Step::may("AT+VER?"), Step::must("AT+MODE=0")];
    setup.extend(
        wanted
            .iter()
            .map(|(name, value)| Step::must(format!("AT+{name}={value}"))),
    );
    // Some take what they do not do.
    setup.extend(wanted.iter().map(|(name, _)| Step::must(format!("AT+{name}?"))));
    Table {
        name,
        identity: name.into(),
        firmware: String::new(),
        autobaud: false,
        caveat: None,
        probe: Step::must("AT"),
        setup,
        listen: Vec::new(),
        stop: Vec::new(),
        before_send: BeforeSend::Nothing,
        deaf_after_reception: false,
        deaf_after_send: false,
        signal: Vec::new(),
        completion: Completion::Airtime(Duration::from_millis(50)),
        reset: ("AT+RESET", Duration::from_secs(3)),
        // The frequency is not kept over a restart.
        check: vec![Step::must("AT+BAND?").or(Otherwise::SetUp)],
        daily: Vec::new(),
    }
}

impl Dialect for Reyax {
    fn table(&self) -> &Table {
        &self.table
    }

    fn send(&self, to: u16, octets: &[u8]) -> String {
        let data = base64(octets);
        format!("AT+SEND={to},{},{data}", data.len())
    }

    fn fits(&self, command: &str, value: &str) -> bool {
        let name = command.trim_start_matches("AT+").strip_suffix('?');
        let wanted = self.wanted.iter().find(|(wanted, _)| Some(*wanted) == name);
        wanted.is_none_or(|(_, wanted)| value == wanted)
    }

    fn learned(&mut self, command: &str, value: Option<&str>) {
        if let ("AT+VER?", Some(version)) = (command, value) {
            self.table.firmware = version.into();
        }
    }

    fn cut(&self, octets: &[u8]) -> Cut {
        cut(octets).unwrap_or(Cut::LineFeed)
    }

    fn read(&mut self, line: &[u8], asked: Option<&str>) -> Meaning {
        if line.starts_with(RECEIVED) {
            return received(line).unwrap_or(Meaning::Noise);
        }
        match line {
            b"+OK" => Meaning::Done,
            b"+READY" | b"+RESET" => Meaning::Started,
            // Something on the air was damaged; that has nothing to do with what we asked.
            b"+ERR=12" | b"+ERR=19" => Meaning::Damaged,
            b"+ERR=17" => Meaning::Busy,
            _ if line.starts_with(b"+ERR=") => Meaning::Refused,
            _ => value(line, asked).map_or(Meaning::Noise, Meaning::DoneWith),
        }
    }
}

/// `+NAME=value`, if `AT+NAME?` was asked.
fn value(line: &[u8], asked: Option<&str>) -> Option<String> {
    let name = asked?.strip_prefix("AT")?.strip_suffix('?')?;
    let value = str::from_utf8(line).ok()?.strip_prefix(name)?.strip_prefix('=')?;
    Some(value.into())
}

/// Where a reception ends: by its length, whatever stands in it. `None` is an ordinary line.
fn cut(octets: &[u8]) -> Option<Cut> {
    let start = octets
        .windows(RECEIVED.len())
        .position(|octets| octets == RECEIVED)?;
    if octets[..start].contains(&b'\n') {
        return None;
    }
    let head = match Head::parse(&octets[start..]) {
        Parsed::Head(head) => head,
        Parsed::More => return Some(Cut::More),
        Parsed::Nothing => return None,
    };
    let data_end = start + head.data + head.len;
    let Some(rest) = octets.get(data_end..) else {
        return Some(Cut::More);
    };
    match rest.first() {
        Some(b',') => {}
        Some(_) => return None,
        None => return Some(Cut::More),
    }
    // `,-120,-20` and the end of the line.
    match rest.iter().take(16).position(|octet| *octet == b'\n') {
        Some(end) => Some(Cut::At(start..data_end + end + 1)),
        None if rest.len() < 16 => Some(Cut::More),
        None => None,
    }
}

/// What stands before the data of a reception.
struct Head {
    from: u16,
    len: usize,
    /// Where the data begins.
    data: usize,
}

enum Parsed {
    Head(Head),
    /// It is incomplete.
    More,
    /// It is none.
    Nothing,
}

impl Head {
    fn parse(octets: &[u8]) -> Parsed {
        let head = &octets[RECEIVED.len()..];
        // Two numbers, of five and three digits, each with its comma.
        let Some(data) = head
            .iter()
            .take(10)
            .enumerate()
            .filter(|(_, octet)| **octet == b',')
            .nth(1)
        else {
            let digits = head.iter().all(|octet| octet.is_ascii_digit() || *octet == b',');
            return if digits && head.len() < 10 {
                Parsed::More
            } else {
                Parsed::Nothing
            };
        };
        let data = RECEIVED.len() + data.0 + 1;
        let numbers = str::from_utf8(&octets[RECEIVED.len()..data - 1]).ok();
        let numbers = numbers.and_then(|numbers| numbers.split_once(','));
        match numbers.map(|(from, len)| (from.parse(), len.parse())) {
            Some((Ok(from), Ok(len))) if len <= LONGEST_DATA => Parsed::Head(Head { from, len, data }),
            _ => Parsed::Nothing,
        }
    }
}

fn received(line: &[u8]) -> Option<Meaning> {
    let Parsed::Head(head) = Head::parse(line) else {
        return None;
    };
    let data = line.get(head.data..head.data + head.len)?;
    let signal = str::from_utf8(line.get(head.data + head.len + 1..)?).ok()?;
    let (rssi, noise) = signal.split_once(',')?;
    let reception = |octets| {
        Meaning::Received(Reception {
            from: Some(head.from),
            rssi_dbm: number(rssi),
            snr_db: snr(noise),
            octets,
        })
    };
    Some(from_base64(data).map_or(Meaning::Foreign, reception))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reception_is_read_by_its_length() {
        // As the module's guide has it, with commas, with a line end.
        let lines: [(&str, u16, &[u8]); 3] = [
            ("+RCV=50,5,HELLO,-99,40\r\n", 50, b"HELLO"),
            ("+RCV=7,9,a,b,-1,2,,-47,12\r\n", 7, b"a,b,-1,2,"),
            ("+RCV=7,4,a\r\nb,-47,12\r\n", 7, b"a\r\nb"),
        ];
        for (line, from, data) in lines {
            let octets = line.as_bytes();
            assert_eq!(cut(octets), Some(Cut::At(0..octets.len())));
            let Parsed::Head(head) = Head::parse(octets) else {
                panic!("{line} has no head");
            };
            assert_eq!(
                (head.from, &octets[head.data..head.data + head.len]),
                (from, data)
            );
            for part in RECEIVED.len()..octets.len() {
                assert_eq!(
                    cut(&octets[..part]),
                    Some(Cut::More),
                    "{line}, {part} octets of it"
                );
            }
        }
    }

    #[test]
    fn length_that_cannot_be_right_is_none() {
        for line in [
            "+RCV=7,241,a",
            "+RCV=7,x,a",
            "+RCV=70000,1,a",
            "+RCV=7,1,ab",
            "+RCV=1,2,ab,-1,-2345678901234567",
        ] {
            assert_eq!(cut(line.as_bytes()), None, "{line}");
        }
    }
}
