//! The order of changes: a place for each, told by its commit time and file, or by DMS itself.

use std::fmt;

use crate::change::{ChangeFile, FileKind};
use crate::error::{Error, Result};

/// Which half of a split key update a change is; every other change is [`Half::Whole`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// The delete of the old key.
    Delete,
    /// The update under the new key, or a change that was not split.
    Whole,
}

/// A change's place in the order: generation, time, counter and row.
///
/// As text it is four sections of 16 hex digits, `generation/time/counter/row`: the grammar of BigQuery's change sequence
/// numbers, and comparable as such.
/// See <https://cloud.google.com/bigquery/docs/change-data-capture#manage_custom_ordering>.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sequence([u64; 4]);

impl Sequence {
    /// How many bytes of text it has.
    pub const TEXT_BYTES: usize = 67;
    /// How many bytes it has as they compare.
    pub const BYTES: usize = 32;

    /// The least that a change of this time, in µs since 1970, has in this generation.
    pub fn first(generation: u64, time_us: u64) -> Self {
        Self([generation, time_us, 0, 0])
    }

    /// When it was committed, in µs since 1970; 0 for a row of a load.
    pub fn time_us(self) -> u64 {
        self.0[1]
    }

    /// Writes it as text, which is all digits and slashes.
    pub fn write(self, text: &mut [u8; Self::TEXT_BYTES]) {
        text.fill(b'/');
        for (section, number) in text.chunks_mut(17).zip(self.0) {
            if let Some(digits) = section.first_chunk_mut() {
                *digits = hex(number);
            }
        }
    }

    /// It in bytes, which compare as it does.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        for (section, number) in bytes.chunks_mut(8).zip(self.0) {
            section.copy_from_slice(&number.to_be_bytes());
        }
        bytes
    }
}

/// Its 16 digits.
fn hex(number: u64) -> [u8; 16] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = [0; 16];
    for (pair, byte) in out.as_chunks_mut::<2>().0.iter_mut().zip(number.to_be_bytes()) {
        *pair = [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]];
    }
    out
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; Self::TEXT_BYTES];
        self.write(&mut text);
        f.write_str(&String::from_utf8_lossy(&text))
    }
}

/// How the changes of one file are ordered: a pure function of file and generation.
#[derive(Debug, Clone, Copy)]
pub struct SequenceBase {
    generation: u64,
    kind: FileKind,
    file_counter: u64,
    row_high_bits: u64,
}

/// Rows of one file are numbered below this: their number doubled must fit 40 bits.
pub const FILE_ROWS_MAX: u64 = 1 << 39;

impl SequenceBase {
    /// The base for all changes of `file` in `generation`.
    ///
    /// # Errors
    /// [`Data`](crate::error::Kind::Data) where the file's time is before 1970 or past the year 2527.
    pub fn new(file: &ChangeFile, generation: u64) -> Result<Self> {
        let time_ms = u64::try_from(file.time_ms).ok().filter(|ms| *ms < 1 << 44).ok_or_else(|| {
            Error::data(format!("the file's time {} ms cannot be ordered", file.time_ms))
                .in_file(&file.location)
                .hint("name the file by a time after 1970")
        })?;
        let (high, low) = file.id().order_bits();
        Ok(Self { generation, kind: file.kind, file_counter: time_ms << 20 | high, row_high_bits: low << 40 })
    }

    /// The sequence of a change whose order is known only by commit time, file and row.
    ///
    /// `commit_us` is the commit time in µs since 1970; rows of a load count as older than every change.
    pub fn best_effort(&self, commit_us: u64, row: u64, half: Half) -> Sequence {
        let time = match self.kind {
            FileKind::Load => 0,
            FileKind::Cdc => commit_us,
        };
        self.sequence(time, self.file_counter, row, half)
    }

    /// The sequence of a change that carries DMS's `AR_H_CHANGE_SEQ`, the only true order. Bits of the file's
    /// identity stand before the row, so that no two changes share a sequence: where two files claim the same
    /// place in the order, one of them wins whichever comes first.
    ///
    /// # Errors
    /// [`Data`](crate::error::Kind::Data) where `change_seq` is not its 35 digits.
    pub fn exact(&self, change_seq: &str, row: u64, half: Half) -> Result<Sequence> {
        let (time_us, counter) = parse_change_seq(change_seq)?;
        Ok(self.sequence(time_us, counter, row, half))
    }

    fn sequence(&self, time: u64, counter: u64, row: u64, half: Half) -> Sequence {
        Sequence([self.generation, time, counter, self.row_high_bits | row_and_half(row, half)])
    }
}

/// The least sequence that a change of this time, in µs since 1970, has in this generation: in the same grammar.
pub fn first_sequence(generation: u64, time_us: u64) -> String {
    Sequence::first(generation, time_us).to_string()
}

/// The time that a sequence tells, in µs since 1970; 0 for a row of a load. None where it is no sequence.
pub fn time_of(sequence: &str) -> Option<u64> {
    u64::from_str_radix(sequence.split('/').nth(1)?, 16).ok()
}

/// A row's place in its file, below twice [`FILE_ROWS_MAX`]: the delete half of an update comes first.
pub fn row_and_half(row: u64, half: Half) -> u64 {
    row * 2 + u64::from(half == Half::Whole)
}

/// Splits `AR_H_CHANGE_SEQ` into its time (as µs since 1970) and its counter.
///
/// Its 35 digits are `YYYYMMDDHHmmSShh` (hh: hundredths of a second) and a counter of 19.
/// See <https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Tasks.CustomizingTasks.TableMapping.SelectionTransformation.Expressions.html>.
fn parse_change_seq(text: &str) -> Result<(u64, u64)> {
    let wrong = || {
        Error::data(format!("AR_H_CHANGE_SEQ `{text}` is not a change sequence"))
            .hint("expected 35 digits: YYYYMMDDHHmmSShh and a counter of 19 digits")
    };
    if text.len() != 35 || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    let number = |range: std::ops::Range<usize>| text[range].parse::<u32>().map_err(|_| wrong());
    let year = text[0..4].parse::<i32>().map_err(|_| wrong())?;
    let time = chrono::NaiveDate::from_ymd_opt(year, number(4..6)?, number(6..8)?)
        .and_then(|day| {
            day.and_hms_micro_opt(
                number(8..10).ok()?,
                number(10..12).ok()?,
                number(12..14).ok()?,
                number(14..16).ok()? * 10_000,
            )
        })
        .ok_or_else(wrong)?;
    let time_us = u64::try_from(time.and_utc().timestamp_micros()).map_err(|_| wrong())?;
    Ok((time_us, text[16..].parse().map_err(|_| wrong())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(location: &str, kind: FileKind) -> ChangeFile {
        ChangeFile { kind, time_ms: 1_678_890_622_000, ..ChangeFile::sample(location) }
    }

    #[test]
    fn sequences_of_a_file_are_ordered_by_commit_time_then_row_then_half() {
        let base = SequenceBase::new(&file("a", FileKind::Cdc), 1).unwrap();
        let sequences = [
            base.best_effort(5, 9, Half::Whole),
            base.best_effort(6, 0, Half::Delete),
            base.best_effort(6, 0, Half::Whole),
            base.best_effort(6, 1, Half::Delete),
        ];
        assert!(sequences.is_sorted(), "{sequences:?}");
        let texts = sequences.map(|sequence| sequence.to_string());
        assert!(texts.is_sorted() && texts.iter().all(|text| text.len() == Sequence::TEXT_BYTES), "{texts:?}");
        assert!(sequences.map(Sequence::to_bytes).is_sorted());
    }

    #[test]
    fn load_rows_are_older_than_every_change() {
        let load = SequenceBase::new(&file("a", FileKind::Load), 1).unwrap().best_effort(u64::MAX, 7, Half::Whole);
        let change = SequenceBase::new(&file("b", FileKind::Cdc), 1).unwrap().best_effort(1, 0, Half::Delete);
        assert!(load < change);
    }

    #[test]
    fn the_least_sequence_of_a_time_stands_between_what_was_before_and_what_comes_then() {
        let base = SequenceBase::new(&file("a", FileKind::Cdc), 2).unwrap();
        let before = base.best_effort(4, u64::from(u32::MAX), Half::Whole).to_string();
        let (then, next) = (base.best_effort(5, 0, Half::Delete).to_string(), first_sequence(3, 0));
        assert!(before < first_sequence(2, 5) && first_sequence(2, 5) < then && then < next);
        assert_eq!((time_of(&then), time_of(&next), time_of("none")), (Some(5), Some(0), None));
    }

    #[test]
    fn files_of_equal_time_have_a_fixed_order_and_never_equal_sequences() {
        let one = SequenceBase::new(&file("a", FileKind::Cdc), 1).unwrap();
        let two = SequenceBase::new(&file("b", FileKind::Cdc), 1).unwrap();
        assert_ne!(one.best_effort(5, 0, Half::Whole), two.best_effort(5, 0, Half::Whole));
    }

    #[test]
    fn change_seq_is_read_as_epoch_time_and_counter() {
        let (time_us, counter) = parse_change_seq("20230315143022450000000000000000123").unwrap();
        assert_eq!(time_us, 1_678_890_622_450_000);
        assert_eq!(counter, 123);
        assert!(parse_change_seq("20231315143022450000000000000000123").is_err());
        assert!(parse_change_seq("12").is_err());
        assert!(parse_change_seq("2023031514302245000000000000000012é").is_err());
    }

    #[test]
    fn a_sequence_is_written_as_hex_digits_in_four_sections() {
        for numbers in [[1, 0, u64::MAX, 10], [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210, 7 << 60, 15]] {
            let [generation, time, counter, row] = numbers;
            let expected = format!("{generation:016x}/{time:016x}/{counter:016x}/{row:016x}");
            assert_eq!(Sequence(numbers).to_string(), expected);
        }
    }
}
