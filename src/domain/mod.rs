//! The domain: what is true, and what follows from it.
//!
//! Owns every noun of the four services, the heap of their deadlines, and the batch that makes their changes durable.
//! Standard library only: no socket, no JSON, no disk, no clock, no chance. Commands and time come in as values;
//! verdicts and [`effects`] go out.

pub mod absence;
pub mod assessments;
pub mod beats;
pub mod countdown;
pub mod deadlines;
pub mod delivery;
pub mod disk;
pub mod effects;
pub mod events;
mod hearing;
pub mod history;
pub mod replays;
pub mod rooms;
pub mod session;
pub mod staged;
pub mod timers;

use std::time::Duration;

use crate::clock::Now;
use crate::limits::WALL_STEP_MIN;
use absence::Absence;
use delivery::Delivery;
use disk::Image;
use effects::{Batch, Effects, Scribe};
use events::Events;
use replays::Replays;
use rooms::Rooms;
use timers::Timers;

/// All services over one heap and one store.
#[derive(Debug)]
pub struct Engine {
    /// The timers of the exam rooms.
    pub timers: Timers,
    /// The sessions of those who sit an exam.
    pub delivery: Delivery,
    /// The countdowns that teams share.
    pub rooms: Rooms,
    /// What happened.
    pub events: Events,
    /// Answers kept for their `Idempotency-Key`.
    pub replays: Replays,
    /// What is to be stored, said and awaited.
    pub fx: Effects,
    batch: u64,
    /// A batch is in the disk's hands.
    in_hand: bool,
    clocks: Option<Now>,
}

/// How start-up found the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Return {
    /// How long nobody was there, if anybody ever was.
    pub away: Option<Duration>,
    /// How far the wall clock stands behind the last time it is known to have shown: it cannot be right.
    pub wall_behind: Duration,
}

impl Engine {
    /// An engine without a past, whose events are put into words by `scribe`.
    pub fn new(
        timers: timers::Settings,
        delivery: delivery::Settings,
        rooms: rooms::Settings,
        scribe: Scribe,
    ) -> Self {
        Engine {
            timers: Timers::new(timers),
            delivery: Delivery::new(delivery),
            rooms: Rooms::new(rooms),
            events: Events::default(),
            replays: Replays::default(),
            fx: Effects::new(scribe),
            batch: 0,
            in_hand: false,
            clocks: None,
        }
    }

    /// Takes up where an earlier run ended.
    pub fn restore(&mut self, now: Now, mut image: Image) -> Return {
        let away = image.alive.map(|alive| match image.same_boot {
            true => now.mono.since(alive.mono),
            false => now.wall.since(alive.wall),
        });
        let wall_behind = match image.alive {
            Some(alive) if !image.same_boot => alive.wall.since(now.wall),
            _ => Duration::ZERO,
        };
        self.batch = image.batch;
        self.events.restore(image.names, image.last_seq);
        self.replays.restore(std::mem::take(&mut image.replays));
        let alive = image.alive.unwrap_or(now);
        let absence = Absence { alive, away: away.unwrap_or_default(), same_boot: image.same_boot };
        let kept = std::mem::take(&mut image.delivery);
        self.delivery.restore(now, absence, kept, &mut self.fx);
        self.rooms.restore(now, absence, std::mem::take(&mut image.rooms), &mut self.fx);
        // Within one boot the two clocks still stand to each other as they did, unless one was stepped meanwhile.
        self.clocks = image.alive.filter(|_| image.same_boot);
        self.timers.restore(now, absence, image.serial, image.timers, &mut self.fx);
        self.observe(now);
        Return { away, wall_behind }
    }

    /// Notices a step of the wall clock against the boot clock. Returns how far it went, in milliseconds.
    pub fn observe(&mut self, now: Now) -> Option<i64> {
        let Some(before) = self.clocks else {
            self.clocks = Some(now);
            return None;
        };
        let step_ms = now.wall.ms() - before.wall_at(now.mono).ms();
        if Duration::from_millis(step_ms.unsigned_abs()) < WALL_STEP_MIN {
            return None;
        }
        self.clocks = Some(now);
        self.timers.wall_stepped(now, &mut self.fx);
        self.delivery.wall_stepped(now, &mut self.fx);
        self.rooms.wall_stepped(now, &mut self.fx);
        Some(step_ms)
    }

    /// A batch is in the disk's hands.
    pub fn is_writing(&self) -> bool {
        self.in_hand
    }

    /// Something runs, or is about to: the sign of life must be written.
    pub fn is_any_running(&self) -> bool {
        self.timers.is_any_running() || self.delivery.is_any_running() || self.rooms.is_any_running()
    }

    /// The batch in hand has not come back for too long, so that no command can be taken.
    pub fn lose_patience(&mut self, now: Now) {
        self.delivery.fall_deaf(now);
    }

    /// The number of the batch that gathers.
    pub fn gathering(&self) -> u64 {
        self.batch + 1
    }

    /// What has gathered goes to the disk, even if that is only the sign of life. Never while a batch is in hand.
    pub fn hand_over(&mut self, now: Now) -> Batch {
        debug_assert!(!self.in_hand);
        self.in_hand = true;
        self.batch += 1;
        self.timers.hand_over();
        self.delivery.hand_over();
        self.rooms.hand_over();
        self.events.hand_over();
        self.replays.hand_over();
        self.fx.hand_over(self.batch, now)
    }

    /// The batch in hand is durable, and `last_seq` the number of the last event: pending becomes shown, then what it
    /// held back is said, then what has come due meanwhile happens. In this order: a change is announced before what
    /// follows from it.
    pub fn commit(&mut self, now: Now, last_seq: u64) {
        self.in_hand = false;
        let (timers, sessions, rooms) = (self.timers.commit(), self.delivery.commit(now), self.rooms.commit(now));
        self.events.commit(last_seq);
        self.replays.commit(&mut self.fx);
        self.fx.commit();
        self.timers.resettle(now, timers, &mut self.fx);
        self.delivery.resettle(now, sessions, &mut self.fx);
        self.rooms.resettle(now, rooms, &mut self.fx);
    }

    /// The batch in hand will never be durable, nor will what was judged on top of it.
    pub fn undo(&mut self, now: Now, failed: Batch) {
        self.in_hand = false;
        let (timers, sessions, rooms) = (self.timers.undo(), self.delivery.undo(now), self.rooms.undo(now));
        self.events.undo();
        self.replays.undo();
        self.fx.undo(failed);
        self.timers.resettle(now, timers, &mut self.fx);
        self.delivery.resettle(now, sessions, &mut self.fx);
        self.rooms.resettle(now, rooms, &mut self.fx);
    }

    /// Forgets what is old enough.
    pub fn upkeep(&mut self, now: Now) {
        self.timers.upkeep(now, &mut self.fx);
        self.delivery.upkeep(now, &mut self.fx);
        self.replays.upkeep(now, &mut self.fx);
    }
}
