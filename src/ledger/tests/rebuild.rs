//! A chain made anew from what a target says.

use super::*;
use crate::change::FileId;
use crate::change::batch::{Recorded, Recording};

fn recorded() -> Recorded {
    let mut recording = Recording::default();
    for (attempt_id, name, rows) in [("b", "g", 2), ("a", "f", 3), ("b", "h", 4)] {
        recording.add(attempt(attempt_id), file(name).id, rows);
    }
    Recorded { number: 40, ..recording.recorded() }
}

#[tokio::test]
async fn a_rebuilt_chain_knows_the_logs_files_and_has_its_batches_merged_again() {
    let (store, ledger) = memory_ledger().await;
    ledger.rebuild(&table(), opening(), &recorded()).await.unwrap();
    let mut chain = ledger.table(&table(), opening()).await.unwrap();
    assert_eq!((chain.state().head(), chain.state().files_committed(), chain.state().rows_committed()), (43, 3, 9));
    let done: Vec<FileId> = ["f", "g", "h"].iter().map(|name| file(name).id).collect();
    assert_eq!(chain.claim(intent("c", &["f", "g", "h"])).await.unwrap(), Claim::Refused(done));
    assert_eq!(chain.claim(intent("c", &["new"])).await.unwrap(), Claim::Taken(44), "above what the target remembers");
    let (_, merge) = chain.open_merge(&attempt("m"), 10).await.unwrap().unwrap();
    assert_eq!((merge.batches, merge.rows), (vec!["a".to_owned(), "b".to_owned()], 9));
    let error = ledger.rebuild(&table(), opening(), &recorded()).await.unwrap_err();
    assert!(error.message().contains("knows the table") && error.hint_text().is_some(), "{}", error.report());
    assert_eq!(ledger.tables().await.unwrap(), [table()]);
    assert!(paths(&store).await.contains(&entry_path(43)));
}

#[tokio::test]
async fn in_mode_append_nothing_is_merged_again() {
    let (_, ledger) = memory_ledger().await;
    ledger.rebuild(&table(), opening(), &recorded()).await.unwrap();
    let mut append = intent("c", &["new"]);
    append.rules.mode = crate::config::Mode::Append;
    let mut chain = ledger.table(&table(), opening()).await.unwrap();
    chain.claim(append).await.unwrap();
    assert_eq!(chain.state().unmerged().count(), 0);
    assert!(chain.open_merge(&attempt("m"), 10).await.unwrap().is_none());
}

#[tokio::test]
async fn a_merge_does_not_wait_for_rows_that_may_expire() {
    let (_, ledger) = memory_ledger().await;
    ledger.rebuild(&table(), opening(), &Recorded { expires: true, ..recorded() }).await.unwrap();
    let mut chain = ledger.table(&table(), opening()).await.unwrap();
    let (_, merge) = chain.open_merge(&attempt("m"), 10).await.unwrap().unwrap();
    assert_eq!((merge.batches.len(), merge.rows), (2, 0));
}

#[tokio::test]
async fn a_rebuilding_that_was_broken_off_is_done_again() {
    let (store, ledger) = memory_ledger().await;
    ledger.rebuild(&table(), opening(), &recorded()).await.unwrap();
    assert!(ledger.knows(&table()).await.unwrap());
    let mark = format!("freshet/ledger/compactions/casino_db1/user_actions/{:020}.json", 43);
    store.delete(&Path::parse(mark).unwrap()).await.unwrap();
    assert!(ledger.peek(&table()).await.is_err());
    assert!(!ledger.knows(&table()).await.unwrap());
    ledger.rebuild(&table(), opening(), &recorded()).await.unwrap();
    assert_eq!(ledger.peek(&table()).await.unwrap().head(), 43);
}

#[tokio::test]
async fn a_table_with_an_empty_log_is_rebuilt_and_goes_on() {
    let (_, ledger) = memory_ledger().await;
    ledger.rebuild(&table(), opening(), &Recorded::default()).await.unwrap();
    let mut chain = ledger.table(&table(), opening()).await.unwrap();
    assert!(matches!(chain.claim(intent("a", &["f"])).await.unwrap(), Claim::Taken(_)));
}

/// A clock by which each look at it takes a while.
#[derive(Debug, Default)]
struct Ticking(StillClock);

impl Clock for Ticking {
    fn now(&self) -> chrono::DateTime<chrono::Utc> {
        self.0.forward(chrono::TimeDelta::milliseconds(1));
        self.0.now()
    }

    fn fresh_id(&self) -> uuid::Uuid {
        self.0.fresh_id()
    }
}

#[tokio::test]
async fn a_chain_is_rebuilt_while_time_goes_on_and_knows_what_was_purged() {
    let clock: Arc<dyn Clock> = Arc::new(Ticking::default());
    let ledger = ledger_on(Arc::new(InMemory::new()), &clock).await.unwrap();
    ledger.rebuild(&table(), opening(), &Recorded { purged_us: 7, ..recorded() }).await.unwrap();
    let mut chain = ledger.table(&table(), opening()).await.unwrap();
    assert_eq!(chain.state().purged_us(), 7);
    assert_eq!(chain.claim(intent("c", &["new"])).await.unwrap(), Claim::Outdated);
}
