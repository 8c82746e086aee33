//! The README keeps its word: its quick start is typed as it stands, and its client programs are run as printed.
//!
//! Needs curl, and for the programs node and Python with `websockets`; what is not there is skipped, loudly.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::daemon::{Daemon, directory, eventually};
use serde_json::json;

const README: &str = include_str!("../../README.md");

/// The fenced blocks of a language within a chapter.
fn blocks(chapter: &str, language: &str) -> Vec<String> {
    let from = README.find(&format!("## {chapter}\n")).unwrap_or_else(|| panic!("no chapter {chapter}"));
    let text = &README[from + 3..];
    let text = &text[..text.find("\n## ").unwrap_or(text.len())];
    let fence = format!("```{language}\n");
    text.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

fn here(text: &str, daemon: &Daemon) -> String {
    let text = text.replace("127.0.0.1:8003", &daemon.address.to_string());
    let clients = ["watch", "events", "publish", "exam load", "exam watch", "exam results"];
    clients.iter().fold(text, |text, client| {
        let ours = format!("{} {client} --url http://{}", env!("CARGO_BIN_EXE_timerd"), daemon.address);
        text.replace(&format!("target/release/timerd {client}"), &ours)
    })
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
fn the_exam_is_sat_as_it_is_typed() {
    if !there("curl", &["--version"]) {
        return;
    }
    let daemon = Daemon::ephemeral(&[]);
    let typed: Vec<String> = blocks("An exam", "sh").iter().map(|block| here(block, &daemon)).collect();
    let [load, start, watch, page, office, hand_in] = &typed[..] else { panic!("the exam has changed its shape") };
    // The watch is typed into a terminal of its own, and has a second to see what happens.
    let script = format!(
        "set -e\n{load}\n{start}\n{} > watched & WATCH=$!\nsleep 1.5\n{page}\n{office}\nsleep 1.5\n{hand_in}\n\
         sleep 1.5\nkill $WATCH\n",
        watch.trim_end()
    );
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new("sh").args(["-c", &script]).current_dir(&folder).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let wrong = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && !said.contains("\"detail\""), "{said}\n{wrong}");
    for word in [
        "physics-10.json: physics-10 loaded (new): 3 sections, 8 items, 45 min",
        "\"EXTRA_TIME\":1.25",
        "\"item_id\":\"unit-of-force\"",
        "\"saved\":true",
        "\"current_item_index\":6",
        "\"current_item_index\":5",
        "\"status\":\"paused\"",
        "\"status\":\"resumed\"",
        "\"status\":\"extended by 120s\"",
        "\"flagged_items\":[\"free-fall\"]",
        "\"time_limit_seconds\":3120",
        "\"state\":\"completed\"",
        "\"responses_count\":3",
        ",\"{\"\"number\"\":40}\",",
    ] {
        assert!(said.contains(word), "no {word} in {said}\n{wrong}");
    }
    let watched = std::fs::read_to_string(folder.path().join("watched")).unwrap();
    for word in
        ["ada: in progress, 0/7 answered, ", "ada: in progress, 2/7 answered, ", "ada: completed, 3/7 answered"]
    {
        assert!(watched.contains(word), "no {word} in {watched}");
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

#[test]
fn events_are_published_and_read_as_it_is_typed() {
    if !there("curl", &["--version"]) {
        return;
    }
    let daemon = Daemon::ephemeral(&[]);
    let typed = here(&blocks("Events", "sh")[0], &daemon);
    // Typed twice, the publication is stored once.
    let output = Command::new("sh").args(["-c", &format!("set -e\n{typed}\n{typed}")]).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let wrong = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}\n{wrong}");
    assert_eq!(said.matches("\"seq\":1}").count(), 6, "{said}\n{wrong}");
    assert!(!said.contains("\"seq\":2") && said.contains("\"total_events\":1,"), "{said}");

    // The clients go on until they are stopped, but for the one that has a file to publish.
    let (_temporary, folder) = directory();
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("events.ndjson"), "{\"event_type\":\"quiz_completed\",\"source\":\"quiz\"}\n")
        .unwrap();
    let clients = here(&blocks("Events", "sh")[1], &daemon);
    let clients: Vec<&str> = clients.lines().map(|line| line.split('#').next().unwrap().trim()).collect();
    let [all, json, publish] = clients[..] else { panic!("{clients:?}") };
    let start = |line: &str, output: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("exec {line} > {output}")]).current_dir(&folder).stderr(Stdio::null());
        Running(command.spawn().unwrap())
    };
    let said = |output: &str| std::fs::read_to_string(folder.join(output)).unwrap_or_default();
    let _listening = [start(all, "all"), start(json, "json")];
    eventually(|| listening(&daemon) == 2);
    let mut publishing = start(publish, "publish");
    eventually(|| publishing.0.try_wait().unwrap().is_some_and(|status| status.success()));
    eventually(|| said("all").lines().count() == 2 && said("json").ends_with('\n'));
    let (all, json) = (said("all"), said("json"));
    assert!(all.contains(" 1 quiz_started quiz exam-1 ada ") && all.contains(" 2 quiz_completed quiz "), "{all}");
    assert!(json.lines().count() == 1 && json.contains("\"seq\":2}"), "{json}");
}

/// How many subscribers there are.
fn listening(daemon: &Daemon) -> u64 {
    daemon.get("/stats").json()["router"]["active_subscribers"].as_u64().unwrap()
}

/// A program that is not left running when the test fails.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    /// What it said on its two streams, once it has ended by itself.
    fn said(&mut self) -> [String; 2] {
        // It waits at random up to 5 s, and once more if it comes too early.
        let end = Instant::now() + Duration::from_secs(20);
        while self.0.try_wait().unwrap().is_none() {
            if Instant::now() > end {
                self.0.kill().unwrap();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let mut said = [String::new(), String::new()];
        self.0.stdout.take().unwrap().read_to_string(&mut said[0]).unwrap();
        self.0.stderr.take().unwrap().read_to_string(&mut said[1]).unwrap();
        said
    }
}

#[test]
fn the_subscribers_run_as_printed_through_a_deletion_and_a_crash() {
    let (_temporary, folder) = directory();
    let mut daemon = Daemon::on(&folder, &[]);
    let publish = |daemon: &Daemon, kind: &str| {
        let event = json!({ "event_type": kind, "source": "t", "session_id": "exam-1" });
        assert_eq!(daemon.post("/events", event).status, 201);
    };
    publish(&daemon, "session_created");
    assert_eq!(daemon.delete("/events").json()["deleted"], 1);
    publish(&daemon, "quiz_started");

    let python = here(&blocks("Events", "python")[0], &daemon);
    let javascript = here(&blocks("Events", "js")[0], &daemon);
    let filter = "{'session_id': 'exam-1'}";
    let mut programs = Vec::new();
    let mut run = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        programs.push(Running(command.spawn().unwrap()));
    };
    if there("python3", &["-c", "import websockets.sync.client"]) {
        let ends = "if event['event_type'] == 'session_ended': break";
        let program =
            format!("{python}\nfor event in events({filter}, 0):\n  print(event['seq'], flush=True)\n  {ends}\n");
        run("python3", &["-c", &program]);
    }
    if there("node", &["--experimental-websocket", "-e", "new WebSocket('ws://127.0.0.1:1').onerror = () => {}"]) {
        let take = "(event) => { console.log(event.seq); if (event.event_type === 'session_ended') process.exit(); }";
        let program = format!("{javascript}\nsubscribe({filter}, 0, {take});\n");
        run("node", &["--experimental-websocket", "-e", &program]);
    }
    eventually(|| listening(&daemon) == programs.len() as u64);
    publish(&daemon, "quiz_completed");

    let address = daemon.address.to_string();
    daemon.kill();
    daemon = Daemon::on(&folder, &["--listen", &address]);
    publish(&daemon, "session_ended");
    for mut program in programs {
        let [said, wrong] = program.said();
        assert_eq!(said.split_whitespace().collect::<Vec<_>>(), ["2", "3", "4"], "{wrong}");
        assert!(wrong.contains("Events up to 1 were deleted"), "{wrong}");
    }
}

/// The people of a room, each with whether he is there.
fn people(daemon: &Daemon, room: &str) -> Vec<(String, bool)> {
    let room = daemon.get(&format!("/rooms/{room}")).json();
    let all = room["users"].as_array().unwrap().iter();
    all.map(|user| (user["name"].as_str().unwrap().to_owned(), user["connected"].as_bool().unwrap())).collect()
}

#[test]
fn a_room_is_shared_as_printed_and_found_again_after_a_crash() {
    let (_temporary, folder) = directory();
    let mut daemon = Daemon::on(&folder, &[]);
    let python = here(&blocks("Shared rooms", "python")[0], &daemon).replace("duration=1500", "duration=2");
    let javascript = here(&blocks("Shared rooms", "js")[0], &daemon);
    let start = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        Running(command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    };
    if there("python3", &["-c", "import websockets.sync.client"]) {
        let [said, wrong] = start("python3", &["-c", &python]).said();
        let link = format!("Join me: http://{}/room/", daemon.address);
        for word in [&*link, "\"isRunning\":true", "\"by\":\"Ada\"", "timer:tick", "timer:completed"] {
            assert!(said.contains(word), "no {word} in {said}\n{wrong}");
        }
    }
    if !there("node", &["--experimental-websocket", "-e", "new WebSocket('ws://127.0.0.1:1').onerror = () => {}"]) {
        return;
    }
    let mut ada = daemon.open("/ws/rooms", &[]);
    ada.send(json!({ "type": "session:create", "name": "Ada" }));
    let room = ada.expect("session:joined")["sessionId"].as_str().unwrap().to_owned();
    // He presses when he is in, with a state that he has not seen at first; and when he is in again.
    let program = format!(
        "{javascript}\nconst me = {{ sessionId: '{room}', name: 'Ben' }};\nlet times = 0;\nenter(me, (message) => {{\n\
         console.log(message.type, message.code, me.state.isRunning);\n\
         if (message.type !== 'session:joined') return;\n\
         if (times++ === 0) {{ me.press('timer:pause', {{ revision: 0 }}); me.press('timer:start'); }}\n\
         else {{ me.press('timer:pause'); setTimeout(() => process.exit(), 500); }}\n}});\n"
    );
    let mut ben = start("node", &["--experimental-websocket", "-e", &program]);
    assert_eq!(ada.skip_to("timer:state")["by"], "Ben");
    let address = daemon.address.to_string();
    daemon.kill();
    daemon = Daemon::on(&folder, &["--listen", &address]);
    let [said, wrong] = ben.said();
    let refusal = said.lines().find(|line| line.starts_with("error")).unwrap_or_else(|| panic!("{said}\n{wrong}"));
    assert!(refusal.starts_with("error stale "), "{said}\n{wrong}");
    assert_eq!(said.matches("session:joined").count(), 2, "{said}\n{wrong}");
    assert_eq!(daemon.get(&format!("/rooms/{room}")).json()["isPaused"], true, "{said}\n{wrong}");
    eventually(|| people(&daemon, &room).iter().all(|(_, is_there)| !is_there));
    let names = people(&daemon, &room).into_iter().map(|(name, _)| name);
    assert_eq!(names.collect::<Vec<_>>(), ["Ada", "Ben"], "who comes back with his userId is nobody new");
}
