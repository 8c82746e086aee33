//! The reference beside the daemon's own session.
//!
//! Owns the comparison, field by field and to the nanosecond, of a session as the daemon stores it with the
//! [`model`](super::model)'s: a clock that runs is compared by its end, one that stands by what is left.

use std::time::Duration;

use timerd::clock::Now;
use timerd::domain::countdown::Countdown;
use timerd::domain::delivery::{Session as Stored, State as StoredState};

use super::model::{Session, State};

/// The model's name of a state.
pub fn state_of(stored: StoredState) -> State {
    match stored {
        StoredState::InProgress => State::InProgress,
        StoredState::Paused => State::Paused,
        StoredState::Completed => State::Completed,
        StoredState::Expired => State::Expired,
        StoredState::Terminated => State::Terminated,
    }
}

/// What differs, if anything. `is_deaf`: hand-ins could not be taken, and the grace is given back later.
pub fn quarrel(core: &Session, stored: &Stored, is_deaf: bool) -> Option<String> {
    if (state_of(stored.state), usize::from(stored.place)) != (core.state, core.place) {
        return Some(format!("state or place: {:?}, {}", stored.state, stored.place));
    }
    let runs = core.state == State::InProgress;
    if stored.limit.map(nanos) != core.limit_ns || read(stored.countdown) != clock(core, core.left_ns, runs) {
        return Some(format!("time: {:?} of {:?}", stored.countdown, stored.limit));
    }
    for (part, section) in core.sections.iter().enumerate() {
        let number = usize::from(stored.section_at(index(core.paper.first_of(part))));
        let told = stored.parts.get(number).and_then(|part| part.clock);
        // Nothing is left of what nobody can enter any more.
        let left_ns = section.left_ns.map(|left| if section.is_locked { 0 } else { left });
        if read(told) != clock(core, left_ns, runs && section.is_entered && !section.is_locked) {
            return Some(format!("time of section {part}: {told:?}"));
        }
    }
    for place in 0..core.answered.len() {
        let mark = stored.mark_at(index(place));
        if mark.is_answered() != core.answered[place] || mark.is_flagged != core.flagged[place] {
            return Some(format!("item at {place}: {mark:?}"));
        }
    }
    let late_ns = core.late_ns.filter(|_| core.state == State::Completed);
    let has_grace = core.state == State::Expired && !core.is_closed;
    if stored.expired.is_some() != has_grace || stored.late_ms != late_ns.map(|late| late.div_ceil(1_000_000)) {
        return Some(format!("the end: {:?}, {:?}", stored.expired, stored.late_ms));
    }
    if has_grace && !is_deaf && read(Some(stored.grace)) != clock(core, Some(core.grace_ns), true) {
        return Some(format!("the grace: {:?}", stored.grace));
    }
    if stored.completed_at.is_some() == core.state.is_active() {
        return Some(format!("the end: {:?}", stored.completed_at));
    }
    None
}

/// Until when it runs, or how much is left while it stands.
fn clock(core: &Session, left_ns: Option<u64>, runs: bool) -> Option<(bool, u64)> {
    left_ns.map(|left| (runs, if runs { core.at_ns + left } else { left }))
}

fn read(countdown: Option<Countdown>) -> Option<(bool, u64)> {
    countdown.map(|countdown| match countdown.ends() {
        Some(ends) => (true, ends.mono.ns()),
        None => (false, nanos(countdown.left(Now::default()))),
    })
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap()
}

fn index(place: usize) -> u16 {
    u16::try_from(place).unwrap()
}
