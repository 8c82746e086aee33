//! Rows <-> rooms and their people.
//!
//! Owns the statements on `rooms` and `room_people`. It must not know what a state means nor who has a line.
//!
//! Invariants: a room read back equals the one written, to the nanosecond, with its people in order of their coming; a
//! room goes with its people.

use std::collections::HashMap;

use rusqlite::{Connection, Row, params};

use crate::clock::WallMs;
use crate::domain::rooms::{Kept, Person, Room, State};
use crate::store::countdown;
use crate::store::schema::{integer, unreadable, unsigned};

/// Writes the room as it is now, but for its people.
///
/// # Errors
/// SQLite's own.
pub(super) fn put(connection: &Connection, room: &Room) -> rusqlite::Result<()> {
    let sql = "INSERT INTO rooms (serial, id, state, duration_s, full_s, left_ns, ends_wall_ms, ends_boot_ns,
                   started_at_ms, paused_at_ms, revision, people_ever)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
               ON CONFLICT (serial) DO UPDATE SET
                   state = excluded.state, duration_s = excluded.duration_s, full_s = excluded.full_s,
                   left_ns = excluded.left_ns, ends_wall_ms = excluded.ends_wall_ms,
                   ends_boot_ns = excluded.ends_boot_ns, started_at_ms = excluded.started_at_ms,
                   paused_at_ms = excluded.paused_at_ms, revision = excluded.revision,
                   people_ever = excluded.people_ever";
    let [left_ns, ends_wall_ms, ends_boot_ns] = countdown::columns(room.countdown);
    connection.prepare_cached(sql)?.execute(params![
        room.serial,
        room.id,
        room.state.name(),
        room.duration_s,
        room.full_s,
        left_ns,
        ends_wall_ms,
        ends_boot_ns,
        room.started_at.map(WallMs::ms),
        room.paused_at.map(WallMs::ms),
        integer(room.revision),
        room.people_ever,
    ])?;
    Ok(())
}

/// The room is gone, with its people.
///
/// # Errors
/// SQLite's own.
pub(super) fn remove(connection: &Connection, serial: u32) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM rooms WHERE serial = ?1")?.execute([serial])?;
    connection.prepare_cached("DELETE FROM room_people WHERE room = ?1")?.execute([serial])?;
    Ok(())
}

/// Somebody belongs to a room.
///
/// # Errors
/// SQLite's own.
pub(super) fn put_person(connection: &Connection, room: u32, person: &Person) -> rusqlite::Result<()> {
    let sql = "INSERT OR REPLACE INTO room_people (room, number, key, name) VALUES (?1, ?2, ?3, ?4)";
    connection.prepare_cached(sql)?.execute(params![room, person.number, person.key, person.name])?;
    Ok(())
}

/// Somebody does not belong to a room any more.
///
/// # Errors
/// SQLite's own.
pub(super) fn remove_person(connection: &Connection, room: u32, number: u32) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM room_people WHERE room = ?1 AND number = ?2")?.execute([room, number])?;
    Ok(())
}

/// Every room with its people, in order of serial numbers.
///
/// # Errors
/// SQLite's own, and when a row has no meaning.
pub(super) fn all(connection: &Connection) -> rusqlite::Result<Kept> {
    let mut people: HashMap<u32, Vec<Person>> = HashMap::new();
    let mut statement =
        connection.prepare("SELECT room, number, key, name FROM room_people ORDER BY room, number")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let person = Person { number: row.get(1)?, key: row.get(2)?, name: row.get(3)? };
        people.entry(row.get(0)?).or_default().push(person);
    }
    let sql = "SELECT serial, id, state, duration_s, full_s, left_ns, ends_wall_ms, ends_boot_ns, started_at_ms,
                   paused_at_ms, revision, people_ever FROM rooms ORDER BY serial";
    let read = |row: &Row<'_>| read_room(row, |serial| people.remove(&serial).unwrap_or_default());
    let rooms = connection.prepare(sql)?.query_map([], read)?.collect::<Result<_, _>>()?;
    Ok(Kept { rooms })
}

fn read_room(row: &Row<'_>, people_of: impl FnOnce(u32) -> Vec<Person>) -> rusqlite::Result<Room> {
    let state: String = row.get(2)?;
    let state =
        State::ALL.into_iter().find(|known| known.name() == state).ok_or_else(|| unreadable(2, "state of a room"))?;
    let serial = row.get(0)?;
    Ok(Room {
        serial,
        id: row.get(1)?,
        state,
        countdown: countdown::read(row, 5)?,
        duration_s: row.get(3)?,
        full_s: row.get(4)?,
        started_at: row.get::<_, Option<i64>>(8)?.map(WallMs::from_ms),
        paused_at: row.get::<_, Option<i64>>(9)?.map(WallMs::from_ms),
        revision: unsigned(row, 10)?,
        people_ever: row.get(11)?,
        people: people_of(serial).into(),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Mono;
    use crate::domain::countdown::{Countdown, Deadline};
    use crate::store::schema;

    #[test]
    fn rooms_come_back_as_they_were_written() {
        let connection = Connection::open_in_memory().unwrap();
        schema::migrate(&connection, std::path::Path::new(":memory:")).unwrap();
        let person =
            |number: u32, name: &str| Person { number, key: format!("key{number}").into(), name: name.into() };
        let still = Room {
            id: "k7m3x9q2pd".into(),
            serial: 3,
            state: State::Paused,
            countdown: Countdown::new(Duration::from_nanos(1_234_567_890_123)),
            duration_s: 1_800,
            full_s: 1_500,
            started_at: Some(WallMs::from_ms(1_000)),
            paused_at: Some(WallMs::from_ms(2_000)),
            revision: 9,
            people_ever: 12,
            people: [person(2, "Ada"), person(12, "Zoë \u{1F980}")].into(),
        };
        let ends = Deadline { mono: Mono::from_ns(77), wall: WallMs::from_ms(-5) };
        let running = Room {
            id: "0000000000".into(),
            serial: 4,
            state: State::Running,
            countdown: Countdown::Running { ends },
            started_at: None,
            paused_at: None,
            people: [person(1, "x")].into(),
            ..still.clone()
        };
        for room in [&still, &running, &still] {
            put(&connection, room).unwrap();
            room.people.iter().for_each(|person| put_person(&connection, room.serial, person).unwrap());
        }
        assert_eq!(all(&connection).unwrap().rooms, [still.clone(), running.clone()]);
        remove_person(&connection, 3, 2).unwrap();
        let without = Room { people: [person(12, "Zoë \u{1F980}")].into(), ..still };
        assert_eq!(all(&connection).unwrap().rooms, [without.clone(), running]);
        remove(&connection, 4).unwrap();
        assert_eq!(all(&connection).unwrap().rooms, [without]);
        let left: u32 = connection.query_one("SELECT count(*) FROM room_people", [], |row| row.get(0)).unwrap();
        assert_eq!(left, 1);
    }
}
