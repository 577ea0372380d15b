//! What was deleted long ago is forgotten, as `late_horizon` says, and what comes later still is set aside.

use freshet::trial::failpoint::{self, Failpoint};

use crate::binary::{freshet, number_asked_for};
use crate::kills::{Place, Stage, rows, tell_kills};
use crate::strict_bigquery::{Options, StrictBigQuery};

/// How often each failpoint is tried at each sink; `FRESHET_KILL_ROUNDS` asks for another number than CI's.
const ROUNDS: usize = 2;

/// A table that forgets after fifteen days, begun long ago, of which row 2 was deleted on the first of May, row 4 on the
/// 16th, and row 3 changed on the 17th: so what was deleted before the second is to be forgotten.
fn long_begun(place: Place) -> Stage {
    let stage = Stage::new(place);
    let configured = std::fs::read_to_string(stage.scene.path("freshet.yaml")).unwrap();
    stage.scene.write("freshet.yaml", configured.replace("key: id", "key: id, late_horizon: 15d"));
    stage.changes("20240501-000000000", &[("I", 1, 10), ("I", 2, 20), ("I", 3, 30), ("I", 4, 40), ("D", 2, 0)]);
    stage.changes("20240516-000000000", &[("D", 4, 0)]);
    stage.changes("20240517-000000000", &[("U", 3, 31)]);
    stage.run().exits(0);
    // The first entry says when the table was begun; a purge comes a horizon after that.
    let entries = stage.scene.path("out/ledger/tables/shop/orders");
    let first = std::fs::read_dir(entries).unwrap().map(|entry| entry.unwrap().path()).min().unwrap();
    let text = std::fs::read_to_string(&first).unwrap();
    let (before, after) = text.split_once("\"opened_ms\":").unwrap();
    let rest = after.trim_start_matches(|c: char| c.is_ascii_digit());
    std::fs::write(&first, format!("{before}\"opened_ms\":1714521600000{rest}")).unwrap();
    stage
}

impl Stage {
    /// What the table is, whatever came late.
    #[track_caller]
    fn expect_forgetful(&self, what: &str) {
        assert_eq!(self.final_rows(), rows(&[(1, 10), (3, 31), (5, 50)]), "{what}");
    }
}

/// Late changes of what was deleted before and after that day; of the first kind so many that their table would stop if
/// they counted as files that cannot be used.
fn late(stage: &Stage) {
    for second in 0..12 {
        stage.changes(&format!("20240430-0000{second:02}000"), &[("U", 2, 19)]);
    }
    stage.changes("20240502-120000000", &[("U", 4, 39), ("I", 5, 50)]);
}

fn what_is_too_late_is_set_aside(place: Place) {
    let stage = long_begun(place);
    stage.run().exits(0).tells(&["tombstones from before 2024-05-02 00:00:00 UTC are dropped"]);
    late(&stage);
    stage.run().exits(4).tells(&[
        "a change of 2024-04-30 00:00:00 UTC comes too late",
        "what was deleted before 2024-05-02 00:00:00 UTC is forgotten by now",
        "20240430-000000000.parquet",
        "freshet reload",
    ]);
    stage.expect_forgetful("set aside");
    stage.run().exits(0);
    let shown = freshet(stage.scene.folder(), &["show", "shop.orders"]).exits(0);
    shown.says(&["late_horizon: 15d", "before 2024-05-02 00:00:00 UTC are too late", "set aside: 12 files"]);
    // The target remembers what the ledger knew.
    std::fs::remove_dir_all(stage.scene.path("out/ledger")).unwrap();
    freshet(stage.scene.folder(), &["ledger", "--rebuild"]).exits(0);
    stage.run().exits(4).tells(&["comes too late"]);
    stage.expect_forgetful("rebuilt");
}

#[test]
fn what_is_too_late_for_a_purged_delta_table_is_set_aside() {
    what_is_too_late_is_set_aside(Place::Delta);
}

#[tokio::test]
async fn what_is_too_late_for_a_purged_bigquery_table_is_set_aside() {
    what_is_too_late_is_set_aside(Place::BigQuery(StrictBigQuery::start(Options::default()).await));
}

fn killed_at(place: Place, failpoint: Failpoint) {
    let stage = long_begun(place);
    let code = stage.go_to(&["run", "--once"], failpoint, "KILL").wait().code();
    assert_eq!(code, None, "{} was not reached", failpoint.name());
    late(&stage);
    stage.run().exits(4).tells(&["comes too late", "tombstones from before 2024-05-02 00:00:00 UTC are dropped"]);
    stage.expect_forgetful(failpoint.name());
    stage.run().exits(0);
}

/// One run stops in the middle of a purge, another ends it and carries what is late, then the first goes on.
async fn overtaken_at(place: Place, failpoint: Failpoint) {
    let stage = long_begun(place);
    let mut stopped = stage.go_to(&["run", "--once"], failpoint, "STOP");
    stage.stopped(&stopped, failpoint).await;
    late(&stage);
    stage.run().exits(4).tells(&["tombstones from before 2024-05-02 00:00:00 UTC are dropped"]);
    stopped.signal("-CONT");
    let code = stopped.wait().code();
    assert!(matches!(code, Some(0 | 4 | 75)), "{}: {code:?}", failpoint.name());
    stage.expect_forgetful(failpoint.name());
    stage.run().exits(0);
    stage.expect_forgetful(failpoint.name());
}

#[tokio::test]
async fn who_was_overtaken_in_a_purge_of_delta_tables_does_no_harm() {
    for failpoint in failpoint::OF_A_PURGE {
        overtaken_at(Place::Delta, failpoint).await;
    }
}

#[tokio::test]
async fn who_was_overtaken_in_a_purge_of_bigquery_tables_does_no_harm() {
    for failpoint in failpoint::OF_A_PURGE {
        overtaken_at(Place::BigQuery(StrictBigQuery::start(Options::default()).await), failpoint).await;
    }
}

#[test]
fn a_purge_of_delta_tables_that_was_killed_is_ended_by_the_next_run() {
    let rounds = number_asked_for("FRESHET_KILL_ROUNDS", ROUNDS);
    for _ in 0..rounds {
        failpoint::OF_A_PURGE.into_iter().for_each(|failpoint| killed_at(Place::Delta, failpoint));
    }
    tell_kills("Delta Lake, a purge", rounds, failpoint::OF_A_PURGE.len());
}

#[tokio::test]
async fn a_purge_of_bigquery_tables_that_was_killed_is_ended_by_the_next_run() {
    let rounds = number_asked_for("FRESHET_KILL_ROUNDS", ROUNDS);
    for _ in 0..rounds {
        for failpoint in failpoint::OF_A_PURGE {
            killed_at(Place::BigQuery(StrictBigQuery::start(Options::default()).await), failpoint);
        }
    }
    tell_kills("BigQuery, a purge", rounds, failpoint::OF_A_PURGE.len());
}
