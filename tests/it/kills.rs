//! The program killed, and stopped beyond its time, between any two steps: each change is there once all the same.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};

use freshet::trial::failpoint::{self, Failpoint};

use crate::binary::{self, Ended, Running, number_asked_for, tell_figure};
use crate::change_files::{Change, parquet};
use crate::scene::Scene;
use crate::strict_bigquery::{Options, StrictBigQuery};
use crate::until::until;

/// How often each failpoint is tried at each sink; `FRESHET_KILL_ROUNDS` asks for another number than CI's.
const ROUNDS: usize = 2;
/// How often a stopped program is asked after.
const ASKED_MAX: usize = 300;

/// Files of changes of a few keys, in the order of their time. Deletes come late and are overtaken, so that a merge
/// that forgets a tombstone shows.
fn files() -> Vec<Vec<Change>> {
    (0..12_i64)
        .map(|file| {
            vec![
                ("I", file, file * 10),
                ("U", (file * 7 + 1) % 12, file * 10 + 1),
                ("D", (file * 5 + 2) % 12, 0),
                ("U", (file * 3 + 1) % 12, file * 10 + 2),
            ]
        })
        .collect()
}

/// What the final table must be: the newest change of each key wins.
fn model() -> BTreeMap<i64, i64> {
    let mut rows = BTreeMap::new();
    for (operation, id, amount) in files().into_iter().flatten() {
        match operation {
            "D" => _ = rows.remove(&id),
            _ => _ = rows.insert(id, amount),
        }
    }
    rows
}

/// Final rows, by key.
pub(crate) fn rows(rows: &[(i64, i64)]) -> BTreeMap<i64, i64> {
    rows.iter().copied().collect()
}

/// Where rows go.
pub(crate) enum Place {
    Delta,
    BigQuery(StrictBigQuery),
}

/// A folder of change files and a sink.
pub(crate) struct Stage {
    pub(crate) scene: Scene,
    place: Place,
}

impl Stage {
    pub(crate) fn new(place: Place) -> Self {
        let scene = Scene::empty();
        let sink = match &place {
            Place::Delta => "{delta: out/tables}".to_owned(),
            Place::BigQuery(bigquery) => bigquery.warehouse("US").sink("{database}"),
        };
        let config = format!(
            "source: data\nsink: {sink}\nledger: out/ledger\n\
             databases: {{shop: {{tables: [{{name: orders, key: id}}]}}}}\npipeline_config: {{batch_size: 2, ledger_entries: 5}}\n"
        );
        scene.write("freshet.yaml", config);
        std::fs::create_dir_all(scene.path("data")).unwrap();
        Self { scene, place }
    }

    /// The newer half first, then the rest, so that late changes meet tombstones.
    pub(crate) fn put(&self, half: usize) {
        let files = files();
        let numbers = if half == 0 { files.len() / 2..files.len() } else { 0..files.len() / 2 };
        for number in numbers {
            self.changes(&format!("20240501-{number:06}000"), &files[number]);
        }
    }

    /// A file of changes from this moment, as `20240601-000000000`.
    pub(crate) fn changes(&self, moment: &str, changes: &[Change]) {
        self.scene.write(&format!("data/shop/orders/{moment}.parquet"), parquet(changes));
    }

    /// A run that goes on beside the test.
    pub(crate) fn begin_run(&self) -> Running {
        Running::start(&mut self.logged(&["run", "--once"]))
    }

    /// The program with these arguments; what it says is kept in the scene.
    fn logged(&self, arguments: &[&str]) -> Command {
        let log = std::fs::File::options().create(true).append(true).open(self.scene.path("run.log")).unwrap();
        let mut command = binary::command(self.scene.folder(), arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command
    }

    /// A run that gets this signal when it first comes to this failpoint.
    fn run_to(&self, failpoint: Failpoint, signal: &str) -> Running {
        self.go_to(&["run", "--once"], failpoint, signal)
    }

    /// The program with these arguments, which gets this signal when it first comes to this failpoint.
    pub(crate) fn go_to(&self, arguments: &[&str], failpoint: Failpoint, signal: &str) -> Running {
        let mut command = self.logged(arguments);
        Running::start(command.env(failpoint::VARIABLE, format!("{}:{signal}", failpoint.name())))
    }

    pub(crate) fn run(&self) -> Ended {
        self.scene.run()
    }

    /// Waits until a program stands still at a failpoint.
    pub(crate) async fn stopped(&self, running: &Running, failpoint: Failpoint) {
        let stopped = until(ASKED_MAX, async || is_stopped(running.0.id())).await;
        let log = std::fs::read_to_string(self.scene.path("run.log")).unwrap_or_default();
        assert!(stopped, "{} was not reached: {log}", failpoint.name());
    }

    /// Each change is in the log once, and the newest of each key is in the final table.
    #[track_caller]
    pub(crate) fn expect_whole(&self, what: &str) {
        self.expect(files().iter().map(Vec::len).sum(), &model(), what);
    }

    /// So many changes are in the log, each once, and these rows in the final table.
    #[track_caller]
    pub(crate) fn expect(&self, changes: usize, rows: &BTreeMap<i64, i64>, what: &str) {
        let log: Vec<String> = match &self.place {
            Place::Delta => self.scene.rows("shop/orders_changes", &["_cdc_sequence"]),
            Place::BigQuery(bigquery) => {
                let rows = bigquery.table_rows("shop.orders_changes");
                rows.iter().map(|row| row["_cdc_sequence"].to_string()).collect()
            }
        };
        let different: BTreeSet<&String> = log.iter().collect();
        assert_eq!((log.len(), different.len()), (changes, changes), "{what}: changes in the log");
        assert_eq!(&self.final_rows(), rows, "{what}");
    }

    /// The final table's rows, by key.
    #[track_caller]
    pub(crate) fn final_rows(&self) -> BTreeMap<i64, i64> {
        let rows: Vec<String> = match &self.place {
            Place::Delta => self.scene.rows("shop/orders", &["id", "amount"]),
            Place::BigQuery(bigquery) => {
                let rows = bigquery.table_rows("shop.orders");
                rows.iter().map(|row| format!("{}|{}", row["id"], row["amount"])).collect()
            }
        };
        let found: BTreeMap<i64, i64> = rows.iter().map(|row| row.split_once('|').unwrap()).map(parsed).collect();
        assert_eq!(rows.len(), found.len(), "a key has two rows");
        found
    }

    /// The names of the tables that the sink has, and of views.
    pub(crate) fn tables(&self) -> Vec<String> {
        match &self.place {
            Place::Delta => {
                let entries = std::fs::read_dir(self.scene.path("out/tables/shop")).unwrap();
                let mut names: Vec<_> =
                    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
                names.sort();
                names
            }
            Place::BigQuery(bigquery) => bigquery.table_names("shop"),
        }
    }
}

fn parsed((id, amount): (&str, &str)) -> (i64, i64) {
    (id.parse().unwrap(), amount.parse().unwrap())
}

/// Tells of kills that changed nothing.
pub(crate) fn tell_kills(sink: &str, rounds: usize, failpoints: usize) {
    let kills = rounds * failpoints;
    tell_figure(&format!("{sink}: killed {kills} times, {rounds} at each of {failpoints} failpoints: differences 0"));
}

/// Kills runs at the failpoint, the first on an empty sink, the next on one that has half of the changes already.
fn kill_at(place: Place, failpoint: Failpoint, round: usize) {
    let what = format!("killed at {}, round {round}", failpoint.name());
    let stage = Stage::new(place);
    stage.put(0);
    if round % 2 == 1 {
        stage.run().exits(0);
        stage.put(1);
    }
    let code = stage.run_to(failpoint, "KILL").wait().code();
    assert_eq!(code, None, "{what}: it was not reached");
    stage.put(1);
    stage.run().exits(0);
    stage.expect_whole(&what);
    stage.run().exits(0);
    stage.expect_whole(&what);
}

#[test]
fn killed_between_any_two_steps_delta_has_each_change_once() {
    let rounds = number_asked_for("FRESHET_KILL_ROUNDS", ROUNDS);
    for round in 0..rounds {
        failpoint::of_a_run().for_each(|failpoint| kill_at(Place::Delta, failpoint, round));
    }
    tell_kills("Delta Lake", rounds, failpoint::of_a_run().count());
}

#[tokio::test]
async fn killed_between_any_two_steps_bigquery_has_each_change_once() {
    let rounds = number_asked_for("FRESHET_KILL_ROUNDS", ROUNDS);
    for round in 0..rounds {
        for failpoint in failpoint::of_a_run() {
            let bigquery = StrictBigQuery::start(Options::default()).await;
            kill_at(Place::BigQuery(bigquery), failpoint, round);
        }
    }
    tell_kills("BigQuery", rounds, failpoint::of_a_run().count());
}

/// Whether a process stands still.
fn is_stopped(process: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    status.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
}

/// One run stops at the failpoint, another does all of the work, then the first goes on.
async fn overtaken_at(place: Place, failpoint: Failpoint) {
    let what = format!("overtaken at {}", failpoint.name());
    let stage = Stage::new(place);
    stage.put(0);
    stage.put(1);
    let mut stopped = stage.run_to(failpoint, "STOP");
    stage.stopped(&stopped, failpoint).await;
    stage.run().exits(0);
    stage.expect_whole(&what);
    stopped.signal("-CONT");
    let code = stopped.wait().code();
    assert!(matches!(code, Some(0 | 4 | 75)), "{what}: {code:?}");
    stage.expect_whole(&format!("{what}, and gone on"));
    stage.run().exits(0);
    stage.expect_whole(&format!("{what}, and run again"));
}

#[tokio::test]
async fn who_was_overtaken_between_any_two_steps_adds_nothing_to_delta() {
    for failpoint in failpoint::of_a_run() {
        overtaken_at(Place::Delta, failpoint).await;
    }
}

#[tokio::test]
async fn who_was_overtaken_between_any_two_steps_adds_nothing_to_bigquery() {
    for failpoint in failpoint::of_a_run() {
        let bigquery = StrictBigQuery::start(Options::default()).await;
        overtaken_at(Place::BigQuery(bigquery), failpoint).await;
    }
}

#[test]
fn a_failpoint_that_there_is_not_is_told() {
    let scene = Scene::new("");
    let mut command = binary::command(scene.folder(), &["run", "--once"]);
    let output = command.env(failpoint::VARIABLE, "nowhere:KILL").output().unwrap();
    Ended::new("a wrong failpoint".into(), output).exits(1).tells(&["FRESHET_FAILPOINT", "intent_written"]);
}
