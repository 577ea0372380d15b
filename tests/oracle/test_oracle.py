"""The oracle's own tests: that what it computes twice agrees, and that compare.py fails where it must.

    python -m unittest discover -s tests/oracle
"""

import gzip
import json
import subprocess
import sys
import tempfile
import unittest
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

import compare
import delta_reader
import duckdb_oracle
import expected
import generate_database
import recompute

ROOT = Path(__file__).resolve().parents[2]
SEQUENCE = "/".join(["0" * 15 + "1"] * 4)
NOON = datetime(2023, 3, 15, 12, tzinfo=timezone.utc)
WANTED = {"id": [1, 2], "name": ["가", None], "amount": [Decimal("1.50"), Decimal("2.00")], "at": [NOON, None],
          "rate": [0.5, float("nan")], "raw": [b"\x00", b"a"], "flag": [True, None]}


class Folder(unittest.TestCase):
    """Each test has a folder of its own."""

    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)

    def commit(self, version: int, actions: list[dict], table: str = "db/t"):
        log = self.folder / "out" / table / "_delta_log"
        log.mkdir(parents=True, exist_ok=True)
        (log / f"{version:020}.json").write_text("\n".join(json.dumps(action) for action in actions))

    def add(self, name: str, rows: pa.Table, path: str | None = None, table: str = "db/t") -> dict:
        file = self.folder / "out" / table / name
        pq.write_table(rows, file)
        return {"add": {"path": path or name, "size": file.stat().st_size, "partitionValues": {},
                        "stats": json.dumps({"numRecords": rows.num_rows})}}


def create(*fields: tuple[str, str]) -> list[dict]:
    schema = {"type": "struct", "fields": [
        {"name": name, "type": kind, "nullable": True, "metadata": {}} for name, kind in fields]}
    return [{"protocol": {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": ["timestampNtz"]}},
            {"metaData": {"schemaString": json.dumps(schema), "partitionColumns": [], "configuration": {}}}]


class DeltaReader(Folder):
    """delta_reader.py, on logs written by hand."""

    def read(self) -> list[dict]:
        table = delta_reader.read_table(self.folder / "out/db/t")
        return sorted(table.to_pylist(), key=lambda row: row["id"])

    def test_removed_files_are_gone_and_paths_are_percent_decoded(self):
        self.commit(0, create(("id", "long"), ("x", "string")))
        one = self.add("a b%.parquet", pa.table({"id": [1], "x": ["one"]}), "a%20b%25.parquet")
        two = self.add("two.parquet", pa.table({"id": [2], "x": ["two"]}))
        self.commit(1, [one, two])
        self.assertEqual([row["id"] for row in self.read()], [1, 2])
        self.commit(2, [{"remove": {"path": "two.parquet"}}])
        self.assertEqual(self.read(), [{"id": 1, "x": "one"}])

    def test_a_file_is_read_in_the_tables_schema_and_lacking_columns_are_null(self):
        self.commit(0, create(("id", "long"), ("amount", "decimal(38,9)"), ("new", "string")))
        older = pa.table({"amount": pa.array([5], pa.int64()), "id": pa.array([1], pa.int32())})
        self.commit(1, [self.add("f", older)])
        self.assertEqual(self.read(), [{"id": 1, "amount": Decimal(5), "new": None}])

    def test_a_checkpoint_stands_for_the_commits_before_it(self):
        self.commit(0, create(("id", "long")))
        self.commit(1, [self.add("f", pa.table({"id": [1]}))])
        log = self.folder / "out/db/t/_delta_log"
        lines = [line for version in (0, 1) for line in (log / f"{version:020}.json").read_text().splitlines()]
        kept = {"protocol": ["readerFeatures"], "metaData": ["schemaString"], "add": ["path", "size"]}
        columns = {name: [] for name in kept}
        for action in map(json.loads, lines):
            for name, fields in kept.items():
                found = action.get(name)
                columns[name].append(found and {field: found[field] for field in fields})
        pq.write_table(pa.table(columns), log / f"{1:020}.checkpoint.parquet")
        for version in (0, 1):
            (log / f"{version:020}.json").unlink()
        self.commit(2, [self.add("g", pa.table({"id": [2]}))])
        self.assertEqual(self.read(), [{"id": 1}, {"id": 2}])

    def test_a_gap_a_missing_file_and_wrong_statistics_are_errors(self):
        self.commit(0, create(("id", "long")))
        add = self.add("f", pa.table({"id": [1]}))
        self.commit(2, [add])
        self.assertRaisesRegex(delta_reader.DeltaError, "version 1 is missing", self.read)
        wrong = json.loads(json.dumps(add))
        wrong["add"]["stats"] = '{"numRecords": 2}'
        self.commit(1, [wrong])
        (self.folder / f"out/db/t/_delta_log/{2:020}.json").unlink()
        self.assertRaisesRegex(delta_reader.DeltaError, "says 2 rows", self.read)
        (self.folder / "out/db/t/f").unlink()
        self.assertRaisesRegex(delta_reader.DeltaError, "is missing", self.read)

    def test_features_that_change_what_rows_there_are_are_refused(self):
        actions = create(("id", "long"))
        actions[0]["protocol"]["readerFeatures"] = ["deletionVectors"]
        self.commit(0, actions)
        self.assertRaisesRegex(delta_reader.DeltaError, "deletionVectors", self.read)


class Compare(Folder):
    """compare.py, on Delta tables that are equal and on ones that are not."""

    def setUp(self):
        super().setUp()
        schema = pa.schema([("id", pa.int64()), ("name", pa.string()), ("amount", pa.decimal128(15, 2)),
                            ("at", pa.timestamp("ms", "UTC")), ("rate", pa.float64()), ("raw", pa.binary()),
                            ("flag", pa.bool_())])
        entry = {"database": "db", "table": "t", "key": ["id"], "ignore": ["Op", "BI_*"]}
        expected.write(self.folder / "expected", [entry], [pa.table(WANTED, schema=schema)])

    def check(self, found: dict, *messages: str, fields: dict | None = None):
        """Compares with a Delta table of the given columns."""
        kinds = {"id": "long", "name": "string", "amount": "decimal(38,9)", "at": "timestamp", "rate": "double",
                 "raw": "binary", "flag": "boolean", "_cdc_sequence": "string"} | (fields or {})
        self.commit(0, create(*[(name, kinds.get(name, "string")) for name in found]))
        types = {"decimal(38,9)": pa.decimal128(38, 9), **delta_reader.PRIMITIVES}
        rows = pa.table({name: pa.array(values, types[kinds.get(name, "string")]) for name, values in found.items()})
        self.commit(1, [self.add("f", rows)])
        differences, _, _ = compare.compare(self.folder / "out", self.folder / "expected")
        self.assertEqual(differences.count, len(messages), differences.shown)
        for message, shown in zip(messages, differences.shown):
            self.assertIn(message, shown)

    def found(self, **changed) -> dict:
        return WANTED | {"_cdc_sequence": [SEQUENCE, SEQUENCE]} | changed

    def test_equal_values_in_other_types_and_ignored_columns_are_equal(self):
        self.check(self.found(Op=["I", "U"], BI_id=["1", "2"], _cdc_loaded_at=["x", "y"]))

    def test_every_kind_of_differing_cell_is_found(self):
        self.check(self.found(name=["가", ""]), "column 'name'")
        self.check(self.found(amount=[Decimal("1.500000001"), Decimal(2)]), "row 1, column 'amount'")
        self.check(self.found(at=[NOON.replace(microsecond=1), None]), "column 'at'")
        self.check(self.found(rate=[0.5, None]), "row 2, column 'rate'")
        self.check(self.found(raw=[b"\x00\x00", b"a"]), "column 'raw'")
        self.check(self.found(flag=[False, None]), "column 'flag'")

    def test_a_value_of_another_kind_differs_though_it_looks_alike(self):
        self.check(self.found(flag=[1, None]), "column 'flag'", fields={"flag": "long"})
        self.check(self.found(raw=["\x00", "a"]), "column 'raw'", "column 'raw'", fields={"raw": "string"})

    def test_missing_doubled_and_superfluous_rows_are_found(self):
        cut = {name: values[:1] for name, values in self.found().items()}
        self.check(cut, "row 2 is missing")
        doubled = {name: values + values[:1] for name, values in self.found().items()}
        self.check(doubled, "key 1 is there more than once")
        more = doubled | {"id": [1, 2, 3]}
        self.check(more, "row 3 should not be there")

    def test_missing_and_unexpected_columns_are_found(self):
        self.check({name: values for name, values in self.found().items() if name != "flag"}, "'flag' is missing")
        self.check(self.found(other=["a", "b"]), "'other' is not expected")

    def test_sequences_must_be_there_and_well_formed(self):
        self.check(dict(WANTED), "'_cdc_sequence' is missing")
        self.check(self.found(_cdc_sequence=[SEQUENCE, SEQUENCE[:-1]]), "row 1 has the _cdc_sequence")
        self.check(self.found(_cdc_sequence=[SEQUENCE, None]), "row 1 has the _cdc_sequence")

    def test_a_missing_and_an_unexpected_table_are_found(self):
        self.commit(0, create(("id", "long")), "db/other")
        self.commit(0, create(("id", "long")), "db/t_changes")
        differences, _, _ = compare.compare(self.folder / "out", self.folder / "expected")
        self.assertEqual(differences.count, 2, differences.shown)

    def test_a_table_is_found_by_its_name_however_its_folder_is_written(self):
        self.assertEqual(compare.decoded("50=25/한국=20이름=22x"), "50%/한국 이름\"x")
        self.assertEqual(compare.decoded("a/b_changes"), "a/b_changes")

    def test_rows_marked_as_deleted_count_as_gone(self):
        entries = expected.entries(self.folder / "expected")
        tables = [expected.table(self.folder / "expected", entry) for entry in entries]
        expected.write(self.folder / "expected", [entry | {"on_delete": "mark"} for entry in entries], tables)
        more = {name: values + values[:1] for name, values in self.found().items()} | {"id": [1, 2, 3]}
        self.check(more | {"_cdc_deleted": [False, None, True]}, fields={"_cdc_deleted": "boolean"})
        self.check(more | {"_cdc_deleted": [False, True, True]}, "row 2 is missing", fields={"_cdc_deleted": "boolean"})

    def test_the_command_prints_at_most_20_cells_and_exits_1(self):
        many = pa.table({"id": list(range(30)), "x": ["a"] * 30})
        entry = {"database": "db", "table": "t", "key": ["id"]}
        expected.write(self.folder / "one", [dict(entry)], [many])
        expected.write(self.folder / "two", [dict(entry)], [many.set_column(1, "x", [["b"] * 30])])
        command = [sys.executable, Path(compare.__file__), self.folder / "one", self.folder / "two"]
        result = subprocess.run(command, capture_output=True, text=True)
        self.assertEqual(result.returncode, 1)
        self.assertEqual(result.stdout.count("column 'x'"), 20)
        self.assertIn("and 10 more", result.stdout)
        result = subprocess.run([*command[:-1], self.folder / "one"], capture_output=True, text=True)
        self.assertEqual((result.returncode, result.stdout), (0, "tables equal: 1 tables, 30 rows\n"))


def inflated(folder: Path) -> dict[str, bytes]:
    """What is in the files, inflated: how gzip packs it depends on the machine's zlib."""
    return {str(path.relative_to(folder)): gzip.decompress(path.read_bytes()) for path in folder.rglob("*.gz")}


class Demo(Folder):
    """The demo's data and its two independent computations."""

    def generate(self):
        subprocess.run([sys.executable, ROOT / "demo/generate.py", "--out", self.folder / "data", "--expected",
                        self.folder / "model"], check=True)

    def differences(self, order: str) -> int:
        duckdb_oracle.run(ROOT / "demo/data", self.folder / "duckdb", order)
        return compare.compare(self.folder / "duckdb", self.folder / "model")[0].count

    def test_duckdb_and_the_generators_model_agree_cell_by_cell(self):
        self.generate()
        self.assertEqual(self.differences(duckdb_oracle.ORDER), 0)

    def test_the_demo_tells_a_wrong_order_of_changes_from_the_right_one(self):
        self.generate()
        by_file = "is_load, filename DESC, file_row_number DESC"
        by_time = "cdc_timestamp DESC, filename DESC, file_row_number DESC"
        rows_reversed = "is_load, cdc_timestamp DESC, filename DESC, file_row_number"
        for order in (by_file, by_time, rows_reversed):
            self.assertGreater(self.differences(order), 0, order)

    def test_the_committed_files_are_what_the_generator_writes(self):
        self.generate()
        self.assertEqual(inflated(self.folder / "data"), inflated(ROOT / "demo/data"))


class RandomDatabases(Folder):
    """generate_database.py against recompute.py."""

    def test_final_rows_recomputed_from_the_files_are_the_models(self):
        for seed in range(1, 21):
            differences = recompute.check(seed, self.folder)
            self.assertEqual(differences.count, 0, f"seed {seed}: {differences.shown}")

    def test_one_seed_gives_the_same_bytes_and_another_seed_other_ones(self):
        def content(seed: int, name: str) -> dict:
            generate_database.Database(seed).write(self.folder / name)
            files = [path for path in (self.folder / name).rglob("*") if path.is_file()]
            return {path.relative_to(self.folder / name): path.read_bytes() for path in files}
        self.assertEqual(content(7, "a"), content(7, "b"))
        self.assertNotEqual(content(7, "a"), content(8, "c"))

    def test_a_lost_file_is_noticed_by_some_table_of_some_seed(self):
        noticed = 0
        for seed in range(1, 6):
            database = generate_database.Database(seed)
            database.write(self.folder)
            tables = []
            for plan in database.plans:
                paths = [self.folder / "data" / path for path, _ in database.files(plan.table)]
                tables.append(recompute.final_table(plan, paths[:-1]))
            expected.write(self.folder / "less", expected.entries(self.folder / "expected"), tables)
            noticed += compare.compare(self.folder / "less", self.folder / "expected")[0].count > 0
        self.assertGreater(noticed, 3)


if __name__ == "__main__":
    unittest.main()
