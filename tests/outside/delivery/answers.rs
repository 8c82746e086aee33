//! Answers: kept to the letter, within their bounds, all or none at the end.

use serde_json::{Value, json};

use super::{Delivery, JSON, ephemeral, fast, free, on, refused, section, simple, with};
use crate::daemon::{Daemon, directory};

/// A session that may answer 40 items, i0 to i39.
fn wide(daemon: &Daemon) -> String {
    let ids: Vec<String> = (0..40).map(|n| format!("i{n}")).collect();
    daemon.set("wide", free(&[section("a", &ids.iter().map(String::as_str).collect::<Vec<_>>())]));
    daemon.begin("wide", "anna")
}

/// A response that has so many bytes as compact JSON.
fn of_bytes(bytes: usize) -> String {
    let empty = r#"{"text":""}"#;
    format!(r#"{{"text":"{}"}}"#, "x".repeat(bytes - empty.len()))
}

fn answer_text(item: &str, response: &str) -> String {
    format!(r#"{{"item_id":"{item}","response":{response}}}"#)
}

/// The same, of so many bytes in all.
fn padded(text: &str, bytes: usize) -> String {
    format!("{text}{}", " ".repeat(bytes - text.len()))
}

const LIMIT: &str = "Responses of a session may have at most 1048576 bytes";

#[test]
fn a_response_is_kept_to_the_letter_without_its_whitespace_after_a_crash_too() {
    let (_kept, path) = directory();
    let daemon = on(&path, &[]);
    let cases = [
        (r#"{"n":1000000000000000000000000000000}"#, None),
        (r#"{"n":-123456789012345678901234567890.50}"#, None),
        (r#"{"a":1.10,"b":1e2,"c":-0,"d":1E-7,"e":9007199254740993}"#, None),
        (r#"{"z":1,"a":2,"m":{"y":1,"b":2}}"#, None),
        ("{\"é\u{1f600}\":\"\u{2028} <script>\"}", None),
        (" { \"a\" :\n[ 1 , 2 ,{ } ] , \"b c\" : \"x  \\\" y\" }\t", Some(r#"{"a":[1,2,{}],"b c":"x  \" y"}"#)),
        ("{}", None),
    ];
    let id = wide(&daemon);
    let mut expected = Vec::new();
    for (n, (given, kept)) in cases.iter().enumerate() {
        let item = format!("i{n}");
        let response = daemon.ask_text(&id, "answer", &answer_text(&item, given));
        assert_eq!(response.status, 200, "{given}: {}", response.text());
        expected.push(format!(r#""{item}":{}"#, kept.unwrap_or(given)));
    }
    let holds = |text: &str| expected.iter().for_each(|one| assert!(text.contains(one), "{one} in {text}"));
    holds(daemon.get(&format!("/delivery/session/{id}")).text());
    // In lines, what some readers take for an end of one is escaped: the same text to every reader of JSON.
    let lines = daemon.get("/delivery/assessments/wide/results");
    assert!(!lines.text().contains('\u{2028}'));
    holds(&lines.text().replace("\\u2028", "\u{2028}"));
    // By the hand-in, and over the socket.
    let other = wide(&daemon);
    let (mut socket, _, _) = daemon.attend(&other);
    let mut answers = Vec::new();
    for (n, (given, _)) in cases.iter().enumerate() {
        if n % 2 == 0 {
            answers.push(answer_text(&format!("i{n}"), given));
        } else {
            socket.send_text(&format!(r#"{{"response":{given},"item_id":"i{n}","type":"answer_save"}}"#));
            socket.expect("answer_saved");
        }
    }
    let body = format!(r#"{{"answers":[{}]}}"#, answers.join(","));
    assert_eq!(daemon.ask_text(&other, "submit", &body).status, 200);
    holds(daemon.get(&format!("/delivery/session/{other}")).text());
    let before = daemon.get(&format!("/delivery/session/{other}")).text().to_owned();
    daemon.kill();
    let daemon = on(&path, &[]);
    assert_eq!(daemon.get(&format!("/delivery/session/{other}")).text(), before);
    holds(daemon.get(&format!("/delivery/session/{id}")).text());
    for response in [
        r#"{"n":1e400}"#,
        r#"{"n":[-1e400]}"#,
        r#"{"n":NaN}"#,
        r#"{"n":"\ud800"}"#,
        r#"{"\udc00":1}"#,
        r#"{"n":01}"#,
        r#"{"n":1,}"#,
        "{\"n\":\"a\tb\"}",
    ] {
        let response = daemon.ask_text(&id, "answer", &answer_text("i0", response));
        assert_eq!(response.status, 422, "{}", response.text());
    }
    holds(daemon.get(&format!("/delivery/session/{id}")).text());
}

#[test]
fn the_last_answer_to_an_item_counts_and_each_item_counts_once() {
    let daemon = ephemeral(&[]);
    daemon.set("x", simple());
    let id = daemon.begin("x", "anna");
    for (n, (item, count)) in [("q2", 1), ("q1", 2), ("q2", 2), ("q2", 2), ("q3", 3)].into_iter().enumerate() {
        assert_eq!(daemon.answer(&id, item, json!({ "n": n })).status, 200);
        assert_eq!(daemon.call(&id, "save").json()["responses_count"], count);
    }
    let kept = json!({ "q1": { "n": 1 }, "q2": { "n": 3 }, "q3": { "n": 4 } });
    assert_eq!(daemon.session(&id)["responses"], kept);
    let submitted = daemon.ask(&id, "submit", json!({ "answers": [{ "item_id": "q1", "response": { "n": 9 } }] }));
    assert_eq!(submitted.json()["responses_count"], 3);
    assert_eq!(daemon.session(&id)["responses"]["q1"], json!({ "n": 9 }));
}

#[test]
fn a_response_has_64_kib_of_compact_json_and_a_message_96_kib() {
    let daemon = ephemeral(&[]);
    let id = wide(&daemon);
    let (kib_64, kib_96) = (64 << 10, 96 << 10);
    let answer = |text: &str| daemon.ask_text(&id, "answer", text);
    assert_eq!(answer(&answer_text("i0", &of_bytes(kib_64))).status, 200);
    answer(&answer_text("i1", &of_bytes(kib_64 + 1))).assert_fault(&["body", "response"]);
    // Whitespace does not count in a response, but in the message.
    let spaced = of_bytes(kib_64).replace("{\"text\":", "{ \"text\" :\n  ");
    assert_eq!(answer(&padded(&answer_text("i2", &spaced), kib_96)).status, 200);
    assert_eq!(answer(&padded(&answer_text("i3", "{}"), kib_96 + 1)).status, 413);
    // Characters are not bytes.
    let wide = format!(r#"{{"text":"{}"}}"#, "\u{1f600}".repeat(kib_64 / 4));
    answer(&answer_text("i4", &wide)).assert_fault(&["body", "response"]);
    // On the socket the same.
    let (mut socket, _, _) = daemon.attend(&id);
    let save =
        |item: &str, response: &str| format!(r#"{{"type":"answer_save","item_id":"{item}","response":{response}}}"#);
    socket.send_text(&padded(&save("i5", &of_bytes(kib_64)), kib_96));
    socket.expect("answer_saved");
    socket.send_text(&save("i6", &of_bytes(kib_64 + 1)));
    assert!(socket.expect("error")["message"].as_str().unwrap().contains("response"));
    let session = daemon.session(&id);
    let keys: Vec<&String> = session["responses"].as_object().unwrap().keys().collect();
    assert_eq!(keys.len(), 3, "{keys:?}");
    assert_eq!(session["responses"]["i5"]["text"].as_str().unwrap().len(), kib_64 - 11);
    socket.send_text(&padded(&save("i7", "{}"), kib_96 + 1));
    assert_eq!(socket.expect_close().0, 1009);
    assert_eq!(daemon.session(&id)["responses"].as_object().unwrap().len(), 3);
}

#[test]
fn all_responses_of_a_session_have_one_mebibyte_together() {
    let daemon = ephemeral(&[]);
    let id = wide(&daemon);
    let kib_64 = 64 << 10;
    let answer = |item: &str, bytes: usize| daemon.ask_text(&id, "answer", &answer_text(item, &of_bytes(bytes)));
    for n in 0..16 {
        let response = answer(&format!("i{n}"), kib_64);
        assert_eq!(response.status, 200, "{n}: {}", response.text());
    }
    refused(&daemon.answer(&id, "i16", json!({})), 400, LIMIT);
    // What is replaced gives its place back.
    assert_eq!(answer("i3", kib_64).status, 200);
    assert_eq!(answer("i3", kib_64 - 20).status, 200);
    assert_eq!(answer("i16", 20).status, 200);
    refused(&answer("i17", 11), 400, LIMIT);
    refused(&answer("i3", kib_64 - 19), 400, LIMIT);
    let (mut socket, _, _) = daemon.attend(&id);
    socket.send(json!({ "type": "answer_save", "item_id": "i17", "response": {}, "ref": 1 }));
    assert_eq!(socket.recv(), json!({ "type": "error", "message": LIMIT, "ref": 1 }));
    let hand_in = json!({ "answers": [
        { "item_id": "i0", "response": {} }, { "item_id": "i20", "response": { "text": "x".repeat(60_000) } },
        { "item_id": "i21", "response": { "text": "x".repeat(10_000) } },
    ] });
    refused(&daemon.ask(&id, "submit", hand_in), 400, LIMIT);
    let session = daemon.session(&id);
    assert_eq!((&session["state"], session["responses"].as_object().unwrap().len()), (&json!("in_progress"), 17));
    assert_eq!(session["responses"]["i0"]["text"].as_str().unwrap().len(), kib_64 - 11, "all or none");
    let hand_in = json!({ "answers": [
        { "item_id": "i0", "response": {} }, { "item_id": "i20", "response": { "text": "x".repeat(60_000) } },
    ] });
    assert_eq!(daemon.ask(&id, "submit", hand_in).status, 200, "judged as a whole, it fits");
    assert_eq!(daemon.session(&id)["responses"]["i0"], json!({}));
}

#[test]
fn a_hand_in_has_two_mebibytes_and_all_its_answers_are_saved_or_none() {
    let daemon = fast(&[]);
    let mib_2 = 2 << 20;
    // A whole session's worth of answers in one.
    let id = wide(&daemon);
    let answers: Vec<String> = (0..16).map(|n| answer_text(&format!("i{n}"), &of_bytes(64 << 10))).collect();
    let body = format!(r#"{{"answers":[{}]}}"#, answers.join(","));
    assert_eq!(daemon.ask_text(&id, "submit", &padded(&body, mib_2 + 1)).status, 413);
    assert_eq!(daemon.state(&id), "in_progress");
    let submitted = daemon.ask_text(&id, "submit", &padded(&body, mib_2));
    assert_eq!((submitted.status, &submitted.json()["responses_count"]), (200, &json!(16)), "{}", submitted.text());
    assert_eq!(daemon.session(&id)["responses"].as_object().unwrap().len(), 16);

    daemon.set("x", simple());
    let id = daemon.begin("x", "anna");
    assert_eq!(daemon.answer(&id, "q1", json!({ "n": 0 })).status, 200);
    let good = |item: &str| json!({ "item_id": item, "response": { "n": 1 } });
    let hand_in = |answers: Value| daemon.ask(&id, "submit", json!({ "answers": answers }));
    refused(&hand_in(json!([good("q1"), good("q4"), good("q2")])), 400, "Item q4 not in session");
    let wrong = json!({ "item_id": "q2", "response": 5 });
    hand_in(json!([good("q1"), wrong])).assert_fault(&["body", "answers"]);
    let large = json!({ "item_id": "q2", "response": { "text": "x".repeat(64 << 10) } });
    hand_in(json!([good("q1"), large])).assert_fault(&["body", "answers"]);
    let session = daemon.session(&id);
    assert_eq!((&session["state"], &session["responses"]), (&json!("in_progress"), &json!({ "q1": { "n": 0 } })));
    let both = hand_in(json!([good("q1"), good("q3")]));
    assert_eq!((both.status, &both.json()["responses_count"]), (200, &json!(2)));
    assert_eq!(daemon.session(&id)["responses"], json!({ "q1": { "n": 1 }, "q3": { "n": 1 } }));
    // A pause is no end: nothing is saved by a hand-in that is refused for its state.
    let id = daemon.session_in("paused");
    refused(&daemon.ask(&id, "submit", json!({ "answers": [good("q1")] })), 400, "Cannot submit in state: paused");
    assert_eq!(daemon.session(&id)["responses"], json!({}));
}

#[test]
fn bounds_of_other_bodies_are_the_usual_64_kib() {
    let daemon = ephemeral(&[]);
    daemon.set("x", simple());
    let id = daemon.begin("x", "anna");
    let start = padded(r#"{"candidate_id":"a","test_taker_id":"b"}"#, (64 << 10) + 1);
    for (path, body) in [
        ("/delivery/start/x".to_owned(), start),
        (format!("/delivery/session/{id}/navigate"), padded(r#"{"direction":"next"}"#, (64 << 10) + 1)),
        (format!("/delivery/session/{id}/extend"), padded(r#"{"seconds":1}"#, (64 << 10) + 1)),
    ] {
        let response = daemon.request("POST", &path, &[JSON], Some(&body));
        assert_eq!(response.status, 413, "{path}: {}", response.text());
    }
    assert_eq!(daemon.current(&id)["current_item_index"], 0);
    assert_eq!(daemon.session(&id)["time_limit_seconds"], with(simple(), json!({}))["time_limit_seconds"]);
}
