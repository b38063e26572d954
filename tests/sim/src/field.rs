//! A whole gateway with its modems, and the sensors around it, in virtual time.
//!
//! The gateway is the one that is sold: its core with the scheduler, and a driver for each modem. Around it are
//! simulated modems on lines, one air, sensors on it, a broker, and a store that keeps what the gateway wants to survive
//! a restart. Everything that was on the air is written down as the air saw it, and not as the gateway says.

pub mod airtime;
pub mod scene;

use core::fmt;
use core::time::Duration;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use bytes::Bytes;
use gateway_core::Gateway;
use gateway_core::config::GatewayConfig;
use gateway_core::io::{
    AirtimeFound, AirtimeRecord, BrokerEvent, ConnId, LinkEvent, Notice, Output, StoreEvent, StoreRequest,
};
use gateway_core::peer::{LinkAddr, LinkId, LocalEnd, Route};
use gateway_core::time::Instant;
use radio_adapters::driver::{Driver, Report};
use rand::{SeedableRng, rngs::SmallRng};
use sn_codec::QoS;

use self::airtime::OnAir;
use crate::agenda::Agenda;
use crate::ether::{AirEvent, AirRequest, Ether, EtherConfig, Path, StationId};
use crate::modem::{Fault, SimModem};
use crate::sensor::{Carried, Sensor, SensorConfig};
use crate::sim_broker::{BrokerAction, BrokerConfig, SimBroker};
use crate::sim_client::{Action, ClientConfig};
use crate::virtual_line::{LineEvent, VirtualLine};

/// Outputs of the gateway without a breath, beyond which it is taken to loop.
const MAX_OUTPUTS: usize = 100_000;

/// Steps at one instant beyond which somebody is taken to spin.
const MAX_STEPS_PER_INSTANT: usize = 10_000;

/// How long the store takes to make something durable: a slow card.
const STORE_TIME: Duration = Duration::from_millis(40);

/// What a field is made of.
pub struct FieldConfig {
    /// Everything random follows from it.
    pub seed: u64,
    /// The gateway's configuration.
    pub gateway: GatewayConfig,
    /// The broker's.
    pub broker: BrokerConfig,
    /// The gateway's radios, in the order of their [`LinkId`]s.
    pub radios: Vec<FieldRadio>,
    /// How frames arrive between stations of which nothing else is said.
    pub path: Path,
}

/// A radio of the gateway.
pub struct FieldRadio {
    /// Makes its driver, once for each life of the gateway.
    pub driver: Box<dyn Fn() -> Box<dyn Driver>>,
    /// The modem.
    pub modem: Box<dyn SimModem>,
    /// The speed that the port is opened with.
    pub baud: u32,
}

/// Names a sensor of a field: the order in which it was added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SensorIx(pub usize);

/// Something that happens at a time.
#[derive(Debug, Clone, PartialEq)]
pub enum Chore {
    /// A sensor is switched on and connects.
    Connect(SensorIx),
    /// A sensor is switched on and looks for a gateway.
    Search(SensorIx),
    /// A sensor is told to do something.
    Act(SensorIx, Action),
    /// Somebody else at the broker publishes.
    External {
        /// Topic name.
        topic: String,
        /// With which QoS.
        qos: QoS,
        /// The payload.
        payload: Bytes,
    },
    /// The gateway's process is killed, and another starts this much later.
    Restart(Duration),
    /// Something goes wrong with a modem.
    Fault(LinkId, Fault),
}

/// A frame as it was on the air.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aired {
    /// When.
    pub on_air: OnAir,
    /// On the channel of which radio.
    pub link: LinkId,
    /// From a sensor to the gateway.
    pub up: bool,
    /// The sensor that it was from or for; `None` for everyone.
    pub sensor: Option<SensorIx>,
    /// MQTT-SN; empty in acknowledgements of the radios' own.
    pub datagram: Vec<u8>,
}

/// A datagram of a sensor that reached the gateway's core.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrived {
    /// When.
    pub at: Instant,
    /// From whom.
    pub sensor: SensorIx,
    /// MQTT-SN.
    pub datagram: Vec<u8>,
}

/// The gateway and everything around it.
pub struct Field {
    /// The broker, to look at.
    pub broker: SimBroker,
    /// The sensors, in the order they were added.
    pub sensors: Vec<Sensor>,
    /// Everything that was on the air: of each transmitter in the order of time.
    pub aired: Vec<Aired>,
    /// What reached the core from sensors, in order.
    pub arrived: Vec<Arrived>,
    /// What the gateway told for the log.
    pub notices: Vec<(Instant, Notice)>,
    /// What drivers told for the log.
    pub reports: Vec<(Instant, LinkId, Report)>,
    /// The air.
    pub ether: Ether,
    /// Lives of the gateway so far.
    pub lives: u64,
    config: GatewayConfig,
    seed: u64,
    now: Instant,
    rng: SmallRng,
    /// `None` between two lives.
    gateway: Option<Gateway>,
    radios: Vec<Radio>,
    stations: HashMap<StationId, Station>,
    sensor_links: Vec<LinkId>,
    sensor_stations: Vec<StationId>,
    agenda: Agenda<Event>,
    /// When sensors want to be called; an entry may be out of date.
    wakes: BinaryHeap<Reverse<(Instant, usize)>>,
    wakes_at: Vec<Option<Instant>>,
    store: HashMap<LinkId, (Instant, AirtimeRecord)>,
}

struct Radio {
    make_driver: Box<dyn Fn() -> Box<dyn Driver>>,
    line: VirtualLine,
    station: StationId,
    /// What its modem sends now, and since when.
    sending: Option<(Instant, Vec<u8>)>,
}

#[derive(Debug, Clone, Copy)]
enum Station {
    Radio(usize),
    Sensor(usize),
}

enum Event {
    Chore(Chore),
    Broker(BrokerAction),
    BrokerSpeaks,
    Stored(u64, LinkId, AirtimeRecord),
    /// A new life begins.
    Start,
}

impl Field {
    /// A field in which the gateway has just started and its modems have just got power.
    pub fn new(config: FieldConfig) -> Field {
        let mut ether = Ether::new(EtherConfig {
            seed: config.seed,
            path: config.path,
            ..EtherConfig::default()
        });
        let mut stations = HashMap::new();
        let mut radios = Vec::new();
        for radio in config.radios {
            let station = ether.join();
            stations.insert(station, Station::Radio(radios.len()));
            let line = VirtualLine::new(
                (radio.driver)(),
                radio.modem,
                radio.baud,
                Duration::from_millis(500),
            );
            radios.push(Radio {
                make_driver: radio.driver,
                line,
                station,
                sending: None,
            });
        }
        let mut field = Field {
            broker: SimBroker::new(config.broker),
            sensors: Vec::new(),
            aired: Vec::new(),
            arrived: Vec::new(),
            notices: Vec::new(),
            reports: Vec::new(),
            ether,
            lives: 0,
            config: config.gateway,
            seed: config.seed,
            now: Instant::START,
            rng: SmallRng::seed_from_u64(config.seed),
            gateway: None,
            radios,
            stations,
            sensor_links: Vec::new(),
            sensor_stations: Vec::new(),
            agenda: Agenda::default(),
            wakes: BinaryHeap::new(),
            wakes_at: Vec::new(),
            store: HashMap::new(),
        };
        field.begin_life();
        for index in 0..field.radios.len() {
            // It was on long before the gateway.
            let now = field.now;
            field.radios[index].line.plug_in(now, Duration::from_secs(2));
            field.after_radio(index);
        }
        field
    }

    /// Adds a sensor that is switched off, in range of one of the radios.
    pub fn add_sensor(
        &mut self,
        link: LinkId,
        client: ClientConfig,
        sensor: SensorConfig,
        path: Path,
    ) -> SensorIx {
        let ix = SensorIx(self.sensors.len());
        let station = self.ether.join();
        self.stations.insert(station, Station::Sensor(ix.0));
        for radio in &self.radios {
            self.ether.set_path(station, radio.station, path);
            self.ether.set_path(radio.station, station, path);
        }
        self.sensors.push(Sensor::new(client, sensor));
        self.sensor_links.push(link);
        self.sensor_stations.push(station);
        self.wakes_at.push(None);
        ix
    }

    /// Something will happen.
    pub fn plan(&mut self, at: Instant, chore: Chore) {
        self.agenda.add(at, Event::Chore(chore));
    }

    /// The virtual time.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// The radio that a sensor is in range of.
    pub fn link_of(&self, sensor: SensorIx) -> LinkId {
        self.sensor_links[sensor.0]
    }

    /// The gateway's counters, while it lives.
    pub fn gateway(&mut self) -> Option<&mut Gateway> {
        self.gateway.as_mut()
    }

    /// Lets time pass.
    ///
    /// # Panics
    /// If somebody wants to be called again and again at one instant.
    pub fn run_until(&mut self, until: Instant) {
        let mut steps_now = 0;
        while let Some(at) = self.next().filter(|at| *at <= until) {
            steps_now = if at > self.now { 0 } else { steps_now + 1 };
            self.now = self.now.max(at);
            assert!(
                steps_now < MAX_STEPS_PER_INSTANT,
                "{} spins at {}",
                self.who_is_due(),
                self.now
            );
            self.step();
        }
        self.now = self.now.max(until);
    }

    fn next(&self) -> Option<Instant> {
        let radios = self.radios.iter().filter_map(|radio| radio.line.poll_timeout());
        let others = [
            self.gateway.as_ref().and_then(Gateway::poll_timeout),
            self.ether.poll_timeout(),
            self.agenda.next(),
            self.wakes.peek().map(|Reverse((at, _))| *at),
        ];
        radios.chain(others.into_iter().flatten()).min()
    }

    fn who_is_due(&self) -> String {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= self.now);
        let gateway = due(self.gateway.as_ref().and_then(Gateway::poll_timeout));
        let radios: Vec<bool> = self
            .radios
            .iter()
            .map(|radio| due(radio.line.poll_timeout()))
            .collect();
        let (ether, agenda) = (due(self.ether.poll_timeout()), due(self.agenda.next()));
        format!(
            "gateway {gateway}, radios {radios:?}, air {ether}, agenda {agenda}, sensors {}",
            self.wakes.len()
        )
    }

    /// Does everything whose time has come.
    fn step(&mut self) {
        let now = self.now;
        if self.ether.poll_timeout().is_some_and(|at| at <= now) {
            self.ether.handle_timeout(now);
            self.after_ether();
        }
        for index in 0..self.radios.len() {
            if self.radios[index].line.poll_timeout().is_some_and(|at| at <= now) {
                self.radios[index].line.handle_timeout(now);
                self.after_radio(index);
            }
        }
        while let Some(Reverse((at, index))) =
            self.wakes.peek().copied().filter(|Reverse((at, _))| *at <= now)
        {
            self.wakes.pop();
            if self.wakes_at[index] == Some(at) {
                self.wakes_at[index] = None;
                self.sensors[index].handle_timeout(now);
                self.after_sensor(index);
            }
        }
        while let Some((_, event)) = self.agenda.pop_due(now) {
            self.handle_event(event);
        }
        if let Some(gateway) = &mut self.gateway
            && gateway.poll_timeout().is_some_and(|at| at <= now)
        {
            gateway.handle_timeout(now);
            self.drain();
        }
    }

    fn handle_event(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::Chore(chore) => self.do_chore(chore),
            Event::Broker(action) => {
                self.broker.handle_action(now, action, &mut self.rng);
                self.after_broker();
            }
            Event::BrokerSpeaks => self.hear_broker(),
            Event::Stored(life, link, record) => {
                self.store.insert(link, (now, record));
                if let Some(gateway) = self.gateway.as_mut().filter(|_| life == self.lives) {
                    gateway.handle_store(now, StoreEvent::AirtimeStored(link));
                    self.drain();
                }
            }
            Event::Start => self.begin_life(),
        }
    }

    fn do_chore(&mut self, chore: Chore) {
        let now = self.now;
        match chore {
            Chore::Connect(SensorIx(index)) => {
                self.sensors[index].connect(now);
                self.after_sensor(index);
            }
            Chore::Search(SensorIx(index)) => {
                self.sensors[index].search(now, Duration::from_secs(15));
                self.after_sensor(index);
            }
            Chore::Act(SensorIx(index), action) => {
                self.sensors[index].act(now, action);
                self.after_sensor(index);
            }
            Chore::External { topic, qos, payload } => {
                self.broker
                    .publish(now, &topic, qos, false, payload, &mut self.rng);
                self.after_broker();
            }
            Chore::Restart(after) => {
                self.gateway = None;
                self.broker.gateway_died();
                for index in 0..self.radios.len() {
                    let driver = (self.radios[index].make_driver)();
                    self.radios[index].line.replace_driver(now, driver, after);
                    self.after_radio(index);
                }
                self.agenda.add(now + after, Event::Start);
            }
            Chore::Fault(link, fault) => {
                let index = usize::from(link.0);
                self.radios[index].line.fault(now, fault);
                self.after_radio(index);
            }
        }
    }

    /// The gateway starts: it is told what the store has before its links are up.
    fn begin_life(&mut self) {
        self.lives += 1;
        let mut gateway = Gateway::new(self.config.clone(), self.seed + self.lives, self.now);
        for index in 0..self.radios.len() {
            let link = LinkId(index as u16);
            let found = match self.store.get(&link) {
                Some((written, record)) => {
                    let mut record = record.clone();
                    let since = self.now.since(*written);
                    record.used.iter_mut().for_each(|used| used.age += since);
                    AirtimeFound::Record(record)
                }
                None if self.lives == 1 => AirtimeFound::FirstStart,
                None => AirtimeFound::Lost,
            };
            gateway.handle_store(self.now, StoreEvent::AirtimeFound(link, found));
        }
        self.gateway = Some(gateway);
        self.drain();
    }

    // Between gateway and radios.

    fn after_radio(&mut self, index: usize) {
        let link = LinkId(index as u16);
        let now = self.now;
        while let Some(event) = self.radios[index].line.poll_event() {
            match event {
                LineEvent::Received {
                    from,
                    facts,
                    datagram,
                } => {
                    let route = Route {
                        addr: from,
                        local: LocalEnd::default(),
                    };
                    self.note_arrival(link, &route, &datagram);
                    if let Some(gateway) = &mut self.gateway {
                        gateway.handle_datagram(now, link, &route, facts, &datagram);
                    }
                }
                LineEvent::Link(event) => self.tell_link(link, event),
                LineEvent::Report(report) => self.reports.push((now, link, report)),
                LineEvent::Air(request) => self.radio_request(index, request),
                LineEvent::Note(_) => {}
            }
            self.drain();
        }
    }

    fn tell_link(&mut self, link: LinkId, event: LinkEvent) {
        if let Some(gateway) = &mut self.gateway {
            gateway.handle_link(self.now, link, event);
        }
    }

    fn drain(&mut self) {
        let mut buf = Vec::new();
        for _ in 0..MAX_OUTPUTS {
            let Some(gateway) = &mut self.gateway else {
                return;
            };
            buf.clear();
            let Some(output) = gateway.poll_output(self.now, &mut buf) else {
                return;
            };
            match output {
                Output::Transmit {
                    link,
                    to,
                    len,
                    ticket,
                } => {
                    let index = usize::from(link.0);
                    self.radios[index]
                        .line
                        .transmit(self.now, &to, &buf[..len], ticket);
                    self.after_radio(index);
                }
                Output::Broker(request) => {
                    let handled = self.broker.handle_request(self.now, request, &mut self.rng);
                    assert_eq!(handled, Ok(()), "the seam's rules towards the broker");
                    self.after_broker();
                }
                Output::Store(StoreRequest::Airtime { link, record }) => {
                    let stored = Event::Stored(self.lives, link, record);
                    self.agenda.add(self.now + STORE_TIME, stored);
                }
                Output::Store(StoreRequest::Write { changes, .. }) => {
                    panic!("nothing is to survive here: {changes:?}");
                }
                Output::Notice(notice) => self.notices.push((self.now, notice)),
            }
        }
        panic!("the gateway's outputs do not end at {}", self.now);
    }

    // Between gateway and broker.

    fn after_broker(&mut self) {
        while let Some((at, action)) = self.broker.poll_action() {
            self.agenda.add(at, Event::Broker(action));
        }
        if self.broker.has_events() {
            self.agenda.add(self.now, Event::BrokerSpeaks);
        }
    }

    fn hear_broker(&mut self) {
        while let Some((event, _)) = self.broker.poll_event() {
            self.tell_broker_event(event);
        }
        self.drain();
    }

    fn tell_broker_event(&mut self, event: BrokerEvent) {
        if let Some(gateway) = &mut self.gateway {
            gateway.handle_broker(self.now, event);
        }
    }

    /// Connected to the broker at the moment.
    pub fn is_connected(&self) -> bool {
        self.broker.is_up(ConnId(0))
    }

    // The air.

    fn radio_request(&mut self, index: usize, request: AirRequest) {
        let (now, station) = (self.now, self.radios[index].station);
        match &request {
            AirRequest::Send { payload, .. } => {
                self.close_transmission(index);
                self.radios[index].sending = Some((now, payload.clone()));
            }
            AirRequest::Abort => self.close_transmission(index),
            AirRequest::Listen(_) | AirRequest::Sense(_) => {}
        }
        self.ether.handle_request(now, station, request);
        self.after_ether();
    }

    fn after_ether(&mut self) {
        while let Some((station, event)) = self.ether.poll_event() {
            match self.stations.get(&station).copied() {
                Some(Station::Radio(index)) => {
                    if event == AirEvent::Sent {
                        self.close_transmission(index);
                    }
                    self.radios[index].line.handle_air(self.now, event);
                    self.after_radio(index);
                }
                Some(Station::Sensor(index)) => {
                    self.sensors[index].handle_air(self.now, event);
                    self.after_sensor(index);
                }
                None => {}
            }
        }
    }

    fn after_sensor(&mut self, index: usize) {
        while let Some(request) = self.sensors[index].poll_request() {
            if let AirRequest::Send { tuning, payload } = &request {
                let end = self.now + self.ether.time_on_air(tuning, payload.len());
                let datagram = self.sensors[index].carriage().decode_own(payload);
                self.aired.push(Aired {
                    on_air: OnAir { start: self.now, end },
                    link: self.sensor_links[index],
                    up: true,
                    sensor: Some(SensorIx(index)),
                    datagram: datagram.unwrap_or_default(),
                });
            }
            self.ether
                .handle_request(self.now, self.sensor_stations[index], request);
        }
        let wakes_at = self.sensors[index].poll_timeout().map(|at| at.max(self.now));
        if wakes_at != self.wakes_at[index] {
            self.wakes_at[index] = wakes_at;
            self.wakes.extend(wakes_at.map(|at| Reverse((at, index))));
        }
    }

    // The record.

    /// What a modem sent is over, or was broken off.
    fn close_transmission(&mut self, index: usize) {
        let Some((start, payload)) = self.radios[index].sending.take() else {
            return;
        };
        let link = LinkId(index as u16);
        let mut aired = Aired {
            on_air: OnAir { start, end: self.now },
            link,
            up: false,
            sensor: None,
            datagram: Vec::new(),
        };
        for ix in self.sensors_of(link) {
            if let Some(Carried::Datagram {
                datagram, broadcast, ..
            }) = self.sensors[ix].carriage().decode(&payload)
            {
                aired.sensor = (!broadcast).then_some(SensorIx(ix));
                aired.datagram = datagram;
                break;
            }
        }
        self.aired.push(aired);
    }

    fn note_arrival(&mut self, link: LinkId, route: &Route, datagram: &[u8]) {
        let LinkAddr::Radio(address) = &route.addr else {
            return;
        };
        let from = self
            .sensors_of(link)
            .find(|ix| self.sensors[*ix].carriage().is_address(address));
        if let Some(ix) = from {
            self.arrived.push(Arrived {
                at: self.now,
                sensor: SensorIx(ix),
                datagram: datagram.to_vec(),
            });
        }
    }

    fn sensors_of(&self, link: LinkId) -> impl Iterator<Item = usize> + '_ {
        (0..self.sensors.len()).filter(move |ix| self.sensor_links[*ix] == link)
    }

    /// What a radio had of the air, in the order of time.
    pub fn on_air(&self, link: LinkId) -> Vec<OnAir> {
        let own = self.aired.iter().filter(|aired| aired.link == link && !aired.up);
        own.map(|aired| aired.on_air).collect()
    }
}

impl fmt::Debug for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Field")
            .field("now", &self.now)
            .field("lives", &self.lives)
            .field("sensors", &self.sensors.len())
            .field("aired", &self.aired.len())
            .finish_non_exhaustive()
    }
}
