//! Datagrams as this client writes them.

use gateway_core::time::Instant;
use sn_codec::{MsgId, MsgType, Packet, ShortTopic, TopicFilter, TopicId, TopicRef};

use super::{SimClient, TopicForm};

/// One datagram.
pub(crate) fn encode(packet: &Packet<'_>) -> Vec<u8> {
    let mut datagram = Vec::with_capacity(packet.encoded_len());
    packet.encode(&mut datagram);
    datagram
}

pub(super) fn filter_of(topic: &TopicForm) -> TopicFilter<'_> {
    match topic {
        TopicForm::Name(name) => TopicFilter::Name(name),
        TopicForm::Predefined(id) => TopicFilter::Predefined(*id),
        TopicForm::Short(octets) => TopicFilter::Short(ShortTopic(*octets)),
    }
}

impl SimClient {
    pub(super) fn topic_ref(&self, form: &TopicForm) -> Option<TopicRef> {
        Some(match form {
            TopicForm::Name(name) => TopicRef::Normal(*self.ids.get(name)?),
            TopicForm::Predefined(id) => TopicRef::Predefined(*id),
            TopicForm::Short(octets) => TopicRef::Short(ShortTopic(*octets)),
        })
    }

    /// The ids of an acknowledgement as this client sends them.
    pub(super) fn acked(&self, topic_id: TopicId, msg_id: MsgId) -> (TopicId, MsgId) {
        if self.config.quirks.swaps_acks {
            (TopicId(topic_id.0.swap_bytes()), MsgId(msg_id.0.swap_bytes()))
        } else {
            (topic_id, msg_id)
        }
    }

    pub(super) fn sent_topic(&self, topic: TopicRef) -> TopicRef {
        match topic {
            TopicRef::Short(ShortTopic([a, b])) if self.config.quirks.swaps_topics => {
                TopicRef::Short(ShortTopic([b, a]))
            }
            topic => topic,
        }
    }

    pub(super) fn sent_filter<'a>(&self, filter: TopicFilter<'a>) -> TopicFilter<'a> {
        match filter {
            TopicFilter::Predefined(id) if self.config.quirks.swaps_topics => {
                TopicFilter::Predefined(TopicId(id.0.swap_bytes()))
            }
            filter => filter,
        }
    }

    pub(super) fn send(&mut self, now: Instant, packet: Packet<'_>) {
        match packet {
            Packet::Publish(_) => self.sent.publishes += 1,
            Packet::Pubrel(_) => self.sent.pubrels += 1,
            _ => {}
        }
        let datagram = self.encode_own(&packet);
        self.outbox.push_back(datagram);
        self.last_sent = now;
    }

    /// One datagram as this client writes it.
    pub(super) fn encode_own(&self, packet: &Packet<'_>) -> Vec<u8> {
        let mut datagram = encode(packet);
        if self.config.quirks.long_disconnect
            && matches!(packet, Packet::Disconnect(d) if d.duration.is_some())
        {
            datagram.extend([0, 0]);
            datagram[0] += 2;
        }
        if self.config.quirks.reversed_flags {
            SimClient::reverse_flags(&mut datagram);
        }
        let short = datagram.first() != Some(&1);
        if short
            && self
                .config
                .quirks
                .long_form_from
                .is_some_and(|from| datagram.len() >= from)
        {
            let total = datagram.len() as u16 + 2;
            datagram.splice(..1, [&[1], &total.to_be_bytes()[..]].concat());
        }
        datagram
    }

    /// The flags octet with the first field in the lowest bit, as some compilers lay it out, and CleanSession in PUBLISH.
    fn reverse_flags(datagram: &mut [u8]) {
        let header = if datagram.first() == Some(&1) { 4 } else { 2 };
        let kind = datagram
            .get(header - 1)
            .and_then(|code| MsgType::from_octet(*code));
        let also = match kind {
            Some(MsgType::Publish) => 0x20,
            Some(MsgType::Connect | MsgType::Subscribe | MsgType::Unsubscribe) => 0,
            _ => return,
        };
        if let Some(flags) = datagram.get_mut(header) {
            *flags = flags.reverse_bits() | also;
        }
    }
}
