//! Tombstones that are purged, and merges from before.

use super::*;
use crate::change::first_sequence;
use crate::sink::Purge;

/// Purges all up to this sequence of a test.
async fn purge_below(bench: &Bench, target: &Target, below_us: u64) -> Result<(), Error> {
    bench.sink.purge(target, &Purge { id: "p".into(), below_us }, &bench.session).await
}

/// Changes as [`change`], each with the sequence of this generation and time.
fn of_time(generation: u64, changes: &[Change]) -> Vec<Values> {
    let mut values = columns_of(changes);
    let sequences = changes.iter().map(|change| first_sequence(generation, change.sequence.into()));
    values[1].2 = texts(sequences);
    values
}

#[tokio::test]
async fn a_purge_drops_the_tombstones_of_long_ago_and_can_be_repeated() {
    let bench = Bench::new(OnDelete::Remove);
    assert_eq!(bench.sink.newest(&bench.target, "g", &bench.session).await.unwrap(), None);
    purge_below(&bench, &bench.target, 5).await.unwrap();
    bench.load(1, of_time(1, &[change(1, "D", 3), change(2, "D", 5), change(3, "I", 4), change(4, "I", 6)])).await;
    bench.merge(1, &[1]).await;
    assert_eq!(bench.sink.newest(&bench.target, "g", &bench.session).await.unwrap(), Some(first_sequence(1, 6)));
    let before = bench.sink.newest(&bench.target, &first_sequence(1, 6), &bench.session).await.unwrap();
    assert_eq!(before, Some(first_sequence(1, 4)));
    for below in [4, 5, 5, 2] {
        purge_below(&bench, &bench.target, below).await.unwrap();
        assert_eq!(bench.read(Part::Tombstones, &["id"]).await, ["2"], "{below}");
    }
    let recorded = bench.sink.recorded(&bench.target, &bench.session).await.unwrap().unwrap();
    assert_eq!(recorded.purged_us, 5);
    purge_below(&bench, &bench.target, 7).await.unwrap();
    assert!(bench.read(Part::Tombstones, &["id"]).await.is_empty());
    assert_eq!(bench.read(Part::Final, &["id"]).await, ["3", "4"]);
}

#[tokio::test]
async fn a_merge_from_before_a_purge_changes_nothing_after_it_and_later_ones_go_on() {
    let mut bench = Bench::new(OnDelete::Remove);
    bench.load(1, of_time(1, &[change(1, "D", 3)])).await;
    bench.merge(1, &[1]).await;
    // Late for the tombstone, which is there yet.
    bench.load(2, of_time(1, &[change(1, "I", 2), change(2, "I", 4)])).await;
    bench.merge(2, &[2]).await;
    purge_below(&bench, &bench.target, 4).await.unwrap();
    let again = bench.sink.merge(&bench.target, &Bench::merge_attempt(1_002, &[2]), &bench.session).await;
    assert_eq!(again.unwrap_err().kind(), Kind::Fenced);
    assert_eq!(bench.read(Part::Final, &["id"]).await, ["2"]);
    bench.load(3, of_time(1, &[change(2, "D", 5), change(3, "I", 6)])).await;
    let later = MergeAttempt { purged_us: 4, ..Bench::merge_attempt(1_003, &[3]) };
    bench.sink.merge(&bench.target, &later, &bench.session).await.unwrap();
    assert_eq!(bench.read(Part::Final, &["id"]).await, ["3"]);
    assert_eq!(bench.read(Part::Tombstones, &["id"]).await, ["2"]);
    // Another generation was purged of nothing.
    bench.sink.switch(&built_beside(&bench), "r", &bench.target, &bench.session).await.unwrap();
    bench.target.generation = 2;
    bench.load(4, of_time(2, &[change(7, "I", 1), change(8, "D", 1)])).await;
    bench.merge(4, &[4]).await;
    assert_eq!(bench.read(Part::Final, &["id"]).await, ["7"]);
    // One of the generation before drops nothing of this one.
    purge_below(&bench, &Target { generation: 1, ..bench.target.clone() }, 9).await.unwrap();
    assert_eq!(bench.read(Part::Tombstones, &["id"]).await, ["8"]);
}
