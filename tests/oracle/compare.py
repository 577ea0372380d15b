#!/usr/bin/env python3
"""Compares final tables with the expected ones, cell by cell.

    python tests/oracle/compare.py OUT EXPECTED

OUT is the folder of a Delta sink, or another folder of expected tables; EXPECTED a folder with expected.json.
Prints what differs, at most 20 cells, and exits 1; or prints how much was found equal and exits 0.

Values are compared, not how they are stored: integers and decimals as exact numbers, times as µs, floats for
equality (NaN equals NaN), text and bytes as they are, NULL only to NULL. A boolean is no number, text is no bytes.
"""

import re
import sys
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.types as t

import delta_reader
import expected

DIFFERENCES_SHOWN = 20
SEQUENCE = re.compile(r"^[0-9a-f]{16}(/[0-9a-f]{16}){3}$")
FREED_OF_SUFFIX = re.compile(r"_(changes|tombstones)$")


def plain_values(column: pa.ChunkedArray) -> list:
    """The column as hashable values that are equal where the cells are."""
    kind = column.type
    if t.is_timestamp(kind):
        return tagged("time", column.cast(pa.timestamp("us", tz=kind.tz)).cast(pa.int64()))
    if t.is_date(kind):
        return tagged("date", column.cast(pa.date32()).cast(pa.int32()))
    if t.is_time(kind):
        return tagged("time of day", column.cast(pa.time64("us")).cast(pa.int64()))
    if t.is_boolean(kind):
        return tagged("boolean", column)
    if t.is_integer(kind) or t.is_decimal(kind):
        return [None if cell is None else ("number", Decimal(cell)) for cell in column.to_pylist()]
    if t.is_floating(kind):
        cells = ["NaN" if cell != cell else cell for cell in column.to_pylist()]
        return [None if cell is None else ("float", cell) for cell in cells]
    if t.is_string(kind) or t.is_large_string(kind):
        return tagged("text", column)
    if t.is_binary(kind) or t.is_large_binary(kind) or t.is_fixed_size_binary(kind):
        return tagged("bytes", column)
    if t.is_null(kind):
        return [None] * len(column)
    raise TypeError(f"columns of type {kind} are not compared here")


def tagged(tag: str, column) -> list:
    return [None if cell is None else (tag, cell) for cell in column.to_pylist()]


def decoded(path: str) -> str:
    """A table's name from its folder, where freshet writes bytes that are no letters as `=` and two hex digits."""
    return re.sub(rb"=([0-9A-F]{2})", lambda match: bytes.fromhex(match[1].decode()), path.encode()).decode()


class Differences:
    """Counts differences and keeps the first few."""

    def __init__(self):
        self.count = 0
        self.shown = []

    def add(self, text: str):
        self.count += 1
        if len(self.shown) < DIFFERENCES_SHOWN:
            self.shown.append(text)


def rows_by_key(table: pa.Table, key: list[str], place: str, differences: Differences) -> dict[tuple, int]:
    """Row numbers by key; a key that is there twice is a difference."""
    rows = {}
    for row, cells in enumerate(zip(*(plain_values(table.column(name)) for name in key), strict=True)):
        if cells in rows:
            differences.add(f"{place}: key {show(cells)} is there more than once")
        rows[cells] = row
    return rows


def show(cells: tuple) -> str:
    def one(cell) -> str:
        return "NULL" if cell is None else str(cell[1]) if cell[0] == "number" else repr(cell[1])
    return ", ".join(map(one, cells))


def check_columns(found: pa.Table, wanted: pa.Table, entry: dict, place: str, differences: Differences) -> list[str]:
    """Reports missing, doubled and unexpected columns; returns those that both sides have."""
    for name in found.column_names:
        if found.column_names.count(name) > 1:
            differences.add(f"{place}: column {name!r} is there more than once")
        if name not in wanted.column_names and not name.startswith("_cdc_") and not expected.is_ignored(entry, name):
            differences.add(f"{place}: column {name!r} is not expected")
    for name in wanted.column_names:
        if name not in found.column_names:
            differences.add(f"{place}: column {name!r} is missing")
    return [name for name in wanted.column_names if found.column_names.count(name) == 1]


def check_sequences(found: pa.Table, place: str, differences: Differences):
    if "_cdc_sequence" not in found.column_names:
        differences.add(f"{place}: column '_cdc_sequence' is missing")
        return
    for row, value in enumerate(found.column("_cdc_sequence").to_pylist()):
        if not isinstance(value, str) or not SEQUENCE.match(value):
            differences.add(f"{place}: row {row} has the _cdc_sequence {value!r}, not four sections of 16 hex digits")


def live_rows(found: pa.Table, entry: dict) -> pa.Table:
    """Without the rows that `on_delete: mark` keeps."""
    if entry.get("on_delete") != "mark" or "_cdc_deleted" not in found.column_names:
        return found
    deleted = found.column("_cdc_deleted").to_pylist()
    return found.filter(pa.array([flag is not True for flag in deleted], pa.bool_()))


def compare_tables(found: pa.Table, wanted: pa.Table, entry: dict, differences: Differences):
    """Compares one table's rows, matched by key."""
    place = expected.path(entry)
    found = live_rows(found, entry)
    names = check_columns(found, wanted, entry, place, differences)
    if missing := set(entry["key"]) - set(names):
        differences.add(f"{place}: not compared, for want of the key columns {sorted(missing)}")
        return
    found_rows = rows_by_key(found, entry["key"], place, differences)
    wanted_rows = rows_by_key(wanted, entry["key"], f"{place} (expected)", differences)
    for key in wanted_rows.keys() - found_rows.keys():
        differences.add(f"{place}: row {show(key)} is missing")
    for key in found_rows.keys() - wanted_rows.keys():
        differences.add(f"{place}: row {show(key)} should not be there")
    both = sorted(wanted_rows.keys() & found_rows.keys(), key=repr)
    for name in names:
        ours, theirs = plain_values(found.column(name)), plain_values(wanted.column(name))
        for key in both:
            if ours[found_rows[key]] != theirs[wanted_rows[key]]:
                differences.add(f"{place}: row {show(key)}, column {name!r}: found {ours[found_rows[key]]}, "
                                f"expected {theirs[wanted_rows[key]]}")


def compare(out: Path, folder: Path) -> tuple[Differences, int, int]:
    """Compares every expected table; returns the differences and how many tables and rows were expected."""
    differences, rows = Differences(), 0
    is_delta = not (out / "expected.json").exists()
    wanted_entries = expected.entries(folder)
    places = {} if is_delta else {expected.path(entry): entry for entry in expected.entries(out)}
    if is_delta:
        places = {decoded(path): folder for path, folder in delta_reader.find_tables(out).items()}
    for entry in wanted_entries:
        wanted, place = expected.table(folder, entry), places.get(expected.path(entry))
        rows += wanted.num_rows
        if place is None:
            if wanted.num_rows:
                differences.add(f"{expected.path(entry)}: the table is missing, {wanted.num_rows} rows are expected")
            continue
        found = delta_reader.read_table(place) if is_delta else expected.table(out, place)
        if is_delta:
            check_sequences(found, expected.path(entry), differences)
        compare_tables(found, wanted, entry, differences)
    known = {expected.path(entry) for entry in wanted_entries}
    for place in sorted(places):
        if place not in known and FREED_OF_SUFFIX.sub("", place) not in known:
            differences.add(f"{place}: the table is not expected")
    return differences, len(wanted_entries), rows


def main() -> int:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    differences, tables, rows = compare(Path(sys.argv[1]), Path(sys.argv[2]))
    if not differences.count:
        print(f"tables equal: {tables} tables, {rows} rows")
        return 0
    for text in differences.shown:
        print(text)
    if differences.count > len(differences.shown):
        print(f"… and {differences.count - len(differences.shown)} more")
    print(f"tables differ: {differences.count} differences in {tables} tables, {rows} rows expected")
    return 1


if __name__ == "__main__":
    sys.exit(main())
