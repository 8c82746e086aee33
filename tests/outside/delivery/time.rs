//! Time: limits and factors to the millisecond, pauses, extensions, sections with limits of their own, the deadline
//! that comes with nobody connected and never early, and the grace for handing in.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{
    Delivery, LATE_MS_MAX, at_us, ephemeral, fast, free, instant_us, kinds, next, number, previous, refused, section,
    simple, to, wall_ms, with,
};
use crate::daemon::{Daemon, Socket, eventually};

/// How far the wall clock and the boot clock may drift apart while one exam lasts, in microseconds.
const JITTER_US: i64 = 5_000;

fn sleep_ms(ms: i64) {
    std::thread::sleep(Duration::from_millis(ms.try_into().unwrap()));
}

fn timed(limit_s: i64, grace_s: i64) -> Value {
    with(simple(), json!({ "time_limit_seconds": limit_s, "grace_seconds": grace_s }))
}

/// Microseconds from the start to the deadline, as the session's own events have it.
#[track_caller]
fn lasted_us(daemon: &Daemon, id: &str) -> i64 {
    at_us(&daemon.event(id, "quiz_timeout")) - at_us(&daemon.event(id, "quiz_started"))
}

#[track_caller]
fn assert_lasted(daemon: &Daemon, id: &str, expected_ms: f64) {
    let expected_us = (expected_ms * 1000.0).round() as i64;
    let late_us = lasted_us(daemon, id) - expected_us;
    // A deadline may be rounded up to a millisecond of the real clock.
    assert!((-JITTER_US..=JITTER_US).contains(&late_us), "{late_us} us beside {expected_us} us");
}

/// Adds the factor; returns the candidate.
fn with_factor(daemon: &Daemon, factor: f64) -> String {
    let who = format!("factor {factor}");
    let path = format!("/delivery/candidates/{}", who.replace(' ', "%20"));
    assert!(daemon.put(&path, json!({ "accommodations": { "EXTRA_TIME": factor } })).status < 300);
    who
}

// ---------------------------------------------------------------------------------------------------------------
// The deadline.

#[test]
fn a_session_expires_at_its_deadline_with_nobody_connected() {
    let daemon = fast(&[]);
    daemon.set("x", timed(5, 2));
    let ids: Vec<String> = (0..20).map(|n| daemon.begin("x", &format!("c{n}"))).collect();
    let begun = Instant::now();
    // Nothing at all is asked until all is over.
    sleep_ms(700 + LATE_MS_MAX);
    for id in &ids {
        let events = daemon.told(id);
        let seen = kinds(&events);
        let all =
            ["session_created", "quiz_started", "question_viewed", "quiz_timeout", "quiz_completed", "session_ended"];
        assert_eq!(seen, all, "by itself: {:?}", begun.elapsed());
        assert_lasted(&daemon, id, 500.0);
        let graced_us = at_us(&events[4]) - at_us(&events[3]);
        assert!((200_000 - JITTER_US..=200_000 + JITTER_US).contains(&graced_us), "{graced_us} us of grace");
        let session = daemon.session(id);
        assert_eq!(session["state"], "expired");
        let deadline_s = at_us(&events[3]).div_euclid(1_000_000);
        let completed_s = instant_us(&session["completed_at"]) / 1_000_000;
        // The event carries microseconds, the session whole seconds of the same instant.
        assert!(
            (completed_s - deadline_s).abs() <= i64::from(at_us(&events[3]) % 1_000_000 < JITTER_US),
            "{session}"
        );
        assert_eq!([&session["time_remaining_seconds"], &session["late_ms"]], [&json!(0), &Value::Null]);
    }
}

#[test]
fn nobody_is_told_early_and_everybody_at_once() {
    // Real seconds: what a candidate has is what the wall of the room says.
    let daemon = ephemeral(&[]);
    daemon.set("x", timed(1, 10));
    let asked: Vec<(Instant, Instant, String)> = (0..10)
        .map(|n| {
            let before = Instant::now();
            let id = daemon.begin("x", &format!("c{n}"));
            (before, Instant::now(), id)
        })
        .collect();
    let mut told: Vec<(Instant, Socket)> =
        asked.iter().map(|(before, _, id)| (*before, daemon.attend(id).0)).collect();
    let (first_before, _, id) = &asked[0];
    // Up to the last moment the time is the candidate's.
    while first_before.elapsed() < Duration::from_millis(940) {
        let sent = Instant::now();
        let response = daemon.answer(id, "q1", json!({ "at": 1 }));
        if first_before.elapsed() < Duration::from_secs(1) {
            assert_eq!(response.status, 200, "{:?} after {:?}", response.text(), sent.duration_since(*first_before));
        }
    }
    for (n, (before, socket)) in told.iter_mut().enumerate() {
        let expired = socket.skip_to("expired");
        let after = before.elapsed();
        assert_eq!(expired, json!({ "type": "expired", "message": "Time expired" }));
        assert!(after >= Duration::from_secs(1), "early: {after:?}");
        let late = asked[n].1.elapsed().saturating_sub(Duration::from_secs(1));
        assert!(late.as_millis() < LATE_MS_MAX as u128, "late by {late:?}");
    }
    for (_, _, id) in &asked {
        refused(&daemon.answer(id, "q1", json!({})), 400, "Time expired");
        refused(&daemon.ask(id, "navigate", next()), 400, "Time expired");
    }
    assert_eq!(daemon.session(id)["responses"], json!({ "q1": { "at": 1 } }), "what was saved is kept");
}

#[test]
fn a_factor_multiplies_every_limit_exactly_and_shows_it_rounded_up() {
    let daemon = fast(&[]);
    // Binary fractions must not add a second: 10 x 1.1 is 11, 100 x 1.15 is 115.
    let cases = [
        (10, 1.0, 10, 1000.0),
        (10, 1.1, 11, 1100.0),
        (10, 1.25, 13, 1250.0),
        (10, 1.333, 14, 1333.0),
        (3, 4.0, 12, 1200.0),
        (100, 1.15, 115, 0.0),
        (86_400, 4.0, 345_600, 0.0),
        (3601, 1.5, 5402, 0.0),
    ];
    let mut running = Vec::new();
    for (limit, factor, shown, lasts_ms) in cases {
        let who = with_factor(&daemon, factor);
        let part = with(section("a", &["q1"]), json!({ "time_limit_seconds": limit }));
        daemon.set("x", with(free(&[part.clone(), section("b", &["q2"])]), json!({ "time_limit_seconds": limit })));
        let started = daemon.start("x", &who);
        for field in ["time_limit_seconds", "time_remaining_seconds", "section_remaining_seconds"] {
            assert_eq!(started[field], shown, "{limit} s x {factor}: {field}");
        }
        let id = started["session_id"].as_str().unwrap().to_owned();
        let session = daemon.session(&id);
        assert_eq!(
            (&session["time_limit_seconds"], &session["sections"][0]["time_limit_seconds"]),
            (&json!(shown), &json!(shown))
        );
        running.push((id, lasts_ms));
        // A limit of a section alone has the factor, too.
        daemon.set("x", free(&[part]));
        let alone = daemon.start("x", &who);
        assert_eq!(
            (&alone["time_limit_seconds"], &alone["section_remaining_seconds"]),
            (&Value::Null, &json!(shown))
        );
        running.push((alone["session_id"].as_str().unwrap().to_owned(), lasts_ms));
    }
    // An extension is not multiplied, and the factor is that of the start.
    let who = with_factor(&daemon, 2.0);
    daemon.set("x", timed(5, 0));
    let id = daemon.begin("x", &who);
    assert!(daemon.put("/delivery/candidates/factor%202", json!({})).status < 300);
    assert_eq!(daemon.ask(&id, "extend", json!({ "seconds": 3 })).json()["time_limit_seconds"], 13);
    running.push((id, 1300.0));
    for (id, lasts_ms) in running.iter().filter(|(_, lasts_ms)| *lasts_ms > 0.0) {
        assert_lasted(&daemon, id, *lasts_ms);
    }
}

#[test]
fn time_stands_still_in_a_pause_and_keeps_its_fraction() {
    let daemon = fast(&[]);
    daemon.set("x", timed(12, 0));
    let id = daemon.begin("x", "anna");
    let mut paused_ms = (0.0, 0.0);
    for (run, pause) in [(33, 250), (71, 130), (17, 307), (95, 61)] {
        sleep_ms(run);
        let asked = Instant::now();
        assert_eq!(daemon.call(&id, "pause").status, 200);
        let stands = Instant::now();
        let shown = daemon.session(&id)["time_remaining_seconds"].clone();
        sleep_ms(pause);
        assert_eq!(daemon.current(&id)["time_remaining_seconds"], shown, "it stands still");
        paused_ms.0 += stands.elapsed().as_secs_f64() * 1000.0;
        assert_eq!(daemon.call(&id, "resume").status, 200);
        paused_ms.1 += asked.elapsed().as_secs_f64() * 1000.0;
    }
    let lasted_ms = lasted_us(&daemon, &id) as f64 / 1000.0;
    let jitter_ms = JITTER_US as f64 / 1000.0;
    let span = (1200.0 + paused_ms.0 - jitter_ms, 1200.0 + paused_ms.1 + jitter_ms);
    assert!(lasted_ms >= span.0 && lasted_ms <= span.1, "{lasted_ms} ms beside {span:?}");
    // A session may wait in a pause for longer than its limit.
    let id = daemon.begin("x", "bert");
    assert_eq!(daemon.call(&id, "pause").status, 200);
    let shown = daemon.session(&id)["time_remaining_seconds"].clone();
    sleep_ms(1300);
    assert_eq!(daemon.session(&id)["time_remaining_seconds"], shown);
    assert_eq!(daemon.call(&id, "resume").status, 200);
    assert_eq!(daemon.answer(&id, "q1", json!({})).status, 200);
}

#[test]
fn an_extension_moves_the_deadline_by_that_much_whether_time_runs_or_stands() {
    let daemon = fast(&[]);
    daemon.set("x", timed(10, 0));
    let id = daemon.begin("x", "anna");
    let answer = daemon.ask(&id, "extend", json!({ "seconds": 2, "reason": "noise" }));
    assert_eq!((answer.status, &answer.json()["time_limit_seconds"]), (200, &json!(12)));
    let stood = Instant::now();
    assert_eq!(daemon.call(&id, "pause").status, 200);
    let answer = daemon.ask(&id, "extend", json!({ "seconds": 3 })).json();
    assert_eq!([&answer["state"], &answer["time_limit_seconds"]], [&json!("paused"), &json!(15)]);
    let left = number(&answer["time_remaining_seconds"]);
    assert!((9..=15).contains(&left), "{answer}");
    assert_eq!(daemon.session(&id)["time_remaining_seconds"], left);
    assert_eq!(daemon.call(&id, "resume").status, 200);
    let stood_ms = stood.elapsed().as_secs_f64() * 1000.0;
    let lasted_ms = lasted_us(&daemon, &id) as f64 / 1000.0;
    assert!((1495.0..=1505.0 + stood_ms).contains(&lasted_ms), "{lasted_ms} ms, of them {stood_ms} at most in pause");
}

// ---------------------------------------------------------------------------------------------------------------
// The grace.

#[test]
fn a_late_hand_in_is_taken_within_the_grace_and_its_lateness_is_kept() {
    // Real seconds: `late_ms` is real.
    let daemon = ephemeral(&[]);
    daemon.set("x", timed(1, 2));
    let ids: Vec<String> = ["anna", "bert", "cleo"].map(|who| daemon.begin("x", who)).into();
    assert_eq!(daemon.answer(&ids[0], "q1", json!({ "in": "time" })).status, 200);
    let (mut socket, _, _) = daemon.attend(&ids[0]);
    socket.skip_to("expired");
    sleep_ms(300);
    refused(&daemon.answer(&ids[0], "q2", json!({})), 400, "Time expired");
    let deadline_us = at_us(&daemon.event(&ids[0], "quiz_timeout"));
    let before = wall_ms();
    let body = json!({ "answers": [
        { "item_id": "q1", "response": { "in": "grace" } }, { "item_id": "q2", "response": { "n": 2 } },
    ] });
    let response = daemon.ask(&ids[0], "submit", body.clone());
    let after = wall_ms();
    assert_eq!(response.status, 200, "{}", response.text());
    let submitted = response.json();
    let late_ms = submitted["late_ms"].as_i64().unwrap();
    let span = before - deadline_us / 1000 - 20..=after - deadline_us / 1000 + 20;
    assert!(span.contains(&late_ms) && late_ms >= 280, "{late_ms} in {span:?}");
    let completed_s = instant_us(&submitted["completed_at"]) / 1_000_000;
    assert!((before / 1000..=after / 1000).contains(&completed_s), "the hand-in's instant: {submitted}");
    assert_eq!(
        with(submitted.clone(), json!({ "late_ms": 0, "completed_at": "" })),
        json!({
            "session_id": ids[0], "state": "completed", "completed_at": "", "total_items": 3, "responses_count": 2,
            "late_ms": 0,
        })
    );
    let session = daemon.session(&ids[0]);
    assert_eq!([&session["late_ms"], &session["completed_at"]], [&submitted["late_ms"], &submitted["completed_at"]]);
    assert_eq!(session["responses"], json!({ "q1": { "in": "grace" }, "q2": { "n": 2 } }));
    assert_eq!(session["time_remaining_seconds"], 0);
    refused(&daemon.call(&ids[0], "submit"), 400, "Cannot submit in state: completed");
    // None of several is taken when one cannot be.
    let bad = json!({ "answers": [
        { "item_id": "q1", "response": {} }, { "item_id": "q9", "response": {} },
    ] });
    refused(&daemon.ask(&ids[1], "submit", bad), 400, "Item q9 not in session");
    let session = daemon.session(&ids[1]);
    assert_eq!((&session["state"], &session["responses"]), (&json!("expired"), &json!({})));
    assert_eq!(daemon.call(&ids[1], "submit").status, 200, "and it can be tried again");
    // After it, nothing.
    eventually(|| wall_ms() > deadline_us / 1000 + 2_000 + LATE_MS_MAX);
    for submit in [daemon.ask(&ids[2], "submit", body), daemon.call(&ids[2], "submit")] {
        refused(&submit, 400, "Cannot submit in state: expired");
    }
    let session = daemon.session(&ids[2]);
    assert_eq!(
        (&session["state"], &session["responses"], &session["late_ms"]),
        (&json!("expired"), &json!({}), &Value::Null)
    );
}

#[test]
fn the_grace_is_the_assessments_and_begins_at_the_deadline() {
    let daemon = fast(&[]);
    for (exam, grace, after_ms, taken) in [
        ("none", 0, 0, false),
        ("short", 10, 0, true),
        ("over", 3, 300 + LATE_MS_MAX, false),
        ("long", 60, 1500, true),
    ] {
        daemon.set(exam, timed(1, grace));
        let id = daemon.begin(exam, "anna");
        // Its first answer to `expired` says that the deadline is behind us.
        eventually(|| daemon.state(&id) == "expired");
        sleep_ms(after_ms);
        let response = daemon.call(&id, "submit");
        if taken {
            assert_eq!(response.status, 200, "{exam}: {}", response.text());
            assert!(response.json()["late_ms"].as_i64().unwrap() >= after_ms, "{exam}: {}", response.text());
        } else {
            refused(&response, 400, "Cannot submit in state: expired");
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Sections.

/// A session of sections a (a1, a2), b (b1, b2) and c (c1) with these limits.
fn in_sections(daemon: &Daemon, mode: &str, limits: [Value; 3], whole: Value) -> String {
    let [a, b, c] = limits;
    let sections = [
        with(section("a", &["a1", "a2"]), json!({ "time_limit_seconds": a })),
        with(section("b", &["b1", "b2"]), json!({ "time_limit_seconds": b })),
        with(section("c", &["c1"]), json!({ "time_limit_seconds": c })),
    ];
    let more = json!({ "navigation_mode": mode, "time_limit_seconds": whole, "grace_seconds": 5 });
    daemon.set("x", with(free(&sections), more));
    daemon.begin("x", "anna")
}

fn place(daemon: &Daemon, id: &str) -> (usize, Vec<bool>) {
    let session = daemon.session(id);
    let locked = session["sections"].as_array().unwrap().iter().map(|section| section["locked"] == true).collect();
    (number(&session["current_item_index"]), locked)
}

/// The next message that is no tick.
fn news(socket: &mut Socket) -> Value {
    loop {
        let message = socket.recv();
        if message["type"] != "timer" {
            return message;
        }
    }
}

#[track_caller]
fn assert_section_expired(socket: &mut Socket, section: &str, index: usize, item: &str) {
    let expected = json!({ "type": "section_expired", "section_id": section, "current_index": index });
    assert_eq!(news(socket), expected);
    let current = news(socket);
    assert_eq!((&current["type"], &current["index"]), (&json!("current_item"), &json!(index)), "{current}");
    assert_eq!(current["item"]["item_id"], item);
}

#[test]
fn at_the_end_of_his_section_a_candidate_is_moved_to_the_next_open_one() {
    let daemon = fast(&[]);
    let id = in_sections(&daemon, "NON_LINEAR", [json!(7), Value::Null, Value::Null], json!(600));
    assert_eq!(daemon.current(&id)["section_remaining_seconds"].as_u64().map(|left| left <= 7), Some(true));
    let (mut socket, _, _) = daemon.attend(&id);
    assert_eq!(daemon.answer(&id, "a1", json!({ "n": 1 })).status, 200);
    assert_section_expired(&mut socket, "a", 2, "b1");
    assert_eq!(place(&daemon, &id), (2, vec![true, false, false]));
    let events = daemon.told(&id);
    let gone_us = at_us(events.last().unwrap()) - at_us(&events[1]);
    assert!((700_000 - JITTER_US..=700_000 + JITTER_US).contains(&gone_us), "{gone_us} us");
    let session = daemon.session(&id);
    assert_eq!(session["sections"][0]["time_remaining_seconds"], 0);
    assert_eq!((&session["state"], &session["section_remaining_seconds"]), (&json!("in_progress"), &Value::Null));
    for item in ["a1", "a2"] {
        refused(&daemon.answer(&id, item, json!({})), 400, "Section is locked");
    }
    for index in [0, 1] {
        refused(&daemon.ask(&id, "navigate", to(index)), 400, "Section is locked");
    }
    refused(&daemon.ask(&id, "navigate", previous()), 400, "Section is locked");
    assert_eq!(daemon.current(&id)["can_go_previous"], false, "it would find nothing");
    let hand_in = json!({ "answers": [{ "item_id": "a1", "response": { "n": 2 } }] });
    refused(&daemon.ask(&id, "submit", hand_in), 400, "Section is locked");
    assert_eq!(daemon.session(&id)["responses"], json!({ "a1": { "n": 1 } }), "what was saved is kept");
    assert_eq!(daemon.go(&id, next()), 3);
    assert_eq!(daemon.call(&id, "submit").status, 200);
}

#[test]
fn the_next_open_section_is_looked_for_in_order_and_round_the_end() {
    let daemon = fast(&[]);
    // From the last section round to the first.
    let id = in_sections(&daemon, "NON_LINEAR", [Value::Null, Value::Null, json!(2)], Value::Null);
    let (mut socket, _, _) = daemon.attend(&id);
    assert_eq!(daemon.current(&id)["section_remaining_seconds"], Value::Null);
    assert_eq!(daemon.session(&id)["sections"][2]["time_remaining_seconds"], 2, "not entered, it has all its time");
    sleep_ms(250);
    let moved = daemon.ask(&id, "navigate", to(4)).json();
    assert_eq!(moved["section_remaining_seconds"], 2, "it begins when it is first entered");
    assert_section_expired(&mut socket, "c", 0, "a1");
    refused(&daemon.ask(&id, "navigate", to(4)), 400, "Section is locked");
    // Over one that is locked already: b ran out while he was in a.
    let id = in_sections(&daemon, "NON_LINEAR", [json!(12), json!(5), Value::Null], Value::Null);
    let (mut socket, _, _) = daemon.attend(&id);
    assert_eq!(daemon.go(&id, to(2)), 2);
    assert_eq!(daemon.go(&id, to(1)), 1, "b's clock runs on");
    assert_section_expired(&mut socket, "b", 1, "a2");
    assert_eq!(place(&daemon, &id), (1, vec![false, true, false]), "who is elsewhere stays there");
    assert_section_expired(&mut socket, "a", 4, "c1");
    assert_eq!(place(&daemon, &id), (4, vec![true, true, false]));
    let ways = daemon.current(&id);
    assert_eq!([&ways["can_go_previous"], &ways["can_go_next"]], [&json!(false), &json!(false)]);
    // Locked ones are stepped over.
    let id = in_sections(&daemon, "NON_LINEAR", [Value::Null, json!(1), Value::Null], Value::Null);
    let (mut socket, _, _) = daemon.attend(&id);
    assert_eq!(daemon.answer(&id, "b2", json!({})).status, 200, "an answer enters a section");
    assert_section_expired(&mut socket, "b", 0, "a1");
    assert_eq!(daemon.go(&id, to(1)), 1);
    assert_eq!(daemon.go(&id, next()), 4);
    assert_eq!(daemon.go(&id, previous()), 1);
    refused(&daemon.answer(&id, "b2", json!({})), 400, "Section is locked");
}

#[test]
fn when_no_section_is_open_the_session_expires_with_its_grace() {
    let daemon = fast(&[]);
    // Untimed as a whole: the sections are all its time.
    let id = in_sections(&daemon, "NON_LINEAR", [json!(5), json!(3), json!(2)], Value::Null);
    let (mut socket, timer, _) = daemon.attend(&id);
    assert_eq!(timer["time_remaining"], Value::Null);
    assert_section_expired(&mut socket, "a", 2, "b1");
    assert_section_expired(&mut socket, "b", 4, "c1");
    assert_eq!(news(&mut socket), json!({ "type": "expired", "message": "Time expired" }));
    assert_lasted(&daemon, &id, 1000.0);
    let session = daemon.session(&id);
    assert_eq!(session["state"], "expired");
    let deadline_s = at_us(&daemon.event(&id, "quiz_timeout")) / 1_000_000;
    assert!((deadline_s - instant_us(&session["completed_at"]) / 1_000_000).abs() <= 1, "{session}");
    refused(&daemon.answer(&id, "c1", json!({})), 400, "Time expired");
    // The section he was in is handed in late, whatever its lock, those before it are not.
    let hand_in = |item: &str| json!({ "answers": [{ "item_id": item, "response": { "n": 1 } }] });
    refused(&daemon.ask(&id, "submit", hand_in("b1")), 400, "Section is locked");
    let taken = daemon.ask(&id, "submit", hand_in("c1"));
    assert_eq!((taken.status, &taken.json()["state"]), (200, &json!("completed")), "{}", taken.text());
    assert_eq!(daemon.session(&id)["responses"], json!({ "c1": { "n": 1 } }));
    // In HYBRID and LINEAR those before are locked: nothing is open behind the last one.
    for mode in ["HYBRID", "LINEAR"] {
        let id = in_sections(&daemon, mode, [Value::Null, Value::Null, json!(2)], json!(600));
        let (mut socket, _, _) = daemon.attend(&id);
        assert_eq!(daemon.go(&id, to(4)), 4);
        let left = Instant::now();
        assert_eq!(news(&mut socket)["type"], "expired", "{mode}");
        assert!(left.elapsed().as_millis() < (200 + LATE_MS_MAX) as u128);
        assert_eq!(daemon.state(&id), "expired");
        // And one in the middle moves on.
        let id = in_sections(&daemon, mode, [Value::Null, json!(2), Value::Null], json!(600));
        let (mut socket, _, _) = daemon.attend(&id);
        assert_eq!(daemon.go(&id, to(2)), 2);
        assert_section_expired(&mut socket, "b", 4, "c1");
    }
}

#[test]
fn a_section_that_ends_with_the_session_is_not_told_of() {
    let daemon = fast(&[]);
    let id = in_sections(&daemon, "NON_LINEAR", [json!(6), Value::Null, Value::Null], json!(6));
    let (mut socket, _, _) = daemon.attend(&id);
    assert_eq!(news(&mut socket)["type"], "expired");
    let events = daemon.told(&id);
    assert_eq!(kinds(&events), ["session_created", "quiz_started", "question_viewed", "quiz_timeout"]);
    assert_eq!(daemon.current(&id)["current_item_index"], 0);
    let hand_in = json!({ "answers": [{ "item_id": "a2", "response": {} }] });
    assert_eq!(daemon.ask(&id, "submit", hand_in).status, 200);
}

#[test]
fn a_pause_stops_the_clocks_of_all_sections_and_an_extension_is_for_the_current_one() {
    let daemon = fast(&[]);
    let id = in_sections(&daemon, "NON_LINEAR", [json!(5), json!(40), Value::Null], json!(600));
    assert_eq!(daemon.go(&id, to(2)), 2);
    assert_eq!(daemon.go(&id, to(0)), 0);
    assert_eq!(daemon.call(&id, "pause").status, 200);
    let of = |id: &str| {
        let session = daemon.session(id);
        [0, 1, 2].map(|n| session["sections"][n]["time_remaining_seconds"].as_u64())
    };
    let before = of(&id);
    sleep_ms(600);
    assert_eq!(of(&id), before, "longer than a's limit");
    let answer = daemon.ask(&id, "extend", json!({ "seconds": 10 })).json();
    assert_eq!(answer["time_limit_seconds"], 610);
    let after = of(&id);
    assert_eq!(after, [before[0].map(|left| left + 10), before[1], None]);
    let session = daemon.session(&id);
    assert_eq!(
        [&session["sections"][0]["time_limit_seconds"], &session["sections"][1]["time_limit_seconds"]],
        [&json!(15), &json!(40)]
    );
    assert_eq!(session["section_remaining_seconds"].as_u64(), after[0]);
    assert_eq!(daemon.call(&id, "save").json()["section_remaining_seconds"].as_u64(), after[0]);
    assert_eq!(daemon.call(&id, "resume").status, 200);
    let (mut socket, _, _) = daemon.attend(&id);
    assert_section_expired(&mut socket, "a", 2, "b1");
    // In a section without a limit only the session has more.
    let id = in_sections(&daemon, "NON_LINEAR", [json!(500), Value::Null, Value::Null], json!(600));
    assert_eq!(daemon.go(&id, to(2)), 2);
    assert_eq!(daemon.call(&id, "pause").status, 200);
    let before = of(&id);
    assert_eq!(daemon.ask(&id, "extend", json!({ "seconds": 10 })).json()["time_limit_seconds"], 610);
    assert_eq!(of(&id), before);
    // Without a limit of the whole there is none to extend.
    let id = in_sections(&daemon, "NON_LINEAR", [json!(500), Value::Null, Value::Null], Value::Null);
    refused(&daemon.ask(&id, "extend", json!({ "seconds": 10 })), 400, "Session has no time limit");
}
