//! What an XBee remembers: parameters by two-letter name.

use std::collections::BTreeMap;

use super::{Radio, XbeeConfig};

/// The name of a parameter or command.
pub(super) type Name = [u8; 2];

/// Status of an answer to an AT command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    /// 0.
    Ok = 0,
    /// 2: this firmware has no such command.
    InvalidCommand = 2,
    /// 3: the value is none for this parameter.
    InvalidParameter = 3,
}

#[derive(Debug, Clone)]
struct Parameter {
    value: Vec<u8>,
    /// The largest value; a parameter without one can only be read.
    limit: Option<u64>,
    /// Any text of up to 20 octets.
    text: bool,
}

/// Parameters as they are in force, as they are written and not yet applied, and as they were stored.
#[derive(Debug, Clone)]
pub(super) struct Registers {
    current: BTreeMap<Name, Parameter>,
    queued: Vec<(Name, Vec<u8>)>,
    stored: Vec<(Name, Vec<u8>)>,
    defaults: BTreeMap<Name, Parameter>,
}

impl Registers {
    /// As the module was configured before it was plugged in.
    pub(super) fn new(config: &XbeeConfig) -> Registers {
        let current = parameters(config);
        let factory = XbeeConfig {
            api_mode: 0,
            encrypted: false,
            coordinator: false,
            baud: 9600,
            node_identifier: " ".into(),
            ..config.clone()
        };
        let mut registers = Registers {
            defaults: parameters(&factory),
            stored: Vec::new(),
            queued: Vec::new(),
            current,
        };
        registers.store();
        registers
    }

    /// The value of a parameter, as it is answered.
    pub(super) fn read(&self, name: Name) -> Option<&[u8]> {
        self.current.get(&name).map(|parameter| &parameter.value[..])
    }

    /// The value of a parameter as a number, 0 if there is none.
    pub(super) fn number(&self, name: &Name) -> u64 {
        self.current
            .get(name)
            .map_or(0, |parameter| as_number(&parameter.value))
    }

    /// Sets a parameter, at once or when changes are applied.
    pub(super) fn write(&mut self, name: Name, value: &[u8], at_once: bool) -> Status {
        let Some(parameter) = self.current.get(&name) else {
            return Status::InvalidCommand;
        };
        let Some(value) = parameter.accept(value) else {
            return Status::InvalidParameter;
        };
        self.queued.push((name, value));
        if at_once {
            self.apply();
        }
        Status::Ok
    }

    /// Puts what was queued in force (AC).
    pub(super) fn apply(&mut self) {
        for (name, value) in core::mem::take(&mut self.queued) {
            self.set(name, value);
        }
    }

    /// Keeps what is in force over a restart (WR).
    pub(super) fn store(&mut self) {
        self.apply();
        self.stored = self
            .current
            .iter()
            .filter(|(_, parameter)| parameter.limit.is_some())
            .map(|(name, parameter)| (*name, parameter.value.clone()))
            .collect();
    }

    /// Factory settings are in force (RE).
    pub(super) fn restore_defaults(&mut self) {
        self.queued.clear();
        self.current = self.defaults.clone();
    }

    /// What was not stored is lost.
    pub(super) fn restart(&mut self) {
        self.queued.clear();
        for (name, value) in self.stored.clone() {
            self.set(name, value);
        }
    }

    /// Sets a parameter that the host can only read.
    pub(super) fn set_number(&mut self, name: Name, value: u64) {
        if let Some(parameter) = self.current.get_mut(&name) {
            let width = parameter.value.len();
            parameter.value = value.to_be_bytes()[8 - width..].to_vec();
        }
    }

    fn set(&mut self, name: Name, value: Vec<u8>) {
        if let Some(parameter) = self.current.get_mut(&name) {
            parameter.value = value;
        }
    }
}

impl Parameter {
    /// The value as it is kept, if it is one.
    fn accept(&self, value: &[u8]) -> Option<Vec<u8>> {
        let limit = self.limit?;
        if self.text {
            return (value.len() <= 20).then(|| value.to_vec());
        }
        if value.len() > 8 || as_number(value) > limit {
            return None;
        }
        let width = self.value.len();
        Some(as_number(value).to_be_bytes()[8 - width..].to_vec())
    }
}

fn as_number(value: &[u8]) -> u64 {
    value
        .iter()
        .fold(0, |number, octet| number << 8 | u64::from(*octet))
}

fn parameters(config: &XbeeConfig) -> BTreeMap<Name, Parameter> {
    let fixed = |value: &[u8]| Parameter {
        value: value.to_vec(),
        limit: None,
        text: false,
    };
    let number = |width: usize, value: u64, limit: u64| Parameter {
        value: value.to_be_bytes()[8 - width..].to_vec(),
        limit: Some(limit),
        text: false,
    };
    let address = config.address.to_be_bytes();
    let mut all = BTreeMap::from([
        (*b"AP", number(1, u64::from(config.api_mode), 2)),
        (*b"SH", fixed(&address[..4])),
        (*b"SL", fixed(&address[4..])),
        (*b"DH", number(4, 0, 0xFFFF_FFFF)),
        (*b"DL", number(4, 0, 0xFFFF_FFFF)),
        (*b"BD", number(4, baud_code(config.baud), 921_600)),
        (*b"EE", number(1, u64::from(config.encrypted), 1)),
        (*b"CE", number(1, u64::from(config.coordinator), 1)),
        (*b"AI", fixed(&[0xFF])),
        (*b"RO", number(1, 3, 0xFF)),
        (*b"GT", number(2, 1000, 0xFFFF)),
        (*b"CT", number(2, 100, 0xFFFF)),
        (*b"CC", number(1, u64::from(b'+'), 0xFF)),
        (*b"D6", number(1, 0, 5)),
        (*b"D7", number(1, 1, 7)),
        (*b"DB", fixed(&[0])),
        (
            *b"NI",
            Parameter {
                value: config.node_identifier.clone().into_bytes(),
                limit: Some(0),
                text: true,
            },
        ),
    ]);
    match config.radio {
        Radio::Zigbee => all.extend([
            (*b"VR", fixed(&[0x40, 0x5F])),
            (*b"HV", fixed(&[0x2E, 0x46])),
            (*b"AO", number(1, 0, 7)),
            (*b"ID", number(8, 0x1234, u64::MAX)),
            (*b"OP", fixed(&0x1234_u64.to_be_bytes())),
            (*b"OI", fixed(&[0x5A, 0x01])),
            (*b"MY", fixed(&[0, 0])),
            (*b"NH", number(1, 0x1E, 0xFF)),
            (*b"SP", number(2, 0x7D0, 0xAF0)),
            (*b"AR", number(1, 0xFF, 0xFF)),
            (*b"CH", fixed(&[0x0F])),
            // One fragmented message, not one packet.
            (*b"NP", fixed(&[0, 0xFF])),
        ]),
        Radio::Ieee802154 => all.extend([
            (*b"VR", fixed(&[0x10, 0xEF])),
            (*b"HV", fixed(&[0x17, 0x4D])),
            (*b"ID", number(2, 0x3332, 0xFFFF)),
            (*b"MY", number(2, 0xFFFF, 0xFFFF)),
            (*b"MM", number(1, 0, 3)),
            (*b"RR", number(1, 0, 6)),
            (*b"CH", number(1, 0x0C, 0x1A)),
            (*b"NP", fixed(&[0, if config.encrypted { 95 } else { 100 }])),
        ]),
        Radio::DigiMesh => all.extend([
            (*b"VR", fixed(&[0x90, 0x07])),
            (*b"HV", fixed(&[0x2E, 0x46])),
            (*b"AO", number(1, 0, 7)),
            (*b"ID", number(2, 0x7FFF, 0xFFFF)),
            (*b"NH", number(1, 7, 32)),
            (*b"SP", number(4, 200, 1_440_000)),
            (*b"CH", number(1, 0x0C, 0x1A)),
            (*b"NP", fixed(&[0, 73])),
        ]),
    }
    all
}

const BAUDS: [u32; 9] = [1200, 2400, 4800, 9600, 19_200, 38_400, 57_600, 115_200, 230_400];

/// The number of a standard speed, or the speed itself.
fn baud_code(baud: u32) -> u64 {
    let code = BAUDS.iter().position(|standard| *standard == baud);
    code.map_or(u64::from(baud), |code| code as u64)
}

/// The speed that BD stands for.
pub(super) fn baud_of(code: u64) -> u32 {
    let standard = usize::try_from(code).ok().and_then(|code| BAUDS.get(code));
    standard.copied().unwrap_or(code as u32)
}
