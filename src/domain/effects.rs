//! What the domain wants done: records to store, messages to publish, deadlines to arm.
//!
//! Owns the shape of everything that leaves the domain. A *command*'s effects are held until its batch is durable and
//! dropped when it is not; a *consequence*'s (a tick, a warning, an end, a scheduled start) are announced at once and
//! written as soon as they can be. It decides nothing and does no input or output.

use std::sync::Arc;

use crate::clock::Now;
use crate::domain::deadlines::Deadlines;
use crate::domain::events::Event;
use crate::domain::history;
use crate::domain::replays::{Digest, Replay};
use crate::domain::staged::Flight;
use crate::domain::timers::{self, Timer, TimerId};

/// One fact for the disk. Applying it needs no clock and no chance: the same everywhere.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// The timer as it is now.
    Timer(Timer),
    /// The timer gave its place back; its history stays.
    TimerGone(TimerId),
    /// Who did what when.
    History(history::Entry),
    /// Something happened. The disk numbers it.
    Event(Event),
    /// The answer to a command, kept for its `Idempotency-Key`.
    Replay(Replay),
    /// An answer too old, or one too many.
    ReplayGone(Digest),
}

impl Record {
    /// The event, if it is one.
    pub fn into_event(self) -> Option<Event> {
        match self {
            Record::Event(event) => Some(event),
            _ => None,
        }
    }
}

/// What one commit makes durable, all or nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// One more than the batch before. Stored with it, so that a commit cut short can be judged.
    pub number: u64,
    /// The sign of life: the daemon was there at this time.
    pub alive: Now,
    /// Written first: what followed from shown state, never undone.
    pub follows: Vec<Record>,
    /// What commands asked for, undone when the batch fails.
    pub commands: Vec<Record>,
}

impl Batch {
    /// The events that commands asked for, in order; the disk has numbered them behind those of what followed.
    pub fn published(&self) -> impl Iterator<Item = &Event> {
        self.commands.iter().filter_map(|record| match record {
            Record::Event(event) => Some(event),
            _ => None,
        })
    }
}

/// Who hears a message: everybody at one noun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Topic {
    /// The clients of the timer with this serial number.
    Timer(u32),
}

/// Something said to an audience.
#[derive(Clone, Debug, PartialEq)]
pub struct Announcement {
    /// To whom.
    pub topic: Topic,
    /// What.
    pub message: Message,
}

/// What each service has to say.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// A timer's.
    Timer(timers::Message),
}

/// Writes the payload of an event that the domain itself tells of. How that is spelled is none of the domain's
/// business: whoever makes an engine brings somebody who can write.
pub type Scribe = fn(&timers::Told<'_>) -> Arc<str>;

/// The effects gathered so far.
#[derive(Debug)]
pub struct Effects {
    /// Who is woken when.
    pub deadlines: Deadlines,
    /// Said now: what followed, and what has become durable.
    pub announcements: Vec<Announcement>,
    /// Said when its batch is durable.
    pub held: Flight<Vec<Announcement>>,
    /// Writes payloads.
    pub scribe: Scribe,
    follows: Vec<Record>,
    commands: Vec<Record>,
    /// Events among the gathered commands.
    published: u32,
}

impl Effects {
    /// Nothing gathered; payloads are written by `scribe`.
    pub fn new(scribe: Scribe) -> Self {
        Effects {
            deadlines: Deadlines::default(),
            announcements: Vec::new(),
            held: Flight::default(),
            scribe,
            follows: Vec::new(),
            commands: Vec::new(),
            published: 0,
        }
    }

    /// A record that follows from shown state.
    pub fn follow(&mut self, record: Record) {
        self.follows.push(record);
    }

    /// A record that a command asked for.
    pub fn command(&mut self, record: Record) {
        self.published += u32::from(matches!(record, Record::Event(_)));
        self.commands.push(record);
    }

    /// An event that a command asked for. Returns its place among the events of the batch's commands, from 0.
    pub fn publish(&mut self, event: Event) -> u32 {
        let place = self.published;
        self.command(Record::Event(event));
        place
    }

    /// Says `message` now.
    pub fn announce(&mut self, topic: Topic, message: Message) {
        self.announcements.push(Announcement { topic, message });
    }

    /// Says `message` when the gathering batch is durable.
    pub fn announce_when_durable(&mut self, topic: Topic, message: Message) {
        self.held.gathering.push(Announcement { topic, message });
    }

    /// Records gathered for the next batch.
    pub fn gathered(&self) -> usize {
        self.follows.len() + self.commands.len()
    }

    /// The gathered records, and what they announce, go to the disk as batch `number`.
    pub fn hand_over(&mut self, number: u64, alive: Now) -> Batch {
        self.held.hand_over();
        self.published = 0;
        let follows = std::mem::take(&mut self.follows);
        let commands = std::mem::take(&mut self.commands);
        Batch { number, alive, follows, commands }
    }

    /// The batch in hand is durable: what it held back is said.
    pub fn commit(&mut self) {
        self.announcements.append(&mut self.held.writing);
    }

    /// The batch in hand will never be: its consequences gather again, before those of the batch behind it; the
    /// commands of both are dropped.
    pub fn undo(&mut self, failed: Batch) {
        self.held = Flight::default();
        self.commands.clear();
        self.published = 0;
        let newer = std::mem::replace(&mut self.follows, failed.follows);
        self.follows.extend(newer);
    }
}

impl Default for Effects {
    /// With a scribe who cannot write.
    fn default() -> Self {
        Effects::new(|_| Arc::from("{}"))
    }
}
