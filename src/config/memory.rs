//! Limits of memory that are not written: they follow from those that are, and from what the process may take.

use super::PipelineConfig;

/// Of what the process may take, `memory` is at most this part: as much again is not counted in it (messages on their way,
/// decoders, the program itself), and a container counts the files that the system keeps in memory, too.
const PART_OF_ROOM: u64 = 4;
/// An inflated file that stays in memory takes at most this part of `memory`.
const PART_OF_MEMORY: u64 = 8;

/// What is written of memory, in bytes; None: nothing is.
#[derive(Debug, Default)]
pub(super) struct WrittenMemory {
    pub(super) memory: Option<u64>,
    pub(super) table_memory_min: Option<u64>,
    pub(super) tables_at_once: Option<usize>,
    pub(super) inflate_memory: Option<u64>,
}

impl PipelineConfig {
    /// The limits where none are written, for a process that may take `room` bytes; None: nobody knows.
    pub fn within(room: Option<u64>) -> Self {
        Self::default().with_memory(&WrittenMemory::default(), room)
    }

    /// The same with the memory that is written, and where none is with what fits the rest and the room.
    pub(super) fn with_memory(self, written: &WrittenMemory, room: Option<u64>) -> Self {
        let tables_at_once = written.tables_at_once.unwrap_or(self.tables_at_once);
        let tables = u64::try_from(tables_at_once).unwrap_or(u64::MAX).max(1);
        let memory_bytes = written.memory.unwrap_or_else(|| {
            // What is written is not refused because of a default that is small only for want of room.
            let sure = written.table_memory_min.unwrap_or(0).saturating_mul(tables);
            let demanded = sure.max(written.inflate_memory.unwrap_or(0));
            let fitting = room.map_or(self.memory_bytes, |room| room / PART_OF_ROOM);
            fitting.max(demanded).min(self.memory_bytes)
        });
        let table_memory_bytes_min = self.table_memory_bytes_min.min(memory_bytes / tables);
        let inflate_memory_bytes_max = self.inflate_memory_bytes_max.min(memory_bytes / PART_OF_MEMORY);
        Self {
            memory_bytes,
            tables_at_once,
            table_memory_bytes_min: written.table_memory_min.unwrap_or(table_memory_bytes_min),
            inflate_memory_bytes_max: written.inflate_memory.unwrap_or(inflate_memory_bytes_max),
            ..self
        }
    }
}
