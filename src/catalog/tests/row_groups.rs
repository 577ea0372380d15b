//! Parquet of many row groups: every row, numbered, from wherever its bytes lie.

use futures::TryStreamExt;

use crate::catalog::inflate::StagingLimits;
use crate::catalog::opened::{OpenedFile, RawRows, ReadRequest};
use crate::catalog::samples::{ROOMY, Shelf, batch, gzip, ints, lines, parquet, texts};
use crate::config::CsvConfig;
use crate::error::{Kind, Result};

pub(super) async fn read(file: &OpenedFile, columns: Vec<usize>, batch_rows: usize) -> Result<Vec<RawRows>> {
    file.read(ReadRequest { columns, predicate: None, row_groups: None, rows: None, batch_rows }).try_collect().await
}

/// Row numbers, then the columns, as text.
fn numbered(parts: &[RawRows]) -> (Vec<i64>, Vec<String>) {
    let numbers = parts.iter().flat_map(|part| part.rows.values().to_vec()).collect();
    (numbers, parts.iter().flat_map(|part| lines(std::slice::from_ref(&part.columns))).collect())
}

const ROWS: i64 = 60_000;

/// 60 row groups of 1,000 rows.
fn many_groups() -> Vec<u8> {
    let names: Vec<String> = (0..ROWS).map(|n| format!("n{}", n % 977)).collect();
    let names = texts(names.iter().map(|name| (!name.ends_with('7')).then_some(name.as_str())));
    parquet(
        &batch([("id", ints((0..ROWS).map(|n| n * 3))), ("name", names), ("low", ints((0..ROWS).map(|n| n % 5)))]),
        1_000,
    )
}

async fn check_every_row(path: &str, stored: Vec<u8>, limits: StagingLimits) {
    let shelf = Shelf::default();
    let file = shelf.put(path, 1, stored).await;
    let opened = shelf.opener_within(limits).open(file, &CsvConfig::default()).await.unwrap();
    assert_eq!(opened.rows(), Some(60_000));
    let ids: Vec<String> = (0..ROWS).map(|n| (n * 3).to_string()).collect();
    for batch_rows in [997, 8_192, 1_000_000] {
        let (numbers, got) = numbered(&read(&opened, vec![0], batch_rows).await.unwrap());
        assert!(numbers == (0..ROWS).collect::<Vec<_>>(), "{path}, {batch_rows} rows a batch: row numbers");
        assert!(got == ids, "{path}, {batch_rows} rows a batch: values");
    }
}

#[tokio::test]
async fn a_gzipped_parquet_of_sixty_row_groups_gives_every_row_from_memory_and_from_a_staging_file() {
    let plain = many_groups();
    check_every_row("a.parquet", plain.clone(), ROOMY).await;
    check_every_row("a.parquet.gz", gzip(&plain), ROOMY).await;
    check_every_row("a.parquet.gz", gzip(&plain), StagingLimits { file_memory_bytes_max: 10, ..ROOMY }).await;
    check_every_row("a.parquet.gz", gzip(&plain), StagingLimits { memory_bytes_max: 70_000, ..ROOMY }).await;
}

#[tokio::test]
async fn columns_come_in_the_order_they_are_asked_for_or_not_at_all() {
    let shelf = Shelf::default();
    let opened = shelf.open("a.parquet", 1, many_groups()).await;
    let value = |column: usize, n: i64| match column {
        0 => (n * 3).to_string(),
        1 if (n % 977) % 10 == 7 => "NULL".into(),
        1 => format!("n{}", n % 977),
        _ => (n % 5).to_string(),
    };
    for columns in [vec![2, 0], vec![0, 2], vec![2, 1, 0], vec![1]] {
        let expected: Vec<String> =
            (0..ROWS).map(|n| columns.iter().map(|column| value(*column, n)).collect::<Vec<_>>().join("|")).collect();
        let (_, got) = numbered(&read(&opened, columns.clone(), 8_192).await.unwrap());
        assert!(got == expected, "{columns:?}");
    }
    let none = read(&opened, vec![], 8_192).await.unwrap();
    assert_eq!(none.iter().map(|part| part.columns.num_rows()).sum::<usize>(), 60_000);
    assert!(none.iter().all(|part| part.columns.num_columns() == 0 && part.rows.len() == part.columns.num_rows()));
}

#[tokio::test]
async fn parquet_cut_off_or_damaged_is_a_data_error_that_names_the_file() {
    let whole = parquet(&batch([("id", ints(0..5_000))]), 1_000);
    let shelf = Shelf::default();
    for len in [1, 8, whole.len() / 2, whole.len() - 8, whole.len() - 1] {
        let file = shelf.put("cut.parquet", 1, whole[..len].to_vec()).await;
        let error = shelf.opener().open(file, &CsvConfig::default()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Data, "{error}");
        assert_eq!(error.place().file.as_deref(), Some("mem/cut.parquet"));
        assert_eq!(error.place().table.as_deref(), Some("shop.orders"));
    }
    let mut damaged = whole.clone();
    damaged[4..whole.len() / 2].fill(0xff);
    let opened = shelf.open("damaged.parquet", 1, damaged).await;
    let error = read(&opened, vec![0], 1_000).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Data, "{error}");
    assert_eq!(error.place().file.as_deref(), Some("mem/damaged.parquet"));
}

#[tokio::test]
async fn a_parquet_file_of_no_rows_or_no_row_groups_gives_no_rows() {
    let shelf = Shelf::default();
    let opened = shelf.open("none.parquet", 1, parquet(&batch([("id", ints(0..0))]), 1_000)).await;
    let (numbers, got) = numbered(&read(&opened, vec![0], 100).await.unwrap());
    assert_eq!((numbers, got), (vec![], vec![]));
    assert_eq!(opened.rows(), Some(0));
}
