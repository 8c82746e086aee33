//! What a first visit costs: bytes over the line, and the time until the clock shows something.

use std::collections::BTreeMap;

use super::*;
use crate::browser::{DESK, visitor};

/// All files of the pages together, as they are sent.
const BYTES_MAX: usize = 60 * 1024;
/// On loopback, with other tests beside it. Alone it is a fraction of that.
const FIRST_DIGITS_MS_MAX: f64 = 10_000.0;

/// Notes when digits stood on the page for the first time, by the page's own stopwatch.
const FIRST_DIGITS: &str = r"
(() => {
  const look = () => {
    const text = [...document.querySelectorAll('#clock, .left')].find(it => /^(\d+:)?\d\d:\d\d$/.test(it.textContent.trim()));
    if (!text) return;
    globalThis.__first = performance.now();
    watch.disconnect();
  };
  const watch = new MutationObserver(look);
  watch.observe(document, { childList: true, characterData: true, subtree: true });
})();
";

#[test]
fn a_first_visit_is_light_and_soon_there() {
    let Some(visitor) = visitor() else { return };
    let daemon = ephemeral(&[]);
    let mut files = BTreeMap::new();
    println!("{:9} {:>5} {:>8} {:>14} {:>13}", "page", "files", "bytes", "first digits", "first tick");
    let subjects = KINDS.map(|kind| (format!("{kind:?}"), Some(Subject::running(kind, &daemon, 600))));
    for (name, subject) in subjects.into_iter().chain([("Index".to_owned(), None)]) {
        let page = visitor.blank(DESK);
        page.call("Network.clearBrowserCache", json!({}));
        page.call("Page.addScriptToEvaluateOnNewDocument", json!({ "source": FIRST_DIGITS }));
        page.go(&url(&daemon, &subject.as_ref().map_or("/".to_owned(), Subject::path)));
        let mut shown = "        ".to_owned();
        if let Some(subject) = &subject {
            if subject.kind == Kind::Room {
                room::join(&page, "Ada");
            }
            page.wait_for("globalThis.__first !== undefined");
            let first_ms = page.evaluate("__first").as_f64().unwrap();
            page.wait_for(&shows_time(&subject.clock()));
            let digits = page.text(&subject.clock());
            page.wait_for(&format!("{}.textContent.trim() !== '{digits}'", one(&subject.clock())));
            let tick_ms = page.evaluate("performance.now()").as_f64().unwrap();
            shown = format!("{first_ms:>11.0} ms {tick_ms:>10.0} ms");
            assert!(first_ms < FIRST_DIGITS_MS_MAX, "{name}: {first_ms} ms");
        }
        let record = page.record();
        let ours: Vec<&String> = record.urls.iter().filter(|url| is_file(url)).collect();
        println!("{name:9} {:>5} {:>8} {shown}", ours.len(), record.bytes);
        for url in ours {
            let path = url.splitn(4, '/').nth(3).unwrap_or_default().split(['#', '?']).next().unwrap_or_default();
            let path = format!("/{path}");
            let answer = daemon.request("GET", &path, &[("Accept-Encoding", "gzip")], None);
            assert_eq!(answer.status, 200, "{path}");
            // One file for all ids.
            let noun =
                if path.starts_with("/pages/") { path } else { path.split('/').nth(1).unwrap_or("").to_owned() };
            files.insert(noun, answer.body.len());
        }
    }
    let sum: usize = files.values().sum();
    println!("all files: {sum} bytes: {files:?}");
    assert!(sum < BYTES_MAX, "{sum} bytes");

    // Whoever comes again is told that nothing has changed.
    let page = visitor.blank(DESK);
    page.call("Network.clearBrowserCache", json!({}));
    page.go(&url(&daemon, "/"));
    let first = page.record().bytes;
    page.refresh();
    let second = page.record().bytes - first;
    assert!(second * 2 < first, "{first} bytes, and {second} more for the same");
}

/// Whether a URL is one of the files, and not a question to the API.
fn is_file(url: &str) -> bool {
    let path = url.splitn(4, '/').nth(3).unwrap_or_default();
    url.starts_with("http:")
        && (path.starts_with("pages/")
            || path.is_empty()
            || ["timer/", "wall/", "console", "room", "exam/"]
                .iter()
                .any(|page| path.starts_with(page) && !path.starts_with("rooms/")))
}
