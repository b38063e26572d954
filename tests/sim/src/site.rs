//! A modem on its line with sensors in the air around it, as one value without I/O.
//!
//! What a person tries before buying hardware: `snipe sim modem` runs a [`Site`] behind a pty.

use core::time::Duration;
use std::collections::VecDeque;

use bytes::Bytes;
use gateway_core::time::Instant;
use sn_codec::{PublishQoS, QoS};

use crate::agenda::Agenda;
use crate::ether::{AirEvent, AirRequest, AirTotals, Ether, EtherConfig, StationId, Tuning};
use crate::modem::{Fault, SimModem, Uart, UartOutput};
use crate::sensor::{Carriage, Carried, Carrier, Header, Sensor, SensorConfig};
use crate::sim_client::{Action, ClientConfig, Delivered, Presence, TopicForm, Uplink};

/// What the sensors do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Habits {
    /// From one message to the next.
    pub interval: Duration,
    /// With which QoS they publish.
    pub qos: PublishQoS,
    /// They sleep so long between two wake-ups, if they do.
    pub sleep: Option<Duration>,
    /// From the start of one sensor to the next.
    pub stagger: Duration,
}

/// A modem and sensors.
#[derive(Debug)]
pub struct Site {
    ether: Ether,
    uart: Uart,
    modem: StationId,
    nodes: Vec<Node>,
    habits: Habits,
    agenda: Agenda<Step>,
    events: VecDeque<SiteEvent>,
}

/// What happens at a site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SiteEvent {
    /// Octets for the host.
    ToHost(Vec<u8>),
    /// The modem left its port.
    Unplugged,
    /// It is back.
    Replugged,
    /// The modem listens so from now on, or no more.
    Tuned(Option<Tuning>),
    /// A sensor sends.
    Up {
        /// Which one, counted from 0.
        sensor: usize,
        /// MQTT-SN; `None` for a frame of the link itself.
        datagram: Option<Vec<u8>>,
        /// How long it takes.
        air: Duration,
    },
    /// The modem sends.
    Down {
        /// For which sensor; `None` for everyone, or nobody.
        sensor: Option<usize>,
        /// What a sensor would make of it; `None` for a frame of the link itself, or one that no sensor understands.
        datagram: Option<Vec<u8>>,
        /// Octets of the frame.
        len: usize,
        /// How long it takes.
        air: Duration,
    },
    /// A frame reached a radio damaged.
    Damaged {
        /// A sensor; `None` is the modem.
        sensor: Option<usize>,
    },
    /// A message reached a sensor's application.
    Delivered {
        /// Which one.
        sensor: usize,
        /// The message.
        message: Delivered,
    },
    /// A sensor could not publish: the message before is still on its way.
    Behind {
        /// Which one.
        sensor: usize,
    },
    /// The modem says something to people.
    Note(String),
}

#[derive(Debug)]
struct Node {
    sensor: Sensor,
    station: StationId,
    published: u64,
    skipped: u64,
}

/// What a sensor came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeReport {
    /// Its client id.
    pub id: String,
    /// Where it is in its session.
    pub presence: Presence,
    /// Messages it had to publish.
    pub published: u64,
    /// Messages it left out because the one before was still on its way.
    pub skipped: u64,
    /// Frames it sent.
    pub frames: u64,
    /// Requests it gave up.
    pub gave_up: usize,
}

#[derive(Debug)]
enum Step {
    Start(usize),
    Report(usize),
}

impl Site {
    /// A modem without power, and nobody around it.
    pub fn new(modem: Box<dyn SimModem>, host_baud: u32, ether: EtherConfig, habits: Habits) -> Site {
        let seed = ether.seed;
        let mut ether = Ether::new(ether);
        Site {
            modem: ether.join(),
            ether,
            uart: Uart::new(modem, host_baud, seed),
            nodes: Vec::new(),
            habits,
            agenda: Agenda::default(),
            events: VecDeque::new(),
        }
    }

    /// A sensor more. It subscribes to `sim/ID/set` and publishes to `sim/ID/value`.
    pub fn add_sensor(&mut self, client: ClientConfig, config: SensorConfig) {
        let start = Instant::START + self.habits.stagger * (self.nodes.len() as u32 + 1);
        self.agenda.add(start, Step::Start(self.nodes.len()));
        self.nodes.push(Node {
            sensor: Sensor::new(client, config),
            station: self.ether.join(),
            published: 0,
            skipped: 0,
        });
    }

    /// The modem gets power.
    pub fn power_on(&mut self, now: Instant) {
        self.uart.power_on(now);
        self.settle(now);
    }

    /// The host wrote.
    pub fn handle_octets(&mut self, now: Instant, octets: &[u8]) {
        self.uart.handle_octets(now, octets);
        self.settle(now);
    }

    /// The host speaks at this speed.
    pub fn set_host_baud(&mut self, baud: u32) {
        self.uart.set_host_baud(baud);
    }

    /// The host closed the port.
    pub fn host_closed(&mut self) {
        self.uart.host_closed();
    }

    /// Something goes wrong with the modem.
    pub fn fault(&mut self, now: Instant, fault: Fault) {
        self.uart.fault(now, fault);
        self.settle(now);
    }

    /// The modem's port is there.
    pub fn is_plugged(&self) -> bool {
        self.uart.is_plugged()
    }

    /// When [`Site::handle_timeout`] is wanted.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let sensors = self.nodes.iter().filter_map(|node| node.sensor.poll_timeout());
        let others = [
            self.uart.poll_timeout(),
            self.ether.poll_timeout(),
            self.agenda.next(),
        ];
        sensors.chain(others.into_iter().flatten()).min()
    }

    /// Moves everything whose time has come, in the order of time.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.uart.handle_timeout(now);
        self.ether.handle_timeout(now);
        while let Some((_, step)) = self.agenda.pop_due(now) {
            match step {
                Step::Start(sensor) => self.start(now, sensor),
                Step::Report(sensor) => self.report(now, sensor),
            }
        }
        for node in &mut self.nodes {
            if node.sensor.poll_timeout().is_some_and(|at| at <= now) {
                node.sensor.handle_timeout(now);
            }
        }
        self.settle(now);
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<SiteEvent> {
        self.events.pop_front()
    }

    /// How the sensors' radios are set, if there are any; it is the same for all.
    pub fn sensors_tuning(&self) -> Option<Tuning> {
        Some(self.nodes.first()?.sensor.carriage().tuning)
    }

    /// What happened on the air.
    pub fn air(&self) -> AirTotals {
        self.ether.totals
    }

    /// What became of the sensors.
    pub fn sensors(&self) -> impl Iterator<Item = NodeReport> + '_ {
        self.nodes.iter().map(|node| NodeReport {
            id: node.sensor.client.config.id.clone(),
            presence: node.sensor.client.presence(),
            published: node.published,
            skipped: node.skipped,
            frames: node.sensor.frames_sent,
            gave_up: node.sensor.client.gave_up,
        })
    }

    fn start(&mut self, now: Instant, index: usize) {
        let sensor = &mut self.nodes[index].sensor;
        let topic = TopicForm::Name(format!("sim/{}/set", sensor.client.config.id));
        let qos = QoS::AtLeastOnce;
        sensor.connect(now);
        sensor.act(now, Action::Subscribe { topic, qos });
        self.report(now, index);
    }

    /// A message, if the last one is done, and then sleep.
    fn report(&mut self, now: Instant, index: usize) {
        self.agenda.add(now + self.habits.interval, Step::Report(index));
        let Node {
            sensor,
            published,
            skipped,
            ..
        } = &mut self.nodes[index];
        // What the client remembers of its messages is of no use here, and would grow.
        sensor.client.outcomes.clear();
        sensor.client.rejections.clear();
        let first = *published == 0;
        let free = sensor.client.is_idle() || sensor.client.presence() == Presence::Asleep;
        if !first && !free {
            *skipped += 1;
            self.events.push_back(SiteEvent::Behind { sensor: index });
            return;
        }
        *published += 1;
        // A plausible temperature that differs each time, so that no two messages are equal.
        let value = 20.0 + index as f64 / 10.0 + (*published % 100) as f64 / 100.0;
        let uplink = Uplink {
            topic: TopicForm::Name(format!("sim/{}/value", sensor.client.config.id)),
            qos: self.habits.qos,
            retain: false,
            payload: Bytes::from(format!("{value:.2} #{published}")),
        };
        sensor.act(now, Action::Publish(uplink));
        if let Some(sleep) = self.habits.sleep {
            let naps = self.habits.interval.as_secs() / sleep.as_secs().max(1);
            let duration = u16::try_from(sleep.as_secs().max(1)).unwrap_or(u16::MAX);
            let naps = u32::try_from(naps).unwrap_or(u32::MAX).max(1);
            sensor.act(now, Action::Sleep { duration, naps });
        }
    }

    /// Carries things between modem, air and sensors until nothing moves.
    fn settle(&mut self, now: Instant) {
        loop {
            if let Some(output) = self.uart.poll_output() {
                self.on_uart(now, output);
            } else if let Some((station, event)) = self.ether.poll_event() {
                self.on_air(now, station, event);
            } else if !self.ask_sensors(now) {
                return;
            }
        }
    }

    fn on_uart(&mut self, now: Instant, output: UartOutput) {
        let event = match output {
            UartOutput::ToHost(octets) => SiteEvent::ToHost(octets),
            UartOutput::Unplugged => SiteEvent::Unplugged,
            UartOutput::Replugged => SiteEvent::Replugged,
            UartOutput::Note(text) => SiteEvent::Note(text),
            UartOutput::Air(request) => {
                match &request {
                    AirRequest::Send { tuning, payload } => {
                        let air = self.ether.time_on_air(tuning, payload.len());
                        let (sensor, datagram) = self.for_whom(payload);
                        let len = payload.len();
                        self.events.push_back(SiteEvent::Down {
                            sensor,
                            datagram,
                            len,
                            air,
                        });
                    }
                    AirRequest::Listen(tuning) => self.events.push_back(SiteEvent::Tuned(*tuning)),
                    AirRequest::Abort | AirRequest::Sense(_) => {}
                }
                return self.ether.handle_request(now, self.modem, request);
            }
        };
        self.events.push_back(event);
    }

    fn on_air(&mut self, now: Instant, station: StationId, event: AirEvent) {
        let sensor = self.nodes.iter().position(|node| node.station == station);
        if let AirEvent::Damaged { .. } = event {
            self.events.push_back(SiteEvent::Damaged { sensor });
        }
        let Some(index) = sensor else {
            return self.uart.handle_air(now, event);
        };
        self.nodes[index].sensor.handle_air(now, event);
    }

    /// Takes what the sensors want; false if none wanted anything.
    fn ask_sensors(&mut self, now: Instant) -> bool {
        let mut moved = false;
        for (index, node) in self.nodes.iter_mut().enumerate() {
            for message in node.sensor.client.delivered.drain(..) {
                let sensor = index;
                self.events.push_back(SiteEvent::Delivered { sensor, message });
            }
            while let Some(request) = node.sensor.poll_request() {
                moved = true;
                if let AirRequest::Send { tuning, payload } = &request {
                    let air = self.ether.time_on_air(tuning, payload.len());
                    let datagram = datagram(&mirrored(node.sensor.carriage()), payload);
                    let sensor = index;
                    self.events.push_back(SiteEvent::Up {
                        sensor,
                        datagram,
                        air,
                    });
                }
                self.ether.handle_request(now, node.station, request);
            }
        }
        moved
    }

    /// For whom a frame of the modem is, and what it holds.
    fn for_whom(&self, payload: &[u8]) -> (Option<usize>, Option<Vec<u8>>) {
        for (index, node) in self.nodes.iter().enumerate() {
            match node.sensor.carriage().decode(payload) {
                None => {}
                Some(Carried::Acknowledged(_)) => return (Some(index), None),
                Some(Carried::Datagram {
                    datagram, broadcast, ..
                }) => return ((!broadcast).then_some(index), Some(datagram)),
            }
        }
        (None, None)
    }
}

fn datagram(carriage: &Carriage, payload: &[u8]) -> Option<Vec<u8>> {
    match carriage.decode(payload)? {
        Carried::Datagram { datagram, .. } => Some(datagram).filter(|datagram| !datagram.is_empty()),
        Carried::Acknowledged(_) => None,
    }
}

/// How the gateway's side sees a sensor's frames.
fn mirrored(carriage: &Carriage) -> Carriage {
    let mut mirrored = carriage.clone();
    match &mut mirrored.carrier {
        Carrier::Plain => {}
        Carrier::Reyax { own, gateway } => core::mem::swap(own, gateway),
        Carrier::Ebyte { own, gateway, .. } => core::mem::swap(own, gateway),
        // To the coordinator.
        Carrier::Xbee { own, .. } => *own = 0,
    }
    if let Header::RadioHead { own, gateway, .. } = &mut mirrored.header {
        core::mem::swap(own, gateway);
    }
    mirrored
}
