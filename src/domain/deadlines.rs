//! The one heap of deadlines.
//!
//! Owns who is to be woken when, and which of a sleeper's entries is the one that counts ([`Alarm`]). It knows the
//! kinds of sleeper by name only: what waking means is decided by whoever takes a [`Due`] out. A sleeper that wants
//! another instant changes its generation; the stale entry is dropped when it surfaces, or in a sweep when there are
//! many.
//!
//! Invariants: deadlines come out in order of time; equal ones in an order that changes from round to round, so that
//! among a thousand timers started together nobody is always served last.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use crate::clock::Mono;

/// A sleeper, as its room numbers it, and which of its alarms this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sleeper {
    /// The number of the noun or connection.
    pub number: u32,
    /// The alarm is stale when the sleeper's own generation is another.
    pub generation: u32,
}

/// What a deadline is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// A timer's tick, end or scheduled start.
    Timer(Sleeper),
    /// A session's or section's end, or that of a grace.
    Session(Sleeper),
    /// A room's tick or end, or what becomes of those who are not there.
    Room(Sleeper),
    /// The ticks of all sessions in this slot of the second.
    Beat(u32),
    /// A connection's next keepalive, ping or limit of patience.
    Connection(Sleeper),
    /// The sign of life of everything running.
    Heartbeat,
    /// What may be forgotten by now.
    Upkeep,
}

/// A sleeper's one entry in the heap that is not stale.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alarm {
    at: Option<Mono>,
    generation: u32,
}

impl Alarm {
    /// When it will go off, if it is set.
    pub fn at(self) -> Option<Mono> {
        self.at
    }

    /// Goes off at `next`, for the sleeper with this number, and at no other time.
    pub fn set(&mut self, next: Option<Mono>, number: u32, due: fn(Sleeper) -> Due, deadlines: &mut Deadlines) {
        if next != self.at {
            self.cancel();
            self.at = next;
            if let Some(at) = next {
                deadlines.arm(at, due(Sleeper { number, generation: self.generation }));
            }
        }
    }

    /// Whatever is in the heap is stale from here on.
    pub fn cancel(&mut self) {
        self.generation = self.generation.wrapping_add(1);
        self.at = None;
    }

    /// Whether this entry is the one that counts.
    pub fn is(self, sleeper: Sleeper) -> bool {
        self.generation == sleeper.generation
    }

    /// This entry was taken out of the heap. Returns whether it is the one that counts; then none is left.
    pub fn goes_off(&mut self, sleeper: Sleeper) -> bool {
        if self.is(sleeper) {
            self.at = None;
        }
        self.is(sleeper)
    }
}

/// The heap.
#[derive(Debug, Default)]
pub struct Deadlines {
    heap: BinaryHeap<Entry>,
    pushed: u32,
}

impl Deadlines {
    /// Wakes `due` at `at`, or in the turn after.
    pub fn arm(&mut self, at: Mono, due: Due) {
        self.pushed = self.pushed.wrapping_add(1);
        // Knuth's multiplicative hash: neighbours of one round are strangers in the next.
        let order = self.pushed.wrapping_mul(2_654_435_769);
        self.heap.push(Entry { at, order, due });
    }

    /// The earliest deadline, stale ones included.
    pub fn next(&self) -> Option<Mono> {
        self.heap.peek().map(|entry| entry.at)
    }

    /// Takes the earliest deadline if it is not after `now`.
    pub fn pop(&mut self, now: Mono) -> Option<(Mono, Due)> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|entry| (entry.at, entry.due))
    }

    /// Drops every deadline that `keep` does not want.
    pub fn retain(&mut self, mut keep: impl FnMut(Mono, Due) -> bool) {
        self.heap.retain(|entry| keep(entry.at, entry.due));
    }

    /// Deadlines held, stale ones included.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Nothing is awaited.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Entry {
    at: Mono,
    order: u32,
    due: Due,
}

impl Ord for Entry {
    /// Reversed: `BinaryHeap` gives its greatest first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timer(number: u32) -> Due {
        Due::Timer(Sleeper { number, generation: 0 })
    }

    #[test]
    fn deadlines_come_in_order_of_time_and_never_early() {
        let mut deadlines = Deadlines::default();
        for ns in [30, 10, 20] {
            deadlines.arm(Mono::from_ns(ns), timer(u32::try_from(ns).unwrap()));
        }
        assert_eq!(deadlines.next(), Some(Mono::from_ns(10)));
        assert_eq!(deadlines.pop(Mono::from_ns(9)), None);
        assert_eq!(deadlines.pop(Mono::from_ns(25)), Some((Mono::from_ns(10), timer(10))));
        assert_eq!(deadlines.pop(Mono::from_ns(25)), Some((Mono::from_ns(20), timer(20))));
        assert_eq!(deadlines.pop(Mono::from_ns(25)), None);
        assert_eq!(deadlines.len(), 1);
    }

    #[test]
    fn of_a_sleepers_alarms_the_last_one_set_counts() {
        let mut deadlines = Deadlines::default();
        let mut alarm = Alarm::default();
        for ns in [10, 20, 20] {
            alarm.set(Some(Mono::from_ns(ns)), 7, Due::Timer, &mut deadlines);
        }
        assert_eq!(deadlines.len(), 2, "what is set already is not set again");
        let rings = |deadlines: &mut Deadlines, alarm: &mut Alarm| match deadlines.pop(Mono::MAX) {
            Some((_, Due::Timer(sleeper))) => alarm.goes_off(sleeper),
            _ => panic!(),
        };
        assert!(!rings(&mut deadlines, &mut alarm), "stale");
        assert_eq!(alarm.at(), Some(Mono::from_ns(20)));
        assert!(rings(&mut deadlines, &mut alarm));
        assert_eq!(alarm.at(), None);
        alarm.set(Some(Mono::from_ns(30)), 7, Due::Timer, &mut deadlines);
        alarm.cancel();
        assert!(!rings(&mut deadlines, &mut alarm));
    }

    #[test]
    fn the_order_of_equals_changes_from_round_to_round() {
        let mut deadlines = Deadlines::default();
        let mut firsts = std::collections::HashSet::new();
        for round in 0..200 {
            (0..100).for_each(|n| deadlines.arm(Mono::from_ns(round), timer(n)));
            let Some((_, Due::Timer(first))) = deadlines.pop(Mono::from_ns(round)) else { panic!() };
            firsts.insert(first.number);
            while deadlines.pop(Mono::from_ns(round)).is_some() {}
        }
        assert!(firsts.len() > 30, "only {} of 100 were ever first", firsts.len());
    }
}
