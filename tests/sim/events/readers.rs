//! Those who read, post and delete over REST.
//!
//! Owns what each of them asked for, when, and how far each who reads page by page has come: pages miss nothing and
//! repeat nothing, whatever was there at one instant is what one answer tells of, and deleted is what was to be.

use std::collections::VecDeque;

use serde_json::Value;
use timerd::api::time::date_time_ms;
use timerd::clock::WallMs;
use timerd::domain::disk::Extent;

use super::model::{TYPES, Want};
use super::{Fair, SESSIONS, USERS, encoded};
use crate::disk::names;
use crate::net::Pace;
use crate::peer::{self, Answer};
use crate::world::{World, violated};

/// What a request is for.
#[derive(Clone, Debug)]
enum Kind {
    /// A message, and the use of a key that it belongs to.
    Post(usize, Option<usize>),
    /// Events from the newest on, later than that instant, so many.
    Newest(Want, Option<i64>, usize),
    /// The next page of a reader.
    Page(usize),
    One(u64),
    Stats,
    Delete(usize),
    /// The answer is one of these.
    Only(&'static [u16]),
}

/// A request on its way.
#[derive(Debug)]
pub struct Ask {
    kind: Kind,
    /// In which state of the disk it was sent.
    since: usize,
    /// What the wall clock has shown since.
    walls: Vec<i64>,
}

/// A connection of somebody who asks.
#[derive(Debug)]
pub struct Clerk {
    /// Its line.
    pub line: usize,
    /// What it has asked for.
    pub asks: VecDeque<Ask>,
    /// It has left, or was told to.
    last: bool,
}

/// Somebody who reads everything, page by page.
#[derive(Debug)]
pub struct Reader {
    want: Want,
    after: u64,
    limit: usize,
    is_asking: bool,
    /// There was nothing more.
    is_done: bool,
}

/// Somebody wants events deleted.
#[derive(Debug)]
pub struct Deletion {
    /// Which.
    pub extent: Extent,
    /// So many were, once that has happened.
    pub deleted: Option<u64>,
    is_told: bool,
}

/// A post that may be sent again.
#[derive(Debug)]
pub struct KeyUse {
    letter: usize,
    answer: Option<Vec<u8>>,
}

/// A filter as a query.
fn query_of(want: &Want) -> String {
    let kind = want.types.map(|types| TYPES[types.trailing_zeros() as usize]);
    let fields = [("event_type", kind), ("session_id", want.session.as_deref()), ("user_id", want.user.as_deref())];
    let given = fields.into_iter().filter_map(|(name, value)| Some(format!("&{name}={}", encoded(value?))));
    given.collect()
}

impl Fair {
    fn some_clerk(&mut self, world: &mut World) -> Option<usize> {
        if self.clerks.len() < 3 {
            let line = world.net.connect(Pace::WHOLE, usize::MAX);
            self.clerks.push(Clerk { line, asks: VecDeque::new(), last: false });
        }
        let free = |clerk: &Clerk| !clerk.last && clerk.asks.len() < 4;
        let ready: Vec<usize> = (0..self.clerks.len()).filter(|at| free(&self.clerks[*at])).collect();
        ready.get(self.rng.index(ready.len())).copied()
    }

    fn ask(&mut self, world: &mut World, at: usize, kind: Kind, request: &str) {
        let clerk = &mut self.clerks[at];
        world.net.send_from(clerk.line, request.as_bytes());
        clerk.asks.push_back(Ask { kind, since: self.archive.version(), walls: Vec::new() });
    }

    fn get(&mut self, world: &mut World, at: usize, kind: Kind, path: &str) {
        let prefix = if self.rng.percent(50) { "/api/v1" } else { "" };
        self.ask(world, at, kind, &format!("GET {prefix}{path} HTTP/1.1\r\nHost: exam\r\n\r\n"));
    }

    /// Somebody publishes over REST.
    pub fn post(&mut self, world: &mut World) {
        let Some(at) = self.some_clerk(world) else { return };
        let count = if self.rng.percent(70) { 1 } else { self.rng.range(2, 4) };
        for _ in 0..count {
            if self.clerks[at].asks.len() >= 4 {
                return;
            }
            let path = self.rng.pick(&["/events", "/api/v1/events", "/api/v1/events/"]);
            let (kind, body, key) = if self.rng.percent(self.plan.bad) {
                let body = self.rng.pick(&["", "{}", r#"{"event_type":"quiz_exploded","source":"a"}"#]);
                (Kind::Only(&[400, 422]), body.to_owned(), None)
            } else {
                let again = !self.keys.is_empty() && self.rng.percent(20);
                let is_keyed = again || self.rng.percent(30);
                let key = match again {
                    true => Some(self.keys.len() - 1 - self.rng.index(self.keys.len().min(5))),
                    false => is_keyed.then_some(self.keys.len()),
                };
                let number = match key.and_then(|key| self.keys.get(key)) {
                    Some(used) => used.letter,
                    None => self.write_letter(),
                };
                if key == Some(self.keys.len()) {
                    self.keys.push(KeyUse { letter: number, answer: None });
                }
                self.letters[number].sent();
                (Kind::Post(number, key), self.letters[number].body(number), key)
            };
            let key = key.map_or(String::new(), |key| format!("Idempotency-Key: event-{key}\r\n"));
            let length = body.len();
            let request =
                format!("POST {path} HTTP/1.1\r\nHost: exam\r\n{key}Content-Length: {length}\r\n\r\n{body}");
            self.ask(world, at, kind, &request);
        }
    }

    /// Somebody reads, or deletes.
    pub fn look_up(&mut self, world: &mut World) {
        let Some(at) = self.some_clerk(world) else { return };
        match self.rng.below(100) {
            0..45 => self.turn_page(world, at),
            45..65 => {
                let want = Want {
                    types: self.rng.percent(30).then(|| 1 << self.rng.index(TYPES.len())),
                    session: self.rng.percent(30).then(|| SESSIONS[self.rng.index(SESSIONS.len())].to_owned()),
                    user: self.rng.percent(15).then(|| USERS[self.rng.index(USERS.len())].to_owned()),
                };
                let limit = self.rng.pick(&[1, 7, 50, self.plan.page_max]);
                let since_ms = self.rng.percent(30).then(|| world.now.wall.ms() - self.some_ms());
                let since = since_ms
                    .map_or(String::new(), |ms| format!("&since={}", encoded(&date_time_ms(WallMs::from_ms(ms)))));
                let path = format!("/events?limit={limit}{}{since}", query_of(&want));
                self.get(world, at, Kind::Newest(want, since_ms, limit), &path);
            }
            65..75 => {
                let seq = self.rng.below(self.archive.state().last_seq + 3);
                self.get(world, at, Kind::One(seq), &format!("/events/evt_{:012x}", names().id(seq)));
            }
            75..85 => self.get(world, at, Kind::Stats, "/stats"),
            85..90 => {
                let path = self.rng.pick(&[
                    "/events?limit=0",
                    "/events?since=yesterday",
                    "/events?after=x",
                    "/events/evt_1",
                    "/events?event_type=a_type_that_is_longer_than_any_type_could_ever_be_here",
                ]);
                self.get(world, at, Kind::Only(&[400, 404, 422]), path);
            }
            90..94 => {
                let path = self.rng.pick(&["/event-types", "/api/v1/event-types", "/readiness"]);
                self.ask(world, at, Kind::Only(&[200, 503]), &format!("GET {path} HTTP/1.1\r\nHost: exam\r\n\r\n"));
            }
            _ if self.plan.deletes => {
                let all = self.rng.percent(30);
                let before = WallMs::from_ms(world.now.wall.ms() - self.some_ms());
                let (extent, query) = match all {
                    true => (Extent::All, String::new()),
                    false => (Extent::Before(before), format!("?before={}", encoded(&date_time_ms(before)))),
                };
                self.deletions.push(Deletion { extent, deleted: None, is_told: false });
                let request = format!("DELETE /events{query} HTTP/1.1\r\nHost: exam\r\n\r\n");
                self.ask(world, at, Kind::Delete(self.deletions.len() - 1), &request);
            }
            _ => {}
        }
    }

    fn some_ms(&mut self) -> i64 {
        i64::try_from(self.rng.below(40_000)).unwrap()
    }

    fn turn_page(&mut self, world: &mut World, at: usize) {
        if self.readers.len() < 4 {
            let last_seq = self.archive.state().last_seq;
            let want = Want {
                types: self.rng.percent(30).then(|| 1 << self.rng.index(TYPES.len())),
                session: self.rng.percent(20).then(|| SESSIONS[self.rng.index(SESSIONS.len())].to_owned()),
                user: None,
            };
            let after = if self.rng.percent(50) { 0 } else { self.rng.below(last_seq + 1) };
            let limit = self.rng.pick(&[1, 13, 50, self.plan.page_max]);
            self.readers.push(Reader { want, after, limit, is_asking: false, is_done: false });
        }
        let ready: Vec<usize> = (0..self.readers.len()).filter(|at| !self.readers[*at].is_asking).collect();
        if !ready.is_empty() {
            let reader = ready[self.rng.index(ready.len())];
            self.ask_page(world, at, reader);
        }
    }

    fn ask_page(&mut self, world: &mut World, at: usize, number: usize) {
        let reader = &mut self.readers[number];
        reader.is_asking = true;
        let Reader { want, after, limit, .. } = reader;
        let path = format!("/events?after={after}&limit={limit}{}", query_of(want));
        self.get(world, at, Kind::Page(number), &path);
    }

    /// Readers read on to the end.
    pub fn read_on(&mut self, world: &mut World) {
        for number in 0..self.readers.len() {
            let reader = &mut self.readers[number];
            reader.limit = self.plan.page_max;
            if !reader.is_asking
                && !reader.is_done
                && let Some(at) = self.some_clerk(world)
            {
                self.ask_page(world, at, number);
            }
        }
    }

    /// Somebody asks for everything there is.
    pub fn ask_for_all(&mut self, world: &mut World) {
        self.readers.iter_mut().for_each(|reader| reader.is_done = false);
        let line = world.net.connect(Pace::WHOLE, usize::MAX);
        self.clerks.push(Clerk { line, asks: VecDeque::new(), last: false });
        let at = self.clerks.len() - 1;
        self.get(world, at, Kind::Stats, "/stats");
        let limit = self.plan.page_max;
        self.get(world, at, Kind::Newest(Want::default(), None, limit), &format!("/events?limit={limit}"));
    }

    /// A connection breaks.
    pub fn drop_clerk(&mut self, world: &mut World) {
        if !self.clerks.is_empty() {
            let at = self.rng.index(self.clerks.len());
            let clerk = &mut self.clerks[at];
            if !clerk.last {
                clerk.last = true;
                world.net.reset_from(clerk.line);
            }
        }
    }

    /// These requests will not be answered.
    pub fn clerk_gone(&mut self, asks: impl IntoIterator<Item = Ask>) {
        for ask in asks {
            match ask.kind {
                Kind::Post(number, _) => self.astray([number]),
                Kind::Page(reader) => self.readers[reader].is_asking = false,
                _ => {}
            }
        }
    }

    /// What somebody who asked hears.
    pub fn hear_clerk(&mut self, world: &mut World, at: usize) {
        let wall = world.now.wall.ms();
        for ask in &mut self.clerks[at].asks {
            ask.walls.push(wall);
        }
        let line = self.clerks[at].line;
        let mut inbox = std::mem::take(&mut world.net.line(line).inbox);
        while !inbox.is_empty() {
            let answer = match peer::next_answer(&mut inbox, false) {
                Ok(Some(answer)) => answer,
                Ok(None) => break,
                Err(what) => violated("an answer is HTTP", &what),
            };
            self.clerks[at].last |= answer.field("connection") == Some("close");
            match self.clerks[at].asks.pop_front() {
                Some(ask) => self.judge_answer(&ask, &answer),
                None => violated("each request is answered once", &format!("{answer:?} answers nothing")),
            }
        }
        let net_line = world.net.line(line);
        net_line.inbox = inbox;
        let (is_closed, is_finished) = (net_line.closed, net_line.finished);
        self.clerks[at].last |= is_finished;
        if is_closed {
            let clerk = self.clerks.swap_remove(at);
            self.clerk_gone(clerk.asks);
            world.net.forget(line);
        }
    }

    fn judge_answer(&mut self, ask: &Ask, answer: &Answer) {
        let why = || format!("{:.2000}\n  answers {ask:?}", format!("{answer:?}"));
        let body = String::from_utf8_lossy(&answer.body);
        let unknown = answer.status == 503 && body.contains("utcome unknown");
        if answer.status == 503 && answer.field("retry-after").is_none() && !matches!(ask.kind, Kind::Only(_)) {
            violated("503 says when to come again", &why());
        }
        match (&ask.kind, answer.status) {
            (Kind::Only(statuses), status) if statuses.contains(&status) || status == 503 => {}
            (Kind::Post(number, _), 503) => self.told_refused(*number, unknown),
            (Kind::Page(reader), 503) => self.readers[*reader].is_asking = false,
            (_, 503) => self.count("reads refused", 1),
            (Kind::Post(number, key), 201) => {
                let id = body.get(7..23).unwrap_or_default();
                let seq = self.told_stored(*number, id);
                let kept = self.archive.get(seq).unwrap();
                if *kept.text != *body {
                    violated("an answer is the event as it is stored", &format!("{kept:?}: {}", why()));
                }
                let replayed = answer.field("idempotency-replayed").is_some();
                let first = key.and_then(|key| self.keys[key].answer.replace(answer.body.clone()));
                if replayed && key.is_none() || first.is_some_and(|first| first != answer.body) {
                    violated("a repeat gets the first answer", &why());
                }
            }
            // It was deleted since, and is not published again.
            (Kind::Post(number, Some(_)), 404) if answer.field("idempotency-replayed").is_some() => {
                self.told_gone(*number, ask.since, &why);
            }
            (Kind::Newest(want, since_ms, limit), 200) => {
                match self.archive.read_newest(&body, want, *since_ms, *limit, ask.since) {
                    Ok(_) => self.count("newest first", 1),
                    Err(what) => {
                        violated("a search tells what was there at one instant", &format!("{what}: {}", why()))
                    }
                }
            }
            (Kind::Page(number), 200) => {
                let Reader { want, after, limit, .. } = &self.readers[*number];
                let read = self.archive.read_page(&body, want, *after, (*limit).max(1), ask.since);
                let (count, last) = match read {
                    Ok(read) => read,
                    Err(what) => {
                        let text = format!("{what}: {:?}, {}", self.readers[*number], why());
                        violated("pages miss nothing and repeat nothing", &text)
                    }
                };
                let reader = &mut self.readers[*number];
                (reader.is_asking, reader.after) = (false, last);
                reader.is_done = self.quiet && count == 0;
                self.count("pages", 1);
            }
            (Kind::Page(number), 410) => {
                let told: Value = serde_json::from_slice(&answer.body).unwrap();
                let reader = &mut self.readers[*number];
                let gone_seq = told["oldest_seq"].as_u64().unwrap_or(0).saturating_sub(1);
                let is_true = self.archive.states_since(ask.since).iter().any(|state| state.gone_seq == gone_seq);
                let text = format!("Events up to {gone_seq} were deleted");
                if !is_true || gone_seq <= reader.after || told["detail"] != text {
                    violated("whoever is behind what is deleted hears where it goes on", &why());
                }
                (reader.is_asking, reader.after) = (false, gone_seq);
                self.count("gone 410", 1);
            }
            (Kind::One(seq), 200) => {
                let is_it = self.archive.get(*seq).is_some_and(|kept| *kept.text == *body);
                if !is_it || !self.archive.was_there(*seq, ask.since).0 {
                    violated("an event is found by its id", &why());
                }
            }
            (Kind::One(seq), 404) => {
                if !self.archive.was_there(*seq, ask.since).1 {
                    violated("an event is found by its id", &why());
                }
            }
            (Kind::Stats, 200) => {
                let stats: Value = serde_json::from_slice(&answer.body).unwrap();
                let mut walls = ask.walls.clone();
                walls.dedup();
                if !self.archive.had_figures(&stats, ask.since, &walls) {
                    violated("figures are those of one instant", &format!("{:?}: {}", self.archive.state(), why()));
                }
                self.count("figures", 1);
            }
            (Kind::Delete(number), 200) => {
                let told: Value = serde_json::from_slice(&answer.body).unwrap();
                let extent = self.deletions[*number].extent;
                let done = self
                    .deletions
                    .iter_mut()
                    .find(|done| done.extent == extent && !done.is_told && done.deleted == told["deleted"].as_u64());
                let Some(done) = done else { violated("what is told to be deleted is", &why()) };
                done.is_told = true;
                let at = match extent {
                    Extent::Before(at) => at,
                    _ => WallMs::from_ms(i64::MAX),
                };
                if let Some(left) = self.archive.left_before(at, ask.since) {
                    violated("what is told to be deleted is", &format!("{left:?} is left: {}", why()));
                }
                self.count("deletions", 1);
            }
            _ => violated("an answer fits its request", &why()),
        }
    }

    /// A repeat was told that what was published first is gone.
    fn told_gone(&mut self, number: usize, since: usize, why: &dyn Fn() -> String) {
        let stored = self.letters[number].answered();
        if !stored.is_some_and(|seq| self.archive.was_there(seq, since).1) {
            violated("only what is deleted is gone", &why());
        }
    }
}
