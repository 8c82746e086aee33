//! Rows <-> timers and their history.
//!
//! Owns the statements on `timers` and `history` and the spelling of their columns. It must not know what a state or
//! an action means, when a batch begins or ends, or which boot it is.
//!
//! Invariants: a timer read back equals the one written, to the nanosecond; an entry of the history is written once
//! and never changed; the history of a timer is forgotten whole, after the timer itself is gone.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::clock::WallMs;
use crate::domain::history::{Action, Entry};
use crate::domain::timers::{State, Timer, TimerId};
use crate::store::countdown;
use crate::store::schema::{integer, unreadable, unsigned};

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
/// An entry that is there already stays, and its batch goes on: it is a fact that has been told, while a batch
/// refused for it would be tried again for ever, and with it everything that follows. Two entries of one revision
/// cannot come from the domain; should they, the log says so.
///
/// # Errors
/// SQLite's own.
pub(super) fn put_entry(connection: &Connection, entry: &Entry) -> rusqlite::Result<()> {
    let sql = "INSERT INTO history (timer_id, revision, at_ms, action, actor, remaining_ms, name, duration_s,
                   start_at_ms, added_s, added_ms)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
               ON CONFLICT (timer_id, revision) DO NOTHING";
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
    let written = connection.prepare_cached(sql)?.execute(params![
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
    if written == 0 {
        log::warn!("history of {} already has revision {}: the older entry stays", entry.timer, entry.revision);
    }
    Ok(())
}

/// At most `limit` entries of `timer` with revisions above `after`, oldest first.
///
/// # Errors
/// SQLite's own, and when a row has no meaning.
pub(super) fn entries(
    connection: &Connection,
    timer: &TimerId,
    after: u64,
    limit: u32,
) -> rusqlite::Result<Vec<Entry>> {
    let sql = "SELECT revision, at_ms, action, actor, remaining_ms, name, duration_s, start_at_ms, added_s, added_ms
               FROM history WHERE timer_id = ?1 AND revision > ?2 ORDER BY revision LIMIT ?3";
    connection
        .prepare_cached(sql)?
        .query_map(params![timer, integer(after), limit], |row| read_entry(row, timer))?
        .collect()
}

/// Whether there is history of `timer`: every timer that ever was has some, until it is forgotten.
///
/// # Errors
/// SQLite's own.
pub(super) fn has_history(connection: &Connection, timer: &TimerId) -> rusqlite::Result<bool> {
    connection.prepare_cached("SELECT 1 FROM history WHERE timer_id = ?1 LIMIT 1")?.exists([timer])
}

/// Forgets history of timers deleted before `before`, `rows` entries at most. Returns how many there were.
///
/// The history of a timer is kept whole until its last entry, the deletion, is older than `before`, and then goes
/// whole: half of it would tell of a timer that was paused and never created. The deletion is what finds it, so it
/// goes last, and a forgetting cut short is taken up where it ended.
///
/// # Errors
/// SQLite's own.
pub(super) fn forget(connection: &Connection, before: WallMs, rows: u32) -> rusqlite::Result<u32> {
    let next = "SELECT timer_id FROM history
                WHERE action = 'deleted' AND at_ms < ?1
                    AND NOT EXISTS (SELECT 1 FROM timers WHERE timers.id = history.timer_id)
                ORDER BY at_ms LIMIT 1";
    let delete = "DELETE FROM history WHERE timer_id = ?1 AND revision IN
                      (SELECT revision FROM history WHERE timer_id = ?1 ORDER BY revision LIMIT ?2)";
    let mut next = connection.prepare_cached(next)?;
    let mut delete = connection.prepare_cached(delete)?;
    let mut gone = 0;
    while gone < rows {
        let timer: Option<TimerId> = next.query_row([before.ms()], |row| row.get(0)).optional()?;
        let Some(timer) = timer else { break };
        let deleted = delete.execute(params![timer, rows - gone])?;
        gone += u32::try_from(deleted).unwrap_or(rows);
    }
    Ok(gone)
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
            Action::Created { name: Arc::from(""), duration_s: 86_400 },
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
        assert_eq!(entries(&connection, &id, 0, 1_000).unwrap(), expected);
        assert_eq!(entries(&connection, &id, 3, 2).unwrap(), expected[3..5]);
        assert_eq!(entries(&connection, &id, u64::MAX, 2).unwrap(), []);
        assert!(has_history(&connection, &id).unwrap());
        assert!(!has_history(&connection, &Arc::from("timer_2")).unwrap());
    }

    #[test]
    fn an_entry_once_written_stays() {
        let connection = empty();
        let id: TimerId = Arc::from("timer_1");
        let first = entry(&id, 1, 10, Action::Paused);
        put_entry(&connection, &first).unwrap();
        put_entry(&connection, &entry(&id, 1, 11, Action::Stopped)).unwrap();
        assert_eq!(entries(&connection, &id, 0, 9).unwrap(), [first]);
    }

    #[test]
    fn only_whole_histories_of_timers_long_gone_are_forgotten() {
        let connection = empty();
        let ids: Vec<TimerId> = ["held", "young", "old"].map(Arc::from).into();
        for id in &ids {
            put_entry(&connection, &entry(id, 1, 1, Action::Started)).unwrap();
            put_entry(&connection, &entry(id, 2, 2, Action::Paused)).unwrap();
        }
        put(&connection, &Timer { id: ids[0].clone(), ..timer(1) }).unwrap();
        put_entry(&connection, &entry(&ids[1], 3, 100, Action::Deleted)).unwrap();
        put_entry(&connection, &entry(&ids[2], 3, 99, Action::Deleted)).unwrap();
        let before = WallMs::from_ms(100);
        assert_eq!(forget(&connection, before, 2).unwrap(), 2);
        assert_eq!(entries(&connection, &ids[2], 0, 9).unwrap().len(), 1, "the deletion goes last");
        assert_eq!(forget(&connection, before, 2).unwrap(), 1);
        assert_eq!(forget(&connection, before, 2).unwrap(), 0);
        let left = ids.iter().map(|id| entries(&connection, id, 0, 9).unwrap().len()).collect::<Vec<_>>();
        assert_eq!(left, [2, 3, 0]);
    }

    #[test]
    fn what_is_forgotten_is_found_by_the_index() {
        let connection = empty();
        let sql = "EXPLAIN QUERY PLAN SELECT timer_id FROM history WHERE action = 'deleted' AND at_ms < 1
                   ORDER BY at_ms LIMIT 1";
        let plan: String = connection.query_row(sql, [], |row| row.get(3)).unwrap();
        assert!(plan.contains("history_deleted"), "{plan}");
    }
}
