//! Answers that sockets wait for.
//!
//! Owns the order of a socket's answers, some of which may leave only when their batch is durable. What an answer
//! says is the business of whoever put it here, and so is sending it.
//!
//! Invariants: answers leave in the order of messages; one that is held holds those behind it; each is given out once,
//! as what it is or as what is said in its place when its batch never will be durable.

use std::collections::{HashMap, VecDeque};

use crate::domain::staged::{Flight, Hold};
use crate::hub::conn::ConnId;

/// Everybody who waits for an answer.
#[derive(Debug)]
pub(super) struct Desks<W> {
    unanswered: HashMap<u32, VecDeque<Owed<W>>>,
    /// Who waits for which batch.
    waiting: Flight<Vec<ConnId>>,
}

/// An answer that waits.
#[derive(Debug)]
struct Owed<W> {
    /// For the batch with this number; 0: for those before it, and for room to be sent.
    batch: u64,
    words: W,
}

impl<W> Default for Desks<W> {
    fn default() -> Self {
        Desks { unanswered: HashMap::new(), waiting: Flight::default() }
    }
}

impl<W> Desks<W> {
    /// Whether a connection waits for answers.
    pub(super) fn awaits(&self, index: u32) -> bool {
        self.unanswered.contains_key(&index)
    }

    /// How many answers a connection waits for.
    pub(super) fn waits_for(&self, index: u32) -> usize {
        self.unanswered.get(&index).map_or(0, VecDeque::len)
    }

    /// A connection is over.
    pub(super) fn close(&mut self, index: u32) {
        self.unanswered.remove(&index);
    }

    /// Puts answers behind those that are there, to be held as the first says. The batch that gathers has this number.
    pub(super) fn owe(&mut self, id: ConnId, hold: Hold, gathering: u64, words: impl IntoIterator<Item = W>) {
        let batch = match hold {
            Hold::Nothing => 0,
            Hold::Writing => gathering - 1,
            Hold::Gathering => gathering,
        };
        match hold {
            Hold::Nothing => {}
            Hold::Writing => self.waiting.writing.push(id),
            Hold::Gathering => self.waiting.gathering.push(id),
        }
        let unanswered = self.unanswered.entry(id.index).or_default();
        unanswered.extend(words.into_iter().map(|words| Owed { batch, words }));
    }

    /// The gathering batch goes to the disk.
    pub(super) fn hand_over(&mut self) {
        self.waiting.hand_over();
    }

    /// The batch with this number is durable. Returns who has waited for it.
    pub(super) fn release(&mut self, durable: u64) -> Vec<ConnId> {
        let waiting = std::mem::take(&mut self.waiting.writing);
        for id in &waiting {
            for owed in self.unanswered.get_mut(&id.index).into_iter().flatten() {
                if owed.batch <= durable {
                    owed.batch = 0;
                }
            }
        }
        waiting
    }

    /// What waits for a batch waits in vain: `instead` is said in its place, or nothing. Returns who has waited.
    pub(super) fn disappoint(&mut self, instead: impl Fn(W) -> Option<W>) -> Vec<ConnId> {
        let Flight { gathering, writing } = std::mem::take(&mut self.waiting);
        let waiting: Vec<ConnId> = writing.into_iter().chain(gathering).collect();
        for id in &waiting {
            let Some(unanswered) = self.unanswered.get_mut(&id.index) else { continue };
            *unanswered = std::mem::take(unanswered)
                .into_iter()
                .filter_map(|owed| match owed.batch {
                    0 => Some(owed),
                    _ => instead(owed.words).map(|words| Owed { batch: 0, words }),
                })
                .collect();
        }
        waiting
    }

    /// Takes the next answer of a connection that may leave.
    pub(super) fn next(&mut self, index: u32) -> Option<W> {
        let unanswered = self.unanswered.get_mut(&index)?;
        let next = unanswered.pop_front_if(|owed| owed.batch == 0);
        if unanswered.is_empty() {
            self.unanswered.remove(&index);
        }
        next.map(|owed| owed.words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_leave_in_order_and_the_held_hold_those_behind_them() {
        let mut desks = Desks::default();
        let id = ConnId { index: 7, generation: 1 };
        desks.owe(id, Hold::Nothing, 5, ["a"]);
        desks.owe(id, Hold::Gathering, 5, ["b", "c"]);
        desks.owe(id, Hold::Nothing, 5, ["d"]);
        assert_eq!((desks.next(7), desks.next(7), desks.waits_for(7)), (Some("a"), None, 3));
        desks.hand_over();
        desks.owe(id, Hold::Gathering, 6, ["e"]);
        assert_eq!(desks.release(5), [id]);
        assert_eq!(
            [desks.next(7), desks.next(7), desks.next(7), desks.next(7)],
            [Some("b"), Some("c"), Some("d"), None]
        );
        desks.owe(id, Hold::Nothing, 6, ["f"]);
        assert_eq!(desks.disappoint(|_| Some("no")), [id]);
        assert_eq!([desks.next(7), desks.next(7), desks.next(7)], [Some("no"), Some("f"), None]);
        assert!(!desks.awaits(7));
    }
}
