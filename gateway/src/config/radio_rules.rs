//! Rules of radios on serial lines: what no modem does, what no law allows, what the air has no room for.

use core::time::Duration;
use std::path::{Path, PathBuf};

use radio_adapters::line;
use radio_adapters::regions::{DIPOLE_DBI, Region, mhz};
use radio_adapters::settings::LoraDriver;

use super::{
    derive, radio_settings,
    report::Report,
    schema::radio_default,
    source::Place,
    tree::{Node, Table},
    units::show_duration,
};

/// Less than this carries no CONNECT with a client id of a usual length; taste.
const MTU_LEAST: usize = 16;

/// Fewer answers an hour than this are no gateway; taste.
const ACKNOWLEDGEMENTS_LEAST: u64 = 20;

/// Below this there is no radio that this version drives: it is MHz or kHz that somebody wrote.
const FREQUENCY_LEAST: i64 = 100_000_000;

/// Longest first wait for an acknowledgement, if the air needs more there is no use in it: §6.13 wants minutes at most.
const RETRY_SENSIBLE_MAX: Duration = Duration::from_secs(300);

/// Checks every radio on a serial line.
pub(super) fn check(root: &Table, reports: &mut Vec<Report>) {
    two_on_one_port(root, reports);
    for radio in root.tables("radio") {
        match radio.text("kind") {
            Some("lora") => {
                let before = reports.len();
                lora(radio, reports);
                if !reports[before..].iter().any(Report::is_error) {
                    refused_by_the_driver(radio, reports);
                }
            }
            Some("xbee") => xbee(radio, reports),
            Some("serial") => serial(radio, reports),
            _ => continue,
        }
        port(radio, reports);
    }
}

/// Whether `radio` is on a serial line.
pub(super) fn on_a_line(radio: &Table) -> bool {
    matches!(radio.text("kind"), Some("lora" | "xbee" | "serial"))
}

fn name(radio: &Table) -> &str {
    radio.text("name").unwrap_or_default()
}

/// The place of a key if somebody wrote it, else that of the radio.
fn place<'a>(radio: &'a Table, key: &str) -> &'a Place {
    radio
        .node(key)
        .map(|node| &node.place)
        .filter(|place| !place.is_default())
        .unwrap_or(&radio.place)
}

/// The key if somebody wrote it.
fn said<'a>(radio: &'a Table, key: &str) -> Option<&'a Node> {
    radio.node(key).filter(|node| !node.place.is_default())
}

fn two_on_one_port(root: &Table, reports: &mut Vec<Report>) {
    let mut taken: Vec<(PathBuf, &Node)> = Vec::new();
    for radio in root.tables("radio").iter().filter(|radio| on_a_line(radio)) {
        let (Some(port), Some(node)) = (radio.text("port"), radio.node("port")) else {
            continue;
        };
        // Two names of one device, if it is there now.
        let path = std::fs::canonicalize(port).unwrap_or_else(|_| Path::new(port).to_owned());
        match taken.iter().find(|(other, _)| *other == path) {
            Some((_, first)) => {
                let title = format!("two radios use the port {port}");
                let report = Report::error("duplicate-port", title, &node.place, "again here");
                reports.push(report.also(&first.place, "taken here"));
            }
            None => taken.push((path, node)),
        }
    }
}

fn port(radio: &Table, reports: &mut Vec<Report>) {
    if let (Some(""), Some(node)) = (radio.text("port"), radio.node("port")) {
        let title = format!("the port of radio `{}` is empty", name(radio));
        let help = "ls /dev/serial/by-id lists the ports there are";
        reports.push(Report::error("empty", title, &node.place, "here").help(help));
    }
    if let (Some(path), Some(node)) = (radio.text("port"), radio.node("port"))
        && looks_like_a_bare_name(path)
    {
        let title = format!("{path} is a file beside where the gateway is started, and no serial port");
        let help = if path.starts_with("tty") {
            format!("port = \"/dev/{path}\", or better what `ls -l /dev/serial/by-id` shows")
        } else {
            "ls -l /dev/serial/by-id lists the ports there are".to_owned()
        };
        reports.push(Report::warning("relative-port", title, &node.place, "no path").help(help));
    }
    if let (Some(first), Some(max)) = (radio.duration("reopen.first"), radio.duration("reopen.max"))
        && first > max
    {
        let key = if said(radio, "reopen.first").is_some() {
            "reopen.first"
        } else {
            "reopen.max"
        };
        let title = format!(
            "reopen.first ({}) is longer than reopen.max ({})",
            show_duration(first),
            show_duration(max)
        );
        reports.push(Report::error("out-of-order", title, place(radio, key), "here"));
    }
    if let (Some(first), Some(max)) = (radio.duration("retry.first"), radio.duration("retry.max"))
        && first > max
    {
        let title = "retry.first is longer than retry.max";
        let report = Report::error(
            "out-of-order",
            title,
            place(radio, "retry.first"),
            "the first wait",
        );
        reports.push(report.also(place(radio, "retry.max"), "the longest wait"));
    }
}

/// `ttyUSB0` or `COM3`: the name of a port without where it is.
fn looks_like_a_bare_name(path: &str) -> bool {
    let windows = |rest: &str| !rest.is_empty() && rest.bytes().all(|octet| octet.is_ascii_digit());
    !path.contains('/') && (path.starts_with("tty") || path.strip_prefix("COM").is_some_and(windows))
}

fn lora(radio: &Table, reports: &mut Vec<Report>) {
    if not_in_hertz(radio, reports) {
        return;
    }
    sync_word(radio, reports);
    if let (Some(word), Some(node)) = (radio.text("driver"), radio.node("driver"))
        && derive::driver(radio).is_none()
    {
        let title = format!("this version has no driver for {word} modems yet");
        let there: Vec<&str> = LoraDriver::ALL.iter().map(|(name, _)| *name).collect();
        let help = format!("there are: {}", there.join(", "));
        reports.push(Report::error("not-in-this-version", title, &node.place, "not yet").help(help));
    }
    let (Some(driver), Some(region)) = (derive::driver(radio), derive::region(radio)) else {
        return;
    };
    modem(radio, driver, reports);
    addresses(radio, driver, reports);
    spreading_factor(radio, driver, reports);
    if law_unknown(radio, region, reports) {
        return;
    }
    listen_before_talk(radio, region, driver, reports);
    if bandwidth(radio, region, reports) && frequency(radio, region, reports) {
        power(radio, region, reports);
        duty_cycle(radio, region, reports);
    }
    mtu(radio, region, driver, reports);
    retry(radio, reports);
}

/// True if it was reported.
fn not_in_hertz(radio: &Table, reports: &mut Vec<Report>) -> bool {
    let (Some(frequency), Some(node)) = (radio.integer("frequency"), radio.node("frequency")) else {
        return false;
    };
    if frequency >= FREQUENCY_LEAST {
        return false;
    }
    let title = format!(
        "radio.{}.frequency is in Hz: {frequency} Hz is too low",
        name(radio)
    );
    let report = Report::error("out-of-range", title, &node.place, "in Hz");
    let meant = [1_000_000, 1_000].into_iter().find_map(|unit| {
        let hertz = u32::try_from(frequency * unit).ok()?;
        (FREQUENCY_LEAST..=3_000_000_000)
            .contains(&hertz.into())
            .then_some(hertz)
    });
    let shown = meant.unwrap_or(868_100_000);
    reports.push(report.help(format!("for example frequency = {}", grouped(shown))));
    true
}

/// 12 and 34 are what manuals write for 0x12 and 0x34.
fn sync_word(radio: &Table, reports: &mut Vec<Report>) {
    let Some(node) = said(radio, "sync_word") else {
        return;
    };
    if let word @ ("12" | "34") = node.place.text() {
        let value = radio.integer("sync_word").unwrap_or_default();
        let title = format!("sync_word = {word} is {value:#04x}, for it is a decimal number");
        let report = Report::warning("decimal-sync-word", title, &node.place, "not hexadecimal");
        reports.push(report.help(format!("sync_word = 0x{word} is what manuals mean by {word}")));
    }
}

/// What no rule here knows and the driver does.
fn refused_by_the_driver(radio: &Table, reports: &mut Vec<Report>) {
    let Some(settings) = radio_settings::lora(radio) else {
        return;
    };
    if let Err(error) = line::profile(&settings) {
        let title = format!("a {} does not take {} = {}", error.modem, error.key, error.value);
        let report = Report::error("impossible-setting", title, place(radio, error.key), "not this");
        reports.push(report.help(format!("it takes {}", error.takes)));
    }
}

/// What the modem itself refuses.
fn modem(radio: &Table, driver: LoraDriver, reports: &mut Vec<Report>) {
    let abilities = driver.abilities();
    if let Some(baud) = radio.integer("baud")
        && !abilities.bauds.iter().any(|known| i64::from(*known) == baud)
    {
        let title = format!("a {} does not speak at {baud} baud", abilities.title);
        let known: Vec<String> = abilities.bauds.iter().map(u32::to_string).collect();
        let report = Report::error("impossible-baud", title, place(radio, "baud"), "not this");
        reports.push(report.help(format!(
            "it is delivered at {}; it can do {}",
            known.first().map_or("", String::as_str),
            known.join(", ")
        )));
    }
    if let Some((frequency, _)) = derive::channel(radio)
        && !abilities.frequencies.is_empty()
        && !abilities
            .frequencies
            .iter()
            .any(|(from, to)| (*from..=*to).contains(&frequency))
    {
        let ranges: Vec<String> = abilities
            .frequencies
            .iter()
            .map(|(from, to)| format!("{}–{} MHz", mhz(*from), mhz(*to)))
            .collect();
        let title = format!("{} MHz is out of reach of a {}", mhz(frequency), abilities.title);
        let at = if said(radio, "frequency").is_some() {
            "frequency"
        } else {
            "region"
        };
        let report = Report::error(
            "impossible-frequency",
            title,
            place(radio, at),
            "out of its range",
        );
        reports.push(report.help(format!("it tunes to {}", ranges.join(" and "))));
    }
    let (least, most) = abilities.power_dbm;
    if let Some(power) = radio.integer("tx_power_dbm")
        && !(i64::from(least)..=i64::from(most)).contains(&power)
    {
        let title = format!("a {} cannot transmit with {power} dBm", abilities.title);
        let report = Report::error(
            "impossible-power",
            title,
            place(radio, "tx_power_dbm"),
            "out of range",
        );
        reports.push(report.help(format!("it takes {least} to {most} dBm")));
    }
}

/// Keys of modems with addresses of their own, and of modems without.
fn addresses(radio: &Table, driver: LoraDriver, reports: &mut Vec<Report>) {
    let abilities = driver.abilities();
    let idle: &[&str] = if abilities.addresses {
        &["header", "header_address", "header_acks", "sync_word"]
    } else {
        &["network_id", "address"]
    };
    for key in idle {
        let default = radio_default("lora", key);
        // What the printed default says is no doubt.
        if let Some(node) = said(radio, key).filter(|node| default != Some(node.place.text())) {
            let title = format!("{key} means nothing to a {}", abilities.title);
            let help = if abilities.addresses {
                "it has addresses of its own, in the network of `network_id`, and derives the sync word from that"
            } else {
                "it has no addresses of its own: `header` tells nodes apart"
            };
            reports.push(Report::warning("no-effect", title, &node.place, "no effect").help(help));
        }
    }
    if !abilities.addresses {
        if radio.text("header") == Some("none") {
            let title = format!("radio `{}` cannot tell nodes apart", name(radio));
            let report = Report::warning(
                "one-client",
                title,
                place(radio, "header"),
                "one client on the channel",
            );
            reports.push(
                report.help("header = \"radiohead\" costs four octets and gives every node an address"),
            );
        }
        acks(radio, reports);
        return;
    }
    if let Some(id) = radio.integer("network_id")
        && u8::try_from(id).is_ok_and(|id| !driver.takes_network_id(id))
    {
        let title = format!("a {} has no network {id}", abilities.title);
        let report = Report::error(
            "impossible-network",
            title,
            place(radio, "network_id"),
            "not one of its networks",
        );
        reports.push(report.help(match driver {
            LoraDriver::Rylr896 => "it takes 0 to 16, and is delivered with 0",
            _ => "it takes 3 to 15, and 18, which is how it is delivered",
        }));
    }
    if let (Some(0), Some(node)) = (radio.integer("address"), radio.node("address")) {
        let title = "address 0 is everybody: every node would hear what another sends to the gateway";
        let report = Report::error("broadcast-address", title, &node.place, "not for a gateway");
        reports.push(report.help("address = 1 is the default; nodes learn it from GWINFO"));
    }
}

fn spreading_factor(radio: &Table, driver: LoraDriver, reports: &mut Vec<Report>) {
    let (Some(factor), Some((_, bandwidth))) = (radio.integer("spreading_factor"), derive::channel(radio))
    else {
        return;
    };
    let at = place(radio, "spreading_factor");
    if factor < 7 {
        let title = format!("spreading factor {factor} is not supported");
        let report = Report::error("impossible-modulation", title, at, "7 to 12");
        reports.push(
            report.help("5 and 6 are for SX126x chips among themselves, and need implicit headers on others"),
        );
        return;
    }
    let most = driver.spreading_factor_max(bandwidth);
    if factor > i64::from(most) {
        let title = format!(
            "a {} refuses spreading factor {factor} at {} kHz",
            driver.abilities().title,
            bandwidth / 1000
        );
        let mut report = Report::error(
            "impossible-modulation",
            title,
            at,
            format!("at most {most} there"),
        );
        if let Some(node) = said(radio, "bandwidth") {
            report = report.also(&node.place, "with this bandwidth");
        }
        reports.push(report.help("it takes 7 to 9 at 125 kHz, to 10 at 250 kHz, to 11 at 500 kHz"));
    }
}

/// The region that stands for none: somebody must know the law in its place.
fn law_unknown(radio: &Table, region: &Region, reports: &mut Vec<Report>) -> bool {
    if !region.bands.is_empty() {
        return false;
    }
    for (key, example) in [
        ("frequency", "frequency = 868_100_000"),
        ("duty_cycle", "duty_cycle = 0.01, or 1.0 for no limit"),
    ] {
        if radio.node(key).is_none() {
            let title = format!("region = \"other\" says nothing about `{key}`");
            let report = Report::error(
                "missing-field",
                title,
                place(radio, "region"),
                "its law is not known here",
            );
            reports.push(report.help(format!("for example {example}")));
        }
    }
    true
}

fn listen_before_talk(radio: &Table, region: &Region, driver: LoraDriver, reports: &mut Vec<Report>) {
    if !region.listen_before_talk || driver.listens_before_talk() {
        return;
    }
    let title = format!(
        "{} demands listening before each transmission, and a {} cannot",
        region.name,
        driver.abilities().title
    );
    let report = Report::error(
        "listen-before-talk",
        title,
        place(radio, "region"),
        "not with this modem",
    );
    reports.push(
        report
            .also(place(radio, "driver"), "this modem")
            .help("none of the modems that this version drives measures whether the channel is free"),
    );
}

/// False if it was reported.
fn bandwidth(radio: &Table, region: &Region, reports: &mut Vec<Report>) -> bool {
    let (Some(least), Some((_, bandwidth))) = (region.bandwidth_least_hz, derive::channel(radio)) else {
        return true;
    };
    if bandwidth >= least {
        return true;
    }
    let title = format!(
        "in {} a single channel must be {} kHz wide, not {} kHz",
        region.name,
        least / 1000,
        bandwidth / 1000
    );
    let report = Report::error("too-narrow", title, place(radio, "bandwidth"), "too narrow");
    reports.push(report.help(
        "narrower ones are for hopping systems (47 CFR 15.247): bandwidth = 500_000, two spreading factors higher \
         for the same range",
    ));
    false
}

/// False if it was reported.
fn frequency(radio: &Table, region: &Region, reports: &mut Vec<Report>) -> bool {
    let Some((frequency, bandwidth)) = derive::channel(radio) else {
        return false;
    };
    if region.band(frequency, bandwidth).is_some() {
        return true;
    }
    let whole = format!("{} MHz with {} kHz", mhz(frequency), bandwidth / 1000);
    let half = bandwidth / 2;
    let touched = region
        .bands
        .iter()
        .find(|band| frequency + half > band.from_hz && frequency < band.to_hz + half);
    let title = match touched {
        Some(band) => format!("{whole} reaches over the edge of band {band}"),
        None => format!("{whole} is in no band of {}", region.name),
    };
    let bands: Vec<String> = region.bands.iter().map(ToString::to_string).collect();
    let report = Report::error(
        "outside-the-band",
        title,
        place(radio, "frequency"),
        "a signal must lie in one band",
    );
    let usual = region.default.frequency_hz.unwrap_or_default();
    reports.push(
        report
            .help(format!("bands of {}: {}", region.name, bands.join(", ")))
            .help(format!("usual there: frequency = {}", grouped(usual))),
    );
    false
}

fn power(radio: &Table, region: &Region, reports: &mut Vec<Report>) {
    let (Some((frequency, bandwidth)), Some(power), Some(gain)) = (
        derive::channel(radio),
        radio.integer("tx_power_dbm"),
        radio.float("antenna_gain_dbi"),
    ) else {
        return;
    };
    let Some(band) = region.band(frequency, bandwidth) else {
        return;
    };
    let (Some(most), None) = (band.power_max(), band.terms_for(power as f64, gain)) else {
        return;
    };
    let radiated = most.radiated(power as f64, gain);
    let title = format!("{radiated:.1} dBm are radiated, but band {band} allows {most}");
    let mut report = Report::error("too-much-power", title, place(radio, "tx_power_dbm"), "too much");
    if let Some(gain) = said(radio, "antenna_gain_dbi") {
        report = report.also(&gain.place, "with this antenna");
    }
    let allowed = (power as f64 - (radiated - most.dbm())).floor();
    let sum = format!("power + antenna gain − {DIPOLE_DBI} dB counts (e.r.p.)");
    let sum = match most {
        radio_adapters::regions::Power::Erp(_) => sum,
        radio_adapters::regions::Power::Eirp(_) => "power + antenna gain counts (e.i.r.p.)".to_owned(),
    };
    reports.push(report.help(format!("{sum}: tx_power_dbm = {allowed}")));
}

fn duty_cycle(radio: &Table, region: &Region, reports: &mut Vec<Report>) {
    let Some(share) = radio.float("duty_cycle") else {
        return;
    };
    let at = place(radio, "duty_cycle");
    if share == 0.0 {
        let title = format!("with duty_cycle = 0 radio `{}` never sends", name(radio));
        reports.push(Report::error("no-airtime", title, at, "no time at all"));
        return;
    }
    let Some((band, terms)) = derive::terms(radio) else {
        return;
    };
    let Some(ppm) = terms.duty_cycle_ppm else {
        return;
    };
    let allowed = f64::from(ppm) / 1e6;
    if share > allowed {
        let title = format!(
            "duty_cycle {share} is above the law: band {band} of {} allows {} %",
            region.name,
            f64::from(ppm) / 1e4
        );
        let mut report = Report::error("above-the-law", title, at, "too much");
        if let Some(frequency) = said(radio, "frequency") {
            report = report.also(&frequency.place, "in this band");
        }
        let mut help = format!("write duty_cycle = {allowed}, or leave it out");
        if region.name == "EU868" && share <= 0.1 {
            help += "; 10 % are allowed at frequency = 869_525_000 (band P)";
        }
        reports.push(report.help(help));
    }
    acknowledgements(radio, share.min(allowed), at, reports);
}

/// A share so small that hardly anybody gets an answer.
fn acknowledgements(radio: &Table, share: f64, at: &Place, reports: &mut Vec<Report>) {
    let (Some(modulation), Some(payload)) = (derive::modulation(radio), derive::payload(radio)) else {
        return;
    };
    let puback = modulation.time_on_air(payload.len(derive::PUBACK_OCTETS));
    let each_hour = (3600.0 * share / puback.as_secs_f64()) as u64;
    if each_hour < ACKNOWLEDGEMENTS_LEAST {
        let title = format!(
            "duty_cycle {share} leaves radio `{}` time for {each_hour} acknowledgements an hour",
            name(radio)
        );
        let report = Report::warning("little-airtime", title, at, "hardly any");
        reports.push(report.help("a lower spreading factor, or a band that allows more (docs/radios.md)"));
    }
}

fn mtu(radio: &Table, region: &Region, driver: LoraDriver, reports: &mut Vec<Report>) {
    let (Some(modulation), Some(payload)) = (derive::modulation(radio), derive::payload(radio)) else {
        return;
    };
    let by_law = region.datagram_max(&modulation, payload);
    if let Some(dwell) = region.dwell_of(modulation.bandwidth_hz)
        && by_law.is_none_or(|most| most < MTU_LEAST)
    {
        let title = format!(
            "within the {} that {} allows for one transmission, spreading factor {} at {} kHz has no room for a message",
            show_duration(dwell),
            region.name,
            modulation.spreading_factor,
            modulation.bandwidth_hz / 1000
        );
        let report = Report::error("no-room", title, place(radio, "spreading_factor"), "too slow");
        let fits = (7..modulation.spreading_factor).rev().find(|factor| {
            let faster = gateway_core::airtime::Lora {
                spreading_factor: *factor,
                ..modulation
            };
            region
                .datagram_max(&faster, payload)
                .is_some_and(|most| most >= MTU_LEAST)
        });
        reports.push(match fits {
            Some(factor) => report.help(format!("spreading_factor = {factor}, or bandwidth = 500_000")),
            None => report.help("bandwidth = 500_000"),
        });
        return;
    }
    let (Some(asked), Some(node), Some(by_law)) = (radio.integer("mtu"), said(radio, "mtu"), by_law) else {
        return;
    };
    let by_modem = driver.datagram_max(derive::header(radio));
    let most = by_modem.min(by_law);
    if usize::try_from(asked).is_ok_and(|asked| asked > most) {
        let reason = if by_law < by_modem {
            format!("the dwell time of {} leaves {most}", region.name)
        } else {
            format!("a {} carries {most}", driver.abilities().title)
        };
        let title = format!("mtu {asked} is more than this radio carries: {reason}");
        let report = Report::error("mtu-too-large", title, &node.place, format!("at most {most}"));
        reports.push(report.help("leave it out and it is as large as can be"));
    }
}

/// A wait that is over before an answer can be there makes every message go twice.
fn retry(radio: &Table, reports: &mut Vec<Report>) {
    let (Some(first), Some(node)) = (radio.duration("retry.first"), said(radio, "retry.first")) else {
        return;
    };
    let (Some(exchange), Some(least), Some(factor)) = (
        derive::exchange(radio),
        derive::retry_least(radio),
        radio.integer("spreading_factor"),
    ) else {
        return;
    };
    let turnaround = radio.duration("turnaround").unwrap_or_default();
    if first >= least {
        return;
    }
    let title = format!(
        "retry.first is shorter than the air allows: at SF{factor} a PUBLISH and its PUBACK take {:.1} s",
        exchange.as_secs_f64()
    );
    let help = format!(
        "first = \"{}\" or more leaves time for the modems and for a frame ahead in the queue",
        show_duration(least.min(RETRY_SENSIBLE_MAX))
    );
    let report = if first < exchange + turnaround {
        Report::error(
            "retry-too-short",
            title,
            &node.place,
            "over before an answer can be there",
        )
    } else {
        Report::warning(
            "retry-too-short",
            title,
            &node.place,
            "over before most answers are there",
        )
    };
    reports.push(report.help(help));
}

fn xbee(radio: &Table, reports: &mut Vec<Report>) {
    // BD of the manuals: 1,200 to 115,200 by number, others by value.
    const BAUDS: [i64; 10] = [
        1_200, 2_400, 4_800, 9_600, 19_200, 38_400, 57_600, 115_200, 230_400, 921_600,
    ];
    if let Some(baud) = radio.integer("baud").filter(|baud| !BAUDS.contains(baud)) {
        let title = format!("an XBee does not speak at {baud} baud");
        let report = Report::error("impossible-baud", title, place(radio, "baud"), "not this");
        reports.push(report.help("it is delivered at 9600; it can do 1200 to 115200, and 230400 and 921600"));
    }
    if let (Some(mtu), Some(node)) = (radio.integer("mtu"), said(radio, "mtu"))
        && mtu > 256
    {
        let title = format!("mtu {mtu} is more than an XBee carries");
        let report = Report::error("mtu-too-large", title, &node.place, "at most 256");
        reports.push(report.help(
            "one Zigbee packet has 84 octets, 66 encrypted; 802.15.4 has 100; 255 in fragments; 256 only on 900HP",
        ));
    }
}

fn serial(radio: &Table, reports: &mut Vec<Report>) {
    checksum(radio, reports);
    behind_the_line(radio, reports);
    if radio.text("framing") == Some("kiss") {
        kiss(radio, reports);
    }
    if let (Some(hex), Some(node)) = (radio.text("fixed_prefix"), radio.node("fixed_prefix"))
        && radio_settings::octets(hex).is_none_or(|octets| octets.len() > 8)
    {
        let title = "fixed_prefix must be up to eight octets in hex";
        let report = Report::error("invalid-value", title, &node.place, "two digits for each octet");
        reports.push(report.help("Ebyte modems in fixed mode: \"ffff12\" is everybody on channel 18"));
    }
    acks(radio, reports);
}

fn acks(radio: &Table, reports: &mut Vec<Report>) {
    if let (Some(true), Some(node)) = (radio.bool("header_acks"), radio.node("header_acks"))
        && radio.text("header") != Some("radiohead")
    {
        let title = "header_acks needs header = \"radiohead\"";
        reports.push(Report::warning("no-effect", title, &node.place, "no effect"));
    }
}

fn checksum(radio: &Table, reports: &mut Vec<Report>) {
    let (Some(crc), Some(node)) = (radio.text("crc"), radio.node("crc")) else {
        return;
    };
    if crc == "none" {
        return;
    }
    let why = match radio.text("framing") {
        Some("hdlc") => "HDLC has its own checksum",
        Some("length-prefix") => "nothing says where a datagram ends but its own length",
        _ => return,
    };
    let title = format!("crc = \"{crc}\" does not go with this framing: {why}");
    let report = Report::error("no-checksum-here", title, &node.place, "not here");
    reports.push(
        report
            .also(place(radio, "framing"), "with this framing")
            .help("crc = \"none\", or framing = \"cobs\", which carries one"),
    );
}

/// A radio behind the line, such as an Ebyte modem.
fn behind_the_line(radio: &Table, reports: &mut Vec<Report>) {
    let on_air = said(radio, "air_rate").or_else(|| said(radio, "fixed_prefix"));
    let Some(node) = on_air else {
        if let Some(node) = said(radio, "duty_cycle") {
            let title = "duty_cycle needs air_rate: without it nobody knows how long a message takes";
            reports.push(
                Report::error("missing-field", title, &node.place, "no `air_rate`")
                    .help("for example air_rate = 2400"),
            );
        }
        return;
    };
    if radio.node("air_rate").is_none() {
        let title = "a radio behind the line needs air_rate, so that its airtime is known";
        let report = Report::error("missing-field", title, &node.place, "no `air_rate`");
        reports.push(report.help("as the modem is set up, for example air_rate = 2400"));
        return;
    }
    if radio.node("duty_cycle").is_none() {
        let title = format!(
            "radio `{}` sends without a limit: which law holds is not known here",
            name(radio)
        );
        let report = Report::warning("no-duty-cycle", title, &node.place, "no `duty_cycle`");
        reports.push(report.help("duty_cycle = 0.01 in most of EU868, 1.0 where there is no limit"));
    }
    if said(radio, "turnaround").is_none() && radio.duration("turnaround") == Some(Duration::ZERO) {
        let title = format!(
            "radio `{}` answers at once: nodes that have just sent may not listen yet",
            name(radio)
        );
        let report = Report::warning("no-turnaround", title, &node.place, "no `turnaround`");
        reports.push(
            report.help("turnaround = \"50ms\", or \"0s\" where the radio behind the line waits by itself"),
        );
    }
    if radio.text("header") == Some("none") {
        let title = format!(
            "radio `{}` cannot tell nodes apart, unless all are behind forwarders",
            name(radio)
        );
        let report = Report::warning(
            "one-client",
            title,
            place(radio, "header"),
            "one client on the channel",
        );
        reports.push(report.help("header = \"radiohead\" costs four octets and gives every node an address"));
    }
    if radio.text("framing") == Some("length-prefix") {
        let title = "length-prefix cannot be told from noise on the air: one lost octet takes the next messages with it";
        let report = Report::warning("fragile-framing", title, place(radio, "framing"), "over a radio");
        reports.push(report.help("framing = \"cobs\" with crc = \"crc16-x25\""));
    } else if radio.text("crc") == Some("none") && !matches!(radio.text("framing"), Some("hdlc" | "kiss")) {
        let title = "a radio that splits and joins packets needs a checksum";
        let report = Report::warning("fragile-framing", title, place(radio, "crc"), "no checksum");
        reports.push(report.help("crc = \"crc16-x25\" here and at the nodes"));
    }
}

fn kiss(radio: &Table, reports: &mut Vec<Report>) {
    if radio.node("air_rate").is_none() {
        let title =
            "a KISS modem is a radio: without air_rate frames pile up in it, and nobody counts its airtime";
        let report = Report::warning("kiss", title, place(radio, "framing"), "no `air_rate`");
        reports.push(report.help("the speed on the air, for example air_rate = 1200"));
    }
    if radio.text("metadata") != Some("none") {
        let title = "KISS frames carry no signal strength";
        let report = Report::error(
            "kiss",
            title,
            place(radio, "metadata"),
            "would eat an octet of each frame",
        );
        reports.push(report.help("metadata = \"none\""));
    }
    if radio.text("crc").is_some_and(|crc| crc != "none") {
        let title =
            "KISS modems check frames on the air themselves, and their nodes expect no other checksum";
        let report = Report::warning("kiss", title, place(radio, "crc"), "two octets more on the air");
        reports.push(report.help("crc = \"none\", unless the nodes send it too"));
    }
}

/// 868_100_000: as it is written in a configuration.
fn grouped(number: u32) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push('_');
        }
        out.push(digit);
    }
    out
}
