//! Time as the members of a room see it: a tick a second on the timer's own grid, the fraction that a pause keeps, and
//! what is said at zero, in which order.

use serde_json::{Value, json};

use super::{LATE_MS_MAX, Rooms, checked, command, ephemeral, sleep_ms, state_of, wall_ms};
use crate::daemon::Socket;

/// Seconds of a fifth: five of a room's milliseconds pass in one.
const QUICK: [&str; 2] = ["--second-ms", "200"];

/// The next text of a socket, and the wall clock when it came.
fn next(socket: &mut Socket) -> (String, i64) {
    let text = socket.recv_text();
    (text, wall_ms())
}

#[test]
fn a_countdown_is_told_each_second_to_all_and_its_zero_in_order_word_for_word() {
    let daemon = ephemeral(&[]);
    let mut anna = daemon.found(json!({ "duration": 2, "name": "Anna" }));
    let mut bert = daemon.visit(&anna.room, "Bert");
    anna.socket.expect("session:user-joined");
    let room = anna.room.clone();
    let started_ms = anna.control("timer:start")["startedAt"].as_i64().unwrap();
    assert_eq!(bert.socket.expect("timer:state")["by"], "Anna");
    let zero = format!(
        r#"{{"sessionId":"{room}","duration":2,"remainingTime":0,"isRunning":false,"isPaused":false,"startedAt":{started_ms},"pausedAt":null,"revision":3,"remainingMs":0,"completed":true}}"#
    );
    let life = [
        (1000, r#"{"type":"timer:tick","remainingTime":1}"#.to_owned()),
        (2000, r#"{"type":"timer:tick","remainingTime":0}"#.to_owned()),
        (2000, format!(r#"{{"type":"timer:state","state":{zero},"by":null}}"#)),
        (2000, r#"{"type":"timer:completed"}"#.to_owned()),
    ];
    for (due_ms, expected) in life {
        for member in [&mut anna, &mut bert] {
            let (text, now) = next(&mut member.socket);
            assert_eq!(text, expected);
            let late_ms = now - started_ms - due_ms;
            // The instant of the start is cut to its millisecond.
            assert!((0..LATE_MS_MAX).contains(&late_ms), "{text}: {late_ms} ms from its instant");
        }
    }
    assert_eq!(state_of(&daemon.room(&room)), serde_json::from_str::<Value>(&zero).unwrap());
    // It stays so until somebody does something, and whoever comes finds it so.
    sleep_ms(300);
    anna.hears_nothing();
    let cleo = daemon.visit(&room, "Cleo");
    assert_eq!(cleo.joined["state"].to_string(), zero);
    // The zero is a change: whoever has not seen it yet is told so.
    anna.socket.expect("session:user-joined");
    let answer = anna.ask(json!({ "type": "timer:extend", "seconds": 60, "revision": 2 }));
    assert_eq!((&answer["code"], &answer["state"]["completed"]), (&json!("stale"), &json!(true)));
    assert_eq!(anna.press(json!({ "type": "timer:start", "revision": 3 }))["revision"], 4);
}

#[test]
fn a_pause_keeps_the_fraction_of_the_second_and_nothing_is_told_in_it() {
    let daemon = ephemeral(&QUICK);
    let mut anna = daemon.found(json!({ "duration": 60 }));
    let started_ms = anna.control("timer:start")["startedAt"].as_i64().unwrap();
    sleep_ms(60);
    let paused = anna.control("timer:pause");
    let (left_ms, paused_ms) = (paused["remainingMs"].as_i64().unwrap(), paused["pausedAt"].as_i64().unwrap());
    assert!((left_ms - (60_000 - 5 * (paused_ms - started_ms))).abs() <= 10, "{paused}");
    sleep_ms(250);
    anna.hears_nothing();
    let room = daemon.room(&anna.room);
    assert_eq!((&room["remainingMs"], &room["pausedAt"]), (&json!(left_ms), &json!(paused_ms)));
    let resumed = anna.control("timer:resume");
    let resumed_at = wall_ms();
    assert_eq!(resumed["startedAt"], started_ms);
    assert!((left_ms - 5 * LATE_MS_MAX..=left_ms).contains(&resumed["remainingMs"].as_i64().unwrap()), "{resumed}");
    // The next tick is due when the second that had begun is over.
    let tick = anna.socket.expect("timer:tick");
    assert_eq!(tick, json!({ "type": "timer:tick", "remainingTime": left_ms / 1000 }));
    let took_ms = wall_ms() - resumed_at;
    let due_ms = left_ms % 1000 / 5;
    assert!((due_ms - 50..due_ms + LATE_MS_MAX).contains(&took_ms), "{took_ms} of {due_ms}");
}

#[test]
fn a_start_while_it_runs_begins_again_on_a_grid_of_its_own() {
    let daemon = ephemeral(&QUICK);
    let mut anna = daemon.found(json!({ "duration": 60 }));
    let first_ms = anna.control("timer:start")["startedAt"].as_i64().unwrap();
    sleep_ms(100);
    let second_ms = anna.press(json!({ "type": "timer:start", "duration": 2 }))["startedAt"].as_i64().unwrap();
    assert!(second_ms - first_ms >= 95);
    for left in [1, 0] {
        let (text, now) = next(&mut anna.socket);
        assert_eq!(text, format!(r#"{{"type":"timer:tick","remainingTime":{left}}}"#));
        let late_ms = now - second_ms - 200 * (2 - left);
        assert!((0..LATE_MS_MAX).contains(&late_ms), "{late_ms} ms from its instant");
    }
    anna.socket.expect("timer:state");
    anna.socket.expect("timer:completed");
}

#[test]
fn whoever_joins_midway_is_told_the_time_as_it_is_and_hears_the_next_second() {
    let daemon = ephemeral(&[]);
    let mut anna = daemon.found(json!({ "duration": 60 }));
    let before_ms = wall_ms();
    let started_ms = anna.control("timer:start")["startedAt"].as_i64().unwrap();
    assert!((before_ms..=wall_ms()).contains(&started_ms));
    sleep_ms(350);
    let asked_ms = wall_ms();
    let mut bert = daemon.visit(&anna.room, "Bert");
    let (state, server_ms) = (bert.joined["state"].clone(), bert.joined["serverTime"].as_i64().unwrap());
    assert_eq!(checked(&state), "running");
    assert!((asked_ms..=wall_ms()).contains(&server_ms));
    // What is left belongs to the instant that is told with it.
    let left_ms = state["remainingMs"].as_i64().unwrap();
    assert!((left_ms + server_ms - started_ms - 60_000).abs() <= 2, "{left_ms} at {server_ms} from {started_ms}");
    let left = state["remainingTime"].as_i64().unwrap();
    assert_eq!(bert.socket.expect("timer:tick")["remainingTime"], left - 1);
    let room = daemon.room(&anna.room);
    let (left_ms, server_ms) = (room["remainingMs"].as_i64().unwrap(), room["serverTime"].as_i64().unwrap());
    assert!((left_ms + server_ms - started_ms - 60_000).abs() <= 2, "{room}");
}

#[test]
fn an_extension_comes_in_before_the_zero_and_not_after_it() {
    let daemon = ephemeral(&["--second-ms", "500"]);
    let mut anna = daemon.found(json!({ "duration": 1 }));
    anna.control("timer:start");
    sleep_ms(100);
    let extended = anna.press(json!({ "type": "timer:extend", "seconds": 1 }));
    assert_eq!((checked(&extended), extended["duration"].as_i64()), ("running", Some(2)));
    assert_eq!(anna.socket.expect("timer:tick")["remainingTime"], 1);
    assert_eq!(anna.socket.expect("timer:tick")["remainingTime"], 0);
    let zero = anna.socket.expect("timer:state");
    assert_eq!((&zero["by"], &zero["state"]["duration"]), (&Value::Null, &json!(2)));
    anna.socket.expect("timer:completed");
    let late = json!({ "type": "timer:extend", "seconds": 1 });
    anna.refused(late, "wrong_state", "Cannot extend: the timer is neither running nor paused");
    // A reset takes even that back.
    let reset = anna.control("timer:reset");
    assert_eq!((checked(&reset), reset["duration"].as_i64()), ("stopped", Some(1)));
}

/// Everybody is told of zero, though nobody of them said anything, and no room hears of another.
#[test]
fn rooms_tick_each_for_themselves() {
    let daemon = ephemeral(&QUICK);
    let mut rooms: Vec<_> = (1..=3).map(|n| daemon.found(json!({ "duration": n }))).collect();
    let mut idle = daemon.found(json!({}));
    for room in &mut rooms {
        room.control("timer:start");
    }
    for (n, room) in rooms.iter_mut().enumerate() {
        for left in (0..=n).rev() {
            assert_eq!(room.socket.expect("timer:tick")["remainingTime"], left);
        }
        assert_eq!(room.socket.expect("timer:state")["state"]["sessionId"], *room.room);
        room.socket.expect("timer:completed");
        room.socket.send(command("ping"));
        room.socket.expect("pong");
    }
    idle.socket.send(command("ping"));
    idle.socket.expect("pong");
}
