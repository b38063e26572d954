//! The crash campaign: a gateway that is killed at random moments loses nothing that it acknowledged.
//!
//! SIGKILL is not the power cut: what a process wrote before it was killed the system still has. The power cut is
//! simulated on the store's simulated disk. Here it is the whole binary, real sockets and a real mosquitto, and books
//! that are kept at the outer ends by programs that share no code with the gateway.

mod broker_log;
mod campaign;
mod damage;
mod ledger;

use std::{
    env,
    time::{SystemTime, UNIX_EPOCH},
};

use campaign::{Plan, run};
use system_tests::BrokerKind;

/// Kills in every run of the tests; `tests/run.sh crash` does more.
const KILLS: u32 = 50;

#[test]
fn killed_before_mosquitto_it_loses_nothing_acknowledged() {
    run(&Plan {
        broker: BrokerKind::Mosquitto,
        kills: kills(1),
        seed: seed(),
        publishers: 50,
        sleepers: 50,
    });
}

/// MQTT clients that are cut off when their broker is killed come back for what they were not sent, and with what was
/// not acknowledged.
#[test]
fn killed_with_the_broker_inside_it_loses_nothing_acknowledged() {
    run(&Plan {
        broker: BrokerKind::Embedded,
        kills: kills(2),
        seed: seed(),
        publishers: 50,
        sleepers: 50,
    });
}

/// As many as asked for, or the usual ones divided by this.
fn kills(share: u32) -> u32 {
    let asked = env::var("SNIPE_CRASH_KILLS").ok();
    asked.map_or(KILLS / share, |text| {
        text.parse().expect("SNIPE_CRASH_KILLS is a number")
    })
}

/// The seed asked for, or one of the moment: the moments of a kill are never the same twice.
fn seed() -> u64 {
    match env::var("SNIPE_CRASH_SEED") {
        Ok(text) => text.parse().expect("SNIPE_CRASH_SEED is a number"),
        Err(_) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            u64::from(now.expect("the clock is past 1970").subsec_nanos())
        }
    }
}
