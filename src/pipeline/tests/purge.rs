//! Purges of tombstones, by a table's horizon.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;

use super::fake::{FakeSink, World};
use crate::catalog::samples::orders;
use crate::config::{OnDelete, Order};
use crate::ledger::Opening;

/// A table that forgets after a millisecond. The files `a`, `b`, … are a millisecond apart.
fn forgetful() -> World {
    let mut world = World::new();
    world.config.tables.get_mut(&orders()).unwrap().late_horizon = Some(Duration::from_millis(1));
    world
}

fn purges(sink: &FakeSink) -> Vec<String> {
    sink.kept.lock().unwrap().calls.iter().filter(|call| call.starts_with("purge")).cloned().collect()
}

#[tokio::test]
async fn tombstones_go_a_horizon_after_the_newest_change_and_what_is_older_is_set_aside_from_then_on() {
    let world = forgetful();
    let sink = Arc::new(FakeSink::default());
    let files = [world.file("a", &["I,1,ann", "I,2,bob"]).await, world.file("c", &["D,2,bob"]).await];
    world.run(&sink, &files).await;
    assert!(purges(&sink).is_empty(), "the table has just begun");
    world.forward(TimeDelta::seconds(1));
    world.run(&sink, &files).await;
    assert_eq!(purges(&sink), ["purge shop.orders 98000"]);
    let state = world.state().await;
    assert_eq!((state.purged_us(), state.open_purge()), (98_000, None));
    // Of 65 ms, and of 98 ms.
    let (late, just) = (world.file("A", &["I,2,bob"]).await, world.file("b", &["I,3,cid"]).await);
    let (report, receipts) = world.run(&sink, &[late.clone(), just]).await;
    let table = &report.tables[&orders()];
    assert_eq!((table.files, receipts.len()), (1, 2));
    assert!(table.set_aside[0].report().contains("comes too late"), "{}", table.set_aside[0].report());
    assert_eq!(table.set_aside[0].place().file, Some(late.location));
    assert_eq!(sink.finals("shop.orders"), ["1 ann", "3 cid"]);
    assert_eq!(purges(&sink).len(), 1, "nothing newer came");
    world.run(&sink, &[world.file("d", &["U,1,anna"]).await]).await;
    assert_eq!(purges(&sink)[1..], ["purge shop.orders 99000"]);
}

#[tokio::test]
async fn what_a_clock_says_or_a_file_of_the_future_makes_nothing_too_late() {
    let world = forgetful();
    let sink = Arc::new(FakeSink::default());
    world.run(&sink, &[world.file("a", &["I,1,ann"]).await]).await;
    world.forward(TimeDelta::minutes(1));
    world.run(&sink, &[]).await;
    assert_eq!(world.state().await.purged_us(), 96_000, "the newest change is of 97 ms");
    let future = world.file("zzzz", &["U,9,anna"]).await;
    assert!(future.time_ms > 60_000, "it is a minute past 1970");
    world.run(&sink, &[future]).await;
    assert_eq!(world.state().await.purged_us(), 96_000);
}

#[tokio::test]
async fn a_batch_made_before_another_process_began_a_purge_is_made_anew() {
    let world = forgetful();
    let sink = Arc::new(FakeSink::default());
    world.run(&sink, &[world.file("c", &["I,1,ann"]).await]).await;
    let mut other = world.ledger().await.table(&orders(), opening()).await.unwrap();
    let purge = async move { other.begin_purge(98_000).await.unwrap() };
    *sink.meanwhile.lock().unwrap() = Some(Box::pin(purge));
    let files = [world.file("a", &["I,2,bob"]).await, world.file("b", &["I,3,cid"]).await];
    let (report, _) = world.run(&sink, &files).await;
    assert_eq!(report.tables[&orders()].set_aside.len(), 1);
    assert_eq!(sink.finals("shop.orders"), ["1 ann", "3 cid"]);
}

#[tokio::test]
async fn where_no_tombstones_are_kept_none_are_purged() {
    let mut world = forgetful();
    world.config.tables.get_mut(&orders()).unwrap().on_delete = OnDelete::Mark;
    let sink = Arc::new(FakeSink::default());
    for _ in 0..2 {
        world.run(&sink, &[world.file("c", &["I,1,ann"]).await]).await;
        world.forward(TimeDelta::seconds(1));
    }
    assert_eq!((purges(&sink).len(), world.state().await.purged_us()), (0, 0));
}

fn opening() -> Opening {
    Opening { order: Order::BestEffort, target: orders() }
}
