//! Packets that arrive at the worst moment.

use core::time::Duration;

use super::scenarios::exchange;
use super::world::{KINDS, World};

#[test]
fn packets_during_the_set_up_disturb_nothing() {
    for kind in KINDS {
        let mut world = World::ready(kind);
        // One is set up again and again while the other speaks.
        for _ in 0..10 {
            world.fault(0, snipe_sim::modem::Fault::Reboot);
            for _ in 0..5 {
                world.send(1, &[9; 40]);
            }
            world.run_until_quiet(Duration::from_secs(60));
        }
        exchange(&mut world);
    }
}

#[test]
fn packets_at_every_moment_of_a_transmission_disturb_nothing() {
    for kind in KINDS {
        let mut world = World::ready(kind);
        // From well before the command to send, over its air and its completion, to well after it.
        for offset in (0..400).step_by(3) {
            let later = Duration::from_millis(offset);
            let head_start = Duration::from_millis(150);
            world.send(1, b"the other speaks");
            if later > head_start {
                // Instead the other begins later.
                world.run_until_quiet(Duration::from_secs(10));
                world.send(0, b"one speaks");
                world.run_for(later - head_start);
                world.send(1, b"the other speaks");
            } else {
                world.run_for(head_start - later);
                world.send(0, b"one speaks");
            }
            world.run_until_quiet(Duration::from_secs(10));
            world.run_for(Duration::from_secs(3));
            for node in &world.nodes {
                assert_eq!(node.ups, 1, "{kind:?} {offset}: {:?}", node.reports);
                assert_eq!(node.unsent, 0, "{kind:?} {offset}");
            }
        }
        exchange(&mut world);
        for node in &world.nodes {
            let troubled = node
                .reports
                .iter()
                .any(|report| matches!(report, radio_adapters::driver::Report::Recovering(_)));
            assert!(!troubled, "{kind:?}: {:?}", node.reports);
        }
    }
}
