#!/usr/bin/env python3
"""Reads a Delta Lake table from its folder, apart from any Delta library.

It parses `_delta_log` itself (JSON commits and Parquet checkpoints) and leaves only the Parquet files to
pyarrow. Rules: https://github.com/delta-io/delta/blob/master/PROTOCOL.md

    python tests/oracle/delta_reader.py TABLE_FOLDER     prints version, files and rows
"""

import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlparse

import pyarrow as pa
import pyarrow.parquet as pq

COMMIT = re.compile(r"^(\d{20})\.json$")
CHECKPOINT = re.compile(r"^(\d{20})\.checkpoint(?:\.(\d{10})\.(\d{10}))?\.parquet$")
READABLE_FEATURES = {"timestampNtz", "v2Checkpoint", "vacuumProtocolCheck", "typeWidening"}
PRIMITIVES = {
    "string": pa.string(), "long": pa.int64(), "integer": pa.int32(), "short": pa.int16(), "byte": pa.int8(),
    "float": pa.float32(), "double": pa.float64(), "boolean": pa.bool_(), "binary": pa.binary(), "date": pa.date32(),
    "timestamp": pa.timestamp("us", tz="UTC"), "timestamp_ntz": pa.timestamp("us"),
}


class DeltaError(Exception):
    """The folder breaks the Delta protocol, or uses a part of it that this reader does not know."""


@dataclass
class Snapshot:
    """The state of a table at its newest version."""

    folder: Path
    version: int = -1
    protocol: dict | None = None
    metadata: dict | None = None
    files: dict[str, dict] = field(default_factory=dict)
    transactions: dict[str, int] = field(default_factory=dict)

    def apply(self, action: dict):
        if action.get("protocol"):
            self.protocol = action["protocol"]
        if action.get("metaData"):
            self.metadata = action["metaData"]
        if action.get("txn"):
            self.transactions[action["txn"]["appId"]] = action["txn"]["version"]
        if action.get("remove"):
            self.files.pop(action["remove"]["path"], None)
        if action.get("add"):
            add = action["add"]
            if add.get("deletionVector"):
                raise DeltaError(f"{self.folder}: deletion vectors are not read here")
            self.files[add["path"]] = add
        if action.get("sidecar"):
            raise DeltaError(f"{self.folder}: checkpoint sidecars are not read here")

    def schema(self) -> pa.Schema:
        return pa.schema(struct_fields(json.loads(self.metadata["schemaString"])))


def snapshot(folder: Path) -> Snapshot:
    """Replays the log: the newest whole checkpoint, then every commit after it, which must have no gap."""
    log = folder / "_delta_log"
    if not log.is_dir():
        raise DeltaError(f"{folder} has no _delta_log")
    names = sorted(path.name for path in log.iterdir())
    state = Snapshot(folder)
    start, parts = newest_checkpoint(names)
    for part in parts:
        for action in pq.read_table(log / part).to_pylist():
            state.apply(dict_of_maps(action))
        state.version = start
    for name in names:
        match = COMMIT.match(name)
        if not match or int(match[1]) <= state.version:
            continue
        if int(match[1]) != state.version + 1:
            raise DeltaError(f"{folder}: version {state.version + 1} is missing from the log")
        state.version = int(match[1])
        for line in (log / name).read_text(encoding="utf-8").splitlines():
            if line.strip():
                state.apply(json.loads(line))
    check(state)
    return state


def newest_checkpoint(names: list[str]) -> tuple[int, list[str]]:
    """The version and the files of the newest checkpoint of which no part is missing."""
    found: dict[tuple[int, int], list[str]] = {}
    for name in names:
        if match := CHECKPOINT.match(name):
            found.setdefault((int(match[1]), int(match[3] or 1)), []).append(name)
    whole = [(version, parts) for (version, count), parts in found.items() if len(parts) == count]
    return max(whole, default=(-1, []))


def dict_of_maps(action: dict) -> dict:
    """Checkpoints keep maps as lists of pairs; commits keep them as JSON objects."""
    def fix(value):
        if isinstance(value, dict):
            return {name: fix(inner) for name, inner in value.items()}
        if isinstance(value, list) and value and all(isinstance(pair, tuple) and len(pair) == 2 for pair in value):
            return dict(value)
        return value
    return fix(action)


def check(state: Snapshot):
    if state.version < 0 or state.protocol is None or state.metadata is None:
        raise DeltaError(f"{state.folder}: no version, protocol or metadata in the log")
    unknown = set(state.protocol.get("readerFeatures") or []) - READABLE_FEATURES
    if unknown:
        raise DeltaError(f"{state.folder}: reader features {sorted(unknown)} are not known here")
    configuration = state.metadata.get("configuration") or {}
    if configuration.get("delta.columnMapping.mode", "none") != "none":
        raise DeltaError(f"{state.folder}: column mapping is not read here")


def struct_fields(struct: dict) -> list[pa.Field]:
    return [pa.field(inner["name"], arrow_type(inner["type"]), inner["nullable"]) for inner in struct["fields"]]


def arrow_type(text) -> pa.DataType:
    if isinstance(text, dict):
        if text["type"] == "array":
            return pa.list_(arrow_type(text["elementType"]))
        if text["type"] == "struct":
            return pa.struct(struct_fields(text))
        raise DeltaError(f"type {text['type']} is not known here")
    if match := re.match(r"^decimal\((\d+),\s*(\d+)\)$", text):
        return pa.decimal128(int(match[1]), int(match[2]))
    if text not in PRIMITIVES:
        raise DeltaError(f"type {text} is not known here")
    return PRIMITIVES[text]


def local_path(folder: Path, path: str) -> Path:
    """A log's path is percent-encoded; it is relative to the table or an absolute URL."""
    url = urlparse(path)
    if url.scheme == "file":
        return Path(unquote(url.path))
    if url.scheme:
        raise DeltaError(f"{folder}: file {path} is not in a folder")
    return folder / unquote(path)


def read_file(state: Snapshot, schema: pa.Schema, add: dict) -> pa.Table:
    """One data file in the table's schema: a column it lacks is NULL, a partition column is the log's value."""
    path = local_path(state.folder, add["path"])
    if not path.is_file():
        raise DeltaError(f"{state.folder}: the log names {add['path']}, which is missing")
    if path.stat().st_size != add["size"]:
        raise DeltaError(f"{path}: the log says {add['size']} bytes, the file has {path.stat().st_size}")
    table = pq.ParquetFile(path).read()
    check_stats(path, table, add.get("stats"))
    partition = add.get("partitionValues") or {}
    columns = []
    for wanted in schema:
        if wanted.name in partition:
            column = pa.array([partition[wanted.name]] * table.num_rows, pa.string()).cast(wanted.type)
        elif wanted.name in table.column_names:
            column = table.column(wanted.name).cast(wanted.type)
        else:
            column = pa.nulls(table.num_rows, wanted.type)
        columns.append(column)
    return pa.table(columns, schema=pa.schema([field.with_nullable(True) for field in schema]))


def check_stats(path: Path, table: pa.Table, stats: str | None):
    if stats and "numRecords" in (known := json.loads(stats)) and known["numRecords"] != table.num_rows:
        raise DeltaError(f"{path}: the log says {known['numRecords']} rows, the file has {table.num_rows}")


def read_table(folder: Path) -> pa.Table:
    """All rows of the table at its newest version, in no particular order."""
    state = snapshot(folder)
    schema = state.schema()
    tables = [read_file(state, schema, add) for add in state.files.values()]
    empty = pa.schema([field.with_nullable(True) for field in schema]).empty_table()
    return pa.concat_tables([empty, *tables])


def find_tables(root: Path) -> dict[str, Path]:
    """Every Delta table below `root`, by its path relative to it."""
    return {log.parent.relative_to(root).as_posix(): log.parent for log in sorted(root.rglob("_delta_log"))}


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    state = snapshot(Path(sys.argv[1]))
    rows = read_table(Path(sys.argv[1])).num_rows
    print(f"version {state.version}, {len(state.files)} files, {rows} rows, transactions {state.transactions}")


if __name__ == "__main__":
    main()
