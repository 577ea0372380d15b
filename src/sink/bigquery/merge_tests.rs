//! The steps of a merge against a server that answers by a script.

use chrono::DateTime;
use serde_json::{Value, json};

use super::*;
use crate::sink::Attempt;
use crate::sink::bigquery::fake_rest::{Fake, job, refusal, target};
use crate::sink::bigquery::schema;
use crate::sink::columns::column;

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000 + seconds, 0).unwrap()
}

fn attempt() -> MergeAttempt {
    MergeAttempt {
        attempt: Attempt { id: "m-1".into(), loaded_at: at(100) },
        batches: vec!["b-1".into()],
        purged_us: 0,
        rows: 0,
        loaded: (at(0), at(10)),
    }
}

fn log_columns() -> Vec<Column> {
    let mut out = vec![column("id", ColumnType::Int64), column("_cdc_operation", ColumnType::String)];
    out.push(column("_cdc_sequence", ColumnType::String));
    out.extend(columns::added_to_changes());
    out
}

fn resource(columns: &[Column]) -> Value {
    let fields: Vec<_> = columns.iter().map(|column| schema::field(column, &Default::default())).collect();
    json!({"type": "TABLE", "location": "EU", "schema": {"fields": fields}})
}

/// All three tables are there.
fn tables(fake: &Fake) {
    let log = log_columns();
    fake.then("GET", "/tables/orders_changes", 200, resource(&log))
        .then("GET", "/tables/orders", 200, resource(&columns::final_columns(&log, OnDelete::Remove)))
        .then("GET", "/tables/orders_tombstones", 200, resource(&columns::tombstone_columns(&log[..1])));
}

fn ran(fake: &Fake, statistics: Value) {
    fake.then("POST", "/jobs", 200, job("RUNNING", None, json!({}))).then(
        "GET",
        "",
        200,
        job("DONE", None, statistics),
    );
}

fn extent(fake: &Fake, rows: &str, deletes: &str) {
    ran(fake, json!({}));
    let row = [rows, deletes, "1", "9", "0"].map(|value| json!({"v": value}));
    fake.then("GET", "", 200, json!({"jobComplete": true, "rows": [{"f": row}]}));
}

/// Each job's id and statement.
fn jobs(fake: &Fake) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let inserted = fake.asked().into_iter().filter(|asked| asked.line.starts_with("POST"));
    inserted
        .map(|asked| {
            let query = &asked.body["configuration"]["query"]["query"];
            (text(&asked.body["jobReference"]["jobId"]), text(query))
        })
        .collect()
}

#[tokio::test]
async fn tombstones_come_before_the_final_table_and_the_view_last() {
    let fake = Fake::start().await;
    tables(&fake);
    extent(&fake, "5", "2");
    ran(&fake, json!({}));
    ran(&fake, json!({"dmlStats": {"insertedRowCount": "2", "updatedRowCount": "1", "deletedRowCount": "1"}}));
    fake.then("GET", "/tables/orders_live", 404, refusal(404, "notFound", "no"));
    ran(&fake, json!({}));
    let counts = merge(&fake.sink(), &target(), &attempt()).await.unwrap();
    assert_eq!(counts, MergeCounts { inserted: 2, updated: 1, deleted: 1 });
    let jobs = jobs(&fake);
    let ids: Vec<_> = jobs.iter().map(|(id, _)| id.as_str()).collect();
    assert!(ids[0].starts_with("freshet_m-1_bounds_"), "{ids:?}");
    assert_eq!(ids[1..3], ["freshet_m-1_tombstones_1", "freshet_m-1_final_1"]);
    assert!(ids[3].starts_with("freshet_m-1_live_"), "{ids:?}");
    assert!(jobs[1].1.starts_with("MERGE `my-project`.`shop`.`orders_tombstones`"), "{jobs:?}");
    assert!(jobs[2].1.contains("_t.`id` BETWEEN 1 AND 9"), "{jobs:?}");
    assert!(jobs[3].1.contains("`_cdc_loaded_at` >= TIMESTAMP '2023-11-12 00:00:00.000000+00:00'"), "{jobs:?}");
}

#[tokio::test]
async fn steps_that_have_nothing_to_do_cost_no_job() {
    let fake = Fake::start().await;
    let sink = fake.sink();
    tables(&fake);
    extent(&fake, "5", "0");
    ran(&fake, json!({}));
    let view = |since: DateTime<Utc>| {
        let log = log_columns();
        let merging = Merging {
            log: &sink.table(&target(), Part::Changes),
            final_table: &sink.table(&target(), Part::Final),
            tombstones: &sink.table(&target(), Part::Tombstones),
            on_delete: OnDelete::Remove,
            key: &log[..1],
            columns: &columns::final_columns(&log, OnDelete::Remove),
            merge: &attempt(),
            floor: "",
        };
        json!({"type": "VIEW", "view": {"query": merging.live(since)}})
    };
    fake.then("GET", "/tables/orders_live", 200, view(live_since(at(0))));
    merge(&sink, &target(), &attempt()).await.unwrap();
    assert_eq!(jobs(&fake).len(), 2);
    // Of the tables only the log is looked at again, and the view is known.
    fake.then("GET", "/tables/orders_changes", 200, resource(&log_columns()));
    extent(&fake, "0", "0");
    assert_eq!(merge(&sink, &target(), &attempt()).await.unwrap(), MergeCounts::default());
    assert_eq!(jobs(&fake).len(), 3);
}

#[tokio::test]
async fn a_failed_merge_looks_at_the_tables_again() {
    let fake = Fake::start().await;
    let sink = fake.sink();
    for _ in 0..2 {
        tables(&fake);
        fake.then("POST", "/jobs", 403, refusal(403, "accessDenied", "no jobs"));
        fake.then("GET", "/tables/orders_changes", 200, resource(&log_columns()));
        let error = merge(&sink, &target(), &attempt()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::User);
    }
    fake.asked();
}

#[tokio::test]
async fn a_merge_that_fails_as_the_log_was_widened_meanwhile_is_tried_again() {
    let fake = Fake::start().await;
    tables(&fake);
    extent(&fake, "5", "0");
    let refused = ("invalidQuery", "Value of type NUMERIC cannot be assigned to id, which has type INT64");
    fake.then("POST", "/jobs", 200, job("DONE", Some(refused), json!({})));
    let mut wider = log_columns();
    wider[0].column_type = ColumnType::Numeric;
    fake.then("GET", "/tables/orders_changes", 200, resource(&wider));
    let error = merge(&fake.sink(), &target(), &attempt()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Retry);
    assert!(error.report().contains("cannot be assigned to id"), "{}", error.report());
    fake.asked();
}

#[tokio::test]
async fn a_key_that_cannot_be_merged_by_is_refused() {
    let refused = |key: &[&str]| {
        let target = Target { key: key.iter().map(|name| (*name).to_owned()).collect(), ..target() };
        let log = [log_columns(), vec![column("share", ColumnType::Float64)]].concat();
        super::key(&target, &log).unwrap_err().report()
    };
    assert!(refused(&[]).contains("needs a key"));
    assert!(refused(&["nix"]).contains("`nix` is not among the columns"));
    assert!(refused(&["id", "share"]).contains("`share` is FLOAT64"));
}

#[test]
fn the_view_looks_back_two_days_from_midnight_to_midnight() {
    let text = |seconds| live_since(at(seconds)).to_rfc3339();
    assert_eq!(text(0), "2023-11-12T00:00:00+00:00");
    assert_eq!(text(6_399), "2023-11-12T00:00:00+00:00");
    assert_eq!(text(6_400), "2023-11-13T00:00:00+00:00");
}
