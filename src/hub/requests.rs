//! HTTP connections: bytes to requests, requests to answers, answers out in order.
//!
//! Owns the order of a connection's answers and the patience with its input. What a request means is the API's
//! business; when an answer may leave is custody's.
//!
//! Invariants: answers leave in the order of their requests; a read behind an unanswered change is not looked at
//! before that is answered, so that it sees the change; a connection with too many unanswered requests, or with too
//! much of an answer not yet taken, is not read.

use crate::api::answer::{error_text, unavailable};
use crate::api::{Outcome, Socket as Opened, World};
use crate::clock::Now;
use crate::domain::effects::Topic;
use crate::domain::staged::Hold;
use crate::hub::audience::Audience;
use crate::hub::conn::{ConnId, Framing, Listens, Outlet, Phase, Protocol, Reply, Socket};
use crate::hub::custody::{Held, Waiting};
use crate::hub::outbox::Frame;
use crate::hub::{Hub, RESTART, count};
use crate::limits::OUTBOX_BYTES_MAX;
use crate::wire::http::{self, Fault, Head, Input, Request, Response, Stage};

impl Hub {
    /// Looks at whatever whole requests the input holds.
    pub(super) fn pump(&mut self, now: Now, index: u32) {
        let mut handled = false;
        while let Some(input) = self.next_input(index) {
            handled = true;
            self.work_left = self.work_left.saturating_sub(1);
            match input {
                Input::Request(request) => self.handle_request(now, index, request),
                Input::Expect => self.handle_expectation(now, index),
                Input::Fault(fault) => self.handle_fault(now, index, fault),
            }
        }
        self.end_if_last(now, index);
        let Some(http) = self.conns.get_mut(index as usize).and_then(|conn| conn.http()) else { return };
        let stage = http.decoder.stage();
        if handled || stage != http.stage {
            http.since = now.mono;
            http.stage = stage;
        }
        let held = http.decoder.buffered() + http.next.as_ref().map_or(0, Request::buffered);
        let before = std::mem::replace(&mut http.booked_bytes, held);
        self.book(before, held);
        self.watch(index);
    }

    /// The next whole thing in the input that may be looked at now.
    fn next_input(&mut self, index: u32) -> Option<Input> {
        let conn = self.conns.get_mut(index as usize).filter(|conn| conn.phase == Phase::Open)?;
        let full = conn.outbox.bytes() >= OUTBOX_BYTES_MAX;
        let http = conn.http()?;
        if full || !http.takes_requests() {
            return None;
        }
        if self.work_left == 0 {
            // What is left of the input is looked at in the next turn; nothing more is read before.
            if !std::mem::replace(&mut http.parked, true) {
                self.parked.push_back(index);
            }
            return None;
        }
        let unanswered = !http.replies.is_empty();
        let input = match http.next.take() {
            Some(request) => Input::Request(request),
            None => http.decoder.next(|head| self.api.body_bytes_max(head, &self.engine))?,
        };
        match input {
            Input::Request(request) if unanswered && !need_not_wait(&request.head) => {
                http.next = Some(request);
                None
            }
            other => Some(other),
        }
    }

    fn handle_request(&mut self, now: Now, index: u32, request: Request) {
        self.metrics.requests.inc();
        let Some(conn) = self.conns.get_mut(index as usize) else { return };
        let id = ConnId { index, generation: conn.generation };
        let Some(http) = conn.http() else { return };
        let over = http.over || self.stopping;
        http.last |= over || !request.head.keep_alive();
        let peer = http.peer;
        let (audiences, feeds) = (&self.audiences, &self.feeds);
        let mut outcome = self.api.handle(
            &request,
            &mut World {
                now,
                peer,
                engine: &mut self.engine,
                chance: &mut self.chance,
                clients: &|topic| count(audiences, topic, Audience::counted),
                event_sockets: &|address| feeds.sockets_of(address),
                subscribers: feeds.subscribed(),
                limiter: &mut self.limiter,
                degraded: if over { Some("The server is full") } else { self.custody.degraded() },
                metrics: &self.metrics,
            },
        );
        if over {
            outcome = match outcome {
                Outcome::Upgrade(accept, _) if self.stopping => {
                    Outcome::Upgrade(accept, Opened::Refused(1012, RESTART.into()))
                }
                Outcome::Upgrade(accept, _) => Outcome::Upgrade(accept, Opened::Refused(1013, "Server full".into())),
                _ => {
                    let text = if self.stopping { "The server is restarting" } else { "The server is full" };
                    Outcome::Answer(self.api.finish(&request.head, unavailable(text)), Hold::Nothing)
                }
            };
        }
        match outcome {
            Outcome::Upgrade(accept, opened) => self.upgrade(now, index, accept, opened),
            Outcome::Answer(response, hold) => {
                let body_kib = u32::try_from(response.body.as_bytes().len() / 1024).unwrap_or(u32::MAX);
                self.work_left = self.work_left.saturating_sub(body_kib);
                let Some(number) = self.enqueue_reply(index) else { return };
                match hold {
                    Hold::Nothing => self.reply(now, id, number, &request.head, &response),
                    // Nobody would be told any more what has become of it.
                    _ if self.custody.is_hung() => {
                        let text = "The disk does not answer: ask again later";
                        let unknown = self.api.finish(&request.head, unavailable(text));
                        self.reply(now, id, number, &request.head, &unknown);
                    }
                    hold => {
                        self.engine.fx.burden(response.body.as_bytes().len());
                        let waiting = Waiting { conn: id, number, head: request.head };
                        self.custody.hold(hold, waiting, Held::Words(response));
                    }
                }
            }
            Outcome::Stream { head, serial, counted, retry_ms } => {
                self.open_stream(now, index, &request.head, &head, (serial, counted), retry_ms);
            }
            Outcome::Published(place) => {
                let Some(number) = self.enqueue_reply(index) else { return };
                let waiting = Waiting { conn: id, number, head: request.head };
                self.custody.hold(Hold::Gathering, waiting, Held::Event(place));
            }
            Outcome::Export(export, hold) => {
                let Some(number) = self.enqueue_reply(index) else { return };
                self.begin_export(now, Waiting { conn: id, number, head: request.head }, export, hold);
            }
            Outcome::Ask(query, hold) => {
                let Some(number) = self.enqueue_reply(index) else { return };
                if self.custody.takes_questions() {
                    self.custody.ask(hold, Waiting { conn: id, number, head: request.head }, query);
                } else {
                    let busy = self.api.finish(&request.head, unavailable("Too many reads at once"));
                    self.reply(now, id, number, &request.head, &busy);
                }
            }
        }
        // What time has brought about while the request was judged.
        self.publish(now);
    }

    /// A body is announced and waits for our word: the final answer if the head tells it, else `100 Continue`.
    fn handle_expectation(&mut self, now: Now, index: u32) {
        let Some(conn) = self.conns.get_mut(index as usize) else { return };
        let id = ConnId { index, generation: conn.generation };
        let Some(http) = conn.http() else { return };
        let Some(head) = http.decoder.head().cloned() else { return };
        let over = http.over || self.stopping;
        let refusal = if over { Some(unavailable("The server is full")) } else { self.api.judge(&head) };
        let Some(number) = self.enqueue_reply(index) else { return };
        match refusal {
            Some(response) => {
                // Whether the body comes all the same cannot be known: no other request can be read after it.
                self.end_after_this(index);
                self.reply(now, id, number, &head, &response);
            }
            None => self.release(now, id, number, http::CONTINUE.to_vec()),
        }
    }

    /// What came is no request: it is told so, and the connection ends.
    fn handle_fault(&mut self, now: Now, index: u32, fault: Fault) {
        self.metrics.connections_shed.inc();
        self.refuse(now, index, &error_text(fault.status(), fault.detail()));
    }

    /// The last answer of a connection, to a request that was not understood or not finished.
    pub(super) fn refuse(&mut self, now: Now, index: u32, response: &Response) {
        let Some(conn) = self.conns.get_mut(index as usize) else { return };
        let id = ConnId { index, generation: conn.generation };
        let Some(number) = self.enqueue_reply(index) else { return };
        self.end_after_this(index);
        let framing = Framing { version: http::Version::Http11, keep_alive: false, head_only: false };
        let response = response.clone().with("Cache-Control", "no-store".to_owned());
        let bytes = self.encode(now, framing, &response);
        self.release(now, id, number, bytes);
        self.end_if_last(now, index);
    }

    /// Takes the next place in the order of answers.
    fn enqueue_reply(&mut self, index: u32) -> Option<u32> {
        let http = self.conns.get_mut(index as usize)?.http()?;
        http.requests = http.requests.wrapping_add(1);
        http.replies.push_back(Reply { number: http.requests, bytes: None, has_more: false });
        Some(http.requests)
    }

    pub(super) fn end_after_this(&mut self, index: u32) {
        if let Some(http) = self.conns.get_mut(index as usize).and_then(|conn| conn.http()) {
            http.last = true;
        }
    }

    /// Answers the request `number`; the answer leaves when those before it have.
    pub(super) fn reply(&mut self, now: Now, id: ConnId, number: u32, head: &Head, response: &Response) {
        let bytes = self.head_of(now, id, number, head, response);
        self.release(now, id, number, bytes);
    }

    /// The bytes of an answer to the request `number`.
    pub(super) fn head_of(&mut self, now: Now, id: ConnId, number: u32, head: &Head, response: &Response) -> Vec<u8> {
        let Some(http) = self.live(id).and_then(|conn| conn.http()) else { return Vec::new() };
        let mut framing = Framing::of(head);
        framing.keep_alive &= !http.last || http.replies.back().is_some_and(|last| last.number != number);
        self.encode(now, framing, response)
    }

    /// Lets the answer `number` go, and those behind it that have waited only for their turn.
    fn release(&mut self, now: Now, id: ConnId, number: u32, bytes: Vec<u8>) {
        self.release_part(now, id, number, bytes, true);
    }

    /// Lets a part of the answer `number` go; when it is the last, those behind it that have waited only for their
    /// turn, too.
    pub(super) fn release_part(&mut self, now: Now, id: ConnId, number: u32, bytes: Vec<u8>, is_last: bool) {
        let Some(conn) = self.live(id) else { return };
        let was_empty = conn.outbox.is_empty();
        let Some(http) = conn.http() else { return };
        if was_empty {
            http.progress = now.mono;
        }
        if let Some(reply) = http.replies.iter_mut().find(|reply| reply.number == number) {
            reply.has_more = !is_last;
            match &mut reply.bytes {
                // It waits behind others, and so does what there was of it.
                Some(before) => before.extend_from_slice(&bytes),
                none => *none = Some(bytes),
            }
        }
        let before = conn.outbox.held_bytes();
        if conn.release_replies() {
            self.unsent_bytes += conn.outbox.held_bytes() - before;
            self.mark(id.index);
        }
        self.shed_unsent();
    }

    /// The other side has nothing more to say, or was told so: when all is answered, the connection ends.
    pub(super) fn end_if_last(&mut self, now: Now, index: u32) {
        let Some(conn) = self.conns.get_mut(index as usize).filter(|conn| conn.phase == Phase::Open) else { return };
        let Protocol::Http(http) = &conn.protocol else { return };
        // Whoever will send no more may still have sent requests that have not been looked at.
        let looked_at = !http.parked && conn.outbox.bytes() < OUTBOX_BYTES_MAX;
        let over = http.last || (http.eof && looked_at);
        if over && http.replies.is_empty() && http.next.is_none() {
            self.leave(now, index);
        }
    }

    pub(super) fn encode(&mut self, now: Now, framing: Framing, response: &Response) -> Vec<u8> {
        let mut bytes = Vec::new();
        let Framing { version, keep_alive, head_only } = framing;
        let date = self.date.at(now.wall);
        http::encode(response, date, self.api.common(), keep_alive, head_only, version, &mut bytes);
        bytes
    }

    fn upgrade(&mut self, now: Now, index: u32, accept: Vec<u8>, opened: Opened) {
        let Some(conn) = self.conns.get_mut(index as usize) else { return };
        let Some(http) = conn.http() else { return };
        let rest = http.decoder.take_rest();
        let booked = http.booked_bytes;
        self.unsent_bytes = self.unsent_bytes.saturating_sub(conn.outbox.held_bytes());
        conn.is_metered = false;
        conn.outbox.push_unbounded(Frame::lasting(accept));
        let id = ConnId { index, generation: conn.generation };
        conn.outlet = match opened {
            Opened::Subscriber { .. } => Outlet::Feed,
            Opened::Session { .. } => Outlet::Candidate,
            Opened::Guest { .. } => Outlet::Guest,
            _ => Outlet::Plain,
        };
        let listens = match opened {
            Opened::Publisher { address } => self.feeds.open_publisher(id, address),
            Opened::Subscriber { address } => self.feeds.open_subscriber(now, id, address),
            Opened::Timer { serial, counted } => Listens::Topic { topic: Topic::Timer(serial), counted },
            Opened::Session { serial, counted } => Listens::Topic { topic: Topic::Session(serial), counted },
            Opened::Guest { address } => self.guests.open(now, address),
            Opened::Echo => Listens::Echo,
            Opened::Refused(..) => Listens::Nothing,
        };
        conn.protocol = Protocol::Socket(Socket::new(now.mono, listens));
        self.book(booked, 0);
        self.metrics.websockets.inc();
        self.mark(index);
        match opened {
            Opened::Refused(code, reason) => self.close_socket(now, index, code, &reason),
            Opened::Publisher { .. } | Opened::Subscriber { .. } | Opened::Guest { .. } | Opened::Echo => {}
            Opened::Timer { .. } | Opened::Session { .. } => self.join(now, index),
        }
        self.watch(index);
        if !rest.is_empty() {
            self.receive(now, index, &rest);
        }
    }

    /// A connection that speaks HTTP has tried our patience.
    pub(super) fn lose_patience(&mut self, now: Now, index: u32) {
        let Some(conn) = self.conns.get_mut(index as usize) else { return };
        let sending = !conn.outbox.is_empty();
        let Some(http) = conn.http() else { return };
        match http.stage {
            _ if sending => {
                self.metrics.slow_clients.inc();
                self.kill(index);
            }
            // Nobody waits for an answer.
            Stage::Idle => self.leave(now, index),
            Stage::Head | Stage::Body => {
                self.metrics.connections_shed.inc();
                self.refuse(now, index, &error_text(408, "The request did not finish in time"));
            }
        }
    }
}

/// Whether this request may be judged while those before it on the connection wait for the disk. A read may not: it
/// must see what they have done. Changes may, as each is judged against the latest state, and so may a preflight, which
/// sees nothing.
fn need_not_wait(head: &Head) -> bool {
    matches!(head.method.as_str(), "POST" | "PUT" | "DELETE" | "OPTIONS")
}
