//! What a restart must not change, proven on the real binary, its real store and real signals: whatever was
//! acknowledged is there after `kill -9` at any moment, whatever was not is there whole or not at all; running timers
//! keep their end to the millisecond; what ran out meanwhile ended at its true instant; a reboot, a wall clock that
//! went back and a torn log stop nobody; a file that is not ours is refused.
//!
//! `TIMERD_KILL_ROUNDS=n` plays n rounds of killing instead of 100, `TIMERD_KILL_SEED=n` others or the same again.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]
#![allow(clippy::cast_possible_wrap, clippy::cast_sign_loss)]

mod daemon;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use daemon::{Daemon, Dice, Http, PATIENCE, Response, Socket, directory, request_bytes};
use rusqlite::Connection;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// How far two readings of the wall clock against the boot clock may lie apart, in milliseconds: below it timerd
/// itself sees no step.
const CLOCK_JITTER_MS: i64 = 20;

fn wall_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

fn sleep_ms(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

/// Waits until the wall clock has passed `at_ms` by `more_ms`.
fn wait_until(at_ms: i64, more_ms: i64) {
    sleep_ms((at_ms + more_ms - wall_ms()).max(0) as u64);
}

fn ms_of(time: &Value) -> i64 {
    time.as_str().unwrap_or_else(|| panic!("{time}")).parse::<jiff::Timestamp>().unwrap().as_millisecond()
}

fn rfc3339(ms: i64) -> String {
    format!("{:.3}", jiff::Timestamp::from_millisecond(ms).unwrap())
}

fn history(daemon: &Daemon, id: &str) -> Vec<Value> {
    let response = daemon.get(&format!("/timers/{id}/history"));
    assert_eq!(response.status, 200, "{}", response.text());
    response.json().as_array().unwrap().clone()
}

fn last_entry(daemon: &Daemon, id: &str) -> Value {
    history(daemon, id).pop().unwrap()
}

fn actions(daemon: &Daemon, id: &str) -> Vec<String> {
    history(daemon, id).iter().map(|entry| entry["action"].as_str().unwrap().to_owned()).collect()
}

fn database(directory: &Path) -> Connection {
    Connection::open(directory.join("timerd.db")).unwrap()
}

// ---------------------------------------------------------------------------------------------------------------
// Killed under load: what is asked, and what must be true afterwards.

/// Connections that work on one daemon at the same time.
const WORKERS: usize = 3;
/// Timers that a worker holds at a time: enough for bulk calls, few enough to look at each after each round.
const TIMERS_OF_A_WORKER: usize = 12;

/// One request that changes something.
#[derive(Clone, Debug)]
struct Op {
    what: What,
    key: Option<String>,
}

#[derive(Clone, Debug)]
enum What {
    Create { name: String, duration_s: u64, begin: Begin },
    Control { name: String, action: &'static str, seconds: u64 },
    Bulk { names: Vec<String>, action: &'static str, seconds: u64 },
    Delete { name: String },
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Begin {
    ByHand,
    Now,
    Scheduled,
}

/// A timer as it must be.
#[derive(Clone, Debug)]
struct Timer {
    id: String,
    state: String,
    duration_s: u64,
    history: Vec<(String, String)>,
    /// Known from an answer, until the next change.
    ends_at: Option<String>,
    remaining_ms: Option<u64>,
    /// Lasts a second, and is left alone until it has run out.
    fleeting: bool,
}

impl Timer {
    fn note(&mut self, action: &str, actor: &str) {
        self.history.push((action.to_owned(), actor.to_owned()));
        self.ends_at = None;
        self.remaining_ms = None;
    }

    /// The table of states.
    fn act(&mut self, action: &str, seconds: u64, actor: &str) -> bool {
        let (state, done) = match (self.state.as_str(), action) {
            ("created", "start") => ("running", "started".to_owned()),
            ("paused", "start" | "resume") => ("running", "resumed".to_owned()),
            ("running", "pause") => ("paused", "paused".to_owned()),
            ("created" | "running" | "paused", "stop") => ("completed", "stopped".to_owned()),
            ("created" | "running" | "paused", "extend") => {
                self.duration_s += seconds;
                (self.state.as_str(), format!("extended {seconds}"))
            }
            _ => return false,
        };
        self.state = state.to_owned();
        self.note(&done, actor);
        true
    }

    /// What an answer tells beyond what was known.
    fn learn(&mut self, object: &Value) {
        assert_eq!(object["revision"], self.history.len(), "{object}");
        assert_eq!(object["state"], *self.state, "{object}");
        self.id = object["id"].as_str().unwrap().to_owned();
        self.ends_at = object["ends_at"].as_str().map(str::to_owned);
        self.remaining_ms = (self.state != "running").then(|| object["remaining_ms"].as_u64().unwrap());
    }

    /// Why the object is not this timer; nothing when it is.
    fn differs(&self, object: &Value) -> Option<String> {
        let same = object["state"] == *self.state
            && object["duration_seconds"] == self.duration_s
            && object["revision"] == self.history.len()
            && (self.id.is_empty() || object["id"] == *self.id)
            && self.ends_at.as_ref().is_none_or(|ends_at| object["ends_at"] == **ends_at)
            && self.remaining_ms.is_none_or(|left| object["remaining_ms"] == left);
        (!same).then(|| format!("{self:?}\n  is {object}"))
    }
}

/// All that one worker knows to be true: nobody else touches its timers.
#[derive(Clone, Default)]
struct Book {
    actor: String,
    alive: BTreeMap<String, Timer>,
    deleted: BTreeMap<String, Timer>,
}

impl Book {
    /// Does to the book what the request does to the daemon. Returns the status of the answer.
    fn apply(&mut self, op: &Op) -> u16 {
        let actor = self.actor.clone();
        match &op.what {
            What::Create { name, duration_s, begin } => {
                let fleeting = *duration_s == 1;
                let (state, then) = match begin {
                    Begin::ByHand => ("created", None),
                    Begin::Now => ("running", Some("started")),
                    Begin::Scheduled => ("created", Some("scheduled")),
                };
                let mut timer = Timer {
                    id: String::new(),
                    state: state.to_owned(),
                    duration_s: *duration_s,
                    history: Vec::new(),
                    ends_at: None,
                    remaining_ms: None,
                    fleeting,
                };
                timer.note("created", &actor);
                then.into_iter().for_each(|action| timer.note(action, &actor));
                self.alive.insert(name.clone(), timer);
                201
            }
            What::Control { name, action, seconds } => match self.alive.get_mut(name) {
                None => 404,
                Some(timer) => {
                    if timer.act(action, *seconds, &actor) {
                        200
                    } else {
                        400
                    }
                }
            },
            What::Bulk { names, action, seconds } => {
                for name in names {
                    if *action == "delete" {
                        self.delete(name);
                    } else if let Some(timer) = self.alive.get_mut(name) {
                        timer.act(action, *seconds, &actor);
                    }
                }
                200
            }
            What::Delete { name } if self.delete(name) => 204,
            What::Delete { .. } => 404,
        }
    }

    fn delete(&mut self, name: &str) -> bool {
        let Some(mut timer) = self.alive.remove(name) else { return false };
        timer.note("deleted", &self.actor.clone());
        self.deleted.insert(name.to_owned(), timer);
        true
    }

    /// Takes up the answer to `op`, which has been applied.
    fn learn(&mut self, op: &Op, response: &Response) {
        match &op.what {
            What::Create { name, .. } | What::Control { name, .. } if response.status < 300 => {
                self.alive.get_mut(name).unwrap().learn(&response.json());
            }
            _ => {}
        }
    }

    fn revisions(&self) -> usize {
        self.alive.values().chain(self.deleted.values()).map(|timer| timer.history.len()).sum()
    }
}

/// One connection's work, over all rounds.
struct Worker {
    name: String,
    key: String,
    /// When its scheduled timers would start: the same in every copy of a request.
    start_at: String,
    dice: Dice,
    book: Book,
    /// Sent and not answered when the daemon was killed, in the order sent.
    unanswered: Vec<Op>,
    /// Answered requests with a key: their bytes, and the first answer.
    answered: Vec<(Vec<u8>, Response)>,
    touched: BTreeSet<String>,
    acknowledged: u64,
    serial: u64,
}

impl Worker {
    /// Asks for changes, some at a time, until the connection breaks.
    fn work(&mut self, mut http: Http) {
        while self.unanswered.is_empty() {
            let mut ahead = self.book.clone();
            let mut bytes = Vec::new();
            let mut sent: Vec<(Op, u16, Vec<u8>)> = Vec::new();
            for _ in 0..=self.dice.roll(4) {
                let op = self.invent(&ahead);
                let request = self.request(&op);
                bytes.extend_from_slice(&request);
                let status = ahead.apply(&op);
                sent.push((op, status, request));
            }
            let mut broken = http.stream.write_all(&bytes).is_err();
            for (op, status, request) in sent {
                let response = if broken { None } else { http.try_response_to("POST") };
                let Some(response) = response else {
                    broken = true;
                    self.unanswered.push(op);
                    continue;
                };
                self.acknowledge(op, status, request, response);
            }
        }
    }

    fn acknowledge(&mut self, op: Op, status: u16, request: Vec<u8>, response: Response) {
        assert_eq!(response.status, status, "{op:?}: {}", response.text());
        let before = self.book.revisions();
        assert_eq!(self.book.apply(&op), status);
        let changed = self.book.revisions() > before;
        self.book.learn(&op, &response);
        self.touch(&op);
        self.acknowledged += u64::from(changed);
        // What changed nothing is not kept, but carried out again.
        if op.key.is_some() && changed {
            self.answered.push((request, response));
        }
    }

    fn touch(&mut self, op: &Op) {
        match &op.what {
            What::Create { name, .. } | What::Control { name, .. } | What::Delete { name } => {
                self.touched.insert(name.clone());
            }
            What::Bulk { names, .. } => self.touched.extend(names.iter().cloned()),
        }
    }

    /// Something to ask for. Most of it is possible, some is not.
    fn invent(&mut self, book: &Book) -> Op {
        let dice = &mut self.dice;
        // Only those whose id is known, and that do not change by themselves meanwhile.
        let known: Vec<&String> = book
            .alive
            .iter()
            .filter(|(_, timer)| !timer.id.is_empty() && (!timer.fleeting || timer.state != "running"))
            .map(|(name, _)| name)
            .collect();
        let full = book.alive.len() >= TIMERS_OF_A_WORKER;
        let seconds = 1 + dice.roll(60);
        let what = match dice.roll(10) {
            0..=2 if !full => {
                self.serial += 1;
                let name = format!("{} {}", self.name, self.serial);
                let (duration_s, begin) = match dice.roll(6) {
                    0 => (1, Begin::Now),
                    1 | 2 => (1_000 + seconds, Begin::Now),
                    3 => (1_000 + seconds, Begin::Scheduled),
                    _ => (1_000 + seconds, Begin::ByHand),
                };
                What::Create { name, duration_s, begin }
            }
            _ if known.is_empty() => What::Bulk { names: Vec::new(), action: "start", seconds },
            3..=5 => {
                let action = *dice.pick(&["start", "start", "pause", "resume", "extend", "extend", "stop"]);
                What::Control { name: (*dice.pick(&known)).clone(), action, seconds }
            }
            6 | 7 => {
                let names: BTreeSet<String> = (0..5).map(|_| (*dice.pick(&known)).clone()).collect();
                let mut actions = vec!["start", "pause", "resume", "extend"];
                actions.extend(full.then_some("delete"));
                What::Bulk {
                    names: names.into_iter().collect(),
                    action: dice.pick::<&'static str>(&actions),
                    seconds,
                }
            }
            8 if full || dice.one_in(4) => What::Delete { name: (*dice.pick(&known)).clone() },
            _ => What::Control { name: (*dice.pick(&known)).clone(), action: "extend", seconds },
        };
        let may_have_key = !matches!(what, What::Delete { .. });
        self.serial += 1;
        let key = (may_have_key && dice.one_in(3)).then(|| format!("{}-{}", self.name, self.serial));
        Op { what, key }
    }

    fn request(&self, op: &Op) -> Vec<u8> {
        let id = |name: &String| {
            let known = self.book.alive.get(name).or_else(|| self.book.deleted.get(name));
            known.map_or("nobody", |timer| &timer.id).to_owned()
        };
        let (method, path, body) = match &op.what {
            What::Create { name, duration_s, begin } => {
                let mut body = json!({ "name": name, "duration_seconds": duration_s });
                match begin {
                    Begin::ByHand => {}
                    Begin::Now => body["auto_start"] = json!(true),
                    Begin::Scheduled => body["start_at"] = json!(self.start_at),
                }
                ("POST", "/timers".to_owned(), Some(body))
            }
            What::Control { name, action, seconds } => {
                let body = json!({ "action": action, "extend_seconds": seconds });
                ("POST", format!("/timers/{}/control", id(name)), Some(body))
            }
            What::Bulk { names, action, seconds } => {
                let ids: Vec<String> = names.iter().map(id).collect();
                let body = json!({ "timer_ids": ids, "seconds": seconds });
                ("POST", format!("/timers/bulk/{action}"), Some(body))
            }
            What::Delete { name } => ("DELETE", format!("/timers/{}", id(name)), None),
        };
        let mut headers = vec![("X-API-Key", &*self.key), ("Content-Type", "application/json")];
        headers.extend(op.key.as_ref().map(|key| ("Idempotency-Key", &**key)));
        request_bytes(method, &path, &headers, body.map(|body| body.to_string()).as_deref())
    }

    /// Compares the daemon with the book: every acknowledged change must be there, and of the unanswered ones, which
    /// were carried out in the order sent, none or the first or the first two and so on, each of them whole.
    fn verify(&mut self, daemon: &Daemon, listed: &BTreeMap<String, Value>) {
        let own = format!("{} ", self.name);
        let mine: BTreeMap<&String, &Value> = listed.iter().filter(|(name, _)| name.starts_with(&own)).collect();
        let unanswered = std::mem::take(&mut self.unanswered);
        let mut candidate = self.book.clone();
        let mut outcomes = Vec::new();
        let mut told = String::new();
        let mut durable = None;
        for done in 0..=unanswered.len() {
            if let Some(op) = done.checked_sub(1).map(|last| &unanswered[last]) {
                let before = candidate.revisions();
                let status = candidate.apply(op);
                outcomes.push((status, candidate.revisions() > before));
            }
            match self.fits(daemon, &candidate, &mine) {
                Ok(exact) => {
                    durable = Some((done, exact));
                    break;
                }
                Err(why) => writeln!(told, "with {done} of {} unanswered: {why}", unanswered.len()).unwrap(),
            }
        }
        let Some((done, exact)) = durable else {
            let lost = self.lost(&mine);
            panic!("{}: {lost} acknowledged changes lost, or one half done:\n{told}{unanswered:#?}", self.name);
        };
        self.book = exact;
        unanswered.iter().for_each(|op| self.touch(op));
        self.ask_again(daemon, &unanswered, done, &outcomes);
        self.check_histories(daemon);
    }

    /// Changes that were acknowledged and are not there.
    fn lost(&self, mine: &BTreeMap<&String, &Value>) -> usize {
        let missing = |(name, timer): (&String, &Timer)| {
            let revision = mine.get(name).map_or(0, |object| object["revision"].as_u64().unwrap() as usize);
            timer.history.len().saturating_sub(revision)
        };
        self.book.alive.iter().map(missing).sum()
    }

    /// The book with what has run out meanwhile, if the daemon has exactly that.
    fn fits(&self, daemon: &Daemon, book: &Book, mine: &BTreeMap<&String, &Value>) -> Result<Book, String> {
        let mut exact = book.clone();
        if !exact.alive.keys().eq(mine.keys().copied()) {
            return Err(format!("timers {:?}\n  are {:?}", book.alive.keys(), mine.keys()));
        }
        for (name, object) in mine {
            let timer = exact.alive.get_mut(*name).unwrap();
            if timer.fleeting && timer.state == "running" && object["state"] == "expired" {
                self.check_expiry(daemon, timer, object);
                timer.note("expired", "timerd");
                "expired".clone_into(&mut timer.state);
            }
            if let Some(why) = timer.differs(object) {
                return Err(why);
            }
            timer.learn(object);
        }
        Ok(exact)
    }

    /// What ran out did so at the instant it was told, and a second after its start.
    fn check_expiry(&self, daemon: &Daemon, timer: &Timer, object: &Value) {
        let entries = history(daemon, object["id"].as_str().unwrap());
        let [.., started, expired] = &entries[..] else { panic!("{entries:?}") };
        assert_eq!(expired["action"], "expired", "{entries:?}");
        let (began, ended) = (started["at_ms"].as_i64().unwrap(), expired["at_ms"].as_i64().unwrap());
        assert!((began + 1_000 - ended).abs() <= 1, "{entries:?}");
        if let Some(ends_at) = &timer.ends_at {
            assert_eq!(ms_of(&json!(ends_at)), ended, "{entries:?}");
        }
    }

    /// Requests with a key are sent again: those that changed something are answered as before, the others now.
    fn ask_again(&mut self, daemon: &Daemon, unanswered: &[Op], durable: usize, outcomes: &[(u16, bool)]) {
        let mut http = daemon.connect();
        for (n, op) in unanswered.iter().enumerate().filter(|(_, op)| op.key.is_some()) {
            http.send(self.request(op));
            let response = http.response();
            let kept = outcomes.get(n).filter(|(_, changed)| n < durable && *changed);
            assert_eq!(response.header("idempotency-replayed").is_some(), kept.is_some(), "{op:?}: {response:?}");
            if let Some((status, _)) = kept {
                assert_eq!(response.status, *status, "{op:?}");
            } else {
                assert_eq!(response.status, self.book.apply(op), "{op:?}: {}", response.text());
                self.book.learn(op, &response);
            }
        }
        for _ in 0..3.min(self.answered.len()) {
            let (request, first) = self.dice.pick(&self.answered);
            http.send(request);
            let again = http.response();
            assert_eq!((again.status, again.text()), (first.status, first.text()));
            assert_eq!(again.header("idempotency-replayed"), Some("true"));
        }
    }

    /// The history of every timer that was touched is the book's, without a gap, and goes forward in time.
    fn check_histories(&mut self, daemon: &Daemon) {
        let names: Vec<String> = std::mem::take(&mut self.touched).into_iter().collect();
        let timers: Vec<&Timer> = names
            .iter()
            .filter_map(|name| self.book.alive.get(name).or_else(|| self.book.deleted.get(name)))
            .filter(|timer| !timer.id.is_empty())
            .collect();
        let mut http = daemon.connect();
        for some in timers.chunks(16) {
            let ask = |timer: &&Timer| request_bytes("GET", &format!("/timers/{}/history", timer.id), &[], None);
            http.send(some.iter().flat_map(ask).collect::<Vec<u8>>());
            for timer in some {
                let entries = http.response().json();
                let entries = entries.as_array().unwrap();
                let mut told: Vec<(String, String)> = entries.iter().map(entry_in_short).collect();
                if timer.fleeting && timer.state == "running" && told.len() > timer.history.len() {
                    // It has run out since the list was read.
                    assert_eq!(told.pop(), Some(("expired".to_owned(), "timerd".to_owned())));
                }
                assert_eq!(told, timer.history, "{}", self.name);
                assert!(entries.iter().map(|entry| entry["revision"].as_u64().unwrap()).eq(1..=entries.len() as u64));
                assert!(entries.is_sorted_by_key(|entry| entry["at_ms"].as_i64().unwrap()), "{entries:?}");
            }
        }
    }
}

fn entry_in_short(entry: &Value) -> (String, String) {
    let mut action = entry["action"].as_str().unwrap().to_owned();
    if let Some(seconds) = entry["added_seconds"].as_u64() {
        write!(action, " {seconds}").unwrap();
    }
    (action, entry["actor"].as_str().unwrap().to_owned())
}

fn listed(daemon: &Daemon) -> BTreeMap<String, Value> {
    let list = daemon.get("/timers").json();
    let named = |timer: &Value| (timer["name"].as_str().unwrap().to_owned(), timer.clone());
    list.as_array().unwrap().iter().map(named).collect()
}

/// Kills a daemon that has just been started, perhaps before it serves, perhaps in the middle of its recovery.
fn kill_while_starting(flags: &[&str], after: Duration) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_timerd"));
    command.args(flags).args(["--listen", "127.0.0.1:0"]).env_clear();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(after);
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Plays `rounds` of load and killing on one directory. Returns acknowledged changes, unanswered ones, and kills.
fn play(seed: u64, rounds: u64) -> (u64, u64, u64) {
    let (place, data) = directory();
    let keys_file = place.path().join("keys");
    let mut keys = String::new();
    let mut workers: Vec<Worker> = (0..WORKERS)
        .map(|n| {
            let (name, key) = (format!("worker-{n}"), format!("key-of-worker-{n}-{seed}"));
            let digest = Sha256::digest(&key).iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
            writeln!(keys, "{name}:instructor:{digest}").unwrap();
            Worker {
                book: Book { actor: name.clone(), ..Book::default() },
                name,
                key,
                start_at: rfc3339(wall_ms() + 86_400_000),
                dice: Dice(seed ^ (n as u64) << 32),
                unanswered: Vec::new(),
                answered: Vec::new(),
                touched: BTreeSet::new(),
                acknowledged: 0,
                serial: 0,
            }
        })
        .collect();
    fs::write(&keys_file, keys).unwrap();
    let flags = ["--keys-file", keys_file.to_str().unwrap(), "--max-timers", "10000"];
    let all_flags: Vec<&str> = ["--data-dir", data.to_str().unwrap()].iter().chain(&flags).copied().collect();
    let mut dice = Dice(seed);
    let (mut unanswered, mut kills) = (0, 0);
    let mut daemon = Daemon::on(&data, &flags);
    for _ in 0..rounds {
        let life = Duration::from_micros(2_000 + dice.roll(150_000));
        std::thread::scope(|scope| {
            for worker in &mut workers {
                let http = daemon.connect();
                scope.spawn(|| worker.work(http));
            }
            std::thread::sleep(life);
            daemon.signal("KILL");
        });
        daemon.kill();
        kills += 1;
        while dice.one_in(4) {
            kill_while_starting(&all_flags, Duration::from_micros(dice.roll(15_000)));
            kills += 1;
        }
        daemon = Daemon::on(&data, &flags);
        let listed = listed(&daemon);
        for worker in &mut workers {
            unanswered += worker.unanswered.len() as u64;
            worker.verify(&daemon, &listed);
        }
    }
    // Once more, everything there ever was, when the last of the fleeting ones has run out.
    sleep_ms(1_100);
    let listed = listed(&daemon);
    for worker in &mut workers {
        worker.touched = worker.book.alive.keys().chain(worker.book.deleted.keys()).cloned().collect();
        worker.verify(&daemon, &listed);
    }
    let (status, _) = daemon.terminate();
    assert!(status.success());
    let rows: i64 = database(&data).query_row("SELECT count(*) FROM history", [], |row| row.get(0)).unwrap();
    let revisions: usize = workers.iter().map(|worker| worker.book.revisions()).sum();
    assert_eq!(rows as usize, revisions, "the store holds changes that nobody asked for");
    (workers.iter().map(|worker| worker.acknowledged).sum(), unanswered, kills)
}

#[test]
fn whatever_was_acknowledged_survives_kill_9_under_load() {
    let asked: Option<u64> = std::env::var("TIMERD_KILL_ROUNDS").ok().map(|text| text.parse().unwrap());
    let seed: Option<u64> = std::env::var("TIMERD_KILL_SEED").ok().map(|text| text.parse().unwrap());
    let rounds = asked.unwrap_or(100).max(2);
    let seed = seed.unwrap_or(wall_ms() as u64);
    println!("TIMERD_KILL_SEED={seed} TIMERD_KILL_ROUNDS={rounds}");
    let begun = Instant::now();
    let other = std::thread::spawn(move || play(seed ^ 0xa5a5, rounds / 2));
    let (acknowledged, unanswered, kills) = play(seed, rounds - rounds / 2);
    let (more_acknowledged, more_unanswered, more_kills) = other.join().unwrap();
    let (acknowledged, unanswered) = (acknowledged + more_acknowledged, unanswered + more_unanswered);
    println!(
        "{rounds} rounds, {} kills in {:.1?}: 0 of {acknowledged} acknowledged operations lost, \
         {unanswered} unanswered ones whole or not there",
        kills + more_kills,
        begun.elapsed(),
    );
    assert!(acknowledged > rounds, "hardly any load: {acknowledged}");
    assert!(unanswered > rounds, "hardly anything was cut off: {unanswered}");
}

// ---------------------------------------------------------------------------------------------------------------
// Clocks.

/// A timer that runs from now on.
fn running(daemon: &Daemon, duration_s: u64) -> (String, Value) {
    let id = daemon.create(json!({ "duration_seconds": duration_s, "auto_start": true }));
    let timer = daemon.timer(&id);
    assert_eq!(timer["state"], "running");
    (id, timer)
}

/// The wall-clock instants at which ticks arrive, with the second each tells, until there are `count`.
fn ticks(socket: &mut Socket, count: usize) -> Vec<(i64, i64)> {
    (0..count).map(|_| (socket.skip_to("timer_tick")["remaining_seconds"].as_i64().unwrap(), wall_ms())).collect()
}

/// How late each tick arrives after its place on the grid that ends at `ends_ms`.
fn latenesses(ticks: &[(i64, i64)], ends_ms: i64) -> Vec<i64> {
    ticks.iter().map(|(remaining_s, at)| at - (ends_ms - remaining_s * 1_000)).collect()
}

fn assert_on_grid(late_ms: &[i64]) {
    // Never early; and on time, but for what a busy machine adds now and then.
    assert!(late_ms.iter().all(|late| *late >= -CLOCK_JITTER_MS), "early: {late_ms:?}");
    assert!(late_ms.iter().min().unwrap() < &100, "not on the grid: {late_ms:?}");
    assert!(late_ms.iter().all(|late| *late < 900), "not on the grid: {late_ms:?}");
}

#[test]
fn a_running_timer_keeps_its_end_and_its_grid_over_kill_9_and_nothing_ends_early() {
    let (_place, data) = directory();
    let daemon = Daemon::on(&data, &[]);
    let (long, _) = running(&daemon, 3_600);
    let (short, _) = running(&daemon, 4);
    let paused = daemon.create(json!({ "duration_seconds": 600, "auto_start": true }));
    daemon.control(&paused, "pause");
    let (mut socket, _) = daemon.join(&short);
    let before = ticks(&mut socket, 1);
    let [long_before, short_before, paused_before] = [&long, &short, &paused].map(|id| daemon.timer(id));
    let ends_ms = ms_of(&short_before["ends_at"]);
    assert_on_grid(&latenesses(&before, ends_ms));
    daemon.kill();

    sleep_ms(300);
    let daemon = Daemon::on(&data, &[]);
    let [long_after, short_after, paused_after] = [&long, &short, &paused].map(|id| daemon.timer(id));
    for (before, after) in [(&long_before, &long_after), (&short_before, &short_after)] {
        assert_eq!(after["ends_at"], before["ends_at"]);
        assert_eq!(after["revision"], before["revision"]);
        assert_eq!(after["started_at"], before["started_at"]);
    }
    assert_eq!(paused_after["remaining_ms"], paused_before["remaining_ms"]);
    assert_eq!(paused_after["state"], "paused");
    let left_ms = long_after["remaining_ms"].as_i64().unwrap();
    assert!((ms_of(&long_after["ends_at"]) - wall_ms() - left_ms).abs() < 1_000, "{long_after}");

    let (mut socket, greeting) = daemon.join(&short);
    assert_eq!(greeting["timer"]["ends_at"], short_before["ends_at"]);
    let after = ticks(&mut socket, greeting["timer"]["remaining_seconds"].as_u64().unwrap() as usize);
    assert!(after.iter().map(|(told, _)| *told).eq((0..after.len() as i64).rev()), "{after:?}");
    assert_on_grid(&latenesses(&after, ends_ms));
    socket.expect("timer_expired");
    assert!(wall_ms() >= ends_ms, "ended {} ms early", ends_ms - wall_ms());
    let expired = last_entry(&daemon, &short);
    assert_eq!((&expired["action"], expired["at_ms"].as_i64()), (&json!("expired"), Some(ends_ms)));
}

#[test]
fn what_ran_out_while_down_has_ended_at_its_true_instant() {
    let (_place, data) = directory();
    let daemon = Daemon::on(&data, &[]);
    let (id, before) = running(&daemon, 1);
    let ends_ms = ms_of(&before["ends_at"]);
    daemon.kill();
    wait_until(ends_ms, 700);
    // Twice: what has been found out is kept, not found out again.
    for _ in 0..2 {
        let daemon = Daemon::on(&data, &[]);
        let timer = daemon.timer(&id);
        assert_eq!(timer["state"], "expired");
        assert_eq!((&timer["remaining_seconds"], &timer["remaining_ms"]), (&json!(0), &json!(0)));
        assert_eq!(timer["elapsed_seconds"], 1);
        assert_eq!(timer["revision"], before["revision"].as_u64().unwrap() + 1);
        assert_eq!(ms_of(&timer["completed_at"]), ends_ms / 1_000 * 1_000);
        let entry = last_entry(&daemon, &id);
        assert_eq!(entry["action"], "expired");
        assert_eq!(entry["actor"], "timerd");
        assert_eq!(entry["at_ms"], ends_ms);
        assert_eq!(entry["revision"], timer["revision"]);
        let (mut socket, greeting) = daemon.join(&id);
        assert_eq!(greeting["timer"]["state"], "expired");
        socket.expect_silence(Duration::from_millis(200));
        daemon.kill();
    }
}

#[test]
fn a_start_that_was_scheduled_for_the_time_away_happened_at_its_instant() {
    std::thread::scope(|scope| {
        for policy in ["run-on", "freeze"] {
            scope.spawn(move || scheduled_start_while_down(policy));
        }
    });
}

fn scheduled_start_while_down(policy: &str) {
    let (_place, data) = directory();
    let daemon = Daemon::on(&data, &[]);
    let start_ms = wall_ms() + 600;
    let scheduled = |duration: u64| {
        let thresholds: &[u64] = if duration > 59 { &[59] } else { &[] };
        let body =
            json!({ "duration_seconds": duration, "start_at": rfc3339(start_ms), "warning_thresholds": thresholds });
        daemon.create(body)
    };
    let (over, going, waiting) = (
        scheduled(1),
        scheduled(60),
        daemon.create(json!({ "duration_seconds": 5, "start_at": rfc3339(start_ms + 3_600_000) })),
    );
    let waited = daemon.timer(&waiting);
    daemon.kill();
    wait_until(start_ms, 1_300);
    let daemon = Daemon::on(&data, &["--outage", policy]);

    let timer = daemon.timer(&going);
    assert_eq!(timer["state"], "running", "{policy}");
    assert_eq!(ms_of(&timer["ends_at"]), start_ms + 60_000, "{policy}");
    assert_eq!(ms_of(&timer["started_at"]), start_ms / 1_000 * 1_000);
    assert!(timer["start_at"].is_null());
    let started = last_entry(&daemon, &going);
    assert_eq!((&started["action"], &started["actor"]), (&json!("started"), &json!("schedule")));
    assert_eq!(started["at_ms"], start_ms);

    let timer = daemon.timer(&over);
    assert_eq!(timer["state"], "expired", "{policy}");
    assert_eq!(actions(&daemon, &over), ["created", "scheduled", "started", "expired"]);
    assert_eq!(last_entry(&daemon, &over)["at_ms"], start_ms + 1_000);
    assert!(daemon.timer(&going)["remaining_seconds"].as_u64().unwrap() <= 59);
    assert!(daemon.events("?event_type=timer_warning").is_empty(), "crossed while nobody was there to be warned");

    let timer = daemon.timer(&waiting);
    assert_eq!((&timer["state"], &timer["revision"]), (&json!("created"), &waited["revision"]));
    assert_eq!(timer["start_at"], waited["start_at"]);
}

#[test]
fn warnings_crossed_while_down_are_not_sent_and_later_ones_are() {
    let (_place, data) = directory();
    let daemon = Daemon::on(&data, &[]);
    let body = json!({ "duration_seconds": 4, "auto_start": true, "warning_thresholds": [3, 2, 1] });
    let id = daemon.create(body);
    let ends_ms = ms_of(&daemon.timer(&id)["ends_at"]);
    daemon.kill();
    wait_until(ends_ms - 1_700, 0);
    let daemon = Daemon::on(&data, &[]);
    let (mut socket, greeting) = daemon.join(&id);
    assert_eq!(greeting["timer"]["remaining_seconds"], 2);
    let mut told = Vec::new();
    loop {
        let message = socket.recv();
        let kind = message["type"].as_str().unwrap().to_owned();
        if kind == "timer_expired" {
            break;
        }
        told.push((kind, message["remaining_seconds"].as_u64().unwrap()));
    }
    let expected = [("timer_warning", 1), ("timer_tick", 1), ("timer_tick", 0)];
    assert!(told.iter().map(|(kind, left)| (&**kind, *left)).eq(expected), "{told:?}");
}

/// The stored sign of life: wall clock in milliseconds, boot clock in nanoseconds.
fn sign_of_life(data: &Path) -> (i64, i64) {
    let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
    database(data).query_row("SELECT alive_wall_ms, alive_boot_ns FROM meta", [], read).unwrap()
}

#[test]
fn freeze_gives_the_outage_back_and_run_on_does_not() {
    let (_place, data) = directory();
    let daemon = Daemon::on(&data, &["--outage", "freeze"]);
    let (id, before) = running(&daemon, 600);
    let paused = daemon.timer_in("paused");
    let paused_before = daemon.timer(&paused);
    // Beyond the change's own batch: the sign of life is written while a timer runs.
    sleep_ms(1_300);
    let killed_ms = wall_ms();
    daemon.kill();
    let (alive_ms, _) = sign_of_life(&data);
    assert!(
        (0..=1_300).contains(&(killed_ms - alive_ms)),
        "the last sign of life is {} ms old",
        killed_ms - alive_ms
    );
    sleep_ms(800);

    let starting_ms = wall_ms();
    let daemon = Daemon::on(&data, &["--outage", "freeze"]);
    let started_ms = wall_ms();
    assert!(daemon.log().contains("back after"), "{}", daemon.log());
    let frozen = daemon.timer(&id);
    let entry = last_entry(&daemon, &id);
    assert_eq!((&entry["action"], &entry["actor"]), (&json!("outage"), &json!("timerd")));
    assert_eq!(entry["revision"], before["revision"].as_u64().unwrap() + 1);
    assert_eq!(frozen["revision"], entry["revision"]);
    assert_eq!(frozen["duration_seconds"], 600);
    let added_ms = entry["added_ms"].as_i64().unwrap();
    let away = starting_ms - alive_ms - CLOCK_JITTER_MS..=started_ms - alive_ms + CLOCK_JITTER_MS;
    assert!(away.contains(&added_ms), "{added_ms} ms given back of {away:?}");
    let moved_ms = ms_of(&frozen["ends_at"]) - ms_of(&before["ends_at"]);
    assert!((moved_ms - added_ms).abs() <= CLOCK_JITTER_MS, "{moved_ms} ms later, {added_ms} ms given back");
    assert_eq!(daemon.timer(&paused)["remaining_ms"], paused_before["remaining_ms"]);
    assert_eq!(daemon.timer(&paused)["revision"], paused_before["revision"]);
    let settled = daemon.timer(&id);
    daemon.kill();

    sleep_ms(300);
    let daemon = Daemon::on(&data, &["--outage", "run-on"]);
    let after = daemon.timer(&id);
    assert_eq!((&after["ends_at"], &after["revision"]), (&settled["ends_at"], &settled["revision"]));
    assert!(actions(&daemon, &id).iter().eq(["created", "started", "outage"]));
}

#[test]
fn freeze_lets_expire_what_ended_before_the_last_sign_of_life() {
    let (_place, data) = directory();
    let daemon = Daemon::on(&data, &[]);
    let (over, before) = running(&daemon, 1);
    let (going, _) = running(&daemon, 600);
    let ends_ms = ms_of(&before["ends_at"]);
    daemon.kill();
    wait_until(ends_ms, 600);
    // As if the daemon had lived until half a second after the end, and died before it could write it down.
    let (alive_ms, alive_ns) = sign_of_life(&data);
    let later_ms = ends_ms + 500 - alive_ms;
    let changed = database(&data).execute(
        "UPDATE meta SET alive_wall_ms = ?1, alive_boot_ns = ?2",
        [alive_ms + later_ms, alive_ns + later_ms * 1_000_000],
    );
    assert_eq!(changed, Ok(1));
    let daemon = Daemon::on(&data, &["--outage", "freeze"]);
    assert_eq!(daemon.timer(&over)["state"], "expired");
    assert_eq!(last_entry(&daemon, &over)["at_ms"], ends_ms);
    assert_eq!(actions(&daemon, &over), ["created", "started", "expired"]);
    assert_eq!(actions(&daemon, &going), ["created", "started", "outage"]);
}

// ---------------------------------------------------------------------------------------------------------------
// Another boot, played by a store that says so.

/// Makes the store one of another boot, whose boot clock showed something else, and whose wall clock was `wall_ahead`
/// milliseconds ahead of ours.
fn reboot(data: &Path, wall_ahead: i64) {
    let database = database(data);
    let boot_ns = 5_000_000_000_000_i64;
    let sql =
        "UPDATE meta SET boot_id = 'another', alive_wall_ms = alive_wall_ms + ?1, alive_boot_ns = alive_boot_ns + ?2";
    assert_eq!(database.execute(sql, [wall_ahead, boot_ns]), Ok(1));
    let sql = "UPDATE timers SET ends_wall_ms = ends_wall_ms + ?1, ends_boot_ns = ends_boot_ns + ?2";
    assert!(database.execute(sql, [wall_ahead, boot_ns]).is_ok());
}

#[test]
fn after_a_reboot_the_wall_clock_decides() {
    let (_place, data) = directory();
    let daemon = Daemon::on(&data, &[]);
    let (long, before) = running(&daemon, 600);
    let (short, short_before) = running(&daemon, 1);
    daemon.kill();
    reboot(&data, 0);
    let ends_ms = ms_of(&short_before["ends_at"]);
    wait_until(ends_ms, 100);
    for _ in 0..2 {
        let daemon = Daemon::on(&data, &[]);
        assert!(!daemon.log().contains("ERROR"));
        let after = daemon.timer(&long);
        assert_eq!((&after["ends_at"], &after["revision"]), (&before["ends_at"], &before["revision"]));
        let left_ms = ms_of(&before["ends_at"]) - wall_ms();
        assert!((after["remaining_ms"].as_i64().unwrap() - left_ms).abs() < 1_000, "{after}");
        assert_eq!(daemon.timer(&short)["state"], "expired");
        assert_eq!(last_entry(&daemon, &short)["at_ms"], ends_ms);
        // Within this boot again: what the reboot left must have been written down.
        sleep_ms(100);
        daemon.kill();
    }
}

#[test]
fn after_a_reboot_freeze_gives_back_what_the_wall_clock_says() {
    let (_place, data) = directory();
    let daemon = Daemon::on(&data, &[]);
    let (id, before) = running(&daemon, 600);
    daemon.kill();
    // Half a minute ago everything was as it is stored.
    reboot(&data, -30_000);
    let (alive_ms, _) = sign_of_life(&data);
    let daemon = Daemon::on(&data, &["--outage", "freeze"]);
    let entry = last_entry(&daemon, &id);
    assert_eq!(entry["action"], "outage");
    let added_ms = entry["added_ms"].as_i64().unwrap();
    assert!((wall_ms() - alive_ms - 5_000..=wall_ms() - alive_ms).contains(&added_ms), "{added_ms}");
    let moved_ms = ms_of(&daemon.timer(&id)["ends_at"]) - (ms_of(&before["ends_at"]) - 30_000);
    assert!((moved_ms - added_ms).abs() <= CLOCK_JITTER_MS, "{moved_ms} ms later, {added_ms} ms given back");
}

#[test]
fn after_a_reboot_with_an_earlier_wall_clock_the_time_away_counts_as_none() {
    std::thread::scope(|scope| {
        for policy in ["run-on", "freeze"] {
            scope.spawn(move || earlier_wall_clock_after_a_reboot(policy));
        }
    });
}

fn earlier_wall_clock_after_a_reboot(policy: &str) {
    let (_place, data) = directory();
    let daemon = Daemon::on(&data, &[]);
    let (id, before) = running(&daemon, 600);
    let (short, _) = running(&daemon, 2);
    sleep_ms(1_200);
    daemon.kill();
    reboot(&data, 3_600_000);
    let (alive_ms, _) = sign_of_life(&data);
    let left_ms = ms_of(&before["ends_at"]) + 3_600_000 - alive_ms;
    sleep_ms(1_500);
    let daemon = Daemon::on(&data, &["--outage", policy]);
    let log = daemon.log();
    let told: Vec<&str> = log.lines().filter(|line| line.contains("ERROR")).collect();
    assert!(matches!(told[..], [line] if line.contains("wall clock is") && line.contains("behind")), "{log}");

    // All of it is left that was left at the last sign of life, of the short one too.
    let timer = daemon.timer(&id);
    let now_left_ms = timer["remaining_ms"].as_i64().unwrap();
    assert!((left_ms - 1_000..=left_ms).contains(&now_left_ms), "{policy}: {now_left_ms} of {left_ms}");
    assert!((ms_of(&timer["ends_at"]) - wall_ms() - now_left_ms).abs() < 1_000, "{policy}: {timer}");
    assert_eq!(timer["revision"], before["revision"], "{policy}: nothing was given back");
    assert_eq!(daemon.timer(&short)["state"], "running", "{policy}");
    let ends_at = timer["ends_at"].clone();
    // The sign of life must follow the clock back, or the next start would call it an error again.
    sleep_ms(1_200);
    daemon.kill();
    let daemon = Daemon::on(&data, &[]);
    assert_eq!(daemon.timer(&id)["ends_at"], ends_at, "{policy}");
    assert!(!daemon.log().contains("ERROR"), "{policy}");
}

// ---------------------------------------------------------------------------------------------------------------
// What is remembered, and what is not.

#[test]
fn an_idempotency_key_gives_the_first_answer_after_a_restart_too() {
    let (_place, data) = directory();
    let daemon = Daemon::on(&data, &[]);
    let ask = |daemon: &Daemon, path: &str, key: &str, body: &Value| {
        let headers = [("Content-Type", "application/json"), ("Idempotency-Key", key)];
        daemon.request("POST", path, &headers, Some(&body.to_string()))
    };
    let create = json!({ "duration_seconds": 60, "auto_start": true });
    let created = ask(&daemon, "/timers", "create", &create);
    let id = created.json()["id"].as_str().unwrap().to_owned();
    let control = format!("/timers/{id}/control");
    let extend = json!({ "action": "extend", "extend_seconds": 60 });
    let extended = ask(&daemon, &control, "extend", &extend);
    let refused = ask(&daemon, &control, "refused", &json!({ "action": "resume" }));
    assert_eq!((created.status, extended.status, refused.status), (201, 200, 400));
    daemon.control(&id, "pause");
    daemon.kill();
    for _ in 0..2 {
        let daemon = Daemon::on(&data, &[]);
        for (first, again) in [
            (&created, ask(&daemon, "/timers", "create", &create)),
            (&extended, ask(&daemon, &control, "extend", &extend)),
        ] {
            assert_eq!((again.status, again.text()), (first.status, first.text()));
            assert_eq!(again.header("idempotency-replayed"), Some("true"));
            assert_eq!(again.header("etag"), first.header("etag"));
            assert_eq!(again.header("location"), first.header("location"));
        }
        let other = json!({ "duration_seconds": 61 });
        ask(&daemon, "/timers", "create", &other).assert_fault(&["header", "idempotency-key"]);
        assert_eq!(daemon.get("/timers").json().as_array().unwrap().len(), 1);
        assert_eq!(daemon.timer(&id)["duration_seconds"], 120);
        assert!(daemon.terminate().0.success());
    }
    // A refusal was not kept: what was impossible then is possible now.
    let daemon = Daemon::on(&data, &[]);
    let now = ask(&daemon, &control, "refused", &json!({ "action": "resume" }));
    assert_eq!((now.status, now.header("idempotency-replayed")), (200, None));
}

#[test]
fn an_id_is_never_given_twice_though_all_timers_are_deleted() {
    let (_place, data) = directory();
    let mut seen = BTreeSet::new();
    for round in 0..4 {
        let daemon = Daemon::on(&data, &[]);
        let ids: Vec<String> = (0..5).map(|_| daemon.create(json!({ "duration_seconds": 60 }))).collect();
        let deleted = daemon.post("/timers/bulk/delete", json!({ "timer_ids": ids }));
        assert!(deleted.json().as_array().unwrap().iter().all(|line| line["status"] == "deleted"));
        for id in &ids {
            // Behind eight random digits stands the serial number, which alone makes an id unique.
            let serial = u32::from_str_radix(&id["timer_".len() + 8..], 16).unwrap();
            assert!(seen.last().is_none_or(|last| *last < serial), "{id} after {seen:?}");
            seen.insert(serial);
            assert_eq!(actions(&daemon, id), ["created", "deleted"]);
        }
        if round % 2 == 0 { daemon.kill() } else { assert!(daemon.terminate().0.success()) }
    }
    let daemon = Daemon::on(&data, &[]);
    assert_eq!(daemon.get("/timers").json(), json!([]));
}

#[test]
fn ephemeral_keeps_nothing() {
    let place = tempfile::tempdir().unwrap();
    let start = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_timerd"));
        command.args(["--ephemeral", "--listen", "127.0.0.1:0"]).env_clear().current_dir(place.path());
        Daemon::spawn(command).unwrap()
    };
    let daemon = start();
    let id = daemon.timer_in("running");
    assert_eq!(daemon.get("/timers").json().as_array().unwrap().len(), 1);
    assert!(daemon.terminate().0.success());
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    let daemon = start();
    assert_eq!(daemon.get("/timers").json(), json!([]));
    assert_eq!(daemon.get(&format!("/timers/{id}/history")).status, 404);
}

// ---------------------------------------------------------------------------------------------------------------
// Files that are not as they were left.

fn copy_of(data: &Path, place: &Path) {
    fs::create_dir(place).unwrap();
    for entry in fs::read_dir(data).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), place.join(entry.file_name())).unwrap();
    }
}

#[test]
fn a_log_that_was_torn_anywhere_stops_no_start_and_halves_no_change() {
    let (place, data) = directory();
    let daemon = Daemon::on(&data, &[]);
    let ids: Vec<String> =
        (0..4).map(|n| daemon.create(json!({ "name": n.to_string(), "duration_seconds": 60 }))).collect();
    for seconds in 1..=8 {
        // One commit: four timers and four entries.
        let body = json!({ "timer_ids": ids, "seconds": seconds });
        assert_eq!(daemon.post("/timers/bulk/extend", body).status, 200);
    }
    daemon.kill();
    let length = fs::metadata(data.join("timerd.db-wal")).unwrap().len();
    assert!(length > 100_000, "{length}");
    let seed = wall_ms() as u64;
    println!("seed {seed}");
    let mut dice = Dice(seed);
    let mut cuts: Vec<u64> = [0, 1, 31, 32, 33, 4_151, 4_152, length - 1, length].to_vec();
    cuts.extend((0..8).map(|_| dice.roll(length)));
    cuts.sort_unstable();
    let mut revision = 0;
    for (n, cut) in cuts.into_iter().enumerate() {
        let torn = place.path().join(format!("torn-{n}"));
        copy_of(&data, &torn);
        let wal = fs::OpenOptions::new().write(true).open(torn.join("timerd.db-wal")).unwrap();
        wal.set_len(cut).unwrap();
        if dice.one_in(2) && cut < length {
            // The disk had the length, but not the pages.
            wal.set_len(length).unwrap();
        }
        let daemon = Daemon::on(&torn, &[]);
        let timers = daemon.get("/timers").json();
        let timers = timers.as_array().unwrap();
        for timer in timers {
            let id = timer["id"].as_str().unwrap();
            let entries = history(&daemon, id);
            assert!(entries.iter().map(|entry| entry["revision"].as_u64().unwrap()).eq(1..=entries.len() as u64));
            assert_eq!(timer["revision"], entries.len(), "cut at {cut}");
            let extended: u64 = (1..entries.len() as u64).sum();
            assert_eq!(timer["duration_seconds"], 60 + extended, "cut at {cut}");
            assert_eq!(timer["revision"], timers[0]["revision"], "cut at {cut}: half a bulk call");
        }
        // More of the log is more of the truth, and all of it is all.
        let reached = timers.iter().map(|timer| timer["revision"].as_u64().unwrap()).sum();
        assert!(reached >= revision, "cut at {cut}: {reached} after {revision}");
        revision = reached;
        assert_eq!(cut == length, reached == 4 * 9, "cut at {cut} of {length}: {reached}");
        let id = daemon.create(json!({ "duration_seconds": 60 }));
        daemon.kill();
        let daemon = Daemon::on(&torn, &[]);
        assert_eq!(daemon.timer(&id)["state"], "created", "cut at {cut}");
    }
}

/// Starts on a directory that must be refused. Returns what is said.
fn refused(data: &Path) -> String {
    let Err((status, said)) = Daemon::try_start(&["--data-dir", data.to_str().unwrap()], &[]) else {
        panic!("it started on {}", data.display());
    };
    assert_eq!(status.code(), Some(1), "{said}");
    let lines: Vec<&str> = said.lines().filter(|line| !line.contains(" WARN ")).collect();
    let [line] = lines[..] else { panic!("{said}") };
    assert!(line.starts_with("timerd: "), "{line}");
    line.to_owned()
}

#[test]
fn a_database_that_is_not_ours_is_refused_in_one_line_and_left_alone() {
    let (_place, data) = directory();
    fs::create_dir(&data).unwrap();
    let file = data.join("timerd.db");
    let path = file.to_str().unwrap();
    let untouched = |what: &str| {
        let before = fs::read(&file).unwrap();
        let line = refused(&data);
        assert!(line.contains(path), "{what}: {line}");
        assert!(fs::read(&file).unwrap() == before, "{what}: the file was changed");
        println!("{what}: {line}");
        line
    };

    let mut dice = Dice(7);
    fs::write(&file, (0..100_000).map(|_| dice.roll(256) as u8).collect::<Vec<u8>>()).unwrap();
    untouched("garbage");
    fs::write(&file, "name,seconds\nquiz,300\n").unwrap();
    untouched("a text");
    fs::remove_file(&file).unwrap();
    database(&data).execute_batch("CREATE TABLE marks (student TEXT); INSERT INTO marks VALUES ('x')").unwrap();
    untouched("another program's database");
    fs::remove_file(&file).unwrap();

    let daemon = Daemon::on(&data, &[]);
    daemon.create(json!({ "duration_seconds": 60 }));
    assert!(daemon.terminate().0.success());
    let whole = fs::read(&file).unwrap();
    database(&data).execute_batch("PRAGMA user_version = 1000").unwrap();
    let line = untouched("a later version's database");
    assert!(line.contains("1000"), "{line}");
    fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    untouched("half a database");
    fs::write(&file, &whole).unwrap();
    assert_eq!(Daemon::on(&data, &[]).get("/timers").json().as_array().unwrap().len(), 1);
}

#[test]
fn a_directory_that_cannot_be_one_is_refused_by_name() {
    let (place, _) = directory();
    let file = place.path().join("file");
    fs::write(&file, "x").unwrap();
    assert!(refused(&file).contains(file.to_str().unwrap()));
    assert!(refused(&file.join("below")).contains(file.to_str().unwrap()));
    assert_eq!(fs::read(&file).unwrap(), b"x");
}

#[test]
fn an_empty_database_file_is_a_fresh_one() {
    let (_place, data) = directory();
    fs::create_dir(&data).unwrap();
    fs::write(data.join("timerd.db"), "").unwrap();
    let daemon = Daemon::on(&data, &[]);
    let begun = Instant::now();
    daemon.create(json!({ "duration_seconds": 60 }));
    assert!(begun.elapsed() < PATIENCE);
}
