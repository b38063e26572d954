//! What modules of one network exchange on the simulated air.

use core::time::Duration;

use super::Nap;

/// A message from one module to another; without data it only tells that the sender is there.
///
/// The real frames are of no interest, for no gateway sees them: this one has what the receiving module tells its host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AirFrame {
    /// The receiver's 64-bit address; 0 is the coordinator, 0xFFFF is everyone.
    pub to: u64,
    /// The sender's 64-bit address.
    pub from: u64,
    /// The sender's 16-bit address.
    pub network: u16,
    /// When the sender listens.
    pub sleep: Option<Nap>,
    /// A copy of a broadcast for one receiver.
    pub broadcast: bool,
    /// The message.
    pub data: Vec<u8>,
}

impl AirFrame {
    /// As it is carried.
    pub fn encode(&self) -> Vec<u8> {
        let millis = |time: Duration| (time.as_millis().min(u128::from(u32::MAX)) as u32).to_be_bytes();
        let sleep = self.sleep.unwrap_or(Nap {
            period: Duration::ZERO,
            awake: Duration::ZERO,
        });
        let mut payload = Vec::with_capacity(27 + self.data.len());
        payload.extend(self.to.to_be_bytes());
        payload.extend(self.from.to_be_bytes());
        payload.extend(self.network.to_be_bytes());
        payload.extend(millis(sleep.period));
        payload.extend(millis(sleep.awake));
        payload.push(u8::from(self.broadcast));
        payload.extend(&self.data);
        payload
    }

    /// The frame in a payload; `None` if it is none.
    pub fn decode(payload: &[u8]) -> Option<AirFrame> {
        let (to, rest) = payload.split_first_chunk()?;
        let (from, rest) = rest.split_first_chunk()?;
        let (network, rest) = rest.split_first_chunk()?;
        let (period, rest) = rest.split_first_chunk()?;
        let (awake, rest) = rest.split_first_chunk()?;
        let (broadcast, data) = rest.split_first()?;
        let millis = |octets: &[u8; 4]| Duration::from_millis(u64::from(u32::from_be_bytes(*octets)));
        let sleep = Nap {
            period: millis(period),
            awake: millis(awake),
        };
        Some(AirFrame {
            to: u64::from_be_bytes(*to),
            from: u64::from_be_bytes(*from),
            network: u16::from_be_bytes(*network),
            sleep: (!sleep.period.is_zero()).then_some(sleep),
            broadcast: *broadcast == 1,
            data: data.to_vec(),
        })
    }
}
