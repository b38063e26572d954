//! Deliveries, with acknowledgements that come late, out of order and over cuts, or not at all at first.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use broker::Protocol;
use gateway_core::io::{BrokerEvent, BrokerRequest, DeliveryId, FilterId, Token};
use rand::RngExt;
use sn_codec::QoS::{self, AtLeastOnce, ExactlyOnce};
use tokio::time::{Interval, interval, timeout};

use super::Session::{self, Resumed};
use super::common::{CONN, Core, Mosquitto, publish_lines};
use super::{Cutter, PATIENCE, messages, open, relay_to};

for_each_exchange!(through_cuts);

/// Messages published together. With tens of thousands waiting mosquitto 2.0.11 makes no headway between two cuts, whoever
/// the client is: it puts ever more in flight, beyond its own limit and the client's Receive Maximum, and says all of it
/// again after each cut before it reads an acknowledgement. Nor has mosquitto_pub packet ids for more than 65,535 lines.
const PORTION: u64 = 2_000;

async fn through_cuts(protocol: Protocol, session: Session, qos: QoS) {
    let messages = messages(3_000);
    let broker = Mosquitto::persistent().await;
    let relay = relay_to(broker.port).await;
    let mut core = open(broker.port, &relay, protocol, session, "down", None).await;
    core.expect_up(session == Resumed).await;
    core.send(BrokerRequest::Subscribe {
        conn: CONN,
        token: Token(0),
        filter: "down".into(),
        id: FilterId(1),
        qos: ExactlyOnce,
    });
    let granted = BrokerEvent::Settled {
        token: Token(0),
        result: Ok(Some(ExactlyOnce)),
    };
    assert_eq!(core.event().await, granted);

    let started = Instant::now();
    let cutter = Cutter::start(&relay);
    let qos_given = if qos == ExactlyOnce { "2" } else { "1" };
    let mut published = 0;
    let mut taker = Taker::new(qos, messages);
    let mut last = (taker.left, Instant::now());
    while !taker.is_done() {
        if published < messages && published - (messages - taker.left) < PORTION / 2 {
            let portion = published..messages.min(published + PORTION);
            published = portion.end;
            let lines: String = portion.map(|n| format!("{n}\n")).collect();
            publish_lines(broker.port, &["-t", "down", "-q", qos_given, "-l"], lines).await;
        }
        timeout(PATIENCE, taker.step(&mut core)).await.expect("no event");
        if taker.left != last.0 {
            last = (taker.left, Instant::now());
        }
        assert!(
            last.1.elapsed() < PATIENCE,
            "stands still: {} not taken, the first {:?}; not released {:?}",
            taker.left,
            taker.taken.iter().position(|taken| !taken),
            taker.open,
        );
    }
    let cuts = cutter.cuts();
    let (repeats, late) = (taker.repeats.len(), taker.late);
    let seconds = started.elapsed().as_secs_f32();
    println!(
        "down, {protocol:?} {session:?} {qos:?}: {messages} messages, {cuts} cuts, {repeats} repeats, \
         {late} acknowledged late, {seconds:.1} s"
    );
    assert!(cuts > 3, "only {cuts} cuts");
    if qos == ExactlyOnce {
        let forgotten = broker.forgotten();
        for delivery in taker.repeats {
            let packet_id = delivery.0 as u16;
            assert!(
                forgotten.contains(&packet_id),
                "{packet_id} was taken for another message"
            );
        }
    }
}

/// Takes `0..messages`.
struct Taker {
    qos: QoS,
    /// Which have come.
    seen: Vec<bool>,
    /// Which of QoS 1 were acknowledged on a connection that stood then.
    taken: Vec<bool>,
    left: u64,
    /// To be acknowledged later.
    owed: Vec<(DeliveryId, u64)>,
    /// QoS 2: deliveries that are not released, and whether they are acknowledged.
    open: HashMap<DeliveryId, bool>,
    repeats: Vec<DeliveryId>,
    late: u64,
    pulse: Interval,
}

impl Taker {
    fn new(qos: QoS, messages: u64) -> Self {
        Taker {
            qos,
            seen: vec![false; messages as usize],
            taken: vec![false; messages as usize],
            left: messages,
            owed: Vec::new(),
            open: HashMap::new(),
            repeats: Vec::new(),
            late: 0,
            pulse: interval(Duration::from_millis(2)),
        }
    }

    fn is_done(&self) -> bool {
        self.left == 0 && self.owed.is_empty() && self.open.is_empty()
    }

    async fn step(&mut self, core: &mut Core) {
        let events = tokio::select! {
            events = core.batch() => events,
            _ = self.pulse.tick() => {
                for _ in 0..self.owed.len().div_ceil(8) {
                    let at = rand::rng().random_range(0..self.owed.len());
                    let (delivery, n) = self.owed.swap_remove(at);
                    self.late += 1;
                    self.acknowledge(core, delivery, n);
                }
                return;
            }
        };
        for event in events {
            match event {
                BrokerEvent::Message {
                    delivery,
                    qos,
                    payload,
                    ..
                } => {
                    assert_eq!(qos, self.qos);
                    let n = std::str::from_utf8(&payload).unwrap().parse().unwrap();
                    self.on_message(core, delivery.unwrap(), n);
                }
                BrokerEvent::Released { delivery, .. } => {
                    let acknowledged = self.open.remove(&delivery);
                    assert_eq!(acknowledged, Some(true), "the broker was told of another");
                    core.send(BrokerRequest::Complete { conn: CONN, delivery });
                }
                BrokerEvent::Up { session_present, .. } => assert!(session_present),
                BrokerEvent::Down { .. } | BrokerEvent::Credit { .. } => {}
                BrokerEvent::Settled { .. } | BrokerEvent::Lost { .. } | BrokerEvent::Delivered { .. } => {
                    panic!("{event:?}")
                }
            }
        }
    }

    fn on_message(&mut self, core: &mut Core, delivery: DeliveryId, n: u64) {
        // In which order is the broker's business: mosquitto lets new messages overtake those that wait for a client
        // that comes back.
        let first = !core::mem::replace(&mut self.seen[n as usize], true);
        if !first {
            self.repeats.push(delivery);
        }
        if self.qos == ExactlyOnce {
            self.open.insert(delivery, false);
        }
        match rand::rng().random_range(0..20) {
            0..4 => self.owed.push((delivery, n)),
            // Not at all: if the broker does not bring it again, it took the acknowledgement of another for it.
            4 if self.qos == AtLeastOnce && first => {}
            _ => self.acknowledge(core, delivery, n),
        }
    }

    fn acknowledge(&mut self, core: &mut Core, delivery: DeliveryId, n: u64) {
        if let Some(acknowledged) = self.open.get_mut(&delivery) {
            *acknowledged = true;
        }
        let taken = &mut self.taken[n as usize];
        self.left -= u64::from(!core::mem::replace(taken, true));
        core.send(BrokerRequest::Ack { conn: CONN, delivery });
    }
}
