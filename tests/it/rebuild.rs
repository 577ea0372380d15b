//! A ledger that was lost, made anew from what the targets say: no change is carried twice.

use crate::binary::{Ended, freshet};
use crate::kills::{Place, Stage};
use crate::strict_bigquery::{Options, StrictBigQuery};

fn rebuild(stage: &Stage, tables: &[&str]) -> Ended {
    freshet(stage.scene.folder(), &[&["ledger", "--rebuild"], tables].concat())
}

/// Half of the files are carried, the ledger is lost and rebuilt, then all files are there.
fn a_lost_ledger_is_rebuilt(place: Place) {
    let stage = Stage::new(place);
    stage.put(0);
    stage.run().exits(0);
    rebuild(&stage, &["shop.orders"]).exits(0).tells(&["shop.orders: the ledger knows it"]);
    std::fs::remove_dir_all(stage.scene.path("out/ledger")).unwrap();
    rebuild(&stage, &["shop.none"]).exits(1).tells(&["no table `shop.none`"]);
    rebuild(&stage, &[]).exits(0).says(&["shop.orders", "batches", "freshet backfill"]);
    // The files that are on record come again, as every file of a folder does, and are not carried again.
    stage.run().exits(0).says(&["done: 0 files, 0 changes"]);
    stage.put(1);
    stage.run().exits(0);
    stage.expect_whole("rebuilt");
    stage.run().exits(0);
    stage.expect_whole("rebuilt, and run again");
}

#[test]
fn a_ledger_of_delta_tables_that_was_lost_is_rebuilt_and_each_change_is_there_once() {
    a_lost_ledger_is_rebuilt(Place::Delta);
}

#[tokio::test]
async fn a_ledger_of_bigquery_that_was_lost_is_rebuilt_and_each_change_is_there_once() {
    a_lost_ledger_is_rebuilt(Place::BigQuery(StrictBigQuery::start(Options::default()).await));
}
