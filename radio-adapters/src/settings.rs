//! Settings of the radios on serial lines, as the configuration gives them.

use core::time::Duration;
use std::path::PathBuf;

use gateway_core::airtime::Lora;

/// A serial port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortSettings {
    /// Its device file; `/dev/serial/by-id/…` stays the same when it is plugged in again.
    pub path: PathBuf,
    /// Its speed, in bits a second.
    pub baud: u32,
    /// RTS and CTS are wired and used.
    pub hardware_flow: bool,
    /// Wait before the port is opened again.
    pub reopen_first: Duration,
    /// Each further wait is twice the last, up to this.
    pub reopen_max: Duration,
}

/// How nodes are told apart on links that do not do it themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkHeader {
    /// The four octets of the RadioHead library: to, from, id, flags.
    RadioHead {
        /// The gateway's own address.
        address: u8,
        /// Nodes use its reliable datagrams: each frame to us is acknowledged.
        acks: bool,
    },
    /// The specification's forwarder encapsulation (§5.5), which the core takes off.
    Forwarder,
    /// Nothing: one client on the channel.
    None,
}

/// A LoRa modem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoraSettings {
    /// Which modem.
    pub driver: LoraDriver,
    /// Where it is.
    pub port: PortSettings,
    /// How nodes are told apart; REYAX modems do it themselves and ignore it.
    pub header: LinkHeader,
    /// Carrier, in Hz.
    pub frequency_hz: u32,
    /// How it modulates; `preamble` is ours to set, but for REYAX modems outside network 18.
    pub modulation: Lora,
    /// 0x12 private, 0x34 public; REYAX modems derive it from `network_id`.
    pub sync_word: u8,
    /// Transmit power, in dBm.
    pub tx_power_dbm: i8,
    /// REYAX: the network.
    pub network_id: u8,
    /// REYAX: the gateway's address in it.
    pub address: u16,
    /// Wait after a reception before something is sent: nodes must switch to reception.
    pub turnaround: Duration,
    /// RN2483, RN2903: signal strength and noise are asked for after each reception; that takes some 20 ms, in which
    /// the modem hears nothing. The other modems tell them unasked.
    pub ask_signal: bool,
    /// The largest datagram, if it shall be smaller than what the modem takes.
    pub mtu: Option<usize>,
    /// Parts per million of an hour that may be used for transmissions; `None` is no limit.
    pub duty_cycle_ppm: Option<u32>,
}

/// The LoRa modems there are drivers for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LoraDriver {
    /// RAKwireless RAK3172 and others with RUI3.
    Rak3172,
    /// RAKwireless RAK4270 and RAK811.
    Rak4270,
    /// Microchip RN2483 (433 and 868 MHz).
    Rn2483,
    /// Microchip RN2903 (915 MHz).
    Rn2903,
    /// REYAX RYLR998 and RYLR498.
    Rylr998,
    /// REYAX RYLR896 and RYLR406.
    Rylr896,
}

/// An XBee in API mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct XbeeSettings {
    /// Where it is.
    pub port: PortSettings,
    /// 1 or 2: whether special octets are escaped. A modem found in the other mode is used as it is.
    pub api_mode: u8,
    /// The largest datagram, if it shall be other than one packet of the modem.
    pub mtu: Option<usize>,
    /// Zigbee and DigiMesh: ask the modem for the strength of each packet's last hop. It is told with the next packet
    /// of the same peer, and wrong where packets of several arrive at once.
    pub last_hop_rssi: bool,
}

/// MQTT-SN over a serial line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawSettings {
    /// Where it is.
    pub port: PortSettings,
    /// Where datagrams begin and end.
    pub framing: Framing,
    /// Whether they carry a checksum.
    pub crc: Crc,
    /// How nodes are told apart.
    pub header: LinkHeader,
    /// Where the modem puts the signal strength of a frame.
    pub metadata: Metadata,
    /// Octets put before each frame to the modem: Ebyte modems take address and channel there.
    pub fixed_prefix: Vec<u8>,
    /// The speed of the radio behind the line, in bits a second; `None` for a wire.
    pub air_rate: Option<u32>,
    /// The largest datagram.
    pub mtu: usize,
    /// Wait after the port was opened: an Arduino starts again then.
    pub settle: Duration,
    /// Wait after a reception before something is sent: RS-485 and half-duplex radios must turn round.
    pub turnaround: Duration,
    /// The line gives back what is sent to it, as RS-485 transceivers may; it is discarded.
    pub echo: bool,
    /// Parts per million of an hour that may be used for transmissions; `None` is no limit.
    pub duty_cycle_ppm: Option<u32>,
}

/// Signal strength that a modem adds to what it received: one octet, 256 less than that is dBm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Metadata {
    /// None.
    None,
    /// Inside the frame, before everything else.
    RssiBefore,
    /// Outside of the frame, after it: Ebyte modems with register REG3 bit 7 set.
    RssiAfter,
}

/// Where datagrams begin and end on a serial line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Framing {
    /// By MQTT-SN's own length field.
    LengthPrefix,
    /// RFC 1055.
    Slip,
    /// Consistent overhead byte stuffing, ended by 0x00.
    Cobs,
    /// RFC 1662, with its FCS-16.
    Hdlc,
    /// A terminal node controller's data frames.
    Kiss,
}

/// A checksum after each datagram, low octet first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Crc {
    /// None.
    None,
    /// CRC-16/X-25.
    X25,
    /// CRC-16/XMODEM.
    Xmodem,
}
