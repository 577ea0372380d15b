//! CSV files through the opener: names from a header or from configuration, values as the text they are.

use futures::TryStreamExt;

use crate::catalog::inflate::StagingLimits;
use crate::catalog::opened::ReadRequest;
use crate::catalog::samples::{ROOMY, Shelf, gzip, lines};
use crate::config::CsvConfig;
use crate::error::{Error, Kind, Result};

/// Names, row numbers and rows of a file, read in batches of two.
async fn read(config: &CsvConfig, text: &str) -> Result<(Vec<String>, Vec<i64>, Vec<String>)> {
    let shelf = Shelf::default();
    let staged = StagingLimits { file_memory_bytes_max: 0, ..ROOMY };
    let mut first = None;
    for (path, bytes, limits) in [
        ("a.csv", text.as_bytes().to_vec(), ROOMY),
        ("a.csv.gz", gzip(text.as_bytes()), ROOMY),
        ("b.csv.gz", gzip(text.as_bytes()), staged),
    ] {
        let opened = shelf.opener_within(limits).open(shelf.put(path, 1, bytes).await, config).await?;
        let columns = (0..opened.schema.fields().len()).collect();
        let request = ReadRequest { columns, predicate: None, row_groups: None, rows: None, batch_rows: 2 };
        let parts: Vec<_> = opened.read(request).try_collect().await?;
        let names = opened.schema.fields().iter().map(|field| field.name().clone()).collect();
        let numbers = parts.iter().flat_map(|part| part.rows.values().to_vec()).collect();
        let rows = parts.iter().flat_map(|part| lines(std::slice::from_ref(&part.columns))).collect();
        let got = (names, numbers, rows);
        assert_eq!(*first.get_or_insert_with(|| got.clone()), got, "{path}");
    }
    first.ok_or_else(|| Error::bug("nothing was read"))
}

async fn check(config: &CsvConfig, text: &str, names: &[&str], rows: &[&str]) {
    let got = read(config, text).await.unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let rows: Vec<String> = rows.iter().map(|row| (*row).to_owned()).collect();
    let numbers = (0..i64::try_from(rows.len()).unwrap()).collect();
    assert_eq!(got, (names, numbers, rows), "{text:?}");
}

fn headless(columns: &[&str]) -> CsvConfig {
    let columns = columns.iter().map(|name| (*name).to_owned()).collect();
    CsvConfig { header: false, columns, ..CsvConfig::default() }
}

#[tokio::test]
async fn a_header_names_the_columns_and_values_stay_text() {
    let plain = CsvConfig::default();
    check(
        &plain,
        "Op,id,한글\nI,007,가\nU,1e3,\"x,\"\"y\"\"\"\nD,,NULL\n",
        &["Op", "id", "한글"],
        &["I|007|가", "U|1e3|x,\"y\"", "D||NULL"],
    )
    .await;
    check(&plain, "id\n1\n2\n3", &["id"], &["1", "2", "3"]).await;
    check(&plain, "a,b\r\n1,2\r\n", &["a", "b"], &["1|2"]).await;
    check(&plain, "a,b\n\"one\ntwo\",2\n", &["a", "b"], &["one\ntwo|2"]).await;
    check(&plain, "a,b\n", &["a", "b"], &[]).await;
}

#[tokio::test]
async fn configured_names_replace_the_header_or_stand_for_it() {
    check(&headless(&["Op", "id"]), "I,1\nU,2\n", &["Op", "id"], &["I|1", "U|2"]).await;
    let both = CsvConfig { header: true, ..headless(&["Op", "id"]) };
    check(&both, "x,y\nI,1\n", &["Op", "id"], &["I|1"]).await;
}

#[tokio::test]
async fn the_null_text_and_the_delimiter_are_as_configured() {
    let config = CsvConfig { null: "\\N".into(), delimiter: '\t', ..CsvConfig::default() };
    check(&config, "a\tb\n\\N\tNULL\nx\\N\t\n", &["a", "b"], &["NULL|NULL", "x\\N|"]).await;
    let config = CsvConfig { null: "a.c".into(), delimiter: ';', ..CsvConfig::default() };
    let got = read(&config, "x;y\nabc;a.c\n").await.unwrap();
    assert_eq!(got.2, ["abc|NULL"], "the null text is no pattern");
    let config = CsvConfig { null: String::new(), ..CsvConfig::default() };
    check(&config, "a,b\n,NULL\n", &["a", "b"], &["NULL|NULL"]).await;
}

async fn check_refused(config: &CsvConfig, text: &str, kind: Kind, message: &str) {
    let error = read(config, text).await.unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.message().contains(message), "{error}");
    assert!(error.place().file.as_deref().is_some_and(|file| file.starts_with("mem/")), "{error}");
}

#[tokio::test]
async fn what_is_no_csv_of_these_columns_is_a_data_error_and_a_missing_header_the_users() {
    let plain = CsvConfig::default();
    check_refused(&plain, "a,b\n1\n", Kind::Data, "not readable CSV").await;
    check_refused(&plain, "a,b\n1,2,3\n", Kind::Data, "not readable CSV").await;
    check_refused(&headless(&["a"]), "1,2\n", Kind::Data, "not readable CSV").await;
    check_refused(&headless(&[]), "1,2\n", Kind::User, "needs its columns' names").await;
    let wide = CsvConfig { delimiter: '→', ..plain };
    check_refused(&wide, "a\n", Kind::User, "not one byte").await;
}

#[tokio::test]
async fn text_that_is_not_utf8_is_a_data_error() {
    let shelf = Shelf::default();
    let opened = shelf.open("a.csv", 1, b"a\n\xff\xfe\n".to_vec()).await;
    let request = ReadRequest { columns: vec![0], predicate: None, row_groups: None, rows: None, batch_rows: 10 };
    let error = opened.read(request).try_collect::<Vec<_>>().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Data, "{error}");
}

#[tokio::test]
async fn columns_come_in_the_order_they_are_asked_for_or_not_at_all() {
    let shelf = Shelf::default();
    let opened = shelf.open("a.csv", 1, b"a,b,c\n1,2,3\n4,5,6\n".to_vec()).await;
    for (columns, expected) in [(vec![2, 0], ["3|1", "6|4"]), (vec![1], ["2", "5"]), (vec![], ["", ""])] {
        let request =
            ReadRequest { columns: columns.clone(), predicate: None, row_groups: None, rows: None, batch_rows: 10 };
        let parts: Vec<_> = opened.read(request).try_collect().await.unwrap();
        assert_eq!(
            parts.iter().flat_map(|part| lines(std::slice::from_ref(&part.columns))).collect::<Vec<_>>(),
            expected,
            "{columns:?}"
        );
    }
}
