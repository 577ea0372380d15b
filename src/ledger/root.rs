//! The entry that says whose ledger this is, `ledger.json`. It also shows whether the place can be trusted:
//! creating it a second time must be refused.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::names::{ROOT, TABLES};
use super::store::{Created, Store};
use crate::clock::Clock;
use crate::error::{Error, Result};

/// The newest layout of a ledger that this version knows, and the one it writes.
const FORMAT: u64 = 1;

/// Who the ledger is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Root {
    format: u64,
    /// What the sink calls itself; entries say nothing about any other.
    bound_to: String,
    /// Tells this ledger from another that was bound to the same sink.
    pub(super) id: String,
    /// When it was made, by the clock of whoever made it.
    pub(super) created: DateTime<Utc>,
}

/// Reads the root; None where there is neither a root nor anything else of a ledger.
///
/// # Errors
/// [`User`](crate::error::Kind::User) where the ledger is foreign, newer, unreadable, or without its root.
pub(super) async fn find(store: &Store, bound_to: &str) -> Result<Option<Root>> {
    match find_bytes(store, bound_to).await? {
        Some((root, _)) => Ok(Some(root)),
        None => Ok(None),
    }
}

/// Reads the root, or creates it, and demands that the place refuses to create it again.
///
/// # Errors
/// As [`find`], and [`User`](crate::error::Kind::User) where the place overwrites what is there.
pub(super) async fn find_or_create(store: &Store, bound_to: &str, clock: &dyn Clock) -> Result<Root> {
    if find_bytes(store, bound_to).await?.is_none() {
        let id = clock.fresh_id().to_string();
        let root = Root { format: FORMAT, bound_to: bound_to.into(), id, created: clock.now() };
        let bytes = serde_json::to_vec_pretty(&root)
            .map_err(|error| Error::bug("the ledger's root cannot be written as JSON").because(error))?;
        // Whether it was this root or another's that was created shows when it is read.
        if let Created::Unknown(error) = store.create(ROOT, bytes.into()).await?
            && find_bytes(store, bound_to).await?.is_none()
        {
            return Err(error);
        }
    }
    let Some((root, bytes)) = find_bytes(store, bound_to).await? else {
        return Err(Error::retry(format!("the ledger's {ROOT} in {} was created, but is not there", store.describe())));
    };
    store.settle("").await?;
    probe(store, bytes).await?;
    Ok(root)
}

/// Creates the root once more, with the bytes it has, so that a place that overwrites it does no harm.
async fn probe(store: &Store, bytes: Bytes) -> Result<()> {
    match store.create(ROOT, bytes).await? {
        Created::Exists => Ok(()),
        Created::Yes => Err(Error::user(format!("{} overwrites what it should refuse to create", store.describe()))
            .hint("keep the ledger where an object is created only if it is absent, such as S3 or a local folder")),
        Created::Unknown(error) => Err(error),
    }
}

async fn find_bytes(store: &Store, bound_to: &str) -> Result<Option<(Root, Bytes)>> {
    let mut bytes = store.read(ROOT).await?;
    if bytes.is_none() && !store.list(TABLES).await?.folders.is_empty() {
        // Another process may have created both since.
        bytes = store.read(ROOT).await?;
        if bytes.is_none() {
            return Err(Error::user(format!("{} has tables of a ledger, but no {ROOT}", store.describe()))
                .hint(format!("restore {ROOT} from a backup: without it nothing tells whose ledger this is")));
        }
    }
    match bytes {
        Some(bytes) => Ok(Some((parse(store, bound_to, &bytes)?, bytes))),
        None => Ok(None),
    }
}

fn parse(store: &Store, bound_to: &str, bytes: &[u8]) -> Result<Root> {
    #[derive(Deserialize)]
    struct OnlyFormat {
        format: u64,
    }
    let place = store.describe();
    let unreadable = |error: serde_json::Error| {
        Error::user(format!("{ROOT} in {place} cannot be read"))
            .because(error)
            .hint("restore it from a backup, or check whether `ledger` in freshet.yaml names the right place")
    };
    let format = serde_json::from_slice::<OnlyFormat>(bytes).map_err(unreadable)?.format;
    if format != FORMAT {
        return Err(Error::user(format!("the ledger in {place} has format {format}; this freshet knows {FORMAT}"))
            .hint("a newer freshet wrote it: upgrade this one"));
    }
    let root: Root = serde_json::from_slice(bytes).map_err(unreadable)?;
    if root.bound_to != bound_to {
        let message = format!("the ledger in {place} belongs to another sink, {}, not to {bound_to}", root.bound_to);
        return Err(
            Error::user(message).hint("set back `sink` in freshet.yaml, or name another `ledger` for this sink")
        );
    }
    Ok(root)
}
