//! A simulated modem on a pseudo-terminal, sensors in the air around it, in real time.

use std::{
    any::Any,
    path::{Path, PathBuf},
    sync::mpsc,
    thread::JoinHandle,
    time::{Duration, Instant as Clock},
};

use gateway_core::time::Instant;
use snipe_sim::{
    agenda::Agenda,
    ether::{AirEvent, Ether, EtherConfig, StationId},
    modem::{Fault, Uart, UartOutput},
    pty::{Pty, PtyRead},
    sensor::Sensor,
    sim_client::SimClient,
};
use system_tests::poll_until;
use tempfile::TempDir;

use super::kinds::Kind;

/// Longer than any exchange of these tests takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Orders are looked for this often.
const LONGEST_WAIT: Duration = Duration::from_millis(5);

type Order = Box<dyn FnOnce(&mut Bench, Instant) + Send>;

/// The bench from outside: it lives on a thread of its own until this is dropped.
pub(crate) struct Remote {
    orders: Option<mpsc::Sender<Order>>,
    thread: Option<JoinHandle<()>>,
    port: PathBuf,
    _dir: TempDir,
}

/// What stands on the bench.
pub(crate) struct Bench {
    pty: Pty,
    uart: Uart,
    modem: StationId,
    ether: Ether,
    sensors: Vec<(Sensor, StationId)>,
    agenda: Agenda<Order>,
    open: bool,
    started: Clock,
}

impl Remote {
    /// A modem of this kind that has power, and so many sensors that are switched off.
    pub(crate) fn start(kind: Kind, sensors: u8) -> Remote {
        let dir = TempDir::new().expect("a temporary directory");
        let port = dir.path().join("modem");
        let bench = Bench::new(kind, sensors, &port);
        let (orders, inbox) = mpsc::channel();
        let thread = std::thread::spawn(move || bench.run(&inbox));
        Remote {
            orders: Some(orders),
            thread: Some(thread),
            port,
            _dir: dir,
        }
    }

    /// The path of the modem's port.
    pub(crate) fn port(&self) -> &Path {
        &self.port
    }

    /// Does something at the bench and returns what came of it.
    pub(crate) fn ask<T: Any + Send>(
        &self,
        order: impl FnOnce(&mut Bench, Instant) -> T + Send + 'static,
    ) -> T {
        let (answer, result) = mpsc::channel();
        let order: Order = Box::new(move |bench, now| {
            // Who asked waits for it.
            let _ = answer.send(order(bench, now));
        });
        let orders = self.orders.as_ref().expect("it is there until it is dropped");
        orders.send(order).expect("the bench lives");
        result.recv().expect("the bench answers")
    }

    /// Does something with a sensor.
    pub(crate) fn sensor<T: Any + Send>(
        &self,
        index: usize,
        order: impl FnOnce(&mut Sensor, Instant) -> T + Send + 'static,
    ) -> T {
        self.ask(move |bench, now| {
            let result = order(&mut bench.sensors[index].0, now);
            bench.settle(now);
            result
        })
    }

    /// Waits until something is true of a sensor's client.
    #[track_caller]
    pub(crate) fn wait(
        &self,
        index: usize,
        what: &str,
        done: impl Fn(&SimClient) -> bool + Clone + Send + 'static,
    ) {
        let ask = || {
            let done = done.clone();
            self.sensor(index, move |sensor, _| done(&sensor.client))
                .then_some(())
        };
        poll_until(&format!("sensor {index}: {what}"), PATIENCE, ask);
    }

    /// Something goes wrong with the modem.
    pub(crate) fn fault(&self, fault: Fault) {
        self.fault_after(Duration::ZERO, fault);
    }

    /// Something will go wrong with the modem.
    pub(crate) fn fault_after(&self, time: Duration, fault: Fault) {
        self.later(time, move |bench, now| bench.uart.fault(now, fault));
    }

    /// Does something with a sensor after this time.
    pub(crate) fn sensor_after(
        &self,
        time: Duration,
        index: usize,
        order: impl FnOnce(&mut Sensor, Instant) + Send + 'static,
    ) {
        self.later(time, move |bench, now| order(&mut bench.sensors[index].0, now));
    }

    fn later(&self, time: Duration, order: impl FnOnce(&mut Bench, Instant) + Send + 'static) {
        self.ask(move |bench, now| bench.agenda.add(now + time, Box::new(order)));
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the bench broke down");
        }
    }
}

impl Bench {
    fn new(kind: Kind, sensors: u8, port: &Path) -> Bench {
        let mut ether = Ether::new(EtherConfig::default());
        let mut pty = Pty::new(port).expect("a port can be made");
        pty.plug().expect("a port can be made");
        let mut bench = Bench {
            pty,
            uart: Uart::new(kind.modem(), 0, 1),
            modem: ether.join(),
            sensors: (0..sensors)
                .map(|index| (kind.sensor(index), ether.join()))
                .collect(),
            ether,
            agenda: Agenda::default(),
            open: false,
            started: Clock::now(),
        };
        bench.uart.power_on(Instant::START);
        bench.settle(Instant::START);
        bench
    }

    fn run(mut self, inbox: &mpsc::Receiver<Order>) {
        loop {
            self.step();
            loop {
                match inbox.try_recv() {
                    Ok(order) => {
                        let now = self.now();
                        order(&mut self, now);
                    }
                    Err(mpsc::TryRecvError::Empty) => break,
                    Err(mpsc::TryRecvError::Disconnected) => return,
                }
            }
            let now = self.now();
            let wait = self.next().map_or(LONGEST_WAIT, |next| next.since(now));
            self.pty
                .wait(wait.min(LONGEST_WAIT))
                .expect("a port can be waited for");
        }
    }

    fn now(&self) -> Instant {
        Instant::START + self.started.elapsed()
    }

    fn next(&self) -> Option<Instant> {
        let sensors = self
            .sensors
            .iter()
            .filter_map(|(sensor, _)| sensor.poll_timeout());
        let others = [
            self.uart.poll_timeout(),
            self.ether.poll_timeout(),
            self.agenda.next(),
        ];
        sensors.chain(others.into_iter().flatten()).min()
    }

    fn step(&mut self) {
        self.read();
        let now = self.now();
        while let Some((_, order)) = self.agenda.pop_due(now) {
            order(self, now);
        }
        self.ether.handle_timeout(now);
        // Who turns round listens before anybody sends, however late this is.
        for (sensor, _) in &mut self.sensors {
            if sensor.poll_timeout().is_some_and(|at| at <= now) {
                sensor.handle_timeout(now);
            }
        }
        self.settle(now);
        self.uart.handle_timeout(now);
        self.settle(now);
    }

    fn read(&mut self) {
        let mut buffer = [0; 4096];
        loop {
            let read = self.pty.read(&mut buffer).expect("a port can be read");
            let now = self.now();
            let open = read != PtyRead::Closed;
            if self.open && !open {
                self.uart.host_closed();
            }
            self.open = open;
            if let Some(baud) = self.pty.baud().filter(|_| open) {
                self.uart.set_host_baud(baud);
            }
            let PtyRead::Octets(octets) = read else {
                return;
            };
            self.uart.handle_octets(now, &buffer[..octets]);
        }
    }

    /// Carries things between modem, air and sensors until nothing moves.
    fn settle(&mut self, now: Instant) {
        loop {
            let mut moved = false;
            while let Some(output) = self.uart.poll_output() {
                moved = true;
                self.on_output(now, output);
            }
            for (sensor, station) in &mut self.sensors {
                while let Some(request) = sensor.poll_request() {
                    moved = true;
                    self.ether.handle_request(now, *station, request);
                }
            }
            while let Some((station, event)) = self.ether.poll_event() {
                moved = true;
                self.on_air(now, station, event);
            }
            if !moved {
                return;
            }
        }
    }

    fn on_output(&mut self, now: Instant, output: UartOutput) {
        match output {
            // A port that nobody has open keeps nothing.
            UartOutput::ToHost(octets) if self.open => self.pty.write(&octets),
            UartOutput::ToHost(_) | UartOutput::Note(_) => {}
            UartOutput::Unplugged => {
                self.pty.unplug();
                self.open = false;
            }
            UartOutput::Replugged => {
                self.pty.plug().expect("a port can be made");
            }
            UartOutput::Air(request) => self.ether.handle_request(now, self.modem, request),
        }
    }

    fn on_air(&mut self, now: Instant, station: StationId, event: AirEvent) {
        if station == self.modem {
            return self.uart.handle_air(now, event);
        }
        let sensor = self.sensors.iter_mut().find(|(_, other)| *other == station);
        if let Some((sensor, _)) = sensor {
            sensor.handle_air(now, event);
        }
    }
}
