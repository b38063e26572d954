//! The duty cycle holds over every window: whatever is sent, not sent, or lost with a restart.

#![allow(clippy::unwrap_used)]

mod common;

use core::time::Duration;

use common::{Bench, LINK, connect, seconds};
use gateway_core::airtime::{Airtime, Lora, Payload};
use gateway_core::config::{GatewayConfig, PredefinedTopic};
use gateway_core::io::{
    AirtimeFound, AirtimeRecord, DutyCycle, LinkEvent, LinkProfile, Notice, StoreEvent, StoreRequest,
};
use gateway_core::time::Instant;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use sn_codec::{MsgId, Packet, QoS, TopicFilter, TopicId};

const WALKS: u64 = 60;
const STEPS: usize = 1000;

/// A gateway with one modem and a disk, both of which may fail, and everything that was on the air.
struct Radio {
    bench: Bench,
    rng: SmallRng,
    duty_cycle: DutyCycle,
    spreading_factor: u8,
    /// What was on the air: from, to, in µs since the first start.
    on_air: Vec<(u64, u64)>,
    /// When this life began, in µs since the first start.
    born: u64,
    /// The record on the disk, and when it was made.
    disk: Option<(AirtimeRecord, u64)>,
    /// One on its way there.
    writing: Option<(AirtimeRecord, u64)>,
    stores: u64,
}

impl Radio {
    fn new(seed: u64) -> Radio {
        let mut rng = SmallRng::seed_from_u64(seed);
        let duty_cycle = DutyCycle {
            ppm: rng.random_range(20_000..200_000),
            window: seconds(rng.random_range(60..600)),
        };
        let mut radio = Radio {
            bench: bench(),
            spreading_factor: rng.random_range(9..=12),
            rng,
            duty_cycle,
            on_air: vec![],
            born: 0,
            disk: None,
            writing: None,
            stores: 0,
        };
        radio.start(AirtimeFound::FirstStart);
        radio
    }

    fn airtime(&self) -> Airtime {
        Airtime::Lora {
            modulation: Lora {
                spreading_factor: self.spreading_factor,
                bandwidth_hz: 125_000,
                coding_rate: 5,
                preamble: 8,
            },
            payload: Payload::default(),
        }
    }

    fn up(&mut self) {
        let profile = LinkProfile {
            mtu: 200,
            broadcast_mtu: 200,
            confirms_tx: true,
            credit: 1,
            airtime: self.airtime(),
            duty_cycle: Some(self.duty_cycle),
        };
        self.bench.link(LinkEvent::Up(profile));
    }

    fn start(&mut self, found: AirtimeFound) {
        self.bench = bench();
        let now = self.bench.now;
        self.bench
            .gateway
            .handle_store(now, StoreEvent::AirtimeFound(LINK, found));
        self.up();
        self.bench.broker_up(false);
        for port in 1..=3 {
            let id = format!("c{port}");
            self.bench
                .packet(port, Packet::Connect(connect(&id, true, 60_000)));
            let subscribe = sn_codec::Subscribe {
                dup: false,
                qos: QoS::ExactlyOnce,
                msg_id: MsgId(1),
                topic: TopicFilter::Predefined(TopicId(port)),
            };
            self.bench.packet(port, Packet::Subscribe(subscribe));
            self.bench.settle();
        }
    }

    /// µs since the first start.
    fn time(&self) -> u64 {
        self.born + self.bench.now.as_micros()
    }

    /// Whatever the gateway asked for is under way.
    fn collect(&mut self) {
        let time = self.time();
        for request in std::mem::take(&mut self.bench.stores) {
            let StoreRequest::Airtime { record, .. } = request else {
                panic!("{request:?}");
            };
            assert!(self.writing.is_none(), "one record at a time");
            assert!(record.used.len() <= 128);
            self.writing = Some((record, time));
            self.stores += 1;
        }
    }

    fn step(&mut self) {
        let port = self.rng.random_range(1..=3);
        match self.rng.random_range(0..20) {
            0..5 => self.bench.pingreq(port, None),
            5..10 => {
                let payload = vec![0; self.rng.random_range(0..60)];
                let qos = [QoS::AtMostOnce, QoS::AtLeastOnce][self.rng.random_range(0..2)];
                let topic = format!("t/{port}");
                self.bench.message(&[], &topic, qos, false, &payload);
            }
            10 => self
                .bench
                .packet(port, Packet::SearchGw(sn_codec::SearchGw { radius: 0 })),
            11..16 => {
                let micros = self.rng.random_range(0..8_000_000);
                self.bench.pass(Duration::from_micros(micros));
            }
            16..18 => self.finish_writing(),
            18 if self.rng.random_bool(0.1) => {
                self.bench.link(LinkEvent::Down);
                self.bench.tickets.clear();
                self.up();
            }
            19 if self.rng.random_bool(0.05) => self.restart(),
            _ => {}
        }
        self.collect();
        self.modem();
        self.collect();
    }

    /// The modem sends what it has, sooner or later, or does not.
    fn modem(&mut self) {
        while let Some(ticket) = self.bench.tickets.pop() {
            assert_eq!(self.bench.tickets, [], "one at a time");
            let len = self.bench.sent.last().unwrap().1.len();
            let wait = Duration::from_micros(self.rng.random_range(0..3_000_000));
            self.bench.now = self.bench.now + wait;
            if self.rng.random_bool(0.2) {
                self.bench.link(LinkEvent::Unsent(ticket));
            } else {
                let from = self.time();
                let airtime = self.airtime().of(len);
                self.on_air.push((from, from + airtime.as_micros() as u64));
                let report = Duration::from_micros(self.rng.random_range(0..500_000));
                self.bench.now = self.bench.now + airtime + report;
                if self.rng.random_bool(0.02) {
                    // It is pulled out, and its report with it.
                    self.bench.link(LinkEvent::Down);
                    self.up();
                    continue;
                }
                if self.rng.random_bool(0.01) {
                    self.collect();
                    return self.restart();
                }
                self.bench.link(LinkEvent::Sent(ticket));
            }
            self.bench.sent.clear();
            self.bench.link(LinkEvent::Credit(1));
            self.collect();
        }
    }

    fn finish_writing(&mut self) {
        let Some(record) = self.writing.take() else { return };
        let written = self.rng.random_bool(0.8);
        // What was not reported as written may be there all the same.
        if written || self.rng.random_bool(0.5) {
            self.disk = Some(record);
        }
        let event = match written {
            true => StoreEvent::AirtimeStored(LINK),
            false => StoreEvent::AirtimeNotStored(LINK),
        };
        self.bench.gateway.handle_store(self.bench.now, event);
        self.bench.drain();
    }

    /// Ends without a warning, and starts again after a while, with the clock set wrong perhaps.
    fn restart(&mut self) {
        self.collect();
        if let Some(record) = self.writing.take()
            && self.rng.random_bool(0.5)
        {
            self.disk = Some(record);
        }
        let end = self.time();
        let away = self
            .rng
            .random_range(0..self.duty_cycle.window.as_micros() as u64);
        self.born = end + away;
        let found = match &self.disk {
            None => AirtimeFound::FirstStart, // Nothing was sent before a record.
            Some(_) if self.rng.random_bool(0.1) => AirtimeFound::Lost,
            Some((record, made)) => {
                let mut record = record.clone();
                // A clock that went back lets no time pass.
                let passed = match self.rng.random_bool(0.3) {
                    true => 0,
                    false => self.born - made,
                };
                for used in &mut record.used {
                    used.age += Duration::from_micros(passed);
                }
                AirtimeFound::Record(record)
            }
        };
        self.start(found);
    }

    /// The most that was on the air within any window, in µs. A window that holds the most may begin where a
    /// transmission begins, or end where one ends.
    fn most_in_a_window(&self) -> u64 {
        let window = self.duty_cycle.window.as_micros() as u64;
        let begins = self.on_air.iter().map(|(from, _)| *from);
        let ends = self.on_air.iter().map(|(_, to)| to.saturating_sub(window));
        let within = |begin: u64| -> u64 {
            let overlap =
                |(from, to): &(u64, u64)| to.min(&(begin + window)).saturating_sub(*from.max(&begin));
            self.on_air.iter().map(overlap).sum()
        };
        begins.chain(ends).map(within).max().unwrap_or_default()
    }

    fn limit(&self) -> u64 {
        self.duty_cycle.window.as_micros() as u64 * u64::from(self.duty_cycle.ppm) / 1_000_000
    }
}

fn bench() -> Bench {
    let config = GatewayConfig {
        keep_airtime: true,
        advertise_interval: Some(seconds(60)),
        predefined: (1..=3)
            .map(|id| PredefinedTopic {
                id: TopicId(id),
                topic: format!("t/{id}"),
            })
            .collect(),
        ..GatewayConfig::default()
    };
    let mut bench = Bench::with_link(config, LinkProfile::default());
    bench.link(LinkEvent::Down);
    bench.notices.clear();
    bench.now = Instant::START;
    bench
}

#[test]
fn no_window_ever_holds_more_than_the_limit() {
    let (mut sent, mut stores, mut full) = (0, 0, 0);
    for seed in 0..WALKS {
        let mut radio = Radio::new(seed);
        for _ in 0..STEPS {
            radio.step();
        }
        let (most, limit) = (radio.most_in_a_window(), radio.limit());
        assert!(most <= limit, "seed {seed}: {most} µs of {limit} µs");
        sent += radio.on_air.len();
        stores += radio.stores;
        full += u64::from(most > limit * 3 / 4);
    }
    assert!(sent > 5_000 && stores > 500, "{sent} sent, {stores} stored");
    assert!(
        full > WALKS / 8,
        "the limit was near in {full} of {WALKS} walks only"
    );
}

/// A modem at SF12 under 1 %, which tells the disk before it sends.
fn kept() -> (Bench, LinkProfile) {
    let profile = LinkProfile {
        mtu: 64,
        broadcast_mtu: 0,
        confirms_tx: true,
        credit: 1,
        airtime: Airtime::Lora {
            modulation: Lora {
                spreading_factor: 12,
                bandwidth_hz: 125_000,
                coding_rate: 5,
                preamble: 8,
            },
            payload: Payload {
                overhead: 4,
                base64: false,
            },
        },
        duty_cycle: Some(DutyCycle {
            ppm: 10_000,
            window: seconds(3600),
        }),
    };
    (bench(), profile)
}

fn found(bench: &mut Bench, found: AirtimeFound) {
    bench
        .gateway
        .handle_store(bench.now, StoreEvent::AirtimeFound(LINK, found));
}

fn stored(bench: &mut Bench) {
    bench
        .gateway
        .handle_store(bench.now, StoreEvent::AirtimeStored(LINK));
    bench.drain();
}

fn record(bench: &mut Bench) -> AirtimeRecord {
    match bench.stores.pop() {
        Some(StoreRequest::Airtime { record, .. }) => record,
        other => panic!("{other:?}"),
    }
}

#[test]
fn nothing_is_sent_before_it_is_recorded_that_it_may_be() {
    let (mut bench, profile) = kept();
    found(&mut bench, AirtimeFound::FirstStart);
    bench.link(LinkEvent::Up(profile));
    let first = record(&mut bench);
    assert_eq!(first.used, []);
    assert_eq!(first.reserved, seconds(1), "a 36th of 36 s");
    bench.pingreq(1, None); // A stranger: it is told so in 0.99 s.
    assert_eq!(bench.sent, []);
    stored(&mut bench);
    assert_eq!(bench.take(1).len(), 1);
    let second = record(&mut bench);
    assert_eq!(
        second.used[0].airtime.iter().sum::<Duration>(),
        Duration::from_micros(991_232)
    );
    let ticket = bench.tickets[0];
    bench.link(LinkEvent::Sent(ticket));
    bench.link(LinkEvent::Credit(1));
    bench.pass(seconds(2));
    bench.pingreq(1, None);
    assert_eq!(bench.sent, [], "the second is not durable yet");
    stored(&mut bench);
    assert_eq!(bench.take(1).len(), 1);
}

#[test]
fn disk_that_is_full_is_told_once_and_tried_again() {
    let (mut bench, profile) = kept();
    found(&mut bench, AirtimeFound::FirstStart);
    bench.link(LinkEvent::Up(profile));
    bench.pingreq(1, None);
    for _ in 0..3 {
        record(&mut bench);
        bench
            .gateway
            .handle_store(bench.now, StoreEvent::AirtimeNotStored(LINK));
        bench.drain();
        assert_eq!(bench.stores, []);
        bench.pass(seconds(10));
        bench.pingreq(1, None);
    }
    let told = |notice: &&Notice| matches!(notice, Notice::AirtimeNotStored { link: LINK });
    assert_eq!(bench.notices.iter().filter(told).count(), 1);
    stored(&mut bench);
    assert_eq!(bench.take(1).len(), 1);
}

#[test]
fn what_is_lost_counts_as_used_and_is_told() {
    for nothing_said in [false, true] {
        let (mut bench, profile) = kept();
        if !nothing_said {
            found(&mut bench, AirtimeFound::Lost);
        }
        bench.link(LinkEvent::Up(profile));
        assert!(bench.notices.contains(&Notice::AirtimeLost { link: LINK }));
        // It is known from now on, so that another start does not lose it again.
        assert_eq!(record(&mut bench).used[0].airtime[0], seconds(36));
        stored(&mut bench);
        for _ in 0..719 {
            bench.pass(seconds(5));
            bench.pingreq(1, None);
        }
        assert_eq!(bench.take(1).len(), 0);
        bench.pass(seconds(6));
        bench.pingreq(1, None);
        assert_eq!(bench.take(1).len(), 1);
    }
}

#[test]
fn radio_that_comes_back_goes_on_with_what_it_used() {
    let (mut bench, profile) = kept();
    found(&mut bench, AirtimeFound::FirstStart);
    bench.link(LinkEvent::Up(profile.clone()));
    stored(&mut bench);
    bench.pingreq(1, None);
    let used = |bench: &Bench| {
        let metrics = bench.gateway.link_metrics(bench.now, LINK).unwrap();
        metrics.duty_cycle_used_ppm
    };
    let before = used(&bench);
    assert!(before > 0);
    bench.link(LinkEvent::Down);
    bench.link(LinkEvent::Up(profile));
    assert_eq!(used(&bench), before);
    bench.pass(seconds(3605));
    assert_eq!(used(&bench), 0);
}
