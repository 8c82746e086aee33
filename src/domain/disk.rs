//! The words between the loop and the disk thread.
//!
//! Owns the two directions of that conversation as plain values, so that a simulated disk can hold it as well as a
//! real one. Jobs are done in the order given, but a write goes before every read that still waits.

use std::sync::Arc;

use crate::clock::{Now, WallMs};
use crate::domain::delivery::{Kept, SessionId, State};
use crate::domain::effects::Batch;
use crate::domain::events::{Filter, Kind, Names, Stored};
use crate::domain::history::Entry;
use crate::domain::replays::{Digest, Replay, Stub};
use crate::domain::rooms;
use crate::domain::timers::{Timer, TimerId};

/// What the loop asks of the disk.
#[derive(Debug)]
pub enum Job {
    /// Make this durable. At most one is in hand.
    Write(Batch),
    /// Answer when there is time, with the same ticket.
    Ask(u64, Query),
    /// Forget what is old, in slices, when there is time. Of two orders of a kind one is enough: the next is never far.
    Forget(Old),
    /// Checkpoint and end.
    Close,
}

/// What an operator does not want to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Old {
    /// History of timers that were deleted before this instant.
    History(WallMs),
    /// What came of sessions that are no longer held and ended before this instant.
    Results(WallMs),
    /// Events.
    Events(Extent),
}

/// Some of the events, for deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All that there are when it begins.
    All,
    /// Those whose timestamp lies before this instant.
    Before(WallMs),
    /// Those beyond so many, the oldest.
    Beyond(u64),
}

/// What only the disk knows, or can do.
#[derive(Clone, Debug, PartialEq)]
pub enum Query {
    /// A page of a timer's history, oldest first.
    History {
        /// Whose.
        timer: TimerId,
        /// Entries of later revisions only.
        after: u64,
        /// Rows at most.
        limit: u32,
    },
    /// The answer kept under this key.
    Replay(Digest),
    /// The event with this number.
    Event(u64),
    /// Some events.
    Events(Search),
    /// The figures of all events, those of the last hour being those after this instant.
    EventStats(WallMs),
    /// Deletes events for good. Answered when it is done.
    ForgetEvents(Extent),
    /// The responses of the session with this serial number.
    Responses(u32),
    /// A page of what came of an assessment.
    Results {
        /// Of which.
        assessment: Arc<str>,
        /// Sessions with higher serial numbers only; 0: from the first on, and what items there are.
        after: u32,
        /// Bytes of responses at which the page ends.
        bytes_max: usize,
    },
}

/// Which events are looked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Search {
    /// Which.
    pub filter: Filter,
    /// With timestamps later than this.
    pub since: Option<WallMs>,
    /// From where, and in which direction.
    pub order: Order,
    /// How many at most.
    pub limit: u32,
    /// Bytes of events at which a page ends early.
    pub bytes_max: usize,
    /// Events looked at, wanted or not, after which a page read forwards may end early.
    pub rows_max: u32,
}

/// The direction of a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// From the end.
    NewestFirst,
    /// From behind this number on.
    After(u64),
}

/// What the disk tells the loop.
#[derive(Debug)]
pub enum Done {
    /// The batch is durable; so many events have ever been numbered.
    Written(Batch, u64),
    /// The batch is not on the disk and never will be: checked, not supposed.
    Failed(Batch, String),
    /// The batch in hand could not be written, and the disk does not even tell whether it was: what came of it will be
    /// told when it does.
    Doubted(String),
    /// The answer to the question with this ticket, or why there is none.
    Answered(u64, Result<Answer, String>),
    /// Everything is checkpointed; the thread is gone.
    Closed,
}

/// The answer to a [`Query`].
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// The page; `None` when no such timer ever was.
    History(Option<Vec<Entry>>),
    /// The kept answer, unless it has been dropped meanwhile.
    Replay(Option<Replay>),
    /// The kept answer was the publication of this event, unless it has been deleted.
    ReplayedEvent(Option<Stored>),
    /// The event, if there is one.
    Event(Option<Stored>),
    /// A page of events, or why there is none.
    Events(Result<Page, Gone>),
    /// The figures.
    EventStats(EventStats),
    /// So many events were deleted.
    Forgotten(u64),
    /// The responses of the session with this serial number, by number of the item.
    Responses(u32, Vec<(u16, Arc<str>)>),
    /// The page; `None`: nothing is known of the assessment.
    Results(Option<Results>),
}

/// A page of what came of an assessment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Results {
    /// On the first page: ids of all items there ever were, those of the newest version first, as written.
    pub items: Vec<Arc<str>>,
    /// Sessions, in order of their starts.
    pub rows: Vec<ResultRow>,
    /// There is nothing more.
    pub is_last: bool,
}

/// What came of a session.
#[derive(Clone, Debug, PartialEq)]
pub struct ResultRow {
    /// The session's serial number.
    pub serial: u32,
    /// Its name to clients.
    pub session: SessionId,
    /// Whose.
    pub candidate: Arc<str>,
    /// Whose, as the test's provider calls him.
    pub test_taker: Arc<str>,
    /// Where in its life it is.
    pub state: State,
    /// The limit in force, in real nanoseconds.
    pub limit_ns: Option<u64>,
    /// When it began.
    pub started_at: WallMs,
    /// When it ended.
    pub completed_at: Option<WallMs>,
    /// By how much it was handed in late.
    pub late_ms: Option<u64>,
    /// Responses by id of the item, in the order delivered; whether it is flagged, for those that are or have one.
    pub items: Vec<ResultItem>,
}

/// An item of a session that was answered or flagged.
#[derive(Clone, Debug, PartialEq)]
pub struct ResultItem {
    /// The item's id.
    pub id: Arc<str>,
    /// Its response, if it has one.
    pub response: Option<Arc<str>>,
    /// Whether it is flagged.
    pub is_flagged: bool,
}

/// A page of events.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// In the order asked for.
    pub events: Vec<Stored>,
    /// Read forwards: whatever was asked for up to this number is in the page.
    pub upto: u64,
    /// There was nothing more to be found.
    pub is_last: bool,
}

/// Reading in order is not possible from there: events behind it were deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone {
    /// The highest number that was ever deleted.
    pub upto: u64,
}

/// The figures of all events.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EventStats {
    /// Events kept.
    pub total: u64,
    /// Those of the last hour.
    pub last_hour: u64,
    /// Of each type that there is: how many, and the latest timestamp it ever had.
    pub by_kind: Vec<(Kind, u64, WallMs)>,
    /// From which number on everything is there.
    pub oldest_seq: u64,
    /// The number of the last one ever stored; 0 before the first.
    pub last_seq: u64,
}

/// Everything that start-up needs from the disk.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Image {
    /// The number of the last durable batch.
    pub batch: u64,
    /// The last sign of life, if there ever was one.
    pub alive: Option<Now>,
    /// Whether boot times in it are of this boot.
    pub same_boot: bool,
    /// The highest serial number that any timer ever had.
    pub serial: u32,
    /// The timers, in order of their serial numbers.
    pub timers: Vec<Timer>,
    /// Sessions and what they are made of.
    pub delivery: Kept,
    /// The rooms with their people.
    pub rooms: rooms::Kept,
    /// The kept answers, oldest first.
    pub replays: Vec<Stub>,
    /// The number of the last event ever stored.
    pub last_seq: u64,
    /// The names of the events.
    pub names: Names,
}
