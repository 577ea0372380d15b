//! Rows of change files by number, and sets of them: what a first, narrow read chooses, a second reads whole.

use arrow::buffer::BooleanBuffer;

use crate::change::{FILE_ROWS_MAX, Half, row_and_half};

/// The column that numbers a query's rows, where it is asked for.
pub const ROW_ID: &str = "__freshet_row_id";

/// Bits of a row's number, doubled as a split update has two halves.
const PLACE_BITS: u32 = (FILE_ROWS_MAX * 2).trailing_zeros();

/// A row's number: that of its file, and its place in it. They are in the order of files and rows.
pub fn row_id(file: u32, row: u64, half: Half) -> u64 {
    u64::from(file) << PLACE_BITS | row_and_half(row, half)
}

/// Rows of several files, a bit for each half of one.
#[derive(Debug, Default)]
pub struct RowSet {
    /// For each file, by its number.
    files: Vec<Vec<u64>>,
}

impl RowSet {
    /// Adds a row by its number.
    pub fn insert(&mut self, id: u64) {
        let file = usize::try_from(id >> PLACE_BITS).unwrap_or(usize::MAX);
        let (word, bit) = position(id & ((1 << PLACE_BITS) - 1));
        if self.files.len() <= file {
            self.files.resize_with(file + 1, Vec::new);
        }
        let words = &mut self.files[file];
        if words.len() <= word {
            words.resize(word + 1, 0);
        }
        words[word] |= bit;
    }

    /// Whether this row, or half of one, is among them.
    pub fn contains(&self, file: u32, row: u64, half: Half) -> bool {
        let (word, bit) = position(row_and_half(row, half));
        self.words(file).get(word).is_some_and(|found| found & bit != 0)
    }

    /// The rows of a file of which either half is among them, as far as the last one.
    pub fn rows(&self, file: u32) -> BooleanBuffer {
        const EITHER_HALF: u64 = 3;
        let words = self.words(file);
        BooleanBuffer::collect_bool(words.len() * 32, |row| words[row / 32] >> (row % 32 * 2) & EITHER_HALF != 0)
    }

    /// How many bytes of memory it takes.
    pub fn bytes(&self) -> usize {
        let words: usize = self.files.iter().map(Vec::capacity).sum();
        words * 8 + self.files.capacity() * size_of::<Vec<u64>>()
    }

    fn words(&self, file: u32) -> &[u64] {
        usize::try_from(file).ok().and_then(|file| self.files.get(file)).map_or(&[], Vec::as_slice)
    }
}

/// The word that has a place's bit, and the bit.
fn position(place: u64) -> (usize, u64) {
    (usize::try_from(place / 64).unwrap_or(usize::MAX), 1 << (place % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_the_halves_that_were_put_in_and_no_others() {
        let mut set = RowSet::default();
        let put = [
            (0, 0, Half::Whole),
            (0, 31, Half::Delete),
            (0, 32, Half::Whole),
            (3, 1_000, Half::Delete),
            (3, 1_000, Half::Whole),
        ];
        for (file, row, half) in put {
            set.insert(row_id(file, row, half));
        }
        for file in 0..5 {
            for row in 0..1_100 {
                for half in [Half::Delete, Half::Whole] {
                    assert_eq!(
                        set.contains(file, row, half),
                        put.contains(&(file, row, half)),
                        "{file} {row} {half:?}"
                    );
                }
            }
            let rows: Vec<u64> = set.rows(file).set_indices().map(|row| row as u64).collect();
            let mut expected: Vec<u64> = put.iter().filter(|put| put.0 == file).map(|put| put.1).collect();
            expected.dedup();
            assert_eq!(rows, expected, "{file}");
        }
    }

    #[test]
    fn numbers_are_in_the_order_of_files_rows_and_halves() {
        let ids = [
            row_id(0, 0, Half::Delete),
            row_id(0, 0, Half::Whole),
            row_id(0, 1, Half::Delete),
            row_id(0, FILE_ROWS_MAX - 1, Half::Whole),
            row_id(1, 0, Half::Delete),
            row_id(2_000_000, FILE_ROWS_MAX - 1, Half::Whole),
        ];
        assert!(ids.is_sorted_by(|one, other| one < other), "{ids:?}");
    }
}
