//! The outputs of files of different schemas, united.

use std::sync::Arc;

use arrow::array::{ArrayRef, Decimal128Array, Float64Array};
use futures::TryStreamExt;

use crate::catalog::samples::{Shelf, batch, ints, lines, orders, parquet, plain_rules, session, texts};
use crate::error::{Error, Kind};
use crate::pipeline::rows::{Group, unite};
use crate::transform::planned::Transform;
use crate::transform::rules::Wanted;

/// A file of one column.
type One = [(&'static str, ArrayRef); 1];

/// Each file's columns beside `Op`; the columns as `name TYPE`, and the rows in order.
async fn united(files: &[&[(&str, ArrayRef)]], key: Option<&str>) -> Result<(Vec<String>, Vec<String>), Error> {
    let (shelf, session) = (Shelf::default(), session(1));
    let mut opened = Vec::new();
    for (n, columns) in files.iter().enumerate() {
        opened.push(shelf.open(&format!("{n}.parquet"), 1, parquet(&batch(columns.iter().cloned()), 10)).await);
    }
    let known: Vec<String> = files.iter().flat_map(|file| file.iter().map(|(name, _)| (*name).to_owned())).collect();
    let transform = Transform {
        table: orders(),
        query: None,
        wanted: Wanted { key: key.map(|key| vec![key.to_owned()]), mode: None },
        delete_when: None,
        read: plain_rules(),
    };
    let mut groups = Vec::new();
    for file in opened {
        let planned = Arc::new(transform.plan(&session, &file.schema, &known).await?);
        groups.push(Group { planned, files: vec![file] });
    }
    let rows = unite(&session, &orders(), groups).await?;
    let columns = rows.columns.iter().map(|column| format!("{} {}", column.name, column.column_type)).collect();
    let batches: Vec<_> = rows.stream.try_collect().await.map_err(Error::of_rows)?;
    assert!(batches.iter().all(|batch| batch.schema().fields().last().unwrap().name() == "_cdc_file_id"));
    let own = |batch: &arrow::array::RecordBatch| {
        let names: Vec<usize> =
            (0..rows.columns.len()).filter(|n| !rows.columns[*n].name.starts_with("_cdc_")).collect();
        batch.project(&names).unwrap()
    };
    Ok((columns, lines(&batches.iter().map(own).collect::<Vec<_>>())))
}

async fn check(files: &[&[(&str, ArrayRef)]], columns: &[&str], rows: &[&str]) {
    let (got_columns, mut got_rows) = united(files, None).await.unwrap();
    let own: Vec<&String> = got_columns.iter().filter(|column| !column.starts_with("_cdc_")).collect();
    assert_eq!(own, columns);
    got_rows.sort_unstable();
    assert_eq!(got_rows, rows);
}

fn decimals(values: &[i128]) -> ArrayRef {
    Arc::new(Decimal128Array::from_iter_values(values.iter().copied()).with_precision_and_scale(10, 2).unwrap())
}

#[tokio::test]
async fn integers_widen_to_decimals_and_missing_columns_are_null() {
    let integers = [("id", ints([1])), ("n", ints([7]))];
    let wide = [("id", ints([2])), ("n", decimals(&[150]))];
    let without = [("id", ints([3]))];
    let columns = ["id INT64", "n NUMERIC"];
    check(&[&integers, &wide], &columns, &["1|7.000000000", "2|1.500000000"]).await;
    check(&[&wide, &integers], &columns, &["1|7.000000000", "2|1.500000000"]).await;
    check(&[&without, &wide, &integers], &columns, &["1|7.000000000", "2|1.500000000", "3|NULL"]).await;
    check(&[&wide, &without], &columns, &["2|1.500000000", "3|NULL"]).await;
}

#[tokio::test]
async fn columns_that_differ_only_in_case_are_one() {
    check(&[&[("id", ints([1]))], &[("ID", ints([2]))]], &["id INT64"], &["1", "2"]).await;
}

#[tokio::test]
async fn what_no_type_holds_without_loss_is_the_users_error() {
    let (text, number): (One, One) = ([("n", texts(["x"]))], [("n", ints([1]))]);
    let float: One = [("n", Arc::new(Float64Array::from(vec![1.0])))];
    for pair in [[&text, &number], [&number, &float], [&float, &text]] {
        let error = united(&[pair[0], pair[1]], None).await.unwrap_err();
        assert!(error.kind() == Kind::User && error.message().contains("`n` is"), "{error}");
        assert_eq!(error.place().table.as_deref(), Some("shop.orders"));
    }
}

#[tokio::test]
async fn a_key_that_is_null_nan_or_missing_is_a_data_error_that_names_file_and_row() {
    let null = [("id", ints([Some(1), None]))];
    let nan: One = [("id", Arc::new(Float64Array::from(vec![1.0, f64::NAN])))];
    for (file, what) in [(&null, "NULL"), (&nan, "NaN")] {
        let error = united(&[file], Some("id")).await.unwrap_err();
        assert_eq!((error.kind(), error.place().row), (Kind::Data, Some(1)), "{error}");
        assert!(error.message().contains(what), "{error}");
        assert_eq!(error.place().file.as_deref(), Some("mem/0.parquet"));
    }
    let (with, without): (One, One) = ([("id", ints([1]))], [("name", texts(["x"]))]);
    let error = united(&[&with, &without], Some("id")).await.unwrap_err();
    assert_eq!((error.kind(), error.place().file.as_deref()), (Kind::Data, Some("mem/1.parquet")), "{error}");
    assert!(error.message().contains("NULL"), "{error}");
}
