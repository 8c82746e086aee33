//! Those who look at a room without being in it.
//!
//! Owns `GET /rooms/{id}` and how it is spelled, and holds each answer against the ledger: a room as it was shown at
//! the instant that the answer names, word for word, or none.

use std::collections::VecDeque;

use serde_json::Value;

use super::Teams;
use super::ledger::since;
use super::members::users;
use super::model::is_list;
use crate::net::{Net, Pace};
use crate::peer::{self, Answer};
use crate::world::{World, violated};

/// A request on its way.
#[derive(Debug)]
struct Call {
    /// Which room is meant.
    key: Option<u64>,
    head_only: bool,
    end: u64,
    delivered: Option<u64>,
}

/// Somebody who asks.
#[derive(Debug)]
pub(super) struct Caller {
    pub line: usize,
    calls: VecDeque<Call>,
    sent: u64,
    is_last: bool,
}

impl Caller {
    /// He waits for nothing.
    pub(super) fn is_idle(&self) -> bool {
        self.calls.is_empty()
    }
}

impl Teams {
    /// Somebody looks at a room, or at several one after another.
    pub(super) fn call(&mut self, world: &mut World) {
        if self.callers.len() < 2 || self.rng.percent(5) {
            let line = world.net.connect(Pace::WHOLE, usize::MAX);
            self.callers.push(Caller { line, calls: VecDeque::new(), sent: 0, is_last: false });
        }
        let open: Vec<usize> = (0..self.callers.len()).filter(|at| !self.callers[*at].is_last).collect();
        if open.is_empty() {
            return;
        }
        let at = open[self.rng.index(open.len())];
        let count = if self.rng.percent(70) { 1 } else { self.rng.range(2, 4) };
        for _ in 0..count {
            if self.callers[at].calls.len() < 8 {
                let keys: Vec<u64> = self.ledger.nouns.keys().copied().collect();
                let key = keys.get(self.rng.index(keys.len())).copied().filter(|_| self.rng.percent(96));
                self.look(world, at, key);
            }
        }
    }

    fn look(&mut self, world: &mut World, at: usize, key: Option<u64>) {
        let id = key.and_then(|key| self.ledger.nouns[&key].id.clone());
        let (path, key) = match id {
            Some(id) => (self.spelled(&id), key),
            None => (self.rng.pick(&["0000000000", "x", "a-room-that-never-was", "%00"]).to_owned(), None),
        };
        let head_only = self.rng.percent(8);
        let method = if head_only { "HEAD" } else { "GET" };
        let request = format!("{method} /rooms/{path} HTTP/1.1\r\nHost: team\r\n\r\n");
        let caller = &mut self.callers[at];
        world.net.send_from(caller.line, request.as_bytes());
        caller.sent += request.len() as u64;
        caller.calls.push_back(Call { key, head_only, end: caller.sent, delivered: None });
    }

    /// Somebody looks at every room there is.
    pub(super) fn ask_all(&mut self, world: &mut World) {
        let keys: Vec<u64> = self.ledger.nouns.keys().copied().collect();
        for some in keys.chunks(8) {
            let line = world.net.connect(Pace::WHOLE, usize::MAX);
            self.callers.push(Caller { line, calls: VecDeque::new(), sent: 0, is_last: false });
            let at = self.callers.len() - 1;
            some.iter().for_each(|key| self.look(world, at, Some(*key)));
        }
    }

    /// The hub has read what it would.
    pub(super) fn read_callers(&mut self, net: &mut Net) {
        let turn = self.ledger.turn();
        for caller in &mut self.callers {
            let delivered = net.line(caller.line).delivered;
            let whole = caller.calls.iter_mut().filter(|call| call.delivered.is_none() && call.end <= delivered);
            whole.for_each(|call| call.delivered = Some(turn));
        }
    }

    /// Whatever has come to somebody who asks.
    pub(super) fn hear_caller(&mut self, world: &mut World, at: usize) {
        let line = world.net.line(self.callers[at].line);
        let is_closed = line.closed;
        let mut inbox = std::mem::take(&mut line.inbox);
        loop {
            let head_only = self.callers[at].calls.front().is_some_and(|call| call.head_only);
            let answer = match peer::next_answer(&mut inbox, head_only) {
                Ok(Some(answer)) => answer,
                Ok(None) => break,
                Err(what) => violated("an answer is HTTP", &what),
            };
            if answer.field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
                self.callers[at].is_last = true;
            }
            let Some(call) = self.callers[at].calls.pop_front() else {
                if answer.status == 408 {
                    continue;
                }
                violated("each request is answered once", &format!("{answer:?} answers nothing"));
            };
            self.judge_answer(world, &call, &answer);
        }
        world.net.line(self.callers[at].line).inbox = inbox;
        if is_closed {
            let caller = self.callers.swap_remove(at);
            world.net.forget(caller.line);
        } else if world.net.line(self.callers[at].line).finished {
            self.callers[at].is_last = true;
        }
    }

    fn judge_answer(&mut self, world: &mut World, call: &Call, answer: &Answer) {
        let why = || format!("{answer:?} answers {call:?}");
        let from = match (call.delivered, answer.status) {
            (_, 408 | 503) => return,
            (Some(from), 200 | 404) => from,
            _ => violated("an answer fits its request", &why()),
        };
        self.count("rooms looked at");
        let noun = call.key.and_then(|key| self.ledger.nouns.get(&key));
        if answer.status == 404 {
            let is_gone = noun.is_none_or(|noun| {
                let began = noun.faces.first().map_or(u64::MAX, |(began, _)| *began);
                began >= from || since(&noun.faces, from).iter().any(|(_, face)| face.is_none())
            });
            if !is_gone && !call.key.is_some_and(|key| self.ledger.is_unsure(key, world.now)) {
                violated("a room that is there is found", &format!("{}: {noun:?}", why()));
            }
            if !call.head_only && answer.body != br#"{"detail":"Room not found"}"# {
                violated("an answer fits its request", &why());
            }
            return;
        }
        let Some(noun) = noun else { violated("only what was made is found", &why()) };
        if call.head_only {
            return;
        }
        let text = String::from_utf8_lossy(&answer.body);
        let value: Value = serde_json::from_str(&text).unwrap_or_else(|_| violated("an answer is JSON", &why()));
        let list = super::members::users_of(&value, &text);
        let at_ms = value["serverTime"].as_i64().unwrap_or_default();
        let id = noun.id.clone().unwrap_or_default();
        let fits = (from..=self.ledger.turn()).any(|turn| {
            let then = self.ledger.turns[usize::try_from(turn).unwrap()];
            let faces = since(&noun.faces, turn).iter().filter_map(|(_, face)| face.as_ref());
            then.wall.ms() == at_ms
                && (noun.learnt >= turn || since(&noun.lists, turn).iter().any(|(_, known)| is_list(&list, known)))
                && faces
                    .map(|face| face.fields(&id, then))
                    .any(|fields| text == format!(r#"{{{fields},"users":{},"serverTime":{at_ms}}}"#, users(&list)))
        });
        if !fits {
            violated("what is read is what is shown", &format!("{}: {noun:?}", why()));
        }
    }
}
