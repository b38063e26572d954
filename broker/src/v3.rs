//! MQTT 3.1.1.

use core::pin::Pin;
use core::time::Duration;
use std::sync::Arc;

use bytes::Bytes;
use gateway_core::io::{ConnectOptions, FilterId, Refusal, Will};
use rumqttc4::mqttbytes::{Error, QoS as WireQoS};
use rumqttc4::{
    AckMode, AsyncClient, ClientError, ConnectReturnCode, ConnectionError, Event, EventLoop, LastWill,
    ManualAck, MqttOptions, NetworkOptions, Packet, PersistedAckMode, PersistedIncomingQos2, PersistedPubRel,
    PersistedPublish, PersistedQoS, PersistedRequest, PersistedSession, PubAck, PubRec, Publish,
    PublishNotice, PublishNoticeError, PublishOptions, PublishResult, SessionStore, SessionStoreError,
    SessionStoreKey, StateError, SubscribeNotice, SubscribeNoticeError, SubscribeReasonCode,
    UnsubscribeNotice, UnsubscribeNoticeError,
};
use sn_codec::QoS;

use crate::mqtt::{Broken, Happening, LARGEST_PACKET, Loss, Message, Mqtt, Outcome, Remedy, Terms, reason};
use crate::port::CREDIT;
use crate::stages::{Content, InFlight, Stages};
use crate::{RemoteConfig, Transport};

/// A client that speaks MQTT 3.1.1.
pub(crate) struct V3(AsyncClient);

/// Reads, writes, connects.
pub(crate) struct Driver {
    events: EventLoop,
    /// What it shows its state to.
    checkpoint: Arc<dyn SessionStore>,
}

/// The outcome of one request.
pub(crate) enum Notice {
    Publish(PublishNotice),
    /// With the QoS that is wanted.
    Subscribe(SubscribeNotice, QoS),
    Unsubscribe(UnsubscribeNotice),
}

impl Mqtt for V3 {
    type Driver = Driver;
    type Notice = Notice;

    fn new(config: &RemoteConfig, options: &ConnectOptions, stages: &Arc<Stages>) -> (Self, Driver) {
        let mut mqtt = mqtt_options(config, options);
        // The packet ids of an earlier life may be higher than today's window.
        let in_flight = config.in_flight.max(stages.highest_restored()).max(1);
        mqtt.set_inflight(in_flight);
        // Refused for an empty client id, which has no session to keep.
        let _ = mqtt.try_set_clean_session(false);
        let checkpoint: Arc<dyn SessionStore> = Arc::new(Checkpoint {
            options: mqtt.clone(),
            stages: stages.clone(),
            restores: !options.clean_start,
        });
        if !options.clean_start || stages.are_kept() {
            mqtt.set_session_store_arc(checkpoint.clone());
        }
        let (client, events) = open(config, mqtt);
        (V3(client), Driver { events, checkpoint })
    }

    /// MQTT 3.1.1 §3.1.2.4: clean session 1 ends the session with the connection too. So one connection discards the
    /// old session and the next one begins the one to keep.
    async fn discard_session(config: &RemoteConfig, options: &ConnectOptions) -> Result<(), Loss> {
        let without_will = ConnectOptions {
            will: None,
            ..options.clone()
        };
        let mut mqtt = mqtt_options(config, &without_will);
        mqtt.set_clean_session(true);
        let (client, mut driver) = open(config, mqtt);
        loop {
            match driver.poll().await.map_err(broken) {
                Ok(Event::Incoming(Packet::ConnAck(_))) => V3(client.clone()).disconnect(),
                Ok(_) => {}
                Err(Broken::Closed) => return Ok(()),
                Err(Broken::Lost(reason)) => return Err(reason),
            }
        }
    }

    async fn poll(driver: &mut Driver) -> Result<Happening, Broken> {
        match driver.events.poll().await.map_err(broken)? {
            Event::Incoming(Packet::ConnAck(connack)) => Ok(Happening::Connected(Terms {
                session_present: connack.session_present,
                receive_maximum: u16::MAX,
                packet_bytes: LARGEST_PACKET,
                maximum_qos: QoS::ExactlyOnce,
                subscription_ids: false,
            })),
            Event::Incoming(Packet::Publish(publish)) => Ok(Happening::Message(message(publish))),
            Event::Incoming(Packet::PubRel(pubrel)) => Ok(Happening::Released(pubrel.pkid)),
            Event::Incoming(_) | Event::Outgoing(_) => Ok(Happening::Progress),
        }
    }

    fn show_state(driver: &mut Driver, shows: bool) {
        let options = &mut driver.events.mqtt_options;
        match shows {
            true => options.set_session_store_arc(driver.checkpoint.clone()),
            false => options.clear_session_store(),
        };
    }

    fn start_over(driver: &mut Driver) {
        driver.events.clean();
        driver.events.reset_session_state();
    }

    fn publish(
        &self,
        topic: &str,
        qos: QoS,
        retain: bool,
        payload: Bytes,
    ) -> Result<Option<Notice>, Refusal> {
        let options = PublishOptions::new(wire_qos(qos)).retain(retain);
        match qos {
            QoS::AtMostOnce => {
                self.0
                    .try_publish(topic, payload, options)
                    .map_err(|error| refusal(&error))?;
                Ok(None)
            }
            QoS::AtLeastOnce | QoS::ExactlyOnce => {
                let notice = self.0.try_publish_tracked(topic, payload, options);
                Ok(Some(Notice::Publish(notice.map_err(|error| refusal(&error))?)))
            }
        }
    }

    /// Asks for QoS 1 at least: of overlapping filters mosquitto goes by the one that it finds first, so a filter with
    /// QoS 0 would take messages from those of other clients. Not for QoS 2, which some brokers do not answer.
    fn subscribe(&self, filter: &str, qos: QoS, _: Option<FilterId>) -> Result<Notice, Refusal> {
        let asked = qos.max(QoS::AtLeastOnce);
        let notice = self.0.try_subscribe_tracked(filter, wire_qos(asked));
        Ok(Notice::Subscribe(notice.map_err(|error| refusal(&error))?, qos))
    }

    fn unsubscribe(&self, filter: &str) -> Result<Notice, Refusal> {
        Ok(Notice::Unsubscribe(
            self.0
                .try_unsubscribe_tracked(filter)
                .map_err(|error| refusal(&error))?,
        ))
    }

    fn acknowledge(&self, packet_id: u16, qos: QoS) {
        let ack = match qos {
            QoS::ExactlyOnce => ManualAck::PubRec(PubRec::new(packet_id)),
            QoS::AtMostOnce | QoS::AtLeastOnce => ManualAck::PubAck(PubAck::new(packet_id)),
        };
        // Fails only when the event loop is gone, and then nothing can be acknowledged.
        let _ = self.0.try_manual_ack(ack);
    }

    fn disconnect(&self) {
        // Fails only when the event loop is gone.
        let _ = self.0.try_disconnect();
    }

    fn disconnect_now(&self) {
        // Fails only when the event loop is gone.
        let _ = self.0.try_disconnect_now();
    }

    async fn outcome(notice: Notice) -> Outcome {
        match notice {
            Notice::Publish(notice) => match notice.wait_async().await {
                Ok(PublishResult::Qos0Flushed | PublishResult::Qos1(_) | PublishResult::Qos2Completed(_)) => {
                    Outcome::Done(None)
                }
                Err(PublishNoticeError::Recv | PublishNoticeError::SessionReset) => Outcome::Lost,
                Err(_) => Outcome::Refused(reason::IMPLEMENTATION_SPECIFIC),
            },
            Notice::Subscribe(notice, wanted) => match notice.wait_async().await {
                Ok(suback) => granted(suback.return_codes.first(), wanted),
                Err(SubscribeNoticeError::Recv | SubscribeNoticeError::SessionReset) => Outcome::Lost,
                Err(_) => Outcome::Refused(reason::IMPLEMENTATION_SPECIFIC),
            },
            Notice::Unsubscribe(notice) => match notice.wait_async().await {
                Ok(_) => Outcome::Done(None),
                Err(UnsubscribeNoticeError::Recv | UnsubscribeNoticeError::SessionReset) => Outcome::Lost,
                Err(_) => Outcome::Refused(reason::IMPLEMENTATION_SPECIFIC),
            },
        }
    }

    fn publish_len(topic: &str, payload: &[u8]) -> usize {
        // Fixed header, length of the topic, packet id.
        5 + 2 + topic.len() + 2 + payload.len()
    }
}

fn mqtt_options(config: &RemoteConfig, options: &ConnectOptions) -> MqttOptions {
    let mut mqtt = match config.transport {
        Transport::Tcp => MqttOptions::new(&*options.client_id, (config.host.as_str(), config.port)),
    };
    mqtt.set_keep_alive(u16::try_from(config.keep_alive.as_secs()).unwrap_or(u16::MAX))
        // No limit of ours: the broker cannot be told, and would send a message that ends the connection for ever.
        .set_max_packet_size(LARGEST_PACKET, LARGEST_PACKET)
        .set_inflight(config.in_flight.max(1))
        .set_max_request_batch(CREDIT as usize)
        .set_ack_mode(AckMode::Manual);
    match (&config.username, &config.password) {
        (None, None) => {}
        (Some(username), None) => {
            mqtt.set_username(username.as_str());
        }
        // MQTT 3.1.1 §3.1.2.9: no password without a user name.
        (username, Some(password)) => {
            mqtt.set_credentials(username.as_deref().unwrap_or_default(), password.clone());
        }
    }
    if let Some(Will {
        topic,
        payload,
        qos,
        retain,
    }) = &options.will
    {
        mqtt.set_last_will(LastWill::new(&**topic, payload.to_vec(), wire_qos(*qos), *retain));
    }
    mqtt
}

fn open(config: &RemoteConfig, mqtt: MqttOptions) -> (AsyncClient, EventLoop) {
    // The channel to the event loop needs no bound: the core's credit is one.
    let (client, mut driver) = AsyncClient::builder(mqtt).unbounded().build();
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    network.set_connection_timeout(whole_seconds(config.connect_timeout));
    driver.set_network_options(network);
    (client, driver)
}

/// Rounded up, since a limit of no seconds would be over before it began.
fn whole_seconds(duration: Duration) -> u64 {
    (duration.as_secs() + u64::from(duration.subsec_nanos() > 0)).max(1)
}

/// What is in flight, as the client library wants it.
#[derive(Debug)]
struct Checkpoint {
    options: MqttOptions,
    stages: Arc<Stages>,
    /// There is an earlier life to go on with.
    restores: bool,
}

type Stored<'a, T> = Pin<Box<dyn Future<Output = Result<T, SessionStoreError>> + Send + 'a>>;

impl SessionStore for Checkpoint {
    fn load<'a>(&'a self, _: &'a SessionStoreKey) -> Stored<'a, Option<PersistedSession>> {
        Box::pin(async {
            if !self.restores {
                return Ok(None);
            }
            let received = self.stages.releases.received().into_iter();
            Ok(Some(PersistedSession {
                format_version: 1,
                client_id: self.options.client_id(),
                clean_session: false,
                max_inflight: self.options.inflight(),
                ack_mode: PersistedAckMode::Manual,
                last_pkid: self.stages.highest_restored(),
                last_puback: 0,
                replay: self.stages.restored().into_iter().map(request).collect(),
                incoming_qos2: received.map(|pkid| PersistedIncomingQos2 { pkid }).collect(),
            }))
        })
    }

    fn save<'a>(&'a self, _: &'a SessionStoreKey, session: &'a PersistedSession) -> Stored<'a, ()> {
        Box::pin(async {
            if self.stages.are_kept() {
                let in_flight = session.replay.iter().filter_map(in_flight).collect();
                self.stages.save(in_flight).await;
            }
            let received = session.incoming_qos2.iter().map(|received| received.pkid);
            self.stages.releases.save(received).await;
            Ok(())
        })
    }

    fn clear<'a>(&'a self, _: &'a SessionStoreKey) -> Stored<'a, ()> {
        // The port learns that the session is gone, and the core stores what follows.
        Box::pin(async {
            self.stages.releases.lose();
            Ok(())
        })
    }
}

fn request(publish: InFlight) -> PersistedRequest {
    let pkid = publish.packet_id;
    match publish.content {
        None => PersistedRequest::PubRel(PersistedPubRel { pkid }),
        Some(content) => PersistedRequest::Publish(PersistedPublish {
            dup: true,
            qos: PersistedQoS::ExactlyOnce,
            retain: content.retain,
            topic: content.topic.to_vec(),
            pkid,
            payload: content.payload.to_vec(),
        }),
    }
}

fn in_flight(request: &PersistedRequest) -> Option<InFlight> {
    match request {
        PersistedRequest::Publish(publish) if publish.qos == PersistedQoS::ExactlyOnce => Some(InFlight {
            packet_id: publish.pkid,
            content: Some(Content {
                topic: Bytes::copy_from_slice(&publish.topic),
                retain: publish.retain,
                payload: Bytes::copy_from_slice(&publish.payload),
            }),
        }),
        PersistedRequest::PubRel(pubrel) => Some(InFlight {
            packet_id: pubrel.pkid,
            content: None,
        }),
        PersistedRequest::Publish(_) | PersistedRequest::Subscribe(_) | PersistedRequest::Unsubscribe(_) => {
            None
        }
    }
}

fn message(publish: Publish) -> Message {
    Message {
        packet_id: publish.pkid,
        dup: publish.dup,
        qos: match publish.qos {
            WireQoS::AtMostOnce => QoS::AtMostOnce,
            WireQoS::AtLeastOnce => QoS::AtLeastOnce,
            WireQoS::ExactlyOnce => QoS::ExactlyOnce,
        },
        retain: publish.retain,
        topic: publish.topic,
        payload: publish.payload,
        filters: Box::default(),
    }
}

fn granted(code: Option<&SubscribeReasonCode>, wanted: QoS) -> Outcome {
    let granted = match code {
        Some(SubscribeReasonCode::Success(WireQoS::AtMostOnce)) => QoS::AtMostOnce,
        Some(SubscribeReasonCode::Success(WireQoS::AtLeastOnce)) => QoS::AtLeastOnce,
        Some(SubscribeReasonCode::Success(WireQoS::ExactlyOnce)) => QoS::ExactlyOnce,
        Some(SubscribeReasonCode::Failure) | None => return Outcome::Refused(reason::UNSPECIFIED),
    };
    Outcome::Done(Some(granted.min(wanted)))
}

fn wire_qos(qos: QoS) -> WireQoS {
    match qos {
        QoS::AtMostOnce => WireQoS::AtMostOnce,
        QoS::AtLeastOnce => WireQoS::AtLeastOnce,
        QoS::ExactlyOnce => WireQoS::ExactlyOnce,
    }
}

/// Why a request did not get as far as the event loop.
fn refusal(error: &ClientError) -> Refusal {
    match error {
        ClientError::InvalidRequest(_) => reason::FILTER_INVALID,
        _ => reason::UNSPECIFIED,
    }
}

fn broken(error: ConnectionError) -> Broken {
    let remedy = match &error {
        ConnectionError::ConnectionRefused(ConnectReturnCode::BadClientId) => Some(Remedy::ClientId),
        ConnectionError::ConnectionRefused(
            ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized,
        ) => Some(Remedy::Login),
        _ => None,
    };
    let reason = match error {
        ConnectionError::RequestsDone => return Broken::Closed,
        ConnectionError::ConnectionRefused(code) => format!("refused by the broker: {}", words(code)),
        ConnectionError::NetworkTimeout => "no answer within the connect timeout".into(),
        ConnectionError::Io(error) => error.to_string(),
        ConnectionError::MqttState(StateError::ConnectionAborted) => "closed by the broker".into(),
        ConnectionError::MqttState(StateError::AwaitPingResp) => "no answer to PINGREQ".into(),
        ConnectionError::MqttState(StateError::Deserialization(error)) => match error {
            Error::Io(error) => error.to_string(),
            error @ (Error::PayloadSizeLimitExceeded(_) | Error::OutgoingPacketTooLarge { .. }) => {
                error.to_string()
            }
            error => format!("it does not speak MQTT ({error})"),
        },
        ConnectionError::NotConnAck(_) => "it does not speak MQTT (no CONNACK came first)".into(),
        error => error.to_string(),
    };
    Broken::Lost(Loss { reason, remedy })
}

/// MQTT 3.1.1 §3.2.2.3, table 3.1.
fn words(code: ConnectReturnCode) -> &'static str {
    match code {
        ConnectReturnCode::Success => "success (0)",
        ConnectReturnCode::RefusedProtocolVersion => "unacceptable protocol version (1)",
        ConnectReturnCode::BadClientId => "client identifier rejected (2)",
        ConnectReturnCode::ServiceUnavailable => "server unavailable (3)",
        ConnectReturnCode::BadUserNamePassword => "bad user name or password (4)",
        ConnectReturnCode::NotAuthorized => "not authorized (5)",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_pass_by_itself_has_a_remedy() {
        let remedy = |code| match broken(ConnectionError::ConnectionRefused(code)) {
            Broken::Lost(loss) => loss.remedy,
            Broken::Closed => None,
        };

        assert_eq!(remedy(ConnectReturnCode::BadClientId), Some(Remedy::ClientId));
        assert_eq!(
            remedy(ConnectReturnCode::BadUserNamePassword),
            Some(Remedy::Login)
        );
        assert_eq!(remedy(ConnectReturnCode::NotAuthorized), Some(Remedy::Login));
        assert_eq!(remedy(ConnectReturnCode::ServiceUnavailable), None);
    }
}
