//! A site behind a pseudo-terminal, in real time.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::Duration,
};

use anyhow::Context as _;
use gateway_core::time::Instant;
use snipe_sim::{
    agenda::Agenda,
    modem::Fault,
    pty::{Pty, PtyRead},
    site::{Site, SiteEvent},
};

use super::{args::ModemArgs, print::Printer};

/// Commands and the end are looked for at least this often.
const LONGEST_WAIT: Duration = Duration::from_millis(50);

/// A site with its port.
#[derive(Debug)]
pub(super) struct Live {
    site: Site,
    pty: Pty,
    start: std::time::Instant,
    /// Somebody has the port open.
    open: bool,
    baud: Option<u32>,
    faults: Agenda<Fault>,
    commands: mpsc::Receiver<String>,
    stop: Arc<AtomicBool>,
    printer: Printer,
}

impl Live {
    /// Makes the port and switches the modem on.
    pub(super) fn new(
        args: &ModemArgs,
        site: Site,
        stop: Arc<AtomicBool>,
        commands: mpsc::Receiver<String>,
    ) -> anyhow::Result<Live> {
        let mut pty = Pty::new(&args.pty).context("make the port")?;
        let terminal = pty
            .plug()
            .with_context(|| format!("make the port {}", args.pty.display()))?;
        let mut faults = Agenda::default();
        for timed in &args.fault {
            faults.add(Instant::START + timed.at, timed.fault);
        }
        let printer = Printer::new(args, site.sensors_tuning());
        let mut live = Live {
            site,
            pty,
            start: std::time::Instant::now(),
            open: false,
            baud: None,
            faults,
            commands,
            stop,
            printer,
        };
        live.printer.ready(&args.pty, &terminal);
        live.site.power_on(live.now());
        Ok(live)
    }

    /// Runs until it is told to stop.
    pub(super) fn run(&mut self) -> anyhow::Result<()> {
        while !self.stop.load(Ordering::Relaxed) {
            if !self.step()? {
                break;
            }
            let now = self.now();
            let next = [self.site.poll_timeout(), self.faults.next()]
                .into_iter()
                .flatten()
                .min();
            let wait = next
                .map_or(LONGEST_WAIT, |next| next.since(now))
                .min(LONGEST_WAIT);
            self.pty.wait(wait).context("wait for the port")?;
        }
        self.printer.summary(self.now(), &self.site);
        Ok(())
    }

    /// Moves octets, time and commands; false when the user has had enough.
    fn step(&mut self) -> anyhow::Result<bool> {
        self.read().context("read from the port")?;
        let now = self.now();
        while let Some((_, fault)) = self.faults.pop_due(now) {
            self.fault(now, fault);
        }
        while let Ok(line) = self.commands.try_recv() {
            match line.trim() {
                "" => {}
                "quit" | "exit" => return Ok(false),
                "status" => self.printer.summary(now, &self.site),
                text => match text.parse() {
                    Ok(fault) => self.fault(now, fault),
                    Err(error) => self.printer.complain(&format!("{error}, status, quit")),
                },
            }
        }
        self.site.handle_timeout(now);
        while let Some(event) = self.site.poll_event() {
            self.on_event(now, event).context("put the port back")?;
        }
        self.printer.flush();
        Ok(true)
    }

    fn read(&mut self) -> io::Result<()> {
        let mut buffer = [0; 4096];
        loop {
            let read = self.pty.read(&mut buffer)?;
            let now = self.now();
            let open = read != PtyRead::Closed;
            if open {
                self.look_at_baud(now);
            }
            if open != self.open {
                self.open = open;
                if !open {
                    self.baud = None;
                    self.site.host_closed();
                    if self.site.is_plugged() {
                        self.printer.closed(now);
                    }
                }
            }
            let PtyRead::Octets(octets) = read else {
                return Ok(());
            };
            self.printer.line(now, true, &buffer[..octets]);
            self.site.handle_octets(now, &buffer[..octets]);
        }
    }

    fn look_at_baud(&mut self, now: Instant) {
        let baud = self.pty.baud();
        if baud != self.baud {
            self.baud = baud;
            if let Some(baud) = baud {
                self.site.set_host_baud(baud);
                self.printer.opened(now, baud);
            }
        }
    }

    fn fault(&mut self, now: Instant, fault: Fault) {
        self.printer.fault(now, fault);
        self.site.fault(now, fault);
    }

    fn on_event(&mut self, now: Instant, event: SiteEvent) -> io::Result<()> {
        match &event {
            // A port that nobody has open keeps nothing.
            SiteEvent::ToHost(octets) if self.open => self.pty.write(octets),
            SiteEvent::Unplugged => {
                self.pty.unplug();
                self.open = false;
                self.baud = None;
            }
            SiteEvent::Replugged => {
                self.pty.plug()?;
            }
            SiteEvent::ToHost(_)
            | SiteEvent::Tuned(_)
            | SiteEvent::Up { .. }
            | SiteEvent::Down { .. }
            | SiteEvent::Damaged { .. }
            | SiteEvent::Delivered { .. }
            | SiteEvent::Behind { .. }
            | SiteEvent::Note(_) => {}
        }
        self.printer.event(now, &event);
        Ok(())
    }

    fn now(&self) -> Instant {
        Instant::START + self.start.elapsed()
    }
}
