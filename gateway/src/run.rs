//! `snipe run`: the core, its links and its broker, on one thread.
//!
//! Everything runs on one current-thread runtime: at the rates of sensors the cost is in wake-ups, and every hand-over
//! between threads would be one more. [`core_loop`] is the only place that reads the clock for the core.

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::io::Write as _;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Instant as Clock;

use broker::RequestSender;
use gateway_core::Gateway;
use gateway_core::config::WhenDown;
use gateway_core::io::{
    BrokerEvent, Destination, Input, LinkEvent, Output, StoreChange, StoreEvent, StoreRequest, Ticket,
    TxDatagram,
};
use gateway_core::peer::LinkId;
use gateway_core::time::Instant;
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{error, info, warn};

use crate::airtime_log::AirtimeLog;
use crate::config::{self, Loaded, Settings};
use crate::control::{self, Answer, Question};
use crate::durable::{self, Durable, Spooling};
use crate::gather::Gather;
use crate::links::{self, Link, Stats};
use crate::telemetry::{self, Notices};
use crate::which_broker::{self, Opened};

/// Batches of inputs that may wait for the core; beyond that their sources wait.
const INPUTS: usize = 256;

/// Batches of inputs worked off in one turn.
const TURN: usize = 64;

/// Time that links and broker connections get to finish at a stop.
const STOP_WAIT: Duration = Duration::from_millis(800);

/// Time that required radios get to come up: modems start again in seconds, and an XBee is looked for at six speeds.
const REQUIRED_WAIT: Duration = Duration::from_secs(30);

/// Exit codes, as `snipe --help` lists them.
pub(crate) const EXIT_UNAVAILABLE: u8 = 69;
const EXIT_CANNOT_WRITE: u8 = 73;
pub(crate) const EXIT_NO_PERMISSION: u8 = 77;
const EXIT_INTERRUPTED: u8 = 130;

/// Runs the gateway until a signal stops it.
pub(crate) fn run(source: &config::SourceArgs) -> ExitCode {
    let start = Clock::now();
    let loaded = match config::load(source) {
        Ok(loaded) => loaded,
        Err(errors) => return config::refuse(&errors),
    };
    if let Err(error) = telemetry::init(&loaded.settings.log) {
        match loaded.log_refused(&error) {
            Some(errors) => config::print_errors(&errors),
            None => eprintln!("snipe: cannot write the log: {error:#}"),
        }
        return ExitCode::from(EXIT_CANNOT_WRITE);
    }
    for warning in &loaded.warnings {
        warn!(target: "config", "{}", warning.summary());
    }
    let messages = Arc::new(AtomicU64::new(0));
    let runtime = match runtime(start, loaded.settings.gather, messages.clone()) {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("snipe: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(serve(loaded, start, messages));
    // Name look-ups may still be under way on a thread of their own; nobody waits for them.
    runtime.shutdown_background();
    code
}

/// The runtime, which gathers before it parks.
fn runtime(start: Clock, gather: Duration, messages: Arc<AtomicU64>) -> std::io::Result<runtime::Runtime> {
    let mut builder = runtime::Builder::new_current_thread();
    builder.enable_all();
    if !gather.is_zero() {
        let gather = Mutex::new(Gather::new(gather));
        builder.on_thread_park(move || {
            let Ok(mut gather) = gather.lock() else { return };
            let wait = gather.before_park(start.elapsed(), messages.load(Ordering::Relaxed));
            // On purpose not a timer of the runtime: nothing is to be woken up meanwhile.
            std::thread::sleep(wait);
        });
    }
    builder.build()
}

/// What stops the gateway.
enum Stop {
    Terminated,
    Interrupted,
    /// A radio that is required did not come up.
    RadioMissing,
}

async fn serve(loaded: Loaded, start: Clock, messages: Arc<AtomicU64>) -> ExitCode {
    let settings = loaded.settings;
    if settings.radios.is_empty() {
        eprintln!(
            "snipe: no radio that this version drives is configured: add a [[radio]], for example of kind = \"udp\""
        );
        return ExitCode::from(EXIT_UNAVAILABLE);
    }
    let (inputs, input_receiver) = mpsc::channel(INPUTS);
    let links = match links::open(&settings.radios, &inputs) {
        Ok(links) => links,
        Err(error) => {
            eprintln!("snipe: {error:#}");
            return ExitCode::from(EXIT_UNAVAILABLE);
        }
    };
    let store = settings
        .store
        .as_ref()
        .map(|store| durable::open(&settings.state_dir, store))
        .transpose();
    let store = match store {
        Ok(store) => store,
        Err(error) => {
            eprintln!("snipe: {error}");
            return ExitCode::from(match error.is_denied() {
                true => EXIT_NO_PERMISSION,
                false => EXIT_CANNOT_WRITE,
            });
        }
    };
    let (questions, question_receiver) = mpsc::channel(16);
    let _socket = match control::listen(&settings.state_dir, questions) {
        Ok(socket) => Some(socket),
        // Where nothing can be written, nobody can ask.
        Err(error) if settings.store.is_none() && error.is::<std::io::Error>() => {
            warn!(target: "control", error = format!("{error:#}"), "no control socket: commands such as `snipe topics` find no gateway");
            None
        }
        Err(error) => {
            eprintln!("snipe: {error:#}");
            let denied = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
            return ExitCode::from(match denied {
                Some(std::io::ErrorKind::PermissionDenied) => EXIT_NO_PERMISSION,
                _ => EXIT_CANNOT_WRITE,
            });
        }
    };
    let (mut terminate, mut interrupt) =
        match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
            (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
            (Err(error), _) | (_, Err(error)) => {
                eprintln!("snipe: cannot handle signals: {error}");
                return ExitCode::FAILURE;
            }
        };
    let chosen = match which_broker::open(settings.broker.clone()).await {
        Ok(chosen) => chosen,
        Err(error) => {
            eprintln!("snipe: {error}");
            return ExitCode::from(EXIT_UNAVAILABLE);
        }
    };
    let (durable, stored, found) = match store {
        Some(store) => (Some(store.durable), Some(store.events), store.found),
        None => (None, None, durable::Found::default()),
    };
    let journal = durable.as_ref().map(Durable::journal);
    let broker = match chosen.broker {
        Opened::Embedded(embedded) => {
            embedded
                .hold_clients_back()
                .spawn(inputs.clone(), journal, found.sessions)
        }
        Opened::External(remote) => broker::spawn(remote, inputs.clone(), journal),
    };
    let names: Vec<String> = settings.radios.iter().map(|radio| radio.name.clone()).collect();
    let opened = settings
        .gateway
        .keep_airtime
        .then(|| AirtimeLog::open(&settings.state_dir, &names, inputs.downgrade()))
        .transpose();
    let (airtime, airtime_found) = match opened {
        Ok(opened) => opened.unzip(),
        Err(error) => {
            eprintln!(
                "snipe: cannot record airtime in {}: {error}",
                settings.state_dir.display()
            );
            return ExitCode::from(EXIT_CANNOT_WRITE);
        }
    };
    drop(inputs);
    let (give_up, gave_up) = oneshot::channel::<()>();
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => Stop::Terminated,
            _ = interrupt.recv() => Stop::Interrupted,
            Ok(()) = gave_up => Stop::RadioMissing,
        }
    };
    let banner = banner(&settings, &loaded.origin, &chosen.description, &links);
    let required = Required::new(&settings);
    let seed = u64::from(std::process::id()) ^ unix_micros();
    let (up, watched) = watch::channel(vec![false; links.len()]);
    let now = instant(start);
    let spools = durable.is_some() && settings.gateway.upstream.when_down == WhenDown::Spool;
    let mut gateway = Gateway::new(settings.gateway, seed, now);
    gateway.handle_clock(now, unix_micros() / 1000);
    if durable.is_some() {
        let restored = gateway.restore(now, unix_micros() / 1000, found.values);
        durable::tell_restored(&restored, found.damaged, found.goes_on);
    }
    for (at, found) in airtime_found.into_iter().flatten().enumerate() {
        gateway.handle_store(now, StoreEvent::AirtimeFound(LinkId(at as u16), found));
    }
    let shell = Shell {
        gateway,
        durable,
        stored,
        disk_works: true,
        spooling: Spooling::new(spools),
        airtime,
        start,
        links,
        up,
        broker,
        notices: Notices::new(names),
        buf: Vec::new(),
    };
    // A task, not this future: the runtime looks for events once more before it comes back to its main future.
    let mut core = tokio::spawn(core_loop(
        shell,
        input_receiver,
        question_receiver,
        messages,
        stop,
    ));
    tokio::select! {
        biased;
        ended = &mut core => return exit_code(ended),
        missing = required.missing(watched) => match missing {
            None => announce(&banner, start),
            Some(names) => {
                eprintln!("{}", Required::explained(&names));
                // If the core is gone already it has its own reason.
                let _ = give_up.send(());
            }
        },
    }
    exit_code(core.await)
}

fn exit_code(ended: Result<Stop, tokio::task::JoinError>) -> ExitCode {
    match ended {
        Ok(Stop::Terminated) => ExitCode::SUCCESS,
        Ok(Stop::Interrupted) => ExitCode::from(EXIT_INTERRUPTED),
        Ok(Stop::RadioMissing) => ExitCode::from(EXIT_UNAVAILABLE),
        Err(error) => {
            eprintln!("snipe: the core failed: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The radios without which the gateway does not start.
struct Required {
    /// Their places in the configuration, and their names.
    radios: Vec<(usize, String)>,
}

impl Required {
    fn new(settings: &Settings) -> Required {
        let radios = settings.radios.iter().enumerate();
        Required {
            radios: radios
                .filter(|(_, radio)| radio.required)
                .map(|(at, radio)| (at, radio.name.clone()))
                .collect(),
        }
    }

    /// Waits until all of them work; the names of those that did not in time.
    async fn missing(&self, mut up: watch::Receiver<Vec<bool>>) -> Option<Vec<String>> {
        let down = |up: &[bool]| -> Vec<String> {
            let down = self.radios.iter().filter(|(at, _)| up.get(*at) != Some(&true));
            down.map(|(_, name)| name.clone()).collect()
        };
        let all_up = up.wait_for(|up| down(up).is_empty());
        // An error is the end of the core, which has been seen by then.
        if let Ok(Ok(_)) = tokio::time::timeout(REQUIRED_WAIT, all_up).await {
            return None;
        }
        Some(down(&up.borrow()))
    }

    fn explained(names: &[String]) -> String {
        format!(
            "snipe: required, but not there after {} s: radio {}; the log says why\n  \
             ask it alone: snipe check --online\n  \
             or start without it: required = false",
            REQUIRED_WAIT.as_secs(),
            names.join(", radio "),
        )
    }
}

/// The few lines that tell a person what runs.
fn banner(settings: &Settings, origin: &str, broker: &str, links: &[Link]) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let id = settings.gateway.gateway_id;
    let mut text = format!("snipe {version}  gateway id {id} · config: {origin}\n");
    for link in links {
        text += &format!("radio   {}\n", link.description);
    }
    text += &format!("broker  {broker}\n");
    // The client tools speak UDP.
    if let Some(port) = links.iter().find_map(|link| link.port) {
        let flag = match port {
            1883 => String::new(),
            port => format!(" -p {port}"),
        };
        text += &format!(
            "try     snipe sub{flag} -t 'demo/#'     and in another terminal     snipe pub{flag} -t demo/hello -m 21.5\n"
        );
    }
    text
}

/// Says what runs. Whoever is not there to read it does not matter.
fn announce(banner: &str, start: Clock) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{banner}ready in {} ms", start.elapsed().as_millis()).and_then(|()| out.flush());
}

/// The core and everything its outputs go to.
struct Shell {
    gateway: Gateway,
    start: Clock,
    links: Vec<Link>,
    /// Which of them work.
    up: watch::Sender<Vec<bool>>,
    broker: RequestSender,
    /// `None`: nothing survives.
    durable: Option<Durable>,
    /// What the store reports.
    stored: Option<mpsc::UnboundedReceiver<StoreEvent>>,
    /// As far as it reported.
    disk_works: bool,
    spooling: Spooling,
    airtime: Option<AirtimeLog>,
    notices: Notices,
    /// Datagrams of the output at hand.
    buf: Vec<u8>,
}

/// Hands in what happened, carries out what comes of it, sleeps until there is more.
async fn core_loop(
    mut shell: Shell,
    mut inputs: mpsc::Receiver<Input>,
    mut questions: mpsc::Receiver<Question>,
    messages: Arc<AtomicU64>,
    stop: impl Future<Output = Stop>,
) -> Stop {
    tokio::pin!(stop);
    let timer = tokio::time::sleep(Duration::ZERO);
    tokio::pin!(timer);
    let mut armed = None;
    let mut taken = Vec::with_capacity(TURN);
    shell.drain(instant(shell.start));
    loop {
        let deadline = shell.gateway.poll_timeout();
        if let Some(at) = deadline
            && armed != deadline
        {
            timer.as_mut().reset(clock(shell.start, at).into());
            armed = deadline;
        }
        tokio::select! {
            biased;
            // Before the inputs: whoever waits for the disk has waited longest, and cannot be many.
            event = next(&mut shell.stored) => {
                let now = instant(shell.start);
                shell.on_stored(now, event);
                shell.drain(now);
            }
            count = inputs.recv_many(&mut taken, TURN) => {
                if count == 0 {
                    error!(target: "gateway", "every radio is gone");
                    return Stop::Terminated;
                }
                let now = instant(shell.start);
                let mut handled = 0;
                for input in taken.drain(..) {
                    handled += shell.handle(now, input);
                }
                messages.fetch_add(handled, Ordering::Relaxed);
                shell.drain(now);
            }
            () = &mut timer, if deadline.is_some() => {
                armed = None;
                let now = instant(shell.start);
                shell.gateway.handle_clock(now, unix_micros() / 1000);
                shell.gateway.handle_timeout(now);
                shell.drain(now);
            }
            Some(question) = questions.recv() => {
                let now = instant(shell.start);
                shell.answer(now, question);
                // Some questions are orders.
                shell.drain(now);
            }
            reason = &mut stop => {
                shell.stop(&mut inputs).await;
                return reason;
            }
        }
    }
}

/// The next report of the store, if there is one.
async fn next(stored: &mut Option<mpsc::UnboundedReceiver<StoreEvent>>) -> StoreEvent {
    match stored {
        Some(stored) => match stored.recv().await {
            Some(event) => event,
            // Its senders are kept by whoever waits here.
            None => core::future::pending().await,
        },
        None => core::future::pending().await,
    }
}

impl Shell {
    /// Hands in a report of the store and those that came with it.
    fn on_stored(&mut self, now: Instant, first: StoreEvent) {
        let mut next = Some(first);
        while let Some(event) = next {
            match event {
                StoreEvent::Failed => self.disk_works = false,
                StoreEvent::Works => self.disk_works = true,
                StoreEvent::Durable(_)
                | StoreEvent::AirtimeStored(_)
                | StoreEvent::AirtimeNotStored(_)
                | StoreEvent::AirtimeFound(..) => {}
            }
            let works = event == StoreEvent::Works;
            self.gateway.handle_store(now, event);
            if works {
                durable::tell_works();
            }
            next = self.stored.as_mut().and_then(|stored| stored.try_recv().ok());
        }
    }

    /// Returns how many datagrams and messages that was.
    fn handle(&mut self, now: Instant, input: Input) -> u64 {
        match input {
            Input::Datagrams(link, batch) => {
                for (received, datagram) in batch.iter() {
                    let radio = || self.notices.radio(link).to_owned();
                    telemetry::trace_datagram("in", radio, || received.from.addr.to_string(), datagram);
                    self.gateway
                        .handle_datagram(now, link, &received.from, received.facts, datagram);
                }
                batch.datagrams.len() as u64
            }
            Input::Broker(events) => {
                let is_message = |event: &&BrokerEvent| matches!(event, BrokerEvent::Message { .. });
                let messages = events.iter().filter(is_message).count();
                for event in events {
                    let told = self.spooling.before(&event, self.gateway.status_connection());
                    self.gateway.handle_broker(now, event);
                    if told {
                        self.spooling.tell(self.gateway.metrics());
                    }
                }
                messages as u64
            }
            Input::Link(link, event) => {
                self.note_state(link, &event);
                self.gateway.handle_link(now, link, event);
                0
            }
            Input::Store(event) => {
                self.gateway.handle_store(now, event);
                0
            }
        }
    }

    /// Tells those who wait for radios.
    fn note_state(&self, link: LinkId, event: &LinkEvent) {
        let works = match event {
            LinkEvent::Up(_) => true,
            LinkEvent::Down => false,
            LinkEvent::Credit(_)
            | LinkEvent::Sent(_)
            | LinkEvent::Unsent(_)
            | LinkEvent::PeerIdentified { .. }
            | LinkEvent::PeerGone { .. } => return,
        };
        self.up
            .send_if_modified(|up| match up.get_mut(usize::from(link.0)) {
                Some(known) if *known != works => {
                    *known = works;
                    true
                }
                Some(_) | None => false,
            });
    }

    /// Carries out all outputs: one batch for each link, and one for the broker.
    fn drain(&mut self, now: Instant) {
        let mut requests = Vec::new();
        while let Some(output) = self.gateway.poll_output(now, &mut self.buf) {
            match output {
                Output::Transmit {
                    link,
                    to,
                    len,
                    ticket,
                } => {
                    let radio = || self.notices.radio(link).to_owned();
                    let peer = || match &to {
                        Destination::Peer(route) => route.addr.to_string(),
                        Destination::Broadcast => "everyone".to_owned(),
                    };
                    telemetry::trace_datagram("out", radio, peer, &self.buf);
                    if let Some(link) = self.links.get_mut(usize::from(link.0)) {
                        link.batch.bytes.extend_from_slice(&self.buf);
                        link.batch.datagrams.push(TxDatagram {
                            to,
                            len: len as u32,
                            ticket,
                        });
                    }
                    self.buf.clear();
                }
                Output::Broker(request) => requests.push(request),
                Output::Store(StoreRequest::Write { changes, ticket }) => self.write(changes, ticket),
                Output::Store(StoreRequest::Airtime { link, record }) => {
                    if let Some(log) = &self.airtime {
                        log.store(link, record);
                    }
                }
                Output::Notice(notice) => self.notices.log(now, notice),
            }
        }
        if !requests.is_empty() {
            self.broker.send(requests);
        }
        if self.gateway.subscriptions_stand() {
            self.broker.let_clients_in();
        }
        for link in &mut self.links {
            if !link.batch.datagrams.is_empty() {
                // A link that is gone takes nothing; its going was reported by itself.
                let _ = link.sender.send(core::mem::take(&mut link.batch));
            }
        }
    }

    fn write(&self, changes: Vec<StoreChange>, ticket: Option<Ticket>) {
        if let Some(durable) = &self.durable {
            durable.write(changes, ticket);
        }
    }

    fn answer(&mut self, now: Instant, question: Question) {
        let mut answer = Answer {
            reply: self.gateway.handle_admin(now, question.command),
            fractions: Vec::new(),
        };
        if let gateway_core::admin::AdminReply::Metrics(rows) = &mut answer.reply {
            if let Some(stats) = self.broker.embedded_stats() {
                rows.extend(telemetry::broker_rows(&stats));
            }
            if let Some(durable) = &self.durable {
                rows.extend(durable.rows());
                let (syncs, sum) = durable.sync_rows();
                rows.extend(syncs);
                answer.fractions.push(sum);
            }
            for (at, link) in self.links.iter().enumerate() {
                match &link.stats {
                    Stats::Udp(stats) => rows.extend(telemetry::udp_rows(&link.name, stats)),
                    Stats::Serial(stats) => rows.extend(telemetry::serial_rows(&link.name, stats)),
                }
                if let Some(metrics) = self.gateway.link_metrics(now, LinkId(at as u16)) {
                    rows.extend(telemetry::link_rows(&link.name, link.kind, &metrics));
                    if matches!(link.stats, Stats::Serial(_)) {
                        rows.extend(telemetry::signal_rows(&link.name, &metrics));
                        answer
                            .fractions
                            .extend(telemetry::airtime_rows(&link.name, &metrics));
                    }
                }
            }
            telemetry::summed(rows);
        }
        // Whoever asked may have gone.
        let _ = question.answer.send(answer);
    }

    /// Says goodbye to clients and broker, and leaves everything on disk that another life will want to know.
    async fn stop(mut self, inputs: &mut mpsc::Receiver<Input>) {
        let now = instant(self.start);
        self.gateway.handle_shutdown(now);
        self.drain(now);
        self.links.clear(); // The adapters send what they have and end.
        let Shell {
            mut gateway,
            durable,
            stored,
            disk_works,
            broker,
            ..
        } = self;
        let late = async {
            // So that nobody waits for us to listen.
            while let Some(input) = inputs.recv().await {
                if let (Input::Broker(events), Some(durable)) = (input, &durable) {
                    late_outcomes(&mut gateway, now, events, durable);
                }
            }
        };
        let closed = async { tokio::join!(broker.close(), late) };
        if tokio::time::timeout(STOP_WAIT, closed).await.is_err() {
            warn!(target: "gateway", "stopped before the broker connection was closed in good order");
        }
        if let (Some(durable), Some(stored)) = (durable, stored) {
            durable.close(stored, !disk_works).await;
        }
        info!(target: "gateway", "stopped");
    }
}

/// What the broker still said of publishes is written down: else they go out again after the restart. Nothing else of
/// what comes now can be acted upon.
fn late_outcomes(gateway: &mut Gateway, now: Instant, events: Vec<BrokerEvent>, durable: &Durable) {
    for event in events {
        match event {
            BrokerEvent::Settled { .. } | BrokerEvent::Delivered { .. } | BrokerEvent::Released { .. } => {
                gateway.handle_broker(now, event);
            }
            BrokerEvent::Up { .. }
            | BrokerEvent::Down { .. }
            | BrokerEvent::Credit { .. }
            | BrokerEvent::Lost { .. }
            | BrokerEvent::Message { .. } => {}
        }
    }
    let mut datagrams = Vec::new();
    while let Some(output) = gateway.poll_output(now, &mut datagrams) {
        if let Output::Store(StoreRequest::Write { changes, ticket }) = output {
            durable.write(changes, ticket);
        }
    }
}

/// What the core's clock shows at the start: more than anything is kept for, so that what an earlier life stored has a
/// place on it.
const HEAD_START: Duration = Duration::from_secs(400 * 24 * 3600);

fn instant(start: Clock) -> Instant {
    Instant::START + HEAD_START + start.elapsed()
}

/// The same moment on our clock; the start at the earliest.
fn clock(start: Clock, at: Instant) -> Clock {
    start + at.since(Instant::START + HEAD_START)
}

fn unix_micros() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |since| since.as_micros() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn required(places: &[usize]) -> Required {
        Required {
            radios: places.iter().map(|at| (*at, format!("r{at}"))).collect(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_waited_for_unless_required() {
        let (_up, watched) = watch::channel(vec![false, false]);
        let start = tokio::time::Instant::now();
        assert_eq!(required(&[]).missing(watched).await, None);
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn required_radios_are_waited_for_until_all_work() {
        let (up, watched) = watch::channel(vec![false, false, false]);
        let start = tokio::time::Instant::now();
        let later = async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            up.send_modify(|up| up[2] = true);
            tokio::time::sleep(Duration::from_secs(4)).await;
            up.send_modify(|up| up[0] = true);
        };
        let (missing, ()) = tokio::join!(
            async { (required(&[0, 2]).missing(watched).await, start.elapsed()) },
            later
        );
        assert_eq!(missing, (None, Duration::from_secs(7)));
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_do_not_come_up_in_time_are_named() {
        let (up, watched) = watch::channel(vec![false, false]);
        up.send_modify(|up| up[0] = true);
        let start = tokio::time::Instant::now();
        let missing = required(&[0, 1]).missing(watched).await;
        assert_eq!(
            (missing, start.elapsed()),
            (Some(vec!["r1".to_owned()]), REQUIRED_WAIT)
        );
        assert!(
            Required::explained(&["r1".into()])
                .starts_with("snipe: required, but not there after 30 s: radio r1;")
        );
    }
}
