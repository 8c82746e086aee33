//! The reference: what timers are by the contract, in plain arithmetic.
//!
//! Owns a second, simple opinion about every timer: its shown face, the change that is with the disk, the log of
//! everything that must have been said at it. It shares no arithmetic with the daemon. Commands are learnt from the
//! batches that go to the disk, each is worked out anew and compared; what follows from time is foretold, and the
//! daemon must do neither more nor less.

use std::collections::{BTreeMap, HashMap, VecDeque};

use timerd::clock::Now;
use timerd::domain::countdown::Countdown;
use timerd::domain::disk::Image;
use timerd::domain::effects::{Batch, Record};
use timerd::domain::history::{Action, Entry};
use timerd::domain::timers::{State, Timer};

use crate::world::violated;

const SECOND_NS: u64 = 1_000_000_000;
const MS_NS: u64 = 1_000_000;

/// What is left: standing still, or until an instant with its name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Left {
    /// Nanoseconds.
    Still(u64),
    /// The boot clock's nanoseconds, and the wall clock's milliseconds.
    Until(u64, i64),
}

/// A timer at one revision.
#[derive(Clone, Debug, PartialEq)]
pub struct Face {
    /// Where in its life.
    pub state: State,
    /// What is left.
    pub left: Left,
    /// Seconds it lasts.
    pub duration_s: u32,
    /// When it starts by itself.
    pub start_at: Option<i64>,
    /// When it first ran.
    pub started_at: Option<i64>,
    /// When it ended.
    pub completed_at: Option<i64>,
    /// Which change this is.
    pub revision: u64,
}

/// Rounded up.
pub fn ms_up(ns: u64) -> u64 {
    ns.div_ceil(MS_NS)
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap()
}

impl Face {
    /// Nanoseconds left at `now`.
    pub fn left_ns(&self, now: Now) -> u64 {
        match self.left {
            Left::Still(ns) => ns,
            Left::Until(mono, _) => mono.saturating_sub(now.mono.ns()),
        }
    }

    /// Seconds as they are shown at `now`.
    pub fn shown_s(&self, now: Now) -> u32 {
        u32::try_from(self.left_ns(now).div_ceil(SECOND_NS)).unwrap()
    }

    fn is_over(&self, now: Now) -> bool {
        matches!(self.left, Left::Until(mono, _) if mono <= now.mono.ns())
    }

    /// The same, whatever its end is called.
    fn is_like(&self, other: &Face) -> bool {
        let unnamed = |left| if let Left::Until(mono, _) = left { Left::Until(mono, 0) } else { left };
        Face { left: unnamed(self.left), ..self.clone() } == Face { left: unnamed(other.left), ..other.clone() }
    }

    fn of(timer: &Timer) -> Face {
        let left = match timer.countdown {
            Countdown::Still { left } => Left::Still(u64::try_from(left.as_nanos()).unwrap()),
            Countdown::Running { ends } => Left::Until(ends.mono.ns(), ends.wall.ms()),
        };
        if (timer.state == State::Running) != matches!(left, Left::Until(..)) {
            violated("a timer is running if and only if its countdown runs", &format!("{timer:?}"));
        }
        Face {
            state: timer.state,
            left,
            duration_s: timer.duration_s,
            start_at: timer.start_at.map(|at| at.ms()),
            started_at: timer.started_at.map(|at| at.ms()),
            completed_at: timer.completed_at.map(|at| at.ms()),
            revision: timer.revision,
        }
    }

    fn run(&mut self, now: Now) {
        let left = self.left_ns(now);
        self.left = Left::Until(now.mono.ns() + left, now.wall.ms() + signed(ms_up(left)));
        self.state = State::Running;
        self.started_at.get_or_insert(now.wall.ms());
        self.start_at = None;
    }

    /// The scheduled instant has come, now or some time ago.
    fn run_since(&mut self, now: Now, at: i64) {
        let Left::Still(left) = self.left else { unreachable!() };
        let late_ns = u64::try_from(now.wall.ms() - at).unwrap() * MS_NS;
        self.left = Left::Until(now.mono.ns() + left.saturating_sub(late_ns), at + signed(ms_up(left)));
        self.state = State::Running;
        self.started_at = Some(at);
        self.start_at = None;
        self.revision += 1;
    }

    fn expire(&mut self) {
        let Left::Until(_, wall) = self.left else { unreachable!() };
        self.left = Left::Still(0);
        self.state = State::Expired;
        self.completed_at = Some(wall);
        self.revision += 1;
    }
}

/// A change that time brings about and that must be written.
#[derive(Clone, Debug, PartialEq)]
struct Follow {
    revision: u64,
    action: &'static str,
    at: i64,
}

/// Something that everybody at a timer hears.
#[derive(Clone, Debug)]
pub struct Said {
    /// Word for word.
    pub text: String,
    /// Gives way to a newer one where a client is slow.
    pub is_tick: bool,
}

/// A timer, as the reference has it.
#[derive(Debug)]
pub struct Noun {
    /// Its id.
    pub id: String,
    /// Its name to people.
    pub name: String,
    /// Its place in lists.
    pub serial: u32,
    thresholds: Vec<u32>,
    created_at: i64,
    /// What everybody sees.
    pub shown: Option<Face>,
    /// What the disk has in hand.
    in_hand: Option<Option<Face>>,
    to_say: Vec<Said>,
    told_s: u32,
    /// Everything said at it since the daemon started, in order.
    pub log: Vec<Said>,
    /// Every face it ever showed, by revision.
    pub faces: BTreeMap<u64, Face>,
    /// Since which turn it shows which revision; 0: none.
    pub shown_since: Vec<(u64, u64)>,
    follows: VecDeque<Follow>,
    follows_in_hand: Vec<Follow>,
    /// Something is due that waits for a change which only the daemon knows of: it may have happened or not, until
    /// the next batch tells.
    pub fog: bool,
    /// The last turn in which that was so.
    pub fog_turn: u64,
    /// Unanswered requests that may be changing it.
    pub asked: u32,
    /// What was told last is not known: it came about in the fog.
    told_unsure: bool,
    /// It started so late that it had ended by then, under a name that no clock gives.
    late_start: bool,
    /// The wall clock was stepped, and its end must get another name.
    misnamed: bool,
    /// It gave its place back, and the entry of that is to come.
    given_back: bool,
    /// Whether its end has got another name yet cannot be told: a change was on its way.
    unsure: bool,
}

/// All timers, as the reference has them.
pub struct Model {
    /// By id.
    pub nouns: BTreeMap<String, Noun>,
    /// Turns since the last batch was handed over, that one included.
    turns: Vec<Now>,
    /// The wall clock was stepped at some time.
    is_stepped: bool,
    /// How many of these began before the wall clock was last stepped.
    turns_before_step: usize,
    /// Counts turns.
    pub turn: u64,
    /// Those with requests whose answers will never be heard, though they may gather still.
    orphans: Vec<String>,
    freeze: bool,
    keep_ms: Option<u64>,
    in_hand: bool,
    /// Command entries as they became durable, for the final account: (id, revision, action).
    pub commands: Vec<(String, u64, String)>,
    commands_in_hand: Vec<(String, u64, String)>,
    /// Endings seen in all.
    pub expired: u64,
    /// Changes seen in all.
    pub changes: u64,
}

impl Model {
    /// No timers yet.
    pub fn new(freeze: bool, keep_ms: Option<u64>) -> Self {
        Model {
            nouns: BTreeMap::new(),
            turns: Vec::new(),
            is_stepped: false,
            turns_before_step: 0,
            turn: 0,
            orphans: Vec::new(),
            freeze,
            keep_ms,
            in_hand: false,
            commands: Vec::new(),
            commands_in_hand: Vec::new(),
            expired: 0,
            changes: 0,
        }
    }

    /// A turn begins.
    pub fn begin(&mut self, now: Now, stepped: bool) {
        self.turn += 1;
        if stepped {
            self.is_stepped = true;
            self.turns_before_step = self.turns.len();
        }
        self.turns.push(now);
        if stepped {
            self.nouns.values_mut().for_each(|noun| noun.misnamed = true);
            self.settle_all(now);
        }
    }

    /// Lets time have its way with everything.
    pub fn settle_all(&mut self, now: Now) {
        let turn = self.turn;
        self.expired += self.nouns.values_mut().map(|noun| noun.settle(now, turn)).sum::<u64>();
    }

    /// When something must happen next: the daemon must wake by then.
    pub fn next_due(&self, now: Now) -> Option<u64> {
        self.nouns.values().filter_map(|noun| noun.next_due(now)).min()
    }

    /// A request that may change `id` is on its way.
    pub fn ask(&mut self, id: &str) {
        if let Some(noun) = self.nouns.get_mut(id) {
            noun.asked += 1;
        }
    }

    /// It has been answered. `heard`: else the answer went astray, and the change may come all the same.
    pub fn answered(&mut self, id: &str, heard: bool) {
        if heard {
            if let Some(noun) = self.nouns.get_mut(id) {
                noun.asked = noun.asked.saturating_sub(1);
            }
        } else {
            self.orphans.push(id.to_owned());
        }
    }

    fn adopt_orphans(&mut self) {
        for id in std::mem::take(&mut self.orphans) {
            self.answered(&id, true);
        }
    }

    // -----------------------------------------------------------------------------------------------------------
    // The disk.

    /// A batch goes to the disk: everything in it is worked out anew.
    pub fn handed(&mut self, now: Now, batch: &Batch) {
        if std::mem::replace(&mut self.in_hand, true) {
            violated("at most one batch is in the disk's hands", "handed over");
        }
        for record in &batch.follows {
            self.follow(now, record);
        }
        let mut entries: Vec<&Entry> = Vec::new();
        for record in &batch.commands {
            match record {
                Record::History(entry) => entries.push(entry),
                Record::Timer(timer) => self.command(&timer.id, Some(timer), std::mem::take(&mut entries)),
                Record::TimerGone(id) => self.command(id, None, std::mem::take(&mut entries)),
                _ => {}
            }
        }
        if !entries.is_empty() {
            violated("an entry goes with its timer", &format!("{entries:?}"));
        }
        let turn = self.turn;
        for noun in self.nouns.values_mut() {
            if let Some(missing) = noun.follows.front() {
                violated("what follows is written as soon as it can be", &format!("{}: {missing:?}", noun.id));
            }
            if std::mem::take(&mut noun.fog) {
                noun.fog_turn = turn;
                let is_due = |face: &Face| face.is_over(now) || face.start_at.is_some_and(|at| at < now.wall.ms());
                if noun.in_hand.is_none() && noun.shown.as_ref().is_some_and(is_due) {
                    violated("what is due waits only for a change of its own", &format!("{noun:?}"));
                }
            }
        }
        self.turns = vec![now];
        self.turns_before_step = 0;
        self.adopt_orphans();
    }

    fn follow(&mut self, now: Now, record: &Record) {
        let turn = self.turn;
        match record {
            Record::History(entry) => {
                let (is_stepped, turns) = (self.is_stepped, self.turns.clone());
                let noun = self.known(&entry.timer);
                let told = Follow { revision: entry.revision, action: entry.action.name(), at: entry.at.ms() };
                let is_foretold = noun.follows.front() == Some(&told);
                if !is_foretold && (noun.fog || (told.action == "deleted" && noun.follows.is_empty())) {
                    if &*entry.actor != "timerd" && &*entry.actor != "schedule" {
                        violated("what follows has no author among people", &format!("{entry:?}"));
                    }
                    if told.action == "deleted" && !std::mem::take(&mut noun.given_back) {
                        self.outlived(now, &entry.timer, turn);
                        self.known(&entry.timer).given_back = false;
                    }
                    let noun = self.known(&entry.timer);
                    noun.follows_in_hand.push(told);
                } else {
                    let mut expected = noun.follows.pop_front();
                    if is_stepped
                        && !noun.late_start
                        && let Some(Follow { revision, action: "expired", at }) = &mut expected
                        && (told.at == noun.first_name(*revision) || noun.named_by(&turns, *revision, told.at))
                    {
                        *at = told.at;
                        noun.faces.get_mut(revision).unwrap().completed_at = Some(told.at);
                        noun.shown.iter_mut().for_each(|face| face.completed_at = Some(told.at));
                    }
                    if expected.as_ref() != Some(&told) {
                        let text = format!("{}: {told:?}, not {expected:?}; {noun:?}", entry.timer);
                        violated("only what follows is written as such, at its true instant", &text);
                    }
                    noun.follows_in_hand.push(told);
                }
            }
            Record::Timer(timer) => {
                let is_stepped = self.is_stepped;
                let noun = self.known(&timer.id);
                let face = Face::of(timer);
                noun.check_frame(timer);
                match noun.faces.get_mut(&face.revision) {
                    Some(known) if *known == face => {}
                    // When a new name is given depends on what is on its way to the disk. Clients' readings are held
                    // against the clocks themselves.
                    Some(known) if known.is_like(&face) && is_stepped => {
                        known.left = face.left;
                        let shown = noun.shown.iter_mut().filter(|shown| shown.revision == face.revision);
                        shown.for_each(|shown| shown.left = face.left);
                    }
                    Some(known) => violated("what is stored is what is shown", &format!("{face:?}, not {known:?}")),
                    // What came before the end that somebody has heard of.
                    None if noun.fog && noun.given_back => _ = noun.faces.insert(face.revision, face),
                    None if noun.fog => {
                        noun.faces.insert(face.revision, face.clone());
                        noun.shown_since.push((turn, face.revision));
                        noun.told_s = noun.told_s.min(face.shown_s(now));
                        noun.told_unsure = true;
                        noun.shown = Some(face);
                    }
                    None => violated("what is stored is what is shown", &format!("{face:?} of {noun:?}")),
                }
            }
            Record::TimerGone(id) if self.known(id).shown.is_some() => {
                violated("only the old and finished give their place back", id);
            }
            _ => {}
        }
    }

    /// One command: its entries, and the timer after it.
    fn command(&mut self, id: &str, timer: Option<&Timer>, entries: Vec<&Entry>) {
        if entries.is_empty() || entries.iter().any(|entry| &*entry.timer != id) {
            violated("a change has its entry in the same commit", &format!("{id}: {entries:?}"));
        }
        if let Action::Created { name, duration_s } = &entries[0].action {
            let timer = timer.unwrap_or_else(|| violated("what is created is stored", id));
            let fresh = Noun {
                id: id.to_owned(),
                name: name.to_string(),
                serial: timer.serial,
                thresholds: timer.thresholds.to_vec(),
                created_at: entries[0].at.ms(),
                shown: None,
                in_hand: None,
                to_say: Vec::new(),
                told_s: *duration_s,
                log: Vec::new(),
                faces: BTreeMap::new(),
                shown_since: Vec::new(),
                follows: VecDeque::new(),
                follows_in_hand: Vec::new(),
                fog: false,
                fog_turn: 0,
                asked: 0,
                told_unsure: false,
                late_start: false,
                misnamed: false,
                given_back: false,
                unsure: false,
            };
            if self.nouns.insert(id.to_owned(), fresh).is_some_and(|noun| !noun.faces.is_empty()) {
                violated("ids are never used twice", id);
            }
        }
        let turns = self.turns.clone();
        let (before_step, is_stepped) = (self.turns_before_step, self.is_stepped);
        let noun = self.known(id);
        timer.inspect(|timer| noun.check_frame(timer));
        let base = noun.in_hand.clone().unwrap_or_else(|| noun.shown.clone());
        let at = entries.last().map(|entry| entry.at.ms()).unwrap();
        let next = timer.map(Face::of);
        let mut tried = Vec::new();
        for (number, &turn) in turns.iter().enumerate().rev().filter(|(_, turn)| turn.wall.ms() == at) {
            match noun.work_out(turn, base.clone(), &entries) {
                Ok((face, said)) if face == next || (is_stepped && alike(&face, &next)) => {
                    noun.misnamed |= noun.unsure || number < before_step;
                    noun.to_say.extend(said);
                    noun.in_hand = Some(next);
                    for entry in entries {
                        let action = match entry.action {
                            Action::Extended { added_s } => format!("extended by {added_s}"),
                            _ => entry.action.name().to_owned(),
                        };
                        self.commands_in_hand.push((id.to_owned(), entry.revision, action));
                    }
                    return;
                }
                other => tried.push(other),
            }
        }
        let text = format!("{entries:?}\n  gives {next:?}\n  from {base:?}\n  worked out: {tried:?}");
        violated("a command does what the contract says, at the instant of its turn", &text);
    }

    /// The disk has made the batch in hand durable.
    pub fn written(&mut self, now: Now) {
        self.in_hand = false;
        self.commands.append(&mut self.commands_in_hand);
        let turn = self.turn;
        for noun in self.nouns.values_mut() {
            noun.follows_in_hand.clear();
            let Some(next) = noun.in_hand.take() else { continue };
            self.changes += 1;
            if let (Some(before), Some(next)) = (&noun.shown, &next) {
                noun.told_s += next.duration_s - before.duration_s;
            }
            noun.log.append(&mut noun.to_say);
            noun.show(next, turn);
            noun.fog = false;
            self.expired += noun.settle(now, turn);
        }
    }

    /// The batch in hand will never be durable, nor will what gathers.
    pub fn failed(&mut self) {
        self.in_hand = false;
        self.commands_in_hand.clear();
        for noun in self.nouns.values_mut() {
            noun.in_hand = None;
            noun.to_say.clear();
            for follow in std::mem::take(&mut noun.follows_in_hand).into_iter().rev() {
                noun.follows.push_front(follow);
            }
        }
        // A creation that was undone leaves nothing.
        self.nouns.retain(|_, noun| noun.shown.is_some() || !noun.faces.is_empty());
        self.adopt_orphans();
    }

    /// A finished timer has given its place back, if it was old enough for that.
    pub fn outlived(&mut self, now: Now, id: &str, turn: u64) {
        let (keep, latest) = (self.keep_ms, self.latest_wall(now));
        let noun = self.known(id);
        let ended = noun.shown.as_ref().and_then(|face| face.completed_at);
        let age = ended.map(|ended| latest - ended);
        // In the fog it may have ended long ago, by a clock that was set forward.
        if keep.is_none_or(|keep| age.map_or(!noun.fog, |age| age < signed(keep))) {
            violated("only the old and finished give their place back", &format!("{id}: {age:?} ms"));
        }
        noun.log.push(Said { text: r#"{"type":"timer_deleted"}"#.to_owned(), is_tick: false });
        noun.given_back = true;
        noun.show(None, turn);
    }

    /// Whether the timer may have given its place back by itself by now.
    pub fn may_be_outlived(&self, now: Now, id: &str) -> bool {
        let Some((keep, noun)) = self.keep_ms.zip(self.nouns.get(id)) else { return false };
        let ended = noun.shown.as_ref().and_then(|face| face.completed_at);
        ended.map_or(noun.fog, |ended| self.latest_wall(now) - ended >= signed(keep))
    }

    /// The latest that the wall clock has shown since the last batch: what was decided then may be on its way.
    fn latest_wall(&self, now: Now) -> i64 {
        self.turns.iter().chain([&now]).map(|turn| turn.wall.ms()).max().unwrap()
    }

    // -----------------------------------------------------------------------------------------------------------

    /// The daemon is back, with what was durable: what must be true now, by the operator's policy.
    pub fn restore(&mut self, now: Now, image: &Image) {
        self.turn += 1;
        self.turns = vec![now];
        self.turns_before_step = 0;
        self.in_hand = false;
        self.orphans.clear();
        let turn = self.turn;
        // What was in hand may have become durable all the same; the final account is closed by the disk's history.
        self.commands.append(&mut self.commands_in_hand);
        let alive = image.alive.unwrap_or(now);
        let away_ns = match image.same_boot {
            true => now.mono.ns().saturating_sub(alive.mono.ns()),
            false => u64::try_from((now.wall.ms() - alive.wall.ms()).max(0)).unwrap() * MS_NS,
        };
        for noun in self.nouns.values_mut() {
            noun.forget();
            // Whoever is not in the image is not there.
            noun.shown_since.push((turn, 0));
        }
        for timer in &image.timers {
            let mut face = Face::of(timer);
            let noun = self.nouns.entry(timer.id.to_string()).or_insert_with(|| Noun {
                id: timer.id.to_string(),
                name: timer.name.to_string(),
                serial: timer.serial,
                thresholds: timer.thresholds.to_vec(),
                created_at: timer.created_at.ms(),
                shown: None,
                in_hand: None,
                to_say: Vec::new(),
                told_s: 0,
                log: Vec::new(),
                faces: BTreeMap::new(),
                shown_since: Vec::new(),
                follows: VecDeque::new(),
                follows_in_hand: Vec::new(),
                fog: false,
                fog_turn: 0,
                asked: 0,
                told_unsure: false,
                late_start: false,
                misnamed: false,
                given_back: false,
                unsure: false,
            });
            noun.faces.retain(|revision, _| *revision < face.revision);
            noun.faces.insert(face.revision, face.clone());
            if let Left::Until(mono, stored) = face.left {
                // The boot times of an end and of the sign of life are of one boot. Should a step of the wall clock
                // lie between the end's name and the sign of life, they tell what the name ought to be.
                let ahead_ms = signed(ms_up(mono.saturating_sub(alive.mono.ns())));
                let named = alive.wall.ms() + ahead_ms - signed(alive.mono.ns().saturating_sub(mono) / MS_NS);
                let wall = if image.alive.is_some() && (named - stored).abs() >= 20 { named } else { stored };
                self.is_stepped |= wall != stored;
                face.left = Left::Until(mono, wall);
                let left = match image.same_boot {
                    true => mono.saturating_sub(alive.mono.ns()),
                    false => u64::try_from((wall - alive.wall.ms()).max(0)).unwrap() * MS_NS,
                };
                let left_now = if self.freeze { left } else { left.saturating_sub(away_ns) };
                // After a reboot one more millisecond, for what the wall clock cuts off.
                let back_ns = now.mono.ns() + left_now + if image.same_boot { 0 } else { MS_NS };
                if left == 0 || left_now == 0 {
                    face.expire();
                    noun.follows.push_back(Follow { revision: face.revision, action: "expired", at: wall });
                    self.expired += 1;
                } else if self.freeze && away_ns > 0 {
                    face.left = Left::Until(back_ns, now.wall.ms() + signed(ms_up(left_now)));
                    face.revision += 1;
                    let at = now.wall.ms();
                    noun.follows.push_back(Follow { revision: face.revision, action: "outage", at });
                } else if !image.same_boot {
                    let wall_is_sound = now.wall >= alive.wall;
                    let named = if wall_is_sound { wall } else { now.wall.ms() + signed(ms_up(left_now)) };
                    face.left = Left::Until(back_ns, named);
                }
            }
            (noun.misnamed, noun.unsure, noun.told_unsure, noun.late_start) = (false, false, false, false);
            // What was crossed while away is not told, whether it ran then or was to start.
            let mut present = face.clone();
            if let Some(at) = present.start_at.filter(|at| *at <= now.wall.ms()) {
                present.run_since(now, at);
            }
            noun.told_s = present.shown_s(now);
            noun.show(Some(face), turn);
            self.expired += noun.settle(now, turn);
        }
        // Within one boot the two clocks tell whether the wall clock was stepped meanwhile.
        let since_ms = i64::try_from(now.mono.ns().saturating_sub(alive.mono.ns()) / MS_NS).unwrap();
        if image.same_boot && (now.wall.ms() - alive.wall.ms() - since_ms).abs() >= 20 {
            self.is_stepped = true;
            self.nouns.values_mut().for_each(|noun| noun.misnamed = true);
            self.settle_all(now);
        }
    }

    fn known(&mut self, id: &str) -> &mut Noun {
        match self.nouns.get_mut(id) {
            Some(noun) => noun,
            None => violated("only what was created is changed", id),
        }
    }

    /// Timers that must be in lists, in their order.
    pub fn listed(&self) -> Vec<&Noun> {
        let mut listed: Vec<&Noun> = self.nouns.values().filter(|noun| noun.shown.is_some()).collect();
        listed.sort_unstable_by_key(|noun| noun.serial);
        listed
    }
}

/// The same, whatever the ends are called.
fn alike(a: &Option<Face>, b: &Option<Face>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => a.is_like(b),
        (a, b) => a == b,
    }
}

/// A face and what is said when it is shown.
type Worked = (Option<Face>, Vec<Said>);

impl Noun {
    fn forget(&mut self) {
        self.shown = None;
        self.in_hand = None;
        self.to_say.clear();
        self.log.clear();
        self.follows.clear();
        self.follows_in_hand.clear();
        self.fog = false;
        self.asked = 0;
        self.given_back = false;
    }

    fn show(&mut self, face: Option<Face>, turn: u64) {
        self.shown_since.push((turn, face.as_ref().map_or(0, |face| face.revision)));
        if let Some(face) = &face {
            self.faces.insert(face.revision, face.clone());
        }
        self.shown = face;
    }

    /// Whether revision `revision` (0: nothing) was shown at some time since `turn`.
    pub fn showed(&self, revision: u64, turn: u64) -> bool {
        let first = self.shown_since.iter().rposition(|(since, _)| *since < turn).unwrap_or(0);
        let before_all = revision == 0 && self.shown_since.first().is_none_or(|(since, _)| *since >= turn);
        before_all || self.shown_since[first..].iter().any(|(_, shown)| *shown == revision)
    }

    /// What the end before revision `revision` is called.
    fn first_name(&self, revision: u64) -> i64 {
        match self.faces.get(&(revision - 1)).map(|face| face.left) {
            Some(Left::Until(_, wall)) => wall,
            _ => 0,
        }
    }

    /// Whether `at` names the end before revision `revision` by the clocks of one of these turns.
    fn named_by(&self, turns: &[Now], revision: u64, at: i64) -> bool {
        let Some(Left::Until(mono, _)) = self.faces.get(&(revision - 1)).map(|face| face.left) else { return false };
        turns.iter().any(|turn| {
            let ahead = i128::from(mono) - i128::from(turn.mono.ns());
            (i128::from(at) - i128::from(turn.wall.ms()) - ahead / i128::from(MS_NS)).abs() <= 3
        })
    }

    /// Its end has the name that the clocks give it.
    pub fn is_well_named(&self) -> bool {
        !self.misnamed && !self.unsure && self.in_hand.is_none() && self.asked == 0
    }

    /// What never changes.
    fn check_frame(&self, timer: &Timer) {
        let same = timer.serial == self.serial
            && *timer.id == *self.id
            && *timer.name == *self.name
            && timer.thresholds[..] == self.thresholds[..]
            && timer.created_at.ms() == self.created_at;
        if !same {
            violated("what a timer was created with stays", &format!("{timer:?} of {self:?}"));
        }
    }

    fn say(&mut self, text: String, is_tick: bool) {
        self.log.push(Said { text, is_tick });
    }

    /// What has come due happens. Returns how many ended.
    fn settle(&mut self, now: Now, turn: u64) -> u64 {
        let Some(face) = &self.shown else { return 0 };
        if self.fog {
            self.fog_turn = turn;
            return 0;
        }
        let starts = face.start_at.is_some_and(|at| at <= now.wall.ms());
        let over = face.is_over(now);
        let pending = self.in_hand.is_some();
        // In the millisecond of the start it may have happened or not: the wall clock is read in whole ones.
        let just_now = face.start_at == Some(now.wall.ms());
        if (starts || over) && !pending && (self.asked > 0 || just_now) {
            self.fog = true;
            self.fog_turn = turn;
            return 0;
        }
        let mut face = face.clone();
        if starts && !pending {
            let at = face.start_at.unwrap();
            face.run_since(now, at);
            self.misnamed = false;
            self.late_start = face.is_over(now);
            self.follows.push_back(Follow { revision: face.revision, action: "started", at });
            self.say(exact("timer_started", "", &face, now), false);
            self.show(Some(face.clone()), turn);
        }
        if self.misnamed && !pending {
            self.misnamed = false;
            self.unsure |= self.asked > 0;
            if let Left::Until(mono, _) = face.left {
                let (ahead, behind) = (face.left_ns(now), now.mono.ns().saturating_sub(mono));
                let wall = now.wall.ms() + signed(ms_up(ahead)) - signed(behind / MS_NS);
                face.left = Left::Until(mono, wall);
                self.faces.insert(face.revision, face.clone());
                self.shown = Some(face.clone());
            }
        }
        let over = face.is_over(now);
        let left_s = face.shown_s(now);
        if face.state == State::Running && left_s < self.told_s && !(over && pending) {
            for threshold in self.thresholds.clone() {
                if threshold >= left_s && threshold < self.told_s {
                    let text =
                        format!(r#"{{"type":"timer_warning","remaining_seconds":{left_s},"threshold":{threshold}}}"#);
                    self.say(text, false);
                }
            }
            if left_s > face.duration_s {
                violated("no more is left than a timer lasts", &format!("{self:?}"));
            }
            let elapsed = face.duration_s - left_s;
            let text = format!(r#"{{"type":"timer_tick","remaining_seconds":{left_s},"elapsed_seconds":{elapsed}}}"#);
            self.say(text, true);
            self.told_s = left_s;
        }
        if over && !pending {
            if std::mem::take(&mut self.told_unsure) {
                self.fog_turn = turn;
            }
            let Left::Until(_, at) = face.left else { unreachable!() };
            face.expire();
            self.follows.push_back(Follow { revision: face.revision, action: "expired", at });
            self.say(format!(r#"{{"type":"timer_expired","elapsed_seconds":{}}}"#, face.duration_s), false);
            self.show(Some(face), turn);
            return 1;
        }
        0
    }

    /// When time will next bring something about.
    fn next_due(&self, now: Now) -> Option<u64> {
        let face = self.shown.as_ref().filter(|_| !self.fog)?;
        let pending = self.in_hand.is_some() || self.asked > 0;
        match face.left {
            Left::Until(mono, _) => {
                let next_s = face.shown_s(now).min(self.told_s).saturating_sub(1);
                (next_s > 0 || !pending).then(|| mono - u64::from(next_s) * SECOND_NS)
            }
            Left::Still(_) => {
                let at = face.start_at.filter(|_| !pending)?;
                let ahead = u64::try_from((at - now.wall.ms()).max(0)).unwrap();
                // The wall clock is read in whole milliseconds, cut off.
                Some(now.mono.ns() + ahead * MS_NS + MS_NS)
            }
        }
    }

    /// What these entries do to `base` at `now`, by the contract.
    fn work_out(&self, now: Now, base: Option<Face>, entries: &[&Entry]) -> Result<Worked, String> {
        let mut face = base;
        let mut said = Vec::new();
        for entry in entries {
            let mut left_ns = None;
            let next = match (&entry.action, face.take()) {
                (Action::Created { duration_s, .. }, None) => Some(Face {
                    state: State::Created,
                    left: Left::Still(u64::from(*duration_s) * SECOND_NS),
                    duration_s: *duration_s,
                    start_at: None,
                    started_at: None,
                    completed_at: None,
                    revision: 1,
                }),
                (_, None) => return Err("there is no timer".to_owned()),
                (Action::Scheduled { start_at }, Some(mut old)) if old.revision == 1 => {
                    old.start_at = Some(start_at.ms());
                    old.revision += 1;
                    Some(old)
                }
                (Action::Started, Some(mut old)) if &*entry.actor == "schedule" => {
                    let Some(at) = old.start_at.filter(|at| *at <= now.wall.ms() && entry.at.ms() == *at) else {
                        return Err("it was not to start yet".to_owned());
                    };
                    old.run_since(now, at);
                    said.push(Said { text: exact("timer_started", "", &old, now), is_tick: false });
                    Some(old)
                }
                (Action::Deleted, Some(old)) => {
                    said.push(Said { text: r#"{"type":"timer_deleted"}"#.to_owned(), is_tick: false });
                    left_ns = Some(old.left_ns(now));
                    if entry.revision != old.revision + 1 {
                        return Err(format!("deletion is revision {}", old.revision + 1));
                    }
                    None
                }
                (_, Some(old)) if old.is_over(now) => return Err("it has ended".to_owned()),
                (action, Some(mut old)) => {
                    old.revision += 1;
                    let text = match (action, old.state) {
                        (Action::Started, State::Created) | (Action::Resumed, State::Paused) => {
                            old.run(now);
                            exact("timer_started", "", &old, now)
                        }
                        (Action::Paused, State::Running) => {
                            old.left = Left::Still(old.left_ns(now));
                            old.state = State::Paused;
                            exact("timer_paused", "", &old, now)
                        }
                        (Action::Extended { added_s }, State::Created | State::Running | State::Paused) => {
                            let added_ns = u64::from(*added_s) * SECOND_NS;
                            old.left = match old.left {
                                Left::Still(left) => Left::Still(left + added_ns),
                                Left::Until(mono, wall) => {
                                    Left::Until(mono + added_ns, wall + signed(added_ns / MS_NS))
                                }
                            };
                            old.duration_s += added_s;
                            exact("timer_extended", &format!(r#""added_seconds":{added_s},"#), &old, now)
                        }
                        (Action::Stopped, State::Created | State::Running | State::Paused) => {
                            old.left = Left::Still(old.left_ns(now));
                            old.state = State::Completed;
                            old.completed_at = Some(now.wall.ms());
                            old.start_at = None;
                            let left_s = old.shown_s(now);
                            let elapsed = old.duration_s - left_s;
                            format!(
                                r#"{{"type":"timer_stopped","remaining_seconds":{left_s},"elapsed_seconds":{elapsed}}}"#
                            )
                        }
                        (action, state) => return Err(format!("{} in {state:?}", action.name())),
                    };
                    // A timer that is created running was never heard to start.
                    if old.revision > 2 || !matches!(entries[0].action, Action::Created { .. }) {
                        said.push(Said { text, is_tick: false });
                    }
                    Some(old)
                }
            };
            if let Some(face) = &next {
                left_ns = Some(face.left_ns(now));
                // Scheduling and starting at creation come after it, under revisions of their own.
                if entry.revision != face.revision {
                    return Err(format!("revision {} is {}", entry.revision, face.revision));
                }
            }
            if left_ns.is_some_and(|left| ms_up(left) != entry.remaining_ms) {
                return Err(format!("{} ms are left, not {}", ms_up(left_ns.unwrap()), entry.remaining_ms));
            }
            let scheduled = &*entry.actor == "schedule";
            if !scheduled && entry.at != now.wall {
                return Err("it happened in another turn".to_owned());
            }
            face = next;
        }
        Ok((face, said))
    }
}

fn exact(kind: &str, extra: &str, face: &Face, now: Now) -> String {
    let (left_s, left_ms, at) = (face.shown_s(now), ms_up(face.left_ns(now)), now.wall.ms());
    format!(
        r#"{{"type":"{kind}",{extra}"remaining_seconds":{left_s},"remaining_ms":{left_ms},"server_time_ms":{at}}}"#
    )
}

/// Every entry that the disk has of each timer, for the final account.
pub fn entries_by_key(history: &HashMap<String, Vec<Entry>>) -> Vec<(String, &Entry)> {
    let mut all: Vec<(String, &Entry)> = Vec::new();
    for (id, entries) in history {
        all.extend(entries.iter().map(|entry| (id.clone(), entry)));
    }
    all.sort_by(|a, b| (&a.0, a.1.revision).cmp(&(&b.0, b.1.revision)));
    all
}
