//! Real folders, and a store in memory, through `receive`.

use std::path::Path as FilePath;

use bytes::Bytes;
use object_store::memory::InMemory;
use object_store::{GetOptions, ObjectStoreExt};

use super::*;
use crate::change::{FileFormat, FileKind, TableName};
use crate::error::Kind;

fn write(folder: &FilePath, path: &str, content: impl AsRef<[u8]>) {
    let file = folder.join(path);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(file, content).unwrap();
}

fn open(files: &FilePath) -> FolderSource {
    FolderSource::open(files.to_str().unwrap(), Layout::known(), Arc::new(NothingKnown)).unwrap()
}

async fn receive(source: &FolderSource) -> (Vec<ChangeFile>, Vec<Error>) {
    let received = source.receive().await.unwrap();
    assert!(received.deliveries.iter().all(|delivery| delivery.files.len() == 1));
    (received.deliveries.into_iter().flat_map(|delivery| delivery.files).collect(), received.left)
}

/// The files' paths below the folder, in the order of their delivery.
fn below(folder: &FilePath, files: &[ChangeFile]) -> Vec<String> {
    let folder = folder.to_str().unwrap();
    files.iter().map(|file| file.location.strip_prefix(folder).unwrap().trim_start_matches('/').to_owned()).collect()
}

#[tokio::test]
async fn files_come_oldest_first_each_once_and_a_rewritten_one_again() {
    let folder = tempfile::tempdir().unwrap();
    let paths = ["shop/b/20230101-000000002.csv", "shop/a/20230101-000000003.csv", "shop/c/20230101-000000001.csv"];
    paths.iter().for_each(|path| write(folder.path(), path, path));
    let source = open(folder.path());
    let (files, left) = receive(&source).await;
    assert_eq!(below(folder.path(), &files), [paths[2], paths[0], paths[1]]);
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(receive(&source).await.0, []);

    write(folder.path(), paths[0], "another content");
    let (again, _) = receive(&source).await;
    assert_eq!(below(folder.path(), &again), [paths[0]]);
    assert_ne!(again[0].id(), files[1].id());
    write(folder.path(), "shop/d/20220101-000000001.csv", "late");
    assert_eq!(below(folder.path(), &receive(&source).await.0), ["shop/d/20220101-000000001.csv"]);
}

#[tokio::test]
async fn a_file_tells_what_its_path_and_its_content_say() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "x/shop/orders/20230315-143022985.csv.gz", "content");
    let (files, _) = receive(&open(folder.path())).await;
    let file = &files[0];
    assert_eq!(file.table, TableName::new("shop", "orders"));
    assert_eq!(
        (file.kind, file.format, file.gzip, file.size, file.rows),
        (FileKind::Cdc, FileFormat::Csv, true, 7, None)
    );
    assert_eq!(file.time_ms, 1_678_890_622_985);
    assert_eq!(file.version, format!("7-{}", &blake3::hash(b"content").to_hex()[..32]));
    assert!(file.e_tag.is_some() && file.location.starts_with('/'));
}

#[tokio::test]
async fn a_load_has_the_time_it_was_last_modified_and_an_empty_file_is_delivered() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "shop/orders/LOAD00000001.parquet", "");
    let (files, _) = receive(&open(folder.path())).await;
    assert_eq!((files[0].kind, files[0].size, files[0].rows), (FileKind::Load, 0, None));
    assert_eq!(files[0].time_ms, files[0].modified_ms);
    assert!(files[0].modified_ms > 1_600_000_000_000);
}

#[tokio::test]
async fn any_name_can_be_read_back_by_its_path_as_long_as_it_is_the_same_version() {
    let folder = tempfile::tempdir().unwrap();
    let names =
        ["a b", "50%", "%41", "a+b", "주문", "it's \"x\"", "a#b", "[x]{y}", "a?b*", "c:d", "~", "back\\slash", "é&=;"];
    for name in names {
        write(folder.path(), &format!("s {name}/t {name}/20230101-000000001.csv"), name);
    }
    let source = open(folder.path());
    let (files, left) = receive(&source).await;
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(files.len(), names.len());
    for file in &files {
        let name = file.table.table.strip_prefix("t ").unwrap();
        assert!(names.contains(&name), "{name}");
        assert_eq!(std::fs::read_to_string(&file.location).unwrap(), name);
        let path = Path::parse(&file.path).unwrap();
        let options = GetOptions { if_match: file.e_tag.clone(), ..GetOptions::default() };
        let read = source.store().get_opts(&path, options).await.unwrap().bytes().await.unwrap();
        assert_eq!(read, name.as_bytes());
    }
    write(folder.path(), "s ~/t ~/20230101-000000001.csv", "changed since");
    let file = files.iter().find(|file| file.table.table == "t ~").unwrap();
    let options = GetOptions { if_match: file.e_tag.clone(), ..GetOptions::default() };
    let error = source.store().get_opts(&Path::parse(&file.path).unwrap(), options).await.unwrap_err();
    assert!(matches!(error, object_store::Error::Precondition { .. }), "{error}");
}

#[tokio::test]
async fn what_no_layout_fits_is_left_and_told_once() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "shop/orders/notes.txt", "x");
    write(folder.path(), "shop/orders/_SUCCESS", "");
    write(folder.path(), "shop/orders/LOAD00000001.csv", "x");
    let source = open(folder.path());
    let (files, left) = receive(&source).await;
    assert_eq!((files.len(), left.len()), (1, 1));
    assert_eq!(left[0].place().file.as_deref(), folder.path().join("shop/orders/notes.txt").to_str());
    assert_eq!(receive(&source).await.1.len(), 0);
}

#[tokio::test]
async fn a_glob_or_a_single_file_is_recognised_by_the_folders_on_the_way_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = "shop/orders/20230101-000000001.csv";
    write(folder.path(), path, "x");
    write(folder.path(), "shop/orders/20230101-000000002.parquet", "x");
    for files in [path, "shop/orders/*.csv", "shop/**/*.csv", "*/orders/*1.csv", "./x/../shop/*/*.csv"] {
        std::fs::create_dir_all(folder.path().join("x")).unwrap();
        let (found, left) = receive(&open(&folder.path().join(files))).await;
        assert!(left.is_empty(), "{files} {left:?}");
        assert_eq!(found.len(), 1, "{files}");
        assert_eq!(found[0].table, TableName::new("shop", "orders"), "{files}");
        assert_eq!(found[0].location, folder.path().join(path).to_str().unwrap(), "{files}");
    }
    let (found, left) = receive(&open(&folder.path().join("shop"))).await;
    assert_eq!((found.len(), left.len()), (0, 2), "of a folder only what lies below it counts");

    let url = url::Url::from_directory_path(folder.path()).unwrap();
    let source = FolderSource::open(url.as_str(), Layout::known(), Arc::new(NothingKnown)).unwrap();
    assert_eq!(receive(&source).await.0.len(), 2);
}

#[tokio::test]
async fn nothing_there_is_an_error_of_the_user_and_an_empty_folder_is_not() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(receive(&open(folder.path())).await.0.len(), 0);
    let missing = folder.path().join("none");
    let error = FolderSource::open(missing.to_str().unwrap(), Layout::known(), Arc::new(NothingKnown)).err().unwrap();
    assert_eq!(error.kind(), Kind::User);
    assert!(error.hint_text().is_some());
}

#[cfg(unix)]
#[tokio::test]
async fn a_name_that_no_path_can_hold_does_not_hide_other_folders() {
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().unwrap();
    for table in ["a", "b", "c"] {
        write(folder.path(), &format!("shop/{table}/LOAD00000001.csv"), table);
    }
    let bad = folder.path().join("shop/b").join(std::ffi::OsStr::from_bytes(b"LOAD\xff.csv"));
    if std::fs::write(bad, "x").is_err() {
        return; // a file system that takes UTF-8 names only
    }
    let source = open(folder.path());
    let (files, left) = receive(&source).await;
    assert_eq!(below(folder.path(), &files), ["shop/a/LOAD00000001.csv", "shop/c/LOAD00000001.csv"]);
    assert_eq!(left.len(), 1);
    assert!(left[0].message().ends_with("/shop/b` cannot be listed"), "{}", left[0]);
    assert_eq!(receive(&source).await.1.len(), 0);
}

#[cfg(unix)]
#[tokio::test]
async fn a_link_back_is_left_and_a_link_elsewhere_followed() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(folder.path(), "shop/a/LOAD00000001.csv", "x");
    write(other.path(), "b/LOAD00000001.csv", "x");
    std::os::unix::fs::symlink(folder.path(), folder.path().join("shop/again")).unwrap();
    std::os::unix::fs::symlink(other.path(), folder.path().join("bar")).unwrap();
    let (files, left) = receive(&open(folder.path())).await;
    let mut found = below(folder.path(), &files);
    found.sort_unstable();
    assert_eq!(found, ["bar/b/LOAD00000001.csv", "shop/a/LOAD00000001.csv"]);
    assert_eq!(left.len(), 1);
    assert!(left[0].message().ends_with("/shop/again` is a link to a folder it lies in"), "{}", left[0]);
}

struct OnRecord;

impl KnownFiles for OnRecord {
    fn known(&self, location: &str, size: u64, _modified_ms: i64) -> Option<String> {
        (location.ends_with("/a/LOAD00000001.csv") && size == 3).then(|| "on record".to_owned())
    }
}

#[tokio::test]
async fn the_content_of_a_file_on_record_is_not_read_again() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "shop/a/LOAD00000001.csv", "abc");
    write(folder.path(), "shop/b/LOAD00000001.csv", "abc");
    let files = folder.path().to_str().unwrap();
    let source = FolderSource::open(files, Layout::known(), Arc::new(OnRecord)).unwrap();
    let (files, _) = receive(&source).await;
    assert_eq!(files.iter().filter(|file| file.version == "on record").count(), 1);
    assert_eq!(files.iter().filter(|file| file.version.starts_with("3-")).count(), 1);
}

/// A Parquet file of `rows` rows.
fn parquet(rows: i64) -> Vec<u8> {
    let column = arrow::array::Int64Array::from_iter_values(0..rows);
    let batch = arrow::record_batch::RecordBatch::try_from_iter([("id", Arc::new(column) as _)]).unwrap();
    let mut out = Vec::new();
    let mut writer = parquet::arrow::ArrowWriter::try_new(&mut out, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    out
}

#[tokio::test]
async fn rows_are_told_by_a_sound_footer_in_any_store() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let sound = parquet(42);
    let mut broken = sound.clone();
    let at = broken.len() - 20;
    broken[at..at + 8].fill(0xff);
    for (table, content) in
        [("a", sound.clone()), ("b", broken), ("c", sound[..30].to_vec()), ("d", b"\xff\xff\xff\xffPAR1".to_vec())]
    {
        let path = Path::from(format!("in/shop/{table}/LOAD00000001.parquet"));
        store.put(&path, Bytes::from(content).into()).await.unwrap();
    }
    let zipped = Path::from("in/shop/e/LOAD00000001.parquet.gz");
    store.put(&zipped, Bytes::from(sound).into()).await.unwrap();
    let source = FolderSource::in_store(store, "in", Layout::known(), Arc::new(NothingKnown)).unwrap();
    let (files, left) = receive(&source).await;
    assert!(left.is_empty(), "{left:?}");
    let mut rows: Vec<_> = files.iter().map(|file| (file.location.as_str(), file.rows)).collect();
    rows.sort_unstable();
    assert_eq!(rows[0], ("/in/shop/a/LOAD00000001.parquet", Some(42)));
    assert_eq!(rows.len(), 5);
    assert!(rows[1..].iter().all(|(_, rows)| rows.is_none()), "{rows:?}");
}

#[tokio::test]
async fn a_file_that_vanishes_between_listing_and_reading_is_left_for_the_next_time() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "shop/a/LOAD00000001.csv", "x");
    write(folder.path(), "shop/b/LOAD00000001.csv", "x");
    let source = open(folder.path());
    let mut state = State::default();
    source.list(&mut state).await.unwrap();
    std::fs::remove_file(folder.path().join("shop/a/LOAD00000001.csv")).unwrap();
    write(folder.path(), "shop/b/LOAD00000001.csv", "longer");
    let mut received = Received::default();
    source.deliver(&mut state, &mut received).await;
    assert_eq!((received.deliveries.len(), received.left.len()), (0, 0));
    assert_eq!(below(folder.path(), &receive(&source).await.0), ["shop/b/LOAD00000001.csv"]);
}

#[tokio::test]
async fn many_files_come_in_parts_and_none_is_lost() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    for n in 0..DELIVERIES_MAX + 1 {
        let path = Path::from(format!("shop/orders/LOAD{n:08X}.csv"));
        store.put(&path, Bytes::from_static(b"x").into()).await.unwrap();
    }
    let source = FolderSource::in_store(store, "", Layout::known(), Arc::new(NothingKnown)).unwrap();
    let counts = [receive(&source).await.0.len(), receive(&source).await.0.len(), receive(&source).await.0.len()];
    assert_eq!(counts, [DELIVERIES_MAX, 1, 0]);
}
