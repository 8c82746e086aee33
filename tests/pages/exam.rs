//! The candidate's page: from the start to the hand-in with a refresh in the middle, the end of time, another machine.

use std::time::Duration;

use super::*;
use crate::browser::{DESK, has_text, visitor};

pub const ASSESSMENT: &str = "math-101";

/// An assessment with one item of each sort, for so many seconds.
pub fn paper(seconds: u32) -> Value {
    json!({
        "title": "Mathematics 1", "time_limit_seconds": seconds, "navigation_mode": "NON_LINEAR", "grace_seconds": 10,
        "sections": [{ "section_id": "a", "name": "Part A", "items": [
            { "item_id": "sum", "content": { "prompt": "2 + 2 = ?", "choices": ["3", "4", "5"] }, "metadata": { "points": 1 } },
            { "item_id": "capital", "content": { "prompt": "The capital of France?", "type": "short_text" }, "metadata": { "points": 1 } },
            { "item_id": "essay", "content": { "prompt": "Why is the sky blue?", "type": "long_text" }, "metadata": { "points": 5 } },
        ]}],
    })
}

/// Puts an assessment.
#[track_caller]
fn put(daemon: &Daemon, paper: &Value) {
    let put = daemon.put(&format!("/delivery/assessments/{ASSESSMENT}"), paper.clone());
    assert!(matches!(put.status, 200 | 201), "{}", put.text());
}

/// Puts an assessment and begins a session of it; the session's id.
#[track_caller]
pub fn begun(daemon: &Daemon, paper: &Value) -> String {
    put(daemon, paper);
    let body = json!({ "candidate_id": "ada", "test_taker_id": "ada" });
    let started = daemon.post(&format!("/delivery/start/{ASSESSMENT}"), body);
    assert_eq!(started.status, 200, "{}", started.text());
    started.json()["session_id"].as_str().unwrap().to_owned()
}

/// When a session ends, in ms since the epoch: the daemon tells whole seconds, so that one has to watch them change.
#[track_caller]
pub fn ends_at_ms(address: SocketAddr, id: &str) -> i64 {
    let mut http = Http::connect(address);
    let mut left = || {
        let path = format!("/delivery/session/{id}/current");
        http.request("GET", &path, &[], None).json()["time_remaining_seconds"].as_i64().unwrap()
    };
    let first = left();
    let begun = Instant::now();
    loop {
        let now = left();
        if now != first {
            return now_ms() + 1000 * now;
        }
        assert!(begun.elapsed() < Duration::from_secs(2), "the session's time stands still");
        thread::sleep(Duration::from_millis(5));
    }
}

#[track_caller]
fn session(daemon: &Daemon, id: &str) -> Value {
    daemon.get(&format!("/delivery/session/{id}")).json()
}

const SAVED: &str = "document.querySelector('#saved').dataset.saved === 'saved'";

/// The session in the page's address.
#[track_caller]
fn id_of(page: &Page) -> String {
    page.wait_for("new URLSearchParams(location.hash.slice(1)).has('session')");
    page.evaluate("new URLSearchParams(location.hash.slice(1)).get('session')").as_str().unwrap().to_owned()
}

/// Opens a session that has begun, and waits for its first item.
#[track_caller]
fn open(visitor: &Visitor, daemon: &Daemon, id: &str) -> Page {
    let page = visitor.open(&url(daemon, &format!("/exam/{ASSESSMENT}#session={id}")));
    page.wait_for(&shows_time("#clock"));
    page.wait_for(&has_text("#question", "2 + 2"));
    page
}

/// Goes to the next item.
#[track_caller]
fn next(page: &Page, prompt: &str) {
    page.click("#next");
    page.wait_for(&has_text("#item, #question", prompt));
}

#[test]
fn an_exam_from_the_start_to_the_hand_in_with_a_refresh_in_the_middle() {
    let Some(visitor) = visitor() else { return };
    let daemon = ephemeral(&[]);
    put(&daemon, &paper(1800));
    // Without a window a dialog's answer does not arrive.
    let page = visitor.open_as(&url(&daemon, &format!("/exam/{ASSESSMENT}")), DESK.in_window());
    page.fill("#candidate", "ada");
    page.press("Enter");
    page.wait_for_text("#question", "2 + 2 = ?");
    let id = id_of(&page);
    page.wait_for(&shows_time("#clock"));
    assert!(page.is(&has_text("body", "Mathematics 1")));

    // A choice is saved as it is made.
    page.click("#item label:nth-of-type(2), #item li:nth-of-type(2) label");
    page.wait_for(SAVED);
    assert!(session(&daemon, &id)["responses"]["sum"].to_string().contains('4'), "{}", session(&daemon, &id));

    // A short text, when the candidate pauses or goes on.
    next(&page, "capital of France");
    page.fill("#item input, #item textarea", "Paris");
    page.wait_for(SAVED);
    assert!(session(&daemon, &id)["responses"]["capital"].to_string().contains("Paris"));

    next(&page, "sky blue");
    page.click("#flag");
    daemon::eventually(|| session(&daemon, &id)["flagged_items"] == json!(["essay"]));
    page.fill("#item textarea, #item input", "Rayleigh");
    page.wait_for(SAVED);

    // A refresh: the same place, the same answers, the same time.
    let ends_at_ms = ends_at_ms(daemon.address, &id);
    page.refresh();
    page.wait_for(&has_text("#question", "sky blue"));
    assert_eq!(page.evaluate("document.querySelector('#item textarea, #item input').value"), "Rayleigh");
    assert!(page.is("document.querySelector('#flag').getAttribute('aria-pressed') === 'true'"));
    page.wait_for(&shows_time("#clock"));
    assert_true(&page, "#clock", ends_at_ms, 2);

    // Back, and another choice.
    page.click("#previous");
    page.wait_for(&has_text("#question", "capital of France"));
    assert_eq!(page.evaluate("document.querySelector('#item textarea, #item input').value"), "Paris");
    page.click("#previous");
    page.wait_for(&has_text("#question", "2 + 2"));
    assert!(page.is("document.querySelectorAll('#item input')[1].checked"));

    // Asked once more before it is final.
    page.click("#submit");
    page.click("dialog[open] button[value='yes'], dialog[open] button.primary");
    page.wait_for(&format!("!!{}", browser::seen("#end")));
    let session = session(&daemon, &id);
    assert_eq!(session["state"], "completed");
    assert_eq!(session["responses"].as_object().unwrap().len(), 3);
    assert!(!page.is(&browser::seen("#paper")));

    // After it is over a refresh shows that, and no paper.
    page.refresh();
    page.wait_for(&format!("!!{}", browser::seen("#end")));
}

/// What is typed and not saved yet when the time is up is handed in by the page itself, within the grace.
#[test]
fn an_exam_that_expires_hands_itself_in() {
    let Some(visitor) = visitor() else { return };
    let daemon = ephemeral(&[]);
    let id = begun(&daemon, &paper(9));
    let page = open(&visitor, &daemon, &id);
    next(&page, "capital of France");
    page.wait_for("document.querySelector('#clock').textContent.trim() === '00:01'");
    page.fill("#item input, #item textarea", "Paris");
    page.wait_for(&format!("!!{}", browser::seen("#end")));
    page.wait_for("/time is up|handed in/i.test(document.querySelector('#end').innerText)");
    daemon::eventually(|| session(&daemon, &id)["state"] == "completed");
    let session = session(&daemon, &id);
    assert!(session["responses"]["capital"].to_string().contains("Paris"), "{session}");
}

/// What is typed while the daemon is away is kept, said to be unsaved, and saved when it is back.
#[test]
fn an_answer_given_while_the_daemon_is_away_is_saved_when_it_is_back() {
    let Some(visitor) = visitor() else { return };
    let (_keep, directory) = daemon::directory();
    let daemon = Daemon::on(&directory, &[]);
    let address = daemon.address;
    let id = begun(&daemon, &paper(1800));
    let page = open(&visitor, &daemon, &id);
    page.expect_errors(&["WebSocket connection", "ERR_", "Failed to load resource"]);
    next(&page, "capital of France");
    daemon.kill();
    page.fill("#item input, #item textarea", "Paris");
    thread::sleep(Duration::from_millis(1500));
    assert!(!page.is(SAVED), "called saved by nobody");
    let daemon = Daemon::on(&directory, &["--listen", &address.to_string()]);
    page.wait_within(SAVED, Duration::from_secs(20));
    assert!(session(&daemon, &id)["responses"]["capital"].to_string().contains("Paris"));
}

/// The supervisor stops everybody's time, gives more, and lets go on.
#[test]
fn a_pause_and_more_time_reach_the_candidate() {
    let Some(visitor) = visitor() else { return };
    let daemon = ephemeral(&[]);
    let id = begun(&daemon, &paper(600));
    let page = open(&visitor, &daemon, &id);
    let call = |call: &str, body: Value| {
        let answer = daemon.post(&format!("/delivery/session/{id}/{call}"), body);
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    call("pause", json!({}));
    page.wait_for("document.documentElement.dataset.state === 'paused'");
    page.wait_for_text("body", "pause");
    call("resume", json!({}));
    page.wait_for("document.documentElement.dataset.state === 'in_progress'");
    call("extend", json!({ "seconds": 300, "reason": "Fire alarm" }));
    page.wait_for("document.querySelector('#clock').textContent.trim() > '14:00'");
    page.wait_for_text("body", "Fire alarm");
    assert_true(&page, "#clock", ends_at_ms(daemon.address, &id), 1);
}
