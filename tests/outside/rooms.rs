//! Shared focus rooms, seen from outside: who comes, goes and comes back, each control in each state, revisions, time
//! and its zero, every refusal word for word, what a crash or a failing disk must not change, and how soon all see
//! what one of them did.
//!
//! What is expected is the contract's word, never the daemon's. Time is held against this side's own clock.

mod bounds;
mod controls;
mod durable;
mod load;
mod people;
mod refusals;
mod time;

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::daemon::{Daemon, Socket};
use serde_json::{Value, json};

/// How late something may be seen that is exact: the machine is busy with other tests.
const LATE_MS_MAX: i64 = 900;
/// The digits of an id.
const DIGITS: &str = "0123456789abcdefghjkmnpqrstvwxyz";
/// An id that no room has.
const NOWHERE: &str = "zzzzzzzzzz";

// ---------------------------------------------------------------------------------------------------------------
// Daemons and members.

const NO_LIMITS: [&str; 2] = ["--rate-rooms", "off"];

/// A daemon that keeps nothing, and in which any number of rooms may be created.
fn ephemeral(flags: &[&str]) -> Daemon {
    Daemon::ephemeral(&[&NO_LIMITS, flags].concat())
}

/// The same on a data directory.
fn on(path: &Path, flags: &[&str]) -> Daemon {
    Daemon::on(path, &[&NO_LIMITS, flags].concat())
}

/// What a person asks for in a room.
trait Rooms {
    /// A socket outside any room.
    fn enter(&self) -> Socket;
    /// Creates a room with these fields and joins it.
    fn found(&self, fields: Value) -> Member;
    /// Joins a room as a new person of this name.
    fn visit(&self, room: &str, name: &str) -> Member;
    /// Joins the room of a member once more, as the same person.
    fn come_back(&self, member: &Member) -> Member;
    /// `GET /rooms/{id}`, which must be there.
    fn room(&self, id: &str) -> Value;
    /// The names of a room's people, those without a line in brackets.
    fn people(&self, id: &str) -> Vec<String>;
}

impl Rooms for Daemon {
    fn enter(&self) -> Socket {
        self.open("/ws/rooms", &[])
    }

    #[track_caller]
    fn found(&self, fields: Value) -> Member {
        Member::new(self.enter(), with(json!({ "type": "session:create" }), fields))
    }

    #[track_caller]
    fn visit(&self, room: &str, name: &str) -> Member {
        Member::new(self.enter(), json!({ "type": "session:join", "sessionId": room, "name": name }))
    }

    #[track_caller]
    fn come_back(&self, member: &Member) -> Member {
        Member::new(self.enter(), member.return_ticket())
    }

    #[track_caller]
    fn room(&self, id: &str) -> Value {
        let response = self.get(&format!("/rooms/{id}"));
        assert_eq!(response.status, 200, "{}", response.text());
        response.json()
    }

    #[track_caller]
    fn people(&self, id: &str) -> Vec<String> {
        in_short(&self.room(id)["users"])
    }
}

/// A socket in a room.
struct Member {
    socket: Socket,
    room: String,
    user: String,
    name: String,
    /// What it was told first.
    joined: Value,
}

impl Member {
    #[track_caller]
    fn new(mut socket: Socket, message: Value) -> Member {
        socket.send(message);
        let joined = socket.expect("session:joined");
        let text = |name: &str| joined[name].as_str().unwrap_or_else(|| panic!("{name}: {joined}")).to_owned();
        Member { room: text("sessionId"), user: text("userId"), name: text("name"), socket, joined }
    }

    fn return_ticket(&self) -> Value {
        json!({ "type": "session:join", "sessionId": self.room, "userId": self.user })
    }

    /// The next message that is no tick.
    #[track_caller]
    fn news(&mut self) -> Value {
        news(&mut self.socket)
    }

    /// The next message that is no tick, after asking for something.
    #[track_caller]
    fn ask(&mut self, message: Value) -> Value {
        self.socket.send(message);
        self.news()
    }

    /// Asks for a change, which is made; returns the room's state.
    #[track_caller]
    fn press(&mut self, message: Value) -> Value {
        let text = message.to_string();
        let answer = self.ask(message);
        assert_eq!(answer["type"], "timer:state", "{text}: {answer}");
        assert_eq!(answer["by"], *self.name, "{text}: {answer}");
        checked(&answer["state"]);
        answer["state"].clone()
    }

    /// A control without fields.
    #[track_caller]
    fn control(&mut self, kind: &str) -> Value {
        self.press(command(kind))
    }

    /// Asks for something that is refused.
    #[track_caller]
    fn refused(&mut self, message: Value, code: &str, text: &str) {
        refused(&mut self.socket, message, code, text);
    }

    /// Nothing is on its way to this socket but ticks.
    #[track_caller]
    fn hears_nothing(&mut self) {
        let answer = self.ask(command("ping"));
        assert_eq!(answer, command("pong"));
    }

    /// Leaves the room for good; what was said in it before has been heard.
    #[track_caller]
    fn leave(&mut self) {
        self.socket.send(command("session:leave"));
        self.socket.send(command("ping"));
        while self.news() != command("pong") {}
    }

    /// Closes with a good-bye, and waits until the daemon has said its own.
    fn hang_up(mut self) {
        self.socket.inner.close(None).unwrap();
        self.socket.expect_close();
    }
}

fn command(kind: &str) -> Value {
    json!({ "type": kind })
}

/// `value` with other fields.
fn with(mut value: Value, more: Value) -> Value {
    for (name, field) in more.as_object().unwrap() {
        value[name] = field.clone();
    }
    value
}

// ---------------------------------------------------------------------------------------------------------------
// What is heard.

/// The next message that is no tick.
#[track_caller]
fn news(socket: &mut Socket) -> Value {
    loop {
        let message = socket.recv();
        if message["type"] != "timer:tick" {
            return message;
        }
        assert!(message["remainingTime"].is_u64(), "{message}");
    }
}

/// Asks for something that is refused, word for word.
#[track_caller]
fn refused(socket: &mut Socket, message: Value, code: &str, text: &str) {
    let asked = message.to_string();
    socket.send(message);
    let answer = news(socket);
    assert_eq!(answer, json!({ "type": "error", "message": text, "code": code }), "{asked}");
}

/// Asks for something that is not valid; the answer names the field.
#[track_caller]
fn invalid(socket: &mut Socket, message: Value, field: &str) {
    let asked = message.to_string();
    socket.send(message);
    let answer = news(socket);
    assert_eq!((&answer["type"], &answer["code"]), (&json!("error"), &json!("invalid")), "{asked}: {answer}");
    assert!(answer["message"].as_str().unwrap().contains(field), "{asked}: {answer}");
    assert_eq!(keys(&answer), ["type", "message", "code"], "{asked}: {answer}");
}

/// The fields of an object in their order.
fn keys(object: &Value) -> Vec<&str> {
    object.as_object().unwrap_or_else(|| panic!("no object: {object}")).keys().map(String::as_str).collect()
}

/// The names of people, those without a line in brackets.
#[track_caller]
fn in_short(users: &Value) -> Vec<String> {
    let user = |user: &Value| {
        assert_eq!(keys(user), ["name", "connected"], "{user}");
        let name = user["name"].as_str().unwrap();
        if user["connected"].as_bool().unwrap() { name.to_owned() } else { format!("({name})") }
    };
    users.as_array().unwrap_or_else(|| panic!("no list: {users}")).iter().map(user).collect()
}

/// The fields of a room's state, in the contract's order.
const STATE: [&str; 10] = [
    "sessionId",
    "duration",
    "remainingTime",
    "isRunning",
    "isPaused",
    "startedAt",
    "pausedAt",
    "revision",
    "remainingMs",
    "completed",
];

/// What holds in every state; returns what it is called.
#[track_caller]
fn checked(state: &Value) -> &'static str {
    assert_eq!(keys(state), STATE, "{state}");
    let number = |name: &str| state[name].as_i64().unwrap_or_else(|| panic!("{name}: {state}"));
    let is = |name: &str| state[name].as_bool().unwrap_or_else(|| panic!("{name}: {state}"));
    assert_eq!(number("remainingTime"), (number("remainingMs") + 999).div_euclid(1000), "rounded up: {state}");
    assert!((0..=1000 * number("duration")).contains(&number("remainingMs")), "{state}");
    assert!(number("revision") >= 1, "{state}");
    assert_eq!(state["pausedAt"].is_i64(), is("isPaused"), "{state}");
    let full = number("remainingMs") == 1000 * number("duration");
    let name = match (is("isRunning"), is("isPaused"), is("completed")) {
        (true, false, false) => "running",
        (false, true, false) => "paused",
        (false, false, true) => "completed",
        (false, false, false) => "stopped",
        _ => panic!("no state: {state}"),
    };
    assert_eq!(state["startedAt"].is_null(), name == "stopped", "{state}");
    assert!(name != "stopped" || full, "stopped at the full duration: {state}");
    assert!(name != "completed" || number("remainingMs") == 0, "{state}");
    name
}

/// The state without what moves with time alone.
fn at_rest(state: &Value) -> Value {
    with(state.clone(), json!({ "remainingMs": null, "remainingTime": null }))
}

/// A room's answer to `GET` without what does not belong to the state.
fn state_of(room: &Value) -> Value {
    let fields = STATE.iter().map(|name| ((*name).to_owned(), room[name].clone()));
    Value::Object(fields.collect())
}

fn wall_ms() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// The instant has just been, or would have been on a machine at leisure.
#[track_caller]
fn assert_now(instant: &Value) {
    let ms = instant.as_i64().unwrap_or_else(|| panic!("no instant: {instant}"));
    let now = wall_ms();
    assert!((now - LATE_MS_MAX..=now).contains(&ms), "{ms} is not {now}");
}

fn sleep_ms(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}
