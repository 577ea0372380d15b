//! Keys of one number, and orders of one or of a `_cdc_sequence`: compared as they are, and kept in the hash table itself.

use std::fmt::Debug;
use std::hash::BuildHasher;

use arrow::array::{Array, ArrayRef, AsArray, FixedSizeBinaryArray};
use arrow::compute::{SortOptions, cast};
use arrow::datatypes::{DataType, Field, Int64Type, UInt64Type};
use datafusion::common::{Result, exec_datafusion_err};
use hashbrown::hash_table::Entry;
use hashbrown::{DefaultHashBuilder, HashTable};

use crate::catalog::cdc::order_field;

/// Whether values of a type are numbers of 64 bits.
pub(super) fn is_word(data_type: &DataType) -> bool {
    data_type.is_integer()
        || matches!(
            data_type,
            DataType::Date32
                | DataType::Date64
                | DataType::Timestamp(..)
                | DataType::Time32(_)
                | DataType::Time64(_)
                | DataType::Duration(_)
        )
}

/// The values as numbers that compare as they do; None for NULL.
pub(super) fn words(column: &ArrayRef) -> Result<Vec<Option<u64>>> {
    if let Some(numbers) = column.as_primitive_opt::<UInt64Type>() {
        return Ok(numbers.iter().collect());
    }
    let cast = cast(column, &DataType::Int64)?;
    let numbers = cast.as_primitive_opt::<Int64Type>();
    let numbers = numbers.ok_or_else(|| exec_datafusion_err!("{} is no number", column.data_type()))?;
    Ok(numbers.iter().map(|number| number.map(|number| number.cast_unsigned() ^ (1 << 63))).collect())
}

/// A value's place in an order: lower ones come first.
pub(super) fn place(word: Option<u64>, options: SortOptions) -> u128 {
    match word {
        None if options.nulls_first => 0,
        None => 2 << 64,
        Some(word) if options.descending => 1 << 64 | u128::from(!word),
        Some(word) => 1 << 64 | u128::from(word),
    }
}

/// Whether values of a type are sequences of changes as bytes; they are never NULL.
pub(super) fn is_sequence(field: &Field) -> bool {
    *field.data_type() == *order_field().data_type() && !field.is_nullable()
}

/// The places of sequences in an order.
pub(super) fn sequence_places(sequences: &FixedSizeBinaryArray, options: SortOptions) -> Result<Vec<[u128; 2]>> {
    let place = |sequence: &[u8]| {
        let place = <[u128; 2]>::read(sequence)?;
        Ok(if options.descending { place.map(|half| !half) } else { place })
    };
    (0..sequences.len()).map(|index| place(sequences.value(index))).collect()
}

/// A place in an order that a hash table keeps: lower ones come first, and so do their bytes.
pub(super) trait Place: Copy + Ord + Debug {
    /// As bytes, for as long as `take` looks at them.
    fn as_bytes<T>(self, take: impl FnOnce(&[u8]) -> T) -> T;
    /// From such bytes.
    fn read(bytes: &[u8]) -> Result<Self>;
}

impl Place for u128 {
    fn as_bytes<T>(self, take: impl FnOnce(&[u8]) -> T) -> T {
        take(&self.to_be_bytes())
    }

    fn read(bytes: &[u8]) -> Result<Self> {
        Ok(Self::from_be_bytes(whole(bytes)?))
    }
}

impl Place for [u128; 2] {
    fn as_bytes<T>(self, take: impl FnOnce(&[u8]) -> T) -> T {
        take(self.map(u128::to_be_bytes).as_flattened())
    }

    fn read(bytes: &[u8]) -> Result<Self> {
        let (high, low) = bytes.split_at(bytes.len() / 2);
        Ok([u128::read(high)?, u128::read(low)?])
    }
}

#[derive(Debug, Clone, Copy)]
struct Winner<P> {
    key: u64,
    order: P,
    id: u64,
}

/// The first row of each key, among those that were offered.
#[derive(Debug)]
pub(super) struct WordWinners<P> {
    table: HashTable<Winner<P>>,
    /// That of the key NULL.
    of_null: Option<(P, u64)>,
    hasher: DefaultHashBuilder,
}

impl<P> Default for WordWinners<P> {
    fn default() -> Self {
        Self { table: HashTable::new(), of_null: None, hasher: DefaultHashBuilder::default() }
    }
}

impl<P: Place> WordWinners<P> {
    /// Offers a row, as [`ByteWinners::offer`](super::winners::ByteWinners::offer) does.
    pub(super) fn offer(&mut self, key: Option<u64>, order: P, id: u64) {
        let Some(key) = key else {
            self.of_null = Some(self.of_null.map_or((order, id), |known| known.min((order, id))));
            return;
        };
        let Self { table, hasher, .. } = self;
        match table.entry(hasher.hash_one(key), |known| known.key == key, |known| hasher.hash_one(known.key)) {
            Entry::Vacant(vacant) => _ = vacant.insert(Winner { key, order, id }),
            Entry::Occupied(mut known) => {
                let known = known.get_mut();
                (known.order, known.id) = (known.order, known.id).min((order, id));
            }
        }
    }

    /// The same, of key and order as [`try_for_each`](Self::try_for_each) gives them.
    pub(super) fn offer_bytes(&mut self, key: &[u8], order: &[u8], id: u64) -> Result<()> {
        let key = match key {
            [] => None,
            key => Some(u64::from_be_bytes(whole(key)?)),
        };
        self.offer(key, P::read(order)?, id);
        Ok(())
    }

    /// Gives each key, its row's order, and the row's number.
    pub(super) fn try_for_each(&self, mut give: impl FnMut(&[u8], &[u8], u64) -> Result<()>) -> Result<()> {
        for winner in &self.table {
            winner.order.as_bytes(|order| give(&winner.key.to_be_bytes(), order, winner.id))?;
        }
        self.of_null.map_or(Ok(()), |(order, id)| order.as_bytes(|order| give(&[], order, id)))
    }

    /// How many bytes of memory it takes.
    pub(super) fn memory(&self) -> usize {
        self.table.allocation_size()
    }
}

fn whole<const N: usize>(bytes: &[u8]) -> Result<[u8; N]> {
    bytes.try_into().map_err(|_| exec_datafusion_err!("a key or order has {} bytes instead of {N}", bytes.len()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, UInt64Array, make_comparator};
    use arrow::datatypes::TimeUnit;

    use super::*;

    #[test]
    fn numbers_are_in_the_order_of_the_values_they_stand_for() {
        let small: ArrayRef = Arc::new(Int64Array::from(vec![Some(-1), Some(100), None, Some(0), Some(-100), Some(7)]));
        let large: ArrayRef = Arc::new(Int64Array::from(vec![Some(i64::MAX), None, Some(i64::MIN), Some(-1), Some(0)]));
        let unsigned: ArrayRef = Arc::new(UInt64Array::from(vec![Some(u64::MAX), Some(0), None, Some(1 << 63)]));
        let zone = Some("UTC".into());
        let narrow = [DataType::Int8, DataType::Int32, DataType::Date32, DataType::Time32(TimeUnit::Second)];
        let wide = [
            DataType::Int64,
            DataType::Date64,
            DataType::Time64(TimeUnit::Microsecond),
            DataType::Timestamp(TimeUnit::Microsecond, zone),
            DataType::Timestamp(TimeUnit::Nanosecond, None),
            DataType::Duration(TimeUnit::Second),
        ];
        let as_type = |array: &ArrayRef, to: &DataType| match to {
            // Not from 64 bits at once.
            DataType::Date32 | DataType::Time32(_) => cast(&cast(array, &DataType::Int32).unwrap(), to).unwrap(),
            to => cast(array, to).unwrap(),
        };
        let narrow = narrow.iter().map(|to| as_type(&small, to));
        let wide = wide.iter().map(|to| as_type(&large, to));
        for array in narrow.chain(wide).chain([unsigned.clone()]) {
            assert!(is_word(array.data_type()), "{}", array.data_type());
            let words = words(&array).unwrap();
            for (descending, nulls_first) in [(false, false), (false, true), (true, false), (true, true)] {
                let options = SortOptions { descending, nulls_first };
                let compare = make_comparator(&array, &array, options).unwrap();
                for (one, other) in (0..array.len()).flat_map(|one| (0..array.len()).map(move |other| (one, other))) {
                    let got = place(words[one], options).cmp(&place(words[other], options));
                    assert_eq!(got, compare(one, other), "{} {options:?} {one} {other}", array.data_type());
                }
            }
        }
    }
}
