//! Rows <-> kept answers.
//!
//! Owns the statements on `replays`. It must not know how long an answer is kept or how many there may be: the domain
//! says which go.
//!
//! Invariants: one answer a key, the latest; the rowid rises with each answer kept, so that order of rowids is the
//! order of commits, as the domain has it in memory.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::clock::WallMs;
use crate::domain::replays::{Digest, First, Replay, Stub};
use crate::store::schema::{integer, optional_unsigned, unreadable};

/// Keeps an answer, `last_seq` being the number of the event before it. One kept under the same key before it is
/// replaced, and the new one is the youngest.
///
/// # Errors
/// SQLite's own.
pub(super) fn put(connection: &Connection, replay: &Replay, last_seq: u64) -> rusqlite::Result<()> {
    let sql = "INSERT OR REPLACE INTO replays (key, request, at_ms, status, headers, body, event_seq)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    let Stub { key, body: request, at } = &replay.stub;
    let (status, headers, body, event) = match &replay.first {
        First::Words { status, headers, body } => (*status, spell_headers(headers), &body[..], None),
        First::Event => (201, String::new(), &b""[..], Some(integer(last_seq))),
    };
    let row = params![key, request, at.ms(), status, headers, body, event];
    connection.prepare_cached(sql)?.execute(row)?;
    Ok(())
}

/// Drops the answer under `key`.
///
/// # Errors
/// SQLite's own.
pub(super) fn remove(connection: &Connection, key: &Digest) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM replays WHERE key = ?1")?.execute([key])?;
    Ok(())
}

/// What memory keeps of each answer, oldest first.
///
/// # Errors
/// SQLite's own, and when a row has no meaning.
pub(super) fn stubs(connection: &Connection) -> rusqlite::Result<Vec<Stub>> {
    connection
        .prepare("SELECT key, request, at_ms FROM replays ORDER BY number")?
        .query_map([], |row| Ok(Stub { key: row.get(0)?, body: row.get(1)?, at: WallMs::from_ms(row.get(2)?) }))?
        .collect()
}

/// The answer under `key`, with the number of the event if it is one.
///
/// # Errors
/// SQLite's own, and when the row has no meaning.
pub(super) fn find(connection: &Connection, key: &Digest) -> rusqlite::Result<Option<(Replay, Option<u64>)>> {
    let sql = "SELECT request, at_ms, status, headers, body, event_seq FROM replays WHERE key = ?1";
    connection
        .prepare_cached(sql)?
        .query_row([key], |row| {
            let stub = Stub { key: *key, body: row.get(0)?, at: WallMs::from_ms(row.get(1)?) };
            let event = optional_unsigned(row, 5)?;
            let first = if event.is_some() { First::Event } else { read_words(row)? };
            Ok((Replay { stub, first }, event))
        })
        .optional()
}

fn read_words(row: &Row<'_>) -> rusqlite::Result<First> {
    let headers: String = row.get(3)?;
    Ok(First::Words {
        status: row.get(2)?,
        headers: read_headers(&headers).ok_or_else(|| unreadable(3, "header field of a kept answer"))?,
        body: Arc::from(row.get_ref(4)?.as_blob()?),
    })
}

/// One line a field, `name: value`. A name has no colon and a value no line feed (RFC 9110 sections 5.1 and 5.5).
fn spell_headers(headers: &[(String, String)]) -> String {
    headers.iter().map(|(name, value)| format!("{name}: {value}\n")).collect()
}

fn read_headers(text: &str) -> Option<Vec<(String, String)>> {
    let field = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned()));
    text.split_terminator('\n').map(field).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use super::*;
    use crate::store::schema;

    pub(in crate::store) fn replay(key: u8, at_ms: i64) -> Replay {
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let headers = vec![header("Location", "/timers/a: b"), header("X-Empty", ""), header("ETag", "\"2\"")];
        with_words(key, at_ms, headers, &[0, 255, key])
    }

    pub(in crate::store) fn with_words(key: u8, at_ms: i64, headers: Vec<(String, String)>, body: &[u8]) -> Replay {
        let stub = Stub { key: [key; 32], body: [key ^ 0xff; 32], at: WallMs::from_ms(at_ms) };
        Replay { stub, first: First::Words { status: 201, headers, body: Arc::from(body) } }
    }

    #[test]
    fn an_answer_comes_back_as_it_was_and_the_latest_use_of_a_key_counts() {
        let connection = Connection::open_in_memory().unwrap();
        schema::migrate(&connection, Path::new("test")).unwrap();
        let bare = with_words(3, 3, Vec::new(), &[]);
        for replay in [&replay(1, 1), &replay(2, 2), &bare, &replay(1, 4)] {
            put(&connection, replay, 9).unwrap();
        }
        assert_eq!(find(&connection, &[1; 32]).unwrap(), Some((replay(1, 4), None)));
        assert_eq!(find(&connection, &[3; 32]).unwrap(), Some((bare.clone(), None)));
        assert_eq!(find(&connection, &[9; 32]).unwrap(), None);
        assert_eq!(stubs(&connection).unwrap(), [replay(2, 2).stub, bare.stub, replay(1, 4).stub]);
        remove(&connection, &[2; 32]).unwrap();
        remove(&connection, &[2; 32]).unwrap();
        assert_eq!(stubs(&connection).unwrap(), [bare.stub, replay(1, 4).stub]);
        let published = Replay { first: First::Event, ..replay(5, 5) };
        put(&connection, &published, 9).unwrap();
        assert_eq!(find(&connection, &[5; 32]).unwrap(), Some((published, Some(9))));
    }
}
