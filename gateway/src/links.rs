//! The radios of the configuration, opened: where datagrams go, and what each one counts.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use gateway_core::io::{Input, TxBatch};
use gateway_core::peer::LinkId;
use radio_adapters::driver::Driver;
use radio_adapters::raw::RawSerial;
use radio_adapters::regions::mhz;
use radio_adapters::serial::SerialLink;
use radio_adapters::settings::{Framing, LoraSettings, RawSettings};
use radio_adapters::stats::RadioStats;
use radio_adapters::udp::{AbsentUdpLink, OpenError, UdpConfig, UdpLink, UdpStats};
use radio_adapters::{LinkSender, line, xbee};
use tokio::sync::mpsc;

use crate::config::{Radio, RadioKind};

/// One link: where its datagrams go, and what it counts.
pub(crate) struct Link {
    /// What takes its datagrams.
    pub(crate) sender: LinkSender,
    /// Its name in the configuration.
    pub(crate) name: String,
    /// Its kind in the configuration.
    pub(crate) kind: &'static str,
    /// What the start says about it.
    pub(crate) description: String,
    /// UDP: port of its first address.
    pub(crate) port: Option<u16>,
    /// What it counts.
    pub(crate) stats: Stats,
    /// Datagrams of the output at hand.
    pub(crate) batch: TxBatch,
}

/// What a link counts.
pub(crate) enum Stats {
    /// On the network.
    Udp(Arc<UdpStats>),
    /// On a serial line.
    Serial(Arc<RadioStats>),
}

/// Opens every radio, or begins to: those on serial lines come up later, whenever they are there, and so do those on
/// the network whose addresses are not to be had yet.
///
/// # Errors
/// A radio on the network cannot be opened and is required, or never can be.
pub(crate) fn open(radios: &[Radio], inputs: &mpsc::Sender<Input>) -> anyhow::Result<Vec<Link>> {
    radios
        .iter()
        .enumerate()
        .map(|(at, radio)| {
            let link = LinkId(u16::try_from(at).context("too many radios")?);
            match &radio.kind {
                RadioKind::Udp(udp) => open_udp(radio, udp, link, inputs),
                RadioKind::Lora(_) | RadioKind::Xbee(_) | RadioKind::Serial(_) => {
                    open_serial(radio, link, inputs)
                }
            }
        })
        .collect()
}

fn open_udp(
    radio: &Radio,
    udp: &UdpConfig,
    id: LinkId,
    inputs: &mpsc::Sender<Input>,
) -> anyhow::Result<Link> {
    let link = match UdpLink::open(udp) {
        Ok(link) => link,
        Err(error) if error.may_pass() && !radio.required => {
            return Ok(absent_udp(radio, udp, error, id, inputs));
        }
        // The error says all there is; its source would say it again.
        Err(error) => {
            let name = &radio.name;
            let required = if error.may_pass() {
                format!(
                    "\n  radio.{name}.required = true; with false it would be tried again while the others work"
                )
            } else {
                String::new()
            };
            anyhow::bail!("radio {name} cannot be opened: {error}{required}");
        }
    };
    let mut description = format!(
        "{:<8} listening on {}",
        radio.name,
        listed(&link.local_addrs(), "/udp")
    );
    let port = link.local_addrs().first().map_or(0, SocketAddr::port);
    let joined = link.joined();
    if !joined.is_empty() {
        description += &format!(" (multicast {})", listed(&joined, ""));
    }
    let stats = link.stats();
    Ok(Link {
        sender: link.spawn(id, inputs.clone()),
        name: radio.name.clone(),
        kind: radio.kind.name(),
        description,
        port: Some(port),
        stats: Stats::Udp(stats),
        batch: TxBatch::default(),
    })
}

/// A radio on the network that will be there later.
fn absent_udp(
    radio: &Radio,
    udp: &UdpConfig,
    error: OpenError,
    id: LinkId,
    inputs: &mpsc::Sender<Input>,
) -> Link {
    let absent = AbsentUdpLink {
        name: radio.name.clone(),
        config: udp.clone(),
        error,
    };
    let (sender, stats) = absent.spawn(id, inputs.clone());
    Link {
        sender,
        name: radio.name.clone(),
        kind: radio.kind.name(),
        description: format!(
            "{:<8} not listening on {} yet: the log says why, and it is tried again",
            radio.name,
            listed(&udp.bind, "/udp")
        ),
        port: None,
        stats: Stats::Udp(stats),
        batch: TxBatch::default(),
    }
}

fn listed(addrs: &[SocketAddr], end: &str) -> String {
    let addrs: Vec<String> = addrs.iter().map(|addr| format!("{addr}{end}")).collect();
    addrs.join(" and ")
}

fn open_serial(radio: &Radio, id: LinkId, inputs: &mpsc::Sender<Input>) -> anyhow::Result<Link> {
    let (Some(port), Some(driver)) = (radio.kind.port(), driver(&radio.kind)?) else {
        anyhow::bail!("radio {} is on no serial line", radio.name);
    };
    let link = SerialLink {
        name: radio.name.clone(),
        port: port.clone(),
        driver,
    };
    let (sender, stats) = link.spawn(id, inputs.clone());
    Ok(Link {
        sender,
        name: radio.name.clone(),
        kind: radio.kind.name(),
        description: format!(
            "{:<8} {} {}",
            radio.name,
            port.path.display(),
            described(&radio.kind)
        ),
        port: None,
        stats: Stats::Serial(stats),
        batch: TxBatch::default(),
    })
}

/// What drives the modem of this radio; `None` for those on the network.
///
/// # Errors
/// The modem does not take its settings; `snipe check` refuses them before.
pub(crate) fn driver(kind: &RadioKind) -> anyhow::Result<Option<Box<dyn Driver>>> {
    Ok(match kind {
        RadioKind::Udp(_) => None,
        RadioKind::Lora(lora) => Some(line::driver(lora)?),
        RadioKind::Xbee(settings) => Some(xbee::driver(settings)),
        RadioKind::Serial(raw) => Some(Box::new(RawSerial::new(raw.clone()))),
    })
}

/// What a radio on a serial line is set up as, in a few words.
pub(crate) fn described(kind: &RadioKind) -> String {
    match kind {
        RadioKind::Udp(_) => "udp".to_owned(),
        RadioKind::Lora(lora) => described_lora(lora),
        RadioKind::Xbee(xbee) => format!("xbee, {} baud", xbee.port.baud),
        RadioKind::Serial(raw) => described_raw(raw),
    }
}

fn described_lora(lora: &LoraSettings) -> String {
    let modulation = &lora.modulation;
    let text = format!(
        "{} {} MHz SF{} {} kHz {} dBm",
        lora.driver.name(),
        mhz(lora.frequency_hz),
        modulation.spreading_factor,
        modulation.bandwidth_hz / 1000,
        lora.tx_power_dbm
    );
    match lora.duty_cycle_ppm {
        Some(ppm) => format!("{text}, at most {} % of the time", f64::from(ppm) / 1e4),
        None => text,
    }
}

fn described_raw(raw: &RawSettings) -> String {
    let framing = match raw.framing {
        Framing::LengthPrefix => "length-prefix",
        Framing::Slip => "slip",
        Framing::Cobs => "cobs",
        Framing::Hdlc => "hdlc",
        Framing::Kiss => "kiss",
    };
    match raw.air_rate {
        Some(rate) => format!("{framing}, {} baud, {rate} bit/s on the air", raw.port.baud),
        None => format!("{framing}, {} baud", raw.port.baud),
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    /// A radio on a port that is taken, and what has it.
    fn taken(required: bool) -> (Radio, UdpSocket) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let udp = UdpConfig {
            bind: vec![socket.local_addr().unwrap()],
            multicast: Vec::new(),
            interface: None,
            mtu: 1024,
        };
        let radio = Radio {
            name: "lan".into(),
            kind: RadioKind::Udp(udp),
            required,
            retry: None,
        };
        (radio, socket)
    }

    #[tokio::test]
    async fn radio_on_a_port_that_is_taken_comes_up_later() {
        let (radio, _socket) = taken(false);
        let (inputs, _core) = mpsc::channel(4);

        let links = open(&[radio], &inputs).unwrap();

        assert!(
            links[0]
                .description
                .starts_with("lan      not listening on 127.0.0.1:"),
            "{}",
            links[0].description
        );
        assert_eq!(
            links[0].port, None,
            "the client tools would find somebody else there"
        );
    }

    #[tokio::test]
    async fn one_that_is_required_ends_the_start_and_names_the_key() {
        let (radio, _socket) = taken(true);
        let (inputs, _core) = mpsc::channel(4);

        let error = open(&[radio], &inputs).err().unwrap().to_string();

        assert!(error.contains("key `bind` of the radio"), "{error}");
        assert!(error.contains("radio.lan.required = true"), "{error}");
    }

    #[tokio::test]
    async fn one_that_never_can_be_opened_ends_the_start_in_any_case() {
        let (mut radio, _socket) = taken(false);
        let RadioKind::Udp(udp) = &mut radio.kind else {
            unreachable!()
        };
        udp.bind = vec!["224.0.0.1:1883".parse().unwrap()];
        let (inputs, _core) = mpsc::channel(4);

        let error = open(&[radio], &inputs).err().unwrap().to_string();

        assert!(error.contains("it is a multicast group"), "{error}");
        assert!(!error.contains("required"), "{error}");
    }
}
