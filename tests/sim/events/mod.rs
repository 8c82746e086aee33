//! The event pipeline at an exam: those who publish, those who follow, those who look things up, and the judgement of
//! what all of them are told.
//!
//! Owns the people of the event service and how they behave, and holds every byte they get against the [`model`]. It
//! is a witness beside the exam's own, in the same world: it learns from the timers' reference what was said at a
//! timer, so that each change, each warning and each tick is an event as well, and from the disk what is durable.

mod listeners;
pub mod model;
mod publishers;
mod readers;

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;

use serde_json::Value;
use timerd::api::time::date_time_us;
use timerd::clock::Now;
use timerd::domain::disk::{Done, Extent, Image};
use timerd::domain::effects::{Batch, Record};
use timerd::domain::events::Event;
use timerd::domain::history::Action;

use crate::disk::Deed;
use crate::net::Net;
use crate::peer::{self, Frame};
use crate::rng::Rng;
use crate::timers::model::Model;
use crate::world::{World, violated};
use listeners::Listener;
use model::{Archive, TICK, TYPES, Want};
use publishers::{Letter, Publisher};
use readers::{Clerk, Deletion, Reader};

/// What goes on at the pipeline.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Sockets of publishers.
    pub publishers: usize,
    /// Subscribers at a time.
    pub listeners: usize,
    /// Things people do in a second, all together.
    pub deeds_per_s: u64,
    /// Messages of one burst, at most.
    pub burst: u64,
    /// Messages in all, at most.
    pub letters_max: usize,
    /// Per cent of messages that are nonsense, and that are large.
    pub bad: u64,
    /// See above.
    pub large: u64,
    /// Events that somebody asks for at once, at most.
    pub page_max: usize,
    /// Somebody deletes.
    pub deletes: bool,
    /// How long events are kept.
    pub keep_ms: Option<u64>,
    /// How many are kept.
    pub keep_max: Option<u64>,
    /// Sockets from one address.
    pub sockets_max: Option<u32>,
}

const SESSIONS: [&str; 4] = ["s-1", "s-2", "Klasse 7b", "s \"4\" \\ ü"];
const USERS: [&str; 3] = ["u-1", "u-2", "ü/3"];
const SOURCES: [&str; 3] = ["quiz_engine", "a", "Q.u-i_z"];

/// A tick that subscribers must hear of, in this turn.
struct Tick {
    timer: String,
    text: String,
}

/// The pipeline with everybody at it.
pub struct Fair {
    plan: Plan,
    rng: Rng,
    archive: Archive,
    letters: Vec<Letter>,
    publishers: Vec<Publisher>,
    listeners: Vec<Listener>,
    /// Those who will come back, with what they have seen.
    returners: Vec<(Want, Option<u64>)>,
    clerks: Vec<Clerk>,
    readers: Vec<Reader>,
    deletions: Vec<Deletion>,
    /// Posts under a key.
    keys: Vec<readers::KeyUse>,
    ticks: Vec<Tick>,
    /// Warnings that were said and are not on their way to the disk yet.
    warnings: VecDeque<(String, String)>,
    /// How much of each timer's log was looked at.
    looked_at: BTreeMap<String, usize>,
    turn: u64,
    /// More was released than is sure to go out in a turn.
    storm_turn: u64,
    quiet: bool,
    asked_all: bool,
    /// What happened.
    pub tally: BTreeMap<&'static str, u64>,
}

impl Fair {
    /// Nobody is there yet.
    pub fn new(plan: Plan, rng: Rng) -> Self {
        Fair {
            plan,
            rng,
            archive: Archive::new(),
            letters: Vec::new(),
            publishers: Vec::new(),
            listeners: Vec::new(),
            returners: Vec::new(),
            clerks: Vec::new(),
            readers: Vec::new(),
            deletions: Vec::new(),
            keys: Vec::new(),
            ticks: Vec::new(),
            warnings: VecDeque::new(),
            looked_at: BTreeMap::new(),
            turn: 0,
            storm_turn: 0,
            quiet: false,
            asked_all: false,
            tally: BTreeMap::new(),
        }
    }

    fn count(&mut self, what: &'static str, by: u64) {
        *self.tally.entry(what).or_default() += by;
    }

    /// One deed of somebody.
    pub fn act(&mut self, world: &mut World, model: &Model) {
        match self.rng.below(100) {
            0..35 => self.publish(world),
            35..45 => self.post(world),
            45..60 => self.listen(world, model),
            60..80 => self.fidget(world, model),
            80..95 => self.look_up(world),
            _ => self.trouble(world),
        }
        self.read_slowly(world);
    }

    /// Lines break.
    fn trouble(&mut self, world: &mut World) {
        match self.rng.below(3) {
            0 => self.vanish(world),
            1 => self.walk_out(world),
            _ => self.drop_clerk(world),
        }
    }

    /// A filter that somebody may have.
    fn some_want(&mut self, model: &Model) -> Want {
        let types = match self.rng.below(10) {
            0..4 => None,
            4..6 => Some(1 << TICK | 1 << 9 | 1 << 7),
            6 => Some(1 << TICK),
            7 => Some(u32::try_from(self.rng.below(1 << TYPES.len())).unwrap()),
            8 => Some(1 << self.rng.index(TYPES.len())),
            _ => Some(0b111_1111),
        };
        let session = match self.rng.below(10) {
            0..6 => None,
            6..8 => Some(SESSIONS[self.rng.index(SESSIONS.len())].to_owned()),
            _ => {
                let nouns: Vec<&String> =
                    model.nouns.iter().filter(|(_, noun)| noun.shown.is_some()).map(|(id, _)| id).collect();
                nouns.get(self.rng.index(nouns.len())).map(|id| (*id).clone())
            }
        };
        let user = self.rng.percent(15).then(|| USERS[self.rng.index(USERS.len())].to_owned());
        // A filter that lists no type at all is one without a list.
        Want { types: types.filter(|types| *types != 0), session, user }
    }

    // -----------------------------------------------------------------------------------------------------------
    // The timers' events.

    /// Looks at what has been said at the timers.
    fn overhear(&mut self, now: Now, model: &Model) {
        for noun in model.nouns.values() {
            if !self.looked_at.contains_key(&noun.id) {
                self.looked_at.insert(noun.id.clone(), 0);
            }
            let looked_at = self.looked_at.get_mut(&noun.id).unwrap();
            for said in &noun.log[(*looked_at).min(noun.log.len())..] {
                let payload = |kind: &str| {
                    let fields = said.text.strip_prefix(kind)?.strip_suffix('}')?;
                    Some(format!(r#"{{{fields},"actor":"timerd"}}"#))
                };
                if let Some(payload) = payload(r#"{"type":"timer_warning","#) {
                    self.warnings.push_back((noun.id.clone(), payload));
                } else if let Some(payload) = payload(r#"{"type":"timer_tick","#) {
                    let (id, at) = (&noun.id, date_time_us(now.wall));
                    let text = format!(
                        r#"{{"id":null,"event_type":"timer_tick","source":"timerd","session_id":"{id}","user_id":null,"payload":{payload},"timestamp":"{at}","seq":null}}"#
                    );
                    self.ticks.push(Tick { timer: noun.id.clone(), text });
                }
            }
            *looked_at = noun.log.len();
        }
    }

    /// A batch goes to the disk: each change of a timer has its event beside it, in the same order, and each warning.
    pub fn handed(&mut self, now: Now, batch: &Batch, model: &Model) {
        self.overhear(now, model);
        for (records, is_command) in [(&batch.follows, false), (&batch.commands, true)] {
            let mut events = records.iter().filter_map(|record| match record {
                Record::Event(event) if &*event.source == "timerd" && event.kind.name().starts_with("timer_") => {
                    Some(event)
                }
                _ => None,
            });
            let mut next = || loop {
                let event = events.next();
                match event.filter(|event| event.kind.name() == "timer_warning") {
                    Some(event) if !is_command => self.warned(event, model),
                    _ => break event,
                }
            };
            for record in records {
                let Record::History(entry) = record else { continue };
                let kind = match &entry.action {
                    Action::Scheduled { .. } => continue,
                    Action::Outage { .. } => "timer_resumed".to_owned(),
                    action => format!("timer_{}", action.name()),
                };
                let event = next();
                let payload = event.map_or(Value::Null, |event| serde_json::from_str(&event.payload).unwrap());
                let fits = event.is_some_and(|event| {
                    event.kind.name() == kind
                        && event.session.as_deref() == Some(&entry.timer)
                        && event.at == entry.at
                });
                let told = payload["actor"] == *entry.actor
                    && (payload["remaining_ms"].is_null() || payload["remaining_ms"] == entry.remaining_ms)
                    && match &entry.action {
                        Action::Created { name, duration_s } => {
                            payload["name"] == **name && payload["duration_seconds"] == *duration_s
                        }
                        Action::Extended { added_s } => payload["added_seconds"] == *added_s,
                        Action::Outage { added_ms } => payload["added_ms"] == *added_ms,
                        Action::Started | Action::Paused | Action::Resumed => payload["server_time_ms"].is_number(),
                        Action::Stopped | Action::Expired => payload["elapsed_seconds"].is_number(),
                        Action::Scheduled { .. } | Action::Deleted => true,
                    };
                if !fits || !told {
                    let text = format!("{entry:?}, but {event:?}");
                    violated("every change of a timer is an event in the same commit", &text);
                }
            }
            if let Some(event) = next() {
                violated("only changes, warnings and ticks are the timers' events", &format!("{event:?}"));
            }
        }
        let missing = self.warnings.iter().find(|(timer, _)| !is_foggy(model, timer));
        if let Some(missing) = missing {
            violated("every warning is an event in the next commit", &format!("{missing:?}"));
        }
        self.warnings.clear();
    }

    fn warned(&mut self, event: &Event, model: &Model) {
        let timer = event.session.as_deref().unwrap_or_default();
        let said = self.warnings.iter().position(|(id, payload)| id == timer && **payload == *event.payload);
        match said {
            Some(at) => _ = self.warnings.remove(at),
            None if is_foggy(model, timer) => {}
            None => violated("a warning is an event once", &format!("{event:?}, waiting: {:?}", self.warnings)),
        }
    }

    // -----------------------------------------------------------------------------------------------------------
    // The witness.

    /// A turn begins.
    pub fn begin(&mut self) {
        self.turn += 1;
        self.ticks.clear();
    }

    /// The disk has spoken.
    pub fn done(&mut self, done: &Done) {
        if let Done::Failed(batch, _) = done {
            // What followed is written again.
            for record in batch.follows.iter().rev() {
                if let Record::Event(event) = record
                    && event.kind.name() == "timer_warning"
                {
                    let timer = event.session.as_deref().unwrap_or_default().to_owned();
                    self.warnings.push_front((timer, event.payload.to_string()));
                }
            }
        }
    }

    /// Everything of this turn has been sent.
    pub fn judge(&mut self, world: &mut World, model: &Model) {
        self.overhear(world.now, model);
        self.learn(world);
        for at in (0..self.listeners.len()).rev() {
            self.hear_listener(world, model, at);
        }
        for at in (0..self.publishers.len()).rev() {
            self.hear_publisher(world, at);
        }
        for at in (0..self.clerks.len()).rev() {
            self.hear_clerk(world, at);
        }
        if let Some(most) = self.plan.sockets_max {
            let publishers = self.publishers.iter().filter(|it| it.is_in() && it.reads());
            let listeners = self.listeners.iter().filter(|it| it.is_in() && it.reads());
            let open = publishers.count() + listeners.count();
            if open > most as usize {
                violated("sockets from one address are bounded", &format!("{open} of {most}"));
            }
        }
    }

    /// What has become of events.
    fn learn(&mut self, world: &mut World) {
        for deed in std::mem::take(&mut world.disk.deeds) {
            let first = self.archive.state().last_seq + 1;
            self.archive.learn(&deed);
            match deed {
                Deed::Stored(events) => {
                    let bytes: usize = events.iter().map(|stored| stored.event.bytes() + 200).sum();
                    if events.len() > 500 || bytes > 100_000 {
                        self.storm_turn = self.turn;
                    }
                    self.count("events stored", events.len() as u64);
                    (first..).zip(&events).for_each(|(seq, stored)| self.posted(seq, &stored.event));
                }
                Deed::Forgot(extent, seqs) => self.forgotten(world.now, extent, &seqs),
            }
        }
    }

    /// Something was deleted: somebody must have asked for that.
    fn forgotten(&mut self, now: Now, extent: Extent, seqs: &[u64]) {
        self.count("events deleted", seqs.len() as u64);
        let asked = self.deletions.iter_mut().find(|asked| asked.extent == extent && asked.deleted.is_none());
        if let Some(asked) = asked {
            asked.deleted = Some(seqs.len() as u64);
            return;
        }
        let keep_ms = self.plan.keep_ms.map(|keep_ms| i64::try_from(keep_ms).unwrap());
        let is_kept_for = match extent {
            Extent::All => false,
            Extent::Before(at) => keep_ms.is_some_and(|keep_ms| now.wall.ms() - at.ms() == keep_ms),
            Extent::Beyond(most) => self.plan.keep_max == Some(most),
        };
        if !is_kept_for {
            violated("only what was asked for is deleted", &format!("{extent:?}: {seqs:?}"));
        }
    }

    /// The daemon is back. Everything that was not durable is gone.
    pub fn restarted(&mut self, world: &mut World, image: &Image) {
        self.ticks.clear();
        self.warnings.clear();
        self.looked_at.clear();
        for publisher in std::mem::take(&mut self.publishers) {
            world.net.forget(publisher.line);
            self.astray(publisher.letters());
        }
        for clerk in std::mem::take(&mut self.clerks) {
            self.clerk_gone(clerk.asks);
            world.net.forget(clerk.line);
        }
        for listener in std::mem::take(&mut self.listeners) {
            world.net.forget(listener.line);
            self.returners.extend(listener.ticket());
        }
        self.learn(world);
        let there = self.archive.alive().count();
        if image.last_seq != self.archive.state().last_seq || there != world.disk.events.len() {
            violated("acknowledged events survive", &format!("{there} of {}", world.disk.events.len()));
        }
    }

    // -----------------------------------------------------------------------------------------------------------
    // The end.

    /// Everybody stops doing things; whoever is slow reads; readers read on to the end.
    pub fn hush(&mut self, world: &mut World) {
        self.quiet = true;
        let publishers = self.publishers.iter().filter(|publisher| !publisher.gone).map(|it| it.line);
        let listeners = self.listeners.iter().filter(|listener| !listener.gone).map(|it| it.line);
        for line in publishers.chain(listeners) {
            world.net.relax(line);
            world.net.drain(line);
        }
        self.read_on(world);
    }

    /// Somebody asks for everything there is, once.
    pub fn ask_all(&mut self, world: &mut World) {
        if !std::mem::replace(&mut self.asked_all, true) {
            self.ask_for_all(world);
        }
    }

    /// Nobody waits for an answer any more.
    pub fn is_answered(&self) -> bool {
        self.debts().is_none()
    }

    /// What is owed, if anything.
    pub fn debts(&self) -> Option<String> {
        let publisher = self.publishers.iter().find(|publisher| publisher.waits()).map(|it| format!("{it:.600?}"));
        let listener = || self.listeners.iter().find(|listener| listener.waits()).map(|it| format!("{it:?}"));
        let clerk = || self.clerks.iter().find(|clerk| !clerk.asks.is_empty()).map(|it| format!("{it:?}"));
        publisher.or_else(listener).or_else(clerk)
    }

    /// Everybody has what he wanted, and nothing is kept for too long.
    pub fn settle_account(&mut self, world: &World) {
        for listener in &self.listeners {
            if let Some(missing) = listener.missing() {
                let text = format!("{missing} of {:?}: {listener:?}", self.archive.state());
                violated("each subscriber's view is the disk's from its starting point on", &text);
            }
        }
        let there = self.archive.alive().count();
        if there != world.disk.events.len() {
            violated("what is stored is there until it is deleted", &format!("{there}"));
        }
        if let Some(most) = self.plan.keep_max {
            let late = world.now.wall.ms() - 12_000;
            let old = self.archive.alive().filter(|kept| kept.event.at.ms() < late).count();
            if old as u64 > most {
                violated("no more is kept than an operator wants", &format!("{old} of {most}"));
            }
        }
        if let Some(keep_ms) = self.plan.keep_ms {
            let late = world.now.wall.ms() - i64::try_from(keep_ms).unwrap() - 12_000;
            if let Some(old) = self.archive.alive().find(|kept| kept.event.at.ms() < late) {
                violated("nothing is kept for longer than an operator wants", &format!("{old:?}"));
            }
        }
        self.tally.insert("pages for subscribers", world.disk.feed_pages);
    }
}

/// What came about at a timer cannot be foretold in this turn.
fn is_foggy(model: &Model, timer: &str) -> bool {
    model.nouns.get(timer).is_none_or(|noun| noun.fog || noun.fog_turn >= model.turn)
}

/// Takes the whole frames out of a line's inbox.
fn frames_of(net: &mut Net, line: usize) -> Vec<Frame> {
    let inbox = &mut net.line(line).inbox;
    let mut frames = Vec::new();
    let mut read = 0;
    loop {
        match peer::next_frame(&inbox[read..]) {
            Ok(Some((frame, length))) => {
                read += length;
                frames.push(frame);
            }
            Ok(None) => break,
            Err(what) => violated("a message is a frame", &what),
        }
    }
    inbox.drain(..read);
    frames
}

/// The answer to an upgrade. `None`: there is none yet. `Some(false)`: there is no room.
fn upgraded(net: &mut Net, line: usize) -> Option<bool> {
    match peer::next_answer(&mut net.line(line).inbox, false) {
        Ok(Some(answer)) if answer.status == 101 => Some(true),
        Ok(Some(answer)) if answer.status == 503 => Some(false),
        Ok(None) => None,
        other => violated("a valid upgrade is completed", &format!("{other:?}")),
    }
}

/// A text as JSON.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// A text within a query.
fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => out.push(char::from(byte)),
            other => write!(out, "%{other:02X}").unwrap(),
        }
    }
    out
}
