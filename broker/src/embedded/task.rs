//! The task that owns the router.
//!
//! Everything comes in over channels and goes out over channels, in batches: whatever waits when the task wakes up is
//! worked off together, and each connection and the gateway get one batch of what came of it. No channel here has a
//! bound of its own, and none needs one: a connection sends its next packets when it is told that the last were worked
//! off, it is sent as many messages as it granted, and the gateway's requests are bounded by its credit. So nothing
//! here waits for anybody, and a connection that does not read holds up nobody else.

use core::future::pending;
use core::time::Duration;
use std::sync::{Arc, Mutex};

use gateway_core::io::{BrokerRequest, Input};
use gateway_core::time::Instant as RouterInstant;
use rustc_hash::FxHashMap;
use tokio::sync::mpsc::{Sender, UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep_until, timeout};

use super::channel::{Batch, CREDIT, FromConnection};
use super::listener::Listening;
use super::local::Local;
use super::packet::{ClientKey, Received, Reply};
use super::router::Router;
use super::stats::Stats;
use crate::stages::Journal;

/// Messages of connections taken at one wake-up.
const BATCH: usize = 256;

/// How long the last events wait for the gateway to take them, as part of the second it has to stop.
const FAREWELL: Duration = Duration::from_millis(200);

/// The router and those it serves.
#[derive(Debug)]
pub(crate) struct Task {
    router: Router,
    local: Local,
    started: Instant,
    connections: FxHashMap<ClientKey, Outbox>,
    /// Whose outboxes have something.
    touched: Vec<ClientKey>,
    from_connections: UnboundedReceiver<FromConnection>,
    requests: UnboundedReceiver<Vec<BrokerRequest>>,
    inputs: Sender<Input>,
    /// Present if something survives.
    journal: Option<Journal>,
    /// Numbers of changes that are durable.
    written: UnboundedSender<u64>,
    durable: UnboundedReceiver<u64>,
    /// As they were when the task last went to sleep.
    stats: Arc<Mutex<Stats>>,
}

#[derive(Debug)]
struct Outbox {
    mailbox: UnboundedSender<Batch>,
    replies: Vec<Reply>,
    worked_off: bool,
    /// Stands in `touched`.
    touched: bool,
    /// The last reply is among these.
    ended: bool,
}

impl Task {
    pub(crate) fn new(
        router: Router,
        from_connections: UnboundedReceiver<FromConnection>,
        requests: UnboundedReceiver<Vec<BrokerRequest>>,
        inputs: Sender<Input>,
        journal: Option<Journal>,
    ) -> Self {
        let (written, durable) = unbounded_channel();
        Task {
            router,
            local: Local::new(journal.is_some()),
            journal,
            written,
            durable,
            started: Instant::now(),
            connections: FxHashMap::default(),
            touched: Vec::new(),
            from_connections,
            requests,
            inputs,
            stats: Arc::default(),
        }
    }

    /// Where the router's counters can be read at any time.
    pub(crate) fn stats(&self) -> Arc<Mutex<Stats>> {
        self.stats.clone()
    }

    /// Runs until the sender of the gateway's requests is dropped; then ends all connections, and the `listener`.
    pub(crate) async fn run(mut self, listener: Option<Listening>) {
        let mut arrived = Vec::new();
        let mut requests = Vec::new();
        // Events wait here when the gateway has no room for them.
        let mut events = None;
        let inputs = self.inputs.clone();
        loop {
            self.hand_out();
            if events.is_none() {
                events = self.local.poll_events(self.now(), &mut self.router);
                if events.is_some() {
                    // It may have told the router that there is room again.
                    self.hand_out();
                }
            }
            self.write();
            if let Ok(mut stats) = self.stats.lock() {
                stats.clone_from(self.router.stats());
            }
            let due = self
                .router
                .poll_timeout()
                .map(|at| self.started + at.since(RouterInstant::START));
            tokio::select! {
                // Not between the gateway's goodbye and the end: nobody may be acknowledged what its clients do not get.
                1.. = self.from_connections.recv_many(&mut arrived, BATCH), if !self.local.is_away() => {
                    let now = self.now();
                    for message in arrived.drain(..) {
                        self.on_message(now, message);
                    }
                }
                taken = self.requests.recv_many(&mut requests, BATCH) => {
                    if taken == 0 {
                        break;
                    }
                    let now = self.now();
                    for batch in requests.drain(..) {
                        self.local.requests(now, &mut self.router, batch);
                    }
                }
                permit = inputs.reserve(), if events.is_some() => {
                    if let (Some(events), Ok(permit)) = (events.take(), permit) {
                        permit.send(Input::Broker(events));
                    }
                }
                () = self.local.delivered(), if self.journal.is_some() => {}
                Some(number) = self.durable.recv(), if self.journal.is_some() => {
                    self.router.on_durable(number);
                }
                () = sleep_or_never(due) => {
                    let now = self.now();
                    self.router.handle_timeout(now);
                }
            }
        }
        self.shut_down(events.map(Input::Broker), listener).await;
    }

    async fn shut_down(mut self, events: Option<Input>, listener: Option<Listening>) {
        // No more connections, so that the end comes to each.
        let listener = listener.map(Listening::stop);
        let now = self.now();
        self.local.close(now, &mut self.router);
        self.router.shutdown();
        self.hand_out();
        self.connections.clear();
        if let Some(journal) = &self.journal {
            let changes = self.router.last_changes();
            if !changes.is_empty() {
                // Nobody is told any more.
                journal.submit(changes, Box::new(|| {}));
            }
        }
        drop(self.from_connections);

        let farewell = async {
            if let Some(events) = events {
                let _ = self.inputs.send(events).await;
            }
            while let Some(events) = self.local.poll_events(now, &mut self.router) {
                let _ = self.inputs.send(Input::Broker(events)).await;
            }
        };
        // The gateway may have stopped reading.
        let _ = timeout(FAREWELL, farewell).await;
        if let Some(listener) = listener {
            let _ = listener.await;
        }
    }

    /// What changed in sessions that survive.
    fn write(&mut self) {
        let Some(journal) = &self.journal else {
            return;
        };
        if let Some((number, changes)) = self.router.poll_changes() {
            let written = self.written.clone();
            let done = move || {
                // The broker may have ended.
                let _ = written.send(number);
            };
            journal.submit(changes, Box::new(done));
        }
    }

    fn now(&self) -> RouterInstant {
        let micros = self.started.elapsed().as_micros();
        RouterInstant::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
    }

    fn on_message(&mut self, now: RouterInstant, message: FromConnection) {
        match message {
            FromConnection::Connect { connect, mailbox } => {
                let client = self.router.connect(now, connect);
                self.router.credit(now, client, CREDIT);
                self.connections.insert(
                    client,
                    Outbox {
                        mailbox,
                        replies: Vec::new(),
                        worked_off: true,
                        touched: true,
                        ended: false,
                    },
                );
                self.touched.push(client);
            }
            FromConnection::Packets {
                client,
                packets,
                credit,
            } => {
                // Credit first: what the packets bring may use it.
                if credit > 0 {
                    self.router.credit(now, client, credit);
                }
                if let (false, Some(outbox)) = (packets.is_empty(), self.connections.get_mut(&client)) {
                    outbox.worked_off = true;
                    if !outbox.touched {
                        outbox.touched = true;
                        self.touched.push(client);
                    }
                }
                for packet in packets {
                    if let Received::Disconnect { .. } = packet {
                        self.connections.remove(&client);
                    }
                    self.router.received(now, client, packet);
                }
            }
            FromConnection::Closed { client } => {
                self.connections.remove(&client);
                self.router.closed(now, client);
            }
        }
    }

    /// Takes all outputs of the router to where they go.
    fn hand_out(&mut self) {
        let now = self.now();
        loop {
            while let Some((client, reply)) = self.router.poll_output() {
                let Some(reply) = self.local.take(now, &mut self.router, client, reply) else {
                    continue;
                };
                // Not there: it disconnected, and the router learns of it next.
                let Some(outbox) = self.connections.get_mut(&client) else {
                    continue;
                };
                outbox.ended = match reply {
                    Reply::ConnAck { reason, .. } => reason >= 0x80,
                    Reply::Disconnect { .. } => true,
                    _ => false,
                };
                outbox.replies.push(reply);
                if !outbox.touched {
                    outbox.touched = true;
                    self.touched.push(client);
                }
            }
            if self.touched.is_empty() {
                return;
            }
            for client in core::mem::take(&mut self.touched) {
                let Some(outbox) = self.connections.get_mut(&client) else {
                    continue;
                };
                outbox.touched = false;
                let batch = Batch {
                    client,
                    replies: core::mem::take(&mut outbox.replies),
                    worked_off: core::mem::take(&mut outbox.worked_off),
                };
                if outbox.mailbox.send(batch).is_err() {
                    // It went before it knew its key.
                    self.connections.remove(&client);
                    self.router.closed(now, client);
                } else if outbox.ended {
                    self.connections.remove(&client);
                }
            }
        }
    }
}

async fn sleep_or_never(until: Option<Instant>) {
    match until {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}
