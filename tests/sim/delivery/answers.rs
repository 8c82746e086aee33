//! What people must be told of a session, word for word.
//!
//! Owns the spelling of every answer that tells of a session, from the reference and the contract alone.

use serde_json::{Map, Value, json};
use timerd::api::time::date_time;
use timerd::clock::{Now, WallMs};

use super::ledger::{Deed, Exam, Face, Noun, current_item, item_text, mode_name, tick};
use super::model::{Go, Op, SECOND_NS};

/// A session as it is told of at an instant.
pub struct View<'a> {
    /// Whose it is.
    pub noun: &'a Noun,
    /// As it was.
    pub face: &'a Face,
    /// At that instant.
    pub now: Now,
}

fn up(ns: Option<u64>) -> Option<u64> {
    ns.map(|ns| ns.div_ceil(SECOND_NS))
}

impl View<'_> {
    fn exam(&self) -> &Exam {
        &self.noun.exam
    }

    fn item(&self) -> Value {
        let core = &self.face.core;
        serde_json::from_str(&item_text(self.exam(), core.paper.item_at(core.place))).unwrap()
    }

    fn part_left(&self) -> Option<u64> {
        self.face.part_left_s(self.face.core.part(), self.now)
    }

    fn answered(&self) -> usize {
        self.face.core.answered.iter().filter(|answered| **answered).count()
    }

    /// The answer to a start.
    pub fn started(&self) -> Value {
        let core = &self.face.core;
        json!({
            "session_id": &*self.noun.id,
            "assessment_id": self.exam().id,
            "title": self.exam().title,
            "current_item_index": core.place,
            "total_items": core.paper.total(),
            "item": self.item(),
            "time_limit_seconds": up(core.limit_ns),
            "time_remaining_seconds": self.face.left_s(self.now),
            "section_remaining_seconds": self.part_left(),
            "state": core.state.name(),
            "navigation_mode": mode_name(core.paper.mode),
        })
    }

    /// `current`.
    pub fn current(&self) -> Value {
        let core = &self.face.core;
        let (back, forth) = core.ways();
        json!({
            "session_id": &*self.noun.id,
            "current_item_index": core.place,
            "total_items": core.paper.total(),
            "item": self.item(),
            "time_remaining_seconds": self.face.left_s(self.now),
            "section_remaining_seconds": self.part_left(),
            "is_flagged": core.flagged[core.place],
            "state": core.state.name(),
            "navigation_mode": mode_name(core.paper.mode),
            "can_go_previous": back,
            "can_go_next": forth,
        })
    }

    /// `save`.
    pub fn saved(&self) -> Value {
        json!({
            "session_id": &*self.noun.id,
            "saved_at": date_time(self.now.wall),
            "current_item_index": self.face.core.place,
            "time_remaining_seconds": self.face.left_s(self.now),
            "section_remaining_seconds": self.part_left(),
            "responses_count": self.answered(),
        })
    }

    /// The whole session, but for the responses and the name of its end.
    pub fn whole(&self) -> Value {
        let core = &self.face.core;
        let flagged: Vec<&str> =
            core.paper.items().zip(&core.flagged).filter(|(_, on)| **on).map(|(item, _)| item).collect();
        let sections: Vec<Value> = core
            .paper
            .parts
            .iter()
            .enumerate()
            .map(|(number, part)| {
                json!({
                    "section_id": part.id,
                    "name": part.id,
                    "time_limit_seconds": up(part.limit_ns),
                    "time_remaining_seconds": self.face.part_left_s(number, self.now),
                    "locked": core.is_shut_part(number),
                    "items": part.items,
                })
            })
            .collect();
        json!({
            "session_id": &*self.noun.id,
            "assessment_id": self.exam().id,
            "test_taker_id": self.noun.taker,
            "candidate_id": self.noun.candidate,
            "title": self.exam().title,
            "state": core.state.name(),
            "current_section_index": core.part(),
            "current_item_index": core.place,
            "flagged_items": flagged,
            "time_limit_seconds": up(core.limit_ns),
            "time_remaining_seconds": self.face.left_s(self.now),
            "section_remaining_seconds": self.part_left(),
            "started_at": date_time(WallMs::from_ms(self.noun.started_ms)),
            "sections": sections,
            "navigation_mode": mode_name(core.paper.mode),
            "late_ms": self.face.late_ms(),
            "grace_seconds": self.exam().grace_s,
        })
    }

    /// The responses, by item.
    pub fn responses(&self) -> Value {
        let words = self.face.core.paper.items().zip(&self.face.words);
        let words = words.filter_map(|(item, words)| Some((item.to_owned(), words.as_ref()?)));
        Value::Object(words.map(|(item, words)| (item, serde_json::from_str(words).unwrap())).collect::<Map<_, _>>())
    }

    /// A row of the list, but for who is connected and was last seen.
    pub fn row(&self) -> Value {
        json!({
            "session_id": &*self.noun.id,
            "candidate_id": self.noun.candidate,
            "test_taker_id": self.noun.taker,
            "state": self.face.core.state.name(),
            "time_remaining_seconds": self.face.left_s(self.now),
            "answered": self.answered(),
            "total_items": self.face.core.paper.total(),
        })
    }

    /// The answer to what was done, over REST.
    pub fn done(&self, deed: &Deed) -> Value {
        let core = &self.face.core;
        let (id, state, at) = (&*self.noun.id, core.state.name(), date_time(self.now.wall));
        match &deed.op {
            Op::Answer(item, _) => {
                json!({"session_id": id, "item_id": item, "saved": true, "current_item_index": core.place})
            }
            Op::Go(_) => {
                let (back, forth) = core.ways();
                json!({
                    "session_id": id,
                    "current_item_index": core.place,
                    "total_items": core.paper.total(),
                    "item": self.item(),
                    "section_remaining_seconds": self.part_left(),
                    "state": state,
                    "can_go_previous": back,
                    "can_go_next": forth,
                })
            }
            Op::Submit(_) => {
                let mut told = json!({
                    "session_id": id,
                    "state": "completed",
                    "completed_at": at,
                    "total_items": core.paper.total(),
                    "responses_count": self.answered(),
                });
                if let Some(late_ms) = self.face.late_ms() {
                    told["late_ms"] = json!(late_ms);
                }
                told
            }
            Op::Pause => json!({"session_id": id, "state": state, "paused_at": at}),
            Op::Resume => json!({"session_id": id, "state": state, "resumed_at": at}),
            Op::Extend(_) | Op::Terminate => json!({
                "session_id": id,
                "state": state,
                "time_remaining_seconds": self.face.left_s(self.now),
                "time_limit_seconds": up(core.limit_ns),
            }),
            Op::Flag(..) => Value::Null,
        }
    }

    /// The answers to what was done, over a socket; `tag` is what they end with.
    pub fn answered_on_socket(&self, deed: &Deed, tag: &str) -> Vec<String> {
        let core = &self.face.core;
        let place = core.place;
        match &deed.op {
            Op::Answer(item, _) => {
                vec![format!(r#"{{"type":"answer_saved","item_id":"{item}","current_index":{place}{tag}}}"#)]
            }
            Op::Flag(item, on) => vec![format!(r#"{{"type":"flagged","item_id":"{item}","is_flagged":{on}{tag}}}"#)],
            Op::Go(_) => {
                let total = core.paper.total();
                vec![
                    format!(r#"{{"type":"navigated","current_index":{place},"total_items":{total}{tag}}}"#),
                    self.here(),
                ]
            }
            _ => Vec::new(),
        }
    }

    /// The current item, on a socket.
    pub fn here(&self) -> String {
        current_item(self.exam(), self.face, self.face.core.place)
    }

    /// The time left, on a socket.
    pub fn time(&self) -> String {
        tick(self.face.left_s(self.now), self.now)
    }
}

/// A message with its reference.
pub fn tagged(mut text: String, tag: &str) -> String {
    text.truncate(text.len() - 1);
    text.push_str(tag);
    text.push('}');
    text
}

/// An assessment in which everything is said.
pub fn exam_value(exam: &Exam) -> Value {
    let sections: Vec<Value> = exam
        .parts
        .iter()
        .map(|part| {
            let items: Vec<Value> =
                part.items.iter().map(|id| serde_json::from_str(&item_text(exam, id)).unwrap()).collect();
            json!({
                "section_id": part.id,
                "name": part.id,
                "time_limit_seconds": part.limit_s,
                "selection_mode": if part.is_drawn { "RANDOM" } else { "FIXED" },
                "items_to_select": part.drawn,
                "order_mode": part.order,
                "items": items,
            })
        })
        .collect();
    json!({
        "assessment_id": exam.id,
        "title": exam.title,
        "time_limit_seconds": exam.limit_s,
        "attempt_limit": exam.attempts,
        "navigation_mode": mode_name(exam.mode),
        "grace_seconds": exam.grace_s,
        "sections": sections,
    })
}

/// A direction with its target, as a body or message has it.
pub fn way(go: &Go) -> String {
    match go {
        Go::Next => r#""direction":"next""#.to_owned(),
        Go::Previous => r#""direction":"previous""#.to_owned(),
        Go::To(Some(target)) => format!(r#""direction":"specific","target_index":{target}"#),
        Go::To(None) => r#""direction":"specific""#.to_owned(),
        Go::Nowhere(word) => format!(r#""direction":"{word}""#),
    }
}

/// The status of a row in the answer to a bulk call.
pub fn status(op: &Op) -> String {
    match op {
        Op::Pause => "paused".to_owned(),
        Op::Resume => "resumed".to_owned(),
        Op::Extend(seconds) => format!("extended by {seconds}s"),
        other => format!("{other:?}"),
    }
}
