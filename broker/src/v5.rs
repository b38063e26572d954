//! MQTT 5.

use core::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use gateway_core::io::{ConnectOptions, FilterId, Refusal, Will};
use rumqttc5::mqttbytes::{Error, QoS as WireQoS};
use rumqttc5::{
    AckMode, AsyncClient, ClientError, ConnAck, ConnectReturnCode, ConnectionError, Event, EventLoop,
    LastWill, ManualAck, MqttOptions, NetworkOptions, Packet, PersistedAckMode, PersistedIncomingQos2,
    PersistedPubRel, PersistedPublish, PersistedQoS, PersistedRequest, PersistedSession, PubAck, PubRec,
    Publish, PublishNotice, PublishNoticeError, PublishOptions, PublishResult, SessionStore,
    SessionStoreError, SessionStoreKey, StateError, SubscribeNotice, SubscribeNoticeError,
    SubscribeProperties, SubscribeReasonCode, UnsubscribeNotice, UnsubscribeNoticeError,
};
use sn_codec::QoS;

use crate::mqtt::{
    Broken, Happening, LARGEST_PACKET, Loss, Message, Mqtt, Outcome, RECEIVE_MAXIMUM, Remedy, SESSION_EXPIRY,
    Terms, reason,
};
use crate::port::{CREDIT, MAX_PACKET_BYTES};
use crate::stages::{Content, InFlight, Stages};
use crate::{RemoteConfig, Transport};

/// A client that speaks MQTT 5.
pub(crate) struct V5(AsyncClient);

/// Reads, writes, connects.
pub(crate) struct Driver {
    events: EventLoop,
    /// What it shows its state to.
    checkpoint: Arc<dyn SessionStore>,
}

/// The outcome of one request.
pub(crate) enum Notice {
    Publish(PublishNotice),
    Subscribe(SubscribeNotice),
    Unsubscribe(UnsubscribeNotice),
}

impl Mqtt for V5 {
    type Driver = Driver;
    type Notice = Notice;

    fn new(config: &RemoteConfig, options: &ConnectOptions, stages: &Arc<Stages>) -> (Self, Driver) {
        let mut mqtt = mqtt_options(config, options);
        // The packet ids of an earlier life may be higher than today's window.
        let in_flight = config.in_flight.max(stages.highest_restored()).max(1);
        mqtt.set_outgoing_inflight_upper_limit(in_flight);
        let checkpoint: Arc<dyn SessionStore> = Arc::new(Checkpoint {
            options: mqtt.clone(),
            stages: stages.clone(),
            restores: !options.clean_start,
        });
        if !options.clean_start || stages.are_kept() {
            mqtt.set_session_store_arc(checkpoint.clone());
        }
        let (client, events) = open(mqtt);
        (V5(client), Driver { events, checkpoint })
    }

    /// MQTT 5 §3.1.2.4: clean start concerns one connection only. Yet mosquitto 2.0 writes to its disk only sessions whose
    /// last CONNECT resumed, so the one to keep begins on the next connection.
    async fn discard_session(config: &RemoteConfig, options: &ConnectOptions) -> Result<(), Loss> {
        let without_will = ConnectOptions {
            will: None,
            ..options.clone()
        };
        let mut mqtt = mqtt_options(config, &without_will);
        mqtt.set_clean_start(true).set_session_expiry_interval(None);
        let (client, mut driver) = open(mqtt);
        loop {
            match driver.poll().await.map_err(broken) {
                Ok(Event::Incoming(Packet::ConnAck(_))) => V5(client.clone()).disconnect(),
                Ok(_) => {}
                Err(Broken::Closed) => return Ok(()),
                Err(Broken::Lost(reason)) => return Err(reason),
            }
        }
    }

    async fn poll(driver: &mut Driver) -> Result<Happening, Broken> {
        match driver.events.poll().await.map_err(broken)? {
            Event::Incoming(Packet::ConnAck(connack)) => Ok(Happening::Connected(terms(&connack))),
            Event::Incoming(Packet::Publish(publish)) => Ok(Happening::Message(message(publish))),
            Event::Incoming(Packet::PubRel(pubrel)) => Ok(Happening::Released(pubrel.pkid)),
            Event::Incoming(Packet::PubRec(pubrec)) if pubrec.reason as u8 >= 0x80 => {
                Ok(Happening::Refused(pubrec.pkid, Refusal(pubrec.reason as u8)))
            }
            Event::Incoming(_) | Event::Outgoing(_) | Event::Auth(_) => Ok(Happening::Progress),
        }
    }

    fn show_state(driver: &mut Driver, shows: bool) {
        let options = &mut driver.events.options;
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

    fn subscribe(&self, filter: &str, qos: QoS, id: Option<FilterId>) -> Result<Notice, Refusal> {
        // The defaults are plain semantics: retained messages on every subscribe, with RETAIN set only on those.
        let properties = SubscribeProperties {
            id: id.map(|id| id.0 as usize),
            user_properties: Vec::new(),
        };
        let notice = if id.is_some() {
            self.0
                .try_subscribe_with_properties_tracked(filter, wire_qos(qos), properties)
        } else {
            self.0.try_subscribe_tracked(filter, wire_qos(qos))
        };
        Ok(Notice::Subscribe(notice.map_err(|error| refusal(&error))?))
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
            QoS::ExactlyOnce => ManualAck::PubRec(PubRec::new(packet_id, None)),
            QoS::AtMostOnce | QoS::AtLeastOnce => ManualAck::PubAck(PubAck::new(packet_id, None)),
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
                Ok(PublishResult::Qos0Flushed) => Outcome::Done(None),
                Ok(PublishResult::Qos1(puback)) => Outcome::from_reason(puback.reason as u8),
                // PUBCOMP 0x92: the broker had completed the exchange before the connection broke.
                Ok(PublishResult::Qos2Completed(_)) => Outcome::Done(None),
                Ok(PublishResult::Qos2PubRecRejected(pubrec)) => Outcome::from_reason(pubrec.reason as u8),
                Err(PublishNoticeError::Recv | PublishNoticeError::SessionReset) => Outcome::Lost,
                Err(PublishNoticeError::RetainNotSupported) => Outcome::Refused(reason::RETAIN_NOT_SUPPORTED),
                Err(_) => Outcome::Refused(reason::IMPLEMENTATION_SPECIFIC),
            },
            Notice::Subscribe(notice) => match notice.wait_async().await {
                Ok(suback) => granted(suback.return_codes.first()),
                Err(SubscribeNoticeError::Recv | SubscribeNoticeError::SessionReset) => Outcome::Lost,
                Err(_) => Outcome::Refused(reason::IMPLEMENTATION_SPECIFIC),
            },
            Notice::Unsubscribe(notice) => match notice.wait_async().await {
                Ok(unsuback) => unsuback
                    .reasons
                    .first()
                    .map_or(Outcome::Done(None), |reason| Outcome::from_reason(*reason as u8)),
                Err(UnsubscribeNoticeError::Recv | UnsubscribeNoticeError::SessionReset) => Outcome::Lost,
                Err(_) => Outcome::Refused(reason::IMPLEMENTATION_SPECIFIC),
            },
        }
    }

    fn publish_len(topic: &str, payload: &[u8]) -> usize {
        // Fixed header, length of the topic, packet id, empty properties.
        5 + 2 + topic.len() + 2 + 1 + payload.len()
    }
}

fn mqtt_options(config: &RemoteConfig, options: &ConnectOptions) -> MqttOptions {
    let mut mqtt = match config.transport {
        Transport::Tcp => MqttOptions::new(&*options.client_id, (config.host.as_str(), config.port)),
    };
    mqtt.set_clean_start(false)
        .set_session_expiry_interval(Some(SESSION_EXPIRY))
        .set_keep_alive(u16::try_from(config.keep_alive.as_secs()).unwrap_or(u16::MAX))
        .set_connect_timeout(config.connect_timeout)
        .set_max_packet_size(Some(MAX_PACKET_BYTES))
        .set_receive_maximum(Some(RECEIVE_MAXIMUM))
        .set_outgoing_inflight_upper_limit(config.in_flight.max(1))
        .set_max_request_batch(CREDIT as usize)
        .set_ack_mode(AckMode::Manual);
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    mqtt.set_network_options(network);
    match (&config.username, &config.password) {
        (None, None) => {}
        (Some(username), None) => {
            mqtt.set_username(username.as_str());
        }
        (None, Some(password)) => {
            mqtt.set_password(password.clone());
        }
        (Some(username), Some(password)) => {
            mqtt.set_credentials(username.as_str(), password.clone());
        }
    }
    if let Some(Will {
        topic,
        payload,
        qos,
        retain,
    }) = &options.will
    {
        mqtt.set_last_will(LastWill::new(
            &**topic,
            payload.to_vec(),
            wire_qos(*qos),
            *retain,
            None,
        ));
    }
    mqtt
}

fn open(mqtt: MqttOptions) -> (AsyncClient, EventLoop) {
    // The channel to the event loop needs no bound: the core's credit is one.
    AsyncClient::builder(mqtt).unbounded().build()
}

/// What is in flight, as the client library wants it.
///
/// Without one it refuses a session that the broker has kept.
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
                clean_start: false,
                session_expiry_interval: self.options.session_expiry_interval(),
                outgoing_inflight_upper_limit: self.options.get_outgoing_inflight_upper_limit(),
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
            properties: None,
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

fn terms(connack: &ConnAck) -> Terms {
    let properties = connack.properties.as_ref();
    Terms {
        session_present: connack.session_present,
        receive_maximum: properties.and_then(|p| p.receive_max).unwrap_or(u16::MAX),
        packet_bytes: properties
            .and_then(|p| p.max_packet_size)
            .map_or(LARGEST_PACKET, |limit| {
                usize::try_from(limit).unwrap_or(usize::MAX)
            }),
        maximum_qos: match properties.and_then(|p| p.max_qos) {
            Some(0) => QoS::AtMostOnce,
            Some(1) => QoS::AtLeastOnce,
            _ => QoS::ExactlyOnce,
        },
        subscription_ids: properties.and_then(|p| p.subscription_identifiers_available) != Some(0),
    }
}

fn message(publish: Publish) -> Message {
    let filters = publish
        .properties
        .map(|properties| properties.subscription_identifiers)
        .unwrap_or_default();
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
        filters: filters
            .into_iter()
            .filter_map(|id| u32::try_from(id).ok().map(FilterId))
            .collect(),
    }
}

fn granted(code: Option<&SubscribeReasonCode>) -> Outcome {
    let refusal = match code {
        Some(SubscribeReasonCode::Success(WireQoS::AtMostOnce)) => {
            return Outcome::Done(Some(QoS::AtMostOnce));
        }
        Some(SubscribeReasonCode::Success(WireQoS::AtLeastOnce)) => {
            return Outcome::Done(Some(QoS::AtLeastOnce));
        }
        Some(SubscribeReasonCode::Success(WireQoS::ExactlyOnce)) => {
            return Outcome::Done(Some(QoS::ExactlyOnce));
        }
        Some(SubscribeReasonCode::Failure | SubscribeReasonCode::Unspecified) | None => reason::UNSPECIFIED,
        Some(SubscribeReasonCode::ImplementationSpecific) => reason::IMPLEMENTATION_SPECIFIC,
        Some(SubscribeReasonCode::NotAuthorized) => Refusal(0x87),
        Some(SubscribeReasonCode::TopicFilterInvalid) => reason::FILTER_INVALID,
        Some(SubscribeReasonCode::PkidInUse) => Refusal(0x91),
        Some(SubscribeReasonCode::QuotaExceeded) => Refusal::QUOTA_EXCEEDED,
        Some(SubscribeReasonCode::SharedSubscriptionsNotSupported) => Refusal(0x9E),
        Some(SubscribeReasonCode::SubscriptionIdNotSupported) => Refusal(0xA1),
        Some(SubscribeReasonCode::WildcardSubscriptionsNotSupported) => Refusal(0xA2),
    };
    Outcome::Refused(refusal)
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
        ConnectionError::ConnectionRefused(
            ConnectReturnCode::BadClientId | ConnectReturnCode::ClientIdentifierNotValid,
        ) => Some(Remedy::ClientId),
        // MQTT 5 §3.14.2.1: session taken over.
        ConnectionError::MqttState(StateError::ServerDisconnect { reason_code, .. })
            if *reason_code as u8 == 0x8E =>
        {
            Some(Remedy::ClientId)
        }
        ConnectionError::ConnectionRefused(
            ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized,
        ) => Some(Remedy::Login),
        ConnectionError::ConnectionRefused(
            ConnectReturnCode::TopicNameInvalid
            | ConnectReturnCode::RetainNotSupported
            | ConnectReturnCode::QoSNotSupported,
        ) => Some(Remedy::Will),
        _ => None,
    };
    let reason = match error {
        ConnectionError::RequestsDone => return Broken::Closed,
        ConnectionError::ConnectionRefused(code) => format!("refused by the broker: {}", words(code)),
        ConnectionError::Timeout(_) => "no answer within the connect timeout".into(),
        ConnectionError::Io(error) => error.to_string(),
        ConnectionError::MqttState(StateError::ConnectionAborted) => "closed by the broker".into(),
        ConnectionError::MqttState(StateError::AwaitPingResp) => "no answer to PINGREQ".into(),
        ConnectionError::MqttState(StateError::ServerDisconnect {
            reason_code,
            reason_string,
        }) => {
            let text = reason_string.map(|text| format!(": {text}")).unwrap_or_default();
            format!(
                "disconnected by the broker: {reason_code:?}{text} (0x{:02x})",
                reason_code as u8
            )
        }
        ConnectionError::MqttState(StateError::Deserialization(error)) => match error {
            Error::Io(error) => error.to_string(),
            error @ (Error::PayloadSizeLimitExceeded { .. }
            | Error::OutgoingPacketTooLarge { .. }
            | Error::ProtocolError
            | Error::ProtocolViolation(_)) => error.to_string(),
            error => format!("it does not speak MQTT ({error})"),
        },
        ConnectionError::NotConnAck(_) => "it does not speak MQTT (no CONNACK came first)".into(),
        error => error.to_string(),
    };
    Broken::Lost(Loss { reason, remedy })
}

/// MQTT 5 §3.2.2.2, table 3-1.
fn words(code: ConnectReturnCode) -> &'static str {
    match code {
        ConnectReturnCode::Success => "success (0x00)",
        ConnectReturnCode::UnspecifiedError => "unspecified error (0x80)",
        ConnectReturnCode::MalformedPacket => "malformed packet (0x81)",
        ConnectReturnCode::ProtocolError => "protocol error (0x82)",
        ConnectReturnCode::ImplementationSpecificError => "implementation specific error (0x83)",
        ConnectReturnCode::RefusedProtocolVersion | ConnectReturnCode::UnsupportedProtocolVersion => {
            "unsupported protocol version (0x84)"
        }
        ConnectReturnCode::BadClientId | ConnectReturnCode::ClientIdentifierNotValid => {
            "client identifier not valid (0x85)"
        }
        ConnectReturnCode::BadUserNamePassword => "bad user name or password (0x86)",
        ConnectReturnCode::NotAuthorized => "not authorized (0x87)",
        ConnectReturnCode::ServiceUnavailable | ConnectReturnCode::ServerUnavailable => {
            "server unavailable (0x88)"
        }
        ConnectReturnCode::ServerBusy => "server busy (0x89)",
        ConnectReturnCode::Banned => "banned (0x8a)",
        ConnectReturnCode::BadAuthenticationMethod => "bad authentication method (0x8c)",
        ConnectReturnCode::TopicNameInvalid => "topic name of the will invalid (0x90)",
        ConnectReturnCode::PacketTooLarge => "packet too large (0x95)",
        ConnectReturnCode::QuotaExceeded => "quota exceeded (0x97)",
        ConnectReturnCode::PayloadFormatInvalid => "payload format of the will invalid (0x99)",
        ConnectReturnCode::RetainNotSupported => "retained will not supported (0x9a)",
        ConnectReturnCode::QoSNotSupported => "QoS of the will not supported (0x9b)",
        ConnectReturnCode::UseAnotherServer => "use another server (0x9c)",
        ConnectReturnCode::ServerMoved => "server moved (0x9d)",
        ConnectReturnCode::ConnectionRateExceeded => "connection rate exceeded (0x9f)",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rumqttc5::mqttbytes::v5::DisconnectReasonCode;

    #[test]
    fn what_does_not_pass_by_itself_has_a_remedy() {
        let remedy = |error| match broken(error) {
            Broken::Lost(loss) => loss.remedy,
            Broken::Closed => None,
        };
        let refused = |code| remedy(ConnectionError::ConnectionRefused(code));
        let ended = |reason_code| {
            remedy(ConnectionError::MqttState(StateError::ServerDisconnect {
                reason_code,
                reason_string: None,
            }))
        };

        assert_eq!(
            refused(ConnectReturnCode::ClientIdentifierNotValid),
            Some(Remedy::ClientId)
        );
        assert_eq!(
            refused(ConnectReturnCode::BadUserNamePassword),
            Some(Remedy::Login)
        );
        assert_eq!(refused(ConnectReturnCode::NotAuthorized), Some(Remedy::Login));
        assert_eq!(refused(ConnectReturnCode::ServerBusy), None);
        assert_eq!(
            ended(DisconnectReasonCode::SessionTakenOver),
            Some(Remedy::ClientId)
        );
        assert_eq!(ended(DisconnectReasonCode::ServerShuttingDown), None);
    }
}
