//! A reload that waits until DMS's own statistics say that the load is whole.

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Command;

use freshet::clock::SystemClock;
use freshet::trial::failpoint;
use serde_json::{Value, json};

use crate::binary::command;
use crate::kills::{Place, Stage};
use crate::logged_run::Run;
use crate::{python, reload};

const TASK: &str = "arn:aws:dms:eu-west-1:111122223333:task:ABC";
const SECRET: &str = "the-secret-of-the-test";
const CODE: &str = "
sys.path.insert(0, 'tests/oracle')
import dms_server
dms_server.serve([os.environ[name] for name in ('STATISTICS', 'KEY', 'SECRET', 'REGION')])
";

/// DMS, and a table that is being reloaded.
struct Loading {
    stage: Stage,
    statistics: PathBuf,
    port: u16,
    _server: python::Server,
}

impl Loading {
    fn new() -> Self {
        let stage = Stage::being_reloaded(Place::Delta);
        stage.run().exits(0);
        let statistics = stage.scene.path("statistics.json");
        let environment =
            [("STATISTICS", python::text(&statistics)), ("KEY", "AKTEST"), ("SECRET", SECRET), ("REGION", "eu-west-1")];
        let port = |line: &str| line.strip_prefix("port ")?.trim_end().parse().ok();
        let (server, port) = python::Server::start("DMS", CODE, &environment, port);
        let config = std::fs::read_to_string(stage.scene.path("freshet.yaml")).unwrap();
        let config = config.replace("source: data", &format!("source: {{files: data, dms_tasks: {TASK}}}"));
        stage.scene.write("freshet.yaml", config);
        Self { stage, statistics, port, _server: server }
    }

    /// What DMS says from now on: of a load that has just begun.
    fn says(&self, state: &str, rows: u64) {
        let began = SystemClock::shared().now().timestamp();
        self.write(&json!([
            {"SchemaName": "shop", "TableName": "customers", "TableState": "Table completed", "FullLoadRows": 1},
            {"SchemaName": "shop", "TableName": "orders", "TableState": state, "FullLoadRows": rows,
             "FullLoadErrorRows": 0, "FullLoadStartTime": began, "FullLoadEndTime": began + 1},
        ]));
    }

    fn write(&self, said: &Value) {
        std::fs::write(&self.statistics, said.to_string()).unwrap();
    }

    fn reload(&self) -> Run {
        Run::of(&mut self.command(), "freshet reload shop.orders --wait".into())
    }

    fn command(&self) -> Command {
        let endpoint = format!("http://127.0.0.1:{}", self.port);
        let mut reload: Command = command(self.stage.scene.folder(), &["reload", "shop.orders", "--wait"]);
        reload.env("AWS_ENDPOINT_URL_DATABASE_MIGRATION_SERVICE", endpoint).envs([
            ("AWS_ACCESS_KEY_ID", "AKTEST"),
            ("AWS_SECRET_ACCESS_KEY", SECRET),
            ("AWS_REGION", "us-east-1"),
        ]);
        reload
    }
}

#[test]
fn a_reload_waits_until_dms_says_that_the_load_is_whole() {
    let loading = Loading::new();
    loading.says("Table is being reloaded", 2);
    let mut waiting = loading.reload();
    waiting.until_said("DMS says: `Table is being reloaded`, 2 rows", 1);
    loading.stage.expect_present();
    loading.says("Table completed", 3);
    let ended = waiting.end().exits(0);
    ended.tells(&["DMS says that the load is whole, with 3 rows"]).says(&["switched to generation 2"]);
    assert_eq!(loading.stage.final_rows(), reload::reloaded());
}

#[test]
fn a_load_that_dms_gives_up_switches_nothing() {
    let loading = Loading::new();
    loading.says("Table error", 2);
    loading.reload().end().exits(1).tells(&["DMS could not load the table: `Table error` after 2 rows", "shop.orders"]);
    loading.write(&json!("AccessDeniedException"));
    loading.reload().end().exits(1).tells(&["AccessDeniedException", "allow `dms:DescribeTableStatistics`"]);
    loading.write(&json!([]));
    loading.reload().end().exits(1).tells(&["none of the DMS tasks", "--complete"]);
    loading.stage.expect_present();
}

#[test]
fn a_reload_killed_in_its_switch_is_finished_without_asking_dms_again() {
    let loading = Loading::new();
    loading.says("Table completed", 3);
    let killed = loading.command().env(failpoint::VARIABLE, "reload_closed:KILL").output().unwrap();
    assert_eq!(killed.status.signal(), Some(9), "{}", String::from_utf8_lossy(&killed.stderr));
    loading.write(&json!("AccessDeniedException"));
    loading.reload().end().exits(0).says(&["switched to generation 2"]);
    assert_eq!(loading.stage.final_rows(), reload::reloaded());
}
