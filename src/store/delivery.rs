//! Rows <-> sessions and their answers.
//!
//! Owns the statements on `sessions` and `answers`, the spelling of their columns, and the pages of what came of an
//! assessment. It must not know what a state means, when a batch begins or ends, or which boot it is.
//!
//! Clocks, parts and marks are short binary columns, numbers in little endian. A clock: a byte that says whether it
//! stands still (0) or runs (1), then eight bytes of nanoseconds left, or eight of boot time and eight of wall time. A
//! part: a byte (bit 0: entered, bit 1: it has a clock), eight bytes of its limit in nanoseconds and its clock. A mark:
//! two bytes of [`Mark`]'s size, and one that says whether it is flagged.
//!
//! Invariants: a session read back equals the one written, to the nanosecond; a response is the last one acknowledged.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, Row, params};

use crate::clock::{Mono, WallMs};
use crate::domain::assessments::Assessment;
use crate::domain::countdown::{Countdown, Deadline};
use crate::domain::delivery::{Kept, Mark, Part, Session, State};
use crate::domain::disk::{ResultItem, ResultRow, Results};
use crate::limits::SLICE_ROWS_MAX;
use crate::store::assessments;
use crate::store::schema::{integer, optional_unsigned, unreadable};

/// Writes the session as it is now.
///
/// # Errors
/// SQLite's own.
pub(super) fn put(connection: &Connection, session: &Session) -> rusqlite::Result<()> {
    let sql =
        "INSERT INTO sessions (serial, id, version, candidate, test_taker, state, drawn, place, limit_ns, clock,
                   parts, marks, grace, started_at_ms, completed_at_ms, expired_wall_ms, expired_boot_ns, late_ms)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)
               ON CONFLICT (serial) DO UPDATE SET
                   state = excluded.state, place = excluded.place, limit_ns = excluded.limit_ns,
                   clock = excluded.clock, parts = excluded.parts, marks = excluded.marks, grace = excluded.grace,
                   completed_at_ms = excluded.completed_at_ms, expired_wall_ms = excluded.expired_wall_ms,
                   expired_boot_ns = excluded.expired_boot_ns, late_ms = excluded.late_ms";
    connection.prepare_cached(sql)?.execute(params![
        session.serial,
        session.id,
        session.assessment.version,
        session.candidate,
        session.test_taker,
        session.state.name(),
        session.drawn.as_ref().map(|drawn| drawn.iter().flat_map(|item| item.to_le_bytes()).collect::<Vec<u8>>()),
        session.place,
        session.limit.map(|limit| i64::try_from(limit.as_nanos()).unwrap_or(i64::MAX)),
        spell(|out| session.countdown.into_iter().for_each(|clock| spell_clock(clock, out))),
        spell(|out| session.parts.iter().for_each(|part| spell_part(*part, out))),
        spell(|out| session.marks.iter().for_each(|mark| spell_mark(*mark, out))),
        spell(|out| spell_clock(session.grace, out)),
        session.started_at.ms(),
        session.completed_at.map(WallMs::ms),
        session.expired.map(|at| at.wall.ms()),
        session.expired.map(|at| integer(at.mono.ns())),
        session.late_ms.map(integer),
    ])?;
    Ok(())
}

/// The session is no longer held, and counts as an attempt from now on, whatever becomes of it.
///
/// # Errors
/// SQLite's own.
pub(super) fn put_past(connection: &Connection, serial: u32) -> rusqlite::Result<()> {
    connection.prepare_cached("UPDATE sessions SET is_past = 1 WHERE serial = ?1")?.execute([serial])?;
    let sql = "INSERT INTO attempts (assessment, candidate, used)
               SELECT assessments.id, candidate, 1 FROM sessions JOIN assessments USING (version) WHERE serial = ?1
               ON CONFLICT (assessment, candidate) DO UPDATE SET used = used + 1";
    connection.prepare_cached(sql)?.execute([serial])?;
    Ok(())
}

/// Writes a response, in place of an older one.
///
/// # Errors
/// SQLite's own.
pub(super) fn put_answer(
    connection: &Connection,
    session: u32,
    item: u16,
    response: &Arc<str>,
) -> rusqlite::Result<()> {
    let sql = "INSERT INTO answers (session, item, response) VALUES (?1, ?2, ?3)
               ON CONFLICT (session, item) DO UPDATE SET response = excluded.response";
    connection.prepare_cached(sql)?.execute(params![session, item, response])?;
    Ok(())
}

/// The responses of a session, by number of the item.
///
/// # Errors
/// SQLite's own.
pub(super) fn responses(connection: &Connection, session: u32) -> rusqlite::Result<Vec<(u16, Arc<str>)>> {
    let sql = "SELECT item, response FROM answers WHERE session = ?1";
    connection.prepare_cached(sql)?.query_map([session], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

/// The sessions that are held.
const HELD: &str = "SELECT serial, id, version, candidate, test_taker, state, drawn, place, limit_ns, clock, parts,
                        marks, grace, started_at_ms, completed_at_ms, expired_wall_ms, expired_boot_ns, late_ms
                    FROM sessions WHERE is_past = 0 ORDER BY serial";

/// Everything that start-up needs.
///
/// # Errors
/// SQLite's own, and when a row has no meaning.
pub(super) fn kept(connection: &Connection) -> rusqlite::Result<Kept> {
    let (current, versions) = assessments::all(connection)?;
    let highest = |sql: &str| connection.query_one(sql, [], |row| row.get::<_, Option<u32>>(0));
    let mut statement = connection.prepare(HELD)?;
    let sessions = statement.query_map([], |row| session(row, &versions))?.collect::<Result<_, _>>()?;
    let sql = "SELECT assessment, candidate, used FROM attempts ORDER BY assessment";
    // Those of one assessment share its name.
    let mut last: Arc<str> = Arc::from("");
    let attempt = |row: &Row<'_>| {
        let assessment = row.get_ref(0)?.as_str()?;
        if *last != *assessment {
            last = Arc::from(assessment);
        }
        Ok((last.clone(), row.get(1)?, row.get(2)?))
    };
    Ok(Kept {
        assessments: current,
        version: highest("SELECT max(version) FROM assessments")?.unwrap_or(0),
        candidates: assessments::candidates(connection)?,
        sessions,
        serial: highest("SELECT max(serial) FROM sessions")?.unwrap_or(0),
        attempts: connection.prepare(sql)?.query_map([], attempt)?.collect::<Result<_, _>>()?,
    })
}

/// A page of what came of an assessment: as many sessions as hold so many bytes of responses, or rows. `None`: there
/// never was such an assessment, or nothing is kept of it.
///
/// # Errors
/// SQLite's own, and when a row has no meaning.
pub(super) fn results(
    connection: &Connection,
    assessment: &Arc<str>,
    after: u32,
    bytes_max: usize,
) -> rusqlite::Result<Option<Results>> {
    let mut page = Results::default();
    if after == 0 {
        let sql = "SELECT assessment_items.id FROM assessment_items JOIN assessments USING (version)
                   WHERE assessments.id = ?1 ORDER BY version DESC, number";
        let mut seen = std::collections::HashSet::new();
        let ids = connection
            .prepare_cached(sql)?
            .query_map([assessment], |row| row.get(0))?
            .collect::<Result<Vec<Arc<str>>, _>>()?;
        page.items = ids.into_iter().filter(|id| seen.insert(id.clone())).collect();
        if page.items.is_empty() {
            return Ok(None);
        }
    }
    let mut serials = Vec::new();
    let of = "SELECT version FROM assessments WHERE id = ?1";
    let versions =
        connection.prepare_cached(of)?.query_map([assessment], |row| row.get(0))?.collect::<Result<Vec<u32>, _>>()?;
    // Version by version, so that each is read in the order of its index; there are few.
    for version in versions {
        let sql = "SELECT serial FROM sessions WHERE version = ?1 AND serial > ?2 ORDER BY serial LIMIT ?3";
        let mut statement = connection.prepare_cached(sql)?;
        let found = statement.query_map(params![version, after, SLICE_ROWS_MAX], |row| row.get(0))?;
        serials.extend(found.collect::<Result<Vec<u32>, _>>()?);
    }
    serials.sort_unstable();
    page.is_last = serials.len() < SLICE_ROWS_MAX as usize;
    serials.truncate(SLICE_ROWS_MAX as usize);
    let sql = "SELECT serial, id, version, candidate, test_taker, state, drawn, limit_ns, marks, started_at_ms,
                   completed_at_ms, late_ms FROM sessions WHERE serial = ?1";
    let mut statement = connection.prepare_cached(sql)?;
    let mut items = Items::default();
    let (mut bytes, mut seen) = (0, 0);
    for serial in serials {
        let mut rows = statement.query([serial])?;
        let Some(row) = rows.next()? else { continue };
        let version = row.get(2)?;
        let ids = items.of(connection, version)?;
        let mut responses: HashMap<u16, Arc<str>> = responses(connection, serial)?.into_iter().collect();
        bytes += responses.values().map(|response| response.len()).sum::<usize>();
        seen += 1 + responses.len();
        let drawn: Option<Vec<u8>> = row.get(6)?;
        let drawn = drawn.map(|bytes| read_drawn(&bytes)).transpose()?;
        let marks = read_marks(&row.get::<_, Vec<u8>>(8)?)?;
        let number_at = |place: usize| match &drawn {
            Some(drawn) => drawn.get(place).copied().unwrap_or(u16::MAX),
            None => u16::try_from(place).unwrap_or(u16::MAX),
        };
        let touched = marks.iter().enumerate().filter(|(_, mark)| mark.is_answered() || mark.is_flagged);
        let told = touched.map(|(place, mark)| {
            let number = number_at(place);
            let id = ids.get(usize::from(number)).cloned().ok_or_else(|| unreadable(6, "item"))?;
            Ok(ResultItem { id, response: responses.remove(&number), is_flagged: mark.is_flagged })
        });
        page.rows.push(ResultRow {
            serial,
            session: row.get(1)?,
            candidate: row.get(3)?,
            test_taker: row.get(4)?,
            state: read_state(row, 5)?,
            limit_ns: optional_unsigned(row, 7)?,
            started_at: WallMs::from_ms(row.get(9)?),
            completed_at: row.get::<_, Option<i64>>(10)?.map(WallMs::from_ms),
            late_ms: optional_unsigned(row, 11)?,
            items: told.collect::<rusqlite::Result<_>>()?,
        });
        if bytes >= bytes_max || seen >= SLICE_ROWS_MAX as usize {
            page.is_last = false;
            break;
        }
    }
    Ok(Some(page))
}

/// Ids of the items of the versions that a page has met.
#[derive(Default)]
struct Items {
    versions: HashMap<u32, Vec<Arc<str>>>,
}

impl Items {
    fn of(&mut self, connection: &Connection, version: u32) -> rusqlite::Result<&[Arc<str>]> {
        let ids = match self.versions.entry(version) {
            std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::hash_map::Entry::Vacant(place) => {
                let sql = "SELECT id FROM assessment_items WHERE version = ?1 ORDER BY number";
                let mut statement = connection.prepare_cached(sql)?;
                place.insert(statement.query_map([version], |row| row.get(0))?.collect::<Result<_, _>>()?)
            }
        };
        Ok(ids)
    }
}

/// Forgets sessions that are no longer held and ended before `before`, with their answers, `rows` answers at most and
/// one session at least. Returns whether anything may be left to forget.
///
/// # Errors
/// SQLite's own.
pub(super) fn forget(connection: &Connection, before: WallMs, rows: u32) -> rusqlite::Result<bool> {
    let sql = "SELECT serial, version FROM sessions WHERE is_past = 1 AND completed_at_ms < ?1
               ORDER BY completed_at_ms LIMIT ?2";
    let found = connection
        .prepare_cached(sql)?
        .query_map(params![before.ms(), rows], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<Vec<(u32, u32)>, _>>()?;
    let mut gone = 0;
    for (serial, version) in found {
        let answers = connection.prepare_cached("DELETE FROM answers WHERE session = ?1")?.execute([serial])?;
        connection.prepare_cached("DELETE FROM sessions WHERE serial = ?1")?.execute([serial])?;
        assessments::drop_unused(connection, version)?;
        gone += 1 + u32::try_from(answers).unwrap_or(u32::MAX);
        if gone >= rows {
            return Ok(true);
        }
    }
    Ok(false)
}

// ---------------------------------------------------------------------------------------------------------------
// Columns.

fn session(row: &Row<'_>, versions: &HashMap<u32, Arc<Assessment>>) -> rusqlite::Result<Session> {
    let assessment = versions.get(&row.get(2)?).ok_or_else(|| unreadable(2, "assessment"))?.clone();
    let drawn: Option<Vec<u8>> = row.get(6)?;
    let candidate: Arc<str> = row.get(3)?;
    let test_taker: Arc<str> = row.get(4)?;
    let expired = row.get::<_, Option<i64>>(15)?.zip(optional_unsigned(row, 16)?);
    let (clock, grace): (Vec<u8>, Vec<u8>) = (row.get(9)?, row.get(12)?);
    let parts: Vec<u8> = row.get(10)?;
    let mut parts = parts.as_slice();
    let parts = std::iter::from_fn(|| (!parts.is_empty()).then(|| read_part(&mut parts)));
    let session = Session {
        serial: row.get(0)?,
        id: row.get(1)?,
        assessment,
        test_taker: if test_taker == candidate { candidate.clone() } else { test_taker },
        candidate,
        state: read_state(row, 5)?,
        drawn: drawn.map(|bytes| read_drawn(&bytes)).transpose()?.map(Arc::from),
        place: row.get(7)?,
        limit: optional_unsigned(row, 8)?.map(Duration::from_nanos),
        countdown: if clock.is_empty() { None } else { Some(read_clock(&mut clock.as_slice())?) },
        parts: parts.collect::<rusqlite::Result<_>>()?,
        marks: read_marks(&row.get::<_, Vec<u8>>(11)?)?.into(),
        grace: read_clock(&mut grace.as_slice())?,
        started_at: WallMs::from_ms(row.get(13)?),
        completed_at: row.get::<_, Option<i64>>(14)?.map(WallMs::from_ms),
        expired: expired.map(|(wall, mono)| Deadline { mono: Mono::from_ns(mono), wall: WallMs::from_ms(wall) }),
        late_ms: optional_unsigned(row, 17)?,
    };
    // What follows from these is not looked up with care each time.
    let items = session.assessment.items.len();
    let is_sound = usize::from(session.place) < session.marks.len()
        && session.marks.len() == session.drawn.as_ref().map_or(items, |drawn| drawn.len())
        && session.drawn.iter().flat_map(|drawn| drawn.iter()).all(|item| usize::from(*item) < items)
        && (session.parts.is_empty() || session.parts.len() == session.assessment.sections.len());
    if is_sound { Ok(session) } else { Err(unreadable(7, "place in a session, or what was drawn for it")) }
}

fn read_state(row: &Row<'_>, column: usize) -> rusqlite::Result<State> {
    let state: String = row.get(column)?;
    let known = State::ALL.into_iter().find(|known| known.name() == state);
    known.ok_or_else(|| unreadable(column, "state of a session"))
}

fn spell(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

fn spell_clock(clock: Countdown, out: &mut Vec<u8>) {
    match clock {
        Countdown::Still { left } => {
            out.push(0);
            out.extend(u64::try_from(left.as_nanos()).unwrap_or(u64::MAX).to_le_bytes());
        }
        Countdown::Running { ends } => {
            out.push(1);
            out.extend(ends.mono.ns().to_le_bytes());
            out.extend(ends.wall.ms().to_le_bytes());
        }
    }
}

fn spell_part(part: Part, out: &mut Vec<u8>) {
    out.push(u8::from(part.is_entered) | u8::from(part.clock.is_some()) << 1);
    if let Some((limit, clock)) = part.limit.zip(part.clock) {
        out.extend(u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX).to_le_bytes());
        spell_clock(clock, out);
    }
}

fn spell_mark(mark: Mark, out: &mut Vec<u8>) {
    out.extend(u16::try_from(mark.bytes().saturating_sub(1)).unwrap_or(u16::MAX).to_le_bytes());
    out.push(u8::from(mark.is_flagged));
}

/// The next `N` bytes.
fn take<const N: usize>(bytes: &mut &[u8]) -> rusqlite::Result<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk().ok_or_else(|| unreadable(0, "binary column: it is too short"))?;
    *bytes = rest;
    Ok(*first)
}

fn read_clock(bytes: &mut &[u8]) -> rusqlite::Result<Countdown> {
    match take(bytes)? {
        [0] => Ok(Countdown::Still { left: Duration::from_nanos(u64::from_le_bytes(take(bytes)?)) }),
        [1] => {
            let mono = Mono::from_ns(u64::from_le_bytes(take(bytes)?));
            let wall = WallMs::from_ms(i64::from_le_bytes(take(bytes)?));
            Ok(Countdown::Running { ends: Deadline { mono, wall } })
        }
        _ => Err(unreadable(0, "clock")),
    }
}

fn read_part(bytes: &mut &[u8]) -> rusqlite::Result<Part> {
    let [flags] = take(bytes)?;
    let is_entered = flags & 1 != 0;
    if flags & 2 == 0 {
        return Ok(Part { is_entered, limit: None, clock: None });
    }
    let limit = Duration::from_nanos(u64::from_le_bytes(take(bytes)?));
    Ok(Part { is_entered, limit: Some(limit), clock: Some(read_clock(bytes)?) })
}

fn read_marks(bytes: &[u8]) -> rusqlite::Result<Vec<Mark>> {
    let (marks, rest) = bytes.as_chunks::<3>();
    if !rest.is_empty() {
        return Err(unreadable(0, "marks"));
    }
    let mark = |[low, high, flag]: &[u8; 3]| {
        let stored = usize::from(u16::from_le_bytes([*low, *high]));
        Mark::new(if stored == 0 { 0 } else { stored + 1 }, *flag != 0)
    };
    Ok(marks.iter().map(mark).collect())
}

fn read_drawn(bytes: &[u8]) -> rusqlite::Result<Vec<u16>> {
    let (items, rest) = bytes.as_chunks::<2>();
    if rest.is_empty() {
        Ok(items.iter().map(|item| u16::from_le_bytes(*item)).collect())
    } else {
        Err(unreadable(6, "drawn items"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::assessments::{Item, Navigation, Order, Plan, Section};
    use crate::domain::effects::Record;
    use crate::store::database::tests::{batch, open};

    fn assessment(id: &str, version: u32, items: &[&str]) -> Arc<Assessment> {
        let item = |id: &&str| Item {
            id: Arc::from(*id),
            section: 0,
            content: Arc::from(r#"{"n":1e3}"#),
            metadata: Arc::from("{}"),
        };
        let section = Section {
            id: Arc::from("a"),
            name: Arc::from("A"),
            time_limit_s: Some(30),
            is_drawn: false,
            items_to_select: 0,
            order: Order::Random,
        };
        let plan = Plan {
            id: Arc::from(id),
            title: Arc::from("T"),
            time_limit_s: Some(60),
            attempt_limit: Some(2),
            navigation: Navigation::Hybrid,
            grace_s: 7,
            sections: vec![section],
            items: items.iter().map(item).collect(),
        };
        Arc::new(Assessment::new(plan, version))
    }

    fn session_of(assessment: &Arc<Assessment>, serial: u32) -> Session {
        let ends = Deadline { mono: Mono::from_ns(123_456_789_012), wall: WallMs::from_ms(-5) };
        Session {
            id: Arc::from(format!("session-{serial}")),
            serial,
            assessment: assessment.clone(),
            candidate: Arc::from("c"),
            test_taker: Arc::from("t"),
            state: State::InProgress,
            drawn: Some(Arc::from([1, 0].as_slice())),
            place: 1,
            limit: Some(Duration::from_nanos(60_000_000_001)),
            countdown: Some(Countdown::Running { ends }),
            parts: [Part {
                is_entered: true,
                limit: Some(Duration::from_nanos(30)),
                clock: Some(Countdown::Still { left: Duration::from_nanos(17) }),
            }]
            .into(),
            marks: [Mark::new(65_536, true), Mark::default()].into(),
            started_at: WallMs::from_ms(4),
            completed_at: None,
            expired: Some(ends),
            grace: Countdown::new(Duration::from_nanos(3)),
            late_ms: None,
        }
    }

    #[test]
    fn a_session_comes_back_to_the_nanosecond() {
        let place = tempfile::tempdir().unwrap();
        let (mut database, _) = open(&place);
        let exam = assessment("exam", 1, &["x", "y"]);
        let mut session = session_of(&exam, 3);
        let records = vec![Record::Assessment(exam.clone()), Record::Session(Arc::new(session.clone()))];
        database.write(&batch(1, records)).unwrap();
        drop(database);
        let (mut database, image) = open(&place);
        assert_eq!(image.delivery.sessions, [session.clone()]);
        assert_eq!((image.delivery.version, image.delivery.serial), (1, 3));
        assert_eq!(image.delivery.assessments, std::slice::from_ref(&exam));
        session.state = State::Completed;
        session.countdown = None;
        session.parts = [].into();
        session.marks = [Mark::default(), Mark::new(2, false)].into();
        session.late_ms = Some(9);
        (session.expired, session.completed_at) = (None, Some(WallMs::from_ms(8)));
        let answer = |item: u16, text: &str| Record::Answer { session: 3, item, response: Arc::from(text) };
        let records = vec![
            answer(0, "{}"),
            Record::Session(Arc::new(session.clone())),
            answer(0, r#"{"a":1}"#),
            answer(1, "{}"),
        ];
        database.write(&batch(2, records)).unwrap();
        assert_eq!(responses(database.connection(), 3).unwrap().len(), 2);
        drop(database);
        let (database, image) = open(&place);
        assert_eq!(image.delivery.sessions, [session]);
        let page = results(database.connection(), &exam.id, 0, 1_000).unwrap().unwrap();
        assert_eq!(page.items, ["x".into(), "y".into()]);
        assert!(page.is_last);
        let told: Vec<(&str, Option<&str>)> =
            page.rows[0].items.iter().map(|item| (&*item.id, item.response.as_deref())).collect();
        assert_eq!(told, [("x", Some(r#"{"a":1}"#))]);
    }

    #[test]
    fn a_start_does_not_look_at_sessions_that_are_no_longer_held() {
        let (database, _) = open(&tempfile::tempdir().unwrap());
        for sql in [HELD, assessments::IN_USE] {
            let mut plan = database.connection().prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
            let plan: Vec<String> = plan.query_map([], |row| row.get(3)).unwrap().map(Result::unwrap).collect();
            let sessions: Vec<&String> = plan.iter().filter(|step| step.contains("sessions")).collect();
            assert!(!sessions.is_empty() && sessions.iter().all(|step| step.contains("sessions_held")), "{plan:?}");
        }
    }

    #[test]
    fn a_session_that_cannot_be_is_damage() {
        for damage in ["place = 2", "marks = x'000000'", "drawn = x'01000200'", "parts = x'0000'"] {
            let place = tempfile::tempdir().unwrap();
            let (mut database, _) = open(&place);
            let exam = assessment("e", 1, &["x", "y"]);
            let records = vec![Record::Assessment(exam.clone()), Record::Session(Arc::new(session_of(&exam, 1)))];
            database.write(&batch(1, records)).unwrap();
            assert_eq!(kept(database.connection()).unwrap().sessions.len(), 1);
            database.connection().execute(&format!("UPDATE sessions SET {damage}"), []).unwrap();
            assert!(kept(database.connection()).is_err(), "{damage}");
        }
    }

    #[test]
    fn an_old_version_stays_as_long_as_a_session_has_it() {
        let place = tempfile::tempdir().unwrap();
        let (mut database, _) = open(&place);
        let (first, second, third) =
            (assessment("e", 1, &["x", "y"]), assessment("e", 2, &["y", "z"]), assessment("e", 3, &["z", "x"]));
        let mut ended = session_of(&first, 1);
        ended.completed_at = Some(WallMs::from_ms(50));
        let records = vec![
            Record::Assessment(first.clone()),
            Record::Session(Arc::new(ended)),
            Record::Assessment(second),
            Record::Assessment(third.clone()),
            Record::SessionPast(1),
        ];
        database.write(&batch(1, records)).unwrap();
        let versions = |connection: &Connection| -> Vec<u32> {
            let mut statement = connection.prepare("SELECT version FROM assessments ORDER BY 1").unwrap();
            statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
        };
        assert_eq!(versions(database.connection()), [1, 3]);
        let kept = kept(database.connection()).unwrap();
        assert_eq!((kept.assessments, kept.sessions), (vec![third.clone()], vec![]));
        assert_eq!(kept.attempts, [(Arc::from("e"), Arc::from("c"), 1)]);
        let page = results(database.connection(), &first.id, 0, 1_000).unwrap().unwrap();
        assert_eq!(page.items, ["z".into(), "x".into(), "y".into()]);
        assert_eq!(page.rows.len(), 1);
        assert_eq!(forget(database.connection(), WallMs::from_ms(50), 100), Ok(false));
        assert_eq!(versions(database.connection()), [1, 3]);
        assert_eq!(forget(database.connection(), WallMs::from_ms(51), 100), Ok(false));
        assert_eq!(versions(database.connection()), [3]);
        assert_eq!(super::kept(database.connection()).unwrap().attempts, [(Arc::from("e"), Arc::from("c"), 1)]);
        database.write(&batch(2, vec![Record::AssessmentGone(Arc::from("e"))])).unwrap();
        assert_eq!(versions(database.connection()), [0_u32; 0]);
        assert_eq!(results(database.connection(), &first.id, 0, 1_000), Ok(None));
    }
}
