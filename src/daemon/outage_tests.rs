//! The whole daemon, in time that is told: six hours in which the sink takes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Daemon, Pace};
use crate::catalog::inflate::Staging;
use crate::catalog::opened::Opener;
use crate::catalog::samples::{ROOMY, Shelf};
use crate::change::TableName;
use crate::clock::SystemClock;
use crate::daemon::simulation::store::LivedStore;
use crate::pipeline::tests::fake::{FakeSink, Told, World};
use crate::source::sqs::fake::{FakeQueue, event};
use crate::trial::life::Life;

const TABLES: usize = 20;
/// A file comes so often, of one table after the other.
const FILE_EVERY: Duration = Duration::from_secs(30);
const OUTAGE_BEGINS: Duration = Duration::from_secs(30 * 60);
const OUTAGE: Duration = Duration::from_secs(6 * 3_600);
const FILES: usize = 7 * 3_600 / 30;
/// After so many receipts the queue gives a message up, as its redrive policy says.
const RECEIVES_MAX: u32 = 5;
/// What gathered in the outage is carried within so long after its end.
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(5 * 60);

fn table(file: usize) -> TableName {
    TableName::new("shop", format!("t{:02}", file % TABLES))
}

/// Puts one file of one row after the other, and has the queue tell of them.
async fn deliver(shelf: Shelf, queue: FakeQueue) {
    for file in 0..FILES {
        let key = format!("dms/shop/{}/20240506-{file:09}.csv", table(file).table);
        let text = format!("Op,id,name\nI,{file},x\n");
        let size = text.len();
        let put = shelf.store.put(&Path::parse(&key).unwrap(), text.into_bytes().into()).await.unwrap();
        queue.send(&[event(&key, size, &put.e_tag.unwrap())]);
        tokio::time::sleep(FILE_EVERY).await;
    }
}

/// Waits, at most until `end`, until the queue holds nothing more.
async fn until_empty(queue: &FakeQueue, end: Instant) {
    while queue.counts() != (0, 0) {
        assert!(Instant::now() < end, "the queue still has {:?} messages, visible and hidden", queue.counts());
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn after_six_hours_without_its_sink_the_daemon_has_lost_nothing_set_nothing_aside_and_catches_up() {
    let begun = Instant::now();
    let mut world = World::new();
    (0..TABLES).for_each(|number| world.list(table(number)));
    let sink = Arc::new(FakeSink::default());
    *sink.outage.lock().unwrap() = Some((begun + OUTAGE_BEGINS, begun + OUTAGE_BEGINS + OUTAGE));
    let queue = FakeQueue::patient(Some(RECEIVES_MAX));
    let store: Arc<dyn ObjectStore> = Arc::new(LivedStore {
        inner: Arc::clone(&world.shelf.store),
        life: Arc::new(Life::easy()),
        below: Arc::default(),
    });
    let source = Arc::new(queue.source(Arc::clone(&store), SystemClock::shared()).await);
    let mut pipeline = world.pipeline(&sink, &Arc::new(Told::default())).await;
    pipeline.opener = Opener::new(store, Staging::new(ROOMY));
    let shutdown = CancellationToken::new();
    pipeline.shutdown = shutdown.clone();
    let daemon = tokio::spawn(Box::pin(Daemon::new(pipeline, source, Pace::default()).run()));
    let delivering = tokio::spawn(deliver(world.shelf.clone(), queue.clone()));

    tokio::time::sleep_until(begun + OUTAGE_BEGINS + OUTAGE).await;
    let (visible, _) = queue.counts();
    assert!(visible > FILES / 2, "only {visible} messages wait: what cannot be carried is received all the same");
    until_empty(&queue, begun + OUTAGE_BEGINS + OUTAGE + CAUGHT_UP_WITHIN).await;
    delivering.await.unwrap();
    until_empty(&queue, Instant::now() + CAUGHT_UP_WITHIN).await;
    shutdown.cancel();
    daemon.await.unwrap().unwrap();

    let (dead_letters, most_received) = queue.dead_letters();
    assert_eq!(dead_letters, 0, "a message was received {most_received} times");
    assert!(most_received <= 3, "a message was received {most_received} times");
    let mut expected: Vec<String> = (0..FILES)
        .map(|file| format!("s3://cdc-files/dms/shop/{}/20240506-{file:09}.csv {file}", table(file).table))
        .collect();
    expected.sort_unstable();
    assert_eq!(sink.committed(), expected);
    let ledger = world.ledger().await;
    let mut trouble = BTreeMap::new();
    for number in 0..TABLES {
        let state = ledger.peek(&table(number)).await.unwrap();
        trouble.insert(number, (state.set_aside().len(), state.held().count()));
    }
    assert!(trouble.values().all(|trouble| *trouble == (0, 0)), "set aside and held by table: {trouble:?}");
}
