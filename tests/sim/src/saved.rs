//! What the gateway's records say, read without the gateway's help: the layout is a promise to the next version too.

use bytes::Bytes;

/// The kinds of values.
pub mod kind {
    /// A client's session.
    pub const SESSION: u8 = 1;
    /// A message for the broker.
    pub const UPLINK: u8 = 2;
    /// A message for clients.
    pub const MESSAGE: u8 = 4;
    /// The broker has released the delivery that brought it.
    pub const RELEASED: u8 = 7;
    /// How far one of its recipients is.
    pub const PROGRESS: u8 = 5;
}

/// The beginning of a client's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedSession {
    /// Its id.
    pub id: String,
    /// As asked for.
    pub clean: bool,
    /// Seconds.
    pub keep_alive: u16,
    /// Its state.
    pub phase: SavedPhase,
    /// Seconds between two wake-ups.
    pub sleep: u16,
}

/// The state of a stored session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // As the specification calls them.
pub enum SavedPhase {
    Active,
    Asleep,
    Disconnected,
    Lost,
}

/// A message for the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedUplink {
    /// Where.
    pub topic: String,
    /// What.
    pub payload: Bytes,
    /// With which QoS.
    pub qos: u8,
}

impl SavedSession {
    /// Reads it; `None` if the value is something else.
    pub fn decode(value: &Bytes) -> Option<SavedSession> {
        let mut from = Octets(value);
        let id = from.after_version()?.string()?;
        let flags = from.number(1)?;
        let keep_alive = from.number(2)? as u16;
        let phase = match from.number(1)? {
            0 => SavedPhase::Active,
            1 => SavedPhase::Asleep,
            2 => SavedPhase::Disconnected,
            3 => SavedPhase::Lost,
            _ => return None,
        };
        let sleep = from.number(2)? as u16;
        Some(SavedSession {
            id,
            clean: flags & 1 != 0,
            keep_alive,
            phase,
            sleep,
        })
    }
}

impl SavedUplink {
    /// Reads it; `None` if the value is something else.
    pub fn decode(value: &Bytes) -> Option<SavedUplink> {
        let mut from = Octets(value);
        // Stage and packet id, connection, client, message id, digest, time.
        from.after_version()?.take(3 + 4 + 4 + 2 + 4 + 8)?;
        let qos = from.number(1)? as u8;
        from.take(1)?;
        let topic = from.string()?;
        let len = from.number(4)? as usize;
        let payload = Bytes::copy_from_slice(from.take(len)?);
        Some(SavedUplink { topic, payload, qos })
    }
}

/// The delivery that brought a message for clients, with QoS 2.
pub fn message_from(value: &Bytes) -> Option<(u32, u64)> {
    let mut from = Octets(value);
    if from.after_version()?.number(1)? == 0 {
        return None;
    }
    Some((from.number(4)? as u32, from.number(8)?))
}

/// The payload of a message for clients.
pub fn message_payload(value: &Bytes) -> Option<Bytes> {
    let mut from = Octets(value);
    if from.after_version()?.number(1)? != 0 {
        from.take(4 + 8)?;
    }
    from.take(8 + 1)?;
    from.string()?;
    let len = from.number(4)? as usize;
    Some(Bytes::copy_from_slice(from.take(len)?))
}

struct Octets<'a>(&'a [u8]);

impl<'a> Octets<'a> {
    fn after_version(&mut self) -> Option<&mut Self> {
        (self.number(1)? == 1).then_some(self)
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self, len: usize) -> Option<u64> {
        let octets = self.take(len)?.iter();
        Some(octets.fold(0, |number, octet| number << 8 | u64::from(*octet)))
    }

    fn string(&mut self) -> Option<String> {
        let len = self.number(2)? as usize;
        String::from_utf8(self.take(len)?.to_vec()).ok()
    }
}
