#!/usr/bin/env bash
# Runs the benches and writes what they print into a folder: benches/run.sh FOLDER
#
# FRESHET_PYTHON is a Python with what benches/peers/requirements.txt names. With FRESHET_CGROUP, a memory cgroup of 512 MiB
# without swap (its folder below /sys/fs/cgroup), a day's 40 million rows and bad input are run in it: freshet, what it talks
# to and the page cache. They take 40 GB of disk where TMPDIR is.
set -euo pipefail
out=$1
mkdir -p "$out"
cargo bench --no-run
program() { cargo bench --no-run --bench "$1" 2>&1 | sed -n 's/.*(\(.*\))$/\1/p' | tail -1; }
bench() { "$(program "$1")"; }
# Without the peers.
alone() { env -u FRESHET_PYTHON "$(program "$1")"; }
confined() (
    echo "$BASHPID" > "$FRESHET_CGROUP/cgroup.procs"
    "$@"
)

{
    echo "# 1, 4 and 10 million rows"
    for files in 50 200 500; do FRESHET_DAY_FILES=$files alone day; done
    echo "# 1 and 100 keys of 100 rows, 4 million rows"
    for percent in 1 100; do FRESHET_KEYS_PERCENT=$percent FRESHET_DAY_FILES=200 alone day; done
    echo "# compressed, 4 million rows"
    FRESHET_COMPRESSION=gzip FRESHET_DAY_FILES=200 alone day
    echo "# from S3; then with an answer after 50 ms; 4 million rows"
    for delay in 0 50; do FRESHET_S3=$delay FRESHET_DAY_FILES=200 alone day; done
    echo "# BigQuery acknowledges 50, 100 and 200 ms later, 4 million rows"
    for delay in 50 100 200; do FRESHET_ACK_MS=$delay FRESHET_DAY_FILES=200 alone day; done
    if [[ -n ${FRESHET_PYTHON:-} ]]; then
        echo "# beside pandas, 4 million rows, three times"
        for _ in 1 2 3; do FRESHET_DAY_FILES=200 bench day; done
    fi
} > "$out/day.txt"
for name in stages read wire freshness; do bench "$name" > "$out/$name.txt"; done
for keys in 50000 1000000 5000000; do
    echo "# $keys keys to draw from"
    FRESHET_KEYS=$keys FRESHET_ROUNDS=3 bench latest
done > "$out/latest.txt"

[[ -n ${FRESHET_CGROUP:-} ]] || exit 0
{
    echo "# a day in a memory cgroup of 512 MiB: as it is, and compressed"
    for compression in none gzip; do
        FRESHET_COMPRESSION=$compression FRESHET_DAY_FILES=2000 confined env -u FRESHET_PYTHON "$(program day)"
    done
    echo "# 4 million rows in it, acknowledged at once, 50, 100 and 200 ms later"
    for delay in 0 50 100 200; do
        FRESHET_ACK_MS=$delay FRESHET_DAY_FILES=200 confined env -u FRESHET_PYTHON "$(program day)"
    done
} >> "$out/day.txt"
export -f confined
"$(dirname "$0")/bad_input.sh" > "$out/bad_input.txt"
