//! The floor: the least a server can do for as many WebSockets. A bare loop of epoll and send(2), no parsing, no
//! state beyond the descriptor, every answer ready beforehand.
//!
//! Accepted: accept4(2), one recv(2), one send(2) of 101 and greeting together, the bytes that timerd itself answered
//! to the same request. Ticked: one send(2) of the same frame to everybody, in the order in which they came. Spoken
//! to: one recv(2), one send(2). What timerd needs beyond this process is its own.

#![allow(unreachable_pub, reason = "a module of a bench, which has no outside")]

use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, accept_with, bind, getsockname, ipproto, listen,
    recv, send, socket_with, sockopt,
};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use crate::rig::{Outcome, raise_descriptor_limit};

const LISTENER: u64 = 0;
const ORDERS: u64 = 1;
const CLOCK: u64 = 2;
const CONNECTIONS: u64 = 3;

/// What a client is answered that has pinged.
const PONG: &[u8] = b"\x81\x0f{\"type\":\"pong\"}";

/// Serves until its orders end. `answer`: what an upgrade is answered with.
///
/// Orders are lines: `tick MS`, `rest`. It says its address first, then `ok` to each.
pub fn run(answer: &[u8]) -> Outcome<()> {
    raise_descriptor_limit()?;
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let listener = socket_with(AddressFamily::INET, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    sockopt::set_tcp_nodelay(&listener, true)?;
    bind(&listener, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
    listen(&listener, 4096)?;
    let clock = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    let stdin = io::stdin();
    epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    epoll::add(&epoll, &stdin, EventData::new_u64(ORDERS), EventFlags::IN)?;
    epoll::add(&epoll, &clock, EventData::new_u64(CLOCK), EventFlags::IN | EventFlags::ET)?;

    let address = std::net::SocketAddr::try_from(getsockname(&listener)?)?;
    say(&address.to_string())?;

    let mut connections: Vec<(OwnedFd, bool)> = Vec::new();
    let mut events = Vec::with_capacity(1024);
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut left = 86_400_u32;
    loop {
        match epoll::wait(&epoll, spare_capacity(&mut events), None) {
            Err(Errno::INTR) => continue,
            waited => waited?,
        };
        for event in events.drain(..) {
            match event.data.u64() {
                LISTENER => {
                    while let Ok(connection) = accept_with(&listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                        let data = EventData::new_u64(CONNECTIONS + connections.len() as u64);
                        epoll::add(&epoll, &connection, data, EventFlags::IN | EventFlags::ET)?;
                        connections.push((connection, false));
                    }
                }
                ORDERS => {
                    let mut line = String::new();
                    if stdin.read_line(&mut line)? == 0 {
                        return Ok(());
                    }
                    let ms = line.trim().strip_prefix("tick ").map_or(Ok(0), str::parse)?;
                    set_clock(clock.as_fd(), Duration::from_millis(ms))?;
                    say("ok")?;
                }
                CLOCK => {
                    // A periodic timer goes on only when it is read. Rounds it had no time for are missed, as
                    // timerd's are: their numbers are left out.
                    let mut rounds = [0; 8];
                    if rustix::io::read(&clock, &mut rounds).is_err() {
                        continue;
                    }
                    left = left.saturating_sub(u32::try_from(u64::from_ne_bytes(rounds))?);
                    let frame = frame(left);
                    for (connection, _) in &connections {
                        // A client that takes nothing misses the tick; the client counts.
                        let _ = send(connection, &frame, SendFlags::NOSIGNAL);
                    }
                }
                token => {
                    let Some((connection, open)) = connections.get_mut((token - CONNECTIONS) as usize) else {
                        continue;
                    };
                    if let Ok((bytes, _)) = recv(&*connection, &mut buffer, RecvFlags::empty())
                        && !bytes.0.is_empty()
                    {
                        let words = if std::mem::replace(open, true) { PONG } else { answer };
                        let _ = send(&*connection, words, SendFlags::NOSIGNAL);
                    }
                }
            }
        }
    }
}

/// A tick's frame, as long as timerd's.
fn frame(left: u32) -> Vec<u8> {
    let text = format!(r#"{{"type":"timer_tick","remaining_seconds":{left},"elapsed_seconds":{}}}"#, 86_400 - left);
    let mut frame = vec![0x81, u8::try_from(text.len()).unwrap_or(125)];
    frame.extend_from_slice(text.as_bytes());
    frame
}

fn set_clock(clock: std::os::fd::BorrowedFd<'_>, every: Duration) -> io::Result<()> {
    let span = Timespec { tv_sec: 0, tv_nsec: every.subsec_nanos().into() };
    let spec = Itimerspec { it_interval: span, it_value: span };
    timerfd_settime(clock, TimerfdTimerFlags::empty(), &spec)?;
    Ok(())
}

fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}
