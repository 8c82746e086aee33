//! Visible is durable: the states of a noun between a command and the disk.
//!
//! Owns the two-step life of every change. At most two batches exist at a time, the one being written and the one
//! gathering behind it; [`Flight`] is a pair of whatever belongs to each. [`Staged`] is a noun's shown state and its
//! state after each of the two. It knows nothing of what the noun is.
//!
//! Invariants: what is shown is on the disk, or follows from what is; commands are judged against the latest state;
//! a batch that fails takes the one gathering behind it along, since that was judged on top.

/// Something of the batch that gathers, and of the one being written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flight<T> {
    /// Belongs to the batch that this turn's commands go into.
    pub gathering: T,
    /// Belongs to the batch that the disk has in hand.
    pub writing: T,
}

impl<T: Default> Flight<T> {
    /// The gathering batch goes to the disk. The one before must have come back.
    pub fn hand_over(&mut self) {
        self.writing = std::mem::take(&mut self.gathering);
    }
}

/// Which batch must be durable before a reply may leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hold {
    /// Nothing it tells of is on its way.
    #[default]
    Nothing,
    /// The batch that the disk has in hand.
    Writing,
    /// The batch that gathers.
    Gathering,
}

/// A noun: what everybody sees, and what is on its way to the disk. `None` as a state: it does not exist.
#[derive(Clone, Debug)]
pub struct Staged<T> {
    shown: Option<T>,
    pending: Flight<Option<Box<Option<T>>>>,
}

impl<T> Staged<T> {
    /// A noun that nobody sees until its first change is durable.
    pub fn unseen() -> Self {
        Staged { shown: None, pending: Flight::default() }
    }

    /// A noun as it was read from the disk.
    pub fn durable(state: T) -> Self {
        Staged { shown: Some(state), pending: Flight::default() }
    }

    /// What ticks, reads, lists and greetings tell.
    pub fn shown(&self) -> Option<&T> {
        self.shown.as_ref()
    }

    /// For consequences only: what follows from shown state is shown at once. Never while anything is pending.
    pub fn shown_mut(&mut self) -> Option<&mut T> {
        debug_assert!(!self.is_pending());
        self.shown.as_mut()
    }

    /// A consequence has removed it.
    pub fn vanish(&mut self) {
        debug_assert!(!self.is_pending());
        self.shown = None;
    }

    /// What commands are judged against.
    pub fn latest(&self) -> Option<&T> {
        match (&self.pending.gathering, &self.pending.writing) {
            (Some(next), _) | (None, Some(next)) => next.as_ref().as_ref(),
            (None, None) => self.shown.as_ref(),
        }
    }

    /// How long an answer that tells of the latest state must be held.
    pub fn hold(&self) -> Hold {
        match (&self.pending.gathering, &self.pending.writing) {
            (Some(_), _) => Hold::Gathering,
            (None, Some(_)) => Hold::Writing,
            (None, None) => Hold::Nothing,
        }
    }

    /// A change is on its way.
    pub fn is_pending(&self) -> bool {
        self.hold() != Hold::Nothing
    }

    /// Puts its next state (`None`: deleted) into the gathering batch.
    pub fn stage(&mut self, next: Option<T>) {
        self.pending.gathering = Some(Box::new(next));
    }

    /// The gathering batch goes to the disk. Once a batch: a second time would hand over nothing in its place.
    pub fn hand_over(&mut self) {
        debug_assert!(self.pending.gathering.is_some());
        self.pending.hand_over();
    }

    /// The batch in hand is durable: its state is shown. Returns what was shown before.
    pub fn commit(&mut self) -> Option<T> {
        match self.pending.writing.take() {
            Some(next) => std::mem::replace(&mut self.shown, *next),
            None => None,
        }
    }

    /// Neither batch will ever be durable.
    pub fn undo(&mut self) {
        self.pending = Flight::default();
    }

    /// Nothing is left of it and nothing comes.
    pub fn is_gone(&self) -> bool {
        self.shown.is_none() && !self.is_pending()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_judged_at_once_and_shown_when_durable() {
        let mut noun = Staged::durable(1);
        noun.stage(Some(2));
        assert_eq!((noun.shown(), noun.latest(), noun.hold()), (Some(&1), Some(&2), Hold::Gathering));
        noun.hand_over();
        assert_eq!(noun.hold(), Hold::Writing);
        noun.stage(Some(3));
        assert_eq!((noun.shown(), noun.latest(), noun.hold()), (Some(&1), Some(&3), Hold::Gathering));
        assert_eq!(noun.commit(), Some(1));
        assert_eq!((noun.shown(), noun.latest(), noun.hold()), (Some(&2), Some(&3), Hold::Gathering));
        noun.hand_over();
        noun.commit();
        assert_eq!((noun.shown(), noun.hold()), (Some(&3), Hold::Nothing));
    }

    #[test]
    fn a_failed_batch_takes_the_one_behind_it_along() {
        let mut noun = Staged::durable(1);
        noun.stage(None);
        noun.hand_over();
        assert_eq!(noun.latest(), None);
        noun.stage(Some(9));
        noun.undo();
        assert_eq!((noun.shown(), noun.latest(), noun.is_pending()), (Some(&1), Some(&1), false));
    }

    #[test]
    fn a_creation_that_failed_leaves_nothing() {
        let mut noun = Staged::unseen();
        noun.stage(Some(1));
        assert_eq!(noun.shown(), None);
        noun.hand_over();
        noun.undo();
        assert!(noun.is_gone());
    }
}
