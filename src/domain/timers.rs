//! Timers: one countdown each, with a name, a state, warnings and a history.
//!
//! Owns the state machine of the contract and every timer there is. It must not know connections, HTTP, JSON or the
//! disk: it takes commands and `Now`, and gives verdicts and effects.
//!
//! ```text
//!            start         pause          resume        extend         stop
//! created    running       -              -             created        completed
//! running    -             paused         -             running        completed
//! paused     running       -              running       paused         completed
//! completed  -             -              -             -              -
//! expired    -             -              -             -              -
//! ```
//!
//! Invariants: a timer is `running` if and only if its countdown runs; every command first brings the timer to `now`;
//! ticks strictly fall, one for each second told, none doubled; a warning is given once a descent; the end and a
//! scheduled start wait for nothing but a change of the same timer that is on its way to the disk.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Now, WallMs};
use crate::domain::absence::{Absence, Found, Outage};
use crate::domain::countdown::{Countdown, Deadline, Second};
use crate::domain::deadlines::{Alarm, Due, Sleeper};
use crate::domain::effects::{self, Effects, Record, Scribe, Topic};
use crate::domain::events::{Event, Kind};
use crate::domain::history::{self, Actor, Entry};
use crate::domain::staged::{Flight, Hold, Staged};
use crate::limits::TOTAL_S_MAX;

/// What a timer is called by clients: `timer_` and hex digits. Never used twice.
pub type TimerId = Arc<str>;

/// One timer: the fact that is stored, and shown.
#[derive(Clone, Debug, PartialEq)]
pub struct Timer {
    /// Its name to clients.
    pub id: TimerId,
    /// Counts creations; never used twice. Lists are in its order.
    pub serial: u32,
    /// Its name to people.
    pub name: Arc<str>,
    /// Whole seconds at which the clients are warned, in the order given, without repeats.
    pub thresholds: Arc<[u32]>,
    /// Where in its life it is.
    pub state: State,
    /// What is left.
    pub countdown: Countdown,
    /// Seconds it lasts, extensions included.
    pub duration_s: u32,
    /// When it will start by itself, while that lies ahead.
    pub start_at: Option<WallMs>,
    /// When it was created.
    pub created_at: WallMs,
    /// When it first ran.
    pub started_at: Option<WallMs>,
    /// When it was stopped or ran out.
    pub completed_at: Option<WallMs>,
    /// Counts its changes, from 1.
    pub revision: u64,
}

/// Where in its life a timer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not started yet.
    Created,
    /// Counting down.
    Running,
    /// Standing still.
    Paused,
    /// Stopped by hand.
    Completed,
    /// Run out.
    Expired,
}

impl State {
    /// Every state, in the order of a timer's life.
    pub const ALL: [State; 5] = [State::Created, State::Running, State::Paused, State::Completed, State::Expired];

    /// The state's name in the contract.
    pub const fn name(self) -> &'static str {
        match self {
            State::Created => "created",
            State::Running => "running",
            State::Paused => "paused",
            State::Completed => "completed",
            State::Expired => "expired",
        }
    }

    /// The state that `action` leads to, if it is allowed: the table above.
    pub const fn after(self, action: Action) -> Option<State> {
        match (self, action) {
            (State::Created | State::Paused, Action::Start) | (State::Paused, Action::Resume) => Some(State::Running),
            (State::Running, Action::Pause) => Some(State::Paused),
            (State::Created | State::Running | State::Paused, Action::Extend { .. }) => Some(self),
            (State::Created | State::Running | State::Paused, Action::Stop) => Some(State::Completed),
            _ => None,
        }
    }

    /// What a refusal names as possible.
    pub const fn valid_actions(self) -> &'static str {
        match self {
            State::Created => "start, extend, stop",
            State::Running => "pause, extend, stop",
            State::Paused => "resume, extend, stop",
            State::Completed | State::Expired => "",
        }
    }

    /// Over for good.
    pub const fn is_final(self) -> bool {
        matches!(self, State::Completed | State::Expired)
    }
}

/// What an instructor may do to a timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Run, for the first time or again.
    Start,
    /// Stand still.
    Pause,
    /// Run again.
    Resume,
    /// Last longer.
    Extend {
        /// Seconds more, 1..=3600.
        added_s: u32,
    },
    /// End for good.
    Stop,
}

impl Action {
    /// The action's name in the contract.
    pub const fn name(self) -> &'static str {
        match self {
            Action::Start => "start",
            Action::Pause => "pause",
            Action::Resume => "resume",
            Action::Extend { .. } => "extend",
            Action::Stop => "stop",
        }
    }
}

/// What a timer is created from; already checked against the contract's bounds.
#[derive(Clone, Debug, PartialEq)]
pub struct Blueprint {
    /// Its name to people.
    pub name: Arc<str>,
    /// Seconds it lasts.
    pub duration_s: u32,
    /// Warning thresholds in seconds, in the order given, without repeats.
    pub thresholds: Arc<[u32]>,
    /// How it begins.
    pub begin: Begin,
}

/// How a timer begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// When somebody starts it.
    ByHand,
    /// At once.
    Now,
    /// By itself, when the wall clock says so.
    At(WallMs),
}

/// What everybody at a timer hears.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Message {
    /// It runs, for the first time or again.
    Started(Reading),
    /// A second of its grid has passed.
    Tick(Reading),
    /// A threshold was crossed; precedes the tick of that second.
    Warning {
        /// What is left.
        reading: Reading,
        /// Which threshold.
        threshold_s: u32,
    },
    /// It stands still.
    Paused(Reading),
    /// It lasts longer.
    Extended {
        /// What is left now.
        reading: Reading,
        /// Seconds more.
        added_s: u32,
    },
    /// It was ended by hand.
    Stopped(Reading),
    /// It ran out; follows the tick of 0.
    Expired(Reading),
    /// It is gone, and the connection goes with it.
    Deleted,
}

impl Message {
    /// What the timer's face showed when it was said. `None`: it had none any more.
    pub fn reading(&self) -> Option<&Reading> {
        match self {
            Message::Started(reading)
            | Message::Tick(reading)
            | Message::Paused(reading)
            | Message::Stopped(reading)
            | Message::Expired(reading)
            | Message::Warning { reading, .. }
            | Message::Extended { reading, .. } => Some(reading),
            Message::Deleted => None,
        }
    }
}

/// What a timer's face shows at one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Seconds left, rounded up.
    pub remaining_s: u32,
    /// Seconds gone: the duration less what is shown as left.
    pub elapsed_s: u32,
    /// Milliseconds left, rounded up.
    pub remaining_ms: u64,
    /// When this was read.
    pub at: WallMs,
    /// The timer's revision then.
    pub revision: u64,
}

impl Timer {
    /// What its face shows at `now`.
    pub fn reading(&self, now: Now, second: Second) -> Reading {
        let left = self.countdown.left(now);
        let remaining_s = second.ceil(left);
        let elapsed_s = self.duration_s.saturating_sub(remaining_s);
        let (remaining_ms, at, revision) = (second.ms(left), now.wall, self.revision);
        Reading { remaining_s, elapsed_s, remaining_ms, at, revision }
    }

    /// Its end, while running.
    pub fn ends_at(&self) -> Option<WallMs> {
        self.countdown.ends().map(|ends| ends.wall)
    }

    fn topic(&self) -> Topic {
        Topic::Timer(self.serial)
    }

    /// The account of a change that was made `at` some instant, the timer being as it is after it.
    fn account(&self, now: Now, at: WallMs, action: history::Action, actor: &Actor, voice: Voice<'_>) -> Account {
        let reading = self.reading(now, voice.second);
        let told = Told { timer: self, what: What::Changed(&action), reading, actor };
        let event = told.kind().map(|kind| self.event(kind, at, &told, voice));
        let (timer, revision, remaining_ms) = (self.id.clone(), self.revision, reading.remaining_ms);
        Account { entry: Entry { timer, revision, at, action, actor: actor.clone(), remaining_ms }, event }
    }

    fn event(&self, kind: Kind, at: WallMs, told: &Told<'_>, voice: Voice<'_>) -> Event {
        let (source, session) = (voice.source.clone(), Some(self.id.clone()));
        Event { kind, source, session, user: None, payload: (voice.scribe.timer)(told), at }
    }

    /// The scheduled instant has come: it has been running since then.
    fn start_as_scheduled(&mut self, now: Now, at: WallMs) {
        self.countdown.start_at(now, at);
        self.state = State::Running;
        self.started_at = Some(at);
        self.start_at = None;
        self.revision += 1;
    }

    /// Nothing is left: it ended at its true instant, however late that is noticed.
    fn expire(&mut self, ends: Deadline) {
        self.countdown = Countdown::new(Duration::ZERO);
        self.state = State::Expired;
        self.completed_at = Some(ends.wall);
        self.revision += 1;
    }

    /// Carries out an allowed action.
    fn apply(&mut self, now: Now, action: Action, to: State, second: Second) {
        match action {
            Action::Start | Action::Resume => {
                self.countdown.start(now);
                self.started_at.get_or_insert(now.wall);
                self.start_at = None;
            }
            Action::Pause => self.countdown.stop(now),
            Action::Extend { added_s } => {
                self.countdown.extend(second.span(added_s));
                self.duration_s += added_s;
            }
            Action::Stop => {
                self.countdown.stop(now);
                self.completed_at = Some(now.wall);
                self.start_at = None;
            }
        }
        self.state = to;
        self.revision += 1;
    }
}

/// Something that happened to a timer, for those who follow events.
pub struct Told<'a> {
    /// To which, as it is after it.
    pub timer: &'a Timer,
    /// What.
    pub what: What<'a>,
    /// What its face shows then.
    pub reading: Reading,
    /// Who did it.
    pub actor: &'a str,
}

/// What happened to a timer.
pub enum What<'a> {
    /// It was changed, as the history has it.
    Changed(&'a history::Action),
    /// It came down to this threshold, in seconds.
    Warned(u32),
    /// A second of its grid has passed.
    Ticked,
}

impl Told<'_> {
    /// The type of the event. `None`: it is part of another one; a schedule is told with the creation.
    pub fn kind(&self) -> Option<Kind> {
        Some(match self.what {
            What::Warned(_) => Kind::TimerWarning,
            What::Ticked => Kind::TimerTick,
            What::Changed(action) => match action {
                history::Action::Created { .. } => Kind::TimerCreated,
                history::Action::Scheduled { .. } => return None,
                history::Action::Started => Kind::TimerStarted,
                history::Action::Paused => Kind::TimerPaused,
                // A time without the daemon that counts as a pause is over.
                history::Action::Resumed | history::Action::Outage { .. } => Kind::TimerResumed,
                history::Action::Extended { .. } => Kind::TimerExtended,
                history::Action::Stopped => Kind::TimerStopped,
                history::Action::Expired => Kind::TimerExpired,
                history::Action::Deleted => Kind::TimerDeleted,
            },
        })
    }
}

/// How the timers' events are told.
#[derive(Clone, Copy)]
struct Voice<'a> {
    second: Second,
    source: &'a Actor,
    scribe: Scribe,
}

/// A change as it is written: for the history, and for those who follow events.
struct Account {
    entry: Entry,
    event: Option<Event>,
}

impl Account {
    fn records(self) -> impl Iterator<Item = Record> {
        std::iter::once(Record::History(self.entry)).chain(self.event.map(Record::Event))
    }
}

impl Effects {
    /// An account of what a command did.
    fn command_account(&mut self, account: Account) {
        account.records().for_each(|record| self.command(record));
    }

    /// An account of what followed from shown state.
    fn follow_account(&mut self, account: Account) {
        account.records().for_each(|record| self.follow(record));
    }
}

/// Why a command changes nothing.
#[derive(Clone, Debug, PartialEq)]
pub enum Refusal {
    /// No such timer.
    NotFound,
    /// Every place is taken.
    Full,
    /// The timer is not what the caller took it for; its revision is given.
    Changed(u64),
    /// The state does not allow the action.
    WrongState {
        /// What was asked.
        action: Action,
        /// Of a timer in this state.
        state: State,
    },
    /// The extension would make the timer, which is in this state, last longer than any may.
    TooLong(State),
}

/// The judgement of a command: the timer as it will be, or why not; and how long the answer must be held.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The timer after the command (as it was before its deletion), or the refusal.
    pub outcome: Result<Timer, Refusal>,
    /// What must be durable before anybody may be told.
    pub hold: Hold,
}

impl Verdict {
    fn refused(refusal: Refusal, hold: Hold) -> Self {
        Verdict { outcome: Err(refusal), hold }
    }
}

/// What an operator may set.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Timers held, finished ones included.
    pub timers_max: u32,
    /// How long a second lasts.
    pub second: Second,
    /// How the daemon's absence counts.
    pub outage: Outage,
    /// How long a finished timer keeps its place. `None`: until it is deleted.
    pub keep_finished: Option<Duration>,
}

/// All timers.
#[derive(Debug)]
pub struct Timers {
    settings: Settings,
    slots: BTreeMap<u32, Slot>,
    serials: HashMap<TimerId, u32>,
    touched: Flight<Vec<u32>>,
    /// How many of the slots are shown.
    shown: usize,
    serial: u32,
    scheduler: Actor,
    timerd: Actor,
}

/// A timer with what only this run of the daemon knows of it.
#[derive(Debug)]
struct Slot {
    id: TimerId,
    staged: Staged<Timer>,
    /// The lowest second told in this descent: ticks and warnings are for lower ones only.
    told_s: u32,
    alarm: Alarm,
    /// The wall clock was stepped, and the stored name of the end is wrong.
    misnamed: bool,
}

/// What a command is judged against.
struct Latest {
    serial: u32,
    timer: Timer,
    came_due: Option<(Account, Message)>,
}

impl Slot {
    fn new(id: TimerId, staged: Staged<Timer>, told_s: u32) -> Self {
        Slot { id, staged, told_s, alarm: Alarm::default(), misnamed: false }
    }
}

impl Timers {
    /// No timers yet.
    pub fn new(settings: Settings) -> Self {
        Timers {
            settings,
            slots: BTreeMap::new(),
            serials: HashMap::new(),
            touched: Flight::default(),
            shown: 0,
            serial: 0,
            scheduler: Arc::from(history::SCHEDULE),
            timerd: Arc::from(history::TIMERD),
        }
    }

    /// How long a second lasts.
    pub fn second(&self) -> Second {
        self.settings.second
    }

    /// Timers shown.
    pub fn len(&self) -> usize {
        self.shown
    }

    /// No timer is shown.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Something runs, or is about to: the sign of life must be written.
    pub fn is_any_running(&self) -> bool {
        let runs = |timer: Option<&Timer>| timer.is_some_and(|timer| timer.state == State::Running);
        self.slots.values().any(|slot| runs(slot.staged.shown()) || runs(slot.staged.latest()))
    }

    /// Every timer shown, as it is at `now`, in order of creation.
    pub fn shown_all(&mut self, now: Now, fx: &mut Effects) -> impl Iterator<Item = &Timer> {
        let serials: Vec<u32> = self.slots.keys().copied().collect();
        serials.into_iter().for_each(|serial| self.settle(now, serial, fx));
        self.slots.values().filter_map(|slot| slot.staged.shown())
    }

    /// The timer shown under `id`, as it is at `now`.
    pub fn shown(&mut self, now: Now, id: &str, fx: &mut Effects) -> Option<&Timer> {
        let serial = *self.serials.get(id)?;
        self.settle(now, serial, fx);
        self.slots.get(&serial)?.staged.shown()
    }

    /// The timer shown with this serial number, as it is at `now`.
    pub fn shown_by_serial(&mut self, now: Now, serial: u32, fx: &mut Effects) -> Option<&Timer> {
        self.settle(now, serial, fx);
        self.slots.get(&serial)?.staged.shown()
    }

    /// The timer shown with this serial number, as it was last settled.
    pub fn peek(&self, serial: u32) -> Option<&Timer> {
        self.slots.get(&serial)?.staged.shown()
    }

    // -----------------------------------------------------------------------------------------------------------
    // Commands.

    /// Creates a timer. `chance` makes its id hard to guess; the serial number in it makes it unique.
    pub fn create(&mut self, now: Now, plan: Blueprint, chance: u32, actor: &Actor, fx: &mut Effects) -> Verdict {
        let held = self.slots.values().filter(|slot| slot.staged.latest().is_some()).count();
        if held >= self.settings.timers_max as usize {
            return Verdict::refused(Refusal::Full, Hold::Nothing);
        }
        self.serial += 1;
        let serial = self.serial;
        let second = self.settings.second;
        let mut timer = Timer {
            id: Arc::from(format!("timer_{chance:08x}{serial:x}")),
            serial,
            name: plan.name,
            thresholds: plan.thresholds,
            state: State::Created,
            countdown: Countdown::new(second.span(plan.duration_s)),
            duration_s: plan.duration_s,
            start_at: None,
            created_at: now.wall,
            started_at: None,
            completed_at: None,
            revision: 1,
        };
        if let Begin::At(start_at) = plan.begin {
            timer.start_at = Some(start_at);
        }
        let voice = self.voice(fx.scribe);
        let created = history::Action::Created { name: timer.name.clone(), duration_s: timer.duration_s };
        fx.command_account(timer.account(now, now.wall, created, actor, voice));
        match plan.begin {
            Begin::ByHand => {}
            Begin::Now => {
                timer.apply(now, Action::Start, State::Running, second);
                fx.command_account(timer.account(now, now.wall, history::Action::Started, actor, voice));
            }
            Begin::At(start_at) => {
                timer.revision += 1;
                let scheduled = history::Action::Scheduled { start_at };
                fx.command_account(timer.account(now, now.wall, scheduled, actor, voice));
            }
        }
        self.serials.insert(timer.id.clone(), serial);
        self.slots.insert(serial, Slot::new(timer.id.clone(), Staged::unseen(), timer.duration_s));
        self.stage(serial, Some(timer.clone()), fx);
        Verdict { outcome: Ok(timer), hold: Hold::Gathering }
    }

    /// Whether the timer is there and what `expected` takes it for; changes nothing.
    pub fn judge(&mut self, now: Now, id: &str, expected: &dyn Fn(u64) -> bool, fx: &mut Effects) -> Verdict {
        let (latest, hold) = self.latest(now, id, expected, fx);
        Verdict { outcome: latest.map(|latest| latest.timer), hold }
    }

    /// Carries out `action`, if the timer is there, is what `expected` takes it for, and its state allows it.
    pub fn control(
        &mut self,
        now: Now,
        id: &str,
        action: Action,
        expected: &dyn Fn(u64) -> bool,
        actor: &Actor,
        fx: &mut Effects,
    ) -> Verdict {
        let (latest, hold) = self.latest(now, id, expected, fx);
        let Latest { serial, mut timer, came_due } = match latest {
            Ok(latest) => latest,
            Err(refusal) => return Verdict::refused(refusal, hold),
        };
        let state = timer.state;
        let Some(to) = state.after(action) else {
            return Verdict::refused(Refusal::WrongState { action, state }, hold);
        };
        if matches!(action, Action::Extend { added_s } if timer.duration_s + added_s > TOTAL_S_MAX) {
            return Verdict::refused(Refusal::TooLong(state), hold);
        }
        let second = self.settings.second;
        timer.apply(now, action, to, second);
        let reading = timer.reading(now, second);
        let (what, message) = match action {
            Action::Start | Action::Resume if state == State::Paused => {
                (history::Action::Resumed, Message::Started(reading))
            }
            Action::Start | Action::Resume => (history::Action::Started, Message::Started(reading)),
            Action::Pause => (history::Action::Paused, Message::Paused(reading)),
            Action::Extend { added_s } => {
                (history::Action::Extended { added_s }, Message::Extended { reading, added_s })
            }
            Action::Stop => (history::Action::Stopped, Message::Stopped(reading)),
        };
        if let Some((account, message)) = came_due {
            fx.command_account(account);
            fx.announce_when_durable(timer.topic(), effects::Message::Timer(message));
        }
        fx.command_account(timer.account(now, now.wall, what, actor, self.voice(fx.scribe)));
        fx.announce_when_durable(timer.topic(), effects::Message::Timer(message));
        self.stage(serial, Some(timer.clone()), fx);
        Verdict { outcome: Ok(timer), hold: Hold::Gathering }
    }

    /// Deletes the timer, whatever its state, if it is there and what `expected` takes it for.
    pub fn delete(
        &mut self,
        now: Now,
        id: &str,
        expected: &dyn Fn(u64) -> bool,
        actor: &Actor,
        fx: &mut Effects,
    ) -> Verdict {
        let (latest, hold) = self.latest(now, id, expected, fx);
        let Latest { serial, mut timer, came_due } = match latest {
            Ok(latest) => latest,
            Err(refusal) => return Verdict::refused(refusal, hold),
        };
        if let Some((account, message)) = came_due {
            fx.command_account(account);
            fx.announce_when_durable(timer.topic(), effects::Message::Timer(message));
        }
        timer.revision += 1;
        fx.command_account(timer.account(now, now.wall, history::Action::Deleted, actor, self.voice(fx.scribe)));
        fx.announce_when_durable(timer.topic(), effects::Message::Timer(Message::Deleted));
        self.stage(serial, None, fx);
        Verdict { outcome: Ok(timer), hold: Hold::Gathering }
    }

    // -----------------------------------------------------------------------------------------------------------
    // Time.

    /// Whether this alarm is still the timer's own.
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

    /// The wall clock was stepped: ends get new names, scheduled starts new alarms, nothing running is moved.
    pub fn wall_stepped(&mut self, now: Now, fx: &mut Effects) {
        let serials: Vec<u32> = self.slots.keys().copied().collect();
        for serial in serials {
            if let Some(slot) = self.slots.get_mut(&serial) {
                slot.misnamed = true;
                // The alarm in the heap is stale from here on: a scheduled start has moved.
                slot.alarm.cancel();
            }
            self.settle(now, serial, fx);
        }
    }

    /// Finished timers give their place back when they have been kept long enough.
    pub fn upkeep(&mut self, now: Now, fx: &mut Effects) {
        let Some(keep) = self.settings.keep_finished else { return };
        let is_due = |slot: &Slot| {
            let finished = slot.staged.shown().and_then(|timer| timer.completed_at);
            !slot.staged.is_pending() && finished.is_some_and(|at| now.wall.since(at) >= keep)
        };
        let due: Vec<u32> = self.slots.iter().filter(|(_, slot)| is_due(slot)).map(|(serial, _)| *serial).collect();
        for serial in due {
            let Some(mut slot) = self.slots.remove(&serial) else { continue };
            let Some(timer) = slot.staged.shown_mut() else { continue };
            timer.revision += 1;
            let timer = &*timer;
            fx.follow_account(timer.account(
                now,
                now.wall,
                history::Action::Deleted,
                &self.timerd,
                self.voice(fx.scribe),
            ));
            fx.follow(Record::TimerGone(timer.id.clone()));
            fx.announce(timer.topic(), effects::Message::Timer(Message::Deleted));
            self.serials.remove(&timer.id);
            self.shown -= 1;
        }
    }

    /// Brings what is shown of a timer to `now`: what has come due happens, in order, and the next alarm is set.
    fn settle(&mut self, now: Now, serial: u32, fx: &mut Effects) {
        let second = self.settings.second;
        let voice = Voice { second, source: &self.timerd, scribe: fx.scribe };
        let Some(slot) = self.slots.get_mut(&serial) else { return };
        let Some(shown) = slot.staged.shown() else { return };
        let pending = slot.staged.is_pending();
        let topic = shown.topic();

        // A scheduled start and an end wait while a change of the same timer is on its way: it may undo them.
        if !pending && let Some(timer) = slot.staged.shown_mut() {
            if let Some(at) = timer.start_at.filter(|at| *at <= now.wall) {
                timer.start_as_scheduled(now, at);
                // Its end is named after the instant that was set, whatever the clock has done since.
                slot.misnamed = false;
                fx.follow_account(timer.account(now, at, history::Action::Started, &self.scheduler, voice));
                fx.follow(Record::Timer(timer.clone()));
                fx.announce(topic, effects::Message::Timer(Message::Started(timer.reading(now, second))));
            }
            if std::mem::take(&mut slot.misnamed) && timer.countdown.rename_end(now) {
                fx.follow(Record::Timer(timer.clone()));
            }
        }
        let Some(timer) = slot.staged.shown() else { return };
        let reading = timer.reading(now, second);
        let over = timer.countdown.is_over(now);
        if timer.state == State::Running && reading.remaining_s < slot.told_s && !(over && pending) {
            let crossed = timer.thresholds.iter().filter(|at| (reading.remaining_s..slot.told_s).contains(at));
            for &threshold_s in crossed {
                let what = What::Warned(threshold_s);
                let told = Told { timer, what, reading, actor: &self.timerd };
                fx.follow(Record::Event(timer.event(Kind::TimerWarning, now.wall, &told, voice)));
                fx.announce(topic, effects::Message::Timer(Message::Warning { reading, threshold_s }));
            }
            fx.announce(topic, effects::Message::Timer(Message::Tick(reading)));
            slot.told_s = reading.remaining_s;
        }
        if over
            && !pending
            && let Some(timer) = slot.staged.shown_mut()
            && let Some(ends) = timer.countdown.ends()
        {
            timer.expire(ends);
            fx.follow_account(timer.account(now, ends.wall, history::Action::Expired, &self.timerd, voice));
            fx.follow(Record::Timer(timer.clone()));
            fx.announce(topic, effects::Message::Timer(Message::Expired(timer.reading(now, second))));
        }
        self.arm(now, serial, fx);
    }

    /// Sets the alarm for the next thing that time alone brings about.
    fn arm(&mut self, now: Now, serial: u32, fx: &mut Effects) {
        let Some(slot) = self.slots.get_mut(&serial) else { return };
        let Some(timer) = slot.staged.shown() else { return };
        // What waits for the disk is looked at when the disk answers.
        let pending = slot.staged.is_pending();
        let next = match timer.start_at {
            Some(at) if pending && at <= now.wall => None,
            // Only a step of the wall clock moves this alarm; computing it anew would move it by the clocks' jitter.
            Some(at) => slot.alarm.at().or(Some(now.mono_at(at))),
            None if timer.countdown.is_over(now) => None,
            None => timer.countdown.next_tick(now, self.settings.second),
        };
        slot.alarm.set(next, serial, Due::Timer, &mut fx.deadlines);
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
    pub fn commit(&mut self) -> Vec<u32> {
        let touched = std::mem::take(&mut self.touched.writing);
        for serial in &touched {
            let Some(slot) = self.slots.get_mut(serial) else { continue };
            let before_s = slot.staged.commit().map(|before| before.duration_s);
            self.shown = self.shown + usize::from(slot.staged.shown().is_some()) - usize::from(before_s.is_some());
            if let (Some(before_s), Some(shown)) = (before_s, slot.staged.shown()) {
                // An extension lifts the descent, and with it arms the warnings that lie above.
                slot.told_s += shown.duration_s.saturating_sub(before_s);
            }
            self.forget_if_gone(*serial);
        }
        touched
    }

    /// Neither batch will ever be durable. Returns whom to bring to the present.
    #[must_use]
    pub fn undo(&mut self) -> Vec<u32> {
        let Flight { mut gathering, writing } = std::mem::take(&mut self.touched);
        gathering.extend(writing);
        for serial in &gathering {
            if let Some(slot) = self.slots.get_mut(serial) {
                slot.staged.undo();
            }
            self.forget_if_gone(*serial);
        }
        gathering
    }

    /// Brings timers that waited for the disk to `now`.
    pub fn resettle(&mut self, now: Now, serials: Vec<u32>, fx: &mut Effects) {
        serials.into_iter().for_each(|serial| self.settle(now, serial, fx));
    }

    /// Takes up the timers of an earlier run, in order of their serial numbers, of which `serial` was the highest ever
    /// given; the time between counts as the operator wants it.
    pub fn restore(&mut self, now: Now, absence: Absence, serial: u32, timers: Vec<Timer>, fx: &mut Effects) {
        let Settings { second, outage, .. } = self.settings;
        let timerd = self.timerd.clone();
        let voice = Voice { second, source: &timerd, scribe: fx.scribe };
        self.serial = serial;
        for mut timer in timers {
            let found = absence.find(now, outage, timer.countdown);
            match found {
                Found::AsLeft => {}
                Found::Renamed(countdown) => timer.countdown = countdown,
                Found::Frozen(countdown) => {
                    timer.countdown = countdown;
                    timer.revision += 1;
                    let frozen = history::Action::Outage { added_ms: second.ms(absence.away) };
                    fx.follow_account(timer.account(now, now.wall, frozen, &timerd, voice));
                }
                Found::Over(ends) => {
                    timer.expire(ends);
                    fx.follow_account(timer.account(now, ends.wall, history::Action::Expired, &timerd, voice));
                }
            }
            if found != Found::AsLeft {
                fx.follow(Record::Timer(timer.clone()));
            }
            let serial = timer.serial;
            // What was crossed while away is not told, after a start that was due then no more than otherwise.
            let mut present = timer.clone();
            if let Some(at) = present.start_at.filter(|at| *at <= now.wall) {
                present.start_as_scheduled(now, at);
            }
            let told_s = present.reading(now, second).remaining_s;
            self.serials.insert(timer.id.clone(), serial);
            self.slots.insert(serial, Slot::new(timer.id.clone(), Staged::durable(timer), told_s));
            self.shown += 1;
            self.settle(now, serial, fx);
        }
    }

    // -----------------------------------------------------------------------------------------------------------

    /// The latest state of a timer, brought to `now`, if it is there and what `expected` takes it for; and how long
    /// an answer about that must be held.
    fn latest(
        &mut self,
        now: Now,
        id: &str,
        expected: &dyn Fn(u64) -> bool,
        fx: &mut Effects,
    ) -> (Result<Latest, Refusal>, Hold) {
        let Some(&serial) = self.serials.get(id) else { return (Err(Refusal::NotFound), Hold::Nothing) };
        self.settle(now, serial, fx);
        let hold = self.slots.get(&serial).map_or(Hold::Nothing, |slot| slot.staged.hold());
        match self.latest_at(now, serial, fx.scribe) {
            None => (Err(Refusal::NotFound), hold),
            Some(latest) if !expected(latest.timer.revision) => (Err(Refusal::Changed(latest.timer.revision)), hold),
            Some(latest) => (Ok(latest), hold),
        }
    }

    /// Only a state that still waits for the disk can lag behind `now` once its timer is settled: what time alone has
    /// brought about in it goes along with the next command. An end in it makes every action a refusal, and needs no
    /// entry: it will follow when the state is shown.
    fn latest_at(&self, now: Now, serial: u32, scribe: Scribe) -> Option<Latest> {
        let second = self.settings.second;
        let mut timer = self.slots.get(&serial)?.staged.latest()?.clone();
        let mut came_due = None;
        if let Some(at) = timer.start_at.filter(|at| *at <= now.wall) {
            timer.start_as_scheduled(now, at);
            let account = timer.account(now, at, history::Action::Started, &self.scheduler, self.voice(scribe));
            came_due = Some((account, Message::Started(timer.reading(now, second))));
        }
        if timer.countdown.is_over(now) {
            timer.state = State::Expired;
        }
        Some(Latest { serial, timer, came_due })
    }

    fn voice(&self, scribe: Scribe) -> Voice<'_> {
        Voice { second: self.settings.second, source: &self.timerd, scribe }
    }

    fn stage(&mut self, serial: u32, next: Option<Timer>, fx: &mut Effects) {
        let Some(slot) = self.slots.get_mut(&serial) else { return };
        fx.command(match &next {
            Some(timer) => Record::Timer(timer.clone()),
            None => Record::TimerGone(slot.id.clone()),
        });
        if slot.staged.hold() != Hold::Gathering {
            self.touched.gathering.push(serial);
        }
        slot.staged.stage(next);
    }

    fn forget_if_gone(&mut self, serial: u32) {
        if self.slots.get(&serial).is_some_and(|slot| slot.staged.is_gone())
            && let Some(slot) = self.slots.remove(&serial)
        {
            self.serials.remove(&slot.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Mono;
    use crate::domain::Engine;
    use crate::domain::disk::Image;

    const S: u64 = 1_000_000_000;
    const MS: u64 = 1_000_000;
    /// 2026-01-15T10:00:00Z.
    const EPOCH_MS: i64 = 1_768_471_200_000;

    /// An engine, its clock, and everything it has said.
    struct Room {
        engine: Engine,
        now_ns: u64,
        wall_ms: i64,
        said: Vec<(u64, Message)>,
        history: Vec<Entry>,
        events: Vec<Event>,
        durable: BTreeMap<u32, Timer>,
        alive: Now,
    }

    impl Room {
        fn new() -> Self {
            Room::with(Outage::RunOn)
        }

        fn with(outage: Outage) -> Self {
            let settings = Settings { timers_max: 1000, second: Second::REAL, outage, keep_finished: None };
            Room {
                engine: Engine::new(settings, Default::default(), Default::default(), Effects::default().scribe),
                now_ns: 100 * S,
                wall_ms: EPOCH_MS,
                said: Vec::new(),
                history: Vec::new(),
                events: Vec::new(),
                durable: BTreeMap::new(),
                alive: Now::default(),
            }
        }

        fn now(&self) -> Now {
            Now { mono: Mono::from_ns(self.now_ns), wall: WallMs::from_ms(self.wall_ms) }
        }

        fn hear(&mut self) {
            for announcement in self.engine.fx.announcements.drain(..) {
                let effects::Message::Timer(message) = announcement.message else { continue };
                self.said.push((self.now_ns, message));
            }
        }

        /// Time passes; deadlines are served at their instants.
        fn pass(&mut self, ns: u64) {
            let end = self.now_ns + ns;
            loop {
                let next = self.engine.fx.deadlines.next().map_or(end, |at| at.ns().max(self.now_ns)).min(end);
                self.step_to(next);
                while let Some((_, Due::Timer(sleeper))) = self.engine.fx.deadlines.pop(self.now().mono) {
                    let now = self.now();
                    self.engine.timers.wake(now, sleeper, &mut self.engine.fx);
                }
                self.hear();
                if next == end {
                    return;
                }
            }
        }

        fn step_to(&mut self, ns: u64) {
            // The wall clock shows whole milliseconds of the same time.
            self.wall_ms += i64::try_from(ns / MS).unwrap() - i64::try_from(self.now_ns / MS).unwrap();
            self.now_ns = ns;
        }

        /// What has gathered becomes durable at once.
        fn commit(&mut self) {
            let now = self.now();
            let batch = self.engine.hand_over(now);
            self.alive = batch.alive;
            for record in batch.follows.into_iter().chain(batch.commands) {
                match record {
                    Record::Timer(timer) => _ = self.durable.insert(timer.serial, timer),
                    Record::TimerGone(id) => self.durable.retain(|_, timer| timer.id != id),
                    Record::History(entry) => self.history.push(entry),
                    Record::Event(event) => self.events.push(event),
                    _ => {}
                }
            }
            self.engine.commit(now, 0);
            self.hear();
        }

        fn create_pending(&mut self, duration_s: u32, thresholds: &[u32], begin: Begin) -> Timer {
            let plan = Blueprint { name: "T".into(), duration_s, thresholds: thresholds.into(), begin };
            let (now, actor) = (self.now(), Arc::from("tester"));
            self.engine.timers.create(now, plan, 0xabcd, &actor, &mut self.engine.fx).outcome.unwrap()
        }

        fn create(&mut self, duration_s: u32, thresholds: &[u32], begin: Begin) -> TimerId {
            let id = self.create_pending(duration_s, thresholds, begin).id;
            self.commit();
            id
        }

        fn act_pending(&mut self, id: &str, action: Action) -> Verdict {
            let (now, actor) = (self.now(), Arc::from("tester"));
            self.engine.timers.control(now, id, action, &|_| true, &actor, &mut self.engine.fx)
        }

        fn act(&mut self, id: &str, action: Action) -> Result<Timer, Refusal> {
            let verdict = self.act_pending(id, action);
            self.commit();
            verdict.outcome
        }

        fn shown(&mut self, id: &str) -> Timer {
            let now = self.now();
            let timer = self.engine.timers.shown(now, id, &mut self.engine.fx).unwrap().clone();
            self.hear();
            timer
        }

        fn ticks(&self) -> Vec<u32> {
            let tick = |(_, message): &(u64, Message)| match message {
                Message::Tick(reading) => Some(reading.remaining_s),
                _ => None,
            };
            self.said.iter().filter_map(tick).collect()
        }

        fn warnings(&self) -> Vec<(u32, u32)> {
            let warning = |(_, message): &(u64, Message)| match message {
                Message::Warning { reading, threshold_s } => Some((reading.remaining_s, *threshold_s)),
                _ => None,
            };
            self.said.iter().filter_map(warning).collect()
        }

        /// The daemon dies now, and is back after so long, on the same boot or on another.
        fn restart(&mut self, away_ns: u64, same_boot: bool) {
            self.step_to(self.now_ns + away_ns);
            if !same_boot {
                self.now_ns = 5 * S + self.now_ns % S;
            }
            let Settings { outage, .. } = self.engine.timers.settings;
            let mut fresh = Room::with(outage).engine;
            let timers = self.durable.values().cloned().collect();
            let serial = self.durable.keys().max().copied().unwrap_or(0);
            let alive = Some(self.alive);
            let image = Image { batch: 7, alive, same_boot, serial, timers, ..Image::default() };
            fresh.restore(self.now(), image);
            self.engine = fresh;
            self.said.clear();
            self.hear();
            self.commit();
        }
    }

    #[test]
    fn the_state_table_is_the_contracts() {
        use State::{Completed, Created, Expired, Paused, Running};
        let extend = Action::Extend { added_s: 1 };
        let actions = [Action::Start, Action::Pause, Action::Resume, extend, Action::Stop];
        let rows = [
            (Created, [Some(Running), None, None, Some(Created), Some(Completed)]),
            (Running, [None, Some(Paused), None, Some(Running), Some(Completed)]),
            (Paused, [Some(Running), None, Some(Running), Some(Paused), Some(Completed)]),
            (Completed, [None; 5]),
            (Expired, [None; 5]),
        ];
        for (state, row) in rows {
            for (action, after) in actions.into_iter().zip(row) {
                assert_eq!(state.after(action), after, "{action:?} in {state:?}");
            }
        }
    }

    #[test]
    fn a_day_of_ticks_with_pauses_at_odd_milliseconds() {
        let mut room = Room::new();
        let id = room.create(86_400, &[], Begin::ByHand);
        let begun = room.now_ns;
        let mut paused_ns = 0;
        for round in 0..50_u64 {
            room.act(&id, Action::Start).unwrap();
            room.pass(1_000 * S + (round * 7_919 % 1_000) * MS + round);
            room.act(&id, Action::Pause).unwrap();
            let pause = (round * 104_729 % 5_000) * MS + 3;
            room.pass(pause);
            paused_ns += pause;
        }
        room.act(&id, Action::Resume).unwrap();
        room.pass(90_000 * S);
        assert_eq!(room.ticks(), (0..86_400).rev().collect::<Vec<_>>(), "one a second, none doubled, none missing");
        let (expired_ns, _) = room.said.last().unwrap();
        assert_eq!(*expired_ns, begun + 86_400 * S + paused_ns, "ends exactly where arithmetic says");
        assert_eq!(room.shown(&id).state, State::Expired);
    }

    #[test]
    fn never_one_nanosecond_early() {
        let mut room = Room::new();
        let id = room.create(3, &[], Begin::Now);
        room.pass(3 * S - 1);
        assert_eq!(room.shown(&id).state, State::Running);
        assert_eq!(room.ticks(), [2, 1]);
        room.pass(1);
        assert_eq!(room.shown(&id).state, State::Expired);
        assert_eq!(room.ticks(), [2, 1, 0]);
        assert!(matches!(room.said.last(), Some((_, Message::Expired(_)))), "after the tick of 0");
    }

    #[test]
    fn a_warning_is_given_once_a_descent_and_before_its_tick() {
        let mut room = Room::new();
        let id = room.create(10, &[10, 5, 7, 100], Begin::Now);
        room.pass(6 * S);
        assert_eq!(room.warnings(), [(7, 7), (5, 5)], "the duration itself and what lies above never fire");
        let at = |wanted: fn(&Message) -> bool| room.said.iter().position(|(_, message)| wanted(message)).unwrap();
        let warned = at(|message| matches!(message, Message::Warning { threshold_s: 7, .. }));
        assert!(warned < at(|message| matches!(message, Message::Tick(reading) if reading.remaining_s == 7)));
        room.act(&id, Action::Pause).unwrap();
        room.act(&id, Action::Resume).unwrap();
        room.pass(S);
        assert_eq!(room.warnings().len(), 2, "a pause does not repeat it");
        room.act(&id, Action::Extend { added_s: 3 }).unwrap();
        room.pass(8 * S);
        assert_eq!(room.warnings()[2..], [(5, 5)], "an extension from 3 to 6 arms 5 again, and not 7");
    }

    #[test]
    fn a_late_turn_tells_one_true_tick() {
        let mut room = Room::new();
        let id = room.create(60, &[58, 55], Begin::Now);
        room.step_to(room.now_ns + 6 * S + 500 * MS);
        room.pass(0);
        assert_eq!(room.ticks(), [54]);
        assert_eq!(room.warnings(), [(54, 58), (54, 55)]);
        room.pass(S);
        assert_eq!(room.ticks(), [54, 53], "back on the grid");
        assert_eq!(room.shown(&id).reading(room.now(), Second::REAL).remaining_ms, 52_500);
    }

    #[test]
    fn a_command_read_after_the_end_meets_an_ended_timer() {
        let mut room = Room::new();
        let id = room.create(5, &[], Begin::Now);
        room.step_to(room.now_ns + 5 * S);
        let refusal = room.act(&id, Action::Extend { added_s: 60 }).unwrap_err();
        assert_eq!(refusal, Refusal::WrongState { action: Action::Extend { added_s: 60 }, state: State::Expired });
        assert_eq!(room.ticks(), [0]);
    }

    #[test]
    fn nothing_is_shown_before_it_is_durable_and_nothing_is_left_when_it_never_is() {
        let mut room = Room::new();
        let id = room.create(60, &[], Begin::ByHand);
        let verdict = room.act_pending(&id, Action::Start);
        assert_eq!(verdict.hold, Hold::Gathering);
        assert_eq!(room.shown(&id).state, State::Created);
        assert!(room.said.is_empty());
        let now = room.now();
        let batch = room.engine.hand_over(now);
        // Judged on top of what is on its way, and held with it.
        let refused = room.act_pending(&id, Action::Start);
        assert!(matches!(refused.outcome, Err(Refusal::WrongState { state: State::Running, .. })));
        assert_eq!(refused.hold, Hold::Writing);
        let paused = room.act_pending(&id, Action::Pause);
        assert_eq!(paused.outcome.unwrap().state, State::Paused);
        room.engine.undo(now, batch);
        room.pass(2 * S);
        assert_eq!(room.shown(&id).state, State::Created);
        assert_eq!(room.shown(&id).revision, 1);
        assert!(room.said.is_empty());
        assert_eq!(room.engine.fx.gathered(), 0);
    }

    #[test]
    fn the_end_waits_for_a_change_of_the_same_timer_and_for_nothing_else() {
        let mut room = Room::new();
        let (waits, other) = (room.create(5, &[], Begin::Now), room.create(5, &[], Begin::Now));
        room.pass(4 * S);
        room.act_pending(&waits, Action::Extend { added_s: 10 }).outcome.unwrap();
        let now = room.now();
        let batch = room.engine.hand_over(now);
        room.pass(2 * S);
        assert_eq!(room.shown(&waits).state, State::Running, "its end may have been moved");
        assert_eq!(room.shown(&other).state, State::Expired);
        let expired = room.ticks().iter().filter(|tick| **tick == 0).count();
        assert_eq!(expired, 1);
        // The batch fails: the end comes after all, at its true instant.
        let now = room.now();
        room.engine.undo(now, batch);
        room.hear();
        let ended = room.shown(&waits);
        assert_eq!(ended.state, State::Expired);
        assert_eq!(ended.completed_at, Some(WallMs::from_ms(EPOCH_MS + 5_000)));
    }

    #[test]
    fn a_change_twice_in_one_batch_is_two_revisions_and_one_state() {
        let mut room = Room::new();
        let id = room.create(60, &[], Begin::ByHand);
        room.act_pending(&id, Action::Extend { added_s: 5 }).outcome.unwrap();
        room.act_pending(&id, Action::Extend { added_s: 5 }).outcome.unwrap();
        room.commit();
        assert_eq!((room.shown(&id).duration_s, room.shown(&id).revision), (70, 3));
        assert_eq!(room.history.iter().map(|entry| entry.revision).collect::<Vec<_>>(), [1, 2, 3]);
    }

    #[test]
    fn a_scheduled_start_ends_on_the_dot_also_when_late() {
        let mut room = Room::new();
        let start_at = WallMs::from_ms(EPOCH_MS + 10_500);
        let id = room.create(60, &[], Begin::At(start_at));
        assert_eq!((room.shown(&id).revision, room.shown(&id).start_at), (2, Some(start_at)));
        room.step_to(room.now_ns + 12 * S);
        room.pass(0);
        let timer = room.shown(&id);
        assert_eq!((timer.state, timer.started_at, timer.start_at), (State::Running, Some(start_at), None));
        assert_eq!(timer.ends_at(), Some(start_at + Duration::from_secs(60)));
        room.pass(58 * S + 499 * MS);
        assert_eq!(room.shown(&id).state, State::Running);
        room.pass(MS);
        assert_eq!(room.shown(&id).state, State::Expired);
        room.commit();
        let actors: Vec<_> = room.history.iter().map(|entry| (entry.action.name(), &*entry.actor)).collect();
        assert_eq!(
            actors,
            [("created", "tester"), ("scheduled", "tester"), ("started", "schedule"), ("expired", "timerd")]
        );
    }

    #[test]
    fn a_step_of_the_wall_clock_moves_scheduled_starts_and_nothing_that_runs() {
        let mut room = Room::new();
        let runs = room.create(3_600, &[], Begin::Now);
        let waits = room.create(60, &[], Begin::At(WallMs::from_ms(EPOCH_MS + 100_000)));
        let now = room.now();
        assert_eq!(room.engine.observe(now), None);
        room.wall_ms += 95_000;
        let now = room.now();
        assert_eq!(room.engine.observe(now), Some(95_000));
        assert_eq!(room.shown(&runs).countdown.left(room.now()), Duration::from_secs(3_600));
        assert_eq!(room.shown(&runs).ends_at(), Some(WallMs::from_ms(EPOCH_MS + 95_000 + 3_600_000)));
        assert_eq!(room.shown(&runs).revision, 2, "a new name is no change");
        room.pass(4_999 * MS);
        assert_eq!(room.shown(&waits).state, State::Created);
        room.pass(MS);
        assert_eq!(room.shown(&waits).state, State::Running);
    }

    #[test]
    fn a_restart_within_a_boot_changes_nothing_that_runs() {
        let mut room = Room::new();
        let id = room.create(60, &[50], Begin::Now);
        let ends_at = room.shown(&id).ends_at();
        let short = room.create(5, &[], Begin::Now);
        room.pass(S);
        room.restart(15 * S + 300 * MS, true);
        assert_eq!(room.shown(&id).ends_at(), ends_at);
        assert_eq!(room.shown(&id).revision, 2);
        assert_eq!(room.shown(&id).countdown.left(room.now()), Duration::from_millis(43_700));
        assert!(room.warnings().is_empty(), "what was crossed while away is not told");
        let ended = room.shown(&short);
        assert_eq!(ended.state, State::Expired);
        assert_eq!(ended.completed_at, Some(WallMs::from_ms(EPOCH_MS + 5_000)), "at its true instant");
        room.pass(700 * MS);
        assert_eq!(room.ticks(), [43], "on the old grid");
    }

    #[test]
    fn a_reboot_leaves_the_wall_clock_and_a_clock_gone_back_adds_nothing() {
        let mut room = Room::new();
        let id = room.create(600, &[], Begin::Now);
        let ends_at = room.shown(&id).ends_at();
        room.restart(100 * S, false);
        assert_eq!(room.shown(&id).ends_at(), ends_at);
        // The wall clock was read in whole milliseconds: one more, so that it is never early.
        assert_eq!(room.shown(&id).countdown.left(room.now()), Duration::from_millis(500_001));
        room.commit();
        room.wall_ms -= 3_600_000;
        room.restart(0, false);
        assert_eq!(room.shown(&id).countdown.left(room.now()), Duration::from_millis(500_001), "an outage of 0");
    }

    #[test]
    fn a_step_that_meets_a_change_on_its_way_to_the_disk_moves_no_end() {
        let mut room = Room::new();
        let id = room.create(600, &[], Begin::Now);
        let now = room.now();
        assert_eq!(room.engine.observe(now), None);
        // The record is made before the clock is set back an hour, the batch and its sign of life after.
        room.act_pending(&id, Action::Extend { added_s: 60 }).outcome.unwrap();
        room.wall_ms -= 3_600_000;
        let now = room.now();
        assert_eq!(room.engine.observe(now), Some(-3_600_000));
        room.commit();
        // The machine dies before the new name of the end is durable.
        room.restart(10 * S, false);
        assert_eq!(room.shown(&id).countdown.left(room.now()), Duration::from_millis(650_001));
        assert_eq!(room.shown(&id).ends_at(), Some(WallMs::from_ms(EPOCH_MS - 3_600_000 + 660_000)));
    }

    #[test]
    fn frozen_time_is_given_back() {
        let mut room = Room::with(Outage::Freeze);
        let (long, short) = (room.create(60, &[], Begin::Now), room.create(5, &[], Begin::Now));
        room.pass(2 * S);
        room.commit();
        room.restart(100 * S, true);
        for (id, left_s) in [(&long, 58), (&short, 3)] {
            let timer = room.shown(id);
            assert_eq!(timer.state, State::Running);
            assert_eq!(timer.countdown.left(room.now()), Duration::from_secs(left_s));
            assert_eq!(timer.revision, 3);
        }
        let outage = history::Action::Outage { added_ms: 100_000 };
        assert_eq!(room.history.iter().filter(|entry| entry.action == outage).count(), 2);
        room.pass(3 * S);
        assert_eq!(room.shown(&short).state, State::Expired);
        // An end before the last sign of life stays an end.
        let mut room = Room::with(Outage::Freeze);
        let id = room.create(5, &[], Begin::Now);
        room.step_to(room.now_ns + 6 * S);
        room.alive = room.now();
        room.restart(100 * S, true);
        assert_eq!(room.shown(&id).completed_at, Some(WallMs::from_ms(EPOCH_MS + 5_000)));
    }

    #[test]
    fn every_change_is_told_as_an_event_of_the_same_commit() {
        let mut room = Room::new();
        let id = room.create(3, &[2], Begin::At(WallMs::from_ms(EPOCH_MS + 2_000)));
        room.pass(3 * S);
        room.commit();
        for action in [Action::Pause, Action::Resume, Action::Extend { added_s: 1 }] {
            assert!(room.act_pending(&id, action).outcome.is_ok());
            room.commit();
        }
        room.pass(5 * S);
        room.commit();
        let told: Vec<Kind> = room.events.iter().map(|event| event.kind).collect();
        let expected = [
            Kind::TimerCreated,
            Kind::TimerStarted,
            Kind::TimerWarning,
            Kind::TimerPaused,
            Kind::TimerResumed,
            Kind::TimerExtended,
            // The extension lifted the descent above the threshold, so that it is crossed again.
            Kind::TimerWarning,
            Kind::TimerExpired,
        ];
        assert_eq!(told, expected);
        assert!(room.events.iter().all(|event| event.session.as_deref() == Some(&*id) && &*event.source == "timerd"));
        // Each at its true instant, as the history has it.
        assert_eq!(room.events[1].at, WallMs::from_ms(EPOCH_MS + 2_000));
        assert_eq!(room.events.last().unwrap().at, room.history.last().unwrap().at);
    }

    #[test]
    fn finished_timers_give_their_place_back() {
        let mut room = Room::new();
        room.engine.timers.settings.keep_finished = Some(Duration::from_secs(10));
        let (ended, runs) = (room.create(5, &[], Begin::Now), room.create(60, &[], Begin::Now));
        room.pass(14 * S);
        let now = room.now();
        room.engine.upkeep(now);
        assert_eq!(room.shown(&ended).state, State::Expired);
        room.pass(S);
        let now = room.now();
        room.engine.upkeep(now);
        assert!(room.engine.timers.shown(now, &ended, &mut room.engine.fx).is_none());
        assert_eq!(room.shown(&runs).state, State::Running);
        room.commit();
        assert_eq!(room.durable.len(), 1);
        assert_eq!(room.history.last().unwrap().action, history::Action::Deleted);
    }

    #[test]
    fn every_place_taken_is_a_refusal_and_ids_differ() {
        let mut room = Room::new();
        room.engine.timers.settings.timers_max = 3;
        let ids: Vec<_> = (0..3).map(|_| room.create(5, &[], Begin::ByHand)).collect();
        assert_eq!(ids.iter().collect::<std::collections::HashSet<_>>().len(), 3);
        let plan = Blueprint { name: "T".into(), duration_s: 1, thresholds: [].into(), begin: Begin::ByHand };
        let (now, actor) = (room.now(), Arc::from("tester"));
        let verdict = room.engine.timers.create(now, plan, 1, &actor, &mut room.engine.fx);
        assert_eq!(verdict.outcome.unwrap_err(), Refusal::Full);
    }

    #[test]
    fn a_timer_cannot_last_for_ever() {
        let mut room = Room::new();
        let id = room.create(86_400, &[], Begin::ByHand);
        let step = Action::Extend { added_s: 3_600 };
        let extended = (0..20_000).take_while(|_| room.act_pending(&id, step).outcome.is_ok()).count();
        assert_eq!(extended, ((TOTAL_S_MAX - 86_400) / 3_600) as usize);
        assert_eq!(room.act_pending(&id, step).outcome.unwrap_err(), Refusal::TooLong(State::Created));
    }

    #[test]
    fn reads_of_a_waiting_timer_set_no_new_alarms() {
        let mut room = Room::new();
        let id = room.create(60, &[], Begin::At(WallMs::from_ms(EPOCH_MS + 86_400_000)));
        for _ in 0..100 {
            room.step_to(room.now_ns + 1_234_567);
            room.shown(&id);
        }
        assert_eq!(room.engine.fx.deadlines.len(), 1);
    }
}
