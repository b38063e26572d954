//! Who a datagram is from and for, on links that do not say it themselves.
//!
//! With [`LinkHeader::RadioHead`] the four octets TO, FROM, ID and FLAGS of the RadioHead library stand before each
//! datagram. With [`LinkHeader::Forwarder`] and [`LinkHeader::None`] nothing does: the core takes the specification's
//! forwarder encapsulation (§5.5) off, or there is one client only.

use core::hash::{BuildHasher, Hasher};
use core::time::Duration;
use std::hash::RandomState;

use gateway_core::io::Destination;
use gateway_core::peer::LinkAddr;
use gateway_core::time::Instant;

use crate::driver::DropReason;
use crate::settings::LinkHeader;

/// RadioHead: everyone.
const BROADCAST: u8 = 0xFF;

/// RadioHead, FLAGS: an acknowledgement of `RHReliableDatagram`.
const FLAG_ACK: u8 = 0x80;

/// What an acknowledgement carries: the library sends no empty frames.
const ACK_BODY: u8 = b'!';

/// A frame with the id of the last one is a repetition of it only for so long: a node that starts again counts from
/// the beginning. The library repeats for seconds at most, even with time-outs set for SF12.
const REPEATS_WITHIN: Duration = Duration::from_secs(15);

/// Puts link headers on and takes them off.
#[derive(Debug)]
pub struct Header {
    kind: LinkHeader,
    next_id: u8,
    /// The last frame of each node, with `acks`.
    seen: Vec<Option<Seen>>,
    hasher: RandomState,
}

/// What remains of a frame that was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    id: u8,
    content: u64,
    at: Instant,
}

/// A frame without its header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unwrapped<'a> {
    /// To be sent before any answer: the acknowledgement that the node's radio waits for.
    pub ack: Option<[u8; Header::ACK_LEN]>,
    /// What the frame brought.
    pub content: Content<'a>,
}

/// What a frame brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content<'a> {
    /// A datagram.
    Datagram {
        /// Who sent it.
        from: LinkAddr,
        /// What it holds.
        datagram: &'a [u8],
    },
    /// The radio of a node has received the frame with this id.
    Acknowledged {
        /// Who.
        from: LinkAddr,
        /// The id that [`Header::wrap`] gave it.
        id: u8,
    },
    /// Nothing for us.
    Dropped(DropReason),
}

impl Header {
    /// Octets of an acknowledgement.
    pub const ACK_LEN: usize = 5;

    /// A header of this kind; no frame was seen yet.
    pub fn new(kind: LinkHeader) -> Header {
        let seen = match kind {
            LinkHeader::RadioHead { acks: true, .. } => vec![None; 256],
            LinkHeader::RadioHead { acks: false, .. } | LinkHeader::Forwarder | LinkHeader::None => {
                Vec::new()
            }
        };
        Header {
            kind,
            next_id: 0,
            seen,
            hasher: RandomState::new(),
        }
    }

    /// Octets it puts before each datagram.
    pub fn overhead(&self) -> usize {
        match self.kind {
            LinkHeader::RadioHead { .. } => 4,
            LinkHeader::Forwarder | LinkHeader::None => 0,
        }
    }

    /// Nodes acknowledge what is sent to them, and need the channel for it right after each frame.
    pub fn acknowledged(&self) -> bool {
        matches!(self.kind, LinkHeader::RadioHead { acks: true, .. })
    }

    /// The datagram with its header, or `None` if this kind of link has no such destination.
    pub fn wrap(&mut self, to: &Destination, datagram: &[u8]) -> Option<Vec<u8>> {
        match self.kind {
            LinkHeader::RadioHead { address, .. } => {
                let to = match to {
                    Destination::Broadcast => BROADCAST,
                    Destination::Peer(route) => radiohead_address(&route.addr)?,
                };
                let mut frame = Vec::with_capacity(4 + datagram.len());
                frame.extend([to, address, self.next_id, 0]);
                frame.extend(datagram);
                self.next_id = self.next_id.wrapping_add(1);
                Some(frame)
            }
            LinkHeader::Forwarder | LinkHeader::None => match to {
                Destination::Peer(route) if route.addr != LinkAddr::Wire => None,
                Destination::Peer(_) | Destination::Broadcast => Some(datagram.to_vec()),
            },
        }
    }

    /// Takes the header off a frame that arrived `now`.
    pub fn unwrap<'a>(&mut self, now: Instant, frame: &'a [u8]) -> Unwrapped<'a> {
        match self.kind {
            LinkHeader::RadioHead { address, acks } => self.unwrap_radiohead(now, frame, address, acks),
            LinkHeader::Forwarder | LinkHeader::None => Unwrapped::unacknowledged(Content::Datagram {
                from: LinkAddr::Wire,
                datagram: frame,
            }),
        }
    }

    fn unwrap_radiohead<'a>(&mut self, now: Instant, frame: &'a [u8], own: u8, acks: bool) -> Unwrapped<'a> {
        let Some((&[to, from, id, flags], datagram)) = frame.split_first_chunk() else {
            return Unwrapped::unacknowledged(Content::Dropped(DropReason::Length));
        };
        // What a repeater gives back to us, and what others have to say to each other.
        if from == own || from == BROADCAST || (to != own && to != BROADCAST) {
            return Unwrapped::unacknowledged(Content::Dropped(DropReason::NotForUs));
        }
        let sender = LinkAddr::Radio([from].into_iter().collect());
        if flags & FLAG_ACK != 0 {
            return Unwrapped::unacknowledged(Content::Acknowledged { from: sender, id });
        }
        let content = Content::Datagram {
            from: sender,
            datagram,
        };
        // RHReliableDatagram acknowledges what is for it alone, repetitions too: its acknowledgement may be lost.
        if !acks || to == BROADCAST {
            return Unwrapped::unacknowledged(content);
        }
        let repeated = self.repeats(now, from, id, datagram);
        Unwrapped {
            ack: Some([from, own, id, FLAG_ACK, ACK_BODY]),
            content: if repeated {
                Content::Dropped(DropReason::Duplicate)
            } else {
                content
            },
        }
    }

    /// Whether the last frame of this node is here once more; remembers it if not.
    fn repeats(&mut self, now: Instant, from: u8, id: u8, datagram: &[u8]) -> bool {
        let mut hash = self.hasher.build_hasher();
        hash.write(datagram);
        let new = Seen {
            id,
            content: hash.finish(),
            at: now,
        };
        let last = &mut self.seen[usize::from(from)];
        let repeated = last.is_some_and(|last| {
            last.id == id && last.content == new.content && now.since(last.at) < REPEATS_WITHIN
        });
        if !repeated {
            *last = Some(new);
        }
        repeated
    }
}

impl<'a> Unwrapped<'a> {
    fn unacknowledged(content: Content<'a>) -> Unwrapped<'a> {
        Unwrapped { ack: None, content }
    }
}

fn radiohead_address(addr: &LinkAddr) -> Option<u8> {
    match addr {
        LinkAddr::Radio(octets) => match octets.as_slice() {
            &[node] if node != BROADCAST => Some(node),
            _ => None,
        },
        LinkAddr::Udp(_) | LinkAddr::Wire => None,
    }
}

#[cfg(test)]
mod tests {
    use gateway_core::peer::{LocalEnd, Route};

    use super::*;

    const NOW: Instant = Instant::START;
    const RELIABLE: LinkHeader = LinkHeader::RadioHead {
        address: 0,
        acks: true,
    };
    const PLAIN: LinkHeader = LinkHeader::RadioHead {
        address: 0,
        acks: false,
    };

    #[test]
    fn radiohead_frames_carry_to_from_and_a_counted_id() {
        let mut header = Header::new(LinkHeader::RadioHead {
            address: 9,
            acks: false,
        });

        assert_eq!(
            header.wrap(&peer(node(5)), &[3, 1, 1]),
            Some(vec![5, 9, 0, 0, 3, 1, 1])
        );
        assert_eq!(
            header.wrap(&Destination::Broadcast, &[2]),
            Some(vec![0xFF, 9, 1, 0, 2])
        );
        assert_eq!(header.overhead(), 4);
    }

    #[test]
    fn ids_start_again_after_255() {
        let mut header = Header::new(PLAIN);

        let ids: Vec<u8> = (0..257)
            .filter_map(|_| header.wrap(&peer(node(5)), &[]))
            .map(|frame| frame[2])
            .collect();

        assert_eq!((ids[255], ids[256]), (255, 0));
    }

    #[test]
    fn a_peer_without_an_address_of_the_link_cannot_be_sent_to() {
        let two_octets = LinkAddr::Radio([0, 5].into_iter().collect());

        assert_eq!(Header::new(PLAIN).wrap(&peer(LinkAddr::Wire), &[1]), None);
        assert_eq!(Header::new(PLAIN).wrap(&peer(two_octets), &[1]), None);
        assert_eq!(Header::new(PLAIN).wrap(&peer(node(0xFF)), &[1]), None);
        assert_eq!(Header::new(LinkHeader::None).wrap(&peer(node(5)), &[1]), None);
    }

    #[test]
    fn a_frame_for_us_is_acknowledged_once_for_each_time_it_comes_and_delivered_once() {
        let mut header = Header::new(RELIABLE);
        let frame = [0, 5, 42, 0, 3, 1, 1];

        let first = header.unwrap(NOW, &frame);
        let again = header.unwrap(NOW + Duration::from_secs(1), &frame);

        let ack = Some([5, 0, 42, 0x80, b'!']);
        assert_eq!(
            first,
            Unwrapped {
                ack,
                content: datagram(&[3, 1, 1])
            }
        );
        assert_eq!(
            again,
            Unwrapped {
                ack,
                content: Content::Dropped(DropReason::Duplicate)
            }
        );
    }

    #[test]
    fn a_node_that_started_again_is_heard_though_it_counts_from_the_beginning() {
        let mut header = Header::new(RELIABLE);
        header.unwrap(NOW, &[0, 5, 1, 0, 3, 1, 1]);

        let other_content = header.unwrap(NOW, &[0, 5, 1, 0, 3, 1, 2]);
        assert_eq!(other_content.content, datagram(&[3, 1, 2]));

        let later = header.unwrap(NOW + REPEATS_WITHIN, &[0, 5, 1, 0, 3, 1, 2]);
        assert_eq!(later.content, datagram(&[3, 1, 2]));
    }

    #[test]
    fn without_acknowledgements_nothing_is_a_repetition() {
        // Plain RHDatagram gives every frame the id 0.
        let mut header = Header::new(PLAIN);
        for _ in 0..2 {
            let unwrapped = header.unwrap(NOW, &[0, 5, 0, 0, 3, 1, 1]);
            assert_eq!(unwrapped.ack, None);
            assert_eq!(unwrapped.content, datagram(&[3, 1, 1]));
        }
    }

    #[test]
    fn broadcasts_are_delivered_and_not_acknowledged() {
        let mut header = Header::new(RELIABLE);

        let unwrapped = header.unwrap(NOW, &[0xFF, 5, 7, 0, 3, 1, 1]);

        assert_eq!(unwrapped.ack, None);
        assert_eq!(unwrapped.content, datagram(&[3, 1, 1]));
    }

    #[test]
    fn acknowledgements_of_nodes_are_never_acknowledged() {
        let mut header = Header::new(RELIABLE);

        let unwrapped = header.unwrap(NOW, &[0, 5, 7, 0x80, b'!']);

        assert_eq!(unwrapped.ack, None);
        let content = Content::Acknowledged { from: node(5), id: 7 };
        assert_eq!(unwrapped.content, content);
    }

    #[test]
    fn own_echoes_and_what_is_for_others_are_left_out() {
        let mut header = Header::new(RELIABLE);
        for frame in [
            [5, 0, 1, 0, 2, 0x16], // Ours, given back by a repeater.
            [0xFF, 0, 1, 0, 2, 0x16],
            [6, 5, 1, 0, 2, 0x16],
            [0, 0xFF, 1, 0, 2, 0x16],
        ] {
            let unwrapped = header.unwrap(NOW, &frame);
            assert_eq!(unwrapped.ack, None);
            assert_eq!(
                unwrapped.content,
                Content::Dropped(DropReason::NotForUs),
                "{frame:?}"
            );
        }
        let short = header.unwrap(NOW, &[0, 5, 1]);
        assert_eq!(short.content, Content::Dropped(DropReason::Length));
    }

    #[test]
    fn links_without_a_header_have_one_peer() {
        for kind in [LinkHeader::None, LinkHeader::Forwarder] {
            let mut header = Header::new(kind);
            assert_eq!(header.overhead(), 0);
            assert_eq!(header.wrap(&peer(LinkAddr::Wire), &[2, 3]), Some(vec![2, 3]));
            assert_eq!(header.wrap(&Destination::Broadcast, &[2, 3]), Some(vec![2, 3]));
            let content = Content::Datagram {
                from: LinkAddr::Wire,
                datagram: &[2, 3],
            };
            assert_eq!(header.unwrap(NOW, &[2, 3]).content, content);
        }
    }

    fn node(address: u8) -> LinkAddr {
        LinkAddr::Radio([address].into_iter().collect())
    }

    fn peer(addr: LinkAddr) -> Destination {
        Destination::Peer(Route {
            addr,
            local: LocalEnd::default(),
        })
    }

    fn datagram(datagram: &[u8]) -> Content<'_> {
        Content::Datagram {
            from: node(5),
            datagram,
        }
    }
}
