//! The sink and the strict server understand each other: every statement that the sink says is taken.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, Int64Array, RecordBatch, StringArray};
use chrono::{DateTime, TimeDelta};
use datafusion::prelude::SessionContext;
use freshet::change::batch::{Attempt, CommitOutcome, MergeAttempt, MergeCounts, Purge};
use freshet::change::{FileId, TableName, first_sequence};
use freshet::clock::SystemClock;
use freshet::config::{Mode, OnDelete, StorageConfig};
use freshet::sink::bigquery::BigQuerySink;
use freshet::sink::{Rows, Sink, Target, is_sampled};

use crate::bigquery_sink;
use crate::strict_bigquery::{Fault, Options, PROJECT, RowFormat, StrictBigQuery, What};

pub(super) fn target(on_delete: OnDelete) -> Target {
    Target {
        source: TableName::new("shop", "orders"),
        name: TableName::new("shop", "orders"),
        mode: Mode::Merge,
        key: vec!["id".into()],
        on_delete,
        storage: StorageConfig { immutable: vec!["value".into()], ..StorageConfig::default() },
        descriptions: BTreeMap::new(),
        generation: 1,
    }
}

pub(super) fn sink(server: &StrictBigQuery) -> BigQuerySink {
    let config = bigquery_sink::config(PROJECT, "EU", &server.rest_url(), &server.grpc_url());
    BigQuerySink::open(config, SystemClock::shared()).unwrap()
}

/// The attempt of this number.
pub(super) fn attempt(number: u32) -> Attempt {
    let loaded_at = DateTime::UNIX_EPOCH + TimeDelta::days(20_000) + TimeDelta::seconds(number.into());
    Attempt { id: format!("a-{number}"), loaded_at }
}

/// Merges what the attempt of this number wrote.
pub(super) async fn merge(sink: &BigQuerySink, target: &Target, number: u32) -> MergeCounts {
    let Attempt { id, loaded_at } = attempt(number);
    let attempt = Attempt { id: format!("m-{number}"), loaded_at };
    let merge = MergeAttempt { attempt, batches: vec![id], rows: 0, loaded: (loaded_at, loaded_at), purged_us: 0 };
    sink.merge(target, &merge, &SessionContext::new()).await.unwrap()
}

/// Key, value, operation and sequence.
type Change<'a> = (i64, &'a str, &'a str, &'a str);

/// Changes as the sink is given them.
fn rows(changes: &[Change<'_>]) -> Rows {
    let ids: Int64Array = changes.iter().map(|change| Some(change.0)).collect();
    let strings = |of: &dyn Fn(&Change<'_>) -> String| -> ArrayRef {
        Arc::new(changes.iter().map(|change| Some(of(change))).collect::<StringArray>())
    };
    let files = BinaryArray::from_iter_values(changes.iter().map(|_| [7_u8; 16]));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(ids)),
        ("value", strings(&|change| change.1.to_owned())),
        ("_cdc_operation", strings(&|change| change.2.to_owned())),
        ("_cdc_sequence", strings(&|change| change.3.to_owned())),
        ("_cdc_file_id", Arc::new(files)),
    ];
    let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true)));
    bigquery_sink::rows(batch.unwrap())
}

/// Carries changes all the way; what the merge did.
async fn carry(sink: &BigQuerySink, target: &Target, number: u32, changes: &[Change<'_>]) -> MergeCounts {
    let session = SessionContext::new();
    let prepared = Box::pin(sink.prepare(target, &attempt(number), rows(changes), &session)).await.unwrap();
    for _ in 0..2 {
        let outcome = sink.commit(target, number.into(), &prepared).await.unwrap();
        assert_eq!(outcome, CommitOutcome::Committed);
    }
    let counts = merge(sink, target, number).await;
    assert_eq!(merge(sink, target, number).await, counts, "a merge that is repeated is the same");
    counts
}

fn values(server: &StrictBigQuery, table: &str) -> Vec<String> {
    let mut out: Vec<_> = server
        .table_rows(table)
        .iter()
        .map(|row| format!("{} {}", row["id"], row["value"].as_str().unwrap()))
        .collect();
    out.sort();
    out
}

#[tokio::test]
async fn changes_go_through_log_tombstones_final_table_and_view() {
    let server = StrictBigQuery::start(Options { job_polls: 2, ..Options::default() }).await;
    let (sink, target) = (sink(&server), target(OnDelete::Remove));
    let first = carry(&sink, &target, 1, &[(1, "a", "I", "01"), (2, "b", "I", "02"), (1, "a2", "U", "03")]).await;
    assert_eq!(first, MergeCounts { inserted: 2, ..MergeCounts::default() });
    assert_eq!(values(&server, "shop.orders"), ["1 a2", "2 b"]);
    let second = carry(&sink, &target, 2, &[(1, "a2", "D", "05"), (3, "it's", "I", "06"), (2, "b2", "U", "04")]).await;
    assert_eq!((second.inserted, second.updated), (1, 1));
    carry(&sink, &target, 3, &[(1, "late", "U", "04")]).await;
    for table in ["shop.orders", "shop.orders_live"] {
        assert_eq!(values(&server, table), ["2 b2", "3 it's"], "{table}");
    }
    let counts = sink.row_counts(&target).await.unwrap();
    let expected = [("orders_changes", 7), ("orders", 2), ("orders_tombstones", 1)];
    assert_eq!(counts, expected.map(|(name, rows)| (name.to_owned(), rows)));
    let appends = server.requests_of("AppendRows");
    assert!(appends.iter().all(|append| append.rows == Some(RowFormat::Arrow) && append.offset.is_some()));
    let requests = server.requests();
    assert!(requests.iter().all(|request| !request.is_authorized), "credentials go out without encryption");
}

#[tokio::test]
async fn a_batch_in_several_streams_is_committed_whole_and_once() {
    const ROWS: i64 = 100_000;
    let server = StrictBigQuery::start(Options::default()).await;
    let (sink, target) = (sink(&server), target(OnDelete::Remove));
    // More comes than one stream may have on its way.
    server.faults().push(Fault::on("AppendRows", What::HeldUntilPaths(2)));
    let values: Vec<String> = (0..ROWS).map(|id| format!("{id:0>400}")).collect();
    let changes: Vec<Change<'_>> = (0..ROWS).zip(&values).map(|(id, value)| (id, value.as_str(), "I", "01")).collect();
    let counts = carry(&sink, &target, 1, &changes).await;
    assert_eq!(counts, MergeCounts { inserted: ROWS as u64, ..MergeCounts::default() });
    let commits = server.requests_of("BatchCommitWriteStreams");
    assert_eq!(commits.len(), 2, "it is committed, and once more");
    assert_eq!(commits[0].streams, commits[1].streams);
    assert!(commits[0].streams.len() > 1, "one stream took it all");
    let rows = server.table_rows("shop.orders_changes");
    let mut ids: Vec<_> = rows.iter().map(|row| row["id"].as_i64().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..ROWS).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_sampled_merge_tells_of_keys_with_two_rows() {
    let server = StrictBigQuery::start(Options::default()).await;
    let (sink, target, session) = (sink(&server), target(OnDelete::Mark), SessionContext::new());
    carry(&sink, &target, 1, &[(1, "z", "I", "01"), (2, "y", "I", "02")]).await;
    // `value` is declared immutable, and changes to what lies outside of the bounds: the row that is there is not found.
    let prepared = sink.prepare(&target, &attempt(2), rows(&[(1, "a", "U", "03")]), &session).await.unwrap();
    sink.commit(&target, 2, &prepared).await.unwrap();
    let Attempt { id, loaded_at } = attempt(2);
    let merge_as = |number: u32| MergeAttempt {
        attempt: Attempt { id: format!("m-{number}"), loaded_at },
        batches: vec![id.clone()],
        purged_us: 0,
        rows: 1,
        loaded: (loaded_at, loaded_at),
    };
    let unsampled = (100..).map(merge_as).find(|merge| !is_sampled(merge)).unwrap();
    sink.merge(&target, &unsampled, &session).await.unwrap();
    assert_eq!(values(&server, "shop.orders"), ["1 a", "1 z", "2 y"]);
    let sampled = (100..).map(merge_as).find(is_sampled).unwrap();
    for _ in 0..2 {
        let error = sink.merge(&target, &sampled, &session).await.unwrap_err();
        assert!(error.message().contains("shop.orders has more than one row of each of 1 keys"), "{}", error.report());
        assert!(error.hint_text().unwrap().contains("immutable"));
    }
}

#[tokio::test]
async fn the_log_says_which_files_and_batches_it_has() {
    let server = StrictBigQuery::start(Options::default()).await;
    let (sink, target, session) = (sink(&server), target(OnDelete::Remove), SessionContext::new());
    assert_eq!(sink.recorded(&target, &session).await.unwrap(), None);
    carry(&sink, &target, 1, &[(1, "a", "I", "01"), (2, "b", "I", "02")]).await;
    carry(&sink, &target, 2, &[(3, "c", "I", "03")]).await;
    let recorded = sink.recorded(&target, &session).await.unwrap().unwrap();
    assert_eq!(recorded.batches, [(attempt(1), 2), (attempt(2), 1)]);
    assert_eq!(recorded.files, [FileId([7; 16])]);
    assert!(recorded.has_final && !recorded.expires);
}

#[tokio::test]
async fn under_mark_deleted_rows_stay_and_say_so() {
    let server = StrictBigQuery::start(Options::default()).await;
    let (sink, target) = (sink(&server), target(OnDelete::Mark));
    carry(&sink, &target, 1, &[(1, "a", "I", "01"), (2, "b", "I", "02")]).await;
    carry(&sink, &target, 2, &[(1, "a", "D", "03"), (9, "z", "D", "04")]).await;
    for table in ["shop.orders", "shop.orders_live"] {
        let deleted = server.table_rows(table).iter().filter(|row| row["_cdc_deleted"] == true).count();
        assert_eq!((deleted, server.row_count(table)), (2, 3), "{table}");
    }
}

#[tokio::test]
async fn a_purge_drops_tombstones_and_what_they_hid_comes_back_nowhere() {
    let server = StrictBigQuery::start(Options { job_polls: 1, ..Options::default() }).await;
    let (sink, target, session) = (sink(&server), target(OnDelete::Remove), SessionContext::new());
    let at = |time_us| first_sequence(1, time_us);
    let purge = Purge { id: "p-1".into(), below_us: 4 };
    sink.purge(&target, &purge, &session).await.unwrap();
    carry(&sink, &target, 1, &[(1, "a", "D", &at(3)), (3, "c", "I", &at(4)), (4, "d", "D", &at(6))]).await;
    // Late for its tombstone.
    carry(&sink, &target, 2, &[(1, "a", "I", &at(2))]).await;
    assert_eq!(sink.newest(&target, "g", &session).await.unwrap(), Some(at(4)));
    for _ in 0..2 {
        sink.purge(&target, &purge, &session).await.unwrap();
        assert_eq!(server.row_count("shop.orders_tombstones"), 1);
        for table in ["shop.orders", "shop.orders_live"] {
            assert_eq!(values(&server, table), ["3 c"], "{table}");
        }
    }
    merge(&sink, &target, 2).await;
    assert_eq!(values(&server, "shop.orders"), ["3 c"], "the jobs of that merge have run, and none runs again");
    assert_eq!(sink.recorded(&target, &session).await.unwrap().unwrap().purged_us, 4);
    carry(&sink, &target, 3, &[(5, "e", "I", &at(7))]).await;
    assert_eq!(values(&server, "shop.orders_live"), ["3 c", "5 e"]);
}
