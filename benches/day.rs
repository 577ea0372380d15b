//! A day's change files through `freshet run --once`: from a folder, or from S3, inflated, decoded, through SQL with casts, to a
//! BigQuery that acknowledges rows at once, or so long after, and keeps none.
//!
//! `cargo bench --bench day` prints rows a second, bytes, and what memory and processor time freshet and the other side
//! took, each a process of its own. In the environment: `FRESHET_DAY_FILES` is how many files of 20,000 rows there are (100; a day has
//! 2,000), `FRESHET_KEYS_PERCENT` how many keys for 100 rows (20), `FRESHET_COMPRESSION` how rows are sent (`none`, as
//! gzip takes as much processor time as all else; `gzip` is freshet's default), `FRESHET_ACK_MS` how many milliseconds BigQuery takes
//! for each acknowledgement (0). With `FRESHET_S3` files come by S3's protocol from a third process, which answers for each so many
//! milliseconds later. With `FRESHET_PYTHON`, a Python with what `benches/peers/requirements.txt` names, the same is done with pandas.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a bench ends where anything fails, and prints"
)]
#![allow(clippy::disallowed_methods, reason = "a bench measures time")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

mod change_files;
mod folder_s3;
mod null_bigquery;
mod shapes;
mod taken;

use change_files::{ChangeFiles, asked};
use null_bigquery::NullBigQuery;
use shapes::Keys;
use taken::Taken;

const FILE_ROWS: u64 = 20_000;
/// Of one row group, as DMS writes them.
const GROUP_ROWS: u64 = 10_000;
/// How often a process is asked what it took.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Has this program serve S3 instead.
const SERVE_S3: &str = "--serve-s3";
const SQL: &str = include_str!("user_actions.sql");

fn main() {
    if let [_, serve, folder, delay] = &std::env::args().collect::<Vec<_>>()[..]
        && serve == SERVE_S3
    {
        return folder_s3::serve(folder, Duration::from_millis(delay.parse().expect("milliseconds")));
    }
    let folder = tempfile::tempdir().expect("a folder");
    let files = write(folder.path());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let delay = Duration::from_millis(asked("FRESHET_ACK_MS").unwrap_or(0));
    let server = Arc::new(NullBigQuery::after(delay));
    let endpoint = runtime.block_on(null_bigquery::start(Arc::clone(&server)));
    let compression = std::env::var("FRESHET_COMPRESSION").unwrap_or_else(|_| "none".to_owned());
    let s3 = asked("FRESHET_S3").map(|delay| S3::start(folder.path(), delay));
    let data = if s3.is_some() { "s3://data" } else { "data" };
    configure(folder.path(), data, &endpoint, &compression);
    let begun = Instant::now();
    let server_before = Taken::by("self").cpu;
    let mut command = Command::new(env!("CARGO_BIN_EXE_freshet"));
    command.args(["run", "--once", "-c", "freshet.yaml"]).current_dir(folder.path());
    if let Some(s3) = &s3 {
        command.envs(s3.environment());
    }
    let child = command.stdout(Stdio::null()).spawn().expect("freshet starts");
    let took = watch(child);
    let seconds = begun.elapsed().as_secs_f64();
    let (rows, sent) = (server.rows.load(Ordering::Relaxed), server.bytes.load(Ordering::Relaxed));
    assert_eq!(rows, files.files * FILE_ROWS, "rows were lost");
    let speed = rows as f64 / seconds;
    println!(
        "{rows} rows in {seconds:.2} s: {:.2} million rows a second, a day in {:.0} s; {:.0} MB sent ({compression}); \
         freshet: {:.1} s of processor time, peak RSS {} MiB; the other side: {:.1} s",
        speed / 1e6,
        40e6 / speed,
        sent as f64 / 1e6,
        took.cpu,
        took.peak_mib,
        Taken::by("self").cpu - server_before,
    );
    if let Some(s3) = s3 {
        println!("S3: {:.1} s of processor time", Taken::by(&s3.child.id().to_string()).cpu);
    }
    if let Ok(python) = std::env::var("FRESHET_PYTHON") {
        replaced(&python, folder.path(), speed);
    }
}

fn write(folder: &Path) -> ChangeFiles {
    let files = asked("FRESHET_DAY_FILES").unwrap_or(100);
    let percent = asked("FRESHET_KEYS_PERCENT").unwrap_or(20);
    let keys = Keys { count: (files * FILE_ROWS * percent).div_ceil(100), is_text: false };
    let files = ChangeFiles { files, file_rows: FILE_ROWS, group_rows: GROUP_ROWS, keys, gzip: true };
    let bytes = files.write(&folder.join("data"));
    println!(
        "{} files of {FILE_ROWS} rows × 20 columns, {} keys, {:.1} MB gzipped",
        files.files,
        keys.count,
        bytes as f64 / 1e6
    );
    files
}

fn configure(folder: &Path, data: &str, endpoint: &str, compression: &str) {
    std::fs::create_dir_all(folder.join("queries/casino")).expect("a folder");
    std::fs::write(folder.join("queries/casino/user_actions.sql"), SQL).expect("a file");
    let config = format!(
        "source: {{files: {data}}}
sink:
  bigquery:
    project: p
    location: US
    compression: {compression}
    rest_endpoint: {endpoint}
    grpc_endpoint: {endpoint}
ledger: ledger
queries: queries
databases: {{casino: {{tables: [{{name: user_actions, mode: append}}]}}}}
"
    );
    std::fs::write(folder.join("freshet.yaml"), config).expect("a file");
}

/// The folder's own folders as buckets, served by this program in a process of its own, which ends when dropped.
struct S3 {
    child: Child,
    url: String,
}

impl S3 {
    fn start(folder: &Path, delay: u64) -> Self {
        let program = std::env::current_exe().expect("it runs");
        let mut command = Command::new(program);
        command.arg(SERVE_S3).arg(folder).arg(delay.to_string());
        let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
        let mut url = String::new();
        let printed = child.stdout.as_mut().expect("it is piped");
        BufReader::new(printed).read_line(&mut url).expect("it prints its URL");
        Self { child, url: url.trim().to_owned() }
    }

    fn environment(&self) -> [(&'static str, &str); 4] {
        [
            ("AWS_ENDPOINT_URL", &self.url),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "bench"),
            ("AWS_SECRET_ACCESS_KEY", "bench"),
        ]
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits for its end; gives what it took, as last seen.
fn watch(mut child: Child) -> Taken {
    let mut took = Taken::default();
    loop {
        let now = Taken::by(&child.id().to_string());
        took = Taken { cpu: took.cpu.max(now.cpu), peak_mib: took.peak_mib.max(now.peak_mib) };
        if let Some(status) = child.try_wait().expect("it is ours") {
            assert!(status.success(), "freshet ended with {status}");
            return took;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// What freshet replaces, with the same files.
fn replaced(python: &str, folder: &Path, speed: f64) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers/day.py");
    let output = Command::new(python).arg(script).arg(folder.join("data")).output().expect("Python starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8_lossy(&output.stdout);
    let numbers: Vec<f64> = printed.split_whitespace().map(|number| number.parse().expect("a number")).collect();
    let [rows, seconds, memory] = numbers[..] else { panic!("Python printed {printed}") };
    println!(
        "gunzip, pandas, to_parquet: {rows} rows in {seconds:.2} s, {:.3} million rows a second, peak RSS {memory:.0} MiB of \
         each process; freshet is {:.1} times as fast",
        rows / seconds / 1e6,
        speed / (rows / seconds),
    );
}
