//! What an instructor sees and does, and who may: roles and open candidates, the rows of a room, calls for a whole
//! room at one instant.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{
    Delivery, JSON, NOBODY, STATES, assert_fields, assert_time, at_us, ephemeral, fast, free, instant_us, number,
    refused, section, simple, wall_ms, with,
};
use crate::daemon::{Daemon, Response, directory, eventually};

const ROLES: [&str; 3] = ["viewer", "instructor", "admin"];

/// A keys file with one key a role, named like it.
pub struct Keys {
    path: PathBuf,
    keys: [String; 3],
}

impl Keys {
    pub fn new(directory: &Path) -> Keys {
        std::fs::create_dir_all(directory).unwrap();
        let path = directory.join("keys");
        let mut lines = String::new();
        let keys = ROLES.map(|role| {
            let made = Command::new(env!("CARGO_BIN_EXE_timerd")).args(["key", "new", role, role]).output().unwrap();
            let text = String::from_utf8(made.stdout).unwrap();
            let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
            lines.push_str(&format!("{}\n", field("line:")));
            field("key:")
        });
        std::fs::write(&path, lines).unwrap();
        Keys { path, keys }
    }

    pub fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }

    pub fn key(&self, role: &str) -> &str {
        &self.keys[ROLES.iter().position(|known| *known == role).unwrap()]
    }
}

pub fn ask(daemon: &Daemon, key: Option<&str>, method: &str, path: &str, body: Option<&str>) -> Response {
    let headers: Vec<(&str, &str)> = key.map(|key| ("X-API-Key", key)).into_iter().chain([JSON]).collect();
    daemon.request(method, path, &headers, body)
}

// ---------------------------------------------------------------------------------------------------------------
// Roles.

#[test]
fn every_call_asks_for_its_role_and_open_candidates_need_none() {
    let (_kept, place) = directory();
    let keys = Keys::new(&place);
    let exam = simple().to_string();
    let start = json!({ "candidate_id": "anna", "test_taker_id": "t" }).to_string();
    let none = "/delivery/session/none";
    // Method, path, body, the least rank (1 viewer, 2 instructor), the status for whoever may: refusals that come
    // after the role, so that nobody changes anything.
    let session = |call: &str| format!("{none}/{call}");
    let mut calls: Vec<(&str, String, Option<&str>, usize, u16)> = vec![
        ("POST", "/delivery/start/none".into(), Some(&start), 1, 404),
        ("POST", "/delivery/start/x".into(), Some("{}"), 1, 422),
        ("GET", none.into(), None, 1, 404),
        ("HEAD", none.into(), None, 1, 404),
        ("GET", session("current"), None, 1, 404),
        ("POST", session("answer"), Some(r#"{"item_id":"a","response":{}}"#), 1, 404),
        ("POST", session("answer"), Some("{"), 1, 422),
        ("POST", session("navigate"), Some(r#"{"direction":"next"}"#), 1, 404),
        ("POST", session("save"), None, 1, 404),
        ("POST", session("submit"), None, 1, 404),
        ("POST", session("pause"), None, 2, 404),
        ("POST", session("resume"), None, 2, 404),
        ("POST", session("terminate"), None, 2, 404),
        ("POST", session("extend"), Some(r#"{"seconds":1}"#), 2, 404),
        ("POST", session("extend"), Some("{}"), 2, 422),
        ("PUT", "/delivery/assessments/x".into(), Some(&exam), 2, 200),
        ("PUT", "/delivery/assessments/x".into(), Some("{}"), 2, 422),
        ("GET", "/delivery/assessments/x".into(), None, 2, 200),
        ("GET", "/delivery/assessments".into(), None, 2, 200),
        ("DELETE", "/delivery/assessments/none".into(), None, 2, 404),
        ("PUT", "/delivery/candidates/anna".into(), Some("{}"), 2, 200),
        ("GET", "/delivery/candidates/anna".into(), None, 2, 200),
        ("GET", "/delivery/assessments/x/sessions".into(), None, 2, 200),
        ("GET", "/delivery/assessments/x/results".into(), None, 2, 200),
        ("POST", "/delivery/assessments/none/extend".into(), Some(r#"{"seconds":1}"#), 2, 404),
    ];
    for call in ["pause", "resume"] {
        calls.push(("POST", format!("/delivery/assessments/none/{call}"), None, 2, 404));
    }
    for open in [false, true] {
        let mut flags = vec!["--require-auth", "--keys-file", keys.path()];
        flags.extend(open.then_some("--open-candidates"));
        let daemon = ephemeral(&flags);
        let instructor = Some(keys.key("instructor"));
        assert_eq!(ask(&daemon, instructor, "PUT", "/delivery/assessments/x", Some(&exam)).status, 201);
        assert_eq!(ask(&daemon, instructor, "PUT", "/delivery/candidates/anna", Some("{}")).status, 201);
        let started = ask(&daemon, instructor, "POST", "/delivery/start/x", Some(&start)).json();
        let id = started["session_id"].as_str().unwrap();
        let callers = [(0, None), (0, Some("tk_wrong"))]
            .into_iter()
            .chain(ROLES.iter().enumerate().map(|(n, role)| (n + 1, Some(keys.key(role)))));
        for (rank, key) in callers {
            for (method, path, body, least, status) in &calls {
                let response = ask(&daemon, key, method, path, *body);
                let what = format!("{method} {path} at rank {rank} with {key:?}, open {open}");
                if rank >= *least || (open && *least == 1 && key.is_none()) {
                    assert_eq!(response.status, *status, "{what}: {}", response.text());
                } else if rank == 0 && !(open && *least == 1) {
                    assert_eq!(response.status, 401, "{what}");
                } else if rank > 0 {
                    assert_eq!(response.status, 403, "{what}");
                }
            }
            let headers: Vec<(&'static str, &str)> = key.map(|key| ("X-API-Key", key)).into_iter().collect();
            let mut sockets = vec![daemon.open(&format!("/delivery/ws/{id}"), &headers)];
            if let Some(key) = key {
                sockets.push(daemon.open(&format!("/delivery/ws/{id}?api_key={key}"), &[]));
            }
            for mut socket in sockets {
                if rank > 0 || (open && key.is_none()) {
                    socket.expect("timer");
                } else if !open {
                    assert_eq!(socket.expect_close(), (4001, "Unauthorized".to_owned(), vec![]));
                    let mut nobody = daemon.open(&format!("/delivery/ws/{NOBODY}"), &headers);
                    assert_eq!(nobody.expect_close().0, 4001, "who may not come in is not told what is there");
                }
            }
        }
    }
}

#[test]
fn an_active_session_is_named_to_instructors_only() {
    let (_kept, place) = directory();
    let keys = Keys::new(&place);
    let exam = with(simple(), json!({ "attempt_limit": 1 })).to_string();
    let start = json!({ "candidate_id": "anna", "test_taker_id": "t" }).to_string();
    for flags in [vec!["--require-auth", "--open-candidates"], vec![]] {
        let daemon = ephemeral(&[&flags[..], &["--keys-file", keys.path()]].concat());
        let begin = |key: Option<&str>| ask(&daemon, key, "POST", "/delivery/start/x", Some(&start));
        let instructor = Some(keys.key("instructor"));
        assert_eq!(ask(&daemon, instructor, "PUT", "/delivery/assessments/x", Some(&exam)).status, 201);
        let id = begin(None).json()["session_id"].clone();
        for key in [None, Some(keys.key("viewer"))] {
            refused(&begin(key), 409, "Candidate anna has an active session");
        }
        for role in ["instructor", "admin"] {
            let response = begin(Some(keys.key(role)));
            let expected = json!({ "detail": "Candidate anna has an active session", "session_id": id });
            assert_eq!((response.status, response.json()), (409, expected), "{flags:?}");
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Rows.

#[test]
fn the_rows_of_a_room_say_who_is_where_and_can_be_filtered() {
    let daemon = fast(&[]);
    daemon.set("other", simple());
    daemon.begin("other", "nobody here");
    let exam =
        |limit: u32, grace: u32| with(simple(), json!({ "time_limit_seconds": limit, "grace_seconds": grace }));
    let path = "/delivery/assessments/x/sessions";
    refused(&daemon.get(path), 404, "Assessment x not found");
    daemon.set("x", exam(3600, 10));
    assert_eq!(daemon.get(path).json(), json!([]));
    let mut made = Vec::new();
    for state in STATES {
        let (limit, grace) = match state {
            "late" => (1, 3600),
            "expired" => (1, 0),
            _ => (3600, 10),
        };
        daemon.set("x", exam(limit, grace));
        let id = daemon.begin("x", &format!("candidate {state}"));
        let done = match state {
            "paused" => daemon.call(&id, "pause").status,
            "completed" => daemon.call(&id, "submit").status,
            "terminated" => daemon.call(&id, "terminate").status,
            "in_progress" => daemon.answer(&id, "q2", json!({ "a": 1 })).status,
            _ => 200,
        };
        assert_eq!(done, 200);
        made.push((id, state));
    }
    for (id, state) in &made[..] {
        let wanted = if *state == "late" { "expired" } else { state };
        eventually(|| daemon.state(id) == wanted);
    }
    let begun = wall_ms() / 1000;
    let sockets = [daemon.attend(&made[0].0), daemon.attend(&made[0].0)];
    let rows = daemon.get(path).json();
    let fields =
        "session_id candidate_id test_taker_id state time_remaining_seconds answered total_items connected last_seen";
    for (row, (id, state)) in rows.as_array().unwrap().iter().zip(&made) {
        assert_fields(row, fields);
        let shown = if *state == "late" { "expired" } else { state };
        let expected = json!({
            "session_id": id, "candidate_id": format!("candidate {state}"),
            "test_taker_id": format!("taker of candidate {state}"), "state": shown, "total_items": 3,
            "answered": usize::from(*state == "in_progress"), "connected": if *state == "in_progress" { 2 } else { 0 },
        });
        assert_eq!(with(row.clone(), expected), *row, "in the order of start");
        let left = number(&row["time_remaining_seconds"]);
        assert!(if shown == "expired" { left == 0 } else { (3000..=3600).contains(&left) }, "{row}");
        assert!(row["last_seen"].is_null() || row["last_seen"].is_string(), "{row}");
    }
    assert_eq!(rows.as_array().unwrap().len(), made.len());
    let seen = &rows[0]["last_seen"];
    assert_time(seen);
    assert!((begun - 1..=wall_ms() / 1000).contains(&(instant_us(seen) / 1_000_000)), "{seen}");
    drop(sockets);
    eventually(|| daemon.get(path).json()[0]["connected"] == 0);
    for state in ["not_started", "in_progress", "paused", "completed", "expired", "terminated"] {
        let filtered = daemon.get(&format!("{path}?state={state}")).json();
        let shown = |its: &str| if its == "late" { "expired".to_owned() } else { its.to_owned() };
        let wanted: Vec<&String> = made.iter().filter(|(_, its)| shown(its) == state).map(|(id, _)| id).collect();
        let have: Vec<&str> =
            filtered.as_array().unwrap().iter().map(|row| row["session_id"].as_str().unwrap()).collect();
        assert_eq!(have, wanted, "{state}");
    }
    for state in ["", "running", "Paused", "paused,expired"] {
        daemon.get(&format!("{path}?state={state}")).assert_fault(&["query", "state"]);
    }
}

#[test]
fn a_large_room_is_listed_whole() {
    let daemon = ephemeral(&[]);
    daemon.set("x", free(&[section("a", &["q"])]));
    let mut http = daemon.connect();
    let mut ids = Vec::new();
    for n in 0..1500 {
        let body = json!({ "candidate_id": format!("candidate {n}"), "test_taker_id": "t" }).to_string();
        let started = http.request("POST", "/delivery/start/x", &[JSON], Some(&body));
        ids.push(started.json()["session_id"].clone());
    }
    let rows = daemon.get("/delivery/assessments/x/sessions");
    let listed: Vec<Value> = rows.json().as_array().unwrap().iter().map(|row| row["session_id"].clone()).collect();
    assert_eq!(listed, ids, "in the order of start");
    let paused = daemon.post("/delivery/assessments/x/pause", json!({})).json();
    let told: Vec<Value> = paused.as_array().unwrap().iter().map(|row| row["session_id"].clone()).collect();
    assert_eq!(told, ids);
    assert!(paused.as_array().unwrap().iter().all(|row| row["status"] == "paused"), "all of them");
    let rows = daemon.get("/delivery/assessments/x/sessions?state=paused").json();
    assert_eq!(rows.as_array().unwrap().len(), 1500);
    let results = daemon.get("/delivery/assessments/x/results");
    let line = |text: &str| serde_json::from_str::<Value>(text).unwrap()["session_id"].clone();
    assert_eq!(results.text().lines().map(line).collect::<Vec<_>>(), ids);
}

// ---------------------------------------------------------------------------------------------------------------
// A whole room at once.

#[test]
fn a_fire_alarm_stops_a_room_and_lets_it_go_on_with_a_row_for_each_that_has_not_ended() {
    let daemon = fast(&[]);
    let bulk = |call: &str| {
        let response = daemon.request("POST", &format!("/delivery/assessments/x/{call}"), &[], None);
        assert_eq!(response.status, 200, "{}", response.text());
        response.json()
    };
    let extend = |body: Value| daemon.post("/delivery/assessments/x/extend", body);
    for call in ["pause", "resume"] {
        refused(&daemon.post(&format!("/delivery/assessments/x/{call}"), json!({})), 404, "Assessment x not found");
    }
    refused(&extend(json!({ "seconds": 1 })), 404, "Assessment x not found");
    daemon.set("x", simple());
    assert_eq!((bulk("pause"), bulk("resume")), (json!([]), json!([])));
    assert_eq!(extend(json!({ "seconds": 60 })).json(), json!([]));
    for body in [json!({}), json!({ "seconds": 0 }), json!({ "seconds": 7201 }), json!({ "seconds": "x" })] {
        extend(body).assert_fault(&["body", "seconds"]);
    }
    extend(json!({ "seconds": 1, "reason": 5 })).assert_fault(&["body", "reason"]);
    let refusal = daemon.post("/delivery/assessments/none/extend", json!({}));
    assert_eq!(refusal.status, 422, "the body first");

    let [running, paused, done, ended] = ["a", "b", "c", "d"].map(|who| daemon.begin("x", who));
    daemon.set("x", free(&[section("a", &["q"])]));
    let untimed = daemon.begin("x", "e");
    daemon.set("y", simple());
    let elsewhere = daemon.begin("y", "f");
    assert_eq!(daemon.call(&paused, "pause").status, 200);
    assert_eq!(daemon.call(&done, "submit").status, 200);
    assert_eq!(daemon.call(&ended, "terminate").status, 200);
    let (mut socket, _, _) = daemon.attend(&running);
    let row =
        |id: &str, success: bool, status: &str| json!({ "session_id": id, "success": success, "status": status });
    let state = |id: &str| daemon.state(id);
    assert_eq!(
        bulk("pause"),
        json!([
            row(&running, true, "paused"),
            row(&paused, false, "failed (state: paused)"),
            row(&untimed, true, "paused")
        ])
    );
    socket.skip_to("paused");
    assert_eq!([state(&running), state(&untimed), state(&elsewhere)], ["paused", "paused", "in_progress"]);
    assert_eq!(
        extend(json!({ "seconds": 300, "reason": "fire" })).json(),
        json!([
            row(&running, true, "extended by 300s"),
            row(&paused, true, "extended by 300s"),
            row(&untimed, false, "failed (state: paused)"),
        ])
    );
    let said = socket.skip_to("extended");
    assert_eq!([&said["added_seconds"], &said["reason"]], [&json!(300), &json!("fire")]);
    assert_eq!(daemon.session(&paused)["time_limit_seconds"], 3900);
    assert_eq!(
        bulk("resume"),
        json!([row(&running, true, "resumed"), row(&paused, true, "resumed"), row(&untimed, true, "resumed")])
    );
    socket.skip_to("resumed");
    assert_eq!(
        bulk("resume"),
        json!([
            row(&running, false, "failed (state: in_progress)"),
            row(&paused, false, "failed (state: in_progress)"),
            row(&untimed, false, "failed (state: in_progress)"),
        ])
    );
    assert_eq!(extend(json!({ "seconds": 1 })).json()[2], row(&untimed, false, "failed (state: in_progress)"));
    assert_eq!(daemon.session(&done)["time_limit_seconds"], 3600);
    // A repeated call is the first one.
    let once = || {
        let headers = [JSON, ("Idempotency-Key", "alarm")];
        daemon.request("POST", "/delivery/assessments/x/extend", &headers, Some(r#"{"seconds":60}"#))
    };
    let (first, again) = (once(), once());
    assert_eq!((first.text(), again.header("idempotency-replayed")), (again.text(), Some("true")));
    assert_eq!(daemon.session(&paused)["time_limit_seconds"], 3961);
}

#[test]
fn a_room_stops_and_goes_on_at_one_instant() {
    let daemon = fast(&[]);
    daemon.set("x", with(simple(), json!({ "time_limit_seconds": 20, "grace_seconds": 0 })));
    let ids: Vec<String> = (0..60).map(|n| daemon.begin("x", &format!("c{n}"))).collect();
    let before = Instant::now();
    let bulk = |call: &str| daemon.post(&format!("/delivery/assessments/x/{call}"), json!({ "seconds": 1 })).json();
    bulk("pause");
    std::thread::sleep(Duration::from_millis(200));
    bulk("extend");
    bulk("resume");
    let most = before.elapsed();
    let lasted = |id: &String| at_us(&daemon.event(id, "quiz_timeout")) - at_us(&daemon.event(id, "quiz_started"));
    let spans: Vec<i64> = ids.iter().map(lasted).collect();
    let (least_us, most_us) = (*spans.iter().min().unwrap(), *spans.iter().max().unwrap());
    assert!(most_us - least_us <= 3_000, "all of them by the same: {least_us}..{most_us} us");
    let pause_us = least_us - 2_100_000;
    let most_us = i64::try_from(most.as_micros()).unwrap();
    assert!((195_000..=most_us + 5_000).contains(&pause_us), "a pause of {pause_us} us");
}
