//! Answers kept for their `Idempotency-Key`.
//!
//! Owns which keys have been used, by digest; the answers themselves lie on the disk, in the same commit as the
//! change they tell of. It knows neither HTTP nor how a digest is made.
//!
//! Invariants: a key is known from the moment its command is accepted, so that a twin waits for the first; a command
//! that is undone leaves no key behind; at most [`REPLAYS_MAX`] are kept, the oldest goes first.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use crate::clock::{Now, WallMs};
use crate::domain::effects::{Effects, Record};
use crate::domain::staged::{Flight, Hold};
use crate::limits::{REPLAY_AGE_MAX, REPLAYS_MAX};

/// SHA-256 of whatever identifies a thing.
pub type Digest = [u8; 32];

/// A kept answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Replay {
    /// Under which key, with whose it is and for what.
    pub stub: Stub,
    /// What was answered.
    pub first: First,
}

/// What a command was first answered.
#[derive(Clone, Debug, PartialEq)]
pub enum First {
    /// In these words.
    Words {
        /// The HTTP status.
        status: u16,
        /// The header fields that belong to the answer.
        headers: Vec<(String, String)>,
        /// The body.
        body: Arc<[u8]>,
    },
    /// With the event just before it in the same batch, whose number only the disk knows.
    Event,
}

/// What memory keeps of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stub {
    /// Caller, route and key.
    pub key: Digest,
    /// The request's body: another one under the same key is a mistake.
    pub body: Digest,
    /// When it was answered.
    pub at: WallMs,
}

/// What is known of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// Never seen, or too long ago.
    Fresh,
    /// The same request: its answer lies on the disk, or will when the batch is durable.
    Twin(Hold),
    /// The key was used for another body.
    Other,
}

/// The keys.
#[derive(Debug, Default)]
pub struct Replays {
    durable: HashMap<Digest, Stub>,
    oldest_first: VecDeque<Stub>,
    pending: Flight<BTreeMap<Digest, Stub>>,
}

impl Replays {
    /// Takes up what the disk has kept.
    pub fn restore(&mut self, stubs: Vec<Stub>) {
        self.durable = stubs.iter().map(|stub| (stub.key, *stub)).collect();
        self.oldest_first = stubs.into();
    }

    /// What is known of `key`, used for `body`.
    pub fn look_up(&self, now: Now, key: &Digest, body: &Digest) -> Known {
        let Flight { gathering, writing } = &self.pending;
        let gathering = gathering.get(key).map(|stub| (stub, Hold::Gathering));
        let found = gathering
            .or_else(|| writing.get(key).map(|stub| (stub, Hold::Writing)))
            .or_else(|| self.durable.get(key).map(|stub| (stub, Hold::Nothing)))
            .filter(|(stub, _)| now.wall.since(stub.at) < REPLAY_AGE_MAX);
        match found {
            None => Known::Fresh,
            Some((stub, hold)) if stub.body == *body => Known::Twin(hold),
            Some(_) => Known::Other,
        }
    }

    /// Keeps `replay` with the command it answers.
    pub fn stage(&mut self, replay: Replay, fx: &mut Effects) {
        self.pending.gathering.insert(replay.stub.key, replay.stub);
        fx.command(Record::Replay(replay));
    }

    /// The gathering batch goes to the disk.
    pub fn hand_over(&mut self) {
        self.pending.hand_over();
    }

    /// The batch in hand is durable.
    pub fn commit(&mut self, fx: &mut Effects) {
        for (key, stub) in std::mem::take(&mut self.pending.writing) {
            self.durable.insert(key, stub);
            self.oldest_first.push_back(stub);
        }
        while self.oldest_first.len() > REPLAYS_MAX {
            self.forget_oldest(fx);
        }
    }

    /// Neither batch will ever be durable.
    pub fn undo(&mut self) {
        self.pending = Flight::default();
    }

    /// Drops what is too old.
    pub fn upkeep(&mut self, now: Now, fx: &mut Effects) {
        while self.oldest_first.front().is_some_and(|stub| now.wall.since(stub.at) >= REPLAY_AGE_MAX) {
            self.forget_oldest(fx);
        }
    }

    /// Keys kept.
    pub fn len(&self) -> usize {
        self.durable.len()
    }

    /// No key is kept.
    pub fn is_empty(&self) -> bool {
        self.durable.is_empty()
    }

    fn forget_oldest(&mut self, fx: &mut Effects) {
        let Some(stub) = self.oldest_first.pop_front() else { return };
        // The key may have been used anew since its first use grew too old: only the latest use is the one kept.
        if self.durable.get(&stub.key).is_some_and(|latest| latest.at == stub.at) {
            self.durable.remove(&stub.key);
            let Flight { gathering, writing } = &self.pending;
            // Used anew, and on its way to the disk: there the new answer takes the old one's place.
            if !gathering.contains_key(&stub.key) && !writing.contains_key(&stub.key) {
                fx.follow(Record::ReplayGone(stub.key));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Mono;

    fn at(s: u64) -> Now {
        Now { mono: Mono::from_ns(s * 1_000_000_000), wall: WallMs::from_ms(i64::try_from(s).unwrap() * 1000) }
    }

    fn replay(key: u8, body: u8, s: u64) -> Replay {
        let stub = Stub { key: [key; 32], body: [body; 32], at: at(s).wall };
        Replay { stub, first: First::Event }
    }

    #[test]
    fn a_twin_waits_and_an_undone_command_leaves_no_key() {
        let (mut replays, mut fx) = (Replays::default(), Effects::default());
        replays.stage(replay(1, 1, 10), &mut fx);
        assert_eq!(replays.look_up(at(10), &[1; 32], &[1; 32]), Known::Twin(Hold::Gathering));
        assert_eq!(replays.look_up(at(10), &[1; 32], &[2; 32]), Known::Other);
        replays.hand_over();
        assert_eq!(replays.look_up(at(10), &[1; 32], &[1; 32]), Known::Twin(Hold::Writing));
        replays.undo();
        assert_eq!(replays.look_up(at(10), &[1; 32], &[1; 32]), Known::Fresh);
    }

    #[test]
    fn a_key_is_forgotten_after_a_day() {
        let (mut replays, mut fx) = (Replays::default(), Effects::default());
        replays.stage(replay(1, 1, 0), &mut fx);
        replays.hand_over();
        replays.commit(&mut fx);
        assert_eq!(replays.look_up(at(86_399), &[1; 32], &[1; 32]), Known::Twin(Hold::Nothing));
        assert_eq!(replays.look_up(at(86_400), &[1; 32], &[9; 32]), Known::Fresh);
        // Used anew before upkeep came by: the new use stays.
        replays.stage(replay(1, 9, 86_401), &mut fx);
        replays.hand_over();
        replays.commit(&mut fx);
        replays.upkeep(at(86_402), &mut fx);
        assert_eq!(replays.look_up(at(86_402), &[1; 32], &[9; 32]), Known::Twin(Hold::Nothing));
        replays.upkeep(at(200_000), &mut fx);
        assert!(replays.is_empty());
    }

    #[test]
    fn no_more_than_the_bound_are_kept() {
        let (mut replays, mut fx) = (Replays::default(), Effects::default());
        for n in 0..=u32::try_from(REPLAYS_MAX).unwrap() {
            let mut one = replay(0, 0, 1);
            one.stub.key[..4].copy_from_slice(&n.to_le_bytes());
            replays.stage(one, &mut fx);
        }
        replays.hand_over();
        replays.commit(&mut fx);
        assert_eq!(replays.len(), REPLAYS_MAX);
        assert_eq!(replays.look_up(at(2), &[0; 32], &[0; 32]), Known::Fresh, "the oldest went");
    }
}
