//! Discovery (§6.1) over multicast on the loopback interface. The broker's part in it is to be there.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};

use sn_codec::{Advertise, GwInfo, Packet, SearchGw};
use socket2::{Domain, Socket, Type};
use system_tests::{Broker, Gateway, PATIENCE, SILENCE, Setup, free_port, poll_until};

/// A gateway with this id in the group.
fn setup(broker: &Broker, id: u8, group: SocketAddrV4) -> Setup {
    let setup = Setup::beside(broker);
    let port = setup.port();
    setup.toml(&format!(
        r#"
        gateway.id = {id}
        [[radio]]
        name = "udp0"
        kind = "udp"
        bind = ["127.0.0.1:{port}"]
        multicast = ["{group}"]
        interface = "lo"
        "#
    ))
}

/// A client that searches and hears what is said in the group.
struct Searcher {
    own: UdpSocket,
    group: UdpSocket,
    to: SocketAddrV4,
}

impl Searcher {
    fn new(group: SocketAddrV4) -> Searcher {
        let own = Socket::new(Domain::IPV4, Type::DGRAM, None).expect("a socket");
        own.set_multicast_if_v4(&Ipv4Addr::LOCALHOST)
            .expect("loopback can be named");
        own.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())
            .expect("a free port");
        let member = Socket::new(Domain::IPV4, Type::DGRAM, None).expect("a socket");
        member.set_reuse_address(true).expect("a fresh socket");
        member
            .bind(&SocketAddr::V4(group).into())
            .expect("a group address can be bound");
        member
            .join_multicast_v4(group.ip(), &Ipv4Addr::LOCALHOST)
            .expect("loopback can be joined");
        Searcher {
            own: own.into(),
            group: member.into(),
            to: group,
        }
    }

    fn search(&self) {
        let mut search = vec![];
        Packet::SearchGw(SearchGw { radius: 0 }).encode(&mut search);
        self.own
            .send_to(&search, self.to)
            .expect("loopback carries multicast");
    }

    /// The next GWINFO for itself: gateway id and address.
    #[track_caller]
    fn found(&self) -> (u8, SocketAddr) {
        match receive(&self.own, PATIENCE) {
            Some((datagram, from)) => match Packet::decode(&datagram) {
                Ok(Packet::GwInfo(GwInfo { gw_id, gw_add: [] })) => (gw_id, from),
                other => panic!("expected GWINFO, got {other:?}"),
            },
            None => panic!("no GWINFO"),
        }
    }

    /// What the gateway on this port says to everyone next.
    #[track_caller]
    fn overhears(&self, port: u16) -> Vec<u8> {
        loop {
            let (datagram, from) = receive(&self.group, PATIENCE).expect("something in the group");
            if from.port() == port {
                return datagram;
            }
        }
    }
}

fn receive(socket: &UdpSocket, patience: std::time::Duration) -> Option<(Vec<u8>, SocketAddr)> {
    socket
        .set_read_timeout(Some(patience))
        .expect("a timeout above zero");
    let mut buf = [0; 64];
    let (len, from) = socket.recv_from(&mut buf).ok()?;
    Some((buf[..len].to_vec(), from))
}

/// A group of this test alone.
fn own_group() -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(225, 1, 1, 1), free_port())
}

fn encoded(packet: Packet<'_>) -> Vec<u8> {
    let mut datagram = vec![];
    packet.encode(&mut datagram);
    datagram
}

fn gw_info(gw_id: u8) -> Vec<u8> {
    encoded(Packet::GwInfo(GwInfo { gw_id, gw_add: &[] }))
}

fn advertise(gw_id: u8) -> Vec<u8> {
    encoded(Packet::Advertise(Advertise { gw_id, duration: 960 }))
}

#[test]
fn a_search_is_answered_to_the_searcher_and_to_the_group_if_so_configured() {
    let broker = Broker::mosquitto();
    let group = own_group();
    let setup =
        setup(&broker, 7, group).toml("gateway.search_reply = 'both'\ngateway.advertise_interval = '0s'");
    let port = setup.port();
    let gateway = setup.start();
    let searcher = Searcher::new(group);

    searcher.search();

    assert_eq!(searcher.found(), (7, (Ipv4Addr::LOCALHOST, port).into()));
    assert_eq!(searcher.overhears(port), gw_info(7));
    gateway.stop();
}

#[test]
fn searches_of_one_client_are_answered_once_in_an_interval() {
    let broker = Broker::mosquitto();
    let group = own_group();
    let gateway = setup(&broker, 7, group)
        .toml("security.search_reply_interval = '1h'")
        .start();
    let searcher = Searcher::new(group);

    for _ in 0..5 {
        searcher.search();
    }

    searcher.found();
    let heard = "snipe_packets_total{direction=\"rx\",type=\"0x01\"}";
    poll_until("five searches to arrive", PATIENCE, || {
        (gateway.metric(heard) == 5).then_some(())
    });
    assert_eq!(receive(&searcher.own, SILENCE), None);
    // Somebody else is answered.
    let other = Searcher::new(group);
    other.search();
    other.found();
    gateway.stop();
}

#[test]
fn a_gateway_advertises_when_its_broker_is_there_and_not_before() {
    let mut broker = Broker::stopped();
    let group = own_group();
    let searcher = Searcher::new(group);
    let setup = setup(&broker, 7, group);
    let port = setup.port();
    let gateway = setup.start();
    assert_eq!(receive(&searcher.group, SILENCE), None);

    broker.start();

    assert_eq!(searcher.overhears(port), advertise(7));
    gateway.stop();
}

/// Gateways that hear each other, both started.
fn neighbours(broker: &Broker, ids: [u8; 2]) -> (Gateway, Gateway, SocketAddrV4) {
    let group = own_group();
    let [first, second] = ids;
    let first = setup(broker, first, group).start();
    // What it says at its start is heard by the first; the broker must tell the two apart.
    let second = setup(broker, second, group)
        .toml("broker.client_id = 'another-gateway'")
        .start();
    poll_until("one gateway to hear the other", PATIENCE, || {
        (first.metric("snipe_gateways_heard_total") == 1).then_some(())
    });
    (first, second, group)
}

#[test]
fn gateways_on_one_network_each_answer_for_themselves() {
    let broker = Broker::mosquitto();
    let (mut first, second, group) = neighbours(&broker, [1, 2]);
    let searcher = Searcher::new(group);

    searcher.search();

    let mut found = [searcher.found().0, searcher.found().0];
    found.sort_unstable();
    assert_eq!(found, [1, 2]);
    assert_eq!(receive(&searcher.own, SILENCE), None);
    assert_eq!(first.metric("snipe_same_gateway_id_total"), 0);
    // Neither takes its own ADVERTISE, which comes back to it, for a neighbour's.
    assert_eq!(second.metric("snipe_gateways_heard_total"), 0);
    let lines = first.process().lines();
    assert!(!lines.iter().any(|line| line.text.contains("has our id")));
    first.stop();
    second.stop();
}

#[test]
fn a_second_gateway_with_the_same_id_is_told_of() {
    let broker = Broker::mosquitto();
    let (mut first, second, _) = neighbours(&broker, [9, 9]);

    let address = second.address().to_string();
    let (_, line) = first
        .process()
        .wait_for_line("the log to tell of it", 0, PATIENCE, |line| {
            line.contains("another gateway has our id")
        });
    assert!(line.text.contains(&address), "{}", line.text);
    assert_eq!(first.metric("snipe_same_gateway_id_total"), 1);
    first.stop();
    second.stop();
}

#[test]
fn a_stand_by_gateway_leaves_searches_to_the_other_until_it_is_missed() {
    let broker = Broker::mosquitto();
    let group = own_group();
    let first = setup(&broker, 1, group);
    let second = setup(&broker, 2, group).toml(
        "gateway.stand_by_for = 1\nbroker.client_id = 'another-gateway'\ngateway.advertise_interval = '2s'",
    );
    let (first_port, second_port) = (first.port(), second.port());
    let second = second.start();
    let first = first.toml("gateway.advertise_interval = '2s'").start();
    poll_until("the second hears the first", PATIENCE, || {
        (second.metric("snipe_gateways_heard_total") > 0).then_some(())
    });
    let searcher = Searcher::new(group);
    searcher.search();
    assert_eq!(searcher.found(), (1, (Ipv4Addr::LOCALHOST, first_port).into()));
    poll_until("the second leaves the search to the first", PATIENCE, || {
        (second.metric("snipe_stand_by_searches_total") > 0).then_some(())
    });

    first.kill();
    assert_eq!(
        Packet::decode(&searcher.overhears(second_port)),
        Ok(Packet::Advertise(Advertise {
            gw_id: 2,
            duration: 2
        }))
    );
    searcher.search();
    assert_eq!(searcher.found(), (2, (Ipv4Addr::LOCALHOST, second_port).into()));
    second.stop();
}
