//! The candidate's socket: who is let in, what is said first, each message with its answers, what is said unasked,
//! and the ticks.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tungstenite::Message;

use super::{
    Delivery, NOBODY, STATES, assert_fields, assert_time, ephemeral, fast, free, item, next, number, section, simple,
    to, with, without_time,
};
use crate::daemon::{Daemon, Socket};

fn path(id: &str) -> String {
    format!("/delivery/ws/{id}")
}

/// The next message that is no tick.
#[track_caller]
fn news(socket: &mut Socket) -> Value {
    loop {
        let message = socket.recv();
        if message["type"] != "timer" {
            return message;
        }
        assert_timer(&message);
    }
}

/// A tick, or the answer to a ping.
#[track_caller]
fn assert_timer(message: &Value) {
    assert_eq!(message["type"], "timer", "{message}");
    let mut fields = message.clone();
    // An answer carries what the question was called.
    fields.as_object_mut().unwrap().remove("ref");
    assert_fields(&fields, "type time_remaining timestamp");
    assert_time(&message["timestamp"]);
}

#[track_caller]
fn ask(socket: &mut Socket, message: Value) -> Value {
    socket.send(message);
    news(socket)
}

// ---------------------------------------------------------------------------------------------------------------
// Who is let in.

#[test]
fn only_an_active_session_lets_anybody_in() {
    let daemon = fast(&[]);
    for id in [NOBODY, "x", "0", "%20"] {
        let (code, reason, before) = daemon.open(&path(id), &[]).expect_close();
        assert_eq!((code, &*reason, before), (4004, "Session not found", vec![]), "{id}");
    }
    for state in STATES {
        let id = daemon.session_in(state);
        if matches!(state, "in_progress" | "paused") {
            let (_, timer, current) = daemon.attend(&id);
            assert_timer(&timer);
            assert_eq!(timer["time_remaining"], 3600);
            let expected = json!({
                "type": "current_item", "item": item("q1"), "index": 0, "total": 3, "is_flagged": false,
            });
            assert_eq!(current, expected);
        } else {
            let shown = if state == "late" { "expired" } else { state };
            let (code, reason, before) = daemon.open(&path(&id), &[]).expect_close();
            let expected = format!("Session not active (state: {shown})");
            assert_eq!((code, reason, before), (4003, expected, vec![]));
        }
    }
}

#[test]
fn a_session_has_five_sockets_and_not_one_more() {
    let daemon = ephemeral(&[]);
    let id = daemon.session_in("in_progress");
    let mut sockets: Vec<Socket> = (0..5).map(|_| daemon.attend(&id).0).collect();
    for _ in 0..3 {
        let (code, reason, before) = daemon.open(&path(&id), &[]).expect_close();
        assert_eq!((code, &*reason, before), (4029, "Too many connections", vec![]));
    }
    assert_eq!(daemon.get("/delivery/assessments/simple/sessions").json()[0]["connected"], 5);
    daemon.attend(&daemon.session_in("in_progress"));
    let mut first = sockets.remove(0);
    first.inner.close(None).unwrap();
    first.expect_close();
    crate::daemon::eventually(|| daemon.get("/delivery/assessments/simple/sessions").json()[0]["connected"] == 4);
    let (mut again, _, _) = daemon.attend(&id);
    // All of them hear what happens.
    assert_eq!(daemon.call(&id, "pause").status, 200);
    for socket in sockets.iter_mut().chain([&mut again]) {
        assert_eq!(news(socket)["type"], "paused");
    }
}

#[test]
fn origins_shutdowns_binary_messages_and_floods_end_as_on_every_socket() {
    let daemon = ephemeral(&["--cors-origin", "https://a.example"]);
    let id = daemon.session_in("in_progress");
    let (code, _, before) = daemon.open(&path(&id), &[("Origin", "https://b.example")]).expect_close();
    assert_eq!((code, before), (4009, vec![]));
    drop(daemon.open(&path(&id), &[("Origin", "https://a.example")]));
    let (mut binary, _, _) = daemon.attend(&id);
    binary.inner.send(Message::binary(&b"{}"[..])).unwrap();
    assert_eq!(binary.expect_close().0, 1003);
    let (mut flood, _, _) = daemon.attend(&id);
    for _ in 0..300 {
        // It may have been closed by now.
        let _ = flood.inner.write(Message::text(r#"{"type":"ping"}"#));
    }
    let _ = flood.inner.flush();
    assert_eq!(flood.expect_close().0, 1008);
    let (mut socket, _, _) = daemon.attend(&id);
    let ended = std::thread::spawn(move || daemon.terminate().0);
    assert_eq!(socket.expect_close().0, 1012);
    assert_eq!(ended.join().unwrap().code(), Some(0));
}

// ---------------------------------------------------------------------------------------------------------------
// What is asked and answered.

#[test]
fn every_message_has_its_answer_with_the_reference_it_came_with() {
    let daemon = ephemeral(&[]);
    let id = daemon.session_in("in_progress");
    let (mut socket, _, _) = daemon.attend(&id);
    let refs = [None, Some(json!("a\"b")), Some(json!(7)), Some(json!(1.5)), Some(json!("")), Some(json!(true))];
    for reference in refs {
        let named = |message: Value| match &reference {
            Some(reference) => with(message, json!({ "ref": reference })),
            None => message,
        };
        // A tick may come between: the answer to a ping is told from it by its reference, if it has one.
        socket.send(named(json!({ "type": "ping" })));
        let pong = loop {
            let timer = socket.recv();
            assert_timer(&timer);
            if timer.get("ref") == reference.as_ref() {
                break timer;
            }
        };
        assert!(matches!(pong["time_remaining"].as_u64(), Some(3500..=3600)), "{pong}");
        let saved =
            ask(&mut socket, named(json!({ "type": "answer_save", "item_id": "q2", "response": { "n": 1 } })));
        assert_eq!(saved, named(json!({ "type": "answer_saved", "item_id": "q2", "current_index": 0 })));
        let moved = ask(&mut socket, named(with(to(2), json!({ "type": "navigate" }))));
        assert_eq!(moved, named(json!({ "type": "navigated", "current_index": 2, "total_items": 3 })));
        let shown = with(news(&mut socket), json!({ "ref": 0 }));
        let expected = json!({
            "type": "current_item", "item": item("q3"), "index": 2, "total": 3, "is_flagged": false, "ref": 0,
        });
        assert_eq!(shown, expected);
        for flagged in [true, true, false] {
            let answer = ask(&mut socket, named(json!({ "type": "flag", "item_id": "q3", "is_flagged": flagged })));
            assert_eq!(answer, named(json!({ "type": "flagged", "item_id": "q3", "is_flagged": flagged })));
            let list = if flagged { json!(["q3"]) } else { json!([]) };
            assert_eq!(daemon.session(&id)["flagged_items"], list);
            let current = ask(&mut socket, named(json!({ "type": "get_current" })));
            let expected = json!({
                "type": "current_item", "item": item("q3"), "index": 2, "total": 3, "is_flagged": flagged,
            });
            assert_eq!(current, named(expected));
        }
        let back = ask(&mut socket, named(json!({ "type": "navigate", "direction": "specific", "target_index": 0 })));
        assert_eq!(back, named(json!({ "type": "navigated", "current_index": 0, "total_items": 3 })));
        assert_eq!(news(&mut socket)["index"], 0);
        let error = |message: &str| named(json!({ "type": "error", "message": message }));
        assert_eq!(ask(&mut socket, named(json!({ "type": "submit" }))), error("Unknown message type: submit"));
        let wrong = named(json!({ "type": "navigate", "direction": "previous" }));
        assert_eq!(ask(&mut socket, wrong), error("Cannot navigate before the first item"));
        let wrong = named(json!({ "type": "answer_save", "item_id": "q9", "response": {} }));
        assert_eq!(ask(&mut socket, wrong), error("Item q9 not in session"));
    }
    assert_eq!(daemon.session(&id)["responses"], json!({ "q2": { "n": 1 } }), "as over REST");
}

#[test]
fn what_is_not_understood_is_an_error_and_the_connection_stays() {
    let daemon = ephemeral(&[]);
    let id = daemon.session_in("in_progress");
    let (mut socket, _, _) = daemon.attend(&id);
    let before = without_time(daemon.session(&id));
    let mut error = |text: &str| {
        socket.send_text(text);
        let answer = news(&mut socket);
        assert_eq!(answer["type"], "error", "{text}: {answer}");
        answer["message"].as_str().unwrap().to_owned()
    };
    for text in ["", "{", "5", "[]", "null", "\"ping\"", r#"{"type":"ping"} x"#] {
        assert_eq!(error(text), "Invalid JSON", "{text}");
    }
    for text in ["{}", r#"{"type":null}"#, r#"{"type":""}"#, r#"{"type":"PING"}"#, r#"{"type":"start"}"#] {
        assert!(error(text).starts_with("Unknown message type: "), "{text}");
    }
    // What is wrong is named.
    for (field, text) in [
        ("item_id", json!({ "type": "answer_save", "response": {} })),
        ("item_id", json!({ "type": "answer_save", "item_id": 5, "response": {} })),
        ("response", json!({ "type": "answer_save", "item_id": "q1" })),
        ("response", json!({ "type": "answer_save", "item_id": "q1", "response": [] })),
        ("item_id", json!({ "type": "flag", "is_flagged": true })),
        ("is_flagged", json!({ "type": "flag", "item_id": "q1" })),
        ("is_flagged", json!({ "type": "flag", "item_id": "q1", "is_flagged": "maybe" })),
        ("direction", json!({ "type": "navigate" })),
        ("target_index", json!({ "type": "navigate", "direction": "specific", "target_index": "x" })),
    ] {
        let said = error(&text.to_string());
        assert!(said.contains(field), "{text}: {said}");
    }
    for (text, said) in [
        (json!({ "type": "navigate", "direction": "up" }), "Invalid direction: up"),
        (json!({ "type": "navigate", "direction": "specific" }), "target_index required for specific navigation"),
        (json!({ "type": "navigate", "direction": "specific", "target_index": 9 }), "Invalid target index: 9"),
        (json!({ "type": "flag", "item_id": "q9", "is_flagged": true }), "Item q9 not in session"),
    ] {
        assert_eq!(error(&text.to_string()), said);
    }
    assert!(!error(r#"{"type":"answer_save","item_id":"q1","response":{"n":1e400}}"#).is_empty());
    assert_eq!(without_time(daemon.session(&id)), before);
    // Of a field that is given twice the last one counts.
    socket.send_text(r#"{"type":"start","item_id":5,"is_flagged":true,"item_id":"q1","type":"flag"}"#);
    assert_eq!(news(&mut socket)["type"], "flagged");
    socket.send(json!({ "type": "ping", "ref": 1 }));
    assert_eq!(socket.skip_to("timer")["type"], "timer");
}

#[test]
fn on_the_socket_the_states_hold_as_over_rest_and_what_can_be_read_can_be_read_in_each() {
    let daemon = fast(&[]);
    let commands = [
        ("submit answer", json!({ "type": "answer_save", "item_id": "q1", "response": {} })),
        ("navigate", with(next(), json!({ "type": "navigate" }))),
        ("flag", json!({ "type": "flag", "item_id": "q1", "is_flagged": true })),
    ];
    for state in ["paused", "completed", "terminated", "expired"] {
        let limit = if state == "expired" { 6 } else { 3600 };
        daemon.set("x", with(simple(), json!({ "time_limit_seconds": limit, "grace_seconds": 0 })));
        let id = daemon.begin("x", "anna");
        let (mut socket, _, _) = daemon.attend(&id);
        let call = match state {
            "paused" => "pause",
            "completed" => "submit",
            _ => "terminate",
        };
        if state != "expired" {
            assert_eq!(daemon.call(&id, call).status, 200);
        }
        assert_eq!(news(&mut socket)["type"], state);
        for (verb, command) in &commands {
            let said = match state {
                "expired" => "Time expired".to_owned(),
                _ => format!("Cannot {verb} in state: {state}"),
            };
            assert_eq!(ask(&mut socket, command.clone()), json!({ "type": "error", "message": said }));
        }
        let current = ask(&mut socket, json!({ "type": "get_current", "ref": "r" }));
        assert_eq!((&current["type"], &current["ref"]), (&json!("current_item"), &json!("r")), "{state}");
        socket.send(json!({ "type": "ping", "ref": state }));
        let pong = socket.recv();
        assert_timer(&pong);
        assert_eq!((&pong["ref"], pong["time_remaining"] == 0), (&json!(state), state == "expired"), "{pong}");
        assert_eq!(daemon.session(&id)["flagged_items"], json!([]));
        if state == "paused" {
            assert_eq!(daemon.call(&id, "resume").status, 200);
            assert_eq!(news(&mut socket)["type"], "resumed");
            assert_eq!(ask(&mut socket, commands[0].1.clone())["type"], "answer_saved");
        }
    }
}

#[test]
fn what_one_device_does_every_other_one_finds() {
    let daemon = ephemeral(&[]);
    let id = daemon.session_in("in_progress");
    let (mut phone, _, _) = daemon.attend(&id);
    ask(&mut phone, json!({ "type": "answer_save", "item_id": "q2", "response": { "from": "phone" } }));
    ask(&mut phone, with(to(1), json!({ "type": "navigate" })));
    news(&mut phone);
    ask(&mut phone, json!({ "type": "flag", "item_id": "q2", "is_flagged": true }));
    drop(phone);
    let (mut laptop, timer, current) = daemon.attend(&id);
    assert!(timer["time_remaining"].as_u64().unwrap() <= 3600);
    let expected = json!({ "type": "current_item", "item": item("q2"), "index": 1, "total": 3, "is_flagged": true });
    assert_eq!(current, expected);
    assert_eq!(daemon.go(&id, next()), 2);
    assert_eq!(ask(&mut laptop, json!({ "type": "get_current" }))["index"], 2);
    assert_eq!(daemon.session(&id)["responses"]["q2"], json!({ "from": "phone" }));
}

// ---------------------------------------------------------------------------------------------------------------
// What is said unasked.

#[test]
fn every_change_is_announced_word_for_word() {
    let daemon = fast(&[]);
    daemon.set("x", with(simple(), json!({ "time_limit_seconds": 1000 })));
    let id = daemon.begin("x", "anna");
    let (mut socket, _, _) = daemon.attend(&id);
    let left = |answer: &Value| number(&answer["time_remaining_seconds"]);
    let mut ending = |call: &str, kind: &str| {
        assert_eq!(daemon.call(&id, call).status, 200);
        let said = news(&mut socket);
        assert_fields(&said, "type time_remaining");
        assert_eq!(said["type"], kind);
        said["time_remaining"].as_u64().unwrap()
    };
    let paused = ending("pause", "paused");
    assert_eq!(number(&daemon.session(&id)["time_remaining_seconds"]) as u64, paused);
    let resumed = ending("resume", "resumed");
    assert_eq!(resumed, paused, "time stood still");
    let answer = daemon.ask(&id, "extend", json!({ "seconds": 60, "reason": "fire alarm \u{1f525}" })).json();
    let said = news(&mut socket);
    assert_fields(&said, "type added_seconds reason time_remaining");
    let shown = json!({ "type": "extended", "added_seconds": 60, "reason": "fire alarm \u{1f525}" });
    assert_eq!(with(said.clone(), shown), said);
    assert!(left(&answer).abs_diff(number(&said["time_remaining"])) <= 1, "{said} and {answer}");
    daemon.ask(&id, "extend", json!({ "seconds": 1 }));
    let said = news(&mut socket);
    assert_eq!((&said["reason"], &said["added_seconds"]), (&json!(""), &json!(1)), "{said}");
    let ending = |id: &str, socket: &mut Socket, call: &str, kind: &str| {
        assert_eq!(daemon.call(id, call).status, 200);
        let said = news(socket);
        assert_fields(&said, "type time_remaining");
        assert_eq!(said["type"], kind);
        assert!(matches!(said["time_remaining"].as_u64(), Some(900..=1061)), "{said}");
    };
    ending(&id, &mut socket, "submit", "completed");
    let other = daemon.begin("x", "bert");
    let (mut second, _, _) = daemon.attend(&other);
    ending(&other, &mut second, "terminate", "terminated");
    // Nothing ticks behind the end, and the connection stays.
    for (socket, id) in [(&mut socket, &id), (&mut second, &other)] {
        socket.expect_silence(Duration::from_millis(250));
        socket.send(json!({ "type": "get_current" }));
        assert_eq!(socket.recv()["type"], "current_item", "{id}");
    }
    // Untimed: nothing to show.
    daemon.set("x", free(&[section("a", &["q1"])]));
    let id = daemon.begin("x", "anna");
    let (mut socket, timer, _) = daemon.attend(&id);
    assert_timer(&timer);
    assert_eq!(timer["time_remaining"], Value::Null);
    socket.expect_silence(Duration::from_millis(250));
    socket.send(json!({ "type": "ping" }));
    assert_eq!(socket.expect("timer")["time_remaining"], Value::Null);
    for (call, kind) in [("pause", "paused"), ("resume", "resumed"), ("submit", "completed")] {
        assert_eq!(daemon.call(&id, call).status, 200);
        assert_eq!(socket.recv(), json!({ "type": kind, "time_remaining": null }));
    }
}

#[test]
fn a_late_hand_in_is_told_to_whoever_is_still_there() {
    let daemon = fast(&[]);
    daemon.set("x", with(simple(), json!({ "time_limit_seconds": 5, "grace_seconds": 60 })));
    let id = daemon.begin("x", "anna");
    let (mut socket, _, _) = daemon.attend(&id);
    assert_eq!(news(&mut socket), json!({ "type": "expired", "message": "Time expired" }));
    assert_eq!(daemon.call(&id, "submit").status, 200);
    assert_eq!(news(&mut socket), json!({ "type": "completed", "time_remaining": 0 }));
}

// ---------------------------------------------------------------------------------------------------------------
// Ticks.

/// The ticks up to `expired`, with the time at which each came.
fn ticks(socket: &mut Socket) -> Vec<(Duration, u64)> {
    let begun = Instant::now();
    let mut ticks = Vec::new();
    loop {
        let message = socket.recv();
        if message["type"] == "expired" {
            return ticks;
        }
        if message["type"] == "timer" {
            assert_timer(&message);
            ticks.push((begun.elapsed(), message["time_remaining"].as_u64().unwrap()));
        }
    }
}

#[test]
fn ticks_come_once_a_second_and_strictly_fall_to_zero() {
    let daemon = fast(&[]);
    daemon.set("x", with(simple(), json!({ "time_limit_seconds": 12 })));
    let mut sockets: Vec<(u64, Socket)> = (0..4)
        .map(|n| {
            let (socket, timer, _) = daemon.attend(&daemon.begin("x", &format!("c{n}")));
            (timer["time_remaining"].as_u64().unwrap(), socket)
        })
        .collect();
    // A pause in between takes no tick away and adds none.
    let id = daemon.begin("x", "paused");
    let (mut paused, timer, _) = daemon.attend(&id);
    assert_eq!(daemon.call(&id, "pause").status, 200);
    let stands = paused.skip_to("paused")["time_remaining"].as_u64().unwrap();
    paused.expect_silence(Duration::from_millis(250));
    assert_eq!(daemon.call(&id, "resume").status, 200);
    assert_eq!(paused.skip_to("resumed")["time_remaining"], stands);
    assert!(timer["time_remaining"].as_u64().unwrap() >= stands);
    sockets.push((stands, paused));
    for (first, socket) in &mut sockets {
        let ticks = ticks(socket);
        let seconds: Vec<u64> = ticks.iter().map(|(_, left)| *left).collect();
        assert!(seconds.windows(2).all(|pair| pair[0] > pair[1]), "{seconds:?}");
        assert!(seconds[0] < *first && *seconds.last().unwrap() == 0, "{seconds:?} after {first}");
        // One that is late is one true tick: those it should have been are left out.
        assert!(seconds.len() >= 8, "{seconds:?}");
        socket.send(json!({ "type": "ping", "ref": "still there" }));
        let pong = socket.recv();
        assert_eq!((&pong["time_remaining"], &pong["ref"]), (&json!(0), &json!("still there")));
        socket.expect_silence(Duration::from_millis(50));
    }
}

#[test]
fn a_tick_lies_on_the_grid_of_its_session() {
    // Real seconds: the k-th tick comes k seconds before the end.
    let daemon = ephemeral(&[]);
    daemon.set("x", with(simple(), json!({ "time_limit_seconds": 3 })));
    let before = Instant::now();
    let id = daemon.begin("x", "anna");
    let after = Instant::now();
    let (mut socket, _, _) = daemon.attend(&id);
    let read_from = Instant::now();
    let ticks = ticks(&mut socket);
    let seconds: Vec<u64> = ticks.iter().map(|(_, left)| *left).collect();
    assert_eq!(seconds, [2, 1, 0]);
    for (at, left) in ticks {
        let seen = read_from + at;
        let due = Duration::from_secs(3 - left);
        assert!(seen.duration_since(before) >= due, "{left} came early");
        assert!(seen.saturating_duration_since(after + due) < Duration::from_millis(900), "{left} came late");
    }
}

#[test]
fn a_tick_is_no_event_and_no_socket_hears_of_another_session() {
    let daemon = fast(&[]);
    daemon.set("x", with(simple(), json!({ "time_limit_seconds": 300 })));
    let [one, other] = ["anna", "bert"].map(|who| daemon.begin("x", who));
    let (mut socket, _, _) = daemon.attend(&one);
    assert_eq!(daemon.call(&other, "pause").status, 200);
    assert_eq!(daemon.answer(&other, "q1", json!({})).status, 400);
    assert_eq!(daemon.call(&other, "terminate").status, 200);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(350) {
        assert_timer(&socket.recv());
    }
    assert_eq!(daemon.told(&one).len(), 3, "created, started, viewed");
}

#[test]
fn many_sessions_with_a_socket_each_hear_their_own_time() {
    let daemon: Daemon = fast(&[]);
    let limits: Vec<u64> = (0..30).map(|n| 100 + 7 * n).collect();
    let mut sockets = Vec::new();
    for limit in &limits {
        daemon.set("x", with(simple(), json!({ "time_limit_seconds": limit })));
        let begun = Instant::now();
        let id = daemon.begin("x", &format!("c{limit}"));
        let (socket, timer, _) = daemon.attend(&id);
        assert!(timer["time_remaining"].as_u64().unwrap() <= *limit);
        sockets.push((begun, *limit, socket));
    }
    for (begun, limit, socket) in &mut sockets {
        let mut last = u64::MAX;
        for _ in 0..3 {
            let left = socket.expect("timer")["time_remaining"].as_u64().unwrap();
            let spent = u64::try_from(begun.elapsed().as_millis()).unwrap().div_ceil(100);
            assert!(left < last && left < *limit && left + spent >= *limit, "{left} of {limit}");
            last = left;
        }
    }
}
