//! Jobs against a server that answers by a script.

use serde_json::json;

use super::*;
use crate::error::Kind;
use crate::sink::bigquery::fake_rest::{Fake, job as resource, refusal, target};

fn step() -> Step<'static> {
    Step { prefix: prefix("m-1", "final"), sql: "MERGE …", message: "`orders` cannot be merged".into() }
}

fn taken() -> Value {
    refusal(409, "duplicate", "Already Exists: Job")
}

#[tokio::test]
async fn a_job_is_inserted_under_its_id_and_waited_for() {
    let fake = Fake::start().await;
    let statistics = json!({"dmlStats": {"insertedRowCount": "3", "updatedRowCount": "2", "deletedRowCount": "1"}});
    fake.then("POST", "/jobs", 200, resource("PENDING", None, json!({})))
        .then("GET", "/jobs/freshet_m-1_final_1", 200, resource("RUNNING", None, json!({})))
        .then("GET", "/jobs/freshet_m-1_final_1", 200, resource("DONE", None, statistics));
    let done = run(&fake.sink(), &step()).await.unwrap();
    assert_eq!(done.counts(), MergeCounts { inserted: 3, updated: 2, deleted: 1 });
    let asked = fake.asked();
    let inserted = &asked[0].body;
    assert_eq!(
        inserted["jobReference"],
        json!({"jobId": "freshet_m-1_final_1", "location": "EU", "projectId": "my-project"})
    );
    assert_eq!(inserted["configuration"]["query"]["query"], "MERGE …");
    assert_eq!(inserted["configuration"]["query"]["useLegacySql"], false);
    assert_eq!(inserted["configuration"]["labels"], json!({"team": "data"}));
    assert!(asked[1].line.ends_with("?location=EU"), "{asked:?}");
}

#[tokio::test]
async fn the_result_of_a_job_that_another_ran_is_taken() {
    let fake = Fake::start().await;
    fake.then("POST", "/jobs", 409, taken()).then(
        "GET",
        "/jobs/freshet_m-1_final_1",
        200,
        resource("DONE", None, json!({"numDmlAffectedRows": "4"})),
    );
    let done = run(&fake.sink(), &step()).await.unwrap();
    assert_eq!(done.counts(), MergeCounts { inserted: 0, updated: 4, deleted: 0 });
    assert_eq!(fake.asked().len(), 2);
}

#[tokio::test]
async fn the_next_try_is_started_only_after_the_last_was_seen_to_fail() {
    let fake = Fake::start().await;
    let aborted = Some(("invalidQuery", "Could not serialize access to table due to concurrent update"));
    fake.then("POST", "/jobs", 409, taken())
        .then("GET", "/jobs/freshet_m-1_final_1", 200, resource("RUNNING", None, json!({})))
        .then("GET", "/jobs/freshet_m-1_final_1", 200, resource("DONE", aborted, json!({})))
        .then("POST", "/jobs", 200, resource("DONE", aborted, json!({})))
        .then("POST", "/jobs", 200, resource("DONE", None, json!({})))
        .then("GET", "/jobs/freshet_m-1_final_3", 200, resource("DONE", None, json!({})));
    run(&fake.sink(), &step()).await.unwrap();
    let ids: Vec<_> = fake.asked().into_iter().map(|asked| asked.body["jobReference"]["jobId"].clone()).collect();
    assert_eq!((&ids[3], &ids[4]), (&json!("freshet_m-1_final_2"), &json!("freshet_m-1_final_3")));
}

#[tokio::test]
async fn a_call_gives_up_after_a_few_tries_of_its_own() {
    let fake = Fake::start().await;
    for _ in 0..3 {
        fake.then("POST", "/jobs", 200, resource("DONE", Some(("backendError", "try later")), json!({})));
    }
    let error = run(&fake.sink(), &step()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Retry);
    assert!(error.report().contains("try later"), "{}", error.report());
    assert_eq!(fake.asked().len(), 3);
}

#[tokio::test]
async fn what_must_be_mended_ends_the_call_and_is_tried_again_by_the_next() {
    let fake = Fake::start().await;
    let denied = Some(("accessDenied", "Access Denied"));
    fake.then("POST", "/jobs", 200, resource("DONE", denied, json!({})));
    let error = run(&fake.sink(), &step()).await.unwrap_err();
    assert_eq!((error.kind(), error.message()), (Kind::User, "`orders` cannot be merged"));
    fake.then("POST", "/jobs", 409, taken())
        .then("GET", "/jobs/freshet_m-1_final_1", 200, resource("DONE", denied, json!({})))
        .then("POST", "/jobs", 200, resource("RUNNING", None, json!({})))
        .then("GET", "/jobs/freshet_m-1_final_2", 200, resource("DONE", None, json!({})));
    run(&fake.sink(), &step()).await.unwrap();
    fake.asked();
}

#[tokio::test]
async fn rows_that_are_gone_are_read_again_by_the_next_try() {
    let fake = Fake::start().await;
    fake.then("POST", "/jobs", 409, taken())
        .then("GET", "/jobs/freshet_m-1_final_1", 200, resource("DONE", None, json!({})))
        .then("GET", "/queries/freshet_m-1_final_1", 404, refusal(404, "notFound", "expired"))
        .then("POST", "/jobs", 200, resource("DONE", None, json!({})))
        .then("GET", "/jobs/freshet_m-1_final_2", 200, resource("DONE", None, json!({})))
        .then(
            "GET",
            "/queries/freshet_m-1_final_2",
            200,
            json!({"jobComplete": true, "rows": [{"f": [{"v": "9223372036854775807"}, {"v": null}]}]}),
        );
    let rows = rows(&fake.sink(), &step()).await.unwrap();
    assert_eq!(rows, [[Some("9223372036854775807".to_owned()), None]]);
    fake.asked();
}

#[tokio::test]
async fn rows_of_an_attempt_are_counted_by_a_job_of_its_own() {
    let fake = Fake::start().await;
    let id = "freshet_count_00000000-0000-0000-0000-000000000000";
    fake.then("POST", "/jobs", 200, resource("RUNNING", None, json!({})))
        .then("GET", &format!("/jobs/{id}"), 200, resource("DONE", None, json!({})))
        .then("GET", &format!("/queries/{id}"), 200, json!({"jobComplete": true, "rows": [{"f": [{"v": "12"}]}]}));
    let attempt = Attempt { id: "b-1".into(), loaded_at: chrono::DateTime::UNIX_EPOCH };
    assert_eq!(rows_of_batch(&fake.sink(), &target(), &attempt).await.unwrap(), 12);
    let query = fake.asked()[0].body["configuration"]["query"]["query"].clone();
    assert_eq!(query, sql::count_attempt(&fake.sink().table(&target(), Part::Changes), &attempt));
}

#[tokio::test]
async fn a_log_that_is_gone_is_not_a_log_without_rows() {
    let fake = Fake::start().await;
    fake.then("POST", "/jobs", 200, resource("DONE", Some(("notFound", "Not found: Table")), json!({})));
    let attempt = Attempt { id: "b-1".into(), loaded_at: chrono::DateTime::UNIX_EPOCH };
    let error = rows_of_batch(&fake.sink(), &target(), &attempt).await.unwrap_err();
    assert_eq!(error.kind(), Kind::User);
    assert!(error.message().contains("orders_changes"), "{error}");
}

#[test]
fn no_two_attempts_share_an_id() {
    assert_eq!(prefix("01-ab", "final"), "freshet_01-ab_final");
    assert_eq!(prefix("a b", "final"), "freshet_a_20_b_final");
    assert_ne!(prefix("a_20_b", "final"), prefix("a b", "final"));
}
