//! The two lanes of a connection: where in them a publish stands, and whose messages keep to that of spooled ones.

use super::backlog::Place;
use super::connection::Connection;
use super::request::seq_of;
use super::{Author, RequestKind, Upstream};
use crate::io::ConnId;

impl Upstream {
    /// Puts a publish in its place in its lane, which is nearly always the last.
    pub(super) fn line_up(&mut self, key: usize) {
        let RequestKind::Publish {
            conn,
            seq,
            author,
            backlog,
            ..
        } = self.requests[key].kind
        else {
            return;
        };
        let Upstream {
            connections,
            requests,
            ..
        } = self;
        let Connection {
            waiting,
            backlog: spooled,
            ..
        } = &mut connections[conn.0 as usize];
        if backlog {
            return spooled.insert((seq, key), author);
        }
        let comes_before = |other: &usize| seq_of(requests, *other) < seq;
        match waiting.back().is_none_or(comes_before) {
            true => waiting.push_back(key),
            false => waiting.insert(waiting.partition_point(comes_before), key),
        }
    }

    /// Takes a publish out of its lane. It is nearly always the first.
    pub(super) fn take_out(&mut self, conn: ConnId, backlog: bool, place: Place, author: Author) {
        let connection = &mut self.connections[conn.0 as usize];
        match backlog {
            true => connection.backlog.remove(place, author),
            false => connection.take_out(place.1),
        }
    }

    pub(super) fn enter_backlog(&mut self, conn: ConnId, author: Author) {
        if author != Author::NONE {
            *self.backlog_of.entry((conn, author)).or_default() += 1;
        }
    }

    pub(super) fn leave_backlog(&mut self, conn: ConnId, author: Author) {
        if let Some(count) = self.backlog_of.get_mut(&(conn, author)) {
            *count -= 1;
            if *count == 0 {
                self.backlog_of.remove(&(conn, author));
            }
        }
    }

    pub(super) fn seq_of(&self, key: usize) -> u64 {
        seq_of(&self.requests, key)
    }
}
