//! The countdown that every timer, session and room owns.
//!
//! Owns the arithmetic of a descent: running towards a deadline, standing still with the exact remainder kept,
//! extended, and the grid its ticks lie on. It is `Copy` and knows nothing of names, states, clients or the disk.
//!
//! Invariants: the remainder of a running countdown is computed from its deadline, never counted; a pause keeps it to
//! the nanosecond; ticks lie at `ends - k` seconds for whole `k`, so nothing drifts, whatever the pauses were.

use std::time::Duration;

use crate::clock::{Mono, Now, WallMs};
use crate::limits::WALL_STEP_MIN;

/// How long one second of a countdown lasts in real time: one second, unless a load test asks for shorter ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Second {
    ns: u64,
}

impl Second {
    /// The second of the SI.
    pub const REAL: Second = Second::from_ms(1_000);

    /// A second that lasts `ms` real milliseconds (1 or more).
    pub const fn from_ms(ms: u32) -> Self {
        assert!(ms > 0);
        Second { ns: ms as u64 * 1_000_000 }
    }

    /// The real time that `seconds` of the countdown last.
    pub const fn span(self, seconds: u32) -> Duration {
        Duration::from_nanos(seconds as u64 * self.ns)
    }

    /// Whole seconds of the countdown in `span`, rounded up: 300 s show 300 for their first second, 0 at the end
    /// only.
    pub fn ceil(self, span: Duration) -> u32 {
        u32::try_from(span.as_nanos().div_ceil(u128::from(self.ns))).unwrap_or(u32::MAX)
    }

    /// Milliseconds of the countdown in `span`, 1000 a second of it, rounded up so that 0 is the end and only the
    /// end.
    pub fn ms(self, span: Duration) -> u64 {
        u64::try_from((span.as_nanos() * 1_000).div_ceil(u128::from(self.ns))).unwrap_or(u64::MAX)
    }
}

/// The end of a running countdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    /// Decides when it is over.
    pub mono: Mono,
    /// Names that instant to people, and to the next boot.
    pub wall: WallMs,
}

impl Deadline {
    /// The instant `left` after now. The wall time is rounded up to its millisecond: never early after a reboot.
    pub fn after(now: Now, left: Duration) -> Self {
        Deadline { mono: now.mono + left, wall: now.wall + ceil_ms(left) }
    }

    /// That instant, as if it were now.
    pub const fn now(self) -> Now {
        Now { mono: self.mono, wall: self.wall }
    }

    /// The same instant, with another name if the clocks at `then`, of the same boot, gave it one that differs by a
    /// step of the wall clock.
    pub fn named_by(self, then: Now) -> Self {
        let wall = match self.mono >= then.mono {
            true => then.wall + ceil_ms(self.mono.since(then.mono)),
            false => then.wall_at(self.mono),
        };
        let off = Duration::from_millis(self.wall.ms().abs_diff(wall.ms()));
        if off < WALL_STEP_MIN { self } else { Deadline { wall, ..self } }
    }
}

/// Time left, standing still or running out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Countdown {
    /// Not started, paused or over: this much is left.
    Still {
        /// The exact remainder.
        left: Duration,
    },
    /// Running towards its end.
    Running {
        /// When nothing is left.
        ends: Deadline,
    },
}

impl Countdown {
    /// A countdown of `span` that has not begun.
    pub const fn new(span: Duration) -> Self {
        Countdown::Still { left: span }
    }

    /// The exact remainder at `now`; zero from the deadline on.
    pub fn left(self, now: Now) -> Duration {
        match self {
            Countdown::Still { left } => left,
            Countdown::Running { ends } => ends.mono.since(now.mono),
        }
    }

    /// The deadline, while running.
    pub fn ends(self) -> Option<Deadline> {
        match self {
            Countdown::Still { .. } => None,
            Countdown::Running { ends } => Some(ends),
        }
    }

    /// Running, with its end reached.
    pub fn is_over(self, now: Now) -> bool {
        matches!(self, Countdown::Running { ends } if ends.mono <= now.mono)
    }

    /// Runs from now on.
    pub fn start(&mut self, now: Now) {
        if let Countdown::Still { left } = *self {
            *self = Countdown::Running { ends: Deadline::after(now, left) };
        }
    }

    /// Runs since the instant `at` of the wall clock, now or behind: the end is `at` plus what was left, exactly.
    pub fn start_at(&mut self, now: Now, at: WallMs) {
        if let Countdown::Still { left } = *self {
            // By what is left and not by when it began: that may lie before this boot, where no boot time reaches.
            let mono = now.mono + left.saturating_sub(now.wall.since(at));
            *self = Countdown::Running { ends: Deadline { mono, wall: at + ceil_ms(left) } };
        }
    }

    /// Stands still from now on, with the fraction of its second kept.
    pub fn stop(&mut self, now: Now) {
        *self = Countdown::Still { left: self.left(now) };
    }

    /// Adds `span` to what is left, running or not.
    pub fn extend(&mut self, span: Duration) {
        match self {
            Countdown::Still { left } => *left += span,
            Countdown::Running { ends } => {
                ends.mono = ends.mono + span;
                ends.wall = ends.wall + span;
            }
        }
    }

    /// The first instant after `now` at which a whole number of seconds is left, the end included. `None` when still.
    pub fn next_tick(self, now: Now, second: Second) -> Option<Mono> {
        let left = u64::try_from(self.ends()?.mono.since(now.mono).as_nanos()).unwrap_or(u64::MAX);
        let Some(beyond) = left.checked_sub(1) else { return Some(now.mono) };
        Some(self.ends()?.mono.back(Duration::from_nanos(beyond / second.ns * second.ns)))
    }

    /// Names the unmoved deadline anew after a step of the wall clock. Returns whether the name changed.
    pub fn rename_end(&mut self, now: Now) -> bool {
        let Countdown::Running { ends } = self else { return false };
        let wall = if ends.mono >= now.mono {
            now.wall + ceil_ms(ends.mono.since(now.mono))
        } else {
            now.wall_at(ends.mono)
        };
        std::mem::replace(&mut ends.wall, wall) != wall
    }
}

fn ceil_ms(span: Duration) -> Duration {
    Duration::from_millis(u64::try_from(span.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_ns(ns: u64) -> Now {
        Now { mono: Mono::from_ns(ns), wall: WallMs::from_ms(i64::try_from(ns / 1_000_000).unwrap()) }
    }

    #[test]
    fn a_day_with_pauses_at_odd_milliseconds_ends_where_arithmetic_says() {
        let day = Duration::from_secs(86_400);
        let mut countdown = Countdown::new(day);
        let mut now_ns = 12_345_678_901;
        let mut run_ns = 0;
        for round in 0..997_u64 {
            countdown.start(at_ns(now_ns));
            let run = 1_000_000 * (1 + round * 7_919 % 80_000) + round;
            now_ns += run;
            run_ns += run;
            countdown.stop(at_ns(now_ns));
            now_ns += 1_000_000 * (round * 104_729 % 50_000) + 7;
        }
        assert_eq!(countdown.left(at_ns(now_ns)), day - Duration::from_nanos(run_ns));
        countdown.start(at_ns(now_ns));
        let end = now_ns + 86_400_000_000_000 - run_ns;
        assert!(!countdown.is_over(at_ns(end - 1)), "not one nanosecond early");
        assert!(countdown.is_over(at_ns(end)));
    }

    #[test]
    fn the_display_is_rounded_up() {
        let second = Second::REAL;
        assert_eq!(second.ceil(Duration::from_secs(300)), 300);
        assert_eq!(second.ceil(Duration::from_nanos(299_000_000_001)), 300);
        assert_eq!(second.ceil(Duration::from_nanos(1)), 1);
        assert_eq!(second.ceil(Duration::ZERO), 0);
        assert_eq!(second.ms(Duration::from_nanos(1)), 1);
        assert_eq!(second.ms(Duration::from_millis(244_310)), 244_310);
    }

    #[test]
    fn ticks_lie_on_the_grid_of_the_end() {
        let mut countdown = Countdown::new(Duration::from_millis(2_300));
        countdown.start(at_ns(1_000_000_000));
        let mut now = at_ns(1_000_000_000);
        let mut seen = Vec::new();
        while !countdown.is_over(now) {
            let tick = countdown.next_tick(now, Second::REAL).unwrap();
            assert!(tick > now.mono);
            now = at_ns(tick.ns());
            seen.push((tick.ns() / 1_000_000, Second::REAL.ceil(countdown.left(now))));
        }
        assert_eq!(seen, [(1_300, 2), (2_300, 1), (3_300, 0)]);
    }

    #[test]
    fn a_short_second_shortens_everything_alike() {
        let second = Second::from_ms(190);
        let mut countdown = Countdown::new(second.span(10));
        countdown.start(at_ns(0));
        let now = at_ns(190_000_000 * 4 + 1);
        assert_eq!(second.ceil(countdown.left(now)), 6);
        assert_eq!(second.ms(countdown.left(now)), 6_000);
        assert_eq!(countdown.ends().unwrap().wall, WallMs::from_ms(1_900));
        assert_eq!(countdown.next_tick(now, second), Some(Mono::from_ns(190_000_000 * 5)));
    }

    #[test]
    fn a_scheduled_start_read_late_ends_as_if_read_in_time() {
        let mut countdown = Countdown::new(Duration::from_secs(60));
        let now = at_ns(10_000_000_000);
        countdown.start_at(now, WallMs::from_ms(7_500));
        assert_eq!(countdown.left(now), Duration::from_millis(57_500));
        assert_eq!(countdown.ends().unwrap().wall, WallMs::from_ms(67_500));
    }

    #[test]
    fn a_step_of_the_wall_clock_moves_the_name_and_not_the_end() {
        let mut countdown = Countdown::new(Duration::from_secs(60));
        countdown.start(at_ns(0));
        let stepped = Now { mono: Mono::from_ns(10_000_000_000), wall: WallMs::from_ms(3_600_000) };
        assert!(countdown.rename_end(stepped));
        assert!(!countdown.rename_end(stepped));
        assert_eq!(countdown.left(stepped), Duration::from_secs(50));
        assert_eq!(countdown.ends().unwrap().wall, WallMs::from_ms(3_650_000));
    }
}
