//! What every modem must be able to do.

use core::time::Duration;

use radio_adapters::driver::Report;

use super::world::{KINDS, Kind, OLD_RN2483, World};

#[test]
fn modem_is_set_up_from_cold_and_from_warm() {
    for kind in KINDS {
        for ahead in [0, 300, 1_000, 60_000] {
            let ahead = Duration::from_millis(ahead);
            let baud = kind.settings(1).port.baud;
            let mut world = World::with(kind, ahead, baud, None);
            world.run_until_up(ahead + Duration::from_secs(10));
        }
    }
}

#[test]
fn modem_at_another_speed_is_found() {
    for kind in KINDS {
        for baud in [9_600, 19_200, 57_600, 115_200] {
            let configured = kind.settings(1).port.baud;
            let mut world = World::with(kind, Duration::from_secs(10), baud, None);
            world.run_until_up(Duration::from_secs(40));
            let told = world.nodes[0]
                .reports
                .iter()
                .any(|report| matches!(report, Report::Degraded(text) if text.contains("bit/s")));
            // An RN2483 adopts our speed instead.
            let adopts = matches!(kind, Kind::Rn2483(_) | Kind::Rn2903);
            assert_eq!(told, baud != configured && !adopts, "{kind:?} at {baud}");
        }
    }
}

#[test]
fn modem_that_listens_already_is_set_up() {
    for kind in KINDS {
        let baud = kind.settings(1).port.baud;
        let mut world = World::with(kind, Duration::from_secs(1), baud, Some(Duration::from_secs(20)));
        world.run_until_up(Duration::from_secs(19));
        world.run_while(Duration::from_secs(20), |world| world.nodes[0].ups < 2);
        assert_eq!(world.nodes[0].line.opens, 2 + u64::from(kind == Kind::RakFactory));
        exchange(&mut world);
    }
}

#[test]
fn datagrams_of_every_size_arrive_both_ways() {
    for kind in KINDS {
        let mut world = World::ready(kind);
        let mtu = world.nodes[0].profile.as_ref().unwrap().mtu;
        for len in [1, 2, 3, 4, 17, 64, mtu - 1, mtu] {
            for from in [0, 1] {
                let datagram: Vec<u8> = (0..len).map(|at| (at * 7 + 13) as u8).collect();
                world.send(from, &datagram);
                world.run_until_quiet(Duration::from_secs(10));
                world.run_for(Duration::from_secs(1));
                let received = world.nodes[1 - from].received.pop();
                let (sender, facts, got) = received.unwrap_or_else(|| panic!("{kind:?} {len}"));
                assert_eq!((sender, got), (world.nodes[from].addr.clone(), datagram));
                assert_eq!(facts.snr_db, Some(9), "{kind:?}");
                let old = kind == OLD_RN2483;
                assert_eq!(facts.rssi_dbm, (!old).then_some(-80), "{kind:?}");
            }
        }
        assert_eq!(world.nodes[0].unsent + world.nodes[1].unsent, 0);
    }
}

#[test]
fn too_large_and_empty_datagrams_are_unsent_and_harm_nothing() {
    for kind in KINDS {
        let mut world = World::ready(kind);
        let mtu = world.nodes[0].profile.as_ref().unwrap().mtu;
        world.send(0, &vec![1; mtu + 1]);
        world.send(0, &[]);
        world.run_until_quiet(Duration::from_secs(1));
        assert_eq!((world.nodes[0].sent, world.nodes[0].unsent), (0, 2));
        exchange(&mut world);
    }
}

#[test]
fn hundred_datagrams_back_to_back_arrive_in_order() {
    for kind in KINDS {
        let mut world = World::ready(kind);
        for datagram in 0..100 {
            world.send(0, &[datagram; 20]);
        }
        world.run_until_quiet(Duration::from_secs(300));
        world.run_for(Duration::from_secs(2));
        let received: Vec<u8> = world.nodes[1]
            .received
            .iter()
            .map(|(_, _, octets)| octets[0])
            .collect();
        assert_eq!(received, (0..100).collect::<Vec<u8>>(), "{kind:?}");
        assert_eq!(world.nodes[0].sent, 100);
    }
}

#[test]
fn answer_finds_its_way_between_two_datagrams() {
    // The one answers what it gets; the other has more to say all the time.
    for kind in KINDS.into_iter().filter(|kind| *kind != OLD_RN2483) {
        let mut world = World::ready(kind);
        for datagram in 0..20 {
            world.send(0, &[datagram; 20]);
        }
        let mut answered = 0;
        for _ in 0..100_000 {
            if world.nodes[1].received.len() > answered {
                answered += 1;
                world.send(1, &[answered as u8; 7]);
            }
            world.run_for(Duration::from_millis(5));
            if world.nodes[0].received.len() == 20 {
                break;
            }
        }
        assert_eq!(world.nodes[1].received.len(), 20, "{kind:?}");
        assert_eq!(world.nodes[0].received.len(), 20, "{kind:?}");
    }
}

#[test]
fn a_quiet_day_needs_nothing() {
    for kind in KINDS {
        let mut world = World::ready(kind);
        for node in &mut world.nodes {
            node.line.trace = None;
        }
        world.run_for(Duration::from_secs(25 * 60 * 60));
        for node in &world.nodes {
            assert_eq!(node.reports, [], "{kind:?}");
            assert_eq!(node.ups, 1);
        }
        exchange(&mut world);
    }
}

/// A datagram each way arrives.
pub(super) fn exchange(world: &mut World) {
    // Old firmware hears nothing between two windows, and what is on the air when one ends.
    let tries = if world.kind == OLD_RN2483 { 5 } else { 1 };
    for from in [0, 1] {
        let before = world.nodes[1 - from].received.len();
        for _ in 0..tries {
            if world.nodes[1 - from].received.len() == before {
                world.send(from, b"are you there?");
                world.run_until_quiet(Duration::from_secs(60));
                world.run_for(Duration::from_secs(2));
            }
        }
        let received = &world.nodes[1 - from].received[before..];
        assert!(!received.is_empty(), "{:?}:\n{}", world.kind, world.story());
        assert_eq!(received[0].2, b"are you there?");
    }
}
