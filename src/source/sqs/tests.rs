//! The source on a queue in memory.

use std::collections::VecDeque;
use std::sync::Mutex;

use object_store::memory::InMemory;
use serde_json::json;
use tokio::time::Instant;

use super::fake::{Action, FakeQueue, rules};
use super::*;
use crate::change::{ChangeFile, FileFormat, FileKind, TableName};
use crate::clock::{SystemClock, until};
use crate::error::Kind;

const HIDDEN: Duration = Duration::from_secs(30);

fn event(key: &str) -> String {
    fake::event(key, 7, "0123abcd")
}

fn key(number: usize) -> String {
    format!("dms/shop/orders/LOAD{number:08X}.csv")
}

fn events(count: usize) -> Vec<String> {
    (0..count).map(|number| event(&key(number))).collect()
}

async fn open_with(queue: &FakeQueue, sweep: Option<Arc<Sweep>>) -> SqsSource {
    let store = Arc::new(InMemory::new());
    SqsSource::start(Box::new(queue.clone()), rules(), store, sweep, SystemClock::shared()).await.unwrap()
}

async fn open(queue: &FakeQueue) -> SqsSource {
    open_with(queue, None).await
}

async fn receive(source: &SqsSource) -> Vec<Delivery> {
    source.receive().await.unwrap().deliveries
}

fn ids(deliveries: &[Delivery]) -> Vec<&str> {
    deliveries.iter().map(|delivery| delivery.receipt.as_str()).collect()
}

#[tokio::test]
async fn a_message_is_a_delivery_and_is_deleted_when_acknowledged() {
    let queue = FakeQueue::default();
    let sent = queue.send(&events(3));
    let source = open(&queue).await;
    let deliveries = receive(&source).await;
    assert_eq!(ids(&deliveries), sent);
    assert_eq!(deliveries[2].files[0].location, format!("s3://cdc-files/{}", key(2)));
    assert_eq!(queue.counts(), (0, 3));
    source.acknowledge(&deliveries[..2]).await.unwrap();
    assert_eq!(queue.counts(), (0, 1));
    source.acknowledge(&deliveries).await.unwrap();
    assert_eq!(queue.counts(), (0, 0));
    let counts = source.counts();
    assert_eq!((counts.received, counts.delivered, counts.deleted, counts.in_hand), (3, 3, 3, 0));
    assert_eq!(source.pause(), Duration::ZERO);
}

#[tokio::test]
async fn a_full_poll_is_followed_by_others_at_once_and_batches_are_deleted() {
    let queue = FakeQueue::default();
    queue.send(&events(95));
    let source = open(&queue).await;
    let first = receive(&source).await;
    assert_eq!(first.len(), 90);
    assert_eq!(queue.waits(), [vec![POLL], vec![Duration::ZERO; 8]].concat());
    assert_eq!(receive(&source).await.len(), 5);
    source.acknowledge(&first).await.unwrap();
    assert_eq!((queue.counts(), queue.requests(Action::Delete)), ((0, 5), 9));
}

#[tokio::test]
async fn what_is_of_no_use_is_deleted_and_what_is_not_understood_is_left_and_told_once() {
    let queue = FakeQueue::default();
    let test = json!({"Service": "Amazon S3", "Event": "s3:TestEvent"}).to_string();
    queue.send(&[test, event("dms/shop/orders/_SUCCESS"), "hello".into(), event("other/x.csv")]);
    let source = open(&queue).await;
    let received = source.receive().await.unwrap();
    assert!(received.deliveries.is_empty());
    let told: Vec<_> = received.left.iter().map(|error| error.place().file.clone().unwrap()).collect();
    assert_eq!(told, ["message m3", "s3://cdc-files/other/x.csv"]);
    assert_eq!(queue.counts(), (0, 2));
    queue.advance(HIDDEN);
    let again = source.receive().await.unwrap();
    assert!(again.left.is_empty() && again.deliveries.is_empty());
    let counts = source.counts();
    assert_eq!((counts.left, counts.test_events, counts.ignored, counts.deleted), (4, 1, 1, 2));
}

#[tokio::test]
async fn polls_go_on_while_only_useless_messages_come() {
    let queue = FakeQueue::default();
    let mut bodies = vec!["hello".to_owned(); 95];
    bodies.push(event(&key(1)));
    queue.send(&bodies);
    let received = open(&queue).await.receive().await.unwrap();
    assert_eq!((received.deliveries.len(), received.left.len()), (1, 95));
}

#[tokio::test]
async fn a_message_that_comes_again_while_in_hand_is_no_second_delivery_and_its_new_handle_counts() {
    let queue = FakeQueue::default();
    queue.send(&events(1));
    let source = open(&queue).await;
    let deliveries = receive(&source).await;
    queue.advance(HIDDEN);
    assert_eq!(queue.counts(), (1, 0));
    assert!(receive(&source).await.is_empty());
    assert_eq!(source.counts().redelivered, 1);
    source.acknowledge(&deliveries).await.unwrap();
    assert_eq!((queue.counts(), source.counts().deleted), ((0, 0), 1));
}

#[tokio::test]
async fn messages_in_hand_stay_hidden_until_they_are_done() {
    let queue = FakeQueue::default();
    queue.send(&events(12));
    let source = open(&queue).await;
    let deliveries = receive(&source).await;
    queue.advance(Duration::from_secs(20));
    source.messages.beat(queue.now()).await;
    queue.advance(Duration::from_secs(40));
    source.messages.beat(queue.now()).await;
    queue.advance(Duration::from_secs(59));
    assert_eq!((queue.counts(), source.counts().beats), ((0, 12), 24));
    source.acknowledge(&deliveries).await.unwrap();
    source.messages.beat(queue.now() + Duration::from_secs(3_600)).await;
    assert_eq!((queue.counts(), queue.requests(Action::Change)), ((0, 0), 4));
}

#[tokio::test]
async fn an_extension_that_fails_is_tried_again_and_does_no_harm() {
    let queue = FakeQueue::default();
    queue.send(&events(1));
    let source = open(&queue).await;
    let deliveries = receive(&source).await;
    queue.fail(Action::Change, vec![Error::retry("not now")]);
    queue.advance(Duration::from_secs(16));
    source.messages.beat(queue.now()).await;
    assert_eq!(source.counts().beats, 0);
    queue.advance(Duration::from_secs(6));
    source.messages.beat(queue.now()).await;
    queue.advance(HIDDEN);
    assert_eq!((source.counts().beats, queue.counts()), (1, (0, 1)));
    source.acknowledge(&deliveries).await.unwrap();
}

#[tokio::test]
async fn after_almost_twelve_hours_a_message_is_let_go() {
    let queue = FakeQueue::default();
    queue.send(&events(1));
    let source = open(&queue).await;
    let deliveries = receive(&source).await;
    source.messages.beat(Instant::now() + Duration::from_secs(12 * 3_600)).await;
    let counts = source.counts();
    assert_eq!((counts.let_go, counts.in_hand, queue.requests(Action::Change)), (1, 0, 0));
    source.acknowledge(&deliveries).await.unwrap();
    assert_eq!(queue.counts(), (0, 1), "it comes again");
}

#[tokio::test]
async fn what_is_given_back_can_be_received_at_once_and_what_is_left_only_later() {
    let queue = FakeQueue::default();
    queue.send(&events(13));
    let source = open(&queue).await;
    let deliveries = receive(&source).await;
    source.leave(&deliveries[..1]).await.unwrap();
    assert_eq!(queue.counts(), (0, 13));
    source.give_back(&deliveries[1..]).await.unwrap();
    assert_eq!((queue.counts(), source.counts().given_back), ((12, 1), 12));
    source.messages.beat(queue.now() + HIDDEN).await;
    assert_eq!(queue.counts(), (12, 1), "what is not in hand is not hidden");
    assert_eq!(receive(&source).await.len(), 12);
    queue.advance(HIDDEN);
    assert_eq!(source.receive().await.unwrap().deliveries.len(), 1);
}

#[tokio::test]
async fn a_deletion_that_fails_for_a_moment_is_tried_again_at_once() {
    let queue = FakeQueue::default();
    queue.send(&events(2));
    let source = open(&queue).await;
    let deliveries = receive(&source).await;
    queue.fail(Action::Delete, vec![Error::retry("not now")]);
    queue.refuse(Action::Delete, 1);
    source.acknowledge(&deliveries).await.unwrap();
    assert_eq!((queue.counts(), queue.requests(Action::Delete)), ((0, 0), 3));
}

#[tokio::test]
async fn a_deletion_that_goes_on_failing_is_never_forgotten() {
    let queue = FakeQueue::default();
    queue.send(&events(1));
    let source = open(&queue).await;
    let deliveries = receive(&source).await;
    queue.refuse(Action::Delete, 100);
    let error = source.acknowledge(&deliveries).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Retry);
    assert_eq!(source.counts().in_hand, 1);

    queue.advance(HIDDEN);
    assert_eq!(receive(&source).await.len(), 0, "it came again, and is not delivered again");
    assert_eq!(queue.counts(), (0, 1));
    queue.refuse(Action::Delete, 0);
    source.messages.beat(queue.now()).await;
    assert_eq!((queue.counts(), source.counts().in_hand), ((0, 0), 0));
}

#[tokio::test]
async fn a_deletion_that_is_not_allowed_is_told_at_once() {
    let queue = FakeQueue::default();
    queue.send(&events(1));
    let source = open(&queue).await;
    let deliveries = receive(&source).await;
    queue.fail(Action::Delete, vec![Error::user("sqs:DeleteMessage"); 2]);
    assert_eq!(source.acknowledge(&deliveries).await.unwrap_err().kind(), Kind::User);
    assert_eq!(queue.requests(Action::Delete), 1);
    queue.send(&["hello".into()]);
    assert_eq!(source.receive().await.unwrap_err().kind(), Kind::User);
}

#[tokio::test]
async fn a_message_that_another_received_meanwhile_is_the_others() {
    let queue = FakeQueue::default();
    queue.send(&events(1));
    let source = open(&queue).await;
    let deliveries = receive(&source).await;
    queue.advance(HIDDEN);
    assert_eq!(queue.receive_elsewhere().await.len(), 1);
    source.acknowledge(&deliveries).await.unwrap();
    assert_eq!((queue.counts(), source.counts().lost, source.counts().in_hand), ((0, 1), 1, 0));
}

#[tokio::test]
async fn an_error_while_more_is_asked_for_loses_nothing() {
    let queue = FakeQueue::default();
    queue.send(&events(20));
    let source = open(&queue).await;
    queue.fail(Action::Receive, vec![Error::retry("not now"); 8]);
    assert_eq!(source.receive().await.unwrap_err().kind(), Kind::Retry);
    queue.fail(Action::Receive, Vec::new());
    assert_eq!(receive(&source).await.len(), 20);
}

#[tokio::test]
async fn whoever_stops_waiting_loses_nothing_that_came() {
    let queue = FakeQueue::default();
    queue.send(&events(30));
    let source = open(&queue).await;
    for polls in 0..3 {
        let mut waiting = Box::pin(source.receive());
        for _ in 0..polls {
            assert!(futures::poll!(&mut waiting).is_pending());
        }
    }
    assert_eq!(source.messages.ready(), 10);
    assert_eq!(receive(&source).await.len(), 30);
    assert_eq!((source.counts().received, source.counts().redelivered), (30, 0));
}

/// Delivers what it is told to, as a listing of a bucket would.
#[derive(Default)]
struct Listed {
    chunks: Mutex<VecDeque<Result<Vec<Delivery>>>>,
    given_back: Mutex<Vec<String>>,
}

#[async_trait]
impl Source for Arc<Listed> {
    async fn receive(&self) -> Result<Received> {
        let deliveries = self.chunks.lock().unwrap().pop_front().unwrap_or(Ok(Vec::new()))?;
        Ok(Received { deliveries, left: Vec::new() })
    }

    async fn acknowledge(&self, _deliveries: &[Delivery]) -> Result<()> {
        Ok(())
    }

    async fn give_back(&self, deliveries: &[Delivery]) -> Result<()> {
        self.given_back.lock().unwrap().extend(deliveries.iter().map(|delivery| delivery.files[0].location.clone()));
        Ok(())
    }

    fn store(&self) -> Arc<dyn ObjectStore> {
        Arc::new(InMemory::new())
    }

    fn pause(&self) -> Duration {
        Duration::ZERO
    }
}

/// How many files such a listing brings at once.
const FULL: usize = 4;

/// A file as a listing finds it: the same version as the event tells of.
fn listed(number: usize) -> Delivery {
    let location = format!("s3://cdc-files/{}", key(number));
    let file = ChangeFile {
        location,
        path: key(number),
        size: 7,
        version: "0123abcd".into(),
        e_tag: Some("\"0123abcd\"".into()),
        modified_ms: 1_714_979_289_000,
        table: TableName::new("shop", "orders"),
        kind: FileKind::Load,
        format: FileFormat::Csv,
        gzip: false,
        time_ms: 1_714_979_289_000,
        time_named: true,
        rows: None,
    };
    Delivery { receipt: file.id().to_string(), files: vec![file] }
}

fn sweep(chunks: Vec<Result<Vec<Delivery>>>) -> (Arc<Listed>, Arc<Sweep>) {
    let found = Arc::new(Listed { chunks: Mutex::new(chunks.into()), given_back: Mutex::default() });
    (Arc::clone(&found), Sweep::new(Box::new(found), FULL, Duration::from_secs(3_600)))
}

#[tokio::test]
async fn files_that_no_message_told_of_are_found_and_come_among_the_others() {
    let queue = FakeQueue::default();
    queue.send(&events(2));
    let (_, sweep) = sweep(vec![Ok((0..4).map(listed).collect()), Ok((4..6).map(listed).collect())]);
    let source = open_with(&queue, Some(sweep)).await;
    let mut all = Vec::new();
    loop {
        let deliveries = receive(&source).await;
        if deliveries.is_empty() {
            break;
        }
        all.extend(deliveries);
    }
    let mut found: Vec<_> = all.iter().filter(|one| is_swept(one)).map(|one| one.receipt.clone()).collect();
    found.sort_unstable();
    let wanted = format!("sweep:s3://cdc-files/{} ", key(5));
    assert!(found.iter().any(|receipt| receipt.starts_with(&wanted)), "{found:?}");
    assert!((4..=6).contains(&found.len()), "{found:?}");
    assert_eq!(all.iter().filter(|one| !is_swept(one)).count(), 2);

    source.acknowledge(&all).await.unwrap();
    assert_eq!((queue.counts(), source.counts().in_hand), ((0, 0), 0));
    assert_eq!(queue.requests(Action::Delete), 1, "for what was swept the queue is asked nothing");
    assert!(queue.waits().contains(&POLL_SWEEPING) || queue.waits().contains(&Duration::ZERO));
    assert_eq!(queue.waits().last(), Some(&POLL));
}

#[tokio::test]
async fn a_sweep_ends_with_the_listing_though_files_keep_arriving() {
    let queue = FakeQueue::default();
    let (found, sweep) = sweep((0..10).map(|number| Ok(vec![listed(number)])).collect());
    let source = open_with(&queue, Some(Arc::clone(&sweep))).await;
    until("the sweep is over", || !sweep.is_under_way()).await;
    assert_eq!((source.messages.ready(), found.chunks.lock().unwrap().len()), (1, 9));
}

#[tokio::test]
async fn files_in_hand_or_done_are_not_swept() {
    let queue = FakeQueue::default();
    queue.send(&events(2));
    let source = open(&queue).await;
    let deliveries = receive(&source).await;
    source.acknowledge(&deliveries[..1]).await.unwrap();
    source.messages.offer((0..3).map(listed).collect(), Vec::new());
    let swept = source.messages.take_ready().deliveries;
    assert_eq!(swept.len(), 1);
    assert_eq!((swept[0].files[0].path.clone(), source.counts().swept), (key(2), 1));
}

#[tokio::test]
async fn swept_files_given_back_come_with_the_next_call_and_left_ones_with_the_next_sweep() {
    let queue = FakeQueue::default();
    let (found, sweep) = sweep(vec![Ok((0..2).map(listed).collect())]);
    let source = open_with(&queue, Some(sweep)).await;
    let deliveries = receive(&source).await;
    assert_eq!(deliveries.len(), 2);
    source.give_back(&deliveries[..1]).await.unwrap();
    assert_eq!(ids(&receive(&source).await), ids(&deliveries[..1]));
    source.leave(&deliveries[1..]).await.unwrap();
    assert_eq!(*found.given_back.lock().unwrap(), [format!("s3://cdc-files/{}", key(1))]);
    assert!(receive(&source).await.is_empty());
    assert_eq!(queue.requests(Action::Change), 0);
}

#[tokio::test]
async fn a_bucket_that_may_not_be_listed_is_told_and_one_that_cannot_be_now_hinders_nothing() {
    for (error, kind) in [(Error::user("s3:ListBucket"), Some(Kind::User)), (Error::retry("not now"), None)] {
        let queue = FakeQueue::default();
        let (_, sweep) = sweep(vec![Err(error)]);
        let source = open_with(&queue, Some(Arc::clone(&sweep))).await;
        until("the sweep is over", || !sweep.is_under_way()).await;
        queue.send(&events(1));
        let outcome = source.receive().await;
        assert_eq!(outcome.as_ref().err().map(Error::kind), kind);
        if kind.is_some() {
            assert_eq!(receive(&source).await.len(), 1, "it is told once, and messages come as before");
        }
    }
}

#[tokio::test]
async fn the_beat_runs_by_itself_and_ends_with_the_source() {
    let queue = FakeQueue::default();
    queue.send(&events(1));
    let messages = Messages::new(Box::new(queue.clone()), rules(), Duration::from_millis(40), SystemClock::shared());
    let beating = beat::begin(Arc::clone(&messages));
    assert_eq!(messages.poll(Duration::ZERO).await.unwrap(), 1);
    until("it beats", || messages.counts().beats > 0).await;
    drop(beating);
    until("it ends", || Arc::strong_count(&messages) == 1).await;
    assert_eq!(queue.counts(), (0, 1));
}
