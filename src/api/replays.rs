//! Requests that may be sent twice.
//!
//! Owns the `Idempotency-Key` of every POST: what identifies a request, and the first answer given again. It knows no
//! route; which keys there are is the domain's.

use sha2::{Digest as _, Sha256};

use crate::api::answer::{self, error_text, faults, unavailable};
use crate::api::events::Speller;
use crate::api::form::Fault;
use crate::api::{Outcome, World};
use crate::clock::Now;
use crate::domain::Engine;
use crate::domain::disk::Query;
use crate::domain::events::Stored;
use crate::domain::history::Actor;
use crate::domain::replays::{First, Known, Replay, Stub};
use crate::domain::staged::Hold;
use crate::limits::IDEMPOTENCY_KEY_CHARS_MAX;
use crate::wire::http::{Head, Request, Response};

/// Whether a change is to be carried out: under which key its answer is to be kept, if it has one.
///
/// # Errors
/// It is not: it has been, or the request is amiss. What is to be done instead.
pub(super) fn first_time(request: &Request, actor: &Actor, world: &World<'_>) -> Result<Option<Stub>, Outcome> {
    let refused = |response| Outcome::Answer(response, Hold::Nothing);
    if let Some(response) = refused_content_type(request) {
        return Err(refused(response));
    }
    let stub = idempotency_stub(request, actor, world.now).map_err(|found| refused(faults(&found)))?;
    let Some(stub) = stub else { return Ok(None) };
    match world.engine.replays.look_up(world.now, &stub.key, &stub.body) {
        Known::Fresh => Ok(Some(stub)),
        Known::Twin(hold) => Err(Outcome::Ask(Query::Replay(stub.key), hold)),
        Known::Other => {
            let msg = "This key was used with another body";
            let fault = Fault::new("idempotency_conflict", &["header", "idempotency-key"], msg);
            Err(refused(faults(&[fault])))
        }
    }
}

/// Keeps an answer with the change it tells of.
pub(super) fn keep(stub: Stub, response: &Response, engine: &mut Engine) {
    let headers = response.headers.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    let first = First::Words { status: response.status, headers, body: response.body.as_bytes().into() };
    engine.replays.stage(Replay { stub, first }, &mut engine.fx);
}

/// Keeps that the answer is the event which has just been published.
pub(super) fn keep_event(stub: Stub, engine: &mut Engine) {
    engine.replays.stage(Replay { stub, first: First::Event }, &mut engine.fx);
}

/// The first answer again.
pub(super) fn replayed(replay: Option<Replay>) -> Response {
    let Some(Replay { first: First::Words { status, headers, body }, .. }) = replay else {
        return unavailable("The first answer is no longer kept");
    };
    let mut response = answer::json_bytes(status, body.to_vec());
    for (name, value) in headers {
        let known = ["ETag", "Location"].into_iter().find(|known| *known == name);
        response.headers.extend(known.map(|name| (name, value)));
    }
    again(response)
}

/// The first answer again, which was an event. It may have been deleted since.
pub(super) fn replayed_event(stored: Option<&Stored>, speller: &mut Speller) -> Response {
    again(match stored {
        Some(stored) => speller.created(stored),
        None => error_text(404, "Event not found"),
    })
}

fn again(response: Response) -> Response {
    response.with("Idempotency-Replayed", "true".to_owned())
}

/// 415 for a body that says it is something else; one that says nothing is taken as JSON.
pub(super) fn refused_content_type(request: &Request) -> Option<Response> {
    let kind = request.head.header("content-type")?;
    let kind = kind.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    let is_json = kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"));
    if is_json || kind.is_empty() || request.body.is_empty() {
        return None;
    }
    Some(error_text(415, "Send JSON, with the header Content-Type: application/json"))
}

/// What identifies a POST that may be sent twice.
fn idempotency_stub(request: &Request, actor: &Actor, now: Now) -> Result<Option<Stub>, Vec<Fault>> {
    if request.head.method != "POST" {
        return Ok(None);
    }
    let mut given = request.head.headers("idempotency-key");
    let Some(key) = given.next() else { return Ok(None) };
    let sound =
        (1..=IDEMPOTENCY_KEY_CHARS_MAX).contains(&key.len()) && key.bytes().all(|b| (0x20..0x7f).contains(&b));
    if !sound || given.next().is_some() {
        let msg = format!("Idempotency-Key should be 1 to {IDEMPOTENCY_KEY_CHARS_MAX} printable ASCII characters");
        return Err(vec![Fault::new("value_error", &["header", "idempotency-key"], msg)]);
    }
    let Head { path, query, .. } = &request.head;
    // One route, by whichever of its paths.
    let path = path.strip_suffix('/').unwrap_or(path);
    let path = path.strip_prefix("/api/v1").unwrap_or(path);
    let mut whose = Sha256::new();
    for part in [&**actor, path, query.as_str(), key] {
        whose.update(part.len().to_le_bytes());
        whose.update(part);
    }
    let body = Sha256::digest(&request.body).into();
    Ok(Some(Stub { key: whose.finalize().into(), body, at: now.wall }))
}
