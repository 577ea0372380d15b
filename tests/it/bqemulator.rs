//! BigQuery on this machine: the `bqemulator` server that test.sh installs, REST and gRPC alike.
//!
//! What it gets wrong, so that no test rests on it: a job id can be used twice; a job that failed cannot be looked at;
//! primary keys are dropped; a column must be added by ALTER besides PATCH; STRUCT fails; columns that a table lacks
//! are ignored; NULL is taken in REQUIRED columns; the case of column names counts; a MERGE with two rows for one
//! target row is taken; there is no `dmlStats`; and a view's text is not given back.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

use crate::python;
use crate::warehouse::Warehouse;

/// The project that every test works in.
pub(crate) const PROJECT: &str = "demo";
/// Where all its datasets are.
pub(crate) const LOCATION: &str = "EU";

/// The server wants one of DuckDB's extensions, which comes as a package and must be put in its place once.
const CODE: &str = "
from duckdb_extensions import import_extension
import_extension('spatial')
sys.argv = ['bqemulator', 'start', '--rest-port', '0', '--grpc-port', '0', '--ephemeral', '--log-format', 'json']
from bqemulator.cli import main
main()
";

/// The running server.
struct Server {
    _process: python::Server,
    rest_port: u16,
    grpc_port: u16,
}

impl Server {
    fn start() -> Self {
        let environment = [("BQEMU_ENABLE_FORMAT_EXTENSIONS", "false")];
        let mut ports = [None, None];
        let both = |line: &str| {
            let told: Value = serde_json::from_str(line).unwrap_or_default();
            let port = told["port"].as_u64().and_then(|port| u16::try_from(port).ok());
            match told["event"].as_str() {
                Some("rest.listen") => ports[0] = port,
                Some("grpc.listen") => ports[1] = port,
                _ => {}
            }
            Some((ports[0]?, ports[1]?))
        };
        let (process, (rest_port, grpc_port)) = python::Server::start("bqemulator", CODE, &environment, both);
        Self { _process: process, rest_port, grpc_port }
    }
}

/// The server that all tests of this process share, started where it does not run yet.
pub(crate) fn shared() -> Warehouse {
    static SHARED: LazyLock<Server> = LazyLock::new(Server::start);
    let url = |port: u16| format!("http://127.0.0.1:{port}");
    Warehouse::new(PROJECT, LOCATION, url(SHARED.rest_port), url(SHARED.grpc_port))
}

/// A dataset's name that no other test has; the dataset is not made.
pub(crate) fn fresh_dataset() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("dataset_{}", NEXT.fetch_add(1, Ordering::Relaxed))
}
