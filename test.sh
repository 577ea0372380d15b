#!/usr/bin/env bash
# Installs what the tests need and runs all of them: what CI does. Needs rustup's cargo, a C compiler and Python 3.11
# or newer; what Debian has a package for is installed where that is possible (as root).
set -euo pipefail
cd "$(dirname "$0")"

PHASES=(fmt spelling licences oracle lint docs test)

fail() {
    printf 'test.sh: %s\n' "$*" >&2
    exit 1
}

# Installs Debian packages, as root; else says which are wanted.
install_packages() {
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        fail "please install: $*"
    fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@"
}

# rustup's tools may not be on the PATH of a fresh shell.
find_rust() {
    PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
    export PATH
    command -v cargo >/dev/null || fail "cargo is missing: install Rust with rustup, https://rustup.rs"
    cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 ||
        rustup component add rustfmt clippy
}

# Makes .venv, anew whenever tests/requirements.txt has changed.
make_venv() {
    local python
    python=$(command -v python3.11 || command -v python3) || { install_packages python3 && python=python3; }
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "Python 3.11 or newer is needed"
    if cmp -s tests/requirements.txt .venv/requirements.txt; then
        return
    fi
    "$python" -c 'import ensurepip' 2>/dev/null || install_packages python3-venv
    "$python" -m venv --clear .venv
    .venv/bin/pip install --quiet --disable-pip-version-check --only-binary :all: -r tests/requirements.txt
    cp tests/requirements.txt .venv/requirements.txt
}

# Runs one phase and says how long it took; `set -e` ends the run where it fails.
phase() {
    local name=$1 start=$SECONDS
    shift
    printf '\n== %s\n' "$name"
    "$@"
    printf '== %s: %d s\n' "$name" $((SECONDS - start))
}

prepare() {
    command -v cc >/dev/null || install_packages gcc libc6-dev
    PATH="$PATH:/usr/sbin" command -v mariadbd >/dev/null || install_packages mariadb-server
    find_rust
    make_venv
}

phase prepare prepare
for name in "${PHASES[@]}"; do
    phase "$name" .venv/bin/just "$name"
done
printf '\nall phases passed in %d s\n' "$SECONDS"
