//! Change files as a table: its shape, its scan in any number of partitions, its hidden columns.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::catalog::TableProvider;
use datafusion::common::DataFusionError;

use crate::catalog::opened::OpenedFile;
use crate::catalog::samples::{Shelf, batch, ints, lines, parquet, plain_rules, session, texts};
use crate::catalog::shape::{ReadRules, TableShape};
use crate::catalog::table::ChangeTable;
use crate::change::types::ColumnType;
use crate::error::Kind;

/// Rows of a query over the files as `orders`, hidden columns included, the same for any number of partitions.
pub(super) async fn scan(
    files: Vec<Arc<OpenedFile>>,
    known: &[&str],
    rules: &ReadRules,
    sql: &str,
) -> Result<Vec<String>, DataFusionError> {
    let known: Vec<String> = known.iter().map(|name| (*name).to_owned()).collect();
    let mut first: Option<Vec<String>> = None;
    for partitions in [1, 2, 3, 8] {
        let shape = TableShape::new(&files[0].schema, &known, rules).map_err(DataFusionError::from)?;
        let session = session(partitions);
        let table = ChangeTable::new(files.clone(), shape, rules.clone(), true).map_err(DataFusionError::from)?;
        session.register_table("orders", Arc::new(table))?;
        let mut got = lines(&session.sql(sql).await?.collect().await?);
        if partitions > 1 {
            got.sort_unstable();
            let mut expected = first.clone().unwrap_or_default();
            expected.sort_unstable();
            assert_eq!(got, expected, "{partitions} partitions");
        } else {
            first = Some(got);
        }
    }
    Ok(first.unwrap_or_default())
}

async fn check(files: Vec<Arc<OpenedFile>>, known: &[&str], rules: &ReadRules, sql: &str, expected: &[&str]) {
    assert_eq!(scan(files, known, rules, sql).await.unwrap(), expected, "{sql}");
}

fn hex(bytes: [u8; 16]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn files_in_any_number_of_partitions_give_every_row_once_under_their_own_name() {
    let shelf = Shelf::default();
    let (mut files, mut expected) = (Vec::new(), Vec::new());
    for n in 0..5_i64 {
        let rows = n * 50;
        let file = shelf.open(&format!("{n}.parquet"), n, parquet(&batch([("id", ints(0..rows))]), 7)).await;
        let id = hex(file.file.id().0);
        expected.extend((0..rows).map(|row| format!("{row}|mem/{n}.parquet|{row}|{id}|{row}")));
        files.push(file);
    }
    let sql = "SELECT id, _cdc_file, _cdc_row, __freshet_file_id, __freshet_file_row FROM orders";
    let mut got = scan(files.clone(), &[], &plain_rules(), sql).await.unwrap();
    got.sort_unstable();
    expected.sort_unstable();
    assert!(got == expected);
    check(files.clone(), &[], &plain_rules(), "SELECT count(*) FROM orders", &["500"]).await;
    check(
        files.clone(),
        &[],
        &plain_rules(),
        "SELECT count(*), sum(_cdc_row) FROM orders WHERE id >= 190",
        &["10|1945"],
    )
    .await;
    let limited =
        scan(files, &[], &plain_rules(), "SELECT count(*) FROM (SELECT 1 FROM orders WHERE id > 5 LIMIT 3)").await;
    assert_eq!(limited.unwrap(), ["3"]);
}

#[tokio::test]
async fn columns_can_be_asked_for_in_any_order() {
    let shelf = Shelf::default();
    let columns = [("Op", texts(["I", "D"])), ("b", ints([1, 2])), ("a", texts(["x", "y"]))];
    let file = shelf.open("a.parquet", 1, parquet(&batch(columns), 1)).await;
    let check =
        async |sql: &str, expected: &[&str]| check(vec![file.clone()], &["gone"], &plain_rules(), sql, expected).await;
    check("SELECT a, _cdc_operation, gone, b FROM orders", &["x|I|NULL|1", "y|D|NULL|2"]).await;
    check("SELECT _cdc_row, _cdc_operation, Op FROM orders", &["0|I|I", "1|D|D"]).await;
    check("SELECT gone FROM orders", &["NULL", "NULL"]).await;
    check("SELECT count(gone), count(*) FROM orders", &["0|2"]).await;
}

#[tokio::test]
async fn hidden_columns_are_there_only_where_they_are_asked_for() {
    let file = Shelf::default().open("a.parquet", 1, parquet(&batch([("id", ints([1]))]), 1)).await;
    let names = |hidden| {
        let rules = plain_rules();
        let shape = TableShape::new(&file.schema, &[], &rules).unwrap();
        let table = ChangeTable::new(vec![Arc::clone(&file)], shape, rules, hidden).unwrap();
        table.schema().fields().iter().map(|field| field.name().clone()).collect::<Vec<_>>()
    };
    let visible = ["id", "_cdc_operation", "_cdc_timestamp", "_cdc_sequence", "_cdc_file", "_cdc_row"];
    assert_eq!(names(false), visible);
    assert_eq!(names(true), [&visible[..], &["__freshet_file_id", "__freshet_file_row"]].concat());
}

/// The file's own part of a shape, as `name type`.
fn shape(file: &[(&str, DataType)], known: &[&str], rules: &ReadRules) -> Vec<String> {
    let fields: Vec<Field> = file.iter().map(|(name, kind)| Field::new(*name, kind.clone(), true)).collect();
    let known: Vec<String> = known.iter().map(|name| (*name).to_owned()).collect();
    let shape = TableShape::new(&Schema::new(fields), &known, rules).unwrap();
    let own = shape.schema.fields().iter().filter(|field| !field.name().starts_with("_cdc_"));
    own.map(|field| format!("{} {}", field.name(), field.data_type())).collect()
}

fn overriding(overrides: &[(&str, ColumnType)], auto_schema: bool, key: &[&str]) -> ReadRules {
    let overrides: BTreeMap<_, _> = overrides.iter().map(|(name, to)| ((*name).to_owned(), to.clone())).collect();
    let key = key.iter().map(|name| (*name).to_owned()).collect();
    ReadRules { overrides, auto_schema, key, ..plain_rules() }
}

#[test]
fn sql_sees_the_files_columns_and_as_null_those_that_other_files_have() {
    let file = [("Op", DataType::Utf8), ("id", DataType::Int32)];
    assert_eq!(shape(&file, &[], &plain_rules()), ["Op Utf8", "id Int32"]);
    assert_eq!(shape(&file, &["id", "ID", "new"], &plain_rules()), ["Op Utf8", "id Int32", "new Null"]);
    let typed =
        overriding(&[("new", ColumnType::Bool), ("ID", ColumnType::String), ("unseen", ColumnType::Date)], true, &[]);
    assert_eq!(shape(&file, &["new"], &typed), ["Op Utf8", "id Utf8", "new Boolean", "unseen Date32"]);
}

#[test]
fn a_column_the_file_lacks_is_there_once_though_override_and_other_files_spell_it_differently() {
    let rules = overriding(&[("new", ColumnType::Bool)], true, &[]);
    assert_eq!(shape(&[("id", DataType::Int32)], &["New"], &rules).len(), 2);
}

#[test]
fn without_auto_schema_only_overrides_and_the_key_are_seen() {
    let file = [("Op", DataType::Utf8), ("id", DataType::Int32), ("name", DataType::Utf8), ("extra", DataType::Utf8)];
    let rules = overriding(&[("name", ColumnType::String), ("gone", ColumnType::Int64)], false, &["ID"]);
    assert_eq!(shape(&file, &["other"], &rules), ["id Int32", "name Utf8", "gone Int64"]);
}

#[test]
fn an_override_that_can_never_succeed_is_the_users_error() {
    let rules = overriding(&[("id", ColumnType::Timestamp)], true, &[]);
    let error = TableShape::new(&Schema::new(vec![Field::new("id", DataType::Int64, true)]), &[], &rules).unwrap_err();
    assert_eq!(error.kind(), Kind::User);
    assert!(error.message().contains("cannot make TIMESTAMP of column `id`"), "{error}");
}

#[tokio::test]
async fn an_override_casts_each_value_or_names_file_and_row() {
    let shelf = Shelf::default();
    let rules = overriding(&[("n", ColumnType::Int64)], true, &[]);
    let file = async |path: &str, values: ArrayRef| shelf.open(path, 1, parquet(&batch([("n", values)]), 2)).await;
    let good = file("good.parquet", texts([Some("7"), None, Some("-1")])).await;
    check(vec![good], &[], &rules, "SELECT n + 1 FROM orders", &["8", "NULL", "0"]).await;
    let bad = file("bad.parquet", texts(["1", "2", "x"])).await;
    let error = scan(vec![bad], &[], &rules, "SELECT n FROM orders").await.unwrap_err();
    let error = crate::error::Error::of_rows(error);
    assert_eq!((error.kind(), error.place().row), (Kind::Data, Some(2)), "{error}");
    assert_eq!(error.place().file.as_deref(), Some("mem/bad.parquet"));
}

#[tokio::test]
async fn an_override_of_a_column_that_holds_only_nulls_gives_nulls() {
    let nulls: ArrayRef = Arc::new(arrow::array::NullArray::new(2));
    let file = Shelf::default().open("a.parquet", 1, parquet(&batch([("n", nulls)]), 2)).await;
    let rules = overriding(&[("n", ColumnType::Int64)], true, &[]);
    check(vec![file], &[], &rules, "SELECT n FROM orders", &["NULL", "NULL"]).await;
}

#[tokio::test]
async fn files_of_different_schemas_are_no_one_table() {
    let shelf = Shelf::default();
    let one = shelf.open("a.parquet", 1, parquet(&batch([("id", ints([1]))]), 1)).await;
    let two = shelf.open("b.parquet", 1, parquet(&batch([("id", texts(["1"]))]), 1)).await;
    let shape = TableShape::new(&one.schema, &[], &plain_rules()).unwrap();
    assert!(ChangeTable::new(vec![one, two], shape.clone(), plain_rules(), false).is_err());
    assert!(ChangeTable::new(vec![], shape, plain_rules(), false).is_err());
}
