//! `GET /timers/{id}/stream`, seen from outside: the messages of the WebSocket as server-sent events, word for word,
//! on a plain HTTP answer that ends with its connection; who may listen, who counts, and how every stream ends.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::daemon::{Daemon, Http, PATIENCE, assert_safe, directory, eventually, request_bytes};
use rustix::net::sockopt;
use serde_json::{Value, json};

/// One event, as a browser's EventSource would take it.
#[derive(Debug)]
struct Event {
    id: u64,
    retry: Option<u64>,
    data: String,
}

impl Event {
    fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|error| panic!("{error}: {}", self.data))
    }

    fn kind(&self) -> String {
        self.json()["type"].as_str().unwrap().to_owned()
    }
}

/// A stream that reads bytes as they are.
struct Stream {
    stream: TcpStream,
    buffer: Vec<u8>,
    head: String,
}

impl Stream {
    /// Asks for a stream and reads the head of the answer, whatever it says.
    fn ask(stream: TcpStream, request: &[u8]) -> Stream {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut stream = Stream { stream, buffer: Vec::new(), head: String::new() };
        stream.stream.write_all(request).unwrap();
        let head = stream.until(b"\r\n\r\n").expect("closed instead of an answer");
        stream.head = String::from_utf8(head).unwrap();
        stream
    }

    /// Opens the stream of a timer.
    #[track_caller]
    fn open(daemon: &Daemon, id: &str, headers: &[(&str, &str)]) -> Stream {
        let path = format!("/timers/{id}/stream");
        let request = request_bytes("GET", &path, headers, None);
        let stream = Stream::ask(TcpStream::connect(daemon.address).unwrap(), &request);
        assert!(stream.head.starts_with("HTTP/1.1 200 "), "{}", stream.head);
        stream
    }

    /// The same, with the greeting.
    #[track_caller]
    fn join(daemon: &Daemon, id: &str) -> (Stream, Event) {
        let mut stream = Stream::open(daemon, id, &[]);
        let greeting = stream.event();
        assert_eq!(greeting.kind(), "connected", "{greeting:?}");
        (stream, greeting)
    }

    fn header(&self, name: &str) -> Option<&str> {
        let of = |line: &'_ str| line.split_once(": ").is_some_and(|(known, _)| known.eq_ignore_ascii_case(name));
        self.head.lines().find(|line| of(line)).map(|line| line.split_once(": ").unwrap().1)
    }

    /// Everything up to and with `end`; nothing when the connection ends first, with nothing before it.
    #[track_caller]
    fn until(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.buffer.windows(end.len()).position(|bytes| bytes == end) {
                return Some(self.buffer.drain(..at + end.len()).collect());
            }
            let mut chunk = [0; 65_536];
            match self.stream.read(&mut chunk) {
                Ok(0) => {
                    assert!(self.buffer.is_empty(), "half an event: {}", String::from_utf8_lossy(&self.buffer));
                    return None;
                }
                Ok(n) => self.buffer.extend_from_slice(&chunk[..n]),
                Err(error) => panic!("nothing comes: {error}"),
            }
        }
    }

    /// The next event, which must have an id, data in one line, and nothing that is not in the contract.
    #[track_caller]
    fn event(&mut self) -> Event {
        self.event_or_end().expect("the stream has ended")
    }

    #[track_caller]
    fn event_or_end(&mut self) -> Option<Event> {
        let block = String::from_utf8(self.until(b"\n\n")?).unwrap();
        assert!(!block.contains('\r'), "{block:?}");
        let mut lines = block.trim_end_matches('\n').split('\n');
        let mut line = lines.next();
        let mut retry = None;
        if let Some(ms) = line.and_then(|line| line.strip_prefix("retry: ")) {
            retry = Some(ms.parse().unwrap());
            line = lines.next();
        }
        let id = line.and_then(|line| line.strip_prefix("id: ")).map(|id| id.parse().unwrap());
        let data = if id.is_some() { lines.next() } else { line };
        let data = data.and_then(|line| line.strip_prefix("data: ")).unwrap_or_else(|| panic!("{block:?}"));
        assert_eq!(lines.next(), None, "{block:?}");
        // What is deleted has no revision any more.
        let is_nameless = data == r#"{"type":"timer_deleted"}"#;
        let id = id.unwrap_or_else(|| if is_nameless { 0 } else { panic!("{block:?}") });
        Some(Event { id, retry, data: data.to_owned() })
    }

    /// Nothing comes for so long.
    #[track_caller]
    fn expect_silence(&mut self, span: Duration) {
        assert!(self.buffer.is_empty(), "{}", String::from_utf8_lossy(&self.buffer));
        self.stream.set_read_timeout(Some(span)).unwrap();
        let mut byte = [0];
        let error = self.stream.read(&mut byte).expect_err("not silent");
        assert!(matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut), "{error}");
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
    }
}

fn clients(daemon: &Daemon, id: &str) -> Value {
    daemon.timer(id)["connected_clients"].clone()
}

/// A key of this role, in a keys file.
fn keys(path: &Path, roles: &[&str]) -> (Vec<String>, String) {
    std::fs::create_dir_all(path).unwrap();
    let mut lines = String::new();
    let keys = roles.iter().map(|role| {
        let made = std::process::Command::new(env!("CARGO_BIN_EXE_timerd")).args(["key", "new", role, role]).output();
        let text = String::from_utf8(made.unwrap().stdout).unwrap();
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
        lines.push_str(&format!("{}\n", field("line:")));
        field("key:")
    });
    let keys = keys.collect();
    let file = path.join("keys");
    std::fs::write(&file, lines).unwrap();
    (keys, file.to_str().unwrap().to_owned())
}

// ---------------------------------------------------------------------------------------------------------------
// What is said.

#[test]
fn a_stream_begins_with_a_head_that_any_proxy_can_carry_and_the_full_state() {
    let daemon = Daemon::ephemeral(&[]);
    let id = daemon.create(json!({ "duration_seconds": 60, "name": "Quiz\r\n\n \u{2028}data: x" }));
    let path = format!("/timers/{id}/stream");
    let mut retries = Vec::new();
    for (path, headers) in [
        (path.clone(), &[][..]),
        (format!("{path}/"), &[]),
        (format!("{path}?unknown=1"), &[("Accept", "text/event-stream"), ("Cache-Control", "no-cache")]),
        (path.clone(), &[("Last-Event-ID", "7")]),
        (path.clone(), &[("Last-Event-ID", "\"nonsense\""), ("Accept", "*/*"), ("Connection", "keep-alive")]),
        (path.clone(), &[("Origin", "https://any.example")]),
        (path, &[("Accept-Encoding", "gzip, br"), ("If-None-Match", "\"1\""), ("Range", "bytes=0-1")]),
    ] {
        let request = request_bytes("GET", &path, headers, None);
        let mut stream = Stream::ask(TcpStream::connect(daemon.address).unwrap(), &request);
        assert!(stream.head.starts_with("HTTP/1.1 200 "), "{path}: {}", stream.head);
        for (name, value) in [
            ("content-type", "text/event-stream"),
            ("cache-control", "no-store"),
            ("x-accel-buffering", "no"),
            ("connection", "close"),
            ("x-content-type-options", "nosniff"),
            ("content-security-policy", "default-src 'self'"),
        ] {
            assert_eq!(stream.header(name), Some(value), "{name}: {}", stream.head);
        }
        for name in ["content-length", "transfer-encoding", "content-encoding", "etag"] {
            assert_eq!(stream.header(name), None, "{}", stream.head);
        }
        if headers.contains(&("Origin", "https://any.example")) {
            assert_eq!(stream.header("access-control-allow-origin"), Some("*"), "{}", stream.head);
        }
        let greeting = stream.event();
        let retry = greeting.retry.expect("the first event says when to come back");
        assert!((1000..=5000).contains(&retry), "{retry}");
        retries.push(retry);
        assert_eq!(greeting.id, 1);
        let message = greeting.json();
        assert!(message["server_time_ms"].is_i64());
        let fields: Vec<&String> = message.as_object().unwrap().keys().collect();
        assert_eq!(fields, ["type", "timer", "server_time_ms"]);
        assert_eq!((&message["type"], &message["timer"]["id"]), (&json!("connected"), &json!(id)));
        assert_eq!(message["timer"]["name"], "Quiz\r\n\n \u{2028}data: x");
        assert_eq!(message["timer"]["connected_clients"], 1, "a newcomer counts itself");
        assert_eq!(greeting.data, message.to_string(), "compact, in one line");
        stream.expect_silence(Duration::from_millis(20));
        drop(stream);
        eventually(|| clients(&daemon, &id) == 0);
    }
    retries.dedup();
    assert!(retries.len() > 1, "not all at the same time: {retries:?}");
}

#[test]
fn every_message_of_the_websocket_is_an_event_word_for_word_with_the_revision_as_its_id() {
    let daemon = Daemon::ephemeral(&[]);
    let id = daemon.create(json!({ "duration_seconds": 100, "warning_thresholds": [2, 1] }));
    let (mut stream, greeting) = Stream::join(&daemon, &id);
    let (mut socket, connected) = daemon.join(&id);
    for message in [greeting.json(), connected] {
        let mut timer = message["timer"].clone();
        timer["connected_clients"] = json!(2);
        assert_eq!(timer, daemon.timer(&id), "the same object, but for those who came since");
    }
    let mut revision = 1;
    let mut same = |stream: &mut Stream, kind: &str| {
        let event = stream.event();
        assert_eq!(event.data, socket.recv_text());
        assert_eq!((event.kind(), event.retry), (kind.to_owned(), None));
        event
    };
    for (action, kind) in [
        ("start", "timer_started"),
        ("extend", "timer_extended"),
        ("pause", "timer_paused"),
        ("extend", "timer_extended"),
        ("resume", "timer_started"),
        ("stop", "timer_stopped"),
    ] {
        let response = if action == "extend" { daemon.extend(&id, 20) } else { daemon.control(&id, action) };
        revision += 1;
        assert_eq!(response.json()["revision"], revision);
        assert_eq!(same(&mut stream, kind).id, revision);
        assert_eq!(Stream::join(&daemon, &id).1.id, revision, "a greeting has the revision of its state");
    }
    assert_eq!(daemon.control(&id, "start").status, 400, "a refusal is announced to nobody");
    assert_eq!(daemon.delete(&format!("/timers/{id}")).status, 204);
    same(&mut stream, "timer_deleted");
    assert!(stream.event_or_end().is_none(), "and that is the end");
    assert_eq!(socket.expect_close().0, 4000);

    // A whole life, with its ticks.
    let daemon = Daemon::ephemeral(&["--second-ms", "200"]);
    let id = daemon.create(json!({ "duration_seconds": 3, "warning_thresholds": [2, 1] }));
    let (mut stream, _) = Stream::join(&daemon, &id);
    let (mut socket, _) = daemon.join(&id);
    assert_eq!(daemon.control(&id, "start").status, 200);
    let life = ["started", "warning", "tick", "warning", "tick", "tick", "expired"];
    for (n, kind) in life.into_iter().enumerate() {
        let event = stream.event();
        assert_eq!(event.data, socket.recv_text());
        assert_eq!(event.kind(), format!("timer_{kind}"));
        // The last tick and the end of which it is the sign are one instant.
        let ids = if n == 6 { 3..=3 } else { 2..=(if n == 5 { 3 } else { 2 }) };
        assert!(ids.contains(&event.id), "{event:?}");
    }
    assert_eq!(daemon.timer(&id)["revision"], 3);
    stream.expect_silence(Duration::from_millis(100));
    assert_eq!(Stream::join(&daemon, &id).1.json()["timer"]["state"], "expired");
}

#[test]
fn ticks_come_on_the_grid_of_the_timer_and_bulk_calls_as_single_ones_do() {
    let daemon = Daemon::ephemeral(&["--second-ms", "200"]);
    let ids: Vec<String> = (0..3).map(|_| daemon.create(json!({ "duration_seconds": 5 }))).collect();
    let mut streams: Vec<Stream> = ids.iter().map(|id| Stream::join(&daemon, id).0).collect();
    let begun = Instant::now();
    assert_eq!(daemon.post("/timers/bulk/start", json!({ "timer_ids": ids })).status, 200);
    for stream in &mut streams {
        assert_eq!(stream.event().kind(), "timer_started");
    }
    for left in (0..5).rev() {
        for stream in &mut streams {
            let event = stream.event();
            assert_eq!(
                event.data,
                format!(r#"{{"type":"timer_tick","remaining_seconds":{left},"elapsed_seconds":{}}}"#, 5 - left)
            );
        }
        let due = Duration::from_millis(200 * (5 - left));
        assert!(begun.elapsed() >= due, "{:?}", begun.elapsed());
        assert!(begun.elapsed() < due + Duration::from_millis(900), "{:?}", begun.elapsed());
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Who may listen, and who counts.

#[test]
fn a_stream_is_a_client_of_its_timer_and_over_the_limit_it_is_429() {
    let (_kept, path) = directory();
    let (keys, file) = keys(&path, &["viewer", "instructor", "admin"]);
    let [viewer, instructor, admin] = &keys[..] else { panic!("three keys") };
    let daemon = Daemon::ephemeral(&["--clients-per-timer", "3", "--keys-file", &file]);
    let [id, other] = [(); 2].map(|()| daemon.create(json!({ "duration_seconds": 60 })));
    let (first, greeting) = Stream::join(&daemon, &id);
    assert_eq!(greeting.json()["timer"]["connected_clients"], 1);
    let (_socket, _) = daemon.join(&id);
    let mut third = Stream::open(&daemon, &id, &[("X-API-Key", viewer)]);
    assert_eq!(third.event().json()["timer"]["connected_clients"], 3);
    for headers in [&[][..], &[("X-API-Key", &**viewer)]] {
        let response = daemon.request("GET", &format!("/timers/{id}/stream"), headers, None);
        assert_eq!((response.status, response.detail()), (429, "Too many connections".to_owned()));
        assert!(response.header("retry-after").unwrap().parse::<u32>().unwrap() >= 1);
        assert_safe(&response);
    }
    assert_eq!(daemon.open(&format!("/ws/{id}"), &[]).expect_close().0, 4029, "places are the same places");
    Stream::join(&daemon, &other);
    // Whoever controls the clock takes no place.
    let mut outside = vec![Stream::open(&daemon, &id, &[("X-API-Key", instructor)])];
    let request = request_bytes("GET", &format!("/timers/{id}/stream?api_key={admin}"), &[], None);
    outside.push(Stream::ask(TcpStream::connect(daemon.address).unwrap(), &request));
    for stream in &mut outside {
        assert_eq!(stream.event().json()["timer"]["connected_clients"], 3);
    }
    // A place is free when its client has gone, however it went.
    drop(first);
    eventually(|| clients(&daemon, &id) == 2);
    sockopt::set_socket_linger(&third.stream, Some(Duration::ZERO)).unwrap();
    drop(third);
    eventually(|| clients(&daemon, &id) == 1);
    let (mut again, _) = Stream::join(&daemon, &id);
    assert_eq!(clients(&daemon, &id), 2);
    assert_eq!(daemon.control(&id, "start").status, 200);
    for stream in outside.iter_mut().chain([&mut again]) {
        assert_eq!(stream.event().kind(), "timer_started");
    }
}

#[test]
fn with_keys_on_a_viewers_key_opens_it_in_the_address_too_and_none_does_not() {
    let (_kept, path) = directory();
    let (keys, file) = keys(&path, &["viewer", "instructor"]);
    let daemon = Daemon::ephemeral(&["--require-auth", "--keys-file", &file]);
    let headers = [("X-API-Key", &*keys[1]), ("Content-Type", "application/json")];
    let created = daemon.request("POST", "/timers", &headers, Some(r#"{"duration_seconds":60}"#));
    let id = created.json()["id"].as_str().unwrap().to_owned();
    let path = format!("/timers/{id}/stream");
    for (path, headers) in [
        (path.clone(), &[][..]),
        (format!("{path}?api_key="), &[]),
        (format!("{path}?api_key=wrong"), &[]),
        (path.clone(), &[("X-API-Key", "wrong")]),
        ("/timers/timer_none/stream".to_owned(), &[]),
    ] {
        let response = daemon.request("GET", &path, headers, None);
        assert_eq!((response.status, response.detail()), (401, "Invalid or missing API key".to_owned()), "{path}");
    }
    let bearer = format!("Bearer {}", keys[0]);
    for (path, headers) in [
        (format!("{path}?api_key={}", keys[0]), &[][..]),
        (format!("{path}?x=1&api_key={}", keys[1]), &[]),
        (path.clone(), &[("X-API-Key", &*keys[0])]),
        (path.clone(), &[("Authorization", &*bearer)]),
    ] {
        let request = request_bytes("GET", &path, headers, None);
        let mut stream = Stream::ask(TcpStream::connect(daemon.address).unwrap(), &request);
        assert!(stream.head.starts_with("HTTP/1.1 200 "), "{path}: {}", stream.head);
        assert_eq!(stream.event().kind(), "connected");
    }
    let log = daemon.log();
    assert!(keys.iter().all(|key| !log.contains(key.as_str())), "a key is written nowhere");
}

#[test]
fn what_is_no_stream_gets_a_plain_answer() {
    let daemon = Daemon::ephemeral(&[]);
    let id = daemon.create(json!({ "duration_seconds": 60 }));
    let path = format!("/timers/{id}/stream");
    for unknown in ["timer_none", "x", "%00"] {
        let response = daemon.get(&format!("/timers/{unknown}/stream"));
        assert_eq!((response.status, response.text()), (404, r#"{"detail":"Timer not found"}"#), "{unknown}");
        assert_safe(&response);
    }
    for method in ["POST", "PUT", "DELETE"] {
        let response = daemon.request(method, &path, &[], None);
        assert_eq!(response.status, 405, "{method}");
        let allow = response.header("allow").unwrap();
        assert!(allow.contains("GET") && allow.contains("HEAD"), "{allow}");
    }
    for (id, status) in [(&*id, 200), ("timer_none", 404)] {
        let head = daemon.request("HEAD", &format!("/timers/{id}/stream"), &[], None);
        assert_eq!((head.status, head.body.len()), (status, 0));
        if status == 200 {
            assert_eq!(head.header("content-type"), Some("text/event-stream"));
            assert_eq!(head.header("cache-control"), Some("no-store"));
        }
    }
    assert_eq!(clients(&daemon, &id), 0, "the head alone is no client");
    // The answers before it on its connection come first, and what comes after it is no request any more.
    let pieces = [
        request_bytes("GET", "/timers/none", &[], None),
        request_bytes("GET", &path, &[], None),
        request_bytes("GET", "/timers/none", &[], None),
    ];
    let mut stream = Stream::ask(TcpStream::connect(daemon.address).unwrap(), &pieces.concat());
    assert!(stream.head.starts_with("HTTP/1.1 404 "), "{}", stream.head);
    let text = String::from_utf8(stream.until(b"\n\n").unwrap()).unwrap();
    assert!(text.contains("text/event-stream") && text.contains("connected"), "{text}");
    stream.expect_silence(Duration::from_millis(50));
    assert_eq!(clients(&daemon, &id), 1);
}

#[test]
fn a_proxy_that_speaks_http_1_0_can_carry_it() {
    let daemon = Daemon::ephemeral(&[]);
    let id = daemon.create(json!({ "duration_seconds": 60 }));
    for request in [
        format!("GET /timers/{id}/stream HTTP/1.0\r\n\r\n"),
        format!("GET /timers/{id}/stream HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\n\r\n"),
    ] {
        let mut stream = Stream::ask(TcpStream::connect(daemon.address).unwrap(), request.as_bytes());
        assert!(stream.head.contains(" 200 "), "{}", stream.head);
        assert_eq!((stream.header("transfer-encoding"), stream.header("content-length")), (None, None));
        assert_eq!(stream.header("connection"), Some("close"));
        assert_eq!(stream.event().kind(), "connected");
        assert_eq!(daemon.extend(&id, 10).status, 200);
        assert_eq!(stream.event().kind(), "timer_extended");
    }
    assert_eq!(daemon.delete(&format!("/timers/{id}")).status, 204);
}

/// Whatever a client says on a stream, it is told the time and nobody else notices.
#[test]
fn what_a_listener_says_is_not_heard() {
    let daemon = Daemon::ephemeral(&[]);
    let id = daemon.create(json!({ "duration_seconds": 60 }));
    let (mut loud, _) = Stream::join(&daemon, &id);
    let (mut quiet, _) = Stream::join(&daemon, &id);
    // It may be cut for it, or what it says may wait: it is not answered.
    loud.stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let noise = vec![b'x'; 1 << 20];
    let _ = loud.stream.write_all(&noise);
    assert_eq!(daemon.control(&id, "start").status, 200);
    assert_eq!(quiet.event().kind(), "timer_started");
    let mut said = Vec::new();
    loud.stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut chunk = [0; 4096];
    while let Ok(n @ 1..) = loud.stream.read(&mut chunk) {
        said.extend_from_slice(&chunk[..n]);
    }
    let said = String::from_utf8(said).unwrap();
    assert!(!said.contains("HTTP/1.1"), "{said}");
    assert_eq!(daemon.get("/health").status, 200);
}

// ---------------------------------------------------------------------------------------------------------------
// Ends.

#[test]
fn a_full_server_says_503_and_a_shutdown_ends_a_stream_without_a_word() {
    let daemon = Daemon::ephemeral(&["--max-connections", "3"]);
    let id = daemon.create(json!({ "duration_seconds": 60 }));
    let mut streams: Vec<Stream> = Vec::new();
    let request = request_bytes("GET", &format!("/timers/{id}/stream"), &[], None);
    eventually(|| {
        // The connection before may not be gone yet.
        let stream = Stream::ask(TcpStream::connect(daemon.address).unwrap(), &request);
        if stream.head.starts_with("HTTP/1.1 200 ") {
            streams.push(stream);
        }
        streams.len() == 3
    });
    let mut full = Http::connect(daemon.address);
    full.send(&request);
    let response = full.response();
    assert_eq!(response.status, 503, "{}", response.text());
    assert!(response.header("retry-after").unwrap().parse::<u32>().unwrap() >= 1);
    for stream in &mut streams {
        assert_eq!(stream.event().kind(), "connected");
    }
    let ended = std::thread::spawn(move || daemon.terminate());
    for stream in &mut streams {
        assert!(stream.event_or_end().is_none());
    }
    let (status, took) = ended.join().unwrap();
    assert_eq!(status.code(), Some(0));
    assert!(took < Duration::from_secs(3), "{took:?}");
}

#[test]
fn after_a_restart_a_stream_begins_again_with_the_same_clock() {
    let (_kept, path) = directory();
    let daemon = Daemon::on(&path, &[]);
    let id = daemon.create(json!({ "duration_seconds": 600, "auto_start": true }));
    let (mut stream, greeting) = Stream::join(&daemon, &id);
    let tick = stream.event();
    assert_eq!((tick.kind(), tick.id), ("timer_tick".to_owned(), greeting.id));
    daemon.kill();
    assert!(stream.event_or_end().is_none());
    let daemon = Daemon::on(&path, &[]);
    let mut stream = Stream::open(&daemon, &id, &[("Last-Event-ID", &tick.id.to_string())]);
    let again = stream.event();
    assert_eq!((again.id, again.kind()), (greeting.id, "connected".to_owned()));
    let ends_at = |event: &Event| event.json()["timer"]["ends_at"].clone();
    assert_eq!(ends_at(&again), ends_at(&greeting));
    assert_eq!(again.json()["timer"]["connected_clients"], 1);
    assert_eq!(stream.event().kind(), "timer_tick");
}

#[test]
fn a_listener_that_hangs_up_is_gone() {
    let daemon = Daemon::ephemeral(&[]);
    let id = daemon.create(json!({ "duration_seconds": 60 }));
    let (stream, _) = Stream::join(&daemon, &id);
    assert_eq!(clients(&daemon, &id), 1);
    drop(stream);
    eventually(|| clients(&daemon, &id) == 0);
    let (stream, _) = Stream::join(&daemon, &id);
    stream.stream.shutdown(Shutdown::Both).unwrap();
    eventually(|| clients(&daemon, &id) == 0);
}

#[test]
fn a_listener_that_does_not_read_is_cut_and_the_others_miss_nothing() {
    let daemon = Daemon::ephemeral(&[]);
    let id = daemon.create(json!({ "duration_seconds": 60, "warning_thresholds": [] }));
    let mut slow = daemon.narrow_stream();
    slow.set_read_timeout(Some(PATIENCE)).unwrap();
    slow.write_all(&request_bytes("GET", &format!("/timers/{id}/stream"), &[], None)).unwrap();
    eventually(|| clients(&daemon, &id) == 1);
    let (mut other, _) = Stream::join(&daemon, &id);
    assert_eq!(daemon.control(&id, "start").status, 200);
    let slow_clients = || {
        let text = daemon.get("/metrics").text().to_owned();
        let line = text.lines().find(|line| line.contains("slow_clients_total ")).unwrap();
        line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
    };
    let expected = AtomicU64::new(u64::MAX);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut extended, mut last) = (0, 0);
            let begun = Instant::now();
            loop {
                // When the test has failed, nobody else ends this.
                assert!(begun.elapsed() < 6 * PATIENCE, "the timer is never stopped");
                let event = other.event();
                assert!(event.id >= last, "{event:?} after {last}");
                last = event.id;
                match &*event.kind() {
                    "timer_extended" => extended += 1,
                    "timer_stopped" => {
                        assert_eq!(extended, expected.load(Ordering::Acquire));
                        return;
                    }
                    "timer_started" | "timer_tick" => {}
                    other => panic!("{other}"),
                }
            }
        });
        let mut http = daemon.connect();
        let body = json!({ "timer_ids": vec![&id; 100], "seconds": 1 }).to_string();
        let mut sent = 0;
        while slow_clients() == 0 {
            assert!(sent < 100_000, "the slow listener is never shed");
            let response =
                http.request("POST", "/timers/bulk/extend", &[("Content-Type", "application/json")], Some(&body));
            assert!(!response.text().contains("false"), "{}", response.text());
            sent += 100;
        }
        // Now it reads, and fast: what was queued before, whole events all, and then the end.
        sockopt::set_socket_recv_buffer_size(&slow, 8 << 20).unwrap();
        let mut all = Vec::new();
        let end = slow.read_to_end(&mut all);
        assert!(end.is_ok() || end.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset));
        let text = String::from_utf8_lossy(&all);
        let (head, events) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        let heard = events.matches("\n\n").count();
        assert!(heard < usize::try_from(sent).unwrap(), "{heard} of {sent}");
        assert_eq!(clients(&daemon, &id), 1);
        expected.store(sent, Ordering::Release);
        assert_eq!(daemon.control(&id, "stop").status, 200);
        reader.join().unwrap();
        assert_eq!(slow_clients(), 1);
    });
}

#[test]
fn streams_and_sockets_hear_of_a_deletion_each_in_its_way_and_others_go_on() {
    let daemon = Daemon::ephemeral(&[]);
    let [gone, stays] = [(); 2].map(|()| daemon.create(json!({ "duration_seconds": 60 })));
    let mut streams: Vec<Stream> = (0..5).map(|_| Stream::join(&daemon, &gone).0).collect();
    let (mut other, _) = Stream::join(&daemon, &stays);
    assert_eq!(daemon.post("/timers/bulk/delete", json!({ "timer_ids": [gone] })).status, 200);
    for stream in &mut streams {
        assert_eq!(stream.event().data, r#"{"type":"timer_deleted"}"#);
        assert!(stream.event_or_end().is_none());
    }
    assert_eq!(daemon.get(&format!("/timers/{gone}/stream")).status, 404);
    assert_eq!(daemon.control(&stays, "start").status, 200);
    assert_eq!(other.event().kind(), "timer_started");
}
