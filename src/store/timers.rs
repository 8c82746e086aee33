//! Rows <-> timers and their history.
//!
//! Owns the statements on `timers` and `history` and the spelling of their columns. It must not know what a state or
//! an action means, when a batch begins or ends, or which boot it is.
//!
//! Invariants: a timer read back equals the one written, to the nanosecond; an entry of the history is written once
//! and never changed, and lies behind all entries of lower revisions; the first is that of the creation; the history of
//! a timer is forgotten whole, after the timer itself is gone.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::clock::WallMs;
use crate::domain::history::{Action, Entry};
use crate::domain::timers::{State, Timer, TimerId};
use crate::limits::{SLICE_ROWS_MAX, SLICE_STRETCHES_MAX};
use crate::store::countdown;
use crate::store::schema::{integer, unreadable, unsigned};
use crate::store::slice::Slice;
use crate::store::stretch::Stretch;

/// Writes the timer as it is now.
///
/// # Errors
/// SQLite's own.
pub(super) fn put(connection: &Connection, timer: &Timer) -> rusqlite::Result<()> {
    let sql = "INSERT INTO timers (serial, id, name, state, duration_s, thresholds, left_ns, ends_wall_ms,
                   ends_boot_ns, start_at_ms, created_at_ms, started_at_ms, completed_at_ms, revision)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)
               ON CONFLICT (serial) DO UPDATE SET
                   name = excluded.name, state = excluded.state, duration_s = excluded.duration_s,
                   thresholds = excluded.thresholds, left_ns = excluded.left_ns,
                   ends_wall_ms = excluded.ends_wall_ms, ends_boot_ns = excluded.ends_boot_ns,
                   start_at_ms = excluded.start_at_ms, created_at_ms = excluded.created_at_ms,
                   started_at_ms = excluded.started_at_ms, completed_at_ms = excluded.completed_at_ms,
                   revision = excluded.revision";
    let [left_ns, ends_wall_ms, ends_boot_ns] = countdown::columns(timer.countdown);
    connection.prepare_cached(sql)?.execute(params![
        timer.serial,
        timer.id,
        timer.name,
        timer.state.name(),
        timer.duration_s,
        spell_thresholds(&timer.thresholds),
        left_ns,
        ends_wall_ms,
        ends_boot_ns,
        timer.start_at.map(WallMs::ms),
        timer.created_at.ms(),
        timer.started_at.map(WallMs::ms),
        timer.completed_at.map(WallMs::ms),
        integer(timer.revision),
    ])?;
    Ok(())
}

/// The timer gave its place back.
///
/// # Errors
/// SQLite's own.
pub(super) fn remove(connection: &Connection, timer: &TimerId) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM timers WHERE id = ?1")?.execute([timer])?;
    Ok(())
}

/// Every timer, in order of serial numbers.
///
/// # Errors
/// SQLite's own, and when a row has no meaning.
pub(super) fn all(connection: &Connection) -> rusqlite::Result<Vec<Timer>> {
    let sql = "SELECT serial, id, name, state, duration_s, thresholds, left_ns, ends_wall_ms, ends_boot_ns,
                   start_at_ms, created_at_ms, started_at_ms, completed_at_ms, revision
               FROM timers ORDER BY serial";
    connection.prepare(sql)?.query_map([], read_timer)?.collect()
}

/// Writes an entry of the history.
///
/// # Errors
/// SQLite's own.
pub(super) fn put_entry(connection: &Connection, entry: &Entry) -> rusqlite::Result<()> {
    let sql = "INSERT INTO history (timer_id, revision, at_ms, action, actor, remaining_ms, name, duration_s,
                   start_at_ms, added_s, added_ms)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
    let (mut name, mut duration, mut start, mut seconds, mut milliseconds) = (None, None, None, None, None);
    match &entry.action {
        Action::Created { name: called, duration_s } => {
            name = Some(called);
            duration = Some(*duration_s);
        }
        Action::Scheduled { start_at } => start = Some(start_at.ms()),
        Action::Extended { added_s } => seconds = Some(*added_s),
        Action::Outage { added_ms } => milliseconds = Some(integer(*added_ms)),
        Action::Started | Action::Paused | Action::Resumed => {}
        Action::Stopped | Action::Expired | Action::Deleted => {}
    }
    connection.prepare_cached(sql)?.execute(params![
        entry.timer,
        integer(entry.revision),
        entry.at.ms(),
        entry.action.name(),
        entry.actor,
        integer(entry.remaining_ms),
        name,
        duration,
        start,
        seconds,
        milliseconds,
    ])?;
    Ok(())
}

/// A reading of a timer's history in progress: read in slices, from stretch to stretch.
#[derive(Debug, Default)]
pub(super) struct Recital {
    /// Where it goes on; `None` before the first slice.
    stretch: Option<Stretch>,
    rows: Vec<Entry>,
}

impl Recital {
    /// Reads a slice of at most `limit` entries of `timer` with revisions above `after`, oldest first. `None`: there
    /// is no history of such a timer; every timer that ever was has some, until it is forgotten.
    ///
    /// # Errors
    /// SQLite's own, and when a row has no meaning.
    pub(super) fn slice(
        &mut self,
        connection: &Connection,
        timer: &TimerId,
        after: u64,
        limit: u32,
    ) -> rusqlite::Result<Slice<Option<Vec<Entry>>>> {
        let begin = match self.stretch {
            Some(stretch) => stretch,
            None => match creation(connection, timer)? {
                Some(number) => Stretch::of(number),
                None => return Ok(Slice::Done(None)),
            },
        };
        let sql =
            "SELECT revision, at_ms, action, actor, remaining_ms, name, duration_s, start_at_ms, added_s, added_ms
                   FROM history INDEXED BY history_timer
                   WHERE number >> 11 = ?1 AND timer_id = ?2 AND revision > ?3 ORDER BY revision LIMIT ?4";
        let mut statement = connection.prepare_cached(sql)?;
        let newest = newest(connection)?;
        let (mut stretch, mut rows_left) = (begin, SLICE_ROWS_MAX);
        for _ in 0..SLICE_STRETCHES_MAX {
            let missing = limit.saturating_sub(u32::try_from(self.rows.len()).unwrap_or(u32::MAX));
            let from = self.rows.last().map_or(after, |last| last.revision);
            let key = params![stretch.number(), timer, integer(from), rows_left.min(missing)];
            for entry in statement.query_map(key, |row| read_entry(row, timer))? {
                self.rows.push(entry?);
                rows_left -= 1;
            }
            if self.rows.len() >= limit as usize || (rows_left > 0 && stretch >= newest) {
                return Ok(Slice::Done(Some(std::mem::take(&mut self.rows))));
            }
            if rows_left == 0 {
                break;
            }
            stretch = stretch.next();
        }
        self.stretch = Some(stretch);
        Ok(Slice::Unfinished)
    }
}

/// A forgetting of the history of timers that were deleted before an instant.
///
/// The history of a timer is kept whole until its last entry, the deletion, is older than that, and then goes whole:
/// half of it would tell of a timer that was paused and never created. The deletion is what finds it and the creation
/// tells where it begins, so these two go last, together, and a forgetting that is begun anew finds what is left.
#[derive(Debug)]
pub(super) struct Forgetting {
    before: WallMs,
    /// How far it has come: the number of the deletion of the timer that is being forgotten, and the stretch to look
    /// into next.
    reached: Option<(u64, Stretch)>,
}

impl Forgetting {
    /// Nothing of it is done yet.
    pub(super) fn of(before: WallMs) -> Self {
        Forgetting { before, reached: None }
    }

    /// What was deleted before this instant is to be forgotten as well.
    pub(super) fn extend(&mut self, before: WallMs) {
        self.before = self.before.max(before);
    }

    /// A slice of it: some `rows` entries at most, or a look into as many stretches as a slice may take.
    ///
    /// # Errors
    /// SQLite's own. It is to be begun anew then.
    pub(super) fn slice(&mut self, connection: &Connection, rows: u32) -> rusqlite::Result<Slice<()>> {
        let next = "SELECT timer_id, number FROM history
                    WHERE action = 'deleted' AND at_ms < ?1
                        AND NOT EXISTS (SELECT 1 FROM timers WHERE timers.id = history.timer_id)
                    ORDER BY at_ms LIMIT 1";
        let between = "DELETE FROM history WHERE number IN
                          (SELECT number FROM history INDEXED BY history_timer
                           WHERE number >> 11 = ?1 AND timer_id = ?2 AND number NOT IN (?3, ?4) LIMIT ?5)";
        let ends = "DELETE FROM history WHERE number IN (?1, ?2)";
        let mut next = connection.prepare_cached(next)?;
        let mut between = connection.prepare_cached(between)?;
        let mut ends = connection.prepare_cached(ends)?;
        let count = |deleted| u32::try_from(deleted).unwrap_or(rows);
        let (mut gone, mut looks) = (0, 0);
        while gone < rows {
            let row = |row: &Row<'_>| Ok((row.get::<_, TimerId>(0)?, unsigned(row, 1)?));
            let Some((timer, last)) = next.query_row([self.before.ms()], row).optional()? else {
                return Ok(Slice::Done(()));
            };
            let first = creation(connection, &timer)?.unwrap_or(last);
            let reached = self.reached.take().filter(|(deletion, _)| *deletion == last);
            let mut stretch = reached.map_or(Stretch::of(first), |(_, stretch)| stretch);
            while stretch <= Stretch::of(last) {
                let kept = (integer(first), integer(last));
                gone += count(between.execute(params![stretch.number(), timer, kept.0, kept.1, rows - gone])?);
                looks += 1;
                if gone >= rows || looks == SLICE_STRETCHES_MAX {
                    // It may be that the stretch has more of it.
                    self.reached = Some((last, if gone >= rows { stretch } else { stretch.next() }));
                    return Ok(Slice::Unfinished);
                }
                stretch = stretch.next();
            }
            gone += count(ends.execute([integer(first), integer(last)])?);
        }
        Ok(Slice::Unfinished)
    }
}

/// The number of the entry of a timer's creation.
fn creation(connection: &Connection, timer: &TimerId) -> rusqlite::Result<Option<u64>> {
    let sql = "SELECT number FROM history WHERE timer_id = ?1 AND action = 'created'";
    connection.prepare_cached(sql)?.query_row([timer], |row| unsigned(row, 0)).optional()
}

/// The stretch that is being written.
fn newest(connection: &Connection) -> rusqlite::Result<Stretch> {
    let sql = "SELECT ifnull(max(number), 0) FROM history";
    Ok(Stretch::of(connection.prepare_cached(sql)?.query_row([], |row| unsigned(row, 0))?))
}

fn read_timer(row: &Row<'_>) -> rusqlite::Result<Timer> {
    let state: String = row.get(3)?;
    let state = State::ALL
        .into_iter()
        .find(|known| known.name() == state)
        .ok_or_else(|| unreadable(3, "state of a timer"))?;
    let thresholds = read_thresholds(&row.get::<_, String>(5)?).ok_or_else(|| unreadable(5, "thresholds"))?;
    let optional_wall = |column| Ok::<_, rusqlite::Error>(row.get::<_, Option<i64>>(column)?.map(WallMs::from_ms));
    Ok(Timer {
        serial: row.get(0)?,
        id: row.get(1)?,
        name: row.get(2)?,
        state,
        duration_s: row.get(4)?,
        thresholds,
        countdown: countdown::read(row, 6)?,
        start_at: optional_wall(9)?,
        created_at: WallMs::from_ms(row.get(10)?),
        started_at: optional_wall(11)?,
        completed_at: optional_wall(12)?,
        revision: unsigned(row, 13)?,
    })
}

fn read_entry(row: &Row<'_>, timer: &TimerId) -> rusqlite::Result<Entry> {
    let action: String = row.get(2)?;
    let action = match action.as_str() {
        "created" => Action::Created { name: row.get(5)?, duration_s: row.get(6)? },
        "scheduled" => Action::Scheduled { start_at: WallMs::from_ms(row.get(7)?) },
        "started" => Action::Started,
        "paused" => Action::Paused,
        "resumed" => Action::Resumed,
        "extended" => Action::Extended { added_s: row.get(8)? },
        "stopped" => Action::Stopped,
        "expired" => Action::Expired,
        "deleted" => Action::Deleted,
        "outage" => Action::Outage { added_ms: unsigned(row, 9)? },
        _ => return Err(unreadable(2, "action in the history")),
    };
    Ok(Entry {
        timer: timer.clone(),
        revision: unsigned(row, 0)?,
        at: WallMs::from_ms(row.get(1)?),
        action,
        actor: row.get(3)?,
        remaining_ms: unsigned(row, 4)?,
    })
}

/// `300,60,30`: short, and readable for whoever looks into the file.
fn spell_thresholds(thresholds: &[u32]) -> String {
    thresholds.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

fn read_thresholds(text: &str) -> Option<Arc<[u32]>> {
    if text.is_empty() {
        return Some(Arc::from([]));
    }
    text.split(',').map(|number| number.parse().ok()).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use std::time::Duration;

    use super::*;
    use crate::clock::Mono;
    use crate::domain::countdown::{Countdown, Deadline};
    use crate::store::schema;

    pub(in crate::store) fn timer(serial: u32) -> Timer {
        Timer {
            id: Arc::from(format!("timer_{serial:08x}")),
            serial,
            name: Arc::from("Klausur \u{1f553} 'Ω'\n"),
            thresholds: Arc::from([60, 300, 30]),
            state: State::Created,
            countdown: Countdown::Still { left: Duration::from_nanos(31_622_400_000_000_007) },
            duration_s: 300,
            start_at: None,
            created_at: WallMs::from_ms(-5),
            started_at: None,
            completed_at: None,
            revision: 1,
        }
    }

    pub(in crate::store) fn entry(timer: &TimerId, revision: u64, at_ms: i64, action: Action) -> Entry {
        let at = WallMs::from_ms(at_ms);
        Entry { timer: timer.clone(), revision, at, action, actor: Arc::from("anonymous"), remaining_ms: 12 }
    }

    fn empty() -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        schema::migrate(&connection, Path::new("test")).unwrap();
        connection
    }

    pub(in crate::store) fn created() -> Action {
        Action::Created { name: Arc::from(""), duration_s: 86_400 }
    }

    /// Reads a page of history, and in how many slices.
    fn recite(connection: &Connection, timer: &TimerId, after: u64, limit: u32) -> (Option<Vec<Entry>>, u32) {
        let mut recital = Recital::default();
        for slices in 1.. {
            if let Slice::Done(rows) = recital.slice(connection, timer, after, limit).unwrap() {
                return (rows, slices);
            }
        }
        unreachable!()
    }

    fn revisions(connection: &Connection, timer: &TimerId) -> Vec<u64> {
        recite(connection, timer, 0, 10_000).0.into_iter().flatten().map(|entry| entry.revision).collect()
    }

    #[test]
    fn a_timer_comes_back_as_it_was_in_every_state() {
        let connection = empty();
        let mut expected = Vec::new();
        for (serial, state) in (1..).zip(State::ALL) {
            let mut timer = timer(serial);
            timer.state = state;
            if state == State::Running {
                let ends =
                    Deadline { mono: Mono::from_ns(987_654_321_012_345), wall: WallMs::from_ms(1_700_000_000_001) };
                timer.countdown = Countdown::Running { ends };
                timer.started_at = Some(WallMs::from_ms(7));
                timer.thresholds = Arc::from([]);
            }
            if state == State::Created {
                timer.start_at = Some(WallMs::from_ms(99));
            }
            if state.is_final() {
                timer.completed_at = Some(WallMs::from_ms(8));
            }
            expected.push(timer);
        }
        // Written in another order than they are read in, and twice.
        for timer in expected.iter().rev().chain(&expected) {
            put(&connection, timer).unwrap();
        }
        assert_eq!(all(&connection).unwrap(), expected);
        let changed =
            Timer { revision: 2, countdown: Countdown::Still { left: Duration::ZERO }, ..expected[1].clone() };
        put(&connection, &changed).unwrap();
        expected[1] = changed;
        remove(&connection, &expected[0].id).unwrap();
        remove(&connection, &expected[0].id).unwrap();
        assert_eq!(all(&connection).unwrap(), expected[1..]);
    }

    #[test]
    fn every_action_comes_back_as_it_was() {
        let connection = empty();
        let id: TimerId = Arc::from("timer_1");
        let actions = [
            created(),
            Action::Scheduled { start_at: WallMs::from_ms(-1) },
            Action::Started,
            Action::Paused,
            Action::Resumed,
            Action::Extended { added_s: 3_600 },
            Action::Stopped,
            Action::Expired,
            Action::Deleted,
            Action::Outage { added_ms: 5_000_000_000 },
        ];
        let expected: Vec<Entry> =
            (1..).zip(actions).map(|(revision, action)| entry(&id, revision, 10, action)).collect();
        for entry in &expected {
            put_entry(&connection, entry).unwrap();
        }
        assert_eq!(recite(&connection, &id, 0, 1_000), (Some(expected.clone()), 1));
        assert_eq!(recite(&connection, &id, 3, 2).0.unwrap(), expected[3..5]);
        assert_eq!(recite(&connection, &id, u64::MAX, 2).0.unwrap(), []);
        assert_eq!(recite(&connection, &Arc::from("timer_2"), 0, 2).0, None);
    }

    #[test]
    fn a_long_history_is_read_through_all_stretches_in_slices() {
        let connection = empty();
        let (rare, busy): (TimerId, TimerId) = (Arc::from("rare"), Arc::from("busy"));
        put_entry(&connection, &entry(&rare, 1, 1, created())).unwrap();
        put_entry(&connection, &entry(&busy, 1, 1, created())).unwrap();
        let all = 3 * Stretch::of(0).last();
        for revision in 2..=all {
            put_entry(&connection, &entry(&busy, revision, 1, Action::Paused)).unwrap();
        }
        put_entry(&connection, &entry(&rare, 2, 1, Action::Paused)).unwrap();
        assert_eq!(revisions(&connection, &rare), [1, 2]);
        assert_eq!(revisions(&connection, &busy), (1..=all).collect::<Vec<_>>());
        let (page, slices) = recite(&connection, &busy, 2_000, 1_000);
        let page: Vec<u64> = page.unwrap().iter().map(|entry| entry.revision).collect();
        assert_eq!((page, slices), ((2_001..=3_000).collect(), 2));
        // So many stretches that a slice cannot see them all.
        let far = (2 * i64::from(SLICE_STRETCHES_MAX) + 1) << 11;
        connection.execute("UPDATE history SET number = ?1 WHERE timer_id = 'rare' AND revision = 2", [far]).unwrap();
        let (page, slices) = recite(&connection, &rare, 1, 1_000);
        assert_eq!((page.unwrap().len(), slices), (1, 3));
    }

    #[test]
    fn only_whole_histories_of_timers_long_gone_are_forgotten() {
        let connection = empty();
        let ids: Vec<TimerId> = ["held", "young", "old"].map(Arc::from).into();
        for id in &ids {
            put_entry(&connection, &entry(id, 1, 1, created())).unwrap();
            put_entry(&connection, &entry(id, 2, 2, Action::Started)).unwrap();
            put_entry(&connection, &entry(id, 3, 2, Action::Paused)).unwrap();
        }
        put(&connection, &Timer { id: ids[0].clone(), ..timer(1) }).unwrap();
        // Somebody is busy for stretches meanwhile.
        for revision in 4..=Stretch::of(0).last() {
            put_entry(&connection, &entry(&ids[0], revision, 2, Action::Paused)).unwrap();
        }
        put_entry(&connection, &entry(&ids[2], 4, 3, Action::Stopped)).unwrap();
        put_entry(&connection, &entry(&ids[1], 4, 100, Action::Deleted)).unwrap();
        put_entry(&connection, &entry(&ids[2], 5, 99, Action::Deleted)).unwrap();
        let mut forgetting = Forgetting::of(WallMs::from_ms(99));
        assert!(matches!(forgetting.slice(&connection, 2), Ok(Slice::Done(()))), "nothing is older");
        forgetting.extend(WallMs::from_ms(100));
        assert!(matches!(forgetting.slice(&connection, 2), Ok(Slice::Unfinished)));
        assert_eq!(revisions(&connection, &ids[2]), [1, 4, 5], "creation and deletion go last");
        assert!(matches!(forgetting.slice(&connection, 2), Ok(Slice::Unfinished)));
        assert!(matches!(forgetting.slice(&connection, 2), Ok(Slice::Done(()))));
        assert_eq!(recite(&connection, &ids[2], 0, 9).0, None);
        let left: Vec<usize> = ids.iter().map(|id| revisions(&connection, id).len()).collect();
        assert_eq!(left, [usize::try_from(Stretch::of(0).last()).unwrap(), 4, 0]);
    }

    #[test]
    fn a_life_among_many_others_is_forgotten_in_slices() {
        let connection = empty();
        let [gone, kept]: [TimerId; 2] = ["gone", "kept"].map(Arc::from);
        for (revision, action) in [(1, created()), (2, Action::Started), (3, Action::Deleted)] {
            for (id, at_ms) in [(&gone, 1), (&kept, 100)] {
                put_entry(&connection, &entry(id, revision, at_ms, action.clone())).unwrap();
                // Others have written more since than a slice looks through.
                let stretch = Stretch::of(0).last() + 1;
                let number =
                    (revision - 1) * 2 * u64::from(SLICE_STRETCHES_MAX) * stretch + u64::from(at_ms == 100) + 1;
                let sql = "UPDATE history SET number = ?1 WHERE timer_id = ?2 AND revision = ?3";
                connection.execute(sql, params![integer(number), id, integer(revision)]).unwrap();
            }
        }
        let mut forgetting = Forgetting::of(WallMs::from_ms(50));
        for left in [&[1, 2, 3][..], &[1, 2, 3], &[1, 3], &[1, 3]] {
            assert!(matches!(forgetting.slice(&connection, 100), Ok(Slice::Unfinished)));
            assert_eq!(revisions(&connection, &gone), left);
        }
        assert!(matches!(forgetting.slice(&connection, 100), Ok(Slice::Done(()))));
        assert_eq!(revisions(&connection, &gone), [0_u64; 0]);
        assert_eq!(revisions(&connection, &kept), [1, 2, 3]);
    }

    #[test]
    fn what_is_forgotten_is_found_by_the_index() {
        let connection = empty();
        for (sql, index) in [
            ("action = 'deleted' AND at_ms < 1 ORDER BY at_ms LIMIT 1", "history_deleted"),
            ("action = 'created' AND timer_id = 'a'", "history_created"),
        ] {
            let sql = format!("EXPLAIN QUERY PLAN SELECT timer_id FROM history WHERE {sql}");
            let plan: String = connection.query_row(&sql, [], |row| row.get(3)).unwrap();
            assert!(plan.contains(index), "{plan}");
        }
    }
}
