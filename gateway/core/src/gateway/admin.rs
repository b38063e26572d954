//! Questions to the gateway, and what it has counted.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::Gateway;
use crate::admin::{AdminCommand, AdminReply, SpoolRow, TopicRow};
use crate::context::Context;
use crate::link_metrics::LinkMetrics;
use crate::metrics::Metrics;
use crate::peer::LinkId;
use crate::time::Instant;
use crate::upstream::Author;
use crate::upstream::spooled::Spooled;

/// Rows of one admin answer.
const ADMIN_ROWS_MAX: usize = 1000;

impl Gateway {
    /// Answers a question, or does as it is told.
    pub fn handle_admin(&mut self, now: Instant, command: AdminCommand) -> AdminReply {
        match command {
            AdminCommand::Metrics => {
                let oldest = self.cx.upstream.oldest_spooled();
                self.cx.metrics.spool_oldest_seconds = oldest.map_or(0, |since| now.since(since).as_secs());
                AdminReply::Metrics(self.metrics().rows())
            }
            AdminCommand::Spool { after, limit } => self.spool_rows(now, after, limit.min(ADMIN_ROWS_MAX)),
            AdminCommand::SpoolDrop { id } => {
                let Context {
                    upstream, journal, ..
                } = &mut self.cx;
                let dropped = match id {
                    Some(id) => usize::from(upstream.drop_by_hand(journal, id)),
                    None => upstream.drop_all_by_hand(journal),
                };
                // Who said so does not want to see them again after a restart.
                journal.hurry();
                AdminReply::SpoolDropped(dropped)
            }
            AdminCommand::Topics { offset, limit } => self.topic_rows(offset, limit.min(ADMIN_ROWS_MAX)),
        }
    }

    fn spool_rows(&self, now: Instant, after: u64, limit: usize) -> AdminReply {
        let (spooled, more) = self.cx.upstream.spooled(after, limit);
        let wanted: FxHashSet<Author> = spooled.iter().map(|row| row.author).collect();
        let senders: FxHashMap<Author, Arc<str>> = self
            .clients
            .iter()
            .filter(|(_, client)| wanted.contains(&client.author))
            .map(|(_, client)| (client.author, client.id.clone()))
            .collect();
        let row = |row: Spooled| SpoolRow {
            id: row.id,
            client: senders.get(&row.author).cloned(),
            topic: row.message.topic,
            qos: row.message.qos,
            retain: row.message.retain,
            payload: row.message.payload,
            age: now.since(row.since),
            state: row.state,
        };
        AdminReply::Spool {
            rows: spooled.into_iter().map(row).collect(),
            more,
        }
    }

    fn topic_rows(&self, offset: usize, limit: usize) -> AdminReply {
        let predefined = self
            .cx
            .predefined
            .rows()
            .into_iter()
            .map(|(id, client, topic)| TopicRow {
                id,
                kind: "predefined",
                client,
                topic,
            });
        let registered = self.clients.iter().flat_map(|(_, client)| {
            client.topics.normal().iter().map(|topic| TopicRow {
                id: topic.id.0,
                kind: "registered",
                client: client.id.clone(),
                topic: topic.name.clone(),
            })
        });
        let mut rows: Vec<_> = predefined
            .chain(registered)
            .skip(offset)
            .take(limit + 1)
            .collect();
        let more = rows.len() > limit;
        rows.truncate(limit);
        AdminReply::Topics { rows, more }
    }

    /// What was counted so far.
    pub fn metrics(&mut self) -> &Metrics {
        let metrics = &mut self.cx.metrics;
        self.cx.upstream.measure(metrics);
        metrics.filters = self.cx.subscriptions.len() as u64;
        metrics.clients = self.clients.len() as u64;
        [
            metrics.clients_active,
            metrics.clients_asleep,
            metrics.clients_awake,
            metrics.clients_connecting,
            metrics.clients_disconnected,
            metrics.clients_lost,
        ] = self.clients.states();
        metrics
    }

    /// What was counted on a link so far, and what waits there.
    pub fn link_metrics(&self, now: Instant, link: LinkId) -> Option<LinkMetrics> {
        self.cx.links.metrics(now, link)
    }
}
