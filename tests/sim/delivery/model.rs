//! The reference: what a session's time and place are by the contract, in plain arithmetic.
//!
//! Owns a second, simple opinion about one session: every clock of it is a number of nanoseconds that are left, and
//! time is lived through from one thing that happens to the next by taking away what has passed. There is no
//! deadline, no heap, no disk and no rounding, and nothing of it is shared with the daemon. Whoever compares brings
//! the instants and the commands; what comes of them is told with the instant at which it happened.
//!
//! Invariants: time passes forward only; nothing happens before its nanosecond; a command that is refused changes
//! nothing.

use std::rc::Rc;

/// Nanoseconds of a second.
pub const SECOND_NS: u64 = 1_000_000_000;

/// How a candidate may move about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Forward, item by item.
    Linear,
    /// Anywhere.
    Free,
    /// Anywhere within a section, forward between sections.
    Hybrid,
}

/// What a session was started with, chance included.
#[derive(Clone, Debug, PartialEq)]
pub struct Paper {
    /// How one may move.
    pub mode: Mode,
    /// The limit in nanoseconds, factor applied. `None`: as long as it takes.
    pub limit_ns: Option<u64>,
    /// Nanoseconds after the end in which a hand-in is taken.
    pub grace_ns: u64,
    /// In the order delivered.
    pub parts: Vec<Part>,
}

/// A section.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// Its name.
    pub id: String,
    /// Its place as written.
    pub number: usize,
    /// Its own limit in nanoseconds, factor applied.
    pub limit_ns: Option<u64>,
    /// The ids of its items, in the order delivered.
    pub items: Vec<String>,
}

impl Paper {
    /// The ids of all items, in the order delivered.
    pub fn items(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().flat_map(|part| part.items.iter().map(String::as_str))
    }

    /// How many items there are.
    pub fn total(&self) -> usize {
        self.parts.iter().map(|part| part.items.len()).sum()
    }

    /// The place of an item.
    pub fn place_of(&self, item: &str) -> Option<usize> {
        self.items().position(|other| other == item)
    }

    /// The name of the item at a place.
    pub fn item_at(&self, place: usize) -> &str {
        self.items().nth(place).unwrap_or_default()
    }

    /// The section of the item at a place.
    pub fn part_of(&self, place: usize) -> usize {
        let mut end = 0;
        for (number, part) in self.parts.iter().enumerate() {
            end += part.items.len();
            if place < end {
                return number;
            }
        }
        panic!("no item has place {place}")
    }

    /// The place of a section's first item.
    pub fn first_of(&self, part: usize) -> usize {
        self.parts[..part].iter().map(|part| part.items.len()).sum()
    }
}

/// Where a session is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Running.
    InProgress,
    /// Standing still.
    Paused,
    /// Handed in.
    Completed,
    /// Its time is up.
    Expired,
    /// Ended by an invigilator.
    Terminated,
}

impl State {
    /// Every state that a session can be in.
    pub const ALL: [State; 5] =
        [State::InProgress, State::Paused, State::Completed, State::Expired, State::Terminated];

    /// Its name in the contract.
    pub fn name(self) -> &'static str {
        match self {
            State::InProgress => "in_progress",
            State::Paused => "paused",
            State::Completed => "completed",
            State::Expired => "expired",
            State::Terminated => "terminated",
        }
    }

    /// Running or paused.
    pub fn is_active(self) -> bool {
        matches!(self, State::InProgress | State::Paused)
    }
}

/// A section of a session.
#[derive(Clone, Debug, PartialEq)]
pub struct Section {
    /// What is left of its own limit.
    pub left_ns: Option<u64>,
    /// Its clock has begun.
    pub is_entered: bool,
    /// Nothing in it can be answered any more.
    pub is_locked: bool,
}

/// What somebody asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// An answer to the item with this id; the flag as well, if that is said.
    Answer(String, Option<bool>),
    /// The flag of this item.
    Flag(String, bool),
    /// To another item.
    Go(Go),
    /// The hand-in, with answers to these items.
    Submit(Vec<String>),
    /// Let time stand still.
    Pause,
    /// Let it go on.
    Resume,
    /// So many seconds more.
    Extend(u64),
    /// The end.
    Terminate,
}

/// Where to.
#[derive(Clone, Debug, PartialEq)]
pub enum Go {
    /// `next`.
    Next,
    /// `previous`.
    Previous,
    /// `specific`, with its `target_index`.
    To(Option<i64>),
    /// Whatever else.
    Nowhere(String),
}

/// Something that happened to a session.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// An item has got an answer: its first, or another one.
    Answered {
        /// Which item.
        place: usize,
        /// It had none.
        is_first: bool,
    },
    /// An item was left without an answer.
    Skipped(usize),
    /// An item was entered.
    Viewed(usize),
    /// A section's own time is up, and the candidate now at this place.
    SectionOver {
        /// Which section.
        part: usize,
        /// Where the candidate is.
        place: usize,
    },
    /// The session's time is up.
    Expired,
    /// Nobody has handed it in.
    GraceOver,
    /// It was handed in.
    HandedIn,
    /// See [`Op::Pause`].
    Paused,
    /// See [`Op::Resume`].
    Resumed,
    /// See [`Op::Extend`].
    Extended(u64),
    /// See [`Op::Terminate`].
    Terminated,
}

/// An event with its instant, in nanoseconds.
pub type Told = (u64, Event);

/// A session.
#[derive(Clone, Debug, PartialEq)]
pub struct Session {
    /// What it was started with.
    pub paper: Rc<Paper>,
    /// Up to which nanosecond it has lived.
    pub at_ns: u64,
    /// Where in its life.
    pub state: State,
    /// What is left.
    pub left_ns: Option<u64>,
    /// The limit in force.
    pub limit_ns: Option<u64>,
    /// Its sections.
    pub sections: Vec<Section>,
    /// The current item.
    pub place: usize,
    /// Which items have an answer, by place.
    pub answered: Vec<bool>,
    /// Which are flagged.
    pub flagged: Vec<bool>,
    /// What is left of the grace, from the end on.
    pub grace_ns: u64,
    /// The grace is over, or nobody needs it any more.
    pub is_closed: bool,
    /// How long ago its time was up, or was when it was handed in.
    pub late_ns: Option<u64>,
}

impl Session {
    /// Somebody begins at the instant `at_ns`.
    pub fn start(paper: Rc<Paper>, at_ns: u64) -> Session {
        let total = paper.total();
        let sections = paper.parts.iter();
        let sections = sections.map(|part| Section { left_ns: part.limit_ns, is_entered: false, is_locked: false });
        let mut session = Session {
            at_ns,
            state: State::InProgress,
            left_ns: paper.limit_ns,
            limit_ns: paper.limit_ns,
            sections: sections.collect(),
            place: 0,
            answered: vec![false; total],
            flagged: vec![false; total],
            grace_ns: paper.grace_ns,
            is_closed: false,
            late_ns: None,
            paper,
        };
        session.enter(session.part());
        session
    }

    /// The section that the candidate is in.
    pub fn part(&self) -> usize {
        self.paper.part_of(self.place)
    }

    /// What is left at `at_ns`, should nothing happen until then.
    pub fn left_at(&self, at_ns: u64) -> Option<u64> {
        let passed = if self.state == State::InProgress { at_ns - self.at_ns } else { 0 };
        Some(self.left_ns?.saturating_sub(passed))
    }

    /// What is left of a section at `at_ns`, should nothing happen until then.
    pub fn part_left_at(&self, part: usize, at_ns: u64) -> Option<u64> {
        let section = &self.sections[part];
        let runs = self.state == State::InProgress && section.is_entered && !section.is_locked;
        Some(section.left_ns?.saturating_sub(if runs { at_ns - self.at_ns } else { 0 }))
    }

    /// How long until time brings something about. `None`: never.
    pub fn next_ns(&self) -> Option<u64> {
        match self.state {
            State::InProgress => {
                let running = self.sections.iter().filter(|section| section.is_entered && !section.is_locked);
                running.filter_map(|section| section.left_ns).chain(self.left_ns).min()
            }
            State::Expired if !self.is_closed => Some(self.grace_ns),
            _ => None,
        }
    }

    /// Lives until `until_ns`. What happens is told in order. `grace`: a hand-in would be taken.
    pub fn live(&mut self, until_ns: u64, grace: bool) -> Vec<Told> {
        let mut told = Vec::new();
        assert!(until_ns >= self.at_ns, "time passes forward");
        loop {
            let rest_ns = until_ns - self.at_ns;
            let counts = self.state != State::Expired || grace;
            match self.next_ns().filter(|next_ns| counts && *next_ns <= rest_ns) {
                Some(next_ns) => {
                    self.pass(next_ns, counts);
                    self.happen(&mut told);
                }
                None => {
                    self.pass(rest_ns, counts);
                    return told;
                }
            }
        }
    }

    /// Takes away what has passed.
    fn pass(&mut self, ns: u64, counts: bool) {
        self.at_ns += ns;
        match self.state {
            State::InProgress => {
                self.left_ns.iter_mut().for_each(|left| *left -= ns);
                for section in self.sections.iter_mut().filter(|section| section.is_entered && !section.is_locked) {
                    section.left_ns.iter_mut().for_each(|left| *left -= ns);
                }
            }
            State::Expired => {
                self.late_ns.iter_mut().for_each(|late| *late += ns);
                if counts && !self.is_closed {
                    self.grace_ns -= ns;
                }
            }
            _ => {}
        }
    }

    /// Some clock stands at zero.
    fn happen(&mut self, told: &mut Vec<Told>) {
        let at_ns = self.at_ns;
        if self.state == State::Expired {
            self.is_closed = true;
            self.late_ns = None;
            return told.push((at_ns, Event::GraceOver));
        }
        if self.left_ns == Some(0) {
            return self.expire(told);
        }
        // Of those that end at one instant the one written first comes first.
        let mut order: Vec<usize> = (0..self.sections.len()).collect();
        order.sort_by_key(|part| self.paper.parts[*part].number);
        // All of them end, though he is led past one of them for good.
        order.retain(|part| {
            let section = &self.sections[*part];
            section.is_entered && !section.is_locked && section.left_ns == Some(0)
        });
        for part in order {
            self.sections[part].is_locked = true;
            if part == self.part() {
                let Some(next) = self.next_open(part) else { return self.expire(told) };
                self.move_to(self.paper.first_of(next), told);
                // Whoever is moved hears of the end of the section before he hears where he is.
                let moved = told.len() - told.iter().rev().take_while(|(_, event)| is_move(event)).count();
                told.insert(moved, (at_ns, Event::SectionOver { part, place: self.place }));
            } else {
                told.push((at_ns, Event::SectionOver { part, place: self.place }));
            }
        }
    }

    /// The next section with items that is not locked and does not end at the same instant, behind `part` in order and
    /// then from the first.
    fn next_open(&self, part: usize) -> Option<usize> {
        let count = self.sections.len();
        let order = (part + 1..count).chain(0..part);
        order.into_iter().find(|part| {
            let Section { left_ns, is_locked, .. } = self.sections[*part];
            !is_locked && left_ns != Some(0) && !self.paper.parts[*part].items.is_empty()
        })
    }

    fn expire(&mut self, told: &mut Vec<Told>) {
        self.state = State::Expired;
        self.left_ns = self.left_ns.map(|_| 0);
        self.late_ns = Some(0);
        told.push((self.at_ns, Event::Expired));
    }

    fn enter(&mut self, part: usize) {
        self.sections[part].is_entered = true;
        if self.paper.mode != Mode::Free {
            self.sections[..part].iter_mut().for_each(|section| section.is_locked = true);
        }
    }

    fn move_to(&mut self, place: usize, told: &mut Vec<Told>) {
        if place == self.place {
            return;
        }
        if !self.answered[self.place] {
            told.push((self.at_ns, Event::Skipped(self.place)));
        }
        self.place = place;
        self.enter(self.part());
        told.push((self.at_ns, Event::Viewed(place)));
    }

    /// Every clock that runs gets `ns` more.
    pub fn linger(&mut self, ns: u64) {
        match self.state {
            State::InProgress => {
                let running = self.sections.iter_mut().filter(|section| section.is_entered && !section.is_locked);
                running
                    .filter_map(|section| section.left_ns.as_mut())
                    .chain(&mut self.left_ns)
                    .for_each(|left| *left += ns);
            }
            State::Expired if !self.is_closed => self.grace_ns += ns,
            _ => {}
        }
    }

    // -----------------------------------------------------------------------------------------------------------
    // What people ask for.

    /// Does what is asked for, at the instant up to which it has lived.
    ///
    /// # Errors
    /// The contract's words, when that is refused; nothing has changed then.
    pub fn ask(&mut self, op: &Op) -> Result<Vec<Told>, String> {
        let at_ns = self.at_ns;
        let mut told = Vec::new();
        match op {
            Op::Answer(item, flag) => {
                let place = self.may_answer(item)?;
                self.answer(place, &mut told);
                if let Some(flag) = flag {
                    self.flagged[place] = *flag;
                }
            }
            Op::Flag(item, on) => {
                self.must_run("flag")?;
                let place = self.paper.place_of(item).ok_or_else(|| format!("Item {item} not in session"))?;
                self.flagged[place] = *on;
            }
            Op::Go(go) => {
                self.must_run("navigate")?;
                let place = self.target(go)?;
                self.move_to(place, &mut told);
            }
            Op::Submit(items) => {
                let is_late = self.state == State::Expired && !self.is_closed;
                if self.state != State::InProgress && !is_late {
                    return Err(format!("Cannot submit in state: {}", self.state.name()));
                }
                let places: Result<Vec<usize>, String> = items.iter().map(|item| self.is_open(item)).collect();
                for place in places? {
                    self.answer(place, &mut told);
                }
                self.state = State::Completed;
                self.is_closed = true;
                told.push((at_ns, Event::HandedIn));
            }
            Op::Pause => {
                self.must_be(&[State::InProgress], State::Paused)?;
                self.state = State::Paused;
                told.push((at_ns, Event::Paused));
            }
            Op::Resume => {
                self.must_be(&[State::Paused], State::InProgress)?;
                self.state = State::InProgress;
                told.push((at_ns, Event::Resumed));
            }
            Op::Terminate => {
                self.must_be(&[State::InProgress, State::Paused], State::Terminated)?;
                self.state = State::Terminated;
                told.push((at_ns, Event::Terminated));
            }
            Op::Extend(seconds) => {
                if !self.state.is_active() {
                    return Err(format!("Cannot extend in state: {}", self.state.name()));
                }
                let (Some(left_ns), Some(limit_ns)) = (&mut self.left_ns, &mut self.limit_ns) else {
                    return Err("Session has no time limit".to_owned());
                };
                let added_ns = seconds * SECOND_NS;
                *left_ns += added_ns;
                *limit_ns += added_ns;
                let part = self.part();
                self.sections[part].left_ns.iter_mut().for_each(|left| *left += added_ns);
                told.push((at_ns, Event::Extended(*seconds)));
            }
        }
        Ok(told)
    }

    fn must_run(&self, what: &str) -> Result<(), String> {
        match self.state {
            State::InProgress => Ok(()),
            State::Expired => Err("Time expired".to_owned()),
            state => Err(format!("Cannot {what} in state: {}", state.name())),
        }
    }

    fn must_be(&self, states: &[State], next: State) -> Result<(), String> {
        if states.contains(&self.state) {
            return Ok(());
        }
        Err(format!("Cannot transition from {} to {}", self.state.name(), next.name()))
    }

    fn may_answer(&self, item: &str) -> Result<usize, String> {
        self.must_run("submit answer")?;
        self.is_open(item)
    }

    /// The place of an item that can be answered.
    fn is_open(&self, item: &str) -> Result<usize, String> {
        let place = self.paper.place_of(item).ok_or_else(|| format!("Item {item} not in session"))?;
        if self.paper.mode == Mode::Linear && place != self.place {
            return Err(format!("Item {item} is locked"));
        }
        if self.is_shut(place) {
            return Err("Section is locked".to_owned());
        }
        Ok(place)
    }

    /// The section of the item at this place is closed, be it that its time ended with the session's. That in which the
    /// candidate was at the end is not: what was written in it may be handed in.
    fn is_shut(&self, place: usize) -> bool {
        self.is_shut_part(self.paper.part_of(place))
    }

    /// The same of a section.
    pub fn is_shut_part(&self, part: usize) -> bool {
        let is_over = self.sections[part].is_locked || self.sections[part].left_ns == Some(0);
        is_over && !(self.state == State::Expired && part == self.part())
    }

    fn answer(&mut self, place: usize, told: &mut Vec<Told>) {
        let is_first = !std::mem::replace(&mut self.answered[place], true);
        let part = self.paper.part_of(place);
        if self.state == State::InProgress {
            self.sections[part].is_entered = true;
        }
        told.push((self.at_ns, Event::Answered { place, is_first }));
    }

    fn target(&self, go: &Go) -> Result<usize, String> {
        let total = self.paper.total();
        let place = match go {
            Go::Nowhere(word) => return Err(format!("Invalid direction: {word}")),
            Go::To(None) => return Err("target_index required for specific navigation".to_owned()),
            Go::To(Some(target)) => {
                let place = usize::try_from(*target).ok().filter(|place| *place < total);
                let place = place.ok_or_else(|| format!("Invalid target index: {target}"))?;
                if self.paper.mode == Mode::Linear && place <= self.place {
                    return Err(FORWARD_ONLY.to_owned());
                }
                if self.paper.mode == Mode::Hybrid && self.paper.part_of(place) < self.part() {
                    return Err(NO_WAY_BACK.to_owned());
                }
                if self.is_shut(place) {
                    return Err("Section is locked".to_owned());
                }
                place
            }
            Go::Next => {
                if self.place + 1 == total {
                    return Err("Cannot navigate past the last item".to_owned());
                }
                self.find(self.place + 1..total)?
            }
            Go::Previous => {
                if self.paper.mode == Mode::Linear {
                    return Err(FORWARD_ONLY.to_owned());
                }
                if self.place == 0 {
                    return Err("Cannot navigate before the first item".to_owned());
                }
                if self.paper.mode == Mode::Hybrid && self.paper.part_of(self.place - 1) < self.part() {
                    return Err(NO_WAY_BACK.to_owned());
                }
                self.find((0..self.place).rev())?
            }
        };
        Ok(place)
    }

    fn find(&self, mut places: impl Iterator<Item = usize>) -> Result<usize, String> {
        let found = places.find(|place| !self.is_shut(*place));
        found.ok_or_else(|| "Section is locked".to_owned())
    }

    /// Whether `previous` and `next` would find an item, by place and mode alone.
    pub fn ways(&self) -> (bool, bool) {
        (self.target(&Go::Previous).is_ok(), self.target(&Go::Next).is_ok())
    }
}

const FORWARD_ONLY: &str = "LINEAR mode: can only navigate forward";
const NO_WAY_BACK: &str = "HYBRID mode: cannot return to an earlier section";

/// Part of a change of place.
fn is_move(event: &Event) -> bool {
    matches!(event, Event::Skipped(_) | Event::Viewed(_))
}
