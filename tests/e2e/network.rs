//! Addresses: which ones the gateway listens on and which one it answers from.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};

use sn_codec::{Advertise, GwInfo, Packet, SearchGw, TopicRef};
use socket2::{Domain, Socket, Type};
use system_tests::{Broker, BrokerKind, Client, Message, PATIENCE, Sent, Setup, free_port, with_each_broker};

with_each_broker![
    answers_leave_from_the_address_that_was_asked,
    ipv6_clients_reach_the_broker,
    several_radios_listen_at_once,
    a_client_finds_the_gateway_by_multicast_and_hears_it_advertise,
    a_search_by_unicast_is_answered_too,
    a_client_that_moved_is_taken_over_with_its_new_address,
];

fn answers_leave_from_the_address_that_was_asked(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let setup = Setup::beside(&broker);
    let port = setup.port();
    let gateway = setup
        .toml(&format!(
            "[[radio]]\nname = 'udp0'\nkind = 'udp'\nbind = ['0.0.0.0:{port}', '[::]:{port}']\nmulticast = []"
        ))
        .start();

    for host in ["127.0.0.1", "127.0.0.9", "127.200.3.4", "::1"] {
        // A client on an unconnected socket checks the sender of every answer.
        let address = SocketAddr::new(host.parse().expect("an address"), port);
        let client = Client::new(&format!("sensor-at-{host}"), address, gateway.capture());
        client.connect();
        client.ping();
        let topic = TopicRef::Normal(client.register("demo/here"));
        client.publish_acknowledged(topic, host.as_bytes());
    }
    gateway.stop();
}

fn ipv6_clients_reach_the_broker(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker).start();
    let mut observer = broker.subscribe("demo/v6");
    let client = Client::new("sensor-6", gateway.address_v6(), gateway.capture());
    client.connect();

    let topic = TopicRef::Normal(client.register("demo/v6"));
    client.publish_acknowledged(topic, b"six");

    observer.expect(Message::new("demo/v6", "six", 1));
    gateway.stop();
}

fn several_radios_listen_at_once(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let (first, second) = (free_port(), free_port());
    let gateway = Setup::beside(&broker)
        .toml(&format!(
            r#"
            [[radio]]
            name = "udp0"
            kind = "udp"
            bind = ["127.0.0.1:{first}"]
            multicast = []
            [[radio]]
            name = "udp1"
            kind = "udp"
            bind = ["127.0.0.1:{second}"]
            multicast = []
            "#
        ))
        .start();
    let mut observer = broker.subscribe("demo/#");

    for port in [first, second] {
        let client = Client::new(
            &format!("at-{port}"),
            (Ipv4Addr::LOCALHOST, port).into(),
            gateway.capture(),
        );
        client.connect();
        let name = format!("demo/{port}");
        let topic = TopicRef::Normal(client.register(&name));
        client.publish_acknowledged(topic, b"here");
        observer.expect(Message::new(&name, "here", 1));
    }
    gateway.stop();
}

fn a_client_finds_the_gateway_by_multicast_and_hears_it_advertise(kind: BrokerKind) {
    let group = Ipv4Addr::new(225, 1, 1, 1);
    let group_port = free_port();
    let listener = listen_to(SocketAddrV4::new(group, group_port));
    let broker = Broker::start_new(kind);
    let setup = Setup::beside(&broker);
    let port = setup.port();
    let gateway = setup
        .toml(&format!(
            r#"
            gateway.id = 7
            gateway.advertise_interval = "16m"
            [[radio]]
            name = "udp0"
            kind = "udp"
            bind = ["127.0.0.1:{port}"]
            multicast = ["{group}:{group_port}"]
            interface = "lo"
            "#
        ))
        .start();

    let mut buf = [0; 64];
    let (len, from) = listener.recv_from(&mut buf).expect("an ADVERTISE at the start");
    assert_eq!(
        Packet::decode(&buf[..len]),
        Ok(Packet::Advertise(Advertise {
            gw_id: 7,
            duration: 960
        }))
    );
    assert_eq!(from.ip(), Ipv4Addr::LOCALHOST);
    gateway
        .capture()
        .note(Sent::ByGateway, from, (group, group_port).into(), &buf[..len]);

    let searcher = Socket::new(Domain::IPV4, Type::DGRAM, None).expect("a socket");
    searcher
        .set_multicast_if_v4(&Ipv4Addr::LOCALHOST)
        .expect("loopback can be named");
    searcher
        .bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())
        .expect("a free port");
    let searcher = UdpSocket::from(searcher);
    searcher
        .set_read_timeout(Some(PATIENCE))
        .expect("a timeout above zero");
    let mut search = vec![];
    Packet::SearchGw(SearchGw { radius: 0 }).encode(&mut search);
    searcher
        .send_to(&search, (group, group_port))
        .expect("loopback carries multicast");

    // Unicast to who asked (reading A79), from the address it can then connect to.
    let (len, from) = searcher.recv_from(&mut buf).expect("a GWINFO");
    assert_eq!(
        Packet::decode(&buf[..len]),
        Ok(Packet::GwInfo(GwInfo {
            gw_id: 7,
            gw_add: &[]
        }))
    );
    assert_eq!(from, SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    gateway.capture().note(
        Sent::ByGateway,
        from,
        searcher.local_addr().expect("bound"),
        &buf[..len],
    );
    gateway.connected_client("found-it").ping();
    gateway.stop();
}

fn a_search_by_unicast_is_answered_too(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker).toml("gateway.id = 42").start();
    let client = gateway.client("searcher");

    client.send(Packet::SearchGw(SearchGw { radius: 1 }));

    client.expect(Packet::GwInfo(GwInfo {
        gw_id: 42,
        gw_add: &[],
    }));
    gateway.stop();
}

fn a_client_that_moved_is_taken_over_with_its_new_address(kind: BrokerKind) {
    let broker = Broker::start_new(kind);
    let gateway = Setup::beside(&broker).start();
    let before = gateway.connected_client("mobile");

    // Same client id from another port (reading A11): DHCP, NAT or a reboot.
    let after = gateway.connected_client("mobile");
    after.ping();
    before.send(Packet::Pingreq(sn_codec::Pingreq { client_id: None }));
    before.expect(Packet::Disconnect(sn_codec::Disconnect { duration: None }));
    after.ping();
    gateway.stop();
}

/// Listens to a multicast group on the loopback interface, next to whoever else does.
fn listen_to(group: SocketAddrV4) -> UdpSocket {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).expect("a socket");
    socket.set_reuse_address(true).expect("a fresh socket");
    socket
        .bind(&SocketAddr::V4(group).into())
        .expect("a group address can be bound");
    socket
        .join_multicast_v4(group.ip(), &Ipv4Addr::LOCALHOST)
        .expect("loopback can be joined");
    socket
        .set_read_timeout(Some(PATIENCE))
        .expect("a timeout above zero");
    socket.into()
}
