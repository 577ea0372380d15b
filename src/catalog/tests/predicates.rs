//! Predicates that reach the Parquet reader spare work and never lose a row: compared with the same rows in
//! memory, where nothing is pushed anywhere.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float64Array, RecordBatch, StringArray,
    TimestampMillisecondArray, UInt64Array,
};
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;

use crate::catalog::opened::OpenedFile;
use crate::catalog::samples::{Shelf, batch, gzip, ints, lines, parquet, plain_rules, session, texts};
use crate::catalog::shape::{ReadRules, TableShape};
use crate::catalog::table::ChangeTable;
use crate::trial::dice::Dice;

/// A session with the files as `files`.
fn with_files(files: Vec<Arc<OpenedFile>>, rules: &ReadRules) -> SessionContext {
    let shape = TableShape::new(&files[0].schema, &[], rules).unwrap();
    let session = session(2);
    let table = ChangeTable::new(files, shape, rules.clone(), false).unwrap();
    session.register_table("files", Arc::new(table)).unwrap();
    session
}

async fn rows(session: &SessionContext, sql: &str) -> Result<Vec<String>, String> {
    let frame = session.sql(sql).await.map_err(|error| format!("{sql}: {error}"))?;
    let mut got = lines(&frame.collect().await.map_err(|error| format!("{sql}: {error}"))?);
    got.sort_unstable();
    Ok(got)
}

/// Random rows of every type whose statistics are special, a quarter of them NULL.
fn random_rows(dice: &mut Dice, count: u64) -> RecordBatch {
    let mut maybe = |values: &mut dyn FnMut(&mut Dice) -> i64| -> Vec<Option<i64>> {
        let all_null = dice.below(8) == 0;
        (0..count).map(|_| (!all_null && dice.below(4) > 0).then(|| values(dice))).collect()
    };
    let integers = maybe(&mut |dice| i64::try_from(dice.below(20)).unwrap() - 10);
    let floats = maybe(&mut |dice| i64::try_from(dice.below(7)).unwrap());
    let unsigned = maybe(&mut |dice| i64::try_from(dice.below(4)).unwrap());
    let names = maybe(&mut |dice| i64::try_from(dice.below(6)).unwrap());
    let small = |values: &[Option<i64>]| values.to_vec();
    let float = |n: i64| [2.5, f64::NEG_INFINITY, f64::INFINITY, -0.0, 0.0, 1.5, -1.5][usize::try_from(n).unwrap()];
    let text = |n: i64| {
        ["", "a", "가나다", "\u{10ffff}", &"z".repeat(200), &format!("{}y", "z".repeat(199))]
            [usize::try_from(n).unwrap()]
        .to_owned()
    };
    let columns: [(&str, ArrayRef); 9] = [
        ("n", ints(0..i64::try_from(count).unwrap())),
        ("i", ints(integers.clone())),
        ("f", Arc::new(floats.iter().map(|n| n.map(float)).collect::<Float64Array>())),
        (
            "u",
            Arc::new(unsigned.iter().map(|n| n.map(|n| u64::MAX - u64::try_from(n).unwrap())).collect::<UInt64Array>()),
        ),
        ("s", Arc::new(names.iter().map(|n| n.map(text)).collect::<StringArray>())),
        ("b", Arc::new(unsigned.iter().map(|n| n.map(|n| n == 0)).collect::<BooleanArray>())),
        (
            "d",
            Arc::new(Date32Array::from_iter(
                small(&integers).into_iter().map(|n| n.map(|n| i32::try_from(n).unwrap())),
            )),
        ),
        ("t", Arc::new(TimestampMillisecondArray::from_iter(small(&integers)).with_timezone("UTC"))),
        (
            "m",
            Arc::new(
                Decimal128Array::from_iter(small(&integers).into_iter().map(|n| n.map(i128::from)))
                    .with_precision_and_scale(12, 1)
                    .unwrap(),
            ),
        ),
    ];
    batch(columns)
}

/// A condition over those columns, as SQL.
fn condition(dice: &mut Dice, depth: u32) -> String {
    if depth > 0 && dice.below(2) == 0 {
        let (left, right) = (condition(dice, depth - 1), condition(dice, depth - 1));
        return match dice.below(4) {
            0 => format!("NOT ({left})"),
            1 => format!("({left} OR {right})"),
            2 => format!("coalesce({left}, {right})"),
            _ => format!("({left} AND {right})"),
        };
    }
    let operator = *dice.pick(&["=", "<>", "<", "<=", ">", ">=", "IS DISTINCT FROM", "IS NOT DISTINCT FROM"]);
    let integer = i64::try_from(dice.below(24)).unwrap() - 12;
    let literals: [(&str, String); 7] = [
        ("i", integer.to_string()),
        ("f", (*dice.pick(&["0.0", "-0.0", "1.5", "'inf'::double", "2.0"])).into()),
        ("u", (*dice.pick(&["18446744073709551615", "18446744073709551613", "5"])).into()),
        ("s", (*dice.pick(&["''", "'a'", "'가'", "'z'", "'zzzz'", "'b'"])).into()),
        ("d", format!("DATE '1970-01-{:02}'", 1 + dice.below(12))),
        ("t", format!("TIMESTAMP '1970-01-01T00:00:00.00{}Z'", dice.below(10))),
        ("m", format!("{integer}.5")),
    ];
    let (column, literal) = dice.pick(&literals);
    match dice.below(6) {
        0 => format!("{column} IS NULL"),
        1 => format!("{column} IS NOT NULL"),
        2 => (*dice.pick(&[
            "b",
            "NOT b",
            "b IS UNKNOWN",
            "i IN (1, 2, NULL)",
            "i NOT IN (3, 4)",
            "s LIKE 'z%y'",
            "s NOT LIKE 'a%'",
            "i BETWEEN -3 AND 3",
            "i + f > 1",
            "abs(i) = 2",
            "CASE WHEN b THEN i > 0 ELSE f < 1 END",
        ]))
        .into(),
        _ => format!("({column} {operator} {literal})"),
    }
}

#[tokio::test]
async fn no_predicate_ever_loses_a_row() {
    let shelf = Shelf::default();
    for seed in 0..12 {
        let dice = &mut Dice::new(seed);
        let data = random_rows(dice, 120);
        let group_rows = usize::try_from(1 + dice.below(30)).unwrap();
        let path = format!("{seed}.parquet{}", if seed % 2 == 0 { ".gz" } else { "" });
        let stored = parquet(&data, group_rows);
        let opened = shelf.open(&path, 1, if seed % 2 == 0 { gzip(&stored) } else { stored }).await;
        let session = with_files(vec![opened], &plain_rules());
        let memory = MemTable::try_new(data.schema(), vec![vec![data]]).unwrap();
        session.register_table("memory", Arc::new(memory)).unwrap();
        for _ in 0..60 {
            let wanted = condition(dice, 2);
            let expected = rows(&session, &format!("SELECT n, n AS row FROM memory WHERE {wanted}")).await.unwrap();
            let got = rows(&session, &format!("SELECT n, _cdc_row FROM files WHERE {wanted}")).await.unwrap();
            assert_eq!(got, expected, "seed {seed}, {group_rows} rows a group: {wanted}");
        }
    }
}

#[tokio::test]
async fn a_row_that_is_nan_is_not_lost_though_statistics_leave_it_out() {
    let shelf = Shelf::default();
    let floats: ArrayRef = Arc::new(Float64Array::from(vec![1.0, f64::NAN, 2.0]));
    let data = batch([("n", ints(0..3)), ("f", floats)]);
    let session = with_files(vec![shelf.open("a.parquet", 1, parquet(&data, 10)).await], &plain_rules());
    for wanted in ["f > 5", "f >= 'NaN'::double", "NOT (f <= 5)"] {
        let got = rows(&session, &format!("SELECT n FROM files WHERE {wanted}")).await.unwrap();
        assert_eq!(got, ["1"], "{wanted}: NaN is greater than any number");
    }
}

#[tokio::test]
async fn a_row_group_that_the_statistics_rule_out_is_not_read() {
    let shelf = Shelf::default();
    let mut bytes = parquet(&batch([("id", ints(0..4_000)), ("x", ints((0..4_000).map(|n| n * 7)))]), 1_000);
    let metadata = {
        let opened = bytes::Bytes::from(bytes.clone());
        parquet::file::metadata::ParquetMetaDataReader::new().parse_and_finish(&opened).unwrap()
    };
    let (start, len) = metadata.row_group(1).column(0).byte_range();
    let start = usize::try_from(start).unwrap();
    bytes[start..start + usize::try_from(len).unwrap()].fill(0xff);
    let session = with_files(vec![shelf.open("a.parquet", 1, bytes).await], &plain_rules());
    for (wanted, expected) in
        [("id >= 2000", 2_000), ("id < 1000", 1_000), ("id = 3999", 1), ("id < 0", 0), ("id IS NULL", 0)]
    {
        let got = rows(&session, &format!("SELECT count(*) FROM files WHERE {wanted}")).await;
        assert_eq!(got.unwrap(), [expected.to_string()], "{wanted}: row group 1 is unreadable");
    }
    assert!(rows(&session, "SELECT count(id) FROM files WHERE id = 1500").await.is_err());
}

#[tokio::test]
async fn a_predicate_on_a_cast_column_sees_the_cast_value() {
    let shelf = Shelf::default();
    let overrides = BTreeMap::from([("id".to_owned(), crate::change::types::ColumnType::Int64)]);
    let rules = ReadRules { overrides, ..plain_rules() };
    let ids = texts(["9", "10", "11"]);
    let session = with_files(vec![shelf.open("a.parquet", 1, parquet(&batch([("id", ids)]), 1)).await], &rules);
    let got = rows(&session, "SELECT id FROM files WHERE id > 9").await.unwrap();
    assert_eq!(got, ["10", "11"], "as text '10' < '9'");
}

#[tokio::test]
async fn a_predicate_never_hides_the_delete_half_of_a_key_update() {
    let shelf = Shelf::default();
    let columns = [("Op", texts(["U"])), ("id", ints([2])), ("BI_id", ints([1]))];
    let rules = ReadRules { key: vec!["id".into()], ..plain_rules() };
    let session = with_files(vec![shelf.open("a.parquet", 1, parquet(&batch(columns), 10)).await], &rules);
    let got = rows(&session, "SELECT id, _cdc_operation FROM files WHERE id = 1").await.unwrap();
    assert_eq!(got, ["1|D"]);
    let got = rows(&session, "SELECT id, _cdc_operation FROM files WHERE id = 2").await.unwrap();
    assert_eq!(got, ["2|U"]);
}
