//! From CONNECT to the end of a connection: which CONNECT goes on with what there was (A18 to A20), handshakes that are
//! not finished (A21), how long a client may be silent (A28), who may be sent away (A78).

use core::time::Duration;

use gateway_core::config::GatewayConfig;
use gateway_core::time::Instant;
use sn_codec::{Connect, MsgType, Packet, ReturnCode};

use super::client::{ClientModel, Phase};
use super::sleep::WAKE_TIME_MAX;
use super::violation::{Check, ensure};
use super::wills::will_is_published;
use super::{LATE, Reference};
use crate::sim_client::Presence;
use crate::{Address, ClientIx};

impl Reference {
    /// The gateway answers a CONNECT.
    pub(super) fn on_connack(&mut self, ix: usize, addr: &Address, code: ReturnCode) -> Check {
        let client = &mut self.clients[ix];
        if client.bound.as_ref() != Some(addr) {
            return ensure(
                code != ReturnCode::Accepted,
                "CONNACK goes where CONNECT came from",
                || format!("{} at {addr}", client.id),
            );
        }
        if code != ReturnCode::Accepted && client.bad_connects > 0 {
            client.bad_connects -= 1;
            return Ok(());
        }
        ensure(client.connacks_due > 0, "CONNACK answers CONNECT", || {
            client.id.to_string()
        })?;
        client.connacks_due -= 1;
        if code == ReturnCode::Accepted {
            client.phase = Phase::Active;
            client.said_goodbye = false;
            client.sent_away = false;
            client.resumes_since = None;
        } else {
            client.phase = Phase::None;
        }
        Ok(())
    }

    /// The gateway says DISCONNECT: an answer, or to who was silent for too long.
    pub(super) fn on_disconnect(&mut self, now: Instant, ix: usize, addr: &Address) -> Check {
        let client = &mut self.clients[ix];
        let strayed = client.stray.take_if(|stray| stray == addr).is_some();
        // A sleeper may have woken there since.
        if client.bound.as_ref() != Some(addr)
            || (strayed && client.phase.is_connected() && !client.said_goodbye)
        {
            return Ok(());
        }
        if client.phase == Phase::Setup && client.late_goodbye {
            return Ok(());
        }
        // One answer is for all that came before it.
        if core::mem::take(&mut client.sleep_answer_due) && !client.said_goodbye {
            return Ok(());
        }
        let silent = now.since(client.last_heard) >= client.tolerated(&self.config);
        let asked = client.said_goodbye || client.sent_away;
        ensure(
            !client.phase.is_connected() || asked || silent,
            "no unasked DISCONNECT",
            || client.id.to_string(),
        )?;
        client.end();
        Ok(())
    }

    /// The gateway gave a client up.
    pub(super) fn on_lost_client(&mut self, now: Instant, client: &str, will: bool) -> Check {
        let weak = self.is_weak();
        let Some(model) = self.clients.iter_mut().find(|c| *c.id == *client) else {
            return Ok(());
        };
        let silence = now.since(model.last_heard);
        ensure(
            silence >= model.tolerated(&self.config),
            "lost only after silence (A28)",
            || format!("{client} after {silence:?}"),
        )?;
        ensure(!model.said_goodbye, "not lost after DISCONNECT (A26)", || {
            client.to_string()
        })?;
        will_is_published(&self.config, weak, model, will)?;
        model.phase = Phase::Lost;
        model.challenge = None;
        model.interrupt();
        model.wills_due.extend(model.will.clone().filter(|_| will));
        model.losses += 1;
        if model.clean {
            model.record_gone();
        }
        Ok(())
    }

    /// The gateway ended a connection in good order.
    pub(super) fn on_sent_away(&mut self, client: &str) -> Check {
        let refused = self.refused_filter;
        let Some(model) = self.clients.iter_mut().find(|c| *c.id == *client) else {
            return Ok(());
        };
        // A78: only when the broker took a subscription back, or the gateway stops.
        model.challenge = None;
        model.sent_away = !model.said_goodbye && (refused || self.shutting_down);
        ensure(
            model.said_goodbye || model.sent_away,
            "nobody is sent away (A78)",
            || client.to_string(),
        )?;
        if model.clean {
            model.record_gone();
        }
        Ok(())
    }

    /// Where a client is in its session, as far as the gateway can know.
    pub fn presence(&self, client: ClientIx) -> Presence {
        match self.model(client).phase {
            Phase::None | Phase::Setup | Phase::Lost => Presence::Away,
            Phase::Active => Presence::Active,
            Phase::Asleep | Phase::Awake => Presence::Asleep,
        }
    }

    /// Whoever was silent for too long is lost by now, so that its will is published when it should be.
    ///
    /// # Errors
    /// That is not so.
    pub fn check_silence(&mut self, now: Instant) -> Check {
        self.pass_time(now);
        let overdue = self.clients.iter().find(|c| {
            let since = match c.phase {
                Phase::Active => c.last_heard,
                Phase::Asleep => c.last_heard.max(c.asleep_since),
                // A wake-up ends by itself, and what follows counts from the last message all the same.
                Phase::Awake => c.last_heard.max(c.woken) + WAKE_TIME_MAX,
                Phase::None | Phase::Setup | Phase::Lost => return false,
            };
            now > since + c.tolerated(&self.config) + LATE
        });
        ensure(overdue.is_none(), "a silent client is lost in time (A28)", || {
            let of = |c: &ClientModel| format!("{} {:?}, last heard at {}", c.id, c.phase, c.last_heard);
            overdue.map(of).unwrap_or_default()
        })
    }
}

impl ClientModel {
    /// Silence after which the client may be taken for lost; for ever without keep-alive.
    fn tolerated(&self, config: &GatewayConfig) -> Duration {
        // Until its return from sleep is complete a client is asleep.
        let returning = self.resumes_since.is_some() && self.resumed == Phase::Asleep;
        let every = match self.phase {
            Phase::Asleep | Phase::Awake => self.sleep,
            Phase::Setup if returning => self.sleep,
            Phase::None | Phase::Setup | Phase::Active | Phase::Lost => self.keep_alive,
        };
        if every.is_zero() {
            config.timers.idle_eviction
        } else {
            every * config.timers.keep_alive_tolerance_percent / 100
        }
    }

    /// A18: whether the client has done nothing since its CONNECT but what completes it.
    pub(super) fn note_fresh(&mut self, packet: &Packet<'_>) {
        let setting_up = self.phase == Phase::Setup && !self.handshake_done;
        self.fresh = match packet {
            Packet::Connect(_) => true,
            Packet::WillTopic(_) | Packet::WillMsg(_) if setting_up => true,
            Packet::WillMsg(_) => self.fresh,
            _ => self.fresh && setting_up,
        };
    }

    /// A CONNECT from where the client may be.
    pub(super) fn on_connect(&mut self, now: Instant, from: &Address, connect: Connect<'_>) {
        let parameters = (connect.will, connect.clean_session, connect.duration);
        let repeated = self.bound.as_ref() == Some(from) && self.parameters == Some(parameters);
        let flags = |(will, clean, _): (bool, bool, u16)| (will, clean);
        let same_flags = self.parameters.map(flags) == Some(flags(parameters));
        let resumes = match self.phase {
            // It is connected, even if the CONNACK has not left yet.
            Phase::Setup if self.handshake_done => repeated && self.fresh,
            // A18: our CONNACK was lost, and the client has done nothing since.
            Phase::Active => repeated && self.fresh,
            // A20: the return from sleep keeps everything, whatever Clean says.
            Phase::Asleep | Phase::Awake => same_flags,
            Phase::Setup => self.resumes_since.is_some() && same_flags,
            Phase::None | Phase::Lost => false,
        };
        match self.phase {
            Phase::Active => self.resumed = Phase::Active,
            Phase::Asleep | Phase::Awake => self.resumed = Phase::Asleep,
            Phase::None | Phase::Setup | Phase::Lost => {}
        }
        self.sleep_answer_due = false;
        self.ping_put_off = None;
        self.resumes_since = resumes.then_some(now);
        let strayed = self.stray.take().as_ref() == Some(from);
        let still_due = self.late_goodbye && self.phase == Phase::Setup;
        self.late_goodbye = strayed || still_due || (self.said_goodbye && self.phase != Phase::None);
        self.gone = false;
        self.parameters = Some(parameters);
        self.bound = Some(from.clone());
        self.phase = Phase::Setup;
        // A19, A20: a clean session ends with its connection.
        let anew = connect.clean_session || self.clean;
        self.clean = connect.clean_session;
        self.keep_alive = Duration::from_secs(u64::from(connect.duration));
        self.connacks_due += 1;
        self.handshake_done = !connect.will;
        self.will_topic_given = false;
        self.ignores_register = false;
        self.no_dup = false;
        self.interrupt();
        if resumes {
            if (self.resumed == Phase::Active || core::mem::take(&mut self.thought_asleep))
                && let Some(payload) = self.down.as_ref().and_then(|down| down.payload.clone())
            {
                self.started.entry(payload).or_default().resumed = true;
            }
            return;
        }
        self.confirmed.clear();
        self.refused_names.clear();
        self.subscribes.clear();
        if anew {
            self.last_finished = None;
            self.forget();
            self.will = None;
        }
    }

    /// A21: a handshake that is not finished is given up silently, and a session that it resumed is as before.
    pub(super) fn end_of_setup(&mut self, now: Instant, config: &GatewayConfig) {
        let over = self
            .resumes_since
            .is_some_and(|since| now.since(since) >= config.timers.will_handshake);
        if self.phase == Phase::Setup && over {
            // Or it was lost between: then the client is told to connect again.
            self.sent_away = true;
            self.phase = self.resumed;
        }
    }

    /// A DISCONNECT for good came.
    pub(super) fn on_goodbye(&mut self) {
        self.said_goodbye = true;
        self.gone = true;
        self.interrupt();
    }

    /// The session is over for good.
    fn forget(&mut self) {
        self.subs.clear();
        self.maybe.clear();
        self.owed.clear();
        for exchange in core::mem::take(&mut self.up).into_values() {
            if !exchange.sent && !exchange.finished {
                *self.abandoned.entry(exchange.payload).or_default() += 1;
            }
        }
        self.confirmed.clear();
        self.told.clear();
        if let Some(down) = &mut self.down {
            down.closed = true;
        }
    }

    /// The gateway said DISCONNECT.
    fn end(&mut self) {
        self.phase = Phase::None;
        // A kept session's publishes go on, and are answered in a later connection.
        self.due
            .retain(|(kind, _), _| !self.clean && *kind == MsgType::Puback);
        self.interrupt();
        if self.clean {
            self.forget();
        }
    }

    /// The gateway's record of the client is gone. A35 holds nevertheless.
    pub(super) fn record_gone(&mut self) {
        self.forget();
        self.answers_register = false;
    }
}
