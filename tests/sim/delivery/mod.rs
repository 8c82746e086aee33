//! A hall in which exams are sat: invigilators, candidates, and the judgement of what both are told.
//!
//! Owns the people of the delivery service and how they behave, and holds every byte they get against the
//! [`ledger`]. It is a witness beside the timers' and the events' own, in the same world: it learns what the daemon
//! does from what people see and from what goes to the disk.

mod answers;
mod compare;
mod desks;
pub mod ledger;
mod model;
mod seats;

use std::collections::BTreeMap;
use std::rc::Rc;

use timerd::clock::Now;
use timerd::domain::disk::{Done, Image};
use timerd::domain::effects::Batch;
use timerd::hub::Hub;

use crate::net::Net;
use crate::rng::Rng;
use crate::world::{World, violated};
use desks::Desk;
use ledger::{Deed, Exam, ExamPart, Face, Ledger, Noun, Person, SECRET};
use model::{Go, Mode, Op, SECOND_NS, State};
use seats::Seat;

/// What a hall is like.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Assessments.
    pub exams: usize,
    /// Candidates.
    pub people: u64,
    /// Sessions at a time, more or less.
    pub sessions: usize,
    /// Sessions that the daemon holds.
    pub sessions_max: u32,
    /// Connections of people without a socket.
    pub desks: usize,
    /// Seconds that an exam lasts at most, before anything is added.
    pub limit_s: u64,
    /// Things people do in a second, all together.
    pub deeds_per_s: u64,
    /// Per cent of requests that are nonsense.
    pub nonsense: u64,
    /// Only known candidates are admitted.
    pub known_only: bool,
    /// The outage policy is to freeze.
    pub freeze: bool,
    /// How long an ended session is kept.
    pub keep_ms: Option<u64>,
}

/// A hand-in that somebody has decided on when he was told that his time is up.
struct HandIn {
    due_ns: u64,
    id: Rc<str>,
}

/// A hall with everybody in it.
pub struct Hall {
    plan: Plan,
    rng: Rng,
    /// What sessions are.
    pub ledger: Ledger,
    desks: Vec<Desk>,
    seats: Vec<Seat>,
    hand_ins: Vec<HandIn>,
    /// Who has just started, and will take his seat.
    newcomers: Vec<Rc<str>>,
    names: u64,
    words: u64,
    quiet: bool,
    previous_ns: u64,
    /// What happened.
    pub tally: BTreeMap<&'static str, u64>,
}

impl Hall {
    /// Nobody is there yet.
    pub fn new(plan: Plan, rng: Rng) -> Self {
        Hall {
            ledger: Ledger::new(plan.freeze, plan.keep_ms, plan.sessions_max < 100),
            plan,
            rng,
            desks: Vec::new(),
            seats: Vec::new(),
            hand_ins: Vec::new(),
            newcomers: Vec::new(),
            names: 0,
            words: 0,
            quiet: false,
            previous_ns: 0,
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
        match self.rng.below(100) {
            0..45 => self.come_to_desk(world),
            45..60 => self.sit_down(world),
            60..94 => self.fidget(world),
            _ => self.trouble(world),
        }
    }

    /// Some session, mostly one that is not over.
    fn some_session(&mut self) -> Option<Rc<str>> {
        let any = self.rng.percent(15);
        let is_meant = |noun: &&Noun| {
            noun.gone.is_none() && noun.shown.as_ref().is_some_and(|face| any || face.core.state.is_active())
        };
        let ids: Vec<&Rc<str>> = self.ledger.nouns.values().filter(is_meant).map(|noun| &noun.id).collect();
        ids.get(self.rng.index(ids.len())).map(|id| (*id).clone())
    }

    fn active(&self) -> usize {
        let is_active = |noun: &&Noun| noun.gone.is_none() && noun.latest.core.state.is_active();
        self.ledger.nouns.values().filter(is_active).count()
    }

    /// An assessment that somebody might write.
    fn some_exam(&mut self) -> Exam {
        let rng = &mut self.rng;
        let number = rng.index(self.plan.exams);
        self.names += 1;
        let count = rng.pick(&[1, 1, 2, 3, 4]);
        let mut next = 0;
        let is_limited = rng.percent(50);
        let parts = (0..count).map(|part| {
            let items = rng.range(1, 4);
            let first = next;
            next += items;
            let is_drawn = rng.percent(30);
            let limit_s = (is_limited && rng.percent(70)).then(|| rng.range(1, self.plan.limit_s));
            ExamPart {
                id: format!("part-{part}"),
                limit_s,
                is_drawn,
                drawn: if is_drawn { rng.index(usize::try_from(items).unwrap() + 1) } else { 0 },
                order: rng.pick(&["SEQUENTIAL", "SEQUENTIAL", "RANDOM", "SHUFFLE_SECTIONS"]),
                items: (first..next).map(|item| format!("q{item}")).collect(),
            }
        });
        let parts = parts.collect();
        Exam {
            id: format!("exam-{number}"),
            title: format!("Exam {}", self.names),
            limit_s: rng.percent(85).then(|| rng.range(2, self.plan.limit_s)),
            attempts: rng.percent(30).then(|| rng.range(1, 3)),
            mode: rng.pick(&[Mode::Linear, Mode::Free, Mode::Free, Mode::Hybrid]),
            grace_s: rng.pick(&[0, 1, 3, 10, 10]),
            parts,
        }
    }

    fn some_person(&mut self) -> Person {
        let id = format!("candidate-{}", self.rng.below(self.plan.people));
        let factor = self.rng.pick(&[1_000, 1_000, 1_250, 1_333, 2_000, 4_000]);
        Person { id, is_active: self.rng.percent(92), factor }
    }

    /// An answer that nobody has given before.
    fn some_words(&mut self) -> Rc<str> {
        self.words += 1;
        let fill = if self.rng.percent(4) { "z".repeat(self.rng.index(2_000)) } else { String::new() };
        format!(r#"{{"{SECRET}":{},"text":"{fill}"}}"#, self.words).into()
    }

    /// Something that a candidate does at this session: mostly what makes sense.
    fn some_deed(&mut self, id: &str) -> Deed {
        let face = self.ledger.nouns[id].latest.clone();
        match self.rng.below(100) {
            0..45 => {
                let item = self.some_item(&face);
                let flag = self.rng.pick(&[None, None, None, Some(true), Some(false)]);
                Deed { words: vec![(item.clone(), self.some_words())], ..Deed::plain(Op::Answer(item, flag)) }
            }
            45..90 => Deed::plain(Op::Go(self.some_way(&face))),
            _ => self.some_hand_in(&face),
        }
    }

    fn some_item(&mut self, face: &Face) -> String {
        let place = match self.rng.below(10) {
            0..7 => face.core.place,
            _ => self.rng.index(face.core.paper.total()),
        };
        if self.rng.percent(2) { "q99".to_owned() } else { face.core.paper.item_at(place).to_owned() }
    }

    fn some_way(&mut self, face: &Face) -> Go {
        match self.rng.below(20) {
            0..8 => Go::Next,
            8..11 => Go::Previous,
            11..17 => Go::To(Some(i64::try_from(self.rng.index(face.core.paper.total())).unwrap())),
            17 => Go::To(Some(self.rng.pick(&[-1, 99, 1 << 40]))),
            18 => Go::To(None),
            _ => Go::Nowhere("sideways".to_owned()),
        }
    }

    fn some_hand_in(&mut self, face: &Face) -> Deed {
        let count = self.rng.pick(&[0, 1, 1, 3]);
        let items: Vec<String> = (0..count).map(|_| self.some_item(face)).collect();
        let words = items.iter().map(|item| (item.clone(), self.some_words())).collect();
        Deed { op: Op::Submit(items), words, reason: String::new() }
    }

    /// What an invigilator does to a session.
    fn some_order(&mut self, id: &str) -> Deed {
        let state = self.ledger.nouns[id].latest.core.state;
        let rng = &mut self.rng;
        let seconds = if rng.percent(70) { rng.range(1, 10) } else { rng.range(1, 7_200) };
        let sense = rng.percent(80);
        let op = match rng.below(10) {
            0..4 if sense && state == State::Paused => Op::Resume,
            0..4 if sense => Op::Pause,
            0..2 => Op::Pause,
            2..4 => Op::Resume,
            4..=8 => Op::Extend(seconds),
            _ => Op::Terminate,
        };
        Deed { reason: desks::reason_of(&op), ..Deed::plain(op) }
    }

    // -----------------------------------------------------------------------------------------------------------
    // The witness.

    /// A turn begins.
    pub fn begin(&mut self, now: Now, stepped: bool, hub: &Hub) {
        self.ledger.begin(now, stepped, hub);
    }

    /// The disk has spoken.
    pub fn done(&mut self, now: Now, done: &Done) {
        match done {
            Done::Written(..) => self.ledger.written(now),
            Done::Failed(..) => self.ledger.failed(),
            Done::Doubted(_) | Done::Answered(..) | Done::Closed => {}
        }
    }

    /// The hub is about to let time have its way.
    pub fn due(&mut self, now: Now, hub: &Hub) {
        self.ledger.due(now, hub);
    }

    /// The hub has read what it would: whatever is whole has reached it.
    pub fn read(&mut self, net: &mut Net) {
        let turn = self.ledger.turn();
        for seat in &mut self.seats {
            let delivered = net.line(seat.line).delivered;
            let whole = seat.messages.iter_mut().filter(|it| it.delivered.is_none() && it.end <= delivered);
            for message in whole {
                message.delivered = Some(turn);
                self.ledger.delivered(message.ask);
            }
        }
        for desk in &mut self.desks {
            let delivered = net.line(desk.line).delivered;
            let whole = desk.asks.iter_mut().filter(|it| it.delivered.is_none() && it.end <= delivered);
            for request in whole {
                request.delivered = Some(turn);
                self.ledger.delivered(request.ask);
            }
        }
    }

    /// A batch goes to the disk.
    pub fn handed(&mut self, now: Now, batch: &Batch) {
        self.ledger.handed(now, batch);
    }

    /// Everything of this turn has been sent: clients look, and all is judged.
    pub fn judge(&mut self, world: &mut World) {
        for at in (0..self.seats.len()).rev() {
            self.hear_seat(world, at);
        }
        for at in (0..self.desks.len()).rev() {
            self.hear_desk(world, at);
        }
        for id in std::mem::take(&mut self.newcomers) {
            self.open_seat(world, id);
        }
        let now = world.now;
        let heard = self.seats.iter().filter(|seat| seat.is_prompt()).filter_map(|seat| {
            let noun = self.ledger.nouns.get(&*seat.id).filter(|noun| noun.gone.is_none())?;
            noun.tick_due(|said| seat.has_heard(said), seat.optional.max(seat.cursor))
        });
        let due = heard.chain(self.ledger.next_due(now)).min();
        if let Some(due) = due.filter(|due| world.next_event().ns() > (*due).max(now.mono.ns())) {
            let next = |noun: &&Noun| noun.tick_due(|_| false, 0) == Some(due) || noun.is_due_at(due);
            let noun = self.ledger.nouns.values().find(next);
            let text = format!("due at {due}, daemon wakes at {:?}: {noun:?}", world.next_event());
            violated("the daemon wakes when something is due", &text);
        }
        // Whose time is up hands in, at once or when it may be too late.
        for id in std::mem::take(&mut self.ledger.ends) {
            let grace_ns = self.ledger.nouns[&id].exam.grace_s * SECOND_NS;
            let times = if self.rng.percent(70) { self.rng.range(1, 2) } else { 0 };
            for _ in 0..times {
                let later = if self.rng.percent(60) { 0 } else { self.rng.below(grace_ns * 5 / 4 + 1) };
                self.hand_ins.push(HandIn { due_ns: now.mono.ns() + later, id: id.clone() });
            }
        }
        let (due, later) = std::mem::take(&mut self.hand_ins).into_iter().partition(|it| it.due_ns <= now.mono.ns());
        self.hand_ins = later;
        let due: Vec<HandIn> = due;
        for HandIn { id, .. } in due {
            if let Some(noun) = self.ledger.nouns.get(&id).filter(|noun| noun.gone.is_none()) {
                let face = noun.latest.clone();
                let deed = self.some_hand_in(&face);
                self.send_deed(world, id, deed);
                self.count("hand-ins after the end");
            }
        }
        self.previous_ns = now.mono.ns();
    }

    /// The daemon is back. Everything that was not durable is gone.
    pub fn restarted(&mut self, world: &mut World, image: &Image) {
        for desk in std::mem::take(&mut self.desks) {
            world.net.forget(desk.line);
        }
        let mut returners = Vec::new();
        for seat in std::mem::take(&mut self.seats) {
            world.net.forget(seat.line);
            returners.push(seat.id);
        }
        self.hand_ins.clear();
        self.ledger.restore(world.now, image, &|serial| world.disk.responses_of(serial));
        self.previous_ns = world.now.mono.ns();
        // Each comes back, and looks where he is.
        let ids: Vec<Rc<str>> =
            self.ledger.nouns.values().filter(|noun| noun.gone.is_none()).map(|noun| noun.id.clone()).collect();
        for id in ids {
            self.look_at_all_of(world, &id);
        }
        for id in returners {
            if self.rng.percent(60) && self.ledger.nouns.contains_key(&id) {
                self.open_seat(world, id);
            }
        }
        self.count("hall restarts");
    }

    // -----------------------------------------------------------------------------------------------------------
    // The end.

    /// Everybody stops doing things; whoever is slow reads.
    pub fn hush(&mut self, world: &mut World) {
        self.quiet = true;
        let seats = self.seats.iter().filter(|seat| !seat.gone).map(|seat| seat.line);
        for line in seats.chain(self.desks.iter().map(|desk| desk.line)) {
            world.net.widen(line);
            world.net.drain(line);
        }
    }

    /// Nobody waits for an answer any more.
    pub fn is_answered(&self) -> bool {
        self.debts().is_none()
    }

    /// What is owed, if anything.
    pub fn debts(&self) -> Option<String> {
        let desk = self.desks.iter().find(|desk| !desk.asks.is_empty()).map(|desk| format!("{desk:?}"));
        desk.or_else(|| self.seats.iter().find(|seat| seat.waits()).map(|seat| format!("{seat:?}")))
    }

    /// Somebody looks at everything there is.
    pub fn ask_all(&mut self, world: &mut World) {
        let ids: Vec<Rc<str>> =
            self.ledger.nouns.values().filter(|noun| noun.gone.is_none()).map(|noun| noun.id.clone()).collect();
        for id in ids {
            self.look_at_all_of(world, &id);
        }
        let exams: Vec<String> = self.ledger.exams.keys().cloned().collect();
        for exam in exams {
            self.look_at_list_of(world, &exam);
        }
    }

    /// What has happened in all.
    pub fn settle_account(&mut self) {
        self.tally.append(&mut self.ledger.tally);
    }
}
