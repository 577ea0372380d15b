//! Runs in which nothing fails but files, tables and other processes.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::fake::{FakeSink, Told, World};
use crate::catalog::samples::orders;
use crate::change::batch::{Attempt, Prepared};
use crate::change::{ChangeFile, TableName};
use crate::config::{Mode, OnDelete, Order, TargetRules};
use crate::error::Kind;
use crate::ledger::{Claim, FileEntry, FileState, Intent, Opening};
use crate::pipeline::report::TableReport;
use crate::pipeline::setup;
use crate::pipeline::table_run::{Merging, TableRun};

async fn three_files(world: &World) -> Vec<ChangeFile> {
    vec![
        world.file("a", &["I,1,ann", "I,2,bob"]).await,
        world.file("b", &["U,1,anna", "I,3,cid"]).await,
        world.file("c", &["D,2,bob"]).await,
    ]
}

const ALL: [&str; 5] = ["mem/a.csv 1", "mem/a.csv 2", "mem/b.csv 1", "mem/b.csv 3", "mem/c.csv 2"];

#[tokio::test]
async fn every_file_is_committed_once_however_batches_are_cut() {
    for files_max in [1, 2, 1_000] {
        let mut world = World::new();
        world.config.pipeline.limits.files_max = files_max;
        let (sink, files) = (Arc::new(FakeSink::default()), three_files(&world).await);
        let (report, receipts) = world.run(&sink, &files).await;
        assert!(report.clean() && !report.interrupted, "{report:?}");
        assert_eq!(sink.committed(), ALL);
        assert_eq!(sink.finals("shop.orders"), ["1 anna", "3 cid"]);
        assert_eq!(receipts, ["mem/a.csv", "mem/b.csv", "mem/c.csv"]);
        let table = &report.tables[&orders()];
        assert_eq!((table.files, table.changes), (3, 5));
        assert_eq!(table.batches, 3_u64.div_ceil(files_max as u64));
        assert_eq!(table.rows, [("shop.orders".to_owned(), 2)]);
    }
}

#[tokio::test]
async fn a_second_run_writes_nothing_and_acknowledges_all() {
    let world = World::new();
    let (sink, files) = (Arc::new(FakeSink::default()), three_files(&world).await);
    world.run(&sink, &files).await;
    let (head, calls) =
        (world.state().await.head(), [sink.calls("prepare"), sink.calls("commit"), sink.calls("merge")]);
    let (report, receipts) = world.run(&sink, &files).await;
    assert_eq!(world.state().await.head(), head);
    assert_eq!([sink.calls("prepare"), sink.calls("commit"), sink.calls("merge")], calls);
    assert_eq!(receipts.len(), 3);
    assert_eq!((report.tables[&orders()].files, report.clean()), (0, true));
    assert_eq!(sink.committed(), ALL);
}

#[tokio::test]
async fn a_file_delivered_twice_in_one_run_is_carried_once() {
    let world = World::new();
    let (sink, files) = (Arc::new(FakeSink::default()), three_files(&world).await);
    let twice: Vec<ChangeFile> = files.iter().chain(&files).cloned().collect();
    let (report, _) = world.run(&sink, &twice).await;
    assert!(report.clean(), "{:?}", report.tables[&orders()].stopped);
    assert_eq!(sink.committed(), ALL);
}

#[tokio::test]
async fn files_in_any_order_give_the_same_final_rows() {
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let world = World::new();
        let (sink, files) = (Arc::new(FakeSink::default()), three_files(&world).await);
        for index in order {
            world.run(&sink, &files[index..=index]).await;
        }
        assert_eq!(sink.finals("shop.orders"), ["1 anna", "3 cid"], "{order:?}");
        assert_eq!(sink.committed(), ALL);
    }
}

#[tokio::test]
async fn a_delivery_is_acknowledged_only_when_all_its_files_are_done() {
    let world = World::new();
    let sink = Arc::new(FakeSink::default());
    let files = three_files(&world).await;
    let gone = ChangeFile { path: "gone.csv".into(), location: "mem/gone.csv".into(), ..files[0].clone() };
    let (report, receipts) = world.run(&sink, &[gone.clone(), files[1].clone()]).await;
    assert_eq!(receipts, ["mem/b.csv"]);
    let table = &report.tables[&orders()];
    assert_eq!(table.left.len(), 1, "what cannot be read now is left for the next run");
    assert_eq!(table.left[0].place().file.as_deref(), Some("mem/gone.csv"));
    assert_eq!(world.state().await.file_state(gone.id()), None);
}

#[tokio::test]
async fn unlisted_tables_are_left_and_counted() {
    let world = World::new();
    let sink = Arc::new(FakeSink::default());
    let listed = world.file("a", &["I,1,ann"]).await;
    let other = ChangeFile { table: TableName::new("shop", "secrets"), ..world.file("x", &["I,1,x"]).await };
    let (report, receipts) = world.run(&sink, &[listed, other]).await;
    assert_eq!(report.unlisted.into_iter().collect::<Vec<_>>(), [(TableName::new("shop", "secrets"), 1)]);
    assert_eq!((receipts, sink.committed()), (vec!["mem/a.csv".to_owned()], vec!["mem/a.csv 1".to_owned()]));
    assert_eq!(world.ledger().await.tables().await.unwrap(), [orders()]);
}

#[tokio::test]
async fn a_bad_file_is_set_aside_after_its_tries_and_the_others_are_carried() {
    let world = World::new();
    let sink = Arc::new(FakeSink::default());
    let mut files = three_files(&world).await;
    files.push(world.file("bad", &["X,9,what"]).await);
    files.push(world.shelf.put("broken.parquet.gz", 5, b"no gzip".to_vec()).await);
    let told = Arc::new(Told::default());
    let (report, receipts) = world.run_telling(&sink, &files, &told).await;
    assert_eq!(sink.committed(), ALL);
    let mut bad: Vec<String> =
        report.tables[&orders()].set_aside.iter().map(|e| e.place().file.clone().unwrap()).collect();
    bad.sort_unstable();
    assert_eq!(bad, ["mem/bad.csv", "mem/broken.parquet.gz"]);
    assert_eq!(receipts.len(), 5, "files set aside are done");
    assert!(!report.clean());
    let state = world.state().await;
    assert_eq!(state.file_state(files[3].id()), Some(FileState::SetAside));
    let reason = state.set_aside().iter().find(|aside| aside.file.id == files[3].id()).unwrap().reason.clone();
    assert!(reason.contains("`X` in column Op") && reason.contains("row 0"), "{reason}");
    assert!(told.lines.lock().unwrap().contains(&"shop.orders set aside mem/bad.csv".to_owned()));
    assert!(world.run(&sink, &files).await.0.clean(), "the next run has nothing more to say of them");
}

#[tokio::test]
async fn a_table_with_too_many_bad_files_stops_and_leaves_them_pending() {
    let mut world = World::new();
    world.config.pipeline.error_threshold = 0.02;
    let sink = Arc::new(FakeSink::default());
    let mut files = vec![];
    for name in ["bad1", "bad2", "bad3", "bad4"] {
        files.push(world.file(name, &["X,1,x"]).await);
    }
    let (report, receipts) = world.run(&sink, &files).await;
    let table = &report.tables[&orders()];
    assert_eq!((table.set_aside.len(), receipts.len()), (2, 2));
    let stopped = table.stopped.as_ref().unwrap();
    assert_eq!(stopped.kind(), Kind::User);
    assert!(stopped.hint_text().unwrap().contains("2 of the table's last 100 files"), "{}", stopped.report());
    let state = world.state().await;
    assert_eq!(files.iter().filter(|file| state.file_state(file.id()).is_none()).count(), 2);
}

#[tokio::test]
async fn a_threshold_is_the_share_it_says_for_every_number_of_hundredths() {
    let mut world = World::new();
    world.config.pipeline.error_threshold = 0.29;
    world.config.pipeline.retry_attempts = 1;
    world.config.pipeline.limits.files_max = 1;
    let mut files = vec![];
    for n in 0..30 {
        files.push(world.file(&format!("bad{n}"), &["X,1,x"]).await);
    }
    let (report, _) = world.run(&Arc::new(FakeSink::default()), &files).await;
    assert_eq!(report.tables[&orders()].set_aside.len(), 29);
    assert!(report.tables[&orders()].stopped.is_some());
}

#[tokio::test]
async fn a_null_key_sets_its_file_aside_even_where_the_column_is_not_there_at_all() {
    let world = World::new();
    let sink = Arc::new(FakeSink::default());
    let good = world.file("a", &["I,1,ann"]).await;
    let null = world.file("b", &["I,2,bob", "I,NULL,x"]).await;
    let without = world.shelf.put("c.csv", 7, b"Op,name\nI,x\n".to_vec()).await;
    let (report, _) = world.run(&sink, &[good, null, without]).await;
    assert_eq!(sink.committed(), ["mem/a.csv 1"]);
    let table = &report.tables[&orders()];
    let mut errors: Vec<String> = table
        .set_aside
        .iter()
        .map(|error| format!("{}: {:?}", error.place().file.clone().unwrap(), error.place().row))
        .collect();
    errors.sort_unstable();
    assert_eq!(errors, ["mem/b.csv: Some(1)", "mem/c.csv: Some(0)"], "{:?}", table.stopped);
}

/// Claims `file` as another process would, with rows that were prepared nowhere.
async fn claim_elsewhere(world: &World, file: ChangeFile) {
    let mut ledger = world.ledger().await.table(&orders(), opening()).await.unwrap();
    let intent = Intent {
        attempt: Attempt { id: format!("other {}", file.location), loaded_at: chrono::DateTime::UNIX_EPOCH },
        generation: 1,
        files: vec![FileEntry::from(&file)],
        prepared: Prepared { rows: 1, bytes: 1, columns: vec![], staged: serde_json::json!({ "attempt": "other" }) },
        transform: String::new(),
        source_columns: vec![],
        rules: TargetRules { mode: Mode::Merge, key: vec!["id".into()], on_delete: OnDelete::Remove },
        purged_us: 0,
    };
    assert!(matches!(ledger.claim(intent).await.unwrap(), Claim::Taken(_)));
}

#[tokio::test]
async fn what_another_process_claimed_first_and_lost_is_carried_in_the_same_run() {
    let world = Arc::new(World::new());
    let (sink, files) = (Arc::new(FakeSink::default()), three_files(&world).await);
    let (other, file) = (Arc::clone(&world), files[0].clone());
    *sink.meanwhile.lock().unwrap() = Some(Box::pin(async move { claim_elsewhere(&other, file).await }));
    let (report, receipts) = world.run(&sink, &files).await;
    assert!(report.tables[&orders()].stopped.is_none(), "{report:?}");
    assert_eq!(sink.committed(), ALL, "its intent is committed again, and as its rows are lost the file is free");
    assert_eq!(receipts.len(), 3);
}

#[tokio::test]
async fn files_of_an_open_intent_whose_rows_are_lost_are_carried_in_the_same_run() {
    let world = World::new();
    let (sink, files) = (Arc::new(FakeSink::default()), three_files(&world).await);
    claim_elsewhere(&world, files[0].clone()).await;
    let (report, receipts) = world.run(&sink, &files).await;
    assert!(report.clean());
    assert_eq!(sink.committed(), ALL);
    assert_eq!(receipts.len(), 3);
}

#[tokio::test]
async fn a_run_that_is_asked_to_end_finishes_its_batch_and_begins_no_other() {
    let mut world = World::new();
    world.config.pipeline.limits.files_max = 1;
    let (sink, files) = (Arc::new(FakeSink::default()), three_files(&world).await);
    let told = Arc::new(Told { end_after_batch: Some(CancellationToken::new()), ..Told::default() });
    let (report, receipts) = world.run_telling(&sink, &files, &told).await;
    assert!(report.interrupted && report.clean());
    assert_eq!(
        (sink.committed(), receipts),
        (vec!["mem/a.csv 1".to_owned(), "mem/a.csv 2".into()], vec!["mem/a.csv".to_owned()])
    );
    assert_eq!(sink.finals("shop.orders"), ["1 ann", "2 bob"], "what is committed is merged");
    assert!(!world.run(&sink, &files).await.0.interrupted);
    assert_eq!(sink.committed(), ALL);
}

#[tokio::test]
async fn a_table_whose_key_was_changed_stops_before_anything_is_written() {
    let mut world = World::new();
    let (sink, files) = (Arc::new(FakeSink::default()), three_files(&world).await);
    world.run(&sink, &files[..1]).await;
    world.config.tables.get_mut(&orders()).unwrap().key = Some(vec!["name".into()]);
    let (report, receipts) = world.run(&sink, &files).await;
    let stopped = report.tables[&orders()].stopped.as_ref().unwrap();
    assert!(stopped.kind() == Kind::User && stopped.message().contains("begun as mode merge by key id"), "{stopped}");
    assert_eq!((receipts, sink.calls("prepare")), (vec!["mem/a.csv".to_owned()], 1));
}

#[tokio::test]
async fn a_column_that_comes_half_way_is_null_in_older_files_of_the_same_batch() {
    let world = World::new();
    let sink = Arc::new(FakeSink::default());
    let old = world.shelf.put("old.csv", 1, b"Op,id\nI,1\n".to_vec()).await;
    let new = world.file("new", &["I,2,bob"]).await;
    let (report, _) = world.run(&sink, &[old, new]).await;
    assert!(report.clean(), "{report:?}");
    assert_eq!(sink.finals("shop.orders"), ["1 NULL", "2 bob"]);
    assert_eq!((report.tables[&orders()].batches, sink.calls("prepare")), (1, 1), "nothing had to be tried again");
}

fn opening() -> Opening {
    Opening { order: Order::BestEffort, target: orders() }
}

#[tokio::test]
async fn a_file_that_is_held_and_delivered_again_is_carried_once() {
    let world = World::new();
    let (sink, files) = (Arc::new(FakeSink::default()), three_files(&world).await);
    world.ledger().await.table(&orders(), opening()).await.unwrap().hold(&files).await.unwrap();
    let (report, receipts) = world.run(&sink, &files).await;
    assert!(report.clean(), "{:?}", report.tables[&orders()].stopped);
    assert_eq!(receipts.len(), 3);
    assert_eq!(sink.committed(), ALL);
}

#[tokio::test]
async fn a_file_that_another_process_has_claimed_meanwhile_is_not_done_because_it_cannot_be_used_here() {
    let world = World::new();
    let sink = Arc::new(FakeSink { poison: Some(("bad", true)), ..FakeSink::default() });
    let file = world.file("a", &["I,1,bad"]).await;
    let pipeline = world.pipeline(&sink, &Arc::default()).await;
    let runtime = setup::runtime(&pipeline.config, pipeline.memory.table_pool()).unwrap();
    let mut run = TableRun::open(pipeline, &orders(), runtime).await.unwrap();
    claim_elsewhere(&world, file.clone()).await;
    run.round(vec![file.clone()], Merging::Later, &mut TableReport::default()).await.unwrap();
    assert!(run.take_finished().contains(&file.id()));
    assert_eq!(world.state().await.file_state(file.id()), Some(FileState::SetAside), "the other's rows were lost");
}
