//! The whole gateway on a store that is damaged.

#![allow(clippy::unwrap_used, clippy::expect_used)] // Helpers of tests panic as tests do.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use gateway_core::config::Durability;
use gateway_core::{Gateway, Restored};

use gateway_core::io::StoreKey;
use gateway_store::{Damage, DamageKind, Disk as _, Key, Options, SimDisk, Store};
use sn_codec::QoS;
use snipe_sim::sim_client::ClientConfig;
use snipe_sim::sim_store::DiskConfig;
use snipe_sim::{World, WorldConfig};

use crate::power_cuts::durable;

/// Whoever looks at every octet has a store alone (gateway/store/tests/store.rs).
const SAMPLE: usize = 37;

const SEGMENT: usize = 64 << 10;

/// Sessions, messages for sleepers, messages for a broker that is away: some KB in one segment.
fn used_disk() -> SimDisk {
    let mut world = World::new(WorldConfig {
        gateway: durable(Durability::default()),
        disk: DiskConfig {
            segment: SEGMENT,
            ..DiskConfig::default()
        },
        ..WorldConfig::default()
    });
    let client = |id: String| ClientConfig {
        clean: false,
        keep_alive: 600,
        ..ClientConfig::new(&id)
    };
    for at in 0..5 {
        let sleeper = world.add_connected(client(format!("valve-{at}")));
        world.subscribe(sleeper, format!("cmd/{at}").as_str(), QoS::ExactlyOnce);
        world.run_for(Duration::from_secs(1));
        world.sleep(sleeper, 3_600, u32::MAX);
        world.run_for(Duration::from_secs(1));
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            world.external(&format!("cmd/{at}"), qos, false);
        }
    }
    let sensor = world.add_connected(client("sensor".into()));
    world.run_for(Duration::from_secs(1));
    world.broker_down(true);
    for at in 0..10 {
        let qos = if at % 2 == 0 {
            QoS::AtLeastOnce
        } else {
            QoS::ExactlyOnce
        };
        world.publish(sensor, "data", qos);
        world.run_for(Duration::from_secs(2));
    }
    world
        .store()
        .map(|store| store.disk.clone())
        .expect("it has a disk")
}

/// What a gateway makes of the disk as it is now.
fn restore(disk: &SimDisk) -> (Restored, BTreeMap<StoreKey, Bytes>, Vec<Damage>) {
    let options = Options {
        segment_bytes: SEGMENT,
    };
    let (_, recovered) = Store::open(disk.clone(), options).unwrap();
    let key = |Key { kind, id }| StoreKey { kind, id };
    let values: Vec<(StoreKey, Bytes)> = recovered
        .values
        .into_iter()
        .map(|(at, value)| (key(at), value))
        .collect();
    let config = durable(Durability::default());
    let now = gateway_core::time::Instant::from_micros(1_000_000);
    let mut gateway = Gateway::new(config, 1, now);
    let restored = gateway.restore(now, 1_795_000_000_000, values.clone());
    // It works: whatever it has to say comes to an end.
    let mut buf = Vec::new();
    let outputs = (0..1_000).take_while(|_| gateway.poll_output(now, &mut buf).is_some());
    assert!(outputs.count() < 1_000);
    (restored, values.into_iter().collect(), recovered.damage)
}

/// The newest segment and the octets of it that are used.
fn newest(disk: &SimDisk) -> (String, Vec<u8>, usize) {
    let name = disk.list().unwrap().pop().unwrap();
    let octets = disk.read(&name).unwrap();
    let used = octets.iter().rposition(|octet| *octet != 0).unwrap() + 1;
    (name, octets, used)
}

#[test]
fn a_flipped_octet_costs_the_gateway_no_more_than_its_record() {
    let disk = used_disk();
    let (whole, before, damage) = restore(&disk);
    assert_eq!((whole.sessions, whole.messages, whole.spooled), (6, 10, 10));
    assert_eq!(damage, []);
    let (name, _, used) = newest(&disk);
    assert!(used > 4_000, "{used} octets");
    for at in (0..used).step_by(SAMPLE) {
        disk.damage(&name, |octets| octets[at] ^= 0x24);
        let (restored, after, damage) = restore(&disk);
        disk.damage(&name, |octets| octets[at] ^= 0x24);
        // It says what it found, and where.
        assert_eq!(damage.len(), 1, "octet {at}");
        let hit = damage[0].offset..damage[0].offset + damage[0].len;
        assert!(
            damage[0].file == name && hit.contains(&at),
            "octet {at}: {damage:?}"
        );
        let keys = before.keys().chain(after.keys());
        let differ: std::collections::BTreeSet<_> =
            keys.filter(|key| before.get(key) != after.get(key)).collect();
        assert!(differ.len() <= 1, "octet {at}: {differ:?}");
        assert_eq!(restored.unreadable, 0, "octet {at}");
        assert!(restored.spooled + 1 >= whole.spooled, "octet {at}: {restored:?}");
        assert!(
            restored.sessions + 1 >= whole.sessions,
            "octet {at}: {restored:?}"
        );
        // A session takes what waits for it along.
        let messages = restored.messages + if restored.sessions < whole.sessions { 2 } else { 1 };
        assert!(messages >= whole.messages, "octet {at}: {restored:?}");
    }
}

#[test]
fn a_truncation_leaves_the_gateway_everything_before_it() {
    let disk = used_disk();
    let (name, octets, used) = newest(&disk);
    let mut last = 0;
    for len in (0..used).step_by(SAMPLE).chain([used]) {
        disk.damage(&name, |all| all.truncate(len));
        let (restored, values, damage) = restore(&disk);
        disk.damage(&name, |all| all.clone_from(&octets));
        assert!(
            damage
                .iter()
                .all(|damage| matches!(damage.kind, DamageKind::CutOff | DamageKind::Short)),
            "{len} octets: {damage:?}"
        );
        assert_eq!(restored.unreadable, 0, "{len} octets");
        // What was written first stands: sessions never become fewer.
        assert!(restored.sessions >= last, "{len} octets: {restored:?}");
        last = restored.sessions;
        if len == used {
            assert_eq!(values, restore(&disk).1);
        }
    }
    assert_eq!(last, 6);
}
