//! The server: the mio loop that drives the hub.
//!
//! Owns every socket, the kernel's timers and signals, and the order of a turn. It decides nothing that clients see:
//! that is the hub's. The only room that knows mio.

mod alarm;
mod disk;
pub mod listen;
mod notify;
mod streams;

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use mio::event::Event;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};
use rustix::net::Shutdown;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook_mio::v1_0::Signals;

use crate::clock::{self, Mono, Now};
use crate::hub::Hub;
use crate::limits::*;
use crate::store::Store;
use alarm::{Alarm, WallWatch};
use disk::Disk;
use listen::Listeners;
use notify::Manager;
use streams::{Input, Streams};

const ALARM: Token = Token(LISTENERS_MAX);
const WALL: Token = Token(LISTENERS_MAX + 1);
const SIGNALS: Token = Token(LISTENERS_MAX + 2);
const DISK: Token = Token(LISTENERS_MAX + 3);
/// Below it stand the listeners and the tokens above; from it on the connections, by the hub's index.
const CONNECTIONS: usize = LISTENERS_MAX + 4;

/// What SIGHUP means.
pub type Reload = Box<dyn FnMut(&mut Hub, Now)>;

/// The loop with everything it drives.
pub struct Server {
    poll: Poll,
    hub: Hub,
    streams: Streams,
    listeners: Vec<TcpListener>,
    /// They are the service manager's, and go on listening when we do not.
    inherited: bool,
    /// Listeners that may have more connections waiting.
    arrivals: Vec<usize>,
    alarm: Alarm,
    wall_watch: WallWatch,
    signals: Signals,
    disk: Disk,
    manager: Manager,
    /// Given up for a moment when descriptors run out, so that whoever comes can be turned away.
    reserve: Option<File>,
    /// Not even that helped: whoever waits is looked at again then.
    accept_again: Option<Mono>,
    /// When it was last said that descriptors or memory run out.
    shortage_told: Option<Mono>,
    reload: Reload,
    buffer: Box<[u8]>,
    stop: bool,
}

impl Server {
    /// A loop over `hub` and `store`, listening.
    ///
    /// # Errors
    /// When the kernel refuses a poll, a timer, a thread or a registration.
    pub fn new(hub: Hub, store: Store, listeners: Listeners, reload: Reload) -> io::Result<Self> {
        let poll = Poll::new()?;
        let registry = poll.registry();
        let mut sockets = Vec::new();
        for (n, (listener, _)) in listeners.sockets.into_iter().enumerate() {
            let mut listener = TcpListener::from_std(listener);
            registry.register(&mut listener, Token(n), Interest::READABLE)?;
            sockets.push(listener);
        }
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
        registry.register(&mut signals, SIGNALS, Interest::READABLE)?;
        let alarm = Alarm::new(registry, ALARM)?;
        let wall_watch = WallWatch::new(registry, WALL)?;
        // Last: what is opened from here on is the loop's alone.
        let disk = Disk::start(store, Waker::new(registry, DISK)?)?;
        Ok(Server {
            hub,
            streams: Streams::default(),
            listeners: sockets,
            inherited: listeners.inherited,
            arrivals: Vec::new(),
            alarm,
            wall_watch,
            signals,
            disk,
            manager: Manager::new(),
            reserve: File::open("/dev/null").ok(),
            accept_again: None,
            shortage_told: None,
            reload,
            buffer: vec![0; READ_BYTES].into_boxed_slice(),
            stop: false,
            poll,
        })
    }

    /// Serves until SIGTERM or SIGINT, then ends in order: what was asked is finished, everybody is sent away, the
    /// store is checkpointed.
    ///
    /// # Errors
    /// When the poll itself fails.
    pub fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS_PER_TURN);
        self.manager.ready("Serving");
        while !self.stop {
            self.turn(&mut events, None)?;
        }
        let begun = clock::sample().mono;
        log::info!("stopping: clients are sent away, timers are kept");
        self.manager.stopping();
        self.hub.stop();
        for mut listener in self.listeners.drain(..) {
            // To close one is not enough: the disk thread's table holds it too, and the service manager may.
            self.poll.registry().deregister(&mut listener)?;
            if !self.inherited
                && let Err(error) = rustix::net::shutdown(&listener, Shutdown::Both)
            {
                log::debug!("a listener stays open until the end: {error}");
            }
        }
        self.arrivals.clear();
        // First what was asked, then the goodbyes: an answer to a command must not be lost to a close.
        let answers = begun + SHUTDOWN_MAX / 3;
        while !self.hub.is_settled() && clock::sample().mono < answers {
            self.turn(&mut events, Some(answers))?;
        }
        // One client that never answers must not cost the store its checkpoint: the last third is the disk's.
        self.hub.dismiss(clock::sample());
        let end = begun + SHUTDOWN_MAX;
        let goodbyes = begun + SHUTDOWN_MAX * 2 / 3;
        while self.hub.connections() > 0 && clock::sample().mono < goodbyes {
            self.turn(&mut events, Some(goodbyes))?;
        }
        if !self.disk.close(end.since(clock::sample().mono).max(Duration::from_millis(50))) {
            log::warn!("the store was not checkpointed in time; it will be at the next start");
        }
        log::info!("stopped");
        log::logger().flush();
        Ok(())
    }

    /// One turn of the loop: waits for something to happen, until `until` at the latest, and serves it.
    fn turn(&mut self, events: &mut Events, until: Option<Mono>) -> io::Result<()> {
        // Work that was cut short goes on at once, and needs no alarm; otherwise the kernel's timer wakes us, exact to
        // the nanosecond.
        let has_arrivals = !self.arrivals.is_empty() && self.accept_again.is_none();
        let more = self.streams.has_unread() || has_arrivals || self.hub.has_backlog();
        if !more {
            self.alarm.set([self.hub.next_deadline(), self.accept_again, until].into_iter().flatten().min())?;
        }
        match self.poll.poll(events, more.then_some(Duration::ZERO)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            polled => polled?,
        }

        // The one reading of the clock: everything in this turn happens at this instant.
        let now = clock::sample();
        self.hub.begin(now);
        for event in events.iter() {
            self.note(event, now)?;
        }

        // Before anything is read: what has become durable is shown, so that a request sees it.
        while self.hub.takes_answers()
            && let Some(done) = self.disk.take()
        {
            self.hub.handle_done(now, done);
        }
        // Before the input of those who are here: whoever comes is served in the turn in which he came.
        self.accept(now);
        // Before commands: an end that has been reached is met by them as an end.
        self.hub.advance(now);
        // Before anything new is read: whole requests that the last turn had no time for came first.
        self.hub.unpark(now);
        self.read(now);
        // After everything that can change something: all commands of this turn are one batch.
        for job in self.hub.take_jobs(now) {
            self.disk.give(job);
        }
        // The only place that writes to sockets. After the disk has its batch: it works while we send.
        self.hub.flush(now, &mut self.streams);
        // After the flush, which may find lines broken; before the poll, which must not tell of a closed one.
        self.hub.reap(&mut self.streams);
        // After the flush: with room in its outbox a connection that was set aside is read again.
        let hub = &self.hub;
        self.streams.reconsider(|index| hub.wants_input(index));

        let end = clock::sample().mono;
        self.hub.account(end.since(now.mono));
        self.manager.status(self.hub.degraded().unwrap_or("Serving"));
        self.manager.feed(end);
        Ok(())
    }

    /// Sorts an event of the poll to those who will act on it.
    fn note(&mut self, event: &Event, now: Now) -> io::Result<()> {
        match event.token() {
            ALARM => self.alarm.rang(),
            // The step itself is seen by comparing the clocks.
            WALL => self.wall_watch.arm()?,
            // The channel is looked into every turn.
            DISK => {}
            SIGNALS => {
                for signal in self.signals.pending() {
                    if signal == SIGHUP {
                        (self.reload)(&mut self.hub, now);
                    } else {
                        self.stop = true;
                    }
                }
            }
            Token(token) if token < CONNECTIONS => {
                if !self.arrivals.contains(&token) {
                    self.arrivals.push(token);
                }
            }
            Token(token) => {
                let index = u32::try_from(token - CONNECTIONS).unwrap_or(u32::MAX);
                if event.is_readable() || event.is_error() || event.is_read_closed() {
                    self.streams.readable(index, event.is_error() || event.is_read_closed());
                }
                if event.is_writable() {
                    self.hub.writable(index);
                }
            }
        }
        Ok(())
    }

    fn accept(&mut self, now: Now) {
        if self.accept_again.is_some_and(|at| now.mono < at) {
            return;
        }
        self.accept_again = None;
        let mut budget = ACCEPTS_PER_TURN;
        while let Some(&listener) = self.arrivals.last() {
            let Some(accepted) = self.listeners.get(listener).map(TcpListener::accept) else { return };
            match accepted {
                Ok((stream, peer)) => self.take_in(now, stream, peer.ip()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.arrivals.pop();
                }
                Err(error) if is_shortage(&error) => {
                    self.tell_shortage(now.mono, &error);
                    match self.turn_away(listener) {
                        Some(why) if why.kind() == io::ErrorKind::WouldBlock => drop(self.arrivals.pop()),
                        Some(why) if is_shortage(&why) => self.accept_again = Some(now.mono + SHORTAGE_RETRY_EVERY),
                        _ => {}
                    }
                    return;
                }
                // The trouble of one connection (accept(2) hands on what the network says of it).
                Err(error) => log::debug!("a connection was lost before it was accepted: {error}"),
            }
            budget -= 1;
            if budget == 0 {
                return;
            }
        }
    }

    fn take_in(&mut self, now: Now, mut stream: TcpStream, peer: std::net::IpAddr) {
        let Some(index) = self.hub.accept(now, peer.to_canonical()) else { return };
        let token = Token(CONNECTIONS + index as usize);
        let registered = self.poll.registry().register(&mut stream, token, Interest::READABLE | Interest::WRITABLE);
        if let Err(error) = registered {
            log::error!("a connection cannot be watched: {error}");
            self.hub.reset(index);
            return;
        }
        self.streams.insert(index, stream);
    }

    /// Out of descriptors: whoever waits is cut off, by means of the one kept back, so that the loop does not spin on
    /// a listener that stays readable, and so that they come again elsewhere or later. Returns what ended it; with
    /// `None` more may wait.
    fn turn_away(&mut self, listener: usize) -> Option<io::Error> {
        self.reserve = None;
        let listener = self.listeners.get(listener)?;
        let end = (0..ACCEPTS_PER_TURN).find_map(|_| listener.accept().err());
        self.reserve = File::open("/dev/null").ok();
        end
    }

    /// Once a second, however many come.
    fn tell_shortage(&mut self, now: Mono, error: &io::Error) {
        self.hub.metrics.descriptors_exhausted.inc();
        if self.shortage_told.is_none_or(|told| now.since(told) >= Duration::from_secs(1)) {
            self.shortage_told = Some(now);
            log::error!("a connection cannot be accepted: {error}");
        }
    }

    fn read(&mut self, now: Now) {
        let mut budget = READ_BYTES_PER_TURN;
        while budget > 0 && self.hub.has_time() {
            let Some(index) = self.streams.next_unread() else { return };
            if !self.hub.wants_input(index) {
                self.streams.set_aside(index);
                continue;
            }
            match self.streams.read(index, &mut self.buffer) {
                Input::Bytes(bytes, more) => {
                    budget = budget.saturating_sub(bytes);
                    self.hub.receive(now, index, &self.buffer[..bytes]);
                    if more {
                        // Behind the others: one fast talker must not keep them waiting.
                        self.streams.readable(index, false);
                    }
                }
                Input::End => self.hub.receive_eof(now, index),
                Input::Broken => self.hub.reset(index),
                Input::Nothing => {}
            }
        }
    }
}

/// Whether the process or the machine is out of descriptors or memory.
fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let shortages = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    Errno::from_io_error(error).is_some_and(|errno| shortages.contains(&errno))
}

/// Lets a write beyond RLIMIT_FSIZE fail with EFBIG: by default the kernel ends the process with SIGXFSZ
/// (setrlimit(2)), in the middle of an exam.
///
/// # Errors
/// When the signal cannot be caught.
pub fn survive_file_size_limit() -> io::Result<()> {
    // Caught and left at that: what counts is that the write returns.
    signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::default()).map(|_| ())
}

/// Raises the limit of open descriptors as far as the system allows. Returns how many connections that permits.
pub fn raise_descriptor_limit(connections_max: u32) -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.unwrap_or(u64::MAX);
    if current.is_some_and(|current| current < wanted) {
        match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
            Ok(()) => log::debug!("open descriptors raised from {current:?} to {maximum:?}"),
            Err(error) => log::warn!("open descriptors cannot be raised: {error}"),
        }
    }
    let available = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let room = usize::try_from(available.saturating_sub(DESCRIPTORS_RESERVED)).unwrap_or(usize::MAX);
    // Those who are only told that the server is full need a descriptor, too.
    let room = room - (room / 64 + 1).min(room);
    let wanted = connections_max as usize;
    if room < wanted {
        log::warn!("only {room} of {wanted} connections are possible: raise LimitNOFILE= or ulimit -n");
    }
    room.min(wanted)
}
