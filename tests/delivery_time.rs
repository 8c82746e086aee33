//! The time and place of a session, held against a plain model.
//!
//! Random exams with limits, sections with limits of their own, factors and graces are sat by random candidates, who
//! answer, flag, move about, are paused and go on at odd nanoseconds, get more time, hand in before the end, at it, to
//! the nanosecond, and after it, and now and then the store cannot be written. After each thing that anybody does the
//! domain's session equals the model's, and every refusal is the contract's. The model lives through time from one
//! thing to the next; the domain computes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]
#![allow(unreachable_pub, dead_code, reason = "the model serves the simulation, too")]

#[path = "sim/delivery"]
mod reference {
    #[path = "compare.rs"]
    pub mod compare;
    #[path = "model.rs"]
    pub mod model;
}

use std::rc::Rc;
use std::sync::Arc;

use proptest::prelude::*;
use timerd::clock::{Mono, Now, WallMs};
use timerd::domain::Engine;
use timerd::domain::absence::Outage;
use timerd::domain::assessments::{Candidate, Factor, Item, Navigation, Order, Plan, Section};
use timerd::domain::countdown::Second;
use timerd::domain::deadlines::Due;
use timerd::domain::delivery::{Application, Deed, Refusal, Settings, Verb, Way};
use timerd::domain::disk::Image;
use timerd::domain::effects::{Record, Scribe};
use timerd::domain::history::Actor;
use timerd::domain::timers::Settings as TimerSettings;

use reference::compare::quarrel;
use reference::model::{Event, Go, Mode, Op, Paper, Part, SECOND_NS, Session, State};

/// An exam: its limits in seconds, its mode, its grace, and its sections with limits and numbers of items.
#[derive(Clone, Debug)]
struct Exam {
    mode: Mode,
    limit_s: Option<u32>,
    grace_s: u32,
    /// Billionths.
    factor: u64,
    sections: Vec<(Option<u32>, u16)>,
}

/// What somebody does.
#[derive(Clone, Copy, Debug)]
enum Act {
    Answer(usize, Option<bool>),
    Flag(usize, bool),
    Next,
    Previous,
    To(i64),
    Submit(usize, usize),
    Pause,
    Resume,
    Extend(u32),
    Terminate,
    Look,
    /// The store cannot be written for so long: hand-ins are in vain.
    Sick(u64),
}

/// When somebody does it.
#[derive(Clone, Copy, Debug)]
enum When {
    /// So many nanoseconds later.
    After(u64),
    /// So far from the next instant at which time brings something about, before or behind it.
    Near(i64),
}

/// How the clock got there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turns {
    /// A turn at each deadline.
    Prompt,
    /// One late turn.
    Late,
    /// None before somebody does something.
    None,
}

fn exams() -> impl Strategy<Value = Exam> {
    let modes = prop_oneof![Just(Mode::Linear), Just(Mode::Free), Just(Mode::Hybrid)];
    let limits = prop_oneof![3 => (1_u32..100).prop_map(Some), 1 => Just(None)];
    let factors = prop_oneof![2 => Just(1_000_000_000), 3 => 1_000_000_000_u64..=4_000_000_000];
    let section = (prop_oneof![(1_u32..40).prop_map(Some), Just(None), Just(Some(7))], 1_u16..4);
    let sections = prop::collection::vec(section, 1..5);
    (modes, limits, prop_oneof![Just(0), 1_u32..30], factors, sections)
        .prop_map(|(mode, limit_s, grace_s, factor, sections)| Exam { mode, limit_s, grace_s, factor, sections })
}

fn steps() -> impl Strategy<Value = Vec<(When, Turns, Act)>> {
    let when = prop_oneof![
        4 => (0_u64..20_000_000_000).prop_map(When::After),
        1 => Just(When::After(0)),
        1 => Just(When::After(1)),
        3 => (-1_i64..=1).prop_map(When::Near),
        1 => (0_i64..30_000_000_000).prop_map(When::Near),
    ];
    let turns = prop_oneof![Just(Turns::Prompt), Just(Turns::Late), Just(Turns::None)];
    let act = prop_oneof![
        5 => (0_usize..14, prop::option::of(any::<bool>())).prop_map(|(item, flag)| Act::Answer(item, flag)),
        1 => (0_usize..14, any::<bool>()).prop_map(|(item, on)| Act::Flag(item, on)),
        5 => Just(Act::Next),
        2 => Just(Act::Previous),
        4 => (-1_i64..13).prop_map(Act::To),
        1 => (0_usize..14, 0_usize..4).prop_map(|(first, count)| Act::Submit(first, count)),
        2 => Just(Act::Pause),
        3 => Just(Act::Resume),
        2 => (1_u32..30).prop_map(Act::Extend),
        1 => Just(Act::Look),
        1 => (1_u64..40_000_000_000).prop_map(Act::Sick),
    ];
    let act = prop_oneof![40 => act, 1 => Just(Act::Terminate)];
    prop::collection::vec((when, turns, act), 1..40)
}

/// The domain with one session in it, beside its model.
struct Hall {
    engine: Engine,
    now: Now,
    serial: u32,
    model: Session,
    /// What the model has told that no record has been seen for yet.
    told: usize,
    events: usize,
}

fn at(ns: u64) -> Now {
    Now { mono: Mono::from_ns(ns), wall: WallMs::from_ms(1_700_000_000_000 + i64::try_from(ns / 1_000_000).unwrap()) }
}

fn item(number: usize) -> String {
    format!("item-{number}")
}

impl Hall {
    fn open(exam: &Exam) -> Hall {
        let timers =
            TimerSettings { timers_max: 1, second: Second::REAL, outage: Outage::RunOn, keep_finished: None };
        let delivery = Settings {
            sessions_max: 10,
            known_only: false,
            keep_finished: None,
            second: Second::REAL,
            outage: Outage::RunOn,
        };
        let scribe = Scribe { timer: |_| Arc::from("{}"), session: |_| Arc::from("{}") };
        let mut engine = Engine::new(timers, delivery, Default::default(), scribe);
        let now = at(77_123_456_789);
        engine.restore(now, Image::default());
        let mut items = Vec::new();
        for (section, (_, count)) in (0_u16..).zip(&exam.sections) {
            for _ in 0..*count {
                let id = item(items.len()).into();
                items.push(Item { id, section, content: "{}".into(), metadata: "{}".into() });
            }
        }
        let sections = exam.sections.iter().enumerate().map(|(number, (limit_s, _))| Section {
            id: format!("s{number}").into(),
            name: "".into(),
            time_limit_s: *limit_s,
            is_drawn: false,
            items_to_select: 0,
            order: Order::Sequential,
        });
        let navigation = match exam.mode {
            Mode::Linear => Navigation::Linear,
            Mode::Free => Navigation::Free,
            Mode::Hybrid => Navigation::Hybrid,
        };
        let plan = Plan {
            id: "exam".into(),
            title: "Exam".into(),
            time_limit_s: exam.limit_s,
            attempt_limit: None,
            navigation,
            grace_s: exam.grace_s,
            sections: sections.collect(),
            items,
        };
        engine.delivery.catalogue.put(plan, &mut engine.fx).unwrap();
        let extra_time = Factor::from_billionths(exam.factor);
        let candidate = Candidate { id: "c".into(), name: "".into(), is_active: true, extra_time };
        engine.delivery.catalogue.put_candidate(candidate, &mut engine.fx).unwrap();
        let asked = Application { assessment: "exam", candidate: "c", test_taker: "t" };
        let mut dice = 0_u32;
        let mut dice = || {
            dice += 1;
            dice
        };
        let actor = Actor::from("candidate");
        let session = engine.delivery.start(now, asked, &mut dice, &actor, &mut engine.fx).outcome.unwrap();
        // Up to a nanosecond longer where the factor is not even, as the daemon's customers would have it.
        let limit = |limit_s: Option<u32>| {
            limit_s.map(|limit_s| {
                let ns = u128::from(limit_s) * u128::from(SECOND_NS) * u128::from(exam.factor);
                u64::try_from(ns.div_ceil(1_000_000_000)).unwrap()
            })
        };
        let mut next = 0;
        let parts = exam.sections.iter().enumerate().map(|(number, (limit_s, count))| {
            let items = (next..next + usize::from(*count)).map(item).collect();
            next += usize::from(*count);
            Part { id: format!("s{number}"), number, limit_ns: limit(*limit_s), items }
        });
        let parts = parts.collect();
        let grace_ns = u64::from(exam.grace_s) * SECOND_NS;
        let paper = Paper { mode: exam.mode, limit_ns: limit(exam.limit_s), grace_ns, parts };
        let model = Session::start(Rc::new(paper), now.mono.ns());
        let serial = session.serial;
        let mut hall = Hall { engine, now, serial, model, told: 3, events: 0 };
        hall.commit();
        hall
    }

    /// The disk takes everything at once.
    fn commit(&mut self) {
        let batch = self.engine.hand_over(self.now);
        let records = batch.follows.iter().chain(&batch.commands);
        self.events += records.filter(|record| matches!(record, Record::Event(_))).count();
        self.engine.commit(self.now, 0);
        // What that has brought about.
        let again = self.engine.hand_over(self.now);
        self.events += again.follows.iter().filter(|record| matches!(record, Record::Event(_))).count();
        assert!(again.commands.is_empty(), "nothing is left over: {again:?}");
        self.engine.commit(self.now, 0);
    }

    /// A turn at this instant.
    fn turn(&mut self, ns: u64) {
        self.now = at(ns);
        self.wake();
        self.commit();
    }

    fn wake(&mut self) {
        while let Some((_, due)) = self.engine.fx.deadlines.pop(self.now.mono) {
            if let Due::Session(sleeper) = due {
                self.engine.delivery.wake(self.now, sleeper, &mut self.engine.fx);
            }
        }
    }

    fn pass(&mut self, when: When, turns: Turns) {
        let now_ns = self.now.mono.ns();
        let due_ns = self.model.next_ns().map(|next_ns| self.model.at_ns + next_ns);
        let ns = match (when, due_ns) {
            (When::After(ns), _) => now_ns + ns,
            (When::Near(off), Some(due_ns)) => due_ns.saturating_add_signed(off).max(now_ns),
            (When::Near(off), None) => now_ns + off.unsigned_abs(),
        };
        match turns {
            Turns::Prompt => {
                while let Some(due) = self.engine.fx.deadlines.next().filter(|due| due.ns() <= ns) {
                    self.turn(due.ns().max(self.now.mono.ns()));
                }
            }
            Turns::Late => self.turn(ns),
            Turns::None => {}
        }
        self.now = at(ns);
        let told = self.model.live(ns, true);
        self.told += told.iter().map(|(_, event)| events_of(event)).sum::<usize>();
    }

    /// A batch fails, and the next one is durable so much later. Clocks run, graces do not.
    fn be_sick(&mut self, ns: u64) {
        let batch = self.engine.hand_over(self.now);
        self.engine.undo(self.now, batch);
        let until_ns = self.now.mono.ns() + ns;
        while let Some(due) = self.engine.fx.deadlines.next().filter(|due| due.ns() <= until_ns) {
            self.now = at(due.ns().max(self.now.mono.ns()));
            self.wake();
        }
        self.now = at(until_ns);
        let told = self.model.live(until_ns, false);
        self.told += told.iter().map(|(_, event)| events_of(event)).sum::<usize>();
        self.commit();
        // What was over is said to be when hand-ins could be taken again.
        let told = self.model.live(until_ns, true);
        self.told += told.iter().map(|(_, event)| events_of(event)).sum::<usize>();
    }

    fn act(&mut self, act: Act) -> Result<(), TestCaseError> {
        let response: Arc<str> = Arc::from(r#"{"a":1}"#);
        let name = |number: usize| item(number);
        let handed: Vec<String>;
        let (op, text);
        let deed = match act {
            Act::Look => return Ok(()),
            Act::Sick(ns) => {
                self.be_sick(ns);
                return Ok(());
            }
            Act::Answer(number, is_flagged) => {
                text = name(number);
                op = Op::Answer(text.clone(), is_flagged);
                Deed::Answer { item: text.into(), response, is_flagged }
            }
            Act::Flag(number, is_flagged) => {
                text = name(number);
                op = Op::Flag(text.clone(), is_flagged);
                Deed::Flag { item: text.into(), is_flagged }
            }
            Act::Next => {
                op = Op::Go(Go::Next);
                Deed::Navigate(Way::Next)
            }
            Act::Previous => {
                op = Op::Go(Go::Previous);
                Deed::Navigate(Way::Previous)
            }
            Act::To(target) => {
                op = Op::Go(Go::To(Some(target)));
                Deed::Navigate(Way::To(target))
            }
            Act::Submit(first, count) => {
                handed = (first..first + count).map(name).collect();
                op = Op::Submit(handed.clone());
                Deed::Submit(handed.iter().map(|item| (item.as_str().into(), response.clone())).collect())
            }
            Act::Pause => {
                op = Op::Pause;
                Deed::Pause
            }
            Act::Resume => {
                op = Op::Resume;
                Deed::Resume
            }
            Act::Extend(added_s) => {
                op = Op::Extend(u64::from(added_s));
                Deed::Extend { added_s, reason: "".into() }
            }
            Act::Terminate => {
                op = Op::Terminate;
                Deed::Terminate
            }
        };
        let mut next = self.model.clone();
        let expected = next.ask(&op);
        let engine = &mut self.engine;
        let actor = Actor::from("somebody");
        let verdict = engine.delivery.act(self.now, self.serial, deed, &actor, &mut engine.fx);
        match (&expected, &verdict.outcome) {
            (Ok(told), Ok(_)) => {
                self.told += told.iter().map(|(_, event)| events_of(event)).sum::<usize>();
                self.model = next;
            }
            (Err(text), Err(refusal)) => prop_assert_eq!(text, &words(refusal)),
            _ => prop_assert!(false, "{:?}: {:?}, not {:?}", op, verdict.outcome, expected),
        }
        self.commit();
        Ok(())
    }

    fn check(&mut self) -> Result<(), TestCaseError> {
        let engine = &mut self.engine;
        let stored = engine.delivery.shown_by_serial(self.now, self.serial, &mut engine.fx).unwrap().clone();
        if let Some(why) = quarrel(&self.model, &stored, false) {
            prop_assert!(false, "at {}: {}\n {:?}\n {:?}", self.now.mono.ns(), why, stored, self.model);
        }
        let (second, now) = (Second::REAL, self.now);
        let left_s = self.model.left_at(now.mono.ns()).map(|left| left.div_ceil(SECOND_NS));
        prop_assert_eq!(stored.left_s(now, second).map(u64::from), left_s);
        let (back, forth) = self.model.ways();
        prop_assert_eq!(
            (stored.destination(Way::Previous).is_ok(), stored.destination(Way::Next).is_ok()),
            (back, forth)
        );
        let due = self.model.next_ns().map(|next_ns| self.model.at_ns + next_ns);
        let alarm = self.engine.fx.deadlines.next().map(Mono::ns);
        prop_assert!(
            due.is_none() || alarm.is_some_and(|alarm| Some(alarm) <= due),
            "due {:?}, alarm {:?}",
            due,
            alarm
        );
        self.commit();
        prop_assert_eq!(self.events, self.told, "each thing is an event, once");
        Ok(())
    }
}

/// How many events are written of something that happened.
fn events_of(event: &Event) -> usize {
    match event {
        Event::GraceOver | Event::HandedIn => 2,
        Event::SectionOver { .. } | Event::Paused | Event::Resumed | Event::Extended(_) => 0,
        _ => 1,
    }
}

/// The contract's words for a refusal.
fn words(refusal: &Refusal) -> String {
    match refusal {
        Refusal::WrongState { verb, state } => {
            let state = State::ALL.into_iter().find(|known| known.name() == state.name()).unwrap();
            match (verb, state) {
                (Verb::Answer | Verb::Flag | Verb::Navigate, State::Expired) => "Time expired".to_owned(),
                (Verb::Answer, state) => format!("Cannot submit answer in state: {}", state.name()),
                (Verb::Flag, state) => format!("Cannot flag in state: {}", state.name()),
                (Verb::Navigate, state) => format!("Cannot navigate in state: {}", state.name()),
                (Verb::Submit, state) => format!("Cannot submit in state: {}", state.name()),
                (Verb::Extend, state) => format!("Cannot extend in state: {}", state.name()),
                (Verb::Pause, state) => format!("Cannot transition from {} to paused", state.name()),
                (Verb::Resume, state) => format!("Cannot transition from {} to in_progress", state.name()),
                (Verb::Terminate, state) => format!("Cannot transition from {} to terminated", state.name()),
            }
        }
        Refusal::Untimed => "Session has no time limit".to_owned(),
        Refusal::NoItem(item) => format!("Item {item} not in session"),
        Refusal::ItemLocked(item) => format!("Item {item} is locked"),
        Refusal::SectionLocked => "Section is locked".to_owned(),
        Refusal::PastLast => "Cannot navigate past the last item".to_owned(),
        Refusal::BeforeFirst => "Cannot navigate before the first item".to_owned(),
        Refusal::NoIndex(index) => format!("Invalid target index: {index}"),
        Refusal::OnlyForward => "LINEAR mode: can only navigate forward".to_owned(),
        Refusal::EarlierSection => "HYBRID mode: cannot return to an earlier section".to_owned(),
        other => panic!("nobody has asked for what is answered with {other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 4_000,
        max_shrink_iters: 20_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_session_lives_as_arithmetic_says(exam in exams(), steps in steps()) {
        let mut hall = Hall::open(&exam);
        hall.check()?;
        for (when, turns, act) in steps {
            hall.pass(when, turns);
            hall.act(act)?;
            hall.check()?;
        }
    }
}

#[test]
fn the_model_itself_counts_as_one_does_by_hand() {
    let part = |id: &str, limit_s: Option<u64>, items: &[&str]| Part {
        id: id.to_owned(),
        number: 0,
        limit_ns: limit_s.map(|limit_s| limit_s * SECOND_NS),
        items: items.iter().map(|item| (*item).to_owned()).collect(),
    };
    let parts = vec![part("a", Some(10), &["1", "2"]), part("b", None, &["3"]), part("c", Some(5), &["4"])];
    let paper = Paper { mode: Mode::Free, limit_ns: Some(60 * SECOND_NS), grace_ns: 3 * SECOND_NS, parts };
    let mut session = Session::start(Rc::new(paper), 100);
    session.live(100 + 4 * SECOND_NS + 1, true);
    session.ask(&Op::Pause).unwrap();
    session.live(100 + 90 * SECOND_NS, true);
    session.ask(&Op::Resume).unwrap();
    assert_eq!(session.left_ns, Some(56 * SECOND_NS - 1));
    assert_eq!(session.sections[0].left_ns, Some(6 * SECOND_NS - 1));
    let told = session.live(100 + 96 * SECOND_NS, true);
    let over = 100 + 96 * SECOND_NS - 1;
    let expected =
        [(over, Event::SectionOver { part: 0, place: 2 }), (over, Event::Skipped(0)), (over, Event::Viewed(2))];
    assert_eq!(told, expected, "not one nanosecond early");
    session.ask(&Op::Extend(10)).unwrap();
    session.ask(&Op::Go(Go::Next)).unwrap();
    let told = session.live(100 + 101 * SECOND_NS, true);
    assert_eq!(told[0].1, Event::SectionOver { part: 2, place: 2 });
    assert_eq!(session.ask(&Op::Answer("4".to_owned(), None)), Err("Section is locked".to_owned()));
    let end = 100 + (90 + 56 + 10) * SECOND_NS - 1;
    session.live(end - 1, true);
    assert_eq!((session.state, session.left_ns), (State::InProgress, Some(1)));
    assert_eq!(session.live(end, true), [(end, Event::Expired)]);
    session.live(end + 2 * SECOND_NS, true);
    // So long hand-ins were not taken.
    session.live(end + 50 * SECOND_NS, false);
    session.live(end + 51 * SECOND_NS - 1, true);
    let mut late = session.clone();
    late.ask(&Op::Submit(vec!["3".to_owned()])).unwrap();
    assert_eq!((late.state, late.late_ns), (State::Completed, Some(51 * SECOND_NS - 1)));
    assert_eq!(session.live(end + 51 * SECOND_NS, true), [(end + 51 * SECOND_NS, Event::GraceOver)]);
    assert_eq!(session.ask(&Op::Submit(Vec::new())), Err("Cannot submit in state: expired".to_owned()));
}
