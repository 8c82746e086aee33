//! What a crash must not change: no acknowledged answer is lost under load, whoever comes back finds his place and
//! his true time, what ran out meanwhile ended at its true instant, a storm of hand-ins is taken, and a disk that
//! fails costs nobody anything.
//!
//! `TIMERD_KILL_ROUNDS=n` plays n rounds of killing instead of 24, `TIMERD_KILL_SEED=n` others or the same again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::{Value, json};

use super::{
    Delivery, JSON, LATE_MS_MAX, NO_LIMITS, at_us, free, instant_us, items_of, kinds, next, number, on, refused,
    section, simple, strings, to, wall_ms, with, without_time,
};
use crate::daemon::{Daemon, Dice, Http, Response, Socket, directory, eventually, request_bytes};

fn sleep_ms(ms: i64) {
    std::thread::sleep(Duration::from_millis(ms.max(0).try_into().unwrap()));
}

// ---------------------------------------------------------------------------------------------------------------
// Killed under a load of candidates.

const LIMIT_MS: i64 = 3_600_000;
/// Candidates that work at the same time: the first ones over REST, the others over their sockets.
const WORKERS: u64 = 5;
const OVER_REST: u64 = 3;
/// Messages that a socket may send in one round: below the burst that is allowed.
const MESSAGES_MAX: usize = 80;

#[derive(Clone, Debug)]
enum Op {
    Answer { item: String, response: Value, flag: Option<bool> },
    Flag { item: String, flag: bool },
    Navigate { index: usize },
    Submit { answers: Vec<(String, Value)> },
}

/// A session as its candidate knows it.
#[derive(Clone, Debug)]
struct Book {
    id: String,
    items: Vec<String>,
    responses: BTreeMap<String, Value>,
    flags: BTreeSet<String>,
    index: usize,
    state: &'static str,
    /// The wall clock before and after the start.
    started_ms: (i64, i64),
}

impl Book {
    fn apply(&mut self, op: &Op) {
        match op {
            Op::Answer { item, response, flag } => {
                self.responses.insert(item.clone(), response.clone());
                if let Some(flag) = flag {
                    self.flag(item, *flag);
                }
            }
            Op::Flag { item, flag } => self.flag(item, *flag),
            Op::Navigate { index } => self.index = *index,
            Op::Submit { answers } => {
                self.responses.extend(answers.iter().cloned());
                self.state = "completed";
            }
        }
    }

    fn flag(&mut self, item: &str, flag: bool) {
        if flag {
            self.flags.insert(item.to_owned())
        } else {
            self.flags.remove(item)
        };
    }

    /// Whether the daemon's session is this one.
    fn is(&self, session: &Value) -> bool {
        let flags: BTreeSet<String> = strings(&session["flagged_items"]).into_iter().map(str::to_owned).collect();
        session["state"] == self.state
            && number(&session["current_item_index"]) == self.index
            && session["responses"] == json!(self.responses)
            && flags == self.flags
            && items_of(session) == self.items
    }

    /// The true time left, and nothing else.
    #[track_caller]
    fn assert_time_left(&self, session: &Value, asked_ms: (i64, i64)) {
        if self.state != "in_progress" {
            return;
        }
        let left = session["time_remaining_seconds"].as_i64().unwrap();
        let most = LIMIT_MS - (asked_ms.0 - self.started_ms.1) + 20;
        let least = LIMIT_MS - (asked_ms.1 - self.started_ms.0) - 20;
        let seconds = |ms: i64| ms.min(LIMIT_MS).div_euclid(1000) + i64::from(ms.min(LIMIT_MS) % 1000 > 0);
        assert!((seconds(least)..=seconds(most)).contains(&left), "{left} beside {least}..{most} ms");
    }
}

struct Worker {
    name: String,
    over_rest: bool,
    dice: Dice,
    books: Vec<Book>,
    /// Sent and not answered when the daemon was killed, all to the last session, in the order sent.
    unanswered: Vec<Op>,
    /// The last answered request with a key: its bytes and its answer.
    answered: Option<(Vec<u8>, Response)>,
    acknowledged: usize,
    serial: u64,
}

impl Worker {
    fn book(&mut self) -> &mut Book {
        self.books.last_mut().unwrap()
    }

    /// Starts a session over a connection; `false` when the daemon is gone.
    fn start(&mut self, http: &mut Http) -> bool {
        self.serial += 1;
        let who = format!("{} {}", self.name, self.serial);
        let body = json!({ "candidate_id": who, "test_taker_id": "t" }).to_string();
        let before = wall_ms();
        let sent = http.stream.write_all(&request_bytes("POST", "/delivery/start/x", &[JSON], Some(&body)));
        let Some(response) = sent.ok().and_then(|()| http.try_response_to("POST")) else { return false };
        assert_eq!(response.status, 200, "{}", response.text());
        let started_ms = (before, wall_ms());
        let id = response.json()["session_id"].as_str().unwrap().to_owned();
        let path = format!("/delivery/session/{id}");
        let sent = http.stream.write_all(&request_bytes("GET", &path, &[], None));
        let Some(response) = sent.ok().and_then(|()| http.try_response_to("GET")) else { return false };
        self.books.push(Book {
            id,
            items: items_of(&response.json()),
            responses: BTreeMap::new(),
            flags: BTreeSet::new(),
            index: 0,
            state: "in_progress",
            started_ms,
        });
        self.acknowledged += 1;
        true
    }

    fn invent(&mut self) -> Op {
        let over_rest = self.over_rest;
        self.serial += 1;
        let serial = self.serial;
        let items = self.book().items.clone();
        let dice = &mut self.dice;
        let item = items[dice.below(items.len())].clone();
        let response = json!({ "n": serial, "text": "x".repeat(dice.below(300)) });
        match dice.roll(12) {
            0 | 1 => Op::Navigate { index: dice.below(items.len()) },
            2 if !over_rest => Op::Flag { item, flag: dice.roll(2) == 0 },
            3 if over_rest && dice.roll(3) == 0 => {
                Op::Submit { answers: vec![(item, response), (items[0].clone(), json!({ "last": serial }))] }
            }
            _ => {
                let flag = if over_rest { [None, Some(true), Some(false)][dice.below(3)] } else { None };
                Op::Answer { item, response, flag }
            }
        }
    }

    fn request(&self, op: &Op, key: Option<&str>) -> Vec<u8> {
        let (call, body) = match op {
            Op::Answer { item, response, flag } => {
                let mut body = json!({ "item_id": item, "response": response });
                if let Some(flag) = flag {
                    body["is_flagged"] = json!(flag);
                }
                ("answer", body)
            }
            Op::Navigate { index } => ("navigate", to(*index)),
            Op::Submit { answers } => {
                let answers: Vec<Value> =
                    answers.iter().map(|(item, response)| json!({ "item_id": item, "response": response })).collect();
                ("submit", json!({ "answers": answers }))
            }
            Op::Flag { .. } => panic!("flags have no call of their own"),
        };
        let path = format!("/delivery/session/{}/{call}", self.books.last().unwrap().id);
        let headers: Vec<(&str, &str)> = [JSON].into_iter().chain(key.map(|key| ("Idempotency-Key", key))).collect();
        request_bytes("POST", &path, &headers, Some(&body.to_string()))
    }

    /// Works until the connection breaks.
    fn work(&mut self, address: SocketAddr) {
        let mut http = Http::connect(address);
        if self.books.last().is_none_or(|book| book.state != "in_progress") && !self.start(&mut http) {
            return;
        }
        if self.over_rest { self.work_over_rest(http) } else { self.work_over_the_socket(address) }
    }

    fn work_over_rest(&mut self, mut http: Http) {
        while self.unanswered.is_empty() {
            if self.book().state != "in_progress" && !self.start(&mut http) {
                return;
            }
            let mut bytes = Vec::new();
            let mut sent = Vec::new();
            for _ in 0..=self.dice.roll(3) {
                let op = self.invent();
                let key = (self.dice.roll(3) == 0).then(|| format!("{} {}", self.name, self.serial));
                let request = self.request(&op, key.as_deref());
                bytes.extend_from_slice(&request);
                let is_last = matches!(op, Op::Submit { .. });
                sent.push((op, key.map(|_| request)));
                if is_last {
                    break;
                }
            }
            let mut broken = http.stream.write_all(&bytes).is_err();
            for (op, keyed) in sent {
                let response = if broken { None } else { http.try_response_to("POST") };
                let Some(response) = response else {
                    broken = true;
                    self.unanswered.push(op);
                    continue;
                };
                assert_eq!(response.status, 200, "{op:?}: {}", response.text());
                self.book().apply(&op);
                self.acknowledged += 1;
                if let Some(request) = keyed {
                    self.answered = Some((request, response));
                }
            }
        }
    }

    fn work_over_the_socket(&mut self, address: SocketAddr) {
        let path = format!("/delivery/ws/{}", self.book().id);
        let Ok(mut socket) = Daemon::try_open_at(address, &path, &[]) else { return };
        let mut sent = 0;
        while self.unanswered.is_empty() {
            if sent >= MESSAGES_MAX {
                // Listens until the end.
                while socket.recv_or_end().is_ok() {}
                return;
            }
            let ops: Vec<Op> = (0..=self.dice.roll(3)).map(|_| self.invent()).collect();
            for (n, op) in ops.iter().enumerate() {
                let message = match op {
                    Op::Answer { item, response, .. } => {
                        json!({ "type": "answer_save", "item_id": item, "response": response, "ref": n })
                    }
                    Op::Flag { item, flag } => {
                        json!({ "type": "flag", "item_id": item, "is_flagged": flag, "ref": n })
                    }
                    Op::Navigate { index } => with(to(*index), json!({ "type": "navigate", "ref": n })),
                    Op::Submit { .. } => panic!("sockets hand nothing in"),
                };
                // The daemon may be gone by now.
                let _ = socket.inner.write(tungstenite::Message::text(message.to_string()));
            }
            let _ = socket.inner.flush();
            sent += ops.len();
            let mut gone = false;
            for (n, op) in ops.into_iter().enumerate() {
                if !gone && answered(&mut socket, n) {
                    self.book().apply(&op);
                    self.acknowledged += 1;
                } else {
                    gone = true;
                    self.unanswered.push(op);
                }
            }
        }
    }

    /// Holds what the daemon has against the book: what was acknowledged is there; of what was not, the first so
    /// many may be.
    fn compare(&mut self, daemon: &Daemon, all: bool) {
        let unanswered = std::mem::take(&mut self.unanswered);
        let last = self.books.len() - usize::from(!self.books.is_empty());
        for (n, book) in self.books.iter_mut().enumerate().skip(if all { 0 } else { last.saturating_sub(1) }) {
            let before = wall_ms();
            let session = daemon.session(&book.id);
            let mut possible = book.clone();
            let mut rest = unanswered.iter().filter(|_| n == last);
            while !possible.is(&session) {
                let Some(op) = rest.next() else { panic!("{book:?}\nand perhaps {unanswered:?}\nis {session}") };
                possible.apply(op);
            }
            *book = possible;
            book.assert_time_left(&session, (before, wall_ms()));
        }
        if let Some((request, first)) = &self.answered {
            let mut http = daemon.connect();
            http.send(request);
            let again = http.response();
            assert_eq!(again.header("idempotency-replayed"), Some("true"), "{again:?}");
            assert_eq!((again.status, again.text()), (first.status, first.text()));
        }
    }
}

/// Whether the answer to the `n`th message came.
fn answered(socket: &mut Socket, n: usize) -> bool {
    loop {
        match socket.recv_or_end() {
            Err(_) => return false,
            Ok(message) if message["ref"] == n && message["type"] != "current_item" => {
                assert_ne!(message["type"], "error", "{message}");
                return true;
            }
            Ok(_) => {}
        }
    }
}

fn environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

#[test]
fn no_acknowledged_answer_is_lost_by_kill_9_under_a_load_of_candidates() {
    let rounds = environment("TIMERD_KILL_ROUNDS").unwrap_or(24);
    let seed = environment("TIMERD_KILL_SEED").unwrap_or(4);
    let (_kept, path) = directory();
    let mut daemon = on(&path, &[]);
    let mixed = |id: &str, items: &[&str]| with(section(id, items), json!({ "order_mode": "RANDOM" }));
    let sections = [mixed("a", &["a1", "a2", "a3", "a4", "a5"]), mixed("b", &["b1", "b2", "b3", "b4"])];
    let exam = with(free(&sections), json!({ "time_limit_seconds": LIMIT_MS / 1000 }));
    daemon.set("x", exam);
    let mut workers: Vec<Worker> = (0..WORKERS)
        .map(|n| Worker {
            name: format!("worker {n}"),
            over_rest: n < OVER_REST,
            dice: Dice(seed.wrapping_mul(1000) + n),
            books: Vec::new(),
            unanswered: Vec::new(),
            answered: None,
            acknowledged: 0,
            serial: 0,
        })
        .collect();
    let mut dice = Dice(seed);
    for round in 0..rounds {
        let address = daemon.address;
        let at_work: Vec<_> = workers
            .into_iter()
            .map(|mut worker| {
                std::thread::spawn(move || {
                    worker.work(address);
                    worker
                })
            })
            .collect();
        sleep_ms(20 + i64::try_from(dice.roll(50)).unwrap());
        daemon.kill();
        workers = at_work.into_iter().map(|worker| worker.join().unwrap()).collect();
        daemon = on(&path, &[]);
        for worker in &mut workers {
            worker.compare(&daemon, round + 1 == rounds);
        }
    }
    let acknowledged: usize = workers.iter().map(|worker| worker.acknowledged).sum();
    let sessions: Vec<&Book> = workers.iter().flat_map(|worker| &worker.books).collect();
    println!("{rounds} rounds of kill -9: {acknowledged} acknowledged in {} sessions, none lost", sessions.len());
    assert!(acknowledged > 200, "{acknowledged}");
    // Each first answer has its one event, in the same commit.
    for book in sessions {
        let events = daemon.told(&book.id);
        let answered: Vec<&str> = events
            .iter()
            .filter(|event| event["event_type"] == "answer_submitted")
            .map(|event| event["payload"]["item_id"].as_str().unwrap())
            .collect();
        let unique: BTreeSet<&str> = answered.iter().copied().collect();
        assert_eq!(
            (answered.len(), unique),
            (book.responses.len(), book.responses.keys().map(String::as_str).collect())
        );
        let ends = events.iter().filter(|event| event["event_type"] == "session_ended").count();
        assert_eq!(ends, usize::from(book.state == "completed"));
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Restarts.

#[test]
fn whoever_comes_back_after_a_crash_finds_his_place_and_his_time() {
    let (_kept, path) = directory();
    let daemon = on(&path, &[]);
    let sections = [
        with(section("a", &["a1", "a2"]), json!({ "time_limit_seconds": 900 })),
        with(section("b", &["b1", "b2"]), json!({ "time_limit_seconds": 600 })),
    ];
    let mut ids = Vec::new();
    for (mode, pause) in [("HYBRID", false), ("NON_LINEAR", true), ("LINEAR", false)] {
        daemon.set("x", with(free(&sections), json!({ "navigation_mode": mode, "time_limit_seconds": 3600 })));
        let id = daemon.begin("x", mode);
        let body = json!({ "item_id": "a1", "response": { "n": 1.50 }, "is_flagged": true });
        assert_eq!(daemon.ask(&id, "answer", body).status, 200);
        assert_eq!(daemon.go(&id, to(2)), 2);
        assert_eq!(daemon.go(&id, next()), 3);
        assert_eq!(daemon.ask(&id, "extend", json!({ "seconds": 100 })).status, 200);
        assert!(!pause || daemon.call(&id, "pause").status == 200);
        ids.push(id);
    }
    sleep_ms(1100);
    let before: Vec<Value> = ids.iter().map(|id| daemon.session(id)).collect();
    let (mut socket, timer, _) = daemon.attend(&ids[0]);
    socket.skip_to("timer");
    let killed = Instant::now();
    daemon.kill();
    sleep_ms(1200);
    let daemon = on(&path, &[]);
    for (id, before) in ids.iter().zip(&before) {
        let after = daemon.session(id);
        assert_eq!(without_time(after.clone()), without_time(before.clone()));
        let paused = after["state"] == "paused";
        let parts = ["/time_remaining_seconds", "/section_remaining_seconds", "/sections/0/time_remaining_seconds"];
        // A section that was left for good has no time.
        let has_left = after["navigation_mode"] != "NON_LINEAR";
        for part in &parts[..if has_left { 2 } else { 3 }] {
            let of = |session: &Value| session.pointer(part).unwrap().as_i64().unwrap();
            let spent = of(before) - of(&after);
            // The exam's clock goes on while nobody keeps it, in a pause it stands.
            let most = i64::try_from(killed.elapsed().as_secs()).unwrap() + 3;
            assert!(if paused { spent == 0 } else { (1..=most).contains(&spent) }, "{part}: {spent} s in {after}");
        }
    }
    let (mut socket, again, current) = daemon.attend(&ids[0]);
    assert!(number(&again["time_remaining"]) < number(&timer["time_remaining"]));
    assert_eq!(current["item"]["item_id"], "b2");
    socket.skip_to("timer");
    refused(&daemon.answer(&ids[0], "a1", json!({})), 400, "Section is locked");
    assert_eq!(daemon.call(&ids[1], "resume").status, 200);
    assert_eq!(daemon.answer(&ids[1], "a1", json!({})).status, 200);
    refused(&daemon.answer(&ids[2], "b1", json!({})), 400, "Item b1 is locked");
    let rows = daemon.get("/delivery/assessments/x/sessions").json();
    assert_eq!(rows.as_array().unwrap().len(), 3);
    assert_eq!(rows[0]["connected"], 1);
    assert!(rows[0]["last_seen"].is_string());
}

#[test]
fn frozen_the_time_away_is_given_back() {
    let (_kept, path) = directory();
    let daemon = on(&path, &["--outage", "freeze"]);
    daemon.set("x", with(simple(), json!({ "time_limit_seconds": 3 })));
    let id = daemon.begin("x", "anna");
    let started_us = at_us(&daemon.told(&id)[1]);
    sleep_ms(300);
    daemon.kill();
    sleep_ms(3_000);
    let daemon = on(&path, &["--outage", "freeze"]);
    let session = daemon.session(&id);
    assert_eq!((&session["state"], &session["time_limit_seconds"]), (&json!("in_progress"), &json!(3)));
    assert!(matches!(session["time_remaining_seconds"].as_u64(), Some(2 | 3)), "{session}");
    assert_eq!(daemon.answer(&id, "q1", json!({})).status, 200);
    let lasted_ms = (at_us(&daemon.event(&id, "quiz_timeout")) - started_us) / 1000;
    // From the last sign of life, which is written each second, to the start.
    assert!((6_000..7_500).contains(&lasted_ms), "{lasted_ms} ms");
}

#[test]
fn what_ran_out_while_nobody_was_there_ended_at_its_true_instant_and_the_time_away_is_no_grace() {
    let (_kept, path) = directory();
    let daemon = on(&path, &[]);
    let exam = |limit: u32| with(simple(), json!({ "time_limit_seconds": limit, "grace_seconds": 2 }));
    let parts = [with(section("a", &["a1"]), json!({ "time_limit_seconds": 1 })), section("b", &["b1"])];
    daemon.set("parts", with(free(&parts), json!({ "time_limit_seconds": 600 })));
    let moved = daemon.begin("parts", "anna");
    daemon.set("x", exam(1));
    let away = daemon.begin("x", "anna");
    daemon.set("x", exam(600));
    let going_on = daemon.begin("x", "bert");
    assert_eq!(daemon.answer(&away, "q1", json!({ "n": 1 })).status, 200);
    let started_us = at_us(&daemon.told(&away)[1]);
    sleep_ms(200);
    daemon.kill();
    sleep_ms(3_200);
    let daemon = on(&path, &[]);
    let timeout = daemon.event(&away, "quiz_timeout");
    let late_us = at_us(&timeout) - started_us - 1_000_000;
    assert!(late_us.abs() < 30_000, "{late_us} us beside the deadline");
    let session = daemon.session(&away);
    assert_eq!(session["state"], "expired");
    assert!((instant_us(&session["completed_at"]) - at_us(&timeout)).abs() <= 1_030_000, "{session}");
    refused(&daemon.answer(&away, "q2", json!({})), 400, "Time expired");
    let hand_in = json!({ "answers": [{ "item_id": "q2", "response": { "n": 2 } }] });
    let submitted = daemon.ask(&away, "submit", hand_in);
    assert_eq!(submitted.status, 200, "he could not hand in before: {}", submitted.text());
    assert!(submitted.json()["late_ms"].as_i64().unwrap() >= 2_000, "{}", submitted.text());
    assert_eq!(daemon.session(&away)["responses"], json!({ "q1": { "n": 1 }, "q2": { "n": 2 } }));
    assert_eq!(daemon.answer(&going_on, "q1", json!({})).status, 200);
    // A section that ran out meanwhile has moved its candidate.
    let session = daemon.session(&moved);
    assert_eq!((&session["current_item_index"], &session["sections"][0]["locked"]), (&json!(1), &json!(true)));
    eventually(|| daemon.told(&moved).len() == 5);
    let seen = daemon.told(&moved);
    assert_eq!(kinds(&seen[3..]), ["question_skipped", "question_viewed"]);
    assert!((at_us(&seen[4]) - at_us(&seen[1]) - 1_000_000).abs() < 30_000, "{seen:?}");
}

#[test]
fn a_hand_in_that_was_taken_stays_taken_and_a_grace_goes_on_after_a_crash() {
    let (_kept, path) = directory();
    let mut daemon = on(&path, &[]);
    daemon.set("x", with(simple(), json!({ "time_limit_seconds": 1, "grace_seconds": 3600 })));
    let [taken, open] = ["anna", "bert"].map(|who| daemon.begin("x", who));
    eventually(|| daemon.state(&open) == "expired" && daemon.state(&taken) == "expired");
    let answer = daemon.call(&taken, "submit").json();
    daemon.kill();
    daemon = on(&path, &[]);
    let session = daemon.session(&taken);
    let found = [&session["state"], &session["late_ms"], &session["completed_at"]];
    assert_eq!(found, [&json!("completed"), &answer["late_ms"], &answer["completed_at"]]);
    refused(&daemon.call(&taken, "submit"), 400, "Cannot submit in state: completed");
    assert_eq!(daemon.state(&open), "expired");
    assert_eq!(daemon.call(&open, "submit").status, 200);
    let ends = ["quiz_timeout", "quiz_completed", "session_ended"];
    for id in [&taken, &open] {
        assert_eq!(kinds(&daemon.told(id)[3..]), ends, "each once");
    }
}

// ---------------------------------------------------------------------------------------------------------------
// A storm.

/// How long the disk takes for one small commit of its own, sorted.
fn commits_alone(directory: &Path) -> Vec<Duration> {
    let mut file = File::create(directory.join("measure")).unwrap();
    let mut took: Vec<Duration> = (0..60)
        .map(|_| {
            let begun = Instant::now();
            file.write_all(&[7; 4096]).unwrap();
            file.sync_data().unwrap();
            begun.elapsed()
        })
        .collect();
    took.sort();
    took
}

/// Of a sorted list: below it lie so many of a hundred.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() * percent).div_ceil(100).max(1) - 1]
}

#[test]
fn a_thousand_hand_ins_within_a_second_of_expiry_are_all_taken() {
    const SESSIONS: usize = 1000;
    const THREADS: usize = 25;
    const EACH: usize = SESSIONS / THREADS;
    let (_kept, path) = directory();
    let daemon = on(&path, &[]);
    let address = daemon.address;
    daemon.set("x", with(simple(), json!({ "time_limit_seconds": 4, "grace_seconds": 10 })));
    let candidates: Vec<_> = (0..THREADS)
        .map(|thread| {
            std::thread::spawn(move || {
                let mut http = Http::connect(address);
                let requests: Vec<u8> = (0..EACH)
                    .flat_map(|n| {
                        let who = format!("candidate {thread} {n}");
                        let body = json!({ "candidate_id": who, "test_taker_id": "t" }).to_string();
                        request_bytes("POST", "/delivery/start/x", &[JSON], Some(&body))
                    })
                    .collect();
                http.send(requests);
                let ids: Vec<String> =
                    (0..EACH).map(|_| http.response().json()["session_id"].as_str().unwrap().to_owned()).collect();
                // One of them watches: `expired` sends them all off.
                let path = format!("/delivery/ws/{}", ids[EACH - 1]);
                let mut socket = Daemon::try_open_at(address, &path, &[]).unwrap();
                socket.skip_to("expired");
                let told = Instant::now();
                let mut took = Vec::new();
                for (n, id) in ids.iter().enumerate() {
                    // Spread over a second, and counted from when it should have been sent.
                    let due = told + Duration::from_millis((1000 * n / EACH + thread) as u64);
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    let answers: Vec<Value> = ["q1", "q3"]
                        .iter()
                        .map(|item| json!({ "item_id": item, "response": { "by": id } }))
                        .collect();
                    let body = json!({ "answers": answers }).to_string();
                    let path = format!("/delivery/session/{id}/submit");
                    let response = http.request("POST", &path, &[JSON], Some(&body));
                    assert_eq!(response.status, 200, "{}", response.text());
                    assert!(response.json()["late_ms"].as_i64().unwrap() >= 0, "{}", response.text());
                    took.push(due.elapsed());
                }
                (ids, took, told)
            })
        })
        .collect();
    let (mut ids, mut took, mut told) = (Vec::new(), Vec::new(), Vec::new());
    for candidate in candidates {
        let (its_ids, its_times, was_told) = candidate.join().unwrap();
        ids.extend(its_ids);
        took.extend(its_times);
        told.push(was_told);
    }
    let alone = commits_alone(&path);
    took.sort();
    let spread = told.iter().max().unwrap().duration_since(*told.iter().min().unwrap());
    println!(
        "{SESSIONS} hand-ins, {spread:?} between the first and the last `expired`: answered p50 {:?}, p99 {:?}, \
         latest {:?}; a commit of the disk alone: p50 {:?}, p99 {:?}",
        percentile(&took, 50),
        percentile(&took, 99),
        took[took.len() - 1],
        percentile(&alone, 50),
        percentile(&alone, 99),
    );
    assert_eq!(ids.len(), SESSIONS);
    daemon.kill();
    let daemon = on(&path, &[]);
    let results = daemon.get("/delivery/assessments/x/results");
    let mut taken = BTreeSet::new();
    for line in results.text().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let id = line["session_id"].as_str().unwrap().to_owned();
        let by = json!({ "q1": { "by": id }, "q3": { "by": id } });
        assert_eq!((&line["state"], &line["responses"]), (&json!("completed"), &by), "{line}");
        assert!(line["late_ms"].is_u64(), "{line}");
        taken.insert(id);
    }
    assert_eq!(taken, ids.into_iter().collect());
}

// ---------------------------------------------------------------------------------------------------------------
// A disk that fails.

#[test]
fn while_the_disk_fails_nothing_is_lost_nothing_is_acknowledged_and_the_grace_waits() {
    let (_kept, path) = directory();
    let daemon = on(&path, &[]);
    daemon.set("x", simple());
    let id = daemon.begin("x", "filler");
    let filler = "x".repeat(60_000);
    for n in 0..3 {
        assert_eq!(daemon.answer(&id, "q1", json!({ "n": n, "text": filler })).status, 200);
    }
    assert!(daemon.terminate().0.success());
    let daemon = Daemon::on(&path, &NO_LIMITS);
    let pid = Pid::from_raw(daemon.pid().try_into().unwrap());
    let limit = |bytes: Option<u64>| {
        prlimit(pid, Resource::Fsize, Rlimit { current: bytes, maximum: None }).unwrap();
    };
    daemon.set("x", with(simple(), json!({ "time_limit_seconds": 2, "grace_seconds": 1 })));
    let before = Instant::now();
    let id = daemon.begin("x", "anna");
    daemon.set("y", with(simple(), json!({ "time_limit_seconds": 600 })));
    let other = daemon.begin("y", "bert");
    assert_eq!(daemon.answer(&id, "q1", json!({ "kept": true })).status, 200);
    let (mut socket, _, _) = daemon.attend(&id);
    let (mut second, _, _) = daemon.attend(&other);
    limit(Some(36 << 10));
    // On its way to the disk when that is found to fail: the answer says of which question it is.
    let mut kept = json!({ "kept": true });
    for n in 0.. {
        let response = json!({ "text": filler, "n": n });
        socket.send(json!({ "type": "answer_save", "item_id": "q1", "response": response, "ref": n }));
        let mut answer = socket.recv();
        while answer["type"] == "timer" {
            answer = socket.recv();
        }
        assert_eq!(answer["ref"], n, "{answer}");
        if answer["type"] == "error" {
            assert!(answer["message"].as_str().unwrap().ends_with("nothing was changed"), "{answer}");
            break;
        }
        kept = response;
    }
    let hand_in = json!({ "answers": [{ "item_id": "q2", "response": { "late": true } }] });
    let refusals = [
        daemon.answer(&id, "q2", json!({})),
        daemon.ask(&id, "navigate", next()),
        daemon.ask(&id, "submit", hand_in.clone()),
        daemon.call(&other, "pause"),
        daemon.call(&other, "terminate"),
        daemon.ask(&other, "extend", json!({ "seconds": 5 })),
        daemon.try_start("x", "cleo"),
        daemon.put("/delivery/assessments/z", simple()),
    ];
    for refusal in refusals {
        assert_eq!(refusal.status, 503, "{}", refusal.text());
        assert!(refusal.detail().ends_with("nothing was changed"), "{}", refusal.text());
        assert!(refusal.header("retry-after").unwrap().parse::<u32>().unwrap() >= 1);
    }
    second.send(json!({ "type": "answer_save", "item_id": "q1", "response": {}, "ref": "r" }));
    let error = second.skip_to("error");
    assert!(error["ref"] == "r" && error["message"].as_str().unwrap().ends_with("nothing was changed"), "{error}");
    // What can be read is read, what follows from time goes on.
    assert_eq!(daemon.session(&id)["responses"]["q1"], kept);
    assert_eq!(daemon.call(&id, "save").json()["responses_count"], 1);
    socket.skip_to("expired");
    let lasted = before.elapsed();
    assert!((2_000..2_000 + LATE_MS_MAX as u128).contains(&lasted.as_millis()), "on time: {lasted:?}");
    assert_eq!(daemon.state(&id), "expired");
    // Longer than the grace.
    sleep_ms(1_600);
    assert_eq!(daemon.ask(&id, "submit", hand_in.clone()).status, 503);
    assert_eq!(daemon.told(&id).iter().filter(|event| event["event_type"] == "session_ended").count(), 0);
    limit(None);
    eventually(|| daemon.get("/readiness").status == 200);
    let submitted = daemon.ask(&id, "submit", hand_in);
    assert_eq!(submitted.status, 200, "he could not hand in before: {}", submitted.text());
    let late_ms = submitted.json()["late_ms"].as_i64().unwrap();
    assert!(late_ms >= 1_600, "and is as late as he is: {late_ms}");
    let session = daemon.session(&id);
    assert_eq!(session["responses"], json!({ "q1": kept, "q2": { "late": true } }));
    assert_eq!(session["current_item_index"], 0, "nothing was changed");
    let events = daemon.told(&id);
    let ends = kinds(&events[events.len() - 4..]);
    assert_eq!(ends, ["quiz_timeout", "answer_submitted", "quiz_completed", "session_ended"]);
    let lasted_us = at_us(&daemon.event(&id, "quiz_timeout")) - at_us(&daemon.event(&id, "quiz_started"));
    assert!((lasted_us - 2_000_000).abs() < 30_000, "written later, with its true instant: {lasted_us}");
    assert_eq!(daemon.state(&other), "in_progress");
}

#[test]
fn a_disk_that_does_not_even_tell_what_it_has_is_given_up_at_once_and_the_grace_waits() {
    let (_kept, path) = directory();
    let daemon = Daemon::on(&path, &NO_LIMITS);
    let pid = Pid::from_raw(daemon.pid().try_into().unwrap());
    // Not even the index of the log can be made again, so that the store cannot be opened to look.
    let limit = |bytes: Option<u64>| {
        prlimit(pid, Resource::Fsize, Rlimit { current: bytes, maximum: None }).unwrap();
    };
    daemon.set("x", with(simple(), json!({ "time_limit_seconds": 2, "grace_seconds": 1 })));
    let id = daemon.begin("x", "anna");
    let (mut socket, _, _) = daemon.attend(&id);
    daemon.set("y", with(simple(), json!({ "time_limit_seconds": 600 })));
    let other = daemon.begin("y", "bert");
    limit(Some(1 << 10));
    let asked = Instant::now();
    let refusal = daemon.answer(&other, "q1", json!({}));
    assert_eq!(refusal.status, 503, "{}", refusal.text());
    assert!(asked.elapsed() < Duration::from_secs(4), "nobody waits for a disk that is known to fail");
    let readiness = daemon.get("/readiness");
    assert_eq!(readiness.status, 503);
    assert!(readiness.text().contains("cannot be written"), "{}", readiness.text());
    let refusal = daemon.answer(&other, "q1", json!({}));
    assert!(refusal.detail().ends_with("nothing was changed"), "{}", refusal.text());
    socket.skip_to("expired");
    // Longer than the grace.
    sleep_ms(1_600);
    let hand_in = json!({ "answers": [{ "item_id": "q2", "response": { "late": true } }] });
    assert_eq!(daemon.ask(&id, "submit", hand_in.clone()).status, 503);
    limit(None);
    eventually(|| daemon.get("/readiness").status == 200);
    let submitted = daemon.ask(&id, "submit", hand_in);
    assert_eq!(submitted.status, 200, "he could not hand in before: {}", submitted.text());
    assert_eq!(daemon.session(&id)["responses"]["q2"], json!({ "late": true }));
}
