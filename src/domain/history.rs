//! Who did what to a timer, and when.
//!
//! Owns the words of the history. An entry is a fact: written in the commit of the change it tells of, never changed,
//! kept after the timer is gone.

use std::sync::Arc;

use crate::clock::WallMs;
use crate::domain::timers::TimerId;

/// Who acts: a key's name, or one of the names below.
pub type Actor = Arc<str>;

/// The actor of a command without a key.
pub const ANONYMOUS: &str = "anonymous";
/// The actor of a scheduled start.
pub const SCHEDULE: &str = "schedule";
/// The actor of what the daemon does by itself.
pub const TIMERD: &str = "timerd";

/// One change of one timer.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Whose.
    pub timer: TimerId,
    /// The timer's revision after the change: counts from 1 without a gap.
    pub revision: u64,
    /// The true instant, not the one of writing.
    pub at: WallMs,
    /// What happened.
    pub action: Action,
    /// Who did it.
    pub actor: Actor,
    /// What was left after the change, in milliseconds of the timer's time.
    pub remaining_ms: u64,
}

/// What happened, with what a reader of the history needs to know besides.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// It came into being.
    Created {
        /// As it is called: after deletion nothing else tells.
        name: Arc<str>,
        /// Seconds it was created with.
        duration_s: u32,
    },
    /// It will start by itself.
    Scheduled {
        /// When.
        start_at: WallMs,
    },
    /// It runs for the first time.
    Started,
    /// It stands still.
    Paused,
    /// It runs again.
    Resumed,
    /// It lasts longer.
    Extended {
        /// Seconds more.
        added_s: u32,
    },
    /// It was ended by hand.
    Stopped,
    /// It ran out.
    Expired,
    /// It gave its place back.
    Deleted,
    /// The daemon was away, and the policy was to let the clock stand still meanwhile.
    Outage {
        /// Milliseconds given back.
        added_ms: u64,
    },
}

impl Action {
    /// The action's name in the contract.
    pub fn name(&self) -> &'static str {
        match self {
            Action::Created { .. } => "created",
            Action::Scheduled { .. } => "scheduled",
            Action::Started => "started",
            Action::Paused => "paused",
            Action::Resumed => "resumed",
            Action::Extended { .. } => "extended",
            Action::Stopped => "stopped",
            Action::Expired => "expired",
            Action::Deleted => "deleted",
            Action::Outage { .. } => "outage",
        }
    }
}
