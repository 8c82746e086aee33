//! The delivery of exams, seen from outside: each row of REST and each message on the socket, each action in each
//! state, the order of checks, place and locks, chance, time and its limits, the end and its grace, answers and their
//! bounds, what instructors see and may do, results, and what a crash must not change.
//!
//! What is expected is the contract's word, never the daemon's. Instants are taken from the events that a session
//! makes of itself, which carry microseconds, or from this side's own clock. Most daemons here have short seconds
//! (`--second-ms 100`): limits, grace and ticks run ten times as fast, wall-clock times and `late_ms` do not.

mod answers;
mod assessments;
mod calls;
mod durable;
mod feed;
mod places;
mod results;
mod sockets;
mod supervision;
mod time;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::daemon::{Daemon, Response, Socket, eventually};
use serde_json::{Value, json};

const JSON: (&str, &str) = ("Content-Type", "application/json");
/// How late something may be seen that is exact: the machine is busy with other tests.
const LATE_MS_MAX: i64 = 600;
/// An id that no session has.
const NOBODY: &str = "00000000-0000-4000-8000-000000000000";
/// A session as it may be; `late` is expired and within its grace.
const STATES: [&str; 6] = ["in_progress", "paused", "completed", "late", "expired", "terminated"];

// ---------------------------------------------------------------------------------------------------------------
// Daemons.

const NO_LIMITS: [&str; 2] = ["--rate-query", "off"];

/// A daemon that keeps nothing.
fn ephemeral(flags: &[&str]) -> Daemon {
    Daemon::ephemeral(&[&NO_LIMITS, flags].concat())
}

/// The same, with short seconds.
fn fast(flags: &[&str]) -> Daemon {
    ephemeral(&[&["--second-ms", "100"], flags].concat())
}

/// A daemon on a data directory.
fn on(path: &Path, flags: &[&str]) -> Daemon {
    Daemon::on(path, &[&NO_LIMITS, flags].concat())
}

// ---------------------------------------------------------------------------------------------------------------
// What is asked.

/// `value` with other fields.
fn with(mut value: Value, more: Value) -> Value {
    for (name, field) in more.as_object().unwrap() {
        value[name] = field.clone();
    }
    value
}

fn item(id: &str) -> Value {
    json!({ "item_id": id, "content": { "prompt": format!("What is {id}?") }, "metadata": { "points": 1 } })
}

fn section(id: &str, items: &[&str]) -> Value {
    json!({ "section_id": id, "items": items.iter().map(|id| item(id)).collect::<Vec<_>>() })
}

/// An assessment in which everybody may go anywhere.
fn free(sections: &[Value]) -> Value {
    json!({ "navigation_mode": "NON_LINEAR", "sections": sections })
}

/// The same with one section of the items q1, q2 and q3, and an hour.
fn simple() -> Value {
    with(free(&[section("a", &["q1", "q2", "q3"])]), json!({ "time_limit_seconds": 3600 }))
}

fn next() -> Value {
    json!({ "direction": "next" })
}

fn previous() -> Value {
    json!({ "direction": "previous" })
}

fn to(index: usize) -> Value {
    json!({ "direction": "specific", "target_index": index })
}

/// The calls of the contract.
trait Delivery {
    /// Puts an assessment.
    fn set(&self, exam: &str, assessment: Value);
    /// Asks for a start.
    fn try_start(&self, exam: &str, candidate: &str) -> Response;
    /// Starts a session; returns the answer.
    fn start(&self, exam: &str, candidate: &str) -> Value;
    /// Starts a session; returns its id.
    fn begin(&self, exam: &str, candidate: &str) -> String;
    /// A session of [`simple`] at its first item, with nothing answered, in one of [`STATES`].
    fn session_in(&self, state: &str) -> String;
    /// `POST /delivery/session/{id}/{call}` without a body.
    fn call(&self, id: &str, call: &str) -> Response;
    /// The same with a body.
    fn ask(&self, id: &str, call: &str, body: Value) -> Response;
    /// The same with a body that is text.
    fn ask_text(&self, id: &str, call: &str, body: &str) -> Response;
    /// Asks to save an answer.
    fn answer(&self, id: &str, item: &str, response: Value) -> Response;
    /// Goes somewhere; returns the index.
    fn go(&self, id: &str, body: Value) -> usize;
    /// The whole session.
    fn session(&self, id: &str) -> Value;
    fn state(&self, id: &str) -> String;
    /// Its place.
    fn current(&self, id: &str) -> Value;
    /// Opens the session's socket; returns it with the two first messages.
    fn attend(&self, id: &str) -> (Socket, Value, Value);
    /// The events of a session so far, oldest first.
    fn told(&self, id: &str) -> Vec<Value>;
    /// The one event of a session of this type, waited for.
    fn event(&self, id: &str, kind: &str) -> Value;
}

impl Delivery for Daemon {
    #[track_caller]
    fn set(&self, exam: &str, assessment: Value) {
        let response = self.put(&format!("/delivery/assessments/{exam}"), assessment);
        assert!(matches!(response.status, 200 | 201), "{} {}", response.status, response.text());
    }

    fn try_start(&self, exam: &str, candidate: &str) -> Response {
        let body = json!({ "candidate_id": candidate, "test_taker_id": format!("taker of {candidate}") });
        self.post(&format!("/delivery/start/{exam}"), body)
    }

    #[track_caller]
    fn start(&self, exam: &str, candidate: &str) -> Value {
        let response = self.try_start(exam, candidate);
        assert_eq!(response.status, 200, "{}", response.text());
        response.json()
    }

    #[track_caller]
    fn begin(&self, exam: &str, candidate: &str) -> String {
        self.start(exam, candidate)["session_id"].as_str().unwrap().to_owned()
    }

    #[track_caller]
    fn session_in(&self, state: &str) -> String {
        let short = |grace| with(simple(), json!({ "time_limit_seconds": 1, "grace_seconds": grace }));
        let (exam, assessment) = match state {
            "late" => ("late", short(3600)),
            "expired" => ("expired", short(0)),
            _ => ("simple", simple()),
        };
        self.set(exam, assessment);
        let id = self.begin(exam, "anna");
        match state {
            "in_progress" => {}
            "paused" => assert_eq!(self.call(&id, "pause").status, 200),
            "completed" => assert_eq!(self.call(&id, "submit").status, 200),
            "terminated" => assert_eq!(self.call(&id, "terminate").status, 200),
            _ => eventually(|| self.state(&id) == "expired"),
        }
        id
    }

    fn call(&self, id: &str, call: &str) -> Response {
        self.request("POST", &format!("/delivery/session/{id}/{call}"), &[], None)
    }

    fn ask(&self, id: &str, call: &str, body: Value) -> Response {
        self.ask_text(id, call, &body.to_string())
    }

    fn ask_text(&self, id: &str, call: &str, body: &str) -> Response {
        self.request("POST", &format!("/delivery/session/{id}/{call}"), &[JSON], Some(body))
    }

    fn answer(&self, id: &str, item: &str, response: Value) -> Response {
        self.ask(id, "answer", json!({ "item_id": item, "response": response }))
    }

    #[track_caller]
    fn go(&self, id: &str, body: Value) -> usize {
        let response = self.ask(id, "navigate", body);
        assert_eq!(response.status, 200, "{}", response.text());
        number(&response.json()["current_item_index"])
    }

    #[track_caller]
    fn session(&self, id: &str) -> Value {
        let response = self.get(&format!("/delivery/session/{id}"));
        assert_eq!(response.status, 200, "{}", response.text());
        response.json()
    }

    #[track_caller]
    fn state(&self, id: &str) -> String {
        self.session(id)["state"].as_str().unwrap().to_owned()
    }

    #[track_caller]
    fn current(&self, id: &str) -> Value {
        let response = self.get(&format!("/delivery/session/{id}/current"));
        assert_eq!(response.status, 200, "{}", response.text());
        response.json()
    }

    #[track_caller]
    fn attend(&self, id: &str) -> (Socket, Value, Value) {
        let mut socket = self.open(&format!("/delivery/ws/{id}"), &[]);
        let timer = socket.expect("timer");
        let mut current = socket.recv();
        while current["type"] == "timer" {
            // A tick of a short second may come between the two.
            current = socket.recv();
        }
        assert_eq!(current["type"], "current_item", "{current}");
        (socket, timer, current)
    }

    fn told(&self, id: &str) -> Vec<Value> {
        self.events(&format!("?after=0&limit=1000&session_id={id}"))
    }

    #[track_caller]
    fn event(&self, id: &str, kind: &str) -> Value {
        let path = format!("?session_id={id}&event_type={kind}");
        eventually(|| !self.events(&path).is_empty());
        let found = self.events(&path);
        assert_eq!(found.len(), 1, "{found:?}");
        found[0].clone()
    }
}

// ---------------------------------------------------------------------------------------------------------------
// What is answered.

/// A refusal, word for word.
#[track_caller]
fn refused(response: &Response, status: u16, detail: &str) {
    assert_eq!((response.status, response.text()), (status, &*json!({ "detail": detail }).to_string()));
}

/// An object with exactly these fields, in whatever order.
#[track_caller]
fn assert_fields(object: &Value, fields: &str) {
    let have: BTreeSet<&str> = object.as_object().unwrap().keys().map(String::as_str).collect();
    let want: BTreeSet<&str> = fields.split_whitespace().collect();
    assert_eq!(have, want, "{object}");
}

#[track_caller]
fn number(value: &Value) -> usize {
    usize::try_from(value.as_u64().unwrap_or_else(|| panic!("no number: {value}"))).unwrap()
}

/// `2025-01-15T10:00:00Z`.
#[track_caller]
fn assert_time(value: &Value) {
    let text = value.as_str().unwrap_or_else(|| panic!("no time: {value}"));
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(shape, "0000-00-00T00:00:00Z", "{text}");
}

fn wall_ms() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// The instant that a field names, in microseconds.
#[track_caller]
fn instant_us(value: &Value) -> i64 {
    value.as_str().unwrap_or_else(|| panic!("no time: {value}")).parse::<jiff::Timestamp>().unwrap().as_microsecond()
}

/// The instant of an event, in microseconds.
#[track_caller]
fn at_us(event: &Value) -> i64 {
    instant_us(&event["timestamp"])
}

/// The strings of a list.
#[track_caller]
fn strings(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

/// The ids of all items of a session, as they were given to the candidate.
#[track_caller]
fn items_of(session: &Value) -> Vec<String> {
    let sections = session["sections"].as_array().unwrap();
    sections.iter().flat_map(|section| strings(&section["items"])).map(str::to_owned).collect()
}

/// What does not move with time alone.
fn without_time(mut session: Value) -> Value {
    session["time_remaining_seconds"] = Value::Null;
    session["section_remaining_seconds"] = Value::Null;
    for section in session["sections"].as_array_mut().unwrap() {
        section["time_remaining_seconds"] = Value::Null;
    }
    session
}

/// The types of some events, in their order.
fn kinds(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["event_type"].as_str().unwrap()).collect()
}
