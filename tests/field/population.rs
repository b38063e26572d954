//! The fields that are tested.

use core::time::Duration;

use gateway_core::peer::LinkId;
use sn_codec::QoS;
use snipe_sim::field::scene::{FieldModem, Group, PAYLOAD_LEAST, Population};

/// The radio of the nodes nearby, and that of those far away.
pub(crate) const NEAR: LinkId = LinkId(0);
pub(crate) const FAR: LinkId = LinkId(1);

/// 1 % of an hour: EN 300 220-2, band M.
pub(crate) const LEGAL: Duration = Duration::from_secs(36);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// 80 % of what 1 % of airtime can acknowledge at one message an hour: 200 nodes at SF9, 20 at SF12.
pub(crate) fn of_the_issue() -> Population {
    with_nodes(200, 20)
}

/// A RAK3172 at SF9 with so many nodes, and an RN2483 at SF12 with so many others.
pub(crate) fn with_nodes(near: usize, far: usize) -> Population {
    let near = Group {
        letter: 'n',
        modem: FieldModem::Rak3172,
        frequency_hz: 868_100_000,
        spreading_factor: 9,
        bandwidth_hz: 125_000,
        duty_cycle_ppm: Some(10_000),
        nodes: near,
        back_off: Duration::from_secs(1),
    };
    let far = Group {
        letter: 'f',
        modem: FieldModem::Rn2483,
        frequency_hz: 868_300_000,
        spreading_factor: 12,
        nodes: far,
        back_off: Duration::from_secs(6),
        ..near.clone()
    };
    Population {
        seed: 1,
        groups: vec![near, far],
        interval: HOUR,
        qos: QoS::AtLeastOnce,
        payload: PAYLOAD_LEAST,
        keep_alive: 7200,
        loss: 0.01,
        registers: false,
        searches: false,
        commanded: 0,
    }
}
