//! The event pipeline's contract, seen from outside: each row of REST and each sentence on the two sockets, bodies at
//! their bounds, the numbering, what a reader with `after` sees while thousands are published and over kill -9, the
//! counters, deletion and retention, rate limits, roles, and the events that timers make of themselves.
//!
//! What is expected is the contract's word, never the daemon's: the numbers that readers must see are computed here
//! from what was published and acknowledged. Limits of rates are off but in the tests that are about them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::daemon::{Daemon, Http, PATIENCE, Response, Socket, assert_safe, directory, eventually, request_bytes};
use rustix::net::sockopt;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};
use serde_json::{Value, json};
use tungstenite::Message;
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{Data, OpCode};

const JSON: (&str, &str) = ("Content-Type", "application/json");
/// Every path exists under both.
const FAMILIES: [&str; 2] = ["/api/v1", ""];
/// The registry, in its order.
const TYPES: [&str; 22] = [
    "quiz_started",
    "quiz_completed",
    "quiz_timeout",
    "answer_submitted",
    "answer_changed",
    "question_viewed",
    "question_skipped",
    "timer_started",
    "timer_tick",
    "timer_warning",
    "mastery_updated",
    "learning_gap_detected",
    "session_created",
    "session_ended",
    "error_occurred",
    "timer_created",
    "timer_paused",
    "timer_resumed",
    "timer_extended",
    "timer_stopped",
    "timer_expired",
    "timer_deleted",
];
const FIELDS: [&str; 8] = ["id", "event_type", "source", "session_id", "user_id", "payload", "timestamp", "seq"];
const NO_LIMITS: [&str; 8] =
    ["--rate-publish", "off", "--rate-query", "off", "--rate-admin", "off", "--ws-per-address", "off"];

fn with_no_limits<'a>(flags: &[&'a str]) -> Vec<&'a str> {
    NO_LIMITS.iter().chain(flags).copied().collect()
}

/// A daemon that keeps nothing and limits no rates.
fn ephemeral(flags: &[&str]) -> Daemon {
    Daemon::ephemeral(&with_no_limits(flags))
}

/// A daemon on a data directory that limits no rates.
fn on(path: &Path, flags: &[&str]) -> Daemon {
    Daemon::on(path, &with_no_limits(flags))
}

fn keys_of(value: &Value) -> Vec<&str> {
    value.as_object().unwrap_or_else(|| panic!("no object: {value}")).keys().map(String::as_str).collect()
}

fn wall_us() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros()).unwrap()
}

fn instant_us(value: &Value) -> i64 {
    value.as_str().unwrap_or_else(|| panic!("no time: {value}")).parse::<jiff::Timestamp>().unwrap().as_microsecond()
}

/// Sleeps until the next event must have a later timestamp than those before.
fn pass_time() {
    std::thread::sleep(Duration::from_millis(3));
}

fn seq(event: &Value) -> u64 {
    event["seq"].as_u64().unwrap_or_else(|| panic!("no seq: {event}"))
}

fn seqs(events: &[Value]) -> Vec<u64> {
    events.iter().map(seq).collect()
}

/// The shape of an event of the contract.
#[track_caller]
fn assert_event(event: &Value) {
    assert_eq!(keys_of(event), FIELDS, "the order of the contract");
    let id = event["id"].as_str().unwrap();
    let digits = id.strip_prefix("evt_").unwrap_or_else(|| panic!("{id}"));
    assert!(digits.len() == 12 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')), "{id}");
    let time = event["timestamp"].as_str().unwrap();
    let shape: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(shape, "0000-00-00T00:00:00.000000Z", "{time}");
    assert!(TYPES.contains(&event["event_type"].as_str().unwrap()), "{event}");
    assert!(event["payload"].is_object() && event["source"].is_string() && seq(event) >= 1, "{event}");
}

/// An event's body: the least that is needed, with `more`.
fn body(more: Value) -> Value {
    let mut body = json!({ "event_type": "quiz_started", "source": "quiz_engine" });
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

/// The `n`th event of a long sequence: its type, session and user follow from `n`.
fn nth(n: u64) -> Value {
    let kinds = ["answer_submitted", "answer_changed", "question_viewed"];
    json!({
        "event_type": kinds[usize::try_from(n % 3).unwrap()],
        "source": "quiz_engine",
        "session_id": format!("s{}", n % 4),
        "user_id": format!("u{}", n % 5),
        "payload": { "n": n },
    })
}

/// Whether filters let an event through, as the contract has it.
fn matches(filters: &Value, event: &Value) -> bool {
    let is = |name: &str| {
        let wanted = &filters[name];
        wanted.is_null() || wanted == "" || *wanted == event[name]
    };
    let kinds = filters["event_types"].as_array().filter(|kinds| !kinds.is_empty());
    is("session_id") && is("user_id") && kinds.is_none_or(|kinds| kinds.contains(&event["event_type"]))
}

/// The id of an acknowledged event.
#[track_caller]
fn acknowledged(answer: &Value) -> String {
    assert_eq!((keys_of(answer), &answer["status"]), (vec!["status", "event_id"], &json!("ok")), "{answer}");
    answer["event_id"].as_str().unwrap().to_owned()
}

/// What is wrong, as a socket says it.
#[track_caller]
fn refused(answer: &Value) -> String {
    assert_eq!((keys_of(answer), &answer["status"]), (vec!["status", "message"], &json!("error")), "{answer}");
    answer["message"].as_str().unwrap().to_owned()
}

/// Publishes over a socket, so many at a time; returns the ids in order.
#[track_caller]
fn publish_all(socket: &mut Socket, bodies: impl IntoIterator<Item = Value>, at_a_time: usize) -> Vec<String> {
    let mut bodies = bodies.into_iter().peekable();
    let mut ids = Vec::new();
    while bodies.peek().is_some() {
        let mut sent = 0;
        for body in bodies.by_ref().take(at_a_time) {
            socket.inner.write(Message::text(body.to_string())).unwrap();
            sent += 1;
        }
        socket.inner.flush().unwrap();
        ids.extend((0..sent).map(|_| acknowledged(&socket.recv())));
    }
    ids
}

/// Everything after `after`, page by page.
#[track_caller]
fn read_on(daemon: &Daemon, after: u64, filters: &str, limit: usize) -> Vec<Value> {
    let mut all: Vec<Value> = Vec::new();
    let mut at = after;
    loop {
        let page = daemon.events(&format!("?after={at}&limit={limit}{filters}"));
        assert!(page.len() <= limit);
        let Some(last) = page.last() else { return all };
        at = seq(last);
        all.extend(page);
    }
}

fn last_seq(daemon: &Daemon) -> u64 {
    daemon.get("/stats").json()["last_seq"].as_u64().unwrap_or(0)
}

fn active_subscribers(daemon: &Daemon) -> u64 {
    daemon.get("/readiness").json()["router"]["active_subscribers"].as_u64().unwrap()
}

/// A request whose body is no text.
fn post_bytes(daemon: &Daemon, path: &str, body: &[u8]) -> Response {
    let mut request =
        format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    request.extend_from_slice(body);
    let mut http = daemon.connect();
    http.send(request);
    http.response()
}

/// A body whose payload is this text, as it stands.
fn with_payload(payload: &str) -> String {
    format!(r#"{{"event_type":"quiz_started","source":"quiz_engine","payload":{payload}}}"#)
}

// ---------------------------------------------------------------------------------------------------------------
// The registry, the event.

#[test]
fn the_registry_is_listed_in_its_order_with_descriptions_and_each_type_can_be_published() {
    let daemon = ephemeral(&[]);
    for family in FAMILIES {
        let response = daemon.get(&format!("{family}/event-types"));
        assert_eq!((response.status, response.header("content-type")), (200, Some("application/json")));
        let types = response.json();
        assert_eq!(keys_of(&types), TYPES);
        let descriptions: BTreeSet<&str> =
            types.as_object().unwrap().values().map(|text| text.as_str().unwrap()).collect();
        assert_eq!(descriptions.len(), TYPES.len(), "each has a description of its own: {types}");
        assert!(descriptions.iter().all(|text| text.len() > 3), "{types}");
        for kind in TYPES {
            let response = daemon.post(&format!("{family}/events"), body(json!({ "event_type": kind })));
            assert_eq!(response.status, 201, "{kind}: {}", response.text());
            assert_event(&response.json());
            assert_eq!(response.json()["event_type"], kind);
        }
        for kind in [json!("bogus"), json!("QUIZ_STARTED"), json!(" quiz_started"), json!("quiz_started\n")] {
            let response = daemon.post(&format!("{family}/events"), body(json!({ "event_type": kind })));
            response.assert_fault(&["body", "event_type"]);
            let said = response.json()["detail"][0]["msg"].as_str().unwrap().to_owned();
            assert!(TYPES.iter().all(|known| said.contains(known)), "it names those that are known: {said}");
        }
    }
}

#[test]
fn an_event_is_answered_whole_and_read_back_by_its_id() {
    let daemon = ephemeral(&[]);
    let full = json!({
        "event_type": "answer_submitted", "source": "quiz_engine", "session_id": "session-123",
        "user_id": "student-456", "payload": { "quiz_id": "math-101", "ok": [true, null, "é \u{1f600}"] },
    });
    let mut made = Vec::new();
    for family in FAMILIES {
        let begun = wall_us();
        let response = daemon.post(&format!("{family}/events"), full.clone());
        assert_eq!((response.status, response.header("content-type")), (201, Some("application/json")));
        let event = response.json();
        assert_event(&event);
        for (name, value) in full.as_object().unwrap() {
            assert_eq!(event[name], *value, "{name}");
        }
        // The server's time, in microseconds, of this moment: its clock is read once a turn.
        let at = instant_us(&event["timestamp"]);
        assert!((begun - 50_000..=wall_us()).contains(&at), "{event} was asked for at {begun}");
        made.push(event);

        let least = daemon.post(&format!("{family}/events"), body(json!({}))).json();
        assert_event(&least);
        assert_eq!(
            [&least["session_id"], &least["user_id"], &least["payload"]],
            [&Value::Null, &Value::Null, &json!({})]
        );
        made.push(least);

        // What is the server's to say is not taken from a body; other fields are ignored.
        let theirs = json!({
            "id": "evt_000000000000", "timestamp": "2001-01-01T00:00:00Z", "seq": 999, "more": { "x": [1] },
            "session_id": null, "user_id": null,
        });
        let event = daemon.post(&format!("{family}/events"), body(theirs)).json();
        assert_event(&event);
        assert!(event["id"] != "evt_000000000000" && !event["timestamp"].as_str().unwrap().starts_with("2001"));
        made.push(event);
    }
    assert_eq!(seqs(&made), [1, 2, 3, 4, 5, 6]);
    for family in FAMILIES {
        for event in &made {
            let id = event["id"].as_str().unwrap();
            for slash in ["", "/"] {
                let read = daemon.get(&format!("{family}/events/{id}{slash}"));
                assert_eq!((read.status, read.json()), (200, event.clone()));
            }
        }
        let listed: Vec<Value> = made.iter().rev().cloned().collect();
        assert_eq!(daemon.get(&format!("{family}/events")).json(), json!(listed), "newest first");
        for id in ["evt_000000000000", "x", "%20", "evt_%27", "EVT_1", &"y".repeat(500)] {
            let response = daemon.get(&format!("{family}/events/{id}"));
            assert_eq!((response.status, response.text()), (404, r#"{"detail":"Event not found"}"#), "{id}");
        }
    }
}

#[test]
fn every_field_has_its_bounds_and_a_fault_publishes_nothing() {
    let daemon = ephemeral(&[]);
    let wide = "\u{1f600}".repeat(200);
    let keys = |count: usize| (0..count).map(|n| (n.to_string(), json!(n))).collect::<serde_json::Map<_, _>>();
    let good = [
        json!({ "source": "a" }),
        json!({ "source": "AZaz09_.-" }),
        json!({ "source": "..." }),
        json!({ "source": "x".repeat(100) }),
        json!({ "session_id": "", "user_id": "" }),
        json!({ "session_id": wide, "user_id": wide }),
        json!({ "session_id": "a b/c\u{e9}\u{0}\n\"\\", "user_id": "\u{2028}" }),
        json!({ "payload": {} }),
        json!({ "payload": keys(50) }),
        json!({ "payload": { "inner": keys(500) } }),
        json!({ "payload": { "": { "": [] } } }),
    ];
    for more in &good {
        let wanted = body(more.clone());
        let event = daemon.publish(wanted.clone());
        for (name, value) in wanted.as_object().unwrap() {
            assert_eq!(event[name], *value, "{more}");
        }
        assert_eq!(daemon.get(&format!("/events/{}", event["id"].as_str().unwrap())).json(), event);
    }

    let mut bad = Vec::new();
    for source in [
        json!(null),
        json!(""),
        json!("x".repeat(101)),
        json!("a b"),
        json!("a/b"),
        json!("a@b"),
        json!("caf\u{e9}"),
        json!("ok\n"),
        json!("\nok"),
        json!("a\u{0}b"),
        json!("a:b"),
        json!(3),
        json!(true),
        json!(["a"]),
        json!({}),
    ] {
        bad.push(("source", source));
    }
    for name in ["session_id", "user_id"] {
        for id in [json!("\u{e9}".repeat(201)), json!("x".repeat(201)), json!(5), json!(true), json!([]), json!({})] {
            bad.push((name, id));
        }
    }
    for payload in [json!(null), json!([]), json!("x"), json!(5), json!(true), json!([{ "a": 1 }]), json!(keys(51))] {
        bad.push(("payload", payload));
    }
    for kind in [json!(null), json!(""), json!(3), json!([]), json!(["quiz_started"]), json!({})] {
        bad.push(("event_type", kind));
    }
    for (name, value) in &bad {
        for family in FAMILIES {
            let response = daemon.post(&format!("{family}/events"), body(json!({ *name: value })));
            assert_eq!(response.status, 422, "{name} {value}");
            response.assert_fault(&["body", name]);
        }
    }
    for family in FAMILIES {
        let path = format!("{family}/events");
        daemon.post(&path, json!({ "source": "x" })).assert_fault(&["body", "event_type"]);
        daemon.post(&path, json!({ "event_type": "quiz_started" })).assert_fault(&["body", "source"]);
        let several = daemon
            .post(&path, json!({ "event_type": "x", "source": "", "session_id": 1, "user_id": 2, "payload": 3 }));
        let detail = several.json()["detail"].clone();
        let locs: Vec<&Value> = detail.as_array().unwrap().iter().map(|fault| &fault["loc"]).collect();
        let expected = ["event_type", "source", "session_id", "user_id", "payload"].map(|name| json!(["body", name]));
        assert_eq!(locs, expected.iter().collect::<Vec<_>>(), "one entry for each fault");
        let empty = daemon.post(&path, json!({})).json()["detail"].clone();
        let locs: Vec<&Value> = empty.as_array().unwrap().iter().map(|fault| &fault["loc"]).collect();
        assert_eq!(locs, [&json!(["body", "event_type"]), &json!(["body", "source"])]);
    }
    assert_eq!(last_seq(&daemon), good.len() as u64, "a refused event takes no number");
    assert_eq!(daemon.get("/stats").json()["total_events"], good.len());
}

#[test]
fn a_body_that_is_no_json_object_is_422_and_publishes_nothing() {
    let daemon = ephemeral(&[]);
    let before = with_payload("{}");
    let mut cases: Vec<Vec<u8>> = vec![
        b"".to_vec(),
        b"{".to_vec(),
        b"{bad".to_vec(),
        b"null".to_vec(),
        b"[]".to_vec(),
        b"[{}]".to_vec(),
        b"5".to_vec(),
        b"\"text\"".to_vec(),
        format!("{before} trailing").into_bytes(),
        format!("{before},").into_bytes(),
        before.replace('"', "'").into_bytes(),
        [b"\xef\xbb\xbf", before.as_bytes()].concat(),
        b"{\"event_type\":\"quiz_started\",\"source\":\"\xff\"}".to_vec(),
        [with_payload("{\"n\":\"").trim_end_matches('}').as_bytes(), b"\xed\xa0\x80\"}}"].concat(),
    ];
    for payload in [
        r#"{"n":NaN}"#,
        r#"{"n":Infinity}"#,
        r#"{"n":-Infinity}"#,
        r#"{"n":1e400}"#,
        r#"{"n":[{"deep":-1e400}]}"#,
        r#"{"n":"\ud800"}"#,
        r#"{"n":"\udc00\ud800"}"#,
        r#"{"n":"\ud800x"}"#,
        r#"{"\ud83d":1}"#,
        r#"{"n":["x","\uDFFF"]}"#,
        r#"{"n":01}"#,
        r#"{"n":1.}"#,
        r#"{"n":+1}"#,
        r#"{"n":.5}"#,
        r#"{"n":tru}"#,
        r#"{"n":"\x41"}"#,
        "{\"n\":\"tab\there\"}",
        r#"{"n":1,}"#,
        r#"{"n":[1,]}"#,
        r#"{"n" 1}"#,
        r#"{n:1}"#,
    ] {
        cases.push(with_payload(payload).into_bytes());
    }
    for levels in [500, 10_000] {
        let deep = format!(r#"{{"d":{}{}}}"#, "[".repeat(levels), "]".repeat(levels));
        cases.push(with_payload(&deep).into_bytes());
    }
    for case in &cases {
        let response = post_bytes(&daemon, "/events", case);
        let shown = String::from_utf8_lossy(case).into_owned();
        assert_eq!(response.status, 422, "{shown}: {}", response.text());
        response.assert_fault(&["body"]);
    }
    // The same over a socket: an error for each, in order, and the connection stays.
    let mut socket = daemon.open("/ws/publish", &[]);
    for case in &cases {
        let Ok(text) = std::str::from_utf8(case) else { continue };
        socket.send_text(text);
        refused(&socket.recv());
    }
    assert_eq!((last_seq(&daemon), daemon.events("").len()), (0, 0));
    socket.send(body(json!({})));
    acknowledged(&socket.recv());
    assert_eq!(last_seq(&daemon), 1);
}

#[test]
fn a_payload_is_kept_to_the_letter_without_its_whitespace() {
    let (_kept, path) = directory();
    let daemon = on(&path, &[]);
    // As deep as may be: a reader that parses whole pages must still be able to follow.
    let deep = format!(r#"{{"d":{}{}}}"#, "[".repeat(499), "]".repeat(499));
    let deep_objects = format!("{}1{}", r#"{"d":"#.repeat(500), "}".repeat(500));
    let cases = [
        (r#"{"n":1000000000000000000000000000000}"#, r#"{"n":1000000000000000000000000000000}"#),
        (r#"{"n":-123456789012345678901234567890.50}"#, r#"{"n":-123456789012345678901234567890.50}"#),
        (r#"{"a":1.10,"b":1e2,"c":-0,"d":1E-7}"#, r#"{"a":1.10,"b":1e2,"c":-0,"d":1E-7}"#),
        (r#"{"n":9007199254740993,"m":18446744073709551616}"#, r#"{"n":9007199254740993,"m":18446744073709551616}"#),
        (r#"{"z":1,"a":2,"m":3}"#, r#"{"z":1,"a":2,"m":3}"#),
        (r#"{"b":1,"a":2,"b":{"c":1,"c":2}}"#, r#"{"b":1,"a":2,"b":{"c":1,"c":2}}"#),
        (
            " {\r\n\t\"a\" : [ 1 , 2 ,{ } ] , \"b c\" : \"x  \\\" y \\\\\" , \"d\" : null }\n ",
            r#"{"a":[1,2,{}],"b c":"x  \" y \\","d":null}"#,
        ),
        ("{\"é\u{1f600}\":\"\u{2028} ü\"}", "{\"é\u{1f600}\":\"\u{2028} ü\"}"),
        (&deep, &deep),
        (&deep_objects, &deep_objects),
    ];
    let mut subscriber = daemon.subscribe(json!({})).0;
    let mut publisher = daemon.open("/ws/publish", &[]);
    let next_text = |socket: &mut Socket| match socket.inner.read().unwrap() {
        Message::Text(text) => text.to_string(),
        other => panic!("{other:?}"),
    };
    let mut ids = Vec::new();
    for (given, kept) in &cases {
        let holds = |text: &str| {
            let shown = &text[..text.len().min(300)];
            assert!(text.contains(&format!(r#","payload":{kept},"timestamp":""#)), "{shown}");
        };
        let response = daemon.request("POST", "/events", &[JSON], Some(&with_payload(given)));
        assert_eq!(response.status, 201, "{}", response.text());
        holds(response.text());
        assert_eq!(next_text(&mut subscriber), response.text(), "as the publisher was told");
        publisher.send_text(&with_payload(given));
        let id = acknowledged(&publisher.recv());
        let pushed = next_text(&mut subscriber);
        holds(&pushed);
        assert_eq!(daemon.get(&format!("/events/{id}")).text(), pushed);
        ids.push((id, pushed));
    }
    let listing = daemon.get("/events?after=0&limit=1000").text().to_owned();
    daemon.kill();
    let daemon = on(&path, &[]);
    assert_eq!(daemon.get("/events?after=0&limit=1000").text(), listing, "from the disk, too");
    let mut again = daemon.open("/ws/subscribe", &[]);
    again.send(json!({ "after": 0 }));
    again.recv();
    for (id, text) in &ids {
        assert_eq!(daemon.get(&format!("/events/{id}")).text(), text);
        next_text(&mut again);
        assert_eq!(next_text(&mut again), *text, "from history, too");
    }
    // Escapes say the same, however they are kept.
    let event = daemon
        .request("POST", "/events", &[JSON], Some(&with_payload(r#"{"\u00e9":"\ud83d\ude00\u0000\/"}"#)))
        .json();
    assert_eq!(event["payload"], json!({ "é": "\u{1f600}\u{0}/" }));
    // Of a field that is given twice the last one counts.
    let twice = r#"{"event_type":"bogus","event_type":"quiz_timeout","source":"a","source":"b"}"#;
    let event = daemon.request("POST", "/events", &[JSON], Some(twice)).json();
    assert_eq!((&event["event_type"], &event["source"]), (&json!("quiz_timeout"), &json!("b")));
}

#[test]
fn a_payload_has_64_kib_of_compact_json_and_not_a_byte_more() {
    let daemon = ephemeral(&[]);
    let mut socket = daemon.open("/ws/publish", &[]);
    // {"k":"..."} is eight bytes more than its text.
    let of = |bytes: usize| format!(r#"{{"k":"{}"}}"#, "x".repeat(bytes - 8));
    let wide = |bytes: usize| format!(r#"{{"k":"{}"}}"#, "\u{e9}".repeat((bytes - 8) / 2));
    let spaced = |bytes: usize| format!(r#"{{ "k" :{}"{}" }}"#, " ".repeat(50_000), "x".repeat(bytes - 8));
    for (fits, over) in [
        (of(65_536), of(65_537)),
        (wide(65_536), wide(65_538)),
        (spaced(65_536), spaced(65_537)),
        (format!(r#"{{"a":[{}1]}}"#, "1,".repeat(32_763)), format!(r#"{{"a":[{}1]}}"#, "1,".repeat(32_764))),
    ] {
        for family in FAMILIES {
            let path = format!("{family}/events");
            let response = daemon.request("POST", &path, &[JSON], Some(&with_payload(&fits)));
            assert_eq!(response.status, 201, "{}", &response.text()[..200]);
            assert_eq!(response.json()["payload"], serde_json::from_str::<Value>(&fits).unwrap());
            daemon.request("POST", &path, &[JSON], Some(&with_payload(&over))).assert_fault(&["body", "payload"]);
        }
        socket.send_text(&with_payload(&fits));
        acknowledged(&socket.recv());
        socket.send_text(&with_payload(&over));
        let said = refused(&socket.recv());
        assert!(said.contains("payload") && said.len() < 1000, "{said}");
    }
    assert_eq!(last_seq(&daemon), 12);
}

#[test]
fn a_body_may_have_512_kib_and_must_call_itself_json_or_nothing() {
    let daemon = ephemeral(&[]);
    let least = with_payload("{}");
    for family in FAMILIES {
        for slash in ["", "/"] {
            let path = format!("{family}/events{slash}");
            let padded = format!("{least}{}", " ".repeat((512 << 10) - least.len()));
            assert_eq!(daemon.request("POST", &path, &[JSON], Some(&padded)).status, 201, "{path}");
            let mut http = daemon.connect();
            // It may be refused before it has come in whole.
            let _ = http.stream.write_all(&request_bytes("POST", &path, &[JSON], Some(&(padded + " "))));
            let response = http.response();
            assert_eq!(response.status, 413, "{path}");
            assert!(response.json()["detail"].is_string());
            assert_safe(&response);
        }
        let path = format!("{family}/events");
        for kind in ["text/plain", "application/x-www-form-urlencoded", "json"] {
            let response = daemon.request("POST", &path, &[("Content-Type", kind)], Some(&least));
            assert_eq!(response.status, 415, "{kind}");
            assert!(response.detail().contains("Content-Type: application/json"), "{}", response.text());
        }
        for kind in ["application/json; charset=utf-8", "application/vnd.api+json"] {
            assert_eq!(daemon.request("POST", &path, &[("Content-Type", kind)], Some(&least)).status, 201, "{kind}");
        }
        assert_eq!(daemon.request("POST", &path, &[], Some(&least)).status, 201, "no type is JSON");
    }
    assert_eq!(last_seq(&daemon), 2 * (2 + 3));
    // The larger bound is the events' own.
    let large = format!("{{\"duration_seconds\":60}}{}", " ".repeat(64 << 10));
    assert_eq!(daemon.request("POST", "/timers", &[JSON], Some(&large)).status, 413);
    // And it is for those who may publish.
    let daemon = Daemon::start(&["--ephemeral", "--require-auth"], &[("API_KEY", "sekrit")]);
    let padded = format!("{least}{}", " ".repeat(100 << 10));
    let status = |fields: &[(&str, &str)]| {
        let mut http = daemon.connect();
        // It may be refused before it has come in whole.
        let _ = http.stream.write_all(&request_bytes("POST", "/events", fields, Some(&padded)));
        http.response().status
    };
    assert_eq!((status(&[JSON]), status(&[JSON, ("X-API-Key", "sekrit")])), (413, 201));
}

#[test]
fn an_idempotency_key_publishes_once_and_gives_the_same_event_again_after_a_restart_too() {
    let (_kept, path) = directory();
    let daemon = on(&path, &[]);
    let mut subscriber = daemon.subscribe(json!({})).0;
    let once = |daemon: &Daemon, key: &str, body: Value| {
        daemon.request("POST", "/api/v1/events", &[JSON, ("Idempotency-Key", key)], Some(&body.to_string()))
    };
    let first = once(&daemon, "k", body(json!({ "payload": { "n": 1 } })));
    assert_eq!((first.status, first.header("idempotency-replayed")), (201, None));
    let check = |again: Response| {
        assert_eq!((again.status, again.header("idempotency-replayed")), (201, Some("true")));
        assert_eq!(again.text(), first.text());
    };
    check(once(&daemon, "k", body(json!({ "payload": { "n": 1 } }))));
    once(&daemon, "k", body(json!({ "payload": { "n": 2 } }))).assert_fault(&["header", "idempotency-key"]);
    assert_eq!(once(&daemon, "other", body(json!({ "payload": { "n": 1 } }))).json()["seq"], 2);
    assert_eq!(once(&daemon, "bad", json!({})).status, 422);
    assert_eq!(once(&daemon, "bad", body(json!({}))).json()["seq"], 3, "a refusal is not kept");
    assert_eq!([(); 3].map(|()| seq(&subscriber.recv())), [1, 2, 3]);
    subscriber.expect_silence(Duration::from_millis(50));
    // Twins that are written together are one event as well.
    let twin =
        request_bytes("POST", "/events", &[JSON, ("Idempotency-Key", "twin")], Some(&body(json!({})).to_string()));
    let mut http = daemon.connect();
    http.send(twin.repeat(3));
    let answers = [(); 3].map(|()| http.response());
    assert!(answers.iter().all(|answer| answer.text() == answers[0].text() && answer.status == 201), "{answers:?}");
    daemon.kill();
    let daemon = on(&path, &[]);
    check(once(&daemon, "k", body(json!({ "payload": { "n": 1 } }))));
    assert_eq!(seqs(&read_on(&daemon, 0, "", 100)), [1, 2, 3, 4]);
}

// ---------------------------------------------------------------------------------------------------------------
// The numbering.

#[test]
fn numbers_have_no_gap_whoever_publishes_and_by_whichever_way() {
    let daemon = ephemeral(&[]);
    let mut told: Vec<(String, Option<u64>)> = std::thread::scope(|scope| {
        let daemon = &daemon;
        let rest = (0..4).map(|who| {
            scope.spawn(move || {
                let mut http = daemon.connect();
                let publish = |http: &mut Http, n: u64| {
                    let path = format!("{}/events", FAMILIES[usize::try_from(n % 2).unwrap()]);
                    // Now and then one that is refused: it must leave no gap.
                    let body = if n.is_multiple_of(7) { json!({}) } else { nth(n) };
                    http.send(request_bytes("POST", &path, &[JSON], Some(&body.to_string())));
                };
                let mut told = Vec::new();
                for round in 0..10 {
                    (0..10).for_each(|n| publish(&mut http, who * 1000 + round * 10 + n));
                    for _ in 0..10 {
                        let response = http.response();
                        if response.status == 201 {
                            let event = response.json();
                            told.push((event["id"].as_str().unwrap().to_owned(), Some(seq(&event))));
                        } else {
                            response.assert_fault(&["body"]);
                        }
                    }
                }
                told
            })
        });
        let rest: Vec<_> = rest.collect();
        let sockets: Vec<_> = (0..3)
            .map(|who| {
                scope.spawn(move || {
                    let mut socket = daemon.open("/ws/publish", &[]);
                    let mut told = Vec::new();
                    for round in 0..4 {
                        let bodies = (0..100).map(|n| nth(10_000 * (who + 1) + round * 100 + n));
                        told.extend(publish_all(&mut socket, bodies, 100).into_iter().map(|id| (id, None)));
                        socket.send_text("no event");
                        refused(&socket.recv());
                    }
                    told
                })
            })
            .collect();
        rest.into_iter().chain(sockets).flat_map(|thread| thread.join().unwrap()).collect()
    });
    let stored = read_on(&daemon, 0, "", 1000);
    assert_eq!(stored.len(), told.len());
    assert!(told.len() > 1500);
    assert_eq!(seqs(&stored), (1..=told.len() as u64).collect::<Vec<_>>(), "from 1, without a gap");
    stored.iter().for_each(assert_event);
    told.sort();
    let mut ids: Vec<(String, u64)> =
        stored.iter().map(|event| (event["id"].as_str().unwrap().to_owned(), seq(event))).collect();
    ids.sort();
    for ((id, number), (stored_id, stored_number)) in told.iter().zip(&ids) {
        assert_eq!(id, stored_id);
        assert!(number.is_none_or(|number| number == *stored_number), "{id}");
    }
    assert_eq!(ids.iter().map(|(id, _)| id).collect::<BTreeSet<_>>().len(), told.len(), "ids are unique");
    for (id, number) in ids.iter().step_by(100) {
        assert_eq!(seq(&daemon.get(&format!("/events/{id}")).json()), *number);
    }
}

#[test]
fn numbers_go_on_over_kill_9_and_over_deletion_of_everything() {
    let (_kept, path) = directory();
    let mut daemon = on(&path, &[]);
    let mut next = 1;
    for round in 0..4 {
        for _ in 0..3 {
            assert_eq!(seq(&daemon.publish(body(json!({})))), next);
            next += 1;
        }
        if round % 2 == 1 {
            let deleted = daemon.delete("/events").json();
            assert_eq!(deleted, json!({ "deleted": 6 }));
            assert!(daemon.events("").is_empty());
        }
        assert_eq!(last_seq(&daemon), next - 1);
        daemon.kill();
        daemon = on(&path, &[]);
        assert_eq!(last_seq(&daemon), next - 1, "with nothing kept, too");
    }
    let mut socket = daemon.open("/ws/publish", &[]);
    let id = publish_all(&mut socket, [body(json!({}))], 1).remove(0);
    assert_eq!(daemon.get(&format!("/events/{id}")).json()["seq"], next);
}

// ---------------------------------------------------------------------------------------------------------------
// Queries.

#[test]
fn filters_combine_and_the_newest_comes_first() {
    let daemon = ephemeral(&[]);
    let mut made: Vec<Value> = Vec::new();
    for n in 0..150 {
        made.push(nth(n));
    }
    let odd = ["x' OR '1'='1", "a%b_c", "caf\u{e9} \u{1f600}", "a+b & c=d"];
    made.extend(odd.map(|id| body(json!({ "session_id": id, "user_id": id }))));
    made.push(body(json!({ "session_id": "\u{1f600}".repeat(200) })));
    let mut socket = daemon.open("/ws/publish", &[]);
    publish_all(&mut socket, made, 200);
    let all = read_on(&daemon, 0, "", 1000);
    assert_eq!(all.len(), 155);

    let escaped = |text: &str| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
    let mut cases: Vec<(String, Value)> = Vec::new();
    for session in ["", "s1", "s9"] {
        for user in ["", "u3"] {
            for kind in ["", "answer_changed", "bogus", "quiz_timeout"] {
                let query = format!("session_id={session}&user_id={user}&event_type={kind}");
                let kinds = if kind.is_empty() { json!([]) } else { json!([kind]) };
                cases.push((query, json!({ "session_id": session, "user_id": user, "event_types": kinds })));
            }
        }
    }
    for id in odd.iter().copied().chain(["' OR '1'='1", "a%", "S1", "s1 ", &"\u{1f600}".repeat(200)]) {
        cases.push((format!("session_id={}", escaped(id)), json!({ "session_id": id })));
        cases.push((format!("user_id={}", escaped(id)), json!({ "user_id": id })));
    }
    cases.push(("session_id=a%2Bb+%26+c%3Dd".to_owned(), json!({ "session_id": odd[3] })));
    cases.push(("session_id=s0&session_id=s1&unknown=1".to_owned(), json!({ "session_id": "s1" })));
    cases.push((format!("event_type={}", "q".repeat(50)), json!({ "event_types": ["q"] })));
    let mut found = 0;
    for (query, filters) in &cases {
        let expected: Vec<&Value> = all.iter().rev().filter(|event| matches(filters, event)).collect();
        for family in FAMILIES {
            let get = |more: &str| daemon.get(&format!("{family}/events?{query}{more}")).json();
            let newest: Vec<&&Value> = expected.iter().take(100).collect();
            assert_eq!(get(""), json!(newest), "{query}: newest first, a hundred");
            assert_eq!(get("&limit=1000"), json!(expected), "{query}");
            assert_eq!(get("&limit=2"), json!(expected.iter().take(2).collect::<Vec<_>>()), "{query}");
            assert_eq!(get("&since=2020-01-01&limit=1"), json!(expected.iter().take(1).collect::<Vec<_>>()));
        }
        let on: Vec<Value> = expected.iter().rev().map(|event| (*event).clone()).collect();
        for limit in [7, 1000] {
            assert_eq!(read_on(&daemon, 0, &format!("&{query}"), limit), on, "{query}");
        }
        found += expected.len();
    }
    assert!(found > 300, "{found}");
}

#[test]
fn a_query_that_is_out_of_bounds_is_422_and_names_the_parameter() {
    let daemon = ephemeral(&[]);
    daemon.publish(body(json!({})));
    for family in FAMILIES {
        let get = |query: &str| daemon.get(&format!("{family}/events?{query}"));
        for limit in ["0", "-1", "1001", "x", "", "1.5", "99999999999999999999"] {
            get(&format!("limit={limit}")).assert_fault(&["query", "limit"]);
        }
        for (name, longest) in [("event_type", 50), ("session_id", 200), ("user_id", 200), ("since", 30)] {
            get(&format!("{name}={}", "q".repeat(longest + 1))).assert_fault(&["query", name]);
            if name != "since" {
                assert_eq!(get(&format!("{name}={}", "q".repeat(longest))).json(), json!([]), "{name}");
                let wide = "%C3%A9".repeat(longest);
                assert_eq!(get(&format!("{name}={wide}")).json(), json!([]), "{name}: characters, not bytes");
            }
        }
        for after in ["x", "-1", "1.5", "99999999999999999999999"] {
            get(&format!("after={after}")).assert_fault(&["query", "after"]);
        }
        let both = get("limit=0&session_id=".to_owned().as_str());
        both.assert_fault(&["query", "limit"]);
        assert_eq!(
            get(&format!("limit=0&user_id={}", "q".repeat(201))).json()["detail"].as_array().unwrap().len(),
            2
        );
        assert_eq!(get("session_id=&user_id=&event_type=&since=&limit=1").json().as_array().unwrap().len(), 1);
    }
}

#[test]
fn since_is_exclusive_and_taken_in_every_form_of_iso_8601_that_clients_write() {
    let daemon = ephemeral(&[]);
    let mut made = Vec::new();
    for _ in 0..3 {
        made.push(daemon.publish(body(json!({}))));
        pass_time();
    }
    let found = |since: &str| {
        let escaped = since.replace('+', "%2B").replace(' ', "%20");
        seqs(&daemon.events(&format!("?since={escaped}")))
    };
    let times: Vec<&str> = made.iter().map(|event| event["timestamp"].as_str().unwrap()).collect();
    assert_eq!([found(times[0]), found(times[1]), found(times[2])], [vec![3, 2], vec![3], vec![]]);
    let at = |us: i64| jiff::Timestamp::from_microsecond(us).unwrap();
    // A microsecond earlier takes it in, whatever the zone is called.
    let just_before = at(instant_us(&made[1]["timestamp"]) - 1);
    assert_eq!(found(&just_before.to_string()), [3, 2]);
    let east = at(just_before.as_microsecond() + 9 * 3_600_000_000);
    let milliseconds = &east.to_string()[..23];
    assert!(found(&format!("{milliseconds}+09:00")).starts_with(&[3, 2]), "an instant, not a text");
    let exact = at(instant_us(&made[1]["timestamp"]));
    assert_eq!(found(exact.to_string().trim_end_matches('Z')), [3], "without a zone it is UTC");
    assert_eq!(found(&exact.to_string().replace('T', " ")), [3]);
    for (since, is_past) in [
        ("2020-01-01T00:00:00Z", true),
        ("2020-01-01T00:00:00+00:00", true),
        ("2020-01-01T00:00:00-11:30", true),
        ("2020-01-01T00:00:00", true),
        ("2020-01-01T00:00", true),
        ("2020-01-01", true),
        ("2020-01-01 00:00:00", true),
        ("2020-01-01T00:00:00.123456Z", true),
        ("2020-01-01T00:00:00.5Z", true),
        ("2020-01-01T00:00:00.1234+00:00", true),
        ("1969-12-31T23:59:59Z", true),
        ("2099-01-01T00:00:00Z", false),
        ("2099-01-01", false),
        ("9999-12-31", false),
    ] {
        assert_eq!(found(since).len(), if is_past { 3 } else { 0 }, "{since}");
    }
    for family in FAMILIES {
        for bad in
            ["yesterday", "2026-13-01T00:00:00Z", "2026-02-30", "12:00", "1700000000x", "-", "2026-01-01T25:00Z"]
        {
            let response = daemon.get(&format!("{family}/events?since={bad}"));
            let expected = r#"{"detail":"Invalid ISO 8601 timestamp for 'since'"}"#;
            assert_eq!((response.status, response.text()), (400, expected), "{bad}");
        }
        daemon
            .get(&format!("{family}/events?since=2020-01-01T00:00:00.12345%2B00:00"))
            .assert_fault(&["query", "since"]);
    }
}

#[test]
fn a_reader_with_after_is_told_what_was_deleted_and_goes_on_from_there() {
    let daemon = ephemeral(&[]);
    assert!(daemon.events("?after=0").is_empty());
    assert!(daemon.events("?after=7").is_empty(), "beyond the end");
    let mut made = Vec::new();
    for n in 0..10 {
        made.push(daemon.publish(nth(n)));
        pass_time();
    }
    assert_eq!(daemon.events("?after=0"), made);
    assert_eq!(daemon.events("?after=4&limit=3"), made[4..7]);
    for beyond in ["10", "11", "9223372036854775807"] {
        assert!(daemon.events(&format!("?after={beyond}")).is_empty(), "{beyond}");
    }

    let gone = |query: &str, oldest: u64| {
        for family in FAMILIES {
            let response = daemon.get(&format!("{family}/events?{query}"));
            let expected =
                format!(r#"{{"detail":"Events up to {} were deleted","oldest_seq":{oldest}}}"#, oldest - 1);
            assert_eq!((response.status, response.text()), (410, &*expected), "{query}");
            assert_safe(&response);
        }
    };
    let deleted = daemon.delete(&format!("/events?before={}", made[4]["timestamp"].as_str().unwrap())).json();
    assert_eq!(deleted, json!({ "deleted": 4 }));
    for query in ["after=0", "after=3", "after=0&session_id=s9", "after=2&limit=1&event_type=answer_changed"] {
        gone(query, 5);
    }
    assert_eq!(daemon.events("?after=4"), made[4..], "exactly what was deleted had been read");
    assert_eq!(daemon.events("?after=8"), made[8..]);
    assert_eq!(daemon.events("").len(), 6, "who does not ask for everything is not told");

    assert_eq!(daemon.delete("/events").json(), json!({ "deleted": 6 }));
    gone("after=0", 11);
    gone("after=9", 11);
    assert!(daemon.events("?after=10").is_empty());
    let next = daemon.publish(nth(10));
    assert_eq!(seq(&next), 11);
    assert_eq!(daemon.events("?after=10"), [next]);
    gone("after=9", 11);
}

#[test]
fn large_events_make_short_pages_and_none_is_left_out() {
    let daemon = ephemeral(&[]);
    let mut publisher = daemon.open("/ws/publish", &[]);
    let large =
        |n: u64| body(json!({ "session_id": format!("s{}", n % 2), "payload": { "n": n, "x": "x".repeat(65_000) } }));
    publish_all(&mut publisher, (0..150).map(large), 15);
    assert_eq!(seqs(&read_on(&daemon, 0, "", 1000)), (1..=150).collect::<Vec<_>>());
    assert_eq!(
        seqs(&read_on(&daemon, 0, "&session_id=s1", 1000)),
        (1..=150).filter(|n| n % 2 == 0).collect::<Vec<_>>()
    );
    let (mut subscriber, _) = daemon.subscribe(json!({ "after": 0 }));
    assert_eq!((0..150).map(|_| seq(&subscriber.recv())).collect::<Vec<_>>(), (1..=150).collect::<Vec<_>>());
    // The newest ones, as many as there is room for, without a hole.
    let newest = seqs(&daemon.events("?limit=1000"));
    assert!(newest.len() > 50 && newest.iter().copied().eq((151 - newest.len() as u64..=150).rev()), "{newest:?}");
}

#[test]
fn pages_miss_nothing_and_show_nothing_twice_while_thousands_are_published() {
    let daemon = ephemeral(&[]);
    let total = 6_000;
    std::thread::scope(|scope| {
        let daemon = &daemon;
        scope.spawn(move || {
            let mut sockets = [(); 2].map(|()| daemon.open("/ws/publish", &[]));
            for n in 0..total / 200 {
                let socket = &mut sockets[usize::try_from(n % 2).unwrap()];
                publish_all(socket, (n * 200..(n + 1) * 200).map(nth), 200);
            }
        });
        for (filters, query) in [
            (json!({}), ""),
            (json!({ "session_id": "s1" }), "&session_id=s1"),
            (json!({ "event_types": ["answer_changed"], "user_id": "u2" }), "&event_type=answer_changed&user_id=u2"),
        ] {
            scope.spawn(move || {
                let mut at = 0;
                let mut got: Vec<u64> = Vec::new();
                let begun = Instant::now();
                // The newest that matches is known from the way the events are made; number n + 1 is event n.
                let expected: Vec<u64> = (0..total).filter(|n| matches(&filters, &nth(*n))).map(|n| n + 1).collect();
                while got.last() != expected.last() {
                    assert!(begun.elapsed() < 3 * PATIENCE, "{filters}: {} of {}", got.len(), expected.len());
                    let page = daemon.events(&format!("?after={at}&limit=83{query}"));
                    assert!(page.iter().all(|event| event["payload"]["n"] == seq(event) - 1));
                    at = page.last().map_or(at, seq);
                    got.extend(seqs(&page));
                }
                assert_eq!(got, expected, "{filters}");
            });
        }
    });
}

// ---------------------------------------------------------------------------------------------------------------
// Counters, deletion, retention.

/// The counters of the contract against the events that must be there.
#[track_caller]
fn assert_stats(daemon: &Daemon, kept: &[Value], last: u64) {
    let mut expected: BTreeMap<&str, (u64, &str)> = BTreeMap::new();
    for event in kept {
        let row = expected.entry(event["event_type"].as_str().unwrap()).or_default();
        row.0 += 1;
        row.1 = row.1.max(event["timestamp"].as_str().unwrap());
    }
    for family in FAMILIES {
        let response = daemon.get(&format!("{family}/stats"));
        assert_eq!((response.status, response.header("content-type")), (200, Some("application/json")));
        let stats = response.json();
        let names: BTreeSet<&str> = keys_of(&stats).into_iter().collect();
        let known = ["total_events", "events_last_hour", "by_type", "router", "oldest_seq", "last_seq"];
        assert_eq!(names, known.into());
        assert_eq!((&stats["total_events"], &stats["events_last_hour"]), (&json!(kept.len()), &json!(kept.len())));
        let rows = stats["by_type"].as_array().unwrap();
        let counts: Vec<u64> = rows.iter().map(|row| row["count"].as_u64().unwrap()).collect();
        assert!(counts.is_sorted_by(|a, b| a >= b), "most first: {stats}");
        let found: BTreeMap<&str, (u64, &str)> = rows
            .iter()
            .map(|row| {
                assert_eq!(keys_of(row), ["event_type", "count", "last_seen"]);
                let of = |name: &str| row[name].as_str().unwrap();
                (of("event_type"), (row["count"].as_u64().unwrap(), of("last_seen")))
            })
            .collect();
        assert_eq!(found, expected);
        assert_eq!(keys_of(&stats["router"]), ["active_subscribers", "queue_size"]);
        assert_eq!(stats["last_seq"], last);
        if let Some(first) = kept.first() {
            assert_eq!(stats["oldest_seq"], seq(first));
        }
    }
}

#[test]
fn counters_are_exact_after_publishing_deletion_and_a_restart() {
    let (_kept, path) = directory();
    let daemon = on(&path, &[]);
    assert_stats(&daemon, &[], 0);
    let mut socket = daemon.open("/ws/publish", &[]);
    publish_all(&mut socket, (0..100).map(nth), 10);
    pass_time();
    let cut = daemon.publish(body(json!({ "event_type": "quiz_timeout" })));
    publish_all(&mut socket, (200..250).map(nth), 50);
    let all = read_on(&daemon, 0, "", 1000);
    assert_eq!(all.len(), 151);
    assert_stats(&daemon, &all, 151);

    let before = cut["timestamp"].as_str().unwrap();
    for deleted in [100, 0] {
        let response = daemon.delete(&format!("/api/v1/events?before={before}"));
        assert_eq!((response.status, response.json()), (200, json!({ "deleted": deleted })));
        assert_stats(&daemon, &all[100..], 151);
    }
    drop(socket);
    daemon.kill();
    let daemon = on(&path, &[]);
    assert_stats(&daemon, &all[100..], 151);
    assert_eq!(daemon.delete("/events").json(), json!({ "deleted": 51 }));
    assert_stats(&daemon, &[], 151);
    assert_eq!(daemon.delete("/events").json(), json!({ "deleted": 0 }));
    daemon.kill();
    let daemon = on(&path, &[]);
    assert_stats(&daemon, &[], 151);
    let event = daemon.publish(body(json!({ "event_type": "error_occurred" })));
    assert_stats(&daemon, &[event], 152);
}

#[test]
fn deletion_takes_what_is_before_an_instant_or_everything_and_never_by_mistake() {
    let daemon = ephemeral(&[]);
    for family in FAMILIES {
        let delete = |query: &str| daemon.delete(&format!("{family}/events{query}"));
        let mut made = Vec::new();
        for _ in 0..3 {
            made.push(daemon.publish(body(json!({}))));
            pass_time();
        }
        for bad in ["", "soon", "2026-99-99", "-", "%20"] {
            let response = delete(&format!("?before={bad}"));
            let expected = r#"{"detail":"Invalid ISO 8601 timestamp for 'before'"}"#;
            assert_eq!((response.status, response.text()), (400, expected), "{bad:?}");
        }
        for early in ["1999-01-01T00:00:00Z", "1999-01-01", "1999-01-01T00:00:00.123456%2B00:00"] {
            assert_eq!(delete(&format!("?before={early}")).text(), r#"{"deleted":0}"#, "{early}");
        }
        let before = made[1]["timestamp"].as_str().unwrap();
        let response = delete(&format!("?before={before}"));
        assert_eq!((response.status, response.text()), (200, r#"{"deleted":1}"#));
        assert_eq!(daemon.events(""), [made[2].clone(), made[1].clone()], "exclusive");
        assert_eq!(daemon.get("/stats").json()["oldest_seq"], made[1]["seq"]);
        let gone = daemon.get(&format!("{family}/events/{}", made[0]["id"].as_str().unwrap()));
        assert_eq!((gone.status, gone.text()), (404, r#"{"detail":"Event not found"}"#));
        assert_eq!(delete("/?before=2099-01-01").text(), r#"{"deleted":2}"#);
        assert!(daemon.events("").is_empty());
    }
    // Many go in slices, but the answer counts them all, and what is published meanwhile is not among them.
    let mut socket = daemon.open("/ws/publish", &[]);
    publish_all(&mut socket, (0..4_000).map(nth), 1_000);
    let mut http = daemon.connect();
    http.send(request_bytes("DELETE", "/events", &[], None));
    publish_all(&mut socket, (0..200).map(nth), 10);
    let deleted = http.response().json()["deleted"].as_u64().unwrap();
    let left = daemon.events("?limit=1000");
    assert_eq!(deleted + left.len() as u64, 4_200);
    assert!(deleted >= 4_000, "{deleted}");
    let left: Vec<Value> = left.into_iter().rev().collect();
    assert_stats(&daemon, &left, 4_206);
}

#[test]
fn old_events_and_too_many_are_deleted_in_the_background_and_counted() {
    // The daemon looks as often as the shortest time is long, that of history here: nobody waits for ten seconds.
    let crowded = ephemeral(&["--keep-events-max", "100", "--keep-history", "1s"]);
    publish_all(&mut crowded.open("/ws/publish", &[]), (0..1_130).map(nth), 565);
    let aging = ephemeral(&["--keep-events", "2s"]);
    for n in 0..20 {
        aging.publish(nth(n));
    }
    assert_eq!(aging.get("/stats").json()["total_events"], 20, "not before their time");
    let until = |daemon: &Daemon, left: u64| {
        let begun = Instant::now();
        while daemon.get("/stats").json()["total_events"] != left {
            assert!(begun.elapsed() < 3 * PATIENCE, "never {left}");
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    until(&aging, 0);
    assert_stats(&aging, &[], 20);
    assert!(aging.events("").is_empty());
    assert_eq!(aging.get("/events?after=0").json()["oldest_seq"], 21);
    let fresh = aging.publish(body(json!({})));
    assert_stats(&aging, &[fresh], 21);

    until(&crowded, 100);
    let kept = crowded.events("?limit=1000");
    assert_eq!(seqs(&kept), (1_031..=1_130).rev().collect::<Vec<_>>(), "the newest");
    let kept: Vec<Value> = kept.into_iter().rev().collect();
    assert_stats(&crowded, &kept, 1_130);
    assert_eq!(crowded.get("/events?after=1029").status, 410);
    assert_eq!(crowded.events("?after=1030").len(), 100);
}

#[test]
fn readiness_counts_subscribers_from_their_first_message_to_their_end() {
    let daemon = ephemeral(&[]);
    let router = || {
        let response = daemon.get("/readiness");
        let body = response.json();
        assert_eq!(
            (response.status, &body["ready"], &body["database"]),
            (200, &json!(true), &json!("connected")),
            "{body}"
        );
        assert_eq!(body["router"]["queue_size"], 0);
        assert_eq!(keys_of(&body["router"]), ["active_subscribers", "queue_size"]);
        assert_eq!(daemon.get("/stats").json()["router"], body["router"]);
        body["router"]["active_subscribers"].as_u64().unwrap()
    };
    assert_eq!(router(), 0);
    let _not_yet = daemon.open("/ws/subscribe", &[]);
    let _never = daemon.open("/ws/publish", &[]);
    let (mut first, _) = daemon.subscribe(json!({}));
    let (second, _) = daemon.subscribe(json!({ "session_id": "x" }));
    assert_eq!(router(), 2);
    first.inner.close(None).unwrap();
    first.expect_close();
    eventually(|| router() == 1);
    second.inner.get_ref().shutdown(std::net::Shutdown::Both).unwrap();
    eventually(|| router() == 0);
}

// ---------------------------------------------------------------------------------------------------------------
// What holds for every path.

/// Every path of the events with its methods, as `Allow` must list them.
fn paths(id: &str) -> Vec<(String, Vec<&'static str>)> {
    let read = vec!["GET", "HEAD", "OPTIONS"];
    let mut paths = vec![("/ws/publish".to_owned(), read.clone()), ("/ws/subscribe".to_owned(), read.clone())];
    for family in FAMILIES {
        paths.push((format!("{family}/events"), vec!["GET", "HEAD", "POST", "DELETE", "OPTIONS"]));
        paths.push((format!("{family}/events/{id}"), read.clone()));
        paths.push((format!("{family}/stats"), read.clone()));
        paths.push((format!("{family}/event-types"), read.clone()));
    }
    paths
}

#[test]
fn a_wrong_method_is_405_with_every_right_one_and_options_says_the_same() {
    let daemon = ephemeral(&[]);
    let id = daemon.publish(body(json!({})))["id"].as_str().unwrap().to_owned();
    let mut http = daemon.connect();
    for (path, methods) in paths(&id) {
        let listed: BTreeSet<&str> = methods.iter().copied().collect();
        for slash in ["", "/"] {
            let path = format!("{path}{slash}");
            let options = http.request("OPTIONS", &path, &[], None);
            assert_eq!((options.status, options.text()), (204, ""), "{path}");
            let wrong = ["POST", "PUT", "PATCH", "DELETE", "get"].into_iter().filter(|m| !methods.contains(m));
            let answers = wrong.map(|method| http.request(method, &path, &[], None)).collect::<Vec<_>>();
            for response in answers.iter().chain([&options]) {
                let allow = response.header("allow").unwrap_or_else(|| panic!("no Allow for {path}"));
                assert_eq!(allow.split(", ").collect::<BTreeSet<_>>(), listed, "{path}");
                assert_safe(response);
            }
            for response in answers {
                assert_eq!((response.status, response.text()), (405, r#"{"detail":"Method Not Allowed"}"#), "{path}");
            }
        }
    }
    assert_eq!(daemon.events("").len(), 1);
}

#[test]
fn head_answers_as_get_and_a_path_that_is_none_is_404() {
    let daemon = ephemeral(&[]);
    let id = daemon.publish(body(json!({})))["id"].as_str().unwrap().to_owned();
    let mut http = daemon.connect();
    let mut asked: Vec<String> = paths(&id).into_iter().map(|(path, _)| path).collect();
    asked.push("/readiness".to_owned());
    for family in FAMILIES {
        for query in ["?limit=0", "?since=bad", "?after=0", "/evt_none"] {
            asked.push(format!("{family}/events{query}"));
        }
    }
    let unchanging =
        |response: &Response| response.headers.iter().filter(|(name, _)| name != "date").cloned().collect::<Vec<_>>();
    for path in asked {
        let get = http.request("GET", &path, &[("Origin", "https://a.example")], None);
        let head = http.request("HEAD", &path, &[("Origin", "https://a.example")], None);
        assert_eq!((head.status, unchanging(&head)), (get.status, unchanging(&get)), "{path}");
        assert_eq!(get.header("content-length"), Some(&*get.body.len().to_string()), "{path}");
        assert_eq!(get.header("access-control-allow-origin"), Some("*"), "{path}");
        assert_eq!(get.header("cache-control"), Some("no-store"), "{path}");
        assert_safe(&get);
        if path.starts_with("/ws/") {
            assert_eq!((get.status, get.header("upgrade")), (426, Some("websocket")), "{path}");
        }
        if !path.contains('?') {
            let slash = http.request("GET", &format!("{path}/"), &[], None);
            assert_eq!((slash.status, slash.text()), (get.status, get.text()), "{path}/");
        }
    }
    assert_eq!(http.request("POST", "/api/v1/events/", &[JSON], Some(&body(json!({})).to_string())).status, 201);
    assert_eq!(http.request("DELETE", "/api/v1/events/?before=1999-01-01", &[], None).status, 200);
    for path in [
        "/api",
        "/api/v1",
        "/api/v1/nope",
        "/api/v2/events",
        "/API/V1/events",
        "/events/a/b",
        "/api/v1/events/a/b",
        "/events//",
        "//events",
        "/api/v1//events",
        "/stats/x",
        "/api/v1/health",
        "/api/v1/readiness",
        "/api/v1/timers",
        "/api/v1/ws/publish",
        "/api/v1/ws/subscribe",
        "/api/v1/api/v1/events",
        "/ws",
    ] {
        let response = http.request("GET", path, &[], None);
        assert_eq!((response.status, response.text()), (404, r#"{"detail":"Not Found"}"#), "{path}");
        assert_safe(&response);
    }
}

#[test]
fn preflights_are_answered_for_both_families() {
    let daemon = ephemeral(&[]);
    for path in ["/events", "/api/v1/events", "/api/v1/stats", "/events/evt_none"] {
        for method in ["GET", "POST", "DELETE"] {
            let asks = [
                ("Origin", "https://dash.example"),
                ("Access-Control-Request-Method", method),
                ("Access-Control-Request-Headers", "content-type,x-api-key"),
            ];
            let response = daemon.request("OPTIONS", path, &asks, None);
            assert!(matches!(response.status, 200 | 204), "{path}");
            assert_eq!(response.header("access-control-allow-origin"), Some("*"));
            let methods = response.header("access-control-allow-methods").unwrap();
            assert!(methods.split(", ").any(|known| known == method), "{methods}");
            let headers = response.header("access-control-allow-headers").unwrap().to_ascii_lowercase();
            assert!(headers.contains("content-type") && headers.contains("x-api-key"), "{headers}");
            assert_safe(&response);
        }
    }
    let response = daemon.request(
        "POST",
        "/events",
        &[JSON, ("Origin", "https://dash.example")],
        Some(&body(json!({})).to_string()),
    );
    assert_eq!((response.status, response.header("access-control-allow-origin")), (201, Some("*")));
    assert_eq!(response.header("cache-control"), Some("no-store"));
    assert_safe(&response);
}

#[test]
fn the_description_names_every_path_and_method() {
    let daemon = ephemeral(&[]);
    let document = daemon.get("/openapi.json").json();
    let described = document["paths"].as_object().unwrap();
    for (path, methods) in paths("{id}") {
        let is_it = |known: &&String| known.replace("{event_id}", "{id}") == path;
        let known = described.keys().find(is_it).unwrap_or_else(|| panic!("{path} is not described"));
        // The paths of older clients point to the same operations (RFC 6901 spells a slash in a name `~1`).
        let item = match described[known]["$ref"].as_str() {
            Some(pointer) => document.pointer(pointer.strip_prefix('#').unwrap()).unwrap(),
            None => &described[known],
        };
        for method in methods.iter().filter(|method| !matches!(**method, "HEAD" | "OPTIONS")) {
            assert!(item[method.to_lowercase()].is_object(), "{method} {path}");
        }
    }
    let text = document.to_string();
    for word in TYPES.iter().copied().chain(["after", "oldest_seq", "last_seq", "before", "Retry-After"]) {
        assert!(text.contains(word), "{word}");
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Limits of rates.

#[track_caller]
fn assert_limited(response: &Response) -> u64 {
    let expected = r#"{"detail":"Rate limit exceeded. Try again later."}"#;
    assert_eq!((response.status, response.text()), (429, expected));
    assert_safe(response);
    let wait = response.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    wait
}

#[test]
fn each_group_of_routes_has_one_budget_over_both_families_and_all_ids() {
    let daemon =
        Daemon::ephemeral(&["--rate-publish", "4/minute", "--rate-query", "6/minute", "--rate-admin", "2/minute"]);
    let mut http = daemon.connect();
    let event = body(json!({})).to_string();
    let mut id = String::new();
    for n in 0..4 {
        let path = ["/events", "/api/v1/events", "/events/", "/api/v1/events/"][n];
        let response = http.request("POST", path, &[JSON], Some(&event));
        assert_eq!(response.status, 201, "{}", response.text());
        id = response.json()["id"].as_str().unwrap().to_owned();
    }
    for path in ["/events", "/api/v1/events"] {
        assert_limited(&http.request("POST", path, &[JSON], Some(&event)));
    }
    let one = format!("/events/{id}");
    let other = format!("/api/v1{one}");
    for path in [&*one, &other, "/events", "/api/v1/events?limit=1", "/stats", "/events/evt_none"] {
        let status = if path.ends_with("none") { 404 } else { 200 };
        let response = http.request("GET", path, &[], None);
        assert_eq!(response.status, status, "{path}: {}", response.text());
    }
    for path in [&*one, &other, "/events", "/api/v1/stats", "/events/evt_none", "/api/v1/events?after=0"] {
        assert_limited(&http.request("GET", path, &[], None));
    }
    assert_eq!(http.request("DELETE", "/events?before=1999-01-01", &[], None).status, 200);
    assert_eq!(http.request("DELETE", "/api/v1/events?before=1999-01-01", &[], None).status, 200);
    for path in ["/events?before=1999-01-01", "/api/v1/events"] {
        assert_limited(&http.request("DELETE", path, &[], None));
    }
    // What has no budget goes on: the open paths, the timers, the sockets.
    for path in ["/health", "/readiness", "/event-types", "/api/v1/event-types", "/timers", "/openapi.json"] {
        for _ in 0..10 {
            assert_eq!(http.request("GET", path, &[], None).status, 200, "{path}");
        }
    }
    let mut socket = daemon.open("/ws/publish", &[]);
    assert_eq!(publish_all(&mut socket, (0..300).map(nth), 100).len(), 300, "a socket's rate has no limit");
    // The answer names every limit's text, and nothing was published or deleted beyond it.
    let (mut subscriber, confirmation) = daemon.subscribe(json!({ "after": 0 }));
    assert_eq!(confirmation["last_seq"], 304);
    assert_eq!((1..=304).map(|_| seq(&subscriber.recv())).collect::<Vec<_>>(), (1..=304).collect::<Vec<_>>());
}

#[test]
fn a_budget_comes_back_when_it_was_said_to() {
    let daemon = Daemon::ephemeral(&["--rate-query", "2/second", "--rate-publish", "off"]);
    let mut http = daemon.connect();
    let mut get = || http.request("GET", "/events", &[], None);
    for _ in 0..2 {
        let answers = [get(), get()];
        assert_eq!(answers.map(|response| response.status), [200, 200]);
        let wait = assert_limited(&get());
        assert_eq!(wait, 1);
        std::thread::sleep(Duration::from_secs(wait));
    }
    let event = body(json!({})).to_string();
    let mut http = daemon.connect();
    for _ in 0..10 {
        http.send(request_bytes("POST", "/events", &[JSON], Some(&event)).repeat(30));
        assert!((0..30).all(|_| http.response().status == 201), "off is no limit");
    }
}

#[test]
fn the_stock_limits_are_those_of_the_contract() {
    let daemon = Daemon::ephemeral(&[]);
    let mut http = daemon.connect();
    let event = body(json!({})).to_string();
    // A budget may fill up again while it is being used.
    for (method, path, sent, allowed, slack) in [
        ("POST", "/events", Some(&*event), 200, 10),
        ("GET", "/api/v1/events/none", None, 600, 30),
        ("DELETE", "/events?before=1999-01-01", None, 10, 1),
    ] {
        let mut served = 0;
        loop {
            let response = http.request(method, path, &[JSON], sent);
            if response.status == 429 {
                assert_limited(&response);
                break;
            }
            served += 1;
            assert!(served <= allowed + slack, "{method} is not limited");
        }
        assert!(served >= allowed, "{method}: {served}");
    }
    // Twenty sockets of both kinds; those of timers are counted apart.
    let id = daemon.create(json!({ "duration_seconds": 60 }));
    let path = |n: usize| ["/ws/publish", "/ws/subscribe"][n % 2];
    let mut sockets: Vec<Socket> = (0..20).map(|n| daemon.open(path(n), &[])).collect();
    for n in 0..4 {
        let end = daemon.open(path(n), &[]).expect_close();
        assert_eq!(end, (4002, "Too many connections".to_owned(), vec![]));
    }
    for _ in 0..30 {
        daemon.join(&id);
    }
    sockets[0].send(body(json!({})));
    acknowledged(&sockets[0].recv());
    // A place is given back.
    sockets.swap_remove(1);
    eventually(|| {
        let mut socket = daemon.open("/ws/subscribe", &[]);
        socket.send(json!({}));
        socket.recv_or_end().is_ok_and(|answer| answer["status"] == "subscribed")
    });
}

#[test]
fn behind_a_trusted_proxy_the_forwarded_address_counts_and_otherwise_never() {
    let event = body(json!({})).to_string();
    let publish = |daemon: &Daemon, address: &str| {
        let headers = [JSON, ("X-Forwarded-For", address)];
        daemon.request("POST", "/events", &headers[..if address.is_empty() { 1 } else { 2 }], Some(&event)).status
    };
    let open = |daemon: &Daemon, address: &str| {
        let mut socket = daemon.open("/ws/subscribe", &[("X-Forwarded-For", address)]);
        socket.send(json!({}));
        (socket.recv_or_end().map(|answer| answer["status"].clone()), socket)
    };
    let flags = ["--rate-publish", "2/minute", "--ws-per-address", "1"];
    let proxied: Vec<&str> = flags.iter().chain(&["--trusted-proxy", "127.0.0.1"]).copied().collect();
    let daemon = Daemon::ephemeral(&proxied);
    for address in ["192.0.2.1", "192.0.2.2", "2001:db8::1"] {
        assert_eq!([(); 3].map(|()| publish(&daemon, address)), [201, 201, 429], "{address}");
    }
    assert_eq!(publish(&daemon, ""), 201, "the proxy's own");
    let _first = open(&daemon, "192.0.2.1");
    assert_eq!(_first.0, Ok(json!("subscribed")));
    assert_eq!(open(&daemon, "192.0.2.1").0, Err((4002, "Too many connections".to_owned())));
    assert_eq!(open(&daemon, "192.0.2.2").0, Ok(json!("subscribed")));

    let daemon = Daemon::ephemeral(&flags);
    let statuses = ["192.0.2.1", "192.0.2.2", "192.0.2.3"].map(|address| publish(&daemon, address));
    assert_eq!(statuses, [201, 201, 429], "anybody can write a header");
    let _first = open(&daemon, "192.0.2.1");
    assert_eq!(open(&daemon, "192.0.2.2").0, Err((4002, "Too many connections".to_owned())));
}

#[test]
fn a_wrong_limit_or_term_is_one_line_and_exit_2() {
    let mut cases = Vec::new();
    for flag in ["--rate-publish", "--rate-query", "--rate-admin"] {
        for value in [
            "",
            "x",
            "10",
            "0/minute",
            "-1/minute",
            "1.5/second",
            "10/day",
            "10/minutes",
            "10/",
            "/minute",
            "10 /minute",
            "minute",
            "Off",
            "10/minute/second",
            "99999999999999999999/minute",
        ] {
            cases.push((flag, value));
        }
    }
    for value in ["", "0", "-1", "x", "1.5", "Off", "99999999999999999999"] {
        cases.push(("--ws-per-address", value));
    }
    for value in ["", "x", "0", "-1", "10", "10x", "2 s", "1.5d"] {
        cases.push(("--keep-events", value));
    }
    for value in ["", "x", "-1", "1.5", "10k", "99999999999999999999"] {
        cases.push(("--keep-events-max", value));
    }
    for (flag, value) in cases {
        match Daemon::try_start(&["--ephemeral", &format!("{flag}={value}")], &[]) {
            Ok(_) => panic!("{flag} '{value}' is accepted"),
            Err((status, said)) => {
                assert_eq!(status.code(), Some(2), "{flag} '{value}': {said}");
                assert!(said.starts_with("timerd: ") && said.lines().count() == 1, "{said:?}");
                assert!(said.contains(flag) && said.contains(value), "{said:?}");
            }
        }
    }
    for flags in [
        ["--rate-publish", "1/second", "--rate-query", "100000/minute", "--rate-admin", "off"],
        ["--keep-events", "90d", "--keep-events-max", "1000000", "--ws-per-address", "1"],
    ] {
        assert_eq!(Daemon::ephemeral(&flags).get("/health").status, 200, "{flags:?}");
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Roles.

#[test]
fn every_call_asks_for_its_role_on_both_families_and_both_sockets() {
    const ROLES: [&str; 3] = ["viewer", "instructor", "admin"];
    let (_kept, place) = directory();
    std::fs::create_dir_all(&place).unwrap();
    let file = place.join("keys");
    let mut lines = String::new();
    let keys = ROLES.map(|role| {
        let made = Command::new(env!("CARGO_BIN_EXE_timerd")).args(["key", "new", role, role]).output().unwrap();
        let text = String::from_utf8(made.stdout).unwrap();
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
        lines.push_str(&format!("{}\n", field("line:")));
        field("key:")
    });
    std::fs::write(&file, lines).unwrap();
    let daemon = ephemeral(&["--require-auth", "--keys-file", file.to_str().unwrap()]);
    let event = body(json!({})).to_string();
    // Method, path, body, the least rank (0: open to all), the status for whoever may.
    let mut calls: Vec<(&str, String, Option<&str>, usize, u16)> =
        vec![("GET", "/health".into(), None, 0, 200), ("GET", "/readiness".into(), None, 0, 200)];
    for family in FAMILIES {
        let path = |rest: &str| format!("{family}{rest}");
        calls.extend([
            ("GET", path("/event-types"), None, 0, 200),
            ("HEAD", path("/event-types"), None, 0, 200),
            ("OPTIONS", path("/events"), None, 0, 204),
            ("PUT", path("/events"), None, 0, 405),
            ("POST", path("/events"), Some(&*event), 2, 201),
            ("POST", path("/events"), Some("{"), 2, 422),
            ("POST", path("/events"), Some("{}"), 2, 422),
            ("GET", path("/events"), None, 2, 200),
            ("HEAD", path("/events"), None, 2, 200),
            ("GET", path("/events?limit=0"), None, 2, 422),
            ("GET", path("/events?after=0"), None, 2, 200),
            ("GET", path("/events/evt_none"), None, 2, 404),
            ("GET", path("/stats"), None, 2, 200),
            ("DELETE", path("/events?before=1999-01-01"), None, 3, 200),
            ("DELETE", path("/events?before=bad"), None, 3, 400),
            ("DELETE", path("/events?before="), None, 3, 400),
        ]);
    }
    let callers: Vec<(usize, Option<&str>)> = [(0, None), (0, Some("")), (0, Some("tk_wrong"))]
        .into_iter()
        .chain(keys.iter().enumerate().map(|(n, key)| (n + 1, Some(key.as_str()))))
        .collect();
    for (rank, key) in &callers {
        for (method, path, body, least, status) in &calls {
            let headers: Vec<(&str, &str)> = key.map(|key| ("X-API-Key", key)).into_iter().collect();
            let response = daemon.request(method, path, &headers, *body);
            let what = format!("{method} {path} at rank {rank} with {key:?}");
            let expected = match rank {
                rank if rank >= least => *status,
                0 => 401,
                _ => 403,
            };
            assert_eq!(response.status, expected, "{what}: {}", response.text());
            assert_safe(&response);
            if expected == 401 && *method != "HEAD" {
                assert_eq!(response.text(), r#"{"detail":"Invalid or missing API key"}"#, "{what}");
            }
        }
        let headers: Vec<(&'static str, &str)> = key.map(|key| ("X-API-Key", key)).into_iter().collect();
        let query = format!("?api_key={}", key.unwrap_or(""));
        for (path, first) in [("/ws/publish", body(json!({}))), ("/ws/subscribe", json!({}))] {
            for mut socket in [daemon.open(path, &headers), daemon.open(&format!("{path}{query}"), &[])] {
                if *rank >= 2 {
                    socket.send(first.clone());
                    let answer = socket.recv();
                    assert!(answer["status"] == "ok" || answer["status"] == "subscribed", "{answer}");
                } else {
                    assert_eq!(socket.expect_close(), (4001, "Unauthorized".to_owned(), vec![]), "{path} at {rank}");
                }
            }
        }
    }
    let query = format!("/events?api_key={}", keys[2]);
    assert_eq!(daemon.get(&query).status, 401, "a query is logged: keys in it are for sockets");
    let instructor = [("X-API-Key", &*keys[1])];
    let made = daemon.request("POST", "/timers", &instructor, Some(r#"{"duration_seconds":60}"#)).json();
    let path = format!("/events?session_id={}", made["id"].as_str().unwrap());
    let events = daemon.request("GET", &path, &instructor, None).json();
    assert_eq!(events[0]["payload"]["actor"], "instructor", "{events}");
}

#[test]
fn an_origin_that_is_not_allowed_is_closed_with_4009_and_a_shutdown_sends_all_away_with_1012() {
    let daemon = ephemeral(&["--cors-origin", "https://a.example"]);
    let mut sockets = Vec::new();
    for path in ["/ws/publish", "/ws/subscribe"] {
        let (code, _, before) = daemon.open(path, &[("Origin", "https://b.example")]).expect_close();
        assert_eq!((code, before), (4009, vec![]), "{path}");
        sockets.push(daemon.open(path, &[("Origin", "https://a.example")]));
        sockets.push(daemon.open(path, &[]));
    }
    sockets[2].send(json!({}));
    assert_eq!(sockets[2].recv()["status"], "subscribed");
    sockets[0].send(body(json!({})));
    acknowledged(&sockets[0].recv());
    assert_eq!(sockets[2].recv()["seq"], 1);
    let ended = std::thread::spawn(move || daemon.terminate().0);
    for mut socket in sockets {
        let (code, _, before) = socket.expect_close();
        assert_eq!((code, before), (1012, vec![]));
    }
    assert_eq!(ended.join().unwrap().code(), Some(0));
}

// ---------------------------------------------------------------------------------------------------------------
// /ws/publish

#[test]
fn answers_come_in_order_with_errors_between_them_and_the_connection_stays() {
    let daemon = ephemeral(&[]);
    let mut socket = daemon.open("/ws/publish", &[]);
    socket.expect_silence(Duration::from_millis(50));
    let large = "x".repeat(1 << 20);
    let faults = [
        ("bad".to_owned(), "Invalid JSON"),
        (String::new(), "Invalid JSON"),
        ("{".to_owned(), "Invalid JSON"),
        ("{'a':1}".to_owned(), "Invalid JSON"),
        (with_payload(r#"{"n":NaN}"#), "Invalid JSON"),
        (large.clone(), "Invalid JSON"),
        (large.clone() + "x", "Message too large"),
        (body(json!({ "payload": { "k": large } })).to_string(), "Message too large"),
        ("[]".to_owned(), ""),
        ("5".to_owned(), ""),
        ("null".to_owned(), ""),
        ("\"text\"".to_owned(), ""),
        ("{}".to_owned(), "event_type"),
        (r#"{"type":"ping"}"#.to_owned(), "event_type"),
        (body(json!({ "event_type": "bogus" })).to_string(), "event_type"),
        (body(json!({ "source": "a b" })).to_string(), "source"),
        (body(json!({ "source": null })).to_string(), "source"),
        (body(json!({ "session_id": "x".repeat(201) })).to_string(), "session_id"),
        (body(json!({ "user_id": 5 })).to_string(), "user_id"),
        (body(json!({ "payload": null })).to_string(), "payload"),
        (body(json!({ "payload": { "k": "x".repeat(65_536) } })).to_string(), "payload"),
    ];
    let mut ids = Vec::new();
    // One at a time, then all in one burst.
    for _ in 0..2 {
        for (n, (text, said)) in faults.iter().enumerate() {
            socket.send_text(text);
            let message = refused(&socket.recv());
            match *said {
                "Invalid JSON" | "Message too large" => assert_eq!(message, *said),
                part => assert!(message.contains(part) && message.len() < 2000, "{part}: {message}"),
            }
            socket.send(nth(n as u64));
            ids.push(acknowledged(&socket.recv()));
        }
    }
    let mut sender = socket.sender();
    std::thread::scope(|scope| {
        let faults = &faults;
        scope.spawn(move || {
            for (n, (text, _)) in faults.iter().enumerate() {
                sender.send_text(text);
                sender.send(nth(n as u64));
            }
        });
        for _ in faults {
            refused(&socket.recv());
            ids.push(acknowledged(&socket.recv()));
        }
    });
    let stored = read_on(&daemon, 0, "", 1000);
    let found: Vec<&str> = stored.iter().map(|event| event["id"].as_str().unwrap()).collect();
    assert_eq!(found, ids, "the order of answers is the order of numbers");
}

#[test]
fn a_message_of_one_mebibyte_is_read_in_one_piece_or_in_many_and_one_byte_more_is_too_large() {
    let daemon = ephemeral(&[]);
    let mut socket = daemon.open("/ws/publish", &[]);
    let least = with_payload("{}");
    let padded = |bytes: usize| format!("{least}{}", " ".repeat(bytes - least.len()));
    let in_pieces = |socket: &mut Socket, text: &str, piece: usize| {
        let count = text.len().div_ceil(piece);
        for (n, part) in text.as_bytes().chunks(piece).enumerate() {
            let opcode = if n == 0 { Data::Text } else { Data::Continue };
            let frame = Frame::message(part.to_vec(), OpCode::Data(opcode), n + 1 == count);
            socket.inner.write(Message::Frame(frame)).unwrap();
            if n == 0 {
                // A control frame may come between.
                socket.inner.write(Message::Ping("between".into())).unwrap();
            }
        }
        socket.inner.flush().unwrap();
    };
    let too_large = json!({ "status": "error", "message": "Message too large" });
    for _ in 0..2 {
        socket.send_text(&padded(1 << 20));
        acknowledged(&socket.recv());
        socket.send_text(&padded((1 << 20) + 1));
        assert_eq!(socket.recv(), too_large);
        in_pieces(&mut socket, &padded(1 << 20), 100_000);
        acknowledged(&socket.recv());
        in_pieces(&mut socket, &padded((1 << 20) + 1), 100_000);
        assert_eq!(socket.recv(), too_large);
        in_pieces(&mut socket, &padded(3 << 20), 1 << 20);
        assert_eq!(socket.recv(), too_large, "one answer for one message");
        in_pieces(&mut socket, &with_payload("{\"k\":\"\u{1f600}\"}"), 1);
        let id = acknowledged(&socket.recv());
        assert_eq!(daemon.get(&format!("/events/{id}")).json()["payload"]["k"], "\u{1f600}");
    }
    assert_eq!(last_seq(&daemon), 6);
}

#[test]
fn pings_are_answered_and_a_binary_message_ends_a_publisher_or_is_refused() {
    let daemon = ephemeral(&[]);
    let mut socket = daemon.open("/ws/publish", &[]);
    socket.inner.send(Message::Ping("hello".into())).unwrap();
    match socket.inner.read().unwrap() {
        Message::Pong(payload) => assert_eq!(&payload[..], b"hello"),
        other => panic!("{other:?}"),
    }
    socket.send(body(json!({})));
    acknowledged(&socket.recv());
    for path in ["/ws/publish", "/ws/subscribe"] {
        let mut socket = daemon.open(path, &[]);
        socket.inner.send(Message::Binary(body(json!({})).to_string().into_bytes().into())).unwrap();
        match socket.recv_or_end() {
            Ok(answer) => drop(refused(&answer)),
            Err((code, _)) => assert_eq!(code, 1003, "{path}"),
        }
    }
    assert_eq!(last_seq(&daemon), 1, "a binary message is no event");
}

#[test]
fn thousands_in_flight_on_one_socket_are_all_acknowledged_in_order_and_all_there() {
    let (_kept, path) = directory();
    let daemon = on(&path, &[]);
    let mut socket = daemon.open("/ws/publish", &[]);
    let mut sender = socket.sender();
    let total = 12_000;
    let sent = std::thread::spawn(move || {
        for n in 0..total {
            sender.inner.write(Message::text(nth(n).to_string())).unwrap();
        }
        sender.inner.flush().unwrap();
    });
    let ids: Vec<String> = (0..total).map(|_| acknowledged(&socket.recv())).collect();
    sent.join().unwrap();
    socket.expect_silence(Duration::from_millis(20));
    let stored = read_on(&daemon, 0, "", 1000);
    assert_eq!(seqs(&stored), (1..=total).collect::<Vec<_>>());
    for ((event, id), n) in stored.iter().zip(&ids).zip(0..) {
        assert_eq!((event["id"].as_str().unwrap(), event["payload"]["n"].as_u64()), (&**id, Some(n)));
    }
}

#[test]
fn a_publisher_that_takes_no_answers_is_not_read_and_loses_nothing() {
    let daemon = ephemeral(&[]);
    let mut socket = daemon.open_narrow("/ws/publish");
    let mut sender = socket.sender();
    sockopt::set_socket_send_buffer_size(sender.inner.get_ref(), 64 << 10).unwrap();
    // Most messages are long and have a long answer: what the kernel holds for both ends, a few megabytes at most, is
    // soon used up.
    let total = 30_000;
    let pad = "x".repeat(1_000);
    let bogus = body(json!({ "event_type": "bogus", "ignored": pad }));
    let message = |n: u64| if n.is_multiple_of(10) { nth(n) } else { bogus.clone() };
    let sent = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let sent = &sent;
        let sending = scope.spawn(move || {
            for n in 0..total {
                sender.send(message(n));
                sent.store(n + 1, Ordering::Release);
            }
        });
        let (mut at, mut since) = (0, Instant::now());
        while since.elapsed() < Duration::from_millis(300) {
            let now = sent.load(Ordering::Acquire);
            if now != at {
                (at, since) = (now, Instant::now());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(at < total, "everything was taken from someone who takes nothing");
        assert!(last_seq(&daemon) <= at.div_ceil(10));
        for n in 0..total {
            let answer = socket.recv();
            if n.is_multiple_of(10) {
                drop(acknowledged(&answer))
            } else {
                drop(refused(&answer))
            };
        }
        sending.join().unwrap();
    });
    let stored = read_on(&daemon, 0, "", 1000);
    assert!(stored.iter().map(|event| event["payload"]["n"].as_u64().unwrap()).eq((0..total).step_by(10)));
}

// ---------------------------------------------------------------------------------------------------------------
// /ws/subscribe

#[test]
fn a_subscription_is_confirmed_with_its_filters_as_given() {
    let daemon = ephemeral(&[]);
    daemon.publish(body(json!({})));
    daemon.publish(body(json!({})));
    let mut ids = BTreeSet::new();
    for (given, echoed) in [
        (json!({}), json!({})),
        (json!({ "session_id": "s" }), json!({ "session_id": "s" })),
        (json!({ "user_id": "u" }), json!({ "user_id": "u" })),
        (json!({ "event_types": ["quiz_started"] }), json!({ "event_types": ["quiz_started"] })),
        (json!({ "event_types": ["bogus", "bogus"] }), json!({ "event_types": ["bogus", "bogus"] })),
        (
            json!({ "user_id": "u\u{1f600}", "event_types": ["quiz_started", "quiz_completed"], "session_id": "\"s\"" }),
            json!({ "user_id": "u\u{1f600}", "event_types": ["quiz_started", "quiz_completed"], "session_id": "\"s\"" }),
        ),
        (
            json!({ "event_types": [], "session_id": "", "user_id": null }),
            json!({ "event_types": [], "session_id": "", "user_id": null }),
        ),
        (
            json!({ "event_types": null, "session_id": null, "user_id": "" }),
            json!({ "event_types": null, "session_id": null, "user_id": "" }),
        ),
        (json!({ "session_id": "s", "color": "red", "type": "subscribe" }), json!({ "session_id": "s" })),
        (json!({ "after": 2, "session_id": "s" }), json!({ "session_id": "s" })),
        (json!({ "after": null, "session_id": "s" }), json!({ "session_id": "s" })),
    ] {
        let (mut socket, confirmation) = daemon.subscribe(given.clone());
        let names: BTreeSet<&str> = keys_of(&confirmation).into_iter().collect();
        assert_eq!(names, ["status", "subscriber_id", "filters", "last_seq"].into(), "{confirmation}");
        assert_eq!(confirmation["filters"], echoed, "{given}");
        assert_eq!(confirmation["last_seq"], 2);
        let id = confirmation["subscriber_id"].as_str().unwrap().to_owned();
        let digits = id.strip_prefix("sub_").unwrap();
        assert!(digits.len() == 8 && digits.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
        assert!(ids.insert(id));
        // Nothing of the past comes by itself.
        socket.send(json!({ "type": "ping" }));
        assert_eq!(socket.recv(), json!({ "type": "pong" }));
    }
    let mut quiet = daemon.open("/ws/subscribe", &[]);
    quiet.expect_silence(Duration::from_millis(50));
    quiet.send(json!({}));
    assert_eq!(quiet.recv()["status"], "subscribed");
}

/// Every shape that filters must not have.
fn wrong_filters() -> Vec<Value> {
    vec![
        json!({ "event_types": "quiz_started" }),
        json!({ "event_types": 5 }),
        json!({ "event_types": true }),
        json!({ "event_types": {} }),
        json!({ "event_types": ["quiz_started", 5] }),
        json!({ "event_types": [null] }),
        json!({ "event_types": [["quiz_started"]] }),
        json!({ "session_id": 5 }),
        json!({ "session_id": ["s"] }),
        json!({ "session_id": false }),
        json!({ "user_id": {} }),
        json!({ "user_id": 0 }),
        json!({ "session_id": "s", "user_id": [] }),
        json!({ "filters": { "session_id": "s" } }),
    ]
}

#[test]
fn a_first_message_of_the_wrong_shape_is_an_error_and_never_a_match_of_everything() {
    let daemon = ephemeral(&[]);
    let mut after: Vec<Value> = [json!("5"), json!(-1), json!(1.5), json!(true), json!([]), json!("x")]
        .into_iter()
        .map(|after| json!({ "after": after }))
        .collect();
    after.extend(wrong_filters());
    let mut texts: Vec<String> = after.iter().map(Value::to_string).collect();
    texts.extend(["bad", "", "[]", "5", "null", "\"x\"", "[\"event_types\"]", "{"].map(str::to_owned));
    texts.push("x".repeat((1 << 20) + 1));
    let mut sockets: Vec<Socket> = texts
        .iter()
        .map(|text| {
            let mut socket = daemon.open("/ws/subscribe", &[]);
            socket.send_text(text);
            let message = refused(&socket.recv());
            let shown = &text[..text.len().min(100)];
            match text.as_str() {
                "bad" | "" | "{" => assert_eq!(message, "Invalid JSON", "{shown}"),
                text if text.len() > 1 << 20 => assert_eq!(message, "Message too large"),
                text => {
                    let names = ["event_types", "session_id", "user_id", "after", "filters"];
                    // A fault in a field is called by the field's name.
                    if text.starts_with('{') {
                        assert!(names.iter().any(|name| text.contains(name) && message.contains(name)), "{message}");
                    }
                }
            }
            socket
        })
        .collect();
    assert_eq!(active_subscribers(&daemon), 0);
    let (mut good, _) = daemon.subscribe(json!({}));
    let event = daemon.publish(body(json!({ "session_id": "s" })));
    assert_eq!(good.recv(), event);
    for (socket, text) in sockets.iter_mut().zip(&texts) {
        socket.inner.get_ref().set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        let shown = &text[..text.len().min(100)];
        assert!(socket.recv_or_end().is_err(), "{shown}: it hears events");
    }
}

#[test]
fn each_subscriber_gets_exactly_what_its_filters_let_through_in_order_and_only_when_it_is_there() {
    let daemon = ephemeral(&[]);
    let filters = [
        json!({}),
        json!({ "session_id": "s1" }),
        json!({ "user_id": "u2" }),
        json!({ "session_id": "s1", "user_id": "u2" }),
        json!({ "session_id": "s1", "event_types": ["answer_changed"] }),
        json!({ "session_id": "s1", "event_types": ["answer_changed", "question_viewed", "bogus"] }),
        json!({ "event_types": [], "session_id": "", "user_id": "" }),
        json!({ "event_types": null, "session_id": null, "user_id": null }),
        json!({ "session_id": "S1" }),
        json!({ "event_types": ["bogus"] }),
        json!({ "event_types": ["quiz_timeout"] }),
        json!({ "after": 0 }),
    ];
    let mut sockets: Vec<Socket> = filters.iter().map(|filters| daemon.subscribe(filters.clone()).0).collect();
    let mut publisher = daemon.open("/ws/publish", &[]);
    publisher.send_text("bad");
    publisher.send(body(json!({ "event_type": "bogus" })));
    refused(&publisher.recv());
    refused(&publisher.recv());
    publish_all(&mut publisher, (0..120).map(nth), 40);
    for family in FAMILIES {
        let made = daemon.post(&format!("{family}/events"), body(json!({ "event_type": "quiz_timeout" }))).json();
        // Whoever hears of it finds it.
        let heard = loop {
            let event = sockets[10].recv();
            let found = daemon.get(&format!("/events/{}", event["id"].as_str().unwrap()));
            assert_eq!((found.status, &found.json()), (200, &event));
            if event == made {
                break event;
            }
        };
        assert_eq!(heard["payload"], json!({}));
    }
    let all = read_on(&daemon, 0, "", 1000);
    assert_eq!(all.len(), 122);
    for (socket, filters) in sockets.iter_mut().zip(&filters) {
        socket.send(json!({ "type": "ping" }));
        let mut got = Vec::new();
        loop {
            let message = socket.recv();
            if message == json!({ "type": "pong" }) {
                break;
            }
            got.push(message);
        }
        let heard_before = filters["event_types"] == json!(["quiz_timeout"]);
        let expected: Vec<Value> =
            all.iter().filter(|event| matches(filters, event) && !heard_before).cloned().collect();
        assert_eq!(got, expected, "{filters}");
    }
}

#[test]
fn filters_can_be_replaced_and_cleared_and_a_wrong_one_changes_nothing() {
    let daemon = ephemeral(&[]);
    let (mut socket, _) = daemon.subscribe(json!({ "session_id": "a", "event_types": ["quiz_timeout"] }));
    let update = |socket: &mut Socket, filters: Value, echoed: Value| {
        socket.send(json!({ "type": "update_filters", "filters": filters }));
        assert_eq!(socket.recv(), json!({ "status": "filters_updated", "filters": echoed }));
    };
    let publish = |session: &str| daemon.publish(body(json!({ "session_id": session })));
    update(&mut socket, json!({ "session_id": "b" }), json!({ "session_id": "b" }));
    publish("a");
    let event = publish("b");
    assert_eq!(socket.recv(), event, "replaced, not merged");
    for filters in wrong_filters().into_iter().chain([json!([]), json!("x"), json!(5), json!(true)]) {
        socket.send(json!({ "type": "update_filters", "filters": filters }));
        refused(&socket.recv());
    }
    for name in ["session_id", "user_id", "event_types"] {
        // Beside the filter, not in it: to take it for none would be to hear all.
        socket.send(json!({ "type": "update_filters", name: "b" }));
        refused(&socket.recv());
    }
    publish("a");
    let event = publish("b");
    assert_eq!(socket.recv(), event, "the last good one is in force");
    update(&mut socket, json!({ "user_id": "u", "color": 1, "after": 0 }), json!({ "user_id": "u" }));
    publish("b");
    let event = daemon.publish(body(json!({ "user_id": "u" })));
    assert_eq!(socket.recv(), event, "no history by an update");
    socket.send(json!({ "type": "update_filters" }));
    assert_eq!(socket.recv(), json!({ "status": "filters_updated", "filters": {} }));
    let event = publish("c");
    assert_eq!(socket.recv(), event, "cleared");
    update(&mut socket, json!({ "session_id": "b" }), json!({ "session_id": "b" }));
    update(
        &mut socket,
        json!({ "session_id": null, "event_types": [], "user_id": "" }),
        json!({ "session_id": null, "event_types": [], "user_id": "" }),
    );
    let event = publish("d");
    assert_eq!(socket.recv(), event);
}

#[test]
fn a_subscriber_may_say_what_it_likes_and_goes_on() {
    let daemon = ephemeral(&[]);
    let (mut socket, _) = daemon.subscribe(json!({}));
    for text in ["bad", "", r#"{"type":"nope"}"#, "{}", r#"{"type":null}"#, "[1]", "5", "\"x\"", "null"] {
        socket.send_text(text);
        let event = daemon.publish(body(json!({})));
        let mut heard = socket.recv();
        if heard != event {
            refused(&heard);
            heard = socket.recv();
        }
        assert_eq!(heard, event, "{text}");
    }
    socket.inner.send(Message::Ping("hello".into())).unwrap();
    assert!(matches!(socket.inner.read().unwrap(), Message::Pong(payload) if &payload[..] == b"hello"));
    socket.send_text(&"x".repeat((1 << 20) + 1));
    match socket.recv_or_end() {
        Ok(answer) => {
            assert_eq!(answer, json!({ "status": "error", "message": "Message too large" }));
            let event = daemon.publish(body(json!({})));
            assert_eq!(socket.recv(), event);
        }
        Err((code, _)) => assert_eq!(code, 1009),
    }
}

/// Half a minute: the only test of what comes after seconds of silence.
#[test]
#[ignore = "takes 32 s of waiting"]
fn whoever_says_nothing_for_ten_seconds_is_closed_and_a_silent_subscription_hears_keepalives() {
    let daemon = ephemeral(&[]);
    let begun = Instant::now();
    let mut mute = daemon.open("/ws/subscribe", &[]);
    let (mut socket, _) = daemon.subscribe(json!({}));
    let mut publisher = daemon.open("/ws/publish", &[]);
    for socket in [&mute, &socket, &publisher] {
        socket.inner.get_ref().set_read_timeout(Some(Duration::from_secs(40))).unwrap();
    }
    let (_, _, before) = mute.expect_close();
    assert!((9.0..12.0).contains(&begun.elapsed().as_secs_f64()), "{:?}", begun.elapsed());
    assert!(before.len() <= 1, "{before:?}");
    assert_eq!(socket.recv(), json!({ "type": "keepalive" }));
    assert!((29.0..33.0).contains(&begun.elapsed().as_secs_f64()), "{:?}", begun.elapsed());
    publisher.send(body(json!({})));
    acknowledged(&publisher.recv());
    assert_eq!(socket.recv()["event_type"], "quiz_started");
}

#[test]
fn there_is_room_for_five_thousand_subscribers_and_not_for_one_more() {
    const SUBSCRIBERS: usize = 5_000;
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    let daemon = ephemeral(&[]);
    // The upgrade and the first message in one piece, and no buffers: there are many.
    let upgrade = "GET /ws/subscribe HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let open = |text: &str| {
        let mut stream = TcpStream::connect(daemon.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut bytes = upgrade.as_bytes().to_vec();
        bytes.extend([0x81, 0x80 | u8::try_from(text.len()).unwrap(), 0, 0, 0, 0]);
        bytes.extend(text.as_bytes());
        stream.write_all(&bytes).unwrap();
        stream
    };
    let answer = |stream: &mut TcpStream| {
        let mut text = String::new();
        let mut chunk = [0; 1024];
        while !text.contains("\"status\":") {
            let n = stream.read(&mut chunk).unwrap();
            assert!(n > 0, "{text}");
            text.push_str(&String::from_utf8_lossy(&chunk[..n]));
        }
        text
    };
    let mut streams = Vec::with_capacity(SUBSCRIBERS);
    for _ in 0..SUBSCRIBERS / 100 {
        let mut some: Vec<TcpStream> = (0..100).map(|_| open(r#"{"session_id":"s"}"#)).collect();
        for stream in &mut some {
            assert!(answer(stream).contains("\"status\":\"subscribed\""));
        }
        streams.append(&mut some);
    }
    assert_eq!(active_subscribers(&daemon), SUBSCRIBERS as u64);
    let mut one_more = daemon.open("/ws/subscribe", &[]);
    one_more.send(json!({}));
    assert_eq!(one_more.recv(), json!({ "status": "error", "message": "Server at subscriber capacity" }));
    // All hear the same event; then one leaves, and there is room for one.
    let made = daemon.publish(body(json!({ "session_id": "s" })));
    for stream in &mut streams {
        let mut bytes = Vec::new();
        let mut chunk = [0; 1024];
        while !bytes.ends_with(made.to_string().as_bytes()) {
            let n = stream.read(&mut chunk).unwrap();
            assert!(n > 0, "{}", String::from_utf8_lossy(&bytes));
            bytes.extend_from_slice(&chunk[..n]);
        }
    }
    drop(streams.pop());
    eventually(|| {
        let mut socket = daemon.open("/ws/subscribe", &[]);
        socket.send(json!({}));
        socket.recv_or_end().is_ok_and(|answer| answer["status"] == "subscribed")
    });
}

// ---------------------------------------------------------------------------------------------------------------
// after: history, then live.

#[test]
fn history_joins_what_is_live_without_a_gap_or_a_double_while_thousands_are_published() {
    const BEFORE: u64 = 2_500;
    const TOTAL: u64 = 9_000;
    let daemon = ephemeral(&[]);
    let mut publisher = daemon.open("/ws/publish", &[]);
    publish_all(&mut publisher, (0..BEFORE).map(nth), 500);
    let filters = [
        json!({}),
        json!({ "session_id": "s1" }),
        json!({ "event_types": ["answer_changed", "question_viewed"] }),
        json!({ "event_types": ["answer_submitted"], "user_id": "u4", "session_id": "s3" }),
    ];
    // Number n + 1 is event n.
    let expected = |filters: &Value, after: u64| -> Vec<u64> {
        (after..TOTAL).filter(|n| matches(filters, &nth(*n))).map(|n| n + 1).collect()
    };
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (daemon, is_over, expected) = (&daemon, &is_over, &expected);
        for (filters, after) in filters.iter().flat_map(|f| [0, 1_234, BEFORE - 1, BEFORE].map(|after| (f, after))) {
            scope.spawn(move || {
                let mut configuration = filters.clone();
                configuration["after"] = json!(after);
                let (mut socket, confirmation) = daemon.subscribe(configuration);
                assert!(confirmation["last_seq"].as_u64().unwrap() >= BEFORE);
                for want in expected(filters, after) {
                    let event = socket.recv();
                    assert_eq!(event["seq"], want, "{filters} after {after}");
                    assert_eq!(event["payload"]["n"], want - 1);
                }
            });
        }
        // One that comes and goes all the time, each time from another place, always somewhere in the middle.
        scope.spawn(move || {
            let mut joins = 0;
            while !is_over.load(Ordering::Acquire) || joins == 0 {
                let last = last_seq(daemon);
                let after = last - [0, 1, 40, 700, 2_000][joins % 5].min(last);
                let (mut socket, _) = daemon.subscribe(json!({ "after": after }));
                for want in (after + 1..=TOTAL).take(100) {
                    assert_eq!(socket.recv()["seq"], want, "after {after}");
                }
                joins += 1;
            }
        });
        publish_all(&mut publisher, (BEFORE..TOTAL).map(nth), 250);
        is_over.store(true, Ordering::Release);
    });
    // Nothing comes behind the last one.
    let (mut socket, _) = daemon.subscribe(json!({ "after": TOTAL - 1 }));
    assert_eq!(socket.recv()["seq"], TOTAL);
    socket.expect_silence(Duration::from_millis(50));
}

#[test]
fn subscribers_that_come_back_with_after_miss_nothing_over_kill_9() {
    let (_kept, path) = directory();
    let mut daemon = on(&path, &[]);
    let address = daemon.address;
    let listen = address.to_string();
    let is_up = AtomicBool::new(true);
    let filters = [json!({}), json!({ "session_id": "s1" }), json!({ "event_types": ["answer_changed"] })];
    let (stored, heard, told) = std::thread::scope(|scope| {
        let is_up = &is_up;
        let subscribers: Vec<_> = filters
            .iter()
            .map(|filters| {
                scope.spawn(move || {
                    let mut heard: Vec<Value> = Vec::new();
                    let begun = Instant::now();
                    loop {
                        assert!(begun.elapsed() < 6 * PATIENCE, "the last event never comes");
                        std::thread::sleep(Duration::from_millis(2));
                        if !is_up.load(Ordering::Acquire) {
                            continue;
                        }
                        let Ok(mut socket) = Daemon::try_open_at(address, "/ws/subscribe", &[]) else { continue };
                        let mut configuration = filters.clone();
                        configuration["after"] = json!(heard.last().map_or(0, seq));
                        if socket.inner.send(Message::text(configuration.to_string())).is_err() {
                            continue;
                        }
                        while let Ok(message) = socket.recv_or_end() {
                            if message["status"].is_string() {
                                assert_eq!(message["status"], "subscribed", "{message}");
                                continue;
                            }
                            heard.push(message);
                            if heard.last().unwrap()["payload"] == json!({ "last": true }) {
                                return heard;
                            }
                        }
                    }
                })
            })
            .collect();
        let mut told = BTreeSet::new();
        for round in 0..5 {
            let mut socket = daemon.open("/ws/publish", &[]);
            let publisher = scope.spawn(move || {
                let mut ids = Vec::new();
                for n in (round * 100_000..).step_by(50) {
                    for n in n..n + 50 {
                        // The daemon may be gone by now.
                        let _ = socket.inner.write(Message::text(nth(n).to_string()));
                    }
                    let _ = socket.inner.flush();
                    for _ in 0..50 {
                        match socket.recv_or_end() {
                            Ok(answer) => ids.push(acknowledged(&answer)),
                            Err(_) => return ids,
                        }
                    }
                }
                ids
            });
            std::thread::sleep(Duration::from_millis(120));
            is_up.store(false, Ordering::Release);
            daemon.kill();
            told.extend(publisher.join().unwrap());
            daemon = on(&path, &["--listen", &listen]);
            is_up.store(true, Ordering::Release);
        }
        let last = json!({
            "event_type": "answer_changed", "source": "x", "session_id": "s1", "payload": { "last": true },
        });
        daemon.publish(last);
        let heard: Vec<Vec<Value>> = subscribers.into_iter().map(|thread| thread.join().unwrap()).collect();
        (read_on(&daemon, 0, "", 1000), heard, told)
    });
    assert_eq!(seqs(&stored), (1..=stored.len() as u64).collect::<Vec<_>>());
    let ids: BTreeSet<&str> = stored.iter().map(|event| event["id"].as_str().unwrap()).collect();
    assert!(told.len() > 200, "{}", told.len());
    assert!(told.iter().all(|id| ids.contains(&**id)), "an acknowledged event is gone");
    for (filters, heard) in filters.iter().zip(heard) {
        let expected: Vec<&Value> = stored.iter().filter(|event| matches(filters, event)).collect();
        assert_eq!(seqs(&heard), expected.iter().map(|event| seq(event)).collect::<Vec<_>>(), "{filters}");
        assert!(heard.iter().eq(expected), "what was heard is what is kept");
    }
}

#[test]
fn a_subscriber_is_told_what_was_deleted_and_from_there_it_works() {
    let daemon = ephemeral(&[]);
    let mut publisher = daemon.open("/ws/publish", &[]);
    publish_all(&mut publisher, (0..10).map(nth), 10);
    assert_eq!(daemon.delete("/events").json(), json!({ "deleted": 10 }));
    let told = |after: u64, more: Value| {
        let mut configuration = more;
        configuration["after"] = json!(after);
        let mut socket = daemon.open("/ws/subscribe", &[]);
        socket.send(configuration);
        let (code, _, before) = socket.expect_close();
        assert_eq!(code, 4010, "{before:?}");
        let message = before.last().unwrap();
        assert_eq!(
            (keys_of(message), &message["status"]),
            (vec!["status", "message", "oldest_seq"], &json!("error"))
        );
        assert!(message["message"].is_string());
        message["oldest_seq"].as_u64().unwrap()
    };
    for after in [0, 5, 9] {
        assert_eq!(told(after, json!({})), 11);
        assert_eq!(told(after, json!({ "session_id": "nobody" })), 11, "with whatever filters");
    }
    let (mut socket, _) = daemon.subscribe(json!({ "after": 10 }));
    publish_all(&mut publisher, (10..20).map(nth), 10);
    assert_eq!((0..10).map(|_| seq(&socket.recv())).collect::<Vec<_>>(), (11..=20).collect::<Vec<_>>());
    let oldest = told(9, json!({}));
    assert_eq!(oldest, 11);
    let (mut again, _) = daemon.subscribe(json!({ "after": oldest - 1 }));
    assert_eq!((0..10).map(|_| seq(&again.recv())).collect::<Vec<_>>(), (11..=20).collect::<Vec<_>>());
    // Whoever is live misses nothing by a deletion.
    daemon.delete("/events");
    publish_all(&mut publisher, (20..22).map(nth), 2);
    for socket in [&mut socket, &mut again] {
        assert_eq!([seq(&socket.recv()), seq(&socket.recv())], [21, 22]);
    }

    // Deleted while it reads: as far as it came without a gap, then the word, and no event from behind the hole.
    let daemon = ephemeral(&[]);
    let mut publisher = daemon.open("/ws/publish", &[]);
    let large = |n: u64| body(json!({ "payload": { "n": n, "text": "x".repeat(60_000) } }));
    publish_all(&mut publisher, (0..200).map(large), 20);
    let mut slow = daemon.open_narrow("/ws/subscribe");
    slow.send(json!({ "after": 0 }));
    slow.recv();
    assert_eq!(slow.recv()["seq"], 1);
    assert_eq!(daemon.delete("/events").json(), json!({ "deleted": 200 }));
    publish_all(&mut publisher, (200..203).map(large), 3);
    sockopt::set_socket_recv_buffer_size(slow.inner.get_ref(), 8 << 20).unwrap();
    let (code, reason, mut before) = slow.expect_close();
    assert_eq!(code, 4010, "{reason}");
    let last = before.pop().unwrap();
    let came = before.len() as u64;
    assert_eq!(seqs(&before), (2..2 + came).collect::<Vec<_>>());
    // A deletion goes on in slices: what had gone by then.
    let oldest = last["oldest_seq"].as_u64().unwrap_or_else(|| panic!("{last}"));
    assert!(last["status"] == "error" && came + 2 < oldest && oldest <= 201, "{came} {last}");
    let (mut again, _) = daemon.subscribe(json!({ "after": 200 }));
    assert_eq!([(); 3].map(|()| seq(&again.recv())), [201, 202, 203]);
}

#[test]
fn a_subscriber_that_does_not_read_is_sent_away_with_its_place_and_goes_on_from_there() {
    let daemon = ephemeral(&[]);
    let mut slow = daemon.open_narrow("/ws/subscribe");
    slow.send(json!({}));
    slow.recv();
    let (mut other, _) = daemon.subscribe(json!({}));
    let mut publisher = daemon.open("/ws/publish", &[]);
    let large = |n: u64| body(json!({ "payload": { "n": n, "text": "x".repeat(60_000) } }));
    // More than the kernel and an outbox hold for one connection.
    let total = 150;
    for n in (0..total).step_by(5) {
        publish_all(&mut publisher, (n..n + 5).map(large), 5);
        for n in n..n + 5 {
            assert_eq!(other.recv()["seq"], n + 1, "the others miss nothing");
        }
    }
    eventually(|| active_subscribers(&daemon) == 1);
    sockopt::set_socket_recv_buffer_size(slow.inner.get_ref(), 8 << 20).unwrap();
    let (code, reason, got) = slow.expect_close();
    assert_eq!(code, 1013, "{reason}");
    assert_eq!(seqs(&got), (1..=got.len() as u64).collect::<Vec<_>>());
    let place: u64 =
        reason.split(|c: char| !c.is_ascii_digit()).rfind(|part| !part.is_empty()).unwrap().parse().unwrap();
    assert_eq!(place, got.len() as u64, "{reason}");
    assert!(place < total);
    let (mut again, _) = daemon.subscribe(json!({ "after": place }));
    for n in place + 1..=total {
        assert_eq!(again.recv()["seq"], n);
    }
    // Whoever reads slowly, but with after, is not outrun by history.
    let mut patient = daemon.open_narrow("/ws/subscribe");
    patient.send(json!({ "after": 0 }));
    patient.recv();
    for n in 1..=total.min(60) {
        if n % 20 == 0 {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(patient.recv()["seq"], n);
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Timers feed it.

/// An event that a timer made of itself.
#[track_caller]
fn assert_fed(event: &Value, kind: &str, timer: &str, actor: &str) {
    assert_event(event);
    let found = [&event["event_type"], &event["source"], &event["session_id"], &event["user_id"]];
    assert_eq!(found, [&json!(kind), &json!("timerd"), &json!(timer), &Value::Null], "{event}");
    assert_eq!(event["payload"]["actor"], actor, "{event}");
}

/// The fields of the payload are those of the message, with the actor; the server's time and what is left of a
/// running timer are of another instant.
#[track_caller]
fn assert_payload(event: &Value, message: &Value) {
    let payload = &event["payload"];
    let names = |value: &Value, but: &str| -> BTreeSet<String> {
        keys_of(value).into_iter().filter(|name| *name != but).map(str::to_owned).collect()
    };
    assert_eq!(names(payload, "actor"), names(message, "type"), "{event} {message}");
    for name in names(payload, "actor") {
        let pair = (payload[&name].as_i64().unwrap(), message[&name].as_i64().unwrap());
        let tolerance = if matches!(&*name, "server_time_ms" | "remaining_ms") { 3_000 } else { 0 };
        assert!((pair.0 - pair.1).abs() <= tolerance, "{name}: {event} {message}");
    }
}

#[test]
fn every_change_of_a_timer_is_an_event_with_the_fields_of_its_message_and_the_actor() {
    let daemon = ephemeral(&[]);
    let (mut subscriber, _) = daemon.subscribe(json!({}));
    let id = daemon.create(json!({ "duration_seconds": 600, "name": "Finals", "warning_thresholds": [] }));
    let created = subscriber.recv();
    assert_fed(&created, "timer_created", &id, "anonymous");
    let told = created["payload"].to_string();
    assert!(told.contains("Finals") && told.contains("600"), "what was created: {told}");
    let (mut socket, _) = daemon.join(&id);
    let change = |action: &str| match action {
        "extend" => daemon.extend(&id, 7).status,
        "delete" => daemon.delete(&format!("/timers/{id}")).status,
        action => daemon.control(&id, action).status,
    };
    for (action, message, kind) in [
        ("start", "timer_started", "timer_started"),
        ("pause", "timer_paused", "timer_paused"),
        ("resume", "timer_started", "timer_resumed"),
        ("pause", "timer_paused", "timer_paused"),
        ("start", "timer_started", "timer_resumed"),
        ("extend", "timer_extended", "timer_extended"),
        ("stop", "timer_stopped", "timer_stopped"),
        ("delete", "timer_deleted", "timer_deleted"),
    ] {
        assert!(matches!(change(action), 200 | 204), "{action}");
        let event = subscriber.recv();
        assert_fed(&event, kind, &id, "anonymous");
        assert_payload(&event, &socket.skip_to(message));
        // A refused command leaves nothing behind.
        let refused = match action {
            "start" | "resume" => "resume",
            "pause" => "pause",
            "stop" => "extend",
            _ => continue,
        };
        assert_eq!(change(refused), 400);
        assert_eq!(last_seq(&daemon), seq(&event));
    }
    assert_eq!(change("delete"), 404);
    let events = read_on(&daemon, 0, &format!("&session_id={id}"), 100);
    assert_eq!(seqs(&events), (1..=9).collect::<Vec<_>>());
    let actions: Vec<String> =
        events.iter().map(|event| event["event_type"].as_str().unwrap().replace("timer_", "")).collect();
    let history = daemon.get(&format!("/timers/{id}/history")).json();
    let known: Vec<&str> = history.as_array().unwrap().iter().map(|line| line["action"].as_str().unwrap()).collect();
    assert_eq!(actions, known, "the order of events is that of the history");
    subscriber.expect_silence(Duration::from_millis(30));
}

#[test]
fn warnings_ends_and_scheduled_starts_are_events_at_their_true_instants() {
    let daemon = ephemeral(&[]);
    let (mut subscriber, _) = daemon.subscribe(json!({}));
    let id = daemon.create(json!({ "duration_seconds": 2, "warning_thresholds": [1], "auto_start": true }));
    let (mut socket, greeting) = daemon.join(&id);
    for (kind, actor) in [("timer_created", "anonymous"), ("timer_started", "anonymous")] {
        assert_fed(&subscriber.recv(), kind, &id, actor);
    }
    let (warning, message) = (subscriber.recv(), socket.skip_to("timer_warning"));
    assert_fed(&warning, "timer_warning", &id, "timerd");
    assert_payload(&warning, &message);
    let (expired, message) = (subscriber.recv(), socket.skip_to("timer_expired"));
    assert_fed(&expired, "timer_expired", &id, "timerd");
    assert_payload(&expired, &message);
    let ends_us = instant_us(&greeting["timer"]["ends_at"]);
    let off_us = instant_us(&expired["timestamp"]) - ends_us;
    assert!((0..1_000).contains(&off_us), "{expired} must be of {}", greeting["timer"]["ends_at"]);

    let start_ms = wall_us() / 1_000 + 400;
    let start_at = jiff::Timestamp::from_millisecond(start_ms).unwrap().to_string();
    let id = daemon.create(json!({ "duration_seconds": 60, "start_at": start_at }));
    assert_fed(&subscriber.recv(), "timer_created", &id, "anonymous");
    let started = subscriber.recv();
    assert_fed(&started, "timer_started", &id, "schedule");
    let off_us = instant_us(&started["timestamp"]) - start_ms * 1_000;
    assert!((0..1_000).contains(&off_us), "{started} must be of {start_at}");
}

#[test]
fn what_followed_while_the_daemon_was_away_is_told_afterwards_with_its_true_instant() {
    let (_kept, path) = directory();
    let daemon = on(&path, &[]);
    let id = daemon.create(json!({ "duration_seconds": 1, "auto_start": true, "warning_thresholds": [] }));
    let ends_at = daemon.timer(&id)["ends_at"].clone();
    let last = seq(&daemon.publish(body(json!({}))));
    assert_eq!(last, 3);
    daemon.kill();
    std::thread::sleep(Duration::from_millis(1_100));
    let daemon = on(&path, &[]);
    let (mut subscriber, _) = daemon.subscribe(json!({ "after": last }));
    let expired = subscriber.recv();
    assert_fed(&expired, "timer_expired", &id, "timerd");
    assert_eq!((seq(&expired), instant_us(&expired["timestamp"])), (4, instant_us(&ends_at)));
    assert_eq!(read_on(&daemon, 0, &format!("&session_id={id}"), 2).len(), 3);
    let next = daemon.publish(body(json!({})));
    assert_eq!((seq(&next), subscriber.recv()), (5, next));
}

#[test]
fn a_bulk_call_is_one_event_for_each_timer_that_it_changed_in_the_order_asked() {
    let daemon = ephemeral(&[]);
    let ids = [(); 3].map(|()| daemon.create(json!({ "duration_seconds": 60 })));
    let (mut subscriber, confirmation) = daemon.subscribe(json!({}));
    let mut next = confirmation["last_seq"].as_u64().unwrap() + 1;
    assert_eq!(next, 4);
    let asked = [&ids[2], "timer_none", &ids[0], &ids[1]];
    for (op, kind) in [
        ("start", "timer_started"),
        ("pause", "timer_paused"),
        ("resume", "timer_resumed"),
        ("extend", "timer_extended"),
        ("stop", "timer_stopped"),
        ("delete", "timer_deleted"),
    ] {
        // The second time nothing changes, but for extensions.
        for is_again in [false, true] {
            if is_again && op == "extend" {
                continue;
            }
            let response = daemon.post(&format!("/timers/bulk/{op}"), json!({ "timer_ids": asked, "seconds": 5 }));
            assert_eq!(response.status, 200, "{}", response.text());
        }
        for id in [&ids[2], &ids[0], &ids[1]] {
            let event = subscriber.recv();
            assert_fed(&event, kind, id, "anonymous");
            assert_eq!(seq(&event), next);
            next += 1;
        }
        assert_eq!(last_seq(&daemon), next - 1, "{op}");
    }
}

#[test]
fn ticks_are_routed_to_those_who_name_them_and_not_kept() {
    let daemon = ephemeral(&[]);
    let (mut all, _) = daemon.subscribe(json!({}));
    let (mut none, _) = daemon.subscribe(json!({ "event_types": [] }));
    let (mut named, _) = daemon.subscribe(json!({ "event_types": ["timer_tick", "timer_expired"] }));
    let (mut elsewhere, _) = daemon.subscribe(json!({ "event_types": ["timer_tick"], "session_id": "timer_x" }));
    let id = daemon.create(json!({ "duration_seconds": 3, "warning_thresholds": [] }));
    let (mut of_this, _) = daemon.subscribe(json!({ "event_types": ["timer_tick"], "session_id": id, "after": 0 }));
    let (mut later, _) = daemon.subscribe(json!({ "session_id": id }));
    later.send(json!({ "type": "update_filters", "filters": { "event_types": ["timer_tick"] } }));
    assert_eq!(later.recv()["status"], "filters_updated");
    let (mut socket, _) = daemon.join(&id);
    assert_eq!(daemon.control(&id, "start").status, 200);
    for left in [2, 1, 0] {
        let message = socket.skip_to("timer_tick");
        for listener in [&mut named, &mut of_this, &mut later] {
            let tick = listener.recv();
            assert_eq!(keys_of(&tick), FIELDS);
            let found = ["id", "event_type", "source", "session_id", "user_id", "seq"].map(|name| tick[name].clone());
            let expected = [Value::Null, json!("timer_tick"), json!("timerd"), json!(id), Value::Null, Value::Null];
            assert_eq!(found, expected);
            for name in ["remaining_seconds", "elapsed_seconds"] {
                assert_eq!(tick["payload"][name], message[name], "{tick}");
            }
            assert_eq!(tick["payload"]["remaining_seconds"], left, "{tick}");
            let shape: String = tick["timestamp"]
                .as_str()
                .unwrap()
                .chars()
                .map(|c| if c.is_ascii_digit() { '0' } else { c })
                .collect();
            assert_eq!(shape, "0000-00-00T00:00:00.000000Z");
        }
    }
    assert_fed(&named.recv(), "timer_expired", &id, "timerd");
    for listener in [&mut all, &mut none] {
        for kind in ["timer_created", "timer_started", "timer_expired"] {
            assert_eq!(listener.recv()["event_type"], kind);
        }
    }
    assert_eq!(seqs(&read_on(&daemon, 0, "", 100)), [1, 2, 3], "a tick takes no number");
    assert!(daemon.events("?event_type=timer_tick").is_empty());
    assert!(!daemon.get("/stats").json()["by_type"].to_string().contains("timer_tick"));
    // A published one is an event like any other.
    let tick = daemon.publish(body(json!({ "event_type": "timer_tick", "session_id": id })));
    assert_eq!(seq(&tick), 4);
    for listener in [&mut all, &mut none, &mut named, &mut of_this, &mut later] {
        assert_eq!(listener.recv(), tick);
    }
    assert_eq!(daemon.events("?event_type=timer_tick"), [tick]);
    elsewhere.expect_silence(Duration::from_millis(20));
}

// ---------------------------------------------------------------------------------------------------------------
// Durability.

#[test]
fn whatever_was_acknowledged_is_there_after_kill_9() {
    const ROUNDS: u64 = 20;
    let (_kept, path) = directory();
    let mut daemon = on(&path, &[]);
    let timer = daemon.create(json!({ "duration_seconds": 3600 }));
    let mut read: Vec<Value> = read_on(&daemon, 0, "", 1000);
    let mut acknowledged_in_all = 0;
    for round in 0..ROUNDS {
        let mut socket = daemon.open("/ws/publish", &[]);
        let (mut rest, mut extending) = (daemon.connect(), daemon.connect());
        let over_socket = std::thread::spawn(move || {
            let mut told = Vec::new();
            for begun in (round * 1_000_000..).step_by(40) {
                for n in begun..begun + 40 {
                    // The daemon may be gone by now.
                    let _ = socket.inner.write(Message::text(nth(n).to_string()));
                }
                let _ = socket.inner.flush();
                for n in begun..begun + 40 {
                    match socket.recv_or_end() {
                        Ok(answer) => told.push((acknowledged(&answer), json!({ "n": n }))),
                        Err(_) => return told,
                    }
                }
            }
            told
        });
        /// The answers to one request after the other until the daemon is gone.
        fn until_the_end(http: &mut Http, request: &[u8], mut told: impl FnMut(Response)) {
            while http.stream.write_all(request).is_ok() {
                let Some(response) = http.try_response_to("POST") else { return };
                told(response);
            }
        }
        let over_rest = std::thread::spawn(move || {
            let mut told = Vec::new();
            let payload = json!({ "by": "rest" });
            let event = body(json!({ "payload": payload })).to_string();
            until_the_end(&mut rest, &request_bytes("POST", "/events", &[JSON], Some(&event)), |response| {
                assert_eq!(response.status, 201);
                told.push((response.json()["id"].as_str().unwrap().to_owned(), payload.clone()));
            });
            told
        });
        let extend = format!("/timers/{timer}/control");
        let extensions = std::thread::spawn(move || {
            let mut revision = 0;
            let extend = request_bytes("POST", &extend, &[JSON], Some(r#"{"action":"extend","extend_seconds":1}"#));
            until_the_end(&mut extending, &extend, |response| {
                assert_eq!(response.status, 200, "{}", response.text());
                revision = response.json()["revision"].as_u64().unwrap();
            });
            revision
        });
        std::thread::sleep(Duration::from_millis(15 + round * 7 % 40));
        daemon.kill();
        let told: Vec<(String, Value)> =
            [over_socket, over_rest].into_iter().flat_map(|t| t.join().unwrap()).collect();
        let revision = extensions.join().unwrap();

        daemon = on(&path, &[]);
        let last = read.last().map_or(0, seq);
        let new = read_on(&daemon, last, "", 1000);
        assert_eq!(seqs(&new), (last + 1..=last + new.len() as u64).collect::<Vec<_>>(), "round {round}");
        let payloads: BTreeMap<&str, &Value> =
            new.iter().map(|event| (event["id"].as_str().unwrap(), &event["payload"])).collect();
        assert_eq!(payloads.len(), new.len(), "ids are unique");
        let lost = told.iter().filter(|(id, payload)| payloads.get(&**id) != Some(&payload)).count();
        assert_eq!(lost, 0, "round {round}: of {}", told.len());
        assert!(daemon.timer(&timer)["revision"].as_u64().unwrap() >= revision);
        acknowledged_in_all += told.len();
        read.extend(new);
    }
    assert!(acknowledged_in_all > 500, "{acknowledged_in_all}");
    // Each change of the timer has its event, in the same commit: neither is there without the other.
    let mut actions = Vec::new();
    let mut after = 0;
    loop {
        let page = daemon.get(&format!("/timers/{timer}/history?after={after}")).json();
        let Some(last) = page.as_array().unwrap().last() else { break };
        after = last["revision"].as_u64().unwrap();
        actions.extend(
            page.as_array().unwrap().iter().map(|line| format!("timer_{}", line["action"].as_str().unwrap())),
        );
    }
    let events: Vec<&str> = read
        .iter()
        .filter(|event| event["session_id"] == *timer)
        .map(|event| event["event_type"].as_str().unwrap())
        .collect();
    assert!(events.len() > 20, "{}", events.len());
    assert_eq!(events, actions);
    assert_stats(&daemon, &read, read.len() as u64);
}

#[test]
fn while_the_disk_fails_publishers_are_told_and_what_timers_did_is_written_later() {
    let (_kept, path) = directory();
    let daemon = on(&path, &[]);
    let mut publisher = daemon.open("/ws/publish", &[]);
    publish_all(&mut publisher, (0..600).map(nth), 100);
    assert!(daemon.terminate().0.success());
    let daemon = on(&path, &[]);
    let pid = Pid::from_raw(daemon.pid().try_into().unwrap());
    let limit = |bytes: Option<u64>| {
        prlimit(pid, Resource::Fsize, Rlimit { current: bytes, maximum: None }).unwrap();
    };
    let timer = daemon.create(json!({ "duration_seconds": 2, "auto_start": true, "warning_thresholds": [] }));
    let (mut subscriber, confirmation) = daemon.subscribe(json!({}));
    let mut last = confirmation["last_seq"].as_u64().unwrap();
    assert_eq!(last, 602);
    let (mut socket, _) = daemon.join(&timer);
    let mut publisher = daemon.open("/ws/publish", &[]);
    limit(Some(36 << 10));
    // Over both ways at once, so that some are on their way to the disk when it is found to fail.
    eventually(|| {
        for n in 0..5 {
            publisher.inner.write(Message::text(nth(n).to_string())).unwrap();
        }
        publisher.inner.flush().unwrap();
        let status = daemon.post("/events", nth(last)).status;
        assert!(matches!(status, 201 | 503), "{status}");
        let answers = [(); 5].map(|()| publisher.recv());
        let stored = answers.iter().filter(|answer| answer["status"] == "ok").count() + usize::from(status == 201);
        answers.iter().filter(|answer| answer["status"] != "ok").for_each(|answer| drop(refused(answer)));
        for _ in 0..stored {
            last += 1;
            assert_eq!(subscriber.recv()["seq"], last);
        }
        stored < 6
    });
    let refusal = daemon.post("/events", nth(last));
    assert_eq!(refusal.status, 503, "{}", refusal.text());
    assert!(refusal.header("retry-after").unwrap().parse::<u32>().unwrap() >= 1);
    assert!(refusal.json()["detail"].is_string());
    for n in 0..3 {
        publisher.send(nth(n));
        refused(&publisher.recv());
    }
    let readiness = daemon.get("/readiness");
    let told = readiness.json();
    let found = (readiness.status, &told["ready"], &told["database"], &told["router"]["active_subscribers"]);
    assert_eq!(found, (503, &json!(false), &json!("disconnected"), &json!(1)), "{told}");
    // The timer's own clients hear of its end at once, subscribers when it is kept.
    socket.skip_to("timer_expired");
    subscriber.expect_silence(Duration::from_millis(50));

    limit(None);
    let expired = subscriber.recv();
    assert_fed(&expired, "timer_expired", &timer, "timerd");
    assert_eq!(seq(&expired), last + 1, "what was refused took no number");
    eventually(|| daemon.get("/readiness").status == 200);
    let id = publish_all(&mut publisher, [nth(1)], 1).remove(0);
    let event = subscriber.recv();
    assert_eq!((seq(&event), event["id"].as_str().unwrap()), (last + 2, &*id));
    let all = read_on(&daemon, 0, "", 1000);
    assert_eq!(seqs(&all), (1..=last + 2).collect::<Vec<_>>());
    assert_stats(&daemon, &all, last + 2);
}
