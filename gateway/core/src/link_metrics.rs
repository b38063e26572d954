//! What is counted for each link.

/// What waits on a link, in the order in which it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Answers.
    Reply,
    /// Clients that are awake for their messages.
    Awake,
    /// Clients with an exchange that they must answer: REGISTER, PUBLISH with QoS 1 and 2.
    Exchange,
    /// Clients with a PUBLISH of QoS 0.
    Qos0,
    /// What goes to everyone.
    Beacon,
}

impl Class {
    /// Every class, in declaration order: `class as usize` is its index here.
    pub const ALL: [Class; 5] = [
        Class::Reply,
        Class::Awake,
        Class::Exchange,
        Class::Qos0,
        Class::Beacon,
    ];

    /// The stable name used in counters.
    pub fn name(self) -> &'static str {
        match self {
            Class::Reply => "reply",
            Class::Awake => "awake",
            Class::Exchange => "exchange",
            Class::Qos0 => "qos0",
            Class::Beacon => "beacon",
        }
    }
}

/// Why something was not sent on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NotSent {
    /// It takes more airtime than the duty cycle gives to a whole window.
    DutyCycle,
    /// An answer that would have come too late: its client has asked again or given up.
    NotAfter,
    /// It is larger than the link carries.
    TooLong,
    /// Too much waits already.
    QueueFull,
}

impl NotSent {
    /// Every reason, in declaration order: `reason as usize` is its index here.
    pub const ALL: [NotSent; 4] = [
        NotSent::DutyCycle,
        NotSent::NotAfter,
        NotSent::TooLong,
        NotSent::QueueFull,
    ];

    /// The stable name used in counters.
    pub fn name(self) -> &'static str {
        match self {
            NotSent::DutyCycle => "duty_cycle",
            NotSent::NotAfter => "not_after",
            NotSent::TooLong => "too_long",
            NotSent::QueueFull => "queue_full",
        }
    }
}

/// What a link did so far, and what it is at.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LinkMetrics {
    /// It works.
    pub up: bool,
    /// Time on air of what was received, in µs; 0 on links that do not count it.
    pub rx_airtime_us: u64,
    /// Time on air of what was handed over to be sent, in µs, without what never left.
    pub tx_airtime_us: u64,
    /// Datagrams that the link took and never sent.
    pub unsent_total: u64,
    /// Parts per million of the duty cycle's window that were used.
    pub duty_cycle_used_ppm: u32,
    /// Parts per million that may be; `None` is no limit.
    pub duty_cycle_limit_ppm: Option<u32>,
    /// Answers, clients and beacons that wait, by [`Class`].
    pub queued: [u64; Class::ALL.len()],
    /// What was dropped, by [`NotSent`].
    pub dropped: [u64; NotSent::ALL.len()],
    /// Strength of what was received, in dBm.
    pub rssi_dbm: Histogram,
    /// Signal to noise ratio of what was received, in dB.
    pub snr_db: Histogram,
}

/// How often a value was within which bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram {
    /// Upper bounds, included.
    pub bounds: &'static [i16],
    /// Values up to each bound and above the one before; the last is what is above all of them.
    pub counts: Vec<u64>,
    /// All values together.
    pub sum: i64,
}

/// From the sensitivity of LoRa at SF12 to a node on the same table.
const RSSI_BOUNDS: &[i16] = &[-130, -120, -110, -100, -90, -80, -70, -60, -50, -40];

/// From the demodulation limit of SF12 to as much as a LoRa modem reports.
const SNR_BOUNDS: &[i16] = &[-20, -15, -10, -5, 0, 5, 10];

impl Histogram {
    fn new(bounds: &'static [i16]) -> Self {
        Histogram {
            bounds,
            counts: vec![0; bounds.len() + 1],
            sum: 0,
        }
    }

    pub(crate) fn rssi() -> Self {
        Histogram::new(RSSI_BOUNDS)
    }

    pub(crate) fn snr() -> Self {
        Histogram::new(SNR_BOUNDS)
    }

    pub(crate) fn add(&mut self, value: i16) {
        let at = self.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get_mut(at) {
            *count += 1;
        }
        self.sum += i64::from(value);
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram::new(&[])
    }
}
