//! Wills: what a client leaves as its will, and that it is published once for each loss (A26).

use bytes::Bytes;
use gateway_core::config::{Durability, GatewayConfig, Limits};
use gateway_core::io::Will;
use sn_codec::{QoS, WillTopic};

use super::Reference;
use super::client::ClientModel;
use super::violation::{Check, Violation, ensure};
use crate::ClientIx;

impl Reference {
    /// A client has a will with this message.
    pub fn add_will(&mut self, client: ClientIx, message: Bytes) {
        self.wills.insert(message, self.models[client.0]);
    }

    /// The gateway publishes a will.
    pub(super) fn on_will(
        &mut self,
        ix: usize,
        topic: &str,
        qos: QoS,
        retain: bool,
        payload: &Bytes,
    ) -> Check {
        let prefix = &self.config.upstream.topic_prefix;
        let client = &mut self.clients[ix];
        let is = |will: &Will| {
            *topic == format!("{prefix}{}", will.topic)
                && will.qos == qos
                && will.retain == retain
                && will.payload == payload
        };
        let due = client.wills_due.iter().position(is);
        if due.is_none() && client.wills_again.iter().any(is) {
            return Ok(());
        }
        let due = due.ok_or_else(|| {
            let detail = format!(
                "{payload:?} on {topic} of {}, due {:?}",
                client.id, client.wills_due
            );
            Violation::new("a will is published once for each loss (A26)", detail)
        })?;
        let will = client.wills_due.remove(due);
        if self.durable {
            client.wills_emitted.push(will);
        }
        Ok(())
    }

    /// Wills that were due and not handed to the broker.
    pub fn missing_wills(&self) -> Vec<String> {
        let due = |c: &ClientModel| -> Vec<String> {
            c.wills_due
                .iter()
                .map(|will| format!("{will:?} of {}", c.id))
                .collect()
        };
        self.clients.iter().flat_map(due).collect()
    }
}

impl ClientModel {
    pub(super) fn set_will_topic(&mut self, body: Option<WillTopic<'_>>) {
        self.will = body.map(|body| Will {
            topic: body.topic.into(),
            payload: self.will.take().map(|will| will.payload).unwrap_or_default(),
            qos: body.qos,
            retain: body.retain,
        });
    }

    pub(super) fn set_will_message(&mut self, message: &[u8]) {
        if let Some(will) = &mut self.will {
            will.payload = Bytes::copy_from_slice(message);
        }
    }
}

/// A26: nothing is published for who has no will, and one that there is goes to the broker.
pub(super) fn will_is_published(
    config: &GatewayConfig,
    disk_fails: bool,
    model: &ClientModel,
    will: bool,
) -> Check {
    let known = model.will.is_some();
    ensure(known || !will, "the will is known", || {
        format!("none of {}", model.id)
    })?;
    // A26: nothing but a full queue keeps a will of QoS 1 or 2 from being published.
    let by_limit = config.limits.queue_messages < Limits::default().queue_messages
        || disk_fails
        || config
            .durability
            .as_ref()
            .is_some_and(|rules| rules.spool_messages < Durability::default().spool_messages);
    ensure(will || !known || by_limit, "a will is published", || {
        format!("{:?} of {}", model.will, model.id)
    })
}
