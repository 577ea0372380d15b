//! Rules of streams, offsets and commits.

use chrono::TimeDelta;
use googleapis_tonic_google_cloud_bigquery_storage_v1::google::cloud::bigquery::storage::v1 as proto;
use proto::write_stream::Type;
use serde_json::json;

use super::client::{Client, TABLE, field, messages, orders, outcome, refusal, request, request_of};
use crate::strict_bigquery::{Limit, Options, UnseenColumns};

#[tokio::test]
async fn pending_rows_are_seen_when_all_their_streams_are_committed() {
    let mut client = Client::with_orders(Options::default()).await;
    let (one, two) = (client.pending().await, client.pending().await);
    assert_eq!(client.append(&one, Some(0), &orders(&[(1, "a"), (2, "b")])).await, "appended at 0");
    assert_eq!(client.append(&one, None, &orders(&[(3, "c")])).await, "appended at 2");
    assert_eq!(client.append(&two, Some(0), &orders(&[(4, "d")])).await, "appended at 0");
    assert_eq!(client.finalize(&one).await.unwrap(), 3);
    assert_eq!(client.commit(&[&one, &two]).await, "INVALID_STREAM_STATE");
    assert_eq!(client.server.row_count("shop.orders"), 0);
    assert!(client.get(&one).await.unwrap().commit_time.is_none());
    assert_eq!(client.finalize(&two).await.unwrap(), 1);
    assert_eq!(client.finalize(&two).await.unwrap(), 1);
    assert_eq!(client.commit(&[&one, &two]).await, "committed");
    assert_eq!(client.server.row_count("shop.orders"), 4);
    assert!(client.get(&one).await.unwrap().commit_time.is_some());
    assert_eq!(client.commit(&[&one, &two]).await, "STREAM_ALREADY_COMMITTED, STREAM_ALREADY_COMMITTED");
    assert_eq!(client.server.row_count("shop.orders"), 4);
}

#[tokio::test]
async fn one_unfit_stream_keeps_all_others_from_being_committed() {
    let mut client = Client::with_orders(Options::default()).await;
    client.make("others", json!([field("id", "INT64", "NULLABLE")])).await;
    let (good, done) = (client.pending().await, client.pending().await);
    let others = client.create(&TABLE.replace("orders", "others"), Type::Pending).await.unwrap().name;
    let eager = client.create(TABLE, Type::Committed).await.unwrap().name;
    for stream in [&good, &done, &others, &eager] {
        client.finalize(stream).await.unwrap();
    }
    assert_eq!(client.commit(&[&done]).await, "committed");
    let missing = format!("{TABLE}/streams/none");
    for (unfit, expected) in [
        (&done, "STREAM_ALREADY_COMMITTED"),
        (&others, "INVALID_STREAM_STATE"),
        (&eager, "INVALID_STREAM_TYPE"),
        (&missing, "STREAM_NOT_FOUND"),
    ] {
        assert_eq!(client.commit(&[&good, unfit]).await, expected);
    }
    assert_eq!(client.commit(&[&good, &good]).await, "InvalidArgument");
    assert_eq!(client.commit(&[]).await, "InvalidArgument");
    assert_eq!(client.commit(&[&good]).await, "committed");
}

#[tokio::test]
async fn offsets_tell_repetitions_and_gaps_and_the_connection_goes_on() {
    let mut client = Client::with_orders(Options::default()).await;
    let stream = client.pending().await;
    let rows = orders(&[(1, "a"), (2, "b")]);
    let requests = [0, 0, 1, 3, 2, -1].map(|offset| request(&stream, Some(offset), &rows));
    let (answers, status) = client.send(requests.to_vec()).await;
    let outcomes: Vec<_> = answers.iter().map(outcome).collect();
    let (again, gap) = ("AlreadyExists OFFSET_ALREADY_EXISTS", "OutOfRange OFFSET_OUT_OF_RANGE");
    assert_eq!(outcomes, ["appended at 0", again, again, gap, "appended at 2", again]);
    assert!(status.is_none());
    client.finalize(&stream).await.unwrap();
    assert_eq!(client.append(&stream, Some(4), &rows).await, "InvalidArgument STREAM_FINALIZED");
}

#[tokio::test]
async fn a_connection_begins_with_stream_and_schema_and_keeps_them() {
    let mut client = Client::with_orders(Options::default()).await;
    let (stream, other) = (client.pending().await, client.pending().await);
    let rows = orders(&[(1, "a")]);
    let parts = messages(&rows);
    assert_eq!(client.append("", Some(0), &rows).await, "InvalidArgument");
    let (_, status) = client.send(vec![request_of(&stream, Some(0), &[], &parts[1])]).await;
    assert_eq!(refusal(&status.unwrap()), "InvalidArgument");
    // A later schema is ignored, whatever it says; a later stream must be the same.
    let later = messages(&super::client::batch(vec![("nothing", rows.column(0).clone())]));
    let requests = vec![
        request(&stream, Some(0), &rows),
        request_of("", Some(1), &later[0], &parts[1]),
        request_of("", Some(2), &later[0], &later[1]),
        request(&other, Some(0), &rows),
    ];
    let (answers, status) = client.send(requests).await;
    let outcomes: Vec<_> = answers.iter().map(outcome).collect();
    assert_eq!(outcomes, ["appended at 0", "appended at 1", "InvalidArgument"]);
    assert_eq!(refusal(&status.unwrap()), "InvalidArgument");
}

#[tokio::test]
async fn unknown_tables_and_streams_are_not_found() {
    let mut client = Client::with_orders(Options::default()).await;
    let table = client.create(&TABLE.replace("orders", "none"), Type::Pending).await.unwrap_err();
    assert_eq!(refusal(&table), "NotFound TABLE_NOT_FOUND");
    let foreign = client.create(&TABLE.replace("test-project", "other"), Type::Pending).await.unwrap_err();
    assert_eq!(refusal(&foreign), "PermissionDenied");
    assert_eq!(refusal(&client.create("nonsense", Type::Pending).await.unwrap_err()), "InvalidArgument");
    assert_eq!(refusal(&client.create(TABLE, Type::Buffered).await.unwrap_err()), "Unimplemented");
    assert_eq!(refusal(&client.create(TABLE, Type::Unspecified).await.unwrap_err()), "InvalidArgument");
    let none = format!("{TABLE}/streams/none");
    assert_eq!(refusal(&client.finalize(&none).await.unwrap_err()), "NotFound STREAM_NOT_FOUND");
    assert_eq!(refusal(&client.get(&none).await.unwrap_err()), "NotFound STREAM_NOT_FOUND");
    assert_eq!(client.append(&none, None, &orders(&[(1, "a")])).await, "NotFound STREAM_NOT_FOUND");
    let flush = client.grpc.flush_rows(proto::FlushRowsRequest { write_stream: none, offset: None }).await;
    assert_eq!(refusal(&flush.unwrap_err()), "InvalidArgument INVALID_STREAM_TYPE");
    let stream = client.pending().await;
    client.check("DELETE", "datasets/shop/tables/orders", serde_json::Value::Null, "204").await;
    assert_eq!(refusal(&client.finalize(&stream).await.unwrap_err()), "NotFound STREAM_NOT_FOUND");
    assert_eq!(client.commit(&[&stream]).await, "NotFound TABLE_NOT_FOUND");
}

#[tokio::test]
async fn committed_and_default_streams_show_rows_at_once() {
    let mut client = Client::with_orders(Options::default()).await;
    let stream = client.create(TABLE, Type::Committed).await.unwrap().name;
    assert_eq!(client.append(&stream, Some(0), &orders(&[(1, "a")])).await, "appended at 0");
    assert_eq!(client.server.row_count("shop.orders"), 1);
    for default in [format!("{TABLE}/streams/_default"), format!("{TABLE}/_default")] {
        assert_eq!(client.append(&default, None, &orders(&[(2, "b")])).await, "appended");
        assert_eq!(client.append(&default, Some(0), &orders(&[(2, "b")])).await, "InvalidArgument");
        assert_eq!(refusal(&client.finalize(&default).await.unwrap_err()), "InvalidArgument INVALID_STREAM_TYPE");
        assert_eq!(client.get(&default).await.unwrap().table_schema.unwrap().fields.len(), 2);
    }
    assert_eq!(client.server.row_count("shop.orders"), 3);
}

#[tokio::test]
async fn streams_live_as_long_as_google_keeps_them() {
    let hours = TimeDelta::hours;
    let mut client = Client::with_orders(Options::default()).await;
    let (open, finalized, committed) = (client.pending().await, client.pending().await, client.pending().await);
    client.finalize(&finalized).await.unwrap();
    client.finalize(&committed).await.unwrap();
    client.commit(&[&committed]).await;
    let alive = async |client: &mut Client| {
        let mut out = Vec::new();
        for stream in [&open, &finalized, &committed] {
            out.push(client.get(stream).await.is_ok());
        }
        out
    };
    for (pass, expected) in [
        (hours(4) - TimeDelta::minutes(1), [true, true, true]),
        (TimeDelta::minutes(1), [true, false, true]),
        (hours(20) - TimeDelta::minutes(1), [true, false, true]),
        (TimeDelta::minutes(1), [false, false, true]),
        (hours(48) - TimeDelta::minutes(1), [false, false, true]),
        (TimeDelta::minutes(1), [false, false, false]),
    ] {
        client.server.advance(pass);
        assert_eq!(alive(&mut client).await, expected, "{}", client.server.now());
    }
    assert_eq!(client.commit(&[&finalized]).await, "STREAM_NOT_FOUND");
}

#[tokio::test]
async fn new_streams_are_counted_against_a_quota() {
    let new_streams = Limit { most: 2, within: TimeDelta::hours(1) };
    let mut client = Client::with_orders(Options { new_streams, ..Options::default() }).await;
    client.pending().await;
    client.pending().await;
    assert_eq!(refusal(&client.create(TABLE, Type::Pending).await.unwrap_err()), "ResourceExhausted");
    client.server.advance(TimeDelta::hours(1));
    client.pending().await;
}

#[tokio::test]
async fn only_requests_below_ten_megabytes_in_arrow_are_taken() {
    let mut client = Client::with_orders(Options::default()).await;
    let stream = client.pending().await;
    assert_eq!(client.append(&stream, Some(0), &orders(&[(1, &"x".repeat(9_900_000))])).await, "appended at 0");
    assert_eq!(client.append(&stream, Some(1), &orders(&[(1, &"x".repeat(10_000_000))])).await, "InvalidArgument");
    let empty = proto::AppendRowsRequest { write_stream: stream, ..Default::default() };
    assert_eq!(refusal(&client.send(vec![empty]).await.1.unwrap()), "InvalidArgument");
}

/// Adds a column `new` to `shop.orders`.
async fn grow(client: &Client) {
    let fields = json!([
        field("id", "INT64", "REQUIRED"),
        field("Item", "STRING", "NULLABLE"),
        field("new", "INT64", "NULLABLE")
    ]);
    client.patch(fields, "200").await;
}

#[tokio::test]
async fn a_new_column_is_unknown_for_a_while_and_its_values_fail_or_are_lost() {
    for (unseen_columns, expected) in
        [(UnseenColumns::Fail, "InvalidArgument SCHEMA_MISMATCH_EXTRA_FIELDS"), (UnseenColumns::Lose, "appended at 0")]
    {
        let columns_visible_after = TimeDelta::minutes(5);
        let options = Options { columns_visible_after, unseen_columns, ..Options::default() };
        let mut client = Client::with_orders(options).await;
        assert_eq!(client.create(TABLE, Type::Pending).await.unwrap().table_schema.unwrap().fields.len(), 2);
        client.server.advance(TimeDelta::seconds(1));
        grow(&client).await;
        let stream = client.create(TABLE, Type::Committed).await.unwrap();
        assert_eq!(stream.table_schema.unwrap().fields.len(), 2);
        let mut columns = orders(&[(7, "a")]).columns().to_vec();
        columns.push(columns[0].clone());
        let rows = super::client::batch(["id", "Item", "NEW"].into_iter().zip(columns).collect());
        assert_eq!(client.append(&stream.name, Some(0), &rows).await, expected);
        let lost = client.server.table_rows("shop.orders").iter().any(|row| row["new"].is_null());
        assert_eq!(lost, unseen_columns == UnseenColumns::Lose);
        client.server.advance(TimeDelta::minutes(5));
        assert_eq!(client.get(&stream.name).await.unwrap().table_schema.unwrap().fields.len(), 3);
        assert!(client.append(&stream.name, None, &rows).await.starts_with("appended"));
        assert!(client.server.table_rows("shop.orders").iter().any(|row| row["new"] == 7));
    }
}

#[tokio::test]
async fn a_connection_is_told_of_a_new_schema_once() {
    let mut client = Client::with_orders(Options::default()).await;
    let stream = client.pending().await;
    let (sender, receiver) = futures::channel::mpsc::unbounded();
    let send = |offset| sender.unbounded_send(request(&stream, Some(offset), &orders(&[(1, "a")]))).unwrap();
    send(0);
    let mut answers = client.grpc.append_rows(receiver).await.unwrap().into_inner();
    assert!(answers.message().await.unwrap().unwrap().updated_schema.is_none());
    grow(&client).await;
    send(1);
    assert_eq!(answers.message().await.unwrap().unwrap().updated_schema.unwrap().fields.len(), 3);
    send(2);
    assert!(answers.message().await.unwrap().unwrap().updated_schema.is_none());
}
