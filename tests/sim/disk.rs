//! A simulated disk.
//!
//! Owns what is durable, and the whims of a disk: slow, failing, hanging, cut off by a crash between two writes. It
//! applies records as the store does, and holds that facts are only ever added: no entry of the history twice, no
//! revision left out. What becomes of events is noted in order, for whoever judges what is told of them.

use std::collections::{BTreeMap, HashMap, VecDeque};

use std::sync::Arc;

use timerd::clock::{Mono, Now, WallMs};
use timerd::domain::assessments::{Assessment, Candidate};
use timerd::domain::delivery::{Kept, Session};
use timerd::domain::disk::{
    Answer, Done, EventStats, Extent, Gone, Image, Job, Old, Order, Page, Query, ResultItem, ResultRow, Results,
    Search,
};
use timerd::domain::effects::{Batch, Record};
use timerd::domain::events::{Kind, Names, Stored};
use timerd::domain::history::Entry;
use timerd::domain::replays::{Digest, First, Replay};
use timerd::domain::rooms::{self, Person, Room};
use timerd::domain::timers::Timer;
use timerd::limits::{DISK_HANG_MAX, FEED_PAGE_EVENTS_MAX};

use crate::rng::Rng;
use crate::world::violated;

/// How a disk behaves, in per cent and nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Whims {
    /// A write or a read takes this long at most.
    pub latency_ns: u64,
    /// Writes that take up to a hundred times as long.
    pub slow: u64,
    /// Writes that fail.
    pub failing: u64,
    /// After a failure, the next one fails with this chance.
    pub stuck: u64,
    /// Writes in a thousand that hang beyond every bound.
    pub hanging: u64,
}

/// The names of this disk's events.
pub fn names() -> Names {
    Names::new(0xe7e7_7e7e)
}

enum Fate {
    Commit,
    Fail,
}

/// What has become of events.
#[derive(Debug)]
pub enum Deed {
    /// These were stored.
    Stored(Vec<Stored>),
    /// These were deleted, as that was asked for.
    Forgot(Extent, Vec<u64>),
}

/// The disk.
pub struct Disk {
    /// What it does to us.
    pub whims: Whims,
    /// Facts, as a store would keep them.
    pub timers: BTreeMap<u32, Timer>,
    /// Entries by timer, the index being the revision less one.
    pub history: HashMap<String, Vec<Entry>>,
    /// Every event there is, in order of numbers.
    pub events: Vec<Stored>,
    /// The last number given, and the highest ever deleted.
    pub last_seq: u64,
    /// See above.
    pub gone_seq: u64,
    /// The latest timestamp that events of each type ever had.
    last_seen: BTreeMap<Kind, WallMs>,
    /// What has become of events since somebody last looked.
    pub deeds: Vec<Deed>,
    /// Pages that subscribers were given.
    pub feed_pages: u64,
    /// Every version of every assessment, and which of them can be started.
    versions: Vec<Arc<Assessment>>,
    current: BTreeMap<Arc<str>, Arc<Assessment>>,
    candidates: BTreeMap<Arc<str>, Candidate>,
    /// Every session there ever was, and whether it is no longer held.
    sessions: BTreeMap<u32, (Arc<Session>, bool)>,
    /// Responses by session and number of the item.
    responses: BTreeMap<(u32, u16), Arc<str>>,
    /// Rooms, and their people by room and number.
    pub rooms: BTreeMap<u32, Room>,
    room_people: BTreeMap<(u32, u32), Person>,
    replays: HashMap<Digest, (Replay, u64)>,
    replay_order: Vec<Digest>,
    /// The last durable batch.
    pub batch: u64,
    alive: Option<Now>,
    /// In which boot that was written, and which one this is.
    alive_boot: u64,
    boot: u64,
    serial: u32,
    in_hand: Option<(u64, Batch, Fate)>,
    /// Since when, and whether somebody has waited too long for it.
    given_ns: u64,
    is_hung: bool,
    questions: VecDeque<(u64, u64, Query)>,
    said: VecDeque<Done>,
    ill: bool,
    /// Batches that were made durable, refused, and that were cut off by a crash.
    pub written: u64,
    /// See above.
    pub failed: u64,
}

impl Disk {
    /// An empty disk.
    pub fn new(whims: Whims) -> Self {
        Disk {
            whims,
            timers: BTreeMap::new(),
            history: HashMap::new(),
            events: Vec::new(),
            last_seq: 0,
            gone_seq: 0,
            last_seen: BTreeMap::new(),
            deeds: Vec::new(),
            feed_pages: 0,
            versions: Vec::new(),
            current: BTreeMap::new(),
            candidates: BTreeMap::new(),
            sessions: BTreeMap::new(),
            responses: BTreeMap::new(),
            rooms: BTreeMap::new(),
            room_people: BTreeMap::new(),
            replays: HashMap::new(),
            replay_order: Vec::new(),
            batch: 0,
            alive: None,
            alive_boot: 0,
            boot: 0,
            serial: 0,
            in_hand: None,
            given_ns: 0,
            is_hung: false,
            questions: VecDeque::new(),
            said: VecDeque::new(),
            ill: false,
            written: 0,
            failed: 0,
        }
    }

    /// Takes a job.
    pub fn give(&mut self, now: Now, job: Job, rng: &mut Rng) {
        let mut at = now.mono.ns() + rng.range(1, self.whims.latency_ns);
        match job {
            Job::Write(batch) => {
                if self.in_hand.is_some() {
                    violated("at most one batch is in the disk's hands", &format!("batch {}", batch.number));
                }
                if batch.number != self.batch + 1 && !self.ill && self.failed == 0 {
                    violated("batches are numbered without gaps", &format!("{} after {}", batch.number, self.batch));
                }
                if rng.percent(self.whims.slow) {
                    at += rng.below(self.whims.latency_ns * 100);
                }
                if rng.below(1000) < self.whims.hanging {
                    at += rng.range(8_000_000_000, 40_000_000_000);
                }
                self.ill = rng.percent(if self.ill { self.whims.stuck } else { self.whims.failing });
                let fate = if self.ill { Fate::Fail } else { Fate::Commit };
                self.in_hand = Some((at, batch, fate));
                (self.given_ns, self.is_hung) = (now.mono.ns(), false);
            }
            Job::Ask(ticket, query) => self.questions.push_back((at, ticket, query)),
            Job::Forget(Old::Events(extent)) => _ = self.forget(extent),
            Job::Forget(Old::History(_) | Old::Results(_)) | Job::Close => {}
        }
    }

    /// Works until `now`; what it has to say then waits in [`Disk::take`].
    pub fn work(&mut self, now: Mono, rng: &mut Rng) {
        // Whoever gives up on the disk does so in a turn in which it has nothing to say: what is told in one that has
        // both would depend on who else waited.
        let hang_ns = u64::try_from(DISK_HANG_MAX.as_nanos()).unwrap();
        let is_given_up = self.in_hand.is_some() && !self.is_hung && now.ns() >= self.given_ns + hang_ns;
        self.is_hung |= is_given_up;
        if !is_given_up && self.in_hand.as_ref().is_some_and(|(at, ..)| *at <= now.ns()) {
            let (_, batch, fate) = self.in_hand.take().unwrap();
            match fate {
                Fate::Commit => {
                    self.commit(&batch);
                    self.said.push_back(Done::Written(batch, self.last_seq));
                }
                Fate::Fail => {
                    self.failed += 1;
                    self.said.push_back(Done::Failed(batch, "No space left on device".to_owned()));
                }
            }
        }
        // A write goes before every read that still waits.
        let waits = self.in_hand.is_some() && rng.percent(50);
        while !waits && self.questions.front().is_some_and(|(at, ..)| *at <= now.ns()) {
            let (_, ticket, query) = self.questions.pop_front().unwrap();
            let answer = if self.ill && rng.percent(30) {
                Err("Input/output error".to_owned())
            } else {
                Ok(match query {
                    Query::History { timer, after, limit } => {
                        Answer::History(self.history.get(&*timer).map(|entries| {
                            let later = entries.iter().filter(|entry| entry.revision > after);
                            later.take(limit as usize).cloned().collect()
                        }))
                    }
                    Query::Replay(key) => match self.replays.get(&key) {
                        Some((Replay { first: First::Event, .. }, seq)) => Answer::ReplayedEvent(self.event(*seq)),
                        found => Answer::Replay(found.map(|(replay, _)| replay.clone())),
                    },
                    Query::Event(seq) => Answer::Event(self.event(seq)),
                    Query::Events(search) => Answer::Events(self.search(&search, rng)),
                    Query::EventStats(hour_ago) => Answer::EventStats(self.event_stats(hour_ago)),
                    Query::Responses(session) => Answer::Responses(session, self.responses_of(session)),
                    Query::Results { assessment, after, bytes_max } => {
                        Answer::Results(self.results(&assessment, after, bytes_max))
                    }
                    Query::ForgetEvents(extent) => Answer::Forgotten(self.forget(extent)),
                })
            };
            self.said.push_back(Done::Answered(ticket, answer));
        }
    }

    /// What the disk has said.
    pub fn take(&mut self) -> Option<Done> {
        self.said.pop_front()
    }

    /// When it will have something to say.
    pub fn next_event(&self) -> Option<u64> {
        let said = (!self.said.is_empty()).then_some(0);
        let write = self.in_hand.as_ref().map(|(at, ..)| *at);
        let answer = self.questions.front().map(|(at, ..)| *at);
        [said, write, answer].into_iter().flatten().min()
    }

    /// The daemon ends, and with `reboot` the machine with it: what is in hand is on the disk wholly, or not at all.
    /// Returns what start-up will find.
    pub fn crash(&mut self, reboot: bool, rng: &mut Rng) -> Image {
        if let Some((_, batch, Fate::Commit)) = self.in_hand.take()
            && rng.percent(50)
        {
            self.commit(&batch);
        }
        self.in_hand = None;
        self.questions.clear();
        self.said.clear();
        self.ill = false;
        self.failed = 0;
        self.boot += u64::from(reboot);
        Image {
            batch: self.batch,
            alive: self.alive,
            same_boot: self.alive_boot == self.boot,
            serial: self.serial,
            timers: self.timers.values().cloned().collect(),
            delivery: self.kept(),
            rooms: self.rooms_kept(),
            replays: self.replay_order.iter().map(|key| self.replays[key].0.stub).collect(),
            last_seq: self.last_seq,
            names: names(),
        }
    }

    /// Whether this change of this timer is durable.
    pub fn has(&self, timer: &str, revision: u64) -> bool {
        self.history.get(timer).is_some_and(|entries| entries.len() as u64 >= revision && revision > 0)
    }

    fn kept(&self) -> Kept {
        let held = self.sessions.values().filter(|(_, is_past)| !is_past);
        let mut attempts: BTreeMap<(Arc<str>, Arc<str>), u32> = BTreeMap::new();
        for (session, _) in self.sessions.values().filter(|(_, is_past)| *is_past) {
            *attempts.entry((session.assessment.id.clone(), session.candidate.clone())).or_default() += 1;
        }
        Kept {
            assessments: self.current.values().cloned().collect(),
            version: self.versions.iter().map(|version| version.version).max().unwrap_or(0),
            candidates: self.candidates.values().cloned().collect(),
            sessions: held.map(|(session, _)| Session::clone(session)).collect(),
            serial: self.sessions.keys().last().copied().unwrap_or(0),
            attempts: attempts.into_iter().map(|((of, by), count)| (of, by, count)).collect(),
        }
    }

    /// The responses of a session, by number of the item.
    pub fn responses_of(&self, session: u32) -> Vec<(u16, Arc<str>)> {
        let of = self.responses.range((session, 0)..=(session, u16::MAX));
        of.map(|((_, item), response)| (*item, response.clone())).collect()
    }

    fn results(&self, assessment: &str, after: u32, bytes_max: usize) -> Option<Results> {
        let versions: Vec<_> = self.versions.iter().rev().filter(|version| *version.id == *assessment).collect();
        let mut page = Results { is_last: true, ..Results::default() };
        if after == 0 {
            for item in versions.iter().flat_map(|version| &version.items) {
                if !page.items.contains(&item.id) {
                    page.items.push(item.id.clone());
                }
            }
            versions.first()?;
        }
        let mut bytes = 0;
        for (serial, (session, _)) in self.sessions.range(after + 1..) {
            if *session.assessment.id != *assessment {
                continue;
            }
            // So that small exams have pages, too.
            if bytes >= bytes_max || page.rows.len() >= 7 {
                page.is_last = false;
                break;
            }
            let mut items = Vec::new();
            for place in 0..session.total() {
                let response = self.responses.get(&(*serial, session.number_at(place))).cloned();
                bytes += response.as_ref().map_or(0, |response| response.len());
                let is_flagged = session.mark_at(place).is_flagged;
                if response.is_some() || is_flagged {
                    items.push(ResultItem { id: session.item_at(place).id.clone(), response, is_flagged });
                }
            }
            page.rows.push(ResultRow {
                serial: *serial,
                session: session.id.clone(),
                candidate: session.candidate.clone(),
                test_taker: session.test_taker.clone(),
                state: session.state,
                limit_ns: session.limit.map(|limit| u64::try_from(limit.as_nanos()).unwrap()),
                started_at: session.started_at,
                completed_at: session.completed_at,
                late_ms: session.late_ms,
                items,
            });
        }
        Some(page)
    }

    fn event(&self, seq: u64) -> Option<Stored> {
        let at = self.events.binary_search_by_key(&seq, |stored| stored.seq).ok()?;
        Some(self.events[at].clone())
    }

    /// A page, as the store reads it: it ends where it is full, now and then earlier, and it is the last one when
    /// nothing at all lies behind it.
    fn search(&mut self, search: &Search, rng: &mut Rng) -> Result<Page, Gone> {
        let fits = |stored: &&Stored| {
            search.filter.admits(&stored.event) && search.since.is_none_or(|since| stored.event.at > since)
        };
        let limit = search.limit as usize;
        let after = match search.order {
            Order::NewestFirst => {
                let events = self.events.iter().rev().filter(fits).take(limit);
                return Ok(Page { events: events.cloned().collect(), upto: self.last_seq, is_last: true });
            }
            Order::After(after) if after < self.gone_seq => return Err(Gone { upto: self.gone_seq }),
            Order::After(after) => after,
        };
        self.feed_pages += u64::from(search.limit == FEED_PAGE_EVENTS_MAX);
        // The store reads in slices, and ends a page between two of them when events have been deleted.
        let most = if rng.percent(10) { rng.index(limit) + 1 } else { limit };
        let from = self.events.partition_point(|stored| stored.seq <= after);
        let mut page = Page { events: Vec::new(), upto: self.last_seq.max(after), is_last: true };
        let mut bytes = 0;
        for stored in self.events[from..].iter().filter(fits) {
            bytes += stored.event.bytes();
            if page.events.len() == most || (!page.events.is_empty() && bytes > search.bytes_max) {
                page.is_last = false;
                break;
            }
            page.events.push(stored.clone());
        }
        if page.events.len() == most {
            page.is_last = page.events[most - 1].seq == self.last_seq;
        }
        if !page.is_last {
            page.upto = page.events.last().map_or(after, |last| last.seq);
        }
        Ok(page)
    }

    fn event_stats(&self, hour_ago: WallMs) -> EventStats {
        let mut counts: BTreeMap<Kind, u64> = BTreeMap::new();
        self.events.iter().for_each(|stored| *counts.entry(stored.event.kind).or_default() += 1);
        let mut by_kind: Vec<_> =
            counts.into_iter().map(|(kind, count)| (kind, count, self.last_seen[&kind])).collect();
        by_kind.sort_by_key(|(kind, count, _)| (std::cmp::Reverse(*count), *kind));
        EventStats {
            total: self.events.len() as u64,
            last_hour: self.events.iter().filter(|stored| stored.event.at > hour_ago).count() as u64,
            by_kind,
            oldest_seq: self.gone_seq + 1,
            last_seq: self.last_seq,
        }
    }

    fn forget(&mut self, extent: Extent) -> u64 {
        let before = self.events.len();
        let excess = |keep: u64| before.saturating_sub(usize::try_from(keep).unwrap());
        let doomed: Vec<u64> = match extent {
            Extent::All => self.events.iter().map(|stored| stored.seq).collect(),
            Extent::Before(at) => {
                self.events.iter().filter(|stored| stored.event.at < at).map(|stored| stored.seq).collect()
            }
            Extent::Beyond(keep) => self.events.iter().take(excess(keep)).map(|stored| stored.seq).collect(),
        };
        self.gone_seq = self.gone_seq.max(doomed.last().copied().unwrap_or(0));
        self.events.retain(|stored| doomed.binary_search(&stored.seq).is_err());
        let count = doomed.len() as u64;
        self.deeds.push(Deed::Forgot(extent, doomed));
        count
    }

    fn commit(&mut self, batch: &Batch) {
        self.written += 1;
        self.batch = batch.number;
        self.alive = Some(batch.alive);
        self.alive_boot = self.boot;
        let first = self.events.len();
        for record in batch.follows.iter().chain(&batch.commands) {
            self.apply(record);
        }
        if first < self.events.len() {
            self.deeds.push(Deed::Stored(self.events[first..].to_vec()));
        }
    }

    /// The rooms with their people.
    fn rooms_kept(&self) -> rooms::Kept {
        let people = |serial: u32| self.room_people.range((serial, 0)..=(serial, u32::MAX)).map(|(_, it)| it.clone());
        let whole = |room: &Room| Room { people: people(room.serial).collect(), ..room.clone() };
        rooms::Kept { rooms: self.rooms.values().map(whole).collect() }
    }

    fn apply(&mut self, record: &Record) {
        match record {
            Record::Timer(timer) => {
                self.serial = self.serial.max(timer.serial);
                let before = self.timers.insert(timer.serial, timer.clone());
                if let Some(before) = before.filter(|before| before.revision > timer.revision) {
                    let text = format!("{} went from {} to {}", timer.id, before.revision, timer.revision);
                    violated("a stored timer never goes back", &text);
                }
            }
            Record::TimerGone(id) => self.timers.retain(|_, timer| timer.id != *id),
            Record::History(entry) => {
                let entries = self.history.entry(entry.timer.to_string()).or_default();
                if entry.revision != entries.len() as u64 + 1 {
                    let text = format!("{entry:?} after {} entries", entries.len());
                    violated("the history counts revisions without gap or repeat", &text);
                }
                entries.push(entry.clone());
            }
            Record::Event(event) => {
                self.last_seq += 1;
                let seen = self.last_seen.entry(event.kind).or_insert(event.at);
                *seen = event.at.max(*seen);
                self.events.push(Stored { seq: self.last_seq, event: event.clone() });
            }
            Record::Assessment(assessment) => {
                self.versions.push(assessment.clone());
                self.current.insert(assessment.id.clone(), assessment.clone());
            }
            Record::AssessmentGone(id) => _ = self.current.remove(id),
            Record::Candidate(candidate) => _ = self.candidates.insert(candidate.id.clone(), candidate.clone()),
            Record::Session(session) => _ = self.sessions.insert(session.serial, (session.clone(), false)),
            Record::SessionPast(serial) => {
                self.sessions.entry(*serial).and_modify(|(_, is_past)| *is_past = true);
            }
            Record::Answer { session, item, response } => {
                self.responses.insert((*session, *item), response.clone());
            }
            // A room's people have records of their own.
            Record::Room(room) => _ = self.rooms.insert(room.serial, Room { people: [].into(), ..(**room).clone() }),
            Record::RoomGone(serial) => {
                self.rooms.remove(serial);
                self.room_people.retain(|(room, _), _| room != serial);
            }
            Record::RoomPerson { room, person } => {
                self.room_people.insert((*room, person.number), person.clone());
            }
            Record::RoomPersonGone { room, person } => _ = self.room_people.remove(&(*room, *person)),
            Record::Replay(replay) => {
                self.replay_order.retain(|key| *key != replay.stub.key);
                self.replay_order.push(replay.stub.key);
                self.replays.insert(replay.stub.key, (replay.clone(), self.last_seq));
            }
            Record::ReplayGone(key) => {
                self.replay_order.retain(|other| other != key);
                self.replays.remove(key);
            }
        }
    }
}
