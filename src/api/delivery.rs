//! The requests and messages of delivery.
//!
//! Owns the calls of candidates and instructors about sessions, in the contract's order of checks behind those of the
//! head, and the JSON of a session: bodies and messages into deeds, sessions and announcements into text, over REST
//! and WebSocket alike. A response goes through as it came. It decides nothing about a session, and knows no
//! connection.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::api::answer::{self, error_text, faults};
use crate::api::assessments::{self, number, push_item};
use crate::api::events::{is_object, sentence, text};
use crate::api::form::{self, Fault, Form};
use crate::api::guard::Caller;
use crate::api::raw::{self, push_string};
use crate::api::routes::SessionCall;
use crate::api::time::date_time;
use crate::api::{Api, Outcome, World, replays};
use crate::clock::Now;
use crate::domain::Engine;
use crate::domain::countdown::Second;
use crate::domain::delivery::{Application, Deed, Message, Refusal, Session, State, Told, Verb, Verdict, Way, What};
use crate::domain::disk::Query;
use crate::domain::history::Actor;
use crate::domain::staged::Hold;
use crate::keys::Role;
use crate::limits::*;
use crate::wire::http::{Request, Response};

/// The actor of what a candidate does: the session's id is all that he needs.
const CANDIDATE: &str = "candidate";

// ---------------------------------------------------------------------------------------------------------------
// Calls.

impl Api {
    /// `POST /delivery/start/{id}`.
    pub(super) fn start(&self, id: &str, caller: &Caller, request: &Request, world: &mut World<'_>) -> Outcome {
        let refused = |response| Outcome::Answer(response, Hold::Nothing);
        let stub = match replays::first_time(request, &caller.actor, world) {
            Ok(stub) => stub,
            Err(outcome) => return outcome,
        };
        let (candidate, test_taker) = match form::parse(&request.body).and_then(|body| application(&body)) {
            Ok(names) => names,
            Err(found) => return refused(faults(&found)),
        };
        if let Err(response) = world.takes_commands() {
            return refused(response);
        }
        let Engine { delivery, fx, .. } = &mut *world.engine;
        let asked = Application { assessment: id, candidate: &candidate, test_taker: &test_taker };
        let chance = &mut *world.chance;
        let actor = Actor::from(CANDIDATE);
        let Verdict { outcome, hold } = delivery.start(world.now, asked, &mut || chance.next_u32(), &actor, fx);
        let second = delivery.second();
        match outcome {
            Ok(session) => {
                let response = answer::json_bytes(200, started(&session, world.now, second).into_bytes());
                if let Some(stub) = stub {
                    replays::keep(stub, &response, world.engine);
                }
                Outcome::Answer(response, hold)
            }
            Err(Refusal::Sitting(session)) => {
                let mut body = json!({ "detail": format!("Candidate {candidate} has an active session") });
                // To reopen it elsewhere.
                if caller.role.is_some_and(|role| role >= Role::Instructor) {
                    body["session_id"] = json!(&*session);
                }
                Outcome::Answer(answer::json(409, &body), hold)
            }
            Err(refusal) => Outcome::Answer(self::refused(&refusal, id, Some(&candidate)), hold),
        }
    }

    /// `GET /delivery/session/{id}`: the responses are the disk's.
    pub(super) fn session(&self, id: &str, world: &mut World<'_>) -> Outcome {
        let Engine { delivery, fx, .. } = &mut *world.engine;
        let second = delivery.second();
        let Some(session) = delivery.shown(world.now, id, fx).cloned() else {
            return Outcome::Answer(not_found(id), Hold::Nothing);
        };
        if session.answered() > 0 {
            return Outcome::Ask(Query::Responses(session.serial), Hold::Nothing);
        }
        Outcome::Answer(whole(&session, &[], world.now, second), Hold::Nothing)
    }

    /// `GET /delivery/session/{id}/current`.
    pub(super) fn current(&self, id: &str, world: &mut World<'_>) -> Response {
        let Engine { delivery, fx, .. } = &mut *world.engine;
        let second = delivery.second();
        let Some(session) = delivery.shown(world.now, id, fx).cloned() else { return not_found(id) };
        delivery.seen(world.now, session.serial);
        let mut out = opening(&session);
        push_place(&session, &mut out);
        push_times(&session, world.now, second, &mut out);
        let is_flagged = session.mark_at(session.place).is_flagged;
        let _ = write!(out, r#","is_flagged":{is_flagged},"state":"{}""#, session.state.name());
        push_ways(&session, &mut out);
        let _ = write!(out, r#","navigation_mode":"{}"}}"#, session.assessment.navigation.name());
        answer::json_bytes(200, out.into_bytes())
    }

    /// Everything that is done to one session.
    pub(super) fn act(
        &self,
        call: SessionCall,
        id: &str,
        caller: &Caller,
        request: &Request,
        world: &mut World<'_>,
    ) -> Outcome {
        let refused = |response| Outcome::Answer(response, Hold::Nothing);
        let stub = match replays::first_time(request, &caller.actor, world) {
            Ok(stub) => stub,
            Err(outcome) => return outcome,
        };
        let asked = match Asked::read(call, &request.body) {
            Ok(asked) => asked,
            Err(found) => return refused(faults(&found)),
        };
        if !matches!(asked, Asked::Save)
            && let Err(response) = world.takes_commands()
        {
            return refused(response);
        }
        let Engine { delivery, fx, .. } = &mut *world.engine;
        let (now, second) = (world.now, delivery.second());
        let Some(serial) = delivery.serial_of(id) else { return refused(not_found(id)) };
        let actor = if call.is_candidates() { Actor::from(CANDIDATE) } else { caller.actor.clone() };
        if call.is_candidates() {
            delivery.seen(now, serial);
            if !matches!(asked, Asked::Save) && !delivery.keeps_pace(now, serial) {
                return refused(error_text(429, "Too many requests").with("Retry-After", "1".to_owned()));
            }
        }
        let deed = match asked {
            Asked::Deed(deed) => deed,
            Asked::Save => {
                let (session, hold) = delivery.look(now, serial, fx);
                let response = session.map_or_else(|| not_found(id), |session| saved(&session, now, second));
                return Outcome::Answer(response, hold);
            }
            Asked::Astray(why) => {
                let (session, hold) = delivery.look(now, serial, fx);
                let astray = |session: Session| error_text(400, &astray(&session, why));
                return Outcome::Answer(session.map_or_else(|| not_found(id), astray), hold);
            }
        };
        let item = item_of(&deed);
        let Verdict { outcome, hold } = delivery.act(now, serial, deed, &actor, fx);
        let session = match outcome {
            Ok(session) => session,
            Err(refusal) => return Outcome::Answer(self::refused(&refusal, id, None), hold),
        };
        let response = answer::json_bytes(200, done(call, &session, &item, now, second).into_bytes());
        if let Some(stub) = stub {
            replays::keep(stub, &response, world.engine);
        }
        Outcome::Answer(response, hold)
    }

    /// Everything that is done to all active sessions of an assessment, at one instant.
    pub(super) fn act_on_all(
        &self,
        call: SessionCall,
        id: &str,
        caller: &Caller,
        request: &Request,
        world: &mut World<'_>,
    ) -> Outcome {
        let refused = |response| Outcome::Answer(response, Hold::Nothing);
        let stub = match replays::first_time(request, &caller.actor, world) {
            Ok(stub) => stub,
            Err(outcome) => return outcome,
        };
        let deed = match Asked::read(call, &request.body) {
            Ok(Asked::Deed(deed)) => deed,
            Ok(_) => return refused(error_text(404, "Not Found")),
            Err(found) => return refused(faults(&found)),
        };
        if let Err(response) = world.takes_commands() {
            return refused(response);
        }
        let Engine { delivery, fx, .. } = &mut *world.engine;
        if delivery.catalogue.shown(id).is_none() && !delivery.has_sessions_of(id) {
            return refused(assessments::not_found(id));
        }
        let (active, mut hold) = delivery.active_of(world.now, id, fx);
        let mut is_changed = false;
        let mut out = String::from("[");
        for (serial, session) in active {
            let verdict = delivery.act(world.now, serial, deed.clone(), &caller.actor, fx);
            hold = hold.max(verdict.hold);
            let status = match &verdict.outcome {
                Ok(_) => match &deed {
                    Deed::Pause => "paused".to_owned(),
                    Deed::Resume => "resumed".to_owned(),
                    Deed::Extend { added_s, .. } => format!("extended by {added_s}s"),
                    _ => String::new(),
                },
                Err(_) => {
                    let state = delivery.look(world.now, serial, fx).0.map_or("", |session| session.state.name());
                    format!("failed (state: {state})")
                }
            };
            let is_done = verdict.outcome.is_ok();
            is_changed |= is_done;
            let comma = if out.len() > 1 { "," } else { "" };
            let _ = write!(out, r#"{comma}{{"session_id":"{session}","success":{is_done},"status":"{status}"}}"#);
        }
        out.push(']');
        let response = answer::json_bytes(200, out.into_bytes());
        if let Some(stub) = stub.filter(|_| is_changed) {
            replays::keep(stub, &response, world.engine);
        }
        Outcome::Answer(response, hold)
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Bodies and messages.

/// What is asked of a session, checked as far as that needs none.
enum Asked {
    /// Something is to be done.
    Deed(Deed),
    /// Somebody wants to go where nobody can.
    Astray(String),
    /// Somebody wants to know that all is saved.
    Save,
}

/// The fields of a body or message, each as it came; of a repeated one the last.
#[derive(Default, Deserialize)]
#[serde(transparent)]
struct Fields<'a> {
    #[serde(borrow)]
    by_name: HashMap<String, &'a RawValue>,
}

impl<'a> Fields<'a> {
    fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.by_name.get(name).copied()
    }

    /// As [`Fields::get`]; absent and `null` are alike.
    fn filled(&self, name: &str) -> Option<&'a RawValue> {
        self.get(name).filter(|given| given.get() != "null")
    }

    fn read(body: &'a [u8]) -> Result<Self, Vec<Fault>> {
        match std::str::from_utf8(body).ok().filter(|text| is_object(text)) {
            Some(text) => serde_json::from_str(text).map_err(|error| vec![form::no_json(&error)]),
            // What exactly is wrong with it is no fast path.
            None => Err(Form::body(&form::parse(body)?).err().unwrap_or_default()),
        }
    }

    /// The name of an item.
    fn item(&self, path: &[Value], faults: &mut Vec<Fault>) -> Arc<str> {
        let fault = |kind, msg| Fault::new(kind, &["body", "item_id"], msg).under(path);
        let (item, fault) = match self.get("item_id").map(|given| (given, text(given))) {
            Some((_, Some(item))) => (Some(item), None),
            Some((given, None)) => (None, Some(fault("string_type", "Input should be a valid string").of_raw(given))),
            None => (None, Some(fault("missing", "Field required"))),
        };
        faults.extend(fault);
        item.unwrap_or_else(|| Arc::from(""))
    }

    /// An item and what is answered to it.
    fn answer(&self, path: &[Value], faults: &mut Vec<Fault>) -> (Arc<str>, Arc<str>) {
        let item = self.item(path, faults);
        let mut fault = |kind, field: &str, msg: String, given: Option<&RawValue>| {
            let fault = Fault::new(kind, &["body", field], msg).under(path);
            faults.push(if let Some(given) = given { fault.of_raw(given) } else { fault });
        };
        let limits = raw::Limits { keys: usize::MAX, bytes: RESPONSE_BYTES_MAX, depth: RESPONSE_DEPTH_MAX };
        let response = match self.get("response") {
            None => {
                fault("missing", "response", "Field required".to_owned(), None);
                None
            }
            Some(given) if !given.get().starts_with('{') => {
                fault("dict_type", "response", "Input should be a valid dictionary".to_owned(), Some(given));
                None
            }
            Some(given) => match raw::compact(given.get(), limits) {
                Ok(response) => Some(Arc::from(response)),
                Err(unfit) => {
                    fault("value_error", "response", limits.refusal(unfit), Some(given));
                    None
                }
            },
        };
        (item, response.unwrap_or_else(|| Arc::from("{}")))
    }

    fn answer_deed(&self, faults: &mut Vec<Fault>) -> Deed {
        let (item, response) = self.answer(&[json!("body")], faults);
        Deed::Answer { item, response, is_flagged: self.flag(faults) }
    }

    /// A flag, if there is one: absent and `null` are alike.
    fn flag(&self, faults: &mut Vec<Fault>) -> Option<bool> {
        let given = self.filled("is_flagged")?;
        let value = json!({ "is_flagged": serde_json::from_str::<Value>(given.get()).unwrap_or_default() });
        let mut form = Form::body(&value).ok()?;
        let flag = form.bool("is_flagged");
        faults.extend(form.done().err().unwrap_or_default());
        Some(flag)
    }

    /// Where to; or why that is nowhere.
    fn way(&self, faults: &mut Vec<Fault>) -> Result<Way, String> {
        let mut target = None;
        if let Some(given) = self.filled("target_index") {
            target = integer(given.get());
            if target.is_none() {
                let msg = "Input should be a valid integer";
                faults.push(Fault::new("int_type", &["body", "target_index"], msg).of_raw(given));
            }
        }
        let direction = match self.get("direction").map(|given| (given, text(given))) {
            Some((_, Some(direction))) => direction,
            Some((given, None)) => {
                let msg = "Input should be a valid string";
                faults.push(Fault::new("string_type", &["body", "direction"], msg).of_raw(given));
                return Ok(Way::Next);
            }
            None => {
                faults.push(Fault::new("missing", &["body", "direction"], "Field required"));
                return Ok(Way::Next);
            }
        };
        match (&*direction, target) {
            ("next", _) => Ok(Way::Next),
            ("previous", _) => Ok(Way::Previous),
            ("specific", Some(target)) => Ok(Way::To(target)),
            ("specific", None) => Err("target_index required for specific navigation".to_owned()),
            (other, _) => {
                let other: String = other.chars().take(ECHO_CHARS_MAX).collect();
                Err(format!("Invalid direction: {other}"))
            }
        }
    }

    /// Answers that are handed in together.
    fn answers(&self, faults: &mut Vec<Fault>) -> Vec<(Arc<str>, Arc<str>)> {
        let Some(given) = self.filled("answers") else { return Vec::new() };
        let Ok(list) = serde_json::from_str::<Vec<&RawValue>>(given.get()) else {
            faults.push(Fault::new("list_type", &["body", "answers"], "Input should be a valid list").of_raw(given));
            return Vec::new();
        };
        if list.len() > ITEMS_MAX {
            let msg = format!("List should have at most {ITEMS_MAX} items after validation, not {}", list.len());
            faults.push(Fault::new("too_long", &["body", "answers"], msg));
            return Vec::new();
        }
        let mut answers = Vec::with_capacity(list.len());
        for (index, given) in list.into_iter().enumerate() {
            let path = [json!("body"), json!("answers"), json!(index)];
            match serde_json::from_str::<Fields<'_>>(given.get()) {
                Ok(fields) if is_object(given.get()) => answers.push(fields.answer(&path, faults)),
                _ => {
                    let msg = "Input should be a valid dictionary or object";
                    faults.push(Fault::new("model_attributes_type", &["body"], msg).under(&path).of_raw(given));
                }
            }
        }
        answers
    }

    /// How much longer, and why.
    fn extension(&self, faults: &mut Vec<Fault>) -> (u32, Arc<str>) {
        let value =
            |given: Option<&RawValue>| given.and_then(|given| serde_json::from_str::<Value>(given.get()).ok());
        let mut body = serde_json::Map::new();
        body.extend(value(self.get("seconds")).map(|seconds| ("seconds".to_owned(), seconds)));
        body.extend(value(self.get("reason")).filter(|it| !it.is_null()).map(|reason| ("reason".to_owned(), reason)));
        let body = Value::Object(body);
        let Ok(mut form) = Form::body(&body) else { return (0, Arc::from("")) };
        let added_s = form.int("seconds", 1..=SESSION_EXTEND_S_MAX);
        let reason = form.text("reason", 0..=REASON_CHARS_MAX, "");
        faults.extend(form.done().err().unwrap_or_default());
        (added_s.unwrap_or(0), reason)
    }
}

/// A whole number of any size, `3`, `3.0` or `"3"`: beyond 64 bits it is the largest or smallest there is, which is no
/// index either.
fn integer(text: &str) -> Option<i64> {
    let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text).trim();
    let whole = text.split_once('.').filter(|(_, rest)| rest.bytes().all(|byte| byte == b'0'));
    let digits = whole.map_or(text, |(whole, _)| whole);
    let plain = digits.strip_prefix('-').unwrap_or(digits);
    if plain.is_empty() || !plain.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let extreme = if digits.starts_with('-') { i64::MIN } else { i64::MAX };
    Some(digits.parse().unwrap_or(extreme))
}

fn application(body: &Value) -> Result<(Arc<str>, Arc<str>), Vec<Fault>> {
    let mut form = Form::body(body)?;
    let candidate = form.name("candidate_id", DELIVERY_ID_CHARS_MAX);
    let test_taker = form.name("test_taker_id", DELIVERY_ID_CHARS_MAX);
    form.done()?;
    Ok((candidate, test_taker))
}

impl Asked {
    /// Reads the body of a call.
    fn read(call: SessionCall, body: &[u8]) -> Result<Asked, Vec<Fault>> {
        let optional = match call {
            SessionCall::Save => return Ok(Asked::Save),
            SessionCall::Pause => return Ok(Asked::Deed(Deed::Pause)),
            SessionCall::Resume => return Ok(Asked::Deed(Deed::Resume)),
            SessionCall::Terminate => return Ok(Asked::Deed(Deed::Terminate)),
            SessionCall::Submit => body.is_empty() || body.trim_ascii() == b"null",
            SessionCall::Answer | SessionCall::Navigate | SessionCall::Extend => false,
        };
        let fields = if optional { Fields::default() } else { Fields::read(body)? };
        let mut faults = Vec::new();
        let asked = match call {
            SessionCall::Answer => Asked::Deed(fields.answer_deed(&mut faults)),
            SessionCall::Navigate => fields.way(&mut faults).map_or_else(Asked::Astray, Asked::going),
            SessionCall::Extend => {
                let (added_s, reason) = fields.extension(&mut faults);
                Asked::Deed(Deed::Extend { added_s, reason })
            }
            _ => Asked::Deed(Deed::Submit(fields.answers(&mut faults))),
        };
        if faults.is_empty() { Ok(asked) } else { Err(faults) }
    }

    fn going(way: Way) -> Asked {
        Asked::Deed(Deed::Navigate(way))
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Messages of a candidate's socket.

/// What a candidate's message is answered with.
pub struct Said {
    /// The answer.
    pub words: Words,
    /// What follows it.
    pub rest: Option<Words>,
    /// What must be durable before he may be told.
    pub hold: Hold,
    /// What he calls his message, should it come to nothing after all.
    pub echo: Option<Box<str>>,
}

/// What is to be said. An item may be large, and is written when it can be sent.
#[derive(Debug)]
pub enum Words {
    /// This.
    Text(String),
    /// The current item of this session; the message that asked for it is called so.
    Item(Arc<Session>, Option<Box<str>>),
}

impl Words {
    /// Written out.
    pub fn write(self) -> String {
        match self {
            Words::Text(text) => text,
            Words::Item(session, echo) => current_item(&session, echo.as_deref()),
        }
    }
}

/// Answers a message of a candidate. Why nothing can be changed, while that is so, is `refusal`.
pub fn hear(message: &str, serial: u32, now: Now, engine: &mut Engine, refusal: Option<&str>) -> Said {
    let said = |text: String, hold| Said { words: Words::Text(text), rest: None, hold, echo: None };
    let fields = match is_object(message).then(|| serde_json::from_str::<Fields<'_>>(message)) {
        Some(Ok(fields)) => fields,
        _ => return said(error("Invalid JSON", None), Hold::Nothing),
    };
    let echo = fields.get("ref").map(RawValue::get);
    if echo.is_some_and(|echo| echo.len() > REF_BYTES_MAX) {
        return said(error(&format!("ref: at most {REF_BYTES_MAX} bytes"), None), Hold::Nothing);
    }
    let kind = fields.get("type").map_or("null", RawValue::get);
    let name = fields.get("type").and_then(text).unwrap_or_else(|| Arc::from(kind));
    let Engine { delivery, fx, .. } = &mut *engine;
    let second = delivery.second();
    delivery.seen(now, serial);
    let mut faults = Vec::new();
    let asked = match &*name {
        "ping" => {
            let left_s = delivery.shown_by_serial(now, serial, fx).map(|session| session.left_s(now, second));
            let text = left_s.map_or_else(|| error("Session not found", echo), |left_s| timer(left_s, now, echo));
            return said(text, Hold::Nothing);
        }
        // Behind a move that is on its way it tells of the item after it, when that is durable; of what is shown while
        // nobody knows when that will be.
        "get_current" => {
            let (session, hold) = match refusal {
                None => delivery.look(now, serial, fx),
                Some(_) => (delivery.shown_by_serial(now, serial, fx).map(|it| Session::clone(it)), Hold::Nothing),
            };
            let Some(session) = session else { return said(error("Session not found", echo), hold) };
            let words = Words::Item(Arc::new(session), echo.map(Box::from));
            return Said { words, rest: None, hold, echo: echo.map(Box::from) };
        }
        "answer_save" => Ok(fields.answer_deed(&mut faults)),
        "flag" => {
            let item = fields.item(&[json!("body")], &mut faults);
            let is_flagged = fields.flag(&mut faults);
            if is_flagged.is_none() && faults.is_empty() {
                faults.push(Fault::new("missing", &["body", "is_flagged"], "Field required"));
            }
            Ok(Deed::Flag { item, is_flagged: is_flagged.unwrap_or_default() })
        }
        "navigate" => fields.way(&mut faults).map(Deed::Navigate),
        other => {
            let other: String = other.chars().take(ECHO_CHARS_MAX).collect();
            return said(error(&format!("Unknown message type: {other}"), echo), Hold::Nothing);
        }
    };
    if !faults.is_empty() {
        return said(error(&sentence(&faults), echo), Hold::Nothing);
    }
    if let Some(why) = refusal {
        return said(error(&format!("{why}: nothing was changed"), echo), Hold::Nothing);
    }
    let deed = match asked {
        Ok(deed) => deed,
        Err(why) => {
            let (session, hold) = delivery.look(now, serial, fx);
            let why = session.map_or_else(|| "Session not found".to_owned(), |session| astray(&session, why));
            return Said { echo: echo.map(Box::from), ..said(error(&why, echo), hold) };
        }
    };
    let confirmation = Confirmation::of(&deed);
    let Verdict { outcome, hold } = delivery.act(now, serial, deed, &Actor::from(CANDIDATE), fx);
    let session = match outcome {
        Ok(session) => session,
        Err(refusal) => {
            let (_, why) = words(&refusal, "", None);
            return Said { echo: echo.map(Box::from), ..said(error(&why, echo), hold) };
        }
    };
    let rest = confirmation.leads_on().then(|| Words::Item(session.clone(), None));
    let words = Words::Text(confirmation.write(&session, echo));
    Said { words, rest, hold, echo: echo.map(Box::from) }
}

/// What a candidate is told of a deed, once it is durable.
enum Confirmation {
    Saved(Arc<str>),
    Flagged(Arc<str>, bool),
    Moved,
}

impl Confirmation {
    fn of(deed: &Deed) -> Self {
        match deed {
            Deed::Answer { item, .. } => Confirmation::Saved(item.clone()),
            Deed::Flag { item, is_flagged } => Confirmation::Flagged(item.clone(), *is_flagged),
            _ => Confirmation::Moved,
        }
    }

    /// Whether it is followed by the item at which he is now.
    fn leads_on(&self) -> bool {
        matches!(self, Confirmation::Moved)
    }

    fn write(&self, session: &Session, echo: Option<&str>) -> String {
        let (index, total) = (session.place, session.total());
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = match self {
            Confirmation::Saved(item) => {
                out.push_str(r#"{"type":"answer_saved","item_id":"#);
                push_string(item, &mut out);
                write!(out, r#","current_index":{index}"#)
            }
            Confirmation::Flagged(item, is_flagged) => {
                out.push_str(r#"{"type":"flagged","item_id":"#);
                push_string(item, &mut out);
                write!(out, r#","is_flagged":{is_flagged}"#)
            }
            Confirmation::Moved => {
                write!(out, r#"{{"type":"navigated","current_index":{index},"total_items":{total}"#)
            }
        };
        push_ref(echo, &mut out);
        out.push('}');
        out
    }
}

/// What every socket of a session hears first.
pub fn greeting(session: &Session, now: Now, second: Second) -> [String; 2] {
    [timer(session.left_s(now, second), now, None), current_item(session, None)]
}

/// An announcement, into `out`; and what follows it.
pub fn announce(message: &Message, now: Now, out: &mut String) -> Option<String> {
    let left = |left_s: &Option<u32>| number(*left_s);
    // Writing to a String cannot fail.
    let _ = match message {
        Message::Tick(left_s) => {
            out.push_str(&timer(Some(*left_s), now, None));
            Ok(())
        }
        Message::Expired => write!(out, r#"{{"type":"expired","message":"Time expired"}}"#),
        Message::Turned(state, left_s) => {
            let name = if *state == State::InProgress { "resumed" } else { state.name() };
            write!(out, r#"{{"type":"{name}","time_remaining":{}}}"#, left(left_s))
        }
        Message::Extended { added_s, reason, left_s } => {
            let _ = write!(out, r#"{{"type":"extended","added_seconds":{added_s},"reason":"#);
            push_string(reason, out);
            write!(out, r#","time_remaining":{}}}"#, left(left_s))
        }
        Message::SectionOver { section, session } => {
            out.push_str(r#"{"type":"section_expired","section_id":"#);
            push_string(&session.assessment.sections[usize::from(*section)].id, out);
            let _ = write!(out, r#","current_index":{}}}"#, session.place);
            return Some(current_item(session, None));
        }
        Message::Gone => Ok(()),
    };
    None
}

/// Said into a long silence.
pub fn keepalive(left_s: Option<u32>) -> String {
    format!(r#"{{"type":"keepalive","time_remaining":{}}}"#, number(left_s))
}

/// What an answer is told that cannot be kept, or of which nobody knows whether it is.
pub fn failed(why: &str, echo: Option<&str>) -> String {
    error(why, echo)
}

/// The time.
pub fn timer(left_s: Option<u32>, now: Now, echo: Option<&str>) -> String {
    let mut out =
        format!(r#"{{"type":"timer","time_remaining":{},"timestamp":"{}""#, number(left_s), date_time(now.wall));
    push_ref(echo, &mut out);
    out.push('}');
    out
}

fn current_item(session: &Session, echo: Option<&str>) -> String {
    let mut out = String::from(r#"{"type":"current_item","item":"#);
    push_item(session.item_at(session.place), &mut out);
    let is_flagged = session.mark_at(session.place).is_flagged;
    let (index, total) = (session.place, session.total());
    let _ = write!(out, r#","index":{index},"total":{total},"is_flagged":{is_flagged}"#);
    push_ref(echo, &mut out);
    out.push('}');
    out
}

fn error(message: &str, echo: Option<&str>) -> String {
    let mut out = String::from(r#"{"type":"error","message":"#);
    push_string(message, &mut out);
    push_ref(echo, &mut out);
    out.push('}');
    out
}

/// What a client calls its message comes back with the answer.
fn push_ref(echo: Option<&str>, out: &mut String) {
    if let Some(echo) = echo {
        out.push_str(r#","ref":"#);
        out.push_str(echo);
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Refusals.

/// 404 for a session.
pub(super) fn not_found(id: &str) -> Response {
    error_text(404, &format!("Session {id} not found"))
}

/// The answer to what was refused; `candidate` is who it is about, where it is about somebody.
pub(super) fn refused(refusal: &Refusal, id: &str, candidate: Option<&str>) -> Response {
    let (status, text) = words(refusal, id, candidate);
    error_text(status, &text)
}

fn words(refusal: &Refusal, id: &str, candidate: Option<&str>) -> (u16, String) {
    let name = candidate.unwrap_or_default();
    let text = match refusal {
        Refusal::NotFound => return (404, format!("Session {id} not found")),
        Refusal::NoAssessment => return (404, format!("Assessment {id} not found")),
        Refusal::InUse => return (409, format!("Assessment {id} has active sessions")),
        Refusal::Sitting(_) => return (409, format!("Candidate {name} has an active session")),
        Refusal::TooManyAtOnce => return (429, format!("Candidate {name} has too many sessions")),
        Refusal::Full => return (429, "Maximum session limit reached".to_owned()),
        Refusal::Unknown => format!("Candidate {name} is not known"),
        Refusal::Inactive => format!("Candidate {name} is not active"),
        Refusal::AttemptsUsed => "Attempt limit reached".to_owned(),
        Refusal::WrongState { verb, state } => wrong_state(*verb, *state),
        Refusal::Untimed => "Session has no time limit".to_owned(),
        Refusal::TooLong => format!("A session cannot last longer than {TOTAL_S_MAX} seconds"),
        Refusal::NoItem(item) => format!("Item {item} not in session"),
        Refusal::ItemLocked(item) => format!("Item {item} is locked"),
        Refusal::SectionLocked => "Section is locked".to_owned(),
        Refusal::TooMuch => format!("Responses of a session may have at most {RESPONSES_BYTES_MAX} bytes"),
        Refusal::PastLast => "Cannot navigate past the last item".to_owned(),
        Refusal::BeforeFirst => "Cannot navigate before the first item".to_owned(),
        Refusal::NoIndex(index) => format!("Invalid target index: {index}"),
        Refusal::OnlyForward => "LINEAR mode: can only navigate forward".to_owned(),
        Refusal::EarlierSection => "HYBRID mode: cannot return to an earlier section".to_owned(),
    };
    (400, text)
}

fn wrong_state(verb: Verb, state: State) -> String {
    let name = state.name();
    let to = |to: State| format!("Cannot transition from {name} to {}", to.name());
    match verb {
        Verb::Answer | Verb::Flag | Verb::Navigate if state == State::Expired => "Time expired".to_owned(),
        Verb::Answer => format!("Cannot submit answer in state: {name}"),
        Verb::Flag => format!("Cannot flag in state: {name}"),
        Verb::Navigate => format!("Cannot navigate in state: {name}"),
        Verb::Submit => format!("Cannot submit in state: {name}"),
        Verb::Extend => format!("Cannot extend in state: {name}"),
        Verb::Pause => to(State::Paused),
        Verb::Resume => to(State::InProgress),
        Verb::Terminate => to(State::Terminated),
    }
}

/// Where to is looked at when it is known that he may go anywhere.
fn astray(session: &Session, why: String) -> String {
    match session.state.after(Verb::Navigate) {
        Some(_) => why,
        None => wrong_state(Verb::Navigate, session.state),
    }
}

/// The item that a deed is about.
fn item_of(deed: &Deed) -> Arc<str> {
    match deed {
        Deed::Answer { item, .. } | Deed::Flag { item, .. } => item.clone(),
        _ => Arc::from(""),
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Text.

fn opening(session: &Session) -> String {
    format!(r#"{{"session_id":"{}""#, session.id)
}

/// Where the candidate is, with the item.
fn push_place(session: &Session, out: &mut String) {
    let _ = write!(out, r#","current_item_index":{},"total_items":{},"item":"#, session.place, session.total());
    push_item(session.item_at(session.place), out);
}

/// What is left of the session, and of the section he is in.
fn push_times(session: &Session, now: Now, second: Second, out: &mut String) {
    let _ = write!(out, r#","time_remaining_seconds":{}"#, number(session.left_s(now, second)));
    push_section_time(session, now, second, out);
}

fn push_section_time(session: &Session, now: Now, second: Second, out: &mut String) {
    let left_s = session.section_left_s(session.section_at(session.place), now, second);
    let _ = write!(out, r#","section_remaining_seconds":{}"#, number(left_s));
}

fn push_ways(session: &Session, out: &mut String) {
    let (back, on) = (session.destination(Way::Previous).is_ok(), session.destination(Way::Next).is_ok());
    let _ = write!(out, r#","can_go_previous":{back},"can_go_next":{on}"#);
}

fn limit(session: &Session, second: Second) -> String {
    number(session.limit.map(|limit| second.ceil(limit)))
}

/// The answer to a start.
fn started(session: &Session, now: Now, second: Second) -> String {
    let mut out = opening(session);
    out.push_str(r#","assessment_id":"#);
    push_string(&session.assessment.id, &mut out);
    out.push_str(r#","title":"#);
    push_string(&session.assessment.title, &mut out);
    push_place(session, &mut out);
    let _ = write!(out, r#","time_limit_seconds":{}"#, limit(session, second));
    push_times(session, now, second, &mut out);
    let (state, mode) = (session.state.name(), session.assessment.navigation.name());
    let _ = write!(out, r#","state":"{state}","navigation_mode":"{mode}"}}"#);
    out
}

/// The answer to what was done to a session, which is as it is after it.
fn done(call: SessionCall, session: &Session, item: &str, now: Now, second: Second) -> String {
    let mut out = opening(session);
    let state = session.state.name();
    let _ = match call {
        SessionCall::Answer => {
            out.push_str(r#","item_id":"#);
            push_string(item, &mut out);
            write!(out, r#","saved":true,"current_item_index":{}"#, session.place)
        }
        SessionCall::Navigate => {
            push_place(session, &mut out);
            push_section_time(session, now, second, &mut out);
            let _ = write!(out, r#","state":"{state}""#);
            push_ways(session, &mut out);
            Ok(())
        }
        SessionCall::Submit => {
            let at = session.completed_at.map(date_time).unwrap_or_default();
            let (total, answered) = (session.total(), session.answered());
            let _ = write!(out, r#","state":"{state}","completed_at":"{at}""#);
            let _ = write!(out, r#","total_items":{total},"responses_count":{answered}"#);
            match session.late_ms {
                Some(late_ms) => write!(out, r#","late_ms":{late_ms}"#),
                None => Ok(()),
            }
        }
        SessionCall::Pause => write!(out, r#","state":"{state}","paused_at":"{}""#, date_time(now.wall)),
        SessionCall::Resume => write!(out, r#","state":"{state}","resumed_at":"{}""#, date_time(now.wall)),
        SessionCall::Terminate | SessionCall::Extend | SessionCall::Save => {
            let (left, limit) = (number(session.left_s(now, second)), limit(session, second));
            write!(out, r#","state":"{state}","time_remaining_seconds":{left},"time_limit_seconds":{limit}"#)
        }
    };
    out.push('}');
    out
}

fn saved(session: &Session, now: Now, second: Second) -> Response {
    let mut out = opening(session);
    let at = date_time(now.wall);
    let _ = write!(out, r#","saved_at":"{at}","current_item_index":{}"#, session.place);
    push_times(session, now, second, &mut out);
    let _ = write!(out, r#","responses_count":{}}}"#, session.answered());
    answer::json_bytes(200, out.into_bytes())
}

/// The whole session, with its responses by number of the item.
pub(super) fn whole(session: &Session, responses: &[(u16, Arc<str>)], now: Now, second: Second) -> Response {
    let assessment = &session.assessment;
    let mut out = opening(session);
    for (name, value) in [
        ("assessment_id", &assessment.id),
        ("test_taker_id", &session.test_taker),
        ("candidate_id", &session.candidate),
        ("title", &assessment.title),
    ] {
        let _ = write!(out, r#","{name}":"#);
        push_string(value, &mut out);
    }
    // Items of a section lie together, so that a section begins where its number changes.
    let begins = |place: &u16| *place == 0 || session.section_at(*place) != session.section_at(*place - 1);
    let starts: Vec<u16> = (0..session.total()).filter(begins).collect();
    let current = starts.iter().rposition(|start| *start <= session.place).unwrap_or(0);
    let _ = write!(
        out,
        r#","state":"{}","current_section_index":{current},"current_item_index":{},"responses":{{"#,
        session.state.name(),
        session.place
    );
    let by_number: HashMap<u16, &Arc<str>> = responses.iter().map(|(number, response)| (*number, response)).collect();
    let mut first = true;
    for place in 0..session.total() {
        if let Some(response) = by_number.get(&session.number_at(place)) {
            out.push_str(if std::mem::take(&mut first) { "" } else { "," });
            push_string(&session.item_at(place).id, &mut out);
            out.push(':');
            out.push_str(response);
        }
    }
    let flagged: Vec<&str> = (0..session.total())
        .filter(|place| session.mark_at(*place).is_flagged)
        .map(|at| &*session.item_at(at).id)
        .collect();
    let _ = write!(out, r#"}},"flagged_items":{},"time_limit_seconds":{}"#, json!(flagged), limit(session, second));
    push_times(session, now, second, &mut out);
    let _ = write!(
        out,
        r#","started_at":"{}","completed_at":{},"late_ms":{},"grace_seconds":{},"sections":["#,
        date_time(session.started_at),
        session.completed_at.map_or("null".to_owned(), |at| format!("\"{}\"", date_time(at))),
        session.late_ms.map_or("null".to_owned(), |late_ms| late_ms.to_string()),
        assessment.grace_s
    );
    for (at, start) in starts.iter().enumerate() {
        let section_number = session.section_at(*start);
        let section = &assessment.sections[usize::from(section_number)];
        let ends = starts.get(at + 1).copied().unwrap_or(session.total());
        let items: Vec<&str> = (*start..ends).map(|place| &*session.item_at(place).id).collect();
        out.push_str(if at > 0 { r#",{"section_id":"# } else { r#"{"section_id":"# });
        push_string(&section.id, &mut out);
        out.push_str(r#","name":"#);
        push_string(&section.name, &mut out);
        let _ = write!(
            out,
            r#","time_limit_seconds":{},"time_remaining_seconds":{},"locked":{},"items":{}}}"#,
            number(session.section_limit_s(section_number, second)),
            number(session.section_left_s(section_number, now, second)),
            session.is_locked(*start),
            json!(items)
        );
    }
    let _ = write!(out, r#"],"navigation_mode":"{}"}}"#, assessment.navigation.name());
    answer::json_bytes(200, out.into_bytes())
}

// ---------------------------------------------------------------------------------------------------------------
// Events.

/// The payload of an event of a session: what it is about, and who did it. Never what was answered.
pub fn payload(told: &Told<'_>) -> Arc<str> {
    let Told { session, what, actor } = told;
    let mut out = String::from(r#"{"assessment_id":"#);
    push_string(&session.assessment.id, &mut out);
    match what {
        What::Viewed(place) | What::Skipped(place) | What::Answered(place, _) => {
            out.push_str(r#","item_id":"#);
            push_string(&session.item_at(*place).id, &mut out);
            let _ = write!(out, r#","index":{place}"#);
        }
        What::Completed | What::Ended | What::TimedOut => {
            let (answered, total) = (session.answered(), session.total());
            // It may have been handed in by the time this is written.
            let state = if *what == What::TimedOut { State::Expired } else { session.state };
            let state = state.name();
            let _ = write!(out, r#","state":"{state}","answered":{answered},"total_items":{total}"#);
            if let Some(late_ms) = session.late_ms.filter(|_| *what != What::TimedOut) {
                let _ = write!(out, r#","late_ms":{late_ms}"#);
            }
        }
        What::Created | What::Started => {}
    }
    out.push_str(r#","actor":"#);
    push_string(actor, &mut out);
    out.push('}');
    Arc::from(out)
}
