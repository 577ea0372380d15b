//! Runs in which the sink fails.

use std::sync::Arc;

use super::fake::{FakeSink, Fault, World};
use crate::catalog::samples::orders;
use crate::change::{ChangeFile, TableName};
use crate::error::Kind;

async fn two_files(world: &World) -> Vec<ChangeFile> {
    vec![world.file("a", &["I,1,ann", "I,2,bob"]).await, world.file("b", &["U,1,anna"]).await]
}

const ALL: [&str; 3] = ["mem/a.csv 1", "mem/a.csv 2", "mem/b.csv 1"];

#[tokio::test]
async fn a_data_error_of_the_sink_costs_only_its_file_whether_it_names_it_or_not() {
    for tells in [true, false] {
        let world = World::new();
        let sink = Arc::new(FakeSink { poison: Some(("bane", tells)), ..FakeSink::default() });
        let mut files = two_files(&world).await;
        for n in 0..5 {
            files.push(world.file(&format!("c{n}"), &[&format!("I,1{n},x")]).await);
        }
        files.insert(3, world.file("bad", &["I,7,good", "I,8,bane"]).await);
        let (report, receipts) = world.run(&sink, &files).await;
        let table = &report.tables[&orders()];
        assert!(table.stopped.is_none(), "{:?}", table.stopped);
        let culprits: Vec<_> = table.set_aside.iter().map(|error| error.place().file.as_deref()).collect();
        assert_eq!(culprits, [Some("mem/bad.csv")], "the error tells its file: {tells}");
        let committed = sink.committed();
        assert_eq!((committed.len(), receipts.len()), (8, 8));
        assert!(committed.iter().all(|row| !row.contains("bad")));
        assert_eq!(sink.finals("shop.orders").len(), 7);
    }
}

#[tokio::test]
async fn a_sink_that_cannot_prepare_now_stops_the_table_and_the_next_run_carries_all() {
    let world = World::new();
    let (sink, files) = (Arc::new(FakeSink::default()), two_files(&world).await);
    FakeSink::script(&sink.prepare, &[Fault::Retry]);
    let (report, receipts) = world.run(&sink, &files).await;
    if let Some(stopped) = &report.tables[&orders()].stopped {
        assert_eq!((stopped.kind(), receipts.len(), sink.committed().len()), (Kind::Retry, 0, 0));
    }
    let (report, receipts) = world.run(&sink, &files).await;
    assert_eq!((report.clean(), receipts.len()), (true, 2));
    assert_eq!(sink.committed(), ALL);
}

#[tokio::test]
async fn rows_that_are_lost_are_made_again_under_another_attempt() {
    let world = World::new();
    let (sink, files) = (Arc::new(FakeSink::default()), two_files(&world).await);
    FakeSink::script(&sink.commit, &[Fault::Lost, Fault::Lost]);
    let (report, receipts) = world.run(&sink, &files).await;
    assert_eq!((report.clean(), receipts.len(), sink.calls("prepare")), (true, 2, 3));
    assert_eq!(sink.committed(), ALL);
    assert_eq!(sink.finals("shop.orders"), ["1 anna", "2 bob"]);
}

#[tokio::test]
async fn rows_that_are_always_lost_stop_the_table() {
    let world = World::new();
    let (sink, files) = (Arc::new(FakeSink::default()), two_files(&world).await);
    FakeSink::script(&sink.commit, &[Fault::Lost; 20]);
    let (report, receipts) = world.run(&sink, &files).await;
    assert_eq!(report.tables[&orders()].stopped.as_ref().map(|error| error.kind()), Some(Kind::Retry));
    assert_eq!((receipts.len(), sink.committed().len()), (0, 0));
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_committed_again_and_not_run_again() {
    let world = World::new();
    let (sink, files) = (Arc::new(FakeSink::default()), two_files(&world).await);
    FakeSink::script(&sink.commit, &[Fault::AnswerLost]);
    let (report, receipts) = world.run(&sink, &files).await;
    assert_eq!((report.clean(), receipts.len()), (true, 2));
    assert_eq!((sink.calls("prepare"), sink.calls("commit")), (1, 2));
    assert_eq!(sink.committed(), ALL);
}

#[tokio::test]
async fn an_intent_left_open_is_recovered_by_the_next_run_without_running_it_again() {
    for fault in [Fault::Crash, Fault::User] {
        let world = World::new();
        let (sink, files) = (Arc::new(FakeSink::default()), two_files(&world).await);
        FakeSink::script(&sink.commit, &[fault]);
        let (report, receipts) = world.run(&sink, &files).await;
        assert!(report.tables[&orders()].stopped.is_some() && receipts.is_empty());
        assert_eq!(sink.finals("shop.orders"), [""; 0], "what is not known to be committed is not merged");
        let (report, receipts) = world.run(&sink, &files).await;
        assert_eq!((report.clean(), receipts.len(), sink.calls("prepare")), (true, 2, 1), "{fault:?}");
        assert_eq!((report.tables[&orders()].files, report.tables[&orders()].changes), (2, 3));
        assert_eq!(sink.committed(), ALL);
        assert_eq!(sink.finals("shop.orders"), ["1 anna", "2 bob"]);
    }
}

#[tokio::test]
async fn a_merge_left_open_is_finished_by_the_next_run_even_if_no_file_is_new() {
    for fault in [Fault::Crash, Fault::User] {
        let world = World::new();
        let (sink, files) = (Arc::new(FakeSink::default()), two_files(&world).await);
        FakeSink::script(&sink.merge, &[fault]);
        let (report, receipts) = world.run(&sink, &files).await;
        assert!(report.tables[&orders()].stopped.is_some());
        assert_eq!(receipts.len(), 2, "the files are committed");
        let (report, _) = world.run(&sink, &[]).await;
        assert!(report.clean());
        assert_eq!(sink.finals("shop.orders"), ["1 anna", "2 bob"], "{fault:?}");
        assert_eq!((sink.calls("prepare"), sink.calls("merge")), (1, 2));
    }
}

#[tokio::test]
async fn a_batch_that_stops_the_table_leaves_the_batches_before_it_committed_and_merged() {
    let mut world = World::new();
    world.config.pipeline.limits.files_max = 1;
    let (sink, files) = (Arc::new(FakeSink::default()), two_files(&world).await);
    FakeSink::script(&sink.prepare, &[Fault::None, Fault::User]);
    let (report, receipts) = world.run(&sink, &files).await;
    assert!(report.tables[&orders()].stopped.is_some());
    assert_eq!(
        (receipts, sink.finals("shop.orders")),
        (vec!["mem/a.csv".to_owned()], vec!["1 ann".to_owned(), "2 bob".into()])
    );
}

#[tokio::test]
async fn a_table_that_breaks_down_stops_only_itself() {
    for (step, fault) in
        [("prepare", Fault::Panic), ("commit", Fault::Panic), ("merge", Fault::Panic), ("prepare", Fault::User)]
    {
        let mut world = World::new();
        let users = TableName::new("shop", "users");
        world.list(users.clone());
        let sink = Arc::new(FakeSink { only: Some(orders()), ..FakeSink::default() });
        let script = match step {
            "prepare" => &sink.prepare,
            "commit" => &sink.commit,
            _ => &sink.merge,
        };
        FakeSink::script(script, &[fault]);
        let mut files = two_files(&world).await;
        files.push(ChangeFile { table: users.clone(), ..world.file("u", &["I,1,una"]).await });
        let (report, receipts) = world.run(&sink, &files).await;
        let stopped = report.tables[&orders()].stopped.as_ref().unwrap();
        assert_eq!(stopped.kind(), if fault == Fault::Panic { Kind::Bug } else { Kind::User });
        assert_eq!(stopped.place().table.as_deref(), Some("shop.orders"));
        assert!(report.tables[&users].stopped.is_none() && receipts.contains(&"mem/u.csv".to_owned()));
        assert_eq!(sink.finals("shop.users"), ["1 una"]);
        world.run(&sink, &files).await;
        assert_eq!(sink.finals("shop.orders"), ["1 anna", "2 bob"], "{step}: the next run carries what is left");
    }
}
