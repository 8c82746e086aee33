//! Beats: in which slot of the second which session is told the time.
//!
//! Owns the slots of ten milliseconds into which a second is cut, and who has a tick in each. A hundred thousand
//! sessions have a hundred thousand grids of their own; whoever is told within one slot is told at its end, so that
//! one alarm serves a thousand and one encoding all of them that show the same second. It knows no session beyond its
//! number and its end, and touches nothing else: that is what a tick costs.
//!
//! Invariants: a tick is never early, and late by a slot at most; the seconds told of one end strictly fall; the end
//! itself is not told here.

use crate::clock::{Mono, Now};
use crate::domain::countdown::{Countdown, Deadline, Second};
use crate::limits::TICK_SLOT;

/// A session's place among the beats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beat {
    slot: u32,
    index: u32,
    ends: Mono,
}

impl Beat {
    /// Towards which end it beats.
    pub fn ends(self) -> Mono {
        self.ends
    }
}

/// A tick: which session, and the seconds that are left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tick {
    /// Whose.
    pub serial: u32,
    /// Rounded up, 1 or more.
    pub left_s: u32,
}

/// All slots of a second.
#[derive(Debug)]
pub struct Beats {
    second: Second,
    slots: Vec<Slot>,
}

#[derive(Clone, Debug, Default)]
struct Slot {
    members: Vec<Member>,
    /// Its alarm is set.
    is_armed: bool,
}

#[derive(Clone, Copy, Debug)]
struct Member {
    serial: u32,
    /// The lowest second told.
    told_s: u32,
    ends: Mono,
}

impl Beats {
    /// Slots of such a second.
    pub fn new(second: Second) -> Self {
        let slots = second.span(1).as_nanos().div_ceil(TICK_SLOT.as_nanos());
        Beats { second, slots: vec![Slot::default(); usize::try_from(slots).unwrap_or(1)] }
    }

    /// A session that ends then is told the time from here on, having been told what is left now. Returns its place,
    /// and the alarm to set if nobody was in its slot.
    pub fn join(&mut self, now: Now, serial: u32, ends: Deadline) -> (Beat, Option<(Mono, u32)>) {
        let slot = self.slot_of(ends.mono);
        let left_s = self.second.ceil(Countdown::Running { ends }.left(now));
        let next = self.next(slot, now.mono);
        let Slot { members, is_armed } = &mut self.slots[slot];
        members.push(Member { serial, told_s: left_s, ends: ends.mono });
        let index = u32::try_from(members.len() - 1).unwrap_or(u32::MAX);
        let slot = u32::try_from(slot).unwrap_or(u32::MAX);
        let alarm = (!std::mem::replace(is_armed, true)).then_some((next, slot));
        (Beat { slot, index, ends: ends.mono }, alarm)
    }

    /// A session leaves its place. Returns the session that has moved there, with its new place, if one has.
    pub fn leave(&mut self, place: Beat) -> Option<(u32, Beat)> {
        let members = &mut self.slots.get_mut(place.slot as usize)?.members;
        let index = place.index as usize;
        if index < members.len() {
            members.swap_remove(index);
        }
        members.get(index).map(|moved| (moved.serial, Beat { ends: moved.ends, ..place }))
    }

    /// The alarm of `slot` went off: its ticks go into `ticks`. Returns when it is to go off again, if anybody is left
    /// in it.
    pub fn beat(&mut self, now: Now, slot: u32, ticks: &mut Vec<Tick>) -> Option<Mono> {
        let second = self.second;
        let next = self.next(slot as usize, now.mono);
        let Slot { members, is_armed } = self.slots.get_mut(slot as usize)?;
        for Member { serial, told_s, ends } in members.iter_mut() {
            let left_s = second.ceil(ends.since(now.mono));
            if 0 < left_s && left_s < *told_s {
                *told_s = left_s;
                ticks.push(Tick { serial: *serial, left_s });
            }
        }
        *is_armed = !members.is_empty();
        is_armed.then_some(next)
    }

    /// The slot that closes at the grid of such an end, or up to ten milliseconds after it.
    fn slot_of(&self, ends: Mono) -> usize {
        let phase_ns = ends.ns() % self.second_ns();
        let slot = usize::try_from(phase_ns.div_ceil(slot_ns())).unwrap_or(0);
        slot % self.slots.len()
    }

    /// The first instant after `now` at which a slot closes: the one numbered 0 with the second itself.
    fn next(&self, slot: usize, now: Mono) -> Mono {
        let second_ns = self.second_ns();
        let phase_ns = (slot as u64 * slot_ns()).min(second_ns);
        let began_ns = now.ns() / second_ns * second_ns;
        let closes_ns = began_ns + phase_ns;
        Mono::from_ns(if closes_ns > now.ns() { closes_ns } else { closes_ns + second_ns })
    }

    fn second_ns(&self) -> u64 {
        u64::try_from(self.second.span(1).as_nanos()).unwrap_or(u64::MAX)
    }
}

const fn slot_ns() -> u64 {
    TICK_SLOT.as_nanos() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::WallMs;

    const MS: u64 = 1_000_000;

    fn at(ns: u64) -> Now {
        Now { mono: Mono::from_ns(ns), wall: WallMs::default() }
    }

    fn ends(ns: u64) -> Deadline {
        Deadline { mono: Mono::from_ns(ns), wall: WallMs::default() }
    }

    /// Runs the slots of `beats` from their alarms, each with its instant and ticks.
    fn run(beats: &mut Beats, mut alarms: Vec<(Mono, u32)>, until_ns: u64) -> Vec<(u64, Vec<Tick>)> {
        let mut told = Vec::new();
        while let Some(first) = (0..alarms.len()).min_by_key(|at| alarms[*at].0) {
            let (when, slot) = alarms.swap_remove(first);
            if when.ns() > until_ns {
                break;
            }
            let mut ticks = Vec::new();
            let next = beats.beat(at(when.ns()), slot, &mut ticks);
            alarms.extend(next.map(|next| (next, slot)));
            told.push((when.ns(), ticks));
        }
        told
    }

    #[test]
    fn a_tick_is_never_early_and_late_by_a_slot_at_most() {
        for second in [Second::REAL, Second::from_ms(190), Second::from_ms(105), Second::from_ms(100)] {
            let second_ns = u64::try_from(second.span(1).as_nanos()).unwrap();
            for offset in [0, 1, 3 * MS, 10 * MS - 1, 10 * MS, 10 * MS + 1, 73 * MS + 5, second_ns - 1] {
                let (start, end) = (77 * second_ns + 13, 77 * second_ns + 13 + 5 * second_ns + offset);
                let mut beats = Beats::new(second);
                let (_, alarm) = beats.join(at(start), 7, ends(end));
                let told = run(&mut beats, alarm.into_iter().collect(), end + 2 * second_ns);
                let ticks: Vec<(u64, u32)> = told
                    .iter()
                    .flat_map(|(when, ticks)| ticks.iter().map(move |tick| (*when, tick.left_s)))
                    .collect();
                let first = second.ceil(std::time::Duration::from_nanos(end - start));
                assert_eq!(ticks.iter().map(|tick| tick.1).collect::<Vec<_>>(), (1..first).rev().collect::<Vec<_>>());
                for (when, left_s) in ticks {
                    let grid = end - u64::from(left_s) * second_ns;
                    assert!(
                        (grid..grid + 10 * MS).contains(&when),
                        "{second:?} {offset}: {left_s} told {when}, due {grid}"
                    );
                }
            }
        }
    }

    #[test]
    fn one_alarm_serves_a_slot_and_stops_when_it_is_empty() {
        let mut beats = Beats::new(Second::REAL);
        let end = 10_000 * MS;
        let (first, alarm) = beats.join(at(5), 1, ends(end));
        let (second, none) = beats.join(at(6), 2, ends(end));
        let (_, other) = beats.join(at(6), 3, ends(end + 500 * MS));
        assert_eq!(none, None);
        assert_eq!(beats.leave(first), Some((2, Beat { index: 0, ..second })));
        let told = run(&mut beats, [alarm, other].into_iter().flatten().collect(), 1_600 * MS);
        let serials: Vec<u32> = told.iter().flat_map(|(_, ticks)| ticks.iter().map(|tick| tick.serial)).collect();
        assert_eq!(serials, [3, 2, 3], "{told:?}");
        assert_eq!(beats.leave(Beat { index: 0, ..second }), None);
        let mut ticks = Vec::new();
        assert_eq!(beats.beat(at(end), 0, &mut ticks), None);
        assert!(ticks.is_empty());
        assert!(beats.join(at(7), 1, ends(end)).1.is_some());
    }
}
