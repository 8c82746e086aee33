//! Log lines: human ones on stderr, fields in the journal.
//!
//! Owns the logger behind the `log` crate: the two forms of a line, the choice between them, and the promise that
//! writing one never makes the loop wait. It knows no configuration and no service; whoever logs gives a message and
//! key-value pairs.
//!
//! Invariants: a line that cannot be taken at once (a pipe nobody reads, a stopped terminal, a journal that lags) is
//! dropped and counted, and the count is told when lines pass again; one record is one line, whatever characters a
//! timer's name has; a line has a bound.
//!
//! The journal's protocol is spoken here (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>); only the question whether
//! stderr is the journal is left to `systemd-journal-logger`. That crate's own socket is private and blocking: a
//! journal which stops reading would stop the clock.

use std::fmt::Write as _;
use std::io::{self, Stderr};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use log::kv::{Error, Key, Value, VisitSource};
use log::{Level, LevelFilter, Log, Metadata, Record};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::clock::{self, WallMs};

/// Bytes of one line: PIPE_BUF on Linux, since poll(2) calls a pipe writable when that much fits without waiting, and
/// that much is written whole.
const LINE_BYTES_MAX: usize = 4096;
/// Bytes of a message or of one field in the journal; a datagram of a full record stays below the socket's buffer.
const FIELD_BYTES_MAX: usize = 16 << 10;
/// Where journald listens.
const JOURNAL_SOCKET: &str = "/run/systemd/journal/socket";
/// The name of the daemon in the journal.
const IDENTIFIER: &str = "timerd";

/// The form of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// The journal's when stderr is connected to it, as under systemd, else human
    #[default]
    Auto,
    /// One line of text on stderr
    Human,
    /// Fields sent to journald
    Journal,
}

/// Installs the logger of the process; to be called once, before the first line.
///
/// # Errors
/// One line when journald cannot be reached although `format` demands it, or a logger is installed already.
pub fn init(format: Format, level: LevelFilter) -> Result<(), String> {
    let journal = match format {
        Format::Human => None,
        Format::Journal => Some(Journal::connect().map_err(|error| format!("cannot reach journald: {error}"))?),
        // Under systemd a journal that does not answer is no reason not to start: its stream is stderr.
        Format::Auto if systemd_journal_logger::connected_to_journal() => Journal::connect().ok(),
        Format::Auto => None,
    };
    let logger: Box<dyn Log> = match journal {
        Some(journal) => Box::new(journal),
        None => Box::new(Human::new(io::stderr())),
    };
    log::set_boxed_logger(logger).map_err(|error| error.to_string())?;
    set_level(level);
    Ok(())
}

/// Sets the least important level that is still logged, from now on.
pub fn set_level(level: LevelFilter) {
    log::set_max_level(level);
}

// ---------------------------------------------------------------------------------------------------------------
// Human lines.

/// What human lines go to.
trait Sink: Send + Sync {
    /// Writes once if that would not wait, at most [`LINE_BYTES_MAX`]; how many bytes were taken.
    fn offer(&self, line: &[u8]) -> usize;
}

impl Sink for Stderr {
    fn offer(&self, line: &[u8]) -> usize {
        // The lock keeps two threads from being promised the same room.
        let stderr = self.lock();
        if is_writable(&stderr) { rustix::io::write(&stderr, line).unwrap_or(0) } else { 0 }
    }
}

/// Whether `fd` would take a line of [`LINE_BYTES_MAX`] at once.
fn is_writable(fd: &impl AsFd) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::OUT)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
        && fds.iter().all(|fd| fd.revents().contains(PollFlags::OUT))
}

struct Human<S> {
    sink: S,
    dropped: AtomicU64,
    /// The last line was cut by the sink: the next begins with a line feed.
    cut: AtomicBool,
}

impl<S: Sink> Human<S> {
    fn new(sink: S) -> Self {
        Human { sink, dropped: AtomicU64::new(0), cut: AtomicBool::new(false) }
    }

    /// Writes `line` if it is taken at once. The count of dropped lines goes first, in a write of its own, since each
    /// write needs an answer of its own to the question whether it fits.
    fn push(&self, at: WallMs, line: &str) {
        let dropped = self.dropped.load(Ordering::Relaxed);
        if dropped > 0 {
            let said = self.write_line(&human_line(at, Level::Warn, &dropped_message(dropped), ""));
            if said {
                self.dropped.fetch_sub(dropped, Ordering::Relaxed);
            }
        }
        if !self.write_line(line) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn write_line(&self, line: &str) -> bool {
        let was_cut = self.cut.load(Ordering::Relaxed);
        let bytes = if was_cut { format!("\n{line}") } else { line.to_owned() };
        let taken = self.sink.offer(bytes.as_bytes());
        if taken > 0 {
            self.cut.store(taken < bytes.len(), Ordering::Relaxed);
        }
        taken > 0
    }
}

impl<S: Sink> Log for Human<S> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let at = clock::sample().wall;
            let mut pairs = Pairs(String::new());
            // A value that fails to print has printed what it could; there is nobody to tell.
            let _ = record.key_values().visit(&mut pairs);
            self.push(at, &human_line(at, record.level(), &record.args().to_string(), &pairs.0));
        }
    }

    fn flush(&self) {
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        let line = human_line(clock::sample().wall, Level::Warn, &dropped_message(dropped), "");
        if dropped > 0 && !self.write_line(&line) {
            self.dropped.fetch_add(dropped, Ordering::Relaxed);
        }
    }
}

/// `2026-02-01T10:00:00.123Z INFO  message key=value` with its line feed; `pairs` begins with a space or is empty.
fn human_line(at: WallMs, level: Level, message: &str, pairs: &str) -> String {
    let time = jiff::Timestamp::from_millisecond(at.ms()).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let mut line = format!("{time:.3} {level:<5} ");
    escape_into(&mut line, message);
    line.push_str(pairs);
    // One byte less for the line feed, one more for that of a cut line before it, three for the mark.
    truncate(&mut line, LINE_BYTES_MAX - 2);
    line.push('\n');
    line
}

struct Pairs(String);

impl<'kvs> VisitSource<'kvs> for Pairs {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        let value = value.to_string();
        self.0.push(' ');
        escape_into(&mut self.0, key.as_str());
        self.0.push('=');
        // What a reader, or a script, would take apart is quoted.
        if value.is_empty() || value.contains([' ', '"', '=', '\\']) {
            self.0.push('"');
            escape_into(&mut self.0, &value.replace('\\', "\\\\").replace('"', "\\\""));
            self.0.push('"');
        } else {
            escape_into(&mut self.0, &value);
        }
        Ok(())
    }
}

fn dropped_message(count: u64) -> String {
    if count == 1 { "1 log line was dropped".to_owned() } else { format!("{count} log lines were dropped") }
}

/// Appends `text` with everything escaped that would end the line, move the cursor, or turn the direction of writing.
fn escape_into(line: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            '\t' => line.push_str("\\t"),
            c if c.is_control() || is_unseen(c) => {
                // Writing to a String does not fail.
                let _ = write!(line, "\\u{{{:x}}}", u32::from(c));
            }
            c => line.push(c),
        }
    }
}

/// Line and paragraph separators, and the marks that reverse or isolate writing (Unicode standard annex 9).
fn is_unseen(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Cuts `text` to `bytes_max` at a character's boundary, and marks it.
fn truncate(text: &mut String, bytes_max: usize) {
    const MARK: &str = "...";
    if text.len() > bytes_max {
        let end = (0..=bytes_max.saturating_sub(MARK.len())).rev().find(|&end| text.is_char_boundary(end));
        text.truncate(end.unwrap_or(0));
        text.push_str(MARK);
    }
}

// ---------------------------------------------------------------------------------------------------------------
// The journal.

struct Journal {
    socket: UnixDatagram,
    dropped: AtomicU64,
}

impl Journal {
    fn connect() -> io::Result<Journal> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        let journal = Journal { socket, dropped: AtomicU64::new(0) };
        // journald ignores an empty datagram; without a journald this fails.
        match journal.send(&[]) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(journal),
        }
    }

    /// Sends by address, not over a connected socket: the journal may be restarted.
    fn send(&self, datagram: &[u8]) -> io::Result<()> {
        self.socket.send_to(datagram, JOURNAL_SOCKET).map(drop)
    }
}

impl Log for Journal {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            self.flush();
            if self.send(&journal_datagram(record)).is_err() {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn flush(&self) {
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            let message = dropped_message(dropped);
            let datagram =
                journal_datagram(&Record::builder().level(Level::Warn).args(format_args!("{message}")).build());
            if self.send(&datagram).is_err() {
                self.dropped.fetch_add(dropped, Ordering::Relaxed);
            }
        }
    }
}

/// One record in the journal's native form: the message, its priority, where it came from, and each pair as a field
/// in capitals.
fn journal_datagram(record: &Record<'_>) -> Vec<u8> {
    // Priorities of syslog, RFC 5424 section 6.2.1.
    let priority = match record.level() {
        Level::Error => "3",
        Level::Warn => "4",
        Level::Info => "6",
        Level::Debug | Level::Trace => "7",
    };
    let mut message = String::new();
    escape_into(&mut message, &record.args().to_string());
    let mut fields = Fields(Vec::with_capacity(512));
    fields.push("PRIORITY", priority);
    fields.push("SYSLOG_IDENTIFIER", IDENTIFIER);
    fields.push("MESSAGE", &message);
    if !record.target().is_empty() {
        fields.push("TARGET", record.target());
    }
    if let (Some(file), Some(line)) = (record.file(), record.line()) {
        fields.push("CODE_FILE", file);
        fields.push("CODE_LINE", &line.to_string());
    }
    let _ = record.key_values().visit(&mut fields);
    fields.0
}

struct Fields(Vec<u8>);

impl Fields {
    /// Appends a field in the form with an explicit length, which no value can break out of.
    fn push(&mut self, name: &str, value: &str) {
        let mut value = value.to_owned();
        truncate(&mut value, FIELD_BYTES_MAX);
        self.0.extend_from_slice(name.as_bytes());
        self.0.push(b'\n');
        self.0.extend_from_slice(&(value.len() as u64).to_le_bytes());
        self.0.extend_from_slice(value.as_bytes());
        self.0.push(b'\n');
    }
}

impl<'kvs> VisitSource<'kvs> for Fields {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        let mut text = String::new();
        escape_into(&mut text, &value.to_string());
        self.push(&field_name(key.as_str()), &text);
        Ok(())
    }
}

/// A key as the journal takes it: capitals, digits and underscores, neither of the latter two first, at most 64. One
/// that is a field of the record itself is set apart.
fn field_name(key: &str) -> String {
    let known = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    let mut name: String = key.chars().map(known).collect();
    let taken = matches!(&*name, "PRIORITY" | "SYSLOG_IDENTIFIER" | "MESSAGE" | "TARGET" | "CODE_FILE" | "CODE_LINE");
    if taken || !name.starts_with(|c: char| c.is_ascii_uppercase()) {
        name.insert_str(0, "TIMERD_");
    }
    name.truncate(64);
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// A sink that takes what it is told to take.
    #[derive(Default)]
    struct Pipe {
        open: AtomicBool,
        takes: AtomicU64,
        text: Mutex<String>,
    }

    impl Sink for &Pipe {
        fn offer(&self, line: &[u8]) -> usize {
            if !self.open.load(Ordering::Relaxed) {
                return 0;
            }
            let taken = line.len().min(usize::try_from(self.takes.load(Ordering::Relaxed)).unwrap());
            self.text.lock().unwrap().push_str(std::str::from_utf8(&line[..taken]).unwrap());
            taken
        }
    }

    const AT: WallMs = WallMs::from_ms(1_769_940_000_123);

    #[test]
    fn a_human_line() {
        assert_eq!(
            human_line(AT, Level::Info, "timer started", " timer=timer_a1"),
            "2026-02-01T10:00:00.123Z INFO  timer started timer=timer_a1\n"
        );
        assert_eq!(human_line(WallMs::from_ms(0), Level::Error, "x", ""), "1970-01-01T00:00:00.000Z ERROR x\n");
    }

    #[test]
    fn pairs_are_appended_and_quoted_where_needed() {
        let pairs: [(&str, Value<'_>); 5] = [
            ("name", "Quiz Timer".into()),
            ("by", "ann".into()),
            ("odd", "a\"b\\c=\n".into()),
            ("none", "".into()),
            ("ms", 12_u64.into()),
        ];
        let mut written = Pairs(String::new());
        for (key, value) in pairs {
            written.visit_pair(key.into(), value).unwrap();
        }
        assert_eq!(written.0, r#" name="Quiz Timer" by=ann odd="a\"b\\c=\n" none="" ms=12"#);
    }

    #[test]
    fn no_text_forges_a_line_or_moves_the_cursor() {
        let line = human_line(AT, Level::Info, "a\n2026 ERROR b\r\t\u{1b}[2J\u{7}\u{9b}\u{2028}\u{202e}\u{7f}é", "");
        assert_eq!(line.matches('\n').count(), 1);
        assert!(line.ends_with("a\\n2026 ERROR b\\r\\t\\u{1b}[2J\\u{7}\\u{9b}\\u{2028}\\u{202e}\\u{7f}é\n"));
        assert!(!line.trim_end().chars().any(char::is_control));
    }

    #[test]
    fn a_line_has_a_bound() {
        let line = human_line(AT, Level::Info, &"é".repeat(5000), "");
        assert!(line.len() < LINE_BYTES_MAX && line.len() > LINE_BYTES_MAX - 8);
        assert!(line.ends_with("...\n"));
    }

    #[test]
    fn lines_that_would_wait_are_dropped_counted_and_told() {
        let pipe = Pipe::default();
        pipe.takes.store(9999, Ordering::Relaxed);
        let human = Human::new(&pipe);
        for _ in 0..3 {
            human.push(AT, "lost\n");
        }
        assert!(pipe.text.lock().unwrap().is_empty());
        pipe.open.store(true, Ordering::Relaxed);
        human.push(AT, "kept\n");
        human.push(AT, "more\n");
        let text = "2026-02-01T10:00:00.123Z WARN  3 log lines were dropped\nkept\nmore\n";
        assert_eq!(*pipe.text.lock().unwrap(), text);
    }

    #[test]
    fn a_cut_line_is_ended_before_the_next() {
        let pipe = Pipe::default();
        pipe.open.store(true, Ordering::Relaxed);
        let human = Human::new(&pipe);
        for (takes, line) in [(2, "abcd\n"), (99, "next\n"), (99, "last\n")] {
            pipe.takes.store(takes, Ordering::Relaxed);
            human.push(AT, line);
        }
        assert_eq!(*pipe.text.lock().unwrap(), "ab\nnext\nlast\n");
    }

    #[test]
    fn a_full_pipe_is_noticed_before_it_is_written() {
        // The promise that LINE_BYTES_MAX rests on: while a pipe is writable, a whole line never waits.
        let (reader, writer) = io::pipe().unwrap();
        let line = [b'x'; LINE_BYTES_MAX];
        let mut written = 0;
        while is_writable(&writer) {
            assert_eq!(rustix::io::write(&writer, &line).unwrap(), line.len());
            written += 1;
        }
        assert!(written > 1);
        drop(reader);
    }

    #[test]
    fn a_record_in_the_journal() {
        let pairs: [(&str, Value<'_>); 3] = [("timer", "t\n1".into()), ("message", "x".into()), ("1st-é", 2.into())];
        let datagram = journal_datagram(
            &Record::builder()
                .level(Level::Info)
                .target("timerd")
                .args(format_args!("started\nPRIORITY=0"))
                .key_values(&pairs)
                .build(),
        );
        let field = |name: &str, value: &str| {
            let mut bytes = format!("{name}\n").into_bytes();
            bytes.extend_from_slice(&(value.len() as u64).to_le_bytes());
            bytes.extend_from_slice(value.as_bytes());
            bytes.push(b'\n');
            bytes
        };
        let expected = [
            field("PRIORITY", "6"),
            field("SYSLOG_IDENTIFIER", "timerd"),
            field("MESSAGE", "started\\nPRIORITY=0"),
            field("TARGET", "timerd"),
            field("TIMER", "t\\n1"),
            field("TIMERD_MESSAGE", "x"),
            field("TIMERD_1ST__", "2"),
        ];
        assert_eq!(datagram, expected.concat());
    }

    #[test]
    fn a_journal_that_does_not_read_does_not_block() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let _unread = UnixDatagram::bind(&path).unwrap();
        let socket = UnixDatagram::unbound().unwrap();
        socket.set_nonblocking(true).unwrap();
        let refused = (0..10_000).find_map(|_| socket.send_to(b"MESSAGE=x\n", &path).err());
        assert_eq!(refused.map(|error| error.kind()), Some(io::ErrorKind::WouldBlock));
    }
}
