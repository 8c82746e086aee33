//! Answers in the contract's shapes.
//!
//! Owns the JSON of errors and the header fields that belong to answers. It knows statuses and texts, no service.

use serde::Serialize;

use crate::api::form::{self, Fault};
use crate::limits::RETRY_AFTER_S;
use crate::wire::http::{Body, Response};

/// The media type of everything but documents.
pub const JSON: &str = "application/json";

/// `value` as JSON.
pub fn json(status: u16, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => json_bytes(status, body),
        // Only a map with keys that are no strings can fail: none is ever built.
        Err(error) => error_text(500, &error.to_string()),
    }
}

/// A body that is JSON already.
pub fn json_bytes(status: u16, body: Vec<u8>) -> Response {
    Response { status, headers: Vec::new(), content_type: Some(JSON), body: Body::Bytes(body) }
}

/// `{"detail": text}`.
pub fn error_text(status: u16, text: &str) -> Response {
    json(status, &serde_json::json!({ "detail": text }))
}

/// 422 with every fault.
pub fn faults(faults: &[Fault]) -> Response {
    json(422, &form::detail(faults))
}

/// 204.
pub fn no_content() -> Response {
    Response { status: 204, headers: Vec::new(), content_type: None, body: Body::Empty }
}

/// 503: nothing was changed, and it is worth coming back.
pub fn unavailable(why: &str) -> Response {
    error_text(503, why).with("Retry-After", RETRY_AFTER_S.to_string())
}

/// A file of the binary's own.
pub fn document(content_type: &'static str, body: &'static [u8]) -> Response {
    Response { status: 200, headers: Vec::new(), content_type: Some(content_type), body: Body::Static(body) }
}

impl Response {
    /// With one more header field.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: String) -> Self {
        self.headers.push((name, value));
        self
    }
}
