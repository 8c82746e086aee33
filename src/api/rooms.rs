//! The rooms' messages.
//!
//! Owns what somebody at `/ws/rooms` may say, in the contract's order of checks, the JSON of a room and of what its
//! people hear, and the spelling of ids. It decides nothing about a room, and knows no connection: who sits where is
//! told to it, and it tells who sits where from here on.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::Value;

use crate::api::answer::{self, error_text};
use crate::api::chance::Chance;
use crate::api::events::sentence;
use crate::api::form::{Fault, Form};
use crate::api::rates::{Group, Limiter};
use crate::api::raw::push_string;
use crate::api::{Api, World};
use crate::clock::{Now, WallMs};
use crate::domain::Engine;
use crate::domain::countdown::Second;
use crate::domain::rooms::{Action, Message, Newcomer, Refusal, Room, RoomId, Rooms, Seat, State, Verdict};
use crate::domain::staged::Hold;
use crate::limits::*;
use crate::wire::http::Response;

/// Crockford's base 32: no letter that is taken for a digit or another letter when it is read aloud.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// Characters of a room's id: 50 bits.
const ROOM_ID_CHARS: usize = 10;
/// Characters of a person's key: 130 bits, not to be guessed by anybody.
const PERSON_KEY_CHARS: usize = 26;

impl Api {
    /// `GET /rooms/{id}`.
    pub(super) fn room(&self, id: &str, world: &mut World<'_>) -> Response {
        let Engine { rooms, fx, .. } = &mut *world.engine;
        let second = rooms.second();
        let open = rooms.are_open();
        let Some(room) = rooms.shown(world.now, &read_id(id), fx).filter(|_| open).cloned() else {
            return error_text(404, "Room not found");
        };
        let mut body = String::from("{");
        push_state(&room, world.now, second, &mut body);
        push_users(&room, rooms, &mut body);
        let _ = write!(body, r#","serverTime":{}}}"#, world.now.wall.ms());
        answer::json_bytes(200, body.into_bytes())
    }
}

/// What a message may touch.
pub struct House<'a> {
    /// The time of this turn.
    pub now: Now,
    /// Everything that is true.
    pub engine: &'a mut Engine,
    /// Where ids come from.
    pub chance: &'a mut Chance,
    /// How often who has made a room.
    pub limiter: &'a mut Limiter,
    /// Why nothing can be changed, while that is so.
    pub refusal: Option<&'a str>,
}

/// What comes of a message.
#[derive(Debug)]
pub struct Said {
    /// The answer.
    pub words: Words,
    /// What must be durable before it may be given.
    pub hold: Hold,
}

/// An answer.
#[derive(Debug)]
pub enum Words {
    /// This.
    Text(String),
    /// He takes this seat, and is told what everybody there knows.
    Welcome(Seat),
    /// Somebody was faster in the room where he sits, of which he is told what it is when he is told: others may have
    /// changed it again since then, and he has heard of that.
    Stale(Seat),
    /// None: everybody in the room hears what he has done.
    Nothing,
    /// None, and he is in the room no more.
    Farewell,
    /// Why nothing has come of it that he has asked to take a seat, or to give his up.
    InVain(String),
}

impl Words {
    /// What is said instead when it is not durable and never will be, or nobody knows.
    #[must_use]
    pub fn in_vain(self, why: &str) -> Words {
        match self {
            Words::Welcome(_) | Words::Farewell | Words::InVain(_) => Words::InVain(failed(why)),
            Words::Text(_) | Words::Stale(_) | Words::Nothing => Words::Text(failed(why)),
        }
    }
}

/// What somebody asks for who is in a room.
enum Asked {
    Leave,
    Act(Action),
}

/// Answers a message of somebody at this address, who is in the room where he has a `seat`.
pub fn hear(message: &str, seat: Option<Seat>, address: IpAddr, house: &mut House<'_>) -> Said {
    let said = |text| Said { words: Words::Text(text), hold: Hold::Nothing };
    let body = match serde_json::from_str::<Value>(message) {
        Ok(body @ Value::Object(_)) => body,
        _ => return said(error("Invalid JSON", "invalid")),
    };
    let kind = match body.get("type") {
        Some(Value::String(kind)) => kind.clone(),
        Some(other) => other.to_string(),
        None => "null".to_owned(),
    };
    let asked = match (kind.as_str(), seat) {
        ("ping", _) => return said(r#"{"type":"pong"}"#.to_owned()),
        ("session:create" | "session:join", Some(_)) => return said(error("Already in a room", "wrong_state")),
        ("session:create" | "session:join", None) => enter(&body, address, house),
        (
            "session:leave" | "timer:start" | "timer:pause" | "timer:resume" | "timer:reset" | "timer:extend",
            Some(seat),
        ) => act(&kind, &body, seat, house),
        ("session:leave" | "timer:start" | "timer:pause" | "timer:resume" | "timer:reset" | "timer:extend", None) => {
            return said(unseated());
        }
        (other, _) => {
            let other: String = other.chars().take(ECHO_CHARS_MAX).collect();
            return said(error(&format!("Unknown message type: {other}"), "invalid"));
        }
    };
    asked.unwrap_or_else(|(words, hold)| Said { words, hold })
}

/// `session:create`, and `session:join` (which names a room).
fn enter(body: &Value, address: IpAddr, house: &mut House<'_>) -> Result<Said, (Words, Hold)> {
    let mut form = Form::body(body).map_err(faulty)?;
    let is_join = form.raw("type").and_then(Value::as_str) == Some("session:join");
    let name = person_name(&mut form);
    let duration_s = if is_join { None } else { form.int_or_null("duration", 1..=DURATION_S_MAX) };
    let duration_s = duration_s.unwrap_or(ROOM_DURATION_S_DEFAULT);
    let text = |form: &mut Form<'_>, field: &str| match form.raw(field) {
        Some(Value::String(text)) => Some(read_id(text)),
        None | Some(Value::Null) => None,
        Some(_) => {
            form.fault("string_type", field, "Input should be a valid string");
            None
        }
    };
    let (id, key) = if is_join { (text(&mut form, "sessionId"), text(&mut form, "userId")) } else { (None, None) };
    if is_join && id.is_none() && form.is_sound() {
        form.fault("missing", "sessionId", "Field required");
    }
    form.done().map_err(faulty)?;
    let House { now, engine, chance, limiter, refusal } = house;
    // Whoever comes back changes nothing that would have to be written.
    let comes_back = id.as_deref().zip(key.as_deref()).is_some_and(|(id, key)| engine.rooms.knows(id, key));
    if let Some(why) = refusal.filter(|_| !comes_back) {
        return Err((unavailable(why), Hold::Nothing));
    }
    let newcomer = Newcomer { key: spell(chance, PERSON_KEY_CHARS), name };
    let Engine { rooms, fx, .. } = &mut **engine;
    let Verdict { outcome, hold } = match id {
        Some(id) => rooms.join(*now, &id, key.as_deref(), newcomer, fx),
        None => {
            limiter.count(now.mono, Group::Rooms, address).map_err(|wait| {
                let wait_s = wait.as_nanos().div_ceil(1_000_000_000);
                let text = format!("Too many rooms created: try again in {wait_s} s");
                (Words::Text(error(&text, "limited")), Hold::Nothing)
            })?;
            rooms.create(*now, fresh_id(chance, rooms), duration_s, newcomer, fx)
        }
    };
    let seat = outcome.map_err(|refusal| (refused(refusal), hold))?;
    Ok(Said { words: Words::Welcome(seat), hold })
}

/// Everything that only somebody in a room may say.
fn act(kind: &str, body: &Value, seat: Seat, house: &mut House<'_>) -> Result<Said, (Words, Hold)> {
    let House { now, engine, refusal, .. } = house;
    let Engine { rooms, fx, .. } = &mut **engine;
    // A revision is judged before anything else, so that of two who press at once one is told who was faster.
    let mut form = Form::body(body).map_err(faulty)?;
    let revision = form.int_or_null("revision", 0..=u32::MAX);
    form.done().map_err(faulty)?;
    if let Some(revision) = revision {
        let Verdict { outcome, hold } = rooms.judge(*now, seat, u64::from(revision), fx);
        outcome.map_err(|refusal| match refusal {
            Refusal::Stale => (Words::Stale(seat), hold),
            other => (refused(other), hold),
        })?;
    }
    let mut form = Form::body(body).map_err(faulty)?;
    let asked = match kind {
        "timer:start" => Asked::Act(Action::Start { duration_s: form.int_or_null("duration", 1..=DURATION_S_MAX) }),
        "timer:pause" => Asked::Act(Action::Pause),
        "timer:resume" => Asked::Act(Action::Resume),
        "timer:reset" => Asked::Act(Action::Reset),
        "timer:extend" => Asked::Act(Action::Extend { added_s: form.int("seconds", 1..=EXTEND_S_MAX).unwrap_or(0) }),
        _ => Asked::Leave,
    };
    form.done().map_err(faulty)?;
    if let Some(why) = refusal {
        return Err((unavailable(why), Hold::Nothing));
    }
    let (verdict, words) = match asked {
        Asked::Leave => (rooms.leave(*now, seat, fx), Words::Farewell),
        Asked::Act(action) => (rooms.act(*now, seat, action, fx), Words::Nothing),
    };
    let hold = verdict.hold;
    verdict.outcome.map_err(|refusal| (refused(refusal), hold))?;
    Ok(Said { words, hold })
}

/// A name without the blanks around it; `None`: he has given none.
fn person_name(form: &mut Form<'_>) -> Option<Arc<str>> {
    let name = match form.raw("name") {
        None | Some(Value::Null) => return None,
        Some(Value::String(name)) => name.trim(),
        Some(_) => {
            form.fault("string_type", "name", "Input should be a valid string");
            return None;
        }
    };
    let chars = name.chars().count();
    if chars == 0 || chars > PERSON_NAME_CHARS_MAX {
        form.fault("value_error", "name", format!("A name has 1 to {PERSON_NAME_CHARS_MAX} characters"));
    } else if name.chars().any(char::is_control) {
        form.fault("value_error", "name", "A name has no control characters");
    }
    Some(Arc::from(name))
}

// ---------------------------------------------------------------------------------------------------------------
// Ids.

/// So many characters of chance.
fn spell(chance: &mut Chance, chars: usize) -> Arc<str> {
    let mut text = String::with_capacity(chars);
    while text.len() < chars {
        // Six characters of five bits each draw, two bits are left over.
        let bits = chance.next_u32();
        let letters = (0..6).map(|place| char::from(ALPHABET[(bits >> (5 * place)) as usize % ALPHABET.len()]));
        text.extend(letters.take(chars - text.len()));
    }
    Arc::from(text)
}

fn fresh_id(chance: &mut Chance, rooms: &Rooms) -> RoomId {
    loop {
        let id = spell(chance, ROOM_ID_CHARS);
        if !rooms.is_taken(&id) {
            return id;
        }
    }
}

/// An id as somebody has heard it and typed it.
fn read_id(text: &str) -> String {
    let meant = |char: char| match char.to_ascii_lowercase() {
        'o' => '0',
        'i' | 'l' => '1',
        other => other,
    };
    text.chars().filter(|char| *char != '-').map(meant).collect()
}

// ---------------------------------------------------------------------------------------------------------------
// Texts, `type` first.

fn error(message: &str, code: &str) -> String {
    let mut text = String::from(r#"{"type":"error","message":"#);
    push_string(message, &mut text);
    let _ = write!(text, r#","code":"{code}"}}"#);
    text
}

fn faulty(faults: Vec<Fault>) -> (Words, Hold) {
    (Words::Text(error(&sentence(&faults), "invalid")), Hold::Nothing)
}

/// Nothing was changed, since the store cannot be written.
fn unavailable(why: &str) -> Words {
    Words::Text(failed(&format!("{why}: nothing was changed")))
}

/// What was asked is not durable, or nobody knows.
pub fn failed(why: &str) -> String {
    error(why, "unavailable")
}

/// The seat is not his any more.
pub fn unseated() -> String {
    error("Not in a room", "wrong_state")
}

fn refused(refusal: Refusal) -> Words {
    Words::Text(match refusal {
        Refusal::NotFound => error("Room not found", "not_found"),
        Refusal::NoRoomLeft => error("Maximum room limit reached", "full"),
        Refusal::RoomFull => error("Room is full", "full"),
        Refusal::TooManyLines => error("Too many connections of one person", "full"),
        Refusal::NotIn => unseated(),
        Refusal::NotYet => error("revision: the room has not come to that revision", "invalid"),
        Refusal::TooLong => {
            error(&format!("seconds: a room's timer cannot last longer than {TOTAL_S_MAX} seconds"), "invalid")
        }
        Refusal::WrongState(action) => {
            let why = match action {
                Action::Pause => "Cannot pause: the timer is not running",
                Action::Resume => "Cannot resume: the timer is not paused",
                Action::Extend { .. } => "Cannot extend: the timer is neither running nor paused",
                Action::Start { .. } | Action::Reset => "Not possible now",
            };
            error(why, "wrong_state")
        }
        Refusal::Stale => stale_text(),
    })
}

fn stale_text() -> String {
    error("The timer was changed meanwhile", "stale")
}

/// Somebody was faster, and the room is this now.
pub fn stale(room: &Room, now: Now, second: Second) -> String {
    let mut text = stale_text();
    text.pop();
    text.push_str(r#","state":{"#);
    push_state(room, now, second, &mut text);
    text.push_str("}}");
    text
}

/// What somebody who takes his seat hears first.
pub fn joined(room: &Room, seat: Seat, rooms: &Rooms, now: Now) -> Option<String> {
    let person = room.person(seat.person)?;
    let mut text =
        format!(r#"{{"type":"session:joined","sessionId":"{}","userId":"{}","name":"#, room.id, person.key);
    push_string(&person.name, &mut text);
    push_users(room, rooms, &mut text);
    text.push_str(r#","state":{"#);
    push_state(room, now, rooms.second(), &mut text);
    let _ = write!(text, r#"}},"serverTime":{}}}"#, now.wall.ms());
    Some(text)
}

/// An announcement in the room with this serial number, into `out`.
pub fn announce(message: &Message, serial: u32, rooms: &Rooms, now: Now, out: &mut String) {
    let people = |kind: &str, name: Option<&str>, room: &Room, out: &mut String| {
        let _ = write!(out, r#"{{"type":"session:{kind}""#);
        if let Some(name) = name {
            out.push_str(r#","name":"#);
            push_string(name, out);
        }
        push_users(room, rooms, out);
        out.push('}');
    };
    match message {
        Message::Tick(left_s) => {
            let _ = write!(out, r#"{{"type":"timer:tick","remainingTime":{left_s}}}"#);
        }
        Message::Changed { room, by } => {
            out.push_str(r#"{"type":"timer:state","state":{"#);
            push_state(room, now, rooms.second(), out);
            out.push_str(r#"},"by":"#);
            match by {
                Some(name) => push_string(name, out),
                None => out.push_str("null"),
            }
            out.push('}');
        }
        Message::Completed => out.push_str(r#"{"type":"timer:completed"}"#),
        Message::Came { name, room, .. } => people("user-joined", Some(name), room, out),
        Message::Left { name, room, .. } => people("user-left", Some(name), room, out),
        Message::Presence => {
            if let Some(room) = rooms.peek(serial) {
                people("presence", None, room, out);
            }
        }
        Message::Gone(_) => {}
    }
}

/// The fields of the contract's `state`, without its braces.
fn push_state(room: &Room, now: Now, second: Second, out: &mut String) {
    let left = room.left(now);
    let wall = |at: Option<WallMs>| at.map_or_else(|| "null".to_owned(), |at| at.ms().to_string());
    let (started_at, paused_at) = (wall(room.started_at), wall(room.paused_at));
    let _ = write!(
        out,
        r#""sessionId":"{}","duration":{},"remainingTime":{},"isRunning":{},"isPaused":{},"startedAt":{started_at},"pausedAt":{paused_at},"revision":{},"remainingMs":{},"completed":{}"#,
        room.id,
        room.duration_s,
        second.ceil(left),
        room.state == State::Running,
        room.state == State::Paused,
        room.revision,
        second.ms(left),
        room.state == State::Completed,
    );
}

/// `users`, with a comma before it.
fn push_users(room: &Room, rooms: &Rooms, out: &mut String) {
    out.push_str(r#","users":["#);
    for (place, person) in room.people.iter().enumerate() {
        out.push_str(if place > 0 { r#",{"name":"# } else { r#"{"name":"# });
        push_string(&person.name, out);
        let seat = Seat { room: room.serial, person: person.number };
        let _ = write!(out, r#","connected":{}}}"#, rooms.has_line(seat));
    }
    out.push(']');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_survive_being_read_aloud_and_typed() {
        assert_eq!(read_id("K7M3X-9Q2PD"), "k7m3x9q2pd");
        assert_eq!(read_id("OoIiLl"), "001111");
        let mut chance = Chance::new([3; 32]);
        for chars in [ROOM_ID_CHARS, PERSON_KEY_CHARS] {
            let id = spell(&mut chance, chars);
            assert_eq!(id.len(), chars);
            assert_eq!(read_id(&id.to_uppercase()), *id);
        }
        let drawn: std::collections::HashSet<_> = (0..1_000).map(|_| spell(&mut chance, ROOM_ID_CHARS)).collect();
        assert_eq!(drawn.len(), 1_000);
        let letters: std::collections::HashSet<char> = drawn.iter().flat_map(|id| id.chars()).collect();
        assert_eq!(letters.len(), ALPHABET.len(), "every letter is drawn");
    }
}
