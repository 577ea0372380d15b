#!/usr/bin/env bash
# Files that are too small, too large or too many, in the memory cgroup FRESHET_CGROUP; called by run.sh. Prints each answer,
# then how freshet ended, its seconds and its peak RSS in MiB.
set -euo pipefail
freshet=$(cargo bench --quiet --no-run && realpath "${CARGO_TARGET_DIR:-target}/release/freshet")
scene=$(mktemp -d)
trap 'rm -rf "$scene"' EXIT
mkdir -p "$scene/queries/casino"
echo "SELECT * FROM user_actions" > "$scene/queries/casino/user_actions.sql"
latest="SELECT count(*) AS keys, max(memo) AS memo, max(transact_id) AS newest FROM (
    SELECT * FROM casino.user_actions QUALIFY row_number() OVER (PARTITION BY id ORDER BY updated_at DESC) = 1)"
measured='import os, subprocess, sys, time
begun = time.monotonic()
child = subprocess.Popen(sys.argv[1:])
_, status, usage = os.wait4(child.pid, 0)
print("exit", os.waitstatus_to_exitcode(status), f"{time.monotonic() - begun:.1f} s, peak RSS {usage.ru_maxrss // 1024} MiB")'

generate() { env FRESHET_FOLDER="$scene/$1" "${@:2}" cargo bench --quiet --bench generate; }
query() { confined python3 -c "$measured" "$freshet" query --files "$scene/$1" --format csv "$latest"; }
run() { # NAME PIPELINE_CONFIG
    rm -rf "$scene/lake"
    cat > "$scene/freshet.yaml" <<YAML
source: {files: $scene/$1}
sink: {delta: $scene/lake}
queries: $scene/queries
databases: {casino: {tables: [{name: user_actions, mode: append}]}}
pipeline_config: {$2}
YAML
    confined python3 -c "$measured" "$freshet" run --once -c "$scene/freshet.yaml" 2>&1 | tail -2
}

echo "# one row in a file"
generate one FRESHET_FILES=1 FRESHET_FILE_ROWS=1 FRESHET_KEYS=1
query one
run one ""
echo "# 10,000 files in one batch"
generate many FRESHET_FILES=10000 FRESHET_FILE_ROWS=20
run many "batch_size: 10000"
rm -rf "$scene/many"
echo "# a file that inflates to 1 GB, 11 million rows; then with memory: 64MiB"
generate big FRESHET_FILES=1 FRESHET_FILE_ROWS=11000000 FRESHET_GROUP_ROWS=100000
query big
run big ""
run big "memory: 64MiB"
rm -rf "$scene/big" "$scene/lake"
echo "# 15.7 million text keys in 20 million rows"
generate keys FRESHET_FILES=80 FRESHET_FILE_ROWS=250000 FRESHET_GROUP_ROWS=100000 FRESHET_KEYS=40000000 FRESHET_TEXT_KEYS=1
query keys
rm -rf "$scene/keys"
echo "# 100 million rows in one file"
generate huge FRESHET_FILES=1 FRESHET_FILE_ROWS=100000000 FRESHET_GROUP_ROWS=100000 FRESHET_PLAIN=1
query huge
