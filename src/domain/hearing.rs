//! Hearing: when hand-ins could be taken, and when not.
//!
//! Owns the lapses in which a candidate's hand-in would have been in vain: the store could not be written, the disk
//! did not answer, or what was asked went into a batch that failed. A grace counts none of that time. It knows no
//! session.
//!
//! Invariants: lapses do not overlap; a lapse that ends with a failed batch begins with the first deed in that batch,
//! since whoever asked then has asked in vain.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Mono;
use crate::domain::staged::Flight;

/// Lapses that are remembered. Each lasts until the next attempt to write, so that these are more than fit into the
/// longest grace.
const LAPSES_MAX: usize = 4_096;

/// When hand-ins could be taken.
#[derive(Debug, Default)]
pub(super) struct Hearing {
    deaf_since: Option<Mono>,
    /// Lapses that are over, in order of time.
    lapses: VecDeque<(Mono, Mono)>,
    /// The first deed of each batch.
    asked: Flight<Option<Mono>>,
}

impl Hearing {
    /// A deed goes into the gathering batch.
    pub(super) fn asked(&mut self, now: Mono) {
        self.asked.gathering.get_or_insert(now);
    }

    /// The gathering batch goes to the disk.
    pub(super) fn hand_over(&mut self) {
        self.asked.hand_over();
    }

    /// The batch in hand is durable: hand-ins can be taken. Returns whether a lapse has ended.
    pub(super) fn written(&mut self, now: Mono) -> bool {
        self.asked.writing = None;
        let Some(mut since) = self.deaf_since.take() else { return false };
        while let Some((from, _)) = self.lapses.pop_back_if(|(_, to)| *to >= since) {
            since = since.min(from);
        }
        self.lapses.push_back((since, now));
        if self.lapses.len() > LAPSES_MAX {
            self.lapses.pop_front();
        }
        true
    }

    /// The batch in hand failed, and took the gathering one along.
    pub(super) fn failed(&mut self, now: Mono) {
        let Flight { gathering, writing } = std::mem::take(&mut self.asked);
        self.fall_deaf(writing.or(gathering).unwrap_or(now));
    }

    /// The disk does not answer.
    pub(super) fn hung(&mut self, now: Mono) {
        self.fall_deaf(now);
    }

    fn fall_deaf(&mut self, since: Mono) {
        self.deaf_since = Some(self.deaf_since.map_or(since, |earlier| earlier.min(since)));
    }

    /// Since when nothing can be taken, if that is so.
    pub(super) fn deaf_since(&self) -> Option<Mono> {
        self.deaf_since
    }

    /// Nothing can be taken.
    pub(super) fn is_deaf(&self) -> bool {
        self.deaf_since.is_some()
    }

    /// How much of the time since an instant lies in lapses that are over.
    pub(super) fn lost_since(&self, from: Mono) -> Duration {
        let later = self.lapses.iter().rev().take_while(|(_, until)| *until > from);
        later.map(|(since, until)| until.since(from.max(*since))).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: u64) -> Mono {
        Mono::from_ns(s * 1_000_000_000)
    }

    #[test]
    fn a_lapse_begins_with_the_first_deed_that_was_in_vain() {
        let mut hearing = Hearing::default();
        hearing.asked(at(10));
        hearing.asked(at(11));
        hearing.hand_over();
        hearing.asked(at(12));
        hearing.failed(at(15));
        assert!(hearing.is_deaf());
        hearing.hand_over();
        assert!(hearing.written(at(20)) && !hearing.is_deaf());
        assert_eq!(hearing.lost_since(at(0)).as_secs(), 10);
        assert_eq!(hearing.lost_since(at(18)).as_secs(), 2);
        assert_eq!(hearing.lost_since(at(30)).as_secs(), 0);
        hearing.hand_over();
        assert!(!hearing.written(at(40)));
    }

    #[test]
    fn lapses_that_touch_are_one() {
        let mut hearing = Hearing::default();
        hearing.asked(at(5));
        hearing.hand_over();
        hearing.asked(at(8));
        hearing.hung(at(15));
        // What the hanging disk has written was not in vain; what gathered behind it was.
        assert!(hearing.written(at(20)));
        assert_eq!(hearing.lost_since(at(0)).as_secs(), 5);
        hearing.hand_over();
        hearing.failed(at(22));
        hearing.hand_over();
        assert!(hearing.written(at(30)));
        assert_eq!(hearing.lost_since(at(0)).as_secs(), 22);
    }
}
