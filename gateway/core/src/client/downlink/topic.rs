//! How the client is told the topic of a message: under an id that it knows, or by REGISTER.

use std::sync::Arc;

use sn_codec::{ShortTopic, TopicRef};

use super::exchange::Step;
use crate::client::Client;
use crate::client::subscribe::Form;
use crate::context::Context;
use crate::registry::NormalTopic;

impl Client {
    /// How the client is told the topic (reading A42), or `None` if it refused the name.
    pub(super) fn topic_for(&mut self, cx: &mut Context, name: &Arc<str>) -> Option<(Step, TopicRef)> {
        // A number that the client was never told is none yet.
        let known = |topic: &&NormalTopic| topic.told || topic.confirmed || topic.rejected;
        if let Some(topic) = self.topics.by_name(name).filter(known) {
            if topic.rejected {
                return None;
            }
            let skip = topic.confirmed || self.down.no_register;
            let step = if skip {
                Step::Publish
            } else {
                Step::Register(topic.id)
            };
            return Some((step, TopicRef::Normal(topic.id)));
        }
        let subscribed = self.subscriptions.iter().find_map(|mine| match mine.form {
            Form::Predefined(id) => {
                let filter = cx.subscriptions.get_mut(mine.filter)?;
                (filter.name == *name).then_some(id)
            }
            Form::Name | Form::Short => None,
        });
        if let Some(id) = subscribed.or_else(|| cx.predefined.id_of(self.rule, &self.id, name)) {
            return Some((Step::Publish, TopicRef::Predefined(id)));
        }
        if let Ok(short) = <[u8; 2]>::try_from(name.as_bytes()) {
            return Some((Step::Publish, TopicRef::Short(ShortTopic(short))));
        }
        self.register_for(cx, name)
    }

    /// A normal id for a name the client does not know yet.
    pub(super) fn register_for(&mut self, cx: &mut Context, name: &Arc<str>) -> Option<(Step, TopicRef)> {
        if self.down.no_register {
            return None;
        }
        let id = self
            .topics
            .assign(name, cx.config.limits.topics_per_client)
            .ok()?;
        Some((Step::Register(id), TopicRef::Normal(id)))
    }
}
