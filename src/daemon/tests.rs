//! The daemon with a queue and a sink in memory: what it acknowledges, gives back, holds, and when it receives.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use object_store::ObjectStore;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Daemon, Pace, Totals};
use crate::catalog::samples::orders;
use crate::change::{ChangeFile, TableName};
use crate::clock::until;
use crate::config::Order;
use crate::error::{Error, Result};
use crate::ledger::Opening;
use crate::pipeline::tests::fake::{FakeSink, Fault, Told, World};
use crate::source::{Delivery, Received, Source};

/// A queue in memory: what is received is hidden until it is acknowledged or given back.
#[derive(Default)]
struct Queue {
    state: Mutex<QueueState>,
    changed: Notify,
}

#[derive(Default)]
struct QueueState {
    visible: VecDeque<Delivery>,
    hidden: HashMap<String, Delivery>,
    received: HashMap<String, u32>,
    acknowledged: BTreeSet<String>,
    refusals: VecDeque<Error>,
}

impl Queue {
    fn send(&self, receipt: &str, files: &[ChangeFile]) {
        self.state.lock().unwrap().visible.push_back(Delivery { files: files.to_vec(), receipt: receipt.into() });
        self.changed.notify_waiters();
    }

    fn is_empty(&self) -> bool {
        let state = self.state.lock().unwrap();
        state.visible.is_empty() && state.refusals.is_empty()
    }

    async fn until_acknowledged(&self, receipts: &[&str]) {
        let wanted: BTreeSet<String> = receipts.iter().map(|receipt| (*receipt).to_owned()).collect();
        until("all is acknowledged", || self.state.lock().unwrap().acknowledged.is_superset(&wanted)).await;
    }

    fn most_received(&self) -> u32 {
        self.state.lock().unwrap().received.values().copied().max().unwrap_or(0)
    }
}

#[async_trait]
impl Source for Queue {
    async fn receive(&self) -> Result<Received> {
        loop {
            let changed = self.changed.notified();
            if !self.is_empty() {
                break;
            }
            changed.await;
        }
        let mut state = self.state.lock().unwrap();
        if let Some(error) = state.refusals.pop_front() {
            return Err(error);
        }
        let count = state.visible.len().min(10);
        let deliveries: Vec<Delivery> = state.visible.drain(..count).collect();
        for delivery in &deliveries {
            *state.received.entry(delivery.receipt.clone()).or_default() += 1;
            state.hidden.insert(delivery.receipt.clone(), delivery.clone());
        }
        Ok(Received { deliveries, left: Vec::new() })
    }

    async fn acknowledge(&self, deliveries: &[Delivery]) -> Result<()> {
        let mut state = self.state.lock().unwrap();
        for delivery in deliveries {
            state.hidden.remove(&delivery.receipt);
            state.acknowledged.insert(delivery.receipt.clone());
        }
        Ok(())
    }

    async fn give_back(&self, deliveries: &[Delivery]) -> Result<()> {
        let mut state = self.state.lock().unwrap();
        for delivery in deliveries {
            let hidden = state.hidden.remove(&delivery.receipt);
            state.visible.extend(hidden);
        }
        self.changed.notify_waiters();
        Ok(())
    }

    fn store(&self) -> Arc<dyn ObjectStore> {
        Arc::new(object_store::memory::InMemory::new())
    }

    fn pause(&self) -> Duration {
        Duration::ZERO
    }
}

/// Pauses of milliseconds, in the proportions of the real ones.
fn hurried() -> Pace {
    let ms = Duration::from_millis;
    Pace {
        pause: ms(2),
        pause_max: ms(20),
        stopped_pause: ms(20),
        stopped_pause_max: ms(60),
        opens_after: ms(1),
        held_after: ms(60_000),
        alone_max: ms(60_000),
        looks_every: ms(20),
    }
}

/// A daemon over a world, that runs until it is ended.
struct Running {
    queue: Arc<Queue>,
    shutdown: CancellationToken,
    daemon: tokio::task::JoinHandle<Result<Totals>>,
}

impl Running {
    async fn start(world: &World, sink: &Arc<FakeSink>, queue: &Arc<Queue>, pace: Pace) -> Self {
        let mut pipeline = world.pipeline(sink, &Arc::new(Told::default())).await;
        let shutdown = CancellationToken::new();
        pipeline.shutdown = shutdown.clone();
        let daemon = Daemon::new(pipeline, Arc::clone(queue) as _, pace);
        Self { queue: Arc::clone(queue), shutdown, daemon: tokio::spawn(Box::pin(daemon.run())) }
    }

    async fn end(self) -> Result<Totals> {
        self.shutdown.cancel();
        self.daemon.await.unwrap()
    }
}

fn hurried_world() -> (World, Arc<FakeSink>, Arc<Queue>) {
    let mut world = World::new();
    world.config.pipeline.limits.age_max = Duration::from_millis(1);
    world.config.pipeline.merge_every = Duration::from_millis(1);
    world.config.pipeline.shutdown_grace = Duration::from_secs(20);
    (world, Arc::default(), Arc::default())
}

async fn until_committed(sink: &FakeSink, rows: &[&str]) {
    until(&format!("{rows:?} are committed"), || sink.committed() == rows).await;
}

#[tokio::test]
async fn deliveries_are_acknowledged_only_when_their_last_file_is_committed() {
    let (world, sink, queue) = hurried_world();
    let (one, two) = (world.file("a", &["I,1,x"]).await, world.file("b", &["I,2,y"]).await);
    queue.send("both", &[one.clone(), two.clone()]);
    queue.send("again", &[one]);
    let running = Running::start(&world, &sink, &queue, hurried()).await;
    queue.until_acknowledged(&["both", "again"]).await;
    assert_eq!(sink.committed(), ["mem/a.csv 1", "mem/b.csv 2"], "committed before they were acknowledged, and once");
    let totals = running.end().await.unwrap();
    assert_eq!((totals.received, totals.acknowledged, totals.given_back), (2, 2, 0));
}

#[tokio::test]
async fn what_is_committed_is_merged_without_further_files() {
    let (world, sink, queue) = hurried_world();
    queue.send("1", &[world.file("a", &["I,1,x", "U,1,y"]).await]);
    let running = Running::start(&world, &sink, &queue, hurried()).await;
    queue.until_acknowledged(&["1"]).await;
    until("it is merged", || sink.finals("shop.orders") == ["1 y"]).await;
    running.end().await.unwrap();
}

#[tokio::test]
async fn an_outage_of_the_sink_stops_receiving_and_nothing_is_received_again_and_again() {
    let (world, sink, queue) = hurried_world();
    FakeSink::script(&sink.prepare, &[Fault::Retry; 40]);
    for n in 0..30 {
        queue.send(&format!("{n}"), &[world.file(&format!("f{n}"), &[&format!("I,{n},x")]).await]);
    }
    let running = Running::start(&world, &sink, &queue, hurried()).await;
    let all: Vec<String> = (0..30).map(|n| n.to_string()).collect();
    queue.until_acknowledged(&all.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert!(queue.most_received() <= 2, "received {} times", queue.most_received());
    assert_eq!(sink.committed().len(), 30);
    assert!(world.state().await.set_aside().is_empty());
    running.end().await.unwrap();
}

#[tokio::test]
async fn a_table_that_stops_is_held_by_its_chain_and_goes_on_from_there() {
    let (world, _, queue) = hurried_world();
    let sink = Arc::new(FakeSink { only: Some(orders()), ..FakeSink::default() });
    FakeSink::script(&sink.prepare, &[Fault::User]);
    queue.send("1", &[world.file("a", &["I,1,x"]).await]);
    let running = Running::start(&world, &sink, &queue, hurried()).await;
    queue.until_acknowledged(&["1"]).await;
    // It left the queue, and is carried by a later try, from the chain.
    until_committed(&sink, &["mem/a.csv 1"]).await;
    assert_eq!(queue.most_received(), 1);
    running.end().await.unwrap();
    assert_eq!(world.state().await.held().count(), 0);
}

#[tokio::test]
async fn what_is_held_at_the_end_is_carried_by_the_next_daemon_although_no_queue_has_it() {
    let (world, sink, queue) = hurried_world();
    FakeSink::script(&sink.prepare, &[Fault::User; 1_000]);
    queue.send("1", &[world.file("a", &["I,1,x"]).await]);
    let slow = Pace { stopped_pause: Duration::from_secs(600), ..hurried() };
    let running = Running::start(&world, &sink, &queue, slow).await;
    queue.until_acknowledged(&["1"]).await;
    running.end().await.unwrap();
    assert_eq!(world.state().await.held().count(), 1);
    let healthy: Arc<FakeSink> = Arc::default();
    let running = Running::start(&world, &healthy, &queue, hurried()).await;
    until_committed(&healthy, &["mem/a.csv 1"]).await;
    running.end().await.unwrap();
}

#[tokio::test]
async fn a_table_whose_run_breaks_down_does_not_take_the_daemon_along() {
    let (world, sink, queue) = hurried_world();
    FakeSink::script(&sink.prepare, &[Fault::Panic]);
    queue.send("1", &[world.file("a", &["I,1,x"]).await]);
    let running = Running::start(&world, &sink, &queue, hurried()).await;
    queue.until_acknowledged(&["1"]).await;
    until_committed(&sink, &["mem/a.csv 1"]).await;
    running.end().await.unwrap();
}

#[tokio::test]
async fn at_the_end_what_is_not_done_is_given_back() {
    let (world, sink, queue) = hurried_world();
    FakeSink::script(&sink.prepare, &[Fault::Retry; 100_000]);
    queue.send("1", &[world.file("a", &["I,1,x"]).await]);
    let running = Running::start(&world, &sink, &queue, hurried()).await;
    until("it is received", || !queue.state.lock().unwrap().hidden.is_empty()).await;
    let totals = running.end().await.unwrap();
    assert_eq!((totals.acknowledged, totals.received), (0, totals.given_back));
    assert_eq!(queue.state.lock().unwrap().visible.len(), 1, "another process can have it at once");
}

#[tokio::test]
async fn at_the_end_a_merge_that_is_under_way_here_is_waited_for() {
    let (world, sink, queue) = hurried_world();
    let end = CancellationToken::new();
    let ends = end.clone();
    *sink.while_merging.lock().unwrap() = Some(Box::pin(async move { ends.cancelled().await }));
    queue.send("1", &[world.file("a", &["I,1,x"]).await]);
    let running = Running::start(&world, &sink, &queue, hurried()).await;
    until("the merge is under way", || sink.calls("merge") == 1).await;
    let token = running.shutdown.clone();
    let ended = tokio::spawn(running.end());
    token.cancelled().await;
    // The daemon was asked to end, and only then does the merge.
    end.cancel();
    ended.await.unwrap().unwrap();
    let state = world.state().await;
    assert_eq!((state.open_merge(), state.unmerged().count()), (None, 0));
}

#[tokio::test]
async fn files_of_tables_that_nobody_lists_are_passed_over() {
    let (world, sink, queue) = hurried_world();
    let mut file = world.file("a", &["I,1,x"]).await;
    file.table = TableName::new("shop", "unknown");
    queue.send("1", &[file]);
    let running = Running::start(&world, &sink, &queue, hurried()).await;
    queue.until_acknowledged(&["1"]).await;
    running.end().await.unwrap();
    assert!(sink.committed().is_empty());
}

#[tokio::test]
async fn a_source_that_can_never_be_received_from_ends_the_daemon_and_one_that_cannot_now_does_not() {
    let (world, sink, queue) = hurried_world();
    queue.state.lock().unwrap().refusals.push_back(Error::user("no such queue"));
    let running = Running::start(&world, &sink, &queue, hurried()).await;
    let error = running.daemon.await.unwrap().unwrap_err();
    assert_eq!(error.message(), "no such queue");

    queue.state.lock().unwrap().refusals.push_back(Error::retry("not now"));
    queue.send("1", &[world.file("a", &["I,1,x"]).await]);
    let running = Running::start(&world, &sink, &queue, hurried()).await;
    running.queue.until_acknowledged(&["1"]).await;
    running.end().await.unwrap();
}

#[tokio::test]
async fn a_file_acknowledged_while_its_intent_is_open_is_carried_anew_where_its_rows_are_lost() {
    let (world, sink, queue) = hurried_world();
    FakeSink::script(&sink.commit, &[Fault::User, Fault::Lost]);
    queue.send("1", &[world.file("a", &["I,1,x"]).await]);
    let running = Running::start(&world, &sink, &queue, hurried()).await;
    queue.until_acknowledged(&["1"]).await;
    until_committed(&sink, &["mem/a.csv 1"]).await;
    running.end().await.unwrap();
}

#[tokio::test]
async fn what_arrives_while_a_stopped_table_tries_again_leaves_nothing_behind_in_the_chain() {
    let (world, sink, queue) = hurried_world();
    FakeSink::script(&sink.prepare, &[Fault::User]);
    FakeSink::script(&sink.prepare, &[Fault::Retry; 40]);
    queue.send("1", &[world.file("a", &["I,1,x"]).await]);
    let patient = Pace { opens_after: Duration::from_secs(600), ..hurried() };
    let running = Running::start(&world, &sink, &queue, patient).await;
    until("it tries again", || sink.calls("prepare") >= 2).await;
    queue.send("2", &[world.file("b", &["I,2,y"]).await]);
    queue.until_acknowledged(&["1", "2"]).await;
    until_committed(&sink, &["mem/a.csv 1", "mem/b.csv 2"]).await;
    running.end().await.unwrap();
}

#[tokio::test]
async fn what_another_daemon_left_in_the_chain_is_carried_although_nothing_arrives() {
    let (world, sink, queue) = hurried_world();
    queue.send("1", &[world.file("a", &["I,1,x"]).await]);
    let running = Running::start(&world, &sink, &queue, hurried()).await;
    queue.until_acknowledged(&["1"]).await;
    let opening = Opening { order: Order::BestEffort, target: orders() };
    let mut other = world.ledger().await.table(&orders(), opening).await.unwrap();
    other.hold(&[world.file("b", &["I,2,y"]).await]).await.unwrap();
    until_committed(&sink, &["mem/a.csv 1", "mem/b.csv 2"]).await;
    running.end().await.unwrap();
}

#[tokio::test]
async fn a_probe_that_stops_does_not_keep_all_other_tables_from_working() {
    let (mut world, _, queue) = hurried_world();
    let good = TableName::new("shop", "users");
    world.list(good.clone());
    let sink = Arc::new(FakeSink { only: Some(orders()), ..FakeSink::default() });
    FakeSink::script(&sink.prepare, &[Fault::Retry; 3]);
    FakeSink::script(&sink.prepare, &[Fault::User; 100_000]);
    queue.send("1", &[world.file("a", &["I,1,x"]).await]);
    let running = Running::start(&world, &sink, &queue, hurried()).await;
    queue.until_acknowledged(&["1"]).await;
    for name in ["b", "c"] {
        let mut file = world.file(name, &["I,2,y"]).await;
        file.table = good.clone();
        queue.send(name, &[file]);
    }
    // One table that must be mended does not stop all.
    queue.until_acknowledged(&["b", "c"]).await;
    running.end().await.unwrap();
}
