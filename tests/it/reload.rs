//! A table reloaded: what the new load lacks is gone, what came since is there, and readers see the one or the other.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use freshet::trial::failpoint::{self, Failpoint};

use crate::binary::{Ended, freshet, number_asked_for};
use crate::change_files::{Change, columns, parquet, parquet_of, texts};
use crate::kills::{Place, Stage, rows, tell_kills};
use crate::strict_bigquery::{Options, StrictBigQuery};

/// How often each failpoint is tried at each sink; `FRESHET_KILL_ROUNDS` asks for another number than CI's.
const ROUNDS: usize = 2;

/// When the new generation begins.
const SINCE: &str = "2024-06-01T00:00:00Z";

impl Stage {
    /// A load file, as it is written now or, `then`, long before the new generation.
    fn load(&self, then: bool, rows: &[Change]) {
        let name = "data/shop/orders/LOAD00000001.parquet";
        self.scene.write(name, parquet(rows));
        if then {
            let may = SystemTime::UNIX_EPOCH + Duration::from_secs(1_714_521_600);
            std::fs::File::options().append(true).open(self.scene.path(name)).unwrap().set_modified(may).unwrap();
        }
    }

    fn reload(&self, arguments: &[&str]) -> Ended {
        freshet(self.scene.folder(), &[&["reload", "shop.orders"], arguments].concat())
    }

    /// A table of rows 1 to 5 of which 2 was changed and 4 deleted, and a new load, of rows 3, 5 and 7, being built.
    pub(crate) fn being_reloaded(place: Place) -> Self {
        let stage = Self::new(place);
        stage.load(true, &[("I", 1, 10), ("I", 2, 20), ("I", 3, 30), ("I", 4, 40), ("I", 5, 50)]);
        stage.changes("20240502-000000000", &[("U", 2, 21), ("D", 4, 0)]);
        stage.run().exits(0);
        assert_eq!(stage.final_rows(), rows(&[(1, 10), (2, 21), (3, 30), (5, 50)]));
        stage.reload(&["--since", SINCE]).exits(0).tells(&["generation 2 is being built, of files since 2024-06-01"]);
        stage.load(false, &[("I", 3, 33), ("I", 5, 55), ("I", 7, 77)]);
        stage.changes("20240602-000000000", &[("U", 3, 34), ("I", 8, 88)]);
        stage
    }

    /// What the table is before the switch, to readers.
    #[track_caller]
    pub(crate) fn expect_present(&self) {
        assert_eq!(self.final_rows(), rows(&[(1, 10), (2, 21), (3, 34), (5, 50), (8, 88)]));
    }
}

/// What the table is once it was reloaded.
pub(crate) fn reloaded() -> BTreeMap<i64, i64> {
    rows(&[(3, 34), (5, 55), (7, 77), (8, 88)])
}

fn a_table_is_reloaded(place: Place) {
    let stage = Stage::being_reloaded(place);
    // The new load is of the next generation alone, what came since of both.
    stage.run().exits(0).says(&["1 files, 2 changes"]).tells(&["1 files are of another generation than 1"]);
    stage.expect_present();
    stage.reload(&[]).exits(0).says(&["2 files, 5 changes"]);
    stage.expect_present();
    stage.reload(&["--complete"]).exits(0).says(&["shop.orders is switched to generation 2"]);
    assert_eq!(stage.final_rows(), reloaded());
    assert!(stage.tables().iter().all(|name| !name.contains("reload")), "{:?}", stage.tables());
    // What was deleted by a change of the new generation stays so, what is older than it is passed over.
    stage.changes("20240604-000000000", &[("D", 8, 0), ("U", 7, 78)]);
    stage.changes("20240503-000000000", &[("I", 50, 1), ("U", 3, 1)]);
    stage.run().exits(0);
    stage.changes("20240603-000000000", &[("U", 8, 89), ("I", 9, 99)]);
    stage.run().exits(0).tells(&["are of another generation than 2"]);
    assert_eq!(stage.final_rows(), rows(&[(3, 34), (5, 55), (7, 78), (9, 99)]));
    stage.run().exits(0).says(&["done: 0 files, 0 changes"]);
    freshet(stage.scene.folder(), &["ledger"]).exits(0).says(&["generation", "2"]);
    std::fs::remove_dir_all(stage.scene.path("out/ledger")).unwrap();
    freshet(stage.scene.folder(), &["ledger", "--rebuild"]).exits(4).tells(&["the table was reloaded", "generation 2"]);
}

#[test]
fn a_reloaded_delta_table_has_the_new_load_and_what_came_since() {
    a_table_is_reloaded(Place::Delta);
}

#[tokio::test]
async fn a_reloaded_bigquery_table_has_the_new_load_and_what_came_since() {
    a_table_is_reloaded(Place::BigQuery(StrictBigQuery::start(Options::default()).await));
}

/// Kills the switch, has a run come in between, and switches again.
fn killed_at(place: Place, failpoint: Failpoint) {
    let what = format!("killed at {}", failpoint.name());
    let stage = Stage::being_reloaded(place);
    let code = stage.go_to(&["reload", "shop.orders", "--complete"], failpoint, "KILL").wait().code();
    assert_eq!(code, None, "{what}: it was not reached");
    // The table rests where the switch is half-done; nothing that comes is lost.
    stage.changes("20240603-000000000", &[("U", 5, 56)]);
    let run = stage.run();
    let switched = failpoint == failpoint::SWITCHED;
    run.exits(if switched { 0 } else { 4 });
    let again = stage.reload(&["--complete"]);
    if switched {
        again.exits(1).tells(&["no generation of the table is being built", "freshet ledger"]);
    } else {
        again.exits(0);
    }
    stage.run().exits(0);
    assert_eq!(stage.final_rows(), rows(&[(3, 34), (5, 56), (7, 77), (8, 88)]), "{what}");
}

#[test]
fn a_switch_of_delta_tables_that_was_killed_is_finished_by_the_same_command() {
    let rounds = number_asked_for("FRESHET_KILL_ROUNDS", ROUNDS);
    for _ in 0..rounds {
        failpoint::OF_A_RELOAD.into_iter().for_each(|failpoint| killed_at(Place::Delta, failpoint));
    }
    tell_kills("Delta Lake, a reload", rounds, failpoint::OF_A_RELOAD.len());
}

#[tokio::test]
async fn a_switch_of_bigquery_tables_that_was_killed_is_finished_by_the_same_command() {
    let rounds = number_asked_for("FRESHET_KILL_ROUNDS", ROUNDS);
    for _ in 0..rounds {
        for failpoint in failpoint::OF_A_RELOAD {
            let bigquery = StrictBigQuery::start(Options::default()).await;
            killed_at(Place::BigQuery(bigquery), failpoint);
        }
    }
    tell_kills("BigQuery, a reload", rounds, failpoint::OF_A_RELOAD.len());
}

#[test]
fn a_reload_that_is_given_up_leaves_the_table_as_it_is() {
    let stage = Stage::being_reloaded(Place::Delta);
    stage.reload(&[]).exits(0);
    stage.reload(&["--since", "2024-06-02T00:00:00Z"]).exits(1).tells(&["of files since another time", "--abandon"]);
    stage.reload(&["--abandon"]).exits(0).says(&["generation 2 is given up"]);
    stage.reload(&["--abandon"]).exits(0).says(&["no generation is being built"]);
    assert!(stage.tables().iter().all(|name| !name.contains("reload")), "{:?}", stage.tables());
    // Its load is one more file of the present generation: newer than no change, so that it only adds what is lacking.
    stage.run().exits(0);
    stage.reload(&["--since", SINCE]).exits(0).tells(&["generation 3"]);
    stage.reload(&["--complete"]).exits(0);
    assert_eq!(stage.final_rows(), reloaded());
}

/// The load has a column that no change file has brought: that is what `ADD COLUMN … DEFAULT` gives.
fn a_column_of_the_load_alone(place: Place) {
    let stage = Stage::being_reloaded(place);
    let mut load = columns(&[("I", 3, 33), ("I", 5, 55), ("I", 7, 77)]);
    load.push(("note", texts(["x", "y", "z"])));
    stage.scene.write("data/shop/orders/LOAD00000001.parquet", parquet_of(load));
    stage.reload(&["--complete"]).exits(0);
    assert_eq!(stage.final_rows(), reloaded());
    stage.changes("20240603-000000000", &[("U", 5, 56)]);
    stage.run().exits(0);
    assert_eq!(stage.final_rows(), rows(&[(3, 34), (5, 56), (7, 77), (8, 88)]));
}

#[test]
fn a_column_that_only_the_load_has_is_in_the_delta_table_then() {
    a_column_of_the_load_alone(Place::Delta);
}

#[tokio::test]
async fn a_column_that_only_the_load_has_is_in_the_bigquery_table_then() {
    a_column_of_the_load_alone(Place::BigQuery(StrictBigQuery::start(Options::default()).await));
}

#[test]
fn a_load_of_other_types_is_refused_while_the_reload_can_be_given_up() {
    let stage = Stage::being_reloaded(Place::Delta);
    let mut load = columns(&[("I", 3, 33)]);
    load[2].1 = texts(["many"]);
    stage.scene.write("data/shop/orders/LOAD00000001.parquet", parquet_of(load));
    std::fs::remove_file(stage.scene.path("data/shop/orders/20240602-000000000.parquet")).unwrap();
    stage.reload(&["--complete"]).exits(1).tells(&["amount", "shop.orders"]);
    stage.changes("20240603-000000000", &[("U", 5, 56)]);
    stage.run().exits(0).says(&["1 files, 1 changes"]);
    stage.reload(&["--abandon"]).exits(0);
    assert_eq!(stage.final_rows(), rows(&[(1, 10), (2, 21), (3, 30), (5, 56)]));
}

#[test]
fn a_switch_that_would_lose_a_file_is_refused_until_the_loss_is_accepted() {
    let stage = Stage::being_reloaded(Place::Delta);
    stage.run().exits(0);
    // A value of the one file of changes does not fit any more.
    let amount = "CAST(CASE WHEN amount = 34 THEN 'x' ELSE CAST(amount AS VARCHAR) END AS BIGINT) AS amount";
    let sql = format!("SELECT id, {amount}, _cdc_operation, _cdc_sequence FROM orders");
    stage.scene.write("queries/shop/orders.sql", sql);
    stage.reload(&[]).tells(&["set aside", "20240602-000000000.parquet"]);
    stage.reload(&["--complete"]).exits(1).tells(&["could not be used for the new generation", "--accept-losses"]);
    stage.expect_present();
    stage.reload(&["--complete", "--accept-losses"]).exits(0);
    assert_eq!(stage.final_rows(), rows(&[(3, 33), (5, 55), (7, 77)]));
}

#[tokio::test]
async fn a_lost_ledger_of_a_table_that_was_reloaded_to_nothing_is_not_rebuilt() {
    let stage = Stage::new(Place::BigQuery(StrictBigQuery::start(Options::default()).await));
    stage.load(true, &[("I", 1, 10)]);
    stage.run().exits(0);
    stage.reload(&["--since", SINCE]).exits(0);
    stage.reload(&["--complete", "--empty"]).exits(0);
    assert_eq!(stage.final_rows(), rows(&[]));
    std::fs::remove_dir_all(stage.scene.path("out/ledger")).unwrap();
    // No row tells of the generation, but the table does.
    freshet(stage.scene.folder(), &["ledger", "--rebuild"]).exits(4).tells(&["the table was reloaded", "generation 2"]);
}

#[test]
fn a_reload_that_cannot_be_is_refused_with_a_hint() {
    let stage = Stage::new(Place::Delta);
    stage.reload(&[]).exits(1).tells(&["nothing was ever carried", "freshet run"]);
    stage.load(true, &[("I", 1, 10)]);
    stage.run().exits(0);
    stage.reload(&["--complete"]).exits(1).tells(&["no generation of the table is being built"]);
    stage.reload(&["--since", SINCE]).exits(0);
    stage.reload(&["--complete"]).exits(1).tells(&["no file of the new load has come", "--empty"]);
    stage.reload(&["--complete", "--empty"]).exits(0);
    assert_eq!(stage.final_rows(), rows(&[]));
    freshet(stage.scene.folder(), &["reload", "shop.none"]).exits(1).tells(&["no table `shop.none`"]);
}
