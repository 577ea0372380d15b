//! What a claim costs where the ledger knows many files: 1,000 new files of two days against 10 million of 400 days, in a
//! folder on disk, by a process that has just opened the table's chain.
//!
//! `cargo bench --bench ledger` prints milliseconds and that process's peak resident memory. The last line is of files
//! whose names tell no time, so that every segment must be read. `FRESHET_LEDGER_FILES` asks for another number.

#![allow(clippy::expect_used, clippy::print_stdout, reason = "a bench ends where anything fails, and prints")]
#![allow(clippy::disallowed_methods, reason = "a bench measures time")]

use std::process::Command;
use std::time::Instant;

use chrono::DateTime;
use freshet::change::batch::{Attempt, Prepared};
use freshet::change::{FileId, FileKind, TableName};
use freshet::clock::SystemClock;
use freshet::config::{Mode, OnDelete, Order, TargetRules};
use freshet::ledger::{Claim, FileEntry, Intent, Ledger, Opening, TableLedger};

const FILES: usize = 10_000_000;
const DAYS: usize = 400;
const CLAIMED: usize = 1_000;
const DAY_MS: i64 = 86_400_000;
/// After so many days the chain is compacted.
const COMPACTED_EVERY: usize = 10;
/// Tells a process that it is to measure, and in which folder.
const MEASURES: &str = "FRESHET_LEDGER_FOLDER";

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    if let Ok(folder) = std::env::var(MEASURES) {
        return runtime.block_on(measure(&folder));
    }
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().to_str().expect("a plain path");
    let files = std::env::var("FRESHET_LEDGER_FILES").map_or(FILES, |asked| asked.parse().expect("a number"));
    let begun = Instant::now();
    runtime.block_on(fill(place, files / DAYS));
    println!("{files} files of {DAYS} days written in {:.0} s", begun.elapsed().as_secs_f64());
    let program = std::env::current_exe().expect("this program");
    let done = Command::new(program).env(MEASURES, place).status().expect("this program runs");
    assert!(done.success());
}

async fn open(folder: &str) -> TableLedger {
    let ledger = Ledger::open(folder, "a sink", SystemClock::shared()).await.expect("a ledger");
    let table = TableName::new("casino_db1", "user_actions");
    ledger.table(&table.clone(), Opening { order: Order::BestEffort, target: table }).await.expect("a chain")
}

async fn fill(folder: &str, files_a_day: usize) {
    let mut chain = open(folder).await;
    for day in 0..DAYS {
        let files = (0..files_a_day).map(|number| file(day, number, true)).collect();
        assert!(matches!(chain.claim(intent(&format!("day {day}"), files)).await, Ok(Claim::Taken(_))));
        if (day + 1) % COMPACTED_EVERY == 0 {
            assert!(chain.compact_above(1).await.expect("a compaction"));
        }
    }
}

async fn measure(folder: &str) {
    let begun = Instant::now();
    let mut chain = open(folder).await;
    tell("the chain opened", begun);
    let of_two_days = |first: usize| (first..first + CLAIMED).map(|n| file(DAYS - 1 - n % 2, n, true)).collect();
    for (what, number) in [("1,000 files claimed", 50_000_000), ("1,000 more", 60_000_000)] {
        let begun = Instant::now();
        assert!(matches!(chain.claim(intent(what, of_two_days(number))).await, Ok(Claim::Taken(_))));
        tell(what, begun);
    }
    let known = (0..CLAIMED).map(|n| file(n % DAYS, n / DAYS, true)).collect();
    let begun = Instant::now();
    let claim = chain.claim(intent("known", known)).await.expect("an answer");
    assert!(matches!(claim, Claim::Refused(files) if files.len() == CLAIMED));
    tell("1,000 known files of all days refused", begun);
    let begun = Instant::now();
    let unnamed = (0..CLAIMED).map(|n| file(DAYS, 70_000_000 + n, false)).collect();
    assert!(matches!(chain.claim(intent("unnamed", unnamed)).await, Ok(Claim::Taken(_))));
    tell("1,000 files without a time in their names claimed", begun);
}

fn tell(what: &str, begun: Instant) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("unknown").trim().to_owned();
    println!("{what:<50} {:>7.1} ms, peak memory {peak}", begun.elapsed().as_secs_f64() * 1e3);
}

fn file(day: usize, number: usize, time_named: bool) -> FileEntry {
    let location = format!("s3://my-dms-bucket/cdc/casino_db1/user_actions/{day:04}/{number:09}.parquet.gz");
    FileEntry {
        id: FileId::new(&location, "0123456789abcdef0123456789abcdef"),
        location,
        version: "0123456789abcdef0123456789abcdef".into(),
        size: 1,
        modified_ms: 0,
        kind: FileKind::Cdc,
        time_ms: i64::try_from(day).expect("few days") * DAY_MS,
        time_named,
    }
}

/// An intent without rows, which is its own commit.
fn intent(attempt: &str, files: Vec<FileEntry>) -> Intent {
    Intent {
        attempt: Attempt { id: attempt.into(), loaded_at: DateTime::UNIX_EPOCH },
        generation: 1,
        files,
        prepared: Prepared { rows: 0, bytes: 0, columns: Vec::new(), staged: serde_json::Value::Null },
        transform: String::new(),
        source_columns: Vec::new(),
        rules: TargetRules { mode: Mode::Append, key: Vec::new(), on_delete: OnDelete::Remove },
        purged_us: 0,
    }
}
