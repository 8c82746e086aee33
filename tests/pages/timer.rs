//! The student's page and the wall: every state, what is said aloud, ids that lead nowhere, links with a key; and the
//! page at `/`, from which they are found.

use std::time::Duration;

use super::*;
use crate::browser::{DESK, PROJECTOR, has_text, visitor};

const STATE: &str = "document.documentElement.dataset.state";
const ORIGIN_ONLY: [&str; 2] = ["WebSocket connection", "Failed to load resource"];

/// The state as the page tells it, in words that are compared with one another.
#[track_caller]
fn state(page: &Page, wanted: &str) -> String {
    page.wait_for(&format!("{STATE} === '{wanted}'"));
    page.text("#state")
}

/// From the beginning to the end, as the instructor does it: what is to be seen in each state.
#[track_caller]
fn follows(path: &str, sight: Sight) {
    let Some(visitor) = visitor() else { return };
    let daemon = ephemeral(&[]);
    let id = daemon.create(json!({ "name": "Biology 7b", "duration_seconds": 120 }));
    let page = visitor.open_as(&url(&daemon, &format!("{path}{id}")), sight);
    page.wait_for_text("#clock", "02:00");
    assert!(page.is(&has_text("body", "Biology 7b")), "{}", page.text("body"));
    let mut words = vec![state(&page, "created")];

    assert_eq!(daemon.control(&id, "start").status, 200);
    words.push(state(&page, "running"));
    assert_true(&page, "#clock", rfc3339_ms(daemon.timer(&id)["ends_at"].as_str().unwrap()), 2);

    assert_eq!(daemon.control(&id, "pause").status, 200);
    words.push(state(&page, "paused"));
    let left_ms = daemon.timer(&id)["remaining_ms"].as_i64().unwrap();
    let left_s = (left_ms + 999) / 1000;
    page.wait_for(&format!(
        "{} === '{:02}:{:02}'",
        "document.querySelector('#clock').textContent.trim()",
        left_s / 60,
        left_s % 60
    ));
    // It stands still.
    let shown = page.text("#clock");
    thread::sleep(Duration::from_millis(1200));
    assert_eq!(page.text("#clock"), shown);

    // More than an hour is shown with its hours.
    assert_eq!(daemon.extend(&id, 3600).status, 200);
    page.wait_for("/^1:01:\\d\\d$/.test(document.querySelector('#clock').textContent.trim())");
    assert_eq!(daemon.control(&id, "resume").status, 200);
    state(&page, "running");
    assert_true(&page, "#clock", rfc3339_ms(daemon.timer(&id)["ends_at"].as_str().unwrap()), 1);

    assert_eq!(daemon.control(&id, "stop").status, 200);
    words.push(state(&page, "completed"));

    // Another one, to its end: zero is shown at its instant.
    let short = daemon.create(json!({ "name": "Quiz", "duration_seconds": 3, "auto_start": true }));
    let ends_at_ms = rfc3339_ms(daemon.timer(&short)["ends_at"].as_str().unwrap());
    let page = visitor.open_as(&url(&daemon, &format!("{path}{short}")), sight);
    page.wait_for_text("#clock", "00:00");
    page.wait_for("/time is up/i.test(document.body.innerText)");
    // Not before its time. The time it takes to open the page counts too, on a machine that does other things.
    let late_ms = now_ms() - ends_at_ms;
    assert!((0..=4000).contains(&late_ms), "time is up {late_ms} ms late");
    words.push(state(&page, "expired"));

    // Colour is never the only sign: each state has words of its own.
    let mut different = words.clone();
    different.sort();
    different.dedup();
    assert!(different.len() == words.len() && words.iter().all(|word| !word.is_empty()), "{words:?}");
}

#[test]
fn the_students_page_follows_the_timer_through_its_states() {
    follows("/timer/", DESK);
}

#[test]
fn the_wall_follows_the_timer_through_its_states() {
    follows("/wall/", PROJECTOR);
}

/// A timer that waits for its instant says when that is, and then runs.
#[test]
fn a_scheduled_timer_says_when_it_starts_and_then_runs() {
    let Some(visitor) = visitor() else { return };
    let daemon = ephemeral(&[]);
    let scheduled = |in_ms: i64| {
        let start_at = jiff::Timestamp::from_millisecond(now_ms() + in_ms).unwrap();
        let id = daemon.create(json!({ "duration_seconds": 60, "start_at": start_at.to_string() }));
        (id, start_at.as_millisecond())
    };
    let (soon, _) = scheduled(2500);
    let (later, start_at_ms) = scheduled(7_200_000);
    let page = visitor.open(&url(&daemon, &format!("/timer/{later}")));
    page.wait_for_text("#clock", "01:00");
    let text = page.evaluate(&format!(
        "new Intl.DateTimeFormat('en-GB', {{ hour: '2-digit', minute: '2-digit' }}).format({start_at_ms})"
    ));
    assert!(page.text("body").contains(text.as_str().unwrap()), "{text} in {}", page.text("body"));

    page.go(&url(&daemon, &format!("/timer/{soon}")));
    page.wait_for(&format!("{STATE} === 'running'"));
    assert_true(&page, "#clock", rfc3339_ms(daemon.timer(&soon)["ends_at"].as_str().unwrap()), 2);
}

/// Who is made nervous by a running clock hides it, and shows it again.
#[test]
fn the_countdown_can_be_hidden_and_shown() {
    let Some(visitor) = visitor() else { return };
    let daemon = ephemeral(&[]);
    let subject = Subject::running(Kind::Student, &daemon, 600);
    let page = subject.open(&visitor, DESK);
    let button = page.evaluate(
        "[...document.querySelectorAll('button')].find(it => /hide/i.test(it.textContent + it.ariaLabel))?.id ?? ''",
    );
    let button = format!("#{}", button.as_str().unwrap());
    assert_ne!(button, "#", "no button hides the clock");
    page.click(&button);
    page.wait_for(&format!("!{}", browser::seen("#clock")));
    page.click(&button);
    page.wait_for(&format!("!!{}", browser::seen("#clock")));
    subject.assert_true(&page, 1);
}

// ---------------------------------------------------------------------------------------------------------------
// Said aloud.

/// The clock itself is silent; a polite region speaks at the thresholds, when somebody pauses or gives time, and at
/// the end.
#[test]
fn screen_readers_hear_thresholds_pause_extension_and_end() {
    let Some(visitor) = visitor() else { return };
    let daemon = ephemeral(&[]);
    let ids: Vec<(&str, String)> = [
        ("30 minutes", 1802),
        ("15 minutes", 902),
        ("10 minutes", 602),
        ("5 minutes", 302),
        ("1 minute", 62),
        ("30 seconds", 32),
    ]
    .map(|(words, seconds)| (words, daemon.create(json!({ "duration_seconds": seconds }))))
    .into();
    let open = |id: &String| {
        let page = visitor.open(&url(&daemon, &format!("/timer/{id}")));
        page.wait_for(&shows_time("#clock"));
        page
    };
    let pages: Vec<Page> = ids.iter().map(|(_, id)| open(id)).collect();
    let silent = "!document.querySelector('#clock').closest('[aria-live]:not([aria-live=off]), [role=status], [role=alert], [role=log]')";
    let polite = "document.querySelector('#speech').matches('[role=status], [aria-live=polite]')";
    for page in &pages {
        assert!(page.is(silent), "the clock would be read aloud each second");
        assert!(page.is(polite));
    }
    let all: Vec<&String> = ids.iter().map(|(_, id)| id).collect();
    assert_eq!(daemon.post("/timers/bulk/start", json!({ "timer_ids": all })).status, 200);
    for ((words, _), page) in ids.iter().zip(&pages) {
        page.wait_for_text("#speech", words);
    }

    let (page, id) = (&pages[5], &ids[5].1);
    assert_eq!(daemon.control(id, "pause").status, 200);
    page.wait_for_text("#speech", "pause");
    assert_eq!(daemon.extend(id, 300).status, 200);
    page.wait_for_text("#speech", "5 minutes");
    let short = daemon.create(json!({ "duration_seconds": 2 }));
    let page = open(&short);
    assert_eq!(daemon.control(&short, "start").status, 200);
    page.wait_for_text("#speech", "time is up");
}

/// The instructor's own warnings are shown when they come.
#[test]
fn a_warning_is_shown_when_it_comes() {
    let Some(visitor) = visitor() else { return };
    let daemon = ephemeral(&[]);
    let id = daemon.create(json!({ "duration_seconds": 42, "warning_thresholds": [40] }));
    let page = visitor.open(&url(&daemon, &format!("/timer/{id}")));
    page.wait_for(&shows_time("#clock"));
    let before = page.text("body").replace(char::is_numeric, "");
    assert_eq!(daemon.control(&id, "start").status, 200);
    page.wait_for("document.querySelector('#clock').textContent.trim() <= '00:40'");
    page.wait_for(&has_text("body", "40 seconds"));
    assert_ne!(page.text("body").replace(char::is_numeric, ""), before);
}

// ---------------------------------------------------------------------------------------------------------------
// Addresses.

/// No timer, or none any more: said kindly, and nobody comes back by himself to ask again and again.
#[test]
fn an_unknown_or_deleted_timer_is_told_kindly() {
    let Some(visitor) = visitor() else { return };
    let daemon = ephemeral(&[]);
    for path in ["/timer/", "/wall/"] {
        let page = visitor.open(&url(&daemon, &format!("{path}timer_00000000")));
        page.expect_errors(&ORIGIN_ONLY);
        page.wait_for("/no (such )?timer|not found|does not exist/i.test(document.body.innerText)");

        let id = daemon.create(json!({ "duration_seconds": 600, "auto_start": true }));
        let page = visitor.open(&url(&daemon, &format!("{path}{id}")));
        page.expect_errors(&ORIGIN_ONLY);
        page.wait_for(&shows_time("#clock"));
        page.wait_for("document.documentElement.dataset.line === 'websocket'");
        assert_eq!(daemon.delete(&format!("/timers/{id}")).status, 204);
        page.wait_for("/deleted/i.test(document.body.innerText)");
        let before = page.record().urls.len();
        thread::sleep(Duration::from_millis(1500));
        assert_eq!(page.record().urls.len(), before, "it asks again: {:?}", page.record().urls);
    }
}

/// Where keys are required a link has the viewer's key behind its `#`, and without one the page says so. The key goes
/// to the daemon alone, and not with the page.
#[test]
fn a_viewers_link_opens_the_students_page_and_the_wall() {
    let Some(visitor) = visitor() else { return };
    let keys = console::Keys::new();
    let daemon = ephemeral(&["--require-auth", "--keys-file", keys.file()]);
    let body = json!({ "duration_seconds": 600, "auto_start": true }).to_string();
    let created = daemon.request("POST", "/timers", &[("X-API-Key", &keys.instructor)], Some(&body));
    assert_eq!(created.status, 201, "{}", created.text());
    let timer = created.json();
    let id = timer["id"].as_str().unwrap();
    for path in ["/timer/", "/wall/"] {
        let page = visitor.open(&url(&daemon, &format!("{path}{id}#key={}", keys.viewer)));
        page.wait_for(&shows_time("#clock"));
        assert_true(&page, "#clock", rfc3339_ms(timer["ends_at"].as_str().unwrap()), 1);
        let record = page.record();
        let told: Vec<&String> = record.urls.iter().filter(|url| url.contains(&keys.viewer)).collect();
        assert!(told.iter().all(|url| url.contains(&format!("/ws/{id}?api_key="))), "{told:?}");

        let page = visitor.open(&url(&daemon, &format!("{path}{id}")));
        page.expect_errors(&ORIGIN_ONLY);
        page.wait_for("/key/i.test(document.body.innerText)");
        assert!(!page.is(&shows_time("#clock")), "the time without a key");
    }
}

/// Whoever comes to `/` enters an id, of whatever it is, and is there.
#[test]
fn the_first_page_leads_to_a_timer_a_room_and_an_exam() {
    let Some(visitor) = visitor() else { return };
    let daemon = ephemeral(&[]);
    let page = visitor.open(&url(&daemon, "/"));
    assert!(page.is(&has_text("h1, .brand, body", "timerd")));
    for link in ["/console", "/room", "/docs"] {
        assert!(page.count(&format!("a[href='{link}']")) > 0, "no link to {link}");
    }
    let timer = Subject::running(Kind::Student, &daemon, 600);
    let room = Subject::running(Kind::Room, &daemon, 600);
    let exam = Subject::running(Kind::Exam, &daemon, 600);
    for (subject, typed, path) in [
        (&timer, timer.id.clone(), format!("/timer/{}", timer.id)),
        (&room, room.id.to_uppercase(), format!("/room/{}", room.id)),
        (&exam, exam::ASSESSMENT.to_owned(), format!("/exam/{}", exam::ASSESSMENT)),
    ] {
        page.go(&url(&daemon, "/"));
        page.fill(&format!("form[data-to^='{}'] input", &path[..path.rfind('/').unwrap()]), &typed);
        page.press("Enter");
        page.wait_for(&format!("location.pathname.toLowerCase() === {}", json!(path)));
        if subject.kind == Kind::Student {
            page.wait_for(&shows_time("#clock"));
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------
// The wall.

/// The back row reads it: the digits fill the screen, and there are the name, the finish, and when those finish who
/// have a tenth, a quarter or half as much again.
#[test]
fn the_wall_fills_the_screen_and_tells_who_finishes_when() {
    let Some(visitor) = visitor() else { return };
    let daemon = ephemeral(&[]);
    let subject = Subject::running(Kind::Wall, &daemon, 2400);
    let page = subject.open(&visitor, PROJECTOR.in_window());
    let size = page.evaluate(
        "(() => { const range = document.createRange(); range.selectNodeContents(document.querySelector('#clock')); \
         const box = range.getBoundingClientRect(); \
         return [box.width / innerWidth, box.height / innerHeight, \
                 document.documentElement.scrollHeight - innerHeight, document.documentElement.scrollWidth - innerWidth]; })()",
    );
    let part = |at: usize| size[at].as_f64().unwrap();
    assert!(
        part(0) > 0.6 || part(1) > 0.5,
        "the digits take {:.2} of the width, {:.2} of the height",
        part(0),
        part(1)
    );
    assert!(part(2) <= 0.0 && part(3) <= 0.0, "the wall would have to be scrolled: {size}");

    assert!(page.is(&has_text("body", "Biology")));
    let timer = daemon.timer(&subject.id);
    let (start_ms, end_ms) = (rfc3339_ms(timer["started_at"].as_str().unwrap()), subject.ends_at_ms());
    let extra = |percent: i64| end_ms + 24_000 * percent;
    for (what, instant_ms) in
        [("start", start_ms), ("finish", end_ms), ("10", extra(10)), ("25", extra(25)), ("50", extra(50))]
    {
        let text = page.evaluate(&format!(
            "new Intl.DateTimeFormat('en-GB', {{ hour: '2-digit', minute: '2-digit' }}).format({instant_ms})"
        ));
        let body = page.text("body");
        assert!(body.contains(text.as_str().unwrap()), "{what}: no {text} in {body}");
        assert!(body.to_lowercase().contains(what), "no {what} in {body}");
    }
    // More time moves all of them.
    assert_eq!(daemon.extend(&subject.id, 3600).status, 200);
    let text = format!(
        "new Intl.DateTimeFormat('en-GB', {{ hour: '2-digit', minute: '2-digit' }}).format({})",
        subject.ends_at_ms() + 60_000 * 50
    );
    page.wait_for(&format!("document.body.innerText.includes({text})"));
}

/// Every text on the wall stands out from its ground by 7:1, in both colours and in each state.
#[test]
fn every_text_on_the_wall_has_a_contrast_of_seven_to_one() {
    let Some(visitor) = visitor() else { return };
    let daemon = ephemeral(&[]);
    let mut least = f64::INFINITY;
    let page = visitor.blank(PROJECTOR.in_window());
    for state in ["created", "running", "paused", "completed", "expired"] {
        let id = daemon.timer_in(state);
        page.go(&url(&daemon, &format!("/wall/{id}")));
        page.wait_for(&format!("{STATE} === '{state}'"));
        for sight in [PROJECTOR, PROJECTOR.dark()] {
            page.look(sight);
            // Colours may change little by little.
            page.evaluate("Promise.allSettled(document.getAnimations().map(it => it.effect.getTiming().iterations === Infinity || it.finished))");
            let found = page.evaluate(CONTRASTS);
            let found = found.as_array().unwrap();
            assert!(found.len() > 3, "{found:?}");
            for one in found {
                let ratio = one["ratio"].as_f64().unwrap();
                assert!(ratio >= 7.0, "{state}, dark {}: {ratio:.2}:1 for {}", sight.is_dark, one["text"]);
                least = least.min(ratio);
            }
        }
    }
    println!("the least contrast on the wall: {least:.2}:1");
}

/// JavaScript for every text that is to be seen, with its contrast (WCAG 2.2, "contrast ratio"): the colour of the
/// text over its ground, of which the nearest that is painted counts, both with every opacity above them.
const CONTRASTS: &str = r"
(() => {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const rgba = colour => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, ground) => [0, 1, 2].map(i => top[i] * top[3] + ground[i] * (1 - top[3])).concat(1);
  const ground = element => {
    if (!element) return rgba(getComputedStyle(document.documentElement).colorScheme.includes('dark') &&
      matchMedia('(prefers-color-scheme: dark)').matches ? '#121212' : '#ffffff');
    return over(rgba(getComputedStyle(element).backgroundColor), ground(element.parentElement));
  };
  const opacity = element => element ? Number(getComputedStyle(element).opacity) * opacity(element.parentElement) : 1;
  const light = colour => {
    const [r, g, b] = colour.slice(0, 3).map(c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = [];
  while (texts.nextNode()) {
    const text = texts.currentNode.data.trim(), element = texts.currentNode.parentElement;
    const box = element.getBoundingClientRect();
    if (!text || box.width < 2 || box.height < 2 || element.closest('script, style, noscript')) continue;
    if (!element.checkVisibility({ visibilityProperty: true })) continue;
    const under = ground(element), ink = rgba(getComputedStyle(element).color);
    ink[3] *= opacity(element);
    const [a, b] = [light(over(ink, under)), light(under)];
    found.push({ text, ratio: (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) });
  }
  return found;
})()";

/// Who asked his system for less motion sees none.
#[test]
fn nothing_moves_for_those_who_asked_for_less_motion() {
    let Some(visitor) = visitor() else { return };
    let daemon = ephemeral(&[]);
    let id = daemon.create(json!({ "duration_seconds": 42, "warning_thresholds": [40], "auto_start": true }));
    // Every page of these tests is asked for by somebody who wants less.
    let page = visitor.blank(PROJECTOR.in_window());
    for path in ["/timer/", "/wall/"] {
        page.go(&url(&daemon, &format!("{path}{id}")));
        page.wait_for(&shows_time("#clock"));
        page.wait_for("document.querySelector('#clock').textContent.trim() <= '00:39'");
        let moving = "document.getAnimations().filter(it => it.effect.getComputedTiming().duration > 1).length";
        assert_eq!(page.evaluate(moving), 0);
    }
}
