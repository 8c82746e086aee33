//! The events' requests and messages.
//!
//! Owns the calls of the event pipeline, in the contract's order of checks behind those of the head, and the JSON of
//! an event: bodies into events, queries into searches, filters into what they admit, and everything that is answered
//! or announced back into text. It decides nothing about an event, and knows no connection.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::api::answer::{self, error_text, faults, unavailable};
use crate::api::form::{self, Fault, Form};
use crate::api::rates::Group;
use crate::api::raw;
use crate::api::routes::Route;
use crate::api::time::date_time_us;
use crate::api::{Api, Outcome, World, replays};
use crate::clock::{Now, WallMs};
use crate::domain::Engine;
use crate::domain::disk::{EventStats, Extent, Gone, Order, Page, Query, Search};
use crate::domain::events::{Event, Filter, Full, Kind, Names, Stored};
use crate::domain::history::{self, Actor};
use crate::domain::staged::Hold;
use crate::domain::timers::{Reading, Told, What};
use crate::limits::*;
use crate::wire::http::{Head, Request, Response};

// ---------------------------------------------------------------------------------------------------------------
// Calls.

impl Api {
    /// Reads and deletions, which only the disk can do.
    pub(super) fn events(
        &self,
        route: Route,
        id: &str,
        head: &Head,
        world: &mut World<'_>,
    ) -> Result<Outcome, Response> {
        let amiss = |amiss| match amiss {
            Amiss::Faults(found) => faults(&found),
            Amiss::Words(text) => error_text(400, text),
        };
        let (group, query) = match route {
            Route::Events if head.method == "DELETE" => {
                (Group::Admin, Query::ForgetEvents(extent(&head.query).map_err(amiss)?))
            }
            Route::Events => (Group::Query, Query::Events(search(&head.query).map_err(amiss)?)),
            Route::EventStats => (Group::Query, Query::EventStats(world.now.wall - HOUR)),
            _ => (Group::Query, Query::Event(seq_of(id, world.engine.events.names()).unwrap_or(0))),
        };
        self.count(group, head, world)?;
        if let (Group::Admin, Some(why)) = (group, world.degraded) {
            return Err(unavailable(&format!("{why}: nothing was deleted")));
        }
        // No disk knows of numbers that were never given.
        if matches!(query, Query::Event(seq) if seq == 0 || seq > world.engine.events.last_seq()) {
            return Err(not_found());
        }
        Ok(Outcome::Ask(query, world.catch_up()))
    }

    /// `POST /events`.
    pub(super) fn publish(&self, actor: &Actor, request: &Request, world: &mut World<'_>) -> Outcome {
        let refused = |response| Outcome::Answer(response, Hold::Nothing);
        let stub = match replays::first_time(request, actor, world) {
            Ok(stub) => stub,
            // Asked again and again it is as much work as the first time.
            Err(outcome @ Outcome::Ask(..)) => {
                let counted = self.count(Group::Publish, &request.head, world);
                return counted.map_or_else(refused, |()| outcome);
            }
            Err(outcome) => return outcome,
        };
        let event = match event(&request.body, world.now.wall) {
            Ok(event) => event,
            Err(found) => return refused(faults(&found)),
        };
        if let Err(response) = self.count(Group::Publish, &request.head, world) {
            return refused(response);
        }
        match publish(event, world.engine, world.degraded) {
            Ok(place) => {
                if let Some(stub) = stub {
                    replays::keep_event(stub, world.engine);
                }
                Outcome::Published(place)
            }
            Err(why) => refused(unavailable(&why)),
        }
    }

    fn count(&self, group: Group, head: &Head, world: &mut World<'_>) -> Result<(), Response> {
        let address = self.guard.address(head, world.peer);
        world.limiter.count(world.now.mono, group, address).map_err(|wait| {
            let seconds = wait.as_millis().div_ceil(1000).max(1);
            error_text(429, "Rate limit exceeded. Try again later.").with("Retry-After", seconds.to_string())
        })
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Bodies.

/// The fields of a body, each as it came; of a repeated one the last.
#[derive(Default)]
struct Body<'a> {
    event_type: Option<&'a RawValue>,
    source: Option<&'a RawValue>,
    session_id: Option<&'a RawValue>,
    user_id: Option<&'a RawValue>,
    payload: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Field {
    EventType,
    Source,
    SessionId,
    UserId,
    Payload,
    #[serde(other)]
    Other,
}

impl<'de> Deserialize<'de> for Body<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Body<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Body<'de>, M::Error> {
                let mut body = Body::default();
                while let Some(field) = map.next_key()? {
                    let place = match field {
                        Field::EventType => &mut body.event_type,
                        Field::Source => &mut body.source,
                        Field::SessionId => &mut body.session_id,
                        Field::UserId => &mut body.user_id,
                        Field::Payload => &mut body.payload,
                        Field::Other => {
                            map.next_value::<IgnoredAny>()?;
                            continue;
                        }
                    };
                    *place = Some(map.next_value()?);
                }
                Ok(body)
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// Reads an event, which happened `at` this instant.
///
/// # Errors
/// Every fault of the body.
pub fn event(body: &[u8], at: WallMs) -> Result<Event, Vec<Fault>> {
    let Some(text) = std::str::from_utf8(body).ok().filter(|text| is_object(text)) else {
        // What exactly is wrong with it is no fast path.
        let value = form::parse(body)?;
        return Err(Form::body(&value).err().unwrap_or_default());
    };
    let body: Body<'_> = serde_json::from_str(text).map_err(|error| vec![form::no_json(&error)])?;
    let mut faults = Vec::new();
    let kind = kind(body.event_type, &mut faults);
    let source = source(body.source, &mut faults);
    let session = id("session_id", body.session_id, &mut faults);
    let user = id("user_id", body.user_id, &mut faults);
    let payload = payload_of(body.payload, &mut faults);
    match (kind, source, payload) {
        (Some(kind), Some(source), Some(payload)) if faults.is_empty() => {
            Ok(Event { kind, source, session, user, payload, at })
        }
        _ => Err(faults),
    }
}

/// Reads a publisher's message.
///
/// # Errors
/// What to tell it.
pub fn published(text: &str, at: WallMs) -> Result<Event, String> {
    event(text.as_bytes(), at).map_err(|faults| match faults.as_slice() {
        [only] if text.trim().is_empty() || only.is_syntax() => "Invalid JSON".to_owned(),
        faults => sentence(faults),
    })
}

/// Publishes `event`, unless the store is `degraded`. Returns its place among the batch's published ones.
///
/// # Errors
/// Why nothing was stored, which may be otherwise in a moment.
pub fn publish(event: Event, engine: &mut Engine, degraded: Option<&str>) -> Result<u32, String> {
    if let Some(why) = degraded {
        return Err(format!("Nothing was stored: {why}"));
    }
    let Engine { events, fx, .. } = engine;
    events.publish(event, fx).map_err(|Full| "Nothing was stored: too many events wait for the disk".to_owned())
}

/// All faults in one line.
pub(super) fn sentence(faults: &[Fault]) -> String {
    faults.iter().map(Fault::to_string).collect::<Vec<_>>().join("; ")
}

pub(super) fn is_object(text: &str) -> bool {
    text.trim_start_matches([' ', '\t', '\n', '\r']).starts_with('{')
}

fn fault(kind: &'static str, field: &str, msg: impl Into<String>, given: &RawValue) -> Fault {
    Fault::new(kind, &["body", field], msg).of_raw(given)
}

/// The text of a JSON string.
pub(super) fn text(raw: &RawValue) -> Option<Arc<str>> {
    let quoted = raw.get().strip_prefix('"')?.strip_suffix('"')?;
    match quoted.contains('\\') {
        false => Some(Arc::from(quoted)),
        true => serde_json::from_str::<String>(raw.get()).ok().map(Arc::from),
    }
}

fn kind(given: Option<&RawValue>, faults: &mut Vec<Fault>) -> Option<Kind> {
    let Some(given) = given else {
        faults.push(Fault::new("missing", &["body", "event_type"], "Field required"));
        return None;
    };
    let kind = text(given).and_then(|name| Kind::named(&name));
    if kind.is_none() {
        let names: Vec<String> = Kind::all().map(|kind| format!("'{}'", kind.name())).collect();
        let msg = match names.split_last() {
            Some((last, rest)) => format!("Input should be {} or {last}", rest.join(", ")),
            None => String::new(),
        };
        faults.push(fault("enum", "event_type", msg, given));
    }
    kind
}

fn source(given: Option<&RawValue>, faults: &mut Vec<Fault>) -> Option<Arc<str>> {
    let Some(given) = given else {
        faults.push(Fault::new("missing", &["body", "source"], "Field required"));
        return None;
    };
    let Some(source) = text(given) else {
        faults.push(fault("string_type", "source", "Input should be a valid string", given));
        return None;
    };
    let plain = source.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    if source.is_empty() {
        faults.push(fault("string_too_short", "source", "String should have at least 1 character", given));
    } else if source.chars().nth(EVENT_SOURCE_CHARS_MAX).is_some() {
        let msg = format!("String should have at most {EVENT_SOURCE_CHARS_MAX} characters");
        faults.push(fault("string_too_long", "source", msg, given));
    } else if !plain {
        let msg = "String should match pattern '^[a-zA-Z0-9_.-]+$'";
        faults.push(fault("string_pattern_mismatch", "source", msg, given));
    }
    Some(source)
}

fn id(field: &str, given: Option<&RawValue>, faults: &mut Vec<Fault>) -> Option<Arc<str>> {
    let given = given.filter(|given| given.get() != "null")?;
    let Some(id) = text(given) else {
        faults.push(fault("string_type", field, "Input should be a valid string", given));
        return None;
    };
    if id.len() > EVENT_ID_CHARS_MAX && id.chars().nth(EVENT_ID_CHARS_MAX).is_some() {
        let msg = format!("String should have at most {EVENT_ID_CHARS_MAX} characters");
        faults.push(fault("string_too_long", field, msg, given));
    }
    Some(id)
}

fn payload_of(given: Option<&RawValue>, faults: &mut Vec<Fault>) -> Option<Arc<str>> {
    let Some(given) = given else { return Some(Arc::from("{}")) };
    if !given.get().starts_with('{') {
        faults.push(fault("dict_type", "payload", "Input should be a valid dictionary", given));
        return None;
    }
    let limits =
        raw::Limits { keys: EVENT_PAYLOAD_KEYS_MAX, bytes: EVENT_PAYLOAD_BYTES_MAX, depth: EVENT_PAYLOAD_DEPTH_MAX };
    match raw::compact(given.get(), limits) {
        Ok(payload) => Some(Arc::from(payload)),
        Err(unfit) => {
            faults.push(fault("value_error", "payload", limits.refusal(unfit), given));
            None
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Queries.

/// What is wrong with a query.
pub enum Amiss {
    /// 422, with every fault.
    Faults(Vec<Fault>),
    /// 400, in words.
    Words(&'static str),
}

/// Reads the query of `GET /events`.
///
/// # Errors
/// What is wrong with it.
pub fn search(query: &str) -> Result<Search, Amiss> {
    let query = form::query(query);
    let mut form = Form::query(&query);
    let kind = filled(&mut form, "event_type", EVENT_TYPE_CHARS_MAX);
    let session = filled(&mut form, "session_id", EVENT_ID_CHARS_MAX);
    let user = filled(&mut form, "user_id", EVENT_ID_CHARS_MAX);
    let since = filled(&mut form, "since", EVENT_SINCE_CHARS_MAX);
    let limit = form.int_or_null("limit", 1..=EVENTS_PAGE_MAX).unwrap_or(EVENTS_PAGE_DEFAULT);
    let after = form.count_or_null("after");
    form.done().map_err(Amiss::Faults)?;
    let since = match since {
        // A stored instant is later than `since` if its millisecond is later than that of `since`, cut.
        Some(text) => match form::iso_instant_us(&text) {
            Some(us) => Some(WallMs::from_ms(us.div_euclid(1000))),
            None => return Err(Amiss::Words("Invalid ISO 8601 timestamp for 'since'")),
        },
        None => None,
    };
    let kinds = kind.map(|name| Kind::named(&name).into_iter().collect());
    let order = after.map_or(Order::NewestFirst, Order::After);
    Ok(Search {
        filter: Filter { kinds, session, user },
        since,
        order,
        limit,
        bytes_max: EVENTS_PAGE_BYTES_MAX,
        rows_max: u32::MAX,
    })
}

/// Reads the query of `DELETE /events`.
///
/// # Errors
/// What is wrong with it: an empty instant, too, which must not delete everything.
pub fn extent(query: &str) -> Result<Extent, Amiss> {
    let query = form::query(query);
    let Some(before) = query.get("before").and_then(Value::as_str) else { return Ok(Extent::All) };
    match form::iso_instant_us(before) {
        // A stored instant is earlier than `before` if its millisecond is earlier than that of `before`, rounded up.
        Some(us) => Ok(Extent::Before(WallMs::from_ms(us.div_euclid(1000) + i64::from(us.rem_euclid(1000) > 0)))),
        None => Err(Amiss::Words("Invalid ISO 8601 timestamp for 'before'")),
    }
}

/// A field of a query; an empty one is none.
fn filled(form: &mut Form<'_>, name: &str, chars_max: usize) -> Option<Arc<str>> {
    let text = form.text(name, 0..=chars_max, "");
    (!text.is_empty()).then_some(text)
}

/// The number of the event that is called `id`. `None`: nothing is ever called that.
pub fn seq_of(id: &str, names: Names) -> Option<u64> {
    let hex = id.strip_prefix("evt_").filter(|hex| hex.len() == 12)?;
    let is_plain = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let number = hex.bytes().all(is_plain).then(|| u64::from_str_radix(hex, 16).ok())??;
    Some(names.seq(number))
}

// ---------------------------------------------------------------------------------------------------------------
// Filters.

/// What a subscriber asks for.
#[derive(Debug)]
pub struct Wish {
    /// Which events.
    pub filter: Filter,
    /// From behind this number on.
    pub after: Option<u64>,
    /// The filter as it was given.
    echo: String,
}

/// What a subscriber says once it has subscribed.
#[derive(Debug)]
pub enum Said {
    /// It wants to know whether anybody is there.
    Ping,
    /// It wants other events from here on.
    Update(Wish),
}

#[derive(Deserialize)]
struct Asked<'a> {
    #[serde(borrow, default, deserialize_with = "given")]
    event_types: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "given")]
    session_id: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "given")]
    user_id: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "given")]
    after: Option<&'a RawValue>,
    #[serde(default)]
    filters: Option<IgnoredAny>,
}

/// What is there, `null` as well.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

impl Wish {
    /// Reads a filter.
    ///
    /// # Errors
    /// What to tell the client: never is a filter of the wrong shape taken for none.
    pub fn read(text: &str) -> Result<Wish, String> {
        if serde_json::from_str::<IgnoredAny>(text).is_err() {
            return Err("Invalid JSON".to_owned());
        }
        if !is_object(text) {
            return Err("A filter should be an object".to_owned());
        }
        let asked: Asked<'_> = serde_json::from_str(text).map_err(|error| error.to_string())?;
        // The shape of an update: to ignore what it holds would be to match all.
        if asked.filters.is_some() {
            return Err("filters: what it holds should stand in its place".to_owned());
        }
        let mut names = Vec::new();
        let mut echo = String::from("{");
        let mut repeat = |name: &str, given: Option<&RawValue>| {
            if let Some(given) = given {
                let comma = if echo.len() > 1 { "," } else { "" };
                // Writing to a String cannot fail.
                let _ = write!(echo, "{comma}\"{name}\":{}", given.get());
            }
        };
        if let Some(given) = asked.event_types.filter(|given| given.get() != "null") {
            let wrong = format!("event_types: should be a list of at most {EVENT_FILTER_TYPES_MAX} strings");
            let list: Vec<String> = serde_json::from_str(given.get()).map_err(|_| wrong.clone())?;
            let fits = |name: &String| name.chars().nth(EVENT_TYPE_CHARS_MAX).is_none();
            if list.len() > EVENT_FILTER_TYPES_MAX || !list.iter().all(fits) {
                return Err(wrong);
            }
            names = list;
        }
        let id = |name: &str, given: Option<&RawValue>| match given.filter(|given| given.get() != "null") {
            None => Ok(None),
            Some(given) => match text_within(given, EVENT_ID_CHARS_MAX) {
                Some(id) => Ok((!id.is_empty()).then_some(id)),
                None => Err(format!("{name}: should be a string of at most {EVENT_ID_CHARS_MAX} characters")),
            },
        };
        let (session, user) = (id("session_id", asked.session_id)?, id("user_id", asked.user_id)?);
        let after = match asked.after.map(RawValue::get).filter(|given| *given != "null") {
            None => None,
            Some(given) => {
                let seq = given.parse().ok().filter(|seq: &u64| i64::try_from(*seq).is_ok());
                Some(seq.ok_or("after: should be a whole number, 0 or greater")?)
            }
        };
        repeat("event_types", asked.event_types);
        repeat("session_id", asked.session_id);
        repeat("user_id", asked.user_id);
        echo.push('}');
        let kinds = (!names.is_empty()).then(|| names.iter().filter_map(|name| Kind::named(name)).collect());
        Ok(Wish { filter: Filter { kinds, session, user }, after, echo })
    }
}

fn text_within(raw: &RawValue, chars_max: usize) -> Option<Arc<str>> {
    text(raw).filter(|text| text.chars().nth(chars_max).is_none())
}

/// Reads what a subscriber says.
///
/// # Errors
/// What to tell it.
pub fn said(text: &str) -> Result<Said, String> {
    #[derive(Deserialize)]
    struct Message<'a> {
        #[serde(borrow)]
        r#type: Option<&'a RawValue>,
        #[serde(borrow, default, deserialize_with = "given")]
        filters: Option<&'a RawValue>,
        event_types: Option<IgnoredAny>,
        session_id: Option<IgnoredAny>,
        user_id: Option<IgnoredAny>,
    }
    if serde_json::from_str::<IgnoredAny>(text).is_err() {
        return Err("Invalid JSON".to_owned());
    }
    if !is_object(text) {
        return Err("A message should be an object".to_owned());
    }
    let message: Message<'_> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    match message.r#type.map(RawValue::get) {
        Some(r#""ping""#) => Ok(Said::Ping),
        Some(r#""update_filters""#) if message.event_types.or(message.session_id).or(message.user_id).is_some() => {
            Err("filters: should hold the filter, which stands beside it".to_owned())
        }
        Some(r#""update_filters""#) => Wish::read(message.filters.map_or("{}", RawValue::get)).map(Said::Update),
        other => {
            let other: String = other.unwrap_or("null").chars().take(ECHO_CHARS_MAX).collect();
            Err(format!("Unknown message type: {other}"))
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Text.

/// Puts events into words. The last instant is kept: those of one batch are nearly always the same.
#[derive(Debug, Default)]
pub struct Speller {
    names: Names,
    at: Option<WallMs>,
    timestamp: String,
}

impl Speller {
    /// For events with these names.
    pub fn new(names: Names) -> Self {
        Speller { names, at: None, timestamp: String::new() }
    }

    /// Writes the object of an event. Without a number it is one that is not kept.
    pub fn write(&mut self, seq: Option<u64>, event: &Event, out: &mut String) {
        if self.at != Some(event.at) {
            self.timestamp = date_time_us(event.at);
            self.at = Some(event.at);
        }
        let Event { kind, source, session, user, payload, .. } = event;
        out.push_str(r#"{"id":"#);
        // Writing to a String cannot fail.
        let _ = match seq {
            Some(seq) => write!(out, r#""evt_{:012x}""#, self.names.id(seq)),
            None => write!(out, "null"),
        };
        let _ = write!(out, r#","event_type":"{}","source":"{source}","session_id":"#, kind.name());
        quote(session.as_deref(), out);
        out.push_str(r#","user_id":"#);
        quote(user.as_deref(), out);
        let _ = write!(out, r#","payload":{payload},"timestamp":"{}","seq":"#, self.timestamp);
        let _ = match seq {
            Some(seq) => write!(out, "{seq}}}"),
            None => write!(out, "null}}"),
        };
    }

    /// The answer to a publisher whose event is durable.
    pub fn acknowledge(&self, seq: u64, out: &mut String) {
        let _ = write!(out, r#"{{"status":"ok","event_id":"evt_{:012x}"}}"#, self.names.id(seq));
    }

    fn object(&mut self, stored: &Stored) -> String {
        let mut text = String::with_capacity(stored.event.bytes() + 200);
        self.write(Some(stored.seq), &stored.event, &mut text);
        text
    }

    /// The answer to a publication.
    pub fn created(&mut self, stored: &Stored) -> Response {
        answer::json_bytes(201, self.object(stored).into_bytes())
    }

    /// The answer to `GET /events/{id}`.
    pub fn found(&mut self, stored: Option<&Stored>) -> Response {
        match stored {
            Some(stored) => answer::json_bytes(200, self.object(stored).into_bytes()),
            None => not_found(),
        }
    }

    /// The answer to `GET /events`.
    pub fn page(&mut self, page: &Page) -> Response {
        let bytes = page.events.iter().map(|stored| stored.event.bytes() + 200).sum();
        let mut text = String::with_capacity(bytes);
        text.push('[');
        for (at, Stored { seq, event }) in page.events.iter().enumerate() {
            if at > 0 {
                text.push(',');
            }
            self.write(Some(*seq), event, &mut text);
        }
        text.push(']');
        answer::json_bytes(200, text.into_bytes())
    }
}

/// `null`, or the text between quotes.
fn quote(text: Option<&str>, out: &mut String) {
    match text {
        None => out.push_str("null"),
        Some(text) => raw::push_string(text, out),
    }
}

/// 404 for an event.
pub fn not_found() -> Response {
    answer::error_text(404, "Event not found")
}

/// The answer to whoever reads in order from where events have been deleted.
pub fn gone(gone: Gone) -> Response {
    let (detail, oldest_seq) = gone_text(gone);
    answer::json(410, &json!({ "detail": detail, "oldest_seq": oldest_seq }))
}

fn gone_text(Gone { upto }: Gone) -> (String, u64) {
    (format!("Events up to {upto} were deleted"), upto + 1)
}

/// What a subscriber hears who wants to begin where events have been deleted.
pub fn gone_message(gone: Gone) -> String {
    let (message, oldest_seq) = gone_text(gone);
    json!({ "status": "error", "message": message, "oldest_seq": oldest_seq }).to_string()
}

/// The answer to `DELETE /events`.
pub fn forgotten(deleted: u64) -> Response {
    answer::json(200, &json!({ "deleted": deleted }))
}

/// What the router is doing.
pub fn router(subscribers: u32, queued: usize) -> Value {
    json!({ "active_subscribers": subscribers, "queue_size": queued })
}

/// The answer to `GET /stats`.
pub fn stats(stats: &EventStats, router: Value) -> Response {
    let by_type = |(kind, count, last_at): &(Kind, u64, WallMs)| {
        let last_seen = date_time_us(*last_at);
        json!({ "event_type": kind.name(), "count": count, "last_seen": last_seen })
    };
    answer::json(
        200,
        &json!({
            "total_events": stats.total,
            "events_last_hour": stats.last_hour,
            "by_type": stats.by_kind.iter().map(by_type).collect::<Vec<_>>(),
            "router": router,
            "oldest_seq": stats.oldest_seq,
            "last_seq": stats.last_seq,
        }),
    )
}

/// The answer to `GET /event-types`.
pub fn kinds() -> Response {
    let all = Kind::all().map(|kind| (kind.name().to_owned(), Value::from(kind.description())));
    answer::json(200, &all.collect::<Map<_, _>>())
}

/// What a publisher or subscriber did wrong, or why it got nothing.
pub fn error(message: &str) -> String {
    json!({ "status": "error", "message": message }).to_string()
}

/// The first answer to a subscriber.
pub fn subscribed(number: u32, wish: &Wish, last_seq: u64) -> String {
    let filters = &wish.echo;
    format!(
        r#"{{"status":"subscribed","subscriber_id":"sub_{number:08x}","filters":{filters},"last_seq":{last_seq}}}"#
    )
}

/// The answer to new filters.
pub fn updated(wish: &Wish) -> String {
    format!(r#"{{"status":"filters_updated","filters":{}}}"#, wish.echo)
}

// ---------------------------------------------------------------------------------------------------------------
// The timers' own events.

/// The payload of an event of a timer: the fields of the message that its clients hear, and who did it.
pub fn payload(told: &Told<'_>) -> Arc<str> {
    let Reading { remaining_s, elapsed_s, remaining_ms, at, .. } = told.reading;
    let exact =
        || json!({ "remaining_seconds": remaining_s, "remaining_ms": remaining_ms, "server_time_ms": at.ms() });
    let mut fields = match told.what {
        What::Ticked => json!({ "remaining_seconds": remaining_s, "elapsed_seconds": elapsed_s }),
        What::Warned(threshold_s) => json!({ "remaining_seconds": remaining_s, "threshold": threshold_s }),
        What::Changed(action) => match action {
            history::Action::Created { name, duration_s } => {
                let mut fields = json!({ "name": &**name, "duration_seconds": duration_s });
                if let Some(start_at) = told.timer.start_at {
                    fields["start_at"] = json!(crate::api::time::date_time(start_at));
                }
                fields
            }
            history::Action::Scheduled { .. } | history::Action::Deleted => json!({}),
            history::Action::Started | history::Action::Paused | history::Action::Resumed => exact(),
            history::Action::Extended { added_s } => {
                let mut fields = json!({ "added_seconds": added_s });
                merge(&mut fields, exact());
                fields
            }
            history::Action::Outage { added_ms } => {
                let mut fields = json!({ "added_ms": added_ms });
                merge(&mut fields, exact());
                fields
            }
            history::Action::Stopped => json!({ "remaining_seconds": remaining_s, "elapsed_seconds": elapsed_s }),
            history::Action::Expired => json!({ "elapsed_seconds": elapsed_s }),
        },
    };
    fields["actor"] = json!(told.actor);
    Arc::from(fields.to_string())
}

fn merge(fields: &mut Value, more: Value) {
    if let (Value::Object(fields), Value::Object(more)) = (fields, more) {
        fields.extend(more);
    }
}

/// The event of a tick, which is not kept.
pub fn tick(told: &Told<'_>, now: Now) -> Event {
    Event {
        kind: Kind::TimerTick,
        source: Arc::from(history::TIMERD),
        session: Some(told.timer.id.clone()),
        user: None,
        payload: payload(told),
        at: now.wall,
    }
}
