//! The next batch's files are opened while one is carried, and nothing depends on it.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use object_store::ObjectStoreExt;
use object_store::path::Path;

use super::fake::{FakeSink, World};
use crate::catalog::samples::{Shelf, orders};
use crate::change::ChangeFile;
use crate::config::CsvConfig;
use crate::pipeline::ahead::Ahead;

/// Batches of one file.
fn world() -> World {
    let mut world = World::new();
    world.config.pipeline.limits.files_max = 1;
    world
}

/// Has this done while the first batch is being sent, once nothing else goes on: where time stands still, it goes on
/// only then.
fn while_sending(sink: &FakeSink, what: impl Future<Output = ()> + Send + 'static) {
    let idle = tokio::time::sleep(Duration::from_millis(1));
    *sink.meanwhile.lock().unwrap() = Some(idle.then(|()| what).boxed());
}

/// Runs three files, each of which is deleted while the first is sent; gives what is committed.
async fn carried_without_files(memory_bytes: u64) -> Vec<String> {
    let mut world = world();
    world.config.pipeline.memory_bytes = memory_bytes;
    let sink = Arc::new(FakeSink::default());
    let mut files = Vec::new();
    for name in ["a", "b", "c"] {
        files.push(world.file(name, &["I,1,ann"]).await);
    }
    let store = Arc::clone(&world.shelf.store);
    while_sending(&sink, async move {
        for path in ["a.csv", "b.csv", "c.csv"] {
            store.delete(&Path::from(path)).await.unwrap();
        }
    });
    let (report, receipts) = world.run(&sink, &files).await;
    assert_eq!(receipts.len() + report.tables[&orders()].left.len(), 3);
    sink.committed()
}

#[tokio::test(start_paused = true)]
async fn the_files_of_the_next_batch_and_no_others_are_opened_while_one_is_sent() {
    assert_eq!(carried_without_files(256 << 20).await, ["mem/a.csv 1", "mem/b.csv 1"]);
}

#[tokio::test(start_paused = true)]
async fn where_memory_is_small_no_file_is_opened_before_its_turn() {
    assert_eq!(carried_without_files(128 << 20).await, ["mem/a.csv 1"]);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_opened_ahead_is_opened_in_its_turn_as_if_nothing_had_been_tried() {
    let world = world();
    let sink = Arc::new(FakeSink::default());
    let first = world.file("a", &["I,1,ann"]).await;
    let text = "Op,id,name\nI,2,bob\n";
    let late = ChangeFile { e_tag: None, ..world.shelf.put("b.csv", first.time_ms + 1, text).await };
    let broken = world.shelf.put("c.parquet.gz", first.time_ms + 2, b"no gzip".to_vec()).await;
    let store = Arc::clone(&world.shelf.store);
    store.delete(&Path::from("b.csv")).await.unwrap();
    while_sending(&sink, async move {
        store.put(&Path::from("b.csv"), text.into()).await.unwrap();
    });
    let (report, receipts) = world.run(&sink, &[first, late, broken]).await;
    assert_eq!(sink.committed(), ["mem/a.csv 1", "mem/b.csv 2"]);
    assert_eq!(receipts.len(), 3);
    let report = &report.tables[&orders()];
    assert_eq!((report.left.len(), report.set_aside.len()), (0, 1), "{report:?}");
    assert_eq!(report.set_aside[0].place().file.as_deref(), Some("mem/c.parquet.gz"));
}

#[tokio::test]
async fn plain_parquet_on_a_disk_which_could_change_until_it_is_read_waits_for_its_turn() {
    let shelf = Shelf::default();
    let plain = shelf.put("a.parquet", 1, b"plain".to_vec()).await;
    let object = ChangeFile { location: "s3://bucket/a.parquet".to_owned(), ..plain.clone() };
    let zipped = shelf.put("a.parquet.gz", 1, b"zipped".to_vec()).await;
    let csv = shelf.put("a.csv", 1, b"csv".to_vec()).await;
    let is_opened = |file: &ChangeFile| {
        Ahead::begin(&shelf.opener(), &CsvConfig::default(), vec![file.clone()]).is_of(std::slice::from_ref(file))
    };
    assert_eq!([&plain, &object, &zipped, &csv].map(is_opened), [false, true, true, true]);
}
