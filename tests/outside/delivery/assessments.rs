//! What is examined and who may sit it: assessments and candidates, their defaults and bounds, and who is let in.

use serde_json::{Value, json};

use super::{Delivery, JSON, assert_fields, ephemeral, fast, free, item, number, on, refused, section, simple, with};
use crate::daemon::{Daemon, directory, eventually};

const EXAM: &str = "/delivery/assessments/x";

/// The least that an assessment needs.
fn least() -> Value {
    json!({ "sections": [{ "section_id": "a", "items": [{ "item_id": "q", "content": {} }] }] })
}

/// The least, with other fields in its section.
fn section_with(more: Value) -> Value {
    let mut exam = least();
    exam["sections"][0] = with(exam["sections"][0].clone(), more);
    exam
}

/// The least, with other fields in its item.
fn item_with(more: Value) -> Value {
    let mut exam = least();
    exam["sections"][0]["items"][0] = with(exam["sections"][0]["items"][0].clone(), more);
    exam
}

fn without(mut value: Value, pointer: &str, field: &str) -> Value {
    value.pointer_mut(pointer).unwrap().as_object_mut().unwrap().remove(field);
    value
}

fn many(count: usize) -> Value {
    let ids: Vec<String> = (0..count).map(|n| format!("q{n}")).collect();
    free(&[section("a", &ids.iter().map(String::as_str).collect::<Vec<_>>())])
}

#[test]
fn an_assessment_is_answered_whole_with_its_defaults_and_read_back_listed_replaced_and_deleted() {
    let daemon = ephemeral(&[]);
    refused(&daemon.get(EXAM), 404, "Assessment x not found");
    assert_eq!(daemon.get("/delivery/assessments").json(), json!([]));
    let made = daemon.put(EXAM, least());
    let mut whole = json!({
        "assessment_id": "x", "title": "x", "time_limit_seconds": null, "attempt_limit": null,
        "navigation_mode": "LINEAR", "grace_seconds": 10,
        "sections": [{
            "section_id": "a", "name": "a", "time_limit_seconds": null, "selection_mode": "FIXED",
            "items_to_select": 0, "order_mode": "SEQUENTIAL",
            "items": [{ "item_id": "q", "content": {}, "metadata": {} }],
        }],
    });
    assert_eq!((made.status, made.json()), (201, whole.clone()));
    for path in [EXAM, "/delivery/assessments/x/"] {
        let read = daemon.get(path);
        assert_eq!((read.status, read.text()), (200, made.text()));
        assert_eq!(read.header("cache-control"), Some("no-store"));
    }
    // As in the contract, with every field given.
    let full = json!({
        "assessment_id": "math 101/ü", "title": "", "time_limit_seconds": 86400, "attempt_limit": 1000,
        "navigation_mode": "HYBRID", "grace_seconds": 3600,
        "sections": [
            {
                "section_id": "b", "name": "Part B", "time_limit_seconds": 86400, "selection_mode": "RANDOM",
                "items_to_select": 1, "order_mode": "SHUFFLE_SECTIONS",
                "items": [item("b1"), item("b2")],
            },
            {
                "section_id": "a", "name": "", "time_limit_seconds": 1, "selection_mode": "RANDOM",
                "items_to_select": 0, "order_mode": "RANDOM", "items": [item("a1")],
            },
        ],
    });
    let path = "/delivery/assessments/math%20101%2F%C3%BC";
    let made = daemon.put(path, with(full.clone(), json!({ "unknown": { "fields": ["are", "ignored"] } })));
    assert_eq!((made.status, made.json()), (201, full.clone()));
    assert_eq!(daemon.get(path).json(), full);
    let listed = daemon.get("/delivery/assessments").json();
    let summary = json!({
        "assessment_id": "math 101/ü", "title": "", "time_limit_seconds": 86400, "attempt_limit": 1000,
        "navigation_mode": "HYBRID", "grace_seconds": 3600, "total_sections": 2, "total_items": 3,
    });
    let other = json!({
        "assessment_id": "x", "title": "x", "time_limit_seconds": null, "attempt_limit": null,
        "navigation_mode": "LINEAR", "grace_seconds": 10, "total_sections": 1, "total_items": 1,
    });
    assert_eq!(listed, json!([summary, other]), "in the order of their ids");

    let replaced = daemon.put(EXAM, with(least(), json!({ "title": "Y", "assessment_id": "x" })));
    whole["title"] = json!("Y");
    assert_eq!((replaced.status, replaced.json()), (200, whole.clone()));
    assert_eq!(daemon.get(EXAM).json(), whole);
    assert_eq!((daemon.delete(EXAM).status, daemon.delete(EXAM).status), (204, 404));
    refused(&daemon.get(EXAM), 404, "Assessment x not found");
    refused(&daemon.try_start("x", "anna"), 404, "Assessment x not found");
    assert_eq!(daemon.put(EXAM, least()).status, 201, "it is a new one");
}

#[test]
fn every_field_of_an_assessment_has_its_bounds_and_a_fault_changes_nothing() {
    let daemon = ephemeral(&[]);
    let wide = "\u{1f600}".repeat(200);
    let longer = "\u{e9}".repeat(201);
    let good = [
        least(),
        with(least(), json!({ "title": wide, "time_limit_seconds": 1, "attempt_limit": 1, "grace_seconds": 0 })),
        with(least(), json!({ "time_limit_seconds": 60.0, "attempt_limit": "2", "grace_seconds": "10" })),
        section_with(json!({ "section_id": wide, "name": wide, "time_limit_seconds": null })),
        section_with(json!({ "selection_mode": "RANDOM", "items_to_select": 1 })),
        item_with(json!({ "item_id": wide, "metadata": { "a": [null] } })),
        many(500),
    ];
    for body in &good {
        let response = daemon.put(EXAM, body.clone());
        assert!(matches!(response.status, 200 | 201), "{body}: {}", response.text());
    }
    daemon.set("x", least());

    let mut bad: Vec<(&str, Value)> = vec![
        ("assessment_id", with(least(), json!({ "assessment_id": "y" }))),
        ("assessment_id", with(least(), json!({ "assessment_id": 5 }))),
        ("sections", json!({})),
        ("sections", with(least(), json!({ "sections": [section("a", &["q"]), section("a", &["r"])] }))),
        ("sections", with(least(), json!({ "sections": [section("a", &["q"]), section("b", &["q"])] }))),
        ("sections", with(least(), json!({ "sections": [section("a", &["q", "q"])] }))),
        ("sections", with(least(), json!({ "sections": [section("a", &[])] }))),
        ("sections", many(501)),
        ("sections", section_with(json!({ "selection_mode": "RANDOM", "items_to_select": 2 }))),
        ("sections", without(least(), "/sections/0", "section_id")),
        ("sections", without(least(), "/sections/0", "items")),
        ("sections", without(least(), "/sections/0/items/0", "item_id")),
        ("sections", without(least(), "/sections/0/items/0", "content")),
    ];
    let mut each = |field: &'static str, values: &[Value], make: &dyn Fn(Value) -> Value| {
        bad.extend(values.iter().map(|value| (field, make(value.clone()))));
    };
    let out_of = |least: i64, most: i64| {
        [least - 1, most + 1].map(|n| json!(n)).into_iter().chain([json!(1.5), json!(true), json!("x"), json!([])])
    };
    let limits: Vec<Value> = out_of(1, 86_400).collect();
    each("title", &[json!(5), json!(longer), json!([]), json!({})], &|v| with(least(), json!({ "title": v })));
    each("time_limit_seconds", &limits, &|v| with(least(), json!({ "time_limit_seconds": v })));
    each("attempt_limit", &out_of(1, 1000).collect::<Vec<_>>(), &|v| with(least(), json!({ "attempt_limit": v })));
    each("grace_seconds", &out_of(0, 3600).collect::<Vec<_>>(), &|v| with(least(), json!({ "grace_seconds": v })));
    each("navigation_mode", &[json!("linear"), json!(""), json!("FREE"), json!(1)], &|v| {
        with(least(), json!({ "navigation_mode": v }))
    });
    each("sections", &[json!(null), json!([]), json!({}), json!("a"), json!([5]), json!([{}])], &|v| {
        with(least(), json!({ "sections": v }))
    });
    let ids = [json!(""), json!(longer), json!("a\u{7}"), json!("a\n"), json!(5), json!(null)];
    each("sections", &ids, &|v| section_with(json!({ "section_id": v })));
    each("sections", &ids, &|v| item_with(json!({ "item_id": v })));
    each("sections", &[json!(5), json!(longer)], &|v| section_with(json!({ "name": v })));
    each("sections", &limits, &|v| section_with(json!({ "time_limit_seconds": v })));
    each("sections", &[json!("FIX"), json!("random"), json!(1)], &|v| section_with(json!({ "selection_mode": v })));
    each("sections", &[json!("SHUFFLE"), json!("random"), json!(1)], &|v| section_with(json!({ "order_mode": v })));
    each("sections", &[json!(-1), json!(501), json!(0.5), json!(true)], &|v| {
        section_with(json!({ "selection_mode": "RANDOM", "items_to_select": v }))
    });
    each("sections", &[json!([]), json!("x"), json!(5), json!(null)], &|v| item_with(json!({ "content": v })));
    each("sections", &[json!([]), json!("x"), json!(5)], &|v| item_with(json!({ "metadata": v })));
    for (field, body) in &bad {
        let response = daemon.put(EXAM, body.clone());
        let shown = body.to_string();
        assert_eq!(response.status, 422, "{}: {}", &shown[..shown.len().min(200)], response.text());
        response.assert_fault(&["body", field]);
    }
    for body in
        [section_with(json!({ "selection_mode": "ADAPTIVE" })), section_with(json!({ "order_mode": "ADAPTIVE" }))]
    {
        let response = daemon.put(EXAM, body);
        response.assert_fault(&["body", "sections"]);
        assert!(response.text().contains("not supported"), "{}", response.text());
    }
    for text in ["", "{", "null", "[]", "5", r#"{"sections":NaN}"#] {
        assert_eq!(daemon.request("PUT", EXAM, &[JSON], Some(text)).status, 422, "{text}");
    }
    assert_eq!(daemon.request("PUT", EXAM, &[("Content-Type", "text/plain")], Some("{}")).status, 415);
    for id in ["%07", "a%0Ab", &"y".repeat(201)] {
        let response = daemon.put(&format!("/delivery/assessments/{id}"), least());
        assert_eq!(response.status, 422, "{id}: {}", response.text());
    }
    let one = daemon.get("/delivery/assessments").json();
    assert_eq!(one.as_array().unwrap().len(), 1, "{one}");
    assert_eq!(one[0]["total_items"], 1, "a fault changes nothing");
    assert_eq!(daemon.put(&format!("/delivery/assessments/{}", "y".repeat(200)), least()).status, 201);
}

#[test]
fn an_assessment_has_one_mebibyte_and_its_content_is_kept_to_the_letter_and_shown_on_both_ways() {
    let daemon = ephemeral(&[]);
    let head = r#"{"navigation_mode":"NON_LINEAR","sections":[{"section_id":"a","items":[{"item_id":"q","content":"#;
    let kept = r#"{"z":1,"a":1000000000000000000000000000000,"m":1.10,"e":[1E5,-0],"é":"\u00e9 <b>"}"#;
    let spaced = kept.replace(',', " ,\n ").replace(':', ": ");
    let exam = format!(r#"{head}{spaced},"metadata":{{"b":2,"a":1e2}}}}]}}]}}"#);
    let made = daemon.request("PUT", EXAM, &[JSON], Some(&exam));
    assert_eq!(made.status, 201, "{}", made.text());
    let whole = format!(r#"{{"item_id":"q","content":{kept},"metadata":{{"b":2,"a":1e2}}}}"#);
    let started = daemon.try_start("x", "anna");
    let id = started.json()["session_id"].as_str().unwrap().to_owned();
    for text in [made.text(), daemon.get(EXAM).text(), started.text()] {
        assert!(text.contains(&whole), "{text}");
    }
    assert!(daemon.get(&format!("/delivery/session/{id}/current")).text().contains(&whole));
    for content in [r#"{"n":1e400}"#, r#"{"n":"\ud800"}"#, r#"{"n":01}"#] {
        let exam = format!("{head}{content}}}]}}]}}");
        assert_eq!(daemon.request("PUT", EXAM, &[JSON], Some(&exam)).status, 422, "{content}");
    }

    let tail = r#""}}]}]}"#;
    let begun = format!(r#"{head}{{"text":""#);
    let exactly = |bytes: usize| format!("{begun}{}{tail}", "x".repeat(bytes - begun.len() - tail.len()));
    assert_eq!(daemon.request("PUT", EXAM, &[JSON], Some(&exactly((1 << 20) + 1))).status, 413);
    assert_eq!(daemon.request("PUT", EXAM, &[JSON], Some(&exactly(1 << 20))).status, 200);
    // The largest item there can be is one that a candidate can see, on REST and on the socket.
    let started = daemon.start("x", "bert");
    let large = started["item"]["content"]["text"].as_str().unwrap();
    assert!(large.len() > (1 << 20) - 200);
    let id = started["session_id"].as_str().unwrap();
    let (mut socket, _, current) = daemon.attend(id);
    assert_eq!(current["item"], started["item"]);
    socket.send(json!({ "type": "get_current" }));
    assert_eq!(socket.expect("current_item")["item"], started["item"]);
}

#[test]
fn there_is_room_for_a_thousand_assessments_and_not_for_one_more() {
    let daemon = ephemeral(&[]);
    let mut http = daemon.connect();
    let body = least().to_string();
    let mut put = |n: usize| http.request("PUT", &format!("/delivery/assessments/x{n}"), &[JSON], Some(&body));
    for n in 0..1000 {
        assert_eq!(put(n).status, 201);
    }
    refused(&put(1000), 429, "Maximum assessment limit reached");
    assert_eq!(put(999).status, 200, "one that is there can be replaced");
    assert_eq!(daemon.get("/delivery/assessments").json().as_array().unwrap().len(), 1000);
    assert_eq!(daemon.delete("/delivery/assessments/x7").status, 204);
    assert_eq!(put(1000).status, 201);
}

#[test]
fn an_assessment_is_not_deleted_under_its_candidates() {
    let daemon = fast(&[]);
    daemon.set("x", with(simple(), json!({ "time_limit_seconds": 8, "grace_seconds": 0 })));
    let [running, paused] = ["anna", "bert"].map(|who| daemon.begin("x", who));
    assert_eq!(daemon.call(&paused, "pause").status, 200);
    refused(&daemon.delete(EXAM), 409, "Assessment x has active sessions");
    eventually(|| daemon.state(&running) == "expired");
    refused(&daemon.delete(EXAM), 409, "Assessment x has active sessions");
    assert_eq!(daemon.call(&paused, "terminate").status, 200);
    assert_eq!(daemon.delete(EXAM).status, 204);
    assert_eq!(daemon.session(&running)["title"], "x", "its sessions are still there");
    refused(&daemon.delete(EXAM), 404, "Assessment x not found");
}

#[test]
fn a_session_keeps_the_assessment_as_it_was_when_it_started() {
    let daemon = ephemeral(&[]);
    daemon.set("x", with(simple(), json!({ "title": "Old" })));
    let old = daemon.begin("x", "anna");
    let before = daemon.session(&old);
    let other = with(free(&[section("z", &["z1"])]), json!({ "title": "New", "time_limit_seconds": 5 }));
    daemon.set("x", other);
    assert_eq!(
        daemon.session(&old),
        with(
            before.clone(),
            json!({
                "time_remaining_seconds": daemon.session(&old)["time_remaining_seconds"],
            })
        )
    );
    assert_eq!((&before["title"], &before["time_limit_seconds"]), (&json!("Old"), &json!(3600)));
    assert_eq!(daemon.go(&old, next_two()), 2);
    assert_eq!(daemon.answer(&old, "q3", json!({})).status, 200);
    refused(&daemon.answer(&old, "z1", json!({})), 400, "Item z1 not in session");
    let new = daemon.start("x", "bert");
    assert_eq!((&new["title"], &new["total_items"], &new["item"]), (&json!("New"), &json!(1), &item("z1")));
}

fn next_two() -> Value {
    super::to(2)
}

// ---------------------------------------------------------------------------------------------------------------
// Candidates.

#[test]
fn a_candidate_is_kept_with_a_factor_that_has_its_bounds() {
    let daemon = ephemeral(&[]);
    let path = "/delivery/candidates/J%C3%BCrgen%20M.";
    refused(&daemon.get(path), 404, "Candidate Jürgen M. not found");
    let least = json!({ "candidate_id": "Jürgen M.", "name": "", "is_active": true, "accommodations": {} });
    let made = daemon.put(path, json!({}));
    assert_eq!((made.status, made.json()), (201, least.clone()));
    let full = json!({ "name": "J. M.", "is_active": false, "accommodations": { "EXTRA_TIME": 1.5 } });
    let replaced = daemon.put(path, full.clone());
    let whole = with(full, json!({ "candidate_id": "Jürgen M." }));
    assert_eq!((replaced.status, replaced.json()), (200, whole.clone()));
    assert_eq!(daemon.get(path).json(), whole);
    for (factor, kept) in [(json!(1), json!({})), (json!(1.0), json!({})), (json!(4), json!({ "EXTRA_TIME": 4.0 }))] {
        let made = daemon.put(path, json!({ "accommodations": { "EXTRA_TIME": factor } }));
        let have = made.json()["accommodations"].clone();
        let same = have.as_object().unwrap().len() == kept.as_object().unwrap().len()
            && have["EXTRA_TIME"].as_f64() == kept["EXTRA_TIME"].as_f64();
        assert!(made.status == 200 && same, "{factor}: {}", made.text());
    }
    let before = daemon.get(path).json();
    for (field, body) in [
        ("name", json!({ "name": 5 })),
        ("name", json!({ "name": "x".repeat(201) })),
        ("is_active", json!({ "is_active": 5 })),
        ("is_active", json!({ "is_active": "maybe" })),
        ("accommodations", json!({ "accommodations": [] })),
        ("accommodations", json!({ "accommodations": { "EXTRA_TIME": 0.99 } })),
        ("accommodations", json!({ "accommodations": { "EXTRA_TIME": 4.01 } })),
        ("accommodations", json!({ "accommodations": { "EXTRA_TIME": -1 } })),
        ("accommodations", json!({ "accommodations": { "EXTRA_TIME": true } })),
        ("accommodations", json!({ "accommodations": { "EXTRA_TIME": "x" } })),
    ] {
        daemon.put(path, body).assert_fault(&["body", field]);
    }
    assert_eq!(daemon.get(path).json(), before);
    assert_eq!(daemon.put(&format!("/delivery/candidates/{}", "y".repeat(201)), json!({})).status, 422);
}

#[test]
fn who_is_inactive_is_not_let_in_and_who_is_unknown_only_if_that_is_allowed() {
    let daemon = ephemeral(&[]);
    daemon.set("x", simple());
    assert_eq!(daemon.try_start("x", "stranger").status, 200);
    assert_eq!(daemon.put("/delivery/candidates/anna", json!({ "is_active": false })).status, 201);
    refused(&daemon.try_start("x", "anna"), 400, "Candidate anna is not active");
    assert_eq!(daemon.put("/delivery/candidates/anna", json!({ "is_active": true })).status, 200);
    let id = daemon.begin("x", "anna");
    assert_eq!(daemon.put("/delivery/candidates/anna", json!({ "is_active": false })).status, 200);
    assert_eq!(daemon.answer(&id, "q1", json!({})).status, 200, "whoever is in stays in");

    let daemon = ephemeral(&["--known-candidates-only"]);
    daemon.set("x", simple());
    refused(&daemon.try_start("x", "stranger"), 400, "Candidate stranger is not known");
    assert_eq!(daemon.put("/delivery/candidates/stranger", json!({})).status, 201);
    assert_eq!(daemon.try_start("x", "stranger").status, 200);
}

#[test]
fn a_start_checks_body_then_assessment_then_candidate() {
    let daemon = ephemeral(&["--known-candidates-only"]);
    daemon.set("x", simple());
    let long = "\u{1f600}".repeat(200);
    assert_eq!(daemon.put("/delivery/candidates/anna", json!({ "is_active": false })).status, 201);
    for exam in ["x", "none"] {
        let start = |body: Value| daemon.post(&format!("/delivery/start/{exam}"), body);
        for value in [json!(null), json!(""), json!(5), json!([]), json!(true), json!(format!("{long}x"))] {
            start(json!({ "candidate_id": value, "test_taker_id": "t" })).assert_fault(&["body", "candidate_id"]);
            start(json!({ "candidate_id": "anna", "test_taker_id": value })).assert_fault(&["body", "test_taker_id"]);
        }
        let empty = start(json!({}));
        empty.assert_fault(&["body", "candidate_id"]);
        empty.assert_fault(&["body", "test_taker_id"]);
        assert_eq!(daemon.request("POST", &format!("/delivery/start/{exam}"), &[JSON], Some("{")).status, 422);
    }
    refused(&daemon.try_start("none", "anna"), 404, "Assessment none not found");
    refused(&daemon.try_start("none", "stranger"), 404, "Assessment none not found");
    refused(&daemon.try_start("x", "anna"), 400, "Candidate anna is not active");
    let open = ephemeral(&[]);
    open.set("x", simple());
    let longest = json!({ "candidate_id": long, "test_taker_id": long });
    assert_eq!(open.post("/delivery/start/x", longest).status, 200);
}

#[test]
fn attempts_are_counted_whatever_their_end_and_an_active_one_is_named_first() {
    let daemon = fast(&[]);
    let limited = |attempts: Value, limit: u32| {
        with(simple(), json!({ "attempt_limit": attempts, "time_limit_seconds": limit, "grace_seconds": 3600 }))
    };
    // With no limit of attempts there may be several at a time.
    daemon.set("x", limited(json!(null), 3600));
    let first = daemon.begin("x", "anna");
    let second = daemon.begin("x", "anna");
    assert_ne!(first, second);
    assert_eq!(daemon.call(&first, "submit").status, 200);
    // One is active, one is finished: the active one is named.
    daemon.set("x", limited(json!(1), 3600));
    refused(&daemon.try_start("x", "anna"), 409, "Candidate anna has an active session");
    assert_eq!(daemon.call(&second, "pause").status, 200);
    refused(&daemon.try_start("x", "anna"), 409, "Candidate anna has an active session");
    assert_eq!(daemon.call(&second, "terminate").status, 200);
    refused(&daemon.try_start("x", "anna"), 400, "Attempt limit reached");
    daemon.set("x", limited(json!(3), 3600));
    let third = daemon.begin("x", "anna");
    refused(&daemon.try_start("x", "anna"), 409, "Candidate anna has an active session");
    assert_eq!(daemon.call(&third, "submit").status, 200);
    refused(&daemon.try_start("x", "anna"), 400, "Attempt limit reached");
    // Others, and other assessments, have their own.
    daemon.set("y", limited(json!(1), 1));
    let bert = daemon.begin("y", "bert");
    assert_eq!(daemon.try_start("x", "bert").status, 200);
    eventually(|| daemon.state(&bert) == "expired");
    refused(&daemon.try_start("y", "bert"), 400, "Attempt limit reached");
    for end in ["submit", "terminate"] {
        daemon.set("z", limited(json!(1), 3600));
        let id = daemon.begin("z", end);
        assert_eq!(daemon.call(&id, end).status, 200);
        refused(&daemon.try_start("z", end), 400, "Attempt limit reached");
    }
}

#[test]
fn the_limit_of_sessions_is_exact() {
    let daemon = ephemeral(&["--max-sessions", "3"]);
    daemon.set("x", simple());
    for who in ["a", "b", "c"] {
        daemon.begin("x", who);
    }
    refused(&daemon.try_start("x", "d"), 429, "Maximum session limit reached");
    for value in ["0", "200001", "x"] {
        match Daemon::try_start(&["--ephemeral", "--max-sessions", value], &[]) {
            Ok(_) => panic!("{value} is accepted"),
            Err((status, said)) => {
                assert_eq!(status.code(), Some(2), "{said}");
                assert!(said.lines().count() == 1 && said.contains("--max-sessions"), "{said}");
            }
        }
    }
}

#[test]
fn assessments_candidates_and_attempts_are_there_after_a_crash() {
    let (_kept, path) = directory();
    let daemon = on(&path, &[]);
    daemon.set("x", with(simple(), json!({ "attempt_limit": 2, "title": "Exam" })));
    daemon.set("gone", simple());
    assert_eq!(daemon.delete("/delivery/assessments/gone").status, 204);
    assert_eq!(daemon.put("/delivery/candidates/bert", json!({ "is_active": false })).status, 201);
    let body = json!({ "accommodations": { "EXTRA_TIME": 1.25 } });
    assert_eq!(daemon.put("/delivery/candidates/anna", body).status, 201);
    let first = daemon.begin("x", "anna");
    assert_eq!(daemon.call(&first, "terminate").status, 200);
    let second = daemon.start("x", "anna");
    assert_eq!(second["time_limit_seconds"], 4500);
    let paths = ["/delivery/assessments", "/delivery/assessments/x", "/delivery/candidates/anna"];
    let before = paths.map(|path| daemon.get(path).text().to_owned());
    daemon.kill();
    let daemon = on(&path, &[]);
    assert_eq!(paths.map(|path| daemon.get(path).text().to_owned()), before);
    assert_eq!(daemon.get("/delivery/assessments/gone").status, 404);
    refused(&daemon.try_start("x", "bert"), 400, "Candidate bert is not active");
    refused(&daemon.try_start("x", "anna"), 409, "Candidate anna has an active session");
    let second = second["session_id"].as_str().unwrap();
    assert_eq!(daemon.session(second)["time_limit_seconds"], 4500);
    assert_eq!(daemon.call(second, "submit").status, 200);
    refused(&daemon.try_start("x", "anna"), 400, "Attempt limit reached");
}

#[test]
fn sessions_that_have_ended_leave_after_a_time_and_still_count_as_attempts() {
    let daemon = ephemeral(&["--keep-finished", "1s"]);
    daemon.set("x", with(simple(), json!({ "attempt_limit": 1 })));
    let id = daemon.begin("x", "anna");
    assert_eq!(daemon.answer(&id, "q1", json!({ "a": 1 })).status, 200);
    assert_eq!(daemon.call(&id, "submit").status, 200);
    eventually(|| daemon.get(&format!("/delivery/session/{id}")).status == 404);
    for call in ["submit", "pause", "save"] {
        refused(&daemon.call(&id, call), 404, &format!("Session {id} not found"));
    }
    let (code, reason, _) = daemon.open(&format!("/delivery/ws/{id}"), &[]).expect_close();
    assert_eq!((code, &*reason), (4004, "Session not found"));
    let results = daemon.get("/delivery/assessments/x/results");
    let line: Value = serde_json::from_str(results.text().trim_end()).unwrap();
    assert_eq!((&line["session_id"], &line["responses"]), (&json!(id), &json!({ "q1": { "a": 1 } })));
    assert_fields(
        &line,
        "session_id assessment_id candidate_id test_taker_id state started_at completed_at late_ms \
         time_limit_seconds responses flagged_items",
    );
    refused(&daemon.try_start("x", "anna"), 400, "Attempt limit reached");
    assert_eq!(number(&daemon.start("x", "bert")["total_items"]), 3);
}
