//! What the domain wants done: records to store, messages to publish, deadlines to arm.
//!
//! Owns the shape of everything that leaves the domain. A *command*'s effects are held until its batch is durable and
//! dropped when it is not; a *consequence*'s (a tick, a warning, an end, a scheduled start) are announced at once and
//! written as soon as they can be. It decides nothing and does no input or output.

use std::sync::Arc;

use crate::clock::Now;
use crate::domain::assessments::{Assessment, Candidate};
use crate::domain::deadlines::Deadlines;
use crate::domain::delivery::{self, Session};
use crate::domain::events::Event;
use crate::domain::history;
use crate::domain::replays::{Digest, Replay};
use crate::domain::rooms::{self, Person, Room};
use crate::domain::staged::Flight;
use crate::domain::timers::{self, Timer, TimerId};
use crate::limits::{BATCH_RECORDS_MAX, RESPONSE_BYTES_GATHERED_MAX};

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
    /// The assessment in this version can be started; in older ones no more.
    Assessment(Arc<Assessment>),
    /// The assessment of this name can be started no more.
    AssessmentGone(Arc<str>),
    /// The candidate as he is known now.
    Candidate(Candidate),
    /// The session as it is now.
    Session(Arc<Session>),
    /// The session is no longer held; what is on the disk of it stays.
    SessionPast(u32),
    /// A response to an item of a session.
    Answer {
        /// The serial number of the session.
        session: u32,
        /// The number of the item in the session's assessment.
        item: u16,
        /// An object as compact JSON.
        response: Arc<str>,
    },
    /// The room as it is now, but for its people.
    Room(Arc<Room>),
    /// The room is gone, with its people.
    RoomGone(u32),
    /// Somebody belongs to a room.
    RoomPerson {
        /// The room's serial number.
        room: u32,
        /// Who.
        person: Person,
    },
    /// Somebody does not belong to a room any more.
    RoomPersonGone {
        /// The room's serial number.
        room: u32,
        /// His number in it.
        person: u32,
    },
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
    /// The sockets of the session with this serial number.
    Session(u32),
    /// Everybody in the room with this serial number.
    Room(u32),
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
    /// A session's.
    Session(delivery::Message),
    /// A room's.
    Room(rooms::Message),
}

/// Writes the payloads of the events that the domain itself tells of. How those are spelled is none of the domain's
/// business: whoever makes an engine brings somebody who can write.
#[derive(Clone, Copy, Debug)]
pub struct Scribe {
    /// Those of a timer.
    pub timer: fn(&timers::Told<'_>) -> Arc<str>,
    /// Those of a session.
    pub session: fn(&delivery::Told<'_>) -> Arc<str>,
}

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
    /// Bytes of responses among them, and of answers that wait for them.
    bytes: usize,
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
            bytes: 0,
        }
    }

    /// A record that follows from shown state.
    pub fn follow(&mut self, record: Record) {
        self.follows.push(record);
    }

    /// A record that a command asked for.
    pub fn command(&mut self, record: Record) {
        match &record {
            Record::Event(_) => self.published += 1,
            Record::Answer { response, .. } => self.bytes += response.len(),
            _ => {}
        }
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

    /// Whether so much has gathered that no more commands are taken before the disk has taken a batch.
    pub fn is_full(&self) -> bool {
        self.gathered() >= BATCH_RECORDS_MAX || self.bytes >= RESPONSE_BYTES_GATHERED_MAX
    }

    /// An answer of so many bytes waits for the gathering batch.
    pub fn burden(&mut self, bytes: usize) {
        self.bytes += bytes;
    }

    /// The gathered records, and what they announce, go to the disk as batch `number`.
    pub fn hand_over(&mut self, number: u64, alive: Now) -> Batch {
        self.held.hand_over();
        (self.published, self.bytes) = (0, 0);
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
        (self.published, self.bytes) = (0, 0);
        let newer = std::mem::replace(&mut self.follows, failed.follows);
        self.follows.extend(newer);
    }
}

impl Default for Effects {
    /// With a scribe who cannot write.
    fn default() -> Self {
        Effects::new(Scribe { timer: |_| Arc::from("{}"), session: |_| Arc::from("{}") })
    }
}
