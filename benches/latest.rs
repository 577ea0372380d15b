//! The latest change of each key, by `freshet query` and by its peers, on the same files in the same run.
//!
//! `cargo bench --bench latest` writes the files and has `benches/peers/latest.py` run everybody, which prints times, memory
//! and ratios. It wants `FRESHET_PYTHON`, a Python with what `benches/peers/requirements.txt` names. `FRESHET_ROWS` is how
//! many rows there are (5,000,000), `FRESHET_KEYS` how many keys (a fifth of it).

#![allow(clippy::expect_used, clippy::print_stdout, reason = "a bench ends where anything fails, and prints")]

use std::fs::File;
use std::path::Path;
use std::process::Command;

use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;

mod shapes;

use shapes::{Stretch, user_actions};

const FILE_ROWS: u64 = 250_000;
const GROUP_ROWS: usize = 100_000;

fn main() {
    let asked = |name: &str| std::env::var(name).ok().map(|number| number.parse::<u64>().expect("a number"));
    let rows = asked("FRESHET_ROWS").unwrap_or(5_000_000);
    let keys = asked("FRESHET_KEYS").unwrap_or(rows / 5);
    let folder = tempfile::tempdir().expect("a folder");
    let table = folder.path().join("casino/user_actions");
    std::fs::create_dir_all(&table).expect("a folder");
    for (number, first) in (0..rows).step_by(usize::try_from(FILE_ROWS).expect("a number")).enumerate() {
        let stretch = Stretch { first, count: FILE_ROWS.min(rows - first) };
        write(&table.join(format!("20251121-{number:09}.parquet")), stretch, keys);
    }
    let python = std::env::var("FRESHET_PYTHON").expect("FRESHET_PYTHON names a Python that has the peers");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers/latest.py");
    let mut all = Command::new(python);
    all.arg(script).arg(folder.path()).arg(env!("CARGO_BIN_EXE_freshet"));
    assert!(all.status().expect("Python starts").success(), "the peers failed");
}

fn write(path: &Path, stretch: Stretch, keys: u64) {
    let rows = user_actions(stretch, keys);
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .set_compression(Compression::SNAPPY)
        .build();
    let file = File::create(path).expect("a file");
    let mut writer = ArrowWriter::try_new(file, rows.schema(), Some(properties)).expect("a plain schema");
    writer.write(&rows).expect("the disk takes all");
    writer.close().expect("the disk takes all");
}
