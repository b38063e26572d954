//! Days under 1 % duty cycle, with restarts.

use core::time::Duration;

use gateway_core::time::Instant;
use snipe_sim::field::airtime::jain;
use snipe_sim::field::scene::{Population, Scene};
use snipe_sim::field::{Chore, SensorIx};
use snipe_sim::modem::Fault;

use crate::population::{FAR, HOUR, NEAR, of_the_issue};
use crate::report::{assert_answers_first, assert_lawful, longest_drought};

/// The longest that a node may be without an answer. A restart costs each of them a DISCONNECT and a CONNACK, nearly
/// twice its PUBACK, and at 80 % load there is a fifth of the airtime to work that off: it takes seven hours until the
/// last one has its session again, and the gateway is killed three times a day here.
const DROUGHT: Duration = Duration::from_secs(10 * 3600);

#[test]
fn every_hour_of_a_day_is_lawful_and_nobody_starves() {
    let days: u64 =
        std::env::var("SNIPE_FIELD_DAYS").map_or(1, |days| days.parse().expect("a number of days"));
    let mut scene = Scene::new(Population {
        commanded: 20,
        ..of_the_issue()
    });
    let end = Instant::START + days as u32 * 24 * HOUR;
    scene.plan_commands(end, Duration::from_secs(1_200));
    for day in 0..days {
        let morning = Instant::START + day as u32 * 24 * HOUR;
        // Killed and back at once, and again before it has recovered; once it is away for a while.
        for (minutes, away) in [(370, 2), (372, 2), (940, 600)] {
            let at = morning + Duration::from_secs(60 * minutes);
            scene.field.plan(at, Chore::Restart(Duration::from_secs(away)));
        }
        let at = morning + 11 * HOUR;
        scene.field.plan(at, Chore::Fault(NEAR, Fault::Reboot));
        scene
            .field
            .plan(at, Chore::Fault(FAR, Fault::Unplug(Duration::from_secs(120))));
    }
    scene.run_until(end);

    let worst = assert_lawful(&scene.field);
    // It is no feat to be lawful in silence.
    assert!(
        worst.iter().all(|worst| *worst > Duration::from_secs(25)),
        "{worst:?}"
    );
    let commands = assert_answers_first(&scene.field);
    assert!(commands > 30, "only {commands} commands were sent");
    let (drought, node) = longest_drought(&scene);
    assert!(drought < DROUGHT, "{node:?} had no answer for {drought:?}");
    let nodes = 0..scene.said.len();
    let said: usize = nodes.clone().map(|node| scene.said[node].len()).sum();
    let delivered: usize = nodes.clone().map(|node| scene.delivered(node)).sum();
    println!(
        "{said} said, {delivered} delivered, {} thrown away, worst hours {worst:?}, longest drought {drought:?}",
        scene.thrown_away
    );
    // What is missing was said within the last hour, or thrown away by a node.
    assert!(delivered * 100 >= said * 97, "{delivered} of {said}");
    assert_acknowledged_is_delivered(&scene);
}

#[test]
fn ten_times_the_load_is_lawful_and_evenly_shared() {
    let mut scene = Scene::new(Population {
        interval: HOUR / 10,
        seed: 2,
        ..of_the_issue()
    });
    let restart = Instant::START + 5 * HOUR;
    scene.field.plan(restart, Chore::Restart(Duration::from_secs(5)));
    scene.run_until(Instant::START + 24 * HOUR);

    let worst = assert_lawful(&scene.field);
    assert!(
        worst.iter().all(|worst| *worst > Duration::from_secs(30)),
        "{worst:?}"
    );
    for link in [NEAR, FAR] {
        let nodes = (0..scene.said.len()).filter(|node| scene.field.link_of(SensorIx(*node)) == link);
        let shares: Vec<u64> = nodes.map(|node| scene.delivered(node) as u64).collect();
        let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
        println!("{link:?}: least {least}, most {most}, Jain {:.3}", jain(&shares));
        // Jain's index: 0.9 is what there is if one of ten has nothing and the others have the same.
        assert!(jain(&shares) > 0.9, "{shares:?}");
        assert!(*most < 4 * least, "{shares:?}");
    }
    assert_acknowledged_is_delivered(&scene);
}

/// QoS 1: what a node was told is delivered is at the broker.
fn assert_acknowledged_is_delivered(scene: &Scene) {
    let at_the_broker = scene.at_the_broker();
    for sensor in &scene.field.sensors {
        for payload in sensor.client.outcomes.keys() {
            assert!(at_the_broker.contains(payload), "{payload:?} is lost");
        }
    }
}
