//! The clock of every page tells the server's time to the second, whatever happened to the tab or the device: ticking,
//! hidden, asleep, with a wall clock that is wrong by hours or is set in the middle.

use std::thread;
use std::time::Duration;

use super::*;
use crate::browser::{DESK, visitor};

const HOUR_MS: i64 = 3_600_000;
/// For how long a tab is out of sight.
const ABSENCE: Duration = Duration::from_millis(2300);

fn ticks(kind: Kind) {
    let Some(visitor) = visitor() else { return };
    let daemon = ephemeral(&[]);
    let subject = Subject::running(kind, &daemon, 3602);
    let page = subject.open(&visitor, DESK);
    // Over the hour: the longer form gives way to the shorter one.
    let late_ms = lateness_ms(&page, &subject.clock(), subject.ends_at_ms(), 4);
    println!("{kind:?}: a second is shown late by {late_ms:?} ms");
    assert_punctual(&late_ms, &subject.clock());
    assert_eq!(page.text(&subject.clock()).len(), "59:59".len());
}

#[test]
fn the_students_clock_changes_at_the_servers_instants() {
    ticks(Kind::Student);
}

#[test]
fn the_walls_clock_changes_at_the_servers_instants() {
    ticks(Kind::Wall);
}

#[test]
fn the_consoles_clocks_change_at_the_servers_instants() {
    ticks(Kind::Console);
}

#[test]
fn the_rooms_clock_changes_at_the_servers_instants() {
    ticks(Kind::Room);
}

#[test]
fn the_exams_clock_changes_at_the_servers_instants() {
    ticks(Kind::Exam);
}

// ---------------------------------------------------------------------------------------------------------------
// Out of sight.

#[track_caller]
fn hidden_and_frozen(kind: Kind) {
    let Some(visitor) = visitor() else { return };
    let daemon = ephemeral(&[]);
    let subject = Subject::running(kind, &daemon, 600);
    let page = subject.open(&visitor, DESK.in_window().shifted(0));
    let ends_at_ms = subject.ends_at_ms();

    page.hide();
    thread::sleep(ABSENCE);
    page.show();
    subject.assert_right_at_once(&page, ends_at_ms);

    // As a browser does with a tab long unseen, whose sockets it closes.
    page.expect_errors(&["Back-Forward Cache"]);
    page.hide();
    page.freeze();
    thread::sleep(ABSENCE);
    page.thaw();
    page.show();
    subject.assert_right_at_once(&page, ends_at_ms);

    // A laptop that sleeps: its stopwatch stands still, its wall clock is right again afterwards.
    page.hide();
    page.freeze();
    thread::sleep(ABSENCE);
    page.evaluate(&format!("__device.slept += {}", ABSENCE.as_millis()));
    page.thaw();
    page.show();
    subject.assert_right_at_once(&page, ends_at_ms);
}

#[test]
fn the_students_clock_is_right_within_a_second_of_waking() {
    hidden_and_frozen(Kind::Student);
}

#[test]
fn the_walls_clock_is_right_within_a_second_of_waking() {
    hidden_and_frozen(Kind::Wall);
}

#[test]
fn the_consoles_clocks_are_right_within_a_second_of_waking() {
    hidden_and_frozen(Kind::Console);
}

#[test]
fn the_rooms_clock_is_right_within_a_second_of_waking() {
    hidden_and_frozen(Kind::Room);
}

#[test]
fn the_exams_clock_is_right_within_a_second_of_waking() {
    hidden_and_frozen(Kind::Exam);
}

// ---------------------------------------------------------------------------------------------------------------
// A device whose clock lies.

#[track_caller]
fn shifted(kind: Kind) {
    let daemon = ephemeral(&[]);
    let subject = Subject::running(kind, &daemon, 7200);
    let ends_at_ms = subject.ends_at_ms();
    let Some(visitor) = visitor() else { return };
    let page = subject.open(&visitor, DESK.shifted(5 * HOUR_MS));
    assert_true(&page, &subject.clock(), ends_at_ms, 2);
    // Set in the middle, while the digits are watched: to the past, and back to what is nearly right.
    for shift_ms in [-7 * HOUR_MS, 90_000] {
        page.evaluate(&format!("setTimeout(() => {{ __device.shift = {shift_ms} }}, 500); null"));
        assert_true(&page, &subject.clock(), ends_at_ms, 2);
    }
}

#[test]
fn the_students_clock_is_right_where_the_devices_is_wrong() {
    shifted(Kind::Student);
}

#[test]
fn the_walls_clock_is_right_where_the_devices_is_wrong() {
    shifted(Kind::Wall);
}

#[test]
fn the_consoles_clocks_are_right_where_the_devices_is_wrong() {
    shifted(Kind::Console);
}

#[test]
fn the_rooms_clock_is_right_where_the_devices_is_wrong() {
    shifted(Kind::Room);
}

#[test]
fn the_exams_clock_is_right_where_the_devices_is_wrong() {
    shifted(Kind::Exam);
}

/// Times of day come from the server, in the zone of the device.
#[test]
fn the_wall_tells_the_servers_time_of_day() {
    let Some(visitor) = visitor() else { return };
    let daemon = ephemeral(&[]);
    let subject = Subject::running(Kind::Wall, &daemon, 7200);
    let page = visitor.blank(DESK.shifted(-5 * HOUR_MS));
    page.call("Emulation.setTimezoneOverride", json!({ "timezoneId": "Asia/Kolkata" }));
    page.go(&url(&daemon, &subject.path()));
    page.wait_for(&shows_time("#clock"));
    // The start, the finish and now, two hours apart: no other hour is to be seen.
    for instant_ms in [now_ms(), subject.ends_at_ms(), subject.ends_at_ms() + 720_000] {
        let text = format!(
            "new Intl.DateTimeFormat('en-GB', {{ hour: '2-digit', minute: '2-digit', timeZone: 'Asia/Kolkata' }}).format({instant_ms})"
        );
        page.wait_within(&format!("document.body.innerText.includes({text})"), Duration::from_secs(3));
    }
}
