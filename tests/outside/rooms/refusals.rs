//! What is refused: the order of checks, every code, what is no message at all, hostile bytes, who may come in and
//! how a conversation ends, and the one resource over HTTP.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::json;
use tungstenite::protocol::Role;
use tungstenite::{Message, WebSocket};

use super::{Member, NOWHERE, Rooms, assert_now, command, ephemeral, invalid, news, refused, with};
use crate::daemon::{Daemon, Http, PATIENCE, Socket, assert_safe, directory, eventually, request_bytes};

const CONTROLS: [&str; 5] = ["start", "pause", "resume", "reset", "extend"];

// ---------------------------------------------------------------------------------------------------------------
// The order of checks.

#[test]
fn what_is_no_message_is_said_before_anything_else_and_the_connection_stays() {
    let daemon = ephemeral(&[]);
    let outside = daemon.enter();
    let inside = daemon.found(json!({})).socket;
    for mut socket in [outside, inside] {
        let mut ask = |text: &str| {
            socket.send_text(text);
            socket.recv_text()
        };
        for text in ["", "{", "hello", "5", "null", "[]", "\"ping\"", r#"{"type":"ping"} x"#, r#"{"type":NaN}"#] {
            assert_eq!(ask(text), r#"{"type":"error","message":"Invalid JSON","code":"invalid"}"#, "{text}");
        }
        for kind in ["start", "session:start", "TIMER:START", "timer:stop", "timer:tick", "a\\\"b\\n", "session"] {
            let expected = format!(r#"{{"type":"error","message":"Unknown message type: {kind}","code":"invalid"}}"#);
            assert_eq!(ask(&format!(r#"{{"revision":-1,"type":"{kind}"}}"#)), expected);
        }
        for text in ["{}", r#"{"type":null}"#, r#"{"type":5}"#, r#"{"type":["ping"]}"#, r#"{"type":""}"#] {
            let answer = ask(text);
            assert!(answer.starts_with(r#"{"type":"error","message":"Unknown message type: "#), "{text}: {answer}");
            assert!(answer.ends_with(r#","code":"invalid"}"#), "{text}: {answer}");
        }
        let long = ask(&json!({ "type": "x".repeat(4000) }).to_string());
        assert!(long.starts_with(r#"{"type":"error","message":"Unknown message type: xxx"#) && long.len() < 1000);
        assert_eq!(ask(r#" { "extra" : {"a":[1]}, "type" : "ping" } "#), r#"{"type":"pong"}"#);
    }
}

#[test]
fn outside_a_room_there_is_nothing_to_control_whatever_else_is_wrong() {
    let daemon = ephemeral(&[]);
    let mut socket = daemon.enter();
    for wrong in [json!({}), json!({ "revision": 7 }), json!({ "revision": "x", "duration": "x", "seconds": 0 })] {
        for kind in CONTROLS {
            let message = with(command(&format!("timer:{kind}")), wrong.clone());
            refused(&mut socket, message, "wrong_state", "Not in a room");
        }
        refused(&mut socket, with(command("session:leave"), wrong), "wrong_state", "Not in a room");
    }
    socket.send(command("ping"));
    socket.expect("pong");
}

#[test]
fn whoever_is_in_a_room_neither_creates_nor_joins_another_whatever_else_is_wrong() {
    let daemon = ephemeral(&[]);
    let other = daemon.found(json!({}));
    let mut anna = daemon.found(json!({ "name": "Anna" }));
    let own = anna.return_ticket();
    for wrong in [json!({}), json!({ "duration": "x", "name": "", "userId": 5, "revision": 99 })] {
        for message in [
            command("session:create"),
            command("session:join"),
            json!({ "type": "session:join", "sessionId": other.room }),
            json!({ "type": "session:join", "sessionId": NOWHERE }),
            own.clone(),
        ] {
            anna.refused(with(message, wrong.clone()), "wrong_state", "Already in a room");
        }
    }
    assert_eq!(daemon.people(&anna.room), ["Anna"]);
    assert_eq!(daemon.people(&other.room), ["User 1"]);
    anna.control("timer:start");
}

#[test]
fn a_join_is_judged_field_by_field_before_the_room_is_looked_for() {
    let daemon = ephemeral(&[]);
    let room = daemon.found(json!({})).room;
    let mut socket = daemon.enter();
    for wrong in [json!(5), json!(true), json!(["x"]), json!({})] {
        invalid(&mut socket, json!({ "type": "session:join", "sessionId": room, "userId": wrong }), "userId");
        invalid(&mut socket, json!({ "type": "session:join", "sessionId": NOWHERE, "name": wrong }), "name");
    }
    // Whatever text is nobody's id is a new person.
    for (n, unknown) in ["", "x", "\u{0}", &"0".repeat(26), &"z".repeat(2000)].into_iter().enumerate() {
        let message = json!({ "type": "session:join", "sessionId": room, "userId": unknown });
        let member = Member::new(daemon.enter(), message);
        assert_eq!(member.name, format!("User {}", n + 2));
        assert_ne!(member.user, unknown);
    }
    Member::new(socket, json!({ "type": "session:join", "sessionId": room, "name": null, "userId": null }));
}

#[test]
fn a_refusal_is_told_to_nobody_else_and_changes_nothing() {
    let daemon = ephemeral(&[]);
    let mut anna = daemon.found(json!({ "name": "Anna" }));
    let mut bert = daemon.visit(&anna.room, "Bert");
    anna.socket.expect("session:user-joined");
    let before = daemon.room(&anna.room);
    for kind in ["pause", "resume", "extend"] {
        let message = json!({ "type": format!("timer:{kind}"), "seconds": 5 });
        assert_eq!(bert.ask(message)["code"], "wrong_state");
    }
    for message in [json!({ "type": "timer:start", "revision": 0 }), json!({ "type": "timer:start", "revision": 2 })]
    {
        assert_eq!(bert.ask(message)["type"], "error");
    }
    bert.socket.send_text("{");
    bert.socket.expect("error");
    anna.hears_nothing();
    let after = daemon.room(&anna.room);
    for name in ["revision", "users", "duration", "remainingMs"] {
        assert_eq!(after[name], before[name]);
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Hostile bytes.

/// The line stays good for others, and the person is gone as one whose line was lost.
#[test]
fn messages_beyond_their_bounds_end_the_line_and_nothing_else() {
    let daemon = ephemeral(&[]);
    let mut anna = daemon.found(json!({ "name": "Anna" }));
    let flood = || {
        let mut socket = daemon.visit(&anna.room, "Bert").socket;
        for n in 0..400 {
            // It may have been closed by now.
            let message = if n % 2 == 0 { r#"{"type":"timer:start"}"# } else { "nonsense" };
            let _ = socket.inner.write(Message::text(message));
        }
        let _ = socket.inner.flush();
        socket
    };
    let with_bytes = |bytes: &[u8]| {
        let mut socket = daemon.visit(&anna.room, "Bert").socket;
        socket.inner.get_mut().write_all(bytes).unwrap();
        socket
    };
    let with_message = |message: Message| {
        let mut socket = daemon.visit(&anna.room, "Bert").socket;
        socket.inner.send(message).unwrap();
        socket
    };
    let sized = |bytes: usize| {
        let text = r#"{"type":"ping","pad":""}"#;
        text.replace("\"\"", &format!("\"{}\"", "p".repeat(bytes - text.len())))
    };
    let mut largest = with_message(Message::text(sized(4096)));
    assert_eq!(largest.recv(), command("pong"));
    let declared = [&[0x81, 0xff][..], &(1_u64 << 40).to_be_bytes(), &[0; 4]].concat();
    let mut sockets = [
        ("a flood", flood(), 1008),
        ("binary", with_message(Message::binary(&br#"{"type":"ping"}"#[..])), 1003),
        ("a byte too much", with_message(Message::text(sized(4097))), 1009),
        ("far too much", with_message(Message::text(sized(20_000))), 1009),
        ("a terabyte announced", with_bytes(&declared), 1009),
        ("no mask", with_bytes(b"\x81\x02{}"), 1002),
        ("no UTF-8", with_bytes(b"\x81\x81\0\0\0\0\xff"), 1007),
    ];
    for (case, socket, code) in &mut sockets {
        let (have, reason, _) = socket.expect_close();
        assert_eq!(have, *code, "{case}: {reason}");
    }
    drop(largest);
    let bytes = vec![0x55; 100_000];
    daemon.connect().stream.write_all(&bytes).unwrap();
    let absent = || daemon.people(&anna.room).iter().filter(|name| *name == "(Bert)").count();
    eventually(|| absent() == 8);
    anna.socket.skip_to("timer:state");
    loop {
        anna.socket.send(command("ping"));
        if matches!(news(&mut anna.socket)["type"].as_str(), Some("pong")) {
            break;
        }
    }
}

#[test]
fn json_that_is_deep_wide_or_odd_is_answered() {
    let daemon = ephemeral(&[]);
    let mut anna = daemon.found(json!({}));
    let deep = |depth: usize| format!(r#"{{"type":"ping","x":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));
    let wide = format!(r#"{{"type":"ping"{}}}"#, r#","a":1"#.repeat(500));
    let long_number = format!(r#"{{"type":"timer:start","duration":{}}}"#, "9".repeat(3000));
    let escapes = format!(r#"{{"type":"timer:start","duration":"{}"}}"#, "\\u0000".repeat(600));
    let surrogate = r#"{"type":"timer:start","duration":"\ud800"}"#;
    let texts =
        [deep(50), deep(100), deep(500), deep(2000), "[".repeat(4000), wide, long_number, escapes, surrogate.into()];
    for text in texts {
        anna.socket.send_text(&text);
        let answer = anna.news();
        let fine = answer == command("pong") || answer["code"] == "invalid";
        assert!(fine, "{}: {answer}", &text[..60]);
    }
    anna.socket.send_text(&deep(50));
    assert_eq!(anna.news(), command("pong"), "what is not needed is not looked at");
    anna.control("timer:start");
}

// ---------------------------------------------------------------------------------------------------------------
// Who may come in.

#[test]
fn a_socket_is_opened_with_its_first_message_behind_the_handshake() {
    let daemon = ephemeral(&[]);
    for path in ["/ws/rooms", "/ws/rooms/", "/ws/rooms?x=1"] {
        let mut bytes = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        .into_bytes();
        let text = br#"{"type":"session:create","name":"Anna"}"#;
        bytes.extend([0x81, 0x80 | u8::try_from(text.len()).unwrap(), 0, 0, 0, 0]);
        bytes.extend(text);
        let mut stream = TcpStream::connect(daemon.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&bytes).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.extend(byte);
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
        let mut socket = Socket { inner: WebSocket::from_raw_socket(stream, Role::Client, None) };
        assert_eq!(socket.expect("session:joined")["name"], "Anna");
    }
    let response = daemon.get("/ws/rooms");
    assert_eq!((response.status, response.header("upgrade")), (426, Some("websocket")));
    assert_eq!(daemon.post("/ws/rooms", json!({})).status, 405);
}

#[test]
fn a_strange_origin_a_full_server_and_a_shutdown_end_as_on_every_socket() {
    let daemon = ephemeral(&["--cors-origin", "https://a.example", "--max-connections", "4"]);
    let (code, _, before) = daemon.open("/ws/rooms", &[("Origin", "https://b.example")]).expect_close();
    assert_eq!((code, before), (4009, vec![]));
    let mut members = Vec::new();
    eventually(|| {
        // The connection before may not be gone yet.
        let Ok(mut socket) = daemon.try_open("/ws/rooms", &[("Origin", "https://a.example")]) else { return false };
        socket.send(command("session:create"));
        let first = socket.recv_or_end();
        if first.is_ok() {
            members.push(socket);
        }
        members.len() == 4
    });
    let mut full = None;
    eventually(|| {
        full = daemon.try_open("/ws/rooms", &[]).ok();
        full.is_some()
    });
    let (code, _, before) = full.unwrap().expect_close();
    assert_eq!((code, before), (1013, vec![]));
    let ended = std::thread::spawn(move || daemon.terminate().0);
    for mut socket in members {
        assert_eq!(socket.expect_close().0, 1012);
    }
    assert_eq!(ended.join().unwrap().code(), Some(0));
}

#[test]
fn where_rooms_are_off_nobody_comes_in_and_there_are_none() {
    let daemon = Daemon::ephemeral(&["--rooms", "off"]);
    let (code, reason, before) = daemon.enter().expect_close();
    assert_eq!((code, &*reason, before), (4004, "Rooms are off", vec![]));
    let response = daemon.get(&format!("/rooms/{NOWHERE}"));
    assert_eq!((response.status, response.text()), (404, r#"{"detail":"Room not found"}"#));
    let id = daemon.create(json!({ "duration_seconds": 60 }));
    daemon.join(&id);
}

#[test]
fn no_key_is_ever_needed() {
    let (_kept, path) = directory();
    std::fs::create_dir_all(&path).unwrap();
    let file = path.join("keys");
    let made = std::process::Command::new(env!("CARGO_BIN_EXE_timerd")).args(["key", "new", "a", "admin"]).output();
    let said = String::from_utf8(made.unwrap().stdout).unwrap();
    let field = |name: &str| said.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    std::fs::write(&file, field("line:") + "\n").unwrap();
    let key = field("key:");
    let daemon = ephemeral(&["--require-auth", "--keys-file", file.to_str().unwrap()]);
    assert_eq!(daemon.get("/timers").status, 401);
    let mut anna = daemon.found(json!({ "name": "Anna" }));
    anna.control("timer:start");
    assert_eq!(daemon.room(&anna.room)["isRunning"], true);
    let mut socket = daemon.open(&format!("/ws/rooms?api_key={key}"), &[]);
    socket.send(with(anna.return_ticket(), json!({ "userId": null, "name": "Bert" })));
    assert_eq!(socket.expect("session:joined")["name"], "Bert");
}

#[test]
fn rooms_is_no_timer() {
    let daemon = ephemeral(&[]);
    let id = daemon.create(json!({ "duration_seconds": 60 }));
    let mut socket = daemon.enter();
    for kind in ["sync", "subscribe"] {
        refused(&mut socket, command(kind), "invalid", &format!("Unknown message type: {kind}"));
    }
    daemon.join(&id);
    assert_eq!(daemon.get("/timers/rooms").status, 404);
    let room = daemon.found(json!({})).room;
    assert_eq!(daemon.get(&format!("/timers/{room}")).status, 404);
    assert_eq!(daemon.open(&format!("/ws/{room}"), &[]).expect_close().0, 4004);
    assert_eq!(daemon.get(&format!("/rooms/{id}")).status, 404);
}

// ---------------------------------------------------------------------------------------------------------------
// GET /rooms/{id}.

#[test]
fn a_rooms_state_is_read_over_http_by_whoever_knows_its_id() {
    let daemon = ephemeral(&[]);
    let mut anna = daemon.found(json!({ "name": "Anna", "duration": 90 }));
    anna.control("timer:start");
    let path = format!("/rooms/{}", anna.room);
    for path in [path.clone(), format!("{path}/"), format!("/rooms/{}", anna.room.to_uppercase())] {
        let response = daemon.get(&path);
        assert_eq!(response.status, 200, "{path}");
        assert_safe(&response);
        assert_eq!(response.header("cache-control"), Some("no-store"));
        assert_eq!(response.header("content-type"), Some("application/json"));
        let room = response.json();
        assert_eq!((&room["sessionId"], &room["isRunning"]), (&json!(anna.room), &json!(true)));
        assert_now(&room["serverTime"]);
        let head = daemon.request("HEAD", &path, &[], None);
        assert_eq!((head.status, head.body.len()), (200, 0));
        let same = |name: &str| head.header(name) == response.header(name);
        assert!(same("content-type") && same("cache-control"), "{head:?}");
    }
    for unknown in [NOWHERE, "x", "-", "%20", "uuuuuuuuuu", "..", "%00", "rooms"] {
        let response = daemon.get(&format!("/rooms/{unknown}"));
        assert_eq!((response.status, response.text()), (404, r#"{"detail":"Room not found"}"#), "{unknown}");
        assert_safe(&response);
        let head = daemon.request("HEAD", &format!("/rooms/{unknown}"), &[], None);
        assert_eq!((head.status, head.body.len()), (404, 0));
    }
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        let response = daemon.request(method, &path, &[], None);
        assert_eq!(response.status, 405, "{method}");
        let allow = response.header("allow").unwrap();
        assert!(allow.contains("GET") && allow.contains("HEAD") && !allow.contains(method), "{allow}");
    }
    assert_eq!(daemon.get("/rooms").status, 404);
    // Many on one connection, in order.
    let mut http = Http::connect(daemon.address);
    let pair = [request_bytes("GET", &path, &[], None), request_bytes("GET", "/rooms/none", &[], None)].concat();
    http.send(pair.repeat(20));
    for _ in 0..20 {
        assert_eq!([http.response().status, http.response().status], [200, 404]);
    }
}
