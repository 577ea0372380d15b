//! Rules of MERGE.

use serde_json::{Value, json};

use super::client::{Client, field, orders};
use crate::strict_bigquery::Options;

/// Merges rows of `changes` into `orders`, with this source and these clauses.
fn merge(source: &str, clauses: &str) -> String {
    format!(
        "MERGE `test-project`.`shop`.`orders` AS t USING ({source}) AS s ON t.`id` = s.`id` AND t.`id` BETWEEN 0 AND \
         99 {clauses}"
    )
}

const CHANGES: &str = "SELECT `id`, `Item` FROM `test-project`.`shop`.`changes`";
const CLAUSES: &str = "WHEN MATCHED AND s.`Item` = 'gone' THEN DELETE \
     WHEN MATCHED AND s.`Item` > t.`Item` THEN UPDATE SET `item` = s.`Item` \
     WHEN NOT MATCHED THEN INSERT (`id`, `Item`) VALUES (s.`id`, s.`Item`)";

/// A server whose `orders` has 1 to 3 and whose `changes` has these rows.
async fn client(changes: &[(i64, &str)]) -> Client {
    let mut client = Client::with_orders(Options::default()).await;
    client.make("changes", json!([field("id", "INT64", "NULLABLE"), field("Item", "STRING", "NULLABLE")])).await;
    client.load("orders", &orders(&[(1, "a"), (2, "b"), (3, "c")])).await;
    client.load("changes", &orders(changes)).await;
    client
}

fn told(job: &Value) -> &str {
    job["status"]["errorResult"]["message"].as_str().unwrap_or("done")
}

#[tokio::test]
async fn a_merge_inserts_updates_deletes_and_counts() {
    let client = client(&[(1, "z"), (2, "gone"), (3, "a"), (4, "d"), (5, "e")]).await;
    let job = client.job("m", &merge(CHANGES, CLAUSES)).await;
    assert_eq!(told(&job), "done");
    let statistics = &job["statistics"]["query"];
    let counts = json!({"insertedRowCount": "2", "updatedRowCount": "1", "deletedRowCount": "1"});
    assert_eq!((&statistics["dmlStats"], &statistics["numDmlAffectedRows"]), (&counts, &json!("4")));
    let rows = client.query("SELECT `id`, `Item` FROM `test-project.shop.orders` ORDER BY `id`").await["rows"].clone();
    let rows: Vec<_> = rows.as_array().unwrap().iter().map(|row| row["f"][1]["v"].as_str().unwrap()).collect();
    assert_eq!(rows, ["z", "c", "d", "e"]);
}

#[tokio::test]
async fn a_merge_fails_whole_where_a_rule_is_broken() {
    let client = client(&[(1, "z"), (1, "y"), (7, "d")]).await;
    let null = "SELECT IF(`id` = 7, NULL, `id`) AS `id`, `Item` FROM `test-project`.`shop`.`changes` WHERE `id` = 7";
    let float = "SELECT `id`, `Item`, 1.5 AS `f` FROM `test-project`.`shop`.`changes` WHERE `id` = 7";
    let one = "SELECT `id`, `Item` FROM `test-project`.`shop`.`changes` WHERE `id` = 7";
    for (source, clauses, expected) in [
        (CHANGES, CLAUSES, "UPDATE/MERGE must match at most one source row for each target row"),
        (null, CLAUSES, "Required field id cannot be null"),
        (
            float,
            "WHEN NOT MATCHED THEN INSERT (`id`) VALUES (s.`f`)",
            "Value of type FLOAT cannot be assigned to id, which has type INTEGER",
        ),
        (one, "WHEN NOT MATCHED THEN INSERT (`none`) VALUES (1)", "Column none is not present in table"),
        (one, "WHEN NOT MATCHED THEN INSERT (`id`) VALUES (1, 2)", "Inserted row has wrong column count"),
    ] {
        let id = format!("j{}", client.server.requests().len());
        let job = client.job(&id, &merge(source, clauses)).await;
        assert!(told(&job).contains(expected), "{expected}: {job}");
        assert_eq!(client.server.row_count("shop.orders"), 3, "{expected}");
    }
    let only_new = merge(CHANGES, "WHEN NOT MATCHED THEN INSERT (`id`, `Item`) VALUES (s.`id`, s.`Item`)");
    assert_eq!(
        told(&client.job("inserts", &only_new).await),
        "done",
        "matches do no harm where nothing is done to them"
    );
}

#[tokio::test]
async fn no_more_statements_wait_for_a_table_than_two_at_work_and_twenty_queued() {
    let client = client(&[(4, "d")]).await;
    client.server.change(|options| options.job_polls = 100);
    for n in 0..22 {
        let job = client.job(&format!("m{n}"), &merge(CHANGES, CLAUSES)).await;
        assert_eq!(job["status"]["state"], if n < 2 { "RUNNING" } else { "PENDING" }, "{n}");
    }
    let job = client.job("one-more", &merge(CHANGES, CLAUSES)).await;
    assert_eq!(job["status"]["errorResult"]["reason"], "resourcesExceeded");
    assert_eq!(client.server.row_count("shop.orders"), 3);
    client.server.finish_jobs();
    assert_eq!(client.server.row_count("shop.orders"), 4);
}

#[tokio::test]
async fn a_twenty_sixth_statement_within_ten_seconds_is_refused() {
    let client = client(&[(4, "d")]).await;
    for n in 0..25 {
        assert_eq!(told(&client.job(&format!("m{n}"), &merge(CHANGES, CLAUSES)).await), "done");
    }
    let job = client.job("one-more", &merge(CHANGES, CLAUSES)).await;
    assert_eq!(job["status"]["errorResult"]["reason"], "rateLimitExceeded");
    client.server.advance(chrono::TimeDelta::seconds(10));
    assert_eq!(told(&client.job("later", &merge(CHANGES, CLAUSES)).await), "done");
}
