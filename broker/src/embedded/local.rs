//! The gateway as a client in the same process.

use gateway_core::io::{BrokerEvent, BrokerRequest};
use gateway_core::time::Instant;

use super::packet::Reply;
use super::router::{ClientKey, Router};

/// The gateway's attachments to the router: requests in, events out.
///
/// After each batch of inputs, give every output of the router to [`Local::take`] first; once there are none left and
/// the gateway has room for a batch, hand it what [`Local::poll_events`] returns. Both may bring new outputs.
#[derive(Debug, Default)]
pub(crate) struct Local {}

impl Local {
    /// Requests of the gateway, in order.
    pub(crate) fn requests(&mut self, _now: Instant, _router: &mut Router, _requests: Vec<BrokerRequest>) {}

    /// Takes an output of the router that is for the gateway, and gives back any other.
    pub(crate) fn take(
        &mut self,
        _now: Instant,
        _router: &mut Router,
        _client: ClientKey,
        reply: Reply,
    ) -> Option<Reply> {
        Some(reply)
    }

    /// The next batch for the gateway, if there is something worth one. Call it when it can be handed over at once.
    pub(crate) fn poll_events(&mut self, _router: &mut Router) -> Option<Vec<BrokerEvent>> {
        None
    }

    /// Closes everything in good order: what is unsettled is lost.
    pub(crate) fn close(&mut self, _now: Instant, _router: &mut Router) {}
}
