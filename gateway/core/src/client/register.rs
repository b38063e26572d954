//! REGISTER and REGACK (§6.5, §7.3).

use sn_codec::{Regack, Register, ReturnCode, TopicId};

use super::{Client, Reply};
use crate::context::Context;
use crate::time::Instant;

impl Client {
    /// C→G REGISTER(0, m, name)   G→C REGACK(id, m, 0)
    pub(crate) fn on_register(&mut self, cx: &mut Context, register: Register<'_>) {
        let name = cx.names.intern(register.topic_name);
        let known = self.topics.by_name(&name).is_some_and(|topic| topic.told);
        let answer = match self.topics.assign(&name, cx.config.limits.topics_per_client) {
            Ok(id) => {
                self.topics.tell(id);
                Reply::Regack(id, register.msg_id, ReturnCode::Accepted)
            }
            // Reading A38: congestion would mean "again later", an invalid id "register again".
            Err(_) => Reply::Regack(TopicId::NONE, register.msg_id, ReturnCode::NotSupported),
        };
        match known {
            // It may be known for so short a time that the next life would not find it.
            true if cx.journal.is_busy() => self.reply_durably(cx, answer),
            true => self.reply_promised(cx, answer),
            false => {
                self.touch();
                self.reply_durably(cx, answer);
            }
        }
    }

    /// G→C REGISTER(id, m, name)   C→G REGACK(id, m, rc), then the PUBLISH it was for.
    pub(crate) fn on_regack(&mut self, cx: &mut Context, now: Instant, regack: Regack) {
        // A late one tells as well that the client has the habit of answering (reading A40).
        self.down.answers_register();
        let Some(topic_id) = self.down.registering(cx, regack.topic_id, regack.msg_id) else {
            cx.metrics.unexpected_total += 1;
            return;
        };
        match regack.return_code {
            ReturnCode::Accepted => {
                self.topics.confirm(topic_id);
                self.touch_lazily();
                self.publish_now();
            }
            ReturnCode::Congestion => self.pause_deliveries(now),
            // Reading A40: this name is not delivered any more in this connection; the session goes on.
            ReturnCode::InvalidTopicId | ReturnCode::NotSupported | ReturnCode::Reserved(_) => {
                if let Some(topic) = self.topics.by_id_mut(topic_id) {
                    topic.rejected = true;
                }
                cx.metrics.rejected_by_client_total += 1;
                self.finish_exchange(cx);
            }
        }
    }
}
