//! What survives the end of the process: the store, between the core, the broker and the thread that writes.
//!
//! The thread never waits for anybody: what it has to say goes through a channel without a bound, beside the inputs.
//! The core answers each of its reports, so there are never more of them than the core has asked for.

use core::time::Duration;
use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use broker::Journal;
use bytes::Bytes;
use gateway_core::io::{BrokerEvent, ConnId, StoreChange, StoreEvent, StoreKey, Ticket};
use gateway_core::{Metrics, Restored};
use gateway_store::{
    Change, Damage, DamageKind, Directory, Event, Handle, Key, OpenError, Options, Store, Writer,
};
use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

use crate::config::StoreSettings;
use crate::telemetry;

/// Below the state directory.
const DIRECTORY: &str = "store";

/// Made and removed again to see whether the directory can be written.
const PROBE: &str = "writable";

/// How long the end of the process waits for a disk that works but takes its time.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

/// The store's own values.
const OWN_KIND: u8 = 0;

/// Damaged places that are told one by one; the rest is a number.
const DAMAGE_LINES: usize = 10;

/// The running store.
#[derive(Debug)]
pub(crate) struct Durable {
    handle: Handle,
    writer: Writer,
    events: mpsc::UnboundedSender<StoreEvent>,
    budget: u64,
}

/// The store, and what an earlier life left in it.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) durable: Durable,
    /// What the core is to be told.
    pub(crate) events: mpsc::UnboundedReceiver<StoreEvent>,
    pub(crate) found: Found,
}

/// What an earlier life left.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// The core's values.
    pub(crate) values: Vec<(StoreKey, Bytes)>,
    /// Sessions of the broker inside the gateway.
    pub(crate) sessions: Vec<(StoreKey, Bytes)>,
    /// Places where nothing could be read.
    pub(crate) damaged: usize,
    /// There was an earlier life.
    pub(crate) goes_on: bool,
}

/// Why there is no store.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unusable {
    /// Somebody else has it.
    #[error(
        "another gateway runs with the state directory {}: give this one its own, --set gateway.state_dir=DIR",
        .0.display()
    )]
    InUse(PathBuf),
    /// The system refuses.
    #[error(
        "cannot keep state in {}: {error}\n  \
         name another directory (key gateway.state_dir), or keep nothing over a restart: --ephemeral",
        path.display()
    )]
    Io {
        /// The state directory, or what is wrong in it.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
}

impl Unusable {
    /// The user that runs the gateway may not use it.
    pub(crate) fn is_denied(&self) -> bool {
        matches!(self, Unusable::Io { error, .. } if error.kind() == io::ErrorKind::PermissionDenied)
    }
}

/// Opens the store of a state directory and starts the thread that writes. Damage is told in the log.
///
/// # Errors
/// Another gateway has it, or it cannot be read or written. A disk that is full is no error: that may change.
pub(crate) fn open(state_dir: &Path, settings: &StoreSettings) -> Result<Opened, Unusable> {
    let path = state_dir.join(DIRECTORY);
    let fail = |error| Unusable::Io {
        path: path.clone(),
        error,
    };
    let directory = Directory::open(&path).map_err(|error| match error {
        OpenError::InUse(_) => Unusable::InUse(state_dir.to_owned()),
        OpenError::Io { path, error } => Unusable::Io { path, error },
    })?;
    probe(&path).map_err(fail)?;
    let (store, recovered) = Store::open(directory, Options::default()).map_err(fail)?;
    tell_damage(&path, &recovered.damage);
    let (events, receiver) = mpsc::unbounded_channel();
    let reports = events.clone();
    let (writer, handle) = Writer::spawn(
        store,
        settings.sync,
        settings.day_budget,
        &recovered.values,
        move |event| report(&reports, event),
    )
    .map_err(fail)?;
    let mut opened = Opened {
        durable: Durable {
            handle,
            writer,
            events,
            budget: settings.day_budget,
        },
        events: receiver,
        found: Found {
            values: Vec::with_capacity(recovered.values.len()),
            sessions: Vec::new(),
            goes_on: recovered.segments > 0,
            damaged: recovered
                .damage
                .iter()
                .filter(|damage| damage.kind != DamageKind::CutOff)
                .count(),
        },
    };
    for (Key { kind, id }, value) in recovered.values {
        let entry = (StoreKey { kind, id }, value);
        match kind {
            OWN_KIND => {}
            StoreKey::BROKER_SESSION => opened.found.sessions.push(entry),
            _ => opened.found.values.push(entry),
        }
    }
    Ok(opened)
}

/// Whether files can be made there; nothing else is written before the first message.
fn probe(directory: &Path) -> io::Result<()> {
    let path = directory.join(PROBE);
    let made = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(&path);
    match made.and_then(|_| fs::remove_file(&path)) {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            ) =>
        {
            warn!(target: "spool", %error, "the disk is full: nothing is spooled until there is room");
            Ok(())
        }
        done => done,
    }
}

fn tell_damage(directory: &Path, damage: &[Damage]) {
    for place in damage.iter().take(DAMAGE_LINES) {
        let file = directory.join(&place.file);
        let (file, offset, len) = (file.display(), place.offset, place.len);
        match place.kind {
            DamageKind::CutOff => {
                info!(target: "spool", %file, offset, len, "the last write is not whole, as after a power cut in the middle of it: nobody was told that it is safe");
            }
            DamageKind::Unreadable => {
                warn!(target: "spool", %file, "cannot be read: what stands there is lost, check the disk");
            }
            DamageKind::Records => {
                warn!(target: "spool", %file, offset, len, "damaged: the records there are lost, all others stand; check the disk");
            }
            DamageKind::Short => {
                warn!(target: "spool", %file, offset, len, "shorter than it was made: what stood at its end is lost, unless the power went while it was made; check the disk");
            }
        }
    }
    if let Some(more) = damage.len().checked_sub(DAMAGE_LINES).filter(|more| *more > 0) {
        warn!(target: "spool", more, "further damaged places; check the disk");
    }
}

/// The core takes again what needs the disk.
pub(crate) fn tell_works() {
    info!(target: "spool", "the disk works again");
}

/// One line about what goes on from an earlier life.
pub(crate) fn tell_restored(restored: &Restored, damaged: usize, goes_on: bool) {
    let Restored {
        sessions: clients,
        messages,
        spooled,
        unreadable,
    } = *restored;
    if goes_on {
        info!(target: "spool", clients, messages, spooled, damaged, unreadable, "restored");
    }
}

/// What the writing thread reports.
fn report(events: &mpsc::UnboundedSender<StoreEvent>, event: Event) {
    let event = match event {
        Event::Failed(error) => {
            warn!(target: "spool", error, "the disk does not take what is written: spools nothing until it does; see gateway.state_dir");
            StoreEvent::Failed
        }
        // It is told once the core knows: whoever reads it counts on that.
        Event::Works => StoreEvent::Works,
        Event::Budget(false) => {
            warn!(target: "spool", "80 % of what may be written today is written; see spool.daily_write_budget");
            return;
        }
        Event::Budget(true) => {
            warn!(target: "spool", "all that may be written today is written: acknowledgements of what is stored now take up to a second; see spool.daily_write_budget");
            return;
        }
    };
    // The core is gone when the process ends.
    let _ = events.send(event);
}

impl Durable {
    /// Writes changes of the core and, with a ticket, tells it when they are durable.
    pub(crate) fn write(&self, changes: Vec<StoreChange>, ticket: Option<Ticket>) {
        let done = ticket.map(|ticket| {
            let events = self.events.clone();
            Box::new(move || {
                let _ = events.send(StoreEvent::Durable(ticket));
            }) as gateway_store::Done
        });
        self.handle
            .submit(changes.into_iter().map(change).collect(), done);
    }

    /// What the store counts, with exported names.
    pub(crate) fn rows(&self) -> Vec<(String, u64)> {
        let (usage, today) = self.handle.usage();
        telemetry::store_rows(&usage, today, self.budget)
    }

    /// How long it waited for the disk, with exported names.
    pub(crate) fn sync_rows(&self) -> (Vec<(String, u64)>, (String, f64)) {
        telemetry::sync_rows(&self.handle.sync_times())
    }

    /// For the broker: the same store.
    pub(crate) fn journal(&self) -> Journal {
        let handle = self.handle.clone();
        Journal::new(move |changes, done| {
            handle.submit(changes.into_iter().map(change).collect(), Some(done));
        })
    }

    /// Waits until everything is on disk that was submitted, unless the disk does not work; `failing` says that it
    /// did not lately.
    pub(crate) async fn close(self, mut events: mpsc::UnboundedReceiver<StoreEvent>, failing: bool) {
        let Durable { handle, writer, .. } = self;
        let (done, durable) = oneshot::channel();
        handle.submit(
            Vec::new(),
            Some(Box::new(move || {
                let _ = done.send(());
            })),
        );
        drop(handle);
        let failed = async {
            let mut failing = failing;
            while !failing {
                match events.recv().await {
                    Some(event) => failing = event == StoreEvent::Failed,
                    None => return core::future::pending().await,
                }
            }
        };
        let written = tokio::select! {
            biased;
            written = tokio::time::timeout(CLOSE_WAIT, durable) => matches!(written, Ok(Ok(()))),
            () = failed => false,
        };
        if !written {
            warn!(target: "spool", "stopped while the disk does not work: what was not acknowledged is lost");
            return;
        }
        // It ends once nobody can submit anything any more.
        let ended = tokio::task::spawn_blocking(move || writer.join());
        let _ = tokio::time::timeout(CLOSE_WAIT, ended).await;
    }
}

/// Tells the log what the broker's going and coming means for what waits on disk.
#[derive(Debug)]
pub(crate) struct Spooling {
    /// What waits does so on disk.
    spools: bool,
    /// Connections that are up.
    up: HashSet<ConnId>,
    since: Option<Instant>,
}

impl Spooling {
    pub(crate) fn new(spools: bool) -> Self {
        Spooling {
            spools,
            up: HashSet::new(),
            since: None,
        }
    }

    /// Notes what happens; true if there is something to tell once the core has been told.
    /// `other` is a connection that nothing is spooled for.
    pub(crate) fn before(&mut self, event: &BrokerEvent, other: Option<ConnId>) -> bool {
        let (BrokerEvent::Up { conn, .. } | BrokerEvent::Down { conn, .. }) = event else {
            return false;
        };
        if !self.spools || Some(*conn) == other {
            return false;
        }
        let was_up = !self.up.is_empty();
        match event {
            BrokerEvent::Up { .. } => self.up.insert(*conn),
            _ => self.up.remove(conn),
        };
        was_up == self.up.is_empty()
    }

    /// Says it.
    pub(crate) fn tell(&mut self, metrics: &Metrics) {
        let (messages, bytes) = (metrics.spool_messages, metrics.spool_bytes);
        if self.up.is_empty() {
            self.since = Some(Instant::now());
            info!(target: "spool", messages, bytes, "spooling: QoS 1 and 2 are acknowledged once on disk");
        } else if messages > 0 {
            let outage = self
                .since
                .take()
                .map(|since| format!("{:.1}s", since.elapsed().as_secs_f32()));
            info!(target: "spool", outage, messages, bytes, "draining");
        }
    }
}

fn change(change: StoreChange) -> Change {
    match change {
        StoreChange::Put(StoreKey { kind, id }, value) => Change::Put(Key { kind, id }, value),
        StoreChange::Delete(StoreKey { kind, id }) => Change::Delete(Key { kind, id }),
    }
}
