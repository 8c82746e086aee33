//! `timerd exam`: the exam office's side of exam delivery, in a terminal.
//!
//! Three clients: [`load`] checks assessments and puts them on the server, [`watch`] shows who sits one, [`results`]
//! fetches what was handed in. This file owns what they share: how they are called, where an assessment is, and what
//! the server's refusals mean. It must not know what any of them shows.
//!
//! Invariants as of all clients: foreign text is harmless on a terminal, the key is in no message, and an exit code of
//! 0 says that all of it was done.

mod json;
pub mod load;
pub mod results;
pub mod watch;

use std::io;
use std::process::ExitCode;

use serde::Deserialize;

use crate::client::http::Answer;
use crate::client::{self, Outcome, Terminal, escaped, reason};

/// Bytes of an answer that says why not.
const REFUSAL_BYTES_MAX: u64 = 1 << 20;

/// What to do with assessments.
#[derive(clap::Subcommand, Clone, Debug)]
pub enum Action {
    /// Check assessments, one JSON object a file, and load them into the server
    Load(load::Options),
    /// Show who sits an assessment: state, answers, time left, connection
    Watch(watch::Options),
    /// Fetch every session of an assessment with its answers
    Results(results::Options),
}

impl Action {
    /// The same, with what is known of the terminal.
    #[must_use]
    pub fn on(mut self, terminal: Terminal) -> Action {
        if let Action::Watch(options) = &mut self {
            options.terminal = terminal;
        }
        self
    }
}

/// Does it; the exit code is 0 when all was done, 1 when something was refused or failed, 130 on Ctrl-C.
pub fn run(action: &Action) -> ExitCode {
    match action {
        Action::Load(options) => load::run(options),
        Action::Watch(options) => watch::run(options),
        Action::Results(options) => results::run(options),
    }
}

/// The path of the assessment `id`, and what lies below it.
fn path_of(id: &str, below: &str) -> String {
    format!("/delivery/assessments/{}{below}", escaped(id))
}

/// `{"detail": ...}`: a text, or a list of faults.
#[derive(Deserialize)]
struct Refusal {
    detail: serde_json::Value,
}

/// What an answer that is no success means.
fn outcome_of(answer: &mut Answer<'_>) -> Outcome {
    let status = answer.status;
    let detail = detail_of(answer);
    let detail = detail.as_ref().and_then(serde_json::Value::as_str);
    match (status, detail) {
        (401, _) => client::outcome_of(Some(4001)),
        (403, Some(detail)) => Outcome::over(1, format!("the server refuses: {detail}")),
        (404, Some(detail)) if detail.starts_with("Assessment ") => Outcome::over(1, detail),
        (404, _) => Outcome::over(1, "the server delivers no exams"),
        (429 | 500..=599, Some(detail)) => Outcome::Again(detail.to_owned()),
        (429 | 500..=599, None) => Outcome::Again(format!("refused with status {status}")),
        (_, Some(detail)) => Outcome::over(1, format!("refused with status {status}: {detail}")),
        (_, None) => Outcome::over(1, format!("refused with status {status}")),
    }
}

/// Why the server refuses, where it says so in the contract's form.
fn detail_of(answer: &mut Answer<'_>) -> Option<serde_json::Value> {
    let text = answer.text(REFUSAL_BYTES_MAX).ok()?;
    serde_json::from_str::<Refusal>(&text).ok().map(|refusal| refusal.detail)
}

/// Why a connection failed or an answer could not be read.
fn failure_of(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "the answer was cut off".to_owned(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted => "connection closed".to_owned(),
        _ => reason(error),
    }
}
