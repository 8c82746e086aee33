//! Tables, their migrations, and the settings of a connection.
//!
//! Owns the shape of the file and the one row of `meta`: which batch was the last, when the daemon was last alive, on
//! which boot, and the highest serial number ever given. It knows neither timers nor answers.
//!
//! Invariants: `user_version` says which migrations the file has seen, and each is applied whole or not at all; boot
//! times anywhere in the file are of the boot named in `meta`, which the batch that rewrites them also rewrites.
//! Constraints repeat only what the types of the domain already promise: a fact that the domain holds must never be
//! refused here, or its batch would fail for ever.

use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, Row, ffi, params};

use crate::clock::{Mono, Now, WallMs};
use crate::domain::events::Names;
use crate::store::OpenError;

/// The steps from an empty file to today's schema; the file's `user_version` counts those it has seen. A step that
/// has been released is never edited.
const MIGRATIONS: &[&str] = &[FIRST, SECOND, THIRD, FOURTH, FIFTH, SIXTH];

/// Marks a file as timerd's, in the field that SQLite keeps for it: `timd` in ASCII.
const APPLICATION_ID: i64 = 0x7469_6d64;

/// How long a connection waits for another process that holds the database, such as a backup: well within what an
/// orderly end may take.
const BUSY_MAX: Duration = Duration::from_millis(500);

/// `timers` is keyed by serial number and not by id, so that the timers of one exam, created together, lie on few
/// pages. `history` has no second key that every entry would have to be written into: what is forgotten is found by
/// the entry of the deletion, and only those are indexed. In `replays` the rowid is the order of commits, and the
/// columns of a stub come first, so that reading them leaves the overflow pages of long answers alone.
const FIRST: &str = "
    CREATE TABLE meta (
        id            INTEGER PRIMARY KEY CHECK (id = 1),
        batch         INTEGER NOT NULL,
        alive_wall_ms INTEGER,
        alive_boot_ns INTEGER,
        boot_id       TEXT,
        serial        INTEGER NOT NULL,
        CHECK ((alive_wall_ms IS NULL) = (alive_boot_ns IS NULL))
    ) STRICT;
    INSERT INTO meta (id, batch, serial) VALUES (1, 0, 0);

    CREATE TABLE timers (
        serial          INTEGER PRIMARY KEY,
        id              TEXT    NOT NULL UNIQUE,
        name            TEXT    NOT NULL,
        state           TEXT    NOT NULL,
        duration_s      INTEGER NOT NULL,
        thresholds      TEXT    NOT NULL,
        left_ns         INTEGER,
        ends_wall_ms    INTEGER,
        ends_boot_ns    INTEGER,
        start_at_ms     INTEGER,
        created_at_ms   INTEGER NOT NULL,
        started_at_ms   INTEGER,
        completed_at_ms INTEGER,
        revision        INTEGER NOT NULL,
        CHECK ((left_ns IS NULL) = (ends_wall_ms IS NOT NULL)),
        CHECK ((ends_wall_ms IS NULL) = (ends_boot_ns IS NULL))
    ) STRICT;

    CREATE TABLE history (
        timer_id     TEXT    NOT NULL,
        revision     INTEGER NOT NULL,
        at_ms        INTEGER NOT NULL,
        action       TEXT    NOT NULL,
        actor        TEXT    NOT NULL,
        remaining_ms INTEGER NOT NULL,
        name         TEXT,
        duration_s   INTEGER,
        start_at_ms  INTEGER,
        added_s      INTEGER,
        added_ms     INTEGER,
        PRIMARY KEY (timer_id, revision)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX history_deleted ON history (at_ms) WHERE action = 'deleted';

    CREATE TABLE replays (
        number  INTEGER PRIMARY KEY,
        key     BLOB    NOT NULL UNIQUE CHECK (length(key) = 32),
        request BLOB    NOT NULL CHECK (length(request) = 32),
        at_ms   INTEGER NOT NULL,
        status  INTEGER NOT NULL,
        headers TEXT    NOT NULL,
        body    BLOB    NOT NULL
    ) STRICT;
";

/// The events. They are found by number, and by session, user or type in the order of numbers; [`super::events`] says
/// how by time. Nothing has an id: it is the number under the permutation of `event_key`. The counts of all types fit
/// on one page, and what every batch writes anyway, the row of `meta`, holds the rest.
const SECOND: &str = "
    ALTER TABLE meta ADD COLUMN event_key INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE meta ADD COLUMN last_seq  INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE meta ADD COLUMN gone_seq  INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE meta ADD COLUMN events    INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE meta ADD COLUMN peak_ms   INTEGER NOT NULL DEFAULT -9007199254740992;
    UPDATE meta SET event_key = random();

    CREATE TABLE events (
        seq       INTEGER PRIMARY KEY,
        at_ms     INTEGER NOT NULL,
        behind_ms INTEGER NOT NULL,
        kind      INTEGER NOT NULL,
        source    TEXT    NOT NULL,
        session   TEXT,
        user      TEXT,
        payload   TEXT    NOT NULL
    ) STRICT;
    CREATE INDEX events_kind    ON events (kind);
    CREATE INDEX events_session ON events (session) WHERE session IS NOT NULL;
    CREATE INDEX events_user    ON events (user)    WHERE user IS NOT NULL;
    CREATE INDEX events_behind  ON events (at_ms)   WHERE behind_ms > 0;

    CREATE TABLE event_kinds (
        kind    INTEGER PRIMARY KEY,
        name    TEXT    NOT NULL,
        count   INTEGER NOT NULL,
        last_ms INTEGER NOT NULL
    ) STRICT;

    ALTER TABLE replays ADD COLUMN event_seq INTEGER;
";

/// Delivery. An assessment is a row for each of its versions, kept as long as a session has it; items are found by
/// their number in it. A session is one row, which every change of it rewrites, with what is known of its items in
/// short binary columns; the responses lie beside each other by session. Sessions that are no longer held have an
/// index, by when they may be forgotten.
const THIRD: &str = "
    CREATE TABLE assessments (
        version       INTEGER PRIMARY KEY,
        id            TEXT    NOT NULL,
        is_current    INTEGER NOT NULL,
        title         TEXT    NOT NULL,
        time_limit_s  INTEGER,
        attempt_limit INTEGER,
        navigation    TEXT    NOT NULL,
        grace_s       INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX assessments_id ON assessments (id);

    CREATE TABLE assessment_sections (
        version         INTEGER NOT NULL,
        number          INTEGER NOT NULL,
        id              TEXT    NOT NULL,
        name            TEXT    NOT NULL,
        time_limit_s    INTEGER,
        is_drawn        INTEGER NOT NULL,
        items_to_select INTEGER NOT NULL,
        ordering        TEXT    NOT NULL,
        PRIMARY KEY (version, number)
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE assessment_items (
        version  INTEGER NOT NULL,
        number   INTEGER NOT NULL,
        section  INTEGER NOT NULL,
        id       TEXT    NOT NULL,
        content  TEXT    NOT NULL,
        metadata TEXT    NOT NULL,
        PRIMARY KEY (version, number)
    ) STRICT;

    CREATE TABLE candidates (
        id         TEXT PRIMARY KEY,
        name       TEXT    NOT NULL,
        is_active  INTEGER NOT NULL,
        extra_time INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE sessions (
        serial          INTEGER PRIMARY KEY,
        id              TEXT    NOT NULL,
        version         INTEGER NOT NULL,
        candidate       TEXT    NOT NULL,
        test_taker      TEXT    NOT NULL,
        state           TEXT    NOT NULL,
        drawn           BLOB,
        place           INTEGER NOT NULL,
        limit_ns        INTEGER,
        clock           BLOB    NOT NULL,
        parts           BLOB    NOT NULL,
        marks           BLOB    NOT NULL,
        grace           BLOB    NOT NULL,
        started_at_ms   INTEGER NOT NULL,
        completed_at_ms INTEGER,
        expired_wall_ms INTEGER,
        expired_boot_ns INTEGER,
        late_ms         INTEGER,
        is_past         INTEGER NOT NULL DEFAULT 0,
        CHECK ((expired_wall_ms IS NULL) = (expired_boot_ns IS NULL))
    ) STRICT;
    CREATE INDEX sessions_version ON sessions (version);
    CREATE INDEX sessions_past    ON sessions (completed_at_ms) WHERE is_past = 1;

    CREATE TABLE answers (
        session  INTEGER NOT NULL,
        item     INTEGER NOT NULL,
        response TEXT    NOT NULL,
        PRIMARY KEY (session, item)
    ) STRICT, WITHOUT ROWID;
";

/// Rooms: a row each, and one for everybody who belongs to it, so that who comes and goes rewrites no list.
const FOURTH: &str = "
    CREATE TABLE rooms (
        serial        INTEGER PRIMARY KEY,
        id            TEXT    NOT NULL UNIQUE,
        state         TEXT    NOT NULL,
        duration_s    INTEGER NOT NULL,
        full_s        INTEGER NOT NULL,
        left_ns       INTEGER,
        ends_wall_ms  INTEGER,
        ends_boot_ns  INTEGER,
        started_at_ms INTEGER,
        paused_at_ms  INTEGER,
        revision      INTEGER NOT NULL,
        people_ever   INTEGER NOT NULL,
        CHECK ((left_ns IS NULL) = (ends_wall_ms IS NOT NULL)),
        CHECK ((ends_wall_ms IS NULL) = (ends_boot_ns IS NULL))
    ) STRICT;

    CREATE TABLE room_people (
        room   INTEGER NOT NULL,
        number INTEGER NOT NULL,
        key    TEXT    NOT NULL,
        name   TEXT    NOT NULL,
        PRIMARY KEY (room, number)
    ) STRICT, WITHOUT ROWID;
";

/// Indexes by name begin with the stretch of the row ([`super::stretch`]): a batch about many names writes few pages.
/// History, which lay by timer, lies in the order in which it is written, too; the entry of a creation is found by
/// name, and tells where the rest begins.
const FIFTH: &str = "
    DROP INDEX events_session;
    DROP INDEX events_user;
    CREATE INDEX events_session ON events (seq >> 11, session) WHERE session IS NOT NULL;
    CREATE INDEX events_user    ON events (seq >> 11, user)    WHERE user IS NOT NULL;

    CREATE TABLE entries (
        number       INTEGER PRIMARY KEY,
        timer_id     TEXT    NOT NULL,
        revision     INTEGER NOT NULL,
        at_ms        INTEGER NOT NULL,
        action       TEXT    NOT NULL,
        actor        TEXT    NOT NULL,
        remaining_ms INTEGER NOT NULL,
        name         TEXT,
        duration_s   INTEGER,
        start_at_ms  INTEGER,
        added_s      INTEGER,
        added_ms     INTEGER
    ) STRICT;
    INSERT INTO entries (timer_id, revision, at_ms, action, actor, remaining_ms, name, duration_s, start_at_ms, added_s,
                         added_ms)
        SELECT timer_id, revision, at_ms, action, actor, remaining_ms, name, duration_s, start_at_ms, added_s, added_ms
        FROM history ORDER BY timer_id, revision;
    DROP TABLE history;
    ALTER TABLE entries RENAME TO history;
    CREATE INDEX history_timer   ON history (number >> 11, timer_id, revision);
    CREATE INDEX history_created ON history (timer_id) WHERE action = 'created';
    CREATE INDEX history_deleted ON history (at_ms)    WHERE action = 'deleted';
";

/// A start reads what is held, and must not take longer with each exam that ever was: sessions that are held have an
/// index of their own. The sessions that are not are counted, by assessment and candidate, when they are let go, and
/// stay counted when what came of them is forgotten.
const SIXTH: &str = "
    CREATE INDEX sessions_held ON sessions (serial, version) WHERE is_past = 0;

    CREATE TABLE attempts (
        assessment TEXT    NOT NULL,
        candidate  TEXT    NOT NULL,
        used       INTEGER NOT NULL,
        PRIMARY KEY (assessment, candidate)
    ) STRICT, WITHOUT ROWID;
    INSERT INTO attempts
        SELECT assessments.id, candidate, count(*) FROM sessions JOIN assessments USING (version)
        WHERE is_past = 1 GROUP BY assessments.id, candidate;
";

/// What every connection has, whatever it is for.
///
/// # Errors
/// SQLite's own.
pub(super) fn guard(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_MAX)?;
    // The last connection of a database checkpoints it when it closes, by default. After a failed fsync that would
    // copy pages into the database which nothing proves; it is switched on for an orderly end only.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    Ok(())
}

/// Sets a fresh connection up, and changes nothing in the file. The same for a new file, an old one and memory.
///
/// # Errors
/// SQLite's own.
pub(super) fn configure(connection: &Connection) -> rusqlite::Result<()> {
    guard(connection)?;
    connection.set_prepared_statement_cache_capacity(64);
    connection.execute_batch(
        // FULL syncs the WAL at each commit; NORMAL would not. Checkpoints come between batches, not within one. The
        // size limit gives back what an unusually large batch made of the WAL.
        "PRAGMA synchronous = FULL;
         PRAGMA wal_autocheckpoint = 0;
         PRAGMA journal_size_limit = 16777216;
         -- No table refers to another: history outlives its timer. The bundled SQLite turns this on.
         PRAGMA foreign_keys = OFF;
         -- An I/O error in a mapped file is a SIGBUS, and would end the process.
         PRAGMA mmap_size = 0;
         -- No file outside the data directory.
         PRAGMA temp_store = MEMORY;
         -- Damage is found when a page is read, not when it is used.
         PRAGMA cell_size_check = ON;
         -- The index of 100,000 kept answers is hit at random: it stays in memory (16 MiB).
         PRAGMA cache_size = -16384;",
    )
}

/// Turns write-ahead logging on. Once on it is a property of the file.
///
/// # Errors
/// SQLite's own, and when the file system cannot do it (it takes shared memory).
pub(super) fn log_ahead(connection: &Connection) -> rusqlite::Result<()> {
    let mode: String = connection.query_one("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode == "wal" || mode == "memory" {
        // The log is opened by the first statement after the switch, and that must not be a checkpoint: it would find
        // the file locked by itself.
        return connection.query_one("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()));
    }
    let why = format!("write-ahead logging is not possible here (journal mode {mode})");
    Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_CANTOPEN), Some(why)))
}

/// Looks whether the file is ours and whole, and brings it to today's schema.
///
/// # Errors
/// When it is another program's, a later version's or damaged, or when it cannot be written. It is unchanged then.
pub(super) fn migrate(connection: &Connection, file: &Path) -> Result<(), OpenError> {
    upgrade(connection, file, MIGRATIONS)?;
    // Cheap, so that a restart in the middle of an exam is: the tables that the daemon cannot begin without. History
    // may be of any size, and damage there is met when it is asked for.
    for table in ["meta", "timers", "event_kinds"] {
        let verdict: String = connection
            .query_row(&format!("PRAGMA quick_check('{table}')"), [], |row| row.get(0))
            .map_err(|error| refusal(file, &error))?;
        if verdict != "ok" {
            return Err(OpenError::Damaged { file: file.to_owned(), why: verdict.replace('\n', ", ") });
        }
    }
    Ok(())
}

fn upgrade(connection: &Connection, file: &Path, steps: &[&str]) -> Result<(), OpenError> {
    let sqlite = |error: rusqlite::Error| refusal(file, &error);
    let number = |sql: &str| connection.query_one(sql, [], |row| row.get::<_, i64>(0));
    let application = number("PRAGMA application_id").map_err(sqlite)?;
    let is_empty = number("SELECT count(*) FROM sqlite_schema").map_err(sqlite)? == 0;
    let version = number("PRAGMA user_version").map_err(sqlite)?;
    let (true, Ok(found)) = (application == APPLICATION_ID || (application == 0 && is_empty), u32::try_from(version))
    else {
        return Err(OpenError::Foreign { file: file.to_owned() });
    };
    let known = u32::try_from(steps.len()).unwrap_or(u32::MAX);
    if found > known {
        return Err(OpenError::Newer { file: file.to_owned(), found, known });
    }
    if found < known {
        let seen = usize::try_from(found).unwrap_or(usize::MAX);
        let rest = steps.get(seen..).unwrap_or_default().concat();
        let done = connection.execute_batch(&format!(
            "BEGIN IMMEDIATE; {rest} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {known}; COMMIT;"
        ));
        if let Err(error) = done {
            // A transaction that stays open ends with the connection, which is given up now.
            return Err(refusal(file, &error));
        }
        if found > 0 {
            log::info!("{} was brought from schema {found} to {known}", file.display());
        }
    }
    Ok(())
}

/// The error of an opening in the operator's words.
pub(super) fn refusal(file: &Path, error: &rusqlite::Error) -> OpenError {
    let file = file.to_owned();
    match error {
        // Rows that SQLite reads and the domain has no words for.
        rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::IntegralValueOutOfRange(..)
        | rusqlite::Error::InvalidColumnType(..)
        | rusqlite::Error::QueryReturnedNoRows => OpenError::Damaged { file, why: error.to_string() },
        _ => match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::NotADatabase) => OpenError::Foreign { file },
            Some(rusqlite::ErrorCode::DatabaseCorrupt) => OpenError::Damaged { file, why: error.to_string() },
            _ => OpenError::Sqlite { file, why: error.to_string() },
        },
    }
}

/// The row of `meta`.
#[derive(Debug)]
pub(super) struct Meta {
    /// The number of the last batch in the file.
    pub(super) batch: u64,
    /// Its sign of life.
    pub(super) alive: Option<Now>,
    /// The boot that wrote it.
    pub(super) boot_id: Option<String>,
    /// The highest serial number that any timer ever had.
    pub(super) serial: u32,
    /// The number of the last event.
    pub(super) last_seq: u64,
    /// The names of the events.
    pub(super) names: Names,
}

/// Reads the row of `meta`.
///
/// # Errors
/// SQLite's own.
pub(super) fn meta(connection: &Connection) -> rusqlite::Result<Meta> {
    let sql =
        "SELECT batch, alive_wall_ms, alive_boot_ns, boot_id, serial, last_seq, event_key FROM meta WHERE id = 1";
    connection.prepare_cached(sql)?.query_row([], |row| {
        let wall = row.get::<_, Option<i64>>(1)?.map(WallMs::from_ms);
        let mono = optional_unsigned(row, 2)?.map(Mono::from_ns);
        Ok(Meta {
            batch: unsigned(row, 0)?,
            alive: wall.zip(mono).map(|(wall, mono)| Now { mono, wall }),
            boot_id: row.get(3)?,
            serial: row.get(4)?,
            last_seq: unsigned(row, 5)?,
            names: Names::new(row.get::<_, i64>(6)?.cast_unsigned()),
        })
    })
}

/// Writes the number of a batch and its sign of life, and raises the highest serial number to `serial`.
///
/// # Errors
/// SQLite's own, and when there is no such row.
pub(super) fn stamp(
    connection: &Connection,
    batch: u64,
    alive: Now,
    boot_id: &str,
    serial: u32,
) -> rusqlite::Result<()> {
    let sql = "UPDATE meta SET batch = ?1, alive_wall_ms = ?2, alive_boot_ns = ?3, boot_id = ?4,
                   serial = max(serial, ?5) WHERE id = 1";
    let changed = connection.prepare_cached(sql)?.execute(params![
        integer(batch),
        alive.wall.ms(),
        integer(alive.mono.ns()),
        boot_id,
        serial
    ])?;
    if changed == 1 { Ok(()) } else { Err(rusqlite::Error::QueryReturnedNoRows) }
}

/// An unsigned number for a column. SQLite's integers end at 2^63 - 1, which is 292 years in nanoseconds.
pub(super) fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// An unsigned number from a column.
pub(super) fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let number: i64 = row.get(column)?;
    u64::try_from(number).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, number))
}

/// An unsigned number from a column that may be empty.
pub(super) fn optional_unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<u64>> {
    row.get::<_, Option<i64>>(column)?
        .map(|number| u64::try_from(number).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, number)))
        .transpose()
}

/// The error of a row that says what the domain has no word for.
pub(super) fn unreadable(column: usize, what: &str) -> rusqlite::Error {
    let error = format!("unknown {what}").into();
    rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, error)
}

/// Pages in the WAL that are not in the database yet.
///
/// # Errors
/// SQLite's own.
pub(super) fn wal_pages(connection: &Connection) -> rusqlite::Result<u32> {
    let sql = "PRAGMA wal_checkpoint(NOOP)";
    let row = |row: &Row<'_>| Ok((row.get::<_, i64>(1)?, row.get::<_, i64>(2)?));
    let (pages, copied) = connection.query_one(sql, [], row)?;
    Ok(u32::try_from(pages - copied).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> &'static Path {
        Path::new("/x/timerd.db")
    }

    #[test]
    fn an_old_file_is_brought_up_step_by_step_and_keeps_its_rows() {
        let connection = Connection::open_in_memory().unwrap();
        upgrade(&connection, file(), MIGRATIONS).unwrap();
        let now = Now { mono: Mono::from_ns(5), wall: WallMs::from_ms(-7) };
        stamp(&connection, 3, now, "boot", 9).unwrap();
        let more = "ALTER TABLE meta ADD COLUMN more INTEGER NOT NULL DEFAULT 4;";
        let steps = [MIGRATIONS, &[more]].concat();
        upgrade(&connection, file(), &steps).unwrap();
        upgrade(&connection, file(), &steps).unwrap();
        let more: i64 = connection.query_row("SELECT more FROM meta", [], |row| row.get(0)).unwrap();
        let meta = meta(&connection).unwrap();
        assert_eq!((more, meta.batch, meta.alive, meta.serial), (4, 3, Some(now), 9));
        let error = upgrade(&connection, file(), MIGRATIONS).unwrap_err().to_string();
        let (newer, known) = (steps.len(), MIGRATIONS.len());
        let expected = format!("/x/timerd.db was written by a newer timerd (schema {newer}, this one knows {known})");
        assert_eq!(error, expected);
    }

    #[test]
    fn a_file_from_before_the_events_is_given_a_key_of_its_own() {
        let keys: Vec<Names> = (0..2)
            .map(|_| {
                let connection = Connection::open_in_memory().unwrap();
                upgrade(&connection, file(), &MIGRATIONS[..1]).unwrap();
                connection.execute("UPDATE meta SET batch = 5, serial = 3", []).unwrap();
                upgrade(&connection, file(), MIGRATIONS).unwrap();
                let meta = meta(&connection).unwrap();
                assert_eq!((meta.batch, meta.serial, meta.last_seq), (5, 3, 0));
                meta.names
            })
            .collect();
        assert_ne!(keys[0], keys[1]);
    }

    /// Every table and index as it was written down.
    fn written(connection: &Connection) -> Vec<String> {
        let mut all =
            connection.prepare("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name").unwrap();
        all.query_map([], |row| row.get(0)).unwrap().collect::<rusqlite::Result<_>>().unwrap()
    }

    #[test]
    fn a_file_of_every_schema_there_ever_was_comes_to_be_as_a_new_one_is_and_keeps_its_row() {
        let new = Connection::open_in_memory().unwrap();
        migrate(&new, file()).unwrap();
        for released in 1..=MIGRATIONS.len() {
            let connection = Connection::open_in_memory().unwrap();
            upgrade(&connection, file(), &MIGRATIONS[..released]).unwrap();
            connection.execute("UPDATE meta SET batch = 5, serial = 3", []).unwrap();
            migrate(&connection, file()).unwrap();
            assert!(written(&connection) == written(&new), "from schema {released}");
            let version: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
            let meta = meta(&connection).unwrap();
            assert_eq!(
                (version as usize, meta.batch, meta.serial),
                (MIGRATIONS.len(), 5, 3),
                "from schema {released}"
            );
        }
    }

    #[test]
    fn history_that_lay_by_timer_is_kept_in_its_order() {
        let connection = Connection::open_in_memory().unwrap();
        upgrade(&connection, file(), &MIGRATIONS[..4]).unwrap();
        let sql = "INSERT INTO history (timer_id, revision, at_ms, action, actor, remaining_ms, name, duration_s)
                   VALUES (?1, ?2, 9 - ?2, ?3, 'a', 7, 'n', 8)";
        for (timer, revision, action) in
            [("b", 2, "started"), ("a", 1, "created"), ("b", 1, "created"), ("a", 2, "deleted")]
        {
            connection.execute(sql, params![timer, revision, action]).unwrap();
        }
        migrate(&connection, file()).unwrap();
        let sql =
            "SELECT format('%s%d %s %d %s', timer_id, revision, action, at_ms, name) FROM history ORDER BY number";
        let mut statement = connection.prepare(sql).unwrap();
        let rows: Vec<String> =
            statement.query_map([], |row| row.get(0)).unwrap().collect::<rusqlite::Result<_>>().unwrap();
        assert_eq!(rows, ["a1 created 8 n", "a2 deleted 7 n", "b1 created 8 n", "b2 started 7 n"]);
    }

    #[test]
    fn sessions_that_had_been_let_go_stay_counted() {
        let connection = Connection::open_in_memory().unwrap();
        upgrade(&connection, file(), &MIGRATIONS[..5]).unwrap();
        for (version, id) in [(1, "a"), (2, "b"), (3, "a")] {
            let sql = "INSERT INTO assessments VALUES (?1, ?2, 1, '', NULL, NULL, '', 0)";
            connection.execute(sql, params![version, id]).unwrap();
        }
        for (version, candidate, is_past) in [(1, "x", 1), (3, "x", 1), (3, "x", 0), (2, "x", 1), (3, "y", 0)] {
            let sql = "INSERT INTO sessions (id, version, candidate, test_taker, state, place, clock, parts, marks,
                           grace, started_at_ms, is_past)
                       VALUES ('', ?1, ?2, '', '', 0, x'', x'', x'', x'', 0, ?3)";
            connection.execute(sql, params![version, candidate, is_past]).unwrap();
        }
        migrate(&connection, file()).unwrap();
        let sql = "SELECT format('%s %s %d', assessment, candidate, used) FROM attempts ORDER BY 1";
        let mut statement = connection.prepare(sql).unwrap();
        let rows: Vec<String> =
            statement.query_map([], |row| row.get(0)).unwrap().collect::<rusqlite::Result<_>>().unwrap();
        assert_eq!(rows, ["a x 2", "b x 1"]);
    }

    #[test]
    fn a_step_that_fails_leaves_the_file_as_it_was() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("timerd.db");
        let connection = Connection::open(&path).unwrap();
        upgrade(&connection, &path, MIGRATIONS).unwrap();
        let steps = [MIGRATIONS, &["CREATE TABLE more (x) STRICT;"]].concat();
        assert!(matches!(upgrade(&connection, &path, &steps), Err(OpenError::Sqlite { .. })));
        drop(connection);
        let connection = Connection::open(&path).unwrap();
        let version: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
        assert_eq!(version as usize, MIGRATIONS.len());
        migrate(&connection, &path).unwrap();
    }

    #[test]
    fn the_database_of_another_program_is_left_alone() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE TABLE theirs (x)").unwrap();
        assert!(matches!(migrate(&connection, file()), Err(OpenError::Foreign { .. })));
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("PRAGMA application_id = -5").unwrap();
        assert!(matches!(migrate(&connection, file()), Err(OpenError::Foreign { .. })));
    }

    #[test]
    fn the_highest_serial_number_only_rises() {
        let connection = Connection::open_in_memory().unwrap();
        migrate(&connection, file()).unwrap();
        assert_eq!(meta(&connection).unwrap().alive, None);
        stamp(&connection, 1, Now::default(), "boot", 5).unwrap();
        stamp(&connection, 2, Now::default(), "boot", 0).unwrap();
        assert_eq!(meta(&connection).unwrap().serial, 5);
    }
}
