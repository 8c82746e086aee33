//! `timerd publish`: events from a file or a pipe, one JSON object a line, over one WebSocket.
//!
//! One thread over one poll(2): it cuts what is read into lines (`Splitter`), keeps those without an answer
//! (`Queue`), tells how far it is (`Progress`) and remembers it beside the file (`Memory`). Only connecting has a
//! thread of its own, since it cannot be interrupted. This file must not know what an event is: a line is text, and
//! the server says what is wrong with it.
//!
//! Invariants: answers come in the order of sending, and no line is sent while one behind it is without an answer;
//! what is remembered lies behind answered lines only, so that nothing is ever left out; a line is refused once and
//! for all, or sent again until it is taken.

use std::collections::VecDeque;
use std::fs::{self, File, TryLockError};
use std::io::{self, IsTerminal, Read, Seek, SeekFrom, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tungstenite::{Bytes, Message, Utf8Bytes, WebSocket};

use crate::client::{
    self, EXIT_INTERRUPTED, End, LOOK_EVERY, Outcome, RECONNECT_WAIT_MAX, SILENCE_BEFORE_PING, SILENCE_MAX, Server,
    Terminal, bar, columns_of, cut, is_timeout, loss, random_wait, terminal_size, visible,
};

/// How this client is called.
const COMMAND: &str = "publish";
/// Lines without an answer that the contract allows for: with more, the server does not read on.
const WINDOW_MAX: usize = 2_048;
/// Bytes of a line, the contract's bound of a message.
const LINE_BYTES_MAX: usize = 1 << 20;
/// Bytes of the lines without an answer, beyond which no other is taken: they are kept for sending again.
const QUEUE_BYTES_MAX: usize = 16 << 20;
/// Bytes of one read of the file.
const READ_BYTES: usize = 64 << 10;
/// How the server begins when nothing is wrong with the line: it could not be stored just now, or it is not known
/// whether it is, which is like an answer that was lost.
const NOT_REFUSED: [&str; 2] = ["Nothing was stored", "Outcome unknown"];
/// The most that a line is first held back after that; doubled each time, up to `RECONNECT_WAIT_MAX`.
const HOLD_MIN: Duration = Duration::from_millis(250);
/// Time between two writes of what is remembered.
const SAVE_EVERY: Duration = Duration::from_millis(500);
/// Time between two looks of the progress bar.
const DRAW_EVERY: Duration = Duration::from_millis(200);
/// Time between two lines of progress where there is no terminal.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// The time over which events a second are counted.
const RATE_OVER: Duration = Duration::from_secs(5);
/// How long Ctrl-C waits for the answers that are on their way.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

/// What to publish, and how.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
Exit codes: 0 when every line was taken, 1 when some were refused or it could not go on, 130 on Ctrl-C.

A lost connection is made again by itself. Called again after it was ended, timerd publish FILE goes on behind the last \
line that was answered: FILE.published remembers it, as long as the file is the same up to there, and is removed when \
every line was taken. A line whose answer was lost with the connection is sent again and may then be there twice: at \
most as many lines as --window says, and after a kill -9 of the publisher those of its last half second, too.")]
pub struct Options {
    /// A file of newline-delimited JSON, one event a line, or - for stdin
    pub file: PathBuf,
    /// Where to.
    #[command(flatten)]
    pub server: Server,
    /// Lines that may be without an answer at a time, 1..2048
    #[arg(long, value_name = "N", default_value = "1000", value_parser = window)]
    pub window: usize,
    /// Begin from the start, whatever of the file was published before
    #[arg(long)]
    pub again: bool,
    /// Show neither progress nor the result, only what went wrong
    #[arg(long)]
    pub quiet: bool,
    /// What is known of the terminal.
    #[arg(skip)]
    pub terminal: Terminal,
}

fn window(text: &str) -> Result<usize, String> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    let value = text.parse().ok().filter(|value| is_number && (1..=WINDOW_MAX).contains(value));
    value.ok_or_else(|| format!("must be 1..{WINDOW_MAX}"))
}

/// Publishes every line (exit code 0, or 1 when some were refused), until the server refuses (1), or Ctrl-C (130).
pub fn run(options: &Options) -> ExitCode {
    match Publisher::new(options) {
        Ok(mut publisher) => publisher.run(),
        Err(why) => client::refuse(COMMAND, &why),
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Lines.

/// A place in the file, behind a line: where to go on, and what is known of the lines before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Place {
    /// Bytes before it.
    offset: u64,
    /// Lines before it.
    line: u64,
    /// Lines before it that were refused.
    refused: u64,
}

/// A line that is not blank.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    /// Counted from 1.
    number: u64,
    /// Bytes of the file up to its end, the line feed included.
    end: u64,
    /// What to send, or why it cannot be sent.
    text: Result<Utf8Bytes, &'static str>,
}

/// Cuts bytes into lines, however they come.
struct Splitter {
    offset: u64,
    number: u64,
    /// The line that has begun, as long as it is not too long.
    begun: Vec<u8>,
    is_too_long: bool,
}

impl Splitter {
    fn new(from: Place) -> Splitter {
        Splitter { offset: from.offset, number: from.line, begun: Vec::new(), is_too_long: false }
    }

    /// Takes what was read next; the lines it completes go into `lines`.
    fn handle_bytes(&mut self, bytes: &[u8], lines: &mut VecDeque<Line>) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.offset += piece.len() as u64;
            let text = piece.strip_suffix(b"\n").unwrap_or(piece);
            self.is_too_long |= self.begun.len() + text.len() > LINE_BYTES_MAX;
            if self.is_too_long {
                self.begun = Vec::new();
            } else {
                self.begun.extend_from_slice(text);
            }
            if text.len() < piece.len() {
                lines.extend(self.complete());
            }
        }
    }

    /// The end of the file: a last line needs no line feed.
    fn handle_end(&mut self, lines: &mut VecDeque<Line>) {
        if self.is_too_long || !self.begun.is_empty() {
            lines.extend(self.complete());
        }
    }

    fn complete(&mut self) -> Option<Line> {
        self.number += 1;
        let bytes = std::mem::take(&mut self.begun);
        let text = match std::mem::take(&mut self.is_too_long) {
            true => Err("the line is longer than 1 MiB"),
            false => String::from_utf8(bytes).map_err(|_| "the line is not UTF-8"),
        };
        let text = match text.as_deref().map(str::trim) {
            Ok("") => return None,
            Ok(text) => Ok(Utf8Bytes::from(text)),
            Err(why) => Err(*why),
        };
        Some(Line { number: self.number, end: self.offset, text })
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Lines without an answer.

/// How a line stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// To be sent, for the first time or again.
    Waiting,
    Sent,
    Taken,
    Refused,
}

/// What an answer means.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Taken,
    /// The line with this number, for this reason.
    Refused(u64, String),
    /// The line is to be sent again after a while, for this reason.
    Postponed(String),
    /// No answer to a line.
    Else,
}

#[derive(Deserialize)]
struct Answer {
    status: String,
    message: Option<String>,
}

/// The lines that are in between, in the file's order: the first has no answer yet, unless it was just given, and
/// none was sent that is not among them. They are never more than the window.
///
/// | line is | becomes | when |
/// |---|---|---|
/// | waiting | sent | it is its turn |
/// | sent | taken, refused | it is answered so |
/// | sent | waiting | the answer says that it could not be stored now, or the connection is lost |
struct Queue {
    window: usize,
    lines: VecDeque<(Line, State)>,
    bytes: usize,
    /// Before this index no line is waiting.
    next: usize,
    /// How many are sent.
    in_flight: usize,
    /// While something is held back: until when at least. Nothing else is sent then, so that order is kept.
    held_until: Option<Duration>,
    /// How often in a row something was held back.
    holds: u32,
    /// Behind the last line of which all before it are answered as well.
    settled: Place,
    /// Lines taken and refused by now.
    taken: u64,
    refused: u64,
}

impl Queue {
    fn new(window: usize, from: Place) -> Queue {
        Queue {
            window,
            lines: VecDeque::new(),
            bytes: 0,
            next: 0,
            in_flight: 0,
            held_until: None,
            holds: 0,
            settled: from,
            taken: 0,
            refused: 0,
        }
    }

    fn has_room(&self) -> bool {
        self.lines.len() < self.window && self.bytes < QUEUE_BYTES_MAX
    }

    fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Takes the next line of the file; why it is refused, if it cannot even be sent.
    fn push(&mut self, line: Line) -> Verdict {
        let (state, verdict) = match &line.text {
            Ok(text) => {
                self.bytes += text.len();
                (State::Waiting, Verdict::Else)
            }
            Err(why) => {
                self.refused += 1;
                (State::Refused, Verdict::Refused(line.number, (*why).to_owned()))
            }
        };
        self.lines.push_back((line, state));
        self.settle();
        verdict
    }

    /// The next line to send at `at` (elapsed since the start), if there is one; it counts as sent.
    fn next_to_send(&mut self, at: Duration) -> Option<Utf8Bytes> {
        if let Some(until) = self.held_until {
            if self.in_flight > 0 || at < until {
                return None;
            }
            self.held_until = None;
        }
        while let Some((line, state)) = self.lines.get_mut(self.next) {
            self.next += 1;
            if let (State::Waiting, Ok(text)) = (*state, &line.text) {
                *state = State::Sent;
                self.in_flight += 1;
                return Some(text.clone());
            }
        }
        None
    }

    /// Takes a message of the server that came at `at`; `wait` chooses a time up to the one it is given.
    fn handle_answer(&mut self, text: &str, at: Duration, wait: impl FnOnce(Duration) -> Duration) -> Verdict {
        let Ok(Answer { status, message }) = serde_json::from_str(text) else { return Verdict::Else };
        let Some(index) = self.lines.iter().position(|(_, state)| *state == State::Sent) else {
            return Verdict::Else;
        };
        let Some((line, state)) = self.lines.get_mut(index) else { return Verdict::Else };
        self.in_flight -= 1;
        let message = message.unwrap_or_default();
        let verdict = if status == "ok" {
            *state = State::Taken;
            self.taken += 1;
            if self.held_until.is_none() {
                self.holds = 0;
            }
            Verdict::Taken
        } else if NOT_REFUSED.iter().any(|words| message.starts_with(words)) {
            *state = State::Waiting;
            self.next = self.next.min(index);
            if self.held_until.is_none() {
                let max = HOLD_MIN.saturating_mul(1 << self.holds.min(8)).min(RECONNECT_WAIT_MAX);
                self.held_until = Some(at + wait(max));
                self.holds += 1;
            }
            Verdict::Postponed(message)
        } else {
            *state = State::Refused;
            self.refused += 1;
            Verdict::Refused(line.number, message)
        };
        self.settle();
        verdict
    }

    /// The connection is lost, and with it the answers to what was sent; how many lines are to be sent again.
    fn handle_lost(&mut self) -> usize {
        for (_, state) in self.lines.iter_mut().filter(|(_, state)| *state == State::Sent) {
            *state = State::Waiting;
        }
        self.next = 0;
        std::mem::take(&mut self.in_flight)
    }

    fn settle(&mut self) {
        while let Some((line, state)) = self.lines.front() {
            match state {
                State::Waiting | State::Sent => return,
                State::Taken => {}
                State::Refused => self.settled.refused += 1,
            }
            self.settled.offset = line.end;
            self.settled.line = line.number;
            self.bytes -= line.text.as_ref().map_or(0, |text| text.len());
            self.next = self.next.saturating_sub(1);
            self.lines.pop_front();
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------
// How far it is.

/// What is told of the progress: fed with counts and elapsed time.
struct Progress {
    /// Bytes of the file, where it is one.
    total_bytes: Option<u64>,
    /// Lines answered, and when, over the last seconds.
    marks: VecDeque<(Duration, u64)>,
}

impl Progress {
    fn new(total_bytes: Option<u64>) -> Progress {
        Progress { total_bytes, marks: VecDeque::from([(Duration::ZERO, 0)]) }
    }

    /// `12 %, 4711 published, 2 refused, 1200/s` at `at` (elapsed since the start).
    fn text(&mut self, at: Duration, queue: &Queue) -> String {
        let answered = queue.taken + queue.refused;
        self.marks.push_back((at, answered));
        // One mark as old as the time to count over stays.
        while self.marks.get(1).is_some_and(|(then, _)| at.saturating_sub(*then) >= RATE_OVER) {
            self.marks.pop_front();
        }
        let rate = self.marks.front().map_or(0.0, |(then, before)| {
            let span_s = at.saturating_sub(*then).as_secs_f64();
            // Counts of lines: far below what a float holds exactly.
            if span_s > 0.0 { (answered - before) as f64 / span_s } else { 0.0 }
        });
        let share = self.percent(queue).map_or(String::new(), |percent| format!("{percent:>3} %, "));
        format!("{share}{} published, {} refused, {rate:.0}/s", queue.taken, queue.refused)
    }

    /// The same behind a bar, none wider than `columns`.
    fn row(&mut self, at: Duration, queue: &Queue, columns: usize) -> String {
        let text = self.text(at, queue);
        // Two brackets and a space.
        let cells = columns.saturating_sub(columns_of(&text) + 3).min(40);
        let row = match self.percent(queue) {
            Some(percent) if cells >= 5 => format!("{} {text}", bar(cells * percent / 100, cells)),
            _ => text,
        };
        cut(&row, columns)
    }

    /// Percent of the bytes, rounded down; none where there is no end to know.
    fn percent(&self, queue: &Queue) -> Option<usize> {
        let total = u128::from(self.total_bytes?);
        let done = u128::from(queue.settled.offset).min(total) * 100;
        Some(done.checked_div(total).map_or(100, |percent| usize::try_from(percent).unwrap_or(100)))
    }
}

/// Where progress goes: stderr, as a row that is written over, or as lines.
struct Screen {
    quiet: bool,
    /// Whether a row can be written over.
    is_terminal: bool,
    told_at: Duration,
    /// Whether a row stands there.
    drawn: bool,
}

impl Screen {
    fn new(options: &Options) -> Screen {
        let is_terminal = io::stderr().is_terminal() && !options.terminal.is_dumb;
        Screen { quiet: options.quiet, is_terminal, told_at: Duration::ZERO, drawn: false }
    }

    fn show(&mut self, at: Duration, progress: &mut Progress, queue: &Queue) {
        let every = if self.is_terminal { DRAW_EVERY } else { TELL_EVERY };
        if self.quiet || at.saturating_sub(self.told_at) < every {
            return;
        }
        self.told_at = at;
        if self.is_terminal {
            // The last column stays free: many terminals wrap when it is written.
            let columns = terminal_size(io::stderr()).0.saturating_sub(1).max(1);
            let row = progress.row(at, queue, columns);
            // Erasing what is left of the old row, not the whole of it, is what keeps it from flickering.
            let _ = write!(io::stderr(), "\r{row}\x1b[K");
            self.drawn = true;
        } else {
            client::say(COMMAND, &progress.text(at, queue));
        }
    }

    /// Makes room for a line.
    fn clear(&mut self) {
        if std::mem::take(&mut self.drawn) {
            let _ = io::stderr().write_all(b"\r\x1b[K");
        }
    }

    /// Says something that is not to be kept quiet.
    fn say(&mut self, what: &str) {
        self.clear();
        client::say(COMMAND, what);
    }

    /// Says what is nobody's concern who asked for quiet.
    fn mention(&mut self, what: &str) {
        if !self.quiet {
            self.say(what);
        }
    }

    fn refuse_line(&mut self, name: &str, number: u64, why: &str) {
        self.clear();
        let _ = writeln!(io::stderr(), "{}:{number}: {}", visible(name), visible(why));
    }
}

// ---------------------------------------------------------------------------------------------------------------
// What is remembered beside the file.

/// What `FILE.published` holds.
#[derive(Serialize, Deserialize)]
struct Record {
    /// Where the lines went.
    url: String,
    offset: u64,
    line: u64,
    refused: u64,
    /// Of all bytes before `offset`: as long as they are the same, it is the same file, however it has grown.
    sha256: String,
}

/// The place behind the last answered line, kept beside the file.
struct Memory {
    path: PathBuf,
    url: String,
    file: File,
    /// Of the first `hashed` bytes.
    digest: Sha256,
    hashed: u64,
    saved: Place,
    saved_at: Duration,
    /// Whether it was said that it cannot be written.
    has_failed: bool,
}

impl Memory {
    /// The memory of `file`, which is called `name`.
    fn of(file: &File, name: &Path, url: String) -> io::Result<Memory> {
        let mut path = name.as_os_str().to_owned();
        path.push(".published");
        Ok(Memory {
            path: path.into(),
            url,
            file: file.try_clone()?,
            digest: Sha256::new(),
            hashed: 0,
            saved: Place::default(),
            saved_at: Duration::ZERO,
            has_failed: false,
        })
    }

    /// Where to go on; the start, when nothing is remembered.
    ///
    /// # Errors
    /// When something is, but not of this file, or of another server.
    fn recall(&mut self) -> Result<Place, String> {
        let path = self.path.display().to_string();
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Place::default()),
            Err(error) => return Err(format!("{path}: {error}")),
        };
        let start_again = "--again begins from the start";
        let record: Record =
            serde_json::from_str(&text).map_err(|_| format!("{path} does not say where to go on: {start_again}"))?;
        if record.url != self.url {
            return Err(format!("{path} is about a publication to {}: {start_again}", record.url));
        }
        let same = self.digest_up_to(record.offset).map_err(|error| format!("cannot read the file: {error}"))?;
        if same.as_ref() != Some(&record.sha256) {
            return Err(format!(
                "the file has changed since {} lines of it were published: {start_again}",
                record.line
            ));
        }
        self.saved = Place { offset: record.offset, line: record.line, refused: record.refused };
        Ok(self.saved)
    }

    /// The digest of the first `offset` bytes, in hex; none where there are fewer.
    fn digest_up_to(&mut self, offset: u64) -> io::Result<Option<String>> {
        let mut chunk = vec![0; READ_BYTES];
        while self.hashed < offset {
            let wanted = usize::try_from(offset - self.hashed).map_or(chunk.len(), |left| left.min(chunk.len()));
            match self.file.read_at(chunk.get_mut(..wanted).unwrap_or_default(), self.hashed) {
                Ok(0) => return Ok(None),
                Ok(n) => {
                    self.digest.update(chunk.get(..n).unwrap_or_default());
                    self.hashed += n as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let digest = self.digest.clone().finalize();
        Ok(Some(digest.iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    /// Remembers `place`; what there is to say when it cannot, once.
    fn save(&mut self, place: Place, at: Duration) -> Option<String> {
        if place == self.saved {
            return None;
        }
        self.saved_at = at;
        match self.write(place) {
            Ok(()) => {
                self.saved = place;
                None
            }
            Err(_) if self.has_failed => None,
            Err(error) => {
                self.has_failed = true;
                Some(format!("{}: {error}; where to go on is not remembered", self.path.display()))
            }
        }
    }

    fn write(&mut self, place: Place) -> io::Result<()> {
        let sha256 = self.digest_up_to(place.offset)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let Place { offset, line, refused } = place;
        let record = Record { url: self.url.clone(), offset, line, refused, sha256 };
        let mut text = serde_json::to_string(&record)?;
        text.push('\n');
        let mut new = self.path.clone().into_os_string();
        new.push(".new");
        let mut file = File::create(&new)?;
        file.write_all(text.as_bytes())?;
        // Before the rename, which would otherwise outlive a power cut without its content.
        file.sync_data()?;
        fs::rename(&new, &self.path)
    }

    /// Forgets: everything was taken, or is to be published again.
    fn forget(&self) -> Result<(), String> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(format!("{}: {error}", self.path.display())),
            _ => Ok(()),
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Publishing.

/// The whole of it.
struct Publisher<'a> {
    options: &'a Options,
    /// What lines are called in messages.
    name: String,
    input: File,
    /// Whether the input is at its end.
    has_ended: bool,
    /// Why it could not be read to its end.
    failure: Option<String>,
    splitter: Splitter,
    /// Lines for which the queue has no room yet.
    read: VecDeque<Line>,
    queue: Queue,
    /// None where the input is no file.
    memory: Option<Memory>,
    progress: Progress,
    screen: Screen,
    start: Instant,
    /// Why there is no connection, as it was last said.
    lost: Option<String>,
}

impl<'a> Publisher<'a> {
    /// Opens the input and finds the place in it.
    fn new(options: &'a Options) -> Result<Publisher<'a>, String> {
        let is_stdin = options.file.as_os_str() == "-";
        let name = if is_stdin { "stdin".to_owned() } else { options.file.display().to_string() };
        let within = |error: io::Error| format!("{name}: {error}");
        let mut input = if is_stdin {
            File::from(io::stdin().as_fd().try_clone_to_owned().map_err(within)?)
        } else {
            File::open(&options.file).map_err(within)?
        };
        let known = input.metadata().map_err(within)?;
        if known.is_dir() {
            return Err(format!("{name} is a directory"));
        }
        let is_file = known.is_file();
        let mut from = Place::default();
        let mut memory = None;
        if is_file && !is_stdin {
            // Two of us would send every line twice, and remember each for the other.
            if let Err(TryLockError::WouldBlock) = input.try_lock() {
                return Err(format!("{name} is being published already"));
            }
            let mut known = Memory::of(&input, &options.file, options.server.url.to_string()).map_err(within)?;
            if options.again {
                known.forget()?;
            }
            from = known.recall()?;
            input.seek(SeekFrom::Start(from.offset)).map_err(within)?;
            memory = Some(known);
        }
        Ok(Publisher {
            options,
            name,
            input,
            has_ended: false,
            failure: None,
            splitter: Splitter::new(from),
            read: VecDeque::new(),
            queue: Queue::new(options.window, from),
            memory,
            progress: Progress::new(is_file.then_some(known.len())),
            screen: Screen::new(options),
            start: Instant::now(),
            lost: None,
        })
    }

    fn run(&mut self) -> ExitCode {
        // Not before the place is found: reading a long file once more may be interrupted in the ordinary way.
        let interrupted = match client::interrupted_by_signals() {
            Ok(interrupted) => interrupted,
            Err(why) => return client::refuse(COMMAND, &why),
        };
        let before = self.queue.settled;
        if before.line > 0 {
            let refused = before.refused;
            self.screen.mention(&format!("going on behind line {}, {refused} before it were refused", before.line));
        }
        let end = self.publish_all(&interrupted);
        let at = self.start.elapsed();
        self.save(at);
        if end.code == 0
            && let Some(Err(why)) = self.memory.as_ref().map(Memory::forget)
        {
            self.screen.say(&why);
        }
        self.screen.clear();
        let Queue { taken, refused, .. } = self.queue;
        self.screen.mention(&format!("published {taken}, refused {refused}, {:.1} s", at.as_secs_f64()));
        if !end.why.is_empty() {
            self.screen.say(&end.why);
        }
        ExitCode::from(end.code)
    }

    /// Publishes until everything is answered or it cannot go on.
    fn publish_all(&mut self, interrupted: &AtomicBool) -> End {
        loop {
            // A file without anything left needs no server.
            if self.memory.is_some() {
                self.take_lines();
            }
            if self.is_done() {
                return self.finished();
            }
            let outcome = match self.connect(interrupted) {
                Ok(mut socket) => self.exchange(&mut socket, interrupted),
                Err(outcome) => outcome,
            };
            let in_doubt = self.queue.handle_lost();
            self.save(self.start.elapsed());
            let why = match outcome {
                Outcome::Over(end) => return end,
                Outcome::Again(why) | Outcome::AtOnce(why) => why,
            };
            if self.lost.as_ref() != Some(&why) {
                self.screen.say(&match in_doubt {
                    0 => format!("{why}; reconnecting"),
                    _ => format!("{why}; reconnecting, {in_doubt} lines without an answer are sent again"),
                });
            }
            self.lost = Some(why);
            let until = self.start.elapsed() + random_wait(RECONNECT_WAIT_MAX);
            while self.start.elapsed() < until {
                if interrupted.load(Ordering::Relaxed) {
                    return interruption();
                }
                std::thread::sleep(LOOK_EVERY.min(until.saturating_sub(self.start.elapsed())));
                self.show();
            }
        }
    }

    /// Connects, ready to be interrupted.
    fn connect(&mut self, interrupted: &AtomicBool) -> Result<WebSocket<TcpStream>, Outcome> {
        let (tell, made) = sync_channel(1);
        let server = self.options.server.clone();
        client::in_background(move || {
            // Nobody waits for it any more after an interruption.
            let _ = tell.send(client::connect(&server, "publish", outcome_of));
        })
        .map_err(|why| Outcome::over(1, why))?;
        loop {
            match made.recv_timeout(LOOK_EVERY) {
                Ok(made) => return made,
                Err(RecvTimeoutError::Disconnected) => return Err(Outcome::over(1, "the network thread ended")),
                Err(RecvTimeoutError::Timeout) if interrupted.load(Ordering::Relaxed) => {
                    return Err(Outcome::Over(interruption()));
                }
                Err(RecvTimeoutError::Timeout) => self.show(),
            }
        }
    }

    /// Sends and takes answers on one connection, until everything is answered or it ends.
    fn exchange(&mut self, socket: &mut WebSocket<TcpStream>, interrupted: &AtomicBool) -> Outcome {
        if let Err(error) = socket.get_ref().set_nonblocking(true) {
            return Outcome::Again(error.to_string());
        }
        let mut heard_at = self.start.elapsed();
        let mut asked = false;
        let mut leave_at = None;
        let mut is_readable = false;
        loop {
            let at = self.start.elapsed();
            // Answers first: they make room, and what came before a loss is known before it.
            loop {
                match socket.read() {
                    Ok(Message::Text(text)) => self.handle_answer(text.as_str(), at),
                    Ok(Message::Close(frame)) => return outcome_of(frame.map(|frame| u16::from(frame.code))),
                    Ok(_) => {}
                    Err(tungstenite::Error::Io(error)) if is_timeout(&error) => break,
                    Err(error) => return Outcome::Again(loss(&error)),
                }
                (heard_at, asked) = (at, false);
            }
            let silence = at.saturating_sub(heard_at);
            if silence > SILENCE_MAX {
                return Outcome::Again(format!("no answer for {} s", silence.as_secs()));
            }
            if interrupted.load(Ordering::Relaxed) {
                let leave_at = *leave_at.get_or_insert(at + FAREWELL_MAX);
                if self.queue.in_flight == 0 || at >= leave_at {
                    let _ = socket.close(None);
                    return Outcome::Over(interruption());
                }
            } else if self.is_done() {
                let _ = socket.close(None);
                return Outcome::Over(self.finished());
            }
            if silence > SILENCE_BEFORE_PING && !asked {
                asked = true;
                // A failure shows in the next read.
                let _ = socket.write(Message::Ping(Bytes::new()));
            }
            // Before sending, so that the room that answers made is used in this turn.
            if leave_at.is_none() && (is_readable || !self.read.is_empty()) {
                self.take_lines();
            }
            let sent = if leave_at.is_none() { self.send(socket, at) } else { socket.flush() };
            let is_blocked = match sent {
                Ok(()) => false,
                Err(tungstenite::Error::Io(error)) if is_timeout(&error) => true,
                Err(error) => return Outcome::Again(loss(&error)),
            };
            self.show();
            if let Some(memory) = &self.memory
                && at.saturating_sub(memory.saved_at) >= SAVE_EVERY
            {
                self.save(at);
            }
            is_readable = self.wait(socket.get_ref(), is_blocked, leave_at.is_none());
        }
    }

    /// Sends what may be sent. A frame that does not go out at once is kept by tungstenite, and is not sent again.
    fn send(&mut self, socket: &mut WebSocket<TcpStream>, at: Duration) -> tungstenite::Result<()> {
        // What is left over goes first, so that its buffer does not grow.
        socket.flush()?;
        while let Some(text) = self.queue.next_to_send(at) {
            socket.write(Message::Text(text))?;
        }
        socket.flush()
    }

    /// Waits until there is something to do; whether the input can be read.
    fn wait(&self, stream: &TcpStream, is_blocked: bool, may_read: bool) -> bool {
        let interest = if is_blocked { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
        let wants_lines = may_read && !self.has_ended && self.read.is_empty() && self.queue.has_room();
        let mut ends = vec![PollFd::new(stream, interest)];
        if wants_lines {
            ends.push(PollFd::new(&self.input, PollFlags::IN));
        }
        let time = Timespec { tv_sec: 0, tv_nsec: i64::from(LOOK_EVERY.subsec_nanos()) };
        // Interrupted by a signal, it is looked at like any other end of waiting.
        let _ = poll(&mut ends, Some(&time));
        ends.get(1).is_some_and(|input| !input.revents().is_empty())
    }

    /// Moves lines into the queue as long as there is room, with one read at most, which waits if there is nothing.
    fn take_lines(&mut self) {
        if self.read.is_empty() && !self.has_ended && self.queue.has_room() {
            let mut chunk = vec![0; READ_BYTES];
            match self.input.read(&mut chunk) {
                Ok(0) => {
                    self.has_ended = true;
                    self.splitter.handle_end(&mut self.read);
                }
                Ok(n) => self.splitter.handle_bytes(chunk.get(..n).unwrap_or_default(), &mut self.read),
                Err(error) if is_timeout(&error) => {}
                Err(error) => {
                    self.has_ended = true;
                    self.failure = Some(format!("{}: {error}", self.name));
                }
            }
        }
        while self.queue.has_room()
            && let Some(line) = self.read.pop_front()
        {
            if let Verdict::Refused(number, why) = self.queue.push(line) {
                self.screen.refuse_line(&self.name, number, &why);
            }
        }
    }

    fn handle_answer(&mut self, text: &str, at: Duration) {
        match self.queue.handle_answer(text, at, random_wait) {
            Verdict::Taken => self.lost = None,
            Verdict::Refused(number, why) => self.screen.refuse_line(&self.name, number, &why),
            Verdict::Postponed(why) if self.lost.as_ref() != Some(&why) => {
                self.screen.say(&format!("{why}; trying again"));
                self.lost = Some(why);
            }
            Verdict::Postponed(_) | Verdict::Else => {}
        }
    }

    fn is_done(&self) -> bool {
        self.has_ended && self.read.is_empty() && self.queue.is_empty()
    }

    /// The end of what was read to its end.
    fn finished(&mut self) -> End {
        match self.failure.take() {
            Some(why) => End { code: 1, why },
            None => End { code: u8::from(self.queue.settled.refused > 0), why: String::new() },
        }
    }

    fn show(&mut self) {
        self.screen.show(self.start.elapsed(), &mut self.progress, &self.queue);
    }

    fn save(&mut self, at: Duration) {
        if let Some(why) = self.memory.as_mut().and_then(|memory| memory.save(self.queue.settled, at)) {
            self.screen.say(&why);
        }
    }
}

fn interruption() -> End {
    End { code: EXIT_INTERRUPTED, why: "interrupted".to_owned() }
}

/// What a close code means for us.
fn outcome_of(code: Option<u16>) -> Outcome {
    match code {
        Some(4004) => Outcome::over(1, "the server takes no events"),
        code => client::outcome_of(code),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    const OK: &str = r#"{"status":"ok","event_id":"evt_0123456789ab"}"#;
    const WRONG: &str = r#"{"status":"error","message":"Invalid JSON"}"#;
    const LATER: &str = r#"{"status":"error","message":"Nothing was stored: the disk is full"}"#;

    fn seconds(s: f64) -> Duration {
        Duration::from_secs_f64(s)
    }

    fn lines_of(pieces: &[&[u8]]) -> Vec<Line> {
        let mut splitter = Splitter::new(Place::default());
        let mut lines = VecDeque::new();
        for piece in pieces {
            splitter.handle_bytes(piece, &mut lines);
        }
        splitter.handle_end(&mut lines);
        lines.into()
    }

    /// A queue with the lines 1, 2, .. of ten bytes each.
    fn queue(window: usize, lines: u64) -> Queue {
        let mut queue = Queue::new(window, Place::default());
        for number in 1..=lines {
            queue.push(Line { number, end: number * 10, text: Ok(Utf8Bytes::from(number.to_string())) });
        }
        queue
    }

    /// The lines that are sent at `at`.
    fn sent(queue: &mut Queue, at: f64) -> Vec<u64> {
        std::iter::from_fn(|| queue.next_to_send(seconds(at))).map(|text| text.as_str().parse().unwrap()).collect()
    }

    fn answer(queue: &mut Queue, text: &str, at: f64) -> Verdict {
        queue.handle_answer(text, seconds(at), |max| max)
    }

    fn place(line: u64, refused: u64) -> Place {
        Place { offset: line * 10, line, refused }
    }

    #[test]
    fn lines_however_they_come() {
        let line = |number, end, text: &'static str| Line { number, end, text: Ok(Utf8Bytes::from_static(text)) };
        let text = b"{}\r\n\n \t\r\n{\"a\"}\n\xc3\xa9";
        let expected = [line(1, 4, "{}"), line(4, 15, "{\"a\"}"), line(5, 17, "é")];
        assert_eq!(lines_of(&[text]), expected);
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(lines_of(&bytes), expected);
        assert_eq!(lines_of(&[b"", b"\n\n"]), []);
    }

    #[test]
    fn lines_that_cannot_be_sent() {
        let long = "x".repeat(LINE_BYTES_MAX + 1);
        let most = "y".repeat(LINE_BYTES_MAX);
        let text = format!("{long}\n{most}\nz\n{long}");
        let found = lines_of(&[text.as_bytes()]);
        let kinds: Vec<(u64, bool)> = found.iter().map(|line| (line.number, line.text.is_ok())).collect();
        assert_eq!(kinds, [(1, false), (2, true), (3, true), (4, false)]);
        assert_eq!(found.last().unwrap().end, text.len() as u64);
        let found = lines_of(&[b"a\n\xff\xfe\nb\n"]);
        assert_eq!(found[1], Line { number: 2, end: 5, text: Err("the line is not UTF-8") });
        assert_eq!(found[2].text, Ok(Utf8Bytes::from_static("b")));
    }

    #[test]
    fn answers_settle_lines_in_order() {
        let mut queue = queue(3, 3);
        assert!(!queue.has_room());
        assert_eq!(sent(&mut queue, 0.0), [1, 2, 3]);
        assert_eq!(answer(&mut queue, OK, 0.0), Verdict::Taken);
        assert_eq!(answer(&mut queue, WRONG, 0.0), Verdict::Refused(2, "Invalid JSON".to_owned()));
        assert_eq!((queue.settled, queue.has_room(), queue.in_flight), (place(2, 1), true, 1));
        for noise in [r#"{"type":"pong"}"#, "", "[]"] {
            assert_eq!(answer(&mut queue, noise, 0.0), Verdict::Else);
        }
        assert_eq!(answer(&mut queue, OK, 0.0), Verdict::Taken);
        assert_eq!((queue.settled, queue.is_empty(), queue.bytes), (place(3, 1), true, 0));
        assert_eq!(answer(&mut queue, OK, 0.0), Verdict::Else, "nobody asked");
        assert_eq!((queue.taken, queue.refused), (2, 1));
    }

    #[test]
    fn a_line_refused_here_waits_for_those_before_it() {
        let mut queue = queue(9, 1);
        let local = queue.push(Line { number: 2, end: 20, text: Err("no") });
        assert_eq!((local, queue.refused), (Verdict::Refused(2, "no".to_owned()), 1));
        queue.push(Line { number: 3, end: 30, text: Ok(Utf8Bytes::from_static("3")) });
        assert_eq!(queue.settled, place(0, 0));
        assert_eq!(sent(&mut queue, 0.0), [1, 3]);
        answer(&mut queue, OK, 0.0);
        assert_eq!(queue.settled, place(2, 1));
    }

    #[test]
    fn a_lost_connection_sends_again_from_the_first_line_without_an_answer() {
        let mut queue = queue(9, 5);
        assert_eq!(sent(&mut queue, 0.0).len(), 5);
        answer(&mut queue, OK, 0.0);
        answer(&mut queue, WRONG, 0.0);
        assert_eq!(queue.handle_lost(), 3);
        assert_eq!(sent(&mut queue, 0.0), [3, 4, 5]);
        assert_eq!(queue.handle_lost(), 3);
        assert_eq!(queue.handle_lost(), 0);
    }

    #[test]
    fn a_line_that_could_not_be_stored_is_sent_again_and_nothing_before_it() {
        let mut queue = queue(9, 4);
        assert_eq!(sent(&mut queue, 0.0), [1, 2, 3, 4]);
        answer(&mut queue, OK, 0.0);
        assert!(matches!(answer(&mut queue, LATER, 0.0), Verdict::Postponed(_)));
        assert_eq!(answer(&mut queue, OK, 0.0), Verdict::Taken, "3 is stored already");
        queue.push(Line { number: 5, end: 50, text: Ok(Utf8Bytes::from_static("5")) });
        assert_eq!(sent(&mut queue, 9.0), [] as [u64; 0], "4 is without an answer");
        let unknown = r#"{"status":"error","message":"Outcome unknown: the disk does not answer"}"#;
        assert!(matches!(answer(&mut queue, unknown, 0.0), Verdict::Postponed(_)));
        assert_eq!(queue.settled, place(1, 0));
        assert_eq!(sent(&mut queue, 0.2), [] as [u64; 0], "too early");
        assert_eq!(sent(&mut queue, 0.25), [2, 4, 5]);
        for _ in 0..3 {
            answer(&mut queue, OK, 1.0);
        }
        assert_eq!((queue.settled, queue.is_empty(), queue.refused), (place(5, 0), true, 0));
    }

    #[test]
    fn the_wait_grows_while_nothing_can_be_stored() {
        let mut queue = queue(9, 1);
        let mut at = 0.0;
        let mut waits = Vec::new();
        for _ in 0..7 {
            assert_eq!(sent(&mut queue, at), [1]);
            answer(&mut queue, LATER, at);
            let until = queue.held_until.unwrap();
            waits.push((until - seconds(at)).as_millis());
            at = until.as_secs_f64();
        }
        assert_eq!(waits, [250, 500, 1000, 2000, 4000, 5000, 5000]);
        assert_eq!(sent(&mut queue, at), [1]);
        answer(&mut queue, OK, at);
        assert_eq!(queue.holds, 0);
    }

    #[test]
    fn progress() {
        let mut queue = queue(9, 4);
        let mut progress = Progress::new(Some(80));
        assert_eq!(progress.text(seconds(0.0), &queue), "  0 %, 0 published, 0 refused, 0/s");
        sent(&mut queue, 0.0);
        for text in [OK, OK, OK, WRONG] {
            answer(&mut queue, text, 1.0);
        }
        assert_eq!(progress.text(seconds(2.0), &queue), " 50 %, 3 published, 1 refused, 2/s");
        // The first seconds do not count for ever.
        assert_eq!(progress.text(seconds(8.0), &queue), " 50 %, 3 published, 1 refused, 0/s");
        let row = progress.row(seconds(8.0), &queue, 60);
        assert_eq!(row, "[###########------------]  50 %, 3 published, 1 refused, 0/s");
        for columns in 1..60 {
            assert!(columns_of(&progress.row(seconds(8.0), &queue, columns)) <= columns);
        }
        let mut endless = Progress::new(None);
        assert_eq!(endless.row(seconds(2.0), &queue, 60), "3 published, 1 refused, 2/s");
        assert_eq!(Progress::new(Some(0)).percent(&queue), Some(100));
        assert_eq!(Progress::new(Some(41)).percent(&queue), Some(97), "done when it is");
    }

    #[test]
    fn what_is_remembered_holds_for_the_same_file_and_server_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events");
        fs::write(&path, "a\nb\nc\n").unwrap();
        let memory = |url: &str| Memory::of(&File::open(&path).unwrap(), &path, url.to_owned()).unwrap();
        let recalled = |url: &str| memory(url).recall();
        assert_eq!(recalled("u"), Ok(Place::default()));
        let behind = Place { offset: 4, line: 2, refused: 1 };
        let mut first = memory("u");
        assert_eq!(first.save(Place { offset: 2, line: 1, refused: 0 }, seconds(0.0)), None);
        assert_eq!(first.save(behind, seconds(1.0)), None);
        assert_eq!(recalled("u"), Ok(behind));
        fs::write(&path, "a\nb\nc\nand more\n").unwrap();
        assert_eq!(recalled("u"), Ok(behind), "it may grow");
        assert!(recalled("elsewhere").unwrap_err().contains("--again"));
        for changed in ["a\nx\nc\n", "x\nb\nc\n", "a\n", ""] {
            fs::write(&path, changed).unwrap();
            assert!(recalled("u").unwrap_err().contains("has changed"), "{changed:?}");
        }
        fs::write(folder.path().join("events.published"), "{").unwrap();
        assert!(recalled("u").unwrap_err().contains("--again"));
        memory("u").forget().unwrap();
        memory("u").forget().unwrap();
        assert_eq!(recalled("u"), Ok(Place::default()));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left behind");
    }

    #[test]
    fn windows() {
        assert_eq!(window("2048"), Ok(2048));
        for text in ["", "0", "2049", "+5", "x"] {
            assert!(window(text).is_err(), "{text}");
        }
    }

    /// What a server does on one connection; the lines it stores.
    type Script = fn(&mut WebSocket<TcpStream>, &mut Vec<String>);

    /// A server that plays one script a connection; the lines it has stored.
    fn serve(listener: &TcpListener, scripts: Vec<Script>) -> Vec<String> {
        let mut stored = Vec::new();
        for script in scripts {
            let (stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(seconds(10.0))).unwrap();
            script(&mut tungstenite::accept(stream).unwrap(), &mut stored);
        }
        stored
    }

    fn next(socket: &mut WebSocket<TcpStream>) -> Option<String> {
        match socket.read() {
            Ok(Message::Text(text)) => Some(text.as_str().to_owned()),
            _ => None,
        }
    }

    #[test]
    fn every_line_arrives_over_a_lost_connection_and_a_full_disk() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("events");
        fs::write(&file, (1..=50).map(|n| format!("{n}\n")).collect::<String>()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let scripts: Vec<Script> = vec![
            // Stores ten and answers five.
            |socket, stored| {
                stored.extend(std::iter::from_fn(|| next(socket)).take(10));
                socket.get_ref().set_read_timeout(Some(seconds(0.3))).unwrap();
                assert_eq!(next(socket), None, "more than the window is in flight");
                (0..5).for_each(|_| socket.send(Message::text(OK)).unwrap());
                // Each answer brings a line: once these are here the answers have been read, and the end overtakes
                // none.
                socket.get_ref().set_read_timeout(Some(seconds(10.0))).unwrap();
                (0..5).for_each(|_| assert!(next(socket).is_some()));
            },
            // Cannot store what comes second, once.
            |socket, stored| {
                let mut count = 0;
                while let Some(line) = next(socket) {
                    count += 1;
                    if count == 2 {
                        socket.send(Message::text(LATER)).unwrap();
                    } else {
                        stored.push(line);
                        socket.send(Message::text(OK)).unwrap();
                    }
                }
            },
        ];
        let server = std::thread::spawn(move || serve(&listener, scripts));
        let options = Options {
            file: file.clone(),
            server: Server { url, key: None },
            window: 10,
            again: false,
            quiet: true,
            terminal: Terminal::default(),
        };
        let mut publisher = Publisher::new(&options).unwrap();
        assert!(Publisher::new(&options).is_err_and(|why| why.contains("already")));
        let end = publisher.publish_all(&AtomicBool::new(false));
        assert_eq!(end, End { code: 0, why: String::new() });
        assert_eq!((publisher.queue.taken, publisher.queue.settled.line), (50, 50));
        drop(publisher);
        let stored: Vec<u64> = server.join().unwrap().iter().map(|line| line.parse().unwrap()).collect();
        let mut expected: Vec<u64> = (1..=10).chain(6..=50).collect();
        // The seventh had to wait for those that were under way: the rest of the window, at most.
        let seventh = stored.iter().skip(10).position(|line| *line == 7).unwrap();
        assert!((1..=10).contains(&seventh), "{stored:?}");
        let mut sorted = stored;
        sorted.sort_unstable();
        expected.sort_unstable();
        assert_eq!(sorted, expected);
    }
}
