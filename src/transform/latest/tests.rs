//! Latest per key in two passes gives what sorting gives, whatever the query, the types, the files and the memory.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, StringArray};
use datafusion::catalog::TableProvider;
use datafusion::datasource::{ViewTable, provider_as_source};
use datafusion::execution::memory_pool::GreedyMemoryPool;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::logical_expr::LogicalPlanBuilder;
use datafusion::prelude::SessionContext;

use crate::catalog::opened::OpenedFile;
use crate::catalog::samples::{Shelf, batch, gzip, ints, lines, parquet, plain_rules};
use crate::catalog::shape::{ReadRules, TableShape};
use crate::catalog::table::ChangeTable;
use crate::transform::session;
use crate::trial::dice::Dice;

const LETTERS: [&str; 5] = ["a", "b", "ä", "", "long enough to be no short text, of more than one block"];
const FLOATS: [f64; 6] = [0.0, -0.0, 1.5, f64::NAN, f64::INFINITY, -2.0];

/// Nothing, once in five times.
fn perhaps<T>(dice: &mut Dice, some: impl FnOnce(&mut Dice) -> T) -> Option<T> {
    (dice.below(5) > 0).then(|| some(dice))
}

fn number(dice: &mut Dice, end: u64) -> i64 {
    i64::try_from(dice.below(end)).unwrap() - 2
}

/// A file's rows: keys of few values, orders with ties, and what tells each row from all others.
fn columns(dice: &mut Dice, file: u64) -> Vec<(&'static str, ArrayRef)> {
    let count = dice.below(60);
    let texts = |dice: &mut Dice, some: &[&'static str]| -> ArrayRef {
        Arc::new((0..count).map(|_| perhaps(dice, |dice| *dice.pick(some))).collect::<StringArray>())
    };
    let integers =
        |dice: &mut Dice, end| ints((0..count).map(|_| perhaps(dice, |dice| number(dice, end))).collect::<Vec<_>>());
    let operations = (0..count).map(|_| Some(*dice.pick(&["I", "U", "U", "D"]))).collect::<StringArray>();
    vec![
        ("Op", Arc::new(operations)),
        ("k", integers(dice, 8)),
        ("BI_k", integers(dice, 8)),
        ("name", texts(dice, &LETTERS)),
        ("seen", integers(dice, 6)),
        ("price", Arc::new((0..count).map(|_| perhaps(dice, |dice| *dice.pick(&FLOATS))).collect::<Float64Array>())),
        ("row", ints((0..count).map(|row| i64::try_from(file * 1_000 + row).unwrap()))),
    ]
}

async fn files(dice: &mut Dice) -> Vec<Arc<OpenedFile>> {
    let shelf = Shelf::default();
    let mut files = Vec::new();
    for file in 0..1 + dice.below(4) {
        let content = parquet(&batch(columns(dice, file)), usize::try_from(1 + dice.below(20)).unwrap());
        let time = i64::try_from(dice.below(3)).unwrap();
        let opened = match dice.below(2) {
            0 => shelf.open(&format!("{file}.parquet"), time, content).await,
            _ => shelf.open(&format!("{file}.parquet.gz"), time, gzip(&content)).await,
        };
        files.push(opened);
    }
    files
}

/// Key updates are split, now and then.
fn rules(dice: &mut Dice) -> ReadRules {
    let key = if dice.below(2) == 0 { vec!["k".to_owned()] } else { Vec::new() };
    ReadRules { key, ..plain_rules() }
}

/// The files as one table, or as the union of two.
fn table(files: &[Arc<OpenedFile>], rules: &ReadRules, as_two: bool) -> Arc<dyn TableProvider> {
    let table = |files: &[Arc<OpenedFile>]| -> Arc<dyn TableProvider> {
        let shape = TableShape::new(&files[0].schema, &[], rules).unwrap();
        Arc::new(ChangeTable::new(files.to_vec(), shape, rules.clone(), false).unwrap())
    };
    if !as_two || files.len() < 2 {
        return table(files);
    }
    let scan = |files| LogicalPlanBuilder::scan("shop.orders", provider_as_source(table(files)), None).unwrap();
    let (one, other) = files.split_at(1);
    let union = scan(one).union(scan(other).build().unwrap()).unwrap();
    Arc::new(ViewTable::new(union.build().unwrap(), None))
}

fn in_session(table: &Arc<dyn TableProvider>, runtime: Arc<RuntimeEnv>, partitions: usize) -> SessionContext {
    let session = session::new(runtime, "shop", partitions);
    session.register_table("orders", Arc::clone(table)).unwrap();
    session
}

async fn rows(session: &SessionContext, sql: &str) -> Vec<String> {
    let frame = session.sql(sql).await.unwrap_or_else(|cause| panic!("{sql}: {cause}"));
    let mut rows = lines(&frame.collect().await.unwrap_or_else(|cause| panic!("{sql}: {cause}")));
    rows.sort_unstable();
    rows
}

/// The rows as DataFusion itself finds them, by sorting.
async fn sorted(session: &SessionContext, sql: &str) -> Vec<String> {
    session.sql("SET freshet.latest_per_key = false").await.unwrap();
    let found = rows(session, sql).await;
    session.sql("SET freshet.latest_per_key = true").await.unwrap();
    found
}

async fn plan(session: &SessionContext, sql: &str) -> String {
    rows(session, &format!("EXPLAIN {sql}")).await.join("\n")
}

/// A query as people write them; its order ends with `order`, or is that of changes.
fn query(dice: &mut Dice, order: &str) -> String {
    let keys = *dice.pick(&["k", "name", "k, name", "price", "k + 1", "name, price, k"]);
    let by = *dice.pick(&["seen DESC", "seen", "price DESC NULLS LAST", "name NULLS FIRST, seen DESC", "abs(seen)"]);
    let below = *dice.pick(&["", "WHERE seen > 0", "WHERE name IS NOT NULL AND k < 4", "WHERE _cdc_operation <> 'D'"]);
    let above = *dice.pick(&["", "AND _cdc_operation <> 'D'", "AND k > 0", "AND seen IS NULL"]);
    let total = *dice.pick(&["_cdc_sequence DESC", "_cdc_sequence"]);
    let ordered = if dice.below(3) == 0 { total.to_owned() } else { format!("{by}{order}") };
    let window = format!("row_number() OVER (PARTITION BY {keys} ORDER BY {ordered})");
    match dice.below(4) {
        0 => format!("SELECT * FROM orders {below} QUALIFY {window} = 1"),
        1 => format!(
            "SELECT k, seen, name, price FROM (SELECT *, {window} AS n FROM orders {below}) AS o WHERE n = 1 {above}"
        ),
        2 => format!(
            "WITH o AS (SELECT *, {window} AS n FROM orders {below}) SELECT n, seen, k FROM o WHERE 1 >= n {above}"
        ),
        _ => format!(
            "SELECT count(*), sum(k), max(name) FROM (SELECT *, {window} AS n FROM orders {below}) WHERE n < 2 {above}"
        ),
    }
}

#[tokio::test]
async fn where_the_order_is_total_two_passes_give_what_sorting_gives() {
    for seed in 0..60 {
        let mut dice = Dice::new(seed);
        let (files, rules) = (files(&mut dice).await, rules(&mut dice));
        let table = table(&files, &rules, dice.below(2) == 0);
        for _ in 0..4 {
            let sql = query(&mut dice, ", _cdc_sequence DESC");
            for partitions in [1, 3] {
                let session = in_session(&table, Arc::default(), partitions);
                let plan = plan(&session, &sql).await;
                assert!(plan.contains("LatestPerKeyExec"), "seed {seed}: {sql}\n{plan}");
                let expected = sorted(&session, &sql).await;
                assert_eq!(rows(&session, &sql).await, expected, "seed {seed}, {partitions} partitions: {sql}");
            }
        }
    }
}

#[tokio::test]
async fn on_ties_one_of_the_candidates_is_found_and_always_the_same() {
    for seed in 100..140 {
        let mut dice = Dice::new(seed);
        let (mut files, rules) = (files(&mut dice).await, rules(&mut dice));
        let window = "row_number() OVER (PARTITION BY k ORDER BY seen DESC) AS n";
        let which = format!("SELECT _cdc_file, _cdc_row FROM (SELECT *, {window} FROM orders) WHERE n = 1");
        let what = format!("SELECT k, seen FROM (SELECT *, {window} FROM orders) WHERE n = 1");
        let mut first = None;
        for partitions in [1, 2, 5] {
            files.reverse();
            let session = in_session(&table(&files, &rules, partitions == 2), Arc::default(), partitions);
            assert_eq!(rows(&session, &what).await, sorted(&session, &what).await, "seed {seed}");
            let found = rows(&session, &which).await;
            assert_eq!(*first.get_or_insert_with(|| found.clone()), found, "seed {seed}, {partitions} partitions");
        }
    }
}

#[tokio::test]
async fn what_is_not_latest_per_key_or_not_of_change_files_is_sorted_as_before() {
    let mut dice = Dice::new(7);
    let (files, rules) = (files(&mut dice).await, rules(&mut dice));
    let session = in_session(&table(&files, &rules, false), Arc::default(), 2);
    session.sql("CREATE TABLE copied AS SELECT * FROM orders").await.unwrap();
    let window = "OVER (PARTITION BY k ORDER BY seen) AS n";
    for sql in [
        format!("SELECT * FROM (SELECT *, row_number() {window} FROM orders) WHERE n = 2"),
        format!("SELECT * FROM (SELECT *, row_number() {window} FROM orders) WHERE n > 1"),
        format!("SELECT * FROM (SELECT *, row_number() {window} FROM orders) WHERE n = 1 OR k = 2"),
        format!("SELECT * FROM (SELECT *, rank() {window} FROM orders) WHERE n = 1"),
        format!("SELECT * FROM (SELECT *, row_number() {window} FROM copied) WHERE n = 1"),
        format!("SELECT * FROM (SELECT *, row_number() {window} FROM orders WHERE random() < 2) WHERE n = 1"),
        format!("SELECT * FROM (SELECT *, row_number() {window} FROM orders WHERE k IN (SELECT k FROM copied)) WHERE n = 1"),
        "SELECT * FROM (SELECT *, row_number() OVER (ORDER BY seen) AS n FROM orders) WHERE n = 1".to_owned(),
        "SELECT k FROM (SELECT *, row_number() OVER (PARTITION BY k ORDER BY seen) AS n, row_number() OVER (PARTITION BY name ORDER BY seen) AS m FROM orders) WHERE n = 1 AND m = 1".to_owned(),
    ] {
        assert!(!plan(&session, &sql).await.contains("LatestPerKeyExec"), "{sql}");
    }
}

#[tokio::test]
async fn what_has_no_room_in_memory_is_written_out_and_chosen_from_all_the_same() {
    let shelf = Shelf::default();
    let count = 40_000_u64;
    let column = |of: &dyn Fn(u64) -> u64| ints((0..count).map(|row| i64::try_from(of(row)).unwrap()));
    let names: StringArray = (0..count).map(|row| Some(format!("{:0>60}", row % 30_000))).collect();
    let content = batch([("k", Arc::new(names) as ArrayRef), ("seen", column(&|row| row * 7_919 % 10_007))]);
    let file = shelf.open("1.parquet", 1, parquet(&content, 1_000)).await;
    let table = table(&[file], &plain_rules(), false);
    let sql = "SELECT k, seen FROM orders QUALIFY row_number() OVER (PARTITION BY k ORDER BY seen DESC) = 1";
    let expected = sorted(&in_session(&table, Arc::default(), 2), sql).await;
    assert_eq!(expected.len(), 30_000);
    for pool_bytes in [3 << 20, 5 << 20] {
        let pool = Arc::new(GreedyMemoryPool::new(pool_bytes));
        let runtime = RuntimeEnvBuilder::new().with_memory_pool(pool).build_arc().unwrap();
        let session = in_session(&table, runtime, 1);
        assert!(rows(&session, sql).await == expected, "{pool_bytes}");
        let analyzed = rows(&session, &format!("EXPLAIN ANALYZE {sql}")).await.join("\n");
        let exec = analyzed.lines().find(|line| line.contains("LatestPerKeyExec")).unwrap().to_owned();
        assert!(exec.contains("keys=30.00 K") || exec.contains("keys=30000"), "{exec}");
        assert!(!exec.contains("spilled_bytes=0") && exec.contains("spilled_bytes="), "{exec}");
    }
}

#[tokio::test]
async fn two_of_them_in_one_query_are_not_held_for_the_same() {
    let shelf = Shelf::default();
    let content =
        batch([("k", ints([1, 1, 2, 2, 2])), ("seen", ints([5, 9, 1, 2, 3])), ("v", ints([10, 20, 1, 2, 4]))]);
    let file = shelf.open("1.parquet", 1, parquet(&content, 2)).await;
    let session = in_session(&table(&[file], &plain_rules(), false), Arc::default(), 2);
    let first = |order: &str| {
        format!("(SELECT *, row_number() OVER (PARTITION BY k ORDER BY seen {order}) AS n FROM orders WHERE v < 20)")
    };
    let (up, down) = (first("ASC"), first("DESC"));
    for sql in [
        format!("SELECT (SELECT sum(v) FROM {up} WHERE n = 1) AS a, (SELECT sum(v) FROM {down} WHERE n = 1) AS b"),
        format!(
            "SELECT (SELECT count(*) FROM {up} WHERE n = 1) AS a, (SELECT count(*) FROM {down} WHERE n = 1 AND v > 4) AS b"
        ),
        format!("SELECT a.k, a.v, b.v FROM {up} AS a JOIN {down} AS b ON a.k = b.k WHERE a.n = 1 AND b.n = 1"),
        format!("SELECT v FROM {up} WHERE n = 1 UNION SELECT v FROM {down} WHERE n = 1"),
        format!("WITH l AS (SELECT * FROM {up} WHERE n = 1) SELECT a.v, b.v FROM l AS a JOIN l AS b ON a.k < b.k"),
    ] {
        let expected = sorted(&session, &sql).await;
        assert_eq!(rows(&session, &sql).await, expected, "{sql}");
        assert!(plan(&session, &sql).await.matches("LatestPerKeyExec").count() > 1, "{sql}");
    }
}

#[tokio::test]
async fn a_prepared_statement_takes_other_values_each_time() {
    let shelf = Shelf::default();
    let content = batch([("k", ints([1, 1, 2, 2])), ("seen", ints([5, 9, 1, 2])), ("v", ints([10, 20, 1, 2]))]);
    let file = shelf.open("1.parquet", 1, parquet(&content, 2)).await;
    let session = in_session(&table(&[file], &plain_rules(), false), Arc::default(), 2);
    let latest = "row_number() OVER (PARTITION BY k ORDER BY seen DESC) = 1";
    rows(&session, &format!("PREPARE below(BIGINT) AS SELECT v FROM orders WHERE v < $1 QUALIFY {latest}")).await;
    rows(
        &session,
        &format!("PREPARE above(BIGINT) AS SELECT v FROM (SELECT * FROM orders QUALIFY {latest}) WHERE v < $1"),
    )
    .await;
    for (sql, expected) in [
        ("EXECUTE below(15)", &["10", "2"][..]),
        ("EXECUTE below(2)", &["1"]),
        ("EXECUTE above(15)", &["2"]),
        ("EXECUTE above(25)", &["2", "20"]),
    ] {
        assert_eq!(rows(&session, sql).await, expected, "{sql}");
    }
}

#[tokio::test]
async fn of_csv_files_and_by_keys_of_any_type_the_same_rows_are_found() {
    let shelf = Shelf::default();
    let mut csv = String::from("Op,k,seen,at\n");
    for row in 0..200 {
        csv += &format!("I,{},{},2024-05-{:02} 01:02:03\n", row % 7, row * 13 % 17, 1 + row % 5);
    }
    let opened = [shelf.open("1.csv", 1, csv.clone()).await, shelf.open("2.csv.gz", 2, gzip(csv.as_bytes())).await];
    let session = in_session(&table(&opened, &plain_rules(), false), Arc::default(), 2);
    for key in
        ["k", "CAST(at AS TIMESTAMP)", "CAST(at AS DATE)", "CAST(k AS DECIMAL(9, 2))", "CAST(k AS DOUBLE)", "k = '1'"]
    {
        for order in ["CAST(seen AS BIGINT)", "CAST(seen AS INT) DESC", "CAST(at AS DATE) DESC"] {
            let window = format!("row_number() OVER (PARTITION BY {key} ORDER BY {order}, _cdc_sequence) = 1");
            let sql = format!("SELECT k, seen, at, _cdc_file, _cdc_row FROM orders QUALIFY {window}");
            let expected = sorted(&session, &sql).await;
            assert_eq!(rows(&session, &sql).await, expected, "{sql}");
            assert!(plan(&session, &sql).await.contains("LatestPerKeyExec"), "{sql}");
        }
    }
}
