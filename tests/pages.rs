//! The pages, in a real Chromium against the real daemon: what a student, a hall, an instructor, a team and a
//! candidate see, also when the line is cut, the daemon is killed, the tab is hidden, the device has slept or its clock
//! is wrong by hours.
//!
//! What is expected is the contract's word. The time on a page is held against the end that the daemon names, with the
//! true time of this machine: each change of the digits is noted in the page itself, and must come at its instant.
//! Times are short (timers of some seconds) and every wait is bounded, so that all of it runs in well under a minute.
//!
//! Where there is no Chromium every test says so on the terminal and passes. Pictures are left in
//! `target/screenshots/`; figures are printed with `--nocapture`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]
#![allow(clippy::print_stdout, reason = "figures are shown with --nocapture")]
#![allow(unreachable_pub, reason = "the modules of one test")]

mod browser;
#[path = "pages/clock.rs"]
mod clock;
#[path = "pages/console.rs"]
mod console;
mod daemon;
#[path = "pages/exam.rs"]
mod exam;
#[path = "pages/line.rs"]
mod line;
#[path = "pages/looks.rs"]
mod looks;
#[path = "pages/room.rs"]
mod room;
#[path = "pages/timer.rs"]
mod timer;
#[path = "pages/weight.rs"]
mod weight;

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use browser::{Page, Sight, Visitor, one};
use daemon::{Daemon, Http, Response};
use serde_json::{Value, json};

/// A page may show a second so much too early: what it knows of the server's time it knows by round trips, which take
/// long where the machine has much to do.
const EARLY_MS_MAX: i64 = 500;
/// And so much too late, on a machine that browsers, daemons and tests share: the most punctual of the changes that are
/// watched. A clock that is wrong is wrong each time.
const LATE_MS_MAX: i64 = 900;
/// Any of them, however busy the machine is.
const LATEST_MS_MAX: i64 = 2000;

// ---------------------------------------------------------------------------------------------------------------
// Nouns and their pages.

/// What has a clock on a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Student,
    Wall,
    Console,
    Room,
    Exam,
}

const KINDS: [Kind; 5] = [Kind::Student, Kind::Wall, Kind::Console, Kind::Room, Kind::Exam];

/// Something that runs, with the page that shows it. It knows the daemon by its address alone, so that it outlives a
/// restart.
struct Subject {
    kind: Kind,
    address: SocketAddr,
    id: String,
}

impl Subject {
    /// Makes it and lets it run.
    fn running(kind: Kind, daemon: &Daemon, seconds: u32) -> Subject {
        let id = match kind {
            Kind::Student | Kind::Wall | Kind::Console => {
                daemon.create(json!({ "name": "Biology", "duration_seconds": seconds, "auto_start": true }))
            }
            Kind::Room => {
                let (mut socket, id) = room::created(daemon, seconds);
                socket.send(json!({ "type": "timer:start" }));
                socket.skip_to("timer:state");
                id
            }
            Kind::Exam => exam::begun(daemon, &exam::paper(seconds)),
        };
        Subject { kind, address: daemon.address, id }
    }

    fn path(&self) -> String {
        match self.kind {
            Kind::Student => format!("/timer/{}", self.id),
            Kind::Wall => format!("/wall/{}", self.id),
            Kind::Console => "/console".to_owned(),
            Kind::Room => format!("/room/{}", self.id),
            Kind::Exam => format!("/exam/{}#session={}", exam::ASSESSMENT, self.id),
        }
    }

    /// Where its digits are.
    fn clock(&self) -> String {
        match self.kind {
            Kind::Console => format!("[data-id='{}'] .left", self.id),
            _ => "#clock".to_owned(),
        }
    }

    /// Opens the page, joins where one has to, and waits until the clock shows something.
    #[track_caller]
    fn open(&self, visitor: &Visitor, sight: Sight) -> Page {
        self.open_at(self.address, visitor, sight)
    }

    /// The same by another address.
    #[track_caller]
    fn open_at(&self, address: SocketAddr, visitor: &Visitor, sight: Sight) -> Page {
        let page = visitor.open_as(&format!("http://{address}{}", self.path()), sight);
        if self.kind == Kind::Room {
            room::join(&page, "Ada");
        }
        page.wait_for(&shows_time(&self.clock()));
        page
    }

    /// When the daemon says that it ends, in ms since the epoch.
    #[track_caller]
    fn ends_at_ms(&self) -> i64 {
        match self.kind {
            Kind::Student | Kind::Wall | Kind::Console => {
                let timer = request(self.address, "GET", &format!("/timers/{}", self.id), None);
                rfc3339_ms(timer.json()["ends_at"].as_str().unwrap())
            }
            Kind::Room => {
                let room = request(self.address, "GET", &format!("/rooms/{}", self.id), None).json();
                room["serverTime"].as_i64().unwrap() + room["remainingMs"].as_i64().unwrap()
            }
            Kind::Exam => exam::ends_at_ms(self.address, &self.id),
        }
    }

    /// Holds the page's clock against the end for the next changes of its digits.
    #[track_caller]
    fn assert_true(&self, page: &Page, changes: usize) {
        assert_true(page, &self.clock(), self.ends_at_ms(), changes);
    }

    /// It is right within a second, and stays so. The end was asked for before.
    #[track_caller]
    fn assert_right_at_once(&self, page: &Page, ends_at_ms: i64) {
        let begun = Instant::now();
        assert_eq!(request(self.address, "GET", "/health", None).status, 200);
        // A question is a thousandth of a second where nothing else goes on, and there the second is a second.
        let patience = Duration::from_secs(1) + 20 * begun.elapsed();
        assert_right_within(page, &self.clock(), ends_at_ms, patience, begun);
        assert_true(page, &self.clock(), ends_at_ms, 2);
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Clocks.

/// JavaScript for whether there are digits of a clock.
fn shows_time(selector: &str) -> String {
    format!(r"/^(\d+:)?\d\d:\d\d$/.test({}?.textContent.trim())", one(selector))
}

/// `H:MM:SS` or `MM:SS` in seconds.
#[track_caller]
fn seconds_of(digits: &str) -> i64 {
    let parts: Vec<&str> = digits.trim().split(':').collect();
    assert!(matches!(parts.len(), 2 | 3) && parts[1..].iter().all(|part| part.len() == 2), "no clock: {digits:?}");
    parts.iter().fold(0, |sum, part| sum * 60 + part.parse::<i64>().unwrap_or_else(|_| panic!("{digits:?}")))
}

/// How late each of the next changes of a clock comes, in ms; before its time is negative.
#[track_caller]
fn lateness_ms(page: &Page, clock: &str, ends_at_ms: i64, changes: usize) -> Vec<i64> {
    // From the top, for an element may be put in the place of another.
    let watch = format!(
        "new Promise(done => {{ \
           const seen = [], text = () => {clock}?.textContent.trim(), now = () => globalThis.__device?.now() ?? Date.now(); \
           let last = text(); \
           const watch = new MutationObserver(() => {{ \
             if (text() === last) return; \
             last = text(); seen.push([last, now()]); \
             if (seen.length >= {changes}) {{ watch.disconnect(); done(seen); }} }}); \
           watch.observe(document.body, {{ childList: true, characterData: true, subtree: true }}); \
           setTimeout(() => done(seen), {changes} * 1000 + 2500); }})",
        clock = one(clock)
    );
    let seen = page.evaluate(&watch);
    let seen = seen.as_array().unwrap();
    assert_eq!(seen.len(), changes, "the clock {clock} stands still: {seen:?}");
    seen.iter()
        .map(|pair| {
            let (digits, at_ms) = (pair[0].as_str().unwrap(), pair[1].as_f64().unwrap());
            at_ms as i64 - (ends_at_ms - 1000 * seconds_of(digits))
        })
        .collect()
}

/// The next changes of a clock come at their instants, and none before it.
#[track_caller]
fn assert_true(page: &Page, clock: &str, ends_at_ms: i64, changes: usize) {
    let late_ms = lateness_ms(page, clock, ends_at_ms, changes.max(2));
    assert_punctual(&late_ms, clock);
}

#[track_caller]
fn assert_punctual(late_ms: &[i64], clock: &str) {
    let is_true = late_ms.iter().all(|late_ms| (-EARLY_MS_MAX..=LATEST_MS_MAX).contains(late_ms))
        && late_ms.iter().any(|late_ms| *late_ms <= LATE_MS_MAX);
    assert!(is_true, "the clock {clock} is late by {late_ms:?} ms");
}

/// A clock shows the true second within so long a time.
#[track_caller]
fn assert_right_within(page: &Page, clock: &str, ends_at_ms: i64, patience: Duration, begun: Instant) {
    loop {
        let before_ms = ends_at_ms - now_ms();
        let shown = seconds_of(&page.text(clock));
        let after_ms = ends_at_ms - now_ms();
        let seconds = |ms: i64| (ms.max(0) + 999).div_euclid(1000);
        if (seconds(after_ms - EARLY_MS_MAX)..=seconds(before_ms + EARLY_MS_MAX)).contains(&shown) {
            return;
        }
        assert!(begun.elapsed() < patience, "{clock} shows {shown} s, and {after_ms} ms are left");
        thread::sleep(Duration::from_millis(20));
    }
}

fn now_ms() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

fn rfc3339_ms(text: &str) -> i64 {
    text.parse::<jiff::Timestamp>().unwrap().as_millisecond()
}

// ---------------------------------------------------------------------------------------------------------------
// Daemons.

/// A request to whichever daemon is at an address.
#[track_caller]
fn request(address: SocketAddr, method: &str, path: &str, body: Option<Value>) -> Response {
    let body = body.map(|body| body.to_string());
    Http::connect(address).request(method, path, &[("Content-Type", "application/json")], body.as_deref())
}

/// A daemon that keeps nothing, as the tests' own address would soon be over the limits of rates.
fn ephemeral(flags: &[&str]) -> Daemon {
    Daemon::ephemeral(flags)
}

/// The address of a page.
fn url(daemon: &Daemon, path: &str) -> String {
    format!("http://{}{path}", daemon.address)
}

// ---------------------------------------------------------------------------------------------------------------
// The harness itself.

/// What every test of a page relies on can fail: an error in the console, a server that is not ours, a wrong clock.
#[test]
fn the_browser_tells_of_errors_of_other_servers_and_of_wrong_clocks() {
    let Some(visitor) = browser::visitor() else { return };
    let (daemon, other) = (ephemeral(&[]), ephemeral(&[]));
    let fails = |check: &dyn Fn()| {
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(check));
        *caught.expect_err("it passed").downcast::<String>().unwrap()
    };
    let page = visitor.open(&url(&daemon, "/docs"));
    page.expect_errors(&["favicon"]);
    page.assert_clean();
    page.evaluate("console.error('oh no')");
    assert!(fails(&|| page.assert_clean()).contains("oh no"));
    page.expect_errors(&["oh no"]);
    // A clock that is right, and one that is a second behind.
    let ends_at_ms = now_ms() + 40_000;
    page.evaluate(&format!(
        "const clock = document.createElement('p'); clock.id = 'clock'; document.body.append(clock); \
         setInterval(() => {{ clock.textContent = `00:${{Math.ceil(({ends_at_ms} - Date.now()) / 1000)}}`; }}, 10); null"
    ));
    page.wait_for(&shows_time("#clock"));
    assert_true(&page, "#clock", ends_at_ms, 1);
    assert!(fails(&|| assert_true(&page, "#clock", ends_at_ms - 1000, 1)).contains("late"));
    page.go(&url(&other, "/docs"));
    assert!(fails(&|| page.assert_clean()).contains(&other.address.to_string()));
    std::mem::forget(page);
}
