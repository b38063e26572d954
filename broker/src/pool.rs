//! Which connection a request is for.

use core::time::Duration;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use gateway_core::io::{BrokerRequest, ConnId, ConnectOptions, Input};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{Sender, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use crate::mqtt::Mqtt;
use crate::port::Port;
use crate::stages::{Journal, Stages};
use crate::v3::V3;
use crate::v5::V5;
use crate::{EmbeddedStats, Protocol, RemoteConfig};

/// How long [`RequestSender::close`] takes at most: the gateway stops within a second.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// Takes the core's requests to an external broker; what happens is sent to `inputs`.
///
/// Nothing is connected before the core asks for it. Connections are tasks on the current runtime. Without a journal
/// no QoS 2 publish in flight survives this process.
///
/// # Panics
///
/// Outside a tokio runtime.
pub fn spawn(config: RemoteConfig, inputs: Sender<Input>, journal: Option<Journal>) -> RequestSender {
    RequestSender(Kind::Remote(Pool {
        config: Arc::new(config),
        inputs,
        journal,
        runtime: Handle::current(),
        connections: HashMap::new(),
        closing: Vec::new(),
    }))
}

/// Where the core's requests go.
///
/// Dropping it closes all connections in good order, which takes a moment; [`RequestSender::close`] waits for it.
#[derive(Debug)]
pub struct RequestSender(Kind);

#[derive(Debug)]
enum Kind {
    Remote(Pool),
    Embedded {
        requests: UnboundedSender<Vec<BrokerRequest>>,
        broker: JoinHandle<()>,
        stats: Arc<Mutex<EmbeddedStats>>,
        /// Lets MQTT clients in, if they are held back.
        door: Option<oneshot::Sender<()>>,
    },
}

impl RequestSender {
    /// To the embedded broker. Its task ends when the sender of `requests` is dropped.
    pub(crate) fn embedded(
        requests: UnboundedSender<Vec<BrokerRequest>>,
        broker: JoinHandle<()>,
        stats: Arc<Mutex<EmbeddedStats>>,
        door: Option<oneshot::Sender<()>>,
    ) -> Self {
        RequestSender(Kind::Embedded {
            requests,
            broker,
            stats,
            door,
        })
    }

    /// What the embedded broker counts; `None` if it is another.
    pub fn embedded_stats(&self) -> Option<EmbeddedStats> {
        match &self.0 {
            Kind::Remote(_) => None,
            Kind::Embedded { stats, .. } => stats.lock().ok().map(|stats| stats.clone()),
        }
    }

    /// Lets MQTT clients come to the embedded broker, if they were held back until now
    /// ([`Embedded::hold_clients_back`](crate::Embedded::hold_clients_back)).
    pub fn let_clients_in(&mut self) {
        if let Kind::Embedded { door, .. } = &mut self.0
            && let Some(door) = door.take()
        {
            // Fails only when they were let in already, or nobody is any more.
            let _ = door.send(());
        }
    }

    /// Hands requests to their connections. Never waits: the core's credit bounds what lies here.
    ///
    /// Requests for a connection that is not open are ignored, as is opening one that is open.
    pub fn send(&mut self, requests: Vec<BrokerRequest>) {
        match &mut self.0 {
            Kind::Remote(pool) => pool.send(requests),
            Kind::Embedded { requests: broker, .. } => {
                // Fails only when the task has ended, which it does when nobody listens to it.
                let _ = broker.send(requests);
            }
        }
    }

    /// Closes all connections and returns when they are closed, or cut off after a second.
    ///
    /// Their last outcomes go to the inputs meanwhile; a reader is welcome but not needed.
    pub async fn close(self) {
        let tasks = match self.0 {
            Kind::Remote(pool) => pool.close(),
            Kind::Embedded { requests, broker, .. } => {
                drop(requests);
                vec![broker]
            }
        };
        let deadline = Instant::now() + CLOSE_LIMIT;
        for mut task in tasks {
            // Both an end and a panic of the task end the wait.
            if timeout_at(deadline, &mut task).await.is_err() {
                task.abort();
            }
        }
    }
}

/// The connections to an external broker.
#[derive(Debug)]
struct Pool {
    config: Arc<RemoteConfig>,
    inputs: Sender<Input>,
    journal: Option<Journal>,
    runtime: Handle,
    connections: HashMap<ConnId, Connection>,
    /// Connections told to close that may still be at it.
    closing: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Connection {
    requests: UnboundedSender<BrokerRequest>,
    task: JoinHandle<()>,
}

impl Pool {
    fn send(&mut self, requests: Vec<BrokerRequest>) {
        for request in requests {
            match request {
                BrokerRequest::Open { conn, options } => self.open(conn, options),
                BrokerRequest::Close { conn } => {
                    if let Some(connection) = self.connections.remove(&conn) {
                        self.retire(connection);
                    }
                }
                BrokerRequest::Publish { conn, .. }
                | BrokerRequest::Subscribe { conn, .. }
                | BrokerRequest::Unsubscribe { conn, .. }
                | BrokerRequest::Ack { conn, .. }
                | BrokerRequest::Complete { conn, .. } => {
                    if let Some(connection) = self.connections.get(&conn) {
                        // Fails only when the task has ended, which it does when nobody listens to it.
                        let _ = connection.requests.send(request);
                    }
                }
            }
        }
    }

    /// Tells all connections to close; returns what is still at it.
    fn close(mut self) -> Vec<JoinHandle<()>> {
        for (_, connection) in core::mem::take(&mut self.connections) {
            self.retire(connection);
        }
        self.closing
    }

    fn open(&mut self, conn: ConnId, options: ConnectOptions) {
        if self.connections.contains_key(&conn) {
            tracing::debug!(target: "broker", conn = conn.0, "connection is open already");
            return;
        }
        let connection = match self.config.protocol {
            Protocol::V3 => self.start::<V3>(conn, options),
            Protocol::V5 => self.start::<V5>(conn, options),
        };
        self.connections.insert(conn, connection);
    }

    fn start<M: Mqtt>(&self, conn: ConnId, options: ConnectOptions) -> Connection {
        let (sender, requests) = unbounded_channel();
        let stages = Arc::new(Stages::new(self.journal.clone(), &options));
        let (mqtt, driver) = M::new(&self.config, &options, &stages);
        let port = Port::new(
            conn,
            self.config.clone(),
            options,
            (mqtt, stages),
            self.inputs.clone(),
        );
        Connection {
            requests: sender,
            task: self.runtime.spawn(port.run(driver, requests)),
        }
    }

    /// The end of its request channel tells a connection to close.
    fn retire(&mut self, connection: Connection) {
        drop(connection.requests);
        self.closing.retain(|task| !task.is_finished());
        self.closing.push(connection.task);
    }
}
