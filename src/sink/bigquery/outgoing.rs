//! How much of all batches together may be on its way: where BigQuery is slow to acknowledge, rows wait before they are sent,
//! however many tables there are.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{Error, Result};

/// What is counted at once, in bytes.
const UNIT: usize = 1 << 10;
/// A message is there twice while it is sent: as it is, should it have to be sent again, and in a frame. (While it is
/// compressed, of which two are at once for each stream, it is there three times.)
const COPIES: usize = 2;
/// So many streams' windows fill the room, without the copies.
const STREAMS: usize = 32;
/// Two messages of the usual size.
const WINDOW_BYTES_MIN: usize = 4 << 20;
/// No stream gains by more.
const WINDOW_BYTES_MAX: usize = 8 << 20;

/// Room for messages on their way.
#[derive(Debug)]
pub(super) struct Outgoing {
    free: Arc<Semaphore>,
    units: u32,
}

/// A message's part of the room, given back when dropped.
pub(super) type Room = OwnedSemaphorePermit;

impl Outgoing {
    /// Room for messages that take so many bytes.
    pub(super) fn new(bytes: u64) -> Self {
        let units = u32::try_from(bytes / UNIT as u64).unwrap_or(u32::MAX).clamp(1, u32::MAX >> 3);
        Self { free: Arc::new(Semaphore::new(units as usize)), units }
    }

    /// Room for a message of so many bytes, if there is some; one that is larger than all of it takes all of it.
    pub(super) fn try_room(&self, bytes: usize) -> Option<Room> {
        Arc::clone(&self.free).try_acquire_many_owned(self.units_of(bytes)).ok()
    }

    /// Room for such a message, once there is some. Who waits for it must hold none: what is held may be given back only by
    /// the one who waits.
    pub(super) async fn room(&self, bytes: usize) -> Result<Room> {
        let room = Arc::clone(&self.free).acquire_many_owned(self.units_of(bytes)).await;
        room.map_err(|cause| Error::bug("the room for messages was closed").because(cause))
    }

    /// What one stream may have on its way, in bytes of its messages: a 32nd of the room, so that one whose acknowledgements do
    /// not come leaves some to others, but so much that it need not wait for each; one message, however large, it may always have.
    pub(super) fn window(&self) -> usize {
        (self.units as usize * UNIT / STREAMS).clamp(WINDOW_BYTES_MIN, WINDOW_BYTES_MAX)
    }

    fn units_of(&self, bytes: usize) -> u32 {
        let units = bytes.saturating_mul(COPIES).div_ceil(UNIT);
        u32::try_from(units).unwrap_or(u32::MAX).min(self.units)
    }

    /// How many bytes are taken.
    #[cfg(test)]
    pub(super) fn taken(&self) -> usize {
        (self.units as usize - self.free.available_permits()) * UNIT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_taken_twice_over_and_a_message_larger_than_all_takes_all() {
        let outgoing = Outgoing::new(10 << 10);
        let one = outgoing.try_room(3_000).unwrap();
        assert_eq!(outgoing.taken(), 6 << 10);
        assert!(outgoing.try_room(3_000).is_none());
        drop(one);
        let all = outgoing.try_room(usize::MAX).unwrap();
        assert_eq!(outgoing.taken(), 10 << 10);
        assert!(outgoing.try_room(1).is_none());
        drop(all);
        assert_eq!(outgoing.taken(), 0);
    }

    #[test]
    fn a_streams_window_follows_the_room_within_bounds() {
        for (room_mib, window_mib) in [(1, 4), (64, 4), (192, 6), (256, 8), (4_096, 8)] {
            assert_eq!(Outgoing::new(room_mib << 20).window(), window_mib << 20, "{room_mib} MiB");
        }
    }
}
