//! The line to the server: lost and found again, silent, cut by proxies, refused. The pages go on counting and say how
//! things stand.

use std::thread;
use std::time::Duration;

use super::*;
use crate::browser::proxy::{Proxy, Refuses};
use crate::browser::{DESK, has_text, visitor};

/// Coming back takes a wait of random length.
const RETURN: Duration = Duration::from_secs(15);
/// The ladder has three steps, with two attempts on each.
const DESCENT: Duration = Duration::from_secs(25);

const LOST: [&str; 3] = ["WebSocket connection", "ERR_", "Failed to load resource"];

fn has_line(level: &str) -> String {
    format!("document.documentElement.dataset.line === '{level}'")
}

// ---------------------------------------------------------------------------------------------------------------
// Restarts.

/// `kill -9` and a new daemon at the same place: the page counts on, says so, and finds back by itself.
#[track_caller]
fn survives_a_restart(kind: Kind) {
    let Some(visitor) = visitor() else { return };
    let (_keep, directory) = daemon::directory();
    let daemon = Daemon::on(&directory, &[]);
    let address = daemon.address;
    let subject = Subject::running(kind, &daemon, 600);
    let page = subject.open(&visitor, DESK);
    page.expect_errors(&LOST);
    let ends_at_ms = subject.ends_at_ms();
    page.wait_for(&has_line("websocket"));

    daemon.kill();
    assert_true(&page, &subject.clock(), ends_at_ms, 2);
    page.wait_for(&has_line("offline"));
    page.wait_for(&has_text("#line", "last heard"));

    let again = Daemon::on(&directory, &["--listen", &address.to_string()]);
    page.wait_within(&has_line("websocket"), RETURN);
    assert!(!page.is(&has_text("#line", "last heard")));
    // What happens from now on is seen.
    assert_true(&page, &subject.clock(), subject.ends_at_ms(), 2);
    drop(again);
}

#[test]
fn the_students_page_survives_kill_9_of_the_daemon() {
    survives_a_restart(Kind::Student);
}

#[test]
fn the_wall_survives_kill_9_of_the_daemon() {
    survives_a_restart(Kind::Wall);
}

#[test]
fn the_console_survives_kill_9_of_the_daemon() {
    survives_a_restart(Kind::Console);
}

#[test]
fn the_room_survives_kill_9_of_the_daemon() {
    survives_a_restart(Kind::Room);
}

#[test]
fn the_exam_survives_kill_9_of_the_daemon() {
    survives_a_restart(Kind::Exam);
}

// ---------------------------------------------------------------------------------------------------------------
// No network.

/// The network is gone, and the line with it, without a word: the page counts on, says for how long it has heard
/// nothing, and comes back.
#[track_caller]
fn goes_on_offline(kind: Kind) {
    let Some(visitor) = visitor() else { return };
    let daemon = ephemeral(&[]);
    let subject = Subject::running(kind, &daemon, 600);
    let page = subject.open(&visitor, DESK);
    page.expect_errors(&LOST);
    let ends_at_ms = subject.ends_at_ms();
    page.wait_for(&has_line("websocket"));

    page.set_offline(true);
    page.wait_for(&has_line("offline"));
    page.wait_for(r"/last heard \d+:\d\d ago/.test(document.querySelector('#line').textContent)");
    assert_true(&page, &subject.clock(), ends_at_ms, 2);
    let ago = "Number(/:(\\d\\d) ago/.exec(document.querySelector('#line').textContent)[1])";
    let heard_s = page.evaluate(ago).as_i64().unwrap();
    page.wait_for(&format!("{ago} > {heard_s}"));

    page.set_offline(false);
    page.wait_within(&has_line("websocket"), RETURN);
    assert_true(&page, &subject.clock(), ends_at_ms, 1);
}

#[test]
fn the_students_page_goes_on_counting_offline_and_says_so() {
    goes_on_offline(Kind::Student);
}

#[test]
fn the_wall_goes_on_counting_offline_and_says_so() {
    goes_on_offline(Kind::Wall);
}

#[test]
fn the_console_goes_on_counting_offline_and_says_so() {
    goes_on_offline(Kind::Console);
}

#[test]
fn the_room_goes_on_counting_offline_and_says_so() {
    goes_on_offline(Kind::Room);
}

#[test]
fn the_exam_goes_on_counting_offline_and_says_so() {
    goes_on_offline(Kind::Exam);
}

/// A page that counts to zero by itself does not know whether time is up: somebody may have given more.
#[test]
fn time_is_up_only_when_the_server_has_said_so() {
    let Some(visitor) = visitor() else { return };
    let daemon = ephemeral(&[]);
    let proxy = Proxy::before(daemon.address, Refuses::Nothing);
    let id = daemon.create(json!({ "duration_seconds": 5 }));
    let subject = Subject { kind: Kind::Student, address: daemon.address, id };
    let page = subject.open_at(proxy.address, &visitor, DESK);
    page.expect_errors(&LOST);
    page.wait_for(&has_line("websocket"));
    assert_eq!(daemon.control(&subject.id, "start").status, 200);
    page.wait_for("document.documentElement.dataset.state === 'running'");
    proxy.set(Refuses::Everything);
    // More than the page may take to come back.
    assert_eq!(daemon.extend(&subject.id, 18).status, 200);
    page.wait_for("document.querySelector('#clock').textContent.trim() === '00:00'");
    thread::sleep(Duration::from_millis(700));
    assert!(!page.is("/time is up/i.test(document.body.innerText)"), "{}", page.text("body"));
    assert_ne!(page.evaluate("document.documentElement.dataset.state"), "expired");
    assert!(page.is(&has_text("#line", "last heard")));

    proxy.set(Refuses::Nothing);
    page.wait_within("document.querySelector('#clock').textContent.trim() > '00:00'", RETURN);
    page.wait_within("/time is up/i.test(document.body.innerText)", 2 * RETURN);
    let ended_ms = rfc3339_ms(daemon.timer(&subject.id)["completed_at"].as_str().unwrap());
    // `completed_at` is cut to the second.
    assert!(now_ms() >= ended_ms, "before its time");
    assert_eq!(page.evaluate("document.documentElement.dataset.state"), "expired");
}

// ---------------------------------------------------------------------------------------------------------------
// Proxies.

#[track_caller]
fn falls_back(kind: Kind, refuses: Refuses, level: &str, words: &str) {
    let Some(visitor) = visitor() else { return };
    let daemon = ephemeral(&[]);
    let proxy = Proxy::before(daemon.address, refuses);
    let subject = Subject::running(kind, &daemon, 600);
    let page = subject.open_at(proxy.address, &visitor, DESK);
    page.expect_errors(&LOST);
    let took = page.wait_within(&has_line(level), DESCENT);
    println!("{kind:?} without {refuses:?}: {level} after {took:?}");
    page.wait_for(&has_text("#line", words));
    assert_true(&page, &subject.clock(), subject.ends_at_ms(), 2);

    // A change is seen: at once in the stream, with the next question where one has to ask.
    assert_eq!(daemon.extend(&subject.id, 300).status, 200);
    page.wait_within("document.querySelector('#clock').textContent.trim() > '10:00'", Duration::from_secs(4));
    assert_eq!(daemon.control(&subject.id, "pause").status, 200);
    page.wait_within("document.documentElement.dataset.state === 'paused'", Duration::from_secs(4));
}

#[test]
fn the_students_page_falls_back_to_the_stream_where_websockets_are_cut() {
    falls_back(Kind::Student, Refuses::WebSockets, "stream", "live (event stream)");
}

#[test]
fn the_students_page_falls_back_to_polling_where_streams_are_cut_too() {
    falls_back(Kind::Student, Refuses::Streams, "polling", "polling");
}

#[test]
fn the_wall_falls_back_to_the_stream_where_websockets_are_cut() {
    falls_back(Kind::Wall, Refuses::WebSockets, "stream", "live (event stream)");
}

#[test]
fn the_wall_falls_back_to_polling_where_streams_are_cut_too() {
    falls_back(Kind::Wall, Refuses::Streams, "polling", "polling");
}

/// The console has a list to ask for, and no stream.
#[test]
fn the_console_falls_back_to_polling_where_websockets_are_cut() {
    let Some(visitor) = visitor() else { return };
    let daemon = ephemeral(&[]);
    let proxy = Proxy::before(daemon.address, Refuses::WebSockets);
    let subject = Subject::running(Kind::Console, &daemon, 600);
    let page = subject.open_at(proxy.address, &visitor, DESK);
    page.expect_errors(&LOST);
    page.wait_within(&has_line("polling"), DESCENT);
    page.wait_for(&has_text("#line", "polling"));
    assert_eq!(daemon.control(&subject.id, "pause").status, 200);
    page.wait_within(&format!("!!document.querySelector(\"[data-id='{}'][data-state=paused]\")", subject.id), RETURN);
}
