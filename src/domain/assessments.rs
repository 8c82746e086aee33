//! Assessments and candidates: what an exam is made of before anybody starts it.
//!
//! Owns the structure of an assessment, the draw of what is left to chance, and who is known with which
//! accommodations. It must not know sessions, JSON or the disk: the content of an item is text that was checked and
//! compacted before it came here.
//!
//! Invariants: an assessment is never changed, only replaced by a newer version, so that a session keeps the one it
//! began with; ids of sections and of items are unique within it; what chance chooses is drawn once, by whoever starts
//! a session.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::domain::countdown::Second;
use crate::domain::effects::{Effects, Record};
use crate::domain::staged::{Flight, Hold, Staged};
use crate::limits::{ASSESSMENTS_BYTES_MAX, ASSESSMENTS_MAX, CANDIDATES_MAX};

/// One version of an assessment.
#[derive(Clone, Debug, PartialEq)]
pub struct Assessment {
    /// Its name to clients.
    pub id: Arc<str>,
    /// Counts versions of all assessments; names this one as long as anything is kept of it.
    pub version: u32,
    /// Its name to people.
    pub title: Arc<str>,
    /// Seconds that a session lasts, before accommodations. `None`: as long as it takes.
    pub time_limit_s: Option<u32>,
    /// How often a candidate may sit it. `None`: as often as he likes.
    pub attempt_limit: Option<u32>,
    /// How a candidate may move about.
    pub navigation: Navigation,
    /// Seconds after the deadline in which a hand-in is taken.
    pub grace_s: u32,
    /// Its parts, as written.
    pub sections: Box<[Section]>,
    /// The items of all sections, as written.
    pub items: Box<[Item]>,
    /// Items by their ids.
    numbers: HashMap<Arc<str>, u16>,
}

/// A part of an assessment.
#[derive(Clone, Debug, PartialEq)]
pub struct Section {
    /// Its name to clients.
    pub id: Arc<str>,
    /// Its name to people.
    pub name: Arc<str>,
    /// Seconds from when it is first entered, before accommodations.
    pub time_limit_s: Option<u32>,
    /// Whether its items are drawn by chance.
    pub is_drawn: bool,
    /// How many are drawn; 0: all.
    pub items_to_select: u16,
    /// In which order.
    pub order: Order,
}

impl Section {
    /// How many of its items a session has. `None`: all.
    fn selected(&self) -> Option<usize> {
        (self.is_drawn && self.items_to_select > 0).then_some(usize::from(self.items_to_select))
    }
}

/// Something to be answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// Its name to clients.
    pub id: Arc<str>,
    /// The number of its section.
    pub section: u16,
    /// What the candidate is shown: an object as compact JSON.
    pub content: Arc<str>,
    /// What is told beside it: an object as compact JSON.
    pub metadata: Arc<str>,
}

/// How a candidate may move about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Navigation {
    /// Forward, item by item.
    Linear,
    /// Anywhere.
    Free,
    /// Anywhere within a section, forward between sections.
    Hybrid,
}

impl Navigation {
    /// Every mode, in the contract's order.
    pub const ALL: [Navigation; 3] = [Navigation::Linear, Navigation::Free, Navigation::Hybrid];

    /// The mode's name in the contract.
    pub const fn name(self) -> &'static str {
        match self {
            Navigation::Linear => "LINEAR",
            Navigation::Free => "NON_LINEAR",
            Navigation::Hybrid => "HYBRID",
        }
    }
}

/// The order of a section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Items as written.
    Sequential,
    /// Items shuffled.
    Random,
    /// Items as written; the section changes places with the others of this kind.
    ShuffleSections,
}

impl Order {
    /// Every order, in the contract's order.
    pub const ALL: [Order; 3] = [Order::Sequential, Order::Random, Order::ShuffleSections];

    /// The order's name in the contract.
    pub const fn name(self) -> &'static str {
        match self {
            Order::Sequential => "SEQUENTIAL",
            Order::Random => "RANDOM",
            Order::ShuffleSections => "SHUFFLE_SECTIONS",
        }
    }
}

/// Where chance comes from: the next 32 bits.
pub type Dice<'a> = &'a mut dyn FnMut() -> u32;

impl Assessment {
    /// A version of these parts; `items` lie in the order of their sections.
    pub fn new(plan: Plan, version: u32) -> Self {
        let Plan { id, title, time_limit_s, attempt_limit, navigation, grace_s, sections, items } = plan;
        let numbers = (0..).zip(&items).map(|(number, item)| (item.id.clone(), number)).collect();
        let (sections, items) = (sections.into(), items.into());
        Assessment { id, version, title, time_limit_s, attempt_limit, navigation, grace_s, sections, items, numbers }
    }

    /// The number of the item called `id`.
    pub fn number_of(&self, id: &str) -> Option<u16> {
        self.numbers.get(id).copied()
    }

    /// The items of one session, by number in the order delivered. `None`: all as written, nothing is left to chance.
    pub fn draw(&self, dice: Dice<'_>) -> Option<Arc<[u16]>> {
        let is_fixed = |section: &Section| section.selected().is_none() && section.order == Order::Sequential;
        if self.sections.iter().all(is_fixed) {
            return None;
        }
        let mut sections: Vec<usize> = (0..self.sections.len()).collect();
        let wanders = |&section: &usize| self.sections[section].order == Order::ShuffleSections;
        let places: Vec<usize> = sections.iter().copied().filter(wanders).collect();
        let mut shuffled = places.clone();
        shuffle(&mut shuffled, dice);
        for (place, section) in places.into_iter().zip(shuffled) {
            sections[place] = section;
        }
        let mut drawn = Vec::with_capacity(self.items.len());
        for section in sections {
            let of_section = (0_u16..).zip(&self.items).filter(|(_, item)| usize::from(item.section) == section);
            let mut numbers: Vec<u16> = of_section.map(|(number, _)| number).collect();
            let section = &self.sections[section];
            if let Some(selected) = section.selected() {
                shuffle(&mut numbers, dice);
                numbers.truncate(selected);
                numbers.sort_unstable();
            }
            if section.order == Order::Random {
                shuffle(&mut numbers, dice);
            }
            drawn.append(&mut numbers);
        }
        Some(drawn.into())
    }

    /// Whether `other` is the same but for the number of its version.
    fn says_what(&self, other: &Assessment) -> bool {
        *self == Assessment { version: self.version, ..other.clone() }
    }

    /// Bytes that it takes, nearly.
    pub fn bytes(&self) -> usize {
        let of_item = |item: &Item| size_of::<Item>() + 2 * item.id.len() + item.content.len() + item.metadata.len();
        let of_section = |section: &Section| size_of::<Section>() + section.id.len() + section.name.len();
        let items: usize = self.items.iter().map(of_item).sum();
        items + self.sections.iter().map(of_section).sum::<usize>() + size_of::<Assessment>() + self.title.len()
    }
}

/// Puts a list into an order that is as likely as any other: Fisher and Yates's shuffle.
fn shuffle<T>(list: &mut [T], dice: Dice<'_>) {
    for last in (1..list.len()).rev() {
        let bound = u32::try_from(last + 1).unwrap_or(u32::MAX);
        list.swap(last, below(bound, dice) as usize);
    }
}

/// A number below `bound`, each as likely as any other: what would favour the low ones is drawn again.
fn below(bound: u32, dice: Dice<'_>) -> u32 {
    let unfair = (u32::MAX - bound + 1) % bound;
    loop {
        let product = u64::from(dice()) * u64::from(bound);
        // The low half is the remainder, the high half the number.
        #[expect(clippy::cast_possible_truncation, reason = "the two halves of 64 bits")]
        let (low, high) = (product as u32, (product >> 32) as u32);
        if low >= unfair {
            return high;
        }
    }
}

/// What a version is made of; already checked against the contract's bounds.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// See [`Assessment`].
    pub id: Arc<str>,
    /// See [`Assessment`].
    pub title: Arc<str>,
    /// See [`Assessment`].
    pub time_limit_s: Option<u32>,
    /// See [`Assessment`].
    pub attempt_limit: Option<u32>,
    /// See [`Assessment`].
    pub navigation: Navigation,
    /// See [`Assessment`].
    pub grace_s: u32,
    /// See [`Assessment`].
    pub sections: Vec<Section>,
    /// See [`Assessment`].
    pub items: Vec<Item>,
}

// ---------------------------------------------------------------------------------------------------------------
// Candidates.

/// Somebody who sits exams.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// His name to clients.
    pub id: Arc<str>,
    /// His name to people.
    pub name: Arc<str>,
    /// Whether he may start a session.
    pub is_active: bool,
    /// By how much his limits are longer.
    pub extra_time: Factor,
}

/// By how much limits are multiplied, exact to nine decimals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Factor {
    billionths: u64,
}

impl Factor {
    /// Nobody's limit is longer than anybody's.
    pub const ONE: Factor = Factor { billionths: 1_000_000_000 };

    /// So many billionths.
    pub const fn from_billionths(billionths: u64) -> Self {
        Factor { billionths }
    }

    /// In billionths.
    pub const fn billionths(self) -> u64 {
        self.billionths
    }

    /// A limit of `seconds` with the factor applied: exact, or up to a nanosecond longer.
    pub fn span(self, seconds: u32, second: Second) -> Duration {
        let ns = second.span(seconds).as_nanos() * u128::from(self.billionths);
        Duration::from_nanos(u64::try_from(ns.div_ceil(1_000_000_000)).unwrap_or(u64::MAX))
    }
}

// ---------------------------------------------------------------------------------------------------------------
// All of them.

/// Why nothing was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// Every assessment there is to start, and every candidate who is known.
#[derive(Debug, Default)]
pub struct Catalogue {
    assessments: BTreeMap<Arc<str>, Staged<Arc<Assessment>>>,
    candidates: HashMap<Arc<str>, Staged<Candidate>>,
    touched: Flight<Vec<Touched>>,
    /// Every version that takes memory: to be started, or in the hands of a session.
    versions: Vec<Weak<Assessment>>,
    version: u32,
}

#[derive(Debug)]
enum Touched {
    Assessment(Arc<str>),
    Candidate(Arc<str>),
}

/// What became of something that was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Put {
    /// There was none before.
    pub is_new: bool,
    /// What must be durable before anybody may be told.
    pub hold: Hold,
}

impl Catalogue {
    /// Every assessment shown, in order of ids.
    pub fn shown_all(&self) -> impl Iterator<Item = &Arc<Assessment>> {
        self.assessments.values().filter_map(Staged::shown)
    }

    /// The assessment shown under `id`.
    pub fn shown(&self, id: &str) -> Option<&Arc<Assessment>> {
        self.assessments.get(id)?.shown()
    }

    /// The candidate shown under `id`.
    pub fn shown_candidate(&self, id: &str) -> Option<&Candidate> {
        self.candidates.get(id)?.shown()
    }

    /// The assessment that commands are judged against, and how long an answer about that must be held.
    pub(super) fn latest(&self, id: &str) -> (Option<Arc<Assessment>>, Hold) {
        let staged = self.assessments.get(id);
        (staged.and_then(Staged::latest).cloned(), staged.map_or(Hold::Nothing, Staged::hold))
    }

    /// The candidate that commands are judged against, and how long an answer about that must be held.
    pub(super) fn latest_candidate(&self, id: &str) -> (Option<&Candidate>, Hold) {
        let staged = self.candidates.get(id);
        (staged.and_then(Staged::latest), staged.map_or(Hold::Nothing, Staged::hold))
    }

    /// Keeps an assessment, instead of an older version if there is one. Returns the version with what became of it.
    ///
    /// # Errors
    /// [`Full`] when it is one too many, or all of them together are too large.
    pub fn put(&mut self, plan: Plan, fx: &mut Effects) -> Result<(Arc<Assessment>, Put), Full> {
        let (before, hold) = self.latest(&plan.id);
        let assessment = Assessment::new(plan, self.version + 1);
        // The same again is no new version.
        if let Some(same) = before.as_ref().filter(|before| assessment.says_what(before)) {
            return Ok((same.clone(), Put { is_new: false, hold }));
        }
        let assessment = Arc::new(assessment);
        self.versions.retain(|version| version.strong_count() > 0);
        let bytes: usize = self.versions.iter().filter_map(Weak::upgrade).map(|version| version.bytes()).sum();
        let count = self.assessments.values().filter(|staged| staged.latest().is_some()).count();
        let is_one_too_many = before.is_none() && count >= ASSESSMENTS_MAX;
        if is_one_too_many || bytes + assessment.bytes() > ASSESSMENTS_BYTES_MAX {
            return Err(Full);
        }
        self.versions.push(Arc::downgrade(&assessment));
        self.version += 1;
        fx.command(Record::Assessment(assessment.clone()));
        self.stage(&assessment.id, Some(assessment.clone()));
        Ok((assessment, Put { is_new: before.is_none(), hold: Hold::Gathering }))
    }

    /// Gives up an assessment; sessions keep theirs.
    pub(super) fn remove(&mut self, id: &Arc<str>, fx: &mut Effects) {
        fx.command(Record::AssessmentGone(id.clone()));
        self.stage(id, None);
    }

    /// Keeps a candidate.
    ///
    /// # Errors
    /// [`Full`] when he is one too many.
    pub fn put_candidate(&mut self, candidate: Candidate, fx: &mut Effects) -> Result<Put, Full> {
        let is_new = self.latest_candidate(&candidate.id).0.is_none();
        if is_new && self.candidates.len() >= CANDIDATES_MAX {
            return Err(Full);
        }
        fx.command(Record::Candidate(candidate.clone()));
        let staged = self.candidates.entry(candidate.id.clone()).or_insert_with(Staged::unseen);
        if staged.hold() != Hold::Gathering {
            self.touched.gathering.push(Touched::Candidate(candidate.id.clone()));
        }
        staged.stage(Some(candidate));
        Ok(Put { is_new, hold: Hold::Gathering })
    }

    fn stage(&mut self, id: &Arc<str>, next: Option<Arc<Assessment>>) {
        let staged = self.assessments.entry(id.clone()).or_insert_with(Staged::unseen);
        if staged.hold() != Hold::Gathering {
            self.touched.gathering.push(Touched::Assessment(id.clone()));
        }
        staged.stage(next);
    }

    /// The gathering batch goes to the disk.
    pub(super) fn hand_over(&mut self) {
        self.touched.hand_over();
        for touched in &self.touched.writing {
            match touched {
                Touched::Assessment(id) => _ = self.assessments.get_mut(id).map(Staged::hand_over),
                Touched::Candidate(id) => _ = self.candidates.get_mut(id).map(Staged::hand_over),
            }
        }
    }

    /// The batch in hand is durable.
    pub(super) fn commit(&mut self) {
        for touched in std::mem::take(&mut self.touched.writing) {
            match &touched {
                Touched::Assessment(id) => _ = self.assessments.get_mut(id).map(Staged::commit),
                Touched::Candidate(id) => _ = self.candidates.get_mut(id).map(Staged::commit),
            }
            self.forget_if_gone(&touched);
        }
    }

    /// Neither batch will ever be durable.
    pub(super) fn undo(&mut self) {
        let Flight { gathering, writing } = std::mem::take(&mut self.touched);
        for touched in gathering.into_iter().chain(writing) {
            match &touched {
                Touched::Assessment(id) => _ = self.assessments.get_mut(id).map(Staged::undo),
                Touched::Candidate(id) => _ = self.candidates.get_mut(id).map(Staged::undo),
            }
            self.forget_if_gone(&touched);
        }
    }

    fn forget_if_gone(&mut self, touched: &Touched) {
        match touched {
            Touched::Assessment(id) if self.assessments.get(id).is_some_and(Staged::is_gone) => {
                self.assessments.remove(id);
            }
            Touched::Candidate(id) if self.candidates.get(id).is_some_and(Staged::is_gone) => {
                self.candidates.remove(id);
            }
            _ => {}
        }
    }

    /// Takes up what an earlier run has kept; `used` are the versions that sessions have, `version` is the highest
    /// there is.
    pub(super) fn restore(
        &mut self,
        current: Vec<Arc<Assessment>>,
        used: impl Iterator<Item = Arc<Assessment>>,
        candidates: Vec<Candidate>,
        version: u32,
    ) {
        self.version = version;
        let all: BTreeMap<u32, Arc<Assessment>> =
            used.chain(current.iter().cloned()).map(|it| (it.version, it)).collect();
        self.versions = all.values().map(Arc::downgrade).collect();
        let assessments = current.into_iter().map(|it| (it.id.clone(), Staged::durable(it)));
        self.assessments = assessments.collect();
        self.candidates = candidates.into_iter().map(|it| (it.id.clone(), Staged::durable(it))).collect();
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A section: limit, how many are drawn, order, number of items.
    pub(crate) type Part = (Option<u32>, Option<u16>, Order, u16);

    /// An assessment with these sections.
    pub(crate) fn assessment(sections: &[Part]) -> Assessment {
        Assessment::new(plan(sections), 1)
    }

    /// The plan of such an assessment: ids `s0`, `s1`, ... and `i0`, `i1`, ...
    pub(crate) fn plan(sections: &[Part]) -> Plan {
        let mut items = Vec::new();
        for (section, (.., count)) in (0_u16..).zip(sections) {
            for _ in 0..*count {
                let id = Arc::from(format!("i{}", items.len()));
                let (content, metadata) = (Arc::from(r#"{"q":1}"#), Arc::from("{}"));
                items.push(Item { id, section, content, metadata });
            }
        }
        let section = |(number, (limit, selected, order, _)): (usize, &Part)| {
            let id: Arc<str> = Arc::from(format!("s{number}"));
            let name = id.clone();
            let items_to_select = selected.unwrap_or(0);
            Section { id, name, time_limit_s: *limit, is_drawn: selected.is_some(), items_to_select, order: *order }
        };
        Plan {
            id: "exam".into(),
            title: "An exam".into(),
            time_limit_s: Some(60),
            attempt_limit: None,
            navigation: Navigation::Free,
            grace_s: 10,
            sections: sections.iter().enumerate().map(section).collect(),
            items,
        }
    }

    /// Numbers that look like chance.
    pub(crate) fn dice(mut state: u64) -> impl FnMut() -> u32 {
        move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            u32::try_from(state >> 32).unwrap()
        }
    }

    #[test]
    fn nothing_is_drawn_where_nothing_is_left_to_chance() {
        let exam = assessment(&[(None, None, Order::Sequential, 3), (None, None, Order::Sequential, 2)]);
        assert_eq!(exam.draw(&mut || panic!("no chance was asked for")), None);
    }

    #[test]
    fn a_draw_takes_so_many_of_a_section_and_keeps_their_order_unless_told_otherwise() {
        let exam = assessment(&[
            (None, Some(3), Order::Sequential, 10),
            (None, None, Order::Random, 4),
            (None, None, Order::Sequential, 2),
        ]);
        let mut orders = std::collections::HashSet::new();
        for seed in 0..100 {
            let drawn = exam.draw(&mut dice(seed)).unwrap();
            assert_eq!(drawn.len(), 9);
            assert!(drawn[..3].is_sorted() && drawn[..3].iter().all(|item| *item < 10));
            let mut second = drawn[3..7].to_vec();
            orders.insert(second.clone());
            second.sort_unstable();
            assert_eq!(second, [10, 11, 12, 13]);
            assert_eq!(drawn[7..], [14, 15]);
        }
        assert_eq!(orders.len(), 24, "every order comes");
    }

    #[test]
    fn sections_that_are_shuffled_change_places_among_themselves() {
        let exam = assessment(&[
            (None, None, Order::ShuffleSections, 2),
            (None, None, Order::Sequential, 1),
            (None, None, Order::ShuffleSections, 2),
            (None, None, Order::ShuffleSections, 1),
        ]);
        let mut orders = std::collections::HashSet::new();
        for seed in 0..200 {
            let drawn = exam.draw(&mut dice(seed)).unwrap();
            let mut sections: Vec<u16> = drawn.iter().map(|item| exam.items[usize::from(*item)].section).collect();
            sections.dedup();
            assert_eq!((sections.len(), sections[1]), (4, 1), "the fixed one stays second: {sections:?}");
            assert!(
                drawn
                    .windows(2)
                    .all(|two| two[0] < two[1] || exam_section(&exam, two[0]) != exam_section(&exam, two[1]))
            );
            orders.insert(sections);
        }
        assert_eq!(orders.len(), 6);
    }

    fn exam_section(exam: &Assessment, item: u16) -> u16 {
        exam.items[usize::from(item)].section
    }

    #[test]
    fn no_number_is_favoured() {
        // A source that gives every value once in a range divisible by nothing: the low ones are drawn again.
        let mut given = 0_u32;
        let mut counts = [0; 3];
        for _ in 0..3_000 {
            let number = below(3, &mut || {
                given = given.wrapping_add(1_431_655_765);
                given
            });
            counts[number as usize] += 1;
        }
        assert!(counts.iter().all(|count| (900..1_100).contains(count)), "{counts:?}");
    }

    #[test]
    fn a_factor_is_exact() {
        let factor = Factor::from_billionths(1_333_333_333);
        assert_eq!(factor.span(3, Second::REAL), Duration::from_nanos(3_999_999_999));
        assert_eq!(Factor::ONE.span(86_400, Second::REAL), Duration::from_secs(86_400));
        assert_eq!(Factor::from_billionths(1_500_000_000).span(1, Second::from_ms(190)), Duration::from_millis(285));
    }
}
