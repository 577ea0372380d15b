//! Rules of datasets and tables.

use serde_json::{Value, json};

use super::client::{Client, field};
use crate::strict_bigquery::Options;

#[tokio::test]
async fn datasets_and_tables_are_made_once_and_missing_ones_are_not_found() {
    let client = Client::with_orders(Options::default()).await;
    let dataset = json!({"datasetReference": {"datasetId": "shop"}, "location": "EU"});
    client.check("POST", "datasets", dataset, "409 duplicate").await;
    let table =
        json!({"tableReference": {"tableId": "orders"}, "schema": {"fields": [field("a", "INT64", "NULLABLE")]}});
    let told = client.check("POST", "datasets/shop/tables", table.clone(), "409 duplicate").await;
    assert_eq!(told["error"]["status"], "ALREADY_EXISTS");
    assert_eq!(told["error"]["message"], "Already Exists: Table test-project:shop.orders");
    for (method, path) in [
        ("GET", "datasets/none"),
        ("GET", "datasets/none/tables/t"),
        ("GET", "datasets/shop/tables/Orders"),
        ("PATCH", "datasets/shop/tables/none"),
        ("DELETE", "datasets/shop/tables/none"),
        ("POST", "datasets/none/tables"),
        ("GET", "nonsense"),
    ] {
        client.check(method, path, if method == "GET" { Value::Null } else { table.clone() }, "404 notFound").await;
    }
    assert_eq!(client.check("GET", "datasets", Value::Null, "200").await["datasets"][0]["location"], "EU");
    assert_eq!(client.check("GET", "datasets/shop/tables", Value::Null, "200").await["totalItems"], 1);
    client.check("DELETE", "datasets/shop/tables/orders", Value::Null, "204").await;
    client.check("GET", "datasets/shop/tables/orders", Value::Null, "404 notFound").await;
}

#[tokio::test]
async fn a_table_shows_types_by_their_old_names_and_keeps_its_layout() {
    let client = Client::new(Options::default()).await;
    let body = json!({
        "tableReference": {"tableId": "a table-ü"}, "description": "d", "labels": {"of": "us"},
        "schema": {"fields": [
            field("at", "TIMESTAMP", "NULLABLE"), field("n", "INT64", "REQUIRED"),
            {"name": "s", "type": "STRUCT", "mode": "REPEATED", "fields": [field("b", "BOOL", "NULLABLE")]},
        ]},
        "timePartitioning": {"type": "DAY", "field": "at"}, "clustering": {"fields": ["n"]},
    });
    client.check("POST", "datasets/shop/tables", body, "200").await;
    let path = "datasets/shop/tables/a%20table-%C3%BC";
    let shown = client.check("GET", path, Value::Null, "200").await;
    assert_eq!(shown["schema"]["fields"][1], field("n", "INTEGER", "REQUIRED"));
    assert_eq!(shown["schema"]["fields"][2]["type"], "RECORD");
    assert_eq!(shown["schema"]["fields"][2]["fields"][0], field("b", "BOOLEAN", "NULLABLE"));
    assert_eq!((&shown["timePartitioning"]["field"], &shown["location"]), (&json!("at"), &json!("EU")));
    let patched = client.check("PATCH", path, json!({"labels": {"of": null, "to": "all"}}), "200").await;
    assert_eq!((&patched["labels"], &patched["description"]), (&json!({"to": "all"}), &json!("d")));
}

#[tokio::test]
async fn unfit_tables_are_refused() {
    let client = Client::new(Options::default()).await;
    let plain = json!([field("a", "INT64", "NULLABLE"), field("f", "FLOAT64", "NULLABLE")]);
    let one = |name: &str, kind: &str, mode: &str| json!({"schema": {"fields": [field(name, kind, mode)]}});
    for unfit in [
        one("_CHANGE_type", "STRING", "NULLABLE"),
        one("_Partition_x", "STRING", "NULLABLE"),
        one("a.b", "STRING", "NULLABLE"),
        one("", "STRING", "NULLABLE"),
        one("a", "STRUCT", "NULLABLE"),
        one("a", "VARCHAR", "NULLABLE"),
        one("a", "STRING", "OPTIONAL"),
        json!({"schema": {"fields": [field("a", "INT64", "NULLABLE"), field("A", "INT64", "NULLABLE")]}}),
        json!({"schema": {"fields": []}}),
        json!({"schema": {"fields": plain}, "timePartitioning": {"type": "DAY", "field": "a"}}),
        json!({"schema": {"fields": plain}, "timePartitioning": {"type": "DAY", "field": "b"}}),
        json!({"schema": {"fields": plain}, "clustering": {"fields": ["f"]}}),
        json!({"schema": {"fields": plain}, "clustering": {"fields": ["a", "a", "a", "a", "a"]}}),
        json!({"schema": {"fields": plain}, "somethingNew": true}),
    ] {
        let mut body = unfit;
        body["tableReference"] = json!({"tableId": "t"});
        client.check("POST", "datasets/shop/tables", body, "400 invalid").await;
    }
    client.check("GET", "datasets/shop/tables/t", Value::Null, "404 notFound").await;
}

#[tokio::test]
async fn a_schema_only_grows_at_its_end_and_keeps_its_types() {
    let client = Client::with_orders(Options::default()).await;
    let id = || field("id", "INT64", "REQUIRED");
    let item = || field("Item", "STRING", "NULLABLE");
    let mut told = Value::Null;
    for refused in [
        json!([id()]),
        json!([item(), id()]),
        json!([id(), field("new", "INT64", "NULLABLE"), item()]),
        json!([id(), item(), field("new", "INT64", "REQUIRED")]),
        json!([id(), field("Item", "STRING", "REQUIRED")]),
        json!([id(), field("Item", "STRING", "REPEATED")]),
        json!([id(), field("Item", "BYTES", "NULLABLE")]),
        json!([field("id", "STRING", "REQUIRED"), item()]),
        json!([field("id", "NUMERIC", "REQUIRED"), item()]),
    ] {
        client.server.advance(chrono::TimeDelta::seconds(10));
        told = client.patch(refused, "400 invalid").await;
    }
    assert_eq!(
        told["error"]["message"],
        "Provided Schema does not match Table. Field id has changed type from INTEGER to NUMERIC"
    );
    let shown = client.server.table("shop.orders").unwrap();
    assert_eq!(shown["schema"]["fields"], json!([field("id", "INTEGER", "REQUIRED"), item()]));
    let grown = json!([
        field("ID", "INT64", "NULLABLE"), item(), field("tags", "STRING", "REPEATED"),
        {"name": "s", "type": "STRUCT", "mode": "NULLABLE", "fields": [field("n", "INT64", "NULLABLE")]},
    ]);
    let shown = client.patch(grown, "200").await;
    assert_eq!(shown["schema"]["fields"][0], field("id", "INTEGER", "NULLABLE"));
    assert_eq!(shown["schema"]["fields"][2], field("tags", "STRING", "REPEATED"));
    let narrowed = json!([id(), item(), field("tags", "STRING", "REPEATED")]);
    client.patch(narrowed, "400 invalid").await;
}

#[tokio::test]
async fn a_sixth_change_of_metadata_within_ten_seconds_is_refused() {
    let client = Client::with_orders(Options::default()).await;
    let path = "datasets/shop/tables/orders";
    for n in 0..5 {
        client.check("PATCH", path, json!({"description": n.to_string()}), "200").await;
    }
    client.check("PATCH", path, json!({"description": "6"}), "403 rateLimitExceeded").await;
    client.server.advance(chrono::TimeDelta::seconds(10));
    client.check("PATCH", path, json!({"description": "7"}), "200").await;
}

#[tokio::test]
async fn a_change_under_an_old_etag_is_refused() {
    let client = Client::with_orders(Options::default()).await;
    let url = format!("{}/bigquery/v2/projects/test-project/datasets/shop/tables/orders", client.server.rest_url());
    let etag = client.server.table("shop.orders").unwrap()["etag"].as_str().unwrap().to_owned();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let patch = || http.patch(&url).header("if-match", &etag).json(&json!({"description": "d"})).send();
    assert_eq!(patch().await.unwrap().status(), 200);
    assert_eq!(patch().await.unwrap().status(), 412);
}

#[tokio::test]
async fn other_projects_are_denied() {
    let client = Client::new(Options::default()).await;
    let url = format!("{}/bigquery/v2/projects/other/datasets", client.server.rest_url());
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    assert_eq!(http.get(url).send().await.unwrap().status(), 403);
}
