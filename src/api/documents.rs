//! What the daemon says about itself.
//!
//! Owns health, readiness and metrics. It knows no timer beyond their number.

use serde_json::{Value, json};

use crate::api::answer::{self, unavailable};
use crate::domain::Engine;
use crate::limits::RETRY_AFTER_S;
use crate::metrics::{Gauge, Metrics};
use crate::wire::http::{Body, Response};

/// `GET /health`: the process is alive. Counts every timer held, as the Python service did.
pub fn health(timers: usize) -> Response {
    let version = env!("CARGO_PKG_VERSION");
    answer::json(
        200,
        &json!({ "status": "healthy", "timers_active": timers, "service": "timerd", "version": version }),
    )
}

/// `GET /readiness`: commands can be carried out, or why not.
pub fn readiness(timers: usize, router: Value, degraded: Option<&str>) -> Response {
    match degraded {
        None => {
            let body = json!({ "ready": true, "database": "connected", "timers": timers, "router": router });
            answer::json(200, &body)
        }
        Some(why) => {
            let body = json!({
                "ready": false, "database": "disconnected", "detail": why, "timers": timers, "router": router,
            });
            answer::json(503, &body).with("Retry-After", RETRY_AFTER_S.to_string())
        }
    }
}

/// `GET /metrics`, in the text format of OpenMetrics.
pub fn metrics(metrics: &Metrics, engine: &Engine) -> Response {
    let set = |gauge: &Gauge, number| _ = gauge.set(i64::try_from(number).unwrap_or(i64::MAX));
    set(&metrics.timers, engine.timers.len());
    set(&metrics.sessions, engine.delivery.len());
    set(&metrics.sessions_running, engine.delivery.running());
    set(&metrics.rooms, engine.rooms.len());
    set(&metrics.room_people, engine.rooms.people());
    match metrics.encode() {
        Ok(text) => Response {
            status: 200,
            headers: Vec::new(),
            content_type: Some("application/openmetrics-text; version=1.0.0; charset=utf-8"),
            body: Body::Bytes(text.into_bytes()),
        },
        Err(error) => unavailable(&error.to_string()),
    }
}
