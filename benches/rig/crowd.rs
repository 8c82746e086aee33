//! The crowd: as many WebSocket clients as one process may have descriptors, on one core.
//!
//! Owns the clients' sockets and what is counted of what they hear. A raw epoll loop that polls without sleeping
//! while something is measured: a sleeping client would have to be woken by the server's send(2), and that would be
//! counted as the server's. Frames are cut by their lengths only; of a tick the remaining seconds are read, which
//! name its round.
//!
//! Invariant: what was expected is computed from the rounds seen and the seats taken, never from what arrived.

#![allow(unreachable_pub, reason = "a module of a bench, which has no outside")]

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, connect, ipproto, recv, send, socket_with,
};

use crate::rig::{Outcome, cpu_ns, raise_descriptor_limit};

const ORDERS: u64 = u64::MAX;
/// Upgrades under way at a time: a storm, within the backlog of the listener.
const STORM: usize = 1_000;
/// Clients of one source address; each address has ports enough for many times that, and few are quick to find.
const SEATS_PER_ADDRESS: usize = 5_000;
/// How long anything may take before the bench gives up.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a tick may be late before it counts as lost.
const LATE_MAX: Duration = Duration::from_secs(2);
/// `{"type":"ping"}` in a masked frame, the mask being zeros.
const PING: &[u8] = b"\x81\x8f\0\0\0\0{\"type\":\"ping\"}";
/// How the ticks of a timer and of a session begin, and no other message that a crowd is sent while it counts.
const TICKS: [&[u8]; 2] = [br#"{"type":"timer_tick","remaining_seconds":"#, br#"{"type":"timer","time_remaining":"#];

/// The upgrade request to `path`. Everybody has the same key: the answer is not what is measured.
pub fn upgrade_request(path: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    .into_bytes()
}

/// One client.
struct Seat {
    socket: OwnedFd,
    stage: Stage,
    /// The beginning of a frame whose end is still to come.
    rest: Vec<u8>,
    /// The seconds of the tick it heard last.
    left: Option<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Not connected, or the request is not sent yet.
    New,
    /// Waits for 101 and greeting.
    Asked,
    /// Hears ticks; has not said anything.
    Open,
    /// Has said something and waits for the answer.
    Spoke,
    /// Has said something and was answered.
    Answered,
}

/// One round of ticks: those with the same seconds left.
struct Round {
    left: u32,
    first: Instant,
    last: Instant,
    frames: usize,
}

/// All clients of one server.
struct Crowd {
    server: SocketAddrV4,
    server_pid: u32,
    group: usize,
    paths: Vec<String>,
    epoll: OwnedFd,
    events: Vec<Event>,
    buffer: Vec<u8>,
    seats: Vec<Seat>,
    open: usize,
    answered: usize,
    pings: usize,
    ticks: usize,
    /// Seconds that somebody was not told, between two that he was.
    missed: usize,
    rounds: Vec<Round>,
}

/// Obeys until its orders end. Orders are lines, each answered by one:
/// `join N` (so many more clients; seconds, the server's CPU ns), `speak`, `count SECONDS MS` (for so long, with so
/// many milliseconds a round; see [`Crowd::count`]), `tally SECONDS` (see [`Crowd::tally`]).
pub fn run(server: &str, server_pid: &str, group: &str, paths: &[String]) -> Outcome<()> {
    raise_descriptor_limit()?;
    let SocketAddr::V4(server) = server.parse()? else { return Err("IPv4 only".into()) };
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    let stdin = io::stdin();
    epoll::add(&epoll, &stdin, EventData::new_u64(ORDERS), EventFlags::IN)?;
    let mut crowd = Crowd {
        server,
        server_pid: server_pid.parse()?,
        group: group.parse()?,
        paths: paths.to_vec(),
        epoll,
        events: Vec::with_capacity(1024),
        buffer: vec![0; 64 << 10],
        seats: Vec::new(),
        open: 0,
        answered: 0,
        pings: 0,
        ticks: 0,
        missed: 0,
        rounds: Vec::new(),
    };
    loop {
        if !crowd.turn(None)? {
            continue;
        }
        let mut line = String::new();
        if stdin.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let answer = match line.split_whitespace().collect::<Vec<_>>().as_slice() {
            ["join", seats] => crowd.join(seats.parse()?)?,
            ["speak"] => crowd.speak()?,
            ["count", seconds, ms] => {
                let (span, round) = (Duration::from_secs_f64(seconds.parse()?), Duration::from_millis(ms.parse()?));
                crowd.count(span, round)?
            }
            ["tally", seconds] => crowd.tally(Duration::from_secs_f64(seconds.parse()?))?,
            _ => return Err(format!("no such order: {line}").into()),
        };
        let mut out = io::stdout().lock();
        writeln!(out, "{answer}")?;
        out.flush()?;
    }
}

impl Crowd {
    /// One look at the sockets, waiting for `timeout` (`None`: until something happens). Returns whether there are
    /// orders.
    fn turn(&mut self, timeout: Option<&Timespec>) -> Outcome<bool> {
        let mut events = std::mem::take(&mut self.events);
        match epoll::wait(&self.epoll, spare_capacity(&mut events), timeout) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let now = Instant::now();
        let mut orders = false;
        for event in events.drain(..) {
            match event.data.u64() {
                ORDERS => orders = true,
                seat => self.serve(usize::try_from(seat)?, event.flags, now)?,
            }
        }
        self.events = events;
        Ok(orders)
    }

    /// A look that does not wait.
    fn look(&mut self) -> Outcome<()> {
        self.turn(Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).map(drop)
    }

    fn serve(&mut self, index: usize, flags: EventFlags, now: Instant) -> Outcome<()> {
        if self.seats[index].stage == Stage::New {
            // A socket that is not connected yet says that it is hung up.
            return if flags.contains(EventFlags::HUP) { Ok(()) } else { self.request(index) };
        }
        loop {
            let (_, bytes) = match recv(&self.seats[index].socket, &mut self.buffer[..], RecvFlags::empty()) {
                Ok(read) => read,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(format!("client {index} has lost its line: {error}").into()),
            };
            if bytes == 0 {
                return Err(format!("client {index} was sent away").into());
            }
            if self.seats[index].rest.is_empty() {
                let buffer = std::mem::take(&mut self.buffer);
                let used = self.hear(index, &buffer[..bytes], now)?;
                self.seats[index].rest.extend_from_slice(&buffer[used..bytes]);
                self.buffer = buffer;
            } else {
                let mut all = std::mem::take(&mut self.seats[index].rest);
                all.extend_from_slice(&self.buffer[..bytes]);
                let used = self.hear(index, &all, now)?;
                all.drain(..used);
                self.seats[index].rest = all;
            }
            if bytes < self.buffer.len() {
                return Ok(());
            }
        }
    }

    /// Takes whole frames. Returns how many bytes they were.
    fn hear(&mut self, index: usize, bytes: &[u8], now: Instant) -> Outcome<usize> {
        let mut at = 0;
        if self.seats[index].stage == Stage::Asked {
            // 101 and greeting: an upgrade is done when both are here.
            let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(0) };
            if !bytes.starts_with(b"HTTP/1.1 101 ") {
                return Err(format!("no upgrade: {}", String::from_utf8_lossy(bytes)).into());
            }
            if cut(&bytes[end + 4..]).is_none() {
                return Ok(0);
            }
            self.seats[index].stage = Stage::Open;
            self.open += 1;
            at = end + 4;
        }
        while let Some((opcode, payload, length)) = cut(&bytes[at..]) {
            match opcode {
                1 if payload.starts_with(TICKS[0]) => self.tick(index, seconds_in(&payload[TICKS[0].len()..]), now),
                1 if payload.starts_with(TICKS[1]) => self.tick(index, seconds_in(&payload[TICKS[1].len()..]), now),
                1 if payload.starts_with(br#"{"type":"pong""#) => {
                    self.seats[index].stage = Stage::Answered;
                    self.answered += 1;
                }
                1 => {}
                9 => {
                    self.pings += 1;
                    let mut pong = vec![0x8a, 0x80 | u8::try_from(payload.len())?, 0, 0, 0, 0];
                    pong.extend_from_slice(payload);
                    send(&self.seats[index].socket, &pong, SendFlags::NOSIGNAL)?;
                }
                _ => return Err(format!("client {index} was sent a frame of type {opcode}").into()),
            }
            at += length;
        }
        Ok(at)
    }

    fn tick(&mut self, index: usize, left: u32, now: Instant) {
        self.ticks += 1;
        if let Some(before) = self.seats[index].left.replace(left) {
            self.missed += (before as usize).saturating_sub(left as usize + 1);
        }
        // Nearly always that of the newest round.
        match self.rounds.iter_mut().rev().find(|round| round.left == left) {
            Some(round) => {
                round.last = now;
                round.frames += 1;
            }
            None => self.rounds.push(Round { left, first: now, last: now, frames: 1 }),
        }
    }

    /// Opens `more` clients as fast as the server takes them.
    fn join(&mut self, more: usize) -> Outcome<String> {
        let from = self.seats.len();
        for index in from..from + more {
            // All that can be done beforehand.
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, Some(ipproto::TCP))?;
            let source = Ipv4Addr::new(127, 0, 0, u8::try_from(2 + index / SEATS_PER_ADDRESS)?);
            bind(&socket, &SocketAddrV4::new(source, 0))?;
            let data = EventData::new_u64(index as u64);
            epoll::add(&self.epoll, &socket, data, EventFlags::IN | EventFlags::OUT | EventFlags::ET)?;
            self.seats.push(Seat { socket, stage: Stage::New, rest: Vec::new(), left: None });
        }
        let cpu = cpu_ns(self.server_pid)?;
        let begun = Instant::now();
        let mut next = from;
        while self.open < from + more {
            while next < from + more && next - self.open < STORM {
                match connect(&self.seats[next].socket, &self.server) {
                    Ok(()) | Err(Errno::INPROGRESS) => self.request(next)?,
                    Err(error) => return Err(format!("client {next} cannot connect: {error}").into()),
                }
                next += 1;
                if next.is_multiple_of(32) {
                    break;
                }
            }
            self.look()?;
            if begun.elapsed() > PATIENCE {
                return Err(format!("only {} of {} clients came in", self.open, from + more).into());
            }
        }
        let took = begun.elapsed();
        // Until the server has come to rest: its time is exact then.
        self.rest(Duration::from_millis(20))?;
        Ok(format!("{} {}", took.as_secs_f64(), cpu_ns(self.server_pid)? - cpu))
    }

    /// Asks for the upgrade, if the line stands already.
    fn request(&mut self, index: usize) -> Outcome<()> {
        let path = &self.paths[index / self.group];
        match send(&self.seats[index].socket, &upgrade_request(path), SendFlags::NOSIGNAL) {
            Ok(_) => self.seats[index].stage = Stage::Asked,
            // The event that says so will come.
            Err(Errno::AGAIN | Errno::NOTCONN) => {}
            Err(error) => return Err(format!("client {index} cannot ask: {error}").into()),
        }
        Ok(())
    }

    /// Everybody who has not said anything does.
    fn speak(&mut self) -> Outcome<String> {
        let begun = Instant::now();
        for index in 0..self.seats.len() {
            if self.seats[index].stage == Stage::Open {
                self.seats[index].stage = Stage::Spoke;
                send(&self.seats[index].socket, PING, SendFlags::NOSIGNAL)?;
                if index.is_multiple_of(32) {
                    self.look()?;
                }
            }
        }
        while self.answered < self.seats.len() {
            self.look()?;
            if begun.elapsed() > PATIENCE {
                return Err(format!("only {} of {} were answered", self.answered, self.seats.len()).into());
            }
        }
        self.rest(Duration::from_millis(20))?;
        Ok("ok".to_owned())
    }

    fn rest(&mut self, span: Duration) -> Outcome<()> {
        let begun = Instant::now();
        while begun.elapsed() < span {
            self.look()?;
        }
        Ok(())
    }

    /// Waits for the pause between two rounds, when the server sleeps and its CPU time is exact. A server that does
    /// not keep up has no pause: then anywhere. Returns whether there was one.
    fn pause(&mut self, every: Duration) -> Outcome<bool> {
        let begun = Instant::now();
        loop {
            self.look()?;
            let now = Instant::now();
            if let Some(round) = self.rounds.last() {
                let quiet = now - round.last;
                // A whole round, and time for the server to end its turn; or one with a gap, and silence after it.
                if (round.frames == self.seats.len() && quiet > every / 32) || quiet > every / 2 {
                    return Ok(true);
                }
            }
            if now - begun > every * 8 {
                return Ok(false);
            }
        }
    }

    /// Counts for `span`, from a pause between two rounds to another. Returns ticks heard meanwhile, the server's CPU
    /// ns, the wall's ns, pings heard; of the rounds that began meanwhile the ticks heard and the ticks expected, and
    /// of each the microseconds from its first tick to its last.
    fn count(&mut self, span: Duration, every: Duration) -> Outcome<String> {
        self.rounds.clear();
        // The first round may have begun before we looked, or lie off the grid after a pause.
        let begun = Instant::now();
        while self.rounds.len() < 2 {
            self.pause(every)?;
            if self.rounds.len() < 2 {
                self.rest(every / 8)?;
            }
            if begun.elapsed() > PATIENCE {
                return Err("the server does not tick".into());
            }
        }
        let (start, ticks, pings) = (self.rounds.len(), self.ticks, self.pings);
        let (begun, cpu) = (Instant::now(), cpu_ns(self.server_pid)?);
        self.rest(span)?;
        self.pause(every)?;
        let (wall, cpu) = (begun.elapsed(), cpu_ns(self.server_pid)? - cpu);
        let (end, ticks, pings) = (self.rounds.len(), self.ticks - ticks, self.pings - pings);

        // What is still under way has its chance to arrive, behind the next rounds.
        let begun = Instant::now();
        while self.rounds[start..end].iter().any(|round| round.frames < self.seats.len())
            && begun.elapsed() < LATE_MAX
        {
            self.look()?;
        }
        let rounds = &self.rounds[start..end];
        let heard: usize = rounds.iter().map(|round| round.frames).sum();
        // Rounds are numbered by their seconds: one that nobody heard is missed as well.
        let newest = rounds.iter().map(|round| round.left).min().unwrap_or(0);
        let oldest = rounds.iter().map(|round| round.left).max().unwrap_or(0);
        let expected = if rounds.is_empty() { 0 } else { (oldest - newest + 1) as usize * self.seats.len() };
        let spreads: Vec<String> =
            rounds.iter().map(|round| (round.last - round.first).as_micros().to_string()).collect();
        Ok(format!("{ticks} {cpu} {} {pings} {heard} {expected} {}", wall.as_nanos(), spreads.join(",")))
    }

    /// Counts for `span`, anywhere in the seconds of a crowd of whom each has his own. Returns what [`Crowd::count`]
    /// does, the missed seconds of all being what was expected beyond what was heard; there are no rounds.
    fn tally(&mut self, span: Duration) -> Outcome<String> {
        // What has just begun again may have left a second out.
        self.rest(Duration::from_millis(300))?;
        self.seats.iter_mut().for_each(|seat| seat.left = None);
        let (ticks, pings, missed) = (self.ticks, self.pings, self.missed);
        let (begun, cpu) = (Instant::now(), cpu_ns(self.server_pid)?);
        self.rest(span)?;
        let (wall, cpu) = (begun.elapsed(), cpu_ns(self.server_pid)? - cpu);
        let (ticks, pings, missed) = (self.ticks - ticks, self.pings - pings, self.missed - missed);
        self.rounds.clear();
        Ok(format!("{ticks} {cpu} {} {pings} {ticks} {} ,", wall.as_nanos(), ticks + missed))
    }
}

/// The first frame of `bytes`, if it is whole: opcode, payload, length with its header. Servers do not mask.
fn cut(bytes: &[u8]) -> Option<(u8, &[u8], usize)> {
    let (head, length) = match *bytes {
        [_, length @ 0..=125, ..] => (2, usize::from(length)),
        [_, 126, high, low, ..] => (4, usize::from(u16::from_be_bytes([high, low]))),
        [_, 127, a, b, c, d, e, f, g, h, ..] => {
            (10, usize::try_from(u64::from_be_bytes([a, b, c, d, e, f, g, h])).ok()?)
        }
        _ => return None,
    };
    let end = head + length;
    Some((bytes[0] & 0x0f, bytes.get(head..end)?, end))
}

fn seconds_in(text: &[u8]) -> u32 {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0'))
}
