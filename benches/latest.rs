//! The latest change of each key, by `freshet query` and by its peers, on the same files in the same run.
//!
//! `cargo bench --bench latest` writes the files and has `benches/peers/latest.py` run everybody, which prints times, memory
//! and ratios. It wants `FRESHET_PYTHON`, a Python with what `benches/peers/requirements.txt` names. `FRESHET_ROWS` is how
//! many rows there are (5,000,000, and always whole files of 250,000), `FRESHET_KEYS` how many keys (a fifth of it).

#![allow(clippy::expect_used, clippy::print_stdout, reason = "a bench ends where anything fails, and prints")]

use std::path::Path;
use std::process::Command;

mod change_files;
mod shapes;

use change_files::{ChangeFiles, asked};
use shapes::Keys;

const FILE_ROWS: u64 = 250_000;
const GROUP_ROWS: u64 = 100_000;

fn main() {
    let files = asked("FRESHET_ROWS").unwrap_or(5_000_000).div_ceil(FILE_ROWS);
    let count = asked("FRESHET_KEYS").unwrap_or(files * FILE_ROWS / 5);
    let folder = tempfile::tempdir().expect("a folder");
    let keys = Keys { count, is_text: false };
    ChangeFiles { files, file_rows: FILE_ROWS, group_rows: GROUP_ROWS, keys, gzip: false }.write(folder.path());
    let python = std::env::var("FRESHET_PYTHON").expect("FRESHET_PYTHON names a Python that has the peers");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers/latest.py");
    let mut all = Command::new(python);
    all.arg(script).arg(folder.path()).arg(env!("CARGO_BIN_EXE_freshet"));
    assert!(all.status().expect("Python starts").success(), "the peers failed");
}
