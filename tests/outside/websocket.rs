//! The WebSocket side of the contract, seen from outside: the handshake, each message as it stands on the wire, the
//! order in which they come, who may listen, and how every conversation ends.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::daemon::{Daemon, PATIENCE, Socket, directory, eventually, request_bytes};
use rustix::net::{AddressFamily, SocketType, connect, socket, sockopt};
use serde_json::{Value, json};
use tungstenite::Message;

/// The key and its answer of RFC 6455, section 1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;

fn wall_ms() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

fn instant_ms(value: &Value) -> i64 {
    value.as_str().unwrap_or_else(|| panic!("no time: {value}")).parse::<jiff::Timestamp>().unwrap().as_millisecond()
}

/// What differs from run to run, made equal: ids, times, the server's time, the milliseconds left.
fn redacted(text: &str) -> String {
    let message: Value = serde_json::from_str(text).unwrap();
    if let Some(at) = message["server_time_ms"].as_i64() {
        assert!((wall_ms() - 10_000..=wall_ms()).contains(&at), "{text}");
    }
    let mut texts = vec![text.to_owned()];
    let replace = |texts: &mut Vec<String>, value: &Value, name: &str, quoted: &str| {
        let text = texts.pop().unwrap();
        texts.push(text.replace(&format!("\"{name}\":{value}"), &format!("\"{name}\":{quoted}")));
    };
    for (name, quoted) in [("server_time_ms", "NOW"), ("server_time", "NOW"), ("remaining_ms", "LEFT")] {
        replace(&mut texts, &message[name], name, quoted);
    }
    for (name, quoted) in
        [("id", "ID"), ("created_at", "TIME"), ("started_at", "TIME"), ("completed_at", "TIME"), ("ends_at", "TIME")]
    {
        if message["timer"][name].is_string() {
            replace(&mut texts, &message["timer"][name], name, quoted);
        }
    }
    texts.pop().unwrap()
}

/// A WebSocket connection that writes and reads bytes as they are.
struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Wire {
    fn open(daemon: &Daemon, path: &str) -> Wire {
        let mut wire = Wire::connect(daemon);
        wire.stream.write_all(upgrade(path).as_bytes()).unwrap();
        let head = wire.head();
        assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{head}");
        wire
    }

    fn connect(daemon: &Daemon) -> Wire {
        let stream = TcpStream::connect(daemon.address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Wire { stream, buffer: Vec::new() }
    }

    fn fill(&mut self, bytes: usize) -> bool {
        let mut chunk = [0; 65_536];
        while self.buffer.len() < bytes {
            match self.stream.read(&mut chunk) {
                Ok(0) => return false,
                Ok(n) => self.buffer.extend_from_slice(&chunk[..n]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return false,
                Err(error) => panic!("nothing comes: {error}"),
            }
        }
        true
    }

    /// The answer to the handshake, without what follows it.
    fn head(&mut self) -> String {
        let end = loop {
            if let Some(at) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            let wanted = self.buffer.len() + 1;
            assert!(self.fill(wanted), "closed");
        };
        String::from_utf8(self.buffer.drain(..end).collect()).unwrap()
    }

    fn send(&mut self, first: u8, payload: &[u8]) {
        self.stream.write_all(&frame(first, payload)).unwrap();
    }

    /// The next frame's first byte and payload; `None` at the end.
    fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        if !self.fill(2) {
            assert!(self.buffer.is_empty(), "half a frame");
            return None;
        }
        assert_eq!(self.buffer[1] & 0x80, 0, "a server masks nothing");
        let (at, length) = match self.buffer[1] {
            126 => {
                assert!(self.fill(4));
                (4, usize::from(u16::from_be_bytes([self.buffer[2], self.buffer[3]])))
            }
            127 => {
                assert!(self.fill(10));
                (10, usize::try_from(u64::from_be_bytes(self.buffer[2..10].try_into().unwrap())).unwrap())
            }
            short => (2, usize::from(short)),
        };
        assert!(self.fill(at + length), "half a frame");
        let first = self.buffer[0];
        let payload = self.buffer.drain(..at + length).skip(at).collect();
        Some((first, payload))
    }

    /// Reads on to the close frame: its code and reason, and that nothing follows it.
    #[track_caller]
    fn expect_close(&mut self) -> (u16, String) {
        loop {
            let (first, payload) = self.frame().expect("the end without a close frame");
            if first == CLOSE {
                let reason = String::from_utf8(payload.get(2..).unwrap_or_default().to_vec()).unwrap();
                let code = if payload.is_empty() { 1005 } else { u16::from_be_bytes([payload[0], payload[1]]) };
                assert!(!self.fill(1), "something follows the close frame");
                return (code, reason);
            }
        }
    }
}

/// A masked frame.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let mut bytes = vec![first];
    match payload.len() {
        short @ 0..=125 => bytes.push(0x80 | u8::try_from(short).unwrap()),
        middle @ 126..=65_535 => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&u16::try_from(middle).unwrap().to_be_bytes());
        }
        long => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

fn upgrade(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    )
}

// ---------------------------------------------------------------------------------------------------------------
// The handshake.

#[test]
fn a_valid_upgrade_is_completed_however_it_is_written() {
    let daemon = Daemon::ephemeral(&[]);
    let id = daemon.create(json!({ "duration_seconds": 60 }));
    let plain = upgrade(&format!("/ws/{id}"));
    for request in [
        plain.clone(),
        upgrade(&format!("/ws/{id}/")),
        upgrade(&format!("/ws/{id}?unknown=1")),
        plain
            .replace("Upgrade: websocket", "upgrade: WebSocket")
            .replace("Connection: U", "connection: keep-alive, u"),
        plain.replace("Upgrade: websocket", "Upgrade: h2c, websocket"),
        plain.replace(
            "\r\n\r\n",
            "\r\nSec-WebSocket-Extensions: permessage-deflate\r\nSec-WebSocket-Protocol: a, b\r\n\r\n",
        ),
        plain.replace("\r\n\r\n", "\r\nContent-Length: 0\r\nOrigin: https://any.example\r\n\r\n"),
        plain.replace("\r\n\r\n", "\r\nOrigin: null\r\nCookie: a=b\r\n\r\n"),
    ] {
        let mut wire = Wire::connect(&daemon);
        wire.stream.write_all(request.as_bytes()).unwrap();
        let head = wire.head().to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 101 "), "{request}: {head}");
        for line in ["upgrade: websocket", "connection: upgrade", "x-content-type-options: nosniff"] {
            assert!(head.contains(&format!("\r\n{line}\r\n")), "{head}");
        }
        assert!(head.contains(&format!("\r\nsec-websocket-accept: {}\r\n", ACCEPT.to_ascii_lowercase())), "{head}");
        for name in ["sec-websocket-extensions", "sec-websocket-protocol", "content-length"] {
            assert!(!head.contains(name), "{head}");
        }
        let (first, payload) = wire.frame().unwrap();
        assert_eq!(first, TEXT);
        assert!(payload.starts_with(b"{\"type\":\"connected\","));
    }
}

#[test]
fn a_handshake_may_come_byte_by_byte_and_with_the_first_message_behind_it() {
    let daemon = Daemon::ephemeral(&[]);
    let id = daemon.create(json!({ "duration_seconds": 60 }));
    let mut bytes = upgrade(&format!("/ws/{id}")).into_bytes();
    bytes.extend(frame(TEXT, br#"{"type":"ping"}"#));
    let mut wire = Wire::connect(&daemon);
    for byte in &bytes {
        wire.stream.write_all(&[*byte]).unwrap();
    }
    let mut at_once = Wire::connect(&daemon);
    at_once.stream.write_all(&bytes).unwrap();
    // Behind a request of the same connection, too.
    let mut behind = Wire::connect(&daemon);
    let before = request_bytes("GET", "/timers/none", &[], None);
    behind.stream.write_all(&[before, bytes].concat()).unwrap();
    assert!(behind.head().starts_with("HTTP/1.1 404 "));
    behind.buffer.drain(..r#"{"detail":"Timer not found"}"#.len());
    for mut wire in [wire, at_once, behind] {
        assert!(wire.head().contains(ACCEPT));
        assert!(wire.frame().unwrap().1.starts_with(b"{\"type\":\"connected\""));
        assert_eq!(wire.frame(), Some((TEXT, br#"{"type":"pong"}"#.to_vec())));
    }
}

#[test]
fn an_upgrade_that_is_not_one_gets_an_http_answer() {
    let daemon = Daemon::ephemeral(&[]);
    let id = daemon.create(json!({ "duration_seconds": 60 }));
    let path = format!("/ws/{id}");
    let good = upgrade(&path);
    let cut = |line: &str| good.replace(&format!("{line}\r\n"), "");
    let doubled = |line: &str| good.replace(&format!("{line}\r\n"), &format!("{line}\r\n{line}\r\n"));
    let (key, version) = (&*format!("Sec-WebSocket-Key: {KEY}"), "Sec-WebSocket-Version: 13");
    let get = format!("GET {path} HTTP/1.1");
    for (request, status) in [
        (cut("Host: localhost"), 400),
        (doubled("Host: localhost"), 400),
        (cut("Upgrade: websocket"), 426),
        (good.replace("Upgrade: websocket", "Upgrade: h2c"), 426),
        (cut("Connection: Upgrade"), 400),
        (good.replace("Connection: Upgrade", "Connection: close"), 400),
        (cut(key), 400),
        (doubled(key), 400),
        (good.replace(KEY, ""), 400),
        (good.replace(KEY, "c2hvcnQ="), 400),
        (good.replace(KEY, "not base64 at all, no!=="), 400),
        (cut(version), 426),
        (doubled(version), 426),
        (good.replace(version, "Sec-WebSocket-Version: 8"), 426),
        (good.replace(&get, &format!("POST {path} HTTP/1.1")), 405),
        (good.replace(&get, &format!("GET {path} HTTP/1.0")), 400),
        (good.replace("\r\n\r\n", "\r\nContent-Length: 2\r\n\r\n{}"), 400),
        (upgrade("/timers"), 400),
        (upgrade("/ws"), 404),
    ] {
        let mut http = daemon.connect();
        http.send(&request);
        let response = http.response();
        assert_eq!(response.status, status, "{request}: {}", response.text());
        assert!(response.json()["detail"].is_string());
        if status == 426 {
            assert_eq!(response.header("upgrade"), Some("websocket"), "{request}");
        }
        if request.contains("Version: 8") {
            assert_eq!(response.header("sec-websocket-version"), Some("13"));
        }
    }
    assert_eq!(daemon.timer(&id)["connected_clients"], 0);
}

// ---------------------------------------------------------------------------------------------------------------
// Messages, golden.

#[test]
fn the_whole_life_of_a_timer_word_for_word() {
    let daemon = Daemon::ephemeral(&[]);
    let body = json!({ "duration_seconds": 3, "name": "Quiz \"1\"", "warning_thresholds": [1, 2, 3, 60] });
    let id = daemon.create(body);
    let (mut socket, _) = daemon.join(&id);
    let mut late = daemon.open(&format!("/ws/{id}"), &[]);
    let greeting = late.recv_text();
    assert_eq!(serde_json::from_str::<Value>(&greeting).unwrap()["timer"]["id"], *id.as_str());
    assert_eq!(
        redacted(&greeting),
        r#"{"type":"connected","timer":{"id":ID,"name":"Quiz \"1\"","state":"created","duration_seconds":3,"#
            .to_owned()
            + r#""remaining_seconds":3,"elapsed_seconds":0,"warning_thresholds":[1,2,3,60],"connected_clients":2,"#
            + r#""created_at":TIME,"started_at":null,"completed_at":null,"remaining_ms":3000,"ends_at":null,"#
            + r#""start_at":null,"revision":1},"server_time_ms":NOW}"#
    );
    let ends_ms = instant_ms(&daemon.control(&id, "start").json()["ends_at"]);
    let life = [
        r#"{"type":"timer_started","remaining_seconds":3,"remaining_ms":LEFT,"server_time_ms":NOW}"#,
        r#"{"type":"timer_warning","remaining_seconds":2,"threshold":2}"#,
        r#"{"type":"timer_tick","remaining_seconds":2,"elapsed_seconds":1}"#,
        r#"{"type":"timer_warning","remaining_seconds":1,"threshold":1}"#,
        r#"{"type":"timer_tick","remaining_seconds":1,"elapsed_seconds":2}"#,
        r#"{"type":"timer_tick","remaining_seconds":0,"elapsed_seconds":3}"#,
        r#"{"type":"timer_expired","elapsed_seconds":3}"#,
    ];
    for expected in life {
        let text = socket.recv_text();
        let now = wall_ms();
        assert_eq!(redacted(&text), expected);
        let message: Value = serde_json::from_str(&text).unwrap();
        match message["type"].as_str() {
            Some("timer_started") => assert_eq!(message["remaining_ms"], 3000),
            Some("timer_tick") => {
                // The stored end is cut to its millisecond.
                let due = ends_ms - 1000 * message["remaining_seconds"].as_i64().unwrap();
                assert!(now >= due && now < due + 900, "{text}: {} ms from its instant", now - due);
            }
            _ => {}
        }
        assert_eq!(redacted(&late.recv_text()), expected, "everybody hears the same");
    }
    socket.send(json!({ "type": "ping" }));
    assert_eq!(socket.recv_text(), r#"{"type":"pong"}"#, "the connection stays");
    let (_, greeting) = daemon.join(&id);
    assert_eq!(greeting["timer"]["state"], "expired");
    late.expect_silence(Duration::from_millis(100));
}

#[test]
fn every_change_is_announced_word_for_word() {
    let daemon = Daemon::ephemeral(&[]);
    let id = daemon.create(json!({ "duration_seconds": 100, "warning_thresholds": [] }));
    let (mut socket, _) = daemon.join(&id);
    let mut changed = |action: &str, expected: &str| {
        let response = if action == "extend" { daemon.extend(&id, 20) } else { daemon.control(&id, action) };
        let timer = response.json();
        let text = socket.recv_text();
        assert_eq!(redacted(&text), expected);
        let message: Value = serde_json::from_str(&text).unwrap();
        if message["remaining_ms"].is_u64() {
            assert_eq!(message["remaining_ms"], timer["remaining_ms"], "{text}");
        }
    };
    let extended = r#"{"type":"timer_extended","added_seconds":20,"remaining_seconds":SECONDS,"remaining_ms":LEFT,"server_time_ms":NOW}"#;
    let started = r#"{"type":"timer_started","remaining_seconds":SECONDS,"remaining_ms":LEFT,"server_time_ms":NOW}"#;
    let paused = r#"{"type":"timer_paused","remaining_seconds":SECONDS,"remaining_ms":LEFT,"server_time_ms":NOW}"#;
    let with = |text: &str, seconds: u32| text.replace("SECONDS", &seconds.to_string());
    changed("extend", &with(extended, 120));
    changed("start", &with(started, 120));
    changed("extend", &with(extended, 140));
    changed("pause", &with(paused, 140));
    changed("extend", &with(extended, 160));
    changed("resume", &with(started, 160));
    changed("pause", &with(paused, 160));
    changed("start", &with(started, 160));
    changed("stop", r#"{"type":"timer_stopped","remaining_seconds":160,"elapsed_seconds":0}"#);
    assert_eq!(daemon.control(&id, "start").status, 400, "a refusal is announced to nobody");
    assert_eq!(daemon.delete(&format!("/timers/{id}")).status, 204);
    assert_eq!(socket.recv_text(), r#"{"type":"timer_deleted"}"#);
    assert_eq!(socket.expect_close(), (4000, "Timer deleted".to_owned(), vec![]));
}

#[test]
fn bulk_calls_are_announced_as_single_ones_are() {
    let daemon = Daemon::ephemeral(&[]);
    let ids: Vec<String> = (0..3).map(|_| daemon.create(json!({ "duration_seconds": 60 }))).collect();
    let mut sockets: Vec<Socket> = ids.iter().map(|id| daemon.join(id).0).collect();
    for (op, kind) in [
        ("start", "timer_started"),
        ("pause", "timer_paused"),
        ("resume", "timer_started"),
        ("extend", "timer_extended"),
        ("stop", "timer_stopped"),
        ("delete", "timer_deleted"),
    ] {
        assert_eq!(daemon.post(&format!("/timers/bulk/{op}"), json!({ "timer_ids": ids, "seconds": 5 })).status, 200);
        let times: Vec<Value> =
            sockets.iter_mut().map(|socket| socket.expect(kind)["server_time_ms"].clone()).collect();
        assert!(times.iter().all(|time| *time == times[0]), "{op} happens at one instant: {times:?}");
    }
    for mut socket in sockets {
        assert_eq!(socket.expect_close().0, 4000);
    }
}

#[test]
fn questions_are_answered_word_for_word_and_change_nothing() {
    let daemon = Daemon::ephemeral(&[]);
    for state in ["created", "running", "paused", "completed", "expired"] {
        let id = daemon.timer_in(state);
        let (mut socket, greeting) = daemon.join(&id);
        let revision = greeting["timer"]["revision"].clone();
        let seconds = greeting["timer"]["remaining_seconds"].clone();
        let mut ask = |text: &str| {
            socket.send_text(text);
            loop {
                let answer = socket.recv_text();
                if !answer.contains("timer_tick") {
                    return answer;
                }
            }
        };
        let sync = ask(r#"{"type":"sync"}"#);
        let parsed: Value = serde_json::from_str(&sync).unwrap();
        let server_ms = parsed["server_time_ms"].as_i64().unwrap();
        assert_eq!(instant_ms(&parsed["server_time"]), server_ms / 1000 * 1000, "whole seconds, cut off");
        assert!(state == "running" || parsed["remaining_ms"] == greeting["timer"]["remaining_ms"]);
        let seconds = if state == "running" { parsed["remaining_seconds"].clone() } else { seconds };
        let expected = format!(
            r#"{{"type":"sync_response","server_time":NOW,"remaining_seconds":{seconds},"state":"{state}","remaining_ms":LEFT,"server_time_ms":NOW}}"#
        );
        assert_eq!(redacted(&sync), expected);
        for time in [
            "1736935200123",
            "1736935200.123456789012345",
            "123456789012345678901234567890",
            "\"caf\u{e9}\"",
            r#"{"a": [1 ,2]}"#,
        ] {
            let sync = ask(&format!(r#"{{"client_time":{time},"type":"sync"}}"#));
            assert!(sync.ends_with(&format!(r#","client_time":{time}}}"#)), "echoed as it came: {sync}");
        }
        assert_eq!(ask(r#" { "extra" : 1, "type" : "ping" } "#), r#"{"type":"pong"}"#);
        assert_eq!(ask(r#"{"type":"start"}"#), r#"{"type":"error","message":"Unknown message type: start"}"#);
        assert_eq!(ask(r#"{"type":"a\"b\n"}"#), r#"{"type":"error","message":"Unknown message type: a\"b\n"}"#);
        for text in [
            "",
            "{",
            "hello",
            "5",
            "null",
            "[]",
            "\"ping\"",
            r#"{"type":"ping"} x"#,
            r#"{"type":NaN}"#,
            r#"{type:"ping"}"#,
        ] {
            assert_eq!(ask(text), r#"{"type":"error","message":"Invalid JSON"}"#, "{text}");
        }
        for text in ["{}", r#"{"type":null}"#, r#"{"type":5}"#, r#"{"type":["ping"]}"#, r#"{"type":""}"#] {
            let answer = ask(text);
            assert!(answer.starts_with(r#"{"type":"error","message":"Unknown message type: "#), "{text}: {answer}");
        }
        let long = ask(&json!({ "type": "x".repeat(4000) }).to_string());
        assert!(long.starts_with(r#"{"type":"error","message":"Unknown message type: xxx"#) && long.len() < 1000);
        assert_eq!(ask(r#"{"type":"ping"}"#), r#"{"type":"pong"}"#, "the connection stays");
        assert_eq!(daemon.timer(&id)["revision"], revision, "clients never change a timer");
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Order and time.

#[test]
fn an_extension_above_a_threshold_arms_its_warning_again() {
    let daemon = Daemon::ephemeral(&["--second-ms", "200"]);
    let thresholds = [3, 4, 1];
    let id = daemon.create(json!({ "duration_seconds": 4, "warning_thresholds": thresholds }));
    let (mut socket, _) = daemon.join(&id);
    assert_eq!(daemon.control(&id, "start").status, 200);
    assert_eq!(told(&mut socket, "2"), ["!3", "3", "2"], "a threshold of the duration itself is not crossed");
    assert_eq!(daemon.control(&id, "pause").status, 200);
    let lifted = daemon.extend(&id, 3).json()["remaining_seconds"].as_u64().unwrap();
    assert!((3..=5).contains(&lifted), "{lifted}");
    socket.skip_to("timer_extended");
    assert_eq!(daemon.control(&id, "resume").status, 200);
    let mut expected = Vec::new();
    for left in (0..lifted).rev() {
        expected.extend(thresholds.contains(&left).then(|| format!("!{left}")));
        expected.push(left.to_string());
    }
    expected.push("end".to_owned());
    assert_eq!(told(&mut socket, "end"), expected, "each warning once a descent, before the tick of its second");
}

/// Ticks (`3`), warnings (`!3`) and the end of a descent, up to `last`.
fn told(socket: &mut Socket, last: &str) -> Vec<String> {
    let mut told: Vec<String> = Vec::new();
    while told.last().is_none_or(|line| line != last) {
        let message = socket.recv();
        match message["type"].as_str().unwrap() {
            "timer_warning" => {
                assert_eq!(message["remaining_seconds"], message["threshold"]);
                told.push(format!("!{}", message["threshold"]));
            }
            "timer_tick" => told.push(message["remaining_seconds"].to_string()),
            "timer_expired" => told.push("end".to_owned()),
            _ => {}
        }
    }
    told
}

#[test]
fn ticks_keep_the_fraction_over_pauses_and_strictly_fall() {
    let daemon = Daemon::ephemeral(&["--second-ms", "500"]);
    let id = daemon.create(json!({ "duration_seconds": 3, "warning_thresholds": [] }));
    let (mut socket, _) = daemon.join(&id);
    let mut running_ms: i64 = 0;
    let mut begun = Instant::now();
    assert_eq!(daemon.control(&id, "start").status, 200);
    let mut shown = Vec::new();
    for pause in 0..3 {
        std::thread::sleep(Duration::from_millis(120));
        let paused = daemon.control(&id, "pause").json();
        running_ms += i64::try_from(begun.elapsed().as_millis()).unwrap();
        let told = socket.skip_to_counting("timer_paused", &mut shown);
        assert_eq!(told["remaining_ms"], paused["remaining_ms"]);
        let left_ms = told["remaining_ms"].as_i64().unwrap();
        // A timer's second lasts 500 ms here: twice as many of its milliseconds pass.
        assert!(left_ms <= 3000 - 240 * (pause + 1), "{left_ms}: the fraction counts");
        assert!(left_ms + 2 * (running_ms + 1) >= 3000, "{left_ms} after {running_ms} ms");
        socket.expect_silence(Duration::from_millis(50));
        begun = Instant::now();
        let resumed = daemon.control(&id, "resume").json();
        assert_eq!(socket.expect("timer_started")["remaining_ms"], left_ms);
        assert_eq!(resumed["remaining_ms"], left_ms);
    }
    socket.skip_to_counting("timer_expired", &mut shown);
    assert_eq!(shown, [2, 1, 0], "each second once, down to 0");
}

/// Reading on while ticks are noted.
trait Counting {
    fn skip_to_counting(&mut self, kind: &str, shown: &mut Vec<i64>) -> Value;
}

impl Counting for Socket {
    fn skip_to_counting(&mut self, kind: &str, shown: &mut Vec<i64>) -> Value {
        loop {
            let message = self.recv();
            if message["type"] == "timer_tick" {
                shown.push(message["remaining_seconds"].as_i64().unwrap());
            }
            if message["type"] == kind {
                return message;
            }
        }
    }
}

#[test]
fn whoever_joins_midway_is_greeted_with_the_present_and_hears_what_all_hear() {
    let daemon = Daemon::ephemeral(&["--second-ms", "200"]);
    let id = daemon.create(json!({ "duration_seconds": 6, "auto_start": true, "warning_thresholds": [2] }));
    let (mut first, greeting) = daemon.join(&id);
    assert_eq!(greeting["timer"]["connected_clients"], 1, "a newcomer counts itself");
    let tick = first.skip_to("timer_tick")["remaining_seconds"].as_i64().unwrap();
    let (mut second, greeting) = daemon.join(&id);
    assert_eq!(
        (&greeting["timer"]["state"], &greeting["timer"]["connected_clients"]),
        (&json!("running"), &json!(2))
    );
    let left = greeting["timer"]["remaining_seconds"].as_i64().unwrap();
    assert!(left <= tick, "{left} after the tick of {tick}");
    assert_eq!(
        greeting["timer"]["remaining_ms"].as_i64().unwrap().unsigned_abs().div_ceil(1000),
        left.unsigned_abs()
    );
    let mut next = second.recv();
    if next["type"] == "timer_warning" {
        next = second.recv();
    }
    assert_eq!(next["remaining_seconds"].as_i64().unwrap(), left - 1, "the next tick follows the greeting: {next}");
    // The other one is not told of joins, and hears the very same.
    let (mut heard, mut expected) = (Vec::new(), vec![next]);
    while heard.last().is_none_or(|last: &Value| last["type"] != "timer_expired") {
        heard.push(first.recv());
    }
    while expected.last().unwrap()["type"] != "timer_expired" {
        expected.push(second.recv());
    }
    assert!(heard.ends_with(&expected), "{heard:?} / {expected:?}");
    assert_eq!(daemon.timer(&id)["connected_clients"], 2);
    first.inner.close(None).unwrap();
    drop(second);
    eventually(|| daemon.timer(&id)["connected_clients"] == 0);
}

// ---------------------------------------------------------------------------------------------------------------
// Limits.

#[test]
fn a_timer_has_a_hundred_clients_and_not_one_more() {
    let daemon = Daemon::ephemeral(&[]);
    let [id, other] = [(); 2].map(|()| daemon.create(json!({ "duration_seconds": 60 })));
    let mut clients: Vec<Socket> = (0..100).map(|_| daemon.join(&id).0).collect();
    assert_eq!(daemon.timer(&id)["connected_clients"], 100);
    let refused = |daemon: &Daemon| {
        let mut socket = daemon.open(&format!("/ws/{id}"), &[]);
        assert_eq!(socket.expect_close(), (4029, "Too many connections".to_owned(), vec![]));
    };
    refused(&daemon);
    daemon.join(&other);
    // A place is free again when its client has gone, however it went.
    clients.pop().unwrap().inner.close(None).unwrap();
    drop(clients.pop());
    eventually(|| daemon.timer(&id)["connected_clients"] == 98);
    clients.extend((0..2).map(|_| daemon.join(&id).0));
    refused(&daemon);
    assert_eq!(daemon.control(&id, "start").status, 200);
    for client in &mut clients {
        client.expect("timer_started");
    }
}

#[test]
fn of_many_who_come_at_once_exactly_as_many_as_allowed_are_let_in_and_instructors_do_not_count() {
    let (_kept, path) = directory();
    std::fs::create_dir_all(&path).unwrap();
    let file = path.join("keys");
    let mut lines = String::new();
    let keys = ["viewer", "instructor", "admin"].map(|role| {
        let made = std::process::Command::new(env!("CARGO_BIN_EXE_timerd"))
            .args(["key", "new", role, role])
            .output()
            .unwrap();
        let text = String::from_utf8(made.stdout).unwrap();
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
        lines.push_str(&format!("{}\n", field("line:")));
        field("key:")
    });
    std::fs::write(&file, lines).unwrap();
    let [viewer, instructor, admin] = keys;
    let daemon = Daemon::ephemeral(&["--clients-per-timer", "5", "--keys-file", file.to_str().unwrap()]);
    let id = daemon.create(json!({ "duration_seconds": 60 }));
    let mut outside = Vec::new();
    for key in [&instructor, &admin, &instructor] {
        outside.push(daemon.open(&format!("/ws/{id}"), &[("X-API-Key", key)]));
        outside.last_mut().unwrap().expect("connected");
        assert_eq!(daemon.timer(&id)["connected_clients"], 0, "they take no place");
    }
    let outcomes: Vec<(Socket, Value)> = std::thread::scope(|scope| {
        let join = || {
            let mut socket = daemon.open(&format!("/ws/{id}"), &[("X-API-Key", &viewer)]);
            let first = match socket.inner.read().unwrap() {
                Message::Text(text) => serde_json::from_str(text.as_str()).unwrap(),
                Message::Close(Some(frame)) => json!(u16::from(frame.code)),
                other => panic!("{other:?}"),
            };
            (socket, first)
        };
        let threads: Vec<_> = (0..20).map(|_| scope.spawn(join)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(outcomes.iter().filter(|(_, first)| first["type"] == "connected").count(), 5);
    assert_eq!(outcomes.iter().filter(|(_, first)| *first == 4029).count(), 15);
    assert_eq!(daemon.timer(&id)["connected_clients"], 5);
    // Full for students, still open to whoever controls the clock; and they hear what students hear.
    outside.push(daemon.open(&format!("/ws/{id}?api_key={instructor}"), &[]));
    outside.last_mut().unwrap().expect("connected");
    assert_eq!(daemon.control(&id, "start").status, 200);
    outside.iter_mut().for_each(|socket| _ = socket.expect("timer_started"));
}

#[test]
fn a_hundred_messages_at_once_are_answered_and_a_flood_is_closed() {
    let daemon = Daemon::ephemeral(&[]);
    let id = daemon.create(json!({ "duration_seconds": 60 }));
    let (mut socket, _) = daemon.join(&id);
    for _ in 0..100 {
        socket.send(json!({ "type": "ping" }));
    }
    for _ in 0..100 {
        socket.expect("pong");
    }
    // Twenty a second come back.
    std::thread::sleep(Duration::from_millis(600));
    for _ in 0..10 {
        socket.send(json!({ "type": "ping" }));
        socket.expect("pong");
    }
    let mut wire = Wire::open(&daemon, &format!("/ws/{id}"));
    wire.stream.write_all(&frame(TEXT, br#"{"type":"ping"}"#).repeat(400)).unwrap();
    let begun = Instant::now();
    wire.frame().unwrap();
    let mut pongs = 0;
    while let Some((TEXT, payload)) = wire.frame() {
        assert_eq!(payload, br#"{"type":"pong"}"#);
        pongs += 1;
    }
    let allowed = 101 + 20 * usize::try_from(begun.elapsed().as_secs() + 1).unwrap();
    assert!((100..=allowed).contains(&pongs), "{pongs}");
    let mut wire = Wire::open(&daemon, &format!("/ws/{id}"));
    wire.stream.write_all(&frame(TEXT, b"nonsense").repeat(400)).unwrap();
    assert_eq!(wire.expect_close().0, 1008, "nonsense counts");
    socket.send(json!({ "type": "ping" }));
    socket.expect("pong");
}

#[test]
fn a_message_of_4_kib_is_read_and_one_byte_more_closes_with_1009() {
    let daemon = Daemon::ephemeral(&[]);
    let id = daemon.create(json!({ "duration_seconds": 60 }));
    let path = format!("/ws/{id}");
    let sized = |bytes: usize| {
        let text = r#"{"type":"ping","pad":""}"#;
        text.replace("\"\"", &format!("\"{}\"", "p".repeat(bytes - text.len())))
    };
    let mut wire = Wire::open(&daemon, &path);
    wire.frame().unwrap();
    wire.send(TEXT, sized(4096).as_bytes());
    assert_eq!(wire.frame(), Some((TEXT, br#"{"type":"pong"}"#.to_vec())));
    // The same in fragments, a control frame between them.
    let text = sized(4096);
    wire.send(0x01, &text.as_bytes()[..4000]);
    wire.send(PING, b"between");
    wire.send(0x80, &text.as_bytes()[4000..]);
    assert_eq!(wire.frame(), Some((PONG, b"between".to_vec())));
    assert_eq!(wire.frame(), Some((TEXT, br#"{"type":"pong"}"#.to_vec())));

    let over = frame(TEXT, sized(4097).as_bytes());
    let fragments = [frame(0x01, &[b'p'; 4000]), frame(0x00, &[b'p'; 90]), frame(0x80, &[b'p'; 7])].concat();
    let declared = [&[TEXT, 0xff][..], &(1_u64 << 40).to_be_bytes(), &[0; 4]].concat();
    for bytes in [over, fragments, declared, frame(BINARY, &[0; 5000])] {
        let mut wire = Wire::open(&daemon, &path);
        wire.stream.write_all(&bytes).unwrap();
        assert_eq!(wire.expect_close().0, 1009, "{} bytes", bytes.len());
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Ends.

#[test]
fn refusals_are_told_by_close_codes_after_a_completed_upgrade() {
    let daemon = Daemon::ephemeral(&["--cors-origin", "https://exams.example"]);
    let id = daemon.create(json!({ "duration_seconds": 60 }));
    let path = format!("/ws/{id}");
    let mut unknown = daemon.open("/ws/timer_nowhere", &[]);
    assert_eq!(unknown.expect_close(), (4004, "Timer not found".to_owned(), vec![]));
    for origin in ["https://evil.example", "http://exams.example", "null"] {
        let mut socket = daemon.open(&path, &[("Origin", origin)]);
        let (code, _, before) = socket.expect_close();
        assert_eq!((code, before), (4009, vec![]), "{origin}");
    }
    let own = format!("http://{}", daemon.address);
    for origin in ["https://exams.example", &own] {
        daemon.open(&path, &[("Origin", origin)]).expect("connected");
    }
    daemon.open(&path, &[]).expect("connected");
    let deleted = daemon.create(json!({ "duration_seconds": 60 }));
    let (mut socket, _) = daemon.join(&deleted);
    assert_eq!(daemon.delete(&format!("/timers/{deleted}")).status, 204);
    assert_eq!(socket.expect_close(), (4000, "Timer deleted".to_owned(), vec![json!({ "type": "timer_deleted" })]));
    assert_eq!(daemon.open(&format!("/ws/{deleted}"), &[]).expect_close().0, 4004);
}

#[test]
fn a_client_that_breaks_the_protocol_is_told_the_code_and_closed() {
    let daemon = Daemon::ephemeral(&[]);
    let id = daemon.create(json!({ "duration_seconds": 60 }));
    let unmasked = [&[TEXT, 0x02][..], b"{}"].concat();
    let long_form = [&[TEXT, 0xfe, 0x00, 0x02][..], &[0; 4], b"{}"].concat();
    let top_bit = [&[TEXT, 0xff, 0x80][..], &[0; 7], &[0; 4]].concat();
    for (name, bytes, code) in [
        ("binary", frame(BINARY, b"{\"type\":\"ping\"}"), 1003),
        ("an empty binary message", frame(BINARY, b""), 1003),
        ("a frame without a mask", unmasked, 1002),
        ("a reserved bit", frame(0xc1, b"{}"), 1002),
        ("a reserved opcode", frame(0x83, b"{}"), 1002),
        ("a reserved control opcode", frame(0x8b, b""), 1002),
        ("a fragmented ping", frame(0x09, b""), 1002),
        ("a ping of 126 bytes", frame(PING, &[b'p'; 126]), 1002),
        ("a continuation of nothing", frame(0x80, b"{}"), 1002),
        ("text within text", [frame(0x01, b"{"), frame(TEXT, b"}")].concat(), 1002),
        ("a length not in its shortest form", long_form, 1002),
        ("a length of 2^63", top_bit, 1002),
        ("text that is not UTF-8", frame(TEXT, b"{\"type\":\"\xff\"}"), 1007),
        ("a surrogate in UTF-8", frame(TEXT, b"\xed\xa0\x80"), 1007),
        ("UTF-8 cut short at the end", [frame(0x01, b"\xe2\x82"), frame(0x80, b"")].concat(), 1007),
        ("half a close code", frame(CLOSE, b"\x03"), 1002),
        ("a close code that may not be sent", frame(CLOSE, &1005_u16.to_be_bytes()), 1002),
        ("a close code of nobody", frame(CLOSE, &999_u16.to_be_bytes()), 1002),
        ("a close reason that is not UTF-8", frame(CLOSE, b"\x03\xe8\xff"), 1007),
    ] {
        let mut wire = Wire::open(&daemon, &format!("/ws/{id}"));
        let mut bytes = bytes;
        // What follows is not read any more.
        bytes.extend(frame(TEXT, br#"{"type":"ping"}"#));
        wire.stream.write_all(&bytes).unwrap();
        assert!(wire.frame().unwrap().1.starts_with(b"{\"type\":\"connected\""));
        assert_eq!(wire.expect_close().0, code, "{name}");
    }
    eventually(|| daemon.timer(&id)["connected_clients"] == 0);
}

#[test]
fn a_close_is_answered_with_its_own_code_and_pings_with_their_payload() {
    let daemon = Daemon::ephemeral(&[]);
    let id = daemon.create(json!({ "duration_seconds": 60 }));
    for (payload, code) in [
        (&b""[..], 1005),
        (&1000_u16.to_be_bytes(), 1000),
        (&1001_u16.to_be_bytes(), 1001),
        (&[0x0f, 0xa1, b'w', b'h', b'y'], 4001),
    ] {
        let mut wire = Wire::open(&daemon, &format!("/ws/{id}"));
        wire.frame().unwrap();
        for ping in [&b""[..], b"payload", &[0xff; 125]] {
            wire.send(PING, ping);
            assert_eq!(wire.frame(), Some((PONG, ping.to_vec())));
        }
        wire.send(PONG, b"unasked");
        wire.send(CLOSE, payload);
        assert_eq!(wire.expect_close().0, code);
    }
    // Cut at every byte, a message is the same message.
    let mut wire = Wire::open(&daemon, &format!("/ws/{id}"));
    wire.frame().unwrap();
    for byte in frame(TEXT, br#"{"type":"ping"}"#) {
        wire.stream.write_all(&[byte]).unwrap();
    }
    assert_eq!(wire.frame(), Some((TEXT, br#"{"type":"pong"}"#.to_vec())));
}

#[test]
fn a_client_that_does_not_read_is_closed_and_the_others_miss_nothing() {
    let daemon = Daemon::ephemeral(&[]);
    let id = daemon.create(json!({ "duration_seconds": 60, "warning_thresholds": [] }));
    // A small window makes the kernel keep little for it.
    let small = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    sockopt::set_socket_recv_buffer_size(&small, 4096).unwrap();
    connect(&small, &daemon.address).unwrap();
    let mut slow = Wire { stream: small.into(), buffer: Vec::new() };
    slow.stream.set_read_timeout(Some(PATIENCE)).unwrap();
    slow.stream.write_all(upgrade(&format!("/ws/{id}")).as_bytes()).unwrap();
    eventually(|| daemon.timer(&id)["connected_clients"] == 1);
    let others: Vec<Socket> = (0..3).map(|_| daemon.join(&id).0).collect();
    assert_eq!(daemon.control(&id, "start").status, 200);

    let slow_clients = || {
        let text = daemon.get("/metrics").text().to_owned();
        let line = text.lines().find(|line| line.contains("slow_clients_total ")).unwrap();
        line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
    };
    let done = std::sync::atomic::AtomicU64::new(u64::MAX);
    std::thread::scope(|scope| {
        let readers: Vec<_> = others
            .into_iter()
            .map(|mut socket| {
                let done = &done;
                scope.spawn(move || {
                    let mut extended = 0;
                    let begun = Instant::now();
                    loop {
                        // When the test has failed, nobody else ends this.
                        assert!(begun.elapsed() < 6 * PATIENCE, "the timer is never stopped");
                        let message = socket.recv();
                        match message["type"].as_str().unwrap() {
                            "timer_extended" => extended += 1,
                            "timer_stopped" => {
                                assert_eq!(extended, done.load(std::sync::atomic::Ordering::Acquire));
                                return;
                            }
                            "timer_started" | "timer_tick" => {}
                            other => panic!("{other}"),
                        }
                    }
                })
            })
            .collect();
        let mut http = daemon.connect();
        let body = json!({ "timer_ids": vec![&id; 100], "seconds": 1 }).to_string();
        let mut sent = 0;
        while slow_clients() == 0 {
            assert!(sent < 100_000, "the slow client is never shed");
            let response =
                http.request("POST", "/timers/bulk/extend", &[("Content-Type", "application/json")], Some(&body));
            assert!(!response.text().contains("false"), "{}", response.text());
            sent += 100;
        }
        // Now it reads, and fast: what was queued before, then why it must go.
        sockopt::set_socket_recv_buffer_size(&slow.stream, 8 << 20).unwrap();
        assert!(slow.head().contains(ACCEPT));
        assert_eq!(slow.expect_close().0, 1013);
        let timer = daemon.timer(&id);
        assert_eq!(timer["connected_clients"], 3);
        assert_eq!(timer["duration_seconds"], 60 + sent);
        done.store(sent, std::sync::atomic::Ordering::Release);
        assert_eq!(daemon.control(&id, "stop").status, 200);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
        assert_eq!(slow_clients(), 1);
    });
}

#[test]
fn on_shutdown_every_client_is_sent_away_with_1012_within_a_second() {
    let daemon = Daemon::ephemeral(&["--clients-per-timer", "300"]);
    let id = daemon.create(json!({ "duration_seconds": 60, "auto_start": true }));
    let mut sockets: Vec<Socket> = (0..300).map(|_| daemon.join(&id).0).collect();
    // One that has not finished a message, and one in the middle of a handshake.
    let mut half = Wire::open(&daemon, &format!("/ws/{id}"));
    half.stream.write_all(&frame(TEXT, b"{\"type\":\"ping\"}")[..7]).unwrap();
    let mut opening = Wire::connect(&daemon);
    opening.stream.write_all(b"GET /ws/x HTTP/1.1\r\nHost: x\r\n").unwrap();
    // They take leave as browsers do, all of them while the daemon ends.
    let (status, took) = std::thread::scope(|scope| {
        let leaving = scope.spawn(move || sockets.iter_mut().map(Socket::expect_close).collect::<Vec<_>>());
        let ended = daemon.terminate();
        for (code, reason, _) in leaving.join().unwrap() {
            assert_eq!(code, 1012, "{reason}");
        }
        ended
    });
    assert_eq!(status.code(), Some(0));
    assert!(took < Duration::from_secs(3), "{took:?}");
}
