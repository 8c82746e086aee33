//! Delivery: sessions in which candidates sit an assessment, under a deadline that nobody but the server owns.
//!
//! Owns the state machine of the contract, the clocks of a session and of its sections, a candidate's place, and which
//! items have an answer; the answers themselves are the disk's. It must not know connections, HTTP, JSON or the disk:
//! it takes deeds and `Now`, and gives verdicts and effects.
//!
//! ```text
//!              work           pause    resume        extend        submit               terminate    time
//! in_progress  in_progress    paused   -             in_progress   completed            terminated   expired
//! paused       -              -        in_progress   paused        -                    terminated   -
//! expired      -              -        -             -             completed (grace)    -            -
//! completed    -              -        -             -             -                    -            -
//! terminated   -              -        -             -             -                    -            -
//! ```
//!
//! Work is answering, flagging and moving about. A session's start creates it in progress: nobody ever sees one that
//! is `not_started`.
//!
//! Invariants: clocks run if and only if the session is in progress; every deed first brings the session to `now`; a
//! section's end and the session's happen at their true instants and in their order, and wait for nothing but a
//! change of the same session that is on its way to the disk; the grace counts no time in which a hand-in could not
//! have been taken.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Mono, Now, WallMs};
use crate::domain::assessments::{Assessment, Candidate, Catalogue, Dice, Factor, Item, Navigation};
use crate::domain::beats::{Beat, Beats, Tick};
use crate::domain::countdown::{Countdown, Deadline, Second};
use crate::domain::deadlines::{Due, Sleeper};
use crate::domain::effects::{self, Effects, Record, Scribe, Topic};
use crate::domain::events::{Event, Kind};
use crate::domain::history::{Actor, TIMERD};
use crate::domain::staged::{Flight, Hold, Staged};
use crate::domain::timers::Outage;
use crate::limits::{KEEP_FINISHED_DEFAULT, RESPONSES_BYTES_MAX, SESSIONS_MAX_DEFAULT, TOTAL_S_MAX};

/// What a session is called by clients: a UUID of version 4, and all that a candidate needs to get in.
pub type SessionId = Arc<str>;

/// One session: the fact that is stored, and shown.
#[derive(Clone, Debug, PartialEq)]
pub struct Session {
    /// Its name to clients.
    pub id: SessionId,
    /// Counts sessions; lists are in its order.
    pub serial: u32,
    /// What is sat, as it was at the start.
    pub assessment: Arc<Assessment>,
    /// By whom.
    pub candidate: Arc<str>,
    /// By whom, as the test's provider calls him.
    pub test_taker: Arc<str>,
    /// Where in its life it is.
    pub state: State,
    /// Numbers of the items in the order delivered. `None`: all, as written.
    pub drawn: Option<Arc<[u16]>>,
    /// The current item's index in that order.
    pub place: u16,
    /// The limit in force: factor applied, extensions included. `None`: untimed.
    pub limit: Option<Duration>,
    /// What is left of it.
    pub countdown: Option<Countdown>,
    /// By number of the section. Empty when no section has a limit.
    pub parts: Box<[Part]>,
    /// By index in the order delivered.
    pub marks: Box<[Mark]>,
    /// When it began.
    pub started_at: WallMs,
    /// When it was handed in, ran out or was terminated.
    pub completed_at: Option<WallMs>,
    /// When its time ran out, while that may still be handed in.
    pub expired: Option<Deadline>,
    /// What is left of the time in which that is so.
    pub grace: Countdown,
    /// By how much it was handed in late, in milliseconds of the session's time.
    pub late_ms: Option<u64>,
}

/// A section with its clock.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Part {
    /// The candidate has been there.
    pub is_entered: bool,
    /// What is left; nothing: it is locked. `None`: no limit of its own.
    pub clock: Option<Countdown>,
}

/// What is known of an item of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// Bytes of its response less one: none has fewer than two. 0: there is none.
    stored: u16,
    /// The candidate wants to come back to it.
    pub is_flagged: bool,
}

impl Mark {
    /// With a response of so many bytes; 0: without one.
    pub fn new(bytes: usize, is_flagged: bool) -> Self {
        Mark { stored: u16::try_from(bytes.saturating_sub(1)).unwrap_or(u16::MAX), is_flagged }
    }

    /// Whether it has a response.
    pub const fn is_answered(self) -> bool {
        self.stored > 0
    }

    /// Bytes of its response.
    pub const fn bytes(self) -> usize {
        if self.stored == 0 { 0 } else { self.stored as usize + 1 }
    }
}

/// Where in its life a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Its clocks run.
    InProgress,
    /// Its clocks stand still.
    Paused,
    /// Handed in.
    Completed,
    /// Its time ran out.
    Expired,
    /// Ended by an instructor.
    Terminated,
}

/// What may be done to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "their names say it")]
pub enum Verb {
    Answer,
    Flag,
    Navigate,
    Submit,
    Pause,
    Resume,
    Extend,
    Terminate,
}

impl State {
    /// Every state, in the order of a session's life.
    pub const ALL: [State; 5] =
        [State::InProgress, State::Paused, State::Completed, State::Expired, State::Terminated];

    /// The state's name in the contract.
    pub const fn name(self) -> &'static str {
        match self {
            State::InProgress => "in_progress",
            State::Paused => "paused",
            State::Completed => "completed",
            State::Expired => "expired",
            State::Terminated => "terminated",
        }
    }

    /// The state that `verb` leads to, if it is allowed: the table above. That an expired session is still within its
    /// grace, the session knows.
    pub const fn after(self, verb: Verb) -> Option<State> {
        match (self, verb) {
            (State::InProgress, Verb::Answer | Verb::Flag | Verb::Navigate) => Some(State::InProgress),
            (State::InProgress, Verb::Pause) => Some(State::Paused),
            (State::Paused, Verb::Resume) => Some(State::InProgress),
            (State::InProgress | State::Paused, Verb::Extend) => Some(self),
            (State::InProgress | State::Expired, Verb::Submit) => Some(State::Completed),
            (State::InProgress | State::Paused, Verb::Terminate) => Some(State::Terminated),
            _ => None,
        }
    }

    /// Not over.
    pub const fn is_active(self) -> bool {
        matches!(self, State::InProgress | State::Paused)
    }
}

/// What a candidate or an instructor asks for; already checked against the contract's bounds.
#[derive(Clone, Debug, PartialEq)]
pub enum Deed {
    /// A response to an item is kept.
    Answer {
        /// The item's id.
        item: Arc<str>,
        /// An object as compact JSON.
        response: Arc<str>,
        /// Whether it is flagged from here on; `None`: as before.
        is_flagged: Option<bool>,
    },
    /// An item is marked for later, or no longer.
    Flag {
        /// The item's id.
        item: Arc<str>,
        /// Whether it is.
        is_flagged: bool,
    },
    /// Another item becomes the current one.
    Navigate(Way),
    /// All is handed in, with these responses.
    Submit(Vec<(Arc<str>, Arc<str>)>),
    /// The clocks stand still.
    Pause,
    /// They go on.
    Resume,
    /// There is more time.
    Extend {
        /// Seconds more.
        added_s: u32,
        /// Why.
        reason: Arc<str>,
    },
    /// It is ended.
    Terminate,
}

impl Deed {
    /// What is asked.
    pub const fn verb(&self) -> Verb {
        match self {
            Deed::Answer { .. } => Verb::Answer,
            Deed::Flag { .. } => Verb::Flag,
            Deed::Navigate(_) => Verb::Navigate,
            Deed::Submit(_) => Verb::Submit,
            Deed::Pause => Verb::Pause,
            Deed::Resume => Verb::Resume,
            Deed::Extend { .. } => Verb::Extend,
            Deed::Terminate => Verb::Terminate,
        }
    }
}

/// Where to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The next item that is not locked.
    Next,
    /// The one before that is not locked.
    Previous,
    /// The one with this index.
    To(i64),
}

/// Why a deed changes nothing.
#[derive(Clone, Debug, PartialEq)]
pub enum Refusal {
    /// No such session.
    NotFound,
    /// No such assessment.
    NoAssessment,
    /// The assessment has sessions that are not over.
    InUse,
    /// Nobody knows the candidate, and only known ones are admitted.
    Unknown,
    /// The candidate may not start anything.
    Inactive,
    /// He has sat it as often as he may.
    AttemptsUsed,
    /// He is sitting it: in this session.
    Sitting(SessionId),
    /// Every place is taken.
    Full,
    /// The state does not allow it.
    WrongState {
        /// What was asked.
        verb: Verb,
        /// Of a session in this state.
        state: State,
    },
    /// There is nothing to extend.
    Untimed,
    /// No session may last that long.
    TooLong,
    /// The session has no such item.
    NoItem,
    /// Only the current item can be answered.
    ItemLocked,
    /// The section's time is over, or it was left for good.
    SectionLocked,
    /// The responses of the session would be too large.
    TooMuch,
    /// It was the last item.
    PastLast,
    /// It was the first item.
    BeforeFirst,
    /// There is no item with this index.
    NoIndex(i64),
    /// This assessment goes forward only.
    OnlyForward,
    /// Sections that were left cannot be entered again.
    EarlierSection,
}

/// What everybody at a session hears.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// A second of its grid has passed: so many are left.
    Tick(u32),
    /// Its time is over.
    Expired,
    /// Its state has changed by somebody's will; so many seconds are left, if it is timed.
    Turned(State, Option<u32>),
    /// There is more time.
    Extended {
        /// Seconds more.
        added_s: u32,
        /// Why.
        reason: Arc<str>,
        /// Seconds left now.
        left_s: Option<u32>,
    },
    /// A section's time is over.
    SectionOver {
        /// Its number.
        section: u16,
        /// The session after that.
        session: Arc<Session>,
    },
    /// The session has left the memory, and its sockets with it.
    Gone,
}

/// Something that happened in a session, for those who follow events.
#[derive(Debug)]
pub struct Told<'a> {
    /// In which, as it is after it.
    pub session: &'a Session,
    /// What.
    pub what: What,
    /// Who did it.
    pub actor: &'a str,
}

/// What happened in a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// It came into being.
    Created,
    /// Its clock runs.
    Started,
    /// The item with this index was shown.
    Viewed(u16),
    /// The item with this index was left without an answer.
    Skipped(u16),
    /// The item with this index was answered, for the first time or anew.
    Answered(u16, bool),
    /// It was handed in, or its grace is over.
    Completed,
    /// Its time ran out.
    TimedOut,
    /// Nothing more will come of it.
    Ended,
}

impl What {
    /// The type of the event.
    pub const fn kind(self) -> Kind {
        match self {
            What::Created => Kind::SessionCreated,
            What::Started => Kind::QuizStarted,
            What::Viewed(_) => Kind::QuestionViewed,
            What::Skipped(_) => Kind::QuestionSkipped,
            What::Answered(_, true) => Kind::AnswerSubmitted,
            What::Answered(_, false) => Kind::AnswerChanged,
            What::Completed => Kind::QuizCompleted,
            What::TimedOut => Kind::QuizTimeout,
            What::Ended => Kind::SessionEnded,
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------
// One session: what is, and what time makes of it.

/// What time alone has brought about.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Passed {
    at: Deadline,
    what: Ended,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Ended {
    /// The section with this number; the candidate was at the item with that index and had to leave it.
    Section(u16, Option<u16>),
    /// The session.
    Session,
    /// The grace.
    Grace,
}

impl Session {
    /// Items.
    pub fn total(&self) -> u16 {
        u16::try_from(self.marks.len()).unwrap_or(u16::MAX)
    }

    /// The number of the item with this index.
    pub fn number_at(&self, place: u16) -> u16 {
        self.drawn.as_ref().map_or(place, |drawn| drawn.get(usize::from(place)).copied().unwrap_or(place))
    }

    /// The item with this index, which must be below the total.
    pub fn item_at(&self, place: u16) -> &Item {
        &self.assessment.items[usize::from(self.number_at(place))]
    }

    /// The index of the item called `id`.
    pub fn place_of(&self, id: &str) -> Option<u16> {
        let number = self.assessment.number_of(id)?;
        match &self.drawn {
            None => Some(number),
            Some(drawn) => (0..).zip(drawn.iter()).find(|(_, other)| **other == number).map(|(place, _)| place),
        }
    }

    /// The number of the section that the item with this index belongs to.
    pub fn section_at(&self, place: u16) -> u16 {
        self.item_at(place).section
    }

    /// What is known of the item with this index.
    pub fn mark_at(&self, place: u16) -> Mark {
        self.marks.get(usize::from(place)).copied().unwrap_or_default()
    }

    /// Items with a response.
    pub fn answered(&self) -> usize {
        self.marks.iter().filter(|mark| mark.is_answered()).count()
    }

    /// Seconds left at `now`, rounded up. `None`: untimed.
    pub fn left_s(&self, now: Now, second: Second) -> Option<u32> {
        self.countdown.map(|countdown| second.ceil(countdown.left(now)))
    }

    /// Seconds left of a section at `now`, rounded up. `None`: it has no limit of its own.
    pub fn section_left_s(&self, section: u16, now: Now, second: Second) -> Option<u32> {
        let clock = self.parts.get(usize::from(section)).and_then(|part| part.clock);
        clock.map(|clock| second.ceil(clock.left(now)))
    }

    /// Whether the section of the item with this index can be entered no more.
    pub fn is_locked(&self, place: u16) -> bool {
        let (section, current) = (self.section_at(place), self.section_at(self.place));
        if section == current && self.state == State::Expired {
            // It ended with the session: what was written in it may be handed in.
            return false;
        }
        let part = self.parts.get(usize::from(section));
        let is_over = part.is_some_and(|part| part.clock == Some(Countdown::new(Duration::ZERO)));
        // Items of a section lie together: one of another section and before the current one is of an earlier one.
        is_over || (self.assessment.navigation != Navigation::Free && section != current && place < self.place)
    }

    /// The item that `way` leads to.
    ///
    /// # Errors
    /// Why there is none.
    pub fn destination(&self, way: Way) -> Result<u16, Refusal> {
        let (place, total, mode) = (self.place, self.total(), self.assessment.navigation);
        match way {
            Way::Next => {
                let past = if place + 1 < total { Refusal::SectionLocked } else { Refusal::PastLast };
                (place + 1..total).find(|next| !self.is_locked(*next)).ok_or(past)
            }
            Way::Previous if mode == Navigation::Linear => Err(Refusal::OnlyForward),
            Way::Previous if place == 0 => Err(Refusal::BeforeFirst),
            Way::Previous => {
                let hybrid = mode == Navigation::Hybrid;
                let locked = if hybrid { Refusal::EarlierSection } else { Refusal::SectionLocked };
                (0..place).rev().find(|before| !self.is_locked(*before)).ok_or(locked)
            }
            Way::To(index) => {
                let target = u16::try_from(index).ok().filter(|target| *target < total);
                let target = target.ok_or(Refusal::NoIndex(index))?;
                let is_elsewhere = self.section_at(target) != self.section_at(place);
                match mode {
                    Navigation::Linear if target <= place => Err(Refusal::OnlyForward),
                    Navigation::Hybrid if target < place && is_elsewhere => Err(Refusal::EarlierSection),
                    _ if self.is_locked(target) => Err(Refusal::SectionLocked),
                    _ => Ok(target),
                }
            }
        }
    }

    /// The instant at which time alone brings about something next. `grace`: its end counts, too.
    fn next_end(&self, grace: bool) -> Option<Deadline> {
        match self.state {
            State::InProgress => {
                let clocks = self.parts.iter().filter_map(|part| part.clock).chain(self.countdown);
                clocks.filter_map(Countdown::ends).min_by_key(|ends| ends.mono)
            }
            State::Expired if grace => self.grace.ends(),
            _ => None,
        }
    }

    /// Lets the first thing happen that time alone has brought about by `now`. `grace`: its end may, too.
    fn pass(&mut self, now: Now, grace: bool, second: Second) -> Option<Passed> {
        let at = self.next_end(grace).filter(|at| at.mono <= now.mono)?;
        if self.state == State::Expired {
            self.grace = Countdown::new(Duration::ZERO);
            self.expired = None;
            return Some(Passed { at, what: Ended::Grace });
        }
        let ends = |clock: Option<Countdown>| clock.and_then(Countdown::ends).map(|ends| ends.mono);
        if ends(self.countdown) == Some(at.mono) {
            self.expire(at, second);
            return Some(Passed { at, what: Ended::Session });
        }
        let section = self.parts.iter().position(|part| ends(part.clock) == Some(at.mono))?;
        self.parts[section].clock = Some(Countdown::new(Duration::ZERO));
        let section = u16::try_from(section).unwrap_or(u16::MAX);
        let from = self.place;
        if self.section_at(from) != section {
            return Some(Passed { at, what: Ended::Section(section, None) });
        }
        let mut others = (from + 1..self.total()).chain(0..from);
        Some(match others.find(|place| !self.is_locked(*place)) {
            Some(place) => {
                self.place = place;
                self.enter(self.section_at(place), at.now());
                Passed { at, what: Ended::Section(section, Some(from)) }
            }
            None => {
                self.expire(at, second);
                Passed { at, what: Ended::Session }
            }
        })
    }

    fn expire(&mut self, at: Deadline, second: Second) {
        self.halt(at.now());
        self.countdown = self.countdown.map(|_| Countdown::new(Duration::ZERO));
        self.state = State::Expired;
        self.completed_at = Some(at.wall);
        self.expired = Some(at);
        self.grace = Countdown::new(second.span(self.assessment.grace_s));
        self.grace.start(at.now());
    }

    /// Every clock stands still.
    fn halt(&mut self, now: Now) {
        for clock in self.parts.iter_mut().filter_map(|part| part.clock.as_mut()).chain(&mut self.countdown) {
            clock.stop(now);
        }
    }

    /// Every clock that has begun goes on.
    fn proceed(&mut self, now: Now) {
        if let Some(countdown) = &mut self.countdown {
            countdown.start(now);
        }
        for part in self.parts.iter_mut().filter(|part| part.is_entered) {
            part.start(now);
        }
    }

    /// The candidate is in this section, for the first time or again.
    fn enter(&mut self, section: u16, now: Now) {
        if let Some(part) = self.parts.get_mut(usize::from(section)) {
            part.is_entered = true;
            part.start(now);
        }
    }

    /// Another item becomes the current one.
    fn move_to(&mut self, place: u16, now: Now) {
        self.place = place;
        self.enter(self.section_at(place), now);
        if self.assessment.navigation == Navigation::Free || self.parts.is_empty() {
            return;
        }
        // What was left for good needs no clock.
        let current = self.section_at(place);
        for before in 0..place {
            let section = self.section_at(before);
            if section != current {
                let clock = &mut self.parts[usize::from(section)].clock;
                *clock = clock.map(|_| Countdown::new(Duration::ZERO));
            }
        }
    }

    /// Keeps that an item has this response. Returns its index and number.
    fn answer(&mut self, now: Now, id: &str, response: &str) -> Result<u16, Refusal> {
        let place = self.place_of(id).ok_or(Refusal::NoItem)?;
        if self.assessment.navigation == Navigation::Linear && place != self.place {
            return Err(Refusal::ItemLocked);
        }
        if self.is_locked(place) {
            return Err(Refusal::SectionLocked);
        }
        let held: usize = self.marks.iter().map(|mark| mark.bytes()).sum();
        let mark = &mut self.marks[usize::from(place)];
        if held - mark.bytes() + response.len() > RESPONSES_BYTES_MAX {
            return Err(Refusal::TooMuch);
        }
        *mark = Mark::new(response.len(), mark.is_flagged);
        if self.state == State::InProgress {
            self.enter(self.section_at(place), now);
        }
        Ok(place)
    }

    /// Carries out a deed that its state allows. What is to be written and said of it goes into `account`.
    fn apply(&mut self, now: Now, deed: Deed, second: Second, account: &mut Account) -> Result<(), Refusal> {
        let wrong = Refusal::WrongState { verb: deed.verb(), state: self.state };
        let to = self.state.after(deed.verb()).ok_or(wrong.clone())?;
        match deed {
            Deed::Answer { item, response, is_flagged } => {
                self.take_answer(now, &item, response, account)?;
                if let (Some(is_flagged), Some(place)) = (is_flagged, self.place_of(&item)) {
                    self.marks[usize::from(place)].is_flagged = is_flagged;
                }
            }
            Deed::Flag { item, is_flagged } => {
                let place = self.place_of(&item).ok_or(Refusal::NoItem)?;
                self.marks[usize::from(place)].is_flagged = is_flagged;
            }
            Deed::Navigate(way) => {
                let (from, to) = (self.place, self.destination(way)?);
                if to != from {
                    account.left(self, now.wall, from);
                    self.move_to(to, now);
                    account.events.push((now.wall, What::Viewed(to)));
                }
            }
            Deed::Submit(answers) => {
                if self.state == State::Expired && self.grace.left(now).is_zero() {
                    return Err(wrong);
                }
                for (item, response) in answers {
                    self.take_answer(now, &item, response, account)?;
                }
                self.late_ms = self.expired.map(|at| second.ms(lateness(at, now)));
                self.grace = Countdown::new(Duration::ZERO);
                self.expired = None;
                account.events.extend([(now.wall, What::Completed), (now.wall, What::Ended)]);
            }
            Deed::Pause => {}
            Deed::Resume => self.proceed(now),
            Deed::Extend { added_s, reason } => {
                let (Some(limit), Some(countdown)) = (&mut self.limit, &mut self.countdown) else {
                    return Err(Refusal::Untimed);
                };
                let added = second.span(added_s);
                if *limit + added > second.span(TOTAL_S_MAX) {
                    return Err(Refusal::TooLong);
                }
                *limit += added;
                countdown.extend(added);
                let current = usize::from(self.section_at(self.place));
                if let Some(clock) = self.parts.get_mut(current).and_then(|part| part.clock.as_mut()) {
                    clock.extend(added);
                }
                let left_s = self.left_s(now, second);
                account.messages.push(Message::Extended { added_s, reason, left_s });
            }
            Deed::Terminate => account.events.push((now.wall, What::Ended)),
        }
        if to != State::InProgress {
            self.halt(now);
        }
        if to != self.state {
            account.messages.push(Message::Turned(to, self.left_s(now, second)));
        }
        if !to.is_active() {
            self.completed_at = Some(now.wall);
        }
        self.state = to;
        Ok(())
    }

    fn take_answer(
        &mut self,
        now: Now,
        item: &str,
        response: Arc<str>,
        account: &mut Account,
    ) -> Result<(), Refusal> {
        let was_answered = self.place_of(item).is_some_and(|place| self.mark_at(place).is_answered());
        let place = self.answer(now, item, &response)?;
        account.answers.push(Record::Answer { session: self.serial, item: self.number_at(place), response });
        account.events.push((now.wall, What::Answered(place, !was_answered)));
        Ok(())
    }

    /// Every clock that runs, the grace's as well.
    fn running(&mut self) -> impl Iterator<Item = &mut Countdown> {
        let clocks = self.parts.iter_mut().filter_map(|part| part.clock.as_mut()).chain(&mut self.countdown);
        clocks.chain(std::iter::once(&mut self.grace)).filter(|clock| clock.ends().is_some())
    }

    fn topic(&self) -> Topic {
        Topic::Session(self.serial)
    }
}

impl Part {
    /// Its clock goes on, unless nothing is left of it.
    fn start(&mut self, now: Now) {
        if let Some(clock) = self.clock.as_mut().filter(|clock| !clock.left(now).is_zero()) {
            clock.start(now);
        }
    }
}

/// How long ago something ran out. Boot times do not reach beyond the boot: then its name tells.
fn lateness(at: Deadline, now: Now) -> Duration {
    if at.mono == Mono::from_ns(0) { now.wall.since(at.wall) } else { now.mono.since(at.mono) }
}

/// What is to be written and said of a change, in order.
#[derive(Debug, Default)]
struct Account {
    answers: Vec<Record>,
    events: Vec<(WallMs, What)>,
    messages: Vec<Message>,
}

impl Account {
    /// The item with this index was left.
    fn left(&mut self, session: &Session, at: WallMs, place: u16) {
        if !session.mark_at(place).is_answered() {
            self.events.push((at, What::Skipped(place)));
        }
    }

    /// What time has brought about in a session, which is as it is after it.
    fn passed(&mut self, session: &Session, Passed { at, what }: Passed) {
        let at = at.wall;
        match what {
            Ended::Section(section, from) => {
                if let Some(from) = from {
                    self.left(session, at, from);
                    self.events.push((at, What::Viewed(session.place)));
                }
                self.messages.push(Message::SectionOver { section, session: Arc::new(session.clone()) });
            }
            Ended::Session => {
                self.events.push((at, What::TimedOut));
                self.messages.extend(session.countdown.map(|_| Message::Tick(0)));
                self.messages.push(Message::Expired);
            }
            Ended::Grace => self.events.extend([(at, What::Completed), (at, What::Ended)]),
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------
// All of them.

/// The judgement of a deed: the session as it will be, or why not; and how long the answer must be held.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The session after the deed, or the refusal.
    pub outcome: Result<Arc<Session>, Refusal>,
    /// What must be durable before anybody may be told.
    pub hold: Hold,
}

/// Somebody wants to start a session.
#[derive(Clone, Copy, Debug)]
pub struct Application<'a> {
    /// Of which assessment.
    pub assessment: &'a str,
    /// Who.
    pub candidate: &'a str,
    /// Who, as the test's provider calls him.
    pub test_taker: &'a str,
}

/// What an operator may set.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Sessions held, ended ones included.
    pub sessions_max: u32,
    /// Whether nobody is admitted whom nobody has put.
    pub known_only: bool,
    /// How long an ended session stays in memory. `None`: for good.
    pub keep_finished: Option<Duration>,
    /// How long a second lasts.
    pub second: Second,
    /// How the daemon's absence counts.
    pub outage: Outage,
}

impl Default for Settings {
    /// What a daemon has that was told nothing.
    fn default() -> Self {
        let (sessions_max, second, outage) = (SESSIONS_MAX_DEFAULT, Second::REAL, Outage::RunOn);
        Settings { sessions_max, known_only: false, keep_finished: Some(KEEP_FINISHED_DEFAULT), second, outage }
    }
}

/// All sessions, and what they are made of.
#[derive(Debug)]
pub struct Delivery {
    /// Assessments and candidates.
    pub catalogue: Catalogue,
    settings: Settings,
    slots: BTreeMap<u32, Slot>,
    serials: HashMap<SessionId, u32>,
    by_assessment: HashMap<Arc<str>, BTreeSet<u32>>,
    by_candidate: HashMap<Arc<str>, Vec<u32>>,
    /// Sessions that are no longer held, by assessment and candidate.
    attempts: HashMap<(Arc<str>, Arc<str>), u32>,
    touched: Flight<Vec<u32>>,
    beats: Beats,
    /// Shown sessions that time moves.
    awake: usize,
    /// Those of them in their grace.
    graces: BTreeSet<u32>,
    /// Those that time moves no more, by when they ended.
    over: BTreeSet<(WallMs, u32)>,
    /// Since when no hand-in can be taken.
    deaf_since: Option<Mono>,
    serial: u32,
    timerd: Actor,
}

/// A session with what only this run of the daemon knows of it.
#[derive(Debug)]
struct Slot {
    id: SessionId,
    assessment: Arc<str>,
    candidate: Arc<str>,
    staged: Staged<Arc<Session>>,
    /// The instant of the one alarm in the heap that is not stale.
    armed: Option<Mono>,
    generation: u32,
    /// Somebody listens: he is told the time.
    is_heard: bool,
    beat: Option<Beat>,
    /// When the candidate was last heard of.
    seen_at: Option<WallMs>,
    /// As it is counted.
    life: Life,
    /// The wall clock was stepped, and the stored names of its ends are wrong.
    misnamed: bool,
}

/// How time moves a session that is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Life {
    /// It is not shown, or stands still.
    #[default]
    Still,
    /// Its clocks run.
    Awake,
    /// Its grace runs.
    Grace,
    /// It ended then.
    Over(WallMs),
}

impl Slot {
    fn new(session: &Session, staged: Staged<Arc<Session>>) -> Self {
        Slot {
            id: session.id.clone(),
            assessment: session.assessment.id.clone(),
            candidate: session.candidate.clone(),
            staged,
            armed: None,
            generation: 0,
            is_heard: false,
            beat: None,
            seen_at: None,
            life: Life::Still,
            misnamed: false,
        }
    }
}

/// What a deed is judged against.
struct Latest {
    serial: u32,
    session: Session,
    /// What time has brought about in it that nobody has been told yet.
    account: Account,
}

/// What start-up finds of an earlier run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kept {
    /// Assessments that can be started.
    pub assessments: Vec<Arc<Assessment>>,
    /// The highest version there is.
    pub version: u32,
    /// Candidates who are known.
    pub candidates: Vec<Candidate>,
    /// Sessions that are held, in order of their serial numbers.
    pub sessions: Vec<Session>,
    /// The highest serial number of a session there is.
    pub serial: u32,
    /// How many are no longer held, by assessment and candidate.
    pub attempts: Vec<(Arc<str>, Arc<str>, u32)>,
}

/// Some sessions of an assessment, in order of their starts.
#[derive(Debug)]
pub struct Listing {
    /// Each with when its candidate was last heard of.
    pub rows: Vec<(Arc<Session>, Option<WallMs>)>,
    /// The highest serial number that was looked at.
    pub upto: u32,
    /// There are no more.
    pub is_last: bool,
}

/// How long nobody was there.
#[derive(Clone, Copy, Debug)]
pub struct Absence {
    /// The last sign of life.
    pub alive: Now,
    /// How long ago that is.
    pub away: Duration,
    /// Whether boot times from before are of this boot.
    pub same_boot: bool,
}

impl Delivery {
    /// No sessions yet.
    pub fn new(settings: Settings) -> Self {
        Delivery {
            catalogue: Catalogue::default(),
            settings,
            slots: BTreeMap::new(),
            serials: HashMap::new(),
            by_assessment: HashMap::new(),
            by_candidate: HashMap::new(),
            attempts: HashMap::new(),
            touched: Flight::default(),
            beats: Beats::new(settings.second),
            awake: 0,
            graces: BTreeSet::new(),
            over: BTreeSet::new(),
            deaf_since: None,
            serial: 0,
            timerd: Arc::from(TIMERD),
        }
    }

    /// How long a second lasts.
    pub fn second(&self) -> Second {
        self.settings.second
    }

    /// Sessions held.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// No session is held.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Something runs, or is about to: the sign of life must be written.
    pub fn is_any_running(&self) -> bool {
        self.awake > 0 || !self.touched.gathering.is_empty() || !self.touched.writing.is_empty()
    }

    /// The session shown under `id`, as it is at `now`.
    pub fn shown(&mut self, now: Now, id: &str, fx: &mut Effects) -> Option<&Arc<Session>> {
        let serial = *self.serials.get(id)?;
        self.shown_by_serial(now, serial, fx)
    }

    /// The session shown with this serial number, as it is at `now`.
    pub fn shown_by_serial(&mut self, now: Now, serial: u32, fx: &mut Effects) -> Option<&Arc<Session>> {
        self.settle(now, serial, fx);
        self.slots.get(&serial)?.staged.shown()
    }

    /// Sessions of an assessment that are shown, as they are at `now`, from behind a serial number on; so many are
    /// looked at.
    pub fn shown_of(&mut self, now: Now, assessment: &str, after: u32, count: usize, fx: &mut Effects) -> Listing {
        let of = self.by_assessment.get(assessment);
        let behind = of.into_iter().flat_map(|serials| serials.range(after.saturating_add(1)..));
        let serials: Vec<u32> = behind.copied().take(count).collect();
        let upto = serials.last().copied().unwrap_or(after);
        let mut rows = Vec::with_capacity(serials.len());
        for serial in &serials {
            self.settle(now, *serial, fx);
            let Some(slot) = self.slots.get(serial) else { continue };
            rows.extend(slot.staged.shown().map(|session| (session.clone(), slot.seen_at)));
        }
        Listing { rows, upto, is_last: serials.len() < count }
    }

    /// Whether there are sessions of an assessment, whoever may start it.
    pub fn has_sessions_of(&self, assessment: &str) -> bool {
        self.by_assessment.contains_key(assessment)
    }

    /// The session shown with this serial number, as it was last settled.
    pub fn peek(&self, serial: u32) -> Option<&Arc<Session>> {
        self.slots.get(&serial)?.staged.shown()
    }

    /// The serial number of the session called `id`.
    pub fn serial_of(&self, id: &str) -> Option<u32> {
        self.serials.get(id).copied()
    }

    /// The candidate was heard of.
    pub fn seen(&mut self, now: Now, serial: u32) {
        if let Some(slot) = self.slots.get_mut(&serial) {
            slot.seen_at = Some(now.wall);
        }
    }

    // -----------------------------------------------------------------------------------------------------------
    // Deeds.

    /// Gives up an assessment, unless somebody is sitting it.
    pub fn remove_assessment(&mut self, now: Now, id: &str, fx: &mut Effects) -> (Result<(), Refusal>, Hold) {
        let (assessment, mut hold) = self.catalogue.latest(id);
        let Some(assessment) = assessment else { return (Err(Refusal::NoAssessment), hold) };
        let serials: Vec<u32> = self.by_assessment.get(id).into_iter().flatten().copied().collect();
        for serial in serials {
            let (latest, held) = self.latest(now, serial, fx);
            if latest.is_some_and(|latest| latest.session.state.is_active()) {
                return (Err(Refusal::InUse), held.max(hold));
            }
            hold = hold.max(held);
        }
        self.catalogue.remove(&assessment.id, fx);
        (Ok(()), Hold::Gathering)
    }

    /// Starts a session.
    pub fn start(
        &mut self,
        now: Now,
        asked: Application<'_>,
        dice: Dice<'_>,
        actor: &Actor,
        fx: &mut Effects,
    ) -> Verdict {
        let (assessment, mut hold) = self.catalogue.latest(asked.assessment);
        let refused = |refusal, hold| Verdict { outcome: Err(refusal), hold };
        let Some(assessment) = assessment else { return refused(Refusal::NoAssessment, hold) };
        let (candidate, held) = self.catalogue.latest_candidate(asked.candidate);
        hold = hold.max(held);
        let factor = match candidate {
            Some(candidate) if !candidate.is_active => return refused(Refusal::Inactive, hold),
            None if self.settings.known_only => return refused(Refusal::Unknown, hold),
            candidate => candidate.map_or(Factor::ONE, |candidate| candidate.extra_time),
        };
        if let Some(most) = assessment.attempt_limit {
            let key = (assessment.id.clone(), Arc::from(asked.candidate));
            let mut ended = self.attempts.get(&key).copied().unwrap_or(0);
            let serials = self.by_candidate.get(asked.candidate).cloned().unwrap_or_default();
            for serial in serials {
                let (latest, held) = self.latest(now, serial, fx);
                let Some(latest) = latest.filter(|it| it.session.assessment.id == assessment.id) else { continue };
                hold = hold.max(held);
                if latest.session.state.is_active() {
                    return refused(Refusal::Sitting(latest.session.id), hold);
                }
                ended += 1;
            }
            if ended >= most {
                return refused(Refusal::AttemptsUsed, hold);
            }
        }
        if self.slots.len() >= self.settings.sessions_max as usize {
            return refused(Refusal::Full, hold);
        }
        self.serial += 1;
        let session = self.begin(now, assessment, asked, factor, dice);
        let serial = session.serial;
        let events = [What::Created, What::Started, What::Viewed(session.place)].map(|what| (now.wall, what));
        let account = Account { events: events.into(), ..Account::default() };
        self.admit(&session, Staged::unseen());
        self.seen(now, serial);
        Verdict { outcome: Ok(self.stage(serial, session, account, actor, fx)), hold: Hold::Gathering }
    }

    /// A session at its first instant.
    fn begin(
        &self,
        now: Now,
        assessment: Arc<Assessment>,
        asked: Application<'_>,
        factor: Factor,
        dice: Dice<'_>,
    ) -> Session {
        let second = self.settings.second;
        let limit = assessment.time_limit_s.map(|limit_s| factor.span(limit_s, second));
        let drawn = assessment.draw(dice);
        let total = drawn.as_ref().map_or(assessment.items.len(), |drawn| drawn.len());
        let part = |limit_s: Option<u32>| Part {
            is_entered: false,
            clock: limit_s.map(|limit_s| Countdown::new(factor.span(limit_s, second))),
        };
        let is_any_limited = assessment.sections.iter().any(|section| section.time_limit_s.is_some());
        let parts = assessment.sections.iter().filter(|_| is_any_limited).map(|section| part(section.time_limit_s));
        let candidate: Arc<str> = Arc::from(asked.candidate);
        let is_same = asked.test_taker == asked.candidate;
        let mut session = Session {
            id: uuid(dice),
            serial: self.serial,
            test_taker: if is_same { candidate.clone() } else { Arc::from(asked.test_taker) },
            candidate,
            state: State::InProgress,
            drawn,
            place: 0,
            limit,
            countdown: limit.map(Countdown::new),
            parts: parts.collect(),
            marks: vec![Mark::default(); total].into(),
            started_at: now.wall,
            completed_at: None,
            expired: None,
            grace: Countdown::new(Duration::ZERO),
            late_ms: None,
            assessment,
        };
        session.proceed(now);
        session.enter(session.section_at(0), now);
        session
    }

    /// Carries out `deed` on the session with this serial number, if it is there and allows it.
    pub fn act(&mut self, now: Now, serial: u32, deed: Deed, actor: &Actor, fx: &mut Effects) -> Verdict {
        let (latest, hold) = self.latest(now, serial, fx);
        let Some(Latest { serial, mut session, mut account }) = latest else {
            return Verdict { outcome: Err(Refusal::NotFound), hold };
        };
        match session.apply(now, deed, self.settings.second, &mut account) {
            Ok(()) => Verdict { outcome: Ok(self.stage(serial, session, account, actor, fx)), hold: Hold::Gathering },
            Err(refusal) => Verdict { outcome: Err(refusal), hold },
        }
    }

    /// Sessions of an assessment that are not over, in order of start.
    pub fn active_of(&mut self, now: Now, assessment: &str, fx: &mut Effects) -> Vec<(u32, SessionId)> {
        let serials: Vec<u32> = self.by_assessment.get(assessment).into_iter().flatten().copied().collect();
        let mut active = Vec::new();
        for serial in serials {
            if let Some(latest) = self.latest(now, serial, fx).0.filter(|it| it.session.state.is_active()) {
                active.push((serial, latest.session.id));
            }
        }
        active
    }

    /// The latest state of a session, for an answer that changes nothing; and how long that must be held.
    pub fn look(&mut self, now: Now, serial: u32, fx: &mut Effects) -> (Option<Session>, Hold) {
        let (latest, hold) = self.latest(now, serial, fx);
        (latest.map(|latest| latest.session), hold)
    }

    /// The latest state of a session, brought to `now`; and how long an answer about that must be held. Only a state
    /// that still waits for the disk can lag behind once the session is settled: what time has brought about in it
    /// goes along with the next deed.
    fn latest(&mut self, now: Now, serial: u32, fx: &mut Effects) -> (Option<Latest>, Hold) {
        self.settle(now, serial, fx);
        let Some(slot) = self.slots.get(&serial) else { return (None, Hold::Nothing) };
        let hold = slot.staged.hold();
        let Some(latest) = slot.staged.latest() else { return (None, hold) };
        let mut session = Session::clone(latest);
        let mut account = Account::default();
        while let Some(passed) = session.pass(now, self.deaf_since.is_none(), self.settings.second) {
            account.passed(&session, passed);
        }
        (Some(Latest { serial, session, account }), hold)
    }

    // -----------------------------------------------------------------------------------------------------------
    // Listeners.

    /// Somebody listens to the session: it is told the time.
    pub fn listen(&mut self, now: Now, serial: u32, fx: &mut Effects) {
        if let Some(slot) = self.slots.get_mut(&serial)
            && !std::mem::replace(&mut slot.is_heard, true)
        {
            self.keep_beat(now, serial, fx);
        }
    }

    /// Nobody listens any more.
    pub fn unlisten(&mut self, serial: u32) {
        let Some(slot) = self.slots.get_mut(&serial) else { return };
        slot.is_heard = false;
        if let Some(beat) = slot.beat.take() {
            self.leave_beat(beat);
        }
    }

    /// The ticks of a slot, whose alarm went off.
    pub fn beat(&mut self, now: Now, slot: u32, ticks: &mut Vec<Tick>, fx: &mut Effects) {
        if let Some(next) = self.beats.beat(now, slot, ticks) {
            fx.deadlines.arm(next, Due::Beat(slot));
        }
    }

    /// Puts a session into the slot of its end, if it is to be told the time.
    fn keep_beat(&mut self, now: Now, serial: u32, fx: &mut Effects) {
        let Some(slot) = self.slots.get_mut(&serial) else { return };
        let shown = slot.staged.shown().filter(|session| slot.is_heard && session.state == State::InProgress);
        let ends = shown.and_then(|session| session.countdown).and_then(Countdown::ends);
        if slot.beat.map(Beat::ends) == ends.map(|ends| ends.mono) {
            return;
        }
        let before = slot.beat.take();
        if let Some(before) = before {
            self.leave_beat(before);
        }
        if let Some(ends) = ends {
            let (beat, alarm) = self.beats.join(now, serial, ends);
            if let Some((at, slot)) = alarm {
                fx.deadlines.arm(at, Due::Beat(slot));
            }
            if let Some(slot) = self.slots.get_mut(&serial) {
                slot.beat = Some(beat);
            }
        }
    }

    fn leave_beat(&mut self, beat: Beat) {
        if let Some((moved, place)) = self.beats.leave(beat)
            && let Some(slot) = self.slots.get_mut(&moved)
        {
            slot.beat = Some(place);
        }
    }

    // -----------------------------------------------------------------------------------------------------------
    // Time.

    /// Whether this alarm is still the session's own.
    pub fn awaits(&self, sleeper: Sleeper) -> bool {
        self.slots.get(&sleeper.number).is_some_and(|slot| slot.generation == sleeper.generation)
    }

    /// An alarm went off.
    pub fn wake(&mut self, now: Now, sleeper: Sleeper, fx: &mut Effects) {
        let Some(slot) = self.slots.get_mut(&sleeper.number) else { return };
        if slot.generation == sleeper.generation {
            slot.armed = None;
            self.settle(now, sleeper.number, fx);
        }
    }

    /// The wall clock was stepped: ends get new names, nothing is moved.
    pub fn wall_stepped(&mut self, now: Now, fx: &mut Effects) {
        let serials: Vec<u32> = self.slots.keys().copied().collect();
        for serial in serials {
            if let Some(slot) = self.slots.get_mut(&serial) {
                slot.misnamed = true;
            }
            self.settle(now, serial, fx);
        }
    }

    /// No hand-in can be taken since then: graces stand still.
    pub fn fall_deaf(&mut self, since: Mono) {
        self.deaf_since.get_or_insert(since);
    }

    /// Hand-ins can be taken again: what of the graces was lost is given back.
    pub fn hear_again(&mut self, now: Now, fx: &mut Effects) {
        let Some(since) = self.deaf_since.take() else { return };
        for serial in self.graces.clone() {
            if let Some(slot) = self.slots.get_mut(&serial)
                && !slot.staged.is_pending()
                && let Some(shown) = slot.staged.shown_mut()
                && let Some(expired) = shown.expired
            {
                let session = Arc::make_mut(shown);
                session.grace.extend(now.mono.since(since.max(expired.mono)));
                fx.follow(Record::Session(shown.clone()));
            }
            self.settle(now, serial, fx);
        }
    }

    /// Ended sessions leave the memory when they have been kept long enough, some at a time.
    pub fn upkeep(&mut self, now: Now, fx: &mut Effects) {
        const GONE_AT_ONCE: usize = 1_000;
        let Some(keep) = self.settings.keep_finished else { return };
        let due = self.over.iter().take_while(|(ended, _)| now.wall.since(*ended) >= keep).take(GONE_AT_ONCE);
        let due: Vec<u32> = due.map(|(_, serial)| *serial).collect();
        for serial in due {
            let Some(slot) = self.slots.get(&serial).filter(|slot| !slot.staged.is_pending()) else { continue };
            *self.attempts.entry((slot.assessment.clone(), slot.candidate.clone())).or_default() += 1;
            fx.follow(Record::SessionPast(serial));
            fx.announce(Topic::Session(serial), effects::Message::Session(Message::Gone));
            self.dismiss(serial);
        }
    }

    /// Brings what is shown of a session to `now`: what has come due happens, in order, and the next alarm is set.
    fn settle(&mut self, now: Now, serial: u32, fx: &mut Effects) {
        let Settings { second, .. } = self.settings;
        let grace = self.deaf_since.is_none();
        let Some(slot) = self.slots.get_mut(&serial) else { return };
        let Some(shown) = slot.staged.shown() else { return };
        let is_due = slot.misnamed || shown.next_end(grace).is_some_and(|at| at.mono <= now.mono);
        // An end waits while a change of the same session is on its way: it may undo it.
        if is_due
            && !slot.staged.is_pending()
            && let Some(shown) = slot.staged.shown_mut()
        {
            let session = Arc::make_mut(shown);
            let mut account = Account::default();
            let mut is_changed = std::mem::take(&mut slot.misnamed)
                && session.running().fold(false, |changed, clock| clock.rename_end(now) || changed);
            while let Some(passed) = session.pass(now, grace, second) {
                account.passed(session, passed);
                is_changed = true;
            }
            if is_changed {
                let session = shown.clone();
                let Account { events, messages, .. } = account;
                for (at, what) in events {
                    fx.follow(Record::Event(event(&session, at, what, &self.timerd, &self.timerd, fx.scribe)));
                }
                for message in messages {
                    fx.announce(session.topic(), effects::Message::Session(message));
                }
                fx.follow(Record::Session(session));
            }
        }
        self.arm(now, serial, fx);
    }

    /// Sets the alarm for the next thing that time alone brings about, and keeps the books.
    fn arm(&mut self, now: Now, serial: u32, fx: &mut Effects) {
        let grace = self.deaf_since.is_none();
        let Some(slot) = self.slots.get_mut(&serial) else { return };
        let end = slot.staged.shown().and_then(|session| session.next_end(grace)).map(|end| end.mono);
        // What waits for the disk is looked at when the disk answers.
        let next = end.filter(|at| *at > now.mono || !slot.staged.is_pending());
        if next != slot.armed {
            slot.generation = slot.generation.wrapping_add(1);
            slot.armed = next;
            if let Some(at) = next {
                fx.deadlines.arm(at, Due::Session(Sleeper { number: serial, generation: slot.generation }));
            }
        }
        self.count(serial);
        self.keep_beat(now, serial, fx);
    }

    /// Counts a session as what it is now.
    fn count(&mut self, serial: u32) {
        let Some(slot) = self.slots.get_mut(&serial) else { return };
        let life = slot.staged.shown().map_or(Life::Still, |session| match session.state {
            State::InProgress => Life::Awake,
            State::Expired if session.expired.is_some() => Life::Grace,
            State::Paused => Life::Still,
            _ => Life::Over(session.completed_at.unwrap_or_default()),
        });
        let before = std::mem::replace(&mut slot.life, life);
        self.recount(serial, before, life);
    }

    fn recount(&mut self, serial: u32, before: Life, life: Life) {
        if before == life {
            return;
        }
        let moves = |life| matches!(life, Life::Awake | Life::Grace);
        self.awake = self.awake + usize::from(moves(life)) - usize::from(moves(before));
        if before == Life::Grace {
            self.graces.remove(&serial);
        }
        if life == Life::Grace {
            self.graces.insert(serial);
        }
        if let Life::Over(at) = before {
            self.over.remove(&(at, serial));
        }
        if let Life::Over(at) = life {
            self.over.insert((at, serial));
        }
    }

    // -----------------------------------------------------------------------------------------------------------
    // The disk.

    /// The gathering batch goes to the disk.
    pub fn hand_over(&mut self) {
        self.catalogue.hand_over();
        self.touched.hand_over();
        for serial in &self.touched.writing {
            if let Some(slot) = self.slots.get_mut(serial) {
                slot.staged.hand_over();
            }
        }
    }

    /// The batch in hand is durable: its states are shown. Returns whom to bring to the present, after what the batch
    /// announces has been said.
    #[must_use]
    pub fn commit(&mut self) -> Vec<u32> {
        self.catalogue.commit();
        let touched = std::mem::take(&mut self.touched.writing);
        for serial in &touched {
            if let Some(slot) = self.slots.get_mut(serial) {
                slot.staged.commit();
            }
        }
        touched
    }

    /// Neither batch will ever be durable. Returns whom to bring to the present.
    #[must_use]
    pub fn undo(&mut self) -> Vec<u32> {
        self.catalogue.undo();
        let Flight { mut gathering, writing } = std::mem::take(&mut self.touched);
        gathering.extend(writing);
        for serial in &gathering {
            let Some(slot) = self.slots.get_mut(serial) else { continue };
            slot.staged.undo();
            if slot.staged.is_gone() {
                self.dismiss(*serial);
            }
        }
        gathering
    }

    /// Brings sessions that waited for the disk to `now`.
    pub fn resettle(&mut self, now: Now, serials: Vec<u32>, fx: &mut Effects) {
        serials.into_iter().for_each(|serial| self.settle(now, serial, fx));
    }

    /// Takes up the sessions of an earlier run, the time between counted as the operator wants it.
    pub fn restore(&mut self, now: Now, absence: Absence, kept: Kept, fx: &mut Effects) {
        let Kept { assessments, version, candidates, sessions, serial, attempts } = kept;
        self.catalogue.restore(assessments, candidates, version);
        self.serial = serial;
        self.attempts = attempts.into_iter().map(|(of, by, count)| ((of, by), count)).collect();
        for mut session in sessions {
            let mut account = Account::default();
            let before = session.clone();
            self.return_to(&mut session, now, absence, &mut account);
            let session = Arc::new(session);
            for (at, what) in account.events {
                fx.follow(Record::Event(event(&session, at, what, &self.timerd, &self.timerd, fx.scribe)));
            }
            if *session != before {
                fx.follow(Record::Session(session.clone()));
            }
            self.admit(&session, Staged::durable(session.clone()));
            self.settle(now, session.serial, fx);
        }
    }

    /// Brings a session over the time in which nobody was there.
    fn return_to(&self, session: &mut Session, now: Now, absence: Absence, account: &mut Account) {
        let Settings { second, outage, .. } = self.settings;
        let Absence { alive, away, same_boot } = absence;
        // A batch written after a step of the wall clock may tell of ends that had not got their new names yet.
        for clock in session.running() {
            if let Some(stored) = clock.ends() {
                *clock = Countdown::Running { ends: stored.named_by(alive) };
            }
        }
        // In the boot times of the records: until when clocks have run, and what is now.
        let ran_until = match outage {
            Outage::RunOn => Now { mono: alive.mono + away, wall: alive.wall + away },
            Outage::Freeze => alive,
        };
        while let Some(passed) = session.pass(ran_until, false, second) {
            account.passed(session, passed);
        }
        // Nobody could have handed in meanwhile, whatever counts for the clocks.
        let heard_until = Now { mono: session.expired.map_or(alive.mono, |at| at.mono.max(alive.mono)), ..alive };
        if let Some(passed) = session.pass(heard_until, true, second) {
            account.passed(session, passed);
        }
        let is_expired = session.state == State::Expired;
        let is_moved = !same_boot || (!away.is_zero() && (outage == Outage::Freeze || is_expired));
        if is_moved {
            // The names are kept where the clocks have run on, unless the wall clock has gone back.
            let keeps_names = outage == Outage::RunOn && now.wall >= alive.wall && !is_expired;
            for clock in session.running() {
                let left = clock.left(if is_expired { heard_until } else { ran_until });
                let mut ends = Deadline::after(now, left);
                if let (true, Some(named)) = (keeps_names, clock.ends()) {
                    ends.wall = named.wall;
                }
                *clock = Countdown::Running { ends };
            }
        }
        if let Some(expired) = session.expired.as_mut().filter(|_| !same_boot) {
            expired.mono = now.mono.back((alive.mono + away).since(expired.mono));
        }
    }

    // -----------------------------------------------------------------------------------------------------------

    /// Makes room for a session.
    fn admit(&mut self, session: &Session, staged: Staged<Arc<Session>>) {
        let serial = session.serial;
        let slot = Slot::new(session, staged);
        self.serials.insert(slot.id.clone(), serial);
        self.by_assessment.entry(slot.assessment.clone()).or_default().insert(serial);
        self.by_candidate.entry(slot.candidate.clone()).or_default().push(serial);
        self.slots.insert(serial, slot);
    }

    /// Forgets a session.
    fn dismiss(&mut self, serial: u32) {
        self.unlisten(serial);
        let Some(slot) = self.slots.remove(&serial) else { return };
        self.recount(serial, slot.life, Life::Still);
        self.serials.remove(&slot.id);
        if let Some(serials) = self.by_assessment.get_mut(&slot.assessment) {
            serials.remove(&serial);
            if serials.is_empty() {
                self.by_assessment.remove(&slot.assessment);
            }
        }
        if let Some(serials) = self.by_candidate.get_mut(&slot.candidate) {
            serials.retain(|other| *other != serial);
            if serials.is_empty() {
                self.by_candidate.remove(&slot.candidate);
            }
        }
    }

    fn stage(
        &mut self,
        serial: u32,
        next: Session,
        account: Account,
        actor: &Actor,
        fx: &mut Effects,
    ) -> Arc<Session> {
        let next = Arc::new(next);
        let Account { answers, events, messages } = account;
        answers.into_iter().for_each(|answer| fx.command(answer));
        for (at, what) in events {
            fx.command(Record::Event(event(&next, at, what, actor, &self.timerd, fx.scribe)));
        }
        for message in messages {
            fx.announce_when_durable(next.topic(), effects::Message::Session(message));
        }
        fx.command(Record::Session(next.clone()));
        if let Some(slot) = self.slots.get_mut(&serial) {
            if slot.staged.hold() != Hold::Gathering {
                self.touched.gathering.push(serial);
            }
            slot.staged.stage(Some(next.clone()));
        }
        next
    }
}

/// The event of something that happened in a session, which is as it is after it.
fn event(session: &Session, at: WallMs, what: What, actor: &Actor, source: &Actor, scribe: Scribe) -> Event {
    let payload = (scribe.session)(&Told { session, what, actor });
    let (id, user) = (Some(session.id.clone()), Some(session.candidate.clone()));
    Event { kind: what.kind(), source: source.clone(), session: id, user, payload, at }
}

/// A UUID of version 4 (RFC 9562, section 5.4).
fn uuid(dice: Dice<'_>) -> SessionId {
    let [a, b, c, d] = [dice(), dice(), dice(), dice()];
    let (version, variant) = (b & 0x0fff | 0x4000, (c >> 16) & 0x3fff | 0x8000);
    Arc::from(format!("{a:08x}-{:04x}-{version:04x}-{variant:04x}-{:04x}{d:08x}", b >> 16, c & 0xffff))
}
