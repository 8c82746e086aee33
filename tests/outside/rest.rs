//! The REST side of the contract, seen from outside: each row with each of its answers, each cell of the state table
//! for single and bulk calls, the order of checks, the bounds of every field, history, repeated and conditional
//! requests, scheduled starts, and what every answer carries.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::daemon::{Daemon, Http, Response, assert_safe, directory, eventually, request_bytes};
use serde_json::{Value, json};

const STATES: [&str; 5] = ["created", "running", "paused", "completed", "expired"];
const ACTIONS: [&str; 5] = ["start", "pause", "resume", "extend", "stop"];
const JSON: (&str, &str) = ("Content-Type", "application/json");

/// The table of the contract: the state that an action leads to.
fn after(state: &str, action: &str) -> Option<&'static str> {
    match (state, action) {
        ("created" | "paused", "start") | ("paused", "resume") => Some("running"),
        ("running", "pause") => Some("paused"),
        ("created", "extend") => Some("created"),
        ("running", "extend") => Some("running"),
        ("paused", "extend") => Some("paused"),
        ("created" | "running" | "paused", "stop") => Some("completed"),
        _ => None,
    }
}

fn valid_actions(state: &str) -> &'static str {
    match state {
        "created" => "start, extend, stop",
        "running" => "pause, extend, stop",
        "paused" => "resume, extend, stop",
        _ => "",
    }
}

/// So many timers in `state`, in order of creation: a minute long, but for expired ones.
fn timers_in(daemon: &Daemon, state: &str, count: usize) -> Vec<String> {
    let duration = if state == "expired" { 1 } else { 60 };
    let ids: Vec<String> = (0..count).map(|_| daemon.create(json!({ "duration_seconds": duration }))).collect();
    let steps: &[&str] = match state {
        "created" => &[],
        "running" | "expired" => &["start"],
        "paused" => &["start", "pause"],
        _ => &["stop"],
    };
    for step in steps {
        let done = daemon.post(&format!("/timers/bulk/{step}"), json!(ids)).json();
        assert!(done.as_array().unwrap().iter().all(|line| line["success"] == true), "{done}");
    }
    eventually(|| ids.iter().all(|id| daemon.timer(id)["state"] == state));
    ids
}

fn control_with(daemon: &Daemon, id: &str, action: &str) -> Response {
    let body =
        if action == "extend" { json!({"action": action, "extend_seconds": 7}) } else { json!({"action": action}) };
    daemon.post(&format!("/timers/{id}/control"), body)
}

fn history(daemon: &Daemon, id: &str) -> Vec<Value> {
    let response = daemon.get(&format!("/timers/{id}/history"));
    assert_eq!(response.status, 200, "{}", response.text());
    response.json().as_array().unwrap().clone()
}

fn actions_of(history: &[Value]) -> Vec<&str> {
    history.iter().map(|line| line["action"].as_str().unwrap()).collect()
}

fn wall_ms() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

fn rfc_3339(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).unwrap().to_string()
}

/// The instant that a field names.
fn instant_ms(value: &Value) -> i64 {
    value.as_str().unwrap_or_else(|| panic!("no time: {value}")).parse::<jiff::Timestamp>().unwrap().as_millisecond()
}

/// `2025-01-15T10:00:00Z`, or with milliseconds.
fn assert_time(value: &Value, with_ms: bool) {
    let text = value.as_str().unwrap_or_else(|| panic!("no time: {value}"));
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(shape, if with_ms { "0000-00-00T00:00:00.000Z" } else { "0000-00-00T00:00:00Z" }, "{text}");
}

fn keys_of(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

/// An object of the contract, whatever its state: its fields, their types, and what must hold between them.
#[track_caller]
fn assert_timer_object(timer: &Value) {
    let fields = [
        "id",
        "name",
        "state",
        "duration_seconds",
        "remaining_seconds",
        "elapsed_seconds",
        "warning_thresholds",
        "connected_clients",
        "created_at",
        "started_at",
        "completed_at",
        "remaining_ms",
        "ends_at",
        "start_at",
        "revision",
    ];
    assert_eq!(keys_of(timer), fields, "the order of the contract");
    assert!(timer["id"].as_str().unwrap().starts_with("timer_"), "{timer}");
    assert_time(&timer["created_at"], false);
    let number = |name: &str| timer[name].as_u64().unwrap_or_else(|| panic!("{name} in {timer}"));
    let (remaining_ms, remaining) = (number("remaining_ms"), number("remaining_seconds"));
    assert_eq!(remaining, remaining_ms.div_ceil(1000), "{timer}");
    assert_eq!(number("elapsed_seconds"), number("duration_seconds") - remaining, "{timer}");
    assert!(number("revision") >= 1);
    let state = timer["state"].as_str().unwrap();
    assert!(STATES.contains(&state));
    for (field, with_ms, is_there) in [
        ("ends_at", true, Some(state == "running")),
        ("completed_at", false, Some(matches!(state, "completed" | "expired"))),
        (
            "started_at",
            false,
            match state {
                "created" => Some(false),
                "completed" => None,
                _ => Some(true),
            },
        ),
    ] {
        assert!(is_there.is_none_or(|is_there| timer[field].is_string() == is_there), "{field} in {timer}");
        if timer[field].is_string() {
            assert_time(&timer[field], with_ms);
        } else {
            assert!(timer[field].is_null(), "{field} in {timer}");
        }
    }
    if state == "expired" {
        assert_eq!(remaining_ms, 0, "{timer}");
    }
}

// ---------------------------------------------------------------------------------------------------------------
// The object, creation, lists.

#[test]
fn a_timer_is_created_with_defaults_and_an_address() {
    let daemon = Daemon::ephemeral(&[]);
    let begun = wall_ms();
    let response = daemon.post("/timers", json!({ "duration_seconds": 300 }));
    assert_eq!(response.status, 201);
    assert_eq!(response.header("content-type"), Some("application/json"));
    let timer = response.json();
    assert_timer_object(&timer);
    let id = timer["id"].as_str().unwrap();
    assert_eq!(response.header("location"), Some(&*format!("/timers/{id}")));
    assert_eq!(response.header("etag"), Some("\"1\""));
    assert!((begun / 1000 * 1000..=wall_ms()).contains(&instant_ms(&timer["created_at"])));
    let mut expected = json!({
        "id": id, "name": "Timer", "state": "created", "duration_seconds": 300, "remaining_seconds": 300,
        "elapsed_seconds": 0, "warning_thresholds": [300, 60, 30], "connected_clients": 0,
        "created_at": timer["created_at"], "started_at": null, "completed_at": null, "remaining_ms": 300_000,
        "ends_at": null, "start_at": null, "revision": 1,
    });
    assert_eq!(timer, expected);
    assert_eq!(daemon.timer(id), expected);
    assert_eq!(daemon.get("/timers").json(), json!([expected]));

    let full = json!({
        "duration_seconds": 86_400, "name": "Prüfung \u{1f600}", "warning_thresholds": [30, 60, 30, 86_400],
        "auto_start": false, "start_at": null, "unknown": {"fields": ["are", "ignored"]},
    });
    let other = daemon.post("/timers", full).json();
    expected["id"] = other["id"].clone();
    expected["created_at"] = other["created_at"].clone();
    for field in ["duration_seconds", "remaining_seconds"] {
        expected[field] = json!(86_400);
    }
    expected["remaining_ms"] = json!(86_400_000);
    expected["name"] = json!("Prüfung \u{1f600}");
    expected["warning_thresholds"] = json!([30, 60, 86_400]);
    assert_eq!(other, expected);

    let none = daemon.post("/timers", json!({ "duration_seconds": 1, "warning_thresholds": [] })).json();
    assert_eq!(none["warning_thresholds"], json!([]), "an empty list means none");

    let begun = wall_ms();
    let auto = daemon.post("/timers", json!({ "duration_seconds": 60, "auto_start": true })).json();
    assert_timer_object(&auto);
    assert_eq!((&auto["state"], &auto["remaining_seconds"]), (&json!("running"), &json!(60)));
    assert!((begun + 60_000..=wall_ms() + 60_000).contains(&instant_ms(&auto["ends_at"])), "{auto}");
}

#[test]
fn a_list_is_in_order_of_creation_and_can_be_filtered_by_state() {
    let daemon = Daemon::ephemeral(&[]);
    assert_eq!(daemon.get("/timers").json(), json!([]));
    let mut made: Vec<(String, &str)> = Vec::new();
    for state in ["expired", "created", "completed", "running", "paused", "created"] {
        made.push((daemon.timer_in(state), state));
    }
    let listed = |query: &str| {
        let list = daemon.get(&format!("/timers{query}")).json();
        list.as_array().unwrap().iter().for_each(assert_timer_object);
        list.as_array().unwrap().iter().map(|t| t["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let wanted = |state: Option<&str>| {
        let of = made.iter().filter(|(_, its)| state.is_none_or(|state| state == *its));
        of.map(|(id, _)| id.clone()).collect::<Vec<_>>()
    };
    assert_eq!(listed(""), wanted(None));
    for state in STATES {
        assert_eq!(listed(&format!("?state={state}")), wanted(Some(state)));
    }
    assert_eq!(listed("?other=1"), wanted(None));
    assert_eq!(listed("?state=running&state=%70aused"), wanted(Some("paused")), "the last one counts, decoded");
    for query in ["?state=", "?state=Running", "?state=sleeping", "?state=running,paused"] {
        daemon.get(&format!("/timers{query}")).assert_fault(&["query", "state"]);
    }
}

#[test]
fn every_field_of_a_new_timer_has_its_bounds_and_a_fault_creates_nothing() {
    let daemon = Daemon::ephemeral(&[]);
    let longest = "\u{1f600}".repeat(200);
    let numbers = |count: usize| json!((1..=count).collect::<Vec<_>>());
    let accepted = [
        (r#"{"duration_seconds":1}"#.to_owned(), 1),
        (r#"{"duration_seconds":86400}"#.to_owned(), 86_400),
        (r#"{"duration_seconds":300.0}"#.to_owned(), 300),
        (r#"{"duration_seconds":3e2}"#.to_owned(), 300),
        (r#"{"duration_seconds":"300"}"#.to_owned(), 300),
        (r#"{"duration_seconds":7,"duration_seconds":8}"#.to_owned(), 8),
        (" \n{\t\"duration_seconds\" : 9 }\r\n".to_owned(), 9),
        (json!({ "duration_seconds": 5, "name": longest }).to_string(), 5),
        (json!({ "duration_seconds": 5, "name": " " }).to_string(), 5),
        (json!({ "duration_seconds": 5, "warning_thresholds": numbers(20) }).to_string(), 5),
        (json!({ "duration_seconds": 5, "warning_thresholds": [86_400, "7", 3.0] }).to_string(), 5),
        (json!({ "duration_seconds": 5, "start_at": rfc_3339(wall_ms() + 29 * 86_400_000) }).to_string(), 5),
    ];
    for (body, seconds) in &accepted {
        let response = daemon.request("POST", "/timers", &[JSON], Some(body));
        assert_eq!(response.status, 201, "{body}: {}", response.text());
        assert_eq!(response.json()["duration_seconds"], *seconds, "{body}");
    }

    for value in
        ["0", "-1", "86401", "1.5", "1e30", "-1e400", "true", "false", "null", "\"\"", "\"x\"", "\"1.5\"", "[]", "{}"]
    {
        let body = format!(r#"{{"duration_seconds":{value}}}"#);
        let response = daemon.request("POST", "/timers", &[JSON], Some(&body));
        let loc: &[&str] = if value == "-1e400" { &["body"] } else { &["body", "duration_seconds"] };
        response.assert_fault(loc);
    }
    let faulty = [
        (json!({}), "duration_seconds"),
        (json!({ "name": "no duration" }), "duration_seconds"),
        (json!({ "duration_seconds": 5, "name": "" }), "name"),
        (json!({ "duration_seconds": 5, "name": "x".repeat(201) }), "name"),
        (json!({ "duration_seconds": 5, "name": 5 }), "name"),
        (json!({ "duration_seconds": 5, "name": null }), "name"),
        (json!({ "duration_seconds": 5, "warning_thresholds": numbers(21) }), "warning_thresholds"),
        (json!({ "duration_seconds": 5, "warning_thresholds": [0] }), "warning_thresholds"),
        (json!({ "duration_seconds": 5, "warning_thresholds": [86_401] }), "warning_thresholds"),
        (json!({ "duration_seconds": 5, "warning_thresholds": [true] }), "warning_thresholds"),
        (json!({ "duration_seconds": 5, "warning_thresholds": 60 }), "warning_thresholds"),
        (json!({ "duration_seconds": 5, "auto_start": "perhaps" }), "auto_start"),
        (json!({ "duration_seconds": 5, "auto_start": 2 }), "auto_start"),
        (json!({ "duration_seconds": 5, "auto_start": null }), "auto_start"),
        (json!({ "duration_seconds": 5, "start_at": "tomorrow" }), "start_at"),
        (json!({ "duration_seconds": 5, "start_at": 1_800_000_000 }), "start_at"),
        (json!({ "duration_seconds": 5, "start_at": "2030-01-01T00:00:00" }), "start_at"),
        (json!({ "duration_seconds": 5, "start_at": rfc_3339(wall_ms() - 2_000) }), "start_at"),
        (json!({ "duration_seconds": 5, "start_at": rfc_3339(wall_ms() + 31 * 86_400_000) }), "start_at"),
        (json!({ "duration_seconds": 5, "start_at": rfc_3339(wall_ms() + 60_000), "auto_start": true }), "start_at"),
    ];
    for (body, field) in &faulty {
        daemon.post("/timers", body.clone()).assert_fault(&["body", field]);
    }
    let all_at_once =
        daemon.post("/timers", json!({ "duration_seconds": 0, "name": "", "warning_thresholds": [0, 5, "x"] }));
    let faults = all_at_once.json()["detail"].clone();
    let locs: Vec<Value> = faults.as_array().unwrap().iter().map(|fault| fault["loc"].clone()).collect();
    let expected = [
        json!(["body", "duration_seconds"]),
        json!(["body", "name"]),
        json!(["body", "warning_thresholds", 0]),
        json!(["body", "warning_thresholds", 2]),
    ];
    assert_eq!(locs, expected, "one entry for each fault");
    assert_eq!(keys_of(&faults[0]), ["type", "loc", "msg", "input"]);
    assert_eq!(faults[0]["input"], 0);

    let bodies: [&[u8]; 12] = [
        b"",
        b"{",
        b"null",
        b"[]",
        b"5",
        b"\"text\"",
        b"{\"duration_seconds\":5} trailing",
        b"{\"duration_seconds\":NaN}",
        b"{'duration_seconds':5}",
        br#"{"duration_seconds":5,"name":"\ud800"}"#,
        b"{\"duration_seconds\":5,\"name\":\"\xff\"}",
        b"\xef\xbb\xbf{\"duration_seconds\":5}",
    ];
    for body in bodies {
        let mut request =
            format!("POST /timers HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
        request.extend_from_slice(body);
        let mut http = daemon.connect();
        http.send(request);
        let response = http.response();
        response.assert_fault(&["body"]);
        if body.starts_with(b"{") {
            assert_eq!(response.json()["detail"][0]["type"], "json_invalid", "{}", response.text());
        }
    }
    let deep = format!(r#"{{"duration_seconds":5,"deep":{}{}}}"#, "[".repeat(1000), "]".repeat(1000));
    daemon.request("POST", "/timers", &[JSON], Some(&deep)).assert_fault(&["body"]);
    assert_eq!(daemon.get("/health").json()["timers_active"], accepted.len(), "a refused body creates nothing");
}

// ---------------------------------------------------------------------------------------------------------------
// The state table.

#[test]
fn every_action_in_every_state_does_what_the_table_says() {
    let daemon = Daemon::ephemeral(&[]);
    for state in STATES {
        for (id, action) in timers_in(&daemon, state, ACTIONS.len()).iter().zip(ACTIONS) {
            let cell = format!("{action} in {state}");
            let before = daemon.timer(id);
            let response = control_with(&daemon, id, action);
            let now = daemon.timer(id);
            let Some(to) = after(state, action) else {
                assert_eq!(response.status, 400, "{cell}");
                let valid = valid_actions(state);
                let text = format!("Cannot {action} timer in state '{state}'. Valid actions: [{valid}]");
                assert_eq!(response.json(), json!({ "detail": text }), "{cell}");
                assert_eq!((&now["revision"], &now["ends_at"]), (&before["revision"], &before["ends_at"]), "{cell}");
                assert!(state == "running" || now == before, "{cell}: {now}");
                continue;
            };
            assert_eq!(response.status, 200, "{cell}: {}", response.text());
            let timer = response.json();
            assert_timer_object(&timer);
            assert_eq!(timer["state"], to, "{cell}");
            assert_eq!(timer["id"], *id.as_str());
            let revision = before["revision"].as_u64().unwrap() + 1;
            assert_eq!(timer["revision"], revision, "{cell}");
            assert_eq!(response.header("etag"), Some(&*format!("\"{revision}\"")), "{cell}");
            let grown = if action == "extend" { 7 } else { 0 };
            assert_eq!(timer["duration_seconds"], 60 + grown, "{cell}");
            assert_eq!((&now["state"], &now["revision"]), (&timer["state"], &timer["revision"]), "{cell}");
            if state != "created" {
                assert_eq!(timer["started_at"], before["started_at"], "{cell}: the first start stays");
            }
            if action == "extend" && state == "running" {
                let (was, is) = (instant_ms(&before["ends_at"]), instant_ms(&timer["ends_at"]));
                assert_eq!(is - was, 7_000, "{cell}");
            }
        }
    }
}

#[test]
fn every_bulk_call_on_every_state_does_what_the_table_says_in_both_forms() {
    let daemon = Daemon::ephemeral(&[]);
    let ops = ["start", "pause", "resume", "extend", "stop", "delete"];
    for state in STATES {
        let ids = timers_in(&daemon, state, 2 * ops.len());
        for (pair, op) in ids.chunks(2).zip(ops) {
            for (id, is_older_form) in pair.iter().zip([false, true]) {
                let cell = format!("bulk {op} in {state}, {}", if is_older_form { "list" } else { "object" });
                let revision = daemon.timer(id)["revision"].as_u64().unwrap();
                let asked = [id.as_str(), "timer_nowhere"];
                let response = if is_older_form {
                    let query = if op == "extend" { "?seconds=300" } else { "" };
                    daemon.post(&format!("/timers/bulk/{op}{query}"), json!(asked))
                } else {
                    let mut body = json!({ "timer_ids": asked, "unknown": 1 });
                    if op == "extend" {
                        body["seconds"] = json!(300);
                    }
                    daemon.post(&format!("/timers/bulk/{op}"), body)
                };
                assert_eq!(response.status, 200, "{cell}: {}", response.text());
                let to = if op == "delete" { Some("gone") } else { after(state, op) };
                let done = match op {
                    "start" => "started",
                    "pause" => "paused",
                    "resume" => "resumed",
                    "extend" => "extended by 300s",
                    "stop" => "stopped",
                    _ => "deleted",
                };
                let status = if to.is_some() { done.to_owned() } else { format!("failed (state: {state})") };
                let expected = json!([
                    { "timer_id": id, "success": to.is_some(), "status": status },
                    { "timer_id": "timer_nowhere", "success": false, "status": "not found" },
                ]);
                assert_eq!(response.text(), expected.to_string(), "{cell}");
                if to == Some("gone") {
                    assert_eq!(daemon.get(&format!("/timers/{id}")).status, 404, "{cell}");
                    continue;
                }
                let timer = daemon.timer(id);
                assert_eq!(timer["state"], to.unwrap_or(state), "{cell}");
                assert_eq!(timer["revision"], revision + u64::from(to.is_some()), "{cell}");
                if op == "extend" && to.is_some() {
                    assert_eq!(timer["duration_seconds"], 360, "{cell}");
                }
            }
        }
    }
}

#[test]
fn a_pause_keeps_the_fraction_and_the_end_is_exact() {
    let daemon = Daemon::ephemeral(&[]);
    let id = daemon.create(json!({ "duration_seconds": 2 }));
    let started = daemon.control(&id, "start").json();
    std::thread::sleep(Duration::from_millis(330));
    let paused = daemon.control(&id, "pause").json();
    assert_eq!(paused["remaining_seconds"], 2, "{paused}");
    let left_ms = paused["remaining_ms"].as_i64().unwrap();
    assert!((1..=1_670).contains(&left_ms), "{paused}");
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(daemon.timer(&id), paused, "time stands still");
    let resumed = daemon.control(&id, "resume").json();
    assert_eq!(resumed["remaining_ms"], paused["remaining_ms"]);
    assert_eq!(resumed["started_at"], started["started_at"]);
    let ends_ms = instant_ms(&resumed["ends_at"]);
    eventually(|| daemon.timer(&id)["state"] == "expired");
    let expired = daemon.timer(&id);
    assert_timer_object(&expired);
    assert_eq!(expired["elapsed_seconds"], 2);
    assert_eq!(instant_ms(&expired["completed_at"]), ends_ms / 1000 * 1000, "the true instant, cut off");
    assert_eq!(expired["revision"], 5, "created, started, paused, resumed, expired");
    assert_eq!(history(&daemon, &id).last().unwrap()["at"], expired["completed_at"]);
}

#[test]
fn stop_keeps_what_was_left_and_a_timer_that_never_ran_has_no_start() {
    let daemon = Daemon::ephemeral(&[]);
    let id = daemon.create(json!({ "duration_seconds": 60 }));
    let stopped = daemon.control(&id, "stop").json();
    assert_eq!((&stopped["started_at"], &stopped["remaining_ms"]), (&Value::Null, &json!(60_000)));
    let id = daemon.create(json!({ "duration_seconds": 60, "auto_start": true }));
    std::thread::sleep(Duration::from_millis(20));
    let begun = wall_ms();
    let stopped = daemon.control(&id, "stop").json();
    assert_eq!(
        instant_ms(&stopped["completed_at"]) / 1000,
        begun / 1000 + (instant_ms(&stopped["completed_at"]) / 1000 - begun / 1000).min(1)
    );
    assert!(stopped["remaining_ms"].as_u64().unwrap() < 60_000);
    assert_eq!(daemon.timer(&id), stopped);
}

// ---------------------------------------------------------------------------------------------------------------
// Control: bodies and the order of checks.

#[test]
fn control_checks_the_body_before_the_timer_and_the_seconds_before_the_state() {
    let daemon = Daemon::ephemeral(&[]);
    let id = daemon.create(json!({ "duration_seconds": 100 }));
    let done = daemon.timer_in("completed");
    let post = |id: &str, body: Value| daemon.post(&format!("/timers/{id}/control"), body);

    for action in [json!("jump"), json!(""), json!("START"), json!(" start"), json!(null), json!(1), json!([])] {
        post("timer_missing", json!({ "action": action })).assert_fault(&["body", "action"]);
    }
    post(&id, json!({})).assert_fault(&["body", "action"]);
    for body in [json!([]), json!("start"), json!(null)] {
        post(&id, body).assert_fault(&["body"]);
    }
    daemon.request("POST", &format!("/timers/{id}/control"), &[], None).assert_fault(&["body"]);
    for seconds in [json!(0), json!(-1), json!(3601), json!(1.5), json!(true), json!("many"), json!([])] {
        for action in ACTIONS {
            let body = json!({ "action": action, "extend_seconds": seconds });
            post("timer_missing", body).assert_fault(&["body", "extend_seconds"]);
        }
    }
    let both = post(&id, json!({ "action": "jump", "extend_seconds": 0 }));
    assert_eq!(both.json()["detail"].as_array().unwrap().len(), 2);

    let missing = post("timer_missing", json!({ "action": "extend" }));
    assert_eq!((missing.status, missing.detail()), (404, "Timer not found".to_owned()));
    for id in [&id, &done] {
        for body in [json!({ "action": "extend" }), json!({ "action": "extend", "extend_seconds": null })] {
            let response = post(id, body);
            assert_eq!(response.status, 400);
            assert_eq!(response.text(), r#"{"detail":"extend_seconds required for extend action"}"#);
        }
    }
    assert_eq!(daemon.timer(&id)["revision"], 1, "nothing was changed");
    for (seconds, total) in [(json!(1), 101), (json!(3600), 3701), (json!(2.0), 3703), (json!("3"), 3706)] {
        let timer = post(&id, json!({ "action": "extend", "extend_seconds": seconds })).json();
        assert_eq!(timer["duration_seconds"], total);
        assert_eq!(timer["remaining_seconds"], total);
    }
    let started = post(&id, json!({ "action": "start", "extend_seconds": 10 })).json();
    assert_eq!((&started["state"], &started["duration_seconds"]), (&json!("running"), &json!(3706)));
}

#[test]
fn an_unknown_timer_is_404_for_every_call() {
    let daemon = Daemon::ephemeral(&[]);
    let deleted = daemon.create(json!({ "duration_seconds": 5 }));
    let response = daemon.delete(&format!("/timers/{deleted}"));
    assert_eq!((response.status, response.text()), (204, ""));
    assert_eq!(response.header("content-type"), None);
    let long = "x".repeat(5_000);
    for id in ["timer_00000000", "bulk", "%41%2F", "%zz", "\u{e9}", &deleted, &long] {
        let id = if id.is_ascii() { id.to_owned() } else { "%C3%A9".to_owned() };
        for response in [
            daemon.get(&format!("/timers/{id}")),
            daemon.control(&id, "start"),
            daemon.delete(&format!("/timers/{id}")),
        ] {
            assert_eq!(response.status, 404, "{id}");
            assert_eq!(response.text(), r#"{"detail":"Timer not found"}"#, "{id}");
        }
        if id != deleted {
            let response = daemon.get(&format!("/timers/{id}/history"));
            assert_eq!((response.status, response.detail()), (404, "Timer not found".to_owned()), "{id}");
        }
    }
    assert_eq!(daemon.get("/health").json()["timers_active"], 0);
}

#[test]
fn deletion_is_possible_in_every_state() {
    let daemon = Daemon::ephemeral(&[]);
    for state in STATES {
        let id = timers_in(&daemon, state, 1).remove(0);
        assert_eq!(daemon.delete(&format!("/timers/{id}")).status, 204, "{state}");
        assert_eq!(daemon.get(&format!("/timers/{id}")).status, 404, "{state}");
    }
    assert_eq!(daemon.get("/timers").json(), json!([]));
}

/// Each request is wrong in several ways; the answer is about the first in the contract's order.
#[test]
fn checks_come_in_the_order_of_the_contract() {
    let (_kept, path) = directory();
    std::fs::create_dir_all(&path).unwrap();
    let file = path.join("keys");
    let mut lines = String::new();
    let mut keys = Vec::new();
    for role in ["viewer", "instructor"] {
        let made = std::process::Command::new(env!("CARGO_BIN_EXE_timerd"))
            .args(["key", "new", role, role])
            .output()
            .unwrap();
        let text = String::from_utf8(made.stdout).unwrap();
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
        lines.push_str(&format!("{}\n", field("line:")));
        keys.push(field("key:"));
    }
    std::fs::write(&file, lines).unwrap();
    let daemon = Daemon::ephemeral(&["--require-auth", "--keys-file", file.to_str().unwrap()]);
    let [viewer, instructor] = [&*keys[0], &*keys[1]];
    let made = daemon.request("POST", "/timers", &[("X-API-Key", instructor)], Some(r#"{"duration_seconds":60}"#));
    let id = made.json()["id"].as_str().unwrap().to_owned();
    let known = format!("/timers/{id}/control");
    let missing = "/timers/timer_missing/control";
    let stale = ("If-Match", "\"99\"");
    let nobody = ("X-API-Key", "wrong");
    let small = ("X-API-Key", viewer);
    let enough = ("X-API-Key", instructor);
    let good = r#"{"action":"pause"}"#;
    let bad = r#"{"action":"jump"}"#;
    let no_seconds = r#"{"action":"extend"}"#;
    for (method, path, headers, body, status) in [
        ("PUT", "/timerz", vec![nobody], bad, 404),
        ("PUT", missing, vec![nobody, stale], bad, 405),
        ("POST", missing, vec![nobody, stale], bad, 401),
        ("POST", missing, vec![stale], bad, 401),
        ("POST", missing, vec![small, stale], bad, 403),
        ("POST", missing, vec![enough, stale], bad, 422),
        ("POST", missing, vec![enough, stale], good, 404),
        ("POST", missing, vec![enough, stale], no_seconds, 404),
        ("POST", &known, vec![enough, stale], no_seconds, 412),
        ("POST", &known, vec![enough, stale], good, 412),
        ("POST", &known, vec![enough], no_seconds, 400),
        ("POST", &known, vec![enough], good, 400),
        ("DELETE", "/timers/timer_missing", vec![enough, stale], "", 404),
        ("DELETE", &*format!("/timers/{id}"), vec![enough, stale], "", 412),
    ] {
        let response = daemon.request(method, path, &headers, Some(body));
        assert_eq!(response.status, status, "{method} {path} {headers:?} {body}: {}", response.text());
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Bulk.

#[test]
fn a_bulk_body_is_judged_as_a_whole() {
    let daemon = Daemon::ephemeral(&[]);
    let id = daemon.create(json!({ "duration_seconds": 60 }));
    for op in ["start", "pause", "resume", "stop", "extend", "delete"] {
        let path = format!("/timers/bulk/{op}");
        for ids in [json!(null), json!("timer_x"), json!(5), json!({})] {
            daemon.post(&path, json!({ "timer_ids": ids, "seconds": 5 })).assert_fault(&["body", "timer_ids"]);
        }
        daemon.post(&path, json!({ "seconds": 5 })).assert_fault(&["body", "timer_ids"]);
        for ids in [json!([id, 1]), json!([id, null]), json!([id, ["x"]]), json!([id, true])] {
            let response = daemon.post(&path, json!({ "timer_ids": ids, "seconds": 5 }));
            response.assert_fault(&["body", "timer_ids"]);
            assert_eq!(response.json()["detail"][0]["loc"][2], 1);
            daemon.post(&format!("{path}?seconds=5"), ids).assert_fault(&["body"]);
        }
        daemon.post(&path, json!("text")).assert_fault(&["body"]);
        daemon.request("POST", &path, &[], None).assert_fault(&["body"]);
        daemon.request("POST", &path, &[JSON], Some("{")).assert_fault(&["body"]);
        let seconds = if op == "extend" { "?seconds=5" } else { "" };
        assert_eq!(daemon.post(&format!("{path}{seconds}"), json!([])).json(), json!([]));
    }
    let extend = "/timers/bulk/extend";
    for seconds in [json!(0), json!(-5), json!(3601), json!("x"), json!(1.5), json!(true), json!(null)] {
        daemon.post(extend, json!({ "timer_ids": [id], "seconds": seconds })).assert_fault(&["body", "seconds"]);
    }
    for seconds in ["0", "-5", "3601", "x", "1.5", "true", ""] {
        daemon.post(&format!("{extend}?seconds={seconds}"), json!([id])).assert_fault(&["query", "seconds"]);
    }
    daemon.post(extend, json!({ "timer_ids": [id] })).assert_fault(&["body", "seconds"]);
    daemon.post(extend, json!([id])).assert_fault(&["query", "seconds"]);
    let timer = daemon.timer(&id);
    assert_eq!((&timer["state"], &timer["revision"]), (&json!("created"), &json!(1)), "nothing was changed");
    let line = daemon.post(&format!("{extend}?seconds=3600"), json!([id])).json();
    assert_eq!(line, json!([{ "timer_id": id, "success": true, "status": "extended by 3600s" }]));
    assert_eq!(daemon.post("/timers/bulk/reset", json!([id])).text(), r#"{"detail":"Not Found"}"#);
}

#[test]
fn a_thousand_timers_start_at_one_instant_and_one_more_is_refused() {
    let daemon = Daemon::ephemeral(&[]);
    let mut http = daemon.connect();
    let mut ids = Vec::new();
    for batch in 0..20 {
        let create = request_bytes(
            "POST",
            "/timers",
            &[JSON],
            Some(&json!({ "duration_seconds": 600, "name": batch.to_string() }).to_string()),
        );
        http.send(create.repeat(25));
        for _ in 0..25 {
            ids.push(http.response().json()["id"].as_str().unwrap().to_owned());
        }
    }
    // Every second place is a timer, the others are not there.
    let asked: Vec<String> =
        (0..1000).map(|n| if n % 2 == 0 { ids[n / 2].clone() } else { format!("timer_none{n:04}") }).collect();
    for form in [json!(asked), json!({ "timer_ids": asked })] {
        let mut over = form.clone();
        let list = if over.is_array() { &mut over } else { &mut over["timer_ids"] };
        list.as_array_mut().unwrap().push(json!("one more"));
        daemon.post("/timers/bulk/start", over).assert_fault(&["body"]);
    }
    let lines = daemon.post("/timers/bulk/start", json!(asked)).json();
    let expected = asked.iter().enumerate().map(|(n, id)| match n % 2 {
        0 => json!({ "timer_id": id, "success": true, "status": "started" }),
        _ => json!({ "timer_id": id, "success": false, "status": "not found" }),
    });
    assert_eq!(lines, expected.collect::<Value>(), "one result for each id, in order");
    let list = daemon.get("/timers").json();
    let ends: BTreeSet<&str> =
        list.as_array().unwrap().iter().map(|timer| timer["ends_at"].as_str().unwrap()).collect();
    assert_eq!(ends.len(), 1, "timers started together end together: {ends:?}");
    assert_eq!(list.as_array().unwrap().len(), 500);
    let deleted = daemon.post("/timers/bulk/delete", json!({ "timer_ids": ids })).json();
    assert!(deleted.as_array().unwrap().iter().all(|line| line["status"] == "deleted"));
    assert_eq!(daemon.get("/health").json()["timers_active"], 0);
}

#[test]
fn an_id_given_twice_is_handled_twice_in_the_order_asked() {
    let daemon = Daemon::ephemeral(&[]);
    let [a, b] = [60, 60].map(|seconds| daemon.create(json!({ "duration_seconds": seconds })));
    let statuses = |op: &str, ids: Value| {
        let lines = daemon.post(&format!("/timers/bulk/{op}"), ids).json();
        lines.as_array().unwrap().iter().map(|line| line["status"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(statuses("start", json!([b, a, b])), ["started", "started", "failed (state: running)"]);
    assert_eq!(
        statuses("extend", json!({ "timer_ids": [a, a], "seconds": 5 })),
        ["extended by 5s", "extended by 5s"]
    );
    assert_eq!(daemon.timer(&a)["duration_seconds"], 70);
    assert_eq!(daemon.timer(&a)["revision"], 4);
    assert_eq!(statuses("stop", json!([a, a])), ["stopped", "failed (state: completed)"]);
    assert_eq!(statuses("delete", json!([a, a, b])), ["deleted", "not found", "deleted"]);
    assert_eq!(
        actions_of(&history(&daemon, &a)),
        ["created", "started", "extended", "extended", "stopped", "deleted"]
    );
}

// ---------------------------------------------------------------------------------------------------------------
// History.

#[test]
fn the_history_tells_who_did_what_when_after_a_restart_and_after_deletion_too() {
    let (_kept, path) = directory();
    let daemon = Daemon::on(&path, &[]);
    let begun = wall_ms();
    let id = daemon.create(json!({ "duration_seconds": 60, "name": "Finals" }));
    for action in ["start", "pause", "resume", "extend", "stop"] {
        assert_eq!(control_with(&daemon, &id, action).status, 200);
        assert_eq!(daemon.control(&id, "resume").status, if action == "pause" { 200 } else { 400 });
        if action == "pause" {
            assert_eq!(daemon.control(&id, "pause").status, 200);
        }
    }
    let short = daemon.create(json!({ "duration_seconds": 1, "auto_start": true }));
    let planned_ms = wall_ms() / 1000 * 1000 + 2_000;
    let planned = daemon.create(json!({ "duration_seconds": 60, "start_at": rfc_3339(planned_ms) }));
    eventually(|| daemon.timer(&short)["state"] == "expired" && daemon.timer(&planned)["state"] == "running");
    assert_eq!(daemon.delete(&format!("/timers/{id}")).status, 204);

    let check = |daemon: &Daemon| {
        let lines = history(daemon, &id);
        let expected =
            ["created", "started", "paused", "resumed", "paused", "resumed", "extended", "stopped", "deleted"];
        assert_eq!(actions_of(&lines), expected);
        for (line, revision) in lines.iter().zip(1..) {
            assert_eq!(keys_of(line)[..4], ["at", "revision", "action", "actor"]);
            assert_time(&line["at"], false);
            assert!((begun / 1000 * 1000..=wall_ms()).contains(&instant_ms(&line["at"])), "{line}");
            assert_eq!((&line["revision"], &line["actor"]), (&json!(revision), &json!("anonymous")), "{line}");
        }
        assert_eq!((&lines[0]["name"], &lines[0]["duration_seconds"]), (&json!("Finals"), &json!(60)));
        assert_eq!(lines[6]["added_seconds"], 7);

        let lines = history(daemon, &short);
        assert_eq!(actions_of(&lines), ["created", "started", "expired"]);
        assert_eq!(lines[2]["actor"], "timerd");
        assert_eq!(lines[2]["at"], daemon.timer(&short)["completed_at"]);
        let lasted_ms = lines[2]["at_ms"].as_i64().unwrap() - lines[1]["at_ms"].as_i64().unwrap();
        assert_eq!(lasted_ms, 1000, "the true instant");

        let lines = history(daemon, &planned);
        assert_eq!(actions_of(&lines), ["created", "scheduled", "started"]);
        assert_eq!(instant_ms(&lines[1]["start_at"]), planned_ms);
        assert_eq!((&lines[1]["actor"], &lines[2]["actor"]), (&json!("anonymous"), &json!("schedule")));
        assert_eq!(instant_ms(&lines[2]["at"]), planned_ms);
        lines
    };
    let before = check(&daemon);
    daemon.kill();
    let daemon = Daemon::on(&path, &[]);
    assert_eq!(check(&daemon), before);
}

#[test]
fn a_history_is_read_page_by_page() {
    let daemon = Daemon::ephemeral(&[]);
    let id = daemon.create(json!({ "duration_seconds": 60 }));
    let extend = json!({ "timer_ids": vec![&id; 1000], "seconds": 1 });
    assert_eq!(daemon.post("/timers/bulk/extend", extend).status, 200);
    let page = |query: &str| {
        let lines = daemon.get(&format!("/timers/{id}/history{query}")).json();
        lines.as_array().unwrap().iter().map(|line| line["revision"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(page(""), (1..=1000).collect::<Vec<_>>(), "a page has 1000 lines");
    assert_eq!(page("?after=1000"), [1001]);
    assert_eq!(page("?after=3&limit=2"), [4, 5]);
    assert_eq!(page("?limit=1"), [1]);
    assert_eq!(page("?limit=1000&after=0"), (1..=1000).collect::<Vec<_>>());
    assert!(page("?after=1001").is_empty());
    assert!(page("?after=4294967295").is_empty());
    for (query, field) in [("limit=0", "limit"), ("limit=1001", "limit"), ("limit=x", "limit"), ("after=-1", "after")]
    {
        daemon.get(&format!("/timers/{id}/history?{query}")).assert_fault(&["query", field]);
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Idempotency keys.

fn post_once(daemon: &Daemon, path: &str, key: &str, body: &Value) -> Response {
    daemon.request("POST", path, &[JSON, ("Idempotency-Key", key)], Some(&body.to_string()))
}

#[track_caller]
fn assert_replayed(first: &Response, again: &Response) {
    assert_eq!(again.header("idempotency-replayed"), Some("true"), "{again:?}");
    assert_eq!(first.header("idempotency-replayed"), None, "{first:?}");
    assert_eq!((again.status, again.text()), (first.status, first.text()));
    for name in ["location", "etag", "content-type"] {
        assert_eq!(again.header(name), first.header(name), "{name}");
    }
}

#[test]
fn the_same_key_route_and_body_give_the_first_answer_again_after_a_restart_too() {
    let (_kept, path) = directory();
    let daemon = Daemon::on(&path, &[]);
    let body = json!({ "duration_seconds": 60 });
    let key = "~ !\"#key".to_owned() + &"k".repeat(120);
    assert_eq!(key.len(), 128);
    let created = post_once(&daemon, "/timers", &key, &body);
    assert_eq!(created.status, 201);
    let id = created.json()["id"].as_str().unwrap().to_owned();
    assert_replayed(&created, &post_once(&daemon, "/timers", &key, &body));
    assert_replayed(&created, &post_once(&daemon, "/timers/", &key, &body));

    let control = format!("/timers/{id}/control");
    let started = post_once(&daemon, &control, "s", &json!({ "action": "start" }));
    assert_eq!(started.status, 200);
    let extended = post_once(&daemon, "/timers/bulk/extend", "e", &json!({ "timer_ids": [id], "seconds": 5 }));
    assert_eq!(extended.json()[0]["status"], "extended by 5s");
    assert_replayed(&started, &post_once(&daemon, &control, "s", &json!({ "action": "start" })));

    for other in [json!({ "duration_seconds": 61 }), json!({ "duration_seconds": 60, "name": "x" }), json!({})] {
        let response = post_once(&daemon, "/timers", &key, &other);
        response.assert_fault(&["header", "idempotency-key"]);
        assert_eq!(response.json()["detail"].as_array().unwrap().len(), 1);
    }
    let elsewhere = post_once(&daemon, &control, &key, &json!({ "action": "pause" }));
    assert_eq!(elsewhere.json()["state"], "paused", "another route is another request");

    daemon.kill();
    let daemon = Daemon::on(&path, &[]);
    assert_replayed(&created, &post_once(&daemon, "/timers", &key, &body));
    assert_replayed(&started, &post_once(&daemon, &control, "s", &json!({ "action": "start" })));
    let again = post_once(&daemon, "/timers/bulk/extend", "e", &json!({ "timer_ids": [id], "seconds": 5 }));
    assert_replayed(&extended, &again);
    post_once(&daemon, "/timers", &key, &json!({ "duration_seconds": 61 }))
        .assert_fault(&["header", "idempotency-key"]);
    assert_eq!(daemon.get("/timers").json().as_array().unwrap().len(), 1);
    let timer = daemon.timer(&id);
    assert_eq!((&timer["duration_seconds"], &timer["state"]), (&json!(65), &json!("paused")), "{timer}");
}

#[test]
fn a_twin_of_a_request_that_is_being_written_waits_for_its_answer() {
    let (_kept, path) = directory();
    let daemon = Daemon::on(&path, &[]);
    let create = |key: &str| {
        request_bytes("POST", "/timers", &[JSON, ("Idempotency-Key", key)], Some(r#"{"duration_seconds":60}"#))
    };
    for round in 0..10 {
        // The second request is read before the first is durable: both in one write.
        let mut http = daemon.connect();
        http.send(create(&format!("pipelined {round}")).repeat(3));
        let [first, second, third] = [(); 3].map(|()| http.response());
        assert_eq!(first.status, 201, "{}", first.text());
        assert_replayed(&first, &second);
        assert_replayed(&first, &third);
        // On two connections one of both is the first.
        let mut pair = [daemon.connect(), daemon.connect()];
        pair.iter_mut().for_each(|http| http.send(create(&format!("beside {round}"))));
        let [a, b] = pair.map(|mut http| http.response());
        if a.header("idempotency-replayed").is_some() {
            assert_replayed(&b, &a)
        } else {
            assert_replayed(&a, &b)
        };
    }
    assert_eq!(daemon.get("/health").json()["timers_active"], 20);
}

#[test]
fn refusals_are_executed_again() {
    let daemon = Daemon::ephemeral(&["--max-timers", "1"]);
    let id = daemon.create(json!({ "duration_seconds": 60 }));
    let control = format!("/timers/{id}/control");
    let body = json!({ "duration_seconds": 60 });
    assert_eq!(post_once(&daemon, &control, "p", &json!({ "action": "pause" })).status, 400);
    assert_eq!(post_once(&daemon, "/timers", "c", &body).status, 429);
    assert_eq!(post_once(&daemon, "/timers", "d", &json!({})).status, 422);
    let bulk = json!({ "timer_ids": [id, "timer_none"] });
    assert_eq!(post_once(&daemon, "/timers/bulk/resume", "r", &bulk).json()[0]["success"], false);
    assert_eq!(daemon.control(&id, "start").status, 200);
    let paused = post_once(&daemon, &control, "p", &json!({ "action": "pause" }));
    assert_eq!((paused.status, paused.header("idempotency-replayed")), (200, None));
    let resumed = post_once(&daemon, "/timers/bulk/resume", "r", &bulk);
    assert_eq!((&resumed.json()[0]["status"], resumed.header("idempotency-replayed")), (&json!("resumed"), None));
    assert_replayed(&resumed, &post_once(&daemon, "/timers/bulk/resume", "r", &bulk));
    assert_eq!(daemon.delete(&format!("/timers/{id}")).status, 204);
    assert_eq!(post_once(&daemon, "/timers", "c", &body).status, 201);
    assert_replayed(&paused, &post_once(&daemon, &control, "p", &json!({ "action": "pause" })));
}

#[test]
fn an_idempotency_key_is_1_to_128_printable_ascii_characters() {
    let daemon = Daemon::ephemeral(&[]);
    let body = r#"{"duration_seconds":60}"#;
    let too_long = "k".repeat(129);
    for key in ["", &too_long, "caf\u{e9}", "a\tb"] {
        let response = daemon.request("POST", "/timers", &[JSON, ("Idempotency-Key", key)], Some(body));
        response.assert_fault(&["header", "idempotency-key"]);
    }
    let twice = [JSON, ("Idempotency-Key", "a"), ("Idempotency-Key", "b")];
    daemon.request("POST", "/timers", &twice, Some(body)).assert_fault(&["header", "idempotency-key"]);
    assert_eq!(daemon.get("/health").json()["timers_active"], 0);
}

// ---------------------------------------------------------------------------------------------------------------
// ETag and If-Match.

#[test]
fn if_match_lets_only_those_change_a_timer_who_have_seen_it_as_it_is() {
    let daemon = Daemon::ephemeral(&[]);
    let id = daemon.create(json!({ "duration_seconds": 60 }));
    let path = format!("/timers/{id}");
    let extend = |tag: &str| {
        let body = r#"{"action":"extend","extend_seconds":1}"#;
        daemon.request("POST", &format!("{path}/control"), &[JSON, ("If-Match", tag)], Some(body))
    };
    let mut revision = 1;
    for tag in ["*", "\"{}\"", "\"0\", \"{}\"", "\"{}\" , W/\"9\"", ",\"{}\",,", "\"x,y\",\"{}\""] {
        let response = extend(&tag.replace("{}", &revision.to_string()));
        assert_eq!(response.status, 200, "{tag}: {}", response.text());
        revision += 1;
        let tag = format!("\"{revision}\"");
        assert_eq!(response.header("etag"), Some(&*tag));
        assert_eq!(daemon.get(&path).header("etag"), Some(&*tag));
        assert_eq!(response.json()["revision"], revision);
    }
    let current = revision.to_string();
    for tag in ["\"0\"", "\"1\", \"2\"", "W/\"{}\"", "\"0{}\"", "\"\"", "\"*\""] {
        let response = extend(&tag.replace("{}", &current));
        assert_eq!(response.status, 412, "{tag}: {}", response.text());
        assert!(response.detail().contains(&current), "{}", response.text());
    }
    for tag in ["{}", "\"{}", "{}\"", "*, \"{}\"", "w/\"{}\"", "\"{}\"\"{}\"", "\"a b\"", "W/{}"] {
        let response = extend(&tag.replace("{}", &current));
        assert_eq!(response.status, 400, "{tag}: {}", response.text());
        assert!(response.json()["detail"].is_string());
    }
    let lines = [JSON, ("If-Match", "\"0\""), ("If-Match", "\"7\"")];
    let response = daemon.request("POST", &format!("{path}/control"), &lines, Some(r#"{"action":"start"}"#));
    assert_eq!(response.status, 200, "the lines of a list are one list: {}", response.text());
    assert_eq!(daemon.request("GET", &path, &[("If-None-Match", "\"8\"")], None).status, 200, "ignored");
    for (tag, status) in [("\"7\"", 412), ("8", 400), ("\"8\"", 204)] {
        assert_eq!(daemon.request("DELETE", &path, &[("If-Match", tag)], None).status, status, "{tag}");
    }
    assert_eq!(daemon.request("DELETE", &path, &[("If-Match", "*")], None).status, 404);
}

// ---------------------------------------------------------------------------------------------------------------
// Scheduled starts.

#[test]
fn a_scheduled_timer_starts_itself_and_ends_exactly_a_duration_later() {
    let daemon = Daemon::ephemeral(&[]);
    let at_ms = wall_ms() + 700;
    // An offset is another way to write the same instant.
    let text = rfc_3339(at_ms + 3_600_000).replace('Z', "+01:00");
    let created = daemon.post("/timers", json!({ "duration_seconds": 1, "start_at": text })).json();
    assert_timer_object(&created);
    assert_eq!(created["state"], "created");
    assert_time(&created["start_at"], false);
    assert_eq!(instant_ms(&created["start_at"]), at_ms / 1000 * 1000);
    let id = created["id"].as_str().unwrap();
    let (mut socket, greeting) = daemon.join(id);
    assert_eq!(greeting["timer"]["start_at"], created["start_at"]);
    let started = socket.expect("timer_started");
    assert_eq!(started["remaining_seconds"], 1);
    assert!(started["server_time_ms"].as_i64().unwrap() >= at_ms, "never early: {started}");
    let running = daemon.timer(id);
    assert_timer_object(&running);
    assert_eq!(instant_ms(&running["ends_at"]), at_ms + 1_000, "exactly");
    assert_eq!((&running["start_at"], instant_ms(&running["started_at"])), (&Value::Null, at_ms / 1000 * 1000));
    socket.skip_to("timer_expired");
    let lines = history(&daemon, id);
    assert_eq!(actions_of(&lines), ["created", "scheduled", "started", "expired"]);
    assert_eq!((&lines[2]["at_ms"], &lines[3]["at_ms"]), (&json!(at_ms), &json!(at_ms + 1_000)));
}

#[test]
fn a_scheduled_start_that_is_noticed_late_counts_from_its_instant() {
    let (_kept, path) = directory();
    let daemon = Daemon::on(&path, &[]);
    let wait_until = |ms: i64| {
        std::thread::sleep(Duration::from_millis(u64::try_from(ms - wall_ms()).unwrap_or(0)));
    };
    // A daemon that stands still over the instant.
    let at_ms = wall_ms() + 400;
    let create = |duration: u32, at_ms: i64| {
        daemon.create(json!({ "duration_seconds": duration, "start_at": rfc_3339(at_ms) }))
    };
    let late = create(60, at_ms);
    daemon.signal("STOP");
    wait_until(at_ms + 200);
    daemon.signal("CONT");
    eventually(|| daemon.timer(&late)["state"] == "running");
    assert_eq!(instant_ms(&daemon.timer(&late)["ends_at"]), at_ms + 60_000);
    // A daemon that is not there at the instant, and for one of the timers not at its end either.
    let at_ms = wall_ms() + 300;
    let (missed, over) = (create(60, at_ms), create(1, at_ms));
    daemon.kill();
    wait_until(at_ms + 1_100);
    let daemon = Daemon::on(&path, &[]);
    assert_eq!(instant_ms(&daemon.timer(&missed)["ends_at"]), at_ms + 60_000);
    assert_eq!(daemon.timer(&over)["state"], "expired");
    let lines = history(&daemon, &over);
    assert_eq!(actions_of(&lines), ["created", "scheduled", "started", "expired"]);
    assert_eq!((&lines[2]["at_ms"], &lines[3]["at_ms"]), (&json!(at_ms), &json!(at_ms + 1_000)));
    assert_eq!((&lines[2]["actor"], &lines[3]["actor"]), (&json!("schedule"), &json!("timerd")));
}

#[test]
fn a_start_by_hand_or_a_stop_clears_the_schedule() {
    let daemon = Daemon::ephemeral(&[]);
    let at_ms = wall_ms() + 1_500;
    let made = || daemon.create(json!({ "duration_seconds": 60, "start_at": rfc_3339(at_ms) }));
    let [started, stopped, extended, deleted] = [(); 4].map(|()| made());
    let now = daemon.control(&started, "start").json();
    assert_eq!((&now["state"], &now["start_at"]), (&json!("running"), &Value::Null));
    let now = daemon.control(&stopped, "stop").json();
    assert_eq!((&now["state"], &now["start_at"]), (&json!("completed"), &Value::Null));
    let now = daemon.extend(&extended, 5).json();
    assert!(now["start_at"].is_string(), "an extension leaves it");
    assert_eq!(daemon.delete(&format!("/timers/{deleted}")).status, 204);
    eventually(|| daemon.timer(&extended)["state"] == "running");
    assert_eq!(instant_ms(&daemon.timer(&extended)["ends_at"]), at_ms + 65_000);
    assert_eq!(actions_of(&history(&daemon, &started)), ["created", "scheduled", "started"]);
    assert_eq!(actions_of(&history(&daemon, &stopped)), ["created", "scheduled", "stopped"]);
    assert_eq!(actions_of(&history(&daemon, &deleted)), ["created", "scheduled", "deleted"]);
}

// ---------------------------------------------------------------------------------------------------------------
// What holds for every path.

/// Every path of the contract with its methods, as `Allow` must list them.
fn paths(id: &str) -> Vec<(String, Vec<&'static str>)> {
    let (read, post) = (vec!["GET", "HEAD", "OPTIONS"], vec!["POST", "OPTIONS"]);
    let mut paths: Vec<(String, Vec<&str>)> = ["/health", "/readiness", "/metrics", "/openapi.json", "/docs"]
        .map(|path| (path.to_owned(), read.clone()))
        .into();
    paths.push(("/timers".to_owned(), vec!["GET", "HEAD", "POST", "OPTIONS"]));
    paths.push((format!("/timers/{id}"), vec!["GET", "HEAD", "DELETE", "OPTIONS"]));
    paths.push((format!("/timers/{id}/control"), post.clone()));
    paths.push((format!("/timers/{id}/history"), read.clone()));
    paths.push((format!("/timers/{id}/stream"), read.clone()));
    for op in ["start", "pause", "resume", "stop", "extend", "delete"] {
        paths.push((format!("/timers/bulk/{op}"), post.clone()));
    }
    paths.push((format!("/ws/{id}"), read.clone()));
    paths.push(("/rooms/0123456789".to_owned(), read.clone()));
    paths.push(("/ws/rooms".to_owned(), read.clone()));
    for page in ["/timer/x", "/wall/x", "/console", "/room", "/room/x", "/exam/x", "/pages/style.css"] {
        paths.push((page.to_owned(), read.clone()));
    }
    paths
}

#[test]
fn a_wrong_method_is_405_with_every_right_one_and_options_says_the_same() {
    let daemon = Daemon::ephemeral(&[]);
    let id = daemon.create(json!({ "duration_seconds": 60 }));
    let mut http = daemon.connect();
    for (path, methods) in paths(&id) {
        let listed: BTreeSet<&str> = methods.iter().copied().collect();
        let allow = |response: &Response| {
            let allow = response.header("allow").unwrap_or_else(|| panic!("no Allow for {path}")).to_owned();
            assert_eq!(allow.split(", ").collect::<BTreeSet<_>>(), listed, "{path}");
        };
        for slash in ["", "/"] {
            let path = format!("{path}{slash}");
            let options = http.request("OPTIONS", &path, &[], None);
            assert_eq!((options.status, options.text()), (204, ""), "{path}");
            allow(&options);
            for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE", "BREW", "get"] {
                if !methods.contains(&method) {
                    let response = http.request(method, &path, &[], None);
                    assert_eq!(response.status, 405, "{method} {path}");
                    allow(&response);
                    if method != "HEAD" {
                        assert_eq!(response.text(), r#"{"detail":"Method Not Allowed"}"#);
                    }
                }
            }
        }
    }
}

#[test]
fn head_answers_as_get_without_the_body_and_a_trailing_slash_is_the_same_path() {
    let daemon = Daemon::ephemeral(&[]);
    let id = daemon.create(json!({ "duration_seconds": 60 }));
    let mut http = daemon.connect();
    let unchanging = |response: &Response| {
        let moving = ["date"];
        response.headers.iter().filter(|(name, _)| !moving.contains(&&**name)).cloned().collect::<Vec<_>>()
    };
    let unknown = ["/timers/none".to_owned(), "/nowhere".to_owned(), "/timers?state=x".to_owned()];
    let readable = paths(&id).into_iter().filter(|(_, methods)| methods.contains(&"HEAD")).map(|(path, _)| path);
    // An event stream has no end: its answers are looked at below.
    let stream = format!("/timers/{id}/stream");
    for path in readable.filter(|path| *path != stream).chain(unknown) {
        let get = http.request("GET", &path, &[], None);
        let head = http.request("HEAD", &path, &[], None);
        assert_eq!(head.status, get.status, "{path}");
        // Counters may have grown by a digit in between.
        if path != "/metrics" {
            assert_eq!(unchanging(&head), unchanging(&get), "{path}");
        }
        assert_eq!(get.header("content-length"), Some(&*get.body.len().to_string()), "{path}");
        if !path.contains('?') {
            let slash = http.request("GET", &format!("{path}/"), &[], None);
            assert_eq!(slash.status, get.status, "{path}/");
            if path != "/metrics" {
                assert_eq!(slash.text(), get.text(), "{path}/");
            }
        }
    }
    let head = http.request("HEAD", &stream, &[], None);
    for path in [&stream, &format!("{stream}/")] {
        let get = daemon.connect().request("GET", path, &[], None);
        assert_eq!((head.status, get.status), (200, 200));
        assert_eq!(get.header("connection"), Some("close"));
        let lasting = |response: &Response| {
            unchanging(response).into_iter().filter(|(name, _)| name != "connection").collect::<Vec<_>>()
        };
        assert_eq!(lasting(&head), lasting(&get), "{path}");
        assert_eq!(get.header("content-length").or(get.header("transfer-encoding")), None);
    }
    let body = r#"{"action":"start"}"#;
    assert_eq!(http.request("POST", &format!("/timers/{id}/control/"), &[JSON], Some(body)).status, 200);
    assert_eq!(http.request("POST", "/timers/", &[JSON], Some(r#"{"duration_seconds":5}"#)).status, 201);
    assert_eq!(http.request("POST", "/timers/bulk/stop/", &[JSON], Some(&json!([id]).to_string())).status, 200);
    assert_eq!(http.request("DELETE", &format!("/timers/{id}/"), &[], None).status, 204);
    let nowhere = ["/nowhere", "/timers//", "//timers", "/timers/a/b", "/timers/bulk/reset", "/ws", "/TIMERS"];
    for path in nowhere.into_iter().chain(["/pages", "/pages/none.js", "/pages/timer.html", "/timer", "/wall/"]) {
        let response = http.request("GET", path, &[], None);
        assert_eq!((response.status, response.text()), (404, r#"{"detail":"Not Found"}"#), "{path}");
    }
}

#[test]
fn every_answer_carries_the_security_headers_and_api_answers_are_not_stored() {
    let daemon = Daemon::ephemeral(&["--max-timers", "1"]);
    let id = daemon.create(json!({ "duration_seconds": 60 }));
    let one = |path: &str| format!("/timers/{id}{path}");
    let stale = ("If-Match", "\"9\"");
    let plain = ("Content-Type", "text/plain");
    let large = "x".repeat(65_537);
    let many = "a".repeat(17_000);
    for (method, path, headers, body, status) in [
        ("GET", "/timers", vec![], None, 200),
        ("GET", &*one(""), vec![], None, 200),
        ("HEAD", &*one(""), vec![], None, 200),
        ("GET", &*one("/history"), vec![], None, 200),
        ("GET", &*one("/stream"), vec![], None, 200),
        ("HEAD", &*one("/stream"), vec![], None, 200),
        ("GET", "/rooms/0123456789", vec![], None, 404),
        ("GET", "/ws/rooms", vec![], None, 426),
        ("GET", "/health", vec![], None, 200),
        ("GET", "/readiness", vec![], None, 200),
        ("GET", "/metrics", vec![], None, 200),
        ("OPTIONS", "/timers", vec![], None, 204),
        ("POST", &*one("/control"), vec![], Some(r#"{"action":"pause"}"#), 400),
        ("POST", &*one("/control"), vec![stale], Some(r#"{"action":"start"}"#), 412),
        ("GET", "/nowhere", vec![], None, 404),
        ("PUT", "/timers", vec![], None, 405),
        ("POST", "/timers", vec![JSON], Some(&large), 413),
        ("POST", "/timers", vec![plain], Some("{}"), 415),
        ("POST", "/timers", vec![("Expect", "miracles")], Some("{}"), 417),
        ("POST", "/timers", vec![JSON], Some("{}"), 422),
        ("GET", &*format!("/ws/{id}"), vec![], None, 426),
        ("POST", "/timers", vec![JSON], Some(r#"{"duration_seconds":5}"#), 429),
        ("GET", "/timers", vec![("X-Long", &many)], None, 431),
        ("DELETE", &*one(""), vec![], None, 204),
    ] {
        let mut http = daemon.connect();
        http.send(request_bytes(method, path, &headers, body));
        let response = http.response_to(method);
        assert_eq!(response.status, status, "{method} {path}: {response:?}");
        assert_safe(&response);
        if status != 431 && status != 413 && status != 417 {
            assert_eq!(response.header("cache-control"), Some("no-store"), "{method} {path}");
        }
    }
    let mut http = daemon.connect();
    http.send("GARBAGE\r\n\r\n");
    assert_safe(&http.response());
    let pages = ["/", "/timer/x", "/wall/x", "/console", "/room", "/room/x", "/exam/x", "/pages/style.css"];
    for path in ["/docs", "/docs/docs.js", "/docs/docs.css", "/openapi.json"].into_iter().chain(pages) {
        assert_safe(&daemon.get(path));
    }
    let id = daemon.create(json!({ "duration_seconds": 60 }));
    let mut http = daemon.connect();
    http.send(format!(
        "GET /ws/{id} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    ));
    let response = http.response_to("HEAD");
    assert_eq!(response.status, 101);
    assert_safe(&response);
}

#[test]
fn any_origin_may_call_unless_some_are_configured() {
    let asks = |origin: &'static str| {
        vec![
            ("Origin", origin),
            ("Access-Control-Request-Method", "POST"),
            ("Access-Control-Request-Headers", "content-type, x-api-key"),
        ]
    };
    let daemon = Daemon::ephemeral(&[]);
    let stream = format!("/timers/{}/stream", daemon.create(json!({ "duration_seconds": 60 })));
    for (method, path) in [
        ("GET", "/timers"),
        ("GET", &*stream),
        ("GET", "/rooms/0123456789"),
        ("GET", "/nowhere"),
        ("PUT", "/timers"),
        ("GET", "/docs"),
    ] {
        let response = daemon.request(method, path, &[("Origin", "https://a.example")], None);
        assert_eq!(response.header("access-control-allow-origin"), Some("*"), "{method} {path}");
        let exposed = response.header("access-control-expose-headers").unwrap();
        for name in ["ETag", "Location", "Retry-After"] {
            assert!(exposed.split(", ").any(|known| known == name), "{exposed}");
        }
    }
    for path in ["/timers", "/timers/timer_x/control", "/nowhere"] {
        let response = daemon.request("OPTIONS", path, &asks("https://a.example"), None);
        assert!(matches!(response.status, 200 | 204), "{path}");
        assert_eq!(response.header("access-control-allow-origin"), Some("*"));
        assert_eq!(response.header("access-control-allow-headers"), Some("content-type, x-api-key"));
        assert_eq!(response.header("access-control-max-age"), Some("600"));
        let methods = response.header("access-control-allow-methods").unwrap();
        for method in ["GET", "POST", "DELETE"] {
            assert!(methods.split(", ").any(|known| known == method), "{methods}");
        }
        assert_safe(&response);
    }

    let flags = ["--cors-origin", "https://a.example,http://b.example:8080"];
    let daemon = Daemon::ephemeral(&flags);
    for origin in ["https://a.example", "http://b.example:8080"] {
        for response in [
            daemon.request("GET", "/timers", &[("Origin", origin)], None),
            daemon.request("GET", "/nowhere", &[("Origin", origin)], None),
            daemon.request("OPTIONS", "/timers", &asks(origin), None),
        ] {
            assert_eq!(response.header("access-control-allow-origin"), Some(origin));
            assert_eq!(response.header("vary"), Some("Origin"));
        }
    }
    for origin in ["https://c.example", "http://a.example", "https://a.example:444", "null"] {
        let response = daemon.request("GET", "/timers", &[("Origin", origin)], None);
        assert_eq!((response.status, response.header("access-control-allow-origin")), (200, None), "{origin}");
        let response = daemon.request("OPTIONS", "/timers", &asks(origin), None);
        assert_eq!(response.header("access-control-allow-origin"), None, "{origin}");
        assert!(!(200..300).contains(&response.status), "{origin}");
    }
    let response = daemon.get("/timers");
    assert_eq!(response.header("access-control-allow-origin"), None, "no origin, no answer to one");
    assert_eq!(response.header("vary"), Some("Origin"), "a cache must not mix the two");
}

// ---------------------------------------------------------------------------------------------------------------
// Documents.

#[test]
fn health_counts_all_timers_and_readiness_speaks_of_the_store() {
    let (_kept, path) = directory();
    let daemon = Daemon::on(&path, &[]);
    let version = env!("CARGO_PKG_VERSION");
    for (count, state) in [(1, "created"), (2, "completed"), (3, "expired"), (4, "running")] {
        daemon.timer_in(state);
        let health = daemon.get("/health");
        let expected =
            json!({ "status": "healthy", "timers_active": count, "service": "timerd", "version": version });
        assert_eq!((health.status, health.json()), (200, expected));
        let ready = daemon.get("/readiness");
        assert_eq!(ready.status, 200);
        assert_eq!((&ready.json()["ready"], &ready.json()["database"]), (&json!(true), &json!("connected")));
    }
}

#[test]
fn metrics_are_openmetrics_text_that_counts_what_happens() {
    let daemon = Daemon::ephemeral(&[]);
    let read = || {
        let response = daemon.get("/metrics");
        assert_eq!(response.status, 200);
        assert!(response.header("content-type").unwrap().starts_with("application/openmetrics-text; version=1.0.0"));
        response.text().to_owned()
    };
    let text = read();
    assert!(text.ends_with("# EOF\n"));
    let names: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    assert!(names.len() > 10, "{text}");
    for name in &names {
        assert!(text.contains(&format!("# HELP {name} ")), "{name}");
        assert_eq!(names.iter().filter(|known| *known == name).count(), 1, "{name}");
    }
    let value = |text: &str, name: &str| -> f64 {
        let line = text.lines().find(|line| line.split(' ').next() == Some(name));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).split(' ').nth(1).unwrap().parse().unwrap()
    };
    let find = |end: &str| *names.iter().find(|name| name.ends_with(end)).unwrap_or_else(|| panic!("no {end}"));
    let [timers, websockets, streams] = ["timers", "websockets", "event_streams"].map(find);
    let requests = format!("{}_total", find("requests"));
    assert_eq!(value(&text, timers), 0.0);
    let id = daemon.create(json!({ "duration_seconds": 60 }));
    let (_socket, _) = daemon.join(&id);
    let mut stream = daemon.connect();
    assert_eq!(stream.request("GET", &format!("/timers/{id}/stream"), &[], None).status, 200);
    let before = value(&text, &requests);
    eventually(|| {
        let text = read();
        let open = [timers, websockets, streams].map(|name| value(&text, name));
        open == [1.0, 1.0, 1.0] && value(&text, &requests) >= before + 4.0
    });
    drop(stream);
    eventually(|| value(&read(), streams) == 0.0);
}

/// Every path of the daemon's table of routes, but the parts of the page and what only conformance runs have.
fn routes() -> Vec<&'static str> {
    let table =
        include_str!("../../src/api/routes.rs").split("const TABLE").nth(1).unwrap().split("\n];").next().unwrap();
    let quoted = table.split('"').skip(1).step_by(2);
    let paths: Vec<&str> = quoted.filter(|text| text.starts_with('/') && !text.starts_with("/docs/")).collect();
    assert!(paths.len() > 20, "{paths:?}");
    paths.into_iter().filter(|path| *path != "/ws/echo").collect()
}

#[test]
fn the_description_is_openapi_3_1_of_this_version_and_names_every_path() {
    let daemon = Daemon::ephemeral(&[]);
    let response = daemon.get("/openapi.json");
    assert_eq!((response.status, response.header("content-type")), (200, Some("application/json")));
    let document = response.json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1."));
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(daemon.get("/health").json()["version"], document["info"]["version"]);
    // Whatever the daemon routes is described, and nothing else.
    let described = document["paths"].as_object().unwrap();
    let mut unmet: BTreeSet<&str> = described.keys().map(String::as_str).collect();
    let mut http = daemon.connect();
    for path in routes() {
        let options = http.request("OPTIONS", &path.replace("{id}", "x"), &[], None);
        let allow = options.header("allow").unwrap_or_else(|| panic!("no Allow for {path}"));
        let allowed: BTreeSet<String> =
            allow.split(", ").filter(|name| !["HEAD", "OPTIONS"].contains(name)).map(str::to_lowercase).collect();
        let is_it = |known: &&String| known.replace("{timer_id}", "{id}") == path;
        let known = described.keys().find(is_it).unwrap_or_else(|| panic!("{path} is not described"));
        let item = match described[known]["$ref"].as_str() {
            Some(text) => document.pointer(text.strip_prefix('#').unwrap()).unwrap(),
            None => &described[known],
        };
        let methods = ["get", "put", "post", "delete", "patch"].into_iter().filter(|name| item[name].is_object());
        assert_eq!(methods.map(str::to_owned).collect::<BTreeSet<_>>(), allowed, "{path}");
        unmet.remove(known.as_str());
    }
    assert!(unmet.is_empty(), "described, but not routed: {unmet:?}");
    let types = document["components"]["schemas"]["EventType"]["enum"].as_array().unwrap();
    let registry = daemon.get("/api/v1/event-types").json();
    let registered: BTreeSet<&str> = registry.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(types.iter().filter_map(Value::as_str).collect::<BTreeSet<_>>(), registered);
    // Every reference leads somewhere.
    let mut texts = Vec::new();
    let mut todo = vec![&document];
    while let Some(value) = todo.pop() {
        match value {
            Value::Object(fields) => {
                texts.extend(fields.get("$ref").and_then(Value::as_str));
                todo.extend(fields.values());
            }
            Value::Array(items) => todo.extend(items),
            _ => {}
        }
    }
    assert!(!texts.is_empty());
    for text in texts {
        assert!(document.pointer(text.strip_prefix('#').unwrap()).is_some(), "{text}");
    }
}

#[test]
fn the_page_of_the_description_loads_from_here_and_needs_no_inline_code() {
    let daemon = Daemon::ephemeral(&[]);
    let page = daemon.get("/docs");
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let mut loaded = 0;
    for attribute in ["src=\"", "href=\""] {
        for rest in page.text().split(attribute).skip(1) {
            let target = rest.split('"').next().unwrap();
            if target.starts_with('#') {
                continue;
            }
            assert!(target.starts_with('/'), "{target} is not from here");
            let response = daemon.get(target);
            assert_eq!(response.status, 200, "{target}");
            let kind = response.header("content-type").unwrap();
            let expected = match target.rsplit('.').next() {
                Some("js") => "text/javascript",
                Some("css") => "text/css",
                _ => "application/json",
            };
            assert!(kind.starts_with(expected), "{target}: {kind}");
            for foreign in ["http://", "https://"] {
                let loads = ["import ", "import(", "@import", "url(", "fetch("];
                let reaches = response.text().lines().any(|line| {
                    expected != "application/json" && line.contains(foreign) && loads.iter().any(|l| line.contains(l))
                });
                assert!(!reaches, "{target} reaches out");
            }
            loaded += 1;
        }
    }
    assert!(loaded >= 3, "a script, a style sheet and the description");
    for rest in page.text().split("<script").skip(1) {
        let (tag, body) = rest.split_once('>').unwrap();
        assert!(tag.contains("src=") && body.starts_with("</script>"), "an inline script");
    }
    assert!(!page.text().contains("<style") && !page.text().contains(" style="), "an inline style");
    for handler in [" onclick=", " onload=", "javascript:"] {
        assert!(!page.text().contains(handler), "{handler}");
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Limits.

#[test]
fn the_limit_of_timers_is_exact_and_deletion_gives_a_place_back() {
    let daemon = Daemon::ephemeral(&["--max-timers", "3"]);
    let body = json!({ "duration_seconds": 60 });
    let ids: Vec<String> = (0..3).map(|_| daemon.create(body.clone())).collect();
    let full = |daemon: &Daemon| {
        let response = daemon.post("/timers", body.clone());
        assert_eq!((response.status, response.text()), (429, r#"{"detail":"Maximum timer limit reached"}"#));
    };
    full(&daemon);
    daemon.post("/timers", json!({})).assert_fault(&["body", "duration_seconds"]);
    assert_eq!(daemon.control(&ids[0], "stop").status, 200);
    full(&daemon);
    assert_eq!(daemon.delete(&format!("/timers/{}", ids[0])).status, 204);
    let other = daemon.create(body.clone());
    assert!(!ids.contains(&other), "ids are never used twice");
    full(&daemon);
    // Of many at once exactly one gets the last place.
    assert_eq!(daemon.delete(&format!("/timers/{other}")).status, 204);
    let mut http = daemon.connect();
    http.send(request_bytes("POST", "/timers", &[JSON], Some(&body.to_string())).repeat(5));
    let statuses: Vec<u16> = (0..5).map(|_| http.response().status).collect();
    assert_eq!(statuses, [201, 429, 429, 429, 429]);
}

#[test]
fn a_body_may_have_64_kib_and_must_call_itself_json_or_nothing() {
    let daemon = Daemon::ephemeral(&[]);
    let padded = |bytes: usize| {
        let body = r#"{"duration_seconds":60}"#;
        format!("{body}{}", " ".repeat(bytes - body.len()))
    };
    assert_eq!(daemon.request("POST", "/timers", &[JSON], Some(&padded(65_536))).status, 201);
    let response = daemon.request("POST", "/timers", &[JSON], Some(&padded(65_537)));
    assert_eq!(response.status, 413);
    assert!(response.json()["detail"].is_string());

    let body = r#"{"duration_seconds":60}"#;
    for kind in [
        "application/json",
        "application/json; charset=utf-8",
        "Application/JSON",
        "application/problem+json",
        "application/vnd.api+json;v=1",
    ] {
        let response = daemon.request("POST", "/timers", &[("Content-Type", kind)], Some(body));
        assert_eq!(response.status, 201, "{kind}");
    }
    assert_eq!(daemon.request("POST", "/timers", &[], Some(body)).status, 201, "no type is JSON");
    for kind in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "json",
        "text/json+json",
    ] {
        for path in ["/timers", "/timers/timer_x/control", "/timers/bulk/start"] {
            let response = daemon.request("POST", path, &[("Content-Type", kind)], Some(body));
            assert_eq!(response.status, 415, "{kind} {path}");
            let detail = response.detail();
            assert!(detail.contains("Content-Type: application/json"), "it names the header to add: {detail}");
        }
    }
    assert_eq!(daemon.get("/health").json()["timers_active"], 7);
}

#[test]
fn heads_have_a_bound() {
    let daemon = Daemon::ephemeral(&[]);
    let value = "v".repeat(16_000);
    assert_eq!(daemon.request("GET", "/health", &[("X-Long", &value)], None).status, 200);
    let value = "v".repeat(16_500);
    let response = daemon.request("GET", "/health", &[("X-Long", &value)], None);
    assert_eq!(response.status, 431);
    assert!(response.json()["detail"].is_string());
    let fields: Vec<(&str, &str)> = vec![("X-Field", "v"); 63];
    assert_eq!(daemon.request("GET", "/health", &fields, None).status, 200);
    let fields: Vec<(&str, &str)> = vec![("X-Field", "v"); 64];
    assert_eq!(daemon.request("GET", "/health", &fields, None).status, 431);
    let response = daemon.get(&format!("/{}", "p".repeat(17_000)));
    assert!(matches!(response.status, 414 | 431), "{}", response.status);
}

#[test]
fn a_plain_get_of_a_sockets_path_is_told_to_upgrade() {
    let daemon = Daemon::ephemeral(&[]);
    let id = daemon.create(json!({ "duration_seconds": 60 }));
    for path in [format!("/ws/{id}"), format!("/ws/{id}/"), "/ws/timer_none".to_owned()] {
        let response = daemon.get(&path);
        assert_eq!((response.status, response.header("upgrade")), (426, Some("websocket")), "{path}");
        assert!(response.json()["detail"].is_string());
    }
}

#[test]
fn a_full_server_says_so_and_lets_in_whoever_comes_after() {
    let daemon = Daemon::ephemeral(&["--max-connections", "3"]);
    let id = daemon.create(json!({ "duration_seconds": 60 }));
    let ask = |http: &mut Http| {
        http.send(request_bytes("GET", "/health", &[], None));
        http.try_response_to("GET")
    };
    let mut kept: Vec<Http> = Vec::new();
    eventually(|| {
        // The connection of the request before may not be gone yet.
        kept.clear();
        kept.extend((0..3).map(|_| daemon.connect()));
        kept.iter_mut().all(|http| ask(http).is_some_and(|response| response.status == 200))
    });
    let response = daemon.get("/timers");
    assert_eq!(response.status, 503, "{}", response.text());
    assert!(response.header("retry-after").unwrap().parse::<u32>().unwrap() >= 1);
    assert!(response.json()["detail"].is_string());
    assert_safe(&response);
    let mut socket = eventually_open(&daemon, &id);
    let (code, _, before) = socket.expect_close();
    assert_eq!((code, before), (1013, vec![]), "server full");
    drop(kept);
    eventually(|| ask(&mut daemon.connect()).is_some_and(|response| response.status == 200));
}

/// A socket, however soon the one connection too many before it has gone.
fn eventually_open(daemon: &Daemon, id: &str) -> crate::daemon::Socket {
    let mut socket = None;
    eventually(|| {
        socket = daemon.try_open(&format!("/ws/{id}"), &[]).ok();
        socket.is_some()
    });
    socket.unwrap()
}
