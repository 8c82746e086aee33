//! `timerd events`: the platform's events in a terminal, as they come or from any of them on.
//!
//! The network thread keeps the `Subscription`: what is wanted, and up to where it has come. Each connection asks for
//! what follows, so that a lost one costs nothing and doubles nothing. The main thread shows one line an event, or
//! the objects as they came. This file must not know how a connection is made, nor what an event's payload means.
//!
//! Invariants: once a number is known, every subscription names one, and it is that of the last event that was told
//! or of the server's last event before live ones began; what is missing because it was deleted is said, never
//! skipped in silence; stdout has events and nothing else; what the server sends cannot move the cursor or forge a
//! line.

use std::io::{self, BufWriter, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};

use clap::builder::NonEmptyStringValueParser;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tungstenite::Message;

use crate::client::{
    self, EXIT_INTERRUPTED, End, Followed, Heard, LOOK_EVERY, Outcome, Server, Style, Terminal, columns_of, compact,
    cut, is_hidden, is_unread, terminal_size, visible,
};

/// How this client is called.
const COMMAND: &str = "events";
/// Columns that a row needs to have its type painted: with fewer, most of it is cut off.
const COLUMNS_MIN: usize = 8;

/// Which events, and how.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
A line is: time in UTC, number, type, source, session, user, payload; - stands for none.

A lost connection is made again by itself and goes on behind the last event that was shown: none is missing, none is \
there twice. What the server has deleted meanwhile is said on stderr.

Exit codes: 0 when nobody reads the output any more, 1 when the server refuses, 130 on Ctrl-C.")]
pub struct Options {
    /// Only events of this type; repeat it, or put commas between, for several
    #[arg(long = "type", value_name = "TYPE", value_delimiter = ',', value_parser = NonEmptyStringValueParser::new())]
    pub types: Vec<String>,
    /// Only events of this session; a timer's events have its id
    #[arg(long, value_name = "ID", value_parser = NonEmptyStringValueParser::new())]
    pub session: Option<String>,
    /// Only events of this user
    #[arg(long, value_name = "ID", value_parser = NonEmptyStringValueParser::new())]
    pub user: Option<String>,
    /// Begin behind the event with this number, 0 for the whole history [default: only those that come]
    #[arg(long, value_name = "SEQ", value_parser = sequence)]
    pub after: Option<u64>,
    /// Where they are.
    #[command(flatten)]
    pub server: Server,
    /// Print the events as the server sends them, one JSON object a line
    #[arg(long)]
    pub json: bool,
    /// What is known of the terminal.
    #[arg(skip)]
    pub terminal: Terminal,
}

fn sequence(text: &str) -> Result<u64, &'static str> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_number).ok_or("must be an event's number, or 0")
}

/// Shows events until nobody reads them (exit code 0), the server refuses (1), or Ctrl-C (130).
pub fn run(options: &Options) -> ExitCode {
    let wanted = Subscription::new(options);
    let begun =
        client::interrupted_by_signals().and_then(|flag| Ok((flag, client::follow(&options.server, wanted)?)));
    let (interrupted, heard) = match begun {
        Ok(begun) => begun,
        Err(why) => return client::refuse(COMMAND, &why),
    };
    let stdout = io::stdout();
    let screen = stdout.is_terminal();
    let teller = Teller {
        json: options.json,
        columns: || {
            // The last column stays free: many terminals wrap when it is written.
            screen.then(|| terminal_size(io::stdout()).0.saturating_sub(1).max(1))
        },
        color: screen && !options.terminal.no_color && !options.terminal.is_dumb,
        lost: None,
        subscribed: false,
        out: BufWriter::new(stdout.lock()),
    };
    client::conclude(COMMAND, teller.tell_all(&heard, &interrupted))
}

// ---------------------------------------------------------------------------------------------------------------
// What the server says.

/// An event of the contract, as far as a line needs it.
#[derive(Deserialize)]
struct Event<'a> {
    event_type: String,
    source: String,
    session_id: Option<String>,
    user_id: Option<String>,
    #[serde(borrow)]
    payload: &'a RawValue,
    timestamp: String,
    /// None for an event that is not kept.
    seq: Option<u64>,
}

/// Everything else.
#[derive(Deserialize)]
struct Reply {
    status: String,
    message: Option<String>,
    oldest_seq: Option<u64>,
    last_seq: Option<u64>,
}

/// A message of the server.
enum Said<'a> {
    Event(Event<'a>),
    /// The subscription stands; the last event there was before live ones.
    Subscribed(Option<u64>),
    /// Everything before this event was deleted.
    Deleted(u64),
    Refused(String),
    /// A sign of life, or nothing of the contract.
    Else,
}

impl Said<'_> {
    fn of(text: &str) -> Said<'_> {
        if let Ok(event) = serde_json::from_str(text) {
            return Said::Event(event);
        }
        match serde_json::from_str::<Reply>(text) {
            Ok(Reply { status, last_seq, .. }) if status == "subscribed" => Said::Subscribed(last_seq),
            Ok(Reply { oldest_seq: Some(oldest), .. }) => Said::Deleted(oldest),
            Ok(Reply { status, message, .. }) if status == "error" => Said::Refused(message.unwrap_or_default()),
            _ => Said::Else,
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------
// The subscription, as the network thread keeps it.

/// What is wanted, and up to where it has come.
#[derive(Serialize)]
struct Subscription {
    #[serde(rename = "event_types", skip_serializing_if = "Vec::is_empty")]
    types: Vec<String>,
    #[serde(rename = "session_id", skip_serializing_if = "Option::is_none")]
    session: Option<String>,
    #[serde(rename = "user_id", skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    /// What follows this event is wanted; none as long as no number is known: then live ones alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<u64>,
    /// Whether this connection has heard that it is one.
    #[serde(skip)]
    stands: bool,
    /// Whether any has: then the filters are good.
    #[serde(skip)]
    has_stood: bool,
}

impl Subscription {
    fn new(options: &Options) -> Subscription {
        Subscription {
            types: options.types.clone(),
            session: options.session.clone(),
            user: options.user.clone(),
            after: options.after,
            stands: false,
            has_stood: false,
        }
    }
}

impl Followed for Subscription {
    fn socket(&self) -> &str {
        "subscribe"
    }

    fn greeting(&mut self) -> Option<String> {
        self.stands = false;
        serde_json::to_string(self).ok()
    }

    fn ping(&self) -> Message {
        Message::text(r#"{"type":"ping"}"#)
    }

    fn handle_text(&mut self, text: &str) -> Option<Outcome> {
        match Said::of(text) {
            Said::Event(Event { seq, .. }) => {
                self.after = seq.or(self.after);
                None
            }
            Said::Subscribed(last) => {
                self.stands = true;
                self.has_stood = true;
                match (self.after, last) {
                    // Another store than the one that the number is of: what comes has lower ones.
                    (Some(after), Some(last)) if last < after => {
                        self.after = Some(last);
                        Some(Outcome::AtOnce(format!(
                            "the server has no event {after}, going on after its last, {last}"
                        )))
                    }
                    (None, last) => {
                        self.after = last;
                        None
                    }
                    _ => None,
                }
            }
            Said::Deleted(oldest) => {
                let before = oldest.saturating_sub(1);
                let why = format!("events up to {before} were deleted, going on with {oldest}");
                // Only what leads on may be tried without a wait.
                let leads_on = self.after.is_some_and(|after| after < before);
                self.after = Some(before);
                Some(if leads_on { Outcome::AtOnce(why) } else { Outcome::Again(why) })
            }
            Said::Refused(_) if self.stands => None,
            Said::Refused(why) if self.has_stood || why.contains("capacity") => Some(Outcome::Again(why)),
            Said::Refused(why) => Some(Outcome::over(1, format!("the server refuses: {why}"))),
            Said::Else => None,
        }
    }

    fn outcome_of(&self, code: Option<u16>) -> Outcome {
        match code {
            Some(1013) if self.stands => Outcome::Again("too slow for what happens".to_owned()),
            Some(4004) => Outcome::over(1, "the server keeps no events"),
            Some(4010) => Outcome::Again("events were deleted meanwhile".to_owned()),
            code => client::outcome_of(code),
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Showing them.

impl Event<'_> {
    /// `TIME SEQ TYPE SOURCE SESSION USER PAYLOAD`: the parts before, of and after the type.
    fn parts(&self) -> (String, String, String) {
        let time = match self.timestamp.parse::<jiff::Timestamp>() {
            Ok(time) => time.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string(),
            Err(_) => word(Some(&self.timestamp)),
        };
        let seq = self.seq.map_or("-".to_owned(), |seq| seq.to_string());
        let (session, user) = (word(self.session_id.as_deref()), word(self.user_id.as_deref()));
        let payload = visible(&compact(self.payload.get()));
        (
            format!("{time} {seq} "),
            word(Some(&self.event_type)),
            format!(" {} {session} {user} {payload}", word(Some(&self.source))),
        )
    }

    /// The line of an event, cut to `columns` if there are any.
    fn line(&self, columns: Option<usize>, color: bool) -> String {
        let (before, kind, after) = self.parts();
        let columns = columns.unwrap_or(usize::MAX);
        let taken = columns_of(&before) + columns_of(&kind);
        match columns.checked_sub(taken).filter(|left| color && *left >= COLUMNS_MIN) {
            Some(left) => format!("{before}{}{}", self.style().paint(&kind), cut(&after, left)),
            None => cut(&format!("{before}{kind}{after}"), columns),
        }
    }

    fn style(&self) -> Style {
        match self.event_type.as_str() {
            "error_occurred" | "quiz_timeout" | "timer_expired" => Style::Alarm,
            "timer_warning" | "timer_paused" | "learning_gap_detected" => Style::Notice,
            "quiz_started" | "quiz_completed" | "timer_started" | "timer_resumed" => Style::Good,
            _ => Style::Bold,
        }
    }
}

/// One field of a line: quoted where it would not look like one field, a dash where there is none.
fn word(text: Option<&str>) -> String {
    match text {
        None => "-".to_owned(),
        Some(text) if text.is_empty() || text == "-" || text.contains([' ', '"']) => {
            visible(&serde_json::to_string(text).unwrap_or_default())
        }
        Some(text) => visible(text),
    }
}

/// JSON on one line and, for a terminal, harmless: in JSON these characters stand between tokens as white space, or
/// in texts, where the escape means the same.
fn one_line(json: &str, is_terminal: bool) -> String {
    let mut line = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '\r' | '\n' | '\t' => line.push(' '),
            c if is_terminal && is_hidden(c) => line.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => line.push(c),
        }
    }
    line
}

/// Tells events on `out`, everything else on stderr.
struct Teller<C, W> {
    json: bool,
    /// The columns of the terminal, none where there is none.
    columns: C,
    color: bool,
    /// Why the connection was lost, until there is another.
    lost: Option<String>,
    /// Whether the connection is a subscription.
    subscribed: bool,
    out: W,
}

impl<C: Fn() -> Option<usize>, W: Write> Teller<C, W> {
    /// Tells what is heard until the end of it.
    fn tell_all(mut self, heard: &Receiver<Heard>, interrupted: &AtomicBool) -> io::Result<End> {
        loop {
            if interrupted.load(Ordering::Relaxed) {
                self.out.flush()?;
                return Ok(End { code: EXIT_INTERRUPTED, why: String::new() });
            }
            let word = match heard.try_recv() {
                Err(TryRecvError::Empty) => {
                    // All that came together has gone out together.
                    self.out.flush()?;
                    match heard.recv_timeout(LOOK_EVERY) {
                        Err(RecvTimeoutError::Timeout) if is_unread(io::stdout()) => {
                            return Err(io::ErrorKind::BrokenPipe.into());
                        }
                        Err(RecvTimeoutError::Timeout) => continue,
                        Err(RecvTimeoutError::Disconnected) => None,
                        Ok(word) => Some(word),
                    }
                }
                Err(TryRecvError::Disconnected) => None,
                Ok(word) => Some(word),
            };
            match word {
                Some(Heard::Text(text)) => {
                    if let Some(notice) = self.tell(&text)? {
                        client::say(COMMAND, &notice);
                    }
                }
                Some(Heard::Open) => self.subscribed = false,
                Some(Heard::Alive) => {}
                Some(Heard::Lost { why, wait }) => {
                    if let Some(notice) = self.handle_lost(why, wait.is_zero()) {
                        client::say(COMMAND, &notice);
                    }
                }
                Some(Heard::End(end)) => {
                    self.out.flush()?;
                    return Ok(end);
                }
                None => return Ok(End { code: 1, why: "the network thread ended".to_owned() }),
            }
        }
    }

    /// Tells a message; what is to be said beside the events.
    fn tell(&mut self, text: &str) -> io::Result<Option<String>> {
        match Said::of(text) {
            Said::Event(_) if self.json => {
                writeln!(self.out, "{}", one_line(text, (self.columns)().is_some()))?;
            }
            Said::Event(event) => writeln!(self.out, "{}", event.line((self.columns)(), self.color))?,
            Said::Subscribed(_) => {
                self.subscribed = true;
                return Ok(self.lost.take().map(|_| "connected again".to_owned()));
            }
            // Before that it is why the connection ends, and said there.
            Said::Refused(why) if self.subscribed => return Ok(Some(why)),
            Said::Refused(_) | Said::Deleted(_) | Said::Else => {}
        }
        Ok(None)
    }

    /// What is to be said of a loss: once for each reason, and always what the events themselves are about.
    fn handle_lost(&mut self, why: String, at_once: bool) -> Option<String> {
        if at_once {
            return Some(why);
        }
        let is_new = self.lost.as_ref() != Some(&why);
        let notice = is_new.then(|| format!("{why}; reconnecting"));
        self.lost = Some(why);
        notice
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(seq: &str, payload: &str) -> String {
        format!(
            r#"{{"id":"evt_0123456789ab","event_type":"quiz_started","source":"quiz_engine","session_id":"session-123",
            "user_id":null,"payload":{payload},"timestamp":"2026-02-01T10:00:00.123456Z","seq":{seq}}}"#
        )
    }

    fn subscription(after: Option<u64>) -> Subscription {
        Subscription {
            types: vec!["quiz_started".into(), "timer_tick".into()],
            session: None,
            user: Some("u".into()),
            after,
            stands: false,
            has_stood: false,
        }
    }

    /// What is asked for on the next connection.
    fn asked(wanted: &mut Subscription) -> serde_json::Value {
        serde_json::from_str(&wanted.greeting().unwrap()).unwrap()
    }

    fn teller(json: bool, columns: Option<usize>) -> Teller<impl Fn() -> Option<usize>, Vec<u8>> {
        Teller { json, columns: move || columns, color: false, lost: None, subscribed: true, out: Vec::new() }
    }

    fn told(json: bool, columns: Option<usize>, text: &str) -> String {
        let mut teller = teller(json, columns);
        assert_eq!(teller.tell(text).unwrap(), None, "{text}");
        String::from_utf8(teller.out).unwrap()
    }

    #[test]
    fn a_subscription_goes_on_behind_what_it_has_heard() {
        let mut wanted = subscription(None);
        let all = serde_json::json!({ "event_types": ["quiz_started", "timer_tick"], "user_id": "u" });
        assert_eq!(asked(&mut wanted), all);
        // Not heard of any number yet: still live ones only.
        assert_eq!(asked(&mut wanted), all);
        assert_eq!(wanted.handle_text(r#"{"status":"subscribed","last_seq":40}"#), None);
        assert_eq!(asked(&mut wanted)["after"], 40);
        assert_eq!(wanted.handle_text(r#"{"status":"subscribed","last_seq":50}"#), None);
        assert_eq!(asked(&mut wanted)["after"], 40, "41..50 are still to come");
        for (text, after) in [
            (event("41", "{}"), 41),
            (event("45", "{}"), 45),
            // An event that is not kept has no number.
            (event("null", "{}"), 45),
            (r#"{"type":"keepalive"}"#.to_owned(), 45),
            (r#"{"type":"pong"}"#.to_owned(), 45),
            ("[".to_owned(), 45),
        ] {
            assert_eq!(wanted.handle_text(&text), None, "{text}");
            assert_eq!(asked(&mut wanted)["after"], after, "{text}");
        }
        assert_eq!(asked(&mut subscription(Some(0)))["after"], 0);
    }

    #[test]
    fn what_was_deleted_is_said_and_passed_over() {
        let mut wanted = subscription(Some(5));
        let deleted = r#"{"status":"error","message":"Events up to 9 were deleted","oldest_seq":10}"#;
        let why = "events up to 9 were deleted, going on with 10".to_owned();
        assert_eq!(wanted.handle_text(deleted), Some(Outcome::AtOnce(why.clone())));
        assert_eq!(asked(&mut wanted)["after"], 9);
        // A server that says so for ever is not asked without a pause.
        assert_eq!(wanted.handle_text(deleted), Some(Outcome::Again(why.clone())));
        assert_eq!(teller(false, None).handle_lost(why.clone(), true), Some(why));
    }

    #[test]
    fn a_server_with_another_store_is_followed_from_its_end() {
        let mut wanted = subscription(Some(500));
        let outcome = wanted.handle_text(r#"{"status":"subscribed","last_seq":7}"#);
        assert!(matches!(outcome, Some(Outcome::AtOnce(why)) if why.contains("no event 500")));
        assert_eq!(asked(&mut wanted)["after"], 7);
    }

    #[test]
    fn what_a_refusal_means() {
        let mut wanted = subscription(None);
        let full = r#"{"status":"error","message":"Server at subscriber capacity"}"#;
        let wrong = r#"{"status":"error","message":"event_types: no such type"}"#;
        assert!(matches!(wanted.handle_text(full), Some(Outcome::Again(_))));
        assert!(
            matches!(wanted.handle_text(wrong), Some(Outcome::Over(End { code: 1, why })) if why.contains("no such"))
        );
        wanted.handle_text(r#"{"status":"subscribed","last_seq":7}"#);
        assert_eq!(wanted.handle_text(wrong), None, "the subscription stands");
        wanted.greeting();
        assert!(matches!(wanted.handle_text(wrong), Some(Outcome::Again(_))), "it was good before");
        for (code, exit) in
            [(4001, Some(1)), (4004, Some(1)), (4002, None), (4010, None), (1012, None), (1013, None), (1000, None)]
        {
            let over = match wanted.outcome_of(Some(code)) {
                Outcome::Over(end) => Some(end.code),
                _ => None,
            };
            assert_eq!(over, exit, "{code}");
        }
    }

    #[test]
    fn a_line_an_event() {
        let text = event("41", "{\"a\" : [1,\n 1e30], \"b \\\" c\":\"d  e\"}");
        let whole = "2026-02-01T10:00:00.123Z 41 quiz_started quiz_engine session-123 - \
                     {\"a\":[1,1e30],\"b \\\" c\":\"d  e\"}\n";
        assert_eq!(told(false, None, &text), whole);
        assert_eq!(told(false, Some(200), &text), whole);
        assert_eq!(told(false, Some(60), &text), "2026-02-01T10:00:00.123Z 41 quiz_started quiz_engine sess...\n");
        let Said::Event(painted) = Said::of(&text) else { panic!() };
        assert_eq!(
            painted.line(Some(60), true),
            "2026-02-01T10:00:00.123Z 41 \x1b[32mquiz_started\x1b[0m quiz_engine sess..."
        );
        for columns in 1..60 {
            assert!(columns_of(&painted.line(Some(columns), false)) <= columns);
            let bare = painted.line(Some(columns), true).replace("\x1b[32m", "").replace("\x1b[0m", "");
            assert!(columns_of(&bare) <= columns && !bare.contains('\x1b'), "{bare}");
        }
        let live = event("null", "{}").replace("session-123", "a b").replace("2026-", "");
        assert_eq!(told(false, None, &live), "02-01T10:00:00.123456Z - quiz_started quiz_engine \"a b\" - {}\n");
    }

    #[test]
    fn json_is_what_the_server_sent_on_one_line() {
        let text = event("41", "{\"a\": \"\u{9b}2Jé\"}");
        let line = told(true, None, &text);
        assert_eq!(line, text.replace('\n', " ") + "\n");
        // For a terminal it means the same, and does nothing.
        let harmless = told(true, Some(20), &text);
        assert!(harmless.contains(r"\u009b2Jé") && harmless.matches('\n').count() == 1);
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(value(&harmless), value(&text));
        for reply in [r#"{"type":"keepalive"}"#, r#"{"status":"subscribed","last_seq":1}"#, "{", "[]"] {
            assert_eq!(told(true, None, reply), "");
            assert_eq!(told(false, None, reply), "");
        }
    }

    #[test]
    fn an_event_cannot_move_the_cursor_or_forge_a_line() {
        let text = event("41", r#"{"a":"\u001b[2J","b":"\n"}"#)
            .replace("session-123", r"\u001b[2J\n2026")
            .replace("quiz_engine", r"x\ry\u202ez");
        let line = told(false, None, &text);
        assert_eq!(line.matches('\n').count(), 1);
        assert!(line.contains(" x?y?z ?[2J?2026 - {\"a\":\"\\u001b[2J\","), "{line}");
        assert!(!line.trim_end().contains(char::is_control));
    }

    #[test]
    fn a_loss_is_said_once_for_each_reason() {
        let mut teller = teller(false, None);
        let mut lose = |why: &str| teller.handle_lost(why.to_owned(), false);
        assert_eq!(lose("connection closed").as_deref(), Some("connection closed; reconnecting"));
        assert_eq!(lose("connection refused").as_deref(), Some("connection refused; reconnecting"));
        assert_eq!(lose("connection refused"), None);
        let subscribed = r#"{"status":"subscribed","last_seq":1}"#;
        assert_eq!(teller.tell(subscribed).unwrap().as_deref(), Some("connected again"));
        assert_eq!(teller.tell(subscribed).unwrap(), None);
    }

    #[test]
    fn numbers_to_begin_behind() {
        assert_eq!(sequence("0"), Ok(0));
        for text in ["", "-1", "+1", "1.5", "99999999999999999999"] {
            assert!(sequence(text).is_err(), "{text}");
        }
    }
}
