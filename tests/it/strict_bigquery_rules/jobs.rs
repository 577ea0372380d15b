//! Rules of query jobs.

use serde_json::{Value, json};

use super::client::{Client, orders};
use crate::strict_bigquery::Options;

const ALL: &str = "SELECT `id`, `Item` FROM `test-project`.`shop`.`orders` ORDER BY `id`";

#[tokio::test]
async fn a_job_id_is_taken_once_even_by_a_job_that_failed() {
    let client = Client::with_orders(Options::default()).await;
    client.job("good", ALL).await;
    let bad = client.job("bad", "SELECT `none` FROM `test-project`.`shop`.`orders`").await;
    assert_eq!(bad["status"]["errorResult"]["reason"], "invalidQuery");
    for id in ["good", "bad"] {
        let body = json!({
            "jobReference": {"jobId": id, "location": "EU"},
            "configuration": {"query": {"query": ALL, "useLegacySql": false}},
        });
        client.check("POST", "jobs", body, "409 duplicate").await;
    }
    client.check("GET", "queries/bad?location=EU", Value::Null, "400 invalidQuery").await;
    client.check("GET", "jobs/none?location=EU", Value::Null, "404 notFound").await;
}

#[tokio::test]
async fn unfit_jobs_are_refused() {
    let client = Client::with_orders(Options::default()).await;
    for configuration in [
        json!({"query": {"query": ALL}}),
        json!({"query": {"query": ALL, "useLegacySql": true}}),
        json!({"query": {"query": ALL, "useLegacySql": false, "destinationTable": {}}}),
        json!({"load": {"sourceUris": []}}),
        json!({"load": {"sourceUris": ["gs://b/o"], "destinationTable": {"datasetId": "shop"}}}),
        json!({"load": {"sourceUris": ["gs://b/o"]}, "query": {"query": ALL, "useLegacySql": false}}),
        json!({"copy": {}}),
    ] {
        client.check("POST", "jobs", json!({"configuration": configuration}), "400 invalid").await;
    }
    let body =
        json!({"jobReference": {"jobId": "a b"}, "configuration": {"query": {"query": ALL, "useLegacySql": false}}});
    client.check("POST", "jobs", body, "400 invalid").await;
}

#[tokio::test]
async fn a_table_takes_1500_loads_a_day_those_that_fail_included() {
    let client = Client::with_orders(Options::default()).await;
    client.server.stop_time();
    let load = |id: String, table: &'static str| {
        let destination = json!({"projectId": "test-project", "datasetId": "shop", "tableId": table});
        let load = json!({"sourceUris": ["gs://bucket/file.parquet"], "destinationTable": destination});
        let body = json!({"jobReference": {"jobId": id}, "configuration": {"load": load}});
        let client = &client;
        async move {
            let job = client.check("POST", "jobs", body, "200").await;
            job["status"]["errorResult"]["reason"].as_str().unwrap().to_owned()
        }
    };
    for n in 0..1_500 {
        assert_eq!(load(format!("l{n}"), "orders").await, "notFound");
    }
    assert_eq!(load("more".to_owned(), "orders").await, "quotaExceeded");
    assert_eq!(load("other".to_owned(), "others").await, "notFound");
    client.server.advance(chrono::TimeDelta::days(1));
    assert_eq!(load("tomorrow".to_owned(), "orders").await, "notFound");
}

#[tokio::test]
async fn statements_that_freshet_never_says_are_refused() {
    let client = Client::with_orders(Options::default()).await;
    for sql in [
        "DROP TABLE `test-project`.`shop`.`orders`",
        "DELETE FROM `test-project`.`shop`.`orders`",
        "UPDATE `test-project`.`shop`.`orders` SET `id` = 1 WHERE TRUE",
        "SELECT 1; SELECT 2",
        "SELECT `id` FROM `shop`.`orders`",
        "SELECT pragma_version()",
        "SELECT `id`::text FROM `test-project`.`shop`.`orders`",
        "SELECT \"id\" + `id` FROM `test-project`.`shop`.`orders`",
        "SELECT `id` BETWEEN '1' AND '2' FROM `test-project`.`shop`.`orders`",
        "SELECT * EXCLUDE (`id`) FROM `test-project`.`shop`.`orders`",
        "SELECT 'open",
        "SELECT nobody FROM `test-project`.`shop`.`orders`",
    ] {
        let body = json!({"query": sql, "useLegacySql": false, "location": "EU"});
        client.check("POST", "queries", body, "400 invalidQuery").await;
    }
    let body = json!({"query": "SELECT * FROM `test-project`.`shop`.`none`", "useLegacySql": false});
    client.check("POST", "queries", body, "404 notFound").await;
}

#[tokio::test]
async fn a_job_sees_tables_of_its_location_only_and_is_seen_from_there_only() {
    let client = Client::with_orders(Options::default()).await;
    client.server.create_dataset("seoul", "asia-northeast3");
    let body = |location: &str| json!({"query": ALL, "useLegacySql": false, "location": location});
    client.check("POST", "queries", body("US"), "404 notFound").await;
    client.check("POST", "queries", body("eu"), "200").await;
    let far = json!({
        "jobReference": {"jobId": "far", "location": "asia-northeast3"},
        "configuration": {"query": {"query": "SELECT 1 AS `n`", "useLegacySql": false}},
    });
    client.check("POST", "jobs", far, "200").await;
    client.check("GET", "jobs/far", Value::Null, "404 notFound").await;
    client.check("GET", "jobs/far?location=EU", Value::Null, "404 notFound").await;
    client.check("GET", "jobs/far?location=asia-northeast3", Value::Null, "200").await;
}

#[tokio::test]
async fn a_job_runs_for_as_many_polls_as_was_asked() {
    let mut client = Client::with_orders(Options { job_polls: 3, ..Options::default() }).await;
    client.load("orders", &orders(&[(1, "a")])).await;
    let state = |job: &Value| job["status"]["state"].as_str().unwrap().to_owned();
    assert_eq!(state(&client.job("j", ALL).await), "RUNNING");
    let early = client.check("GET", "queries/j?location=EU", Value::Null, "200").await;
    assert_eq!((&early["jobComplete"], &early["rows"]), (&json!(false), &Value::Null));
    assert_eq!(state(&client.check("GET", "jobs/j?location=EU", Value::Null, "200").await), "RUNNING");
    let job = client.check("GET", "jobs/j?location=EU", Value::Null, "200").await;
    assert_eq!(state(&job), "DONE");
    assert_eq!(job["statistics"]["query"]["statementType"], "SELECT");
    let rows = client.check("GET", "queries/j?location=EU", Value::Null, "200").await;
    assert_eq!(rows["rows"], json!([{"f": [{"v": "1"}, {"v": "a"}]}]));
}

#[tokio::test]
async fn results_come_in_pages_for_a_day() {
    let mut client = Client::with_orders(Options::default()).await;
    client.load("orders", &orders(&[(1, "a"), (2, "b"), (3, "c")])).await;
    client.job("j", ALL).await;
    let page = client.check("GET", "queries/j?location=EU&maxResults=2", Value::Null, "200").await;
    assert_eq!((page["rows"].as_array().unwrap().len(), &page["totalRows"]), (2, &json!("3")));
    let path = format!("queries/j?location=EU&pageToken={}", page["pageToken"].as_str().unwrap());
    let page = client.check("GET", &path, Value::Null, "200").await;
    assert_eq!(page["rows"], json!([{"f": [{"v": "3"}, {"v": "c"}]}]));
    assert_eq!(page["pageToken"], Value::Null);
    client.server.advance(chrono::TimeDelta::hours(24));
    client.check("GET", &path, Value::Null, "404 notFound").await;
    client.check("GET", "jobs/j?location=EU", Value::Null, "200").await;
}

#[tokio::test]
async fn a_view_shows_its_tables_as_they_are_now() {
    let mut client = Client::with_orders(Options::default()).await;
    let view = "CREATE OR REPLACE VIEW `test-project`.`shop`.`live` OPTIONS (description = 'a\\nb') AS \
                WITH c AS (SELECT `id` FROM `test-project`.`shop`.`orders`) SELECT c.* FROM c WHERE `id` > 1";
    let made = client.job("v", view).await;
    assert_eq!(made["statistics"]["query"]["statementType"], "CREATE_VIEW");
    client.load("orders", &orders(&[(1, "a"), (2, "b")])).await;
    assert_eq!(client.server.row_count("shop.live"), 1);
    let shown = client.server.table("shop.live").unwrap();
    assert_eq!((&shown["type"], &shown["description"]), (&json!("VIEW"), &json!("a\nb")));
    assert!(shown["view"]["query"].as_str().unwrap().starts_with("WITH c AS (SELECT"), "{shown}");
    assert_eq!(shown["schema"]["fields"][0]["name"], "id");
    let over = client.job("w", &view.replace("`live`", "`orders`")).await;
    assert_eq!(over["status"]["errorResult"]["reason"], "invalid");
}
