//! Who hears what is said at one noun.
//!
//! Owns the list of a topic's connections. A connection knows its place in the list, so that leaving costs one swap.

/// In which form messages reach somebody. Each is written once for all who take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// Frames of a WebSocket.
    WebSocket,
    /// Server-sent events.
    EventStream,
}

/// The connections of one topic that take messages in one form.
#[derive(Debug, Default)]
pub struct Audience {
    members: Vec<u32>,
    /// Those that take one of the noun's places.
    counted: u32,
    turn: usize,
}

impl Audience {
    /// Adds a connection. Returns its place.
    pub fn join(&mut self, connection: u32, counted: bool) -> u32 {
        self.members.push(connection);
        self.counted += u32::from(counted);
        u32::try_from(self.members.len() - 1).unwrap_or(u32::MAX)
    }

    /// Removes the connection at `place`. Returns the connection that has moved there, if one has.
    pub fn leave(&mut self, place: u32, counted: bool) -> Option<u32> {
        let place = place as usize;
        if place >= self.members.len() {
            return None;
        }
        self.members.swap_remove(place);
        self.counted -= u32::from(counted);
        self.members.get(place).copied()
    }

    /// Members, whether they take a place or not.
    pub fn members(&self) -> u32 {
        u32::try_from(self.members.len()).unwrap_or(u32::MAX)
    }

    /// Members that take a place.
    pub fn counted(&self) -> u32 {
        self.counted
    }

    /// Nobody is there.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Everybody, beginning with another one each time, so that nobody is always served last.
    pub fn round(&mut self) -> impl Iterator<Item = u32> + use<'_> {
        self.turn = if self.turn + 1 < self.members.len() { self.turn + 1 } else { 0 };
        let (late, early) = self.members.split_at(self.turn.min(self.members.len()));
        early.iter().chain(late).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_hears_every_round_and_everybody_is_first_once() {
        let mut audience = Audience::default();
        for connection in 0..5 {
            assert_eq!(audience.join(connection, connection != 4), connection);
        }
        assert_eq!(audience.counted(), 4);
        let mut firsts = Vec::new();
        for _ in 0..5 {
            let mut round: Vec<u32> = audience.round().collect();
            firsts.push(round[0]);
            round.sort_unstable();
            assert_eq!(round, [0, 1, 2, 3, 4]);
        }
        firsts.sort_unstable();
        assert_eq!(firsts, [0, 1, 2, 3, 4]);
    }

    #[test]
    fn leaving_moves_the_last_one_up() {
        let mut audience = Audience::default();
        (10..13).for_each(|connection| _ = audience.join(connection, true));
        assert_eq!(audience.leave(0, true), Some(12));
        assert_eq!(audience.leave(1, true), None);
        assert_eq!(audience.round().collect::<Vec<_>>(), [12]);
        assert_eq!(audience.leave(0, true), None);
        assert!(audience.is_empty());
        assert_eq!(audience.round().count(), 0);
    }
}
