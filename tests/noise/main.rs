//! Frames in serial noise: of those that follow a delimiter, a line end or a silence, at least 999 of 1000 arrive, in
//! bounded memory.
//!
//! `SNIPE_NOISE_MB` is how much noise each kind of line gets, 32 unless it is set; `tests/run.sh noise` takes a
//! gigabyte. Frames are written by what is on the far end of the line, a simulated modem where there is one.

#![allow(clippy::unwrap_used, reason = "the helpers are test code too")]

mod corpus;
mod kinds;
mod rig;

use core::time::Duration;
use std::fs;

use snipe_sim::noise::Noise;

use kinds::Kind;
use rig::Rig;

/// Of a thousand.
const ARRIVE: u64 = 999;

/// More than a line and its driver may take in all; they share the process with each other.
const MEMORY_MAX: usize = 48 << 20;

#[test]
fn length_prefix() {
    noisy(Kind::LengthPrefix);
}

#[test]
fn slip() {
    noisy(Kind::Slip);
}

#[test]
fn cobs() {
    noisy(Kind::Cobs);
}

#[test]
fn hdlc() {
    noisy(Kind::Hdlc);
}

#[test]
fn kiss() {
    noisy(Kind::Kiss);
}

#[test]
fn xbee_plain() {
    noisy(Kind::Xbee { api_mode: 1 });
}

#[test]
fn xbee_escaped() {
    noisy(Kind::Xbee { api_mode: 2 });
}

#[test]
fn rak3172() {
    noisy(Kind::Rak3172);
}

#[test]
fn rak4270() {
    noisy(Kind::Rak4270);
}

#[test]
fn rn2483() {
    noisy(Kind::Rn2483);
}

#[test]
fn rylr998() {
    noisy(Kind::Rylr998);
}

#[test]
fn rylr896() {
    noisy(Kind::Rylr896);
}

fn noisy(kind: Kind) {
    let octets = megabytes() << 20;
    let mut noise = Noise::new(octets as u64);
    let mut rig = Rig::new(kind);
    rig.come_up();
    let memory = resident();
    let mut written = 0;
    let mut offered: u64 = 0;
    let mut rounds: u64 = 0;
    let mut sample = kind.sample();
    while written < octets {
        let piece = noise.piece(&sample);
        written += piece.len();
        let (head, tail) = piece.split_at(noise.split(piece.len()));
        rig.line_brings(head);
        rig.line_brings(tail);
        rig.pass(kind.silence());
        rig.come_up();
        rig.line_brings(kind.delimiter());
        rig.frame(rounds);
        // The nodes are not that quick, and modems need a moment to listen again.
        rig.pass(Duration::from_millis(60));
        let said = rig.said();
        // An RN2483 may say it in the place of an answer.
        offered += u64::from(!said.is_empty() || rig.has_arrived(rounds));
        if !said.is_empty() {
            sample = said;
        }
        rounds += 1;
    }
    let delivered = rig.delivered();
    let grown = resident().saturating_sub(memory);
    println!(
        "{kind:?}: {delivered} of {offered} frames in {} MB, {} reopens, {} KB more memory",
        written >> 20,
        rig.reopens,
        grown >> 10
    );
    // While a modem is told what to do once more, it does not listen.
    assert!(
        offered * 4 >= rounds * 3,
        "of {rounds} frames only {offered} reached the line"
    );
    assert!(
        delivered * 1000 >= offered * ARRIVE,
        "{delivered} of {offered} arrived"
    );
    assert!(grown < MEMORY_MAX, "{grown} octets more memory");
}

fn megabytes() -> usize {
    match std::env::var("SNIPE_NOISE_MB") {
        Ok(text) => text.parse().expect("SNIPE_NOISE_MB is a number"),
        Err(_) => 32,
    }
}

/// Memory of this process, in octets.
fn resident() -> usize {
    let pages = fs::read_to_string("/proc/self/statm").unwrap();
    let resident = pages.split_ascii_whitespace().nth(1).unwrap();
    resident.parse::<usize>().unwrap() * rustix::param::page_size()
}
