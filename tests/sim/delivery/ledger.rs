//! The ledger: every session as it must be, from what goes to the disk and what people have asked for.
//!
//! Owns a reference to each session ([`model`](super::model)) in three states: shown, with the disk, and after
//! everything that was asked for; the log of all that must have been said at it; and every request until it is
//! answered. A change is learnt from the batch that goes to the disk, and must be what one of the requests on their
//! way makes of the session at the instant of a turn: so nothing is done that nobody asked for, and nothing is half
//! done. What follows from time is foretold, and the daemon must do neither more nor less.
//!
//! It shares no arithmetic with the daemon. It looks at one thing of the daemon's that no client sees: whether a
//! change of a session gathers for the next batch, since only that may delay an end. The batch must then bear it out.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use timerd::api::time::date_time;
use timerd::clock::Now;
use timerd::domain::assessments::{Assessment, Candidate};
use timerd::domain::delivery::Session as Stored;
use timerd::domain::disk::Image;
use timerd::domain::effects::{Batch, Record};
use timerd::domain::events::Event as StoredEvent;
use timerd::domain::staged::Hold;
use timerd::hub::Hub;
use timerd::limits::{DISK_HANG_MAX, TICK_SLOT};

use super::compare;
use super::model::{Event, Mode, Op, Paper, Part, SECOND_NS, Session, State, Told};
use crate::world::violated;

const MS_NS: u64 = 1_000_000;

/// An assessment, as somebody has written it.
#[derive(Debug, PartialEq)]
pub struct Exam {
    /// Its id.
    pub id: String,
    /// Its name to people.
    pub title: String,
    /// Its limit in seconds.
    pub limit_s: Option<u64>,
    /// How often one may sit it.
    pub attempts: Option<u64>,
    /// How one may move.
    pub mode: Mode,
    /// Its grace in seconds.
    pub grace_s: u64,
    /// Its parts.
    pub parts: Vec<ExamPart>,
}

/// A section of an assessment.
#[derive(Debug, PartialEq)]
pub struct ExamPart {
    /// Its id, which is its name as well.
    pub id: String,
    /// Its limit in seconds.
    pub limit_s: Option<u64>,
    /// Items are drawn: so many; 0: all of them.
    pub is_drawn: bool,
    /// See above.
    pub drawn: usize,
    /// `SEQUENTIAL`, `RANDOM` or `SHUFFLE_SECTIONS`.
    pub order: &'static str,
    /// The ids of its items.
    pub items: Vec<String>,
}

impl Exam {
    /// The content of an item, as compact JSON.
    pub fn content(&self, item: &str) -> String {
        format!(r#"{{"prompt":"{} of {}","choices":["3","4"]}}"#, item, self.title)
    }
}

/// A candidate, as somebody has put him.
#[derive(Clone, Debug, PartialEq)]
pub struct Person {
    /// His id.
    pub id: String,
    /// Whether he may start.
    pub is_active: bool,
    /// Thousandths by which his limits are multiplied.
    pub factor: u64,
}

/// A session with the answers in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Face {
    /// Its time and place.
    pub core: Session,
    /// Its answers, by place.
    pub words: Vec<Option<Rc<str>>>,
    /// By how much its grace is used up and more, while it cannot be said to be over.
    overdrawn_ns: u64,
}

impl Face {
    /// Lives until `now`, with lapses in which hand-ins would have been in vain.
    pub fn live(&mut self, now: Now, lapses: &[Lapse]) -> Vec<Told> {
        let now_ns = now.mono.ns().max(self.core.at_ns);
        // While hand-ins are in vain no grace is said to be over, even one that was before.
        let is_deaf = lapses.last().is_some_and(|lapse| lapse.until_ns.is_none() && lapse.since_ns <= now_ns);
        let mut told = Vec::new();
        for lapse in lapses {
            let until_ns = lapse.until_ns.unwrap_or(u64::MAX).min(now_ns);
            if until_ns > self.core.at_ns && lapse.since_ns <= now_ns {
                let since_ns = lapse.since_ns.max(self.core.at_ns);
                told.extend(if is_deaf { self.live_open(since_ns) } else { self.core.live(since_ns, true) });
                told.extend(self.core.live(until_ns.max(self.core.at_ns), false));
            }
        }
        told.extend(if is_deaf { self.live_open(now_ns) } else { self.core.live(now_ns, true) });
        told
    }

    /// The same, but that the grace does not end however much of it is used up.
    fn live_open(&mut self, until_ns: u64) -> Vec<Told> {
        let core = &mut self.core;
        let mut told = Vec::new();
        while core.state == State::InProgress
            && let Some(next_ns) = core.next_ns().filter(|next_ns| core.at_ns + next_ns <= until_ns)
        {
            told.extend(core.live(core.at_ns + next_ns, false));
        }
        if core.state == State::Expired && !core.is_closed {
            let passed_ns = until_ns - core.at_ns;
            self.overdrawn_ns += passed_ns.saturating_sub(core.grace_ns);
            core.grace_ns = core.grace_ns.saturating_sub(passed_ns);
        }
        told.extend(core.live(until_ns, false));
        told
    }

    /// Does what is asked for. Nothing has changed when that is refused.
    pub fn ask(&mut self, deed: &Deed) -> Result<Vec<Told>, String> {
        let told = self.core.ask(&deed.op)?;
        for (item, words) in &deed.words {
            if let Some(place) = self.core.paper.place_of(item) {
                self.words[place] = Some(words.clone());
            }
        }
        Ok(told)
    }

    /// Seconds left at `now`.
    pub fn left_s(&self, now: Now) -> Option<u64> {
        Some(self.core.left_at(now.mono.ns().max(self.core.at_ns))?.div_ceil(SECOND_NS))
    }

    /// Seconds left of a section at `now`.
    pub fn part_left_s(&self, part: usize, now: Now) -> Option<u64> {
        let left_ns = self.core.part_left_at(part, now.mono.ns().max(self.core.at_ns))?;
        Some(if self.is_left_behind(part) { 0 } else { left_ns.div_ceil(SECOND_NS) })
    }

    /// Nobody will ever be in this section again.
    pub fn is_left_behind(&self, part: usize) -> bool {
        self.core.sections[part].is_locked
    }

    /// How late it was handed in.
    pub fn late_ms(&self) -> Option<u64> {
        let late_ns = self.core.late_ns.filter(|_| self.core.state == State::Completed)?;
        Some(late_ns.div_ceil(MS_NS))
    }

    /// What is wrong with what is stored, if anything.
    fn quarrel(&self, stored: &Stored, is_deaf: bool) -> Option<String> {
        let answers = self.words.iter().enumerate().find(|(place, words)| {
            let bytes = words.as_ref().map_or(0, |words| words.len());
            stored.mark_at(place_u16(*place)).bytes() != bytes
        });
        compare::quarrel(&self.core, stored, is_deaf).or_else(|| answers.map(|at| format!("answer: {at:?}")))
    }
}

/// A time in which hand-ins would have been in vain.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lapse {
    since_ns: u64,
    /// `None`: it goes on.
    until_ns: Option<u64>,
}

/// What somebody wants done to a session.
#[derive(Clone, Debug, PartialEq)]
pub struct Deed {
    /// What.
    pub op: Op,
    /// The answers that come with it: items, and compact JSON.
    pub words: Vec<(String, Rc<str>)>,
    /// Why more time is given.
    pub reason: String,
}

impl Deed {
    /// Without answers.
    pub fn plain(op: Op) -> Deed {
        Deed { op, words: Vec::new(), reason: String::new() }
    }
}

/// What a request is about.
#[derive(Clone, Debug)]
pub enum What {
    /// An assessment is written.
    Put(Rc<Exam>),
    /// An assessment is given up.
    Drop(String),
    /// A candidate is put.
    Admit(Person),
    /// A session is started: assessment, candidate, and a test taker of whom there is one only.
    Start(String, String, String),
    /// Something is done to a session.
    Deed(Rc<str>, Deed),
    /// The same is done to all sessions of an assessment.
    Bulk(String, Deed),
    /// Nothing is changed.
    Read,
}

/// A request, until it is answered.
#[derive(Debug)]
pub struct Ask {
    /// What it is about.
    pub what: What,
    /// On which line.
    pub line: usize,
    /// In which turn it had reached the daemon.
    pub delivered: Option<u64>,
    /// What comes behind it on its line is not looked at before it is answered.
    blocks: bool,
    /// It came behind such a one.
    was_blocked: bool,
    /// What a batch has made of it.
    pub done: Vec<Outcome>,
    /// Since when nobody hears an answer.
    lost: Option<u64>,
}

/// What a request has brought about.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// In which session; empty: in none.
    pub id: Rc<str>,
    /// In which turn.
    pub turn: u64,
    /// Up to which turn it may have been, where nothing tells.
    pub until: u64,
    /// In which turn the batch before went to the disk: whoever was gone by then has not asked for this.
    first: u64,
    /// What.
    pub op: Option<Op>,
    /// The session before and after that.
    before: Option<Rc<Face>>,
    /// See above.
    pub face: Option<Rc<Face>>,
    /// It was there before.
    pub was_there: bool,
    /// In which batch.
    batch: u64,
}

/// One command, as it goes to the disk.
struct Step<'a> {
    stored: &'a Stored,
    /// Session, number of the item, response.
    words: Vec<(u32, u16, Rc<str>)>,
    events: Vec<&'a StoredEvent>,
}

/// Whose request a command may be.
struct Found {
    ask: usize,
    turn: u64,
    /// Up to which turn it may have been, where nothing tells.
    until: u64,
    deed: Deed,
    face: Face,
    told: Vec<Told>,
    /// What time had made of it before, and how much of what is told that was.
    lived: Face,
    passed: usize,
}

/// The search for that.
struct Search {
    open: Vec<usize>,
    /// These wait for something before them on their line.
    blocked: Vec<bool>,
    found: Vec<Found>,
    /// Whose requests, up to which instant, can have no others behind them, in whatever order they come.
    dead: HashSet<(Vec<usize>, u64)>,
    tries: u32,
    /// How far it came, and what was tried there.
    deepest: usize,
    tried: Vec<String>,
}

/// Something that everybody at a session hears.
#[derive(Debug)]
pub struct Said {
    /// Word for word, in one of these ways.
    pub texts: Vec<String>,
    /// A tick with this value.
    pub tick: Option<u64>,
    /// The instant of the grid at which it fell due, if it is a tick but the last.
    pub grid_ns: Option<u64>,
    /// It must be heard.
    pub is_due: bool,
    /// It may still come.
    pub is_open: bool,
}

/// An event that must be written.
#[derive(Clone, Debug, PartialEq)]
pub struct Owed {
    kind: &'static str,
    place: Option<usize>,
}

/// A tick that is due.
#[derive(Clone, Copy, Debug)]
struct Beat {
    value: u64,
    /// Its instant.
    grid_ns: u64,
    said: usize,
}

impl Beat {
    fn told(self, texts: Vec<String>, is_open: bool) -> Said {
        Said { texts, tick: Some(self.value), grid_ns: Some(self.grid_ns), is_due: true, is_open }
    }
}

/// A session, as the reference has it.
#[derive(Debug)]
pub struct Noun {
    /// Its id.
    pub id: Rc<str>,
    /// Its place in lists.
    pub serial: u32,
    /// What is sat.
    pub exam: Rc<Exam>,
    /// Who sits it.
    pub candidate: String,
    /// Who sits it, by his other name.
    pub taker: String,
    /// When it was started, in milliseconds.
    pub started_ms: i64,
    /// What everybody sees.
    pub shown: Option<Face>,
    /// After everything that was handed to the disk.
    pub latest: Face,
    /// It has something with the disk.
    pub in_hand: bool,
    /// A change gathers.
    gathers: bool,
    /// Something was due and waited for a change that gathers.
    waited: bool,
    to_say: Vec<Said>,
    /// Everything said at it since the daemon started.
    pub log: Vec<Said>,
    beat: Option<Beat>,
    /// The lowest value of this descent.
    told_s: u64,
    /// Shown since these turns.
    pub versions: Vec<(u64, Rc<Face>)>,
    /// What commands were judged against since these turns.
    pub bases: Vec<(u64, Rc<Face>)>,
    /// The name of its end, and that which the disk has.
    pub ended_ms: Option<i64>,
    ended_durable_ms: Option<i64>,
    follows: VecDeque<Face>,
    follows_in_hand: Vec<Face>,
    owed: VecDeque<Owed>,
    owed_in_hand: Vec<Owed>,
    /// What the disk has, and will have.
    durable: Option<Face>,
    durable_next: Option<Face>,
    /// It has left the memory.
    pub gone: Option<u64>,
    /// When something must be looked at.
    wake_ns: u64,
    /// How late it is cannot be told: the machine was away.
    is_late_unsure: bool,
    /// Grace may have been given back.
    is_regraced: bool,
}

/// An assessment or a candidate: every version with the turn since which it was the latest, and was shown.
#[derive(Debug)]
pub struct Versions<T> {
    latest: Vec<(u64, Option<Rc<T>>)>,
    /// See above.
    pub shown: Vec<(u64, Option<Rc<T>>)>,
    in_hand: Option<Option<Rc<T>>>,
}

impl<T> Default for Versions<T> {
    fn default() -> Self {
        Versions { latest: Vec::new(), shown: Vec::new(), in_hand: None }
    }
}

impl<T> Versions<T> {
    /// The present one, whether durable or not.
    pub fn last(&self) -> Option<&Rc<T>> {
        self.latest.last().and_then(|(_, version)| version.as_ref())
    }

    /// The one that everybody sees.
    pub fn seen(&self) -> Option<&Rc<T>> {
        self.shown.last().and_then(|(_, version)| version.as_ref())
    }

    /// Those that were shown at some time since `turn`; `None`: there was none.
    pub fn shown_since(&self, turn: u64) -> Vec<Option<&Rc<T>>> {
        let none = self.shown.first().is_none_or(|(first, _)| *first >= turn).then_some(None);
        since(&self.shown, turn).into_iter().map(Option::as_ref).chain(none).collect()
    }

    /// Those that a command could have been judged against.
    pub fn latest_since(&self, turn: u64) -> Vec<Option<&Rc<T>>> {
        let none = self.latest.first().is_none_or(|(first, _)| *first >= turn).then_some(None);
        since(&self.latest, turn).into_iter().map(Option::as_ref).chain(none).collect()
    }

    fn stage(&mut self, turn: u64, next: Option<Rc<T>>) {
        self.latest.push((turn, next.clone()));
        self.in_hand = Some(next);
    }

    fn commit(&mut self, turn: u64) {
        if let Some(next) = self.in_hand.take() {
            self.shown.push((turn, next));
        }
    }

    fn undo(&mut self, turn: u64) {
        if self.in_hand.take().is_some() {
            self.latest.push((turn, self.seen().cloned()));
        }
    }

    fn restore(&mut self, turn: u64, now: Option<Rc<T>>) {
        self.in_hand = None;
        self.latest = vec![(turn, now.clone())];
        self.shown = vec![(turn, now)];
    }
}

/// What was so at some time since `turn`: the last that began before it, and all later ones.
pub fn since<T>(list: &[(u64, T)], turn: u64) -> Vec<&T> {
    let first = list.iter().rposition(|(began, _)| *began < turn).unwrap_or(0);
    list[first..].iter().map(|(_, what)| what).collect()
}

/// All sessions.
pub struct Ledger {
    /// By id.
    pub nouns: BTreeMap<Rc<str>, Noun>,
    by_serial: HashMap<u32, Rc<str>>,
    /// By id.
    pub exams: BTreeMap<String, Versions<Exam>>,
    /// By id.
    pub people: BTreeMap<String, Versions<Person>>,
    /// Every request ever.
    pub asks: Vec<Ask>,
    open: Vec<usize>,
    /// Those without an answer: what was done may be their doing, however long ago they asked.
    unanswered: BTreeSet<usize>,
    /// The batch that was handed over last, and the last one that is durable. Counted here, since the daemon starts
    /// anew.
    batch: u64,
    durable_batch: u64,
    /// The clocks of every turn.
    pub turns: Vec<Now>,
    /// The latest that the wall clock has shown since the daemon started.
    pub latest_ms: i64,
    /// In which turn a batch was handed over last, and the one before it.
    handed_turn: u64,
    handed_before: u64,
    in_hand: Option<Now>,
    /// When hand-ins would have been in vain, in order of time.
    pub lapses: Vec<Lapse>,
    /// A batch has failed, and since when hand-ins are in vain is not known yet.
    is_failed: bool,
    heard_again: bool,
    /// The wall clock was stepped, or the machine was away.
    is_stepped: bool,
    freeze: bool,
    keep_ms: Option<u64>,
    /// There are so few places that whoever begins may want that of one who has ended.
    is_narrow: bool,
    /// Everything that commands have done: what, and how often.
    pub tally: BTreeMap<&'static str, u64>,
    /// Sessions that came to their ends since somebody looked.
    pub ends: Vec<Rc<str>>,
}

fn nanos(span: std::time::Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap()
}

fn place_u16(place: usize) -> u16 {
    u16::try_from(place).unwrap()
}

impl Ledger {
    /// No sessions yet.
    pub fn new(freeze: bool, keep_ms: Option<u64>, is_narrow: bool) -> Self {
        Ledger {
            nouns: BTreeMap::new(),
            by_serial: HashMap::new(),
            exams: BTreeMap::new(),
            people: BTreeMap::new(),
            asks: Vec::new(),
            open: Vec::new(),
            unanswered: BTreeSet::new(),
            batch: 0,
            durable_batch: 0,
            turns: vec![Now::default()],
            latest_ms: i64::MIN,
            handed_turn: 0,
            handed_before: 0,
            in_hand: None,
            lapses: Vec::new(),
            is_failed: false,
            heard_again: false,
            is_stepped: false,
            freeze,
            keep_ms,
            is_narrow,
            tally: BTreeMap::new(),
            ends: Vec::new(),
        }
    }

    /// The number of the present turn.
    pub fn turn(&self) -> u64 {
        self.turns.len() as u64 - 1
    }

    /// The clocks of a turn.
    pub fn clocks(&self, turn: u64) -> Now {
        self.turns[usize::try_from(turn).unwrap()]
    }

    fn count(&mut self, what: &'static str) {
        *self.tally.entry(what).or_default() += 1;
    }

    // -----------------------------------------------------------------------------------------------------------
    // Requests.

    /// Somebody asks. `blocks`: whatever comes behind it waits for its answer.
    pub fn ask(&mut self, what: What, line: usize, blocks: bool) -> usize {
        let ask = Ask { what, line, blocks, was_blocked: false, delivered: None, done: Vec::new(), lost: None };
        self.asks.push(ask);
        self.unanswered.insert(self.asks.len() - 1);
        self.asks.len() - 1
    }

    /// The request has reached the daemon.
    pub fn delivered(&mut self, ask: usize) {
        self.asks[ask].delivered = Some(self.turn());
        self.asks[ask].was_blocked = self.is_blocked(ask);
        if !matches!(self.asks[ask].what, What::Read) {
            self.open.push(ask);
        }
    }

    /// Its answer will not be heard, or tells nothing.
    pub fn lost(&mut self, ask: usize) {
        let turn = self.turn();
        self.asks[ask].lost.get_or_insert(turn);
    }

    /// It has been answered.
    pub fn answered(&mut self, ask: usize) {
        self.unanswered.remove(&ask);
        self.open.retain(|other| *other != ask);
    }

    /// What the request has done.
    pub fn done(&self, ask: usize) -> Option<&Outcome> {
        self.asks[ask].done.first()
    }

    /// Whether the disk has taken it.
    pub fn is_durable(&self, done: &Outcome) -> bool {
        done.batch <= self.durable_batch
    }

    /// Of those who ask at the same time it cannot be told whose request was carried out first. What this request may
    /// have done to a session: what it is taken to have done, and what others are.
    pub fn outcomes(&self, ask: usize, id: &str) -> Vec<(usize, Outcome)> {
        let of = |at: usize, own: bool| {
            let is_free = |done: &Outcome| own || self.could(ask, done);
            let mut done = self.asks[at].done.iter();
            let done = done.find(|done| *done.id == *id && self.is_durable(done) && is_free(done));
            done.map(|done| (at, done.clone()))
        };
        let others = self.unanswered.iter().rev().copied().filter(|at| *at != ask);
        // The answer to a bulk call does not tell how a session was then: whoever has done the same has perhaps done
        // that.
        let is_answered_bulk =
            |at: &usize| matches!(self.asks[*at].what, What::Bulk(..)) && !self.unanswered.contains(at);
        let mine = of(ask, true);
        let bulks = (0..self.asks.len()).rev().filter(is_answered_bulk).filter(|_| mine.is_some());
        let theirs: Vec<_> = others.chain(bulks).filter_map(|at| of(at, false)).collect();
        mine.into_iter().chain(theirs).collect()
    }

    /// Those without an answer who put the same candidate, or give up the same assessment.
    fn twins(&self, ask: usize) -> impl Iterator<Item = usize> {
        let is_twin = move |other: &usize| match (&self.asks[*other].what, &self.asks[ask].what) {
            (What::Admit(a), What::Admit(b)) => a == b,
            (What::Drop(a), What::Drop(b)) => a == b,
            _ => false,
        };
        self.unanswered.iter().rev().copied().filter(move |other| *other != ask).filter(is_twin)
    }

    /// Of two who put the same candidate, or give up the same assessment, it cannot be told who came first, before one
    /// of them is told whether it was there.
    pub fn settle_twins(&mut self, ask: usize, was_there: bool) {
        let fits = |done: &&Outcome| self.is_durable(done) && done.was_there == was_there;
        if self.done(ask).filter(fits).is_some() {
            return;
        }
        let has_done =
            |twin: &usize| self.done(*twin).filter(fits).is_some_and(|done| self.was_on_its_way(ask, done));
        let twin = self.twins(ask).find(has_done);
        if let Some(twin) = twin {
            self.exchange(ask, twin, "");
        }
    }

    /// What somebody is told was refused was done for whoever asked for the same.
    pub fn give_away_twin(&mut self, ask: usize) {
        let Some(done) = self.done(ask) else { return };
        let twin = self.twins(ask).find(|twin| self.done(*twin).is_none() && self.was_on_its_way(*twin, done));
        if let Some(twin) = twin {
            self.exchange(ask, twin, "");
        }
    }

    /// Whether this request was on its way when that was done.
    fn was_on_its_way(&self, ask: usize, done: &Outcome) -> bool {
        let Ask { delivered, lost, .. } = &self.asks[ask];
        delivered.is_some_and(|delivered| {
            delivered <= done.until && lost.is_none_or(|lost| lost.max(delivered) >= done.first)
        })
    }

    /// Who has asked for a session since `turn`, or waits for one that has not gone to the disk yet, which may hang.
    pub fn starts_since(&self, turn: u64) -> usize {
        let starts = self.asks.iter().enumerate().filter(|(_, ask)| matches!(ask.what, What::Start(..)));
        let waits = |at: usize| self.open.contains(&at) && self.asks[at].done.is_empty();
        starts.filter(|(at, ask)| ask.delivered.is_some_and(|delivered| delivered >= turn) || waits(*at)).count()
    }

    /// The request has done to a session what another was taken to have done, and the other way round.
    pub fn exchange(&mut self, ask: usize, other: usize, id: &str) {
        let mut take = |at: usize| {
            let done = &mut self.asks[at].done;
            let at = done.iter().position(|done| *done.id == *id);
            at.map(|at| done.swap_remove(at))
        };
        let (mine, theirs) = (take(ask), take(other));
        self.asks[ask].done.extend(theirs);
        self.asks[other].done.extend(mine);
    }

    /// Whether this request may have done that, if another has not.
    fn could(&self, ask: usize, done: &Outcome) -> bool {
        let deed = match &self.asks[ask].what {
            What::Deed(of, deed) if *of == done.id => deed,
            What::Bulk(exam, deed) if self.nouns.get(&done.id).is_some_and(|noun| noun.exam.id == *exam) => deed,
            _ => return false,
        };
        let (Some(before), Some(face)) = (&done.before, &done.face) else { return false };
        if !self.was_on_its_way(ask, done) {
            return false;
        }
        let mut again = Face::clone(before);
        again.live(self.clocks(done.turn), &self.lapses);
        let is_done = again.ask(deed).is_ok();
        // How late it was cannot always be told.
        again.core.late_ns = face.core.late_ns;
        is_done && again == **face
    }

    /// Somebody else must have done that to the session: whoever may have and waits for an answer, though others may
    /// have to do in turn what he was taken to have done.
    pub fn give_away(&mut self, ask: usize, id: &str) -> bool {
        self.give_on(ask, id, &mut vec![ask])
    }

    fn give_on(&mut self, ask: usize, id: &str, givers: &mut Vec<usize>) -> bool {
        let Some(done) = self.asks[ask].done.iter().find(|done| *done.id == *id).cloned() else { return false };
        let takers = self.unanswered.iter().rev().copied();
        let mut takers: Vec<usize> = takers.filter(|at| !givers.contains(at) && self.could(*at, &done)).collect();
        let is_busy = |at: &usize| self.asks[*at].done.iter().any(|done| *done.id == *id);
        takers.sort_by_key(is_busy);
        for taker in takers {
            givers.push(taker);
            let is_free = !self.asks[taker].done.iter().any(|done| *done.id == *id)
                || (givers.len() < 5 && self.give_on(taker, id, givers));
            if is_free {
                self.exchange(ask, taker, id);
                return true;
            }
        }
        false
    }

    // -----------------------------------------------------------------------------------------------------------
    // Time.

    /// A turn begins.
    pub fn begin(&mut self, now: Now, stepped: bool, hub: &Hub) {
        self.turns.push(now);
        self.latest_ms = self.latest_ms.max(now.wall.ms());
        self.is_stepped |= stepped;
        for noun in self.nouns.values_mut() {
            noun.gathers = hub.engine().delivery.hold_of(&noun.id) == Hold::Gathering;
        }
        if stepped {
            // A step is noticed before the disk is heard, and everything is brought to the present then.
            self.settle_all(now, false);
        }
    }

    /// The hub is about to let time have its way.
    pub fn due(&mut self, now: Now, hub: &Hub) {
        if std::mem::take(&mut self.is_failed) {
            // Whoever asked for something since the last batch that was not lost has asked in vain. When that was
            // first, only the daemon knows.
            let since = hub.engine().delivery.deaf_since().map_or(u64::MAX, |since| since.ns());
            let earliest = self.clocks(self.handed_before).mono.ns();
            if since > now.mono.ns() || since < earliest.min(self.deaf_since().unwrap_or(u64::MAX)) {
                violated("a grace counts no time in which a hand-in is in vain", &format!("{since}, not {earliest}"));
            }
            self.fall_deaf(now, since);
        }
        let hang_ns = nanos(DISK_HANG_MAX);
        if self.in_hand.is_some_and(|since| now.mono.ns() - since.mono.ns() >= hang_ns) {
            self.fall_deaf(now, now.mono.ns());
        }
        self.settle_all(now, true);
    }

    fn settle_all(&mut self, now: Now, with_ticks: bool) {
        let turn = self.turn();
        for noun in self.nouns.values_mut() {
            noun.settle(now, turn, &self.lapses, with_ticks, &mut self.ends);
        }
    }

    fn deaf_since(&self) -> Option<u64> {
        self.lapses.last().filter(|lapse| lapse.until_ns.is_none()).map(|lapse| lapse.since_ns)
    }

    /// Hand-ins are in vain since then, known now.
    fn fall_deaf(&mut self, now: Now, since_ns: u64) {
        if self.deaf_since().is_some_and(|since| since <= since_ns) {
            return;
        }
        let lapses = &self.lapses;
        let heard = |from_ns: u64, until_ns: u64| {
            let lost = lapses.iter().map(|lapse| {
                let until = lapse.until_ns.unwrap_or(u64::MAX).min(until_ns);
                until.saturating_sub(lapse.since_ns.max(from_ns))
            });
            until_ns.saturating_sub(from_ns).saturating_sub(lost.sum())
        };
        for face in self.nouns.values_mut().flat_map(Noun::faces) {
            if face.core.state == State::Expired && !face.core.is_closed {
                face.live_open(since_ns.max(face.core.at_ns));
                let began_ns = face.core.at_ns - face.core.late_ns.unwrap_or(0).min(face.core.at_ns);
                let back_ns = heard(began_ns.max(since_ns), face.core.at_ns);
                let paid_ns = back_ns.min(face.overdrawn_ns);
                face.overdrawn_ns -= paid_ns;
                face.core.grace_ns += back_ns - paid_ns;
                face.core.live(now.mono.ns(), false);
            }
        }
        let mut lapse = Lapse { since_ns, until_ns: None };
        while let Some(last) = self.lapses.pop_if(|last| last.until_ns.is_none_or(|until| until >= lapse.since_ns)) {
            lapse.since_ns = lapse.since_ns.min(last.since_ns);
        }
        self.lapses.push(lapse);
        self.count("deaf");
    }

    fn hear_again(&mut self, now: Now) {
        let Some(last) = self.lapses.last_mut().filter(|lapse| lapse.until_ns.is_none()) else { return };
        last.until_ns = Some(now.mono.ns());
        self.heard_again = true;
        let is_open = |face: &&mut Face| face.core.state == State::Expired && !face.core.is_closed;
        for noun in self.nouns.values_mut() {
            for face in noun.faces().filter(is_open) {
                face.core.live(now.mono.ns(), false);
            }
            noun.wake_ns = 0;
            noun.is_regraced = true;
        }
    }

    /// When something must happen next: the daemon must wake by then.
    pub fn next_due(&self, now: Now) -> Option<u64> {
        let grace = self.deaf_since().is_none();
        self.nouns.values().filter_map(|noun| noun.next_due(now, grace)).min()
    }

    // -----------------------------------------------------------------------------------------------------------
    // The disk.

    /// A batch goes to the disk: everything in it is worked out anew.
    pub fn handed(&mut self, now: Now, batch: &Batch) {
        if self.in_hand.replace(now).is_some() {
            violated("at most one batch is in the disk's hands", "handed over");
        }
        self.batch += 1;
        for record in &batch.follows {
            self.follow(now, record);
        }
        for noun in self.nouns.values() {
            if let (Some(missing), _) | (None, Some(missing)) =
                (noun.owed.front().map(|it| format!("{it:?}")), noun.follows.front().map(|it| format!("{it:?}")))
            {
                violated("what follows is written as soon as it can be", &format!("{missing} of {noun:?}"));
            }
        }
        let mut words: Vec<(u32, u16, Rc<str>)> = Vec::new();
        let mut events: Vec<&StoredEvent> = Vec::new();
        let mut touched = HashSet::new();
        let mut steps: BTreeMap<u32, Vec<Step<'_>>> = BTreeMap::new();
        for record in &batch.commands {
            match record {
                Record::Answer { session, item, response } => words.push((*session, *item, (**response).into())),
                Record::Event(event) if is_mine(event) => events.push(event),
                Record::Session(stored) => {
                    touched.insert(stored.serial);
                    let (words, events) = (std::mem::take(&mut words), std::mem::take(&mut events));
                    if self.by_serial.contains_key(&stored.serial) {
                        steps.entry(stored.serial).or_default().push(Step { stored, words, events });
                    } else {
                        // What a start is judged by comes first.
                        self.work_off(&mut steps, |noun| *noun.candidate == *stored.candidate);
                        self.started(stored, events);
                    }
                }
                Record::Assessment(assessment) => self.written_exam(assessment),
                Record::AssessmentGone(id) => {
                    self.work_off(&mut steps, |noun| *noun.exam.id == **id);
                    self.dropped_exam(id);
                }
                Record::Candidate(candidate) => self.put_person(candidate),
                _ => {}
            }
        }
        self.work_off(&mut steps, |_| true);
        if !words.is_empty() || !events.is_empty() {
            violated("answers and events go with their session", &format!("{words:?}, {events:?}"));
        }
        for noun in self.nouns.values_mut() {
            if std::mem::take(&mut noun.waited) && !touched.contains(&noun.serial) {
                violated("an end waits only for a change of its own session", &format!("{noun:?}"));
            }
        }
        // Whatever those asked for who hear no more was done by now, or never will be.
        self.handed_before = self.handed_turn;
        self.handed_turn = self.turn();
        let turn = self.handed_turn;
        let asks = &self.asks;
        self.open.retain(|ask| asks[*ask].lost.is_none_or(|lost| lost >= turn));
        self.heard_again = false;
    }

    /// Works out the commands so far on sessions that are meant.
    fn work_off(&mut self, steps: &mut BTreeMap<u32, Vec<Step<'_>>>, is_meant: impl Fn(&Noun) -> bool) {
        let serials: Vec<u32> = steps.keys().copied().collect();
        for serial in serials {
            let id = self.by_serial[&serial].clone();
            if is_meant(&self.nouns[&id]) {
                let steps = steps.remove(&serial).unwrap_or_default();
                self.commands(&id, steps);
            }
        }
    }

    fn follow(&mut self, now: Now, record: &Record) {
        match record {
            Record::Event(event) if is_mine(event) => {
                let noun = self.noun_of(event);
                let owed = noun.owed.pop_front();
                let told = owed_of(event, noun);
                if owed.as_ref() != Some(&told) {
                    let text = format!("{event:?}, not {owed:?} of {noun:?}");
                    violated("what follows is an event, once, and nothing else is", &text);
                }
                noun.owed_in_hand.push(told);
            }
            Record::Session(stored) => {
                let is_stepped = self.is_stepped;
                let is_deaf = self.deaf_since().is_some() || self.heard_again;
                let id = self.by_serial.get(&stored.serial).cloned();
                let noun = id.and_then(|id| self.nouns.get_mut(&id));
                let Some(noun) = noun else {
                    violated("only what was started is stored", &format!("{stored:?}"));
                };
                noun.check_frame(stored);
                let quarrel = noun.follows.front().map(|face| face.quarrel(stored, is_deaf));
                if let Some(None) = quarrel {
                    let face = noun.follows.pop_front().unwrap();
                    noun.check_end(stored, &face, now, is_stepped);
                    noun.durable_next = Some(face.clone());
                    noun.follows_in_hand.push(face);
                    return;
                }
                // A new name of an end, or grace that is given back.
                let same = |(_, face): &(u64, Rc<Face>)| face.quarrel(stored, true).is_none();
                let is_known = noun.versions.iter().rev().take(8).any(same);
                if !is_known || !(is_stepped || noun.is_regraced) {
                    let expected = noun.follows.front();
                    let text = format!("{quarrel:?}: {stored:?}\n  not {expected:?}\n  of {noun:?}");
                    violated("only what follows is written as such, at its true instant", &text);
                }
                noun.durable_next.clone_from(&noun.shown);
            }
            Record::SessionPast(serial) => {
                let (turn, is_stepped) = (self.turn(), self.is_stepped);
                let keep = self.keep_ms;
                let latest =
                    self.turns[usize::try_from(self.handed_turn).unwrap()..].iter().map(|turn| turn.wall.ms());
                let latest = latest.max().unwrap_or_default();
                let noun = self.by_serial.get(serial).and_then(|id| self.nouns.get_mut(id));
                let Some(noun) = noun else { violated("only what was started is given up", &format!("{serial}")) };
                let age_ms = noun.ended_ms.map(|ended| latest - ended);
                let is_old = keep.zip(age_ms).is_some_and(|(keep, age)| age >= i64::try_from(keep).unwrap());
                let is_over = noun.shown.as_ref().is_some_and(|face| match face.core.state {
                    State::Completed | State::Terminated => true,
                    State::Expired => face.core.is_closed,
                    State::InProgress | State::Paused => false,
                });
                // By a clock that has been set since, it may have been old; or its place was wanted.
                let may_go = is_old || (is_stepped && keep.is_some()) || self.is_narrow;
                if !may_go || !is_over {
                    violated("only the old and ended leave the memory", &format!("{age_ms:?}: {noun:?}"));
                }
                noun.gone.get_or_insert(turn);
                noun.durable_next = None;
            }
            Record::Answer { .. } | Record::Assessment(_) | Record::AssessmentGone(_) | Record::Candidate(_) => {
                violated("only what follows is written as such", &format!("{record:?}"));
            }
            _ => {}
        }
    }

    fn noun_of(&mut self, event: &StoredEvent) -> &mut Noun {
        let id = event.session.as_deref().unwrap_or_default();
        match self.nouns.get_mut(id) {
            Some(noun) => noun,
            None => violated("an event is of a session", &format!("{event:?}")),
        }
    }

    /// Commands on one session, in order: each is what somebody asked for.
    fn commands(&mut self, id: &Rc<str>, steps: Vec<Step<'_>>) {
        let noun = &self.nouns[id];
        for step in &steps {
            noun.check_frame(step.stored);
            if step.words.iter().any(|(serial, ..)| *serial != step.stored.serial) {
                violated("answers go with their session", &format!("{:?}: {:?}", step.words, step.stored));
            }
        }
        let is_meant = |ask: &&usize| match &self.asks[**ask].what {
            What::Deed(of, _) => of == id,
            What::Bulk(exam, _) => *exam == noun.exam.id,
            _ => false,
        };
        let mut open: Vec<usize> = self.open.iter().filter(is_meant).copied().collect();
        open.sort_by_key(|ask| (self.asks[*ask].delivered, self.asks[*ask].line, *ask));
        let blocked: Vec<bool> = open.iter().map(|at| self.is_blocked(*at)).collect();
        let (found, dead, tried) = (Vec::new(), HashSet::new(), Vec::new());
        let mut search = Search { open, blocked, found, dead, tries: 0, deepest: 0, tried };
        let base = noun.latest.clone();
        let mut is_explained = self.explain(noun, &steps, &base, &mut search);
        // What earlier batches have done may have been others' doing.
        for giver in search.open.clone() {
            if is_explained {
                break;
            }
            let taken = self.asks[giver].done.clone();
            if taken.iter().any(|done| done.id == *id) && self.give_away(giver, id) {
                (search.tries, search.found) = (0, Vec::new());
                search.dead.clear();
                is_explained = self.explain(&self.nouns[id], &steps, &base, &mut search);
            }
        }
        let noun = &self.nouns[id];
        if !is_explained {
            let Search { deepest, tried, .. } = search;
            let asked = self.asked_of(id);
            let stored = steps[deepest].stored;
            let text = format!("{stored:?}\n  from {:?}\n  tried: {tried:#?}\n  asked: {asked:#?}", noun.latest);
            violated("a command is asked for, and does what the contract says, at the instant of a turn", &text);
        }
        for (step, found) in steps.into_iter().zip(search.found) {
            self.carried_out(id, &step, found);
        }
    }

    /// Finds out whose requests these are, from the session `base` on: of those who ask at the same time it cannot be
    /// told who came first, so that all orders are tried.
    fn explain(&self, noun: &Noun, steps: &[Step<'_>], base: &Face, search: &mut Search) -> bool {
        let depth = search.found.len();
        let Some(step) = steps.get(depth) else { return true };
        let mut used: Vec<usize> = search.found.iter().map(|found| found.ask).collect();
        used.sort_unstable();
        if search.dead.contains(&(used.clone(), base.core.at_ns)) {
            return false;
        }
        let (first, last) = (self.handed_turn, self.turn());
        if depth > search.deepest || depth == 0 {
            (search.deepest, search.tried) = (depth, Vec::new());
        }
        let dated = step.events.last().map(|event| event.at);
        // What has come is carried out at once, but where others go first.
        for later in [false, true] {
            for number in 0..search.open.len() {
                let at = search.open[number];
                let ask = &self.asks[at];
                let is_used = search
                    .found
                    .iter()
                    .any(|found| found.ask == at || (found.ask > at && self.asks[found.ask].line == ask.line));
                let (What::Deed(_, deed) | What::Bulk(_, deed)) = &ask.what else { continue };
                if is_used
                    || ask.done.iter().any(|done| done.id == noun.id)
                    || search.blocked[number] != later && !later
                {
                    continue;
                }
                let delivered = ask.delivered.unwrap_or(last).max(first);
                let turns: Vec<u64> = match (&deed.op, later) {
                    (_, false) if ask.delivered < Some(delivered) => continue,
                    (_, false) => vec![delivered],
                    (Op::Pause | Op::Resume | Op::Extend(_) | Op::Flag(..), true) if dated.is_some() => {
                        (delivered..=last).collect()
                    }
                    (Op::Pause | Op::Resume | Op::Extend(_), true) => (delivered..=last).collect(),
                    (_, true) if dated.is_none() => vec![delivered, last],
                    (_, true) => (delivered..=last).filter(|turn| Some(self.clocks(*turn).wall) == dated).collect(),
                };
                for turn in turns {
                    search.tries += 1;
                    if search.tries > 20_000 {
                        return false;
                    }
                    match self.attempt(noun, step, base, deed, turn) {
                        Ok(mut found) => {
                            found.ask = at;
                            let next = found.face.clone();
                            search.found.push(found);
                            if self.explain(noun, steps, &next, search) {
                                return true;
                            }
                            search.found.pop();
                            // Later turns make no difference to what has no instant.
                            break;
                        }
                        Err(why) if depth == search.deepest && search.tried.len() < 60 => {
                            search.tried.push(format!("turn {turn}, {deed:?}: {why}"));
                        }
                        Err(_) => {}
                    }
                }
            }
        }
        search.dead.insert((used, base.core.at_ns));
        false
    }

    /// What comes of a request that is carried out in this turn, if that is what was stored.
    fn attempt(&self, noun: &Noun, step: &Step<'_>, base: &Face, deed: &Deed, turn: u64) -> Result<Found, String> {
        let Step { stored, words, events } = step;
        let then = self.clocks(turn);
        if then.mono.ns() < base.core.at_ns {
            return Err("too early".to_owned());
        }
        let mut face = base.clone();
        let mut told = face.live(then, &self.lapses);
        let (lived, passed) = (face.clone(), told.len());
        let more = face.ask(deed)?;
        let is_dated = more.iter().any(|(_, event)| !owed_for(event).is_empty());
        told.extend(more);
        let kept = words.iter().map(|(_, number, text)| {
            let place = (0..stored.total()).find(|place| stored.number_at(*place) == *number);
            (face.core.paper.item_at(usize::from(place.unwrap())), text)
        });
        let asked = deed.words.iter().map(|(item, text)| (item.as_str(), text));
        if !kept.eq(asked) {
            return Err("other answers".to_owned());
        }
        if is_dated && events.last().is_some_and(|event| event.at != then.wall) {
            return Err("another instant".to_owned());
        }
        if let Some(late_ms) = stored.late_ms.filter(|_| noun.is_late_unsure) {
            face.core.late_ns.iter_mut().for_each(|late| *late = late_ms * MS_NS);
        }
        if let Some(why) = face.quarrel(stored, false) {
            return Err(why);
        }
        // Without an event and without a clock that begins or stops, nothing tells when it was.
        let is_timed = base.core.next_ns().is_some() || face.core.next_ns().is_some();
        let is_vague = !is_dated && (matches!(deed.op, Op::Extend(_) | Op::Flag(..) | Op::Go(_)) || !is_timed);
        let is_same = |later: &u64| {
            let clocks = self.clocks(*later);
            let mut again = base.clone();
            again.live(clocks, &self.lapses);
            clocks.wall == then.wall && again.ask(deed).is_ok() && again.quarrel(stored, false).is_none()
        };
        // Turns within a millisecond have the same name.
        let until =
            if is_vague { self.turn() } else { (turn + 1..=self.turn()).take_while(is_same).last().unwrap_or(turn) };
        Ok(Found { ask: 0, turn, until, deed: deed.clone(), face, told, lived, passed })
    }

    /// A request was carried out.
    fn carried_out(&mut self, id: &Rc<str>, step: &Step<'_>, found: Found) {
        let Found { ask, turn, until, deed, face, told, lived, passed } = found;
        self.count(name_of(&deed.op));
        let is_moved = told.iter().any(|(_, event)| matches!(event, Event::SectionOver { .. }));
        if is_moved {
            self.count("sections over meanwhile");
        }
        let now = self.clocks(turn);
        let noun = self.nouns.get_mut(id).unwrap();
        let owed: Vec<Owed> = told.iter().flat_map(|(_, event)| owed_for(event)).collect();
        let kept: Vec<Owed> = step.events.iter().map(|event| owed_of(event, noun)).collect();
        if owed != kept {
            violated("every change has its events in the same commit", &format!("{kept:?}, not {owed:?}: {deed:?}"));
        }
        let face = Rc::new(face);
        for (number, (_, event)) in told.iter().enumerate() {
            let then_face = if number < passed { &lived } else { &*face };
            let mut said = spoken(event, &noun.exam, then_face, now, &deed);
            for then in turn + 1..=until {
                let again = spoken(event, &noun.exam, then_face, self.turns[usize::try_from(then).unwrap()], &deed);
                for (said, again) in said.iter_mut().zip(again) {
                    for text in again.texts {
                        if said.texts.last() != Some(&text) {
                            said.texts.push(text);
                        }
                    }
                }
            }
            noun.to_say.extend(said);
        }
        noun.check_end(step.stored, &face, now, self.is_stepped);
        let before = Rc::new(std::mem::replace(&mut noun.latest, Face::clone(&face)));
        noun.durable_next = Some(Face::clone(&face));
        noun.in_hand = true;
        noun.gathers = false;
        // Where nothing tells when it was, what was before may have been so until the last.
        let began = noun.bases.last().map_or(until, |(began, _)| until.max(*began));
        noun.bases.push((began, face.clone()));
        let (id, batch) = (id.clone(), self.batch);
        let op = Some(deed.op);
        let (first, before, face) = (self.handed_turn, Some(before), Some(face));
        let done = Outcome { id, turn, until, first, op, before, face, was_there: true, batch };
        self.asks[ask].done.push(done);
    }

    /// What was asked of a session lately, for whoever wonders.
    pub fn asked_of(&self, id: &str) -> Vec<String> {
        let of = |(_, ask): &(usize, &Ask)| match &ask.what {
            What::Deed(of, _) => **of == *id,
            What::Bulk(exam, _) => self.nouns.get(id).is_some_and(|noun| noun.exam.id == *exam),
            _ => false,
        };
        let tell = |(at, ask): (usize, &Ask)| {
            let closed = !self.unanswered.contains(&at);
            let Ask { what, line, delivered, lost, .. } = ask;
            let done: Vec<_> =
                ask.done.iter().filter(|done| *done.id == *id).map(|done| (done.turn, done.until)).collect();
            format!("{what:?} on {line}, delivered {delivered:?}, lost {lost:?}, closed {closed}: {done:?}")
        };
        self.asks.iter().enumerate().rev().filter(of).take(60).map(tell).collect()
    }

    /// Something before it on its line must be answered first.
    fn is_blocked(&self, ask: usize) -> bool {
        let line = self.asks[ask].line;
        let mut before = self.unanswered.range(..ask).map(|other| &self.asks[*other]);
        before.any(|other| other.line == line && other.blocks && other.lost.is_none())
    }

    /// A session begins.
    fn started(&mut self, stored: &Stored, events: Vec<&StoredEvent>) {
        let turn = self.turn();
        let taker = &*stored.test_taker;
        let asked = self.open.iter().copied().find(|ask| match &self.asks[*ask].what {
            What::Start(exam, candidate, by) => {
                by == taker && *exam == *stored.assessment.id && **candidate == *stored.candidate
            }
            _ => false,
        });
        let Some(at) = asked.filter(|at| self.asks[*at].done.is_empty()) else {
            violated("a session is started once, by somebody who asked for that", &format!("{stored:?}"));
        };
        let exam = self.exams.get(&*stored.assessment.id).and_then(Versions::last);
        let Some(exam) = exam.cloned() else {
            violated("only an assessment that is there is started", &format!("{stored:?}"));
        };
        let factor = match self.people.get(&*stored.candidate).and_then(Versions::last) {
            Some(person) if !person.is_active => {
                violated("whoever is not active starts nothing", &format!("{stored:?}"))
            }
            person => person.map_or(1_000, |person| person.factor),
        };
        let sat = self.nouns.values().filter(|noun| *noun.candidate == *stored.candidate && noun.exam.id == exam.id);
        let (active, ended): (Vec<&Noun>, Vec<&Noun>) = sat.partition(|noun| noun.latest.core.state.is_active());
        if exam.attempts.is_some_and(|most| !active.is_empty() || ended.len() as u64 >= most) {
            // Time may have ended one that the disk has in hand; its answer tells.
            let all: Vec<_> = active.iter().chain(&ended).map(|noun| &noun.id).collect();
            if active.iter().all(|noun| noun.latest.core.next_ns().is_none())
                || ended.len() as u64 >= exam.attempts.unwrap()
            {
                violated("nobody sits an assessment more often than he may", &format!("{stored:?}, beside {all:?}"));
            }
        }
        let paper = Rc::new(paper_of(stored, &exam, factor));
        let first = self.asks[at].delivered.unwrap().max(self.handed_turn);
        let begun = (first..=turn).find_map(|turn| {
            let core = Session::start(paper.clone(), self.clocks(turn).mono.ns());
            let words = vec![None; paper.total()];
            let face = Face { core, words, overdrawn_ns: 0 };
            (face.quarrel(stored, false).is_none() && stored.started_at == self.clocks(turn).wall)
                .then_some((turn, face))
        });
        let Some((then, face)) = begun else {
            violated(
                "a session begins with all its time, at the instant of a turn",
                &format!("{stored:?}: {paper:?}"),
            );
        };
        let id: Rc<str> = Rc::from(&*stored.id);
        let is_uuid = id.len() == 36 && id.as_bytes()[14] == b'4' && b"89ab".contains(&id.as_bytes()[19]);
        if !is_uuid || self.nouns.contains_key(&id) {
            violated("a session's id is a UUID of its own", &id);
        }
        let told_s = face.left_s(self.clocks(then)).unwrap_or(0);
        let shared = Rc::new(face.clone());
        let noun = Noun {
            id: id.clone(),
            serial: stored.serial,
            exam,
            candidate: stored.candidate.to_string(),
            taker: taker.to_owned(),
            started_ms: stored.started_at.ms(),
            shown: None,
            latest: face.clone(),
            in_hand: true,
            gathers: false,
            waited: false,
            to_say: Vec::new(),
            log: Vec::new(),
            beat: None,
            told_s,
            versions: Vec::new(),
            bases: vec![(then, shared.clone())],
            ended_ms: None,
            ended_durable_ms: None,
            follows: VecDeque::new(),
            follows_in_hand: Vec::new(),
            owed: VecDeque::new(),
            owed_in_hand: Vec::new(),
            durable: None,
            durable_next: Some(face),
            gone: None,
            wake_ns: 0,
            is_late_unsure: false,
            is_regraced: false,
        };
        let plain = |kind, place| Owed { kind, place };
        let owed = [plain("session_created", None), plain("quiz_started", None), plain("question_viewed", Some(0))];
        let kept: Vec<Owed> = events.iter().map(|event| owed_of(event, &noun)).collect();
        if kept != owed {
            violated("every change has its events in the same commit", &format!("{kept:?}, not {owed:?}"));
        }
        self.by_serial.insert(stored.serial, id.clone());
        self.nouns.insert(id.clone(), noun);
        let batch = self.batch;
        let ask = &mut self.asks[at];
        ask.done.push(Outcome {
            id,
            turn: then,
            until: then,
            first: self.handed_turn,
            op: None,
            before: None,
            face: Some(shared),
            was_there: false,
            batch,
        });
        self.count("sessions");
    }

    /// Takes the request that this came of.
    fn asked_for(&mut self, what: &str, fits: impl Fn(&What) -> bool) -> usize {
        let mut open = self.open.clone();
        open.sort_by_key(|ask| (self.asks[*ask].delivered, self.asks[*ask].line, *ask));
        let at = open.into_iter().find(|at| self.asks[*at].done.is_empty() && fits(&self.asks[*at].what));
        at.unwrap_or_else(|| violated("only what is asked for is done", what))
    }

    /// Since when what a request has brought about is so: since it came, or by now, if it had to wait for others.
    fn began(&self, at: usize) -> u64 {
        self.asks[at].delivered.filter(|_| !self.asks[at].was_blocked).unwrap_or(self.turn())
    }

    fn outcome(&mut self, at: usize, was_there: bool) {
        let (turn, first) = (self.turn(), self.handed_turn);
        let batch = self.batch;
        let ask = &mut self.asks[at];
        ask.done.push(Outcome {
            id: Rc::from(""),
            turn,
            until: turn,
            first,
            op: None,
            before: None,
            face: None,
            was_there,
            batch,
        });
    }

    fn written_exam(&mut self, stored: &Assessment) {
        let is_meant = |what: &What| matches!(what, What::Put(exam) if is_same(exam, stored));
        let at = self.asked_for(&format!("{stored:?}"), is_meant);
        let What::Put(exam) = self.asks[at].what.clone() else { unreachable!() };
        let since = self.began(at);
        let versions = self.exams.entry(exam.id.clone()).or_default();
        let was_there = versions.last().is_some();
        versions.stage(since, Some(exam));
        self.outcome(at, was_there);
    }

    fn dropped_exam(&mut self, id: &str) {
        let at = self.asked_for(id, |what| matches!(what, What::Drop(exam) if exam == id));
        let since = self.began(at);
        let active = self.nouns.values().find(|noun| {
            noun.exam.id == id && noun.latest.core.state.is_active() && noun.latest.core.next_ns().is_none()
        });
        if let Some(active) = active {
            violated("an assessment that is sat stays", &format!("{active:?}"));
        }
        self.exams.entry(id.to_owned()).or_default().stage(since, None);
        self.outcome(at, true);
    }

    fn put_person(&mut self, stored: &Candidate) {
        let is_same = |person: &Person| {
            *person.id == *stored.id
                && person.is_active == stored.is_active
                && person.factor * 1_000_000 == stored.extra_time.billionths()
        };
        let is_meant = |what: &What| matches!(what, What::Admit(person) if is_same(person));
        let at = self.asked_for(&format!("{stored:?}"), is_meant);
        let What::Admit(person) = self.asks[at].what.clone() else { unreachable!() };
        let since = self.began(at);
        let versions = self.people.entry(person.id.clone()).or_default();
        let was_there = versions.last().is_some();
        versions.stage(since, Some(Rc::new(person)));
        self.outcome(at, was_there);
    }

    /// The disk has made the batch in hand durable.
    pub fn written(&mut self, now: Now) {
        let turn = self.turn();
        self.in_hand = None;
        self.durable_batch = self.batch;
        self.exams.values_mut().for_each(|versions| versions.commit(turn));
        self.people.values_mut().for_each(|versions| versions.commit(turn));
        for noun in self.nouns.values_mut() {
            noun.follows_in_hand.clear();
            noun.owed_in_hand.clear();
            noun.ended_durable_ms = noun.ended_ms;
            if let Some(next) = noun.durable_next.take() {
                noun.durable = Some(next);
            }
            if std::mem::take(&mut noun.in_hand) {
                noun.show(now, turn);
            }
        }
        self.hear_again(now);
    }

    /// The batch in hand will never be durable, nor will what gathers.
    pub fn failed(&mut self) {
        let turn = self.turn();
        self.in_hand = None;
        self.is_failed = true;
        let lost = self.batch;
        for ask in &self.unanswered {
            self.asks[*ask].done.retain(|done| done.batch != lost);
        }
        self.exams.values_mut().for_each(|versions| versions.undo(turn));
        self.people.values_mut().for_each(|versions| versions.undo(turn));
        for noun in self.nouns.values_mut() {
            noun.undo();
        }
        let gone: Vec<Rc<str>> =
            self.nouns.values().filter(|noun| noun.is_unborn()).map(|noun| noun.id.clone()).collect();
        for id in gone {
            let noun = self.nouns.remove(&id).unwrap();
            self.by_serial.remove(&noun.serial);
        }
    }

    /// The daemon is back, with what was durable: what must be true now, by the operator's policy.
    pub fn restore(&mut self, now: Now, image: &Image, responses_of: &dyn Fn(u32) -> Vec<(u16, Arc<str>)>) {
        self.turns.push(now);
        let turn = self.turn();
        self.latest_ms = now.wall.ms();
        (self.handed_turn, self.handed_before) = (turn, turn);
        self.in_hand = None;
        self.lapses.clear();
        self.is_failed = false;
        self.heard_again = false;
        self.durable_batch = self.batch;
        self.open.clear();
        self.unanswered.clear();
        let alive = image.alive.unwrap_or(now);
        let away_ns = match image.same_boot {
            true => now.mono.ns().saturating_sub(alive.mono.ns()),
            false => u64::try_from((now.wall.ms() - alive.wall.ms()).max(0)).unwrap() * MS_NS,
        };
        let since_ms = i64::try_from(now.mono.ns().saturating_sub(alive.mono.ns()) / MS_NS).unwrap();
        self.is_stepped |= !image.same_boot || (now.wall.ms() - alive.wall.ms() - since_ms).abs() >= 20;
        let kept: HashMap<&str, &Stored> =
            image.delivery.sessions.iter().map(|stored| (&*stored.id, stored)).collect();
        let mut unknown: HashSet<&str> = kept.keys().copied().collect();
        let mut never = Vec::new();
        for noun in self.nouns.values_mut() {
            unknown.remove(&*noun.id);
            let stored = kept.get(&*noun.id);
            // The older one first: where both are the same, it is sure to be from before the last sign of life.
            let faces = [noun.durable.take(), noun.durable_next.take()];
            noun.forget();
            let Some(stored) = stored else {
                if noun.gone.is_none() && faces[0].is_some() {
                    violated("what was acknowledged survives", &format!("{noun:?}"));
                }
                if noun.gone.is_none() && faces[0].is_none() {
                    never.push(noun.id.clone());
                }
                noun.gone.get_or_insert(turn);
                noun.shown = None;
                continue;
            };
            noun.gone = None;
            let responses = responses_of(stored.serial);
            let has_words = |face: &Face| {
                (0_u16..).zip(&face.words).all(|(place, words)| {
                    let number = stored.number_at(place);
                    let kept = responses.iter().find(|(other, _)| *other == number).map(|(_, response)| &**response);
                    kept == words.as_deref()
                })
            };
            // What was lost of a grace is given back later: there may be less of it on the disk, and never more.
            let ends_ns = stored.grace.ends().map_or(0, |ends| ends.mono.ns());
            let has_grace = |face: &Face| face.core.at_ns + face.core.grace_ns >= ends_ns;
            let is_this = |is_deaf: bool| {
                let is_same = |face: &&Face| face.quarrel(stored, is_deaf).is_none() && has_words(face);
                faces.iter().flatten().find(|face| is_same(face) && (!is_deaf || has_grace(face)))
            };
            let Some(face) = is_this(false).or_else(|| is_this(true)) else {
                let why: Vec<_> = faces.iter().flatten().map(|face| face.quarrel(stored, true)).collect();
                violated(
                    "each candidate's place and time are as they were",
                    &format!("{why:?}: {stored:?}\n  of {faces:?}"),
                );
            };
            noun.durable = Some(face.clone());
            let mut face = face.clone();
            // The clocks that run have lived in the boot of the last sign of life, those that stand in any.
            let has_clock = face.core.next_ns().is_some();
            if !has_clock {
                face.core.at_ns = alive.mono.ns();
            }
            if has_clock && face.core.state == State::Expired {
                // How long hand-ins could not be taken when it was written and since, nobody knows any more.
                face.core.grace_ns = ends_ns.saturating_sub(face.core.at_ns);
            }
            let mut told = face.live(alive, &[]);
            let core = &mut face.core;
            if self.freeze {
                core.late_ns.iter_mut().filter(|_| core.state == State::Expired).for_each(|late| *late += away_ns);
            } else {
                told.extend(core.live(core.at_ns + away_ns, false));
            }
            // No grace at all is over as soon as it begins.
            told.extend(core.live(core.at_ns, true));
            core.at_ns = now.mono.ns();
            if !image.same_boot {
                // The wall clock tells whole milliseconds: never early by what was cut off.
                core.linger(MS_NS);
            }
            let is_moved = !image.same_boot || (away_ns > 0 && (self.freeze || core.state == State::Expired));
            noun.is_late_unsure |= !image.same_boot && core.state == State::Expired;
            if !told.is_empty() || (is_moved && core.next_ns().is_some()) {
                noun.follows.push_back(face.clone());
            }
            noun.owed.extend(told.iter().flat_map(|(_, event)| owed_for(event)));
            noun.ended_ms = stored.completed_at.map(|at| at.ms());
            noun.ended_durable_ms = noun.ended_ms;
            if told.iter().any(|(_, event)| matches!(event, Event::Expired)) {
                self.ends.push(noun.id.clone());
            }
            noun.latest = face;
            noun.show(now, turn);
        }
        for id in never {
            let noun = self.nouns.remove(&id).unwrap();
            self.by_serial.remove(&noun.serial);
        }
        if let Some(unknown) = unknown.into_iter().next() {
            violated("only what was started is there after a crash", unknown);
        }
        for (id, versions) in &mut self.exams {
            let stored = image.delivery.assessments.iter().find(|stored| *stored.id == **id);
            let known = versions.latest.iter().rev().filter_map(|(_, version)| version.clone());
            let found = stored.map(|stored| known.clone().find(|exam| is_same(exam, stored)));
            if let Some(None) = found {
                violated("assessments survive as they were written", &format!("{stored:?}"));
            }
            let acked = [versions.seen().cloned(), versions.last().cloned()];
            if !acked.contains(&found.clone().flatten()) {
                violated("acknowledged assessments survive", &format!("{found:?}, not {acked:?}"));
            }
            versions.restore(turn, found.flatten());
        }
        for (id, versions) in &mut self.people {
            let stored = image.delivery.candidates.iter().find(|stored| *stored.id == **id);
            let is_same = |person: &Person, stored: &Candidate| {
                person.is_active == stored.is_active && person.factor * 1_000_000 == stored.extra_time.billionths()
            };
            let acked = [versions.seen().cloned(), versions.last().cloned()];
            let found = acked.into_iter().find(|person| match (person, stored) {
                (Some(person), Some(stored)) => is_same(person, stored),
                (None, None) => true,
                _ => false,
            });
            let Some(found) = found else {
                violated("acknowledged candidates survive", &format!("{stored:?}: {versions:?}"));
            };
            versions.restore(turn, found);
        }
    }
}

impl Noun {
    /// Whose grace may be given back: a change that gathers was judged on what was so then.
    fn faces(&mut self) -> impl Iterator<Item = &mut Face> {
        let latest = (!self.gathers).then_some(&mut self.latest);
        self.shown.iter_mut().chain(latest)
    }

    /// Nobody has ever seen it.
    fn is_unborn(&self) -> bool {
        self.shown.is_none() && self.gone.is_none()
    }

    /// What never changes.
    fn check_frame(&self, stored: &Stored) {
        let items = (0..stored.total()).map(|place| &*stored.item_at(place).id);
        let same = stored.serial == self.serial
            && *stored.id == *self.id
            && is_same(&self.exam, &stored.assessment)
            && *stored.candidate == *self.candidate
            && *stored.test_taker == *self.taker
            && stored.started_at.ms() == self.started_ms
            && items.eq(self.latest.core.paper.items());
        if !same {
            violated("what a session was started with stays", &format!("{stored:?} of {self:?}"));
        }
    }

    /// The end has its name.
    fn check_end(&mut self, stored: &Stored, face: &Face, clocks: Now, is_stepped: bool) {
        self.ended_ms = stored.completed_at.map(|at| at.ms());
        let (Some(ended), false) = (self.ended_ms, is_stepped) else { return };
        let ago_ns = match face.core.state {
            State::Expired => face.core.late_ns,
            _ => Some(0),
        };
        let Some(ago_ns) = ago_ns else { return };
        let ended_ns = i128::from(face.core.at_ns) - i128::from(ago_ns);
        let named =
            i128::from(clocks.wall.ms()) + (ended_ns - i128::from(clocks.mono.ns())).div_euclid(i128::from(MS_NS));
        if (named - i128::from(ended)).abs() > 2 {
            violated("an end has its true name", &format!("{ended}, not {named}: {face:?}"));
        }
    }

    /// The daemon has crashed.
    fn forget(&mut self) {
        self.in_hand = false;
        self.gathers = false;
        self.waited = false;
        self.to_say.clear();
        self.log.clear();
        self.beat = None;
        self.shown = None;
        self.versions.clear();
        self.bases.clear();
        self.follows.clear();
        self.follows_in_hand.clear();
        self.owed.clear();
        self.owed_in_hand.clear();
    }

    /// The latest state is shown.
    fn show(&mut self, now: Now, turn: u64) {
        let before = self.shown.replace(self.latest.clone());
        let face = Rc::new(self.latest.clone());
        self.versions.push((turn, face.clone()));
        if self.bases.is_empty() {
            self.bases.push((turn, face.clone()));
        }
        for said in &mut self.to_say {
            // The time is told as it is then.
            said.texts.extend(said.tick.map(|value| tick(Some(value), now)));
        }
        let has_said = !self.to_say.is_empty();
        self.log.append(&mut self.to_say);
        if let Some(beat) = self.beat.filter(|_| has_said) {
            // A tick that is due and was not told yet comes behind that.
            let again = beat.told(self.log[beat.said].texts.clone(), true);
            (self.log[beat.said].is_open, self.log[beat.said].is_due) = (false, false);
            self.log.push(again);
            self.beat = Some(Beat { said: self.log.len() - 1, ..beat });
        }
        let ends = |face: &Face| {
            let runs = face.core.state == State::InProgress;
            face.core.left_ns.map(|left| (if runs { face.core.at_ns + left } else { left }, runs))
        };
        if before.as_ref().map(ends) != Some(ends(&face)) {
            // Another descent.
            self.leave_beat();
            self.told_s = face.left_s(now).unwrap_or(0);
        }
        self.wake_ns = 0;
    }

    /// The batch in hand, and what gathers, will never be durable.
    fn undo(&mut self) {
        self.in_hand = false;
        self.gathers = false;
        self.waited = false;
        self.to_say.clear();
        self.durable_next = None;
        self.ended_ms = self.ended_durable_ms;
        self.wake_ns = 0;
        for face in std::mem::take(&mut self.follows_in_hand).into_iter().rev() {
            self.follows.push_front(face);
        }
        for owed in std::mem::take(&mut self.owed_in_hand).into_iter().rev() {
            self.owed.push_front(owed);
        }
        if let Some(shown) = &self.shown {
            self.latest = shown.clone();
            let (turn, last) = self.versions.last().cloned().unwrap();
            self.bases.retain(|(since, _)| *since <= turn);
            self.bases.push((turn, last));
        }
    }

    fn leave_beat(&mut self) {
        if let Some(beat) = self.beat.take() {
            (self.log[beat.said].is_open, self.log[beat.said].is_due) = (false, false);
        }
    }

    /// What has come due happens.
    fn settle(&mut self, now: Now, turn: u64, lapses: &[Lapse], with_ticks: bool, ends: &mut Vec<Rc<str>>) {
        let grace = lapses.last().is_none_or(|lapse| lapse.until_ns.is_some());
        if self.shown.is_none() || self.gone.is_some() {
            return;
        }
        let now_ns = now.mono.ns();
        if now_ns < self.wake_ns && !self.gathers {
            return;
        }
        let tick_told = if with_ticks { self.keep_beat(now) } else { None };
        let Some(face) = &self.shown else { return };
        let next_ns = face.core.next_ns().filter(|_| face.core.state != State::Expired || grace);
        let due_ns = next_ns.map_or(u64::MAX, |next_ns| face.core.at_ns + next_ns);
        if due_ns <= now_ns && (self.in_hand || self.gathers) {
            self.waited |= self.gathers;
        } else if due_ns <= now_ns {
            let mut face = face.clone();
            let told = face.live(now, lapses);
            let nothing = Deed::plain(Op::Pause);
            for (_, event) in &told {
                self.log.extend(spoken(event, &self.exam, &face, now, &nothing));
                self.owed.extend(owed_for(event));
                if matches!(event, Event::Expired) {
                    ends.push(self.id.clone());
                }
            }
            self.follows.push_back(face.clone());
            self.latest = face.clone();
            let shared = Rc::new(face.clone());
            self.versions.push((turn, shared.clone()));
            self.bases.push((turn, shared));
            self.shown = Some(face);
            // A tick of this turn may come before or behind what has happened, or not at all behind the end.
            if let Some((beat, is_open)) = tick_told {
                let texts = self.log[beat.said].texts.clone();
                (self.log[beat.said].is_open, self.log[beat.said].is_due) = (false, false);
                let runs = self.latest.core.state == State::InProgress;
                if runs {
                    self.log.push(beat.told(texts, is_open));
                    let said = self.log.len() - 1;
                    self.beat = self.beat.map(|beat| Beat { said, ..beat });
                } else {
                    self.beat = None;
                }
            } else if self.latest.core.state != State::InProgress {
                self.leave_beat();
            }
        }
        let face = self.shown.as_ref().unwrap();
        let next_ns = face.core.next_ns().filter(|_| face.core.state != State::Expired || grace);
        let due_ns = next_ns.map_or(u64::MAX, |next_ns| face.core.at_ns + next_ns);
        self.wake_ns = due_ns.min(self.next_beat().unwrap_or(u64::MAX));
    }

    /// The ticks that may or must come. Returns the one that may come in this turn, and whether it may also come later.
    fn keep_beat(&mut self, now: Now) -> Option<(Beat, bool)> {
        let slot_ns = nanos(TICK_SLOT);
        let now_ns = now.mono.ns();
        let face = self.shown.as_ref().filter(|face| face.core.state == State::InProgress)?;
        let left_ns = face.core.left_at(now_ns.max(face.core.at_ns))?;
        let value = left_ns.div_ceil(SECOND_NS);
        if self.beat.is_some_and(|beat| beat.value != value) {
            // A late turn tells one true tick.
            self.leave_beat();
        }
        if value == 0 {
            self.told_s = 0;
        } else if value < self.told_s {
            self.told_s = value;
            let grid_ns = now_ns + left_ns - value * SECOND_NS;
            let beat = Beat { value, grid_ns, said: self.log.len() };
            self.log.push(beat.told(Vec::new(), true));
            self.beat = Some(beat);
        }
        let beat = self.beat?;
        let said = &mut self.log[beat.said];
        let text = tick(Some(value), now);
        if !said.texts.contains(&text) {
            said.texts.push(text);
        }
        // From here on it must have been heard.
        let is_open = now_ns < beat.grid_ns + slot_ns;
        said.is_open = is_open;
        if !is_open {
            self.beat = None;
        }
        Some((beat, is_open))
    }

    /// When the next tick may come, or the present one must have.
    fn next_beat(&self) -> Option<u64> {
        if let Some(beat) = self.beat {
            return Some(beat.grid_ns);
        }
        self.next_grid()
    }

    fn next_grid(&self) -> Option<u64> {
        let face = self.shown.as_ref().filter(|face| face.core.state == State::InProgress)?;
        let value = self.told_s.checked_sub(1).filter(|value| *value > 0)?;
        Some((face.core.at_ns + face.core.left_ns?).saturating_sub(value * SECOND_NS))
    }

    /// When the next tick must have been told at the latest, to one who listens, has heard those that `has_heard` says
    /// and came when the log had so many entries.
    pub fn tick_due(&self, has_heard: impl Fn(&Said) -> bool, came: usize) -> Option<u64> {
        let beat = self.beat.filter(|beat| !has_heard(&self.log[beat.said]) && beat.said >= came);
        let grid_ns = beat.map(|beat| beat.grid_ns).or_else(|| self.next_grid())?;
        Some(grid_ns + nanos(TICK_SLOT))
    }

    fn next_due(&self, now: Now, grace: bool) -> Option<u64> {
        let face = self.shown.as_ref().filter(|_| self.gone.is_none() && !self.in_hand && !self.gathers)?;
        let next_ns = face.core.next_ns().filter(|_| face.core.state != State::Expired || grace)?;
        Some((face.core.at_ns + next_ns).max(now.mono.ns()))
    }

    /// Whether time brings something about then.
    pub fn is_due_at(&self, at_ns: u64) -> bool {
        let next_ns = self.latest.core.next_ns();
        next_ns.is_some_and(|next_ns| self.latest.core.at_ns + next_ns == at_ns)
    }

    /// Whether it may have left the memory by now.
    pub fn may_be_gone(&self, latest_ms: i64, keep_ms: Option<u64>) -> bool {
        let keep = keep_ms.map(|keep| i64::try_from(keep).unwrap());
        self.gone.is_some()
            || keep.zip(self.ended_ms).is_some_and(|(keep, ended)| latest_ms - ended >= keep)
            || self.ended_ms.is_none() && self.shown.as_ref().is_some_and(|face| !face.core.state.is_active())
    }
}

/// A session's event.
fn is_mine(event: &StoredEvent) -> bool {
    &*event.source == "timerd" && !event.kind.name().starts_with("timer_")
}

/// What must be written of something that happened.
fn owed_for(event: &Event) -> Vec<Owed> {
    let one = |kind, place| vec![Owed { kind, place }];
    match event {
        Event::Answered { place, is_first: true } => one("answer_submitted", Some(*place)),
        Event::Answered { place, is_first: false } => one("answer_changed", Some(*place)),
        Event::Skipped(place) => one("question_skipped", Some(*place)),
        Event::Viewed(place) => one("question_viewed", Some(*place)),
        Event::Expired => one("quiz_timeout", None),
        Event::GraceOver | Event::HandedIn => {
            vec![Owed { kind: "quiz_completed", place: None }, Owed { kind: "session_ended", place: None }]
        }
        Event::Terminated => one("session_ended", None),
        Event::SectionOver { .. } | Event::Paused | Event::Resumed | Event::Extended(_) => Vec::new(),
    }
}

/// What was written.
fn owed_of(event: &StoredEvent, noun: &Noun) -> Owed {
    let payload: serde_json::Value = serde_json::from_str(&event.payload).unwrap();
    let place = payload["index"].as_u64().map(|place| usize::try_from(place).unwrap());
    let item = place.map(|place| noun.latest.core.paper.item_at(place));
    let fits = payload["assessment_id"] == *noun.exam.id
        && payload["item_id"].as_str() == item
        && event.user.as_deref() == Some(&*noun.candidate)
        && event.session.as_deref() == Some(&*noun.id)
        && payload["actor"].is_string();
    // What time has brought about is nobody's deed, whoever's deed it goes along with.
    let is_time = event.kind.name() == "quiz_timeout";
    let is_right = !is_time || (payload["actor"] == "timerd" && payload["state"] == "expired");
    if !fits || !is_right || event.payload.contains(SECRET) {
        violated(
            "an event says of which session, candidate and item it is, and no answer's content",
            &format!("{event:?}"),
        );
    }
    Owed { kind: event.kind.name(), place }
}

/// Part of every answer's content.
pub const SECRET: &str = "hush";

/// The item at a place, as it is delivered.
pub fn item_text(exam: &Exam, id: &str) -> String {
    format!(r#"{{"item_id":"{id}","content":{},"metadata":{{"points":1}}}}"#, exam.content(id))
}

/// The item at a place, as a socket is told.
pub fn current_item(exam: &Exam, face: &Face, place: usize) -> String {
    let item = item_text(exam, face.core.paper.item_at(place));
    let (total, flag) = (face.core.paper.total(), face.core.flagged[place]);
    format!(r#"{{"type":"current_item","item":{item},"index":{place},"total":{total},"is_flagged":{flag}}}"#)
}

/// The time, as it is told.
pub fn tick(left_s: Option<u64>, now: Now) -> String {
    let left = left_s.map_or("null".to_owned(), |left_s| left_s.to_string());
    format!(r#"{{"type":"timer","time_remaining":{left},"timestamp":"{}"}}"#, date_time(now.wall))
}

fn name_of(op: &Op) -> &'static str {
    match op {
        Op::Answer(..) => "answers",
        Op::Flag(..) => "flags",
        Op::Go(_) => "moves",
        Op::Submit(_) => "hand-ins",
        Op::Pause => "pauses",
        Op::Resume => "resumes",
        Op::Extend(_) => "extensions",
        Op::Terminate => "terminations",
    }
}

/// Whether the daemon has kept what was written.
fn is_same(exam: &Exam, stored: &Assessment) -> bool {
    let sections = exam.parts.len() == stored.sections.len()
        && exam.parts.iter().zip(&stored.sections).all(|(part, section)| {
            *part.id == *section.id
                && part.limit_s == section.time_limit_s.map(u64::from)
                && part.drawn == usize::from(section.items_to_select)
                && part.is_drawn == section.is_drawn
                && part.order == section.order.name()
        });
    let mut items = stored.items.iter();
    let same_items = exam.parts.iter().enumerate().all(|(number, part)| {
        part.items.iter().all(|id| {
            items.next().is_some_and(|item| {
                *item.id == **id && usize::from(item.section) == number && *item.content == *exam.content(id)
            })
        })
    });
    *exam.id == *stored.id
        && *exam.title == *stored.title
        && exam.limit_s == stored.time_limit_s.map(u64::from)
        && exam.attempts == stored.attempt_limit.map(u64::from)
        && mode_name(exam.mode) == stored.navigation.name()
        && exam.grace_s == u64::from(stored.grace_s)
        && sections
        && same_items
        && items.next().is_none()
}

/// The mode's name in the contract.
pub fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Linear => "LINEAR",
        Mode::Free => "NON_LINEAR",
        Mode::Hybrid => "HYBRID",
    }
}

/// What a session is started with: what chance has chosen must be what was left to it.
fn paper_of(stored: &Stored, exam: &Exam, factor: u64) -> Paper {
    let limit = |limit_s: Option<u64>| limit_s.map(|limit_s| limit_s * factor * (SECOND_NS / 1_000));
    let mut parts: Vec<Part> = Vec::new();
    for place in 0..stored.total() {
        let item = stored.item_at(place);
        let of = &exam.parts[usize::from(item.section)];
        if parts.last().is_none_or(|part| part.id != of.id) {
            let number = usize::from(item.section);
            parts.push(Part { id: of.id.clone(), number, limit_ns: limit(of.limit_s), items: Vec::new() });
        }
        parts.last_mut().unwrap().items.push(item.id.to_string());
    }
    let wanders = |part: &&ExamPart| part.order == "SHUFFLE_SECTIONS";
    let fits = parts.len() == exam.parts.len()
        && parts.iter().zip(&exam.parts).all(|(part, written)| {
            let of = exam.parts.iter().find(|of| of.id == part.id).unwrap();
            let mut places: Vec<usize> =
                part.items.iter().filter_map(|item| of.items.iter().position(|other| other == item)).collect();
            let is_in_order = places.is_sorted();
            places.sort_unstable();
            places.dedup();
            let count = if of.is_drawn && of.drawn > 0 { of.drawn } else { of.items.len() };
            (of.id == written.id || (wanders(&of) && wanders(&written)))
                && places.len() == count
                && part.items.len() == count
                && (is_in_order || of.order == "RANDOM")
        });
    if !fits {
        violated("chance chooses only what is left to it", &format!("{parts:?} of {exam:?}"));
    }
    Paper { mode: exam.mode, limit_ns: limit(exam.limit_s), grace_ns: exam.grace_s * SECOND_NS, parts }
}

/// What everybody at a session is told of something that happened.
fn spoken(event: &Event, exam: &Exam, face: &Face, now: Now, deed: &Deed) -> Vec<Said> {
    let say = |text: String| Said { texts: vec![text], tick: None, grid_ns: None, is_due: true, is_open: false };
    let left = || face.left_s(now).map_or("null".to_owned(), |left_s| left_s.to_string());
    let turned = |kind: &str| vec![say(format!(r#"{{"type":"{kind}","time_remaining":{}}}"#, left()))];
    let paper = &face.core.paper;
    match event {
        Event::SectionOver { part, place } => {
            let id = &paper.parts[*part].id;
            let over = format!(r#"{{"type":"section_expired","section_id":"{id}","current_index":{place}}}"#);
            vec![say(over), say(current_item(exam, face, *place))]
        }
        Event::Expired => {
            let zero = face.core.left_ns.map(|_| Said { tick: Some(0), ..say(tick(Some(0), now)) });
            zero.into_iter().chain([say(r#"{"type":"expired","message":"Time expired"}"#.to_owned())]).collect()
        }
        Event::HandedIn => turned("completed"),
        Event::Paused => turned("paused"),
        Event::Resumed => turned("resumed"),
        Event::Terminated => turned("terminated"),
        Event::Extended(added_s) => {
            let reason = serde_json::Value::from(deed.reason.as_str());
            vec![say(format!(
                r#"{{"type":"extended","added_seconds":{added_s},"reason":{reason},"time_remaining":{}}}"#,
                left()
            ))]
        }
        Event::Answered { .. } | Event::Skipped(_) | Event::Viewed(_) | Event::GraceOver => Vec::new(),
    }
}
