"""The latest change of each key, by freshet and by its peers: times, peak memory and ratios of one run.

`latest.py FOLDER FRESHET` runs everybody in turn, ROUNDS times over, each in a process of its own. The peers' time is that
of the query alone, freshet's that of the whole process, its start included. `latest.py FOLDER --alone NAME` is one peer.
"""

import os
import statistics
import subprocess
import sys
import time

ROUNDS = int(os.environ.get("FRESHET_ROUNDS", "5"))
THREADS = int(os.environ.get("FRESHET_THREADS", "2"))
COLUMNS = [
    "Op", "id", "user_id", "session_id", "game_code", "action_type", "bet_amount", "win_amount", "balance_after", "currency",
    "ip", "round_id", "memo", "is_bonus", "device", "level", "created_at", "updated_at", "is_test", "transact_id",
]  # fmt: skip
# Every column of every row is looked at, so that nobody leaves one undecoded; booleans have no greatest in all of them.
LOOKED_AT = ", ".join(f'max("{name}")' if name != "is_bonus" else 'count("is_bonus")' for name in COLUMNS)
WINDOW = "row_number() OVER (PARTITION BY id ORDER BY updated_at DESC) = 1"


def sql(rows):
    return f"SELECT count(*), {LOOKED_AT} FROM ({rows}) AS latest"


def scan(table):
    return sql(f"SELECT * FROM {table}")


def qualify(table):
    return sql(f"SELECT * FROM {table} QUALIFY {WINDOW}")


def joined(table):
    newest = f"SELECT id, max(updated_at) AS updated_at FROM {table} GROUP BY id"
    return sql(f"SELECT t.* FROM {table} AS t JOIN ({newest}) AS n ON t.id = n.id AND t.updated_at = n.updated_at")


def in_duckdb(query):
    def run(folder):
        import duckdb

        connection = duckdb.connect()
        connection.execute(f"SET threads = {THREADS}")
        begun = time.perf_counter()
        row = connection.execute(query(f"read_parquet('{folder}/casino/user_actions/*.parquet')")).fetchone()
        return row[0], time.perf_counter() - begun

    return run


def in_polars(folder):
    os.environ["POLARS_MAX_THREADS"] = str(THREADS)
    import polars

    begun = time.perf_counter()
    rows = polars.scan_parquet(f"{folder}/casino/user_actions/*.parquet")
    newest = rows.group_by("id").agg(polars.col("updated_at").max())
    latest = rows.join(newest, on=["id", "updated_at"], how="semi")
    looked_at = [polars.len()] + [
        polars.col(name).count().alias(name) if name == "is_bonus" else polars.col(name).max() for name in COLUMNS
    ]
    found = latest.select(looked_at).collect(engine="streaming")
    return found.item(0, 0), time.perf_counter() - begun


PEERS = {
    "duckdb: plain scan": in_duckdb(scan),
    "duckdb: QUALIFY": in_duckdb(qualify),
    "duckdb: aggregate, joined": in_duckdb(joined),
    "polars: aggregate, joined": in_polars,
}
TABLE = "casino.user_actions"
FRESHET = {
    "freshet: plain scan": scan(TABLE),
    "freshet: QUALIFY": qualify(TABLE),
    "freshet: QUALIFY, sorted": f"SET freshet.latest_per_key = false; {qualify(TABLE)}",
}


def measured(command):
    """Seconds, peak memory in MiB, and what the command printed."""
    begun = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    printed = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise SystemExit(f"{command} ended with {child.returncode}")
    return time.perf_counter() - begun, usage.ru_maxrss / 1024, printed


def one(name, folder, freshet):
    """The rows that were found, seconds and MiB."""
    if name in FRESHET:
        command = [freshet, "query", "--files", folder, "--format", "csv", FRESHET[name]]
        seconds, memory, printed = measured(command)
        return int(printed.splitlines()[-1].split(",")[0]), seconds, memory
    _, memory, printed = measured([sys.executable, __file__, folder, "--alone", name])
    rows, seconds = printed.split()
    return int(rows), float(seconds), memory


def everybody(folder, freshet):
    names = [*FRESHET, *PEERS]
    runs = {name: [] for name in names}
    for _ in range(ROUNDS):
        for name in names:
            runs[name].append(one(name, folder, freshet))
    all_rows = runs["freshet: plain scan"][0][0]
    found = {rows for name, each in runs.items() if "scan" not in name for rows, _, _ in each}
    if len(found) != 1:
        raise SystemExit(f"they do not agree how many keys there are: {found}")
    print(f"{'':28} {'rows':>10} {'seconds':>8} {'of':>15} {'M rows/s':>9} {'MiB':>7}")
    medians = {}
    for name, found in runs.items():
        rows, seconds = found[0][0], [seconds for _, seconds, _ in found]
        medians[name] = statistics.median(seconds)
        spread = f"{min(seconds):.2f}..{max(seconds):.2f}"
        memory = max(memory for _, _, memory in found)
        speed = all_rows / medians[name] / 1e6
        print(f"{name:28} {rows:>10} {medians[name]:>8.2f} {spread:>15} {speed:>9.2f} {memory:>7.0f}")
    ours = medians["freshet: QUALIFY"]
    for name, seconds in medians.items():
        if name != "freshet: QUALIFY":
            print(f"freshet: QUALIFY is {seconds / ours:.2f} times as fast as {name}")


if __name__ == "__main__":
    if sys.argv[2] == "--alone":
        rows, seconds = PEERS[sys.argv[3]](sys.argv[1])
        print(rows, seconds)
    else:
        everybody(sys.argv[1], sys.argv[2])
