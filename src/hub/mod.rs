//! The hub: every connection, and the whole daemon without its sockets.
//!
//! Owns connections, audiences and what waits for the disk, and drives domain and API. Sans-IO: a driver brings
//! bytes, time and the disk's words, and carries bytes and jobs away. The mio loop is one driver, the simulation
//! another. It must not know a socket, a thread or a clock.
//!
//! A driver's turn, in this order:
//! [`Hub::begin`], [`Hub::handle_done`] while [`Hub::takes_answers`], [`Hub::accept`], [`Hub::advance`],
//! [`Hub::unpark`], [`Hub::receive`] and its kin while [`Hub::has_time`], [`Hub::take_jobs`], [`Hub::flush`],
//! [`Hub::reap`].

pub mod audience;
pub mod conn;
pub mod custody;
mod delivery;
mod desks;
pub mod events;
pub mod exports;
pub mod outbox;
mod requests;
mod retention;
mod rooms;
mod sockets;
mod streams;

use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use slab::Slab;

use crate::api::answer::unavailable;
use crate::api::chance::Chance;
use crate::api::events::Speller;
use crate::api::guard::Guard;
use crate::api::rates::{Limiter, Rates};
use crate::api::time::imf_fixdate;
use crate::api::{self, Api, Words};
use crate::clock::{Mono, Now, WallMs};
use crate::domain::deadlines::{Due, Sleeper};
use crate::domain::delivery as sessions;
use crate::domain::disk::{Done, Image, Job};
use crate::domain::effects::{Batch, Record, Scribe, Topic};
use crate::domain::events::{Event, Kind, Stored};
use crate::domain::history::TIMERD;
use crate::domain::{Engine, Return, timers};
use crate::limits::*;
use crate::metrics::Metrics;
use crate::wire::http::Stage;
use audience::{Audience, Encoding};
use conn::{Conn, ConnId, Outlet, Phase, Protocol};
use custody::{Asker, Custody, Held, Waiting};
use delivery::Candidates;
use events::Feeds;
use exports::Exports;
pub use retention::Retention;
use rooms::Guests;

/// Why a socket is closed with 1012: come back.
const RESTART: &str = "Service restart";

/// What an operator has set.
pub struct Settings {
    /// The timers' rules.
    pub timers: timers::Settings,
    /// The sessions' rules.
    pub delivery: sessions::Settings,
    /// The rooms' rules.
    pub rooms: crate::domain::rooms::Settings,
    /// Who may ask for what.
    pub guard: Guard,
    /// How much is allowed.
    pub limits: api::Limits,
    /// How often one address may ask for events.
    pub rates: Rates,
    /// Connections served at a time.
    pub connections_max: usize,
    /// How much of the past is kept.
    pub retention: Retention,
    /// The secret that ids are drawn from.
    pub seed: [u8; 32],
}

/// The sockets, as far as the hub has to do with them. An index names the same connection on both sides.
pub trait Sockets {
    /// Sends what the kernel will take.
    ///
    /// # Errors
    /// `WouldBlock` when it takes nothing now; anything else ends the connection.
    fn send(&mut self, index: u32, bytes: &[u8]) -> io::Result<usize>;
    /// Sends what the kernel will take of several frames at once.
    ///
    /// # Errors
    /// As [`Sockets::send`].
    fn send_vectored(&mut self, index: u32, frames: &[io::IoSlice<'_>]) -> io::Result<usize>;
    /// Nothing more will be sent.
    fn finish(&mut self, index: u32);
    /// The connection is over; its index may be given to another.
    fn close(&mut self, index: u32);
}

/// The daemon without its sockets.
pub struct Hub {
    /// What is counted.
    pub metrics: Metrics,
    api: Api,
    engine: Engine,
    chance: Chance,
    conns: Slab<Conn>,
    generation: u32,
    audiences: HashMap<(Topic, Encoding), Audience>,
    feeds: Feeds,
    limiter: Limiter,
    speller: Speller,
    custody: Custody,
    candidates: Candidates,
    guests: Guests,
    exports: Exports,
    /// Connections that have taken all that was sent to them, and for which there is more.
    hungry: Vec<u32>,
    /// Connections with something to send, in the order in which they will be served.
    dirty: VecDeque<u32>,
    /// Connections with whole requests for which the turn before had no time.
    parked: VecDeque<u32>,
    /// Requests and messages that this turn has time for.
    work_left: u32,
    /// Bytes of what the disk has told that this turn has time to put into words.
    words_left: usize,
    dead: Vec<u32>,
    /// Deadlines that have come due are left for the next turn.
    late: bool,
    unfinished_bytes: usize,
    /// What ends with connections that are let go in this turn.
    shed: Shed,
    unsent_bytes: usize,
    connections_max: usize,
    retention: Retention,
    upkeep_every: Duration,
    stopping: bool,
    date: Date,
    /// The announcement being encoded.
    text: String,
    /// Several small frames, copied together to be sent by one call.
    gathered: Vec<u8>,
}

impl Hub {
    /// The daemon as it was left.
    ///
    /// # Errors
    /// When the API's table of routes contradicts itself.
    pub fn new(now: Now, settings: Settings, image: Image) -> Result<(Self, Return), matchit::InsertError> {
        let scribe = Scribe { timer: api::events::payload, session: api::delivery::payload };
        let mut hub = Hub {
            metrics: Metrics::new(),
            api: Api::new(settings.guard, settings.limits)?,
            engine: Engine::new(settings.timers, settings.delivery, settings.rooms, scribe),
            chance: Chance::new(settings.seed),
            conns: Slab::new(),
            generation: 0,
            audiences: HashMap::new(),
            feeds: Feeds::default(),
            limiter: Limiter::new(settings.rates),
            speller: Speller::new(image.names),
            custody: Custody::default(),
            candidates: Candidates::default(),
            guests: Guests::default(),
            exports: Exports::new(),
            hungry: Vec::new(),
            dirty: VecDeque::new(),
            parked: VecDeque::new(),
            work_left: WORK_PER_TURN,
            words_left: ANSWER_BYTES_PER_TURN,
            dead: Vec::new(),
            late: false,
            unfinished_bytes: 0,
            shed: Shed::default(),
            unsent_bytes: 0,
            connections_max: settings.connections_max,
            upkeep_every: settings
                .retention
                .look_every(&[settings.timers.keep_finished, settings.delivery.keep_finished]),
            retention: settings.retention,
            stopping: false,
            date: Date::default(),
            text: String::new(),
            gathered: Vec::new(),
        };
        let found = hub.engine.restore(now, image);
        hub.engine.fx.deadlines.arm(now.mono, Due::Heartbeat);
        hub.engine.fx.deadlines.arm(now.mono, Due::Upkeep);
        hub.publish(now);
        Ok((hub, found))
    }

    /// Everything that is true, for whoever checks it.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The rules of access, to be exchanged.
    pub fn guard_mut(&mut self) -> &mut Guard {
        &mut self.api.guard
    }

    /// Why commands cannot be carried out, while that is so.
    pub fn degraded(&self) -> Option<&str> {
        self.custody.degraded()
    }

    /// Connections open.
    pub fn connections(&self) -> usize {
        self.conns.len()
    }

    // -----------------------------------------------------------------------------------------------------------
    // Time.

    /// A turn begins at `now`.
    pub fn begin(&mut self, now: Now) {
        self.work_left = WORK_PER_TURN;
        self.words_left = ANSWER_BYTES_PER_TURN;
        self.begin_routing(now);
        self.see_off(now);
        if let Some(step_ms) = self.engine.observe(now) {
            self.metrics.wall_steps.inc();
            log::warn!("the wall clock was stepped by {step_ms} ms; nothing running was moved");
            self.publish(now);
        }
    }

    /// The disk is given up: whoever waits for it is told.
    fn give_up_on_disk(&mut self, now: Now, why: &str) {
        let askers = self.custody.give_up(now, why.to_owned());
        self.engine.lose_patience(now);
        let text = format!("{why}: outcome unknown. Ask again with the same Idempotency-Key");
        self.turn_away(now, askers, &text);
        let text = format!("Outcome unknown: {why}");
        self.disown(now, &text);
        self.disappoint_candidates(now, &text);
        self.disappoint_guests(now, &text);
    }

    /// Lets what has come due happen. Returns whether some of it is left for the next turn.
    pub fn advance(&mut self, now: Now) -> bool {
        // Not while it has something to tell.
        if self.takes_answers() && self.custody.has_hung(now) {
            self.give_up_on_disk(now, "The disk does not answer");
        }
        self.late = true;
        for _ in 0..DEADLINES_PER_TURN {
            // What has just been written to is sent while the cache still holds it, and the first of a burst need not
            // wait until the last have been reached.
            if self.dirty.len() >= BURST_PER_TURN {
                break;
            }
            let Some((at, due)) = self.engine.fx.deadlines.pop(now.mono) else {
                self.late = false;
                break;
            };
            match due {
                Due::Timer(sleeper) => {
                    self.metrics.deadline_lateness.observe(now.mono.since(at).as_secs_f64());
                    self.engine.timers.wake(now, sleeper, &mut self.engine.fx);
                    self.publish(now);
                }
                Due::Session(sleeper) => {
                    self.metrics.deadline_lateness.observe(now.mono.since(at).as_secs_f64());
                    self.engine.delivery.wake(now, sleeper, &mut self.engine.fx);
                    self.publish(now);
                }
                Due::Room(sleeper) => {
                    self.metrics.deadline_lateness.observe(now.mono.since(at).as_secs_f64());
                    self.engine.rooms.wake(now, sleeper, &mut self.engine.fx);
                    self.publish(now);
                }
                Due::Beat(slot) => {
                    self.metrics.deadline_lateness.observe(now.mono.since(at).as_secs_f64());
                    self.beat(now, slot);
                }
                Due::Connection(sleeper) => self.wake(now, at, sleeper),
                Due::Heartbeat => {
                    if self.engine.is_any_running() {
                        self.custody.alive();
                    }
                    self.engine.fx.deadlines.arm(now.mono + HEARTBEAT_EVERY, Due::Heartbeat);
                }
                Due::Upkeep => {
                    self.engine.upkeep(now);
                    self.sweep_alarms();
                    self.limiter.upkeep(now.mono);
                    for old in self.retention.over(now.wall) {
                        self.custody.forget(old);
                    }
                    self.engine.fx.deadlines.arm(now.mono + self.upkeep_every, Due::Upkeep);
                }
            }
        }
        self.publish(now);
        self.late
    }

    /// Something was cut short and can go on at once.
    pub fn has_backlog(&self) -> bool {
        let is_cut_short = self.late || !self.takes_answers() || self.is_routing() || self.guests.have_departed();
        // What a flush has brought about is given to the disk in the next turn.
        let has_jobs = self.custody.has_jobs(&self.engine);
        is_cut_short || has_jobs || !self.dirty.is_empty() || !self.parked.is_empty() || !self.hungry.is_empty()
    }

    /// Goes on with the input that an earlier turn had no time for, before any new is read.
    pub fn unpark(&mut self, now: Now) {
        // Half of a turn is kept for those who ask.
        let mut hungry = std::mem::take(&mut self.hungry).into_iter();
        while self.work_left > WORK_PER_TURN / 2
            && let Some(index) = hungry.next()
        {
            self.go_on(now, index);
        }
        // First those who were not reached.
        self.hungry.splice(0..0, hungry);
        for _ in 0..self.parked.len() {
            let Some(index) = self.parked.pop_front() else { return };
            if let Some(http) = self.conns.get_mut(index as usize).and_then(|conn| conn.http()) {
                http.parked = false;
                self.pump(now, index);
            }
        }
    }

    /// When a turn is due at the latest.
    pub fn next_deadline(&self) -> Option<Mono> {
        let deadlines = [self.engine.fx.deadlines.next(), self.custody.next_deadline()];
        deadlines.into_iter().flatten().min()
    }

    // -----------------------------------------------------------------------------------------------------------
    // The disk.

    /// What the disk is to do next.
    pub fn take_jobs(&mut self, now: Now) -> Vec<Job> {
        let jobs = self.custody.take_jobs(now, &mut self.engine);
        if matches!(jobs.first(), Some(Job::Write(_))) {
            self.candidates.hand_over();
            self.guests.hand_over();
        }
        jobs
    }

    /// Whether this turn has time for more of what the disk has to tell. What is left goes to the next.
    pub fn takes_answers(&self) -> bool {
        self.words_left > 0
    }

    /// The disk has spoken.
    pub fn handle_done(&mut self, now: Now, done: Done) {
        match done {
            Done::Written(batch, last_seq) => {
                let taken = self.custody.in_hand_since().map_or(Duration::ZERO, |since| now.mono.since(since));
                self.metrics.commits.inc();
                self.metrics.commit_duration.observe(taken.as_secs_f64());
                log_changes(&batch);
                self.engine.commit(now, last_seq);
                // The answer to a command goes before what it announces: whoever asked is not surprised by it.
                let published: Vec<&Event> = batch.published().collect();
                for (Waiting { conn, number, head }, held) in self.custody.written() {
                    let response = match held {
                        Held::Words(response) => response,
                        Held::Event(place) => {
                            let Some(event) = published.get(place as usize) else { continue };
                            let seq = last_seq - published.len() as u64 + 1 + u64::from(place);
                            let stored = Stored { seq, event: (*event).clone() };
                            self.api.published(&head, &stored, &mut self.speller)
                        }
                    };
                    self.reply(now, conn, number, &head, &response);
                    self.resume(now, conn);
                }
                self.acknowledge(now, &batch, last_seq);
                self.answer_candidates(now, batch.number);
                self.publish(now);
                self.answer_guests(now, batch.number);
                self.release_events(now, batch, last_seq);
            }
            Done::Failed(batch, why) => {
                self.metrics.commits_failed.inc();
                self.engine.undo(now, batch);
                let waiting = self.custody.failed(now, &why);
                let text = self.custody.degraded().unwrap_or_default().to_owned();
                self.turn_away(now, waiting, &format!("{text}: nothing was changed"));
                self.disappoint_candidates(now, &format!("{text}: nothing was changed"));
                self.disappoint_guests(now, &format!("{text}: nothing was changed"));
                self.disown(now, &format!("Nothing was stored: {text}"));
                self.publish(now);
            }
            Done::Doubted(why) => self.give_up_on_disk(now, &format!("The store cannot be written ({why})")),
            Done::Answered(ticket, answered) => match self.custody.asker(ticket) {
                Some(Asker::Request(Waiting { conn, number, head })) => {
                    let router = api::events::router(self.feeds.subscribed(), self.engine.events.queued());
                    let mut words = Words { speller: &mut self.speller, router, now, engine: &mut self.engine };
                    let response = self.api.render(&head, answered, &mut words);
                    self.words_left = self.words_left.saturating_sub(response.body.as_bytes().len());
                    self.reply(now, conn, number, &head, &response);
                    self.resume(now, conn);
                }
                Some(Asker::Feed(id)) => self.page_turned(now, id, answered),
                Some(Asker::Export(id)) => self.page_told(now, id, answered),
                None => {}
            },
            Done::Closed => {}
        }
    }

    /// All these wait in vain.
    fn turn_away(&mut self, now: Now, askers: Vec<Asker>, text: &str) {
        for asker in askers {
            match asker {
                Asker::Request(Waiting { conn, number, head }) => {
                    let response = self.api.finish(&head, unavailable(text));
                    self.reply(now, conn, number, &head, &response);
                    self.resume(now, conn);
                }
                Asker::Feed(id) => self.page_turned(now, id, Err(text.to_owned())),
                Asker::Export(id) => self.give_up_export(now, id, text),
            }
        }
    }

    // -----------------------------------------------------------------------------------------------------------
    // Connections.

    /// Somebody has come. `None`: there is not even room to say that there is no room.
    pub fn accept(&mut self, now: Now, peer: IpAddr) -> Option<u32> {
        self.metrics.connections_accepted.inc();
        let over = self.conns.len() >= self.connections_max;
        if over {
            self.metrics.connections_refused.inc();
        }
        if self.conns.len() >= self.connections_max + connections_over_max(self.connections_max) {
            return None;
        }
        self.generation = self.generation.wrapping_add(1);
        let index = self.conns.insert(Conn::new(now.mono, self.generation, peer, over));
        self.metrics.connections.inc();
        let index = u32::try_from(index).ok()?;
        self.watch(index);
        Some(index)
    }

    /// Whether the input of a connection is to be read at all. What is left now must be offered again.
    pub fn wants_input(&self, index: u32) -> bool {
        self.conns.get(index as usize).is_some_and(|conn| match &conn.protocol {
            Protocol::Socket(socket) => {
                let is_full = self.feeds.is_full(socket.listens)
                    || self.candidates.is_full(index)
                    || self.guests.is_busy(index, socket.listens);
                conn.wants_input() && !is_full
            }
            Protocol::Http(_) | Protocol::Stream(_) => conn.wants_input(),
        })
    }

    /// Bytes have come.
    pub fn receive(&mut self, now: Now, index: u32, bytes: &[u8]) {
        let Some(conn) = self.conns.get_mut(index as usize).filter(|conn| conn.phase == Phase::Open) else { return };
        match &mut conn.protocol {
            Protocol::Http(http) => {
                http.decoder.push(bytes);
                self.pump(now, index);
            }
            Protocol::Socket(_) => self.hear(now, index, bytes),
            // Whoever listens to an answer has nothing to say.
            Protocol::Stream(_) => {}
        }
    }

    /// Whether this turn has time for more input. What is left goes to the next.
    pub fn has_time(&self) -> bool {
        self.work_left > 0
    }

    /// The other side will send no more.
    pub fn receive_eof(&mut self, now: Now, index: u32) {
        let Some(conn) = self.conns.get_mut(index as usize) else { return };
        match (&conn.phase, &mut conn.protocol) {
            (Phase::Open | Phase::Leaving, Protocol::Http(http)) => {
                // It may have closed its own side only, and still wait for the answers.
                http.eof = true;
                self.pump(now, index);
                self.mark(index);
            }
            _ => self.kill(index),
        }
    }

    /// The line is dead.
    pub fn reset(&mut self, index: u32) {
        self.kill(index);
    }

    /// The kernel may take bytes again.
    pub fn writable(&mut self, index: u32) {
        if self.conns.get(index as usize).is_some_and(|conn| !conn.outbox.is_empty()) {
            self.mark(index);
        }
    }

    /// Sends what waits, to so many connections as one turn allows. Returns whether some are left.
    pub fn flush(&mut self, now: Now, sockets: &mut impl Sockets) -> bool {
        let mut bytes_left = WRITE_BYTES_PER_TURN;
        for n in 0..FLUSHES_PER_TURN {
            if n % FETCHED_AHEAD == 0 {
                self.fetch_ahead();
            }
            let Some(index) = self.dirty.pop_front() else { return false };
            let Some(conn) = self.conns.get_mut(index as usize) else { continue };
            conn.dirty = false;
            if matches!(conn.phase, Phase::Lingering | Phase::Dead) {
                continue;
            }
            match self.send_waiting(now, index, sockets) {
                Ok(sent) => {
                    bytes_left = bytes_left.saturating_sub(sent);
                    self.follow_sending(now, index, sent, sockets);
                }
                Err(_) => self.kill(index),
            }
            if bytes_left == 0 {
                break;
            }
        }
        !self.dirty.is_empty()
    }

    /// Each send leaves little of ours in the cache, and to wait for the next connection to come out of memory would be
    /// the dearest thing done here: several are fetched at once, in the time of one.
    fn fetch_ahead(&self) {
        let next = self.dirty.iter().take(FETCHED_AHEAD);
        let found = next.filter(|index| self.conns.get(**index as usize).is_some_and(|conn| conn.dirty)).count();
        // It is the looking that counts: without this the compiler would leave it out.
        std::hint::black_box(found);
    }

    /// Sends what waits for a connection, as much as the kernel takes. Returns how many bytes that was.
    ///
    /// # Errors
    /// The connection is broken.
    fn send_waiting(&mut self, now: Now, index: u32, sockets: &mut impl Sockets) -> io::Result<usize> {
        let Some(conn) = self.conns.get_mut(index as usize) else { return Ok(0) };
        let mut total = 0;
        while !conn.outbox.is_empty() {
            let (offered, sent) = match conn.outbox.only() {
                Some(bytes) => (bytes.len(), sockets.send(index, bytes)),
                None if conn.outbox.gather(&mut self.gathered) => {
                    (self.gathered.len(), sockets.send(index, &self.gathered))
                }
                None => {
                    let slices = conn.outbox.slices();
                    (slices.iter().map(|slice| slice.len()).sum(), sockets.send_vectored(index, &slices))
                }
            };
            let sent = match sent {
                Ok(sent) => sent,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            };
            total += sent;
            let held = conn.outbox.held_bytes();
            conn.outbox.advance(sent);
            if let Protocol::Stream(stream) = &mut conn.protocol {
                stream.progress = now.mono;
            }
            if conn.is_metered {
                let freed = held - conn.outbox.held_bytes();
                self.unsent_bytes = self.unsent_bytes.saturating_sub(freed);
                conn.is_metered = match &mut conn.protocol {
                    Protocol::Http(http) => {
                        http.progress = now.mono;
                        true
                    }
                    Protocol::Socket(_) | Protocol::Stream(_) => !conn.outbox.is_empty(),
                };
            }
            if sent < offered {
                break;
            }
        }
        Ok(total)
    }

    /// What a connection waits for, or does, now that so much has been sent.
    fn follow_sending(&mut self, now: Now, index: u32, sent: usize, sockets: &mut impl Sockets) {
        let Some(conn) = self.conns.get_mut(index as usize) else { return };
        let is_fed = conn.outlet == Outlet::Feed && conn.phase == Phase::Open;
        if !conn.outbox.is_empty() {
            // The kernel will say when it can take more; whoever takes nothing for long is dropped.
            self.watch(index);
        } else if conn.phase == Phase::Leaving && conn.http().is_some_and(|http| http.eof) {
            self.kill(index);
        } else if conn.phase == Phase::Leaving {
            sockets.finish(index);
            conn.phase = Phase::Lingering;
            self.set_alarm(index, now.mono + LINGER_MAX);
        } else if let Protocol::Http(http) = &mut conn.protocol {
            // It is idle since the answer has gone, not since it was given.
            http.since = if http.stage == Stage::Idle { now.mono } else { http.since };
            self.hungry.extend(http.export.map(|_| index));
            self.pump(now, index);
        } else if (conn.outlet == Outlet::Candidate && self.candidates.awaits(index))
            || (conn.outlet == Outlet::Guest && self.guests.awaits(index))
        {
            self.hungry.push(index);
        }
        if is_fed {
            self.fed(now, index, sent > 0);
        }
    }

    /// Forgets the connections that have ended.
    pub fn reap(&mut self, sockets: &mut impl Sockets) {
        self.shed = Shed::default();
        for index in std::mem::take(&mut self.dead) {
            self.part(index);
            let conn = self.conns.remove(index as usize);
            self.unfinished_bytes = self.unfinished_bytes.saturating_sub(conn.booked_bytes());
            self.metrics.connections.dec();
            if conn.is_metered {
                self.unsent_bytes = self.unsent_bytes.saturating_sub(conn.outbox.held_bytes());
            }
            match conn.protocol {
                Protocol::Socket(_) => {
                    self.candidates.reap(index);
                    self.guests.reap(index);
                    self.metrics.websockets.dec();
                }
                Protocol::Http(http) => {
                    http.export.and_then(|key| self.exports.try_remove(key as usize));
                }
                Protocol::Stream(_) => _ = self.metrics.event_streams.dec(),
            }
            sockets.close(index);
        }
    }

    /// Keeps the books of a turn that took `spent`.
    pub fn account(&mut self, spent: Duration) {
        self.metrics.turn_duration.observe(spent.as_secs_f64());
        self.metrics.degraded.set(i64::from(self.custody.degraded().is_some()));
    }

    // -----------------------------------------------------------------------------------------------------------
    // The end.

    /// No more commands: what was asked is finished, what is asked from here on is told to come back.
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    /// Everything that was asked has been answered, as far as that depends on the disk.
    pub fn is_settled(&self) -> bool {
        self.custody.is_idle() && self.engine.fx.gathered() == 0
    }

    /// Sends everybody away: sockets with 1012, so that they come back.
    pub fn dismiss(&mut self, now: Now) {
        let indices: Vec<usize> = self.conns.iter().map(|(index, _)| index).collect();
        for index in indices.into_iter().filter_map(|index| u32::try_from(index).ok()) {
            match self.conns.get(index as usize).map(|conn| &conn.protocol) {
                Some(Protocol::Socket(_)) => self.close_socket(now, index, 1012, RESTART),
                Some(Protocol::Http(_) | Protocol::Stream(_)) => self.leave(now, index),
                None => {}
            }
        }
    }

    // -----------------------------------------------------------------------------------------------------------

    /// Says what has become true.
    fn publish(&mut self, now: Now) {
        // To say something may bring about more that is to be said.
        while !self.engine.fx.announcements.is_empty() {
            let mut announcements = std::mem::take(&mut self.engine.fx.announcements);
            for announcement in announcements.drain(..) {
                self.broadcast(now, &announcement);
            }
            if self.engine.fx.announcements.is_empty() {
                // The buffer is used again.
                self.engine.fx.announcements = announcements;
                return;
            }
        }
    }

    /// Books that a connection holds `held` bytes of unfinished input, and no longer `before`. When all of it becomes
    /// too much, those who hold most are let go: not he who comes last, with a short answer and in earnest.
    fn book(&mut self, before: usize, held: usize) {
        self.unfinished_bytes = (self.unfinished_bytes + held).saturating_sub(before);
        let excess = self.unfinished_bytes.saturating_sub(UNFINISHED_BYTES_MAX + self.shed.unfinished_bytes);
        if held > before && excess > 0 {
            self.shed.unfinished_bytes += self.shed(excess + UNFINISHED_BYTES_MAX / SHED_SHARE, Conn::booked_bytes);
        }
    }

    /// When what clients have not taken becomes too much, those who have most to take are let go.
    fn shed_unsent(&mut self) {
        let excess = self.unsent_bytes.saturating_sub(UNSENT_BYTES_MAX + self.shed.unsent_bytes);
        if excess > 0 {
            self.shed.unsent_bytes += self.shed(excess + UNSENT_BYTES_MAX / SHED_SHARE, Conn::unsent_bytes);
        }
    }

    /// Lets connections go, those that hold most first, until `bytes` or more are free once these are reaped. Returns
    /// how many. To find them takes a look at every connection, so more than the excess goes at a time.
    fn shed(&mut self, bytes: usize, bytes_of: impl Fn(&Conn) -> usize) -> usize {
        let open = self.conns.iter().filter(|(_, conn)| conn.phase != Phase::Dead);
        let mut largest: BinaryHeap<(usize, usize)> = open.map(|(index, conn)| (bytes_of(conn), index)).collect();
        let mut freed = 0;
        while freed < bytes
            && let Some((held @ 1.., index)) = largest.pop()
            && let Ok(index) = u32::try_from(index)
        {
            self.metrics.connections_shed.inc();
            self.kill(index);
            freed += held;
        }
        freed
    }

    fn live(&mut self, id: ConnId) -> Option<&mut Conn> {
        let conn = self.conns.get_mut(id.index as usize)?;
        (conn.generation == id.generation && conn.phase == Phase::Open).then_some(conn)
    }

    /// So many listen to `topic`.
    fn listeners(&self, topic: Topic) -> u32 {
        count(&self.audiences, topic, Audience::members)
    }

    /// So many clients take a place at `topic`.
    fn clients(&self, topic: Topic) -> u32 {
        count(&self.audiences, topic, Audience::counted)
    }

    /// An answer has been given: requests behind it may be looked at.
    fn resume(&mut self, now: Now, id: ConnId) {
        if self.live(id).is_some() {
            self.pump(now, id.index);
        }
    }

    /// Marks a connection for the next flush.
    fn mark(&mut self, index: u32) {
        if let Some(conn) = self.conns.get_mut(index as usize).filter(|conn| !conn.dirty) {
            conn.dirty = true;
            self.dirty.push_back(index);
        }
    }

    /// Takes nothing more from a connection, and ends it when everything is sent.
    fn leave(&mut self, now: Now, index: u32) {
        let Some(conn) = self.conns.get_mut(index as usize).filter(|conn| conn.phase == Phase::Open) else { return };
        conn.phase = Phase::Leaving;
        // What was sent before the end is worth some patience; the bytes are there already.
        let patience = if matches!(conn.protocol, Protocol::Http(_)) { WRITE_STALL_MAX } else { SLOW_LINGER_MAX };
        self.set_alarm(index, now.mono + patience);
        self.mark(index);
    }

    /// Ends a connection at once.
    fn kill(&mut self, index: u32) {
        if let Some(conn) = self.conns.get_mut(index as usize).filter(|conn| conn.phase != Phase::Dead) {
            conn.phase = Phase::Dead;
            self.dead.push(index);
            self.part(index);
        }
    }

    /// Sees to it that the connection's alarm rings in time. An alarm that rings too early costs a look, one set
    /// for every byte would fill the heap.
    fn watch(&mut self, index: u32) {
        let Some(conn) = self.conns.get(index as usize).filter(|conn| conn.phase == Phase::Open) else { return };
        let patience = match &conn.protocol {
            Protocol::Http(http) => http.patience(!conn.outbox.is_empty()),
            Protocol::Socket(socket) => {
                let listens = socket.listens;
                let found = self.feeds.patience(listens).min(self.guests.patience(listens));
                Some(socket.patience(conn.told).min(found))
            }
            Protocol::Stream(stream) => Some(stream.patience(conn.told, !conn.outbox.is_empty())),
        };
        if let Some(due) = patience.filter(|due| *due < conn.alarm) {
            self.set_alarm(index, due);
        }
    }

    fn set_alarm(&mut self, index: u32, at: Mono) {
        if let Some(conn) = self.conns.get_mut(index as usize) {
            conn.alarm = at;
            let sleeper = Sleeper { number: index, generation: conn.generation };
            self.engine.fx.deadlines.arm(at, Due::Connection(sleeper));
        }
    }

    /// Alarms of scheduled timers that were deleted would stay in the heap until their day comes.
    fn sweep_alarms(&mut self) {
        let Engine { timers, delivery, rooms, fx, .. } = &mut self.engine;
        if fx.deadlines.len()
            > 4 * (timers.len() + delivery.len() + rooms.len() + self.conns.len()) + STALE_ALARMS_MAX
        {
            let conns = &self.conns;
            fx.deadlines.retain(|at, due| match due {
                Due::Timer(sleeper) => timers.awaits(sleeper),
                Due::Connection(sleeper) => conns
                    .get(sleeper.number as usize)
                    .is_some_and(|conn| conn.generation == sleeper.generation && conn.alarm == at),
                Due::Session(sleeper) => delivery.awaits(sleeper),
                Due::Room(sleeper) => rooms.awaits(sleeper),
                Due::Heartbeat | Due::Upkeep | Due::Beat(_) => true,
            });
        }
    }

    fn wake(&mut self, now: Now, at: Mono, sleeper: Sleeper) {
        let index = sleeper.number;
        let Some(conn) = self.conns.get_mut(index as usize) else { return };
        if conn.generation != sleeper.generation || conn.alarm != at {
            return;
        }
        conn.alarm = Mono::MAX;
        let sending = !conn.outbox.is_empty();
        match (conn.phase, &conn.protocol) {
            (Phase::Dead, _) => {}
            (Phase::Lingering, _) | (Phase::Leaving, Protocol::Socket(_) | Protocol::Stream(_)) => self.kill(index),
            (Phase::Leaving, Protocol::Http(http)) => {
                let until = http.progress + WRITE_STALL_MAX;
                if until <= now.mono { self.kill(index) } else { self.set_alarm(index, until) }
            }
            (Phase::Open, Protocol::Http(http)) => match http.patience(sending) {
                Some(due) if due <= now.mono => self.lose_patience(now, index),
                _ => self.watch(index),
            },
            (Phase::Open, Protocol::Socket(_)) => self.nudge(now, index),
            (Phase::Open, Protocol::Stream(_)) => self.nudge_stream(now, index),
        }
    }
}

/// So many listen to `topic`, in whatever form.
fn count(audiences: &HashMap<(Topic, Encoding), Audience>, topic: Topic, of: fn(&Audience) -> u32) -> u32 {
    let forms = [Encoding::WebSocket, Encoding::EventStream];
    forms.into_iter().filter_map(|encoding| audiences.get(&(topic, encoding))).map(of).sum()
}

/// Bytes of connections that were let go, and are free when they are reaped.
#[derive(Clone, Copy, Debug, Default)]
struct Shed {
    unfinished_bytes: usize,
    unsent_bytes: usize,
}

/// The date of answers, made once a second.
#[derive(Default)]
struct Date {
    second: i64,
    text: String,
}

impl Date {
    fn at(&mut self, wall: WallMs) -> &str {
        let second = wall.ms().div_euclid(1000);
        if second != self.second || self.text.is_empty() {
            self.second = second;
            self.text = imf_fixdate(wall);
        }
        &self.text
    }
}

/// One line for each change of a timer, each start of a session and each new room, when it is durable.
fn log_changes(batch: &Batch) {
    for record in batch.follows.iter().chain(&batch.commands) {
        match record {
            Record::History(entry) => {
                let (timer, action, actor) = (&*entry.timer, entry.action.name(), &*entry.actor);
                let left_s = entry.remaining_ms.div_ceil(1000);
                log::info!(timer, actor, revision = entry.revision, left_s; "timer {action}");
            }
            Record::Room(room) if (room.revision, room.people_ever, room.people.len()) == (1, 1, 1) => {
                log::info!(room = &*room.id; "room created");
            }
            Record::Event(Event {
                kind: Kind::QuizStarted,
                source,
                session: Some(session),
                user: Some(user),
                ..
            }) if &**source == TIMERD => {
                log::info!(session = &**session, candidate = &**user; "session started");
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::domain::absence::Outage;
    use crate::domain::countdown::Second;
    use crate::keys::Keys;

    /// A kernel that takes everything.
    #[derive(Default)]
    pub(super) struct Lines(pub(super) Vec<u8>);

    impl Sockets for Lines {
        fn send(&mut self, _: u32, bytes: &[u8]) -> io::Result<usize> {
            self.0.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn send_vectored(&mut self, index: u32, frames: &[io::IoSlice<'_>]) -> io::Result<usize> {
            frames.iter().map(|frame| self.send(index, frame)).sum()
        }

        fn finish(&mut self, _: u32) {}

        fn close(&mut self, _: u32) {}
    }

    /// A hub without a past, for so many connections.
    pub(super) fn hub(now: Now, connections_max: usize) -> Hub {
        let outage = Outage::RunOn;
        let settings = Settings {
            timers: timers::Settings { timers_max: 1, second: Second::REAL, outage, keep_finished: None },
            delivery: Default::default(),
            rooms: Default::default(),
            guard: Guard::new(Keys::default(), false, Vec::new(), Vec::new()),
            limits: api::Limits { clients_per_timer: 1, sockets_per_address: None },
            rates: Rates::OFF,
            connections_max,
            retention: Retention::default(),
            seed: [1; 32],
        };
        Hub::new(now, settings, Image::default()).unwrap().0
    }

    #[test]
    fn when_all_that_is_unfinished_is_too_much_whoever_holds_most_is_let_go() {
        let now = Now { mono: Mono::from_ns(1_000_000_000), wall: WallMs::from_ms(1) };
        let mut hub = hub(now, 1_000);
        let come = |hub: &mut Hub| hub.accept(now, IpAddr::V4(Ipv4Addr::LOCALHOST)).unwrap();
        let head = format!("POST /events HTTP/1.1\r\nHost: x\r\nContent-Length: {EVENT_BODY_BYTES_MAX}\r\n\r\n");
        let mut send = |bytes: usize| {
            hub.begin(now);
            let index = come(&mut hub);
            hub.receive(now, index, head.as_bytes());
            hub.receive(now, index, &vec![b' '; bytes]);
            hub.reap(&mut Lines::default());
            (index, hub.connections(), hub.unfinished_bytes)
        };
        let large = EVENT_BODY_BYTES_MAX - 10;
        let (.., one) = send(large);
        while send(large).2 + one < UNFINISHED_BYTES_MAX {}
        let mut small = Vec::new();
        let mut before = 0;
        loop {
            let (index, connections, _) = send(large / 8);
            small.push(index);
            if connections <= before {
                break;
            }
            before = connections;
        }
        assert!(small.len() > 1 && small.iter().all(|index| hub.wants_input(*index)), "{small:?}");
    }
}
