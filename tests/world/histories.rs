//! Random histories against the reference.

use std::env;
use std::num::NonZero;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use snipe_sim::history::{Failure, History};

/// Histories of a plain test run: seconds, because the simulation is optimised in test builds too.
const DEFAULT_HISTORIES: u64 = 10_000;

/// Fewer histories may happen to carry nothing.
const ENOUGH_TO_JUDGE: u64 = 100;

/// Between two lines about how far a long campaign is.
const PROGRESS_EVERY: Duration = Duration::from_secs(15);

#[test]
fn random_histories_keep_every_rule() {
    if let Some(seed) = number("SNIPE_WORLD_SEED") {
        let history = History::random(seed);
        if let Err(failure) = history.run(true) {
            report(seed, &history, &failure);
        }
        return;
    }
    let first = number("SNIPE_WORLD_FIRST").unwrap_or(1);
    let count = number("SNIPE_WORLD_HISTORIES").unwrap_or(DEFAULT_HISTORIES);
    let limit = number("SNIPE_WORLD_MINUTES").map(|minutes| Duration::from_secs(60 * minutes));
    let failures = number("SNIPE_WORLD_FAILURES").unwrap_or(1);
    let campaign = Campaign::new(first, count, limit, failures);
    println!("seeds {first} to {}", campaign.end - 1);
    let cores = || thread::available_parallelism().map_or(1, NonZero::get) as u64;
    thread::scope(|scope| {
        for _ in 0..number("SNIPE_WORLD_THREADS").unwrap_or_else(cores) {
            scope.spawn(|| campaign.work());
        }
    });
    println!("{}", campaign.progress());
    let failed = campaign.failed.into_inner().unwrap_or_default();
    if let Some((seed, failure)) = failed.into_iter().min_by_key(|(seed, _)| *seed) {
        explain(seed, &History::random(seed), failure);
    }
    // A generator that does nothing would find nothing.
    let (done, worked) = (campaign.done.into_inner(), campaign.worked.into_inner());
    assert!(
        worked * 2 > done || done < ENOUGH_TO_JUDGE,
        "only {worked} of {done} histories carried messages both ways"
    );
}

/// Histories shared out to threads, seed by seed.
struct Campaign {
    begin: Instant,
    limit: Option<Duration>,
    first: u64,
    end: u64,
    next: AtomicU64,
    done: AtomicU64,
    /// Those in which messages arrived at both ends.
    worked: AtomicU64,
    /// Failing histories after which it ends.
    failures: u64,
    stop: AtomicBool,
    failed: Mutex<Vec<(u64, Box<Failure>)>>,
    told: Mutex<Instant>,
}

impl Campaign {
    fn new(first: u64, count: u64, limit: Option<Duration>, failures: u64) -> Campaign {
        let begin = Instant::now();
        Campaign {
            begin,
            limit,
            first,
            end: first.saturating_add(count),
            next: AtomicU64::new(first),
            done: AtomicU64::new(0),
            worked: AtomicU64::new(0),
            failures,
            stop: AtomicBool::new(false),
            failed: Mutex::default(),
            told: Mutex::new(begin),
        }
    }

    /// Runs seed after seed until none is left, enough have failed or time is up.
    fn work(&self) {
        while !self.stop.load(Ordering::Relaxed) {
            let seed = self.next.fetch_add(1, Ordering::Relaxed);
            if seed >= self.end || self.limit.is_some_and(|limit| self.begin.elapsed() > limit) {
                return;
            }
            match History::random(seed).run(false) {
                Ok(summary) => {
                    let worked = summary.routed > 0 && summary.delivered > 0;
                    self.worked.fetch_add(u64::from(worked), Ordering::Relaxed);
                }
                Err(failure) => {
                    println!("seed {seed} breaks a rule: {}", failure.violation);
                    if let Ok(mut failed) = self.failed.lock() {
                        failed.push((seed, failure));
                        let enough = failed.len() as u64 >= self.failures;
                        self.stop.fetch_or(enough, Ordering::Relaxed);
                    }
                }
            }
            self.done.fetch_add(1, Ordering::Relaxed);
            if let Ok(mut told) = self.told.try_lock()
                && told.elapsed() >= PROGRESS_EVERY
            {
                *told = Instant::now();
                println!("{}", self.progress());
            }
        }
    }

    fn progress(&self) -> String {
        let done = self.done.load(Ordering::Relaxed);
        let elapsed = self.begin.elapsed().as_secs_f64();
        format!(
            "{done} of {} histories in {elapsed:.0} s, {:.0} a second",
            self.end - self.first,
            done as f64 / elapsed
        )
    }
}

/// Histories that broke a rule once, where the rule claimed too much: what a client does not answer (A40), who else is
/// pinged (A16), what is too large since a move (A63), a message refused for its DUP (A61), a clean session that looks
/// like a repeated CONNECT (A18), and ids, repeats and copies that scenarios in `gateway/core/tests` have too.
const FOUND: [u64; 15] = [
    276_377, 294_671, 301_692, 347_393, 402_764, 444_308, 476_445, 574_420, 574_566, 619_608, 635_918,
    663_921, 681_580, 761_201, 4_051_196,
];

/// Those in which the gateway was wrong, each with a test of its own in `gateway/core/tests` or `gateway/store/tests`:
/// which of several copies counts after a restart or an UNSUBSCRIBE, subscriptions that are given back or wanted again,
/// ids of topics over restarts, what is told before what is sent, when PINGRESP is due, messages refused and taken, whom a
/// SUBACK is for, deliveries of a session that the broker lost, segments that a disk left unsure, what a client sent or was
/// promised while it failed, a REGISTER repeated before its answer was durable, names that a client refused first, and a
/// copy that a life left unacknowledged.
const GATEWAY: [u64; 24] = [
    37_507, 122_494, 127_900, 129_762, 143_061, 145_912, 151_447, 154_100, 159_577, 176_687, 203_673,
    229_800, 385_478, 414_580, 516_229, 533_531, 559_958, 619_552, 728_776, 827_462, 831_340, 856_527,
    997_397, 1_023_071,
];

/// Those in which the model was: acknowledgements of what another connection, device or life of the gateway began (A18,
/// A20, A41, A46), what a clean session gave up, who has a claim to what came for a filter that was given back, ids that
/// were told while the disk did not work (A35), what one life knows of a client that the next does not (A40, A61), names
/// of deliveries that come again, QoS 2 that another life goes on with, when a message came that a life did not find, two
/// SUBSCRIBEs to one filter at a time, and answers to what went back into the queue.
const MODEL: [u64; 34] = [
    30_238, 102_330, 105_390, 139_624, 167_426, 208_930, 219_920, 226_055, 250_884, 505_776, 522_058,
    535_040, 813_735, 867_981, 938_432, 940_186, 957_602, 2_063_510, 46_776, 117_170, 166_398, 196_376,
    211_323, 392_029, 405_525, 428_882, 530_209, 53_507, 603_395, 666_284, 697_628, 746_351, 887_974,
    958_278,
];

#[test]
fn histories_that_broke_a_rule_once_keep_it() {
    for seed in FOUND.into_iter().chain(GATEWAY).chain(MODEL) {
        let history = History::random(seed);
        // Most were found with a broker that is never short of anything.
        let mut plenty = history.clone();
        plenty.world.broker.shortage = None;
        for history in [history, plenty] {
            if let Err(failure) = history.run(false) {
                explain(seed, &history, failure);
            }
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_outputs() {
    for seed in 1..=20 {
        let history = History::random(seed);
        let (Ok(one), Ok(other)) = (history.run(false), history.run(false)) else {
            continue;
        };
        assert_eq!(one, other, "seed {seed}");
    }
    let hashes: Vec<u64> = (1..=5)
        .filter_map(|seed| History::random(seed).run(false).ok())
        .map(|s| s.output_hash)
        .collect();
    assert!(
        hashes.windows(2).all(|pair| pair[0] != pair[1]),
        "different seeds differ: {hashes:?}"
    );
}

/// Reports it again with a trace, as small as it can be made.
fn explain(seed: u64, history: &History, failure: Box<Failure>) -> ! {
    let small = history.shrink(failure.violation.rule);
    let traced = small.run(true).err().unwrap_or(failure);
    report(seed, &small, &traced);
}

fn report(seed: u64, history: &History, failure: &Failure) -> ! {
    let steps: Vec<String> = history
        .steps
        .iter()
        .map(|(pause, step)| format!("  after {pause:?}: {step:?}"))
        .collect();
    panic!(
        "{}\nseed {seed} (SNIPE_WORLD_SEED={seed} runs it again)\nworld {:?}\nclients {:?}\nsteps\n{}\ntrace\n{}",
        failure.violation,
        history.world,
        history.clients,
        steps.join("\n"),
        failure.trace.join("\n"),
    );
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is no number: {text}"))
    })
}
