//! A UDP relay that takes down what passes: for clients that are programs of their own.

use std::{
    collections::HashMap,
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    thread,
};

use crate::capture::{Capture, Sent};

/// Stands between clients and a gateway; every client keeps an address of its own towards the gateway.
pub struct Tap {
    address: SocketAddr,
}

impl Tap {
    /// Passes on what arrives at a free port, and notes it in `capture`.
    ///
    /// # Panics
    /// If no port can be opened.
    pub fn start(gateway: SocketAddr, capture: &Capture) -> Tap {
        let front = Arc::new(UdpSocket::bind("127.0.0.1:0").expect("a free port"));
        let address = front.local_addr().expect("bound");
        let capture = capture.clone();
        thread::spawn(move || {
            let mut clients: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
            let mut buf = [0; 65_536];
            while let Ok((len, client)) = front.recv_from(&mut buf) {
                let back = clients.entry(client).or_insert_with(|| {
                    let back = Arc::new(UdpSocket::bind("127.0.0.1:0").expect("a free port"));
                    back.connect(gateway).expect("an address of loopback");
                    let (front, back, capture) = (Arc::clone(&front), Arc::clone(&back), capture.clone());
                    let returned = Arc::clone(&back);
                    thread::spawn(move || pass_back(&back, &front, client, gateway, &capture));
                    returned
                });
                capture.note(Sent::ToGateway, client, gateway, &buf[..len]);
                // A gateway that has ended refuses: the client notices by the silence.
                let _ = back.send(&buf[..len]);
            }
        });
        Tap { address }
    }

    /// The port that clients use in place of the gateway's.
    pub fn port(&self) -> u16 {
        self.address.port()
    }
}

fn pass_back(
    back: &UdpSocket,
    front: &UdpSocket,
    client: SocketAddr,
    gateway: SocketAddr,
    capture: &Capture,
) {
    let mut buf = [0; 65_536];
    while let Ok(len) = back.recv(&mut buf) {
        capture.note(Sent::ByGateway, gateway, client, &buf[..len]);
        if front.send_to(&buf[..len], client).is_err() {
            return;
        }
    }
}
