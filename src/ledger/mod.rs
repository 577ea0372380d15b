//! The ledger: what was begun and what became of it, one create-if-absent chain of entries per table.
//!
//! A ledger is a folder or a prefix of an object store:
//! ```text
//! ledger.json                                              whose ledger it is
//! tables/<database>/<table>/00000000000000000001.json      the first entry of a table's chain
//! compactions/<database>/<table>/00000000000000001001.json says that this entry stands for all before it
//! segments/<database>/<table>/00000000000000001001-<id>    files that are done with, named by such an entry
//! reloads/<database>/<table>/2/entries/…                   the chain of a generation that is being built
//! ```
//! An entry is never changed, and is removed only once a later one stands for it. Whoever creates entry n has read those
//! before it, so everything a table's writers agree on is the [`State`] that the entries amount to. Clocks decide nothing.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt, stream};
use object_store::ObjectStore;

use crate::change::TableName;
use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::storage::{Aws, S3Location, explained};

mod chain;
mod compaction;
mod entry;
#[cfg(test)]
pub(crate) mod faulty;
mod folder;
mod names;
mod objects;
mod rebuild;
mod reload;
mod root;
#[cfg(test)]
mod samples;
mod segment;
mod state;
mod store;
mod table;
#[cfg(test)]
mod tests;

pub use entry::{
    ENTRY_BYTES_MAX, Entry, Envelope, FileEntry, FileKey, Intent, Opened, Reload, Segment, SetAside, Snapshot,
    Standing, Unfinished,
};
pub use reload::not_built;
pub use segment::Sightings;
pub use state::{FileState, RECENT_FILES, State};
pub use table::{Claim, FIRST_GENERATION, Opening, TableLedger};

use chain::{Chain, Pace};
use folder::Folder;
use names::Folders;
use objects::Objects;
use root::Root;
use segment::{Cache, Segments};
use store::Store;

/// How many chains are looked at side by side.
const TABLES_IN_FLIGHT_MAX: usize = 16;

/// With these pauses the last try comes about three seconds after the first.
const PACE: Pace = Pace { tries: 6, pause: Duration::from_millis(100) };

/// The ledger of one sink.
#[derive(Debug, Clone)]
pub struct Ledger {
    store: Store,
    clock: Arc<dyn Clock>,
    id: String,
    created: DateTime<Utc>,
    writer: String,
    pace: Pace,
    read_only: bool,
    segments_read: Arc<Cache>,
}

impl Ledger {
    /// Opens the ledger in a folder, or `file://` URL, which is created where it is absent, or below `s3://bucket/prefix`.
    ///
    /// `bound_to` is what the sink calls itself; the ledger says nothing about any other.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User) where the ledger belongs to another sink, is newer, damaged, or
    /// cannot be kept there; [`Retry`](crate::error::Kind::Retry) where the place cannot be reached now.
    pub async fn open(location: &str, bound_to: &str, clock: Arc<dyn Clock>) -> Result<Self> {
        let store = store_at(location, &clock).await?;
        if let Store::Folder(folder) = &store {
            folder.create_root().await?;
        }
        Self::in_store(store, bound_to, clock).await.map_err(explained)
    }

    /// Opens the ledger below a prefix of an object store, as [`open`](Self::open) does.
    ///
    /// # Errors
    /// As those of [`open`](Self::open).
    pub async fn on(store: Arc<dyn ObjectStore>, prefix: &str, bound_to: &str, clock: Arc<dyn Clock>) -> Result<Self> {
        Self::in_store(Store::Objects(Objects::new(store, prefix)), bound_to, clock).await
    }

    /// The ledger at such a location, to be read only: nothing is created, and None where there is none.
    ///
    /// # Errors
    /// As those of [`open`](Self::open).
    pub async fn look(location: &str, bound_to: &str, clock: Arc<dyn Clock>) -> Result<Option<Self>> {
        let store = store_at(location, &clock).await?;
        let root = root::find(&store, bound_to).await.map_err(explained)?;
        Ok(root.map(|root| Self { read_only: true, ..Self::of(store, root, clock) }))
    }

    /// What tells this ledger from any other, also from an earlier one for the same sink.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// When the ledger was made.
    pub fn created(&self) -> DateTime<Utc> {
        self.created
    }

    /// The tables that have a chain, sound or not, in order of their names.
    ///
    /// # Errors
    /// [`Retry`](crate::error::Kind::Retry) where the ledger cannot be read now.
    pub async fn tables(&self) -> Result<Vec<TableName>> {
        let mut folders = Vec::new();
        for database in self.store.list(names::TABLES).await?.folders {
            let folder = format!("{}/{database}", names::TABLES);
            let tables = self.store.list(&folder).await?.folders;
            folders.extend(tables.into_iter().map(|table| (database.clone(), table)));
        }
        let found: Vec<Option<TableName>> = stream::iter(folders)
            .map(|(database, table)| self.table_in(database, table))
            .buffered(TABLES_IN_FLIGHT_MAX)
            .try_collect()
            .await?;
        let mut tables: Vec<TableName> = found.into_iter().flatten().collect();
        tables.sort_unstable();
        Ok(tables)
    }

    /// The chain of a table, read to its head. Nothing is written before there is something to say: the
    /// entry that opens the chain comes with the first that follows it.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User) where the chain is damaged, or was opened with another order,
    /// target or mode.
    pub async fn table(&self, table: &TableName, opening: Opening) -> Result<TableLedger> {
        TableLedger::open(self, table, opening, None, None).await
    }

    /// What the chain of a table amounts to now; an empty state where there is none. Writes nothing.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User) where the chain is damaged.
    pub async fn peek(&self, table: &TableName) -> Result<State> {
        let mut state = State::default();
        self.chain(table).read_all(&mut state).await.map_err(|error| error.in_table(table))?;
        table::demand_table(&state, table)?;
        Ok(state)
    }

    /// As [`peek`](Self::peek), having read the segments, too.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User) where chain or segments are damaged.
    pub async fn check(&self, table: &TableName) -> Result<State> {
        let mut seen = 0;
        loop {
            let state = self.peek(table).await?;
            let whole = self.segments(table).check(state.segments(), state.sightings()).await;
            if whole.map_err(|error| error.in_table(table))? {
                return Ok(state);
            }
            // Unless it was compacted since.
            if state.compacted() == seen {
                return Err(entry::damaged(seen, "a segment that it names is missing").in_table(table));
            }
            seen = state.compacted();
        }
    }

    /// What the ledger knows of files on a disk that this state of a table does not have itself.
    ///
    /// # Errors
    /// [`Retry`](crate::error::Kind::Retry) where the table's chain was compacted since the state was read;
    /// [`User`](crate::error::Kind::User) where the ledger is damaged.
    pub async fn sightings(&self, table: &TableName, state: &State) -> Result<Sightings> {
        let found = self.segments(table).sightings(state.sightings()).await;
        found
            .and_then(|found| {
                found.ok_or_else(|| {
                    Error::retry("the ledger was compacted while it was read")
                        .hint("nothing is lost; another time will do")
                })
            })
            .map_err(|error| error.in_table(table))
    }

    async fn in_store(store: Store, bound_to: &str, clock: Arc<dyn Clock>) -> Result<Self> {
        let root = root::find_or_create(&store, bound_to, clock.as_ref()).await?;
        Ok(Self::of(store, root, clock))
    }

    fn of(store: Store, root: Root, clock: Arc<dyn Clock>) -> Self {
        let writer = format!("freshet {} {}", env!("CARGO_PKG_VERSION"), clock.fresh_id());
        let (id, created, segments_read) = (root.id, root.created, Arc::default());
        Self { store, clock, id, created, writer, pace: PACE, read_only: false, segments_read }
    }

    fn chain(&self, table: &TableName) -> Chain {
        self.chain_of(table, None)
    }

    fn chain_of(&self, table: &TableName, reload: Option<&Reload>) -> Chain {
        let folders = match reload {
            Some(reload) => Folders::of_reload(table, reload.generation),
            None => Folders::of_table(&names::table_folder(table)),
        };
        Chain::new(self.store.clone(), folders, self.pace)
    }

    fn segments(&self, table: &TableName) -> Segments {
        let folder = format!("{}/{}", names::SEGMENTS, names::table_folder(table));
        Segments::new(self.store.clone(), folder, Arc::clone(&self.segments_read), Arc::clone(&self.clock))
    }

    /// The table whose chain stands in the folder of these segments; None where that holds no entry.
    async fn table_in(&self, database: String, table: String) -> Result<Option<TableName>> {
        let folder = format!("{}/{database}/{table}", names::TABLES);
        if let (Some(database), Some(table)) = (names::name_of(&database), names::name_of(&table)) {
            // Whether the chain is sound is seen when the table runs, and is of concern to that table alone.
            let begun = self.store.has_entry_above(&folder, 0).await?;
            return Ok(begun.then(|| TableName::new(database, table)));
        }
        // The name was too long for the folder's: only the chain knows it whole.
        let chain = Chain::new(self.store.clone(), Folders::of_table(&format!("{database}/{table}")), self.pace);
        match chain.first().await {
            Ok(None) => Ok(None),
            Ok(Some((_, Entry::Opened(opened)))) => Ok(Some(opened.table)),
            Ok(Some((_, Entry::Compacted(snapshot)))) => Ok(Some(snapshot.opened.table)),
            Ok(Some(_)) => {
                Ok(self.pass_over(&folder, entry::damaged(1, "the chain does not begin with what opens it")))
            }
            Err(error) if error.kind() == Kind::Retry => Err(error),
            Err(error) => Ok(self.pass_over(&folder, error)),
        }
    }

    /// Tells of a chain whose table cannot be known.
    fn pass_over(&self, folder: &str, error: Error) -> Option<TableName> {
        let error = error.in_file(format!("{}/{folder}", self.store.describe()));
        tracing::error!(error = error.report(), "a chain cannot be read, and is passed over");
        None
    }
}

/// What keeps a ledger at a location.
async fn store_at(location: &str, clock: &Arc<dyn Clock>) -> Result<Store> {
    if !S3Location::is_meant_by(location) {
        return Ok(Store::Folder(Folder::new(folder_path(location)?, Arc::clone(clock))));
    }
    let place = S3Location::parse(location)?;
    let store = Aws::load().await?.bucket(place.bucket())?;
    Ok(Store::Objects(Objects::at(store, &place)?))
}

/// The folder that a location names.
fn folder_path(location: &str) -> Result<PathBuf> {
    let wrong = || {
        Error::user(format!("`{location}` is no place for a ledger"))
            .hint("`ledger` in freshet.yaml is a folder, a file:// URL or s3://BUCKET/PREFIX")
    };
    let path = if location.contains("://") {
        let url = url::Url::parse(location).map_err(|error| wrong().because(error))?;
        if url.scheme() != "file" {
            return Err(wrong());
        }
        url.to_file_path().map_err(|()| wrong())?
    } else if location.is_empty() {
        return Err(wrong());
    } else {
        PathBuf::from(location)
    };
    std::path::absolute(path).map_err(|error| wrong().because(error))
}
