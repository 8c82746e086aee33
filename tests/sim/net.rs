//! Simulated sockets.
//!
//! Owns the lines between clients and the hub: what a client has sent and the hub has not read yet, and what the hub
//! has sent and the client's kernel has taken. It knows bytes only. Input reaches the hub in pieces of any size, a
//! kernel's buffer may take nothing or little, and either side may end the line at any moment.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr};

use slab::Slab;
use timerd::clock::Now;
use timerd::hub::{Hub, Sockets};
use timerd::limits::READ_BYTES;

use crate::rng::Rng;

/// How one client sends.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Bytes of one piece at most.
    pub piece: usize,
    /// Pieces that arrive in one turn at most.
    pub pieces: u64,
}

impl Pace {
    /// Everything at once.
    pub const WHOLE: Pace = Pace { piece: usize::MAX, pieces: 1 };
}

/// One line.
pub struct Line {
    /// The hub's name for it, between accept and close.
    index: Option<u32>,
    /// Sent by the client and not read yet.
    sent: Vec<u8>,
    read: usize,
    /// Bytes that have reached the hub, ever.
    pub delivered: u64,
    /// Taken by the client's kernel and not looked at yet.
    pub inbox: Vec<u8>,
    /// What the kernel's buffer holds at most, and how much of that is free.
    capacity: usize,
    room: usize,
    /// The hub was told that there is no room.
    blocked: bool,
    /// There never was a shortage of room.
    pub was_short: bool,
    pace: Pace,
    eof: bool,
    eof_given: bool,
    reset: bool,
    /// The hub has said that it will send no more.
    pub finished: bool,
    /// The hub has closed it.
    pub closed: bool,
    /// There was not even room to say that there is no room.
    pub was_cut: bool,
    /// The client does not even answer the end of the line.
    pub ghost: bool,
}

impl Line {
    /// The client's end is broken.
    pub fn is_reset(&self) -> bool {
        self.reset
    }

    /// The hub has heard that the client will send no more.
    pub fn has_ended(&self) -> bool {
        self.eof_given
    }
}

/// All lines.
#[derive(Default)]
pub struct Net {
    lines: Slab<Line>,
    by_index: HashMap<u32, usize>,
    arrivals: Vec<usize>,
    writable: Vec<u32>,
    /// Lines opened since the daemon started.
    pub opened: usize,
    /// Bytes that were read by the hub in all.
    pub bytes_in: u64,
    /// Bytes that were sent by the hub in all.
    pub bytes_out: u64,
}

impl Net {
    /// A client comes. Its kernel's buffer holds `capacity` bytes.
    pub fn connect(&mut self, pace: Pace, capacity: usize) -> usize {
        let line = Line {
            index: None,
            sent: Vec::new(),
            read: 0,
            delivered: 0,
            inbox: Vec::new(),
            capacity,
            room: capacity,
            blocked: false,
            was_short: false,
            pace,
            eof: false,
            eof_given: false,
            reset: false,
            finished: false,
            closed: false,
            was_cut: false,
            ghost: false,
        };
        let line = self.lines.insert(line);
        self.opened += 1;
        self.arrivals.push(line);
        line
    }

    /// The line called `line`.
    pub fn line(&mut self, line: usize) -> &mut Line {
        &mut self.lines[line]
    }

    /// The client sends.
    pub fn send_from(&mut self, line: usize, bytes: &[u8]) {
        let line = &mut self.lines[line];
        if !line.eof {
            line.sent.extend_from_slice(bytes);
        }
    }

    /// The client will send no more.
    pub fn end_from(&mut self, line: usize) {
        self.lines[line].eof = true;
    }

    /// The client's end breaks.
    pub fn reset_from(&mut self, line: usize) {
        self.lines[line].reset = true;
    }

    /// The line is a good one from now on: the client's kernel takes whatever comes, what it sends comes at once.
    pub fn widen(&mut self, line: usize) {
        self.lines[line].capacity = usize::MAX;
        self.lines[line].pace = Pace::WHOLE;
    }

    /// As that, but what the client sends comes as fast as a daemon reads.
    pub fn relax(&mut self, line: usize) {
        self.lines[line].capacity = usize::MAX;
        self.lines[line].pace = Pace { piece: READ_BYTES, pieces: 40 };
    }

    /// The client reads: its kernel's buffer has room again.
    pub fn drain(&mut self, line: usize) {
        let line = &mut self.lines[line];
        line.room = line.capacity;
        if std::mem::take(&mut line.blocked) {
            self.writable.extend(line.index);
        }
    }

    /// The client forgets a line that is over.
    pub fn forget(&mut self, line: usize) {
        self.arrivals.retain(|other| *other != line);
        let gone = self.lines.remove(line);
        assert!(gone.index.is_none(), "a line is forgotten that the hub still knows");
    }

    /// The daemon is gone: every line breaks.
    pub fn cut(&mut self) {
        self.opened = 0;
        self.by_index.clear();
        self.arrivals.clear();
        self.writable.clear();
        for (_, line) in &mut self.lines {
            line.index = None;
            line.closed = true;
        }
    }

    /// Tells the hub where there is room again.
    pub fn tell_writable(&mut self, hub: &mut Hub) {
        self.writable.drain(..).for_each(|index| hub.writable(index));
    }

    /// Gives the hub those who have come. Returns how many connections there were when it had no room for one.
    pub fn accept(&mut self, now: Now, hub: &mut Hub) -> Option<usize> {
        let mut full_at = None;
        for name in std::mem::take(&mut self.arrivals) {
            match hub.accept(now, IpAddr::V4(Ipv4Addr::LOCALHOST)) {
                Some(index) => {
                    let before = self.by_index.insert(index, name);
                    assert!(before.is_none(), "the hub gave one index to two connections");
                    self.lines[name].index = Some(index);
                }
                None => {
                    (self.lines[name].closed, self.lines[name].was_cut) = (true, true);
                    full_at.get_or_insert(hub.connections());
                }
            }
        }
        full_at
    }

    /// Gives the hub what has come, in pieces. Returns whether something is left that it would take.
    pub fn read(&mut self, now: Now, hub: &mut Hub, rng: &mut Rng) -> bool {
        let mut left = false;
        for (_, line) in &mut self.lines {
            let Some(index) = line.index else { continue };
            if line.reset {
                hub.reset(index);
                continue;
            }
            let mut pieces = if line.pace.pieces == 1 { 1 } else { rng.range(1, line.pace.pieces) };
            while pieces > 0 && line.read < line.sent.len() && hub.has_time() && hub.wants_input(index) {
                let rest = line.sent.len() - line.read;
                let piece = match line.pace.piece {
                    usize::MAX => rest,
                    piece => rng.index(piece).min(rest - 1) + 1,
                };
                hub.receive(now, index, &line.sent[line.read..line.read + piece]);
                line.read += piece;
                line.delivered += piece as u64;
                self.bytes_in += piece as u64;
                pieces -= 1;
            }
            if line.read == line.sent.len() {
                line.sent.clear();
                line.read = 0;
                if line.eof && !line.eof_given && hub.wants_input(index) {
                    line.eof_given = true;
                    hub.receive_eof(now, index);
                }
            }
            left |= line.read < line.sent.len() && hub.wants_input(index);
        }
        left
    }

    /// Lines that the hub knows.
    pub fn open(&self) -> usize {
        self.by_index.len()
    }

    fn take(&mut self, index: u32, frames: &[IoSlice<'_>]) -> io::Result<usize> {
        let name = *self.by_index.get(&index).expect("the hub sends to a connection that it has closed");
        let line = &mut self.lines[name];
        assert!(!line.finished, "the hub sends after it has said that it would not");
        if line.reset {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let mut taken = 0;
        for frame in frames {
            let bytes = frame.len().min(line.room);
            line.inbox.extend_from_slice(&frame[..bytes]);
            taken += bytes;
            if line.capacity != usize::MAX {
                line.room -= bytes;
            }
            if bytes < frame.len() {
                line.blocked = true;
                line.was_short = true;
                break;
            }
        }
        self.bytes_out += taken as u64;
        if taken == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(taken) }
    }
}

impl Sockets for Net {
    fn send(&mut self, index: u32, bytes: &[u8]) -> io::Result<usize> {
        self.take(index, &[IoSlice::new(bytes)])
    }

    fn send_vectored(&mut self, index: u32, frames: &[IoSlice<'_>]) -> io::Result<usize> {
        self.take(index, frames)
    }

    fn finish(&mut self, index: u32) {
        let line = &mut self.lines[self.by_index[&index]];
        line.finished = true;
        // A client that is told the end closes its side, unless it has vanished.
        line.eof |= !line.ghost;
    }

    fn close(&mut self, index: u32) {
        let name = self.by_index.remove(&index).expect("the hub closes a connection twice");
        self.lines[name].index = None;
        self.lines[name].closed = true;
    }
}
