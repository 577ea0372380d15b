//! One table's chain: reading on to its head, and creating its next entry so that its writer knows for
//! certain whether it did.

use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use super::entry::{Entry, Envelope, damaged};
use super::names;
use super::state::State;
use super::store::{Created, Store};
use crate::error::{Error, Kind, Result};
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

/// The chain in one folder.
#[derive(Debug)]
pub(super) struct Chain {
    store: Store,
    folder: String,
    pace: Pace,
    /// The last entry known to outlive a power cut.
    settled: u64,
}

impl Chain {
    pub(super) fn new(store: Store, folder: String, pace: Pace) -> Self {
        Self { store, folder, pace, settled: 0 }
    }

    /// Takes every entry after the state's head into the state.
    ///
    /// # Errors
    /// [`User`](Kind::User) where the chain is damaged; the state then holds the sound entries before that.
    pub(super) async fn read_on(&mut self, state: &mut State) -> Result<()> {
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
            self.demand(next(state)?).await?;
        }
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
