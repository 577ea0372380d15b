//! Queries over folders of change files: every table found is there, inputs are united, assumptions told.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::TryStreamExt;
use object_store::ObjectStore;
use object_store::memory::InMemory;

use super::{AdHoc, FIRST_GENERATION, list};
use crate::catalog::layout::Layout;
use crate::catalog::samples::{batch, gzip, ints, lines, parquet, texts};
use crate::change::{ChangeFile, Half, SequenceBase, TableName};
use crate::config::Config;
use crate::error::{Error, Kind};
use crate::source::folder::{FolderSource, NothingKnown};
use crate::source::{Delivery, Received, Source};

fn write(folder: &Path, path: &str, content: impl AsRef<[u8]>) {
    let file = folder.join(path);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(file, content).unwrap();
}

/// Two databases; `orders` is in both, and its `amount` has two types in one of them.
fn lake() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let orders = |amount| parquet(&batch([("Op", texts(["I", "U"])), ("userId", ints([1, 2])), ("amount", amount)]), 1);
    write(at, "shop/orders/20230315-143022985.parquet", orders(ints([10, 20])));
    let decimals = arrow::array::Decimal128Array::from_iter_values([105, 205]).with_precision_and_scale(9, 1).unwrap();
    let later = orders(Arc::new(decimals));
    write(at, "shop/orders/20230316-143022985.parquet.gz", gzip(&later));
    write(at, "shop/users/20230316-143022985.csv", "Op,id\nI,007\n");
    write(at, "kiosk/orders/20230316-143022985.csv", "Op,id\nI,5\nD,5\n");
    write(at, "what is this.txt", "nothing");
    folder
}

async fn open(folder: &Path) -> Result<AdHoc, Error> {
    AdHoc::find(Config::for_folder(folder.to_str().unwrap())).await
}

/// The rows of every statement.
async fn query(found: &AdHoc, sql: &str) -> Result<Vec<String>, Error> {
    let mut rows = Vec::new();
    let prepared = found.prepare(sql).await?;
    for statement in prepared.statements.clone() {
        let stream = found.run(&prepared, statement).await?;
        rows.extend(lines(&stream.try_collect::<Vec<_>>().await.map_err(Error::of_rows)?));
    }
    Ok(rows)
}

/// Over files of two schemas.
const LATEST: &str = "SELECT \"userId\", amount FROM shop.orders QUALIFY row_number() OVER
    (PARTITION BY \"userId\" ORDER BY _cdc_sequence DESC) = 1 ORDER BY 1";

#[tokio::test]
async fn any_sql_runs_over_every_table_that_is_found() {
    let folder = lake();
    let found = open(folder.path()).await.unwrap();
    let tables: Vec<String> = found.tables().map(|(table, files)| format!("{table} {files}")).collect();
    assert_eq!(tables, ["kiosk.orders 1", "shop.orders 2", "shop.users 1"]);
    for (sql, expected) in [
        ("SELECT count(*) FROM shop.orders", &["4"][..]),
        ("select sum(AMOUNT), min(USERID) from SHOP.ORDERS", &["61.000000000|1"]),
        ("SELECT id FROM users", &["007"]),
        ("SELECT u.id FROM users u JOIN kiosk.orders o ON u.id <> o.id GROUP BY u.id", &["007"]),
        ("SELECT 1; SELECT 2", &["1", "2"]),
        ("WITH users AS (SELECT 3 AS x) SELECT x FROM users", &["3"]),
        ("SELECT DISTINCT _cdc_operation FROM kiosk.orders ORDER BY 1", &["D", "I"]),
        ("SELECT \"userId\" FROM shop.orders WHERE amount > 20 LIMIT 1", &["2"]),
        ("SELECT now() IS NOT NULL", &["true"]),
        (LATEST, &["1|10.500000000", "2|20.500000000"]),
        (&format!("SET freshet.latest_per_key = false; {LATEST}"), &["1|10.500000000", "2|20.500000000"]),
    ] {
        assert_eq!(query(&found, sql).await.unwrap(), expected, "{sql}");
    }
}

#[tokio::test]
async fn what_is_assumed_is_told_once() {
    let folder = lake();
    let found = open(folder.path()).await.unwrap();
    query(&found, "SELECT 1 FROM shop.orders").await.unwrap();
    let notes = found.take_notes();
    for part in
        ["no key is known", "ordered by their file's time", "`amount` is Int64 in some files and Decimal128(9, 1)"]
    {
        assert_eq!(notes.iter().filter(|note| note.contains(part)).count(), 1, "{part}: {notes:?}");
    }
    query(&found, "SELECT 1 FROM shop.orders").await.unwrap();
    assert_eq!(found.take_notes(), [""; 0]);
    query(&found, "SELECT 1 FROM users").await.unwrap();
    assert!(found.take_notes().iter().any(|note| note.contains("CSV columns are text")));
}

async fn check_refused(found: &AdHoc, sql: &str, message: &str, hint: &str) {
    let error = query(found, sql).await.unwrap_err();
    assert!(error.message().contains(message), "{sql}: {}", error.report());
    assert!(error.hint_text().unwrap_or_default().contains(hint), "{sql}: {}", error.report());
    assert_eq!(error.kind(), Kind::User, "{sql}");
}

#[tokio::test]
async fn what_cannot_be_asked_is_told_with_a_way_out() {
    let folder = lake();
    let found = open(folder.path()).await.unwrap();
    check_refused(&found, "SELECT * FROM orders", "`orders` is in several databases", "kiosk.orders, shop.orders")
        .await;
    check_refused(&found, "SELECT * FROM shop.order", "no table `shop.order`", "did you mean shop.orders?").await;
    check_refused(&found, "SELECT userid2 FROM shop.orders", "no column `userid2`", "did you mean `userId`").await;
    check_refused(&found, "SELEC 1", "cannot be read", "").await;
    check_refused(&found, "SELECT * FROM shop.orders WHERE", "cannot be read", "").await;
}

#[tokio::test]
async fn types_that_nothing_else_holds_are_read_as_text_and_that_is_told() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "s/t/20230315-143022985.parquet", parquet(&batch([("x", ints([1]))]), 1));
    write(folder.path(), "s/t/20230316-143022985.parquet", parquet(&batch([("x", texts(["a"]))]), 1));
    let found = open(folder.path()).await.unwrap();
    assert_eq!(query(&found, "SELECT x FROM t ORDER BY x").await.unwrap(), ["1", "a"]);
    let notes = found.take_notes();
    assert!(notes.iter().any(|note| note.contains("`x` is Int64 in some files and Utf8 in others; read as text")));
}

#[tokio::test]
async fn a_column_that_only_some_files_have_is_null_in_the_others_in_either_order() {
    for (first, second) in [("a", "b"), ("b", "a")] {
        let folder = tempfile::tempdir().unwrap();
        let both = |id, extra| parquet(&batch([("id", ints([id])), ("extra", texts([extra]))]), 1);
        write(
            folder.path(),
            &format!("s/t/2023031{}-143022985.parquet", if first == "a" { 5 } else { 6 }),
            both(1, "x"),
        );
        write(
            folder.path(),
            &format!("s/t/2023031{}-143022985.parquet", if second == "b" { 6 } else { 5 }),
            parquet(&batch([("id", ints([2]))]), 1),
        );
        let found = open(folder.path()).await.unwrap();
        assert_eq!(query(&found, "SELECT id, extra FROM t ORDER BY id").await.unwrap(), ["1|x", "2|NULL"]);
        assert_eq!(query(&found, "SELECT count(*) FROM t WHERE extra IS NULL").await.unwrap(), ["1"]);
    }
}

#[tokio::test]
async fn a_folder_without_change_files_is_the_users_error() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "readme.txt", "nothing");
    let error = open(folder.path()).await.err().unwrap();
    assert_eq!(error.kind(), Kind::User);
    assert!(error.message().contains("no change files were found"), "{error}");
}

#[tokio::test]
async fn a_sample_is_the_oldest_and_the_newest_files() {
    let folder = tempfile::tempdir().unwrap();
    for day in 10..20 {
        write(folder.path(), &format!("s/t/202303{day}-000000000.csv"), "id\n1\n");
    }
    let found = open(folder.path()).await.unwrap();
    let days = async |files_max| {
        let sample = found.sample(&crate::change::TableName::new("s", "t"), files_max).await.unwrap();
        sample.iter().map(|file| file.file.path.rsplit('/').next().unwrap()[6..8].to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(days(4).await, ["10", "11", "18", "19"]);
    assert_eq!(days(3).await, ["10", "18", "19"]);
    assert_eq!(days(1).await, ["19"]);
    assert_eq!(days(99).await.len(), 10);
}

#[tokio::test]
async fn sequences_are_those_of_a_run_which_knows_files_by_their_content() {
    let folder = lake();
    let found = open(folder.path()).await.unwrap();
    let got = query(&found, "SELECT _cdc_sequence FROM users").await.unwrap();
    let source = FolderSource::open(folder.path().to_str().unwrap(), Layout::known(), Arc::new(NothingKnown)).unwrap();
    let delivered = source.receive().await.unwrap().deliveries;
    let of_users = |file: &&ChangeFile| file.table == TableName::new("shop", "users");
    let file = delivered.iter().flat_map(|delivery| &delivery.files).find(of_users).unwrap();
    assert!(file.version.starts_with("12-"), "{}", file.version);
    let base = SequenceBase::new(file, FIRST_GENERATION);
    assert_eq!(got, [base.unwrap().best_effort(1_678_977_022_985_000, 0, Half::Whole).to_string()]);
}

#[tokio::test]
async fn what_a_file_holds_is_hashed_where_a_query_needs_its_version_and_must_be_what_was_found() {
    let folder = lake();
    let found = open(folder.path()).await.unwrap();
    // Its rows are in memory from here on.
    query(&found, "SELECT id FROM users").await.unwrap();
    write(folder.path(), "shop/users/20230316-143022985.csv", "Op,id\nI,another\n");
    assert_eq!(query(&found, "SELECT id, _cdc_operation FROM users").await.unwrap(), ["007|I"]);
    let error = query(&found, "SELECT id, _cdc_sequence FROM users").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Retry);
    assert!(error.report().contains("the file changed after it was found"), "{}", error.report());
    assert!(error.place().file.as_deref().is_some_and(|file| file.ends_with("143022985.csv")), "{}", error.report());
}

/// A file that is being written: whoever looks finds it larger.
struct Growing(AtomicU64);

#[async_trait]
impl Source for Growing {
    async fn receive(&self) -> Result<Received, Error> {
        let size = self.0.fetch_add(1, Ordering::Relaxed);
        if size > 100 {
            return Err(Error::bug("it is looked at without end"));
        }
        let file = ChangeFile { size, ..ChangeFile::sample("a") };
        Ok(Received { deliveries: vec![Delivery { files: vec![file], receipt: "a".into() }], left: Vec::new() })
    }

    async fn acknowledge(&self, _: &[Delivery]) -> Result<(), Error> {
        Ok(())
    }

    async fn give_back(&self, _: &[Delivery]) -> Result<(), Error> {
        Ok(())
    }

    fn store(&self) -> Arc<dyn ObjectStore> {
        Arc::new(InMemory::new())
    }

    fn pause(&self) -> Duration {
        Duration::ZERO
    }
}

#[tokio::test]
async fn a_file_that_is_being_written_is_found_once_as_it_was_last_seen() {
    let (tables, _) = list(&Growing(AtomicU64::new(1)), "data").await.unwrap();
    assert_eq!(tables.values().flatten().map(|file| file.size).collect::<Vec<_>>(), [2]);
}
