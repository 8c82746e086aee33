//! Fifty thousand candidates sit a two-hour exam in one process, on the virtual clock.
//!
//! The whole daemon but its sockets and its disk: requests come as bytes and answers leave as bytes, batches are
//! durable as soon as they are handed over. Candidates start within ten minutes, each to a nanosecond of his own,
//! answer a few items, some are paused, some have more time; most hand in, the others run out, and of those half hand
//! in within the grace. Every end is held against plain arithmetic: it is in the batch of the very turn in which the
//! time is up, and that turn is at that very nanosecond.
//!
//! The test counts what is allocated, and tells how much of it a session takes (`--nocapture`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]
#![allow(clippy::print_stdout, reason = "the figure is shown with --nocapture")]
#![allow(unreachable_pub, dead_code, reason = "the modules of another test")]

#[path = "sim/rng.rs"]
mod rng;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicUsize, Ordering};

use timerd::api::Limits;
use timerd::api::guard::Guard;
use timerd::api::rates::Rates;
use timerd::clock::{Mono, Now, WallMs};
use timerd::domain::absence::Outage;
use timerd::domain::countdown::Second;
use timerd::domain::delivery::{Settings as DeliverySettings, State};
use timerd::domain::disk::{Done, Image, Job};
use timerd::domain::effects::{Batch, Record};
use timerd::domain::timers::Settings as TimerSettings;
use timerd::hub::{Hub, Retention, Settings, Sockets};
use timerd::keys::Keys;

use rng::Rng;

const SECOND_NS: u64 = 1_000_000_000;
const SESSIONS: usize = 50_000;
/// Seconds of the exam, and thousandths by which a tenth of the candidates have more.
const LIMIT_S: u64 = 7_200;
const FACTOR: u64 = 1_333;
const GRACE_S: u64 = 10;
/// A session must not take more bytes than this.
const BYTES_MAX: usize = 2_000;

// ---------------------------------------------------------------------------------------------------------------
// What is allocated.

/// Bytes that are allocated now.
static HELD: AtomicUsize = AtomicUsize::new(0);

struct Counting;

#[allow(unsafe_code, reason = "an allocator is unsafe by its nature; this one only counts and hands on")]
// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: as our caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as our caller promises.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        HELD.fetch_add(size, Ordering::Relaxed);
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as our caller promises.
        unsafe { System.realloc(block, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// ---------------------------------------------------------------------------------------------------------------
// Lines, each answering in the order of requests.

#[derive(Default)]
struct Line {
    index: Option<u32>,
    /// When something was last asked on it.
    used_ns: u64,
    inbox: Vec<u8>,
    /// Who waits, in order.
    asked: VecDeque<(usize, Act)>,
}

struct Lines(Vec<Line>);

impl Lines {
    fn of(&mut self, index: u32) -> &mut Line {
        self.0.iter_mut().find(|line| line.index == Some(index)).expect("the hub sends on lines that are open")
    }
}

impl Sockets for Lines {
    fn send(&mut self, index: u32, bytes: &[u8]) -> io::Result<usize> {
        self.of(index).inbox.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn send_vectored(&mut self, index: u32, frames: &[IoSlice<'_>]) -> io::Result<usize> {
        let line = self.of(index);
        frames.iter().for_each(|frame| line.inbox.extend_from_slice(frame));
        Ok(frames.iter().map(|frame| frame.len()).sum())
    }

    fn finish(&mut self, _: u32) {}

    fn close(&mut self, index: u32) {
        if let Some(line) = self.0.iter_mut().find(|line| line.index == Some(index)) {
            assert!(line.asked.is_empty(), "nobody is cut off who waits for an answer");
            line.index = None;
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Candidates.

/// What is done to a session next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Act {
    /// The candidate is known to have more time.
    Admit,
    Start,
    Answer,
    Pause,
    Resume,
    HandIn,
}

/// A candidate with his session, in plain arithmetic.
#[derive(Clone, Copy)]
struct Sitting {
    id: [u8; 36],
    limit_ns: u64,
    /// When its time is up, while it runs; what is left of it, while it stands.
    due_ns: u64,
    is_paused: bool,
    answers: u8,
    will_pause: bool,
    /// He hands in when so much has passed; or so long after the end.
    hands_in_ns: Option<u64>,
    late_ns: Option<u64>,
    state: Option<State>,
}

struct Hall {
    hub: Hub,
    lines: Lines,
    now: Now,
    rng: Rng,
    sittings: Vec<Sitting>,
    /// Who does what next, and when.
    acts: BinaryHeap<Reverse<(u64, usize, Act)>>,
    /// By serial number.
    by_serial: Vec<usize>,
    done: Vec<Done>,
    events: u64,
    turns: u64,
    ended: [usize; 3],
    next_line: usize,
    begun: usize,
}

fn at(ns: u64) -> Now {
    let wall = WallMs::from_ms(1_700_000_000_000 + i64::try_from(ns / 1_000_000).unwrap());
    Now { mono: Mono::from_ns(ns), wall }
}

impl Hall {
    fn open() -> Hall {
        let now = at(77 * SECOND_NS);
        let settings = Settings {
            timers: TimerSettings {
                timers_max: 10,
                second: Second::REAL,
                outage: Outage::RunOn,
                keep_finished: None,
            },
            rooms: Default::default(),
            delivery: DeliverySettings {
                sessions_max: u32::try_from(SESSIONS).unwrap(),
                known_only: false,
                keep_finished: None,
                second: Second::REAL,
                outage: Outage::RunOn,
            },
            guard: Guard::new(Keys::default(), false, Vec::new(), Vec::new()),
            limits: Limits { clients_per_timer: 10, sockets_per_address: None },
            rates: Rates::OFF,
            connections_max: 100,
            retention: Retention::default(),
            seed: [7; 32],
        };
        let (hub, _) = Hub::new(now, settings, Image::default()).unwrap();
        let mut rng = Rng::new(50_000);
        let mut acts = BinaryHeap::with_capacity(SESSIONS + 1);
        let sitting = |number: usize, rng: &mut Rng| {
            let factor = if number.is_multiple_of(10) { FACTOR } else { 1_000 };
            let limit_ns = LIMIT_S * SECOND_NS / 1_000 * factor;
            let fate = rng.below(10);
            Sitting {
                id: [0; 36],
                limit_ns,
                due_ns: 0,
                is_paused: false,
                answers: u8::try_from(rng.range(3, 5)).unwrap(),
                will_pause: rng.percent(8),
                hands_in_ns: (fate < 6).then(|| rng.range(limit_ns / 2, limit_ns - 1)),
                late_ns: (fate == 6 || fate == 7).then(|| rng.below(GRACE_S * SECOND_NS)),
                state: None,
            }
        };
        let sittings: Vec<Sitting> = (0..SESSIONS).map(|number| sitting(number, &mut rng)).collect();
        for (number, sitting) in sittings.iter().enumerate() {
            let has_more = sitting.limit_ns > LIMIT_S * SECOND_NS;
            let begins_ns = now.mono.ns() + 10 * SECOND_NS + rng.below(600 * SECOND_NS);
            acts.push(Reverse(if has_more {
                (begins_ns - 9 * SECOND_NS, number, Act::Admit)
            } else {
                (begins_ns, number, Act::Start)
            }));
        }
        let lines = (0..8).map(|_| Line::default()).collect();
        Hall {
            hub,
            lines: Lines(lines),
            now,
            rng,
            sittings,
            acts,
            by_serial: vec![usize::MAX; SESSIONS + 1],
            done: Vec::new(),
            events: 0,
            turns: 0,
            ended: [0; 3],
            next_line: 0,
            begun: 0,
        }
    }

    /// A turn in the server's order, with these bytes on these lines.
    fn turn(&mut self, input: &mut [Vec<u8>]) {
        self.turns += 1;
        let now = self.now;
        self.hub.begin(now);
        for done in std::mem::take(&mut self.done) {
            self.hub.handle_done(now, done);
        }
        self.hub.advance(now);
        self.hub.unpark(now);
        for (line, bytes) in self.lines.0.iter_mut().zip(input) {
            if bytes.is_empty() {
                continue;
            }
            // What has been idle for long may be closed at any moment: another one is opened.
            line.index = line.index.filter(|_| now.mono.ns() - line.used_ns < 20 * SECOND_NS);
            line.used_ns = now.mono.ns();
            let index =
                *line.index.get_or_insert_with(|| self.hub.accept(now, IpAddr::V4(Ipv4Addr::LOCALHOST)).unwrap());
            self.hub.receive(now, index, bytes);
            bytes.clear();
        }
        for job in self.hub.take_jobs(now) {
            if let Job::Write(batch) = job {
                self.written(batch);
            }
        }
        while self.hub.flush(now, &mut self.lines) {}
        self.hub.reap(&mut self.lines);
        self.hear();
    }

    /// Turns until nothing is on its way.
    fn settle(&mut self, input: &mut [Vec<u8>]) {
        self.turn(input);
        while self.hub.has_backlog() || !self.done.is_empty() {
            self.turn(input);
        }
    }

    /// Lets time pass until `until_ns`, with a turn whenever the daemon wants one.
    fn pass(&mut self, until_ns: u64, input: &mut [Vec<u8>]) {
        while let Some(due) = self.hub.next_deadline().filter(|due| due.ns() < until_ns) {
            self.now = at(due.ns().max(self.now.mono.ns()));
            self.settle(input);
        }
        self.now = at(until_ns);
    }

    /// The disk has it at once. What ends, ends in the turn of its nanosecond.
    fn written(&mut self, batch: Batch) {
        let now_ns = self.now.mono.ns();
        for (records, follows) in [(&batch.follows, true), (&batch.commands, false)] {
            for record in records {
                self.events += u64::from(matches!(record, Record::Event(_)));
                let Record::Session(session) = record else { continue };
                let Some(sitting) = self.by_serial.get(session.serial as usize).filter(|at| **at != usize::MAX)
                else {
                    continue;
                };
                let sitting = &mut self.sittings[*sitting];
                let before = sitting.state.replace(session.state);
                match (before, session.state) {
                    (Some(State::InProgress), State::Expired) => {
                        assert!(follows, "time alone ends a session");
                        assert_eq!(now_ns, sitting.due_ns, "a session ends in the turn of its nanosecond");
                        self.ended[0] += 1;
                    }
                    (Some(State::InProgress), State::Completed) => {
                        assert!(now_ns < sitting.due_ns, "whoever hands in after the end has run out before");
                        assert_eq!(session.late_ms, None);
                        self.ended[1] += 1;
                    }
                    (Some(State::Expired), State::Completed) => {
                        let late_ms = (now_ns - sitting.due_ns).div_ceil(1_000_000);
                        assert_eq!(session.late_ms, Some(late_ms));
                        assert!(late_ms <= GRACE_S * 1_000);
                        self.ended[2] += 1;
                    }
                    (Some(State::Expired), State::Expired) => {
                        assert_eq!(now_ns, sitting.due_ns + GRACE_S * SECOND_NS, "the grace ends to the nanosecond");
                        assert_eq!(session.expired, None);
                    }
                    _ => assert!(session.state.is_active(), "{before:?}, then {session:?}"),
                }
            }
        }
        let last_seq = self.events;
        self.done.push(Done::Written(batch, last_seq));
    }

    /// Whatever was answered: all is taken.
    fn hear(&mut self) {
        for number in 0..self.lines.0.len() {
            let mut inbox = std::mem::take(&mut self.lines.0[number].inbox);
            let mut read = 0;
            while let Some(head) = inbox[read..].windows(4).position(|four| four == b"\r\n\r\n") {
                let text = std::str::from_utf8(&inbox[read..read + head]).unwrap();
                assert!(text.starts_with("HTTP/1.1 20"), "everything is taken: {text}");
                let length = text.lines().find_map(|line| line.strip_prefix("Content-Length: "));
                let length: usize = length.unwrap().parse().unwrap();
                let body = read + head + 4..read + head + 4 + length;
                let (sitting, act) = self.lines.0[number].asked.pop_front().expect("each request is answered once");
                if act == Act::Start {
                    let id = inbox[body.clone()].strip_prefix(br#"{"session_id":""#).unwrap();
                    self.sittings[sitting].id.copy_from_slice(&id[..36]);
                }
                read = body.end;
            }
            inbox.drain(..read);
            self.lines.0[number].inbox = inbox;
        }
    }

    /// What a candidate sends, or his invigilator.
    fn ask(&mut self, number: usize, act: Act, input: &mut [Vec<u8>]) {
        let now_ns = self.now.mono.ns();
        let sitting = &mut self.sittings[number];
        let id = std::str::from_utf8(&sitting.id).unwrap();
        let (method, path, body) = match act {
            Act::Admit => {
                let body = r#"{"accommodations":{"EXTRA_TIME":1.333}}"#.to_owned();
                ("PUT", format!("/delivery/candidates/candidate-{number}"), body)
            }
            Act::Start => {
                let body = format!(r#"{{"candidate_id":"candidate-{number}","test_taker_id":"taker-{number}"}}"#);
                ("POST", "/delivery/start/finals".to_owned(), body)
            }
            Act::Answer => {
                let item = self.rng.below(20);
                let body = format!(r#"{{"item_id":"q{item}","response":{{"choice":{}}}}}"#, self.rng.below(5));
                ("POST", format!("/delivery/session/{id}/answer"), body)
            }
            Act::Pause => ("POST", format!("/delivery/session/{id}/pause"), String::new()),
            Act::Resume => ("POST", format!("/delivery/session/{id}/resume"), String::new()),
            Act::HandIn => ("POST", format!("/delivery/session/{id}/submit"), String::new()),
        };
        let line = self.next_line % input.len();
        self.next_line += 1;
        let length = body.len();
        let request = format!("{method} {path} HTTP/1.1\r\nHost: hall\r\nContent-Length: {length}\r\n\r\n{body}");
        input[line].extend_from_slice(request.as_bytes());
        self.lines.0[line].asked.push_back((number, act));
        match act {
            Act::Start => {
                sitting.due_ns = now_ns + sitting.limit_ns;
                // Sessions are numbered in the order of their starts.
                self.begun += 1;
                self.by_serial[self.begun] = number;
            }
            Act::Pause => {
                sitting.due_ns -= now_ns;
                sitting.is_paused = true;
            }
            Act::Resume => {
                sitting.due_ns += now_ns;
                sitting.is_paused = false;
            }
            Act::Admit | Act::Answer | Act::HandIn => {}
        }
        self.plan(number, act);
    }

    /// What a candidate does next.
    fn plan(&mut self, number: usize, after: Act) {
        let now_ns = self.now.mono.ns();
        let sitting = &mut self.sittings[number];
        let soon = |rng: &mut Rng| now_ns + rng.range(SECOND_NS, 600 * SECOND_NS);
        let next = match after {
            Act::Admit => Some((now_ns + 9 * SECOND_NS, Act::Start)),
            Act::HandIn => None,
            Act::Pause => Some((soon(&mut self.rng), Act::Resume)),
            Act::Start | Act::Answer | Act::Resume if sitting.answers > 0 => {
                sitting.answers -= 1;
                if sitting.will_pause && sitting.answers == 1 {
                    sitting.will_pause = false;
                    Some((soon(&mut self.rng), Act::Pause))
                } else {
                    Some((soon(&mut self.rng), Act::Answer))
                }
            }
            Act::Start | Act::Answer | Act::Resume => match (sitting.hands_in_ns, sitting.late_ns) {
                (Some(passed_ns), _) => {
                    let left_ns = sitting.limit_ns - passed_ns;
                    Some(((sitting.due_ns - left_ns).max(now_ns + 1), Act::HandIn))
                }
                (None, Some(late_ns)) => Some((sitting.due_ns + late_ns, Act::HandIn)),
                (None, None) => None,
            },
        };
        self.acts.extend(next.map(|(at_ns, act)| Reverse((at_ns, number, act))));
    }
}

#[test]
fn fifty_thousand_sit_a_two_hour_exam_and_each_ends_to_the_nanosecond() {
    let mut hall = Hall::open();
    let mut input = vec![Vec::new(); hall.lines.0.len()];
    let items: Vec<String> =
        (0..20).map(|item| format!(r#"{{"item_id":"q{item}","content":{{"prompt":"Question {item}"}}}}"#)).collect();
    let body = format!(
        r#"{{"title":"Finals","time_limit_seconds":{LIMIT_S},"navigation_mode":"NON_LINEAR","grace_seconds":{GRACE_S},"sections":[{{"section_id":"a","items":[{}]}}]}}"#,
        items.join(",")
    );
    let length = body.len();
    let request =
        format!("PUT /delivery/assessments/finals HTTP/1.1\r\nHost: hall\r\nContent-Length: {length}\r\n\r\n{body}");
    input[0].extend_from_slice(request.as_bytes());
    hall.lines.0[0].asked.push_back((0, Act::Admit));
    hall.settle(&mut input);
    let before = HELD.load(Ordering::Relaxed);
    let mut held = None;
    while let Some(Reverse((first_ns, ..))) = hall.acts.peek().copied() {
        hall.pass(first_ns, &mut input);
        if held.is_none() && hall.now.mono.ns() > 3_000 * SECOND_NS {
            // Nearly everybody has begun and answered, and nobody has ended.
            held = Some(HELD.load(Ordering::Relaxed).saturating_sub(before) / SESSIONS);
        }
        while let Some(Reverse((_, number, act))) = hall.acts.peek().copied().filter(|next| next.0.0 <= first_ns) {
            hall.acts.pop();
            hall.ask(number, act, &mut input);
        }
        hall.settle(&mut input);
    }
    let until_ns = hall.now.mono.ns() + (LIMIT_S * 2) * SECOND_NS;
    hall.pass(until_ns, &mut input);
    let [expired, handed_in, late] = hall.ended;
    let bytes = held.unwrap_or_default();
    println!(
        "{SESSIONS} sessions: {handed_in} handed in, {expired} ran out, {late} of those handed in within the grace; \
         {} turns, {} events; {bytes} bytes a session",
        hall.turns, hall.events
    );
    assert_eq!(expired + handed_in, SESSIONS, "every session ends, once");
    assert!(late > SESSIONS / 10 && expired - late > SESSIONS / 10 && handed_in > SESSIONS / 4);
    assert!((1..BYTES_MAX).contains(&bytes), "{bytes} bytes a session");
}
