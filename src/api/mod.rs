//! The API: requests into commands, verdicts and messages into JSON.
//!
//! Owns the contract's order of checks (route, method, key, role, body, existence, precondition, state) and
//! everything that is JSON: here what needs a request's head alone, in the file of each service its calls. It knows
//! no connection and no socket: it takes a whole request and the [`World`], and gives an [`Outcome`] that the hub
//! carries out. The only room that knows serde.

pub mod answer;
pub mod assessments;
pub mod chance;
pub mod delivery;
pub mod documents;
pub mod events;
pub mod form;
pub mod guard;
pub mod pages;
pub mod precondition;
pub mod rates;
pub mod raw;
mod replays;
pub mod results;
pub mod rooms;
pub mod routes;
pub mod time;
pub mod timers;

use std::net::IpAddr;

use crate::clock::Now;
use crate::domain::Engine;
use crate::domain::disk::{Answer as Answered, Query};
use crate::domain::effects::Topic;
use crate::domain::events::Stored;
use crate::domain::staged::Hold;
use crate::keys::Role;
use crate::limits::*;
use crate::metrics::Metrics;
use crate::wire::http::{Head, Request, Response};
use crate::wire::ws;
use answer::{error_text, faults, unavailable};
use chance::Chance;
use events::Speller;
use guard::{Barred, Caller, Guard};
use rates::Limiter;
use results::Export;
use routes::{Access, Method, Route, Routes, SessionCall, allow};

/// What a request may touch.
pub struct World<'a> {
    /// The time of this turn.
    pub now: Now,
    /// Who is at the other end of the line.
    pub peer: IpAddr,
    /// Everything that is true.
    pub engine: &'a mut Engine,
    /// Where ids come from.
    pub chance: &'a mut Chance,
    /// How many clients of a topic count against its limit.
    pub clients: &'a dyn Fn(Topic) -> u32,
    /// How many sockets of publishers and subscribers an address has open.
    pub event_sockets: &'a dyn Fn(IpAddr) -> u32,
    /// How many subscribers there are.
    pub subscribers: u32,
    /// How often who has asked.
    pub limiter: &'a mut Limiter,
    /// Why commands cannot be carried out, while that is so.
    pub degraded: Option<&'a str>,
    /// What is counted.
    pub metrics: &'a Metrics,
}

impl World<'_> {
    /// What must be durable before the disk knows all that has been shown. While the store cannot be written, it is
    /// asked for what it has.
    fn catch_up(&self) -> Hold {
        match self.degraded {
            None if self.engine.fx.gathered() > 0 => Hold::Gathering,
            None if self.engine.is_writing() => Hold::Writing,
            _ => Hold::Nothing,
        }
    }

    /// Whether anything can be changed.
    ///
    /// # Errors
    /// 503: it cannot, for now.
    pub(super) fn takes_commands(&self) -> Result<(), Response> {
        match self.degraded {
            Some(why) => Err(unavailable(&format!("{why}: nothing was changed"))),
            None if self.engine.fx.is_full() => Err(unavailable("Too many changes at once: nothing was changed")),
            None => Ok(()),
        }
    }

    fn router(&self) -> serde_json::Value {
        events::router(self.subscribers, self.engine.events.queued())
    }
}

/// What is to be done about a request.
pub enum Outcome {
    /// Send this, when the batch it tells of is durable.
    Answer(Response, Hold),
    /// Send the event at this place among those that the gathering batch publishes, when it has its number.
    Published(u32),
    /// Ask the disk, when the batch it asks about is durable, and render what it says.
    Ask(Query, Hold),
    /// Send this page by page, from when the batch it tells of is durable.
    Export(Export, Hold),
    /// Complete the upgrade with these bytes, then open the socket.
    Upgrade(Vec<u8>, Socket),
    /// Send this head, and then every message of the timer.
    Stream {
        /// The head of the answer.
        head: Response,
        /// The timer's serial number.
        serial: u32,
        /// Whether it takes one of the timer's places: an instructor's does not.
        counted: bool,
        /// How long the client is to wait before it comes back, in milliseconds.
        retry_ms: u32,
    },
}

/// What is on the other side of a completed upgrade.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Socket {
    /// The messages of one timer.
    Timer {
        /// Which.
        serial: u32,
        /// Whether it takes one of the timer's places: an instructor's does not.
        counted: bool,
    },
    /// The messages of one session.
    Session {
        /// Which.
        serial: u32,
        /// Whether it takes one of the session's places: an instructor's does not.
        counted: bool,
    },
    /// Events come in.
    Publisher {
        /// From this address.
        address: IpAddr,
    },
    /// Events go out.
    Subscriber {
        /// To this address.
        address: IpAddr,
    },
    /// Somebody who may make a room, or join one.
    Guest {
        /// At this address.
        address: IpAddr,
    },
    /// Whatever is said comes back.
    Echo,
    /// A close frame: a browser cannot read an HTTP status here.
    Refused(u16, std::borrow::Cow<'static, str>),
}

/// What an answer of the disk is put into words with.
pub struct Words<'a> {
    /// Writes events.
    pub speller: &'a mut Speller,
    /// What the router is doing.
    pub router: serde_json::Value,
    /// The time of this turn.
    pub now: Now,
    /// Everything that is true.
    pub engine: &'a mut Engine,
}

/// The API's rules, fixed at start but for the keys.
pub struct Api {
    /// Who may ask.
    pub guard: Guard,
    routes: Routes,
    limits: Limits,
    common: String,
}

/// How much an operator allows.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Clients of one timer.
    pub clients_per_timer: u32,
    /// Sockets of publishers and subscribers from one address. `None`: any number.
    pub sockets_per_address: Option<u32>,
}

impl Api {
    /// The API under these rules.
    ///
    /// # Errors
    /// When the table of routes contradicts itself.
    pub fn new(guard: Guard, limits: Limits) -> Result<Self, matchit::InsertError> {
        let mut common = String::from(
            "X-Content-Type-Options: nosniff\r\n\
             X-Frame-Options: DENY\r\n\
             X-XSS-Protection: 1; mode=block\r\n\
             Referrer-Policy: strict-origin-when-cross-origin\r\n\
             Content-Security-Policy: default-src 'self'\r\n\
             Access-Control-Expose-Headers: ETag, Location, Retry-After\r\n",
        );
        if guard.origins.is_empty() {
            common.push_str("Access-Control-Allow-Origin: *\r\n");
        }
        pages::prepare();
        Ok(Api { guard, routes: Routes::new()?, limits, common })
    }

    /// The header lines of every answer.
    pub fn common(&self) -> &str {
        &self.common
    }

    /// Bytes that the body of this request may have.
    pub fn body_bytes_max(&self, head: &Head, engine: &Engine) -> usize {
        match self.routes.find(&head.path) {
            // Strangers do not get to fill the memory for unfinished input with bodies of this size.
            Some(((_, route, _), id)) if self.admit(head).is_ok() => match route {
                Route::Events => EVENT_BODY_BYTES_MAX,
                Route::Assessment => ASSESSMENT_BYTES_MAX,
                Route::SessionAct(SessionCall::Answer) => ANSWER_BYTES_MAX,
                Route::SessionAct(SessionCall::Submit) if engine.delivery.serial_of(id).is_some() => SUBMIT_BYTES_MAX,
                _ => BODY_BYTES_MAX,
            },
            _ => BODY_BYTES_MAX,
        }
    }

    /// Whether a body is worth sending: the final answer, if it can be told from the head alone.
    pub fn judge(&self, head: &Head) -> Option<Response> {
        match self.admit(head) {
            Ok(_) => None,
            Err(response) => Some(self.finish(head, response)),
        }
    }

    /// Answers a whole request.
    pub fn handle(&self, request: &Request, world: &mut World<'_>) -> Outcome {
        let outcome = match self.admit(&request.head) {
            Err(response) => {
                if let 401 | 403 = response.status {
                    let address = self.guard.address(&request.head, world.peer);
                    log::debug!(address:%, status = response.status; "refused {}", request.head.path);
                }
                Outcome::Answer(response, Hold::Nothing)
            }
            Ok(Admitted { route, id, caller }) => self.dispatch(route, &id, &caller, request, world),
        };
        match outcome {
            Outcome::Answer(response, hold) => Outcome::Answer(self.finish(&request.head, response), hold),
            other => other,
        }
    }

    /// Answers with what the disk said to `query`.
    pub fn render(&self, head: &Head, answered: Result<Answered, String>, words: &mut Words<'_>) -> Response {
        let response = match answered {
            Ok(Answered::History(Some(entries))) => timers::history(&entries),
            Ok(Answered::History(None)) => timers::not_found(),
            Ok(Answered::Replay(replay)) => replays::replayed(replay),
            Ok(Answered::ReplayedEvent(stored)) => replays::replayed_event(stored.as_ref(), words.speller),
            Ok(Answered::Event(stored)) => words.speller.found(stored.as_ref()),
            Ok(Answered::Events(Ok(page))) => words.speller.page(&page),
            Ok(Answered::Events(Err(gone))) => events::gone(gone),
            Ok(Answered::EventStats(stats)) => events::stats(&stats, words.router.clone()),
            Ok(Answered::Forgotten(deleted)) => events::forgotten(deleted),
            Ok(Answered::Responses(serial, responses)) => {
                let Engine { delivery, fx, .. } = &mut *words.engine;
                let second = delivery.second();
                match delivery.shown_by_serial(words.now, serial, fx) {
                    Some(session) => delivery::whole(session, &responses, words.now, second),
                    None => delivery::not_found(&self.id_in(head)),
                }
            }
            // Only a long answer asks for these, and they are put into its words.
            Ok(Answered::Results(_)) => error_text(404, "Not Found"),
            Err(why) => unavailable(&format!("The store cannot be read: {why}")),
        };
        self.finish(head, response)
    }

    /// The id in a path.
    fn id_in(&self, head: &Head) -> String {
        self.routes.find(&head.path).map_or(String::new(), |(_, id)| form::percent_decode(id))
    }

    /// Answers a publication, which is durable.
    pub fn published(&self, head: &Head, stored: &Stored, speller: &mut Speller) -> Response {
        self.finish(head, speller.created(stored))
    }

    /// An answer that belongs to no route: to a fault, or from a server that is full.
    pub fn finish(&self, head: &Head, response: Response) -> Response {
        let response = match self.guard.allow_origin(head) {
            Some("*") => response,
            Some(origin) => response.with("Access-Control-Allow-Origin", origin.to_owned()),
            None => response,
        };
        // Whoever keeps the answer must not give it to another origin.
        let any_origin = self.guard.origins.is_empty();
        let response = if any_origin { response } else { response.with("Vary", "Origin".to_owned()) };
        if response.headers.iter().any(|(name, _)| *name == "Cache-Control") {
            response
        } else {
            response.with("Cache-Control", "no-store".to_owned())
        }
    }

    // -----------------------------------------------------------------------------------------------------------
    // The checks that need no body: 404, 405, 426, 401, 403.

    fn admit(&self, head: &Head) -> Result<Admitted, Response> {
        let preflight = head.method == "OPTIONS"
            && head.header("origin").is_some()
            && head.header("access-control-request-method").is_some();
        if preflight {
            return Err(self.preflight(head));
        }
        if head.method == "OPTIONS" && head.path == "*" {
            return Err(answer::no_content().with("Allow", "GET, HEAD, POST, PUT, DELETE, OPTIONS".to_owned()));
        }
        let Some((row, id)) = self.routes.find(&head.path) else {
            return Err(error_text(404, "Not Found"));
        };
        let method = match head.method.as_str() {
            "GET" | "HEAD" => Some(Method::Get),
            "POST" => Some(Method::Post),
            "PUT" => Some(Method::Put),
            "DELETE" => Some(Method::Delete),
            "OPTIONS" => return Err(answer::no_content().with("Allow", allow(row))),
            _ => None,
        };
        let Some((_, access)) = row.2.iter().find(|(known, _)| Some(*known) == method) else {
            return Err(error_text(405, "Method Not Allowed").with("Allow", allow(row)));
        };
        let socket = row.1.is_socket();
        if socket && !ws::wants_upgrade(head) {
            let text = "This path is a WebSocket";
            return Err(error_text(426, text)
                .with("Upgrade", "websocket".to_owned())
                .with("Connection", "Upgrade".to_owned()));
        }
        if !socket && ws::wants_upgrade(head) {
            return Err(error_text(400, "This path is no WebSocket"));
        }
        let caller = self.guard.caller(head, row.1.takes_key_in_query());
        // A socket is refused by a close code, once it is open.
        match self.guard.admit(&caller, if socket { Access::Open } else { *access }) {
            Ok(()) => {}
            Err(Barred::Unknown) => {
                return Err(
                    error_text(401, "Invalid or missing API key").with("WWW-Authenticate", "Bearer".to_owned())
                );
            }
            Err(Barred::TooSmall) => return Err(error_text(403, "This key's role does not allow that")),
        }
        let id = form::percent_decode(id);
        let route = row.1;
        Ok(Admitted { route, id, caller })
    }

    fn preflight(&self, head: &Head) -> Response {
        if self.guard.allow_origin(head).is_none() {
            return error_text(403, "Origin not allowed");
        }
        let asked = head.headers("access-control-request-headers").collect::<Vec<_>>().join(", ");
        answer::no_content()
            .with("Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, DELETE, OPTIONS".to_owned())
            .with("Access-Control-Allow-Headers", if asked.is_empty() { "*".to_owned() } else { asked })
            .with("Access-Control-Max-Age", PREFLIGHT_AGE_S.to_string())
    }

    // -----------------------------------------------------------------------------------------------------------

    fn dispatch(&self, route: Route, id: &str, caller: &Caller, request: &Request, world: &mut World<'_>) -> Outcome {
        let head = &request.head;
        let is = |method: &str| head.method == method;
        let done = match route {
            Route::Health => Ok(documents::health(world.engine.timers.len())),
            Route::Readiness => Ok(documents::readiness(world.engine.timers.len(), world.router(), world.degraded)),
            Route::Metrics => Ok(documents::metrics(world.metrics, world.engine)),
            Route::File(path) => Ok(pages::file(path, head)),
            Route::PagePart => Ok(pages::part(id, head)),
            Route::Timers if !is("POST") => self.list(&head.query, world),
            Route::Timer if !is("DELETE") => Ok(self.read(id, world)),
            Route::TimerHistory => {
                return match timers::history_page(&head.query) {
                    Ok((after, limit)) if id.chars().count() <= ID_CHARS_MAX => {
                        Outcome::Ask(Query::History { timer: id.into(), after, limit }, world.catch_up())
                    }
                    Ok(_) => Outcome::Answer(timers::not_found(), Hold::Nothing),
                    Err(found) => Outcome::Answer(faults(&found), Hold::Nothing),
                };
            }
            Route::TimerSocket
            | Route::PublishSocket
            | Route::SubscribeSocket
            | Route::SessionSocket
            | Route::RoomsSocket
            | Route::EchoSocket => {
                return self.upgrade(route, id, caller, head, world);
            }
            Route::TimerStream => return self.stream(id, caller, head, world),
            Route::Assessments => Ok(self.assessments(world)),
            Route::Assessment if is("PUT") => return self.put_assessment(id, request, world),
            Route::Assessment if is("DELETE") => return self.remove_assessment(id, world),
            Route::Assessment => Ok(self.assessment(id, world)),
            Route::AssessmentSessions => return self.sessions(id, &head.query, world),
            Route::AssessmentResults => return self.results(id, head, world),
            Route::AssessmentBulk(call) => return self.act_on_all(call, id, caller, request, world),
            Route::Candidate if is("PUT") => return self.put_candidate(id, request, world),
            Route::Candidate => Ok(self.candidate(id, world)),
            Route::SessionStart => return self.start(id, caller, request, world),
            Route::Session => return self.session(id, world),
            Route::SessionCurrent => Ok(self.current(id, world)),
            Route::SessionAct(call) => return self.act(call, id, caller, request, world),
            Route::Room => Ok(self.room(id, world)),
            Route::EventTypes => Ok(events::kinds()),
            Route::Events if is("POST") => return self.publish(&caller.actor, request, world),
            Route::Events | Route::Event | Route::EventStats => {
                let asked = self.events(route, id, head, world);
                return asked.unwrap_or_else(|response| Outcome::Answer(response, Hold::Nothing));
            }
            Route::Timers | Route::Timer | Route::TimerControl | Route::TimersBulk(_) => {
                return self.change(route, id, &caller.actor, request, world);
            }
        };
        Outcome::Answer(done.unwrap_or_else(|found| faults(&found)), Hold::Nothing)
    }

    fn upgrade(&self, route: Route, id: &str, caller: &Caller, head: &Head, world: &mut World<'_>) -> Outcome {
        let accept = match ws::handshake(head, &self.common) {
            Ok(accept) => accept,
            Err(fault) => {
                let mut response = error_text(fault.status(), fault.detail());
                response.headers.extend(fault.headers().iter().map(|(name, value)| (*name, (*value).to_owned())));
                return Outcome::Answer(response, Hold::Nothing);
            }
        };
        let events = matches!(route, Route::PublishSocket | Route::SubscribeSocket);
        let access = match route {
            Route::SessionSocket => Access::Candidate,
            Route::RoomsSocket => Access::Open,
            _ if events => Access::Key(Role::Instructor),
            _ => Access::Key(Role::Viewer),
        };
        let socket = if !self.guard.admits_socket_from(head) {
            Socket::Refused(4009, "Origin not allowed".into())
        } else if route == Route::EchoSocket {
            Socket::Echo
        } else if self.guard.admit(caller, access).is_err() {
            Socket::Refused(4001, "Unauthorized".into())
        } else if route == Route::RoomsSocket {
            match world.engine.rooms.are_open() {
                true => Socket::Guest { address: self.guard.address(head, world.peer) },
                false => Socket::Refused(4004, "Rooms are off".into()),
            }
        } else if events {
            let address = rates::network(self.guard.address(head, world.peer));
            match self.limits.sockets_per_address {
                Some(most) if (world.event_sockets)(address) >= most => {
                    Socket::Refused(4002, "Too many connections".into())
                }
                _ if route == Route::PublishSocket => Socket::Publisher { address },
                _ => Socket::Subscriber { address },
            }
        } else if route == Route::SessionSocket {
            let Engine { delivery, fx, .. } = &mut *world.engine;
            let counted = caller.is_counted();
            match delivery.shown(world.now, id, fx) {
                None => Socket::Refused(4004, "Session not found".into()),
                Some(session) if !session.state.is_active() => {
                    Socket::Refused(4003, format!("Session not active (state: {})", session.state.name()).into())
                }
                Some(session)
                    if counted && (world.clients)(Topic::Session(session.serial)) >= SOCKETS_PER_SESSION =>
                {
                    Socket::Refused(4029, "Too many connections".into())
                }
                Some(session) => Socket::Session { serial: session.serial, counted },
            }
        } else {
            let Engine { timers: all, fx, .. } = &mut *world.engine;
            let counted = caller.is_counted();
            match all.shown(world.now, id, fx).map(|timer| timer.serial) {
                None => Socket::Refused(4004, "Timer not found".into()),
                Some(serial) if counted && (world.clients)(Topic::Timer(serial)) >= self.limits.clients_per_timer => {
                    Socket::Refused(4029, "Too many connections".into())
                }
                Some(serial) => Socket::Timer { serial, counted },
            }
        };
        Outcome::Upgrade(accept, socket)
    }
}

/// A request that may be asked.
struct Admitted {
    route: Route,
    id: String,
    caller: Caller,
}
