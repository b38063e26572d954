//! Where received datagrams land, and how they are told apart.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use gateway_core::io::{RadioFacts, RxBatch};
use gateway_core::peer::{LinkAddr, LocalEnd, Route};
use quinn_udp::{BATCH_SIZE, RecvMeta};

/// No datagram is that long: UDP's length field ends at 65,535, also for datagrams that the kernel coalesced (GRO).
/// So a full buffer means that something was cut off, and what is left of a PUBLISH could pass for a whole one.
pub(super) const BUFFER_LEN: usize = 65_536;

/// Buffers for one receive call.
///
/// Zeroed memory of this size comes from the kernel page by page when first written: 32 buffers take 2 MiB of address
/// space, nothing at first, and a page each once 32 small datagrams came at once.
pub(super) struct Buffers {
    octets: Vec<u8>,
    len: usize,
    metas: [RecvMeta; BATCH_SIZE],
    filled: usize,
}

impl Buffers {
    /// For up to `count` datagrams of less than `len` octets.
    pub(super) fn new(count: usize, len: usize) -> Buffers {
        Buffers {
            octets: vec![0; count.min(BATCH_SIZE) * len],
            len,
            metas: [RecvMeta::default(); BATCH_SIZE],
            filled: 0,
        }
    }

    /// Lets `receive` fill the buffers; true if it filled them all.
    pub(super) fn fill(
        &mut self,
        receive: impl FnOnce(&mut [IoSliceMut<'_>], &mut [RecvMeta]) -> io::Result<usize>,
    ) -> io::Result<bool> {
        self.filled = 0;
        let mut rest = self.octets.chunks_exact_mut(self.len);
        let count = rest.len();
        let mut slices: [IoSliceMut<'_>; BATCH_SIZE] =
            std::array::from_fn(|_| IoSliceMut::new(rest.next().unwrap_or_default()));
        self.filled = receive(&mut slices[..count], &mut self.metas[..count])?;
        Ok(self.filled == count)
    }

    /// Copies what was received into a batch and says how many datagrams were cut off. Those that `local` knows no end
    /// for are left out.
    pub(super) fn take(&mut self, local: impl Fn(&RecvMeta) -> Option<LocalEnd>) -> (RxBatch, usize) {
        let metas = &self.metas[..std::mem::take(&mut self.filled)];
        let mut truncated = 0;
        let mut batch = RxBatch {
            bytes: Vec::with_capacity(metas.iter().map(|meta| meta.len).sum()),
            datagrams: Vec::with_capacity(metas.len()),
        };
        for (meta, buffer) in metas.iter().zip(self.octets.chunks_exact(self.len)) {
            if meta.len >= self.len {
                truncated += 1;
                continue;
            }
            let Some(local) = local(meta) else { continue };
            let from = Route {
                addr: LinkAddr::Udp(normalised(meta.addr)),
                local,
            };
            if meta.len == 0 {
                batch.push(from, RadioFacts::default(), &[]);
                continue;
            }
            // Datagrams of one sender, all `stride` octets long but for the last, may come as one (GRO).
            for datagram in buffer[..meta.len].chunks(meta.stride.max(1)) {
                batch.push(from.clone(), RadioFacts::default(), datagram);
            }
        }
        (batch, truncated)
    }
}

/// The one spelling of an address: IPv4 as IPv4, no flow label, so that it identifies a peer.
fn normalised(addr: SocketAddr) -> SocketAddr {
    match (addr.ip().to_canonical(), addr) {
        (IpAddr::V6(ip), SocketAddr::V6(v6)) => SocketAddrV6::new(ip, v6.port(), 0, v6.scope_id()).into(),
        (ip, _) => SocketAddr::new(ip, addr.port()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENOUGH: usize = 64;

    fn meta(len: usize, stride: usize) -> RecvMeta {
        let mut meta = RecvMeta::default();
        meta.addr = "[::ffff:192.0.2.7]:4000".parse().unwrap();
        meta.len = len;
        meta.stride = stride;
        meta
    }

    fn take(buffers: &mut Buffers) -> (Vec<Vec<u8>>, usize) {
        let (batch, truncated) = buffers.take(|_| Some(LocalEnd::default()));
        (
            batch.iter().map(|(_, datagram)| datagram.to_vec()).collect(),
            truncated,
        )
    }

    #[test]
    fn coalesced_datagrams_are_taken_apart_by_stride() {
        let mut buffers = Buffers::new(2, ENOUGH);
        let full = buffers.fill(|slices, metas| {
            slices[0][..7].copy_from_slice(b"aaabbbc");
            metas[0] = meta(7, 3);
            Ok(1)
        });
        assert!(!full.unwrap());
        assert_eq!(
            take(&mut buffers),
            (vec![b"aaa".to_vec(), b"bbb".to_vec(), b"c".to_vec()], 0)
        );
    }

    #[test]
    fn a_filled_buffer_is_a_truncated_datagram() {
        let mut buffers = Buffers::new(2, ENOUGH);
        let full = buffers.fill(|_, metas| {
            metas[0] = meta(ENOUGH, ENOUGH);
            metas[1] = meta(ENOUGH - 1, ENOUGH - 1);
            Ok(2)
        });
        assert!(full.unwrap());
        assert_eq!(take(&mut buffers), (vec![vec![0; ENOUGH - 1]], 1));
    }

    #[test]
    fn an_empty_datagram_is_a_datagram() {
        let mut buffers = Buffers::new(1, ENOUGH);
        buffers
            .fill(|_, metas| {
                metas[0] = meta(0, 0);
                Ok(1)
            })
            .unwrap();
        assert_eq!(take(&mut buffers), (vec![vec![]], 0));
    }

    #[test]
    fn a_failed_call_leaves_nothing_behind() {
        let mut buffers = Buffers::new(1, ENOUGH);
        buffers.fill(|_, _| Ok(1)).unwrap();
        buffers
            .fill(|_, _| Err(io::ErrorKind::WouldBlock.into()))
            .unwrap_err();
        assert_eq!(take(&mut buffers), (vec![], 0));
    }

    #[test]
    fn addresses_are_spelled_one_way() {
        let plain: SocketAddr = "192.0.2.7:4000".parse().unwrap();
        assert_eq!(normalised("[::ffff:192.0.2.7]:4000".parse().unwrap()), plain);
        assert_eq!(normalised(plain), plain);
        let v6 = "fe80::1".parse().unwrap();
        let labelled = SocketAddrV6::new(v6, 1, 9, 2).into();
        assert_eq!(normalised(labelled), SocketAddrV6::new(v6, 1, 0, 2).into());
    }
}
