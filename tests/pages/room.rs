//! The team's page: a room is made, found by its link, and controlled by everybody in it; two who press at once; what
//! a press shows before the server has answered, and after it has refused.

use std::time::Duration;

use super::*;
use crate::browser::{has_text, visitor};
use crate::daemon::Socket;

/// Opens a room over a socket; its id. The room has no page yet.
#[track_caller]
pub fn created(daemon: &Daemon, seconds: u32) -> (Socket, String) {
    let mut socket = daemon.open("/ws/rooms", &[]);
    socket.send(json!({ "type": "session:create", "duration": seconds, "name": "Grace" }));
    let joined = socket.expect("session:joined");
    (socket, joined["sessionId"].as_str().unwrap().to_owned())
}

/// At the door of a room: in, under a name.
#[track_caller]
pub fn join(page: &Page, name: &str) {
    page.fill("#name", name);
    page.press("Enter");
    page.wait_for(&format!("!!{}", browser::seen("#clock")));
}

/// What the daemon has of a room.
#[track_caller]
fn state(daemon: &Daemon, id: &str) -> Value {
    daemon.get(&format!("/rooms/{id}")).json()
}

fn id_of(page: &Page) -> String {
    page.wait_for("/^\\/room\\/[0-9a-z]{10}$/.test(location.pathname)");
    page.evaluate("location.pathname.split('/')[2]").as_str().unwrap().to_owned()
}

const TOGGLE: &str = "#toggle";

/// One makes a room, another comes by the link; both see the same, whoever presses.
#[test]
fn a_room_is_made_shared_by_its_link_and_controlled_by_all() {
    let (Some(ada), Some(ben)) = (visitor(), visitor()) else { return };
    let daemon = ephemeral(&[]);
    let first = ada.open(&url(&daemon, "/room"));
    first.fill("#name", "Ada");
    first.fill("#create-minutes", "10");
    first.click("#create button");
    first.wait_for_text("#clock", "10:00");
    let id = id_of(&first);

    let second = ben.open(&url(&daemon, &format!("/room/{id}")));
    join(&second, "Ben");
    second.wait_for_text("#clock", "10:00");
    for page in [&first, &second] {
        page.wait_for(&format!("{} && {}", has_text("#people", "Ada"), has_text("#people", "Ben")));
    }

    let views = |wanted: &str| {
        for page in [&first, &second] {
            page.wait_for(wanted);
        }
    };
    let is_state = |state: &str| format!("document.documentElement.dataset.state === '{state}'");
    second.click(TOGGLE);
    views(&is_state("running"));
    let ends_at_ms = Subject { kind: Kind::Room, address: daemon.address, id: id.clone() }.ends_at_ms();
    assert_true(&first, "#clock", ends_at_ms, 2);
    assert_true(&second, "#clock", ends_at_ms, 1);
    first.wait_for(&has_text("body", "Ben"));

    first.click(TOGGLE);
    views(&is_state("paused"));
    second.click("[data-add='300']");
    views("document.querySelector('#clock').textContent.trim() > '14:00'");
    assert_eq!(state(&daemon, &id)["duration"], 900);
    first.click(TOGGLE);
    views(&is_state("running"));
    second.click("#reset");
    views("document.querySelector('#clock').textContent.trim() === '10:00'");
    assert_eq!(state(&daemon, &id)["isRunning"], false);

    // Who leaves is gone at once, and can come back.
    second.click("#leave");
    first.wait_for(&format!("!({})", has_text("#people", "Ben")));
    second.wait_for(&format!("!{}", browser::seen("#clock")));
}

/// To its end: all hear it.
#[test]
fn a_rooms_end_is_told_to_all() {
    let (Some(ada), Some(ben)) = (visitor(), visitor()) else { return };
    let daemon = ephemeral(&[]);
    let (mut socket, id) = created(&daemon, 600);
    let pages = [ada.open(&url(&daemon, &format!("/room/{id}"))), ben.open(&url(&daemon, &format!("/room/{id}")))];
    for (page, name) in pages.iter().zip(["Ada", "Ben"]) {
        join(page, name);
    }
    socket.send(json!({ "type": "timer:start", "duration": 2 }));
    for page in &pages {
        page.wait_for("document.querySelector('#clock').textContent.trim() === '00:00'");
        page.wait_for("/time is up|finished|done/i.test(document.body.innerText)");
        page.wait_for(
            "[...document.querySelectorAll('[role=status]')].some(it => /time is up/i.test(it.textContent))",
        );
    }
}

/// Two press at the same instant, on what both see: there is one change and one polite refusal, and both see the same.
/// Where one of them has seen the other's press before his own, there are two changes.
#[test]
fn two_who_press_at_once_end_with_the_same_view() {
    let (Some(ada), Some(ben)) = (visitor(), visitor()) else { return };
    let daemon = ephemeral(&[]);
    let (_socket, id) = created(&daemon, 600);
    let pages = [ada.open(&url(&daemon, &format!("/room/{id}"))), ben.open(&url(&daemon, &format!("/room/{id}")))];
    for (page, name) in pages.iter().zip(["Ada", "Ben"]) {
        join(page, name);
        page.wait_for("document.documentElement.dataset.line === 'websocket'");
    }
    let mut collisions = 0;
    for _ in 0..8 {
        let before = state(&daemon, &id)["revision"].as_i64().unwrap();
        let read = pages.each_ref().map(|page| page.record().frames.len());
        let press =
            format!("setTimeout(() => document.querySelector('{TOGGLE}').click(), {} - Date.now())", now_ms() + 250);
        for page in &pages {
            page.evaluate(&press);
        }
        // What went over each line since: the revision that was pressed upon, and whether it was refused.
        let mut pressed = [None; 2];
        let mut refused = [false; 2];
        daemon::eventually(|| {
            let mut latest = [0; 2];
            for (at, page) in pages.iter().enumerate() {
                for (n, frame) in page.record().frames.iter().enumerate() {
                    let message: Value = serde_json::from_str(&frame[1..]).unwrap();
                    if n >= read[at] && frame.starts_with('>') && message["revision"].is_i64() {
                        pressed[at] = message["revision"].as_i64();
                    }
                    refused[at] |= n >= read[at] && message["code"] == "stale";
                    latest[at] = message["state"]["revision"].as_i64().unwrap_or(latest[at]);
                }
            }
            let is_settled = match pressed {
                [Some(one), Some(other)] if one == other => refused.contains(&true),
                [Some(_), Some(_)] => latest[0] == before + 2,
                _ => false,
            };
            is_settled && latest == [state(&daemon, &id)["revision"].as_i64().unwrap(); 2]
        });
        let now = state(&daemon, &id);
        let changes = now["revision"].as_i64().unwrap() - before;
        if pressed[0] == pressed[1] {
            collisions += 1;
            assert_eq!(changes, 1, "{now}");
            assert_eq!(refused.iter().filter(|refused| **refused).count(), 1);
            let loser = &pages[usize::from(refused[1])];
            loser.wait_for(&has_text("#told", "was faster"));
        }
        let name = match (now["isRunning"] == true, now["isPaused"] == true) {
            (true, _) => "running",
            (_, true) => "paused",
            _ => "created",
        };
        for page in &pages {
            page.wait_for(&format!("document.documentElement.dataset.state === '{name}'"));
        }
        if collisions == 3 {
            break;
        }
    }
    assert!(collisions > 0, "nobody pressed at once");
}

/// A press is shown at once; a line that is slow, or dead, is found out afterwards, and the page corrects itself.
#[test]
fn a_press_is_answered_at_once_and_taken_back_where_the_server_says_otherwise() {
    let Some(visitor) = visitor() else { return };
    let daemon = ephemeral(&[]);
    let (_socket, id) = created(&daemon, 600);
    let page = visitor.open(&url(&daemon, &format!("/room/{id}")));
    page.expect_errors(&["WebSocket connection", "ERR_", "Failed to load resource"]);
    join(&page, "Ada");
    page.wait_for("document.documentElement.dataset.line === 'websocket'");
    // The daemon stands still: nobody has said yes yet, and the button is another already.
    let before = page.text(TOGGLE);
    daemon.signal("STOP");
    page.click(TOGGLE);
    let shown =
        page.wait_for(&format!("document.querySelector('{TOGGLE}').textContent.trim() !== {}", json!(before)));
    daemon.signal("CONT");
    assert!(shown < Duration::from_millis(1000), "{shown:?}");
    page.wait_for("document.documentElement.dataset.state === 'running'");
    daemon::eventually(|| state(&daemon, &id)["isRunning"] == true);
    let subject = Subject { kind: Kind::Room, address: daemon.address, id };
    subject.assert_true(&page, 2);
}

/// Somebody whose line is lost is shown as such, and comes back as himself after a refresh.
#[test]
fn a_refresh_brings_the_same_person_back() {
    let (Some(ada), Some(ben)) = (visitor(), visitor()) else { return };
    let daemon = ephemeral(&[]);
    let (socket, id) = created(&daemon, 600);
    drop(socket);
    let pages = [ada.open(&url(&daemon, &format!("/room/{id}"))), ben.open(&url(&daemon, &format!("/room/{id}")))];
    for (page, name) in pages.iter().zip(["Ada", "Ben"]) {
        join(page, name);
    }
    pages[1].wait_for(&has_text("#people", "Ada"));
    pages[0].refresh();
    pages[0].wait_for(&format!("!!{}", browser::seen("#clock")));
    pages[0].wait_for(&has_text("#people", "Ben"));
    daemon::eventually(|| {
        state(&daemon, &id)["users"].as_array().is_some_and(|users| {
            users.iter().filter(|user| user["name"] == "Ada" && user["connected"] == true).count() == 1
        })
    });
    assert_eq!(state(&daemon, &id)["users"].as_array().unwrap().len(), 3, "{}", state(&daemon, &id));
}

/// No room, or none any more.
#[test]
fn an_unknown_room_is_told_kindly() {
    let Some(visitor) = visitor() else { return };
    let daemon = ephemeral(&[]);
    let page = visitor.open(&url(&daemon, "/room/0123456789"));
    page.expect_errors(&["Failed to load resource"]);
    page.fill("#name", "Ada");
    page.press("Enter");
    page.wait_for(
        "/(is|there is) no (such )?room|not found|does not exist|gone|closed/i.test(document.body.innerText)",
    );
}
