//! `freshet query`: what it says, compared with what it said before (`golden/`); `UPDATE_GOLDEN=1` writes that anew.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::binary::{self, Ended, REPOSITORY, freshet};
use crate::change_files::parquet;
use crate::scene::Scene;

/// Snapshots: a name and the arguments after `query --files demo/data`.
const CASES: [(&str, &[&str]); 25] = [
    (
        "count_of_each_operation",
        &["SELECT _cdc_operation AS op, count(*) AS n FROM casino_db2.game_results GROUP BY 1 ORDER BY 1"],
    ),
    ("count_by_bare_name", &["SELECT count(*) AS n FROM game_results"]),
    (
        "latest_per_key_by_qualify",
        &[
            "SELECT result_id, payout, _cdc_operation FROM game_results\nQUALIFY row_number() OVER (PARTITION BY result_id \
             ORDER BY _cdc_sequence DESC) = 1\nORDER BY result_id LIMIT 5",
        ],
    ),
    (
        "latest_per_key_by_subquery",
        &[
            "SELECT result_id, payout, _cdc_operation\nFROM (SELECT *, row_number() OVER (PARTITION BY result_id ORDER BY \
             _cdc_sequence DESC) AS rn FROM game_results)\nWHERE rn = 1 ORDER BY result_id LIMIT 5",
        ],
    ),
    (
        "cdc_columns",
        &[
            "--format",
            "ndjson",
            "SELECT _cdc_operation, _cdc_timestamp, _cdc_file, _cdc_row, length(_cdc_sequence) AS sequence_length\n\
             FROM game_results WHERE _cdc_operation <> 'I' ORDER BY _cdc_file, _cdc_row LIMIT 3",
        ],
    ),
    (
        "names_without_regard_to_case",
        &["SELECT SESSIONID, gamecode, \"isMobile\"\nFROM CASINO_DB1.Game_Sessions ORDER BY sessionid, _CDC_sequence \
             LIMIT 3"],
    ),
    ("quoted_names_are_exact", &["SELECT \"SESSIONID\" FROM casino_db1.game_sessions"]),
    (
        "format_csv",
        &["--format", "csv", "SELECT result_id, payout, played_at FROM game_results ORDER BY _cdc_sequence LIMIT 3"],
    ),
    (
        "format_tsv",
        &["--format", "tsv", "SELECT result_id, payout, played_at FROM game_results ORDER BY _cdc_sequence LIMIT 3"],
    ),
    (
        "format_json",
        &["--format", "json", "SELECT result_id, payout, played_at FROM game_results ORDER BY _cdc_sequence LIMIT 3"],
    ),
    (
        "format_ndjson",
        &["--format", "ndjson", "SELECT result_id, payout, played_at FROM game_results ORDER BY _cdc_sequence LIMIT 3"],
    ),
    ("empty_table", &["SELECT result_id, payout FROM game_results WHERE result_id < 0"]),
    (
        "empty_csv_has_its_header",
        &["--format", "csv", "SELECT result_id, payout FROM game_results WHERE result_id < 0"],
    ),
    ("empty_json", &["--format", "json", "SELECT result_id, payout FROM game_results WHERE result_id < 0"]),
    ("max_rows", &["--max-rows", "2", "SELECT result_id FROM game_results ORDER BY 1"]),
    ("a_filter_on_a_column", &["SELECT count(*) AS n FROM game_results WHERE result_id > 10 AND payout IS NOT NULL"]),
    ("types_that_differ_are_told", &["SELECT count(*) AS n FROM casino_db1.transactions"]),
    ("a_typo_in_a_column", &["SELECT result_id,\n       payuot\nFROM casino_db2.game_results"]),
    ("a_typo_in_a_table", &["SELECT 1 FROM casino_db2.game_result"]),
    ("an_unknown_table", &["SELECT 1 FROM nowhere"]),
    ("sql_that_does_not_parse", &["SELECT result_id\nFORM game_results"]),
    ("an_unknown_function", &["SELECT bitt(result_id) FROM game_results"]),
    (
        "a_set_writes_nothing",
        &["--format", "json", "SET freshet.latest_per_key = false; SELECT count(*) AS n FROM game_results"],
    ),
    ("several_statements", &["--format", "csv", "SELECT 1 AS one; SELECT 2 AS two"]),
    ("no_files_here", &["--files", "tests/it/golden/nothing", "SELECT 1"]),
];

fn golden_folder() -> PathBuf {
    Path::new(REPOSITORY).join("tests/it/golden")
}

fn query(arguments: &[&str]) -> Ended {
    let own_files = arguments.contains(&"--files");
    let files: &[&str] = if own_files { &[] } else { &["--files", "demo/data"] };
    freshet(Path::new(REPOSITORY), &[&["query"], files, arguments].concat())
}

fn snapshot(arguments: &[&str]) -> String {
    let ended = query(arguments);
    let shown: Vec<String> = arguments
        .iter()
        .map(|word| if word.contains(' ') { format!("'{word}'") } else { (*word).to_owned() })
        .collect();
    let text = format!(
        "$ freshet query {}\n{}--- stderr\n{}--- exit code {}\n",
        shown.join(" "),
        ended.stdout(),
        ended.stderr(),
        ended.code().unwrap()
    );
    text.replace(REPOSITORY, "REPOSITORY")
}

#[test]
fn answers_and_messages_are_what_they_were() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut wrong = Vec::new();
    for (name, arguments) in CASES {
        let path = golden_folder().join(format!("{name}.txt"));
        let now = snapshot(arguments);
        if update {
            fs::create_dir_all(golden_folder()).unwrap();
            fs::write(&path, &now).unwrap();
        }
        let before = fs::read_to_string(&path).unwrap_or_default();
        if now != before {
            wrong.push(format!("{name} was\n{before}\nand is\n{now}"));
        }
    }
    assert!(wrong.is_empty(), "{}\nUPDATE_GOLDEN=1 accepts what is now", wrong.join("\n"));
}

#[test]
fn every_golden_file_belongs_to_a_case() {
    let names: BTreeSet<String> = CASES.iter().map(|(name, _)| format!("{name}.txt")).collect();
    let files = fs::read_dir(golden_folder()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(files.collect::<BTreeSet<_>>(), names);
}

#[test]
fn both_ways_to_ask_for_the_latest_change_agree() {
    let over = "OVER (PARTITION BY player_id, stat_date ORDER BY _cdc_sequence DESC)";
    let columns = "player_id, stat_date, wins, _cdc_operation, _cdc_sequence";
    let from = "FROM casino_db2.player_stats";
    let files = "demo/data/cdc/casino_db2/player_stats/2023/03/15/20230315143022_player_stats.parquet.gz";
    let ask = |sql: &str| {
        let ended = query(&["--files", files, "--format", "csv", sql]);
        ended.stdout()
    };
    let qualify = ask(&format!("SELECT {columns} {from} QUALIFY row_number() {over} = 1 ORDER BY 1, 2"));
    let subquery =
        ask(&format!("SELECT {columns} FROM (SELECT *, row_number() {over} AS rn {from}) WHERE rn = 1 ORDER BY 1, 2"));
    assert!(qualify.lines().count() > 5, "{qualify}");
    assert_eq!(qualify, subquery);
}

#[test]
fn a_closed_pipe_ends_the_query_quietly() {
    let sql = "SELECT a.result_id FROM game_results AS a CROSS JOIN game_results AS b CROSS JOIN game_results AS c";
    for format in ["csv", "tsv", "json", "ndjson", "table"] {
        let arguments = ["query", "--files", "demo/data", "--format", format, "--max-rows", "100000", sql];
        let mut command = binary::command(Path::new(REPOSITORY), &arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut first = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
        assert!(!first.is_empty(), "{format}");
        let ended = Ended::new(format!("freshet query --format {format} | head -1"), child.wait_with_output().unwrap());
        assert_eq!(ended.code(), Some(0), "{}", ended.report());
        assert!(!ended.stderr().contains("error"), "{}", ended.report());
    }
}

#[test]
fn parquet_output_can_be_read_back() {
    let sql = "SELECT result_id, payout FROM game_results ORDER BY _cdc_sequence";
    let written = query(&["--format", "parquet", sql]).exits(0);
    let bytes = bytes::Bytes::copy_from_slice(written.stdout_bytes());
    let batches: Vec<_> = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().build().unwrap().collect();
    let rows: usize = batches.iter().map(|batch| batch.as_ref().unwrap().num_rows()).sum();
    let names: Vec<_> =
        batches[0].as_ref().unwrap().schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names, ["result_id", "payout"]);
    assert_eq!(rows, query(&["--format", "csv", sql]).exits(0).stdout().lines().count() - 1);
}

#[test]
fn explain_tells_the_plan_and_describe_the_columns() {
    let plan = query(&["EXPLAIN SELECT result_id FROM game_results WHERE result_id > 5"]).exits(0).stdout();
    assert!(plan.contains("plan_type") && plan.contains("physical_plan"), "{plan}");
    let columns = query(&["--format", "csv", "DESCRIBE casino_db2.game_results"]).exits(0).stdout();
    assert!(columns.contains("result_id,Int32") && columns.contains("_cdc_sequence,Utf8"), "{columns}");
}

#[test]
fn inputs_of_several_types_are_united_and_that_is_told() {
    let scene = Scene::empty();
    scene.write("shop/orders/20240501-000000001.parquet", parquet(&[("I", 1, 10)]));
    let cents = arrow::array::Decimal128Array::from(vec![250]).with_precision_and_scale(15, 2).unwrap();
    let columns = vec![
        ("Op", crate::change_files::texts(["I"])),
        ("id", crate::change_files::integers([2])),
        ("amount", std::sync::Arc::new(cents) as arrow::array::ArrayRef),
        ("note", crate::change_files::texts(["x"])),
    ];
    scene.write("shop/orders/20240501-000000002.parquet", crate::change_files::parquet_of(columns));
    let sql = "SELECT id, amount, note FROM orders ORDER BY id";
    let ended = freshet(scene.folder(), &["query", "--format", "csv", sql]).exits(0);
    assert_eq!(ended.stdout(), "id,amount,note\n1,10.000000000,\n2,2.500000000,x\n");
    ended.tells(&[
        "`amount` is Int64 in some files and Decimal128(15, 2) in others; read as Decimal128(38, 9)",
        "no key is known",
    ]);
}

#[test]
fn a_table_in_two_databases_must_be_named_in_full() {
    let scene = Scene::empty();
    for database in ["a", "b"] {
        scene.write(&format!("{database}/orders/20240501-000000001.parquet"), parquet(&[("I", 1, 10)]));
    }
    let ended = freshet(scene.folder(), &["query", "SELECT * FROM orders"]).exits(1);
    ended.tells(&["`orders` is in several databases", "a.orders, b.orders"]);
    freshet(scene.folder(), &["query", "SELECT * FROM b.orders"]).exits(0);
}
