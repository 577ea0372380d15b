//! What a transform may be: tables of SQL that is taken and of SQL that is refused, with the place.

use super::{plan, schema, transform};
use crate::catalog::samples::session;
use crate::config::Mode;
use crate::error::Kind;

/// SQL, part of the message, line and column.
type Refused<'a> = (&'a str, &'a str, Option<(u64, u64)>);

async fn check_refused(cases: &[Refused<'_>]) {
    for (sql, message, place) in cases {
        let error = match plan(&transform(Some(sql), Some(&["id"]))).await {
            Err(error) => error,
            Ok(planned) => panic!("{sql}\nwas taken as {:?}", planned.settled),
        };
        assert!(error.message().contains(message), "{sql}\n{}", error.report());
        assert_eq!(error.place().line_column, *place, "{sql}\n{}", error.report());
        assert_eq!(error.kind(), Kind::User, "{sql}");
        assert_eq!(error.place().query.as_deref(), Some("orders.sql"), "{sql}");
        assert_eq!(error.place().table.as_deref(), Some("shop.orders"), "{sql}");
    }
}

#[tokio::test]
async fn what_is_not_row_by_row_is_refused() {
    check_refused(&[
        ("SELECT count(*) AS id FROM shop.orders", "an aggregate or GROUP BY", Some((1, 8))),
        ("SELECT id, max(amount) FROM shop.orders\nGROUP BY id", "an aggregate or GROUP BY", Some((2, 1))),
        ("SELECT\n  DISTINCT *\nFROM shop.orders", "DISTINCT", Some((2, 3))),
        ("SELECT * FROM shop.orders\n\nLIMIT 5", "LIMIT", Some((3, 1))),
        ("SELECT * FROM shop.orders ORDER BY id LIMIT 5", "LIMIT", Some((1, 39))),
        ("SELECT * FROM shop.orders OFFSET 5", "LIMIT", Some((1, 27))),
        ("SELECT a.* FROM shop.orders a JOIN shop.orders b ON a.id = b.id", "a join", Some((1, 31))),
        ("SELECT a.* FROM shop.orders a, shop.orders b", "a join", Some((1, 12))),
        ("SELECT * FROM shop.orders UNION ALL SELECT * FROM shop.orders", "a set operation", Some((1, 27))),
        ("SELECT * FROM shop.orders EXCEPT SELECT * FROM shop.orders", "EXCEPT", Some((1, 27))),
        ("SELECT unnest([1, 2]) AS x, * FROM shop.orders", "unnest", Some((1, 8))),
        ("SELECT 1 AS id", "rows that come from no table", Some((1, 1))),
        ("SELECT * FROM (VALUES (1)) AS t (id)", "rows that come from no table", Some((1, 16))),
        ("SELECT *, (SELECT 1) AS one FROM shop.orders", "ask another query", Some((1, 1))),
        ("SELECT * FROM shop.orders WHERE id IN (SELECT id FROM shop.orders)", "another query", Some((1, 36))),
        ("SELECT * FROM shop.orders WHERE EXISTS (SELECT 1)", "another query", Some((1, 33))),
    ])
    .await;
}

#[tokio::test]
async fn what_gives_another_value_another_time_is_refused() {
    check_refused(&[
        ("SELECT *, now() AS x FROM shop.orders", "`now` gives another value", Some((1, 11))),
        ("SELECT *,\n current_date AS x FROM shop.orders", "gives another value", Some((2, 2))),
        ("SELECT *, current_timestamp AS x FROM shop.orders", "gives another value", Some((1, 11))),
        ("SELECT *, random() AS x FROM shop.orders", "`random` gives another value", Some((1, 11))),
        ("SELECT *, upper(CAST(uuid() AS VARCHAR)) AS x FROM shop.orders", "`uuid` gives", Some((1, 22))),
        ("SELECT * FROM shop.orders WHERE id > random()", "`random` gives", Some((1, 38))),
        ("SELECT * FROM (SELECT *, random() AS x FROM shop.orders)", "`random` gives", Some((1, 26))),
    ])
    .await;
}

#[tokio::test]
async fn a_merge_needs_its_key_operation_and_sequence_as_they_are() {
    check_refused(&[
        ("SELECT id FROM shop.orders", "must keep `_cdc_operation`", Some((1, 1))),
        ("SELECT id, _cdc_operation FROM shop.orders", "must keep `_cdc_sequence`", Some((1, 1))),
        (
            "SELECT userName, _cdc_operation, _cdc_sequence FROM shop.orders",
            "key column `id` is not among",
            Some((1, 1)),
        ),
        (
            "SELECT id, 'I' AS _cdc_operation, _cdc_sequence FROM shop.orders",
            "must be the column of that name",
            Some((1, 19)),
        ),
        (
            "SELECT id, _cdc_operation, _cdc_file AS _cdc_sequence FROM shop.orders",
            "must be the column of that name",
            Some((1, 41)),
        ),
        (
            "SELECT abs(id) AS id, _cdc_operation, _cdc_sequence FROM shop.orders",
            "must be a source column as it is",
            Some((1, 12)),
        ),
        (
            "SELECT CAST(id AS INT) AS id, _cdc_operation, _cdc_sequence FROM shop.orders",
            "must be a source column",
            Some((1, 13)),
        ),
        ("SELECT *, amount AS ID FROM shop.orders", "two output columns are named `ID`", Some((1, 21))),
        ("SELECT *, 1 AS _cdc_batch FROM shop.orders", "added by the sink", Some((1, 16))),
        ("SELECT *, 1 AS \"_CDC_File_Id\" FROM shop.orders", "added by the sink", Some((1, 16))),
        ("SELECT *, 1 AS _cdc_new FROM shop.orders", "`_cdc_new` must be", Some((1, 16))),
    ])
    .await;
}

#[tokio::test]
async fn a_filter_may_use_only_the_key() {
    check_refused(&[
        ("SELECT * FROM shop.orders\nWHERE amount > 5", "only key columns, but this one uses `amount`", Some((2, 1))),
        ("SELECT * FROM shop.orders WHERE id > 5 AND _cdc_operation <> 'D'", "uses `_cdc_operation`", Some((1, 27))),
        ("SELECT * FROM (SELECT *, amount AS n FROM shop.orders) WHERE n > 1", "uses `amount`", Some((1, 56))),
        ("SELECT * FROM shop.orders QUALIFY amount > 1 AND row_number() OVER (PARTITION BY id ORDER BY _cdc_sequence DESC) = 1", "uses `amount`", Some((1, 27))),
    ])
    .await;
}

#[tokio::test]
async fn no_window_but_the_latest_of_each_key_is_taken() {
    let latest = |window: &str, condition: &str| {
        format!("SELECT * FROM (SELECT *,\n {window} AS rn FROM shop.orders) WHERE rn {condition}")
    };
    let good = "row_number() OVER (PARTITION BY id ORDER BY _cdc_sequence DESC)";
    let by = |partition: &str, order: &str| format!("row_number() OVER (PARTITION BY {partition} ORDER BY {order})");
    let only = "only be used as row_number()";
    let ordered = "ORDER BY _cdc_sequence DESC";
    let cases = [
        (latest(good, "= 2"), only, Some((2, 15))),
        (latest(good, "<= 2"), only, Some((2, 15))),
        (latest(good, "> 1"), only, Some((2, 15))),
        (latest(good, "= 1 OR id = 3"), only, Some((2, 15))),
        (latest(&good.replace("row_number", "rank"), "= 1"), only, Some((2, 9))),
        (latest(&by("userName", "_cdc_sequence DESC"), "= 1"), "PARTITION BY must be exactly", Some((2, 21))),
        (latest(&by("id, userName", "_cdc_sequence DESC"), "= 1"), "PARTITION BY must be exactly", Some((2, 21))),
        (latest(&by("id + 0", "_cdc_sequence DESC"), "= 1"), "PARTITION BY must be exactly", Some((2, 21))),
        (latest(&by("id", "_cdc_sequence"), "= 1"), ordered, Some((2, 37))),
        (latest(&by("id", "_cdc_timestamp DESC"), "= 1"), ordered, Some((2, 37))),
        (latest(&by("id", "_cdc_sequence DESC, amount DESC"), "= 1"), ordered, Some((2, 37))),
        ("SELECT *, lag(amount) OVER (ORDER BY id) AS x FROM shop.orders".to_owned(), only, Some((1, 23))),
        (format!("SELECT *, {good} AS rn FROM shop.orders"), only, Some((1, 24))),
    ];
    for (sql, message, place) in &cases {
        check_refused(&[(sql, message, *place)]).await;
    }
}

#[tokio::test]
async fn what_is_no_query_over_the_table_is_refused_at_its_place() {
    check_refused(&[
        ("SELECT\n  idd FROM shop.orders", "there is no column `idd`", Some((2, 3))),
        ("SELECT * FROM shop.orders WHERE username2 = 'x'", "there is no column `username2`", Some((1, 33))),
        ("SELECT __freshet_file_id, * FROM shop.orders", "there is no column", Some((1, 8))),
        ("SELEC * FROM shop.orders", "cannot be read", Some((1, 1))),
        ("SELECT *\nFROM shop.orders WHERE", "cannot be read", Some((2, 23))),
        ("SELECT * FROM shop.orders\nWHERE userName = 'x", "cannot be read", Some((2, 18))),
        ("INSERT INTO shop.orders VALUES (1)", "must be a SELECT", None),
        ("CREATE TABLE x AS SELECT * FROM shop.orders", "must be a SELECT", None),
        ("COPY shop.orders TO '/tmp/x.parquet'", "must be a SELECT", None),
        ("EXPLAIN SELECT * FROM shop.orders", "must be a SELECT", None),
        ("SET datafusion.execution.batch_size = 1", "must be a SELECT", None),
        ("SELECT * FROM shop.others", "shop.others", Some((1, 15))),
        ("SELECT * FROM otherdb.orders", "otherdb.orders", Some((1, 15))),
    ])
    .await;
}

#[tokio::test]
async fn a_statement_after_the_query_is_refused() {
    for sql in ["SELECT * FROM shop.orders; DROP TABLE shop.orders", "", "-- nothing"] {
        assert_eq!(plan(&transform(Some(sql), Some(&["id"]))).await.unwrap_err().kind(), Kind::User, "{sql}");
    }
}

#[tokio::test]
async fn no_other_table_can_be_read_not_even_one_the_engine_brings_along() {
    let others = ["information_schema.tables", "generate_series(1, 3)", "range(1, 3)"];
    for other in others {
        let taken = plan(&transform(Some(&format!("SELECT * FROM {other}")), None)).await;
        assert!(taken.is_err(), "{other} was taken as {:?}", taken.unwrap().settled);
    }
}

#[tokio::test]
async fn no_output_takes_a_name_that_is_carried_past_the_sql() {
    for name in ["__freshet_file_id", "__freshet_file_row"] {
        let taken = plan(&transform(Some(&format!("SELECT *, 1 AS {name} FROM shop.orders")), Some(&["id"]))).await;
        assert!(taken.is_err(), "{name} was taken");
    }
}

/// The SQL is taken, and makes this of mode, key and the key's source columns.
async fn check(sql: &str, key: Option<&[&str]>, mode: Mode, expected: &[&str], sources: &[&str]) {
    let planned = plan(&transform(Some(sql), key)).await.unwrap_or_else(|error| panic!("{sql}\n{}", error.report()));
    let settled = planned.settled;
    assert_eq!(
        (settled.mode, settled.key.as_slice()),
        (mode, expected.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>().as_slice()),
        "{sql}"
    );
    assert_eq!(settled.key_sources, sources, "{sql}");
}

#[tokio::test]
async fn latest_per_key_is_taken_in_every_form_and_tells_the_key() {
    let window = "row_number() OVER (PARTITION BY id ORDER BY _cdc_sequence DESC)";
    let forms = [
        format!("SELECT * FROM (SELECT *, {window} AS rn FROM shop.orders) WHERE rn = 1"),
        format!("SELECT * FROM (SELECT *, {window} AS rn FROM shop.orders) t WHERE t.rn <= 1"),
        format!("SELECT * FROM (SELECT *, {window} AS rn FROM shop.orders) WHERE rn < 2"),
        format!("SELECT * FROM (SELECT *, {window} AS rn FROM shop.orders) WHERE 1 = rn AND id > 7"),
        format!("SELECT * FROM (SELECT *, {window} AS rn FROM shop.orders) WHERE 1 >= rn"),
        format!("SELECT * FROM shop.orders QUALIFY {window} = 1"),
        format!(
            "SELECT id, _cdc_operation, _cdc_sequence FROM shop.orders WHERE id > 1 QUALIFY {window} = 1 ORDER BY id"
        ),
        format!("WITH latest AS (SELECT *, {window} AS rn FROM shop.orders)\nSELECT * FROM latest WHERE rn = 1"),
        format!("WITH a AS (SELECT * FROM shop.orders), b AS (SELECT * FROM a QUALIFY {window} = 1) SELECT * FROM b"),
        format!("SELECT * EXCLUDE (rn) FROM (SELECT *, {window} AS rn FROM shop.orders) WHERE rn = 1"),
        format!(
            "select ID, USERNAME, _CDC_OPERATION, _CDC_SEQUENCE from SHOP.ORDERS qualify {} = 1",
            window.to_uppercase()
        ),
    ];
    for sql in &forms {
        check(sql, None, Mode::Merge, &["id"], &["id"]).await;
        check(sql, Some(&["ID"]), Mode::Merge, &["id"], &["id"]).await;
    }
}

#[tokio::test]
async fn a_key_may_be_renamed_or_cast_without_loss() {
    let needed = "_cdc_operation, _cdc_sequence FROM shop.orders";
    check(&format!("SELECT id AS order_id, {needed}"), Some(&["order_id"]), Mode::Merge, &["order_id"], &["id"]).await;
    check(&format!("SELECT CAST(id AS VARCHAR) AS k, {needed}"), Some(&["K"]), Mode::Merge, &["k"], &["id"]).await;
    check(
        &format!("SELECT id::bigint AS id, amount * 2 AS twice, {needed}"),
        Some(&["id"]),
        Mode::Merge,
        &["id"],
        &["id"],
    )
    .await;
    check(
        &format!("SELECT k, {}", needed.replace("shop.orders", "(SELECT *, id AS k FROM shop.orders) WHERE k > 1")),
        Some(&["k"]),
        Mode::Merge,
        &["k"],
        &["id"],
    )
    .await;
    let two = format!(
        "SELECT userName AS name, id, {needed} QUALIFY row_number() OVER (PARTITION BY id, userName ORDER BY _cdc_sequence DESC) = 1"
    );
    check(&two, None, Mode::Merge, &["id", "name"], &["id", "userName"]).await;
    check(&two, Some(&["name", "id"]), Mode::Merge, &["name", "id"], &["userName", "id"]).await;
}

#[tokio::test]
async fn without_a_key_every_change_is_kept_and_any_filter_is_taken() {
    check("SELECT amount FROM shop.orders WHERE amount > 5 AND _cdc_operation <> 'D'", None, Mode::Append, &[], &[])
        .await;
    check(
        "SELECT upper(userName) AS u, CASE WHEN amount > 1 THEN 'a' ELSE 'b' END AS c FROM orders",
        None,
        Mode::Append,
        &[],
        &[],
    )
    .await;
    let mut append = transform(Some("SELECT * FROM orders"), Some(&["id"]));
    append.wanted.mode = Some(Mode::Append);
    assert_eq!(plan(&append).await.unwrap().settled.mode, Mode::Append);
    append
        .query
        .as_mut()
        .unwrap()
        .sql
        .push_str(" QUALIFY row_number() OVER (PARTITION BY id ORDER BY _cdc_sequence DESC) = 1");
    let error = plan(&append).await.unwrap_err();
    assert!(error.message().contains("mode append keeps every change"), "{error}");
    let mut merge = transform(Some("SELECT * FROM orders"), None);
    merge.wanted.mode = Some(Mode::Merge);
    assert!(plan(&merge).await.unwrap_err().message().contains("needs a key"));
}

#[tokio::test]
async fn a_column_that_only_other_files_have_is_null_and_not_unknown() {
    let sql = transform(Some("SELECT id, coupon, _cdc_operation, _cdc_sequence FROM orders"), Some(&["id"]));
    assert!(sql.plan(&session(1), &schema(), &[]).await.is_err());
    let planned = sql.plan(&session(1), &schema(), &["coupon".to_owned()]).await.unwrap();
    assert_eq!(planned.outputs, ["id", "coupon", "_cdc_operation", "_cdc_sequence"]);
}

#[tokio::test]
async fn a_fingerprint_differs_where_sql_or_configuration_differ() {
    let one = transform(Some("SELECT 1"), Some(&["id"]));
    let others = [
        transform(Some("SELECT 2"), Some(&["id"])),
        transform(None, Some(&["id"])),
        transform(Some("SELECT 1"), None),
        crate::transform::planned::Transform { delete_when: Some("id = 1".into()), ..one.clone() },
    ];
    assert_eq!(one.fingerprint(), one.clone().fingerprint());
    assert!(others.iter().all(|other| other.fingerprint() != one.fingerprint()));
}
