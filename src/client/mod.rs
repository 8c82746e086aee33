//! timerd's own clients: `timerd watch`, `timerd events`, `timerd publish`, `timerd exam`.
//!
//! Clients of the daemon, not parts of it: they have a clock, threads and blocking sockets of their own, and share
//! nothing with the daemon but its contract. This file owns what all of them need: where the [`Server`] is, a
//! WebSocket to it that is made within bounds of time, coming back after a loss by chance and not all at one instant,
//! signals, what a terminal shows, and the making harmless of foreign text. It must not know what any of them shows
//! or sends.
//!
//! A client that listens (`Followed`) has a network thread, which connects, listens and reconnects, and tells what
//! it `Heard` over a channel; its main thread keeps a view of it, a pure state machine over messages and elapsed
//! time. Invariants: what the server sends cannot move the cursor or forge a line; the key is in no message; the
//! terminal is left as it was found.

pub mod events;
pub mod exam;
mod http;
pub mod publish;
pub mod watch;

use std::fmt;
use std::io::{self, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tungstenite::client::{ClientRequestBuilder, client_with_config};
use tungstenite::error::ProtocolError;
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{HandshakeError, Message, WebSocket};

/// The most that a lost connection is waited for before the next attempt; the wait is random, so that a hall of
/// clients does not come back at one instant.
const RECONNECT_WAIT_MAX: Duration = Duration::from_secs(5);
/// Time for a connection and for the answer to the upgrade.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// A read ends after this time to look at the silence.
const READ_TIME_MAX: Duration = Duration::from_secs(1);
/// Silence after which the server is asked for a sign of life.
const SILENCE_BEFORE_PING: Duration = Duration::from_secs(10);
/// Silence after which the connection counts as lost.
const SILENCE_MAX: Duration = Duration::from_secs(20);
/// Bytes of a message: the largest, an event with its payload or a timer's `connected`, is far below.
const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// Messages between the network thread and the main one.
const HEARD_MAX: usize = 256;
/// Time between two looks at the screen, the signals and the clock.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Columns of what is drawn on a wide terminal.
const COLUMNS_MAX: usize = 80;
/// What tungstenite calls an end without a close frame.
const CUT_OFF: ProtocolError = ProtocolError::ResetWithoutClosingHandshake;
/// The exit code after Ctrl-C, as shells have it: 128 + SIGINT.
const EXIT_INTERRUPTED: u8 = 130;

// ---------------------------------------------------------------------------------------------------------------
// The server.

/// The server, and who asks.
#[derive(clap::Args, Clone)]
pub struct Server {
    /// The server: http://HOST:PORT, with the path that it lies below, if there is one
    #[arg(long, default_value = "http://127.0.0.1:8003", value_parser = Endpoint::from_str)]
    pub url: Endpoint,
    /// The key to present, where the server asks for one
    #[arg(long, env = "TIMERD_KEY", hide_env_values = true, value_parser = key)]
    pub key: Option<String>,
}

impl fmt::Debug for Server {
    /// Leaves the key out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.url)
    }
}

/// Where the server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Name or address, without the brackets of IPv6.
    host: String,
    port: u16,
    /// The path before `/ws`, without a slash at its end.
    prefix: String,
}

impl FromStr for Endpoint {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Endpoint, Self::Err> {
        const ALLOWED: &str = "must be http://HOST:PORT";
        if text.starts_with("https://") {
            return Err("must be http://HOST:PORT, for TLS is not spoken here");
        }
        let rest = text.strip_prefix("http://").ok_or(ALLOWED)?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (host, port) = match authority.strip_prefix('[') {
            Some(bracketed) => bracketed.split_once(']').ok_or(ALLOWED)?,
            None => authority.find(':').map_or((authority, ""), |colon| authority.split_at(colon)),
        };
        let port = match port.strip_prefix(':') {
            Some(digits) => digits.parse().ok().filter(|port| *port > 0).ok_or(ALLOWED)?,
            None if port.is_empty() => 80,
            None => return Err(ALLOWED),
        };
        let known = |c: char| c.is_ascii_graphic() && !matches!(c, '@' | '?' | '#' | '"' | '<' | '>' | '\\' | '`');
        if host.is_empty() || !host.chars().chain(path.chars()).all(known) {
            return Err(ALLOWED);
        }
        let path = path.trim_end_matches('/');
        let prefix = if path.is_empty() { String::new() } else { format!("/{path}") };
        Ok(Endpoint { host: host.to_owned(), port, prefix })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority(), self.prefix)
    }
}

impl Endpoint {
    fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// The socket `name` below `/ws`.
    fn socket_of(&self, name: &str) -> String {
        format!("ws://{}{}/ws/{}", self.authority(), self.prefix, escaped(name))
    }
}

/// `name` as one segment of a path: every byte escaped that RFC 3986 section 2.3 does not call unreserved.
fn escaped(name: &str) -> String {
    name.bytes().fold(String::new(), |mut path, byte| {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("%{byte:02X}"));
        }
        path
    })
}

fn key(text: &str) -> Result<String, &'static str> {
    let is_key = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    if is_key { Ok(text.to_owned()) } else { Err("must be printable ASCII without spaces") }
}

// ---------------------------------------------------------------------------------------------------------------
// How a client begins and ends.

/// Says why `command` (such as `watch`) cannot go on; the exit code for it.
fn refuse(command: &str, why: &str) -> ExitCode {
    say(command, why);
    ExitCode::FAILURE
}

/// Says something beside the output of `command`; a closed stderr is nobody's loss.
fn say(command: &str, what: &str) {
    let _ = writeln!(io::stderr(), "timerd {command}: {}", visible(what));
}

/// Says why `command` ended, if there is something to say; the exit code for it.
fn conclude(command: &str, ended: io::Result<End>) -> ExitCode {
    match ended {
        Ok(End { code: 1, why }) => refuse(command, &why),
        Ok(End { code, .. }) => ExitCode::from(code),
        // Whoever read our output has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => refuse(command, &format!("cannot write: {error}")),
    }
}

/// A flag that Ctrl-C, SIGTERM and SIGHUP raise from now on, instead of ending the process.
fn interrupted_by_signals() -> Result<Arc<AtomicBool>, String> {
    let interrupted = Arc::default();
    raise_on_signals(&interrupted)?;
    Ok(interrupted)
}

/// The same with a flag that is there already.
fn raise_on_signals(interrupted: &Arc<AtomicBool>) -> Result<(), String> {
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(interrupted))
            .map_err(|error| format!("cannot catch signals: {error}"))?;
    }
    Ok(())
}

/// Starts a thread, which ends with the process.
fn in_background(work: impl FnOnce() + Send + 'static) -> Result<(), String> {
    let thread = std::thread::Builder::new().name("network".to_owned());
    thread.spawn(work).map(drop).map_err(|error| format!("cannot start a thread: {error}"))
}

// ---------------------------------------------------------------------------------------------------------------
// Listening: the network thread.

/// What a client follows: one socket of the server, and what is said and understood there. Kept over all connections
/// to it.
trait Followed: Send + 'static {
    /// The socket's name below `/ws`.
    fn socket(&self) -> &str;
    /// What is said first on each connection.
    fn greeting(&mut self) -> Option<String>;
    /// What the server answers when it is alive.
    fn ping(&self) -> Message;
    /// Takes a message; an outcome, if it ends the connection. It is told in any case.
    fn handle_text(&mut self, text: &str) -> Option<Outcome>;
    /// What a close code, or a close without one, means.
    fn outcome_of(&self, code: Option<u16>) -> Outcome;
}

/// What the network thread tells.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Heard {
    /// The connection stands.
    Open,
    /// A message.
    Text(String),
    /// A sign of life without a message.
    Alive,
    /// The connection is lost, or was not made; the next attempt comes after `wait`.
    Lost { why: String, wait: Duration },
    /// There is nothing more to come.
    End(End),
}

/// Why a client ends, and the exit code.
#[derive(Clone, Debug, PartialEq, Eq)]
struct End {
    code: u8,
    why: String,
}

/// How one connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    /// It may be made again, after a while.
    Again(String),
    /// It may be made again at once: the server only wants to be asked differently.
    AtOnce(String),
    Over(End),
}

impl Outcome {
    fn over(code: u8, why: impl Into<String>) -> Outcome {
        Outcome::Over(End { code, why: why.into() })
    }
}

/// Follows from a thread of its own; what it hears.
fn follow(server: &Server, mut followed: impl Followed) -> Result<Receiver<Heard>, String> {
    let (tell, heard) = sync_channel(HEARD_MAX);
    let server = server.clone();
    in_background(move || {
        // Until there is nothing more to come.
        loop {
            let Some(outcome) = listen(&server, &mut followed, &tell) else { return };
            let (heard, wait) = match outcome {
                Outcome::Over(end) => (Heard::End(end), None),
                Outcome::AtOnce(why) => (Heard::Lost { why, wait: Duration::ZERO }, Some(Duration::ZERO)),
                Outcome::Again(why) => {
                    let wait = random_wait(RECONNECT_WAIT_MAX);
                    (Heard::Lost { why, wait }, Some(wait))
                }
            };
            match (tell.send(heard), wait) {
                (Ok(()), Some(wait)) => std::thread::sleep(wait),
                _ => return,
            }
        }
    })?;
    Ok(heard)
}

/// A random time up to `max`.
fn random_wait(max: Duration) -> Duration {
    // Without randomness any fixed share will do: somebody else has another.
    let share = getrandom::u32().unwrap_or(u32::MAX / 2);
    max.mul_f64(f64::from(share) / f64::from(u32::MAX))
}

/// One connection from its beginning to its end; no outcome when nobody listens to what is told any more.
fn listen(server: &Server, followed: &mut impl Followed, tell: &SyncSender<Heard>) -> Option<Outcome> {
    let connected = connect(server, followed.socket(), |code| followed.outcome_of(code));
    let mut socket = match connected {
        Ok(socket) => socket,
        Err(outcome) => return Some(outcome),
    };
    if tell.send(Heard::Open).is_err() {
        return None;
    }
    if let Some(greeting) = followed.greeting() {
        // A failure shows in the next read.
        let _ = socket.send(Message::text(greeting));
    }
    let mut heard_at = Instant::now();
    let mut asked = false;
    loop {
        let mut outcome = None;
        let heard = match socket.read() {
            Ok(Message::Text(text)) => {
                outcome = followed.handle_text(text.as_str());
                Heard::Text(text.as_str().to_owned())
            }
            Ok(Message::Close(frame)) => {
                // The answer to the close is queued; the connection ends whether it arrives or not.
                let _ = socket.flush();
                return Some(followed.outcome_of(frame.map(|frame| u16::from(frame.code))));
            }
            Ok(_) => Heard::Alive,
            // A timeout in the middle of a frame loses nothing: tungstenite keeps what it has read.
            Err(tungstenite::Error::Io(error)) if is_timeout(&error) => {
                let silence = heard_at.elapsed();
                if silence > SILENCE_MAX {
                    return Some(Outcome::Again(format!("no answer for {} s", silence.as_secs())));
                }
                if silence > SILENCE_BEFORE_PING && !asked {
                    asked = true;
                    // Also sends the pong that a full socket held back; a failure shows in the next read.
                    let _ = socket.send(followed.ping());
                }
                continue;
            }
            Err(error) => return Some(Outcome::Again(loss(&error))),
        };
        heard_at = Instant::now();
        asked = false;
        if tell.send(heard).is_err() {
            return None;
        }
        if outcome.is_some() {
            return outcome;
        }
    }
}

/// Makes a WebSocket to the socket `name` of the server, its reads and writes bounded in time.
///
/// # Errors
/// What `meaning` makes of the close code that stands for a refused upgrade, or that it may be tried again.
fn connect(
    server: &Server,
    name: &str,
    meaning: impl Fn(Option<u16>) -> Outcome,
) -> Result<WebSocket<TcpStream>, Outcome> {
    let again = |error: io::Error| Outcome::Again(reason(&error));
    let uri = server.url.socket_of(name).parse().map_err(|_| Outcome::over(1, "the URL cannot be used"))?;
    let mut request = ClientRequestBuilder::new(uri);
    if let Some(key) = &server.key {
        request = request.with_header("X-API-Key", key.as_str());
    }
    let stream = dial(server).map_err(again)?;
    let bounds = WebSocketConfig::default()
        .read_buffer_size(16 << 10)
        .write_buffer_size(16 << 10)
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    let (socket, _) = client_with_config(request, stream, Some(bounds)).map_err(|error| match error {
        HandshakeError::Interrupted(_) => Outcome::Again("no answer".to_owned()),
        HandshakeError::Failure(tungstenite::Error::Http(response)) => {
            // By another server than timerd, or by a proxy before it.
            match response.status().as_u16() {
                401 | 403 => meaning(Some(4001)),
                404 => meaning(Some(4004)),
                status => Outcome::Again(format!("refused with status {status}")),
            }
        }
        HandshakeError::Failure(tungstenite::Error::Io(error)) => again(error),
        HandshakeError::Failure(error) => Outcome::Again(error.to_string()),
    })?;
    socket.get_ref().set_read_timeout(Some(READ_TIME_MAX)).map_err(again)?;
    Ok(socket)
}

/// Connects to the first address of the server that answers; reads and writes are bounded in time.
fn dial(server: &Server) -> io::Result<TcpStream> {
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "no address");
    for address in (server.url.host.as_str(), server.url.port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_TIME_MAX) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_write_timeout(Some(CONNECT_TIME_MAX))?;
                stream.set_read_timeout(Some(CONNECT_TIME_MAX))?;
                return Ok(stream);
            }
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

/// Why a connection that stood was lost.
fn loss(error: &tungstenite::Error) -> String {
    match error {
        tungstenite::Error::ConnectionClosed | tungstenite::Error::Protocol(CUT_OFF) => {
            "connection closed".to_owned()
        }
        tungstenite::Error::Io(error) => reason(error),
        error => error.to_string(),
    }
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::ConnectionReset => "connection reset".to_owned(),
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => "no answer".to_owned(),
        _ => error.to_string(),
    }
}

/// What a close code means on any socket of the contract.
fn outcome_of(code: Option<u16>) -> Outcome {
    match code {
        Some(4001) => Outcome::over(1, "the server asks for a valid key: give --key KEY or TIMERD_KEY"),
        Some(4002) => Outcome::Again("too many connections from this address".to_owned()),
        Some(4009) => Outcome::over(1, "the server does not allow this origin"),
        Some(1012) => Outcome::Again("the server restarts".to_owned()),
        Some(1013) => Outcome::Again("the server is full".to_owned()),
        Some(code) => Outcome::Again(format!("closed with code {code}")),
        None => Outcome::Again("closed".to_owned()),
    }
}

// ---------------------------------------------------------------------------------------------------------------
// The terminal, and text for it.

/// What is known of the terminal beforehand, whether there is one or not.
#[derive(Clone, Copy, Debug, Default)]
pub struct Terminal {
    /// Whether colours are unwelcome (NO_COLOR is set).
    pub no_color: bool,
    /// Whether it cannot move its cursor (TERM is dumb, or not set).
    pub is_dumb: bool,
}

/// How a text is to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// As the terminal writes.
    Plain,
    /// What matters most.
    Bold,
    /// What is well.
    Good,
    /// What should be noticed.
    Notice,
    /// What must be noticed.
    Alarm,
}

impl Style {
    /// `text` as a terminal with colours shows it.
    fn paint(self, text: &str) -> String {
        let code = match self {
            _ if text.is_empty() => "",
            Style::Plain => "",
            Style::Bold => "\x1b[1m",
            Style::Good => "\x1b[32m",
            Style::Notice => "\x1b[33m",
            Style::Alarm => "\x1b[1;31m",
        };
        if code.is_empty() { text.to_owned() } else { format!("{code}{text}\x1b[0m") }
    }
}

/// A bar of `cells`, `full` of them full.
fn bar(full: usize, cells: usize) -> String {
    format!("[{}{}]", "#".repeat(full), "-".repeat(cells.saturating_sub(full)))
}

/// `left` and `right` at the two ends of a row; a long `left` is cut, `right` is not.
fn sides(left: &str, right: &str, columns: usize) -> String {
    let left = cut(left, columns.saturating_sub(columns_of(right) + 2));
    let gap = columns.saturating_sub(columns_of(&left) + columns_of(right));
    format!("{left}{}{right}", " ".repeat(gap))
}

/// `text` cut to `columns`, marked where there is room for a mark.
fn cut(text: &str, columns: usize) -> String {
    if columns_of(text) <= columns {
        return text.to_owned();
    }
    let mark = if columns >= 8 { "..." } else { "" };
    let mut room = columns - mark.len();
    let fitting = text.chars().take_while(|c| {
        let fits = char_columns(*c) <= room;
        room = if fits { room - char_columns(*c) } else { 0 };
        fits
    });
    fitting.chain(mark.chars()).collect()
}

fn columns_of(text: &str) -> usize {
    text.chars().map(char_columns).sum()
}

/// Columns of a character on a terminal: two for the wide blocks of Unicode standard annex 11, none for marks that
/// stand on the character before them.
fn char_columns(c: char) -> usize {
    match c {
        '\u{300}'..='\u{36f}'
        | '\u{1ab0}'..='\u{1aff}'
        | '\u{200b}'..='\u{200d}'
        | '\u{20d0}'..='\u{20ff}'
        | '\u{fe00}'..='\u{fe0f}' => 0,
        '\u{1100}'..='\u{115f}'
        | '\u{2e80}'..='\u{a4cf}'
        | '\u{ac00}'..='\u{d7a3}'
        | '\u{f900}'..='\u{faff}'
        | '\u{fe30}'..='\u{fe6f}'
        | '\u{ff00}'..='\u{ff60}'
        | '\u{ffe0}'..='\u{ffe6}'
        | '\u{1f300}'..='\u{1faff}'
        | '\u{20000}'..='\u{3fffd}' => 2,
        _ => 1,
    }
}

/// `text` without what would move the cursor or turn the direction of writing.
fn visible(text: &str) -> String {
    text.chars().map(|c| if is_hidden(c) { '?' } else { c }).collect()
}

/// JSON without the space between its tokens.
fn compact(json: &str) -> String {
    let (mut quoted, mut escaped) = (false, false);
    let is_kept = |c: &char| {
        if quoted {
            quoted = escaped || *c != '"';
            escaped = !escaped && *c == '\\';
            return true;
        }
        quoted = *c == '"';
        !c.is_ascii_whitespace()
    };
    json.chars().filter(is_kept).collect()
}

/// Whether `c` moves the cursor, begins a command to the terminal, ends a line or turns the direction of writing.
fn is_hidden(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// `0:04:55`, rounded up to seconds as the server rounds.
fn long(ms: u64) -> String {
    let seconds = ms.div_ceil(1000);
    format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// `4:55`, and `1:04:55` from an hour on.
fn short(ms: u64) -> String {
    let seconds = ms.div_ceil(1000);
    if seconds < 3600 { format!("{}:{:02}", seconds / 60, seconds % 60) } else { long(ms) }
}

/// `10:00:05Z`: the time of day in UTC, as all times of the API.
fn time_of_day() -> String {
    jiff::Timestamp::now().strftime("%H:%M:%SZ").to_string()
}

/// Columns and rows of the terminal behind `out`; 80 x 24 where it does not say.
fn terminal_size(out: impl AsFd) -> (usize, usize) {
    match rustix::termios::tcgetwinsize(out) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
        _ => (80, 24),
    }
}

/// Rows that are drawn over in place.
#[derive(Default)]
struct Block {
    color: bool,
    /// The rows as they stand there; empty before the first.
    rows: Vec<(Style, String)>,
    columns: usize,
    hidden_cursor: bool,
}

impl Block {
    /// Draws `wanted` over what stands there, in one write, and only when something differs.
    fn draw(&mut self, wanted: Vec<(Style, String)>, columns: usize, out: &mut impl Write) -> io::Result<()> {
        if wanted == self.rows && columns == self.columns {
            return Ok(());
        }
        let mut text = String::new();
        if !std::mem::replace(&mut self.hidden_cursor, true) {
            text.push_str("\x1b[?25l");
        }
        // A terminal made narrower has broken the old rows into several.
        let height: usize = self.rows.iter().map(|(_, row)| columns_of(row).div_ceil(columns.max(1)).max(1)).sum();
        if height > 0 {
            text.push_str(&format!("\x1b[{height}A"));
        }
        text.push('\r');
        if columns != self.columns || wanted.len() != self.rows.len() {
            text.push_str("\x1b[J");
        }
        for (style, row) in &wanted {
            text.push_str(&if self.color { style.paint(row) } else { row.clone() });
            // Erasing what is left of the old row, not the whole of it, is what keeps it from flickering.
            text.push_str("\x1b[K\r\n");
        }
        self.rows = wanted;
        self.columns = columns;
        out.write_all(text.as_bytes())?;
        out.flush()
    }

    /// Leaves the terminal as it was found, the last rows standing.
    fn restore(&mut self, out: &mut impl Write) -> io::Result<()> {
        if std::mem::take(&mut self.hidden_cursor) {
            out.write_all(b"\x1b[0m\x1b[?25h")?;
            out.flush()?;
        }
        Ok(())
    }
}

/// Whether nobody reads stdout any more: the other end of the pipe is closed.
fn is_unread(out: impl AsFd) -> bool {
    let mut pipe = [PollFd::new(&out, PollFlags::empty())];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut pipe, Some(&at_once)).is_ok() && pipe.iter().any(|pipe| pipe.revents().contains(PollFlags::ERR))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let endpoint = |host: &str, port, prefix: &str| Endpoint { host: host.into(), port, prefix: prefix.into() };
        for (text, expected) in [
            ("http://127.0.0.1:8003", endpoint("127.0.0.1", 8003, "")),
            ("http://exam.example/", endpoint("exam.example", 80, "")),
            ("http://[::1]:8003/clock/", endpoint("::1", 8003, "/clock")),
            ("http://[::1]", endpoint("::1", 80, "")),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for text in [
            "",
            "127.0.0.1:8003",
            "ws://a",
            "http://",
            "http://:1",
            "http://a:0",
            "http://a:x",
            "http://[::1",
            "http://[::1]x",
            "http://a@b",
            "http://a/?q",
            "http://a b",
        ] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
        assert!("https://a".parse::<Endpoint>().unwrap_err().contains("TLS"));
        let endpoint: Endpoint = "http://[::1]:8003/clock".parse().unwrap();
        assert_eq!(endpoint.to_string(), "http://[::1]:8003/clock");
        assert_eq!(endpoint.socket_of("timer_1/../?é"), "ws://[::1]:8003/clock/ws/timer_1%2F..%2F%3F%C3%A9");
    }
}
