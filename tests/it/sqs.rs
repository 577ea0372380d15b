//! The SQS source on a queue and a bucket of a real server: what it delivers, and what then happens to the messages.

use std::time::Duration;

use freshet::catalog::layout::Layout;
use freshet::clock::SystemClock;
use freshet::config::SourceConfig;
use freshet::source::sqs::SqsSource;
use freshet::source::{Delivery, Source};
use object_store::ObjectStoreExt;
use object_store::path::Path;
use serde_json::{Value, json};

use crate::ministack::{Messages, Ministack, Queue};
use crate::until::until;

/// How often an outside server is asked at most whether it is done: far longer than any test needs.
const ASKED_MAX: usize = 3_000;
const KEY: &str = "dms/shop/orders/20240506-070809123.csv";

async fn open_with(server: &Ministack, bucket: &str, queue: &Queue, sweep: Option<Duration>) -> SqsSource {
    let files = format!("s3://{bucket}/dms");
    let config = SourceConfig { files, queue: Some(queue.url.clone()), sweep, ..SourceConfig::default() };
    let clock = SystemClock::shared();
    SqsSource::open(&config, Layout::known(), None, &server.aws().await, clock).await.unwrap()
}

async fn open(server: &Ministack, bucket: &str, queue: &Queue) -> SqsSource {
    open_with(server, bucket, queue, None).await
}

/// What comes until so many deliveries are there.
async fn receive(source: &SqsSource, count: usize) -> Vec<Delivery> {
    let mut all = Vec::new();
    while all.len() < count {
        let came = source.receive().await.unwrap().deliveries;
        assert!(!came.is_empty(), "only {} of {count} came", all.len());
        all.extend(came);
    }
    assert_eq!(all.len(), count);
    all
}

fn locations(deliveries: &[Delivery]) -> Vec<&str> {
    let files = deliveries.iter().flat_map(|delivery| &delivery.files);
    let mut all: Vec<&str> = files.map(|file| file.location.as_str()).collect();
    all.sort_unstable();
    all
}

/// S3's own event, as the bucket would send it.
fn event(bucket: &str, key: &str) -> Value {
    json!({"Records": [{
        "eventVersion": "2.1", "eventSource": "aws:s3", "eventTime": "2024-05-06T07:08:09.123Z",
        "eventName": "ObjectCreated:Put",
        "s3": {"bucket": {"name": bucket}, "object": {"key": key, "size": 7, "eTag": "0123abcd"}}
    }]})
}

#[tokio::test]
async fn objects_of_any_name_are_delivered_and_can_be_read() {
    let server = Ministack::shared();
    let (bucket, queue) = (server.bucket("names").await, server.queue("names", 30).await);
    server.notify(&bucket, &queue, "dms/", "").await;
    let tables = ["plain", "a b", "a+b", "50%", "a%2Fb", "주문", "é&=;'\"#?"];
    let mut e_tags = Vec::new();
    for table in tables {
        let key = format!("dms/shop/{table}/20240506-070809123.csv");
        e_tags.push(server.put(&bucket, &key, format!("content of {table}")).await);
    }
    server.put(&bucket, "elsewhere/shop/orders/LOAD00000001.csv", "not told of").await;
    let source = open(&server, &bucket, &queue).await;
    let deliveries = receive(&source, tables.len()).await;
    for delivery in &deliveries {
        let file = &delivery.files[0];
        let at = tables.iter().position(|table| *table == file.table.table).expect("a table of the test");
        assert_eq!(file.location, format!("s3://{bucket}/dms/shop/{}/20240506-070809123.csv", tables[at]));
        assert_eq!(file.e_tag.as_deref(), Some(e_tags[at].as_str()));
        let path = Path::parse(&file.path).unwrap();
        let read = source.store().get(&path).await.unwrap().bytes().await.unwrap();
        assert_eq!(read, format!("content of {}", tables[at]).as_bytes());
    }
    assert_eq!(source.counts().test_events, 1, "S3's test is swallowed");
    assert_eq!(server.messages(&queue).await, Messages { visible: 0, in_flight: 7 });
    source.acknowledge(&deliveries).await.unwrap();
    assert_eq!(server.messages(&queue).await, Messages::NONE);
}

#[tokio::test]
async fn events_come_from_s3_itself_or_through_others() {
    let server = Ministack::shared();
    let (bucket, queue) = (server.bucket("ways").await, server.queue("ways", 30).await);
    let key = |table: &str| format!("dms/shop/{table}/20240506-070809123.csv");
    server.send(&queue, &event(&bucket, &key("a%2Bb").replace('/', "%2F")).to_string()).await;
    let wrapped = json!({"Type": "Notification", "Message": event(&bucket, &key("c+d")).to_string()});
    server.send(&queue, &wrapped.to_string()).await;
    let bridged = json!({
        "version": "0", "detail-type": "Object Created", "source": "aws.s3", "time": "2024-05-06T07:08:09Z",
        "detail": {"bucket": {"name": bucket}, "object": {"key": key("e+f%2Fg"), "size": 7, "etag": "0123abcd"}}
    });
    server.send(&queue, &bridged.to_string()).await;
    let source = open(&server, &bucket, &queue).await;
    let deliveries = receive(&source, 3).await;
    let expected = ["a+b", "c d", "e+f%2Fg"].map(|table| format!("s3://{bucket}/{}", key(table)));
    assert_eq!(locations(&deliveries), expected);
    source.acknowledge(&deliveries).await.unwrap();
    assert_eq!(server.messages(&queue).await, Messages::NONE);
}

#[tokio::test]
async fn what_is_not_understood_goes_to_the_dead_letter_queue_and_hinders_nothing() {
    let server = Ministack::shared();
    let bucket = server.bucket("dead").await;
    let (queue, dead) = server.queue_with_dead_letters("dead", 2, 2).await;
    server.send(&queue, "hello").await;
    server.send(&queue, &event("other", KEY).to_string()).await;
    server.send(&queue, &event(&bucket, KEY).to_string()).await;
    let source = open(&server, &bucket, &queue).await;
    let received = source.receive().await.unwrap();
    assert_eq!((received.deliveries.len(), received.left.len()), (1, 2));
    source.acknowledge(&received.deliveries).await.unwrap();
    // The other two come once more, and are not told of again.
    let other = event(&bucket, "dms/shop/orders/LOAD00000001.csv").to_string();
    let after_them = async {
        assert!(until(ASKED_MAX, async || source.counts().left >= 4).await, "{:?}", source.counts());
        server.send(&queue, &other).await;
    };
    let (again, ()) = tokio::join!(source.receive(), after_them);
    let again = again.unwrap();
    assert_eq!((again.deliveries.len(), again.left.len()), (1, 0));
    source.acknowledge(&again.deliveries).await.unwrap();
    // Now they were received too often.
    let are_dead = until(ASKED_MAX, async || {
        assert!(server.bodies(&queue).await.is_empty());
        server.messages(&dead).await.visible == 2
    });
    assert!(are_dead.await);
    assert_eq!(server.messages(&queue).await, Messages::NONE);
}

#[tokio::test]
async fn a_message_in_hand_stays_hidden_beyond_its_time_and_can_then_be_deleted() {
    let server = Ministack::shared();
    let (bucket, queue) = (server.bucket("beat").await, server.queue("beat", 2).await);
    server.send(&queue, &event(&bucket, KEY).to_string()).await;
    let source = open(&server, &bucket, &queue).await;
    let deliveries = receive(&source, 1).await;
    assert!(until(ASKED_MAX, async || source.counts().beats > 0).await);
    // Longer than the queue's own two seconds.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert_eq!(server.messages(&queue).await, Messages { visible: 0, in_flight: 1 });
    source.acknowledge(&deliveries).await.unwrap();
    assert_eq!(server.messages(&queue).await, Messages::NONE);
    let counts = source.counts();
    assert_eq!((counts.received, counts.redelivered, counts.deleted), (1, 0, 1));
}

#[tokio::test]
async fn what_is_given_back_can_be_received_at_once_and_only_acknowledging_deletes() {
    let server = Ministack::shared();
    let (bucket, queue) = (server.bucket("back").await, server.queue("back", 300).await);
    for number in 1..=12 {
        let key = format!("dms/shop/orders/LOAD{number:08X}.csv");
        server.send(&queue, &event(&bucket, &key).to_string()).await;
    }
    let source = open(&server, &bucket, &queue).await;
    let deliveries = receive(&source, 12).await;
    assert_eq!(server.messages(&queue).await, Messages { visible: 0, in_flight: 12 });
    source.give_back(&deliveries).await.unwrap();
    assert_eq!(server.messages(&queue).await, Messages { visible: 12, in_flight: 0 });
    let other = open(&server, &bucket, &queue).await;
    let again = receive(&other, 12).await;
    assert_eq!(locations(&again), locations(&deliveries));
    drop((source, other));
    assert_eq!(server.messages(&queue).await, Messages { visible: 0, in_flight: 12 });
}

#[tokio::test]
async fn a_message_that_comes_again_is_no_second_delivery_and_is_deleted_by_its_new_handle() {
    let server = Ministack::shared();
    let (bucket, queue) = (server.bucket("again").await, server.queue("again", 2).await);
    server.send(&queue, &event(&bucket, KEY).to_string()).await;
    let source = open(&server, &bucket, &queue).await;
    let mut all = receive(&source, 1).await;
    for number in 1..=20 {
        let key = format!("dms/shop/orders/LOAD{number:08X}.csv");
        server.send(&queue, &event(&bucket, &key).to_string()).await;
        // This thread is the only one of the test, so that nothing keeps the last message hidden meanwhile.
        std::thread::sleep(Duration::from_millis(2_100));
        let next = receive(&source, 1).await;
        assert!(next[0].files[0].location.ends_with(&key), "{next:?}");
        all.extend(next);
        if source.counts().redelivered > 0 {
            break;
        }
    }
    assert!(source.counts().redelivered > 0);
    source.acknowledge(&all).await.unwrap();
    assert_eq!(server.messages(&queue).await, Messages::NONE);
    assert_eq!((source.counts().in_hand, source.counts().lost), (0, 0));
}

#[tokio::test]
async fn a_sweep_finds_an_object_whose_event_was_lost_and_not_those_in_hand() {
    let server = Ministack::shared();
    let (bucket, queue) = (server.bucket("sweep").await, server.queue("sweep", 30).await);
    let [lost, told] = ["dms/shop/orders/LOAD00000001.csv", "dms/shop/orders/LOAD00000002.csv"];
    // It is told of, and in hand, before any listing can find it.
    let e_tag = server.put(&bucket, told, "its event comes").await;
    server.remove(&bucket, told).await;
    let mut event = event(&bucket, told);
    event["Records"][0]["s3"]["object"]["eTag"] = e_tag.trim_matches('"').into();
    server.send(&queue, &event.to_string()).await;
    let source = open_with(&server, &bucket, &queue, Some(Duration::from_secs(1))).await;
    let mut all = receive(&source, 1).await;
    server.put(&bucket, told, "its event comes").await;
    server.put(&bucket, lost, "its event is lost").await;
    assert!(until(ASKED_MAX, async || source.counts().swept > 0).await);
    all.extend(receive(&source, 1).await);
    assert_eq!(locations(&all), [lost, told].map(|key| format!("s3://{bucket}/{key}")));
    assert!(all[1].receipt.starts_with(&format!("sweep:s3://{bucket}/{lost} ")), "{all:?}");
    assert_eq!(source.counts().swept, 1);
    source.acknowledge(&all).await.unwrap();
    assert_eq!(server.messages(&queue).await, Messages::NONE);
}

#[tokio::test]
async fn a_queue_that_is_not_there_is_an_error_of_the_user_and_a_server_that_is_away_is_not() {
    let server = Ministack::own();
    let (bucket, queue) = (server.bucket("away").await, server.queue("away", 30).await);
    let aws = server.aws().await;
    let config = |url: &str| SourceConfig {
        files: format!("s3://{bucket}/dms"),
        queue: Some(url.to_owned()),
        ..SourceConfig::default()
    };
    let missing = config(&queue.url.replace("/away", "/none"));
    let opened = SqsSource::open(&missing, Layout::known(), None, &aws, SystemClock::shared()).await;
    let error = opened.err().unwrap();
    assert_eq!(error.kind(), freshet::error::Kind::User, "{}", error.report());
    assert!(error.hint_text().is_some_and(|hint| hint.contains("check `queue`")), "{}", error.report());

    let there = config(&queue.url);
    let source = SqsSource::open(&there, Layout::known(), None, &aws, SystemClock::shared()).await.unwrap();
    drop(server);
    let error = source.receive().await.unwrap_err();
    assert_eq!(error.kind(), freshet::error::Kind::Retry, "{}", error.report());
    assert!(error.hint_text().is_some_and(|hint| hint.contains("network")), "{}", error.report());
}
