//! The kinds of lines there are.

use core::time::Duration;

use gateway_core::airtime::Lora;
use gateway_core::peer::LinkAddr;
use radio_adapters::driver::Driver;
use radio_adapters::raw::RawSerial;
use radio_adapters::settings::{
    Crc, Framing, LinkHeader, LoraDriver, LoraSettings, Metadata, PortSettings, RawSettings, XbeeSettings,
};
use radio_adapters::{line, xbee};
use snipe_sim::ether::{LoraTuning, Tuning};
use snipe_sim::modem::SimModem;
use snipe_sim::modem::framing as far;
use snipe_sim::modem::rak::rak4270::{Rak4270, Rak4270Config};
use snipe_sim::modem::rak::{Firmware, Rak3172, Rak3172Config};
use snipe_sim::modem::rn::{Rn, RnConfig, RnModel};
use snipe_sim::modem::rylr::{Rylr, RylrConfig, RylrModel};
use snipe_sim::modem::xbee::{Radio, Xbee, XbeeConfig};
use snipe_sim::sensor::{Carriage, Carrier, Header};

/// The node, where its address has eight octets.
const NODE: u64 = 0x0013_A200_40B0_0001;

/// A kind of line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    LengthPrefix,
    Slip,
    Cobs,
    Hdlc,
    Kiss,
    Xbee { api_mode: u8 },
    Rak3172,
    Rak4270,
    Rn2483,
    Rylr998,
    Rylr896,
}

impl Kind {
    /// What ends the noise before a frame.
    pub(crate) fn delimiter(self) -> &'static [u8] {
        match self {
            Kind::LengthPrefix => b"",
            Kind::Slip | Kind::Kiss => b"\xc0",
            Kind::Cobs => b"\x00",
            Kind::Hdlc => b"\x7e",
            // Its frames begin with a delimiter themselves.
            Kind::Xbee { .. } => b"",
            Kind::Rak3172 | Kind::Rak4270 | Kind::Rn2483 | Kind::Rylr998 | Kind::Rylr896 => b"\r\n",
        }
    }

    /// What ends it otherwise.
    pub(crate) fn silence(self) -> Duration {
        match self {
            Kind::LengthPrefix => Duration::from_millis(25),
            // Delimiters are not escaped, so one in the noise promises a frame that does not come.
            Kind::Xbee { api_mode: 1 } => Duration::from_millis(600),
            // It is told to listen after each frame, and what it answers may drown in noise: then it is told again.
            Kind::Rn2483 => Duration::from_secs(3),
            _ => Duration::ZERO,
        }
    }

    pub(crate) fn baud(self) -> u32 {
        match self {
            Kind::Rn2483 => 57_600,
            Kind::Xbee { .. } => 9_600,
            _ => 115_200,
        }
    }

    pub(crate) fn driver(self) -> Box<dyn Driver> {
        match self {
            Kind::LengthPrefix => self.raw(Framing::LengthPrefix),
            Kind::Slip => self.raw(Framing::Slip),
            Kind::Cobs => self.raw(Framing::Cobs),
            Kind::Hdlc => self.raw(Framing::Hdlc),
            Kind::Kiss => self.raw(Framing::Kiss),
            Kind::Xbee { api_mode } => xbee::driver(&XbeeSettings {
                port: self.port(),
                api_mode,
                mtu: None,
                last_hop_rssi: false,
            }),
            Kind::Rak3172 => self.lora(LoraDriver::Rak3172),
            Kind::Rak4270 => self.lora(LoraDriver::Rak4270),
            Kind::Rn2483 => self.lora(LoraDriver::Rn2483),
            Kind::Rylr998 => self.lora(LoraDriver::Rylr998),
            Kind::Rylr896 => self.lora(LoraDriver::Rylr896),
        }
    }

    /// The modem on the line, where there is one.
    pub(crate) fn modem(self) -> Option<Box<dyn SimModem>> {
        Some(match self {
            Kind::LengthPrefix | Kind::Slip | Kind::Cobs | Kind::Hdlc | Kind::Kiss => return None,
            Kind::Xbee { api_mode } => Box::new(Xbee::new(XbeeConfig {
                api_mode,
                ..XbeeConfig::new(Radio::Zigbee)
            })),
            Kind::Rak3172 => Box::new(Rak3172::new(Rak3172Config::new(Firmware::Rui5))),
            Kind::Rak4270 => Box::new(Rak4270::new(Rak4270Config {
                baud: self.baud(),
                factory: false,
                ok_when_sent: false,
            })),
            Kind::Rn2483 => Box::new(Rn::new(RnConfig::new(RnModel::Rn2483))),
            Kind::Rylr998 => Box::new(Rylr::new(RylrConfig::new(RylrModel::Rylr998))),
            Kind::Rylr896 => Box::new(Rylr::new(RylrConfig::new(RylrModel::Rylr896))),
        })
    }

    /// A datagram as a line without a modem carries it.
    pub(crate) fn on_the_line(self, datagram: &[u8]) -> Option<Vec<u8>> {
        let framing = match self {
            Kind::LengthPrefix => far::Framing::LengthPrefix,
            Kind::Slip => far::Framing::Slip,
            Kind::Cobs => far::Framing::Cobs,
            Kind::Hdlc => far::Framing::Hdlc,
            Kind::Kiss => far::Framing::Kiss,
            _ => return None,
        };
        Some(framing.encode(datagram))
    }

    /// A datagram as a node sends it.
    pub(crate) fn on_the_air(self, datagram: &[u8]) -> Vec<u8> {
        let carriage = match self {
            Kind::Xbee { .. } => Carriage::xbee(11, NODE, 0x1234),
            Kind::Rylr998 | Kind::Rylr896 => Carriage {
                tuning: tuning(),
                carrier: Carrier::Reyax { own: 5, gateway: 1 },
                header: Header::None,
            },
            _ => Carriage::radiohead(tuning(), 5),
        };
        carriage.encode(false, 0, datagram)
    }

    /// The node's address.
    pub(crate) fn node(self) -> LinkAddr {
        let xbee = NODE.to_be_bytes();
        let octets: &[u8] = match self {
            Kind::LengthPrefix | Kind::Slip | Kind::Cobs | Kind::Hdlc | Kind::Kiss => return LinkAddr::Wire,
            Kind::Xbee { .. } => &xbee,
            Kind::Rak3172 | Kind::Rak4270 | Kind::Rn2483 => &[5],
            Kind::Rylr998 | Kind::Rylr896 => &[0, 5],
        };
        LinkAddr::Radio(octets.iter().copied().collect())
    }

    /// What noise is made of until there are frames.
    pub(crate) fn sample(self) -> Vec<u8> {
        self.delimiter().to_vec()
    }

    fn port(self) -> PortSettings {
        PortSettings {
            path: "unused".into(),
            baud: self.baud(),
            hardware_flow: false,
            reopen_first: Duration::from_secs(1),
            reopen_max: Duration::from_secs(1),
        }
    }

    fn raw(self, framing: Framing) -> Box<dyn Driver> {
        Box::new(RawSerial::new(RawSettings {
            port: self.port(),
            framing,
            crc: Crc::None,
            header: LinkHeader::None,
            metadata: Metadata::None,
            fixed_prefix: Vec::new(),
            air_rate: None,
            mtu: 222,
            settle: Duration::ZERO,
            turnaround: Duration::ZERO,
            echo: false,
            duty_cycle_ppm: None,
        }))
    }

    fn lora(self, driver: LoraDriver) -> Box<dyn Driver> {
        let settings = LoraSettings {
            driver,
            port: self.port(),
            header: LinkHeader::RadioHead {
                address: 0,
                acks: false,
            },
            frequency_hz: 868_100_000,
            modulation: Lora {
                spreading_factor: 7,
                bandwidth_hz: 125_000,
                coding_rate: 5,
                preamble: driver.abilities().preamble,
            },
            sync_word: 0x12,
            tx_power_dbm: 14,
            network_id: if driver == LoraDriver::Rylr896 { 6 } else { 18 },
            address: 1,
            turnaround: Duration::from_millis(20),
            ask_signal: false,
            mtu: None,
            duty_cycle_ppm: None,
        };
        line::driver(&settings).expect("settings that the modem can have")
    }
}

/// Nobody looks at it: the node's frames reach the modem in any case.
fn tuning() -> Tuning {
    Tuning::Lora(LoraTuning {
        frequency_hz: 868_100_000,
        spreading_factor: 7,
        bandwidth_hz: 125_000,
        coding_rate: 5,
        preamble: 8,
        sync: 0x1424,
        inverted_iq: false,
    })
}
