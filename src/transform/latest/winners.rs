//! For each key the row that comes first in the order: one hash table, over keys as numbers or as bytes.

use std::hash::BuildHasher;

use datafusion::common::{Result, exec_datafusion_err};
use hashbrown::hash_table::Entry;
use hashbrown::{DefaultHashBuilder, HashTable};

use super::words::WordWinners;

/// The first row of each key, among those that were offered.
#[derive(Debug)]
pub(super) enum Winners {
    /// Keys and orders that are one number each.
    Words(WordWinners<u128>),
    /// Keys that are one number, by the sequence of changes.
    Sequences(WordWinners<[u128; 2]>),
    /// Any others.
    Bytes(ByteWinners),
}

impl Winners {
    /// None yet, of the same kind.
    pub(super) fn none_yet(&self) -> Self {
        match self {
            Self::Words(_) => Self::Words(WordWinners::default()),
            Self::Sequences(_) => Self::Sequences(WordWinners::default()),
            Self::Bytes(_) => Self::Bytes(ByteWinners::default()),
        }
    }

    /// Offers a row of which key and order are as [`try_for_each`](Self::try_for_each) gives them.
    pub(super) fn offer(&mut self, key: &[u8], order: &[u8], id: u64) -> Result<()> {
        match self {
            Self::Words(winners) => winners.offer_bytes(key, order, id),
            Self::Sequences(winners) => winners.offer_bytes(key, order, id),
            Self::Bytes(winners) => winners.offer(key, order, id),
        }
    }

    /// Gives each key, its row's order, and the row's number.
    pub(super) fn try_for_each(&self, give: impl FnMut(&[u8], &[u8], u64) -> Result<()>) -> Result<()> {
        match self {
            Self::Words(winners) => winners.try_for_each(give),
            Self::Sequences(winners) => winners.try_for_each(give),
            Self::Bytes(winners) => winners.try_for_each(give),
        }
    }

    /// How many bytes of memory it takes.
    pub(super) fn memory(&self) -> usize {
        match self {
            Self::Words(winners) => winners.memory(),
            Self::Sequences(winners) => winners.memory(),
            Self::Bytes(winners) => winners.memory(),
        }
    }
}

/// A key's first row so far: where its key and order stand in the bytes, and its number.
#[derive(Debug, Clone, Copy)]
struct Winner {
    start: usize,
    key_bytes: u32,
    order_bytes: u32,
    id: u64,
}

impl Winner {
    fn key<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[self.start..self.start + self.key_bytes as usize]
    }

    fn order<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        let start = self.start + self.key_bytes as usize;
        &bytes[start..start + self.order_bytes as usize]
    }
}

/// The first row of each key, keys and orders being bytes that compare as they do.
#[derive(Debug, Default)]
pub(super) struct ByteWinners {
    table: HashTable<u32>,
    winners: Vec<Winner>,
    /// Keys and orders of all winners, and of some that were replaced.
    bytes: Vec<u8>,
    /// How many bytes are of replaced ones.
    dead_bytes: usize,
    hasher: DefaultHashBuilder,
}

impl ByteWinners {
    /// Offers a row: it wins where its order is lower than that of all others of its key, of equal ones where its number
    /// is.
    pub(super) fn offer(&mut self, key: &[u8], order: &[u8], id: u64) -> Result<()> {
        let Self { table, winners, bytes, hasher, .. } = self;
        let found = table.entry(
            hasher.hash_one(key),
            |at| winners[*at as usize].key(bytes) == key,
            |at| hasher.hash_one(winners[*at as usize].key(bytes)),
        );
        match found {
            Entry::Vacant(vacant) => {
                let (key_bytes, order_bytes) = (count(key.len())?, count(order.len())?);
                vacant.insert(count(winners.len())?);
                winners.push(Winner { start: bytes.len(), key_bytes, order_bytes, id });
                bytes.extend_from_slice(key);
                bytes.extend_from_slice(order);
            }
            Entry::Occupied(known) => {
                let at = *known.get() as usize;
                if (order, id) < (winners[at].order(bytes), winners[at].id) {
                    self.replace(at, order, id)?;
                }
            }
        }
        Ok(())
    }

    fn replace(&mut self, at: usize, order: &[u8], id: u64) -> Result<()> {
        let old = self.winners[at];
        let order_start = old.start + old.key_bytes as usize;
        self.winners[at].id = id;
        if order.len() == old.order_bytes as usize {
            self.bytes[order_start..order_start + order.len()].copy_from_slice(order);
            return Ok(());
        }
        let order_bytes = count(order.len())?;
        let start = self.bytes.len();
        self.bytes.extend_from_within(old.start..order_start);
        self.bytes.extend_from_slice(order);
        self.winners[at] = Winner { start, order_bytes, id, ..old };
        self.dead_bytes += (old.key_bytes + old.order_bytes) as usize;
        if self.dead_bytes > self.bytes.len() / 2 {
            self.forget_replaced();
        }
        Ok(())
    }

    fn forget_replaced(&mut self) {
        let mut bytes = Vec::with_capacity(self.bytes.len() - self.dead_bytes);
        for winner in &mut self.winners {
            let start = bytes.len();
            bytes.extend_from_slice(winner.key(&self.bytes));
            bytes.extend_from_slice(winner.order(&self.bytes));
            winner.start = start;
        }
        (self.bytes, self.dead_bytes) = (bytes, 0);
    }

    fn try_for_each(&self, mut give: impl FnMut(&[u8], &[u8], u64) -> Result<()>) -> Result<()> {
        self.winners.iter().try_for_each(|winner| give(winner.key(&self.bytes), winner.order(&self.bytes), winner.id))
    }

    fn memory(&self) -> usize {
        self.table.allocation_size() + self.winners.capacity() * size_of::<Winner>() + self.bytes.capacity()
    }
}

/// Lengths of keys and orders, and how many keys there are in one table, are kept in 32 bits.
fn count(length: usize) -> Result<u32> {
    u32::try_from(length).map_err(|_| exec_datafusion_err!("there are {length} bytes of a key, or keys: at most 4 G"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::trial::dice::Dice;

    /// Offers rows of random bytes, and compares with a model.
    fn keeps_the_first(
        mut winners: Winners,
        seed: u64,
        key: impl Fn(&mut Dice) -> Vec<u8>,
        order: impl Fn(&mut Dice) -> Vec<u8>,
    ) {
        let mut dice = Dice::new(seed);
        let mut model = BTreeMap::<Vec<u8>, (Vec<u8>, u64)>::new();
        for _ in 0..500 {
            let (key, order, id) = (key(&mut dice), order(&mut dice), dice.below(100));
            winners.offer(&key, &order, id).unwrap();
            let offered = (order, id);
            let best = model.entry(key).or_insert_with(|| offered.clone());
            *best = offered.min(best.clone());
        }
        let mut got = BTreeMap::new();
        let each = winners.try_for_each(|key, order, id| {
            assert!(got.insert(key.to_vec(), (order.to_vec(), id)).is_none(), "seed {seed}: {key:?} twice");
            Ok(())
        });
        each.unwrap();
        assert_eq!(got, model, "seed {seed}");
    }

    #[test]
    fn each_key_keeps_its_lowest_order_and_of_equal_ones_the_lowest_number() {
        let text = |dice: &mut Dice, longest| -> Vec<u8> {
            (0..dice.below(longest)).map(|_| b'a' + u8::try_from(dice.below(3)).unwrap()).collect()
        };
        let number = |dice: &mut Dice| match dice.below(50) {
            0 => Vec::new(),
            number => (number << 40).to_be_bytes().to_vec(),
        };
        let place = |dice: &mut Dice| (u128::from(dice.below(30)) << 60).to_be_bytes().to_vec();
        // Half of them differ in their second half alone.
        let sequence =
            |dice: &mut Dice| [u128::from(dice.below(2)), u128::from(dice.below(30))].map(u128::to_be_bytes).concat();
        for seed in 0..50 {
            keeps_the_first(Winners::Bytes(ByteWinners::default()), seed, |dice| text(dice, 4), |dice| text(dice, 6));
            keeps_the_first(Winners::Words(WordWinners::default()), seed, number, place);
            keeps_the_first(Winners::Sequences(WordWinners::default()), seed, number, sequence);
        }
    }
}
