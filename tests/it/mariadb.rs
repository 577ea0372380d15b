//! A real source: what a MariaDB did, told by its binlog, through S3 and SQS, gives its tables row by row.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::binary;
use crate::binary::number_asked_for;
use crate::daemon::{self, Daemon};
use crate::ministack::{Ministack, Queue};
use crate::oracle::{Numbers, shuffle};
use crate::python;
use crate::scene::{Scene, files_below};
use crate::strict_bigquery::{Options, StrictBigQuery};
use crate::warehouse::Warehouse;

/// Databases for each sink; `FRESHET_MARIADBS` asks for another number than CI's.
const DATABASES: usize = 2;
const TABLES: [&str; 3] = ["users", "bets", "select"];
/// How often an outside server is asked at most whether it is done.
const ASKED_MAX: usize = 3_000;

/// A database's change files, and where they go.
struct MariaDb {
    scene: Scene,
    aws: Ministack,
    bucket: String,
    queue: Queue,
}

impl MariaDb {
    async fn new(seed: u32, sink: Value) -> Self {
        let scene = Scene::empty();
        let arguments = [&seed.to_string(), python::text(scene.folder())];
        python::script("tests/oracle/mariadb_source.py", &arguments).exits(0);
        let aws = Ministack::shared();
        let bucket = aws.bucket("maria").await;
        let queue = aws.queue("maria", 30).await;
        aws.notify(&bucket, &queue, "cdc/", "").await;
        let mut config: Value = serde_json::from_slice(&std::fs::read(scene.path("freshet.yaml")).unwrap()).unwrap();
        config["source"] = json!({"files": format!("s3://{bucket}/cdc"), "queue": queue.url, "since": "beginning"});
        config["sink"] = sink;
        config["ledger"] = "ledger".into();
        config["pipeline_config"] = json!({"batch_size": 3, "merge_every": "1s", "ledger_entries": 20});
        scene.write("freshet.yaml", config.to_string());
        Self { scene, aws, bucket, queue }
    }

    /// All files in an order that the seed shuffles, some of them twice, while a daemon carries them.
    async fn carry(&self, seed: u32) {
        let files = files_below(&self.scene.path("data"));
        let mut puts: Vec<&PathBuf> = files.keys().collect();
        let mut numbers = Numbers::new(seed);
        puts.extend(files.keys().filter(|_| numbers.below(5) == 0));
        shuffle(&mut puts, seed);
        let daemon = Daemon::start(&self.scene, &self.aws);
        for path in puts {
            self.aws.put(&self.bucket, &format!("cdc/{}", path.display()), files[path].clone()).await;
        }
        daemon::until_acknowledged(&self.scene, &self.aws, &self.queue, ASKED_MAX).await;
        daemon.end();
        // What is committed and not merged yet is merged.
        let mut command = binary::command(self.scene.folder(), &["run", "--once"]);
        let output = command.envs(self.aws.environment()).output().unwrap();
        binary::Ended::new("freshet run --once".into(), output).exits(0);
        assert!(!daemon::log(&self.scene).contains("file set aside"), "{}", daemon::log(&self.scene));
    }
}

#[tokio::test]
async fn what_a_mariadb_did_gives_its_tables_in_delta_lake() {
    for seed in 1..=u32::try_from(number_asked_for("FRESHET_MARIADBS", DATABASES)).unwrap() {
        let stage = MariaDb::new(seed, json!({"delta": "out"})).await;
        stage.carry(seed).await;
        python::compare(&format!("seed {seed}"), &stage.scene.path("out"), &stage.scene.path("expected"));
    }
}

/// The rows of a table as the API gives them, and the names of their columns.
async fn rest_rows(warehouse: &Warehouse, table: &str) -> Value {
    let resource = warehouse.table("shop", table).await;
    let fields = resource["schema"]["fields"].as_array().unwrap();
    let columns: Vec<&str> = fields.iter().map(|field| field["name"].as_str().unwrap()).collect();
    let selected: Vec<String> = columns.iter().map(|name| format!("`{name}`")).collect();
    let sql = format!("SELECT {} FROM {}", selected.join(", "), warehouse.table_name("shop", table));
    json!({"columns": columns, "rows": warehouse.rows(&sql).await})
}

#[tokio::test]
async fn what_a_mariadb_did_gives_its_tables_in_bigquery() {
    for seed in 101..=u32::try_from(100 + number_asked_for("FRESHET_MARIADBS", DATABASES)).unwrap() {
        let bigquery = StrictBigQuery::start(Options::default()).await;
        let warehouse = bigquery.warehouse("US");
        let stage = MariaDb::new(seed, warehouse.sink_json("{database}")).await;
        stage.carry(seed).await;
        let mut found = json!({});
        for table in TABLES {
            found[format!("shop.{table}")] = rest_rows(&warehouse, table).await;
        }
        stage.scene.write("rows.json", found.to_string());
        let (scene, expected) = (&stage.scene, stage.scene.path("expected"));
        let (rows, out) = (scene.path("rows.json"), scene.path("found"));
        let arguments = [python::text(&rows), python::text(&expected), python::text(&out)];
        python::script("tests/oracle/rest_rows.py", &arguments).exits(0);
        python::compare(&format!("seed {seed}"), &out, &expected);
    }
}
