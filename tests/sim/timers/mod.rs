//! An exam: instructors, students, and the judgement of what both are told about timers.
//!
//! Owns the people of the timer service, what they ask and how they behave, and compares every byte they get with the
//! [`model`]. It is a [`Witness`] of the world; it learns what the daemon does only from what clients see and what
//! goes to the disk.

pub mod model;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt::{self, Write as _};
use std::rc::Rc;

use serde_json::Value;
use timerd::clock::{Now, WallMs};
use timerd::domain::disk::{Done, Image};
use timerd::domain::effects::Batch;
use timerd::domain::history::Action;
use timerd::domain::timers::State;
use timerd::hub::Hub;
use timerd::limits::*;

use crate::net::{Net, Pace};
use crate::peer::{self, Answer, Frame};
use crate::rng::Rng;
use crate::world::{Witness, World, violated};
use model::{Face, Left, Model, Noun, ms_up};

/// What an exam is like.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Timers that instructors aim at.
    pub timers: usize,
    /// Timers that the daemon takes.
    pub timers_max: u32,
    /// Connections of instructors.
    pub desks: usize,
    /// Students of a timer, at most.
    pub students: u64,
    /// Clients of a timer that the daemon takes.
    pub clients_per_timer: u32,
    /// Seconds a timer lasts, at most.
    pub duration_s: u64,
    /// Things people do in a second, all together.
    pub deeds_per_s: u64,
    /// The outage policy is to freeze.
    pub freeze: bool,
    /// How long finished timers are kept.
    pub keep_ms: Option<u64>,
    /// Per cent of requests that are nonsense.
    pub nonsense: u64,
    /// One timer is pestered with commands.
    pub storm: bool,
}

/// What a request is for, and so what its answer may be.
#[derive(Clone, Debug)]
enum Kind {
    Create {
        name: String,
        state: State,
        duration_s: u64,
    },
    Control {
        claim: String,
    },
    Delete,
    Bulk {
        claim: String,
    },
    Get,
    List,
    History,
    /// The answer is one of these, and nothing changes.
    Only(&'static [u16]),
}

/// A request on its way.
#[derive(Clone)]
struct Request {
    kind: Kind,
    /// The timers it is about.
    ids: Rc<[String]>,
    bytes: Rc<[u8]>,
    /// Which bytes of the line are its last.
    end: u64,
    sent_turn: u64,
    delivered_turn: Option<u64>,
    head_only: bool,
    /// The use of an idempotency key that it belongs to.
    key: Option<usize>,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Request { kind, sent_turn, delivered_turn, .. } = self;
        let text = String::from_utf8_lossy(&self.bytes);
        write!(f, "{kind:?}, sent in turn {sent_turn}, delivered in {delivered_turn:?}: {text:?}")
    }
}

/// A use of an idempotency key.
#[derive(Debug)]
struct KeyUse {
    key: String,
    request: Request,
    /// The first answer, to whichever of the twins it came first.
    answer: Option<(u16, Vec<u8>, Option<String>)>,
    /// The one that is no replay has come.
    first: bool,
    /// A request went astray that may have been carried out.
    lost: bool,
}

/// An instructor's connection.
#[derive(Debug)]
struct Desk {
    line: usize,
    asks: VecDeque<Request>,
    sent: u64,
    /// Nothing more will be asked here.
    last: bool,
}

/// How a student behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// Reads everything at once, answers pings, never leaves.
    Faithful,
    /// As that, talks, and leaves some day.
    Lively,
    /// Reads little and seldom.
    Slow,
    /// Reads nothing until the exam is over.
    Asleep,
    /// Breaks the rules of conversation.
    Rude,
    /// Opens a socket and is gone.
    Ghost,
}

/// A student's socket.
#[derive(Debug)]
struct Seat {
    line: usize,
    id: String,
    manner: Manner,
    /// He listens to an event stream, and not at a socket.
    is_stream: bool,
    /// What the last event was called.
    event_id: Option<u64>,
    /// Bytes of the request.
    request: u64,
    joined: Option<u64>,
    upgraded: bool,
    greeted: bool,
    /// How much of the timer's log it has heard. `None`: it cannot be told.
    cursor: Option<usize>,
    told_at: u64,
    heard_at: u64,
    pings: u64,
    syncs: u64,
    sins: u32,
    closed: Option<u16>,
    /// Since when more waits for it than an outbox holds.
    over_since: Option<u64>,
    gone: bool,
}

/// An exam with everybody in it.
pub struct Exam {
    plan: Plan,
    /// What timers are.
    pub model: Model,
    rng: Rng,
    desks: Vec<Desk>,
    seats: Vec<Seat>,
    keys: Vec<KeyUse>,
    names: u64,
    /// Changes acknowledged by revision.
    acked: HashSet<(String, u64)>,
    /// Changes acknowledged without one: how many of each.
    claims: BTreeMap<(String, String), u64>,
    /// Changes that may have been made.
    lost: BTreeMap<(String, String), u64>,
    /// What anybody has seen of each timer: its highest revision.
    seen: HashMap<String, u64>,
    quiet: bool,
    previous: u64,
    /// What happened, for whoever wonders whether anything did.
    pub tally: BTreeMap<&'static str, u64>,
    storm_id: Option<String>,
}

impl Exam {
    /// Nobody is there yet.
    pub fn new(plan: Plan, rng: Rng) -> Self {
        Exam {
            model: Model::new(plan.freeze, plan.keep_ms),
            plan,
            rng,
            desks: Vec::new(),
            seats: Vec::new(),
            keys: Vec::new(),
            names: 0,
            acked: HashSet::new(),
            claims: BTreeMap::new(),
            lost: BTreeMap::new(),
            seen: HashMap::new(),
            quiet: false,
            previous: 0,
            tally: BTreeMap::new(),
            storm_id: None,
        }
    }

    fn count(&mut self, what: &'static str) {
        *self.tally.entry(what).or_default() += 1;
    }

    // -----------------------------------------------------------------------------------------------------------
    // What people do.

    /// One deed of somebody.
    pub fn act(&mut self, world: &mut World) {
        match self.rng.below(100) {
            0..55 => self.instruct(world),
            55..75 => self.sit_down(world),
            75..95 => self.fidget(world),
            _ => self.trouble(world),
        }
    }

    fn some_id(&mut self) -> Option<String> {
        let shown: Vec<&String> =
            self.model.nouns.iter().filter(|(_, noun)| noun.shown.is_some()).map(|(id, _)| id).collect();
        let any = shown.get(self.rng.index(shown.len())).map(|id| (*id).clone());
        match &self.storm_id {
            Some(id) if self.rng.percent(60) => Some(id.clone()),
            _ => any,
        }
    }

    fn instruct(&mut self, world: &mut World) {
        if self.desks.len() < self.plan.desks || self.rng.percent(2) {
            let whole = self.rng.percent(60);
            let pace = if whole { Pace::WHOLE } else { self.dribble() };
            let capacity = if self.rng.percent(85) { usize::MAX } else { self.rng.pick(&[1, 100, 4000]) };
            let line = world.net.connect(pace, capacity);
            self.desks.push(Desk { line, asks: VecDeque::new(), sent: 0, last: false });
        }
        let open: Vec<usize> = (0..self.desks.len()).filter(|at| !self.desks[*at].last).collect();
        if open.is_empty() {
            return;
        }
        let at = open[self.rng.index(open.len())];
        let (most, many) = if self.plan.storm { (64, 40) } else { (8, 4) };
        let pipelined = if self.rng.percent(70) { 1 } else { self.rng.range(2, many) };
        for _ in 0..pipelined {
            if self.desks[at].asks.len() >= most || self.desks[at].last {
                break;
            }
            let request = self.request(world.now);
            self.ask(world, at, request);
        }
    }

    /// Bytes in pieces, now and then so few that patience ends.
    fn dribble(&mut self) -> Pace {
        Pace { piece: self.rng.pick(&[1, 1, 7, 300]), pieces: self.rng.pick(&[2, 400, 400, 400]) }
    }

    fn ask(&mut self, world: &mut World, at: usize, mut request: Request) {
        let desk = &mut self.desks[at];
        world.net.send_from(desk.line, &request.bytes);
        desk.sent += request.bytes.len() as u64;
        desk.last |= matches!(request.kind, Kind::Only(statuses) if statuses == BREAKING);
        request.end = desk.sent;
        request.sent_turn = self.model.turn;
        request.delivered_turn = None;
        self.desks[at].asks.push_back(request);
    }

    fn request(&mut self, now: Now) -> Request {
        if !self.keys.is_empty() && self.rng.percent(10) {
            // Somebody was not sure and asks again.
            let at = self.keys.len() - 1 - self.rng.index(self.keys.len().min(6));
            return self.keys[at].request.clone();
        }
        if self.rng.percent(self.plan.nonsense) {
            return self.nonsense();
        }
        let held = self.model.nouns.values().filter(|noun| noun.shown.is_some()).count();
        let create = held < self.plan.timers && self.rng.percent(if held * 2 < self.plan.timers { 60 } else { 25 });
        let id = self.some_id();
        let (Some(id), false) = (id, create) else { return self.creation(now) };
        let is_pestered = self.storm_id.as_ref() == Some(&id);
        match self.rng.below(if is_pestered { 55 } else { 100 }) {
            0..55 => {
                let action = match &self.model.nouns[&id].shown {
                    // For ever.
                    Some(_) if is_pestered => self.rng.pick(&["start", "pause", "resume", "extend", "extend"]),
                    // Mostly what makes sense.
                    Some(face) if self.rng.percent(80) => match face.state {
                        State::Created => self.rng.pick(&["start", "start", "start", "extend", "stop"]),
                        State::Running => self.rng.pick(&["pause", "pause", "extend", "extend", "stop"]),
                        State::Paused => self.rng.pick(&["resume", "resume", "start", "extend"]),
                        State::Completed | State::Expired => self.rng.pick(&["start", "extend"]),
                    },
                    _ => self.rng.pick(&["start", "pause", "resume", "extend", "stop"]),
                };
                let seconds = self.seconds();
                let claim = claim_of(action, seconds);
                let body = if action == "extend" {
                    format!(r#"{{"action":"extend","extend_seconds":{seconds}}}"#)
                } else {
                    format!(r#"{{"action":"{action}"}}"#)
                };
                let mut fields = String::new();
                if self.rng.percent(20) {
                    let revision = self.model.nouns[&id].shown.as_ref().map_or(0, |face| face.revision);
                    let revision = revision.saturating_sub(self.rng.below(2));
                    write!(fields, "If-Match: W/\"x\", \"{revision}\"\r\n").unwrap();
                }
                self.post(&format!("/timers/{id}/control"), &body, fields, Kind::Control { claim }, vec![id])
            }
            55..67 => {
                let count = if self.rng.percent(90) { self.rng.range(0, 8) } else { self.rng.range(20, 80) };
                let mut ids: Vec<String> = (0..count).filter_map(|_| self.some_id()).collect();
                ids.retain(|id| self.storm_id.as_ref() != Some(id));
                if self.rng.percent(10) {
                    ids.push("timer_nobody".to_owned());
                }
                let op = self.rng.pick(&["start", "start", "pause", "resume", "extend", "stop", "delete"]);
                let seconds = self.seconds();
                let listed: Vec<String> = ids.iter().map(|id| format!("\"{id}\"")).collect();
                let list = listed.join(",");
                let (path, body) = if op == "extend" && self.rng.percent(50) {
                    (format!("/timers/bulk/extend?seconds={seconds}"), format!("[{list}]"))
                } else {
                    (format!("/timers/bulk/{op}/"), format!(r#"{{"timer_ids":[{list}],"seconds":{seconds}}}"#))
                };
                let claim = claim_of(op, seconds);
                self.post(&path, &body, String::new(), Kind::Bulk { claim }, ids)
            }
            67..72 => {
                let fields = if self.rng.percent(20) { "If-Match: \"2\"\r\n" } else { "" };
                self.plain("DELETE", &format!("/timers/{id}"), fields, Kind::Delete, vec![id])
            }
            72..90 => {
                let method = if self.rng.percent(10) { "HEAD" } else { "GET" };
                self.plain(method, &format!("/timers/{id}"), "", Kind::Get, vec![id])
            }
            90..92 => self.plain("GET", "/timers", "", Kind::List, Vec::new()),
            92..97 => self.plain("GET", &format!("/timers/{id}/history"), "", Kind::History, vec![id]),
            _ => {
                let path = self.rng.pick(&["/health", "/readiness", "/metrics", "/openapi.json", "/docs"]);
                self.plain("GET", path, "", Kind::Only(&[200, 503]), Vec::new())
            }
        }
    }

    /// Rarely twice the same, so that an extension in the history tells whose it was.
    fn seconds(&mut self) -> u64 {
        if self.rng.percent(50) { self.rng.range(1, 20) } else { self.rng.range(1, 3600) }
    }

    fn creation(&mut self, now: Now) -> Request {
        self.names += 1;
        let name = format!("Exam {}", self.names);
        let duration_s = if self.rng.percent(85) {
            self.rng.range(1, self.plan.duration_s)
        } else {
            self.rng.pick(&[1, 60, 300, 86_400])
        };
        let mut body = format!(r#"{{"duration_seconds":{duration_s},"name":"{name}""#);
        if self.rng.percent(80) {
            let count = self.rng.range(0, 6);
            let near = duration_s.min(40) + 2;
            let thresholds: Vec<String> = (0..count).map(|_| self.rng.range(1, near).to_string()).collect();
            write!(body, r#","warning_thresholds":[{}]"#, thresholds.join(",")).unwrap();
        }
        let mut state = State::Created;
        match self.rng.below(10) {
            0..4 => {
                body.push_str(r#","auto_start":true"#);
                state = State::Running;
            }
            4..6 => {
                let ahead = self.rng.range(1_500, 20_000);
                let at = WallMs::from_ms(now.wall.ms() + i64::try_from(ahead).unwrap());
                write!(body, r#","start_at":"{}""#, timerd::api::time::date_time_ms(at)).unwrap();
            }
            _ => {}
        }
        body.push('}');
        self.post("/timers", &body, String::new(), Kind::Create { name, state, duration_s }, Vec::new())
    }

    fn post(&mut self, path: &str, body: &str, mut fields: String, kind: Kind, ids: Vec<String>) -> Request {
        let mut key = None;
        if self.rng.percent(35) {
            key = Some(self.keys.len());
            write!(fields, "Idempotency-Key: key-{}\r\n", self.keys.len()).unwrap();
        }
        let chunked = self.rng.percent(20);
        let text = if chunked {
            let half = body.len() / 2;
            let (a, b) = body.split_at(half);
            let chunk = |text: &str| {
                if text.is_empty() { String::new() } else { format!("{:x}\r\n{text}\r\n", text.len()) }
            };
            format!(
                "POST {path} HTTP/1.1\r\nHost: exam\r\nTransfer-Encoding: chunked\r\n{fields}\r\n{}{}0\r\n\r\n",
                chunk(a),
                chunk(b)
            )
        } else {
            format!("POST {path} HTTP/1.1\r\nHost: exam\r\nContent-Length: {}\r\n{fields}\r\n{body}", body.len())
        };
        let request = Request {
            kind,
            ids: ids.into(),
            bytes: text.into_bytes().into(),
            end: 0,
            sent_turn: 0,
            delivered_turn: None,
            head_only: false,
            key,
        };
        if key.is_some() {
            let key = format!("key-{}", self.keys.len());
            self.keys.push(KeyUse { key, request: request.clone(), answer: None, first: false, lost: false });
        }
        request
    }

    fn plain(&mut self, method: &str, path: &str, fields: &str, kind: Kind, ids: Vec<String>) -> Request {
        Request {
            kind,
            ids: ids.into(),
            bytes: format!("{method} {path} HTTP/1.1\r\nHost: exam\r\n{fields}\r\n").into_bytes().into(),
            end: 0,
            sent_turn: 0,
            delivered_turn: None,
            head_only: method == "HEAD",
            key: None,
        }
    }

    fn nonsense(&mut self) -> Request {
        let id = self.some_id().unwrap_or_else(|| "timer_0".to_owned());
        // 503: a sick disk refuses before it looks whether a timer is there.
        const NOT_THERE: &[u16] = &[404, 503];
        const NO_FORM: &[u16] = &[422];
        let answered = self.keys.iter().rev().take(8).find(|used| used.answer.is_some());
        let (method, path, fields, body, statuses): (_, String, String, &str, &'static [u16]) = match self
            .rng
            .below(16)
        {
            0 => ("POST", "/timers".into(), String::new(), r#"{"duration_seconds":0}"#, NO_FORM),
            1 => ("POST", "/timers".into(), String::new(), r#"{"duration_seconds":"#, NO_FORM),
            2 => ("POST", "/timers".into(), String::new(), "\u{0}", NO_FORM),
            3 => ("POST", "/timers".into(), String::new(), r#"{"duration_seconds":true}"#, NO_FORM),
            4 => ("POST", format!("/timers/{id}/control"), String::new(), r#"{"action":"explode"}"#, NO_FORM),
            5 => ("POST", "/timers/timer_none/control".into(), String::new(), r#"{"action":"start"}"#, NOT_THERE),
            6 => ("PUT", format!("/timers/{id}"), String::new(), "{}", &[405]),
            7 => ("GET", "/nothing/here".into(), String::new(), "", &[404]),
            8 => ("GET", format!("/ws/{id}"), String::new(), "", &[426]),
            9 => (
                "POST",
                format!("/timers/{id}/control"),
                "If-Match: 2\r\n".into(),
                r#"{"action":"stop"}"#,
                &[400, 404, 503],
            ),
            10 => {
                let fields = "Content-Type: text/plain\r\n".into();
                ("POST", "/timers".into(), fields, r#"{"duration_seconds":5}"#, &[415])
            }
            11 => ("POST", "/timers/bulk/stop".into(), String::new(), r#"{"timer_ids":"all"}"#, NO_FORM),
            12 => ("OPTIONS", "/timers".into(), String::new(), "", &[204]),
            13 if answered.is_some() => {
                // The key of another body: the path must be the same.
                let used = answered.unwrap();
                let text = String::from_utf8_lossy(&used.request.bytes).into_owned();
                let path = text.split(' ').nth(1).unwrap().to_owned();
                ("POST", path, format!("Idempotency-Key: {}\r\n", used.key), r#"{"other":1}"#, NO_FORM)
            }
            14 => ("BREAK", String::new(), String::new(), "", BREAKING),
            _ => ("POST", format!("/timers/{id}/control"), String::new(), r#"{"action":"extend"}"#, &[400, 404, 503]),
        };
        let bytes = if statuses == BREAKING {
            let text = self.rng.pick(&[
                "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
                "POST /timers HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
                "GARBAGE\r\n\r\n",
                "GET /timers\r\n\r\n",
            ]);
            text.as_bytes().to_vec()
        } else if body.is_empty() {
            format!("{method} {path} HTTP/1.1\r\nHost: exam\r\n{fields}\r\n").into_bytes()
        } else {
            let length = body.len();
            format!("{method} {path} HTTP/1.1\r\nHost: exam\r\n{fields}Content-Length: {length}\r\n\r\n{body}")
                .into_bytes()
        };
        Request {
            kind: Kind::Only(statuses),
            ids: Rc::new([]),
            bytes: bytes.into(),
            end: 0,
            sent_turn: 0,
            delivered_turn: None,
            head_only: false,
            key: None,
        }
    }

    /// A student comes.
    fn sit_down(&mut self, world: &mut World) {
        let Some(id) = self.some_id() else { return };
        let there = self.seats.iter().filter(|seat| seat.id == id && !seat.gone).count();
        if there as u64 > self.plan.students {
            return;
        }
        let manner = match self.rng.below(100) {
            0..40 => Manner::Lively,
            40..60 => Manner::Slow,
            60..75 => Manner::Asleep,
            75..90 => Manner::Rude,
            _ => Manner::Ghost,
        };
        self.open(world, id, manner);
    }

    fn open(&mut self, world: &mut World, id: String, manner: Manner) {
        let pace = match manner {
            Manner::Faithful => Pace::WHOLE,
            _ if self.rng.percent(50) => Pace::WHOLE,
            _ => Pace { piece: self.rng.pick(&[1, 3, 50]), pieces: 300 },
        };
        let capacity = match manner {
            Manner::Faithful | Manner::Lively | Manner::Rude => usize::MAX,
            Manner::Slow => self.rng.pick(&[1, 13, 60, 700, 5_000]),
            Manner::Asleep => self.rng.pick(&[300, 2_000]),
            Manner::Ghost => self.rng.pick(&[0, 100, 10_000]),
        };
        let line = world.net.connect(pace, capacity);
        world.net.line(line).ghost = manner == Manner::Ghost;
        let is_stream = !matches!(manner, Manner::Rude | Manner::Ghost) && self.rng.percent(25);
        let request = if is_stream {
            format!("GET /timers/{id}/stream HTTP/1.1\r\nHost: exam\r\nAccept: text/event-stream\r\n\r\n")
                .into_bytes()
        } else {
            peer::upgrade(&format!("/ws/{id}"))
        };
        world.net.send_from(line, &request);
        let at = world.now.mono.ns();
        self.seats.push(Seat {
            line,
            id,
            manner,
            is_stream,
            event_id: None,
            request: request.len() as u64,
            joined: None,
            upgraded: false,
            greeted: false,
            cursor: None,
            told_at: at,
            heard_at: at,
            pings: 0,
            syncs: 0,
            sins: 0,
            closed: None,
            over_since: None,
            gone: false,
        });
        self.count(if is_stream { "streams" } else { "sockets" });
    }

    /// Somebody who is there does something.
    fn fidget(&mut self, world: &mut World) {
        if self.seats.is_empty() {
            return;
        }
        let at = self.rng.index(self.seats.len());
        let mask = u32::try_from(self.rng.bits() >> 32).unwrap();
        let seat = &mut self.seats[at];
        if !seat.upgraded || seat.gone {
            return;
        }
        let line = seat.line;
        if seat.is_stream {
            // Whoever listens to a stream has nothing to say.
            match (seat.manner, self.rng.below(10)) {
                (Manner::Slow, _) => world.net.drain(line),
                (Manner::Lively, deed @ 0..2) => {
                    seat.gone = true;
                    if deed == 0 { world.net.reset_from(line) } else { world.net.end_from(line) }
                }
                _ => {}
            }
            return;
        }
        match (seat.manner, self.rng.below(10)) {
            (Manner::Lively, 0) => {
                seat.gone = true;
                match self.rng.below(3) {
                    0 => world.net.reset_from(line),
                    1 => world.net.end_from(line),
                    _ => world.net.send_from(line, &peer::frame(8, &1000_u16.to_be_bytes(), mask)),
                }
            }
            (Manner::Faithful | Manner::Lively, 1..4) => {
                seat.pings += 1;
                world.net.send_from(line, &peer::frame(1, br#"{"type":"ping"}"#, mask));
            }
            (Manner::Faithful | Manner::Lively, _) => {
                seat.syncs += 1;
                world.net.send_from(line, &peer::frame(1, br#"{"type":"sync","client_time":1.50}"#, mask));
            }
            (Manner::Slow, _) => world.net.drain(line),
            (Manner::Rude, sin) => {
                seat.sins += 1;
                match sin {
                    0 => world.net.send_from(line, &peer::frame(2, b"\x00\x01", mask)),
                    1 => world.net.send_from(line, &peer::frame(1, &[b'x'; 5_000], mask)),
                    2 => world.net.send_from(line, &peer::frame(1, b"{\"type\":\"\xff\"}", mask)),
                    3 => (0..130).for_each(|_| world.net.send_from(line, &peer::frame(1, b"{}", mask))),
                    4 => world.net.send_from(line, b"\x81\x05hello"),
                    5 => world.net.send_from(line, &[0x81, 0xfe]),
                    6 => world.net.end_from(line),
                    _ => world.net.send_from(line, &peer::frame(1, b"nonsense", mask)),
                }
            }
            (Manner::Ghost | Manner::Asleep, _) => {
                // Its browser is there and answers for it, though nobody reads.
                if seat.manner == Manner::Asleep {
                    world.net.send_from(line, &peer::frame(10, b"", mask));
                }
            }
        }
    }

    /// Lines break, kernels' buffers empty.
    fn trouble(&mut self, world: &mut World) {
        for seat in self.seats.iter().filter(|seat| seat.manner == Manner::Slow && !seat.gone) {
            if self.rng.percent(40) {
                world.net.drain(seat.line);
            }
        }
        for at in 0..self.desks.len() {
            if self.rng.percent(60) {
                world.net.drain(self.desks[at].line);
            }
        }
        if !self.desks.is_empty() && self.rng.percent(25) {
            let at = self.rng.index(self.desks.len());
            if self.rng.percent(50) {
                // Half-closed: what was asked is answered all the same.
                world.net.end_from(self.desks[at].line);
                self.desks[at].last = true;
            } else {
                world.net.reset_from(self.desks[at].line);
                let desk = self.desks.swap_remove(at);
                self.astray(desk.asks);
                self.desks.push(Desk { asks: VecDeque::new(), last: true, ..desk });
            }
        }
    }

    /// These requests will never be answered.
    fn astray(&mut self, asks: impl IntoIterator<Item = Request>) {
        for request in asks {
            if request.delivered_turn.is_some() {
                request.ids.iter().for_each(|id| self.model.answered(id, false));
            }
            // Part of it may be on its way to the daemon still.
            self.may_have_happened(&request);
        }
    }

    fn may_have_happened(&mut self, request: &Request) {
        if let Some(key) = request.key {
            self.keys[key].lost = true;
            return;
        }
        for claim in claims_of(request) {
            *self.lost.entry(claim).or_default() += 1;
        }
    }

    // -----------------------------------------------------------------------------------------------------------
    // What people are told.

    fn hear_desk(&mut self, world: &mut World, at: usize) {
        let turn = self.model.turn;
        let Desk { line, .. } = self.desks[at];
        let delivered = world.net.line(line).delivered;
        let mut arrived = Vec::new();
        for request in &mut self.desks[at].asks {
            if request.delivered_turn.is_none() && request.end <= delivered {
                request.delivered_turn = Some(turn);
                arrived.push(request.ids.clone());
            }
        }
        for ids in arrived {
            ids.iter().for_each(|id| self.model.ask(id));
        }
        let mut inbox = std::mem::take(&mut world.net.line(line).inbox);
        loop {
            let head_only = self.desks[at].asks.front().is_some_and(|request| request.head_only);
            let answer = match peer::next_answer(&mut inbox, head_only) {
                Ok(Some(answer)) => answer,
                Ok(None) => break,
                Err(what) => violated("an answer is HTTP", &what),
            };
            let Some(request) = self.desks[at].asks.pop_front() else {
                // Nobody had asked for the last word to one who was slow or idle.
                if answer.status == 408 && self.desks[at].last {
                    continue;
                }
                violated("each request is answered once", &format!("{answer:?} answers nothing"));
            };
            let closes = answer.field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
            self.desks[at].last |= closes;
            if request.delivered_turn.is_none() || (answer.status == 408 && closes) {
                if request.delivered_turn.is_some() {
                    // Its last bytes came too late, in the turn that refused it.
                    request.ids.iter().for_each(|id| self.model.answered(id, true));
                }
                // What was not whole cannot have been carried out.
                if !closes || !matches!(answer.status, 400 | 408 | 413 | 431 | 501 | 503) {
                    violated("only whole requests are carried out", &format!("{answer:?} to {request:?}"));
                }
                self.count("cut short");
                continue;
            }
            let unknown = answer.status == 503 && String::from_utf8_lossy(&answer.body).contains("outcome unknown");
            request.ids.iter().for_each(|id| self.model.answered(id, !unknown));
            if unknown {
                self.count("outcome unknown");
                self.may_have_happened(&request);
                continue;
            }
            self.judge_answer(world, &request, &answer);
        }
        world.net.line(line).inbox = inbox;
        if world.net.line(line).closed {
            let desk = self.desks.swap_remove(at);
            self.astray(desk.asks);
            world.net.forget(line);
        } else if world.net.line(line).finished {
            self.desks[at].last = true;
        }
    }

    fn judge_answer(&mut self, world: &mut World, request: &Request, answer: &Answer) {
        let status = answer.status;
        let why = || format!("{answer:?}\n  answers {request:?}");
        for name in ["Date", "X-Content-Type-Options", "Cache-Control"] {
            // What is no request has no route, and its refusal no rules of caching.
            let is_fault = matches!(request.kind, Kind::Only(statuses) if statuses == BREAKING);
            if answer.field(name).is_none() && !is_fault {
                violated("every answer has its header fields", &why());
            }
        }
        let body = || match serde_json::from_slice::<Value>(&answer.body) {
            Ok(value) => value,
            Err(_) => violated("an answer is JSON", &why()),
        };
        *self.tally.entry(status_name(status)).or_default() += 1;
        let replayed = answer.field("idempotency-replayed").is_some();
        if status / 100 == 2
            && let Some(key) = request.key
        {
            let tag = answer.field("etag").map(str::to_owned);
            let mine = (status, answer.body.clone(), tag);
            // Only what changed something is kept.
            let kept = !matches!(request.kind, Kind::Bulk { .. })
                || String::from_utf8_lossy(&mine.1).contains(r#""success":true"#);
            let used = &mut self.keys[key];
            if kept {
                if !replayed && std::mem::replace(&mut used.first, true) {
                    violated("a repeat is not carried out again", &why());
                }
                match &used.answer {
                    Some(first) if *first != mine => {
                        let first = String::from_utf8_lossy(&first.1);
                        violated("a repeat gets the first answer", &format!("{first}, then {}", why()));
                    }
                    Some(_) => {
                        self.count("replays");
                        return;
                    }
                    None => used.answer = Some(mine),
                }
            }
        } else if replayed {
            violated("only a repeat is replayed", &why());
        }
        let now = world.now;
        let fresh = request.delivered_turn == Some(self.model.turn);
        match (&request.kind, status) {
            (Kind::Only(statuses), status) if statuses.contains(&status) => {}
            (Kind::Only(_), 408) => {}
            // Asked again when its start had passed, or the wall clock was stepped meanwhile.
            (Kind::Create { state: State::Created, .. }, 422)
                if String::from_utf8_lossy(&answer.body).contains("start_at must lie ahead") => {}
            (Kind::Create { .. }, 429) => {
                // Those on their way to the disk take places, too.
                if self.names < u64::from(self.plan.timers_max) {
                    violated("there is room until every place is taken", &format!("{} created", self.names));
                }
            }
            (Kind::Create { .. } | Kind::Control { .. } | Kind::Delete | Kind::Bulk { .. }, 503) => {
                if answer.field("retry-after").is_none() {
                    violated("503 says when to come again", &why());
                }
            }
            (Kind::Create { name, state, duration_s }, 201) => {
                let value = body();
                let id = text(&value, "id").to_owned();
                let revision = number(&value, "revision");
                self.must_be_durable(world, &id, revision, &why);
                let entry = &world.disk.history[&id][0];
                let same = matches!(&entry.action, Action::Created { name: called, .. } if **called == **name);
                let fits = text(&value, "name") == name
                    && text(&value, "state") == state.name()
                    && number(&value, "duration_seconds") == *duration_s
                    && answer.field("location") == Some(&format!("/timers/{id}"));
                if !same || !fits {
                    violated("an answer fits its request", &why());
                }
                (1..=revision).for_each(|revision| self.ack(&id, revision, &why));
                if self.plan.storm && self.storm_id.is_none() {
                    self.storm_id = Some(id.clone());
                }
                if self.rng.percent(60) && !self.quiet {
                    self.open(world, id, Manner::Faithful);
                }
            }
            (Kind::Control { claim }, 200) => {
                let value = body();
                let id = text(&value, "id").to_owned();
                let revision = number(&value, "revision");
                if id != request.ids[0] {
                    violated("replies leave in the order of requests", &why());
                }
                self.must_be_durable(world, &id, revision, &why);
                let entry = &world.disk.history[&id][usize::try_from(revision - 1).unwrap()];
                if claim_of_entry(&entry.action) != *claim || &*entry.actor != "anonymous" {
                    violated("what is acknowledged is what was done", &format!("{entry:?}: {}", why()));
                }
                if answer.field("etag") != Some(&format!("\"{revision}\"")) {
                    violated("ETag is the revision", &why());
                }
                self.ack(&id, revision, &why);
            }
            (Kind::Delete, 204) => {
                let id = &request.ids[0];
                if world.disk.timers.values().any(|timer| *timer.id == **id) {
                    violated("acknowledged is durable", &why());
                }
                *self.claims.entry((id.clone(), "deleted".to_owned())).or_default() += 1;
            }
            (Kind::Bulk { claim }, 200) => {
                let value = body();
                let lines = value.as_array().unwrap_or_else(|| violated("a bulk answer is a list", &why()));
                if lines.len() != request.ids.len() {
                    violated("one result for each id", &why());
                }
                for (line, id) in lines.iter().zip(request.ids.iter()) {
                    if text(line, "timer_id") != id {
                        violated("results are in the order asked", &why());
                    }
                    if line["success"] == true {
                        let entries = world.disk.history.get(id).map_or(&[][..], |entries| &entries[..]);
                        if !entries.iter().any(|entry| claim_of_entry(&entry.action) == *claim) {
                            violated("acknowledged is durable", &why());
                        }
                        *self.claims.entry((id.clone(), claim.clone())).or_default() += 1;
                    }
                }
            }
            (Kind::Control { .. } | Kind::Delete, 404 | 412 | 400) => {}
            (Kind::Get, 200) if request.head_only => {}
            (Kind::Get, 200) => {
                let value = body();
                if text(&value, "id") != request.ids[0] {
                    violated("replies leave in the order of requests", &why());
                }
                self.judge_object(now, &value, fresh, request.sent_turn, &why);
            }
            (Kind::Get, 404) => {
                let id = &request.ids[0];
                let outlived = self.model.may_be_outlived(now, id);
                let noun = &self.model.nouns[id];
                if !noun.showed(0, request.sent_turn) && !outlived {
                    violated("a timer that is there is found", &why());
                }
            }
            (Kind::List, 200) => {
                let value = body();
                let list = value.as_array().unwrap_or_else(|| violated("a list is a list", &why()));
                self.judge_list(now, list, fresh, request.sent_turn, &why);
            }
            (Kind::History, 200) => {
                let value = body();
                let list = value.as_array().unwrap_or_else(|| violated("a history is a list", &why()));
                let entries = world.disk.history.get(&request.ids[0]).map_or(&[][..], |entries| &entries[..]);
                let same = list.len() <= entries.len()
                    && list.iter().zip(entries).all(|(line, entry)| {
                        number(line, "revision") == entry.revision && text(line, "action") == entry.action.name()
                    });
                if !same {
                    violated("the history tells what happened", &format!("{entries:?}\n{}", why()));
                }
            }
            (Kind::History, 404 | 503) => {}
            _ => violated("an answer fits its request", &why()),
        }
    }

    fn ack(&mut self, id: &str, revision: u64, why: &dyn Fn() -> String) {
        if !self.acked.insert((id.to_owned(), revision)) {
            violated("one change is acknowledged to one request", &why());
        }
    }

    fn must_be_durable(&mut self, world: &World, id: &str, revision: u64, why: &dyn Fn() -> String) {
        if !world.disk.has(id, revision) {
            violated("acknowledged is durable", &why());
        }
    }

    fn judge_list(&mut self, now: Now, list: &[Value], fresh: bool, since: u64, why: &dyn Fn() -> String) {
        let mut serial = 0;
        for value in list {
            self.judge_object(now, value, fresh, since, why);
            let next = self.model.nouns[text(value, "id")].serial;
            if next <= serial {
                violated("lists are in order of creation", &why());
            }
            serial = next;
        }
        if fresh {
            let listed: HashSet<&str> = list.iter().map(|value| text(value, "id")).collect();
            let missing = self
                .model
                .listed()
                .into_iter()
                .find(|noun| !listed.contains(&*noun.id) && !self.model.may_be_outlived(now, &noun.id));
            if let Some(noun) = missing {
                violated("lists are whole", &format!("{} is missing", noun.id));
            }
        }
    }

    /// A timer as somebody saw it: nothing that is not durable or does not follow from what is.
    fn judge_object(&mut self, now: Now, value: &Value, fresh: bool, since: u64, why: &dyn Fn() -> String) {
        let (id, revision) = (text(value, "id"), number(value, "revision"));
        let Some(noun) = self.model.nouns.get(id) else { violated("only what was created is seen", &why()) };
        if noun.fog || noun.fog_turn >= since.max(1) {
            return;
        }
        if !noun.showed(revision, since) {
            let text = format!("revision {revision} of {noun:?}\n  {}", why());
            violated("visible is durable: nobody sees what may yet be undone", &text);
        }
        let face = &noun.faces[&revision];
        let plain = text(value, "state") == face.state.name()
            && text(value, "name") == noun.name
            && number(value, "duration_seconds") == u64::from(face.duration_s)
            && number(value, "remaining_seconds") == number(value, "remaining_ms").div_ceil(1000)
            && value["ends_at"].is_null() != matches!(face.left, Left::Until(..));
        if !plain {
            violated("what is read is what is shown", &format!("{face:?}: {}", why()));
        }
        let seen = self.seen.entry(id.to_owned()).or_default();
        *seen = revision.max(*seen);
        if fresh {
            let exact =
                noun.shown.as_ref() == Some(face) && number(value, "remaining_ms") == ms_up(face.left_ns(now));
            if !exact {
                let text = format!("{:?} at {now:?}, {} ms left: {}", noun.shown, ms_up(face.left_ns(now)), why());
                violated("the remainder is exact", &text);
            }
            if let Some(ends) = value["ends_at"].as_str() {
                let name = |ms| timerd::api::time::date_time_ms(WallMs::from_ms(ms));
                let by_clock = now.wall.ms() + i64::try_from(ms_up(face.left_ns(now))).unwrap();
                // After a step of the wall clock the name of one with a change on its way waits for that.
                if noun.is_well_named() && !(-3..=3).any(|off| ends == name(by_clock + off)) {
                    violated("the end has its name", &format!("{ends}, {face:?}: {}", why()));
                }
            }
        }
    }

    fn hear_seat(&mut self, world: &mut World, at: usize) {
        let turn = self.model.turn;
        let now = world.now;
        let seat = &mut self.seats[at];
        let line = world.net.line(seat.line);
        let (is_short, is_closed, delivered) = (line.was_short, line.closed, line.delivered);
        seat.gone |= line.was_cut;
        if seat.joined.is_none() && delivered >= seat.request {
            seat.joined = Some(turn);
            seat.heard_at = now.mono.ns();
            let noun = &self.model.nouns[&seat.id];
            seat.cursor = (!noun.fog && noun.fog_turn < turn).then_some(noun.log.len());
        }
        if line.inbox.is_empty() && !is_closed {
            return self.expect_seat(world, at, is_short);
        }
        let mut inbox = std::mem::take(&mut line.inbox);
        if !seat.upgraded && seat.is_stream {
            self.hear_stream_head(world, at, &mut inbox, is_short);
        } else if !seat.upgraded {
            match peer::next_answer(&mut inbox, false) {
                Ok(Some(answer)) if answer.status == 101 => seat.upgraded = true,
                Ok(Some(answer)) if answer.status == 408 || answer.status == 503 => seat.gone = true,
                Ok(None) => {}
                other => violated("a valid upgrade is completed", &format!("{other:?}")),
            }
        }
        let mut read = 0;
        while self.seats[at].upgraded && self.seats[at].is_stream {
            match peer::next_event(&inbox[read..]) {
                Ok(Some((event, length))) => {
                    read += length;
                    self.hear_event(world, at, event, is_short);
                }
                Ok(None) => break,
                Err(what) => violated("a stream is made of events", &what),
            }
        }
        if read > 0 {
            self.judge_event_id(at, is_short);
        }
        while self.seats[at].upgraded && !self.seats[at].is_stream {
            match peer::next_frame(&inbox[read..]) {
                Ok(Some((frame, length))) => {
                    read += length;
                    if self.seats[at].closed.is_some() {
                        violated("a close frame is the last", &format!("{frame:?}"));
                    }
                    self.hear_frame(world, at, frame, is_short);
                }
                Ok(None) => break,
                Err(what) => violated("a message is a frame", &what),
            }
        }
        inbox.drain(..read);
        let seat = &self.seats[at];
        if is_closed {
            let excused = seat.gone
                || seat.sins > 0
                || seat.closed.is_some()
                || matches!(seat.manner, Manner::Ghost | Manner::Slow | Manner::Asleep);
            if !excused {
                violated("nobody who behaves is dropped", &format!("{seat:?}"));
            }
            let is_dropped = is_short && seat.closed.is_none() && !seat.gone;
            world.net.forget(seat.line);
            self.seats.swap_remove(at);
            if is_dropped {
                self.count("dropped: slow");
            }
            return;
        }
        world.net.line(seat.line).inbox = inbox;
        let _ = now;
        self.expect_seat(world, at, is_short);
    }

    /// The head of a stream, or the answer that there is none.
    fn hear_stream_head(&mut self, world: &mut World, at: usize, inbox: &mut Vec<u8>, is_short: bool) {
        if let Some(head) = peer::take_endless(inbox) {
            let head = head.to_ascii_lowercase();
            let wanted = ["content-type: text/event-stream", "cache-control: no-store", "x-accel-buffering: no"];
            let is_endless = !head.contains("content-length") && !head.contains("transfer-encoding");
            if !is_endless || !head.contains("connection: close") || wanted.iter().any(|line| !head.contains(line)) {
                violated("a stream has its header fields", &head);
            }
            self.seats[at].upgraded = true;
            return;
        }
        match peer::next_answer(inbox, false) {
            Ok(Some(answer)) if matches!(answer.status, 408 | 503) => self.seats[at].gone = true,
            Ok(Some(answer)) if answer.status == 404 => {
                self.hear_close(world, at, Some(4004), "Timer not found", is_short);
            }
            Ok(Some(answer)) if answer.status == 429 && answer.field("retry-after").is_some() => {
                self.hear_close(world, at, Some(4029), "Too many connections", is_short);
            }
            // The head may be there in part.
            Ok(None) => {}
            other => violated("a stream is opened, or refused for a reason", &format!("{other:?}")),
        }
    }

    /// An event: what it says is what a socket would be told.
    fn hear_event(&mut self, world: &mut World, at: usize, event: peer::Event, is_short: bool) {
        let seat = &mut self.seats[at];
        let is_first = !seat.greeted;
        if event.retry_ms.is_some() != is_first || event.retry_ms.is_some_and(|ms| !(1_000..=5_000).contains(&ms)) {
            violated("a stream says once when to come back", &format!("{event:?}"));
        }
        let is_deleted = event.data.starts_with(r#"{"type":"timer_deleted""#);
        if event.id.is_none() != is_deleted || event.id < seat.event_id.filter(|_| !is_deleted) {
            violated("events are called by the revision", &format!("{event:?} after {:?}", seat.event_id));
        }
        seat.event_id = event.id.or(seat.event_id);
        self.count("events of streams");
        self.hear_frame(world, at, Frame::Text(event.data), is_short);
        if is_deleted {
            // Nothing follows but the end of the line.
            self.seats[at].closed = Some(4000);
        }
    }

    /// By what the last event of a turn is called.
    fn judge_event_id(&self, at: usize, is_short: bool) {
        let seat = &self.seats[at];
        let noun = &self.model.nouns[&seat.id];
        let in_fog = noun.fog || noun.fog_turn == self.model.turn;
        let shown = noun.shown.as_ref().map(|face| face.revision);
        if !is_short && !in_fog && shown.is_some() && seat.event_id != shown {
            violated("events are called by the revision", &format!("{seat:?} of {noun:?}"));
        }
    }

    /// What a client must have heard by the end of a turn.
    fn expect_seat(&mut self, world: &mut World, at: usize, is_short: bool) {
        let now = world.now.mono.ns();
        let turn = self.model.turn;
        let previous = self.previous;
        let seat = &mut self.seats[at];
        let noun = &self.model.nouns[&seat.id];
        if noun.fog || noun.fog_turn == turn {
            // Whoever has heard everything goes on from here, the others are not judged any more.
            seat.cursor = (!is_short && seat.greeted).then_some(noun.log.len());
            return;
        }
        if seat.gone || seat.closed.is_some() {
            return;
        }
        if seat.greeted && !is_short && seat.manner != Manner::Ghost {
            if let Some(cursor) = seat.cursor.filter(|cursor| *cursor < noun.log.len()) {
                let text = format!("{:?} at {}, shown {:?}, {seat:?}", &noun.log[cursor..], noun.id, noun.shown);
                violated("everybody hears everything, in its turn", &text);
            }
            if seat.told_at + u64::try_from(KEEPALIVE_AFTER.as_nanos()).unwrap() < previous {
                violated("nobody is left in silence", &format!("{seat:?}"));
            }
        }
        if matches!(seat.manner, Manner::Ghost | Manner::Slow | Manner::Asleep) {
            let silence = u64::try_from(PEER_SILENCE_MAX.as_nanos()).unwrap();
            let is_dead = seat.manner == Manner::Ghost;
            let linger = u64::try_from((SLOW_LINGER_MAX + LINGER_MAX).as_nanos()).unwrap();
            if is_dead
                && seat.heard_at + silence + linger < previous
                && world.net.line(seat.line).delivered >= seat.request
            {
                violated("whoever is silent for too long is dropped", &format!("{seat:?}, now {now}"));
            }
            let waiting = seat.cursor.map_or(&[][..], |cursor| &noun.log[cursor..]);
            // Whose stream was refused waits for nothing else, however slowly he takes that.
            let is_heard =
                seat.upgraded || !seat.is_stream || world.net.line(seat.line).inbox.starts_with(b"HTTP/1.1 200");
            let is_over = is_heard && waiting.len() > OUTBOX_FRAMES_MAX && {
                let lasting = waiting.iter().filter(|said| !said.is_tick);
                let bytes: usize = lasting.clone().map(|said| said.text.len()).sum();
                lasting.count() > OUTBOX_FRAMES_MAX + 4 || bytes > OUTBOX_BYTES_MAX
            };
            // Whoever is sent away for that has a moment to hear it.
            let since = *seat.over_since.get_or_insert(now);
            let patience = u64::try_from((SLOW_LINGER_MAX + LINGER_MAX).as_nanos()).unwrap();
            if !is_over {
                seat.over_since = None;
            } else if since + patience < previous {
                violated("an outbox is bounded", &format!("{} messages wait for {seat:?}", waiting.len()));
            }
        }
    }

    fn hear_frame(&mut self, world: &mut World, at: usize, frame: Frame, is_short: bool) {
        let turn = self.model.turn;
        let now = world.now;
        let noun = &self.model.nouns[&self.seats[at].id];
        let in_fog = noun.fog || noun.fog_turn == turn;
        let text = match frame {
            Frame::Ping(payload) => {
                let seat = &mut self.seats[at];
                if matches!(seat.manner, Manner::Faithful | Manner::Lively | Manner::Rude) && !seat.gone {
                    world.net.send_from(seat.line, &peer::frame(10, &payload, 7));
                }
                return;
            }
            Frame::Pong => return,
            Frame::Close(code, reason) => return self.hear_close(world, at, code, &reason, is_short),
            Frame::Text(text) => text,
        };
        *self.tally.entry("messages").or_default() += 1;
        let seat = &mut self.seats[at];
        seat.told_at = now.mono.ns();
        if !seat.greeted {
            if !text.starts_with(r#"{"type":"connected","timer":{"#) {
                violated("the greeting comes first", &text);
            }
            seat.greeted = true;
            if !in_fog {
                let since = seat.joined.unwrap_or(turn);
                let fresh = since == turn && !is_short;
                let value: Value = serde_json::from_str(&text).unwrap();
                let why = || format!("a greeting: {text}");
                self.judge_object(now, &value["timer"], fresh, since, &why);
            }
            return;
        }
        let kind = text[9..].split('"').next().unwrap_or("");
        match kind {
            "pong" if seat.pings > 0 => seat.pings -= 1,
            "sync_response" if seat.syncs > 0 => {
                seat.syncs -= 1;
                if in_fog {
                    return;
                }
                let value: Value = serde_json::from_str(&text).unwrap();
                let fits = |face: &Face| {
                    text.ends_with(r#","client_time":1.50}"#)
                        && number(&value, "remaining_ms") == ms_up(face.left_ns(now))
                        && value["state"] == face.state.name()
                        && value["server_time_ms"] == now.wall.ms()
                };
                if !noun.shown.as_ref().is_some_and(fits) {
                    violated("each client's view is the server's", &format!("{text}: {noun:?}"));
                }
            }
            "error" if seat.sins > 0 => {}
            "pong" | "sync_response" | "error" => violated("answers are to questions", &text),
            "keepalive" => {
                let shown = noun.shown.as_ref().map(|face| face.shown_s(now));
                let left = shown.map(|left| format!(r#"{{"type":"keepalive","remaining_seconds":{left}}}"#));
                let is_gone = noun.shown.is_none();
                if !is_short && !in_fog && !is_gone && left.as_deref() != Some(&text) {
                    violated("a keepalive is true", &format!("{text}: {noun:?}"));
                }
            }
            kind => {
                if kind == "timer_tick" {
                    self.count("ticks");
                }
                self.hear_broadcast(at, &text, is_short, in_fog);
            }
        }
    }

    /// What everybody at the timer is told: the log, word for word, but for ticks that gave way to newer ones.
    fn hear_broadcast(&mut self, at: usize, text: &str, is_short: bool, in_fog: bool) {
        let seat = &mut self.seats[at];
        let noun = &self.model.nouns[&seat.id];
        if in_fog {
            seat.cursor = None;
            return;
        }
        let Some(mut cursor) = seat.cursor else { return };
        let from = cursor;
        loop {
            match noun.log.get(cursor) {
                Some(said) if said.text == text => {
                    seat.cursor = Some(cursor + 1);
                    return;
                }
                Some(said)
                    if said.is_tick && is_short && noun.log[cursor + 1..].iter().any(|later| later.is_tick) =>
                {
                    cursor += 1;
                }
                _ => {
                    let heard = format!("{text}\n  expected {:?}\n  of {noun:?}\n  {seat:?}", noun.log.get(from));
                    violated("clients hear what follows and what is durable, in order, once", &heard);
                }
            }
        }
    }

    fn hear_close(&mut self, world: &mut World, at: usize, code: Option<u16>, reason: &str, is_short: bool) {
        let now = world.now;
        let id = self.seats[at].id.clone();
        let outlived = self.model.may_be_outlived(now, &id);
        let turn = self.model.turn;
        let seat = &mut self.seats[at];
        let noun = &self.model.nouns[&id];
        let in_fog = noun.fog || noun.fog_turn == turn;
        let since = seat.joined.unwrap_or(turn);
        let there = self.plan.clients_per_timer;
        let fits = match code {
            Some(4000) => noun.shown.is_none() || outlived,
            Some(4004) => !seat.greeted && (noun.showed(0, since) || outlived),
            Some(4029) => !seat.greeted && there < 100,
            Some(1013) => is_short || reason == "Server full",
            Some(1002 | 1003 | 1007 | 1008 | 1009) => seat.sins > 0,
            Some(1000) | None => seat.gone || seat.sins > 0,
            _ => false,
        };
        if !fits && !in_fog {
            violated("nobody is sent away without cause", &format!("{code:?} {reason}: {seat:?} at {noun:?}"));
        }
        seat.closed = Some(code.unwrap_or(1005));
        self.count(match code {
            Some(4000) => "closed: deleted",
            Some(4004) => "closed: not found",
            Some(4029) => "closed: too many",
            Some(1013) => "closed: slow",
            _ => "closed: other",
        });
    }

    // -----------------------------------------------------------------------------------------------------------
    // The end of the exam.

    /// Everybody stops doing things; whoever is slow reads.
    pub fn hush(&mut self, world: &mut World) {
        self.quiet = true;
        let seats = self.seats.iter().filter(|seat| !seat.gone && seat.manner != Manner::Ghost);
        for line in seats.map(|seat| seat.line).chain(self.desks.iter().map(|desk| desk.line)) {
            world.net.widen(line);
            world.net.drain(line);
        }
    }

    /// Somebody asks for everything there is.
    pub fn ask_all(&mut self, world: &mut World) {
        let line = world.net.connect(Pace::WHOLE, usize::MAX);
        self.desks.push(Desk { line, asks: VecDeque::new(), sent: 0, last: false });
        let at = self.desks.len() - 1;
        let list = self.plain("GET", "/timers", "", Kind::List, Vec::new());
        self.ask(world, at, list);
    }

    /// Nobody waits for an answer any more.
    pub fn is_answered(&self) -> bool {
        self.desks.iter().all(|desk| desk.asks.is_empty())
    }

    /// What is owed, if anything.
    pub fn debts(&self) -> String {
        format!("{:?}", self.desks.iter().find(|desk| !desk.asks.is_empty()))
    }

    /// Every durable command was asked for, once; every acknowledged one is durable.
    pub fn settle_account(&mut self, world: &World) {
        for used in self.keys.iter().filter(|used| used.lost && used.answer.is_none()) {
            for claim in claims_of(&used.request) {
                *self.lost.entry(claim).or_default() += 1;
            }
        }
        let mut claims = self.claims.clone();
        let mut lost = self.lost.clone();
        let mut changes = 0;
        for (id, entry) in model::entries_by_key(&world.disk.history) {
            if &*entry.actor != "anonymous" {
                continue;
            }
            changes += 1;
            if self.acked.remove(&(id.clone(), entry.revision)) {
                continue;
            }
            let of_creation = entry.revision == 2
                && matches!(entry.action, Action::Scheduled { .. } | Action::Started)
                && world.disk.history[&id][0].at == entry.at;
            let claim = match &entry.action {
                Action::Created { name, .. } => (name.to_string(), "created".to_owned()),
                action => (id.clone(), claim_of_entry(action)),
            };
            let take = |from: &mut BTreeMap<(String, String), u64>| {
                let left = from.get_mut(&claim).filter(|left| **left > 0);
                left.map(|left| *left -= 1).is_some()
            };
            if !of_creation && !take(&mut claims) && !take(&mut lost) {
                let text = format!("{entry:?} of {id}: refused, or asked for fewer times than done");
                violated("what was answered with `nothing was changed` has changed nothing", &text);
            }
        }
        if let Some(missing) = self.acked.iter().next() {
            violated("acknowledged operations survive", &format!("{missing:?}"));
        }
        if let Some(missing) = claims.iter().find(|(_, left)| **left > 0) {
            violated("acknowledged operations survive", &format!("{missing:?}"));
        }
        self.tally.insert("durable commands", changes);
        self.tally.insert("expired", self.model.expired);
        let timers = world.disk.history.len() as u64;
        self.tally.insert("timers", timers);
    }
}

impl Witness for Exam {
    fn begin(&mut self, now: Now, stepped: bool, _: &Hub) {
        self.model.begin(now, stepped);
    }

    fn done(&mut self, now: Now, done: &Done) {
        match done {
            Done::Written(..) => self.model.written(now),
            Done::Failed(..) => {
                self.count("failed batches");
                self.model.failed();
            }
            Done::Doubted(_) | Done::Answered(..) | Done::Closed => {}
        }
    }

    fn due(&mut self, now: Now, _: &Hub) {
        self.model.settle_all(now);
    }

    fn read(&mut self, _: &mut Net) {}

    fn handed(&mut self, now: Now, batch: &Batch) {
        self.model.handed(now, batch);
    }

    fn judge(&mut self, world: &mut World) {
        // Upkeep: whoever hears of it first tells the reference.
        for at in (0..self.seats.len()).rev() {
            self.notice_upkeep(&mut world.net, world.now, at);
            self.hear_seat(world, at);
        }
        for at in (0..self.desks.len()).rev() {
            self.hear_desk(world, at);
        }
        let now = world.now;
        if let Some(due) = self.model.next_due(now)
            && world.next_event().ns() > due
        {
            let late: Vec<&Noun> = self.model.listed();
            let noun = late.into_iter().find(|noun| {
                noun.shown.as_ref().is_some_and(|face| match face.left {
                    Left::Until(mono, _) => mono >= due && (mono - due) % 1_000_000_000 == 0,
                    Left::Still(_) => face.start_at.is_some(),
                })
            });
            let text = format!("due at {due}, daemon wakes at {:?}: {noun:?}", world.next_event());
            violated("the daemon wakes when something is due", &text);
        }
        let heap = world.hub.engine().fx.deadlines.len();
        let sessions = world.hub.engine().delivery.len();
        let rooms = world.hub.engine().rooms.len();
        let sane = 1_200 + 4 * (self.model.nouns.len() + sessions + rooms) + 8 * world.net.opened;
        if heap > sane {
            violated("the heap is bounded", &format!("{heap} deadlines, {sane} are sane"));
        }
        self.previous = now.mono.ns();
    }

    fn restarted(&mut self, world: &mut World, image: &Image) {
        let desks = std::mem::take(&mut self.desks);
        for desk in desks {
            self.astray(desk.asks);
            world.net.forget(desk.line);
        }
        for seat in std::mem::take(&mut self.seats) {
            world.net.forget(seat.line);
        }
        // What anybody saw is there, but for what time alone had brought about and will again.
        for (id, seen) in std::mem::take(&mut self.seen) {
            let noun = &self.model.nouns[&id];
            let durable = world.disk.history.get(&id).map_or(0, Vec::len) as u64;
            for revision in durable + 1..=seen {
                let state = noun.faces[&revision].state;
                if !matches!(state, State::Expired | State::Running) {
                    violated("nobody sees a change that a crash undoes", &format!("{revision} of {noun:?}"));
                }
            }
        }
        self.model.restore(world.now, image);
        self.previous = world.now.mono.ns();
        self.count("restarts");
        self.ask_all(world);
    }
}

impl Exam {
    /// The reference cannot foretell in which minute old timers go: the first who is told so tells it.
    fn notice_upkeep(&mut self, net: &mut Net, now: Now, at: usize) {
        let seat = &self.seats[at];
        if !self.model.may_be_outlived(now, &seat.id) {
            return;
        }
        let told = net.line(seat.line).inbox.windows(15).any(|bytes| bytes == br#""timer_deleted""#);
        let noun = &self.model.nouns[&seat.id];
        if told && noun.shown.is_some() {
            let (id, turn) = (seat.id.clone(), self.model.turn);
            self.model.outlived(now, &id, turn);
        }
    }
}

/// Answered with a refusal that ends the connection.
const BREAKING: &[u16] = &[400, 408, 501, 505];

/// The word in the account for a change that is asked for.
fn claim_of(action: &str, seconds: u64) -> String {
    match action {
        "start" | "resume" => "run".to_owned(),
        "pause" => "paused".to_owned(),
        "stop" => "stopped".to_owned(),
        "delete" => "deleted".to_owned(),
        _ => format!("extended by {seconds}"),
    }
}

/// The same word for a change that was made.
fn claim_of_entry(action: &Action) -> String {
    match action {
        Action::Started | Action::Resumed => "run".to_owned(),
        Action::Extended { added_s } => format!("extended by {added_s}"),
        other => other.name().to_owned(),
    }
}

/// Every change that a request asks for.
fn claims_of(request: &Request) -> Vec<(String, String)> {
    match &request.kind {
        Kind::Create { name, .. } => vec![(name.clone(), "created".to_owned())],
        Kind::Control { claim } | Kind::Bulk { claim } => {
            request.ids.iter().map(|id| (id.clone(), claim.clone())).collect()
        }
        Kind::Delete => vec![(request.ids[0].clone(), "deleted".to_owned())],
        Kind::Get | Kind::List | Kind::History | Kind::Only(_) => Vec::new(),
    }
}

fn status_name(status: u16) -> &'static str {
    match status {
        200..300 => "answers 2xx",
        503 => "answers 503",
        _ => "answers 4xx",
    }
}

fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value[field].as_str().unwrap_or_else(|| violated("an answer has its fields", &format!("{field} in {value}")))
}

fn number(value: &Value, field: &str) -> u64 {
    value[field].as_u64().unwrap_or_else(|| violated("an answer has its fields", &format!("{field} in {value}")))
}
