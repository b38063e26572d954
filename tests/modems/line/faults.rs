//! Everything that goes wrong with a modem and its line, at every moment.

use core::time::Duration;

use radio_adapters::driver::{Recovery, Report};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use snipe_sim::modem::{Fault, Mishap};

use super::scenarios::exchange;
use super::world::{KINDS, Kind, World};

#[test]
fn unplugged_in_every_state_it_comes_back() {
    for kind in KINDS {
        for moment in (0..4_000).step_by(97) {
            let mut world = World::new(kind);
            world.run_for(Duration::from_secs(10));
            world.send(0, &[1; 50]);
            world.send(0, &[2; 50]);
            world.run_for(Duration::from_millis(moment));
            world.fault(0, Fault::Unplug(Duration::from_secs(3)));
            world.run_for(Duration::from_millis(10));
            assert!(!world.nodes[0].up);
            world.run_until_quiet(Duration::from_secs(60));
            exchange(&mut world);
        }
    }
}

#[test]
fn hanging_in_every_state_it_is_found_and_given_up_until_somebody_helps() {
    for kind in KINDS {
        if kind == Kind::RakFactory {
            continue; // When it changes its mode it starts again, and hangs no more.
        }
        for moment in (0..3_000).step_by(301) {
            let mut world = World::new(kind);
            world.run_for(Duration::from_secs(10));
            world.send(0, &[1; 50]);
            world.run_for(Duration::from_millis(moment));
            world.fault(0, Fault::Hang);
            world.run_while(Duration::from_secs(90), |world| world.nodes[0].up);
            world.run_for(Duration::from_secs(30));
            let reports = &world.nodes[0].reports;
            for recovery in [Recovery::Probe, Recovery::Reset, Recovery::Reopen] {
                assert!(
                    reports.contains(&Report::Recovering(recovery)),
                    "{kind:?}: {reports:?}"
                );
            }
            world.fault(0, Fault::Reboot);
            world.run_until_quiet(Duration::from_secs(120));
            exchange(&mut world);
        }
    }
}

#[test]
fn rebooting_in_every_state_it_is_set_up_again() {
    for kind in KINDS {
        for moment in (0..3_000).step_by(97) {
            let mut world = World::new(kind);
            world.run_for(Duration::from_secs(10));
            world.send(0, &[1; 50]);
            world.run_for(Duration::from_millis(moment));
            world.fault(0, Fault::Reboot);
            // A start that nobody saw is found out after a minute of silence.
            world.run_for(Duration::from_secs(80));
            world.run_until_quiet(Duration::from_secs(60));
            exchange(&mut world);
        }
    }
}

#[test]
fn one_lost_answer_costs_a_repetition() {
    for kind in KINDS {
        for moment in (0..2_000).step_by(97) {
            let mut world = World::new(kind);
            world.run_for(Duration::from_secs(10) + Duration::from_millis(moment));
            world.fault(0, Fault::DropReply);
            world.run_until_up(Duration::from_secs(60));
            exchange(&mut world);
        }
    }
}

#[test]
fn line_that_delivers_octets_one_by_one_and_slowly_serves() {
    for kind in KINDS {
        let mut world = World::new(kind);
        world.fault(0, Fault::SplitWrites(true));
        world.fault(0, Fault::Slow(Some(4_800)));
        world.run_until_up(Duration::from_secs(60));
        for node in &mut world.nodes {
            node.reports.clear();
        }
        for _ in 0..5 {
            exchange(&mut world);
        }
        assert!(
            !world.nodes[0]
                .reports
                .iter()
                .any(|r| matches!(r, Report::Recovering(_))),
            "{kind:?}"
        );
    }
}

#[test]
fn transmissions_that_never_end_are_settled() {
    for kind in KINDS {
        let mut world = World::ready(kind);
        for _ in 0..2 {
            world.fault(0, Fault::Mishap(Mishap::LoseSent));
            world.send(0, &[1; 50]);
            world.run_until_quiet(Duration::from_secs(60));
        }
        world.run_for(Duration::from_secs(60));
        exchange(&mut world);
    }
}

#[test]
fn whatever_goes_wrong_ends() {
    for seed in 0..120 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let kind = KINDS[seed as usize % KINDS.len()];
        let mut world = World::ready(kind);
        for _ in 0..40 {
            let time = Duration::from_millis(rng.random_range(1..4_000));
            let fault = match rng.random_range(0..14) {
                0 => Fault::Unplug(time),
                1 => Fault::Reboot,
                2 => Fault::Garbage(rng.random_range(1..2_000)),
                3 | 4 => Fault::DropReply,
                5 => Fault::DupEvent,
                6 => Fault::SplitWrites(rng.random()),
                7 => Fault::Busy(time),
                8 => Fault::Mishap(Mishap::LoseSent),
                9 => Fault::Mishap(Mishap::BadFrame),
                10 => Fault::Mishap(Mishap::StaleError),
                _ => Fault::Mishap(Mishap::RaceStop),
            };
            let node = rng.random_range(0..2);
            world.fault(node, fault);
            world.send(rng.random_range(0..2), &[3; 30]);
            world.run_for(Duration::from_millis(rng.random_range(1..1_500)));
        }
        world.run_for(Duration::from_secs(120));
        world.run_until_quiet(Duration::from_secs(300));
        // Uses up what waits for an occasion.
        for node in [0, 1, 0, 1] {
            world.send(node, b"now?");
            world.run_until_quiet(Duration::from_secs(60));
        }
        world.run_for(Duration::from_secs(120));
        exchange(&mut world);
    }
}
