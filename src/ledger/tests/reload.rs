//! A generation built beside the present one: which files are whose, what is refused while it takes the other's place,
//! and that it either does or never will.

use super::*;
use crate::change::{ChangeFile, FileKind, TableName};
use crate::ledger::samples::announced;

const SINCE_MS: i64 = 25;

/// The table's chain with `f` committed, and that of the generation that is being built.
async fn being_reloaded(ledger: &Ledger) -> (TableLedger, TableLedger, Reload) {
    let mut present = ledger.table(&table(), opening()).await.unwrap();
    let Claim::Taken(number) = present.claim(intent("a", &["f"])).await.unwrap() else { panic!("it is free") };
    present.finish(number, CommitOutcome::Committed).await.unwrap();
    let reload = present.begin_reload(Some(SINCE_MS)).await.unwrap();
    let built = building(ledger, &reload).await;
    (present, built, reload)
}

async fn building(ledger: &Ledger, reload: &Reload) -> TableLedger {
    let target = TableName::new("casino_db1", "user_actions__reload");
    ledger.reload(&table(), Opening { target, ..opening() }, reload.clone(), None).await.unwrap()
}

fn of_generation(generation: u64, attempt: &str, files: &[&str]) -> Intent {
    Intent { generation, ..intent(attempt, files) }
}

fn at(location: &str, kind: FileKind, time_ms: i64) -> ChangeFile {
    ChangeFile { kind, time_ms, modified_ms: time_ms, ..announced(location) }
}

/// Commits these files and merges them.
async fn build(built: &mut TableLedger, files: &[&str]) {
    let Claim::Taken(number) = built.claim(of_generation(2, "b", files)).await.unwrap() else {
        panic!("they are free")
    };
    built.finish(number, CommitOutcome::Committed).await.unwrap();
    let (merge, _) = built.open_merge(&attempt("m"), 10).await.unwrap().unwrap();
    built.finish_merge(merge, MergeCounts::default()).await.unwrap();
}

#[tokio::test]
async fn the_load_is_of_the_new_generation_and_what_came_since_of_both() {
    let (_, ledger) = memory_ledger().await;
    let (present, built, _) = being_reloaded(&ledger).await;
    for (kind, time_ms, is_present, is_new) in [
        (FileKind::Cdc, SINCE_MS - 1, true, false),
        (FileKind::Cdc, SINCE_MS, true, true),
        (FileKind::Load, SINCE_MS - 1, true, false),
        (FileKind::Load, SINCE_MS, false, true),
    ] {
        let file = at("x", kind, time_ms);
        assert_eq!((present.has(&file), built.has(&file)), (is_present, is_new), "{kind:?} {time_ms}");
    }
}

#[tokio::test]
async fn the_built_generation_takes_the_place_of_the_present_one() {
    let (store, ledger) = memory_ledger().await;
    let (mut present, mut built, reload) = being_reloaded(&ledger).await;
    build(&mut built, &["f", "g"]).await;
    present.hold(&[announced("held"), at("old", FileKind::Cdc, 1)]).await.unwrap();
    present.close(2).await.unwrap();
    built.close(2).await.unwrap();
    present.switch_to(built.state()).await.unwrap();
    present.switch_to(built.state()).await.unwrap();
    built.retire().await.unwrap();
    let mut later = ledger.table(&table(), opening()).await.unwrap();
    assert_eq!((later.generation(), later.state().reload(), later.state().is_closed()), (2, None, false));
    let held: Vec<_> = later.state().held().map(|file| file.location.clone()).collect();
    assert_eq!(held, ["held"], "what is older is of no generation any more");
    let done = [file("f").id, file("g").id];
    assert_eq!(later.claim(of_generation(2, "c", &["f", "g"])).await.unwrap(), Claim::Refused(done.to_vec()));
    assert_eq!(later.claim(intent("d", &["h"])).await.unwrap_err().kind(), Kind::Fenced);
    assert!(matches!(later.claim(of_generation(2, "e", &["h", "held"])).await.unwrap(), Claim::Taken(_)));
    assert!(!later.has(&at("old", FileKind::Cdc, 1)));
    // Whoever still builds it learns that it is over.
    let mut late = building(&ledger, &reload).await;
    assert_eq!(late.claim(of_generation(2, "z", &["late"])).await.unwrap_err().kind(), Kind::Retry);
    let next = later.begin_reload(Some(SINCE_MS + 1)).await.unwrap();
    assert_eq!(next.generation, 3);
    assert_eq!(ledger.tables().await.unwrap(), [table()]);
    assert!(paths(&store).await.iter().any(|path| path.contains("reloads/casino_db1/user_actions/2/")));
}

#[tokio::test]
async fn nothing_is_begun_in_a_closed_generation_and_what_is_open_is_finished() {
    let (_, ledger) = memory_ledger().await;
    let (mut present, ..) = being_reloaded(&ledger).await;
    let Claim::Taken(open) = present.claim(intent("b", &["open"])).await.unwrap() else { panic!("it is free") };
    let mut other = ledger.table(&table(), opening()).await.unwrap();
    other.close(2).await.unwrap();
    assert_eq!(present.claim(intent("c", &["new"])).await.unwrap_err().kind(), Kind::Retry);
    assert_eq!(present.set_aside(&file("bad"), "zero date").await.unwrap_err().kind(), Kind::Retry);
    assert_eq!(present.open_merge(&attempt("m"), 10).await.unwrap(), None, "it would never be seen");
    present.hold(&[announced("held")]).await.unwrap();
    let mut built = building(&ledger, &present.state().reload().cloned().unwrap()).await;
    built.close(2).await.unwrap();
    let error = present.switch_to(built.state()).await.unwrap_err();
    assert!(error.message().contains("while something is open"), "{}", error.report());
    assert_eq!(present.finish(open, CommitOutcome::Committed).await.unwrap(), CommitOutcome::Committed);
    present.switch_to(built.state()).await.unwrap();
    assert_eq!(present.generation(), 2);
    let mut late = ledger.table(&table(), opening()).await.unwrap();
    assert!(late.close(2).await.unwrap_err().message().contains("not being built any more"));
}

#[tokio::test]
async fn a_generation_is_switched_to_or_given_up_whichever_is_first() {
    let (_, ledger) = memory_ledger().await;
    let (mut present, mut built, reload) = being_reloaded(&ledger).await;
    let mut other = building(&ledger, &reload).await;
    built.abandon(&reload).await.unwrap();
    assert!(other.close(2).await.unwrap_err().message().contains("given up"));
    present.close(2).await.unwrap();
    present.abandon(&reload).await.unwrap();
    present.abandon(&reload).await.unwrap();
    built.retire().await.unwrap();
    assert!(matches!(present.claim(intent("b", &["g"])).await.unwrap(), Claim::Taken(_)), "it goes on as before");
    let next = present.begin_reload(None).await.unwrap();
    assert_eq!((next.generation, present.begin_reload(None).await.unwrap()), (3, next.clone()));
    assert!(present.begin_reload(Some(SINCE_MS)).await.unwrap_err().message().contains("since another time"));
    let mut built = building(&ledger, &next).await;
    built.close(3).await.unwrap();
    let error = built.abandon(&next).await.unwrap_err();
    assert!(error.message().contains("is being switched to generation 3"), "{}", error.report());
    assert!(error.hint_text().is_some());
}
