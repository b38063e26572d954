//! A message on its way to clients, and the record of it in the store.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::Arc;

use bytes::Bytes;

use crate::io::{ConnId, DeliveryId};

/// A message from the broker, shared by all clients that get it. An empty payload is one like any other (reading A47).
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) topic: Arc<str>,
    pub(crate) payload: Bytes,
    /// As the broker delivered it (reading A66).
    pub(crate) retain: bool,
    /// What is stored of it.
    pub(crate) stored: Option<Stored>,
}

impl Message {
    pub(super) fn size(&self) -> usize {
        self.topic.len() + self.payload.len()
    }
}

/// A message in the store.
#[derive(Debug)]
pub(crate) struct Stored {
    /// Its number.
    pub(crate) id: u64,
    /// The broker's QoS 2 delivery that brought it.
    pub(crate) from: Option<(ConnId, DeliveryId)>,
    /// Recipients that were given a place in its record, and those of them that do not have it yet.
    pub(crate) recipients: AtomicU32,
    pub(crate) left: AtomicU32,
    /// Not durable yet. With QoS 2 it is not sent before: a later life would send it under another message id.
    pub(crate) unsure: AtomicBool,
}

impl Stored {
    pub(crate) fn new(id: u64, from: Option<(ConnId, DeliveryId)>, unsure: bool) -> Self {
        Stored {
            id,
            from,
            recipients: AtomicU32::new(0),
            left: AtomicU32::new(0),
            unsure: AtomicBool::new(unsure),
        }
    }

    /// One of an earlier life with this many recipients; `restore_queued` counts those that still wait.
    pub(crate) fn restored(id: u64, from: Option<(ConnId, DeliveryId)>, recipients: u32) -> Self {
        Stored {
            id,
            from,
            recipients: AtomicU32::new(recipients),
            left: AtomicU32::new(0),
            unsure: AtomicBool::new(false),
        }
    }

    /// The place of one more recipient.
    pub(super) fn add(&self) -> u32 {
        self.left.fetch_add(1, Ordering::Relaxed);
        self.recipients.fetch_add(1, Ordering::Relaxed)
    }
}
