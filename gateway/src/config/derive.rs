//! Defaults of radios that depend on other values: what a modem is delivered as, what its region allows.

use core::time::Duration;

use gateway_core::airtime::{Lora, Payload};
use radio_adapters::modems;
use radio_adapters::regions::{Band, Region, Terms};
use radio_adapters::settings::{LinkHeader, LoraDriver};

use super::tree::{Table, Value};

/// What a gateway with a REYAX modem is called if nobody says: 0 would be everybody.
const ADDRESS: i64 = 1;

/// njh's serial bridge and others read lengths of one octet only.
const LENGTH_PREFIX_MTU: i64 = 255;
/// More than any radio behind a line carries; taste.
const SERIAL_MTU: i64 = 1024;
/// The largest packet of Ebyte modems, and what framing and checksum add to it.
const EBYTE_PACKET: i64 = 240;
const FRAMING_OCTETS: i64 = 4;

/// The smallest wait for an acknowledgement that makes sense on the air: time for the exchange six times over, since
/// the answer may have to queue, and two seconds for modems and serial lines.
const ROUND_TRIPS: u32 = 6;
const MODEM_TIME: Duration = Duration::from_secs(2);

/// Octets of a PUBLISH of usual size, and of a PUBACK.
pub(super) const PUBLISH_OCTETS: usize = 27;
pub(super) const PUBACK_OCTETS: usize = 7;

/// Puts in what radios leave out.
pub(super) fn radios(root: &mut Table) {
    for radio in root.tables_mut("radio") {
        match radio.text("kind") {
            Some("lora") => lora(radio),
            Some("serial") => serial(radio),
            _ => {}
        }
    }
}

fn lora(radio: &mut Table) {
    let (Some(driver), Some(region)) = (driver(radio), region(radio)) else {
        return;
    };
    let abilities = driver.abilities();
    if let Some(baud) = abilities.bauds.first() {
        number(radio, "baud", i64::from(*baud));
    }
    if let Some(network) = driver.network_id_delivered() {
        number(radio, "network_id", i64::from(network));
        number(radio, "address", ADDRESS);
    }
    number(radio, "bandwidth", i64::from(region.default.bandwidth_hz));
    let (least, most) = abilities.power_dbm;
    let power = region.default.tx_power_dbm.clamp(least, most);
    number(radio, "tx_power_dbm", i64::from(power));
    if let Some(frequency) = region.default.frequency_hz {
        number(radio, "frequency", i64::from(frequency));
    }
    if let Some(ppm) = terms(radio).and_then(|(_, terms)| terms.duty_cycle_ppm) {
        let share = f64::from(ppm) / 1e6;
        radio.derive("duty_cycle", Value::Float(share), &share.to_string());
    }
    if let Some(most) = datagram_max(radio) {
        number(radio, "mtu", i64::try_from(most).unwrap_or(i64::MAX));
    }
}

fn serial(radio: &mut Table) {
    let most = if radio.integer("air_rate").is_some() {
        let prefix = radio.text("fixed_prefix").map_or(0, |hex| hex.len() as i64 / 2);
        let header = match radio.text("header") {
            Some("radiohead") => i64::from(modems::RADIOHEAD_OCTETS),
            _ => 0,
        };
        EBYTE_PACKET - prefix - FRAMING_OCTETS - header
    } else if radio.text("framing") == Some("length-prefix") {
        LENGTH_PREFIX_MTU
    } else {
        SERIAL_MTU
    };
    number(radio, "mtu", most);
}

fn number(radio: &mut Table, key: &str, number: i64) {
    radio.derive(key, Value::Integer(number), &number.to_string());
}

/// The driver of a LoRa radio, if this version has it.
pub(super) fn driver(radio: &Table) -> Option<LoraDriver> {
    LoraDriver::named(radio.text("driver")?)
}

/// The region of a LoRa radio.
pub(super) fn region(radio: &Table) -> Option<&'static Region> {
    Region::named(radio.text("region")?)
}

/// How nodes are told apart on a LoRa or serial radio.
pub(super) fn header(radio: &Table) -> LinkHeader {
    match radio.text("header") {
        Some("radiohead") => LinkHeader::RadioHead {
            address: small(radio, "header_address"),
            acks: radio.bool("header_acks").unwrap_or_default(),
        },
        Some("forwarder") => LinkHeader::Forwarder,
        // On a wire frames of forwarders are told from others by themselves.
        Some(_) | None if radio.text("encapsulation") == Some("auto") => LinkHeader::Forwarder,
        Some(_) | None => LinkHeader::None,
    }
}

/// A number that the schema holds below 256.
fn small(radio: &Table, key: &str) -> u8 {
    radio
        .integer(key)
        .and_then(|number| u8::try_from(number).ok())
        .unwrap_or_default()
}

/// Carrier and bandwidth of a LoRa radio, in Hz.
pub(super) fn channel(radio: &Table) -> Option<(u32, u32)> {
    let hertz = |key| u32::try_from(radio.integer(key)?).ok();
    Some((hertz("frequency")?, hertz("bandwidth")?))
}

/// How a LoRa radio modulates; `None` where that has been reported.
pub(super) fn modulation(radio: &Table) -> Option<Lora> {
    let (_, bandwidth) = channel(radio)?;
    let spreading_factor = small(radio, "spreading_factor");
    if !(7..=12).contains(&spreading_factor) {
        return None;
    }
    let coding_rate = radio
        .text("coding_rate")
        .and_then(|rate| rate.strip_prefix("4/"))
        .and_then(|denominator| denominator.parse().ok())
        .unwrap_or(5);
    Some(modems::modulation(
        driver(radio)?,
        spreading_factor,
        bandwidth,
        coding_rate,
    ))
}

/// What a LoRa radio's driver and header put around a datagram.
pub(super) fn payload(radio: &Table) -> Option<Payload> {
    Some(driver(radio)?.payload(header(radio)))
}

/// The band of a LoRa radio's channel, and the terms for what it radiates.
pub(super) fn terms(radio: &Table) -> Option<(&'static Band, &'static Terms)> {
    let (frequency, bandwidth) = channel(radio)?;
    let band = region(radio)?.band(frequency, bandwidth)?;
    let power = radio.integer("tx_power_dbm")?;
    let gain = radio.float("antenna_gain_dbi")?;
    Some((band, band.terms_for(power as f64, gain)?))
}

/// The largest datagram that a LoRa radio's modem takes and its region allows.
pub(super) fn datagram_max(radio: &Table) -> Option<usize> {
    let by_modem = driver(radio)?.datagram_max(header(radio));
    let by_law = region(radio)?.datagram_max(&modulation(radio)?, payload(radio)?)?;
    Some(by_modem.min(by_law))
}

/// Time on air of a PUBLISH and of its PUBACK together.
pub(super) fn exchange(radio: &Table) -> Option<Duration> {
    let (modulation, payload) = (modulation(radio)?, payload(radio)?);
    let of = |octets| modulation.time_on_air(payload.len(octets));
    Some(of(PUBLISH_OCTETS) + of(PUBACK_OCTETS))
}

/// The shortest first wait for an acknowledgement that makes sense on a LoRa radio.
pub(super) fn retry_least(radio: &Table) -> Option<Duration> {
    let least = exchange(radio)? * ROUND_TRIPS + MODEM_TIME;
    Some(Duration::from_secs(
        least.as_secs() + u64::from(least.subsec_nanos() > 0),
    ))
}
