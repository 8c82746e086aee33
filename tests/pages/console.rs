//! The instructor's console: the key at its door, a timer's whole life, many at once, the order of the list.

use std::time::Duration;

use super::*;
use crate::browser::{DESK, has_text, seen, visitor};

/// A file with an instructor's and a viewer's key.
pub struct Keys {
    pub instructor: String,
    pub viewer: String,
    file: tempfile::NamedTempFile,
}

impl Keys {
    pub fn new() -> Keys {
        let mut lines = String::new();
        let mut key = |name: &str, role: &str| {
            let made =
                std::process::Command::new(env!("CARGO_BIN_EXE_timerd")).args(["key", "new", name, role]).output();
            let made = made.unwrap();
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
            // The key and the line for the file, wherever they are printed.
            let text = String::from_utf8(made.stdout).unwrap() + &String::from_utf8(made.stderr).unwrap();
            let line = text.split_whitespace().find(|word| word.starts_with(&format!("{name}:{role}:"))).unwrap();
            lines.push_str(&format!("{line}\n"));
            text.split_whitespace().find(|word| !word.contains(':') && word.len() >= 32).unwrap().to_owned()
        };
        let (instructor, viewer) = (key("ms-lovelace", "instructor"), key("hall", "viewer"));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), lines).unwrap();
        Keys { instructor, viewer, file }
    }

    pub fn file(&self) -> &str {
        self.file.path().to_str().unwrap()
    }
}

/// Without a window the answer to a dialog does not arrive.
const DIALOGS: Sight = DESK.in_window();

/// The row of a timer.
fn row(id: &str) -> String {
    format!("[data-id='{id}']")
}

fn has_state(id: &str, state: &str) -> String {
    format!("!!document.querySelector(\"{}[data-state='{state}']\")", row(id))
}

/// The button of a row that begins with these words, as CSS that only it matches.
#[track_caller]
fn button(page: &Page, within: &str, words: &str) -> String {
    let find = format!(
        "[...document.querySelectorAll({})].filter(it => it.checkVisibility()).find(it => it.textContent.trim().startsWith({}))",
        json!(format!("{within} button, {within} summary")),
        json!(words)
    );
    page.wait_for(&format!("!!{find}"));
    page.evaluate(&format!(
        "(it => {{ document.querySelectorAll('[data-wanted]').forEach(old => old.removeAttribute('data-wanted')); \
         it.dataset.wanted = ''; }})({find})"
    ));
    "[data-wanted]".to_owned()
}

#[track_caller]
fn press(page: &Page, within: &str, words: &str) {
    let button = button(page, within, words);
    page.click(&button);
}

/// The console, open.
#[track_caller]
fn open(visitor: &Visitor, daemon: &Daemon, sight: Sight) -> Page {
    let page = visitor.open_as(&url(daemon, "/console"), sight);
    page.wait_for(&format!("!!{}", seen("#desk")));
    page
}

#[test]
fn a_timers_life_from_its_creation_to_its_deletion() {
    let Some(visitor) = visitor() else { return };
    let daemon = ephemeral(&[]);
    let page = open(&visitor, &daemon, DIALOGS);
    page.evaluate("document.querySelector('#new').open = true");
    page.fill("#name", "Biology 7b");
    page.fill("#minutes", "45");
    page.press("Enter");
    page.wait_for("document.querySelectorAll('#timers [data-id]').length === 1");
    let id = page.evaluate("document.querySelector('#timers [data-id]').dataset.id").as_str().unwrap().to_owned();
    let timer = daemon.timer(&id);
    assert_eq!((&timer["name"], &timer["duration_seconds"]), (&json!("Biology 7b"), &json!(2700)));

    let row = row(&id);
    page.wait_for(&has_state(&id, "created"));
    press(&page, &row, "Start");
    page.wait_for(&has_state(&id, "running"));
    assert_true(&page, &format!("{row} .left"), rfc3339_ms(daemon.timer(&id)["ends_at"].as_str().unwrap()), 2);
    press(&page, &row, "Pause");
    page.wait_for(&has_state(&id, "paused"));
    assert_eq!(daemon.timer(&id)["state"], "paused");
    press(&page, &row, "+5");
    page.wait_for(&format!("{}.textContent.startsWith('49:')", one(&format!("{row} .left"))));
    assert_eq!(daemon.timer(&id)["duration_seconds"], 3000);
    press(&page, &row, "Resume");
    page.wait_for(&has_state(&id, "running"));

    // What is final asks first, and does nothing where the answer is no.
    press(&page, &row, "More");
    press(&page, &row, "Stop");
    page.wait_for("!!document.querySelector('dialog[open]')");
    page.press("Escape");
    page.wait_for("!document.querySelector('dialog[open]')");
    assert_eq!(daemon.timer(&id)["state"], "running");
    press(&page, &row, "Stop");
    press(&page, "dialog[open]", "Stop");
    page.wait_for(&has_state(&id, "completed"));

    // Who did what when.
    press(&page, &row, "History");
    page.wait_for("!!document.querySelector('dialog[open] table')");
    let history = page.text("dialog[open]");
    for action in ["created", "started", "paused", "extended", "resumed", "stopped"] {
        assert!(history.contains(action), "{action} in {history}");
    }
    page.press("Escape");
    page.wait_for("!document.querySelector('dialog[open]')");

    press(&page, &row, "Delete");
    press(&page, "dialog[open]", "Delete");
    page.wait_for(&format!("!document.querySelector(\"{row}\")"));
    assert_eq!(daemon.get(&format!("/timers/{id}")).status, 404);
}

/// Many at once: how many is said before it is done, and what came of it afterwards.
#[test]
fn many_at_once_with_a_count_before_it_is_done() {
    let Some(visitor) = visitor() else { return };
    let daemon = ephemeral(&[]);
    let ids: Vec<String> =
        (1..=5).map(|n| daemon.create(json!({ "name": format!("Room {n}"), "duration_seconds": 600 }))).collect();
    let page = open(&visitor, &daemon, DIALOGS);
    page.wait_for("document.querySelectorAll('#timers [data-id]').length === 5");
    for id in &ids[..3] {
        page.click(&format!("{} input[type=checkbox]", row(id)));
    }
    page.wait_for(&has_text("#bulk", "3 timers"));
    press(&page, "#bulk", "Start");
    page.wait_for(&has_text("dialog[open]", "Start 3 timers"));
    let states = |wanted: [&str; 5]| ids.iter().zip(wanted).all(|(id, state)| daemon.timer(id)["state"] == state);
    assert!(states(["created"; 5]), "done before it was answered");
    press(&page, "dialog[open]", "Start 3");
    for id in &ids[..3] {
        page.wait_for(&has_state(id, "running"));
    }
    assert!(states(["running", "running", "running", "created", "created"]));
    // At one instant.
    let ends: Vec<Value> = ids[..3].iter().map(|id| daemon.timer(id)["ends_at"].clone()).collect();
    assert!(ends.windows(2).all(|two| two[0] == two[1]), "{ends:?}");

    // All of them, of which some cannot: each is answered for.
    close_report(&page);
    page.evaluate("document.querySelector('#none-selected').click()");
    page.click("#all");
    page.wait_for(&has_text("#bulk", "5 timers"));
    press(&page, "#bulk", "Pause");
    page.wait_for(&has_text("dialog[open]", "5 timers"));
    press(&page, "dialog[open]", "Pause 5");
    daemon::eventually(|| states(["paused", "paused", "paused", "created", "created"]));
    page.wait_for("/created|not|cannot|failed/i.test(document.querySelector('dialog[open]')?.innerText ?? document.querySelector('#trouble')?.innerText ?? '')");
    close_report(&page);
}

/// Closes what tells the outcome, if it is in the way.
fn close_report(page: &Page) {
    thread::sleep(Duration::from_millis(200));
    if page.is("!!document.querySelector('dialog[open]')") {
        page.press("Escape");
        page.wait_for("!document.querySelector('dialog[open]')");
    }
}

/// What others do is seen without being asked for, and the list has first what needs looking at.
#[test]
fn the_list_follows_the_hall_and_has_the_worst_first() {
    let Some(visitor) = visitor() else { return };
    let daemon = ephemeral(&[]);
    let long = daemon.create(json!({ "name": "Long", "duration_seconds": 3600, "auto_start": true }));
    let waiting = daemon.create(json!({ "name": "Waiting", "duration_seconds": 60 }));
    let page = open(&visitor, &daemon, DESK);
    page.wait_for("document.querySelectorAll('#timers [data-id]').length === 2");
    let order = || -> Vec<String> {
        let ids = page.evaluate("[...document.querySelectorAll('#timers [data-id]')].map(it => it.dataset.id)");
        ids.as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(order(), [long.clone(), waiting.clone()]);
    // Made by a script, ends before the others.
    let short = daemon.create(json!({ "name": "Short", "duration_seconds": 120, "auto_start": true }));
    page.wait_within(&format!("!!document.querySelector(\"{}\")", row(&short)), Duration::from_secs(4));
    daemon::eventually(|| order() == [short.clone(), long.clone(), waiting.clone()]);
    assert_eq!(daemon.control(&waiting, "start").status, 200);
    daemon::eventually(|| order() == [waiting.clone(), short.clone(), long.clone()]);
    assert_eq!(daemon.delete(&format!("/timers/{short}")).status, 204);
    page.wait_within(&format!("!document.querySelector(\"{}\")", row(&short)), Duration::from_secs(4));
}

/// Where keys are required the console asks for one, takes none that is too small, and keeps it no longer than the tab.
#[test]
fn the_key_is_asked_for_and_gone_with_the_tab() {
    let Some(visitor) = visitor() else { return };
    let keys = Keys::new();
    let daemon = ephemeral(&["--require-auth", "--keys-file", keys.file()]);
    let body = json!({ "name": "Biology", "duration_seconds": 600 }).to_string();
    let created = daemon.request("POST", "/timers", &[("X-API-Key", &keys.instructor)], Some(&body));
    let id = created.json()["id"].as_str().unwrap().to_owned();

    let page = visitor.open(&url(&daemon, "/console"));
    page.expect_errors(&["status of 401", "status of 403"]);
    page.wait_for(&format!("!!{}", seen("#key")));
    assert!(!page.is(&seen("#desk")));
    for (wrong, says) in [("nonsense", "invalid"), (&keys.viewer, "role")] {
        page.fill("#key", wrong);
        page.press("Enter");
        page.wait_for(&has_text("#refused", says));
        assert!(!page.is(&seen("#desk")));
    }
    page.fill("#key", &keys.instructor);
    page.press("Enter");
    page.wait_for(&format!("!!{}", seen("#desk")));
    press(&page, &row(&id), "Start");
    page.wait_for(&has_state(&id, "running"));
    // A refresh is still the same tab.
    page.refresh();
    page.wait_for(&has_state(&id, "running"));

    // Nothing of it is left anywhere else.
    assert!(!page.is(&format!("JSON.stringify({{ ...localStorage }}).includes({0}) || document.cookie.includes({0}) || location.href.includes({0})", json!(keys.instructor))));
    let record = page.record();
    assert!(
        record.urls.iter().filter(|url| url.contains(&keys.instructor)).all(|url| url.starts_with("ws:")),
        "{:?}",
        record.urls
    );
    let other = visitor.open(&url(&daemon, "/console"));
    other.expect_errors(&["status of 401"]);
    other.wait_for(&format!("!!{}", seen("#key")));
    assert!(!other.is(&seen("#desk")), "another tab has the key");
    drop(page);
    let later = visitor.open(&url(&daemon, "/console"));
    later.expect_errors(&["status of 401"]);
    later.wait_for(&format!("!!{}", seen("#key")));
}

/// A candidate who changes machines gets the link to his session here.
#[test]
fn the_console_has_the_link_to_a_candidates_session() {
    let (Some(visitor), Some(candidate)) = (visitor(), visitor()) else { return };
    let daemon = ephemeral(&[]);
    let id = exam::begun(&daemon, &exam::paper(600));
    let page = open(&visitor, &daemon, DESK);
    page.wait_for(&has_text("#exams", "Mathematics 1"));
    // The candidates of an exam are unfolded.
    page.evaluate("document.querySelectorAll('#exams details').forEach(it => { it.open = true; })");
    // What is copied goes no further than this page.
    page.evaluate("navigator.clipboard.writeText = async text => { globalThis.__copied = text; }; null");
    press(&page, "#exams", "Copy link");
    page.wait_for("!!globalThis.__copied");
    let link = page.evaluate("__copied").as_str().unwrap().to_owned();
    assert!(link.ends_with(&format!("#session={id}")), "{link}");
    let there = candidate.open(&link);
    there.wait_for(&shows_time("#clock"));
    there.wait_for(&has_text("#question", "2 + 2"));
}
