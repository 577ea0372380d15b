//! Widening against a server that answers by a script.

use serde_json::json;

use super::*;
use crate::sink::bigquery::fake_rest::{Fake, job, refusal};

const TABLE: &str = "/datasets/shop/tables/orders";

fn id() -> TableId {
    TableId { project: "my-project".into(), dataset: "shop".into(), table: "orders".into() }
}

fn resource(kind: &str) -> Value {
    json!({"etag": "e1", "creationTime": "7", "schema": {"fields": [{"name": "id", "type": kind}]},
        "clustering": {"fields": ["Id"]}})
}

fn to_numeric() -> Vec<Wider> {
    vec![Wider { name: "id".into(), schema: "NUMERIC".into() }]
}

async fn to(fake: &Fake, resource: &Value) -> Result<()> {
    widen(&fake.sink(), &id(), resource, &to_numeric(), 0).await
}

#[tokio::test]
async fn the_statement_runs_as_a_job_that_those_who_saw_the_same_table_share() {
    let fake = Fake::start().await;
    let run = |fake: &Fake| {
        fake.then("POST", "/jobs", 200, job("RUNNING", None, json!({}))).then(
            "GET",
            "_widen_1",
            200,
            job("DONE", None, json!({})),
        );
    };
    run(&fake);
    to(&fake, &resource("INTEGER")).await.unwrap();
    fake.then("POST", "/jobs", 409, refusal(409, "duplicate", "Already Exists: Job")).then(
        "GET",
        "_widen_1",
        200,
        job("DONE", None, json!({})),
    );
    to(&fake, &resource("INTEGER")).await.unwrap();
    run(&fake);
    let mut later = resource("INTEGER");
    later["etag"] = json!("e2");
    to(&fake, &later).await.unwrap();
    let asked = fake.asked();
    let job_id = |at: usize| asked[at].body["jobReference"]["jobId"].as_str().unwrap();
    assert_eq!(job_id(0), job_id(2));
    assert_ne!(job_id(0), job_id(4), "the same statement on a table that stands otherwise is another job");
    assert_eq!(
        asked[0].body["configuration"]["query"]["query"],
        "ALTER TABLE `my-project`.`shop`.`orders` ALTER COLUMN `id` SET DATA TYPE NUMERIC"
    );
    let sql = asked[0].body["configuration"]["query"]["query"].as_str().unwrap();
    assert_ne!(prefix(sql, &later, 0), prefix(sql, &later, 1), "no job is looked at twice by one call");
}

/// The statement fails with these words; then the table has a column of this type.
async fn failing(reason: &'static str, message: &'static str, then: &str) -> Result<()> {
    let fake = Fake::start().await;
    fake.then("POST", "/jobs", 200, job("DONE", Some((reason, message)), json!({})));
    fake.then("GET", TABLE, 200, resource(then));
    let widened = to(&fake, &resource("INTEGER")).await;
    fake.asked();
    widened
}

const UNASSIGNABLE: &str = "ALTER TABLE ALTER COLUMN SET DATA TYPE requires that the existing column type \
    (BIGNUMERIC) is assignable to the new type (NUMERIC)";

#[tokio::test]
async fn one_that_fails_where_another_went_further_is_no_error() {
    failing("invalidQuery", UNASSIGNABLE, "BIGNUMERIC").await.unwrap();
}

#[tokio::test]
async fn what_bigquery_does_not_change_is_told_with_its_words_and_ways_out() {
    let error = failing("invalidQuery", "id is a clustering column", "INTEGER").await.unwrap_err();
    assert_eq!(error.kind(), Kind::User);
    let report = error.report();
    assert!(report.contains("id is a clustering column"), "{report}");
    assert!(report.contains("clustered by `id`") && report.contains("SET DATA TYPE NUMERIC"), "{report}");
    let denied = failing("accessDenied", "no", "INTEGER").await.unwrap_err();
    assert!(denied.hint_text().unwrap().contains("roles/bigquery.jobUser"), "{denied:?}");
}

#[tokio::test]
async fn the_column_of_integer_partitions_is_named_before_anything_is_asked() {
    let fake = Fake::start().await;
    let mut partitioned = resource("INTEGER");
    partitioned["rangePartitioning"] = json!({"field": "ID", "range": {"start": "0", "end": "9", "interval": "1"}});
    let error = to(&fake, &partitioned).await.unwrap_err();
    assert_eq!(error.kind(), Kind::User);
    assert!(error.message().contains("partitioned by `ID`"), "{error}");
    assert!(fake.asked().is_empty());
}
