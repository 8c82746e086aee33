//! Invigilators, and candidates without a socket: whoever asks over REST.
//!
//! Owns what is asked and how, and holds every answer against the ledger: what is acknowledged is durable and told as
//! it was done, what is refused has its reason, what is read was shown.

use std::collections::VecDeque;
use std::fmt;
use std::rc::Rc;

use serde_json::Value;

use super::Hall;
use super::answers::{View, exam_value, status, way};
use super::ledger::{Deed, Exam, Face, Noun, Outcome, Person, What};
use super::model::{Op, State};
use crate::net::Pace;
use crate::peer::{self, Answer};
use crate::world::{World, violated};

/// What a request is for.
#[derive(Clone, Debug)]
enum Kind {
    Put(Rc<Exam>),
    Drop(String),
    Admit(Person),
    Start {
        exam: String,
        candidate: String,
    },
    Deed(Rc<str>, Deed),
    Bulk(String, Deed),
    Current(Rc<str>),
    Whole(Rc<str>),
    Save(Rc<str>),
    Exam(String),
    Exams,
    Person(String),
    Rows(String, Option<State>),
    Results(String),
    /// The answer is one of these, and nothing changes.
    Only(&'static [u16]),
}

/// A request on its way.
pub struct Request {
    kind: Kind,
    pub(super) ask: usize,
    text: String,
    pub(super) end: u64,
    pub(super) delivered: Option<u64>,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}, delivered in {:?}: {:.400}", self.kind, self.delivered, self.text)
    }
}

/// A connection of somebody.
#[derive(Debug)]
pub struct Desk {
    /// Its line.
    pub line: usize,
    /// What is unanswered.
    pub asks: VecDeque<Request>,
    sent: u64,
    is_last: bool,
}

impl Hall {
    /// Somebody asks for something.
    pub fn come_to_desk(&mut self, world: &mut World) {
        let count = if self.rng.percent(75) { 1 } else { self.rng.range(2, 5) };
        for _ in 0..count {
            self.ask_something(world);
        }
    }

    /// A connection that takes another request.
    fn desk(&mut self, world: &mut World) -> usize {
        let ready: Vec<usize> =
            (0..self.desks.len()).filter(|at| !self.desks[*at].is_last && self.desks[*at].asks.len() < 10).collect();
        if (ready.is_empty() || self.desks.len() < self.plan.desks) && self.desks.len() < 60 {
            let is_whole = self.quiet || self.rng.percent(75);
            let pace = if is_whole { Pace::WHOLE } else { Pace { piece: self.rng.pick(&[20, 300]), pieces: 400 } };
            let line = world.net.connect(pace, usize::MAX);
            self.desks.push(Desk { line, asks: VecDeque::new(), sent: 0, is_last: false });
            return self.desks.len() - 1;
        }
        if ready.is_empty() { self.desks.len() - 1 } else { ready[self.rng.index(ready.len())] }
    }

    fn send(&mut self, world: &mut World, kind: Kind, what: What, method: &str, path: &str, body: &str) {
        let at = self.desk(world);
        let text = if body.is_empty() {
            format!("{method} {path} HTTP/1.1\r\nHost: hall\r\n\r\n")
        } else {
            let length = body.len();
            format!("{method} {path} HTTP/1.1\r\nHost: hall\r\nContent-Length: {length}\r\n\r\n{body}")
        };
        let desk = &mut self.desks[at];
        let ask = self.ledger.ask(what, desk.line, method == "GET");
        world.net.send_from(desk.line, text.as_bytes());
        desk.sent += text.len() as u64;
        desk.asks.push_back(Request { kind, ask, text, end: desk.sent, delivered: None });
    }

    fn look(&mut self, world: &mut World, kind: Kind, path: &str) {
        self.send(world, kind, What::Read, "GET", path, "");
    }

    fn ask_something(&mut self, world: &mut World) {
        if self.rng.percent(self.plan.nonsense) {
            return self.ask_nonsense(world);
        }
        let exams: Vec<String> =
            self.ledger.exams.iter().filter(|(_, it)| it.last().is_some()).map(|it| it.0.clone()).collect();
        if exams.len() < self.plan.exams && self.rng.percent(if exams.is_empty() { 90 } else { 20 }) {
            return self.write_exam(world);
        }
        let exam = exams.get(self.rng.index(exams.len())).cloned().unwrap_or_else(|| "exam-0".to_owned());
        let wanted = if self.active() < self.plan.sessions { 35 } else { 5 };
        if self.rng.percent(wanted) {
            return self.start(world, exam);
        }
        let Some(id) = self.some_session() else { return self.start(world, exam) };
        match self.rng.below(100) {
            0..40 => {
                let deed = self.some_deed(&id);
                self.send_deed(world, id, deed);
            }
            40..60 => {
                let deed = self.some_order(&id);
                self.send_deed(world, id, deed);
            }
            60..66 => {
                let seconds = self.rng.range(1, 20);
                let op = self.rng.pick(&[0, 0, 1, 1, 2]);
                let op = [Op::Pause, Op::Resume, Op::Extend(seconds)][op].clone();
                let deed = Deed { reason: reason_of(&op), ..Deed::plain(op) };
                let (word, body) = order_of(&deed);
                let path = format!("/delivery/assessments/{exam}/{word}");
                let what = What::Bulk(exam.clone(), deed.clone());
                self.send(world, Kind::Bulk(exam, deed), what, "POST", &path, &body);
            }
            66..76 => self.look(world, Kind::Current(id.clone()), &format!("/delivery/session/{id}/current")),
            76..82 => self.look_at_all_of(world, &id),
            82..87 => {
                let path = format!("/delivery/session/{id}/save");
                self.send(world, Kind::Save(id), What::Read, "POST", &path, "");
            }
            87..90 => self.look_at_list_of(world, &exam),
            90..92 => self.write_exam(world),
            92..97 => {
                let person = self.some_person();
                let accommodations = match person.factor {
                    1_000 => String::new(),
                    factor => {
                        format!(r#","accommodations":{{"EXTRA_TIME":{}.{:03}}}"#, factor / 1_000, factor % 1_000)
                    }
                };
                let body = format!(r#"{{"name":"N","is_active":{}{accommodations}}}"#, person.is_active);
                let path = format!("/delivery/candidates/{}", person.id);
                self.send(world, Kind::Admit(person.clone()), What::Admit(person), "PUT", &path, &body);
            }
            97 => {
                let person = self.some_person().id;
                self.look(world, Kind::Person(person.clone()), &format!("/delivery/candidates/{person}"));
            }
            98 => self.look(world, Kind::Exam(exam.clone()), &format!("/delivery/assessments/{exam}")),
            _ if self.rng.percent(50) => self.look(world, Kind::Exams, "/delivery/assessments"),
            _ => {
                let path = format!("/delivery/assessments/{exam}");
                self.send(world, Kind::Drop(exam.clone()), What::Drop(exam), "DELETE", &path, "");
            }
        }
    }

    fn write_exam(&mut self, world: &mut World) {
        let exam = Rc::new(self.some_exam());
        let path = format!("/delivery/assessments/{}", exam.id);
        let body = exam_value(&exam).to_string();
        self.send(world, Kind::Put(exam.clone()), What::Put(exam), "PUT", &path, &body);
    }

    fn start(&mut self, world: &mut World, exam: String) {
        self.names += 1;
        let candidate = self.some_person().id;
        let taker = format!("taker-{}", self.names);
        let body = format!(r#"{{"candidate_id":"{candidate}","test_taker_id":"{taker}"}}"#);
        let path = format!("/delivery/start/{exam}");
        let what = What::Start(exam.clone(), candidate.clone(), taker);
        self.send(world, Kind::Start { exam, candidate }, what, "POST", &path, &body);
    }

    /// Something is done to a session.
    pub fn send_deed(&mut self, world: &mut World, id: Rc<str>, deed: Deed) {
        let (word, body) = order_of(&deed);
        let path = format!("/delivery/session/{id}/{word}");
        self.send(world, Kind::Deed(id.clone(), deed.clone()), What::Deed(id, deed), "POST", &path, &body);
    }

    /// Somebody looks at a whole session.
    pub fn look_at_all_of(&mut self, world: &mut World, id: &Rc<str>) {
        self.look(world, Kind::Whole(id.clone()), &format!("/delivery/session/{id}"));
    }

    /// Somebody looks at the sessions of an assessment, or at what came of it.
    pub fn look_at_list_of(&mut self, world: &mut World, exam: &str) {
        if self.rng.percent(30) {
            let path = format!("/delivery/assessments/{exam}/results");
            return self.look(world, Kind::Results(exam.to_owned()), &path);
        }
        let state = self.rng.percent(30).then(|| self.rng.pick(&State::ALL));
        let query = state.map_or(String::new(), |state| format!("?state={}", state.name()));
        let path = format!("/delivery/assessments/{exam}/sessions{query}");
        self.look(world, Kind::Rows(exam.to_owned(), state), &path);
    }

    fn ask_nonsense(&mut self, world: &mut World) {
        const NO_FORM: &[u16] = &[422];
        const NOT_THERE: &[u16] = &[404, 503];
        let id = self.some_session().unwrap_or_else(|| Rc::from("00000000-0000-4000-8000-000000000000"));
        let (statuses, method, path, body): (&'static [u16], _, String, &str) = match self.rng.below(14) {
            0 => (NO_FORM, "POST", format!("/delivery/session/{id}/answer"), r#"{"item_id":"q0"}"#),
            1 => (NO_FORM, "POST", format!("/delivery/session/{id}/answer"), r#"{"item_id":"q0","response":7}"#),
            2 => (NO_FORM, "POST", format!("/delivery/session/{id}/navigate"), r#"{"target_index":1}"#),
            3 => (NO_FORM, "POST", format!("/delivery/session/{id}/extend"), r#"{"seconds":0}"#),
            4 => (NO_FORM, "POST", format!("/delivery/session/{id}/submit"), r#"{"answers":[1]}"#),
            5 => (NOT_THERE, "POST", "/delivery/session/nobody/pause".into(), ""),
            6 => (NOT_THERE, "GET", "/delivery/session/nobody/current".into(), ""),
            7 => (NOT_THERE, "POST", "/delivery/start/nothing".into(), r#"{"candidate_id":"a","test_taker_id":"b"}"#),
            8 => (NO_FORM, "POST", "/delivery/start/exam-0".into(), r#"{"candidate_id":"a"}"#),
            9 => (NO_FORM, "PUT", "/delivery/assessments/exam-0".into(), r#"{"sections":[]}"#),
            10 => (NO_FORM, "PUT", "/delivery/candidates/c".into(), r#"{"accommodations":{"EXTRA_TIME":9}}"#),
            11 => (&[405], "DELETE", format!("/delivery/session/{id}"), ""),
            12 => (&[426], "GET", format!("/delivery/ws/{id}"), ""),
            _ => (NO_FORM, "GET", "/delivery/assessments/exam-0/sessions?state=asleep".into(), ""),
        };
        self.send(world, Kind::Only(statuses), What::Read, method, &path, body);
    }

    /// Lines break, kernels' buffers empty.
    pub fn trouble(&mut self, world: &mut World) {
        for at in 0..self.seats.len() {
            if self.rng.percent(40) && !self.seats[at].gone {
                world.net.drain(self.seats[at].line);
            }
        }
        if self.rng.percent(50) {
            self.leave_seat(world);
        } else if !self.desks.is_empty() && self.rng.percent(40) {
            let at = self.rng.index(self.desks.len());
            let desk = &mut self.desks[at];
            if self.rng.percent(50) {
                world.net.end_from(desk.line);
                desk.is_last = true;
            } else {
                world.net.reset_from(desk.line);
                desk.is_last = true;
                let asks: Vec<usize> = desk.asks.drain(..).map(|request| request.ask).collect();
                asks.into_iter().for_each(|ask| self.ledger.lost(ask));
            }
        }
    }

    // -----------------------------------------------------------------------------------------------------------
    // What they are told.

    /// Whatever has come to a desk.
    pub fn hear_desk(&mut self, world: &mut World, at: usize) {
        let name = self.desks[at].line;
        let mut inbox = std::mem::take(&mut world.net.line(name).inbox);
        loop {
            let answer = match peer::next_answer(&mut inbox, false) {
                Ok(Some(answer)) => answer,
                Ok(None) => break,
                Err(what) => violated("an answer is HTTP", &what),
            };
            let desk = &mut self.desks[at];
            let Some(request) = desk.asks.pop_front() else {
                if desk.is_last {
                    continue;
                }
                violated("each request is answered once", &format!("{answer:?} answers nothing"));
            };
            desk.is_last |= answer.field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
            let Some(since) = request.delivered.filter(|_| answer.status != 408) else {
                // What was not whole cannot have been carried out.
                if !desk.is_last || !matches!(answer.status, 400 | 408 | 413 | 431 | 503) {
                    violated("only whole requests are carried out", &format!("{answer:?} to {request:?}"));
                }
                continue;
            };
            let body = String::from_utf8_lossy(&answer.body);
            if answer.status == 503 && body.contains("outcome unknown") {
                self.ledger.lost(request.ask);
                self.count("hall outcome unknown");
                continue;
            }
            self.judge_answer(world, &request, &answer, since);
            self.ledger.answered(request.ask);
        }
        let line = world.net.line(name);
        line.inbox = inbox;
        if line.closed {
            let desk = self.desks.swap_remove(at);
            desk.asks.iter().for_each(|request| self.ledger.lost(request.ask));
            world.net.forget(name);
        } else if line.finished {
            self.desks[at].is_last = true;
        }
    }

    fn judge_answer(&mut self, world: &World, request: &Request, answer: &Answer, since: u64) {
        let why = || format!("{answer:?}\n  answers {request:?}");
        let value = || match serde_json::from_slice::<Value>(&answer.body) {
            Ok(value) => value,
            Err(_) => violated("an answer is JSON", &why()),
        };
        let detail = || value()["detail"].as_str().unwrap_or_default().to_owned();
        self.count(match answer.status {
            200..300 => "hall answers 2xx",
            503 => "hall answers 503",
            _ => "hall answers 4xx",
        });
        if answer.status / 100 == 2 {
            self.ledger.settle_twins(request.ask, answer.status != 201);
        } else {
            self.ledger.give_away_twin(request.ask);
        }
        let done = self.ledger.done(request.ask).cloned();
        let is_change = !matches!(self.ledger.asks[request.ask].what, What::Read);
        let is_simple = !matches!(request.kind, Kind::Deed(..) | Kind::Bulk(..));
        if is_change && is_simple && answer.status / 100 != 2 && done.is_some() {
            violated("what is refused is not done", &why());
        }
        if is_simple && done.as_ref().is_some_and(|done| !self.ledger.is_durable(done)) {
            violated("acknowledged is durable", &why());
        }
        if is_change && answer.status == 503 {
            let done: Vec<Rc<str>> = self.ledger.asks[request.ask].done.iter().map(|done| done.id.clone()).collect();
            done.iter().for_each(|id| _ = self.ledger.give_away(request.ask, id));
            if !self.ledger.asks[request.ask].done.is_empty() {
                violated("what is refused is not done", &why());
            }
            if answer.field("retry-after").is_none() || !detail().ends_with("nothing was changed") {
                violated("503 says when to come again, and that nothing was changed", &why());
            }
            return self.count("hall refused by the disk");
        }
        match (&request.kind, answer.status) {
            (Kind::Only(statuses), status) if statuses.contains(&status) => {}
            (Kind::Put(exam), 200 | 201) => {
                let Outcome { was_there, .. } = self.must_be_done(done, &why);
                if value() != exam_value(exam) || (answer.status == 200) != was_there {
                    violated("what is acknowledged is what was done", &why());
                }
            }
            (Kind::Admit(person), 200 | 201) => {
                let Outcome { was_there, .. } = self.must_be_done(done, &why);
                if value() != person_value(person) || (answer.status == 200) != was_there {
                    violated("what is acknowledged is what was done", &why());
                }
            }
            (Kind::Drop(_), 204) => _ = self.must_be_done(done, &why),
            (Kind::Drop(exam) | Kind::Rows(exam, _), 404) | (Kind::Start { exam, .. } | Kind::Bulk(exam, _), 404) => {
                let versions = self.ledger.exams.get(exam);
                let is_missing = versions
                    .is_none_or(|it| it.latest_since(since).contains(&None) || it.shown_since(since).contains(&None));
                if !is_missing || detail() != format!("Assessment {exam} not found") {
                    violated("an assessment that is there is found", &format!("{}\n {versions:?}", why()));
                }
            }
            (Kind::Drop(exam), 409) => {
                let of = |noun: &&Noun| noun.exam.id == *exam;
                let is_sat =
                    self.ledger.nouns.values().filter(of).any(|noun| self.was(noun, since, &|it| it.is_active()));
                if !is_sat || detail() != format!("Assessment {exam} has active sessions") {
                    violated("an assessment that nobody sits can be given up", &why());
                }
            }
            (Kind::Start { .. }, 200) => {
                let done = self.must_be_done(done, &why);
                let noun = &self.ledger.nouns[&done.id];
                let view = View { noun, face: done.face.as_ref().unwrap(), now: self.ledger.clocks(done.turn) };
                if value() != view.started() {
                    violated(
                        "what is acknowledged is what was done",
                        &format!("{}\n  not {}", why(), view.started()),
                    );
                }
                if self.rng.percent(60) && !self.quiet {
                    self.newcomers.push(done.id);
                }
            }
            (Kind::Start { exam, candidate }, 400 | 409 | 429) => {
                self.judge_start(exam, candidate, since, &detail(), &why)
            }
            (Kind::Deed(id, deed), 200) => {
                let noun = &self.ledger.nouns[id];
                let mut told = value();
                // Beyond the contract: the session's time with its place.
                if let (Op::Go(_), Some(told)) = (&deed.op, told.as_object_mut()) {
                    told.remove("time_remaining_seconds");
                }
                let view = |done: &Outcome, turn: u64| {
                    View { noun, face: done.face.as_ref().unwrap(), now: self.ledger.clocks(turn) }.done(deed)
                };
                let outcomes = self.ledger.outcomes(request.ask, id);
                let fits = |done: &Outcome| (done.turn..=done.until).any(|turn| view(done, turn) == told);
                let Some((other, done)) = outcomes.iter().find(|(_, done)| fits(done)) else {
                    let expected: Vec<_> = outcomes.iter().map(|(_, done)| view(done, done.turn)).collect();
                    let text = format!("{}\n  not {expected:?}", why());
                    violated("what is acknowledged is durable, and what was done", &text);
                };
                let is_late = done.face.as_ref().is_some_and(|face| face.late_ms().is_some());
                if *other != request.ask {
                    self.ledger.exchange(request.ask, *other, id);
                }
                if is_late {
                    self.count("late hand-ins taken");
                }
            }
            (Kind::Deed(id, deed), 400 | 404) => {
                let (id, deed, text) = (id.clone(), deed.clone(), detail());
                if matches!(deed.op, Op::Submit(_)) && text.contains("expired") {
                    self.count("hand-ins too late");
                }
                self.judge_refusal(&id, &deed, request.ask, since, &text);
            }
            (Kind::Bulk(exam, deed), 200) => self.judge_bulk(exam, deed, request.ask, since, &value(), &why),
            (Kind::Current(id), 200) => self.judge_read(id, since, &value(), &|view| view.current(), &why),
            (Kind::Save(id), 200) => self.judge_saved(id, since, &value(), &why),
            (Kind::Whole(id), 200) => self.judge_whole(id, since, value(), &why),
            (Kind::Current(id) | Kind::Save(id) | Kind::Whole(id), 404) => {
                let noun = self.ledger.nouns.get(id);
                let is_gone = noun.is_none_or(|noun| noun.gone.is_some() || self.may_be_gone(noun));
                if !is_gone || detail() != format!("Session {id} not found") {
                    violated("a session that is there is found", &format!("{}\n  {noun:?}", why()));
                }
            }
            (Kind::Whole(_) | Kind::Results(_) | Kind::Save(_) | Kind::Rows(..), 503) => {}
            (Kind::Exam(exam), status @ (200 | 404)) => {
                let versions = self.ledger.exams.get(exam);
                let versions = versions.map_or(vec![None], |versions| versions.shown_since(since));
                let told = (status == 200).then(value);
                if !versions.iter().any(|version| version.map(|exam| exam_value(exam)) == told) {
                    violated("visible is durable", &format!("{}\n {versions:?}", why()));
                }
            }
            (Kind::Person(person), status @ (200 | 404)) => {
                let versions = self.ledger.people.get(person);
                let versions = versions.map_or(vec![None], |versions| versions.shown_since(since));
                let told = (status == 200).then(value);
                if !versions.iter().any(|version| version.map(|person| person_value(person)) == told) {
                    violated("visible is durable", &format!("{}\n {versions:?}", why()));
                }
            }
            (Kind::Exams, 200) => {
                let list = value();
                let ids = |list: &Value| -> Vec<String> {
                    let rows = list.as_array().into_iter().flatten();
                    rows.map(|row| row["assessment_id"].as_str().unwrap_or_default().to_owned()).collect()
                };
                let told = ids(&list);
                let fits = told.is_sorted()
                    && self.ledger.exams.iter().all(|(id, versions)| {
                        versions.shown_since(since).iter().any(|version| version.is_some() == told.contains(id))
                    });
                if !fits {
                    violated("lists are whole", &why());
                }
            }
            (Kind::Rows(exam, state), 200) => self.judge_rows(world, exam, *state, since, &value(), &why),
            (Kind::Results(exam), status @ (200 | 404)) => {
                self.judge_results(exam, status, since, &answer.body, &why)
            }
            _ => violated("an answer fits its request", &why()),
        }
    }

    fn must_be_done(&self, done: Option<Outcome>, why: &dyn Fn() -> String) -> Outcome {
        done.unwrap_or_else(|| violated("acknowledged is durable", &why()))
    }

    /// Whether a session was in such a state at some time since.
    fn was(&self, noun: &Noun, since: u64, is: &dyn Fn(State) -> bool) -> bool {
        let (now, then) = (self.ledger.clocks(self.ledger.turn()), self.ledger.clocks(since));
        super::ledger::since(&noun.bases, since).into_iter().any(|face| {
            [then, now].into_iter().any(|clocks| {
                let mut face: Face = (**face).clone();
                face.live(clocks, &self.ledger.lapses);
                is(face.core.state)
            })
        })
    }

    fn judge_start(&mut self, exam: &str, candidate: &str, since: u64, detail: &str, why: &dyn Fn() -> String) {
        let of = |noun: &&Noun| noun.exam.id == *exam && noun.candidate == candidate;
        let people = self.ledger.people.get(candidate);
        let people = people.map_or(vec![None], |people| people.latest_since(since));
        let sat: Vec<&Noun> = self.ledger.nouns.values().filter(of).collect();
        let fits = if detail == format!("Candidate {candidate} has an active session") {
            sat.iter().any(|noun| self.was(noun, since, &|it| it.is_active()))
        } else if detail == "Attempt limit reached" {
            let has_ended = |noun: &&&Noun| noun.gone.is_some() || self.was(noun, since, &|it| !it.is_active());
            let ended = sat.iter().filter(has_ended).count() as u64;
            let limits = self.ledger.exams.get(exam).map_or(Vec::new(), |exam| exam.latest_since(since));
            limits.iter().flatten().any(|exam| exam.attempts.is_some_and(|most| ended >= most))
        } else if detail == format!("Candidate {candidate} is not active") {
            people.iter().flatten().any(|person| !person.is_active)
        } else if detail == format!("Candidate {candidate} is not known") {
            self.plan.known_only && people.contains(&None)
        } else if detail == "Maximum session limit reached" {
            let held = self.ledger.nouns.values().filter(|noun| noun.gone.is_none_or(|gone| gone >= since)).count();
            held + self.ledger.starts_since(since.saturating_sub(400)) >= self.plan.sessions_max as usize
        } else {
            false
        };
        if !fits {
            violated("whoever may start starts", &format!("{}\n  {people:?}\n  {sat:?}", why()));
        }
        self.count("starts refused");
    }

    fn judge_bulk(
        &mut self,
        exam: &str,
        deed: &Deed,
        ask: usize,
        since: u64,
        value: &Value,
        why: &dyn Fn() -> String,
    ) {
        let rows = value.as_array().unwrap_or_else(|| violated("a bulk answer is a list", &why()));
        let named: Vec<&str> = rows.iter().filter_map(|row| row["session_id"].as_str()).collect();
        let done = &self.ledger.asks[ask].done;
        let strange: Vec<Rc<str>> =
            done.iter().map(|done| done.id.clone()).filter(|id| !named.contains(&&**id)).collect();
        strange.iter().for_each(|id| _ = self.ledger.give_away(ask, id));
        for row in rows {
            // Of those who ask for the same at the same time it cannot be told whose request was carried out.
            let id = row["session_id"].as_str().unwrap_or_default();
            let done = self.ledger.asks[ask].done.iter().find(|done| *done.id == *id);
            let is_durable = done.is_some_and(|done| self.ledger.is_durable(done));
            if done.is_some() && row["success"] == false {
                self.ledger.give_away(ask, id);
            } else if !is_durable && row["success"] == true {
                let outcomes = self.ledger.outcomes(ask, id);
                if let Some((other, _)) = outcomes.iter().find(|(_, done)| done.op.as_ref() == Some(&deed.op)) {
                    self.ledger.exchange(ask, *other, id);
                }
            }
        }
        if let Some(done) = self.ledger.asks[ask].done.iter().find(|done| !self.ledger.is_durable(done)) {
            let asked = self.ledger.asked_of(&done.id);
            violated("acknowledged is durable", &format!("{}: {}\n  asked: {asked:#?}", done.id, why()));
        }
        let done: Vec<Rc<str>> = self.ledger.asks[ask].done.iter().map(|done| done.id.clone()).collect();
        let mut last = 0;
        let mut changed = 0;
        let mut told = Vec::new();
        for row in rows {
            let id = row["session_id"].as_str().unwrap_or_default();
            let Some(noun) = self.ledger.nouns.get(id).filter(|noun| noun.exam.id == exam && noun.serial > last)
            else {
                violated("rows are the sessions of the assessment, in order of start", &why());
            };
            last = noun.serial;
            told.push(noun.id.clone());
            let is_done = done.iter().any(|done| **done == *id);
            changed += usize::from(is_done);
            let text = row["status"].as_str().unwrap_or_default();
            let fits = if is_done {
                row["success"] == true && text == status(&deed.op)
            } else {
                let failed = |state: State| text == format!("failed (state: {})", state.name());
                row["success"] == false && self.was(noun, since, &failed)
            };
            if !fits {
                violated("each session's row tells what was done", &format!("{row}: {}", why()));
            }
        }
        if changed != done.len() {
            violated("each session's row tells what was done", &format!("{done:?}: {}", why()));
        }
        let now = self.ledger.clocks(self.ledger.turn());
        let missing = self.ledger.nouns.values().find(|noun| {
            let was_always_active = || {
                super::ledger::since(&noun.bases, since).into_iter().all(|face| {
                    let mut face = (**face).clone();
                    face.live(now, &self.ledger.lapses);
                    face.core.state.is_active()
                })
            };
            let is_old = noun.bases.first().is_some_and(|(began, _)| *began < since);
            noun.exam.id == exam && !told.contains(&noun.id) && noun.gone.is_none() && is_old && was_always_active()
        });
        if let Some(missing) = missing {
            violated("all active sessions are meant", &format!("{missing:?} is missing: {}", why()));
        }
        self.count("bulk calls");
        if changed > 1 {
            self.count("bulk calls of several");
        }
    }

    fn judge_read(
        &mut self,
        id: &str,
        since: u64,
        told: &Value,
        spell: &dyn Fn(&View<'_>) -> Value,
        why: &dyn Fn() -> String,
    ) {
        let views = self.views_since(id, since);
        if !views.iter().any(|view| spell(view) == *told) {
            let expected: Vec<Value> = views.iter().map(spell).take(6).collect();
            violated("visible is durable, and true", &format!("{}\n  not {expected:?}", why()));
        }
        self.count("hall reads");
    }

    /// That all is saved is told of what is on its way to the disk as well, when that is there.
    fn judge_saved(&mut self, id: &str, since: u64, told: &Value, why: &dyn Fn() -> String) {
        let noun = &self.ledger.nouns[id];
        let turns = since..=self.ledger.turn();
        let fits = super::ledger::since(&noun.bases, since).into_iter().any(|face| {
            turns.clone().any(|turn| {
                let now = self.ledger.clocks(turn);
                let mut face = (**face).clone();
                face.live(now, &self.ledger.lapses);
                View { noun, face: &face, now }.saved() == *told
            })
        });
        if !fits {
            violated("save tells what is saved", &format!("{}\n  {noun:?}", why()));
        }
        self.count("saves");
    }

    fn judge_whole(&mut self, id: &str, since: u64, mut told: Value, why: &dyn Fn() -> String) {
        let responses = told.as_object_mut().and_then(|told| told.remove("responses")).unwrap_or_default();
        let ended = told.as_object_mut().and_then(|told| told.remove("completed_at")).unwrap_or_default();
        // Limits of sections are told as written.
        let sections = told["sections"].as_array_mut().into_iter().flatten();
        for section in sections {
            section.as_object_mut().unwrap().remove("time_limit_seconds");
        }
        let views = self.views_since(id, since);
        let spell = |view: &View<'_>| {
            let mut whole = view.whole();
            for section in whole["sections"].as_array_mut().into_iter().flatten() {
                section.as_object_mut().unwrap().remove("time_limit_seconds");
            }
            whole
        };
        let Some(view) = views.iter().find(|view| spell(view) == told) else {
            let expected: Vec<Value> = views.iter().map(spell).take(4).collect();
            violated("visible is durable, and true", &format!("{}\n  not {expected:#?}", why()));
        };
        if view.face.core.state.is_active() != ended.is_null() {
            violated("an end has its instant", &why());
        }
        // What the disk has is told even if nobody has been told yet that it does.
        let noun = &self.ledger.nouns[id];
        let newest = View { noun, face: &noun.latest, now: view.now };
        if newest.responses() != responses && !views.iter().any(|view| view.responses() == responses) {
            let expected: Vec<Value> = views.iter().map(View::responses).take(3).collect();
            violated("no acknowledged answer is lost", &format!("{responses}: {}\n  not {expected:?}", why()));
        }
        self.count("whole sessions");
    }

    fn judge_rows(
        &mut self,
        world: &World,
        exam: &str,
        state: Option<State>,
        since: u64,
        told: &Value,
        why: &dyn Fn() -> String,
    ) {
        let rows = told.as_array().unwrap_or_else(|| violated("a list is a list", &why()));
        let mut last = 0;
        let mut listed = Vec::new();
        for row in rows {
            let id = row["session_id"].as_str().unwrap_or_default();
            let Some(noun) = self.ledger.nouns.get(id).filter(|noun| noun.exam.id == exam && noun.serial > last)
            else {
                violated("rows are the sessions of the assessment, in order of start", &why());
            };
            last = noun.serial;
            listed.push(noun.id.clone());
            let mut bare = row.clone();
            let fields = bare.as_object_mut().unwrap();
            let connected = fields.remove("connected").and_then(|it| it.as_u64()).unwrap_or(u64::MAX);
            fields.remove("last_seen");
            let is_shown =
                |view: &View<'_>| view.row() == bare && state.is_none_or(|state| state == view.face.core.state);
            if !self.views_since(id, since).iter().any(is_shown) {
                violated("visible is durable, and true", &format!("{row}: {}\n  {noun:?}", why()));
            }
            let there = self
                .seats
                .iter()
                .filter(|seat| *seat.id == *id && seat.is_prompt() && seat.came_before(since))
                .count() as u64;
            let is_fresh = since == self.ledger.turn();
            if connected > 5 || (is_fresh && there > connected) {
                violated("who is connected is told", &format!("{there}: {row}"));
            }
        }
        let missing = self.ledger.nouns.values().find(|noun| {
            let was_always = || {
                let views = self.views_since(&noun.id, since);
                !views.is_empty()
                    && views.iter().all(|view| state.is_none_or(|state| state == view.face.core.state))
                    && noun.versions.first().is_some_and(|(began, _)| *began <= since)
            };
            noun.exam.id == exam
                && noun.gone.is_none()
                && !self.may_be_gone(noun)
                && !listed.contains(&noun.id)
                && was_always()
        });
        if let Some(missing) = missing {
            violated("lists are whole", &format!("{missing:?} is missing: {}", why()));
        }
        let _ = world;
        self.count("lists of sessions");
    }

    /// What came of an assessment: every session that there ever was, with its answers.
    fn judge_results(&mut self, exam: &str, status: u16, since: u64, body: &[u8], why: &dyn Fn() -> String) {
        let is_known = |noun: &&Noun| noun.exam.id == exam && (noun.gone.is_some() || noun.shown.is_some());
        if status == 404 {
            let versions = self.ledger.exams.get(exam);
            let is_missing = versions.is_none_or(|it| it.shown_since(since).contains(&None));
            if !is_missing {
                violated("results outlive everything", &why());
            }
            return;
        }
        let mut seen = Vec::new();
        for line in body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let row: Value = serde_json::from_slice(line).unwrap_or_default();
            let id = row["session_id"].as_str().unwrap_or_default();
            let Some(noun) = self.ledger.nouns.get(id).filter(|noun| noun.exam.id == exam) else {
                violated("results are of the sessions that there were", &format!("{row}: {}", why()));
            };
            seen.push(noun.id.clone());
            let views = self.views_since(id, since);
            let fits = |view: &View<'_>| view.responses() == row["responses"];
            let newest = View { noun, face: &noun.latest, now: self.ledger.clocks(since) };
            if noun.gone.is_none() && !fits(&newest) && !views.iter().any(fits) {
                let expected: Vec<Value> = views.iter().map(View::responses).take(3).collect();
                violated("no acknowledged answer is lost", &format!("{row}: not {expected:?}\n {}", why()));
            }
        }
        let is_old = |noun: &&Noun| noun.versions.first().is_some_and(|(began, _)| *began < since);
        let missing = self.ledger.nouns.values().filter(is_known).filter(is_old).find(|it| !seen.contains(&it.id));
        if let Some(missing) = missing {
            violated("results are whole", &format!("{missing:?}: {}", why()));
        }
        self.count("results");
    }
}

/// A candidate as he is told of.
fn person_value(person: &Person) -> Value {
    let factor = f64::from(u32::try_from(person.factor).unwrap()) / 1000.0;
    let accommodations =
        if person.factor == 1_000 { serde_json::json!({}) } else { serde_json::json!({ "EXTRA_TIME": factor }) };
    serde_json::json!({
        "candidate_id": person.id,
        "name": "N",
        "is_active": person.is_active,
        "accommodations": accommodations,
    })
}

/// Why more time is given: the same for as much, since nothing else tells two of them apart.
pub fn reason_of(op: &Op) -> String {
    match op {
        Op::Extend(seconds) if seconds % 3 == 1 => "fire alarm".to_owned(),
        Op::Extend(seconds) if seconds % 3 == 2 => r#"a "wet" desk"#.to_owned(),
        _ => String::new(),
    }
}

/// The last word of the path of a deed, and its body.
fn order_of(deed: &Deed) -> (&'static str, String) {
    match &deed.op {
        Op::Answer(item, flag) => {
            let flag = flag.map_or(String::new(), |flag| format!(r#","is_flagged":{flag}"#));
            ("answer", format!(r#"{{"item_id":"{item}","response":{}{flag}}}"#, deed.words[0].1))
        }
        Op::Go(go) => ("navigate", format!("{{{}}}", way(go))),
        Op::Submit(items) if items.is_empty() => ("submit", String::new()),
        Op::Submit(_) => {
            let answers: Vec<String> = deed
                .words
                .iter()
                .map(|(item, words)| format!(r#"{{"item_id":"{item}","response": {words}}}"#))
                .collect();
            ("submit", format!(r#"{{"answers":[{}]}}"#, answers.join(",")))
        }
        Op::Pause => ("pause", String::new()),
        Op::Resume => ("resume", String::new()),
        Op::Extend(seconds) => {
            let reason = match deed.reason.as_str() {
                "" => String::new(),
                reason => format!(r#","reason":{}"#, Value::from(reason)),
            };
            ("extend", format!(r#"{{"seconds":{seconds}{reason}}}"#))
        }
        Op::Terminate => ("terminate", String::new()),
        Op::Flag(..) => ("flag", String::new()),
    }
}
