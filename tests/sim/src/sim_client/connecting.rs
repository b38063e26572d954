//! Connecting: CONNECT, [WILLTOPICREQ, WILLTOPIC, WILLMSGREQ, WILLMSG], CONNACK (§6.2, 6.3).

use core::time::Duration;

use gateway_core::time::Instant;
use sn_codec::{Connect, Packet, ReturnCode, WillMsg, WillTopic};

use super::{Action, Exchange, Kind, Nap, Presence, SimClient, State, encode};

impl SimClient {
    pub(super) fn send_connect(&mut self, now: Instant) {
        // It may be asleep for the gateway before it hears so.
        let asleep = self.presence() == Presence::Asleep || self.open.iter().any(|e| e.kind == Kind::Sleep);
        self.returning |= asleep;
        self.prompted = false;
        let connect = Packet::Connect(Connect {
            will: self.config.will.is_some(),
            clean_session: self.config.clean,
            duration: self.config.keep_alive,
            client_id: &self.config.id,
        });
        let last = self.encode_own(&connect);
        self.handshake(now, last);
    }

    fn handshake(&mut self, now: Instant, last: Vec<u8>) {
        self.outbox.push_back(last.clone());
        self.last_sent = now;
        self.state = State::Connecting {
            last,
            sends: 1,
            deadline: now + self.config.retry,
        };
    }

    pub(super) fn on_will_topic_req(&mut self, now: Instant) {
        self.prompted = true;
        let topic = self.config.will.as_ref().map(|will| WillTopic {
            qos: will.qos,
            retain: will.retain,
            topic: &will.topic,
        });
        let answer = encode(&Packet::WillTopic(topic));
        self.answer_prompt(now, answer);
    }

    pub(super) fn on_will_msg_req(&mut self, now: Instant) {
        let Some(will) = &self.config.will else { return };
        let answer = encode(&Packet::WillMsg(WillMsg {
            message: &will.payload,
        }));
        self.answer_prompt(now, answer);
    }

    fn answer_prompt(&mut self, now: Instant, answer: Vec<u8>) {
        match self.state {
            State::Connecting { .. } => self.handshake(now, answer),
            // The network repeated our CONNECT: go along, or the gateway waits for us in vain.
            State::Active | State::Asleep { .. } | State::Awake { .. } => {
                self.outbox.push_back(answer);
                self.last_sent = now;
            }
            State::Off | State::Idle | State::Waiting(_) => {}
        }
    }

    pub(super) fn on_connack(&mut self, now: Instant, code: ReturnCode) {
        let unprompted = self.config.will.is_some() && !self.prompted;
        if self.config.quirks.waits_for_prompts && unprompted {
            return;
        }
        match self.state {
            State::Connecting { .. } if code == ReturnCode::Accepted => self.begin_session(now),
            State::Connecting { .. } => {
                self.rejections.push(("CONNACK", code));
                self.state = State::Waiting(now + self.config.wait);
            }
            // The network repeated our CONNECT: the session began anew.
            State::Active if code == ReturnCode::Accepted => self.begin_session(now),
            State::Off | State::Idle | State::Waiting(_) | State::Active => {}
            State::Asleep { .. } | State::Awake { .. } => {}
        }
    }

    fn begin_session(&mut self, now: Instant) {
        let again = self.state == State::Active;
        self.state = State::Active;
        self.paused_until = Instant::START;
        // Requests that were open come first again, in their order; answers to them may be lost for ever.
        for exchange in core::mem::take(&mut self.open).into_iter().rev() {
            match exchange.kind {
                Kind::Ping | Kind::Register => {}
                Kind::Pubrel => self.open.insert(
                    0,
                    Exchange {
                        sends: 0,
                        deadline: now,
                        ..exchange
                    },
                ),
                // MQTT 3.1.1 §4.4: with a kept session the same message id, so that the other side knows it again.
                Kind::Publish if !self.config.clean => {
                    self.open.insert(
                        0,
                        Exchange {
                            deadline: now,
                            sends: 1,
                            ..exchange
                        },
                    );
                }
                Kind::Publish
                | Kind::Subscribe
                | Kind::Unsubscribe
                | Kind::WillTopicUpd
                | Kind::WillMsgUpd
                | Kind::Disconnect
                | Kind::Sleep => self.todo.push_front(exchange.action),
            }
        }
        self.missed_in_a_row = 0;
        let returning = core::mem::take(&mut self.returning);
        if self.config.clean && !returning {
            self.ids.clear();
            self.names.clear();
            if !again {
                self.received.clear();
                self.released.clear();
            }
        }
        if self.config.clean && !(returning && self.config.quirks.trusts_session) {
            self.subscribed.clear();
            for (topic, qos) in self.wanted.iter().rev() {
                let again = Action::Subscribe {
                    topic: topic.clone(),
                    qos: *qos,
                };
                if !self.todo.contains(&again) {
                    self.todo.push_front(again);
                }
            }
        }
        // Back to sleep once everything is done.
        let nap = self.nap.take().filter(|nap| nap.left > 0);
        if let Some(Nap { duration, left: naps }) = nap
            && !self
                .todo
                .iter()
                .any(|action| matches!(action, Action::Sleep { .. }))
        {
            self.todo.push_back(Action::Sleep { duration, naps });
        }
        self.repeat_due(now);
    }

    pub(super) fn on_disconnect(&mut self, now: Instant) {
        if self.open.iter().any(|e| e.kind == Kind::Disconnect) {
            self.open.clear();
            self.state = State::Idle;
            return;
        }
        if self.open.iter().any(|e| e.kind == Kind::Sleep) {
            return self.fall_asleep(now);
        }
        if !self.has_session() && !matches!(self.state, State::Connecting { .. }) {
            return;
        }
        let quirks = self.config.quirks;
        if quirks.ignores_disconnect {
            return;
        }
        self.kicked += 1;
        let half_received = !(self.received.is_empty() && self.released.is_empty());
        let asleep = self.presence() == Presence::Asleep || self.returning;
        self.forgot_asleep += usize::from(asleep && half_received && self.config.clean);
        self.returning = false;
        if quirks.exits_on_disconnect {
            self.vanish();
        } else {
            self.state = State::Waiting(now + Duration::from_millis(500));
        }
    }
}
