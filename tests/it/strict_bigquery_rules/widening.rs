//! The sink widens columns of the strict server, and whatever the order of batches the tables are the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, Decimal128Array, Decimal256Array, Int64Array, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, i256};
use datafusion::prelude::SessionContext;
use freshet::change::batch::CommitOutcome;
use freshet::config::OnDelete;
use freshet::error::Kind;
use freshet::sink::bigquery::BigQuerySink;
use freshet::sink::{Prepared, Rows, Sink, Target};

use super::sink::{attempt, merge, sink, target};
use crate::bigquery_sink;
use crate::strict_bigquery::{Options, StrictBigQuery};

const BIG: &str = "12345678901234567890123456789012345678.00000000000000000000000000000000000001";
const FINE: &str = "12345678901234567890.123456789";

/// Keys and amounts in types of their own, operations and sequences.
fn batch(number: u32) -> (ArrayRef, ArrayRef, [&'static str; 3], [&'static str; 3]) {
    let keys = |keys: [i64; 3]| -> ArrayRef { Arc::new(Int64Array::from(keys.to_vec())) };
    let units = FINE.replace('.', "").parse::<i128>().unwrap();
    match number {
        // 2⁵³ + 1 is no FLOAT64.
        1 => {
            let amounts = Int64Array::from(vec![i64::MAX, 9_007_199_254_740_993, -3]);
            (keys([1, 2, 4]), Arc::new(amounts), ["I", "I", "I"], ["01", "02", "03"])
        }
        2 => {
            let amounts = Decimal128Array::from(vec![units, -units, 0]).with_precision_and_scale(38, 9).unwrap();
            let keys = cast(&keys([1, 3, 4]), &DataType::Decimal128(38, 9)).unwrap();
            (keys, Arc::new(amounts), ["U", "I", "D"], ["04", "05", "06"])
        }
        _ => {
            let big = i256::from_string(&BIG.replace('.', "")).unwrap();
            let amounts = Decimal256Array::from(vec![big, big.wrapping_neg(), i256::ONE]);
            let amounts = amounts.with_precision_and_scale(76, 38).unwrap();
            (keys([3, 5, 6]), Arc::new(amounts), ["U", "I", "I"], ["07", "08", "09"])
        }
    }
}

fn rows(number: u32) -> Rows {
    let (keys, amounts, operations, sequences) = batch(number);
    let texts = |texts: [&str; 3]| -> ArrayRef { Arc::new(StringArray::from(texts.to_vec())) };
    let files = BinaryArray::from_iter_values(std::iter::repeat_n([7_u8; 16], 3));
    let columns: Vec<(&str, ArrayRef, bool)> = vec![
        ("id", keys, true),
        ("amount", amounts, true),
        ("_cdc_operation", texts(operations), true),
        ("_cdc_sequence", texts(sequences), true),
        ("_cdc_file_id", Arc::new(files), true),
    ];
    bigquery_sink::rows(RecordBatch::try_from_iter_with_nullable(columns).unwrap())
}

async fn prepare(sink: &BigQuerySink, target: &Target, number: u32) -> Prepared {
    let session = SessionContext::new();
    Box::pin(sink.prepare(target, &attempt(number), rows(number), &session)).await.unwrap()
}

/// As the pipeline does it: a batch whose columns another daemon has just made wider is made anew.
async fn prepare_among_others(sink: &BigQuerySink, target: &Target, number: u32) -> Prepared {
    for _ in 0..2 {
        let session = SessionContext::new();
        match Box::pin(sink.prepare(target, &attempt(number), rows(number), &session)).await {
            Err(error) if error.kind() == Kind::Retry => {}
            done => return done.unwrap(),
        }
    }
    prepare(sink, target, number).await
}

async fn commit(sink: &BigQuerySink, target: &Target, prepared: &Prepared) {
    assert_eq!(sink.commit(target, 1, prepared).await.unwrap(), CommitOutcome::Committed);
}

/// A number as text, however the server writes it.
fn number(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Key, amount and sequence of each row.
fn shown(server: &StrictBigQuery, table: &str) -> Vec<String> {
    let rows = server.table_rows(table);
    let mut out: Vec<_> = rows
        .iter()
        .map(|row| format!("{} {} {}", number(&row["id"]), number(&row["amount"]), number(&row["_cdc_sequence"])))
        .collect();
    out.sort();
    out
}

fn types(server: &StrictBigQuery, table: &str) -> BTreeMap<String, String> {
    let resource = server.table(table).unwrap();
    let fields = resource["schema"]["fields"].as_array().unwrap().iter();
    let of = |field: &serde_json::Value, part: &str| field[part].as_str().unwrap().to_owned();
    fields.map(|field| (of(field, "name"), of(field, "type"))).collect()
}

fn statements(server: &StrictBigQuery) -> Vec<String> {
    let posted = server.requests_of("POST").into_iter();
    let sql =
        posted.filter_map(|request| Some(request.body.pointer("/configuration/query/query")?.as_str()?.to_owned()));
    sql.filter(|sql| sql.starts_with("ALTER TABLE")).collect()
}

#[tokio::test]
async fn whatever_the_order_of_types_the_tables_are_the_same_and_exact() {
    let mut tables = Vec::new();
    for order in [[1, 2, 3], [3, 2, 1], [2, 3, 1]] {
        let server = StrictBigQuery::start(Options { job_polls: 1, ..Options::default() }).await;
        let (sink, target) = (sink(&server), target(OnDelete::Remove));
        for number in order {
            let prepared = prepare(&sink, &target, number).await;
            commit(&sink, &target, &prepared).await;
            merge(&sink, &target, number).await;
        }
        let expected = [
            format!("1 {FINE} 04"),
            "2 9007199254740993 02".to_owned(),
            format!("3 {BIG} 07"),
            format!("5 -{BIG} 08"),
            "6 0.00000000000000000000000000000000000001 09".to_owned(),
        ];
        assert_eq!(shown(&server, "shop.orders"), expected, "{order:?}");
        assert_eq!(shown(&server, "shop.orders_live"), expected, "{order:?}");
        for table in ["shop.orders", "shop.orders_changes"] {
            let types = types(&server, table);
            assert_eq!((types["id"].as_str(), types["amount"].as_str()), ("NUMERIC", "BIGNUMERIC"), "{order:?}");
        }
        tables.push((shown(&server, "shop.orders_changes"), shown(&server, "shop.orders")));
    }
    assert!(tables[0].0.contains(&"1 9223372036854775807 01".to_owned()), "{:?}", tables[0].0);
    assert!(tables.iter().all(|table| *table == tables[0]), "{tables:?}");
}

#[tokio::test]
async fn columns_are_widened_together_and_what_is_wide_enough_is_left_alone() {
    let server = StrictBigQuery::start(Options::default()).await;
    let (sink, target) = (sink(&server), target(OnDelete::Remove));
    for number in 1..=3 {
        prepare(&sink, &target, number).await;
    }
    prepare(&sink, &target, 1).await;
    let table = "ALTER TABLE `test-project`.`shop`.`orders_changes`";
    let expected = [
        "ALTER COLUMN `id` SET DATA TYPE NUMERIC, ALTER COLUMN `amount` SET DATA TYPE NUMERIC",
        "ALTER COLUMN `amount` SET DATA TYPE BIGNUMERIC",
    ];
    assert_eq!(statements(&server), expected.map(|what| format!("{table} {what}")));
}

#[tokio::test]
async fn daemons_that_widen_at_once_do_not_hinder_each_other() {
    let server = StrictBigQuery::start(Options { job_polls: 2, ..Options::default() }).await;
    let (one, other, target) = (sink(&server), sink(&server), target(OnDelete::Remove));
    let first = prepare(&one, &target, 1).await;
    prepare(&other, &target, 1).await;
    commit(&one, &target, &first).await;
    let (second, third) =
        futures::join!(prepare_among_others(&one, &target, 2), prepare_among_others(&other, &target, 3));
    commit(&one, &target, &second).await;
    commit(&other, &target, &third).await;
    let types = types(&server, "shop.orders_changes");
    assert_eq!((types["id"].as_str(), types["amount"].as_str()), ("NUMERIC", "BIGNUMERIC"));
    for number in [3, 1, 2] {
        merge(if number == 1 { &one } else { &other }, &target, number).await;
    }
    assert_eq!(server.row_count("shop.orders_changes"), 9);
    assert_eq!(shown(&server, "shop.orders")[0], format!("1 {FINE} 04"));
}
