//! A bucket in memory, listed in pages as S3 does it, through `receive`.

use std::collections::BTreeMap;
use std::sync::Mutex as PlainMutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use object_store::list::{PaginatedListOptions, PaginatedListResult};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{GetOptions, ListResult, ObjectStoreExt};

use super::*;
use crate::change::TableName;
use crate::error::Kind;

/// Keys as S3 has them, which no path need be able to hold, each with its eTag and size.
#[derive(Default)]
struct Bucket {
    keys: PlainMutex<BTreeMap<String, (String, u64)>>,
    requests: AtomicUsize,
    failures: PlainMutex<Vec<object_store::Error>>,
}

const MODIFIED: &str = "2024-05-06T07:08:09Z";

impl Bucket {
    fn put(&self, key: &str, e_tag: &str, size: u64) {
        self.keys.lock().unwrap().insert(key.to_owned(), (format!("\"{e_tag}\""), size));
    }

    fn remove(&self, key: &str) {
        self.keys.lock().unwrap().remove(key);
    }

    fn fail(&self, text: &str) {
        let error = object_store::Error::Generic { store: "S3", source: text.to_owned().into() };
        self.failures.lock().unwrap().push(error);
    }

    fn requests(&self) -> usize {
        self.requests.swap(0, Ordering::SeqCst)
    }
}

#[async_trait]
impl PaginatedListStore for Bucket {
    async fn list_paginated(
        &self,
        prefix: Option<&str>,
        opts: PaginatedListOptions,
    ) -> object_store::Result<PaginatedListResult> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        if let Some(failure) = self.failures.lock().unwrap().pop() {
            return Err(failure);
        }
        let keys_max = opts.max_keys.unwrap_or(1_000).min(1_000);
        let after = opts.page_token.or(opts.offset).unwrap_or_default();
        let keys = self.keys.lock().unwrap();
        let mut listed = keys.iter().filter(|(key, _)| key.starts_with(prefix.unwrap_or_default()) && **key > after);
        let page: Vec<_> = listed.by_ref().take(keys_max).collect();
        let page_token = listed.next().and(page.last()).map(|(key, _)| (*key).clone());
        let objects = page.into_iter().map(|(key, (e_tag, size))| {
            Ok(ObjectMeta {
                location: Path::parse(key)?,
                last_modified: MODIFIED.parse().unwrap(),
                size: *size,
                e_tag: Some(e_tag.clone()),
                version: None,
            })
        });
        let objects = objects.collect::<object_store::Result<_>>()?;
        Ok(PaginatedListResult { result: ListResult { common_prefixes: Vec::new(), objects }, page_token })
    }
}

fn source_since(bucket: &Arc<Bucket>, location: &str, since: Option<&str>) -> BucketSource {
    let since = since.map(|since| since.parse().unwrap());
    let rules = ObjectRules::new(S3Location::parse(location).unwrap(), Layout::known(), since);
    BucketSource::new(Arc::new(InMemory::new()), Arc::clone(bucket) as _, rules)
}

fn source(bucket: &Arc<Bucket>) -> BucketSource {
    source_since(bucket, "s3://cdc-files/dms", None)
}

fn key(number: usize) -> String {
    format!("dms/shop/orders/LOAD{number:08X}.csv")
}

fn bucket(files: usize) -> Arc<Bucket> {
    let bucket = Arc::new(Bucket::default());
    (0..files).for_each(|number| bucket.put(&key(number), "e1", 7));
    bucket
}

async fn receive(source: &BucketSource) -> (Vec<ChangeFile>, Vec<Error>) {
    let received = source.receive().await.unwrap();
    let files = received.deliveries.into_iter().flat_map(|delivery| delivery.files).collect();
    (files, received.left)
}

async fn keys(source: &BucketSource) -> Vec<String> {
    receive(source).await.0.into_iter().map(|file| file.path).collect()
}

#[tokio::test]
async fn each_version_is_delivered_once() {
    let bucket = bucket(2);
    let source = source(&bucket);
    assert_eq!(keys(&source).await, [key(0), key(1)]);
    assert_eq!(keys(&source).await, [""; 0]);
    bucket.put(&key(1), "e2", 8);
    bucket.put("dms/shop/users/20230315-143022985.parquet", "e1", 7);
    let (files, left) = receive(&source).await;
    assert!(left.is_empty(), "{left:?}");
    assert_eq!((files[0].path.as_str(), files[0].version.as_str(), files[0].size), (key(1).as_str(), "e2", 8));
    assert_eq!(files[0].location, format!("s3://cdc-files/{}", key(1)));
    assert_eq!(files[1].table, TableName::new("shop", "users"));
    assert_eq!(files.len(), 2);
}

#[tokio::test]
async fn many_files_come_in_parts_without_being_listed_ahead() {
    let bucket = bucket(3 * DELIVERIES_MAX + 1);
    let source = source(&bucket);
    let mut counts = Vec::new();
    for _ in 0..5 {
        counts.push((keys(&source).await.len(), bucket.requests()));
    }
    assert_eq!(counts, [(1_000, 1), (1_000, 1), (1_000, 1), (1, 1), (0, 4)]);
}

#[tokio::test]
async fn a_new_file_behind_many_known_ones_comes_at_once() {
    let bucket = bucket(2_500);
    let source = source(&bucket);
    while !keys(&source).await.is_empty() {}
    bucket.put(&key(9_999), "e1", 7);
    assert_eq!(keys(&source).await, [key(9_999)]);
}

#[tokio::test]
async fn what_is_given_back_comes_again() {
    let bucket = bucket(3);
    let source = source(&bucket);
    let received = source.receive().await.unwrap();
    source.acknowledge(&received.deliveries[..1]).await.unwrap();
    source.give_back(&received.deliveries[1..]).await.unwrap();
    assert_eq!(keys(&source).await, [key(1), key(2)]);
    assert_eq!(keys(&source).await, [""; 0]);
}

#[tokio::test]
async fn what_is_gone_is_forgotten() {
    let bucket = bucket(3);
    let source = source(&bucket);
    receive(&source).await;
    bucket.remove(&key(1));
    receive(&source).await;
    assert_eq!(source.state.lock().await.delivered.len(), 2);
}

#[tokio::test]
async fn files_before_the_wanted_moment_are_not_delivered() {
    let bucket = bucket(2);
    assert_eq!(keys(&source_since(&bucket, "s3://cdc-files/dms", Some("2024-05-06T07:08:10Z"))).await.len(), 0);
    assert_eq!(keys(&source_since(&bucket, "s3://cdc-files/dms", Some("2024-05-06T07:08:09.5Z"))).await.len(), 2);
}

#[tokio::test]
async fn only_what_lies_in_the_folder_counts() {
    let bucket = bucket(1);
    bucket.put("dms2/shop/orders/LOAD00000001.csv", "e1", 7);
    bucket.put("dms/", "e1", 0);
    bucket.put("dms/shop/orders/", "e1", 0);
    bucket.put("dms/shop/orders/_SUCCESS", "e1", 7);
    let (files, left) = receive(&source(&bucket)).await;
    assert_eq!((files.len(), left.len()), (1, 0), "{left:?}");
    let (files, left) = receive(&source_since(&bucket, "s3://cdc-files", None)).await;
    assert_eq!((files.len(), left.len()), (2, 0), "{left:?}");
}

#[tokio::test]
async fn what_no_layout_fits_is_told_once_and_in_bounds() {
    let bucket = bucket(1);
    bucket.put("dms/notes.txt", "e1", 7);
    let source = source(&bucket);
    let (_, left) = receive(&source).await;
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].place().file.as_deref(), Some("s3://cdc-files/dms/notes.txt"));
    (0..LEFT_MAX + 4).for_each(|n| bucket.put(&format!("dms/notes{n}.txt"), "e1", 7));
    let (_, left) = receive(&source).await;
    assert_eq!(left.len(), LEFT_MAX);
    assert_eq!(left.last().unwrap().message(), "5 more objects could not be understood");
    assert_eq!(receive(&source).await.1.len(), 0);
}

#[tokio::test]
async fn keys_that_no_path_can_hold_do_not_hide_others() {
    let bucket = bucket(1_500);
    for bad in ["dms//shop/orders/LOAD00000001.csv", "dms/shop/orders/LOAD000001AA.csv//x", "dms/shop/../x.csv"] {
        bucket.put(bad, "e1", 7);
    }
    let source = source(&bucket);
    let mut found = Vec::new();
    let mut left = Vec::new();
    loop {
        let (files, more) = receive(&source).await;
        left.extend(more);
        if files.is_empty() {
            break;
        }
        found.extend(files.into_iter().map(|file| file.path));
    }
    assert_eq!(found, (0..1_500).map(key).collect::<Vec<_>>());
    let mut bad: Vec<_> = left.iter().filter_map(|error| error.place().file.as_deref()).collect();
    bad.sort_unstable();
    assert_eq!(
        bad,
        [
            "s3://cdc-files/dms//shop/orders/LOAD00000001.csv",
            "s3://cdc-files/dms/shop/../x.csv",
            "s3://cdc-files/dms/shop/orders/LOAD000001AA.csv//x"
        ]
    );
    assert!(bucket.requests() < 200);
}

#[tokio::test]
async fn a_listing_that_fails_goes_on_where_it_stood() {
    let bucket = bucket(1_500);
    let source = source(&bucket);
    assert_eq!(keys(&source).await.len(), 1_000);
    bucket.fail("connection reset");
    let error = source.receive().await.unwrap_err();
    assert_eq!((error.kind(), error.message()), (Kind::Retry, "s3://cdc-files/dms/ cannot be listed"));
    assert_eq!(keys(&source).await.len(), 500);
    bucket.fail("403: <Error><Code>AccessDenied</Code></Error>");
    let error = source.receive().await.unwrap_err();
    assert_eq!(error.kind(), Kind::User);
    assert!(error.hint_text().unwrap().contains("s3:ListBucket"), "{}", error.report());
}

#[tokio::test]
async fn a_file_is_read_by_its_path_as_long_as_it_is_the_same_version() {
    let store = Arc::new(InMemory::new());
    let path = Path::parse(key(1)).unwrap();
    let put = store.put(&path, "first".into()).await.unwrap();
    let bucket = bucket(0);
    bucket.put(&key(1), put.e_tag.as_deref().unwrap(), 5);
    let source = BucketSource { store: Arc::clone(&store) as _, ..source(&bucket) };
    let (files, _) = receive(&source).await;
    let plain = files[0].e_tag.as_deref().map(|e_tag| e_tag.trim_matches('"').to_owned());
    let options = GetOptions { if_match: plain, ..GetOptions::default() };
    let path = Path::parse(&files[0].path).unwrap();
    let read = source.store().get_opts(&path, options.clone()).await.unwrap().bytes().await.unwrap();
    assert_eq!(read, &b"first"[..]);
    store.put(&path, "other".into()).await.unwrap();
    let error = source.store().get_opts(&path, options).await.unwrap_err();
    assert!(matches!(error, object_store::Error::Precondition { .. }), "{error}");
}
