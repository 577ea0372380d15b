#!/usr/bin/env python3
"""Makes tables that can be compared of rows as BigQuery's REST API gives them.

    python tests/oracle/rest_rows.py ROWS EXPECTED OUT

ROWS is a JSON file `{"<database>.<table>": {"columns": [...], "rows": [[text or null, ...], ...]}}`. What a text means is
told by the expected table's type of its column; a column that is not expected is left out.
"""

import base64
import datetime
import json
import sys
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.types as t

import expected


def reader(kind: pa.DataType):
    if t.is_integer(kind):
        return int
    if t.is_decimal(kind):
        return Decimal
    if t.is_floating(kind):
        return float
    if t.is_timestamp(kind):
        return datetime.datetime.fromisoformat
    if t.is_date(kind):
        return datetime.date.fromisoformat
    if t.is_binary(kind):
        return base64.b64decode
    if t.is_string(kind):
        return str
    raise TypeError(f"columns of type {kind} are not read here")


def table(wanted: pa.Table, columns: list[str], rows: list[list]) -> pa.Table:
    arrays = {}
    for field in wanted.schema:
        at, read = columns.index(field.name), reader(field.type)
        arrays[field.name] = pa.array([None if row[at] is None else read(row[at]) for row in rows], field.type)
    return pa.table(arrays)


def main() -> int:
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    found, folder = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2])
    entries = expected.entries(folder)
    tables = []
    for entry in entries:
        of = found[f"{entry['database']}.{entry['table']}"]
        tables.append(table(expected.table(folder, entry), of["columns"], of["rows"]))
    expected.write(Path(sys.argv[3]), entries, tables)
    return 0


if __name__ == "__main__":
    sys.exit(main())
