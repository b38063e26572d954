//! A TCP connection in the middle, whose answers a test can hold back.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex},
    thread,
};

/// Stands between the gateway and a broker and passes everything on, except while it holds the broker's answers.
pub struct Relay {
    address: SocketAddr,
    gate: Arc<Gate>,
}

#[derive(Default)]
struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    held: bool,
    open: Vec<TcpStream>,
}

impl Relay {
    /// Listens on a free port and connects each caller to `broker_port`.
    ///
    /// # Panics
    /// If no port can be opened.
    pub fn start(broker_port: u16) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let gate = Arc::new(Gate::default());
        let shared = Arc::clone(&gate);
        thread::spawn(move || {
            for gateway in listener.incoming().flatten() {
                let Ok(broker) = TcpStream::connect(("127.0.0.1", broker_port)) else {
                    continue;
                };
                let (Ok(gateway_reads), Ok(broker_reads)) = (gateway.try_clone(), broker.try_clone()) else {
                    continue;
                };
                {
                    let mut state = shared.state.lock().expect("no holder panics");
                    state.open.extend(gateway.try_clone());
                    state.open.extend(broker.try_clone());
                }
                thread::spawn(move || pump(gateway_reads, broker, || ()));
                let gate = Arc::clone(&shared);
                thread::spawn(move || pump(broker_reads, gateway, || gate.pass()));
            }
        });
        Relay { address, gate }
    }

    /// The port the gateway connects to.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// From now on nothing the broker says reaches the gateway; what the gateway says reaches the broker.
    pub fn hold_answers(&self) {
        self.gate.state.lock().expect("no holder panics").held = true;
    }

    /// Passes on what was held back.
    pub fn release_answers(&self) {
        self.gate.state.lock().expect("no holder panics").held = false;
        self.gate.changed.notify_all();
    }

    /// Breaks every connection; new ones are accepted.
    pub fn cut(&self) {
        for stream in self.gate.state.lock().expect("no holder panics").open.drain(..) {
            // The other end may have closed it.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Gate {
    fn pass(&self) {
        let mut state = self.state.lock().expect("no holder panics");
        while state.held {
            state = self.changed.wait(state).expect("no holder panics");
        }
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, before_passing: impl Fn()) {
    let mut buf = [0; 4096];
    while let Ok(len @ 1..) = from.read(&mut buf) {
        before_passing();
        if to.write_all(&buf[..len]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
