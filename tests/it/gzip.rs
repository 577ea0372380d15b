//! Whole-file-gzipped Parquet, whose footer can only be read once all of it is inflated: no row may be lost.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};

use crate::binary::freshet;
use crate::change_files::{gzipped, parquet_in_groups};
use crate::delta_table;
use crate::scene::Scene;

/// As many as in the trial in which a reader that took the gzipped size for the file's lost 351,000 of them.
const ROWS: i64 = 601_000;
const FILE: &str = "data/shop/orders/LOAD00000001.parquet.gz";

/// A load of rows 0, 1, 2, … in row groups of 10,000, gzipped to far less than it is.
fn load(rows: i64) -> Vec<u8> {
    let batches: Vec<RecordBatch> = (0..rows)
        .step_by(10_000)
        .map(|start| {
            let ids = start..rows.min(start + 10_000);
            let columns: [(&str, ArrayRef); 2] = [
                ("id", Arc::new(Int64Array::from_iter_values(ids.clone()))),
                ("cents", Arc::new(Int64Array::from_iter_values(ids.map(|id| id % 100)))),
            ];
            RecordBatch::try_from_iter(columns).unwrap()
        })
        .collect();
    let plain = parquet_in_groups(&batches, 10_000);
    let whole = gzipped(&plain);
    assert!(whole.len() * 2 < plain.len(), "{} of {} bytes are no test of the sizes", whole.len(), plain.len());
    whole
}

fn scene(mode: &str, pipeline: &str) -> Scene {
    Scene::new(&format!(
        "databases: {{shop: {{tables: [{{name: orders, {mode}}}]}}}}\npipeline_config: {{retry_attempts: 1{pipeline}}}"
    ))
}

/// Rows, and the sum of their ids, in a Delta table.
fn count_and_sum(scene: &Scene, table: &str) -> (usize, i64) {
    let batches = delta_table::batches(&scene.table(table));
    let ids = batches.iter().map(|batch| batch.column_by_name("id").unwrap().clone());
    let sum = ids.map(|ids| arrow::compute::sum(ids.as_any().downcast_ref::<Int64Array>().unwrap()).unwrap_or(0)).sum();
    (batches.iter().map(RecordBatch::num_rows).sum(), sum)
}

fn expected(rows: i64) -> (usize, i64) {
    (usize::try_from(rows).unwrap(), rows * (rows - 1) / 2)
}

#[test]
fn query_counts_every_row_of_a_gzipped_parquet_file() {
    let scene = Scene::empty();
    scene.write(FILE, load(ROWS));
    let sql = "SELECT count(*) AS n, sum(id) AS ids, sum(cents) AS cents, max(_cdc_row) AS last FROM shop.orders";
    let output = freshet(scene.folder(), &["query", "--files", "data", "--format", "csv", sql]).exits(0).stdout();
    let cents: i64 = (0..ROWS).map(|id| id % 100).sum();
    assert_eq!(output, format!("n,ids,cents,last\n{ROWS},{},{cents},{}\n", expected(ROWS).1, ROWS - 1));
}

#[test]
fn a_filter_that_reaches_the_parquet_reader_loses_no_row_either() {
    let scene = Scene::empty();
    scene.write(FILE, load(ROWS));
    let sql = "SELECT count(*) AS n FROM shop.orders WHERE id >= 250_000 AND cents = 7".replace('_', "");
    let output = freshet(scene.folder(), &["query", "--files", "data", "--format", "csv", &sql]).exits(0).stdout();
    assert_eq!(output, format!("n\n{}\n", (250_000..ROWS).filter(|id| id % 100 == 7).count()));
}

#[test]
fn run_carries_every_row_whether_inflated_in_memory_or_to_a_staging_file() {
    let file = load(ROWS);
    for pipeline in ["", ", inflate_memory: 100KB, staging: staging"] {
        let scene = scene("mode: append", pipeline);
        std::fs::create_dir(scene.path("staging")).unwrap();
        scene.write(FILE, &file);
        let output = scene.run().exits(0).stdout();
        assert!(output.contains(&format!("done: 1 files, {ROWS} changes")), "{output}");
        assert_eq!(count_and_sum(&scene, "shop/orders_changes"), expected(ROWS), "{pipeline}");
        let left = std::fs::read_dir(scene.path("staging")).unwrap().count();
        assert_eq!(left, 0, "staging files are left");
    }
}

#[test]
fn a_staging_folder_that_cannot_be_used_is_told_and_nothing_is_lost() {
    let scene = scene("mode: append", ", inflate_memory: 100KB, staging: blocked");
    std::fs::write(scene.path("blocked"), "a file where a folder should be").unwrap();
    scene.write(FILE, load(50_000));
    let ended = scene.run();
    assert_ne!(ended.code(), Some(0), "nothing was carried, and all is said to be well\n{}", ended.report());
    ended.tells(&["temporary files", "pipeline_config.staging", "shop.orders"]);
    assert!(!scene.table("shop/orders_changes").exists(), "rows came from nowhere");
    std::fs::remove_file(scene.path("blocked")).unwrap();
    scene.run().exits(0);
    assert_eq!(count_and_sum(&scene, "shop/orders_changes"), expected(50_000));
}

#[test]
fn a_million_rows_are_merged_into_the_final_table() {
    let scene = scene("key: id", "");
    scene.write(FILE, load(1_000_000));
    let output = scene.run().exits(0).stdout();
    assert!(output.contains("done: 1 files, 1000000 changes"), "{output}");
    assert_eq!(count_and_sum(&scene, "shop/orders"), expected(1_000_000));
}
