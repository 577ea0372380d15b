//! Rules of ALTER TABLE: what types columns may be given, and what becomes of rows.

use std::sync::Arc;

use arrow::array::{ArrayRef, Decimal128Array};
use chrono::TimeDelta;
use googleapis_tonic_google_cloud_bigquery_storage_v1::google::cloud::bigquery::storage::v1 as proto;
use proto::table_field_schema::Type as ProtoType;
use proto::write_stream::Type;
use serde_json::{Value, json};

use super::client::{Client, TABLE, batch, field, orders};
use crate::strict_bigquery::Options;

/// Alters a table of `shop`; `done`, or the reason why not, and the message.
async fn alter(client: &Client, id: &str, table: &str, what: &str) -> (String, String) {
    let job = client.job(id, &format!("ALTER TABLE `test-project`.`shop`.`{table}` {what}")).await;
    let error = &job["status"]["errorResult"];
    let told = |part: &str| error[part].as_str().unwrap_or("done").to_owned();
    (told("reason"), told("message"))
}

#[tokio::test]
async fn rows_outlive_every_widening() {
    let mut client = Client::with_orders(Options::default()).await;
    client.load("orders", &orders(&[(i64::MAX, "a"), (-3, "b")])).await;
    for kind in ["NUMERIC", "BIGNUMERIC"] {
        let what = format!("ALTER COLUMN `ID` SET DATA TYPE {kind} NOT NULL");
        assert_eq!(alter(&client, kind, "orders", &what).await.0, "done");
        let found = client.server.query("SELECT `id` FROM `test-project.shop.orders` ORDER BY `id`");
        let found: Vec<_> = found.iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect();
        assert_eq!(found, ["-3", "9223372036854775807"], "{kind}");
        let shown = client.server.table("shop.orders").unwrap();
        assert_eq!(shown["schema"]["fields"][0], field("id", kind, "REQUIRED"));
    }
    let numbers: ArrayRef =
        Arc::new(Decimal128Array::from(vec![-1_500_000_000]).with_precision_and_scale(38, 9).unwrap());
    client.make("n", json!([field("n", "NUMERIC", "NULLABLE")])).await;
    client.load("n", &batch(vec![("n", numbers)])).await;
    assert_eq!(alter(&client, "n", "n", "ALTER COLUMN `n` SET DATA TYPE BIGNUMERIC").await.0, "done");
    assert_eq!(client.server.table_rows("shop.n")[0]["n"], "-1.5");
}

#[tokio::test]
async fn several_columns_change_together_or_not_at_all() {
    let client = Client::new(Options::default()).await;
    let inner = json!([field("a", "INT64", "REQUIRED"), field("b", "STRING", "REPEATED")]);
    let fields = json!([
        field("n", "INT64", "NULLABLE"), field("m", "INT64", "NULLABLE"),
        {"name": "s", "type": "STRUCT", "mode": "NULLABLE", "fields": inner},
    ]);
    client.make("t", fields).await;
    let before = client.server.table("shop.t").unwrap();
    let half = "ALTER COLUMN `n` SET DATA TYPE NUMERIC, ALTER COLUMN `m` SET DATA TYPE BYTES";
    assert_eq!(alter(&client, "half", "t", half).await.0, "invalidQuery");
    assert_eq!(client.server.table("shop.t").unwrap(), before);
    let whole = "ALTER COLUMN `n` SET DATA TYPE NUMERIC, ALTER COLUMN `m` SET DATA TYPE BIGNUMERIC, \
                 ALTER COLUMN `s` SET DATA TYPE STRUCT<`a` NUMERIC NOT NULL, `b` ARRAY<STRING>>";
    assert_eq!(alter(&client, "whole", "t", whole).await.0, "done");
    let after = client.server.table("shop.t").unwrap();
    assert_ne!(after["etag"], before["etag"]);
    let kinds = after["schema"]["fields"].as_array().unwrap().iter().map(|field| field["type"].clone());
    assert_eq!(kinds.collect::<Vec<_>>(), ["NUMERIC", "BIGNUMERIC", "RECORD"]);
    assert_eq!(after["schema"]["fields"][2]["fields"][0], field("a", "NUMERIC", "REQUIRED"));
    let job = client.check("GET", "jobs/whole?location=EU", Value::Null, "200").await;
    assert_eq!(job["statistics"]["query"]["statementType"], "ALTER_TABLE");
}

#[tokio::test]
async fn what_would_lose_something_or_change_a_mode_is_refused() {
    let client = Client::with_orders(Options::default()).await;
    let struct_of =
        |mode| json!({"name": "s", "type": "STRUCT", "mode": mode, "fields": [field("a", "INT64", "NULLABLE")]});
    let mut array = struct_of("REPEATED");
    array["name"] = json!("l");
    let fields =
        json!([field("b", "BIGNUMERIC", "NULLABLE"), field("r", "INT64", "REPEATED"), struct_of("NULLABLE"), array,]);
    client.make("t", fields).await;
    let to = |column: &str, kind: &str| format!("ALTER COLUMN `{column}` SET DATA TYPE {kind}");
    let assignable = "requires that the existing column type";
    let unread = "cannot read";
    for (at, (what, expected)) in [
        (to("b", "NUMERIC"), assignable),
        (to("b", "STRING"), assignable),
        (to("b", "FLOAT64"), "Field b has changed type from BIGNUMERIC to FLOAT"),
        (to("b", "BIGNUMERIC NOT NULL"), "Column `b` cannot change mode via SET DATA TYPE."),
        (to("r", "ARRAY<NUMERIC>"), assignable),
        (to("r", "INT64"), "cannot change mode"),
        (to("s", "STRUCT<`a` INT64, `new` INT64>"), assignable),
        (to("s", "STRUCT<`other` INT64>"), assignable),
        (to("l", "ARRAY<STRUCT<`a` NUMERIC>>"), assignable),
        (to("none", "NUMERIC"), "Column not found: none"),
        (format!("{0}, {0}", to("b", "BIGNUMERIC")), "altered twice"),
        (to("b", "NUMERIC(10, 2)"), unread),
        (to("b", "DECIMAL"), unread),
        (to("s", "STRUCT<`a` INT64"), unread),
        (format!("{};", to("b", "BIGNUMERIC")), unread),
        ("ADD COLUMN `x` INT64".to_owned(), unread),
        (String::new(), unread),
    ]
    .into_iter()
    .enumerate()
    {
        let (reason, message) = alter(&client, &format!("j{at}"), "t", &what).await;
        assert!(reason.starts_with("invalid") && message.contains(expected), "{what}: {reason} {message}");
    }
    let required = alter(&client, "required", "orders", &to("id", "NUMERIC")).await;
    assert_eq!(required.1, "Column `id` cannot change mode via SET DATA TYPE.");
    assert_eq!(alter(&client, "gone", "none", &to("b", "NUMERIC")).await.0, "notFound");
    let job = client.job("elsewhere", "ALTER TABLE `other`.`shop`.`t` ALTER COLUMN `b` SET DATA TYPE BIGNUMERIC").await;
    assert_eq!(job["status"]["errorResult"]["reason"], "notFound");
    assert_eq!(alter(&client, "same", "t", &to("b", "BIGNUMERIC")).await.0, "done", "what is so already stays so");
}

#[tokio::test]
async fn altering_and_patching_share_one_quota() {
    let client = Client::with_orders(Options::default()).await;
    let widen = "ALTER COLUMN `id` SET DATA TYPE NUMERIC NOT NULL";
    for n in 0..4 {
        let path = "datasets/shop/tables/orders";
        client.check("PATCH", path, json!({"description": n.to_string()}), "200").await;
    }
    assert_eq!(alter(&client, "fifth", "orders", widen).await.0, "done");
    assert_eq!(alter(&client, "sixth", "orders", widen).await.0, "rateLimitExceeded");
    client.server.advance(TimeDelta::seconds(10));
    assert_eq!(alter(&client, "later", "orders", widen).await.0, "done");
}

#[tokio::test]
async fn a_new_type_is_unknown_to_the_write_api_for_a_while() {
    let columns_visible_after = TimeDelta::minutes(5);
    let mut client = Client::with_orders(Options { columns_visible_after, ..Options::default() }).await;
    client.server.advance(TimeDelta::minutes(5));
    assert_eq!(alter(&client, "a", "orders", "ALTER COLUMN `id` SET DATA TYPE NUMERIC NOT NULL").await.0, "done");
    for expected in [ProtoType::Int64, ProtoType::Numeric] {
        let stream = client.create(TABLE, Type::Pending).await.unwrap();
        assert_eq!(stream.table_schema.unwrap().fields[0].r#type(), expected);
        client.server.advance(TimeDelta::minutes(5));
    }
}
