//! The calls of a session: the shape of each answer, each call in each state, the order of checks, what every path
//! carries, and requests that are repeated.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{
    Delivery, JSON, NOBODY, STATES, assert_fields, assert_time, ephemeral, fast, free, instant_us, item, next, on,
    refused, section, simple, to, wall_ms, with, without_time,
};
use crate::daemon::{Daemon, Response, assert_safe, directory, request_bytes};

/// Every call of a session that changes something or might: with a body that is right.
fn calls() -> Vec<(&'static str, Option<Value>)> {
    vec![
        ("answer", Some(json!({ "item_id": "q1", "response": {} }))),
        ("navigate", Some(next())),
        ("save", None),
        ("submit", None),
        ("submit", Some(json!({ "answers": [{ "item_id": "q1", "response": {} }] }))),
        ("pause", None),
        ("resume", None),
        ("terminate", None),
        ("extend", Some(json!({ "seconds": 1, "reason": "noise" }))),
    ]
}

fn ask(daemon: &Daemon, id: &str, call: &str, body: &Option<Value>) -> Response {
    match body {
        None => daemon.call(id, call),
        Some(body) => daemon.ask(id, call, body.clone()),
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Shapes.

#[test]
fn a_session_is_started_seen_answered_moved_saved_paused_and_handed_in() {
    let daemon = ephemeral(&[]);
    let sections = [
        with(section("a", &["q1", "q2"]), json!({ "name": "Part A", "time_limit_seconds": 600 })),
        section("b", &["q3"]),
    ];
    daemon
        .set("x", with(free(&sections), json!({ "title": "Exam", "time_limit_seconds": 3600, "grace_seconds": 7 })));
    let begun = wall_ms();
    let started = daemon.start("x", "anna");
    let id = started["session_id"].as_str().unwrap().to_owned();
    let expected = json!({
        "session_id": id, "assessment_id": "x", "title": "Exam", "current_item_index": 0, "total_items": 3,
        "item": item("q1"), "time_limit_seconds": 3600, "time_remaining_seconds": 3600, "state": "in_progress",
        "navigation_mode": "NON_LINEAR", "section_remaining_seconds": 600,
    });
    assert_eq!(started, expected);
    let shape: String = id.chars().map(|c| if c.is_ascii_hexdigit() { 'x' } else { c }).collect();
    assert_eq!(shape, "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx");
    assert!(&id[14..15] == "4" && "89ab".contains(&id[19..20]) && id == id.to_lowercase(), "UUID v4: {id}");

    let current = daemon.current(&id);
    assert_fields(
        &current,
        "session_id current_item_index total_items item time_remaining_seconds is_flagged state navigation_mode \
         can_go_previous can_go_next section_remaining_seconds",
    );
    let shown = json!({
        "session_id": id, "current_item_index": 0, "total_items": 3, "item": item("q1"), "is_flagged": false,
        "state": "in_progress", "navigation_mode": "NON_LINEAR", "can_go_previous": false, "can_go_next": true,
    });
    assert_eq!(with(current.clone(), shown), current);
    assert!(matches!(current["time_remaining_seconds"].as_u64(), Some(3590..=3600)), "{current}");
    assert!(matches!(current["section_remaining_seconds"].as_u64(), Some(590..=600)), "{current}");

    let body = json!({ "item_id": "q2", "response": { "choice": "4" }, "is_flagged": true });
    let answered = daemon.ask(&id, "answer", body);
    let expected = json!({ "session_id": id, "item_id": "q2", "saved": true, "current_item_index": 0 });
    assert_eq!((answered.status, answered.json()), (200, expected), "an answer moves nobody");

    let moved = daemon.ask(&id, "navigate", to(2)).json();
    assert_fields(
        &moved,
        "session_id current_item_index total_items item state can_go_previous can_go_next section_remaining_seconds",
    );
    let expected = json!({
        "session_id": id, "current_item_index": 2, "total_items": 3, "item": item("q3"), "state": "in_progress",
        "can_go_previous": true, "can_go_next": false, "section_remaining_seconds": null,
    });
    assert_eq!(moved, expected);

    let saved = daemon.call(&id, "save").json();
    assert_fields(
        &saved,
        "session_id saved_at current_item_index time_remaining_seconds responses_count section_remaining_seconds",
    );
    assert_time(&saved["saved_at"]);
    assert!((begun / 1000..=wall_ms() / 1000).contains(&(instant_us(&saved["saved_at"]) / 1_000_000)));
    let told = [&saved["session_id"], &saved["current_item_index"], &saved["responses_count"]];
    assert_eq!(told, [&json!(id), &json!(2), &json!(1)]);

    let paused = daemon.call(&id, "pause").json();
    assert_time(&paused["paused_at"]);
    assert_eq!(paused, json!({ "session_id": id, "state": "paused", "paused_at": paused["paused_at"] }));
    let resumed = daemon.call(&id, "resume").json();
    assert_time(&resumed["resumed_at"]);
    assert_eq!(resumed, json!({ "session_id": id, "state": "in_progress", "resumed_at": resumed["resumed_at"] }));

    let extended = daemon.ask(&id, "extend", json!({ "seconds": 7200 })).json();
    assert_fields(&extended, "session_id state time_remaining_seconds time_limit_seconds");
    assert_eq!([&extended["state"], &extended["time_limit_seconds"]], [&json!("in_progress"), &json!(10_800)]);
    assert!(matches!(extended["time_remaining_seconds"].as_u64(), Some(10_780..=10_800)), "{extended}");

    let whole = daemon.session(&id);
    assert_fields(
        &whole,
        "session_id assessment_id test_taker_id candidate_id title state current_section_index current_item_index \
         responses flagged_items time_limit_seconds time_remaining_seconds started_at completed_at sections \
         navigation_mode late_ms section_remaining_seconds grace_seconds",
    );
    let expected = json!({
        "session_id": id, "assessment_id": "x", "test_taker_id": "taker of anna", "candidate_id": "anna",
        "title": "Exam", "state": "in_progress", "current_section_index": 1, "current_item_index": 2,
        "responses": { "q2": { "choice": "4" } }, "flagged_items": ["q2"], "time_limit_seconds": 10_800,
        "completed_at": null, "navigation_mode": "NON_LINEAR", "late_ms": null, "section_remaining_seconds": null,
        "grace_seconds": 7,
    });
    assert_eq!(with(whole.clone(), expected), whole);
    assert_time(&whole["started_at"]);
    assert!((begun / 1000..=wall_ms() / 1000).contains(&(instant_us(&whole["started_at"]) / 1_000_000)), "{whole}");
    let left = whole["sections"][0]["time_remaining_seconds"].clone();
    assert!(matches!(left.as_u64(), Some(590..=600)), "sections that he is not in have no extension: {whole}");
    let parts = json!([
        {
            "section_id": "a", "name": "Part A", "time_limit_seconds": 600, "time_remaining_seconds": left,
            "locked": false, "items": ["q1", "q2"],
        },
        {
            "section_id": "b", "name": "b", "time_limit_seconds": null, "time_remaining_seconds": null,
            "locked": false, "items": ["q3"],
        },
    ]);
    assert_eq!(whole["sections"], parts);

    let submitted = daemon.call(&id, "submit").json();
    assert_time(&submitted["completed_at"]);
    let expected = json!({
        "session_id": id, "state": "completed", "completed_at": submitted["completed_at"], "total_items": 3,
        "responses_count": 1,
    });
    assert_eq!(submitted, expected, "in time, so nothing is said about being late");
    let whole = daemon.session(&id);
    assert_eq!([&whole["state"], &whole["completed_at"]], [&json!("completed"), &submitted["completed_at"]]);
    assert_eq!(whole["late_ms"], json!(null));
}

#[test]
fn without_a_limit_there_is_no_time_to_show_and_none_to_add() {
    let daemon = fast(&[]);
    daemon.set("x", free(&[section("a", &["q1", "q2", "q3"])]));
    let started = daemon.start("x", "anna");
    let id = started["session_id"].as_str().unwrap();
    let shown = [started.clone(), daemon.current(id), daemon.call(id, "save").json(), daemon.session(id)];
    for answer in shown {
        assert_eq!(answer["time_remaining_seconds"], json!(null), "{answer}");
        assert_eq!(answer["section_remaining_seconds"], json!(null), "{answer}");
    }
    assert_eq!(started["time_limit_seconds"], json!(null));
    let session = daemon.session(id);
    assert_eq!(session["time_limit_seconds"], json!(null), "{session}");
    for state in ["in_progress", "paused"] {
        refused(&daemon.ask(id, "extend", json!({ "seconds": 5 })), 400, "Session has no time limit");
        assert_eq!(daemon.state(id), state);
        daemon.call(id, "pause");
    }
    let ended = daemon.call(id, "terminate");
    let expected = json!({
        "session_id": id, "state": "terminated", "time_remaining_seconds": null, "time_limit_seconds": null,
    });
    assert_eq!((ended.status, ended.json()), (200, expected));
    refused(&daemon.ask(id, "extend", json!({ "seconds": 5 })), 400, "Cannot extend in state: terminated");
}

#[test]
fn a_terminated_session_ends_at_that_instant_and_keeps_what_was_left() {
    let daemon = ephemeral(&[]);
    daemon.set("x", simple());
    for pause in [false, true] {
        let id = daemon.begin("x", "anna");
        assert!(!pause || daemon.call(&id, "pause").status == 200);
        let begun = wall_ms() / 1000;
        let ended = daemon.call(&id, "terminate").json();
        assert_fields(&ended, "session_id state time_remaining_seconds time_limit_seconds");
        assert_eq!([&ended["state"], &ended["time_limit_seconds"]], [&json!("terminated"), &json!(3600)]);
        let session = daemon.session(&id);
        let at = instant_us(&session["completed_at"]) / 1_000_000;
        assert!((begun..=wall_ms() / 1000).contains(&at), "{session}");
        assert_eq!(session["time_remaining_seconds"], ended["time_remaining_seconds"]);
    }
}

// ---------------------------------------------------------------------------------------------------------------
// States.

/// What the table of the contract says to a call in a state: nothing when it is carried out.
fn refusal(state: &str, call: &str) -> Option<String> {
    let shown = if state == "late" { "expired" } else { state };
    match (state, call) {
        (_, "save") | ("in_progress", "answer" | "navigate" | "submit" | "pause" | "terminate" | "extend") => None,
        ("paused", "resume" | "terminate" | "extend") | ("late", "submit") => None,
        ("late" | "expired", "answer" | "navigate") => Some("Time expired".to_owned()),
        (_, "answer") => Some(format!("Cannot submit answer in state: {shown}")),
        (_, "navigate") => Some(format!("Cannot navigate in state: {shown}")),
        (_, "submit") => Some(format!("Cannot submit in state: {shown}")),
        (_, "extend") => Some(format!("Cannot extend in state: {shown}")),
        (_, "pause") => Some(format!("Cannot transition from {shown} to paused")),
        (_, "resume") => Some(format!("Cannot transition from {shown} to in_progress")),
        (_, "terminate") => Some(format!("Cannot transition from {shown} to terminated")),
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_call_in_every_state_does_what_the_table_says() {
    let daemon = fast(&[]);
    for state in STATES {
        for (call, body) in calls() {
            let id = daemon.session_in(state);
            let before = without_time(daemon.session(&id));
            let response = ask(&daemon, &id, call, &body);
            let what = format!("{call} in {state}: {}", response.text());
            let after = without_time(daemon.session(&id));
            match refusal(state, call) {
                Some(detail) => {
                    assert_eq!((response.status, response.text()), (400, &*json!({ "detail": detail }).to_string()));
                    assert_eq!(after, before, "{what}");
                }
                None => {
                    assert_eq!(response.status, 200, "{what}");
                    let expected = match call {
                        "submit" => json!("completed"),
                        "pause" => json!("paused"),
                        "resume" => json!("in_progress"),
                        "terminate" => json!("terminated"),
                        _ => before["state"].clone(),
                    };
                    assert_eq!(after["state"], expected, "{what}");
                }
            }
            let current = daemon.get(&format!("/delivery/session/{id}/current"));
            assert_eq!((current.status, &current.json()["state"]), (200, &after["state"]), "in every state");
        }
    }
}

#[test]
fn checks_come_in_order_body_then_session_then_state() {
    let daemon = fast(&[]);
    let ids = [daemon.session_in("in_progress"), daemon.session_in("expired"), NOBODY.to_owned(), "x".to_owned()];
    let long = "x".repeat(501);
    for id in &ids {
        let fault = |call: &str, body: Value, field: &str| daemon.ask(id, call, body).assert_fault(&["body", field]);
        for wrong in [json!(null), json!(5), json!(true), json!([])] {
            fault("answer", json!({ "item_id": wrong, "response": {} }), "item_id");
        }
        fault("answer", json!({ "response": {} }), "item_id");
        fault("answer", json!({ "item_id": "q1" }), "response");
        for wrong in [json!(null), json!(5), json!("x"), json!([]), json!([{}]), json!(true)] {
            fault("answer", json!({ "item_id": "q1", "response": wrong }), "response");
            fault("submit", json!({ "answers": [{ "item_id": "q1", "response": wrong }] }), "answers");
        }
        daemon.ask_text(id, "answer", r#"{"item_id":"\ud800","response":{}}"#).assert_fault(&["body", "item_id"]);
        for wrong in [json!(5), json!("maybe"), json!([])] {
            fault("answer", json!({ "item_id": "q1", "response": {}, "is_flagged": wrong }), "is_flagged");
        }
        for wrong in [json!(5), json!({}), json!("x"), json!([5]), json!([{}]), json!([{ "item_id": "q1" }])] {
            fault("submit", json!({ "answers": wrong }), "answers");
        }
        for wrong in [json!(null), json!(5), json!(["next"])] {
            fault("navigate", json!({ "direction": wrong }), "direction");
        }
        fault("navigate", json!({}), "direction");
        for wrong in [json!("x"), json!(1.5), json!([]), json!(true)] {
            fault("navigate", json!({ "direction": "specific", "target_index": wrong }), "target_index");
        }
        for wrong in [json!(null), json!(0), json!(7201), json!(-1), json!(1.5), json!(true), json!("x"), json!([])] {
            fault("extend", json!({ "seconds": wrong }), "seconds");
        }
        fault("extend", json!({}), "seconds");
        for wrong in [json!(5), json!(long), json!([])] {
            fault("extend", json!({ "seconds": 5, "reason": wrong }), "reason");
        }
        for call in ["answer", "navigate", "extend", "submit"] {
            for text in ["{", "[]", "5", "\"x\""] {
                let response = daemon.ask_text(id, call, text);
                assert_eq!(response.status, 422, "{call} {text}: {}", response.text());
            }
        }
        for call in ["answer", "navigate", "extend"] {
            assert_eq!(daemon.call(id, call).status, 422, "{call} without a body");
        }
        let plain = daemon.request(
            "POST",
            &format!("/delivery/session/{id}/answer"),
            &[("Content-Type", "text/plain")],
            Some(r#"{"item_id":"q1","response":{}}"#),
        );
        assert_eq!(plain.status, 415);
    }
    for id in &ids[2..] {
        for (call, body) in calls() {
            refused(&ask(&daemon, id, call, &body), 404, &format!("Session {id} not found"));
        }
        for path in ["", "/current"] {
            let response = daemon.get(&format!("/delivery/session/{id}{path}"));
            refused(&response, 404, &format!("Session {id} not found"));
        }
    }
    // What a body may hold at its bounds, and more than that: of a field that is given twice the last one counts.
    let open = &ids[0];
    let twice = r#"{"item_id":"none","response":5,"x":{"y":[1]},"item_id":"q3","response":{}}"#;
    let response = daemon.ask_text(open, "answer", twice);
    assert_eq!((response.status, &response.json()["item_id"]), (200, &json!("q3")), "{}", response.text());
    for reason in [json!(null), json!(""), json!("\u{1f600}".repeat(500))] {
        let response = daemon.ask(open, "extend", json!({ "seconds": 1, "reason": reason }));
        assert_eq!(response.status, 200, "{}", response.text());
    }
    assert_eq!(daemon.ask(open, "extend", json!({ "seconds": 7200.0 })).status, 200);
    assert_eq!(daemon.session(open)["time_limit_seconds"], 3600 + 3 + 7200);
    for body in [r#"{"answers":[]}"#, "{}"] {
        let id = daemon.session_in("in_progress");
        assert_eq!(daemon.ask_text(&id, "submit", body).status, 200, "{body}");
    }
    let id = daemon.session_in("in_progress");
    assert_eq!(daemon.ask_text(&id, "submit", "").status, 200, "an empty body is none");
}

#[test]
fn an_item_must_be_in_the_session_and_the_state_is_judged_before_it() {
    let daemon = fast(&[]);
    let open = daemon.session_in("in_progress");
    for id in ["q4", "Q1", "q1 ", "\u{e9}"] {
        refused(&daemon.answer(&open, id, json!({})), 400, &format!("Item {id} not in session"));
    }
    refused(
        &daemon.answer(&daemon.session_in("paused"), "q4", json!({})),
        400,
        "Cannot submit answer in state: paused",
    );
    refused(&daemon.answer(&daemon.session_in("late"), "q4", json!({})), 400, "Time expired");
    assert_eq!(daemon.session(&open)["responses"], json!({}));
}

// ---------------------------------------------------------------------------------------------------------------
// What holds for every path.

fn paths(exam: &str, id: &str) -> Vec<(String, Vec<&'static str>)> {
    let (read, post) = (vec!["GET", "HEAD", "OPTIONS"], vec!["POST", "OPTIONS"]);
    let mut paths = vec![
        ("/delivery/assessments".to_owned(), read.clone()),
        (format!("/delivery/assessments/{exam}"), vec!["GET", "HEAD", "PUT", "DELETE", "OPTIONS"]),
        (format!("/delivery/assessments/{exam}/sessions"), read.clone()),
        (format!("/delivery/assessments/{exam}/results"), read.clone()),
        ("/delivery/candidates/anna".to_owned(), vec!["GET", "HEAD", "PUT", "OPTIONS"]),
        (format!("/delivery/start/{exam}"), post.clone()),
        (format!("/delivery/session/{id}"), read.clone()),
        (format!("/delivery/session/{id}/current"), read.clone()),
        (format!("/delivery/ws/{id}"), read),
    ];
    for call in ["answer", "navigate", "save", "submit", "pause", "resume", "terminate", "extend"] {
        paths.push((format!("/delivery/session/{id}/{call}"), post.clone()));
    }
    for call in ["pause", "resume", "extend"] {
        paths.push((format!("/delivery/assessments/{exam}/{call}"), post.clone()));
    }
    paths
}

#[test]
fn a_wrong_method_is_405_with_every_right_one_and_every_answer_is_safe() {
    let daemon = ephemeral(&[]);
    daemon.set("x", simple());
    assert_eq!(daemon.put("/delivery/candidates/anna", json!({})).status, 201);
    let id = daemon.begin("x", "anna");
    let mut http = daemon.connect();
    for (path, methods) in paths("x", &id) {
        let listed: BTreeSet<&str> = methods.iter().copied().collect();
        for slash in ["", "/"] {
            let path = format!("{path}{slash}");
            let options = http.request("OPTIONS", &path, &[], None);
            assert_eq!((options.status, options.text()), (204, ""), "{path}");
            for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] {
                if !methods.contains(&method) {
                    let response = http.request(method, &path, &[], None);
                    assert_eq!(response.status, 405, "{method} {path}");
                    let allow = response.header("allow").unwrap();
                    assert_eq!(allow.split(", ").collect::<BTreeSet<_>>(), listed, "{path}");
                }
            }
            if methods.contains(&"GET") && !path.contains("/ws/") {
                let (get, head) = (daemon.get(&path), daemon.request("HEAD", &path, &[], None));
                assert_safe(&get);
                assert_eq!((get.status, head.status, head.text()), (200, 200, ""), "{path}");
                assert_eq!(get.header("content-type"), head.header("content-type"));
                assert_eq!(get.header("cache-control"), Some("no-store"), "{path}");
            }
        }
    }
    let preflight = [("Origin", "https://a.example"), ("Access-Control-Request-Method", "PUT")];
    let allowed = http.request("OPTIONS", "/delivery/assessments/x", &preflight, None);
    let methods = allowed.header("access-control-allow-methods").unwrap();
    assert!(methods.split(", ").any(|method| method == "PUT"), "{methods}");
    let plain = daemon.get(&format!("/delivery/ws/{id}"));
    assert_eq!((plain.status, plain.header("upgrade")), (426, Some("websocket")));
    for path in ["/delivery", "/delivery/x", "/delivery/session", "/delivery/session/x/y", "/delivery/start"] {
        refused(&daemon.get(path), 404, "Not Found");
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Requests that are repeated.

fn once(daemon: &Daemon, path: &str, key: &str, body: &Value) -> Response {
    daemon.request("POST", path, &[JSON, ("Idempotency-Key", key)], Some(&body.to_string()))
}

#[track_caller]
fn assert_replayed(first: &Response, again: &Response) {
    assert_eq!(again.header("idempotency-replayed"), Some("true"), "{again:?}");
    assert_eq!(first.header("idempotency-replayed"), None, "{first:?}");
    assert_eq!((first.status, first.text()), (200, again.text()));
    assert_eq!(again.status, 200);
}

#[test]
fn the_same_key_starts_answers_and_hands_in_once_and_gives_the_first_answer_after_a_crash_too() {
    let (_kept, path) = directory();
    let daemon = on(&path, &[]);
    daemon.set("x", with(simple(), json!({ "attempt_limit": 1 })));
    let body = json!({ "candidate_id": "anna", "test_taker_id": "t" });
    let start = "/delivery/start/x";
    let started = once(&daemon, start, "start", &body);
    assert_replayed(&started, &once(&daemon, start, "start", &body));
    once(&daemon, start, "start", &with(body.clone(), json!({ "candidate_id": "bert" })))
        .assert_fault(&["header", "idempotency-key"]);
    let id = started.json()["session_id"].as_str().unwrap().to_owned();
    let path_of = |call: &str| format!("/delivery/session/{id}/{call}");
    let (one, two) =
        (json!({ "item_id": "q1", "response": { "n": 1 } }), json!({ "item_id": "q1", "response": { "n": 2 } }));
    let first = once(&daemon, &path_of("answer"), "k1", &one);
    assert_eq!(once(&daemon, &path_of("answer"), "k2", &two).status, 200);
    assert_replayed(&first, &once(&daemon, &path_of("answer"), "k1", &one));
    assert_eq!(daemon.session(&id)["responses"]["q1"], json!({ "n": 2 }), "an old answer does not come back");
    let moved = once(&daemon, &path_of("navigate"), "n", &next());
    assert_replayed(&moved, &once(&daemon, &path_of("navigate"), "n", &next()));
    assert_eq!(daemon.current(&id)["current_item_index"], 1, "and nobody is moved twice");
    let extend = json!({ "seconds": 60 });
    let extended = once(&daemon, &path_of("extend"), "e", &extend);
    assert_replayed(&extended, &once(&daemon, &path_of("extend"), "e", &extend));
    let refusal = once(&daemon, &path_of("answer"), "later", &json!({ "item_id": "none", "response": {} }));
    refused(&refusal, 400, "Item none not in session");
    let again = once(&daemon, &path_of("answer"), "later", &json!({ "item_id": "none", "response": {} }));
    assert_eq!(again.header("idempotency-replayed"), None, "refusals are carried out again");
    let hand_in = json!({ "answers": [{ "item_id": "q3", "response": { "last": true } }] });
    let submitted = once(&daemon, &path_of("submit"), "end", &hand_in);
    assert_replayed(&submitted, &once(&daemon, &path_of("submit"), "end", &hand_in));
    daemon.kill();
    let daemon = on(&path, &[]);
    assert_replayed(&started, &once(&daemon, start, "start", &body));
    assert_replayed(&first, &once(&daemon, &path_of("answer"), "k1", &one));
    assert_replayed(&moved, &once(&daemon, &path_of("navigate"), "n", &next()));
    assert_replayed(&submitted, &once(&daemon, &path_of("submit"), "end", &hand_in));
    let session = daemon.session(&id);
    assert_eq!(session["responses"], json!({ "q1": { "n": 2 }, "q3": { "last": true } }));
    assert_eq!([&session["time_limit_seconds"], &session["state"]], [&json!(3660), &json!("completed")]);
}

#[test]
fn a_twin_of_a_start_that_is_being_written_waits_for_its_answer() {
    let (_kept, path) = directory();
    let daemon = on(&path, &[]);
    daemon.set("x", with(simple(), json!({ "attempt_limit": 1 })));
    let body = |who: &str| json!({ "candidate_id": who, "test_taker_id": "t" }).to_string();
    let start = |who: &str, headers: &[(&str, &str)]| {
        let headers = [&[JSON], headers].concat();
        request_bytes("POST", "/delivery/start/x", &headers, Some(&body(who)))
    };
    for round in 0..5 {
        let who = format!("with a key {round}");
        let mut http = daemon.connect();
        http.send(start(&who, &[("Idempotency-Key", &who)]).repeat(3));
        let [first, second, third] = [(); 3].map(|()| http.response());
        assert_replayed(&first, &second);
        assert_replayed(&first, &third);
        // Without a key the second is judged against the first, which is on its way.
        let who = format!("without {round}");
        http.send(start(&who, &[]).repeat(2));
        let [first, second] = [(); 2].map(|()| http.response());
        assert_eq!(first.status, 200, "{}", first.text());
        refused(&second, 409, &format!("Candidate {who} has an active session"));
        let delete = request_bytes("DELETE", "/delivery/assessments/x", &[], None);
        http.send([start(&format!("beside {round}"), &[]), delete].concat());
        assert_eq!([http.response().status, http.response().status], [200, 409], "he is in before it would be gone");
        // Answers leave in the order of the requests, and each sees those before it.
        let id = first.json()["session_id"].as_str().unwrap().to_owned();
        let post = |call: &str, body: Value| {
            let path = format!("/delivery/session/{id}/{call}");
            request_bytes("POST", &path, &[JSON], Some(&body.to_string()))
        };
        let answer = |n: u32| post("answer", json!({ "item_id": "q1", "response": { "n": n } }));
        let submit = post("submit", json!({}));
        let get = request_bytes("GET", &format!("/delivery/session/{id}"), &[], None);
        http.send([answer(1), post("navigate", next()), answer(2), submit, answer(3), get].concat());
        let statuses = [(); 5].map(|()| http.response().status);
        assert_eq!(statuses, [200, 200, 200, 200, 400]);
        // A reading behind them on the same connection sees what they did.
        let session = http.response().json();
        assert_eq!((&session["state"], &session["responses"]), (&json!("completed"), &json!({ "q1": { "n": 2 } })));
    }
}
