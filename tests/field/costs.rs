//! What a delivered message costs on the air.

use gateway_core::time::Instant;

use snipe_sim::field::scene::{Population, Scene};

use crate::population::{HOUR, with_nodes};
use crate::report::{assert_lawful, cost_head, cost_rows};

/// Six hours of 100 nodes at SF9 and 10 at SF12, the first of which everyone connects in.
#[test]
fn airtime_of_a_delivered_message() {
    let base = Population {
        seed: 3,
        ..with_nodes(100, 10)
    };
    let mut table = cost_head();
    for (name, population) in [
        ("predefined", base.clone()),
        (
            "registered",
            Population {
                registers: true,
                ..base.clone()
            },
        ),
        (
            "searched",
            Population {
                searches: true,
                ..base
            },
        ),
    ] {
        let mut scene = Scene::new(population);
        scene.run_until(Instant::START + 6 * HOUR);
        assert_lawful(&scene.field);
        table.push_str(&cost_rows(name, &scene));
    }
    insta::assert_snapshot!(table);
}
