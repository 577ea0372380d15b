//! Change files, and ledgers, in S3: a server that speaks its protocol, listed and read by the program.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use chrono::DateTime;
use freshet::catalog::content::{Refusal, Stored, refusal, store_error};
use freshet::catalog::layout::Layout;
use freshet::change::batch::{Attempt, CommitOutcome, Prepared};
use freshet::change::{ChangeFile, FileId, FileKind, TableName};
use freshet::clock::SystemClock;
use freshet::config::{Mode, OnDelete, Order, TargetRules};
use freshet::error::{Error, Kind};
use freshet::ledger::{Claim, FileEntry, Intent, Ledger, Opening};
use freshet::source::Source;
use freshet::source::bucket::BucketSource;
use freshet::storage::S3Location;
use futures::TryStreamExt;
use object_store::path::Path as StorePath;
use object_store::{GetOptions, GetRange, ObjectStore};

use crate::binary::{self, Ended};
use crate::change_files::{columns, csv_of, gzipped, parquet};
use crate::ministack::Ministack;
use crate::python;
use crate::scene::{Scene, files_below};

async fn source(server: &Ministack, bucket: &str, folder: &str) -> BucketSource {
    let location = S3Location::parse(&format!("s3://{bucket}/{folder}")).unwrap();
    BucketSource::open(location, Layout::known(), None, &server.aws().await).unwrap()
}

async fn receive(source: &BucketSource) -> (Vec<ChangeFile>, Vec<Error>) {
    let received = source.receive().await.unwrap();
    (received.deliveries.into_iter().flat_map(|delivery| delivery.files).collect(), received.left)
}

async fn read_all(source: &BucketSource, file: &ChangeFile) -> freshet::error::Result<Vec<u8>> {
    let mut all = Vec::new();
    let take = |chunk: &[u8]| {
        all.extend_from_slice(chunk);
        Ok(())
    };
    Stored::new(source.store(), file)?.stream(take).await.map(|()| all)
}

async fn read_range(source: &BucketSource, file: &ChangeFile, range: std::ops::Range<u64>) -> Result<Vec<u8>, Error> {
    let path = StorePath::parse(&file.path).unwrap();
    let options =
        GetOptions { if_match: file.e_tag.clone(), range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
    let got = source.store().get_opts(&path, options).await.map_err(store_error)?;
    Ok(got.bytes().await.map_err(store_error)?.to_vec())
}

/// Runs the program where it finds the server.
fn freshet(server: &Ministack, folder: &Path, arguments: &[&str]) -> Ended {
    let output = binary::command(folder, arguments).envs(server.environment()).output().unwrap();
    Ended::new(format!("freshet {}", arguments.join(" ")), output)
}

#[tokio::test]
async fn files_of_any_name_are_listed_and_read_by_ranges() {
    let server = Ministack::shared();
    let bucket = server.bucket("names").await;
    let names = ["a b", "a+b", "50%", "%41", "%2F", "주문", "it's \"x\"", "a#b", "[x]{y}", "c:d", "~", "é&=;", "a?b*"];
    for name in names {
        let key = format!("dms/s {name}/t {name}/20230101-000000001.csv");
        server.put(&bucket, &key, format!("content of {name}")).await;
    }
    server.put(&bucket, "dms2/s/t/20230101-000000001.csv", "elsewhere").await;
    server.put(&bucket, "dms/s/", "").await;
    let source = source(&server, &bucket, "dms").await;
    let (files, left) = receive(&source).await;
    assert!(left.is_empty(), "{left:?}");
    let mut found: Vec<&str> = files.iter().filter_map(|file| file.table.table.strip_prefix("t ")).collect();
    found.sort_unstable();
    let mut expected = names;
    expected.sort_unstable();
    assert_eq!(found, expected);
    for file in &files {
        let name = file.table.table.strip_prefix("t ").unwrap();
        let content = format!("content of {name}");
        assert_eq!(file.location, format!("s3://{bucket}/dms/s {name}/t {name}/20230101-000000001.csv"));
        assert_eq!(file.size, u64::try_from(content.len()).unwrap());
        assert_eq!(read_all(&source, file).await.unwrap(), content.as_bytes());
        assert_eq!(read_range(&source, file, 3..7).await.unwrap(), b"tent");
    }
    assert_eq!(receive(&source).await.0.len(), 0);
}

#[tokio::test]
async fn an_overwritten_or_deleted_object_is_noticed_and_a_new_version_delivered() {
    let server = Ministack::shared();
    let bucket = server.bucket("versions").await;
    let key = "dms/shop/orders/20230101-000000001.csv";
    server.put(&bucket, key, "first").await;
    let source = source(&server, &bucket, "dms").await;
    let (first, _) = receive(&source).await;
    let e_tag = server.put(&bucket, key, "other").await;
    let overwritten = read_all(&source, &first[0]).await.unwrap_err();
    assert_eq!((overwritten.kind(), refusal(&overwritten)), (Kind::Retry, Some(Refusal::Overwritten)));
    let overwritten = read_range(&source, &first[0], 1..3).await.unwrap_err();
    assert_eq!((overwritten.kind(), refusal(&overwritten)), (Kind::Retry, Some(Refusal::Overwritten)));
    let (second, _) = receive(&source).await;
    assert_eq!(second[0].e_tag.as_ref(), Some(&e_tag));
    assert_ne!(second[0].id(), first[0].id());
    assert_eq!(read_all(&source, &second[0]).await.unwrap(), b"other");
    server.remove(&bucket, key).await;
    let gone = read_all(&source, &second[0]).await.unwrap_err();
    assert_eq!((gone.kind(), refusal(&gone)), (Kind::Retry, Some(Refusal::Gone)));
}

#[tokio::test]
async fn many_objects_come_page_by_page() {
    let server = Ministack::shared();
    let bucket = server.bucket("pages").await;
    let put = |number: usize| {
        let (server, bucket) = (&server, &bucket);
        async move { drop(server.put(bucket, &format!("dms/shop/orders/LOAD{number:08X}.csv"), "x").await) }
    };
    futures::StreamExt::for_each_concurrent(futures::stream::iter(0..1_003), 16, put).await;
    let source = source(&server, &bucket, "").await;
    let counts = [receive(&source).await.0.len(), receive(&source).await.0.len(), receive(&source).await.0.len()];
    assert_eq!(counts, [1_000, 3, 0]);
}

#[tokio::test]
async fn a_key_that_cannot_be_asked_for_does_not_hide_others() {
    let server = Ministack::shared();
    let bucket = server.bucket("keys").await;
    for key in ["dms/shop//x.csv", "dms/shop/orders/LOAD00000001.csv", "dms/shop/users/LOAD00000001.csv"] {
        server.put(&bucket, key, "x").await;
    }
    let (files, left) = receive(&source(&server, &bucket, "dms").await).await;
    assert_eq!((files.len(), left.len()), (2, 1), "{left:?}");
    let place = left[0].place().file.clone();
    assert_eq!(place, Some(format!("s3://{bucket}/dms/shop//x.csv")));
}

#[tokio::test]
async fn a_bucket_that_is_not_there_is_named_with_a_hint() {
    let server = Ministack::shared();
    let error = source(&server, "no-such-bucket", "dms").await.receive().await.err().unwrap();
    assert_eq!(error.kind(), Kind::User, "{}", error.report());
    assert!(error.message().contains("s3://no-such-bucket/dms/"), "{error}");
    assert!(error.hint_text().unwrap().contains("no such bucket"), "{}", error.report());
}

#[tokio::test]
async fn any_sql_runs_over_a_bucket() {
    let server = Ministack::shared();
    let bucket = server.bucket("query").await;
    let rows = [("I", 1, 10), ("U", 1, 20)];
    server.put(&bucket, "cdc/a b/shop/orders/20230315-143022985.parquet", parquet(&rows)).await;
    let zipped = gzipped(&csv_of(columns(&[("I", 2, 5)]), true));
    server.put(&bucket, "cdc/a b/shop/users/LOAD00000001.csv.gz", zipped).await;
    let folder = tempfile::tempdir().unwrap();
    let files = format!("s3://{bucket}/cdc/a b");
    let query = |sql: &str| {
        freshet(&server, folder.path(), &["query", "--files", &files, "--format", "csv", sql]).exits(0).stdout()
    };
    let sql = "SELECT amount, _cdc_file FROM shop.orders ORDER BY amount";
    let file = format!("{files}/shop/orders/20230315-143022985.parquet");
    assert_eq!(query(sql), format!("amount,_cdc_file\n10,{file}\n20,{file}\n"));
    assert_eq!(query("SELECT id, amount FROM users"), "id,amount\n2,5\n");
}

#[test]
fn what_is_missing_is_told_before_anything_is_tried() {
    let server = Ministack::shared();
    let folder = tempfile::tempdir().unwrap();
    let run = |without: &str| {
        let mut command = binary::command(folder.path(), &["query", "--files", "s3://cdc-files/dms", "SELECT 1"]);
        command.envs(server.environment()).env_remove(without).env("HOME", folder.path());
        Ended::new(format!("freshet query without {without}"), command.output().unwrap()).exits(1)
    };
    run("AWS_REGION").tells(&["no AWS region is known", "set AWS_REGION"]);
    run("AWS_SECRET_ACCESS_KEY").tells(&["no credentials for it were found", "set AWS_ACCESS_KEY_ID"]);
}

/// Every object of a bucket, by its key.
async fn objects(server: &Ministack, bucket: &str) -> BTreeMap<String, String> {
    let store = server.aws().await.bucket(bucket).unwrap();
    let listed: Vec<_> = store.list(None).try_collect().await.unwrap();
    listed.into_iter().map(|meta| (meta.location.to_string(), meta.e_tag.unwrap_or_default())).collect()
}

/// The change files of a random database in a bucket, and a configuration that names it and a ledger in another.
async fn database(server: &Ministack, scene: &Scene, seed: u32) -> String {
    python::generate_database(seed, scene.folder());
    let (data, state) = (server.bucket("data").await, server.bucket("state").await);
    for (path, bytes) in files_below(&scene.path("data")) {
        server.put(&data, &format!("dms 1/{}", path.to_str().unwrap()), bytes).await;
    }
    fs::remove_dir_all(scene.path("data")).unwrap();
    let text = fs::read(scene.path("freshet.yaml")).unwrap();
    let mut config: serde_json::Value = serde_json::from_slice(&text).unwrap();
    config["source"]["files"] = format!("s3://{data}/dms 1").into();
    config["ledger"] = format!("s3://{state}/freshet/ledger/").into();
    scene.write("s3.yaml", config.to_string());
    state
}

async fn a_database_in_s3_gives_the_tables_of_its_source(seed: u32) {
    let server = Ministack::shared();
    let scene = Scene::empty();
    let state = database(&server, &scene, seed).await;
    let run = || freshet(&server, scene.folder(), &["run", "--once", "-c", "s3.yaml"]).exits(0);
    run();
    let what = format!("seed {seed}, from S3");
    python::compare(&what, &scene.path("out/tables"), &scene.path("expected"));
    let (tables, ledger) = (files_below(&scene.path("out")), objects(&server, &state).await);
    assert!(ledger.keys().all(|key| key.starts_with("freshet/ledger/")) && ledger.len() > 1, "{ledger:?}");
    run();
    assert!(tables == files_below(&scene.path("out")), "{what}: a second run changed tables");
    assert_eq!(ledger, objects(&server, &state).await, "{what}: a second run changed the ledger");
    freshet(&server, scene.folder(), &["check", "-c", "s3.yaml"]).exits(0);
}

#[tokio::test]
async fn the_database_of_seed_3_in_s3_gives_its_tables() {
    a_database_in_s3_gives_the_tables_of_its_source(3).await;
}

#[tokio::test]
async fn the_database_of_seed_8_in_s3_gives_its_tables() {
    a_database_in_s3_gives_the_tables_of_its_source(8).await;
}

fn intent(attempt: &str) -> Intent {
    let file = FileEntry {
        id: FileId::new("s3://cdc-files/a.csv", "v1"),
        location: "s3://cdc-files/a.csv".into(),
        version: "v1".into(),
        size: 10,
        modified_ms: 20,
        kind: FileKind::Cdc,
        time_ms: 30,
        time_named: true,
    };
    Intent {
        attempt: Attempt { id: attempt.into(), loaded_at: DateTime::UNIX_EPOCH },
        generation: 1,
        files: vec![file],
        prepared: Prepared { rows: 5, bytes: 50, columns: Vec::new(), staged: serde_json::Value::Null },
        transform: "fingerprint".into(),
        source_columns: vec!["id".into()],
        rules: TargetRules { mode: Mode::Append, key: Vec::new(), on_delete: OnDelete::Remove },
        purged_us: 0,
    }
}

#[tokio::test]
async fn of_ledgers_that_race_for_one_entry_one_wins() {
    let server = Ministack::shared();
    let bucket = server.bucket("race").await;
    let table = TableName::new("shop", "orders");
    let race = |number: usize| {
        let (server, bucket, table) = (&server, &bucket, table.clone());
        async move {
            let store = server.aws().await.bucket(bucket).unwrap();
            let ledger = Ledger::on(store, "ledger", "a sink", SystemClock::shared()).await.unwrap();
            let opening = Opening { order: Order::BestEffort, target: table.clone() };
            let mut chain = ledger.table(&table, opening).await.unwrap();
            (ledger.id().to_owned(), chain.claim(intent(&format!("attempt {number}"))).await.unwrap())
        }
    };
    let told = futures::future::join_all((0..8).map(race)).await;
    assert!(told.iter().all(|(id, _)| *id == told[0].0), "two ledgers were made: {told:?}");
    let taken = told.iter().filter(|(_, claim)| *claim == Claim::Taken(2)).count();
    let refused = told.iter().filter(|(_, claim)| matches!(claim, Claim::Refused(files) if files.len() == 1)).count();
    assert_eq!((taken, refused), (1, 7), "{told:?}");
    let keys: Vec<String> = objects(&server, &bucket).await.into_keys().collect();
    assert_eq!(keys.len(), 3, "{keys:?}");
    let store: Arc<dyn ObjectStore> = server.aws().await.bucket(&bucket).unwrap();
    let ledger = Ledger::on(Arc::clone(&store), "ledger", "a sink", SystemClock::shared()).await.unwrap();
    let opening = Opening { order: Order::BestEffort, target: table.clone() };
    let mut chain = ledger.table(&table, opening).await.unwrap();
    let file = intent("done").files.remove(0);
    chain.finish(2, CommitOutcome::Committed).await.unwrap();
    assert!(chain.compact_above(1).await.unwrap());
    assert_eq!(chain.claim(intent("again")).await.unwrap(), Claim::Refused(vec![file.id]));
    let keys: Vec<String> = objects(&server, &bucket).await.into_keys().collect();
    let entries: Vec<&str> = keys.iter().map(|key| key.rsplit('/').next().unwrap()).collect();
    let name = format!("{:020}.json", 4);
    assert_eq!((keys.len(), entries[0], entries[3]), (4, name.as_str(), name.as_str()), "{keys:?}");
    let again = Ledger::on(store, "ledger", "another sink", SystemClock::shared()).await.unwrap_err();
    assert_eq!(again.kind(), Kind::User);
}
