//! Binding addresses.

use std::net::SocketAddr;

use crate::{Embedded, EmbeddedConfig, EmbeddedLimits};

#[test]
fn ipv4_and_ipv6_are_listened_on_side_by_side() {
    let everywhere = |port| EmbeddedConfig {
        bind: vec![
            SocketAddr::from(([0, 0, 0, 0], port)),
            SocketAddr::from(([0; 8], port)),
        ],
        limits: EmbeddedLimits::default(),
    };
    // A port that is free now; another process may be quicker, so more than one try.
    let opened = (0..5).find_map(|_| {
        let free = Embedded::open(&EmbeddedConfig {
            bind: vec![SocketAddr::from(([0, 0, 0, 0], 0))],
            limits: EmbeddedLimits::default(),
        });
        let port = free.unwrap().local_addrs()[0].port();
        Embedded::open(&everywhere(port)).ok()
    });
    assert_eq!(opened.unwrap().local_addrs().len(), 2);
}
