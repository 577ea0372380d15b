//! The `freshet` binary: see `freshet --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    freshet::cli::main()
}
