//! The timers' requests and messages.
//!
//! Owns the calls of the timer service, in the contract's order of checks behind those of the head, and the JSON of a
//! timer: bodies into commands, timers and announcements into text. It decides nothing about a timer, and knows no
//! connection.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::api::answer::{self, error_text, faults};
use crate::api::form::{self, Fault, Form};
use crate::api::guard::Caller;
use crate::api::precondition::IfMatch;
use crate::api::routes::{Bulk, Route};
use crate::api::time::{date_time, date_time_ms};
use crate::api::{Api, Outcome, World, replays};
use crate::clock::Now;
use crate::domain::Engine;
use crate::domain::countdown::Second;
use crate::domain::effects::Topic;
use crate::domain::history::{self, Actor, Entry};
use crate::domain::staged::Hold;
use crate::domain::timers::{Action, Begin, Blueprint, Message, Reading, Refusal, State, Timer, Verdict};
use crate::limits::*;
use crate::wire::http::{Body, Head, Request, Response};
use crate::wire::sse;

// ---------------------------------------------------------------------------------------------------------------
// Calls: everything that is checked before anything is done, then done at once.

impl Api {
    /// `GET /timers`.
    pub(super) fn list(&self, query: &str, world: &mut World<'_>) -> Result<Response, Vec<Fault>> {
        let wanted = state_filter(query)?;
        let Engine { timers: all, fx, .. } = &mut *world.engine;
        let second = all.second();
        let shown = all.shown_all(world.now, fx).filter(|timer| wanted.is_none_or(|state| timer.state == state));
        let objects: Vec<_> = shown
            .map(|timer| object(timer, world.now, second, (world.clients)(Topic::Timer(timer.serial))))
            .collect();
        Ok(answer::json(200, &objects))
    }

    /// `GET /timers/{id}`.
    pub(super) fn read(&self, id: &str, world: &mut World<'_>) -> Response {
        let Engine { timers: all, fx, .. } = &mut *world.engine;
        let second = all.second();
        match all.shown(world.now, id, fx) {
            Some(timer) => {
                let clients = (world.clients)(Topic::Timer(timer.serial));
                answer::json(200, &object(timer, world.now, second, clients)).with("ETag", etag(timer.revision))
            }
            None => not_found(),
        }
    }

    /// `GET /timers/{id}/stream`.
    pub(super) fn stream(&self, id: &str, caller: &Caller, head: &Head, world: &mut World<'_>) -> Outcome {
        let Engine { timers: all, fx, .. } = &mut *world.engine;
        let refusal = |response| Outcome::Answer(response, Hold::Nothing);
        let Some(serial) = all.shown(world.now, id, fx).map(|timer| timer.serial) else {
            return refusal(not_found());
        };
        let counted = caller.is_counted();
        if counted && (world.clients)(Topic::Timer(serial)) >= self.limits.clients_per_timer {
            let full = error_text(429, "Too many connections");
            return refusal(full.with("Retry-After", STREAM_RETRY_AFTER_S.to_string()));
        }
        let content_type = Some(sse::CONTENT_TYPE);
        // Proxies that gather answers would make a stream of it that comes in lumps.
        let headers = vec![("X-Accel-Buffering", "no".to_owned())];
        let response = Response { status: 200, headers, content_type, body: Body::Endless };
        if head.method == "HEAD" {
            return refusal(response);
        }
        let spread_ms = world.chance.next_u32() % (STREAM_RETRY_MS.end() - STREAM_RETRY_MS.start() + 1);
        let (head, retry_ms) = (self.finish(head, response), STREAM_RETRY_MS.start() + spread_ms);
        Outcome::Stream { head, serial, counted, retry_ms }
    }

    /// Everything that changes a timer, or many.
    pub(super) fn change(
        &self,
        route: Route,
        id: &str,
        actor: &Actor,
        request: &Request,
        world: &mut World<'_>,
    ) -> Outcome {
        let head = &request.head;
        let now = |response| Outcome::Answer(response, Hold::Nothing);
        let stub = match replays::first_time(request, actor, world) {
            Ok(stub) => stub,
            Err(outcome) => return outcome,
        };
        let command = match Command::read(route, request, world.now) {
            Ok(command) => command,
            Err(found) => return now(faults(&found)),
        };
        if let Err(response) = world.takes_commands() {
            return now(response);
        }
        let Done { response, hold, changed } = self.carry_out(command, id, head, actor, world);
        if let Some(stub) = stub.filter(|_| changed) {
            replays::keep(stub, &response, world.engine);
        }
        Outcome::Answer(response, hold)
    }

    fn carry_out(&self, command: Command, id: &str, head: &Head, actor: &Actor, world: &mut World<'_>) -> Done {
        let now = world.now;
        let Engine { timers: all, fx, .. } = &mut *world.engine;
        let second = all.second();
        let expected = IfMatch::read(head);
        let matches = |revision| expected.as_ref().is_ok_and(|expected| expected.admits(revision));
        let single = |verdict: Verdict, status| {
            let response = match &verdict.outcome {
                Ok(_) if status == 204 => answer::no_content(),
                Ok(timer) => {
                    let clients = (world.clients)(Topic::Timer(timer.serial));
                    answer::json(status, &object(timer, now, second, clients)).with("ETag", etag(timer.revision))
                }
                Err(refusal) => refused(refusal),
            };
            Done { changed: verdict.outcome.is_ok(), hold: verdict.hold, response }
        };
        match command {
            Command::Create(plan) => {
                let verdict = all.create(now, plan, world.chance.next_u32(), actor, fx);
                let location = verdict.outcome.as_ref().ok().map(|timer| format!("/timers/{}", timer.id));
                let mut done = single(verdict, 201);
                if let Some(location) = location {
                    done.response = done.response.with("Location", location);
                }
                done
            }
            Command::Control(_) | Command::Delete if let Err(malformed) = expected => {
                // Existence goes before what is wrong with the precondition.
                let found = all.judge(now, id, &|_| true, fx);
                let response = match found.outcome {
                    Ok(_) => error_text(400, malformed),
                    Err(refusal) => refused(&refusal),
                };
                Done { response, hold: found.hold, changed: false }
            }
            Command::Control(Some(action)) => single(all.control(now, id, action, &matches, actor, fx), 200),
            Command::Control(None) => {
                // An extension that does not say by how much: existence is judged before that, and so is If-Match.
                let found = all.judge(now, id, &matches, fx);
                let hold = found.hold;
                let response = match found.outcome {
                    Ok(_) => error_text(400, "extend_seconds required for extend action"),
                    Err(refusal) => refused(&refusal),
                };
                Done { response, hold, changed: false }
            }
            Command::Delete => single(all.delete(now, id, &matches, actor, fx), 204),
            Command::Bulk(ids, action) => {
                let mut hold = Hold::Nothing;
                let any = |_| true;
                let mut lines = Vec::with_capacity(ids.len());
                for id in &ids {
                    let verdict = match action {
                        Some(action) => all.control(now, id, action, &any, actor, fx),
                        None => all.delete(now, id, &any, actor, fx),
                    };
                    hold = hold.max(verdict.hold);
                    lines.push(bulk_line(id, action, &verdict.outcome));
                }
                let changed = lines.iter().any(|line| line.success);
                Done { response: answer::json(200, &lines), hold, changed }
            }
        }
    }
}

/// What came of a command.
struct Done {
    response: Response,
    hold: Hold,
    changed: bool,
}

/// A change, checked as far as that needs no timer.
enum Command {
    Create(Blueprint),
    Control(Option<Action>),
    Delete,
    Bulk(Vec<String>, Option<Action>),
}

impl Command {
    fn read(route: Route, request: &Request, now: Now) -> Result<Self, Vec<Fault>> {
        if route == Route::Timer {
            return Ok(Command::Delete);
        }
        let body = form::parse(&request.body)?;
        match route {
            Route::TimersBulk(op) => {
                let call = bulk(op, &body, &request.head.query)?;
                Ok(Command::Bulk(call.ids.into_iter().map(str::to_owned).collect(), call.action))
            }
            Route::TimerControl => control(&body).map(Command::Control),
            _ => blueprint(&body, now).map(Command::Create),
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Bodies.

/// Reads `POST /timers`.
///
/// # Errors
/// Every fault of the body.
pub fn blueprint(body: &Value, now: Now) -> Result<Blueprint, Vec<Fault>> {
    let mut form = Form::body(body)?;
    let duration_s = form.int("duration_seconds", 1..=DURATION_S_MAX);
    let name = form.text("name", 1..=NAME_CHARS_MAX, NAME_DEFAULT);
    let thresholds = form.ints("warning_thresholds", THRESHOLDS_MAX, 1..=DURATION_S_MAX, &THRESHOLDS_DEFAULT);
    let auto_start = form.bool("auto_start");
    let start_at = form.instant_or_null("start_at");
    if let Some(at) = start_at {
        if auto_start {
            form.fault("value_error", "start_at", "start_at and auto_start exclude each other");
        } else if at <= now.wall {
            form.fault("value_error", "start_at", "start_at must lie ahead");
        } else if at.since(now.wall) > START_AT_AHEAD {
            form.fault("value_error", "start_at", "start_at must lie within 30 days");
        }
    }
    form.done()?;
    let begin = match start_at {
        Some(at) => Begin::At(at),
        None if auto_start => Begin::Now,
        None => Begin::ByHand,
    };
    // Without a duration there was a fault, and the form is done with us.
    Ok(Blueprint { name, duration_s: duration_s.unwrap_or(1), thresholds, begin })
}

/// Reads `POST /timers/{id}/control`. `Ok(None)`: an extension that does not say by how much, which is judged later.
///
/// # Errors
/// Every fault of the body.
pub fn control(body: &Value) -> Result<Option<Action>, Vec<Fault>> {
    let mut form = Form::body(body)?;
    let added_s = form.int_or_null("extend_seconds", 1..=EXTEND_S_MAX);
    let action = match form.raw("action").map(|value| value.as_str()) {
        Some(Some("start")) => Some(Action::Start),
        Some(Some("pause")) => Some(Action::Pause),
        Some(Some("resume")) => Some(Action::Resume),
        Some(Some("stop")) => Some(Action::Stop),
        Some(Some("extend")) => added_s.map(|added_s| Action::Extend { added_s }),
        Some(_) => {
            let msg = "Input should be 'start', 'pause', 'resume', 'extend' or 'stop'";
            form.fault("literal_error", "action", msg);
            None
        }
        None => {
            form.fault("missing", "action", "Field required");
            None
        }
    };
    form.done()?;
    Ok(action)
}

/// A bulk call: the timers in the order asked, and what happens to each.
pub struct BulkCall<'a> {
    /// Whom.
    pub ids: Vec<&'a str>,
    /// What; `None` is deletion.
    pub action: Option<Action>,
}

/// Reads a bulk call in either of its forms: an object with `timer_ids`, or a bare list with the rest in the query.
///
/// # Errors
/// Every fault of body and query.
pub fn bulk<'a>(op: Bulk, body: &'a Value, query: &str) -> Result<BulkCall<'a>, Vec<Fault>> {
    let query = form::query(query);
    let mut faults = Vec::new();
    let mut ids = Vec::new();
    let mut take = |value, loc: &[&str]| match form::strings(value, loc, BULK_IDS_MAX) {
        Ok(strings) => ids = strings,
        Err(found) => faults.extend(found),
    };
    let mut seconds = Form::query(&query);
    match body {
        Value::Array(_) => take(body, &["body"]),
        Value::Object(fields) => {
            match fields.get("timer_ids") {
                Some(list) => take(list, &["body", "timer_ids"]),
                None => faults.push(Fault::new("missing", &["body", "timer_ids"], "Field required")),
            }
            if fields.contains_key("seconds") || !query.contains_key("seconds") {
                seconds = Form::body(body)?;
            }
        }
        other => {
            if let Err(found) = Form::body(other) {
                faults.extend(found);
            }
        }
    }
    let mut added_s = 0;
    if op == Bulk::Extend {
        added_s = seconds.int("seconds", 1..=EXTEND_S_MAX).unwrap_or(0);
        if let Err(found) = seconds.done() {
            faults.extend(found);
        }
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    let action = match op {
        Bulk::Start => Some(Action::Start),
        Bulk::Pause => Some(Action::Pause),
        Bulk::Resume => Some(Action::Resume),
        Bulk::Stop => Some(Action::Stop),
        Bulk::Extend => Some(Action::Extend { added_s }),
        Bulk::Delete => None,
    };
    Ok(BulkCall { ids, action })
}

/// Reads `?state=` of the list.
///
/// # Errors
/// A state that does not exist.
pub fn state_filter(query: &str) -> Result<Option<State>, Vec<Fault>> {
    let query = form::query(query);
    let Some(asked) = query.get("state") else { return Ok(None) };
    match State::ALL.into_iter().find(|state| asked == state.name()) {
        Some(state) => Ok(Some(state)),
        None => {
            let mut form = Form::query(&query);
            let msg = "Input should be 'created', 'running', 'paused', 'completed' or 'expired'";
            form.fault("enum", "state", msg);
            form.done().map(|()| None)
        }
    }
}

/// Reads `?after=` and `?limit=` of the history.
///
/// # Errors
/// Numbers out of range.
pub fn history_page(query: &str) -> Result<(u64, u32), Vec<Fault>> {
    let query = form::query(query);
    let mut form = Form::query(&query);
    let after = form.int_or_null("after", 0..=u32::MAX).unwrap_or(0);
    let limit = form.int_or_null("limit", 1..=HISTORY_PAGE_ROWS_MAX).unwrap_or(HISTORY_PAGE_ROWS_MAX);
    form.done()?;
    Ok((u64::from(after), limit))
}

// ---------------------------------------------------------------------------------------------------------------
// Answers.

/// The timer object of the contract, its fields in the contract's order.
#[derive(Serialize)]
struct View<'a> {
    id: &'a str,
    name: &'a str,
    state: &'static str,
    duration_seconds: u32,
    remaining_seconds: u32,
    elapsed_seconds: u32,
    warning_thresholds: &'a [u32],
    connected_clients: u32,
    created_at: String,
    started_at: Option<String>,
    completed_at: Option<String>,
    remaining_ms: u64,
    ends_at: Option<String>,
    start_at: Option<String>,
    revision: u64,
}

/// The timer as JSON.
pub fn object(timer: &Timer, now: Now, second: Second, connected_clients: u32) -> impl Serialize + '_ {
    let reading = timer.reading(now, second);
    View {
        id: &timer.id,
        name: &timer.name,
        state: timer.state.name(),
        duration_seconds: timer.duration_s,
        remaining_seconds: reading.remaining_s,
        elapsed_seconds: reading.elapsed_s,
        warning_thresholds: &timer.thresholds,
        connected_clients,
        created_at: date_time(timer.created_at),
        started_at: timer.started_at.map(date_time),
        completed_at: timer.completed_at.map(date_time),
        remaining_ms: reading.remaining_ms,
        ends_at: timer.ends_at().map(date_time_ms),
        start_at: timer.start_at.map(date_time),
        revision: timer.revision,
    }
}

/// The `ETag` of a timer at this revision.
pub fn etag(revision: u64) -> String {
    format!("\"{revision}\"")
}

/// The answer to a refused command.
pub fn refused(refusal: &Refusal) -> Response {
    match refusal {
        Refusal::NotFound => not_found(),
        Refusal::Full => answer::error_text(429, "Maximum timer limit reached"),
        Refusal::Changed(revision) => {
            let text = format!("The timer has changed: its revision is {revision}");
            answer::error_text(412, &text).with("ETag", etag(*revision))
        }
        Refusal::WrongState { action, state } => {
            let (action, name, valid) = (action.name(), state.name(), state.valid_actions());
            let text = format!("Cannot {action} timer in state '{name}'. Valid actions: [{valid}]");
            answer::error_text(400, &text)
        }
        Refusal::TooLong(_) => {
            answer::error_text(400, &format!("A timer cannot last longer than {TOTAL_S_MAX} seconds"))
        }
    }
}

/// 404 for a timer.
pub fn not_found() -> Response {
    answer::error_text(404, "Timer not found")
}

/// One line of a bulk call's answer.
#[derive(Serialize)]
pub struct BulkLine<'a> {
    timer_id: &'a str,
    /// Whether the timer was changed.
    pub success: bool,
    status: String,
}

/// The line of one timer: what was done, or why not.
pub fn bulk_line<'a>(id: &'a str, action: Option<Action>, outcome: &Result<Timer, Refusal>) -> BulkLine<'a> {
    let status = match (outcome, action) {
        (Ok(_), None) => "deleted".to_owned(),
        (Ok(_), Some(Action::Start)) => "started".to_owned(),
        (Ok(_), Some(Action::Pause)) => "paused".to_owned(),
        (Ok(_), Some(Action::Resume)) => "resumed".to_owned(),
        (Ok(_), Some(Action::Stop)) => "stopped".to_owned(),
        (Ok(_), Some(Action::Extend { added_s })) => format!("extended by {added_s}s"),
        (Err(Refusal::WrongState { state, .. } | Refusal::TooLong(state)), _) => {
            format!("failed (state: {})", state.name())
        }
        (Err(Refusal::NotFound | Refusal::Full | Refusal::Changed(_)), _) => "not found".to_owned(),
    };
    BulkLine { timer_id: id, success: outcome.is_ok(), status }
}

/// A page of history.
pub fn history(entries: &[Entry]) -> Response {
    answer::json(200, &entries.iter().map(history_entry).collect::<Vec<_>>())
}

fn history_entry(entry: &Entry) -> Value {
    let mut line = json!({
        "at": date_time(entry.at),
        "revision": entry.revision,
        "action": entry.action.name(),
        "actor": &*entry.actor,
        "at_ms": entry.at.ms(),
        "remaining_seconds": entry.remaining_ms.div_ceil(1000),
        "remaining_ms": entry.remaining_ms,
    });
    match &entry.action {
        history::Action::Created { name, duration_s } => {
            line["name"] = json!(&**name);
            line["duration_seconds"] = json!(duration_s);
        }
        history::Action::Scheduled { start_at } => line["start_at"] = json!(date_time(*start_at)),
        history::Action::Extended { added_s } => line["added_seconds"] = json!(added_s),
        history::Action::Outage { added_ms } => line["added_ms"] = json!(added_ms),
        _ => {}
    }
    line
}

// ---------------------------------------------------------------------------------------------------------------
// Messages: text, `type` first.

/// The first message on every socket.
pub fn connected(timer: &Timer, now: Now, second: Second, connected_clients: u32) -> String {
    #[derive(Serialize)]
    struct Connected<T: Serialize> {
        r#type: &'static str,
        timer: T,
        server_time_ms: i64,
    }
    let timer = object(timer, now, second, connected_clients);
    let message = Connected { r#type: "connected", timer, server_time_ms: now.wall.ms() };
    serde_json::to_string(&message).unwrap_or_default()
}

/// An announcement, into `out`.
pub fn announce(message: &Message, out: &mut String) {
    // Writing to a String cannot fail.
    let _ = match message {
        Message::Tick(Reading { remaining_s, elapsed_s, .. }) => {
            write!(out, r#"{{"type":"timer_tick","remaining_seconds":{remaining_s},"elapsed_seconds":{elapsed_s}}}"#)
        }
        Message::Started(reading) => exact(out, "timer_started", "", reading),
        Message::Paused(reading) => exact(out, "timer_paused", "", reading),
        Message::Extended { reading, added_s } => {
            exact(out, "timer_extended", &format!(r#""added_seconds":{added_s},"#), reading)
        }
        Message::Warning { reading: Reading { remaining_s, .. }, threshold_s } => {
            write!(out, r#"{{"type":"timer_warning","remaining_seconds":{remaining_s},"threshold":{threshold_s}}}"#)
        }
        Message::Stopped(Reading { remaining_s, elapsed_s, .. }) => {
            write!(
                out,
                r#"{{"type":"timer_stopped","remaining_seconds":{remaining_s},"elapsed_seconds":{elapsed_s}}}"#
            )
        }
        Message::Expired(Reading { elapsed_s, .. }) => {
            write!(out, r#"{{"type":"timer_expired","elapsed_seconds":{elapsed_s}}}"#)
        }
        Message::Deleted => write!(out, r#"{{"type":"timer_deleted"}}"#),
    };
}

fn exact(out: &mut String, name: &str, extra: &str, reading: &Reading) -> std::fmt::Result {
    let Reading { remaining_s, remaining_ms, at, .. } = reading;
    write!(
        out,
        r#"{{"type":"{name}",{extra}"remaining_seconds":{remaining_s},"remaining_ms":{remaining_ms},"server_time_ms":{}}}"#,
        at.ms()
    )
}

/// Said into a long silence.
pub fn keepalive(reading: &Reading) -> String {
    format!(r#"{{"type":"keepalive","remaining_seconds":{}}}"#, reading.remaining_s)
}

/// The answer to what a client says. Clients never change a timer.
pub fn reply(text: &str, timer: &Timer, now: Now, second: Second) -> String {
    #[derive(Deserialize)]
    struct Said<'a> {
        #[serde(borrow)]
        r#type: Option<&'a RawValue>,
        #[serde(borrow)]
        client_time: Option<&'a RawValue>,
    }
    let said = match text.trim_start().starts_with('{').then(|| serde_json::from_str::<Said<'_>>(text)) {
        Some(Ok(said)) => said,
        _ => return r#"{"type":"error","message":"Invalid JSON"}"#.to_owned(),
    };
    let kind = said.r#type.map_or("null", RawValue::get);
    let name = serde_json::from_str::<String>(kind).unwrap_or_else(|_| kind.to_owned());
    match name.as_str() {
        "ping" => r#"{"type":"pong"}"#.to_owned(),
        "sync" => sync(said.client_time, timer, now, second),
        other => {
            let other: String = other.chars().take(ECHO_CHARS_MAX).collect();
            json!({ "type": "error", "message": format!("Unknown message type: {other}") }).to_string()
        }
    }
}

fn sync(client_time: Option<&RawValue>, timer: &Timer, now: Now, second: Second) -> String {
    #[derive(Serialize)]
    struct Sync<'a> {
        r#type: &'static str,
        server_time: String,
        remaining_seconds: u32,
        state: &'static str,
        remaining_ms: u64,
        server_time_ms: i64,
        #[serde(skip_serializing_if = "Option::is_none")]
        client_time: Option<&'a RawValue>,
    }
    let reading = timer.reading(now, second);
    let sync = Sync {
        r#type: "sync_response",
        server_time: date_time(now.wall),
        remaining_seconds: reading.remaining_s,
        state: timer.state.name(),
        remaining_ms: reading.remaining_ms,
        server_time_ms: now.wall.ms(),
        client_time,
    };
    serde_json::to_string(&sync).unwrap_or_default()
}
