//! The server goes wrong as it is told to, and remembers what it was sent.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tonic::Code;

use super::client::{Client, TABLE, field, orders, request};
use crate::strict_bigquery::{Fault, Options, RowFormat, What};

#[tokio::test]
async fn a_rest_answer_is_lost_before_or_after_the_effect() {
    let client = Client::new(Options::default()).await;
    let schema = json!({"fields": [field("a", "INT64", "NULLABLE")]});
    let table = |name: &str| json!({"tableReference": {"tableId": name}, "schema": schema});
    for (name, what, exists) in [("before", What::LostBefore, false), ("after", What::LostAfter, true)] {
        client.server.faults().push(Fault::on("POST", what));
        let lost = client.try_rest("POST", "datasets/shop/tables", &table(name)).await;
        assert!(lost.is_err(), "{name}: {lost:?}");
        assert_eq!(client.server.table(&format!("shop.{name}")).is_some(), exists, "{name}");
    }
    assert_eq!(client.server.faults().left(), 0);
}

#[tokio::test]
async fn a_call_answers_with_the_errors_that_were_asked_for_and_then_works() {
    let mut client = Client::with_orders(Options::default()).await;
    client
        .server
        .faults()
        .push(Fault::on("GET /bigquery/v2/projects/test-project/datasets/shop", What::Http(503)).times(2));
    for expected in ["503 backendError", "503 backendError", "200"] {
        client.check("GET", "datasets/shop", Value::Null, expected).await;
    }
    client.server.faults().push(Fault::on("FinalizeWriteStream", What::Grpc(Code::Unavailable)).skip(1));
    let stream = client.pending().await;
    assert_eq!(client.finalize(&stream).await.unwrap(), 0);
    assert_eq!(client.finalize(&stream).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(client.finalize(&stream).await.unwrap(), 0);
}

#[tokio::test]
async fn a_job_fails_as_was_asked_and_its_id_is_used_up() {
    let client = Client::with_orders(Options::default()).await;
    client.server.faults().push(Fault::on("/jobs", What::JobFails("backendError")).times(2));
    let sql = "SELECT `id` FROM `test-project`.`shop`.`orders`";
    assert_eq!(client.job("one", sql).await["status"]["errorResult"]["reason"], "backendError");
    client.server.faults().clear();
    assert_eq!(client.job("two", sql).await["status"]["errorResult"], Value::Null);
    let job = client.check("GET", "jobs/one?location=EU", Value::Null, "200").await;
    assert_eq!((&job["status"]["state"], job["status"]["errors"].as_array().unwrap().len()), (&json!("DONE"), 1));
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_has_taken_effect_or_not() {
    for (what, told, rows) in [
        (What::LostBefore, "Unavailable", 0),
        (What::LostAfter, "Unavailable", 1),
        (What::NoCommitTime, "nothing", 0),
        (What::Slow(Duration::from_millis(1)), "committed", 1),
    ] {
        let mut client = Client::with_orders(Options::default()).await;
        let stream = client.pending().await;
        client.append(&stream, Some(0), &orders(&[(1, "a")])).await;
        client.finalize(&stream).await.unwrap();
        client.server.faults().push(Fault::on("BatchCommitWriteStreams", what.clone()));
        let outcome = client.commit(&[&stream]).await;
        let is_cut = told == "Unavailable" && (outcome == "Unknown" || outcome == "Internal");
        assert!(outcome == told || is_cut, "{what:?}: {outcome}");
        assert_eq!(client.server.row_count("shop.orders"), rows, "{what:?}");
        let again = if rows == 0 { "committed" } else { "STREAM_ALREADY_COMMITTED" };
        assert_eq!(client.commit(&[&stream]).await, again, "{what:?}");
    }
}

#[tokio::test]
async fn an_append_whose_answer_is_lost_has_moved_the_offset() {
    let mut client = Client::with_orders(Options::default()).await;
    let stream = client.pending().await;
    client.server.faults().push(Fault::on(format!("AppendRows {stream}"), What::LostAfter).skip(1));
    let first = request(&stream, Some(0), &orders(&[(1, "a")]));
    let second = request(&stream, Some(1), &orders(&[(2, "b")]));
    let (answers, status) = client.send(vec![first, second]).await;
    assert!(answers.len() <= 1 && status.is_some(), "{answers:?} {status:?}");
    assert_eq!(client.append(&stream, Some(1), &orders(&[(2, "b")])).await, "AlreadyExists OFFSET_ALREADY_EXISTS");
    assert_eq!(client.append(&stream, Some(2), &orders(&[(3, "c")])).await, "appended at 2");
}

#[tokio::test]
async fn a_connection_cut_within_a_request_leaves_nothing() {
    let mut client = Client::with_orders(Options::default()).await;
    let stream = client.pending().await;
    client.server.faults().push(Fault::on("Connect", What::CutAfterBytes(100_000)));
    let big = orders(&[(1, &"x".repeat(1_000_000))]);
    let (answers, status) = client.send(vec![request(&stream, Some(0), &big)]).await;
    assert!(answers.is_empty() && status.is_some());
    assert_eq!(client.append(&stream, Some(0), &big).await, "appended at 0");
}

#[tokio::test]
async fn the_log_tells_what_came_in_which_order() {
    let mut client = Client::with_orders(Options::default()).await;
    let committed = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&committed);
    client.server.on_commit(move |streams| noted.lock().unwrap().push(streams.to_vec()));
    let stream = client.pending().await;
    client.append(&stream, Some(0), &orders(&[(1, "a")])).await;
    client.finalize(&stream).await.unwrap();
    client.commit(&[&stream]).await;
    assert_eq!(*committed.lock().unwrap(), [[stream.clone()]]);
    let requests = client.server.requests();
    let methods: Vec<_> = requests.iter().map(|request| (request.method.as_str(), request.outcome.as_str())).collect();
    let expected = [
        ("POST", "200"),
        ("CreateWriteStream", "Ok"),
        ("AppendRows", "Ok"),
        ("FinalizeWriteStream", "Ok"),
        ("BatchCommitWriteStreams", "Ok"),
    ];
    assert_eq!(methods, expected);
    let append = &client.server.requests_of("AppendRows")[0];
    assert_eq!((append.rows, append.offset, append.is_authorized), (Some(RowFormat::Arrow), Some(0), false));
    assert_eq!((append.table.as_deref(), &append.streams), (Some("shop.orders"), &vec![stream]));
    assert_eq!(requests[4].path, TABLE);
    assert_eq!(requests[0].body["tableReference"]["tableId"], "orders");
}
