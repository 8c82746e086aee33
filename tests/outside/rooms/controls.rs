//! Each control in each state, what it makes of the room, who is told, revisions, and what happens when two press at
//! once.

use std::sync::Barrier;

use serde_json::{Value, json};

use super::{
    LATE_MS_MAX, Member, Rooms, assert_now, at_rest, checked, command, ephemeral, invalid, keys, news, refused,
    sleep_ms, state_of, with,
};
use crate::daemon::{Daemon, Socket};

/// A room as it may be; `reset` and `fresh` are stopped.
const STATES: [&str; 5] = ["fresh", "running", "paused", "completed", "reset"];

/// So many times a room for each state, of 100 seconds with 10 more where time has begun, but for the completed one,
/// which had 1.
fn some_of_each(daemon: &Daemon, times: usize) -> Vec<Vec<(&'static str, Member)>> {
    let mut all: Vec<_> = (0..times).map(|_| one_of_each(daemon)).collect();
    for (state, member) in all.iter_mut().flatten() {
        if *state == "completed" {
            member.socket.skip_to("timer:completed");
        }
    }
    all
}

/// The same once, and the completed one is about to be.
fn one_of_each(daemon: &Daemon) -> Vec<(&'static str, Member)> {
    let mut rooms: Vec<(&str, Member)> = Vec::new();
    for state in STATES {
        let duration = if state == "completed" { 1 } else { 100 };
        let mut member = daemon.found(json!({ "duration": duration, "name": "Anna" }));
        if state != "fresh" {
            member.control("timer:start");
        }
        if matches!(state, "running" | "paused" | "reset") {
            member.press(json!({ "type": "timer:extend", "seconds": 10 }));
        }
        match state {
            "paused" => _ = member.control("timer:pause"),
            "reset" => _ = member.control("timer:reset"),
            _ => {}
        }
        rooms.push((state, member));
    }
    rooms
}

/// What every control does in every state: what it is called then and its duration, or nothing.
fn outcome(state: &str, control: &str) -> Option<(&'static str, i64)> {
    let own = if state == "completed" { 1 } else { 100 };
    match (state, control) {
        (_, "start") => Some(("running", own)),
        (_, "start 70") => Some(("running", 70)),
        (_, "reset") => Some(("stopped", own)),
        ("running", "pause") => Some(("paused", 110)),
        ("paused", "resume") => Some(("running", 110)),
        ("running", "extend") => Some(("running", 115)),
        ("paused", "extend") => Some(("paused", 115)),
        _ => None,
    }
}

#[test]
fn every_control_does_in_every_state_what_the_table_says_and_everybody_hears_the_same() {
    let daemon = ephemeral(&[]);
    let controls = ["start", "start 70", "pause", "resume", "reset", "extend"];
    for (control, rooms) in controls.into_iter().zip(some_of_each(&daemon, controls.len())) {
        for (state, mut anna) in rooms {
            let case = format!("{control} in {state}");
            let mut bert = daemon.visit(&anna.room, "Bert");
            anna.socket.skip_to("session:user-joined");
            let before = bert.joined["state"].clone();
            let message = match control {
                "start 70" => json!({ "type": "timer:start", "duration": 70 }),
                "extend" => json!({ "type": "timer:extend", "seconds": 5 }),
                other => command(&format!("timer:{other}")),
            };
            let Some((then, duration)) = outcome(state, control) else {
                let text = match control {
                    "pause" => "Cannot pause: the timer is not running",
                    "resume" => "Cannot resume: the timer is not paused",
                    _ => "Cannot extend: the timer is neither running nor paused",
                };
                bert.refused(message, "wrong_state", text);
                anna.hears_nothing();
                assert_eq!(at_rest(&state_of(&daemon.room(&anna.room))), at_rest(&before), "{case}");
                continue;
            };
            let after = bert.press(message);
            assert_eq!(checked(&after), then, "{case}: {after}");
            assert_eq!(after["revision"].as_i64(), before["revision"].as_i64().map(|n| n + 1), "{case}");
            assert_eq!(after["duration"], duration, "{case}");
            let had = before["remainingMs"].as_i64().unwrap();
            let expected = match control {
                "start" | "start 70" | "reset" => 1000 * duration,
                "extend" => had + 5000,
                _ => had,
            };
            let stands = state != "running" || control == "reset";
            let late = if stands && then != "running" { 0 } else { LATE_MS_MAX };
            let left = after["remainingMs"].as_i64().unwrap();
            assert!((expected - late..=expected).contains(&left), "{case}: {left} ms of {expected}");
            match then {
                "running" | "paused" if control.starts_with("start") => assert_now(&after["startedAt"]),
                "running" | "paused" => assert_eq!(after["startedAt"], before["startedAt"], "{case}"),
                _ => {}
            }
            match (then, control) {
                ("paused", "pause") => assert_now(&after["pausedAt"]),
                ("paused", _) => assert_eq!(after["pausedAt"], before["pausedAt"], "{case}"),
                _ => {}
            }
            let heard = anna.news();
            assert_eq!(heard, json!({ "type": "timer:state", "state": after, "by": "Bert" }), "{case}");
            // Nobody hears of one change twice.
            anna.hears_nothing();
            bert.hears_nothing();
            assert_eq!(at_rest(&state_of(&daemon.room(&anna.room))), at_rest(&after), "{case}");
        }
    }
}

#[test]
fn a_change_is_told_word_for_word_to_whoever_made_it_and_to_all_others() {
    let daemon = ephemeral(&[]);
    let mut anna = daemon.found(json!({ "duration": 100, "name": "An\"na" }));
    let mut bert = daemon.visit(&anna.room, "Bert");
    anna.socket.expect("session:user-joined");
    let room = anna.room.clone();
    let mut said = |message: Value| {
        anna.socket.send(message);
        let text = anna.socket.recv_text();
        assert_eq!(bert.socket.recv_text(), text);
        let value: Value = serde_json::from_str(&text).unwrap();
        (text, value["state"].clone())
    };
    let (text, state) = said(json!({ "type": "timer:start" }));
    let started = state["startedAt"].clone();
    let expected = |fields: &str| format!(r#"{{"type":"timer:state","state":{{{fields}}},"by":"An\"na"}}"#);
    let left = state["remainingMs"].clone();
    let running = format!(
        r#""sessionId":"{room}","duration":100,"remainingTime":100,"isRunning":true,"isPaused":false,"startedAt":{started},"pausedAt":null,"revision":2,"remainingMs":{left},"completed":false"#
    );
    assert_eq!(text, expected(&running));
    let (text, state) = said(json!({ "type": "timer:pause" }));
    let (left, paused) = (state["remainingMs"].clone(), state["pausedAt"].clone());
    let paused = format!(
        r#""sessionId":"{room}","duration":100,"remainingTime":100,"isRunning":false,"isPaused":true,"startedAt":{started},"pausedAt":{paused},"revision":3,"remainingMs":{left},"completed":false"#
    );
    assert_eq!(text, expected(&paused));
    let (text, _) = said(json!({ "type": "timer:reset" }));
    let reset = format!(
        r#""sessionId":"{room}","duration":100,"remainingTime":100,"isRunning":false,"isPaused":false,"startedAt":null,"pausedAt":null,"revision":4,"remainingMs":100000,"completed":false"#
    );
    assert_eq!(text, expected(&reset));
}

#[test]
fn extensions_are_gone_with_the_next_start_and_with_a_reset() {
    let daemon = ephemeral(&[]);
    let mut anna = daemon.found(json!({ "duration": 100 }));
    let extend = json!({ "type": "timer:extend", "seconds": 3600 });
    let duration = |state: Value| state["duration"].as_i64().unwrap();
    anna.control("timer:start");
    assert_eq!(duration(anna.press(extend.clone())), 3700);
    assert_eq!(duration(anna.press(extend.clone())), 7300);
    assert_eq!(duration(anna.control("timer:start")), 100, "from the beginning");
    assert_eq!(duration(anna.press(json!({ "type": "timer:start", "duration": 200 }))), 200);
    assert_eq!(duration(anna.press(extend.clone())), 3800);
    assert_eq!(duration(anna.control("timer:reset")), 200, "the duration of the last start");
    assert_eq!(duration(anna.control("timer:reset")), 200);
    assert_eq!(duration(anna.control("timer:start")), 200);
    anna.control("timer:pause");
    assert_eq!(duration(anna.press(extend)), 3800);
    assert_eq!(duration(anna.control("timer:resume")), 3800);
    assert_eq!(duration(anna.press(json!({ "type": "timer:start", "duration": null }))), 200, "null is left out");
}

#[test]
fn the_fields_of_controls_are_read_as_everywhere_and_named_when_they_are_wrong() {
    let daemon = ephemeral(&[]);
    let mut anna = daemon.found(json!({ "duration": 100 }));
    for (given, duration) in [(json!(1.0), 1), (json!("86400"), 86_400), (json!(86_400), 86_400), (json!("7"), 7)] {
        let state = anna.press(json!({ "type": "timer:start", "duration": given, "seconds": "x", "unknown": {} }));
        assert_eq!(state["duration"], duration);
    }
    for (given, duration) in [(json!(1), 8), (json!("3600"), 3608), (json!(5.0), 3613)] {
        let state = anna.press(json!({ "type": "timer:extend", "seconds": given, "duration": "x" }));
        assert_eq!(state["duration"], duration);
    }
    let revision = daemon.room(&anna.room)["revision"].clone();
    for wrong in [json!(0), json!(-5), json!(86_401), json!(1.5), json!(true), json!(""), json!("x"), json!([1])] {
        invalid(&mut anna.socket, json!({ "type": "timer:start", "duration": wrong }), "duration");
    }
    for wrong in [json!(0), json!(-5), json!(3601), json!(1.5), json!(false), json!(""), json!({}), Value::Null] {
        invalid(&mut anna.socket, json!({ "type": "timer:extend", "seconds": wrong }), "seconds");
    }
    invalid(&mut anna.socket, command("timer:extend"), "seconds");
    assert_eq!(daemon.room(&anna.room)["revision"], revision);
    // What is wrong in itself is said before what is wrong in this state.
    anna.control("timer:reset");
    invalid(&mut anna.socket, command("timer:extend"), "seconds");
}

// ---------------------------------------------------------------------------------------------------------------
// Revisions.

#[test]
fn a_command_with_the_rooms_own_revision_is_carried_out() {
    let daemon = ephemeral(&[]);
    let mut anna = daemon.found(json!({ "duration": 100 }));
    let given = [json!(1), json!(2.0), json!("3"), json!(4), Value::Null, json!(6)];
    let kinds = ["start", "pause", "resume", "extend", "reset", "start"];
    for (n, (kind, revision)) in kinds.into_iter().zip(given).enumerate() {
        let message = json!({ "type": format!("timer:{kind}"), "seconds": 5, "revision": revision });
        assert_eq!(anna.press(message)["revision"], n + 2);
    }
}

#[test]
fn an_older_revision_is_stale_whatever_else_is_wrong_and_the_answer_has_the_state() {
    let daemon = ephemeral(&["--second-ms", "200"]);
    for (state, mut anna) in some_of_each(&daemon, 1).remove(0) {
        let mut bert = daemon.visit(&anna.room, "Bert");
        anna.socket.skip_to("session:user-joined");
        let before = state_of(&daemon.room(&anna.room));
        let revision = before["revision"].as_i64().unwrap();
        let mut older = vec![0];
        older.extend((revision > 1).then_some(revision - 1));
        for old in older {
            for kind in ["start", "pause", "resume", "reset", "extend"] {
                for wrong in [json!({}), json!({ "duration": "x", "seconds": "x" })] {
                    let message = with(json!({ "type": format!("timer:{kind}"), "revision": old }), wrong);
                    let answer = bert.ask(message);
                    assert_eq!(keys(&answer), ["type", "message", "code", "state"], "{kind} in {state}: {answer}");
                    assert_eq!((&answer["type"], &answer["code"]), (&json!("error"), &json!("stale")));
                    assert!(!answer["message"].as_str().unwrap().is_empty());
                    checked(&answer["state"]);
                    assert_eq!(at_rest(&answer["state"]), at_rest(&before), "{kind} in {state}");
                }
            }
        }
        for newer in [revision + 1, revision + 1000, i64::MAX] {
            for kind in ["start", "pause", "resume", "reset", "extend"] {
                let message = json!({ "type": format!("timer:{kind}"), "revision": newer, "seconds": 5 });
                invalid(&mut bert.socket, message, "revision");
            }
        }
        for wrong in [json!(-1), json!(1.5), json!(true), json!("x"), json!(""), json!([1]), json!({})] {
            let message = json!({ "type": "timer:reset", "revision": wrong });
            invalid(&mut bert.socket, message, "revision");
        }
        bert.socket.send_text(r#"{"type":"timer:reset","revision":123456789012345678901234567890}"#);
        assert_eq!(bert.news()["code"], "invalid");
        anna.hears_nothing();
        assert_eq!(at_rest(&state_of(&daemon.room(&anna.room))), at_rest(&before), "{state}");
    }
}

// ---------------------------------------------------------------------------------------------------------------
// At once.

/// One change and one refusal in which the change is named, whoever is first, as often as it is tried.
#[test]
fn two_who_press_at_once_get_one_change_and_one_refusal() {
    const ROUNDS: usize = 40;
    let daemon = ephemeral(&[]);
    let mut anna = daemon.found(json!({ "name": "Anna" }));
    let mut bert = daemon.visit(&anna.room, "Bert");
    anna.socket.expect("session:user-joined");
    let mut watcher = daemon.visit(&anna.room, "Cleo");
    anna.socket.expect("session:user-joined");
    bert.socket.expect("session:user-joined");
    let barrier = Barrier::new(2);
    for round in 0..ROUNDS {
        let revision = round + 1;
        // The same button, or two that exclude each other: it is the revision that decides.
        let kinds = [["start", "start"], ["pause", "reset"]][round % 2];
        let mut press = [&mut anna, &mut bert].into_iter().zip(kinds).map(|(member, kind)| {
            let message = json!({ "type": format!("timer:{kind}"), "revision": revision });
            (member, message)
        });
        let heard: Vec<(Vec<Value>, String)> = std::thread::scope(|scope| {
            let [one, two] = [press.next().unwrap(), press.next().unwrap()].map(|(member, message)| {
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    member.socket.send(message);
                    // The change, and its refusal if it was not the own one.
                    let mut heard = vec![member.news()];
                    let mine = |message: &Value| message["by"] == *member.name;
                    if !heard.iter().any(mine) {
                        heard.push(news(&mut member.socket));
                    }
                    (heard, member.name.clone())
                })
            });
            [one, two].map(|thread| thread.join().unwrap()).into()
        });
        let change = watcher.news();
        assert_eq!((&change["type"], &change["state"]["revision"]), (&json!("timer:state"), &json!(revision + 1)));
        for (heard, name) in &heard {
            let states: Vec<&Value> = heard.iter().filter(|message| message["type"] == "timer:state").collect();
            assert_eq!(states, [&change], "{name} in round {round}");
            let refusals: Vec<&Value> = heard.iter().filter(|message| message["type"] == "error").collect();
            if change["by"] == **name {
                assert_eq!(refusals.len(), 0);
            } else {
                assert_eq!((refusals.len(), &refusals[0]["code"]), (1, &json!("stale")), "{heard:?}");
                assert_eq!(at_rest(&refusals[0]["state"]), at_rest(&change["state"]));
            }
        }
    }
    watcher.hears_nothing();
    assert_eq!(daemon.room(&anna.room)["revision"], ROUNDS + 1);
}

#[test]
fn without_revisions_two_who_pause_at_once_are_told_that_it_is_done() {
    let daemon = ephemeral(&[]);
    let mut anna = daemon.found(json!({ "name": "Anna" }));
    let mut bert = daemon.visit(&anna.room, "Bert");
    anna.socket.expect("session:user-joined");
    for _ in 0..10 {
        anna.control("timer:start");
        assert_eq!(bert.news()["type"], "timer:state");
        for member in [&mut anna, &mut bert] {
            member.socket.send(command("timer:pause"));
        }
        for member in [&mut anna, &mut bert] {
            member.socket.send(command("ping"));
        }
        let mut refusals = 0;
        for member in [&mut anna, &mut bert] {
            let mut changes = 0;
            let mut is_answered = false;
            while !is_answered || changes == 0 {
                let message = member.news();
                match message["type"].as_str().unwrap() {
                    "timer:state" => changes += usize::from(message["state"]["isPaused"] == true),
                    "error" => {
                        assert_eq!(message["code"], "wrong_state");
                        refusals += 1;
                    }
                    other => is_answered = other == "pong",
                }
            }
            assert_eq!(changes, 1, "{}", member.name);
        }
        assert_eq!(refusals, 1);
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Order.

/// Sends all in one segment.
fn send_at_once(socket: &mut Socket, messages: &[Value]) {
    for message in messages {
        socket.inner.write(tungstenite::Message::text(message.to_string())).unwrap();
    }
    socket.inner.flush().unwrap();
}

/// A message in a word or two.
fn in_a_word(message: &Value) -> String {
    match message["type"].as_str().unwrap() {
        "timer:state" => format!("state {}", message["state"]["revision"]),
        "session:joined" => format!("joined {}", message["state"]["revision"]),
        "error" => format!("{} {}", message["code"].as_str().unwrap(), message["message"].as_str().unwrap()),
        other => other.to_owned(),
    }
}

/// Messages in one segment are carried out in their order: changes are told in theirs, refusals in theirs, and
/// whatever is answered after a press is answered when everybody has been told of it. Nobody goes back in time.
#[test]
fn messages_that_come_in_one_piece_are_carried_out_and_answered_in_their_order() {
    let daemon = ephemeral(&[]);
    let mut anna = daemon.found(json!({ "duration": 100, "name": "Anna" }));
    let start = json!({ "type": "timer:start", "revision": 1 });
    let messages = [
        command("ping"),
        start.clone(),
        start,
        command("timer:pause"),
        command("timer:pause"),
        command("timer:resume"),
        json!({ "type": "timer:extend", "seconds": 60, "revision": 4 }),
        command("nonsense"),
        command("session:create"),
        command("ping"),
        command("session:leave"),
        command("timer:reset"),
        command("ping"),
    ];
    send_at_once(&mut anna.socket, &messages);
    let (mut changes, mut answers, mut newest) = (Vec::new(), Vec::new(), 0);
    while answers.iter().filter(|answer| *answer == "pong").count() < 3 {
        let message = anna.news();
        if let Some(revision) = message["state"]["revision"].as_i64() {
            assert!(revision >= newest, "{message} after {newest}");
            newest = revision;
        }
        let (kind, word) = (message["type"].clone(), in_a_word(&message));
        if kind == "timer:state" {
            changes.push(word)
        } else {
            answers.push(word)
        }
        if answers.iter().filter(|answer| *answer == "pong").count() == 2 {
            assert_eq!(changes.len(), 4, "{answers:?}");
        }
    }
    assert_eq!(changes, ["state 2", "state 3", "state 4", "state 5"]);
    let stale = answers.remove(1);
    assert!(stale.starts_with("stale "), "{stale}");
    let expected = [
        "pong",
        "wrong_state Cannot pause: the timer is not running",
        "invalid Unknown message type: nonsense",
        "wrong_state Already in a room",
        "pong",
        "wrong_state Not in a room",
        "pong",
    ];
    assert_eq!(answers, expected);
    let room = daemon.room(&anna.room);
    assert_eq!((&room["revision"], &room["duration"], &room["users"]), (&json!(5), &json!(160), &json!([])));
}

/// Whoever presses before he was welcomed finds what he did, once, and so does everybody else.
#[test]
fn a_press_behind_a_creation_or_a_join_in_one_piece_is_found_done() {
    let daemon = ephemeral(&[]);
    let mut socket = daemon.enter();
    let create = json!({ "type": "session:create", "duration": 100, "name": "Anna" });
    send_at_once(&mut socket, &[create.clone(), command("timer:start"), command("timer:pause"), command("ping")]);
    let mut view = Value::Null;
    let mut room = String::new();
    loop {
        let message = news(&mut socket);
        match message["type"].as_str().unwrap() {
            "session:joined" => room = message["sessionId"].as_str().unwrap().to_owned(),
            "timer:state" => assert!(!room.is_empty(), "first of all he is welcomed: {message}"),
            "pong" => break,
            other => panic!("{other}: {message}"),
        }
        let older = view["revision"].as_i64().unwrap_or(0);
        assert!(message["state"]["revision"].as_i64().unwrap() > older, "{message} after {older}");
        view = message["state"].clone();
    }
    assert_eq!((checked(&view), view["revision"].as_i64()), ("paused", Some(3)));
    assert_eq!(state_of(&daemon.room(&room)), view);
    let mut bert = daemon.enter();
    let join = json!({ "type": "session:join", "sessionId": room, "name": "Bert" });
    send_at_once(&mut bert, &[join, command("timer:resume")]);
    let mut revision = bert.expect("session:joined")["state"]["revision"].as_i64().unwrap();
    if revision == 3 {
        revision = bert.skip_to("timer:state")["state"]["revision"].as_i64().unwrap();
    }
    assert_eq!(revision, 4);
    assert_eq!(news(&mut socket)["type"], "session:user-joined");
    let heard = news(&mut socket);
    assert_eq!(
        (&heard["type"], &heard["by"], &heard["state"]["revision"]),
        (&json!("timer:state"), &json!("Bert"), &json!(4))
    );
    // In and out again: he was there, and is not any more.
    let mut cleo = daemon.enter();
    send_at_once(&mut cleo, &[create, command("session:leave"), command("ping")]);
    let joined = cleo.expect("session:joined");
    assert_eq!(news(&mut cleo), command("pong"));
    assert_eq!(daemon.room(joined["sessionId"].as_str().unwrap())["users"], json!([]));
    refused(&mut cleo, command("timer:start"), "wrong_state", "Not in a room");
}

/// A hundred presses of one person, as fast as a socket may: each is told to all, in one order.
#[test]
fn all_hear_all_changes_in_one_order() {
    let daemon = ephemeral(&[]);
    let mut anna = daemon.found(json!({ "name": "Anna" }));
    let mut others: Vec<Member> = (0..3).map(|_| daemon.visit(&anna.room, "Other")).collect();
    let kinds = ["start", "pause", "resume", "reset"];
    for n in 0..80 {
        let message = command(&format!("timer:{}", kinds[n % 4]));
        anna.socket.inner.write(tungstenite::Message::text(message.to_string())).unwrap();
    }
    anna.socket.inner.flush().unwrap();
    let heard = |socket: &mut Socket| -> Vec<String> {
        let mut texts = Vec::new();
        while texts.len() < 80 {
            let text = socket.recv_text();
            if text.contains("\"timer:state\"") {
                texts.push(text);
            }
        }
        texts
    };
    let first = heard(&mut anna.socket);
    for (n, text) in first.iter().enumerate() {
        assert!(text.contains(&format!("\"revision\":{},", n + 2)), "{text}");
    }
    for other in &mut others {
        assert_eq!(heard(&mut other.socket), first);
    }
    sleep_ms(50);
    others[0].hears_nothing();
}
