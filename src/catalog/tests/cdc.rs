//! The `_cdc_` columns: what they say of loads and changes, and what is refused.

use std::sync::Arc;

use arrow::array::{ArrayRef, TimestampMillisecondArray};

use super::table::scan;
use crate::catalog::cdc::CdcRules;
use crate::catalog::samples::{Shelf, batch, ints, parquet, plain_rules, texts};
use crate::catalog::shape::ReadRules;
use crate::config::Order;
use crate::error::{Error, Kind};

fn rules(order: Order, timestamp_column: Option<&str>) -> ReadRules {
    let timestamp_column = timestamp_column.map(str::to_owned);
    ReadRules { cdc: CdcRules { generation: 1, order, timestamp_column, purged_us: 0 }, ..plain_rules() }
}

async fn read(path: &str, rules: &ReadRules, columns: &[(&str, ArrayRef)], select: &str) -> Result<Vec<String>, Error> {
    let shelf = Shelf::default();
    let file = shelf.open(path, 1_678_890_622_000, parquet(&batch(columns.iter().cloned()), 2)).await;
    scan(vec![file], &[], rules, &format!("SELECT {select} FROM orders")).await.map_err(Error::of_rows)
}

async fn check(path: &str, rules: &ReadRules, columns: &[(&str, ArrayRef)], select: &str, expected: &[&str]) {
    assert_eq!(read(path, rules, columns, select).await.unwrap(), expected);
}

async fn check_refused(path: &str, rules: &ReadRules, columns: &[(&str, ArrayRef)], message: &str, row: Option<u64>) {
    let error = read(path, rules, columns, "_cdc_operation, _cdc_timestamp, _cdc_sequence").await.unwrap_err();
    assert!(error.message().contains(message), "{error}");
    assert_eq!((error.kind(), error.place().row), (Kind::Data, row), "{error}");
    assert_eq!(error.place().file, Some(format!("mem/{path}")));
}

#[tokio::test]
async fn a_change_says_what_it_is_and_a_load_row_is_an_insert() {
    let plain = plain_rules();
    let operations = || ("Op", texts(["I", "U", "D"]));
    check(
        "a.parquet",
        &plain,
        &[operations()],
        "_cdc_operation, _cdc_file, _cdc_row",
        &["I|mem/a.parquet|0", "U|mem/a.parquet|1", "D|mem/a.parquet|2"],
    )
    .await;
    check("LOAD1.parquet", &plain, &[("id", ints([1, 2]))], "_cdc_operation", &["I", "I"]).await;
    check("LOAD1.parquet", &plain, &[("Op", texts([Some("I"), None]))], "_cdc_operation", &["I", "I"]).await;
    check("a.parquet", &plain, &[("op", texts(["x"]))], "_cdc_operation, op", &["I|x"]).await;
    check_refused("a.parquet", &plain, &[("Op", texts(["I", "U", "u"]))], "`u` in column Op", Some(2)).await;
    check_refused("a.parquet", &plain, &[("Op", texts([Some("I"), None]))], "in column Op", Some(1)).await;
    check_refused("LOAD1.parquet", &plain, &[("Op", texts([""]))], "in column Op", Some(0)).await;
    check_refused("a.parquet", &plain, &[("Op", ints([1]))], "`1` in column Op", Some(0)).await;
}

#[tokio::test]
async fn the_commit_time_is_the_files_or_that_of_the_timestamp_column() {
    let named = rules(Order::BestEffort, Some("TS"));
    let text = || ("ts", texts(["2023-03-15 14:30:22.123456", "2023-03-15T14:30:22Z"]));
    let expected = ["2023-03-15T14:30:22.123456Z", "2023-03-15T14:30:22Z"];
    check("a.parquet", &named, &[text()], "_cdc_timestamp", &expected).await;
    let milliseconds = || Arc::new(TimestampMillisecondArray::from(vec![1_678_890_622_123, 0]));
    let expected = ["2023-03-15T14:30:22.123Z", "1970-01-01T00:00:00Z"];
    check("a.parquet", &named, &[("ts", milliseconds())], "_cdc_timestamp", &expected).await;
    let zoned = Arc::new(milliseconds().as_ref().clone().with_timezone("Asia/Seoul"));
    check("a.parquet", &named, &[("ts", zoned)], "_cdc_timestamp", &expected).await;
    let unnamed = plain_rules();
    check("a.parquet", &unnamed, &[text()], "DISTINCT _cdc_timestamp", &["2023-03-15T14:30:22Z"]).await;
    let half = || ("ts", texts([Some("2023-01-01 00:00:00"), None]));
    let expected = ["2023-01-01T00:00:00Z", "2023-03-15T14:30:22Z"];
    check("LOAD1.parquet", &named, &[half()], "_cdc_timestamp", &expected).await;
    check("LOAD1.parquet", &named, &[("id", ints([1]))], "_cdc_timestamp", &expected[1..]).await;
    check_refused("a.parquet", &named, &[half()], "commit time is NULL", Some(1)).await;
    check_refused("a.parquet", &named, &[("ts", texts(["soon"]))], "`soon` is not a TIMESTAMP", Some(0)).await;
    check_refused("a.parquet", &named, &[("ts", texts(["1969-12-31 23:59:59"]))], "before 1970", Some(0)).await;
    check_refused("a.parquet", &named, &[("id", ints([1]))], "no column `TS`", None).await;
}

#[tokio::test]
async fn sequences_sort_by_commit_time_then_file_then_row_and_loads_come_first() {
    let shelf = Shelf::default();
    let load = parquet(&batch([("id", ints([1, 2]))]), 1);
    let change =
        |times: [&str; 2]| parquet(&batch([("Op", texts(["U", "U"])), ("ts", texts(times)), ("id", ints([1, 2]))]), 1);
    let files = [
        ("b.parquet", 2_000, change(["2023-01-01 00:00:00", "2023-01-01 00:00:00.000001"])),
        ("a.parquet", 9_000, change(["2023-01-01 00:00:00", "2022-12-31 00:00:00"])),
        ("LOAD1.parquet", i64::from(i32::MAX), load),
    ];
    let named = rules(Order::BestEffort, Some("ts"));
    let mut all = Vec::new();
    for (path, time, bytes) in files {
        let file = shelf.open(path, time, bytes).await;
        all.extend(
            scan(vec![file], &[], &named, "SELECT _cdc_sequence, _cdc_file, _cdc_row FROM orders").await.unwrap(),
        );
    }
    all.sort_unstable();
    let order: Vec<&str> = all.iter().map(|line| line.split_once("|mem/").unwrap().1).collect();
    assert_eq!(
        order,
        ["LOAD1.parquet|0", "LOAD1.parquet|1", "a.parquet|1", "b.parquet|0", "a.parquet|0", "b.parquet|1"]
    );
}

#[tokio::test]
async fn an_exact_order_is_that_of_ar_h_change_seq_whatever_the_file_says() {
    let exact = rules(Order::Exact, None);
    let seqs = [
        "20230315143022450000000000000000123",
        "20230315143022450000000000000000122",
        "20230315143022440000000000000000999",
    ];
    let given = || [("Op", texts(["I", "U", "D"])), ("AR_H_CHANGE_SEQ", texts(seqs))];
    let time = 1_678_890_622_450_000_u64;
    let expected = [(time, 123, 1), (time, 122, 3), (time - 10_000, 999, 5)];
    let mut last = Vec::new();
    for path in ["a.parquet", "z.parquet"] {
        let got = read(path, &exact, &given(), "_cdc_sequence").await.unwrap();
        for (sequence, (time, counter, row)) in got.iter().zip(expected) {
            assert!(sequence.starts_with(&format!("{:016x}/{time:016x}/{counter:016x}/", 1)), "{sequence}");
            assert!(sequence.ends_with(&format!("{row:010x}")), "{sequence}");
        }
        assert_eq!(got.len(), expected.len());
        last.push(got);
    }
    assert_ne!(last[0], last[1], "two files that claim one place in the order must not tie");
    let load = read("LOAD1.parquet", &exact, &[("id", ints([1]))], "_cdc_sequence").await.unwrap();
    assert!(load[0].starts_with("0000000000000001/0000000000000000/"), "{load:?}");
    check_refused("a.parquet", &exact, &[("Op", texts(["I"]))], "no column `AR_H_CHANGE_SEQ`", None).await;
    let null = [("Op", texts(["I", "I"])), ("AR_H_CHANGE_SEQ", texts([Some(seqs[0]), None]))];
    check_refused("a.parquet", &exact, &null, "AR_H_CHANGE_SEQ is NULL", Some(1)).await;
    let short = [("Op", texts(["I"])), ("AR_H_CHANGE_SEQ", texts(["2023"]))];
    check_refused("a.parquet", &exact, &short, "`2023` is not a change sequence", Some(0)).await;
}

#[tokio::test]
async fn a_change_from_before_a_purge_is_too_late_and_so_is_a_row_of_a_load() {
    let mut rules = rules(Order::BestEffort, Some("at"));
    // 2023-03-15 14:30:00.
    rules.cdc.purged_us = 1_678_890_600_000_000;
    let (first, before) = (1_678_890_600_000, 1_678_890_599_999);
    let at = |times: [i64; 2]| [("at", Arc::new(TimestampMillisecondArray::from(times.to_vec())) as ArrayRef)];
    check("a.parquet", &rules, &at([first, first + 1]), "_cdc_row", &["0", "1"]).await;
    let message =
        "a change of 2023-03-15 14:29:59.999 UTC comes too late: what was deleted before 2023-03-15 14:30:00 UTC";
    check_refused("a.parquet", &rules, &at([first, before]), message, Some(1)).await;
    check_refused("LOAD1.parquet", &rules, &at([first, first]), "a row of the full load comes too late", Some(0)).await;
}
