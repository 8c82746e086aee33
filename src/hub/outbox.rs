//! What waits to be sent to one connection.
//!
//! Owns a short queue of shared frames: a broadcast is one buffer, and each outbox holds a pointer to it. It knows
//! neither sockets nor protocols; whoever drives it takes [`Outbox::only`] or [`Outbox::slices`], sends, and says how
//! much has gone.
//!
//! Invariants: frames leave in the order they were pushed, but for a tick that is not yet on its way when a newer one
//! comes: it gives way, and the newer goes to the end, so that a warning still precedes its tick. Nothing else is
//! ever dropped: over the bound the push is refused, and the client with it.

use std::io::IoSlice;
use std::rc::Rc;

use smallvec::SmallVec;

use crate::limits::{
    CANDIDATE_OUTBOX_BYTES_MAX, FEED_BYTES_MAX, FEED_FRAMES_MAX, MEMBER_OUTBOX_BYTES_MAX, MEMBER_OUTBOX_FRAMES_MAX,
    OUTBOX_BYTES_MAX, OUTBOX_FRAMES_MAX,
};

/// Frames that one system call sends.
const SLICES_MAX: usize = 8;
/// Bytes that are rather copied together than sent by several pointers.
const GATHER_BYTES_MAX: usize = 4 << 10;

/// Bytes ready for the wire, shared by everybody they are for.
#[derive(Debug)]
pub struct Frame {
    /// Gives way to a newer one.
    is_tick: bool,
    bytes: Box<[u8]>,
}

/// A pointer to a frame.
pub type Shared = Rc<Frame>;

impl Frame {
    /// A frame that must arrive.
    pub fn lasting(bytes: Vec<u8>) -> Shared {
        Rc::new(Frame { is_tick: false, bytes: bytes.into_boxed_slice() })
    }

    /// A frame that a newer one makes worthless.
    pub fn tick(bytes: Vec<u8>) -> Shared {
        Rc::new(Frame { is_tick: true, bytes: bytes.into_boxed_slice() })
    }
}

/// How much may wait.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    bytes: usize,
    frames: usize,
}

impl Bound {
    /// For a timer's client.
    pub const CLIENT: Bound = Bound { bytes: OUTBOX_BYTES_MAX, frames: OUTBOX_FRAMES_MAX };
    /// For a candidate, who is sent items of any size.
    pub const CANDIDATE: Bound = Bound { bytes: CANDIDATE_OUTBOX_BYTES_MAX, frames: OUTBOX_FRAMES_MAX };
    /// For somebody in a room.
    pub const MEMBER: Bound = Bound { bytes: MEMBER_OUTBOX_BYTES_MAX, frames: MEMBER_OUTBOX_FRAMES_MAX };
    /// For a subscriber.
    pub const FEED: Bound = Bound { bytes: FEED_BYTES_MAX, frames: FEED_FRAMES_MAX };
    /// For what a subscriber is told beside events, which fill its outbox up to their own bound, or by one page more,
    /// and must not crowd out an answer.
    pub const FEED_SAID: Bound = Bound { bytes: 2 * FEED_BYTES_MAX, frames: FEED_FRAMES_MAX + OUTBOX_FRAMES_MAX };
}

/// The client does not keep up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overflow;

/// The queue.
#[derive(Debug, Default)]
pub struct Outbox {
    /// Two inline: a warning and its tick need no allocation.
    frames: SmallVec<[Shared; 2]>,
    /// Bytes of the first frame that have gone.
    sent_bytes: u32,
    /// Bytes queued, those that have gone of the first frame included.
    queued_bytes: u32,
}

impl Outbox {
    /// Queues `frame`. Returns whether an older tick gave way.
    ///
    /// # Errors
    /// [`Overflow`] when the bound would be passed; nothing is queued then, and the connection is over: the tick
    /// that gave way is not put back.
    pub fn push(&mut self, frame: &Shared, bound: Bound) -> Result<bool, Overflow> {
        let gave_way = frame.is_tick && !self.frames.is_empty() && self.drop_unsent_tick();
        if self.bytes() + frame.bytes.len() > bound.bytes || self.frames.len() >= bound.frames {
            return Err(Overflow);
        }
        self.push_unbounded(frame.clone());
        Ok(gave_way)
    }

    /// Queues an answer that was asked for, whatever its size: the next request is not read before it has gone.
    pub fn push_unbounded(&mut self, frame: Shared) {
        self.queued_bytes = self.queued_bytes.saturating_add(u32::try_from(frame.bytes.len()).unwrap_or(u32::MAX));
        self.frames.push(frame);
    }

    /// The bytes to send, if they are those of a single frame: the usual case, and the cheapest to send.
    pub fn only(&self) -> Option<&[u8]> {
        match self.frames.as_slice() {
            [frame] => frame.bytes.get(self.sent_bytes as usize..),
            _ => None,
        }
    }

    /// The bytes to send next, frame by frame, as many as go into one system call.
    pub fn slices(&self) -> SmallVec<[IoSlice<'_>; SLICES_MAX]> {
        let mut skip = self.sent_bytes as usize;
        let first = self.frames.iter().take(SLICES_MAX);
        first.map(|frame| IoSlice::new(frame.bytes.get(std::mem::take(&mut skip)..).unwrap_or(&[]))).collect()
    }

    /// Copies the bytes to send into `buffer`, if they are few: one send(2) of a copy costs less than a writev(2).
    /// Returns whether they are there.
    pub fn gather(&self, buffer: &mut Vec<u8>) -> bool {
        if self.bytes() > GATHER_BYTES_MAX {
            return false;
        }
        buffer.clear();
        let mut skip = self.sent_bytes as usize;
        for frame in &self.frames {
            buffer.extend_from_slice(frame.bytes.get(std::mem::take(&mut skip)..).unwrap_or(&[]));
        }
        true
    }

    /// So many of the bytes to send have been taken by the kernel.
    pub fn advance(&mut self, bytes: usize) {
        if bytes == self.bytes() {
            // Nearly always: all of it.
            let inline = !self.frames.spilled();
            if inline {
                self.frames.clear()
            } else {
                self.frames = SmallVec::new()
            }
            (self.sent_bytes, self.queued_bytes) = (0, 0);
            return;
        }
        let mut gone = self.sent_bytes as usize + bytes;
        let whole = self.frames.iter().take_while(|frame| {
            let is_whole = gone >= frame.bytes.len();
            if is_whole {
                gone -= frame.bytes.len();
            }
            is_whole
        });
        let whole = whole.count();
        for frame in self.frames.drain(..whole) {
            self.queued_bytes -= u32::try_from(frame.bytes.len()).unwrap_or(u32::MAX);
        }
        self.sent_bytes = u32::try_from(gone).unwrap_or(u32::MAX);
    }

    /// Bytes that have not gone yet.
    pub fn bytes(&self) -> usize {
        (self.queued_bytes - self.sent_bytes) as usize
    }

    /// Bytes of memory that what waits takes: a frame is kept whole until its last byte has gone.
    pub fn held_bytes(&self) -> usize {
        self.queued_bytes as usize
    }

    /// Everything has gone.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// There is at most one: the newest frame that is a tick, unless it is on its way already.
    fn drop_unsent_tick(&mut self) -> bool {
        let first_unsent = usize::from(self.sent_bytes > 0);
        let Some(at) = self.frames.iter().rposition(|frame| frame.is_tick).filter(|at| *at >= first_unsent) else {
            return false;
        };
        let old = self.frames.remove(at);
        self.queued_bytes -= u32::try_from(old.bytes.len()).unwrap_or(u32::MAX);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(outbox: &mut Outbox) -> String {
        let mut text = String::new();
        while !outbox.is_empty() {
            let bytes = match outbox.only() {
                Some(bytes) => bytes.to_vec(),
                None => outbox.slices().iter().flat_map(|slice| slice.to_vec()).collect(),
            };
            text.push_str(std::str::from_utf8(&bytes).unwrap());
            outbox.advance(bytes.len());
        }
        text
    }

    #[test]
    fn a_newer_tick_replaces_the_unsent_one_and_goes_to_the_end() {
        let mut outbox = Outbox::default();
        outbox.push(&Frame::tick(b"61 ".to_vec()), Bound::CLIENT).unwrap();
        outbox.push(&Frame::lasting(b"warning60 ".to_vec()), Bound::CLIENT).unwrap();
        assert_eq!(outbox.push(&Frame::tick(b"60 ".to_vec()), Bound::CLIENT), Ok(true));
        outbox.push(&Frame::lasting(b"paused ".to_vec()), Bound::CLIENT).unwrap();
        assert_eq!(outbox.bytes(), 20);
        assert_eq!(drain(&mut outbox), "warning60 60 paused ");
        assert!(outbox.is_empty());
        assert_eq!(outbox.bytes(), 0);
    }

    #[test]
    fn a_tick_on_its_way_is_finished() {
        let mut outbox = Outbox::default();
        outbox.push(&Frame::tick(b"61 ".to_vec()), Bound::CLIENT).unwrap();
        outbox.advance(1);
        assert_eq!(outbox.push(&Frame::tick(b"60 ".to_vec()), Bound::CLIENT), Ok(false));
        assert_eq!(outbox.push(&Frame::tick(b"59 ".to_vec()), Bound::CLIENT), Ok(true));
        assert_eq!(drain(&mut outbox), "1 59 ");
    }

    #[test]
    fn ticks_alone_never_overflow_and_state_is_never_dropped() {
        let mut outbox = Outbox::default();
        for _ in 0..100_000 {
            outbox.push(&Frame::tick(vec![b't'; 60]), Bound::CLIENT).unwrap();
        }
        assert_eq!(outbox.bytes(), 60);
        let state = Frame::lasting(vec![b's'; 1000]);
        let taken = (0..1000).take_while(|_| outbox.push(&state, Bound::CLIENT).is_ok()).count();
        assert!(taken >= 30 && outbox.bytes() <= OUTBOX_BYTES_MAX);
        assert_eq!(outbox.push(&state, Bound::CLIENT), Err(Overflow));
        assert_eq!(drain(&mut outbox).matches('s').count(), taken * 1000);
    }
}
