//! The ledger: every room as it must be, from what reaches the daemon and what becomes of it on the disk.
//!
//! Owns a reference to each room ([`model`](super::model)) in three states: shown, with the disk, and gathering behind
//! that; who sits in which room on which line; the log of all that must have been said in each; and what every line is
//! owed. It is the daemon's rooms a second time: whatever is said on a line is judged at the turn in which it has come,
//! in the order in which lines are read, so that of two who press at once it is known who was first.
//!
//! It shares no arithmetic with the daemon and foretells everything but three things that the contract leaves open:
//! ids, which it learns from the disk; in which turn the announcement of lines comes; and when somebody is let go who
//! does not read what he is sent.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use timerd::clock::Now;
use timerd::domain::countdown::Countdown;
use timerd::domain::disk::Image;
use timerd::domain::effects::{Batch, Record};
use timerd::domain::rooms::{Room as Stored, State as StoredState};
use timerd::hub::Hub;
use timerd::limits::{DISK_HANG_MAX, LINES_PER_PERSON, ROOM_PEOPLE_MAX, ROOMS_MAX};

use super::model::{Entry, Face, Left, List, MS_NS, Person, Press, Room, quoted};
use crate::world::violated;

/// How long a lost line may go untold, and how far two announcements of lines are apart.
pub const PRESENCE_NS: u64 = 50 * MS_NS;
/// By how much a clock that survives a reboot by its name alone may be off.
const NAME_SLACK_NS: u64 = 3 * MS_NS;

/// The revision that somebody takes a room for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Revision {
    /// He does not say.
    Any,
    /// This one.
    Of(u64),
    /// What he says is no revision.
    Wrong,
}

/// What somebody says.
#[derive(Clone, Debug)]
pub enum Ask {
    /// Whether anybody is there.
    Ping,
    /// This is refused, whatever else is true.
    Bad(&'static str, Option<String>),
    /// A room is to be made.
    Create {
        /// For so many seconds.
        duration_s: Option<u64>,
        /// By somebody of this name.
        name: Option<String>,
        /// This field is wrong.
        fault: Option<&'static str>,
    },
    /// He wants to be in a room.
    Join {
        /// Its id, as he spells it.
        id: String,
        /// His name.
        name: Option<String>,
        /// He has been there before, by this id.
        user: Option<String>,
        /// This field is wrong.
        fault: Option<&'static str>,
    },
    /// He does something to the countdown.
    Press {
        /// What.
        press: Press,
        /// Of which revision.
        revision: Revision,
        /// This field is wrong.
        fault: Option<&'static str>,
    },
    /// He leaves.
    Leave,
}

/// What somebody is to be told.
#[derive(Clone, Debug, PartialEq)]
pub enum Want {
    /// Nothing of his own: all others hear it, too, or nobody does.
    Nothing,
    /// Somebody is there.
    Pong,
    /// He is in, under this number.
    Joined(u64, u32),
    /// The room is another by now.
    Stale(u64),
    /// One of these errors: a code, and what it says.
    Error(Vec<(&'static str, Option<String>)>),
}

/// Something that a line is owed.
#[derive(Clone, Debug)]
pub struct Owed {
    /// What.
    pub want: Want,
    /// Must be durable before it is told; 0: nothing.
    batch: u64,
    /// It may be told before that: it tells of nothing that is on its way.
    may_hurry: bool,
    /// It may be refused since the disk is sick.
    pub may_fail: bool,
    /// He may be told that he has lines enough: how many that are cannot be told.
    pub may_be_full: bool,
    /// Since which turn it can be told.
    pub since: u64,
    /// How much of his room's log was said by then.
    pub said: usize,
    /// For whoever wonders.
    pub asked: Ask,
}

impl Owed {
    /// It can be told, once those before it have been. To be turned away may have to wait for the disk, and to fail.
    pub fn is_ready(&self) -> bool {
        self.batch == 0 && !(self.may_be_full && self.may_fail)
    }

    /// It may be told now.
    pub fn may_leave(&self) -> bool {
        self.batch == 0 || self.may_hurry
    }

    /// Whether this error is an answer.
    pub fn admits(&self, code: &str, message: &str) -> bool {
        let fits = |(known, text): &(&str, Option<String>)| {
            *known == code && text.as_ref().is_none_or(|text| message.contains(&**text))
        };
        let is_known = matches!(&self.want, Want::Error(any) if any.iter().any(fits));
        is_known || (self.may_fail && code == "unavailable") || (self.may_be_full && code == "full")
    }
}

/// What is so, and what is on its way.
#[derive(Clone, Debug)]
struct Staged<T> {
    shown: T,
    writing: Option<T>,
    gathering: Option<T>,
}

impl<T> Staged<T> {
    fn new(shown: T) -> Self {
        Staged { shown, writing: None, gathering: None }
    }

    fn latest(&self) -> &T {
        self.gathering.as_ref().or(self.writing.as_ref()).unwrap_or(&self.shown)
    }

    fn is_pending(&self) -> bool {
        self.writing.is_some() || self.gathering.is_some()
    }

    fn all(&self) -> impl Iterator<Item = &T> {
        [Some(&self.shown), self.writing.as_ref(), self.gathering.as_ref()].into_iter().flatten()
    }

    fn hand_over(&mut self) {
        if let Some(next) = self.gathering.take() {
            self.writing = Some(next);
        }
    }

    /// Whether that changed anything.
    fn commit(&mut self) -> bool {
        let next = self.writing.take();
        let is_new = next.is_some();
        next.into_iter().for_each(|next| self.shown = next);
        is_new
    }

    fn undo(&mut self) -> bool {
        let was_pending = self.is_pending();
        (self.writing, self.gathering) = (None, None);
        was_pending
    }
}

/// Somebody's place: a room, and his number there.
pub type Place = (u64, u32);

/// A line, as far as rooms have to do with it.
#[derive(Debug)]
pub struct Sock {
    /// Where whoever has it sits.
    member: Staged<Option<Place>>,
    /// It is there.
    pub is_live: bool,
    /// Its room knows of no loss: it hears of one when the next turn begins, or when somebody speaks before that.
    is_counted: bool,
    /// The daemon may have let it go.
    pub is_suspect: bool,
    /// He may have been turned away: what he says before he is told is looked at when that is decided.
    is_in_doubt: bool,
    /// He is on his way in or out: what he says meanwhile is looked at when that is decided.
    moves: bool,
    said: VecDeque<Ask>,
    /// What it is owed, in order.
    pub owed: VecDeque<Owed>,
}

impl Sock {
    /// Where he sits, as everybody sees it.
    pub fn place(&self) -> Option<Place> {
        self.member.shown
    }

    /// He is on his way in or out.
    pub fn is_moving(&self) -> bool {
        self.moves || self.member.is_pending()
    }

    /// If it counts at all, it does so for sure.
    fn is_sure(&self) -> bool {
        !self.is_suspect && !self.is_in_doubt
    }

    /// Where he will sit.
    pub fn next_place(&self) -> Option<Place> {
        *self.member.latest()
    }
}

/// Since when something has been so: at the earliest, and for sure.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Window {
    first: Option<u64>,
    last: Option<u64>,
}

impl Window {
    fn set(&mut self, now_ns: u64, may_be: bool, is: bool) {
        self.first = may_be.then(|| self.first.unwrap_or(now_ns));
        self.last = is.then(|| self.last.unwrap_or(now_ns));
    }

    fn is_sure(self) -> bool {
        self.first == self.last
    }
}

/// Something that everybody in a room hears.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// Nothing is left.
    Zero,
    /// Word for word.
    Text(String),
    /// The countdown is at this revision: word for word.
    State(u64, String),
    /// Somebody has come: his number and name. He does not hear it. So many are there then.
    Came(u32, String, usize),
    /// Somebody has gone: his number and name, and the line on which he said so, which does not hear it. So many are
    /// there then.
    Left(u32, String, Option<u64>, usize),
}

/// When it was said.
#[derive(Clone, Debug)]
pub struct Said {
    /// In which turn.
    pub turn: u64,
    /// What.
    pub what: What,
}

/// What a batch announces, in order.
#[derive(Clone, Debug)]
enum Effect {
    Changed(u64, Face, Option<String>),
    Completed(u64),
    Came(u64, u32, String, Vec<Person>),
    Left(u64, u32, String, Vec<Person>, u64),
}

/// What follows from time, and must be written.
#[derive(Clone, Debug, PartialEq)]
enum Follow {
    /// The countdown came to this revision.
    Changed(u64),
    /// Somebody did not come back.
    Gone(u32),
    /// The room was removed.
    Removed,
}

/// A room, as the reference has it.
#[derive(Debug)]
pub struct Noun {
    /// Its id, when the disk has told.
    pub id: Option<Rc<str>>,
    /// The daemon's number for it.
    pub serial: Option<u32>,
    staged: Staged<Option<Room>>,
    /// By what people are known when they come back.
    pub users: BTreeMap<u32, String>,
    /// Everything said in it.
    pub log: Vec<Said>,
    /// Countdowns shown since these turns.
    pub faces: Vec<(u64, Option<Face>)>,
    /// Lists shown since these turns.
    pub lists: Vec<(u64, List)>,
    socks: BTreeSet<u64>,
    away: BTreeMap<u32, Window>,
    empty: Window,
    /// How often somebody's line was lost or came back, and how much of that was told.
    line_events: u64,
    line_events_told: u64,
    line_events_due: u64,
    /// When lines were last told of, and how often.
    presence_ns: Option<u64>,
    /// See above.
    pub presences: u64,
    /// What goes with the gathering batch: who comes and goes, in order.
    moves: Vec<(u32, bool)>,
    follows: VecDeque<Follow>,
    follows_in_hand: Vec<Follow>,
    durable: Option<Room>,
    durable_next: Option<Option<Room>>,
    /// It was removed.
    pub removed: Option<u64>,
    /// In which turn it was learnt, late, that somebody had left.
    pub learnt: u64,
}

impl Noun {
    fn new() -> Self {
        Noun {
            id: None,
            serial: None,
            staged: Staged::new(None),
            users: BTreeMap::new(),
            log: Vec::new(),
            faces: Vec::new(),
            lists: Vec::new(),
            socks: BTreeSet::new(),
            away: BTreeMap::new(),
            empty: Window::default(),
            line_events: 0,
            line_events_told: 0,
            line_events_due: 0,
            presence_ns: None,
            presences: 0,
            moves: Vec::new(),
            follows: VecDeque::new(),
            follows_in_hand: Vec::new(),
            durable: None,
            durable_next: None,
            removed: None,
            learnt: 0,
        }
    }

    /// What everybody sees.
    pub fn shown(&self) -> Option<&Room> {
        self.staged.shown.as_ref()
    }

    /// What commands are judged against.
    pub fn latest(&self) -> Option<&Room> {
        self.staged.latest().as_ref()
    }

    /// Something of it is on its way to the disk.
    pub fn is_pending(&self) -> bool {
        self.staged.is_pending()
    }

    /// Who is there now.
    pub fn list(&self) -> &[Entry] {
        self.lists.last().map_or(&[], |(_, list)| list)
    }

    fn say(&mut self, turn: u64, what: What) {
        self.log.push(Said { turn, what });
    }

    fn say_state(&mut self, now: Now, turn: u64, face: &Face, by: Option<&str>) {
        let id = self.id.clone().unwrap_or_default();
        let (fields, by) = (face.fields(&id, now), by.map_or("null".to_owned(), quoted));
        let text = format!(r#"{{"type":"timer:state","state":{{{fields}}},"by":{by}}}"#);
        self.say(turn, What::State(face.revision, text));
    }

    fn show(&mut self, turn: u64) {
        let face = self.shown().map(|room| room.face.clone());
        if self.faces.last().is_none_or(|(_, last)| *last != face) {
            self.faces.push((turn, face));
        }
    }
}

/// What was so at some time since `turn`: the last that began before it, and all later ones.
pub fn since<T>(list: &[(u64, T)], turn: u64) -> &[(u64, T)] {
    let first = list.iter().rposition(|(began, _)| *began < turn).unwrap_or(0);
    &list[first..]
}

/// What people aim at: the daemon's settings.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// The outage policy is to freeze.
    pub freeze: bool,
    /// How long somebody without a line has to come back.
    pub leave_ns: u64,
    /// How long a room without a line is kept.
    pub empty_ns: u64,
    /// Rooms that may be made in a minute.
    pub rate: Option<u64>,
}

/// All rooms.
pub struct Ledger {
    rules: Rules,
    /// By a number of our own.
    pub nouns: BTreeMap<u64, Noun>,
    keys: u64,
    /// Every line there is, by the number of whoever has it.
    pub socks: BTreeMap<u64, Sock>,
    by_id: BTreeMap<Rc<str>, u64>,
    by_serial: BTreeMap<u32, u64>,
    user_ids: BTreeSet<String>,
    /// Lines lost since the turn began.
    departed: Vec<u64>,
    /// In order of their creation, those of the gathering batch.
    newborn: Vec<u64>,
    gathering: Vec<Effect>,
    writing: Vec<Effect>,
    /// The batch that gathers.
    batch: u64,
    durable_batch: u64,
    /// Who waits for which batch, in order.
    waiting: Vec<(u64, u64)>,
    in_hand: Option<Now>,
    is_hung: bool,
    /// Commands are refused.
    pub is_degraded: bool,
    /// The clocks of every turn.
    pub turns: Vec<Now>,
    /// When the minute of creations began, and how many there were.
    created: Option<(u64, u64)>,
    /// What happened.
    pub tally: BTreeMap<&'static str, u64>,
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap()
}

/// A room as the daemon stores it.
fn read(stored: &Stored) -> Room {
    let left = match stored.countdown {
        Countdown::Still { left } => Left::Still(nanos(left)),
        Countdown::Running { ends } => Left::Until(ends.mono.ns()),
    };
    if (stored.state == StoredState::Running) != matches!(left, Left::Until(_))
        || (stored.state == StoredState::Paused) != stored.paused_at.is_some()
    {
        violated("a room's state and its countdown agree", &format!("{stored:?}"));
    }
    let person = |it: &timerd::domain::rooms::Person| Person { number: it.number, name: it.name.to_string() };
    Room {
        face: Face {
            left,
            duration_s: u64::from(stored.duration_s),
            full_s: u64::from(stored.full_s),
            started_at: stored.started_at.map(|at| at.ms()),
            paused_at: stored.paused_at.map(|at| at.ms()),
            is_completed: stored.state == StoredState::Completed,
            revision: stored.revision,
        },
        people: stored.people.iter().map(person).collect(),
        ever: stored.people_ever,
    }
}

/// How people may spell an id: what is read of it.
fn plain(id: &str) -> String {
    let read = |letter: char| match letter.to_ascii_lowercase() {
        '-' => None,
        'o' => Some('0'),
        'i' | 'l' => Some('1'),
        other => Some(other),
    };
    id.chars().filter_map(read).collect()
}

impl Ledger {
    /// No rooms yet.
    pub fn new(rules: Rules) -> Self {
        Ledger {
            rules,
            nouns: BTreeMap::new(),
            keys: 0,
            socks: BTreeMap::new(),
            by_id: BTreeMap::new(),
            by_serial: BTreeMap::new(),
            user_ids: BTreeSet::new(),
            departed: Vec::new(),
            newborn: Vec::new(),
            gathering: Vec::new(),
            writing: Vec::new(),
            batch: 1,
            durable_batch: 0,
            waiting: Vec::new(),
            in_hand: None,
            is_hung: false,
            is_degraded: false,
            turns: vec![Now::default()],
            created: None,
            tally: BTreeMap::new(),
        }
    }

    /// The number of the present turn.
    pub fn turn(&self) -> u64 {
        self.turns.len() as u64 - 1
    }

    fn count(&mut self, what: &'static str) {
        *self.tally.entry(what).or_default() += 1;
    }

    /// The room with this id, however that is spelled.
    pub fn find(&self, id: &str) -> Option<u64> {
        let key = *self.by_id.get(&*plain(id))?;
        self.nouns[&key].removed.is_none().then_some(key)
    }

    /// Rooms that take a place.
    pub fn len(&self) -> usize {
        self.nouns.values().filter(|noun| noun.removed.is_none()).count()
    }

    /// Whether the room may be gone by now or not.
    pub fn is_unsure(&self, key: u64, now: Now) -> bool {
        let noun = &self.nouns[&key];
        let due = |since: Option<u64>| since.is_some_and(|since| since + self.rules.empty_ns <= now.mono.ns());
        !noun.empty.is_sure() && due(noun.empty.first)
    }

    // -----------------------------------------------------------------------------------------------------------
    // Lines.

    /// Somebody has a line.
    pub fn open(&mut self, sock: u64) {
        let member = Staged::new(None);
        let line = Sock {
            member,
            is_live: true,
            is_counted: true,
            is_suspect: false,
            is_in_doubt: false,
            moves: false,
            said: VecDeque::new(),
            owed: VecDeque::new(),
        };
        self.socks.insert(sock, line);
    }

    /// His line is lost.
    pub fn close(&mut self, sock: u64) {
        if let Some(line) = self.socks.get_mut(&sock).filter(|line| line.is_live) {
            line.is_live = false;
            line.owed.clear();
            self.departed.push(sock);
        }
    }

    /// Rooms hear of the lines that were lost since the last turn began.
    fn see_off(&mut self, now: Now) {
        for sock in std::mem::take(&mut self.departed) {
            if let Some(line) = self.socks.get_mut(&sock) {
                line.is_counted = false;
                self.refresh_around(now, sock);
            }
        }
        self.socks.retain(|_, line| line.is_live || line.is_counted || line.member.is_pending());
    }

    /// The daemon may have let it go.
    pub fn suspect(&mut self, now: Now, sock: u64) {
        let line = self.socks.get_mut(&sock).filter(|line| line.is_live);
        if line.is_some_and(|line| !std::mem::replace(&mut line.is_suspect, true)) {
            self.refresh_around(now, sock);
        }
    }

    fn refresh_around(&mut self, now: Now, sock: u64) {
        let rooms: BTreeSet<u64> = self.socks[&sock].member.all().flatten().map(|(room, _)| *room).collect();
        rooms.into_iter().for_each(|room| self.refresh(now, room));
    }

    /// Finds out who has a line, and since when nobody has.
    fn refresh(&mut self, now: Now, key: u64) {
        let (turn, now_ns) = (self.turn(), now.mono.ns());
        let Some(noun) = self.nouns.get_mut(&key).filter(|noun| noun.removed.is_none()) else { return };
        let socks = &self.socks;
        let is_of = |sock: &u64| {
            socks.get(sock).is_some_and(|line| line.member.all().flatten().any(|(room, _)| *room == key))
        };
        noun.socks.retain(is_of);
        let mut lines: BTreeMap<u32, Option<bool>> = BTreeMap::new();
        let (mut is_used, mut may_be_used) = (false, false);
        for line in noun.socks.iter().map(|sock| &socks[sock]).filter(|line| line.is_counted) {
            for (room, number) in line.member.all().flatten() {
                if *room == key {
                    let told = line.is_sure().then_some(true);
                    let known = lines.entry(*number).or_insert(told);
                    *known = known.or(told);
                    may_be_used = true;
                }
            }
            let sits = |place: &Option<Place>| place.is_some_and(|(room, _)| room == key);
            is_used |= sits(&line.member.shown) && sits(line.member.latest()) && line.is_sure();
        }
        noun.empty.set(now_ns, !is_used, !may_be_used);
        let mut unseen_events = 0;
        let there: Vec<&Room> = noun.staged.all().flatten().collect();
        noun.away.retain(|number, _| there.iter().any(|room| room.person(*number).is_some()));
        for person in there.iter().flat_map(|room| &room.people) {
            let line = lines.get(&person.number).copied().unwrap_or(Some(false));
            let window = noun.away.entry(person.number).or_default();
            let before = window.last.is_some();
            window.set(now_ns, line != Some(true), line == Some(false));
            // Of somebody who is about to come it may be told as well.
            let is_shown = noun.staged.shown.as_ref().is_some_and(|room| room.person(person.number).is_some());
            unseen_events += u64::from(!is_shown && before != window.last.is_some());
        }
        noun.line_events += unseen_events;
        let people = noun.shown().map_or(&[][..], |room| &room.people);
        let list = list_of(people, &lines);
        if noun.lists.last().is_none_or(|(_, last)| *last != list) {
            let before = noun.lists.last().map(|(_, last)| last);
            let is_same_people = before.is_some_and(|before| {
                before.len() == list.len() && before.iter().zip(&list).all(|(a, b)| a.0 == b.0)
            });
            noun.line_events += u64::from(is_same_people);
            noun.lists.push((turn, list));
        }
    }

    // -----------------------------------------------------------------------------------------------------------
    // What people say.

    /// Somebody says something, now.
    pub fn hear(&mut self, now: Now, sock: u64, ask: Ask) {
        let Some(line) = self.socks.get_mut(&sock).filter(|line| line.is_live) else { return };
        line.said.push_back(ask);
        self.converse(now, sock);
    }

    /// Looks at what somebody has said, until he waits for a move.
    fn converse(&mut self, now: Now, sock: u64) {
        self.judge_all(now, sock);
        // Whoever speaks makes room for himself first: lines lost before that are told to their rooms.
        if self.socks.get(&sock).is_none_or(|line| !line.is_suspect) {
            return self.see_off(now);
        }
        // Unless the daemon has let him go and does not listen any more.
        for lost in self.departed.clone() {
            if let Some(line) = self.socks.get_mut(&lost) {
                line.is_suspect = true;
                self.refresh_around(now, lost);
            }
        }
    }

    fn judge_all(&mut self, now: Now, sock: u64) {
        let may_speak = |line: &&mut Sock| line.is_live && !line.moves && !line.is_in_doubt;
        while let Some(line) = self.socks.get_mut(&sock).filter(may_speak)
            && let Some(ask) = line.said.pop_front()
        {
            self.judge(now, sock, ask);
        }
    }

    fn judge(&mut self, now: Now, sock: u64, ask: Ask) {
        let turn = self.turn();
        let mut owed = Owed {
            want: Want::Nothing,
            batch: 0,
            may_hurry: false,
            may_fail: false,
            may_be_full: false,
            since: turn,
            said: 0,
            asked: ask.clone(),
        };
        match ask {
            Ask::Ping => owed.want = Want::Pong,
            Ask::Bad(code, message) => owed.want = Want::Error(vec![(code, message)]),
            Ask::Create { duration_s, name, fault } => self.create(now, sock, duration_s, name, fault, &mut owed),
            Ask::Join { id, name, user, fault } => self.join(now, sock, &id, name, user, fault, &mut owed),
            Ask::Press { press, revision, fault } => self.press(now, sock, press, revision, fault, &mut owed),
            Ask::Leave => self.leave(now, sock, &mut owed),
        }
        if self.is_hung && owed.batch > 0 {
            // Nobody would be told any more what has become of it.
            owed.may_fail = true;
            owed.batch = 0;
        }
        if owed.batch > 0 {
            self.waiting.push((sock, owed.batch));
        }
        owed.said = self.said_to(&owed.want);
        if owed.batch > 0 || owed.want != Want::Nothing {
            self.socks.get_mut(&sock).unwrap().owed.push_back(owed);
        }
    }

    /// How much has been said in the room that somebody is welcomed to.
    fn said_to(&self, want: &Want) -> usize {
        let Want::Joined(key, _) = want else { return 0 };
        self.nouns.get(key).map_or(0, |noun| noun.log.len())
    }

    /// The batch that must be durable before it may be told how a room is.
    fn hold(&self, key: u64) -> u64 {
        let staged = &self.nouns[&key].staged;
        match (&staged.gathering, &staged.writing) {
            (Some(_), _) => self.batch,
            (None, Some(_)) => self.batch - 1,
            (None, None) => 0,
        }
    }

    /// Where he sits, by everything that is on its way. Else he is told so.
    fn seat_of(&mut self, now: Now, sock: u64, owed: &mut Owed) -> Option<Place> {
        let place = self.socks[&sock].place();
        if let Some((key, number)) = place {
            self.settle(now, key);
            let noun = &self.nouns[&key];
            owed.batch = self.hold(key);
            if noun.removed.is_none() && noun.latest().is_some_and(|room| room.person(number).is_some()) {
                return place;
            }
        }
        owed.want = Want::Error(vec![("wrong_state", Some("Not in a room".to_owned()))]);
        owed.may_fail = self.is_degraded || owed.batch > 0;
        None
    }

    fn is_inside(&self, sock: u64, owed: &mut Owed) -> bool {
        if self.socks[&sock].place().is_none() {
            return false;
        }
        owed.want = Want::Error(vec![("wrong_state", Some("Already in a room".to_owned()))]);
        true
    }

    fn create(
        &mut self,
        now: Now,
        sock: u64,
        duration_s: Option<u64>,
        name: Option<String>,
        fault: Option<&'static str>,
        owed: &mut Owed,
    ) {
        if self.is_inside(sock, owed) {
            return;
        }
        let mut why = Vec::new();
        if let Some(field) = fault {
            why.push(("invalid", Some(field.to_owned())));
        }
        if self.len() >= ROOMS_MAX {
            why.push(("full", Some("Maximum room limit reached".to_owned())));
        }
        let minute_ns = 60_000_000_000;
        let now_ns = now.mono.ns();
        let (began, made) = self.created.filter(|(began, _)| began + minute_ns > now_ns).unwrap_or((now_ns, 0));
        if self.rules.rate.is_some_and(|most| made >= most) {
            why.push(("limited", Some("Too many rooms created: try again in ".to_owned())));
        }
        owed.may_fail = self.is_degraded;
        if self.is_degraded {
            why.push(("unavailable", None));
        }
        if !why.is_empty() {
            owed.want = Want::Error(why);
            return;
        }
        self.created = Some((began, made + 1));
        self.keys += 1;
        let key = self.keys;
        self.nouns.insert(key, Noun::new());
        self.newborn.push(key);
        let room = Room::new(duration_s.unwrap_or(1_500));
        self.admit(now, sock, key, room, name, owed);
        self.count("rooms");
    }

    /// Whoever comes after the end meets a room that has ended, though its zero waits for a change on its way.
    fn come_due(&mut self, now: Now, key: u64, mut room: Room) -> Room {
        if room.face.is_over(now) {
            room.face.complete();
            self.gathering.push(Effect::Changed(key, room.face.clone(), None));
            self.gathering.push(Effect::Completed(key));
        }
        room
    }

    /// Somebody new comes to a room.
    fn admit(&mut self, now: Now, sock: u64, key: u64, mut room: Room, name: Option<String>, owed: &mut Owed) {
        let number = room.admit(name.as_deref());
        let name = room.person(number).unwrap().name.clone();
        if number > 1 {
            self.gathering.push(Effect::Came(key, number, name, room.people.clone()));
        }
        let noun = self.nouns.get_mut(&key).unwrap();
        noun.moves.push((number, true));
        noun.staged.gathering = Some(Some(room));
        noun.socks.insert(sock);
        let line = self.socks.get_mut(&sock).unwrap();
        (line.member.gathering, line.moves) = (Some(Some((key, number))), true);
        self.refresh(now, key);
        (owed.want, owed.batch) = (Want::Joined(key, number), self.batch);
    }

    #[allow(clippy::too_many_arguments, reason = "what is said when somebody joins")]
    fn join(
        &mut self,
        now: Now,
        sock: u64,
        id: &str,
        name: Option<String>,
        user: Option<String>,
        fault: Option<&'static str>,
        owed: &mut Owed,
    ) {
        if self.is_inside(sock, owed) {
            return;
        }
        owed.may_fail = self.is_degraded;
        if let Some(field) = fault {
            owed.want = Want::Error(vec![("invalid", Some(field.to_owned()))]);
            return;
        }
        let key = self.find(id);
        key.into_iter().for_each(|key| self.settle(now, key));
        let Some(key) = self.find(id) else {
            owed.want = Want::Error(vec![("not_found", Some("Room not found".to_owned()))]);
            return self.count("rooms not found");
        };
        (owed.batch, owed.may_hurry) = (self.hold(key), true);
        let noun = &self.nouns[&key];
        let room = noun.latest().unwrap().clone();
        let known = user.and_then(|user| {
            let number = noun.users.iter().find(|(_, known)| **known == user).map(|(number, _)| *number)?;
            room.person(number).map(|person| person.number)
        });
        let Some(number) = known else {
            if room.people.len() >= ROOM_PEOPLE_MAX {
                owed.want = Want::Error(vec![("full", Some("Room is full".to_owned()))]);
                return self.count("rooms full");
            }
            if self.is_degraded {
                owed.want = Want::Error(vec![("unavailable", None)]);
                owed.batch = 0;
                return;
            }
            owed.may_hurry = false;
            self.count("room joins");
            let room = self.come_due(now, key, room);
            return self.admit(now, sock, key, room, name, owed);
        };
        let sits = |line: &&Sock| line.is_counted && line.next_place() == Some((key, number));
        let lines = noun.socks.iter().filter_map(|sock| self.socks.get(sock)).filter(sits);
        let (sure, unsure): (Vec<&Sock>, Vec<&Sock>) = lines.partition(|line| line.is_sure());
        if sure.len() >= LINES_PER_PERSON as usize {
            owed.want = Want::Error(vec![("full", None)]);
            return self.count("lines of one too many");
        }
        // Which of those lines count that the daemon may have let go only it knows.
        owed.may_be_full = sure.len() + unsure.len() >= LINES_PER_PERSON as usize;
        owed.may_fail = owed.may_be_full && owed.batch > 0;
        // He is there already, as far as the disk is concerned: he is told what is shown.
        (owed.batch, owed.may_hurry) = (0, false);
        let line = self.socks.get_mut(&sock).unwrap();
        line.member.shown = Some((key, number));
        line.is_in_doubt = owed.may_be_full;
        self.nouns.get_mut(&key).unwrap().socks.insert(sock);
        self.refresh(now, key);
        owed.want = Want::Joined(key, number);
        self.count("people back");
    }

    /// Whoever may have been turned away has been told whether he is in.
    pub fn decide(&mut self, now: Now, sock: u64, is_in: bool) {
        let line = self.socks.get_mut(&sock).unwrap();
        line.is_in_doubt = false;
        let place = if is_in { line.place() } else { line.member.shown.take() };
        place.into_iter().for_each(|(key, _)| self.refresh(now, key));
        self.judge_all(now, sock);
    }

    fn press(
        &mut self,
        now: Now,
        sock: u64,
        press: Press,
        revision: Revision,
        fault: Option<&'static str>,
        owed: &mut Owed,
    ) {
        let Some((key, number)) = self.seat_of(now, sock, owed) else {
            // Who has left for him is not durable yet.
            if let (Want::Error(any), true) = (&mut owed.want, fault.is_some() || revision == Revision::Wrong) {
                any.push(("invalid", None));
                owed.may_hurry = true;
            }
            return;
        };
        let (is_degraded, is_pending) = (self.is_degraded, owed.batch > 0);
        owed.may_fail = is_degraded || is_pending;
        let noun = self.nouns.get_mut(&key).unwrap();
        let mut room = noun.latest().unwrap().clone();
        // What time has brought about meanwhile comes before it, though a change is on its way.
        let is_late = room.face.is_over(now);
        let mut effects = Vec::new();
        if is_late {
            room.face.complete();
            effects.push(Effect::Changed(key, room.face.clone(), None));
            effects.push(Effect::Completed(key));
        }
        let error = |code, text: Option<&str>| Want::Error(vec![(code, text.map(str::to_owned))]);
        match revision {
            Revision::Wrong => (owed.want, owed.may_hurry) = (error("invalid", Some("revision")), true),
            Revision::Of(known) if known < room.face.revision => owed.want = Want::Stale(key),
            Revision::Of(known) if known > room.face.revision => owed.want = error("invalid", None),
            Revision::Any | Revision::Of(_) => {}
        }
        if owed.want != Want::Nothing {
            let is_stale = matches!(owed.want, Want::Stale(_));
            return self.count(if is_stale { "stale presses" } else { "room errors" });
        }
        if let Some(field) = fault {
            owed.want = error("invalid", Some(field));
            owed.may_hurry = true;
            return self.count("room errors");
        }
        if let Err((code, text)) = room.face.press(press, now) {
            owed.want = error(code, text);
            return self.count("room errors");
        }
        if is_degraded {
            owed.want = error("unavailable", None);
            return;
        }
        let by = room.person(number).map(|person| person.name.clone());
        effects.push(Effect::Changed(key, room.face.clone(), by));
        noun.staged.gathering = Some(Some(room));
        self.gathering.extend(effects);
        owed.batch = self.batch;
        self.count(match press {
            Press::Start(_) => "starts in rooms",
            Press::Pause => "pauses in rooms",
            Press::Resume => "resumes in rooms",
            Press::Reset => "resets in rooms",
            Press::Extend(_) => "extensions in rooms",
        });
    }

    fn leave(&mut self, now: Now, sock: u64, owed: &mut Owed) {
        let Some((key, number)) = self.seat_of(now, sock, owed) else { return };
        if self.is_degraded {
            owed.want = Want::Error(vec![("unavailable", None)]);
            owed.batch = 0;
            return;
        }
        let room = self.nouns[&key].latest().unwrap().clone();
        let mut room = self.come_due(now, key, room);
        let name = room.dismiss(number).unwrap();
        self.gathering.push(Effect::Left(key, number, name, room.people.clone(), sock));
        let noun = self.nouns.get_mut(&key).unwrap();
        noun.moves.push((number, false));
        noun.staged.gathering = Some(Some(room));
        let line = self.socks.get_mut(&sock).unwrap();
        (line.member.gathering, line.moves) = (Some(None), true);
        self.refresh(now, key);
        owed.batch = self.batch;
        self.count("people who leave");
    }

    // -----------------------------------------------------------------------------------------------------------
    // Time.

    /// A turn begins.
    pub fn begin(&mut self, now: Now, hub: &Hub) {
        self.turns.push(now);
        self.learn(now, hub);
        self.see_off(now);
    }

    /// Where it could not be told whether anybody had a line, whether room and person are still there tells.
    pub fn learn(&mut self, now: Now, hub: &Hub) {
        let turn = self.turn();
        // Where it cannot be told since when a room is empty, whether it is there tells.
        let rooms = &hub.engine().rooms;
        for noun in self.nouns.values_mut().filter(|noun| noun.removed.is_none() && !noun.empty.is_sure()) {
            let since = noun.empty.first.unwrap_or(u64::MAX);
            let may_go = since.saturating_add(self.rules.empty_ns) <= now.mono.ns() && !noun.is_pending();
            if may_go && noun.serial.is_some_and(|serial| rooms.peek(serial).is_none()) {
                noun.remove(turn);
            }
        }
        for (key, number) in self.unsure_people(now, hub) {
            self.outstay(now, key, number, true);
        }
    }

    /// Those of whom it could not be told whether they had a line, and who are gone.
    fn unsure_people(&self, now: Now, hub: &Hub) -> Vec<(u64, u32)> {
        let unsure = self.nouns.iter().filter(|(_, noun)| noun.removed.is_none()).flat_map(|(key, noun)| {
            let there = noun.serial.and_then(|serial| hub.engine().rooms.peek(serial));
            let is_gone = move |number: u32| there.is_some_and(|room| room.person(number).is_none());
            let is_shown = |number: u32| noun.shown().is_some_and(|room| room.person(number).is_some());
            let unsure = noun.away.keys().filter(move |number| is_shown(**number) && is_gone(**number));
            unsure.map(|number| (*key, *number))
        });
        unsure.filter(|(key, number)| self.may_be_gone(now, *key, *number)).collect()
    }

    /// The hub is about to let time have its way.
    pub fn due(&mut self, now: Now) {
        let hang_ns = nanos(DISK_HANG_MAX);
        let is_hung = self.in_hand.is_some_and(|since| now.mono.ns() - since.mono.ns() >= hang_ns);
        if is_hung && !self.is_hung {
            (self.is_hung, self.is_degraded) = (true, true);
            // Whoever was on his way in is told that nobody knows, and gives his line back.
            let lost: Vec<u64> = self
                .socks
                .iter()
                .filter(|(_, line)| line.moves && line.place().is_none())
                .map(|(sock, _)| *sock)
                .collect();
            let released = self.disappoint();
            for sock in lost {
                self.socks.get_mut(&sock).unwrap().is_counted = false;
                self.refresh_around(now, sock);
            }
            self.resume(now, released);
            self.count("rooms left in doubt");
        }
        self.settle_all(now);
        // What comes about while this turn reads may be told with what was due in it, and once more.
        self.nouns.values_mut().for_each(|noun| noun.line_events_due = noun.line_events);
    }

    fn settle_all(&mut self, now: Now) {
        let keys: Vec<u64> = self.nouns.keys().copied().collect();
        keys.into_iter().for_each(|key| self.settle(now, key));
    }

    /// What has come due happens.
    fn settle(&mut self, now: Now, key: u64) {
        let (turn, now_ns) = (self.turn(), now.mono.ns());
        let Rules { leave_ns, empty_ns, .. } = self.rules;
        let noun = self.nouns.get_mut(&key).unwrap();
        if noun.is_pending() || noun.removed.is_some() {
            return;
        }
        let Some(room) = noun.staged.shown.as_mut() else { return };
        let mut zeros = 0;
        if room.face.is_over(now) {
            room.face.complete();
            let face = room.face.clone();
            noun.follows.push_back(Follow::Changed(face.revision));
            noun.say(turn, What::Zero);
            noun.say_state(now, turn, &face, None);
            noun.say(turn, What::Text(r#"{"type":"timer:completed"}"#.to_owned()));
            noun.show(turn);
            zeros = 1;
        }
        let is_due = |(_, window): &(&u32, &Window)| {
            window.is_sure() && window.last.is_some_and(|since| since + leave_ns <= now_ns)
        };
        let gone: Vec<u32> = noun.away.iter().filter(is_due).map(|(number, _)| *number).collect();
        let left = gone.len() as u64;
        for number in gone {
            self.outstay(now, key, number, false);
        }
        let noun = self.nouns.get_mut(&key).unwrap();
        let is_over = noun.empty.is_sure() && noun.empty.last.is_some_and(|since| since + empty_ns <= now_ns);
        if is_over {
            noun.remove(turn);
            self.count("rooms removed");
        }
        *self.tally.entry("zeros in rooms").or_default() += zeros;
        *self.tally.entry("people who did not come back").or_default() += left;
    }

    /// Somebody has not come back.
    fn outstay(&mut self, now: Now, key: u64, number: u32, is_learnt: bool) {
        let turn = self.turn();
        let noun = self.nouns.get_mut(&key).unwrap();
        noun.away.remove(&number);
        let Some(name) = noun.staged.shown.as_mut().and_then(|room| room.dismiss(number)) else { return };
        noun.learnt = if is_learnt { turn } else { noun.learnt };
        // It may be learnt of late, when others have come on top.
        for room in [&mut noun.staged.writing, &mut noun.staged.gathering].into_iter().flatten().flatten() {
            room.dismiss(number);
        }
        for effect in self.gathering.iter_mut().chain(&mut self.writing) {
            if let Effect::Came(room, .., people) | Effect::Left(room, _, _, people, _) = effect
                && *room == key
            {
                people.retain(|person| person.number != number);
            }
        }
        noun.follows.push_back(Follow::Gone(number));
        let there = noun.shown().map_or(0, |room| room.people.len());
        noun.say(turn, What::Left(number, name, None, there));
        // His lines, if any, were let go long ago.
        for sock in noun.socks.clone() {
            if let Some(line) = self.socks.get_mut(&sock).filter(|line| line.member.shown == Some((key, number))) {
                line.member.shown = None;
            }
        }
        self.refresh(now, key);
    }

    /// Whether it cannot be told since when somebody has had no line.
    pub fn is_vague(&self, key: u64, number: u32) -> bool {
        self.nouns[&key].away.get(&number).is_some_and(|window| !window.is_sure())
    }

    /// Whether somebody may have left of whom it cannot be told whether he had a line.
    fn may_be_gone(&self, now: Now, key: u64, number: u32) -> bool {
        let noun = &self.nouns[&key];
        let window = noun.away.get(&number).copied().unwrap_or_default();
        let due = window.first.map_or(u64::MAX, |first| first + self.rules.leave_ns);
        !window.is_sure() && due <= now.mono.ns()
    }

    /// Somebody is said to have left of whom it cannot be told whether he had a line. Returns whether that may be.
    pub fn may_have_left(&mut self, now: Now, key: u64, name: &str) -> bool {
        let noun = &self.nouns[&key];
        let Some(room) = noun.shown() else { return false };
        let is_due = |person: &&Person| person.name == name && self.may_be_gone(now, key, person.number);
        let found = room.people.iter().find(is_due).map(|person| person.number);
        found.into_iter().for_each(|number| self.outstay(now, key, number, true));
        found.is_some()
    }

    /// Somebody with this name is the first to be told of who did not come back at one moment: nobody's business.
    pub fn reorder(&mut self, key: u64, cursor: usize, name: &str) {
        let log = &mut self.nouns.get_mut(&key).unwrap().log;
        let Some(Said { turn, what: What::Left(_, known, None, _) }) = log.get(cursor) else { return };
        let (turn, is_named) = (*turn, known == name);
        let with = log
            .iter()
            .enumerate()
            .skip(cursor + 1)
            .take_while(|(_, said)| said.turn == turn && matches!(said.what, What::Left(_, _, None, _)));
        let mut with = with.filter(|(_, said)| matches!(&said.what, What::Left(_, known, ..) if known == name));
        if let Some(other) = with.next().map(|(other, _)| other).filter(|_| !is_named) {
            let (head, tail) = log.split_at_mut(other);
            if let (What::Left(a, b, _, _), What::Left(c, d, _, _)) = (&mut head[cursor].what, &mut tail[0].what) {
                std::mem::swap(a, c);
                std::mem::swap(b, d);
            }
        }
    }

    /// When something must happen next, ticks and lines apart.
    pub fn next_due(&self) -> Option<u64> {
        let Rules { leave_ns, empty_ns, .. } = self.rules;
        let due = self.nouns.values().filter(|noun| !noun.is_pending() && noun.removed.is_none()).flat_map(|noun| {
            let zero = noun.shown().and_then(|room| match room.face.left {
                Left::Until(mono) => Some(mono),
                Left::Still(_) => None,
            });
            let sure = |window: &Window, span: u64| window.last.filter(|_| window.is_sure()).map(|at| at + span);
            let leaves = noun.away.values().filter_map(move |window| sure(window, leave_ns)).min();
            let removal = noun.shown().and_then(|_| sure(&noun.empty, empty_ns));
            [zero, leaves, removal]
        });
        due.flatten().min()
    }

    /// Where something is due then, for whoever wonders.
    pub fn whose(&self, due: u64) -> String {
        let Rules { leave_ns, empty_ns, .. } = self.rules;
        let is_due = |noun: &&Noun| {
            noun.shown().is_some_and(|room| room.face.left == Left::Until(due))
                || noun.empty.last.is_some_and(|at| at + empty_ns == due)
                || noun.away.values().any(|window| window.last.is_some_and(|at| at + leave_ns == due))
        };
        let noun = self.nouns.values().find(is_due);
        noun.map_or(String::new(), |noun| format!("{:?}, {:?}, {:?}", noun.shown(), noun.empty, noun.away))
    }

    /// Somebody was told of lines: `None` if that may be, else why not.
    pub fn presence(&mut self, now: Now, key: u64) -> Option<&'static str> {
        let now_ns = now.mono.ns();
        let noun = self.nouns.get_mut(&key).unwrap();
        if noun.presence_ns == Some(now_ns) {
            return None;
        }
        let is_early = noun.presence_ns.is_some_and(|last| now_ns.abs_diff(last) < PRESENCE_NS);
        noun.presence_ns = Some(now_ns);
        noun.presences += 1;
        // Whoever is about to come may have lost his line, more often than can be told.
        let is_coming = |number: &u32| noun.staged.shown.as_ref().is_some_and(|room| room.person(*number).is_none());
        let is_new = noun.line_events > noun.line_events_told || noun.away.keys().any(is_coming);
        noun.line_events_told = noun.line_events_due;
        self.count("presences");
        match (is_early, is_new) {
            (true, _) => Some("lines are told of every 50 ms at most"),
            (_, false) => Some("lines are told of when one was lost or came back"),
            (false, true) => None,
        }
    }

    // -----------------------------------------------------------------------------------------------------------
    // The disk.

    /// A batch goes to the disk: it must have what was judged since the last one, and what has followed.
    pub fn handed(&mut self, now: Now, batch: &Batch) {
        if self.in_hand.replace(now).is_some() {
            violated("at most one batch is in the disk's hands", "handed over");
        }
        let turn = self.turn();
        for record in &batch.follows {
            self.follow(now, turn, record);
        }
        for noun in self.nouns.values() {
            if let Some(missing) = noun.follows.front() {
                violated("what follows is written as soon as it can be", &format!("{missing:?} of {noun:?}"));
            }
        }
        let mut stored: BTreeMap<u64, &Stored> = BTreeMap::new();
        let mut moves: BTreeMap<u64, Vec<(u32, bool)>> = BTreeMap::new();
        let mut newborn = std::mem::take(&mut self.newborn).into_iter();
        let mut unnamed = Vec::new();
        let mut key_of = |ledger: &mut Ledger, serial: u32| {
            *ledger.by_serial.entry(serial).or_insert_with(|| match newborn.next() {
                Some(key) => {
                    unnamed.push((key, serial));
                    key
                }
                None => violated("only rooms that were asked for are made", &format!("{serial}")),
            })
        };
        for record in &batch.commands {
            match record {
                Record::Room(room) => _ = stored.insert(key_of(self, room.serial), room),
                Record::RoomPerson { room, person } => {
                    let key = key_of(self, *room);
                    moves.entry(key).or_default().push((person.number, true));
                    let noun = self.nouns.get_mut(&key).unwrap();
                    noun.users.insert(person.number, person.key.to_string());
                    if !is_id(&person.key, 26) || !self.user_ids.insert(person.key.to_string()) {
                        violated("a person's id is a secret of his own", &person.key);
                    }
                }
                Record::RoomPersonGone { room, person } => {
                    let key = key_of(self, *room);
                    moves.entry(key).or_default().push((*person, false));
                }
                Record::RoomGone(_) => violated("nobody asks for the removal of a room", &format!("{record:?}")),
                _ => {}
            }
        }
        if let Some(missing) = newborn.next() {
            violated("a room that was made goes to the disk", &format!("{:?}", self.nouns[&missing]));
        }
        for (key, serial) in unnamed {
            let Some(room) = stored.get(&key) else {
                violated("a room goes to the disk with its people", &format!("{serial}"));
            };
            let id: Rc<str> = Rc::from(&*room.id);
            if !is_id(&id, 10) || self.by_id.insert(id.clone(), key).is_some() {
                violated("a room's id is its own, and can be read aloud", &id);
            }
            let noun = self.nouns.get_mut(&key).unwrap();
            (noun.id, noun.serial) = (Some(id), Some(serial));
        }
        for (key, noun) in &mut self.nouns {
            let told = moves.remove(key).unwrap_or_default();
            let asked = std::mem::take(&mut noun.moves);
            if told != asked {
                violated("who comes and goes is stored with the room", &format!("{told:?}, not {asked:?}: {noun:?}"));
            }
            match (&noun.staged.gathering, stored.remove(key)) {
                (Some(next), Some(stored)) => {
                    let read = Some(read(stored));
                    let is_same = *next == read && noun.id.as_deref() == Some(&*stored.id);
                    if !is_same {
                        violated("what is stored is what was done", &format!("{read:?}, not {next:?}: {noun:?}"));
                    }
                    noun.durable_next = Some(next.clone());
                }
                (None, None) => {}
                (next, stored) => {
                    violated("a change goes to the disk", &format!("{stored:?}, not {next:?}: {noun:?}"));
                }
            }
            noun.staged.hand_over();
        }
        if let Some((_, stored)) = stored.into_iter().next() {
            violated("only what was asked for goes to the disk", &format!("{stored:?}"));
        }
        self.socks.values_mut().for_each(|line| line.member.hand_over());
        self.writing = std::mem::take(&mut self.gathering);
        self.batch += 1;
    }

    fn follow(&mut self, now: Now, turn: u64, record: &Record) {
        let serial = match record {
            Record::Room(room) => room.serial,
            Record::RoomGone(serial) => *serial,
            Record::RoomPersonGone { room, .. } => *room,
            Record::RoomPerson { .. } => violated("nobody comes by himself", &format!("{record:?}")),
            _ => return,
        };
        let Some(key) = self.by_serial.get(&serial).copied() else {
            violated("only what was made is changed", &format!("{record:?}"));
        };
        let empty_ns = self.rules.empty_ns;
        let noun = self.nouns.get_mut(&key).unwrap();
        let told = match record {
            Record::Room(stored) => {
                let read = read(stored);
                let is_shown = noun.shown().is_some_and(|room| room.face == read.face);
                let is_past = noun.faces.iter().rev().take(8).any(|(_, face)| face.as_ref() == Some(&read.face));
                if !is_shown && !is_past {
                    let text = format!("{read:?} of {noun:?}");
                    violated("only what follows is written as such, at its true instant", &text);
                }
                let mut next = noun.durable_next.clone().flatten().or(noun.durable.clone()).unwrap_or(read.clone());
                next.face = read.face.clone();
                noun.durable_next = Some(Some(next));
                if noun.follows.front() != Some(&Follow::Changed(read.face.revision)) {
                    // Its end has another name.
                    return;
                }
                Follow::Changed(stored.revision)
            }
            Record::RoomPersonGone { person, .. } => Follow::Gone(*person),
            _ => {
                let since = noun.empty.first.unwrap_or(u64::MAX).saturating_add(empty_ns);
                if noun.removed.is_none() && !noun.empty.is_sure() && since <= now.mono.ns() {
                    noun.remove(turn);
                }
                noun.durable_next = Some(None);
                Follow::Removed
            }
        };
        if let Follow::Gone(number) = told
            && !noun.follows.contains(&told)
            && self.may_be_gone(now, key, number)
        {
            self.outstay(now, key, number, true);
        }
        let noun = self.nouns.get_mut(&key).unwrap();
        if matches!(told, Follow::Gone(_)) && noun.removed.is_some() && !noun.follows.contains(&told) {
            // He was gone before the room was.
            noun.follows.push_front(told.clone());
        }
        // Of those who leave in one moment it is nobody's business who is first.
        let at = noun.follows.iter().position(|follow| *follow == told).filter(|at| {
            // What was learnt late was put behind what came of it.
            let is_free = |follow: &Follow| matches!(follow, Follow::Gone(_)) || matches!(told, Follow::Gone(_));
            noun.follows.iter().take(*at).all(is_free)
        });
        let Some(at) = at else {
            let text = format!("{told:?}, not {:?} of {noun:?}", noun.follows.front());
            violated("only what follows is written as such, at its true instant", &text);
        };
        noun.follows.remove(at);
        if let Follow::Gone(number) = &told {
            let mut next = noun.durable_next.clone().flatten().or(noun.durable.clone());
            next.iter_mut().for_each(|room| _ = room.dismiss(*number));
            noun.durable_next = Some(next);
        }
        noun.follows_in_hand.push(told);
    }

    /// The disk has made the batch in hand durable.
    pub fn written(&mut self, now: Now) {
        let turn = self.turn();
        self.in_hand = None;
        (self.is_hung, self.is_degraded) = (false, false);
        self.durable_batch = self.batch - 1;
        let mut touched = Vec::new();
        for (key, noun) in &mut self.nouns {
            noun.follows_in_hand.clear();
            if let Some(next) = noun.durable_next.take() {
                noun.durable = next;
            }
            if noun.staged.commit() {
                touched.push(*key);
                noun.show(turn);
            }
        }
        self.socks.values_mut().for_each(|line| _ = line.member.commit());
        for effect in std::mem::take(&mut self.writing) {
            self.tell(now, turn, effect);
        }
        for key in touched {
            self.refresh(now, key);
            self.settle(now, key);
        }
        let durable = self.durable_batch;
        for line in self.socks.values_mut() {
            for owed in line.owed.iter_mut().filter(|owed| owed.batch > 0 && owed.batch <= durable) {
                (owed.batch, owed.since) = (0, turn);
                if let Want::Joined(key, _) = owed.want {
                    owed.said = self.nouns.get(&key).map_or(0, |noun| noun.log.len());
                }
            }
            line.owed.retain(|owed| owed.batch > 0 || owed.want != Want::Nothing);
            // Whoever was told that nobody knows does not wait any more, though he may yet be moved.
            line.moves &= line.member.is_pending();
        }
        let (released, rest) =
            std::mem::take(&mut self.waiting).into_iter().partition(|(_, batch)| *batch <= durable);
        self.waiting = rest;
        self.resume(now, released);
    }

    /// What those have said meanwhile is looked at.
    fn resume(&mut self, now: Now, released: Vec<(u64, u64)>) {
        for (sock, _) in released {
            self.converse(now, sock);
        }
    }

    fn tell(&mut self, now: Now, turn: u64, effect: Effect) {
        let (key, people) = match &effect {
            Effect::Changed(key, ..) | Effect::Completed(key) => (*key, None),
            Effect::Came(key, .., people) | Effect::Left(key, _, _, people, _) => (*key, Some(people)),
        };
        // Each tells of those who are there behind it.
        if let Some(people) = people {
            let mut lines = self.lines_of(key);
            // Whether those have lines who leave in the same moment is nobody's business any more.
            let there = self.nouns[&key].shown();
            let stays = |person: &&Person| there.is_some_and(|room| room.person(person.number).is_some());
            people.iter().filter(|person| !stays(person)).for_each(|person| _ = lines.insert(person.number, None));
            self.nouns.get_mut(&key).unwrap().lists.push((turn, list_of(people, &lines)));
        }
        if let Effect::Left(_, number, ..) = &effect {
            let place = Some((key, *number));
            let others = self.socks.values_mut().filter(|line| line.member.shown == place);
            others.for_each(|line| line.member.shown = None);
        }
        let noun = self.nouns.get_mut(&key).unwrap();
        match effect {
            Effect::Changed(_, face, by) => {
                if by.is_none() {
                    noun.say(turn, What::Zero);
                }
                noun.say_state(now, turn, &face, by.as_deref());
            }
            Effect::Completed(_) => noun.say(turn, What::Text(r#"{"type":"timer:completed"}"#.to_owned())),
            Effect::Came(_, number, name, people) => noun.say(turn, What::Came(number, name, people.len())),
            Effect::Left(_, number, name, people, sock) => {
                noun.say(turn, What::Left(number, name, Some(sock), people.len()));
            }
        }
    }

    /// Who has a line in this room.
    fn lines_of(&self, key: u64) -> BTreeMap<u32, Option<bool>> {
        let mut lines = BTreeMap::new();
        for line in self.nouns[&key].socks.iter().filter_map(|sock| self.socks.get(sock)) {
            for (_, number) in line.member.all().flatten().filter(|(room, _)| *room == key && line.is_counted) {
                let told = line.is_sure().then_some(true);
                let known = lines.entry(*number).or_insert(told);
                *known = known.or(told);
            }
        }
        lines
    }

    /// The batch in hand will never be durable, nor will what gathers.
    pub fn failed(&mut self, now: Now) {
        let turn = self.turn();
        self.in_hand = None;
        self.is_hung = false;
        self.is_degraded = true;
        (self.gathering, self.writing, self.newborn) = (Vec::new(), Vec::new(), Vec::new());
        let released = self.disappoint();
        self.socks.values_mut().for_each(|line| _ = line.member.undo());
        let mut touched = Vec::new();
        for (key, noun) in &mut self.nouns {
            noun.moves.clear();
            noun.durable_next = None;
            for follow in std::mem::take(&mut noun.follows_in_hand).into_iter().rev() {
                noun.follows.push_front(follow);
            }
            if noun.staged.undo() {
                touched.push(*key);
                noun.show(turn);
            }
        }
        let never = |noun: &Noun| noun.shown().is_none() && noun.removed.is_none();
        touched.retain(|key| !never(&self.nouns[key]));
        self.nouns.retain(|_, noun| !never(noun));
        let nouns = &self.nouns;
        self.by_id.retain(|_, key| nouns.contains_key(key));
        self.by_serial.retain(|_, key| nouns.contains_key(key));
        for key in touched {
            self.refresh(now, key);
            self.settle(now, key);
        }
        self.resume(now, released);
        self.count("undone in rooms");
    }

    /// Whoever waits for the disk waits in vain.
    fn disappoint(&mut self) -> Vec<(u64, u64)> {
        let turn = self.turn();
        self.socks.values_mut().for_each(|line| line.moves = false);
        for owed in self.socks.values_mut().flat_map(|line| &mut line.owed).filter(|owed| owed.batch > 0) {
            let mut any = vec![("unavailable", None)];
            if let (true, Want::Error(known)) = (owed.may_hurry, &owed.want) {
                any.extend(known.clone());
            }
            (owed.batch, owed.since, owed.may_fail) = (0, turn, true);
            owed.want = Want::Error(any);
        }
        std::mem::take(&mut self.waiting)
    }

    /// The daemon is back, with what was durable: what must be true now, by the operator's policy.
    pub fn restore(&mut self, now: Now, image: &Image, hub: &Hub) {
        self.turns.push(now);
        let turn = self.turn();
        (self.in_hand, self.is_hung, self.is_degraded) = (None, false, false);
        (self.gathering, self.writing, self.newborn) = (Vec::new(), Vec::new(), Vec::new());
        (self.durable_batch, self.created) = (self.batch - 1, None);
        self.socks.clear();
        self.departed.clear();
        self.waiting.clear();
        self.by_serial.clear();
        let alive = image.alive.unwrap_or(now);
        let away_ns = match image.same_boot {
            true => now.mono.ns().saturating_sub(alive.mono.ns()),
            false => u64::try_from((now.wall.ms() - alive.wall.ms()).max(0)).unwrap() * MS_NS,
        };
        let mut kept: BTreeMap<&str, &Stored> = image.rooms.rooms.iter().map(|room| (&*room.id, room)).collect();
        let mut never = Vec::new();
        for (key, noun) in &mut self.nouns {
            let (durable, next) = (noun.durable.take(), noun.durable_next.take());
            noun.staged = Staged::new(None);
            noun.moves.clear();
            noun.socks.clear();
            noun.away.clear();
            noun.follows.clear();
            noun.follows_in_hand.clear();
            let stored = noun.id.as_ref().and_then(|id| kept.remove(&**id));
            let found = stored.map(read);
            if found != durable && next.as_ref() != Some(&found) {
                let text = format!("{found:?}, not {durable:?} or {next:?} of {noun:?}");
                violated("what was acknowledged survives, and nothing else", &text);
            }
            let (Some(mut room), Some(stored)) = (found, stored) else {
                noun.removed.get_or_insert(turn);
                if durable.is_none() {
                    never.push(*key);
                }
                continue;
            };
            noun.removed = None;
            noun.durable = Some(room.clone());
            let peeked = hub.engine().rooms.peek(stored.serial).map(|stored| read(stored));
            noun.revive(&mut room, now, alive, image.same_boot, away_ns, self.rules.freeze, peeked.as_ref());
            noun.serial = Some(stored.serial);
            self.by_serial.insert(stored.serial, *key);
            noun.staged.shown = Some(room);
            noun.log.clear();
            noun.lists.clear();
            (noun.line_events, noun.line_events_told, noun.line_events_due, noun.presence_ns) = (0, 0, 0, None);
            noun.empty = Window { first: Some(now.mono.ns()), last: Some(now.mono.ns()) };
            noun.show(turn);
        }
        if let Some((_, unknown)) = kept.into_iter().next() {
            violated("only what was made is on the disk", &format!("{unknown:?}"));
        }
        for key in never {
            let noun = self.nouns.remove(&key).unwrap();
            noun.id.into_iter().for_each(|id| _ = self.by_id.remove(&id));
        }
        let keys: Vec<u64> = self.nouns.keys().copied().collect();
        for key in keys {
            self.refresh(now, key);
            self.settle(now, key);
        }
    }
}

impl Noun {
    /// It is not there any more.
    fn remove(&mut self, turn: u64) {
        self.removed = Some(turn);
        self.staged.shown = None;
        self.follows.push_back(Follow::Removed);
        self.show(turn);
    }

    /// What has become of its countdown while nobody was there.
    #[allow(clippy::too_many_arguments, reason = "what a restart is made of")]
    fn revive(
        &mut self,
        room: &mut Room,
        now: Now,
        alive: Now,
        same_boot: bool,
        away_ns: u64,
        freeze: bool,
        peeked: Option<&Room>,
    ) {
        let Left::Until(mono) = room.face.left else { return };
        let left_ns = mono.saturating_sub(alive.mono.ns());
        let now_left_ns = if freeze { left_ns } else { left_ns.saturating_sub(away_ns) };
        // Over a reboot an end is known by its name, in whole milliseconds of a wall clock that is read in those.
        let slack_ns = if same_boot { 0 } else { NAME_SLACK_NS };
        let told = peeked.map(|room| &room.face);
        let told_left = told.filter(|face| face.runs()).map(|face| face.left_ns(now));
        let is_near = left_ns == 0 || now_left_ns <= slack_ns;
        if left_ns == 0 || (is_near && told_left.is_none()) {
            room.face.complete();
            self.follows.push_back(Follow::Changed(room.face.revision));
            return;
        }
        let fits = told_left.is_some_and(|told| told.abs_diff(now_left_ns) <= slack_ns);
        if !fits {
            let text = format!("{now_left_ns} ns are left after {away_ns} ns, not {told:?}: {self:?}");
            violated("a room is taken up as the operator wants it", &text);
        }
        room.face.left = told.unwrap().left;
        if freeze && away_ns > 0 {
            room.face.revision += 1;
            self.follows.push_back(Follow::Changed(room.face.revision));
        }
    }
}

/// Those people, and whether each has one of those lines.
fn list_of(people: &[Person], lines: &BTreeMap<u32, Option<bool>>) -> List {
    let told = |person: &Person| (person.name.clone(), lines.get(&person.number).copied().unwrap_or(Some(false)));
    people.iter().map(told).collect()
}

/// So many letters of Crockford's alphabet.
fn is_id(id: &str, length: usize) -> bool {
    id.len() == length && id.bytes().all(|letter| b"0123456789abcdefghjkmnpqrstvwxyz".contains(&letter))
}
