//! Simulated sensors: an MQTT-SN client, the radio it sits on, and how it shares the air.
//!
//! A sensor sends when it has something to send, as nodes in the field do (ALOHA): after its first try it draws a pause
//! that doubles as long as nobody answers. Its radio is half duplex, and after sending it takes a moment until it hears.

mod carriage;

use core::time::Duration;
use std::collections::VecDeque;

use gateway_core::time::Instant;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use sn_codec::{Packet, SearchGw};

use crate::agenda::Agenda;
use crate::ether::{AirEvent, AirRequest};
use crate::net::between;
use crate::sim_client::{Action, ClientConfig, SimClient, encode};

pub use self::carriage::{Carriage, Carried, Carrier, Header};

/// RHReliableDatagram repeats a frame so many times.
const RELIABLE_REPEATS: u32 = 3;

/// Frames that wait for the radio; a firmware that has more has lost them.
const QUEUE_MAX: usize = 16;

/// A sensor's radio and manners.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SensorConfig {
    /// Everything random follows from it.
    pub seed: u64,
    /// How its datagrams are carried.
    pub carriage: Carriage,
    /// From the end of a transmission until it hears.
    pub turnaround: Duration,
    /// Waited before every frame, answers too: the gateway's modem may have to be told to listen again.
    pub pause: Duration,
    /// On top of that comes what is drawn from zero to this; it doubles with each further frame that nobody answered, four
    /// times.
    pub back_off: Duration,
    /// It asks whether the channel is free before it sends (CSMA), as 802.15.4 does.
    pub listens_first: bool,
    /// Time on air of its frames is divided by this, as that of the ether is.
    pub speed_up: u32,
}

impl SensorConfig {
    /// Manners of this kind of radio.
    pub fn new(seed: u64, carriage: Carriage) -> SensorConfig {
        SensorConfig {
            seed,
            listens_first: matches!(carriage.carrier, Carrier::Xbee { .. }),
            carriage,
            turnaround: Duration::from_millis(15),
            pause: Duration::ZERO,
            back_off: Duration::ZERO,
            speed_up: 1,
        }
    }
}

/// A simulated sensor.
#[derive(Debug)]
pub struct Sensor {
    /// The client on it; tell it what to do through [`Sensor::connect`] and [`Sensor::act`].
    pub client: SimClient,
    /// Gateways that answered its search, by their ids.
    pub gateways: Vec<u8>,
    /// ADVERTISEs it heard.
    pub advertised: usize,
    /// Frames it sent, repetitions included.
    pub frames_sent: u64,
    /// Frames for it that were no MQTT-SN.
    pub nonsense: u64,
    config: SensorConfig,
    rng: SmallRng,
    agenda: Agenda<Step>,
    radio: Radio,
    /// Frames for the air, in order.
    queue: VecDeque<Frame>,
    /// Frames since it last heard the gateway.
    unanswered: u32,
    /// RadioHead's id of the next frame.
    next_id: u8,
    reliable: Option<Reliable>,
    /// RadioHead: the last reliable frame from the gateway, which may come again.
    heard_id: Option<u8>,
    searching: Option<Search>,
    requests: VecDeque<AirRequest>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Radio {
    Off,
    Listening,
    /// It asked whether the channel is free.
    Sensing,
    Sending,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Frame {
    payload: Vec<u8>,
    not_before: Instant,
    /// RadioHead's id, if it is to be acknowledged.
    reliable: Option<u8>,
}

/// A frame that RHReliableDatagram waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Reliable {
    id: u8,
    payload: Vec<u8>,
    repeats: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Search {
    pause: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// A frame may be sent now.
    Send,
    /// The radio hears again.
    Hear,
    /// No acknowledgement of this id came.
    NotAcknowledged(u8),
    /// Nobody answered the search.
    Search,
}

impl Sensor {
    /// A sensor that is switched off.
    pub fn new(client: ClientConfig, config: SensorConfig) -> Sensor {
        Sensor {
            client: SimClient::new(client),
            gateways: Vec::new(),
            advertised: 0,
            frames_sent: 0,
            nonsense: 0,
            rng: SmallRng::seed_from_u64(config.seed),
            config,
            agenda: Agenda::default(),
            radio: Radio::Off,
            queue: VecDeque::new(),
            unanswered: 0,
            next_id: 0,
            reliable: None,
            heard_id: None,
            searching: None,
            requests: VecDeque::new(),
        }
    }

    /// How it is carried.
    pub fn carriage(&self) -> &Carriage {
        &self.config.carriage
    }

    /// Switches the radio on; an XBee tells that it is there.
    pub fn switch_on(&mut self, now: Instant) {
        if self.radio != Radio::Off {
            return;
        }
        self.radio = Radio::Listening;
        let tuning = self.config.carriage.tuning;
        self.requests.push_back(AirRequest::Listen(Some(tuning)));
        if let Some(payload) = self.config.carriage.encode_announcement() {
            self.enqueue(now, payload, None);
        }
    }

    /// Pulls the battery out.
    pub fn switch_off(&mut self) {
        self.client.vanish();
        self.agenda.clear();
        self.queue.clear();
        self.reliable = None;
        self.searching = None;
        self.radio = Radio::Off;
        self.requests
            .extend([AirRequest::Abort, AirRequest::Listen(None)]);
    }

    /// Connects.
    pub fn connect(&mut self, now: Instant) {
        self.switch_on(now);
        self.client.connect(now);
        self.after_client(now);
    }

    /// Gives the client something to do.
    pub fn act(&mut self, now: Instant, action: Action) {
        self.client.act(now, action);
        self.after_client(now);
    }

    /// Looks for a gateway with SEARCHGW and connects to the one that answers (§6.1); the pause between two searches
    /// doubles.
    pub fn search(&mut self, now: Instant, pause: Duration) {
        self.switch_on(now);
        self.searching = Some(Search { pause });
        self.send_search(now);
    }

    /// Another 16-bit address, as an XBee gets when it joins its network again.
    pub fn rejoin(&mut self, now: Instant, address: u16) {
        if let Carrier::Xbee { network, .. } = &mut self.config.carriage.carrier {
            *network = address;
            if let Some(payload) = self.config.carriage.encode_announcement() {
                self.enqueue(now, payload, None);
            }
        }
    }

    /// Something happened on the air.
    pub fn handle_air(&mut self, now: Instant, event: AirEvent) {
        if self.radio == Radio::Off {
            return;
        }
        match event {
            AirEvent::Frame { payload, .. } => match self.config.carriage.decode(&payload) {
                Some(Carried::Acknowledged(id)) => self.on_acknowledged(now, id),
                Some(Carried::Datagram { datagram, id, .. }) => self.on_datagram(now, &datagram, id),
                None => {}
            },
            AirEvent::Damaged { .. } => {}
            AirEvent::Sent => {
                self.radio = Radio::Listening;
                self.agenda.add(now + self.config.turnaround, Step::Hear);
                self.go_on(now);
            }
            AirEvent::Sensed { busy: true } => {
                self.radio = Radio::Listening;
                let pause = between(&mut self.rng, Duration::from_millis(1), Duration::from_millis(8));
                if let Some(frame) = self.queue.front_mut() {
                    frame.not_before = now + pause;
                    self.agenda.add(now + pause, Step::Send);
                }
            }
            AirEvent::Sensed { busy: false } => self.send(now),
        }
    }

    /// When [`Sensor::handle_timeout`] is wanted.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.agenda
            .next()
            .into_iter()
            .chain(self.client.poll_timeout())
            .min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((_, step)) = self.agenda.pop_due(now) {
            match step {
                Step::Send => self.go_on(now),
                Step::Hear => {
                    if self.radio == Radio::Listening {
                        let tuning = self.config.carriage.tuning;
                        self.requests.push_back(AirRequest::Listen(Some(tuning)));
                    }
                }
                Step::NotAcknowledged(id) => self.on_not_acknowledged(now, id),
                Step::Search => self.send_search(now),
            }
        }
        if self.client.poll_timeout().is_some_and(|at| at <= now) {
            self.client.handle_timeout(now);
        }
        self.after_client(now);
    }

    /// What its radio shall do next.
    pub fn poll_request(&mut self) -> Option<AirRequest> {
        self.requests.pop_front()
    }

    fn on_datagram(&mut self, now: Instant, datagram: &[u8], id: Option<(u8, u8)>) {
        let Ok(packet) = Packet::decode(datagram) else {
            self.nonsense += 1;
            return;
        };
        let is_reliable = matches!(
            self.config.carriage.header,
            Header::RadioHead { reliable: true, .. }
        );
        if let Some((from, id)) = id.filter(|_| is_reliable) {
            if let Some(payload) = self.config.carriage.encode_ack(from, id) {
                self.queue.push_front(Frame {
                    payload,
                    not_before: now,
                    reliable: None,
                });
            }
            if self.heard_id.replace(id) == Some(id) {
                return self.go_on(now);
            }
        }
        self.unanswered = 0;
        match packet {
            Packet::Advertise(_) => self.advertised += 1,
            Packet::GwInfo(info) => {
                self.gateways.push(info.gw_id);
                if self.searching.take().is_some() {
                    self.client.connect(now);
                }
            }
            _ => self.client.handle_datagram(now, datagram),
        }
        self.after_client(now);
    }

    fn send_search(&mut self, now: Instant) {
        let Some(search) = &mut self.searching else {
            return;
        };
        search.pause *= 2;
        self.agenda.add(now + search.pause, Step::Search);
        let datagram = encode(&Packet::SearchGw(SearchGw { radius: 1 }));
        let id = self.new_id();
        let payload = self.config.carriage.encode(true, id, &datagram);
        self.enqueue(now, payload, None);
    }

    /// Takes what the client wants to send.
    fn after_client(&mut self, now: Instant) {
        while let Some(datagram) = self.client.poll_output() {
            let id = self.new_id();
            let payload = self.config.carriage.encode(false, id, &datagram);
            let reliable = matches!(
                self.config.carriage.header,
                Header::RadioHead { reliable: true, .. }
            );
            self.enqueue(now, payload, reliable.then_some(id));
        }
        self.go_on(now);
    }

    fn enqueue(&mut self, now: Instant, payload: Vec<u8>, reliable: Option<u8>) {
        if self.radio == Radio::Off || self.queue.len() >= QUEUE_MAX {
            return;
        }
        let longest = self.config.back_off * 2_u32.pow(self.unanswered.min(4));
        let not_before = now + self.config.pause + between(&mut self.rng, Duration::ZERO, longest);
        self.unanswered += 1;
        self.agenda.add(not_before, Step::Send);
        self.queue.push_back(Frame {
            payload,
            not_before,
            reliable,
        });
    }

    fn go_on(&mut self, now: Instant) {
        // While it waits for an acknowledgement it sends none but those it owes.
        let may_go =
            |frame: &Frame| frame.not_before <= now && (self.reliable.is_none() || frame.reliable.is_none());
        if self.radio != Radio::Listening || !self.queue.front().is_some_and(may_go) {
            return;
        }
        if self.config.listens_first {
            self.radio = Radio::Sensing;
            let tuning = self.config.carriage.tuning;
            self.requests.push_back(AirRequest::Sense(tuning));
        } else {
            self.send(now);
        }
    }

    fn send(&mut self, now: Instant) {
        let Some(frame) = self.queue.pop_front() else {
            self.radio = Radio::Listening;
            return;
        };
        self.radio = Radio::Sending;
        self.frames_sent += 1;
        if let Some(id) = frame.reliable {
            self.reliable = Some(Reliable {
                id,
                payload: frame.payload.clone(),
                repeats: 0,
            });
            self.await_acknowledgement(now, id, frame.payload.len());
        }
        self.transmit(frame.payload);
    }

    /// Deaf while it sends, and until it has turned round.
    fn transmit(&mut self, payload: Vec<u8>) {
        let tuning = self.config.carriage.tuning;
        self.requests.push_back(AirRequest::Listen(None));
        self.requests.push_back(AirRequest::Send { tuning, payload });
    }

    // RHReliableDatagram.

    fn await_acknowledgement(&mut self, now: Instant, id: u8, octets: usize) {
        let tuning = self.config.carriage.tuning;
        let speed_up = self.config.speed_up.max(1);
        // The library's 200 ms, and one to two times that at random, are for fast radios; slow ones add time on air.
        let air = (tuning.time_on_air(octets) + tuning.time_on_air(5)) / speed_up;
        let patience = Duration::from_micros(self.rng.random_range(200_000..400_000));
        self.agenda.add(now + air + patience, Step::NotAcknowledged(id));
    }

    fn on_acknowledged(&mut self, now: Instant, id: u8) {
        if self.reliable.as_ref().is_some_and(|waiting| waiting.id == id) {
            self.reliable = None;
            self.go_on(now);
        }
    }

    fn on_not_acknowledged(&mut self, now: Instant, id: u8) {
        let Some(waiting) = self.reliable.as_mut().filter(|waiting| waiting.id == id) else {
            return;
        };
        if waiting.repeats >= RELIABLE_REPEATS {
            self.reliable = None;
            return self.go_on(now);
        }
        if self.radio != Radio::Listening {
            return self
                .agenda
                .add(now + Duration::from_millis(50), Step::NotAcknowledged(id));
        }
        waiting.repeats += 1;
        let payload = waiting.payload.clone();
        self.radio = Radio::Sending;
        self.frames_sent += 1;
        self.await_acknowledgement(now, id, payload.len());
        self.transmit(payload);
    }

    fn new_id(&mut self) -> u8 {
        self.next_id = self.next_id.wrapping_add(1);
        self.next_id
    }
}
