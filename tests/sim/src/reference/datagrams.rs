//! Single datagrams: what each one that leaves the gateway must look like, what strangers get (A13), and what answers one
//! with a value that is none.

use gateway_core::peer::LinkAddr;
use gateway_core::time::Instant;
use sn_codec::{Direction, Encapsulation, MsgId, Packet, PublishQoS, ReturnCode, TopicRef, topic};

use super::Reference;
use super::violation::{Check, ensure};
use crate::Address;
use crate::sim_client::encode;

/// What every datagram of the gateway is: the shortest form, from a gateway, and no longer than the link takes.
pub(super) fn well_formed(
    packet: &Packet<'_>,
    encapsulation: Option<Encapsulation<'_>>,
    datagram: &[u8],
    mtu: usize,
) -> Check {
    let header = encapsulation.map_or(0, |e| e.encoded_len());
    ensure(encode(packet) == datagram[header..], "shortest form", || {
        format!("{packet:?} as {datagram:02x?}")
    })?;
    ensure(
        encapsulation.is_none_or(|e| e.radius == 0),
        "no radius to one node (A82)",
        || format!("{encapsulation:?}"),
    )?;
    ensure(
        packet.direction() != Direction::ToGateway,
        "only what gateways send",
        || format!("{packet:?}"),
    )?;
    ensure(datagram.len() <= mtu, "fits the link", || {
        format!("{} octets, at most {}", datagram.len(), mtu)
    })
}

/// Section 7 of the protocol page: what no gateway ever sends, beyond what does not decode.
pub(super) fn never_sent(packet: &Packet<'_>) -> Check {
    let fine = match packet {
        Packet::Disconnect(disconnect) => disconnect.duration.is_none(),
        Packet::Pingreq(ping) => ping.client_id.is_none(),
        Packet::GwInfo(info) => info.gw_add.is_empty(),
        Packet::Register(register) => topic::is_valid_name(register.topic_name),
        Packet::Publish(publish) => match publish.topic {
            TopicRef::Normal(id) | TopicRef::Predefined(id) => !id.is_reserved(),
            TopicRef::Short(short) => short.as_str().is_some_and(topic::is_valid_name),
        },
        _ => true,
    };
    ensure(fine, "never sent to a client", || format!("{packet:?}"))
}

/// Somebody who is no client of this world.
pub(super) fn to_stranger(packet: &Packet<'_>, addr: &Address) -> Check {
    let may = matches!(
        packet,
        Packet::Disconnect(_) | Packet::GwInfo(_) | Packet::Connack(_)
    );
    ensure(
        may || answers_parse_error(packet),
        "strangers get no more than DISCONNECT",
        || format!("{packet:?} to {addr}"),
    )
}

/// A message that parses but carries a bad value is answered even to strangers (section 7).
fn answers_parse_error(packet: &Packet<'_>) -> bool {
    match packet {
        Packet::Regack(regack) => regack.return_code != ReturnCode::Accepted,
        Packet::Puback(puback) => puback.return_code != ReturnCode::Accepted,
        Packet::Suback(suback) => suback.return_code != ReturnCode::Accepted,
        Packet::WillTopicResp(code) | Packet::WillMsgResp(code) => *code != ReturnCode::Accepted,
        Packet::Unsuback(_) => true,
        _ => false,
    }
}

/// What is answered by DISCONNECT if its sender has no session (A13).
pub(super) fn answered_by_disconnect(packet: &Packet<'_>) -> bool {
    match packet {
        Packet::Connect(_) | Packet::SearchGw(_) | Packet::Advertise(_) | Packet::GwInfo(_) => false,
        Packet::Publish(publish) => publish.qos != PublishQoS::MinusOne,
        Packet::Regack(_) | Packet::Puback(_) | Packet::Pubrec(_) | Packet::Pubcomp(_) => false,
        Packet::Pingresp => false,
        _ => true,
    }
}

impl Reference {
    /// The layout of a message and a value that is none: its sender was heard all the same.
    pub(super) fn on_bad_value(
        &mut self,
        now: Instant,
        from: &LinkAddr,
        datagram: &[u8],
        answer: &Packet<'_>,
    ) {
        let Ok((encapsulation, _)) = Encapsulation::split(datagram) else {
            return;
        };
        let node = encapsulation.map(|encapsulation| encapsulation.wireless_node_id);
        let from = Address::new(from.clone(), node);
        if let Some(client) = self.by_addr.get(&from).map(|ix| &mut self.clients[*ix])
            && client.bound.as_ref() == Some(&from)
        {
            let msg_id = match answer {
                // A CONNECT that cannot be used changes nothing for who is connected.
                Packet::Connack(_) => return client.bad_connects += 1,
                Packet::Regack(regack) => regack.msg_id,
                Packet::Puback(puback) => puback.msg_id,
                Packet::Suback(suback) => suback.msg_id,
                Packet::Unsuback(msg_id) => *msg_id,
                _ => MsgId(0),
            };
            *client.due.entry((answer.msg_type(), msg_id)).or_insert(0) += 1;
            client.last_heard = now;
            client.fresh = false;
            client.challenge = None;
        }
    }
}
