//! The words between the loop and the disk thread.
//!
//! Owns the two directions of that conversation as plain values, so that a simulated disk can hold it as well as a
//! real one. Jobs are done in the order given, but a write goes before every read that still waits.

use crate::clock::{Now, WallMs};
use crate::domain::effects::Batch;
use crate::domain::history::Entry;
use crate::domain::replays::{Digest, Replay, Stub};
use crate::domain::timers::{Timer, TimerId};

/// What the loop asks of the disk.
#[derive(Debug)]
pub enum Job {
    /// Make this durable. At most one is in hand.
    Write(Batch),
    /// Answer when there is time, with the same ticket.
    Ask(u64, Query),
    /// Forget the history of timers that are gone, up to this instant, in slices.
    Forget(WallMs),
    /// Checkpoint and end.
    Close,
}

/// What only the disk knows.
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
}

/// What the disk tells the loop.
#[derive(Debug)]
pub enum Done {
    /// The batch is durable.
    Written(Batch),
    /// The batch is not on the disk and never will be: checked, not supposed.
    Failed(Batch, String),
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
    /// The kept answers, oldest first.
    pub replays: Vec<Stub>,
}
