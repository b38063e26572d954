//! The PINGRESP that follows what waits for the client (reading A16).

use core::time::Duration;

use super::Downlink;
use crate::time::Instant;

/// PINGREQs in a row whose answer waits for messages, until the client takes one (reading A16): the next gets its
/// PINGRESP at once, before a client that cannot take the message gives the gateway up.
const PINGS_PUT_OFF: u8 = 2;

/// How long such a row is: repeats of one PINGREQ are Tretry apart, and a later one is another wake-up.
const ROW_OF_PINGS: Duration = Duration::from_secs(60);

impl Downlink {
    /// True if PINGRESP follows the messages that wait now; the one under way is sent again, for the client says that
    /// it listens.
    pub(crate) fn put_off_pingresp(&mut self, now: Instant) -> bool {
        let waiting = u16::try_from(self.len()).unwrap_or(u16::MAX);
        let Some(work) = self.work.as_mut().filter(|_| waiting > 0) else {
            return false;
        };
        if work.pings_put_off == 0 || now.since(work.put_off_since) >= ROW_OF_PINGS {
            (work.pings_put_off, work.put_off_since) = (0, now);
        }
        if work.pings_put_off >= PINGS_PUT_OFF {
            work.pingresp_after = None;
            return false;
        }
        work.pings_put_off += 1;
        work.pingresp_after = Some(waiting);
        self.repeat_now();
        true
    }

    /// True, once, if the messages that PINGRESP waits for are done with.
    pub(crate) fn take_due_pingresp(&mut self) -> bool {
        let done = self.len() == 0;
        let due = |after: &mut u16| done || *after == 0;
        self.work
            .as_mut()
            .and_then(|work| work.pingresp_after.take_if(due))
            .is_some()
    }
}
