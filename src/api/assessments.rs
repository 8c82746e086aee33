//! The requests about assessments and candidates.
//!
//! Owns what an instructor prepares before an exam: bodies into assessments and candidates, and those back into text.
//! The content of an item goes through as it came. It decides nothing about a session, and knows no connection.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::sync::Arc;

use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::api::answer::{self, error_text, faults};
use crate::api::form::{self, Fault, Form};
use crate::api::raw;
use crate::api::{Api, Outcome, World, delivery, replays};
use crate::domain::Engine;
use crate::domain::assessments::{Assessment, Candidate, Factor, Full, Item, Navigation, Order, Plan, Put, Section};
use crate::domain::staged::Hold;
use crate::limits::*;
use crate::wire::http::{Request, Response};

// ---------------------------------------------------------------------------------------------------------------
// Calls.

impl Api {
    /// `GET /delivery/assessments`.
    pub(super) fn assessments(&self, world: &World<'_>) -> Response {
        let all = world.engine.delivery.catalogue.shown_all();
        answer::json(200, &all.map(|assessment| summary(assessment)).collect::<Vec<_>>())
    }

    /// `GET /delivery/assessments/{id}`.
    pub(super) fn assessment(&self, id: &str, world: &World<'_>) -> Response {
        match world.engine.delivery.catalogue.shown(id) {
            Some(assessment) => answer::json_bytes(200, object(assessment).into_bytes()),
            None => not_found(id),
        }
    }

    /// `PUT /delivery/assessments/{id}`.
    pub(super) fn put_assessment(&self, id: &str, request: &Request, world: &mut World<'_>) -> Outcome {
        let refused = |response| Outcome::Answer(response, Hold::Nothing);
        if let Some(response) = replays::refused_content_type(request) {
            return refused(response);
        }
        let plan = match plan(id, &request.body) {
            Ok(plan) => plan,
            Err(found) => return refused(faults(&found)),
        };
        if let Err(response) = world.takes_commands() {
            return refused(response);
        }
        let Engine { delivery, fx, .. } = &mut *world.engine;
        match delivery.catalogue.put(plan, fx) {
            Ok((assessment, Put { is_new, hold })) => {
                log::info!(assessment:% = id, items = assessment.items.len(); "assessment kept");
                let status = if is_new { 201 } else { 200 };
                Outcome::Answer(answer::json_bytes(status, object(&assessment).into_bytes()), hold)
            }
            Err(Full) => refused(error_text(429, "Maximum assessment limit reached")),
        }
    }

    /// `DELETE /delivery/assessments/{id}`.
    pub(super) fn remove_assessment(&self, id: &str, world: &mut World<'_>) -> Outcome {
        if let Err(response) = world.takes_commands() {
            return Outcome::Answer(response, Hold::Nothing);
        }
        let Engine { delivery, fx, .. } = &mut *world.engine;
        let (outcome, hold) = delivery.remove_assessment(world.now, id, fx);
        let response = match outcome {
            Ok(()) => answer::no_content(),
            Err(refusal) => delivery::refused(&refusal, id, None),
        };
        Outcome::Answer(response, hold)
    }

    /// `GET /delivery/candidates/{id}`.
    pub(super) fn candidate(&self, id: &str, world: &World<'_>) -> Response {
        match world.engine.delivery.catalogue.shown_candidate(id) {
            Some(candidate) => answer::json(200, &candidate_object(candidate)),
            None => error_text(404, &format!("Candidate {id} not found")),
        }
    }

    /// `PUT /delivery/candidates/{id}`.
    pub(super) fn put_candidate(&self, id: &str, request: &Request, world: &mut World<'_>) -> Outcome {
        let refused = |response| Outcome::Answer(response, Hold::Nothing);
        if let Some(response) = replays::refused_content_type(request) {
            return refused(response);
        }
        let candidate = match form::parse(&request.body).and_then(|body| candidate(id, &body)) {
            Ok(candidate) => candidate,
            Err(found) => return refused(faults(&found)),
        };
        if let Err(response) = world.takes_commands() {
            return refused(response);
        }
        let Engine { delivery, fx, .. } = &mut *world.engine;
        let object = candidate_object(&candidate);
        match delivery.catalogue.put_candidate(candidate, fx) {
            Ok(Put { is_new, hold }) => Outcome::Answer(answer::json(if is_new { 201 } else { 200 }, &object), hold),
            Err(Full) => refused(error_text(429, "Maximum candidate limit reached")),
        }
    }
}

/// 404 for an assessment.
pub(super) fn not_found(id: &str) -> Response {
    error_text(404, &format!("Assessment {id} not found"))
}

// ---------------------------------------------------------------------------------------------------------------
// Bodies.

/// An object whose fields are kept as they came; of a repeated one the last.
type Kept<'a> = HashMap<String, &'a RawValue>;

/// The objects of a list that is known to be one.
fn kept_list<'a>(kept: &Kept<'a>, name: &str) -> serde_json::Result<Vec<Kept<'a>>> {
    kept.get(name).map_or(Ok(Vec::new()), |list| serde_json::from_str(list.get()))
}

/// Reads an assessment, which is called `id` by its path.
///
/// # Errors
/// Every fault of the body.
pub fn plan(id: &str, body: &[u8]) -> Result<Plan, Vec<Fault>> {
    path_id("assessment_id", id)?;
    let value = form::parse(body)?;
    let mut form = Form::body(&value)?;
    if form.raw("assessment_id").is_some_and(|given| given.as_str() != Some(id)) {
        form.fault("value_error", "assessment_id", "assessment_id should be the one in the path");
    }
    let title = form.text("title", 0..=DELIVERY_ID_CHARS_MAX, id);
    let time_limit_s = form.int_or_null("time_limit_seconds", 1..=DURATION_S_MAX);
    let attempt_limit = form.int_or_null("attempt_limit", 1..=ATTEMPTS_MAX);
    let navigation = form.word("navigation_mode", &Navigation::ALL.map(|mode| (mode.name(), mode)));
    let grace_s = form.int_or_null("grace_seconds", 0..=GRACE_S_MAX).unwrap_or(GRACE_S_DEFAULT);
    let (mut sections, mut items, mut listed_items) = (Vec::new(), Vec::new(), 0);
    let (mut section_ids, mut item_ids) = (HashSet::new(), HashSet::new());
    for (path, value) in form.list("sections", 1, SECTIONS_MAX) {
        let mut part = match Form::object(value, path) {
            Ok(part) => part,
            Err(found) => {
                form.absorb(found);
                continue;
            }
        };
        let section = u16::try_from(sections.len()).unwrap_or(u16::MAX);
        sections.push(self::section(&mut part, &mut section_ids));
        let listed = part.list("items", 0, ITEMS_MAX);
        let to_select = sections.last().map_or(0, |section| usize::from(section.items_to_select));
        if to_select > listed.len() {
            part.fault("value_error", "items_to_select", "items_to_select should not exceed the number of items");
        }
        listed_items += listed.len();
        if listed_items > ITEMS_MAX {
            form.absorb(part.done().err().unwrap_or_default());
            break;
        }
        for (path, value) in listed {
            match item(value, path, section, &mut item_ids) {
                Ok(item) => items.push(item),
                Err(found) => part.absorb(found),
            }
        }
        if let Err(found) = part.done() {
            form.absorb(found);
        }
    }
    if items.is_empty() && form.is_sound() {
        form.fault("too_short", "sections", "An assessment should have at least one item");
    } else if listed_items > ITEMS_MAX {
        form.fault("too_long", "sections", format!("An assessment should have at most {ITEMS_MAX} items"));
    }
    form.done()?;
    keep(body, &mut items)?;
    // Without a mode there was a fault, and the form is done with us.
    let navigation = navigation.unwrap_or(Navigation::Linear);
    Ok(Plan { id: id.into(), title, time_limit_s, attempt_limit, navigation, grace_s, sections, items })
}

fn section(form: &mut Form<'_>, known: &mut HashSet<Arc<str>>) -> Section {
    let id = form.name("section_id", DELIVERY_ID_CHARS_MAX);
    if !id.is_empty() && !known.insert(id.clone()) {
        form.fault("value_error", "section_id", "section_id should be unique");
    }
    let name = form.text("name", 0..=DELIVERY_ID_CHARS_MAX, &id);
    let time_limit_s = form.int_or_null("time_limit_seconds", 1..=DURATION_S_MAX);
    let is_drawn = form.word("selection_mode", &[("FIXED", false), ("RANDOM", true)]) == Some(true);
    let most = u32::try_from(ITEMS_MAX).unwrap_or(u32::MAX);
    let items_to_select = form.int_or_null("items_to_select", 0..=most).unwrap_or(0);
    let items_to_select = u16::try_from(items_to_select).unwrap_or(u16::MAX);
    let order = form.word("order_mode", &Order::ALL.map(|order| (order.name(), order))).unwrap_or(Order::Sequential);
    Section { id, name, time_limit_s, is_drawn, items_to_select, order }
}

fn item(value: &Value, path: Vec<Value>, section: u16, known: &mut HashSet<Arc<str>>) -> Result<Item, Vec<Fault>> {
    let mut form = Form::object(value, path)?;
    let id = form.name("item_id", DELIVERY_ID_CHARS_MAX);
    if !id.is_empty() && !known.insert(id.clone()) {
        form.fault("value_error", "item_id", "item_id should be unique in the assessment");
    }
    match form.raw("content") {
        None => form.fault("missing", "content", "Field required"),
        Some(content) if !content.is_object() => {
            form.fault("dict_type", "content", "Input should be a valid dictionary");
        }
        Some(_) => {}
    }
    if form.raw("metadata").is_some_and(|metadata| !metadata.is_object() && !metadata.is_null()) {
        form.fault("dict_type", "metadata", "Input should be a valid dictionary");
    }
    form.done()?;
    Ok(Item { id, section, content: "{}".into(), metadata: "{}".into() })
}

/// Puts what is kept as it came into its places. The body is known to be sound.
fn keep(body: &[u8], items: &mut [Item]) -> Result<(), Vec<Fault>> {
    let no_json = |error| vec![form::no_json(&error)];
    let kept: Kept<'_> = serde_json::from_slice(body).map_err(no_json)?;
    let limits = raw::Limits { keys: usize::MAX, bytes: ASSESSMENT_BYTES_MAX, depth: CONTENT_DEPTH_MAX };
    let mut faults = Vec::new();
    let mut places = items.iter_mut();
    for (section, kept) in kept_list(&kept, "sections").map_err(no_json)?.iter().enumerate() {
        for (number, kept) in kept_list(kept, "items").map_err(no_json)?.iter().enumerate() {
            let Some(item) = places.next() else { continue };
            for (field, place) in [("content", &mut item.content), ("metadata", &mut item.metadata)] {
                let Some(text) = kept.get(field).filter(|text| text.get() != "null") else { continue };
                match raw::compact(text.get(), limits) {
                    Ok(text) => *place = Arc::from(text),
                    Err(unfit) => {
                        let path = [json!("body"), json!("sections"), json!(section), json!("items"), json!(number)];
                        let fault = Fault::new("value_error", &["body", field], limits.refusal(unfit));
                        faults.push(fault.under(&path));
                    }
                }
            }
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}

/// Reads a candidate, who is called `id` by the path.
///
/// # Errors
/// Every fault of the body.
pub fn candidate(id: &str, body: &Value) -> Result<Candidate, Vec<Fault>> {
    path_id("candidate_id", id)?;
    let mut form = Form::body(body)?;
    if form.raw("candidate_id").is_some_and(|given| given.as_str() != Some(id)) {
        form.fault("value_error", "candidate_id", "candidate_id should be the one in the path");
    }
    let name = form.text("name", 0..=DELIVERY_ID_CHARS_MAX, "");
    let is_active = form.raw("is_active").is_none() || form.bool("is_active");
    let mut extra_time = Factor::ONE;
    match form.raw("accommodations") {
        None | Some(Value::Null) => {}
        Some(given) => match Form::object(given, vec![json!("body"), json!("accommodations")]) {
            Ok(mut granted) => {
                if let Some(given) = granted.raw("EXTRA_TIME") {
                    match factor(given) {
                        Some(factor) => extra_time = factor,
                        None => {
                            granted.fault("value_error", "EXTRA_TIME", "Input should be a number from 1.0 to 4.0")
                        }
                    }
                }
                form.absorb(granted.done().err().unwrap_or_default());
            }
            Err(found) => form.absorb(found),
        },
    }
    form.done()?;
    Ok(Candidate { id: id.into(), name, is_active, extra_time })
}

fn factor(given: &Value) -> Option<Factor> {
    let factor = given.as_f64().filter(|factor| (1.0..=4.0).contains(factor))?;
    // Between one and four billion: the cast is exact, and so are nine decimals.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked just above")]
    Some(Factor::from_billionths((factor * 1e9).round() as u64))
}

/// The id in a path, where it names something that is made.
fn path_id(name: &str, id: &str) -> Result<(), Vec<Fault>> {
    let chars = id.chars().count();
    if (1..=DELIVERY_ID_CHARS_MAX).contains(&chars) && !id.chars().any(char::is_control) {
        return Ok(());
    }
    let msg = format!("String should have 1 to {DELIVERY_ID_CHARS_MAX} characters, and no control characters");
    Err(vec![Fault::new("value_error", &["path", name], msg)])
}

// ---------------------------------------------------------------------------------------------------------------
// Text.

fn summary(assessment: &Assessment) -> Value {
    json!({
        "assessment_id": &*assessment.id,
        "title": &*assessment.title,
        "time_limit_seconds": assessment.time_limit_s,
        "attempt_limit": assessment.attempt_limit,
        "navigation_mode": assessment.navigation.name(),
        "grace_seconds": assessment.grace_s,
        "total_sections": assessment.sections.len(),
        "total_items": assessment.items.len(),
    })
}

/// `null`, or the number.
pub(super) fn number(number: Option<u32>) -> String {
    number.map_or("null".to_owned(), |number| number.to_string())
}

fn object(assessment: &Assessment) -> String {
    let Assessment { id, title, time_limit_s, attempt_limit, navigation, grace_s, .. } = assessment;
    let mut out = String::with_capacity(assessment.bytes());
    out.push_str(r#"{"assessment_id":"#);
    raw::push_string(id, &mut out);
    out.push_str(r#","title":"#);
    raw::push_string(title, &mut out);
    // Writing to a String cannot fail.
    let _ = write!(
        out,
        r#","time_limit_seconds":{},"attempt_limit":{},"navigation_mode":"{}","grace_seconds":{grace_s},"sections":["#,
        number(*time_limit_s),
        number(*attempt_limit),
        navigation.name()
    );
    for (at, section) in (0_u16..).zip(&assessment.sections) {
        out.push_str(if at > 0 { r#",{"section_id":"# } else { r#"{"section_id":"# });
        raw::push_string(&section.id, &mut out);
        out.push_str(r#","name":"#);
        raw::push_string(&section.name, &mut out);
        let _ = write!(
            out,
            r#","time_limit_seconds":{},"selection_mode":"{}","items_to_select":{},"order_mode":"{}","items":["#,
            number(section.time_limit_s),
            if section.is_drawn { "RANDOM" } else { "FIXED" },
            section.items_to_select,
            section.order.name()
        );
        for (number, of_section) in assessment.items.iter().filter(|item| item.section == at).enumerate() {
            if number > 0 {
                out.push(',');
            }
            push_item(of_section, &mut out);
        }
        out.push_str("]}");
    }
    out.push_str("]}");
    out
}

/// Appends an item as the candidate sees it.
pub(super) fn push_item(item: &Item, out: &mut String) {
    out.push_str(r#"{"item_id":"#);
    raw::push_string(&item.id, out);
    out.push_str(r#","content":"#);
    out.push_str(&item.content);
    out.push_str(r#","metadata":"#);
    out.push_str(&item.metadata);
    out.push('}');
}

fn candidate_object(candidate: &Candidate) -> Value {
    let Candidate { id, name, is_active, extra_time } = candidate;
    #[expect(clippy::cast_precision_loss, reason = "four billion at most: exact")]
    let factor = extra_time.billionths() as f64 / 1e9;
    let granted = if *extra_time == Factor::ONE { json!({}) } else { json!({ "EXTRA_TIME": factor }) };
    json!({ "candidate_id": &**id, "name": &**name, "is_active": is_active, "accommodations": granted })
}
