//! RadioHead's header, and the forwarder encapsulation over MQTT-SN's own length.

use gateway_core::io::Destination;
use gateway_core::peer::{LinkAddr, LocalEnd, Route};
use gateway_core::time::Instant;
use radio_adapters::framing::Deframer;
use radio_adapters::header::{Content, Header};
use radio_adapters::settings::{Framing, LinkHeader};

use crate::Vector;

pub(crate) fn check_radiohead(vector: &Vector) {
    let (to, from) = (vector.number("to") as u8, vector.number("frm") as u8);
    assert_eq!(vector.number("flags"), 0);
    let (wire, payload) = (vector.wire(), vector.octets("payload"));
    let node = LinkAddr::Radio([from].into_iter().collect());

    let mut gateway = Header::new(LinkHeader::RadioHead {
        address: to,
        acks: false,
    });
    let content = Content::Datagram {
        from: node,
        datagram: &payload,
    };
    assert_eq!(gateway.unwrap(Instant::START, &wire).content, content);

    // The node's end, which has sent as many frames before as the id says.
    let mut node = Header::new(LinkHeader::RadioHead {
        address: from,
        acks: false,
    });
    let to = Destination::Peer(Route {
        addr: LinkAddr::Radio([to].into_iter().collect()),
        local: LocalEnd::default(),
    });
    let frame = (0..=vector.number("id")).map(|_| node.wrap(&to, &payload)).last();
    assert_eq!(frame, Some(Some(wire)));
}

/// The deframer joins the wrapper and the message in it; the core takes them apart.
pub(crate) fn check_forwarder(vector: &Vector) {
    let mut unit = vec![0, 0xFE, vector.number("ctrl") as u8];
    unit.extend(vector.octets("node"));
    unit[0] = unit.len() as u8;
    unit.extend(vector.octets("message"));
    assert_eq!(unit, vector.wire());

    let mut found = Vec::new();
    let mut deframer = Deframer::new(Framing::LengthPrefix, 300, 0);
    for octet in vector.wire().repeat(2) {
        deframer.push(&[octet], &mut |frame| found.push(frame.map(<[u8]>::to_vec)));
    }
    assert_eq!(found, vec![Ok(vector.wire()); 2]);
}
