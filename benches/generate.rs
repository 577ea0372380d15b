//! Writes change files of the shape that other benches read, to be used by hand.
//!
//! `cargo bench --bench generate` writes to the folder that `FRESHET_FOLDER` names: `FRESHET_FILES` files (10) of `FRESHET_FILE_ROWS`
//! rows (20,000) in row groups of `FRESHET_GROUP_ROWS` (10,000), of `FRESHET_KEYS` keys (a fifth of the rows), which are
//! texts where `FRESHET_TEXT_KEYS` is set. The files are gzipped whole unless `FRESHET_PLAIN` is set.

#![allow(clippy::expect_used, clippy::print_stdout, reason = "a bench ends where anything fails, and prints")]

use std::path::Path;

mod change_files;
mod shapes;

use change_files::{ChangeFiles, asked};
use shapes::Keys;

fn main() {
    let folder = std::env::var("FRESHET_FOLDER").expect("FRESHET_FOLDER names a folder");
    let (files, file_rows) = (asked("FRESHET_FILES").unwrap_or(10), asked("FRESHET_FILE_ROWS").unwrap_or(20_000));
    let count = asked("FRESHET_KEYS").unwrap_or((files * file_rows).div_ceil(5));
    let keys = Keys { count, is_text: std::env::var_os("FRESHET_TEXT_KEYS").is_some() };
    let group_rows = asked("FRESHET_GROUP_ROWS").unwrap_or(10_000);
    let gzip = std::env::var_os("FRESHET_PLAIN").is_none();
    let written = ChangeFiles { files, file_rows, group_rows, keys, gzip };
    let bytes = written.write(Path::new(&folder));
    println!("{} rows in {files} files, {bytes} bytes", files * file_rows);
}
