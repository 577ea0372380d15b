#!/usr/bin/env python3
"""Writes a random source database: change files, freshet.yaml, SQL, and the final tables that must come of them.

    python tests/oracle/generate_database.py SEED OUT [--without FEATURE,…]

The same seed gives the same bytes (with one version of pyarrow and zlib). Below OUT: `freshet.yaml`, `data/` (the
change files), `queries/`, `expected/` (for compare.py). freshet writes its tables to OUT/out/tables and its ledger to
OUT/out/ledger.
`--without` leaves out a feature or a style of names, to find what a failure hangs on.
"""

import argparse
import json
import shutil
from pathlib import Path
from random import Random

import expected
import layouts
import outputs
from source_names import STYLES, Names
from workload import FEATURES, Table, Workload, random_table

CONTROL_COLUMNS = ["Op", "AR_H_CHANGE_SEQ", "BI_*"]


class Database:
    """Everything a seed stands for."""

    def __init__(self, seed: int, without: set[str] = frozenset()):
        self.rng = Random(f"database {seed}")
        self.plans: list[outputs.Plan] = []
        self.layouts: dict[str, layouts.Layout] = {}
        names = Names(self.rng, without)
        databases, tables = set(), set()
        for _ in range(self.rng.choice([1, 1, 2])):
            database = names.draw(databases)
            self.layouts[database] = layouts.Layout(self.rng, without)
            for _ in range(self.rng.randint(1, 3)):
                table = random_table(self.rng, names, database, tables, without)
                self.plans.append(outputs.random_plan(self.rng, names, table))
                Workload(self.rng, table).run()

    def files(self, table: Table):
        """Path and columns of each of the table's files, the load first; AWS DMS writes no empty files."""
        layout = self.layouts[table.database]
        if "load" in table.features:
            count = table.load_files
            for n in range(min(count, len(table.load))):
                yield layout.load_path(table, n + 1), layouts.load_columns(table, table.load[n::count])
        for n, (time, changes) in enumerate(zip(table.times, table.files, strict=True)):
            if changes:
                yield layout.change_path(table, time), layouts.change_columns(table, n + 1, changes)

    def write(self, out: Path):
        for name in ("data", "queries", "expected", "out"):
            shutil.rmtree(out / name, ignore_errors=True)
        (out / "queries").mkdir(parents=True)
        for plan in self.plans:
            for path, columns in self.files(plan.table):
                write_bytes(out / "data" / path, layouts.encode(plan.table, columns, self.rng))
            if plan.sql is not None:
                folder = "_all" if "all_queries" in plan.table.features else plan.table.database
                write_bytes(out / "queries" / folder / f"{plan.table.name}.sql", plan.sql.encode())
        # YAML takes JSON as it is, and JSON quotes every name.
        text = json.dumps(self.configuration(), indent=2, ensure_ascii=False)
        write_bytes(out / "freshet.yaml", text.encode())
        entries = [expected_entry(plan) for plan in self.plans]
        expected.write(out / "expected", entries, [outputs.final_table(plan) for plan in self.plans])

    def configuration(self) -> dict:
        databases: dict[str, dict] = {}
        for plan in self.plans:
            databases.setdefault(plan.table.database, {"tables": []})["tables"].append(table_configuration(plan))
        return {
            "source": {"files": "data"}, "sink": {"delta": "out/tables"}, "ledger": "out/ledger",
            "queries": "queries", "databases": databases,
        }


def table_configuration(plan: outputs.Plan) -> dict:
    table = plan.table
    entry = {"name": table.name, "auto_schema": True}
    if "key_from_sql" not in table.features or "QUALIFY" not in (plan.sql or ""):
        entry["key"] = plan.key()
    overrides = {output.column.name: output.override for output in plan.outputs if output.override}
    if overrides:
        entry["schema_override"] = overrides
    if table.timestamp_column:
        entry["timestamp_column"] = table.timestamp_column
    if "exact" in table.features:
        entry["order"] = "exact"
    if "mark" in table.features:
        entry["on_delete"] = "mark"
    if plan.delete_when is not None:
        entry["delete_when"] = f"{outputs.quoted(plan.delete_when.name)} = '{outputs.GONE}'"
    if table.format.startswith("csv"):
        entry["csv"] = {"null": layouts.CSV_NULL}
        if table.is_headerless:
            entry["csv"] |= {"header": False, "columns": list(layouts.change_columns(table, 1, []))}
    return entry


def expected_entry(plan: outputs.Plan) -> dict:
    table = plan.table
    return {
        "database": table.database, "table": table.name, "key": plan.key(),
        "ignore": CONTROL_COLUMNS + ([table.timestamp_column] if table.timestamp_column else []),
        "on_delete": "mark" if "mark" in table.features else "remove",
    }


def write_bytes(path: Path, data: bytes):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def parse_features(text: str) -> set[str]:
    without = set(filter(None, text.split(",")))
    if unknown := without - FEATURES - set(STYLES):
        raise argparse.ArgumentTypeError(f"{sorted(unknown)} are none of {sorted(FEATURES | set(STYLES))}")
    return without


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seed", type=int)
    parser.add_argument("out", type=Path)
    parser.add_argument("--without", type=parse_features, default=set())
    options = parser.parse_args()
    database = Database(options.seed, options.without)
    database.write(options.out)
    for plan in database.plans:
        table, features = plan.table, ", ".join(sorted(plan.table.features))
        print(f"{table.database}.{table.name}: {table.format}, {len(table.rows)} rows, {features}")


if __name__ == "__main__":
    main()
