//! The reference: what events are by the contract.
//!
//! Owns a second, simple opinion about everything that was ever stored and deleted, in order: who wants what, how an
//! event is spelled, what a page or a figure was at any instant. It learns from the disk alone, and what it says of
//! an instant it says of the disk at that instant; it shares no code with the daemon but the printing of instants and
//! the permutation of ids.

use std::collections::HashMap;

use serde_json::Value;
use timerd::api::time::date_time_us;
use timerd::clock::WallMs;
use timerd::domain::disk::Extent;
use timerd::domain::events::{Event, Stored};

use crate::disk::{Deed, names};
use crate::world::violated;

/// The registry, in the contract's order.
pub const TYPES: [&str; 22] = [
    "quiz_started",
    "quiz_completed",
    "quiz_timeout",
    "answer_submitted",
    "answer_changed",
    "question_viewed",
    "question_skipped",
    "timer_started",
    "timer_tick",
    "timer_warning",
    "mastery_updated",
    "learning_gap_detected",
    "session_created",
    "session_ended",
    "error_occurred",
    "timer_created",
    "timer_paused",
    "timer_resumed",
    "timer_extended",
    "timer_stopped",
    "timer_expired",
    "timer_deleted",
];

/// The place of a type in the registry.
pub fn type_of(name: &str) -> usize {
    TYPES.iter().position(|known| *known == name).unwrap_or_else(|| violated("a type is in the registry", name))
}

/// The place of the ticks.
pub const TICK: usize = 8;

/// An event that is or was on the disk.
#[derive(Debug)]
pub struct Kept {
    /// Its type's place in the registry.
    pub kind: usize,
    /// What was stored.
    pub event: Event,
    /// Its object, word for word.
    pub text: Box<str>,
    /// In which state of the disk it was first there, and first no longer.
    pub born: usize,
    /// See above.
    pub died: usize,
}

/// Whose events somebody wants.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Want {
    /// Of one of these types; a bit for each.
    pub types: Option<u32>,
    /// Of this session.
    pub session: Option<String>,
    /// Of this user.
    pub user: Option<String>,
}

/// Whatever there is.
pub const ANYTHING: Want = Want { types: None, session: None, user: None };

impl Want {
    /// Whether it is named, and not only not left out.
    pub fn names(&self, kind: usize) -> bool {
        self.types.is_some_and(|types| types & 1 << kind != 0)
    }

    /// Whether such an event is wanted.
    pub fn admits(&self, kind: usize, session: Option<&str>, user: Option<&str>) -> bool {
        (self.types.is_none() || self.names(kind))
            && (self.session.is_none() || self.session.as_deref() == session)
            && (self.user.is_none() || self.user.as_deref() == user)
    }

    /// Whether this event is wanted.
    pub fn fits(&self, kept: &Kept) -> bool {
        self.admits(kept.kind, kept.event.session.as_deref(), kept.event.user.as_deref())
    }
}

/// What the disk had at an instant, beside the events themselves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct State {
    /// The last number given.
    pub last_seq: u64,
    /// The highest number deleted.
    pub gone_seq: u64,
}

/// Everything that was ever stored.
pub struct Archive {
    kept: Vec<Kept>,
    /// Every state that the disk was ever in, in order.
    states: Vec<State>,
    /// The number of each id.
    ids: HashMap<String, u64>,
}

impl Archive {
    /// Nothing was stored yet.
    pub fn new() -> Self {
        Archive { kept: Vec::new(), states: vec![State { last_seq: 0, gone_seq: 0 }], ids: HashMap::new() }
    }

    /// The number of the present state.
    pub fn version(&self) -> usize {
        self.states.len() - 1
    }

    /// The present state.
    pub fn state(&self) -> State {
        self.states[self.version()]
    }

    /// The states since the one with this number.
    pub fn states_since(&self, version: usize) -> &[State] {
        &self.states[version..]
    }

    /// The event numbered `seq`, deleted or not.
    pub fn get(&self, seq: u64) -> Option<&Kept> {
        self.kept.get(usize::try_from(seq).ok()?.checked_sub(1)?)
    }

    /// The number of the event with this id.
    pub fn seq_of(&self, id: &str) -> Option<u64> {
        self.ids.get(id).copied()
    }

    /// Events that `want` admits behind `after`, deleted or not, with their numbers.
    pub fn after<'a>(&'a self, want: &'a Want, after: u64) -> impl Iterator<Item = (u64, &'a Kept)> {
        let from = usize::try_from(after).unwrap().min(self.kept.len());
        (from as u64 + 1..).zip(&self.kept[from..]).filter(|(_, kept)| want.fits(kept))
    }

    /// The disk has changed.
    pub fn learn(&mut self, deed: &Deed) {
        let born = self.states.len();
        let mut state = self.state();
        match deed {
            Deed::Stored(events) => {
                for Stored { seq, event } in events {
                    state.last_seq += 1;
                    if *seq != state.last_seq {
                        violated("numbers rise by one, and none comes twice", &format!("{seq}, not {state:?}"));
                    }
                    let id = format!("evt_{:012x}", names().id(*seq));
                    let text = spelled(&id, *seq, event).into();
                    let kind = type_of(event.kind.name());
                    if let Some(other) = self.ids.insert(id, *seq) {
                        violated("ids are unique", &format!("{other} and {seq}"));
                    }
                    self.kept.push(Kept { kind, event: event.clone(), text, born, died: usize::MAX });
                }
            }
            Deed::Forgot(extent, seqs) => {
                for seq in seqs {
                    let kept = &mut self.kept[usize::try_from(*seq).unwrap() - 1];
                    let is_meant = !matches!(extent, Extent::Before(at) if kept.event.at >= *at);
                    if kept.died != usize::MAX || !is_meant {
                        violated("only what was meant is deleted, once", &format!("{seq}, {extent:?}: {kept:?}"));
                    }
                    kept.died = born;
                    state.gone_seq = state.gone_seq.max(*seq);
                }
            }
        }
        self.states.push(state);
    }

    /// Events that were there in the state with this number, newest first.
    fn newest_first(&self, version: usize) -> impl Iterator<Item = &Kept> {
        let born = usize::try_from(self.states[version].last_seq).unwrap();
        self.kept[..born].iter().rev().filter(move |kept| kept.died > version)
    }

    // -----------------------------------------------------------------------------------------------------------
    // What readers are told.

    /// Reads an answer that pages forwards from behind `after`. Returns the last number in it.
    ///
    /// # Errors
    /// What is wrong with it: in the state with the number `since` everything was there, and the page may be newer.
    pub fn read_page(
        &self,
        body: &str,
        want: &Want,
        after: u64,
        limit: usize,
        since: usize,
    ) -> Result<(usize, u64), String> {
        let mut rest = body.strip_prefix('[').ok_or("it is no list")?;
        let (mut count, mut last) = (0, after);
        for (seq, kept) in self.after(want, after) {
            let Some(behind) = rest.strip_prefix(&*kept.text) else {
                if rest == "]" && (count > 0 || seq > self.states[since].last_seq) {
                    return Ok((count, last));
                }
                return Err(format!("at {rest:.300} there is no {}", kept.text));
            };
            (count, last) = (count + 1, seq);
            rest = behind.strip_prefix(',').unwrap_or(behind);
            if count > limit {
                return Err(format!("there are more than {limit}"));
            }
        }
        if rest == "]" { Ok((count, last)) } else { Err(format!("there is no such event: {rest:.300}")) }
    }

    /// Reads an answer that begins with the newest event.
    ///
    /// # Errors
    /// What is wrong with it: it must be what the disk had in one of the states since that numbered `since`.
    pub fn read_newest(
        &self,
        body: &str,
        want: &Want,
        later_than: Option<i64>,
        limit: usize,
        since: usize,
    ) -> Result<usize, String> {
        let list = body.strip_prefix('[').and_then(|body| body.strip_suffix(']')).ok_or("it is no list")?;
        let at_version = |version: usize| {
            let fits =
                |kept: &&Kept| want.fits(kept) && later_than.is_none_or(|later_than| kept.event.at.ms() > later_than);
            let mut rest = list;
            let mut count = 0;
            for kept in self.newest_first(version).filter(fits).take(limit) {
                rest = rest.strip_prefix(&*kept.text)?;
                rest = rest.strip_prefix(',').unwrap_or(rest);
                count += 1;
            }
            rest.is_empty().then_some(count)
        };
        let found = (since..self.states.len()).rev().find_map(at_version);
        found.ok_or_else(|| format!("at no instant since state {since} of {} was that there", self.version()))
    }

    /// Whether these are the figures of the disk in one of the states since that numbered `since`, by one of `walls`.
    pub fn had_figures(&self, stats: &Value, since: usize, walls: &[i64]) -> bool {
        (since..self.states.len()).rev().any(|version| {
            let State { last_seq, gone_seq } = self.states[version];
            if stats["last_seq"] != last_seq || stats["oldest_seq"] != gone_seq + 1 {
                return false;
            }
            let mut counts = [0_u64; TYPES.len()];
            let mut seen = [None; TYPES.len()];
            let mut later = vec![0_u64; walls.len()];
            for kept in &self.kept[..usize::try_from(last_seq).unwrap()] {
                seen[kept.kind] = seen[kept.kind].max(Some(kept.event.at));
                if kept.died > version {
                    counts[kept.kind] += 1;
                    for (count, wall) in later.iter_mut().zip(walls) {
                        *count += u64::from(kept.event.at.ms() > wall - 3_600_000);
                    }
                }
            }
            let Some(by_type) = stats["by_type"].as_array() else { return false };
            let most_first = by_type.windows(2).all(|two| two[0]["count"].as_u64() >= two[1]["count"].as_u64());
            let listed = by_type.iter().all(|line| {
                let Some(kind) = line["event_type"].as_str().map(type_of) else { return false };
                let count = std::mem::take(&mut counts[kind]);
                count > 0
                    && line["count"] == count
                    && line["last_seen"].as_str() == seen[kind].map(date_time_us).as_deref()
            });
            let total = self.newest_first(version).count() as u64;
            most_first
                && listed
                && counts.iter().all(|count| *count == 0)
                && stats["total_events"] == total
                && later.iter().any(|count| stats["events_last_hour"] == *count)
        })
    }

    /// Whether the event was there in one of the states since that numbered `since`, and whether it was missing.
    pub fn was_there(&self, seq: u64, since: usize) -> (bool, bool) {
        let Some(kept) = self.get(seq) else { return (false, true) };
        let there = |version: usize| kept.born <= version && kept.died > version;
        let mut versions = since..self.states.len();
        (versions.clone().any(there), versions.any(|version| !there(version)))
    }

    /// What must not be there any more when everything before `at` was deleted after the state with this number.
    pub fn left_before(&self, at: WallMs, version: usize) -> Option<&Kept> {
        let born = usize::try_from(self.states[version].last_seq).unwrap();
        self.kept[..born].iter().find(|kept| kept.died == usize::MAX && kept.event.at < at)
    }

    /// Events that are there.
    pub fn alive(&self) -> impl Iterator<Item = &Kept> {
        self.newest_first(self.version())
    }
}

/// The object of an event, as the contract prints it.
pub fn spelled(id: &str, seq: u64, event: &Event) -> String {
    let text = |text: Option<&str>| text.map_or("null".to_owned(), |text| Value::from(text).to_string());
    format!(
        r#"{{"id":"{id}","event_type":"{}","source":"{}","session_id":{},"user_id":{},"payload":{},"timestamp":"{}","seq":{seq}}}"#,
        event.kind.name(),
        event.source,
        text(event.session.as_deref()),
        text(event.user.as_deref()),
        event.payload,
        date_time_us(event.at),
    )
}
