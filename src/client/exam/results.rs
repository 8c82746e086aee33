//! `timerd exam results`: every session of an assessment with its answers, as NDJSON or CSV.
//!
//! What the server streams goes to stdout or into a file as it comes. This file must not know what a session or an
//! answer is.
//!
//! Invariants: a file appears under its name only when all of it is there and on the disk, and until then what was
//! there before stays; what is cut off ends with exit code 1 and says so; stdout has what the server sent, byte for
//! byte, unless it is a terminal, where foreign text is made harmless.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::client::exam::{failure_of, outcome_of, path_of};
use crate::client::http::{Answer, Http, Method};
use crate::client::{self, EXIT_INTERRUPTED, End, Outcome, Server, visible};

/// How this client is called.
const COMMAND: &str = "exam results";
/// Bytes of one read.
const READ_BYTES: usize = 64 << 10;

/// Of which assessment, and where to.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
Sessions that are still going on are among them, as they are now.

Exit codes: 0 when all of it was fetched, or nobody reads stdout any more, 1 when the server refuses or the answer was \
cut off, 130 on Ctrl-C. FILE is written only when all of it is there.")]
pub struct Options {
    /// The assessment's id
    #[arg(value_name = "ASSESSMENT_ID")]
    pub id: String,
    /// Where it is.
    #[command(flatten)]
    pub server: Server,
    /// A table for spreadsheets, one column an item, instead of one JSON object a line
    #[arg(long)]
    pub csv: bool,
    /// Write to this file instead of stdout
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// Fetches the results (exit code 0), or says why not (1), until Ctrl-C (130).
pub fn run(options: &Options) -> ExitCode {
    let interrupted = Arc::default();
    let mut http = Http::new(&options.server, &interrupted);
    let accept = if options.csv { "text/csv" } else { "application/x-ndjson" };
    let mut answer = match http.ask(Method::Get, &path_of(&options.id, "/results"), Some(accept), &[]) {
        Ok(answer) if answer.status == 200 => answer,
        Ok(mut answer) => match outcome_of(&mut answer) {
            Outcome::Over(End { why, .. }) | Outcome::Again(why) | Outcome::AtOnce(why) => {
                return client::refuse(COMMAND, &why);
            }
        },
        Err(error) => return client::refuse(COMMAND, &failure_of(&error)),
    };
    // Not before there is something to be cleared away: until then Ctrl-C ends us in the ordinary way.
    if let Err(why) = client::raise_on_signals(&interrupted) {
        return client::refuse(COMMAND, &why);
    }
    let mut counter = Counter { is_csv: options.csv, ..Counter::default() };
    let ended = match &options.output {
        Some(path) => to_file(&mut answer, path, &mut counter, &interrupted),
        None => to_stdout(&mut answer, &mut counter, &interrupted),
    };
    match ended {
        Ok(()) => {
            if let Some(path) = &options.output {
                client::say(COMMAND, &format!("{}: {}", path.display(), counter.sessions()));
            } else if counter.count() == 0 {
                client::say(COMMAND, &format!("there are no sessions of '{}'", options.id));
            }
            ExitCode::SUCCESS
        }
        Err(Stopped::Interrupted) => ExitCode::from(EXIT_INTERRUPTED),
        Err(Stopped::CutOff(why)) => {
            client::refuse(COMMAND, &format!("not complete, cut off after {}: {why}", counter.sessions()))
        }
        // Whoever read our output has seen enough.
        Err(Stopped::Unwritten(error)) if options.output.is_none() && error.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(Stopped::Unwritten(error)) => {
            let name = options.output.as_ref().map_or("stdout".to_owned(), |path| path.display().to_string());
            client::refuse(COMMAND, &format!("{name}: {error}"))
        }
    }
}

/// Why not all of it is there.
enum Stopped {
    Interrupted,
    CutOff(String),
    Unwritten(io::Error),
}

fn to_stdout(answer: &mut Answer<'_>, counter: &mut Counter, interrupted: &AtomicBool) -> Result<(), Stopped> {
    let mut out = io::stdout().lock();
    let mut harmless = out.is_terminal().then(Harmless::default);
    copy(answer, counter, interrupted, |bytes| match &mut harmless {
        Some(harmless) => out.write_all(harmless.take(bytes).as_bytes()),
        None => out.write_all(bytes),
    })?;
    out.flush().map_err(Stopped::Unwritten)
}

fn to_file(
    answer: &mut Answer<'_>,
    path: &Path,
    counter: &mut Counter,
    interrupted: &AtomicBool,
) -> Result<(), Stopped> {
    let known = fs::metadata(path);
    if known.as_ref().is_ok_and(|known| !known.is_file()) {
        // A device or a pipe has no half that could look whole.
        let mut file = OpenOptions::new().write(true).open(path).map_err(Stopped::Unwritten)?;
        return copy(answer, counter, interrupted, |bytes| file.write_all(bytes));
    }
    // Beside the file itself, where a link leads to it.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mut beside = Beside::create(&target).map_err(Stopped::Unwritten)?;
    copy(answer, counter, interrupted, |bytes| beside.file.write_all(bytes))?;
    if let Ok(known) = known {
        // What was for few to read stays so.
        beside.file.set_permissions(known.permissions()).map_err(Stopped::Unwritten)?;
    }
    beside.rename_to(&target).map_err(Stopped::Unwritten)
}

/// Passes on all that comes; the end of it is the server's word that it is all.
fn copy(
    answer: &mut Answer<'_>,
    counter: &mut Counter,
    interrupted: &AtomicBool,
    mut write: impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<(), Stopped> {
    let mut chunk = vec![0; READ_BYTES];
    loop {
        let read = answer.read(&mut chunk);
        if interrupted.load(Ordering::Relaxed) {
            return Err(Stopped::Interrupted);
        }
        match read {
            Ok(0) => return Ok(()),
            Ok(n) => {
                let bytes = chunk.get(..n).unwrap_or_default();
                write(bytes).map_err(Stopped::Unwritten)?;
                counter.take(bytes);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Stopped::CutOff(failure_of(&error))),
        }
    }
}

/// A file that has not got its name yet; removed unless it gets it.
struct Beside {
    path: PathBuf,
    file: File,
    is_named: bool,
}

impl Beside {
    /// In the same directory as `target`, so that it can be renamed.
    fn create(target: &Path) -> io::Result<Beside> {
        let mut name = OsString::from(".");
        name.push(target.file_name().ok_or(io::ErrorKind::InvalidInput)?);
        name.push(format!(".{}.new", std::process::id()));
        let path = target.with_file_name(name);
        // Not one that is there: it would be somebody else's, or a link to it.
        let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        Ok(Beside { path, file, is_named: false })
    }

    fn rename_to(mut self, target: &Path) -> io::Result<()> {
        // Before the rename, which would otherwise outlive a power cut without its content.
        self.file.sync_data()?;
        fs::rename(&self.path, target)?;
        self.is_named = true;
        Ok(())
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if !self.is_named {
            // What cannot be removed is at least not called by the file's name.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Counts sessions: lines, but for those within a quoted cell and the one with the names of columns.
#[derive(Default)]
struct Counter {
    is_csv: bool,
    is_quoted: bool,
    lines: u64,
}

impl Counter {
    fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            match byte {
                b'"' if self.is_csv => self.is_quoted = !self.is_quoted,
                b'\n' if !self.is_quoted => self.lines += 1,
                _ => {}
            }
        }
    }

    fn count(&self) -> u64 {
        self.lines.saturating_sub(u64::from(self.is_csv))
    }

    fn sessions(&self) -> String {
        match self.count() {
            1 => "1 session".to_owned(),
            n => format!("{n} sessions"),
        }
    }
}

/// Makes what comes in pieces harmless for a terminal.
#[derive(Default)]
struct Harmless {
    /// The beginning of a character whose end has not come.
    begun: Vec<u8>,
}

impl Harmless {
    fn take(&mut self, bytes: &[u8]) -> String {
        self.begun.extend_from_slice(bytes);
        let whole = match std::str::from_utf8(&self.begun) {
            // Cut within a character, which goes on in the next piece.
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            _ => self.begun.len(),
        };
        let rest = self.begun.split_off(whole);
        let text = String::from_utf8_lossy(&self.begun).replace('\r', "");
        self.begun = rest;
        text.split('\n').map(visible).collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_counted_whatever_the_cells_hold() {
        let mut counter = Counter { is_csv: true, ..Counter::default() };
        for piece in ["session_id,\"a\nb\"\r\n", "1,\"{\"\"x\"\":\"\"y\n", "z\"\"}\"\r\n2,\r\n"] {
            counter.take(piece.as_bytes());
        }
        assert_eq!(counter.sessions(), "2 sessions");
        let mut counter = Counter::default();
        counter.take(b"{\"a\":\"\\\"\"}\n");
        assert_eq!(counter.sessions(), "1 session");
    }

    #[test]
    fn a_terminal_is_not_commanded_by_answers() {
        let mut harmless = Harmless::default();
        let text = "é\u{1b}[2J\u{9b}x\u{202e}\r\n\u{7}ü\n".as_bytes();
        let shown: String = text.chunks(1).map(|byte| harmless.take(byte)).collect();
        assert_eq!(shown, "é?[2J?x?\n?ü\n");
        assert_eq!(harmless.take(b"\xffx"), "\u{fffd}x");
    }
}
