//! Purges in a chain: what is too late once one is begun, and when tombstones may go.

use super::*;

async fn sample_table(ledger: &Ledger) -> TableLedger {
    ledger.table(&table(), opening()).await.unwrap()
}

/// An intent whose changes were held against a purge.
fn held_against(purged_us: u64, attempt: &str, file: &str) -> Intent {
    Intent { purged_us, ..intent(attempt, &[file]) }
}

async fn commit(chain: &mut TableLedger, intent: Intent) -> u64 {
    let Claim::Taken(number) = chain.claim(intent).await.unwrap() else { panic!("the claim was refused") };
    chain.finish(number, CommitOutcome::Committed).await.unwrap();
    number
}

/// Merges all that one merge may take: the batches, and what they were held against.
async fn merge(chain: &mut TableLedger, id: &str) -> (Vec<String>, u64) {
    let (number, merge) = chain.open_merge(&attempt(id), 10).await.unwrap().unwrap();
    chain.finish_merge(number, MergeCounts::default()).await.unwrap();
    (merge.batches, merge.purged_us)
}

fn due(chain: &TableLedger) -> Option<u64> {
    chain.state().due_purge().map(|(number, _)| number)
}

#[tokio::test]
async fn a_batch_that_was_not_held_against_a_purge_is_to_be_made_anew() {
    let (_, ledger) = memory_ledger().await;
    let (mut chain, mut other) = (sample_table(&ledger).await, sample_table(&ledger).await);
    commit(&mut chain, intent("a", &["f"])).await;
    other.begin_purge(500).await.unwrap();
    assert_eq!(chain.claim(intent("b", &["g"])).await.unwrap(), Claim::Outdated);
    assert_eq!(chain.state().purged_us(), 500);
    assert_eq!(chain.claim(held_against(499, "b", "g")).await.unwrap(), Claim::Outdated);
    commit(&mut chain, held_against(500, "b", "g")).await;
    // What stands in the chain is not asked for again.
    assert_eq!(chain.claim(intent("a", &["f"])).await.unwrap(), Claim::Taken(2));
}

#[tokio::test]
async fn tombstones_may_go_once_all_that_was_claimed_before_is_merged() {
    let (_, ledger) = memory_ledger().await;
    let mut chain = sample_table(&ledger).await;
    let Claim::Taken(first) = chain.claim(intent("a", &["f"])).await.unwrap() else { panic!() };
    chain.begin_purge(500).await.unwrap();
    let purge = chain.state().head();
    commit(&mut chain, held_against(500, "b", "g")).await;
    assert_eq!(due(&chain), None, "an intent is open");
    assert_eq!(merge(&mut chain, "m1").await, (vec!["b".to_owned()], 500));
    chain.finish(first, CommitOutcome::Committed).await.unwrap();
    commit(&mut chain, held_against(500, "c", "h")).await;
    assert_eq!(due(&chain), None, "a batch waits");
    let (number, open) = chain.open_merge(&attempt("m2"), 10).await.unwrap().unwrap();
    assert_eq!((open.batches, open.purged_us), (vec!["a".to_owned()], 0), "what came after waits for another merge");
    assert_eq!(due(&chain), None, "it is being merged");
    chain.finish_merge(number, MergeCounts::default()).await.unwrap();
    assert_eq!(due(&chain), Some(purge));
    let open = chain.open_merge(&attempt("m3"), 10).await.unwrap().unwrap();
    assert_eq!((open.1.batches, open.1.purged_us), (vec!["c".to_owned()], 500));
    assert_eq!(due(&chain), Some(purge), "later merges need none of the tombstones");
    for _ in 0..2 {
        chain.finish_purge(purge).await.unwrap();
        assert_eq!((chain.state().open_purge(), chain.state().purged_us()), (None, 500));
    }
    assert!(chain.compact_above(1).await.unwrap());
    let mut again = sample_table(&ledger).await;
    assert_eq!((again.state().purged_us(), again.state().open_purge()), (500, None));
    assert_eq!(again.claim(intent("d", &["i"])).await.unwrap(), Claim::Outdated);
}

#[tokio::test]
async fn one_purge_at_a_time_each_going_further_survives_compaction_and_none_is_begun_where_the_chain_is_closed() {
    let (_, ledger) = memory_ledger().await;
    let mut chain = sample_table(&ledger).await;
    commit(&mut chain, intent("a", &["f"])).await;
    chain.begin_purge(500).await.unwrap();
    let purge = chain.state().head();
    chain.begin_purge(900).await.unwrap();
    assert_eq!((chain.state().head(), chain.state().purged_us()), (purge, 500));
    assert!(chain.compact_above(1).await.unwrap());
    assert_eq!(due(&chain), None);
    assert_eq!(merge(&mut chain, "m").await, (vec!["a".to_owned()], 0));
    assert_eq!(due(&chain), Some(purge));
    chain.finish_purge(purge).await.unwrap();
    let head = chain.state().head();
    chain.begin_purge(500).await.unwrap();
    assert_eq!(chain.state().head(), head);
    chain.begin_purge(501).await.unwrap();
    assert_eq!(chain.state().purged_us(), 501);
    chain.finish_purge(chain.state().head()).await.unwrap();
    chain.begin_reload(None).await.unwrap();
    chain.close(2).await.unwrap();
    let head = chain.state().head();
    chain.begin_purge(900).await.unwrap();
    assert_eq!(chain.state().head(), head);
}

#[tokio::test]
async fn a_chain_remembers_the_time_of_the_newest_change_file() {
    let (_, ledger) = memory_ledger().await;
    let mut chain = sample_table(&ledger).await;
    let of = |name: &str, kind: FileKind, time_ms: i64| FileEntry { kind, time_ms, ..file(name) };
    for (name, kind, time_ms) in [("f", FileKind::Cdc, 70), ("g", FileKind::Cdc, 60), ("h", FileKind::Load, 90)] {
        commit(&mut chain, Intent { files: vec![of(name, kind, time_ms)], ..intent(name, &[]) }).await;
    }
    assert_eq!(chain.state().newest_ms(), 70);
}
