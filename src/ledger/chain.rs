//! One table's chain: reading on to its head, and creating its next entry so that its writer knows for
//! certain whether it did.
//!
//! Where the chain was compacted, the entries below are deleted, and their numbers are free again. So an entry counts
//! only where, looked at after it was read or created, no compaction has a higher number. That a compaction is there is
//! told by a mark under its number, which is made before anything is deleted.

use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use super::entry::{Entry, Envelope, damaged};
use super::names::{self, Folders};
use super::state::State;
use super::store::{Created, Store};
use crate::error::{Error, Kind, Result};
use crate::trial::failpoint;
use crate::trial::planted::Planted;

/// How many entries are read side by side.
const READS_IN_FLIGHT_MAX: u64 = 16;

/// How often a create is tried, and the pause before the second try; each further pause is twice as long.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    pub(super) tries: u32,
    pub(super) pause: Duration,
}

/// Whose entry stands where one was to be created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Written {
    /// The one to be created, now or since an earlier try.
    Mine,
    /// Another writer's.
    Taken,
}

/// How often a chain may be compacted while it is read.
const RESTARTS_MAX: u32 = 20;

/// The chain of one table.
#[derive(Debug)]
pub(super) struct Chain {
    store: Store,
    folder: String,
    /// The folder of the compactions' marks.
    marks: String,
    pace: Pace,
    /// The last entry known to outlive a power cut.
    settled: u64,
    /// The last entry after which no compaction was seen to have a higher number.
    trusted: u64,
}

impl Chain {
    pub(super) fn new(store: Store, folders: Folders, pace: Pace) -> Self {
        let Folders { entries: folder, marks } = folders;
        Self { store, folder, marks, pace, settled: 0, trusted: 0 }
    }

    /// Takes every entry after the state's head into the state; all of them anew where the chain was compacted above its
    /// head since.
    ///
    /// # Errors
    /// [`User`](Kind::User) where the chain is damaged; the state then holds the sound entries before that.
    pub(super) async fn read_on(&mut self, state: &mut State) -> Result<()> {
        let read = self.read_and_look(state).await;
        if state.head() != self.trusted {
            // What was read and not looked at must not be believed later.
            self.restart(state);
        }
        read
    }

    async fn read_and_look(&mut self, state: &mut State) -> Result<()> {
        let mut begun_at = None;
        for _ in 0..RESTARTS_MAX {
            let read = self.read_forward(state).await;
            let is_told = match &read {
                Ok(()) => state.head() == self.trusted,
                Err(error) => error.kind() == Kind::Retry,
            };
            if is_told {
                return read;
            }
            let compacted = self.compacted_above(state.head()).await?;
            if compacted.is_none() || compacted == begun_at {
                self.trusted = state.head();
                return read;
            }
            begun_at = compacted;
            self.restart(state);
        }
        Err(Error::retry("the ledger was compacted again and again while it was read")
            .hint("nothing is lost; another time will do"))
    }

    /// [`read_on`](Self::read_on), having looked for compactions whether there is anything to read or not: above a head
    /// below one nothing new is ever found.
    pub(super) async fn look_again(&mut self, state: &mut State) -> Result<()> {
        if self.compacted_above(state.head()).await?.is_some() {
            self.restart(state);
        }
        self.read_on(state).await
    }

    /// Forgets what was read, so that it is read again from the newest compaction on.
    pub(super) fn restart(&mut self, state: &mut State) {
        *state = State::default();
        (self.settled, self.trusted) = (0, 0);
    }

    /// The entry that reading begins with, and its number: the newest compaction, else the first.
    ///
    /// # Errors
    /// [`User`](Kind::User) where the chain is damaged.
    pub(super) async fn first(&self) -> Result<Option<(u64, Entry)>> {
        let mut number = self.newest_compaction().await?;
        if number.is_none() {
            if let Some(opened) = self.read(1).await? {
                return Ok(Some((1, opened)));
            }
            // It may have been compacted since.
            number = self.newest_compaction().await?;
        }
        while let Some(compaction) = number {
            match self.read(compaction).await? {
                Some(entry @ Entry::Compacted(_)) => return Ok(Some((compaction, entry))),
                Some(_) => return Err(damaged(compaction, "a mark says that it is a compaction, and it is not")),
                None => {}
            }
            number = self.newest_compaction().await?.filter(|newer| *newer > compaction);
            if number.is_none() {
                return Err(damaged(compaction, "it is missing, though a mark says that it is a compaction"));
            }
        }
        Ok(None)
    }

    /// The number of the newest compaction, where it is above this: then an entry with this number counts for nothing.
    pub(super) async fn compacted_above(&self, number: u64) -> Result<Option<u64>> {
        if Planted::CompactionUnseen.is_there() {
            return Ok(None);
        }
        Ok(self.newest_compaction().await?.filter(|compaction| *compaction > number))
    }

    /// Says that the entry with this number is a compaction, for good; then the entries below it are deleted.
    ///
    /// # Errors
    /// [`Retry`](Kind::Retry) where that could not be said, or not all could be deleted: a later compaction does.
    pub(super) async fn mark_compacted(&self, number: u64) -> Result<()> {
        let mark = format!("{}/{}", self.marks, names::entry_name(number));
        let unknown = match self.store.create(&mark, Bytes::from_static(b"{}\n")).await? {
            Created::Yes => None,
            Created::Exists => Some(Error::retry("a compaction's mark was said to exist, but does not")),
            Created::Unknown(error) => Some(error),
        };
        if let Some(unknown) = unknown {
            // Only what can be read is there.
            self.store.read(&mark).await?.ok_or(unknown)?;
            self.store.settle(&self.marks).await?;
        }
        failpoint::COMPACTION_MARKED.reached();
        for folder in [&self.folder, &self.marks] {
            let is_below = |name: &String| names::entry_number(name).is_some_and(|found| found < number);
            let names = self.store.list(folder).await?.objects;
            let below = names.into_iter().filter(is_below).map(|name| format!("{folder}/{name}")).collect();
            self.store.delete(below).await?;
        }
        Ok(())
    }

    /// Whether there is a first entry.
    pub(super) async fn is_begun(&self) -> Result<bool> {
        Ok(self.read(1).await?.is_some())
    }

    /// Whether there is any entry, or a mark.
    pub(super) async fn has_entries(&self) -> Result<bool> {
        Ok(self.store.has_entry_above(&self.folder, 0).await? || self.newest_compaction().await?.is_some())
    }

    /// Deletes a compaction behind a gap that has no mark, as a rebuilding that was broken off leaves it: what a writer
    /// compacts follows the entry before.
    pub(super) async fn drop_unmarked(&self) -> Result<()> {
        let names = self.store.list(&self.folder).await?.objects;
        let entries: Vec<u64> = names.iter().filter_map(|name| names::entry_number(name)).collect();
        let Some(last) = entries.last().copied().filter(|last| *last > entries.len() as u64) else { return Ok(()) };
        if self.newest_compaction().await?.is_some() {
            return Ok(());
        }
        match self.read(last).await? {
            Some(Entry::Compacted(_)) => self.store.delete(vec![self.key(last)]).await,
            _ => Ok(()),
        }
    }

    async fn newest_compaction(&self) -> Result<Option<u64>> {
        let names = self.store.list(&self.marks).await?.objects;
        Ok(names.iter().filter_map(|name| names::entry_number(name)).max())
    }

    async fn read_forward(&mut self, state: &mut State) -> Result<()> {
        if state.head() == 0
            && let Some((number, Entry::Compacted(snapshot))) = self.first().await?
        {
            *state = State::compacted_at(number, &snapshot);
        }
        let mut window = 1;
        loop {
            let (found, later) = self.read_window(next(state)?, window).await?;
            let whole = u64::try_from(found.len()).is_ok_and(|found| found == window);
            for entry in &found {
                state.apply(next(state)?, entry)?;
            }
            if later {
                self.demand(next(state)?).await?;
            } else if !whole {
                break;
            }
            window = (window * 2).min(READS_IN_FLIGHT_MAX);
        }
        if state.head() > self.settled {
            self.store.settle(&self.folder).await?;
            self.settled = state.head();
        }
        Ok(())
    }

    /// [`read_on`](Self::read_on), then makes sure that nothing stands behind a gap or an emptied start.
    pub(super) async fn read_all(&mut self, state: &mut State) -> Result<()> {
        loop {
            self.read_on(state).await?;
            if !self.store.has_entry_above(&self.folder, state.head()).await? {
                return Ok(());
            }
            let missing = self.demand(next(state)?).await;
            match self.compacted_above(state.head()).await? {
                Some(_) => self.restart(state),
                None => missing?,
            }
        }
    }

    /// Takes note that this entry, the writer's own, was seen to count.
    pub(super) fn trust(&mut self, number: u64) {
        self.trusted = number;
    }

    /// Creates the entry with this number unless there is one.
    ///
    /// # Errors
    /// [`Retry`](Kind::Retry) where it is not known whether the entry stands there, or will.
    pub(super) async fn create(&mut self, number: u64, envelope: &Envelope) -> Result<Written> {
        let bytes = Bytes::from(envelope.to_bytes()?);
        let mut pause = self.pace.pause;
        let mut tries = 0;
        loop {
            let unknown = match self.create_once(number, bytes.clone(), &envelope.nonce).await? {
                Ok(written) => return Ok(written),
                Err(unknown) => unknown,
            };
            tries += 1;
            if tries >= self.pace.tries {
                return Err(unknown);
            }
            tokio::time::sleep(pause).await;
            pause = pause.saturating_mul(2);
        }
    }

    /// One try; the inner error says that the entry is absent or cannot be seen, and is to be tried again.
    async fn create_once(&mut self, number: u64, bytes: Bytes, nonce: &str) -> Result<Result<Written>> {
        let key = self.key(number);
        let unknown = match self.store.create(&key, bytes).await? {
            Created::Yes => {
                self.settled = number;
                return Ok(Ok(Written::Mine));
            }
            Created::Exists => None,
            Created::Unknown(error) => Some(error),
        };
        match self.store.read(&key).await {
            Ok(Some(found)) if Envelope::is_under(nonce, &found) || Planted::NonceUnchecked.is_there() => {
                self.store.settle(&self.folder).await?;
                self.settled = number;
                Ok(Ok(Written::Mine))
            }
            Ok(Some(_)) => Ok(Ok(Written::Taken)),
            Ok(None) => Ok(Err(unknown.unwrap_or_else(|| {
                Error::retry(format!("entry {number} of the ledger was said to exist, but does not"))
            }))),
            Err(error) if error.kind() == Kind::Retry => Ok(Err(unknown.unwrap_or(error))),
            Err(error) => Err(error),
        }
    }

    /// The entries from `first` on up to the first absent one, and whether any of the window is there after it.
    async fn read_window(&self, first: u64, window: u64) -> Result<(Vec<Entry>, bool)> {
        let in_flight = usize::try_from(READS_IN_FLIGHT_MAX).unwrap_or(1);
        let numbers = first..first.saturating_add(window);
        let read: Vec<Option<Entry>> =
            stream::iter(numbers).map(|number| self.read(number)).buffered(in_flight).try_collect().await?;
        let mut rest = read.into_iter();
        let found = rest.by_ref().map_while(|entry| entry).collect();
        Ok((found, rest.any(|entry| entry.is_some())))
    }

    /// Demands that the entry is there by now, as later ones are: it may have come while they were read.
    async fn demand(&self, number: u64) -> Result<()> {
        match self.read(number).await? {
            Some(_) => Ok(()),
            None => Err(damaged(number, "it is missing, though later entries are there")),
        }
    }

    async fn read(&self, number: u64) -> Result<Option<Entry>> {
        match self.store.read(&self.key(number)).await? {
            Some(bytes) => Ok(Some(Envelope::from_bytes(number, &bytes)?.entry)),
            None => Ok(None),
        }
    }

    fn key(&self, number: u64) -> String {
        format!("{}/{}", self.folder, names::entry_name(number))
    }
}

/// The number of the entry that comes next.
pub(super) fn next(state: &State) -> Result<u64> {
    state.head().checked_add(1).ok_or_else(|| damaged(state.head(), "no number is left after it"))
}
