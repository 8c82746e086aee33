//! What a session tells the event pipeline: in the same commit, in order, and never what was answered.

use serde_json::{Value, json};

use super::{Delivery, ephemeral, fast, free, kinds, next, on, refused, section, simple, to, with};
use crate::daemon::{Daemon, directory, eventually};

/// In no event: it is in every response here.
const SECRET: &str = "what-was-answered";

fn secret(n: u32) -> Value {
    json!({ "choice": SECRET, "n": n })
}

/// Type, and the payload's item and index if it has them.
fn in_short(events: &[Value]) -> Vec<(String, Value, Value)> {
    let field = |event: &Value, name: &str| event["payload"].get(name).cloned().unwrap_or(Value::Null);
    let one = |event: &Value| {
        (event["event_type"].as_str().unwrap().to_owned(), field(event, "item_id"), field(event, "index"))
    };
    events.iter().map(one).collect()
}

fn of(kind: &str) -> (String, Value, Value) {
    (kind.to_owned(), Value::Null, Value::Null)
}

fn at(kind: &str, item: &str, index: usize) -> (String, Value, Value) {
    (kind.to_owned(), json!(item), json!(index))
}

/// What every event of a session has.
#[track_caller]
fn assert_fed(events: &[Value], id: &str, exam: &str, candidate: &str) {
    for event in events {
        let found = [&event["source"], &event["session_id"], &event["user_id"], &event["payload"]["assessment_id"]];
        assert_eq!(found, [&json!("timerd"), &json!(id), &json!(candidate), &json!(exam)], "{event}");
        assert!(!event.to_string().contains(SECRET), "{event}");
    }
}

#[test]
fn a_whole_exam_is_told_in_order_and_no_answer_with_it() {
    let daemon = ephemeral(&[]);
    daemon.set("x", simple());
    let id = daemon.begin("x", "anna");
    assert_eq!(daemon.answer(&id, "q1", secret(1)).status, 200);
    assert_eq!(daemon.answer(&id, "q1", secret(2)).status, 200);
    assert_eq!(daemon.go(&id, next()), 1);
    assert_eq!(daemon.go(&id, to(2)), 2);
    assert_eq!(daemon.answer(&id, "q2", secret(3)).status, 200);
    let (mut socket, _, _) = daemon.attend(&id);
    socket.send(json!({ "type": "answer_save", "item_id": "q2", "response": secret(4) }));
    socket.skip_to("answer_saved");
    socket.send(json!({ "type": "flag", "item_id": "q2", "is_flagged": true }));
    socket.skip_to("flagged");
    socket.send(json!({ "type": "navigate", "direction": "previous" }));
    socket.skip_to("navigated");
    for call in ["save", "pause", "resume"] {
        assert_eq!(daemon.call(&id, call).status, 200);
    }
    assert_eq!(daemon.ask(&id, "extend", json!({ "seconds": 5, "reason": "r" })).status, 200);
    // Refusals tell nothing.
    refused(&daemon.answer(&id, "q9", secret(5)), 400, "Item q9 not in session");
    assert_eq!(daemon.ask(&id, "navigate", to(9)).status, 400);
    let hand_in = json!({ "answers": [
        { "item_id": "q3", "response": secret(6) }, { "item_id": "q1", "response": secret(7) },
    ] });
    assert_eq!(daemon.ask(&id, "submit", hand_in).status, 200);
    assert_eq!(daemon.call(&id, "submit").status, 400);
    let events = daemon.told(&id);
    let expected = [
        of("session_created"),
        of("quiz_started"),
        at("question_viewed", "q1", 0),
        at("answer_submitted", "q1", 0),
        at("answer_changed", "q1", 0),
        at("question_viewed", "q2", 1),
        at("question_skipped", "q2", 1),
        at("question_viewed", "q3", 2),
        at("answer_submitted", "q2", 1),
        at("answer_changed", "q2", 1),
        at("question_skipped", "q3", 2),
        at("question_viewed", "q2", 1),
        at("answer_submitted", "q3", 2),
        at("answer_changed", "q1", 0),
        of("quiz_completed"),
        of("session_ended"),
    ];
    assert_eq!(in_short(&events), expected);
    assert_fed(&events, &id, "x", "anna");
    let moments: Vec<i64> = events.iter().map(super::at_us).collect();
    assert!(moments.is_sorted(), "{moments:?}");
    // Whoever has the session's id is its candidate.
    assert!(events.iter().all(|event| event["payload"]["actor"] == "candidate"), "{events:?}");
    // A subscriber is told the same, of this session only.
    let other = daemon.begin("x", "bert");
    let (mut subscriber, _) = daemon.subscribe(json!({ "session_id": id, "after": 0 }));
    let heard: Vec<Value> = events.iter().map(|_| subscriber.recv()).collect();
    assert_eq!(heard, events);
    assert_fed(&daemon.told(&other), &other, "x", "bert");
}

#[test]
fn every_end_is_told_with_what_belongs_to_it() {
    let daemon = fast(&[]);
    let begin = |exam: &str, limit: u32, grace: u32| {
        daemon.set(exam, with(simple(), json!({ "time_limit_seconds": limit, "grace_seconds": grace })));
        daemon.begin(exam, "anna")
    };
    let tail = |id: &str| kinds(&daemon.told(id)[3..]).into_iter().map(str::to_owned).collect::<Vec<_>>();
    // Taken out by an instructor, running or paused.
    for call in [None, Some("pause")] {
        let id = begin("x", 600, 0);
        if let Some(call) = call {
            assert_eq!(daemon.call(&id, call).status, 200);
        }
        assert_eq!(daemon.call(&id, "terminate").status, 200);
        assert_eq!(tail(&id), ["session_ended"]);
    }
    // Handed in late.
    let id = begin("late", 2, 60);
    eventually(|| daemon.state(&id) == "expired");
    eventually(|| tail(&id) == ["quiz_timeout"]);
    let hand_in = json!({ "answers": [{ "item_id": "q2", "response": secret(1) }] });
    assert_eq!(daemon.ask(&id, "submit", hand_in).status, 200);
    assert_eq!(tail(&id), ["quiz_timeout", "answer_submitted", "quiz_completed", "session_ended"]);
    // Never handed in.
    let id = begin("never", 2, 2);
    eventually(|| tail(&id).len() == 3);
    assert_eq!(tail(&id), ["quiz_timeout", "quiz_completed", "session_ended"]);
    let events = daemon.told(&id);
    assert_fed(&events, &id, "never", "anna");
    for event in &events[4..] {
        assert_eq!(event["payload"]["state"], "expired", "{event}");
    }
    // And with no grace at all.
    let id = begin("none", 2, 0);
    eventually(|| tail(&id).len() == 3);
    assert_eq!(tail(&id), ["quiz_timeout", "quiz_completed", "session_ended"]);
}

#[test]
fn a_move_by_a_sections_end_is_told_as_any_other() {
    let daemon = fast(&[]);
    let sections = [
        with(section("a", &["a1", "a2"]), json!({ "time_limit_seconds": 3 })),
        with(section("b", &["b1"]), json!({ "time_limit_seconds": 3 })),
        section("c", &["c1"]),
    ];
    daemon.set("x", free(&sections));
    let id = daemon.begin("x", "anna");
    eventually(|| daemon.told(&id).len() == 5);
    assert_eq!(daemon.answer(&id, "b1", secret(1)).status, 200);
    eventually(|| daemon.told(&id).len() == 7);
    let events = daemon.told(&id);
    let expected = [
        at("question_skipped", "a1", 0),
        at("question_viewed", "b1", 2),
        at("answer_submitted", "b1", 2),
        at("question_viewed", "c1", 3),
    ];
    assert_eq!(in_short(&events[3..]), expected);
    assert_fed(&events, &id, "x", "anna");
}

#[test]
fn the_actor_is_the_candidate_or_the_name_of_an_instructors_key() {
    let (_kept, place) = directory();
    let keys = super::supervision::Keys::new(&place);
    let daemon = ephemeral(&["--require-auth", "--open-candidates", "--keys-file", keys.path()]);
    let instructor = Some(keys.key("instructor"));
    let ask = |key: Option<&str>, method: &str, path: &str, body: Value| {
        super::supervision::ask(&daemon, key, method, path, Some(&body.to_string()))
    };
    assert_eq!(ask(instructor, "PUT", "/delivery/assessments/x", simple()).status, 201);
    let body = json!({ "candidate_id": "anna", "test_taker_id": "t" });
    let started = ask(Some(keys.key("viewer")), "POST", "/delivery/start/x", body);
    let id = started.json()["session_id"].as_str().unwrap().to_owned();
    let answer = json!({ "item_id": "q1", "response": {} });
    assert_eq!(ask(None, "POST", &format!("/delivery/session/{id}/answer"), answer).status, 200);
    assert_eq!(ask(instructor, "POST", &format!("/delivery/session/{id}/terminate"), json!({})).status, 200);
    let path = format!("/events?after=0&session_id={id}");
    let events = super::supervision::ask(&daemon, instructor, "GET", &path, None).json();
    let actors: Vec<&str> =
        events.as_array().unwrap().iter().map(|event| event["payload"]["actor"].as_str().unwrap()).collect();
    assert_eq!(actors, ["candidate", "candidate", "candidate", "candidate", "instructor"], "{events}");
}

#[test]
fn what_was_acknowledged_and_what_was_told_of_it_are_in_one_commit() {
    let (_kept, path) = directory();
    let mut daemon: Daemon = on(&path, &[]);
    daemon.set("x", simple());
    for round in 0..5 {
        let id = daemon.begin("x", &format!("c{round}"));
        assert_eq!(daemon.answer(&id, "q1", secret(round)).status, 200);
        assert_eq!(daemon.go(&id, next()), 1);
        daemon.kill();
        daemon = on(&path, &[]);
        let seen = daemon.told(&id);
        let all = ["session_created", "quiz_started", "question_viewed", "answer_submitted", "question_viewed"];
        assert_eq!(kinds(&seen), all);
        assert_eq!(daemon.session(&id)["responses"]["q1"], secret(round));
    }
}
