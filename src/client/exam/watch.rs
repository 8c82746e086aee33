//! `timerd exam watch`: who sits an assessment, as a live table.
//!
//! The network thread asks for the sessions once a second over one kept connection; the main thread keeps the
//! `View`, a pure state machine over the server's lists and elapsed time, and shows it: as a table redrawn in place
//! on a terminal, as a line for each session that changed elsewhere, or as the lists themselves. It must not know how
//! a connection is made.
//!
//! Invariants: times are the server's, counted on by elapsed time alone, never by this machine's clock; whoever has
//! least time left stands first and is never pushed out by those who have more; what the server sends cannot move the
//! cursor or forge a line; the terminal is left as it was found.

use std::collections::HashMap;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Deserialize;

use crate::client::exam::{failure_of, outcome_of, path_of};
use crate::client::http::{Http, Method};
use crate::client::{
    self, Block, COLUMNS_MAX, EXIT_INTERRUPTED, End, LOOK_EVERY, Outcome, RECONNECT_WAIT_MAX, Server, Style,
    Terminal, columns_of, cut, is_unread, random_wait, short, sides, terminal_size, time_of_day, visible,
};

/// How this client is called.
const COMMAND: &str = "exam watch";
/// Time between two lists.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// Bytes of an assessment with every default written out.
const ASSESSMENT_BYTES_MAX: u64 = 4 << 20;
/// Bytes of a list: the most sessions that a server holds, and four times what one usually takes.
const SESSIONS_BYTES_MAX: u64 = 256 << 20;
/// Columns of the table but for the candidate's, and the gap between two.
const STATE_COLUMNS: usize = 11;
const ANSWERED_COLUMNS: usize = 8;
const LEFT_COLUMNS: usize = 8;
const LINK_COLUMNS: usize = 17;
const GAP: &str = "  ";
/// Columns that a candidate has on the narrowest terminal; the rest is cut off.
const CANDIDATE_COLUMNS_MIN: usize = 8;

/// What to watch, and how.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
Whoever has least time left stands first, then who is paused, then who has ended. Without a terminal there is a line \
for each session that changed: TIME CANDIDATE: state, answered of total, time left, connection.

A lost connection is made again by itself. Exit codes: 0 when the assessment was deleted, or nobody reads the output \
any more, 1 when the server refuses, 130 on Ctrl-C.")]
pub struct Options {
    /// The assessment's id
    #[arg(value_name = "ASSESSMENT_ID")]
    pub id: String,
    /// Where it is.
    #[command(flatten)]
    pub server: Server,
    /// Print the whole table once, and end
    #[arg(long)]
    pub once: bool,
    /// Print the sessions as the server sends them, one list a line
    #[arg(long)]
    pub json: bool,
    /// What is known of the terminal.
    #[arg(skip)]
    pub terminal: Terminal,
}

/// Shows the sessions until the assessment is deleted (exit code 0), the server refuses (1), or Ctrl-C (130).
pub fn run(options: &Options) -> ExitCode {
    let stdout = io::stdout();
    let is_terminal = stdout.is_terminal();
    let color = is_terminal && !options.terminal.no_color && !options.terminal.is_dumb;
    if options.once {
        return client::conclude(COMMAND, show_once(options, is_terminal, color));
    }
    let begun = client::interrupted_by_signals().and_then(|flag| {
        let asked = Asked::new(options, &flag);
        let (tell, told) = sync_channel(1);
        client::in_background(move || ask_on(asked, &tell))?;
        Ok((flag, told))
    });
    let (interrupted, told) = match begun {
        Ok(begun) => begun,
        Err(why) => return client::refuse(COMMAND, &why),
    };
    let face = match is_terminal && !options.terminal.is_dumb {
        _ if options.json => Face::Json,
        true => Face::Table(Block { color, ..Block::default() }),
        false => Face::Lines,
    };
    let mut watcher = Watcher { view: View::new(options), face, is_terminal, lost: None, out: stdout.lock() };
    let shown = watcher.show_all(&told, &interrupted);
    let restored = watcher.restore();
    client::conclude(COMMAND, shown.and_then(|end| restored.map(|()| end)))
}

/// The table, or the list, as it is now.
fn show_once(options: &Options, is_terminal: bool, color: bool) -> io::Result<End> {
    let mut asked = Asked::new(options, &Arc::default());
    let mut view = View::new(options);
    let list = match asked.all() {
        Ok((title, list)) => {
            title.iter().for_each(|title| view.handle_title(title));
            list
        }
        Err(Outcome::Over(End { why, .. }) | Outcome::Again(why) | Outcome::AtOnce(why)) => {
            return Ok(End { code: 1, why });
        }
    };
    let mut out = io::stdout().lock();
    if options.json {
        writeln!(out, "{}", one_line(&list.text, is_terminal))?;
    } else {
        view.handle_list(&list, Duration::ZERO);
        // The last column stays free: many terminals wrap when it is written.
        let width = if is_terminal { terminal_size(&out).0.saturating_sub(1).clamp(1, COLUMNS_MAX) } else { 79 };
        for (style, row) in view.table(Duration::ZERO, width, usize::MAX) {
            let row = row.trim_end();
            writeln!(out, "{}", if color { style.paint(row) } else { row.to_owned() })?;
        }
    }
    out.flush()?;
    Ok(End { code: 0, why: String::new() })
}

// ---------------------------------------------------------------------------------------------------------------
// Asking: the network thread.

/// What the network thread tells.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Told {
    Title(String),
    List(List),
    /// There was no list; the next attempt comes after `wait`.
    Lost {
        why: String,
        wait: Duration,
    },
    /// There is nothing more to come.
    End(End),
}

/// The sessions as they came.
#[derive(Clone, Debug, PartialEq, Eq)]
struct List {
    text: String,
    /// The server's clock.
    date: Option<Timestamp>,
}

/// Where the sessions are.
struct Asked {
    http: Http,
    id: String,
}

/// What is needed of an assessment.
#[derive(Deserialize)]
struct Assessment {
    title: String,
}

impl Asked {
    fn new(options: &Options, interrupted: &Arc<AtomicBool>) -> Asked {
        Asked { http: Http::new(&options.server, interrupted), id: options.id.clone() }
    }

    /// The assessment's title; none where there is no such assessment, or not any more.
    fn title(&mut self) -> Result<Option<String>, Outcome> {
        let Some((text, _)) = self.ask("", ASSESSMENT_BYTES_MAX)? else { return Ok(None) };
        let assessment: Result<Assessment, _> = serde_json::from_str(&text);
        assessment.map(|known| Some(known.title)).map_err(|_| Outcome::over(1, "the server delivers no exams"))
    }

    /// The sessions; none where there are none and the assessment is unknown.
    fn sessions(&mut self) -> Result<Option<List>, Outcome> {
        Ok(self.ask("/sessions", SESSIONS_BYTES_MAX)?.map(|(text, date)| List { text, date }))
    }

    fn ask(&mut self, below: &str, bytes_max: u64) -> Result<Option<(String, Option<Timestamp>)>, Outcome> {
        let again = |error: io::Error| Outcome::Again(failure_of(&error));
        let mut answer = self.http.ask(Method::Get, &path_of(&self.id, below), None, &[]).map_err(again)?;
        let date = answer.date;
        match answer.status {
            200 => answer.text(bytes_max).map(|text| Some((text, date))).map_err(again),
            status => match outcome_of(&mut answer) {
                Outcome::Over(End { why, .. }) if status == 404 && why.starts_with("Assessment ") => Ok(None),
                outcome => Err(outcome),
            },
        }
    }

    /// Both, as far as there are any.
    fn all(&mut self) -> Result<(Option<String>, List), Outcome> {
        let title = self.title()?;
        let unknown = Outcome::over(1, format!("there is no assessment '{}'", self.id));
        Ok((title, self.sessions()?.ok_or(unknown)?))
    }
}

/// Asks until there is nothing more to come, or nobody listens.
fn ask_on(mut asked: Asked, tell: &SyncSender<Told>) {
    let mut is_known = false;
    loop {
        let begun = Instant::now();
        let heard = if is_known {
            let deleted = Outcome::over(0, "the assessment was deleted");
            asked.sessions().and_then(|list| Ok((None, list.ok_or(deleted)?)))
        } else {
            asked.all()
        };
        // A list that takes the server long is asked for less often.
        let mut wait = ASK_EVERY.max(2 * begun.elapsed()).saturating_sub(begun.elapsed());
        let (title, told) = match heard {
            Ok((title, list)) => (title, Told::List(list)),
            Err(Outcome::Over(end)) => (None, Told::End(end)),
            Err(Outcome::Again(why) | Outcome::AtOnce(why)) => {
                wait = random_wait(RECONNECT_WAIT_MAX);
                (None, Told::Lost { why, wait })
            }
        };
        is_known |= matches!(told, Told::List(_));
        let is_end = matches!(told, Told::End(_));
        let words = title.map(Told::Title).into_iter().chain([told]);
        if words.map(|word| tell.send(word)).any(|sent| sent.is_err()) || is_end {
            return;
        }
        std::thread::sleep(wait);
    }
}

// ---------------------------------------------------------------------------------------------------------------
// What is known of the sessions.

/// A state of the contract, in the order in which they are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
enum State {
    InProgress,
    Paused,
    Completed,
    Expired,
    Terminated,
    #[serde(other)]
    Unknown,
}

impl State {
    const ALL: [State; 6] =
        [State::InProgress, State::Paused, State::Completed, State::Expired, State::Terminated, State::Unknown];

    const fn name(self) -> &'static str {
        match self {
            State::InProgress => "in progress",
            State::Paused => "paused",
            State::Completed => "completed",
            State::Expired => "expired",
            State::Terminated => "terminated",
            State::Unknown => "unknown",
        }
    }

    const fn is_over(self) -> bool {
        matches!(self, State::Completed | State::Expired | State::Terminated)
    }
}

/// A session as the server lists it; unknown fields are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Row {
    session_id: String,
    candidate_id: String,
    state: State,
    time_remaining_seconds: Option<u64>,
    answered: u32,
    total_items: u32,
    /// Open sockets.
    connected: u32,
    last_seen: Option<String>,
    /// How long before the list the candidate was last seen; filled in when it comes.
    #[serde(skip)]
    unseen: Option<Duration>,
}

impl Row {
    /// The order of the table: who needs an eye first.
    fn rank(&self) -> (u8, u64) {
        let left_s = self.time_remaining_seconds.unwrap_or(u64::MAX);
        match self.state {
            State::InProgress => (0, left_s),
            State::Paused => (1, left_s),
            // As they began.
            _ => (2, 0),
        }
    }

    fn style(&self) -> Style {
        match self.state {
            State::InProgress if self.connected == 0 => Style::Notice,
            State::InProgress => Style::Good,
            State::Paused => Style::Bold,
            _ => Style::Plain,
        }
    }

    /// `54:10`, `-` when untimed; `since` has passed since the list came.
    fn left(&self, since: Duration) -> Option<String> {
        let since_s = if self.state == State::InProgress { since.as_secs() } else { 0 };
        self.time_remaining_seconds.map(|left_s| short(left_s.saturating_sub(since_s).saturating_mul(1000)))
    }

    /// `2 sockets`, or `seen 0:40 ago`, or `-`.
    fn link(&self, since: Duration) -> String {
        match (self.connected, self.unseen) {
            (0, None) => "-".to_owned(),
            (0, Some(unseen)) => match (unseen + since).as_secs() {
                s if s >= 86_400 => format!("seen {} d ago", s / 86_400),
                s => format!("seen {} ago", short(s * 1000)),
            },
            (1, _) => "1 socket".to_owned(),
            (n, _) => format!("{n} sockets"),
        }
    }

    /// `ada: in progress, 3/8 answered, 54:10 left, 1 socket`.
    fn line(&self) -> String {
        let left = match self.left(Duration::ZERO) {
            _ if self.state.is_over() => String::new(),
            Some(left) => format!(", {left} left"),
            None => ", no time limit".to_owned(),
        };
        let Row { candidate_id, state, answered, total_items, .. } = self;
        let link = if self.state.is_over() && self.connected == 0 {
            String::new()
        } else {
            match self.link(Duration::ZERO) {
                link if link == "-" => ", not connected".to_owned(),
                link => format!(", {link}"),
            }
        };
        format!("{candidate_id}: {}, {answered}/{total_items} answered{left}{link}", state.name())
    }

    /// Whether it differs from what it was in more than the time that passes by itself.
    fn has_changed_since(&self, before: &Row) -> bool {
        let of = |row: &Row| (row.state, row.answered, row.total_items, row.connected);
        of(self) != of(before) || self.time_remaining_seconds > before.time_remaining_seconds
    }
}

/// What a watcher knows: fed with the server's lists and elapsed time.
struct View {
    url: String,
    title: String,
    /// In the order of the table; none before the first list.
    rows: Option<Vec<Row>>,
    /// When they came.
    heard_at: Duration,
    /// Why there is no connection, and when the next attempt is made.
    lost: Option<(String, Duration)>,
}

impl View {
    fn new(options: &Options) -> View {
        View {
            url: options.server.url.to_string(),
            title: visible(&options.id),
            rows: None,
            heard_at: Duration::ZERO,
            lost: None,
        }
    }

    fn handle_title(&mut self, title: &str) {
        self.title = visible(title);
    }

    /// Takes a list that came at `at` (elapsed since the start of watching); what changed, in words, in the table's
    /// order. What is no list of the contract changes nothing.
    fn handle_list(&mut self, list: &List, at: Duration) -> Vec<String> {
        let Ok(mut rows) = serde_json::from_str::<Vec<Row>>(&list.text) else { return Vec::new() };
        for row in &mut rows {
            row.candidate_id = visible(&row.candidate_id);
            let seen = row.last_seen.as_ref().and_then(|seen| seen.parse::<Timestamp>().ok());
            row.unseen = seen.zip(list.date).map(|(seen, date)| {
                let unseen = date.duration_since(seen);
                Duration::try_from(unseen).unwrap_or_default()
            });
        }
        // Stable: who began first comes first among equals.
        rows.sort_by_key(Row::rank);
        let before = self.rows.take().unwrap_or_default();
        let before: HashMap<&str, &Row> = before.iter().map(|row| (row.session_id.as_str(), row)).collect();
        let is_news =
            |row: &&Row| before.get(row.session_id.as_str()).is_none_or(|before| row.has_changed_since(before));
        let news = rows.iter().filter(is_news).map(Row::line).collect();
        self.rows = Some(rows);
        self.heard_at = at;
        self.lost = None;
        news
    }

    /// There was no list; another attempt is made at `retry_at`.
    fn handle_lost(&mut self, why: &str, retry_at: Duration) {
        self.lost = Some((visible(why), retry_at));
    }

    /// `2 in progress, 1 paused`.
    fn counts(&self) -> String {
        let Some(rows) = &self.rows else { return "...".to_owned() };
        let counts = State::ALL.iter().filter_map(|state| {
            let count = rows.iter().filter(|row| row.state == *state).count();
            (count > 0).then(|| format!("{count} {}", state.name()))
        });
        let counts: Vec<String> = counts.collect();
        if counts.is_empty() { "nobody has begun".to_owned() } else { counts.join(", ") }
    }

    /// The table at `at`, none of its rows wider than `columns`, and no more than `rows_max` of them.
    fn table(&self, at: Duration, columns: usize, rows_max: usize) -> Vec<(Style, String)> {
        let since = at.saturating_sub(self.heard_at);
        let fixed = STATE_COLUMNS + ANSWERED_COLUMNS + LEFT_COLUMNS + LINK_COLUMNS + 4 * GAP.len();
        let candidate = columns.saturating_sub(fixed).max(CANDIDATE_COLUMNS_MIN);
        let cells = |[first, state, answered, left, link]: [&str; 5]| {
            let first = cut(first, candidate);
            let pad = " ".repeat(candidate.saturating_sub(columns_of(&first)));
            let row = format!(
                "{first}{pad}{GAP}{state:STATE_COLUMNS$}{GAP}{answered:>ANSWERED_COLUMNS$}{GAP}{left:>LEFT_COLUMNS$}\
                 {GAP}{link:LINK_COLUMNS$}"
            );
            cut(&row, columns)
        };
        let mut table = vec![(Style::Bold, cut(&sides(&self.title, &self.counts(), columns), columns))];
        let known = self.rows.as_deref().unwrap_or_default();
        if !known.is_empty() {
            table.push((Style::Plain, cells(["candidate", "state", "answered", "left", "connection"])));
        }
        let health = self.health(at).map(|health| (Style::Notice, cut(&health, columns)));
        let room = rows_max.saturating_sub(table.len() + usize::from(health.is_some()));
        // The last line of many says how many are not there.
        let shown = if known.len() > room { room.saturating_sub(1) } else { known.len() };
        for row in known.iter().take(shown) {
            let answered = format!("{}/{}", row.answered, row.total_items);
            let left = row.left(since).unwrap_or_else(|| "-".to_owned());
            let link = row.link(since);
            table.push((row.style(), cells([&row.candidate_id, row.state.name(), &answered, &left, &link])));
        }
        if shown < known.len() {
            table.push((Style::Plain, cut(&format!("... and {} more", known.len() - shown), columns)));
        }
        table.extend(health);
        table.truncate(rows_max.max(1));
        table
    }

    /// What is wrong with the connection, if something is.
    fn health(&self, at: Duration) -> Option<String> {
        match (&self.lost, &self.rows) {
            (None, None) => Some(format!("connecting to {}", self.url)),
            (None, Some(_)) => None,
            (Some((why, _)), Some(_)) => {
                let silence_s = at.saturating_sub(self.heard_at).as_secs();
                Some(format!("last heard {silence_s} s ago, reconnecting: {why}"))
            }
            (Some((why, retry_at)), None) => {
                let wait_s = retry_at.saturating_sub(at).as_secs_f64().ceil();
                Some(format!("cannot reach {}: {why}; again in {wait_s:.0} s", self.url))
            }
        }
    }
}

/// JSON on one line; for a terminal also harmless.
fn one_line(json: &str, is_terminal: bool) -> String {
    // JSON has no raw line feeds but between its tokens.
    let line = json.trim_end().replace(['\r', '\n'], " ");
    if is_terminal { visible(&line) } else { line }
}

// ---------------------------------------------------------------------------------------------------------------
// Showing it.

/// The form of the output.
enum Face {
    /// A table on a terminal.
    Table(Block),
    /// Lines for a file or a pipe.
    Lines,
    /// The lists themselves.
    Json,
}

struct Watcher<W> {
    view: View,
    face: Face,
    is_terminal: bool,
    /// Why there is no connection, as it was last said.
    lost: Option<String>,
    out: W,
}

impl<W: Write> Watcher<W> {
    /// Shows what is told until the end of it.
    fn show_all(&mut self, told: &Receiver<Told>, interrupted: &AtomicBool) -> io::Result<End> {
        let start = Instant::now();
        self.draw(start.elapsed())?;
        while !interrupted.load(Ordering::Relaxed) {
            let word = match told.recv_timeout(LOOK_EVERY) {
                Ok(word) => Some(word),
                Err(RecvTimeoutError::Timeout) if is_unread(io::stdout()) => {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => {
                    return Ok(End { code: 1, why: "the network thread ended".to_owned() });
                }
            };
            let at = start.elapsed();
            match word {
                None => {}
                Some(Told::Title(title)) => self.view.handle_title(&title),
                Some(Told::List(list)) => self.tell(&list, at)?,
                Some(Told::Lost { why, wait }) => {
                    self.view.handle_lost(&why, at + wait);
                    self.tell_loss(why);
                }
                Some(Told::End(End { code, why })) => {
                    // Said by `conclude`, unless it is no failure.
                    if code == 0 {
                        self.restore()?;
                        client::say(COMMAND, &why);
                    }
                    return Ok(End { code, why });
                }
            }
            self.draw(at)?;
        }
        Ok(End { code: EXIT_INTERRUPTED, why: String::new() })
    }

    /// A list, and what it changed.
    fn tell(&mut self, list: &List, at: Duration) -> io::Result<()> {
        let news = self.view.handle_list(list, at);
        match self.face {
            Face::Table(_) => return Ok(()),
            Face::Json => writeln!(self.out, "{}", one_line(&list.text, self.is_terminal))?,
            Face::Lines => {
                let time = time_of_day();
                news.iter().try_for_each(|line| writeln!(self.out, "{time} {line}"))?;
            }
        }
        if self.lost.take().is_some() {
            client::say(COMMAND, "connected again");
        }
        self.out.flush()
    }

    /// A loss, once for each reason, where it does not stand in the table.
    fn tell_loss(&mut self, why: String) {
        if let Face::Table(_) = self.face {
            return;
        }
        if self.lost.as_ref() != Some(&why) {
            client::say(COMMAND, &format!("{why}; reconnecting"));
        }
        self.lost = Some(why);
    }

    fn draw(&mut self, at: Duration) -> io::Result<()> {
        let Face::Table(block) = &mut self.face else { return Ok(()) };
        let (columns, rows) = terminal_size(io::stdout());
        // The last column stays free: many terminals wrap when it is written; and the last row, for the cursor.
        let width = columns.saturating_sub(1).clamp(1, COLUMNS_MAX);
        block.draw(self.view.table(at, width, rows.saturating_sub(1).max(1)), columns, &mut self.out)
    }

    /// Leaves the terminal as it was found, the last table standing.
    fn restore(&mut self) -> io::Result<()> {
        match &mut self.face {
            Face::Table(block) => block.restore(&mut self.out),
            Face::Lines | Face::Json => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn seconds(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    fn view() -> View {
        View {
            url: "http://127.0.0.1:8003".to_owned(),
            title: "Mathematics 1".to_owned(),
            rows: None,
            heard_at: Duration::ZERO,
            lost: None,
        }
    }

    fn row(candidate: &str, state: &str, left: Option<u64>, answered: u32, connected: u32) -> serde_json::Value {
        json!({ "session_id": format!("of {candidate}"), "candidate_id": candidate, "test_taker_id": "t",
                "state": state, "time_remaining_seconds": left, "answered": answered, "total_items": 8,
                "connected": connected, "last_seen": "2026-02-01T09:00:00Z" })
    }

    fn list(rows: &[serde_json::Value]) -> List {
        List { text: json!(rows).to_string(), date: "2026-02-01T09:00:40Z".parse().ok() }
    }

    fn rows(view: &View, at: u64, columns: usize, rows_max: usize) -> Vec<String> {
        let rows: Vec<String> = view.table(seconds(at), columns, rows_max).into_iter().map(|(_, row)| row).collect();
        assert!(rows.len() <= rows_max && rows.iter().all(|row| columns_of(row) <= columns), "{rows:#?}");
        rows.into_iter().map(|row| row.trim_end().to_owned()).collect()
    }

    #[test]
    fn who_has_least_time_stands_first() {
        let mut view = view();
        view.handle_list(
            &list(&[
                row("ann", "completed", Some(1200), 8, 0),
                row("bob", "in_progress", None, 0, 1),
                row("cid", "paused", Some(60), 1, 0),
                row("dot", "in_progress", Some(3_601), 3, 2),
                row("eve", "expired", Some(0), 7, 1),
                row("fay", "in_progress", Some(125), 7, 0),
                row("gus", "some day", Some(1), 7, 0),
            ]),
            seconds(10),
        );
        assert_eq!(
            rows(&view, 10, 79, 20),
            [
                "Mathematics 1        3 in progress, 1 paused, 1 completed, 1 expired, 1 unknown",
                "candidate                    state        answered      left  connection",
                "fay                          in progress       7/8      2:05  seen 0:40 ago",
                "dot                          in progress       3/8   1:00:01  2 sockets",
                "bob                          in progress       0/8         -  1 socket",
                "cid                          paused            1/8      1:00  seen 0:40 ago",
                "ann                          completed         8/8     20:00  seen 0:40 ago",
                "eve                          expired           7/8      0:00  1 socket",
                "gus                          unknown           7/8      0:01  seen 0:40 ago",
            ]
        );
        // Counted on while nothing is heard, but for those whose time stands still.
        view.handle_lost("connection refused", seconds(20));
        let later = rows(&view, 15, 79, 20);
        assert_eq!(later[2], "fay                          in progress       7/8      2:00  seen 0:45 ago");
        assert_eq!(later[5], "cid                          paused            1/8      1:00  seen 0:45 ago");
        let days = rows(&view, 86_400 * 3 + 10, 79, 20);
        assert_eq!(days[2], "fay                          in progress       7/8      0:00  seen 3 d ago");
        assert_eq!(later.last().unwrap(), "last heard 5 s ago, reconnecting: connection refused");
    }

    #[test]
    fn it_fits_the_terminal() {
        let mut view = view();
        let hall: Vec<_> = (0..100).map(|n| row(&format!("c{n}"), "in_progress", Some(1000 - n), 0, 1)).collect();
        view.handle_list(&list(&hall), Duration::ZERO);
        let shown = rows(&view, 0, 79, 23);
        assert_eq!((shown.len(), shown[2].split(' ').next().unwrap()), (23, "c99"));
        assert_eq!(shown[22], "... and 80 more");
        assert_eq!(rows(&view, 0, 79, 102).last().unwrap().split(' ').next().unwrap(), "c0");
        view.handle_lost("no answer", seconds(1));
        let shown = rows(&view, 0, 79, 23);
        assert_eq!((shown.len(), &*shown[21]), (23, "... and 81 more"));
        for columns in [1, 7, 20, 40] {
            for height in 1..6 {
                rows(&view, 0, columns, height);
            }
        }
        let mut view = self::view();
        assert_eq!(rows(&view, 0, 79, 23)[1], "connecting to http://127.0.0.1:8003");
        view.handle_list(&list(&[]), Duration::ZERO);
        let shown = rows(&view, 0, 79, 23);
        assert!(shown.len() == 1 && shown[0].ends_with("nobody has begun"), "{shown:?}");
    }

    #[test]
    fn a_line_for_each_session_that_changed() {
        let mut view = view();
        let mut hear = |rows: &[serde_json::Value]| view.handle_list(&list(rows), Duration::ZERO);
        let (ann, bob) = (row("ann", "in_progress", Some(60), 0, 1), row("bob", "in_progress", None, 0, 0));
        assert_eq!(
            hear(&[ann, bob.clone()]),
            [
                "ann: in progress, 0/8 answered, 1:00 left, 1 socket",
                "bob: in progress, 0/8 answered, no time limit, seen 0:40 ago"
            ]
        );
        // The time that passes is no change; an extension is.
        assert_eq!(hear(&[row("ann", "in_progress", Some(58), 0, 1), bob.clone()]), Vec::<String>::new());
        let later = row("ann", "in_progress", Some(300), 0, 1);
        assert_eq!(hear(&[later, bob.clone()]), ["ann: in progress, 0/8 answered, 5:00 left, 1 socket"]);
        let done = row("ann", "completed", Some(290), 1, 0);
        let new = row("cid\u{1b}[2J\n", "paused", Some(9), 1, 0);
        assert_eq!(
            hear(&[done, bob.clone(), new]),
            ["cid?[2J?: paused, 1/8 answered, 0:09 left, seen 0:40 ago", "ann: completed, 1/8 answered"]
        );
        let nonsense = List { text: "{}".to_owned(), date: None };
        assert_eq!(view.handle_list(&nonsense, Duration::ZERO), Vec::<String>::new());
        assert_eq!(view.rows.unwrap().len(), 3);
    }
}
