//! What a modem can do with its settings, and which settings it does not take.

use gateway_core::airtime::{Airtime, Lora};
use gateway_core::io::LinkProfile;

use crate::acks;
use crate::settings::{LinkHeader, LoraDriver, LoraSettings};

/// A setting that a modem does not take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key} = {value}: the {modem} takes {takes}")]
pub struct SettingsError {
    /// Which setting, by its name in configurations.
    pub key: &'static str,
    /// Its value.
    pub value: String,
    /// Which modem.
    pub modem: &'static str,
    /// What it takes.
    pub takes: String,
}

/// What the link can do once the modem is set up.
///
/// # Errors
/// The modem does not take a setting.
pub fn profile(settings: &LoraSettings) -> Result<LinkProfile, SettingsError> {
    check(settings)?;
    let most = settings.driver.datagram_max(settings.header);
    let mtu = settings.mtu.map_or(most, |mtu| mtu.min(most));
    Ok(LinkProfile {
        mtu,
        // Address 0xFF of the RadioHead header, address 0 of REYAX modems; without addresses everyone hears anyway.
        broadcast_mtu: mtu,
        confirms_tx: true,
        credit: 1,
        airtime: Airtime::Lora {
            modulation: modulation(settings),
            payload: settings.driver.payload(settings.header),
        },
        duty_cycle: acks::duty_cycle(link_header(settings), settings.duty_cycle_ppm),
    })
}

/// How the modem modulates: the preamble of a RYLR998 is its own outside of network 18.
pub(super) fn modulation(settings: &LoraSettings) -> Lora {
    let own = settings.driver == LoraDriver::Rylr998 && settings.network_id != 18;
    Lora {
        preamble: if own {
            settings.driver.abilities().preamble
        } else {
            settings.modulation.preamble
        },
        ..settings.modulation
    }
}

/// The header that is used: there is none where modems have addresses.
pub(super) fn link_header(settings: &LoraSettings) -> LinkHeader {
    if settings.driver.abilities().addresses {
        LinkHeader::None
    } else {
        settings.header
    }
}

fn check(settings: &LoraSettings) -> Result<(), SettingsError> {
    let driver = settings.driver;
    let abilities = driver.abilities();
    let refused = |key, value: String, takes: String| {
        Err(SettingsError {
            key,
            value,
            modem: abilities.title,
            takes,
        })
    };
    let modulation = modulation(settings);

    let bandwidth = modulation.bandwidth_hz;
    if !matches!(bandwidth, 125_000 | 250_000 | 500_000) {
        return refused(
            "bandwidth",
            bandwidth.to_string(),
            "125000, 250000 or 500000".into(),
        );
    }
    let sf = modulation.spreading_factor;
    let sf_max = driver.spreading_factor_max(bandwidth);
    if !(7..=sf_max).contains(&sf) {
        let takes = format!("7 to {sf_max} at {} kHz", bandwidth / 1000);
        return refused("spreading_factor", sf.to_string(), takes);
    }
    if !(5..=8).contains(&modulation.coding_rate) {
        let value = format!("4/{}", modulation.coding_rate);
        return refused("coding_rate", value, "4/5 to 4/8".into());
    }
    let (least, most) = preambles(settings);
    if !(least..=most).contains(&modulation.preamble) {
        let takes = format!("{least} to {most} symbols");
        return refused("preamble", modulation.preamble.to_string(), takes);
    }
    let (least, most) = abilities.power_dbm;
    if !(least..=most).contains(&settings.tx_power_dbm) {
        let takes = format!("{least} to {most} dBm");
        return refused("tx_power_dbm", settings.tx_power_dbm.to_string(), takes);
    }
    let frequency = settings.frequency_hz;
    let bands = abilities.frequencies;
    if !bands.is_empty() && !bands.iter().any(|(from, to)| (*from..=*to).contains(&frequency)) {
        let bands: Vec<_> = bands.iter().map(|(from, to)| format!("{from} to {to}")).collect();
        return refused("frequency", frequency.to_string(), bands.join(" or "));
    }
    if driver == LoraDriver::Rak4270 && settings.sync_word != 0x12 {
        let value = format!("{:#04x}", settings.sync_word);
        return refused("sync_word", value, "its own only, which is 0x12".into());
    }
    if abilities.addresses {
        if !driver.takes_network_id(settings.network_id) {
            let takes = match driver {
                LoraDriver::Rylr896 => "0 to 16",
                _ => "3 to 15, or 18",
            };
            return refused("network_id", settings.network_id.to_string(), takes.into());
        }
        // Whatever nodes send to 0 is received by all of them.
        if settings.address == 0 {
            return refused("address", "0".into(), "1 to 65535: 0 is everyone".into());
        }
    }
    Ok(())
}

fn preambles(settings: &LoraSettings) -> (u16, u16) {
    match settings.driver {
        LoraDriver::Rak3172 | LoraDriver::Rak4270 => (5, u16::MAX),
        LoraDriver::Rn2483 | LoraDriver::Rn2903 => (1, u16::MAX),
        LoraDriver::Rylr998 => (4, 24),
        LoraDriver::Rylr896 => (4, 7),
    }
}
