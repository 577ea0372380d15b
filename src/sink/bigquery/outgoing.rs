//! How much of all batches together may be on its way: where BigQuery is slow to acknowledge, rows wait before they are sent,
//! however many tables there are.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{Error, Result};

/// What is counted at once, in bytes.
const UNIT: usize = 1 << 10;
/// Of a room of 128 MiB to 1 GiB, so many streams' narrow windows fill it.
const STREAMS: usize = 32;
/// Two messages of the usual size.
const WINDOW_BYTES_MIN: usize = 4 << 20;
/// Acknowledged 200 ms later, four streams of one batch then carry 640 MiB a second.
const WINDOW_BYTES_MAX: usize = 32 << 20;
/// One part of so many that is free is room to spare.
const SPARE: usize = 4;

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

    /// What one stream may have on its way now, in bytes of its messages, before it waits for acknowledgements: much as long as there
    /// is room to spare, so that it does not wait for those that take long to come; else a 32nd of the room within bounds, so that
    /// few streams whose acknowledgements do not come leave some to others. One message, however large, it may always have.
    pub(super) fn window(&self) -> usize {
        let is_spare = self.free.available_permits() >= self.units as usize / SPARE;
        let narrow = (self.units as usize * UNIT / STREAMS).clamp(WINDOW_BYTES_MIN, WINDOW_BYTES_MAX);
        if is_spare { WINDOW_BYTES_MAX } else { narrow }
    }

    fn units_of(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).min(self.units)
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
    fn a_message_larger_than_all_takes_all() {
        let outgoing = Outgoing::new(10 << 10);
        let one = outgoing.try_room(5_500).unwrap();
        assert_eq!(outgoing.taken(), 6 << 10);
        assert!(outgoing.try_room(5_500).is_none());
        drop(one);
        let all = outgoing.try_room(usize::MAX).unwrap();
        assert_eq!(outgoing.taken(), 10 << 10);
        assert!(outgoing.try_room(1).is_none());
        drop(all);
        assert_eq!(outgoing.taken(), 0);
    }

    #[test]
    fn a_streams_window_is_wide_while_there_is_room_to_spare_and_else_a_part_of_it() {
        for (room_mib, narrow_mib) in [(8, 4), (64, 4), (192, 6), (256, 8), (4_096, 32)] {
            let outgoing = Outgoing::new(room_mib << 20);
            let room = usize::try_from(room_mib << 20).unwrap();
            let most = outgoing.try_room(room / 4 * 3).unwrap();
            assert_eq!(outgoing.window(), 32 << 20, "{room_mib} MiB");
            let more = outgoing.try_room(1).unwrap();
            assert_eq!(outgoing.window(), narrow_mib << 20, "{room_mib} MiB");
            drop((most, more));
        }
    }
}
