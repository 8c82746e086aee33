//! Rows <-> events.
//!
//! Owns the statements on `events` and `event_kinds`, and the events' columns of `meta`: the ledger of what was ever
//! numbered, what was deleted, how many are left. It must not know who publishes, who reads, or how long events are
//! kept.
//!
//! Time is found without an index on it. `behind_ms` says how far a timestamp lies behind the latest one before it:
//! 0, but where the wall clock was set back. `at_ms + behind_ms` therefore never falls as `seq` rises, and the first
//! event after an instant is found by halving; those that lie behind have an index of their own. They are few, unless
//! the clock once showed a time far ahead: then they are all until that time comes, and looking for an instant takes
//! as long as looking at them.
//!
//! Invariants: numbers rise by one from commit to commit, and none comes twice, whatever is deleted; `gone_seq` is
//! the highest number ever deleted, so that whoever has read further has missed nothing; counts are written in the
//! commit of what they count.

use std::collections::BTreeMap;
use std::sync::Arc;

use rusqlite::{CachedStatement, Connection, OptionalExtension, Row, ToSql, params};

use crate::clock::WallMs;
use crate::domain::disk::{EventStats, Extent, Gone, Order, Page, Search};
use crate::domain::events::{Event, Kind, Kinds, Stored};
use crate::limits::{SLICE_ROWS_MAX, SLICE_STRETCHES_MAX};
use crate::store::schema::{integer, unreadable, unsigned};
use crate::store::slice::Slice;
use crate::store::stretch::Stretch;

/// The events' columns of `meta`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ledger {
    last_seq: u64,
    gone_seq: u64,
    total: u64,
    peak_ms: i64,
}

impl Ledger {
    fn read(connection: &Connection) -> rusqlite::Result<Ledger> {
        let sql = "SELECT last_seq, gone_seq, events, peak_ms FROM meta WHERE id = 1";
        connection.prepare_cached(sql)?.query_row([], |row| {
            Ok(Ledger {
                last_seq: unsigned(row, 0)?,
                gone_seq: unsigned(row, 1)?,
                total: unsigned(row, 2)?,
                peak_ms: row.get(3)?,
            })
        })
    }

    fn write(self, connection: &Connection) -> rusqlite::Result<()> {
        let Ledger { last_seq, gone_seq, total, peak_ms } = self;
        let sql = "UPDATE meta SET last_seq = ?1, gone_seq = ?2, events = ?3, peak_ms = ?4 WHERE id = 1";
        connection.prepare_cached(sql)?.execute(params![
            integer(last_seq),
            integer(gone_seq),
            integer(total),
            peak_ms
        ])?;
        Ok(())
    }
}

/// How the numbers of the types change: by how many, and the latest timestamp.
type Counts = BTreeMap<Kind, (i64, i64)>;

fn write_counts(connection: &Connection, counts: &Counts) -> rusqlite::Result<()> {
    let sql = "INSERT INTO event_kinds (kind, name, count, last_ms) VALUES (?1, ?2, ?3, ?4)
               ON CONFLICT (kind) DO UPDATE SET
                   count = count + excluded.count, last_ms = max(last_ms, excluded.last_ms)";
    let mut statement = connection.prepare_cached(sql)?;
    for (kind, (change, last_ms)) in counts {
        statement.execute(params![kind.number(), kind.name(), change, last_ms])?;
    }
    Ok(())
}

/// Numbers and writes the events of one batch.
pub(super) struct Writer<'c> {
    connection: &'c Connection,
    before: Ledger,
    ledger: Ledger,
    counts: Counts,
    /// Prepared when the first event comes: most batches of a quiet exam have none.
    insert: Option<CachedStatement<'c>>,
}

impl<'c> Writer<'c> {
    /// Behind the last event of the store.
    ///
    /// # Errors
    /// SQLite's own.
    pub(super) fn new(connection: &'c Connection) -> rusqlite::Result<Self> {
        let ledger = Ledger::read(connection)?;
        Ok(Writer { connection, before: ledger, ledger, counts: Counts::new(), insert: None })
    }

    /// The number of the last event.
    pub(super) fn last_seq(&self) -> u64 {
        self.ledger.last_seq
    }

    /// Writes the next one.
    ///
    /// # Errors
    /// SQLite's own.
    pub(super) fn put(&mut self, event: &Event) -> rusqlite::Result<()> {
        let insert = match &mut self.insert {
            Some(insert) => insert,
            none => none.insert(self.connection.prepare_cached(
                "INSERT INTO events (seq, at_ms, behind_ms, kind, source, session, user, payload)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?),
        };
        let at_ms = event.at.ms();
        self.ledger.last_seq += 1;
        self.ledger.total += 1;
        self.ledger.peak_ms = self.ledger.peak_ms.max(at_ms);
        insert.execute(params![
            integer(self.ledger.last_seq),
            at_ms,
            self.ledger.peak_ms - at_ms,
            event.kind.number(),
            event.source,
            event.session,
            event.user,
            event.payload,
        ])?;
        let (count, last_ms) = self.counts.entry(event.kind).or_insert((0, at_ms));
        *count += 1;
        *last_ms = at_ms.max(*last_ms);
        Ok(())
    }

    /// Writes what has been counted. Returns the number of the last event.
    ///
    /// # Errors
    /// SQLite's own.
    pub(super) fn finish(self) -> rusqlite::Result<u64> {
        if self.ledger != self.before {
            write_counts(self.connection, &self.counts)?;
            self.ledger.write(self.connection)?;
        }
        Ok(self.ledger.last_seq)
    }
}

/// The event numbered `seq`, if it is there.
///
/// # Errors
/// SQLite's own, and when the row has no meaning.
pub(super) fn find(connection: &Connection, seq: u64) -> rusqlite::Result<Option<Stored>> {
    let sql = "SELECT seq, at_ms, kind, source, session, user, payload FROM events WHERE seq = ?1";
    let Ok(seq) = i64::try_from(seq) else { return Ok(None) };
    connection.prepare_cached(sql)?.query_row([seq], |row| Columns::of(row)?.stored()).optional()
}

// ---------------------------------------------------------------------------------------------------------------
// Reading.

/// A search in progress: read in slices, taken up by key.
#[derive(Debug, Default)]
pub(super) struct Reading {
    /// How far it has come; `None` before the first slice.
    cursor: Option<u64>,
    /// Below this number nothing is late enough.
    floor: u64,
    bytes: usize,
    rows: u32,
    page: Page,
}

impl Reading {
    /// Reads a slice: so many rows at most as one slice may have, whether they are wanted or not, and so many
    /// stretches.
    ///
    /// # Errors
    /// SQLite's own, and when a row has no meaning.
    pub(super) fn slice(
        &mut self,
        connection: &Connection,
        search: &Search,
    ) -> rusqlite::Result<Slice<Result<Page, Gone>>> {
        let ledger = Ledger::read(connection)?;
        let mut cursor = match (self.cursor, search.order) {
            (Some(cursor), _) => cursor,
            (None, Order::After(seq)) => seq,
            (None, Order::NewestFirst) => {
                self.floor = oldest(connection)?;
                if let Some(since) = search.since {
                    self.floor = self.floor.max(first_later_than(connection, ledger, since.ms())?);
                }
                ledger.last_seq + 1
            }
        };
        // Between two slices the events behind the first may have been deleted.
        if matches!(search.order, Order::After(_)) && cursor < ledger.gone_seq {
            return Ok(Slice::Done(match self.page.events.is_empty() {
                true => Err(Gone { upto: ledger.gone_seq }),
                false => Ok(self.finish(cursor, false)),
            }));
        }
        // No event has none of the types.
        if search.filter.kinds == Some(Kinds::default()) {
            return Ok(Slice::Done(Ok(self.finish(cursor.max(ledger.last_seq), true))));
        }
        let wanted = |at: WallMs| search.since.is_none_or(|since| at > since);
        let mut statement = connection.prepare_cached(sql_of(search))?;
        let number = search.filter.kinds.and_then(|kinds| kinds.only()).map(Kind::number);
        let (floor, driver) = (integer(self.floor), driver_of(search));
        let (mut seen, mut stretches) = (0, 0);
        loop {
            let (from, rows_max, stretch) = (integer(cursor), SLICE_ROWS_MAX - seen, stretch_of(search, cursor));
            let mut rows = match driver {
                Driver::Session => {
                    statement.query(params![from, floor, rows_max, search.filter.session, stretch.number()])?
                }
                Driver::User => {
                    statement.query(params![from, floor, rows_max, search.filter.user, stretch.number()])?
                }
                Driver::Kind => statement.query(params![from, floor, rows_max, number])?,
                Driver::Seq => statement.query([&from as &dyn ToSql, &floor, &rows_max])?,
            };
            while let Some(row) = rows.next()? {
                let columns = Columns::of(row)?;
                seen += 1;
                if wanted(columns.at) && columns.fit(search) {
                    let stored = columns.stored()?;
                    let bytes = stored.event.bytes();
                    if !self.page.events.is_empty() && self.bytes + bytes > search.bytes_max {
                        return Ok(Slice::Done(Ok(self.finish(cursor, false))));
                    }
                    self.bytes += bytes;
                    self.page.events.push(stored);
                }
                cursor = columns.seq;
                if self.page.events.len() >= search.limit as usize {
                    let is_last = search.order != Order::NewestFirst && cursor == ledger.last_seq;
                    return Ok(Slice::Done(Ok(self.finish(cursor, is_last))));
                }
            }
            if seen == SLICE_ROWS_MAX {
                break;
            }
            // There is no more of it in this stretch.
            let next = match search.order {
                Order::NewestFirst => Some(stretch.first()).filter(|first| *first > self.floor),
                Order::After(_) => Some(stretch.last()).filter(|last| *last < ledger.last_seq),
            };
            let Some(next) = next.filter(|_| matches!(driver, Driver::Session | Driver::User)) else {
                return Ok(Slice::Done(Ok(self.finish(cursor.max(ledger.last_seq), true))));
            };
            cursor = next;
            stretches += 1;
            if stretches == SLICE_STRETCHES_MAX {
                break;
            }
        }
        self.cursor = Some(cursor);
        self.rows += seen;
        let is_enough = self.rows >= search.rows_max && search.order != Order::NewestFirst;
        Ok(if is_enough { Slice::Done(Ok(self.finish(cursor, false))) } else { Slice::Unfinished })
    }

    fn finish(&mut self, upto: u64, is_last: bool) -> Page {
        Page { upto, is_last, ..std::mem::take(&mut self.page) }
    }
}

/// The index that leads through the rows; the rest of the filter is looked at row by row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Driver {
    Session,
    User,
    Kind,
    Seq,
}

/// The narrowest there is.
fn driver_of(search: &Search) -> Driver {
    let filter = &search.filter;
    match (&filter.session, &filter.user, filter.kinds.and_then(|kinds| kinds.only())) {
        (Some(_), ..) => Driver::Session,
        (None, Some(_), _) => Driver::User,
        (None, None, Some(_)) => Driver::Kind,
        (None, None, None) => Driver::Seq,
    }
}

/// The stretch in which a search goes on from `cursor`.
fn stretch_of(search: &Search, cursor: u64) -> Stretch {
    Stretch::of(match search.order {
        Order::NewestFirst => cursor.saturating_sub(1),
        Order::After(_) => cursor.saturating_add(1),
    })
}

fn sql_of(search: &Search) -> &'static str {
    macro_rules! select {
        ($from:literal, $order:literal) => {
            concat!(
                "SELECT seq, at_ms, kind, source, session, user, payload FROM events ",
                $from,
                $order,
                " LIMIT ?3"
            )
        };
        (newest $from:literal) => {
            select!($from, " seq < ?1 AND seq >= ?2 ORDER BY seq DESC")
        };
        (after $from:literal) => {
            select!($from, " seq > ?1 AND seq >= ?2 ORDER BY seq")
        };
    }
    match (driver_of(search), search.order) {
        (Driver::Session, Order::NewestFirst) => {
            select!(newest "INDEXED BY events_session WHERE seq >> 11 = ?5 AND session = ?4 AND")
        }
        (Driver::Session, Order::After(_)) => {
            select!(after "INDEXED BY events_session WHERE seq >> 11 = ?5 AND session = ?4 AND")
        }
        (Driver::User, Order::NewestFirst) => {
            select!(newest "INDEXED BY events_user WHERE seq >> 11 = ?5 AND user = ?4 AND")
        }
        (Driver::User, Order::After(_)) => {
            select!(after "INDEXED BY events_user WHERE seq >> 11 = ?5 AND user = ?4 AND")
        }
        (Driver::Kind, Order::NewestFirst) => select!(newest "INDEXED BY events_kind WHERE kind = ?4 AND"),
        (Driver::Kind, Order::After(_)) => select!(after "INDEXED BY events_kind WHERE kind = ?4 AND"),
        (Driver::Seq, Order::NewestFirst) => select!(newest "WHERE"),
        (Driver::Seq, Order::After(_)) => select!(after "WHERE"),
    }
}

/// A row, of which so far only what a filter looks at was read.
struct Columns<'r> {
    seq: u64,
    at: WallMs,
    kind: Kind,
    session: Option<&'r str>,
    user: Option<&'r str>,
    row: &'r Row<'r>,
}

impl<'r> Columns<'r> {
    fn of(row: &'r Row<'r>) -> rusqlite::Result<Self> {
        Ok(Columns {
            seq: unsigned(row, 0)?,
            at: WallMs::from_ms(row.get(1)?),
            kind: Kind::numbered(row.get(2)?).ok_or_else(|| unreadable(2, "type of an event"))?,
            session: row.get_ref(4)?.as_str_or_null()?,
            user: row.get_ref(5)?.as_str_or_null()?,
            row,
        })
    }

    fn fit(&self, search: &Search) -> bool {
        let filter = &search.filter;
        filter.kinds.is_none_or(|kinds| kinds.contains(self.kind))
            && (filter.session.is_none() || filter.session.as_deref() == self.session)
            && (filter.user.is_none() || filter.user.as_deref() == self.user)
    }

    fn stored(&self) -> rusqlite::Result<Stored> {
        let text = |column| Ok::<_, rusqlite::Error>(Arc::from(self.row.get_ref(column)?.as_str()?));
        let event = Event {
            kind: self.kind,
            source: text(3)?,
            session: self.session.map(Arc::from),
            user: self.user.map(Arc::from),
            payload: text(6)?,
            at: self.at,
        };
        Ok(Stored { seq: self.seq, event })
    }
}

/// The lowest number of an event that is there; 0: there is none.
fn oldest(connection: &Connection) -> rusqlite::Result<u64> {
    connection.prepare_cached("SELECT ifnull(min(seq), 0) FROM events")?.query_row([], |row| unsigned(row, 0))
}

/// The number from which on events may be later than `cutoff_ms`; all before are not.
fn first_later_than(connection: &Connection, ledger: Ledger, cutoff_ms: i64) -> rusqlite::Result<u64> {
    let sql = "SELECT seq, at_ms + behind_ms FROM events WHERE seq >= ?1 ORDER BY seq LIMIT 1";
    let mut statement = connection.prepare_cached(sql)?;
    // All below `low` are early enough, and none of those from `high` on is.
    let (mut low, mut high) = (0, ledger.last_seq + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        let row = |row: &Row<'_>| Ok((unsigned(row, 0)?, row.get::<_, i64>(1)?));
        match statement.query_row([integer(middle)], row).optional()? {
            Some((seq, peak_ms)) if peak_ms <= cutoff_ms => low = seq + 1,
            _ => high = middle,
        }
    }
    Ok(low)
}

/// The counting of the events of the last hour, in slices. The other figures are kept, and told as they are when it
/// begins.
#[derive(Debug)]
pub(super) struct Census {
    hour_ago: WallMs,
    begun: Option<Counting>,
}

/// How far a [`Census`] has come. What is after the hour's beginning by number is counted first; of that, then, what is
/// not after it by its timestamp, as where the clock was set back.
#[derive(Debug)]
struct Counting {
    figures: EventStats,
    /// The number from which on events may be of the last hour.
    first: u64,
    /// What is still to be counted by number begins here, unless there is no more.
    uncounted: Option<u64>,
    later: u64,
    /// The instant and number up to which those behind have been counted.
    behind_from: (i64, u64),
    behind: u64,
}

impl Census {
    /// Nothing is counted yet.
    pub(super) fn of(hour_ago: WallMs) -> Self {
        Census { hour_ago, begun: None }
    }

    /// Counts a slice.
    ///
    /// # Errors
    /// SQLite's own, and when a row has no meaning.
    pub(super) fn slice(&mut self, connection: &Connection) -> rusqlite::Result<Slice<EventStats>> {
        let Census { hour_ago, begun } = self;
        let counting = match begun {
            Some(counting) => counting,
            none => none.insert(Counting::begin(connection, *hour_ago)?),
        };
        let last = integer(counting.figures.last_seq);
        if let Some(from) = counting.uncounted {
            let sql = "SELECT count(*), ifnull(max(seq), 0) FROM
                           (SELECT seq FROM events WHERE seq BETWEEN ?1 AND ?2 ORDER BY seq LIMIT ?3)";
            let key = params![integer(from), last, SLICE_ROWS_MAX];
            let row = |row: &Row<'_>| Ok((unsigned(row, 0)?, unsigned(row, 1)?));
            let (counted, up_to) = connection.prepare_cached(sql)?.query_row(key, row)?;
            counting.later += counted;
            counting.uncounted = (counted == u64::from(SLICE_ROWS_MAX)).then_some(up_to + 1);
            if counting.uncounted.is_some() {
                return Ok(Slice::Unfinished);
            }
        }
        let sql = "SELECT at_ms, seq FROM events INDEXED BY events_behind
                   WHERE behind_ms > 0 AND at_ms <= ?1 AND (at_ms, seq) > (?2, ?3) ORDER BY at_ms, seq LIMIT ?4";
        let (at_ms, seq) = counting.behind_from;
        let mut statement = connection.prepare_cached(sql)?;
        let mut rows = statement.query(params![hour_ago.ms(), at_ms, integer(seq), SLICE_ROWS_MAX])?;
        let mut seen = 0;
        while let Some(row) = rows.next()? {
            counting.behind_from = (row.get(0)?, unsigned(row, 1)?);
            counting.behind +=
                u64::from((counting.first..=counting.figures.last_seq).contains(&counting.behind_from.1));
            seen += 1;
        }
        if seen == SLICE_ROWS_MAX {
            return Ok(Slice::Unfinished);
        }
        // Between two slices some may have been deleted.
        counting.figures.last_hour = counting.later.saturating_sub(counting.behind);
        Ok(Slice::Done(std::mem::take(&mut counting.figures)))
    }
}

impl Counting {
    fn begin(connection: &Connection, hour_ago: WallMs) -> rusqlite::Result<Self> {
        let ledger = Ledger::read(connection)?;
        let oldest = oldest(connection)?;
        let first = first_later_than(connection, ledger, hour_ago.ms())?.max(oldest);
        // Holes are left where the clock was set back and what lay behind has been deleted.
        let is_whole = ledger.total == 0 || ledger.last_seq - oldest + 1 == ledger.total;
        let sql = "SELECT kind, count, last_ms FROM event_kinds WHERE count > 0 ORDER BY count DESC, kind";
        let row = |row: &Row<'_>| {
            let kind = Kind::numbered(row.get(0)?).ok_or_else(|| unreadable(0, "type of an event"))?;
            Ok((kind, unsigned(row, 1)?, WallMs::from_ms(row.get(2)?)))
        };
        let figures = EventStats {
            total: ledger.total,
            last_hour: 0,
            by_kind: connection.prepare_cached(sql)?.query_map([], row)?.collect::<Result<_, _>>()?,
            oldest_seq: ledger.gone_seq + 1,
            last_seq: ledger.last_seq,
        };
        let later = if is_whole && ledger.total > 0 { (ledger.last_seq + 1).saturating_sub(first) } else { 0 };
        let uncounted = (!is_whole).then_some(first);
        Ok(Counting { figures, first, uncounted, later, behind_from: (i64::MIN, 0), behind: 0 })
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Deleting.

/// A deletion in progress.
#[derive(Debug)]
pub(super) struct Forgetting {
    /// Everything below this number goes.
    below: u64,
    /// What lies behind goes, too, when it is before this instant and was there when the deletion began.
    behind: Option<(WallMs, u64)>,
    /// So many stay, the youngest.
    keep: u64,
    /// So many have gone.
    pub(super) gone: u64,
}

/// Rows that the next slice of a deletion takes away.
#[derive(Debug)]
pub(super) struct Doomed {
    rows: Vec<(u64, Kind)>,
    /// None will be left.
    pub(super) is_last: bool,
}

impl Forgetting {
    /// Finds out what `extent` means now: what comes later stays.
    ///
    /// # Errors
    /// SQLite's own.
    pub(super) fn begin(connection: &Connection, extent: Extent) -> rusqlite::Result<Self> {
        let ledger = Ledger::read(connection)?;
        let all = ledger.last_seq + 1;
        Ok(match extent {
            Extent::All => Forgetting { below: all, behind: None, keep: 0, gone: 0 },
            Extent::Before(before) => {
                let below = first_later_than(connection, ledger, before.ms() - 1)?;
                Forgetting { below, behind: Some((before, all)), keep: 0, gone: 0 }
            }
            Extent::Beyond(keep) => Forgetting { below: all, behind: None, keep, gone: 0 },
        })
    }

    /// The next rows to go, `rows_max` at most.
    ///
    /// # Errors
    /// SQLite's own, and when a row has no meaning.
    pub(super) fn next(&self, connection: &Connection, rows_max: u32) -> rusqlite::Result<Doomed> {
        let row = |row: &Row<'_>| {
            let kind = Kind::numbered(row.get(1)?).ok_or_else(|| unreadable(1, "type of an event"))?;
            Ok((unsigned(row, 0)?, kind))
        };
        // Asked anew each time: another deletion may be taking away the same rows.
        let left = Ledger::read(connection)?.total.saturating_sub(self.keep);
        let most = left.min(u64::from(rows_max));
        // One more than wanted tells whether any will be left.
        let peek = integer(most + 1);
        let sql = "SELECT seq, kind FROM events WHERE seq < ?1 ORDER BY seq LIMIT ?2";
        let mut statement = connection.prepare_cached(sql)?;
        let mut rows: Vec<(u64, Kind)> =
            statement.query_map(params![integer(self.below), peek], row)?.collect::<Result<_, _>>()?;
        if let Some((before, all)) = self.behind.filter(|_| rows.len() as u64 <= most) {
            let sql = "SELECT seq, kind FROM events INDEXED BY events_behind
                       WHERE behind_ms > 0 AND at_ms < ?1 AND seq >= ?2 AND seq < ?3 LIMIT ?4";
            let mut statement = connection.prepare_cached(sql)?;
            let missing = peek - integer(rows.len() as u64);
            let behind = params![before.ms(), integer(self.below), integer(all), missing];
            for found in statement.query_map(behind, row)? {
                rows.push(found?);
            }
        }
        let is_last = rows.len() as u64 <= most || most == left;
        rows.truncate(usize::try_from(most).unwrap_or(usize::MAX));
        Ok(Doomed { rows, is_last })
    }

    /// Deletes them.
    ///
    /// # Errors
    /// SQLite's own.
    pub(super) fn delete(&self, connection: &Connection, doomed: &Doomed) -> rusqlite::Result<()> {
        let mut ledger = Ledger::read(connection)?;
        let mut delete = connection.prepare_cached("DELETE FROM events WHERE seq = ?1")?;
        let mut counts = Counts::new();
        for (seq, kind) in &doomed.rows {
            delete.execute([integer(*seq)])?;
            ledger.gone_seq = ledger.gone_seq.max(*seq);
            ledger.total -= 1;
            counts.entry(*kind).or_insert((0, i64::MIN)).0 -= 1;
        }
        write_counts(connection, &counts)?;
        ledger.write(connection)
    }

    /// They have gone.
    pub(super) fn count(&mut self, doomed: &Doomed) {
        self.gone += doomed.rows.len() as u64;
    }
}

impl Doomed {
    /// There is nothing to delete.
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::domain::events::Filter;
    use crate::store::schema;

    fn empty() -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        schema::migrate(&connection, Path::new("test")).unwrap();
        connection
    }

    fn event(kind: Kind, session: Option<&str>, user: Option<&str>, at_ms: i64) -> Event {
        let (session, user) = (session.map(Arc::from), user.map(Arc::from));
        Event { kind, source: "t".into(), session, user, payload: "{\"n\":1}".into(), at: WallMs::from_ms(at_ms) }
    }

    fn plain(at_ms: i64) -> Event {
        event(Kind::QuizStarted, None, None, at_ms)
    }

    fn write(connection: &Connection, events: &[Event]) -> u64 {
        let mut writer = Writer::new(connection).unwrap();
        events.iter().for_each(|event| writer.put(event).unwrap());
        writer.finish().unwrap()
    }

    fn search(order: Order) -> Search {
        Search {
            filter: Filter::default(),
            since: None,
            order,
            limit: 10_000,
            bytes_max: usize::MAX,
            rows_max: u32::MAX,
        }
    }

    /// The whole answer, and in how many slices it came.
    fn read(connection: &Connection, search: &Search) -> (Result<Page, Gone>, u32) {
        let mut reading = Reading::default();
        for slices in 1.. {
            if let Slice::Done(answer) = reading.slice(connection, search).unwrap() {
                return (answer, slices);
            }
        }
        unreachable!()
    }

    fn seqs(connection: &Connection, search: &Search) -> Vec<u64> {
        read(connection, search).0.unwrap().events.iter().map(|stored| stored.seq).collect()
    }

    /// The figures, and how many slices they took.
    fn stats(connection: &Connection, hour_ago_ms: i64) -> (EventStats, u32) {
        let mut census = Census::of(WallMs::from_ms(hour_ago_ms));
        for slices in 1.. {
            if let Slice::Done(figures) = census.slice(connection).unwrap() {
                return (figures, slices);
            }
        }
        unreachable!()
    }

    fn forget(connection: &Connection, extent: Extent) -> u64 {
        let mut forgetting = Forgetting::begin(connection, extent).unwrap();
        loop {
            let doomed = forgetting.next(connection, 3).unwrap();
            forgetting.delete(connection, &doomed).unwrap();
            forgetting.count(&doomed);
            if doomed.is_last {
                return forgetting.gone;
            }
        }
    }

    #[test]
    fn events_are_numbered_in_order_and_come_back_as_they_were() {
        let connection = empty();
        let all = [event(Kind::TimerTick, Some("s"), None, -5), event(Kind::QuizTimeout, None, Some("ü'"), 7)];
        assert_eq!(write(&connection, &all), 2);
        assert_eq!(write(&connection, &[]), 2);
        assert_eq!(write(&connection, &[plain(9)]), 3);
        for (seq, event) in (1..).zip(all) {
            assert_eq!(find(&connection, seq).unwrap(), Some(Stored { seq, event }));
        }
        assert_eq!(find(&connection, 4).unwrap(), None);
        assert_eq!(find(&connection, u64::MAX).unwrap(), None);
    }

    #[test]
    fn every_filter_finds_what_a_look_at_each_event_finds() {
        let connection = empty();
        let kinds = [Kind::QuizStarted, Kind::QuizCompleted, Kind::TimerTick];
        let name = |n: usize| [None, Some("a"), Some("b"), Some("")][n % 4];
        let all: Vec<Event> = (0..3_000)
            .map(|n| event(kinds[n % 3], name(n / 3), name(n / 7), 10 * i64::try_from(n / 5).unwrap()))
            .collect();
        write(&connection, &all);
        let sets: Vec<Option<Kinds>> = vec![
            None,
            Some([Kind::TimerTick].into_iter().collect()),
            Some([Kind::TimerTick, Kind::QuizStarted].into_iter().collect()),
            Some(Kinds::default()),
        ];
        for kinds in sets {
            for session in [None, Some("a"), Some("nobody")] {
                for user in [None, Some("b"), Some("")] {
                    let filter = Filter { kinds, session: session.map(Arc::from), user: user.map(Arc::from) };
                    for since in
                        [None, Some(0), Some(2_995), Some(3_000), Some(9_999)].map(|ms| ms.map(WallMs::from_ms))
                    {
                        let fits = |event: &Event| filter.admits(event) && since.is_none_or(|since| event.at > since);
                        let mut want: Vec<u64> =
                            (1..).zip(&all).filter(|(_, event)| fits(event)).map(|(seq, _)| seq).collect();
                        let forwards = Search { filter: filter.clone(), since, ..search(Order::After(0)) };
                        assert_eq!(seqs(&connection, &forwards), want);
                        want.reverse();
                        want.truncate(70);
                        let back = Search { limit: 70, order: Order::NewestFirst, ..forwards };
                        assert_eq!(seqs(&connection, &back), want);
                    }
                }
            }
        }
    }

    #[test]
    fn a_name_is_looked_for_in_every_stretch_and_in_so_many_a_slice() {
        let connection = empty();
        let last = 2_000_000_i64;
        let sql = "INSERT INTO events (seq, at_ms, behind_ms, kind, source, session, user, payload)
                   VALUES (?1, ?1, 0, 1, 't', ?2, 'u', '{}')";
        for (seq, session) in [(5, "a"), (2_047, "a"), (2_048, "a"), (1_000_000, "b"), (last, "a")] {
            connection.execute(sql, params![seq, session]).unwrap();
        }
        connection.execute("UPDATE meta SET last_seq = ?1, events = 5, peak_ms = ?1", [last]).unwrap();
        let stretches = u32::try_from(Stretch::of(last.cast_unsigned()).number() + 1).unwrap();
        let filters = [
            (Filter { session: Some("a".into()), ..Filter::default() }, vec![5, 2_047, 2_048, 2_000_000]),
            (Filter { user: Some("u".into()), ..Filter::default() }, vec![5, 2_047, 2_048, 1_000_000, 2_000_000]),
        ];
        for (filter, mut want) in filters {
            let forwards = Search { filter, ..search(Order::After(0)) };
            let (page, slices) = read(&connection, &forwards);
            let page = page.unwrap();
            assert_eq!((page.upto, page.is_last, slices), (2_000_000, true, stretches.div_ceil(SLICE_STRETCHES_MAX)));
            assert_eq!(seqs(&connection, &forwards), want);
            want.reverse();
            assert_eq!(seqs(&connection, &Search { order: Order::NewestFirst, ..forwards }), want);
        }
    }

    #[test]
    fn pages_end_by_number_and_by_size_and_go_on_from_there() {
        let connection = empty();
        write(&connection, &(0..1_200).map(plain).collect::<Vec<_>>());
        let (page, slices) = read(&connection, &search(Order::After(100)));
        let page = page.unwrap();
        assert_eq!((page.events.len(), page.upto, page.is_last, slices), (1_100, 1_200, true, 3));
        let (page, _) = read(&connection, &Search { limit: 7, ..search(Order::After(100)) });
        assert_eq!(page.map(|page| (page.upto, page.is_last)), Ok((107, false)));
        let (page, _) = read(&connection, &Search { limit: 7, ..search(Order::After(1_193)) });
        assert_eq!(page.map(|page| (page.upto, page.is_last)), Ok((1_200, true)));
        let bytes_max = 3 * plain(0).bytes();
        let (page, _) = read(&connection, &Search { bytes_max, ..search(Order::After(100)) });
        assert_eq!(page.map(|page| (page.events.len(), page.upto, page.is_last)), Ok((3, 103, false)));
        // However small the bound, a page has one event.
        let (page, _) = read(&connection, &Search { bytes_max: 1, ..search(Order::After(100)) });
        assert_eq!(page.map(|page| (page.events.len(), page.upto)), Ok((1, 101)));
        // Enough has been looked at, and nothing found.
        let rare = Filter {
            user: None,
            session: None,
            kinds: Some([Kind::TimerTick, Kind::QuizTimeout].into_iter().collect()),
        };
        let (page, slices) = read(&connection, &Search { filter: rare, rows_max: 600, ..search(Order::After(100)) });
        assert_eq!(
            (page.map(|page| (page.events.len(), page.upto, page.is_last)), slices),
            (Ok((0, 1_100, false)), 2)
        );
        let (page, _) = read(&connection, &search(Order::After(5_000)));
        assert_eq!(page.map(|page| (page.events.len(), page.upto, page.is_last)), Ok((0, 5_000, true)));
    }

    #[test]
    fn reading_in_order_is_told_of_what_was_deleted_even_between_two_slices() {
        let connection = empty();
        write(&connection, &(0..1_200).map(plain).collect::<Vec<_>>());
        let all = search(Order::After(0));
        let mut reading = Reading::default();
        assert!(matches!(reading.slice(&connection, &all).unwrap(), Slice::Unfinished));
        assert_eq!(forget(&connection, Extent::Before(WallMs::from_ms(800))), 800);
        let Slice::Done(Ok(page)) = reading.slice(&connection, &all).unwrap() else { panic!() };
        assert_eq!((page.events.len(), page.upto, page.is_last), (500, 500, false));
        for after in [0, 500, 799] {
            assert_eq!(read(&connection, &search(Order::After(after))).0, Err(Gone { upto: 800 }));
        }
        assert_eq!(seqs(&connection, &search(Order::After(800))).len(), 400);
        // A search that has found nothing yet has nothing to tell but that.
        let nobody = Search {
            filter: Filter {
                kinds: Some([Kind::TimerTick, Kind::QuizTimeout].into_iter().collect()),
                ..Filter::default()
            },
            ..search(Order::After(800))
        };
        write(&connection, &(1_200..2_000).map(plain).collect::<Vec<_>>());
        let mut reading = Reading::default();
        assert!(matches!(reading.slice(&connection, &nobody).unwrap(), Slice::Unfinished));
        forget(&connection, Extent::All);
        assert!(matches!(reading.slice(&connection, &nobody).unwrap(), Slice::Done(Err(Gone { upto: 2_000 }))));
    }

    #[test]
    fn time_is_found_even_where_the_clock_was_set_back() {
        let connection = empty();
        // 10, 20, 30, then set back to 15, 25, then 35.
        let times = [10, 20, 30, 15, 25, 35];
        write(&connection, &times.map(plain));
        let since = |ms| {
            let mut found =
                seqs(&connection, &Search { since: Some(WallMs::from_ms(ms)), ..search(Order::NewestFirst) });
            found.reverse();
            found
        };
        for ms in 0..40 {
            let want: Vec<u64> = (1..).zip(times).filter(|(_, at)| *at > ms).map(|(seq, _)| seq).collect();
            assert_eq!(since(ms), want, "{ms}");
            let later = stats(&connection, ms).0.last_hour;
            assert_eq!(later, want.len() as u64, "{ms}");
        }
        assert_eq!(forget(&connection, Extent::Before(WallMs::from_ms(25))), 3);
        assert_eq!(since(0), [3, 5, 6]);
        // The event with the number 3 is there, but not everything behind it.
        assert_eq!(read(&connection, &search(Order::After(2))).0, Err(Gone { upto: 4 }));
        let figures = stats(&connection, 26).0;
        assert_eq!((figures.total, figures.last_hour, figures.oldest_seq), (3, 2, 5));
    }

    #[test]
    fn after_a_step_of_the_clock_the_last_hour_is_counted_in_slices() {
        let connection = empty();
        // One from far ahead, and all that come after it lie behind.
        write(&connection, &[plain(1_000_000)]);
        write(&connection, &(0..2_000).map(plain).collect::<Vec<_>>());
        assert_eq!(stats(&connection, 499), (EventStats { last_hour: 1_501, ..stats(&connection, 0).0 }, 2));
        assert_eq!(stats(&connection, 1_899), (EventStats { last_hour: 101, ..stats(&connection, 0).0 }, 4));
        // With a hole they are counted one by one.
        connection.execute("DELETE FROM events WHERE seq = 700", []).unwrap();
        connection.execute("UPDATE meta SET events = events - 1", []).unwrap();
        let (figures, slices) = stats(&connection, 1_899);
        assert_eq!((figures.total, figures.last_hour, slices), (2_000, 101, 8));
    }

    #[test]
    fn counts_follow_what_is_written_and_deleted_and_numbers_never_come_again() {
        let connection = empty();
        let figures = |ms| stats(&connection, ms).0;
        assert_eq!(figures(0), EventStats { oldest_seq: 1, ..EventStats::default() });
        write(&connection, &[plain(1), event(Kind::TimerTick, None, None, 5), plain(3), plain(4)]);
        let by_kind = vec![(Kind::QuizStarted, 3, WallMs::from_ms(4)), (Kind::TimerTick, 1, WallMs::from_ms(5))];
        assert_eq!(figures(2), EventStats { total: 4, last_hour: 3, by_kind, oldest_seq: 1, last_seq: 4 });
        assert_eq!(forget(&connection, Extent::Beyond(4)), 0);
        assert_eq!(forget(&connection, Extent::Beyond(3)), 1);
        assert_eq!((figures(0).total, figures(0).oldest_seq), (3, 2));
        assert_eq!(forget(&connection, Extent::Before(WallMs::from_ms(-9))), 0);
        assert_eq!(forget(&connection, Extent::All), 3);
        assert_eq!(forget(&connection, Extent::All), 0);
        assert_eq!(figures(0), EventStats { oldest_seq: 5, last_seq: 4, ..EventStats::default() });
        assert_eq!(write(&connection, &[plain(0)]), 5);
        assert_eq!((figures(-1).total, figures(-1).last_hour), (1, 1));
    }

    #[test]
    fn what_comes_while_all_is_deleted_stays() {
        let connection = empty();
        write(&connection, &(0..10).map(plain).collect::<Vec<_>>());
        let mut forgetting = Forgetting::begin(&connection, Extent::All).unwrap();
        write(&connection, &[plain(11)]);
        loop {
            let doomed = forgetting.next(&connection, 4).unwrap();
            forgetting.delete(&connection, &doomed).unwrap();
            forgetting.count(&doomed);
            if doomed.is_last {
                break;
            }
        }
        assert_eq!((forgetting.gone, seqs(&connection, &search(Order::After(10)))), (10, vec![11]));
    }

    #[test]
    fn two_deletions_of_the_same_events_leave_what_either_leaves() {
        let connection = empty();
        write(&connection, &(0..20).map(plain).collect::<Vec<_>>());
        let extents = [Extent::Before(WallMs::from_ms(10)), Extent::Beyond(10)];
        let mut forgettings = extents.map(|extent| Forgetting::begin(&connection, extent).unwrap());
        for _ in 0..10 {
            for forgetting in &mut forgettings {
                let doomed = forgetting.next(&connection, 3).unwrap();
                forgetting.delete(&connection, &doomed).unwrap();
                forgetting.count(&doomed);
            }
        }
        assert_eq!(forgettings[0].gone + forgettings[1].gone, 10);
        assert_eq!(seqs(&connection, &search(Order::After(10))), (11..=20).collect::<Vec<_>>());
    }

    #[test]
    fn every_search_is_led_by_an_index() {
        let connection = empty();
        for order in [Order::NewestFirst, Order::After(0)] {
            for filter in [
                Filter::default(),
                Filter { kinds: Some([Kind::TimerTick].into_iter().collect()), ..Filter::default() },
                Filter { session: Some("s".into()), ..Filter::default() },
                Filter { user: Some("u".into()), ..Filter::default() },
            ] {
                let sql = format!("EXPLAIN QUERY PLAN {}", sql_of(&Search { filter, ..search(order) }));
                let mut statement = connection.prepare(&sql).unwrap();
                let blanks = vec![1i64; statement.parameter_count()];
                let rows = statement.query_map(rusqlite::params_from_iter(blanks), |row| row.get::<_, String>(3));
                let plan = rows.unwrap().map(Result::unwrap).collect::<Vec<_>>().join("; ");
                assert!(plan.starts_with("SEARCH events USING") && !plan.contains("TEMP B-TREE"), "{sql}: {plan}");
            }
        }
    }
}
