//! Compacted chains: what they still say, what late writers and crashes do to them, and what damage is told.

use super::*;
use crate::clock::StillClock;

async fn sample_table(ledger: &Ledger) -> TableLedger {
    ledger.table(&table(), opening()).await.unwrap()
}

/// Writes of every kind: `done` is committed, `lost` free again, `open` claimed, `bad` set aside, `over` superseded,
/// `gone` gone, `held` held; a merge is done and another batch waits.
async fn lived(ledger: &Ledger) -> TableLedger {
    let mut chain = sample_table(ledger).await;
    for (attempt, file) in [("a", "done"), ("b", "lost"), ("c", "waits")] {
        let Claim::Taken(number) = chain.claim(intent(attempt, &[file])).await.unwrap() else { panic!("{file}") };
        let outcome = if file == "lost" { CommitOutcome::Lost } else { CommitOutcome::Committed };
        chain.finish(number, outcome).await.unwrap();
        if file == "done" {
            let (merge, _) = chain.open_merge(&attempt_of_merge(), 10).await.unwrap().unwrap();
            chain.finish_merge(merge, MergeCounts::default()).await.unwrap();
        }
    }
    chain.set_aside(&file("bad"), "zero date").await.unwrap();
    chain.superseded(&file("over")).await.unwrap();
    chain.gone(&file("gone")).await.unwrap();
    chain.hold(&[crate::ledger::samples::announced("held")]).await.unwrap();
    chain.claim(intent("d", &["open"])).await.unwrap();
    chain
}

fn attempt_of_merge() -> Attempt {
    attempt("m")
}

const FILES: [&str; 8] = ["done", "lost", "waits", "bad", "over", "gone", "held", "open"];

/// What a chain says of everything.
async fn said(chain: &mut TableLedger) -> impl PartialEq + std::fmt::Debug + use<> {
    let keys: Vec<FileKey> = FILES.iter().map(|name| FileKey::from(&file(name))).collect();
    chain.recall(&keys).await.unwrap();
    let state = chain.state();
    let files: Vec<_> = keys.iter().map(|key| state.file_state(key.id)).collect();
    let outcomes: Vec<_> = [2, 6, 8, 14].iter().map(|number| state.outcome(*number)).collect();
    let held: Vec<String> = state.held().map(|file| file.location.clone()).collect();
    let unmerged: Vec<String> = state.unmerged().map(|(attempt, _)| attempt.id.clone()).collect();
    let open: Vec<(u64, Intent)> = state.open_intents().map(|(number, intent)| (number, intent.clone())).collect();
    let counts = (state.files_committed(), state.rows_committed(), state.files_vanished(), state.set_aside_recently());
    let rest = (state.source_columns().to_vec(), state.last_transform().map(str::to_owned), state.rules().cloned());
    (files, outcomes, held, unmerged, open, counts, state.set_aside().to_vec(), rest)
}

#[tokio::test]
async fn a_compacted_chain_says_what_it_said_before_in_one_entry_a_mark_and_segments() {
    let (store, ledger) = memory_ledger().await;
    let mut chain = lived(&ledger).await;
    let before = said(&mut chain).await;
    assert!(!chain.compact_above(1_000).await.unwrap());
    let head = chain.state().head();
    assert!(chain.compact_above(head).await.unwrap());
    assert_eq!(said(&mut chain).await, before);
    assert_eq!(said(&mut sample_table(&ledger).await).await, before);
    let number = head + 1;
    let all = paths(&store).await;
    let segment = format!("freshet/ledger/segments/casino_db1/user_actions/{number:020}-");
    assert_eq!(all[0], format!("freshet/ledger/compactions/casino_db1/user_actions/{number:020}.json"));
    assert_eq!(all[1], "freshet/ledger/ledger.json");
    assert!(all[2..all.len() - 1].iter().all(|path| path.starts_with(&segment)), "{all:?}");
    assert_eq!(all[all.len() - 1], entry_path(number));
    assert_eq!(ledger.tables().await.unwrap(), [table()]);
    assert!(!chain.compact_above(1).await.unwrap(), "nothing was written since");
}

#[tokio::test]
async fn what_is_done_stays_done_for_ever_and_what_is_free_may_be_claimed() {
    let (_, ledger) = memory_ledger().await;
    let mut chain = lived(&ledger).await;
    for round in 0..4 {
        assert!(chain.compact_above(1).await.unwrap());
        let refused = |names: &[&str]| Claim::Refused(names.iter().map(|name| file(name).id).collect());
        let done = ["done", "bad", "over", "gone", "waits", "open"];
        let claim = chain.claim(intent(&format!("again {round}"), &done)).await.unwrap();
        assert_eq!(claim, refused(&done));
        assert_eq!(chain.gone(&file("done")).await.unwrap(), FileState::Committed);
        assert_eq!(chain.set_aside(&file("over"), "late").await.unwrap(), FileState::Superseded);
        chain.hold(&[crate::ledger::samples::announced("bad")]).await.unwrap();
        assert_eq!(chain.state().held().count(), 1);
        chain.gone(&file(&format!("other {round}"))).await.unwrap();
    }
    assert!(matches!(chain.claim(intent("e", &["lost", "held"])).await.unwrap(), Claim::Taken(_)));
    assert_eq!(chain.finish(14, CommitOutcome::Committed).await.unwrap(), CommitOutcome::Committed);
    assert_eq!(chain.finish(6, CommitOutcome::Committed).await.unwrap(), CommitOutcome::Lost);
    assert_eq!(chain.finish(2, CommitOutcome::Lost).await.unwrap(), CommitOutcome::Committed);
    let counts = MergeCounts { inserted: 3, ..MergeCounts::default() };
    assert_eq!(chain.finish_merge(4, counts).await.unwrap(), counts);
    let (_, merge) = chain.open_merge(&attempt("m2"), 10).await.unwrap().unwrap();
    assert_eq!(merge.batches, ["c", "d"]);
}

#[tokio::test]
async fn who_writes_below_a_compaction_writes_nothing_that_counts() {
    let (store, ledger) = memory_ledger().await;
    let mut chain = lived(&ledger).await;
    let (mut late, mut later) = (sample_table(&ledger).await, sample_table(&ledger).await);
    for name in ["x", "y", "z"] {
        chain.gone(&file(name)).await.unwrap();
    }
    assert!(chain.compact_above(1).await.unwrap());
    let head = chain.state().head();
    // The number after the last entry that both know is free again: one takes it in vain, the other finds what it wrote.
    assert_eq!(late.claim(intent("late", &["x", "lost"])).await.unwrap_err().kind(), Kind::Retry);
    assert_eq!(late.claim(intent("again", &["x", "lost"])).await.unwrap(), Claim::Refused(vec![file("x").id]));
    assert!(paths(&store).await.contains(&entry_path(15)), "what was written for nothing still lies there");
    assert_eq!(late.state().head(), head);
    assert_eq!(later.gone(&file("z")).await.unwrap(), FileState::Gone);
    assert_eq!(later.gone(&file("new")).await.unwrap(), FileState::Gone);
    assert_eq!(later.state().head(), head + 1);
    assert_eq!(sample_table(&ledger).await.state().file_state(file("lost").id), None);
    assert!(later.compact_above(1).await.unwrap());
    assert!(!paths(&store).await.contains(&entry_path(15)));
}

#[tokio::test]
async fn a_merge_that_was_compacted_before_its_writer_looked_is_never_begun_again_under_its_attempt() {
    let (store, ledger) = memory_ledger().await;
    let mut chain = lived(&ledger).await;
    let mut late = sample_table(&ledger).await;
    // The late writer's entry is the next one; another finishes that merge, and compacts the chain.
    let (number, _) = chain.open_merge(&attempt("m2"), 1).await.unwrap().unwrap();
    chain.finish_merge(number, MergeCounts::default()).await.unwrap();
    chain.finish(14, CommitOutcome::Committed).await.unwrap();
    assert!(chain.compact_above(1).await.unwrap());
    // Its request was repeated on the way, and takes effect once more.
    assert!(!paths(&store).await.contains(&entry_path(number)));
    assert_eq!(late.open_merge(&attempt("m2"), 1).await.unwrap_err().kind(), Kind::Retry);
    let (_, merge) = late.open_merge(&attempt("m3"), 1).await.unwrap().unwrap();
    assert_eq!((merge.attempt.id.as_str(), merge.batches), ("m3", vec!["d".to_owned()]));
}

#[tokio::test]
async fn who_looks_again_sees_what_came_after_a_compaction_although_nothing_stands_where_it_stopped() {
    let (_, ledger) = memory_ledger().await;
    let mut chain = lived(&ledger).await;
    let mut idle = sample_table(&ledger).await;
    chain.gone(&file("x")).await.unwrap();
    assert!(chain.compact_above(1).await.unwrap());
    chain.hold(&[crate::ledger::samples::announced("new")]).await.unwrap();
    let held: Vec<String> = idle.refresh().await.unwrap().held().map(|file| file.location.clone()).collect();
    assert_eq!(held.len(), 2, "{held:?}");
}

#[tokio::test]
async fn a_reader_below_a_compaction_trusts_nothing_that_was_written_there() {
    let (store, ledger) = memory_ledger().await;
    let mut chain = lived(&ledger).await;
    let mut reader = sample_table(&ledger).await;
    let head = reader.state().head();
    chain.gone(&file("x")).await.unwrap();
    assert!(chain.compact_above(1).await.unwrap());
    // Another late writer was killed before it saw that its entry counts for nothing.
    let entry = Entry::SetAside { file: file("lost"), reason: "late".into() };
    let envelope = Envelope { nonce: "n".into(), written_at: DateTime::UNIX_EPOCH, writer: "late".into(), entry };
    put(&store, &entry_path(head + 1), std::str::from_utf8(&envelope.to_bytes().unwrap()).unwrap()).await;
    let state = reader.refresh().await.unwrap();
    assert_eq!((state.file_state(file("lost").id), state.head()), (None, head + 2));
}

#[tokio::test]
async fn a_compaction_that_was_broken_off_anywhere_harms_nobody_and_is_cleaned_up_by_the_next() {
    // Which objects a crash leaves: the entry without its mark, then with it, then with entries half deleted.
    for step in 0..3 {
        let (store, ledger) = memory_ledger().await;
        let mut chain = lived(&ledger).await;
        let before = said(&mut chain).await;
        let kept: Vec<(Path, bytes::Bytes)> = objects(&store).await;
        assert!(chain.compact_above(1).await.unwrap());
        let number = chain.state().head();
        let old = kept.into_iter().filter(|(path, _)| path.as_ref().contains("/tables/"));
        for (path, bytes) in old.skip(if step == 2 { 3 } else { 0 }) {
            store.put(&path, bytes.into()).await.unwrap();
        }
        put(&store, &format!("freshet/ledger/segments/casino_db1/user_actions/{number:020}-orphan"), "").await;
        if step == 0 {
            let mark = format!("freshet/ledger/compactions/casino_db1/user_actions/{number:020}.json");
            store.delete(&Path::parse(mark).unwrap()).await.unwrap();
        }
        let mut after = sample_table(&ledger).await;
        assert_eq!(said(&mut after).await, before, "step {step}");
        after.gone(&file("next")).await.unwrap();
        assert!(after.compact_above(1).await.unwrap());
        let all = paths(&store).await;
        assert_eq!(all.iter().filter(|path| path.contains("/tables/")).count(), 1, "{all:?}");
        assert_eq!(all.iter().filter(|path| path.contains("/compactions/")).count(), 1, "{all:?}");
        assert!(!all.iter().any(|path| path.ends_with("orphan")), "{all:?}");
    }
}

async fn objects(store: &InMemory) -> Vec<(Path, bytes::Bytes)> {
    let mut found = Vec::new();
    for path in paths(store).await {
        let path = Path::parse(path).unwrap();
        let bytes = store.get(&path).await.unwrap().bytes().await.unwrap();
        found.push((path, bytes));
    }
    found
}

#[tokio::test]
async fn damage_to_a_compacted_chain_is_told_and_nothing_is_taken_for_new() {
    for (part, altered, what) in [
        ("/segments/", None, "missing"),
        ("/segments/", Some("garbage"), "not what was written"),
        ("/tables/", None, "missing, though a mark"),
        ("/tables/", Some("garbage"), "not a readable entry"),
    ] {
        let (store, ledger) = memory_ledger().await;
        lived(&ledger).await.compact_above(1).await.unwrap();
        let ledger = ledger_on(Arc::clone(&store) as _, &StillClock::shared()).await.unwrap();
        for path in paths(&store).await.into_iter().filter(|path| path.contains(part)) {
            match altered {
                Some(text) => put(&store, &path, text).await,
                None => store.delete(&Path::parse(path).unwrap()).await.unwrap(),
            }
        }
        let claimed = match ledger.table(&table(), opening()).await {
            Ok(mut chain) => chain.claim(intent("e", &["done"])).await.map(|_| ()),
            Err(error) => Err(error),
        };
        let error = claimed.unwrap_err();
        assert_eq!(error.kind(), Kind::User, "{part}");
        assert!(error.message().contains(what) && error.hint_text().is_some(), "{}", error.report());
    }
}

#[tokio::test]
async fn a_chain_whose_compaction_is_an_entry_of_another_kind_is_damaged() {
    let (store, ledger) = memory_ledger().await;
    lived(&ledger).await;
    put(&store, &format!("freshet/ledger/compactions/casino_db1/user_actions/{:020}.json", 2), "{}").await;
    let error = ledger.peek(&table()).await.unwrap_err();
    assert!(error.message().contains("entry 2") && error.message().contains("it is not"), "{}", error.report());
}

#[tokio::test]
async fn files_are_filed_by_the_day_in_their_names_and_found_where_only_the_zone_of_names_changed() {
    const DAY_MS: i64 = 86_400_000;
    let (store, ledger) = memory_ledger().await;
    let mut chain = sample_table(&ledger).await;
    let of_day = |day: i64| FileEntry { time_ms: day * DAY_MS, ..file(&format!("of day {day}")) };
    let unnamed = FileEntry { time_named: false, ..file("unnamed") };
    for day in 0..40 {
        chain.gone(&of_day(day)).await.unwrap();
        chain.compact_above(7).await.unwrap();
    }
    chain.gone(&unnamed).await.unwrap();
    assert!(chain.compact_above(1).await.unwrap());
    let segments = paths(&store).await.into_iter().filter(|path| path.contains("/segments/")).count();
    assert_eq!(segments, 41);
    let mut again = sample_table(&ledger).await;
    for day in 0..40 {
        for moved in [-DAY_MS / 2, 0, DAY_MS / 2] {
            let file = FileEntry { time_ms: day * DAY_MS + moved, ..of_day(day) };
            assert_eq!(again.superseded(&file).await.unwrap(), FileState::Gone);
        }
    }
    // Another layout may read a time in a name that told none, and the other way round.
    assert_eq!(again.superseded(&FileEntry { time_named: true, ..unnamed }).await.unwrap(), FileState::Gone);
    assert_eq!(again.superseded(&FileEntry { time_named: false, ..of_day(3) }).await.unwrap(), FileState::Gone);
}

#[tokio::test]
async fn segments_of_one_day_stay_few_however_often_the_chain_is_compacted() {
    let (store, ledger) = memory_ledger().await;
    let mut chain = sample_table(&ledger).await;
    for n in 0..200 {
        chain.gone(&file(&format!("f{n}"))).await.unwrap();
        assert!(chain.compact_above(1).await.unwrap());
    }
    let segments = paths(&store).await.into_iter().filter(|path| path.contains("/segments/")).count();
    assert!(segments <= 9, "{segments} segments");
    let keys: Vec<FileKey> = (0..200).map(|n| FileKey::from(&file(&format!("f{n}")))).collect();
    chain.recall(&keys).await.unwrap();
    assert!(keys.iter().all(|key| chain.state().file_state(key.id) == Some(FileState::Gone)));
}

#[tokio::test]
async fn files_on_a_disk_are_known_again_after_a_compaction_and_objects_are_not_asked_for() {
    let (_, ledger) = memory_ledger().await;
    let mut chain = sample_table(&ledger).await;
    let version = format!("10-{}", "0af0".repeat(8));
    let on_disk = FileEntry { version: version.clone(), ..file("/data/f") };
    let in_bucket = FileEntry { version: version.clone(), ..file("s3://bucket/f") };
    chain.gone(&on_disk).await.unwrap();
    chain.gone(&in_bucket).await.unwrap();
    assert_eq!(chain.state().known_file("/data/f", 10, 20), Some(version.as_str()));
    assert!(chain.compact_above(1).await.unwrap());
    let sightings = ledger.sightings(&table(), chain.state()).await.unwrap();
    assert_eq!(sightings.version("/data/f", 10, 20), Some(version));
    for (location, size, modified) in [("/data/f", 11, 20), ("/data/f", 10, 21), ("/data/g", 10, 20)] {
        assert_eq!(sightings.version(location, size, modified), None);
    }
    assert_eq!(sightings.version("s3://bucket/f", 10, 20), None);
}

#[tokio::test]
async fn what_was_looked_up_is_known_with_what_comes_after_however_much_was_looked_up_before() {
    let (_, ledger) = memory_ledger().await;
    let mut chain = lived(&ledger).await;
    assert!(chain.compact_above(1).await.unwrap());
    let done = FileKey::from(&file("done"));
    let many: Vec<FileKey> = (0..100_001).map(|n| FileKey::from(&file(&format!("other {n}")))).collect();
    chain.recall(&[&many[..], &[done]].concat()).await.unwrap();
    chain.recall(&[done, FileKey::from(&file("new"))]).await.unwrap();
    assert_eq!(chain.state().file_state(done.id), Some(FileState::Committed));
}
