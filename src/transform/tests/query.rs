//! Which SQL a table gets, and the standard transform.

use std::path::Path;

use arrow::datatypes::{DataType, Field, Schema};

use super::transform;
use crate::catalog::samples::{plain_rules, session};
use crate::catalog::shape::TableShape;
use crate::change::TableName;
use crate::config::{Config, TableConfig};
use crate::error::Kind;
use crate::transform::query::{find, standard};

fn write(folder: &Path, path: &str, sql: &str) {
    let path = folder.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, sql).unwrap();
}

fn found(folder: &Path, database: &str, table: &str, query: Option<&Path>) -> Option<String> {
    let config = Config { queries: folder.to_owned(), ..Config::for_folder("x") };
    let table_config = TableConfig { query: query.map(Path::to_owned), ..TableConfig::default() };
    find(&config, &TableName::new(database, table), &table_config).unwrap().map(|query| query.sql)
}

#[test]
fn a_tables_own_file_comes_before_the_one_its_name_shares() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write(folder, "_all/orders.sql", "shared");
    write(folder, "shop/orders.sql", "own");
    write(folder, "elsewhere.sql", "named");
    assert_eq!(found(folder, "shop", "orders", None).as_deref(), Some("own"));
    assert_eq!(found(folder, "kiosk", "orders", None).as_deref(), Some("shared"));
    assert_eq!(found(folder, "shop", "others", None), None);
    assert_eq!(found(folder, "shop", "orders", Some(&folder.join("elsewhere.sql"))).as_deref(), Some("named"));
}

#[test]
fn a_hostile_table_name_finds_no_file_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let queries = folder.path().join("queries");
    write(folder.path(), "secret.sql", "secret");
    write(&queries, "shop/.hidden.sql", "hidden");
    write(&queries, "shop/sub/x.sql", "sub");
    for (database, table) in [
        ("shop", "../../secret"),
        ("shop", ".hidden"),
        ("shop", "sub/x"),
        ("shop", ""),
        ("shop", ".."),
        ("shop", "a\0b"),
        ("..", "secret"),
        ("shop/sub", "x"),
    ] {
        assert_eq!(found(&queries, database, table, None), None, "{database:?} {table:?}");
    }
}

#[test]
fn a_file_that_was_named_and_is_missing_or_too_large_is_the_users_error() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config { queries: folder.path().to_owned(), ..Config::for_folder("x") };
    let large = "-".repeat((1 << 20) + 1);
    write(folder.path(), "shop/large.sql", &large);
    std::fs::write(folder.path().join("shop/binary.sql"), b"\xff\xfe").unwrap();
    let missing = TableConfig { query: Some(folder.path().join("gone.sql")), ..TableConfig::default() };
    for (table, config_of) in
        [("large", TableConfig::default()), ("binary", TableConfig::default()), ("orders", missing)]
    {
        let error = find(&config, &TableName::new("shop", table), &config_of).unwrap_err();
        assert_eq!(error.kind(), Kind::User, "{error}");
        assert!(error.place().query.is_some() && error.place().table.is_some(), "{error}");
    }
}

fn fields(names: &[&str]) -> Schema {
    Schema::new(names.iter().map(|name| Field::new(*name, DataType::Utf8, true)).collect::<Vec<_>>())
}

/// The output columns of the standard transform of a table whose files have these columns.
async fn outputs(table: &TableName, columns: &[&str], timestamp_column: Option<&str>) -> Vec<String> {
    let file = fields(columns);
    let shape = TableShape::new(&file, &[], &plain_rules()).unwrap();
    let sql = standard(table, &file, &shape.schema, timestamp_column);
    let mut given = transform(None, None);
    given.table = table.clone();
    given.read.cdc.timestamp_column = timestamp_column.map(str::to_owned);
    let planned = given.plan(&session(1), &file, &[]).await.unwrap_or_else(|error| panic!("{sql}\n{}", error.report()));
    planned.outputs
}

#[tokio::test]
async fn the_standard_transform_leaves_out_what_dms_adds() {
    let table = TableName::new("shop", "orders");
    let columns = ["Op", "id", "BI_id", "BI_gone", "AR_H_CHANGE_SEQ", "ar_h_change_seq2", "ts", "op", "이름"];
    let cdc = ["_cdc_operation", "_cdc_timestamp", "_cdc_sequence"];
    let kept = ["id", "BI_gone", "ar_h_change_seq2", "op", "이름"];
    assert_eq!(outputs(&table, &columns, Some("TS")).await, [&kept[..], &cdc[..]].concat());
    let with_time = ["id", "BI_gone", "ar_h_change_seq2", "ts", "op", "이름"];
    assert_eq!(outputs(&table, &columns, None).await, [&with_time[..], &cdc[..]].concat());
}

#[tokio::test]
async fn no_name_of_a_table_or_column_is_taken_for_sql() {
    for name in ["a\"b; drop", "select", "a.b", "SELECT 1; --", "한글", "x y", "'", "1st", "*"] {
        let got = outputs(&TableName::new(name, name), &[name, "id"], None).await;
        assert_eq!(got[..2], [name, "id"], "{name}");
    }
}
