//! What a crash must not change: no acknowledged change is lost under load, people are who they were, clocks go on or
//! stand still as the operator decided, and a disk that fails stops commands and no clock.
//!
//! `TIMERD_KILL_ROUNDS=n` plays n rounds of killing instead of 8, `TIMERD_KILL_SEED=n` others or the same again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::{Value, json};
use tungstenite::Message;

use super::{
    LATE_MS_MAX, Member, Rooms, at_rest, checked, command, in_short, keys, news, on, refused, sleep_ms, state_of,
    wall_ms, with,
};
use crate::daemon::{Daemon, Dice, Socket, directory, eventually};

/// How far two readings of the wall clock against the boot clock may lie apart, in milliseconds.
const CLOCK_JITTER_MS: i64 = 20;

// ---------------------------------------------------------------------------------------------------------------
// Killed under load.

/// Rooms in which something is done at the same time.
const WORKERS: u64 = 4;
/// Messages that a socket may send in one round: below the burst that is allowed.
const MESSAGES_MAX: usize = 80;

#[derive(Clone, Debug)]
enum Op {
    Start(Option<i64>),
    Pause,
    Resume,
    Reset,
    Extend(i64),
}

/// A room's timer as it must be.
#[derive(Clone, Debug)]
struct Book {
    revision: u64,
    duration: i64,
    /// Of the last start.
    base: i64,
    state: &'static str,
}

impl Book {
    fn apply(&mut self, op: &Op) {
        self.revision += 1;
        match op {
            Op::Start(duration) => {
                self.base = duration.unwrap_or(self.base);
                self.duration = self.base;
                self.state = "running";
            }
            Op::Pause => self.state = "paused",
            Op::Resume => self.state = "running",
            Op::Reset => {
                self.duration = self.base;
                self.state = "stopped";
            }
            Op::Extend(seconds) => self.duration += seconds,
        }
    }

    fn is(&self, state: &Value) -> bool {
        state["revision"] == self.revision && state["duration"] == self.duration && checked(state) == self.state
    }

    fn message(&self, op: &Op) -> Value {
        let message = match op {
            Op::Start(Some(duration)) => json!({ "type": "timer:start", "duration": duration }),
            Op::Start(None) => command("timer:start"),
            Op::Pause => command("timer:pause"),
            Op::Resume => command("timer:resume"),
            Op::Reset => command("timer:reset"),
            Op::Extend(seconds) => json!({ "type": "timer:extend", "seconds": seconds }),
        };
        with(message, json!({ "revision": self.revision }))
    }
}

/// One room's people, over all rounds.
struct Worker {
    dice: Dice,
    room: String,
    user: String,
    book: Book,
    /// Sent and not answered when the daemon was killed, in the order sent.
    unanswered: Vec<Op>,
    /// Who was told that he is in, with his id.
    guests: BTreeMap<String, String>,
    /// Who may be in or not: he was not told.
    doubtful: BTreeSet<String>,
    /// Rooms of which a creation was acknowledged.
    created: Vec<String>,
    acknowledged: usize,
    serial: usize,
}

impl Worker {
    fn new(daemon: &Daemon, seed: u64) -> Worker {
        let member = daemon.found(json!({ "duration": 5000, "name": "worker" }));
        Worker {
            dice: Dice(seed),
            room: member.room,
            user: member.user,
            book: Book { revision: 1, duration: 5000, base: 5000, state: "stopped" },
            unanswered: Vec::new(),
            guests: BTreeMap::new(),
            doubtful: BTreeSet::new(),
            created: Vec::new(),
            acknowledged: 0,
            serial: 0,
        }
    }

    fn invent(&mut self, book: &Book) -> Op {
        let seconds = 1 + i64::try_from(self.dice.roll(3000)).unwrap();
        match (self.dice.roll(6), book.state) {
            (0, _) => Op::Start(Some(4000 + seconds)),
            (1, _) => Op::Start(None),
            (2, _) => Op::Reset,
            (3 | 4, "running" | "paused") => Op::Extend(seconds),
            (_, "running") => Op::Pause,
            (_, "paused") => Op::Resume,
            _ => Op::Start(None),
        }
    }

    /// Works until the connection breaks.
    fn work(&mut self, address: SocketAddr) {
        let ticket = json!({ "type": "session:join", "sessionId": self.room, "userId": self.user });
        let Some((mut socket, joined)) = enter(address, &ticket) else { return };
        assert_eq!((&joined["userId"], &joined["name"]), (&json!(self.user), &json!("worker")), "{joined}");
        let mut sent = 1;
        loop {
            if sent >= MESSAGES_MAX {
                // Listens until the end.
                while socket.recv_or_end().is_ok() {}
                return;
            }
            match self.dice.roll(4) {
                0 if !self.make_room(address) => return,
                1 if !self.change_guests(address, &mut socket) => return,
                _ => {}
            }
            let mut ahead = self.book.clone();
            let mut ops = Vec::new();
            for _ in 0..=self.dice.roll(4) {
                let op = self.invent(&ahead);
                let text = ahead.message(&op).to_string();
                ahead.apply(&op);
                ops.push(op);
                // The daemon may be gone by now.
                let _ = socket.inner.write(Message::text(text));
            }
            let _ = socket.inner.flush();
            sent += ops.len();
            let mut gone = false;
            for op in ops {
                if gone {
                    self.unanswered.push(op);
                    continue;
                }
                match answer(&mut socket, "timer:state") {
                    Some(change) => {
                        self.book.apply(&op);
                        assert!(self.book.is(&change["state"]), "{op:?}: {:?} is {change}", self.book);
                        self.acknowledged += 1;
                    }
                    None => {
                        gone = true;
                        self.unanswered.push(op);
                    }
                }
            }
            if gone {
                return;
            }
        }
    }

    /// `false` when the daemon is gone.
    fn make_room(&mut self, address: SocketAddr) -> bool {
        let Some((_, joined)) = enter(address, &command("session:create")) else { return false };
        self.created.push(joined["sessionId"].as_str().unwrap().to_owned());
        self.acknowledged += 1;
        true
    }

    /// Somebody comes, or one who is there leaves for good, of which the worker hears. `false` when the daemon is
    /// gone.
    fn change_guests(&mut self, address: SocketAddr, socket: &mut Socket) -> bool {
        self.serial += 1;
        if self.guests.len() > 5 {
            let (name, user) = self.guests.pop_first().unwrap();
            self.doubtful.insert(name.clone());
            let ticket = json!({ "type": "session:join", "sessionId": self.room, "userId": user });
            let Some((mut guest, joined)) = enter(address, &ticket) else { return false };
            assert_eq!(joined["name"], *name);
            let _ = guest.inner.send(Message::text(command("session:leave").to_string()));
            match answer(socket, "session:user-left") {
                Some(left) => assert_eq!(left["name"], *name),
                None => return false,
            }
            self.doubtful.remove(&name);
        } else {
            let name = format!("guest {}", self.serial);
            self.doubtful.insert(name.clone());
            let ticket = json!({ "type": "session:join", "sessionId": self.room, "name": name });
            let Some((_, joined)) = enter(address, &ticket) else { return false };
            self.doubtful.remove(&name);
            self.guests.insert(name, joined["userId"].as_str().unwrap().to_owned());
        }
        self.acknowledged += 1;
        true
    }

    /// Holds what the daemon has against the book: what was acknowledged is there; of what was not, the first so many
    /// may be.
    fn compare(&mut self, daemon: &Daemon) {
        let room = daemon.room(&self.room);
        let state = state_of(&room);
        let unanswered = std::mem::take(&mut self.unanswered);
        let mut rest = unanswered.iter();
        let before = self.book.clone();
        while !self.book.is(&state) {
            let Some(op) = rest.next() else { panic!("{before:?}\nand perhaps {unanswered:?}\nis {state}") };
            self.book.apply(op);
        }
        let people: BTreeSet<String> = in_short(&room["users"]).into_iter().collect();
        for doubtful in std::mem::take(&mut self.doubtful) {
            // Without his id he cannot come back, whether he is there or not.
            let there = people.contains(&format!("({doubtful})"));
            assert!(there || !people.contains(&doubtful));
        }
        assert!(people.contains("(worker)"), "{people:?}");
        for name in self.guests.keys() {
            assert!(people.contains(&format!("({name})")), "{name} was in: {people:?}");
        }
        for name in &people {
            assert!(name.starts_with('('), "nobody has a line yet: {people:?}");
        }
        if let Some((name, user)) = self.guests.iter().next() {
            let ticket = json!({ "type": "session:join", "sessionId": self.room, "userId": user });
            let member = Member::new(daemon.enter(), ticket);
            assert_eq!((&member.name, &member.user), (name, user));
            member.hang_up();
        }
    }
}

/// Opens a socket and says one thing, which puts it into a room; `None` when the daemon is gone.
fn enter(address: SocketAddr, message: &Value) -> Option<(Socket, Value)> {
    let mut socket = Daemon::try_open_at(address, "/ws/rooms", &[]).ok()?;
    socket.inner.send(Message::text(message.to_string())).ok()?;
    let joined = answer(&mut socket, "session:joined")?;
    Some((socket, joined))
}

/// Reads on to a message of this type; `None` when the daemon is gone.
fn answer(socket: &mut Socket, kind: &str) -> Option<Value> {
    loop {
        let message = socket.recv_or_end().ok()?;
        assert_ne!(message["type"], "error", "{message}");
        if message["type"] == kind {
            return Some(message);
        }
    }
}

fn environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

#[test]
fn no_acknowledged_change_is_lost_by_kill_9_under_load_and_people_are_who_they_were() {
    let rounds = environment("TIMERD_KILL_ROUNDS").unwrap_or(8);
    let seed = environment("TIMERD_KILL_SEED").unwrap_or(6);
    let (_kept, path) = directory();
    let mut daemon = on(&path, &[]);
    let mut dice = Dice(seed);
    let mut workers: Vec<Worker> = (0..WORKERS).map(|n| Worker::new(&daemon, 1000 * seed + n)).collect();
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
        sleep_ms(40 + dice.roll(80));
        daemon.kill();
        workers = at_work.into_iter().map(|worker| worker.join().unwrap()).collect();
        daemon = on(&path, &[]);
        for worker in &mut workers {
            worker.compare(&daemon);
            // Rooms of which nothing but the creation was ever said.
            let from = if round + 1 == rounds { 0 } else { worker.created.len().saturating_sub(3) };
            for id in &worker.created[from..] {
                let room = daemon.room(id);
                assert_eq!((&room["revision"], in_short(&room["users"])), (&json!(1), vec!["(User 1)".to_owned()]));
            }
        }
    }
    let sum = |count: fn(&Worker) -> usize| workers.iter().map(count).sum::<usize>();
    let acknowledged = sum(|worker| worker.acknowledged);
    let created = sum(|worker| worker.created.len());
    println!("{rounds} rounds of kill -9: {acknowledged} acknowledged, {created} of them rooms, 0 lost");
    assert!(acknowledged > 5 * usize::try_from(rounds).unwrap(), "{acknowledged}");
}

// ---------------------------------------------------------------------------------------------------------------
// Restarts.

/// When a running room ends, by the server's clock.
fn ends_ms(room: &Value) -> i64 {
    assert_eq!(room["isRunning"], true, "{room}");
    room["remainingMs"].as_i64().unwrap() + room["serverTime"].as_i64().unwrap()
}

/// Rooms that are running, paused, stopped and about to end, and what is known of each.
fn rooms_in_use(daemon: &Daemon) -> [Member; 4] {
    let mut running = daemon.found(json!({ "duration": 600, "name": "Anna" }));
    running.control("timer:start");
    running.press(json!({ "type": "timer:extend", "seconds": 30 }));
    let mut paused = daemon.found(json!({ "duration": 700, "name": "Bert" }));
    paused.control("timer:start");
    sleep_ms(30);
    paused.control("timer:pause");
    let stopped = daemon.found(json!({ "duration": 800, "name": "Cleo" }));
    let ending = daemon.found(json!({ "duration": 1, "name": "Dora" }));
    [running, paused, stopped, ending]
}

#[test]
fn after_a_crash_clocks_have_gone_on_and_people_come_back_as_who_they_were() {
    let (_kept, path) = directory();
    let daemon = on(&path, &[]);
    let [mut running, paused, stopped, mut ending] = rooms_in_use(&daemon);
    let guest = daemon.visit(&running.room, "Guest");
    let mut leaver = daemon.visit(&running.room, "Leaver");
    leaver.socket.send(command("session:leave"));
    running.socket.skip_to("session:user-left");
    ending.control("timer:start");
    let zero_due = Instant::now() + Duration::from_secs(1);
    let rooms = [&running, &paused, &stopped, &ending].map(|member| member.room.clone());
    let before = [0, 1, 2].map(|n| daemon.room(&rooms[n]));
    daemon.kill();
    assert!(Instant::now() < zero_due, "it was to end while nobody kept it");
    sleep_ms(1300);
    let daemon = on(&path, &[]);
    let after = [0, 1, 2].map(|n| daemon.room(&rooms[n]));
    for n in 0..3 {
        assert_eq!(at_rest(&state_of(&after[n])), at_rest(&state_of(&before[n])));
    }
    let moved = ends_ms(&after[0]) - ends_ms(&before[0]);
    assert!(moved.abs() <= CLOCK_JITTER_MS, "{moved} ms");
    assert_eq!(after[1]["remainingMs"], before[1]["remainingMs"]);
    assert_eq!(in_short(&after[0]["users"]), ["(Anna)", "(Guest)"]);
    // What ran out meanwhile has ended, once.
    let ended = daemon.room(&rooms[3]);
    assert_eq!((checked(&state_of(&ended)), &ended["revision"]), ("completed", &json!(3)));
    // They come back as who they were, in whatever order, and the clock ticks for them.
    let mut guest = daemon.come_back(&guest);
    assert_eq!((&*guest.name, in_short(&guest.joined["users"])), ("Guest", vec!["(Anna)".into(), "Guest".into()]));
    let mut anna = daemon.come_back(&running);
    assert_eq!((&anna.user, &*anna.name), (&running.user, "Anna"));
    assert_eq!(in_short(&guest.socket.skip_to("session:presence")["users"]), ["Anna", "Guest"]);
    anna.socket.skip_to("timer:tick");
    let late = Member::new(daemon.enter(), json!({ "type": "session:join", "sessionId": rooms[0] }));
    assert_eq!(late.name, "User 4", "those who have left count, too");
    let stranger = Member::new(daemon.enter(), with(leaver.return_ticket(), json!({ "name": "Stranger" })));
    assert_ne!(stranger.user, leaver.user);
    // The revision is what it was for whoever presses.
    let message = json!({ "type": "timer:pause", "revision": before[0]["revision"] });
    anna.socket.send(message);
    assert_eq!(anna.socket.skip_to("timer:state")["by"], "Anna");
    let mut bert = daemon.come_back(&paused);
    bert.socket.send(command("timer:resume"));
    assert_eq!(checked(&bert.socket.skip_to("timer:state")["state"]), "running");
}

#[test]
fn frozen_the_time_away_is_given_back_and_raises_the_revision() {
    let (_kept, path) = directory();
    let daemon = on(&path, &["--outage", "freeze"]);
    let [running, paused, stopped, mut ending] = rooms_in_use(&daemon);
    ending.control("timer:start");
    let members = [&running, &paused, &stopped, &ending];
    sleep_ms(200);
    let before = members.map(|member| daemon.room(&member.room));
    let killed_ms = wall_ms();
    daemon.kill();
    sleep_ms(1200);
    let starting_ms = wall_ms();
    let daemon = on(&path, &["--outage", "freeze"]);
    let started_ms = wall_ms();
    let after = members.map(|member| daemon.room(&member.room));
    for n in [0, 3] {
        assert_eq!(after[n]["revision"].as_u64(), before[n]["revision"].as_u64().map(|revision| revision + 1));
        assert_eq!(after[n]["duration"], before[n]["duration"], "a pause of that length");
        let moved = ends_ms(&after[n]) - ends_ms(&before[n]);
        // From the last sign of life, which is written each second.
        let away = starting_ms - killed_ms - CLOCK_JITTER_MS..=started_ms - killed_ms + 1300;
        assert!(away.contains(&moved), "{moved} ms given back of {away:?}");
    }
    for n in [1, 2] {
        assert_eq!(state_of(&after[n]), state_of(&before[n]), "what stood still stands as it stood");
    }
    // It ends when it is due, for all who are back.
    let mut dora = daemon.come_back(&ending);
    assert_eq!(checked(&dora.joined["state"]), "running");
    dora.socket.skip_to("timer:completed");
    let late_ms = wall_ms() - ends_ms(&after[3]);
    // What is left is rounded up, and the time of day is cut.
    assert!((-2..LATE_MS_MAX).contains(&late_ms), "{late_ms} ms");
    let stale = dora.ask(json!({ "type": "timer:start", "revision": before[3]["revision"] }));
    assert_eq!(stale["code"], "stale");
}

#[test]
fn patience_with_the_absent_begins_anew_after_a_restart() {
    let (_kept, path) = directory();
    let flags = ["--room-leave", "1s", "--room-empty", "2s"];
    let daemon = on(&path, &flags);
    let anna = daemon.found(json!({ "name": "Anna" }));
    let _bert = daemon.visit(&anna.room, "Bert");
    let empty = daemon.found(json!({ "name": "Cleo" }));
    let (room, ticket) = (anna.room.clone(), anna.return_ticket());
    anna.hang_up();
    let empty = {
        let room = empty.room.clone();
        empty.hang_up();
        room
    };
    sleep_ms(450);
    daemon.kill();
    let restarting = Instant::now();
    let daemon = on(&path, &flags);
    let begun = Instant::now();
    let there = |id: &str| daemon.get(&format!("/rooms/{id}")).status == 200;
    // Anna's second would be over.
    std::thread::sleep(Duration::from_millis(550).saturating_sub(begun.elapsed()));
    assert_eq!(daemon.people(&room), ["(Anna)", "(Bert)"]);
    let mut anna = Member::new(daemon.enter(), ticket);
    assert_eq!(anna.name, "Anna");
    let left = anna.socket.skip_to("session:user-left");
    let after = restarting.elapsed();
    assert_eq!((&left["name"], in_short(&left["users"])), (&json!("Bert"), vec!["Anna".to_owned()]));
    assert!((950..2400).contains(&after.as_millis()), "{after:?}");
    assert!(there(&empty) || restarting.elapsed() >= Duration::from_millis(1950));
    eventually(|| !there(&empty));
    let after = restarting.elapsed();
    assert!((1950..3400).contains(&after.as_millis()), "{after:?}");
    assert!(there(&room));
    // What is gone is gone for good, once it has been written.
    sleep_ms(300);
    daemon.kill();
    let daemon = on(&path, &flags);
    assert_eq!(daemon.get(&format!("/rooms/{empty}")).status, 404);
    assert_eq!(daemon.people(&room), ["(Anna)"]);
}

// ---------------------------------------------------------------------------------------------------------------
// A disk that fails.

/// A limit of file sizes that leaves room for the index of a log, and for no database that has grown beyond it.
const FILE_BYTES_MAX: u64 = 36 << 10;

#[test]
fn while_the_disk_fails_commands_are_refused_and_no_clock_stops() {
    let (_kept, path) = directory();
    let daemon = on(&path, &[]);
    let name = "x".repeat(200);
    let ids: Vec<String> = (0..150).map(|_| daemon.create(json!({ "name": name, "duration_seconds": 60 }))).collect();
    assert!(daemon.terminate().0.success());
    let daemon = on(&path, &["--room-leave", "1s"]);
    let pid = Pid::from_raw(daemon.pid().try_into().unwrap());
    let limit = |bytes: Option<u64>| {
        prlimit(pid, Resource::Fsize, Rlimit { current: bytes, maximum: None }).unwrap();
    };
    let mut anna = daemon.found(json!({ "duration": 2, "name": "Anna" }));
    let mut bert = daemon.visit(&anna.room, "Bert");
    anna.socket.expect("session:user-joined");
    let mut cleo = daemon.found(json!({ "duration": 600, "name": "Cleo" }));
    cleo.control("timer:start");
    let before = daemon.room(&cleo.room);
    anna.control("timer:start");
    let started = Instant::now();
    bert.socket.expect("timer:state");
    limit(Some(FILE_BYTES_MAX));
    let body = json!({ "timer_ids": &ids[..100], "seconds": 1 });
    eventually(|| daemon.post("/timers/bulk/extend", body.clone()).status == 503);

    // Commands are refused and change nothing, whatever they are.
    let unavailable = |socket: &mut Socket, message: Value| {
        let asked = message.to_string();
        socket.send(message);
        let answer = news(socket);
        assert_eq!(keys(&answer), ["type", "message", "code"], "{asked}: {answer}");
        assert_eq!(answer["code"], "unavailable", "{asked}: {answer}");
        assert!(answer["message"].as_str().unwrap().contains("nothing was changed"), "{answer}");
    };
    let mut outside = daemon.enter();
    for _ in 0..2 {
        for kind in ["start", "pause", "reset", "extend"] {
            let message = json!({ "type": format!("timer:{kind}"), "seconds": 60, "revision": before["revision"] });
            unavailable(&mut cleo.socket, message);
        }
        unavailable(&mut outside, command("session:create"));
        unavailable(&mut outside, json!({ "type": "session:join", "sessionId": cleo.room }));
    }
    // What is no message is none, and a stale command is stale.
    refused(&mut cleo.socket, command("nonsense"), "invalid", "Unknown message type: nonsense");
    let stale = cleo.ask(json!({ "type": "timer:pause", "revision": 1 }));
    assert_eq!((&stale["code"], &stale["state"]["revision"]), (&json!("stale"), &before["revision"]));
    cleo.hears_nothing();
    assert_eq!(at_rest(&state_of(&daemon.room(&cleo.room))), at_rest(&state_of(&before)));

    // Time goes on for all, to the end.
    for member in [&mut anna, &mut bert] {
        let mut told = Vec::new();
        while told.last().is_none_or(|last| last != "timer:completed") {
            let message = member.socket.recv();
            told.push(match message["type"].as_str().unwrap() {
                "timer:tick" => message["remainingTime"].to_string(),
                "timer:state" => format!("{} {}", checked(&message["state"]), message["state"]["revision"]),
                other => other.to_owned(),
            });
        }
        assert!(told.ends_with(&["0".into(), "completed 3".into(), "timer:completed".into()]), "{told:?}");
    }
    let took = started.elapsed();
    assert!((1990..2000 + LATE_MS_MAX as u128).contains(&took.as_millis()), "on time: {took:?}");
    assert_eq!(checked(&state_of(&daemon.room(&anna.room))), "completed");
    // A line that was lost comes back: to see the clock nothing needs to be written.
    let ticket = bert.return_ticket();
    bert.hang_up();
    let bert = Member::new(daemon.enter(), ticket);
    assert_eq!((&*bert.name, checked(&bert.joined["state"])), ("Bert", "completed"));

    // It finds out by itself that the disk is well.
    limit(None);
    eventually(|| daemon.get("/readiness").status == 200);
    let message = json!({ "type": "timer:pause", "revision": before["revision"] });
    assert_eq!(checked(&cleo.press(message)), "paused");
    let created = Member::new(outside, command("session:create"));
    daemon.kill();
    // And all of it has been written, the zero too.
    let daemon = on(&path, &[]);
    assert_eq!((daemon.people(&created.room).len(), daemon.people(&anna.room).len()), (1, 2));
    let ended = daemon.room(&anna.room);
    assert_eq!((checked(&state_of(&ended)), &ended["revision"]), ("completed", &json!(3)));
    assert_eq!(checked(&state_of(&daemon.room(&cleo.room))), "paused");
}
