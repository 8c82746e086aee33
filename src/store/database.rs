//! One open database.
//!
//! Owns the connection and the proof of what is durable: a batch goes in whole or not at all, doubt is settled by
//! looking at the disk, work between batches comes in slices. It must not know the order of the work nor who waits.
//!
//! After a failed fsync nothing in the page cache proves anything, and neither does the connection. So a shaken
//! connection is closed, the files are brought to the truth of the disk, and a new connection tells which batch was
//! the last. Two things may then still be in the WAL that the disk does not hold, if the kernel kept pages which it
//! was told to drop: the batch in doubt, and what was forgotten without a sync. Both would break the chain of frames
//! before whatever is appended. Hence the checkpoint: it writes and syncs the pages themselves, into the database,
//! and only then does the WAL begin anew.
//!
//! Invariants: no connection is in use whose WAL might hold unproven frames, except for reading; `durable` is the
//! number of the last batch known to be on the disk, and a file that tells another number is not the one we wrote.

use std::sync::Arc;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::clock::WallMs;
use crate::domain::disk::{EventStats, Extent, Gone, Image, Page, Results, Search};
use crate::domain::effects::{Batch, Record};
use crate::domain::events::Stored;
use crate::domain::history::Entry;
use crate::domain::replays::{Digest, Replay};
use crate::domain::timers::TimerId;
use crate::limits::SLICE_ROWS_MAX;
use crate::store::directory::Directory;
use crate::store::events::{Census, Forgetting, Reading};
use crate::store::slice::Slice;
use crate::store::timers::Recital;
use crate::store::{OpenError, assessments, delivery, events, replays, rooms, schema, timers};

/// Pages in the WAL from which on an idle disk thread copies them into the database (4 MiB).
const CHECKPOINT_PAGES: u32 = 1_000;
/// Pages in the WAL beyond which even a busy disk thread does (16 MiB): reading slows down with its length.
const WAL_PAGES_MAX: u32 = 4_000;

/// Entries forgotten in one slice. A row costs several times as much to delete as to read, and they lie scattered:
/// 500 took 3.5 ms where reading 500 took 0.7 (a development build, SQLite optimised).
pub(super) const FORGET_ROWS_MAX: u32 = SLICE_ROWS_MAX / 4;

/// Why a batch is not known to be durable.
#[derive(Debug, PartialEq)]
pub(super) enum Trouble {
    /// It is not in the file and never will be: COMMIT was not reached.
    Untouched(String),
    /// COMMIT was tried and failed: only the disk knows.
    Doubt(String),
}

/// How urgently the WAL wants to be copied into the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Checkpoint {
    /// It is short.
    NotDue,
    /// When nothing else is to be done.
    WhenIdle,
    /// Before anything but a batch.
    Due,
}

/// A database, open or to be opened again.
#[derive(Debug)]
pub(super) struct Database {
    /// `None`: in memory.
    directory: Option<Directory>,
    boot_id: String,
    /// `None` after it was shaken, until it can be opened again.
    connection: Option<Connection>,
    /// The last batch known to be on the disk.
    durable: u64,
    /// The WAL holds nothing that might not be on the disk.
    is_proven: bool,
    wal_pages: u32,
}

impl Database {
    /// Opens the database of `directory`, migrates it and reads what start-up needs.
    pub(super) fn open(directory: Directory, boot_id: &str) -> Result<(Self, Image), OpenError> {
        let file = directory.database();
        // A process that was killed leaves what it had written and not synced in the page cache, whole commits among
        // it. They will be shown, so they must be durable before.
        directory.settle_files().map_err(|source| OpenError::Io { path: file.clone(), source })?;
        let sqlite = |error: rusqlite::Error| schema::refusal(&file, &error);
        let connection = connect(&directory).map_err(sqlite)?;
        schema::configure(&connection).map_err(sqlite)?;
        schema::migrate(&connection, &file)?;
        let image = image(&connection, boot_id).map_err(sqlite)?;
        // Changes the file, so it comes after all that may refuse it.
        schema::log_ahead(&connection).map_err(sqlite)?;
        let mut database = Database {
            directory: Some(directory),
            boot_id: boot_id.to_owned(),
            connection: Some(connection),
            durable: image.batch,
            is_proven: false,
            wal_pages: 0,
        };
        if let Err(why) = database.prove() {
            // A full disk may be unable to take the WAL into the database: that stops writing, not starting. And a
            // backup that is reading stops neither, since the sync above has succeeded.
            database.is_proven = database.connection.is_some();
            log::warn!("{} cannot be checkpointed at start: {why}", file.display());
        }
        Ok((database, image))
    }

    /// A database in memory.
    pub(super) fn in_memory() -> Result<(Self, Image), OpenError> {
        let file = std::path::Path::new(":memory:");
        let open = || {
            let connection = Connection::open_in_memory()?;
            schema::configure(&connection)?;
            Ok(connection)
        };
        let connection = open().map_err(|error| schema::refusal(file, &error))?;
        schema::migrate(&connection, file)?;
        let image = image(&connection, "").map_err(|error| schema::refusal(file, &error))?;
        let database = Database {
            directory: None,
            boot_id: String::new(),
            connection: Some(connection),
            durable: 0,
            is_proven: true,
            wal_pages: 0,
        };
        Ok((database, image))
    }

    /// Makes `batch` durable. Before the first attempt after a failure the files are proven anew. Returns the number
    /// of the last event.
    pub(super) fn write(&mut self, batch: &Batch) -> Result<u64, Trouble> {
        self.make_ready().map_err(Trouble::Untouched)?;
        let filled = self.with(|connection, boot_id| fill(connection, batch, boot_id));
        let last_seq = match filled {
            Ok(last_seq) => last_seq,
            Err(why) => return Err(Trouble::Untouched(why)),
        };
        let Some(connection) = &self.connection else { return Err(Trouble::Untouched(NOT_OPEN.to_owned())) };
        let committed = connection.prepare_cached("COMMIT").and_then(|mut commit| commit.execute([]));
        if let Err(error) = committed {
            self.abandon();
            return Err(Trouble::Doubt(error.to_string()));
        }
        self.durable = batch.number;
        self.measure();
        Ok(last_seq)
    }

    /// Finds out whether the batch in doubt is on the disk, and makes it certain if it is. Returns the number of the
    /// last event then.
    ///
    /// # Errors
    /// When the disk cannot be asked, or tells of neither the batch in doubt nor the one before: ask again later.
    pub(super) fn judge(&mut self, number: u64) -> Result<Option<u64>, String> {
        let stored = self.reopen()?;
        if stored == number {
            // What was read may still be a page that only the cache holds: true when the checkpoint has written it.
            self.prove()?;
            let last_seq = self.read(|connection| schema::meta(connection).map(|meta| meta.last_seq))?;
            self.durable = number;
            return Ok(Some(last_seq));
        }
        self.recognise(stored)?;
        // Not there. The checkpoint also removes what there may be of it behind the last commit. Where it fails, as
        // on a full disk, the WAL itself must have told, and not an index of it that another process keeps: frames
        // that the index leaves out might yet be found when it is built anew.
        match self.prove() {
            Err(why) if !self.is_alone_and_sure() => Err(why),
            _ => Ok(None),
        }
    }

    /// A slice of a timer's history; `None`: there never was such a timer, as far as is known.
    pub(super) fn history(
        &mut self,
        recital: &mut Recital,
        timer: &TimerId,
        after: u64,
        limit: u32,
    ) -> Result<Slice<Option<Vec<Entry>>>, String> {
        self.read(|connection| recital.slice(connection, timer, after, limit))
    }

    /// A kept answer, with the number of the event if it is one.
    pub(super) fn replay(&mut self, key: &Digest) -> Result<Option<(Replay, Option<u64>)>, String> {
        self.read(|connection| replays::find(connection, key))
    }

    /// An event.
    pub(super) fn event(&mut self, seq: u64) -> Result<Option<Stored>, String> {
        self.read(|connection| events::find(connection, seq))
    }

    /// A slice of a search for events.
    pub(super) fn events(
        &mut self,
        reading: &mut Reading,
        search: &Search,
    ) -> Result<Slice<Result<Page, Gone>>, String> {
        self.read(|connection| reading.slice(connection, search))
    }

    /// Goes on with a counting of all events.
    pub(super) fn event_stats(&mut self, census: &mut Census) -> Result<Slice<EventStats>, String> {
        self.read(|connection| census.slice(connection))
    }

    /// The responses of a session, by number of the item.
    pub(super) fn responses(&mut self, session: u32) -> Result<Vec<(u16, Arc<str>)>, String> {
        self.read(|connection| delivery::responses(connection, session))
    }

    /// A page of what came of an assessment; `None`: nothing is known of it.
    pub(super) fn results(
        &mut self,
        assessment: &Arc<str>,
        after: u32,
        bytes_max: usize,
    ) -> Result<Option<Results>, String> {
        self.read(|connection| delivery::results(connection, assessment, after, bytes_max))
    }

    /// Forgets a slice of sessions that are no longer held and ended before `before`. Returns whether anything may be
    /// left to forget.
    pub(super) fn forget_results(&mut self, before: WallMs) -> Result<bool, String> {
        self.slice(false, |connection| delivery::forget(connection, before, FORGET_ROWS_MAX))
    }

    /// A deletion of events begins.
    pub(super) fn begin_forgetting(&mut self, extent: Extent) -> Result<Forgetting, String> {
        self.read(|connection| Forgetting::begin(connection, extent))
    }

    /// A slice of a deletion of events. The last one is synced, and with it all before.
    pub(super) fn forget_events(&mut self, forgetting: &mut Forgetting) -> Result<Slice<u64>, String> {
        let doomed = self.read(|connection| forgetting.next(connection, FORGET_ROWS_MAX))?;
        // The last slice is synced even if there is nothing left for it: what was deleted before it was not.
        if !doomed.is_empty() || (doomed.is_last && forgetting.gone > 0) {
            self.slice(doomed.is_last, |connection| forgetting.delete(connection, &doomed))?;
            forgetting.count(&doomed);
        }
        Ok(if doomed.is_last { Slice::Done(forgetting.gone) } else { Slice::Unfinished })
    }

    /// A slice of a forgetting of history. After an error it is to be begun anew.
    pub(super) fn forget_history(&mut self, forgetting: &mut timers::Forgetting) -> Result<Slice<()>, String> {
        self.slice(false, |connection| forgetting.slice(connection, FORGET_ROWS_MAX))
    }

    /// Deletes something in a transaction of its own. Not `synced`, so that no batch waits for it: what a power cut
    /// brings back is deleted again, and the batch behind syncs the WAL with all that is in it.
    fn slice<T>(&mut self, synced: bool, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, String> {
        self.make_ready()?;
        let done = self.with(|connection, _| {
            if !synced {
                connection.execute_batch("PRAGMA synchronous = NORMAL")?;
            }
            connection.execute_batch("BEGIN IMMEDIATE")?;
            let done = work(connection)?;
            connection.execute_batch("COMMIT; PRAGMA synchronous = FULL")?;
            Ok(done)
        });
        if done.is_err() {
            // Wherever it broke off, the next batch must be synced: the new connection does that from the start.
            self.abandon();
        }
        self.measure();
        done
    }

    /// Whether the WAL wants to be copied into the database.
    pub(super) fn checkpoint_due(&self) -> Checkpoint {
        match self.wal_pages {
            0..CHECKPOINT_PAGES => Checkpoint::NotDue,
            CHECKPOINT_PAGES..WAL_PAGES_MAX => Checkpoint::WhenIdle,
            WAL_PAGES_MAX.. => Checkpoint::Due,
        }
    }

    /// Copies the WAL into the database, as far as no other process reads it. A failure puts the files in doubt: they
    /// are proven before the next batch.
    pub(super) fn checkpoint(&mut self) -> Result<(), String> {
        // Whatever comes of it, it is not tried again before something was written.
        self.wal_pages = 0;
        let copied = match &self.connection {
            Some(connection) => connection.query_one("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())),
            None => Ok(()),
        };
        copied.map_err(|error| {
            self.abandon();
            error.to_string()
        })
    }

    /// Puts everything into the one database file and closes it.
    ///
    /// # Errors
    /// When that cannot be done. Nothing is lost then: the WAL beside the database holds the rest.
    pub(super) fn close(mut self) -> Result<(), String> {
        self.make_ready()?;
        self.prove()?;
        let Some(connection) = self.connection.take() else { return Ok(()) };
        // All is proven, so SQLite may tidy up as it closes: one file is left, and easy to copy.
        let closed = connection
            .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)
            .and_then(|_| connection.close().map_err(|(_, error)| error));
        closed.map_err(|error| error.to_string())
    }

    /// Runs `work`, which may leave a transaction open when it succeeds. When it fails nothing of it stays.
    fn with<T>(&mut self, work: impl FnOnce(&Connection, &str) -> rusqlite::Result<T>) -> Result<T, String> {
        let Some(connection) = &self.connection else { return Err(NOT_OPEN.to_owned()) };
        let error = match work(connection, &self.boot_id) {
            Ok(result) => return Ok(result),
            Err(error) => error,
        };
        // SQLite has rolled back by itself after some errors.
        let is_undone = connection.is_autocommit() || connection.execute_batch("ROLLBACK").is_ok();
        if !is_undone || is_shaking(&error) {
            self.abandon();
        }
        Err(error.to_string())
    }

    fn read<T>(&mut self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, String> {
        if self.connection.is_none() {
            let stored = self.reopen()?;
            self.recognise(stored)?;
        }
        let Some(connection) = &self.connection else { return Err(NOT_OPEN.to_owned()) };
        work(connection).map_err(|error| error.to_string())
    }

    /// Open, and proven: what is committed from here on is as durable as its own sync says.
    fn make_ready(&mut self) -> Result<(), String> {
        if self.connection.is_none() {
            let stored = self.reopen()?;
            self.recognise(stored)?;
        }
        if self.is_proven { Ok(()) } else { self.prove() }
    }

    /// The connection has seen what it should not have: close it, and trust nothing that it left behind.
    fn abandon(&mut self) {
        if self.directory.is_some() {
            self.connection = None;
            self.is_proven = false;
            self.wal_pages = 0;
        } else if let Some(connection) = &self.connection
            && !connection.is_autocommit()
        {
            // Memory has no page cache to doubt and nothing to open again.
            let undone = connection.execute_batch("ROLLBACK").and_then(|()| schema::configure(connection));
            if let Err(error) = undone {
                log::error!("the store in memory: {error}");
            }
        }
    }

    /// Opens the file anew, from the disk. Returns the number of the last batch in it.
    fn reopen(&mut self) -> Result<u64, String> {
        self.abandon();
        if let Some(directory) = &self.directory {
            directory.settle_files().map_err(|error| error.to_string())?;
            let opened = connect(directory).and_then(|connection| {
                schema::configure(&connection)?;
                Ok(connection)
            });
            self.connection = Some(opened.map_err(|error| error.to_string())?);
        }
        let stored = match &self.connection {
            Some(connection) => schema::meta(connection).map(|meta| meta.batch),
            None => return Err(NOT_OPEN.to_owned()),
        };
        stored.map_err(|error| {
            self.abandon();
            error.to_string()
        })
    }

    /// The file must end with the last batch that was durable. Anything else is a file put in its place by others:
    /// to go on with it would lose what was acknowledged.
    fn recognise(&mut self, stored: u64) -> Result<(), String> {
        if stored == self.durable {
            return Ok(());
        }
        self.abandon();
        Err(format!("the database ends with batch {stored}, but {} was written: it was exchanged", self.durable))
    }

    /// Writes and syncs all that the WAL holds into the database, and begins the WAL anew.
    fn prove(&mut self) -> Result<(), String> {
        let Some(connection) = &self.connection else { return Err(NOT_OPEN.to_owned()) };
        let busy = schema::log_ahead(connection)
            .and_then(|()| connection.query_one("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0)));
        match busy {
            Ok(0) => {
                self.is_proven = true;
                self.wal_pages = 0;
                Ok(())
            }
            // The connection is sound; somebody else's reading is in the way.
            Ok(_) => Err("another process is using the database".to_owned()),
            Err(error) => {
                self.abandon();
                Err(error.to_string())
            }
        }
    }

    /// No other process has the database open, and the WAL read from its beginning ends with the last durable batch.
    fn is_alone_and_sure(&self) -> bool {
        let Some(directory) = &self.directory else { return true };
        let look = || {
            let connection = connect(directory)?;
            schema::guard(&connection)?;
            // Before the first look at the file: the index is then built in memory, from the WAL alone, and another
            // process in the way is an error.
            connection.query_one("PRAGMA locking_mode = EXCLUSIVE", [], |_| Ok(()))?;
            schema::meta(&connection).map(|meta| meta.batch)
        };
        self.connection.is_none() && look().is_ok_and(|stored| stored == self.durable)
    }

    fn measure(&mut self) {
        // A figure for the timing of checkpoints: an error here will meet the next batch too, and be told then.
        self.wal_pages = self.connection.as_ref().and_then(|it| schema::wal_pages(it).ok()).unwrap_or(0);
    }

    /// The connection, for tests that break it.
    #[cfg(test)]
    pub(super) fn connection(&self) -> &Connection {
        self.connection.as_ref().unwrap()
    }
}

const NOT_OPEN: &str = "the database is not open";

/// Opens the file, which is never created here: where it has vanished an empty one would look like a fresh start.
fn connect(directory: &Directory) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(directory.database(), flags)
}

/// Puts the batch into a transaction that is left open. Returns the number of the last event.
fn fill(connection: &Connection, batch: &Batch, boot_id: &str) -> rusqlite::Result<u64> {
    // IMMEDIATE: another writer is met here, where waiting and failing are harmless, and not at COMMIT.
    connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
    let mut serial = 0;
    let mut writer = events::Writer::new(connection)?;
    // What followed from shown state comes before the commands that were judged on top of it.
    for record in batch.follows.iter().chain(&batch.commands) {
        match record {
            Record::Timer(timer) => {
                serial = serial.max(timer.serial);
                timers::put(connection, timer)?;
            }
            Record::TimerGone(timer) => timers::remove(connection, timer)?,
            Record::History(entry) => timers::put_entry(connection, entry)?,
            Record::Event(event) => writer.put(event)?,
            Record::Assessment(assessment) => assessments::put(connection, assessment)?,
            Record::AssessmentGone(id) => assessments::remove(connection, id)?,
            Record::Candidate(candidate) => assessments::put_candidate(connection, candidate)?,
            Record::Room(room) => rooms::put(connection, room)?,
            Record::RoomGone(serial) => rooms::remove(connection, *serial)?,
            Record::RoomPerson { room, person } => rooms::put_person(connection, *room, person)?,
            Record::RoomPersonGone { room, person } => rooms::remove_person(connection, *room, *person)?,
            Record::Session(session) => delivery::put(connection, session)?,
            Record::SessionPast(serial) => delivery::put_past(connection, *serial)?,
            Record::Answer { session, item, response } => {
                delivery::put_answer(connection, *session, *item, response)?;
            }
            Record::Replay(replay) => replays::put(connection, replay, writer.last_seq())?,
            Record::ReplayGone(key) => replays::remove(connection, key)?,
        }
    }
    let last_seq = writer.finish()?;
    schema::stamp(connection, batch.number, batch.alive, boot_id, serial)?;
    Ok(last_seq)
}

fn image(connection: &Connection, boot_id: &str) -> rusqlite::Result<Image> {
    let meta = schema::meta(connection)?;
    Ok(Image {
        batch: meta.batch,
        alive: meta.alive,
        same_boot: meta.boot_id.as_deref() == Some(boot_id),
        serial: meta.serial,
        timers: timers::all(connection)?,
        delivery: delivery::kept(connection)?,
        rooms: rooms::all(connection)?,
        replays: replays::stubs(connection)?,
        last_seq: meta.last_seq,
        names: meta.names,
    })
}

/// After these errors, met before COMMIT, a rollback restores everything; after any other the connection is not to be
/// trusted. A full disk is among them: what did reach the WAL has no commit behind it, and is written over.
fn is_shaking(error: &rusqlite::Error) -> bool {
    !matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::DiskFull
                | ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::ConstraintViolation
                | ErrorCode::OutOfMemory
                | ErrorCode::TooBig
                | ErrorCode::TypeMismatch
        )
    )
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::clock::{Mono, Now};
    use crate::domain::events::Names;
    use crate::domain::history::Action;
    use crate::store::replays::tests::{replay, with_words};
    use crate::store::timers::tests::{entry, timer};

    pub(in crate::store) fn batch(number: u64, commands: Vec<Record>) -> Batch {
        let alive = Now { mono: Mono::from_ns(number * 1_000), wall: WallMs::from_ms(77) };
        Batch { number, alive, follows: Vec::new(), commands }
    }

    pub(in crate::store) fn open(place: &tempfile::TempDir) -> (Database, Image) {
        Database::open(Directory::open(place.path()).unwrap(), "boot").unwrap()
    }

    /// The history of a timer, if it goes into one slice.
    fn entries(database: &mut Database, timer: &TimerId) -> Result<Option<Vec<Entry>>, String> {
        match database.history(&mut Recital::default(), timer, 0, 10)? {
            Slice::Done(rows) => Ok(rows),
            Slice::Unfinished => panic!("too long"),
        }
    }

    fn large(number: u8) -> Record {
        Record::Replay(with_words(number, 1, Vec::new(), &vec![number; 300_000]))
    }

    /// Writes through a connection of its own, as a backup program gone wrong would.
    fn meddle(database: &Database, sql: &str) {
        Connection::open(database.directory.as_ref().unwrap().database()).unwrap().execute_batch(sql).unwrap();
    }

    #[test]
    fn every_record_survives_closing_and_killing() {
        let place = tempfile::tempdir().unwrap();
        let (mut database, image) = open(&place);
        assert_eq!(image, Image { names: image.names, ..Image::default() });
        assert_ne!(image.names, Names::default());
        assert!(database.is_proven && database.connection.is_some());
        let id = timer(1).id;
        let created = entry(&id, 1, 5, Action::Created { name: Arc::from("x"), duration_s: 9 });
        let started = entry(&id, 2, 6, Action::Started);
        let mut first = batch(
            1,
            vec![
                Record::Timer(timer(1)),
                Record::Timer(timer(7)),
                Record::TimerGone(timer(7).id),
                Record::History(started.clone()),
                Record::Replay(replay(2, 2)),
                Record::Replay(replay(1, 3)),
            ],
        );
        first.follows = vec![Record::History(created.clone()), Record::Replay(replay(4, 1))];
        database.write(&first).unwrap();
        database.write(&batch(2, vec![Record::ReplayGone([2; 32])])).unwrap();
        let expected = Image {
            batch: 2,
            alive: Some(batch(2, Vec::new()).alive),
            same_boot: true,
            serial: 7,
            timers: vec![timer(1)],
            delivery: Default::default(),
            rooms: Default::default(),
            replays: vec![replay(4, 1).stub, replay(1, 3).stub],
            last_seq: 0,
            names: image.names,
        };
        // Dropped as a kill would drop it: without a checkpoint.
        drop(database);
        assert!(place.path().join("timerd.db-wal").metadata().unwrap().len() > 0);
        let (mut database, image) = open(&place);
        assert_eq!(image, expected);
        assert_eq!(entries(&mut database, &id), Ok(Some(vec![created, started])));
        assert_eq!(database.replay(&[1; 32]).unwrap(), Some((replay(1, 3), None)));
        assert_eq!(database.replay(&[2; 32]).unwrap(), None);
        database.close().unwrap();
        assert!(!place.path().join("timerd.db-wal").exists(), "one file is left");
        let (database, image) = open(&place);
        assert_eq!(image, expected);
        drop(database);
        let (_, image) = Database::open(Directory::open(place.path()).unwrap(), "another boot").unwrap();
        assert_eq!(image, Image { same_boot: false, ..expected });
    }

    #[test]
    fn a_file_that_may_not_grow_takes_nothing_of_a_batch_and_all_of_the_next() {
        let place = tempfile::tempdir().unwrap();
        let (mut database, _) = open(&place);
        database.write(&batch(1, vec![Record::Timer(timer(1))])).unwrap();
        let pages: i64 = database.connection().query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
        database.connection().query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(())).unwrap();
        for number in 2..5 {
            let trouble = database.write(&batch(number, vec![Record::Timer(timer(2)), large(1)])).unwrap_err();
            assert!(matches!(&trouble, Trouble::Untouched(why) if why.contains("full")), "{trouble:?}");
        }
        assert_eq!(database.replay(&[1; 32]).unwrap(), None);
        database.connection().query_row("PRAGMA max_page_count = 1000000", [], |_| Ok(())).unwrap();
        database.write(&batch(5, vec![large(2)])).unwrap();
        drop(database);
        let (_, image) = open(&place);
        assert_eq!((image.batch, image.timers, image.replays.len()), (5, vec![timer(1)], 1));
    }

    #[test]
    fn another_writer_fails_a_batch_and_leaves_no_doubt() {
        let place = tempfile::tempdir().unwrap();
        let (mut database, _) = open(&place);
        database.connection().busy_timeout(std::time::Duration::from_millis(10)).unwrap();
        let other = Connection::open(place.path().join("timerd.db")).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let trouble = database.write(&batch(1, vec![Record::Timer(timer(1))])).unwrap_err();
        assert!(matches!(&trouble, Trouble::Untouched(why) if why.contains("locked")), "{trouble:?}");
        other.execute_batch("ROLLBACK").unwrap();
        database.write(&batch(2, vec![Record::Timer(timer(2))])).unwrap();
        assert_eq!(timers::all(database.connection()).unwrap(), [timer(2)]);
    }

    #[test]
    fn doubt_is_settled_by_what_the_disk_says() {
        let place = tempfile::tempdir().unwrap();
        let (mut database, _) = open(&place);
        database.write(&batch(1, vec![Record::Timer(timer(1))])).unwrap();
        // COMMIT was cut after it took effect: as if the answer had been lost.
        database.durable = 0;
        assert_eq!(database.judge(1), Ok(Some(0)));
        assert_eq!(database.durable, 1);
        // And before it did.
        fill(database.connection(), &batch(2, vec![Record::Timer(timer(2))]), "boot").unwrap();
        assert_eq!(database.judge(2), Ok(None));
        assert!(database.is_proven);
        database.write(&batch(3, vec![Record::Timer(timer(3))])).unwrap();
        assert_eq!(timers::all(database.connection()).unwrap(), [timer(1), timer(3)]);
    }

    #[test]
    fn without_a_checkpoint_only_a_wal_that_nobody_else_reads_tells() {
        let place = tempfile::tempdir().unwrap();
        let (mut database, _) = open(&place);
        database.write(&batch(1, vec![Record::Timer(timer(1))])).unwrap();
        database.abandon();
        assert!(database.is_alone_and_sure());
        database.durable = 7;
        assert!(!database.is_alone_and_sure());
        database.durable = 1;
        let other = Connection::open(place.path().join("timerd.db")).unwrap();
        other.execute_batch("BEGIN; SELECT * FROM timers").unwrap();
        assert!(!database.is_alone_and_sure());
        database.write(&batch(2, Vec::new())).unwrap_err();
        assert!(database.judge(2).is_err(), "the reader keeps the checkpoint from removing what may be there");
        other.execute_batch("COMMIT").unwrap();
        assert_eq!(database.judge(2), Ok(None));
        drop(other);
        database.abandon();
        assert!(database.is_alone_and_sure());
        assert!(place.path().join("timerd.db-wal").exists());
    }

    #[test]
    fn doubt_lasts_while_the_file_is_away_and_nothing_is_created_in_its_place() {
        let place = tempfile::tempdir().unwrap();
        let (mut database, _) = open(&place);
        database.write(&batch(1, vec![Record::Timer(timer(1))])).unwrap();
        let (here, away) = (place.path().join("timerd.db"), place.path().join("away"));
        std::fs::rename(&here, &away).unwrap();
        assert!(database.judge(2).is_err());
        assert!(matches!(database.write(&batch(2, Vec::new())), Err(Trouble::Untouched(_))));
        assert!(entries(&mut database, &timer(1).id).is_err());
        assert!(!here.exists());
        std::fs::rename(&away, &here).unwrap();
        assert_eq!(database.judge(2), Ok(None));
        database.write(&batch(3, Vec::new())).unwrap();
    }

    #[test]
    fn a_file_exchanged_behind_our_back_is_not_written() {
        let place = tempfile::tempdir().unwrap();
        let (mut database, _) = open(&place);
        database.write(&batch(1, Vec::new())).unwrap();
        database.write(&batch(2, Vec::new())).unwrap();
        database.abandon();
        meddle(&database, "UPDATE meta SET batch = 1");
        let trouble = database.write(&batch(3, Vec::new())).unwrap_err();
        assert!(matches!(&trouble, Trouble::Untouched(why) if why.contains("exchanged")), "{trouble:?}");
        assert!(database.judge(3).is_err());
        meddle(&database, "UPDATE meta SET batch = 2");
        database.write(&batch(4, Vec::new())).unwrap();
    }

    #[test]
    fn nothing_is_committed_while_a_reader_keeps_the_wal_from_being_proven() {
        let place = tempfile::tempdir().unwrap();
        let (mut database, _) = open(&place);
        database.write(&batch(1, vec![Record::Timer(timer(1))])).unwrap();
        let other = Connection::open(place.path().join("timerd.db")).unwrap();
        other.execute_batch("BEGIN; SELECT * FROM timers").unwrap();
        database.is_proven = false;
        database.connection().busy_timeout(std::time::Duration::from_millis(10)).unwrap();
        assert!(matches!(database.write(&batch(2, Vec::new())), Err(Trouble::Untouched(_))));
        other.execute_batch("COMMIT").unwrap();
        database.write(&batch(3, Vec::new())).unwrap();
    }

    #[test]
    fn the_store_in_memory_takes_and_refuses_batches_like_the_other() {
        let (mut database, _) = Database::in_memory().unwrap();
        database.write(&batch(1, vec![Record::Timer(timer(1))])).unwrap();
        fill(database.connection(), &batch(2, vec![Record::Timer(timer(2))]), "").unwrap();
        assert_eq!(database.judge(2), Ok(None));
        database.write(&batch(3, vec![Record::Timer(timer(3))])).unwrap();
        assert_eq!(timers::all(database.connection()).unwrap(), [timer(1), timer(3)]);
        assert_eq!(database.judge(3), Ok(Some(0)));
        let mut forgetting = timers::Forgetting::of(WallMs::from_ms(0));
        assert!(matches!(database.forget_history(&mut forgetting), Ok(Slice::Done(()))));
        database.close().unwrap();
    }

    #[test]
    fn a_batch_is_synced_after_forgetting_was_not() {
        let place = tempfile::tempdir().unwrap();
        let (mut database, _) = open(&place);
        let mut forgetting = timers::Forgetting::of(WallMs::from_ms(0));
        assert!(matches!(database.forget_history(&mut forgetting), Ok(Slice::Done(()))));
        let level: i64 = database.connection().query_row("PRAGMA synchronous", [], |row| row.get(0)).unwrap();
        assert_eq!(level, 2, "FULL");
    }

    #[test]
    fn the_largest_batch_is_one_commit_and_the_wal_is_given_back() {
        let place = tempfile::tempdir().unwrap();
        let (mut database, _) = open(&place);
        let id = timer(1).id;
        let records = (1..=20_000).map(|revision| Record::History(entry(&id, revision, 1, Action::Started)));
        database.write(&batch(1, records.chain([large(1), large(2)]).collect())).unwrap();
        assert_eq!(database.checkpoint_due(), Checkpoint::NotDue);
        for number in 2..60 {
            database.write(&batch(number, vec![large(u8::try_from(number).unwrap())])).unwrap();
        }
        assert_eq!(database.checkpoint_due(), Checkpoint::Due);
        database.checkpoint().unwrap();
        database.write(&batch(60, Vec::new())).unwrap();
        assert_eq!(database.checkpoint_due(), Checkpoint::NotDue);
        assert!(database.wal_pages < 10, "{}", database.wal_pages);
    }
}
