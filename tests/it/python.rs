//! Runs the repository's Python scripts: the generators, the oracle and the comparison.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::binary::{Ended, REPOSITORY};

/// The Python that has what the scripts need.
pub(crate) fn python() -> PathBuf {
    let made = Path::new(REPOSITORY).join(".venv/bin/python");
    let python = std::env::var_os("FRESHET_PYTHON").map_or(made, PathBuf::from);
    assert!(
        python.is_file(),
        "there is no {}: run ./test.sh, which installs the Python packages that these tests need",
        python.display()
    );
    python
}

/// Runs a script, named from the repository's folder, which must end well.
#[track_caller]
pub(crate) fn script(name: &str, arguments: &[&str]) -> Ended {
    let output = Command::new(python())
        .current_dir(REPOSITORY)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .arg(name)
        .args(arguments)
        .output()
        .expect("Python can be started");
    Ended::new(format!("{name} {}", arguments.join(" ")), output)
}

/// Writes the random source database of a seed into `out`; says what it holds.
#[track_caller]
pub(crate) fn generate_database(seed: u32, out: &Path) -> String {
    script("tests/oracle/generate_database.py", &[&seed.to_string(), text(out)]).exits(0).stdout()
}

/// Demands that the Delta tables below `tables` are the expected ones, cell by cell.
#[track_caller]
pub(crate) fn compare(what: &str, tables: &Path, expected: &Path) {
    let compared = script("tests/oracle/compare.py", &[text(tables), text(expected)]);
    assert!(compared.code() == Some(0), "{what}: {}", compared.report());
    assert!(compared.stdout().starts_with("tables equal: "), "{what}: {}", compared.report());
}

/// A path as an argument.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("the tests' paths are UTF-8")
}
