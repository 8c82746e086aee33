//! Stretches: so many rows in the order in which they were written.
//!
//! An index by a name (of a session, a user, a timer) has a leaf for each name that is busy, and a batch of commands
//! about as many names would write as many pages. So such an index begins with the stretch that the row lies in: what
//! is written now goes to the few leaves of the newest stretch, whatever its name, and a search goes from stretch to
//! stretch. In SQL the stretch of a row is `number >> 11`, in the index and in the statement alike.
//!
//! Owns how numbers and stretches belong together. It must not know what the rows are.

/// Rows of a stretch, as a power of two. Larger, and a batch writes more pages; smaller, and a search has more
/// stretches to look into.
const BITS: u32 = 11;

/// A stretch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stretch(i64);

impl Stretch {
    /// The one in which the row numbered `number` lies.
    pub(super) fn of(number: u64) -> Self {
        Stretch(i64::try_from(number >> BITS).unwrap_or(i64::MAX >> BITS))
    }

    /// Its number, as in `number >> 11`.
    pub(super) fn number(self) -> i64 {
        self.0
    }

    /// The one after it.
    pub(super) fn next(self) -> Self {
        Stretch(self.0 + 1)
    }

    /// The number of its first row.
    pub(super) fn first(self) -> u64 {
        self.0.cast_unsigned() << BITS
    }

    /// The number of its last row.
    pub(super) fn last(self) -> u64 {
        self.first() | ((1 << BITS) - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_are_those_of_sql() {
        let connection = rusqlite::Connection::open_in_memory().unwrap();
        for number in [0, 1, 2_047, 2_048, 4_095, 1 << 40, i64::MAX.cast_unsigned()] {
            let stretch = Stretch::of(number);
            let sql: i64 = connection.query_row("SELECT ?1 >> 11", [number.cast_signed()], |row| row.get(0)).unwrap();
            assert_eq!(stretch.number(), sql);
            assert!((stretch.first()..=stretch.last()).contains(&number));
            assert_eq!((Stretch::of(stretch.first()), Stretch::of(stretch.last())), (stretch, stretch));
            assert!(Stretch::of(stretch.last() + 1) > stretch || number > 1 << 60);
        }
    }
}
