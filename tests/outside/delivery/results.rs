//! Results: every session with its answers as NDJSON and CSV, which cannot become a formula, streamed without holding
//! anybody up, and kept when the assessment is gone.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{
    Delivery, assert_fields, assert_time, ephemeral, fast, free, instant_us, item, next, on, refused, section,
    simple, with,
};
use crate::daemon::{Daemon, Http, Response, directory, eventually};

const RESULTS: &str = "/delivery/assessments/x/results";
const COLUMNS: [&str; 6] = ["session_id", "candidate_id", "state", "started_at", "completed_at", "late_ms"];

fn results(daemon: &Daemon, accept: Option<&str>) -> Response {
    let headers: Vec<(&str, &str)> = accept.map(|accept| ("Accept", accept)).into_iter().collect();
    daemon.request("GET", RESULTS, &headers, None)
}

fn lines(response: &Response) -> Vec<Value> {
    assert_eq!((response.status, response.header("content-type")), (200, Some("application/x-ndjson")));
    assert!(response.text().is_empty() || response.text().ends_with('\n'));
    response.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The rows of a CSV (RFC 4180), each line with CRLF, the first one being the header.
fn rows(response: &Response) -> Vec<Vec<String>> {
    assert_eq!((response.status, response.header("content-type")), (200, Some("text/csv; charset=utf-8")));
    let mut rows = vec![vec![String::new()]];
    let mut quoted = false;
    let mut text = response.text().chars().peekable();
    while let Some(c) = text.next() {
        let cell = rows.last_mut().unwrap().last_mut().unwrap();
        match c {
            '"' if !quoted => {
                assert!(cell.is_empty(), "a quote inside a cell that has none: {cell}");
                quoted = true;
            }
            '"' if text.peek() == Some(&'"') => cell.push(text.next().unwrap()),
            '"' => {
                quoted = false;
                assert!(matches!(text.peek(), Some(',' | '\r')), "something behind a quoted cell");
            }
            ',' if !quoted => rows.last_mut().unwrap().push(String::new()),
            '\r' if !quoted => {
                assert_eq!(text.next(), Some('\n'), "a line ends with CRLF");
                rows.push(vec![String::new()]);
            }
            '\n' if !quoted => panic!("a bare line feed"),
            c => cell.push(c),
        }
    }
    assert_eq!(rows.pop(), Some(vec![String::new()]), "the last line ends, too");
    let columns = rows[0].len();
    assert!(rows.iter().all(|row| row.len() == columns), "{rows:?}");
    rows
}

#[test]
fn every_session_is_in_the_results_with_its_answers_as_ndjson_and_as_csv() {
    let daemon = fast(&[]);
    refused(&results(&daemon, None), 404, "Assessment x not found");
    let exam = |limit: u32| with(simple(), json!({ "time_limit_seconds": limit, "grace_seconds": 600 }));
    daemon.set("x", exam(3600));
    assert_eq!(lines(&results(&daemon, None)), [Value::Null; 0]);
    assert_eq!(rows(&results(&daemon, Some("text/csv"))), [[&COLUMNS[..], &["q1", "q2", "q3"]].concat()]);
    let mut made: BTreeMap<String, &str> = BTreeMap::new();
    let mut ids = Vec::new();
    for who in ["running", "paused", "completed", "terminated", "expired", "late"] {
        daemon.set("x", exam(if matches!(who, "expired" | "late") { 8 } else { 3600 }));
        let id = daemon.begin("x", who);
        let body =
            json!({ "item_id": "q2", "response": { "by": who, "n": [1.50, "a,b", "\"", "\n"] }, "is_flagged": true });
        assert_eq!(daemon.ask(&id, "answer", body).status, 200);
        let status = match who {
            "paused" => daemon.call(&id, "pause").status,
            "completed" => {
                daemon.ask(&id, "submit", json!({ "answers": [{ "item_id": "q1", "response": {} }] })).status
            }
            "terminated" => daemon.call(&id, "terminate").status,
            _ => 200,
        };
        assert_eq!(status, 200);
        made.insert(id.clone(), who);
        ids.push(id);
    }
    for id in &ids[4..] {
        eventually(|| daemon.state(id) == "expired");
    }
    assert_eq!(daemon.call(&ids[5], "submit").status, 200);
    eventually(|| lines(&results(&daemon, None)).iter().filter(|line| line["state"] == "expired").count() == 1);
    let told = lines(&results(&daemon, None));
    assert_eq!(told.len(), made.len());
    for line in &told {
        assert_fields(
            line,
            "session_id assessment_id candidate_id test_taker_id state started_at completed_at late_ms \
             time_limit_seconds responses flagged_items",
        );
        let id = line["session_id"].as_str().unwrap();
        let who = made[id];
        let session = daemon.session(id);
        for (field, value) in line.as_object().unwrap() {
            assert_eq!(session[field], *value, "{field} of {who}");
        }
        assert_eq!((&line["candidate_id"], line["late_ms"].is_u64()), (&json!(who), who == "late"), "{line}");
        assert_eq!(line["responses"]["q2"]["by"], who);
    }
    let table = rows(&results(&daemon, Some("text/csv")));
    assert_eq!(table[0], [&COLUMNS[..], &["q1", "q2", "q3"]].concat());
    assert_eq!(table.len(), made.len() + 1);
    let order: Vec<&str> = told.iter().map(|line| line["session_id"].as_str().unwrap()).collect();
    for (row, id) in table[1..].iter().zip(order) {
        let session = daemon.session(id);
        assert_eq!(row[0], id, "in the same order");
        let text = |value: &Value| match value {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        for (column, name) in COLUMNS.iter().enumerate() {
            assert_eq!(row[column], text(&session[*name]), "{name} of {session}");
        }
        assert!(
            row[7].starts_with(r#"{"by":""#) && row[7].contains(r#"[1.5,"a,b","\"","\n"]"#),
            "compact JSON: {}",
            row[7]
        );
        let first = if made[id] == "completed" { "{}" } else { "" };
        assert_eq!((&*row[6], &*row[8]), (first, ""), "nothing where nothing was answered");
        assert_time(&json!(row[3]));
    }
    assert!(instant_us(&told[0]["started_at"]) > 0);
}

#[test]
fn no_cell_can_become_a_formula_and_every_text_survives_its_quotes() {
    let daemon = ephemeral(&[]);
    let items = ["=1+1", "+q", "-q", "@q", "plain", "a,b", "say \"x\"", "é", "'quoted'", " =1"];
    daemon.set("x", free(&[section("a", &items)]));
    let names = [
        "=HYPERLINK(\"http://x\")",
        "+1",
        "-1",
        "@SUM(1)",
        "plain",
        "a,b",
        "say \"x\"",
        "é \u{1f600}",
        "'x",
        " =x",
        ",",
        "\"",
    ];
    for name in names {
        let id = daemon.begin("x", name);
        assert_eq!(daemon.answer(&id, "=1+1", json!({ "=": "=1" })).status, 200);
    }
    let guarded = |text: &str| {
        let is_formula = text.starts_with(['=', '+', '-', '@']);
        if is_formula { format!("'{text}") } else { text.to_owned() }
    };
    let response = results(&daemon, Some("text/csv"));
    let table = rows(&response);
    assert_eq!(table[0][6..], items.map(guarded));
    let mut have: Vec<String> = table[1..].iter().map(|row| row[1].clone()).collect();
    let mut want = names.map(guarded).to_vec();
    have.sort();
    want.sort();
    assert_eq!(have, want);
    for row in &table[1..] {
        assert_eq!(row[6], r#"{"=":"=1"}"#);
    }
    let told = lines(&results(&daemon, None));
    let mut have: Vec<&str> = told.iter().map(|line| line["candidate_id"].as_str().unwrap()).collect();
    have.sort_unstable();
    let mut want = names.to_vec();
    want.sort_unstable();
    assert_eq!(have, want, "JSON needs no such care");
}

#[test]
fn columns_are_the_newest_versions_items_and_then_those_of_older_ones() {
    let daemon = ephemeral(&[]);
    let exam = |items: &[&str]| free(&[section("a", items)]);
    daemon.set("x", exam(&["old", "both", "older"]));
    let first = daemon.begin("x", "anna");
    assert_eq!(daemon.answer(&first, "older", json!({ "n": 1 })).status, 200);
    daemon.set("x", free(&[section("z", &["new2"]), section("a", &["both", "new1"])]));
    let second = daemon.begin("x", "bert");
    assert_eq!(daemon.answer(&second, "new1", json!({ "n": 2 })).status, 200);
    let table = rows(&results(&daemon, Some("text/csv")));
    assert_eq!(table[0][6..9], ["new2", "both", "new1"]);
    let mut others = table[0][9..].to_vec();
    others.sort();
    assert_eq!(others, ["old", "older"]);
    let cell = |id: &str, column: &str| {
        let row = table.iter().find(|row| row[0] == id).unwrap();
        row[table[0].iter().position(|name| name == column).unwrap()].clone()
    };
    let found = [cell(&first, "older"), cell(&second, "new1"), cell(&first, "new1"), cell(&second, "older")];
    assert_eq!(found, [r#"{"n":1}"#, r#"{"n":2}"#, "", ""]);
}

#[test]
fn the_form_is_the_one_that_was_asked_for_or_406() {
    let daemon = ephemeral(&[]);
    daemon.set("x", simple());
    daemon.begin("x", "anna");
    let (ndjson, csv) = ("application/x-ndjson", "text/csv; charset=utf-8");
    for (accept, expected) in [
        ("application/x-ndjson", Some(ndjson)),
        ("APPLICATION/X-NDJSON", Some(ndjson)),
        ("text/csv", Some(csv)),
        ("Text/CSV; charset=utf-8", Some(csv)),
        ("*/*", Some(ndjson)),
        ("application/*", Some(ndjson)),
        ("text/*", Some(csv)),
        ("text/html, text/csv", Some(csv)),
        ("text/csv;q=0.4, application/x-ndjson;q=0.5", Some(ndjson)),
        ("text/csv;q=0.5, application/x-ndjson;q=0.4", Some(csv)),
        ("text/csv, */*;q=0.1", Some(csv)),
        ("text/csv;q=0, */*", Some(ndjson)),
        ("application/x-ndjson;q=0, */*", Some(csv)),
        ("application/x-ndjson; q=0 , text/csv ;q=0.001", Some(csv)),
        ("application/json", None),
        ("text/html", None),
        ("text/csv;q=0", None),
        ("*/*;q=0", None),
        ("application/x-ndjson;q=0, text/csv;q=0, */*", None),
    ] {
        let response = results(&daemon, Some(accept));
        match expected {
            Some(kind) => {
                assert_eq!((response.status, response.header("content-type")), (200, Some(kind)), "{accept}");
            }
            None => {
                assert_eq!(response.status, 406, "{accept}: {}", response.text());
                assert!(!response.detail().is_empty());
            }
        }
    }
    assert_eq!(results(&daemon, None).header("content-type"), Some(ndjson));
    let response = daemon.request("GET", "/delivery/assessments/none/results", &[("Accept", "text/html")], None);
    assert!(matches!(response.status, 404 | 406), "{}", response.status);
}

#[test]
fn results_are_there_after_a_crash_and_after_the_assessment() {
    let (_kept, path) = directory();
    let daemon = on(&path, &[]);
    daemon.set("x", simple());
    for who in ["anna", "bert"] {
        let id = daemon.begin("x", who);
        assert_eq!(daemon.answer(&id, "q1", json!({ "by": who })).status, 200);
        assert_eq!(daemon.go(&id, next()), 1);
        assert_eq!(daemon.call(&id, "submit").status, 200);
    }
    let forms = [None, Some("text/csv")];
    let before = forms.map(|accept| results(&daemon, accept).text().to_owned());
    assert_eq!(before[0].lines().count(), 2);
    daemon.kill();
    let daemon = on(&path, &[]);
    assert_eq!(forms.map(|accept| results(&daemon, accept).text().to_owned()), before);
    assert_eq!(daemon.delete("/delivery/assessments/x").status, 204);
    assert_eq!(forms.map(|accept| results(&daemon, accept).text().to_owned()), before);
    daemon.kill();
    let daemon = on(&path, &[]);
    assert_eq!(forms.map(|accept| results(&daemon, accept).text().to_owned()), before);
    // A new assessment of that name goes on where the old one was.
    daemon.set("x", free(&[section("a", &["q1"])]));
    daemon.begin("x", "cleo");
    assert_eq!(lines(&results(&daemon, None)).len(), 3);
}

#[test]
fn results_are_kept_as_long_as_asked_for() {
    let daemon = ephemeral(&["--keep-finished", "1s", "--keep-results", "2s"]);
    daemon.set("x", simple());
    let id = daemon.begin("x", "anna");
    assert_eq!(daemon.answer(&id, "q1", json!({})).status, 200);
    assert_eq!(daemon.call(&id, "submit").status, 200);
    let running = daemon.begin("x", "bert");
    assert_eq!(lines(&results(&daemon, None)).len(), 2);
    eventually(|| lines(&results(&daemon, None)).len() == 1);
    assert_eq!(lines(&results(&daemon, None))[0]["session_id"], running, "nothing that is not over");
}

#[test]
fn a_slow_reader_of_megabytes_holds_nobody_up() {
    let daemon = fast(&[]);
    let items: Vec<String> = (0..16).map(|n| format!("i{n}")).collect();
    let exam = free(&[section("a", &items.iter().map(String::as_str).collect::<Vec<_>>())]);
    daemon.set("x", exam);
    let filler = "x".repeat(65_000);
    for n in 0..5 {
        let id = daemon.begin("x", &format!("c{n}"));
        let answers: Vec<Value> =
            items.iter().map(|item| json!({ "item_id": item, "response": { "text": filler, "n": n } })).collect();
        assert_eq!(daemon.ask(&id, "submit", json!({ "answers": answers })).status, 200);
    }
    daemon.set(
        "y",
        with(free(&[json!({ "section_id": "a", "items": [item("q")] })]), json!({ "time_limit_seconds": 30 })),
    );
    let id = daemon.begin("y", "watched");
    let (mut socket, _, _) = daemon.attend(&id);
    let mut slow = Http::over(daemon.narrow_stream());
    slow.pace = Duration::from_millis(1);
    slow.send(crate::daemon::request_bytes("GET", RESULTS, &[], None));
    let begun = Instant::now();
    let reader = std::thread::spawn(move || (slow.response(), begun.elapsed()));
    let (mut last, mut latest, mut count) = (u64::MAX, Duration::ZERO, 0);
    loop {
        let asked = Instant::now();
        let message = socket.recv();
        if message["type"] == "expired" {
            break;
        }
        latest = latest.max(asked.elapsed());
        let left = message["time_remaining"].as_u64().unwrap();
        assert!(left < last, "{left} after {last}");
        (last, count) = (left, count + 1);
        let asked = Instant::now();
        assert_eq!(daemon.get(&format!("/delivery/session/{id}/current")).status, 200);
        latest = latest.max(asked.elapsed());
        // What is written meanwhile does not wait for the reader either.
        if left > 0 {
            assert_eq!(daemon.answer(&id, "q", json!({ "n": left })).status, 200);
            latest = latest.max(asked.elapsed());
        }
    }
    let (response, took) = reader.join().unwrap();
    assert!(took > Duration::from_secs(1), "a slow reader takes its time: {took:?}");
    assert!(count >= 20 && last == 0, "{count} ticks, the last one {last}");
    assert!(latest < Duration::from_millis(800), "somebody waited {latest:?}");
    assert!(response.body.len() > 5_000_000, "{}", response.body.len());
    assert_eq!(response.header("transfer-encoding"), Some("chunked"));
    let told = lines(&response);
    assert_eq!(told.len(), 5);
    for line in told {
        let answers = line["responses"].as_object().unwrap();
        assert!(answers.len() == 16 && answers.values().all(|answer| answer["text"] == filler), "whole");
    }
    // The connection is as good as before.
    let mut http = daemon.connect();
    for _ in 0..2 {
        let table = http.request("GET", RESULTS, &[("Accept", "text/csv")], None);
        assert_eq!(rows(&table).len(), 6);
    }
    assert_eq!(http.request("GET", "/health", &[], None).status, 200);
}
