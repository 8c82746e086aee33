//! The import law of the architecture: which room of `src/` may name which other room, which crates and which parts
//! of the standard library each may use. It reads the sources as text, tests within them left out, and names the file
//! and line of whatever breaks the law.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::path::Path;

/// A room (a folder of `src/`, or a file beside them), the rooms it may name, and the crates it may use beside the
/// standard library. The law in short: `limits, clock, keys, metrics <- domain <- api <- hub <- server <- main` and
/// `domain <- store <- server`; `wire` stands beside domain; nobody names `server` but `main`.
const ROOMS: &[(&str, &[&str], &[&str])] = &[
    ("limits", &[], &[]),
    ("clock", &[], &["rustix"]),
    ("metrics", &[], &["prometheus_client"]),
    ("keys", &["clock"], &["sha2", "subtle"]),
    ("domain", &["limits", "clock"], &[]),
    ("wire", &["limits"], &["httparse", "tungstenite"]),
    (
        "api",
        &["limits", "clock", "keys", "metrics", "domain", "wire"],
        &["flate2", "jiff", "log", "matchit", "serde", "serde_json", "sha2"],
    ),
    (
        "hub",
        &["limits", "clock", "keys", "metrics", "domain", "wire", "api"],
        &["log", "matchit", "slab", "smallvec"],
    ),
    ("store", &["limits", "clock", "domain"], &["log", "rusqlite", "rustix"]),
    (
        "server",
        &["limits", "clock", "domain", "hub", "store"],
        &["log", "mio", "rustix", "sd_notify", "signal_hook", "signal_hook_mio"],
    ),
    ("logging", &["clock"], &["clap", "jiff", "log", "rustix", "systemd_journal_logger"]),
    (
        "client",
        &[],
        &["clap", "getrandom", "jiff", "rustix", "serde", "serde_json", "sha2", "signal_hook", "tungstenite"],
    ),
    ("config", &["limits", "api", "domain", "keys", "logging", "client"], &["clap", "log"]),
    (
        "main",
        &[
            "limits", "clock", "keys", "metrics", "config", "logging", "client", "domain", "api", "hub", "store",
            "server",
        ],
        &["getrandom", "log"],
    ),
    ("lib", &[], &[]),
];

/// What only some files may say: the word, the files or rooms that may, and why nobody else.
const WORDS: &[(&str, &[&str], &str)] = &[
    ("SystemTime::now", &["clock.rs", "client/"], "the clock is read in one place and passed down as a value"),
    ("Instant::now", &["clock.rs", "client/", "server/disk.rs"], "the clock is read in one place and passed down"),
    ("Timestamp::now", &["clock.rs", "client/"], "the clock is read in one place and passed down as a value"),
    ("Zoned::now", &["clock.rs", "client/"], "the clock is read in one place and passed down as a value"),
    ("clock_gettime", &["clock.rs"], "the clock is read in one place and passed down as a value"),
    ("clock::sample", &["server/", "main.rs", "logging.rs"], "time comes in from above, as a value"),
    ("std::env", &["config.rs", "main.rs"], "the environment is read once, at start"),
    ("env::var", &["config.rs"], "the environment is read once, at start"),
    ("env::args", &["main.rs"], "the environment is read once, at start"),
    ("thread::spawn", &[], "there are two threads, and neither is started like this"),
    ("thread::Builder", &["store/", "client/"], "there are two threads: the loop, and the disk's"),
    ("thread::sleep", &["client/"], "the loop never waits"),
    ("Mutex", &[], "no lock: one thread owns all state"),
    ("RwLock", &[], "no lock: one thread owns all state"),
    ("async fn", &[], "no async: the loop is the runtime"),
    (".await", &[], "no async: the loop is the runtime"),
    ("TcpStream", &["server/", "client/"], "the core knows no socket"),
    ("TcpListener", &["server/", "client/"], "the core knows no socket"),
    (
        "std::fs",
        &["clock.rs", "config.rs", "keys.rs", "logging.rs", "server/", "store/", "client/"],
        "the core knows no file",
    ),
];

/// Every breach of the law in the file at `path` (within `src/`), as `src/PATH:LINE: what`.
fn breaches(path: &str, text: &str) -> Vec<String> {
    let room = path.split('/').next().unwrap().trim_end_matches(".rs");
    let code = code_of(text);
    let line_of = |at: usize| code[..at].matches('\n').count() + 1;
    let mut found = Vec::new();
    let mut breach = |at: usize, what: String| found.push(format!("src/{path}:{}: {what}", line_of(at)));
    let Some((_, rooms, crates)) = ROOMS.iter().find(|(name, ..)| *name == room) else {
        breach(0, format!("the room {room} is not in the table: say what it may import"));
        return found;
    };

    let mut roots = vec!["crate::"];
    match room {
        "main" => roots.push("timerd::"),
        // `super` in a file beside the rooms is the crate itself.
        _ if !path.contains('/') => roots.push("super::"),
        _ => {}
    }
    for root in roots {
        for at in words(&code, root) {
            let in_path = code[..at].trim_end().ends_with("in");
            for named in heads(&code[at + root.len()..]) {
                let is_room = ROOMS.iter().any(|(name, ..)| *name == named);
                if is_room && named != room && !in_path && !rooms.contains(&named) {
                    breach(at, format!("{room} names {named}; it may name {rooms:?} alone"));
                }
            }
        }
    }
    if path.contains('/') {
        let depth = path.matches('/').count();
        for at in words(&code, &"super::".repeat(depth + usize::from(!path.ends_with("/mod.rs")))) {
            breach(at, "a path of super leads out of the room: name the room by crate::".to_owned());
        }
    }
    for name in dependencies() {
        for at in words(&code, &format!("{name}::")) {
            // `crate::log::x` and `std::log` are none of the crate's.
            if !code[..at].ends_with("::") && !crates.contains(&&*name) {
                breach(at, format!("{room} uses the crate {name}; it may use {crates:?} alone"));
            }
        }
    }
    for (word, places, why) in WORDS {
        let may =
            places.iter().any(|place| if place.ends_with('/') { path.starts_with(place) } else { path == *place });
        if !may {
            for at in words(&code, word) {
                breach(at, format!("{word} is for {places:?} alone: {why}"));
            }
        }
    }
    found
}

/// The code of a file with comments, texts and its tests blanked, every line in its place.
fn code_of(text: &str) -> String {
    let text = &text[..tests_at(text).unwrap_or(text.len())];
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(hashes) = raw_string(rest, code.chars().last()) {
            let open = 2 + hashes;
            let close = format!("\"{}", "#".repeat(hashes));
            rest[open..].find(&close).map_or(rest.len(), |end| open + end + close.len())
        } else if c == '"' {
            string_length(rest)
        } else if c == '\'' {
            // A character, unless it is a lifetime.
            let mut chars = rest.char_indices().skip(1);
            match (chars.next(), chars.next()) {
                (Some((_, '\\')), _) => rest[3..].find('\'').map_or(1, |end| end + 4),
                (Some(_), Some((at, '\''))) => at + 1,
                _ => 1,
            }
        } else {
            0
        };
        if length == 0 {
            code.push(c);
            rest = &rest[c.len_utf8()..];
        } else {
            // Bytes, not characters: places in the code are places in the text.
            code.extend(rest[..length].bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }));
            rest = &rest[length..];
        }
    }
    code
}

/// Where the tests of a file begin: a module at its end, which may carry further attributes.
fn tests_at(text: &str) -> Option<usize> {
    let mark = "\n#[cfg(test)]\n";
    text.match_indices(mark).map(|(at, _)| at + 1).find(|at| {
        let mut lines = text[*at..].lines().skip_while(|line| line.starts_with("#["));
        lines.next().is_some_and(|line| line.contains("mod "))
    })
}

/// How many hashes a raw string begins with, if one begins here.
fn raw_string(text: &str, before: Option<char>) -> Option<usize> {
    if before.is_some_and(|c| (c.is_alphanumeric() && c != 'b') || c == '_') {
        return None;
    }
    let after = text.strip_prefix('r')?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    after[hashes..].starts_with('"').then_some(hashes)
}

fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Where `word` stands by itself, not as the end of a longer name.
fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).map(|(at, _)| at).filter(move |at| {
        let begins = !word.starts_with(is_name) || !code[..*at].ends_with(is_name);
        begins && (!word.ends_with(is_name) || !code[at + word.len()..].starts_with(is_name))
    })
}

/// The first segments of what follows `crate::`: one name, or each of a group in braces.
fn heads(rest: &str) -> Vec<&str> {
    let name = |text: &'_ str| text.len() - text.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_').len();
    let Some(group) = rest.strip_prefix('{') else { return vec![&rest[..name(rest)]] };
    let mut depth = 0_usize;
    let mut begin = 0;
    let mut heads = Vec::new();
    for (at, c) in group.char_indices() {
        if depth == 0 && (c == ',' || c == '}') {
            let item = group[begin..at].trim_start();
            heads.push(&item[..name(item)]);
            begin = at + 1;
        }
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            _ => {}
        }
    }
    heads
}

/// The crates of Cargo.toml, as code names them.
fn dependencies() -> BTreeSet<String> {
    let text = include_str!("../Cargo.toml");
    let section = text.split("\n[dependencies]\n").nth(1).expect("dependencies").split("\n[").next().unwrap();
    let lines = section.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| Some(line.split_once('=')?.0.trim().replace('-', "_"))).collect()
}

fn sources(folder: &Path, files: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

#[test]
fn imports_run_one_way() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    files.sort();
    assert!(files.len() > 30, "{files:?}");
    let mut found = Vec::new();
    for file in &files {
        let path = file.strip_prefix(&root).unwrap().to_str().unwrap();
        found.extend(breaches(path, &std::fs::read_to_string(file).unwrap()));
    }
    assert!(found.is_empty(), "the import law is broken:\n{}", found.join("\n"));
}

/// The formatter sees to code alone. Rows of a table in Markdown cannot be broken.
#[test]
fn comments_are_no_wider_than_code() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    ["src", "tests", "benches"].iter().for_each(|folder| sources(&root.join(folder), &mut files));
    for file in files {
        for (at, line) in std::fs::read_to_string(&file).unwrap().lines().enumerate() {
            let is_text = line.trim_start().starts_with("//") && !line.starts_with("//! |");
            assert!(!is_text || line.chars().count() <= 120, "{}:{}: {line}", file.display(), at + 1);
        }
    }
}

/// The table itself: no two rooms name each other, not even by a detour.
#[test]
fn the_law_has_no_circle() {
    let mut settled: BTreeSet<&str> = BTreeSet::new();
    while settled.len() < ROOMS.len() {
        let next = ROOMS
            .iter()
            .find(|(name, rooms, _)| !settled.contains(name) && rooms.iter().all(|room| settled.contains(room)));
        let Some((name, ..)) = next else { panic!("a circle among those that are not in {settled:?}") };
        settled.insert(name);
    }
    for (name, rooms, _) in ROOMS {
        assert!(*name == "main" || !rooms.contains(&"server"), "{name} names server");
    }
}

#[test]
fn a_breach_is_named_by_file_and_line() {
    for (path, text, expected) in [
        ("domain/timers.rs", "\nuse crate::api::Api;\n", "src/domain/timers.rs:2: domain names api"),
        ("domain/timers.rs", "fn f() {\n    crate::hub::x();\n}\n", "src/domain/timers.rs:2: domain names hub"),
        ("wire/http.rs", "use crate::{limits, clock::{self, Now}};\n", "src/wire/http.rs:1: wire names clock"),
        ("api/mod.rs", "use crate::server::listen;\n", "src/api/mod.rs:1: api names server"),
        ("store/mod.rs", "use crate::{domain::{Engine, x}, hub};\n", "src/store/mod.rs:1: store names hub"),
        ("keys.rs", "use super::server;\n", "src/keys.rs:1: keys names server"),
        ("domain/mod.rs", "use super::hub;\n", "src/domain/mod.rs:1: a path of super"),
        ("domain/timers.rs", "use super::super::hub;\n", "src/domain/timers.rs:1: a path of super"),
        ("hub/conn.rs", "/* a\n*/ use serde_json::Value;\n", "src/hub/conn.rs:2: hub uses the crate serde_json"),
        ("api/form.rs", "use rusqlite::Row;\n", "src/api/form.rs:1: api uses the crate rusqlite"),
        ("hub/mod.rs", "let poll = mio::Poll::new();\n", "src/hub/mod.rs:1: hub uses the crate mio"),
        ("domain/mod.rs", "log::info!(\"x\");\n", "src/domain/mod.rs:1: domain uses the crate log"),
        ("hub/mod.rs", "\n\nlet at = std::time::Instant::now();\n", "src/hub/mod.rs:3: Instant::now"),
        ("store/thread.rs", "let at = SystemTime::now();\n", "src/store/thread.rs:1: SystemTime::now"),
        ("api/mod.rs", "let now = clock::sample();\n", "src/api/mod.rs:1: clock::sample"),
        ("keys.rs", "let key = std::env::var(\"K\");\n", "src/keys.rs:1: std::env"),
        ("server/mod.rs", "std::thread::spawn(|| ());\n", "src/server/mod.rs:1: thread::spawn"),
        ("common.rs", "\n", "src/common.rs:1: the room common is not in the table"),
    ] {
        let found = breaches(path, text);
        assert!(found.iter().any(|line| line.starts_with(expected)), "{text:?}: {found:?}");
    }
    for (path, text) in [
        ("domain/timers.rs", "// use crate::api;\n/// [`crate::hub`]\nuse crate::clock::Now;\n"),
        (
            "domain/timers.rs",
            "let text = \"crate::api \\\" serde::x\";\nlet raw = r#\"mio::\"#;\nlet quote = '\"';\n",
        ),
        (
            "domain/timers.rs",
            "pub(in crate::domain) fn f<'a>(x: &'a str) {}\nuse super::effects;\nuse crate::domain::x;\n",
        ),
        ("domain/timers.rs", "\n#[cfg(test)]\nmod tests {\n    use tempfile::x;\n    use crate::server;\n}\n"),
        ("store/mod.rs", "use crate::domain::disk::{Job, server};\nuse rusqlite::Row;\n"),
        ("domain/timers.rs", "let catalog::x = my_log::y; let dialog = blog::z;\n"),
    ] {
        assert_eq!(breaches(path, text), Vec::<String>::new(), "{text:?}");
    }
}
