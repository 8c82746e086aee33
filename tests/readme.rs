//! The README keeps its word: its quick start is typed as it stands, and its client programs are run as printed.
//!
//! Needs curl, and for the programs node and Python with `websockets`; what is not there is skipped, loudly.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod daemon;

use std::process::{Command, Stdio};
use std::time::Duration;

use daemon::Daemon;
use serde_json::json;

const README: &str = include_str!("../README.md");

/// The fenced blocks of a language within a chapter.
fn blocks(chapter: &str, language: &str) -> Vec<String> {
    let from = README.find(&format!("## {chapter}\n")).unwrap_or_else(|| panic!("no chapter {chapter}"));
    let text = &README[from + 3..];
    let text = &text[..text.find("\n## ").unwrap_or(text.len())];
    let fence = format!("```{language}\n");
    text.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

fn here(text: &str, daemon: &Daemon) -> String {
    text.replace("127.0.0.1:8003", &daemon.address.to_string()).replace(
        "target/release/timerd watch",
        &format!("{} watch --url http://{}", env!("CARGO_BIN_EXE_timerd"), daemon.address),
    )
}

fn there(program: &str, arguments: &[&str]) -> bool {
    let runs = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    let there = runs.is_ok_and(|status| status.success());
    if !there {
        println!("SKIPPED: {program} {} does not run here", arguments.join(" "));
    }
    there
}

#[test]
fn the_quick_start_works_as_it_is_typed() {
    if !there("curl", &["--version"]) {
        return;
    }
    let daemon = Daemon::ephemeral(&[]);
    let typed: Vec<String> = blocks("Quick start", "sh").iter().map(|block| here(block, &daemon)).collect();
    assert_eq!(typed.len(), 5, "the quick start has changed its shape");
    // The first watch is typed into a terminal of its own; the last one ends when the timer is deleted.
    let script = format!(
        "set -e\n{}\n{} & WATCH=$!\nsleep 0.5\n{}\nkill $WATCH\n{} & WATCH=$!\nsleep 6\nkill $WATCH\n{}\n",
        typed[0],
        typed[1].trim_end(),
        typed[2],
        typed[3].trim_end(),
        typed[4]
    );
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let wrong = String::from_utf8(output.stderr).unwrap();
    for word in [
        "timer_",
        "\"state\":\"running\"",
        "\"state\":\"paused\"",
        "\"duration_seconds\":420",
        "time is up",
        "\"action\":\"expired\"",
    ] {
        assert!(said.contains(word), "no {word} in {said}\n{wrong}");
    }
}

#[test]
fn the_client_programs_run_as_printed() {
    let daemon = Daemon::ephemeral(&[]);
    let python = here(&blocks("The API at a glance", "python")[0], &daemon);
    let javascript = here(&blocks("The API at a glance", "js")[0], &daemon);
    let watched = || daemon.create(json!({ "duration_seconds": 2, "auto_start": true }));
    let run = |program: &str, arguments: &[&str], id: &str| {
        let child =
            Command::new(program).args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(3500));
        assert_eq!(daemon.delete(&format!("/timers/{id}")).status, 204);
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let wrong = String::from_utf8(output.stderr).unwrap();
        for word in ["connected", "timer_tick", "timer_expired", "timer_deleted"] {
            assert!(said.contains(word), "no {word} in {said}\n{wrong}");
        }
    };
    if there("python3", &["-c", "import websockets.sync.client"]) {
        let id = watched();
        let program = format!("{python}\nfor message in watch('{id}'): print(message['type'], flush=True)\n");
        run("python3", &["-c", &program], &id);
    }
    if there("node", &["--experimental-websocket", "-e", "new WebSocket('ws://127.0.0.1:1').onerror = () => {}"]) {
        let id = watched();
        let program = format!("{javascript}\nwatch('{id}', (type, left) => console.log(type, left));\n");
        run("node", &["--experimental-websocket", "-e", &program], &id);
    }
}
