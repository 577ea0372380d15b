//! One bound on memory for all tables, with a minimum that each running table is sure of.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use datafusion::common::{Result, resources_datafusion_err};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};

/// The memory of all tables together.
#[derive(Debug)]
pub struct SharedMemory {
    table_bytes_min: usize,
    /// What no table is sure of, in bytes.
    free_for_all_bytes_max: usize,
    free_for_all_used: Mutex<usize>,
}

impl SharedMemory {
    /// `bytes_max` for at most `tables_at_once` tables, each sure of `table_bytes_min` (or of an equal share, where
    /// that is less).
    pub fn new(bytes_max: usize, tables_at_once: usize, table_bytes_min: usize) -> Arc<Self> {
        let tables = tables_at_once.max(1);
        let table_bytes_min = table_bytes_min.min(bytes_max / tables);
        let free_for_all_bytes_max = bytes_max - table_bytes_min * tables;
        Arc::new(Self { table_bytes_min, free_for_all_bytes_max, free_for_all_used: Mutex::default() })
    }

    /// The pool of one running table; no more than `tables_at_once` of them may be in use.
    pub fn table_pool(self: &Arc<Self>) -> Arc<TableMemory> {
        Arc::new(TableMemory { shared: Arc::clone(self), used: Mutex::default() })
    }
}

/// The memory of one table: its minimum first, then what is free for all.
///
/// Operators that can spill share what the others leave, each as much as the next, as in DataFusion's
/// `FairSpillPool`: else the first to come would starve the rest, who could not spill on its behalf.
#[derive(Debug)]
pub struct TableMemory {
    shared: Arc<SharedMemory>,
    used: Mutex<Used>,
}

/// What one table uses, in bytes.
#[derive(Debug, Default)]
struct Used {
    spillable: usize,
    unspillable: usize,
    /// How many operators can spill.
    spilling: usize,
}

impl Used {
    fn total(&self) -> usize {
        self.spillable.saturating_add(self.unspillable)
    }

    fn count(&mut self, can_spill: bool) -> &mut usize {
        if can_spill { &mut self.spillable } else { &mut self.unspillable }
    }
}

impl TableMemory {
    fn beyond_minimum(&self, used: usize) -> usize {
        used.saturating_sub(self.shared.table_bytes_min)
    }

    /// Takes `more` bytes. None where that would leave the bounds, unless `anyway`.
    fn take(&self, reservation: &MemoryReservation, more: usize, anyway: bool) -> Option<()> {
        let can_spill = reservation.consumer().can_spill();
        let mut used = locked(&self.used);
        let mut shared = locked(&self.shared.free_for_all_used);
        let total = used.total();
        let from_shared = self.beyond_minimum(total.saturating_add(more)) - self.beyond_minimum(total);
        let free = self.shared.free_for_all_bytes_max.saturating_sub(*shared);
        // All that this table could have, were it to take everything that is free.
        let reach = total.max(self.shared.table_bytes_min) + free;
        let fair = reach.saturating_sub(used.unspillable) / used.spilling.max(1);
        let fits = from_shared <= free && (!can_spill || reservation.size().saturating_add(more) <= fair);
        if fits || anyway {
            *shared = shared.saturating_add(from_shared);
            *used.count(can_spill) = used.count(can_spill).saturating_add(more);
        }
        (fits || anyway).then_some(())
    }

    fn give_back(&self, reservation: &MemoryReservation, less: usize) {
        let mut used = locked(&self.used);
        let mut shared = locked(&self.shared.free_for_all_used);
        let before = self.beyond_minimum(used.total());
        let count = used.count(reservation.consumer().can_spill());
        *count = count.saturating_sub(less);
        let after = self.beyond_minimum(used.total());
        *shared = shared.saturating_sub(before - after);
    }

    fn note_spilling(&self, consumer: &MemoryConsumer, change: impl Fn(usize) -> usize) {
        if consumer.can_spill() {
            let mut used = locked(&self.used);
            used.spilling = change(used.spilling);
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Display for TableMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "table memory, {} bytes used", locked(&self.used).total())
    }
}

impl MemoryPool for TableMemory {
    fn name(&self) -> &str {
        "table memory"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.note_spilling(consumer, |spilling| spilling + 1);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.note_spilling(consumer, |spilling| spilling.saturating_sub(1));
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.take(reservation, additional, true);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.give_back(reservation, shrink);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        self.take(reservation, additional, false).ok_or_else(|| {
            resources_datafusion_err!(
                "{} needs {additional} more bytes, beyond its {}",
                reservation.consumer().name(),
                reservation.size()
            )
        })
    }

    fn reserved(&self) -> usize {
        locked(&self.used).total()
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.shared.table_bytes_min + self.shared.free_for_all_bytes_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reservation(pool: &Arc<TableMemory>) -> MemoryReservation {
        let pool: Arc<dyn MemoryPool> = Arc::clone(pool) as _;
        MemoryConsumer::new("test").register(&pool)
    }

    #[test]
    fn a_table_always_gets_its_minimum_however_greedy_the_others_are() {
        let shared = SharedMemory::new(100, 2, 20);
        let (greedy, modest) = (shared.table_pool(), shared.table_pool());
        let greedy = reservation(&greedy);
        greedy.try_grow(80).unwrap();
        assert!(greedy.try_grow(1).is_err());
        let modest = reservation(&modest);
        modest.try_grow(20).unwrap();
        assert!(modest.try_grow(1).is_err());
        greedy.shrink(10);
        modest.try_grow(10).unwrap();
    }

    #[test]
    fn what_is_given_back_can_be_taken_again() {
        let shared = SharedMemory::new(100, 1, 30);
        for _ in 0..3 {
            let pool = shared.table_pool();
            let taken = reservation(&pool);
            taken.try_grow(100).unwrap();
            drop(taken);
            assert_eq!(pool.reserved(), 0);
        }
    }

    #[test]
    fn operators_that_can_spill_share_alike_and_leave_room_for_the_others() {
        let shared = SharedMemory::new(100, 1, 0);
        let pool: Arc<dyn MemoryPool> = shared.table_pool();
        let fixed = MemoryConsumer::new("fixed").register(&pool);
        fixed.try_grow(20).unwrap();
        let spilling = |name| MemoryConsumer::new(name).with_can_spill(true).register(&pool);
        let (one, two) = (spilling("one"), spilling("two"));
        one.try_grow(40).unwrap();
        assert!(one.try_grow(1).is_err(), "the other's half is not its to take");
        two.try_grow(40).unwrap();
        drop(two);
        one.try_grow(40).unwrap();
    }
}
