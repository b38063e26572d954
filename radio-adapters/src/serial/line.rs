//! An open port: what waits to be written to it, and what comes from it.

use core::future::poll_fn;
use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;
use std::collections::VecDeque;
use std::io;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;
use tokio_serial::SerialStream;

use super::port;
use crate::settings::PortSettings;

/// Read at once; a line of 115,200 baud brings as much in a third of a second.
const READ: usize = 4096;

/// Octets that may wait: many times what a driver has in flight.
const MAX_WAITING: usize = 64 * 1024;

/// A port that takes nothing for so long is stuck; it has a buffer of its own, of which it frees parts at a time.
const STALL: Duration = Duration::from_secs(5);
const STALL_OCTETS: usize = 512;

/// The last octets may still be in a USB adapter when the line should have carried them.
const ADAPTER: Duration = Duration::from_millis(20);

/// An open port.
#[derive(Debug)]
pub(super) struct Line {
    port: SerialStream,
    baud: u32,
    steps: VecDeque<Step>,
    /// Octets of the first step that are written.
    written: usize,
    /// Octets of all steps.
    waiting: usize,
    /// When the port last took something, or had nothing to take.
    progress: Instant,
    /// When the line will have carried what is written.
    carried: Instant,
    buffer: Box<[u8]>,
}

/// To be done in order.
#[derive(Debug)]
enum Step {
    Write(Vec<u8>),
    Baud(u32),
    Break(Duration),
}

/// What happened on the line.
#[derive(Debug)]
pub(super) enum Happened {
    /// So many octets came: [`Line::read`].
    Read(usize),
    /// So many octets were taken.
    Wrote(usize),
    /// The port cannot be used any more.
    Gone(io::Error),
}

impl Line {
    pub(super) async fn open(settings: &PortSettings) -> Result<Line, port::PortError> {
        let port = port::open(settings).await?;
        let now = Instant::now();
        Ok(Line {
            port,
            baud: settings.baud.max(1),
            steps: VecDeque::new(),
            written: 0,
            waiting: 0,
            progress: now,
            carried: now,
            buffer: vec![0; READ].into(),
        })
    }

    pub(super) async fn close(self) {
        port::close(self.port).await;
    }

    /// What came last.
    pub(super) fn read(&self, len: usize) -> &[u8] {
        &self.buffer[..len]
    }

    pub(super) fn write(&mut self, octets: Vec<u8>) {
        if !octets.is_empty() {
            if self.steps.is_empty() {
                self.progress = Instant::now();
            }
            self.waiting += octets.len();
            self.steps.push_back(Step::Write(octets));
        }
    }

    /// Changes the speed when what was written before has left.
    pub(super) fn set_baud(&mut self, baud: u32) {
        self.steps.push_back(Step::Baud(baud.max(1)));
    }

    /// Holds the line in a break when what was written before has left.
    pub(super) fn send_break(&mut self, length: Duration) {
        self.steps.push_back(Step::Break(length));
    }

    /// Nothing waits, and the line has carried everything.
    pub(super) fn is_idle(&self) -> bool {
        self.steps.is_empty() && Instant::now() >= self.carried && port::unsent(&self.port) == 0
    }

    /// When [`Line::settle`] has something to do or to say.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.steps.front() {
            None => (Instant::now() < self.carried).then_some(self.carried),
            Some(Step::Write(_)) => Some(self.stalled()),
            Some(Step::Baud(_) | Step::Break(_)) => Some(self.carried + ADAPTER),
        }
    }

    /// Changes the speed and sends breaks, if it is their turn.
    ///
    /// # Errors
    /// The port takes nothing, or cannot be set.
    pub(super) async fn settle(mut self) -> Result<Line, (Line, io::Error)> {
        let now = Instant::now();
        loop {
            let result = match self.steps.front() {
                Some(Step::Write(_)) if now >= self.stalled() || self.waiting > MAX_WAITING => Err(
                    io::Error::new(io::ErrorKind::TimedOut, "the port takes no octets"),
                ),
                Some(Step::Baud(baud)) if now >= self.carried + ADAPTER => {
                    let baud = *baud;
                    let result;
                    (self.port, result) = port::set_baud(self.port, baud).await;
                    self.baud = baud;
                    result
                }
                Some(Step::Break(length)) if now >= self.carried + ADAPTER => {
                    let length = *length;
                    self.port = port::send_break(self.port, length).await;
                    Ok(())
                }
                _ => return Ok(self),
            };
            if let Err(error) = result {
                return Err((self, error));
            }
            self.steps.pop_front();
            self.progress = Instant::now();
        }
    }

    /// Waits until octets came or went. Nothing is lost if the wait is given up.
    pub(super) async fn next(&mut self) -> Happened {
        poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Happened> {
        let mut buffer = ReadBuf::new(&mut self.buffer);
        match Pin::new(&mut self.port).poll_read(cx, &mut buffer) {
            // A terminal without its other end is always readable and never has anything.
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => {
                let error = io::Error::new(io::ErrorKind::UnexpectedEof, "hung up");
                return Poll::Ready(Happened::Gone(error));
            }
            Poll::Ready(Ok(())) => return Poll::Ready(Happened::Read(buffer.filled().len())),
            Poll::Ready(Err(error)) => return Poll::Ready(Happened::Gone(error)),
            Poll::Pending => {}
        }
        let Some(Step::Write(octets)) = self.steps.front() else {
            return Poll::Pending;
        };
        match Pin::new(&mut self.port).poll_write(cx, &octets[self.written..]) {
            Poll::Ready(Ok(taken)) => {
                self.written += taken;
                self.waiting -= taken;
                if self.written == octets.len() {
                    self.written = 0;
                    self.steps.pop_front();
                }
                self.progress = Instant::now();
                self.carried = self.carried.max(self.progress) + self.octets(taken);
                Poll::Ready(Happened::Wrote(taken))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Happened::Gone(error)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// When the port is stuck, if it takes nothing until then.
    fn stalled(&self) -> Instant {
        self.progress + STALL + self.octets(STALL_OCTETS)
    }

    /// How long the line takes for so many octets.
    fn octets(&self, count: usize) -> Duration {
        Duration::from_micros(count as u64 * 10_000_000 / u64::from(self.baud))
    }
}
