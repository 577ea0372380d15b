//! The ledger as its callers see it, over stores that fail: whose it is, what its chains hold, who wins.

use std::sync::Arc;
use std::time::Duration;

use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use super::chain::Pace;
use super::faulty::{Counted, Fault, Faulty};
use super::samples::{file, intent, opening, table};
use super::*;
use crate::change::FileKind;
use crate::change::batch::{Attempt, CommitOutcome, MergeCounts};
use crate::clock::Clock;
use crate::clock::StillClock;
use crate::config::Order;
use crate::error::Kind;

mod chains;
mod compaction;
mod purge;
mod race;
mod rebuild;
mod reload;

const SINK: &str = "Delta tables in /data/lake";

/// A ledger in `store` that tries again without pausing.
async fn ledger_on(store: Arc<dyn ObjectStore>, clock: &Arc<dyn Clock>) -> Result<Ledger> {
    let ledger = Ledger::on(store, "freshet/ledger", SINK, Arc::clone(clock)).await?;
    Ok(Ledger { pace: Pace { tries: 6, pause: Duration::ZERO }, ..ledger })
}

async fn memory_ledger() -> (Arc<InMemory>, Ledger) {
    let store = Arc::new(InMemory::new());
    let ledger = ledger_on(Arc::clone(&store) as _, &StillClock::shared()).await.unwrap();
    (store, ledger)
}

async fn put(store: &InMemory, path: &str, bytes: &str) {
    store.put(&Path::parse(path).unwrap(), bytes.to_owned().into()).await.unwrap();
}

/// The paths of all objects, in order.
async fn paths(store: &InMemory) -> Vec<String> {
    let found: Vec<_> = store.list(None).try_collect().await.unwrap();
    let mut paths: Vec<String> = found.into_iter().map(|object| object.location.to_string()).collect();
    paths.sort_unstable();
    paths
}

/// The path of an entry in the chain of the sample table.
fn entry_path(number: u64) -> String {
    format!("freshet/ledger/tables/casino_db1/user_actions/{number:020}.json")
}

fn attempt(id: &str) -> Attempt {
    intent(id, &["f"]).attempt
}

#[tokio::test]
async fn a_ledger_opened_again_is_the_same_one() {
    let clock = StillClock::shared();
    let store = Arc::new(InMemory::new());
    let first = ledger_on(Arc::clone(&store) as _, &clock).await.unwrap();
    let again = ledger_on(Arc::clone(&store) as _, &clock).await.unwrap();
    assert_eq!((first.id(), first.created()), (again.id(), again.created()));
    assert_ne!(first.writer, again.writer);
    assert_eq!(paths(&store).await, ["freshet/ledger/ledger.json"]);
}

#[tokio::test]
async fn a_foreign_newer_garbled_or_emptied_ledger_is_refused_with_a_hint() {
    let cases = [
        (r#"{"format":1,"bound_to":"other","id":"x","created":"2026-01-01T00:00:00Z"}"#, "another sink, other"),
        (r#"{"format":2,"shape":"unknown"}"#, "format 2"),
        (r#"{"format":1}"#, "cannot be read"),
        (r#"{"format":"1"}"#, "cannot be read"),
        ("", "cannot be read"),
        ("\u{0}\u{0}\u{0}", "cannot be read"),
        ("[1,", "cannot be read"),
    ];
    for (root, what) in cases {
        let store = Arc::new(InMemory::new());
        put(&store, "freshet/ledger/ledger.json", root).await;
        let error = ledger_on(Arc::clone(&store) as _, &StillClock::shared()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::User, "{root}");
        assert!(error.message().contains(what) && error.hint_text().is_some(), "{}", error.report());
        let read = store.get(&Path::from("freshet/ledger/ledger.json")).await.unwrap().bytes().await.unwrap();
        assert_eq!(read, root.as_bytes(), "the refused root was changed");
    }
}

#[tokio::test]
async fn a_ledger_with_tables_but_without_its_root_is_refused() {
    let (store, ledger) = memory_ledger().await;
    let mut table = ledger.table(&table(), opening()).await.unwrap();
    table.claim(intent("a", &["f"])).await.unwrap();
    store.delete(&Path::from("freshet/ledger/ledger.json")).await.unwrap();
    let error = ledger_on(store as _, &StillClock::shared()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::User);
    assert!(error.hint_text().unwrap().contains("restore"));
}

#[tokio::test]
async fn a_store_that_overwrites_or_denies_is_refused_and_one_that_stutters_is_not() {
    let open = async |script: &[Fault]| {
        let store = Faulty::scripted(Arc::new(InMemory::new()), script);
        let opened = ledger_on(Arc::clone(&store) as _, &StillClock::shared()).await;
        (opened, store.rest())
    };
    for script in [&[Fault::None, Fault::Overwrites][..], &[Fault::Denied]] {
        let (refused, rest) = open(script).await;
        let error = refused.unwrap_err();
        assert_eq!((error.kind(), rest), (Kind::User, 0), "{}", error.report());
        assert!(error.hint_text().is_some());
    }
    for script in [[Fault::AnswerLost], [Fault::Repeated]] {
        let (opened, rest) = open(&script).await;
        assert_eq!((opened.is_ok(), rest), (true, 0), "{script:?}");
    }
    for script in [&[Fault::RequestLost][..], &[Fault::Conflict], &[Fault::None, Fault::RequestLost]] {
        assert_eq!(open(script).await.0.unwrap_err().kind(), Kind::Retry, "{script:?}");
    }
}

#[tokio::test]
async fn hostile_table_names_have_chains_of_their_own_and_are_listed_as_they_are() {
    let (_, ledger) = memory_ledger().await;
    let long = "가".repeat(64);
    let names = ["a\"b; drop", "..", "x/y", "x%2Fy", "사용자_행동", ".", "", &long];
    for (n, name) in names.iter().enumerate() {
        let mut table = ledger.table(&TableName::new("c:\\..", *name), opening()).await.unwrap();
        assert_eq!(table.state().head(), 0, "{name}");
        assert_eq!(table.claim(intent("a", &["f"])).await.unwrap(), Claim::Taken(2));
        assert_eq!(ledger.tables().await.unwrap().len(), n + 1);
    }
    let mut expected: Vec<_> = names.iter().map(|name| TableName::new("c:\\..", *name)).collect();
    expected.sort_unstable();
    assert_eq!(ledger.tables().await.unwrap(), expected);
}

#[tokio::test]
async fn a_folder_ledger_is_created_kept_and_read_without_being_written() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("state/ledger");
    let place = place.to_str().unwrap();
    assert!(Ledger::look(place, SINK, StillClock::shared()).await.unwrap().is_none());
    assert!(!dir.path().join("state").exists(), "looking created something");

    let ledger = Ledger::open(&format!("file://{place}"), SINK, StillClock::shared()).await.unwrap();
    for name in ["users", "x/y", "사용자", "..", ""] {
        let mut table = ledger.table(&TableName::new("db", name), opening()).await.unwrap();
        assert_eq!(table.claim(intent("a", &["f", "g"])).await.unwrap(), Claim::Taken(2));
        assert_eq!(table.finish(2, CommitOutcome::Committed).await.unwrap(), CommitOutcome::Committed);
    }
    let users = TableName::new("db", "users");
    std::fs::write(dir.path().join("state/ledger/tables/db/users/.tmp-9"), "torn").unwrap();
    std::fs::create_dir_all(dir.path().join("state/ledger/tables/db/begun_by_a_crash")).unwrap();

    let again = Ledger::look(place, SINK, StillClock::shared()).await.unwrap().unwrap();
    assert_eq!(again.id(), ledger.id());
    assert_eq!(again.tables().await.unwrap().len(), 5);
    let state = again.peek(&users).await.unwrap();
    assert_eq!((state.head(), state.files_committed()), (3, 2));
    let mut table = again.table(&users, opening()).await.unwrap();
    assert_eq!(table.claim(intent("b", &["h"])).await.unwrap_err().kind(), Kind::Bug);
    let error = Ledger::open(place, "another sink", StillClock::shared()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::User);
}

#[tokio::test]
async fn the_ledger_of_a_bucket_lies_below_its_prefix_as_written_and_is_named_in_messages() {
    let store = Arc::new(InMemory::new());
    let place = S3Location::parse("s3://cdc-state/a b%20/ledger/").unwrap();
    let objects = Objects::at(Arc::clone(&store) as _, &place).unwrap();
    Ledger::in_store(Store::Objects(objects.clone()), SINK, StillClock::shared()).await.unwrap();
    assert_eq!(paths(&store).await, ["a b%20/ledger/ledger.json"]);
    let error = Ledger::in_store(Store::Objects(objects), "other", StillClock::shared()).await.unwrap_err();
    assert!(error.message().contains("in s3://cdc-state/a b%20/ledger belongs to another sink"), "{error}");
    let whole = S3Location::parse("s3://cdc-state").unwrap();
    let objects = Objects::at(Arc::clone(&store) as _, &whole).unwrap();
    Ledger::in_store(Store::Objects(objects), SINK, StillClock::shared()).await.unwrap();
    assert_eq!(paths(&store).await, ["a b%20/ledger/ledger.json", "ledger.json"]);
}

#[tokio::test]
async fn a_location_is_a_folder_a_file_url_or_in_s3_and_nothing_else() {
    for location in [
        "",
        "gs://bucket/ledger",
        "s3://",
        "s3://bucket//ledger",
        "s3://bucket/*",
        "file://host.example/x",
        "://",
        "http://[x",
    ] {
        let error = Ledger::open(location, SINK, StillClock::shared()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::User, "{location}");
        assert!(error.hint_text().is_some());
    }
    assert_eq!(folder_path("file:///a%20b/c").unwrap(), PathBuf::from("/a b/c"));
    assert_eq!(folder_path("/a%20b").unwrap(), PathBuf::from("/a%20b"));
    assert!(folder_path("ledger").unwrap().is_absolute());
}
