//! How much of the past the store keeps, and how often it is looked for what is over.

use std::time::Duration;

use crate::clock::WallMs;
use crate::domain::disk::{Extent, Old};
use crate::limits::{UPKEEP_EVERY_MAX, UPKEEP_EVERY_MIN};

/// How much of the past an operator wants to keep; `None` is all of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Retention {
    /// How long the history of timers that are gone is kept.
    pub history: Option<Duration>,
    /// How long the results of sessions that are no longer held are kept.
    pub results: Option<Duration>,
    /// How long events are kept.
    pub events: Option<Duration>,
    /// How many events are kept.
    pub events_max: Option<u64>,
}

impl Retention {
    /// What the store is to forget at `now`.
    pub(super) fn over(self, now: WallMs) -> impl Iterator<Item = Old> {
        let history = self.history.map(|keep| Old::History(now - keep));
        let results = self.results.map(|keep| Old::Results(now - keep));
        let events = self.events.map(|keep| Old::Events(Extent::Before(now - keep)));
        let excess = self.events_max.map(|most| Old::Events(Extent::Beyond(most)));
        [history, results, events, excess].into_iter().flatten()
    }

    /// How often one has to look, so that nothing is kept for more than twice the time that was asked for: as often as
    /// the shortest of these times and `others` is long, within reason.
    pub(super) fn look_every(self, others: &[Option<Duration>]) -> Duration {
        let shortest = [self.history, self.results, self.events].iter().chain(others).copied().flatten().min();
        shortest.map_or(UPKEEP_EVERY_MAX, |keep| keep.clamp(UPKEEP_EVERY_MIN, UPKEEP_EVERY_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_times_are_looked_after_as_often_as_they_are_short() {
        let look_every = |events_s: u64, finished_s: Option<u64>| {
            let retention = Retention { events: Some(Duration::from_secs(events_s)), ..Retention::default() };
            retention.look_every(&[None, finished_s.map(Duration::from_secs)]).as_millis()
        };
        assert_eq!(look_every(86_400, None), 10_000);
        assert_eq!(look_every(86_400, Some(3)), 3_000);
        assert_eq!(look_every(2, Some(3)), 2_000);
        assert_eq!(look_every(0, Some(3)), 1_000);
        assert_eq!(Retention::default().look_every(&[None]), UPKEEP_EVERY_MAX);
    }
}
