//! Requests as they go out, and answers as they come in.

use serde_json::json;

use super::*;
use crate::error::Kind;
use crate::sink::bigquery::fake_rest::{Fake, refusal};

fn id(table: &str) -> TableId {
    TableId { project: "my-project".into(), dataset: "shop".into(), table: table.into() }
}

#[tokio::test]
async fn names_in_paths_are_escaped() {
    let fake = Fake::start().await;
    fake.then("GET", "", 404, refusal(404, "notFound", "no"));
    assert_eq!(fake.sink().rest.table(&id("or/ders #1?")).await.unwrap(), None);
    assert_eq!(fake.asked()[0].line, "GET /datasets/shop/tables/or%2Fders%20%231%3F");
}

#[tokio::test]
async fn a_table_is_changed_only_as_it_was_read() {
    let fake = Fake::start().await;
    fake.then("PATCH", "/tables/orders", 412, refusal(412, "conditionNotMet", "changed"));
    let change = json!({"schema": {}});
    assert_eq!(fake.sink().rest.patch_table(&id("orders"), Some("\"e1\""), &change).await.unwrap(), None);
    let asked = fake.asked();
    assert_eq!((asked[0].if_match.as_deref(), &asked[0].body), (Some("\"e1\""), &change));
}

#[tokio::test]
async fn making_what_is_there_already_is_no_error() {
    let fake = Fake::start().await;
    let exists = refusal(409, "duplicate", "Already Exists");
    fake.then("POST", "/datasets", 409, exists.clone()).then("POST", "/datasets/shop/tables", 409, exists).then(
        "POST",
        "/datasets/shop/tables",
        404,
        refusal(404, "notFound", "Not found: Dataset"),
    );
    let rest = &fake.sink().rest;
    rest.create_dataset(&json!({})).await.unwrap();
    let table = || Table::new("my-project", "shop", "orders", Default::default());
    assert_eq!(rest.create_table(table()).await.unwrap(), Created::Exists);
    assert_eq!(rest.create_table(table()).await.unwrap(), Created::NoDataset);
    fake.asked();
}

#[tokio::test]
async fn both_ways_of_asking_give_bigquerys_own_words() {
    let fake = Fake::start().await;
    let denied = refusal(403, "accessDenied", "Access Denied: Dataset my-project:shop");
    fake.then("GET", "/datasets/shop", 403, denied.clone()).then("GET", "/tables/orders", 403, denied);
    let rest = &fake.sink().rest;
    for failure in [rest.dataset_location("shop").await.unwrap_err(), rest.table(&id("orders")).await.unwrap_err()] {
        let error = failure.into_error("it cannot be read");
        assert_eq!(error.kind(), Kind::User);
        assert!(error.report().contains("403 accessDenied: Access Denied: Dataset my-project:shop"), "{error:?}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_tried_again_later() {
    let fake = Fake::start().await;
    let config = BigQueryConfig { rest_endpoint: Some("http://127.0.0.1:9".into()), ..fake.config() };
    let error = fake.sink_with(config).rest.table(&id("orders")).await.unwrap_err().into_error("x");
    assert_eq!(error.kind(), Kind::Retry);
}

#[tokio::test]
async fn an_endpoint_that_is_no_url_is_refused() {
    let fake = Fake::start().await;
    for endpoint in ["bigquery", "ftp://example.com"] {
        let config = BigQueryConfig { rest_endpoint: Some(endpoint.into()), ..fake.config() };
        let error = Rest::new(&config, fake.sink().rest.0.tokens.clone()).err().unwrap();
        assert_eq!(error.kind(), Kind::User);
    }
}
