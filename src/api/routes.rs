//! Paths and methods: what there is to ask for, and which role may ask.
//!
//! Owns the one table of routes. It knows no handler: the room's `match` on [`Route`] is the whole dispatch.

use crate::keys::Role;

/// Everything that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// The process is alive.
    Health,
    /// The process can do its work.
    Readiness,
    /// Counters for a monitoring system.
    Metrics,
    /// A file of the binary, by its path in `src/web/`: a page for browsers, or the API's description.
    File(&'static str),
    /// What pages load, by its name.
    PagePart,
    /// All timers.
    Timers,
    /// One timer.
    Timer,
    /// An action on one timer.
    TimerControl,
    /// What happened to one timer.
    TimerHistory,
    /// One action on many timers.
    TimersBulk(Bulk),
    /// The WebSocket of one timer.
    TimerSocket,
    /// Its messages as server-sent events.
    TimerStream,
    /// All events.
    Events,
    /// One event.
    Event,
    /// The figures of all events.
    EventStats,
    /// The types of events.
    EventTypes,
    /// The WebSocket of publishers.
    PublishSocket,
    /// The WebSocket of subscribers.
    SubscribeSocket,
    /// All assessments.
    Assessments,
    /// One assessment.
    Assessment,
    /// The sessions of one assessment.
    AssessmentSessions,
    /// What came of one assessment.
    AssessmentResults,
    /// One action on all active sessions of one assessment.
    AssessmentBulk(SessionCall),
    /// One candidate.
    Candidate,
    /// The start of a session of one assessment.
    SessionStart,
    /// One session.
    Session,
    /// Where a candidate is.
    SessionCurrent,
    /// An action on one session.
    SessionAct(SessionCall),
    /// The WebSocket of one session.
    SessionSocket,
    /// One room.
    Room,
    /// The WebSocket of all rooms.
    RoomsSocket,
    /// The WebSocket of protocol conformance runs.
    EchoSocket,
}

/// What may be done to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "their names say it")]
pub enum SessionCall {
    Answer,
    Navigate,
    Save,
    Submit,
    Pause,
    Resume,
    Terminate,
    Extend,
}

impl SessionCall {
    /// Whether it is a candidate who does it.
    pub const fn is_candidates(self) -> bool {
        matches!(self, SessionCall::Answer | SessionCall::Navigate | SessionCall::Save | SessionCall::Submit)
    }
}

/// What a bulk call does to each of its timers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bulk {
    /// As the single action of that name.
    Start,
    /// As the single action of that name.
    Pause,
    /// As the single action of that name.
    Resume,
    /// As the single action of that name.
    Stop,
    /// As the single action of that name.
    Extend,
    /// As `DELETE`.
    Delete,
}

/// Who may use a method of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody, key or not.
    Open,
    /// Candidates: as a viewer, unless an operator lets them in without a key.
    Candidate,
    /// Whoever has a key of this role or a greater one, when keys are required.
    Key(Role),
}

/// A method that routes know. HEAD is GET without the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "their names say it")]
pub enum Method {
    Get,
    Post,
    Put,
    Delete,
}

const GET: Method = Method::Get;
const POST: Method = Method::Post;
const PUT: Method = Method::Put;
const DELETE: Method = Method::Delete;
const CANDIDATE: Access = Access::Candidate;
const VIEWER: Access = Access::Key(Role::Viewer);
const INSTRUCTOR: Access = Access::Key(Role::Instructor);
const ADMIN: Access = Access::Key(Role::Admin);

/// One path of the table: its route, and its methods with who may use them.
pub type Row = (&'static str, Route, &'static [(Method, Access)]);

const OPEN: &[(Method, Access)] = &[(GET, Access::Open)];
const EVENTS: &[(Method, Access)] = &[(GET, INSTRUCTOR), (POST, INSTRUCTOR), (DELETE, ADMIN)];

const TABLE: &[Row] = &[
    ("/health", Route::Health, &[(GET, Access::Open)]),
    ("/readiness", Route::Readiness, &[(GET, Access::Open)]),
    ("/metrics", Route::Metrics, &[(GET, ADMIN)]),
    ("/openapi.json", Route::File("openapi.json"), OPEN),
    ("/docs", Route::File("docs.html"), OPEN),
    ("/docs/docs.js", Route::File("docs.js"), OPEN),
    ("/docs/docs.css", Route::File("docs.css"), OPEN),
    // The id in a page's path is the page's business.
    ("/", Route::File("pages/index.html"), OPEN),
    ("/timer/{id}", Route::File("pages/timer.html"), OPEN),
    ("/wall/{id}", Route::File("pages/wall.html"), OPEN),
    ("/console", Route::File("pages/console.html"), OPEN),
    ("/room", Route::File("pages/room.html"), OPEN),
    ("/room/{id}", Route::File("pages/room.html"), OPEN),
    ("/exam/{id}", Route::File("pages/exam.html"), OPEN),
    ("/pages/{id}", Route::PagePart, OPEN),
    ("/timers", Route::Timers, &[(GET, INSTRUCTOR), (POST, INSTRUCTOR)]),
    ("/timers/{id}", Route::Timer, &[(GET, VIEWER), (DELETE, INSTRUCTOR)]),
    ("/timers/{id}/control", Route::TimerControl, &[(POST, INSTRUCTOR)]),
    ("/timers/{id}/history", Route::TimerHistory, &[(GET, INSTRUCTOR)]),
    ("/timers/{id}/stream", Route::TimerStream, &[(GET, VIEWER)]),
    ("/timers/bulk/start", Route::TimersBulk(Bulk::Start), &[(POST, INSTRUCTOR)]),
    ("/timers/bulk/pause", Route::TimersBulk(Bulk::Pause), &[(POST, INSTRUCTOR)]),
    ("/timers/bulk/resume", Route::TimersBulk(Bulk::Resume), &[(POST, INSTRUCTOR)]),
    ("/timers/bulk/stop", Route::TimersBulk(Bulk::Stop), &[(POST, INSTRUCTOR)]),
    ("/timers/bulk/extend", Route::TimersBulk(Bulk::Extend), &[(POST, INSTRUCTOR)]),
    ("/timers/bulk/delete", Route::TimersBulk(Bulk::Delete), &[(POST, INSTRUCTOR)]),
    ("/ws/{id}", Route::TimerSocket, &[(GET, VIEWER)]),
    ("/api/v1/events", Route::Events, EVENTS),
    ("/api/v1/events/{id}", Route::Event, &[(GET, INSTRUCTOR)]),
    ("/api/v1/stats", Route::EventStats, &[(GET, INSTRUCTOR)]),
    ("/api/v1/event-types", Route::EventTypes, &[(GET, Access::Open)]),
    // For older clients.
    ("/events", Route::Events, EVENTS),
    ("/events/{id}", Route::Event, &[(GET, INSTRUCTOR)]),
    ("/stats", Route::EventStats, &[(GET, INSTRUCTOR)]),
    ("/event-types", Route::EventTypes, &[(GET, Access::Open)]),
    ("/ws/publish", Route::PublishSocket, &[(GET, INSTRUCTOR)]),
    ("/ws/subscribe", Route::SubscribeSocket, &[(GET, INSTRUCTOR)]),
    ("/delivery/assessments", Route::Assessments, &[(GET, INSTRUCTOR)]),
    ("/delivery/assessments/{id}", Route::Assessment, &[(GET, INSTRUCTOR), (PUT, INSTRUCTOR), (DELETE, INSTRUCTOR)]),
    ("/delivery/assessments/{id}/sessions", Route::AssessmentSessions, &[(GET, INSTRUCTOR)]),
    ("/delivery/assessments/{id}/results", Route::AssessmentResults, &[(GET, INSTRUCTOR)]),
    ("/delivery/assessments/{id}/pause", Route::AssessmentBulk(SessionCall::Pause), &[(POST, INSTRUCTOR)]),
    ("/delivery/assessments/{id}/resume", Route::AssessmentBulk(SessionCall::Resume), &[(POST, INSTRUCTOR)]),
    ("/delivery/assessments/{id}/extend", Route::AssessmentBulk(SessionCall::Extend), &[(POST, INSTRUCTOR)]),
    ("/delivery/candidates/{id}", Route::Candidate, &[(GET, INSTRUCTOR), (PUT, INSTRUCTOR)]),
    ("/delivery/start/{id}", Route::SessionStart, &[(POST, CANDIDATE)]),
    ("/delivery/session/{id}", Route::Session, &[(GET, CANDIDATE)]),
    ("/delivery/session/{id}/current", Route::SessionCurrent, &[(GET, CANDIDATE)]),
    ("/delivery/session/{id}/answer", Route::SessionAct(SessionCall::Answer), &[(POST, CANDIDATE)]),
    ("/delivery/session/{id}/navigate", Route::SessionAct(SessionCall::Navigate), &[(POST, CANDIDATE)]),
    ("/delivery/session/{id}/save", Route::SessionAct(SessionCall::Save), &[(POST, CANDIDATE)]),
    ("/delivery/session/{id}/submit", Route::SessionAct(SessionCall::Submit), &[(POST, CANDIDATE)]),
    ("/delivery/session/{id}/pause", Route::SessionAct(SessionCall::Pause), &[(POST, INSTRUCTOR)]),
    ("/delivery/session/{id}/resume", Route::SessionAct(SessionCall::Resume), &[(POST, INSTRUCTOR)]),
    ("/delivery/session/{id}/terminate", Route::SessionAct(SessionCall::Terminate), &[(POST, INSTRUCTOR)]),
    ("/delivery/session/{id}/extend", Route::SessionAct(SessionCall::Extend), &[(POST, INSTRUCTOR)]),
    ("/delivery/ws/{id}", Route::SessionSocket, &[(GET, CANDIDATE)]),
    ("/rooms/{id}", Route::Room, &[(GET, Access::Open)]),
    ("/ws/rooms", Route::RoomsSocket, &[(GET, Access::Open)]),
    #[cfg(feature = "echo-test")]
    ("/ws/echo", Route::EchoSocket, &[(GET, Access::Open)]),
];

/// Finds rows of the table by path.
pub struct Routes {
    router: matchit::Router<&'static Row>,
}

impl Route {
    /// Whether browsers ask for it in a way in which they cannot send headers: a key may be in the query.
    pub const fn takes_key_in_query(self) -> bool {
        self.is_socket() || matches!(self, Route::TimerStream)
    }

    /// Whether it is a WebSocket.
    pub const fn is_socket(self) -> bool {
        matches!(
            self,
            Route::TimerSocket
                | Route::PublishSocket
                | Route::SubscribeSocket
                | Route::SessionSocket
                | Route::RoomsSocket
                | Route::EchoSocket
        )
    }
}

impl Routes {
    /// The table, ready for look-ups.
    ///
    /// # Errors
    /// When two rows of the table claim the same path: a mistake in this file.
    pub fn new() -> Result<Self, matchit::InsertError> {
        let mut router = matchit::Router::new();
        for row in TABLE {
            router.insert(row.0, row)?;
        }
        Ok(Routes { router })
    }

    /// The row for `path`, with or without a trailing slash, and the id in the path (empty where the path has none),
    /// still percent-encoded.
    pub fn find<'p>(&self, path: &'p str) -> Option<(&'static Row, &'p str)> {
        let path = path.strip_suffix('/').filter(|rest| !rest.is_empty()).unwrap_or(path);
        let found = self.router.at(path).ok()?;
        Some((found.value, found.params.get("id").unwrap_or("")))
    }
}

/// Every method of a row, as `Allow` lists them.
pub fn allow(row: &Row) -> String {
    let names = row.2.iter().flat_map(|(method, _)| match method {
        Method::Get => ["GET", "HEAD"].iter(),
        Method::Post => ["POST"].iter(),
        Method::Put => ["PUT"].iter(),
        Method::Delete => ["DELETE"].iter(),
    });
    names.chain(["OPTIONS"].iter()).copied().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_find_their_rows() {
        let routes = Routes::new().unwrap();
        let at = |path| routes.find(path).map(|(row, id)| (row.1, id));
        assert_eq!(at("/timers"), Some((Route::Timers, "")));
        assert_eq!(at("/timers/"), Some((Route::Timers, "")));
        assert_eq!(at("/timers/timer_1"), Some((Route::Timer, "timer_1")));
        assert_eq!(at("/timers/bulk"), Some((Route::Timer, "bulk")));
        assert_eq!(at("/timers/bulk/control"), Some((Route::TimerControl, "bulk")));
        assert_eq!(at("/timers/bulk/start/"), Some((Route::TimersBulk(Bulk::Start), "")));
        assert_eq!(at("/timers/bulk/reset"), None);
        assert_eq!(at("/timers/bulkhead/history"), Some((Route::TimerHistory, "bulkhead")));
        assert_eq!(at("/api/v1/events/evt_1"), Some((Route::Event, "evt_1")));
        assert_eq!(at("/events/"), Some((Route::Events, "")));
        assert_eq!(at("/api/v1/health"), None);
        assert_eq!(at("/ws/publish"), Some((Route::PublishSocket, "")));
        assert_eq!(at("/ws/publisher"), Some((Route::TimerSocket, "publisher")));
        assert_eq!(at("/ws/rooms/"), Some((Route::RoomsSocket, "")));
        assert_eq!(at("/ws"), None);
        assert_eq!(at("/ws/"), None);
        assert_eq!(at("/"), Some((Route::File("pages/index.html"), "")));
        assert_eq!(at("/room"), Some((Route::File("pages/room.html"), "")));
        assert_eq!(at("/room/"), Some((Route::File("pages/room.html"), "")));
        assert_eq!(at("/room/k3y"), Some((Route::File("pages/room.html"), "k3y")));
        assert_eq!(at("/wall/timer_1"), Some((Route::File("pages/wall.html"), "timer_1")));
        assert_eq!(at("/pages/clock.js"), Some((Route::PagePart, "clock.js")));
        assert_eq!(at("/pages/"), None);
        assert_eq!(at("/timer"), None);
        assert_eq!(at("/timers/a/b/c"), None);
    }

    #[test]
    fn allow_lists_every_method() {
        let routes = Routes::new().unwrap();
        assert_eq!(allow(routes.find("/timers").unwrap().0), "GET, HEAD, POST, OPTIONS");
        assert_eq!(allow(routes.find("/timers/x").unwrap().0), "GET, HEAD, DELETE, OPTIONS");
    }
}
