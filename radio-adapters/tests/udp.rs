//! The UDP link against real sockets on loopback.

// In helpers too, a failure is the test's failure.
#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use gateway_core::io::{Destination, Input, LinkEvent, LinkProfile, TxBatch, TxDatagram, TxTicket};
use gateway_core::peer::{LinkAddr, LinkId, LocalEnd, Route};
use radio_adapters::LinkSender;
use radio_adapters::udp::{AbsentUdpLink, JoinError, OpenError, UdpConfig, UdpLink, UdpStats};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::mpsc;
use tokio::time::timeout;

const LINK: LinkId = LinkId(3);
const SEARCHGW: &[u8] = &[3, 1, 1];

#[tokio::test]
async fn round_trip_over_ipv4() {
    round_trip("127.0.0.1:0").await;
}

#[tokio::test]
async fn round_trip_over_ipv6() {
    round_trip("[::1]:0").await;
}

async fn round_trip(bind: &str) {
    let mut world = World::new(&config(&[bind]));
    let client = client(bind);

    client.send_to(b"ping", world.addrs[0]).unwrap();
    let (route, octets) = world.datagram().await;
    world.send(Destination::Peer(route.clone()), b"pong");

    assert_eq!(octets, b"ping");
    assert_eq!(route.addr, LinkAddr::Udp(client.local_addr().unwrap()));
    assert_eq!(receive(&client).await, (b"pong".to_vec(), world.addrs[0]));
}

#[tokio::test]
async fn first_input_is_up_with_the_profile() {
    let (inputs, mut core) = mpsc::channel(4);
    let link = UdpLink::open(&config(&["127.0.0.1:0"])).unwrap();
    let client = client("127.0.0.1:0");
    client.send_to(b"early", link.local_addrs()[0]).unwrap();

    let _sender = link.spawn(LINK, inputs);

    let profile = LinkProfile::default();
    match core.recv().await {
        Some(Input::Link(LINK, LinkEvent::Up(up))) => assert_eq!(up, profile),
        other => panic!("{other:?}"),
    }
    assert!(matches!(core.recv().await, Some(Input::Datagrams(LINK, _))));
}

#[tokio::test]
async fn answer_leaves_from_the_address_the_request_came_to() {
    let mut world = World::new(&config(&["0.0.0.0:0"]));
    let client = client("127.0.0.1:0");
    let other_address = SocketAddr::new("127.0.0.9".parse().unwrap(), world.addrs[0].port());

    client.send_to(b"ping", other_address).unwrap();
    let (route, _) = world.datagram().await;
    world.send(Destination::Peer(route.clone()), b"pong");

    assert_eq!(
        route.local,
        LocalEnd {
            socket: 0,
            ip: Some(other_address.ip())
        }
    );
    assert_eq!(receive(&client).await, (b"pong".to_vec(), other_address));
}

#[tokio::test]
async fn answer_leaves_from_another_address_if_that_one_is_gone() {
    for (bind, gone) in [("0.0.0.0:0", "192.0.2.200"), ("[::]:0", "2001:db8::77")] {
        let mut world = World::new(&config(&[bind]));
        let client = client(bind);
        let ip = if bind.starts_with('[') {
            IpAddr::from(Ipv6Addr::LOCALHOST)
        } else {
            Ipv4Addr::LOCALHOST.into()
        };
        client.send_to(b"ping", (ip, world.addrs[0].port())).unwrap();
        let (mut route, _) = world.datagram().await;

        route.local.ip = Some(gone.parse().unwrap());
        world.send(Destination::Peer(route), b"pong");

        assert_eq!(
            receive(&client).await,
            (b"pong".to_vec(), SocketAddr::new(ip, world.addrs[0].port()))
        );
    }
}

#[tokio::test]
async fn answers_leave_from_the_listener_that_was_asked() {
    let mut world = World::new(&config(&["127.0.0.1:0", "[::1]:0", "127.0.0.1:0"]));
    for (index, listener) in world.addrs.clone().into_iter().enumerate() {
        let client = client(if listener.is_ipv4() {
            "127.0.0.1:0"
        } else {
            "[::1]:0"
        });
        client.send_to(&[index as u8], listener).unwrap();
        let (route, octets) = world.datagram().await;
        world.send(Destination::Peer(route.clone()), &octets);

        assert_eq!(usize::from(route.local.socket), index);
        assert_eq!(receive(&client).await, (vec![index as u8], listener));
    }
}

#[tokio::test]
async fn wildcards_of_both_families_share_a_port() {
    let port = free_port();
    let mut world = World::new(&config(&[&format!("0.0.0.0:{port}"), &format!("[::]:{port}")]));
    for (listener, ip) in [(0, "127.0.0.1"), (1, "::1")] {
        let ip: IpAddr = ip.parse().unwrap();
        let client = client(&SocketAddr::new(ip, 0).to_string());
        client.send_to(b"ping", (ip, port)).unwrap();
        let (route, _) = world.datagram().await;
        assert_eq!(
            route.local,
            LocalEnd {
                socket: listener,
                ip: Some(ip)
            }
        );
    }
}

#[tokio::test]
async fn search_by_multicast_arrives_once_and_is_answered_by_unicast() {
    // The listeners share the port of the group; by default Linux would hand each of them a copy.
    let port = free_port();
    let group = SocketAddr::new([239, 77, 1, 1].into(), port);
    let mut config = config(&[&format!("127.0.0.1:{port}"), &format!("127.0.0.2:{port}")]);
    config.multicast = vec![group];
    let mut world = World::new(&config);
    let client = multicast_client();

    client.send_to(SEARCHGW, group).unwrap();
    let (route, octets) = world.datagram().await;
    world.send(Destination::Peer(route), b"gwinfo");

    assert_eq!(octets, SEARCHGW);
    assert_eq!(receive(&client).await, (b"gwinfo".to_vec(), world.addrs[0]));
    // What comes next is what was sent next, not a copy.
    client.send_to(b"next", world.addrs[1]).unwrap();
    assert_eq!(world.datagram().await.1, b"next");
    assert!(world.pending.is_empty());
}

#[tokio::test]
async fn search_by_multicast_reaches_a_wildcard_listener_once() {
    let port = free_port();
    let group = SocketAddr::new([239, 77, 1, 2].into(), port);
    let mut config = config(&[&format!("0.0.0.0:{port}")]);
    config.multicast = vec![group];
    config.interface = Some("lo".to_owned());
    let mut world = World::new(&config);
    let client = multicast_client();

    client.send_to(SEARCHGW, group).unwrap();
    let (route, octets) = world.datagram().await;
    world.send(Destination::Peer(route), b"gwinfo");

    assert_eq!(octets, SEARCHGW);
    assert_eq!(
        receive(&client).await,
        (b"gwinfo".to_vec(), SocketAddr::new([127, 0, 0, 1].into(), port))
    );
    client.send_to(b"next", ("127.0.0.1", port)).unwrap();
    assert_eq!(world.datagram().await.1, b"next");
    assert!(world.pending.is_empty());
}

#[tokio::test]
async fn datagrams_to_groups_nobody_configured_do_not_arrive() {
    let port = free_port();
    let ours = SocketAddr::new([239, 77, 1, 3].into(), port);
    let theirs: Ipv4Addr = [239, 77, 1, 4].into();
    let mut config = config(&[&format!("0.0.0.0:{port}")]);
    config.multicast = vec![ours];
    config.interface = Some("lo".to_owned());
    let mut world = World::new(&config);
    let client = multicast_client();
    client.join_multicast_v4(&theirs, &Ipv4Addr::LOCALHOST).unwrap();

    client.send_to(b"theirs", (theirs, port)).unwrap();
    client.send_to(b"ours", ours).unwrap();

    assert_eq!(world.datagram().await.1, b"ours");
}

#[tokio::test]
async fn broadcast_reaches_a_member_from_the_listener_in_every_group() {
    let groups = [
        SocketAddr::new([239, 77, 1, 5].into(), free_port()),
        SocketAddr::new([239, 77, 1, 6].into(), free_port()),
    ];
    let mut config = config(&["127.0.0.1:0"]);
    config.multicast = groups.to_vec();
    let world = World::new(&config);
    let members = groups.map(member);

    world.send(Destination::Broadcast, b"advertise");

    assert!(world.broadcast);
    for member in &members {
        assert_eq!(receive(member).await, (b"advertise".to_vec(), world.addrs[0]));
    }
    assert_eq!(world.stats.sent.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn own_broadcasts_are_not_heard_but_those_of_neighbours_are() {
    for bind in ["127.0.0.1", "0.0.0.0"] {
        let group = SocketAddr::new([239, 77, 1, 9].into(), free_port());
        let mut config = config(&[&format!("{bind}:{}", free_port())]);
        config.multicast = vec![group];
        config.interface = Some("lo".to_owned());
        let mut world = World::new(&config);
        // On the same host, with another port.
        let neighbour = multicast_client();

        let witness = member(group);
        world.send(Destination::Broadcast, b"ours");
        assert_eq!(receive(&witness).await.0, b"ours");
        neighbour.send_to(b"theirs", group).unwrap();

        assert_eq!(world.datagram().await.1, b"theirs");
    }
}

#[tokio::test]
async fn a_member_on_the_same_machine_may_share_the_port() {
    let port = free_port();
    let group = SocketAddr::new([239, 77, 1, 7].into(), port);
    let mut config = config(&[&format!("0.0.0.0:{port}")]);
    config.multicast = vec![group];
    config.interface = Some("lo".to_owned());
    let world = World::new(&config);
    let member = member(group);

    world.send(Destination::Broadcast, b"advertise");

    assert_eq!(receive(&member).await.0, b"advertise");
}

#[tokio::test]
async fn the_largest_datagram_goes_both_ways() {
    let mut world = World::new(&config(&["127.0.0.1:0"]));
    let client = client("127.0.0.1:0");
    let largest: Vec<u8> = (0..65_507_u32).map(|i| i as u8).collect();

    client.send_to(&largest, world.addrs[0]).unwrap();
    let (route, octets) = world.datagram().await;
    world.send(Destination::Peer(route), &octets);

    assert_eq!(octets, largest);
    assert_eq!(receive(&client).await.0, largest);
    assert_eq!(world.stats.truncated.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn datagrams_that_the_kernel_coalesced_are_told_apart() {
    let mut world = World::new(&config(&["127.0.0.1:0"]));
    let client = client("127.0.0.1:0");
    let state = quinn_udp::UdpSocketState::new((&client).into()).unwrap();
    assert!(
        state.max_gso_segments() >= 3,
        "this kernel cannot send what this test needs"
    );

    let transmit = quinn_udp::Transmit {
        destination: world.addrs[0],
        ecn: None,
        contents: b"aaabbbc",
        segment_size: Some(3),
        src_ip: None,
    };
    state.try_send((&client).into(), &transmit).unwrap();

    for expected in ["aaa", "bbb", "c"] {
        assert_eq!(world.datagram().await.1, expected.as_bytes());
    }
}

#[tokio::test]
async fn an_empty_datagram_is_handed_over() {
    let mut world = World::new(&config(&["127.0.0.1:0"]));
    let client = client("127.0.0.1:0");
    client.send_to(b"", world.addrs[0]).unwrap();
    client.send_to(b"after", world.addrs[0]).unwrap();
    assert_eq!(world.datagram().await.1, b"");
    assert_eq!(world.datagram().await.1, b"after");
}

#[tokio::test]
async fn a_burst_arrives_in_batches_and_in_order() {
    const SENDERS: usize = 4;
    const EACH: u32 = 2_500;
    let mut world = World::new(&config(&["127.0.0.1:0"]));
    let clients: Vec<UdpSocket> = (0..SENDERS).map(|_| client("127.0.0.1:0")).collect();
    let addr = world.addrs[0];
    let senders: Vec<SocketAddr> = clients
        .iter()
        .map(|client| client.local_addr().unwrap())
        .collect();

    // Rounds that the smallest default buffer holds: what the kernel drops is not the subject here.
    let mut next = [0; SENDERS];
    for first in (0..EACH).step_by(50) {
        for i in first..first + 50 {
            clients
                .iter()
                .for_each(|client| assert_eq!(client.send_to(&i.to_be_bytes(), addr).unwrap(), 4));
        }
        for _ in 0..50 * SENDERS {
            let (route, octets) = world.datagram().await;
            let LinkAddr::Udp(from) = route.addr else {
                panic!("{route:?}")
            };
            let sender = senders.iter().position(|sender| *sender == from).unwrap();
            assert_eq!(octets, u32::to_be_bytes(next[sender]));
            next[sender] += 1;
        }
    }

    assert_eq!(next, [EACH; SENDERS]);
    assert_eq!(world.stats.received.load(Ordering::Relaxed), 10_000);
    assert!(world.batches <= 10_000 / 20, "{} batches", world.batches);
    assert_eq!(world.stats.kernel_dropped(), Some(0));
}

#[tokio::test]
async fn what_the_kernel_drops_is_counted() {
    let mut world = World::new(&config(&["127.0.0.1:0"]));
    let client = client("127.0.0.1:0");
    // Nothing else runs on this thread meanwhile: the kernel has to keep all of it, and cannot.
    let flood = vec![0; 60_000];
    for _ in 0..1_000 {
        client.send_to(&flood, world.addrs[0]).unwrap();
    }
    let dropped = world.stats.kernel_dropped().unwrap();
    assert!(dropped > 0);
    for _ in 0..1_000 - dropped {
        assert_eq!(world.datagram().await.1.len(), 60_000);
    }
    assert!(world.pending.is_empty());
}

#[tokio::test]
async fn a_closed_peer_does_not_stop_the_others() {
    let mut world = World::new(&config(&["127.0.0.1:0"]));
    let client = client("127.0.0.1:0");
    let gone = LinkAddr::Udp(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), free_port()));
    for _ in 0..100 {
        world.send(
            Destination::Peer(Route {
                addr: gone.clone(),
                local: LocalEnd::default(),
            }),
            b"hello?",
        );
        client.send_to(b"ping", world.addrs[0]).unwrap();
        let (route, _) = world.datagram().await;
        world.send(Destination::Peer(route), b"pong");
        assert_eq!(receive(&client).await.0, b"pong");
    }
    assert_eq!(world.stats.receive_errors.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn what_cannot_be_sent_is_counted_and_the_rest_is_sent() {
    let mut world = World::new(&config(&["127.0.0.1:0"]));
    let client = client("127.0.0.1:0");
    client.send_to(b"ping", world.addrs[0]).unwrap();
    let (good, _) = world.datagram().await;
    let local = LocalEnd::default();
    let bad = [
        Route {
            addr: LinkAddr::Wire,
            local,
        },
        Route {
            addr: good.addr.clone(),
            local: LocalEnd { socket: 7, ip: None },
        },
        Route {
            addr: LinkAddr::Udp("[::1]:9".parse().unwrap()),
            local,
        },
        Route {
            addr: LinkAddr::Udp("255.255.255.255:9".parse().unwrap()),
            local,
        },
    ];

    for route in bad {
        world.send(Destination::Peer(route), b"lost");
    }
    world.send(Destination::Peer(good.clone()), &[0; 65_508]);
    world.send(Destination::Peer(good), b"pong");

    assert_eq!(receive(&client).await.0, b"pong");
    assert_eq!(world.stats.send_errors.load(Ordering::Relaxed), 5);
    assert_eq!(world.stats.sent.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn dropping_the_sender_sends_what_waits_and_closes_the_link() {
    let (inputs, mut core) = mpsc::channel(4);
    let link = UdpLink::open(&config(&["127.0.0.1:0"])).unwrap();
    let addr = link.local_addrs()[0];
    let client = client("127.0.0.1:0");
    let sender = link.spawn(LINK, inputs);
    let route = Route {
        addr: LinkAddr::Udp(client.local_addr().unwrap()),
        local: LocalEnd::default(),
    };

    sender
        .send(batch(Destination::Peer(route), b"disconnect"))
        .unwrap();
    drop(sender);

    assert!(matches!(
        core.recv().await,
        Some(Input::Link(LINK, LinkEvent::Up(_)))
    ));
    assert!(
        timeout(Duration::from_secs(5), core.recv())
            .await
            .unwrap()
            .is_none()
    );
    assert_eq!(receive(&client).await.0, b"disconnect");
    UdpSocket::bind(addr).expect("the port is free again");
}

#[tokio::test]
async fn a_full_channel_holds_datagrams_back_and_loses_none() {
    let (inputs, mut core) = mpsc::channel(1);
    let link = UdpLink::open(&config(&["127.0.0.1:0"])).unwrap();
    let addr = link.local_addrs()[0];
    let client = client("127.0.0.1:0");
    let _sender = link.spawn(LINK, inputs);

    for i in 0..200_u8 {
        client.send_to(&[i], addr).unwrap();
        tokio::task::yield_now().await;
    }
    let mut next = 0;
    while next < 200 {
        if let Some(Input::Datagrams(_, batch)) = timeout(Duration::from_secs(5), core.recv()).await.unwrap()
        {
            for (_, octets) in batch.iter() {
                assert_eq!(octets, [next]);
                next += 1;
            }
        }
    }
}

#[tokio::test]
async fn a_port_in_use_is_an_error_that_says_so() {
    let port = free_port();
    let mut config = config(&[&format!("127.0.0.1:{port}")]);
    config.multicast = vec![SocketAddr::new([239, 77, 1, 8].into(), port)];
    let _first = UdpLink::open(&config).unwrap();

    let error = UdpLink::open(&config).unwrap_err();

    assert_eq!(
        error.to_string(),
        format!(
            "cannot listen on 127.0.0.1:{port}/udp: Address already in use (os error 98); \
             another program, perhaps another gateway, has this port: stop it, or choose another (key `bind` of the radio)"
        )
    );
}

#[tokio::test(start_paused = true)]
async fn a_port_that_becomes_free_later_is_listened_on_then() {
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap();
    let config = config(&[&addr.to_string()]);
    let error = UdpLink::open(&config).unwrap_err();
    assert!(error.may_pass());
    let absent = AbsentUdpLink {
        name: "udp0".into(),
        config,
        error,
    };
    let (inputs, mut core) = mpsc::channel(4);

    let (_sender, stats) = absent.spawn(LINK, inputs);
    let minutes = timeout(Duration::from_secs(600), core.recv()).await;
    assert!(minutes.is_err(), "nothing comes from a port that is taken");
    assert_eq!(stats.kernel_dropped(), None);
    drop(taken);
    let freed = tokio::time::Instant::now();

    let up = core.recv().await.unwrap();
    assert!(matches!(up, Input::Link(LINK, LinkEvent::Up(_))), "{up:?}");
    assert!(
        freed.elapsed() <= Duration::from_secs(30),
        "{:?}",
        freed.elapsed()
    );
    client("127.0.0.1:0").send_to(b"\x03\x01\x01", addr).unwrap();
    let heard = core.recv().await.unwrap();
    assert!(matches!(heard, Input::Datagrams(LINK, _)), "{heard:?}");
    assert_eq!(stats.received.load(Ordering::Relaxed), 1);
    assert_eq!(stats.kernel_dropped(), Some(0));
}

#[tokio::test(start_paused = true)]
async fn a_port_that_stays_taken_does_not_outlive_the_gateway() {
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let config = config(&[&taken.local_addr().unwrap().to_string()]);
    let error = UdpLink::open(&config).unwrap_err();
    let absent = AbsentUdpLink {
        name: "udp0".into(),
        config,
        error,
    };
    let (inputs, mut core) = mpsc::channel(4);

    let (sender, _stats) = absent.spawn(LINK, inputs);
    drop(sender);

    assert!(core.recv().await.is_none(), "its end of the channel is dropped");
}

#[tokio::test]
async fn addresses_that_cannot_be_are_refused() {
    let open = |bind: &[&str], group: &str, interface: Option<&str>| {
        let mut config = config(bind);
        config.multicast = group
            .split_terminator(' ')
            .map(|group| group.parse().unwrap())
            .collect();
        config.interface = interface.map(str::to_owned);
        UdpLink::open(&config).unwrap_err()
    };
    let any: &[&str] = &["127.0.0.1:0"];
    assert!(matches!(open(&[], "", None), OpenError::NoListener));
    assert!(matches!(
        open(&["127.0.0.1:0"; 257], "", None),
        OpenError::TooManyListeners(257)
    ));
    assert!(matches!(
        open(&["239.1.1.1:1883"], "", None),
        OpenError::ListenerIsGroup(_)
    ));
    assert!(matches!(
        open(any, "192.0.2.1:1883", None),
        OpenError::NotMulticast(_)
    ));
    assert!(matches!(
        open(any, "239.1.1.1:0", None),
        OpenError::GroupWithoutPort(_)
    ));
    assert!(matches!(open(any, "", Some("nosuch0")), OpenError::NoSuchInterface(name) if name == "nosuch0"));
    let error = open(&["203.0.113.77:1883"], "", None).to_string();
    assert!(
        error.contains("203.0.113.77:1883") && error.contains("`ip address`"),
        "{error}"
    );
}

#[tokio::test]
async fn a_group_without_a_listener_is_left_out() {
    let mut config = config(&["127.0.0.1:0"]);
    let group = SocketAddr::new([239, 77, 1, 9].into(), free_port());
    config.multicast = vec!["[ff12::1]:1885".parse().unwrap(), group];

    let link = UdpLink::open(&config).unwrap();

    assert_eq!(link.joined(), [group]);
    assert!(matches!(link.not_joined(), [(addr, JoinError::NoListener("IPv6"))] if addr.is_ipv6()));
}

/// A link that runs, seen from the core.
struct World {
    addrs: Vec<SocketAddr>,
    stats: std::sync::Arc<UdpStats>,
    broadcast: bool,
    sender: LinkSender,
    core: mpsc::Receiver<Input>,
    pending: std::collections::VecDeque<(Route, Vec<u8>)>,
    batches: usize,
}

impl World {
    fn new(config: &UdpConfig) -> World {
        let link = UdpLink::open(config).unwrap();
        assert_eq!(link.joined(), config.multicast, "{:?}", link.not_joined());
        let (inputs, core) = mpsc::channel(64);
        World {
            addrs: link.local_addrs(),
            stats: link.stats(),
            broadcast: !config.multicast.is_empty(),
            sender: link.spawn(LINK, inputs),
            core,
            pending: Default::default(),
            batches: 0,
        }
    }

    async fn datagram(&mut self) -> (Route, Vec<u8>) {
        loop {
            if let Some(datagram) = self.pending.pop_front() {
                return datagram;
            }
            match timeout(Duration::from_secs(5), self.core.recv())
                .await
                .expect("a datagram in time")
                .unwrap()
            {
                Input::Datagrams(LINK, batch) => {
                    self.batches += 1;
                    self.pending.extend(
                        batch
                            .iter()
                            .map(|(received, octets)| (received.from.clone(), octets.to_vec())),
                    );
                }
                Input::Link(LINK, LinkEvent::Up(profile)) => {
                    assert_eq!(profile.broadcast_mtu > 0, self.broadcast);
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn send(&self, to: Destination, octets: &[u8]) {
        self.sender.send(batch(to, octets)).unwrap();
    }
}

fn config(bind: &[&str]) -> UdpConfig {
    UdpConfig {
        bind: bind.iter().map(|addr| addr.parse().unwrap()).collect(),
        multicast: Vec::new(),
        interface: None,
        mtu: 1400,
    }
}

fn batch(to: Destination, octets: &[u8]) -> TxBatch {
    let datagram = TxDatagram {
        to,
        len: octets.len() as u32,
        ticket: TxTicket::default(),
    };
    TxBatch {
        bytes: octets.to_vec(),
        datagrams: vec![datagram],
    }
}

fn client(addr: &str) -> UdpSocket {
    let addr: SocketAddr = addr.parse().unwrap();
    UdpSocket::bind((addr.ip(), 0)).unwrap()
}

/// A client that searches on `lo`.
fn multicast_client() -> UdpSocket {
    let client = client("127.0.0.1:0");
    socket2::SockRef::from(&client)
        .set_multicast_if_v4(&Ipv4Addr::LOCALHOST)
        .unwrap();
    client
}

/// A client that waits for ADVERTISE on `lo`.
fn member(group: SocketAddr) -> UdpSocket {
    let IpAddr::V4(ip) = group.ip() else {
        panic!("{group} is not IPv4")
    };
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&group.into()).unwrap();
    socket.join_multicast_v4(&ip, &Ipv4Addr::LOCALHOST).unwrap();
    socket.into()
}

/// Receives on a thread of its own: the test's thread has the link to run.
async fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let socket = socket.try_clone().unwrap();
    socket.set_nonblocking(false).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let receiving = tokio::task::spawn_blocking(move || {
        let mut buffer = vec![0; 65_536];
        let (len, from) = socket.recv_from(&mut buffer).unwrap();
        buffer.truncate(len);
        (buffer, from)
    });
    receiving.await.unwrap()
}

/// A port below those the system hands out for port 0, so that no test running beside this one is given it.
fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let tried = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 20_000 + (std::process::id().wrapping_mul(97).wrapping_add(tried) % 10_000) as u16;
        let v6 = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
        // An IPv6 socket of the standard library takes IPv4 too: both are free.
        if UdpSocket::bind(v6).is_ok() {
            return port;
        }
    }
}
