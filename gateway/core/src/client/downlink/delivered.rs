//! What the client took of what had waited for it, told when it has all of it.

use core::time::Duration;

use super::{Downlink, Queued};
use crate::client::{Client, State};
use crate::context::Context;
use crate::io::Notice;

/// What a client took of what had waited for it.
#[derive(Debug, Default)]
pub(super) struct Delivered {
    messages: u32,
    bytes: u64,
    waited: Duration,
}

impl Downlink {
    /// From now on counts what the client takes, if anything waits for it.
    pub(crate) fn count_delivered(&mut self) {
        if self.len() > 0
            && let Some(work) = &mut self.work
        {
            work.delivered = Some(Delivered::default());
        }
    }
}

impl Client {
    /// The client has taken a message.
    pub(super) fn took(&mut self, cx: &mut Context, item: &Queued) {
        cx.metrics.delivered_total += 1;
        let now = cx.links.now;
        let Some(delivered) = self.down.work.as_mut().and_then(|work| work.delivered.as_mut()) else {
            return;
        };
        delivered.messages += 1;
        delivered.bytes += item.message.payload.len() as u64;
        delivered.waited = delivered.waited.max(now.since(item.since));
        if self.down.len() == 0 && matches!(self.state, State::Active) {
            self.tell_delivered(cx);
        }
    }

    /// What had waited for the client is with it.
    pub(crate) fn tell_delivered(&mut self, cx: &mut Context) {
        let delivered = self.down.work.as_mut().and_then(|work| work.delivered.take());
        if let Some(delivered) = delivered
            && delivered.messages > 0
        {
            cx.notice(Notice::Delivered {
                client: self.id.clone(),
                messages: delivered.messages,
                bytes: delivered.bytes,
                waited: delivered.waited,
            });
        }
    }
}
