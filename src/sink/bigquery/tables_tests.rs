//! Tables against a server that answers by a script.

use serde_json::json;

use super::*;
use crate::change::types::ColumnType;
use crate::config::OnDelete;
use crate::error::Kind;
use crate::sink::bigquery::fake_rest::{self as fake, Fake, refusal, target};
use crate::sink::columns::column;

fn wanted() -> Vec<Column> {
    let mut out = vec![column("id", ColumnType::Int64), column("note", ColumnType::String)];
    out.push(column("_cdc_operation", ColumnType::String));
    out.push(column("_cdc_sequence", ColumnType::String));
    out.extend(columns::added_to_changes());
    out
}

/// The log's resource with these columns.
fn resource(columns: &[Column]) -> Value {
    let fields: Vec<_> = columns.iter().map(|column| schema::field(column, &Default::default())).collect();
    json!({"type": "TABLE", "location": "eu", "etag": "e1", "schema": {"fields": fields}})
}

fn missing() -> Value {
    refusal(404, "notFound", "Not found")
}

const LOG: &str = "/datasets/shop/tables/orders_changes";

#[tokio::test]
async fn a_missing_dataset_and_table_are_made_as_configured() {
    let fake = Fake::start().await;
    fake.then("GET", LOG, 404, missing())
        .then("GET", "/datasets/shop", 404, missing())
        .then("POST", "/datasets", 200, json!({}))
        .then(
            "POST",
            "/datasets/shop/tables",
            200,
            json!({
                "tableReference": {"projectId": "p", "datasetId": "d", "tableId": "t"}, "schema": {},
            }),
        )
        .then("GET", LOG, 200, resource(&wanted()));
    let config = crate::config::BigQueryConfig { kms_key: Some("projects/p/key".into()), ..fake.config() };
    let mut target = target();
    target.descriptions.insert("NOTE".into(), "what was said".into());
    let columns = ensure_log(&fake.sink_with(config), &target, &wanted()).await.unwrap();
    assert_eq!(columns, wanted());
    let asked = fake.asked();
    assert_eq!(
        asked[2].body,
        json!({
            "datasetReference": {"projectId": "my-project", "datasetId": "shop"},
            "location": "EU",
            "labels": {"team": "data"},
            "description": "Tables of db, written by freshet",
            "defaultEncryptionConfiguration": {"kmsKeyName": "projects/p/key"},
        })
    );
    let table = &asked[3].body;
    assert_eq!(table["tableReference"]["tableId"], "orders_changes");
    assert_eq!(table["timePartitioning"], json!({"type": "DAY", "field": "_cdc_loaded_at"}));
    assert_eq!(table["clustering"], json!({"fields": ["_cdc_batch", "id"]}));
    assert_eq!(table["encryptionConfiguration"], json!({"kmsKeyName": "projects/p/key"}));
    assert_eq!(table["labels"], json!({"team": "data"}));
    assert_eq!(
        table["schema"]["fields"][1],
        json!({"name": "note", "type": "STRING", "mode": "NULLABLE", "description": "what was said"})
    );
}

#[tokio::test]
async fn nothing_is_asked_again_until_something_new_is_wanted() {
    let fake = Fake::start().await;
    fake.then("GET", LOG, 200, resource(&wanted()));
    let sink = fake.sink();
    for _ in 0..3 {
        ensure_log(&sink, &target(), &wanted()).await.unwrap();
    }
    assert_eq!(fake.asked().len(), 1);
    let more: Vec<_> = wanted().into_iter().chain([column("extra", ColumnType::Date)]).collect();
    fake.then("GET", LOG, 200, resource(&more));
    assert_eq!(ensure_log(&sink, &target(), &more).await.unwrap(), more);
    forget(&sink, &target());
    fake.then("GET", LOG, 200, resource(&more));
    ensure_log(&sink, &target(), &wanted()).await.unwrap();
    fake.asked();
}

#[tokio::test]
async fn new_columns_are_added_if_the_table_stands_as_it_was_read() {
    let fake = Fake::start().await;
    let mut more = wanted();
    more.push(column("extra", ColumnType::Date));
    fake.then("GET", LOG, 200, resource(&wanted()))
        .then("PATCH", LOG, 412, refusal(412, "conditionNotMet", "changed"))
        .then("GET", LOG, 200, resource(&wanted()))
        .then("PATCH", LOG, 200, resource(&more));
    assert_eq!(ensure_log(&fake.sink(), &target(), &more).await.unwrap(), more);
    let asked = fake.asked();
    assert_eq!(asked[3].if_match.as_deref(), Some("e1"));
    let fields = asked[3].body["schema"]["fields"].as_array().unwrap();
    assert_eq!(fields.last().unwrap(), &json!({"name": "extra", "type": "DATE", "mode": "NULLABLE"}));
}

#[tokio::test]
async fn numbers_are_widened_by_sql_before_new_columns_are_added() {
    let fake = Fake::start().await;
    let mut wider = wanted();
    wider[0].column_type = ColumnType::Numeric;
    let more: Vec<_> = wider.iter().cloned().chain([column("extra", ColumnType::Date)]).collect();
    let job = |state| fake::job(state, None, json!({}));
    fake.then("GET", LOG, 200, resource(&wanted()))
        .then("POST", "/jobs", 200, job("RUNNING"))
        .then("GET", "_widen_1", 200, job("DONE"))
        .then("GET", LOG, 200, resource(&wider))
        .then("PATCH", LOG, 200, resource(&more));
    assert_eq!(ensure_log(&fake.sink(), &target(), &more).await.unwrap(), more);
    let asked = fake.asked();
    assert_eq!(
        asked[1].body["configuration"]["query"]["query"],
        "ALTER TABLE `my-project`.`shop`.`orders_changes` ALTER COLUMN `id` SET DATA TYPE NUMERIC"
    );
    assert_eq!(asked[4].body["schema"]["fields"][0]["type"], "NUMERIC", "as BigQuery has it by now");
}

#[tokio::test]
async fn a_type_that_another_daemon_has_widened_further_is_taken() {
    let fake = Fake::start().await;
    let (mut wider, mut widest) = (wanted(), wanted());
    wider[0].column_type = ColumnType::Numeric;
    widest[0].column_type = ColumnType::BigNumeric;
    fake.then("GET", LOG, 200, resource(&wanted()))
        .then("POST", "/jobs", 200, fake::job("DONE", Some(("invalidQuery", "not assignable")), json!({})))
        .then("GET", LOG, 200, resource(&widest))
        .then("GET", LOG, 200, resource(&widest));
    assert_eq!(ensure_log(&fake.sink(), &target(), &wider).await.unwrap(), widest);
    fake.asked();
}

#[tokio::test]
async fn too_many_changes_of_a_table_are_tried_again_later() {
    let fake = Fake::start().await;
    fake.then("GET", LOG, 200, resource(&wanted()[1..])).then(
        "PATCH",
        LOG,
        403,
        refusal(403, "rateLimitExceeded", "Exceeded rate limits: too many table update operations for this table"),
    );
    let error = ensure_log(&fake.sink(), &target(), &wanted()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Retry);
    fake.asked();
}

#[tokio::test]
async fn a_table_that_another_daemon_makes_meanwhile_is_taken() {
    let fake = Fake::start().await;
    fake.then("GET", LOG, 404, missing())
        .then("GET", "/datasets/shop", 404, missing())
        .then("POST", "/datasets", 409, refusal(409, "duplicate", "Already Exists"))
        .then("POST", "/datasets/shop/tables", 409, refusal(409, "duplicate", "Already Exists"))
        .then("GET", LOG, 200, resource(&wanted()));
    ensure_log(&fake.sink(), &target(), &wanted()).await.unwrap();
    fake.asked();
}

#[tokio::test]
async fn a_table_that_cannot_take_the_rows_is_named_with_column_and_types() {
    let fake = Fake::start().await;
    let mut other = wanted();
    other[1].column_type = ColumnType::Int64;
    fake.then("GET", LOG, 200, resource(&other));
    let error = ensure_log(&fake.sink(), &target(), &wanted()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::User);
    assert_eq!(error.message(), "column `note` is INT64 at the target, but these rows have STRING");
    fake.then("GET", LOG, 200, json!({"type": "VIEW"}));
    let error = ensure_log(&fake.sink(), &target(), &wanted()).await.unwrap_err();
    assert!(error.message().contains("is a VIEW"), "{error}");
}

#[tokio::test]
async fn another_region_is_told_with_both_names() {
    let fake = Fake::start().await;
    let mut elsewhere = resource(&wanted());
    elsewhere["location"] = json!("asia-northeast3");
    fake.then("GET", LOG, 200, elsewhere);
    let error = ensure_log(&fake.sink(), &target(), &wanted()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::User);
    assert!(error.message().contains("asia-northeast3") && error.message().contains("EU"), "{error}");
    let dataset = json!({"datasetReference": {"projectId": "p", "datasetId": "shop"}, "location": "US"});
    fake.then("GET", LOG, 404, missing()).then("GET", "/datasets/shop", 200, dataset);
    let error = ensure_log(&fake.sink(), &target(), &wanted()).await.unwrap_err();
    assert!(error.message().contains("is in US, but `location` says EU"), "{error}");
    fake.asked();
}

#[tokio::test]
async fn under_create_never_what_is_missing_is_told_with_its_ddl() {
    let fake = Fake::start().await;
    let config = crate::config::BigQueryConfig { create: Create::Never, ..fake.config() };
    let sink = fake.sink_with(config);
    fake.then("GET", LOG, 404, missing()).then("GET", "/datasets/shop", 404, missing());
    let error = ensure_log(&sink, &target(), &wanted()).await.unwrap_err();
    assert_eq!((error.kind(), error.message()), (Kind::User, "the dataset my-project.shop is missing"));
    let hint = error.hint_text().unwrap();
    assert!(hint.starts_with("CREATE SCHEMA `my-project`.`shop` OPTIONS (location = 'EU'); CREATE TABLE"), "{hint}");
    let fewer = wanted()[1..].to_vec();
    fake.then("GET", LOG, 200, resource(&fewer));
    let error = ensure_log(&sink, &target(), &wanted()).await.unwrap_err();
    assert!(error.message().contains("cannot hold `id`"), "{error}");
    assert!(error.hint_text().unwrap().contains("ADD COLUMN `id` INT64"), "{error:?}");
    let point = |fields: &[&str]| {
        let fields = fields.iter().map(|name| ((*name).to_owned(), ColumnType::Int64));
        column("point", ColumnType::Struct(fields.collect()))
    };
    let mut other = vec![column("n", ColumnType::Numeric), column("m", ColumnType::BigNumeric)];
    fake.then("GET", LOG, 200, resource(&[column("n", ColumnType::Int64), column("M", ColumnType::Int64)]));
    let error = ensure_log(&sink, &target(), &other).await.unwrap_err();
    let altered = "ALTER COLUMN `n` SET DATA TYPE NUMERIC, ALTER COLUMN `M` SET DATA TYPE BIGNUMERIC; or write";
    assert!(error.hint_text().unwrap().contains(altered), "{error:?}");
    other = vec![point(&["x", "y"])];
    fake.then("GET", LOG, 200, resource(&[point(&["x"])]));
    let error = ensure_log(&sink, &target(), &other).await.unwrap_err();
    assert!(error.hint_text().unwrap().contains("Edit schema"), "{error:?}");
    fake.then("GET", LOG, 200, resource(&wanted()));
    ensure_log(&sink, &target(), &wanted()).await.unwrap();
    fake.asked();
}

#[tokio::test]
async fn the_final_tables_key_is_declared_and_nothing_rests_on_it() {
    let fake = Fake::start().await;
    let columns = columns::final_columns(&wanted(), OnDelete::Remove);
    let dataset = json!({"datasetReference": {"projectId": "p", "datasetId": "shop"}, "location": "EU"});
    let made = json!({"tableReference": {"projectId": "p", "datasetId": "d", "tableId": "t"}, "schema": {}});
    fake.then("GET", "/tables/orders", 404, missing())
        .then("GET", "/datasets/shop", 200, dataset)
        .then("POST", "/tables", 200, made)
        .then("PATCH", "/tables/orders", 400, refusal(400, "invalid", "no constraints here"))
        .then("GET", "/tables/orders", 200, resource(&columns));
    ensure(&fake.sink(), &target(), Part::Final, &columns).await.unwrap();
    assert_eq!(fake.asked()[3].body, json!({"tableConstraints": {"primaryKey": {"columns": ["id"]}}}));
}

#[test]
fn what_is_known_is_bounded() {
    let known = Known::default();
    let id = |n: usize| TableId { project: "p".into(), dataset: "d".into(), table: n.to_string() };
    for n in 0..=KNOWN_MAX {
        known.saw_columns(&id(n), &wanted());
    }
    assert!(known.columns(&id(KNOWN_MAX)).is_some());
    assert!(known.columns.lock().unwrap().len() <= KNOWN_MAX);
}

#[tokio::test]
async fn tables_that_are_not_there_are_left_out_of_the_counts() {
    let fake = Fake::start().await;
    let id = "freshet_count_00000000-0000-0000-0000-000000000000";
    let job = |state: &str| json!({"status": {"state": state}});
    fake.then("GET", LOG, 200, resource(&wanted()))
        .then("POST", "/jobs", 200, job("RUNNING"))
        .then("GET", &format!("/jobs/{id}"), 200, job("DONE"))
        .then("GET", &format!("/queries/{id}"), 200, json!({"jobComplete": true, "rows": [{"f": [{"v": "3"}]}]}))
        .then("GET", "/tables/orders", 404, missing())
        .then("GET", "/tables/orders_tombstones", 404, missing());
    assert_eq!(row_counts(&fake.sink(), &target()).await.unwrap(), [("orders_changes".to_owned(), 3)]);
    fake.asked();
}
