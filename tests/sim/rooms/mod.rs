//! Teams in their rooms: people who come, press, lose their lines, come back and leave, and the judgement of what all
//! of them are told.
//!
//! Owns the people of the rooms and how they behave, and holds every byte they get against the [`ledger`]. It is a
//! witness beside those of timers, events and sessions, in the same world: it learns what reaches the daemon, line by
//! line, and from the disk what becomes durable.

mod callers;
mod ledger;
mod members;
mod model;

use std::collections::BTreeMap;

use timerd::clock::Now;
use timerd::domain::disk::{Done, Image};
use timerd::domain::effects::Batch;
use timerd::hub::Hub;

use crate::net::Net;
use crate::rng::Rng;
use crate::world::{Witness, World, violated};
use callers::Caller;
use ledger::{Ledger, Rules};
use members::{Seat, Ticket};

/// What teams are like.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Rooms at a time, more or less.
    pub rooms: usize,
    /// People of a room, more or less.
    pub people: usize,
    /// Sockets at a time.
    pub sockets: usize,
    /// Seconds that a countdown lasts at most, as a rule.
    pub duration_s: u64,
    /// Things people do in a second, all together.
    pub deeds_per_s: u64,
    /// Per cent of presses that everybody makes at once.
    pub rushes: u64,
    /// Per cent of deeds that are nonsense.
    pub nonsense: u64,
    /// The outage policy is to freeze.
    pub freeze: bool,
    /// How long somebody without a line has to come back.
    pub leave_ms: u64,
    /// How long a room without a line is kept.
    pub empty_ms: u64,
    /// Rooms that may be made in a minute.
    pub rate: Option<u32>,
    /// People come and stay: nobody hangs up.
    pub calm: bool,
}

/// All teams.
pub struct Teams {
    plan: Plan,
    rng: Rng,
    ledger: Ledger,
    seats: Vec<Seat>,
    callers: Vec<Caller>,
    tickets: Vec<Ticket>,
    names: u64,
    socks: u64,
    now: Now,
    /// Something of the turn before was left for this one.
    is_late: bool,
    quiet: bool,
    /// What happened.
    pub tally: BTreeMap<&'static str, u64>,
}

impl Teams {
    /// Nobody is there yet.
    pub fn new(plan: Plan, rng: Rng) -> Self {
        let rules = Rules {
            freeze: plan.freeze,
            leave_ns: plan.leave_ms * 1_000_000,
            empty_ns: plan.empty_ms * 1_000_000,
            rate: plan.rate.map(u64::from),
        };
        Teams {
            plan,
            rng,
            ledger: Ledger::new(rules),
            seats: Vec::new(),
            callers: Vec::new(),
            tickets: Vec::new(),
            names: 0,
            socks: 0,
            now: Now::default(),
            is_late: false,
            quiet: false,
            tally: BTreeMap::new(),
        }
    }

    fn count(&mut self, what: &'static str) {
        *self.tally.entry(what).or_default() += 1;
    }

    // -----------------------------------------------------------------------------------------------------------
    // What people do.

    /// One deed of somebody.
    pub fn act(&mut self, world: &mut World) {
        if self.rng.percent(self.plan.nonsense) {
            return if self.rng.percent(4) { self.sin(world) } else { self.talk_nonsense(world) };
        }
        match self.rng.below(100) {
            0..14 => self.come(world),
            14..42 => self.enter(world),
            42..78 => self.press(world),
            78..86 => self.call(world),
            86..94 if !self.plan.calm => self.part(world),
            86..94 => self.press(world),
            _ => self.drain(world),
        }
    }

    // -----------------------------------------------------------------------------------------------------------
    // The end.

    /// Everybody stops doing things; whoever is slow reads.
    pub fn hush(&mut self, world: &mut World) {
        self.quiet = true;
        self.hush_seats(world);
        self.callers.iter().for_each(|caller| world.net.drain(caller.line));
    }

    /// Nobody waits for an answer any more.
    pub fn is_answered(&self) -> bool {
        self.callers.iter().all(|caller| caller.is_idle()) && self.is_owed().is_none()
    }

    /// What is owed, if anything.
    pub fn debts(&self) -> Option<String> {
        let caller = self.callers.iter().find(|caller| !caller.is_idle()).map(|caller| format!("{caller:?}"));
        caller.or_else(|| self.is_owed())
    }

    /// Somebody looks at everything there is.
    pub fn look_at_all(&mut self, world: &mut World) {
        self.ask_all(world);
    }

    /// What has happened in all.
    pub fn settle_account(&mut self) {
        self.tally.append(&mut self.ledger.tally);
    }
}

impl Witness for Teams {
    fn begin(&mut self, now: Now, _: bool, hub: &Hub) {
        self.now = now;
        self.ledger.begin(now, hub);
    }

    fn done(&mut self, now: Now, done: &Done) {
        match done {
            Done::Written(..) => self.ledger.written(now),
            Done::Failed(..) => self.ledger.failed(now),
            Done::Doubted(_) | Done::Answered(..) | Done::Closed => {}
        }
    }

    fn due(&mut self, now: Now, _: &Hub) {
        self.ledger.due(now);
    }

    fn read(&mut self, net: &mut Net) {
        self.read_callers(net);
        self.read_seats(net);
    }

    fn handed(&mut self, now: Now, batch: &Batch) {
        self.ledger.handed(now, batch);
    }

    fn judge(&mut self, world: &mut World) {
        self.ledger.learn(world.now, &world.hub);
        for at in (0..self.seats.len()).rev() {
            self.hear_seat(world, at);
        }
        for at in (0..self.callers.len()).rev() {
            self.hear_caller(world, at);
        }
        let now = world.now;
        // What a turn had no time for it may tell in the next.
        self.is_late = world.hub.has_backlog();
        if self.is_late {
            return;
        }
        for at in 0..self.seats.len() {
            self.expect_seat(now, at);
        }
        let due = self.ledger.next_due().into_iter().chain(self.next_news(now)).min();
        if due.is_some_and(|due| world.next_event().ns() > due.max(now.mono.ns())) {
            let (news, rest) = (self.next_news(now), self.ledger.next_due());
            let whose = self.ledger.whose(due.unwrap_or_default());
            let text = format!("due at {news:?} or {rest:?}, daemon wakes at {:?}: {whose}", world.next_event());
            violated("the daemon wakes when something is due", &text);
        }
    }

    fn restarted(&mut self, world: &mut World, image: &Image) {
        for seat in std::mem::take(&mut self.seats) {
            world.net.forget(seat.line);
        }
        for caller in std::mem::take(&mut self.callers) {
            world.net.forget(caller.line);
        }
        self.now = world.now;
        self.ledger.restore(world.now, image, &world.hub);
        let nouns = &self.ledger.nouns;
        self.tickets.retain(|ticket| nouns.contains_key(&ticket.room()));
        self.count("restarts with rooms");
        self.ask_all(world);
    }
}
