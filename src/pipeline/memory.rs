//! One bound on memory for all tables, with a minimum that each running table is sure of.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use datafusion::common::{Result, resources_datafusion_err};
use datafusion::execution::memory_pool::{MemoryLimit, MemoryPool, MemoryReservation};

/// The memory of all tables together.
#[derive(Debug)]
pub struct SharedMemory {
    table_bytes_min: usize,
    /// What no table is sure of, in bytes.
    free_for_all_bytes_max: usize,
    free_for_all_used: Mutex<usize>,
}

impl SharedMemory {
    /// `bytes_max` for at most `tables_at_once` tables, each sure of `table_bytes_min` (or of an equal share,
    /// where that is less).
    pub fn new(bytes_max: usize, tables_at_once: usize, table_bytes_min: usize) -> Arc<Self> {
        let tables = tables_at_once.max(1);
        let table_bytes_min = table_bytes_min.min(bytes_max / tables);
        let free_for_all_bytes_max = bytes_max - table_bytes_min * tables;
        Arc::new(Self { table_bytes_min, free_for_all_bytes_max, free_for_all_used: Mutex::new(0) })
    }

    /// The pool of one running table; no more than `tables_at_once` of them may be in use.
    pub fn table_pool(self: &Arc<Self>) -> Arc<TableMemory> {
        Arc::new(TableMemory { shared: Arc::clone(self), used: Mutex::new(0) })
    }
}

/// The memory of one table: its minimum first, then what is free for all.
#[derive(Debug)]
pub struct TableMemory {
    shared: Arc<SharedMemory>,
    used: Mutex<usize>,
}

impl TableMemory {
    fn beyond_minimum(&self, used: usize) -> usize {
        used.saturating_sub(self.shared.table_bytes_min)
    }

    /// Counts `more` bytes if there is room for them.
    fn take(&self, more: usize, even_without_room: bool) -> bool {
        let mut used = locked(&self.used);
        let mut shared = locked(&self.shared.free_for_all_used);
        let sum = used.saturating_add(more);
        let from_shared = self.beyond_minimum(sum) - self.beyond_minimum(*used);
        let room = shared.saturating_add(from_shared) <= self.shared.free_for_all_bytes_max;
        if room || from_shared == 0 || even_without_room {
            *used = sum;
            *shared = shared.saturating_add(from_shared);
            return true;
        }
        false
    }

    fn give_back(&self, less: usize) {
        let mut used = locked(&self.used);
        let mut shared = locked(&self.shared.free_for_all_used);
        let rest = used.saturating_sub(less);
        *shared = shared.saturating_sub(self.beyond_minimum(*used) - self.beyond_minimum(rest));
        *used = rest;
    }
}

fn locked(mutex: &Mutex<usize>) -> MutexGuard<'_, usize> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Display for TableMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "table memory, {} bytes used", locked(&self.used))
    }
}

impl MemoryPool for TableMemory {
    fn name(&self) -> &str {
        "table memory"
    }

    fn grow(&self, _: &MemoryReservation, additional: usize) {
        self.take(additional, true);
    }

    fn shrink(&self, _: &MemoryReservation, shrink: usize) {
        self.give_back(shrink);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        if self.take(additional, false) {
            return Ok(());
        }
        Err(resources_datafusion_err!(
            "{} needs {additional} more bytes, beyond its {}",
            reservation.consumer().name(),
            reservation.size()
        ))
    }

    fn reserved(&self) -> usize {
        *locked(&self.used)
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.shared.table_bytes_min + self.shared.free_for_all_bytes_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::execution::memory_pool::MemoryConsumer;

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
}
