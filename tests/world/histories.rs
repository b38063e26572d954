//! Random histories against the reference.

use std::env;
use std::time::{Duration, Instant};

use snipe_sim::history::{Failure, History};

/// Histories of a plain test run: some seconds in a debug build.
const DEFAULT_HISTORIES: u64 = 300;

#[test]
fn random_histories_keep_every_rule() {
    if let Some(seed) = number("SNIPE_WORLD_SEED") {
        let history = History::random(seed);
        if let Err(failure) = history.run(true) {
            report(seed, &history, &failure);
        }
        return;
    }
    let count = number("SNIPE_WORLD_HISTORIES").unwrap_or(DEFAULT_HISTORIES);
    let first = number("SNIPE_WORLD_FIRST").unwrap_or(1);
    let mut worked = 0;
    for seed in first..first + count {
        let history = History::random(seed);
        match history.run(false) {
            Ok(summary) => worked += usize::from(summary.routed > 0 && summary.delivered > 0),
            Err(failure) => {
                // Again with a trace, as small as it can be made.
                let small = history.shrink(failure.violation.rule);
                let traced = small.run(true).err().unwrap_or(failure);
                report(seed, &small, &traced);
            }
        }
    }
    // A generator that does nothing would find nothing.
    assert!(
        worked as u64 * 2 > count,
        "only {worked} of {count} histories carried messages both ways"
    );
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

/// Speed matters: many histories are the point.
#[test]
fn a_history_takes_milliseconds() {
    let begin = Instant::now();
    let runs = (1..=10)
        .filter(|seed| History::random(*seed).run(false).is_ok())
        .count();
    assert!(runs > 0);
    assert!(
        begin.elapsed() < Duration::from_secs(60),
        "10 histories took {:?}",
        begin.elapsed()
    );
}
