#!/usr/bin/env python3
"""Computes a generated database's final tables anew, from the files it wrote: a check of the generator itself.

    python tests/oracle/recompute.py FIRST_SEED LAST_SEED

Only the descriptions of columns and outputs are shared with the generator. Rows come from the files on disk, are
ordered by what the files say of their order, and their cells are read back from the forms they have there.
"""

import csv
import gzip
import io
import sys
import tempfile
from datetime import date, datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import compare
import expected
import generate_database
import layouts
import outputs
from workload import GONE, Table

BITS = {False: False, True: True, "b'0'": False, "b'1'": True, "0": False, "1": True, "\x00": False, "\x01": True,
        "\\x00": False, "\\x01": True, "false": False, "true": True, b"\x00": False, b"\x01": True}
PARSERS = {
    "INT64": int, "NUMERIC": Decimal, "FLOAT64": float, "STRING": str, "BOOL": lambda text: BITS[text],
    "DATE": date.fromisoformat, "DATETIME": datetime.fromisoformat,
    "TIMESTAMP": lambda text: datetime.fromisoformat(text).replace(tzinfo=timezone.utc),
}


def read_rows(path: Path, table: Table) -> list[dict]:
    """A file's rows as they stand in it; a CSV cell that says \\N is None."""
    data = gzip.decompress(path.read_bytes()) if table.format.endswith(".gz") else path.read_bytes()
    if table.format.startswith("parquet"):
        return pq.read_table(io.BytesIO(data)).to_pylist()
    lines = list(csv.reader(io.StringIO(data.decode(), newline="")))
    header = list(layouts.change_columns(table, 1, [])) if table.is_headerless else lines.pop(0)
    cells = [[None if cell == layouts.CSV_NULL else cell for cell in line] for line in lines]
    return [dict(zip(header, line, strict=True)) for line in cells]


def changes(table: Table, paths: list[Path]) -> list[dict]:
    """All rows of all files, oldest first: the load, then by the order that the files tell."""
    found = []
    for file, path in enumerate(paths):
        for number, row in enumerate(read_rows(path, table)):
            if path.name.startswith("LOAD"):
                place = (0,)
            elif "exact" in table.features:
                place = (1, row["AR_H_CHANGE_SEQ"])
            else:
                place = (1, row[table.timestamp_column] if table.timestamp_column else "", file, number)
            found.append((place, row))
    return [row for _, row in sorted(found, key=lambda pair: pair[0])]


def remaining_rows(table: Table, rows: list[dict]) -> list[dict]:
    """What is left when the changes are applied one by one."""
    names = [column.name for column in table.key]
    state: dict[tuple, dict] = {}
    for row in rows:
        key = tuple(row[name] for name in names)
        if row.get("Op") == "U" and any(row.get(f"BI_{name}") is not None for name in names):
            state.pop(tuple(row[f"BI_{name}"] for name in names), None)
        if row.get("Op") == "D":
            state.pop(key, None)
        else:
            state[key] = row
    return list(state.values())


def cell(table: Table, output: outputs.Output, found: Any) -> Any:
    """The final value of a cell as found in a file."""
    is_csv = table.format.startswith("csv")
    if found is None:
        return outputs.FALLBACK if output.change == "coalesce" else None
    if output.change == "bit":
        return BITS[found]
    if output.change == "bit_to_int":
        return int(found) if is_csv else sum(byte << 8 * n for n, byte in enumerate(reversed(found)))
    if output.change == "bigint":
        return int(found)
    if output.change == "text":
        return f"{found}"
    if output.override is not None and (is_csv or output.override == "BOOL"):
        return PARSERS[output.override](found)
    return found


def final_table(plan: outputs.Plan, paths: list[Path]) -> pa.Table:
    rows = remaining_rows(plan.table, changes(plan.table, paths))
    if plan.delete_when is not None:
        rows = [row for row in rows if row.get(plan.delete_when.column.name) != GONE]
    columns = {}
    for output in plan.outputs:
        values = [cell(plan.table, output, row.get(output.column.name)) for row in rows]
        columns[output.name] = pa.array(values, outputs.final_type(plan.table, output))
    return pa.table(columns)


def check(seed: int, folder: Path) -> compare.Differences:
    """Generates a database, computes it anew and compares."""
    database = generate_database.Database(seed)
    database.write(folder)
    tables = []
    for plan in database.plans:
        paths = [folder / "data" / path for path, _ in database.files(plan.table)]
        tables.append(final_table(plan, paths))
    expected.write(folder / "recomputed", expected.entries(folder / "expected"), tables)
    differences, _, _ = compare.compare(folder / "recomputed", folder / "expected")
    return differences


def main() -> int:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    failed = 0
    for seed in range(int(sys.argv[1]), int(sys.argv[2]) + 1):
        with tempfile.TemporaryDirectory() as folder:
            differences = check(seed, Path(folder))
        for text in differences.shown:
            print(f"seed {seed}: {text}")
        failed += bool(differences.count)
    print(f"{failed} seeds differ")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
