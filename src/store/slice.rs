//! Slices: so much of a long piece of work as goes between two batches.
//!
//! Owns what a slice comes to. How much it may do stands in [`crate::limits`], what is done with whoever it concerns.

/// What came of a slice.
#[derive(Debug)]
pub(super) enum Slice<T> {
    /// There is more to do.
    Unfinished,
    /// It is done.
    Done(T),
}

impl<T> Slice<T> {
    /// What it came to, in other words.
    pub(super) fn map<U>(self, words: impl FnOnce(T) -> U) -> Slice<U> {
        match self {
            Slice::Unfinished => Slice::Unfinished,
            Slice::Done(done) => Slice::Done(words(done)),
        }
    }
}
