//! Where a candidate is and where he may go: the three modes, their texts and locks, and what chance chooses.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{
    Delivery, ephemeral, fast, free, items_of, next, number, on, previous, refused, section, strings, to, with,
    without_time,
};
use crate::daemon::{Daemon, directory};

const LINEAR: &str = "LINEAR mode: can only navigate forward";
const HYBRID: &str = "HYBRID mode: cannot return to an earlier section";

/// A session of two sections, a1 to a3 and b1 to b3.
fn in_mode(daemon: &Daemon, mode: Value) -> String {
    let sections = [section("a", &["a1", "a2", "a3"]), section("b", &["b1", "b2", "b3"])];
    daemon.set("x", with(free(&sections), json!({ "navigation_mode": mode })));
    daemon.begin("x", "anna")
}

/// Whether the place says that there is a way back and a way on.
fn ways(daemon: &Daemon, id: &str) -> (bool, bool) {
    let current = daemon.current(id);
    (current["can_go_previous"].as_bool().unwrap(), current["can_go_next"].as_bool().unwrap())
}

fn locks(daemon: &Daemon, id: &str) -> Vec<bool> {
    let session = daemon.session(id);
    session["sections"].as_array().unwrap().iter().map(|section| section["locked"].as_bool().unwrap()).collect()
}

#[track_caller]
fn refuse(daemon: &Daemon, id: &str, body: Value, detail: &str) {
    let before = without_time(daemon.session(id));
    refused(&daemon.ask(id, "navigate", body), 400, detail);
    assert_eq!(without_time(daemon.session(id)), before);
}

#[test]
fn non_linear_goes_anywhere_and_not_beyond_its_ends() {
    let daemon = ephemeral(&[]);
    let id = in_mode(&daemon, json!("NON_LINEAR"));
    assert_eq!(ways(&daemon, &id), (false, true));
    refuse(&daemon, &id, previous(), "Cannot navigate before the first item");
    for index in 1..6 {
        let moved = daemon.ask(&id, "navigate", next()).json();
        assert_eq!(moved["current_item_index"], index);
        assert_eq!(moved["item"], daemon.current(&id)["item"], "{moved}");
        assert_eq!(daemon.session(&id)["current_section_index"], usize::from(index > 2));
    }
    assert_eq!(ways(&daemon, &id), (true, false));
    refuse(&daemon, &id, next(), "Cannot navigate past the last item");
    for index in (0..5).rev() {
        assert_eq!(daemon.go(&id, previous()), index);
    }
    for index in [5, 2, 2, 0, 3] {
        assert_eq!(daemon.go(&id, to(index)), index);
        assert_eq!(daemon.current(&id)["item"]["item_id"], ["a1", "a2", "a3", "b1", "b2", "b3"][index]);
    }
    for item in ["b3", "a1", "b1"] {
        assert_eq!(daemon.answer(&id, item, json!({})).status, 200, "any item can be answered");
    }
    assert_eq!(daemon.current(&id)["current_item_index"], 3);
    assert_eq!(locks(&daemon, &id), [false, false]);
}

#[test]
fn a_direction_is_judged_word_by_word_in_every_mode() {
    let daemon = fast(&[]);
    for mode in ["NON_LINEAR", "LINEAR", "HYBRID"] {
        let id = in_mode(&daemon, json!(mode));
        let specific = |index: Value| json!({ "direction": "specific", "target_index": index });
        for direction in ["sideways", "", "NEXT", " next"] {
            let detail = format!("Invalid direction: {direction}");
            refuse(&daemon, &id, json!({ "direction": direction }), &detail);
            refuse(&daemon, &id, json!({ "direction": direction, "target_index": 99 }), &detail);
        }
        for body in [json!({ "direction": "specific" }), specific(json!(null))] {
            refuse(&daemon, &id, body, "target_index required for specific navigation");
        }
        for index in [-1, 6, 1_000_000, i64::from(i32::MIN), 1 << 40] {
            refuse(&daemon, &id, specific(json!(index)), &format!("Invalid target index: {index}"));
        }
        assert_eq!(daemon.go(&id, json!({ "direction": "next", "target_index": 5 })), 1, "next is next");
        assert_eq!(daemon.go(&id, specific(json!("3"))), 3, "as numbers everywhere");
        // The state comes before the words.
        assert_eq!(daemon.call(&id, "pause").status, 200);
        let state = "Cannot navigate in state: paused";
        for body in [json!({ "direction": "sideways" }), json!({ "direction": "specific" }), specific(json!(-1))] {
            refuse(&daemon, &id, body, state);
        }
        let late = daemon.session_in("late");
        refuse(&daemon, &late, json!({ "direction": "sideways" }), "Time expired");
    }
}

#[test]
fn linear_goes_only_forward_and_only_the_current_item_can_be_answered() {
    let daemon = ephemeral(&[]);
    let id = in_mode(&daemon, json!("LINEAR"));
    assert_eq!(ways(&daemon, &id), (false, true));
    refuse(&daemon, &id, previous(), LINEAR);
    refuse(&daemon, &id, to(0), LINEAR);
    assert_eq!(daemon.answer(&id, "a1", json!({ "n": 1 })).status, 200);
    refused(&daemon.answer(&id, "a2", json!({})), 400, "Item a2 is locked");
    assert_eq!(daemon.go(&id, next()), 1);
    refuse(&daemon, &id, previous(), LINEAR);
    refuse(&daemon, &id, to(0), LINEAR);
    refuse(&daemon, &id, to(1), LINEAR);
    refused(&daemon.answer(&id, "a1", json!({ "n": 2 })), 400, "Item a1 is locked");
    assert_eq!(daemon.go(&id, to(4)), 4, "beyond the current item is forward");
    assert_eq!(ways(&daemon, &id), (false, true));
    assert_eq!(locks(&daemon, &id), [true, false]);
    refused(&daemon.answer(&id, "b1", json!({})), 400, "Item b1 is locked");
    assert_eq!(daemon.answer(&id, "b2", json!({ "n": 3 })).status, 200);
    let hand_in = |item: &str| json!({ "answers": [{ "item_id": item, "response": { "n": 4 } }] });
    refused(&daemon.ask(&id, "submit", hand_in("b3")), 400, "Item b3 is locked");
    assert_eq!(daemon.go(&id, next()), 5);
    assert_eq!(ways(&daemon, &id), (false, false));
    refuse(&daemon, &id, next(), "Cannot navigate past the last item");
    assert_eq!(daemon.ask(&id, "submit", hand_in("b3")).status, 200);
    let kept = json!({ "a1": { "n": 1 }, "b2": { "n": 3 }, "b3": { "n": 4 } });
    assert_eq!(daemon.session(&id)["responses"], kept);
    let id = in_mode(&daemon, json!(null));
    assert_eq!(daemon.session(&id)["navigation_mode"], "LINEAR", "the default");
}

#[test]
fn hybrid_is_free_inside_a_section_and_goes_forward_between_them() {
    let daemon = ephemeral(&[]);
    let id = in_mode(&daemon, json!("HYBRID"));
    assert_eq!(ways(&daemon, &id), (false, true));
    refuse(&daemon, &id, previous(), "Cannot navigate before the first item");
    assert_eq!(daemon.go(&id, to(2)), 2);
    assert_eq!(daemon.go(&id, previous()), 1);
    assert_eq!(ways(&daemon, &id), (true, true));
    assert_eq!(daemon.go(&id, to(0)), 0);
    for item in ["a1", "a3"] {
        assert_eq!(daemon.answer(&id, item, json!({})).status, 200);
    }
    assert_eq!(locks(&daemon, &id), [false, false]);
    assert_eq!(daemon.go(&id, to(2)), 2);
    assert_eq!(daemon.go(&id, next()), 3);
    assert_eq!(locks(&daemon, &id), [true, false], "the section left is locked");
    assert_eq!(ways(&daemon, &id), (false, true));
    refuse(&daemon, &id, previous(), HYBRID);
    for index in 0..3 {
        refuse(&daemon, &id, to(index), HYBRID);
    }
    refused(&daemon.answer(&id, "a2", json!({})), 400, "Section is locked");
    assert_eq!(daemon.go(&id, to(5)), 5);
    assert_eq!(ways(&daemon, &id), (true, false));
    assert_eq!(daemon.go(&id, to(3)), 3);
    assert_eq!(daemon.answer(&id, "b3", json!({})).status, 200);
    let hand_in = json!({ "answers": [
        { "item_id": "b1", "response": {} }, { "item_id": "a2", "response": {} },
    ] });
    refused(&daemon.ask(&id, "submit", hand_in), 400, "Section is locked");
    let answered = daemon.session(&id)["responses"].as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(answered, ["a1", "a3", "b3"].map(str::to_owned).into(), "all or none");
    let id = in_mode(&daemon, json!("HYBRID"));
    assert_eq!(daemon.go(&id, to(4)), 4, "into a later section");
    assert_eq!(locks(&daemon, &id), [true, false]);
}

// ---------------------------------------------------------------------------------------------------------------
// Flags.

#[test]
fn a_flag_stays_until_it_is_said_otherwise() {
    let daemon = ephemeral(&[]);
    let id = in_mode(&daemon, json!("NON_LINEAR"));
    let answer = |item: &str, flag: Value| {
        let body = with(json!({ "item_id": item, "response": { "n": 1 } }), flag);
        assert_eq!(daemon.ask(&id, "answer", body).status, 200);
        let session = daemon.session(&id);
        strings(&session["flagged_items"]).into_iter().map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let set = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(answer("a1", json!({})), set(&[]));
    assert_eq!(answer("b2", json!({ "is_flagged": true })), set(&["b2"]));
    assert_eq!(answer("a1", json!({ "is_flagged": true })), set(&["a1", "b2"]));
    assert!(daemon.current(&id)["is_flagged"].as_bool().unwrap());
    assert_eq!(answer("b2", json!({})), set(&["a1", "b2"]), "left out, it stays");
    assert_eq!(answer("b2", json!({ "is_flagged": true })), set(&["a1", "b2"]));
    assert_eq!(answer("a1", json!({ "is_flagged": false })), set(&["b2"]));
    assert!(!daemon.current(&id)["is_flagged"].as_bool().unwrap());
    assert_eq!(answer("b2", json!({ "is_flagged": false })), set(&[]));
}

// ---------------------------------------------------------------------------------------------------------------
// Chance.

fn ids(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{prefix}{n:02}")).collect()
}

fn part(id: &str, count: usize, more: Value) -> Value {
    let ids = ids(id, count);
    with(section(id, &ids.iter().map(String::as_str).collect::<Vec<_>>()), more)
}

fn names(session: &Value) -> Vec<String> {
    let sections = session["sections"].as_array().unwrap();
    sections.iter().map(|section| section["section_id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn chance_is_drawn_once_and_differs_between_candidates() {
    let (_kept, path) = directory();
    let daemon = on(&path, &[]);
    let sections = [
        part("first", 2, json!({})),
        part("some", 30, json!({ "selection_mode": "RANDOM", "items_to_select": 10 })),
        part("mixed", 20, json!({ "order_mode": "RANDOM" })),
        part("both", 12, json!({ "selection_mode": "RANDOM", "items_to_select": 5, "order_mode": "RANDOM" })),
        part("all", 6, json!({ "selection_mode": "RANDOM" })),
    ];
    daemon.set("x", free(&sections));
    let mut drawn = Vec::new();
    for n in 0..12 {
        let started = daemon.start("x", &format!("candidate {n}"));
        assert_eq!(started["total_items"], 2 + 10 + 20 + 5 + 6);
        let id = started["session_id"].as_str().unwrap().to_owned();
        let session = daemon.session(&id);
        assert_eq!(names(&session), ["first", "some", "mixed", "both", "all"], "sections stay where they are");
        let of = |n: usize| {
            let list = strings(&session["sections"][n]["items"]);
            list.into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        let sorted = |mut list: Vec<String>| {
            list.sort();
            list
        };
        assert_eq!(of(0), ids("first", 2), "neither chosen nor mixed");
        assert_eq!((of(1).len(), of(1)), (10, sorted(of(1))), "chosen, in their order");
        assert_eq!(sorted(of(2)), ids("mixed", 20), "mixed, all of them");
        assert_eq!(of(3).len(), 5);
        assert_eq!(of(4), ids("all", 6), "0 is all");
        for n in 0..5 {
            let name = names(&session)[n].clone();
            let unique: BTreeSet<String> = of(n).into_iter().collect();
            assert!(unique.len() == of(n).len() && unique.iter().all(|id| id.starts_with(&name)), "{unique:?}");
        }
        drawn.push((id, [of(1), of(2), of(3)]));
    }
    for part in 0..3 {
        let different: BTreeSet<&Vec<String>> = drawn.iter().map(|(_, parts)| &parts[part]).collect();
        assert!(different.len() >= 11, "part {part}: {} of 12", different.len());
    }
    let chosen: BTreeSet<&String> = drawn.iter().flat_map(|(_, parts)| &parts[0]).collect();
    assert!(chosen.len() > 25, "every item has its chance: {}", chosen.len());
    let seen = |daemon: &Daemon, id: &str| -> Vec<Value> {
        let total = number(&daemon.current(id)["total_items"]);
        (0..total).map(|n| daemon.ask(id, "navigate", to(n)).json()["item"]["item_id"].clone()).collect()
    };
    let (id, _) = &drawn[0];
    let before: Vec<Vec<String>> = drawn.iter().map(|(id, _)| items_of(&daemon.session(id))).collect();
    assert_eq!(json!(before[0]), json!(seen(&daemon, id)), "shown in the order in which they are listed");
    let hidden = ids("some", 30).into_iter().find(|id| !before[0].contains(id)).unwrap();
    refused(&daemon.answer(id, &hidden, json!({})), 400, &format!("Item {hidden} not in session"));
    daemon.kill();
    let daemon = on(&path, &[]);
    let after: Vec<Vec<String>> = drawn.iter().map(|(id, _)| items_of(&daemon.session(id))).collect();
    assert_eq!(after, before, "drawn once");
    assert_eq!(json!(before[0]), json!(seen(&daemon, id)));
}

#[test]
fn sections_that_shuffle_change_places_among_themselves_and_keep_their_items_in_order() {
    let daemon = ephemeral(&[]);
    let shuffled = |id: &str| part(id, 3, json!({ "order_mode": "SHUFFLE_SECTIONS" }));
    let kept = |id: &str| part(id, 2, json!({}));
    daemon.set("x", free(&[shuffled("s"), kept("k"), shuffled("t"), shuffled("u"), kept("l"), shuffled("v")]));
    let mut orders = BTreeSet::new();
    for n in 0..16 {
        let session = daemon.session(&daemon.begin("x", &format!("candidate {n}")));
        let order = names(&session);
        assert_eq!((&*order[1], &*order[4]), ("k", "l"), "the others stay where they are: {order:?}");
        let unique: BTreeSet<&str> = order.iter().map(String::as_str).collect();
        assert_eq!(unique, ["s", "k", "t", "u", "l", "v"].into());
        for section in session["sections"].as_array().unwrap() {
            let id = section["section_id"].as_str().unwrap();
            let count = if "kl".contains(id) { 2 } else { 3 };
            assert_eq!(strings(&section["items"]), ids(id, count));
        }
        orders.insert(order);
    }
    // 16 of 24 orders at random: fewer than 6 different ones in one of some 10^7 runs.
    assert!(orders.len() >= 6, "{orders:?}");
}
