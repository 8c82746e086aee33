//! Who comes, goes and comes back: creating, joining, leaving, names and ids, lines that are lost, and what the
//! others hear of it.

use std::time::{Duration, Instant};

use rustix::net::sockopt;
use serde_json::{Value, json};

use super::{
    DIGITS, Member, NOWHERE, Rooms, STATE, assert_now, checked, command, ephemeral, in_short, invalid, keys, refused,
    sleep_ms, wall_ms, with,
};
use crate::daemon::eventually;

fn is_id(text: &str, digits: usize) -> bool {
    text.len() == digits && text.chars().all(|digit| DIGITS.contains(digit))
}

/// The line breaks without a word.
fn cut(member: Member) {
    sockopt::set_socket_linger(member.socket.inner.get_ref(), Some(Duration::ZERO)).unwrap();
}

/// Reads on to news of this type, over presence that may come first; returns it.
#[track_caller]
fn told(member: &mut Member, kind: &str) -> Value {
    loop {
        let message = member.news();
        if message["type"] == kind {
            return message;
        }
        assert_eq!(message["type"], "session:presence", "before {kind}: {message}");
    }
}

/// Reads presence until it says this.
#[track_caller]
fn sees(member: &mut Member, people: &[&str]) {
    let begun = Instant::now();
    loop {
        let message = member.news();
        assert_eq!(keys(&message), ["type", "users"], "{message}");
        assert_eq!(message["type"], "session:presence", "{message}");
        if in_short(&message["users"]) == people {
            return;
        }
        assert!(begun.elapsed() < crate::daemon::PATIENCE, "{people:?} are never seen");
    }
}

// ---------------------------------------------------------------------------------------------------------------
// To create and to join.

#[test]
fn whoever_creates_a_room_is_in_it_word_for_word() {
    let daemon = ephemeral(&[]);
    let mut socket = daemon.enter();
    socket.send(command("session:create"));
    let text = socket.recv_text();
    let joined: Value = serde_json::from_str(&text).unwrap();
    let (room, user) = (joined["sessionId"].as_str().unwrap(), joined["userId"].as_str().unwrap());
    assert!(is_id(room, 10), "{room}");
    assert!(is_id(user, 26), "{user}");
    let now = &joined["serverTime"];
    assert_now(now);
    let state = r#"{"sessionId":"ROOM","duration":1500,"remainingTime":1500,"isRunning":false,"isPaused":false,"#
        .to_owned()
        + r#""startedAt":null,"pausedAt":null,"revision":1,"remainingMs":1500000,"completed":false"#;
    let state = state.replace("ROOM", room);
    let users = r#""users":[{"name":"User 1","connected":true}]"#;
    let expected = format!(
        r#"{{"type":"session:joined","sessionId":"{room}","userId":"{user}","name":"User 1",{users},"state":{state}}},"serverTime":{now}}}"#
    );
    assert_eq!(text, expected);
    let response = daemon.get(&format!("/rooms/{room}"));
    let shown = response.json();
    assert_now(&shown["serverTime"]);
    assert_eq!(response.text(), format!(r#"{state},{users},"serverTime":{}}}"#, shown["serverTime"]));
    assert_eq!(keys(&shown)[..STATE.len()], STATE);
}

#[test]
fn no_two_rooms_and_no_two_people_have_an_id_in_common() {
    let daemon = ephemeral(&[]);
    let mut seen: Vec<String> = Vec::new();
    let mut digits = String::new();
    let mut socket = daemon.enter();
    for _ in 0..45 {
        let member = Member::new(socket, command("session:create"));
        digits.push_str(&member.room);
        seen.extend([member.room, member.user]);
        socket = member.socket;
        socket.send(command("session:leave"));
    }
    let all = seen.len();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), all);
    let kinds = DIGITS.chars().filter(|digit| digits.contains(*digit)).count();
    assert!(kinds > 24, "450 digits by chance are of {kinds} kinds");
}

#[test]
fn a_room_has_the_duration_it_was_asked_for() {
    let daemon = ephemeral(&[]);
    let given = [json!(1), json!(86_400), json!(300.0), json!("300"), json!(1e2), Value::Null];
    for (duration, expected) in given.into_iter().zip([1, 86_400, 300, 300, 100, 1500]) {
        let member = daemon.found(json!({ "duration": duration, "name": null, "userId": 5, "unknown": [1] }));
        let state = &member.joined["state"];
        assert_eq!((&state["duration"], &state["remainingTime"]), (&json!(expected), &json!(expected)));
        assert_eq!(state["remainingMs"], 1000 * expected);
        assert_eq!(checked(state), "stopped");
    }
    let mut socket = daemon.enter();
    for duration in [json!(0), json!(-1), json!(86_401), json!(1.5), json!(true), json!("x"), json!([300]), json!({})]
    {
        invalid(&mut socket, json!({ "type": "session:create", "duration": duration }), "duration");
    }
    let huge = r#"{"type":"session:create","duration":1e400}"#;
    socket.send_text(huge);
    assert_eq!(socket.expect("error")["code"], "invalid");
    Member::new(socket, command("session:create"));
}

#[test]
fn whoever_joins_is_told_everything_and_the_others_of_him_word_for_word() {
    let daemon = ephemeral(&[]);
    let mut anna = daemon.found(json!({ "name": "Anna" }));
    anna.press(json!({ "type": "timer:start", "duration": 60 }));
    anna.control("timer:pause");
    let mut bert = daemon.visit(&anna.room, "Bert");
    assert_eq!(keys(&bert.joined), ["type", "sessionId", "userId", "name", "users", "state", "serverTime"]);
    assert_eq!((&*bert.room, &*bert.name), (&*anna.room, "Bert"));
    assert!(is_id(&bert.user, 26) && bert.user != anna.user);
    assert_now(&bert.joined["serverTime"]);
    assert_eq!(in_short(&bert.joined["users"]), ["Anna", "Bert"], "in order of joining");
    let state = &bert.joined["state"];
    assert_eq!((checked(state), &state["revision"], &state["duration"]), ("paused", &json!(3), &json!(60)));
    let expected = r#"{"type":"session:user-joined","name":"Bert","users":[{"name":"Anna","connected":true},{"name":"Bert","connected":true}]}"#;
    assert_eq!(anna.socket.recv_text(), expected);
    bert.hears_nothing();
    // A third is told to both, and people that come do not raise the revision.
    let cleo = daemon.visit(&anna.room, "Cleo");
    for member in [&mut anna, &mut bert] {
        let message = member.news();
        assert_eq!((&message["type"], &message["name"]), (&json!("session:user-joined"), &json!("Cleo")));
        assert_eq!(in_short(&message["users"]), ["Anna", "Bert", "Cleo"]);
        member.hears_nothing();
    }
    assert_eq!(cleo.joined["state"]["revision"], 3);
    assert_eq!(daemon.people(&anna.room), ["Anna", "Bert", "Cleo"]);
}

#[test]
fn an_id_is_read_however_it_was_heard() {
    let daemon = ephemeral(&[]);
    // One with both digits that are mistaken for letters.
    let anna = loop {
        let member = daemon.found(json!({ "name": "Anna" }));
        if member.room.contains('0') && member.room.contains('1') {
            break member;
        }
    };
    let id = &anna.room;
    let hyphens: String = id.chars().flat_map(|digit| [digit, '-']).collect();
    for heard in [
        id.to_uppercase(),
        id.replace('0', "o"),
        id.replace('0', "O"),
        id.replace('1', "i"),
        id.replace('1', "I"),
        id.replace('1', "l"),
        id.replace('1', "L"),
        format!("{}-{}", &id[..5], &id[5..]),
        format!("-{hyphens}-"),
    ] {
        assert_eq!(daemon.room(&heard)["sessionId"], *id, "{heard}");
        let bert = daemon.visit(&heard, "Bert");
        assert_eq!(bert.room, *id, "{heard}");
        assert_eq!(bert.joined["state"]["sessionId"], *id, "{heard}");
    }
    let mut socket = daemon.enter();
    let longer = format!("{id}0");
    let u = format!("u{}", &id[1..]);
    for wrong in
        [NOWHERE, "", "-", &id[..9], &longer, &u, "caf\u{e9}caf\u{e9}12", &"z".repeat(3000), "\0", "../rooms"]
    {
        let message = json!({ "type": "session:join", "sessionId": wrong });
        refused(&mut socket, message, "not_found", "Room not found");
    }
    for wrong in [json!(null), json!(5), json!([id]), json!(true)] {
        invalid(&mut socket, json!({ "type": "session:join", "sessionId": wrong }), "sessionId");
    }
    invalid(&mut socket, command("session:join"), "sessionId");
    assert_eq!(in_short(&daemon.room(id)["users"]).len(), 10);
}

#[test]
fn a_name_has_one_to_forty_characters_and_need_not_be_the_only_one() {
    let daemon = ephemeral(&[]);
    let longest = "\u{e9}".repeat(40);
    let people = "\u{1f469}\u{200d}\u{1f680}";
    let names = ["x", "  Anna \t", "Anna", "A  B", &longest, people, "<b>&amp;\"'\\", "null"];
    let anna = daemon.found(json!({ "name": "  Anna  " }));
    assert_eq!(anna.name, "Anna", "blanks around it are cut");
    for name in names {
        let member = daemon.visit(&anna.room, name);
        assert_eq!(member.name, name.trim(), "{name:?}");
    }
    let shown: Vec<&str> = ["Anna"].into_iter().chain(names.map(str::trim)).collect();
    assert_eq!(in_short(&daemon.room(&anna.room)["users"]).len(), shown.len());
    let mut socket = daemon.enter();
    let too_long = "x".repeat(41);
    for name in [
        json!(""),
        json!("   "),
        json!(too_long),
        json!("a\nb"),
        json!("a\u{0}b"),
        json!("\u{7f}"),
        json!("\u{9b}31m"),
        json!(5),
        json!(true),
        json!(["Anna"]),
    ] {
        invalid(&mut socket, json!({ "type": "session:create", "name": name }), "name");
        invalid(&mut socket, json!({ "type": "session:join", "sessionId": anna.room, "name": name }), "name");
    }
    assert_eq!(in_short(&daemon.room(&anna.room)["users"]).len(), shown.len());
}

#[test]
fn the_number_of_a_user_without_a_name_counts_all_that_ever_came() {
    let daemon = ephemeral(&[]);
    let first = daemon.found(json!({}));
    assert_eq!(first.name, "User 1");
    let unnamed = |expected: &str| {
        let message = json!({ "type": "session:join", "sessionId": first.room });
        let member = Member::new(daemon.enter(), message);
        assert_eq!(member.name, expected);
        member
    };
    let mut second = unnamed("User 2");
    let _third = daemon.visit(&first.room, "Cleo");
    let _fourth = unnamed("User 4");
    // Who goes takes his number along, who comes back keeps it, and a second socket is nobody new.
    second.leave();
    let fifth = unnamed("User 5");
    assert_eq!(daemon.come_back(&fifth).name, "User 5");
    unnamed("User 6");
}

// ---------------------------------------------------------------------------------------------------------------
// To leave.

#[test]
fn whoever_leaves_is_gone_at_once_and_may_go_elsewhere() {
    let daemon = ephemeral(&[]);
    let mut anna = daemon.found(json!({ "name": "Anna" }));
    let mut bert = daemon.visit(&anna.room, "Bert");
    let mut phone = daemon.come_back(&bert);
    anna.socket.expect("session:user-joined");
    bert.socket.send(command("session:leave"));
    let expected = r#"{"type":"session:user-left","name":"Bert","users":[{"name":"Anna","connected":true}]}"#;
    assert_eq!(anna.socket.recv_text(), expected);
    assert_eq!(phone.socket.recv_text(), expected, "his other socket hears it, and nothing after it");
    assert_eq!(daemon.people(&anna.room), ["Anna"]);
    anna.control("timer:start");
    for member in [&mut bert, &mut phone] {
        member.hears_nothing();
        member.refused(command("timer:pause"), "wrong_state", "Not in a room");
        member.refused(command("session:leave"), "wrong_state", "Not in a room");
    }
    // Whoever left is a stranger with his old id, though not to himself.
    let mut again = Member::new(bert.socket, with(phone.return_ticket(), json!({ "name": "Robert" })));
    assert_eq!(again.name, "Robert");
    assert_ne!(again.user, bert.user);
    assert_eq!(told(&mut anna, "session:user-joined")["name"], "Robert");
    // The other socket makes a room of its own.
    let elsewhere = Member::new(phone.socket, json!({ "type": "session:create", "name": "Bert" }));
    assert_ne!(elsewhere.room, anna.room);
    again.hears_nothing();
    assert_eq!(daemon.people(&anna.room), ["Anna", "Robert"]);
    assert_eq!(daemon.people(&elsewhere.room), ["Bert"]);
}

#[test]
fn a_room_that_all_have_left_is_still_there_for_a_while() {
    let daemon = ephemeral(&[]);
    let mut anna = daemon.found(json!({ "duration": 60 }));
    anna.control("timer:start");
    anna.socket.send(command("session:leave"));
    anna.hears_nothing();
    let room = daemon.room(&anna.room);
    assert_eq!(room["users"], json!([]));
    assert_eq!(room["isRunning"], true);
    let bert = Member::new(anna.socket, json!({ "type": "session:join", "sessionId": anna.room }));
    assert_eq!((&*bert.name, checked(&bert.joined["state"])), ("User 2", "running"));
}

// ---------------------------------------------------------------------------------------------------------------
// Lines that are lost.

#[test]
fn a_line_that_is_lost_is_seen_and_so_is_its_return() {
    let daemon = ephemeral(&[]);
    let mut anna = daemon.found(json!({ "name": "Anna" }));
    let bert = daemon.visit(&anna.room, "Bert");
    anna.socket.expect("session:user-joined");
    let (room, user, ticket) = (bert.room.clone(), bert.user.clone(), bert.return_ticket());
    bert.hang_up();
    let expected =
        r#"{"type":"session:presence","users":[{"name":"Anna","connected":true},{"name":"Bert","connected":false}]}"#;
    assert_eq!(anna.socket.recv_text(), expected);
    assert_eq!(daemon.people(&room), ["Anna", "(Bert)"]);
    let revision = anna.control("timer:start")["revision"].clone();
    let back = Member::new(daemon.enter(), with(ticket, json!({ "name": "Somebody else" })));
    assert_eq!((&*back.user, &*back.name), (&*user, "Bert"), "the same person");
    assert_eq!(back.joined["state"]["revision"], revision);
    assert_eq!(in_short(&back.joined["users"]), ["Anna", "Bert"]);
    sees(&mut anna, &["Anna", "Bert"]);
    // However it was lost.
    cut(back);
    sees(&mut anna, &["Anna", "(Bert)"]);
    anna.hears_nothing();
    let unknown = daemon.visit(&room, "Bert");
    assert_eq!(in_short(&unknown.joined["users"]), ["Anna", "(Bert)", "Bert"], "a name is no person");
}

#[test]
fn a_second_socket_of_the_same_person_is_news_to_nobody() {
    let daemon = ephemeral(&[]);
    let mut anna = daemon.found(json!({ "name": "Anna" }));
    let mut bert = daemon.visit(&anna.room, "Bert");
    anna.socket.expect("session:user-joined");
    let mut phone = daemon.come_back(&bert);
    assert_eq!(phone.user, bert.user);
    assert_eq!(in_short(&phone.joined["users"]), ["Anna", "Bert"]);
    // What is to be coalesced would have been by then.
    sleep_ms(120);
    anna.hears_nothing();
    bert.hears_nothing();
    // Both hear what happens and may do what they like.
    phone.control("timer:start");
    for member in [&mut anna, &mut bert] {
        let message = member.news();
        assert_eq!((&message["type"], &message["by"]), (&json!("timer:state"), &json!("Bert")));
    }
    bert.hang_up();
    sleep_ms(120);
    anna.hears_nothing();
    assert_eq!(daemon.people(&anna.room), ["Anna", "Bert"]);
    phone.hang_up();
    sees(&mut anna, &["Anna", "(Bert)"]);
}

#[test]
fn whoever_does_not_come_back_in_time_has_left() {
    let daemon = ephemeral(&["--room-leave", "1s"]);
    let mut anna = daemon.found(json!({ "name": "Anna" }));
    let bert = daemon.visit(&anna.room, "Bert");
    let cleo = daemon.visit(&anna.room, "Cleo");
    let dora = daemon.visit(&anna.room, "Dora");
    for _ in 0..3 {
        anna.socket.expect("session:user-joined");
    }
    let [berts, cleos] = [&bert, &cleo].map(Member::return_ticket);
    let bert_was = bert.user.clone();
    let begun = Instant::now();
    bert.hang_up();
    cut(cleo);
    sees(&mut anna, &["Anna", "(Bert)", "(Cleo)", "Dora"]);
    // One of them is back in time, and another goes later: his time is his own.
    sleep_ms(300);
    let cleo = Member::new(daemon.enter(), cleos);
    assert_eq!(cleo.name, "Cleo");
    dora.hang_up();
    let dora_went = Instant::now();
    for (name, went, others) in
        [("Bert", begun, &["Anna", "Cleo", "Dora"][..]), ("Dora", dora_went, &["Anna", "Cleo"])]
    {
        let left = told(&mut anna, "session:user-left");
        let after = went.elapsed();
        assert_eq!(keys(&left), ["type", "name", "users"]);
        let names: Vec<String> =
            in_short(&left["users"]).iter().map(|name| name.trim_matches(['(', ')']).to_owned()).collect();
        assert_eq!((&left["name"], names), (&json!(name), vec_of(others)));
        assert!((990..1900).contains(&after.as_millis()), "{after:?}");
    }
    // Too late: a new person, told as one.
    let late = Member::new(daemon.enter(), with(berts, json!({ "name": "Bert" })));
    assert_ne!(late.user, bert_was);
    assert_eq!(in_short(&told(&mut anna, "session:user-joined")["users"]), ["Anna", "Cleo", "Bert"]);
    assert_eq!(daemon.people(&cleo.room), ["Anna", "Cleo", "Bert"]);
}

#[test]
fn a_room_without_a_line_is_removed_in_time_whatever_its_timer_does() {
    let daemon = ephemeral(&["--room-empty", "1s"]);
    let mut kept = daemon.found(json!({ "name": "Anna" }));
    let mut running = daemon.found(json!({ "duration": 600 }));
    running.control("timer:start");
    let mut left = daemon.found(json!({}));
    let saved = daemon.found(json!({}));
    let there = |id: &str| daemon.get(&format!("/rooms/{id}")).status == 200;
    let [a, b, c] = [&running, &left, &saved].map(|member| member.room.clone());
    let ticket = saved.return_ticket();
    running.hang_up();
    left.socket.send(command("session:leave"));
    left.hears_nothing();
    saved.hang_up();
    let begun = Instant::now();
    sleep_ms(400);
    assert!(there(&a) && there(&b) && there(&c));
    // Saved in time: its minutes begin anew when it is left again.
    let saved = Member::new(daemon.enter(), ticket);
    sleep_ms(200);
    saved.hang_up();
    let left_again = Instant::now();
    eventually(|| !there(&a) && !there(&b));
    let after = begun.elapsed();
    assert!((950..2000).contains(&after.as_millis()), "{after:?}");
    assert!(there(&c) || left_again.elapsed() > Duration::from_millis(950), "it was not alone for so long");
    eventually(|| !there(&c));
    assert!(left_again.elapsed() > Duration::from_millis(950));
    let mut socket = left.socket;
    for id in [&a, &b, &c] {
        let message = json!({ "type": "session:join", "sessionId": id });
        refused(&mut socket, message, "not_found", "Room not found");
    }
    assert!(there(&kept.room), "one that has a line stays");
    kept.hears_nothing();
    daemon.wait_for_log(&a);
}

/// Many lines lost and found at once are few messages, the last of which is true.
#[test]
fn presence_is_told_at_most_twenty_times_a_second_and_ends_with_the_truth() {
    const PEOPLE: usize = 40;
    let daemon = ephemeral(&[]);
    let mut watcher = daemon.found(json!({ "name": "Anna" }));
    let mut members: Vec<Member> = Vec::new();
    for n in 0..PEOPLE {
        members.push(daemon.visit(&watcher.room, &format!("p{n}")));
        watcher.socket.expect("session:user-joined");
    }
    let all: Vec<String> = daemon.people(&watcher.room);
    let tickets: Vec<Value> = members.iter().map(Member::return_ticket).collect();
    for there in [false, true] {
        let begun = wall_ms();
        if there {
            members = tickets.iter().map(|ticket| Member::new(daemon.enter(), ticket.clone())).collect();
        } else {
            members.clear();
        }
        let truth: Vec<String> =
            all.iter().map(|name| if there || name == "Anna" { name.clone() } else { format!("({name})") }).collect();
        let mut told = 0;
        loop {
            let message = watcher.news();
            assert_eq!(message["type"], "session:presence", "{message}");
            told += 1;
            if in_short(&message["users"]) == truth {
                break;
            }
        }
        let lasted_ms = wall_ms() - begun;
        println!("{PEOPLE} lines {}: {told} messages in {lasted_ms} ms", if there { "found" } else { "lost" });
        assert!(told <= 2 + lasted_ms / 50, "{told} in {lasted_ms} ms");
        watcher.hears_nothing();
    }
    // Lost and found within a moment, the truth is the same as before.
    for ticket in &tickets[..5] {
        members.remove(0).hang_up();
        members.push(Member::new(daemon.enter(), ticket.clone()));
    }
    let mut last = None;
    sleep_ms(150);
    watcher.socket.send(command("ping"));
    loop {
        let message = watcher.news();
        if message["type"] == "pong" {
            break;
        }
        last = Some(in_short(&message["users"]));
    }
    assert!(last.is_none_or(|last| last == all));
}

fn vec_of(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

// ---------------------------------------------------------------------------------------------------------------
// For those who operate it.

#[test]
fn rooms_and_people_are_counted_and_told_in_the_log() {
    let daemon = ephemeral(&["--room-empty", "1s", "--log-level", "debug"]);
    let gauge = |name: &str| {
        let text = daemon.get("/metrics").text().to_owned();
        let line = text.lines().find(|line| line.split(' ').next() == Some(name));
        line.unwrap_or_else(|| panic!("no {name}")).rsplit(' ').next().unwrap().parse::<u64>().unwrap()
    };
    let lines = |room: &str| daemon.log().lines().filter(|line| line.contains(room)).count();
    assert_eq!((gauge("timerd_rooms"), gauge("timerd_room_people")), (0, 0));
    let mut anna = daemon.found(json!({ "name": "Anna", "duration": 60 }));
    let bert = daemon.visit(&anna.room, "Bert");
    let other = daemon.found(json!({}));
    eventually(|| (gauge("timerd_rooms"), gauge("timerd_room_people")) == (2, 3));
    eventually(|| lines(&anna.room) == 1);
    anna.socket.expect("session:user-joined");
    anna.control("timer:start");
    anna.control("timer:pause");
    eventually(|| lines(&anna.room) == 3);
    anna.refused(command("timer:pause"), "wrong_state", "Cannot pause: the timer is not running");
    let (one, two) = (anna.room.clone(), other.room.clone());
    drop((anna, bert, other));
    eventually(|| (gauge("timerd_rooms"), gauge("timerd_room_people")) == (0, 0));
    eventually(|| lines(&one) == 4 && lines(&two) == 2);
    // Nobody's secret is written anywhere.
    assert!(!daemon.log().contains("userId"));
}

#[test]
fn a_person_is_told_his_own_id_and_nobody_elses() {
    let daemon = ephemeral(&[]);
    let mut anna = daemon.found(json!({ "name": "Anna" }));
    let mut bert = daemon.visit(&anna.room, "Bert");
    anna.socket.expect("session:user-joined");
    anna.control("timer:start");
    bert.socket.expect("timer:state");
    bert.control("timer:pause");
    bert.socket.send(command("session:leave"));
    let mut heard = Vec::new();
    for member in [&mut anna, &mut bert] {
        member.socket.send(command("ping"));
        loop {
            let text = member.socket.recv_text();
            let pong = text.contains("pong");
            heard.push(text);
            if pong {
                break;
            }
        }
    }
    heard.push(bert.joined.to_string().replace(&bert.user, ""));
    heard.push(daemon.get(&format!("/rooms/{}", anna.room)).text().to_owned());
    heard.push(daemon.log());
    for text in &heard {
        assert!(!text.contains(&anna.user) && !text.contains(&bert.user), "{text}");
    }
}
