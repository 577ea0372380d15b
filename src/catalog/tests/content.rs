//! Ranges of a file's bytes, and what happens when the file changes under its reader.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::async_reader::AsyncFileReader;

use crate::catalog::content::{Bound, Content, Refusal, Stored, refusal, store_error};
use crate::catalog::samples::{Shelf, batch, ints, parquet};
use crate::change::ChangeFile;
use crate::config::CsvConfig;
use crate::error::{Error, Kind, Result};

#[test]
fn shares_of_a_bound_never_exceed_it_together_and_are_given_back() {
    let used = Arc::new(AtomicU64::new(0));
    let mut one = Bound::new(Arc::clone(&used));
    let mut two = Bound::new(Arc::clone(&used));
    assert!(one.try_grow(6, 10) && one.try_grow(1, 10) && two.try_grow(3, 10));
    assert!(!two.try_grow(1, 10) && !one.try_grow(u64::MAX, u64::MAX));
    assert_eq!(used.load(Ordering::SeqCst), 10);
    two.release();
    assert!(one.try_grow(3, 10));
    drop((one, two));
    assert_eq!(used.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_range_beyond_the_end_is_an_error_and_not_a_panic() {
    let mut content = Content::memory(Bytes::from_static(b"0123456789"), Bound::new(Arc::default()));
    assert_eq!(content.get_bytes(2..5).await.unwrap(), &b"234"[..]);
    assert_eq!(content.get_bytes(10..10).await.unwrap(), &b""[..]);
    for range in [9..11, 11..12, 0..u64::MAX] {
        assert!(content.get_bytes(range).await.is_err());
    }
    let both = content.get_byte_ranges(vec![8..10, 0..2]).await.unwrap();
    assert_eq!(both, [&b"89"[..], b"01"]);
}

async fn read_all(shelf: &Shelf, file: &ChangeFile) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    let stored = Stored::new(Arc::clone(&shelf.store) as Arc<dyn ObjectStore>, file)?;
    stored
        .stream(|chunk| {
            all.extend_from_slice(chunk);
            Ok(())
        })
        .await?;
    Ok(all)
}

#[tokio::test]
async fn only_the_version_that_was_found_is_read() {
    let shelf = Shelf::default();
    let file = shelf.put("a.csv", 1, b"first".to_vec()).await;
    assert_eq!(read_all(&shelf, &file).await.unwrap(), b"first");
    let newer = shelf.put("a.csv", 1, b"other".to_vec()).await;
    let overwritten = read_all(&shelf, &file).await.unwrap_err();
    assert_eq!(overwritten.kind(), Kind::Retry);
    assert!(overwritten.message().contains("overwritten"), "{overwritten}");
    let shorter = read_all(&shelf, &ChangeFile { size: 9, ..newer.clone() }).await.unwrap_err();
    assert!(shorter.message().contains("5 of 9 bytes"), "{shorter}");
    shelf.store.delete(&"a.csv".into()).await.unwrap();
    let gone = read_all(&shelf, &newer).await.unwrap_err();
    assert!(gone.kind() == Kind::Retry && gone.message().contains("gone"), "{gone}");
}

#[track_caller]
fn check_refused(cause: object_store::Error, kind: Kind, message: &str, of_file: Option<Refusal>) {
    let error = store_error(cause);
    assert_eq!((error.kind(), error.message()), (kind, message), "{}", error.report());
    assert!(error.hint_text().is_some(), "{}", error.report());
    assert_eq!(refusal(&error), of_file, "{}", error.report());
}

#[test]
fn what_s3_refuses_for_one_object_is_of_that_file_and_what_it_refuses_for_all_is_not() {
    let source = |code: &str| format!("403 Forbidden: <Error><Code>{code}</Code></Error>").into();
    let denied = |code| object_store::Error::PermissionDenied { path: "a".into(), source: source(code) };
    let gone = |code| object_store::Error::NotFound { path: "a".into(), source: source(code) };
    check_refused(denied("InvalidObjectState"), Kind::Data, "the file is archived and cannot be read", None);
    check_refused(denied("AccessDenied"), Kind::Retry, "the file may not be read", Some(Refusal::Denied));
    check_refused(denied("SignatureDoesNotMatch"), Kind::User, "the file cannot be read now", None);
    check_refused(denied("RequestTimeTooSkewed"), Kind::Retry, "the file cannot be read now", None);
    check_refused(gone("NoSuchBucket"), Kind::User, "the file's bucket is gone", None);
    check_refused(gone("NoSuchKey"), Kind::Retry, "the file is gone", Some(Refusal::Gone));
    let local = object_store::Error::PermissionDenied { path: "a".into(), source: "denied".into() };
    check_refused(local, Kind::Retry, "the file may not be read", Some(Refusal::Denied));
}

#[test]
fn want_of_credentials_says_nothing_about_a_file() {
    let missing = Error::user("no AWS credentials were found").hint("set AWS_PROFILE");
    let cause = object_store::Error::Unauthenticated { path: "S3".into(), source: Box::new(missing) };
    check_refused(cause, Kind::User, "the file cannot be read now", None);
}

#[tokio::test]
async fn parquet_overwritten_between_footer_and_rows_gives_no_mixture() {
    let shelf = Shelf::default();
    let old = parquet(&batch([("id", ints(0..500))]), 100);
    let file = shelf.put("a.parquet", 1, old).await;
    let opened = shelf.opener().open(file, &CsvConfig::default()).await.unwrap();
    shelf.put("a.parquet", 1, parquet(&batch([("id", ints(1_000..1_500))]), 100)).await;
    let error = super::row_groups::read(&opened, vec![0], 100).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Retry, "{error}");
    assert_eq!(error.place().file.as_deref(), Some("mem/a.parquet"));
}
