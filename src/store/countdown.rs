//! Columns <-> a countdown: `left_ns` while it stands still, `ends_wall_ms` and `ends_boot_ns` while it runs.

use std::time::Duration;

use rusqlite::Row;

use crate::clock::{Mono, WallMs};
use crate::domain::countdown::{Countdown, Deadline};
use crate::store::schema::{integer, optional_unsigned, unreadable};

/// The values of `left_ns`, `ends_wall_ms` and `ends_boot_ns`.
pub(super) fn columns(countdown: Countdown) -> [Option<i64>; 3] {
    match countdown {
        Countdown::Still { left } => [Some(i64::try_from(left.as_nanos()).unwrap_or(i64::MAX)), None, None],
        Countdown::Running { ends } => [None, Some(ends.wall.ms()), Some(integer(ends.mono.ns()))],
    }
}

/// Reads the three columns from `first` on.
///
/// # Errors
/// SQLite's own, and when they contradict each other.
pub(super) fn read(row: &Row<'_>, first: usize) -> rusqlite::Result<Countdown> {
    let left = optional_unsigned(row, first)?;
    let ends = row.get::<_, Option<i64>>(first + 1)?.zip(optional_unsigned(row, first + 2)?);
    match (left, ends) {
        (Some(left), None) => Ok(Countdown::Still { left: Duration::from_nanos(left) }),
        (None, Some((wall_ms, boot_ns))) => {
            let ends = Deadline { mono: Mono::from_ns(boot_ns), wall: WallMs::from_ms(wall_ms) };
            Ok(Countdown::Running { ends })
        }
        _ => Err(unreadable(first, "countdown")),
    }
}
