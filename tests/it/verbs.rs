//! Exit codes, log lines, `check` and `show`; and runs that are ended half-way.

use crate::binary::freshet;
use crate::change_files::parquet;
use crate::logged_run::Run;
use crate::scene::{Scene, files_below};

const ORDERS: &str = "databases: {shop: {tables: [{name: orders, key: id}]}}";
const FILES: i64 = 24;

/// One table with a change file each for so many keys, a batch for each file.
fn many_files() -> Scene {
    let scene = Scene::new(&format!("{ORDERS}\npipeline_config: {{batch_size: 1}}"));
    for id in 0..FILES {
        let name = format!("data/shop/orders/20240501-{:06}000.parquet", id);
        scene.write(&name, parquet(&[("I", id, 1), ("U", id, 2), ("U", id / 2, 3)]));
    }
    scene
}

fn expect_whole(scene: &Scene, what: &str) {
    // Keys of the first half are updated once more, by the files of twice their number and of one more.
    let amount = |id: i64| if id < FILES / 2 { 3 } else { 2 };
    let mut expected: Vec<String> = (0..FILES).map(|id| format!("{id}|{}", amount(id))).collect();
    expected.sort_unstable();
    assert_eq!(scene.rows("shop/orders", &["id", "amount"]), expected, "{what}");
    let changes = scene.rows("shop/orders_changes", &["id"]).len();
    assert_eq!(i64::try_from(changes).unwrap(), FILES * 3, "{what}: changes were lost or came twice");
}

#[test]
fn sigterm_ends_a_run_cleanly_and_the_next_one_carries_the_rest() {
    for signal in ["-TERM", "-INT"] {
        let scene = many_files();
        let run = Run::once_until(&scene, "batch committed", 1);
        run.program.signal(signal);
        let ended = run.end();
        assert!(matches!(ended.code(), Some(0 | 4)), "{}", ended.report());
        assert!(ended.stdout().contains("interrupted after "), "{}", ended.report());
        let merged = scene.rows("shop/orders", &["id"]).len();
        assert!(i64::try_from(merged).unwrap() < FILES, "the run was over before the signal came");
        scene.run().exits(0);
        expect_whole(&scene, signal);
    }
}

#[test]
fn a_daemon_over_a_folder_carries_files_as_they_come_until_it_is_told_to_end() {
    let scene = Scene::new(ORDERS);
    scene.write("data/shop/orders/20240501-000000000.parquet", parquet(&[("I", 1, 1)]));
    let mut daemon = Run::start(&scene, &["run"]);
    daemon.until_said("\"merged\"", 1);
    assert_eq!(scene.rows("shop/orders", &["id", "amount"]), ["1|1"]);
    scene.write("later.parquet", parquet(&[("U", 1, 2), ("I", 2, 3)]));
    std::fs::rename(scene.path("later.parquet"), scene.path("data/shop/orders/20240501-000001000.parquet")).unwrap();
    daemon.until_said("\"merged\"", 1);
    assert_eq!(scene.rows("shop/orders", &["id", "amount"]), ["1|2", "2|3"]);
    daemon.program.signal("-TERM");
    daemon.end().exits(0).tells(&["ended"]);
}

#[test]
fn a_run_killed_at_any_moment_is_completed_by_the_next() {
    let moments = [("table started", 1), ("batch committed", 1), ("batch committed", 5), ("batch committed", 24)];
    for (message, times) in moments {
        let scene = many_files();
        let ended = Run::once_until(&scene, message, times).kill();
        assert_eq!(ended.code(), None, "{}", ended.report());
        scene.run().exits(0);
        expect_whole(&scene, &format!("killed after {message:?} number {times}"));
        let before = files_below(&scene.path("out"));
        scene.run().exits(0);
        assert!(before == files_below(&scene.path("out")), "a third run changed something");
    }
}

#[test]
fn a_run_killed_many_times_over_still_comes_to_the_same_table() {
    let scene = many_files();
    for times in [1, 2, 3, 2, 1, 3] {
        Run::once_until(&scene, "batch committed", times).kill();
    }
    scene.run().exits(0);
    expect_whole(&scene, "killed six times");
}

#[test]
fn two_runs_at_once_carry_each_file_once() {
    let scene = many_files();
    let run = Run::once_until(&scene, "batch committed", 1);
    let other = scene.run();
    let one = run.end();
    for ended in [&one, &other] {
        assert!(matches!(ended.code(), Some(0 | 4 | 75)), "{}", ended.report());
    }
    scene.run().exits(0);
    expect_whole(&scene, "two runs at once");
}

#[test]
fn log_lines_are_json_objects_that_tell_what_was_done() {
    let scene = many_files();
    let log = scene.run().exits(0).log();
    let of = |message: &str| log.iter().filter(|line| line["message"] == message).count();
    assert_eq!((of("table started"), of("table done")), (1, 1));
    assert_eq!(i64::try_from(of("batch committed")).unwrap(), FILES);
    for line in &log {
        assert!(line["timestamp"].is_string() && line["level"].is_string() && line["message"].is_string(), "{line}");
    }
    let done = log.iter().find(|line| line["message"] == "table done").unwrap();
    assert_eq!((&done["table"], &done["files"]), (&"shop.orders".into(), &FILES.into()));
    assert_eq!(done["changes"], FILES * 3);
}

#[test]
fn ledger_shows_each_tables_standing_and_says_where_a_chain_is_damaged() {
    let scene = many_files();
    freshet(scene.folder(), &["ledger"]).exits(1).tells(&["there is no ledger"]);
    assert!(!scene.path("out").exists(), "ledger wrote something");
    scene.run().exits(0);
    let shown = freshet(scene.folder(), &["ledger"]).exits(0).stdout();
    let line = shown.lines().find(|line| line.starts_with("shop.orders ")).unwrap();
    let cells: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(cells[1], "1", "the generation: {shown}");
    assert_eq!(cells[3..], [&FILES.to_string(), &(FILES * 3).to_string(), "0", "0", "0", "0", "nothing"], "{shown}");
    assert!(shown.contains("of delta "), "{shown}");
    freshet(scene.folder(), &["ledger", "shop.users"]).exits(1).tells(&["the ledger has no table `shop.users`"]);
    let before = files_below(&scene.path("out"));
    let entry = scene.path("out/ledger/tables/shop/orders/00000000000000000003.json");
    let bytes = std::fs::read(&entry).unwrap();
    std::fs::write(&entry, &bytes[..bytes.len() / 2]).unwrap();
    freshet(scene.folder(), &["ledger"]).exits(3).tells(&["damaged", "entry 3", "hint"]);
    std::fs::remove_file(&entry).unwrap();
    freshet(scene.folder(), &["ledger", "shop.orders"]).exits(3).tells(&["entry 3", "missing"]);
    std::fs::write(&entry, bytes).unwrap();
    freshet(scene.folder(), &["ledger"]).exits(0);
    assert!(before == files_below(&scene.path("out")), "it wrote something");
}

#[test]
fn wrong_usage_exits_2_and_says_how_it_goes() {
    for arguments in
        [&["show"][..], &["fly"], &["query"], &["run", "--twice"], &["query", "--format", "xml", "SELECT 1"]]
    {
        freshet(Scene::empty().folder(), arguments).exits(2).tells(&["error: ", "--help"]);
    }
    freshet(Scene::empty().folder(), &[]).exits(2).tells(&["Usage: freshet"]);
}

#[test]
fn help_goes_to_stdout_and_lists_the_verbs_that_there_are() {
    let help = freshet(Scene::empty().folder(), &["--help"]).exits(0).stdout();
    for verb in ["run", "backfill", "reload", "query", "check", "show", "ledger"] {
        assert!(help.lines().any(|line| line.trim_start().starts_with(&format!("{verb} "))), "{help}");
    }
}

#[test]
fn an_unusable_configuration_exits_1_and_points_at_the_line() {
    let cases = [
        ("source: data\nsink: {detla: out}\n", &["freshet.yaml:2", "detla", "delta"][..]),
        ("source: data\nsink: {delta: out}\nqeries: x\n", &["freshet.yaml:3", "qeries", "`queries`"]),
        ("source: data\n", &["sink"]),
        ("sink: {delta: out}\n", &["source"]),
        ("source: [\n", &["freshet.yaml"]),
        (
            "source: data\nsink: {delta: out}\ndatabases: {s: {tables: [{name: t, mode: mirror}]}}\n",
            &["mirror", "append"],
        ),
    ];
    for (text, told) in cases {
        let scene = Scene::empty();
        scene.write("freshet.yaml", text);
        scene.write("data/s/t/20240501-000000000.parquet", parquet(&[("I", 1, 1)]));
        for verb in [&["run", "--once"][..], &["check"]] {
            freshet(scene.folder(), verb).exits(1).tells(&["error: "]).tells(told);
        }
        assert!(!scene.path("out").exists(), "something was written for {text}");
    }
    freshet(Scene::empty().folder(), &["run", "--once"]).exits(1).tells(&["freshet.yaml"]);
}

#[test]
fn check_says_yes_or_no_for_each_table_and_writes_nothing() {
    let scene = Scene::new("databases: {shop: {tables: [{name: orders, key: id}, {name: other, key: id}]}}");
    for table in ["orders", "other"] {
        scene.write(&format!("data/shop/{table}/20240501-000000000.parquet"), parquet(&[("I", 1, 1)]));
    }
    let fine = freshet(scene.folder(), &["check"]).exits(0).stdout();
    assert!(fine.contains("ok  shop.orders: merge by id, order best effort"), "{fine}");
    scene.write("queries/shop/orders.sql", "SELECT id,\n  amout, _cdc_operation, _cdc_sequence FROM shop.orders");
    let ended = freshet(scene.folder(), &["check"]).exits(3);
    let ended = ended.tells(&["there is no column `amout`", "queries/shop/orders.sql:2:3", "did you mean `amount`?"]);
    assert_eq!(ended.stdout().lines().map(|line| &line[..4]).collect::<Vec<_>>(), ["no  ", "ok  "]);
    freshet(scene.folder(), &["check", "shop.other"]).exits(0);
    freshet(scene.folder(), &["check", "shop.nothing"]).exits(1).tells(&["there is no table `shop.nothing`", "hint"]);
    assert!(!scene.path("out").exists(), "check wrote something");
}

#[test]
fn show_tells_sql_columns_and_where_the_table_stands() {
    let scene = Scene::new(ORDERS);
    scene.write("data/shop/orders/20240501-000000000.parquet", parquet(&[("I", 1, 1), ("I", 2, 2)]));
    let before = freshet(scene.folder(), &["show", "SHOP.Orders"]).exits(0).stdout();
    assert!(before.contains("committed: 0 files, 0 rows"), "{before}");
    assert!(!scene.path("out").exists(), "show wrote something");
    scene.write("data/shop/orders/20240501-000000001.parquet", "no Parquet");
    scene.run().exits(4);
    std::fs::remove_file(scene.path("data/shop/orders/20240501-000000001.parquet")).unwrap();
    let after = freshet(scene.folder(), &["show", "shop.orders"]).exits(0).stdout();
    for text in [
        "shop.orders → shop.orders",
        "mode: merge",
        "key: id",
        "SELECT",
        "amount INT64",
        "committed: 1 files, 2 rows; set aside: 1 files",
        "set aside: ",
        "20240501-000000001.parquet",
    ] {
        assert!(after.contains(text), "{text:?} is missing:\n{after}");
    }
    freshet(scene.folder(), &["show", "shop.order"]).exits(1).tells(&["did you mean shop.orders?"]);
}
