#!/usr/bin/env python3
"""Computes the demo's final tables from its change files alone, with DuckDB and apart from freshet.

    python tests/oracle/duckdb_oracle.py demo/data OUT

OUT becomes a folder of expected tables for compare.py. The SQL here says anew what the demo's queries mean: load
rows first, then by commit time, file name and row; the latest change per key; deletes leave; BIT columns mended.
"""

import gzip
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa

import expected

MACROS = """
CREATE MACRO as_bit(x) AS CASE
    WHEN x IS NULL THEN NULL
    WHEN x IN ('1', 'true', 'b''1''', chr(1)) THEN true
    WHEN x IN ('0', 'false', 'b''0''', chr(0)) THEN false
    ELSE error('not a BIT: ' || x) END;
CREATE MACRO as_integer(bytes) AS CAST('0x' || hex(bytes) AS UBIGINT);
"""


@dataclass(frozen=True)
class DemoTable:
    """A table of the demo: its key, its output over the latest changes, and columns that change their type."""

    database: str
    name: str
    key: list[str]
    output: str
    as_text: tuple[str, ...] = ()


TABLES = [
    DemoTable("casino_db1", "user_actions", ["action_id"], """
        action_id, CAST(user_id AS BIGINT) AS user_id, action_type, make_timestamp(epoch_us(CAST("timestamp" AS
        TIMESTAMP))) AS "timestamp", as_bit(CAST(is_bonus AS VARCHAR)) AS is_bonus, details, device""",
              as_text=("timestamp",)),
    DemoTable("casino_db1", "game_sessions", ["sessionId"], """
        "sessionId", CAST(user_id AS BIGINT) AS user_id, "gameCode", nickname, started_at, ended_at, play_time,
        CAST(rounds AS BIGINT) AS rounds, bet_total, as_bit("isMobile") AS "isMobile",
        as_integer(feature_flags) AS feature_flags"""),
    DemoTable("casino_db1", "transactions", ["transaction_id"], """
        transaction_id, user_id, kind, amount, balance_after, currency, as_bit(is_settled) AS is_settled,
        CASE WHEN length(memo) > 0 THEN memo END AS memo, requested_at, settled_at""", as_text=("is_settled",)),
    DemoTable("casino_db2", "player_stats", ["player_id", "stat_date"], """
        player_id, stat_date, nickname, games_played, wins, total_bet, net_result, CAST(CASE WHEN games_played > 0
        THEN (CAST(wins AS BIGINT) * 100) // games_played END AS BIGINT) AS win_percent, best_multiplier,
        longest_session, as_bit(is_vip) AS is_vip, as_integer(badges) AS badges, vip_level""", as_text=("is_vip",)),
    DemoTable("casino_db2", "game_results", ["result_id"], "COLUMNS(c -> c NOT IN ('Op', 'cdc_timestamp', "
              "'is_load', 'filename', 'file_row_number'))"),
]


def inflate(table: DemoTable, data: Path, folder: Path) -> list[tuple[Path, bool]]:
    """Writes the table's files inflated into `folder`, keeping their names; the second tells a load file."""
    out = []
    for path in sorted((data / "cdc" / table.database / table.name).rglob("*.parquet.gz")):
        inflated = folder / path.name.removesuffix(".gz")
        inflated.write_bytes(gzip.decompress(path.read_bytes()))
        out.append((inflated, path.name.startswith("LOAD")))
    return out


def select_file(connection, table: DemoTable, path: Path, is_load: bool) -> str:
    """SQL for one file's rows, with columns that change their type as text."""
    quoted = str(path).replace("'", "''")
    source = f"read_parquet('{quoted}', filename = true, file_row_number = true)"
    names = [row[0] for row in connection.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()]
    replaced = [f'CAST("{name}" AS VARCHAR) AS "{name}"' for name in table.as_text if name in names]
    replace = f" REPLACE ({', '.join(replaced)})" if replaced else ""
    operation = "'I' AS \"Op\", " if is_load else ""
    return f"SELECT {operation}*{replace}, {is_load} AS is_load FROM {source}"


def final_table(connection, table: DemoTable, files: list[tuple[Path, bool]], order: str) -> pa.Table:
    """The rows that remain: the latest change of every key, unless it is a delete."""
    union = " UNION ALL BY NAME ".join(select_file(connection, table, path, is_load) for path, is_load in files)
    key = ", ".join(f'"{name}"' for name in table.key)
    return connection.execute(f"""
        WITH changes AS ({union}),
        latest AS (SELECT * FROM changes QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY {order}) = 1)
        SELECT {table.output} FROM latest WHERE "Op" <> 'D'""").to_arrow_table()


ORDER = "is_load, cdc_timestamp DESC, filename DESC, file_row_number DESC"


def run(data: Path, out: Path, order: str = ORDER):
    """Computes every table and writes them as expected tables."""
    entries, tables = [], []
    for table in TABLES:
        connection = duckdb.connect()
        connection.execute(MACROS)
        with tempfile.TemporaryDirectory() as folder:
            tables.append(final_table(connection, table, inflate(table, data, Path(folder)), order))
        entries.append({"database": table.database, "table": table.name, "key": table.key,
                        "ignore": ["Op", "cdc_timestamp"]})
    expected.write(out, entries, tables)


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    run(Path(sys.argv[1]), Path(sys.argv[2]))


if __name__ == "__main__":
    main()
