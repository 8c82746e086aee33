//! `timerd watch`: a timer's live countdown in a terminal.
//!
//! The network thread hears the timer's socket; the main thread keeps the [`View`], a pure state machine over
//! messages and elapsed time, and shows it: as a block redrawn in place on a terminal, as lines elsewhere, or as the
//! raw messages. It must not know how a connection is made.
//!
//! Invariants: only the server ends a timer, so `time is up` is shown when it said so and not when the own countdown
//! reaches zero; what the server sends cannot move the cursor or forge a line; the terminal is left as it was found.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use serde::Deserialize;
use tungstenite::{Bytes, Message};

use crate::client::{
    self, Block, COLUMNS_MAX, EXIT_INTERRUPTED, End, Followed, Heard, LOOK_EVERY, Outcome, Server, Style, Terminal,
    cut, long, short, sides, terminal_size, time_of_day, visible,
};

/// How this client is called.
const COMMAND: &str = "watch";

/// What to watch, and how.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// The timer's id, such as timer_a1b2c3d4
    pub id: String,
    /// Where it is.
    #[command(flatten)]
    pub server: Server,
    /// Print the messages as the server sends them, one a line
    #[arg(long)]
    pub json: bool,
    /// What is known of the terminal.
    #[arg(skip)]
    pub terminal: Terminal,
}

/// Shows the timer until it is deleted (exit code 0), the server refuses (1), or Ctrl-C (130).
pub fn run(options: &Options) -> ExitCode {
    let room = Room { id: options.id.clone() };
    let begun = client::interrupted_by_signals().and_then(|flag| Ok((flag, client::follow(&options.server, room)?)));
    let (interrupted, receiver) = match begun {
        Ok(begun) => begun,
        Err(why) => return client::refuse(COMMAND, &why),
    };
    let stdout = io::stdout();
    let face = match stdout.is_terminal() && !options.terminal.is_dumb {
        _ if options.json => Face::Json,
        true => Face::Block(Block { color: !options.terminal.no_color, ..Block::default() }),
        false => Face::Lines(Lines::default()),
    };
    let mut watcher = Watcher { view: View::new(&options.server.url.to_string()), face, out: stdout.lock() };
    let shown = watcher.show_all(&receiver, &interrupted);
    let restored = watcher.restore();
    client::conclude(COMMAND, shown.and_then(|end| restored.map(|()| end)))
}

// ---------------------------------------------------------------------------------------------------------------
// The timer's socket.

/// The timer as the network thread follows it: the socket speaks by itself.
struct Room {
    id: String,
}

impl Followed for Room {
    fn socket(&self) -> &str {
        &self.id
    }

    fn greeting(&mut self) -> Option<String> {
        None
    }

    fn ping(&self) -> Message {
        Message::Ping(Bytes::new())
    }

    fn handle_text(&mut self, _: &str) -> Option<Outcome> {
        None
    }

    fn outcome_of(&self, code: Option<u16>) -> Outcome {
        outcome_of(code, &self.id)
    }
}

/// What a close code means for us.
fn outcome_of(code: Option<u16>, id: &str) -> Outcome {
    match code {
        Some(4000) => Outcome::over(0, "the timer was deleted"),
        Some(4004) => Outcome::over(1, format!("there is no timer '{id}'")),
        Some(4029) => Outcome::Again("too many clients on this timer".to_owned()),
        code => client::outcome_of(code),
    }
}

// ---------------------------------------------------------------------------------------------------------------
// What is known of the timer.

/// A state of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Created,
    Running,
    Paused,
    Completed,
    Expired,
    #[serde(other)]
    Unknown,
}

impl State {
    const fn name(self) -> &'static str {
        match self {
            State::Created => "created",
            State::Running => "running",
            State::Paused => "paused",
            State::Completed => "completed",
            State::Expired => "expired",
            State::Unknown => "unknown",
        }
    }

    const fn is_over(self) -> bool {
        matches!(self, State::Completed | State::Expired)
    }
}

/// The connection as the view knows it. Times are elapsed ones, since the start of watching.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Link {
    Connecting,
    Open,
    Lost { why: String, retry_at: Duration },
}

/// A server's message, as far as a watcher needs it; unknown fields and types are ignored.
#[derive(Deserialize)]
struct Told {
    #[serde(rename = "type")]
    kind: String,
    timer: Option<Timer>,
    state: Option<State>,
    remaining_seconds: Option<u64>,
    remaining_ms: Option<u64>,
    added_seconds: Option<u64>,
    threshold: Option<u64>,
}

#[derive(Deserialize)]
struct Timer {
    name: String,
    state: State,
    duration_seconds: u64,
    remaining_seconds: u64,
    /// Absent on servers older than timerd.
    remaining_ms: Option<u64>,
}

/// What a watcher knows: fed with messages and elapsed time, it counts on by itself in between.
#[derive(Clone, Debug)]
pub struct View {
    url: String,
    link: Link,
    name: String,
    state: State,
    duration_s: u64,
    /// The remainder as it was at `remaining_at`.
    remaining_ms: u64,
    remaining_at: Duration,
    /// When the server was last heard; none before the first word.
    heard_at: Option<Duration>,
    /// The last threshold that was crossed, until the timer is above it again or over.
    warning_s: Option<u64>,
    /// The last change.
    news: String,
    deleted: bool,
}

impl View {
    /// Nothing known yet of a timer at `url`.
    pub fn new(url: &str) -> View {
        View {
            url: url.to_owned(),
            link: Link::Connecting,
            name: String::new(),
            state: State::Unknown,
            duration_s: 0,
            remaining_ms: 0,
            remaining_at: Duration::ZERO,
            heard_at: None,
            warning_s: None,
            news: String::new(),
            deleted: false,
        }
    }

    /// Takes a message that arrived at `at` (elapsed since the start of watching); the change it tells, if it tells
    /// one, in words. What is no message of the contract changes nothing.
    pub fn handle_message(&mut self, text: &str, at: Duration) -> Option<String> {
        self.handle_alive(at);
        let told: Told = serde_json::from_str(text).ok()?;
        let news = match (told.kind.as_str(), told.timer) {
            ("connected", Some(timer)) => {
                let before = self.state;
                self.name = visible(&timer.name);
                self.state = timer.state;
                self.duration_s = timer.duration_seconds;
                self.set_remaining(timer.remaining_ms, Some(timer.remaining_seconds), at);
                (before != self.state).then(|| match self.state {
                    State::Expired => "time is up".to_owned(),
                    state => format!("{}, {} left", state.name(), short(self.remaining_ms)),
                })
            }
            ("timer_started", _) => {
                let resumed = self.state == State::Paused;
                self.state = State::Running;
                self.set_remaining(told.remaining_ms, told.remaining_seconds, at);
                Some(if resumed { "resumed" } else { "started" }.to_owned())
            }
            ("timer_tick", _) => {
                // A tick lies on the timer's grid: the remainder is whole.
                self.state = State::Running;
                self.set_remaining(None, told.remaining_seconds, at);
                None
            }
            ("timer_warning", _) => {
                let threshold = told.threshold.or(told.remaining_seconds)?;
                self.warning_s = Some(threshold);
                Some(format!("warning: {} left", short(threshold.saturating_mul(1000))))
            }
            ("timer_paused", _) => {
                self.state = State::Paused;
                self.set_remaining(told.remaining_ms, told.remaining_seconds, at);
                Some(format!("paused, {} left", short(self.remaining_ms)))
            }
            ("timer_extended", _) => {
                let added_s = told.added_seconds.unwrap_or(0);
                self.duration_s = self.duration_s.saturating_add(added_s);
                self.set_remaining(told.remaining_ms, told.remaining_seconds, at);
                Some(format!("extended by {}", short(added_s.saturating_mul(1000))))
            }
            ("timer_stopped", _) => {
                self.state = State::Completed;
                self.set_remaining(None, told.remaining_seconds, at);
                Some(format!("stopped, {} left", short(self.remaining_ms)))
            }
            ("timer_expired", _) => {
                self.state = State::Expired;
                self.set_remaining(Some(0), None, at);
                Some("time is up".to_owned())
            }
            ("timer_deleted", _) => {
                self.deleted = true;
                Some("deleted".to_owned())
            }
            ("keepalive" | "sync_response", _) => {
                self.state = told.state.unwrap_or(self.state);
                // Rounded up to seconds it says less than the own countdown knows, unless that is wrong.
                let known_s = self.remaining_ms(at).div_ceil(1000);
                if told.remaining_ms.is_some() || told.remaining_seconds.is_some_and(|s| s != known_s) {
                    self.set_remaining(told.remaining_ms, told.remaining_seconds, at);
                }
                None
            }
            _ => None,
        };
        let above = |threshold: u64| self.remaining_ms > threshold.saturating_mul(1000);
        if self.state.is_over() || self.warning_s.is_some_and(above) {
            self.warning_s = None;
        }
        if let Some(news) = &news {
            self.news.clone_from(news);
        }
        news
    }

    /// The connection stands since `at`.
    pub fn handle_open(&mut self, at: Duration) {
        self.link = Link::Open;
        self.handle_alive(at);
    }

    /// The server gave a sign of life.
    pub fn handle_alive(&mut self, at: Duration) {
        self.heard_at = Some(at);
    }

    /// The connection was lost, or not made; another attempt is made at `retry_at`.
    pub fn handle_lost(&mut self, why: &str, retry_at: Duration) {
        self.link = Link::Lost { why: visible(why), retry_at };
    }

    /// Milliseconds that remain at `at`: the last word of the server, counted on while the timer runs.
    pub fn remaining_ms(&self, at: Duration) -> u64 {
        let since = if self.state == State::Running { at.saturating_sub(self.remaining_at) } else { Duration::ZERO };
        self.remaining_ms.saturating_sub(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    /// The block of five rows at `at`, none wider than `columns`.
    pub fn block(&self, at: Duration, columns: usize) -> Vec<(Style, String)> {
        let state_style = match self.state {
            State::Running => Style::Good,
            State::Paused => Style::Notice,
            State::Expired => Style::Alarm,
            _ => Style::Bold,
        };
        let name = if self.state == State::Unknown { "..." } else { &self.name };
        let remaining_ms = self.remaining_ms(at);
        let time = match self.state {
            State::Unknown => "-:--:--".to_owned(),
            State::Expired => format!("time is up after {}", long(self.duration_s.saturating_mul(1000))),
            _ => format!("{} left of {}", long(remaining_ms), long(self.duration_s.saturating_mul(1000))),
        };
        let notice = match self.warning_s {
            Some(threshold) if remaining_ms.div_ceil(1000) == threshold => {
                format!("warning: {} left", short(threshold.saturating_mul(1000)))
            }
            Some(threshold) => format!("warning: less than {} left", short(threshold.saturating_mul(1000))),
            None => self.news.clone(),
        };
        let notice_style = if self.warning_s.is_some() { Style::Alarm } else { Style::Plain };
        let health_style = if self.link == Link::Open { Style::Plain } else { Style::Notice };
        [
            (state_style, sides(name, self.state.name(), columns)),
            (Style::Bold, time),
            (state_style, bar(remaining_ms, self.duration_s.saturating_mul(1000), columns)),
            (notice_style, notice),
            (health_style, self.health(at)),
        ]
        .map(|(style, row)| (style, cut(&row, columns)))
        .to_vec()
    }

    /// The row of a second where there is no terminal, without the time of day.
    pub fn row(&self, at: Duration) -> String {
        let state = match self.state {
            State::Unknown => return self.health(at),
            State::Expired => "time is up".to_owned(),
            state => format!("{} {} left", state.name(), short(self.remaining_ms(at))),
        };
        let health = if self.link == Link::Open { String::new() } else { format!(" ({})", self.health(at)) };
        format!("{} {state}{health}", self.name)
    }

    fn health(&self, at: Duration) -> String {
        let silence_s = self.heard_at.map(|heard_at| at.saturating_sub(heard_at).as_secs());
        match (&self.link, silence_s) {
            (Link::Connecting, _) => format!("connecting to {}", self.url),
            // Only a running timer speaks each second.
            (Link::Open, Some(silence_s)) if silence_s >= 3 && self.state == State::Running => {
                format!("connected to {}, last heard {silence_s} s ago", self.url)
            }
            (Link::Open, _) => format!("connected to {}", self.url),
            (Link::Lost { why, .. }, Some(silence_s)) => format!("last heard {silence_s} s ago, reconnecting: {why}"),
            (Link::Lost { why, retry_at }, None) => {
                let wait_s = retry_at.saturating_sub(at).as_secs_f64().ceil();
                format!("cannot reach {}: {why}; again in {wait_s:.0} s", self.url)
            }
        }
    }

    fn set_remaining(&mut self, ms: Option<u64>, seconds: Option<u64>, at: Duration) {
        if let Some(remaining_ms) = ms.or(seconds.map(|seconds| seconds.saturating_mul(1000))) {
            self.remaining_ms = remaining_ms;
            self.remaining_at = at;
        }
    }
}

/// A bar of what remains, as wide as `columns`; nothing where it would tell nothing.
fn bar(remaining_ms: u64, duration_ms: u64, columns: usize) -> String {
    // Two brackets and ` 100 %`.
    let Some(cells) = columns.checked_sub(8).filter(|cells| *cells >= 5 && duration_ms > 0) else {
        return String::new();
    };
    let share = |of: u64| remaining_ms.min(duration_ms).saturating_mul(of).div_ceil(duration_ms);
    let full = usize::try_from(share(cells as u64)).unwrap_or(cells).min(cells);
    format!("{} {:>3} %", client::bar(full, cells), share(100))
}

// ---------------------------------------------------------------------------------------------------------------
// Showing it.

/// The form of the output.
enum Face {
    /// A block on a terminal.
    Block(Block),
    /// Lines for a file or a pipe.
    Lines(Lines),
    /// The messages themselves.
    Json,
}

#[derive(Default)]
struct Lines {
    /// When the last row of a second was printed.
    printed_at: Option<Duration>,
}

struct Watcher<W> {
    view: View,
    face: Face,
    out: W,
}

impl<W: Write> Watcher<W> {
    /// Shows what is heard until the end of it.
    fn show_all(&mut self, heard: &Receiver<Heard>, interrupted: &AtomicBool) -> io::Result<End> {
        let start = Instant::now();
        self.show(start.elapsed(), false)?;
        while !interrupted.load(Ordering::Relaxed) {
            let word = match heard.recv_timeout(LOOK_EVERY) {
                Ok(word) => Some(word),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => {
                    return Ok(End { code: 1, why: "the network thread ended".to_owned() });
                }
            };
            let at = start.elapsed();
            let mut is_tick = false;
            match word {
                None => {}
                Some(Heard::Open) => {
                    self.view.handle_open(at);
                    is_tick = true;
                }
                Some(Heard::Alive) => self.view.handle_alive(at),
                Some(Heard::Text(text)) => {
                    let news = self.view.handle_message(&text, at);
                    is_tick = true;
                    self.tell(&text, news)?;
                }
                Some(Heard::Lost { .. }) if self.view.deleted => return self.end(at, 0, ""),
                Some(Heard::Lost { why, wait }) => {
                    self.view.handle_lost(&why, at + wait);
                    if matches!(self.face, Face::Json) {
                        client::say(COMMAND, &format!("{why}; reconnecting in {:.1} s", wait.as_secs_f64()));
                    }
                }
                Some(Heard::End(end)) => {
                    let code = if self.view.deleted { 0 } else { end.code };
                    return self.end(at, code, &end.why);
                }
            }
            self.show(at, is_tick)?;
        }
        self.end(start.elapsed(), EXIT_INTERRUPTED, "")
    }

    fn end(&mut self, at: Duration, code: u8, why: &str) -> io::Result<End> {
        if let Face::Block(_) = self.face {
            self.show(at, false)?;
        }
        Ok(End { code, why: why.to_owned() })
    }

    /// What is not part of the view: the message itself, or the news in a line of their own.
    fn tell(&mut self, text: &str, news: Option<String>) -> io::Result<()> {
        match (&self.face, news) {
            // JSON has no raw line feeds but between its tokens.
            (Face::Json, _) => writeln!(self.out, "{}", text.replace(['\r', '\n'], " "))?,
            (Face::Lines(_), Some(news)) => writeln!(self.out, "{} {}: {news}", time_of_day(), self.view.name)?,
            _ => return Ok(()),
        }
        self.out.flush()
    }

    /// Brings the output up to `at`; `is_fresh` says that something was just heard.
    fn show(&mut self, at: Duration, is_fresh: bool) -> io::Result<()> {
        match &mut self.face {
            Face::Json => Ok(()),
            Face::Block(block) => {
                let (columns, rows) = terminal_size(io::stdout());
                // The last column stays free: many terminals wrap when it is written.
                let width = columns.saturating_sub(1).clamp(1, COLUMNS_MAX);
                let mut wanted = self.view.block(at, width);
                wanted.truncate(rows.saturating_sub(1).max(1));
                block.draw(wanted, columns, &mut self.out)
            }
            Face::Lines(lines) => {
                if lines.is_due(&self.view, at, is_fresh) {
                    lines.printed_at = Some(at);
                    writeln!(self.out, "{} {}", time_of_day(), self.view.row(at))?;
                    self.out.flush()?;
                }
                Ok(())
            }
        }
    }

    /// Leaves the terminal as it was found, the last block standing.
    fn restore(&mut self) -> io::Result<()> {
        match &mut self.face {
            Face::Block(block) => block.restore(&mut self.out),
            Face::Lines(_) | Face::Json => Ok(()),
        }
    }
}

impl Lines {
    /// One row a second: on the server's ticks while they come, by the own clock when they do not, none once the
    /// timer is over and everything is said.
    fn is_due(&self, view: &View, at: Duration, is_fresh: bool) -> bool {
        let Some(printed_at) = self.printed_at else {
            return view.state != State::Unknown || view.link != Link::Connecting;
        };
        let since = at.saturating_sub(printed_at);
        let ticking = view.link == Link::Open && view.state == State::Running;
        match ticking {
            _ if view.link == Link::Open && (view.state.is_over() || view.deleted) => false,
            true if is_fresh => since >= Duration::from_millis(500),
            true => since >= Duration::from_millis(1500),
            false => since >= Duration::from_millis(1000),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{READ_TIME_MAX, RECONNECT_WAIT_MAX, columns_of, listen, random_wait};
    use std::net::{TcpListener, TcpStream};
    use std::sync::mpsc::sync_channel;
    use tungstenite::WebSocket;
    use tungstenite::protocol::CloseFrame;

    const URL: &str = "http://127.0.0.1:8003";

    fn seconds(s: f64) -> Duration {
        Duration::from_secs_f64(s)
    }

    fn connected(state: &str, remaining_ms: u64) -> String {
        format!(
            r#"{{"type":"connected","timer":{{"id":"timer_1","name":"Quiz Timer","state":"{state}",
            "duration_seconds":300,"remaining_seconds":{},"elapsed_seconds":5,"warning_thresholds":[60],
            "remaining_ms":{remaining_ms},"revision":2}},"server_time_ms":1}}"#,
            remaining_ms.div_ceil(1000)
        )
    }

    fn running() -> View {
        let mut view = View::new(URL);
        view.handle_open(seconds(0.0));
        assert_eq!(
            view.handle_message(&connected("running", 295_000), seconds(0.0)).as_deref(),
            Some("running, 4:55 left")
        );
        view
    }

    fn rows(view: &View, at: f64, columns: usize) -> Vec<String> {
        let rows: Vec<String> = view.block(seconds(at), columns).into_iter().map(|(_, row)| row).collect();
        assert!(rows.iter().all(|row| columns_of(row) <= columns), "{rows:?}");
        rows
    }

    #[test]
    fn eighty_columns() {
        let view = running();
        assert_eq!(
            rows(&view, 0.0, 79),
            [
                "Quiz Timer                                                              running",
                "0:04:55 left of 0:05:00",
                "[######################################################################-]  99 %",
                "running, 4:55 left",
                "connected to http://127.0.0.1:8003",
            ]
        );
    }

    #[test]
    fn forty_columns_and_fewer() {
        let mut view = running();
        let long_name = connected("running", 150_000).replace("Quiz Timer", &"Prüfung 数学 ".repeat(9));
        view.handle_message(&long_name, seconds(1.0));
        view.handle_lost("the server restarts", seconds(4.0));
        assert_eq!(
            rows(&view, 13.0, 40),
            [
                "Prüfung 数学 Prüfung 数学 Pr...  running",
                "0:02:18 left of 0:05:00",
                "[###############-----------------]  46 %",
                "running, 4:55 left",
                "last heard 12 s ago, reconnecting: th...",
            ]
        );
        for columns in 1..40 {
            rows(&view, 13.0, columns);
        }
    }

    #[test]
    fn it_counts_on_between_ticks_and_while_disconnected() {
        let mut view = running();
        assert_eq!(view.remaining_ms(seconds(0.25)), 294_750);
        assert_eq!(
            view.handle_message(r#"{"type":"timer_tick","remaining_seconds":294,"elapsed_seconds":6}"#, seconds(1.1)),
            None
        );
        assert_eq!(view.remaining_ms(seconds(1.1)), 294_000);
        view.handle_lost("closed", seconds(4.0));
        assert_eq!(
            view.row(seconds(13.1)),
            "Quiz Timer running 4:42 left (last heard 12 s ago, reconnecting: closed)"
        );
        view.handle_open(seconds(14.0));
        // The same state again is no news.
        assert_eq!(view.handle_message(&connected("running", 280_500), seconds(14.1)), None);
        assert_eq!(view.row(seconds(14.1)), "Quiz Timer running 4:41 left");
    }

    #[test]
    fn time_is_up_only_when_the_server_says_so() {
        let mut view = running();
        let text = rows(&view, 400.0, 79).join("\n");
        assert!(text.contains("0:00:00 left") && !text.contains("time is up"));
        let news = view.handle_message(r#"{"type":"timer_expired","elapsed_seconds":300}"#, seconds(400.0));
        assert_eq!(news.as_deref(), Some("time is up"));
        assert_eq!(rows(&view, 400.0, 79)[1], "time is up after 0:05:00");
        assert_eq!(view.row(seconds(401.0)), "Quiz Timer time is up");
        let mut late = View::new(URL);
        assert_eq!(late.handle_message(&connected("expired", 0), seconds(0.0)).as_deref(), Some("time is up"));
    }

    #[test]
    fn every_message_of_the_contract() {
        let mut view = running();
        let mut hear = |text: &str| {
            let news = view.handle_message(text, seconds(1.0));
            (news.unwrap_or_default(), view.state, view.remaining_ms(seconds(1.0)), view.duration_s)
        };
        let news = |text: &str| text.to_owned();
        assert_eq!(
            hear(r#"{"type":"timer_paused","remaining_seconds":290,"remaining_ms":289500,"server_time_ms":1}"#),
            (news("paused, 4:50 left"), State::Paused, 289_500, 300)
        );
        assert_eq!(
            hear(r#"{"type":"timer_extended","added_seconds":3600,"remaining_seconds":3890,"remaining_ms":3889500}"#),
            (news("extended by 1:00:00"), State::Paused, 3_889_500, 3900)
        );
        assert_eq!(
            hear(r#"{"type":"timer_started","remaining_seconds":3890,"remaining_ms":3889500}"#),
            (news("resumed"), State::Running, 3_889_500, 3900)
        );
        // A server without milliseconds.
        assert_eq!(
            hear(r#"{"type":"timer_started","remaining_seconds":60}"#),
            (news("started"), State::Running, 60_000, 3900)
        );
        assert_eq!(
            hear(r#"{"type":"timer_warning","remaining_seconds":60,"threshold":60}"#),
            (news("warning: 1:00 left"), State::Running, 60_000, 3900)
        );
        assert_eq!(hear(r#"{"type":"keepalive","remaining_seconds":59}"#), (news(""), State::Running, 59_000, 3900));
        assert_eq!(
            hear(r#"{"type":"sync_response","remaining_seconds":58,"remaining_ms":57001,"state":"paused"}"#),
            (news(""), State::Paused, 57_001, 3900)
        );
        assert_eq!(
            hear(r#"{"type":"timer_stopped","remaining_seconds":57,"elapsed_seconds":9}"#),
            (news("stopped, 0:57 left"), State::Completed, 57_000, 3900)
        );
        for text in
            [r#"{"type":"pong"}"#, r#"{"type":"error","message":"x"}"#, r#"{"type":"new_kind"}"#, "{", "[]", ""]
        {
            assert_eq!(hear(text), (news(""), State::Completed, 57_000, 3900), "{text}");
        }
        assert_eq!(hear(r#"{"type":"timer_deleted"}"#).0, "deleted");
        assert!(view.deleted);
    }

    #[test]
    fn a_warning_stands_until_the_timer_is_above_it_again() {
        let mut view = running();
        view.handle_message(r#"{"type":"timer_tick","remaining_seconds":60,"elapsed_seconds":240}"#, seconds(1.0));
        view.handle_message(r#"{"type":"timer_warning","remaining_seconds":60,"threshold":60}"#, seconds(1.0));
        assert_eq!(view.block(seconds(1.0), 79)[3], (Style::Alarm, "warning: 1:00 left".to_owned()));
        assert_eq!(view.block(seconds(9.0), 79)[3], (Style::Alarm, "warning: less than 1:00 left".to_owned()));
        view.handle_message(r#"{"type":"timer_extended","added_seconds":60,"remaining_seconds":112}"#, seconds(9.0));
        assert_eq!(view.block(seconds(9.0), 79)[3], (Style::Plain, "extended by 1:00".to_owned()));
    }

    #[test]
    fn before_the_first_word() {
        let mut view = View::new(URL);
        assert_eq!(rows(&view, 0.0, 79)[4], "connecting to http://127.0.0.1:8003");
        view.handle_lost("connection refused", seconds(3.4));
        assert_eq!(view.row(seconds(1.0)), "cannot reach http://127.0.0.1:8003: connection refused; again in 3 s");
        assert_eq!(rows(&view, 1.0, 79)[1], "-:--:--");
    }

    #[test]
    fn a_name_cannot_move_the_cursor() {
        let mut view = running();
        view.handle_message(&connected("running", 1000).replace("Quiz Timer", r"a\u001b[2J\nb\u202e"), seconds(0.0));
        assert_eq!(view.row(seconds(0.0)), "a?[2J?b? running 0:01 left");
    }

    #[test]
    fn what_close_codes_mean() {
        for (code, exit) in [
            (4000, Some(0)),
            (4001, Some(1)),
            (4004, Some(1)),
            (4009, Some(1)),
            (4029, None),
            (1012, None),
            (1013, None),
            (1000, None),
            (1008, None),
        ] {
            let over = match outcome_of(Some(code), "x") {
                Outcome::Over(end) => Some(end.code),
                _ => None,
            };
            assert_eq!(over, exit, "{code}");
        }
        assert!(random_wait(RECONNECT_WAIT_MAX) <= RECONNECT_WAIT_MAX);
    }

    #[test]
    fn a_block_is_redrawn_in_place_and_only_when_it_differs() {
        let mut block = Block { color: true, ..Block::default() };
        let mut out = Vec::new();
        let rows = |text: &str| vec![(Style::Good, text.to_owned()), (Style::Plain, "b".to_owned())];
        let mut draw = |text: &str, columns| {
            out.clear();
            block.draw(rows(text), columns, &mut out).unwrap();
            String::from_utf8(out.clone()).unwrap()
        };
        assert_eq!(draw("a", 80), "\x1b[?25l\r\x1b[J\x1b[32ma\x1b[0m\x1b[K\r\nb\x1b[K\r\n");
        assert_eq!(draw("a", 80), "");
        assert_eq!(draw("c", 80), "\x1b[2A\r\x1b[32mc\x1b[0m\x1b[K\r\nb\x1b[K\r\n");
        draw(&"x".repeat(79), 80);
        assert!(draw("a", 40).starts_with("\x1b[3A\r\x1b[J"), "two rows broke into three");
        let mut watcher = Watcher { view: View::new(URL), face: Face::Block(block), out: Vec::new() };
        watcher.restore().unwrap();
        watcher.restore().unwrap();
        assert_eq!(watcher.out, b"\x1b[0m\x1b[?25h");
    }

    #[test]
    fn a_row_a_second() {
        let mut lines = Lines::default();
        let mut view = running();
        assert!(lines.is_due(&view, seconds(0.0), true));
        lines.printed_at = Some(seconds(0.0));
        // A tick, a burst behind it, a tick that fails to come.
        for (at, is_fresh, due) in [(1.0, true, true), (0.4, true, false), (1.2, false, false), (1.5, false, true)] {
            assert_eq!(lines.is_due(&view, seconds(at), is_fresh), due, "{at}");
        }
        view.handle_lost("closed", seconds(3.0));
        assert!(lines.is_due(&view, seconds(1.0), false));
        view.handle_open(seconds(3.0));
        view.handle_message(r#"{"type":"timer_expired","elapsed_seconds":300}"#, seconds(3.0));
        assert!(!lines.is_due(&view, seconds(9.0), false));
    }

    /// Plays `script` to the one client that comes, and returns what the client told.
    fn played(script: impl FnOnce(WebSocket<TcpStream>) + Send + 'static) -> Vec<Heard> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let server = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            script(tungstenite::accept(stream).unwrap());
        });
        let server_at = Server { url, key: Some("tk_1".to_owned()) };
        let (sender, receiver) = sync_channel(256);
        let outcome = listen(&server_at, &mut Room { id: "t".to_owned() }, &sender);
        drop(sender);
        server.join().unwrap();
        let mut heard: Vec<Heard> = receiver.iter().collect();
        heard.push(match outcome {
            Some(Outcome::Over(end)) => Heard::End(end),
            Some(Outcome::Again(why) | Outcome::AtOnce(why)) => Heard::Lost { why, wait: Duration::ZERO },
            None => Heard::Alive,
        });
        heard
    }

    #[test]
    fn a_frame_that_comes_in_pieces_over_timeouts_is_whole() {
        let heard = played(|mut socket| {
            let frame = b"\x81\x0f{\"type\":\"pong\"}";
            for piece in [&frame[..1], &frame[1..7], &frame[7..]] {
                socket.get_mut().write_all(piece).unwrap();
                std::thread::sleep(READ_TIME_MAX + Duration::from_millis(200));
            }
            let code = 4000.into();
            socket.close(Some(CloseFrame { code, reason: "Timer deleted".into() })).unwrap();
            while socket.read().is_ok() {}
        });
        let deleted = End { code: 0, why: "the timer was deleted".to_owned() };
        assert_eq!(heard, [Heard::Open, Heard::Text(r#"{"type":"pong"}"#.to_owned()), Heard::End(deleted)]);
    }

    #[test]
    fn a_connection_that_breaks_is_to_be_made_again() {
        let heard = played(|mut socket| socket.send(Message::Text("{}".into())).unwrap());
        assert_eq!(heard[..2], [Heard::Open, Heard::Text("{}".to_owned())]);
        assert!(matches!(heard.last(), Some(Heard::Lost { .. })));
    }
}
