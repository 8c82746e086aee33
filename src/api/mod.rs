//! The API: requests into commands, verdicts and messages into JSON.
//!
//! Owns the contract's order of checks (route, method, key, role, body, existence, precondition, state) and everything
//! that is JSON. It knows no connection and no socket: it takes a whole request and the [`World`], and gives an
//! [`Outcome`] that the hub carries out. The only room that knows serde.

pub mod answer;
pub mod chance;
pub mod documents;
pub mod events;
pub mod form;
pub mod guard;
pub mod precondition;
pub mod rates;
pub mod raw;
mod replays;
pub mod routes;
pub mod time;
pub mod timers;

use std::net::IpAddr;

use crate::clock::Now;
use crate::domain::Engine;
use crate::domain::disk::{Answer as Answered, Query};
use crate::domain::effects::Topic;
use crate::domain::events::Stored;
use crate::domain::history::Actor;
use crate::domain::staged::Hold;
use crate::domain::timers::{Blueprint, Verdict};
use crate::keys::Role;
use crate::limits::*;
use crate::metrics::Metrics;
use crate::wire::http::{Head, Request, Response};
use crate::wire::ws;
use answer::{error_text, faults, unavailable};
use chance::Chance;
use events::{Amiss, Speller};
use form::Fault;
use guard::{Barred, Caller, Guard};
use precondition::IfMatch;
use rates::{Group, Limiter};
use routes::{Access, Method, Route, Routes, allow};

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
    /// Complete the upgrade with these bytes, then open the socket.
    Upgrade(Vec<u8>, Socket),
}

/// What is on the other side of a completed upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Socket {
    /// The messages of one timer.
    Timer {
        /// Which.
        serial: u32,
        /// Whether it takes one of the timer's places: an instructor's does not.
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
    /// Whatever is said comes back.
    Echo,
    /// A close frame: a browser cannot read an HTTP status here.
    Refused(u16, &'static str),
}

/// What an answer of the disk is put into words with.
pub struct Words<'a> {
    /// Writes events.
    pub speller: &'a mut Speller,
    /// What the router is doing.
    pub router: serde_json::Value,
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
        Ok(Api { guard, routes: Routes::new()?, limits, common })
    }

    /// The header lines of every answer.
    pub fn common(&self) -> &str {
        &self.common
    }

    /// Bytes that the body of this request may have.
    pub fn body_bytes_max(&self, head: &Head) -> usize {
        match self.routes.find(&head.path) {
            Some(((_, Route::Events, _), _)) => EVENT_BODY_BYTES_MAX,
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
            Err(why) => unavailable(&format!("The store cannot be read: {why}")),
        };
        self.finish(head, response)
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
            return Err(answer::no_content().with("Allow", "GET, HEAD, POST, DELETE, OPTIONS".to_owned()));
        }
        let Some((row, id)) = self.routes.find(&head.path) else {
            return Err(error_text(404, "Not Found"));
        };
        let method = match head.method.as_str() {
            "GET" | "HEAD" => Some(Method::Get),
            "POST" => Some(Method::Post),
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
        let caller = self.guard.caller(head, socket);
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
            .with("Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS".to_owned())
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
            Route::Metrics => Ok(documents::metrics(world.metrics, world.engine.timers.len())),
            Route::OpenApi => Ok(documents::openapi()),
            Route::Docs(asset) => Ok(documents::docs(asset)),
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
            Route::TimerSocket | Route::PublishSocket | Route::SubscribeSocket | Route::EchoSocket => {
                return self.upgrade(route, id, caller, head, world);
            }
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

    fn list(&self, query: &str, world: &mut World<'_>) -> Result<Response, Vec<Fault>> {
        let wanted = timers::state_filter(query)?;
        let Engine { timers: all, fx, .. } = &mut *world.engine;
        let second = all.second();
        let shown = all.shown_all(world.now, fx).filter(|timer| wanted.is_none_or(|state| timer.state == state));
        let objects: Vec<_> = shown
            .map(|timer| timers::object(timer, world.now, second, (world.clients)(Topic::Timer(timer.serial))))
            .collect();
        Ok(answer::json(200, &objects))
    }

    fn read(&self, id: &str, world: &mut World<'_>) -> Response {
        let Engine { timers: all, fx, .. } = &mut *world.engine;
        let second = all.second();
        match all.shown(world.now, id, fx) {
            Some(timer) => {
                let clients = (world.clients)(Topic::Timer(timer.serial));
                answer::json(200, &timers::object(timer, world.now, second, clients))
                    .with("ETag", timers::etag(timer.revision))
            }
            None => timers::not_found(),
        }
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
        let least = if events { Role::Instructor } else { Role::Viewer };
        let socket = if !self.guard.admits_socket_from(head) {
            Socket::Refused(4009, "Origin not allowed")
        } else if route == Route::EchoSocket {
            Socket::Echo
        } else if self.guard.admit(caller, Access::Key(least)).is_err() {
            Socket::Refused(4001, "Unauthorized")
        } else if events {
            let address = rates::network(self.guard.address(head, world.peer));
            match self.limits.sockets_per_address {
                Some(most) if (world.event_sockets)(address) >= most => Socket::Refused(4002, "Too many connections"),
                _ if route == Route::PublishSocket => Socket::Publisher { address },
                _ => Socket::Subscriber { address },
            }
        } else {
            let Engine { timers: all, fx, .. } = &mut *world.engine;
            let counted = caller.role.is_none_or(|role| role < Role::Instructor);
            match all.shown(world.now, id, fx).map(|timer| timer.serial) {
                None => Socket::Refused(4004, "Timer not found"),
                Some(serial) if counted && (world.clients)(Topic::Timer(serial)) >= self.limits.clients_per_timer => {
                    Socket::Refused(4029, "Too many connections")
                }
                Some(serial) => Socket::Timer { serial, counted },
            }
        };
        Outcome::Upgrade(accept, socket)
    }

    // -----------------------------------------------------------------------------------------------------------
    // Events.

    /// Reads and deletions, which only the disk can do.
    fn events(&self, route: Route, id: &str, head: &Head, world: &mut World<'_>) -> Result<Outcome, Response> {
        let amiss = |amiss| match amiss {
            Amiss::Faults(found) => faults(&found),
            Amiss::Words(text) => error_text(400, text),
        };
        let (group, query) = match route {
            Route::Events if head.method == "DELETE" => {
                (Group::Admin, Query::ForgetEvents(events::extent(&head.query).map_err(amiss)?))
            }
            Route::Events => (Group::Query, Query::Events(events::search(&head.query).map_err(amiss)?)),
            Route::EventStats => (Group::Query, Query::EventStats(world.now.wall - HOUR)),
            _ => (Group::Query, Query::Event(events::seq_of(id, world.engine.events.names()).unwrap_or(0))),
        };
        self.count(group, head, world)?;
        if let (Group::Admin, Some(why)) = (group, world.degraded) {
            return Err(unavailable(why));
        }
        // No disk knows of numbers that were never given.
        if matches!(query, Query::Event(seq) if seq == 0 || seq > world.engine.events.last_seq()) {
            return Err(events::not_found());
        }
        Ok(Outcome::Ask(query, world.catch_up()))
    }

    fn publish(&self, actor: &Actor, request: &Request, world: &mut World<'_>) -> Outcome {
        let refused = |response| Outcome::Answer(response, Hold::Nothing);
        let stub = match replays::first_time(request, actor, world) {
            Ok(stub) => stub,
            Err(outcome) => return outcome,
        };
        let event = match events::event(&request.body, world.now.wall) {
            Ok(event) => event,
            Err(found) => return refused(faults(&found)),
        };
        if let Err(response) = self.count(Group::Publish, &request.head, world) {
            return refused(response);
        }
        match events::publish(event, world.engine, world.degraded) {
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

    // -----------------------------------------------------------------------------------------------------------
    // Changes: everything that is checked before anything is done, then done at once.

    fn change(&self, route: Route, id: &str, actor: &Actor, request: &Request, world: &mut World<'_>) -> Outcome {
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
        if let Some(why) = world.degraded {
            return now(unavailable(why));
        }
        if world.engine.fx.gathered() >= BATCH_RECORDS_MAX {
            return now(unavailable("Too many changes at once: nothing was changed"));
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
                    answer::json(status, &timers::object(timer, now, second, clients))
                        .with("ETag", timers::etag(timer.revision))
                }
                Err(refusal) => timers::refused(refusal),
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
                    Err(refusal) => timers::refused(&refusal),
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
                    Err(refusal) => timers::refused(&refusal),
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
                    lines.push(timers::bulk_line(id, action, &verdict.outcome));
                }
                let changed = lines.iter().any(|line| line.success);
                Done { response: answer::json(200, &lines), hold, changed }
            }
        }
    }
}

/// A request that may be asked.
struct Admitted {
    route: Route,
    id: String,
    caller: Caller,
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
    Control(Option<crate::domain::timers::Action>),
    Delete,
    Bulk(Vec<String>, Option<crate::domain::timers::Action>),
}

impl Command {
    fn read(route: Route, request: &Request, now: Now) -> Result<Self, Vec<Fault>> {
        if route == Route::Timer {
            return Ok(Command::Delete);
        }
        let body = form::parse(&request.body)?;
        match route {
            Route::TimersBulk(op) => {
                let call = timers::bulk(op, &body, &request.head.query)?;
                Ok(Command::Bulk(call.ids.into_iter().map(str::to_owned).collect(), call.action))
            }
            Route::TimerControl => timers::control(&body).map(Command::Control),
            _ => timers::blueprint(&body, now).map(Command::Create),
        }
    }
}
