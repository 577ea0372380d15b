//! `freshet backfill`: what history lacks, and nothing twice.

use crate::binary::{Ended, freshet};
use crate::change_files::parquet;
use crate::logged_run::Run;
use crate::scene::{Scene, files_below};

const TABLES: &str = "databases: {shop: {tables: [{name: orders, key: id}, {name: users, key: id}]}}";
/// The days of the files, one after the other.
const DAYS: i64 = 10;

/// So many files for each table, spread over ten days of May; each row is changed by the file of the next number too.
fn history(scene: &Scene, tables: &[&str], files: i64) {
    for table in tables {
        for file in 0..files {
            let (day, millisecond) = (1 + file * DAYS / files, file % 1_000_000);
            let name = format!("data/shop/{table}/202405{day:02}-000{millisecond:06}.parquet");
            scene.write(&name, parquet(&[("I", file, 1), ("U", file - 1, file)]));
        }
    }
}

fn backfill(scene: &Scene, table: &str, from: &str, to: &str) -> Ended {
    freshet(scene.folder(), &["backfill", table, "--from", from, "--to", to])
}

fn rows(scene: &Scene, table: &str) -> Vec<String> {
    scene.rows(&format!("shop/{table}"), &["id", "amount"])
}

#[test]
fn only_files_of_its_tables_and_days_are_carried_and_none_twice() {
    let scene = Scene::new(TABLES);
    history(&scene, &["orders", "users"], 10);
    backfill(&scene, "SHOP.orders", "2024-05-03", "2024-05-04").exits(0).says(&["done: 2 files, 4 changes"]);
    assert_eq!(rows(&scene, "orders"), ["1|2", "2|3", "3|1"]);
    assert!(!scene.table("shop/users").exists(), "another table was carried");
    let before = files_below(&scene.path("out"));
    backfill(&scene, "shop.orders", "2024-05-03", "2024-05-04").exits(0).says(&["done: 0 files"]);
    assert!(before == files_below(&scene.path("out")), "what was there already was carried again");
    backfill(&scene, "shop.orders", "2024-05-01", "2024-05-10").exits(0).says(&["done: 8 files, 16 changes"]);
    scene.run().exits(0).says(&["done: 10 files, 20 changes"]);
    assert_eq!(rows(&scene, "orders"), rows(&scene, "users"));
}

#[test]
fn two_thousand_files_are_there_once_although_it_is_killed_five_times() {
    let files = 2_000;
    let limits = format!("{TABLES}\npipeline_config: {{batch_size: 40}}");
    let (killed, whole) = (Scene::new(&limits), Scene::new(TABLES));
    history(&killed, &["orders"], files);
    history(&whole, &["orders"], files);
    let arguments = ["backfill", "shop.orders", "--from", "2024-05-01", "--to", "2024-05-10"];
    for commits in [1, 4, 7, 2, 9] {
        let mut run = Run::start(&killed, &arguments);
        run.until_said("batch committed", commits);
        assert_eq!(run.kill().code(), None);
    }
    freshet(killed.folder(), &arguments).exits(0);
    whole.run().exits(0);
    assert_eq!(rows(&killed, "orders"), rows(&whole, "orders"));
    let changes = |scene: &Scene| scene.rows("shop/orders_changes", &["id", "amount", "_cdc_operation"]);
    assert_eq!(changes(&killed), changes(&whole));
    assert_eq!(changes(&killed).len(), 4_000);
}

#[test]
fn beside_a_running_daemon_each_file_is_carried_once() {
    let scene = Scene::new(&format!("{TABLES}\npipeline_config: {{batch_size: 5}}"));
    history(&scene, &["orders"], 200);
    let mut daemon = Run::start(&scene, &["run"]);
    daemon.until_said("batch committed", 1);
    let ended = backfill(&scene, "shop.orders", "2024-05-01", "2024-05-10");
    assert!(matches!(ended.code(), Some(0 | 4 | 75)), "{}", ended.report());
    daemon.program.signal("-TERM");
    daemon.end().exits(0);
    backfill(&scene, "shop.orders", "2024-05-01", "2024-05-10").exits(0);
    assert_eq!(scene.rows("shop/orders_changes", &["id"]).len(), 400);
    assert_eq!(rows(&scene, "orders").len(), 201);
}

#[test]
fn a_table_that_is_not_listed_and_days_in_the_wrong_order_are_told() {
    let scene = Scene::new(TABLES);
    history(&scene, &["orders"], 1);
    backfill(&scene, "shop.order", "2024-05-01", "2024-05-02").exits(1).tells(&["did you mean shop.orders?"]);
    backfill(&scene, "shop.orders", "2024-05-02", "2024-05-01").exits(1).tells(&["--to 2024-05-01 is before"]);
    backfill(&scene, "shop.orders", "May 2nd", "2024-05-01").exits(2).tells(&["--from"]);
    assert!(!scene.path("out").exists(), "something was written");
}
