//! What the time counts for in which the daemon was not there.
//!
//! Owns the operator's policy and what it makes of one countdown between two runs. It knows no noun.
//!
//! Invariants: what ran out before the last sign of life ended at its true instant, whatever the policy; within one
//! boot a wrong wall clock moves nothing; nothing ends early, not by the fraction that a wall clock cuts off.

use std::time::Duration;

use crate::clock::Now;
use crate::domain::countdown::{Countdown, Deadline};

/// How the time counts during which the daemon was away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Outage {
    /// The exam's clock went on.
    #[default]
    RunOn,
    /// Everybody's clock stood still.
    Freeze,
}

/// How long nobody was there.
#[derive(Clone, Copy, Debug)]
pub struct Absence {
    /// The last sign of life.
    pub alive: Now,
    /// How long ago that is.
    pub away: Duration,
    /// Whether boot times from before are of this boot.
    pub same_boot: bool,
}

/// What has become of a countdown meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// What the disk says of it still holds.
    AsLeft,
    /// It runs towards the same end, which has other names now.
    Renamed(Countdown),
    /// It stood still for as long as nobody was there.
    Frozen(Countdown),
    /// It ran out, then.
    Over(Deadline),
}

impl Absence {
    /// What has become of `countdown`, as it was stored.
    pub fn find(self, now: Now, outage: Outage, countdown: Countdown) -> Found {
        let Absence { alive, away, same_boot } = self;
        let Some(stored) = countdown.ends() else { return Found::AsLeft };
        // A batch written after a step of the wall clock may tell of an end that had not got its new name yet. The
        // boot times in it and in the sign of life are of one boot, and know better.
        let ends = stored.named_by(alive);
        let left = if same_boot { ends.mono.since(alive.mono) } else { ends.wall.since(alive.wall) };
        let is_frozen = outage == Outage::Freeze && !away.is_zero();
        let left_now = if is_frozen { left } else { left.saturating_sub(away) };
        if left.is_zero() || left_now.is_zero() {
            return Found::Over(ends);
        }
        if same_boot && !is_frozen {
            let renamed = Found::Renamed(Countdown::Running { ends });
            return if ends == stored { Found::AsLeft } else { renamed };
        }
        let mut anew = Deadline::after(now, left_now);
        if !is_frozen && now.wall >= alive.wall {
            // The wall time holds, unless the wall clock has gone back: then the time away counts as none.
            anew.wall = ends.wall;
        }
        if !same_boot {
            // The wall clock was read in whole milliseconds when the end was named.
            anew.mono = anew.mono + Duration::from_millis(1);
        }
        let anew = Countdown::Running { ends: anew };
        if is_frozen { Found::Frozen(anew) } else { Found::Renamed(anew) }
    }
}
