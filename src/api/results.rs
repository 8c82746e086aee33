//! Long answers: the sessions of an assessment, and what came of it.
//!
//! Owns answers that are given page by page as the client takes them, and the text of their rows: JSON, NDJSON and
//! CSV. It knows neither connections nor how pages find their way.
//!
//! A spreadsheet takes a cell that begins with one of `= + - @`, a tab or a carriage return for a formula, whatever
//! quotes are around it: such a cell gets an apostrophe before it.

use std::fmt::Write as _;
use std::sync::Arc;

use serde_json::json;

use crate::api::answer::{self, JSON, error_text, faults};
use crate::api::assessments::{self, number};
use crate::api::form::{self, Fault, Form};
use crate::api::raw::push_string;
use crate::api::time::date_time;
use crate::api::{Api, Outcome, World};
use crate::clock::Now;
use crate::domain::Engine;
use crate::domain::countdown::Second;
use crate::domain::delivery::{Session, State};
use crate::domain::disk::{Query, ResultRow, Results};
use crate::domain::effects::Topic;
use crate::domain::staged::Hold;
use crate::limits::*;
use crate::wire::http::{Body, Head, Response};

/// An answer that is given page by page.
#[derive(Debug)]
pub struct Export {
    assessment: Arc<str>,
    /// The serial number of the last session told.
    after: u32,
    what: What,
}

#[derive(Debug)]
enum What {
    /// Sessions in this state, or all.
    Sessions { state: Option<State>, is_first: bool },
    /// Answers, a line a session.
    Ndjson,
    /// Answers, a column an item; which, the first page says.
    Csv { items: Vec<Arc<str>> },
}

/// What comes next of a long answer.
#[derive(Debug)]
pub enum Next {
    /// This.
    Page(Page),
    /// What the disk says to this.
    Ask(Query),
}

/// A piece of a long answer.
#[derive(Debug)]
pub struct Page {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// There is nothing more.
    pub is_last: bool,
}

impl Api {
    /// `GET /delivery/assessments/{id}/sessions`.
    pub(super) fn sessions(&self, id: &str, query: &str, world: &mut World<'_>) -> Outcome {
        let state = match state_filter(query) {
            Ok(state) => state,
            Err(found) => return Outcome::Answer(faults(&found), Hold::Nothing),
        };
        let delivery = &world.engine.delivery;
        if delivery.catalogue.shown(id).is_none() && !delivery.has_sessions_of(id) {
            return Outcome::Answer(assessments::not_found(id), Hold::Nothing);
        }
        let what = What::Sessions { state: state.flatten(), is_first: true };
        if state == Some(None) {
            // A state that nobody ever sees.
            return Outcome::Answer(answer::json_bytes(200, b"[]".to_vec()), Hold::Nothing);
        }
        Outcome::Export(Export { assessment: id.into(), after: 0, what }, Hold::Nothing)
    }

    /// `GET /delivery/assessments/{id}/results`.
    pub(super) fn results(&self, id: &str, head: &Head, world: &World<'_>) -> Outcome {
        let what = match preferred(head) {
            Some("text/csv") => What::Csv { items: Vec::new() },
            Some(_) => What::Ndjson,
            None => {
                let text = "Results come as application/x-ndjson or text/csv";
                return Outcome::Answer(error_text(406, text), Hold::Nothing);
            }
        };
        if id.chars().count() > DELIVERY_ID_CHARS_MAX {
            return Outcome::Answer(assessments::not_found(id), Hold::Nothing);
        }
        Outcome::Export(Export { assessment: id.into(), after: 0, what }, world.catch_up())
    }
}

impl Export {
    /// Whether its pages are the disk's.
    pub fn asks_the_disk(&self) -> bool {
        !matches!(self.what, What::Sessions { .. })
    }

    /// The answer's head.
    pub fn head(&self) -> Response {
        let content_type = match self.what {
            What::Sessions { .. } => JSON,
            What::Ndjson => "application/x-ndjson",
            What::Csv { .. } => "text/csv; charset=utf-8",
        };
        Response { status: 200, headers: Vec::new(), content_type: Some(content_type), body: Body::Stream }
    }

    /// What comes next. `clients`: how many sockets listen to a topic.
    pub fn next(&mut self, now: Now, engine: &mut Engine, clients: &dyn Fn(Topic) -> u32) -> Next {
        let Export { assessment, after, what } = self;
        let What::Sessions { state, is_first } = what else {
            let (assessment, after) = (assessment.clone(), *after);
            return Next::Ask(Query::Results { assessment, after, bytes_max: RESULTS_PAGE_BYTES_MAX });
        };
        let Engine { delivery, fx, .. } = engine;
        let second = delivery.second();
        let shown = delivery.shown_of(now, assessment, *after, SESSION_ROWS_PAGE_MAX, fx);
        let mut out = String::from(if *after == 0 { "[" } else { "" });
        for (session, seen_at) in &shown.rows {
            if state.is_none_or(|state| session.state == state) {
                out.push_str(if std::mem::take(is_first) { "" } else { "," });
                let connected = clients(Topic::Session(session.serial));
                let seen_at = seen_at.map_or("null".to_owned(), |at| format!("\"{}\"", date_time(at)));
                push_session(session, now, second, connected, &seen_at, &mut out);
            }
        }
        *after = shown.upto;
        let is_last = shown.is_last;
        if is_last {
            out.push(']');
        }
        Next::Page(Page { bytes: out.into_bytes(), is_last })
    }

    /// What the disk has said, as the next piece.
    ///
    /// # Errors
    /// The answer instead: nothing is known of the assessment.
    pub fn told(&mut self, results: Option<Results>, second: Second) -> Result<Page, Response> {
        let Some(Results { items: columns, rows, is_last }) = results else {
            return Err(assessments::not_found(&self.assessment));
        };
        let mut out = String::new();
        let is_first = self.after == 0;
        self.after = rows.last().map_or(u32::MAX, |row| row.serial);
        match &mut self.what {
            What::Csv { items } => {
                if is_first {
                    *items = columns;
                    let fixed = ["session_id", "candidate_id", "state", "started_at", "completed_at", "late_ms"];
                    push_csv(fixed.into_iter().chain(items.iter().map(|item| &**item)), &mut out);
                }
                rows.iter().for_each(|row| push_csv_row(row, items, &mut out));
            }
            _ => {
                rows.iter().for_each(|row| push_line(row, &self.assessment, second, &mut out));
                out = escape_line_ends(out);
            }
        }
        Ok(Page { bytes: out.into_bytes(), is_last })
    }
}

/// Reads `?state=`. `Some(None)`: one that no session ever has.
fn state_filter(query: &str) -> Result<Option<Option<State>>, Vec<Fault>> {
    let query = form::query(query);
    let Some(asked) = query.get("state") else { return Ok(None) };
    let found = State::ALL.into_iter().find(|state| asked == state.name());
    if found.is_none() && asked != "not_started" {
        let mut form = Form::query(&query);
        let msg = "Input should be 'not_started', 'in_progress', 'paused', 'completed', 'expired' or 'terminated'";
        form.fault("enum", "state", msg);
        form.done()?;
    }
    Ok(Some(found))
}

/// The media type that a client likes best of those there are (RFC 9110, section 12.5.1). `None`: none of them.
fn preferred(head: &Head) -> Option<&'static str> {
    const KINDS: [(&str, &str); 2] = [("application/x-ndjson", "application/*"), ("text/csv", "text/*")];
    let mut ranges: Vec<(String, f64)> = Vec::new();
    for range in head.headers("accept").flat_map(|value| value.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next().unwrap_or("").to_ascii_lowercase();
        let weight = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
        let weight = weight.map_or(1.0, |weight| weight.parse().unwrap_or(0.0));
        if !name.is_empty() {
            ranges.push((name, weight));
        }
    }
    if ranges.is_empty() {
        return Some(KINDS[0].0);
    }
    let weight_of = |(kind, family): (&str, &str)| {
        // The most specific range decides.
        let named = [kind, family, "*/*"].into_iter().find_map(|name| ranges.iter().find(|range| range.0 == name));
        named.map_or(0.0, |range| range.1)
    };
    let [ndjson, csv] = KINDS.map(weight_of);
    if ndjson <= 0.0 && csv <= 0.0 {
        return None;
    }
    Some(if csv > ndjson { KINDS[1].0 } else { KINDS[0].0 })
}

// ---------------------------------------------------------------------------------------------------------------
// Rows.

fn push_session(session: &Session, now: Now, second: Second, connected: u32, seen_at: &str, out: &mut String) {
    let _ = write!(out, r#"{{"session_id":"{}","candidate_id":"#, session.id);
    push_string(&session.candidate, out);
    out.push_str(r#","test_taker_id":"#);
    push_string(&session.test_taker, out);
    // Writing to a String cannot fail.
    let _ = write!(
        out,
        r#","state":"{}","time_remaining_seconds":{},"answered":{},"total_items":{}"#,
        session.state.name(),
        number(session.left_s(now, second)),
        session.answered(),
        session.total()
    );
    let _ = write!(out, r#","connected":{connected},"last_seen":{seen_at}}}"#);
}

fn instant(at: Option<crate::clock::WallMs>) -> String {
    at.map_or(String::new(), date_time)
}

fn push_line(row: &ResultRow, assessment: &str, second: Second, out: &mut String) {
    let _ = write!(out, r#"{{"session_id":"{}""#, row.session);
    for (name, value) in
        [("assessment_id", assessment), ("candidate_id", &row.candidate), ("test_taker_id", &row.test_taker)]
    {
        let _ = write!(out, r#","{name}":"#);
        push_string(value, out);
    }
    let completed_at = row.completed_at.map_or("null".to_owned(), |at| format!("\"{}\"", date_time(at)));
    let late_ms = row.late_ms.map_or("null".to_owned(), |late_ms| late_ms.to_string());
    let limit_s = number(row.limit_ns.map(|limit_ns| second.ceil(std::time::Duration::from_nanos(limit_ns))));
    let _ = write!(
        out,
        r#","state":"{}","started_at":"{}","completed_at":{completed_at},"late_ms":{late_ms},"time_limit_seconds":{limit_s},"responses":{{"#,
        row.state.name(),
        date_time(row.started_at)
    );
    let mut comma = "";
    for (id, response) in row.items.iter().filter_map(|item| Some((&item.id, item.response.as_ref()?))) {
        out.push_str(comma);
        push_string(id, out);
        out.push(':');
        out.push_str(response);
        comma = ",";
    }
    let flagged: Vec<&str> = row.items.iter().filter(|item| item.is_flagged).map(|item| &*item.id).collect();
    let _ = writeln!(out, r#"}},"flagged_items":{}}}"#, json!(flagged));
}

/// Some readers of lines take these for ends of lines. In JSON they can only stand within a string, where an escape is
/// the same.
fn escape_line_ends(text: String) -> String {
    const ENDS: [(char, &str); 3] = [('\u{2028}', "\\u2028"), ('\u{2029}', "\\u2029"), ('\u{85}', "\\u0085")];
    match text.contains(ENDS.map(|(end, _)| end)) {
        true => ENDS.iter().fold(text, |text, (end, escape)| text.replace(*end, escape)),
        false => text,
    }
}

fn push_csv_row(row: &ResultRow, columns: &[Arc<str>], out: &mut String) {
    let (started_at, completed_at) = (date_time(row.started_at), instant(row.completed_at));
    let late_ms = row.late_ms.map_or(String::new(), |late_ms| late_ms.to_string());
    let fixed = [&*row.session, &*row.candidate, row.state.name(), &started_at, &completed_at, &late_ms];
    let responses: std::collections::HashMap<&str, &str> =
        row.items.iter().filter_map(|item| Some((&*item.id, item.response.as_deref()?))).collect();
    let cells = columns.iter().map(|id| responses.get(&**id).copied().unwrap_or(""));
    push_csv(fixed.into_iter().chain(cells), out);
}

/// A line of CSV (RFC 4180), safe for spreadsheets.
fn push_csv<'a>(cells: impl Iterator<Item = &'a str>, out: &mut String) {
    for (at, cell) in cells.enumerate() {
        if at > 0 {
            out.push(',');
        }
        let is_formula = cell.starts_with(['=', '+', '-', '@', '\t', '\r']);
        let is_quoted = cell.contains(['"', ',', '\r', '\n']);
        let quote = if is_quoted { "\"" } else { "" };
        out.push_str(quote);
        if is_formula {
            out.push('\'');
        }
        if is_quoted {
            out.push_str(&cell.replace('"', "\"\""));
        } else {
            out.push_str(cell);
        }
        out.push_str(quote);
    }
    out.push_str("\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line_for_every_reader() {
        let line = "{\"a\":\"x\u{2028}y\u{85}z\"}\n".to_owned();
        assert_eq!(escape_line_ends(line), "{\"a\":\"x\\u2028y\\u0085z\"}\n");
    }

    #[test]
    fn no_cell_becomes_a_formula() {
        let mut out = String::new();
        let cells = ["a", "=1+1", "+1", "-1", "@x", "\tx", "\rx", "a,b", "say \"so\"", "=\"x\",1", "", "two\nlines"];
        push_csv(cells.into_iter(), &mut out);
        let expected =
            "a,'=1+1,'+1,'-1,'@x,'\tx,\"'\rx\",\"a,b\",\"say \"\"so\"\"\",\"'=\"\"x\"\",1\",,\"two\nlines\"\r\n";
        assert_eq!(out, expected);
    }
}
