//! Clients in the field, as sets of numbers and quirks for the one scriptable client.
//!
//! What each does was read from its source. Where a family leaves a number to its user, the model has the value of its
//! examples.

use core::time::Duration;

use gateway_core::config::ClientRule;
use sn_codec::QoS;

use crate::sim_client::{ClientConfig, Quirks};

/// A kind of client in the field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// RIOT's emcute: one request at a time, no DUP either way, no REGISTER, no QoS 2 messages for it.
    Emcute,
    /// RIOT's asymcute: the long form from 249 octets on, no REGISTER, ids in the octet order of the machine.
    Asymcute,
    /// mqtt-sn-tools: command line programs that end when something unexpected comes.
    MqttSnTools,
    /// Zephyr's client: several requests at once, asleep without waiting for an answer, few places for topics.
    Zephyr,
    /// cc.mqttsn: strict about the ids of PUBACK and about DUP.
    CcMqttsn,
    /// Paho's client for Arduino by ty4tw: wakes up by CONNECT, and trusts that nothing was lost.
    Ty4tw,
    /// The Arduino library by J. Donovan and its copies: byte-swapped acknowledgements, a DISCONNECT that is too long.
    Donovan,
    /// BtMqttSn for nRF24: flags in reverse order, message ids from 0, nothing repeated.
    BtMqttSn,
}

impl Family {
    /// All of them.
    pub const ALL: [Family; 8] = [
        Family::Emcute,
        Family::Asymcute,
        Family::MqttSnTools,
        Family::Zephyr,
        Family::CcMqttsn,
        Family::Ty4tw,
        Family::Donovan,
        Family::BtMqttSn,
    ];

    /// What the ids of its clients begin with in random histories.
    pub fn prefix(self) -> &'static str {
        match self {
            Family::Emcute => "emcute",
            Family::Asymcute => "asymcute",
            Family::MqttSnTools => "tools",
            Family::Zephyr => "zephyr",
            Family::CcMqttsn => "cc",
            Family::Ty4tw => "ty4tw",
            Family::Donovan => "donovan",
            Family::BtMqttSn => "bt",
        }
    }

    /// A client of this family.
    pub fn client(self, id: &str) -> ClientConfig {
        let common = ClientConfig::new(id);
        let (seconds, none) = (Duration::from_secs, Quirks::default());
        match self {
            Family::Emcute => ClientConfig {
                keep_alive: 360,
                retry: seconds(15),
                first_msg_id: 0x1234,
                quirks: Quirks {
                    no_dup: true,
                    ignores_register: true,
                    refuses_unusual_publish: true,
                    ignores_disconnect: true,
                    ..none
                },
                ..common
            },
            Family::Asymcute => ClientConfig {
                keep_alive: 360,
                quirks: Quirks {
                    long_form_from: Some(249),
                    ignores_register: true,
                    never_pubrec: true,
                    swaps_topics: true,
                    ..none
                },
                ..common
            },
            Family::MqttSnTools => ClientConfig {
                keep_alive: 10,
                retry_count: 0,
                quirks: Quirks {
                    exits_unless_connack: true,
                    exits_on_disconnect: true,
                    never_pubrec: true,
                    ..none
                },
                ..common
            },
            Family::Zephyr => ClientConfig {
                retry_count: 5,
                max_open: 5,
                quirks: Quirks {
                    ignores_empty_publish: true,
                    keeps_suback_ids: true,
                    register_slots: Some(20),
                    sleeps_at_once: true,
                    ..none
                },
                ..common
            },
            Family::CcMqttsn => ClientConfig {
                quirks: Quirks {
                    checks_puback_topic: true,
                    needs_dup: true,
                    ..none
                },
                ..common
            },
            Family::Ty4tw => ClientConfig {
                retry_count: 5,
                quirks: Quirks {
                    trusts_session: true,
                    wakes_without_id: true,
                    waits_for_prompts: true,
                    publishes_after_pubrec: true,
                    never_pubrec: true,
                    ..none
                },
                ..common
            },
            Family::Donovan => ClientConfig {
                retry: seconds(15),
                retry_count: 5,
                quirks: Quirks {
                    counts_qos0: true,
                    pings_with_id: true,
                    long_disconnect: true,
                    swaps_acks: true,
                    ignores_qos0: true,
                    refuses_unknown_register: true,
                    ..none
                },
                ..common
            },
            Family::BtMqttSn => ClientConfig {
                retry_count: 0,
                first_msg_id: 0,
                quirks: Quirks {
                    reversed_flags: true,
                    ..none
                },
                ..common
            },
        }
    }

    /// What a sensible configuration of the gateway says about its clients, if anything.
    ///
    /// A client that never completes QoS 2 is granted QoS 1 at most; else each such message costs six rounds of repeats.
    pub fn rule(self) -> Option<ClientRule> {
        let quirks = self.client("").quirks;
        (quirks.never_pubrec || quirks.refuses_unusual_publish).then(|| ClientRule {
            pattern: format!("{}*", self.prefix()),
            max_qos: Some(QoS::AtLeastOnce),
            ..ClientRule::default()
        })
    }

    /// Some have no code for sleep.
    pub fn sleeps(self) -> bool {
        matches!(
            self,
            Family::Zephyr | Family::CcMqttsn | Family::Ty4tw | Family::Donovan
        )
    }

    /// Some have no code for wills.
    pub fn has_wills(self) -> bool {
        !matches!(self, Family::MqttSnTools | Family::BtMqttSn)
    }
}
