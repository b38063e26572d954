//! Whether everything that clients subscribed to stands at the broker.

mod common;

use common::*;
use gateway_core::config::{Durability, GatewayConfig};
use gateway_core::io::{BrokerEvent, BrokerRequest, Refusal, Token};
use sn_codec::{MsgId, QoS};

const A: u16 = 5001;
const B: u16 = 5002;

fn config() -> GatewayConfig {
    GatewayConfig {
        durability: Some(Durability::default()),
        ..GatewayConfig::default()
    }
}

/// A gateway that was ended with two subscriptions, and started again.
fn restarted() -> Bench {
    let mut bench = Bench::up(config());
    bench.connect(A, "a");
    bench.connect(B, "b");
    bench.subscribe(A, "cmd/a", QoS::AtLeastOnce);
    bench.subscribe(B, "cmd/#", QoS::ExactlyOnce);
    bench.restart(config())
}

/// The subscriptions that the broker was asked for since the last look.
fn asked(bench: &mut Bench) -> Vec<Token> {
    bench.commit();
    let requests = bench.requests.drain(..);
    requests
        .filter_map(|request| match request {
            BrokerRequest::Subscribe { token, .. } => Some(token),
            _ => None,
        })
        .collect()
}

fn answer(bench: &mut Bench, token: Token, result: Result<Option<QoS>, Refusal>) {
    bench.broker(BrokerEvent::Settled { token, result });
}

#[test]
fn with_nothing_restored_they_stand_as_soon_as_the_broker_is_there() {
    let mut bench = Bench::new(config());
    assert!(!bench.gateway.subscriptions_stand());
    bench.broker_up(false);
    assert!(bench.gateway.subscriptions_stand());
    bench.broker_down();
    assert!(!bench.gateway.subscriptions_stand());
}

#[test]
fn restored_ones_stand_when_the_broker_has_answered_for_each() {
    for session_present in [false, true] {
        let mut bench = restarted();
        assert!(!bench.gateway.subscriptions_stand());
        bench.broker_up(session_present);
        assert!(!bench.gateway.subscriptions_stand());
        let tokens = asked(&mut bench);
        assert_eq!(tokens.len(), 2);
        answer(&mut bench, tokens[0], Ok(Some(QoS::AtLeastOnce)));
        assert!(!bench.gateway.subscriptions_stand());
        answer(&mut bench, tokens[1], Ok(Some(QoS::ExactlyOnce)));
        assert!(bench.gateway.subscriptions_stand());
    }
}

#[test]
fn a_refusal_is_an_answer() {
    let mut bench = restarted();
    bench.broker_up(false);
    for token in asked(&mut bench) {
        assert!(!bench.gateway.subscriptions_stand());
        answer(&mut bench, token, Err(Refusal::QUOTA_EXCEEDED));
    }
    assert!(bench.gateway.subscriptions_stand());
}

#[test]
fn a_broker_that_goes_in_between_is_asked_for_all_of_them_again() {
    let mut bench = restarted();
    bench.broker_up(false);
    let tokens = asked(&mut bench);
    answer(&mut bench, tokens[0], Ok(Some(QoS::AtLeastOnce)));
    bench.broker_down();
    bench.broker(BrokerEvent::Lost { token: tokens[1] });
    assert!(!bench.gateway.subscriptions_stand());
    bench.broker_up(false);
    assert!(!bench.gateway.subscriptions_stand());
    let tokens = asked(&mut bench);
    assert_eq!(tokens.len(), 2);
    for token in tokens {
        answer(&mut bench, token, Ok(Some(QoS::ExactlyOnce)));
    }
    assert!(bench.gateway.subscriptions_stand());
}

#[test]
fn a_new_subscription_leaves_the_others_standing() {
    let mut bench = Bench::up(config());
    bench.connect(A, "a");
    bench.packet(A, subscribe(MsgId(9), "cmd/a", QoS::AtLeastOnce));
    assert_eq!(asked(&mut bench).len(), 1);
    assert!(bench.gateway.subscriptions_stand());
}
