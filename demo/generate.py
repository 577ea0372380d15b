#!/usr/bin/env python3
"""Writes the demo's change files into demo/data: a full load and six change files for each of five tables.

The same seed and pyarrow version give the same bytes (gzipped, the same zlib too). Needs only pyarrow.

    python demo/generate.py [--seed N] [--out DIR] [--expected DIR]

The files have the shape AWS DMS gives them, after a step that renames and gzips them:
cdc/<database>/<table>/LOAD00000001.parquet.gz and
cdc/<database>/<table>/<yyyy>/<mm>/<dd>/<yyyymmddhhmmss>_<table>.parquet.gz.
`--expected` also writes the final tables as this program's own model of the databases knows them.
"""

import argparse
import gzip
import io
import json
import shutil
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq

from tables import FILES, TABLES, Column, Table

HERE = Path(__file__).resolve().parent
TIMESTAMP_COLUMN = "cdc_timestamp"
# The times in the names of the change files; the changes of a file are committed in the minute before.
FILE_TIMES = [datetime(2023, 3, day, *clock, 22, tzinfo=timezone.utc) for day, *clock in [
    (15, 14, 0), (15, 14, 30), (15, 14, 31), (15, 15, 5), (15, 23, 59), (16, 0, 1), (16, 9, 15)]]
LATE_FILE = 5
LATE_CHANGES_OF = 2
LOAD_ROWS = 120


@dataclass
class Simulation:
    """One table while its workload runs: the rows as they stand, and what went into each file."""

    table: Table
    rng: Random
    rows: dict[tuple, dict] = field(default_factory=dict)
    files: list[list[tuple]] = field(default_factory=lambda: [[] for _ in range(FILES)])
    keys_made: int = 0

    def fresh_row(self, file: int, key: tuple | None = None) -> dict:
        if key is None:
            key = self.table.fresh_key(self.keys_made, self.rng)
            self.keys_made += 1
        row = dict(zip(self.table.key, key))
        for column in self.table.columns:
            if column.name not in row:
                row[column.name] = self.draw(column, file)
        return row

    def draw(self, column: Column, file: int):
        if file < column.since or self.rng.random() < column.nulls:
            return None
        return column.draw(self.rng)

    def key_of(self, row: dict) -> tuple:
        return tuple(row[name] for name in self.table.key)

    def load(self):
        for _ in range(LOAD_ROWS):
            row = self.fresh_row(0)
            self.rows[self.key_of(row)] = row
            # The load's own timestamp is when the row was carried over, later than the first changes.
            self.files[0].append((None, FILE_TIMES[1] + timedelta(seconds=40), row))

    def change(self, operation: str, file: int, time: datetime, key: tuple | None = None,
               written_in: int | None = None) -> tuple:
        """Applies one change and writes it to its file; returns the key."""
        if operation == "I":
            row = self.fresh_row(file, key)
        elif operation == "U":
            row = self.touched(self.rows[key], file)
        else:
            row = self.rows[key]
        key = self.key_of(row)
        if operation == "D":
            del self.rows[key]
        else:
            self.rows[key] = row
        self.files[file if written_in is None else written_in].append((operation, time, row))
        return key

    def touched(self, row: dict, file: int) -> dict:
        row = dict(row)
        free = [column for column in self.table.columns if column.name not in self.table.key]
        for column in self.rng.sample(free, self.rng.randint(1, 3)):
            row[column.name] = self.draw(column, file)
        return row

    def any_key(self) -> tuple:
        return self.rng.choice(list(self.rows))

    def random_transaction(self, file: int, time: datetime):
        for _ in range(self.rng.choice([1, 1, 1, 2, 3, 4])):
            operation = self.rng.choices("IUD", [30, 55, 15])[0]
            self.change(operation, file, time, None if operation == "I" else self.any_key())

    def story(self, file: int, times: list[datetime]):
        """What every table shows at least once, each transaction at its own time."""
        if file == 1:
            self.reborn = self.any_key()
            self.change("D", file, times[0], self.reborn)
        if file == 2:  # deleted in the file before, born again in this one
            self.change("I", file, times[0], self.reborn)
            key = self.change("I", file, times[1])
            self.change("U", file, times[1], key)
            self.change("U", file, times[1], key)
        if file == 3:  # born and dead, dead and reborn, each in one transaction
            key = self.change("I", file, times[0])
            self.change("U", file, times[0], key)
            self.change("D", file, times[0], key)
            key = self.any_key()
            self.change("D", file, times[1], key)
            self.change("I", file, times[1], key)

    def late_story(self, file: int, times: list[datetime]):
        """Changes that arrive in a file named later than the file with the changes that outdate them."""
        if file == LATE_CHANGES_OF:
            self.outdated = self.rng.sample(list(self.rows), 6)
            for key in self.outdated:
                self.change("U", file, times[2], key, written_in=LATE_FILE)
        if file == LATE_CHANGES_OF + 1:
            for n, key in enumerate(key for key in self.outdated if key in self.rows):
                self.change("D" if n == 0 else "U", file, times[2], key)

    def run(self):
        self.load()
        for file in range(1, FILES):
            count = self.rng.randint(14, 20)
            offsets = sorted(self.rng.sample(range(55_000_000), count))
            times = [FILE_TIMES[file] - timedelta(seconds=59) + timedelta(microseconds=offset) for offset in offsets]
            self.story(file, times)
            if self.table.has_late_file:
                self.late_story(file, times)
            for time in times[3:]:
                self.random_transaction(file, time)


def file_table(simulation: Simulation, file: int) -> pa.Table:
    """The rows of one file, in the shapes its columns have there."""
    changes = simulation.files[file]
    fields, arrays = [], []
    if file > 0:
        fields.append(pa.field("Op", pa.string()))
        arrays.append(pa.array([operation for operation, _, _ in changes], pa.string()))
    for column in simulation.table.columns:
        if column.since > file:
            continue
        form = column.form(file)
        values = [row[column.name] for _, _, row in changes]
        arrays.append(pa.array([None if value is None else form.write(value) for value in values], form.type))
        fields.append(pa.field(column.name, form.type))
    fields.append(pa.field(TIMESTAMP_COLUMN, pa.string(), nullable=False))
    arrays.append(pa.array([time.strftime("%Y-%m-%d %H:%M:%S.%f") for _, time, _ in changes], pa.string()))
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def gzipped_parquet(table: pa.Table) -> bytes:
    parquet, out = io.BytesIO(), io.BytesIO()
    pq.write_table(table, parquet, compression="snappy", store_schema=False)
    with gzip.GzipFile(filename="", mode="wb", fileobj=out, compresslevel=9, mtime=0) as file:
        file.write(parquet.getvalue())
    return out.getvalue()


def file_path(table: Table, file: int) -> Path:
    folder = Path("cdc", table.database, table.name)
    if file == 0:
        return folder / "LOAD00000001.parquet.gz"
    time = FILE_TIMES[file]
    return folder / time.strftime("%Y/%m/%d") / f"{time:%Y%m%d%H%M%S}_{table.name}.parquet.gz"


def write_expected(simulations: list[Simulation], out: Path):
    """The final tables, in the form that tests/oracle/compare.py reads."""
    out.mkdir(parents=True, exist_ok=True)
    entries = []
    for n, simulation in enumerate(simulations):
        table = simulation.table
        types = {column.name: column.out for column in table.columns}
        types |= {name: type_ for name, (type_, _) in table.computed.items()}
        rows = [row | {name: value(row) for name, (_, value) in table.computed.items()}
                for row in simulation.rows.values()]
        pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(list(types.items()))), out / f"{n}.parquet")
        entries.append({"database": table.database, "table": table.name, "key": table.key,
                        "ignore": ["Op", TIMESTAMP_COLUMN], "file": f"{n}.parquet"})
    (out / "expected.json").write_text(json.dumps({"tables": entries}, indent=1, ensure_ascii=False))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=20230315)
    parser.add_argument("--out", type=Path, default=HERE / "data")
    parser.add_argument("--expected", type=Path)
    options = parser.parse_args()
    shutil.rmtree(options.out / "cdc", ignore_errors=True)
    simulations = [Simulation(table, Random(f"{options.seed}/{table.name}")) for table in TABLES]
    for simulation in simulations:
        simulation.run()
        for file in range(FILES):
            path = options.out / file_path(simulation.table, file)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(gzipped_parquet(file_table(simulation, file)))
    if options.expected:
        write_expected(simulations, options.expected)


if __name__ == "__main__":
    main()
