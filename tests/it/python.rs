//! Runs the repository's Python scripts: the generators, the oracle and the comparison; and servers in Python.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::binary::{Ended, REPOSITORY};

/// The Python that has what the scripts need.
fn python() -> PathBuf {
    let made = Path::new(REPOSITORY).join(".venv/bin/python");
    let python = std::env::var_os("FRESHET_PYTHON").map_or(made, PathBuf::from);
    assert!(
        python.is_file(),
        "there is no {}: run ./test.sh, which installs the Python packages that these tests need",
        python.display()
    );
    python
}

/// Python in the repository's folder, where it leaves nothing behind.
pub(crate) fn command() -> Command {
    let mut command = Command::new(python());
    command.current_dir(REPOSITORY).env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// Runs a script, named from the repository's folder, which must end well.
#[track_caller]
pub(crate) fn script(name: &str, arguments: &[&str]) -> Ended {
    let output = command().arg(name).args(arguments).output().expect("Python can be started");
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

/// Comes before every server: it ends when its standard input does, so with the tests, however they end.
const ENDS_WITH_THE_TESTS: &str = "
import os, sys, threading
os.dup2(1, 2)

def end():
    sys.stdin.buffer.read()
    os._exit(0)

threading.Thread(target=end, daemon=True).start()
";

/// A server in Python, killed when this is dropped.
pub(crate) struct Server(Child);

impl Server {
    /// Starts a program that is made up of `code`, and waits until a line that it says gives what is wanted.
    pub(crate) fn start<T>(
        what: &str,
        code: &str,
        environment: &[(&str, &str)],
        mut wanted: impl FnMut(&str) -> Option<T>,
    ) -> (Self, T) {
        let mut process = command()
            .args(["-u", "-c", &format!("{ENDS_WITH_THE_TESTS}{code}")])
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("Python can be started");
        let mut said = BufReader::new(process.stdout.take().expect("what it says"));
        let server = Self(process);
        let mut lines = String::new();
        let got = loop {
            let from = lines.len();
            let read = said.read_line(&mut lines).expect("what it says is text");
            assert!(read > 0, "{what} does not start; did ./test.sh install it?\n{lines}");
            if let Some(got) = wanted(&lines[from..]) {
                break got;
            }
        };
        // Whatever else it says must be taken from it, or it would wait for that.
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        (server, got)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
