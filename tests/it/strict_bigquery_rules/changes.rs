//! Rules of native change data capture.

use std::sync::Arc;

use arrow::array::{Int64Array, StringArray};
use googleapis_tonic_google_cloud_bigquery_storage_v1::google::cloud::bigquery::storage::v1 as proto;
use prost::encoding::{int64, string};
use proto::append_rows_request::{ProtoData, Rows};
use proto::write_stream::Type;
use serde_json::json;

use super::client::{Client, TABLE, batch, field, outcome, refusal};
use crate::strict_bigquery::Options;

const DEFAULT: &str = "projects/test-project/datasets/shop/tables/orders/streams/_default";
const COLUMNS: [(&str, i32); 4] = [("_CHANGE_TYPE", 9), ("_CHANGE_SEQUENCE_NUMBER", 9), ("id", 3), ("item", 9)];

/// A change: its kind, sequence number, key and value.
type Change<'a> = (&'a str, &'a str, i64, &'a str);

/// A server whose `orders` has this primary key.
async fn client(key: &[&str]) -> Client {
    let client = Client::new(Options::default()).await;
    let fields = json!([field("id", "INT64", "REQUIRED"), field("Item", "STRING", "NULLABLE")]);
    let mut body = json!({"tableReference": {"tableId": "orders"}, "schema": {"fields": fields}});
    if !key.is_empty() {
        body["tableConstraints"] = json!({"primaryKey": {"columns": key}});
    }
    client.check("POST", "datasets/shop/tables", body, "200").await;
    client
}

/// An append of these changes; texts that are empty are not sent.
fn request(stream: &str, changes: &[Change<'_>]) -> proto::AppendRowsRequest {
    let mut schema = proto::ProtoSchema::default();
    let descriptor = schema.proto_descriptor.get_or_insert_default();
    descriptor.field.resize_with(COLUMNS.len(), Default::default);
    for ((field, number), (name, kind)) in descriptor.field.iter_mut().zip(1..).zip(COLUMNS) {
        (field.name, field.number, field.r#type) = (Some(name.to_owned()), Some(number), Some(kind));
    }
    let row = |(kind, sequence, id, item): &Change<'_>| {
        let mut row = Vec::new();
        for (number, text) in [(1, *kind), (2, *sequence), (4, *item)].into_iter().filter(|(_, text)| !text.is_empty())
        {
            string::encode(number, &text.to_owned(), &mut row);
        }
        int64::encode(3, id, &mut row);
        row.into()
    };
    let rows = proto::ProtoRows { serialized_rows: changes.iter().map(row).collect() };
    let data = ProtoData { writer_schema: Some(schema), rows: Some(rows) };
    let write_stream = stream.to_owned();
    proto::AppendRowsRequest { write_stream, rows: Some(Rows::ProtoRows(data)), ..Default::default() }
}

async fn append(client: &mut Client, changes: &[Change<'_>]) -> String {
    match client.send(vec![request(DEFAULT, changes)]).await {
        (answers, None) => outcome(&answers[0]),
        (_, Some(status)) => refusal(&status),
    }
}

fn rows(client: &Client) -> Vec<String> {
    let rows = client.server.table_rows("shop.orders");
    let mut rows: Vec<String> = rows.iter().map(|row| format!("{} {}", row["id"], row["Item"])).collect();
    rows.sort_unstable();
    rows
}

#[tokio::test]
async fn the_highest_sequence_of_a_key_wins_section_by_section_and_of_equals_the_latest() {
    let mut client = client(&["id"]).await;
    let changes = [
        ("UPSERT", "A/0", 1, "first"),
        ("UPSERT", "9/FFFF", 1, "older, though longer"),
        ("UPSERT", "A/0", 1, "again"),
        ("UPSERT", "0001", 2, "two"),
        ("DELETE", "2", 2, ""),
        ("UPSERT", "1", 2, "late"),
        ("UPSERT", "1", 3, "three"),
    ];
    assert_eq!(append(&mut client, &changes).await, "appended");
    assert_eq!(rows(&client), ["1 \"again\"", "3 \"three\""]);
}

#[tokio::test]
async fn a_delete_is_forgotten_after_two_days() {
    let mut client = client(&["id"]).await;
    append(&mut client, &[("UPSERT", "1", 1, "a"), ("DELETE", "5", 1, "")]).await;
    client.server.advance(chrono::TimeDelta::days(2));
    append(&mut client, &[("UPSERT", "4", 1, "late")]).await;
    assert!(rows(&client).is_empty());
    client.server.advance(chrono::TimeDelta::seconds(1));
    append(&mut client, &[("UPSERT", "4", 1, "too late to be known as late")]).await;
    assert_eq!(rows(&client).len(), 1);
}

#[tokio::test]
async fn changes_that_break_a_rule_are_refused_and_leave_nothing() {
    let mut client = client(&["id"]).await;
    for wrong in [
        &[("INSERT", "1", 1, "a")][..],
        &[("", "1", 1, "a")],
        &[("UPSERT", "1/2/3/4/5", 1, "a")],
        &[("UPSERT", "12345678901234567", 1, "a")],
        &[("UPSERT", "x", 1, "a")],
        &[("UPSERT", "1", 1, "a"), ("UPSERT", "", 2, "b")],
    ] {
        assert!(append(&mut client, wrong).await.starts_with("InvalidArgument"), "{wrong:?}");
    }
    assert!(rows(&client).is_empty());
    append(&mut client, &[("UPSERT", "1", 1, "a")]).await;
    let mixed = append(&mut client, &[("UPSERT", "", 1, "b")]).await;
    assert!(mixed.starts_with("InvalidArgument"), "others had sequence numbers: {mixed}");
    let pending = client.create(TABLE, Type::Pending).await.unwrap().name;
    let (answers, _) = client.send(vec![request(&pending, &[("UPSERT", "2", 1, "b")])]).await;
    assert!(outcome(&answers[0]).starts_with("InvalidArgument"), "only the default stream takes changes");
    assert_eq!(rows(&client), ["1 \"a\""]);
}

#[tokio::test]
async fn changes_need_a_primary_key_and_never_come_in_arrow() {
    let mut keyless = client(&[]).await;
    assert!(append(&mut keyless, &[("UPSERT", "1", 1, "a")]).await.starts_with("InvalidArgument"));
    let mut keyed = client(&["id"]).await;
    let kind: StringArray = [Some("UPSERT")].into_iter().collect();
    let id: Int64Array = [Some(1)].into_iter().collect();
    let arrow = batch(vec![("_CHANGE_TYPE", Arc::new(kind)), ("id", Arc::new(id))]);
    assert!(keyed.append(DEFAULT, None, &arrow).await.starts_with("InvalidArgument"));
    assert!(rows(&keyed).is_empty());
}

#[tokio::test]
async fn a_merge_into_a_table_that_is_fed_by_changes_is_refused() {
    let mut client = client(&["id"]).await;
    append(&mut client, &[("UPSERT", "1", 1, "a")]).await;
    let sql = "MERGE `test-project`.`shop`.`orders` AS t USING (SELECT 2 AS `id`, 'b' AS `Item`) AS s \
               ON t.`id` = s.`id` WHEN NOT MATCHED THEN INSERT (`id`, `Item`) VALUES (s.`id`, s.`Item`)";
    let job = client.job("m", sql).await;
    assert!(job["status"]["errorResult"]["message"].as_str().unwrap_or_default().contains("CDC"), "{job}");
}
