//! A real daemon for black-box tests: the built binary as a child process on a port of its own, real sockets, and
//! small blocking clients that see bytes as they are.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::ioctl_fionbio;
use rustix::net::{AddressFamily, SocketType, connect, socket, sockopt};
use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Error, Message, WebSocket};

/// How long anything may take that should be immediate, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A running daemon. Dropping it kills it.
pub struct Daemon {
    pub address: SocketAddr,
    said: Arc<Mutex<Said>>,
    child: Child,
}

/// What a daemon says. Whoever asks for it takes what is in the pipe first, so that a line which was written before an
/// answer is there when the answer is.
struct Said {
    pipe: ChildStderr,
    bytes: Vec<u8>,
    has_ended: bool,
}

impl Said {
    fn new(pipe: ChildStderr) -> Said {
        ioctl_fionbio(&pipe, true).unwrap();
        Said { pipe, bytes: Vec::new(), has_ended: false }
    }

    fn take(&mut self) {
        match self.pipe.read_to_end(&mut self.bytes) {
            Ok(_) => self.has_ended = true,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// Takes what comes as long as the daemon lives: it would wait for a full pipe.
    fn follow(said: &Mutex<Said>) {
        let pipe = said.lock().unwrap().pipe.as_fd().try_clone_to_owned().unwrap();
        loop {
            let _ = poll(&mut [PollFd::new(&pipe, PollFlags::IN)], None);
            let mut said = said.lock().unwrap();
            said.take();
            if said.has_ended {
                break;
            }
        }
    }
}

impl Daemon {
    /// A daemon that keeps nothing, with further flags.
    pub fn ephemeral(flags: &[&str]) -> Daemon {
        let all: Vec<&str> = ["--ephemeral"].iter().chain(flags).copied().collect();
        Daemon::start(&all, &[])
    }

    /// A daemon on a data directory.
    pub fn on(directory: &Path, flags: &[&str]) -> Daemon {
        let all: Vec<&str> = ["--data-dir", directory.to_str().unwrap()].iter().chain(flags).copied().collect();
        Daemon::start(&all, &[])
    }

    /// A daemon with exactly these flags (beside a free port of 127.0.0.1, unless they say `--listen`) and variables.
    pub fn start(flags: &[&str], variables: &[(&str, &str)]) -> Daemon {
        Daemon::try_start(flags, variables).unwrap_or_else(|(status, text)| panic!("{status}: {text}"))
    }

    /// The same, or how it ended and what it said.
    pub fn try_start(flags: &[&str], variables: &[(&str, &str)]) -> Result<Daemon, (ExitStatus, String)> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_timerd"));
        if !flags.contains(&"--listen") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        command.args(flags).env_clear().envs(variables.iter().copied());
        Daemon::spawn(command)
    }

    /// Runs a prepared command until it says where it listens.
    pub fn spawn(mut command: Command) -> Result<Daemon, (ExitStatus, String)> {
        command.stdin(Stdio::null());
        Daemon::spawn_with_input(command)
    }

    /// The same, with the standard input that the command was given.
    pub fn spawn_with_input(mut command: Command) -> Result<Daemon, (ExitStatus, String)> {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let said = Arc::new(Mutex::new(Said::new(child.stderr.take().unwrap())));
        let copy = Arc::clone(&said);
        std::thread::spawn(move || Said::follow(&copy));
        let address = loop {
            let (text, has_ended) = {
                let mut now = said.lock().unwrap();
                now.take();
                (now.text(), now.has_ended)
            };
            let mut lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            if let Some((_, rest)) = lines.find_map(|line| line.split_once("listens on http://")) {
                break rest.split([',', ' ']).next().unwrap().parse().unwrap();
            }
            if has_ended {
                return Err((child.wait().unwrap(), text));
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        Ok(Daemon { address, said, child })
    }

    /// What it has said until now.
    pub fn log(&self) -> String {
        let mut said = self.said.lock().unwrap();
        said.take();
        said.text()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// kill -9, and waits for the end.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn signal(&self, name: &str) {
        assert!(
            Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status().unwrap().success()
        );
    }

    /// Whether it has ended, by whatever.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// SIGTERM, and waits for the end.
    pub fn terminate(mut self) -> (ExitStatus, Duration) {
        let begun = Instant::now();
        self.signal("TERM");
        (self.child.wait().unwrap(), begun.elapsed())
    }

    /// Waits until the log has a line with `text`.
    pub fn wait_for_log(&self, text: &str) {
        eventually(|| self.log().contains(text));
    }

    // ---- requests ------------------------------------------------------------------------------------------

    pub fn connect(&self) -> Http {
        Http::connect(self.address)
    }

    /// One request on a connection of its own.
    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&str>) -> Response {
        self.connect().request(method, path, headers, body)
    }

    pub fn get(&self, path: &str) -> Response {
        self.request("GET", path, &[], None)
    }

    pub fn post(&self, path: &str, body: Value) -> Response {
        self.request("POST", path, &[("Content-Type", "application/json")], Some(&body.to_string()))
    }

    pub fn put(&self, path: &str, body: Value) -> Response {
        self.request("PUT", path, &[("Content-Type", "application/json")], Some(&body.to_string()))
    }

    pub fn delete(&self, path: &str) -> Response {
        self.request("DELETE", path, &[], None)
    }

    /// Creates a timer from `body`; returns its id.
    pub fn create(&self, body: Value) -> String {
        let response = self.post("/timers", body);
        assert_eq!(response.status, 201, "{}", response.text());
        response.json()["id"].as_str().unwrap().to_owned()
    }

    pub fn control(&self, id: &str, action: &str) -> Response {
        self.post(&format!("/timers/{id}/control"), json!({ "action": action }))
    }

    pub fn extend(&self, id: &str, seconds: u32) -> Response {
        self.post(&format!("/timers/{id}/control"), json!({ "action": "extend", "extend_seconds": seconds }))
    }

    /// The timer object, which must be there.
    pub fn timer(&self, id: &str) -> Value {
        let response = self.get(&format!("/timers/{id}"));
        assert_eq!(response.status, 200, "{}", response.text());
        response.json()
    }

    /// A timer in `state`, lasting a minute.
    pub fn timer_in(&self, state: &str) -> String {
        let id = self.create(json!({ "duration_seconds": if state == "expired" { 1 } else { 60 } }));
        let steps: &[&str] = match state {
            "created" => &[],
            "running" | "expired" => &["start"],
            "paused" => &["start", "pause"],
            "completed" => &["stop"],
            other => panic!("no state {other}"),
        };
        for step in steps {
            assert_eq!(self.control(&id, step).status, 200);
        }
        eventually(|| self.timer(&id)["state"] == state);
        id
    }

    // ---- events --------------------------------------------------------------------------------------------

    /// Publishes an event; returns it.
    #[track_caller]
    pub fn publish(&self, body: Value) -> Value {
        let response = self.post("/events", body);
        assert_eq!(response.status, 201, "{}", response.text());
        response.json()
    }

    /// What `GET /events` lists for a query, which begins with `?` or is empty.
    #[track_caller]
    pub fn events(&self, query: &str) -> Vec<Value> {
        let response = self.get(&format!("/events{query}"));
        assert_eq!(response.status, 200, "{query}: {}", response.text());
        response.json().as_array().unwrap().clone()
    }

    /// Opens `/ws/subscribe` with this configuration and reads the confirmation.
    #[track_caller]
    pub fn subscribe(&self, configuration: Value) -> (Socket, Value) {
        let mut socket = self.open("/ws/subscribe", &[]);
        socket.send(configuration);
        let confirmation = socket.recv();
        assert_eq!(confirmation["status"], "subscribed", "{confirmation}");
        (socket, confirmation)
    }

    // ---- sockets -------------------------------------------------------------------------------------------

    /// Opens `/ws/{id}` and reads the greeting.
    pub fn join(&self, id: &str) -> (Socket, Value) {
        let mut socket = self.open(&format!("/ws/{id}"), &[]);
        let greeting = socket.recv();
        assert_eq!(greeting["type"], "connected", "{greeting}");
        (socket, greeting)
    }

    /// Opens a WebSocket.
    pub fn open(&self, path: &str, headers: &[(&'static str, &str)]) -> Socket {
        self.try_open(path, headers).unwrap()
    }

    /// Opens a WebSocket, or fails as the handshake does.
    pub fn try_open(&self, path: &str, headers: &[(&'static str, &str)]) -> Result<Socket, Error> {
        Daemon::try_open_at(self.address, path, headers)
    }

    /// The same, whichever daemon is there now.
    pub fn try_open_at(address: SocketAddr, path: &str, headers: &[(&'static str, &str)]) -> Result<Socket, Error> {
        let mut request = format!("ws://{address}{path}").into_client_request()?;
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        Daemon::shake_hands(request, TcpStream::connect(address)?)
    }

    /// Opens a WebSocket for which the kernel keeps little: one that does not read is soon noticed.
    pub fn open_narrow(&self, path: &str) -> Socket {
        let request = format!("ws://{}{path}", self.address).into_client_request().unwrap();
        Daemon::shake_hands(request, self.narrow_stream()).unwrap()
    }

    /// A connection for which the kernel keeps little.
    pub fn narrow_stream(&self) -> TcpStream {
        let stream = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        sockopt::set_socket_recv_buffer_size(&stream, 4096).unwrap();
        connect(&stream, &self.address).unwrap();
        stream.into()
    }

    fn shake_hands(request: tungstenite::handshake::client::Request, stream: TcpStream) -> Result<Socket, Error> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        match tungstenite::client(request, stream) {
            Ok((inner, _)) => Ok(Socket { inner }),
            Err(tungstenite::HandshakeError::Failure(error)) => Err(error),
            Err(tungstenite::HandshakeError::Interrupted(_)) => panic!("the handshake takes too long"),
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A keep-alive connection that sees bytes as they are.
pub struct Http {
    pub stream: TcpStream,
    /// How long it waits before each read: a reader that is slow.
    pub pace: Duration,
    buffer: Vec<u8>,
}

impl Http {
    pub fn connect(address: SocketAddr) -> Http {
        Http::over(TcpStream::connect(address).unwrap())
    }

    /// The same on a connection that was made otherwise.
    pub fn over(stream: TcpStream) -> Http {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Http { stream, pace: Duration::ZERO, buffer: Vec::new() }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    /// A well-formed request and its answer.
    pub fn request(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&str>) -> Response {
        self.send(request_bytes(method, path, headers, body));
        self.response_to(method)
    }

    /// The next answer to a request that was no HEAD.
    pub fn response(&mut self) -> Response {
        self.response_to("GET")
    }

    pub fn response_to(&mut self, method: &str) -> Response {
        self.try_response_to(method).expect("the connection was closed instead of an answer")
    }

    /// The next answer, `None` when the connection ends before it.
    pub fn try_response_to(&mut self, method: &str) -> Option<Response> {
        let end = loop {
            if let Some(at) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            if !self.read_more() {
                assert!(self.buffer.is_empty(), "half an answer: {:?}", String::from_utf8_lossy(&self.buffer));
                return None;
            }
        };
        let head = String::from_utf8(self.buffer.drain(..end).collect()).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: Vec<(String, String)> = lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let is_chunked = headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked");
        if is_chunked && method != "HEAD" {
            return Some(Response { status, headers, body: self.chunks() });
        }
        let length = headers.iter().find(|(name, _)| name == "content-length").map_or(0, |(_, v)| v.parse().unwrap());
        let length = if method == "HEAD" { 0 } else { length };
        while self.buffer.len() < length {
            assert!(self.read_more(), "the body was cut short");
        }
        let body = self.buffer.drain(..length).collect();
        Some(Response { status, headers, body })
    }

    /// A body in chunks (RFC 9112, section 7.1), without extensions and trailers.
    fn chunks(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let line = loop {
                if let Some(at) = self.buffer.windows(2).position(|two| two == b"\r\n") {
                    break self.buffer.drain(..at + 2).collect::<Vec<u8>>();
                }
                assert!(self.read_more(), "the body was cut short");
            };
            let size = std::str::from_utf8(&line).unwrap().trim_end();
            let size = usize::from_str_radix(size, 16).unwrap_or_else(|_| panic!("no size of a chunk: {size:?}"));
            while self.buffer.len() < size + 2 {
                assert!(self.read_more(), "the body was cut short");
            }
            body.extend(self.buffer.drain(..size));
            assert_eq!(self.buffer.drain(..2).collect::<Vec<u8>>(), b"\r\n");
            if size == 0 {
                return body;
            }
        }
    }

    /// The daemon has closed the connection, and nothing more has come.
    pub fn is_closed(&mut self) -> bool {
        self.buffer.is_empty() && !self.read_more()
    }

    fn read_more(&mut self) -> bool {
        let mut chunk = [0; 65536];
        if !self.pace.is_zero() {
            std::thread::sleep(self.pace);
        }
        match self.stream.read(&mut chunk) {
            Ok(0) => false,
            Ok(n) => {
                self.buffer.extend_from_slice(&chunk[..n]);
                true
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => false,
            // A read with a timeout is not taken up again after a signal (signal(7)).
            Err(error) if error.kind() == ErrorKind::Interrupted => self.read_more(),
            Err(error) => panic!("no answer: {error}"),
        }
    }
}

pub fn request_bytes(method: &str, path: &str, headers: &[(&str, &str)], body: Option<&str>) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if let Some(body) = body {
        text.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    text.push_str("\r\n");
    text.push_str(body.unwrap_or(""));
    text.into_bytes()
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub fn detail(&self) -> String {
        self.json()["detail"].as_str().unwrap_or_else(|| panic!("{}", self.text())).to_owned()
    }

    /// A 422 with a fault at `loc`.
    #[track_caller]
    pub fn assert_fault(&self, loc: &[&str]) {
        assert_eq!(self.status, 422, "{}", self.text());
        let detail = self.json()["detail"].clone();
        let at = |fault: &Value| {
            let have = fault["loc"].as_array().unwrap();
            assert!(fault["msg"].is_string() && fault["type"].is_string(), "{fault}");
            loc.iter().zip(have).all(|(want, have)| have == want) && have.len() >= loc.len()
        };
        assert!(detail.as_array().unwrap().iter().any(at), "no fault at {loc:?} in {detail}");
    }
}

/// A WebSocket client.
pub struct Socket {
    pub inner: WebSocket<TcpStream>,
}

impl Socket {
    pub fn send(&mut self, message: Value) {
        self.send_text(&message.to_string());
    }

    pub fn send_text(&mut self, text: &str) {
        self.inner.send(Message::text(text)).unwrap();
    }

    /// A second end of the same connection, to send while the first one reads.
    pub fn sender(&self) -> Socket {
        let stream = self.inner.get_ref().try_clone().unwrap();
        Socket { inner: WebSocket::from_raw_socket(stream, tungstenite::protocol::Role::Client, None) }
    }

    /// The next text as it stands on the wire.
    #[track_caller]
    pub fn recv_text(&mut self) -> String {
        loop {
            match self.inner.read() {
                Ok(Message::Text(text)) => return text.to_string(),
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                Err(Error::Io(error)) if error.kind() == ErrorKind::Interrupted => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// The next JSON message.
    #[track_caller]
    pub fn recv(&mut self) -> Value {
        match self.recv_or_end() {
            Ok(message) => message,
            Err(end) => panic!("{end:?}"),
        }
    }

    /// The next JSON message, or the code and reason of the end; 1006 when there was no close.
    pub fn recv_or_end(&mut self) -> Result<Value, (u16, String)> {
        loop {
            match self.inner.read() {
                Ok(Message::Text(text)) => return Ok(serde_json::from_str(text.as_str()).unwrap()),
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                Ok(Message::Close(Some(frame))) => return Err((frame.code.into(), frame.reason.to_string())),
                Ok(Message::Close(None)) => return Err((1005, String::new())),
                Err(Error::Io(error)) if error.kind() == ErrorKind::Interrupted => {}
                other => return Err((1006, format!("{other:?}"))),
            }
        }
    }

    /// The next message, of this type.
    #[track_caller]
    pub fn expect(&mut self, kind: &str) -> Value {
        let message = self.recv();
        assert_eq!(message["type"], kind, "{message}");
        message
    }

    /// Reads on to a message of this type; returns it.
    pub fn skip_to(&mut self, kind: &str) -> Value {
        let begun = Instant::now();
        loop {
            let message = self.recv();
            if message["type"] == kind {
                return message;
            }
            assert!(begun.elapsed() < 3 * PATIENCE, "no {kind}");
        }
    }

    /// Nothing comes for so long.
    #[track_caller]
    pub fn expect_silence(&mut self, span: Duration) {
        self.inner.get_ref().set_read_timeout(Some(span)).unwrap();
        loop {
            match self.inner.read() {
                Err(Error::Io(error)) if error.kind() == ErrorKind::Interrupted => {}
                Err(Error::Io(error)) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
                other => panic!("not silent: {other:?}"),
            }
        }
        self.inner.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
    }

    /// Reads on to the end; returns the close code, its reason, and what came before. 1006 when there was no close.
    pub fn expect_close(&mut self) -> (u16, String, Vec<Value>) {
        let mut before = Vec::new();
        loop {
            match self.inner.read() {
                Ok(Message::Text(text)) => before.push(serde_json::from_str(text.as_str()).unwrap()),
                Ok(Message::Close(Some(frame))) => {
                    return (CloseCode::into(frame.code), frame.reason.to_string(), before);
                }
                Ok(Message::Close(None)) => return (1005, String::new(), before),
                Ok(_) => {}
                Err(_) => return (1006, String::new(), before),
            }
        }
    }
}

/// Waits until `check` holds.
#[track_caller]
pub fn eventually(mut check: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !check() {
        assert!(begun.elapsed() < PATIENCE, "it never came true");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A directory for a store, removed afterwards.
pub fn directory() -> (tempfile::TempDir, PathBuf) {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("data");
    (temporary, path)
}

const SECURITY_HEADERS: [(&str, &str); 5] = [
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("x-xss-protection", "1; mode=block"),
    ("referrer-policy", "strict-origin-when-cross-origin"),
    ("content-security-policy", "default-src 'self'"),
];

/// Every answer has the contract's security headers, each once.
#[track_caller]
pub fn assert_safe(response: &Response) {
    for (name, value) in SECURITY_HEADERS {
        let values: Vec<&str> =
            response.headers.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect();
        assert_eq!(values, [value], "{name} of {response:?}");
    }
    assert!(response.header("date").is_some() || response.status == 101, "{response:?}");
}

/// A small generator (splitmix64): a test must be able to repeat itself, nothing more.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }

    pub fn below(&mut self, sides: usize) -> usize {
        usize::try_from(self.roll(sides as u64)).unwrap()
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.roll(n) == 0
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}
