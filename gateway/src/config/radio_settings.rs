//! From the checked values of a `[[radio]]` to the settings of its adapter.

use std::net::SocketAddr;

use gateway_core::config::{LinkSettings, Retry};
use radio_adapters::settings::{
    Crc, Framing, LoraSettings, Metadata, PortSettings, RawSettings, XbeeSettings,
};
use radio_adapters::udp::UdpConfig;

use super::{
    derive,
    settings::{Radio, RadioKind},
    tree::Table,
};

/// The radio; `None` for kinds that this version does not drive, and where something has been reported.
pub(super) fn radio(root: &Table, radio: &Table) -> Option<Radio> {
    let kind = match radio.text("kind")? {
        "udp" => RadioKind::Udp(udp(radio)?),
        "lora" => RadioKind::Lora(lora(radio)?),
        "xbee" => RadioKind::Xbee(xbee(radio)?),
        "serial" => RadioKind::Serial(serial(radio)?),
        // Warned about where the kind stands.
        _ => return None,
    };
    Some(Radio {
        name: radio.text("name")?.to_owned(),
        kind,
        required: radio.bool("required").unwrap_or_default(),
        retry: retry(root, radio),
    })
}

fn udp(radio: &Table) -> Option<UdpConfig> {
    let addresses = |key| {
        radio
            .addresses(key)
            .map(|(address, _)| address)
            .collect::<Vec<SocketAddr>>()
    };
    Some(UdpConfig {
        bind: addresses("bind"),
        multicast: addresses("multicast"),
        interface: radio.text("interface").map(str::to_owned),
        mtu: integer(radio, "mtu")?,
    })
}

/// The settings of a LoRa modem; `None` where something has been reported.
pub(super) fn lora(radio: &Table) -> Option<LoraSettings> {
    let (frequency_hz, _) = derive::channel(radio)?;
    Some(LoraSettings {
        driver: derive::driver(radio)?,
        port: port(radio)?,
        header: derive::header(radio),
        frequency_hz,
        modulation: derive::modulation(radio)?,
        sync_word: integer(radio, "sync_word")?,
        tx_power_dbm: integer(radio, "tx_power_dbm")?,
        network_id: integer(radio, "network_id").unwrap_or_default(),
        address: integer(radio, "address").unwrap_or_default(),
        turnaround: radio.duration("turnaround")?,
        ask_signal: radio.bool("ask_signal")?,
        mtu: integer(radio, "mtu"),
        duty_cycle_ppm: duty_cycle_ppm(radio),
    })
}

fn xbee(radio: &Table) -> Option<XbeeSettings> {
    Some(XbeeSettings {
        port: port(radio)?,
        api_mode: integer(radio, "api_mode")?,
        mtu: integer(radio, "mtu"),
        last_hop_rssi: radio.bool("last_hop_rssi")?,
    })
}

fn serial(radio: &Table) -> Option<RawSettings> {
    Some(RawSettings {
        port: port(radio)?,
        framing: match radio.text("framing")? {
            "length-prefix" => Framing::LengthPrefix,
            "slip" => Framing::Slip,
            "hdlc" => Framing::Hdlc,
            "kiss" => Framing::Kiss,
            _ => Framing::Cobs,
        },
        crc: match radio.text("crc")? {
            "crc16-x25" => Crc::X25,
            "crc16-xmodem" => Crc::Xmodem,
            _ => Crc::None,
        },
        header: derive::header(radio),
        metadata: match radio.text("metadata")? {
            "rssi" => Metadata::RssiBefore,
            "rssi-after" => Metadata::RssiAfter,
            _ => Metadata::None,
        },
        fixed_prefix: radio.text("fixed_prefix").map_or(Some(Vec::new()), octets)?,
        air_rate: integer(radio, "air_rate"),
        mtu: integer(radio, "mtu")?,
        settle: radio.duration("settle")?,
        turnaround: radio.duration("turnaround")?,
        echo: radio.bool("echo")?,
        duty_cycle_ppm: duty_cycle_ppm(radio),
    })
}

fn port(radio: &Table) -> Option<PortSettings> {
    Some(PortSettings {
        path: radio.text("port")?.into(),
        baud: integer(radio, "baud")?,
        hardware_flow: radio.bool("hardware_flow")?,
        reopen_first: radio.duration("reopen.first")?,
        reopen_max: radio.duration("reopen.max")?,
    })
}

/// Waits for acknowledgements on this radio; `None` where they are those of all radios.
fn retry(root: &Table, radio: &Table) -> Option<Retry> {
    let everywhere = root.duration("timers.retry.first")?;
    let longer = derive::retry_least(radio).filter(|least| *least > everywhere);
    if radio.node("retry").is_none() && longer.is_none() {
        return None;
    }
    let first = radio.duration("retry.first").or(longer).unwrap_or(everywhere);
    let max = radio
        .duration("retry.max")
        .or(root.duration("timers.retry.max"))?;
    let count = integer(radio, "retry.count").or_else(|| integer(root, "timers.retry.count"))?;
    Some(Retry {
        first,
        max: max.max(first),
        count,
    })
}

/// What the core must know of each radio; nothing if none has anything of its own.
pub(super) fn links(radios: &[Radio]) -> Vec<LinkSettings> {
    if radios.iter().all(|radio| radio.retry.is_none()) {
        return Vec::new();
    }
    let link = |radio: &Radio| LinkSettings { retry: radio.retry };
    radios.iter().map(link).collect()
}

fn duty_cycle_ppm(radio: &Table) -> Option<u32> {
    let share = radio.float("duty_cycle")?;
    // The whole time is no limit.
    (share < 1.0).then_some((share * 1e6).floor() as u32)
}

/// The octets of a text in hex; `None` if it is not one.
pub(super) fn octets(hex: &str) -> Option<Vec<u8>> {
    let digits: Vec<u32> = hex.chars().map(|c| c.to_digit(16)).collect::<Option<_>>()?;
    let pairs = digits.chunks(2);
    pairs
        .map(|pair| match pair {
            [high, low] => u8::try_from(high << 4 | low).ok(),
            _ => None,
        })
        .collect()
}

fn integer<T: TryFrom<i64>>(table: &Table, key: &str) -> Option<T> {
    T::try_from(table.integer(key)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_is_read_in_pairs() {
        assert_eq!(octets("ffFF12"), Some(vec![0xff, 0xff, 0x12]));
        assert_eq!(octets(""), Some(vec![]));
        assert_eq!(octets("fff"), None);
        assert_eq!(octets("0x12"), None);
    }
}
