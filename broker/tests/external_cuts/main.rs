//! Connections to a real broker that are cut every 30 to 180 ms, and ports that end without a word: nothing that was
//! settled is lost, nothing of QoS 2 comes twice, and no acknowledgement is for another message.
//!
//! The port stands behind a relay that cuts; what arrives is counted by mosquitto's own clients, which are connected to
//! the broker directly. `SNIPE_CUTS=N` takes N messages for each experiment.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[allow(dead_code, reason = "not all of it is used here")]
#[path = "../common/mod.rs"]
mod common;

/// A test of each kind of exchange: `through(protocol, session, qos)`.
macro_rules! for_each_exchange {
    ($through:ident) => {
        for_each_exchange! { $through:
            qos_1_is_whole_in_a_new_session_v3: V3 Clean AtLeastOnce,
            qos_1_is_whole_in_a_new_session_v5: V5 Clean AtLeastOnce,
            qos_1_is_whole_in_a_resumed_session_v3: V3 Resumed AtLeastOnce,
            qos_1_is_whole_in_a_resumed_session_v5: V5 Resumed AtLeastOnce,
            qos_2_is_exact_in_a_new_session_v3: V3 Clean ExactlyOnce,
            qos_2_is_exact_in_a_new_session_v5: V5 Clean ExactlyOnce,
            qos_2_is_exact_in_a_resumed_session_v3: V3 Resumed ExactlyOnce,
            qos_2_is_exact_in_a_resumed_session_v5: V5 Resumed ExactlyOnce,
        }
    };
    ($through:ident: $($name:ident: $protocol:ident $session:ident $qos:ident,)*) => {$(
        #[tokio::test]
        async fn $name() {
            $through(
                ::broker::Protocol::$protocol,
                crate::Session::$session,
                ::sn_codec::QoS::$qos,
            )
            .await;
        }
    )*};
}

mod down;
mod restarts;
mod up;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use broker::{Journal, Protocol};
use gateway_core::io::{BrokerRequest, ConnectOptions};
use rand::RngExt;
use sn_codec::QoS::{self, AtLeastOnce, ExactlyOnce};
use tokio::task::JoinHandle;

use common::{CONN, Core, PATIENCE, Proxy, config, leave_session, options};

/// Messages of each experiment.
fn messages(default: u64) -> u64 {
    std::env::var("SNIPE_CUTS").map_or(default, |messages| {
        messages.parse().expect("SNIPE_CUTS is a number")
    })
}

/// Which session the port begins with. It resumes that after each cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Session {
    /// A new one.
    Clean,
    /// That of an earlier process.
    Resumed,
}

/// A port behind the relay, not yet up. With a journal it stores the stages of QoS 2.
async fn open(
    broker: u16,
    relay: &Proxy,
    protocol: Protocol,
    session: Session,
    filter: &str,
    journal: Option<Journal>,
) -> Core {
    if session == Session::Resumed {
        leave_session(broker, protocol, CLIENT_ID, filter).await;
    }
    let exactly_once = journal.is_some();
    let mut core = Core::with_journal(config(relay.port, protocol), journal);
    core.send(BrokerRequest::Open {
        conn: CONN,
        options: ConnectOptions {
            clean_start: session == Session::Clean,
            exactly_once,
            holds_pubcomp: true,
            ..options(CLIENT_ID)
        },
    });
    core
}

const CLIENT_ID: &str = "port-under-test";

/// Cuts every connection of a relay every 30 to 180 ms until it is dropped.
struct Cutter {
    cuts: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Cutter {
    fn start(relay: &Arc<Proxy>) -> Self {
        let cuts = Arc::new(AtomicU64::new(0));
        let (counted, relay) = (cuts.clone(), relay.clone());
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(pause()).await;
                relay.break_all();
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        Cutter { cuts, task }
    }

    fn cuts(&self) -> u64 {
        self.cuts.load(Ordering::Relaxed)
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn pause() -> Duration {
    Duration::from_millis(rand::rng().random_range(30..=180))
}

/// A relay to a broker, with a delay, so that there is something to cut.
async fn relay_to(broker: u16) -> Arc<Proxy> {
    Arc::new(Proxy::start(broker, Duration::from_millis(1)).await)
}

/// Finds each of `0..messages` in what arrived, in order, and of QoS 2 once. Returns the number of repeats.
///
/// # Panics
///
/// If something is missing, came twice or came before what was sent before it.
fn check(payloads: &[String], messages: u64, qos: QoS) -> u64 {
    let mut seen = BTreeSet::new();
    let mut repeats = 0;
    for payload in payloads {
        let n: u64 = payload.parse().unwrap();
        let first = seen.insert(n);
        assert!(first || qos == AtLeastOnce, "{n} came twice");
        let ahead = first && n != seen.len() as u64 - 1;
        assert!(!ahead, "{n} came too early");
        repeats += u64::from(!first);
    }
    assert!(seen.into_iter().eq(0..messages), "something is missing");
    repeats
}

#[test]
fn the_verdict_finds_what_is_wrong() {
    let verdict = |payloads: &[&str], messages: u64, qos: QoS| {
        let payloads: Vec<String> = payloads.iter().map(ToString::to_string).collect();
        std::panic::catch_unwind(|| check(&payloads, messages, qos)).ok()
    };
    assert_eq!(verdict(&["0", "1", "2"], 3, ExactlyOnce), Some(0));
    assert_eq!(verdict(&["0", "1", "0", "2"], 3, AtLeastOnce), Some(1));
    assert_eq!(verdict(&["0", "1", "0", "2"], 3, ExactlyOnce), None, "twice");
    assert_eq!(verdict(&["0", "2", "1"], 3, AtLeastOnce), None, "out of order");
    assert_eq!(verdict(&["0", "1"], 3, ExactlyOnce), None, "missing");
}
