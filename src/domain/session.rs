//! One session: a candidate's clock, his place, and which items have an answer.
//!
//! Owns the state machine of the contract, the clocks of a session and of its sections, the rules of moving about, and
//! what of all that time alone brings about. The answers themselves are the disk's. It is a value: it knows no other
//! session, no connection and no disk, and what follows from a change of it is written into an account by whoever
//! changes it.
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
//! Invariants: clocks run if and only if the session is in progress; a section's end and the session's happen at their
//! true instants and in their order; what was left for good, or has run out, is locked.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Mono, Now, WallMs};
use crate::domain::assessments::{Assessment, Dice, Factor, Item, Navigation};
use crate::domain::countdown::{Countdown, Deadline, Second};
use crate::domain::effects::{Record, Topic};
use crate::domain::events::Kind;
use crate::limits::{RESPONSES_BYTES_MAX, TOTAL_S_MAX};

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
    /// Its own limit in force: factor applied, extensions included.
    pub limit: Option<Duration>,
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
    /// He has as many sessions under way as anybody may.
    TooManyAtOnce,
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
    /// The session has no item of this name.
    NoItem(Arc<str>),
    /// Only the current item can be answered, and it is not this one.
    ItemLocked(Arc<str>),
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
// What is, what time makes of it, and what people do.

/// What time alone has brought about.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Passed {
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
    /// A session at its first instant: its clock runs, and the first item is there.
    pub(super) fn new(
        now: Now,
        serial: u32,
        assessment: Arc<Assessment>,
        asked: Application<'_>,
        factor: Factor,
        second: Second,
        dice: Dice<'_>,
    ) -> Self {
        let limit = assessment.time_limit_s.map(|limit_s| factor.span(limit_s, second));
        let drawn = assessment.draw(dice);
        let total = drawn.as_ref().map_or(assessment.items.len(), |drawn| drawn.len());
        let part = |limit_s: Option<u32>| {
            let limit = limit_s.map(|limit_s| factor.span(limit_s, second));
            Part { is_entered: false, limit, clock: limit.map(Countdown::new) }
        };
        let is_any_limited = assessment.sections.iter().any(|section| section.time_limit_s.is_some());
        let parts = assessment.sections.iter().filter(|_| is_any_limited).map(|section| part(section.time_limit_s));
        let candidate: Arc<str> = Arc::from(asked.candidate);
        let is_same = asked.test_taker == asked.candidate;
        let mut session = Session {
            id: uuid(dice),
            serial,
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

    /// Seconds that a section lasts, rounded up. `None`: it has no limit of its own.
    pub fn section_limit_s(&self, section: u16, second: Second) -> Option<u32> {
        self.parts.get(usize::from(section)).and_then(|part| part.limit).map(|limit| second.ceil(limit))
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
    pub(super) fn next_end(&self, grace: bool) -> Option<Deadline> {
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
    pub(super) fn pass(&mut self, now: Now, grace: bool, second: Second) -> Option<Passed> {
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
        // One that ends at the same instant is no place to go to.
        let stays = |place: u16| {
            let part = self.parts.get(usize::from(self.section_at(place)));
            ends(part.and_then(|part| part.clock)).is_none_or(|ends| ends > at.mono)
        };
        let mut others = (from + 1..self.total()).chain(0..from);
        Some(match others.find(|place| !self.is_locked(*place) && stays(*place)) {
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

    /// Keeps that an item has this response. Returns its index.
    fn answer(&mut self, now: Now, id: &Arc<str>, response: &str) -> Result<u16, Refusal> {
        let place = self.place_of(id).ok_or_else(|| Refusal::NoItem(id.clone()))?;
        if self.assessment.navigation == Navigation::Linear && place != self.place {
            return Err(Refusal::ItemLocked(id.clone()));
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
    pub(super) fn apply(
        &mut self,
        now: Now,
        deed: Deed,
        second: Second,
        account: &mut Account,
    ) -> Result<(), Refusal> {
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
                let place = self.place_of(&item).ok_or_else(|| Refusal::NoItem(item.clone()))?;
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
                if let Some(Part { limit: Some(limit), clock: Some(clock), .. }) = self.parts.get_mut(current) {
                    *limit += added;
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
        item: &Arc<str>,
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
    pub(super) fn running(&mut self) -> impl Iterator<Item = &mut Countdown> {
        let clocks = self.parts.iter_mut().filter_map(|part| part.clock.as_mut()).chain(&mut self.countdown);
        clocks.chain(std::iter::once(&mut self.grace)).filter(|clock| clock.ends().is_some())
    }

    pub(super) fn topic(&self) -> Topic {
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
pub(super) struct Account {
    /// Responses.
    pub(super) answers: Vec<Record>,
    /// What happened, with its true instant.
    pub(super) events: Vec<(WallMs, What)>,
    /// So many of them are the work of time alone, and come first.
    pub(super) passed: usize,
    /// What everybody at the session hears.
    pub(super) messages: Vec<Message>,
}

impl Account {
    /// The item with this index was left.
    fn left(&mut self, session: &Session, at: WallMs, place: u16) {
        if !session.mark_at(place).is_answered() {
            self.events.push((at, What::Skipped(place)));
        }
    }

    /// What time has brought about in a session, which is as it is after it.
    pub(super) fn passed(&mut self, session: &Session, Passed { at, what }: Passed) {
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
        self.passed = self.events.len();
    }
}

/// A UUID of version 4 (RFC 9562, section 5.4).
fn uuid(dice: Dice<'_>) -> SessionId {
    let [a, b, c, d] = [dice(), dice(), dice(), dice()];
    let (version, variant) = (b & 0x0fff | 0x4000, (c >> 16) & 0x3fff | 0x8000);
    Arc::from(format!("{a:08x}-{:04x}-{version:04x}-{variant:04x}-{:04x}{d:08x}", b >> 16, c & 0xffff))
}
