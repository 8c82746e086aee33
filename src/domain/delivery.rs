//! Delivery: all sessions, under deadlines that nobody but the server owns.
//!
//! Owns every [`Session`], who is sitting what, and how a change finds its way: judged against the latest state, put
//! into the batch with its answers and events, shown when it is durable. It must not know connections, HTTP, JSON or
//! the disk: it takes deeds and `Now`, and gives verdicts and effects. What a session allows, and what time makes of
//! it, is [`super::session`]'s.
//!
//! Invariants: every deed first brings the session to `now`; what time brings about waits for nothing but a change of
//! the same session that is on its way to the disk; the grace counts no time in which a hand-in could not have been
//! taken.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Mono, Now, WallMs};
use crate::domain::absence::{Absence, Outage};
use crate::domain::assessments::{Assessment, Candidate, Catalogue, Dice, Factor};
use crate::domain::beats::{Beat, Beats, Tick};
use crate::domain::countdown::{Countdown, Deadline, Second};
use crate::domain::deadlines::{Alarm, Due, Sleeper};
use crate::domain::effects::{self, Effects, Record, Scribe, Topic};
use crate::domain::events::Event;
use crate::domain::hearing::Hearing;
use crate::domain::history::{Actor, TIMERD};
use crate::domain::session::Account;
pub use crate::domain::session::{
    Application, Deed, Mark, Message, Part, Refusal, Session, SessionId, State, Told, Verb, Way, What,
};
use crate::domain::staged::{Flight, Hold, Staged};
use crate::limits::{
    CANDIDATE_CALLS_BURST, CANDIDATE_CALLS_PER_S, KEEP_FINISHED_DEFAULT, SESSIONS_MAX_DEFAULT, SESSIONS_PER_CANDIDATE,
};

/// The judgement of a deed: the session as it will be, or why not; and how long the answer must be held.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The session after the deed, or the refusal.
    pub outcome: Result<Arc<Session>, Refusal>,
    /// What must be durable before anybody may be told.
    pub hold: Hold,
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
    /// By assessment and candidate.
    by_candidate: HashMap<(Arc<str>, Arc<str>), BTreeSet<u32>>,
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
    hearing: Hearing,
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
    alarm: Alarm,
    /// Somebody listens: he is told the time.
    is_heard: bool,
    beat: Option<Beat>,
    /// What its grace was prolonged by, since this daemon began.
    given: Duration,
    /// When the candidate was last heard of.
    seen_at: Option<WallMs>,
    /// When he would have asked so much at the allowed pace.
    pace: Mono,
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
            alarm: Alarm::default(),
            is_heard: false,
            beat: None,
            given: Duration::ZERO,
            seen_at: None,
            pace: Mono::default(),
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
            hearing: Hearing::default(),
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

    /// Sessions that time moves.
    pub fn running(&self) -> usize {
        self.awake
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

    /// Counts a call of the candidate. `false`: he asks too much.
    pub fn keeps_pace(&mut self, now: Now, serial: u32) -> bool {
        const STEP: Duration = Duration::from_nanos(1_000_000_000 / CANDIDATE_CALLS_PER_S as u64);
        const AHEAD_MAX: Duration =
            Duration::from_nanos(1_000_000_000 / CANDIDATE_CALLS_PER_S as u64 * CANDIDATE_CALLS_BURST as u64);
        let Some(slot) = self.slots.get_mut(&serial) else { return true };
        let pace = slot.pace.max(now.mono) + STEP;
        let keeps = pace.since(now.mono) <= AHEAD_MAX;
        if keeps {
            slot.pace = pace;
        }
        keeps
    }

    /// Since when hand-ins would be in vain, if they would.
    pub fn deaf_since(&self) -> Option<Mono> {
        self.hearing.deaf_since()
    }

    /// How long an answer about the latest state of a session must be held: whether a change of it is on its way.
    pub fn hold_of(&self, id: &str) -> Hold {
        let slot = self.serials.get(id).and_then(|serial| self.slots.get(serial));
        slot.map_or(Hold::Nothing, |slot| slot.staged.hold())
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
            let (is_active, held) = self.is_active(now, serial, fx);
            if is_active == Some(true) {
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
            let serials = self.by_candidate.get(&key).cloned().unwrap_or_default();
            for serial in serials {
                let (is_active, held) = self.is_active(now, serial, fx);
                hold = hold.max(held);
                match is_active {
                    Some(true) => {
                        let Some(slot) = self.slots.get(&serial) else { continue };
                        return refused(Refusal::Sitting(slot.id.clone()), hold);
                    }
                    Some(false) => ended += 1,
                    None => {}
                }
            }
            if ended >= most {
                return refused(Refusal::AttemptsUsed, hold);
            }
        }
        let key = (assessment.id.clone(), Arc::from(asked.candidate));
        let has_many = self.by_candidate.get(&key).is_some_and(|serials| serials.len() >= SESSIONS_PER_CANDIDATE);
        if has_many && self.count_active(&key) >= SESSIONS_PER_CANDIDATE {
            return refused(Refusal::TooManyAtOnce, hold);
        }
        if self.slots.len() >= self.settings.sessions_max as usize && !self.make_room(fx) {
            return refused(Refusal::Full, hold);
        }
        self.serial += 1;
        let session = Session::new(now, self.serial, assessment, asked, factor, self.settings.second, dice);
        let serial = session.serial;
        let events = [What::Created, What::Started, What::Viewed(session.place)].map(|what| (now.wall, what));
        let account = Account { events: events.into(), ..Account::default() };
        self.admit(&session, Staged::unseen());
        self.seen(now, serial);
        Verdict { outcome: Ok(self.stage(serial, now, session, account, actor, fx)), hold: Hold::Gathering }
    }

    /// Carries out `deed` on the session with this serial number, if it is there and allows it.
    pub fn act(&mut self, now: Now, serial: u32, deed: Deed, actor: &Actor, fx: &mut Effects) -> Verdict {
        let (latest, hold) = self.latest(now, serial, fx);
        let Some(Latest { serial, mut session, mut account }) = latest else {
            return Verdict { outcome: Err(Refusal::NotFound), hold };
        };
        match session.apply(now, deed, self.settings.second, &mut account) {
            Ok(()) => {
                Verdict { outcome: Ok(self.stage(serial, now, session, account, actor, fx)), hold: Hold::Gathering }
            }
            Err(refusal) => Verdict { outcome: Err(refusal), hold },
        }
    }

    /// Sessions of an assessment that are not over, in order of start; and how long an answer about that must be held:
    /// the end of one that is left out may be on its way.
    pub fn active_of(&mut self, now: Now, assessment: &str, fx: &mut Effects) -> (Vec<(u32, SessionId)>, Hold) {
        let serials: Vec<u32> = self.by_assessment.get(assessment).into_iter().flatten().copied().collect();
        let (mut active, mut hold) = (Vec::new(), Hold::Nothing);
        for serial in serials {
            let (is_active, held) = self.is_active(now, serial, fx);
            hold = hold.max(held);
            if let Some(slot) = self.slots.get(&serial).filter(|_| is_active == Some(true)) {
                active.push((serial, slot.id.clone()));
            }
        }
        (active, hold)
    }

    /// The latest state of a session, for an answer that changes nothing; and how long that must be held.
    pub fn look(&mut self, now: Now, serial: u32, fx: &mut Effects) -> (Option<Session>, Hold) {
        let (latest, hold) = self.latest(now, serial, fx);
        (latest.map(|latest| latest.session), hold)
    }

    /// Whether the latest state of a session, brought to `now`, is not over; and how long an answer about that must be
    /// held. Without a copy of it: there may be a hundred thousand.
    fn is_active(&mut self, now: Now, serial: u32, fx: &mut Effects) -> (Option<bool>, Hold) {
        self.settle(now, serial, fx);
        let Some(slot) = self.slots.get(&serial) else { return (None, Hold::Nothing) };
        let hold = slot.staged.hold();
        let Some(latest) = slot.staged.latest() else { return (None, hold) };
        let is_moved = hold != Hold::Nothing && latest.next_end(true).is_some_and(|at| at.mono <= now.mono);
        if !is_moved {
            return (Some(latest.state.is_active()), hold);
        }
        (self.latest(now, serial, fx).0.map(|latest| latest.session.state.is_active()), hold)
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
        self.pass(&mut session, now, slot.given, &mut account);
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
        self.slots.get(&sleeper.number).is_some_and(|slot| slot.alarm.is(sleeper))
    }

    /// An alarm went off.
    pub fn wake(&mut self, now: Now, sleeper: Sleeper, fx: &mut Effects) {
        let Some(slot) = self.slots.get_mut(&sleeper.number) else { return };
        if slot.alarm.goes_off(sleeper) {
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

    /// No hand-in can be taken: graces stand still.
    pub fn fall_deaf(&mut self, now: Now) {
        self.hearing.hung(now.mono);
    }

    /// Ended sessions leave the memory when they have been kept long enough, some at a time.
    pub fn upkeep(&mut self, now: Now, fx: &mut Effects) {
        const GONE_AT_ONCE: usize = 1_000;
        let Some(keep) = self.settings.keep_finished else { return };
        let due = self.over.iter().take_while(|(ended, _)| now.wall.since(*ended) >= keep).take(GONE_AT_ONCE);
        let due: Vec<u32> = due.map(|(_, serial)| *serial).collect();
        due.into_iter().for_each(|serial| self.retire(serial, fx));
    }

    /// The session that has been over for longest leaves the memory. Returns whether there was one.
    fn make_room(&mut self, fx: &mut Effects) -> bool {
        let is_free = |serial: &u32| self.slots.get(serial).is_some_and(|slot| !slot.staged.is_pending());
        let Some(oldest) = self.over.iter().map(|(_, serial)| *serial).find(is_free) else { return false };
        self.retire(oldest, fx);
        true
    }

    /// An ended session leaves the memory; what came of it stays on the disk.
    fn retire(&mut self, serial: u32, fx: &mut Effects) {
        let Some(slot) = self.slots.get(&serial).filter(|slot| !slot.staged.is_pending()) else { return };
        *self.attempts.entry((slot.assessment.clone(), slot.candidate.clone())).or_default() += 1;
        fx.follow(Record::SessionPast(serial));
        fx.announce(Topic::Session(serial), effects::Message::Session(Message::Gone));
        self.dismiss(serial);
    }

    /// A candidate's sessions of an assessment that are not over, as they were last settled.
    fn count_active(&self, key: &(Arc<str>, Arc<str>)) -> usize {
        let slots = self.by_candidate.get(key).into_iter().flatten().filter_map(|serial| self.slots.get(serial));
        slots.filter(|slot| slot.staged.latest().is_some_and(|session| session.state.is_active())).count()
    }

    /// Brings what is shown of a session to `now`: what has come due happens, in order, and the next alarm is set.
    fn settle(&mut self, now: Now, serial: u32, fx: &mut Effects) {
        let Some(slot) = self.slots.get(&serial) else { return };
        let Some(shown) = slot.staged.shown() else { return };
        let is_due = shown.next_end(!self.hearing.is_deaf()).is_some_and(|at| at.mono <= now.mono);
        let is_owed = shown.expired.is_some_and(|at| self.hearing.lost_since(at.mono) > slot.given);
        // An end waits while a change of the same session is on its way: it may undo it.
        if (is_due || is_owed || slot.misnamed) && !slot.staged.is_pending() {
            let mut session = Session::clone(shown);
            let mut account = Account::default();
            // Every one of them, whatever comes of the first.
            let misnamed = slot.misnamed;
            let renamed = session.running().map(|clock| misnamed && clock.rename_end(now)).filter(|it| *it).count();
            let (given, is_passed) = self.pass(&mut session, now, slot.given, &mut account);
            let is_changed = renamed > 0 || is_passed;
            let session = Arc::new(session);
            if let Some(slot) = self.slots.get_mut(&serial) {
                (slot.misnamed, slot.given) = (false, given);
                if let Some(shown) = slot.staged.shown_mut().filter(|_| is_changed) {
                    *shown = session.clone();
                }
            }
            if is_changed {
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

    /// Lets happen in a session what time alone has brought about by `now`; `given` is what its grace was prolonged by
    /// so far. Returns what it is prolonged by now, and whether anything has changed.
    fn pass(&self, session: &mut Session, now: Now, given: Duration, account: &mut Account) -> (Duration, bool) {
        let second = self.settings.second;
        let mut is_changed = false;
        while let Some(passed) = session.pass(now, false, second) {
            account.passed(session, passed);
            is_changed = true;
        }
        // Before its end: what was lost of it is given back.
        let lost = session.expired.map_or(Duration::ZERO, |at| self.hearing.lost_since(at.mono));
        let owed = lost.saturating_sub(given);
        if !owed.is_zero() {
            session.grace.extend(owed);
            is_changed = true;
        }
        if let Some(passed) = session.pass(now, !self.hearing.is_deaf(), second) {
            account.passed(session, passed);
            is_changed = true;
        }
        (given + owed, is_changed)
    }

    /// Sets the alarm for the next thing that time alone brings about, and keeps the books.
    fn arm(&mut self, now: Now, serial: u32, fx: &mut Effects) {
        let grace = !self.hearing.is_deaf();
        let Some(slot) = self.slots.get_mut(&serial) else { return };
        let end = slot.staged.shown().and_then(|session| session.next_end(grace)).map(|end| end.mono);
        // What waits for the disk is looked at when the disk answers.
        let next = end.filter(|at| *at > now.mono || !slot.staged.is_pending());
        slot.alarm.set(next, serial, Due::Session, &mut fx.deadlines);
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
        self.hearing.hand_over();
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
        self.catalogue.commit();
        let mut touched = std::mem::take(&mut self.touched.writing);
        for serial in &touched {
            if let Some(slot) = self.slots.get_mut(serial) {
                slot.staged.commit();
            }
        }
        if self.hearing.written(now.mono) {
            touched.extend(&self.graces);
        }
        touched
    }

    /// Neither batch will ever be durable. Returns whom to bring to the present.
    #[must_use]
    pub fn undo(&mut self, now: Now) -> Vec<u32> {
        self.hearing.failed(now.mono);
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
        let used = sessions.iter().map(|session| session.assessment.clone());
        self.catalogue.restore(assessments, used, candidates, version);
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
                if !same_boot {
                    // The wall clock was read in whole milliseconds when the end was named: never early by what was
                    // cut.
                    ends.mono = ends.mono + Duration::from_millis(1);
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
        let key = (slot.assessment.clone(), slot.candidate.clone());
        self.by_candidate.entry(key).or_default().insert(serial);
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
        let key = (slot.assessment.clone(), slot.candidate.clone());
        if let Some(serials) = self.by_candidate.get_mut(&key) {
            serials.remove(&serial);
            if serials.is_empty() {
                self.by_candidate.remove(&key);
            }
        }
    }

    fn stage(
        &mut self,
        serial: u32,
        now: Now,
        next: Session,
        account: Account,
        actor: &Actor,
        fx: &mut Effects,
    ) -> Arc<Session> {
        self.hearing.asked(now.mono);
        let next = Arc::new(next);
        let Account { answers, events, passed, messages } = account;
        answers.into_iter().for_each(|answer| fx.command(answer));
        for (number, (at, what)) in events.into_iter().enumerate() {
            let actor = if number < passed { &self.timerd } else { actor };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Engine;
    use crate::domain::assessments::tests::{Part as Written, dice, plan};
    use crate::domain::assessments::{Navigation, Order, Plan};
    use crate::domain::disk::Image;
    use crate::domain::events::Kind;

    const S: u64 = 1_000_000_000;
    const MS: u64 = 1_000_000;
    /// 2026-01-15T10:00:00Z.
    const EPOCH_MS: i64 = 1_768_471_200_000;
    /// Two sections of two items each, the first of them with a limit.
    const LIMITED: &[Written] = &[(Some(20), None, Order::Sequential, 2), (None, None, Order::Sequential, 2)];
    const PLAIN: &[Written] = &[(None, None, Order::Sequential, 3)];

    /// An engine, its clock, and everything it has said and written.
    struct Hall {
        engine: Engine,
        now_ns: u64,
        wall_ms: i64,
        said: Vec<(u64, Message)>,
        events: Vec<(i64, Kind)>,
        sessions: BTreeMap<u32, Session>,
        assessments: BTreeMap<u32, Arc<Assessment>>,
        past: Vec<u32>,
        settings: Settings,
        alive: Now,
    }

    impl Hall {
        fn new() -> Self {
            Hall::with(Settings { keep_finished: None, ..Settings::default() })
        }

        fn with(settings: Settings) -> Self {
            Hall {
                engine: Hall::engine(settings),
                now_ns: 100 * S,
                wall_ms: EPOCH_MS,
                said: Vec::new(),
                events: Vec::new(),
                sessions: BTreeMap::new(),
                assessments: BTreeMap::new(),
                past: Vec::new(),
                settings,
                alive: Now::default(),
            }
        }

        fn engine(settings: Settings) -> Engine {
            let timers = crate::domain::timers::Settings {
                timers_max: 1,
                second: settings.second,
                outage: settings.outage,
                keep_finished: None,
            };
            Engine::new(timers, settings, Default::default(), Effects::default().scribe)
        }

        fn now(&self) -> Now {
            Now { mono: Mono::from_ns(self.now_ns), wall: WallMs::from_ms(self.wall_ms) }
        }

        /// Puts an assessment: mode, grace, and sections; the limit is 60 s.
        fn put(&mut self, navigation: Navigation, grace_s: u32, sections: &[Written]) {
            let plan = Plan { navigation, grace_s, ..plan(sections) };
            self.engine.delivery.catalogue.put(plan, &mut self.engine.fx).unwrap();
            self.commit();
        }

        fn start(&mut self, candidate: &str) -> Result<Arc<Session>, Refusal> {
            let (now, actor) = (self.now(), Arc::from("tester"));
            let asked = Application { assessment: "exam", candidate, test_taker: candidate };
            let Engine { delivery, fx, .. } = &mut self.engine;
            let verdict = delivery.start(now, asked, &mut dice(self.now_ns), &actor, fx);
            self.commit();
            verdict.outcome
        }

        fn act_pending(&mut self, deed: Deed) -> Verdict {
            let (now, actor) = (self.now(), Arc::from("tester"));
            let Engine { delivery, fx, .. } = &mut self.engine;
            delivery.act(now, 1, deed, &actor, fx)
        }

        fn act(&mut self, deed: Deed) -> Result<Arc<Session>, Refusal> {
            let verdict = self.act_pending(deed);
            self.commit();
            verdict.outcome
        }

        fn shown(&mut self) -> Session {
            let now = self.now();
            let Engine { delivery, fx, .. } = &mut self.engine;
            let session = Session::clone(delivery.shown_by_serial(now, 1, fx).unwrap());
            self.hear();
            session
        }

        fn hear(&mut self) {
            for announcement in self.engine.fx.announcements.drain(..) {
                if let effects::Message::Session(message) = announcement.message {
                    self.said.push((self.now_ns, message));
                }
            }
        }

        /// Time passes; deadlines are served at their instants.
        fn pass(&mut self, ns: u64) {
            let end = self.now_ns + ns;
            loop {
                let next = self.engine.fx.deadlines.next().map_or(end, |at| at.ns().max(self.now_ns)).min(end);
                self.step_to(next);
                while let Some((_, due)) = self.engine.fx.deadlines.pop(self.now().mono) {
                    let now = self.now();
                    let Engine { delivery, fx, .. } = &mut self.engine;
                    match due {
                        Due::Session(sleeper) => delivery.wake(now, sleeper, fx),
                        Due::Beat(slot) => {
                            let mut ticks = Vec::new();
                            delivery.beat(now, slot, &mut ticks, fx);
                            let ticks = ticks.into_iter().map(|tick| (self.now_ns, Message::Tick(tick.left_s)));
                            self.said.extend(ticks);
                        }
                        _ => {}
                    }
                }
                self.hear();
                if next == end {
                    return;
                }
            }
        }

        fn step_to(&mut self, ns: u64) {
            self.wall_ms += i64::try_from(ns / MS).unwrap() - i64::try_from(self.now_ns / MS).unwrap();
            self.now_ns = ns;
        }

        fn hand_over(&mut self) -> effects::Batch {
            let now = self.now();
            let batch = self.engine.hand_over(now);
            self.alive = batch.alive;
            batch
        }

        fn written(&mut self, batch: effects::Batch) {
            for record in batch.follows.into_iter().chain(batch.commands) {
                match record {
                    Record::Session(session) => _ = self.sessions.insert(session.serial, Session::clone(&session)),
                    Record::SessionPast(serial) => self.past.push(serial),
                    Record::Assessment(assessment) => {
                        self.assessments.insert(assessment.version, assessment);
                    }
                    Record::Event(event) => self.events.push((event.at.ms() - EPOCH_MS, event.kind)),
                    _ => {}
                }
            }
            let now = self.now();
            self.engine.commit(now, 0);
            self.hear();
        }

        fn commit(&mut self) {
            let batch = self.hand_over();
            self.written(batch);
        }

        /// Dies and comes back `away_ns` later with what the disk has.
        fn restart(&mut self, away_ns: u64, same_boot: bool) {
            self.step_to(self.now_ns + away_ns);
            if !same_boot {
                self.now_ns = 7 * S;
            }
            self.engine = Hall::engine(self.settings);
            let delivery = Kept {
                assessments: self.assessments.values().cloned().collect(),
                version: 9,
                sessions: self.sessions.values().cloned().collect(),
                serial: 9,
                ..Kept::default()
            };
            let image = Image { alive: Some(self.alive), same_boot, delivery, ..Image::default() };
            let now = self.now();
            self.engine.restore(now, image);
            self.hear();
        }

        fn kinds(&self) -> Vec<Kind> {
            self.events.iter().map(|(_, kind)| *kind).collect()
        }
    }

    fn answer(item: &str) -> Deed {
        Deed::Answer { item: item.into(), response: "{}".into(), is_flagged: None }
    }

    fn submit() -> Deed {
        Deed::Submit(Vec::new())
    }

    #[test]
    fn a_session_expires_at_its_deadline_with_nobody_there_and_can_be_handed_in_within_the_grace() {
        let mut hall = Hall::new();
        hall.put(Navigation::Free, 10, PLAIN);
        hall.start("c").unwrap();
        hall.pass(60 * S - 1);
        assert_eq!(hall.shown().state, State::InProgress, "not one nanosecond early");
        hall.pass(1);
        let ended = hall.shown();
        assert_eq!((ended.state, ended.completed_at), (State::Expired, Some(WallMs::from_ms(EPOCH_MS + 60_000))));
        hall.pass(9_999 * MS);
        let refusal = Refusal::WrongState { verb: Verb::Answer, state: State::Expired };
        assert_eq!(hall.act(answer("i0")), Err(refusal));
        let session = hall.act(Deed::Submit(vec![("i1".into(), "{}".into())])).unwrap();
        assert_eq!((session.state, session.late_ms, session.answered()), (State::Completed, Some(9_999), 1));
        let ends = [Kind::QuizTimeout, Kind::AnswerSubmitted, Kind::QuizCompleted, Kind::SessionEnded];
        assert_eq!(hall.kinds()[3..], ends);
        assert_eq!(hall.events[3].0, 60_000);
        assert_eq!(hall.act(submit()), Err(Refusal::WrongState { verb: Verb::Submit, state: State::Completed }));
    }

    #[test]
    fn after_the_grace_nothing_is_taken() {
        for grace_s in [0, 10] {
            let mut hall = Hall::new();
            hall.put(Navigation::Free, grace_s, PLAIN);
            hall.start("c").unwrap();
            hall.pass(60 * S + u64::from(grace_s) * S);
            assert_eq!(hall.act(submit()), Err(Refusal::WrongState { verb: Verb::Submit, state: State::Expired }));
            assert_eq!(hall.kinds()[3..], [Kind::QuizTimeout, Kind::QuizCompleted, Kind::SessionEnded]);
            assert_eq!(hall.events.last().unwrap().0, 60_000 + i64::from(grace_s) * 1_000);
        }
    }

    #[test]
    fn a_pause_keeps_the_fraction_and_an_extension_lifts_the_section_too() {
        let mut hall = Hall::new();
        hall.put(Navigation::Free, 10, LIMITED);
        hall.start("c").unwrap();
        hall.pass(1_234_567_891);
        hall.act(Deed::Pause).unwrap();
        hall.pass(1_000 * S + 1);
        assert_eq!(hall.act(answer("i0")), Err(Refusal::WrongState { verb: Verb::Answer, state: State::Paused }));
        hall.act(Deed::Resume).unwrap();
        hall.act(Deed::Extend { added_s: 5, reason: "".into() }).unwrap();
        let session = hall.shown();
        let left = |clock: Option<Countdown>, hall: &Hall| clock.unwrap().left(hall.now()).as_nanos();
        assert_eq!(left(session.countdown, &hall), 65 * u128::from(S) - 1_234_567_891);
        assert_eq!(left(session.parts[0].clock, &hall), 25 * u128::from(S) - 1_234_567_891);
        assert_eq!((session.limit, session.parts[0].limit.unwrap().as_secs()), (Some(Duration::from_secs(65)), 25));
    }

    #[test]
    fn a_section_that_ends_moves_the_candidate_on_and_the_last_one_ends_the_session() {
        const BOTH: &[Written] = &[(Some(20), None, Order::Sequential, 2), (Some(10), None, Order::Sequential, 2)];
        let mut hall = Hall::new();
        hall.put(Navigation::Free, 10, BOTH);
        hall.start("c").unwrap();
        hall.act(Deed::Navigate(Way::Next)).unwrap();
        hall.pass(20 * S);
        let session = hall.shown();
        assert_eq!((session.place, session.is_locked(0), session.parts[1].is_entered), (2, true, true));
        assert_eq!(hall.act(answer("i0")), Err(Refusal::SectionLocked));
        assert_eq!(hall.act(Deed::Navigate(Way::To(1))), Err(Refusal::SectionLocked));
        assert_eq!(hall.act(Deed::Navigate(Way::Previous)), Err(Refusal::SectionLocked));
        hall.pass(10 * S);
        let session = hall.shown();
        assert_eq!((session.state, session.completed_at), (State::Expired, Some(WallMs::from_ms(EPOCH_MS + 30_000))));
        // What was written in the section that ended with the session may be handed in, and nothing else.
        let hand_in = |item: &str| Deed::Submit(vec![(item.into(), "{}".into())]);
        assert_eq!(hall.act(hand_in("i0")), Err(Refusal::SectionLocked));
        assert_eq!(hall.act(hand_in("i3")).unwrap().state, State::Completed);
        let told: Vec<&Message> = hall.said.iter().map(|(_, message)| message).collect();
        assert!(matches!(told[0], Message::SectionOver { section: 0, session } if session.place == 2), "{told:?}");
        assert_eq!(told[1..], [&Message::Tick(0), &Message::Expired, &Message::Turned(State::Completed, Some(0))]);
    }

    #[test]
    fn a_section_that_ends_elsewhere_moves_nobody_and_wraps_round_when_it_must() {
        let mut hall = Hall::new();
        const LAST: &[Written] = &[(None, None, Order::Sequential, 2), (Some(10), None, Order::Sequential, 2)];
        hall.put(Navigation::Free, 10, LAST);
        hall.start("c").unwrap();
        hall.act(Deed::Navigate(Way::To(3))).unwrap();
        hall.pass(10 * S);
        assert_eq!(hall.shown().place, 0, "the next open section is the first");
        let mut hall = Hall::new();
        hall.put(Navigation::Free, 10, LAST);
        hall.start("c").unwrap();
        hall.act(answer("i2")).unwrap();
        hall.pass(10 * S);
        let session = hall.shown();
        assert_eq!((session.place, session.is_locked(2), session.state), (0, true, State::InProgress));
    }

    #[test]
    fn what_is_on_its_way_holds_the_end_back_and_a_late_hand_in_behind_it_is_late() {
        let mut hall = Hall::new();
        hall.put(Navigation::Free, 10, PLAIN);
        hall.start("c").unwrap();
        hall.pass(59 * S);
        assert!(hall.act_pending(answer("i0")).outcome.is_ok());
        let first = hall.hand_over();
        hall.pass(2 * S);
        assert_eq!(hall.shown().state, State::InProgress, "the end waits for the answer that is being written");
        let late = hall.act_pending(submit());
        assert_eq!((late.hold, late.outcome.unwrap().late_ms), (Hold::Gathering, Some(1_000)));
        hall.written(first);
        let second = hall.hand_over();
        hall.written(second);
        let session = hall.shown();
        assert_eq!((session.state, session.answered()), (State::Completed, 1));
        assert!(hall.kinds().ends_with(&[Kind::QuizTimeout, Kind::QuizCompleted, Kind::SessionEnded]));
        let told: Vec<Message> = hall.said.iter().map(|(_, message)| message.clone()).collect();
        assert_eq!(told, [Message::Tick(0), Message::Expired, Message::Turned(State::Completed, Some(0))]);
    }

    #[test]
    fn a_failing_disk_stops_the_grace_and_not_the_clock() {
        let mut hall = Hall::new();
        hall.put(Navigation::Free, 10, PLAIN);
        hall.start("c").unwrap();
        hall.pass(55 * S);
        assert!(hall.act_pending(answer("i0")).outcome.is_ok());
        let failed = hall.hand_over();
        hall.pass(S);
        let now = hall.now();
        hall.engine.undo(now, failed);
        hall.pass(100 * S);
        let session = hall.shown();
        assert_eq!((session.state, session.answered()), (State::Expired, 0));
        assert_eq!(session.completed_at, Some(WallMs::from_ms(EPOCH_MS + 60_000)));
        hall.commit();
        hall.pass(10 * S - 1);
        assert_eq!(hall.act(submit()).unwrap().late_ms, Some(106_000));
    }

    #[test]
    fn a_hanging_disk_costs_nobody_his_grace_whatever_was_on_its_way() {
        // An answer is in the batch that hangs over the deadline, or gathers behind it.
        for gathers in [false, true] {
            let mut hall = Hall::new();
            hall.put(Navigation::Free, 10, PLAIN);
            hall.start("c").unwrap();
            hall.pass(59 * S);
            let mut hanging = None;
            if gathers {
                hanging = Some(hall.hand_over());
            }
            assert!(hall.act_pending(answer("i0")).outcome.is_ok());
            let hanging = hanging.unwrap_or_else(|| hall.hand_over());
            hall.pass(10 * S);
            let now = hall.now();
            hall.engine.lose_patience(now);
            hall.pass(11 * S);
            hall.written(hanging);
            hall.commit();
            // Nine seconds of it had passed when the disk was given up, and the last is left.
            hall.pass(S - 1);
            assert_eq!(hall.shown().state, State::Expired);
            assert_eq!(hall.act(submit()).unwrap().late_ms, Some(21_000));
        }
    }

    #[test]
    fn a_hand_in_that_was_in_vain_may_be_repeated() {
        let mut hall = Hall::new();
        hall.put(Navigation::Free, 10, PLAIN);
        hall.start("c").unwrap();
        hall.pass(61 * S);
        let slow = hall.hand_over();
        assert!(hall.act_pending(submit()).outcome.is_ok());
        hall.pass(9 * S);
        hall.written(slow);
        let failed = hall.hand_over();
        hall.pass(S);
        let now = hall.now();
        hall.engine.undo(now, failed);
        hall.pass(30 * S);
        hall.commit();
        hall.pass(9 * S - 1);
        assert_eq!(hall.act(submit()).unwrap().state, State::Completed, "nine seconds were left when it was asked");
    }

    #[test]
    fn a_restart_keeps_place_and_time_and_gives_the_grace_back() {
        for (outage, same_boot) in [(Outage::RunOn, true), (Outage::RunOn, false), (Outage::Freeze, true)] {
            let mut hall = Hall::with(Settings { outage, keep_finished: None, ..Settings::default() });
            hall.put(Navigation::Free, 10, LIMITED);
            hall.start("c").unwrap();
            hall.act(Deed::Navigate(Way::Next)).unwrap();
            hall.pass(5 * S);
            hall.act(answer("i1")).unwrap();
            hall.restart(12 * S, same_boot);
            let session = hall.shown();
            let left_s = if outage == Outage::Freeze { 55 } else { 43 };
            // Never early: another boot knows whole milliseconds.
            let more_ms = u64::from(!same_boot);
            let left_ms = |clock: Option<Countdown>, now| Second::REAL.ms(clock.unwrap().left(now));
            assert_eq!(left_ms(session.countdown, hall.now()), left_s * 1_000 + more_ms);
            assert_eq!(left_ms(session.parts[0].clock, hall.now()), left_s * 1_000 - 40_000 + more_ms);
            assert_eq!((session.place, session.answered(), session.state), (1, 1, State::InProgress));
            hall.commit();
            // The section runs out while nobody is there, then the session.
            hall.restart(70 * S, same_boot);
            if outage == Outage::Freeze {
                assert_eq!(hall.shown().state, State::InProgress);
                continue;
            }
            hall.commit();
            let session = hall.shown();
            assert_eq!((session.state, session.place), (State::Expired, 2));
            assert_eq!(session.completed_at, Some(WallMs::from_ms(EPOCH_MS + 60_000)));
            // The item was answered, so that nothing was skipped.
            let told: Vec<i64> = hall.events.iter().rev().take(2).map(|event| event.0).collect();
            assert_eq!(told, [60_000, 20_000]);
            // Nobody could hand in meanwhile: the grace is whole.
            hall.pass(10 * S - 1);
            let late_ms = hall.act(submit()).unwrap().late_ms;
            // Another boot knows of the end by its name alone, in whole milliseconds.
            assert!((36_999..=37_000).contains(&late_ms.unwrap()), "{late_ms:?}");
        }
    }

    #[test]
    fn whoever_asks_without_end_is_told_to_wait() {
        let mut hall = Hall::new();
        hall.put(Navigation::Free, 10, PLAIN);
        hall.start("c").unwrap();
        let now = hall.now();
        let asked = (0..100_000).take_while(|_| hall.engine.delivery.keeps_pace(now, 1)).count();
        assert_eq!(asked, CANDIDATE_CALLS_BURST as usize);
        hall.pass(S);
        let now = hall.now();
        let asked = (0..100_000).take_while(|_| hall.engine.delivery.keeps_pace(now, 1)).count();
        assert_eq!(asked, CANDIDATE_CALLS_PER_S as usize);
    }

    #[test]
    fn attempts_are_counted_and_only_one_at_a_time() {
        let mut hall = Hall::with(Settings { keep_finished: Some(Duration::from_secs(100)), ..Settings::default() });
        let limited = Plan { attempt_limit: Some(2), ..plan(PLAIN) };
        hall.engine.delivery.catalogue.put(limited, &mut hall.engine.fx).unwrap();
        let first = hall.start("c").unwrap();
        assert_eq!(hall.start("c"), Err(Refusal::Sitting(first.id.clone())));
        assert!(hall.start("d").is_ok());
        hall.act(Deed::Terminate).unwrap();
        let second = hall.start("c").unwrap();
        assert_eq!(hall.start("c"), Err(Refusal::Sitting(second.id.clone())));
        hall.pass(300 * S);
        // Ended sessions leave the memory and are still counted.
        let now = hall.now();
        hall.engine.upkeep(now);
        hall.commit();
        assert!(hall.engine.delivery.is_empty());
        assert_eq!(hall.past.len(), 3);
        assert_eq!(hall.start("c"), Err(Refusal::AttemptsUsed));
    }

    #[test]
    fn whoever_listens_is_told_each_second_down_to_the_end() {
        let mut hall = Hall::new();
        hall.put(Navigation::Free, 0, PLAIN);
        hall.pass(123_456_789);
        hall.start("c").unwrap();
        hall.pass(56_400 * MS);
        let now = hall.now();
        hall.engine.delivery.listen(now, 1, &mut hall.engine.fx);
        hall.pass(10 * S);
        let ends_ns = 100 * S + 123_456_789 + 60 * S;
        let told: Vec<(u64, Message)> = std::mem::take(&mut hall.said);
        let (ticks, end) = told.split_at(3);
        for ((at, message), left_s) in ticks.iter().zip([3, 2, 1]) {
            assert_eq!(*message, Message::Tick(left_s));
            let due = ends_ns - u64::from(left_s) * S;
            assert!((due..due + 10 * MS).contains(at), "{left_s} told {} ns after it was due", at - due);
        }
        assert_eq!(end, [(ends_ns, Message::Tick(0)), (ends_ns, Message::Expired)]);
        hall.engine.delivery.unlisten(1);
        hall.pass(2 * S);
        assert!(hall.engine.fx.deadlines.is_empty(), "nobody is told anything any more");
    }
}
