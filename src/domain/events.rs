//! Events: what happened in the exam, kept in the order in which it became durable.
//!
//! Owns the registry of types, what an event is, who wants to hear of which, and the names that clients know events
//! by. An event is a fact: it has no state, it is published once and never changed. It must not know connections,
//! JSON or the disk; a payload is text that was checked and compacted before it came here.
//!
//! Invariants: an event gets its sequence number from the disk, in the order of commits, without a gap, and none is
//! used twice; its id is that number under a secret permutation, so that it is unique, tells nobody how many there
//! are, and needs no index to be found by; whoever reads in order is told when events before him have been deleted.

use std::sync::Arc;

use crate::clock::WallMs;
use crate::domain::effects::Effects;
use crate::domain::staged::Flight;
use crate::limits::{EVENT_BYTES_GATHERED_MAX, EVENTS_GATHERED_MAX};

/// One event, before the disk has numbered it.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// What happened.
    pub kind: Kind,
    /// Who says so: 1..=100 of `[a-zA-Z0-9_.-]`.
    pub source: Arc<str>,
    /// In which session, at most 200 characters.
    pub session: Option<Arc<str>>,
    /// To whom, at most 200 characters.
    pub user: Option<Arc<str>>,
    /// An object as compact JSON.
    pub payload: Arc<str>,
    /// The true instant. It may run against the sequence numbers, when the wall clock was stepped.
    pub at: WallMs,
}

impl Event {
    /// Bytes that it takes, nearly.
    pub fn bytes(&self) -> usize {
        let ids = [&self.session, &self.user].into_iter().flatten().map(|id| id.len()).sum::<usize>();
        size_of::<Event>() + self.source.len() + self.payload.len() + ids
    }
}

/// An event that the disk has.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// Its place in the order of commits, from 1.
    pub seq: u64,
    /// What happened.
    pub event: Event,
}

// ---------------------------------------------------------------------------------------------------------------
// The registry.

/// What may happen. The numbers are those of the store: a type keeps its own for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[expect(missing_docs, reason = "the registry below describes each")]
pub enum Kind {
    QuizStarted = 1,
    QuizCompleted,
    QuizTimeout,
    AnswerSubmitted,
    AnswerChanged,
    QuestionViewed,
    QuestionSkipped,
    TimerStarted,
    TimerTick,
    TimerWarning,
    MasteryUpdated,
    LearningGapDetected,
    SessionCreated,
    SessionEnded,
    ErrorOccurred,
    TimerCreated,
    TimerPaused,
    TimerResumed,
    TimerExtended,
    TimerStopped,
    TimerExpired,
    TimerDeleted,
}

/// Each type with its name and description, in the contract's order, which is that of their numbers.
const REGISTRY: [(Kind, &str, &str); 22] = [
    (Kind::QuizStarted, "quiz_started", "A learner began a quiz"),
    (Kind::QuizCompleted, "quiz_completed", "A learner finished a quiz"),
    (Kind::QuizTimeout, "quiz_timeout", "A quiz ended because its time was up"),
    (Kind::AnswerSubmitted, "answer_submitted", "An answer was handed in"),
    (Kind::AnswerChanged, "answer_changed", "An answer was replaced by another"),
    (Kind::QuestionViewed, "question_viewed", "A question was shown to a learner"),
    (Kind::QuestionSkipped, "question_skipped", "A question was left without an answer"),
    (Kind::TimerStarted, "timer_started", "A timer runs for the first time"),
    (Kind::TimerTick, "timer_tick", "A second of a timer has passed; the daemon's own are live only"),
    (Kind::TimerWarning, "timer_warning", "A timer came down to one of its warning thresholds"),
    (Kind::MasteryUpdated, "mastery_updated", "The estimate of a learner's mastery changed"),
    (Kind::LearningGapDetected, "learning_gap_detected", "A learner lacks something that is needed"),
    (Kind::SessionCreated, "session_created", "A session began"),
    (Kind::SessionEnded, "session_ended", "A session ended"),
    (Kind::ErrorOccurred, "error_occurred", "Something went wrong"),
    (Kind::TimerCreated, "timer_created", "A timer came into being"),
    (Kind::TimerPaused, "timer_paused", "A timer stands still"),
    (Kind::TimerResumed, "timer_resumed", "A timer runs again"),
    (Kind::TimerExtended, "timer_extended", "A timer lasts longer"),
    (Kind::TimerStopped, "timer_stopped", "A timer was ended by hand"),
    (Kind::TimerExpired, "timer_expired", "A timer ran out"),
    (Kind::TimerDeleted, "timer_deleted", "A timer was deleted"),
];

impl Kind {
    /// Every type, in the contract's order.
    pub fn all() -> impl Iterator<Item = Kind> {
        REGISTRY.iter().map(|(kind, ..)| *kind)
    }

    /// The type of this name.
    pub fn named(name: &str) -> Option<Kind> {
        REGISTRY.iter().find(|(_, known, _)| *known == name).map(|(kind, ..)| *kind)
    }

    /// The type of this number.
    pub fn numbered(number: u8) -> Option<Kind> {
        REGISTRY.get(usize::from(number).wrapping_sub(1)).map(|(kind, ..)| *kind)
    }

    /// The type's number in the store.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The type's name in the contract.
    pub const fn name(self) -> &'static str {
        REGISTRY[self as usize - 1].1
    }

    /// What it means, in one sentence.
    pub const fn description(self) -> &'static str {
        REGISTRY[self as usize - 1].2
    }
}

/// Some of the types.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kinds(u32);

impl Kinds {
    /// Whether `kind` is one of them.
    pub const fn contains(self, kind: Kind) -> bool {
        self.0 & 1 << kind.number() != 0
    }

    /// The one type, if it is only one.
    pub fn only(self) -> Option<Kind> {
        if self.0.is_power_of_two() { Kind::numbered(u8::try_from(self.0.trailing_zeros()).ok()?) } else { None }
    }
}

impl FromIterator<Kind> for Kinds {
    fn from_iter<I: IntoIterator<Item = Kind>>(kinds: I) -> Self {
        Kinds(kinds.into_iter().fold(0, |set, kind| set | 1 << kind.number()))
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Who wants to hear what.

/// Which events somebody wants: those that fit everything that is said here.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// Of one of these types.
    pub kinds: Option<Kinds>,
    /// Of this session.
    pub session: Option<Arc<str>>,
    /// Of this user.
    pub user: Option<Arc<str>>,
}

impl Filter {
    /// Whether `event` is wanted.
    pub fn admits(&self, event: &Event) -> bool {
        self.kinds.is_none_or(|kinds| kinds.contains(event.kind))
            && self.session.as_ref().is_none_or(|wanted| event.session.as_ref() == Some(wanted))
            && self.user.as_ref().is_none_or(|wanted| event.user.as_ref() == Some(wanted))
    }

    /// Whether the daemon's own ticks are wanted: by those alone who name them.
    pub fn names_ticks(&self) -> bool {
        self.kinds.is_some_and(|kinds| kinds.contains(Kind::TimerTick))
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Names.

/// The permutation between sequence numbers and ids: a Feistel network of four rounds over 48 bits. Not a cipher: it
/// hides the count from the curious, and what it must do is to never give two events one id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Names {
    key: u64,
}

impl Names {
    const HALF: u64 = (1 << 24) - 1;

    /// The permutation under `key`, which a store keeps for ever.
    pub fn new(key: u64) -> Self {
        Names { key }
    }

    /// The id of the event numbered `seq`, below 2^48: 12 hex digits behind `evt_`.
    pub fn id(self, seq: u64) -> u64 {
        let halves = ((seq >> 24) & Self::HALF, seq & Self::HALF);
        let (left, right) = (0..4).fold(halves, |(left, right), round| (right, left ^ self.mix(round, right)));
        left << 24 | right
    }

    /// The number of the event with this id.
    pub fn seq(self, id: u64) -> u64 {
        let halves = ((id >> 24) & Self::HALF, id & Self::HALF);
        let (left, right) = (0..4).rev().fold(halves, |(left, right), round| (right ^ self.mix(round, left), left));
        left << 24 | right
    }

    /// The finaliser of SplitMix64 over key, round and half.
    fn mix(self, round: u64, half: u64) -> u64 {
        let mut z = self.key.wrapping_add((round << 24 | half).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) & Self::HALF
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Publishing.

/// As many events, or as large ones, wait for the disk as may: nothing was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// How many events are on their way to the disk.
#[derive(Clone, Copy, Debug, Default)]
struct Load {
    events: usize,
    bytes: usize,
}

/// The pipeline, as far as it is not on the disk.
#[derive(Debug, Default)]
pub struct Events {
    names: Names,
    last_seq: u64,
    load: Flight<Load>,
}

impl Events {
    /// Takes up where an earlier run ended.
    pub fn restore(&mut self, names: Names, last_seq: u64) {
        self.names = names;
        self.last_seq = last_seq;
    }

    /// The names of the events.
    pub fn names(&self) -> Names {
        self.names
    }

    /// The number of the last event that is durable; 0 before the first.
    pub fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// Published events that the disk has not got yet.
    pub fn queued(&self) -> usize {
        self.load.gathering.events + self.load.writing.events
    }

    /// Puts `event` into the gathering batch. Returns its place among the batch's published ones, from 0.
    ///
    /// # Errors
    /// [`Full`]: too much gathers already.
    pub fn publish(&mut self, event: Event, fx: &mut Effects) -> Result<u32, Full> {
        let Load { events, bytes } = &mut self.load.gathering;
        if *events >= EVENTS_GATHERED_MAX || *bytes + event.bytes() > EVENT_BYTES_GATHERED_MAX {
            return Err(Full);
        }
        *events += 1;
        *bytes += event.bytes();
        Ok(fx.publish(event))
    }

    /// The gathering batch goes to the disk.
    pub fn hand_over(&mut self) {
        self.load.hand_over();
    }

    /// The batch in hand is durable; `last_seq` is the number of the last event in the store.
    pub fn commit(&mut self, last_seq: u64) {
        self.load.writing = Load::default();
        self.last_seq = last_seq;
    }

    /// Neither batch will ever be durable.
    pub fn undo(&mut self) {
        self.load = Flight::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: Kind, session: &str, user: &str) -> Event {
        let id = |text: &str| (!text.is_empty()).then(|| Arc::from(text));
        let at = WallMs::from_ms(0);
        Event { kind, source: "t".into(), session: id(session), user: id(user), payload: "{}".into(), at }
    }

    #[test]
    fn the_registry_is_in_order_and_without_repeats() {
        let names: std::collections::HashSet<_> = Kind::all().map(Kind::name).collect();
        assert_eq!(names.len(), REGISTRY.len());
        for (at, kind) in Kind::all().enumerate() {
            assert_eq!(usize::from(kind.number()), at + 1);
            assert_eq!(Kind::numbered(kind.number()), Some(kind));
            assert_eq!(Kind::named(kind.name()), Some(kind));
            assert!(!kind.description().is_empty());
        }
        assert_eq!((Kind::numbered(0), Kind::numbered(23), Kind::named("timer")), (None, None, None));
    }

    #[test]
    fn a_set_of_types_knows_its_members() {
        let one: Kinds = [Kind::TimerTick].into_iter().collect();
        let two: Kinds = [Kind::TimerTick, Kind::QuizStarted].into_iter().collect();
        assert_eq!((one.only(), two.only(), Kinds::default().only()), (Some(Kind::TimerTick), None, None));
        assert!(two.contains(Kind::QuizStarted) && !one.contains(Kind::QuizStarted));
        assert_eq!(Kind::all().collect::<Kinds>().0.count_ones(), 22);
    }

    #[test]
    fn a_filter_admits_what_fits_all_of_it() {
        let (a, b) = (event(Kind::QuizStarted, "s", "u"), event(Kind::QuizCompleted, "s", ""));
        let filter = |kinds: &[Kind], session: Option<&str>, user: Option<&str>| Filter {
            kinds: (!kinds.is_empty()).then(|| kinds.iter().copied().collect()),
            session: session.map(Arc::from),
            user: user.map(Arc::from),
        };
        let seen = |filter: Filter| (filter.admits(&a), filter.admits(&b));
        assert_eq!(seen(Filter::default()), (true, true));
        assert_eq!(seen(filter(&[Kind::QuizStarted], None, None)), (true, false));
        assert_eq!(seen(filter(&[], Some("s"), Some("u"))), (true, false));
        assert_eq!(seen(filter(&[], Some("S"), None)), (false, false));
        assert_eq!(seen(Filter { kinds: Some(Kinds::default()), ..Filter::default() }), (false, false));
    }

    #[test]
    fn ids_are_a_permutation_of_numbers() {
        let names = Names::new(0x1234_5678_9abc_def0);
        let mut ids = std::collections::HashSet::new();
        for seq in (0..50_000).chain([1 << 24, (1 << 48) - 1]) {
            let id = names.id(seq);
            assert!(id < 1 << 48);
            assert!(ids.insert(id));
            assert_eq!(names.seq(id), seq);
        }
        assert_ne!(names.id(1), Names::new(1).id(1));
        assert!(names.id(2).abs_diff(names.id(1)) > 1 << 24, "neighbours are far from each other");
    }

    #[test]
    fn too_much_on_the_way_is_refused_and_forgotten_when_it_is_over() {
        let (mut events, mut fx) = (Events::default(), Effects::default());
        for place in 0..EVENTS_GATHERED_MAX {
            let place = u32::try_from(place).unwrap();
            assert_eq!(events.publish(event(Kind::QuizStarted, "s", "u"), &mut fx), Ok(place));
        }
        assert_eq!(events.publish(event(Kind::QuizStarted, "s", "u"), &mut fx), Err(Full));
        events.hand_over();
        assert_eq!(events.queued(), EVENTS_GATHERED_MAX);
        let mut large = event(Kind::QuizStarted, "s", "u");
        large.payload = "x".repeat(EVENT_BYTES_GATHERED_MAX).into();
        assert_eq!(events.publish(large, &mut fx), Err(Full));
        events.commit(7);
        assert_eq!((events.queued(), events.last_seq()), (0, 7));
        assert!(events.publish(event(Kind::QuizStarted, "s", "u"), &mut fx).is_ok());
        events.undo();
        assert_eq!((events.queued(), events.last_seq()), (0, 7));
    }
}
