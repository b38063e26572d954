//! A forwarder: between nodes, which know nothing of it, and a gateway (§5.5).

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use sn_codec::Encapsulation;

use crate::capture::{Capture, Sent};

/// Puts each node's messages into frames with the node's port as its wireless node id, and takes the answers out.
///
/// Nodes are [`Client`](crate::Client)s that have the forwarder's address for their gateway's.
pub struct Forwarder {
    /// What stands for the radio.
    radio: UdpSocket,
    gateway: SocketAddr,
    ip: IpAddr,
    capture: Capture,
    running: Option<Running>,
}

/// The half towards the gateway, from one start to the next.
struct Running {
    uplink: UdpSocket,
    stop: Arc<AtomicBool>,
    threads: [JoinHandle<()>; 2],
}

impl Forwarder {
    /// A running forwarder that sends to `gateway` from this address of the loopback network.
    ///
    /// # Panics
    /// If it cannot be bound to.
    pub fn start(ip: [u8; 4], gateway: SocketAddr, capture: &Capture) -> Forwarder {
        let mut forwarder = Forwarder {
            radio: UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port"),
            gateway,
            ip: ip.into(),
            capture: capture.clone(),
            running: None,
        };
        forwarder.run();
        forwarder
    }

    /// Where nodes find it.
    pub fn address(&self) -> SocketAddr {
        self.radio.local_addr().expect("bound")
    }

    /// Where the gateway finds it.
    ///
    /// # Panics
    /// Never: it runs.
    pub fn uplink_address(&self) -> SocketAddr {
        let running = self.running.as_ref().expect("it runs");
        running.uplink.local_addr().expect("bound")
    }

    /// Starts again: its nodes find it where it was, the gateway under another port.
    pub fn restart(&mut self) {
        self.end();
        self.run();
    }

    fn run(&mut self) {
        let uplink = UdpSocket::bind((self.ip, 0)).expect("a free port");
        let stop = Arc::new(AtomicBool::new(false));
        let (clone, share) = (
            |socket: &UdpSocket| socket.try_clone().expect("a descriptor"),
            || Arc::clone(&stop),
        );
        let up = thread::spawn({
            let (radio, uplink, stop, gateway) = (clone(&self.radio), clone(&uplink), share(), self.gateway);
            move || forward_up(&radio, &uplink, gateway, &stop)
        });
        let down = thread::spawn({
            let (radio, uplink, stop, capture) =
                (clone(&self.radio), clone(&uplink), share(), self.capture.clone());
            move || forward_down(&uplink, &radio, &capture, &stop)
        });
        self.running = Some(Running {
            uplink,
            stop,
            threads: [up, down],
        });
    }

    /// Ends both threads; each waits for a datagram and gets an empty one.
    fn end(&mut self) {
        let Some(Running {
            uplink,
            stop,
            threads,
        }) = self.running.take()
        else {
            return;
        };
        stop.store(true, Ordering::Relaxed);
        let wake = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        for socket in [&self.radio, &uplink] {
            wake.send_to(&[], socket.local_addr().expect("bound"))
                .expect("loopback takes it");
        }
        for thread in threads {
            thread.join().expect("it does not panic");
        }
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.end();
    }
}

fn forward_up(radio: &UdpSocket, uplink: &UdpSocket, gateway: SocketAddr, stop: &AtomicBool) {
    let mut buf = [0; 2048];
    while let Ok((len, node)) = radio.recv_from(&mut buf) {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let mut frame = Vec::new();
        Encapsulation {
            radius: 0,
            wireless_node_id: &node.port().to_be_bytes(),
        }
        .encode(&mut frame);
        frame.extend_from_slice(&buf[..len]);
        // A gateway that is gone takes nothing.
        let _ = uplink.send_to(&frame, gateway);
    }
}

fn forward_down(uplink: &UdpSocket, radio: &UdpSocket, capture: &Capture, stop: &AtomicBool) {
    let mut buf = [0; 2048];
    let own = uplink.local_addr().expect("bound");
    while let Ok((len, from)) = uplink.recv_from(&mut buf) {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        capture.note(Sent::ByGateway, from, own, &buf[..len]);
        let Ok((Some(encapsulation), message)) = Encapsulation::split(&buf[..len]) else {
            continue;
        };
        let Ok(port) = <[u8; 2]>::try_from(encapsulation.wireless_node_id) else {
            continue;
        };
        let node = (Ipv4Addr::LOCALHOST, u16::from_be_bytes(port));
        // A node that is off hears nothing.
        let _ = radio.send_to(message, node);
    }
}
