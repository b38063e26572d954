//! Settings that a modem does not take, and what a link can do.

use gateway_core::airtime::{Airtime, Payload};
use radio_adapters::line::{driver, profile};
use radio_adapters::settings::{LinkHeader, LoraDriver, LoraSettings};

use crate::bench::settings;

fn refused(modem: LoraDriver, change: fn(&mut LoraSettings)) -> String {
    let mut settings = settings(modem);
    change(&mut settings);
    driver(&settings).expect_err("it does not take them").to_string()
}

#[test]
fn impossible_settings_are_named_with_what_the_modem_takes() {
    use LoraDriver::{Rak3172, Rak4270, Rn2483, Rn2903, Rylr896, Rylr998};
    let table = [
        refused(Rn2483, |s| s.frequency_hz = 915_000_000),
        refused(Rn2903, |s| s.tx_power_dbm = 0),
        refused(Rak3172, |s| s.modulation.bandwidth_hz = 62_500),
        refused(Rak3172, |s| s.modulation.spreading_factor = 6),
        refused(Rak3172, |s| s.modulation.preamble = 4),
        refused(Rak3172, |s| s.modulation.coding_rate = 9),
        refused(Rak4270, |s| s.sync_word = 0x34),
        refused(Rylr998, |s| s.modulation.spreading_factor = 10),
        refused(Rylr998, |s| s.network_id = 17),
        refused(Rylr998, |s| s.address = 0),
        refused(Rylr896, |s| s.modulation.preamble = 12),
    ];
    assert_eq!(
        table,
        [
            "frequency = 915000000: the Microchip RN2483 takes 433050000 to 434790000 or 863000000 to 870000000",
            "tx_power_dbm = 0: the Microchip RN2903 takes 2 to 20 dBm",
            "bandwidth = 62500: the RAKwireless RAK3172 takes 125000, 250000 or 500000",
            "spreading_factor = 6: the RAKwireless RAK3172 takes 7 to 12 at 125 kHz",
            "preamble = 4: the RAKwireless RAK3172 takes 5 to 65535 symbols",
            "coding_rate = 4/9: the RAKwireless RAK3172 takes 4/5 to 4/8",
            "sync_word = 0x34: the RAKwireless RAK4270 takes its own only, which is 0x12",
            "spreading_factor = 10: the REYAX RYLR998 takes 7 to 9 at 125 kHz",
            "network_id = 17: the REYAX RYLR998 takes 3 to 15, or 18",
            "address = 0: the REYAX RYLR998 takes 1 to 65535: 0 is everyone",
            "preamble = 12: the REYAX RYLR896 takes 4 to 7 symbols",
        ]
    );
}

#[test]
fn every_modem_takes_its_own_defaults() {
    for (name, modem) in LoraDriver::ALL {
        assert!(driver(&settings(modem)).is_ok(), "{name}");
    }
}

#[test]
fn header_costs_octets_of_each_datagram() {
    let header = LinkHeader::RadioHead {
        address: 0,
        acks: false,
    };
    let settings = LoraSettings {
        header,
        ..settings(LoraDriver::Rn2483)
    };
    let profile = profile(&settings).unwrap();
    assert_eq!(
        (profile.mtu, profile.broadcast_mtu, profile.credit),
        (251, 251, 1)
    );
    let payload = Payload {
        overhead: 4,
        base64: false,
    };
    let modulation = settings.modulation;
    assert_eq!(profile.airtime, Airtime::Lora { modulation, payload });
}

#[test]
fn mtu_can_be_smaller_than_the_modems_but_not_larger() {
    for (wanted, given) in [(100, 100), (300, 239)] {
        let settings = LoraSettings {
            mtu: Some(wanted),
            ..settings(LoraDriver::Rak3172)
        };
        assert_eq!(profile(&settings).unwrap().mtu, given);
    }
}
