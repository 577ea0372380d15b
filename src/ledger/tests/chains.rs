//! One table's chain: claims, outcomes, merges, lost answers, damage.

use super::*;
use crate::clock::StillClock;

async fn sample_table(ledger: &Ledger) -> TableLedger {
    ledger.table(&table(), opening()).await.unwrap()
}

/// A ledger over a store whose puts, after the one that creates the root and the probe, meet `script`.
async fn scripted(script: &[Fault]) -> (Arc<InMemory>, Arc<Faulty>, Ledger) {
    let inner = Arc::new(InMemory::new());
    let script: Vec<Fault> = [&[Fault::None, Fault::None], script].concat();
    let store = Faulty::scripted(Arc::clone(&inner), &script);
    let ledger = ledger_on(Arc::clone(&store) as _, &StillClock::shared()).await.unwrap();
    (inner, store, ledger)
}

#[tokio::test]
async fn looking_at_a_table_writes_nothing_and_the_first_claim_opens_its_chain() {
    let (store, ledger) = memory_ledger().await;
    assert_eq!(ledger.peek(&table()).await.unwrap(), State::default());
    let mut first = sample_table(&ledger).await;
    first.refresh().await.unwrap();
    assert_eq!(first.generation(), 1);
    assert_eq!(paths(&store).await.len(), 1);
    assert!(ledger.tables().await.unwrap().is_empty());

    assert_eq!(first.claim(intent("a", &["f"])).await.unwrap(), Claim::Taken(2));
    assert_eq!(paths(&store).await[1..], [entry_path(1), entry_path(2)]);
    assert_eq!(&ledger.peek(&table()).await.unwrap(), first.state());
    assert_eq!(ledger.tables().await.unwrap(), [table()]);
}

#[tokio::test]
async fn a_chain_that_is_damaged_from_its_start_is_listed_and_hinders_no_other() {
    let (store, ledger) = memory_ledger().await;
    sample_table(&ledger).await.claim(intent("a", &["f"])).await.unwrap();
    let other = TableName::new("db", "other");
    ledger.table(&other, opening()).await.unwrap().claim(intent("b", &["g"])).await.unwrap();
    put(&store, &entry_path(1), "").await;
    assert_eq!(ledger.tables().await.unwrap(), [table(), other.clone()]);
    assert_eq!(ledger.peek(&table()).await.unwrap_err().kind(), Kind::User);
    assert_eq!(ledger.peek(&other).await.unwrap().head(), 2);
}

#[tokio::test]
async fn a_claimed_or_done_file_is_refused_and_nothing_is_written() {
    let (store, ledger) = memory_ledger().await;
    let (mut one, mut two) = (sample_table(&ledger).await, sample_table(&ledger).await);
    assert_eq!(one.claim(intent("a", &["f", "g"])).await.unwrap(), Claim::Taken(2));
    one.set_aside(&file("bad"), "zero date").await.unwrap();
    let before = paths(&store).await;
    assert_eq!(two.claim(intent("b", &["x", "g"])).await.unwrap(), Claim::Refused(vec![file("g").id]));
    assert_eq!(two.claim(intent("b", &["bad"])).await.unwrap(), Claim::Refused(vec![file("bad").id]));
    assert_eq!(paths(&store).await, before);
    assert_eq!(two.finish(2, CommitOutcome::Lost).await.unwrap(), CommitOutcome::Lost);
    assert_eq!(two.claim(intent("b", &["x", "g"])).await.unwrap(), Claim::Taken(5));
    assert_eq!(one.claim(intent("c", &["g"])).await.unwrap(), Claim::Refused(vec![file("g").id]));
}

#[tokio::test]
async fn a_claim_repeated_finds_its_own_intent_and_writes_no_other() {
    let (store, ledger) = memory_ledger().await;
    sample_table(&ledger).await.claim(intent("a", &["f"])).await.unwrap();
    let before = paths(&store).await;
    let mut after_restart = sample_table(&ledger).await;
    assert_eq!(after_restart.state().open_intents().next(), Some((2, &intent("a", &["f"]))));
    assert_eq!(after_restart.claim(intent("a", &["f"])).await.unwrap(), Claim::Taken(2));
    assert_eq!(paths(&store).await, before);
}

#[tokio::test]
async fn a_claim_of_another_generation_is_fenced_and_a_senseless_one_is_never_written() {
    let (store, ledger) = memory_ledger().await;
    let mut table = sample_table(&ledger).await;
    let mut late = intent("a", &["f"]);
    late.generation = 2;
    assert_eq!(table.claim(late).await.unwrap_err().kind(), Kind::Fenced);
    assert_eq!(table.claim(intent("a", &["f"])).await.unwrap(), Claim::Taken(2));
    assert_eq!(table.claim(intent("b", &["g", "g"])).await.unwrap_err().kind(), Kind::Bug);
    assert_eq!(table.claim(intent("b", &[])).await.unwrap_err().kind(), Kind::Bug);
    assert_eq!(table.finish(7, CommitOutcome::Lost).await.unwrap_err().kind(), Kind::Bug);
    assert_eq!(table.finish_merge(2, MergeCounts::default()).await.unwrap_err().kind(), Kind::Bug);
    assert_eq!(paths(&store).await.len(), 3);
    assert_eq!(sample_table(&ledger).await.state().head(), 2);
}

#[tokio::test]
async fn a_second_outcome_is_not_written_and_the_first_is_returned() {
    let (store, ledger) = memory_ledger().await;
    let (mut one, mut two) = (sample_table(&ledger).await, sample_table(&ledger).await);
    one.claim(intent("a", &["f"])).await.unwrap();
    assert_eq!(two.finish(2, CommitOutcome::Committed).await.unwrap(), CommitOutcome::Committed);
    let before = paths(&store).await;
    assert_eq!(one.finish(2, CommitOutcome::Lost).await.unwrap(), CommitOutcome::Committed);
    assert_eq!(two.finish(2, CommitOutcome::Committed).await.unwrap(), CommitOutcome::Committed);
    assert_eq!(paths(&store).await, before);
}

#[tokio::test]
async fn a_file_gets_one_final_state_whoever_comes_later() {
    let (store, ledger) = memory_ledger().await;
    let (mut one, mut two) = (sample_table(&ledger).await, sample_table(&ledger).await);
    assert_eq!(one.set_aside(&file("f"), "zero date").await.unwrap(), FileState::SetAside);
    assert_eq!(two.gone(&file("f")).await.unwrap(), FileState::SetAside);
    assert_eq!(two.gone(&file("g")).await.unwrap(), FileState::Gone);
    assert_eq!(one.superseded(&file("g")).await.unwrap(), FileState::Gone);
    assert_eq!(one.superseded(&file("h")).await.unwrap(), FileState::Superseded);
    one.claim(intent("a", &["i"])).await.unwrap();
    assert_eq!(two.set_aside(&file("i"), "late").await.unwrap(), FileState::Claimed { intent: 5 });
    assert_eq!(paths(&store).await.len(), 6);
}

#[tokio::test]
async fn at_most_one_merge_is_open_and_whoever_comes_gets_it() {
    let (_, ledger) = memory_ledger().await;
    let (mut one, mut two) = (sample_table(&ledger).await, sample_table(&ledger).await);
    assert_eq!(one.open_merge(&attempt("m"), 10).await.unwrap(), None);
    for (id, name) in [("a", "f"), ("b", "g"), ("c", "h")] {
        let Claim::Taken(number) = one.claim(intent(id, &[name])).await.unwrap() else { panic!("refused") };
        one.finish(number, CommitOutcome::Committed).await.unwrap();
    }
    let (number, merge) = one.open_merge(&attempt("m"), 2).await.unwrap().unwrap();
    assert_eq!((merge.attempt.id.as_str(), merge.batches.clone()), ("m", vec!["a".to_owned(), "b".to_owned()]));
    assert_eq!(two.open_merge(&attempt("n"), 9).await.unwrap(), Some((number, merge)));

    let counts = MergeCounts { inserted: 2, updated: 0, deleted: 0 };
    assert_eq!(two.finish_merge(number, counts).await.unwrap(), counts);
    assert_eq!(one.finish_merge(number, MergeCounts::default()).await.unwrap(), counts);
    assert_eq!(two.open_merge(&attempt("m"), 9).await.unwrap_err().kind(), Kind::Bug, "an attempt used twice");
    let (_, rest) = two.open_merge(&attempt("n"), 9).await.unwrap().unwrap();
    assert_eq!(rest.batches, ["c"]);
}

#[tokio::test]
async fn an_entry_whose_answer_was_lost_is_found_to_be_mine_and_stands_there_once() {
    for fault in [Fault::AnswerLost, Fault::Repeated, Fault::RequestLost, Fault::Conflict] {
        let (inner, store, ledger) = scripted(&[fault, fault, fault]).await;
        let mut table = sample_table(&ledger).await;
        assert_eq!(table.claim(intent("a", &["f"])).await.unwrap(), Claim::Taken(2), "{fault:?}");
        assert_eq!(table.finish(2, CommitOutcome::Committed).await.unwrap(), CommitOutcome::Committed);
        assert_eq!((paths(&inner).await.len(), store.rest()), (4, 0), "{fault:?}");
        assert_eq!(&ledger.peek(&super::table()).await.unwrap(), table.state());
    }
}

#[tokio::test]
async fn tries_are_bounded_and_an_entry_of_unknown_fate_can_be_claimed_again() {
    let (inner, _, ledger) = scripted(&[Fault::None, Fault::RequestLost, Fault::RequestLost]).await;
    let ledger = Ledger { pace: Pace { tries: 2, pause: Duration::ZERO }, ..ledger };
    let mut table = sample_table(&ledger).await;
    assert_eq!(table.claim(intent("a", &["f"])).await.unwrap_err().kind(), Kind::Retry);
    assert_eq!(paths(&inner).await.len(), 2);
    assert_eq!(table.claim(intent("a", &["f"])).await.unwrap(), Claim::Taken(2));
}

#[tokio::test]
async fn a_writer_without_leave_is_told_so_at_once() {
    let (_, store, ledger) = scripted(&[Fault::Denied, Fault::Denied]).await;
    let error = sample_table(&ledger).await.claim(intent("a", &["f"])).await.unwrap_err();
    assert_eq!((error.kind(), store.rest()), (Kind::User, 1));
    assert_eq!(error.place().table.as_deref(), Some("casino_db1.user_actions"));
}

#[tokio::test]
async fn a_table_configured_otherwise_than_it_was_begun_is_refused_with_a_hint() {
    let (_, ledger) = memory_ledger().await;
    let mut early = ledger.table(&table(), Opening { order: Order::Exact, ..opening() }).await.unwrap();
    sample_table(&ledger).await.claim(intent("a", &["f"])).await.unwrap();
    for (other, hint) in [
        (Opening { order: Order::Exact, ..opening() }, "`order: best_effort`"),
        (Opening { target: TableName::new("x", "y"), ..opening() }, "`target: casino_db1.user_actions`"),
    ] {
        let error = ledger.table(&table(), other).await.unwrap_err();
        assert_eq!(error.kind(), Kind::User);
        assert!(error.hint_text().unwrap().contains(hint), "{}", error.report());
    }
    let error = early.claim(intent("b", &["g"])).await.unwrap_err();
    assert_eq!(error.kind(), Kind::User, "it opened the chain although another had");
}

#[tokio::test]
async fn two_tables_in_one_folder_are_told_apart() {
    let (store, ledger) = memory_ledger().await;
    sample_table(&ledger).await.claim(intent("a", &["f"])).await.unwrap();
    let upper = TableName::new("casino_db1", "USER_ACTIONS");
    let (from, to) = (Path::parse(entry_path(1)).unwrap(), entry_path(1).replace("user_actions", "USER_ACTIONS"));
    store.copy(&from, &Path::parse(to).unwrap()).await.unwrap();
    for error in [ledger.peek(&upper).await.unwrap_err(), ledger.table(&upper, opening()).await.unwrap_err()] {
        assert_eq!(error.kind(), Kind::User);
        assert!(error.message().contains("casino_db1.user_actions"), "{error}");
    }
}

#[tokio::test]
async fn a_long_chain_is_read_whole_and_a_hole_anywhere_in_it_is_damage() {
    let (store, ledger) = memory_ledger().await;
    let mut table = sample_table(&ledger).await;
    for n in 0..40 {
        table.set_aside(&file(&format!("f{n}")), "why").await.unwrap();
    }
    assert_eq!(&ledger.peek(&super::table()).await.unwrap(), table.state());
    assert_eq!(table.state().head(), 41);
    for hole in [1, 2, 3, 4, 8, 17, 39, 40] {
        let path = Path::parse(entry_path(hole)).unwrap();
        let bytes = store.get(&path).await.unwrap().bytes().await.unwrap();
        store.delete(&path).await.unwrap();
        let error = ledger.peek(&super::table()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::User);
        assert!(error.message().contains(&format!("damaged at entry {hole}:")), "{error}");
        store.put(&path, bytes.into()).await.unwrap();
    }
}

#[tokio::test]
async fn entries_that_appear_while_others_are_read_are_no_damage() {
    let (_, store, ledger) = scripted(&[]).await;
    let mut table = sample_table(&ledger).await;
    for n in 0..40 {
        table.set_aside(&file(&format!("f{n}")), "why").await.unwrap();
    }
    for number in 1..=41 {
        store.not_yet_seen(Path::parse(entry_path(number)).unwrap());
        assert_eq!(&ledger.peek(&super::table()).await.unwrap(), table.state(), "entry {number}");
    }
}

#[tokio::test]
async fn a_garbled_entry_stops_its_table_and_is_named() {
    let (store, ledger) = memory_ledger().await;
    let mut open = sample_table(&ledger).await;
    open.claim(intent("a", &["f"])).await.unwrap();
    for garbage in ["", "{\"entry\":\"committed\",\"intent\":2", "null"] {
        put(&store, &entry_path(3), garbage).await;
        let error = ledger.table(&table(), opening()).await.unwrap_err();
        assert!(error.message().contains("damaged at entry 3"), "{}", error.report());
        assert_eq!(open.finish(2, CommitOutcome::Committed).await.unwrap_err().kind(), Kind::User);
    }
    put(&store, &entry_path(3), r#"{"nonce":"","written_at":"2026-01-01T00:00:00Z","writer":"","entry":"renamed"}"#)
        .await;
    let error = open.refresh().await.unwrap_err();
    assert!(error.hint_text().unwrap().contains("upgrade"));
    assert_eq!(ledger.tables().await.unwrap(), [table()]);
}
