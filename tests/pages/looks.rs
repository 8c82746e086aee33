//! What the pages look like and who can use them: pictures in light and dark, on a phone and on a projector;
//! axe-core; every control by the keyboard alone, with a focus that is to be seen.

use super::*;
use crate::browser::{seen, visitor};

const DESK: Sight = browser::DESK.in_window();
const PHONE: Sight = browser::PHONE.in_window();
const PROJECTOR: Sight = browser::PROJECTOR.in_window();

/// JavaScript for whatever can be reached with the Tab key, as a list of elements. Of a group of radio buttons one is
/// enough, and a `details` is opened by its summary.
const CONTROLS: &str = r"
(() => {
  const scope = document.querySelector('dialog[open]') ?? document;
  const groups = new Set();
  return [...scope.querySelectorAll('a[href], button, input, select, textarea, summary, [tabindex]')].filter(it => {
    if (it.disabled || it.tabIndex < 0 || it.closest('[inert]')) return false;
    if (!it.checkVisibility({ visibilityProperty: true })) return false;
    if (it.type === 'radio') {
      const group = `${it.form?.id} ${it.name}`;
      if (groups.has(group)) return false;
      groups.add(group);
    }
    return true;
  });
})()";

/// Tab reaches every control of the page as it is, the focus is to be seen on each, and nothing lies above it.
#[track_caller]
fn assert_keyboard_reaches_all(page: &Page, name: &str) {
    page.hold_focus();
    page.evaluate(&format!(
        "globalThis.__controls = {CONTROLS}; globalThis.__reached = new Set(); document.activeElement?.blur(); \
         scrollTo(0, 0); getSelection().removeAllRanges(); null"
    ));
    let count = page.evaluate("__controls.length").as_u64().unwrap();
    // A round and the way through the browser's own controls, with room for what opens on the way.
    for _ in 0..count + 16 {
        page.press("Tab");
        let stop = page.evaluate(
            r"(() => {
              const it = document.activeElement;
              if (!it || it === document.body || it === document.documentElement) return null;
              if (it.type === 'radio') __controls.filter(one => one.type === 'radio' && one.name === it.name).forEach(one => __reached.add(one));
              __reached.add(it);
              const style = getComputedStyle(it), box = it.getBoundingClientRect();
              const outlined = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 1;
              const points = [[box.x + box.width / 2, box.y + box.height / 2], [box.x + 3, box.y + 3], [box.right - 3, box.bottom - 3]];
              const free = points.some(([x, y]) => { const top = document.elementFromPoint(x, y); return top && (it.contains(top) || top.contains(it)); });
              return { what: it.outerHTML.slice(0, 120), outlined, free };
            })()",
        );
        if !stop.is_null() {
            assert_eq!(stop["outlined"], true, "{name}: no focus to be seen on {}", stop["what"]);
            assert_eq!(stop["free"], true, "{name}: the focus is hidden on {}", stop["what"]);
        }
        if page.is("__controls.every(it => __reached.has(it))") {
            return;
        }
    }
    let missed = page.evaluate("__controls.filter(it => !__reached.has(it)).map(it => it.outerHTML.slice(0, 160))");
    panic!("{name}: not reached by the keyboard: {missed}");
}

/// Nothing has to be scrolled sideways.
#[track_caller]
fn assert_fits(page: &Page, name: &str) {
    let over = page.evaluate("document.documentElement.scrollWidth - innerWidth").as_i64().unwrap();
    if over > 0 {
        let what = page.evaluate(
            "[...document.querySelectorAll('body *')].filter(it => it.getBoundingClientRect().right > innerWidth + 1) \
             .slice(0, 5).map(it => it.outerHTML.slice(0, 100))",
        );
        panic!("{name}: {over} px too wide: {what}");
    }
}

/// A page in all its looks: pictures, axe, the keyboard.
#[track_caller]
fn looks(page: &Page, name: &str) {
    let mut faults = Vec::new();
    for (look, sight) in [
        ("light", DESK),
        ("dark", DESK.dark()),
        ("phone", PHONE),
        ("phone-dark", PHONE.dark()),
        ("projector", PROJECTOR),
    ] {
        page.look(sight);
        // Two frames: what follows the size and the colours has been laid out and painted.
        page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(null))))");
        page.screenshot(&format!("{name}-{look}"));
        assert_fits(page, &format!("{name}, {look}"));
        if matches!(look, "light" | "phone-dark") {
            faults.extend(page.violations().into_iter().map(|line| format!("{name}, {look}: {line}")));
        }
    }
    assert!(faults.is_empty(), "axe-core: {faults:#?}");
    page.look(DESK);
    assert_keyboard_reaches_all(page, name);
}

#[test]
fn the_first_page_looks_right_to_everybody() {
    let Some(visitor) = visitor() else { return };
    let daemon = ephemeral(&[]);
    let page = visitor.open_as(&url(&daemon, "/"), DESK);
    looks(&page, "index");
}

#[test]
fn the_students_page_looks_right_to_everybody() {
    let Some(visitor) = visitor() else { return };
    let daemon = ephemeral(&[]);
    let subject = Subject::running(Kind::Student, &daemon, 2700);
    let page = subject.open(&visitor, DESK);
    page.wait_for("document.documentElement.dataset.line === 'websocket'");
    looks(&page, "timer");
    assert_eq!(daemon.control(&subject.id, "pause").status, 200);
    page.wait_for("document.documentElement.dataset.state === 'paused'");
    page.screenshot("timer-paused");
    assert_eq!(page.violations(), [""; 0]);
}

#[test]
fn the_end_looks_right_to_everybody() {
    let Some(visitor) = visitor() else { return };
    let daemon = ephemeral(&[]);
    let id = daemon.timer_in("expired");
    let page = visitor.blank(PROJECTOR);
    for path in ["timer", "wall"] {
        page.look(PROJECTOR);
        page.go(&url(&daemon, &format!("/{path}/{id}")));
        page.wait_for("document.documentElement.dataset.state === 'expired'");
        page.screenshot(&format!("{path}-expired"));
        assert_eq!(page.violations(), [""; 0]);
        page.look(PROJECTOR.dark());
        page.screenshot(&format!("{path}-expired-dark"));
        assert_eq!(page.violations(), [""; 0]);
    }
}

#[test]
fn the_wall_looks_right_to_everybody() {
    let Some(visitor) = visitor() else { return };
    let daemon = ephemeral(&[]);
    let subject = Subject::running(Kind::Wall, &daemon, 2700);
    let page = subject.open(&visitor, PROJECTOR);
    page.wait_for("document.documentElement.dataset.line === 'websocket'");
    looks(&page, "wall");
    // Hours make the digits more.
    assert_eq!(daemon.extend(&subject.id, 3600).status, 200);
    page.look(PROJECTOR);
    page.wait_for("/^1:/.test(document.querySelector('#clock').textContent.trim())");
    assert_fits(&page, "the wall with hours");
    page.screenshot("wall-hours");
}

#[test]
fn the_console_looks_right_to_everybody() {
    let Some(visitor) = visitor() else { return };
    let daemon = ephemeral(&[]);
    for state in ["running", "paused", "created", "completed"] {
        daemon.timer_in(state);
    }
    exam::begun(&daemon, &exam::paper(600));
    let page = visitor.open_as(&url(&daemon, "/console"), DESK);
    page.wait_for("document.querySelectorAll('#timers [data-id]').length === 4");
    page.wait_for(&format!("!!{}", seen("#exams *")));
    looks(&page, "console");
    // With everything open, and with a question.
    page.evaluate("document.querySelectorAll('details').forEach(it => { it.open = true; })");
    page.evaluate("document.querySelector('#all').click()");
    page.wait_for(&format!("!!{}", seen("#bulk")));
    page.screenshot("console-open");
    assert_eq!(page.violations(), [""; 0]);
    assert_keyboard_reaches_all(&page, "the console with everything open");
    page.evaluate("document.querySelector('[data-bulk=pause]').click()");
    page.wait_for("!!document.querySelector('dialog[open]')");
    page.screenshot("console-question");
    assert_eq!(page.violations(), [""; 0]);
    assert_keyboard_reaches_all(&page, "the console's question");
}

#[test]
fn the_consoles_door_looks_right_to_everybody() {
    let Some(visitor) = visitor() else { return };
    let keys = console::Keys::new();
    let daemon = ephemeral(&["--require-auth", "--keys-file", keys.file()]);
    let page = visitor.open_as(&url(&daemon, "/console"), DESK);
    page.expect_errors(&["status of 401"]);
    page.wait_for(&format!("!!{}", seen("#key")));
    looks(&page, "console-door");
}

#[test]
fn the_room_looks_right_to_everybody() {
    let Some(visitor) = visitor() else { return };
    let daemon = ephemeral(&[]);
    let page = visitor.open_as(&url(&daemon, "/room"), DESK);
    page.wait_for(&format!("!!{}", seen("#create button")));
    page.screenshot("room-door");
    assert_eq!(page.violations(), [""; 0]);
    assert_keyboard_reaches_all(&page, "the room's door");
    let subject = Subject::running(Kind::Room, &daemon, 1500);
    page.go(&url(&daemon, &subject.path()));
    room::join(&page, "Ada");
    looks(&page, "room");
}

#[test]
fn the_exam_looks_right_to_everybody() {
    let Some(visitor) = visitor() else { return };
    let daemon = ephemeral(&[]);
    let subject = Subject::running(Kind::Exam, &daemon, 1800);
    let page = visitor.open_as(&url(&daemon, &format!("/exam/{}", exam::ASSESSMENT)), DESK);
    page.wait_for(&format!("!!{}", seen("#candidate")));
    page.screenshot("exam-door");
    assert_eq!(page.violations(), [""; 0]);
    assert_keyboard_reaches_all(&page, "the exam's door");
    page.go(&url(&daemon, &subject.path()));
    page.refresh();
    page.wait_for(&shows_time("#clock"));
    looks(&page, "exam");
    page.click("#next");
    page.wait_for(&browser::has_text("#question", "capital"));
    page.screenshot("exam-text");
    assert_eq!(page.violations(), [""; 0]);
    page.click("#submit");
    page.wait_for("!!document.querySelector('dialog[open]')");
    page.screenshot("exam-question");
    assert_eq!(page.violations(), [""; 0]);
}
