//! Rooms: one countdown that a team shares, and who is there.
//!
//! Owns the state machine of the contract, every room and its people, and who of them has a line. It must not know
//! connections, JSON, ids' spelling or the disk: it takes commands and `Now`, and gives verdicts and effects.
//!
//! ```text
//!            start      pause     resume     reset    extend    zero
//! idle       running    -         -          idle     -         -
//! running    running    paused    -          idle     running   completed
//! paused     running    -         running    idle     paused    -
//! completed  running    -         -          idle     -         -
//! ```
//!
//! Who belongs to a room is a fact, and durable; who of them has a line is not, and follows from the sockets.
//!
//! Invariants: a room is `running` if and only if its countdown runs; the revision counts changes of the countdown and
//! the zero, not people; ticks strictly fall; the end waits for nothing but a change of the same room that is on its
//! way to the disk, and so do the leave of somebody who did not come back and the removal of a room without anybody.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Mono, Now, WallMs};
use crate::domain::absence::{Absence, Found, Outage};
use crate::domain::countdown::{Countdown, Second};
use crate::domain::deadlines::{Alarm, Due, Sleeper};
use crate::domain::effects::{self, Effects, Record, Topic};
use crate::domain::staged::{Flight, Hold, Staged};
use crate::limits::*;

/// What a room is called by clients.
pub type RoomId = Arc<str>;

/// One room: the fact that is stored, and shown.
#[derive(Clone, Debug, PartialEq)]
pub struct Room {
    /// Its name to clients.
    pub id: RoomId,
    /// Counts creations of a run, from behind those that are kept.
    pub serial: u32,
    /// Where in its descent it is.
    pub state: State,
    /// What is left.
    pub countdown: Countdown,
    /// Seconds it lasts, extensions included.
    pub duration_s: u32,
    /// Seconds that the last start gave it, or its creation.
    pub full_s: u32,
    /// When it was last started from the beginning.
    pub started_at: Option<WallMs>,
    /// Since when it stands still.
    pub paused_at: Option<WallMs>,
    /// Counts its changes, from 1.
    pub revision: u64,
    /// How many people it ever had.
    pub people_ever: u32,
    /// Who belongs to it, in order of their coming.
    pub people: Arc<[Person]>,
}

/// Somebody who belongs to a room.
#[derive(Clone, Debug, PartialEq)]
pub struct Person {
    /// Counts the people of the room, from 1; never used twice in it.
    pub number: u32,
    /// By this he is known when he comes back. Told to nobody else.
    pub key: Arc<str>,
    /// His name to the others.
    pub name: Arc<str>,
}

/// Somebody's place in a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    /// The serial number of the room.
    pub room: u32,
    /// The number of the person.
    pub person: u32,
}

/// Where in its descent a room is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Stopped at its full duration.
    Idle,
    /// Counting down.
    Running,
    /// Standing still.
    Paused,
    /// Run out.
    Completed,
}

impl State {
    /// Every state.
    pub const ALL: [State; 4] = [State::Idle, State::Running, State::Paused, State::Completed];

    /// The state's name in the store and in the log.
    pub const fn name(self) -> &'static str {
        match self {
            State::Idle => "idle",
            State::Running => "running",
            State::Paused => "paused",
            State::Completed => "completed",
        }
    }

    /// The state that `action` leads to, if it is allowed: the table above.
    pub const fn after(self, action: Action) -> Option<State> {
        match (self, action) {
            (_, Action::Start { .. }) | (State::Paused, Action::Resume) => Some(State::Running),
            (State::Running, Action::Pause) => Some(State::Paused),
            (_, Action::Reset) => Some(State::Idle),
            (State::Running | State::Paused, Action::Extend { .. }) => Some(self),
            _ => None,
        }
    }
}

/// What anybody in a room may do to its countdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Run from the beginning.
    Start {
        /// Seconds it is to last from here on; `None`: as at the last start.
        duration_s: Option<u32>,
    },
    /// Stand still.
    Pause,
    /// Run again.
    Resume,
    /// Stand at the duration of the last start.
    Reset,
    /// Last longer.
    Extend {
        /// Seconds more, 1..=3600.
        added_s: u32,
    },
}

/// What everybody in a room hears.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// The countdown was changed.
    Changed {
        /// The room after it.
        room: Arc<Room>,
        /// The name of who did it. `None`: it came to its end.
        by: Option<Arc<str>>,
    },
    /// A second of its grid has passed: so many are left.
    Tick(u32),
    /// It ran out; follows what it is after that.
    Completed,
    /// A new person has come. Not for himself, who is told more.
    Came {
        /// His name.
        name: Arc<str>,
        /// The room with him.
        room: Arc<Room>,
    },
    /// Somebody has left, or did not come back. His sockets do not belong to the room any more.
    Left {
        /// His number.
        person: u32,
        /// His name.
        name: Arc<str>,
        /// The room without him.
        room: Arc<Room>,
    },
    /// Somebody's line was lost, or is there again.
    Presence,
    /// The room of this name is gone. Nobody is there to hear it.
    Gone(RoomId),
}

impl Room {
    /// Exactly what is left at `now`.
    pub fn left(&self, now: Now) -> Duration {
        self.countdown.left(now)
    }

    /// Who has this number.
    pub fn person(&self, number: u32) -> Option<&Person> {
        self.people.iter().find(|person| person.number == number)
    }

    fn topic(&self) -> Topic {
        Topic::Room(self.serial)
    }

    /// Carries out an allowed action.
    fn apply(&mut self, now: Now, action: Action, to: State, second: Second) {
        match action {
            Action::Start { duration_s } => {
                self.full_s = duration_s.unwrap_or(self.full_s);
                self.rewind(second);
                self.countdown.start(now);
                self.started_at = Some(now.wall);
            }
            Action::Pause => {
                self.countdown.stop(now);
                self.paused_at = Some(now.wall);
            }
            Action::Resume => {
                self.countdown.start(now);
                self.paused_at = None;
            }
            Action::Reset => self.rewind(second),
            Action::Extend { added_s } => {
                self.countdown.extend(second.span(added_s));
                self.duration_s += added_s;
            }
        }
        self.state = to;
        self.revision += 1;
    }

    /// Back to the duration of the last start.
    fn rewind(&mut self, second: Second) {
        self.duration_s = self.full_s;
        self.countdown = Countdown::new(second.span(self.full_s));
        (self.started_at, self.paused_at) = (None, None);
    }

    /// Nothing is left.
    fn complete(&mut self) {
        self.countdown = Countdown::new(Duration::ZERO);
        self.state = State::Completed;
        self.revision += 1;
    }

    fn without(&self, gone: impl Fn(&Person) -> bool) -> Self {
        let people = self.people.iter().filter(|person| !gone(person)).cloned().collect();
        Room { people, ..self.clone() }
    }
}

/// Why a command changes nothing.
#[derive(Clone, Debug, PartialEq)]
pub enum Refusal {
    /// No such room.
    NotFound,
    /// There are as many rooms as there may be.
    NoRoomLeft,
    /// There are as many people in the room as there may be.
    RoomFull,
    /// He has as many lines as he may have.
    TooManyLines,
    /// He is not in the room any more.
    NotIn,
    /// The room is another than the caller took it for.
    Stale,
    /// The caller names a revision that has not been.
    NotYet,
    /// The state does not allow the action.
    WrongState(Action),
    /// The extension would make the countdown last longer than any may.
    TooLong,
}

/// The judgement of a command, and how long the answer must be held.
#[derive(Clone, Debug)]
pub struct Verdict<T> {
    /// What came of it, or the refusal.
    pub outcome: Result<T, Refusal>,
    /// What must be durable before anybody may be told.
    pub hold: Hold,
}

impl<T> Verdict<T> {
    fn refused(refusal: Refusal, hold: Hold) -> Self {
        Verdict { outcome: Err(refusal), hold }
    }
}

/// What an operator may set.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Whether there are rooms at all.
    pub are_open: bool,
    /// How long a second lasts.
    pub second: Second,
    /// How the daemon's absence counts.
    pub outage: Outage,
    /// How long somebody without a line has to come back.
    pub leave_after: Duration,
    /// How long a room without a line is kept.
    pub empty_for: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            are_open: true,
            second: Second::REAL,
            outage: Outage::RunOn,
            leave_after: ROOM_LEAVE_DEFAULT,
            empty_for: ROOM_EMPTY_DEFAULT,
        }
    }
}

/// What start-up finds of an earlier run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kept {
    /// The rooms, in order of their serial numbers.
    pub rooms: Vec<Room>,
}

/// All rooms.
#[derive(Debug)]
pub struct Rooms {
    settings: Settings,
    slots: BTreeMap<u32, Slot>,
    serials: HashMap<RoomId, u32>,
    touched: Flight<Vec<u32>>,
    serial: u32,
}

/// A room with what only this run of the daemon knows of it.
#[derive(Debug)]
struct Slot {
    id: RoomId,
    staged: Staged<Arc<Room>>,
    /// The lines of everybody who belongs to the room, or is about to, by his number.
    lines: BTreeMap<u32, Lines>,
    /// Since when nobody has had a line.
    empty_since: Option<Mono>,
    /// When it will be said who has a line.
    presence_at: Option<Mono>,
    /// The lowest second told in this descent.
    told_s: u32,
    alarm: Alarm,
    /// The wall clock was stepped, and the stored name of the end is wrong.
    misnamed: bool,
}

/// What a command is judged against.
struct Latest {
    room: Arc<Room>,
    /// Its end has come, and nobody has been told yet.
    came_due: bool,
}

impl Latest {
    /// Its end waits for a change that is on its way, but whoever comes after the end meets a room that has ended.
    fn of(room: Arc<Room>, now: Now) -> Self {
        if !room.countdown.is_over(now) {
            return Latest { room, came_due: false };
        }
        let mut done = (*room).clone();
        done.complete();
        Latest { room: Arc::new(done), came_due: true }
    }
}

/// Somebody's lines.
#[derive(Clone, Copy, Debug)]
struct Lines {
    open: u32,
    /// Since when there has been none.
    lost_at: Mono,
}

impl Slot {
    fn new(id: RoomId, staged: Staged<Arc<Room>>, told_s: u32, now: Now) -> Self {
        Slot {
            id,
            staged,
            lines: BTreeMap::new(),
            empty_since: Some(now.mono),
            presence_at: None,
            told_s,
            alarm: Alarm::default(),
            misnamed: false,
        }
    }

    fn open_lines(&self) -> u32 {
        self.lines.values().map(|lines| lines.open).sum()
    }
}

impl Rooms {
    /// No rooms yet.
    pub fn new(settings: Settings) -> Self {
        Rooms { settings, slots: BTreeMap::new(), serials: HashMap::new(), touched: Flight::default(), serial: 0 }
    }

    /// Whether there are rooms at all.
    pub fn are_open(&self) -> bool {
        self.settings.are_open
    }

    /// How long a second lasts.
    pub fn second(&self) -> Second {
        self.settings.second
    }

    /// Rooms held, those included that are on their way to the disk.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// There is no room.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// People of all rooms shown.
    pub fn people(&self) -> usize {
        self.slots.values().filter_map(|slot| slot.staged.shown()).map(|room| room.people.len()).sum()
    }

    /// Something runs, or is about to: the sign of life must be written.
    pub fn is_any_running(&self) -> bool {
        let runs = |room: Option<&Arc<Room>>| room.is_some_and(|room| room.state == State::Running);
        self.slots.values().any(|slot| runs(slot.staged.shown()) || runs(slot.staged.latest()))
    }

    /// Whether a room has this id, or is about to.
    pub fn is_taken(&self, id: &str) -> bool {
        self.serials.contains_key(id)
    }

    /// The room shown under `id`, as it is at `now`.
    pub fn shown(&mut self, now: Now, id: &str, fx: &mut Effects) -> Option<&Arc<Room>> {
        let serial = *self.serials.get(id)?;
        self.settle(now, serial, fx);
        self.slots.get(&serial)?.staged.shown()
    }

    /// The room shown with this serial number, as it was last settled.
    pub fn peek(&self, serial: u32) -> Option<&Arc<Room>> {
        self.slots.get(&serial)?.staged.shown()
    }

    /// Whether the room `id` has somebody with this key, as commands see it.
    pub fn knows(&self, id: &str, key: &str) -> bool {
        let slot = self.serials.get(id).and_then(|serial| self.slots.get(serial));
        let room = slot.and_then(|slot| slot.staged.latest());
        room.is_some_and(|room| room.people.iter().any(|person| *person.key == *key))
    }

    /// Whether somebody has a line.
    pub fn has_line(&self, seat: Seat) -> bool {
        let lines = self.slots.get(&seat.room).and_then(|slot| slot.lines.get(&seat.person));
        lines.is_some_and(|lines| lines.open > 0)
    }

    // -----------------------------------------------------------------------------------------------------------
    // Commands.

    /// Makes a room of `duration_s` seconds, which nobody else has under this id, and takes a seat in it.
    pub fn create(
        &mut self,
        now: Now,
        id: RoomId,
        duration_s: u32,
        newcomer: Newcomer,
        fx: &mut Effects,
    ) -> Verdict<Seat> {
        if self.slots.len() >= ROOMS_MAX {
            return Verdict::refused(Refusal::NoRoomLeft, Hold::Nothing);
        }
        self.serial += 1;
        let serial = self.serial;
        let room = Room {
            id: id.clone(),
            serial,
            state: State::Idle,
            countdown: Countdown::new(self.settings.second.span(duration_s)),
            duration_s,
            full_s: duration_s,
            started_at: None,
            paused_at: None,
            revision: 1,
            people_ever: 0,
            people: Arc::from([]),
        };
        self.serials.insert(id.clone(), serial);
        self.slots.insert(serial, Slot::new(id, Staged::unseen(), duration_s, now));
        let (seat, ..) = self.admit(now, room, newcomer, fx);
        Verdict { outcome: Ok(seat), hold: Hold::Gathering }
    }

    /// Takes a seat in the room `id`: the one that belongs to `key`, if there is one, else a new one.
    pub fn join(
        &mut self,
        now: Now,
        id: &str,
        key: Option<&str>,
        newcomer: Newcomer,
        fx: &mut Effects,
    ) -> Verdict<Seat> {
        let Some(&serial) = self.serials.get(id) else { return Verdict::refused(Refusal::NotFound, Hold::Nothing) };
        self.settle(now, serial, fx);
        let Some(slot) = self.slots.get(&serial) else { return Verdict::refused(Refusal::NotFound, Hold::Nothing) };
        let hold = slot.staged.hold();
        let Some(room) = slot.staged.latest().cloned() else { return Verdict::refused(Refusal::NotFound, hold) };
        let known = key.and_then(|key| room.people.iter().find(|person| *person.key == *key));
        if let Some(person) = known {
            let seat = Seat { room: serial, person: person.number };
            let is_shown = slot.staged.shown().is_some_and(|room| room.person(seat.person).is_some());
            if slot.lines.get(&seat.person).is_some_and(|lines| lines.open >= LINES_PER_PERSON) {
                return Verdict::refused(Refusal::TooManyLines, hold);
            }
            self.connect(now, seat);
            self.arm(now, serial, fx);
            // Whatever else is on its way: he is told what is shown, and he is part of that.
            return Verdict { outcome: Ok(seat), hold: if is_shown { Hold::Nothing } else { hold } };
        }
        if room.people.len() >= ROOM_PEOPLE_MAX {
            return Verdict::refused(Refusal::RoomFull, hold);
        }
        // Its end does not wait for as long as people come.
        let Latest { room, came_due } = Latest::of(room, now);
        announce_end(came_due, &room, fx);
        let (seat, name, room) = self.admit(now, (*room).clone(), newcomer, fx);
        let topic = room.topic();
        fx.announce_when_durable(topic, effects::Message::Room(Message::Came { name, room }));
        Verdict { outcome: Ok(seat), hold: Hold::Gathering }
    }

    /// Adds somebody to `room`, with one line. Returns his name and the room with him, too.
    fn admit(
        &mut self,
        now: Now,
        mut room: Room,
        newcomer: Newcomer,
        fx: &mut Effects,
    ) -> (Seat, Arc<str>, Arc<Room>) {
        room.people_ever += 1;
        let number = room.people_ever;
        let name = newcomer.name.unwrap_or_else(|| format!("User {number}").into());
        let person = Person { number, key: newcomer.key, name: name.clone() };
        room.people = room.people.iter().cloned().chain([person.clone()]).collect();
        let seat = Seat { room: room.serial, person: number };
        self.connect(now, seat);
        fx.command(Record::RoomPerson { room: room.serial, person });
        (seat, name, self.stage(room, fx))
    }

    /// Leaves for good, with all lines.
    pub fn leave(&mut self, now: Now, seat: Seat, fx: &mut Effects) -> Verdict<()> {
        let (Latest { room, came_due }, hold) = match self.latest(now, seat, fx) {
            (Ok(latest), hold) => (latest, hold),
            (Err(refusal), hold) => return Verdict::refused(refusal, hold),
        };
        let Some(person) = room.person(seat.person).cloned() else { return Verdict::refused(Refusal::NotIn, hold) };
        announce_end(came_due, &room, fx);
        fx.command(Record::RoomPersonGone { room: seat.room, person: seat.person });
        let topic = room.topic();
        let room = self.stage(room.without(|other| other.number == seat.person), fx);
        let left = Message::Left { person: seat.person, name: person.name, room };
        fx.announce_when_durable(topic, effects::Message::Room(left));
        Verdict { outcome: Ok(()), hold: Hold::Gathering }
    }

    /// Whether the room is at the revision that the caller took it for.
    pub fn judge(&mut self, now: Now, seat: Seat, revision: u64, fx: &mut Effects) -> Verdict<()> {
        let (latest, hold) = self.latest(now, seat, fx);
        let outcome = latest.and_then(|Latest { room, .. }| match room.revision {
            known if revision < known => Err(Refusal::Stale),
            known if revision > known => Err(Refusal::NotYet),
            _ => Ok(()),
        });
        Verdict { outcome, hold }
    }

    /// Carries out `action`, if the room's state allows it.
    pub fn act(&mut self, now: Now, seat: Seat, action: Action, fx: &mut Effects) -> Verdict<()> {
        let (Latest { room, came_due }, hold) = match self.latest(now, seat, fx) {
            (Ok(latest), hold) => (latest, hold),
            (Err(refusal), hold) => return Verdict::refused(refusal, hold),
        };
        let Some(to) = room.state.after(action) else {
            return Verdict::refused(Refusal::WrongState(action), hold);
        };
        if matches!(action, Action::Extend { added_s } if room.duration_s + added_s > TOTAL_S_MAX) {
            return Verdict::refused(Refusal::TooLong, hold);
        }
        announce_end(came_due, &room, fx);
        let by = room.person(seat.person).map(|person| person.name.clone());
        let mut room = (*room).clone();
        room.apply(now, action, to, self.settings.second);
        let room = self.stage(room, fx);
        fx.announce_when_durable(room.topic(), effects::Message::Room(Message::Changed { room: room.clone(), by }));
        Verdict { outcome: Ok(()), hold: Hold::Gathering }
    }

    // -----------------------------------------------------------------------------------------------------------
    // Lines.

    /// Somebody has one line more.
    fn connect(&mut self, now: Now, seat: Seat) {
        let Some(slot) = self.slots.get_mut(&seat.room) else { return };
        slot.empty_since = None;
        match slot.lines.get_mut(&seat.person) {
            // He is announced in another way.
            None => _ = slot.lines.insert(seat.person, Lines { open: 1, lost_at: now.mono }),
            Some(lines) => {
                lines.open += 1;
                if lines.open == 1 {
                    slot.presence_at.get_or_insert(now.mono + PRESENCE_GATHERED_FOR);
                }
            }
        }
    }

    /// Somebody has one line less.
    pub fn disconnect(&mut self, now: Now, seat: Seat, fx: &mut Effects) {
        let Some(slot) = self.slots.get_mut(&seat.room) else { return };
        if let Some(lines) = slot.lines.get_mut(&seat.person) {
            lines.open = lines.open.saturating_sub(1);
            if lines.open == 0 {
                lines.lost_at = now.mono;
                slot.presence_at.get_or_insert(now.mono + PRESENCE_GATHERED_FOR);
            }
        }
        if slot.open_lines() == 0 {
            slot.empty_since.get_or_insert(now.mono);
        }
        self.settle(now, seat.room, fx);
    }

    // -----------------------------------------------------------------------------------------------------------
    // Time.

    /// Whether this alarm is still the room's own.
    pub fn awaits(&self, sleeper: Sleeper) -> bool {
        self.slots.get(&sleeper.number).is_some_and(|slot| slot.alarm.is(sleeper))
    }

    /// An alarm went off.
    pub fn wake(&mut self, now: Now, sleeper: Sleeper, fx: &mut Effects) {
        let Some(slot) = self.slots.get_mut(&sleeper.number) else { return };
        if slot.alarm.goes_off(sleeper) {
            self.settle(now, sleeper.number, fx);
        }
    }

    /// The wall clock was stepped: ends get new names, nothing running is moved.
    pub fn wall_stepped(&mut self, now: Now, fx: &mut Effects) {
        let serials: Vec<u32> = self.slots.keys().copied().collect();
        for serial in serials {
            if let Some(slot) = self.slots.get_mut(&serial) {
                slot.misnamed = true;
            }
            self.settle(now, serial, fx);
        }
    }

    /// Brings what is shown of a room to `now`: what has come due happens, in order, and the next alarm is set.
    fn settle(&mut self, now: Now, serial: u32, fx: &mut Effects) {
        let Settings { second, leave_after, empty_for, .. } = self.settings;
        let Some(slot) = self.slots.get_mut(&serial) else { return };
        let Some(room) = slot.staged.shown().cloned() else { return };
        let pending = slot.staged.is_pending();
        let topic = room.topic();
        let over = room.countdown.is_over(now);
        let left_s = second.ceil(room.left(now));
        if room.state == State::Running && left_s < slot.told_s && !(over && pending) {
            fx.announce(topic, effects::Message::Room(Message::Tick(left_s)));
            slot.told_s = left_s;
        }
        if slot.presence_at.is_some_and(|at| at <= now.mono) {
            slot.presence_at = None;
            fx.announce(topic, effects::Message::Room(Message::Presence));
        }
        // What else follows waits while a change of the same room is on its way: it may undo it.
        if !pending {
            if over {
                let mut done = (*room).clone();
                done.complete();
                let done = slot.follow(done, fx);
                fx.announce(topic, effects::Message::Room(Message::Changed { room: done, by: None }));
                fx.announce(topic, effects::Message::Room(Message::Completed));
            } else if std::mem::take(&mut slot.misnamed) {
                let mut renamed = (*room).clone();
                if renamed.countdown.rename_end(now) {
                    slot.follow(renamed, fx);
                }
            }
            slot.let_leave(now, leave_after, fx);
            if slot.empty_since.is_some_and(|since| since + empty_for <= now.mono) {
                let id = slot.id.clone();
                fx.follow(Record::RoomGone(serial));
                fx.announce(topic, effects::Message::Room(Message::Gone(id.clone())));
                self.slots.remove(&serial);
                self.serials.remove(&id);
                return;
            }
        }
        self.arm(now, serial, fx);
    }

    /// Sets the alarm for the next thing that time alone brings about.
    fn arm(&mut self, now: Now, serial: u32, fx: &mut Effects) {
        let Settings { second, leave_after, empty_for, .. } = self.settings;
        let Some(slot) = self.slots.get_mut(&serial) else { return };
        let Some(room) = slot.staged.shown() else { return };
        // What waits for the disk is looked at when the disk answers.
        let pending = slot.staged.is_pending();
        let tick = if room.countdown.is_over(now) { None } else { room.countdown.next_tick(now, second) };
        let lost = slot.lines.values().filter(|lines| lines.open == 0).map(|lines| lines.lost_at + leave_after);
        let empty = slot.empty_since.map(|since| since + empty_for);
        let waits = lost.chain(empty).min().filter(|at| !pending || *at > now.mono);
        let next = [tick, slot.presence_at, waits].into_iter().flatten().min();
        slot.alarm.set(next, serial, Due::Room, &mut fx.deadlines);
    }

    // -----------------------------------------------------------------------------------------------------------
    // The disk.

    /// The gathering batch goes to the disk.
    pub fn hand_over(&mut self) {
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
    pub fn commit(&mut self, now: Now) -> Vec<u32> {
        let second = self.settings.second;
        let touched = std::mem::take(&mut self.touched.writing);
        for serial in &touched {
            let Some(slot) = self.slots.get_mut(serial) else { continue };
            let before = slot.staged.commit();
            let Some(room) = slot.staged.shown() else { continue };
            if before.is_none_or(|before| before.revision != room.revision) {
                // The change is told with what is left now: ticks are for what lies below that.
                slot.told_s = second.ceil(room.left(now));
            }
            slot.forget_lines(now);
        }
        touched
    }

    /// Neither batch will ever be durable. Returns whom to bring to the present.
    #[must_use]
    pub fn undo(&mut self, now: Now) -> Vec<u32> {
        let Flight { mut gathering, writing } = std::mem::take(&mut self.touched);
        gathering.extend(writing);
        for serial in &gathering {
            let Some(slot) = self.slots.get_mut(serial) else { continue };
            slot.staged.undo();
            if slot.staged.is_gone() {
                let id = slot.id.clone();
                self.serials.remove(&id);
                self.slots.remove(serial);
            } else {
                slot.forget_lines(now);
            }
        }
        gathering
    }

    /// Brings rooms that waited for the disk to `now`.
    pub fn resettle(&mut self, now: Now, serials: Vec<u32>, fx: &mut Effects) {
        serials.into_iter().for_each(|serial| self.settle(now, serial, fx));
    }

    /// Takes up the rooms of an earlier run, the time between counted as the operator wants it. Everybody's line is
    /// lost, from now on.
    pub fn restore(&mut self, now: Now, absence: Absence, kept: Kept, fx: &mut Effects) {
        let Settings { second, outage, .. } = self.settings;
        for mut room in kept.rooms {
            let found = absence.find(now, outage, room.countdown);
            match found {
                Found::AsLeft => {}
                Found::Renamed(countdown) => room.countdown = countdown,
                Found::Frozen(countdown) => {
                    room.countdown = countdown;
                    room.revision += 1;
                }
                Found::Over(_) => room.complete(),
            }
            let serial = room.serial;
            self.serial = self.serial.max(serial);
            let told_s = second.ceil(room.left(now));
            let room = Arc::new(room);
            if found != Found::AsLeft {
                fx.follow(Record::Room(room.clone()));
            }
            self.serials.insert(room.id.clone(), serial);
            let mut slot = Slot::new(room.id.clone(), Staged::durable(room.clone()), told_s, now);
            let lost = Lines { open: 0, lost_at: now.mono };
            slot.lines = room.people.iter().map(|person| (person.number, lost)).collect();
            self.slots.insert(serial, slot);
            self.settle(now, serial, fx);
        }
    }

    // -----------------------------------------------------------------------------------------------------------

    /// The latest state of the room in which somebody sits, brought to `now`; and how long an answer about that must
    /// be held.
    fn latest(&mut self, now: Now, seat: Seat, fx: &mut Effects) -> (Result<Latest, Refusal>, Hold) {
        self.settle(now, seat.room, fx);
        let Some(slot) = self.slots.get(&seat.room) else { return (Err(Refusal::NotIn), Hold::Nothing) };
        let hold = slot.staged.hold();
        let Some(room) = slot.staged.latest().filter(|room| room.person(seat.person).is_some()).cloned() else {
            return (Err(Refusal::NotIn), hold);
        };
        (Ok(Latest::of(room, now)), hold)
    }

    /// Puts the room's next state into the gathering batch.
    fn stage(&mut self, room: Room, fx: &mut Effects) -> Arc<Room> {
        let (serial, room) = (room.serial, Arc::new(room));
        fx.command(Record::Room(room.clone()));
        if let Some(slot) = self.slots.get_mut(&serial) {
            if slot.staged.hold() != Hold::Gathering {
                self.touched.gathering.push(serial);
            }
            slot.staged.stage(Some(room.clone()));
        }
        room
    }
}

/// The room has come to its end behind a change that is on its way, and before the next one.
fn announce_end(came_due: bool, room: &Arc<Room>, fx: &mut Effects) {
    if came_due {
        let done = Message::Changed { room: room.clone(), by: None };
        for message in [Message::Tick(0), done, Message::Completed] {
            fx.announce_when_durable(room.topic(), effects::Message::Room(message));
        }
    }
}

impl Slot {
    /// What is shown changes by itself.
    fn follow(&mut self, room: Room, fx: &mut Effects) -> Arc<Room> {
        let room = Arc::new(room);
        fx.follow(Record::Room(room.clone()));
        if let Some(shown) = self.staged.shown_mut() {
            *shown = room.clone();
        }
        room
    }

    /// Whoever has not come back in time has left.
    fn let_leave(&mut self, now: Now, leave_after: Duration, fx: &mut Effects) {
        let is_due = |lines: &Lines| lines.open == 0 && lines.lost_at + leave_after <= now.mono;
        let due: Vec<u32> = self.lines.iter().filter(|(_, lines)| is_due(lines)).map(|(number, _)| *number).collect();
        for number in due {
            self.lines.remove(&number);
            let Some(shown) = self.staged.shown_mut() else { return };
            let Some(person) = shown.person(number).cloned() else { continue };
            let room = Arc::new(shown.without(|other| other.number == number));
            *shown = room.clone();
            fx.follow(Record::RoomPersonGone { room: room.serial, person: number });
            let left = Message::Left { person: number, name: person.name, room: room.clone() };
            fx.announce(room.topic(), effects::Message::Room(left));
        }
    }

    /// Lines of people who do not belong to the room, and are not about to, are none of its business.
    fn forget_lines(&mut self, now: Now) {
        let (shown, latest) = (self.staged.shown(), self.staged.latest());
        let belongs = |number: u32| [shown, latest].into_iter().flatten().any(|room| room.person(number).is_some());
        self.lines.retain(|number, _| belongs(*number));
        if self.open_lines() == 0 {
            self.empty_since.get_or_insert(now.mono);
        }
    }
}

/// Somebody who is to be given a seat.
#[derive(Clone, Debug)]
pub struct Newcomer {
    /// By this he will be known.
    pub key: Arc<str>,
    /// His name; `None`: he is given one.
    pub name: Option<Arc<str>>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Engine;
    use crate::domain::disk::Image;

    const S: u64 = 1_000_000_000;
    const MS: u64 = 1_000_000;
    const EPOCH_MS: i64 = 1_768_471_200_000;

    /// An engine, its clock, what it has said and what is durable.
    struct House {
        engine: Engine,
        now_ns: u64,
        said: Vec<(u64, Message)>,
        durable: BTreeMap<u32, Arc<Room>>,
        people: BTreeMap<(u32, u32), Person>,
        alive: Now,
    }

    impl House {
        fn with(outage: Outage) -> Self {
            let settings = Settings { outage, ..Settings::default() };
            let timers =
                crate::domain::timers::Settings { timers_max: 1, second: Second::REAL, outage, keep_finished: None };
            House {
                engine: Engine::new(timers, Default::default(), settings, Effects::default().scribe),
                now_ns: 100 * S,
                said: Vec::new(),
                durable: BTreeMap::new(),
                people: BTreeMap::new(),
                alive: Now::default(),
            }
        }

        fn new() -> Self {
            House::with(Outage::RunOn)
        }

        fn now(&self) -> Now {
            let wall = WallMs::from_ms(EPOCH_MS + i64::try_from(self.now_ns / MS).unwrap());
            Now { mono: Mono::from_ns(self.now_ns), wall }
        }

        fn hear(&mut self) {
            for announcement in self.engine.fx.announcements.drain(..) {
                if let effects::Message::Room(message) = announcement.message {
                    self.said.push((self.now_ns, message));
                }
            }
        }

        /// Time passes; deadlines are served at their instants.
        fn pass(&mut self, ns: u64) {
            let end = self.now_ns + ns;
            loop {
                let next = self.engine.fx.deadlines.next().map_or(end, |at| at.ns().max(self.now_ns)).min(end);
                self.now_ns = next;
                let now = self.now();
                while let Some((_, due)) = self.engine.fx.deadlines.pop(now.mono) {
                    if let Due::Room(sleeper) = due {
                        self.engine.rooms.wake(now, sleeper, &mut self.engine.fx);
                    }
                }
                self.hear();
                if next == end {
                    return;
                }
            }
        }

        /// What has gathered becomes durable at once.
        fn commit(&mut self) {
            let now = self.now();
            let batch = self.engine.hand_over(now);
            self.alive = batch.alive;
            for record in batch.follows.into_iter().chain(batch.commands) {
                match record {
                    Record::Room(room) => _ = self.durable.insert(room.serial, room),
                    Record::RoomGone(serial) => _ = self.durable.remove(&serial),
                    Record::RoomPerson { room, person } => _ = self.people.insert((room, person.number), person),
                    Record::RoomPersonGone { room, person } => _ = self.people.remove(&(room, person)),
                    _ => {}
                }
            }
            self.engine.commit(now, 0);
            self.hear();
        }

        fn fail(&mut self) {
            let now = self.now();
            let batch = self.engine.hand_over(now);
            self.engine.undo(now, batch);
            self.hear();
        }

        fn newcomer(key: &str) -> Newcomer {
            Newcomer { key: key.into(), name: None }
        }

        fn create(&mut self, duration_s: u32) -> Seat {
            let now = self.now();
            let newcomer = House::newcomer("ada");
            let made = self.engine.rooms.create(now, "room".into(), duration_s, newcomer, &mut self.engine.fx);
            made.outcome.unwrap()
        }

        fn join(&mut self, key: &str) -> Result<Seat, Refusal> {
            let now = self.now();
            self.engine.rooms.join(now, "room", Some(key), House::newcomer(key), &mut self.engine.fx).outcome
        }

        fn act(&mut self, seat: Seat, action: Action) -> Result<(), Refusal> {
            let now = self.now();
            self.engine.rooms.act(now, seat, action, &mut self.engine.fx).outcome
        }

        fn done(&mut self, seat: Seat, action: Action) {
            self.act(seat, action).unwrap();
            self.commit();
        }

        fn judge(&mut self, seat: Seat, revision: u64) -> Result<(), Refusal> {
            let now = self.now();
            self.engine.rooms.judge(now, seat, revision, &mut self.engine.fx).outcome
        }

        fn lose(&mut self, seat: Seat) {
            let now = self.now();
            self.engine.rooms.disconnect(now, seat, &mut self.engine.fx);
            self.hear();
        }

        fn room(&mut self) -> Option<Arc<Room>> {
            let now = self.now();
            self.engine.rooms.shown(now, "room", &mut self.engine.fx).cloned()
        }

        fn left_ms(&mut self) -> u64 {
            let now = self.now();
            Second::REAL.ms(self.room().unwrap().left(now))
        }

        fn restart(&mut self, away_ns: u64, same_boot: bool) {
            let (before_ns, Settings { outage, .. }) = (self.now_ns, self.engine.rooms.settings);
            let mut fresh = House::with(outage);
            fresh.now_ns = before_ns + away_ns;
            let whole = |room: &Arc<Room>| {
                let people = self.people.range((room.serial, 0)..=(room.serial, u32::MAX));
                Room { people: people.map(|(_, person)| person.clone()).collect(), ..(**room).clone() }
            };
            let rooms = Kept { rooms: self.durable.values().map(whole).collect() };
            let image = Image { alive: Some(self.alive), same_boot, rooms, ..Image::default() };
            fresh.engine.restore(fresh.now(), image);
            fresh.durable = std::mem::take(&mut self.durable);
            fresh.people = std::mem::take(&mut self.people);
            *self = fresh;
            self.hear();
            self.commit();
        }
    }

    const START: Action = Action::Start { duration_s: None };

    #[test]
    fn the_table_of_states() {
        let extend = Action::Extend { added_s: 1 };
        let table = [
            (State::Idle, [Some(State::Running), None, None, Some(State::Idle), None]),
            (
                State::Running,
                [Some(State::Running), Some(State::Paused), None, Some(State::Idle), Some(State::Running)],
            ),
            (
                State::Paused,
                [Some(State::Running), None, Some(State::Running), Some(State::Idle), Some(State::Paused)],
            ),
            (State::Completed, [Some(State::Running), None, None, Some(State::Idle), None]),
        ];
        for (state, expected) in table {
            let got = [START, Action::Pause, Action::Resume, Action::Reset, extend].map(|action| state.after(action));
            assert_eq!(got, expected, "{state:?}");
        }
    }

    #[test]
    fn a_descent_with_a_pause_in_it_ticks_once_a_second_and_ends_where_arithmetic_says() {
        let mut house = House::new();
        let seat = house.create(5);
        house.commit();
        house.done(seat, START);
        house.pass(1_300 * MS);
        house.done(seat, Action::Pause);
        house.pass(77 * S + 3);
        assert_eq!(house.left_ms(), 3_700);
        house.done(seat, Action::Resume);
        let resumed_ns = house.now_ns;
        house.said.clear();
        house.pass(3_700 * MS - 1);
        assert_eq!(house.room().unwrap().state, State::Running, "not one nanosecond early");
        house.pass(1);
        let ticks: Vec<(u64, u32)> = house
            .said
            .iter()
            .filter_map(|(at, message)| match message {
                Message::Tick(left_s) => Some(((at - resumed_ns) / MS, *left_s)),
                _ => None,
            })
            .collect();
        assert_eq!(ticks, [(700, 3), (1_700, 2), (2_700, 1), (3_700, 0)]);
        let [.., (_, Message::Tick(0)), (_, Message::Changed { room, by: None }), (_, Message::Completed)] =
            house.said.as_slice()
        else {
            panic!("{:?}", house.said)
        };
        assert_eq!((room.state, room.revision, room.paused_at), (State::Completed, 5, None));
        assert!(room.started_at.is_some());
    }

    #[test]
    fn an_extension_lasts_until_the_next_start() {
        let mut house = House::new();
        let seat = house.create(60);
        house.commit();
        let duration = |house: &mut House| house.room().unwrap().duration_s;
        house.done(seat, Action::Start { duration_s: Some(100) });
        house.done(seat, Action::Extend { added_s: 30 });
        assert_eq!((duration(&mut house), house.left_ms()), (130, 130_000));
        house.done(seat, Action::Reset);
        assert_eq!((duration(&mut house), house.left_ms()), (100, 100_000));
        house.done(seat, START);
        house.done(seat, Action::Extend { added_s: 30 });
        house.done(seat, START);
        assert_eq!((duration(&mut house), house.left_ms()), (100, 100_000));
        assert_eq!(house.act(seat, Action::Resume), Err(Refusal::WrongState(Action::Resume)));
    }

    #[test]
    fn of_two_who_press_at_once_one_is_told_who_was_faster() {
        let mut house = House::new();
        let ada = house.create(60);
        let bob = house.join("bob").unwrap();
        house.commit();
        assert_eq!((house.judge(ada, 1), house.judge(bob, 1)), (Ok(()), Ok(())));
        house.act(ada, START).unwrap();
        assert_eq!(house.judge(bob, 1), Err(Refusal::Stale));
        assert_eq!(house.judge(bob, 3), Err(Refusal::NotYet));
        assert_eq!(house.room().unwrap().revision, 1, "nobody sees what is not durable");
        house.fail();
        assert_eq!(house.judge(bob, 1), Ok(()));
    }

    #[test]
    fn a_command_behind_an_end_that_waits_meets_a_room_that_has_ended() {
        let mut house = House::new();
        let seat = house.create(10);
        house.commit();
        house.done(seat, START);
        house.pass(9 * S);
        house.act(seat, Action::Extend { added_s: 1 }).unwrap();
        house.pass(3 * S);
        assert_eq!(house.act(seat, Action::Pause), Err(Refusal::WrongState(Action::Pause)));
        house.said.clear();
        house.act(seat, START).unwrap();
        house.commit();
        let revisions: Vec<u64> = house
            .said
            .iter()
            .filter_map(|(_, message)| match message {
                Message::Changed { room, .. } => Some(room.revision),
                _ => None,
            })
            .collect();
        assert_eq!(revisions, [3, 4, 5], "extended, ended, started");
        assert_eq!(house.left_ms(), 10_000);
    }

    #[test]
    fn whoever_does_not_come_back_has_left_and_a_room_without_anybody_goes() {
        let mut house = House::new();
        let ada = house.create(60);
        let bob = house.join("bob").unwrap();
        house.commit();
        house.lose(bob);
        house.pass(29 * S);
        assert_eq!(house.join("bob"), Ok(bob), "the same person");
        house.lose(bob);
        house.pass(30 * S - 1);
        assert_eq!(house.room().unwrap().people.len(), 2);
        house.pass(1);
        assert_eq!(house.room().unwrap().people.len(), 1);
        assert!(matches!(house.said.last(), Some((_, Message::Left { name, .. })) if &**name == "User 2"));
        house.commit();
        let back = house.join("bob").unwrap();
        assert_eq!(back.person, 3, "somebody new");
        house.commit();
        house.lose(back);
        house.lose(ada);
        house.pass(300 * S - 1);
        assert!(house.room().unwrap().people.is_empty());
        house.pass(1);
        assert!(house.room().is_none() && house.engine.rooms.is_empty());
        house.commit();
        assert!(house.durable.is_empty() && house.people.is_empty());
    }

    #[test]
    fn a_room_that_comes_back_at_once_is_told_of_in_one_message() {
        let mut house = House::new();
        let seats: Vec<Seat> =
            std::iter::once(house.create(60)).chain((0..99).map(|n| house.join(&format!("p{n}")).unwrap())).collect();
        house.commit();
        assert_eq!(house.join("one too many"), Err(Refusal::RoomFull));
        seats.iter().for_each(|seat| house.lose(*seat));
        house.said.clear();
        house.pass(PRESENCE_GATHERED_FOR.as_nanos() as u64);
        assert_eq!(house.said.iter().map(|(_, message)| message).collect::<Vec<_>>(), [&Message::Presence]);
        (0..LINES_PER_PERSON).for_each(|_| _ = house.join("p7").unwrap());
        assert_eq!(house.join("p7"), Err(Refusal::TooManyLines));
    }

    #[test]
    fn what_never_becomes_durable_leaves_nothing() {
        let mut house = House::new();
        let seat = house.create(60);
        house.fail();
        house.lose(seat);
        assert!(house.room().is_none() && house.engine.rooms.is_empty());
        let seat = house.create(60);
        house.commit();
        let bob = house.join("bob").unwrap();
        house.act(bob, START).unwrap();
        house.fail();
        house.lose(bob);
        assert_eq!(house.room().map(|room| (room.people.len(), room.state)), Some((1, State::Idle)));
        assert_eq!(house.act(bob, START), Err(Refusal::NotIn));
        house.lose(seat);
        house.pass(400 * S);
        assert!(house.engine.rooms.is_empty());
    }

    #[test]
    fn rooms_and_their_people_survive_and_the_time_away_counts_as_the_operator_wants_it() {
        for (outage, same_boot, left_ms) in
            [(Outage::RunOn, true, 40_000), (Outage::RunOn, false, 40_001), (Outage::Freeze, true, 55_000)]
        {
            let mut house = House::with(outage);
            let ada = house.create(60);
            house.commit();
            house.done(ada, START);
            house.pass(5 * S);
            house.commit();
            house.restart(15 * S, same_boot);
            assert_eq!(house.left_ms(), left_ms, "{outage:?} {same_boot}");
            let revision = if outage == Outage::Freeze { 3 } else { 2 };
            assert_eq!(house.room().unwrap().revision, revision);
            assert!(!house.engine.rooms.has_line(ada));
            house.pass(29 * S);
            assert_eq!(house.join("ada"), Ok(ada));
            house.pass(31 * S);
            assert_eq!(house.room().unwrap().people.len(), 1);
            house.pass(left_ms * MS);
            assert_eq!(house.room().unwrap().state, State::Completed);
        }
        let mut house = House::new();
        let ada = house.create(60);
        house.commit();
        house.done(ada, START);
        house.restart(60 * S, true);
        assert_eq!(house.room().map(|room| (room.state, room.revision)), Some((State::Completed, 3)));
    }
}
