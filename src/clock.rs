//! Time as values.
//!
//! Owns the two kinds of instant that the daemon knows and the one place that reads the operating system's clock.
//! The loop calls [`sample`] once a turn and passes the resulting [`Now`] down; nothing below the loop may ask.
//!
//! Invariants: [`Mono`] never runs backwards and counts through suspend (CLOCK_BOOTTIME); [`WallMs`] may step either
//! way and is never used to decide when a running countdown ends.

use std::ops::{Add, Sub};
use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime};

/// An instant on CLOCK_BOOTTIME, in nanoseconds since the machine booted, suspend included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mono(u64);

impl Mono {
    /// The latest instant there is: 584 years after boot.
    pub const MAX: Mono = Mono(u64::MAX);

    /// The instant `ns` nanoseconds after boot.
    pub const fn from_ns(ns: u64) -> Self {
        Mono(ns)
    }

    /// Nanoseconds since boot.
    pub const fn ns(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to `self`, zero when `earlier` is the later one.
    pub const fn since(self, earlier: Mono) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// This instant moved back by `span`, not beyond boot.
    pub fn back(self, span: Duration) -> Mono {
        Mono(self.0.saturating_sub(ns(span)))
    }
}

impl Add<Duration> for Mono {
    type Output = Mono;
    fn add(self, span: Duration) -> Mono {
        Mono(self.0.saturating_add(ns(span)))
    }
}

/// An instant of UTC in milliseconds since 1970-01-01T00:00:00Z, cut off, not rounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WallMs(i64);

impl WallMs {
    /// The instant `ms` milliseconds after the epoch.
    pub const fn from_ms(ms: i64) -> Self {
        WallMs(ms)
    }

    /// Milliseconds since the epoch.
    pub const fn ms(self) -> i64 {
        self.0
    }

    /// The time from `earlier` to `self`, zero when `earlier` is the later one.
    pub fn since(self, earlier: WallMs) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl Add<Duration> for WallMs {
    type Output = WallMs;
    fn add(self, span: Duration) -> WallMs {
        WallMs(self.0.saturating_add(whole_ms(span)))
    }
}

impl Sub<Duration> for WallMs {
    type Output = WallMs;
    fn sub(self, span: Duration) -> WallMs {
        WallMs(self.0.saturating_sub(whole_ms(span)))
    }
}

/// One reading of both clocks, taken together at the head of a turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Decides every deadline.
    pub mono: Mono,
    /// Names instants to people, and to the next boot.
    pub wall: WallMs,
}

impl Now {
    /// The wall-clock name of the instant `at`, as the clocks stand to each other now.
    pub fn wall_at(self, at: Mono) -> WallMs {
        if at >= self.mono { self.wall + at.since(self.mono) } else { self.wall - self.mono.since(at) }
    }

    /// When the wall clock will read (or read) `wall`, unless it is stepped.
    pub fn mono_at(self, wall: WallMs) -> Mono {
        if wall >= self.wall { self.mono + wall.since(self.wall) } else { self.mono.back(self.wall.since(wall)) }
    }
}

/// Reads both clocks of the operating system.
///
/// The two readings cannot be made at one instant; a preemption between them would look like a small step of the
/// wall clock. So the boot clock is read on both sides of the wall clock, and a pair that lies too far apart is read
/// again, a few times at most.
pub fn sample() -> Now {
    let mut mono = boot_ns();
    for _ in 0..4 {
        let wall = clock_gettime(ClockId::Realtime);
        let after = boot_ns();
        let together = after - mono < 20_000;
        mono = after;
        if together {
            return Now { mono: Mono(after), wall: wall_ms(wall) };
        }
    }
    Now { mono: Mono(mono), wall: wall_ms(clock_gettime(ClockId::Realtime)) }
}

/// The kernel's identity of this boot: boot times of two boots do not compare.
///
/// # Errors
/// When `/proc` is not mounted.
pub fn boot_id() -> std::io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

fn boot_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

fn wall_ms(time: Timespec) -> WallMs {
    WallMs(time.tv_sec * 1000 + time.tv_nsec / 1_000_000)
}

fn ns(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

fn whole_ms(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_clocks_translate_into_each_other() {
        let now = Now { mono: Mono::from_ns(5_000_000_000), wall: WallMs::from_ms(1_000_000) };
        assert_eq!(now.wall_at(Mono::from_ns(6_500_000_000)), WallMs::from_ms(1_001_500));
        assert_eq!(now.wall_at(Mono::from_ns(4_000_000_000)), WallMs::from_ms(999_000));
        assert_eq!(now.mono_at(WallMs::from_ms(1_002_000)), Mono::from_ns(7_000_000_000));
        assert_eq!(now.mono_at(WallMs::from_ms(0)), Mono::from_ns(0));
    }

    #[test]
    fn the_os_clock_runs_forward() {
        let (a, b) = (sample(), sample());
        assert!(b.mono >= a.mono);
        assert!(a.wall.ms() > 1_600_000_000_000, "the wall clock of the test machine is unset");
    }
}
