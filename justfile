# What there is to do here. `./test.sh`, which is what CI runs, installs what the recipes need (into .venv) and runs
# fmt, spelling, licences, oracle, lint, docs and test.

export PATH := justfile_directory() / ".venv/bin:" + env("PATH")
export FRESHET_PYTHON := justfile_directory() / ".venv/bin/python"

# Lists the recipes.
default:
    @just --list

# Formatting.
fmt:
    cargo fmt --check

# Spelling, in code and texts.
spelling:
    typos

# Licences, sources and duplicates of the dependencies.
licences:
    cargo-deny --locked check --hide-inclusion-graph bans licenses sources

# The tests' own Python: generators, oracle, comparison.
oracle:
    "$FRESHET_PYTHON" -m unittest discover -s tests/oracle

# Clippy on all targets; a warning is an error.
lint:
    cargo clippy --locked --all-targets -- -D warnings

# The documentation; a broken link is an error.
docs:
    RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps

# All Rust tests, or those whose name holds FILTER.
test FILTER="":
    cargo test --locked {{ FILTER }}

# Runs the demo: change files in demo/data to Delta Lake tables in demo/out.
demo:
    cargo run --locked -- run --once -c demo/freshet.yaml

# Writes demo/data anew.
demo-data:
    "$FRESHET_PYTHON" demo/generate.py

# Formats the code.
format:
    cargo fmt
